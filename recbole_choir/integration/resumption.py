"""Checkpoints of a trainer: what is written after each epoch, and how a run goes on from it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from recbole.utils import get_local_time

from recbole_choir.errors import CheckpointError
from recbole_choir.integration import checkpoint, distributed


class Resumable:
    """The part of a trainer that saves its state and restores it, bit for bit.

    Two files a run: ``<name>.pth``, the best validation, and ``<name>-last.pth``, the last whole
    epoch, to resume from. The best one may be of mid-epoch, and then cannot be resumed from.
    A mixin: the attributes below belong to the trainer.
    """

    config: Any
    model: Any
    optimizer: Any
    scaler: Any
    device: torch.device
    logger: Logger
    checkpoint_dir: str
    saved_model_file: str
    start_epoch: int
    cur_step: int
    best_valid_score: float
    best_valid_result: dict[str, float] | None
    best_epoch: float | None
    history: list[dict[str, Any]]
    _stopped: bool
    _train_data: Any
    _loader_state: torch.Tensor | None
    #: Fingerprint of each part of the rows (``ChoirDataset.fingerprint``); None: not compared.
    rows: dict[str, str] | None

    def _new_checkpoint_name(self) -> str:
        """A name of its own for every run, the same in all its processes.

        RecBole's has the model and the second, so that runs started together overwrite each other,
        also those of one process.
        """
        parts = (self.config["model"], self.config["dataset"], self.config["seed"])
        stem = "-".join(str(part) for part in parts if part is not None)
        name = f"{stem}-{get_local_time()}-{secrets.token_hex(4)}.pth"
        return os.path.join(self.checkpoint_dir, distributed.all_gather_objects(name)[0])

    @property
    def last_model_file(self) -> str:
        """The checkpoint of the last finished epoch, to resume from."""
        path = Path(self.saved_model_file)
        return str(path.with_name(f"{path.stem}-last{path.suffix}"))

    def _load(self, path: str | Path) -> checkpoint.Checkpoint:
        return checkpoint.load(
            path,
            map_location=self.device,
            trust_pickle=bool(self.config["trust_pickle"]),
            expect_model=self.config["model"],
        )

    def _load_weights(self, path: str | Path) -> checkpoint.Checkpoint:
        state = self._load(path)
        self._take_weights(path, state)
        return state

    def _take_weights(self, path: str | Path, state: checkpoint.Checkpoint) -> None:
        trained_on, here = state.extra.get("table"), self._table()
        if trained_on is not None and trained_on != here:
            raise CheckpointError(
                f"{path}: trained with semantic table {trained_on}, this run has {here}"
            )
        with _fitting(path):
            self.model.load_state_dict(state.state_dict)
            self.model.load_other_parameter(state.extra.get("other_parameter"))

    def _save_checkpoint(
        self, epoch: int, verbose: bool = True, best: bool = True, **kwargs: Any
    ) -> None:
        """Write ``<name>-last.pth``, and the best checkpoint if this is the best epoch.

        Args:
            epoch: Number of the epoch, from 0.
            verbose: Whether to log it.
            best: Whether this is the best so far.
            **kwargs: ``saved_model_file``: write this file alone. ``within``: steps of the epoch
                that were taken, where it is not over.
        """
        rng = distributed.all_gather_objects(checkpoint.rng_state())
        files = [kwargs["saved_model_file"]] if "saved_model_file" in kwargs else []
        if not files:
            files = [self.last_model_file] + ([self.saved_model_file] if best else [])
        if distributed.rank() == 0:
            finite = np.isfinite(self.best_valid_score)
            for path in files:
                checkpoint.save(
                    path,
                    model=self.config["model"],
                    state_dict=self.model.state_dict(),
                    config=self.config.plain(),
                    optimizer=self.optimizer.state_dict(),
                    epoch=epoch,
                    cur_step=self.cur_step,
                    best_valid_score=self.best_valid_score if finite else None,
                    best_valid_result=self.best_valid_result,
                    rng=rng[0],
                    extra={
                        "other_parameter": self.model.other_parameter(),
                        "scaler": self.scaler.state_dict(),
                        "history": self.history,
                        "stopped": bool(self._stopped),
                        "best_epoch": self.best_epoch,
                        "within": kwargs.get("within"),
                        "best_file": Path(self.saved_model_file).name,
                        "rng_of_ranks": rng,
                        "loader": self._loader_random_state(),
                        "table": self._table(),
                        "rows": self.rows,
                    },
                )
            if verbose:
                self.logger.info("Saved %s", files[-1])
        distributed.barrier()

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Go on where a run stopped; call it before :meth:`fit`.

        From ``<name>-last.pth`` of a run with the same configuration and number of processes, the
        result has the same bits as without the interruption.

        Args:
            resume_file: A checkpoint of this trainer.

        Raises:
            CheckpointError: If it is missing, damaged, of mid-epoch, or of another run: another
                model, setting, table or other rows.
        """
        state = self._load(resume_file)
        if state.extra.get("within"):
            raise CheckpointError(
                f"{resume_file}: expected a checkpoint of a whole epoch to resume from, got one "
                f"after step {state.extra['within']} of epoch {state.epoch}; "
                "take the <name>-last.pth next to it"
            )
        same_run(resume_file, state, self.config.plain(), self.rows)
        self._take_weights(resume_file, state)
        best_file = self._best_file(Path(resume_file), state)
        with _fitting(resume_file):
            self._restore(resume_file, state)
        self.saved_model_file = str(best_file)
        self.logger.info("Resuming from epoch %d of %s", self.start_epoch, resume_file)

    def _best_file(self, resume_file: Path, state: checkpoint.Checkpoint) -> Path:
        """The best checkpoint of the run that goes on: what is tested if nothing gets better."""
        name = Path(str(state.extra.get("best_file") or resume_file.name)).name
        best = resume_file.with_name(name)
        if best != resume_file and state.extra.get("best_epoch") is not None:
            self._load(best)
        return best

    def _restore(self, resume_file: str | Path, state: checkpoint.Checkpoint) -> None:
        if state.optimizer is not None:
            self.optimizer.load_state_dict(state.optimizer)
        if state.extra.get("scaler"):
            self.scaler.load_state_dict(state.extra["scaler"])
        self.start_epoch = state.epoch + 1
        self.cur_step = state.cur_step
        if state.best_valid_score is not None:
            self.best_valid_score = state.best_valid_score
        self.best_valid_result = state.best_valid_result
        self.best_epoch = state.extra.get("best_epoch")
        self.history = [dict(entry) for entry in state.extra.get("history", [])]
        self._stopped = bool(state.extra.get("stopped", False))
        self._loader_state = state.extra.get("loader")
        states = state.extra.get("rng_of_ranks") or ([state.rng] if state.rng else [])
        if len(states) == distributed.world_size():
            checkpoint.set_rng_state(states[distributed.rank()])
        else:
            self.logger.warning(
                "%s holds the random state of %d processes, this run has %d: it goes on with other "
                "random numbers",
                resume_file,
                len(states),
                distributed.world_size(),
            )

    def _table(self) -> str | None:
        """Fingerprint of the semantic table the model was built with, if any."""
        return getattr(self.model, "table_fingerprint", None)

    def _loader_random_state(self) -> torch.Tensor | None:
        """State of a torch loader's own generator; a loader with ``set_epoch`` needs none."""
        generator = getattr(self._train_data, "generator", None)
        if hasattr(self._train_data, "set_epoch") or generator is None:
            return None
        return generator.get_state()

    def _restore_loader(self) -> None:
        generator = getattr(self._train_data, "generator", None)
        if self._loader_state is not None and generator is not None:
            generator.set_state(self._loader_state.cpu())
        self._loader_state = None


#: Settings that a run may change when it goes on: where it runs, what it shows and writes, how many
#: rows are scored at a time. The recipe of the table may be named in another way: the table itself
#: is compared.
_FREE: Final = frozenset(
    {
        "checkpoint_dir",
        "data_path",
        "dataloaders_save_path",
        "dataset_save_path",
        "device",
        "eval_batch_size",
        "gpu_id",
        "local_rank",
        "log_wandb",
        "loss_decimal_place",
        "nproc",
        "quiet",
        "raw_data_path",
        "record_dir",
        "resume",
        "run_name",
        "save_dataloaders",
        "save_dataset",
        "save_predictions",
        "semantic",
        "semantic_dir",
        "semantic_recipe",
        "semantic_table",
        "show_progress",
        "single_spec",
        "state",
        "tensorboard",
        "training_presets",
        "trust_pickle",
        "use_gpu",
        "wandb_project",
        "worker",
    }
)


def same_run(
    path: str | Path,
    state: checkpoint.Checkpoint,
    settings: Mapping[str, Any],
    rows: Mapping[str, str] | None,
) -> None:
    """Refuse to go on from the checkpoint of another run.

    Settings that only one side knows are of another version of this package and are not compared.

    Args:
        path: The checkpoint, for the message.
        state: What it holds.
        settings: Of this run.
        rows: Fingerprints of this run's rows; None: not known.

    Raises:
        CheckpointError: A setting or the rows differ; both sides are named.
    """
    then, now = state.config, settings
    problems = [
        f"{name} {then[name]!r} there and {now[name]!r} here"
        for name in sorted(then.keys() & now.keys() - _FREE - {"epochs"})
        if then[name] != now[name]
    ]
    more = then.get("epochs") != now.get("epochs")
    if more and now.get("lr_schedule", "constant") != "constant":
        problems.append(
            f"epochs {then.get('epochs')} there and {now.get('epochs')} here, over which "
            f"lr_schedule '{now['lr_schedule']}' spreads the learning rate"
        )
    if state.epoch >= int(now.get("epochs") or 0):
        problems.append(f"{state.epoch + 1} epochs trained there and epochs {now['epochs']} here")
    of_rows = state.extra.get("rows")
    if isinstance(of_rows, Mapping) and rows is not None:
        problems += [
            f"{name} rows {of_rows.get(name)} there and {rows[name]} here"
            for name in rows
            if of_rows.get(name) != rows[name]
        ]
    if problems:
        raise CheckpointError(
            f"{path}: expected a checkpoint of this run, got {'; '.join(problems)}"
        )


@contextmanager
def _fitting(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a state is restored into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (*(RuntimeError, ValueError, LookupError, TypeError), AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: does not fit this model ({type(error).__name__}: {reason[:200]})"
        ) from error
