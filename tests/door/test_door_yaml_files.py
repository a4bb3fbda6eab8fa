"""Study files and recipes: each mistake in one line, before anything is run or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_dataset import Door

CASES: list[dict[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "yaml_cases.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES, ids=[f"{c['kind']} {c['file'][:60]!r}" for c in CASES])
def test_a_wrong_file_is_one_line(door: Door, tmp_path: Path, case: dict[str, Any]) -> None:
    name = "s.yaml" if case["kind"] == "study" else "r.yaml"
    (tmp_path / name).write_text(case["file"])
    words = ["study", name, "--out", "o", "--dry-run"]
    if case["kind"] == "recipe":
        words = ["--model=ChoirRec", f"--semantic_recipe={name}"]
    assert case["line"] in door(*words).line
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_grid_of_billions_is_refused_and_not_made(door: Door, tmp_path: Path) -> None:
    grid = ", ".join(f"k{i}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for i in range(12))
    text = (
        f"datasets: [ml-100k]\nseeds: [1]\ntune: {{grid: {{{grid}}}}}\ncells: [{{model: Base}}]\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    line = door("study", "s.yaml", "--out", "o").line
    assert "tune.grid: expected at most 10,000 points, got 282,429,536,481" in line
