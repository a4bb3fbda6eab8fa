"""Learning rate per step."""

from __future__ import annotations


def learning_rate_at(
    step: int, n_steps: int, schedule: str, start: float, final: float | None
) -> float:
    """Return the learning rate of one step.

    The first step has ``start`` and the last of all epochs has ``final``; between them the rate
    moves by equal differences (linear) or equal ratios (exponential).

    Args:
        step: From 0 to ``n_steps - 1``; later steps keep ``final``.
        n_steps: Steps of all epochs together.
        schedule: ``constant``, ``linear`` or ``exponential``.
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
