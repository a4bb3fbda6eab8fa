"""Tables over seeds, made from records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_choir.evaluator import ASOF_NAMES
from recbole_choir.experiments.record_store import read_record, read_records
from recbole_choir.experiments.summary import DIFFERENCES

#: Columns of a study's tables that asks for none. As-of segments that no record has are left out.
SEGMENTS = (
    "all",
    "low",
    "level_1",
    "level_3",
    "level_5",
    "asof_1",
    "asof_3",
    "asof_5",
    "n_buy_lt_5",
    "new_users",
)


def load_records(folder: Path) -> pd.DataFrame:
    """Read the records of a study into one row per run and segment.

    Returns:
        Columns dataset, cell, role, seed, segment, auc, gauc, rows, users, error.
    """
    rows: list[dict[str, Any]] = []
    for record in read_records(folder).values():
        common = {k: record.get(k) for k in ("dataset", "cell", "role", "seed", "error")}
        for segment, values in record.get("segments", {"all": {}}).items():
            rows.append({**common, "segment": segment, **values})
    return pd.DataFrame(rows)


def differences(folder: Path, dataset: str) -> pd.DataFrame:
    """Differences in GAUC between pairs of cells, from the study's summary; empty without one."""
    table: dict[str, dict[str, str]] = {}
    for row in read_record(folder / DIFFERENCES) or ():
        if row["dataset"] == dataset:
            name = f"{row['cell']} − {row['against']}"
            table.setdefault(name, {})[row["segment"]] = difference(row)
    return pd.DataFrame.from_dict(table, orient="index")


def interval(row: Mapping[str, Any]) -> str:
    """Interval of a difference as text; nothing where too few users have an AUC to have one."""
    if row["low"] is None or math.isnan(row["low"]):
        return ""
    return f"[{row['low']:+.4f}, {row['high']:+.4f}]"


def difference(row: Mapping[str, Any]) -> str:
    """A difference as text, with its interval where it has one."""
    return f"{row['mean']:+.4f} {interval(row)}".rstrip()


GATES = {
    "frac_qualified": "qualified",
    "frac_margin_active": "margin active",
    "mean_alpha_distill": "alpha_distill",
    **{f"mean_alpha_fusion_level_{k}": f"alpha_fusion, level {k}" for k in range(1, 6)},
    "frac_paired_users": "users with a partner",
    "frac_paired_items": "items with a partner",
    "r_user_level_1": "r of users, level 1",
    "r_user_level_5": "r of users, level 5",
    "r_item_level_1": "r of items, level 1",
    "r_item_level_5": "r of items, level 5",
}


def gates(folder: Path, dataset: str) -> pd.DataFrame:
    """What the gates did in the last epoch, averaged over seeds; a row per cell that has gates."""
    rows = []
    for record in read_records(folder).values():
        history = record.get("history") or [{}]
        seen = history[-1].get("diagnostics") or {}
        if record.get("dataset") == dataset and record.get("role") == "seed" and seen:
            rows.append({"cell": record["cell"], **{GATES[k]: seen.get(k) for k in GATES}})
    if not rows:
        return pd.DataFrame()
    mean = pd.DataFrame(rows).groupby("cell", sort=False).mean().dropna(axis=1, how="all")
    mean = mean.dropna(how="all")  # what the others report are no gates
    return mean.map(lambda v: "" if pd.isna(v) else f"{v:.3f}")


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
    Records of earlier versions have no as-of segments: those that no run has are left out.
    """
    part = frame[(frame["dataset"] == dataset) & ~frame["role"].isin(["tune", "superseded"])]
    found = set(part["segment"])
    segments = [s for s in segments if s in found or s not in ASOF_NAMES]
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


def markdown_tables(
    folder: Path,
    metrics: Iterable[str] = ("gauc", "auc"),
    segments: Sequence[str] = SEGMENTS,
) -> str:
    """All tables of a study's records, one per dataset and metric."""
    frame = load_records(folder)
    parts = []
    for dataset in frame["dataset"].unique():
        for metric in metrics:
            table = comparison(frame, dataset, metric, segments)
            parts.append(f"**{dataset}, test {metric.upper()}**\n\n{to_markdown(table, 'model')}\n")
        gaps = differences(folder, dataset)
        if len(gaps):
            title = f"**{dataset}, differences in test GAUC, paired bootstrap over users, 95 %**"
            parts.append(f"{title}\n\n{to_markdown(gaps, 'difference')}\n")
        behaviour = gates(folder, dataset)
        if len(behaviour):
            title = f"**{dataset}, gates in the last epoch, training rows**"
            parts.append(f"{title}\n\n{to_markdown(behaviour, 'model')}\n")
    return "\n".join(parts)
