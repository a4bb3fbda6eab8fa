"""``recbole-choir download``: raw files of datasets whose makers offer them to programs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from recbole_choir.arguments import CommandParser
from recbole_choir.errors import DataError

from .download import fetch, unpack
from .raw import find_file
from .registry import ENVIRONMENT_KEY, adapters, get_adapter


def download(name: str, raw_data_path: str | os.PathLike[str], progress: bool = False) -> Path:
    """Fetch the raw files of a dataset, if they are not there.

    Args:
        name: Name of the dataset.
        raw_data_path: Folder that holds one folder per dataset.
        progress: Show a progress bar per file.

    Returns:
        The folder with the raw files.

    Raises:
        DataError: There is no such dataset, its makers offer no file to programs, the server is
            away, or what came is not the edition that is known.
    """
    adapter = get_adapter(name)
    top = Path(raw_data_path).expanduser()
    folder = top / adapter.folders[0]
    files = [file.name for file in adapter.files]
    for place in (*(top / f for f in adapter.folders), top):
        if all(find_file(place, file) for file in files):
            return place  # nothing is fetched twice
    if not adapter.downloads:
        offered = ", ".join(sorted(n for n, a in adapters().items() if a.downloads))
        raise DataError(
            f"{name}: its makers offer no file to programs; get it from {adapter.source} and put "
            f"{', '.join(files)} into {folder} (can be fetched: {offered})"
        )
    for offer in adapter.downloads:
        got = fetch(offer, folder, progress=progress)
        if offer.archive:
            unpack(got, files, folder)
            got.unlink()  # its files lie next to it now
    missing = next((file for file in files if find_file(folder, file) is None), None)
    if missing is not None:
        raise DataError(f"{folder}: expected '{missing}' among what was fetched, found none")
    return folder


def main(argv: Sequence[str]) -> int:
    """``recbole-choir download NAME ... [--raw DIR]``."""
    offered = sorted(name for name, adapter in adapters().items() if adapter.downloads)
    parser = CommandParser(
        prog="recbole-choir download",
        description="Fetch the official raw files of datasets; broken off, it goes on from there.",
        epilog=f"Can be fetched: {', '.join(offered)}. For the others the error says where to go.",
        allow_abbrev=False,
    )
    parser.add_argument("datasets", nargs="+", metavar="NAME", help="names of datasets")
    parser.add_argument(
        "--raw",
        default=os.environ.get(ENVIRONMENT_KEY) or "raw",
        help=f"folder with a folder per dataset (default: ${ENVIRONMENT_KEY}, else %(default)s)",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in options.datasets:
        adapter = get_adapter(name)
        if adapter.downloads:
            print(f"{name}: from {adapter.source}; terms: {adapter.terms}")
        folder = download(name, options.raw, progress=True)
        print(f"{folder}: --dataset={name} --raw_data_path={options.raw}")
    return 0
