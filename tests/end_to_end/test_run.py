"""The door: one run from files to a record, on a slice of ml-100k, with everything real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_choir.cli import main
from recbole_choir.errors import CheckpointError, Pruned
from recbole_choir.integration.trainer import ChoirTrainer
from recbole_choir.quick_start import run

# The first fortnight: 9,500 rows, so that a run takes a second or two.
SLICE = {"val_interval": {"timestamp": "(-inf,876000000)"}}


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        **SLICE,
        "epochs": 1,
        "seed": 7,
        "show_progress": False,
        "quiet": True,
        "checkpoint_dir": str(folder / "saved"),
        "record_dir": str(folder / "records"),
        "semantic_dir": str(folder / "semantic"),
        "semantic": {"input": "random", "n_snapshots": 2},
        **more,
    }


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_record_holds_what_was_run(tmp_path: Path) -> None:
    result = run("ChoirRec", "ml-100k", config_dict=settings(tmp_path, save_predictions=True))
    path = Path(result["record_path"])
    record = json.loads(path.read_text())
    assert record["model"] == "ChoirRec"
    assert record["seed"] == 7
    assert sum(record["rows"].values()) > 5000
    assert record["test"] == pytest.approx(dict(result["test_result"]))
    assert record["segments"]["all"]["gauc"] == pytest.approx(record["test"]["gauc"], abs=1e-6)
    low, rest = (record["segments"][s]["rows"] for s in ("low", "rest"))
    assert low + rest == record["segments"]["all"]["rows"] == record["rows"]["test"]
    fifths = [record["segments"][f"asof_{k}"]["rows"] for k in range(1, 6)]
    assert sum(fifths) == record["rows"]["test"]
    assert 0 < record["segments"]["n_buy_lt_5"]["rows"] < record["rows"]["test"]
    whole = record["segments"]["all"]
    assert whole["logloss"] == pytest.approx(record["test"]["logloss"], abs=1e-6)
    assert record["table"]["fingerprint"]
    assert record["parameters"] > 100_000
    assert {"frac_qualified", "mean_alpha_fusion"} <= set(record["history"][0]["diagnostics"])
    assert path.with_suffix(".npz").exists()


def test_same_seed_same_bits_and_the_table_is_reused(tmp_path: Path) -> None:
    first = run("ChoirRec", "ml-100k", config_dict=settings(tmp_path))
    tables = sorted(p.stat().st_mtime_ns for p in (tmp_path / "semantic").glob("*/manifest.json"))
    second = run("ChoirRec", "ml-100k", config_dict=settings(tmp_path))
    again = sorted(p.stat().st_mtime_ns for p in (tmp_path / "semantic").glob("*/manifest.json"))
    assert first["test_result"] == second["test_result"]
    assert first["record"]["segments"]["low"] == second["record"]["segments"]["low"]
    assert tables == again
    assert len(tables) == 1


def test_group_statistics_reach_base_and_choirrec(tmp_path: Path) -> None:
    plain = run("Base", "ml-100k", config_dict=settings(tmp_path))
    stats = {"group_stats": True, "use_group_stats": True}
    with_stats = run("Base", "ml-100k", config_dict=settings(tmp_path, **stats))
    assert with_stats["record"]["table"] is not None
    assert plain["record"]["table"] is None, "Base reads no groups, so none are made"
    assert with_stats["test_result"]["auc"] != plain["test_result"]["auc"]
    more = run("ChoirRec", "ml-100k", config_dict=settings(tmp_path, variant="stats", **stats))
    assert 0 < more["test_result"]["auc"] < 1


def test_a_killed_run_goes_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("Base", "ml-100k", config_dict=settings(tmp_path / "whole", epochs=3))
    fit_epoch = ChoirTrainer._fit_epoch

    def killed(self: ChoirTrainer, train_data: Any, epoch: int, *rest: Any) -> dict[str, Any]:
        if epoch == 2:
            raise KeyboardInterrupt
        return fit_epoch(self, train_data, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ChoirTrainer, "_fit_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            run("Base", "ml-100k", config_dict=settings(tmp_path / "part", epochs=3))
    (last,) = (tmp_path / "part" / "saved").glob("*-last.pth")
    part = settings(tmp_path / "part", epochs=3, resume=str(last))
    resumed = run("Base", "ml-100k", config_dict=part)
    assert resumed["test_result"] == whole["test_result"]
    assert resumed["best_valid_score"] == whole["best_valid_score"]
    assert resumed["record"]["segments"] == whole["record"]["segments"]


def test_a_checkpoint_of_another_table_is_refused(tmp_path: Path) -> None:
    run("ChoirRec", "ml-100k", config_dict=settings(tmp_path, epochs=2))
    (last,) = (tmp_path / "saved").glob("*-last.pth")
    other = {"input": "random", "n_snapshots": 2, "seed": 5}
    more = settings(tmp_path, epochs=2, resume=str(last), semantic=other)
    with pytest.raises(CheckpointError, match=r"trained with semantic table \w+, this run has \w+"):
        run("ChoirRec", "ml-100k", config_dict=more)


def test_without_llm_embeddings_groups_come_from_a_trained_base(tmp_path: Path) -> None:
    config = settings(tmp_path, use_llm_emb=False, semantic={"n_snapshots": 2})
    result = run("ChoirRec", "ml-100k", config_dict=config)
    (table,) = (tmp_path / "semantic").glob("*/manifest.json")
    assert json.loads(table.read_text())["recipe"]["input"] == "id_embedding"
    assert result["record"]["config"]["use_llm_emb"] is False


def test_zoo_model_reads_injected_groups(tmp_path: Path) -> None:
    inject = {"inject": ["group_id", "group_attr", "group_seq"]}
    plain = run("DeepFM", "ml-100k", config_dict=settings(tmp_path))
    injected = run("DeepFM", "ml-100k", config_dict=settings(tmp_path, **inject))
    assert plain["record"]["rows"] == injected["record"]["rows"]
    assert plain["test_result"]["auc"] != injected["test_result"]["auc"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model=ChoirRek"], "did you mean 'ChoirRec'"),
        (["--model=Base", "--dataset=ml-100"], "did you mean 'ml-100k'"),
        (["--model=Base", "--learning_rat=1"], "did you mean 'learning_rate'"),
        (["--model=Base", "--epochs=many"], "epochs"),
        (["--model=ChoirRec", "--semantic.inputt=text"], "did you mean 'input'"),
        (["--epochs=1"], "--model is missing"),
        (["--model=Base", "stray"], "stray"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"--semantic_dir={tmp_path}", f"--record_dir={tmp_path}"]
    assert main([*arguments, *folders]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert expected in error


def test_help_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--model=ChoirRec" in capsys.readouterr().out
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "ChoirRec" in out
    assert "DeepFM" in out
    assert "ml-100k" in out


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Two processes train and evaluate on the whole set; the record counts every row once."""
    one = run("ChoirRec", "ml-100k", config_dict=settings(tmp_path))
    two = run("ChoirRec", "ml-100k", config_dict=settings(tmp_path, nproc=2))
    assert two["record"]["rows"] == one["record"]["rows"]
    assert two["record"]["segments"]["all"]["rows"] == one["record"]["segments"]["all"]["rows"]
    # Dropout draws differ between one and two processes, so the weights differ a little.
    assert two["test_result"]["auc"] == pytest.approx(one["test_result"]["auc"], abs=0.05)


@pytest.mark.parametrize("model", ["ChoirRec", "DeepFM"])
def test_record_says_how_long_the_vectors_of_users_are(tmp_path: Path, model: str) -> None:
    record = run(model, "ml-100k", config_dict=settings(tmp_path, learning_rate=0.02))["record"]
    norms = record["user_norms"]
    assert {"new", "level_1", "level_5"} <= set(norms)
    counts = [norms[f"level_{k}"]["users"] for k in range(1, 6)]
    assert max(counts) - min(counts) <= 1
    assert 0 < norms["level_1"]["rows_to"] <= norms["level_5"]["rows_from"]
    assert all(part["low"] <= part["median"] <= part["high"] for part in norms.values())
    assert norms["new"]["rows_to"] == 0
    assert record["asked"]["learning_rate"] == 0.02
    assert "seed" not in record["asked"]


def test_a_run_that_is_pruned_leaves_its_validations_and_tests_nothing(tmp_path: Path) -> None:
    seen: list[float] = []

    def second(epoch: int, score: float) -> None:
        seen.append(score)
        if len(seen) == 2:
            raise Pruned("pruned at validation 2")

    given = settings(tmp_path, epochs=3, eval_step=0.25)
    result = run("Base", "ml-100k", config_dict=given, callback_fn=second)
    record = json.loads(Path(result["record_path"]).read_text())
    assert record["state"] == "pruned"
    assert record["reason"] == "pruned at validation 2"
    assert [v["valid"]["gauc"] for v in record["validations"]] == seen
    assert record["validations"][1]["epoch"] == pytest.approx(0.5, abs=0.1)
    assert record["history"] == [], "no epoch is over"
    assert "test" not in record
    assert "segments" not in record
    assert result["test_result"] is None


def test_validations_in_mid_epoch_leave_the_end_of_the_epoch_as_it_is(tmp_path: Path) -> None:
    found = []
    for eval_step in (1, 0.25):
        given = settings(tmp_path, epochs=2, eval_step=eval_step, stopping_step=99)
        found.append(run("Base", "ml-100k", config_dict=given)["record"]["history"])
    for whole, parts in zip(*found):
        assert whole["train_loss"] == parts["train_loss"]
        assert whole["validations"][-1]["valid"] == parts["validations"][-1]["valid"]
        assert len(parts["validations"]) == 4
