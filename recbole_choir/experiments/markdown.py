"""The tables of a comparison as Markdown and CSV, from its records and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_choir import record as records
from recbole_choir.evaluator import ASOF_NAMES
from recbole_choir.experiments.plan import SEGMENTS, Cell, Plan
from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.summary import LEVEL, State
from recbole_choir.experiments.tables import comparison, difference, gates, to_markdown
from recbole_choir.files import write_whole

PAGE = "comparison.md"
TABLES = Path("tables")


@dataclass(frozen=True)
class View:
    """One table of the papers: which segments, which metrics.

    Attributes:
        name: Part of the CSV's name.
        title: Heading.
        segments: Columns.
        metrics: A table each; the gain is in GAUC.
        tested: Whether its segments are tested, so that there are gains with marks.
    """

    name: str
    title: str
    segments: tuple[str, ...]
    metrics: tuple[str, ...] = ("auc", "gauc")
    tested: bool = True


#: ChoirRec's Table 1 and Figure 5, AKT-Rec's Table 1, and who is new.
VIEWS = (
    View("overall", "Overall and low activity", ("low", "all")),
    View("levels", "Activity levels", tuple(f"level_{k}" for k in range(1, 6)), ("gauc",)),
    View("asof", "Activity before the row", ASOF_NAMES, tested=False),
    View("head_tail", "Head and tail", ("tail_users", "head_users", "tail_items", "head_items")),
    View("new", "New users and items", ("new_users", "new_items")),
)


def tidy(plan: Plan, found: Mapping[tuple[str, str], Sequence[Path]]) -> pd.DataFrame:
    """The records that count, a row per run and segment, rows in the order of the plan."""
    rows = []
    for dataset in plan.datasets:
        for name in plan.rows(dataset):
            for path in found[dataset, name]:
                record = read_record(path)
                common = {"dataset": dataset, "cell": name, "role": "seed", "seed": record["seed"]}
                for segment, values in record["segments"].items():
                    if segment in SEGMENTS or segment in ASOF_NAMES:
                        rows.append({**common, "segment": segment, **values})
    columns = ["dataset", "cell", "role", "seed", "segment", "auc", "gauc"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def write_pages(
    plan: Plan,
    state: State,
    found: Mapping[tuple[str, str], Sequence[Path]],
    significance: Sequence[Mapping[str, Any]],
    out: Path,
    command: str,
) -> Path:
    """Write ``comparison.md`` and ``tables/*.csv``.

    Args:
        plan: The comparison.
        state: Of its cells.
        found: The records that count, from :func:`~.summary.collect`.
        significance: From :func:`~.summary.write_significance`.
        out: Folder.
        command: What made them.

    Returns:
        The Markdown file.
    """
    frame = tidy(plan, found)
    parts = [f"# Comparison\n\n`{command}`\n\n{_legend(plan)}"]
    for dataset in plan.datasets:
        status = {name: _status(plan, state, found, dataset, name) for name in plan.rows(dataset)}
        chances = [row for row in significance if row["dataset"] == dataset]
        names = _names(plan, dataset, ("model", "variant", "control"))
        parts.append(f"## {dataset}")
        if not plan.seeds:
            parts += [*_search(plan, state, dataset, out), *_failures(state, dataset)]
            continue
        known = set(frame.loc[frame["dataset"] == dataset, "segment"])
        for view in VIEWS:
            if not view.tested and known.isdisjoint(view.segments):
                continue  # records of an earlier version
            parts.append(f"### {view.title}")
            for metric in view.metrics:
                table = means(frame, dataset, names, view.segments, metric, status)
                parts.append(f"**test {metric.upper()}**\n\n{to_markdown(table, 'model')}")
                _csv(
                    _numbers(frame, dataset, names, view.segments, metric),
                    out / TABLES / f"{dataset}-{view.name}-{metric}.csv",
                )
            if not view.tested:
                continue
            table = gains(chances, names, plan.base, view.segments)
            title = f"**relative gain in GAUC over {plan.base}, %**"
            parts.append(f"{title}\n\n{to_markdown(table, 'model')}")
        parts += _ablations(plan, dataset, frame, chances, status, out)
        parts += _sweeps(plan, dataset, frame, status, out)
        tests = pd.DataFrame(chances)
        if len(tests):
            parts.append(f"### Tests\n\n{to_markdown(_tests(chances), 'difference in GAUC')}")
            _csv(tests.set_index("cell"), out / TABLES / f"{dataset}-tests.csv")
        behaviour = gates(out, dataset)
        if len(behaviour):
            parts.append(f"### Gates, last epoch\n\n{to_markdown(behaviour, 'model')}")
        parts += _search(plan, state, dataset, out)
        parts += _failures(state, dataset)
    page = out / PAGE
    write_whole(page, "\n\n".join(parts) + "\n")
    return page


def _legend(plan: Plan) -> str:
    pruned = "; weak ones were stopped early, and are never chosen" if plan.prune else ""
    if not plan.seeds:
        return (
            f"Every row was searched with {plan.trials} trials (seed {plan.tune_seed}), chosen on "
            f"validation alone{pruned}. No seeds were run."
        )
    seeds = ", ".join(map(str, plan.seeds))
    searched = (
        f"Every row was tuned with {plan.trials} trials (seed {plan.tune_seed}), chosen on "
        f"validation alone{pruned}; sweeps take the point of their model."
        if plan.trials
        else "No row was tuned: all have their defaults."
    )
    return (
        f"{searched} Then seeds {seeds}: mean ± sample standard deviation. Marks on gains: "
        f"`*` p below {LEVEL} in the paired bootstrap over users, `†` in the paired t-test over "
        "seeds, both after Holm's correction over all pairs and segments of the dataset."
    )


def _names(plan: Plan, dataset: str, kinds: Sequence[str]) -> list[str]:
    kind = {cell.name: cell.kind for cell in plan.cells if cell.dataset == dataset}
    return [name for name in plan.rows(dataset) if kind.get(name, "control") in kinds]


def _status(
    plan: Plan,
    state: State,
    found: Mapping[tuple[str, str], Sequence[Path]],
    dataset: str,
    name: str,
) -> str:
    """Finished runs of a row in words: what is missing or failed is named, never left out."""
    done = len(found[dataset, name])
    progress = state.get((dataset, name))
    if progress is None:  # an average
        return str(done) if done else "two finished seeds are needed"
    failed = len(progress.failed_seeds())
    missing = len(plan.seeds) - done - failed
    words = [str(done)] if done or not failed else []
    words += [f"{failed} failed"] if failed and done else ["failed"] if failed else []
    words += [f"{missing} missing"] if missing else []
    return ", ".join(words)


def means(
    frame: pd.DataFrame,
    dataset: str,
    names: Sequence[str],
    segments: Sequence[str],
    metric: str,
    status: Mapping[str, str],
) -> pd.DataFrame:
    """Mean and deviation over seeds; a row for every name, finished or not."""
    if len(frame):
        table = comparison(frame, dataset, metric, list(segments)).reindex(list(names))
    else:
        table = pd.DataFrame(index=list(names), columns=list(segments))
    table["runs"] = [status[name] for name in names]
    return table.reindex(columns=["runs", *segments]).fillna("-")


def _numbers(
    frame: pd.DataFrame, dataset: str, names: Sequence[str], segments: Sequence[str], metric: str
) -> pd.DataFrame:
    """The same as numbers: mean and standard deviation in columns of their own."""
    part = frame[frame["dataset"] == dataset]
    rows = {}
    for name in names:
        mine = part[part["cell"] == name]
        values = {s: pd.to_numeric(mine.loc[mine["segment"] == s, metric]) for s in segments}
        rows[name] = {
            f"{segment}_{what}": getattr(value, what)()
            for segment, value in values.items()
            for what in ("mean", "std", "count")
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def gains(
    chances: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    against: str,
    segments: Sequence[str],
) -> pd.DataFrame:
    """Relative gains in percent with the marks of both tests."""
    table: dict[str, dict[str, str]] = {}
    for name in names:
        row = {}
        for segment in segments:
            hit = [
                c
                for c in chances
                if (c["cell"], c["against"], c.get("segment")) == (name, against, segment)
            ]
            row[segment] = _gain(hit[0]) if hit else "-"
        table[name] = dict.fromkeys(segments, "0.00") if name == against else row
    return pd.DataFrame.from_dict(table, orient="index")


def _gain(row: Mapping[str, Any]) -> str:
    value = row.get("gain")
    if value is None or math.isnan(value):
        return "-"
    marks = [("*", row.get("p_holm")), ("†", row.get("p_seeds_holm"))]
    return f"{value:+.2f}" + "".join(m for m, p in marks if p is not None and p < LEVEL)


def _tests(chances: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    rows: dict[str, dict[str, str]] = {}
    for row in chances:
        name = f"{row['cell']} − {row['against']}"
        if "error" in row:
            rows[name] = {"difference, 95 %": row["error"]}
        elif row.get("mean") is not None:
            rows[f"{name}, {row['segment']}"] = {
                "difference, 95 %": difference(row),
                "users": f"{row['n_users']:,}",
                "p users": _p(row["p"]),
                "Holm": _p(row["p_holm"]),
                "p seeds": _p(row["p_seeds"]),
                "Holm, seeds": _p(row["p_seeds_holm"]),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def _p(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _ablations(
    plan: Plan,
    dataset: str,
    frame: pd.DataFrame,
    chances: Sequence[Mapping[str, Any]],
    status: Mapping[str, str],
    out: Path,
) -> list[str]:
    """A table a model as in the papers' Tables 2: relative change against the full model."""
    parts = []
    rows = [c for c in plan.cells if c.dataset == dataset and c.kind == "ablation"]
    for model in dict.fromkeys(cell.of for cell in rows if cell.of):
        names = [model, *(cell.name for cell in rows if cell.of == model)]
        segments = ("low", "all", "tail_users", "tail_items")
        table = gains(chances, names, model, segments).add_prefix("change, %: ")
        table.insert(0, "runs", [status[name] for name in names])
        figures = means(frame, dataset, names, segments, "gauc", status)
        title = f"### Ablation of {model}\n\n"
        parts.append(f"{title}{to_markdown(table, 'variant')}")
        parts.append(f"**test GAUC**\n\n{to_markdown(figures, 'variant')}")
        _csv(
            _numbers(frame, dataset, names, segments, "gauc"),
            out / TABLES / f"{dataset}-ablation-{records.file_name(model)}.csv",
        )
    return parts


def _sweeps(
    plan: Plan, dataset: str, frame: pd.DataFrame, status: Mapping[str, str], out: Path
) -> list[str]:
    """A table a figure: GAUC of low-activity and of all users by the value."""
    parts = []
    cells = [c for c in plan.cells if c.dataset == dataset and c.part is not None]
    for model, figure in dict.fromkeys((c.of, c.part[0]) for c in cells if c.part):
        mine = [c for c in cells if c.of == model and c.part and c.part[0] == figure]
        names = [cell.name for cell in mine]
        table = means(frame, dataset, names, ("low", "all"), "gauc", status)
        numbers = _numbers(frame, dataset, names, ("low", "all"), "gauc")
        table.index = pd.Index(_values(mine))
        numbers.insert(0, figure, _values(mine))
        title = f"### {figure} of {model}, test GAUC"
        parts.append(f"{title}\n\n{to_markdown(table, figure)}")
        name = f"{dataset}-sweep-{records.file_name(str(model))}-{records.file_name(figure)}.csv"
        _csv(numbers, out / TABLES / name)
    return parts


def _values(cells: Sequence[Cell]) -> list[str]:
    return [cell.part[1] for cell in cells if cell.part is not None]


def _search(plan: Plan, state: State, dataset: str, out: Path) -> list[str]:
    """How every row was tuned: equal numbers of trials, what was chosen, by which value."""
    rows: dict[str, dict[str, str]] = {}
    for cell in plan.cells:
        progress = state[cell.id]
        if cell.dataset != dataset or not plan.trials_of(cell):
            continue
        trials = progress.trials()
        best = progress.best()
        chosen = ", ".join(f"{k} = {v}" for k, v in (best.point if best else {}).items())
        rows[cell.name] = {
            "trials": str(len(trials)),
            "pruned": str(sum(t.state == "pruned" for t in trials)),
            "failed": str(sum(t.state == "failed" for t in trials)),
            f"validation {cell.metric.upper()}": f"{best.value:.4f}" if best else "-",
            "of the defaults": _first(trials),
            "chosen": chosen or "-",
        }
    if not rows:
        return []
    table = pd.DataFrame.from_dict(rows, orient="index")
    _csv(table, out / TABLES / f"{dataset}-search.csv")
    return [f"### Search\n\n{to_markdown(table, 'model')}"]


def _first(trials: Sequence[Any]) -> str:
    value = trials[0].value if trials else None
    return "-" if value is None else f"{value:.4f}"


def _failures(state: State, dataset: str) -> list[str]:
    lines = []
    for progress in state.values():
        if progress.cell.dataset == dataset:
            for record in (*progress.failed_trials(), *progress.failed_seeds()):
                what = "trial" if record["role"] == "tune" else f"seed {record['seed']}"
                error = record.get("error", "the validation metric is not a number")
                lines.append(f"- {record['cell']}, {what}: {error}")
    return ["### Failed runs\n\n" + "\n".join(lines)] if lines else []


def _csv(table: pd.DataFrame, path: Path) -> None:
    write_whole(path, table.to_csv(index_label="model", float_format="%.6f"))
