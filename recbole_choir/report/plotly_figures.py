"""Plots for the page, drawn by plotly."""

from __future__ import annotations

from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from recbole_choir.report.plot import Curve, Plot

_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#222"}
_ROW_HEIGHT = 330

#: What the browser is told. plotly's own bar has a button that sends a plot to its makers' server;
#: a page with profiles of users has none.
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


def figure(plot: Plot) -> go.Figure:
    """Draw a plot as wide as the page."""
    panels, columns, n_rows = plot.panels, plot.columns, plot.n_rows
    drawn = make_subplots(
        rows=n_rows,
        cols=columns,
        subplot_titles=panels if panels != [""] else None,
        horizontal_spacing=0.06,
        vertical_spacing=0.28 / n_rows,
    )
    for number, panel in enumerate(panels):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        for curve in plot.curves(panel):
            drawn.add_trace(_trace(plot, curve, legend=number == 0), **where)
        drawn.update_xaxes(title_text=plot.x_title, title_standoff=6, **where)
        if panel in plot.log_y:
            drawn.update_yaxes(type="log", dtick=1, **where)
    _complete_legend(plot, drawn)
    if plot.zero:
        drawn.add_hline(y=0, line={"color": "#222", "width": 1})
    if plot.ticks:
        drawn.update_xaxes(tickvals=list(plot.ticks), ticktext=list(plot.ticks.values()))
    elif plot.tick_places:
        drawn.update_xaxes(tickvals=plot.tick_places)
    axis = {"gridcolor": "#E8E8E8", "linecolor": "#999", "zeroline": False, "showline": True}
    if plot.kind == "cloud":
        axis |= {"showgrid": False, "showticklabels": False}
    drawn.update_xaxes(**axis)
    drawn.update_yaxes(**axis)
    drawn.update_xaxes(title_font_size=13)
    drawn.update_yaxes(title_font_size=13)
    drawn.update_annotations(font_size=13)
    if plot.y_title:
        drawn.update_yaxes(title_text=plot.y_title)
    height = 560 if plot.kind == "cloud" else max(_ROW_HEIGHT * n_rows, 380) + 40
    drawn.update_layout(
        template="plotly_white",
        font=_FONT,
        height=height,
        margin={"l": 60, "r": 20, "t": 34, "b": 50},
        legend={
            "font": {"size": 12},
            "itemsizing": "constant" if plot.kind == "cloud" else "trace",
            "tracegroupgap": 2,
        },
        hoverlabel={"align": "left", "font": {"size": 12}},
        hovermode="closest",
    )
    return drawn


def _trace(plot: Plot, curve: Curve, legend: bool) -> Any:
    style, rows = curve.style, curve.rows
    small = plot.kind == "cloud"
    words = [w for w, there in (("lines", curve.joined), ("markers", curve.marked)) if there]
    options: dict[str, Any] = {
        "name": curve.series,
        "legendgroup": curve.series,
        "showlegend": legend,
        "mode": "+".join(words),
        "marker": {
            "color": style.colour,
            "symbol": style.marker,
            "size": 5 if small else 7,
            "opacity": 0.8 if small else 1,
        },
        "line": {"color": style.colour, "width": 1.8},
        "x": curve.x.tolist(),
        "y": curve.y.tolist(),
    }
    if curve.above is not None and curve.below is not None:
        options["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": curve.above.tolist(),
            "arrayminus": curve.below.tolist(),
            "color": style.colour,
            "thickness": 1.2,
            "width": 2,
        }
    if "text" in rows:
        options |= {"text": rows["text"].tolist(), "hovertemplate": "%{text}<extra></extra>"}
    else:
        names = [plot.ticks.get(float(x), f"{x:g}") for x in rows["x"]]
        options["customdata"] = names
        options["hovertemplate"] = f"{plot.x_title} %{{customdata}}: %{{y:.4g}}"
    return go.Scatter(**options)


def _complete_legend(plot: Plot, drawn: go.Figure) -> None:
    """A series that the first panel lacks has its entry from the first panel it is in."""
    named = {trace.name for trace in drawn.data if trace.showlegend}
    for trace in drawn.data:
        if trace.name not in named:
            trace.showlegend = True
            named.add(trace.name)


def fragment(plot: Plot, div_id: str) -> str:
    """The plot as HTML that relies on plotly's script being in the page."""
    return str(
        figure(plot).to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=div_id,
            config=dict(_CONFIG),  # plotly changes what it is given
        )
    )
