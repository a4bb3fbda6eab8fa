"""Ta-Feng grocery purchases.

References:
    Ta-Feng supermarket, Taiwan; released by C. N. Hsu and colleagues, Academia Sinica, through the
    ACM RecSys wiki; the one-file edition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from recbole_choir.errors import DataError

from .positives import OPTIONS, PositiveOnly, Positives
from .raw import RawFile, RawFolder
from .text import clean_text

_FILE = "ta_feng_all_months_merged.csv"


class TaFeng(PositiveOnly):
    """Purchases of customers by day, with sampled negatives.

    Only the day is known, so all rows of a customer's day share their time, 0 h of that day.
    """

    name: ClassVar[str] = "ta-feng"
    folders: ClassVar[tuple[str, ...]] = ("ta-feng", "tafeng")
    source: ClassVar[str] = (
        "https://www.kaggle.com/datasets/chiranjivdas09/ta-feng-grocery-dataset"
        " (ta_feng_all_months_merged.csv)"
    )
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name=_FILE,
            columns=(
                "date",
                "user_id",
                "age_group",
                "pin_code",
                "subclass",
                "item_id",
                "amount",
                "asset",
                "sales_price",
            ),
            numeric=("amount", "sales_price"),
            required=("date", "user_id", "subclass", "item_id"),
            rows=817_741,
            encoding="utf-8-sig",
            header=True,
            quoted=True,
        ),
    )
    #: As for every positive-only set. Half of the customers, so that RecBole loads them in a
    #: minute: max_rows=0 takes all, 4.8 million rows.
    options: ClassVar[Mapping[str, Any]] = {**OPTIONS, "max_rows": 2_500_000}
    expected: ClassVar[Mapping[str, int]] = {"user_rows": 32_266, "item_rows": 23_812}

    def positives(self, raw: RawFolder) -> Positives:
        rows = pd.concat(list(raw.chunks(_FILE)), ignore_index=True)
        days = pd.to_datetime(rows["date"], format="%m/%d/%Y", errors="coerce", utc=True)
        if days.isna().any():
            got = rows["date"][days.isna()].iloc[0]
            raise DataError(f"{raw.path}/{_FILE}: expected a date such as 11/1/2000, got '{got}'")
        rows["time"] = np.asarray(days.dt.as_unit("s").astype("int64"), dtype=np.float64)
        rows = rows.sort_values(["time", "user_id", "item_id", "amount", "sales_price"])
        again = rows.duplicated(["time", "user_id", "item_id"])
        self.facts["purchases_of_one_product_again_in_a_day"] = int(again.sum())
        self._purchases = rows = rows[~again].reset_index(drop=True)
        return Positives(
            user_id=rows["user_id"].to_numpy(object),
            item_id=rows["item_id"].to_numpy(object),
            time=rows["time"].to_numpy(np.float64),
            context=pd.DataFrame(index=rows.index),
            catalogue=rows["item_id"].unique().astype(object),
        )

    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        users = self._purchases.drop_duplicates("user_id").sort_values("user_id")
        yield (
            "user",
            pd.DataFrame(
                {
                    "user_id:token": users["user_id"],
                    "age_group:token": clean_text(users["age_group"]),
                    # "Unknown" is a gap, not an area.
                    "pin_code:token": clean_text(users["pin_code"].replace("Unknown", "")),
                }
            ),
        )
        items = self._purchases.drop_duplicates("item_id").sort_values("item_id")
        amount = items["amount"].astype(float)
        price = (items["sales_price"].astype(float) / amount.where(amount > 0)).round(2)
        yield (
            "item",
            pd.DataFrame(
                {
                    "item_id:token": items["item_id"],
                    "subclass:token": items["subclass"],
                    # Of its first sale: nothing later may describe an item.
                    "first_price:float": price,
                }
            ),
        )
