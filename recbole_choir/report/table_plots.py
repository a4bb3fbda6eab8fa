"""Plots that are made from a semantic table: where its groups lie and how large they are."""

from __future__ import annotations

import html
import textwrap
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from recbole_choir import table_format as tf
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError
from recbole_choir.report.plot import COLOURS, GREY, Plot, Style

#: Users on the map: more are no more readable, and cost a minute.
MAX_USERS: Final = 2000
#: Groups with a colour of their own.
N_COLOURS: Final = 10
_OTHERS: Final = "other groups"
_WRAP: Final = 70


def plots_of_table(folder: Path, table: SemanticTable) -> tuple[list[Plot], list[str]]:
    """The map of users and the sizes of groups, both of the last snapshot.

    Args:
        folder: The table's folder.
        table: The table, read from there.

    Returns:
        The plots, and a line about each thing that cannot be shown, and why.

    Raises:
        TableError: A file of the table is damaged or belongs to another one.
    """
    users = _last_snapshot(table)
    sizes, notes = group_sizes(users, len(table.n_codes))
    cloud, more = group_map(folder, table, users)
    return [p for p in (cloud, sizes) if p is not None], notes + more


def _last_snapshot(table: SemanticTable) -> pd.DataFrame:
    frame = table.users.table.to_pandas()
    return frame[frame[tf.SNAPSHOT] == len(table.snapshot_times)].reset_index(drop=True)


def group_sizes(users: pd.DataFrame, n_levels: int) -> tuple[Plot | None, list[str]]:
    """Users of each group by rank: a line for each level of codes, and one for what is read."""
    parts = []
    read = set(users[tf.GROUP_ID].dropna())
    members = []
    prefix = pd.Series("", index=users.index)
    has_codes = users[tf.code_column(1)] != tf.NO_CODE
    if not has_codes.any():
        return None, ["group sizes: no user has a group in the last snapshot"]
    for level in range(1, n_levels + 1):
        prefix = prefix + ("-" if level > 1 else "") + users[tf.code_column(level)].astype(str)
        parts.append(_ranked(prefix[has_codes], f"level {level}"))
        members.append(prefix[has_codes & prefix.isin(read)])
    parts.append(_ranked(pd.concat(members), "the groups that users read"))
    styles = {part["series"].iloc[0]: Style(COLOURS[i]) for i, part in enumerate(parts)}
    without = len(users) - int(has_codes.sum())
    return Plot(
        "sizes",
        "Group sizes",
        "Users of each group, largest first, at the last snapshot. A group that is too small backs "
        "off to its prefix; that is the group its users read, with all members of the prefix. "
        f"{without:,} of {len(users):,} users have none.",
        pd.concat(parts, ignore_index=True),
        "lines",
        "rank of the group",
        "users",
        styles,
        log_y=frozenset({""}),
        whole_x=True,
    ), []


def _ranked(names: pd.Series, series: str) -> pd.DataFrame:
    counts = names.value_counts().to_numpy()
    return pd.DataFrame({"series": series, "x": np.arange(1, len(counts) + 1), "y": counts})


def group_map(
    folder: Path, table: SemanticTable, users: pd.DataFrame, seed: int = 0
) -> tuple[Plot | None, list[str]]:
    """Users in two dimensions, coloured by their group of the first level.

    Vectors are reduced to 50 principal components and placed by t-SNE, as is usual; distances
    between far groups mean nothing.

    Args:
        folder: The table's folder.
        table: The table.
        users: Users of its last snapshot, in the order of the vectors.
        seed: Of the choice of users, where there are more than :data:`MAX_USERS`, and of t-SNE.

    References:
        van der Maaten and Hinton (2008), Visualizing Data using t-SNE.
    """
    path = folder / tf.EMBEDDINGS
    if not path.exists():
        return None, [f"group map: {folder.name} holds no {tf.EMBEDDINGS}"]
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: damaged: {' '.join(str(error).split())}") from None
    if vectors.ndim != 2 or len(vectors) != len(users):
        raise TableError(
            f"{path}: expected a vector for each of {len(users)} users, got {vectors.shape}"
        )
    present = np.flatnonzero(
        (users[tf.code_column(1)] != tf.NO_CODE).to_numpy() & vectors.any(axis=1)
    )
    if len(present) < 5:
        return None, [f"group map: {len(present)} users with vector and group are too few"]
    rng = np.random.default_rng(seed)
    shown = np.sort(rng.permutation(present)[:MAX_USERS])
    place = _layout(vectors[shown].astype(np.float64), seed)
    chosen = users.iloc[shown].reset_index(drop=True)
    first = chosen[tf.code_column(1)].astype(str)
    top = first.value_counts().index[:N_COLOURS].tolist()
    series = first.where(first.isin(top), _OTHERS)
    texts, notes = _texts(folder, table, chosen)
    frame = pd.DataFrame(
        {
            "series": "group " + series.where(series != _OTHERS, ""),
            "x": place[:, 0],
            "y": place[:, 1],
            "user": chosen[tf.USER_ID],
            "group": chosen[tf.GROUP_ID].fillna("none"),
            "text": texts,
        }
    )
    frame.loc[series == _OTHERS, "series"] = _OTHERS
    order = [_OTHERS, *(f"group {name}" for name in top)]
    frame["series"] = pd.Categorical(frame["series"], order, ordered=True)
    frame = frame.sort_values("series", kind="stable").astype({"series": str})
    styles = {f"group {name}": Style(COLOURS[i]) for i, name in enumerate(top)}
    of = (
        f"{len(shown):,} of {len(present):,} users drawn by seed {seed}"
        if len(shown) < len(present)
        else f"{len(shown):,} users"
    )
    return Plot(
        "map",
        "Map of users and their groups",
        f"{of} with a vector at the last snapshot; principal components, then t-SNE. Colour: the "
        f"{len(top)} largest groups of the first level. Point at a user to read the profile.",
        frame.reset_index(drop=True),
        "cloud",
        "t-SNE 1",
        "t-SNE 2",
        {_OTHERS: Style(GREY), **styles},
    ), notes


def _layout(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    components = min(50, *x.shape)
    reduced = PCA(components, random_state=seed).fit_transform(x)
    if reduced.shape[1] <= 2:
        return np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1])))
    perplexity = min(30.0, (len(x) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    # its threads wait for each other by spinning, which costs minutes where cores are shared
    with threadpool_limits(1):
        return tsne.fit_transform(reduced).astype(np.float64)


def _texts(folder: Path, table: SemanticTable, users: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What the hover says of each user: the profile, or what is known of the group."""
    path = folder / tf.PROFILES
    if path.exists():
        try:
            lines = pd.read_json(path, lines=True, dtype={tf.USER_ID: str})
        except ValueError as error:
            raise TableError(f"{path}: damaged: {' '.join(str(error).split())}") from None
        last = lines.sort_values(tf.SNAPSHOT, kind="stable").groupby(tf.USER_ID)["text"].last()
        known = users[tf.USER_ID].map(last)
        return [_hover(u, g, t) for u, g, t in _rows(users, known)], []
    about = _group_texts(table)
    known = users[tf.GROUP_ID].map(about)
    note = f"group map: {folder.name} holds no profiles; the hover names the group's attributes"
    return [_hover(u, g, t) for u, g, t in _rows(users, known)], [note]


def _rows(users: pd.DataFrame, texts: pd.Series) -> zip[tuple[Any, ...]]:
    return zip(users[tf.USER_ID], users[tf.GROUP_ID].fillna("none"), texts.fillna(""))


def _group_texts(table: SemanticTable) -> dict[str, str]:
    groups = table.groups.table.to_pandas()
    groups = groups[groups[tf.SNAPSHOT] == len(table.snapshot_times)]
    names = [tf.ATTR_PREFIX + name for name in table.attributes]
    texts = {}
    for row in groups[[tf.GROUP_ID, tf.SIZE, *names]].to_dict("records"):
        known = [
            f"{name.removeprefix(tf.ATTR_PREFIX)} {_short(row[name])}"
            for name in names
            if not pd.isna(row[name])
        ]
        texts[str(row[tf.GROUP_ID])] = f"{row[tf.SIZE]} users: {', '.join(known)}"
    return texts


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _hover(user: str, group: str, text: str) -> str:
    # plotly reads tags in a hover text; a profile is written by others and may hold anything
    lines = [f"user {user}, group {group}", *textwrap.wrap(str(text), _WRAP)[:12]]
    return "<br>".join(html.escape(line) for line in lines)
