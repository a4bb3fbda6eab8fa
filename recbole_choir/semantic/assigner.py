"""Groups for new users from a table that exists (nearest codewords of their profile)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recbole_choir.errors import ConfigError, TableError
from recbole_choir.semantic.canonical import canonical_frames
from recbole_choir.semantic.encode import Encoder
from recbole_choir.semantic.frames import Frames
from recbole_choir.semantic.grouping import aligned_vectors
from recbole_choir.semantic.inputs import make_input
from recbole_choir.semantic.priors import group_names
from recbole_choir.semantic.quantize import RQKMeans
from recbole_choir.semantic.recipe import TEXT_INPUTS, Recipe, load_recipe
from recbole_choir.semantic.table import read_manifest
from recbole_choir.table_format import (
    CODEBOOKS,
    FORMAT_VERSION,
    GROUP_ID,
    GROUPS,
    NO_CODE,
    SIZE,
    SNAPSHOT,
    USER_ID,
    USERS,
    code_column,
)

logger = logging.getLogger(__name__)


def assign(
    table: str | Path,
    users: pd.DataFrame | None,
    interactions: pd.DataFrame,
    items: pd.DataFrame | None,
    time: float | None = None,
    *,
    cache_dir: str | Path | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Give users a group of an existing table, new ones included, without building it again.

    A user's vector is made from the attributes and events given here, coded with the table's
    codewords, and led to the newest snapshot's groups: the deepest prefix that exists there and
    is large enough by the table's own recipe.

    Args:
        table: Folder of the table.
        users: ``user_id`` and attributes, of the users to assign and, for inputs that learn from
            behaviour, of the table's own.
        interactions: Events of these users, old and new. Inputs that learn from behaviour
            (``text_parts``, ``behaviour``) are fitted as in the table: on the events of the
            table's users before its first snapshot, which must be among these.
        items: Items, as given to ``build``.
        time: Use the events strictly before this moment (epoch seconds); all by default.
        cache_dir: Where embeddings are kept; ``.embeddings`` beside the table by default.
        device: Device of the text encoder.

    Returns:
        Frame ``user_id``, ``code_1`` ..., ``group_id``, sorted by user; -1 and None for users with
        nothing to go by, and None where no prefix of the codes has a group.

    Raises:
        TableError: The table is damaged, or its codebooks were fitted anew at each snapshot.
        DataError: A frame is wrong.
    """
    folder = Path(table)
    recipe, first_moment = _read_recipe(folder)
    frames = canonical_frames(interactions, users, items)
    now = Frames(
        frames.interactions, frames.users, frames.items, float("inf") if time is None else time
    )
    encoder = None
    if recipe.input in TEXT_INPUTS:
        cache = Path(cache_dir) if cache_dir is not None else folder.parent / ".embeddings"
        encoder = Encoder(recipe.encoder, recipe.truncate_dim, cache_dir=cache, device=device)
    groups, known_users = _read_groups(folder)
    source = make_input(recipe, encoder).fit(_as_fitted(frames, known_users, first_moment))
    x, valid = aligned_vectors(source, now)
    codes = np.full((len(x), recipe.n_levels), NO_CODE, np.int32)
    if valid.any():
        codes[valid] = RQKMeans.load(folder / CODEBOOKS).encode(x[valid])
    names = _existing_groups(codes, groups, recipe)
    lost = int((valid & pd.isna(names)).sum())
    if lost:
        logger.warning("assign: %d users have codes without any group in the table", lost)
    out = pd.DataFrame({USER_ID: frames.users[USER_ID].to_numpy(object)})
    for level in range(recipe.n_levels):
        out[code_column(level + 1)] = codes[:, level]
    out[GROUP_ID] = pd.Series(names, dtype=object)
    return out


def _read_recipe(folder: Path) -> tuple[Recipe, float]:
    manifest = read_manifest(folder)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise TableError(
            f"{folder}: expected format_version {FORMAT_VERSION}, "
            f"got {manifest.get('format_version')!r}"
        )
    try:
        recipe = load_recipe(manifest["recipe"])
        first = float(manifest["snapshots"][0]["time"])
    except (ConfigError, KeyError, IndexError, TypeError, ValueError) as error:
        raise TableError(f"{folder}: the manifest has no usable recipe: {error}") from None
    if recipe.codebooks != "once":
        raise TableError(
            f"{folder}: expected codebooks fitted once, got '{recipe.codebooks}': "
            "codes of other moments mean other groups"
        )
    return recipe, first


def _read_groups(folder: Path) -> tuple[pd.DataFrame, pd.Index]:
    """Groups of the newest snapshot, and the users of the table."""
    try:
        groups = pq.read_table(folder / GROUPS, columns=[SNAPSHOT, GROUP_ID, SIZE]).to_pandas()
        users = pq.read_table(folder / USERS, columns=[USER_ID]).to_pandas()
    except (OSError, KeyError, ValueError) as error:
        line = " ".join(str(error).split())
        raise TableError(f"{folder}: the table cannot be read: {line}") from None
    newest = groups[groups[SNAPSHOT] == groups[SNAPSHOT].max()]
    return newest, pd.Index(users[USER_ID].astype(object).unique())


def _as_fitted(frames: Frames, known_users: pd.Index, moment: float) -> Frames:
    """What the table's input was fitted on: its users' events before the first snapshot."""
    events = frames.interactions
    return Frames(
        events[events[USER_ID].isin(known_users)],
        frames.users[frames.users[USER_ID].isin(known_users)].reset_index(drop=True),
        frames.items,
        moment,
    )


def _existing_groups(codes: np.ndarray, groups: pd.DataFrame, recipe: Recipe) -> np.ndarray:
    """Deepest prefix that the table has, large enough where there is a choice: object [n]."""
    size = groups.set_index(GROUP_ID)[SIZE]
    known = codes[:, 0] >= 0
    chosen = np.full(len(codes), None, object)
    deepest = recipe.n_levels if recipe.agg_level == "backoff" else recipe.agg_level
    least = recipe.min_members if recipe.agg_level == "backoff" else 1
    for level in range(1, deepest + 1):
        names = group_names(codes, np.where(known, level, 0))
        members = pd.Series(names, dtype=object).map(size).fillna(0).to_numpy(np.float64)
        take = members >= (1 if level == 1 else least)
        chosen[take] = names[take]
    return chosen
