"""Small beginnings of a run: log, seed, model."""

from __future__ import annotations

import logging
from typing import Any

from recbole.utils import init_seed as _recbole_init_seed


def init_logging(config: Any) -> None:
    """Send the log to standard error at the level of ``state``.

    Unlike RecBole's, it makes no ``log/`` folder in the working directory. Where the caller has
    set up logging already, only the level of this package's logger is set.

    Args:
        config: The run's configuration.
    """
    level = logging.getLevelName(str(config["state"] or "INFO").upper())
    level = level if isinstance(level, int) else logging.INFO
    if not logging.getLogger().handlers:
        logging.basicConfig(
            level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
        )
    logging.getLogger("recbole_choir").setLevel(level)
    # At INFO they tell which instruction sets could not be loaded, and of every model they load.
    for noisy in ("faiss", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def init_seed(seed: int, reproducibility: bool = True) -> None:
    """Seed Python, numpy and torch (every device).

    Args:
        seed: The seed.
        reproducibility: Whether cuDNN must use deterministic algorithms.
    """
    _recbole_init_seed(seed, reproducibility)


def create_model(config: Any, dataset: Any) -> Any:
    """Build the model of ``config`` for ``dataset``, on the run's device.

    Args:
        config: A ``ChoirConfig``.
        dataset: The dataset that was split and joined with its tables.
    """
    return config.model_class(config, dataset).to(config["device"])
