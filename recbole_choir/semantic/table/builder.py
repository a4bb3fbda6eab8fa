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
from recbole_choir.prefix_groups import prefix_ids
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.canonical import PreparedFrames, prepare_frames
from recbole_choir.semantic.frames.categories import category_pairs
from recbole_choir.semantic.frames.fingerprint import fingerprint_json
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.snapshots import snapshot_times
from recbole_choir.semantic.groups.items import ItemGrouping, group_items
from recbole_choir.semantic.groups.priors import (
    AttributeKind,
    attribute_kinds,
    choose_levels,
    group_names,
    group_priors,
)
from recbole_choir.semantic.groups.users import Grouping, group_users
from recbole_choir.semantic.items import make_item_input
from recbole_choir.semantic.items.source import ItemSource, fingerprint_pictures, item_identity
from recbole_choir.semantic.profiles.llm_profiles import profile_writer
from recbole_choir.semantic.quality.codes import codes_report, codes_table
from recbole_choir.semantic.quality.report import SnapshotGroups, quality_report, quality_table
from recbole_choir.semantic.soft.groups import SoftContent, soft_groups
from recbole_choir.semantic.table.writer import ItemContent, TableContent, is_whole, write_table
from recbole_choir.settings.recipe import Recipe, items_need_encoder, load_recipe, needs_encoder
from recbole_choir.table_format import (
    CODEBOOKS,
    FORMAT_VERSION,
    GROUP_ID,
    ITEM_CODEBOOKS,
    ITEM_ID,
    SNAPSHOT,
    USER_ID,
    code_column,
)
from recbole_choir.table_seal import RowsStamp, stamp_rows

logger = logging.getLogger(__name__)

#: Raise it when the same recipe and inputs give another table than before.
ALGORITHM_VERSION = 2

_PACKAGES = (
    "numpy",
    "pandas",
    "scipy",
    "faiss-cpu",
    "torch",
    "sentence-transformers",
    "torch-rechub",
)


def user_tables(
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
            With the recipe's ``items`` set, each gets a semantic id, a cluster and a vector.
        recipe: A recipe, its fields, its name in ``properties/semantic`` or a YAML file.
        out_dir: Folder of the table. An older table there is replaced.
        cache_dir: Where embeddings, item vectors, trained weights and a language model's profiles
            are kept between runs, so that an interrupted run resumes; ``.embeddings`` and
            ``.profiles`` next to ``out_dir`` by default.
        device: Device of the encoders and of what is trained; their own choice by default, the
            CPU for an RQ-VAE.
        show_progress: Show progress bars.

    Returns:
        ``out_dir``.

    Raises:
        ConfigError: The recipe is wrong.
        ProfileError: The language model's profiles cannot be written; what is written is kept.
        DataError: A frame is wrong, or no user has anything to be grouped by.
        TableError: The table cannot be written.

    References:
        ChoirRec, sections 4.2 and 4.3; docs/gaps.md C12, C13, C16 to C19. AKT-Rec, section 3.1;
        docs/gaps.md A9 to A12, A18.
    """
    prepared = prepare_frames(interactions, users, items)
    return build_prepared(
        prepared,
        recipe,
        out_dir,
        cache_dir=cache_dir,
        device=device,
        show_progress=show_progress,
    )


def build_prepared(
    prepared: PreparedFrames,
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out_dir: str | Path,
    *,
    cache_dir: str | Path | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> Path:
    """As :func:`build`, from frames that are checked and fingerprinted already.

    Args:
        prepared: Of :func:`~.canonical.prepare_frames`.
        recipe, out_dir, cache_dir, device, show_progress: As in :func:`build`.
    """
    recipe = load_recipe(recipe)
    out = Path(out_dir)
    key = prepared_key(prepared, recipe)
    if is_whole(out, key):
        logger.info("semantic table %s: recipe and inputs are unchanged, reused", out)
        return out

    frames = prepared.frames
    moments = snapshot_times(frames.interactions["timestamp"].to_numpy(np.float64), recipe)
    cache = Path(cache_dir) if cache_dir is not None else out.parent / ".embeddings"
    encoder, item_encoder = make_encoders(recipe, cache, device)
    items: ItemGrouping | None = None
    source: ItemSource | None = None
    trained: dict[str, Any] = {"cache_dir": cache, "device": device}
    if recipe.items is not None:
        source = item_source(recipe, item_encoder, cache, show_progress)
        with _stage("ids of items"):
            items = group_items(
                frames,
                moments,
                recipe.items,
                source,
                rqvae=recipe.rqvae,
                codebooks=recipe.codebooks,
                seed=recipe.seed,
                show_progress=show_progress,
                **trained,
            )
    profiles = profile_writer(recipe, out, cache_dir, show_progress)
    with _stage("group users"), closing(profiles) if profiles else nullcontext():
        grouping = group_users(
            frames, moments, recipe, encoder, show_progress, profiles, items=source, **trained
        )
    soft: SoftContent | None = None
    if recipe.soft is not None:
        with _stage("soft groups"):
            soft = _soft_groups(
                frames, moments, recipe, encoder, out, cache_dir, show_progress, trained
            )
    pairs = category_pairs(frames.items)
    kinds = attribute_kinds(frames.users)
    with _stage("sum up groups"):
        user_table, group_table, snapshots = user_tables(
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
        quality |= codes_report(grouping, items, moments)
    content = TableContent(
        recipe=recipe.model_dump(mode="json"),
        key=key,
        snapshot_times=[float(t) for t in moments],
        n_clusters=grouping.n_clusters,
        user_attributes=kinds,
        users=user_table,
        groups=group_table,
        inputs=prepared.inputs,
        versions=_versions(),
        statistics={
            "fitted_on": grouping.fitted_on,
            "users_with_group": [s["users_with_group"] for s in quality["snapshots"]],
            **({"profiles": profiles.statistics} if profiles else {}),
            **({} if soft is None else {"soft_groups": soft.statistics}),
        },
        profiles=grouping.profiles,
        embeddings=grouping.embeddings,
        quality=quality,
        quality_text=quality_table(quality) + codes_table(quality),
        items=None if items is None else _item_content(items, frames),
        soft=soft,
        write_codebooks=lambda folder: _save_codebooks(folder, grouping, items),
        made_from=_made_from(frames, moments),
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
    return prepared_key(prepare_frames(interactions, users, items), recipe)


def prepared_key(prepared: PreparedFrames, recipe: Recipe | Mapping[str, Any] | str | Path) -> str:
    """As :func:`table_key`, of frames that are fingerprinted already."""
    recipe = load_recipe(recipe)
    parts: dict[str, Any] = {
        # A recipe without soft groups keeps the key that it had before there were any.
        "recipe": recipe.model_dump(
            mode="json", exclude={"profile"} if recipe.soft else {"profile", "soft"}
        ),
        "profile": recipe.profile.identity(),
        "inputs": prepared.inputs,
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
    if recipe.items is not None and recipe.items.image_field is not None:
        parts["pictures"] = fingerprint_pictures(prepared.frames, recipe.items.image_field)
    return fingerprint_json(parts)


def make_encoders(
    recipe: Recipe, cache_dir: Path, device: str | None
) -> tuple[Encoder | None, Encoder | None]:
    """Encoders of the users' and of the items' input; one for both where it is the same.

    None for an input that embeds nothing.
    """
    made: dict[str, Encoder] = {}
    out: list[Encoder | None] = []
    own = recipe.items.encoder if recipe.items is not None else None
    for name, needed in (
        (recipe.encoder, needs_encoder(recipe)),
        (own or recipe.encoder, items_need_encoder(recipe)),
    ):
        if needed and name not in made:
            made[name] = Encoder(name, recipe.truncate_dim, cache_dir=cache_dir, device=device)
        out.append(made[name] if needed else None)
    return out[0], out[1]


def item_source(
    recipe: Recipe, encoder: Encoder | None, cache_dir: Path, show_progress: bool
) -> ItemSource:
    """The recipe's item input, with its vectors kept in ``cache_dir``."""
    return ItemSource(
        lambda: make_item_input(recipe, encoder, show_progress),
        item_identity(recipe, encoder),
        cache_dir,
        None if recipe.items is None else recipe.items.image_field,
    )


def _soft_groups(
    frames: Frames,
    moments: NDArray[np.float64],
    recipe: Recipe,
    encoder: Encoder | None,
    out: Path,
    cache_dir: str | Path | None,
    show_progress: bool,
    trained: Mapping[str, Any],
) -> SoftContent:
    """The soft groups, with the written profiles where a space reads them."""
    profiles = None
    if recipe.soft is not None and recipe.soft.reads_profiles:
        of_text = recipe.model_copy(update={"input": "text"})
        profiles = profile_writer(of_text, out, cache_dir, show_progress)
    with closing(profiles) if profiles else nullcontext():
        return soft_groups(
            frames, moments, recipe, encoder, profiles, show_progress=show_progress, **trained
        )


def _made_from(frames: Frames, moments: NDArray[np.float64]) -> list[RowsStamp]:
    """The interactions strictly before each snapshot, for the table's seal."""
    rows = frames.interactions
    user, users = pd.factorize(rows[USER_ID])
    item, items = pd.factorize(rows[ITEM_ID])
    time, label = rows["timestamp"].to_numpy(np.float64), rows["label"].to_numpy()
    return stamp_rows(users.tolist(), items.tolist(), user, item, time, label, moments)


def _item_content(items: ItemGrouping, frames: Frames) -> ItemContent:
    return ItemContent(items.table(frames.items[ITEM_ID]), items.vectors, items.n_clusters)


def _save_codebooks(folder: Path, grouping: Grouping, items: ItemGrouping | None) -> None:
    grouping.quantizer.save(folder / CODEBOOKS)
    if items is not None:
        items.quantizer.save(folder / ITEM_CODEBOOKS)


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
