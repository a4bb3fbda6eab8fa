"""What a training that has learned nothing says of itself at its end."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import N_USERS, TinyConfig, TinyLoader, TinyModel, tiny_rows

from recbole_choir.evaluator import auc
from recbole_choir.integration.trainer import ChoirTrainer
from recbole_choir.integration.training_checks import (
    TrainingChecks,
    auc_standard_error,
    sample,
    warn_of_chance,
    warn_of_means,
)


class WithTables(TinyModel):
    """The small model with tables that the checks may look at."""

    def id_tables(self) -> dict[str, torch.Tensor]:
        return {"user": self.user.weight, "item": self.item.weight}


@pytest.fixture
def train() -> TinyLoader:
    rows = tiny_rows(90, seed=0)
    loader = TinyLoader(rows, batch_size=16, shuffle=True)
    loader.dataset = SimpleNamespace(inter_feat=rows)
    return loader


def warnings_of(caplog: Any) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def fit(train: Any, valid: Any, model: Any = None, **settings: Any) -> ChoirTrainer:
    torch.manual_seed(0)
    trainer = ChoirTrainer(TinyConfig(**settings), model or WithTables())
    trainer.fit(train, valid, saved=False, verbose=False)
    return trainer


def tables(**more: Any) -> SimpleNamespace:
    """A trainer of one user table: rows of length 5 with ids 0 to 4."""
    weight = torch.nn.Parameter(torch.tensor([[0.0, 0.0]] + [[3.0, 4.0]] * 4))
    model = SimpleNamespace(weight=weight, id_tables=lambda: {"user": weight})
    values = {"start_epoch": 0, "history": [{}], "model": model, "config": TinyConfig(), **more}
    return SimpleNamespace(best_valid_result=None, predictions=None, **values)


def loader_of(*users: int) -> SimpleNamespace:
    feat = {"user_id": torch.tensor(users)}
    return SimpleNamespace(dataset=SimpleNamespace(inter_feat=feat))


def test_movement_by_hand() -> None:
    """Of rows in training alone, 1 and 2: a change of (.3, .4) in one, length 5 sqrt(2)."""
    trainer = tables()
    checks = TrainingChecks(trainer, loader_of(2, 1, 2, 0, 1))
    with torch.no_grad():
        trainer.model.weight[1] += torch.tensor([0.3, 0.4])
        trainer.model.weight[3] += 100.0
    assert checks.moved() == {"user": pytest.approx(0.5 / (5 * math.sqrt(2)))}


@pytest.mark.parametrize(("step", "n_lines"), [(0.0499, 1), (0.0501, 0)])
def test_one_percent_is_the_border(step: float, n_lines: int, caplog: Any) -> None:
    trainer = tables()
    checks = TrainingChecks(trainer, loader_of(1))
    with torch.no_grad():
        trainer.model.weight[1, 0] += step  # of a row of length 5
    checks.report()
    assert len(warnings_of(caplog)) == n_lines


@pytest.mark.parametrize(
    "more",
    [
        {"start_epoch": 1},
        {"config": TinyConfig(warm_start="Base")},
        {"model": SimpleNamespace()},
        {"history": []},
    ],
    ids=["resumed", "warm start", "no tables", "nothing trained"],
)
def test_where_nothing_is_compared(more: dict[str, Any], caplog: Any) -> None:
    checks = TrainingChecks(tables(**more), loader_of(1, 2))
    checks.report()
    assert checks.moved() == {}
    assert not warnings_of(caplog)


def test_frozen_tables_and_zeros_are_left_out() -> None:
    trainer = tables()
    trainer.model.weight.requires_grad_(False)
    assert TrainingChecks(trainer, loader_of(1)).moved() == {}
    trainer = tables()
    torch.nn.init.zeros_(trainer.model.weight)
    assert TrainingChecks(trainer, loader_of(1)).moved() == {}
    assert TrainingChecks(tables(), loader_of(0)).moved() == {}, "no id but the padding"


def test_the_sample_is_spread_evenly_over_ids_with_rows() -> None:
    state = torch.get_rng_state()
    ids = torch.tensor([9, 3, 3, 0, 5, 7, 1])
    assert sample(ids, 12).tolist() == [1, 3, 5, 7, 9]
    assert sample(ids, 12, most=2).tolist() == [1, 5]
    assert sample(ids, 12, most=5).tolist() == [1, 3, 5, 7, 9]
    many = sample(torch.arange(25_001), 25_001)
    assert len(many) == 10_000
    assert many[[0, 1, 2, -1]].tolist() == [1, 3, 6, 24_998]
    assert torch.equal(torch.get_rng_state(), state), "no random number is drawn"


def test_a_rate_that_is_too_small_is_said_in_one_line_a_table(train: Any, caplog: Any) -> None:
    fit(train, None, learner="sgd", learning_rate=1e-6)
    lines = warnings_of(caplog)
    assert [line.split()[0] for line in lines] == ["user", "item"]
    for line in lines:
        assert "id vectors have hardly moved" in line
        assert "(learner sgd, learning_rate 1e-06, epochs 2)" in line
        assert line.endswith("or epochs, or take learner: adam with learning_rate: 0.002")
        assert "\n" not in line


def test_adam_is_not_told_to_take_adam(train: Any, caplog: Any) -> None:
    fit(train, None, learner="adam", learning_rate=1e-6)
    lines = warnings_of(caplog)
    assert len(lines) == 2
    assert all(line.endswith("; raise learning_rate or epochs") for line in lines)


def test_a_training_that_moves_its_ids_says_nothing(train: Any, caplog: Any) -> None:
    fit(train, None, learner="adam", learning_rate=0.05)
    fit(train, None, model=TinyModel(), learner="sgd", learning_rate=1e-6)  # RecBole's: no hook
    assert not warnings_of(caplog)


def test_the_checks_leave_the_training_as_it_is(train: Any) -> None:
    """Same bits with and without tables to look at."""
    with_tables, without = (fit(train, None, model=m()).model for m in (seeded, plain))
    for a, b in zip(with_tables.parameters(), without.parameters()):
        assert torch.equal(a, b)
    assert len(with_tables.user.weight) == N_USERS


def seeded() -> WithTables:
    torch.manual_seed(3)
    return WithTables(dropout=0.3)


def plain() -> TinyModel:
    torch.manual_seed(3)
    return TinyModel(dropout=0.3)


# --- chance -----------------------------------------------------------------------------


def test_standard_error_by_hand_and_by_drawing() -> None:
    assert auc_standard_error(1, 1) == pytest.approx(0.5)  # 0 or 1 with equal chances
    assert auc_standard_error(50, 50) == pytest.approx(math.sqrt(101 / 30_000))
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 12])
    drawn = [auc(labels, rng.random(42)) for _ in range(4000)]
    assert np.std(drawn) == pytest.approx(auc_standard_error(12, 30), rel=0.04)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("errors", "n_lines"), [(0.0, 1), (1.99, 1), (2.01, 0)])
def test_an_auc_within_two_standard_errors_is_said(
    errors: float, n_lines: int, sign: int, caplog: Any
) -> None:
    labels = np.repeat(np.float32([0, 1]), [300, 100])
    value = 0.5 + sign * errors * math.sqrt(401 / (12 * 300 * 100))
    predictions = SimpleNamespace(labels=labels)
    warn_of_chance(SimpleNamespace(best_valid_result={"auc": value}, predictions=predictions))
    lines = warnings_of(caplog)
    assert len(lines) == n_lines
    for line in lines:
        assert f"validation AUC at the best epoch is {value:.4f}, within 2 standard errors" in line
        assert ".5 +- 0.0667 with 100 positives and 300 negatives" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("result", "labels"),
    [(None, [0, 1]), ({"gauc": 0.5}, [0, 1]), ({"auc": 0.5}, [1, 1]), ({"auc": 0.5}, None)],
    ids=["no validation", "AUC is no metric", "one class", "nothing scored"],
)
def test_where_chance_cannot_be_judged(result: Any, labels: Any, caplog: Any) -> None:
    predictions = None if labels is None else SimpleNamespace(labels=np.float32(labels))
    warn_of_chance(SimpleNamespace(best_valid_result=result, predictions=predictions))
    assert not warnings_of(caplog)


def test_a_fit_on_labels_without_any_order_says_so(train: Any, valid: Any, caplog: Any) -> None:
    fit(train, valid, epochs=3, learning_rate=0.1)
    assert not warnings_of(caplog), "there is something to learn"
    coin = torch.Generator().manual_seed(2)
    for loader in (train, valid):
        loader.rows["label"] = torch.randint(
            0, 2, loader.rows["label"].shape, generator=coin
        ).float()
    trainer = fit(train, valid, valid_metric="AUC", epochs=1, learning_rate=0.1)
    (line,) = warnings_of(caplog)
    labels = valid.rows["label"]
    assert f"{int(labels.sum())} positives and {int((1 - labels).sum())} negatives" in line
    assert f"is {trainer.best_valid_result['auc']:.4f}, within" in line


def test_an_attention_that_is_a_mean_is_named(caplog: Any) -> None:
    figures = {
        "attention_entropy_history": 0.9995,
        "attention_logit_sd_history": 0.0061,
        "attention_entropy_group": 0.979,
        "attention_logit_sd_group": 0.4,
        "mean_alpha_fusion": 0.99,
    }
    warn_of_means(SimpleNamespace(history=[{"diagnostics": figures}]))
    (line,) = warnings_of(caplog)
    assert line.startswith("attention history is a mean: ")
    assert "0.9995" in line
    assert "0.0061" in line
    warn_of_means(SimpleNamespace(history=[]))
    assert len(warnings_of(caplog)) == 1
