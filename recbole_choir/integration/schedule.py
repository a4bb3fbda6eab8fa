"""Learning rate per step."""

from __future__ import annotations

import math
from typing import Final

from recbole_choir.errors import ConfigError, nearest

SCHEDULES: Final = ("constant", "linear", "exponential")


def check_schedule(schedule: str, start: float, final: float | None) -> None:
    """Check a schedule before training.

    Args:
        schedule: One of :data:`SCHEDULES`.
        start: Learning rate of the first step.
        final: Learning rate of the last step; needed unless the schedule is constant.

    Raises:
        ConfigError: If the name is unknown, or ``final`` is missing or impossible.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"lr_schedule: expected one of {', '.join(SCHEDULES)}, got '{schedule}'"
            f"{nearest(str(schedule), SCHEDULES)}"
        )
    if schedule == "constant":
        return
    if final is None:
        raise ConfigError(f"lr_final: expected a number for lr_schedule '{schedule}', got none")
    lowest_ok = final > 0 if schedule == "exponential" else final >= 0
    if not lowest_ok or not math.isfinite(final):
        bound = "above 0" if schedule == "exponential" else "from 0"
        raise ConfigError(f"lr_final: expected a number {bound}, got {final}")
    if schedule == "exponential" and start <= 0:
        raise ConfigError(f"learning_rate: expected a number above 0, got {start}")


def learning_rate_at(
    step: int, n_steps: int, schedule: str, start: float, final: float | None
) -> float:
    """Return the learning rate of one step.

    The first step has ``start`` and the last of all epochs has ``final``; between them the rate
    moves by equal differences (linear) or equal ratios (exponential).

    Args:
        step: From 0 to ``n_steps - 1``; later steps keep ``final``.
        n_steps: Steps of all epochs together.
        schedule: One of :data:`SCHEDULES`.
        start, final: Learning rates of the first and the last step.

    References:
        ChoirRec, section 5.1: "the learning rate decays from 0.01 to 0.001".
    """
    if schedule == "constant" or final is None or n_steps <= 1:
        return start
    part = min(step / (n_steps - 1), 1.0)
    if schedule == "linear":
        return start + (final - start) * part
    return start * (final / start) ** part
