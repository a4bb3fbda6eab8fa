"""Semantic tables and profiles from the command line: ``python -m recbole_choir.semantic``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_choir.arguments import CommandParser
from recbole_choir.errors import ChoirError
from recbole_choir.semantic import build, load_recipe
from recbole_choir.semantic.frames.canonical import prepare_frames
from recbole_choir.semantic.frames.files import (
    add_frame_arguments,
    parse_overrides,
    read_frames,
)
from recbole_choir.semantic.profiles.export import export_profiles
from recbole_choir.semantic.quality.compare import TABLE, compare, parse_candidates
from recbole_choir.semantic.table.writer import QUALITY_TEXT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a mistake of the user's)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # what httpx says of every request would drown the rest
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        arguments = _parser().parse_args(argv)
        {"build": _build, "profiles": _profiles, "compare": _compare}[arguments.command](arguments)
    except ChoirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _build(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, parse_overrides(arguments.set))
    out = build(
        *read_frames(arguments),
        recipe,
        arguments.out,
        device=arguments.device,
        show_progress=not arguments.quiet,
    )
    print((out / QUALITY_TEXT).read_text(encoding="utf-8"), end="")
    print(f"\nsemantic table: {out}")


def _profiles(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, parse_overrides(arguments.set))
    text = export_profiles(
        prepare_frames(*read_frames(arguments)).frames,
        recipe,
        arguments.out,
        snapshots=arguments.snapshots,
        dry_run=arguments.dry_run,
        show=arguments.show,
        show_progress=not arguments.quiet,
    )
    print(text)


def _compare(arguments: argparse.Namespace) -> None:
    candidates = parse_candidates(arguments.recipes, parse_overrides(arguments.set))
    compare(
        prepare_frames(*read_frames(arguments)),
        candidates,
        arguments.out,
        seeds=arguments.seeds,
        device=arguments.device,
        show_progress=not arguments.quiet,
    )
    print((arguments.out / TABLE).read_text(encoding="utf-8"), end="")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m recbole_choir.semantic",
        description="Semantic tables of user groups, and the profiles they are made from.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "build",
        help="build a table from CSV or parquet files",
        description="Build a semantic table from CSV or parquet files; print its quality report.",
    )
    add_frame_arguments(command)
    _add_recipe(command, "embedded")
    command.add_argument("--out", required=True, type=Path, help="folder of the table")
    _add_run(command)

    command = commands.add_parser(
        "profiles",
        help="have a language model write the users' profiles",
        description="Have a language model write the users' profiles; resumable, nothing is asked "
        "for twice. Ends with one JSON line a user in --out.",
    )
    add_frame_arguments(command)
    _add_recipe(command, "local_llm")
    command.add_argument("--out", required=True, type=Path, help="file of the profiles (.jsonl)")
    command.add_argument(
        "--snapshots",
        action="store_true",
        help="at the recipe's snapshots, as a table needs them; else once, after all events",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="only count prompts, tokens and cost; ask nothing"
    )
    command.add_argument(
        "--show", type=int, default=0, metavar="N", help="with --dry-run: print N prompts"
    )
    _add_run(command)

    command = commands.add_parser(
        "compare",
        help="compare profile engines and grouping inputs",
        description="Build tables by several recipes and two seeds each, measure their groups, "
        "write records and a Markdown table; a stopped comparison goes on where it was.",
    )
    add_frame_arguments(command)
    command.add_argument(
        "--recipes",
        nargs="+",
        metavar="[NAME=]RECIPE",
        default=["embedded", "text_parts", "behaviour", "random"],
        help="names in properties/semantic or YAML files (default: %(default)s)",
    )
    _add_set(command)
    command.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    command.add_argument("--out", required=True, type=Path, help="folder of tables and records")
    _add_run(command)
    return parser


def _add_recipe(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--recipe",
        default=default,
        help="a name in properties/semantic or a YAML file (default: %(default)s)",
    )
    _add_set(command)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the recipe, e.g. --set n_snapshots=2 or --set items.input=random "
        "(may be repeated)",
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="device of the text encoder, e.g. cuda")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


if __name__ == "__main__":
    sys.exit(main())
