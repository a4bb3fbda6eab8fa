"""LightGBM and XGBoost on the same rows, metrics and predictions as every other model."""

from __future__ import annotations

import importlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from recbole.utils import get_local_time

from recbole_choir.errors import CheckpointError, ConfigError, DataError, nearest
from recbole_choir.files import whole_file
from recbole_choir.integration import distributed
from recbole_choir.integration.metrics import LabelledEvaluator, data_struct
from recbole_choir.integration.predictions import Predictions, interaction_of
from recbole_choir.integration.training_checks import warn_of_chance

# A list field with more tokens than this keeps its first token only, in one column.
MAX_MULTI_HOT = 64

Columns = Mapping[str, npt.NDArray[Any]]


def feature_names(columns: Columns, exclude: Sequence[str]) -> list[str]:
    """Name the features of a training set.

    Args:
        columns: Field -> ``[N]`` or ``[N, k]``; integer lists are padded with 0.
        exclude: Fields that are not features: the label above all.

    Raises:
        DataError: If nothing is left.
    """
    names: list[str] = []
    for field, values in columns.items():
        if field in exclude:
            continue
        if values.ndim == 1:
            names.append(field)
        elif values.ndim == 2 and values.dtype.kind == "f":
            names += [f"{field}@{k}" for k in range(values.shape[1])]
        elif values.ndim == 2:
            top = int(values.max(initial=0))
            if top <= MAX_MULTI_HOT:
                names += [f"{field}={token}" for token in range(1, top + 1)]
            else:
                names.append(f"{field}@0")
    if not names:
        raise DataError("tree features: expected at least one field besides the label, got none")
    return names


def feature_matrix(columns: Columns, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Build the features that :func:`feature_names` named, ``[N, F]``.

    Raises:
        DataError: If a field is missing.
    """
    made = []
    for name in names:
        field, is_token, token = name.partition("=")
        field, _, column = (field, "", "") if is_token else field.partition("@")
        if field not in columns:
            raise DataError(f"tree features: expected the field '{field}' of the model, got none")
        values = columns[field]
        if is_token:
            feature = (values == int(token)).any(axis=1)
        elif column:
            feature = values[:, int(column)]
        else:
            feature = values
        made.append(feature.astype(np.float32))
    return np.stack(made, axis=1)


def collect_columns(loader: Any) -> dict[str, npt.NDArray[Any]]:
    """All rows of a loader as one array a field.

    Raises:
        DataError: If there are no rows.
    """
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for batch in loader:
        for field, values in interaction_of(batch).cpu().numpy().items():
            parts.setdefault(field, []).append(values)
    if not parts:
        raise DataError("tree features: expected at least one row, got none")
    return {field: np.concatenate(values) for field, values in parts.items()}


class TreeTrainer:
    """Fit one booster on all training rows; the interface is that of ``ChoirTrainer``.

    RecBole fits ``epochs`` times, appends no user ids (so GAUC has none) and pickles its config.
    Here a fit is the library's own: so many boosting rounds, stopped early where the config's
    ``*_early_stopping_rounds`` asks for it. ``epochs`` has no meaning. The booster is saved in the
    library's own text form and nothing else.

    Args:
        config: The run's configuration.
        model: RecBole's empty model object; the booster takes its place.

    Attributes:
        model: The booster, after :meth:`fit`.
        history: One entry, as in ``ChoirTrainer``.
        predictions: What the last :meth:`evaluate` scored.
        saved_model_file: The saved booster.
    """

    package: str
    suffix: str
    parameters: str

    def __init__(self, config: Any, model: Any) -> None:
        if distributed.world_size() > 1:
            raise ConfigError(
                f"nproc: {config['model']} runs in one process, got {config['nproc']}"
            )
        self.config = config
        self.model = model
        self.logger = getLogger("recbole_choir")
        self.library: ModuleType = importlib.import_module(self.package)
        self.valid_metric = config["valid_metric"].lower()
        self.evaluator = LabelledEvaluator(config)
        self.history: list[dict[str, Any]] = []
        self.predictions: Predictions | None = None
        self.best_valid_score = float("nan")
        self.best_valid_result: dict[str, float] | None = None
        parts = (config["model"], config["dataset"], config["seed"])
        stem = "-".join(str(part) for part in parts if part is not None)
        name = f"{stem}-{get_local_time()}-{os.getpid()}{self.suffix}"
        self.saved_model_file = os.path.join(config["checkpoint_dir"], name)

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Fit the booster; arguments and result as in ``ChoirTrainer.fit``."""
        start = time.perf_counter()
        columns = collect_columns(train_data)
        label_field = self.config["LABEL_FIELD"]
        names = feature_names(columns, exclude=(label_field,))
        train = feature_matrix(columns, names), columns[label_field].reshape(-1)
        valid = None
        if valid_data:
            held_out = collect_columns(valid_data)
            valid = feature_matrix(held_out, names), held_out[label_field].reshape(-1)
        try:
            self.model = self._fit(train, valid, names, verbose and show_progress)
        except self._read_errors() as error:
            said = " ".join(str(error).split("Stack trace")[0].split())[:200]
            given = self.config[self.parameters]
            raise ConfigError(
                f"{self.parameters}: {self.package} refuses {dict(given or {})}: {said}"
            ) from None
        seconds = time.perf_counter() - start
        if saved:
            with whole_file(self.saved_model_file) as temporary:
                self.model.save_model(str(temporary))
        entry: dict[str, Any] = {
            "epoch": 0,
            "train_loss": None,
            "learning_rate": None,
            "seconds": round(seconds, 4),
            "rows_per_second": round(len(train[1]) / max(seconds, 1e-9), 1),
            "valid": None,
            "valid_seconds": None,
            "diagnostics": {"trees": float(self._n_trees())},
        }
        if valid_data:
            start = time.perf_counter()
            result = self.evaluate(valid_data, load_best_model=False)
            entry["valid"] = self.best_valid_result = dict(result or {})
            entry["valid_seconds"] = round(time.perf_counter() - start, 4)
            self.best_valid_score = self.best_valid_result[self.valid_metric]
            if callback_fn is not None:
                callback_fn(0, self.best_valid_score)
        self.history = [entry]
        warn_of_chance(self)
        if verbose:
            self.logger.info(
                "%s [%.2f s]  %d trees, %d features  %s",
                self.config["model"],
                seconds,
                self._n_trees(),
                len(names),
                "  ".join(f"{k} {v:.6g}" for k, v in (self.best_valid_result or {}).items()),
            )
        return self.best_valid_score, self.best_valid_result

    def predict(self, loader: Any, show_progress: bool = False) -> Predictions:
        """Score the rows of a loader, in their order."""
        columns = collect_columns(loader)
        scores = self._score(feature_matrix(columns, self._names()))
        labels = columns.get(self.config["LABEL_FIELD"], np.full(len(scores), np.nan))
        return Predictions(
            np.ascontiguousarray(scores, dtype=np.float32),
            labels.reshape(-1).astype(np.float32),
            columns[self.config["USER_ID_FIELD"]].astype(np.int64),
            columns[self.config["ITEM_ID_FIELD"]].astype(np.int64),
        )

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> OrderedDict[str, float] | None:
        """Compute the metrics of the config; arguments and result as in ``ChoirTrainer``."""
        if not eval_data:
            return None
        if load_best_model:
            path = Path(model_file or self.saved_model_file)
            if not path.is_file():
                raise CheckpointError(f"booster {path}: no such file")
            try:
                self.model = self._read(str(path))
            except self._read_errors() as error:
                reason = " ".join(str(error).split())[:120]
                raise CheckpointError(f"booster {path}: damaged ({reason})") from error
        self.predictions = self.predict(eval_data)
        return self.evaluator.evaluate(data_struct(self.predictions))

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Boosters are fitted in one go.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.config['model']}: expected no checkpoint to resume from, got one")

    def _rounds(self, key: str) -> int:
        rounds = self.config[key]
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise ConfigError(f"{key}: expected a whole number from 1, got {rounds!r}")
        return rounds

    def _fit(self, train: Any, valid: Any, names: list[str], verbose: bool) -> Any:
        raise TypeError("TreeTrainer is a base class: use LightGBMTrainer or XGBoostTrainer")

    _score: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
    _names: Callable[[], list[str]]
    _n_trees: Callable[[], int]
    _read: Callable[[str], Any]
    _read_errors: Callable[[], tuple[type[Exception], ...]]


class LightGBMTrainer(TreeTrainer):
    """LightGBM; reads ``lgb_params``, ``lgb_num_boost_round`` and ``lgb_early_stopping_rounds``."""

    package = "lightgbm"
    parameters = "lgb_params"
    suffix = ".txt"

    def _fit(self, train: Any, valid: Any, names: list[str], verbose: bool) -> Any:
        lgb = self.library
        self._refuse_unknown(self.config["lgb_params"] or {})
        params = {
            "verbosity": -1,
            "seed": self.config["seed"],
            "deterministic": True,
            "num_threads": torch.get_num_threads(),
            **(self.config["lgb_params"] or {}),
        }
        train_set = lgb.Dataset(*train, feature_name=names, free_raw_data=True)
        sets = [] if valid is None else [lgb.Dataset(*valid, reference=train_set)]
        callbacks = [lgb.log_evaluation(50)] if verbose else []
        rounds = self.config["lgb_early_stopping_rounds"]
        if rounds and sets:
            callbacks.append(lgb.early_stopping(rounds, first_metric_only=True, verbose=False))
        return lgb.train(
            params,
            train_set,
            num_boost_round=self._rounds("lgb_num_boost_round"),
            valid_sets=sets,
            valid_names=["valid"][: len(sets)],
            callbacks=callbacks,
        )

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        """LightGBM says nothing of a parameter that it does not know, with its log off."""
        aliases = getattr(self.library.basic, "_ConfigAliases", None)
        known: dict[str, list[str]] = getattr(aliases, "_get_all_param_aliases", dict)()
        names = {*known, *(name for names in known.values() for name in names)}
        for name in given if names else ():
            if name not in names:
                raise ConfigError(f"lgb_params: no parameter '{name}'{nearest(str(name), names)}")

    def _score(self, features: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        return self.model.predict(features, num_threads=torch.get_num_threads())

    def _names(self) -> list[str]:
        return list(self.model.feature_name())

    def _n_trees(self) -> int:
        return int(self.model.best_iteration or self.model.num_trees())

    def _read(self, path: str) -> Any:
        return self.library.Booster(model_file=path)

    def _read_errors(self) -> tuple[type[Exception], ...]:
        return (self.library.basic.LightGBMError,)


class XGBoostTrainer(TreeTrainer):
    """XGBoost; reads ``xgb_params``, ``xgb_num_boost_round``, ``xgb_nthread`` and
    ``xgb_verbose_eval``.

    ``xgb_early_stopping_rounds`` as well; RecBole's own YAML file has it as
    ``lgb_early_stopping_rounds``, which counts where the other is not set.
    """

    package = "xgboost"
    parameters = "xgb_params"
    suffix = ".json"

    def _fit(self, train: Any, valid: Any, names: list[str], verbose: bool) -> Any:
        params = {
            "seed": self.config["seed"],
            "nthread": self.config["xgb_nthread"] or torch.get_num_threads(),
            **(self.config["xgb_params"] or {}),
        }
        train_set = self._matrix(train[0], train[1], names)
        evals = [] if valid is None else [(self._matrix(valid[0], valid[1], names), "valid")]
        rounds = (
            self.config["xgb_early_stopping_rounds"] or self.config["lgb_early_stopping_rounds"]
        )
        return self.library.train(
            params,
            train_set,
            num_boost_round=self._rounds("xgb_num_boost_round"),
            evals=evals,
            early_stopping_rounds=(rounds or None) if evals else None,
            verbose_eval=self.config["xgb_verbose_eval"] if verbose else False,
        )

    def _matrix(
        self,
        features: npt.NDArray[np.float32],
        labels: npt.NDArray[Any] | None = None,
        names: list[str] | None = None,
    ) -> Any:
        return self.library.DMatrix(
            features,
            label=labels,
            feature_names=names,
            nthread=self.config["xgb_nthread"] or torch.get_num_threads(),
        )

    def _score(self, features: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        return self.model.predict(
            self._matrix(features, names=self._names()), iteration_range=(0, self._n_trees())
        )

    def _names(self) -> list[str]:
        return list(self.model.feature_names or [])

    def _n_trees(self) -> int:
        best = self.model.attr("best_iteration")  # kept in the saved file
        return int(best) + 1 if best is not None else int(self.model.num_boosted_rounds())

    def _read(self, path: str) -> Any:
        return self.library.Booster(model_file=path)

    def _read_errors(self) -> tuple[type[Exception], ...]:
        return (self.library.core.XGBoostError,)


TREE_TRAINERS: dict[str, type[TreeTrainer]] = {
    "LightGBM": LightGBMTrainer,
    "XGBoost": XGBoostTrainer,
}
