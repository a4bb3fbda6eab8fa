"""The columns of a batch as the feature matrix of a tree model.

A feature's name says how it is made, so a saved booster, which keeps the names, is enough to score
rows later: ``age`` is the field itself, ``genre=3`` is 1 where the list field holds the token 3,
and ``user_stats@2`` is the third column of a float field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_choir.errors import DataError

# A list field with more tokens than this keeps its first token only, in one column.
MAX_MULTI_HOT = 64

Columns = Mapping[str, npt.NDArray[Any]]


def feature_names(columns: Columns, exclude: Sequence[str]) -> list[str]:
    """Name the features of a training set.

    Args:
        columns: Field -> ``[N]`` or ``[N, k]``; integer lists are padded with 0.
        exclude: Fields that are not features: the label above all.

    Raises:
        DataError: If nothing is left.
    """
    names: list[str] = []
    for field, values in columns.items():
        if field in exclude:
            continue
        if values.ndim == 1:
            names.append(field)
        elif values.ndim == 2 and values.dtype.kind == "f":
            names += [f"{field}@{k}" for k in range(values.shape[1])]
        elif values.ndim == 2:
            top = int(values.max(initial=0))
            if top <= MAX_MULTI_HOT:
                names += [f"{field}={token}" for token in range(1, top + 1)]
            else:
                names.append(f"{field}@0")
    if not names:
        raise DataError("tree features: expected at least one field besides the label, got none")
    return names


def feature_matrix(columns: Columns, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Build the features that :func:`feature_names` named, ``[N, F]``.

    Raises:
        DataError: If a field is missing.
    """
    made = []
    for name in names:
        field, is_token, token = name.partition("=")
        field, _, column = (field, "", "") if is_token else field.partition("@")
        if field not in columns:
            raise DataError(f"tree features: expected the field '{field}' of the model, got none")
        values = columns[field]
        if is_token:
            feature = (values == int(token)).any(axis=1)
        elif column:
            feature = values[:, int(column)]
        else:
            feature = values
        made.append(feature.astype(np.float32))
    return np.stack(made, axis=1)
