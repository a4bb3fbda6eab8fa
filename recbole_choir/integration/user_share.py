"""A share of a dataset's users, decided id by id: a smaller study of the same kind of users."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def in_share(users: pd.Series, share: float, seed: int) -> NDArray[np.bool_]:
    """Decide which rows belong to users of the share.

    The id alone decides (a hash of it and the seed), so the order of rows, other users and the
    machine change nothing, and a larger share holds the smaller ones of its seed. Popularity and
    statistics are then those of the share: nothing of the other users is left.

    Args:
        users: ``[N]`` ids as in the files.
        share: From 0 to 1.
        seed: Another seed chooses other users.

    Returns:
        ``[N]``.
    """
    codes, distinct = pd.factorize(users.astype(str))
    names: Any = np.asarray(distinct, dtype=object)
    hashed = pd.util.hash_array(names, hash_key=f"{seed % 10**16:016d}", categorize=False)
    return np.asarray((hashed < share * 2.0**64)[codes], dtype=bool)
