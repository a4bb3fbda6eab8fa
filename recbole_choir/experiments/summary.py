"""What the records of a comparison say together: averages of seeds, differences, their chances."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_choir import record as records
from recbole_choir.errors import DataError
from recbole_choir.experiments.ensemble import average_pair, seed_pairs
from recbole_choir.experiments.plan import Average, Plan
from recbole_choir.experiments.record_store import SUMMARY, read_record, read_records
from recbole_choir.experiments.runner import Progress
from recbole_choir.experiments.runs import finished, record_path
from recbole_choir.experiments.scored_rows import load_predictions, same_rows, segment_rows
from recbole_choir.experiments.significance import UserAUC, bootstrap, holm, paired_t

#: Fewest draws of the bootstrap; many tests take more, see :func:`draws_for`.
DRAWS = 10_000
CHOSEN = Path(SUMMARY) / "chosen.json"
DIFFERENCES = Path(SUMMARY) / "differences.json"
SIGNIFICANCE = Path(SUMMARY) / "significance.json"
#: Below this corrected p a difference is marked in the tables.
LEVEL = 0.05

State = Mapping[tuple[str, str], Progress]


def collect(plan: Plan, state: State, out: Path) -> dict[tuple[str, str], list[Path]]:
    """The records that count, of each row; those of an earlier choice are marked as superseded.

    Writes the records of the averaged seeds. A record whose cell has meanwhile chosen another
    point, or was asked with other settings, stays on disk with the role "superseded".

    Returns:
        Dataset and row -> its finished records, in the order of the seeds.
    """
    found = {
        key: [record_path(run, out) for run in progress.seeds if finished(run, out)]
        for key, progress in state.items()
    }
    asked = {
        key: {record_path(run, out) for run in progress.seeds} for key, progress in state.items()
    }
    for average in plan.averages:
        paths = _average(average, found[average.dataset, average.of], out)
        found[average.dataset, average.name] = paths
        asked[average.dataset, average.name] = set(paths)
    for file, record in read_records(out).items():
        path = out / file
        key, role = (record.get("dataset"), record.get("cell")), record.get("role")
        if key not in asked or role == "tune":
            continue
        wanted = record.get("kept_role", role) if path in asked[key] else "superseded"
        if wanted != role:
            records.write_json(path, {**record, "role": wanted, "kept_role": role})
    return found


def _average(average: Average, members: Sequence[Path], out: Path) -> list[Path]:
    paths = []
    for first, second in seed_pairs(members):
        name = f"{average.dataset}-{records.file_name(average.name)}"
        if average.by_first:
            name = f"{name}-{first.stem[-8:]}"
        else:
            digest = records.config_hash({"of": [first.name, second.name]})
            name = f"{name}-{read_record(first)['seed']}-{digest}"
        path = out / f"{name}.json"
        if not _is_current(path, (first, second)):
            average_pair(first, second, average.name, path)
        paths.append(path)
    return paths


def _is_current(average: Path, members: Sequence[Path]) -> bool:
    """Whether an average is there, and newer than the predictions that it was made from."""
    own = average.with_suffix(".npz")
    if read_record(average) is None or not own.exists():
        return False
    made = [path.with_suffix(".npz").stat().st_mtime_ns for path in members]
    return own.stat().st_mtime_ns >= max(made)


def write_significance(
    plan: Plan, found: Mapping[tuple[str, str], Sequence[Path]], out: Path
) -> list[dict[str, Any]]:
    """Test every pair of the plan in every segment, and write the result next to the records.

    Two tests: a paired bootstrap over users (is it these users?), with the per-user AUCs averaged
    over the seeds, and a paired t-test over the seeds both have (is it this seed?). Each is
    corrected by Holm over all pairs and segments of its dataset.

    Returns:
        A row a pair and segment: dataset, cell, against, segment, mean, low, high, n_users, p,
        p_holm, seeds, p_seeds, p_seeds_holm, gain (percent of the second); or an ``error``.
    """
    rows: list[dict[str, Any]] = []
    for dataset in plan.datasets:
        part = _dataset(plan, dataset, found)
        for raw, corrected in (("p", "p_holm"), ("p_seeds", "p_seeds_holm")):
            values = holm([row.get(raw, float("nan")) for row in part])
            for row, value in zip(part, values):
                row[corrected] = float(value)
        rows += part
    records.write_json(out / SIGNIFICANCE, rows)
    # what its readers know: pairs with a figure alone
    records.write_json(out / DIFFERENCES, [r for r in rows if r.get("mean") is not None])
    return rows


def draws_for(n_tests: int) -> int:
    """Draws of the bootstrap, so many that its smallest p stays far below LEVEL when corrected.

    That p is 2 / (draws + 1): with ten thousand draws and 250 tests or more, Holm's correction
    would leave nothing to be found, however large the difference.
    """
    return max(DRAWS, math.ceil(10 * n_tests / LEVEL))


def write_chosen(plan: Plan, state: State, out: Path) -> list[dict[str, Any]]:
    """Write what the search of each row has chosen, for programs: ``summary/chosen.json``.

    Returns:
        A dict a searched row: dataset, row, model, metric, trials, pruned and failed (numbers of
        trials), over (whether all are), value (validation) and point of the best trial, null where
        there is none, and value of the defaults (null of a grid, which need not have them).
    """
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        if not plan.trials_of(cell):
            continue
        trials, best = state[cell.id].trials(), state[cell.id].best()
        count = Counter(trial.state for trial in trials)
        rows.append(
            {
                "dataset": cell.dataset,
                "row": cell.name,
                "model": cell.model,
                "metric": cell.metric,
                "trials": len(trials),
                "pruned": count["pruned"],
                "failed": count["failed"],
                "over": len(trials) == plan.trials_of(cell) and not count["open"],
                "value": best.value if best else None,
                "point": best.point if best else None,
                "defaults": trials[0].value if trials and not plan.grid else None,
            }
        )
    if rows:
        records.write_json(out / CHOSEN, rows)
    return rows


def _dataset(
    plan: Plan, dataset: str, found: Mapping[tuple[str, str], Sequence[Path]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    names = plan.rows(dataset)
    present = [name for name in names if found[dataset, name]]
    loaded = {name: load_predictions(found[dataset, name]) for name in present}
    seen = {name: [read_record(path) for path in found[dataset, name]] for name in present}
    averages = {average.name for average in plan.averages}
    tested: list[tuple[str, str]] = []
    for cell, against in plan.pairs(dataset):
        missing = [name for name in (cell, against) if name not in loaded]
        pair = {"dataset": dataset, "cell": cell, "against": against}
        if missing:
            rows.append({**pair, "error": f"no finished run of '{missing[0]}'"})
        elif not _same_rows(loaded[cell], loaded[against]):
            rows.append({**pair, "error": "not scored on the same rows"})
        else:
            tested.append((cell, against))
    draws = draws_for(len(tested) * len(plan.segments))
    for segment in plan.segments if tested else ():
        for name in {name for pair in tested for name in pair}:
            for run in loaded[name]:
                segment_rows(run, segment)  # all know it, or this is an error
        chances = _segment(tested, loaded, segment, draws)
        for (cell, against), chance in zip(tested, chances):
            ours, theirs = _shared(seen[cell], seen[against], segment)
            # pairs of averaged seeds share members, so they are no independent draws
            p_seeds = float("nan") if cell in averages else paired_t(ours, theirs)
            rows.append(
                {
                    "dataset": dataset,
                    "cell": cell,
                    "against": against,
                    "segment": segment,
                    **chance,
                    "seeds": len(ours),
                    "p_seeds": p_seeds,
                    "gain": gain(_mean(seen[cell], segment), _mean(seen[against], segment)),
                }
            )
    return rows


def _segment(
    pairs: Sequence[tuple[str, str]], loaded: Mapping[str, Any], segment: str, n_draws: int
) -> list[dict[str, Any]]:
    """Bootstrap all pairs in one segment on the same draws; nothing where no user has an AUC."""
    first = loaded[pairs[0][0]][0]
    rows = segment_rows(first, segment)
    nothing = {"mean": None, "low": None, "high": None, "n_users": 0}
    if not rows.any():
        return [dict(nothing) for _ in pairs]
    try:
        users = UserAUC.of(first["users"][rows], first["labels"][rows])
    except DataError:  # nobody has both classes: a segment of few rows
        return [dict(nothing) for _ in pairs]
    names = {name for pair in pairs for name in pair}
    auc = {name: users.mean([run["scores"][rows] for run in loaded[name]]) for name in names}
    gaps = np.stack([auc[a] - auc[b] for a, b in pairs], axis=1)
    return [dataclasses.asdict(d) for d in bootstrap(gaps, users.weight, n_draws)]


def _same_rows(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> bool:
    return same_rows([*first, *second], ("users", "labels")) is None


def _value(record: Mapping[str, Any], segment: str, metric: str = "gauc") -> float:
    value = record["segments"].get(segment, {}).get(metric)
    return float("nan") if value is None else float(value)


def _mean(seen: Sequence[Mapping[str, Any]], segment: str) -> float:
    values = np.array([_value(record, segment) for record in seen])
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _shared(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], segment: str
) -> tuple[list[float], list[float]]:
    """GAUC of the seeds that both have, in one order."""
    theirs = {record["seed"]: _value(record, segment) for record in second}
    shared = [record for record in first if record["seed"] in theirs]
    return [_value(r, segment) for r in shared], [theirs[r["seed"]] for r in shared]


def gain(ours: float, theirs: float) -> float:
    """Relative gain in percent, as the papers give it: .7179 over .7097 is +1.16."""
    return 100 * (ours / theirs - 1) if theirs > 0 else float("nan")
