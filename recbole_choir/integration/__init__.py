"""The only place that knows RecBole's internals."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

if importlib.util.find_spec("recbole") is None:
    raise ImportError(
        "recbole-choir needs RecBole 1.2.1 to train and evaluate: pip install recbole==1.2.1, or "
        "on Python 3.12 and later (its pinned ray has no wheel there): "
        "pip install --no-deps recbole==1.2.1",
        name="recbole",
    )

# Resolved on first use, so that importing the package costs no more than registering the models.
_EXPORTS = {
    "CheckpointError": "recbole_choir.errors",
    "ChoirConfig": "recbole_choir.integration.config",
    "known_datasets": "recbole_choir.integration.config",
    "parse_cli": "recbole_choir.settings.layers",
    "known_models": "recbole_choir.integration.registry",
    "model_class": "recbole_choir.integration.registry",
    "register_all": "recbole_choir.integration.registry",
    "register_model": "recbole_choir.integration.registry",
    "ChoirDataset": "recbole_choir.integration.dataset",
    "create_dataset": "recbole_choir.integration.dataset",
    "BatchLoader": "recbole_choir.integration.dataloader",
    "data_preparation": "recbole_choir.integration.dataloader",
    "ChoirTrainer": "recbole_choir.integration.trainer",
    "get_trainer": "recbole_choir.integration.trainer",
    "create_model": "recbole_choir.integration.runtime",
    "init_logging": "recbole_choir.integration.runtime",
    "init_seed": "recbole_choir.integration.runtime",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
