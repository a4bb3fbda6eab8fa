"""``recbole-choir groups`` on a slice of ml-100k, joined with the records of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_choir.cli import main
from recbole_choir.experiments.groups_command import _with_store
from recbole_choir.semantic import load_recipe
from recbole_choir.semantic.profiles.llm_profiles import profile_writer


def record(folder: Path, cell: str, seed: int, gauc: float, dataset: str = "ml-100k") -> None:
    segments = {"all": {"gauc": gauc}, "low": {"gauc": gauc - 0.1}}
    content = {
        "dataset": dataset,
        "cell": cell,
        "role": "seed",
        "seed": seed,
        "segments": segments,
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{cell}-{seed}.json").write_text(json.dumps(content))


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        *("groups", "--dataset=ml-100k", "--out", str(folder / "out")),
        *("--recipes", "by taste=behaviour", "by chance=random"),
        *more,
        *("--val_interval={timestamp: '(-inf,876000000)'}", "--show_progress=false"),
        *(f"--semantic_dir={folder / 'semantic'}", "--epochs=1", "--quiet=true"),
    ]


def test_groups_of_a_dataset_with_a_trained_base_and_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    record(study, "by chance", 1, 0.70)
    record(study, "by chance", 2, 0.72)
    record(study, "somebody else", 1, 0.5)
    assert main(arguments(tmp_path, "--study", str(study))) == 0
    out = capsys.readouterr().out
    rows = {
        line.split(" | ")[0].strip("| "): line for line in out.splitlines() if line.startswith("| ")
    }
    assert list(rows)[2:] == ["user ids of Base", "by taste", "by chance"]
    assert rows["grouping"].endswith("| test GAUC | low activity |")
    assert rows["by chance"].endswith("| 0.7100 \u00b1 0.0141 | 0.6100 \u00b1 0.0141 |")
    assert rows["by taste"].endswith("| - | - |")
    stored = json.loads((tmp_path / "out" / "records" / "by_taste.json").read_text())
    assert stored["measures"]["groups"] > 1
    ids = json.loads((tmp_path / "out" / "records" / "user_ids_of_Base.json").read_text())
    assert ids["recipe"]["input"] == "id_embedding"


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(arguments(tmp_path, "--no-user-ids", "--study", str(empty))) == 2
    assert "expected records of dataset 'ml-100k'" in capsys.readouterr().err
    assert main(["groups", "--out", str(tmp_path), "--recipes", "behavior"]) == 2
    assert "did you mean 'behaviour'" in capsys.readouterr().err


def test_profiles_of_runs_are_read_and_not_paid_for_again(tmp_path: Path) -> None:
    recipe = load_recipe("local_llm")
    of_runs = profile_writer(recipe, tmp_path / "ml-100k-text-key")
    of_groups = profile_writer(_with_store(recipe, tmp_path), tmp_path / "out" / "table", tmp_path)
    assert of_runs is not None
    assert of_groups is not None
    assert of_groups.store_path == of_runs.store_path
    assert _with_store(recipe, tmp_path).profile.identity() == recipe.profile.identity()
    template, own = load_recipe("embedded"), load_recipe("local_llm", {"profile": {"store": "s"}})
    assert _with_store(template, tmp_path) is template
    assert _with_store(own, tmp_path) is own
