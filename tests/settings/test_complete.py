"""The configuration of a run: complete and checked before torch or RecBole is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import recbole.config.configurator as configurator
import yaml
from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

import recbole_choir
from recbole_choir.errors import ConfigError
from recbole_choir.settings import catalogue, pages, recbole_keys
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import merge, merged, parse_cli

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys, time
start = time.process_time()
from recbole_choir.cli import main
code = main(sys.argv[1:])
heavy = [name for name in ("torch", "recbole", "faiss", "sklearn") if name in sys.modules]
print("HEAVY", heavy, round(time.process_time() - start, 2))
raise SystemExit(code)
"""


def started(*argv: str) -> subprocess.CompletedProcess[str]:
    path = str(Path(recbole_choir.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--help"], 0, ""),
        (["--list"], 0, ""),
        (["settings", "ChoirRec"], 0, ""),
        (["--model=ChoirRec", "--att_type=foo"], 2, "att_type: expected one of sigmoid, "),
        (["--model=SimTier", "--simtier_edges=foo"], 2, "simtier_edges: expected one of uniform"),
        (["--model=DeepFM", "--epochs=0"], 2, "epochs: expected at least 1, got 0"),
        (["--model=AKTRec", "--semantic.items.quantizer=x"], 2, "items.quantizer: expected one"),
        (["--model=DeepFMM"], 2, "did you mean 'DeepFM'?"),
        (["--model=MELT", "--warm_start=7"], 2, "warm_start: expected a text or a mapping"),
    ],
)
def test_a_list_or_a_refusal_loads_nothing_heavy(argv: list[str], code: int, message: str) -> None:
    done = started(*argv)
    assert done.returncode == code, done.stderr
    assert "HEAVY []" in done.stdout
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == (1 if code else 0)


def test_everything_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        check(
            "ChoirRec",
            "ml-100k",
            cli={
                "att_type": "x",
                "epochs": 0,
                "history_length": 0,
                "kd_lamda": 1,
                "semantic": {"n_levels": 0, "input": "y"},
            },
        )
    lines = [line.split(":")[0] for line in caught.value.problems]
    assert sorted(lines) == [
        "att_type",
        "epochs",
        "history_length",
        "kd_lamda",
        "recipe embedded.yaml.input",
        "recipe embedded.yaml.n_levels",
    ]
    with pytest.raises(ConfigError, match=r"2 settings are wrong: model: .*; dataset: "):
        check("ChoirRecc", "ml-100")


def test_the_resolved_settings_stand_in_the_configuration() -> None:
    done = check("ChoirRec", "ml-100k", cli={"variant": "stats"})
    assert done.final["use_group_stats"] is True
    assert done.final["aux_bce"] == 0.3
    assert done.final["mlp_hidden_size"] == [256, 128, 64]
    assert done.settings is not None
    assert done.recipe.input == "text"
    again = check("ChoirRec", "ml-100k", cli={"group_channel": "stats", "use_kd": False})
    assert again.final["use_group_id"] is False


def test_what_a_model_wants_of_the_run() -> None:
    assert check("AKTRec", "ml-100k").final["semantic_recipe"] == "akt"
    assert check("ColdTransformer", "ml-100k").final["labelled_history"] is True
    assert check("Base", "ml-100k").final["labelled_history"] is False
    assert check("MELT", "ml-100k").final["warm_start"]["model"] == "MELT"
    assert check("MELT", "ml-100k", cli={"warm_start": None}).final["warm_start"] is None
    paper = check("ChoirRec", "ml-100k", cli={"training": "paper"}).final
    assert (paper["learner"], paper["lr_final"]) == ("adagrad", 0.001)


@pytest.mark.parametrize("model", ["DeepFM", "LR", "xDeepFM"])
@pytest.mark.parametrize("dataset", ["ml-100k", "ml-1m"])
def test_recboles_defaults_are_read_as_recbole_reads_them(
    model: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["test"])
    theirs = configurator.Config.__new__(configurator.Config)
    theirs.parameters = {"Dataset": []}
    theirs.yaml_loader = theirs._build_yaml_loader()
    cls = type("Model", (), {"type": configurator.ModelType.CONTEXT})
    theirs._load_internal_config_dict(model, cls, dataset)
    expected = {k: v for k, v in theirs.internal_config_dict.items() if k != "MODEL_TYPE"}
    assert recbole_keys.defaults(model, dataset) == expected


def test_metrics_are_those_of_recbole() -> None:
    value = {m for m, kind in metric_types.items() if kind == EvaluatorType.VALUE}
    assert value | {"gauc"} == {m.lower() for m in recbole_keys.VALUE_METRICS}
    assert set(metric_types) - value - {"gauc"} == set(recbole_keys.RANKING_METRICS)


def test_the_catalogue_is_what_recbole_and_this_package_hold() -> None:
    from recbole_choir.integration.registry import known_models

    assert catalogue.known_models() == known_models()
    assert catalogue.recbole_models()["xDeepFM"] == "xdeepfm"
    assert catalogue.own_models()["BaseMM"] == "base_mm"


def test_a_model_in_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    base = catalogue.settings_class("Base")
    assert base is not None

    class Mine(base):  # type: ignore[valid-type,misc]
        """A user's settings."""

        mine: int = 3

    model = type("MyModel", (), {"settings_class": Mine})
    monkeypatch.setitem(catalogue.registered, "MyModel", model)
    assert catalogue.settings_class("MyModel") is Mine
    assert check("MyModel", "ml-100k", cli={"mine": 4}).final["mine"] == 4
    with pytest.raises(ConfigError, match="mine: Base does not read this key, only MyModel do"):
        check("Base", "ml-100k", cli={"mine": 4})


# --- layers --------------------------------------------------------------------------------------


def test_one_layer_over_another() -> None:
    below = {"eval_args": {"order": "TO", "split": {"RS": [8, 1, 1]}}, "semantic": {"a": {"b": 1}}}
    above = {"eval_args": {"split": {"LS": "x"}}, "semantic": {"a": {"c": 2}}, "z": {"q": 1}}
    assert merged(below, above) == {
        "eval_args": {"order": "TO", "split": {"LS": "x"}},  # one level deep
        "semantic": {"a": {"b": 1, "c": 2}},  # all the way
        "z": {"q": 1},
    }
    assert merged({"z": {"a": 1}}, {"z": {"b": 2}}) == {"z": {"b": 2}}
    dotted = parse_cli(["--z.b.c=2"])
    assert merged({"z": {"a": 1, "b": {"d": 3}}}, dotted) == {"z": {"a": 1, "b": {"d": 3, "c": 2}}}
    assert below["semantic"] == {"a": {"b": 1}}  # nothing is changed in place


def test_changes_of_what_is_not_known_yet_stay_changes() -> None:
    one, two = parse_cli(["--z.a=1"]), parse_cli(["--z.b=2"])
    both = merged(merged({}, one), two)
    assert merged({"z": {"c": 3}}, both) == {"z": {"c": 3, "a": 1, "b": 2}}
    assert merge(None, {"a": 1}) == {"a": 1}
    assert merge({"a": 1}, None) is None


# --- what is written from the classes ------------------------------------------------------------


def test_the_files_are_those_that_the_classes_write() -> None:
    for path, text in pages.files(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"python -m {pages.__name__}: {path.name}"


@pytest.mark.parametrize("name", sorted(catalogue.own_models()))
def test_a_models_yaml_changes_nothing(name: str) -> None:
    values = yaml.safe_load((ROOT / "properties" / "model" / f"{name}.yaml").read_text())
    cls: Any = catalogue.settings_class(name)
    below = {**cls.defaults(), **cls.of_run}
    assert {k: below[k] for k in values} == values


def test_the_schema_knows_every_setting() -> None:
    schema = json.loads((ROOT / pages.SCHEMA).read_text())
    keys = set(pages.RunSettings.model_fields)
    for name in catalogue.own_models():
        keys |= set(catalogue.settings_class(name).model_fields)  # type: ignore[union-attr]
    assert set(schema["properties"]) == keys


def test_the_schema_takes_and_refuses() -> None:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads((ROOT / pages.SCHEMA).read_text()))
    good = {"att_type": "dot", "semantic": {"input": "behaviour"}, "learning_rate": 0.1}
    assert list(validator.iter_errors(good)) == []
    for bad in ({"att_type": "x"}, {"history_length": 0}, {"semantic": {"n_levels": "a"}}):
        assert list(validator.iter_errors(bad)), bad


def test_every_setting_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in [*catalogue.own_models(), "DeepFM", None]:
        assert pages.main([name] if name else []) == 0
        text = capsys.readouterr().out
        cls: Any = catalogue.settings_class(name) if name else pages.RunSettings
        for key in cls.model_fields if cls else ():
            assert f"\n{key} = " in text


STUDY = """
datasets: [ml-100k]
seeds: [1]
cells:
  - {name: a, model: ChoirRec, config: {att_type: foo, epochs: 0}}
  - {name: b, model: SimTier, config: {simtier_edges: foo}}
"""


def test_a_wrong_cell_ends_a_study_and_a_comparison_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    out = tmp_path / "out"
    for argv in (
        ["study", str(file), "--out", str(out)],
        ["study", str(file), "--out", str(out), "--dry-run"],
        ["compare", "--models=ChoirRec", "--att_type=foo", "--out", str(out)],
        ["compare", "--models=ChoirRec", "--att_type=foo", "--out", str(out), "--dry-run"],
    ):
        done = started(*argv)
        assert done.returncode == 2, done.stderr
        assert "torch" not in done.stdout
        assert "att_type: expected one of sigmoid" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not out.exists()
    done = started("study", str(file), "--out", str(out))
    assert "cell 'a': epochs: expected at least 1, got 0" in done.stderr
    assert "cell 'b': simtier_edges: expected one of uniform" in done.stderr


BAD_STUDIES = [
    ("", "key 'datasets' is missing or empty"),
    ("- 1\n", "expected 'key: value' lines, got list"),
    ("a: [1\n", "not YAML"),
    ("datasets: x\nseeds: [1]\ncells: [{model: Base}]\n", "datasets: input should be a valid list"),
    ("datasets: [x]\nseeds: 3\ncells: [{model: Base}]\n", "seeds: input should be a valid list"),
    ("datasets: [x]\nseeds: [a]\ncells: [{model: Base}]\n", "seeds.0: input should be a valid int"),
    ("datasets: [x]\nseeds: [1]\ncells: []\n", "key 'cells' is missing or empty"),
    ("datasets: [x]\nseeds: [1]\ncells: [3]\n", "cells.0: input should be a valid dictionary"),
    ("datasets: [x]\nseeds: [1]\ncells: [{name: a}]\n", "cells.0: expected a model, got ['name']"),
    (
        "datasets: [x]\nseeds: [1]\ncells: [{model: 3}]\n",
        "cells.0.model: input should be",
    ),
    (
        "datasets: [x]\nseeds: [1]\ncells: [{model: Base, config: 3}]\n",
        "cells.0.config: input should be a valid dictionary",
    ),
    (
        "datasets: [x]\nseeds: [1]\ncells: [{model: Base}]\ntune: {grid: {epochs: 3}}\n",
        "tune.grid.epochs: input should be a valid list",
    ),
    (
        "datasets: [x]\nseeds: [1]\ncells: [{model: Base}]\naverages: [{of: Base}]\n",
        "key 'name' is missing",
    ),
    ("datasets: [x]\nseeds: [1]\ncells: [{model: Base}]\n", "dataset: no dataset named 'x'"),
    ("datasets: [ml-100k]\nseeds: [1]\ncells: [{model: Bass}]\n", "did you mean 'Base'?"),
]


@pytest.mark.parametrize(("text", "message"), BAD_STUDIES)
def test_bad_study_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    from recbole_choir.experiments.study import Study, check_cells

    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check_cells(Study.load(file).plan)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bug_is_one_line_and_debug_shows_its_traceback(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom recbole_choir import cli\n"
        "def broken(*a, **k):\n    raise KeyError('deep')\n"
        "cli.check = broken\nraise SystemExit(cli.main(sys.argv[1:]))\n"
    )
    path = str(Path(recbole_choir.__file__).parents[1])
    for debug in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-c", program, "--model=Base", *debug],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is bool(debug)
        assert "KeyError: 'deep'" in done.stderr
        if not debug:
            assert len(done.stderr.splitlines()) == 1
            assert "please report it" in done.stderr
            assert "--debug shows the traceback" in done.stderr
