"""Build or inspect semantic tables from the command line: ``python -m recbole_choir.semantic``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_choir.errors import ChoirError, ConfigError, DataError
from recbole_choir.semantic import build, load_recipe
from recbole_choir.semantic.table import QUALITY_TEXT

_ID_COLUMNS = {"user_id": str, "item_id": str}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a mistake of the user's)."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        recipe = load_recipe(arguments.recipe, _overrides(arguments.set))
        out = build(
            _read(arguments.interactions),
            _read(arguments.users) if arguments.users else None,
            _read_items(arguments.items, arguments.category_separator) if arguments.items else None,
            recipe,
            arguments.out,
            device=arguments.device,
            show_progress=not arguments.quiet,
        )
    except ChoirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((out / QUALITY_TEXT).read_text(encoding="utf-8"), end="")
    print(f"\nsemantic table: {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_choir.semantic", description="Semantic tables of user groups."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "build",
        help="build a table from CSV or parquet files",
        description="Build a semantic table from CSV or parquet files; print its quality report.",
    )
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
    command.add_argument(
        "--recipe", default="embedded", help="a name in properties/semantic or a YAML file"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the recipe, e.g. --set n_snapshots=2 or --set items.input=random "
        "(may be repeated)",
    )
    command.add_argument("--out", required=True, type=Path, help="folder of the table")
    command.add_argument("--device", help="device of the text encoder, e.g. cuda")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Keys and values; a dotted key reaches into a part of the recipe."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected KEY=VALUE, got '{pair}'")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: expected a YAML value, got '{text}'") from None
        *path, last = key.strip().split(".")
        part = out
        for step in path:
            part = part.setdefault(step, {})
            if not isinstance(part, dict):
                raise ConfigError(f"--set {key}: '{step}' is set to {part!r} as a whole already")
        part[last] = value
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


if __name__ == "__main__":
    sys.exit(main())
