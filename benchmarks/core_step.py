"""What a training step costs on this core over what it cost on an earlier one.

Both checkouts' own ``benchmarks/model_speed.py`` run in turns, on one thread, by processor time;
of each model the best round counts. The earlier core is any other checkout, such as

    git worktree add ../earlier 6720cd4     # attention as a mean, no decay of ids
    python benchmarks/core_step.py ../earlier

The decay of ids is no part of it: it is one more term of the optimiser's step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).parent / "records" / "core_step.json"
MODELS = ("Base", "BaseMM", "ChoirRec", "AKTRec", "SimTier", "MELT", "POSO")


def milliseconds(checkout: Path, rounds: int, record: Path) -> dict[str, float]:
    """Of a step, by model, as that checkout measures itself."""
    command = [sys.executable, "benchmarks/model_speed.py", "--skip-din", "--rounds", str(rounds)]
    command += ["--only", ",".join(MODELS), "--record", str(record)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
    (found,) = json.loads(record.read_text()).values()
    return {name: model["ms_per_step"] for name, model in found["models"].items()}


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("earlier", type=Path, help="another checkout")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of eight steps, a turn")
    args = parser.parse_args()
    sides = {"earlier": args.earlier.resolve(), "now": ROOT}
    best: dict[str, dict[str, float]] = {side: {} for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns):
            for side, checkout in sides.items():
                record = Path(folder) / f"{side}-{turn}.json"
                for name, ms in milliseconds(checkout, args.rounds, record).items():
                    best[side][name] = min(ms, best[side].get(name, ms))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=sides["earlier"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    models = {
        name: {
            "earlier_ms": best["earlier"][name],
            "now_ms": ms,
            "ratio": round(ms / best["earlier"][name], 3),
        }
        for name, ms in best["now"].items()
        if name in best["earlier"]
    }
    for name, one in models.items():
        print(f"{name:28}{one['earlier_ms']:>9.2f}{one['now_ms']:>9.2f}{one['ratio']:>8.2f}")
    content = {"earlier": commit, "turns": args.turns, "rounds": args.rounds, "models": models}
    RECORD.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
