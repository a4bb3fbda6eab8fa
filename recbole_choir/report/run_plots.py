"""Plots that are made from the records of runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.summary import DIFFERENCES
from recbole_choir.report.plot import Plot, Style, cell_styles
from recbole_choir.report.records import RecordFolder, Run

LEVELS: Final = tuple(f"level_{k}" for k in range(1, 6))
_LEVEL_TICKS: Final = {1.0: "1 (least)", 2.0: "2", 3.0: "3", 4.0: "4", 5.0: "5 (most)"}
_ACTIVITY: Final = "activity of the user"
_LEVEL_OF: Final = re.compile(r"(?P<gate>.+)_level_(?P<level>[1-5])")
_GATES: Final = {
    "mean_alpha_fusion": "alpha_fusion",
    "r_user": "r of users (weight of the cluster)",
    "r_item": "r of items (weight of the cluster)",
}
_SWEPT: Final = {"all": "all rows", "low": "low activity"}
# From this ratio of the greatest training loss to the least on, the scale is logarithmic: DCNV2's
# penalty on its weights can make its loss a thousand times another's.
_LOSS_RANGE: Final = 20
_CURVES: Final = {"train_loss": "training loss", "gauc": "GAUC", "auc": "AUC", "logloss": "LogLoss"}

#: A plot, or none; and a line about each thing that it lacks.
Made = tuple[Plot | None, list[str]]


def plots_of_runs(folder: RecordFolder, dataset: str) -> tuple[list[Plot], list[str]]:
    """All plots of a dataset's records.

    Args:
        folder: The records.
        dataset: Which of their datasets.

    Returns:
        The plots, and a line about each thing that cannot be shown, and why.
    """
    makers: tuple[Callable[[RecordFolder, str], Made], ...] = (gains, gates, norms, curves)
    made = [maker(folder, dataset) for maker in makers]
    return [plot for plot, _ in made if plot is not None], [n for _, notes in made for n in notes]


def gains(folder: RecordFolder, dataset: str) -> Made:
    """Gain in GAUC over the base by activity level.

    Intervals are those of the study's paired bootstrap over users where it has all five levels,
    else Student's over the differences of runs with the same seed.

    References:
        ChoirRec, Figure 5; docs/gaps.md C20.
    """
    if folder.base is None or folder.base not in folder.cells(dataset):
        return None, ["GAUC gain by activity: no cell is the base; name one with --base"]
    frame = folder.frame()
    frame = frame[(frame["dataset"] == dataset) & frame["segment"].isin(LEVELS)]
    base = frame[frame["cell"] == folder.base].set_index(["segment", "seed"])["gauc"]
    base = base[~base.index.duplicated()]
    bootstrapped = _bootstrapped(folder, dataset)
    rows: list[dict[str, Any]] = []
    for cell in folder.cells(dataset):
        if cell == folder.base:
            continue
        if set(LEVELS) <= bootstrapped.get(cell, {}).keys():
            found = [(name, bootstrapped[cell][name]) for name in LEVELS]
            kind = "paired bootstrap over users"
        else:
            runs = frame[frame["cell"] == cell].set_index(["segment", "seed"])["gauc"]
            gaps = (runs[~runs.index.duplicated()] - base).dropna()
            found = [
                (name, _student(gaps[gaps.index.get_level_values(0) == name])) for name in LEVELS
            ]
            kind = "Student's t over differences of equal seeds"
        rows += [
            {"series": cell, "x": int(name[-1]), **values, "interval": kind}
            for name, values in found
            if values
        ]
    if not rows:
        return None, [f"GAUC gain by activity: no run has a seed in common with {folder.base}"]
    table = pd.DataFrame(rows)
    alone = [c for c in folder.cells(dataset) if c not in {*table["series"], folder.base}]
    notes = [
        f"GAUC gain by activity, left out: {c} (no finished run with a seed of the base)"
        for c in alone
    ]
    kinds = " and ".join(table["interval"].unique())
    seeds = int(table["seeds"].max())
    intervals = (
        f"95 % intervals: {kinds} ({seeds} seeds)." if seeds > 1 else "One seed: no intervals."
    )
    return Plot(
        "gain",
        f"Gain in test GAUC over {folder.base}, by activity",
        "Levels are fifths of the test users by training positives; a point on the line gains "
        f"nothing. {intervals}",
        table,
        "points",
        _ACTIVITY,
        f"GAUC minus that of {folder.base}",
        _styles(folder, dataset),
        _LEVEL_TICKS,
        zero=True,
    ), notes


def _bootstrapped(folder: RecordFolder, dataset: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Cell -> segment -> difference to the base, from the study's summary."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_record(folder.path / DIFFERENCES) or ():
        if row["dataset"] == dataset and row["against"] == folder.base:
            seeds = {r.record.get("seed") for r in folder.of(dataset) if r.cell == row["cell"]}
            values = {"y": row["mean"], "low": row["low"], "high": row["high"]}
            found.setdefault(row["cell"], {})[row["segment"]] = {**values, "seeds": len(seeds)}
    return found


def _student(gaps: pd.Series) -> dict[str, Any]:
    """Mean of paired differences with its 95 % interval; none for one difference."""
    values = gaps.to_numpy(np.float64)
    if not values.size:
        return {}
    mean, half = float(values.mean()), float("nan")
    if values.size > 1:
        error = values.std(ddof=1) / np.sqrt(values.size)
        half = float(stats.t.ppf(0.975, values.size - 1) * error)
    return {"y": mean, "low": mean - half, "high": mean + half, "seeds": values.size}


def gates(folder: RecordFolder, dataset: str) -> Made:
    """Gates by activity in the last epoch, on the training rows.

    References:
        ChoirRec, Figure 6b; AKT-Rec Eq. 6; docs/gaps.md A8.
    """
    rows: list[dict[str, Any]] = []
    for run in _finished(folder, dataset):
        history = run.record.get("history") or [{}]
        for name, value in (history[-1].get("diagnostics") or {}).items():
            found = _LEVEL_OF.fullmatch(name)
            if found and value is not None:
                panel = _GATES.get(found["gate"], found["gate"])
                rows.append(
                    {"panel": panel, "series": run.cell, "x": int(found["level"]), "y": value}
                )
    if not rows:
        return None, ["gates by activity: no model of these records has gates by activity level"]
    return Plot(
        "gates",
        "Gates by activity",
        "Last epoch, training rows, mean and range over seeds. A gate that helps the less active "
        "more falls from left to right.",
        _over_seeds(rows),
        "lines",
        _ACTIVITY,
        "",
        _styles(folder, dataset),
        _LEVEL_TICKS,
    ), []


def sweeps(folder: RecordFolder, dataset: str) -> tuple[list[Plot], list[str]]:
    """GAUC by the value of a hyper-parameter, a plot for each that was swept.

    Args:
        folder: All records, sweeps among them.
        dataset: Which of their datasets.

    References:
        ChoirRec, Figures 6a and 6b.
    """
    figures: dict[str, list[dict[str, Any]]] = {}
    for run in _finished(folder, dataset):
        about = run.record.get("row") or {}
        if run.kind != "sweep" or not about.get("sweep"):
            continue
        figure, value = about["sweep"]
        figures.setdefault(figure, []).extend(
            {"panel": panel, "series": about["row_of"], "value": value, "y": gauc}
            for segment, panel in _SWEPT.items()
            if (gauc := (run.record["segments"].get(segment) or {}).get("gauc")) is not None
        )
    if not figures:
        return [], ["hyper-parameter figures: none of these runs is of a --sweep"]
    main, plots = folder.main(), []
    for figure, rows in sorted(figures.items()):
        values = sorted({row["value"] for row in rows}, key=_size)
        table = _over_seeds([{**row, "x": values.index(row["value"])} for row in rows])
        plots.append(
            Plot(
                f"sweep-{figure}",
                f"Test GAUC by {figure}",
                "Everything else stays as chosen on validation. Mean and range over seeds.",
                table,
                "lines",
                figure,
                "GAUC",
                _styles(main, dataset),
                {float(x): value for x, value in enumerate(values)},
            )
        )
    return plots, []


def _size(value: str) -> tuple[float, str]:
    """Numbers in their order, then names."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def norms(folder: RecordFolder, dataset: str) -> Made:
    """Lengths of the users' id vectors by activity in training.

    References:
        ChoirRec, Figure 1b.
    """
    positions = {"new": 0, **{name: k for k, name in enumerate(LEVELS, 1)}}
    rows: list[dict[str, Any]] = []
    old, without = set(), set()
    runs = {r.cell: r for r in _finished(folder, dataset) if r.record.get("role") != "average"}
    for run in _finished(folder, dataset):
        if run.cell not in runs:
            continue
        if "user_norms" not in run.record:
            old.add(run.cell)
        elif not run.record["user_norms"]:
            without.add(run.cell)
        for name, part in (run.record.get("user_norms") or {}).items():
            values = {"y": part["median"], "low": part["low"], "high": part["high"]}
            about = {
                "mean": part["mean"],
                "rows_from": part["rows_from"],
                "rows_to": part["rows_to"],
            }
            rows.append({"series": run.cell, "x": positions[name], **values, **about})
    notes = []
    if old:
        notes.append(
            f"norms of user vectors: not in the records of {_list(old, runs)}, which an earlier "
            "version made; run them again"
        )
    if without:
        notes.append(f"norms of user vectors: no vector of a user's id in {_list(without, runs)}")
    if not rows:
        return None, notes
    keys = ["series", "x"]
    frame = pd.DataFrame(rows).groupby(keys, sort=False).mean().reset_index()
    return Plot(
        "norms",
        "Length of user vectors, by activity",
        "Median and quartiles of the Euclidean norm of users' id vectors, mean over seeds. Levels "
        "are fifths of the training users by training rows; new users were never trained.",
        frame,
        "points",
        "activity of the user in training",
        "norm of the id vector",
        _styles(folder, dataset),
        {0.0: "new", **_LEVEL_TICKS} if (frame["x"] == 0).any() else _LEVEL_TICKS,
    ), notes


def curves(folder: RecordFolder, dataset: str) -> Made:
    """Training loss and validation metrics by epoch."""
    rows: list[dict[str, Any]] = []
    for run in _finished(folder, dataset):
        for entry in run.record.get("history") or ():
            end = entry["epoch"] + 1
            found = entry.get("validations") or [{"epoch": end, "valid": entry.get("valid") or {}}]
            if "steps" in entry:  # training stopped in this epoch, at its last validation
                end = found[-1]["epoch"]
            points = [(end, "train_loss", entry.get("train_loss"))]
            points += [(one["epoch"], *item) for one in found for item in one["valid"].items()]
            rows += [
                {"panel": _curve(key), "series": run.cell, "x": x, "y": value}
                for x, key, value in points
                if value is not None
            ]
    if not rows:
        return None, ["training curves: no record holds its epochs"]
    loss = _curve("train_loss")
    losses = [row["y"] for row in rows if row["panel"] == loss]
    wide = bool(losses) and max(losses) > _LOSS_RANGE * min(losses) > 0
    order = {_curve(key): i for i, key in enumerate(_CURVES)}
    rows.sort(key=lambda row: order.get(row["panel"], len(order)))
    return Plot(
        "curves",
        "Training curves",
        "Training loss (with a model's auxiliary losses) after each epoch and validation metrics, "
        "mean over the seeds that got so far. Test figures are those of the epoch that was best on "
        "validation.",
        _over_seeds(rows).drop(columns=["low", "high"]),
        "lines",
        "epoch",
        "",
        _styles(folder, dataset),
        whole_x=all(row["x"] == int(row["x"]) for row in rows),
        log_y=frozenset({loss} if wide else ()),
    ), []


def _curve(key: str) -> str:
    name = _CURVES.get(key, key)
    return name if key == "train_loss" else f"validation {name}"


def _finished(folder: RecordFolder, dataset: str) -> list[Run]:
    return [run for run in folder.of(dataset) if not run.failed]


def _styles(folder: RecordFolder, dataset: str) -> Mapping[str, Style]:
    return cell_styles(folder.cells(dataset), folder.base)


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Mean, least and greatest value over seeds; no range for a single one."""
    keys = ["panel", "series", "x"]
    grouped = pd.DataFrame(rows).groupby(keys, sort=False)["y"]
    frame = grouped.agg(y="mean", low="min", high="max", seeds="size").reset_index()
    frame.loc[frame["seeds"] == 1, ["low", "high"]] = np.nan
    # lines go from left to right, whatever the order of the files
    panel = pd.Categorical(frame["panel"], frame["panel"].unique())
    series = pd.Categorical(frame["series"], frame["series"].unique())
    order = pd.DataFrame({"p": panel, "s": series, "x": frame["x"]}).sort_values(["p", "s", "x"])
    return frame.loc[order.index].reset_index(drop=True)


def _list(names: set[str], everyone: Iterable[str]) -> str:
    """Names in a row; ``any of these runs`` for all of them."""
    return "any of these runs" if names >= set(everyone) else ", ".join(sorted(names))
