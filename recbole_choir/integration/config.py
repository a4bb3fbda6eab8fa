"""RecBole's ``Config`` over :mod:`recbole_choir.settings.complete`: no second way to read a key."""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, ModelType

from recbole_choir.datasets import known_datasets
from recbole_choir.errors import ConfigError
from recbole_choir.integration import compat
from recbole_choir.integration.registry import model_class
from recbole_choir.settings import catalogue, complete, recbole_keys
from recbole_choir.settings.base import Settings
from recbole_choir.settings.layers import YamlLoader, parse_cli
from recbole_choir.settings.recipe import Recipe

logger = logging.getLogger("recbole_choir")

__all__ = ["ChoirConfig", "known_datasets", "parse_cli"]


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

    Attributes:
        model_settings: The model's own settings; None for a model of RecBole's.
        recipe: The recipe of the semantic table that would be built.

    Raises:
        ConfigError: Unknown keys, model or dataset, values of the wrong type, or an evaluation
            that is not of labelled rows; all of them, in one line.
    """

    parameters: dict[str, list[str]]
    model_settings: Settings | None
    recipe: Recipe

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
        return complete.read_files(file_list)

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
        name, data = complete.names(model, dataset, self.external_config_dict)
        given = model if model is not None else self.external_config_dict.get("model")
        cls: Any = given if isinstance(given, type) else model_class(name)
        kind = getattr(cls, "type", None)
        if kind not in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            raise ConfigError(f"model: expected a context-aware model, got {name} ({kind})")
        return name, cls, data

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        self.internal_config_dict = complete.defaults(
            model, dataset, self.external_config_dict, catalogue.settings_class(model_class)
        )
        own = recbole_keys.dataset_keys(dataset)
        known = self.parameters["Dataset"]
        known += [key for key in own if key not in known]

    def _get_final_config_dict(self) -> dict[str, Any]:
        layers = (self.file_config_dict, self.variable_config_dict, self.cmd_config_dict)
        cls = catalogue.settings_class(self.model_class)
        below = self.internal_config_dict
        done = complete.complete(self.model, below, layers, cls, self.extra_keys)
        self.model_settings, self.recipe = done.settings, done.recipe
        return {**done.final, "MODEL_TYPE": self.model_class.type}

    # --- derived values ------------------------------------------------------------------------

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        if isinstance(final["metrics"], str):
            final["metrics"] = [final["metrics"]]
        metrics = list(final["metrics"])
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
            if ids and final["use_gpu"] and "gpu_id" in self.external_config_dict and rank == 0:
                logger.warning(
                    "gpu_id=%s: torch sees no CUDA device here, the run is on the CPU",
                    final["gpu_id"],
                )
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
