"""``recbole-choir report``: one page of tables and plots from a folder of records."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from recbole_choir import record as records
from recbole_choir.arguments import CommandParser
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import DataError, TableError
from recbole_choir.files import probe_folder, write_whole
from recbole_choir.report.plotly_figures import fragment
from recbole_choir.report.png_figures import write_png
from recbole_choir.report.records import RecordFolder
from recbole_choir.report.sections import Section, make_section

DESCRIPTION = "One page of tables and plots from a folder of records."
TEMPLATE = Path(__file__).with_name("report.html.jinja2")


def write_report(
    folder: Path,
    out: Path,
    *,
    semantic: Sequence[Path] = (),
    base: str | None = None,
    title: str | None = None,
    made_by: str = "recbole_choir.report.write_report",
) -> Path:
    """Write a report of a folder of records.

    Args:
        folder: The records.
        out: The page. CSV files and pictures go into ``<name>_files`` next to it.
        semantic: Folders of semantic tables that the runs have read: for the map of users.
        base: Cell that gains are measured from; see :meth:`RecordFolder.load`.
        title: Heading of the page. Default: the name of the folder.
        made_by: The command, for the head of the page.

    Returns:
        ``out``.

    Raises:
        DataError: The folder holds no records, or ones that do not belong together.
        TableError: A semantic table is damaged, or no run has read it.
    """
    if out.is_dir():
        raise DataError(f"--out {out}: expected a file to write, got a folder")
    loaded = RecordFolder.load(folder, base)
    tables = _tables_of(loaded, semantic)
    sections = [make_section(loaded, name, tables.get(name, ())) for name in loaded.datasets]
    files = out.with_name(f"{out.stem}_files")
    try:
        files.mkdir(parents=True, exist_ok=True)
        for section in sections:
            _write_files(section, files)
        page = render(
            loaded, sections, title or f"Report: {folder.resolve().name}", files.name, made_by
        )
        write_whole(out, page)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    return out


def render(
    folder: RecordFolder, sections: Sequence[Section], title: str, files: str, made_by: str
) -> str:
    """The page as text; everything it needs is in it."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=title,
        folder=folder.path.name or str(folder.path),
        base=folder.base,
        n_runs=len(folder.runs),
        n_left_out=folder.n_left_out,
        made_by=made_by,
        version=records.versions().get("recbole-choir", "from a checkout"),
        time=records.now(),
        sections=sections,
        files=files,
        plotly=Markup(get_plotlyjs()),
        fragment=lambda plot, div: Markup(fragment(plot, div)),
        anchor=_anchor,
        stem=_stem,
    )


def _stem(dataset: str) -> str:
    """A dataset's name as the beginning of file names."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", dataset)


def _anchor(*parts: str) -> str:
    """An id in the page. Names of cells that differ in signs alone must not meet."""
    text = "--".join(parts)
    return re.sub(r"[^A-Za-z0-9_-]", lambda sign: f".{ord(sign[0]):x}.", text)


def _tables_of(folder: RecordFolder, semantic: Sequence[Path]) -> dict[str, list[SemanticTable]]:
    """Dataset -> the semantic tables that its runs have read."""
    known: dict[str, str] = {}
    for run in folder.runs:
        fingerprint = (run.record.get("table") or {}).get("fingerprint")
        if fingerprint:
            known[fingerprint] = str(run.record["dataset"])
    found: dict[str, list[SemanticTable]] = {}
    for path in semantic:
        table = SemanticTable.load(path)
        if table.fingerprint not in known:
            have = ", ".join(sorted(known)) or "none"
            raise TableError(
                f"--semantic {path}: expected a table that runs in {folder.path} have read "
                f"(fingerprints: {have}), got {table.fingerprint}"
            )
        found.setdefault(known[table.fingerprint], []).append(table)
    return found


def _write_files(section: Section, files: Path) -> None:
    name = _stem(section.dataset)
    _write_csv(section.numbers, files / f"{name}-numbers.csv")
    for plot in section.plots:
        _write_csv(plot.frame, files / f"{name}-{plot.name}.csv")
        write_png(plot, files / f"{name}-{plot.name}.png")


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def main(argv: Sequence[str]) -> int:
    """``recbole-choir report RECORDS_DIR --out report.html [--semantic DIR ...]``."""
    parser = CommandParser(prog="recbole-choir report", description=DESCRIPTION, allow_abbrev=False)
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
    probe_folder("--out", options.out.parent)
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
