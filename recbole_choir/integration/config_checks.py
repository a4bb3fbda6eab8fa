"""What a configuration value may be: known keys, types, choices.

The type of a key is that of its default in the YAML layers. Where the default is null, or RecBole
reads several types, :data:`KINDS` says what is read. All errors are one line and name the key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import recbole
import yaml
from recbole.utils import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.integration.cli import YamlLoader, parse_value
from recbole_choir.integration.optimizer import DECAY_FORMS, LEARNERS
from recbole_choir.integration.registry import TREES, known_models
from recbole_choir.integration.validation_points import check_eval_step
from recbole_choir.model.layers.target_attention import ATT_TYPES
from recbole_choir.paths import properties_dir

RECBOLE_PROPERTIES = Path(recbole.__file__).resolve().parent / "properties"

# Read by RecBole or by this package without a default in any YAML file.
READ_WITHOUT_DEFAULT = {
    "model": "str",
    "dataset": "str|int",  # YAML reads --dataset=2020 as a number
    "encoding": "str|null",  # of the atomic files
    "trust_pickle": "bool",  # load a checkpoint that holds Python objects
    "tensorboard": "bool",  # write TensorBoard's files
    "run_name": "str|null",  # name of the record; null: the model's
    "save_predictions": "bool",  # keep the test predictions beside the record
    "cluster_sequence_length": "int",  # items of a user cluster's sequence; 50
    "cluster_min_support": "int",  # members that must have chosen an item of it; 3
}

# A launcher of several processes (RecBole's own, torchrun wrappers) passes these; they are kept in
# the configuration, but this package starts and joins processes by itself.
RANK_KEYS = {
    "local_rank": "int",
    "world_size": "int",
    "offset": "int",
    "ip": "str",
    "port": "str|int",
}

# In RecBole's argument lists, but read by nothing.
_DEAD_ARGUMENTS = {"config_file"}

# Misspelled or absent in RecBole's tree YAML, yet read by its code.
TREE_DEFAULTS: dict[str, dict[str, Any]] = {
    "LightGBM": {"token_num_threshold": 10000, "lgb_early_stopping_rounds": None},
    "XGBoost": {"token_num_threshold": 10000, "xgb_early_stopping_rounds": None},
}

_LIST_KEYS = (
    "user_attr_fields",
    "item_attr_fields",
    "context_fields",
    "lift_fields",
    "numeric_attr_fields",
    "inject",
    "metrics",
)

KINDS: dict[str, str] = {
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
    "user_attr_fields": "list|null",
    "item_attr_fields": "list|null",
    "numeric_attr_fields": "list|null",
    "context_fields": "list|null",
    "category_field": "str|null",
    "lift_fields": "list|null",
    "lift_refresh_days": "float|null",
    "title_field": "str|null",
    "history_file": "str|null",
    "own_data": "dict|null",
    "lr_final": "float|null",
    "training": "str|null",
    "embedding_decay": "float|null",
    "sampled_negatives": "bool|null",
    "stats_clip": "float|null",
    "warm_start": "str|dict|null",
    "raw_data_path": "str|null",
    "resume": "str|null",
    "semantic_table": "str|null",
    "semantic": "dict|null",
}

CHOICES: dict[str, tuple[str, ...]] = {
    "learner": LEARNERS,
    "embedding_decay_form": DECAY_FORMS,
    "att_type": ATT_TYPES,
    "lr_schedule": ("constant", "linear", "exponential"),
    "gauc_weighting": ("impressions", "positives", "uniform"),
    "history_scope": ("auto", "all", "train"),
    # RecBole evaluates this string as code.
    "teacher": ("CrossNet", "CIN"),
}
_INJECTABLE = (
    "group_id",
    "group_attr",
    "group_seq",
    "group_stats",
    "lifts",
    "own_scores",
    "activity",
)
_POSITIVE = (
    "train_batch_size",
    "eval_batch_size",
    "epochs",
    "nproc",
    "cluster_sequence_length",
    "cluster_min_support",
)

_WORDS = {
    "null": "null",
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}


def kind_of(value: Any) -> str:
    """Name the kind of a YAML value; anything else is ``"other"``."""
    if value is None:
        return "null"
    for kind, types in (
        ("bool", bool),
        ("int", int),
        ("float", float),
        ("str", str),
        ("dict", Mapping),
        ("list", (list, tuple)),
    ):
        if isinstance(value, types):  # type: ignore[arg-type]
            return kind
    return "other"


def _accepts(kinds: Iterable[str], value: Any) -> bool:
    kind = kind_of(value)
    return kind in kinds or (kind == "int" and "float" in kinds)


def known_keys(defaults: Mapping[str, Any]) -> set[str]:
    """Keys that something reads, given the merged default layers of this model and dataset."""
    lists = (general_arguments, training_arguments, evaluation_arguments, dataset_arguments)
    keys = {k for arguments in lists for k in arguments} - _DEAD_ARGUMENTS
    keys |= set(defaults) | set(READ_WITHOUT_DEFAULT) | set(RANK_KEYS)
    return keys - {"MODEL_TYPE"}


def _read_keys(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with open(path, encoding="utf-8") as file:
        return set(yaml.load(file, Loader=YamlLoader) or {})


def _readers(key: str) -> list[str]:
    """Models whose YAML has ``key``."""
    names = []
    for name in known_models():
        stem = TREES.get(name, name)
        files = (RECBOLE_PROPERTIES / f"model/{stem}.yaml", properties_dir() / f"model/{name}.yaml")
        if any(key in _read_keys(path) for path in files):
            names.append(name)
    return names


def check_keys(given: Iterable[str], known: set[str], model: str) -> None:
    """Refuse keys that nothing reads.

    Raises:
        ConfigError: With the nearest known key, or with the models that do read the key.
    """
    for key in given:
        if key in known:
            continue
        near = nearest(str(key), known)
        readers = _readers(str(key))
        if readers:
            some = ", ".join(readers[:5]) + (", .." if len(readers) > 5 else "")
            raise ConfigError(f"{key}: {model} does not read this key, only {some} do{near}")
        raise ConfigError(f"{key}: no such configuration key{near}")


def check_value(key: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    """Check one user value and bring it into its form.

    A text is read as YAML where the key takes no text (``{"learning_rate": "0.01"}``, as RecBole's
    users write), and as a comma-separated list for the keys that hold names.

    Args:
        key: A known key.
        value: What the user gave.
        defaults: The merged default layers.

    Returns:
        The value to use.

    Raises:
        ConfigError: The value is of the wrong type or not one of the choices.
    """
    if key in KINDS:
        kinds = KINDS[key].split("|")
    elif defaults.get(key) is None:
        return value
    else:
        kinds = [kind_of(defaults[key])]
    if isinstance(value, str) and key in _LIST_KEYS:
        value = parse_value(value, key) if value.lstrip().startswith("[") else value.split(",")
        value = [v.strip() if isinstance(v, str) else v for v in value]
        value = [v for v in value if v != ""]
    elif isinstance(value, str) and "str" not in kinds:
        value = parse_value(value, key)
    if not _accepts(kinds, value):
        _refuse(key, value, kinds)
    default = defaults.get(key)
    if kind_of(value) == "list" and kind_of(default) == "list" and key not in KINDS:
        _check_elements(key, list(value), list(default or ()))
    if key in CHOICES and value not in CHOICES[key]:
        raise ConfigError(
            f"{key}: expected one of {', '.join(CHOICES[key])}, got {value!r}"
            f"{nearest(str(value), CHOICES[key])}"
        )
    if key == "inject":
        for name in value:
            if name not in _INJECTABLE:
                raise ConfigError(
                    f"inject: expected any of {', '.join(_INJECTABLE)}, got {name!r}"
                    f"{nearest(str(name), _INJECTABLE)}"
                )
    if key in _POSITIVE and value < 1:
        raise ConfigError(f"{key}: expected at least 1, got {value!r}")
    if key == "eval_step":
        value = check_eval_step(value)
        if value == 0:
            raise ConfigError(
                "eval_step: expected more than 0, got 0: without validation nothing "
                "tells which checkpoint to test"
            )
    if key == "learning_rate" and not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"learning_rate: expected a number above 0, got {value!r}")
    if key == "stats_clip" and value is not None and not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"stats_clip: expected a number above 0 or null, got {value!r}")
    return value


def _refuse(key: str, value: Any, kinds: list[str]) -> None:
    expected = " or ".join(_WORDS.get(k, k) for k in kinds)
    hint = ""
    if "list" in kinds and kind_of(value) in ("int", "float", "bool", "str"):
        hint = f"; write --{key}=[{value}]"
    elif kind_of(value) == "null":
        hint = " (null)"
    raise ConfigError(f"{key}: expected {expected}, got {value!r}{hint}")


def _check_elements(key: str, values: list[Any], defaults: list[Any]) -> None:
    kinds = {kind_of(d) for d in defaults}
    if not kinds or "other" in kinds:
        return
    for value in values:
        if not _accepts(kinds, value):
            words = " or ".join(_WORDS[k] for k in sorted(kinds))
            raise ConfigError(f"{key}: expected a list of {words}, got {value!r} in it")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ConfigError: The file is missing, is not YAML or holds no mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, Loader=YamlLoader)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"config file {path}: not YAML ({reason})") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise ConfigError(
            f"config file {path}: expected 'key: value' lines, got {kind_of(content)}"
        )
    return content


def check_evaluation(
    eval_args: Any, train_neg_sample_args: Any, metrics: list[str], valid_metric: str
) -> None:
    """Refuse what cannot be evaluated on labelled rows.

    Raises:
        ConfigError: A mode other than ``labeled``, negative sampling, or a ranking metric.
    """
    only = "this package trains and evaluates on labelled rows"
    if kind_of(eval_args) != "dict":
        raise ConfigError(f"eval_args: expected a mapping, got {eval_args!r}")
    expected = ("split", "order", "group_by", "mode")
    for key in eval_args:
        if key not in expected:
            raise ConfigError(
                f"eval_args.{key}: no such key, expected {', '.join(expected)}"
                f"{nearest(str(key), expected)}"
            )
    mode = eval_args.get("mode")
    modes = list(mode.values()) if isinstance(mode, dict) else [mode]
    if any(m != "labeled" for m in modes) or not modes:
        raise ConfigError(f"eval_args.mode: expected labeled, got {mode!r}; {only}")
    if eval_args.get("order") not in ("RO", "TO"):
        raise ConfigError(f"eval_args.order: expected RO or TO, got {eval_args.get('order')!r}")
    negative = train_neg_sample_args
    if isinstance(negative, dict):
        negative = negative.get("distribution")
    if str(negative).lower() != "none":
        raise ConfigError(
            f"train_neg_sample_args: expected null, got {train_neg_sample_args!r}; {only}"
        )
    check_metrics(metrics, valid_metric)


def check_metrics(metrics: list[str], valid_metric: str) -> None:
    """Refuse metrics that labelled rows do not have; GAUC is one they do have.

    Raises:
        ConfigError: Unknown or ranking metric, or ``valid_metric`` is not among ``metrics``.
    """
    from recbole.evaluator import metric_types
    from recbole.utils import EvaluatorType

    values = {m for m, kind in metric_types.items() if kind == EvaluatorType.VALUE} | {"gauc"}
    shown = ("AUC", "GAUC", "LogLoss", "MAE", "RMSE")
    if not metrics:
        raise ConfigError(f"metrics: expected at least one of {', '.join(shown)}, got none")
    for metric in metrics:
        name = str(metric).lower()
        if name in values:
            continue
        if name in metric_types:
            raise ConfigError(
                f"metrics: {metric} ranks candidates, but this package evaluates labelled rows; "
                f"expected any of {', '.join(shown)}"
            )
        raise ConfigError(
            f"metrics: no metric named {metric!r}{nearest(str(metric), shown)}; "
            f"expected any of {', '.join(shown)}"
        )
    if str(valid_metric).lower() not in {str(m).lower() for m in metrics}:
        raise ConfigError(
            f"valid_metric: expected one of metrics ({', '.join(map(str, metrics))}), "
            f"got {valid_metric!r}"
        )


def check_dataset(name: Any, known: set[str]) -> str:
    """Refuse a dataset that nothing knows.

    Raises:
        ConfigError: With the nearest known name.
    """
    text = str(name)
    if text not in known:
        raise ConfigError(
            f"dataset: no dataset named {text!r}{nearest(text, known)}; "
            f"known: {', '.join(sorted(known))}"
        )
    return text
