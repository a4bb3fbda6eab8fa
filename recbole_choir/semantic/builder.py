"""From frames to a semantic table: group, sum up, judge, write (paper 4.2 and 4.3)."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.canonical import canonical_frames, describe_inputs
from recbole_choir.semantic.categories import category_pairs
from recbole_choir.semantic.encode import Encoder
from recbole_choir.semantic.fingerprint import fingerprint_json
from recbole_choir.semantic.frames import Frames
from recbole_choir.semantic.grouping import Grouping, group_users
from recbole_choir.semantic.priors import (
    AttributeKind,
    attribute_kinds,
    choose_levels,
    group_names,
    group_priors,
    prefix_ids,
)
from recbole_choir.semantic.profiles.engines import TEMPLATE
from recbole_choir.semantic.profiles.llm_profiles import LlmProfiles
from recbole_choir.semantic.profiles.store import FILE_NAME
from recbole_choir.semantic.quality import SnapshotGroups, quality_report, quality_table
from recbole_choir.semantic.recipe import TEXT_INPUTS, Recipe, load_recipe
from recbole_choir.semantic.snapshots import snapshot_times
from recbole_choir.semantic.table import TableContent, is_whole, write_table
from recbole_choir.table_format import (
    CODEBOOKS,
    FORMAT_VERSION,
    GROUP_ID,
    SNAPSHOT,
    USER_ID,
    code_column,
)

logger = logging.getLogger(__name__)

#: Raise it when the same recipe and inputs give another table than before.
ALGORITHM_VERSION = 1

#: Inputs that read the users' written profiles.
PROFILE_INPUTS = ("text", "aligned")

_PACKAGES = ("numpy", "pandas", "scipy", "faiss-cpu", "torch", "sentence-transformers")


def build(
    interactions: pd.DataFrame,
    users: pd.DataFrame | None,
    items: pd.DataFrame | None,
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out_dir: str | Path,
    *,
    cache_dir: str | Path | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> Path:
    """Build a semantic table, or reuse the one in ``out_dir`` if recipe and inputs are the same.

    Every snapshot is made from events strictly before its time. The grouping input and the
    codebooks are fitted once, on the distinct vectors of the users seen before the first snapshot
    (of all users if these are few), so that a group id keeps its meaning (recipe key
    ``codebooks``). Users of the ``users`` frame without an event before a
    snapshot get a group where the input can make one (text: from their attributes), else none.

    Args:
        interactions: ``user_id``, ``item_id``, ``timestamp`` (epoch seconds), ``label`` (0 or 1),
            optionally ``query``. Give the training period alone.
        users: ``user_id`` and attributes: floating point columns are continuous, all others
            discrete. None if there are none.
        items: ``item_id``, optionally ``title`` (text), ``category`` (list of names or one name).
        recipe: A recipe, its fields, its name in ``properties/semantic`` or a YAML file.
        out_dir: Folder of the table. An older table there is replaced.
        cache_dir: Where embeddings and a language model's profiles are kept between runs, so that
            an interrupted run resumes; ``.embeddings`` and ``.profiles`` beside ``out_dir`` by
            default.
        device: Device of the text encoder; the encoder's choice by default.
        show_progress: Show progress bars.

    Returns:
        ``out_dir``.

    Raises:
        ConfigError: The recipe is wrong.
        ProfileError: The language model's profiles cannot be written; what is written is kept.
        DataError: A frame is wrong, or no user has anything to be grouped by.
        TableError: The table cannot be written.

    References:
        ChoirRec, sections 4.2 and 4.3; PAPER_GAPS C12, C13, C16 to C19.
    """
    recipe = load_recipe(recipe)
    out = Path(out_dir)
    frames = canonical_frames(interactions, users, items)
    inputs = describe_inputs(frames)
    key = _key(recipe, inputs)
    if is_whole(out, key):
        logger.info("semantic table %s: recipe and inputs are unchanged, reused", out)
        return out

    moments = snapshot_times(frames.interactions["timestamp"].to_numpy(np.float64), recipe)
    encoder = None
    if recipe.input in TEXT_INPUTS:
        cache = Path(cache_dir) if cache_dir is not None else out.parent / ".embeddings"
        encoder = Encoder(recipe.encoder, recipe.truncate_dim, cache_dir=cache, device=device)
    profiles = _profile_writer(recipe, out, cache_dir, show_progress)
    with _stage("group users"), closing(profiles) if profiles else nullcontext():
        grouping = group_users(frames, moments, recipe, encoder, show_progress, profiles)
    pairs = category_pairs(frames.items)
    kinds = attribute_kinds(frames.users)
    with _stage("sum up groups"):
        user_table, group_table, snapshots = _tables(
            frames, moments, grouping, pairs, kinds, recipe, show_progress
        )
    with _stage("judge groups"):
        quality = quality_report(
            frames.interactions,
            frames.users,
            pairs,
            dict(kinds),
            snapshots,
            grouping.n_clusters,
            recipe.seed,
        )
    content = TableContent(
        recipe=recipe.model_dump(mode="json"),
        key=key,
        snapshot_times=[float(t) for t in moments],
        n_clusters=grouping.n_clusters,
        user_attributes=kinds,
        users=user_table,
        groups=group_table,
        inputs=inputs,
        versions=_versions(),
        statistics={
            "fitted_on": grouping.fitted_on,
            "users_with_group": [s["users_with_group"] for s in quality["snapshots"]],
            **({"profiles": profiles.statistics} if profiles else {}),
        },
        profiles=grouping.profiles,
        embeddings=grouping.embeddings,
        quality=quality,
        quality_text=quality_table(quality),
        write_codebooks=lambda folder: grouping.quantizer.save(folder / CODEBOOKS),
    )
    with _stage("write"):
        return write_table(content, out)


def table_key(
    interactions: pd.DataFrame,
    users: pd.DataFrame | None,
    items: pd.DataFrame | None,
    recipe: Recipe | Mapping[str, Any] | str | Path,
) -> str:
    """Key of the table that :func:`build` would make: 16 digits, good as the name of its folder."""
    frames = canonical_frames(interactions, users, items)
    return _key(load_recipe(recipe), describe_inputs(frames))


def _profile_writer(
    recipe: Recipe, out: Path, cache_dir: str | Path | None, show_progress: bool
) -> LlmProfiles | None:
    """Who asks the language model; None where nothing is to be asked."""
    if recipe.input not in PROFILE_INPUTS or recipe.profile_engine == TEMPLATE:
        return None
    folder = Path(cache_dir) if cache_dir is not None else out.parent / ".profiles"
    store = Path(recipe.profile.store) if recipe.profile.store else folder / FILE_NAME
    return LlmProfiles(recipe.profile, store, recipe.windows_days, show_progress)


def _tables(
    frames: Frames,
    moments: NDArray[np.float64],
    grouping: Grouping,
    pairs: pd.DataFrame,
    kinds: dict[str, AttributeKind],
    recipe: Recipe,
    show_progress: bool,
) -> tuple[pd.DataFrame, pd.DataFrame, list[SnapshotGroups]]:
    """Rows of users.parquet and groups.parquet, and the groups for the quality report."""
    user_parts, group_parts, snapshots = [], [], []
    bar = tqdm(moments, desc="group priors", unit="snapshot", disable=not show_progress)
    for index, moment in enumerate(bar):
        codes = grouping.codes[index]
        prefixes = prefix_ids(codes)
        levels = choose_levels(prefixes, recipe.min_members, recipe.agg_level)
        names = group_names(codes, levels)
        user_parts.append(_user_rows(index + 1, frames.users[USER_ID], codes, names))
        positives = frames.before(float(moment)).positives
        priors = group_priors(
            positives,
            frames.users,
            codes,
            pairs,
            kinds,
            recipe.top_categories,
            recipe.sequence_length,
        )
        priors.insert(0, SNAPSHOT, np.full(len(priors), index + 1, np.int32))
        group_parts.append(priors)
        number, _ = pd.factorize(pd.Series(names, dtype=object), sort=True)
        snapshots.append(SnapshotGroups(float(moment), codes, number.astype(np.int64), levels))
        small = _count_small(prefixes, levels, recipe.min_members)
        if small:
            logger.info(
                "snapshot %d: %d users read a group of fewer than %d members: no larger prefix",
                *(index + 1, small, recipe.min_members),
            )
    users = pd.concat(user_parts, ignore_index=True)
    return users, pd.concat(group_parts, ignore_index=True), snapshots


def _user_rows(
    snapshot: int, user_ids: pd.Series, codes: NDArray[np.int32], names: NDArray[np.object_]
) -> pd.DataFrame:
    columns: dict[str, Any] = {
        SNAPSHOT: np.full(len(codes), snapshot, np.int32),
        USER_ID: user_ids.to_numpy(object),
    }
    for level in range(codes.shape[1]):
        columns[code_column(level + 1)] = codes[:, level]
    columns[GROUP_ID] = pd.Series(names, dtype=object)
    return pd.DataFrame(columns)


def _count_small(prefixes: NDArray[np.int64], levels: NDArray[np.int64], min_members: int) -> int:
    """Users whose group has fewer members than asked for."""
    total = 0
    for level in range(1, prefixes.shape[1] + 1):
        column = prefixes[:, level - 1]
        known = column >= 0
        sizes = np.bincount(column[known], minlength=1)
        mine = (levels == level) & known
        total += int((sizes[column[mine]] < min_members).sum())
    return total


def _key(recipe: Recipe, inputs: Mapping[str, Any]) -> str:
    parts: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json", exclude={"profile"}),
        "profile": recipe.profile.identity(),
        "inputs": inputs,
        "algorithm": ALGORITHM_VERSION,
        "format": FORMAT_VERSION,
    }
    if recipe.id_embedding_path is not None:
        path = Path(recipe.id_embedding_path)
        try:
            parts["id_embedding"] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(
                f"recipe.id_embedding_path: '{path}' cannot be read: {error.strerror}"
            ) from None
    return fingerprint_json(parts)


def _versions() -> dict[str, str]:
    out = {}
    for package in _PACKAGES:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return out


@contextmanager
def _stage(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    logger.info("semantic table: %s took %.1f s", name, time.perf_counter() - start)
