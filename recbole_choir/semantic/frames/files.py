"""Reading the frames of a table from CSV or parquet files, for the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.settings.layers import parse_value

_ID_COLUMNS = {"user_id": str, "item_id": str}


def add_frame_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments that name the files."""
    command.add_argument(
        "--interactions",
        required=True,
        type=Path,
        help="user_id, item_id, timestamp (epoch seconds), label (0/1), optionally query",
    )
    command.add_argument("--users", type=Path, help="user_id and attributes")
    command.add_argument("--items", type=Path, help="item_id, optionally title, category, price")
    command.add_argument(
        "--category-separator",
        default="|",
        help="what separates an item's categories in a CSV file (default: |)",
    )


def read_frames(
    arguments: argparse.Namespace,
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """Interactions, users and items of the arguments.

    Raises:
        DataError: A file cannot be read.
    """
    return (
        _read(arguments.interactions),
        _read(arguments.users) if arguments.users else None,
        _read_items(arguments.items, arguments.category_separator) if arguments.items else None,
    )


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as fields of a recipe; ``items.input=random`` reaches into a part.

    Raises:
        ConfigError: A word is not of that form, or its value is not YAML.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected KEY=VALUE, got '{pair}'")
        parsed = parse_value(value, f"--set {key}")
        *parts, last = key.strip().split(".")
        inner = out
        for part in parts:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {key}: '{part}' is set to {inner!r} as a whole already")
        inner[last] = parsed
    return out


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=_ID_COLUMNS)
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a table: {line}") from None


def _read_items(path: Path, separator: str) -> pd.DataFrame:
    items = _read(path)
    if "category" in items.columns and pd.api.types.is_string_dtype(items["category"]):
        items["category"] = (
            items["category"].fillna("").astype(str).str.split(separator, regex=False)
        )
    return items
