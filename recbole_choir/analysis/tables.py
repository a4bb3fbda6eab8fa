"""Tables over seeds, made from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_choir.analysis import record as records
from recbole_choir.analysis.significance import paired_bootstrap

SEGMENTS = ("all", "low", "level_1", "level_3", "level_5", "new_users")


def load_records(folder: Path) -> pd.DataFrame:
    """Read the records of a study into one row per run and segment.

    Returns:
        Columns dataset, cell, role, seed, segment, auc, gauc, rows, users, error.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        record = records.read_json(path)
        common = {k: record.get(k) for k in ("dataset", "cell", "role", "seed", "error")}
        for segment, values in record.get("segments", {"all": {}}).items():
            rows.append({**common, "segment": segment, **values})
    return pd.DataFrame(rows)


def differences(
    folder: Path,
    dataset: str,
    against: str,
    segments: Sequence[str] = ("all", "low", "level_1"),
) -> pd.DataFrame:
    """GAUC of every cell minus that of ``against``, with a paired bootstrap interval over users.

    Needs the predictions beside the records (``.npz``); they are not kept in the repository, so
    the study writes the result to ``differences.json`` and this reads it when they are gone.
    """
    cells: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.json")):
        record = records.read_json(path)
        if record.get("dataset") == dataset and record.get("role") == "seed":
            cells.setdefault(record["cell"], []).append(path)
    loaded = {c: [p.with_suffix(".npz") for p in ps] for c, ps in cells.items()}
    if not loaded.get(against) or not all(p.exists() for ps in loaded.values() for p in ps):
        return pd.DataFrame()
    names = list(records.read_json(cells[against][0])["segments"])
    base = np.load(loaded[against][0])
    users, labels, masks = base["users"], base["labels"], base["segments"]
    scores = {c: [np.load(p)["scores"] for p in ps] for c, ps in loaded.items()}
    table: dict[str, dict[str, str]] = {}
    for cell in (c for c in scores if c != against):
        row = {}
        for segment in segments:
            rows = masks[:, names.index(segment)]
            first = [s[rows] for s in scores[cell]]
            second = [s[rows] for s in scores[against]]
            d = paired_bootstrap(users[rows], labels[rows], first, second)
            row[segment] = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        table[cell] = row
    return pd.DataFrame.from_dict(table, orient="index")


def _mean_std(values: pd.Series, digits: int = 4) -> str:
    values = values.astype(float).dropna()
    if values.empty:
        return "-"
    if len(values) == 1:
        return f"{values.iloc[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def comparison(
    frame: pd.DataFrame, dataset: str, metric: str = "gauc", segments: Sequence[str] = SEGMENTS
) -> pd.DataFrame:
    """One table: a row per cell in the order of the records, a column per segment.

    Cells hold mean and sample standard deviation over seeds; a cell whose every run failed says so.
    """
    part = frame[(frame["dataset"] == dataset) & (frame["role"] != "tune")]
    table: dict[str, dict[str, str]] = {}
    for cell, runs in part.groupby("cell", sort=False):
        if metric not in runs or runs[metric].isna().all():
            table[str(cell)] = {"runs": "failed"}
            continue
        row = {"runs": str(runs.loc[runs["segment"] == "all", metric].notna().sum())}
        for segment in segments:
            row[segment] = _mean_std(runs.loc[runs["segment"] == segment, metric])
        table[str(cell)] = row
    return pd.DataFrame.from_dict(table, orient="index")


def to_markdown(table: pd.DataFrame, corner: str) -> str:
    """Write a frame as a Markdown table."""
    lines = [f"| {corner} | " + " | ".join(map(str, table.columns)) + " |"]
    lines.append("| --- |" + " ---: |" * len(table.columns))
    for name, row in table.iterrows():
        lines.append(f"| {name} | " + " | ".join("" if pd.isna(v) else str(v) for v in row) + " |")
    return "\n".join(lines)


def markdown_tables(folder: Path, metrics: Iterable[str] = ("gauc", "auc")) -> str:
    """All tables of a study's records, one per dataset and metric."""
    frame = load_records(folder)
    parts = []
    for dataset in frame["dataset"].unique():
        for metric in metrics:
            table = comparison(frame, dataset, metric)
            parts.append(f"**{dataset}, test {metric.upper()}**\n\n{to_markdown(table, 'model')}\n")
    return "\n".join(parts)
