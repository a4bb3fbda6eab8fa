"""Training with Eq. 2, the same for every engine: early stop and exact resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_choir.errors import DataError, TableError
from recbole_choir.semantic.interest.diagnostics import (
    Diagnostics,
    Ints,
    Quality,
    Task,
    Truth,
    batches,
    measure,
    measure_constant,
)
from recbole_choir.semantic.storage.tensor_file import read_tensors, write_tensors

logger = logging.getLogger(__name__)

WEIGHTS: Final = "weights.safetensors"
CHECKPOINT: Final = "checkpoint.safetensors"
_KIND: Final = "recbole_choir.interest"
_VERSION: Final = 1


class Stored(NamedTuple):
    """Tensors by name, and plain values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def write_stored(path: Path, key: str, stored: Stored) -> None:
    """Write a file whole or not at all; durable when this returns.

    Args:
        path: The file; an older one is replaced.
        key: What the content was made from.
        stored: Tensors and plain values. bfloat16 is written as float32, which loses nothing.

    Raises:
        DataError: The file cannot be written.
    """
    arrays = {}
    for name, one in stored.tensors.items():
        one = one.detach().cpu()
        arrays[name] = (one.float() if one.dtype == torch.bfloat16 else one).numpy()
    values = {"key": key, "values": json.dumps(stored.values, sort_keys=True)}
    try:
        write_tensors(path, _KIND, _VERSION, arrays, values)
    except OSError as error:
        raise DataError(f"{path}: the weights cannot be written: {error}") from error


def read_stored(path: Path, key: str, shapes: Mapping[str, tuple[int, ...]]) -> Stored | None:
    """Read a file back; None where there is none, or it is damaged or something else's.

    What cannot be used is logged and made again by the caller: a cache must not stop a run.

    Args:
        path: The file.
        key: What the content should have been made from.
        shapes: Tensors that must be there, with their shapes; others are read as well.
    """
    if not path.is_file():
        return None
    try:
        arrays, header = read_tensors(path, _KIND, _VERSION, "the weights")
        values = json.loads(header.get("values", ""))
    except (TableError, ValueError) as error:
        logger.warning("%s; made again", error)
        return None
    if header.get("key") != key:
        logger.warning("%s: made from other inputs, %s: made again", path, header.get("key"))
        return None
    wrong = [n for n, shape in shapes.items() if n not in arrays or arrays[n].shape != shape]
    if wrong:
        logger.warning("%s: %s is missing or of another shape: made again", path, wrong[0])
        return None
    return Stored({name: torch.from_numpy(one) for name, one in arrays.items()}, values)


#: Seconds between two checkpoints.
CHECKPOINT_SECONDS = 60.0
_NOW, _BEST, _ADAM = "now/", "best/", "adam/"


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Args:
        epochs: At most.
        batch_size: Units a forward pass.
        accumulation: Passes whose gradients are added up; the mean is over all their targets, so
            2 passes of 8 units are what 1 of 16 is.
        learning_rate: Of AdamW, constant.
        weight_decay: Of AdamW.
        patience: Epochs without a better held-out loss after which training stops.
    """

    epochs: int
    batch_size: int
    accumulation: int
    learning_rate: float
    weight_decay: float
    patience: int


def fit(
    task: Task,
    truth: Truth,
    train: Ints,
    held_out: Ints,
    schedule: Schedule,
    seed: int,
    key: str,
    folder: Path | None,
    show_progress: bool,
) -> Diagnostics:
    """Train ``task.network`` in place, or take its weights from ``folder``.

    The weights of the epoch with the least held-out loss are kept; without held-out units, those
    of the last one. A killed run goes on from its newest checkpoint, to the same bits as a run that
    was not killed (on a CPU; no random state is kept, since every step seeds itself).

    Args:
        task: Model and units.
        truth: Vectors and categories of the items, on the model's device.
        train, held_out: Units trained on and measured on.
        schedule: How.
        seed: Of the order of the units and of dropout.
        key: What the weights depend on; the name of their folder.
        folder: Cache; nothing is kept if None.
        show_progress: Show a progress bar.

    Raises:
        DataError: The loss is not finite, or a file cannot be written.
    """
    start = time.perf_counter()
    place = folder / key if folder is not None else None
    if place is not None:
        stored = read_stored(place / WEIGHTS, key, shapes_of(trained(task.network)))
        if stored is not None:
            load_into(task.network, stored.tensors)
            logger.info("interest: trained weights reused from %s", place)
            return Diagnostics.from_dict(stored.values)
    run = _Run(task, truth, train, held_out, schedule, seed, key, place)
    before, after = run.run(show_progress)
    diagnostics = Diagnostics(
        before=before,
        after=after,
        constant=measure_constant(task, truth, train, held_out),
        targets=int(task.n_targets[train].sum()),
        held_out=int(task.n_targets[held_out].sum()),
        epochs=run.progress.epoch,
        best_epoch=run.progress.best_epoch or run.progress.epoch,
        seconds=time.perf_counter() - start,
    )
    logger.info("interest: %s", diagnostics)
    if place is not None:
        weights = Stored(trained(task.network), diagnostics.as_dict())
        write_stored(place / WEIGHTS, key, weights)
        (place / CHECKPOINT).unlink(missing_ok=True)
    return diagnostics


def trained(network: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name."""
    return {name: one for name, one in network.named_parameters() if one.requires_grad}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(one.shape) for name, one in tensors.items()}


@torch.no_grad()
def load_into(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters of those names."""
    for name, one in trained(network).items():
        one.copy_(tensors[name])


@contextmanager
def own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's generators for the block, and leave them to others as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@dataclass
class _Progress:
    """Where training stands; a checkpoint is this, the weights and the optimiser's moments."""

    epoch: int = 0
    step: int = 0  # next step within the epoch
    done: int = 0  # steps in all
    best_loss: float = math.inf
    best_epoch: int = 0
    before: dict[str, float] = field(default_factory=dict)


class _Run:
    """One training from the start or from a checkpoint to its end."""

    def __init__(
        self,
        task: Task,
        truth: Truth,
        train: Ints,
        held_out: Ints,
        schedule: Schedule,
        seed: int,
        key: str,
        place: Path | None,
    ) -> None:
        self.task, self.truth, self.schedule = task, truth, schedule
        self.train, self.held_out = train, held_out
        self.seed, self.key, self.place = seed, key, place
        self.weights = trained(task.network)
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.best: dict[str, Tensor] = {}
        self.progress = _Progress()
        self.total = torch.zeros((), device=truth.vectors.device)  # loss of the epoch
        self.saved = time.monotonic()

    def run(self, show_progress: bool) -> tuple[Quality, Quality]:
        """Train; returns the held-out quality before and after."""
        per_step = self.schedule.batch_size * self.schedule.accumulation
        n_steps = -(-len(self.train) // per_step)
        if not self._resume():
            self.progress.before = asdict(self._measure())
        progress = self.progress
        bar = tqdm(
            total=self.schedule.epochs * n_steps,
            initial=progress.done,
            desc="interest",
            unit="step",
            disable=not show_progress,
        )
        with bar, own_random_state(self.truth.vectors.device, self.seed):
            while progress.epoch < self.schedule.epochs and not self._stopped():
                order = np.random.default_rng([self.seed, 1, progress.epoch])
                units = order.permutation(self.train)
                for step in range(progress.step, n_steps):
                    self._step(units[step * per_step : (step + 1) * per_step])
                    progress.step, progress.done = step + 1, progress.done + 1
                    bar.update()
                    self._checkpoint()
                self._end_epoch()
        if self.best:
            load_into(self.task.network, self.best)
        self.task.network.eval()
        return Quality(**progress.before), self._measure()

    def _measure(self) -> Quality:
        return measure(self.task, self.truth, self.held_out, self.schedule.batch_size)

    def _stopped(self) -> bool:
        progress = self.progress
        return bool(self.best) and progress.epoch - progress.best_epoch >= self.schedule.patience

    def _step(self, units: Ints) -> None:
        """One step of the optimiser on the mean loss of all targets of ``units``."""
        self.task.network.train()
        # Dropout of a step depends on the step alone: a resumed run draws what it would have.
        torch.manual_seed(self.seed * 1_000_003 + self.progress.done)
        n = int(self.task.n_targets[units].sum())
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches(units, self.schedule.batch_size):
            e_hat, logits = self.task.predict(batch)
            item = torch.as_tensor(self.task.items(batch), device=self.total.device)
            loss = self.truth.loss(e_hat, logits, item).sum() / n
            loss.backward()  # type: ignore[no-untyped-call]
            self.total += loss.detach()
        self.optimizer.step()

    def _end_epoch(self) -> None:
        progress = self.progress
        progress.epoch, progress.step = progress.epoch + 1, 0
        quality = self._measure()
        if not torch.isfinite(self.total) or (len(self.held_out) and quality.loss != quality.loss):
            raise DataError(
                f"interest: expected a finite loss, got none in epoch {progress.epoch}: "
                f"try a learning_rate below {self.schedule.learning_rate:g}"
            )
        self.total.zero_()
        if len(self.held_out) and quality.loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = quality.loss, progress.epoch
            self.best = {name: one.detach().clone() for name, one in self.weights.items()}
        logger.debug("interest: epoch %d: %s", progress.epoch, quality)
        self._checkpoint()

    def _checkpoint(self) -> None:
        if self.place is None:
            return
        if time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return
        tensors = {_NOW + name: one for name, one in self.weights.items()}
        tensors |= {_BEST + name: one for name, one in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{_ADAM}{number}/{name}": one for name, one in state.items()}
        write_stored(self.place / CHECKPOINT, self.key, Stored(tensors, asdict(self.progress)))
        self.saved = time.monotonic()

    def _resume(self) -> bool:
        """Go on from a checkpoint, where there is one that fits."""
        if self.place is None:
            return False
        shapes = {_NOW + name: shape for name, shape in shapes_of(self.weights).items()}
        stored = read_stored(self.place / CHECKPOINT, self.key, shapes)
        if stored is None:
            return False
        load_into(self.task.network, _under(stored.tensors, _NOW))
        self.best = {
            name: one.to(self.total.device) for name, one in _under(stored.tensors, _BEST).items()
        }
        state: dict[int, dict[str, Any]] = {}
        for name, one in _under(stored.tensors, _ADAM).items():
            number, part = name.split("/")
            # the count of steps, a number without dimensions, comes back with one
            one = one.reshape(()) if part == "step" else one
            state.setdefault(int(number), {})[part] = one
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.progress = _Progress(**stored.values)
        logger.info(
            "interest: resumed after step %d, epoch %d", self.progress.done, self.progress.epoch
        )
        return True


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): one for n, one in tensors.items() if n.startswith(prefix)}
