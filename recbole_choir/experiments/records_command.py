"""``recbole-choir records``: pack the records of a study into one file, and unpack them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_choir.arguments import CommandParser
from recbole_choir.experiments.record_store import PACK, pack, unpack


def main(argv: Sequence[str]) -> int:
    """``recbole-choir records pack|unpack FOLDER [FOLDER ...] [--replace]``."""
    parser = CommandParser(prog="recbole-choir records", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="pack|unpack")
    packing = commands.add_parser(
        "pack",
        help=f"move the JSON files of a folder, and of those below it, into its {PACK}",
        description=f"""Move the records of a folder, and of those below it, into its {PACK}: one
            line a record, added to those that are there. Study, compare and report read both
            forms.""",
    )
    packing.add_argument(
        "--replace",
        action="store_true",
        help="a record that is packed with another content takes its place (default: an error)",
    )
    unpacking = commands.add_parser("unpack", help="write the lines as JSON files again")
    for one in (packing, unpacking):
        one.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args(argv)
    for folder in options.folders:
        if options.command == "pack":
            path, moved = pack(folder, options.replace)
        else:
            path, moved = unpack(folder)
        print(f"{path}: {moved} records {options.command}ed")
    return 0
