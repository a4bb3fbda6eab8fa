"""Compare the metrics two environments wrote: ``python compare.py NEW OLD`` (see test_parity.py).

With NEW alone, print its metrics as one JSON object.

NEW and OLD are the values of PARITY_OUT; each model's metrics lie in ``<value>.<model>``. Exits
with 1 and one line per difference if any metric differs by more than half of the fourth decimal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def read(prefix: str) -> dict[str, dict[str, float]]:
    """Metrics per model."""
    path = Path(prefix)
    files = sorted(path.parent.glob(path.name + ".*"))
    return {f.name[len(path.name) + 1 :]: json.loads(f.read_text()) for f in files}


def main(new: str, old: str) -> int:
    """Return 0 if the two agree to 4 decimals on the same, non-empty set of models."""
    a, b = read(new), read(old)
    if not a or a.keys() != b.keys():
        print(f"models differ: {sorted(a)} against {sorted(b)}")
        return 1
    wrong = [
        f"{model} {metric}: {value} against {b[model][metric]}"
        for model, metrics in a.items()
        for metric, value in metrics.items()
        if abs(value - b[model][metric]) > 5e-5
    ]
    print("\n".join(wrong) or f"{len(a)} models agree to 4 decimals: {', '.join(a)}")
    return int(bool(wrong))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(read(sys.argv[1]), indent=1, sort_keys=True))
    else:
        raise SystemExit(main(sys.argv[1], sys.argv[2]))
