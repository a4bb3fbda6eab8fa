"""One JSON record a run: what was run, on what, with which result, in how much time."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import tempfile
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from recbole_choir.errors import DataError
from recbole_choir.files import parse_json, write_whole

PACKAGES = (
    "recbole-choir",
    "recbole",
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "faiss-cpu",
    "sentence-transformers",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can move a figure."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def config_hash(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits that tell two configurations apart, whatever their key order."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def file_name(name: str) -> str:
    """A run's name as part of a file name: at most 100 characters, a longer one with its digest."""
    short = re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")
    if len(short) <= 100:
        return short
    return f"{short[:91]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def without_machine(config: dict[str, Any]) -> dict[str, Any]:
    """Shorten absolute paths to their last part, so that a record tells of no one's machine."""
    return {
        k: Path(v).name if isinstance(v, str) and Path(v).is_absolute() else v
        for k, v in config.items()
    }


def strict(value: Any) -> Any:
    """Replace what JSON has no number for (NaN: a segment without both classes) by null."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any) -> Path:
    """Write strict JSON so that a reader never sees half a file: temporary name, then rename."""
    write_whole(path, json_text(content) + "\n")
    return path


def json_text(content: Any) -> str:
    """Strict JSON, its keys sorted."""
    return json.dumps(strict(content), indent=1, sort_keys=True, default=str, allow_nan=False)


def keep_record(path: Path, content: Any) -> None:
    """Write a record; where its folder takes none any more, somewhere else, and say where.

    Raises:
        DataError: The record is not where it should be (a full disk, a folder without rights): it
            is kept in the folder for temporary files, or on standard output.
    """
    try:
        write_json(path, content)
        return
    except OSError as error:
        reason = error.strerror or str(error)
    other = Path(tempfile.gettempdir()) / path.name
    try:
        write_json(other, content)
        where = f"in {other}"
    except OSError:
        print(json_text(content), flush=True)
        where = "on standard output"
    raise DataError(f"record {path}: cannot be written: {reason}; it is kept {where}")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return parse_json(path.read_text(encoding="utf-8"))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
