"""Plots as pictures, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recbole_choir.report.plot import MARKERS, Plot
from recbole_choir.report.plotly_figures import columns_of, whole_ticks

_DPI = 120


def write_png(plot: Plot, path: Path) -> Path:
    """Draw a plot as a picture of about 1,200 pixels.

    The figure is made without pyplot, so that no window system and no global state is touched.
    """
    panels = plot.panels
    columns = columns_of(len(panels))
    n_rows = -(-len(panels) // columns)
    size = (10.0, 5.4) if plot.kind == "cloud" else (10.0, max(3.1 * n_rows, 3.6))
    drawn = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = drawn.subplots(n_rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels):
        _draw(plot, axis, panel)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    handles = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(
        handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False
    )
    drawn.suptitle(plot.title, fontsize=11, x=0.01, ha="left")
    drawn.savefig(path, metadata={"Software": None})
    return path


def _draw(plot: Plot, axis: Any, panel: str) -> None:
    for series in plot.series:
        rows = plot.part(panel, series)
        if rows.empty:
            continue
        style = plot.styles[series]
        x, y = rows["x"] + plot.shift(series), rows["y"]
        if plot.kind == "cloud":
            axis.scatter(x, y, s=7, color=style.colour, label=series, linewidths=0, alpha=0.8)
            continue
        errors = None
        if "low" in rows and rows["low"].notna().any():
            errors = [(y - rows["low"]).to_numpy(), (rows["high"] - y).to_numpy()]
        dense = len(rows) > 60
        axis.errorbar(
            x,
            y,
            yerr=errors,
            color=style.colour,
            marker="" if dense else MARKERS[style.marker],
            markersize=4,
            linestyle="-" if plot.kind == "lines" else "",
            linewidth=1.2,
            elinewidth=0.9,
            capsize=1.5,
            label=series,
        )
    axis.set_title(panel, fontsize=9)
    axis.set_xlabel(plot.x_title, fontsize=9)
    axis.set_ylabel(plot.y_title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if plot.kind == "cloud":
        axis.set_xticks([])
        axis.set_yticks([])
    else:
        axis.grid(color="#E8E8E8", linewidth=0.6)
        axis.set_axisbelow(True)
    if plot.zero:
        axis.axhline(0, color="#222", linewidth=0.8)
    if plot.ticks:
        axis.set_xticks(list(plot.ticks), list(plot.ticks.values()))
    elif plot.whole_x:
        axis.set_xticks(whole_ticks(plot))
    if panel in plot.log_y:
        axis.set_yscale("log")
