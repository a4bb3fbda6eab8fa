"""Whether negatives were sampled: as the configuration says, else as the manifest does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_choir.errors import ConfigError
from recbole_choir.integration.dataset import create_dataset
from recbole_choir.integration.feature_arrays import MANIFEST, has_sampled_negatives


@pytest.mark.parametrize(
    ("manifest", "given", "expected"),
    [
        (None, None, False),
        ({"negatives": None}, None, False),
        ({"negatives": {"kind": "uniform", "per_positive": 5}}, None, True),
        ({"negatives": {"kind": "uniform"}}, False, False),
        ({"negatives": None}, True, True),
        (["not a mapping"], None, False),
    ],
)
def test_the_configuration_then_the_manifest(
    tmp_path: Path, manifest: Any, given: bool | None, expected: bool
) -> None:
    if manifest is not None:
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert has_sampled_negatives(given, tmp_path) is expected


def test_the_manifest_is_the_adapters() -> None:
    from recbole_choir.dataset_adapters import base

    assert base.MANIFEST == MANIFEST


def test_a_damaged_manifest_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with caplog.at_level(logging.WARNING, logger="recbole_choir"):
        assert not has_sampled_negatives(None, tmp_path)
    assert "negatives are taken as observed" in caplog.text


def test_models_are_told(toy: Path, make_config: Callable[..., Any]) -> None:
    def told(**values: Any) -> bool:
        dataset = create_dataset(make_config("Base", **values))
        dataset.build()
        return dataset.model_inputs.sampled_negatives

    assert not told()
    assert told(sampled_negatives=True)
    (toy / "toy" / MANIFEST).write_text(json.dumps({"negatives": {"kind": "uniform"}}))
    assert told()
    with pytest.raises(ConfigError, match="sampled_negatives: expected True or False or null"):
        told(sampled_negatives=3)
