"""Ali-CCP: items that Taobao's recommender showed, clicked or not, bought or not.

Format-tested: written from the published format and tested on small files in exactly that form;
the official files were not at hand.

References:
    X. Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click
    Conversion Rate", SIGIR 2018; https://tianchi.aliyun.com/dataset/408.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError

from .base import Adapter
from .complete_journey_raw import whole
from .raw import RawFile, RawFolder
from .user_share import check_share, first_of_items, in_share

#: Between features, between a feature's field and its id, and before its value.
_FEATURE, _ID, _VALUE = "\x01", "\x02", "\x03"
_USER_FIELD = "101"
#: Fields of users, as the official description numbers and explains them.
_USER_FIELDS = {
    "121": "profile_group",
    "122": "profile_group_2",
    "124": "gender",
    "125": "age",
    "126": "consumption_level",
    "127": "consumption_level_2",
    "128": "working",
    "129": "geography",
}
_ITEM_FIELD = "205"
_ITEM_FIELDS = {"206": "category", "207": "shop", "216": "brand"}
_CONTEXT_FIELD = "301"
_PARTS = ("train", "test")


def feature(features: pd.Series, field: str) -> pd.Series:
    """Id of a field in lists of features; empty where a list lacks it, the first of several.

    Args:
        features: ``field <02> id <03> value`` with ``<01>`` between.
        field: Its number, such as ``205``.
    """
    pattern = f"(?:^|{_FEATURE}){field}{_ID}([^{_FEATURE}{_ID}{_VALUE}]*)"
    return features.str.extract(pattern, expand=False).fillna("")


def _files(part: str, rows: int) -> tuple[RawFile, RawFile]:
    return (
        RawFile(
            name=f"sample_skeleton_{part}.csv",
            columns=("sample", "click", "conversion", "view", "size", "features"),
            numeric=("click", "conversion"),
            required=("click", "conversion", "view", "features"),
            rows=rows,
        ),
        RawFile(
            name=f"common_features_{part}.csv",
            columns=("view", "size", "features"),
            required=("view", "features"),
        ),
    )


class AliCCP(Adapter):
    """Shown items; label: clicked, or bought after the click.

    The set has **no time**: it is known only that all of test is after all of train. Time is the
    place in the files, train first; all rows of one page view (they share a common feature index)
    have the place of its first row, so that none is in another's history. Within train and within
    test the order of the files stands in for time, for want of anything else: histories there may
    look ahead.

    Options: ``label`` (``click``, or ``conversion`` of clicked rows), ``user_share``, ``seed``.
    Fields that sum up what a user did before (109_14, 110_14, 127_14, 150_14, 508, 509, 702, 853)
    are left out: until when they count is not documented.
    """

    name: ClassVar[str] = "ali-ccp"
    folders: ClassVar[tuple[str, ...]] = ("ali-ccp", "Ali-CCP", "aliccp")
    source: ClassVar[str] = (
        "https://tianchi.aliyun.com/dataset/408 (sample_train.tar.gz, sample_test.tar.gz, unpacked)"
    )
    files: ClassVar[tuple[RawFile, ...]] = (
        *_files("train", 42_300_135),
        *_files("test", 43_016_840),
    )
    #: A fiftieth of the users is about 1.7 million rows.
    options: ClassVar[Mapping[str, Any]] = {"label": "click", "user_share": 0.02, "seed": 2017}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        check_share(self.name, self.chosen["user_share"])
        if self.chosen["label"] not in ("click", "conversion"):
            raise DataError(
                f"{self.name}: option 'label': expected click or conversion, got"
                f" '{self.chosen['label']}'"
            )

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        self.facts |= dict.fromkeys(("conversions_without_click", "rows_without_item"), 0)
        users: pd.DataFrame | None = None
        items: pd.DataFrame | None = None
        place = 0
        for part in _PARTS:
            views, seen = self._views(raw, part)
            users = seen if users is None else pd.concat([users, seen], ignore_index=True)
            users = users.drop_duplicates("user_id:token", ignore_index=True)
            first = pd.Series(np.nan, index=views.index)  # place of each view's first row
            for chunk in raw.chunks(f"sample_skeleton_{part}.csv"):
                chunk["place"] = np.arange(place, place + len(chunk), dtype=np.float64)
                place += len(chunk)
                rows = chunk[chunk["view"].isin(views.index)]
                earliest = rows.groupby("view", sort=False)["place"].first()
                first = first.fillna(earliest)
                table, about = self._rows(rows, views, first)
                items = first_of_items(items, about)
                yield "inter", table
        if users is not None:
            yield "user", users
        if items is not None:
            yield "item", items.rename(columns={"item": "item_id:token"})

    def _views(self, raw: RawFolder, part: str) -> tuple[pd.Series, pd.DataFrame]:
        """User of each page view of the chosen users, and their attributes."""
        views, seen = [], []
        share, seed = self.chosen["user_share"], self.chosen["seed"]
        name = f"common_features_{part}.csv"
        for chunk in raw.chunks(name):
            user = feature(chunk["features"], _USER_FIELD)
            if (user == "").any():
                bad = chunk["view"][user == ""].iloc[0]
                raise DataError(
                    f"{raw.path}/{name}: expected field {_USER_FIELD} (user) in every row, '{bad}'"
                    " has none"
                )
            mine = in_share(whole(user), share, seed)
            chunk, user = chunk[mine], user[mine]
            views.append(pd.Series(user.to_numpy(object), index=chunk["view"].to_numpy(object)))
            new = ~user.duplicated()
            cells = {
                f"{column}:token": feature(chunk["features"][new], field)
                for field, column in _USER_FIELDS.items()
            }
            seen.append(pd.DataFrame({"user_id:token": user[new], **cells}))
        found = pd.concat(views)
        if found.index.has_duplicates:
            double = found.index[found.index.duplicated()][0]
            raise DataError(f"{raw.path}/{name}: expected one row per index, '{double}' has more")
        return found, pd.concat(seen, ignore_index=True)

    def _rows(
        self, rows: pd.DataFrame, views: pd.Series, first: pd.Series
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Interactions of a chunk, and its items."""
        click, bought = rows["click"].astype(float) > 0, rows["conversion"].astype(float) > 0
        impossible = bought & ~click
        item = feature(rows["features"], _ITEM_FIELD)
        nameless = item == ""
        self.facts["conversions_without_click"] += int(impossible.sum())
        self.facts["rows_without_item"] += int(nameless.sum())
        good = ~impossible & ~nameless
        if self.chosen["label"] == "conversion":
            good &= click
        rows, item = rows[good], item[good]
        label = click[good] if self.chosen["label"] == "click" else bought[good]
        table = pd.DataFrame(
            {
                "user_id:token": rows["view"].map(views),
                "item_id:token": item,
                "label:float": label.astype(int),
                "timestamp:float": rows["view"].map(first).astype(np.int64),
                "position:token": feature(rows["features"], _CONTEXT_FIELD),
            }
        )
        cells = {f"{n}:token": feature(rows["features"], f) for f, n in _ITEM_FIELDS.items()}
        return table, pd.DataFrame({"item": item, **cells})
