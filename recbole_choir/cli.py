"""The door: ``run_recbole_choir.py`` and the console script ``recbole-choir``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from recbole_choir import record
from recbole_choir.datasets import known_datasets
from recbole_choir.errors import ChoirError, ConfigError, nearest
from recbole_choir.settings.catalogue import known_models
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import parse_cli

USAGE = """\
usage: run_recbole_choir.py --model=MODEL [--dataset=DATASET]
                            [--config_files="a.yaml b.yaml"] [--key=value ...]
       recbole-choir study FILE --out FOLDER    many runs from one YAML file; see study --help
       recbole-choir compare --models=A,B --out FOLDER
                                                models tuned alike over seeds, with controls,
                                                tests and tables; see compare --help
       recbole-choir groups --out FOLDER        groupings of a dataset compared; see groups --help
       recbole-choir report FOLDER --out PAGE   records as one HTML page; see report --help
       recbole-choir download NAME --raw DIR    a dataset's official files; see download --help
       recbole-choir check DATASET              a dataset's files looked at; see check --help
       recbole-choir tables check|seal FOLDER   a semantic table's seal; see tables --help
       recbole-choir settings [MODEL]           every setting with its default and meaning

  --model=ChoirRec         a model of this package or any context-aware model of RecBole,
                           LightGBM or XGBoost; --list shows them all
  --dataset=ml-100k        ml-100k comes with RecBole; others are looked for in data_path and,
                           as raw files, in raw_data_path or RECBOLE_CHOIR_DATA
  --key=value              any key of RecBole or of properties/overall.yaml; dotted keys reach
                           into dictionaries: --semantic.input=behaviour
  --nproc=2                train and evaluate in two processes
  --list                   list the models and datasets that are known
  --debug                  show the traceback of a bug
  --help                   this text
"""


def _command(module: str) -> Callable[[Sequence[str]], int]:
    """A command's ``main``, imported when it is called: each loads what it needs and no more."""

    def run(argv: Sequence[str]) -> int:
        # The adapters by name: in a checkout they lie next to the package and join it at run time.
        return int(importlib.import_module(f"recbole_choir.{module}").main(argv))

    return run


#: What torch says of memory, on a CPU and on a GPU.
_OUT_OF_MEMORY: Final = re.compile("not enough memory|allocate memory|out of memory", re.I)

COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "study": _command("experiments.study"),
    "compare": _command("experiments.compare_command"),
    "groups": _command("experiments.groups_command"),
    "report": _command("report.page"),
    "download": _command("dataset_adapters.download_command"),
    "settings": _command("settings.pages"),
    "check": _command("file_findings"),
    "records": _command("experiments.records_command"),
    "tables": _command("tables_command"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``run_recbole_choir.py`` and of the console script ``recbole-choir``.

    Returns:
        0 on success, 2 when the user has something to put right (one line on standard error).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in argv:
        argv.remove("--debug")
    elif sys.excepthook is sys.__excepthook__:
        sys.excepthook = _tell_a_bug
    try:
        if argv and argv[0] in COMMANDS:
            return COMMANDS[argv[0]](argv[1:])
        if not argv or any(a in ("-h", "--help") for a in argv):
            print(USAGE)
            return 0
        if "--list" in argv:
            _print_known()
            return 0
        if not argv[0].startswith("-"):
            words = ", ".join(COMMANDS)
            raise ConfigError(
                f"command line: expected --key=value or one of {words}, got {argv[0]!r}"
                f"{nearest(argv[0], COMMANDS)}"
            )
        cli = parse_cli(argv)
        model = cli.pop("model", None)
        if model is None:
            print("error: --model is missing: --model=ChoirRec, or --list", file=sys.stderr)
            return 2
        files = str(cli.pop("config_files", "") or "").split()
        dataset = cli.pop("dataset", "ml-100k")
        check(model, dataset, files, cli=cli)  # before torch and RecBole are loaded
        quick_start = importlib.import_module("recbole_choir.quick_start")
        quick_start.run(model, dataset, files, cli=cli)
    except ChoirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        print(
            "error: the machine has too little memory for these settings: expected smaller ones of "
            f"train_batch_size, eval_batch_size or embedding_size ({_line(error)})",
            file=sys.stderr,
        )
        return 2
    return 0


def _line(error: BaseException, longest: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _tell_a_bug(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """One line in place of a traceback, which only --debug shows."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    last = trace
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = ""
    if last is not None:
        place = f" at {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    versions = ", ".join(f"{n} {v}" for n, v in record.versions().items() if v)
    print(
        f"a bug of recbole-choir, please report it to its issues with this line: {kind.__name__}: "
        f"{_line(error)}{place} ({versions}); --debug shows the traceback",
        file=sys.stderr,
    )


def _print_known() -> None:
    print("models:  ", ", ".join(sorted(known_models())))
    print("datasets:", ", ".join(sorted(known_datasets())))
