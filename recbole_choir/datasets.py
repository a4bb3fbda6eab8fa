"""Which datasets there are, and where their atomic files come from."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir

logger = logging.getLogger("recbole_choir")

CARRIED_BY_RECBOLE = "ml-100k"
DEFAULT_DATA_PATH = "dataset"


def _adapters() -> Any:
    # By name, because in a checkout the folder lies next to the package and is joined at run time.
    return importlib.import_module("recbole_choir.dataset_adapters")


def has_atomic_files(folder: Path) -> bool:
    """Whether a dataset's folder holds its interactions, whole or pre-split into parts."""
    return any(folder.glob(f"{folder.name}.*inter"))


def known_datasets(data_path: str | Path = DEFAULT_DATA_PATH) -> set[str]:
    """Names that ``dataset`` may take.

    Args:
        data_path: RecBole's ``data_path``: a folder with one folder a dataset.

    Returns:
        ml-100k (RecBole's package carries it), the datasets with an adapter or a YAML file here,
        and the folders in ``data_path`` that hold atomic files, pre-split ones included.
    """
    names = {CARRIED_BY_RECBOLE, *_adapters().adapters()}
    names |= {p.stem for p in (properties_dir() / "dataset").glob("*.yaml")}
    root = Path(data_path)
    if root.is_dir():
        names |= {p.name for p in root.iterdir() if has_atomic_files(p)}
    return names


def own_data_config(name: str, content: Any) -> dict[str, Any]:
    """RecBole's keys that follow from the key ``own_data``: columns and roles.

    Args:
        name: Name of the dataset.
        content: Value of the key.

    Raises:
        DataError: It is no such mapping; one line with the place in the YAML.
    """
    return dict(_adapters().OwnData(name, content).mapping.config())


def atomic_config(config: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """A checked configuration with RecBole's ``data_path``: the dataset's own folder."""
    folder = Path(config["data_path"]) / dataset
    if dataset == CARRIED_BY_RECBOLE:
        spec = importlib.util.find_spec("recbole")
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "dataset_example" / dataset
    return {**config, "dataset": dataset, "data_path": str(folder)}


def ensure_atomic_files(config: Any) -> Path:
    """Find the dataset's atomic files, converting the raw ones where an adapter knows how.

    Args:
        config: The run's configuration; ``data_path`` is RecBole's, ``raw_data_path`` (or the
            environment variable ``RECBOLE_CHOIR_DATA``) names the folder of the raw files.

    Returns:
        The folder with ``<dataset>.inter``.

    Raises:
        ConfigError: No such dataset is known.
        DataError: The raw files are missing or not what they should be.
    """
    name = str(config["dataset"])
    folder = Path(config["data_path"])
    if config["own_data"]:
        # Converted again only when the files or the mapping are others than before.
        own = _adapters().OwnData(name, config["own_data"])
        return Path(own.convert(config["raw_data_path"] or ".", folder))
    if has_atomic_files(folder):
        return folder
    adapters = _adapters()
    if name not in adapters.adapters():
        known = known_datasets(folder.parent)
        raise ConfigError(
            f"dataset '{name}': no {folder / (name + '.inter')} and no adapter of that name"
            f"{nearest(name, known)}; known: {', '.join(sorted(known))}"
        )
    raw = adapters.find_raw(name, config["raw_data_path"])
    logger.info("converting the raw files of %s into %s", name, folder)
    adapters.adapters()[name]().convert(raw, folder)
    return folder
