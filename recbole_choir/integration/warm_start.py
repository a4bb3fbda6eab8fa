"""Other models that a run trains first: for weights to start from, or for users' id vectors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_choir.errors import CheckpointError, ConfigError, nearest
from recbole_choir.files import whole_file
from recbole_choir.integration import checkpoint
from recbole_choir.integration.config import ChoirConfig
from recbole_choir.integration.dataloader import data_preparation
from recbole_choir.integration.dataset import create_dataset
from recbole_choir.integration.registry import known_models
from recbole_choir.integration.runtime import create_model, init_seed
from recbole_choir.integration.trainer import get_trainer
from recbole_choir.record import config_hash
from recbole_choir.settings import catalogue, complete

logger = logging.getLogger("recbole_choir")

# Keys of a run that the model it trains first does not take over: what it starts from, ...
_OF_RUN = ("model", "dataset", "run_name", "resume", "warm_start")
# ... or what needs the table that is not there yet.
_OF_TABLES = ("model", "dataset", "run_name", "semantic", "use_llm_emb", "variant")


@dataclass
class WarmStart:
    """Weights to start from.

    Attributes:
        source: The model that was trained for them, or the checkpoint's file name.
        weights: Name -> tensor.
        table: Fingerprint of the semantic table they were trained with, if any.
        epochs: Epochs that were trained for them in this run; 0 for a checkpoint.
    """

    source: str
    weights: dict[str, torch.Tensor]
    table: str | None = None
    epochs: int = 0

    def load_into(self, model: Any) -> dict[str, Any]:
        """Copy every tensor that has its name and shape in ``model``; all others keep theirs.

        States of random generators are left out: the run has its own seed.

        Returns:
            For the record: source, epochs, and how many of the model's tensors were copied.

        Raises:
            ConfigError: Nothing fits.
            CheckpointError: The weights belong to another semantic table.
        """
        here = getattr(model, "table_fingerprint", None)
        if self.table is not None and self.table != here:
            raise CheckpointError(
                f"warm_start: {self.source} was trained with semantic table {self.table}, "
                f"this run has {here}"
            )
        own = model.state_dict() if isinstance(model, torch.nn.Module) else {}
        own = {n: v for n, v in own.items() if not n.endswith("_extra_state")}
        fitting = {
            name: self.weights[name]
            for name, value in own.items()
            if name in self.weights and self.weights[name].shape == value.shape
        }
        if not fitting:
            raise ConfigError(
                f"warm_start: expected weights of {type(model).__name__}, got none that fit from "
                f"{self.source} (no tensor of the same name and shape)"
            )
        model.load_state_dict(fitting, strict=False)
        logger.info("warm start from %s: %d of %d tensors", self.source, len(fitting), len(own))
        return {
            "source": self.source,
            "epochs": self.epochs,
            "tensors": len(fitting),
            "of": len(own),
        }


def warm_start(config: Any, data: Any, train: Any, valid: Any) -> WarmStart | None:
    """Get the weights that ``warm_start`` asks for, before the run's own model is built.

    The key is null, a checkpoint's path, the name of a model, or a mapping with ``model`` and any
    keys that it is trained with in place of the run's. A model is trained here, on the same rows
    with the same seed and settings, and gives the weights of its best epoch.

    Args:
        config: The run's configuration.
        data: The dataset, split and joined with its tables.
        train, valid: The run's loaders.

    Returns:
        The weights; None where the key is null, or the run goes on from a checkpoint of its own.

    Raises:
        ConfigError: The key is none of the above, or the model cannot be trained on this dataset.
        CheckpointError: The file is missing or damaged.
    """
    value = config["warm_start"]
    if value is None:
        return None
    if config["resume"]:
        logger.info("warm_start: not done again, the run goes on from %s", config["resume"])
        return None
    changes = dict(value) if isinstance(value, Mapping) else {"model": str(value)}
    name = changes.pop("model", None)
    models = [m for m, kind in known_models().items() if kind != "tree"]
    if name in models:
        return _train(config, str(name), changes, data, train, valid)
    if isinstance(value, Mapping) or not Path(str(value)).is_file():
        raise ConfigError(
            "warm_start: expected a model, a mapping with model and its settings, or a checkpoint, "
            f"got {value!r}{nearest(str(name), models)}"
        )
    trust = bool(config["trust_pickle"])
    state = checkpoint.load(str(value), map_location="cpu", trust_pickle=trust)
    return WarmStart(Path(str(value)).name, state.state_dict, state.extra.get("table"))


def _train(
    config: Any, name: str, changes: dict[str, Any], data: Any, train: Any, valid: Any
) -> WarmStart:
    changes = {**changes, "warm_start": None, "resume": None}
    other = _config_of(config, name, _OF_RUN, changes)
    if _reads_tables(other) != _reads_tables(config):
        raise ConfigError(
            f"warm_start: expected a model with the batches of {config['model']}, got {name} "
            "(one is of this package, the other of RecBole)"
        )
    logger.info("warm start: training %s first", name)
    init_seed(other["seed"], other["reproducibility"])
    trainer = get_trainer(other)(other, create_model(other, data))
    trainer.fit(train, valid, saved=True, show_progress=other["show_progress"])
    state = checkpoint.load(trainer.saved_model_file, map_location="cpu")
    return WarmStart(name, state.state_dict, state.extra.get("table"), len(trainer.history))


def train_id_vectors(config: Any, before: float) -> Path:
    """Train a Base on the rows before a time and write its users' id vectors.

    The rows the vectors are later used for must not have trained them, so only what lies before
    the first snapshot is used; the split inside it is the run's own.

    Args:
        config: The run that needs the vectors; dataset, seed and training settings are its own.
        before: Epoch seconds; rows at or after are left out.

    Returns:
        A ``.npz`` with ``user_ids`` and ``vectors`` for the grouping input ``id_embedding``: those
        of the users with a training row there. The others' are what they started as.
    """
    intervals = {**(config["val_interval"] or {}), config["TIME_FIELD"]: f"(-inf,{before!r})"}
    base = _config_of(
        config, "Base", _OF_TABLES, {"val_interval": intervals, "nproc": 1, "quiet": True}
    )
    out = Path(config["semantic_dir"]) / (
        f"{config['dataset']}-base-trained-{config_hash(base.plain())}.npz"
    )
    if out.exists():
        logger.info("id vectors %s: reused", out)
        return out
    logger.info("training a Base on the rows before the first snapshot for its user vectors")
    data = create_dataset(base)
    data.build_splits()
    train, valid, _ = data_preparation(base, data)
    init_seed(base["seed"], base["reproducibility"])
    model = create_model(base, data)
    get_trainer(base)(base, model).fit(train, valid, saved=False, show_progress=False)
    trained = np.unique(data.train_events()[0])
    logger.info("id vectors: %d of %d users have a training row", len(trained), data.user_num - 1)
    with whole_file(out) as temporary:
        np.savez(
            temporary,
            user_ids=np.asarray(data.field2id_token[data.uid_field], dtype=str)[trained],
            vectors=model.user_table.weight.detach().cpu().numpy()[trained],
        )
    return out


def _config_of(config: Any, model: str, without: Sequence[str], changes: Mapping[str, Any]) -> Any:
    """The configuration of another model on the dataset of a run.

    Args:
        config: The run's configuration.
        model: The other model.
        without: Keys that it does not take over from what the run was given.
        changes: Keys in place of the run's.

    Returns:
        What the run was given, as far as the other model knows the keys, and the changes on top.
    """
    outer = config.external_config_dict
    cls = catalogue.settings_class(model)
    known = set(complete.defaults(model, config["dataset"], outer, cls)) - {*without}
    given = {k: v for k, v in outer.items() if k in known}
    return ChoirConfig(model=model, dataset=config["dataset"], config_dict={**given, **changes})


def _reads_tables(config: Any) -> bool:
    return bool(getattr(config.model_class, "reads_model_inputs", False))
