"""Convert one dataset: ``python -m recbole_choir.dataset_adapters ml-1m --raw DIR --out DIR``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from recbole_choir.arguments import CommandParser
from recbole_choir.errors import ChoirError, DataError

from .registry import ENVIRONMENT_KEY, adapters, find_raw, get_adapter


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after a user error."""
    parser = CommandParser(
        prog="python -m recbole_choir.dataset_adapters",
        description="Convert a dataset's official raw files to RecBole atomic files.",
    )
    parser.add_argument("dataset", help=f"one of: {', '.join(sorted(adapters()))}")
    parser.add_argument(
        "--raw", default=None, help=f"folder with the raw files; default: ${ENVIRONMENT_KEY}"
    )
    parser.add_argument(
        "--out", default="dataset", help="RecBole's data_path; files go to OUT/DATASET"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="take files that are not the official edition"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a choice of the adapter, e.g. negatives=popularity; kept in the manifest",
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        args = parser.parse_args(argv)
        adapter = get_adapter(args.dataset, _options(args.set))
        raw = find_raw(args.dataset, args.raw)
        out = Path(args.out) / args.dataset
        adapter.convert(raw, out, verify=not args.no_verify, progress=True)
    except ChoirError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    print(out)
    return 0


def _options(pairs: list[str]) -> dict[str, str]:
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise DataError(f"--set: expected NAME=VALUE such as negatives=popularity, got '{wrong}'")
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    raise SystemExit(main())
