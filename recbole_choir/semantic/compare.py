"""Grouping inputs and profile engines side by side on one dataset, from tables and records."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_choir.errors import ChoirError, ConfigError
from recbole_choir.prefix_groups import memberships
from recbole_choir.semantic.builder import build_prepared
from recbole_choir.semantic.frames.canonical import PreparedFrames
from recbole_choir.semantic.frames.categories import CATEGORY, category_pairs
from recbole_choir.semantic.group_measures import (
    LOW_ACTIVITY_SHARE,
    agreement,
    concentration,
    stability,
)
from recbole_choir.semantic.table_writer import read_manifest
from recbole_choir.settings.recipe import Recipe, load_recipe
from recbole_choir.table_format import CODE_PREFIX, GROUP_ID, ITEM_ID, SNAPSHOT, USER_ID

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
    "group's category lift alone ranks what comes after a snapshot, beside the same groups with "
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
        _write(out / "records" / f"{_file_name(name)}.json", json.dumps(record, indent=1) + "\n")
        _write(out / TABLE, comparison_table(records, downstream))
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


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
