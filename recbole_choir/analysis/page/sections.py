"""What stands on the page for one dataset: tables, plots and where each number comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pandas as pd

from recbole_choir.analysis import record as records
from recbole_choir.analysis.differences import FILE as DIFFERENCES
from recbole_choir.analysis.page.folder import RecordFolder, Run
from recbole_choir.analysis.page.of_runs import plots_of_runs
from recbole_choir.analysis.page.of_table import plots_of_table
from recbole_choir.analysis.page.plot import Plot
from recbole_choir.analysis.page.provenance import command, version_sets
from recbole_choir.analysis.tables import comparison, differences, gates
from recbole_choir.data.semantic_table import SemanticTable

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
    "Head and tail": {
        "head_users": "head users",
        "tail_users": "tail users",
        "head_items": "head items",
        "tail_items": "tail items",
        "tail_sample": "tail user or item",
    },
}
METRICS: Final = ("gauc", "auc")


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Args:
        title: Its heading.
        columns: Headings of its columns, without the corner.
        rows: Name of the row -> its cells.
        links: Whether a row's name leads to the runs behind it.
        strong: ``(row, column)`` of cells to be set off.
        note: A line below.
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]
    links: bool = True
    strong: frozenset[tuple[str, str]] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Everything about one dataset.

    Args:
        dataset: Its name.
        facts: Short facts for its head.
        tables: Metric -> tables.
        other_tables: Tables of no metric: differences, gates.
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
    plots, missing = plots_of_runs(folder, dataset)
    if not semantic:
        missing.append(_no_table(folder, dataset))
    for number, table in enumerate(semantic, 1):
        more, notes = plots_of_table(table.path, table)
        plots += [_numbered(plot, table, number if len(semantic) > 1 else None) for plot in more]
        missing += notes
    gaps = _differences(folder, dataset)
    if gaps is None:
        missing.append(
            f"differences with bootstrap intervals: no {DIFFERENCES} in {folder.path.name}"
        )
    missing += _failures(folder.of(dataset))
    versions = version_sets(folder.of(dataset))
    gate_table = gates(folder.path, dataset)
    return Section(
        dataset=dataset,
        facts=_facts(folder, dataset),
        tables={metric: _metric_tables(folder, frame, dataset, metric) for metric in METRICS},
        other_tables=[
            *([gaps] if gaps else []),
            *(
                [_of_frame("Gates in the last epoch, training rows", gate_table)]
                if len(gate_table)
                else []
            ),
        ],
        plots=plots,
        missing=missing,
        sources=_sources(folder.of(dataset), versions),
        versions=versions,
        numbers=_numbers(frame, dataset),
    )


def _metric_tables(
    folder: RecordFolder, frame: pd.DataFrame, dataset: str, metric: str
) -> list[Table]:
    tables = []
    for title, heads in SEGMENTS.items():
        table = comparison(frame, dataset, metric, list(heads))
        table = table.reindex(columns=["runs", *heads]).loc[folder.cells(dataset)]
        tables.append(_of_frame(title, table.rename(columns=heads)))
    return tables


def _of_frame(title: str, frame: pd.DataFrame, **more: Any) -> Table:
    shown = frame.map(lambda v: "" if pd.isna(v) else str(v))
    rows = {str(name): list(row) for name, row in zip(shown.index, shown.to_numpy())}
    return Table(title, [str(c) for c in shown.columns], rows, **more)


def _differences(folder: RecordFolder, dataset: str) -> Table | None:
    """Pairs of cells with their intervals; what excludes zero is set off."""
    frame = differences(folder.path, dataset)
    if not len(frame):
        return None
    heads = {name: head for names in SEGMENTS.values() for name, head in names.items()}
    strong = frozenset(
        (f"{row['cell']} − {row['against']}", heads.get(row["segment"], row["segment"]))
        for row in records.read_json(folder.path / DIFFERENCES)
        if row["dataset"] == dataset and (row["low"] > 0 or row["high"] < 0)
    )
    return _of_frame(
        "Differences in test GAUC",
        frame.rename(columns=heads),
        links=False,
        strong=strong,
        note="Paired bootstrap over users, 95 % interval, seeds averaged. Bold: the interval "
        "excludes zero; nothing is corrected for the number of comparisons.",
    )


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
