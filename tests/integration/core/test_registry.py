"""One class per model, however RecBole, pickle or another process reaches it."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from recbole.utils import get_model

from recbole_choir.errors import ConfigError
from recbole_choir.integration import ChoirConfig, registry
from recbole_choir.integration.registry import known_models, model_class, register_model

MODEL_SOURCE = """
import recbole_choir
from recbole.model.abstract_recommender import ContextRecommender
from recbole_choir.integration import register_model


@register_model
class ToyChoir(ContextRecommender):
    pass
"""

TARGET_SOURCE = """
def find(queue, with_toy):
    if with_toy:
        import toychoir_module
    import recbole_choir
    from recbole.utils import get_model
    from recbole_choir.integration import known_models

    queue.put({n: get_model(n).__module__ for n, k in known_models().items() if k == "choir"})
"""


def forget(name: str) -> None:
    registry._registered.pop(name, None)
    alias = f"{registry.RECBOLE_PACKAGE}.{name.lower()}"
    sys.modules.pop(alias, None)
    parent = sys.modules[registry.RECBOLE_PACKAGE]
    for attribute in (name, name.lower()):
        if hasattr(parent, attribute):
            delattr(parent, attribute)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module with a model of its own, importable here and in children."""
    (tmp_path / "toychoir_module.py").write_text(MODEL_SOURCE)
    (tmp_path / "toychoir_target.py").write_text(TARGET_SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("toychoir_module")
    forget("ToyChoir")
    sys.modules.pop("toychoir_module", None)
    sys.modules.pop("toychoir_target", None)


def test_every_way_finds_one_class(toy: ModuleType) -> None:
    cls = toy.ToyChoir
    by_name = importlib.import_module("recbole.model.context_aware_recommender.toychoir")
    package = importlib.import_module("recbole.model.context_aware_recommender")
    assert get_model("ToyChoir") is cls
    assert by_name.ToyChoir is cls
    assert package.ToyChoir is cls
    assert model_class("ToyChoir") is cls
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert ChoirConfig("ToyChoir", "ml-100k").model_class is cls
    assert known_models()["ToyChoir"] == "choir"


def test_recboles_own_config_finds_it(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert Config(model="ToyChoir", dataset="ml-100k").model_class is toy.ToyChoir


def test_registering_again_changes_nothing(toy: ModuleType) -> None:
    before = dict(registry._registered)
    assert register_model(toy.ToyChoir) is toy.ToyChoir
    registry.register_all()
    registry.register_all()
    assert registry._registered == before


def test_a_spawned_process_finds_the_same_modules(toy: ModuleType) -> None:
    target = importlib.import_module("toychoir_target")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=target.find, args=(queue, True))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    here = {n: get_model(n).__module__ for n, kind in known_models().items() if kind == "choir"}
    assert found == here
    assert found["ToyChoir"] == "toychoir_module"
    assert found["Base"] == "recbole_choir.model.context_aware_recommender.base"


def test_a_class_of_a_module_without_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    # what __main__ looks like when a script is run
    module = ModuleType("script_like")
    module.__spec__ = None
    monkeypatch.setitem(sys.modules, "script_like", module)
    cls = type("ScriptModel", (), {"__module__": "script_like"})
    module.ScriptModel = cls  # type: ignore[attr-defined]
    try:
        register_model(cls)
        assert get_model("ScriptModel") is cls
    finally:
        forget("ScriptModel")


def test_names_of_recbole_and_of_others_are_refused(toy: ModuleType) -> None:
    taken = type("SASRec", (), {"__module__": __name__})
    with pytest.raises(ConfigError, match=r"RecBole has a model of this name: .*\.sasrec"):
        register_model(taken)
    other = type("ToyChoir", (), {"__module__": __name__})
    with pytest.raises(ConfigError, match=r"taken by toychoir_module\.ToyChoir"):
        register_model(other)


def test_a_local_class_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(ConfigError, match="top level of an imported module"):
        register_model(Local)


def test_known_models_has_the_whole_zoo() -> None:
    kinds = known_models()
    zoo = {
        *("LR", "FM", "FFM", "FNN", "NFM", "AFM", "FwFM", "PNN", "WideDeep", "DeepFM", "xDeepFM"),
        *("DCN", "DCNV2", "AutoInt", "DSSM", "FiGNN", "EulerNet", "KD_DAGFM"),
    }
    assert {name for name, kind in kinds.items() if kind == "context"} == zoo
    assert {name for name, kind in kinds.items() if kind == "tree"} == {"LightGBM", "XGBoost"}


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("deepfm", "DeepFM"), ("DeepFN", "DeepFM"), ("lightgbm", "LightGBM"), ("AutoIn", "AutoInt")],
)
def test_an_unknown_model_names_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no context-aware model named '{wrong}'") as caught:
        model_class(wrong)
    assert f"did you mean '{hint}'?" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tree_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        registry.importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "xgboost" else find(name, package),
    )
    with pytest.raises(ConfigError, match=r"got no xgboost: pip install"):
        model_class("XGBoost")


def test_a_module_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenmodel.py").write_text("import no_such_library_at_all\n")
    package = importlib.import_module(registry.OWN_PACKAGE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    try:
        with pytest.raises(ConfigError, match="cannot be loaded: No module named 'no_such_lib"):
            model_class("BrokenModel")
    finally:
        registry._failed.pop("brokenmodel", None)
