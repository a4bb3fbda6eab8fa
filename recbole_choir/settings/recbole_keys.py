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
_SIZE: Final = "[1,65536]"
_SHARE: Final = "[0,1)"
_COUNT: Final = "[1,inf)"
_FROM_0: Final = "[0,inf)"
#: Numeric key -> the interval of its values, or of each value of its list.
RANGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "seed": "[0,4294967295]",
        "epochs": _COUNT,
        "train_batch_size": _COUNT,
        "eval_batch_size": _COUNT,
        "learning_rate": "(0,inf)",
        "weight_decay": _FROM_0,
        "reg_weight": _FROM_0,
        "stopping_step": _FROM_0,
        "worker": "[0,1024]",
        "topk": _COUNT,
        "loss_decimal_place": "[0,30]",
        "metric_decimal_place": "[0,30]",
        "MAX_ITEM_LIST_LENGTH": _COUNT,
        "embedding_size": _SIZE,
        "mlp_hidden_size": _SIZE,
        "attention_size": _SIZE,
        "low_rank": _SIZE,
        "cin_layer_size": _SIZE,
        "t_cin": _SIZE,
        "order_list": _SIZE,
        "n_layers": "[1,1000]",
        "num_heads": "[1,1024]",
        "cross_layer_num": "[1,1000]",
        "depth": "[1,1000]",
        "t_depth": "[1,1000]",
        "expert_num": "[1,1024]",
        "dropout_prob": _SHARE,
        "dropout_probs": _SHARE,
        "attn_dropout_prob": _SHARE,
        "hidden_dropout_prob": _SHARE,
        "drop_ex": _SHARE,
        "drop_im": _SHARE,
        "alpha": "(-inf,inf)",
        "beta": "(-inf,inf)",
        "token_num_threshold": _FROM_0,
        "token_num_threhold": _FROM_0,
        "lgb_num_boost_round": _COUNT,
        "xgb_num_boost_round": _COUNT,
        "lgb_early_stopping_rounds": _COUNT,
        "xgb_early_stopping_rounds": _COUNT,
        "xgb_nthread": _COUNT,
        "xgb_verbose_eval": _FROM_0,
        "local_rank": _FROM_0,
        "world_size": _COUNT,
        "offset": _FROM_0,
    }
)
#: Keys of RecBole that nothing here reads -> why; asking for them is no silent no.
UNUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "save_dataset": "datasets are not kept as pickles here",
        "dataset_save_path": "datasets are not read from pickles here",
        "save_dataloaders": "loaders are not kept as pickles here",
        "dataloaders_save_path": "loaders are not read from pickles here",
        "transform": "it is for sequential models, which are not trained here",
    }
)
_LEVELS: Final = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
#: ``clip_grad_norm`` is handed to torch's function of that name.
_CLIP: Final = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")

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
        if key in RANGES:
            yield from _out_of_range(key, value)
        if key == "clip_grad_norm" and value is not None:
            yield from _clip(value)
        if key == "gpu_id":
            yield from _gpus(value)
        if key in UNUSED and value not in (None, False, ""):
            yield f"{key}: expected null: {UNUSED[key]}, got {value!r}"
        if key == "state" and str(value).upper() not in _LEVELS:
            yield f"state: expected one of {', '.join(_LEVELS)}, got {value!r}"
        if key == "log_wandb" and value and importlib.util.find_spec("wandb") is None:
            yield "log_wandb: expected the package wandb to be installed: pip install wandb"
    yield from _evaluation(final)


def _out_of_range(key: str, value: Any) -> Iterator[str]:
    low, high = RANGES[key][1:-1].split(",")
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if one is None or isinstance(one, bool):
            continue  # null: RecBole's own choice
        inside = isinstance(one, (int, float)) and math.isfinite(one)
        above = inside and (one >= float(low) if RANGES[key][0] == "[" else one > float(low))
        below = inside and (one <= float(high) if RANGES[key][-1] == "]" else one < float(high))
        if not (above and below):
            yield f"{key}: expected {_range_in_words(RANGES[key])}, got {one!r}"


def _range_in_words(interval: str) -> str:
    low, high = interval[1:-1].split(",")
    if (low, high) == ("-inf", "inf"):
        return "a finite number"
    if high == "inf":
        return f"at least {low}" if interval[0] == "[" else f"a number above {low}"
    return f"a number in {interval[0]}{low}, {high}{interval[-1]}"


def _clip(value: Mapping[str, Any]) -> Iterator[str]:
    for key, one in value.items():
        if key not in _CLIP:
            yield (
                f"clip_grad_norm.{key}: no such key, expected {', '.join(_CLIP)}"
                f"{nearest(str(key), _CLIP)}"
            )
        elif key in _CLIP[:2]:
            number = isinstance(one, (int, float)) and not isinstance(one, bool)
            if not (number and one > 0 and (math.isfinite(one) or key == "norm_type")):
                yield f"clip_grad_norm.{key}: expected a number above 0, got {one!r}"
        elif not isinstance(one, bool):
            yield f"clip_grad_norm.{key}: expected true or false, got {one!r}"
    if "max_norm" not in value:
        yield f"clip_grad_norm: expected max_norm among its keys, got {', '.join(value) or 'none'}"


def _gpus(value: Any) -> Iterator[str]:
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    if any(not str(part).strip().isdigit() for part in parts if str(part).strip()):
        yield f"gpu_id: expected numbers such as 0 or '0,1', got {value!r}"


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
    yield from _split(arguments.get("split"))
    grouped = arguments.get("group_by")
    if grouped is not None and str(grouped).lower() not in ("none", "user"):
        yield f"eval_args.group_by: expected none or user, got {grouped!r}"
    sampling = final["train_neg_sample_args"]
    negative = sampling.get("distribution") if isinstance(sampling, dict) else sampling
    if str(negative).lower() != "none":
        yield f"train_neg_sample_args: expected null, got {sampling!r}; {only}"
    metrics = final["metrics"]
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    yield from _metrics(metrics, final["valid_metric"])


def _split(split: Any) -> Iterator[str]:
    """Shares of training, validation and test rows, or a user's last two rows."""
    if not isinstance(split, Mapping) or len(split) != 1:
        yield f"eval_args.split: expected one of RS or LS with its value, got {split!r}"
        return
    ((mode, value),) = split.items()
    if mode == "TS":
        yield (
            "eval_args.split: expected RS or LS, got TS (RecBole cuts it on float32 time); order: "
            "TO with RS is the exact split in time"
        )
    elif mode == "LS":
        if value != "valid_and_test":
            yield f"eval_args.split.LS: expected valid_and_test, got {value!r}"
    elif mode != "RS":
        yield f"eval_args.split: expected RS or LS, got {mode!r}"
    elif not isinstance(value, (list, tuple)) or len(value) != 3 or not _shares(value):
        yield f"eval_args.split.RS: expected 3 shares such as [.8, .1, .1], got {value!r}"


def _shares(values: Iterable[Any]) -> bool:
    """Whether all are numbers from 0 on, and the first, of what is trained on, is more."""
    values = list(values)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return numbers and values[0] > 0 and all(v >= 0 and math.isfinite(v) for v in values)


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
