"""MovieLens-1M and MovieLens-100K in GroupLens' own raw form.

References:
    F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4),
    2015. Both sets are for research use; redistribution needs GroupLens' permission.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pandas as pd

from .base import Adapter
from .download import Download
from .raw import RawFile, RawFolder
from .text import clean_text

_TERMS = "for research, not to be passed on without GroupLens' permission"

# The codes are spelled out: a profile or an embedding can do nothing with "occupation 4".
ML1M_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
ML1M_OCCUPATIONS = {
    "0": "other or not specified",
    "1": "academic/educator",
    "2": "artist",
    "3": "clerical/admin",
    "4": "college/grad student",
    "5": "customer service",
    "6": "doctor/health care",
    "7": "executive/managerial",
    "8": "farmer",
    "9": "homemaker",
    "10": "K-12 student",
    "11": "lawyer",
    "12": "programmer",
    "13": "retired",
    "14": "sales/marketing",
    "15": "scientist",
    "16": "self-employed",
    "17": "technician/engineer",
    "18": "tradesman/craftsman",
    "19": "unemployed",
    "20": "writer",
}
# Order of the 19 flags of u.item (u.genre).
ML100K_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def split_title(titles: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Split ``Toy Story (1995)`` into title and year.

    Args:
        titles: Titles as in the raw files.

    Returns:
        Titles without the year, safe for an atomic file, and years as text; an empty year where
        the title ends in none.
    """
    parts = titles.str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\))?\s*$")
    title = parts["title"].where(parts["title"].fillna("") != "", titles)
    return clean_text(title), parts["year"].fillna("")


def _interactions(raw: RawFolder, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Ratings as they are; numbers stay the text of the raw file, so they are exact."""
    types = ("token", "token", "float", "float")
    names = {c: f"{c}:{t}" for c, t in zip(_RATING_COLUMNS, types)}
    for chunk in raw.chunks(name):
        yield "inter", chunk.rename(columns=names)


class MovieLens1M(Adapter):
    """MovieLens-1M: ``ratings.dat``, ``users.dat``, ``movies.dat``."""

    name: ClassVar[str] = "ml-1m"
    folders: ClassVar[tuple[str, ...]] = ("movielens-1m", "ml-1m")
    source: ClassVar[str] = "https://grouplens.org/datasets/movielens/1m/"
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "md5:c4d9eecfca2ab87c1945afe126590906",
            archive=True,
        ),
    )
    terms: ClassVar[str] = _TERMS
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name="ratings.dat",
            columns=_RATING_COLUMNS,
            separator="::",
            numeric=("rating", "timestamp"),
            required=_RATING_COLUMNS,
            rows=1_000_209,
            sha256="506d64ca44484487c11dc2d9a28de5c54948213e6b96285e298afe28d6ea4e0f",
            encoding="ISO-8859-1",
        ),
        RawFile(
            name="users.dat",
            columns=("user_id", "gender", "age", "occupation", "zip_code"),
            separator="::",
            required=("user_id", "gender", "age", "occupation", "zip_code"),
            rows=6_040,
            sha256="1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
            encoding="ISO-8859-1",
        ),
        RawFile(
            name="movies.dat",
            columns=("item_id", "title", "genres"),
            separator="::",
            required=("item_id", "title", "genres"),
            rows=3_883,
            sha256="0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
            encoding="ISO-8859-1",
        ),
    )
    expected: ClassVar[dict[str, int]] = {
        "interactions": 1_000_209,
        "users": 6_040,
        "items": 3_706,
        "user_rows": 6_040,
        "item_rows": 3_883,
    }

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        yield from _interactions(raw, "ratings.dat")
        for users in raw.chunks("users.dat"):
            yield (
                "user",
                pd.DataFrame(
                    {
                        "user_id:token": users["user_id"],
                        # A code outside the official list is kept as it is.
                        "age:token": users["age"].map(ML1M_AGES).fillna(users["age"]),
                        "gender:token": users["gender"],
                        "occupation:token": users["occupation"]
                        .map(ML1M_OCCUPATIONS)
                        .fillna(users["occupation"]),
                        "zip_code:token": clean_text(users["zip_code"]),
                    }
                ),
            )
        for movies in raw.chunks("movies.dat"):
            title, year = split_title(movies["title"])
            genre = clean_text(movies["genres"].str.replace("|", " ", regex=False))
            yield (
                "item",
                pd.DataFrame(
                    {
                        "item_id:token": movies["item_id"],
                        "movie_title:token_seq": title,
                        "release_year:token": year,
                        "genre:token_seq": genre,
                    }
                ),
            )


class MovieLens100K(Adapter):
    """MovieLens-100K: ``u.data``, ``u.user``, ``u.item``.

    RecBole's package carries this set as atomic files; this adapter is for the raw files. Field
    names are RecBole's (``class`` for the genres), so the same YAML serves both.
    """

    name: ClassVar[str] = "ml-100k"
    folders: ClassVar[tuple[str, ...]] = ("movielens-100k", "ml-100k")
    source: ClassVar[str] = "https://grouplens.org/datasets/movielens/100k/"
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            "md5:0e33842e24a9c977be4e0107933c0723",
            archive=True,
        ),
    )
    terms: ClassVar[str] = _TERMS
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name="u.data",
            columns=_RATING_COLUMNS,
            separator="\t",
            numeric=("rating", "timestamp"),
            required=_RATING_COLUMNS,
            rows=100_000,
            encoding="ISO-8859-1",
        ),
        RawFile(
            name="u.user",
            columns=("user_id", "age", "gender", "occupation", "zip_code"),
            separator="|",
            required=("user_id", "age", "gender", "occupation", "zip_code"),
            rows=943,
            encoding="ISO-8859-1",
        ),
        RawFile(
            name="u.item",
            columns=("item_id", "title", "release_date", "video_date", "url", *ML100K_GENRES),
            separator="|",
            # One film is called "unknown" and has no date and no address.
            required=("item_id", "title", *ML100K_GENRES),
            numeric=ML100K_GENRES,
            rows=1_682,
            encoding="ISO-8859-1",
        ),
    )
    expected: ClassVar[dict[str, int]] = {
        "interactions": 100_000,
        "users": 943,
        "items": 1_682,
        "user_rows": 943,
        "item_rows": 1_682,
    }

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        yield from _interactions(raw, "u.data")
        for users in raw.chunks("u.user"):
            yield (
                "user",
                pd.DataFrame(
                    {
                        "user_id:token": users["user_id"],
                        "age:token": users["age"],
                        "gender:token": users["gender"],
                        "occupation:token": clean_text(users["occupation"]),
                        "zip_code:token": clean_text(users["zip_code"]),
                    }
                ),
            )
        for items in raw.chunks("u.item"):
            title, year = split_title(items["title"])
            # "01-Jan-1995": a second source where the title ends in no year.
            dated = items["release_date"].str.extract(r"(\d{4})$")[0].fillna("")
            genre = pd.Series("", index=items.index)
            for name in ML100K_GENRES:
                genre = genre + (items[name] == "1").map({True: name + " ", False: ""})
            yield (
                "item",
                pd.DataFrame(
                    {
                        "item_id:token": items["item_id"],
                        "movie_title:token_seq": title,
                        "release_year:token": year.where(year != "", dated),
                        "class:token_seq": genre.str.strip(),
                    }
                ),
            )
