"""Groups for new users and items from a table that exists: the nearest codewords of its own."""

from __future__ import annotations

import logging
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, TableError
from recbole_choir.semantic.frames.canonical import canonical_frames
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.groups.priors import group_names
from recbole_choir.semantic.groups.users import aligned_vectors
from recbole_choir.semantic.inputs import make_input
from recbole_choir.semantic.profiles.llm_profiles import profile_writer
from recbole_choir.semantic.quantizers.base import load_quantizer
from recbole_choir.semantic.table.builder import item_source, make_encoders
from recbole_choir.semantic.table.writer import read_manifest
from recbole_choir.settings.recipe import Recipe, load_recipe
from recbole_choir.table_format import (
    CODEBOOKS,
    FORMAT_VERSION,
    GROUP_ID,
    GROUPS,
    ITEM_CODEBOOKS,
    ITEM_ID,
    ITEMS,
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
            (``text_parts``, ``behaviour``, ``aligned``, ``interest``) are fitted as in the table:
            on the events of the table's users before its first snapshot, which must be among these.
        items: Items, as given to ``build``.
        time: Use the events strictly before this moment (epoch seconds); all by default.
        cache_dir: Where embeddings and a language model's profiles are kept; ``.embeddings`` and
            ``.profiles`` next to the table by default. New users cost a profile each.
        device: Device of the text encoder.

    Returns:
        Frame ``user_id``, ``code_1`` ..., ``group_id``, sorted by user; -1 and None for users with
        nothing to go by, and None where no prefix of the codes has a group.

    Raises:
        TableError: The table is damaged, or its codebooks were fitted again at each snapshot.
        DataError: A frame is wrong.
    """
    folder = Path(table)
    recipe, first_moment = _read_recipe(folder)
    frames = canonical_frames(interactions, users, items)
    now = _at(frames, time)
    cache = Path(cache_dir) if cache_dir is not None else folder.parent / ".embeddings"
    encoder, item_encoder = make_encoders(recipe, cache, device)
    groups, known_users = _read_groups(folder)
    fitted = _as_fitted(frames, known_users, _known_items(folder, recipe), first_moment)
    vectors = None
    if recipe.items is not None:
        vectors = item_source(recipe, item_encoder, cache, show_progress=False).fit(fitted)
    profiles = profile_writer(recipe, folder, cache_dir, progress=False)
    source = make_input(
        recipe,
        encoder,
        profiles,
        show_progress=False,
        item_vectors=None if vectors is None else vectors.transform,
        cache_dir=cache,
        device=device,
    ).fit(fitted)
    with closing(profiles) if profiles else nullcontext():
        x, valid = aligned_vectors(source, now)
    codes = np.full((len(x), recipe.n_levels), NO_CODE, np.int32)
    if valid.any():
        codes[valid] = load_quantizer(folder / CODEBOOKS).encode(x[valid])
    deepest = recipe.n_levels if recipe.agg_level == "backoff" else recipe.agg_level
    least = recipe.min_members if recipe.agg_level == "backoff" else 1
    names = _existing_groups(codes, groups.set_index(GROUP_ID)[SIZE], deepest, least)
    _warn_of_lost(valid, names, "users")
    return _assigned(USER_ID, frames.users[USER_ID], codes, names)


def assign_items(
    table: str | Path,
    items: pd.DataFrame | None,
    interactions: pd.DataFrame,
    users: pd.DataFrame | None = None,
    time: float | None = None,
    *,
    cache_dir: str | Path | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Give items an id and a cluster of an existing table, new ones included.

    An item's vector is made from its fields and the events given here, coded with the table's
    codewords, and led to the newest snapshot's clusters: the deepest prefix that is large enough
    there by the table's own recipe.

    Args:
        table: Folder of the table.
        items: ``item_id`` and what describes them, of the items to assign and, for inputs that are
            fitted (all but ``text`` and ``random``), of the table's own.
        interactions: Events, old and new; of those before the table's first snapshot all that it
            was built from, for inputs that are fitted.
        users: Users, as given to ``build``.
        time: Use the events strictly before this moment (epoch seconds); all by default.
        cache_dir: Where vectors are kept; ``.embeddings`` next to the table by default.
        device: Device of the encoder.

    Returns:
        Frame ``item_id``, ``code_1`` ..., ``group_id``, sorted by item; -1 and None for items with
        nothing to go by, and None where no prefix of the codes has a cluster.

    Raises:
        TableError: The table is damaged, has no items, or its codebooks were fitted again at each
            snapshot.
        DataError: A frame is wrong.
    """
    folder = Path(table)
    recipe, first_moment = _read_recipe(folder)
    if recipe.items is None:
        raise TableError(f"{folder}: expected ids of items, got a table of users alone")
    frames = canonical_frames(interactions, users, items)
    cache = Path(cache_dir) if cache_dir is not None else folder.parent / ".embeddings"
    _, encoder = make_encoders(recipe, cache, device)
    _, known_users = _read_groups(folder)
    fitted = _as_fitted(frames, known_users, _known_items(folder, recipe), first_moment)
    source = item_source(recipe, encoder, cache, show_progress=False).fit(fitted)
    _, x, valid = source.transform(_at(frames, time))
    codes = np.full((len(x), recipe.items.n_levels), NO_CODE, np.int32)
    if valid.any():
        codes[valid] = load_quantizer(folder / ITEM_CODEBOOKS).encode(x[valid])
    sizes = _prefix_sizes(_newest_item_codes(folder, recipe.items.n_levels))
    names = _existing_groups(codes, sizes, recipe.items.n_levels, recipe.items.min_members)
    _warn_of_lost(valid, names, "items")
    return _assigned(ITEM_ID, frames.items[ITEM_ID], codes, names)


def _at(frames: Frames, time: float | None) -> Frames:
    moment = float("inf") if time is None else time
    return Frames(frames.interactions, frames.users, frames.items, moment)


def _assigned(
    key: str, ids: pd.Series, codes: NDArray[np.int32], names: NDArray[np.object_]
) -> pd.DataFrame:
    out = pd.DataFrame({key: ids.to_numpy(object)})
    for level in range(codes.shape[1]):
        out[code_column(level + 1)] = codes[:, level]
    out[GROUP_ID] = pd.Series(names, dtype=object)
    return out


def _warn_of_lost(valid: NDArray[np.bool_], names: NDArray[np.object_], what: str) -> None:
    lost = int((valid & pd.isna(names)).sum())
    if lost:
        logger.warning("assign: %d %s have codes without any group in the table", lost, what)


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


def _known_items(folder: Path, recipe: Recipe) -> pd.Index | None:
    """The items of the table; None where it has none of its own."""
    if recipe.items is None:
        return None
    return pd.Index(_read_items(folder, [ITEM_ID])[ITEM_ID].astype(object).unique())


def _newest_item_codes(folder: Path, n_levels: int) -> NDArray[np.int32]:
    """Codes of the items in the newest snapshot: int32 [n, M]."""
    columns = [code_column(level + 1) for level in range(n_levels)]
    rows = _read_items(folder, [SNAPSHOT, *columns])
    return rows.loc[rows[SNAPSHOT] == rows[SNAPSHOT].max(), columns].to_numpy(np.int32)


def _read_items(folder: Path, columns: list[str]) -> pd.DataFrame:
    try:
        return pq.read_table(folder / ITEMS, columns=columns).to_pandas()
    except (OSError, KeyError, ValueError) as error:
        line = " ".join(str(error).split())
        raise TableError(f"{folder}: the table cannot be read: {line}") from None


def _prefix_sizes(codes: NDArray[np.int32]) -> pd.Series:
    """Members of each prefix of the codes, by its name."""
    known = codes[(codes >= 0).all(axis=1)]
    parts = [
        pd.Series(group_names(known, np.full(len(known), level)), dtype=object).value_counts()
        for level in range(1, codes.shape[1] + 1)
    ]
    return pd.concat(parts)


def _as_fitted(
    frames: Frames, known_users: pd.Index, known_items: pd.Index | None, moment: float
) -> Frames:
    """What the table's inputs were fitted on: events of its users before the first snapshot."""
    events = frames.interactions[frames.interactions[USER_ID].isin(known_users)]
    items = frames.items
    if known_items is not None:
        events = events[events[ITEM_ID].isin(known_items)]
        items = items[items[ITEM_ID].isin(known_items)].reset_index(drop=True)
    users = frames.users[frames.users[USER_ID].isin(known_users)].reset_index(drop=True)
    return Frames(events.reset_index(drop=True), users, items, moment)


def _existing_groups(
    codes: NDArray[np.int32], size: pd.Series, deepest: int, least: int
) -> NDArray[np.object_]:
    """Deepest prefix that the table has, large enough where there is a choice: object [n].

    Args:
        codes: int32 [n, M], -1 where there are none.
        size: Members by the name of a prefix.
        deepest: Deepest level to look at.
        least: Members that a prefix below the first level needs.
    """
    known = codes[:, 0] >= 0
    chosen = np.full(len(codes), None, object)
    for level in range(1, deepest + 1):
        names = group_names(codes, np.where(known, level, 0))
        members = pd.Series(names, dtype=object).map(size).fillna(0).to_numpy(np.float64)
        take = members >= (1 if level == 1 else least)
        chosen[take] = names[take]
    return chosen
