"""Ali_Display_Ad_Click: display ads of Taobao, shown and clicked or not.

Format-tested: written from the published format and tested on small files in exactly that form;
the official files were not at hand.

References:
    Alimama, Ad Display/Click Data on Taobao.com, https://tianchi.aliyun.com/dataset/56.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pandas as pd

from .base import Adapter
from .complete_journey_raw import whole
from .raw import RawFile, RawFolder
from .text import clean_text
from .user_share import blank_rows, check_share, in_share

_NULL = "NULL"
_PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)


class TaobaoAd(Adapter):
    """Eight days of display ads that were shown to users; label: clicked.

    The log of what users did in the shop (``behavior_log.csv``, 723 million rows) is not read.
    """

    name: ClassVar[str] = "taobao-ad"
    folders: ClassVar[tuple[str, ...]] = ("taobao-ad", "Ali_Display_Ad_Click", "TaobaoAd")
    source: ClassVar[str] = "https://tianchi.aliyun.com/dataset/56"
    files: ClassVar[tuple[RawFile, ...]] = (
        RawFile(
            name="raw_sample.csv",
            columns=("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk"),
            numeric=("user", "time_stamp", "adgroup_id", "clk"),
            required=("user", "time_stamp", "adgroup_id", "clk"),
            rows=26_557_961,
            header=True,
        ),
        RawFile(
            name="ad_feature.csv",
            columns=("adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price"),
            numeric=("adgroup_id",),
            required=("adgroup_id",),
            rows=846_811,
            header=True,
        ),
        RawFile(
            name="user_profile.csv",
            columns=("userid", *_PROFILE),
            numeric=("userid",),
            required=("userid",),
            rows=1_061_768,
            header=True,
        ),
    )
    #: user_share: RecBole loads a twentieth of the users, 1.3 million rows, in well under a minute.
    options: ClassVar[Mapping[str, Any]] = {"user_share": 0.05, "seed": 2017}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        check_share(self.name, self.chosen["user_share"])

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        users: set[str] = set()
        ads: set[str] = set()
        share, seed = self.chosen["user_share"], self.chosen["seed"]
        for chunk in raw.chunks("raw_sample.csv"):
            rows = chunk[in_share(whole(chunk["user"]), share, seed)]
            users.update(rows["user"].unique())
            ads.update(rows["adgroup_id"].unique())
            yield (
                "inter",
                pd.DataFrame(
                    {
                        "user_id:token": rows["user"],
                        "item_id:token": rows["adgroup_id"],
                        "label:float": rows["clk"],
                        "timestamp:float": rows["time_stamp"],
                        "pid:token": clean_text(rows["pid"]),
                    }
                ),
            )
        yield from self._users(raw, users)
        yield from self._ads(raw, ads)

    def _users(self, raw: RawFolder, users: set[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        """Profiles of users in the log; some have none."""
        for chunk in raw.chunks("user_profile.csv"):
            rows = chunk[chunk["userid"].isin(users)]
            users -= set(rows["userid"])
            cells = {f"{name}:token": clean_text(rows[name]) for name in _PROFILE}
            yield "user", pd.DataFrame({"user_id:token": rows["userid"], **cells})
        self.facts["users_without_profile"] = len(users)
        yield "user", blank_rows("user", users, tuple(f"{name}:token" for name in _PROFILE))

    def _ads(self, raw: RawFolder, ads: set[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        columns = {
            "cate_id": "category:token",
            "campaign_id": "campaign_id:token",
            "customer": "customer:token",
            "brand": "brand:token",
            "price": "price:float",
        }
        for chunk in raw.chunks("ad_feature.csv"):
            rows = chunk[chunk["adgroup_id"].isin(ads)].replace(_NULL, "")
            ads -= set(rows["adgroup_id"])
            yield "item", rows.rename(columns={"adgroup_id": "item_id:token", **columns})
        self.facts["ads_without_features"] = len(ads)
        yield "item", blank_rows("item", ads, tuple(columns.values()))
