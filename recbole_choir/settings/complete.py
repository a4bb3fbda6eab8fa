"""The whole configuration of a run, complete and checked, before anything else is looked at.

Layers, later ones win: RecBole's own defaults, the defaults of this package's settings,
``properties/overall.yaml``, ``properties/model/<Model>.yaml``, what follows from ``own_data``,
``properties/dataset/<dataset>.yaml``, the training preset, the user's files, the user's dict, the
command line. RecBole would let its ``context-aware.yaml`` beat a model's YAML.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from recbole_choir.datasets import DEFAULT_DATA_PATH, known_datasets, own_data_config
from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir
from recbole_choir.settings import catalogue, columns, recbole_keys
from recbole_choir.settings.base import Settings, kinds
from recbole_choir.settings.layers import merged, parse_value, read_yaml
from recbole_choir.settings.recipe import Recipe, load_recipe
from recbole_choir.settings.run import RunSettings

_WORDS: Final = {
    "null": "null",
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
# Lists of names that may be written with commas.
_COMMAS: Final = frozenset(
    {"metrics", "inject"}
    | {k for k, f in RunSettings.model_fields.items() if k.endswith("_fields")}
)


AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True)
class Configuration:
    """Every key of a run with its value.

    Attributes:
        defaults: Without the user's layers.
        final: With them, checked; the settings of this package resolved.
        settings: The model's own; None for a model of RecBole's.
        run: Of every run.
        recipe: Of the semantic table that would be built.
    """

    defaults: Mapping[str, Any]
    final: Mapping[str, Any]
    settings: Settings | None
    run: RunSettings
    recipe: Recipe


def check(
    model: str | type | None,
    dataset: str | None,
    files: Sequence[str | Path] = (),
    config_dict: Mapping[str, Any] | None = None,
    cli: Mapping[str, Any] | None = None,
    extra_keys: Iterable[str] = (),
) -> Configuration:
    """The configuration of a run from all that its user gives.

    Args:
        model: Name or class; None: the key ``model``.
        dataset: Name; None: the key ``dataset``.
        files: YAML files, later ones win.
        config_dict: Values above the files.
        cli: Values above everything else.
        extra_keys: Further keys that the caller itself reads.

    Raises:
        ConfigError: All that is wrong, in one line.
    """
    layers = [read_files(files), dict(config_dict or {}), dict(cli or {})]
    external: dict[str, Any] = {}
    for layer in layers:
        external.update(layer)
    name, dataset = names(model, dataset, external)
    cls = catalogue.settings_class(model if isinstance(model, type) else name)
    below = defaults(name, dataset, external, cls)
    return complete(name, below, layers, cls, extra_keys)


def read_files(files: Sequence[str | Path] | None) -> dict[str, Any]:
    """The user's YAML files as one layer."""
    values: dict[str, Any] = {}
    for path in files or ():
        values = merged(values, read_yaml(path))
    return values


def names(
    model: str | type | None, dataset: str | None, external: Mapping[str, Any]
) -> tuple[str, str]:
    """Names of the model and the dataset of a run.

    Raises:
        ConfigError: One is missing or unknown; both, where both are.
    """
    given = {"model": model, "dataset": dataset}
    found: dict[str, Any] = {k: external.get(k) if v is None else v for k, v in given.items()}
    for key, value in found.items():
        if value is None:
            raise ConfigError(f"{key}: missing; give it as --{key}=NAME")
    problems: list[str] = []
    if not isinstance(found["model"], type):
        try:
            catalogue.check_model(str(found["model"]))
        except ConfigError as error:
            problems += error.problems
    data_path = external.get("data_path") or DEFAULT_DATA_PATH
    if not isinstance(data_path, (str, Path)):
        problems.append(f"data_path: expected a text, got {data_path!r}")
    elif external.get("own_data") is None:
        known = known_datasets(data_path)
        text = str(found["dataset"])
        if text not in known:
            problems.append(
                f"dataset: no dataset named {text!r}{nearest(text, known)}; "
                f"known: {', '.join(sorted(known))}"
            )
    if problems:
        raise ConfigError.of(problems)
    kind = found["model"]
    return kind.__name__ if isinstance(kind, type) else str(kind), str(found["dataset"])


def defaults(
    model: str, dataset: str, external: Mapping[str, Any], cls: type[Settings] | None
) -> dict[str, Any]:
    """All layers below the user's.

    Args:
        model, dataset: Their names.
        external: The user's layers in one: ``own_data`` and ``training`` shape the layers below.
        cls: The class of the model's settings.

    Raises:
        ConfigError: A YAML file of this package is wrong, or there is no such training preset.
        DataError: ``own_data`` is no mapping of columns.
    """
    values = recbole_keys.defaults(model, dataset)
    values = merged(values, RunSettings.defaults())
    if cls is not None:
        values = merged(values, cls.defaults())
        values = merged(values, getattr(cls, "of_run", {}))
    ours = properties_dir()
    paths = (
        ours / "overall.yaml",
        ours / "model" / f"{model}.yaml",
        ours / "dataset" / f"{dataset}.yaml",
    )
    layers = [read_yaml(path) if path.is_file() else {} for path in paths]
    own = external.get("own_data")
    own = layers[-1].get("own_data") if own is None else own
    if own is not None:
        # Columns and roles that follow from the mapping; a dataset's own YAML may say more.
        layers.insert(-1, own_data_config(dataset, own))
    for layer in layers:
        values = merged(values, {k: v for k, v in layer.items() if not _of_others(k, values)})
    return merged(values, _preset(model, values, external))


def _of_others(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a dataset's YAML sets what other models read and this one does not."""
    if key in values or key in recbole_keys.arguments():
        return False
    return any(key in _keys_of(name) for name in catalogue.known_models())


def _preset(model: str, values: Mapping[str, Any], external: Mapping[str, Any]) -> dict[str, Any]:
    name = external.get("training", values.get("training"))
    presets = external.get("training_presets") or values.get("training_presets") or {}
    if name is None:
        return {}
    if not isinstance(presets, Mapping):
        return {}  # its class says what it should be
    if name not in presets:
        raise ConfigError(
            f"training: expected a preset of {model} ({', '.join(presets) or 'none'}), got "
            f"{name!r}{nearest(str(name), presets)}"
        )
    if not isinstance(presets[name], Mapping):
        raise ConfigError(f"training_presets.{name}: expected keys, got {presets[name]!r}")
    return dict(presets[name])


def complete(
    model: str,
    below: Mapping[str, Any],
    layers: Iterable[Mapping[str, Any]],
    cls: type[Settings] | None,
    extra_keys: Iterable[str] = (),
) -> Configuration:
    """The user's layers over the defaults, checked.

    Raises:
        ConfigError: All that is wrong, in one line.
    """
    known = set(below) | recbole_keys.arguments()
    known |= {*recbole_keys.READ_WITHOUT_DEFAULT, *recbole_keys.RANK_KEYS}
    extra = frozenset(extra_keys)
    final, given = dict(below), []
    problems: dict[str, None] = {}
    for layer in layers:
        for key in layer:
            if key in known or key in extra:
                given.append(key)
            else:
                problems[_unknown(str(key), known, model)] = None
        final = merged(final, {k: v for k, v in layer.items() if k in known or k in extra})
    given = [key for key in dict.fromkeys(given) if key not in extra]
    fields = {**RunSettings.model_fields, **(cls.model_fields if cls else {})}
    wrong = set()
    for key in given:
        try:
            final[key] = _read(key, final[key], below.get(key), fields)
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
            wrong.add(key)
            final[key] = below.get(key)
    theirs = [k for k in given if k not in wrong and k not in fields]
    problems.update(dict.fromkeys(recbole_keys.problems(final, theirs)))
    problems.update(dict.fromkeys(columns.problems(final)))
    run = _resolved(RunSettings, final, problems)
    for line in _of_this_machine(final, run):
        problems[line] = None
    settings = None if cls is None else _resolved(cls, final, problems)
    recipe = None
    try:
        name, changes = final["semantic_recipe"], final["semantic"] or {}
        if isinstance(name, str) and isinstance(changes, Mapping):  # else its class says so
            recipe = load_recipe(name, changes)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
    if problems or run is None or recipe is None:
        raise ConfigError.of(problems)
    return Configuration(below, final, settings, run, recipe)


def _of_this_machine(final: Mapping[str, Any], run: RunSettings | None) -> Iterator[str]:
    """What the settings want of the machine and is not there."""
    if run is None:
        return
    cpus = os.cpu_count() or 1
    if run.nproc > cpus:
        yield f"nproc: expected at most {cpus}, the processors of this machine, got {run.nproc}"
    if run.resume is not None and not Path(run.resume).is_file():
        yield f"resume: expected a checkpoint, got {run.resume!r}: no such file"
    table = run.semantic_table
    if table is not None and table.lower() not in ("auto", "none") and not Path(table).is_dir():
        yield f"semantic_table: expected auto, none or a folder, got {table!r}: no such folder"
    yield from _warm_start(run.warm_start, final)


def _warm_start(value: str | dict[str, Any] | None, final: Mapping[str, Any]) -> Iterator[str]:
    if value is None:
        return
    changes = dict(value) if isinstance(value, dict) else {"model": value}
    name = changes.pop("model", None)
    models = [m for m, kind in catalogue.known_models().items() if kind != "tree"]
    if name not in models:
        if isinstance(value, dict) or not Path(value).is_file():
            yield (
                "warm_start: expected a model, a mapping with model and its settings, or a "
                f"checkpoint, got {value!r}{nearest(str(name), models)}"
            )
        return
    known = recbole_keys.arguments() | set(RunSettings.model_fields) | _keys_of(str(name))
    known |= set(recbole_keys.READ_WITHOUT_DEFAULT) | set(final)
    for key in changes:
        if key not in known:
            yield f"warm_start.{_unknown(str(key), known, str(name))}"


def _resolved(
    cls: type[AnySettings], final: dict[str, Any], problems: dict[str, None]
) -> AnySettings | None:
    try:
        settings = cls.from_config(final)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
        return None
    final.update(settings.plain())
    return settings


def _unknown(key: str, known: Iterable[str], model: str) -> str:
    near = nearest(key, known)
    readers = [name for name in catalogue.known_models() if key in _keys_of(name)]
    if readers:
        some = ", ".join(readers[:5]) + (", .." if len(readers) > 5 else "")
        return f"{key}: {model} does not read this key, only {some} do{near}"
    return f"{key}: no such configuration key{near}"


def _keys_of(model: str) -> set[str]:
    cls = catalogue.settings_class(model)
    return set(cls.model_fields) if cls is not None else recbole_keys.model_keys(model)


def _read(key: str, value: Any, default: Any, fields: Mapping[str, Any]) -> Any:
    """One value of the user's in its form.

    A text is read as YAML where the key takes no text (``{"learning_rate": "0.01"}``, as RecBole's
    users write), and as a comma-separated list for the keys that hold names.

    Raises:
        ConfigError: The value is of the wrong type.
    """
    field = fields.get(key)
    if field is not None:
        takes = kinds(field.annotation)
    elif key in recbole_keys.KINDS:
        takes = frozenset(recbole_keys.KINDS[key].split("|"))
    elif default is None:
        return value
    else:
        takes = frozenset({kind_of(default)})
    if isinstance(value, str) and key in _COMMAS:
        value = parse_value(value, key) if value.lstrip().startswith("[") else value.split(",")
        value = [v.strip() if isinstance(v, str) else v for v in value]
        value = [v for v in value if v != ""]
    elif isinstance(value, str) and "str" not in takes:
        value = parse_value(value, key)
    if field is not None:
        return value  # its class says the rest
    if not _accepts(takes, value):
        raise ConfigError(f"{key}: {_refusal(key, value, takes)}")
    if kind_of(value) == "list" and kind_of(default) == "list" and key not in recbole_keys.KINDS:
        _check_elements(key, list(value), list(default or ()))
    if key == "eval_step":
        value = recbole_keys.check_eval_step(value)
        if value == 0:
            raise ConfigError(
                "eval_step: expected more than 0, got 0: without validation nothing tells which "
                "checkpoint to test"
            )
    return value


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


def _accepts(takes: Iterable[str], value: Any) -> bool:
    kind = kind_of(value)
    return kind in takes or (kind == "int" and "float" in takes)


def _refusal(key: str, value: Any, takes: Iterable[str]) -> str:
    words = " or ".join(_WORDS[k] for k in _WORDS if k in takes and k != "null")
    if "null" in takes:
        words += " or null"
    hint = ""
    if "list" in takes and kind_of(value) in ("int", "float", "bool", "str"):
        hint = f"; write --{key}=[{value}]"
    elif value is None:
        hint = " (null)"
    return f"expected {words}, got {value!r}{hint}"


def _check_elements(key: str, values: list[Any], default: list[Any]) -> None:
    takes = {kind_of(d) for d in default}
    if not takes or "other" in takes:
        return
    for value in values:
        if not _accepts(takes, value):
            words = " or ".join(_WORDS[k] for k in sorted(takes))
            raise ConfigError(f"{key}: expected a list of {words}, got {value!r} in it")
