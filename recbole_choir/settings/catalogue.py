"""Which models and datasets there are, without loading any of them."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.settings import recbole_keys
from recbole_choir.settings.base import Settings

OWN_PACKAGE = "recbole_choir.model.context_aware_recommender"
SETTINGS_PACKAGE = "recbole_choir.model.settings"

#: Name -> class of every model that is registered so far, a user's own ones among them.
registered: dict[str, type] = {}


def _names(folder: Path) -> dict[str, str]:
    """Class -> module of a folder whose modules are named as their class in lower case."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        stem = path.stem.replace("_", "")
        for name in re.findall(r"^class (\w+)\(", path.read_text(encoding="utf-8"), re.M):
            if name.lower().replace("_", "") == stem:
                found[name] = path.stem
    return found


@functools.cache
def own_models() -> Mapping[str, str]:
    """Model of this package -> its module."""
    return _names(Path(__file__).parents[1] / "model" / "context_aware_recommender")


@functools.cache
def recbole_models() -> Mapping[str, str]:
    """Context-aware model of RecBole -> its module."""
    return _names(recbole_keys.folder() / "model" / "context_aware_recommender")


def known_models() -> dict[str, str]:
    """Every model that can be run here.

    Returns:
        Name -> kind: ``"choir"`` (this package and what users registered), ``"context"`` (RecBole's
        context-aware models) or ``"tree"`` (LightGBM, XGBoost).
    """
    kinds = dict.fromkeys(recbole_models(), "context")
    kinds.update(dict.fromkeys(recbole_keys.TREES, "tree"))
    kinds.update(dict.fromkeys([*own_models(), *registered], "choir"))
    return kinds


def check_model(name: str) -> str:
    """The kind of a model.

    Raises:
        ConfigError: There is none of that name; with the nearest one.
    """
    kinds = known_models()
    if name not in kinds:
        raise ConfigError(
            f"model: no context-aware model named '{name}'{nearest(str(name), kinds)}; "
            f"known: {', '.join(sorted(kinds, key=str.lower))}"
        )
    return kinds[name]


def settings_class(model: str | type) -> type[Settings] | None:
    """The class of a model's own settings; None for a model of RecBole's.

    A model of this package has ``<Name>Settings`` in a file of its own, which is free of torch. A
    model whose class says ``settings_class`` (a user's, or one in a single file) is loaded for it.
    """
    name = model if isinstance(model, str) else model.__name__
    given: Any = registered.get(name) if isinstance(model, str) else model
    if given is None and name in own_models():
        try:
            module = importlib.import_module(f"{SETTINGS_PACKAGE}.{own_models()[name]}")
        except ModuleNotFoundError:
            module = importlib.import_module(f"{OWN_PACKAGE}.{own_models()[name]}")
            given = getattr(module, name)
        else:
            found: type[Settings] = getattr(module, f"{name}Settings")
            return found
    return getattr(given, "settings_class", None)


def shared_settings() -> type[Settings]:
    """What all models of this package have."""
    module = importlib.import_module(f"{SETTINGS_PACKAGE}.shared")
    found: type[Settings] = module.SharedSettings
    return found
