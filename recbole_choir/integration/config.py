"""RecBole's ``Config`` with this package's layers, checked values and no surprises.

Layers, later ones win: RecBole's own defaults, ``properties/overall.yaml``,
``properties/model/<Model>.yaml``, ``properties/dataset/<dataset>.yaml``, the user's files, the
user's dict, the command line. RecBole would let its ``context-aware.yaml`` beat a model's YAML.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, ModelType

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.integration import compat, config_checks
from recbole_choir.integration.cli import Merge, YamlLoader, merged, parse_cli
from recbole_choir.integration.registry import TREES, model_class
from recbole_choir.paths import properties_dir
from recbole_choir.sources import DEFAULT_DATA_PATH, known_datasets, own_data_config

__all__ = ["ChoirConfig", "known_datasets", "parse_cli"]

# Of these mappings a layer may give single entries; the others are replaced as a whole, as in
# RecBole. Dotted keys (--load_col.user=[age]) reach single entries of any mapping.
MERGED_KEYS = ("eval_args", "semantic")


def _lay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Lay one layer over another, in place."""
    for key, value in above.items():
        if key in MERGED_KEYS and isinstance(value, Mapping):
            value = Merge(value)
        below[key] = merged(below.get(key), value)


class ChoirConfig(Config):
    """The configuration of one run.

    Args:
        model: Name of a model (see :func:`~recbole_choir.integration.registry.known_models`), or a
            class; None: the key ``model`` of the other arguments.
        dataset: Name of a dataset; None: the key ``dataset`` of the other arguments.
        config_file_list: YAML files, later ones win.
        config_dict: Values above the files. May be a dict of RecBole's users: texts are read as
            YAML where a key takes no text; nothing is ever evaluated as code.
        cli: Values above everything else, from :func:`parse_cli`. ``sys.argv`` is never read.
        extra_keys: Further keys that the caller itself reads.

    Raises:
        ConfigError: An unknown key, model or dataset, a value of the wrong type, or an evaluation
            that is not of labelled rows. One line.
    """

    parameters: dict[str, list[str]]

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        cli: Mapping[str, Any] | None = None,
        extra_keys: Iterable[str] = (),
    ) -> None:
        self.command_line = dict(cli or {})
        self.extra_keys = frozenset(extra_keys)
        super().__init__(model, dataset, config_file_list, config_dict)

    # --- reading, in the order in which RecBole's constructor calls -----------------------------

    def compatibility_settings(self) -> None:
        """Remedy RecBole; its own settings would write into numpy."""
        compat.apply()

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends to these lists, which are its module's own.
        shared = self.parameters
        self.parameters = {name: list(keys) for name, keys in shared.items()}

    def _build_yaml_loader(self) -> type[YamlLoader]:
        return YamlLoader

    def _load_config_files(self, file_list: Sequence[str | Path] | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for path in file_list or ():
            _lay(values, config_checks.read_yaml(path))
        return values

    def _load_variable_config_dict(self, config_dict: Mapping[str, Any] | None) -> dict[str, Any]:
        return dict(config_dict or {})

    def _load_cmd_line(self) -> dict[str, Any]:
        return dict(self.command_line)

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        """Leave values as they are; RecBole would evaluate texts as code."""
        return config_dict

    def _get_model_and_dataset(
        self, model: str | type | None, dataset: str | None
    ) -> tuple[str, Any, str]:
        model = self.external_config_dict.get("model") if model is None else model
        dataset = self.external_config_dict.get("dataset") if dataset is None else dataset
        if model is None or dataset is None:
            missing = "model" if model is None else "dataset"
            raise ConfigError(f"{missing}: missing; give it as --{missing}=NAME")
        if isinstance(model, type):
            name, cls = model.__name__, model
        else:
            name = str(model)
            cls = model_class(name)
        kind = getattr(cls, "type", None)
        if kind not in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            raise ConfigError(f"model: expected a context-aware model, got {name} ({kind})")
        data_path = self.external_config_dict.get("data_path") or DEFAULT_DATA_PATH
        if not isinstance(data_path, (str, Path)):
            raise ConfigError(f"data_path: expected a text, got {data_path!r}")
        if self.external_config_dict.get("own_data"):
            return name, cls, str(dataset)
        return name, cls, config_checks.check_dataset(dataset, known_datasets(data_path))

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        internal = self.internal_config_dict
        if model in TREES:
            # RecBole's file is lower-case, its lookup is not.
            path = config_checks.RECBOLE_PROPERTIES / "model" / f"{TREES[model]}.yaml"
            _lay(internal, config_checks.read_yaml(path))
            _lay(internal, config_checks.TREE_DEFAULTS[model])
        ours = properties_dir()
        paths = (
            ours / "overall.yaml",
            ours / "model" / f"{model}.yaml",
            ours / "dataset" / f"{dataset}.yaml",
        )
        layers = [config_checks.read_yaml(path) if path.is_file() else {} for path in paths]
        given = (self.external_config_dict, layers[-1])
        own = next((layer["own_data"] for layer in given if layer.get("own_data")), None)
        if own:
            # Columns and roles that follow from the mapping; a dataset's own YAML may say more.
            layers.insert(-1, own_data_config(dataset, own))
        for layer in layers:
            _lay(internal, layer)
        _lay(internal, self._preset())

    def _preset(self) -> dict[str, Any]:
        """The training keys of the preset that is asked for; a dataset's own lie below them.

        Raises:
            ConfigError: The model has no preset of this name.
        """
        internal = self.internal_config_dict
        name = self.external_config_dict.get("training", internal.get("training"))
        presets = internal.get("training_presets") or {}
        if name is None:
            return {}
        if name not in presets:
            has = ", ".join(presets) or "none"
            raise ConfigError(
                f"training: expected a preset of {self.model} ({has}), got {name!r}"
                f"{nearest(str(name), presets)}"
            )
        return dict(presets[name])

    def _get_final_config_dict(self) -> dict[str, Any]:
        defaults = self.internal_config_dict
        known = config_checks.known_keys(defaults) | self.extra_keys
        final = dict(defaults)
        for layer in (self.file_config_dict, self.variable_config_dict, self.cmd_config_dict):
            config_checks.check_keys(layer, known, self.model)
            _lay(final, layer)
        for key in self.external_config_dict:
            if key not in self.extra_keys:
                final[key] = config_checks.check_value(key, final[key], defaults)
        return final

    # --- derived values ------------------------------------------------------------------------

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        if isinstance(final["metrics"], str):
            final["metrics"] = [final["metrics"]]
        metrics = list(final["metrics"])
        config_checks.check_evaluation(
            final["eval_args"], final["train_neg_sample_args"], metrics, final["valid_metric"]
        )
        if str(final["train_neg_sample_args"]).lower() == "none":
            final["train_neg_sample_args"] = None
        # RecBole takes GAUC for a ranking metric. Ours is of labelled rows, a value metric like
        # AUC; AUC stands in for it here so that RecBole's registries stay as they are.
        final["metrics"] = ["AUC" if m.lower() == "gauc" else m for m in metrics]
        try:
            super()._set_default_parameters()
        except ConfigError:
            raise
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise ConfigError(" ".join(str(error).split())) from error
        final["metrics"] = metrics
        final["eval_type"] = EvaluatorType.VALUE

    def _init_device(self) -> None:
        """Choose the device of this process.

        ``gpu_id`` counts among the GPUs that the process may see. RecBole writes it into
        CUDA_VISIBLE_DEVICES, by default "0": that hides the other GPUs from everything else in the
        process and from its children, and overrules what a scheduler had set. Here the environment
        stays as it is and the device carries the index. Nothing distributed is set up here.

        With ``nproc`` > 1, process r takes the r-th id of ``gpu_id``, or the r-th visible GPU where
        the user gave none.
        """
        final = self.final_config_dict
        given = final["gpu_id"]
        text = ",".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
        ids = [part.strip() for part in text.split(",") if part.strip()]
        if any(not part.isdigit() for part in ids):
            raise ConfigError(f"gpu_id: expected numbers such as 0 or '0,1', got {given!r}")
        final["gpu_id"] = ",".join(ids)
        rank = int(final.setdefault("local_rank", 0))
        nproc = int(final.get("nproc") or 1)
        final["single_spec"] = True
        if rank != 0:
            final["state"] = "error"
            final["show_progress"] = False
            final["verbose"] = False
        if not ids or not final["use_gpu"] or not torch.cuda.is_available():
            final["device"] = torch.device("cpu")
            return
        if nproc > 1 and "gpu_id" not in self.external_config_dict:
            ids = [str(i) for i in range(torch.cuda.device_count())]
        if len(ids) < nproc:
            raise ConfigError(f"gpu_id: expected {nproc} GPUs for nproc={nproc}, got {len(ids)}")
        if rank >= len(ids):
            raise ConfigError(f"local_rank: expected below {len(ids)}, got {rank}")
        index = int(ids[rank])
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"gpu_id: expected below {torch.cuda.device_count()} (visible GPUs), got {index}"
            )
        final["device"] = torch.device("cuda", index)

    def plain(self) -> dict[str, Any]:
        """The values as JSON can hold them, for records and checkpoints.

        Enumerations become their names, devices and paths their texts, infinities and NaN their
        names; the keys are sorted.
        """
        return {k: _plain(self.final_config_dict[k]) for k in sorted(self.final_config_dict)}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(v) for v in value), key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value)
