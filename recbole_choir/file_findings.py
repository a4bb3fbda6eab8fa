"""A dataset's files looked at as a configuration describes them: by a run, and by ``check``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_choir.arguments import CommandParser
from recbole_choir.data.file_checks import Expected, Finding, check_files
from recbole_choir.datasets import atomic_config, ensure_atomic_files
from recbole_choir.errors import nearest
from recbole_choir.settings.base import ConfigLike, read
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import parse_cli

logger = logging.getLogger("recbole_choir")


def findings_of(config: ConfigLike) -> list[Finding]:
    """Look at the atomic files of a run.

    Args:
        config: Of the run; ``data_path`` is the folder of the dataset itself.

    Returns:
        What is wrong or doubtful; nothing where a file is missing, which its reader tells.
    """
    folder = Path(str(config["data_path"]))
    name = str(config["dataset"])
    if folder.name != name:
        folder = folder / name
    parts = read(config, "benchmark_filename")
    inter = [f"{name}.{part}.inter" for part in parts] if parts else [f"{name}.inter"]
    files = [(folder / file, "inter") for file in inter]
    files += [(folder / f"{name}.{kind}", kind) for kind in ("user", "item")]
    past = read(config, "history_file")
    if past:
        files.append((folder / f"{name}.{past}", "past"))
    more = read(config, "additional_feat_suffix", ())
    for suffix in [more] if isinstance(more, str) else more:
        files.append((folder / f"{name}.{suffix}", "more"))
    needed = [
        path for path, kind in files if kind in ("inter", "past", "more") and not path.is_file()
    ]
    if needed and folder.is_dir():
        some = sorted(path.name for path in folder.iterdir())
        return [
            Finding("error", path.name, "", f"no such file in {folder}{nearest(path.name, some)}")
            for path in needed
        ]
    known = [(path, kind) for path, kind in files if path.is_file() and kind != "more"]
    return check_files(known, expected(config))


def expected(config: ConfigLike) -> Expected:
    """What the columns of the files mean, by the configuration."""
    threshold = read(config, "threshold") or {}
    loaded = read(config, "load_col")
    return Expected(
        user=config["USER_ID_FIELD"],
        item=config["ITEM_ID_FIELD"],
        time=config["TIME_FIELD"],
        label=next(iter(threshold), config["LABEL_FIELD"]),
        separator=config["field_separator"],
        encoding=read(config, "encoding", "utf-8"),
        time_unit=read(config, "time_unit", "s"),
        threshold=next(iter(threshold.values()), None),
        read={} if loaded is None else {kind: _listed(names) for kind, names in loaded.items()},
        contexts=tuple(read(config, "context_fields", ())),
        attributes=_attributes(config),
        title=read(config, "title_field"),
        dropped=frozenset(read(config, "val_interval", ())),
    )


def _listed(names: Any) -> set[str] | None:
    return None if names == "*" else set(names or ())


def _attributes(config: ConfigLike) -> dict[str, set[str] | None]:
    """Columns of ``.user`` and ``.item`` that models or groups may read; None: all of them."""
    users, items = (read(config, f"{kind}_attr_fields") for kind in ("user", "item"))
    more = [read(config, "category_field"), *read(config, "lift_fields", ())]
    return {
        "user": None if users is None else set(users),
        "item": None if items is None else {*items, *more},
    }


def log_findings(found: Iterable[Finding]) -> list[Finding]:
    """Warnings go to the log; all findings are returned."""
    found = list(found)
    for finding in found:
        if finding.level == "warning":
            logger.warning("%s", finding)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """``recbole-choir check DATASET``: look at a dataset's files, print what is found.

    Returns:
        0 where nothing is wrong (there may be warnings), 1 where a run would be refused.
    """
    parser = CommandParser(
        prog="recbole-choir check",
        description="Look at a dataset's files as a run would, and tell all that is wrong.",
    )
    parser.add_argument("dataset", help="its name, as in --dataset")
    parser.add_argument(
        "--config_files", default="", help='YAML files with its columns: "a.yaml b.yaml"'
    )
    arguments, rest = parser.parse_known_args(argv)
    done = check("Base", arguments.dataset, arguments.config_files.split(), cli=parse_cli(rest))
    config = atomic_config(done.final, arguments.dataset)
    folder = ensure_atomic_files(config)
    found = findings_of(config)
    _print(found, folder)
    return int(any(f.level == "error" for f in found))


def _print(found: list[Finding], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not found:
        console.print(f"{folder}: nothing found")
        return
    table = Table("", "file", "column", "what", title=str(folder))
    for finding in found:
        table.add_row(finding.level, finding.file, finding.column, finding.text)
    console.print(table)
