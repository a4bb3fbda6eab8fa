"""The Complete Journey's coupons: sent to a household with a campaign, redeemed or not.

Every coupon of a campaign is a row for every household that the campaign was sent to. For Type A
campaigns a household got only some of the coupons, so the exposures are an upper bound.

A row's time is the last day of its campaign. Campaigns overlap, and whether a coupon is redeemed is
known only when its campaign is over: at its first day it would stand in the history of rows that
are older than the answer. What was known on the first day, the household's earlier purchases of
the coupon's products, is in the context fields.

References:
    dunnhumby, "The Complete Journey", in the edition of the R package ``completejourney``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recbole_choir.errors import DataError

from .base import Adapter
from .complete_journey import SOURCE, household_attributes
from .complete_journey_raw import (
    DEMOGRAPHICS,
    PRODUCTS,
    TRANSACTIONS,
    Purchases,
    read_purchases,
    whole,
)
from .raw import RawFile, RawFolder
from .text import clean_text

CAMPAIGNS = RawFile(
    name="campaigns.csv",
    columns=("campaign_id", "household_id"),
    numeric=("campaign_id", "household_id"),
    required=("campaign_id", "household_id"),
    rows=6_589,
    header=True,
    quoted=True,
)
DESCRIPTIONS = RawFile(
    name="campaign_descriptions.csv",
    columns=("campaign_id", "campaign_type", "start_date", "end_date"),
    numeric=("campaign_id",),
    required=("campaign_id", "campaign_type", "start_date", "end_date"),
    rows=27,
    header=True,
    quoted=True,
)
COUPONS = RawFile(
    name="coupons.csv",
    columns=("coupon_upc", "product_id", "campaign_id"),
    numeric=("coupon_upc", "product_id", "campaign_id"),
    required=("coupon_upc", "product_id", "campaign_id"),
    rows=116_204,
    header=True,
    quoted=True,
)
REDEMPTIONS = RawFile(
    name="coupon_redemptions.csv",
    columns=("household_id", "coupon_upc", "campaign_id", "redemption_date"),
    numeric=("household_id", "coupon_upc", "campaign_id"),
    required=("household_id", "coupon_upc", "campaign_id", "redemption_date"),
    rows=2_102,
    header=True,
    quoted=True,
)
#: Product types named in a coupon's text, the most frequent first.
_NAMED_TYPES = 8


class CompleteJourneyCoupons(Adapter):
    """Coupons sent to households with a campaign; label: redeemed."""

    name: ClassVar[str] = "complete-journey-coupons"
    folders: ClassVar[tuple[str, ...]] = ("complete-journey", "completejourney")
    source: ClassVar[str] = SOURCE
    files: ClassVar[tuple[RawFile, ...]] = (
        CAMPAIGNS,
        DESCRIPTIONS,
        COUPONS,
        REDEMPTIONS,
        TRANSACTIONS,
        PRODUCTS,
        DEMOGRAPHICS,
    )
    expected: ClassVar[Mapping[str, int]] = {
        "interactions": 800_199,
        "users": 1_559,
        "user_rows": 2_469,
        "items": 981,
        "item_rows": 981,
    }

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        links = _numbers(raw, COUPONS).drop_duplicates()
        sent = _numbers(raw, CAMPAIGNS).drop_duplicates()
        redeemed = _numbers(raw, REDEMPTIONS).drop_duplicates()
        about = pd.concat(list(raw.chunks(DESCRIPTIONS.name)), ignore_index=True)
        about["campaign_id"] = whole(about["campaign_id"])
        about["start"] = _seconds(raw, about["start_date"])
        about["end"] = _seconds(raw, about["end_date"])
        unknown = (set(sent["campaign_id"]) | set(links["campaign_id"])) - set(about["campaign_id"])
        if unknown:
            raise DataError(
                f"{raw.path}/{DESCRIPTIONS.name}: expected every campaign, got none for"
                f" {min(unknown)}"
            )
        bought = read_purchases(raw)
        listed = pd.concat(list(raw.chunks(PRODUCTS.name)), ignore_index=True)
        yield "user", household_attributes(raw, np.unique(bought.household))
        yield "item", _coupon_table(links, listed)
        found = 0
        for campaign in about.sort_values(["end", "campaign_id"]).itertuples(index=False):
            rows = self._rows(campaign, links, sent, redeemed, bought)
            found += int(rows["label:float"].sum())
            yield "inter", rows
        self.facts["redeemed"] = found
        self.facts["redeemed_but_not_sent"] = len(redeemed) - found

    @staticmethod
    def _rows(
        campaign: Any,
        links: pd.DataFrame,
        sent: pd.DataFrame,
        redeemed: pd.DataFrame,
        bought: Purchases,
    ) -> pd.DataFrame:
        """All coupons of one campaign for all its households, by household and coupon."""
        mine = links[links["campaign_id"] == campaign.campaign_id]
        coupons = np.unique(mine["coupon_upc"])
        homes = np.unique(sent.loc[sent["campaign_id"] == campaign.campaign_id, "household_id"])
        taken = redeemed[redeemed["campaign_id"] == campaign.campaign_id]
        label = np.zeros((len(homes), len(coupons)), dtype=np.int64)
        known = taken["household_id"].isin(homes) & taken["coupon_upc"].isin(coupons)
        taken = taken[known]
        label[
            np.searchsorted(homes, taken["household_id"]),
            np.searchsorted(coupons, taken["coupon_upc"]),
        ] = 1
        before, all_before = purchases_before(bought, campaign.start, homes, mine, coupons)
        shape = label.shape
        return pd.DataFrame(
            {
                "user_id:token": np.repeat(homes.astype(str).astype(object), shape[1]),
                "item_id:token": np.tile(coupons.astype(str).astype(object), shape[0]),
                "label:float": label.ravel(),
                "timestamp:float": int(campaign.end),
                "campaign_id:token": str(campaign.campaign_id),
                "campaign_type:token": str(campaign.campaign_type),
                "log_bought_before:float": np.log1p(before).round(4).ravel(),
                "log_purchases_before:float": np.repeat(np.log1p(all_before).round(4), shape[1]),
            }
        )


def purchases_before(
    bought: Purchases,
    start: float,
    homes: NDArray[np.int64],
    links: pd.DataFrame,
    coupons: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count what households bought before a time.

    Args:
        bought: All purchases.
        start: Purchases strictly before it are counted.
        homes: ``[H]`` households, ascending.
        links: Which products each coupon is for.
        coupons: ``[C]`` coupons, ascending.

    Returns:
        Purchases of each coupon's products ``[H, C]``, and of anything ``[H]``.
    """
    use = bought.bought & (bought.time < start) & np.isin(bought.household, homes)
    row = np.searchsorted(homes, bought.household[use])
    total = np.bincount(row, minlength=len(homes)).astype(np.float64)
    products = np.unique(links["product_id"])
    of_coupons = np.isin(bought.product_id[use], products)
    column = np.searchsorted(products, bought.product_id[use][of_coupons])
    ones = np.ones(len(column))
    bags = sparse.csr_matrix((ones, (row[of_coupons], column)), shape=(len(homes), len(products)))
    where = (
        np.searchsorted(products, links["product_id"]),
        np.searchsorted(coupons, links["coupon_upc"]),
    )
    cover = sparse.csr_matrix((np.ones(len(links)), where), shape=(len(products), len(coupons)))
    return np.asarray((bags @ cover).todense()), total


def _numbers(raw: RawFolder, file: RawFile) -> pd.DataFrame:
    table = pd.concat(list(raw.chunks(file.name)), ignore_index=True)
    return pd.DataFrame({name: whole(table[name]) for name in file.numeric})


def _seconds(raw: RawFolder, dates: pd.Series) -> NDArray[np.float64]:
    stamps = pd.to_datetime(dates, format="%Y-%m-%d", errors="coerce", utc=True)
    if stamps.isna().any():
        raise DataError(
            f"{raw.path}/{DESCRIPTIONS.name}: expected a date such as 2017-03-03, got"
            f" '{dates[stamps.isna()].iloc[0]}'"
        )
    return np.asarray(stamps.dt.as_unit("s").astype("int64"), dtype=np.float64)


def _coupon_table(links: pd.DataFrame, listed: pd.DataFrame) -> pd.DataFrame:
    """Each coupon by the products it is for: how many, their category, the names of their types."""
    products = listed.assign(product_id=whole(listed["product_id"]))
    for name in ("department", "product_category", "product_type"):
        products[name] = clean_text(products[name])
    pairs = links[["coupon_upc", "product_id"]].drop_duplicates()
    pairs = pairs.merge(products, on="product_id", how="left").fillna("")
    coupons = np.sort(pairs["coupon_upc"].unique())
    out = pd.DataFrame({"item_id:token": pd.Series(coupons).astype(str)})
    types = _most_frequent(pairs, "product_type")
    names = types[types["rank"] < _NAMED_TYPES].groupby("coupon_upc")["product_type"].agg(", ".join)
    out["title:token_seq"] = names.reindex(coupons).fillna("").to_numpy()
    for column in ("product_category", "department"):
        ranked = _most_frequent(pairs, column)
        first = ranked[ranked["rank"] == 0].set_index("coupon_upc")
        out[f"{column}:token"] = first[column].reindex(coupons).fillna("").to_numpy()
    counts = pairs.groupby("coupon_upc").size().reindex(coupons)
    out["log_products:float"] = np.log1p(counts.to_numpy(np.float64)).round(4)
    return out


def _most_frequent(pairs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values of each coupon's products, the most frequent first; equal ones by name."""
    counts = pairs[pairs[column] != ""].groupby(["coupon_upc", column]).size().rename("n")
    table = counts.reset_index().sort_values(
        ["coupon_upc", "n", column], ascending=[True, False, True], kind="stable"
    )
    table["rank"] = table.groupby("coupon_upc").cumcount()
    return table
