"""The model of docs/add-a-model.md: its code is taken from the page, registered and trained."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from recbole_choir.errors import ConfigError
from recbole_choir.quick_start import run
from recbole_choir.settings.complete import check

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-model.md"


def test_the_model_of_the_page_is_trained_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "logistic.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("logistic")
    try:
        folders = {"record_dir": "records", "checkpoint_dir": "saved", "semantic_dir": "tables"}
        result = run(
            "Logistic",
            "ml-100k",
            config_dict={
                **{key: str(tmp_path / name) for key, name in folders.items()},
                "epochs": 2,
                "eval_step": 1,
                "quiet": True,
                "show_progress": False,
                "logistic_bias": False,
            },
        )
        assert result["test_result"]["gauc"] > 0.6
        assert result["record"]["config"]["logistic_bias"] is False
        with pytest.raises(ConfigError, match="logistic_bias: expected True or False, got 3"):
            check("Logistic", "ml-100k", cli={"logistic_bias": 3})
        with pytest.raises(ConfigError, match="did you mean 'logistic_bias'"):
            check("Logistic", "ml-100k", cli={"logistic_bia": True})
    finally:
        from recbole_choir.settings.catalogue import registered

        registered.pop("Logistic", None)
        for name in [n for n in sys.modules if n.endswith(".logistic") or n == "logistic"]:
            del sys.modules[name]
    assert "run(" in use
