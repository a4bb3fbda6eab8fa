"""Checks of the arrays that every metric takes: labels, scores and one group id per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import DataError

Array = npt.NDArray[Any]


def as_vector(name: str, values: npt.ArrayLike) -> Array:
    """Return ``values`` as a one-dimensional array (``[N]`` or ``[N, 1]`` is accepted).

    Args:
        name: How to call the array in an error.
        values: Anything numpy can read, also a CPU tensor.

    Raises:
        DataError: If it has another shape or no rows.
    """
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: expected one value per row, got shape {array.shape}")
    if array.size == 0:
        raise DataError(f"{name}: expected at least one row, got none")
    return array


def check_labels(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return binary labels as bool ``[N]``.

    Raises:
        DataError: If a label is neither 0 nor 1.
    """
    array = as_vector("labels", labels)
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise DataError(f"labels: expected 0 or 1, got values of type {array.dtype}")
    positive = array == 1
    wrong = ~(positive | (array == 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"labels: expected 0 or 1, got {array[row]} in row {row} "
            f"({int(wrong.sum())} such rows of {array.size})"
        )
    return positive


def check_scores(scores: npt.ArrayLike, n_rows: int) -> Array:
    """Return scores as a floating array ``[N]``; infinities have a rank and are kept.

    Raises:
        DataError: If the length differs from ``n_rows`` or a score is NaN.
    """
    array = as_vector("scores", scores)
    if array.dtype.kind not in "iufb":
        raise DataError(f"scores: expected numbers, got values of type {array.dtype}")
    if array.size != n_rows:
        raise DataError(f"scores: expected {n_rows} rows as in labels, got {array.size}")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    missing = np.isnan(array)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise DataError(
            f"scores: expected numbers, got NaN in row {row} "
            f"({int(missing.sum())} such rows of {array.size})"
        )
    return array


def check_groups(groups: npt.ArrayLike, n_rows: int, name: str = "groups") -> Array:
    """Return one id per row (integers or strings) as an array ``[N]``.

    Raises:
        DataError: If the length differs from ``n_rows`` or an id is NaN.
    """
    array = as_vector(name, groups)
    if array.size != n_rows:
        raise DataError(f"{name}: expected {n_rows} rows as in labels, got {array.size}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{name}: expected an id in every row, got NaN")
    return array
