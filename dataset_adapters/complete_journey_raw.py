"""The Complete Journey's raw tables as compact arrays: products, exposures, baskets.

References:
    dunnhumby, "The Complete Journey" (dunnhumby.com/source-files), in the one-year edition of the
    R package ``completejourney``, whose manual describes every column.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.errors import DataError

from .negatives import Ints, member
from .raw import RawFile, RawFolder

log = logging.getLogger(__name__)

_TRANSACTION_NUMBERS = ("household_id", "store_id", "basket_id", "product_id", "quantity", "week")
TRANSACTIONS = RawFile(
    name="transactions.csv",
    columns=(
        "household_id",
        "store_id",
        "basket_id",
        "product_id",
        "quantity",
        "sales_value",
        "retail_disc",
        "coupon_disc",
        "coupon_match_disc",
        "week",
        "transaction_timestamp",
    ),
    numeric=_TRANSACTION_NUMBERS,
    required=(*_TRANSACTION_NUMBERS, "transaction_timestamp"),
    rows=1_469_307,
    header=True,
    quoted=True,
)
PROMOTIONS = RawFile(
    name="promotions.csv",
    columns=("product_id", "store_id", "display_location", "mailer_location", "week"),
    numeric=("product_id", "store_id", "week"),
    required=("product_id", "store_id", "display_location", "mailer_location", "week"),
    rows=20_940_529,
    header=True,
    quoted=True,
)
PRODUCTS = RawFile(
    name="products.csv",
    columns=(
        "product_id",
        "manufacturer_id",
        "department",
        "brand",
        "product_category",
        "product_type",
        "package_size",
    ),
    numeric=("product_id",),
    required=("product_id",),
    rows=92_331,
    header=True,
    quoted=True,
)
DEMOGRAPHICS = RawFile(
    name="demographics.csv",
    columns=(
        "household_id",
        "age",
        "income",
        "home_ownership",
        "marital_status",
        "household_size",
        "household_comp",
        "kids_count",
    ),
    numeric=("household_id",),
    required=("household_id",),
    rows=801,
    header=True,
    quoted=True,
)

# Names of the codes in the package manual; display and mailer location of a placement.
DISPLAYS = {
    "0": "not on display",
    "1": "store front",
    "2": "store rear",
    "3": "front end cap",
    "4": "mid-aisle end cap",
    "5": "rear end cap",
    "6": "side-aisle end cap",
    "7": "in-aisle",
    "9": "secondary location display",
    "A": "in-shelf",
}
MAILERS = {
    "0": "not on ad",
    "A": "interior page feature",
    "C": "interior page line item",
    "D": "front page feature",
    "F": "back page feature",
    "H": "wrap front feature",
    "J": "wrap interior coupon",
    "L": "wrap back feature",
    "P": "interior page coupon",
    "X": "free on interior page",
    "Z": "free on front page, back page or wrap",
}
_SYMBOLS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# An exposure in 64 bits: week 10, store 20, product 20, display 6, mailer 6.
_STORE, _PRODUCT, _DISPLAY = 32, 12, 6
_ID_LIMIT, _WEEK_LIMIT = 1 << 20, 1 << 10


def whole(values: pd.Series) -> Ints:
    """Read checked text as int64, exactly."""
    try:
        return np.asarray(values.astype("int64"), dtype=np.int64)
    except ValueError:
        # Written as 1.0 or 1e5 by another tool.
        return pd.to_numeric(values).to_numpy(np.float64).astype(np.int64)


def _symbols(values: pd.Series) -> Ints:
    """One-character codes as numbers; -1 for anything else."""
    codes, names = pd.factorize(values)
    known = [_SYMBOLS.index(n) if len(n) == 1 and n in _SYMBOLS else -1 for n in names]
    return np.asarray(known, dtype=np.int64)[codes]


@dataclass(frozen=True)
class Exposures:
    """Which products were on display or in the mailer, by week and store.

    Args:
        slots: ``[S]`` week * 2^20 + store, ascending.
        starts: ``[S + 1]`` where each slot's exposures begin.
        product: ``[E]`` position in the list of products, ascending within a slot.
        code: ``[E]`` display and mailer code.
        repeated: Placements left out because the same product, store and week has another one.
        unlisted: Placements of products that are not listed.
    """

    slots: Ints
    starts: Ints
    product: NDArray[np.int32]
    code: NDArray[np.int16]
    repeated: int
    unlisted: int

    def slot_of(self, week: Ints, store: Ints) -> Ints:
        """Number of the slot of each (week, store), -1 where nothing was placed."""
        keys = week * _ID_LIMIT + store
        at = np.minimum(np.searchsorted(self.slots, keys), max(len(self.slots) - 1, 0))
        return np.where(member(self.slots, keys), at, -1)

    def find(self, slot: Ints, product: Ints, n_products: int) -> Ints:
        """Position of each (slot, product) among the exposures, -1 where it was not placed."""
        width = np.diff(self.starts)
        keys = np.repeat(np.arange(len(self.slots)), width) * n_products + self.product
        wanted = slot * n_products + product
        at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        return np.where((slot >= 0) & (product >= 0) & member(keys, wanted), at, -1)

    def week(self) -> Ints:
        """Week of each slot, ``[S]``."""
        return self.slots // _ID_LIMIT

    def names(self, position: Ints) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
        """Display and mailer location of exposures, in words where the manual has some."""
        code = self.code[position].astype(np.int64)
        display = np.array([DISPLAYS.get(s, s) for s in _SYMBOLS], dtype=object)
        mailer = np.array([MAILERS.get(s, s) for s in _SYMBOLS], dtype=object)
        return display[code >> _DISPLAY], mailer[code & ((1 << _DISPLAY) - 1)]


def read_exposures(raw: RawFolder, products: Ints, first_week: int) -> Exposures:
    """Read the promotions once, in chunks; 8 bytes a placement.

    Args:
        raw: The raw files.
        products: ``[P]`` listed product ids, ascending.
        first_week: Placements before this week are counted and left out.

    Raises:
        DataError: An id or a code cannot be what it should be.
    """
    parts: list[NDArray[np.int64]] = []
    unlisted = 0
    for chunk in raw.chunks(PROMOTIONS.name):
        week, store = whole(chunk["week"]), whole(chunk["store_id"])
        listed = member(products, whole(chunk["product_id"]))
        product = np.searchsorted(products, whole(chunk["product_id"]))
        display, mailer = (_symbols(chunk[c]) for c in ("display_location", "mailer_location"))
        wrong = (np.minimum(display, mailer) < 0) | (week < 0) | (week >= _WEEK_LIMIT)
        wrong |= (store < 0) | (store >= _ID_LIMIT)
        if wrong.any():
            row = " | ".join(str(v) for v in chunk[wrong].iloc[0])
            raise DataError(
                f"{raw.path}/{PROMOTIONS.name}: expected a week below {_WEEK_LIMIT}, a store below"
                f" {_ID_LIMIT} and one character (0-9, A-Z) as display and as mailer, got '{row}'"
            )
        unlisted += int(np.count_nonzero(~listed))
        keys = (week << (_STORE + 20)) | (store << _STORE) | (product << _PRODUCT)
        keys |= (display << _DISPLAY) | mailer
        parts.append(keys[listed & (week >= first_week)])
    keys = np.concatenate(parts)
    parts.clear()
    keys.sort()
    place = keys >> _PRODUCT
    new = np.ones(len(keys), dtype=bool)
    new[1:] = place[1:] != place[:-1]
    keys = keys[new]
    slot = keys >> _STORE
    slots, starts = np.unique(slot, return_index=True)
    return Exposures(
        slots=slots,
        starts=np.append(starts, len(keys)),
        product=((keys >> _PRODUCT) & (_ID_LIMIT - 1)).astype(np.int32),
        code=(keys & ((1 << _PRODUCT) - 1)).astype(np.int16),
        repeated=int(np.count_nonzero(~new)),
        unlisted=unlisted,
    )


@dataclass(frozen=True)
class Purchases:
    """Distinct (basket, product) pairs, in the order of time, basket and product.

    Args:
        household, store, basket, product_id, week: ``[N]`` as in the file.
        time: ``[N]`` seconds since 1970, the file's clock taken as UTC.
        bought: ``[N]`` whether any of it was taken home: quantity above zero.
        repeated: Rows of a basket that name one product again.
    """

    household: Ints
    store: Ints
    basket: Ints
    product_id: Ints
    week: Ints
    time: NDArray[np.float64]
    bought: NDArray[np.bool_]
    repeated: int


def read_purchases(raw: RawFolder) -> Purchases:
    """Read the transactions, in chunks, into compact arrays.

    Args:
        raw: The raw files.

    Raises:
        DataError: A time stamp cannot be read, or a basket has two of them.
    """
    columns: dict[str, list[Ints]] = {c: [] for c in (*_TRANSACTION_NUMBERS, "time")}
    for chunk in raw.chunks(TRANSACTIONS.name):
        stamps = pd.to_datetime(chunk["transaction_timestamp"], errors="coerce", utc=True)
        if stamps.isna().any():
            text = chunk["transaction_timestamp"][stamps.isna()].iloc[0]
            raise DataError(
                f"{raw.path}/{TRANSACTIONS.name}: expected a transaction_timestamp such as"
                f" '2017-01-01 11:53:26', got '{text}'"
            )
        seconds = stamps.dt.as_unit("s").astype("int64")
        columns["time"].append(np.asarray(seconds, dtype=np.int64))
        for name in _TRANSACTION_NUMBERS:
            columns[name].append(whole(chunk[name]))
    data = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((-data["quantity"], data["product_id"], data["basket_id"], data["time"]))
    data = {name: values[order] for name, values in data.items()}
    basket, product = data["basket_id"], data["product_id"]
    again = np.zeros(len(basket), dtype=bool)
    again[1:] = (basket[1:] == basket[:-1]) & (product[1:] == product[:-1])
    again[1:] &= data["time"][1:] == data["time"][:-1]
    data = {name: values[~again] for name, values in data.items()}
    starts = (np.diff(data["basket_id"]) != 0) | (np.diff(data["time"]) != 0)
    if 1 + np.count_nonzero(starts) != len(np.unique(data["basket_id"])):
        raise DataError(
            f"{raw.path}/{TRANSACTIONS.name}: expected one transaction_timestamp a basket_id,"
            " got a basket with two"
        )
    return Purchases(
        household=data["household_id"],
        store=data["store_id"],
        basket=data["basket_id"],
        product_id=data["product_id"],
        week=data["week"],
        time=data["time"].astype(np.float64),
        bought=data["quantity"] > 0,
        repeated=int(np.count_nonzero(again)),
    )
