"""The Complete Journey with real exposures: what was on display or mailed, and was it bought.

A household's basket in a store and week was exposed to the products that were on display there or
in the mailer (promotions). Bought ones are the positives; of the others a recorded number for each
positive, by a recorded seed, are the negatives. Purchases that were not promoted make no row: for
them nothing is known of what else was seen. They are what a household did before, and are written
as ``.history``. All rows of a basket share its time stamp, so that a row's history, strictly before
it, holds nothing of its own basket.

References:
    dunnhumby, "The Complete Journey" (dunnhumby.com/source-files), in the one-year edition of the
    R package ``completejourney`` (2,469 households, 2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError

from .base import Adapter
from .complete_journey_raw import (
    DEMOGRAPHICS,
    PRODUCTS,
    PROMOTIONS,
    TRANSACTIONS,
    Exposures,
    Purchases,
    read_exposures,
    read_purchases,
    whole,
)
from .negatives import Ints, draw_distinct, member, spans
from .raw import RawFile, RawFolder
from .text import clean_text

#: Weeks of purchases that a product's popularity is counted over, before the week of the row.
POPULARITY_WEEKS = 4
#: Added to every exposed product's count, so that one nobody bought lately can be a negative too.
POPULARITY_PRIOR = 1
_ROWS = 500_000
SOURCE = (
    "https://www.dunnhumby.com/source-files/ ('The Complete Journey'), as CSV from the"
    " completejourney package (R: write.csv(get_promotions(), 'promotions.csv',"
    " row.names = FALSE, na = ''))"
)


@dataclass(frozen=True)
class Baskets:
    """Baskets with at least one exposed purchase, and those purchases.

    Args:
        first: ``[B]`` position of each basket's first purchase.
        slot: ``[B]`` week and store.
        need: ``[B]`` negatives wanted.
        owner: ``[M]`` basket of each exposed purchase.
        place: ``[M]`` its position among the exposures.
    """

    first: Ints
    slot: Ints
    need: Ints
    owner: Ints
    place: Ints


def household_attributes(raw: RawFolder, households: Ints) -> pd.DataFrame:
    """One row for every household; those that gave no answers have empty cells."""
    known = pd.concat(list(raw.chunks(DEMOGRAPHICS.name)), ignore_index=True)
    known.index = pd.Index(whole(known["household_id"]))
    table = known.reindex(households)
    out = pd.DataFrame({"user_id:token": pd.Series(households).astype(str)})
    for column in DEMOGRAPHICS.columns[1:]:
        values = table[column].fillna("").reset_index(drop=True)
        out[f"{column}:token"] = clean_text(values)
    return out


class CompleteJourney(Adapter):
    """Promotion exposures of the Complete Journey, bought or not."""

    name: ClassVar[str] = "complete-journey"
    folders: ClassVar[tuple[str, ...]] = ("complete-journey", "completejourney")
    source: ClassVar[str] = SOURCE
    files: ClassVar[tuple[RawFile, ...]] = (TRANSACTIONS, PROMOTIONS, PRODUCTS, DEMOGRAPHICS)
    #: negatives: ``uniform`` over the exposed, unbought products, or ``popularity``: in proportion
    #: to purchases of the four weeks before, plus one. negatives_per_positive: how many. seed: of
    #: negatives and thinning. first_week: rows start here, so that popularity has four weeks to
    #: look back on. sparse_households, sparse_weeks: that share of the households keeps each week
    #: with the second probability: purchases in all weeks, rows up to sparse_until (later ones all
    #: stay, so that every household is evaluated as it is). max_rows: 0, or whole households are
    #: left out, in an order drawn by the seed, until no more rows are left.
    options: ClassVar[Mapping[str, Any]] = {
        "negatives": "uniform",
        "negatives_per_positive": 5,
        "seed": 2017,
        "first_week": 9,
        "sparse_households": 0.0,
        "sparse_weeks": 1.0,
        "sparse_until": 43,
        "max_rows": 0,
    }
    expected: ClassVar[Mapping[str, int]] = {"item_rows": 92_331, "user_rows": 2_469}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.chosen
        if chosen["negatives"] not in ("uniform", "popularity"):
            raise DataError(
                f"{self.name}: option 'negatives': expected uniform or popularity, got"
                f" {chosen['negatives']!r}"
            )
        for key in ("negatives_per_positive", "first_week", "max_rows", "seed"):
            if chosen[key] < 0:
                raise DataError(
                    f"{self.name}: option '{key}': expected 0 or more, got {chosen[key]}"
                )
        for key in ("sparse_households", "sparse_weeks"):
            if not 0 <= chosen[key] <= 1:
                raise DataError(
                    f"{self.name}: option '{key}': expected a share from 0 to 1, got {chosen[key]}"
                )

    def negatives(self) -> dict[str, Any]:
        popular = self.chosen["negatives"] == "popularity"
        return {
            "kind": self.chosen["negatives"],
            "per_positive": self.chosen["negatives_per_positive"],
            "seed": self.chosen["seed"],
            "from": "on display or in the mailer in the basket's store and week, and not in it",
            "popularity": f"purchases of the {POPULARITY_WEEKS} weeks before, plus "
            f"{POPULARITY_PRIOR}"
            if popular
            else None,
        }

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        listed = pd.concat(list(raw.chunks(PRODUCTS.name)), ignore_index=True)
        ids = whole(listed["product_id"])
        listed = listed.iloc[np.argsort(ids, kind="stable")].reset_index(drop=True)
        ids = np.sort(ids)
        if len(np.unique(ids)) != len(ids):
            raise DataError(f"{raw.path}/{PRODUCTS.name}: expected one row per product_id")
        bought = read_purchases(raw)
        households = np.unique(bought.household)
        yield "user", household_attributes(raw, households)
        yield "item", _product_table(listed)
        exposures = read_exposures(raw, ids, self.chosen["first_week"])
        rng = np.random.default_rng(self.chosen["seed"])
        yield from self._events(bought, exposures, ids, households, rng)

    def _events(
        self,
        bought: Purchases,
        exposures: Exposures,
        ids: Ints,
        households: Ints,
        rng: np.random.Generator,
    ) -> Iterator[tuple[str, pd.DataFrame]]:
        n = len(ids)
        product = np.where(
            member(ids, bought.product_id), np.searchsorted(ids, bought.product_id), -1
        )
        slot = exposures.slot_of(bought.week, bought.store)
        place = exposures.find(slot, product, n)
        positive = (place >= 0) & bought.bought
        stays, known = self._kept(bought, households, positive, rng)
        kept = positive & stays
        baskets = self._baskets(bought, kept, slot, place)
        owner, item_place = self._draw(bought, baskets, product, exposures, n, rng)
        all_owner = np.concatenate([baskets.owner, owner])
        all_place = np.concatenate([baskets.place, item_place])
        label = np.repeat([1, 0], [len(baskets.owner), len(owner)])
        # By product within a basket: the order of the rows says nothing of the label.
        order = np.lexsort((all_place, all_owner))
        other = known & bought.bought & (product >= 0) & ~kept
        self.facts |= {
            "purchases": len(bought.time) + bought.repeated,
            "purchases_of_one_product_again_in_a_basket": bought.repeated,
            "purchases_of_quantity_zero": int(np.count_nonzero(~bought.bought)),
            "purchases_of_unlisted_products": int(np.count_nonzero(product < 0)),
            "exposed_purchases": int(np.count_nonzero(positive)),
            "exposed_purchases_kept": len(baskets.owner),
            "other_purchases_kept": int(np.count_nonzero(other)),
            "baskets": len(baskets.first),
            "negatives": len(owner),
            "negatives_missing": int(baskets.need.sum()) - len(owner),
            "placements_kept": len(exposures.product),
            "placements_repeated": exposures.repeated,
            "placements_of_unlisted_products": exposures.unlisted,
        }
        for start in range(0, len(order), _ROWS):
            part = order[start : start + _ROWS]
            at = baskets.first[all_owner[part]]
            where = all_place[part]
            display, mailer = exposures.names(where)
            rows = pd.DataFrame(
                {
                    "user_id:token": _text(bought.household[at]),
                    "item_id:token": _text(ids[exposures.product[where]]),
                    "label:float": label[part],
                    "timestamp:float": bought.time[at].astype(np.int64),
                    "store_id:token": _text(bought.store[at]),
                    "week:token": _text(bought.week[at]),
                    "basket_id:token": _text(bought.basket[at]),
                    "display_location:token": display,
                    "mailer_location:token": mailer,
                }
            )
            yield "inter", rows
        places = np.flatnonzero(other)
        for start in range(0, len(places), _ROWS):
            at = places[start : start + _ROWS]
            events = pd.DataFrame(
                {
                    "user_id:token": _text(bought.household[at]),
                    "item_id:token": _text(bought.product_id[at]),
                    "timestamp:float": bought.time[at].astype(np.int64),
                }
            )
            yield "history", events

    def _kept(
        self,
        bought: Purchases,
        households: Ints,
        positive: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Thin the weeks of some households, and leave out whole ones beyond ``max_rows``.

        Returns:
            Which purchases may be rows, and which belong to what is known of a household.
        """
        chosen = self.chosen
        who = np.searchsorted(households, bought.household)
        stays = np.ones(len(who), dtype=bool)
        known = np.ones(len(who), dtype=bool)
        share, until = chosen["sparse_households"], chosen["sparse_until"]
        if share:
            sparse = np.zeros(len(households), dtype=bool)
            sparse[rng.permutation(len(households))[: round(share * len(households))]] = True
            weeks = rng.random((len(households), int(bought.week.max()) + 1))
            thin = sparse[who]
            known[thin] = weeks[who[thin], bought.week[thin]] < chosen["sparse_weeks"]
            early = bought.week <= until
            stays = known | ~early
            self.facts |= _sparsity(bought.bought & early, positive, known, thin, sparse, until)
        if chosen["max_rows"]:
            size = 1 + chosen["negatives_per_positive"]
            may = stays & positive & (bought.week >= chosen["first_week"])
            rows = np.bincount(who[may], minlength=len(households)) * size
            order = rng.permutation(len(households))
            fits = np.zeros(len(households), dtype=bool)
            fits[order[np.cumsum(rows[order]) <= chosen["max_rows"]]] = True
            stays, known = stays & fits[who], known & fits[who]
        return stays & (bought.week >= chosen["first_week"]), known

    def _baskets(
        self,
        bought: Purchases,
        kept: NDArray[np.bool_],
        slot: Ints,
        place: Ints,
    ) -> Baskets:
        rows = np.flatnonzero(kept)
        if not len(rows):
            raise DataError(
                f"{self.name}: no purchase was on display or in the mailer in its store and week;"
                f" expected some from week {self.chosen['first_week']} on"
            )
        # Rows of a basket stand together: the purchases are ordered by time and basket.
        new = np.append(True, np.diff(bought.basket[rows]) != 0)
        owner = np.cumsum(new) - 1
        first = rows[new]
        wanted = np.bincount(owner) * int(self.chosen["negatives_per_positive"])
        return Baskets(first, slot[first], wanted, owner, place[rows])

    def _draw(
        self,
        bought: Purchases,
        baskets: Baskets,
        product: Ints,
        exposures: Exposures,
        n: int,
        rng: np.random.Generator,
    ) -> tuple[Ints, Ints]:
        """Draw negatives for every basket.

        Returns:
            (basket, position among the exposures), ordered.
        """
        starts, stops = exposures.starts[:-1], exposures.starts[1:]
        # Two baskets of one household may bear one stamp: what is in either is no negative.
        visit = _visits(bought)
        owned = np.unique(visit[product >= 0] * n + product[product >= 0])
        mine = visit[baskets.first]
        total = self._cumulative_weight(bought, product, exposures, n)

        def draw(groups: Ints) -> Ints:
            slots = baskets.slot[groups]
            if total is None:
                return rng.integers(starts[slots], stops[slots])
            mark = rng.integers(total[starts[slots]], total[stops[slots]])
            return np.searchsorted(total, mark, side="right") - 1

        def forbidden(groups: Ints, places: Ints) -> NDArray[np.bool_]:
            return member(owned, mine[groups] * n + exposures.product[places])

        def rest(groups: Ints) -> tuple[Ints, Ints]:
            number, places = spans(starts[baskets.slot[groups]], stops[baskets.slot[groups]])
            return groups[number], places

        size = len(exposures.product)
        return draw_distinct(baskets.need, draw, forbidden, size, rest, rng)

    def _cumulative_weight(
        self, bought: Purchases, product: Ints, exposures: Exposures, n: int
    ) -> Ints | None:
        """``[E + 1]`` running sum of the exposures' weights, in whole numbers; None: uniform."""
        if self.chosen["negatives"] == "uniform":
            return None
        weeks = int(max(bought.week.max(), exposures.week().max())) + 1
        good = bought.bought & (product >= 0)
        flat = np.bincount(bought.week[good] * n + product[good], minlength=weeks * n)
        # running[w] = purchases before week w
        running = np.zeros((weeks + 1, n), dtype=np.int32)
        np.cumsum(flat.reshape(weeks, n), axis=0, out=running[1:])
        total = np.zeros(len(exposures.product) + 1, dtype=np.int64)
        week = np.repeat(exposures.week(), np.diff(exposures.starts))
        past = np.maximum(week - POPULARITY_WEEKS, 0)
        weight = running[week, exposures.product] - running[past, exposures.product]
        np.cumsum(weight + POPULARITY_PRIOR, dtype=np.int64, out=total[1:])
        return total


class CompleteJourneySparse(CompleteJourney):
    """The same, harder and sparser: popular negatives, and most of most households' past removed.

    55 % of the households keep each week with probability 6 %; rows after the training period all
    stay, so that every household is evaluated as it is, but not their other purchases.
    """

    name: ClassVar[str] = "complete-journey-sparse"
    options: ClassVar[Mapping[str, Any]] = {
        **CompleteJourney.options,
        "negatives": "popularity",
        "sparse_households": 0.55,
        "sparse_weeks": 0.06,
    }


def _visits(bought: Purchases) -> Ints:
    """Number of the (household, time) of each purchase."""
    order = np.lexsort((bought.household, bought.time))
    household, time = bought.household[order], bought.time[order]
    new = np.zeros(len(order), dtype=np.int64)
    new[1:] = (np.diff(household) != 0) | (np.diff(time) != 0)
    visit = np.empty_like(new)
    visit[order] = np.cumsum(new)
    return visit


def _product_table(listed: pd.DataFrame) -> pd.DataFrame:
    names = {
        "product_id": "item_id:token",
        "product_type": "product_type:token",
        "product_category": "product_category:token",
        "department": "department:token",
        "brand": "brand:token",
        "manufacturer_id": "manufacturer_id:token",
        "package_size": "package_size:token",
    }
    out = pd.DataFrame({new: clean_text(listed[old]) for old, new in names.items()})
    # Words for the semantic stage: the finest name there is.
    text = out["product_type:token"].where(
        out["product_type:token"] != "", out["product_category:token"]
    )
    out.insert(1, "title:token_seq", text)
    return out


def _text(values: Ints) -> NDArray[np.object_]:
    """Whole numbers as text; each distinct number is written once."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return distinct.astype(str).astype(object)[inverse]


def _sparsity(
    early: NDArray[np.bool_],
    positive: NDArray[np.bool_],
    known: NDArray[np.bool_],
    thin: NDArray[np.bool_],
    sparse: NDArray[np.bool_],
    until: int,
) -> dict[str, float | int]:
    """Purchases a household up to the last thinned week, of thinned and of other households."""

    def mean(mask: NDArray[np.bool_], households: int) -> float:
        return round(float(np.count_nonzero(mask)) / max(households, 1), 2)

    n, rest = int(sparse.sum()), int((~sparse).sum())
    return {
        "sparse_households": n,
        f"purchases_per_sparse_household_to_week_{until}": mean(early & known & thin, n),
        f"purchases_per_other_household_to_week_{until}": mean(early & ~thin, rest),
        f"exposed_purchases_per_sparse_household_to_week_{until}": mean(
            early & positive & known & thin, n
        ),
    }
