"""Plots as pictures, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recbole_choir.report.plot import MARKERS, Plot

_DPI = 120


def write_png(plot: Plot, path: Path) -> Path:
    """Draw a plot as a picture of about 1,200 pixels.

    The figure is made without pyplot, so that no window system and no global state is touched.
    """
    panels, columns, n_rows = plot.panels, plot.columns, plot.n_rows
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
    for curve in plot.curves(panel):
        colour, label = curve.style.colour, curve.series
        if plot.kind == "cloud":
            axis.scatter(curve.x, curve.y, s=7, color=colour, label=label, linewidths=0, alpha=0.8)
            continue
        errors = None
        if curve.below is not None and curve.above is not None:
            errors = [curve.below.to_numpy(), curve.above.to_numpy()]
        axis.errorbar(
            curve.x,
            curve.y,
            yerr=errors,
            color=colour,
            marker=MARKERS[curve.style.marker] if curve.marked else "",
            markersize=4,
            linestyle="-" if curve.joined else "",
            linewidth=1.2,
            elinewidth=0.9,
            capsize=1.5,
            label=label,
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
    elif plot.tick_places:
        axis.set_xticks(plot.tick_places)
    if panel in plot.log_y:
        axis.set_yscale("log")
