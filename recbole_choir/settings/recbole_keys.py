"""RecBole's own keys: their defaults and which values they take, read without loading RecBole.

The type of a key is that of its default in RecBole's YAML files. Where the default is null, or
RecBole reads several types, :data:`KINDS` says what is read.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import runpy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.settings.layers import read_yaml

LEARNERS: Final = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")

# Read by RecBole without a default in any YAML file.
READ_WITHOUT_DEFAULT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "str",
        "dataset": "str|int",  # YAML reads --dataset=2020 as a number
        "encoding": "str|null",  # of the atomic files
    }
)

# A launcher of several processes (RecBole's own, torchrun wrappers) passes these; they are kept in
# the configuration, but this package starts and joins processes by itself.
RANK_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {"local_rank": "int", "world_size": "int", "offset": "int", "ip": "str", "port": "str|int"}
)

# In RecBole's argument lists, but read by nothing.
_DEAD_ARGUMENTS: Final = frozenset({"config_file"})

#: Tree model -> library. RecBole's files of them are lower-case, its lookup is not.
TREES: Final[Mapping[str, str]] = MappingProxyType({"LightGBM": "lightgbm", "XGBoost": "xgboost"})

# Misspelled or absent in RecBole's tree YAML, yet read by its code.
_TREE_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "LightGBM": {"token_num_threshold": 10000, "lgb_early_stopping_rounds": None},
        "XGBoost": {"token_num_threshold": 10000, "xgb_early_stopping_rounds": None},
    }
)

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **READ_WITHOUT_DEFAULT,
        **RANK_KEYS,
        "gpu_id": "str|int|list",
        "eval_step": "float",  # whole numbers of epochs, or a part of one
        "metrics": "str|list",
        "topk": "int|list|null",
        "additional_feat_suffix": "str|list|null",
        "load_col": "dict|null",
        "unload_col": "dict|null",
        "unused_col": "dict|null",
        "threshold": "dict|null",
        "val_interval": "dict|null",
        "seq_len": "dict|null",
        "clip_grad_norm": "dict|null",
        "normalize_field": "list|null",
        "normalize_all": "bool|null",
        "rm_dup_inter": "str|null",
        "benchmark_filename": "list|null",
        "preload_weight": "dict|null",
        "discretization": "dict|null",
        "transform": "str|null",
        "alias_of_user_id": "list|null",
        "alias_of_item_id": "list|null",
        "alias_of_entity_id": "list|null",
        "alias_of_relation_id": "list|null",
        "user_inter_num_interval": "str|null",
        "item_inter_num_interval": "str|null",
        "train_neg_sample_args": "dict|str|null",
        "dataset_save_path": "str|null",
        "dataloaders_save_path": "str|null",
        "fields": "dict|null",
        "lgb_early_stopping_rounds": "int|null",
        "xgb_early_stopping_rounds": "int|null",
        "xgb_nthread": "int|null",
        "xgb_verbose_eval": "bool|int",
    }
)

CHOICES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "learner": LEARNERS,
        "teacher": ("CrossNet", "CIN"),  # RecBole evaluates this string as code
    }
)
_AT_LEAST_ONE: Final = ("train_batch_size", "eval_batch_size", "epochs")

#: How far ``k * eval_step`` may be from 1 for ``eval_step`` to mean ``1/k``: 0.33 means a third.
EVAL_STEP_TOLERANCE: Final = 0.02

#: RecBole's metrics of labelled rows, with this package's GAUC in place of RecBole's.
VALUE_METRICS: Final = ("AUC", "GAUC", "LogLoss", "MAE", "RMSE")
#: Those of which less is better.
SMALLER_IS_BETTER: Final = ("logloss", "mae", "rmse")
#: RecBole's metrics of ranked candidates.
RANKING_METRICS: Final = (
    "hit",
    "mrr",
    "map",
    "recall",
    "ndcg",
    "precision",
    "itemcoverage",
    "averagepopularity",
    "shannonentropy",
    "giniindex",
    "tailpercentage",
)


@functools.cache
def folder() -> Path:
    """RecBole's package; finding it does not import torch.

    Raises:
        ImportError: RecBole is not installed.
    """
    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        raise ImportError(
            "recbole-choir needs RecBole 1.2.1 to train and evaluate: pip install recbole==1.2.1, "
            "or on Python 3.12 and later (its pinned ray has no wheel there): "
            "pip install --no-deps recbole==1.2.1",
            name="recbole",
        )
    return Path(spec.origin).parent


@functools.cache
def arguments() -> frozenset[str]:
    """The keys in RecBole's lists of arguments."""
    lists = runpy.run_path(str(folder() / "utils" / "argument_list.py"))
    names = ("general", "training", "evaluation", "dataset")
    return frozenset(k for n in names for k in lists[f"{n}_arguments"]) - _DEAD_ARGUMENTS


def defaults(model: str, dataset: str) -> dict[str, Any]:
    """What RecBole's YAML files say for a context-aware or tree model, in RecBole's order."""
    root = folder() / "properties"
    quick = root / "quick_start_config"
    stem = TREES.get(model, model)
    paths = [
        root / "overall.yaml",
        root / "model" / f"{stem}.yaml",
        root / "dataset" / "sample.yaml",
        root / "dataset" / f"{dataset}.yaml",
        quick / "context-aware.yaml",
    ]
    if dataset == "ml-100k":
        paths.append(quick / "context-aware_ml-100k.yaml")
    values: dict[str, Any] = {}
    for path in paths:
        values.update(read_yaml(path) if path.is_file() else {})
    return {**values, **_TREE_DEFAULTS.get(model, {})}


def model_keys(model: str) -> set[str]:
    """The keys of a model's own YAML file in RecBole."""
    path = folder() / "properties" / "model" / f"{TREES.get(model, model)}.yaml"
    return set(read_yaml(path)) if path.is_file() else set()


def dataset_keys(dataset: str) -> list[str]:
    """The keys of a dataset's own YAML file in RecBole."""
    path = folder() / "properties" / "dataset" / f"{dataset}.yaml"
    return list(read_yaml(path)) if path.is_file() else []


def problems(final: Mapping[str, Any], given: Iterable[str]) -> Iterator[str]:
    """One line for each value of RecBole's keys that cannot be used here.

    Args:
        final: All keys with their values.
        given: The keys that the user gave.
    """
    for key in given:
        value = final[key]
        if key in CHOICES and value not in CHOICES[key]:
            yield (
                f"{key}: expected one of {', '.join(CHOICES[key])}, got {value!r}"
                f"{nearest(str(value), CHOICES[key])}"
            )
        if key in _AT_LEAST_ONE and value < 1:
            yield f"{key}: expected at least 1, got {value!r}"
        if key == "learning_rate" and not (value > 0 and math.isfinite(value)):
            yield f"learning_rate: expected a number above 0, got {value!r}"
    yield from _evaluation(final)


def check_eval_step(value: Any) -> int | float:
    """Check the key ``eval_step``.

    Args:
        value: A whole number n >= 1: one validation every n epochs, as in RecBole; 0: none, as in
            RecBole. A part of an epoch: k validations in each, after the steps nearest to 1/k,
            2/k, .., 1.

    Returns:
        A whole number as an int, a part as a float.

    Raises:
        ConfigError: Anything else: one line.
    """
    wrong = ConfigError(
        "eval_step: expected a whole number of epochs, or a part 1/k of one (0.5, 0.25, 0.1), got "
        f"{value!r}"
    )
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong
    if value < 0:
        raise wrong
    if value == int(value):
        return int(value)
    if value > 1 or abs(value * round(1 / value) - 1) > EVAL_STEP_TOLERANCE:
        raise wrong
    return float(value)


def _evaluation(final: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be evaluated on labelled rows."""
    only = "this package trains and evaluates on labelled rows"
    arguments = final["eval_args"]
    if not isinstance(arguments, Mapping):
        yield f"eval_args: expected a mapping, got {arguments!r}"
        return
    known = ("split", "order", "group_by", "mode")
    for key in arguments:
        if key not in known:
            yield (
                f"eval_args.{key}: no such key, expected {', '.join(known)}"
                f"{nearest(str(key), known)}"
            )
    mode = arguments.get("mode")
    modes = list(mode.values()) if isinstance(mode, dict) else [mode]
    if any(m != "labeled" for m in modes) or not modes:
        yield f"eval_args.mode: expected labeled, got {mode!r}; {only}"
    if arguments.get("order") not in ("RO", "TO"):
        yield f"eval_args.order: expected RO or TO, got {arguments.get('order')!r}"
    sampling = final["train_neg_sample_args"]
    negative = sampling.get("distribution") if isinstance(sampling, dict) else sampling
    if str(negative).lower() != "none":
        yield f"train_neg_sample_args: expected null, got {sampling!r}; {only}"
    metrics = final["metrics"]
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    yield from _metrics(metrics, final["valid_metric"])


def _metrics(metrics: list[Any], valid_metric: Any) -> Iterator[str]:
    shown = ", ".join(VALUE_METRICS)
    values = {m.lower() for m in VALUE_METRICS}
    if not metrics:
        yield f"metrics: expected at least one of {shown}, got none"
    for metric in metrics:
        name = str(metric).lower()
        if name in RANKING_METRICS:
            yield (
                f"metrics: {metric} ranks candidates, but this package evaluates labelled rows; "
                f"expected any of {shown}"
            )
        elif name not in values:
            yield (
                f"metrics: no metric named {metric!r}{nearest(str(metric), VALUE_METRICS)}; "
                f"expected any of {shown}"
            )
    if metrics and str(valid_metric).lower() not in {str(m).lower() for m in metrics}:
        yield (
            f"valid_metric: expected one of metrics ({', '.join(map(str, metrics))}), "
            f"got {valid_metric!r}"
        )
