from __future__ import annotations

import pytest

from recbole_choir.errors import ConfigError
from recbole_choir.integration.schedule import learning_rate_at
from recbole_choir.settings.run import RunSettings


def rates(schedule, n=5, start=0.01, final=0.001):
    return [learning_rate_at(step, n, schedule, start, final) for step in range(n)]


def test_constant():
    assert rates("constant") == [0.01] * 5


def test_linear_goes_in_equal_differences():
    assert rates("linear") == pytest.approx([0.01, 0.00775, 0.0055, 0.00325, 0.001], rel=1e-12)


def test_exponential_goes_in_equal_ratios():
    expected = [0.01, 0.01 * 10**-0.25, 0.01 * 10**-0.5, 0.01 * 10**-0.75, 0.001]
    assert rates("exponential") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_past_the_end_and_single_step(schedule):
    assert learning_rate_at(99, 5, schedule, 0.01, 0.001) == pytest.approx(0.001)
    assert learning_rate_at(0, 1, schedule, 0.01, 0.001) == 0.01


def test_linear_may_end_at_zero():
    assert RunSettings.resolve({"lr_schedule": "linear", "lr_final": 0.0}).lr_final == 0
    assert rates("linear", final=0.0)[-1] == 0.0


@pytest.mark.parametrize(
    ("schedule", "final", "message"),
    [
        ("linaer", 0.1, "did you mean 'linear'"),
        ("linear", None, "lr_final: expected a number"),
        ("exponential", 0.0, "lr_final: expected a number above 0, got 0.0"),
        ("linear", -1.0, "lr_final: expected a number in [0, inf) or null, got -1.0"),
        ("linear", float("nan"), "lr_final"),
    ],
)
def test_refused(schedule, final, message):
    with pytest.raises(ConfigError) as error:
        RunSettings.resolve({"lr_schedule": schedule, "lr_final": final})
    assert message in str(error.value)
