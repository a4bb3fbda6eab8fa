"""Yelp review sequences (5-core, 2019) with business names and categories.

References:
    Yelp Open Dataset (academic use, no redistribution), in the preprocessing of S. Geng et al.,
    "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict
    Paradigm (P5)", RecSys 2022.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError

from .negatives import Ints
from .positives import (
    LAST_TRAINED_PLACE,
    OPTIONS,
    PositiveOnly,
    Positives,
    places_from_end,
)
from .raw import RawFile, RawFolder
from .text import clean_text

#: Between the categories of a business; their names hold blanks and commas.
CATEGORY_SEPARATOR = "|"


def read_json(raw: RawFolder, name: str) -> dict[str, Any]:
    """Read a JSON object; its keys are the rows of the file's report."""
    try:
        content = json.loads(raw.text(name))
    except json.JSONDecodeError as err:
        raise DataError(f"{raw.path}/{name}: expected JSON, {err}; get the file again") from err
    if not isinstance(content, dict):
        raise DataError(f"{raw.path}/{name}: expected an object, got {type(content).__name__}")
    raw.reports[name].rows = len(content)
    return content


def read_sequences(
    raw: RawFolder, name: str
) -> tuple[NDArray[np.object_], NDArray[np.object_], Ints]:
    """Read lines of a user and that user's items in the order of time.

    Args:
        raw: The raw files.
        name: File with one column, ``sequence``.

    Returns:
        User and item of each event as text, and the lengths of the sequences.
    """
    lines = pd.concat([c["sequence"] for c in raw.chunks(name)], ignore_index=True)
    size = np.asarray(lines.str.count(r"\S+"), dtype=np.int64) - 1
    if (size < 1).any():
        raise DataError(
            f"{raw.path}/{name}: expected a user and items on every line, got"
            f" '{lines[size < 1].iloc[0]}'"
        )
    words = lines.str.split().explode(ignore_index=True).astype(str).to_numpy(object)
    first = np.zeros(len(words), dtype=bool)
    first[np.cumsum(size + 1) - (size + 1)] = True
    users = words[first]
    if len(set(users)) < len(users):
        raise DataError(f"{raw.path}/{name}: expected one line per user")
    return np.repeat(users, size), words[~first], size


class Yelp(PositiveOnly):
    """Visits of users to businesses, with sampled negatives; only the order within a user is known.

    Time is the place in the sequence, counted from the user's last visit (0) backwards.
    """

    name: ClassVar[str] = "yelp"
    folders: ClassVar[tuple[str, ...]] = ("yelp-5core-text", "yelp")
    source: ClassVar[str] = (
        "https://business.yelp.com/data/resources/open-dataset/ in the preprocessing of P5"
        " (https://github.com/jeykigung/P5)"
    )
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name="sequential_data.txt",
            columns=("sequence",),
            separator="\t",
            required=("sequence",),
            rows=30_431,
        ),
        RawFile(name="Yelp.item.json", columns=("title", "description"), rows=20_033),
    )
    trained_until: ClassVar[float | None] = LAST_TRAINED_PLACE
    #: As for every positive-only set; thin_items, thin_keep: see the thinned variant.
    options: ClassVar[Mapping[str, Any]] = {**OPTIONS, "thin_items": 0.0, "thin_keep": 1.0}
    expected: ClassVar[Mapping[str, int]] = {
        "users": 30_431,
        "item_rows": 20_033,
        "items": 20_033,
    }

    def positives(self, raw: RawFolder) -> Positives:
        users, items, size = read_sequences(raw, "sequential_data.txt")
        self._businesses = read_json(raw, "Yelp.item.json")
        # Items count from 1 in the sequences and from 0 in this file.
        catalogue = [str(int(key) + 1) for key in self._businesses]
        unknown = set(items) - set(catalogue)
        if unknown:
            raise DataError(
                f"{raw.path}/sequential_data.txt: expected items 1 to {len(catalogue)} (keys of"
                f" Yelp.item.json plus 1), got '{min(unknown)}'"
            )
        time = places_from_end(size)
        self.facts["visits"] = len(time)
        return Positives(
            user_id=users,
            item_id=items,
            time=time,
            context=pd.DataFrame(index=range(len(time))),
            catalogue=np.array(catalogue, dtype=object),
        )

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        table = pd.DataFrame.from_dict(self._businesses, orient="index")
        ids = pd.Series([str(int(key) + 1) for key in self._businesses])
        categories = clean_text(table["description"].fillna("").reset_index(drop=True))
        listed = categories.str.replace(r"\s*,\s*", CATEGORY_SEPARATOR, regex=True)
        yield (
            "item",
            pd.DataFrame(
                {
                    "item_id:token": ids,
                    "title:token_seq": clean_text(table["title"].fillna("").reset_index(drop=True)),
                    "categories:token_seq": listed,
                }
            ),
        )


class YelpThinned(Yelp):
    """The same with half of the items thinned to 20 % of their rows before validation and test.

    Rows are thinned after sampling, positives and negatives alike, so that an item's rate of
    positives stays and only what is known of it shrinks.
    """

    name: ClassVar[str] = "yelp-thinned"
    options: ClassVar[Mapping[str, Any]] = {**Yelp.options, "thin_items": 0.5, "thin_keep": 0.2}
