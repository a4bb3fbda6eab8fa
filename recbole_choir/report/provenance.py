"""Where a number comes from: the command that made it, its record and the versions behind it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recbole_choir.errors import ConfigError
from recbole_choir.report.records import Run
from recbole_choir.settings.layers import parse_value

#: What a user may give that moves no figure.
_SILENT = {"checkpoint_dir", "quiet", "record_dir", "save_predictions", "show_progress", "state"}


def command(record: Mapping[str, Any]) -> str:
    """The command line that makes a record anew.

    Args:
        record: A run's record.

    Returns:
        One line for a shell. The average of two runs has none of its own: the line says of which.
    """
    if record.get("of"):
        return f"mean of the scores of {' and '.join(record['of'])} (recbole-choir study)"
    words = ["recbole-choir", f"--model={record['model']}", f"--dataset={record['dataset']}"]
    words.append(f"--seed={record.get('seed')}")
    asked = record.get("asked") or {}
    for key, value in _flat(asked):
        if key not in _SILENT:
            words.append(f"--{key}={_text(value)}")
    return " ".join(shlex.quote(word) for word in words)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys with dots between them, as the command line reads them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and all(_is_name(k) for k in value):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.replace("-", "_").isidentifier()


def _text(value: Any) -> str:
    """A value as the command line reads it: a text as it is where that is read as this text."""
    if isinstance(value, str):
        try:
            if parse_value(value, "value") == value:
                return value
        except ConfigError:
            pass  # a text that is no YAML is quoted, as JSON, which is
    return json.dumps(value, ensure_ascii=False)


def version_sets(runs: Iterable[Run]) -> list[dict[str, str]]:
    """The different sets of versions that runs were made with, in order of their files."""
    found: list[dict[str, str]] = []
    for run in runs:
        versions = run.record.get("versions")
        if versions and versions not in found:
            found.append(dict(versions))
    return found
