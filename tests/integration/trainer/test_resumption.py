"""Going on from a checkpoint: of this run alone, and only where everything fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TinyModel

from recbole_choir.errors import CheckpointError
from recbole_choir.integration import checkpoint
from recbole_choir.integration.trainer import ChoirTrainer


@pytest.fixture
def trained(make_config, make_model, train, valid):
    """A finished run of two epochs, by its last checkpoint."""
    trainer = ChoirTrainer(make_config(), make_model())
    trainer.rows = {"train": "90:aa", "valid": "60:bb"}
    trainer.fit(train, valid, verbose=False)
    return trainer


def changed(path, **entries):
    """A checkpoint with other entries; those of ``extra`` by their own names."""
    payload = torch.load(path, weights_only=True)
    for name, value in entries.items():
        (payload if name in payload else payload["extra"])[name] = value
    torch.save(payload, path)


def resumed(make_config, make_model, path, **settings):
    trainer = ChoirTrainer(make_config(**settings), make_model())
    trainer.rows = {"train": "90:aa", "valid": "60:bb"}
    trainer.resume_checkpoint(path)
    return trainer


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"seed": 8}, "seed 7 there and 8 here"),
        ({"learning_rate": 0.1}, "learning_rate 0.05 there and 0.1 here"),
        ({"learner": "sgd"}, "learner 'adam' there and 'sgd' here"),
        ({"train_batch_size": 8}, "train_batch_size 16 there and 8 here"),
        ({"dataset": "other"}, "dataset 'tiny' there and 'other' here"),
        ({"epochs": 1}, "2 epochs trained there and epochs 1 here"),
        (
            {"epochs": 4, "lr_schedule": "linear", "lr_final": 0.0},
            "lr_schedule 'constant' there and 'linear' here",
        ),
    ],
)
def test_another_run(make_config, make_model, trained, settings, line):
    with pytest.raises(CheckpointError) as caught:
        resumed(make_config, make_model, trained.last_model_file, **settings)
    assert line in str(caught.value)
    assert trained.last_model_file in str(caught.value)


def test_other_rows(make_config, make_model, trained):
    trainer = ChoirTrainer(make_config(), make_model())
    trainer.rows = {"train": "90:cc", "valid": "60:bb"}
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(CheckpointError, match="got train rows 90:aa there and 90:cc here"):
        trainer.resume_checkpoint(trained.last_model_file)
    after = list(trainer.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after)), "nothing was taken from it"


def weights(**changes):
    own = TinyModel().state_dict()
    own = {name: value for name, value in own.items() if changes.get(name, 0) is not None}
    return {**own, **{name: value for name, value in changes.items() if value is not None}}


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"state_dict": {}}, "does not fit this model"),
        ({"state_dict": weights(**{"user.weight": None})}, "Missing key"),
        ({"state_dict": weights(**{"other.weight": torch.ones(2)})}, "Unexpected key"),
        ({"state_dict": weights(**{"user.weight": torch.ones(3, 4)})}, "size mismatch"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "different number of parameter groups"),
        ({"optimizer": {"state": {}}}, "KeyError"),
        ({"rng_of_ranks": [{"torch": torch.zeros(3, dtype=torch.uint8)}]}, "does not fit"),
        ({"rng_of_ranks": [{"python": [3, [1, 2], None]}]}, "does not fit"),
        ({"rng_of_ranks": [{"numpy": ["MT19937"]}]}, "does not fit"),
        ({"history": 3}, "does not fit"),
        ({"history": ["epoch 0"]}, "does not fit"),
        ({"epoch": -7}, "expected epoch as a whole number from -1, got -7"),
        ({"epoch": 10**9}, "1000000001 epochs trained there and epochs 2 here"),
        ({"within": 3}, "after step 3 of epoch 1; take the <name>-last.pth"),
        ({"table": "abcd"}, "trained with semantic table abcd, this run has None"),
        ({"best_file": "gone.pth"}, "gone.pth: no such file"),
        ({"best_file": "../../etc/gone.pth"}, "gone.pth: no such file"),
    ],
)
def test_what_does_not_fit(make_config, make_model, trained, entries, line):
    path = trained.last_model_file
    changed(path, **entries)
    with pytest.raises(CheckpointError) as caught:
        resumed(make_config, make_model, path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_best_checkpoint_is_found_before_training(make_config, make_model, trained):
    best = Path(trained.saved_model_file)
    best.write_bytes(best.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=f"{best.name}: damaged or not a checkpoint"):
        resumed(make_config, make_model, trained.last_model_file)


def test_a_checkpoint_of_this_run_is_taken(make_config, make_model, trained):
    trainer = resumed(make_config, make_model, trained.last_model_file)
    assert (trainer.start_epoch, trainer.saved_model_file) == (2, trained.saved_model_file)
    state = checkpoint.load(trained.last_model_file)
    assert state.extra["rows"] == trained.rows


def test_runs_of_one_second_and_one_seed_have_files_of_their_own(make_config, make_model):
    names = {ChoirTrainer(make_config(), make_model()).saved_model_file for _ in range(5)}
    assert len(names) == 5
