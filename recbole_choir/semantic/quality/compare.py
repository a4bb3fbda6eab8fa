"""Grouping inputs and profile engines side by side on one dataset, from tables and records."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from tqdm import tqdm

from recbole_choir.errors import ChoirError, ConfigError
from recbole_choir.files import write_whole
from recbole_choir.prefix_groups import memberships
from recbole_choir.semantic.frames.canonical import PreparedFrames
from recbole_choir.semantic.frames.categories import CATEGORY, category_pairs
from recbole_choir.semantic.table.builder import build_prepared
from recbole_choir.semantic.table.writer import read_manifest
from recbole_choir.settings.recipe import Recipe, load_recipe
from recbole_choir.table_format import CODE_PREFIX, GROUP_ID, ITEM_ID, SNAPSHOT, USER_ID

#: Share of users that count as low-activity, by number of purchases (docs/gaps.md C20).
LOW_ACTIVITY_SHARE: Final = 0.55

Floats = NDArray[np.float64]


def stability(first: pd.DataFrame, second: pd.DataFrame) -> float | None:
    """How alike two groupings of the same users are: adjusted Rand index, mean over snapshots.

    Args:
        first, second: ``users.parquet`` of two tables: ``snapshot``, ``user_id``, ``group_id``.

    Returns:
        1 for equal groups whatever their names, about 0 for unrelated ones, from the users who
        have a group in both; None where nobody has.
    """
    both = first.merge(second, on=[SNAPSHOT, USER_ID], suffixes=("", "_other"))
    both = both.dropna(subset=[GROUP_ID, f"{GROUP_ID}_other"])
    scores = [
        adjusted_rand_score(rows[GROUP_ID], rows[f"{GROUP_ID}_other"])
        for _, rows in both.groupby(SNAPSHOT)
    ]
    return float(np.mean(scores)) if scores else None


def agreement(
    group: NDArray[np.integer],
    user: NDArray[np.integer],
    category: NDArray[np.integer],
    low_share: float = LOW_ACTIVITY_SHARE,
) -> float | None:
    """Whether the low-activity members of a group like what its high-activity members like.

    ::

        p_L,g, p_H,g    share of each category in the purchases of low and of high members of g
        p_L, p_H        the same over all groups
        agreement     = mean over g of cos(p_L,g - p_L, p_H,g - p_H), weighted by low members

    What everybody likes is taken off first: without that, random groups agree as well.

    Args:
        group: int [n_users], or [n_users, k] all groups that a user is a member of; negative where
            a user has none.
        user: int [P] row of the buyer of each (purchase, category) pair, before the snapshot.
        category: int [P].
        low_share: Share of the users with a purchase, fewest purchases first, who are low.

    Returns:
        In [-1, 1], about 0 for random groups; None where no group has both kinds of members.

    References:
        ChoirRec, section 4.2.1 (consistent comparison between high- and low-activity users).
    """
    belongs = group if group.ndim == 2 else group[:, None]
    known = np.any(belongs >= 0, axis=1)[user]
    user, category = user[known], category[known]
    if len(user) == 0:
        return None
    counts = np.bincount(user, minlength=len(group))
    buyers = np.flatnonzero(counts > 0)
    by_activity = buyers[np.lexsort((buyers, counts[buyers]))]
    low = np.zeros(len(group), bool)
    low[by_activity[: round(low_share * len(buyers))]] = True

    n_groups, n_categories = int(belongs.max()) + 1, int(category.max()) + 1
    event, column = np.nonzero(belongs[user] >= 0)
    of, bought = belongs[user[event], column], category[event]
    shares = [
        _shares(of[part], bought[part], n_groups, n_categories)
        for part in (low[user[event]], ~low[user[event]])
    ]
    lows = belongs[buyers[low[buyers]]]
    members = np.bincount(lows[lows >= 0], minlength=n_groups)  # low ones of each group
    weight = members * (shares[0].sum(axis=1) > 0) * (shares[1].sum(axis=1) > 0)
    if not weight.any():
        return None
    everyone = [
        np.bincount(category[part], minlength=n_categories) / max(int(part.sum()), 1)
        for part in (low[user], ~low[user])
    ]
    cosine = _cosine(shares[0] - everyone[0], shares[1] - everyone[1])
    return float((cosine * weight).sum() / weight.sum())


def concentration(
    group: NDArray[np.integer], user: NDArray[np.integer], category: NDArray[np.integer], n: int
) -> tuple[float | None, float | None]:
    """Share of purchases in the ``n`` largest categories: mean over groups, and of everybody.

    Args:
        group: int [n_users], or [n_users, k] all groups that a user is a member of; negative where
            a user has none.
        user: int [P] row of the buyer of each (purchase, category) pair.
        category: int [P].
        n: Categories that are counted, each group's own.
    """
    belongs = group if group.ndim == 2 else group[:, None]
    known = np.any(belongs >= 0, axis=1)[user]
    user, category = user[known], category[known]
    if len(user) == 0:
        return None, None
    event, column = np.nonzero(belongs[user] >= 0)
    of = belongs[user[event], column]
    shares = _shares(of, category[event], int(of.max()) + 1, int(category.max()) + 1)
    shares = shares[shares.sum(axis=1) > 0]
    everybody = np.sort(np.bincount(category) / len(category))[::-1]
    top = np.sort(shares, axis=1)[:, ::-1][:, :n]
    return float(top.sum(axis=1).mean()), float(everybody[:n].sum())


def _shares(
    group: NDArray[np.integer], category: NDArray[np.integer], n_groups: int, n_categories: int
) -> Floats:
    """Share of each category in a group's purchases [groups, categories]; zeros without any."""
    flat = group.astype(np.int64) * n_categories + category
    counts = np.bincount(flat, minlength=n_groups * n_categories).reshape(n_groups, n_categories)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _cosine(a: Floats, b: Floats) -> Floats:
    """Cosine of each row of ``a`` with that of ``b``; 0 where one of them is 0."""
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 1e-12)


logger = logging.getLogger(__name__)

SEEDS: Final = (0, 1)
TABLE: Final = "comparison.md"

_COLUMNS: Final = (
    ("grouping", "{name}"),
    ("groups", "{groups:.0f}"),
    ("users in groups", "{with_group:.1%}"),
    ("median size", "{median_size:.0f}"),
    ("attributes alike", "{attributes:.1%}"),
    ("top 50 categories", "{top_share:.1%}"),
    ("top quarter", "{quarter_share:.1%}"),
    ("stability", "{stability:.3f}"),
    ("low-high agreement", "{agreement:.3f}"),
    ("lift GAUC", "{lift:.4f}"),
    ("of permuted", "{lift_random:.4f}"),
    ("lift, level 1", "{lift_level_1:.4f}"),
)

_NOTES: Final = (
    "*attributes alike*: share of a group's members with the mode of an attribute (the paper: "
    "83 %); {attributes_population} with all users as one group. *top 50 categories*: share of a "
    "group's purchases in its {top_n} largest categories (the paper, of fine-grained ones: 60 %), "
    "{top_population} of all purchases; *top quarter*: in the largest quarter of the categories, "
    "{quarter_population} of all purchases. *stability*: adjusted Rand index of two seeds of the "
    "grouping. *low-high agreement*: cosine between what the less active {low:.0%} and the other "
    "members of a group like more than everybody, 0 for random groups. *lift GAUC*: how well the "
    "group's category lift alone ranks what comes after a snapshot, next to the same groups with "
    "permuted members; level 1: the least active fifth. Figures are means over {seeds} seeds, of "
    "the last snapshot; lift and stability are of all snapshots.\n"
)


def parse_candidates(
    words: Sequence[str], overrides: Mapping[str, Any] | None = None
) -> dict[str, Recipe]:
    """``[NAME=]RECIPE`` words as candidates, named by the recipe where no name is given.

    Args:
        words: Recipes are names in ``properties/semantic`` or YAML files.
        overrides: Fields for all of them.

    Raises:
        ConfigError: There is no such recipe, or two candidates have one name.
    """
    out: dict[str, Recipe] = {}
    for word in words:
        name, equals, source = word.rpartition("=")
        name = name if equals else Path(source).stem
        if name in out:
            raise ConfigError(f"recipes: expected different names, got '{name}' twice")
        out[name] = load_recipe(source, overrides)
    return out


def compare(
    prepared: PreparedFrames,
    candidates: Mapping[str, Recipe],
    out_dir: str | Path,
    *,
    seeds: Sequence[int] = SEEDS,
    cache_dir: str | Path | None = None,
    device: str | None = None,
    downstream: Mapping[str, Mapping[str, str]] | None = None,
    show_progress: bool = True,
) -> list[dict[str, Any]]:
    """Build a table per candidate and seed, measure them, write records and a Markdown table.

    A table that is there already is used again, and profiles and embeddings are kept: a comparison
    that was stopped goes on where it was. A candidate that fails is a record with its error.

    Args:
        prepared: Frames of the training period.
        candidates: Name -> recipe; their seeds are replaced.
        out_dir: Gets ``tables/``, ``records/<name>.json`` and ``comparison.md``.
        seeds: Of the grouping; two at least for stability.
        cache_dir: Embeddings and profiles; ``<out_dir>/cache`` by default.
        device: Of the encoders.
        downstream: Name -> further columns (heading -> figure) of the table, such as the GAUC of
            models trained with these groups.
        show_progress: Show progress bars.

    Returns:
        One record a candidate.

    Raises:
        ConfigError: Fewer than two seeds, or two names that make one file.

    References:
        ChoirRec, section 5.5 (semantic group consistency).
    """
    if len(set(seeds)) < 2:
        raise ConfigError(f"seeds: expected two different ones, got {list(seeds)}")
    files = {_file_name(name) for name in candidates}
    if len(files) < len(candidates):
        raise ConfigError(f"candidates: expected different names, got {', '.join(candidates)}")
    out = Path(out_dir)
    cache = Path(cache_dir) if cache_dir is not None else out / "cache"
    records = []
    bar = tqdm(candidates.items(), desc="compare", unit="grouping", disable=not show_progress)
    for name, recipe in bar:
        bar.set_postfix_str(name)
        start = time.perf_counter()
        record: dict[str, Any] = {"name": name, "recipe": recipe.model_dump(mode="json")}
        try:
            tables = [
                build_prepared(
                    prepared,
                    recipe.model_copy(update={"seed": seed}),
                    out / "tables" / f"{_file_name(name)}-{seed}",
                    cache_dir=cache,
                    device=device,
                    show_progress=show_progress,
                )
                for seed in seeds
            ]
            record |= measure(prepared, tables)
        except ChoirError as error:
            logger.warning("%s: %s", name, error)
            record["error"] = str(error)
        record |= {
            "seeds": list(seeds),
            "inputs": prepared.inputs,
            "seconds": round(time.perf_counter() - start, 1),
        }
        records.append(record)
        write_whole(
            out / "records" / f"{_file_name(name)}.json", json.dumps(record, indent=1) + "\n"
        )
        write_whole(out / TABLE, comparison_table(records, downstream))
    return records


def measure(prepared: PreparedFrames, tables: Sequence[Path]) -> dict[str, Any]:
    """Measures of one grouping from its tables of different seeds: means, and each seed's own."""
    users = [pd.read_parquet(table / "users.parquet") for table in tables]
    manifests = [read_manifest(table) for table in tables]
    each = [_measure_one(prepared, table, rows) for table, rows in zip(tables, users)]
    means: dict[str, Any] = {name: _mean([one[name] for one in each]) for name in each[0]}
    pairs = [
        stability(users[i], users[j]) for i in range(len(users)) for j in range(i + 1, len(users))
    ]
    means["stability"] = _mean(pairs)
    return {
        "measures": means,
        "by_seed": each,
        "fingerprints": [manifest.get("fingerprint") for manifest in manifests],
        "profiles": manifests[0]["statistics"].get("profiles"),
    }


def comparison_table(
    records: Sequence[Mapping[str, Any]],
    downstream: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The records as a Markdown table with its legend; a failed candidate shows its error."""
    further = list(dict.fromkeys(h for row in (downstream or {}).values() for h in row))
    heads = [head for head, _ in _COLUMNS] + further
    lines = [
        "| " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * (len(heads) - 1),
    ]
    for record in records:
        if "error" in record:
            cells = [str(record["name"]), f"failed: {record['error']}"]
            cells += [""] * (len(heads) - 2)
        else:
            values = {"name": record["name"], **record["measures"]}
            cells = [_cell(form, values) for _, form in _COLUMNS]
            mine = (downstream or {}).get(str(record["name"]), {})
            cells += [mine.get(head, "-") for head in further]
        lines.append("| " + " | ".join(cells) + " |")
    whole = [record for record in records if "error" not in record]
    lines += [""]
    if whole:
        first = whole[0]
        values = first["measures"]
        lines.append(
            _NOTES.format(
                attributes_population=_cell("{attributes_population:.1%}", values),
                top_n=_cell("{top_n:.0f}", values),
                top_population=_cell("{top_population:.1%}", values),
                quarter_population=_cell("{quarter_population:.1%}", values),
                low=LOW_ACTIVITY_SHARE,
                seeds=len(first["by_seed"]),
            )
        )
    lines += [_profile_line(record) for record in whole if record.get("profiles")]
    return "\n".join(lines).rstrip() + "\n"


def _measure_one(prepared: PreparedFrames, table: Path, users: pd.DataFrame) -> dict[str, Any]:
    quality = json.loads((table / "quality.json").read_text(encoding="utf-8"))
    last = quality["snapshots"][-1]
    lift = {row["segment"]: row for row in quality["lift_gauc"]}
    now = users[users[SNAPSHOT] == users[SNAPSHOT].max()]
    belongs = _belongs(now)
    sizes = np.bincount(belongs[belongs >= 0])
    return {
        "groups": last["groups"],
        "with_group": last["users_with_group"] / max(last["users"], 1),
        "median_size": float(np.median(sizes)) if len(sizes) else None,
        "attributes": last["attribute_consistency"]["mean"],
        "attributes_population": last["attribute_consistency"]["population"],
        "top_n": last["top_categories"]["n"],
        "top_share": last["top_categories"]["share"],
        "top_population": last["top_categories"]["population"],
        **_behaviour_inside(prepared, now, float(last["time"])),
        "lift": lift["all"]["gauc"],
        "lift_random": lift["all"]["random"],
        **{f"lift_{name}": row["gauc"] for name, row in lift.items() if name != "all"},
    }


def _behaviour_inside(
    prepared: PreparedFrames, users: pd.DataFrame, moment: float
) -> dict[str, float | None]:
    """What the members of the groups bought before a snapshot: agreement and concentration."""
    frames = prepared.frames.before(moment)
    group = _belongs(users)
    bought = frames.positives[[USER_ID, ITEM_ID]].merge(category_pairs(frames.items), on=ITEM_ID)
    row = pd.Index(users[USER_ID].to_numpy(object)).get_indexer(
        pd.Index(bought[USER_ID].to_numpy(object))
    )
    category, names = pd.factorize(bought[CATEGORY], sort=True)
    known = row >= 0
    quarter = max(1, round(len(names) / 4))
    share, population = concentration(group, row[known], category[known], quarter)
    return {
        "agreement": agreement(group, row[known], category[known]),
        "quarter_n": quarter,
        "quarter_share": share,
        "quarter_population": population,
    }


def _belongs(users: pd.DataFrame) -> NDArray[np.int64]:
    """All groups [n_users, k] that each user of one snapshot is a member of, -1 for none."""
    group, _ = pd.factorize(users[GROUP_ID], sort=True)
    level = users[GROUP_ID].str.count("-").fillna(-1).to_numpy(np.int64) + 1
    codes = users[[c for c in users.columns if str(c).startswith(CODE_PREFIX)]].to_numpy(np.int64)
    return memberships(codes, group, level)


def _profile_line(record: Mapping[str, Any]) -> str:
    p = record["profiles"]
    again = sum(s["changed"] for s in p["snapshots"][1:])
    seen = sum(s["with_prompt"] - s["new"] for s in p["snapshots"][1:])
    failed = ", ".join(f"{name} {n}" for name, n in sorted(p["failed"].items())) or "none"
    prompts = sum(s["with_prompt"] for s in p["snapshots"])
    return (
        f"*{record['name']}*: {p['model']}; {prompts} profiles over {len(p['snapshots'])} "
        f"snapshots, {p['fallback']} of them the template's after a failure ({failed}). Of {seen} "
        f"users met again at a snapshot, {again} had another prompt and were asked again."
    )


def _cell(form: str, values: Mapping[str, Any]) -> str:
    key = form.strip("{}").split(":")[0]
    value = values.get(key)
    return "-" if value is None else form.format(**{key: value})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_") or "_"
