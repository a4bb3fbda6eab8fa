"""``recbole-choir report``: one page of tables and plots from a folder of records."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from recbole_choir.report.page import write_report


def main(argv: Sequence[str]) -> int:
    """``recbole-choir report RECORDS_DIR --out report.html [--semantic DIR ...]``."""
    parser = argparse.ArgumentParser(
        prog="recbole-choir report", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("records", type=Path, help="folder of records, of a study or of runs")
    parser.add_argument(
        "--out", type=Path, required=True, help="the page; CSV and PNG go into <name>_files"
    )
    parser.add_argument(
        "--semantic",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="semantic tables that the runs have read: for the map of users and the group sizes",
    )
    parser.add_argument("--base", help="cell that gains are measured from (default: Base)")
    parser.add_argument("--title", help="heading of the page (default: the folder's name)")
    options = parser.parse_args(argv)
    if not (options.out.suffix or options.out.is_dir()):  # a browser goes by the ending
        options.out = options.out.with_suffix(".html")
    shown = [Path(word).name if Path(word).is_absolute() else word for word in argv]
    out = write_report(
        options.records,
        options.out,
        semantic=options.semantic,
        base=options.base,
        title=options.title,
        made_by=shlex.join(["recbole-choir", "report", *shown]),
    )
    print(f"{out} ({out.stat().st_size / 2**20:.1f} MiB), CSV and PNG in {out.stem}_files")
    return 0
