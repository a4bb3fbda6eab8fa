"""When a run validates, and how a validation in mid-epoch leaves training as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from recbole_choir.errors import ConfigError
from recbole_choir.integration import distributed


def validation_steps(eval_step: int | float, n_steps: int) -> list[int]:
    """Steps of an epoch after which a run validates, the last one left out.

    The epoch's end is the trainer's own: it belongs to whole numbers as well.

    Args:
        eval_step: From :func:`check_eval_step`.
        n_steps: Steps of an epoch.

    Returns:
        Numbers of steps in ``1 .. n_steps - 1``, increasing; empty for whole numbers of epochs.
        Step ``round(i n / k)`` for ``i = 1 .. k - 1`` with ``k = round(1 / eval_step)``, halves up.

    Raises:
        ConfigError: There are fewer steps than validations.
    """
    if isinstance(eval_step, int):
        return []
    k = round(1 / eval_step)
    if k > n_steps:
        raise ConfigError(
            f"eval_step: expected at least one step between validations, got {eval_step:g} of an "
            f"epoch of {n_steps} steps; smallest: {1 / n_steps:.4g}"
        )
    return [(2 * i * n_steps + k) // (2 * k) for i in range(1, k)]


@contextmanager
def undisturbed(model: Any, device: torch.device) -> Iterator[None]:
    """Leave training as it is, bit for bit, whatever is evaluated meanwhile.

    Kept are random states, the model's mode, and ``training_state`` of a model that has one: what
    an evaluation computes again and training reads. With several processes, saved buffers are made
    equal meanwhile, so that all predict the same, and are the process's own again afterwards.
    Nothing waits for the device.
    """
    cuda = device.type == "cuda"
    host = torch.get_rng_state()
    own = torch.cuda.get_rng_state(device) if cuda else None
    training = model.training
    state = model.training_state() if hasattr(model, "training_state") else None
    buffers = {}
    if distributed.world_size() > 1:
        saved = set(model.state_dict(keep_vars=True))
        buffers = {n: b.clone() for n, b in model.named_buffers() if n in saved}
        distributed.equalise_buffers(model)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
        model.train(training)
        if hasattr(model, "training_state"):
            model.restore_training_state(state)
        torch.set_rng_state(host)
        if own is not None:
            torch.cuda.set_rng_state(own, device)
