"""``recbole-choir compare``: models compared, tuned alike, over seeds, with their controls."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recbole_choir.arguments import CommandParser
from recbole_choir.datasets import atomic_config, ensure_atomic_files
from recbole_choir.errors import ConfigError
from recbole_choir.experiments.markdown import write_pages
from recbole_choir.experiments.overrides import common_settings
from recbole_choir.experiments.plan import Plan, make_plan, models_with, parse_seeds, rows_dir
from recbole_choir.experiments.record_store import read_records
from recbole_choir.experiments.runner import (
    Processes,
    check_count,
    default_workers,
    open_progress,
    run_missing,
)
from recbole_choir.experiments.search_spaces import search_dir
from recbole_choir.experiments.summary import State, collect, write_chosen, write_significance
from recbole_choir.experiments.tables import to_markdown
from recbole_choir.experiments.tuning import load_optuna
from recbole_choir.files import the_only_one
from recbole_choir.processes import stop_at_once
from recbole_choir.settings.complete import check

DESCRIPTION = """\
Compare models on datasets. Every row is tuned with the same number of trials, chosen on
validation alone, then run with S seeds. The reference (Base), two of its seeds averaged, and
the control of each model (random groups, random ids) are rows of every table. Every finished
run is a record in --out: stop at any time, and the same command goes on. Ends with the tables,
also in --out as comparison.md and tables/*.csv."""

EPILOG = """\
Any other --key=value is a setting of every run, such as --epochs=4; it is not searched then.

examples:
  recbole-choir compare --models=POSO,ChoirRec,DeepFM --datasets=ml-100k --tune=20 --seeds=5 \\
    --workers=2 --out saved/compare/ml-100k
  recbole-choir compare --ablation=ChoirRec --datasets=ml-100k --out saved/compare/ablation
  recbole-choir compare --models=ChoirRec --sweep=K,lambda --out saved/compare/sweep
  recbole-choir compare --models=Base --tune=24 --tune-only --out saved/compare/base
  recbole-choir compare --fast --out saved/compare/fast      all of it in about two minutes

docs/compare.md has more."""

#: What --fast changes of the defaults; what is given on the command line wins.
FAST = {"models": "ChoirRec", "seeds": "2", "tune": 2}
#: Settings of --fast: one epoch, and half of the snapshots, as most of the time goes into profiles.
FAST_SETTINGS = ("--epochs=1", "--semantic.n_snapshots=2")


def main(argv: Sequence[str] | None = None) -> int:
    """``recbole-choir compare --models=A,B --datasets=D --out FOLDER [--key=value ...]``.

    Returns:
        0 when every run is finished, 1 when some failed (the tables say which), 130 when stopped.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if options.fast:
        parser.set_defaults(**FAST)
        options, rest = parser.parse_known_args(argv)
        given = {word.partition("=")[0] for word in rest}
        rest += [word for word in FAST_SETTINGS if word.partition("=")[0] not in given]
    plan = _plan(options, rest)
    for name in ("workers", "threads"):
        check_count(name, getattr(options, name))
    if options.dry_run:
        print(dry_run(plan, options.out))
        return 0
    if plan.trials:
        load_optuna()  # before anything is run
    options.out.mkdir(parents=True, exist_ok=True)
    lock = the_only_one(
        options.out / ".lock", f"--out {options.out}: another comparison is at work there"
    )
    # what made the numbers, whichever command wrote their tables last
    words = (_without_machine(word) for word in argv if word != "--only-tables")
    command = shlex.join(["recbole-choir", "compare", *words])
    if options.only_tables:
        state = open_progress(plan, options.out, retry=False)
        for progress in state.values():
            progress.settle()
    else:
        for dataset in plan.datasets:  # once, here: two workers would do it twice
            cell = next(cell for cell in plan.cells if cell.dataset == dataset)
            config = check(cell.model, dataset, config_dict=cell.config).final
            ensure_atomic_files(atomic_config(config, dataset))
        workers = options.workers or default_workers(options.threads)
        try:
            state = run_missing(plan, options.out, workers, Processes(options.out, options.threads))
        except KeyboardInterrupt:
            stop_at_once()
    page = write_tables(plan, state, options.out, command)
    lock.release()
    print(page.read_text(encoding="utf-8"))
    print(f"tables: {page}, {options.out / 'tables'}")
    missing = sum(p.total - p.over for p in state.values())
    failed = sum(len(p.failed_trials()) + len(p.failed_seeds()) for p in state.values())
    if failed or missing:
        print(
            f"{failed} runs failed, {missing} are missing: see the end of each dataset in {page}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def write_tables(plan: Plan, state: State, out: Path, command: str) -> Path:
    """Averages, differences and tables of what there is; returns the page."""
    found = collect(plan, state, out)
    significance = write_significance(plan, found, out)
    write_chosen(plan, state, out)
    return write_pages(plan, state, found, significance, out, command)


def dry_run(plan: Plan, out: Path) -> str:
    """The cells with the number of runs of each, and what is searched; writes nothing."""
    rows = {}
    for number, cell in enumerate(plan.cells, start=1):
        trials = plan.trials_of(cell)
        searched = ", ".join(cell.space) if trials else "nothing"
        rows[number] = {
            "dataset": cell.dataset,
            "row": cell.name,
            "trials": trials,
            "seeds": len(plan.seeds),
            "runs": plan.runs_of(cell),
            "searched": f"as {cell.point_of}" if cell.point_of else searched,
        }
    total = sum(plan.runs_of(cell) for cell in plan.cells)
    done = len(read_records(out))
    averages = ", ".join(dict.fromkeys(average.name for average in plan.averages))
    return (
        f"{to_markdown(pd.DataFrame.from_dict(rows, orient='index'), '#')}\n\n"
        f"{len(plan.cells)} cells, at most {total} runs; "
        f"seeds {', '.join(map(str, plan.seeds)) or 'none'}; "
        f"without runs of their own: {averages or 'none'}. "
        f"Weak trials are {'stopped early' if plan.prune else 'run whole'}. "
        f"{done} records are in {out}."
    )


def _without_machine(word: str) -> str:
    """A word of the command, a folder on someone's machine by its last part."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def _plan(options: argparse.Namespace, rest: list[str]) -> Plan:
    models = _names(options.models)
    search, rows = options.search, options.rows
    more = {}
    for kind in ("ablation", "variants"):
        given = getattr(options, kind)
        more[kind] = _names(given)
        if given == "":  # without a value: every model asked for that has rows
            having = models_with(kind, rows or rows_dir())
            more[kind] = [m for m in dict.fromkeys([options.base, *models]) if m in having]
            if not more[kind]:
                raise ConfigError(
                    f"--{kind}: none of {', '.join(models) or options.base} has rows; "
                    f"expected a name, such as --{kind}=ChoirRec"
                )
    if not models and not any(more.values()):
        raise ConfigError("--models: missing; expected names, such as --models=POSO,ChoirRec")
    for name, folder in (("search", search), ("rows", rows)):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"--{name}: expected a folder, got {folder}")
    return make_plan(
        models or [options.base],
        _names(options.datasets),
        () if options.tune_only else parse_seeds(options.seeds),
        options.tune,
        common=common_settings(options.config, rest),
        base=options.base,
        ablation=more["ablation"],
        sweep=_names(options.sweep),
        variants=more["variants"],
        search=search or search_dir(),
        rows=rows or rows_dir(),
        tune_seed=options.tune_seed,
        prune=options.prune,
    )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="recbole-choir compare",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", metavar="A,B", help="models to compare; recbole-choir --list shows all")
    add("--datasets", metavar="D,E", default="ml-100k", help="(default: %(default)s)")
    add(
        "--seeds",
        metavar="S",
        default="5",
        help="how many seeds, from 2020 on, or which: 7,8,9 (default: %(default)s)",
    )
    add(
        "--tune",
        metavar="N",
        type=int,
        default=20,
        help="trials of every row; 0: the defaults, without Optuna (default: %(default)s)",
    )
    add(
        "--prune",
        action=argparse.BooleanOptionalAction,
        help="stop weak trials before their end (default: from 8 trials on)",
    )
    add(
        "--tune-only",
        action="store_true",
        help="search every row and show what was chosen; no seeds",
    )
    add("--out", type=Path, required=True, metavar="FOLDER", help="records, trials and tables")
    add(
        "--workers",
        type=int,
        metavar="W",
        help="runs at a time (default: one a GPU, without GPUs as the cores allow)",
    )
    add("--threads", type=int, default=1, help="threads of a run (default: %(default)s)")
    add(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="YAML",
        help="settings of every run; may be given again, later ones win",
    )
    add(
        "--ablation",
        metavar="A",
        nargs="?",
        const="",
        help="also every row of Table 2 of these models; without a name: of all that have one",
    )
    add(
        "--variants",
        metavar="A",
        nargs="?",
        const="",
        help="also what goes beyond the papers, with its controls, such as ChoirRec's soft groups; "
        "without a name: of all models asked for that have some",
    )
    add(
        "--sweep",
        metavar="K,lambda",
        help="also these hyper-parameter figures, at the point their model has chosen",
    )
    add(
        "--base",
        default="Base",
        metavar="A",
        help="the reference: gains are relative to it (default: %(default)s)",
    )
    add("--tune-seed", type=int, default=1, help="of trials and sampler (default: %(default)s)")
    add("--search", type=Path, metavar="FOLDER", help="search spaces (default: the package's)")
    add(
        "--rows",
        type=Path,
        metavar="FOLDER",
        help="controls, ablations, sweeps and variants of the models (default: the package's)",
    )
    add("--fast", action="store_true", help="few trials, two seeds, one epoch: about two minutes")
    add("--dry-run", action="store_true", help="list the cells and how many runs each needs")
    add("--only-tables", action="store_true", help="run nothing; tables of what is there")
    return parser
