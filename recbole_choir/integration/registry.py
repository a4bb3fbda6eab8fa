"""Which models there are, and how RecBole finds ours.

RecBole looks a model up as ``recbole.model.<kind>.<lower-cased name>``. A model of this package is
found there because its own module object stands in ``sys.modules`` under that name: one module, one
class, whichever way it is reached (``get_model``, ``Config``, pickle, an import by hand). Making
RecBole's package search our folder instead would load every file twice, as two different classes.

A spawned process starts without the registration; unpickling anything of ours imports
``recbole_choir``, which registers again.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import pkgutil
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from recbole_choir.errors import ConfigError
from recbole_choir.settings import catalogue
from recbole_choir.settings.catalogue import OWN_PACKAGE
from recbole_choir.settings.recbole_keys import TREES

logger = logging.getLogger("recbole_choir")

RECBOLE_PACKAGE = "recbole.model.context_aware_recommender"
_OTHER_KINDS = (
    "recbole.model.general_recommender",
    "recbole.model.sequential_recommender",
    "recbole.model.knowledge_aware_recommender",
)
# Importing this package imports both libraries of TREES, which are optional.
_TREE_PACKAGE = "recbole.model.exlib_recommender"

_registered = catalogue.registered
_failed: dict[str, ImportError] = {}


def register_model(cls: type) -> type:
    """Make a context-aware model known to RecBole under its class name.

    Usable as a decorator by a user's own module as well. Doing it again changes nothing.

    Args:
        cls: A subclass of RecBole's ``ContextRecommender`` defined at the top level of a module.

    Returns:
        ``cls`` itself.

    Raises:
        ConfigError: The name is taken by a model of RecBole or by another registered class, or
            the class cannot be found by its name in its module.
    """
    name = cls.__name__
    if _registered.get(name) is cls:
        return cls
    module = sys.modules.get(cls.__module__)
    if module is None or cls.__qualname__ != name:
        raise ConfigError(
            f"register_model({name}): expected a class at the top level of an imported module, "
            f"got {cls.__module__}.{cls.__qualname__}"
        )
    old = _registered.get(name)
    if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(
            f"register_model({name}): the name is taken by {old.__module__}.{old.__qualname__}"
        )
    key = name.lower()
    if key in (tree.lower() for tree in TREES):
        raise ConfigError(f"register_model({name}): RecBole has a model of this name")
    alias = f"{RECBOLE_PACKAGE}.{key}"
    for package in (RECBOLE_PACKAGE, *_OTHER_KINDS):
        full = f"{package}.{key}"
        known_to_recbole = old is None and importlib.util.find_spec(full) is not None
        if known_to_recbole and sys.modules.get(full) is not module:
            raise ConfigError(f"register_model({name}): RecBole has a model of this name: {full}")
    shown = _module_for_recbole(module, alias, cls)
    sys.modules[alias] = shown
    parent = importlib.import_module(RECBOLE_PACKAGE)
    setattr(parent, key, shown)
    setattr(parent, name, cls)
    _registered[name] = cls
    return cls


def _module_for_recbole(module: ModuleType, alias: str, cls: type) -> ModuleType:
    """The module RecBole will see: the class's own, unless that has no spec to be found by."""
    if getattr(module, "__spec__", None) is not None and getattr(module, cls.__name__, cls) is cls:
        return module
    # A model written in a script or a notebook lives in __main__, which find_spec refuses; and
    # a decorator runs before the name is bound, which is fine above.
    shown = ModuleType(alias, module.__doc__)
    shown.__spec__ = ModuleSpec(alias, None)
    setattr(shown, cls.__name__, cls)
    return shown


def _class_named_after(module: ModuleType) -> type | None:
    stem = module.__name__.rpartition(".")[2].replace("_", "")
    for name, cls in vars(module).items():
        same = name.lower().replace("_", "") == stem
        if same and inspect.isclass(cls) and cls.__module__ == module.__name__:
            return cls
    return None


def register_all() -> None:
    """Register every model in ``recbole_choir/model/context_aware_recommender``. Idempotent.

    A module defines a model when it holds a class whose lower-cased name is the module's name,
    underscores aside. A module that cannot be imported (a missing optional dependency) is logged
    and left out; asking for its model then says why.
    """
    package = importlib.import_module(OWN_PACKAGE)
    for info in pkgutil.iter_modules(package.__path__):
        full = f"{OWN_PACKAGE}.{info.name}"
        try:
            module = importlib.import_module(full)
        except ImportError as error:
            _failed[info.name] = error
            logger.warning("the model module %s is not registered: %s", full, error)
            continue
        _failed.pop(info.name, None)
        cls = _class_named_after(module)
        if cls is not None:
            register_model(cls)


def known_models() -> dict[str, str]:
    """Name -> kind of every model, see :func:`recbole_choir.settings.catalogue.known_models`.

    A model of this package that cannot be imported is left out.
    """
    register_all()
    kinds = catalogue.known_models()
    broken = {name for name, stem in catalogue.own_models().items() if stem in _failed}
    return {name: kind for name, kind in kinds.items() if name not in broken}


def model_class(name: str) -> Any:
    """The class of the model called ``name``.

    Args:
        name: Exact name; case counts, as in RecBole.

    Raises:
        ConfigError: There is no such model (the nearest known name is given), or the library it
            needs is not installed.
    """
    register_all()
    reason = _failed.get(catalogue.own_models().get(name, str(name).lower()))
    if reason is not None:
        raise ConfigError(f"model '{name}' cannot be loaded: {reason}") from reason
    kind = catalogue.check_model(name)
    if kind == "choir":
        return _registered[name]
    package = RECBOLE_PACKAGE
    if kind == "tree":
        package = _TREE_PACKAGE
        missing = [lib for lib in TREES.values() if importlib.util.find_spec(lib) is None]
        if missing:
            raise ConfigError(
                f"model '{name}' needs the packages lightgbm and xgboost, "
                f"got no {' and no '.join(missing)}: pip install 'recbole-choir[trees]'"
            )
    return getattr(importlib.import_module(f"{package}.{name.lower()}"), name)
