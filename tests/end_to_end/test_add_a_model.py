"""docs/add-a-model.md: the model in it is whole, trains, and is as long as the page says."""

from __future__ import annotations

import importlib
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from recbole_choir.errors import ConfigError
from recbole_choir.integration import registry
from recbole_choir.quick_start import run
from recbole_choir.settings import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-a-model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MODEL = next(block for block in BLOCKS if "class Logistic(" in block)


@pytest.fixture
def logistic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's model as a module of a user's, registered."""
    (tmp_path / "logistic.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("logistic")
    registry.register_model(module.Logistic)
    yield module
    registry._registered.pop("Logistic")
    alias = f"{registry.RECBOLE_PACKAGE}.logistic"
    parent = sys.modules[registry.RECBOLE_PACKAGE]
    for name in ("logistic", "Logistic"):
        delattr(parent, name)
    for name in ("logistic", alias):
        sys.modules.pop(name)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "epochs": 1,
        "seed": 7,
        "show_progress": False,
        "quiet": True,
        "checkpoint_dir": str(folder / "saved"),
        "record_dir": str(folder / "records"),
        **more,
    }


def test_it_trains_by_its_settings(logistic: ModuleType, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    given = settings(tmp_path, logistic_penalty=0.001)
    result = run("Logistic", "ml-100k", config_dict=given)
    record = result["record"]
    assert record["model"] == "Logistic"
    assert record["config"]["logistic_penalty"] == 0.001
    assert 0.6 < result["test_result"]["gauc"] < 0.9
    assert result["test_result"]["logloss"] < 0.75
    assert len(list((tmp_path / "saved").glob("*.pth"))) > 0


def test_its_settings_are_checked_and_searched(logistic: ModuleType, tmp_path: Path) -> None:
    assert catalogue.settings_class("Logistic") is logistic.LogisticSettings
    assert set(logistic.LogisticSettings.searched()) == {"logistic_penalty"}
    with pytest.raises(ConfigError, match=r"logistic_penalty: expected a number in \[0, inf\)"):
        run("Logistic", "ml-100k", config_dict=settings(tmp_path, logistic_penalty=-1.0))
    with pytest.raises(ConfigError, match="did you mean 'logistic_penalty'"):
        run("Logistic", "ml-100k", config_dict=settings(tmp_path, logistic_penalti=1.0))


def test_the_page_says_how_long_it_is() -> None:
    told = re.search(r"^(\d+) lines, (\d+) of them code\.", PAGE, re.MULTILINE)
    assert told is not None
    lines, code = len(MODEL.splitlines()), set()
    kinds = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    docstring = True  # a text that begins a statement
    for token in tokenize.generate_tokens(io.StringIO(MODEL).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            docstring = True
        if token.type in (*kinds, tokenize.ENDMARKER):
            continue
        if not (token.type == tokenize.STRING and docstring):
            code |= set(range(token.start[0], token.end[0] + 1))
        docstring = False
    assert (int(told[1]), int(told[2])) == (lines, len(code))


def test_the_files_and_names_that_the_page_points_to_exist() -> None:
    models = ROOT / "recbole_choir" / "model" / "context_aware_recommender"
    for name in re.findall(r"`(\w+\.py)`", PAGE):
        assert name == "logistic.py" or (models / name).is_file(), name
    for path in re.findall(r"`((?:recbole_choir|tests|properties)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
    cls = importlib.import_module("recbole_choir.model.base_recommender").ChoirRecommender
    for name in ("needs", "epoch_diagnostics", "on_epoch_start", "notes", "encode", "bce"):
        assert hasattr(cls, name)
    for name in ("implied", "contradictions", "variants", "of_run"):
        assert hasattr(cls.settings_class, name)
