"""Amazon Reviews 2023: ratings of one category with the items' own texts.

Format-tested: written from the published format and tested on small files in exactly that form;
the official files were not at hand.

References:
    Y. Hou et al., "Bridging Language and Items for Retrieval and Recommendation", 2024.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError

from .base import Adapter
from .download import Download
from .raw import RawFile, RawFolder
from .text import clean_text

_SITE = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
#: Between the categories of an item; their names hold blanks and commas.
CATEGORY_SEPARATOR = "|"


def _lines(name: str, rows: int) -> RawFile:
    # One JSON object a line: a single column; the separator never occurs in JSON.
    return RawFile(name=name, columns=("json",), separator="\x1e", required=("json",), rows=rows)


def _objects(raw: RawFolder, name: str) -> Iterator[list[dict[str, Any]]]:
    for chunk in raw.chunks(name):
        try:
            yield [json.loads(line) for line in chunk["json"]]
        except json.JSONDecodeError as err:
            raise DataError(f"{raw.path}/{name}: expected a JSON object a line: {err}") from err


def _required(objects: list[dict[str, Any]], name: str, where: str) -> pd.Series:
    values = _field(objects, name)
    if values.isna().any():
        raise DataError(f"{where}: expected '{name}' in every object, one has none")
    return values


def _field(objects: list[dict[str, Any]], name: str) -> pd.Series:
    return pd.Series([o.get(name) for o in objects], dtype=object)


class Amazon2023AllBeauty(Adapter):
    """Reviews of All_Beauty; ``rating`` is a column, so that the YAML's threshold makes the label.

    An item is a ``parent_asin``. Average rating, number of ratings and price are of the day the
    data were collected, after every review: they make no field.
    """

    name: ClassVar[str] = "amazon-2023-all-beauty"
    folders: ClassVar[tuple[str, ...]] = ("amazon-2023-all-beauty", "amazon-reviews-2023")
    source: ClassVar[str] = (
        "https://amazon-reviews-2023.github.io/ (All_Beauty.jsonl, meta_All_Beauty.jsonl)"
    )
    #: No checksums are published; the row counts below are checked.
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(f"{_SITE}/review_categories/All_Beauty.jsonl.gz"),
        Download(f"{_SITE}/meta_categories/meta_All_Beauty.jsonl.gz"),
    )
    terms: ClassVar[str] = "as its makers say there"
    files: ClassVar[tuple[RawFile, ...]] = (
        _lines("All_Beauty.jsonl", 701_528),
        _lines("meta_All_Beauty.jsonl", 112_590),
    )

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        reviews, meta = (f.name for f in self.files)
        for objects in _objects(raw, reviews):
            where = f"{raw.path}/{reviews}"
            time = _required(objects, "timestamp", where).astype("int64")
            yield (
                "inter",
                pd.DataFrame(
                    {
                        "user_id:token": _required(objects, "user_id", where).astype(str),
                        "item_id:token": _required(objects, "parent_asin", where).astype(str),
                        "rating:float": _required(objects, "rating", where).astype(float),
                        "timestamp:float": np.asarray(time, dtype=np.int64) / 1000.0,
                    }
                ),
            )
        for objects in _objects(raw, meta):
            where = f"{raw.path}/{meta}"
            paths = [CATEGORY_SEPARATOR.join(o.get("categories") or []) for o in objects]
            yield (
                "item",
                pd.DataFrame(
                    {
                        "item_id:token": _required(objects, "parent_asin", where).astype(str),
                        "title:token_seq": clean_text(
                            _field(objects, "title").fillna("").astype(str)
                        ),
                        "store:token": clean_text(_field(objects, "store").fillna("").astype(str)),
                        "category:token": clean_text(
                            _field(objects, "main_category").fillna("").astype(str)
                        ),
                        "categories:token_seq": clean_text(pd.Series(paths, dtype=object)),
                    }
                ),
            )
