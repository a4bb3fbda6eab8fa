"""Settings in layers: common ones, those of a cell, a point of its search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError
from recbole_choir.settings.layers import Merge, merged, parse_cli, read_yaml


def nested(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point whose dotted keys (``lgb_params.num_leaves``) reach into mappings, as settings."""
    out: dict[str, Any] = {}
    for key, value in point.items():
        *path, last = key.split(".")
        node = out
        for part in path:
            node = node.setdefault(part, Merge())
        node[last] = value
    return out


def sets(settings: Mapping[str, Any], key: str) -> bool:
    """Whether the settings give ``key``, dotted or not, or a mapping it lies in."""
    node: Any = settings
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return True  # a whole value was given for a mapping the key reaches into
        if part not in node:
            return False
        node = node[part]
    return True


def common_settings(files: list[Path], words: list[str]) -> dict[str, Any]:
    """Settings of every cell: YAML files, later ones win, then ``--key=value`` words.

    Raises:
        ConfigError: A file cannot be read, or a word is not ``--key=value``.
    """
    out: dict[str, Any] = {}
    for path in files:
        out = merged(out, read_yaml(path))
    out = merged(out, parse_cli(words))
    for key in ("model", "dataset", "seed"):
        if key in out:
            raise ConfigError(
                f"{key}: compare sets it for every cell; expected --{key}s, got {out[key]!r}"
            )
    return out
