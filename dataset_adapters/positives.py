"""What adapters of positive-only sets share: negatives, thinning, whole users within a budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError

from .base import Adapter
from .negatives import Ints, Sampling, Taken, sample_negatives
from .raw import RawFolder

_ROWS = 500_000


@dataclass(frozen=True)
class Positives:
    """All positives of a set.

    Args:
        user_id, item_id: ``[N]`` raw ids as text.
        time: ``[N]`` float64, any unit.
        context: ``[N]`` columns known at the time of a row, with types in their names; its
            negatives get the same values.
        catalogue: Raw ids of all items.
    """

    user_id: NDArray[np.object_]
    item_id: NDArray[np.object_]
    time: NDArray[np.float64]
    context: pd.DataFrame
    catalogue: NDArray[np.object_]


#: Choices of every positive-only set, with what most of them take.
OPTIONS: dict[str, Any] = {
    "negatives": "popularity",
    "negatives_per_positive": 5,
    "seed": 2017,
    "popularity_window": 0.0,
    "uniform_share": 0.1,
    "max_rows": 0,
}


class PositiveOnly(Adapter):
    """An adapter whose raw files hold positives alone.

    Options: ``negatives`` (``popularity`` as of the row, or ``uniform``), how many for each
    positive, the ``seed``, ``popularity_window`` (0: from the start), ``uniform_share`` of the
    draws by popularity, ``max_rows`` (0: all; otherwise whole users are left out, in an order
    drawn by the seed, and popularity is still that of all of them). A subclass that offers
    ``thin_items`` and ``thin_keep`` keeps, up to ``trained_until``, the second share of the rows of
    the first share of the items.
    """

    options: ClassVar[Mapping[str, Any]] = OPTIONS
    #: Time of the last training row, for sets that know only the order within a user: popularity
    #: is counted up to there, for all rows alike. None: as of each row.
    trained_until: ClassVar[float | None] = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.chosen
        if chosen["negatives"] not in ("uniform", "popularity"):
            raise DataError(
                f"{self.name}: option 'negatives': expected uniform or popularity, got"
                f" {chosen['negatives']!r}"
            )
        for key in ("negatives_per_positive", "max_rows", "seed", "popularity_window"):
            if chosen[key] < 0:
                raise DataError(
                    f"{self.name}: option '{key}': expected 0 or more, got {chosen[key]}"
                )
        for key in ("uniform_share", "thin_items", "thin_keep"):
            if not 0 <= chosen.get(key, 0.0) <= 1:
                raise DataError(
                    f"{self.name}: option '{key}': expected a share from 0 to 1, got {chosen[key]}"
                )

    def sampling(self) -> Sampling:
        """How negatives are drawn, from the options."""
        chosen = self.chosen
        return Sampling(
            kind=chosen["negatives"],
            per_positive=chosen["negatives_per_positive"],
            window=chosen["popularity_window"] or np.inf,
            fixed_until=self.trained_until,
            uniform_share=chosen["uniform_share"],
        )

    def negatives(self) -> dict[str, Any] | None:
        how = self.sampling()
        facts = {
            "kind": how.kind,
            "per_positive": how.per_positive,
            "seed": self.chosen["seed"],
            "from": "the catalogue without what the user took before or at the time",
        }
        if how.kind == "popularity" and how.fixed_until is not None:
            facts["popularity"] = {
                "of": f"all positives up to time {how.fixed_until:g}, a fixed window",
                "uniform_share": how.uniform_share,
            }
        elif how.kind == "popularity":
            facts["popularity"] = {
                "of": "positives strictly before the row",
                "window": self.chosen["popularity_window"] or "from the start",
                "warm_up": f"the first {how.warm_up:.0%} of positives, for rows within them",
                "uniform_share": how.uniform_share,
            }
        return facts

    @abstractmethod
    def positives(self, raw: RawFolder) -> Positives:
        """Read all positives; repeated rows of one user, item and time are counted once."""

    @abstractmethod
    def sides(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the tables of users and items; called after :meth:`positives`."""

    def tables(self, raw: RawFolder) -> Iterator[tuple[str, pd.DataFrame]]:
        found = self.positives(raw)
        yield from self.sides(raw)
        yield from self._rows(found)

    def _rows(self, found: Positives) -> Iterator[tuple[str, pd.DataFrame]]:
        items = np.unique(found.catalogue)
        users, user = np.unique(found.user_id, return_inverse=True)
        item = np.searchsorted(items, found.item_id)
        # Ids decide between equal times, so that the order of the file does not matter.
        order = np.lexsort((item, user, found.time))
        taken = Taken(user[order], item[order], found.time[order], len(items))
        rng = np.random.default_rng([self.chosen["seed"], 1])
        wanted = self._budget(taken, len(users), rng)
        owner, negative = sample_negatives(taken, wanted, self.sampling(), self.chosen["seed"])
        rows = np.flatnonzero(wanted)
        all_owner, all_item = np.append(rows, owner), np.append(taken.item[rows], negative)
        label = np.repeat([1, 0], [len(rows), len(owner)])
        per_positive = self.chosen["negatives_per_positive"]
        self.facts |= {
            "positives": len(rows),
            "positives_of_all_users": len(order),
            "negatives": len(owner),
            "negatives_missing": len(rows) * per_positive - len(owner),
        }
        kept = self._thinned(taken.time[all_owner], all_item, len(items), rng)
        all_owner, all_item, label = all_owner[kept], all_item[kept], label[kept]
        # By item within a user's visit: the order of the rows says nothing of the label.
        final = np.lexsort((all_item, taken.user[all_owner], taken.time[all_owner]))
        for start in range(0, len(final), _ROWS):
            part = final[start : start + _ROWS]
            at = order[all_owner[part]]
            table = pd.DataFrame(
                {
                    "user_id:token": found.user_id[at],
                    "item_id:token": items[all_item[part]],
                    "label:float": label[part],
                    "timestamp:float": _numbers(found.time[at]),
                }
            )
            extra = found.context.iloc[at].reset_index(drop=True)
            yield "inter", pd.concat([table, extra], axis=1)

    def _budget(self, taken: Taken, n_users: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Positives of the users that fit into ``max_rows``."""
        if not self.chosen["max_rows"]:
            return np.ones(len(taken.user), dtype=bool)
        rows = np.bincount(taken.user, minlength=n_users)
        rows *= 1 + self.chosen["negatives_per_positive"]
        order = rng.permutation(n_users)
        fits = np.zeros(n_users, dtype=bool)
        fits[order[np.cumsum(rows[order]) <= self.chosen["max_rows"]]] = True
        if not fits.any():
            raise DataError(
                f"{self.name}: option 'max_rows': no user fits into {self.chosen['max_rows']} rows"
            )
        return np.asarray(fits[taken.user])

    def _thinned(
        self, time: NDArray[np.float64], item: Ints, n_items: int, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Keep a share of the early rows of a share of the items; the rate of positives stays."""
        share = self.chosen.get("thin_items", 0.0)
        kept = np.ones(len(item), dtype=bool)
        if not share:
            return kept
        thin = np.zeros(n_items, dtype=bool)
        thin[rng.permutation(n_items)[: round(share * n_items)]] = True
        early = thin[item]
        if self.trained_until is not None:
            early &= time <= self.trained_until
        kept[early] = rng.random(np.count_nonzero(early)) < self.chosen["thin_keep"]
        self.facts |= {
            "thinned_items": int(thin.sum()),
            "thinned_rows_left_out": int(np.count_nonzero(~kept)),
        }
        return kept


#: Each user's last two make validation and test in sets that know only an order.
LAST_TRAINED_PLACE = -2.0


def places_from_end(size: Ints) -> NDArray[np.float64]:
    """Time of sequences that have only an order: 0 for each user's last, -1 for the one before.

    Counted from the end, a cut in time leaves every user's last ones for validation and test, as
    leave-one-out does; counted from the start only long sequences would reach there.

    Args:
        size: ``[U]`` lengths of the sequences, which follow each other.

    Returns:
        ``[sum of sizes]``.
    """
    ends = np.repeat(np.cumsum(size), size)
    return np.arange(len(ends), dtype=np.float64) + 1 - ends


def _numbers(values: NDArray[np.float64]) -> NDArray[Any]:
    """Whole numbers are written without a decimal point."""
    whole = values.astype(np.int64)
    return whole if bool((whole == values).all()) else values
