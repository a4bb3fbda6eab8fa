"""What users of Taobao and Tmall did: clicks and purchases, without what else was shown.

Format-tested: written from the published formats and tested on small files in exactly that form;
the official files were not at hand.

References:
    User Behavior Data from Taobao, https://tianchi.aliyun.com/dataset/649 (H. Zhu et al., "Learning
    Tree-based Deep Model for Recommender Systems", KDD 2018); Repeat Buyers Prediction of IJCAI-15,
    https://tianchi.aliyun.com/dataset/42.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError, nearest

from .complete_journey_raw import whole
from .positives import OPTIONS, PositiveOnly, Positives
from .raw import RawFile, RawFolder
from .user_share import blank_rows, check_share, first_of_items, in_share


class _ActionLog(PositiveOnly):
    """A log of actions: one kind is the positive, negatives are drawn.

    Options besides those of :class:`PositiveOnly`: ``positive``, the kind of action, and
    ``user_share``, the share of the users that is read. Popularity and catalogue are those of that
    share. A user's first action on an item is the positive: later ones are told by the history.
    """

    #: Name of an action -> its code in the log.
    actions: ClassVar[Mapping[str, str]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        check_share(self.name, self.chosen["user_share"])
        wanted = self.chosen["positive"]
        if wanted not in self.actions:
            raise DataError(
                f"{self.name}: option 'positive': expected one of {', '.join(self.actions)}, got"
                f" '{wanted}'{nearest(wanted, self.actions)}"
            )

    @abstractmethod
    def _rows_of(self, chunk: pd.DataFrame, where: str) -> pd.DataFrame:
        """Columns user, item, action (its code), time (float64) and what describes the item."""

    def positives(self, raw: RawFolder) -> Positives:
        file = self.files[0].name
        code = self.actions[self.chosen["positive"]]
        share, seed = self.chosen["user_share"], self.chosen["seed"]
        items: pd.DataFrame | None = None
        kept, counts = [], dict.fromkeys(self.actions, 0)
        outside = 0
        for chunk in raw.chunks(file):
            mine = chunk[in_share(whole(chunk[self.files[0].columns[0]]), share, seed)]
            rows = self._rows_of(mine.reset_index(drop=True), f"{raw.path}/{file}")
            unknown = ~rows["action"].isin(set(self.actions.values()))
            if unknown.any():
                raise DataError(
                    f"{raw.path}/{file}: expected actions {', '.join(self.actions.values())}, got"
                    f" '{rows['action'][unknown].iloc[0]}'"
                )
            inside = np.isfinite(rows["time"])
            outside += int((~inside).sum())
            rows = rows[inside]
            for name, value in self.actions.items():
                counts[name] += int((rows["action"] == value).sum())
            items = first_of_items(items, rows.drop(columns=["user", "action", "time"]))
            kept.append(rows.loc[rows["action"] == code, ["user", "item", "time"]])
        found = pd.concat(kept, ignore_index=True)
        if items is None or found.empty:
            raise DataError(
                f"{raw.path}/{file}: no '{self.chosen['positive']}' of {share:g} of the users, "
                "expected some; raise user_share"
            )
        # The order of the file does not matter, nor which of two equal times stands first.
        found = found.sort_values(["time", "user", "item"], kind="stable")
        again = found.duplicated(["user", "item"])
        self.facts |= {
            "actions": counts,
            "positives_of_one_item_again": int(again.sum()),
            "rows_outside_of_the_period": outside,
        }
        found = found[~again].reset_index(drop=True)
        self._items, self._users = items.sort_values("item"), set(found["user"])
        return Positives(
            user_id=found["user"].to_numpy(object),
            item_id=found["item"].to_numpy(object),
            time=found["time"].to_numpy(np.float64),
            context=pd.DataFrame(index=found.index),
            catalogue=self._items["item"].to_numpy(object),
        )

    def negatives(self) -> dict[str, Any] | None:
        facts = super().negatives() or {}
        return {**facts, "user_share": self.chosen["user_share"]}

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        rows = self._items.rename(columns={"item": "item_id:token"})
        yield "item", rows.rename(columns=lambda c: c if ":" in c else f"{c}:token")


class TaobaoUserBehavior(_ActionLog):
    """Page views, purchases, carts and favourites of nine days."""

    name: ClassVar[str] = "taobao-user-behavior"
    folders: ClassVar[tuple[str, ...]] = ("taobao-user-behavior", "UserBehavior", "taobao")
    source: ClassVar[str] = "https://tianchi.aliyun.com/dataset/649 (UserBehavior.csv)"
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name="UserBehavior.csv",
            columns=("user", "item", "category", "action", "timestamp"),
            numeric=("user", "item", "timestamp"),
            required=("user", "item", "action", "timestamp"),
            rows=100_150_807,
        ),
    )
    actions: ClassVar[Mapping[str, str]] = {
        "view": "pv",
        "buy": "buy",
        "cart": "cart",
        "favourite": "fav",
    }
    #: Views of a five-hundredth of the users: a million rows with their negatives.
    options: ClassVar[Mapping[str, Any]] = {**OPTIONS, "positive": "view", "user_share": 0.002}
    #: 25 November 2017, 0 h, to 3 December, 24 h, in China: some rows bear other stamps.
    period: ClassVar[tuple[float, float]] = (1_511_539_200.0, 1_512_316_800.0)

    def _rows_of(self, chunk: pd.DataFrame, where: str) -> pd.DataFrame:
        time = chunk["timestamp"].astype(float)
        first, end = self.period
        time = time.where((time >= first) & (time < end))
        return chunk[["user", "item", "category", "action"]].assign(time=time)


class Tmall(_ActionLog):
    """Half a year of clicks, carts, purchases and favourites, by day.

    Only the day is known, so all rows of a user's day share their time, 0 h of that day.
    """

    name: ClassVar[str] = "tmall-ijcai15"
    folders: ClassVar[tuple[str, ...]] = ("tmall-ijcai15", "data_format1", "tmall")
    source: ClassVar[str] = "https://tianchi.aliyun.com/dataset/42 (data_format1)"
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name="user_log_format1.csv",
            columns=("user", "item", "category", "seller", "brand", "day", "action"),
            numeric=("user", "item", "day", "action"),
            required=("user", "item", "day", "action"),
            rows=54_925_330,
            header=True,
        ),
        RawFile(
            name="user_info_format1.csv",
            columns=("user", "age_range", "gender"),
            numeric=("user",),
            required=("user",),
            rows=424_170,
            header=True,
        ),
    )
    actions: ClassVar[Mapping[str, str]] = {"view": "0", "cart": "1", "buy": "2", "favourite": "3"}
    #: Purchases of a tenth of the users: two million rows with their negatives.
    options: ClassVar[Mapping[str, Any]] = {**OPTIONS, "positive": "buy", "user_share": 0.1}

    def _rows_of(self, chunk: pd.DataFrame, where: str) -> pd.DataFrame:
        # 1111 is the 11th of November 2014; days before October lack a zero in some editions.
        days = pd.to_datetime(
            "2014" + chunk["day"].str.zfill(4), format="%Y%m%d", errors="coerce", utc=True
        )
        if days.isna().any():
            got = chunk["day"][days.isna()].iloc[0]
            raise DataError(f"{where}: expected month and day such as 1111, got '{got}'")
        time = np.asarray(days.dt.as_unit("s").astype("int64"), dtype=np.float64)
        columns = ["user", "item", "category", "seller", "brand", "action"]
        return chunk[columns].assign(time=time)

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        yield from super().sides(raw)
        users = set(self._users)
        for chunk in raw.chunks("user_info_format1.csv"):
            rows = chunk[chunk["user"].isin(users)]
            users -= set(rows["user"])
            yield (
                "user",
                pd.DataFrame(
                    {
                        "user_id:token": rows["user"],
                        # 0 and 2 are the official codes of "unknown".
                        "age_range:token": rows["age_range"].replace({"0": "", "NULL": ""}),
                        "gender:token": rows["gender"].replace({"2": "", "NULL": ""}),
                    }
                ),
            )
        yield "user", blank_rows("user", users, ("age_range:token", "gender:token"))
