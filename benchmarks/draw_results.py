"""Draw docs/pictures/gains.png: ``python benchmarks/draw_results.py``.

A point a model of the committed comparisons: its difference in test GAUC to Base, and the 95 %
interval of the paired bootstrap over users (not corrected; the marks of docs/results.md are).
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from write_docs import COMPARED, ROOT, STUDIES

from recbole_choir.experiments.record_store import read_record
from recbole_choir.experiments.summary import SIGNIFICANCE
from recbole_choir.report.plot import BASE_COLOUR, COLOURS, GREY

PICTURE = ROOT / "docs" / "pictures" / "gains.png"
SEGMENTS = {"all": "all rows", "low": "low activity"}
OURS = ("ChoirRec", "AKTRec")


def colour(model: str) -> str:
    """Controls grey, the two papers' models blue, what is compared with them dark."""
    if any(word in model for word in ("random", "permuted", "averaged")):
        return "#8A8A8A"
    return COLOURS[0] if model.startswith(OURS) else BASE_COLOUR


def draw_panel(axis: Any, tests: pd.DataFrame, models: list[str], title: str) -> None:
    """One dataset and segment."""
    axis.axvline(0, color=GREY, linewidth=1)
    for place, model in enumerate(models):
        if model not in tests.index:
            continue
        row = tests.loc[model]
        axis.plot([row["low"], row["high"]], [place, place], color=colour(model), linewidth=1.2)
        axis.plot(row["mean"], place, "o", color=colour(model), markersize=4)
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", nbins=5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#E8E8E8", linewidth=0.6)


def main() -> None:
    """Draw all comparisons that have a record."""
    found = {}
    for dataset in COMPARED:
        rows = read_record(STUDIES / f"compare-{dataset}" / SIGNIFICANCE)
        if rows:
            tests = pd.DataFrame(rows)
            found[dataset] = tests[tests["against"] == "Base"]
    models = list(dict.fromkeys(m for tests in found.values() for m in tests["cell"]))
    figure = Figure(figsize=(10.0, 7.4), dpi=120, layout="constrained")
    axes = figure.subplots(len(SEGMENTS), len(found), squeeze=False, sharey=True, sharex="col")
    for line, (segment, name) in zip(axes, SEGMENTS.items(), strict=True):
        for axis, (dataset, tests) in zip(line, found.items(), strict=True):
            part = tests[tests["segment"] == segment].set_index("cell")
            draw_panel(axis, part, models, f"{dataset}, {name}")
        line[0].set_yticks(range(len(models)), models)
    axes[0][0].invert_yaxis()
    figure.supxlabel("difference in test GAUC to Base, 95 % over users", fontsize=9)
    figure.savefig(PICTURE, metadata={"Software": None})
    print(f"drawn: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
