"""What a plot shows: one definition for the page (plotly) and for the picture (matplotlib).

Everything that both must agree on is decided here: which curves a panel has, where their points
are, whether these are joined and marked, their intervals, the ticks, the arrangement of panels.
What draws them only says it in its library's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import pandas as pd

#: Colours that people with any colour vision tell apart (Okabe and Ito, then Tol's muted ones),
#: without yellow, which is lost on white.
COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#332288",
    "#44AA99",
    "#AA4499",
    "#661100",
)
BASE_COLOUR: Final = "#333333"
GREY: Final = "#C4C4C4"
#: A line with more points than these has no markers.
_MANY: Final = 60

#: plotly's name of a marker -> matplotlib's.
MARKERS: Final = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
    "star": "*",
}


@dataclass(frozen=True)
class Style:
    """How a series looks: a colour and the name of a marker."""

    colour: str
    marker: str = "circle"


@dataclass(frozen=True)
class Curve:
    """One series in one panel, ready to be drawn.

    Attributes:
        series: Its name.
        style: Its look.
        rows: Its rows of the plot's frame.
        x, y: Places of its points; x with the shift of the series.
        below, above: Lengths of the intervals to either side of y; None without intervals.
        joined: Whether its points are joined by a line.
        marked: Whether its points have markers; so many on a line would hide it.
    """

    series: str
    style: Style
    rows: pd.DataFrame
    x: pd.Series
    y: pd.Series
    below: pd.Series | None
    above: pd.Series | None
    joined: bool
    marked: bool


@dataclass(frozen=True)
class Plot:
    """One plot: its numbers, and what they are to each other.

    Args:
        name: Part of the names of its files.
        title: What it shows.
        caption: How to read it, and what its intervals are.
        frame: Numbers as they go into the CSV. Columns ``series``, ``x``, ``y``; ``panel`` where
            there are several; ``low`` and ``high`` where there are intervals; ``text`` for the
            hover.
        kind: ``lines``, ``points`` (series side by side, for wide intervals) or ``cloud``.
        x_title, y_title: Of the axes; without ``y_title`` the panel's name stands there.
        styles: Series -> look.
        ticks: Position -> label of the x axis, where they are not numbers to be counted.
        zero: Whether to draw the line y = 0.
        log_y: Panels whose y is on a logarithmic scale.
        whole_x: Whether x counts something, so that between its whole numbers is nothing.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    kind: Literal["lines", "points", "cloud"]
    x_title: str
    y_title: str
    styles: Mapping[str, Style]
    ticks: Mapping[float, str] = field(default_factory=dict)
    zero: bool = False
    log_y: frozenset[str] = frozenset()
    whole_x: bool = False

    @property
    def panels(self) -> list[str]:
        """Names of the panels, in order; one without a name if there is no such column."""
        return list(self.frame["panel"].unique()) if "panel" in self.frame else [""]

    @property
    def series(self) -> list[str]:
        """Names of the series, in order."""
        return list(self.frame["series"].unique())

    def part(self, panel: str, series: str) -> pd.DataFrame:
        """The rows of a series in a panel."""
        rows = self.frame["series"] == series
        if "panel" in self.frame:
            rows &= self.frame["panel"] == panel
        return self.frame[rows]

    @property
    def columns(self) -> int:
        """Panels side by side: three where there are just three, else at most two."""
        n = len(self.panels)
        return 3 if n == 3 else min(n, 2)

    @property
    def n_rows(self) -> int:
        """Rows of panels."""
        return -(-len(self.panels) // self.columns)

    @property
    def tick_places(self) -> list[float] | None:
        """Where the x axis has ticks: those given, or at most about ten whole numbers."""
        if self.ticks:
            return list(self.ticks)
        if not self.whole_x:
            return None
        first, last = int(self.frame["x"].min()), int(self.frame["x"].max())
        return list(range(first, last + 1, max(1, -(-(last - first) // 10))))

    def shift(self, series: str) -> float:
        """How far a series stands from the tick, so that intervals do not cover each other."""
        if "low" not in self.frame:
            return 0.0
        n = len(self.series)
        width = 0.8 if self.kind == "points" else 0.2
        return (self.series.index(series) - (n - 1) / 2) * width / n

    def curves(self, panel: str) -> list[Curve]:
        """What is drawn in a panel, in the order of the series; those without points are not."""
        return [self._curve(s, rows) for s in self.series if len(rows := self.part(panel, s))]

    def _curve(self, series: str, rows: pd.DataFrame) -> Curve:
        y, joined = rows["y"], self.kind == "lines"
        intervals = "low" in rows and bool(rows["low"].notna().any())
        return Curve(
            series,
            self.styles[series],
            rows,
            x=rows["x"] + self.shift(series),
            y=y,
            below=y - rows["low"] if intervals else None,
            above=rows["high"] - y if intervals else None,
            joined=joined,
            marked=not joined or len(rows) <= _MANY,
        )


def cell_styles(cells: Iterable[str], base: str | None) -> dict[str, Style]:
    """A look for each cell, the same in all plots; the base is dark."""
    markers = list(MARKERS)
    styles: dict[str, Style] = {}
    number = 0
    for cell in cells:
        if cell == base:
            styles[cell] = Style(BASE_COLOUR)
            continue
        marker = markers[(number + number // len(COLOURS)) % len(markers)]
        styles[cell] = Style(COLOURS[number % len(COLOURS)], marker)
        number += 1
    return styles
