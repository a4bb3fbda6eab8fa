from __future__ import annotations

import copy
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType, ModelType
from tiny import TinyModel

from recbole_choir.errors import CheckpointError, ConfigError, DataError
from recbole_choir.integration import trainer as trainer_module
from recbole_choir.integration.trainer import ChoirTrainer, get_trainer
from recbole_choir.integration.training_log import TrainingError
from recbole_choir.integration.tree_trainer import LightGBMTrainer, XGBoostTrainer
from recbole_choir.integration.validation_points import validation_steps
from recbole_choir.settings.recbole_keys import check_eval_step


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize(
    "settings",
    [
        {"learner": "adam"},
        {"learner": "sgd", "clip_grad_norm": {"max_norm": 0.1}},
        {"learner": "adagrad", "adagrad_initial_accumulator": 0.0},
        {"learner": "adamw", "weight_decay": 0.1},
    ],
)
def test_same_weights_as_recboles_trainer(make_config, make_model, train, settings):
    config = make_config(metrics=["AUC", "LogLoss"], valid_metric="AUC", **settings)
    theirs, ours = make_model(dropout=0.3, parts=2), make_model(dropout=0.3, parts=2)
    torch.manual_seed(5)
    reference = Trainer(config, theirs)
    for epoch in range(2):
        train.set_epoch(epoch)
        reference._train_epoch(train, epoch)
    torch.manual_seed(5)
    ChoirTrainer(config, ours).fit(train, saved=False, verbose=False)
    assert same(theirs, ours)
    assert not same(theirs, make_model(dropout=0.3, parts=2))


def test_learning_rate_of_every_step(make_config, make_model, train, monkeypatch):
    config = make_config(learner="sgd", lr_schedule="linear", lr_final=0.01, learning_rate=0.12)
    trainer = ChoirTrainer(config, make_model())
    seen = []
    real = trainer.optimizer.step
    monkeypatch.setattr(
        trainer.optimizer,
        "step",
        lambda *a, **k: seen.append(trainer.optimizer.param_groups[0]["lr"]) or real(*a, **k),
    )
    trainer.fit(train, saved=False, verbose=False)
    assert len(train) == 6
    np.testing.assert_allclose(seen, np.linspace(0.12, 0.01, 12), rtol=1e-12)
    assert [e["learning_rate"] for e in trainer.history] == pytest.approx([seen[5], 0.01])


def test_adagrad_starts_from_the_accumulator(make_config, make_model):
    trainer = ChoirTrainer(make_config(learner="adagrad"), make_model())
    sums = [s["sum"] for s in trainer.optimizer.state.values()]
    assert sums
    assert all((s == 0.1).all() for s in sums)


def test_unknown_learner(make_config, make_model):
    with pytest.raises(ConfigError, match="did you mean 'adagrad'"):
        ChoirTrainer(make_config(learner="adagard"), make_model())


def test_history_hooks_and_losses(make_config, make_model, train, valid):
    model = make_model(parts=2)
    trainer = ChoirTrainer(make_config(), model)
    seen = []
    score, best = trainer.fit(
        train, valid, saved=False, verbose=False, callback_fn=lambda e, s: seen.append((e, s))
    )
    assert model.started == [0, 1]
    first, second = trainer.history
    assert [e["diagnostics"] for e in (first, second)] == [{"steps_seen": 6.0}, {"steps_seen": 12}]
    assert first["train_loss"] == pytest.approx(sum(first["train_losses"]))
    assert len(first["train_losses"]) == 2
    assert second["train_loss"] < first["train_loss"]
    assert first["rows_per_second"] > 0
    assert list(first["valid"]) == ["auc", "gauc", "logloss"]
    assert seen == [(0, first["valid"]["gauc"]), (1, second["valid"]["gauc"])]
    assert score == max(e["valid"]["gauc"] for e in trainer.history) == best["gauc"]


def test_mean_train_loss_by_hand(make_config, make_model, train):
    model = make_model()
    with torch.no_grad():
        reference = copy.deepcopy(model).train()
        losses = [reference.calculate_loss(batch).item() for batch in train]
    trainer = ChoirTrainer(make_config(learner="sgd", learning_rate=1e-30, epochs=1), model)
    trainer.fit(train, saved=False, verbose=False)
    assert trainer.history[0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize(("nan_at", "epoch", "step"), [(0, 0, 1), (9, 1, 4)])
def test_a_loss_that_is_not_finite_names_epoch_and_step(
    make_config, make_model, train, nan_at, epoch, step
):
    trainer = ChoirTrainer(make_config(), make_model(nan_at=nan_at))
    with pytest.raises(TrainingError) as error:
        trainer.fit(train, saved=False, verbose=False)
    assert f"in epoch {epoch}, step {step} of 6" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_is_found_within_the_epoch(
    make_config, make_model, train, monkeypatch
):
    monkeypatch.setattr(trainer_module, "CHECK_EVERY", 2)
    model = make_model(nan_at=1)
    with pytest.raises(TrainingError, match="step 2 of 6"):
        ChoirTrainer(make_config(), model).fit(train, saved=False, verbose=False)
    assert model.calls == 2


def test_no_synchronisation_per_step(make_config, make_model, train, monkeypatch):
    """The device is read as often for 90 steps as for 6."""
    counts = []
    reads = []
    for batch_size in (16, 1):
        train.batch_size = batch_size
        trainer = ChoirTrainer(make_config(learner="sgd", epochs=1), make_model())
        reads.clear()
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
                real = getattr(torch.Tensor, name)
                patch.setattr(
                    torch.Tensor,
                    name,
                    lambda self, *a, _real=real, _name=name: reads.append(_name) or _real(self, *a),
                )
            trainer.fit(train, saved=False, verbose=False, show_progress=True)
        counts.append(len(reads))
    assert counts == [1, 1]


def test_nothing_is_written_unless_asked(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(), make_model())
    trainer.fit(train, valid, saved=False, verbose=False)
    assert os.listdir(".") == []


def test_tensorboard_if_asked(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(tensorboard=True), make_model())
    trainer.fit(train, valid, saved=False, verbose=False)
    trainer.tensorboard.close()
    assert any(Path("log_tensorboard").rglob("events*"))


def test_early_stopping_keeps_the_best(make_config, make_model, train, valid, monkeypatch):
    config = make_config(epochs=20, stopping_step=1)
    trainer = ChoirTrainer(config, make_model())
    scores = iter([0.5, 0.7, 0.6, 0.65, 0.9])
    weights = []

    def scripted(data, show_progress=False):
        weights.append(copy.deepcopy(trainer.model.state_dict()))
        score = next(scores)
        return score, {"gauc": score}

    monkeypatch.setattr(trainer, "_valid_epoch", scripted)
    assert trainer.fit(train, valid, verbose=False) == (0.7, {"gauc": 0.7})
    assert len(trainer.history) == 4  # one that is worse is allowed, the second stops
    monkeypatch.undo()
    trainer.evaluate(valid)
    now = trainer.model.state_dict()
    assert all(torch.equal(now[k], weights[1][k]) for k in now)
    assert not torch.equal(now["user.weight"], weights[3]["user.weight"])


def test_a_smaller_metric_can_be_the_better(make_config, make_model, train, valid):
    config = make_config(valid_metric="LogLoss", valid_metric_bigger=False, epochs=4)
    trainer = ChoirTrainer(config, make_model())
    score, _ = trainer.fit(train, valid, saved=False, verbose=False)
    assert score == min(e["valid"]["logloss"] for e in trainer.history)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "settings",
    [
        {"learner": "adagrad", "lr_schedule": "exponential", "lr_final": 0.001},
        {"learner": "adam", "lr_schedule": "linear", "lr_final": 0.0},
    ],
)
def test_resuming_gives_the_same_bits(make_config, make_model, train, valid, settings):
    config = make_config(epochs=4, **settings)
    whole_model = make_model(dropout=0.4)
    torch.manual_seed(11)
    whole = ChoirTrainer(config, whole_model)
    whole_result = whole.fit(train, valid, verbose=False)

    def stop(epoch, score):
        if epoch == 1:
            raise Interrupted

    first = ChoirTrainer(config, make_model(dropout=0.4))
    torch.manual_seed(11)
    with pytest.raises(Interrupted):
        first.fit(train, valid, verbose=False, callback_fn=stop)
    torch.manual_seed(999)
    np.random.seed(999)  # noqa: NPY002
    second_model = make_model(seed=5, dropout=0.4)
    second = ChoirTrainer(config, second_model)
    second.resume_checkpoint(first.last_model_file)
    assert second.start_epoch == 2
    second_result = second.fit(train, valid, verbose=False)

    assert same(whole_model, second_model)
    assert whole_result == second_result
    plain = [
        {k: v for k, v in e.items() if k in ("epoch", "train_loss", "learning_rate", "valid")}
        for e in whole.history
    ]
    again = [{k: e[k] for k in plain[0]} for e in second.history]
    assert plain == again
    assert second.evaluate(valid) == whole.evaluate(valid)


def test_more_epochs_after_a_finished_run(make_config, make_model, train, valid):
    whole_model, first_model, second_model = (make_model(dropout=0.2) for _ in range(3))
    torch.manual_seed(3)
    ChoirTrainer(make_config(epochs=4), whole_model).fit(train, valid, verbose=False)
    torch.manual_seed(3)
    first = ChoirTrainer(make_config(epochs=2), first_model)
    first.fit(train, valid, verbose=False)
    second = ChoirTrainer(make_config(epochs=4), second_model)
    second.resume_checkpoint(first.last_model_file)
    second.fit(train, valid, verbose=False)
    assert same(whole_model, second_model)
    assert not same(first_model, second_model)


def test_resuming_a_finished_run_changes_nothing(make_config, make_model, train, valid):
    first = ChoirTrainer(make_config(), make_model())
    result = first.fit(train, valid, verbose=False)
    before = Path(first.saved_model_file).read_bytes()
    again = ChoirTrainer(make_config(), make_model(seed=4))
    again.resume_checkpoint(first.last_model_file)
    assert again.fit(train, valid, verbose=False) == result
    assert Path(first.saved_model_file).read_bytes() == before


def test_a_torch_loader_goes_on_with_its_own_generator(make_config, make_model, train):
    """A loader without set_epoch: the state of its generator is part of the checkpoint."""

    class Generated:
        def __init__(self, seed):
            self.generator = torch.Generator().manual_seed(seed)

        def __len__(self):
            return len(train)

        def __iter__(self):
            order = torch.randperm(90, generator=self.generator)
            for index in order.split(16):
                yield next(iter(train)).__class__({k: v[index] for k, v in train.rows.items()})

    whole_model, first_model, second_model = (make_model() for _ in range(3))
    ChoirTrainer(make_config(epochs=3), whole_model).fit(Generated(1), verbose=False)
    first = ChoirTrainer(make_config(epochs=1), first_model)
    first.fit(Generated(1), verbose=False)
    second = ChoirTrainer(make_config(epochs=3), second_model)
    second.resume_checkpoint(first.last_model_file)
    second.fit(Generated(2), verbose=False)
    assert same(whole_model, second_model)


def test_checkpoints_hold_no_pickled_objects(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(), make_model())
    trainer.fit(train, valid, verbose=False)
    assert sorted(os.listdir("saved")) == sorted(
        [Path(trainer.saved_model_file).name, Path(trainer.last_model_file).name]
    )
    for path in (trainer.saved_model_file, trainer.last_model_file):
        assert "user.weight" in torch.load(path, weights_only=True)["state_dict"]


def test_evaluate_loads_the_best_and_keeps_predictions(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(), make_model())
    trainer.fit(train, valid, verbose=False)
    result = trainer.evaluate(valid)
    assert result["gauc"] == trainer.best_valid_score
    np.testing.assert_array_equal(trainer.predictions.users, valid.rows["user_id"].numpy())
    np.testing.assert_array_equal(trainer.predictions.labels, valid.rows["label"].numpy())
    assert trainer.evaluate(None) is None
    with pytest.raises(CheckpointError, match="no such file"):
        trainer.evaluate(valid, model_file="missing.pth")


def test_checkpoint_of_another_model(make_config, make_model, train):
    trainer = ChoirTrainer(make_config(), make_model())
    trainer.fit(train, verbose=False)
    other = ChoirTrainer(make_config(model="Other"), make_model())
    with pytest.raises(CheckpointError, match="expected one of model Other, got Tiny"):
        other.resume_checkpoint(trainer.last_model_file)


def test_runs_started_in_the_same_second_have_files_of_their_own(make_config, make_model):
    names = {ChoirTrainer(make_config(seed=s), make_model()).saved_model_file for s in range(3)}
    assert len(names) == 3


def test_an_undefined_validation_metric_is_an_error(make_config, make_model, train, valid):
    valid.rows["label"].fill_(1.0)
    trainer = ChoirTrainer(make_config(), make_model())
    with pytest.raises(DataError, match="valid_metric: gauc is undefined"):
        trainer.fit(train, valid, saved=False, verbose=False)


def test_no_batches(make_config, make_model, train):
    train.rows = {k: v[:0] for k, v in train.rows.items()}
    with pytest.raises(DataError, match="at least one batch"):
        ChoirTrainer(make_config(), make_model()).fit(train)


def test_mixed_precision(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(enable_amp=True, epochs=3), make_model())
    trainer.fit(train, valid, saved=False, verbose=False)
    losses = [e["train_loss"] for e in trainer.history]
    assert losses[2] < losses[0]


def test_verbose_log_and_progress(make_config, make_model, train, valid, caplog, capsys):
    with caplog.at_level("INFO", logger="recbole_choir"):
        ChoirTrainer(make_config(epochs=1), make_model()).fit(
            train, valid, saved=False, show_progress=True
        )
    text = caplog.text
    assert "epoch 0 training" in text
    assert "steps_seen 6" in text
    assert "epoch 0 validation" in text
    assert "gauc" in text
    assert "Train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"MODEL_TYPE": ModelType.CONTEXT}, ChoirTrainer),
        ({"MODEL_TYPE": ModelType.DECISIONTREE, "model": "LightGBM"}, LightGBMTrainer),
        ({"MODEL_TYPE": ModelType.DECISIONTREE, "model": "XGBoost"}, XGBoostTrainer),
    ],
)
def test_get_trainer(make_config, values, expected):
    assert get_trainer(make_config(**values)) is expected


def test_other_models_are_refused(make_config, make_model):
    with pytest.raises(ConfigError, match="context-aware"):
        get_trainer(make_config(MODEL_TYPE=ModelType.SEQUENTIAL, model="DIN"))
    with pytest.raises(ConfigError, match="ranking"):
        ChoirTrainer(make_config(eval_type=EvaluatorType.RANKING), make_model())
    with pytest.raises(ConfigError, match="nproc"):
        ChoirTrainer(make_config(single_spec=False), make_model())


def test_the_loader_is_told_the_epoch(make_config, make_model, train):
    told = []
    train.set_epoch = told.append
    ChoirTrainer(make_config(epochs=3), make_model()).fit(train, saved=False, verbose=False)
    assert told == list(itertools.chain([0, 1, 2]))


# --- validations in mid-epoch -----------------------------------------------------------------


class Averaging(TinyModel):
    """A model whose evaluation computes again what training reads, and counts how often."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("average", torch.zeros(4), persistent=False)
        self.stale = True

    def train(self, mode=True):
        self.stale = self.stale or mode != self.training
        return super().train(mode)

    def logit(self, interaction):
        if self.stale:
            self.average.copy_(self.item.weight.detach().mean(0))
            self.stale = False
        return super().logit(interaction) + (self.user(interaction["user_id"]) * self.average).sum(
            -1
        )

    def training_state(self):
        return self.stale, self.average.clone()

    def restore_training_state(self, state):
        self.stale = state[0]
        self.average.copy_(state[1])


@pytest.mark.parametrize(
    ("value", "n_steps", "steps"),
    [
        (1, 6, []),
        (3, 6, []),
        (0.5, 6, [3]),
        (0.25, 6, [2, 3, 5]),  # 1.5, 3, 4.5: halves up
        (0.25, 97, [24, 49, 73]),  # 24.25, 48.5, 72.75
        (0.33, 97, [32, 65]),
        (1 / 6, 6, [1, 2, 3, 4, 5]),
    ],
)
def test_steps_nearest_to_each_part_of_an_epoch(value, n_steps, steps):
    assert validation_steps(check_eval_step(value), n_steps) == steps


@pytest.mark.parametrize("value", [-1, -0.5, "often", None, True, 1.5, 0.3, float("nan"), [1]])
def test_eval_step_that_means_nothing_is_one_line(make_config, make_model, value):
    with pytest.raises(ConfigError, match="eval_step: expected a whole number of epochs") as error:
        ChoirTrainer(make_config(eval_step=value), make_model())
    assert "\n" not in str(error.value)


def test_less_than_a_step_between_validations_is_one_line(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(eval_step=0.1), make_model())
    with pytest.raises(ConfigError, match=r"got 0\.1 of an epoch of 6 steps; smallest: 0\.1667"):
        trainer.fit(train, valid, saved=False, verbose=False)
    assert trainer.history == []


def test_validations_of_each_quarter_by_hand(make_config, make_model, train, valid, monkeypatch):
    trainer = ChoirTrainer(make_config(eval_step=0.25, epochs=2), make_model())
    scores = iter([0.5, 0.7, 0.6, 0.65, 0.66, 0.8, 0.75, 0.7])
    weights, told = [], []

    def scripted(data, show_progress=False):
        weights.append(copy.deepcopy(trainer.model.state_dict()))
        score = next(scores)
        return score, {"gauc": score}

    monkeypatch.setattr(trainer, "_valid_epoch", scripted)
    result = trainer.fit(train, valid, verbose=False, callback_fn=lambda e, s: told.append((e, s)))
    assert result == (0.8, {"gauc": 0.8})
    assert told == [
        *((0, 0.5), (0, 0.7), (0, 0.6), (0, 0.65)),
        *((1, 0.66), (1, 0.8), (1, 0.75), (1, 0.7)),
    ]
    first, second = trainer.history
    assert [(v["step"], v["epoch"]) for v in first["validations"]] == [
        *((2, 0.333333), (3, 0.5), (5, 0.833333), (6, 1)),
    ]
    assert [v["valid"]["gauc"] for v in second["validations"]] == [0.66, 0.8, 0.75, 0.7]
    assert first["valid"] == {"gauc": 0.7}, "the best of the epoch"
    assert trainer.best_epoch == 1.5
    monkeypatch.undo()
    trainer.evaluate(valid)  # loads the checkpoint of mid-epoch
    now = trainer.model.state_dict()
    assert all(torch.equal(now[k], weights[5][k]) for k in now)
    assert not torch.equal(now["user.weight"], weights[7]["user.weight"])


def test_early_stopping_counts_validations_and_stops_in_mid_epoch(
    make_config, make_model, train, valid, monkeypatch
):
    config = make_config(eval_step=0.25, epochs=9, stopping_step=2)
    trainer = ChoirTrainer(config, make_model())
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.6, 0.9])
    monkeypatch.setattr(trainer, "_valid_epoch", lambda *_, **__: (s := next(scores), {"gauc": s}))
    assert trainer.fit(train, valid, verbose=False) == (0.7, {"gauc": 0.7})
    assert [len(e["validations"]) for e in trainer.history] == [4, 1]
    assert [e.get("steps") for e in trainer.history] == [None, 2]
    assert trainer.model.calls == 8, "of the second epoch two steps were taken"
    assert trainer.best_epoch == 0.5
    monkeypatch.undo()
    again = ChoirTrainer(config, make_model(seed=3))
    again.resume_checkpoint(trainer.last_model_file)
    assert again.fit(train, valid, verbose=False) == (0.7, {"gauc": 0.7}), "it stays stopped"
    assert again.model.calls == 0
    assert again.best_epoch == 0.5


@pytest.mark.parametrize("model_class", [TinyModel, Averaging])
def test_validations_in_mid_epoch_change_no_weight(make_config, train, valid, model_class):
    ends = []
    for eval_step in (1, 0.5, 1 / 6):
        torch.manual_seed(2)
        model = model_class(dropout=0.4, batch_norm=True)

        class Drawing(type(valid)):
            """A loader whose every round takes random numbers, as torch's own does."""

            def __iter__(self):
                torch.rand(3)
                return super().__iter__()

        loader = Drawing(valid.rows, 16)
        config = make_config(eval_step=eval_step, epochs=3, lr_schedule="linear", lr_final=0.0)
        torch.manual_seed(11)
        trainer = ChoirTrainer(config, model)
        trainer.fit(train, loader, saved=False, verbose=False)
        ends.append(copy.deepcopy(model.state_dict()))
        losses = [e["train_loss"] for e in trainer.history]
    for end in ends[1:]:
        assert all(torch.equal(end[name], ends[0][name]) for name in end)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("eval_step", [0.5, 0.25])
def test_resuming_with_validations_in_mid_epoch_gives_the_same_bits(
    make_config, make_model, train, valid, eval_step
):
    config = make_config(epochs=4, eval_step=eval_step, learning_rate=0.3)
    whole_model = make_model(dropout=0.4)
    torch.manual_seed(11)
    whole = ChoirTrainer(config, whole_model)
    whole_result = whole.fit(train, valid, verbose=False)
    seen = []

    def stop(epoch, score):
        seen.append(score)
        if len(seen) == 2 / eval_step + 1:  # in mid-epoch, after its validation
            raise Interrupted

    first = ChoirTrainer(config, make_model(dropout=0.4))
    torch.manual_seed(11)
    with pytest.raises(Interrupted):
        first.fit(train, valid, verbose=False, callback_fn=stop)
    torch.manual_seed(999)
    second_model = make_model(seed=5, dropout=0.4)
    second = ChoirTrainer(config, second_model)
    second.resume_checkpoint(first.last_model_file)
    assert second.start_epoch == 2
    assert second.fit(train, valid, verbose=False) == whole_result
    assert same(whole_model, second_model)
    plain = [[(v["epoch"], v["valid"]) for v in e["validations"]] for e in whole.history]
    again = [[(v["epoch"], v["valid"]) for v in e["validations"]] for e in second.history]
    assert plain == again
    assert second.best_epoch == whole.best_epoch
    assert second.evaluate(valid) == whole.evaluate(valid)


def test_a_checkpoint_of_mid_epoch_is_not_resumed_from(
    make_config, make_model, train, valid, monkeypatch
):
    trainer = ChoirTrainer(make_config(eval_step=0.5, epochs=1), make_model())
    scores = iter([0.9, 0.5])
    monkeypatch.setattr(trainer, "_valid_epoch", lambda *_, **__: (s := next(scores), {"gauc": s}))
    trainer.fit(train, valid, verbose=False)
    other = ChoirTrainer(make_config(eval_step=0.5, epochs=1), make_model())
    with pytest.raises(CheckpointError, match="after step 3 of epoch 0; take the <name>-last"):
        other.resume_checkpoint(trainer.saved_model_file)
    other.resume_checkpoint(trainer.last_model_file)


def test_a_bad_loss_is_said_before_a_validation_in_mid_epoch(make_config, make_model, train, valid):
    trainer = ChoirTrainer(make_config(eval_step=0.5), make_model(nan_at=1))
    with pytest.raises(TrainingError, match="in epoch 0, step 2 of 6"):
        trainer.fit(train, valid, saved=False, verbose=False)


def test_no_synchronisation_per_step_with_validations(
    make_config, make_model, train, valid, monkeypatch
):
    """Two validations an epoch: the device is read as often for 90 steps as for 6."""
    counts = []
    reads = []
    for batch_size in (16, 1):
        train.batch_size = batch_size
        config = make_config(learner="sgd", eval_step=0.5, epochs=1)
        trainer = ChoirTrainer(config, make_model())
        reads.clear()
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "cpu"):
                real = getattr(torch.Tensor, name)
                patch.setattr(
                    torch.Tensor,
                    name,
                    lambda self, *a, _real=real, _n=name: reads.append(_n) or _real(self, *a),
                )
            trainer.fit(train, valid, saved=False, verbose=False)
        counts.append(len(reads))
    assert counts[0] == counts[1]
