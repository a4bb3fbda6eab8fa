"""Batches gathered on the device from columns that live there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_choir.data import fields
from recbole_choir.data.history import LABELLED_ITEMS, LABELLED_LEN
from recbole_choir.data.rows import HIST_END, HIST_START, LABELLED_END, LABELLED_START
from recbole_choir.errors import ConfigError
from recbole_choir.integration import distributed
from recbole_choir.integration.dataset import ChoirDataset

logger = logging.getLogger("recbole_choir")


class BatchLoader:
    """Batches of one part of a dataset.

    Everything lives on ``device``: a batch is two row gathers (whole numbers and floats, packed),
    and for models of this package one gather from the history pool. There is no worker process, no
    collation, and no copy between host and device.

    With several processes, training takes global batches of ``batch_size`` rows, of which rank r
    gets every w-th row; the last one is filled up from the beginning of the epoch's order so that
    all shares are equal. Evaluation gives rank r the rows r, r + w, ..., none of them twice.

    Args:
        dataset: A part of a built :class:`ChoirDataset`.
        batch_size: Rows of a batch over all processes in training, of one process in evaluation.
        shuffle: A new order each epoch, which depends on ``seed`` and the epoch alone.
        device: Where the columns live.
        seed: Of the order.
        join: True for RecBole's own models: user and item columns are joined to the batch. Models
            with ``reads_model_inputs`` get history and statistics instead.
        training: Yield ``Interaction``; else ``(Interaction, None, None, None)``, as RecBole's
            trainers expect of evaluation.
        rank, world_size: Default: those of the process group.

    Attributes:
        epoch: The epoch whose order comes next; :meth:`set_epoch` sets it.

    Raises:
        ConfigError: ``batch_size`` is not a positive multiple of the number of processes.
    """

    def __init__(
        self,
        dataset: ChoirDataset,
        batch_size: int,
        shuffle: bool,
        device: torch.device | str,
        seed: int = 0,
        join: bool = False,
        training: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.dataset = self._dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.device = torch.device(device)
        self.seed = int(seed)
        self.join = bool(join)
        self.training = bool(training)
        self.rank = distributed.rank() if rank is None else rank
        self.world_size = distributed.world_size() if world_size is None else world_size
        if self.batch_size < 1 or (self.training and self.batch_size % self.world_size):
            key = "train_batch_size" if self.training else "eval_batch_size"
            raise ConfigError(
                f"{key}: expected a positive multiple of the {self.world_size} processes,"
                f" got {self.batch_size}"
            )
        self.epoch = 0
        self.n_rows = len(dataset)
        self.inputs = dataset.model_inputs.to(self.device)
        self.row_inputs = dataset.row_inputs.to(self.device)
        self._columns = _PackedColumns(_columns_of(dataset, self.join), self.device)
        self._joined = _joined_tables(dataset, self.device) if self.join else []

    def __len__(self) -> int:
        """Number of batches that this process gets in an epoch."""
        rows = self.n_rows if self.training else len(range(self.rank, self.n_rows, self.world_size))
        return -(-rows // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next: the same seed and epoch give the same order."""
        self.epoch = int(epoch)

    def row_order(self, epoch: int) -> torch.Tensor:
        """Positions ``[n]`` of the rows in the order of an epoch, over all processes, on the host.

        The order is made on the host, so that it is the same on every device.
        """
        if not self.shuffle:
            return torch.arange(self.n_rows)
        generator = torch.Generator()
        # One odd multiplier keeps (seed, epoch) pairs apart; torch takes seeds below 2**63.
        generator.manual_seed((self.seed * 1_000_003 + epoch) % (1 << 62))
        return torch.randperm(self.n_rows, generator=generator)

    def batches(self, epoch: int) -> list[torch.Tensor]:
        """Positions of this process's rows, batch by batch, on the device."""
        order = self.row_order(epoch)
        if not self.training:
            return list(order[self.rank :: self.world_size].to(self.device).split(self.batch_size))
        short = -self.n_rows % self.world_size
        if short and self.n_rows:
            repeats = -(-short // self.n_rows)
            order = torch.cat([order, order.repeat(repeats)[:short]])
        # Global batches are multiples of the number of processes, so one stride serves them all.
        mine = order[self.rank :: self.world_size].to(self.device)
        return list(mine.split(self.batch_size // self.world_size))

    def __iter__(self) -> Iterator[Any]:
        batches = self.batches(self.epoch) if self.n_rows else []
        self.epoch += 1
        for at in batches:
            interaction = Interaction(self.gather(at))
            yield interaction if self.training else (interaction, None, None, None)

    def gather(self, at: torch.Tensor) -> dict[str, torch.Tensor]:
        """The batch of the rows at positions ``[B]`` of this part."""
        batch = self._columns.gather(at)
        if self.join:
            for id_field, table in self._joined:
                ids = batch[id_field]
                for name, values in table.items():
                    batch[name] = values.index_select(0, ids)
            zoo_fields = self.dataset.zoo_fields
            if zoo_fields is not None:
                zoo_fields.gather(batch, self.inputs, self.dataset.uid_field)
            return batch
        length = self.inputs.history_length
        start, end = batch.pop(HIST_START), batch.pop(HIST_END)
        batch[fields.HIST_ITEMS] = self.row_inputs.history.gather(start, end, length)
        batch[fields.HIST_LEN] = (end - start).clamp_(max=length)
        pool = self.row_inputs.labelled
        if pool is not None:
            start, end = batch.pop(LABELLED_START), batch.pop(LABELLED_END)
            batch[LABELLED_ITEMS] = pool.gather(start, end, length)
            batch[fields.HIST_LABELS] = pool.gather_labels(start, end, length)
            batch[LABELLED_LEN] = (end - start).clamp_(max=length)
        return batch


class _PackedColumns:
    """Columns side by side in one matrix a type, so that a batch costs one gather a type.

    Args:
        columns: Name -> ``[n]`` or ``[n, k]``.
        device: Where they live.
    """

    def __init__(self, columns: dict[str, torch.Tensor], device: torch.device) -> None:
        self._groups: list[tuple[torch.Tensor, list[tuple[str, int, int | None]]]] = []
        for dtype in (torch.int64, torch.float32):
            chosen = {n: v for n, v in columns.items() if v.dtype == dtype}
            if not chosen:
                continue
            places, at = [], 0
            for name, values in chosen.items():
                width = 1 if values.dim() == 1 else values.shape[1]
                places.append((name, at, None if values.dim() == 1 else at + width))
                at += width
            flat = [v if v.dim() == 2 else v[:, None] for v in chosen.values()]
            self._groups.append((torch.cat(flat, dim=1).to(device), places))

    def gather(self, at: torch.Tensor) -> dict[str, torch.Tensor]:
        """The rows at ``[B]``, as views of one matrix a type."""
        out = {}
        for matrix, places in self._groups:
            rows = matrix.index_select(0, at)
            for name, start, stop in places:
                out[name] = rows[:, start] if stop is None else rows[:, start:stop]
        return out


def _columns_of(dataset: ChoirDataset, join: bool) -> dict[str, torch.Tensor]:
    """Columns of a part's rows: ids, label and contexts, and what else the model reads."""
    part = dataset.part
    if part is None:
        raise ConfigError("loader: expected one part of a built dataset, got the whole")
    known = {n: torch.as_tensor(v) for n, v in dataset.row_inputs.of_part(part).items()}
    inter = dict(dataset.inter_feat.interaction)
    for name, values in inter.items():
        if values.dim() == 3:
            raise ConfigError(f"context_fields: expected token or float fields, got {name}")
    if join:
        zoo_fields = dataset.zoo_fields
        wanted = set() if zoo_fields is None else {fields.SNAPSHOT, *zoo_fields.float_fields}
        return {**inter, **{n: v for n, v in known.items() if n in wanted}}
    at = torch.as_tensor(dataset.row_inputs.parts[part])
    contexts = {n: v[at] for n, v in dataset.contexts.items()}
    ids = {n: inter[n] for n in (dataset.uid_field, dataset.iid_field, dataset.label_field)}
    return {**ids, **contexts, **known}


def _joined_tables(
    dataset: ChoirDataset, device: torch.device
) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """User and item columns that RecBole joins to each batch, by their id field."""
    out = []
    for id_field, feat in (
        (dataset.uid_field, dataset.user_feat),
        (dataset.iid_field, dataset.item_feat),
    ):
        if feat is not None:
            table = {n: v.to(device) for n, v in feat.interaction.items() if n != id_field}
            out.append((id_field, table))
    return out


def data_preparation(
    config: Any, dataset: ChoirDataset
) -> tuple[BatchLoader, BatchLoader, BatchLoader]:
    """Make the loaders of a run.

    Args:
        config: The run's configuration.
        dataset: The whole dataset; it is built here if that was not done before.

    Returns:
        Loaders of the training, validation and test rows.

    Raises:
        ConfigError: ``inject`` asks for group fields and no semantic table is attached.
    """
    splits = dataset.build()
    join = not getattr(config.model_class, "reads_model_inputs", False)
    if join and dataset.zoo_fields is not None:
        dataset.zoo_fields.check(dataset.model_inputs)
    loaders = []
    for number, split in enumerate(splits):
        training = number == 0
        loaders.append(
            BatchLoader(
                split,
                config["train_batch_size"] if training else config["eval_batch_size"],
                shuffle=training and bool(config["shuffle"]),
                device=config["device"],
                seed=config["seed"],
                join=join,
                training=training,
            )
        )
    sizes = ", ".join(f"{name} {size}" for name, size in dataset.split_sizes().items())
    logger.info("rows: %s", sizes)
    train, valid, test = loaders
    return train, valid, test
