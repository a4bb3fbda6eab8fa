"""Training and evaluation of context-aware models on labelled rows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from recbole.trainer.trainer import AbstractTrainer, Trainer
from recbole.utils import EvaluatorType, ModelType, early_stopping
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.integration import distributed
from recbole_choir.integration.metrics import LabelledEvaluator, data_struct
from recbole_choir.integration.optimizer import (
    LazyDecay,
    build_optimizer,
    embedding_parameters,
    parameter_groups,
)
from recbole_choir.integration.predictions import Predictions, predict_rows
from recbole_choir.integration.resumption import Resumable
from recbole_choir.integration.schedule import learning_rate_at
from recbole_choir.integration.training_checks import TrainingChecks
from recbole_choir.integration.training_log import (
    LossMeter,
    Trackers,
    TrainingError,
    describe_training,
    describe_validation,
    progress,
    show_loss,
)
from recbole_choir.integration.tree_trainer import TREE_TRAINERS
from recbole_choir.integration.validation_points import (
    undisturbed,
    validation_steps,
)
from recbole_choir.settings.recbole_keys import check_eval_step

# The device is asked for the loss (progress bar, non-finite check) once in so many steps.
CHECK_EVERY: Final = 200


class _LossModule(torch.nn.Module):
    """``calculate_loss`` as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, interaction: Any) -> Any:
        return self.model.calculate_loss(interaction)  # type: ignore[operator]


class ChoirTrainer(Resumable, Trainer):
    """RecBole's trainer for labelled rows, without its costs per step and with exact resumption.

    What differs from ``recbole.trainer.Trainer``:

    * losses are summed on the device; a non-finite one is found there and reported, at the latest
      after 200 steps, with its epoch and step;
    * ``lr_schedule`` moves the learning rate at every step from ``learning_rate`` to ``lr_final``;
      Adagrad starts from ``adagrad_initial_accumulator``;
    * metrics are computed once on all rows, in every process of a multi-process run;
    * checkpoints hold tensors and plain values; next to the best one, ``<name>-last.pth`` is
      written every epoch, and a run resumed from it ends with the same bits;
    * ``eval_step`` may be a part of an epoch: 0.25 validates after each quarter. Training has the
      same bits with and without these validations; the best checkpoint may be of mid-epoch;
    * TensorBoard is written only if the config says ``tensorboard: True``;
    * with mixed precision, gradients are unscaled before they are clipped.

    A model may define ``on_epoch_start(epoch)``, called before each epoch, and
    ``epoch_diagnostics() -> dict[str, float]``, read after it. One whose evaluation changes what
    training reads (averages that are computed now and then) defines ``training_state()`` and
    ``restore_training_state(state)``, called around a validation in mid-epoch.

    Args:
        config: The run's configuration.
        model: A model with ``calculate_loss`` and ``predict``.

    Attributes:
        history: One dict per finished epoch: ``epoch``, ``train_loss`` (mean over the steps),
            ``train_losses`` (its parts, for a model that returns several), ``learning_rate`` of the
            last step, ``seconds``, ``rows_per_second``, ``valid`` (metrics of the epoch's best
            validation, or None), ``valid_seconds``, ``diagnostics`` and ``validations``: one dict
            a validation with ``step`` of the epoch, ``epoch`` (epochs trained by then: 0.25 after
            the first quarter), ``valid`` and ``seconds``. ``steps`` of the epoch, where training
            stopped before its end.
        best_epoch: Epochs trained at the best validation; None before the first.
        predictions: What the last :meth:`evaluate` scored.
        saved_model_file: The best checkpoint.
        rows: Fingerprint of the rows of each part, for the checkpoints; None: not known.

    Raises:
        ConfigError: On an unknown learner or schedule, or a ranking evaluation.
    """

    def __init__(self, config: Any, model: Any) -> None:
        if not config["single_spec"]:
            raise ConfigError("single_spec: expected True; several processes are set by nproc")
        if config["eval_type"] == EvaluatorType.RANKING:
            raise ConfigError("eval_args.mode: expected labeled, got a ranking evaluation")
        # Trainer's own constructor would open a TensorBoard folder in the working directory.
        AbstractTrainer.__init__(self, config, model)
        self.logger = getLogger("recbole_choir")
        self.learner = config["learner"]
        self.learning_rate = config["learning_rate"]
        self.weight_decay = config["weight_decay"] or 0.0
        self.epochs = config["epochs"]
        self.eval_step = min(check_eval_step(config["eval_step"]), self.epochs)
        self.stopping_step = config["stopping_step"]
        self.clip_grad_norm = config["clip_grad_norm"]
        self.valid_metric = config["valid_metric"].lower()
        self.valid_metric_bigger = config["valid_metric_bigger"]
        self.device = config["device"]
        self.enable_amp = bool(config["enable_amp"])
        self.checkpoint_dir = config["checkpoint_dir"]
        self.saved_model_file = self._new_checkpoint_name()
        self.lr_schedule = config["lr_schedule"] or "constant"
        self.lr_final = config["lr_final"]
        self.optimizer = self._build_optimizer()
        self.scaler = _grad_scaler(self.device, bool(config["enable_scaler"]))
        self.evaluator = LabelledEvaluator(config)

        self.start_epoch = 0
        self.cur_step = 0
        self.best_valid_score = -np.inf if self.valid_metric_bigger else np.inf
        self.best_valid_result: dict[str, float] | None = None
        self.best_epoch: float | None = None
        self.train_loss_dict: dict[int, float] = {}
        self.history: list[dict[str, Any]] = []
        self.predictions: Predictions | None = None
        self.rows: dict[str, str] | None = None
        self._stopped = False
        self._validations: list[dict[str, Any]] = []  # of the epoch at hand
        self._train_data: Any = None
        self._loader_state: torch.Tensor | None = None  # to be restored by the next fit

        self.trackers = Trackers(config)
        self.tensorboard = self.trackers.tensorboard

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the optimiser; embeddings decay by ``embedding_decay`` where it is set."""
        decay = kwargs.get("weight_decay", self.weight_decay)
        own = self.config["embedding_decay"]
        lazy = own is not None and self.config["embedding_decay_form"] == "lazy"
        self.lazy_decay = LazyDecay(embedding_parameters(self.model), own if lazy else 0.0)
        params = kwargs.get("params")
        if params is None:
            params = parameter_groups(self.model, decay, 0.0 if lazy else own)
        accumulator = self.config["adagrad_initial_accumulator"]
        return build_optimizer(
            kwargs.get("learner", self.learner),
            params,
            kwargs.get("learning_rate", self.learning_rate),
            decay,
            0.0 if accumulator is None else accumulator,
        )

    # --- training ------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train until the last epoch or until validation stops getting better.

        Args:
            train_data: Batches to train on; ``len`` is the number of steps of an epoch. A loader
                with ``set_epoch`` is told the epoch, so that its order depends on nothing else.
            valid_data: Batches to validate on every ``eval_step`` epochs, or several times an
                epoch (:func:`~recbole_choir.settings.recbole_keys.check_eval_step`).
                Without, every epoch is saved as the best.
            verbose: Whether to log every epoch.
            saved: Whether to write checkpoints.
            show_progress: Whether to show progress bars.
            callback_fn: Called with the epoch's number from 0 and the validation score after each
                validation and its checkpoint. What it raises ends the training.

        Returns:
            The best validation score and all metrics of that validation, or None.

        Raises:
            TrainingError: If a loss is not finite, or processes have different numbers of steps.
            DataError: If there is no training batch, or the validation metric is undefined.
            ConfigError: If an epoch has fewer steps than validations.
        """
        n_steps = self._steps_per_epoch(train_data)
        pauses = validation_steps(self.eval_step, n_steps) if valid_data is not None else []
        self._train_data = train_data
        self._restore_loader()
        loss_module = self._loss_module()
        checks = TrainingChecks(self, train_data)
        if saved and self.start_epoch >= self.epochs and not Path(self.saved_model_file).exists():
            self._save_checkpoint(-1, verbose=verbose)

        def within(epoch: int, step: int) -> bool:
            """Validate in mid-epoch; whether to go on."""
            with undisturbed(self.model, self.device):
                better = self._validate(valid_data, epoch, step, n_steps, verbose, show_progress)
                if better and saved:
                    file = self.saved_model_file
                    self._save_checkpoint(epoch, verbose, saved_model_file=file, within=step)
            if callback_fn is not None:
                callback_fn(epoch, self._validations[-1]["valid"][self.valid_metric])
            return not self._stopped

        for epoch in range(self.start_epoch, self.epochs):
            if self._stopped:
                break
            entry = self._fit_epoch(
                train_data, epoch, n_steps, loss_module, show_progress, pauses, within
            )
            if verbose:
                self.logger.info(describe_training(entry, self.config["loss_decimal_place"] or 4))
            self.trackers.numbers(
                {"loss": entry["train_loss"], **entry["diagnostics"]}, "train", epoch
            )
            improved = valid_data is None or self.eval_step <= 0
            due = not improved and not self._stopped and self._due(epoch)
            if due:
                improved = self._validate(
                    valid_data, epoch, n_steps, n_steps, verbose, show_progress
                )
            self._enter_validations(entry)
            self.history.append(entry)
            if saved:
                self._save_checkpoint(epoch, verbose=verbose and improved, best=improved)
            if callback_fn is not None and due:
                callback_fn(epoch, self._validations[-1]["valid"][self.valid_metric])
        if self._stopped and verbose:
            self.logger.info(
                "Finished training, best eval result after %g epochs", self.best_epoch or 0.0
            )
        if self.tensorboard is not None:
            self._add_hparam_to_tensorboard(self.best_valid_score)
        checks.report()
        return self.best_valid_score, self.best_valid_result

    def _fit_epoch(
        self,
        train_data: Any,
        epoch: int,
        n_steps: int,
        loss_module: torch.nn.Module,
        show_progress: bool,
        pauses: Sequence[int] = (),
        within: Callable[[int, int], bool] | None = None,
    ) -> dict[str, Any]:
        """Train one epoch and return its entry of the history."""
        self._validations = []
        if hasattr(train_data, "set_epoch"):
            train_data.set_epoch(epoch)
        if hasattr(self.model, "on_epoch_start"):
            self.model.on_epoch_start(epoch)
        start = time.perf_counter()
        losses, rows, steps = self._run_epoch(
            train_data, epoch, n_steps, loss_module, show_progress, pauses, within
        )
        seconds = time.perf_counter() - start - sum(v["seconds"] for v in self._validations)
        distributed.equalise_buffers(self.model)
        self.train_loss_dict[epoch] = sum(losses)
        entry: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": sum(losses),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": round(seconds, 4),
            "rows_per_second": round(rows / max(seconds, 1e-9), 1),
            "valid": None,
            "valid_seconds": None,
            "diagnostics": self._diagnostics(),
        }
        if len(losses) > 1:
            entry["train_losses"] = losses
        if steps < n_steps:
            entry["steps"] = steps
        return entry

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[[Any], Any] | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        """RecBole's entry: one epoch with the given loss; the mean loss of a step."""
        n_steps = self._steps_per_epoch(train_data)
        function = loss_func or self.model.calculate_loss
        losses, _, _ = self._run_epoch(train_data, epoch_idx, n_steps, function, show_progress)
        return tuple(losses) if len(losses) > 1 else losses[0]

    def _run_epoch(
        self,
        train_data: Any,
        epoch: int,
        n_steps: int,
        loss_function: Callable[[Any], Any],
        show_progress: bool,
        pauses: Sequence[int] = (),
        within: Callable[[int, int], bool] | None = None,
    ) -> tuple[list[float], int, int]:
        """Take every step of an epoch, until ``within(epoch, step)`` says no at one of ``pauses``.

        Returns:
            The mean of each part of the loss, the rows of all ranks, and the steps taken.
        """
        self.model.train()
        meter = LossMeter(self.device)
        rows = 0
        stops = frozenset(pauses)
        bar = progress(train_data, n_steps, f"Train {epoch:>5}", show_progress)
        for step, batch in enumerate(bar):
            interaction = batch.to(self.device)
            rows += len(interaction)
            self._set_learning_rate(epoch * n_steps + step, n_steps)
            meter.add(self._step(loss_function, interaction))
            if (step + 1) % CHECK_EVERY == 0:
                show_loss(bar, sum(meter.means(epoch, n_steps)))
            if within is not None and step + 1 in stops:
                # A loss that is not finite is an error before it has scores.
                meter.means(epoch, n_steps)
                if not within(epoch, step + 1):
                    break
        means = meter.means(epoch, n_steps)
        return means, sum(distributed.all_gather_objects(rows)), meter.n_steps

    def _step(self, loss_function: Callable[[Any], Any], interaction: Any) -> torch.Tensor:
        """One update; the detached parts of its loss, ``[parts]``. Nothing waits for the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
            losses = loss_function(interaction)
        parts = losses if isinstance(losses, tuple) else (losses,)
        loss = sum(parts[1:], start=parts[0])
        self.scaler.scale(loss).backward()
        if self.clip_grad_norm or self.lazy_decay.tables:
            self.scaler.unscale_(self.optimizer)
        if self.clip_grad_norm:
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.lazy_decay.before_step()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.lazy_decay.after_step(self.optimizer.param_groups[0]["lr"])
        return torch.stack([part.detach().float().sum() for part in parts])

    def _set_learning_rate(self, step: int, n_steps: int) -> None:
        rate = learning_rate_at(
            step, self.epochs * n_steps, self.lr_schedule, self.learning_rate, self.lr_final
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _steps_per_epoch(self, train_data: Any) -> int:
        counts = distributed.all_gather_objects(len(train_data))
        if min(counts) != max(counts):
            raise TrainingError(
                f"training data: expected the same number of steps in every process, got {counts}"
            )
        if counts[0] == 0:
            raise DataError("training data: expected at least one batch, got none")
        return int(counts[0])

    def _loss_module(self) -> torch.nn.Module:
        """The loss as a module; gradients are averaged over the processes, if there are several."""
        module = _LossModule(self.model)
        if distributed.world_size() == 1:
            return module
        return DistributedDataParallel(
            module, device_ids=None, find_unused_parameters=True, broadcast_buffers=False
        )

    def _diagnostics(self) -> dict[str, float]:
        """The model's figures of the epoch, averaged over the processes."""
        if not hasattr(self.model, "epoch_diagnostics"):
            return {}
        own = {name: float(value) for name, value in self.model.epoch_diagnostics().items()}
        ranks = distributed.all_gather_objects(own)
        return {
            name: sum(rank[name] for rank in ranks) / len(ranks)
            for name in own
            if all(name in rank for rank in ranks)
        }

    # --- validation and evaluation ---------------------------------------------------------------

    def _validate(
        self,
        valid_data: Any,
        epoch: int,
        step: int,
        n_steps: int,
        verbose: bool,
        progress: bool,
    ) -> bool:
        """Validate after a step of an epoch and apply early stopping; whether it is the best."""
        start = time.perf_counter()
        score, result = self._valid_epoch(valid_data, show_progress=progress)
        if np.isnan(score):
            raise DataError(
                f"valid_metric: {self.valid_metric} is undefined on the validation rows in epoch "
                f"{epoch} (labels of one class only); choose another valid_metric or split"
            )
        trained = epoch + (1 if step == n_steps else round(step / n_steps, 6))
        found: dict[str, Any] = {
            "step": step,
            "epoch": trained,
            "valid": dict(result),
            "seconds": round(time.perf_counter() - start, 4),
        }
        self._validations.append(found)
        self.best_valid_score, self.cur_step, self._stopped, improved = early_stopping(
            score,
            self.best_valid_score,
            self.cur_step,
            max_step=self.stopping_step,
            bigger=self.valid_metric_bigger,
        )
        if improved:
            self.best_valid_result = dict(result)
            self.best_epoch = float(trained)
        if verbose:
            where = f"epoch {epoch}" + ("" if step == n_steps else f", step {step} of {n_steps},")
            self.logger.info(describe_validation(found, where, improved))
        # trackers count in whole numbers: epochs, or validations where an epoch has several
        number = epoch
        if not isinstance(self.eval_step, int):
            number = len(self._validations) - 1
            number += sum(len(entry.get("validations", ())) for entry in self.history)
        self.trackers.numbers(result, "valid", number)
        return bool(improved)

    @property
    def validations(self) -> list[dict[str, Any]]:
        """All validations so far, in order, those of an epoch that is not over among them."""
        seen = [found for entry in self.history for found in entry.get("validations", ())]
        entered = bool(self.history) and self.history[-1].get("validations") is self._validations
        return seen if entered else [*seen, *self._validations]

    def _due(self, epoch: int) -> bool:
        """Whether the end of an epoch is validated: RecBole's rule, and always for parts."""
        return not isinstance(self.eval_step, int) or (epoch + 1) % self.eval_step == 0

    def _enter_validations(self, entry: dict[str, Any]) -> None:
        """Write the validations of an epoch into its entry, the best of them as ``valid``."""
        if not self._validations:
            return
        choose = max if self.valid_metric_bigger else min
        best = choose(self._validations, key=lambda found: found["valid"][self.valid_metric])
        entry["valid"] = dict(best["valid"])
        entry["valid_seconds"] = round(sum(found["seconds"] for found in self._validations), 4)
        entry["validations"] = self._validations

    def _valid_epoch(
        self, valid_data: Any, show_progress: bool = False
    ) -> tuple[float, OrderedDict[str, float]]:
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        if result is None:
            raise DataError("validation data: expected at least one batch, got none")
        return result[self.valid_metric], result

    def predict(self, loader: Any, show_progress: bool = False) -> Predictions:
        """Score the rows of a loader with the model as it is.

        Args:
            loader: Batches of rows; a label is not needed.
            show_progress: Whether to show a progress bar.

        Returns:
            Scores, labels, users and items in the order of the rows, the same in every process.
        """
        self.model.eval()
        bar = progress(loader, len(loader), "Evaluate   ", show_progress)
        with torch.no_grad():
            return predict_rows(self.model.predict, bar, self.config, self.device)

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> OrderedDict[str, float] | None:
        """Compute the metrics of the config on the rows of a loader.

        Args:
            eval_data: Batches of labelled rows; None or an empty loader gives None.
            load_best_model: Whether to load the best checkpoint first.
            model_file: Load this checkpoint instead.
            show_progress: Whether to show a progress bar.

        Returns:
            Metric name -> value, rounded to ``metric_decimal_place``. The predictions behind them
            are kept in ``predictions``.

        Raises:
            CheckpointError: If the checkpoint is missing, damaged or of another model.
            DataError: If the model predicts something that is not finite.
        """
        # asked of all processes: one that holds no row must still take part in the gathering
        sizes = distributed.all_gather_objects(0 if eval_data is None else len(eval_data))
        if not any(sizes):
            return None
        if load_best_model:
            self._load_weights(model_file or self.saved_model_file)
        self.predictions = self.predict(eval_data, show_progress=show_progress)
        result = self.evaluator.evaluate(data_struct(self.predictions))
        self.trackers.evaluation(result)
        return result


def _grad_scaler(device: torch.device, enabled: bool) -> Any:
    """A gradient scaler for CUDA; elsewhere, and if not asked for, one that does nothing."""
    enabled = enabled and device.type == "cuda"
    if hasattr(torch.amp, "GradScaler"):  # torch >= 2.3
        return torch.amp.GradScaler(device.type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def get_trainer(config: Any) -> type:
    """Choose the trainer class of the config's model.

    Args:
        config: The run's configuration; ``MODEL_TYPE`` and ``model``.

    Returns:
        :class:`ChoirTrainer` for every context-aware model, the trainers of LightGBM and XGBoost
        for these.

    Raises:
        ConfigError: For a model of another type.
    """
    kind = config["MODEL_TYPE"]
    if kind == ModelType.CONTEXT:
        return ChoirTrainer
    if kind == ModelType.DECISIONTREE and config["model"] in TREE_TRAINERS:
        return TREE_TRAINERS[config["model"]]
    raise ConfigError(
        "model: expected a context-aware model, LightGBM or XGBoost, "
        f"got {config['model']} ({kind})"
    )
