"""``recbole-choir tables``: check the seal of a semantic table, and seal one of another tool."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_choir import table_format as tf
from recbole_choir.data.table.semantic_table import SemanticTable, read_manifest
from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.errors import TableError
from recbole_choir.files import write_whole
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import parse_cli
from recbole_choir.table_seal import READ, SEAL, check_seal, make_seal, sealed_interactions

DESCRIPTION = """\
A seal is an entry of the table's manifest: sha256 of every file and of the rows of every id, and,
of each snapshot, the fingerprint of the interactions before it. Tables built here have one. It is
compared whenever a table is loaded, and the interactions with the dataset's rows."""


def main(argv: Sequence[str] | None = None) -> int:
    """``recbole-choir tables check|seal FOLDER [--dataset NAME [--key=value ...]]``.

    Returns:
        0 where the table is as it was sealed, or is sealed now; 1 where it has no seal.

    Raises:
        TableError: The table is damaged, changed, or of other interactions; in one line.
    """
    parser = argparse.ArgumentParser(
        prog="recbole-choir tables", description=DESCRIPTION, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="check|seal")
    checking = commands.add_parser("check", help="compare a table with its seal, every file of it")
    sealing = commands.add_parser("seal", help="seal a table as it is now")
    sealing.add_argument(
        "--again",
        action="store_true",
        help="also a table that was changed since it was sealed (default: an error)",
    )
    for one in (checking, sealing):
        one.add_argument("folder", type=Path, metavar="FOLDER")
        one.add_argument("--dataset", help="also the interactions: those of this dataset")
        one.add_argument(
            "--config_files", default="", help='YAML files of the dataset: "a.yaml b.yaml"'
        )
    options, rest = parser.parse_known_args(argv)
    if rest and options.dataset is None:
        parser.error(f"unrecognized arguments without --dataset: {' '.join(rest)}")
    read_manifest(options.folder)  # before a dataset is read
    dataset = None
    if options.dataset is not None:
        dataset = _dataset(options.dataset, options.config_files.split(), parse_cli(rest))
    if options.command == "seal":
        return _seal(options.folder, dataset, options.again)
    return _check(options.folder, dataset)


def _check(folder: Path, dataset: Any) -> int:
    manifest = read_manifest(folder)
    sealed = check_seal(folder, manifest, everything=True)
    stamps = sealed_interactions(folder, manifest)
    if dataset is None:
        SemanticTable.load(folder, sealed=False)
    else:
        dataset.attach_semantic_table(folder)
    if not sealed:
        print(f"{folder}: a table without a seal: nothing to compare it with")
        return 1
    print(f"{folder}: {len(manifest[SEAL]['files'])} files are as they were sealed")
    if stamps is None:
        print("interactions: not sealed; seal it with --dataset NAME")
    else:
        rows = ", ".join(str(stamp.rows) for stamp in stamps)
        compared = "not compared, no --dataset" if dataset is None else "those of the dataset"
        print(f"interactions before each snapshot: {rows} ({compared})")
    return 0


def _seal(folder: Path, dataset: Any, again: bool) -> int:
    manifest = read_manifest(folder)
    if SEAL in manifest and not again:
        check_seal(folder, manifest, everything=True)
    table = SemanticTable.load(folder, sealed=False)
    if dataset is None:
        stamps = sealed_interactions(folder, manifest)
    else:
        stamps = dataset.interaction_stamps(table.snapshot_times.tolist())
    path = folder / tf.MANIFEST
    before = path.read_bytes()
    manifest.pop(SEAL, None)
    manifest[SEAL] = make_seal(folder, manifest, stamps)
    write_whole(path, json.dumps(manifest, indent=2) + "\n")
    if dataset is not None:
        try:
            dataset.attach_semantic_table(folder)
        except TableError:
            write_whole(
                path, before
            )  # no seal says that a table is of a dataset which it does not fit
            raise
    print(f"{folder}: sealed, {len(manifest[SEAL]['files'])} files, {', '.join(_read(manifest))}")
    if stamps is None:
        print("interactions: not sealed; --dataset NAME seals them too")
    else:
        print(f"interactions before each snapshot: {', '.join(str(s.rows) for s in stamps)}")
    return 0


def _read(manifest: dict[str, Any]) -> list[str]:
    return [name for name in READ if name in manifest[SEAL]["files"]]


def _dataset(name: str, files: Sequence[str], cli: dict[str, Any]) -> Any:
    """A dataset, read and split as a run would."""
    check("Base", name, files, cli=cli)  # before torch and RecBole are loaded
    integration = importlib.import_module("recbole_choir.integration")
    config = integration.ChoirConfig("Base", name, files, cli=cli)
    integration.init_logging(config)
    ensure_atomic_files(config)
    data = integration.create_dataset(config)
    data.build_splits()
    return data
