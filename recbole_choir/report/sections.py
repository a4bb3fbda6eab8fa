"""What stands on the page for one dataset: tables, plots and where each number comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pandas as pd

from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.evaluator import ASOF_NAMES
from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.summary import DIFFERENCES, LEVEL, gain
from recbole_choir.experiments.tables import comparison, gates, interval
from recbole_choir.report.plot import Plot
from recbole_choir.report.records import RecordFolder, Run, command, version_sets
from recbole_choir.report.run_plots import plots_of_runs, sweeps
from recbole_choir.report.table_plots import plots_of_table

#: Name of a table -> its segments and their headings.
SEGMENTS: Final[dict[str, dict[str, str]]] = {
    "Overall and low activity": {
        "all": "all rows",
        "low": "low activity",
        "rest": "other users",
        "new_users": "new users",
        "new_items": "new items",
    },
    "Activity levels": {
        "level_1": "level 1 (least)",
        "level_2": "level 2",
        "level_3": "level 3",
        "level_4": "level 4",
        "level_5": "level 5 (most)",
    },
    "Activity before the row": {
        "asof_1": "fifth 1 (least)",
        "asof_2": "fifth 2",
        "asof_3": "fifth 3",
        "asof_4": "fifth 4",
        "asof_5": "fifth 5 (most)",
        "n_buy_lt_5": "fewer than 5",
    },
    "Head and tail": {
        "head_users": "head users",
        "tail_users": "tail users",
        "head_items": "head items",
        "tail_items": "tail items",
        "tail_sample": "tail user or item",
    },
}
METRICS: Final = ("gauc", "auc")
#: Mark -> the corrected p that it tells of, as in ``recbole-choir compare``.
_MARKS: Final = {"*": "p_holm", "†": "p_seeds_holm"}


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Args:
        title: Its heading.
        columns: Headings of its columns, without the corner.
        rows: Name of the row -> its cells.
        links: Whether a row's name leads to the runs behind it.
        strong: ``(row, column)`` of cells to be set off.
        below: ``(row, column)`` -> a second line of that cell.
        tags: Row -> a word next to its name.
        note: A line below.
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]
    links: bool = True
    strong: frozenset[tuple[str, str]] = frozenset()
    below: Mapping[tuple[str, str], str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Everything about one dataset.

    Args:
        dataset: Its name.
        facts: Short facts for its head.
        tables: Metric -> tables.
        other_tables: Tables of no metric: differences, gates.
        gain_note: What the gains below the numbers are, and their marks.
        plots: Plots in order of the page.
        missing: A line about each thing that could not be shown, and why.
        sources: Cell -> where its numbers come from.
        versions: The sets of versions that runs were made with.
        numbers: Mean, deviation and runs of each cell, segment and metric, for the CSV.
    """

    dataset: str
    facts: Sequence[str]
    tables: Mapping[str, Sequence[Table]]
    other_tables: Sequence[Table]
    gain_note: str
    plots: Sequence[Plot]
    missing: Sequence[str]
    sources: Mapping[str, Sequence[Mapping[str, Any]]]
    versions: Sequence[Mapping[str, str]] = field(default_factory=list)
    numbers: pd.DataFrame = field(default_factory=pd.DataFrame)


def make_section(
    folder: RecordFolder, dataset: str, semantic: Sequence[SemanticTable] = ()
) -> Section:
    """Put together what the records say of a dataset.

    Args:
        folder: The records.
        dataset: Which of their datasets.
        semantic: Semantic tables that its runs have read.

    Raises:
        TableError: A file of a semantic table is damaged.
    """
    frame = folder.frame()
    plots, missing = plots_of_runs(folder.main(), dataset)
    swept, notes = sweeps(folder, dataset)
    plots[1:1] = swept  # after the gains
    missing += notes
    if not semantic:
        missing.append(_no_table(folder, dataset))
    for number, table in enumerate(semantic, 1):
        more, notes = plots_of_table(table.path, table)
        plots += [_numbered(plot, table, number if len(semantic) > 1 else None) for plot in more]
        missing += notes
    compared = _compared(folder, dataset)
    gaps = _differences(compared)
    if not gaps:
        missing.append(
            f"differences with bootstrap intervals: no {DIFFERENCES} in {folder.path.name}"
        )
    missing += _failures(folder.of(dataset))
    versions = version_sets(folder.of(dataset))
    return Section(
        dataset=dataset,
        facts=_facts(folder, dataset),
        tables={m: _metric_tables(folder, frame, dataset, m, compared) for m in METRICS},
        other_tables=[*gaps, *_gates(gates(folder.path, dataset))],
        gain_note=_gain_note(folder.base, compared),
        plots=plots,
        missing=missing,
        sources=_sources(folder.of(dataset), versions),
        versions=versions,
        numbers=_numbers(frame, dataset),
    )


def _metric_tables(
    folder: RecordFolder,
    frame: pd.DataFrame,
    dataset: str,
    metric: str,
    compared: Sequence[Mapping[str, Any]],
) -> list[Table]:
    """Tables of one metric; below GAUC stands the relative gain over the base."""
    kinds = folder.kinds(dataset)
    main = folder.main().cells(dataset)
    others = [cell for cell in kinds if cell not in main]
    known = set(frame.loc[frame["dataset"] == dataset, "segment"])
    parts = [
        (title, heads, main)
        for title, heads in SEGMENTS.items()
        if known.intersection(heads) or not set(ASOF_NAMES).issuperset(heads)
    ]  # records of an earlier version have no as-of segments
    if others:
        heads = {"all": "all rows", "low": "low activity", "level_1": "level 1 (least)"}
        cells = [*([folder.base] if folder.base in kinds else []), *others]
        parts.append(("Ablations and sweeps", heads, cells))
    tables = []
    for title, heads, cells in parts:
        table = comparison(frame, dataset, metric, list(heads))
        table = table.reindex(columns=["runs", *heads]).loc[cells]
        below = _gains(frame, dataset, folder.base, heads, compared) if metric == "gauc" else {}
        tags = {c: k for c, k in kinds.items() if k != "model" and k not in c.lower()}
        tables.append(_of_frame(title, table.rename(columns=heads), below=below, tags=tags))
    return tables


def _gains(
    frame: pd.DataFrame,
    dataset: str,
    base: str | None,
    heads: Mapping[str, str],
    compared: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], str]:
    """Relative gain of each cell over the base, with the marks of its tests."""
    part = frame[(frame["dataset"] == dataset) & frame["segment"].isin(heads)]
    means = part.groupby(["cell", "segment"], sort=False)["gauc"].mean()
    tested = {(r["cell"], r["segment"]): r for r in compared if r["against"] == base}
    below = {}
    found = {(str(c), str(s)): float(v) for (c, s), v in zip(means.index, means)}
    for (cell, segment), mean in found.items():
        value = gain(mean, found.get((str(base), segment), float("nan")))
        if cell != base and not math.isnan(value):
            row = tested.get((cell, segment), {})
            marks = "".join(m for m, key in _MARKS.items() if _found(row.get(key)))
            below[cell, heads[segment]] = f"{value:+.2f} %{marks}"
    return below


def _found(p: float | None) -> bool:
    """Whether a corrected test finds something; one that could not be made finds nothing."""
    return p is not None and p < LEVEL


def _gain_note(base: str | None, compared: Sequence[Mapping[str, Any]]) -> str:
    if base is None:
        return ""
    note = f"Below: relative gain over {base}, in percent of its mean."
    if any("p_holm" in row for row in compared):
        note += (
            f" * p below {LEVEL} in a paired bootstrap over users, † in a paired t-test over seeds,"
            " both after Holm's correction over all pairs and segments."
        )
    return note


def _of_frame(title: str, frame: pd.DataFrame, **more: Any) -> Table:
    shown = frame.map(lambda v: "" if pd.isna(v) else str(v))
    rows = {str(name): list(row) for name, row in zip(shown.index, shown.to_numpy())}
    return Table(title, [str(c) for c in shown.columns], rows, **more)


def _compared(folder: RecordFolder, dataset: str) -> list[dict[str, Any]]:
    """Differences between cells, from the summary of a study or comparison."""
    listed = read_record(folder.path / DIFFERENCES) or ()
    return [row for row in listed if row["dataset"] == dataset]


def _differences(compared: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Pairs of cells with their intervals, a table for each family of segments.

    Set off is what a test finds after its correction, or, where none was made, an interval that
    excludes zero.
    """
    tables = []
    corrected = any("p_holm" in row for row in compared)
    note = "Paired bootstrap over users, 95 % interval, seeds averaged. Bold: " + (
        f"p below {LEVEL} after Holm's correction over all pairs and segments."
        if corrected
        else "the interval excludes zero; nothing is corrected for the number of comparisons."
    )
    for title, heads in SEGMENTS.items():
        rows: dict[str, dict[str, str]] = {}
        intervals = {}
        strong = set()
        for row in compared:
            if row["segment"] not in heads:
                continue
            name, head = f"{row['cell']} − {row['against']}", heads[row["segment"]]
            rows.setdefault(name, {})[head] = f"{row['mean']:+.4f}"
            intervals[name, head] = interval(row)
            excluded = bool(intervals[name, head]) and (row["low"] > 0 or row["high"] < 0)
            if _found(row["p_holm"]) if corrected else excluded:
                strong.add((name, head))
        if rows:
            frame = pd.DataFrame.from_dict(rows, orient="index")
            frame = frame[[head for head in heads.values() if head in frame]]
            name = f"Differences in test GAUC: {title.lower()}"
            look = {"strong": frozenset(strong), "below": intervals, "note": note}
            tables.append(_of_frame(name, frame, links=False, **look))
    return tables


def _gates(frame: pd.DataFrame) -> list[Table]:
    """What the gates did: a table of those by activity level for each, and one of all others."""
    tables: dict[str, dict[str, pd.Series]] = {}
    for column in frame.columns:
        gate, _, level = column.partition(", level ")
        title = f"{gate}, by activity" if level else "Gates"
        head = SEGMENTS["Activity levels"][f"level_{level}"] if level else gate
        tables.setdefault(title, {})[head] = frame[column]
    parts = {title: pd.DataFrame(columns) for title, columns in tables.items()}
    return [
        _of_frame(f"{title} (last epoch, training rows)", part[(part != "").any(axis=1)])
        for title, part in parts.items()
    ]


def _failures(runs: Sequence[Run]) -> list[str]:
    """A line for each cell of which runs failed."""
    lines = []
    for cell in dict.fromkeys(run.cell for run in runs if run.failed):
        mine = [run for run in runs if run.cell == cell]
        failed = [run for run in mine if run.failed]
        lines.append(
            f"{cell}: {len(failed)} of {len(mine)} runs failed: {failed[0].record['error']}"
        )
    return lines


def _facts(folder: RecordFolder, dataset: str) -> list[str]:
    runs = folder.of(dataset)
    done = [run for run in runs if not run.failed]
    facts = [f"{len(folder.cells(dataset))} models and controls", f"{len(done)} finished runs"]
    if len(done) < len(runs):
        facts.append(f"{len(runs) - len(done)} failed")
    rows = next((run.record["rows"] for run in done if run.record.get("rows")), None)
    if rows:
        facts += [
            f"{rows[part]:,} {part} rows" for part in ("train", "valid", "test") if part in rows
        ]
    whole = next((run.record["segments"]["all"] for run in done), None)
    if whole:
        facts.append(f"{whole['users']:,} test users, {whole['positive_share']:.1%} positive")
    return facts


def _sources(runs: Sequence[Run], versions: Sequence[Mapping[str, str]]) -> dict[str, list[Any]]:
    sources: dict[str, list[Any]] = {}
    for run in runs:
        made = dict(run.record.get("versions") or {})
        sources.setdefault(run.cell, []).append(
            {
                "file": run.file,
                "seed": run.record.get("seed"),
                "gauc": _figure(run, "gauc"),
                "auc": _figure(run, "auc"),
                "command": command(run.record),
                "time": run.record.get("time") or "",
                "table": (run.record.get("table") or {}).get("fingerprint") or "",
                "versions": versions.index(made) + 1 if made in versions else "",
                "seconds": sum((run.record.get("seconds") or {}).values()),
                "notes": list(run.record.get("notes") or ()),
                "error": run.record.get("error"),
            }
        )
    return sources


def _figure(run: Run, metric: str) -> str:
    value = None if run.failed else run.record["segments"]["all"].get(metric)
    return "-" if value is None else f"{value:.4f}"


def _numbers(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    part = frame[frame["dataset"] == dataset].melt(
        ["cell", "segment", "seed"], [m for m in METRICS if m in frame], "metric"
    )
    grouped = part.dropna(subset="value").groupby(["cell", "metric", "segment"], sort=False)
    return grouped["value"].agg(mean="mean", std="std", runs="size").reset_index()


def _no_table(folder: RecordFolder, dataset: str) -> str:
    prints = {(run.record.get("table") or {}).get("fingerprint") for run in folder.of(dataset)}
    if prints <= {None}:
        return "group map and group sizes: none of these runs has read a semantic table"
    return (
        "group map and group sizes: no semantic table was given; the runs have read "
        f"{', '.join(sorted(p for p in prints if p))}: add --semantic FOLDER"
    )


def _numbered(plot: Plot, table: SemanticTable, number: int | None) -> Plot:
    if number is None:
        return plot
    return replace(plot, name=f"{plot.name}-{number}", title=f"{plot.title} ({table.path.name})")
