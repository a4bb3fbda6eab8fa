"""The table that a run ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def _cell(value: float | int | None, digits: int = 4) -> str:
    if value is None or value != value:  # NaN: a segment without both classes has no AUC
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def segment_table(record: dict[str, Any]) -> Table:
    """Build the table of AUC, GAUC and LogLoss per segment of one record.

    ``users in GAUC`` have both classes within the segment's rows. Records of earlier versions have
    no LogLoss of a segment.
    """
    title = f"{record['name']} on {record['dataset']}, test rows, seed {record['seed']}"
    table = Table(title=title, title_justify="left")
    table.add_column("segment")
    for name in ("AUC", "GAUC", "LogLoss", "rows", "users", "users in GAUC", "positives"):
        table.add_column(name, justify="right")
    for name, row in record["segments"].items():
        table.add_row(
            name,
            _cell(row["auc"]),
            _cell(row["gauc"]),
            _cell(row.get("logloss")),
            _cell(row["rows"]),
            _cell(row["users"]),
            _cell(row["users"] - row["users_one_class"]),
            _cell(row["positive_share"], 3),
        )
    return table


def console_report(
    record: dict[str, Any], path: Path | None, console: Console | None = None
) -> None:
    """Print a record the way a person reads it: the table, the times, where the record is."""
    console = console or Console()
    console.print(segment_table(record))
    for note in record.get("notes", ()):
        console.print(f"note: {note}", soft_wrap=True)
    seconds = record["seconds"]
    console.print(
        f"prepared in {seconds['prepare']:.0f} s, trained in {seconds['train']:.0f} s, "
        f"tested in {seconds['test']:.0f} s"
    )
    if path is not None:
        console.print(f"record: {path}", soft_wrap=True)
