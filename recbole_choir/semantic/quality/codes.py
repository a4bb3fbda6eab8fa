"""The part of the quality report on codes: how well they stand for vectors, and items' clusters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.semantic.groups.items import ItemGrouping
from recbole_choir.semantic.groups.users import Grouping
from recbole_choir.semantic.quality.report import (
    SnapshotGroups,
    by_level,
    codewords_used,
    size_histogram,
    sizes_of_read_groups,
)
from recbole_choir.semantic.quantizers.codebooks import collision_rate


def codes_report(
    users: Grouping, items: ItemGrouping | None, moments: NDArray[np.float64]
) -> dict[str, Any]:
    """Measure the codes of both sides.

    Args:
        users: Codes of the users.
        items: Codes of the items; None if the recipe makes none.
        moments: Times of the snapshots.

    Returns:
        Plain values. ``codes``: for users and items, how well the codebooks stand for the vectors
        they were fitted on (:func:`~.quantizer.quantizer_report`). ``inputs``: what an input says
        of its own fit, e.g. the hit rates of the alignment before and after. ``items``: for each
        snapshot, items with a cluster, clusters, histogram of their sizes, items by the level
        backed off to, codewords in use, and share of the items that share their full code.

    References:
        AKT-Rec, section 3.1.2; docs/gaps.md A9, A18.
    """
    codes, inputs = {"users": users.fit}, {"users": users.report}
    out: dict[str, Any] = {"codes": codes, "inputs": inputs}
    if items is not None:
        codes["items"], inputs["items"] = items.fit, items.report
        out["items"] = {
            "vectors": len(items.vectors),
            "dimensions": items.vectors.shape[1],
            "snapshots": [
                {"index": index + 1, "time": float(moment), **_shape(items, index)}
                for index, moment in enumerate(moments)
            ],
        }
    return out


def codes_table(report: Mapping[str, Any]) -> str:
    """Write that part of the report as text that people read."""
    head = (
        f"{'codes of':<10}{'made by':<10}{'vectors':>9}{'unexplained':>13}{'sharing':>9}  codewords"
    )
    lines = ["", "How well the codes stand for the vectors they were fitted on", ""]
    lines += [head, "-" * len(head)]
    for side, fit in report["codes"].items():
        used = "  ".join(f"{a}/{b}" for a, b in zip(fit["codewords_used"], fit["codewords"]))
        lines.append(
            f"{side:<10}{fit['kind']:<10}{fit['fitted_on']:>9,}{fit['unexplained']:>13.1%}"
            f"{fit['collision_rate']:>9.1%}  {used}"
        )
    lines += [
        "",
        "unexplained: share of the variance that the codes lose; sharing: vectors that share",
        "their full code with another; codewords: in use / fitted.",
    ]
    for side, fit in report["codes"].items():
        if "epochs" in fit:
            lines.append(
                f"{side}: {fit['epochs']} epochs, the best {fit['best_epoch']}, "
                f"{fit['held_out']:,} vectors held out, "
                f"{fit['dead_codes_reset']} dead codewords set again"
            )
    for side, figures in report["inputs"].items():
        lines += [f"{side}' input: {name} {value}" for name, value in _figures(figures or {})]
    for snapshot in report.get("items", {}).get("snapshots", []):
        lines += ["", *_snapshot_lines(snapshot)]
    return "\n".join(lines) + "\n"


def _shape(items: ItemGrouping, index: int) -> dict[str, Any]:
    number, _ = pd.factorize(pd.Series(items.names[index], dtype=object), sort=True)
    groups = SnapshotGroups(0.0, items.codes[index], number.astype(np.int64), items.levels[index])
    known = groups.group >= 0
    sizes = sizes_of_read_groups(groups)
    return {
        "items": len(known),
        "items_with_cluster": int(known.sum()),
        "clusters": len(sizes),
        "cluster_sizes": size_histogram(sizes),
        "items_by_level": by_level(groups),
        "codewords_used": codewords_used(groups, items.n_clusters),
        "collision_rate": collision_rate(groups.codes[known]),
    }


def _snapshot_lines(s: Mapping[str, Any]) -> list[str]:
    sizes = "  ".join(f"{name}: {n}" for name, n in s["cluster_sizes"].items() if n)
    levels = "  ".join(f"level {name}: {n}" for name, n in s["items_by_level"].items())
    usage = "  ".join(f"{used}/{k}" for used, k in s["codewords_used"])
    return [
        f"Items, snapshot {s['index']} (time {s['time']:.0f})",
        f"  items with a cluster {s['items_with_cluster']:,} of {s['items']:,}"
        f" in {s['clusters']:,}",
        f"  cluster sizes        {sizes}",
        f"  items by level       {levels}",
        f"  codewords in use     {usage}",
        f"  sharing a full code  {s['collision_rate']:.1%}",
    ]


def _figures(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and numbers of nested mappings, one line each; lists are left to the JSON file."""
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _figures(value, f"{path}.")
        elif isinstance(value, float):
            yield path, f"{value:.4g}"
        elif isinstance(value, int | str):
            yield path, str(value)
