"""Which cells a comparison has: models, their controls and other rows, on every dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.experiments.overrides import nested, sets
from recbole_choir.experiments.pruning import FROM_TRIALS
from recbole_choir.experiments.runs import Run
from recbole_choir.experiments.search_spaces import Space, defaults, load_space, search_dir
from recbole_choir.paths import properties_dir
from recbole_choir.settings import recbole_keys
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import merged, read_yaml

#: The first of the seeds that ``--seeds=N`` means: 2020, 2021, .. as in the studies.
FIRST_SEED = 2020
#: Segments of the tables and of the tests: the papers' Tables 1 and Figure 5.
SEGMENTS = (
    "all",
    "low",
    "level_1",
    "level_2",
    "level_3",
    "level_4",
    "level_5",
    "head_users",
    "tail_users",
    "head_items",
    "tail_items",
    "new_users",
    "new_items",
)
#: Seed of all trials and of the sampler; no seed of the tables, so that these are new draws.
TUNE_SEED = 1


@dataclass(frozen=True)
class Cell:
    """A row of the tables on one dataset.

    Attributes:
        dataset, name, model: Of the row.
        config: Settings of all its runs: the common ones, then its own.
        kind: model | control | variant | ablation | sweep.
        of: The model's own row, for the other kinds.
        part: Which figure and which value, for a sweep.
        space: What is searched; empty: nothing.
        first: The point of the first trial: the defaults.
        point_of: Row whose chosen point is used instead of a search of its own (sweeps).
        against: Rows it is tested against.
        metric: The validation metric that chooses, in lower case.
        larger: Whether more of it is better.
        eval_step: Epochs from one validation to the next.
        epochs: Budget of a run, where it is not searched.
    """

    dataset: str
    name: str
    model: str
    config: dict[str, Any] = field(hash=False)
    kind: str = "model"
    of: str | None = None
    part: tuple[str, str] | None = None
    space: Space = field(default_factory=dict, hash=False)
    first: dict[str, Any] = field(default_factory=dict, hash=False)
    point_of: str | None = None
    against: tuple[str, ...] = ()
    metric: str = "gauc"
    larger: bool = True
    eval_step: float = 1.0
    epochs: int = 1

    @property
    def id(self) -> tuple[str, str]:
        """Dataset and name."""
        return self.dataset, self.name

    def run(self, seed: int, point: Mapping[str, Any], role: str, **extra: Any) -> Run:
        """A run of this cell at a point of its search.

        A sweep takes another cell's point but keeps its own value.
        """
        if self.point_of:
            point = {key: value for key, value in point.items() if not sets(self.config, key)}
        config = merged(self.config, nested(point))
        about = {"kind": self.kind, "row_of": self.of, "sweep": list(self.part or ()) or None}
        return Run(self.name, self.model, self.dataset, seed, config, role, {"row": about, **extra})


@dataclass(frozen=True)
class Average:
    """The control of two seeds of one row, averaged: a row without runs of its own.

    Attributes:
        dataset, name: Of the row.
        of: Name of the row whose seeds are averaged.
        by_first: Whether its records bear the digest of the first of their two runs, as those of
            studies do, and not one of both.
    """

    dataset: str
    name: str
    of: str
    by_first: bool = False


@dataclass(frozen=True)
class Plan:
    """A whole comparison or study, checked.

    Attributes:
        cells: In the order of the tables; a dataset's together.
        averages: Each after the row whose seeds it averages.
        seeds: Of the tables; none: only the search is run.
        trials: Of each tuned cell; 0: no search, the defaults.
        base: Name of the reference, to which gains are relative.
        tune_seed: Of trials and sampler.
        prune: Whether weak trials are stopped before their end.
        grid: Whether the trials are all points of the cells' spaces, and no search.
        segments: In which rows are tested against each other.
    """

    cells: tuple[Cell, ...]
    averages: tuple[Average, ...]
    seeds: tuple[int, ...]
    trials: int
    base: str
    tune_seed: int = TUNE_SEED
    prune: bool = False
    grid: bool = False
    segments: tuple[str, ...] = SEGMENTS

    @property
    def datasets(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(cell.dataset for cell in self.cells))

    def trials_of(self, cell: Cell) -> int:
        """Trials of a cell: all alike, but for rows that take another row's point."""
        return 0 if cell.point_of or not cell.space else self.trials

    def runs_of(self, cell: Cell) -> int:
        """Runs of a cell, trials and seeds."""
        return self.trials_of(cell) + len(self.seeds)

    def rows(self, dataset: str) -> list[str]:
        """Names of the rows of a dataset in the order of the tables."""
        names = []
        for cell in self.cells:
            if cell.dataset == dataset:
                names.append(cell.name)
                names += [a.name for a in self.averages if (a.dataset, a.of) == cell.id]
        return names

    def pairs(self, dataset: str) -> list[tuple[str, str]]:
        """Rows that are tested against each other: first minus second."""
        pairs = [(a.name, self.base) for a in self.averages if a.dataset == dataset]
        for cell in self.cells:
            if cell.dataset == dataset:
                pairs += [(cell.name, other) for other in cell.against]
        return pairs


#: What a model's file of rows may hold.
KINDS = ("controls", "ablation", "sweep", "variants")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A variant of a model beyond its paper, with the controls of its own.

    Attributes:
        settings: By which it differs from the model.
        controls: Name -> settings by which the control differs from the variant.
    """

    settings: Settings
    controls: dict[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """The rows that come with a model: ``properties/compare/<Model>.yaml``.

    One file a model holds its controls, the rows of its paper's Table 2, the values of its
    hyper-parameter figures and its variants beyond the paper, each as the settings by which the
    row differs.

    Attributes:
        controls: Name -> settings; rows of every table of the model.
        ablation: Name -> settings: the paper's Table 2, in its order.
        sweep: Figure -> value -> settings.
        variants: Name -> variant.
    """

    controls: dict[str, Settings] = field(default_factory=dict)
    ablation: dict[str, Settings] = field(default_factory=dict)
    sweep: dict[str, dict[str, Settings]] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)


def rows_dir() -> Path:
    """Folder with the rows that come with the package."""
    return properties_dir() / "compare"


def models_with(kind: str, folder: Path) -> list[str]:
    """The models whose file in the folder has rows of a kind."""
    stems = sorted(path.stem for path in folder.glob("*.yaml"))
    return [stem for stem in stems if getattr(load_rows(stem, folder), kind)]


def load_rows(model: str, folder: Path) -> Rows:
    """The rows of a model; none where the folder has no file of its name.

    Raises:
        ConfigError: The file is malformed; the line names file and key.
    """
    path = folder / f"{model}.yaml"
    if not path.is_file():
        return Rows()
    content = read_yaml(path)
    for kind in content:
        if kind not in KINDS:
            raise ConfigError(f"{path}: unknown key '{kind}'{nearest(str(kind), KINDS)}")
    sweep = _mapping(content.get("sweep"), f"{path}: sweep")
    variants = _rows(content.get("variants"), f"{path}: variants")
    return Rows(
        controls=_rows(content.get("controls"), f"{path}: controls"),
        ablation=_rows(content.get("ablation"), f"{path}: ablation"),
        sweep={name: _rows(values, f"{path}: sweep.{name}") for name, values in sweep.items()},
        variants={name: _variant(v, f"{path}: variants.{name}") for name, v in variants.items()},
    )


def _variant(content: Settings, where: str) -> Variant:
    for key in content:
        if key not in ("settings", "controls"):
            raise ConfigError(f"{where}: unknown key '{key}', expected settings and controls")
    settings = _rows({"settings": content.get("settings")}, where)["settings"]
    return Variant(settings, _rows(content.get("controls"), f"{where}.controls"))


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {content!r}")
    return {str(key): value for key, value in (content or {}).items()}


def _rows(content: Any, where: str) -> dict[str, Settings]:
    rows = _mapping(content, where)
    for name, settings in rows.items():
        if not isinstance(settings, Mapping) or not settings:
            raise ConfigError(f"{where}.{name}: expected settings {{key: value}}, got {settings!r}")
    return {name: dict(settings) for name, settings in rows.items()}


def parse_seeds(text: str) -> tuple[int, ...]:
    """``5`` as five seeds from 2020 on, ``7,8,9`` as these.

    Raises:
        ConfigError: It is neither, or a seed is named twice.
    """
    parts = [part for part in text.split(",") if part.strip()]
    if not parts or not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"--seeds: expected a number, or seeds such as 7,8,9, got '{text}'")
    seeds = tuple(int(part) for part in parts)
    if "," not in text:
        seeds = tuple(range(FIRST_SEED, FIRST_SEED + seeds[0]))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds: expected at least one and all different, got '{text}'")
    return seeds


def make_plan(
    models: Sequence[str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    trials: int,
    *,
    common: Mapping[str, Any] | None = None,
    base: str = "Base",
    ablation: Sequence[str] = (),
    sweep: Sequence[str] = (),
    variants: Sequence[str] = (),
    search: Path | None = None,
    rows: Path | None = None,
    tune_seed: int = TUNE_SEED,
    prune: bool | None = None,
) -> Plan:
    """Plan a comparison and check every cell before anything runs.

    Args:
        models: Names; the reference is put in front where it is missing.
        datasets: Names.
        seeds: Of the tables; none: the rows are searched, and no more.
        trials: Trials of every cell; 0 takes the defaults.
        common: Settings of every run; a key of them is not searched.
        base: The reference: gains are relative to it, and two seeds of it are averaged.
        ablation: Models whose Table 2 is run; they are added to the models.
        sweep: Figures to run, of the models that have them.
        variants: Models whose variants beyond the paper are run, with their controls; they are
            added to the models.
        search: Folder of search spaces; default: the package's.
        rows: Folder of controls, ablations, sweeps and variants; default: the package's.
        tune_seed: Seed of the trials and of the sampler.
        prune: Stop weak trials before their end; None: from eight trials on.

    Raises:
        ConfigError: An unknown or repeated model, dataset, key, ablation or figure, an impossible
            value, or the tuning seed among the seeds. One line.
    """
    for name, given in (("models", models), ("datasets", datasets)):
        if not given or len(set(given)) < len(given):
            raise ConfigError(f"--{name}: expected names, all different, got {','.join(given)!r}")
    if trials < 0:
        raise ConfigError(f"--tune: expected a number from 0, got {trials}")
    if not seeds and not trials:
        raise ConfigError("--tune-only: expected trials to run, got --tune=0")
    if trials and tune_seed in seeds:
        raise ConfigError(f"--seeds: {tune_seed} is the seed of the trials; expected others")
    names = list(dict.fromkeys([base, *models, *ablation, *variants]))
    known = {name: load_rows(name, rows or rows_dir()) for name in names}
    for option, wanted in (("ablation", ablation), ("variants", variants)):
        for name in wanted:
            if not getattr(known[name], option):
                some = models_with(option, rows or rows_dir())
                raise ConfigError(
                    f"--{option}: {name} has no rows{nearest(name, some)}; known: {', '.join(some)}"
                )
    figures = {figure for name in names for figure in known[name].sweep}
    for figure in sweep:
        if figure not in figures:
            raise ConfigError(
                f"--sweep: none of {', '.join(names)} has a figure '{figure}'"
                f"{nearest(figure, figures)}; known: {', '.join(sorted(figures)) or 'none'}"
            )
    cells: list[Cell] = []
    for dataset in datasets:
        for name in names:
            cells += _cells(
                name,
                dataset,
                dict(common or {}),
                known[name],
                base=base,
                ablation=name in ablation,
                sweep=sweep if seeds else (),  # a sweep has seeds alone
                variants=name in variants,
                search=search or search_dir(),
            )
    pairs = datasets if seeds else ()
    averages = tuple(Average(d, f"two {base} seeds averaged", base) for d in pairs)
    pruned = trials >= FROM_TRIALS if prune is None else prune
    return Plan(tuple(cells), averages, tuple(seeds), trials, base, tune_seed, pruned)


def _cells(
    model: str,
    dataset: str,
    common: dict[str, Any],
    rows: Rows,
    *,
    base: str,
    ablation: bool,
    sweep: Sequence[str],
    variants: bool,
    search: Path,
) -> Iterator[Cell]:
    reference = () if model == base else (base,)

    def cell(name: str, settings: Mapping[str, Any], **about: Any) -> Cell:
        config = merged(common, settings)
        values = check(model, dataset, config_dict=config).final
        space = {
            key: dimension
            for key, dimension in load_space(model, search, values).items()
            if not sets(config, key)
        }
        first = defaults(space, values)
        # also the keys of the search are keys that the model reads
        probe = {key: first.get(key, (d.choices or (d.high,))[0]) for key, d in space.items()}
        check(model, dataset, config_dict=merged(config, nested(probe)))
        metric = str(values["valid_metric"]).lower()
        return Cell(
            dataset,
            name,
            model,
            config,
            space=space,
            first=first,
            metric=metric,
            larger=metric not in recbole_keys.SMALLER_IS_BETTER,
            eval_step=float(values["eval_step"]),
            epochs=int(values["epochs"]),
            **about,
        )

    controls = [f"{model}, {name}" for name in rows.controls]
    yield cell(model, {}, against=(*reference, *controls))
    for name, settings in rows.controls.items():
        yield cell(f"{model}, {name}", settings, kind="control", of=model, against=reference)
    for name, variant in rows.variants.items() if variants else ():
        controls = [f"{model} {name}, {control}" for control in variant.controls]
        against = (base, *controls)
        yield cell(f"{model} {name}", variant.settings, kind="variant", of=model, against=against)
        for control, changed in zip(controls, variant.controls.values(), strict=True):
            settings = merged(variant.settings, changed)
            yield cell(control, settings, kind="control", of=model, against=(base,))
    for name, settings in rows.ablation.items() if ablation else ():
        yield cell(f"{model} {name}", settings, kind="ablation", of=model, against=(model,))
    for figure in sweep:
        for value, settings in rows.sweep.get(figure, {}).items():
            yield cell(
                f"{model}, {figure} = {value}",
                settings,
                kind="sweep",
                of=model,
                part=(figure, value),
                point_of=model,
            )
