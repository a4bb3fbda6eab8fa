"""The configuration: layers, checks, and nothing read behind the user's back."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recbole.utils import EvaluatorType, dataset_arguments

from recbole_choir import datasets
from recbole_choir.errors import ConfigError
from recbole_choir.integration import ChoirConfig, parse_cli
from recbole_choir.settings import complete


def build(model: str = "DeepFM", dataset: str = "ml-100k", **more: object) -> ChoirConfig:
    return ChoirConfig(model, dataset, **more)  # type: ignore[arg-type]


def refused(match: str, **more: object) -> str:
    with pytest.raises(ConfigError, match=match) as caught:
        build(**more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our defaults that a test may change."""
    root = tmp_path / "properties"
    (root / "model").mkdir(parents=True)
    (root / "dataset").mkdir()
    real = complete.properties_dir()
    (root / "overall.yaml").write_text((real / "overall.yaml").read_text())
    monkeypatch.setattr(complete, "properties_dir", lambda: root)
    return root


# --- row 16: argv and eval -----------------------------------------------------------------------


def test_argv_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=77", "--learning_rate=9", "-x"])
    config = build(config_dict={"learning_rate": 0.5})
    assert config["epochs"] != 77
    assert config["learning_rate"] == 0.5


def test_values_are_never_code(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch() or 'x'"
    config = build(config_dict={"title_field": code})
    assert config["title_field"] == code
    refused("learning_rate: expected a number", config_dict={"learning_rate": code})
    file = tmp_path / "a.yaml"
    file.write_text(f'title_field: !!python/object/apply:pathlib.Path.touch ["{marker}"]\n')
    refused("not YAML", config_file_list=[file])
    # RecBole evaluates this key in the model itself.
    refused("teacher: expected one of CrossNet, CIN", model="KD_DAGFM", cli={"teacher": code})
    assert not marker.exists()


def test_yaml_of_the_process_is_left_alone() -> None:
    before = {k: list(v) for k, v in yaml.FullLoader.yaml_implicit_resolvers.items()}
    build()
    assert {k: list(v) for k, v in yaml.FullLoader.yaml_implicit_resolvers.items()} == before


def test_recboles_argument_lists_are_left_alone() -> None:
    before = list(dataset_arguments)
    build()
    assert dataset_arguments == before


# --- layers --------------------------------------------------------------------------------------


def test_layers_win_in_their_order(properties: Path, tmp_path: Path) -> None:
    def epochs(**more: object) -> int:
        return build(**more)["epochs"]

    overall = yaml.safe_load((properties / "overall.yaml").read_text())
    assert epochs() == overall["epochs"] != 300  # RecBole's is 300
    (properties / "model" / "DeepFM.yaml").write_text("epochs: 41\n")
    assert epochs() == 41
    (properties / "dataset" / "ml-100k.yaml").write_text("epochs: 42\n")
    assert epochs() == 42
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("epochs: 43\nstopping_step: 9\n")
    second.write_text("epochs: 44\n")
    more: dict[str, object] = {"config_file_list": [first, second]}
    assert epochs(**more) == 44
    assert build(**more)["stopping_step"] == 9
    more["config_dict"] = {"epochs": 45}
    assert epochs(**more) == 45
    more["cli"] = {"epochs": 46}
    assert epochs(**more) == 46


def test_recboles_context_yaml_does_not_beat_ours() -> None:
    config = build()
    # RecBole's context-aware.yaml: order RO, metrics AUC and LogLoss, valid_metric AUC
    assert config["eval_args"]["order"] == "TO"
    assert config["eval_args"]["mode"] == {"valid": "labeled", "test": "labeled"}
    assert config["metrics"] == ["AUC", "GAUC", "LogLoss"]
    assert config["valid_metric"] == "GAUC"
    assert config["threshold"] == {"rating": 4}


def test_eval_args_and_semantic_are_merged_other_mappings_replaced() -> None:
    config = build(
        config_dict={"eval_args": {"order": "RO"}, "threshold": {"rating": 3}},
        cli=parse_cli(
            [
                "--semantic.input=behaviour",
                "--load_col.user=[user_id, age]",
                "--user_attr_fields=[age]",
            ]
        ),
    )
    assert config["eval_args"]["order"] == "RO"
    assert config["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
    assert config["semantic"] == {"input": "behaviour"}
    assert config["load_col"]["user"] == ["user_id", "age"]
    assert "rating" in config["load_col"]["inter"]
    inter = ["user_id", "item_id", "rating", "timestamp"]
    none = {"user_attr_fields": [], "item_attr_fields": [], "category_field": None}
    replaced = build(config_dict={"load_col": {"inter": inter}, **none})
    assert list(replaced["load_col"]) == ["inter"]


def test_row_9_tree_yaml_is_found() -> None:
    assert build("LightGBM")["lgb_num_boost_round"] == 300
    config = build("XGBoost")
    assert config["xgb_params"]["objective"] == "binary:logistic"
    assert config["xgb_early_stopping_rounds"] is None
    assert config["token_num_threshold"] == 10000


# --- refusals ------------------------------------------------------------------------------------


def test_row_10_unknown_model_and_dataset(tiny_values: dict) -> None:
    assert "did you mean 'DeepFM'?" in refused("'DeepFMM'", model="DeepFMM")
    assert "did you mean 'ml-100k'?" in refused(
        "dataset: no dataset named 'ml100k'", dataset="ml100k"
    )
    assert build(dataset="tiny", config_dict=tiny_values)["dataset"] == "tiny"
    message = refused("'tinny'", dataset="tinny", config_dict=tiny_values)
    assert "did you mean 'tiny'?" in message
    with pytest.raises(ConfigError, match=r"model: missing; give it as --model=NAME"):
        ChoirConfig(dataset="ml-100k")
    with pytest.raises(ConfigError, match=r"dataset: missing"):
        ChoirConfig("LR")


def test_model_and_dataset_may_come_as_keys() -> None:
    config = ChoirConfig(cli={"model": "LR", "dataset": "ml-100k"})
    assert (config["model"], config["dataset"]) == ("LR", "ml-100k")


def test_a_pre_split_dataset_is_known(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "parts.train.inter").touch()
    assert "parts" in datasets.known_datasets(tmp_path)


def test_unknown_keys_name_the_nearest() -> None:
    message = refused("learning_rat: no such", cli={"learning_rat": 0.1})
    assert "did you mean 'learning_rate'?" in message
    refused("semantic_tabel.*did you mean 'semantic_table'", config_dict={"semantic_tabel": "x"})
    # keys of another model alone are as unread as a misspelling
    refused("dropout_prob: LR does not read this key, only ", model="LR", cli={"dropout_prob": 0.1})
    assert build(cli={"dropout_prob": 0.1})["dropout_prob"] == 0.1
    refused("MODEL_TYPE: no such", cli={"MODEL_TYPE": 1})
    refused("eval_args.modes: no such key", cli={"eval_args": {"modes": "labeled"}})


def test_a_callers_own_keys_are_let_through() -> None:
    assert build(config_dict={"study": {"a": 1}}, extra_keys=["study"])["study"] == {"a": 1}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rate", "fast", "expected a number, got 'fast'"),
        ("learning_rate", None, "expected a number, got None"),
        ("learning_rate", -1, "expected a number above 0"),
        ("learning_rate", True, "expected a number, got True"),
        ("stats_clip", 0, r"expected a number in \(0, inf\) or null, got 0"),
        ("stats_clip", -4.0, r"expected a number in \(0, inf\) or null, got -4.0"),
        ("stats_clip", float("nan"), r"expected a number in \(0, inf\) or null, got nan"),
        ("stats_clip", True, r"expected a number in \(0, inf\) or null, got True"),
        ("epochs", 1.5, "expected an integer, got 1.5"),
        ("epochs", True, "expected an integer, got True"),
        ("epochs", 0, "expected at least 1, got 0"),
        ("use_gpu", 1, "expected true or false, got 1"),
        ("mlp_hidden_size", 64, r"expected a list, got 64; write --mlp_hidden_size=\[64\]"),
        ("mlp_hidden_size", [64, "x"], "expected a list of an integer, got 'x' in it"),
        ("threshold", 4, "expected a mapping or null, got 4"),
        ("checkpoint_dir", 3, "expected a text, got 3"),
        ("learner", "adm", r"expected one of adam.*did you mean 'adam'"),
        ("inject", "group_idd", "expected a list of any of group_id, .*got .*group_idd"),
        ("gauc_weighting", "clicks", "expected one of impressions, positives, uniform"),
    ],
)
def test_wrong_values_are_named(key: str, value: object, message: str) -> None:
    refused(f"^{key}: {message}", cli={key: value})


def test_values_in_their_accepted_forms() -> None:
    config = build(
        config_dict={
            "learning_rate": "0.01",  # RecBole's users write texts
            "mlp_hidden_size": "[64, 32]",
            "weight_decay": 0,
            "clip_grad_norm": None,
            "train_neg_sample_args": "None",
            "metrics": "AUC,LogLoss",
            "valid_metric": "AUC",
            "inject": "group_id,group_seq",
        }
    )
    assert config["learning_rate"] == 0.01
    assert config["mlp_hidden_size"] == [64, 32]
    assert config["metrics"] == ["AUC", "LogLoss"]
    assert config["inject"] == ["group_id", "group_seq"]
    assert config["train_neg_sample_args"]["distribution"] == "none"


def test_files_that_are_not_configurations(tmp_path: Path) -> None:
    refused("config file .*No such file", config_file_list=[tmp_path / "none.yaml"])
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\n")
    refused("bad.yaml: not YAML", config_file_list=[bad])
    bad.write_text("- 1\n")
    refused("expected 'key: value' lines, got list", config_file_list=[bad])


# --- evaluation ----------------------------------------------------------------------------------


def test_gauc_stands_beside_auc_and_registries_stay() -> None:
    from recbole.config import configurator
    from recbole.evaluator import metric_types

    before = dict(metric_types)
    config = build(cli={"metrics": ["AUC", "GAUC", "LogLoss"]})
    assert config["metrics"] == ["AUC", "GAUC", "LogLoss"]
    assert config["eval_type"] == EvaluatorType.VALUE
    assert config["valid_metric_bigger"] is True
    assert metric_types == before == configurator.metric_types
    losses = build(cli={"metrics": ["GAUC", "LogLoss"], "valid_metric": "LogLoss"})
    assert losses["valid_metric_bigger"] is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"metrics": ["AUC", "NDCG"]},
            "NDCG ranks candidates, but this package evaluates labelled",
        ),
        ({"metrics": ["AUCC"]}, "no metric named 'AUCC'.*did you mean 'AUC'"),
        ({"metrics": []}, "expected at least one"),
        ({"metrics": ["AUC"]}, "valid_metric: expected one of metrics"),
        ({"eval_args": {"mode": "full"}}, "mode: expected labeled.*labelled rows"),
        ({"eval_args": {"mode": {"valid": "labeled", "test": "uni100"}}}, "expected labeled"),
        ({"eval_args": {"order": "XX"}}, "order: expected RO or TO"),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "expected null.*labelled rows"),
    ],
)
def test_other_evaluations_are_refused(values: dict, message: str) -> None:
    refused(message, config_dict=values)


# --- device and processes ------------------------------------------------------------------------


def test_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    config = build(cli={"gpu_id": "0,1"})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert config["gpu_id"] == "0,1"


def test_a_gpu_that_is_asked_for_and_not_there_is_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = "gpu_id=3: torch sees no CUDA device here, the run is on the CPU"
    for values, expected in (({"gpu_id": 3}, [said]), ({}, []), ({"gpu_id": ""}, [])):
        caplog.clear()
        assert str(build(config_dict=values)["device"]) == "cpu"
        assert [r.message for r in caplog.records if "CUDA" in r.message] == expected


def test_devices_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def device(**values: object) -> str:
        return str(build(config_dict=values)["device"])

    assert device() == "cuda:0"
    assert device(gpu_id=2) == "cuda:2"
    assert device(gpu_id="3,1", nproc=2, local_rank=1) == "cuda:1"
    assert device(nproc=2, local_rank=1) == "cuda:1"
    assert device(use_gpu=False) == "cpu"
    assert device(gpu_id="") == "cpu"
    refused("expected below 4", config_dict={"gpu_id": 7})
    refused("expected 2 GPUs for nproc=2, got 1", config_dict={"gpu_id": "1", "nproc": 2})
    refused("gpu_id: expected numbers", config_dict={"gpu_id": "zero"})


def test_rank_keys_are_accepted_and_nothing_distributed_starts() -> None:
    ranks = {"local_rank": 1, "world_size": 2, "offset": 0, "ip": "localhost", "port": 5678}
    config = build(config_dict={**ranks, "nproc": 2, "use_gpu": False})
    assert config["single_spec"] is True
    assert config["local_rank"] == 1
    assert config["show_progress"] is False
    assert not torch.distributed.is_initialized()
    assert build()["local_rank"] == 0


# --- forms ---------------------------------------------------------------------------------------


def test_pickle_and_plain() -> None:
    config = build(cli=parse_cli(["--semantic.input=behaviour"]))
    again = pickle.loads(pickle.dumps(config))
    plain = config.plain()
    assert again.plain() == plain
    assert again.model_class is config.model_class
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["eval_type"] == "VALUE"
    assert plain["device"] in ("cpu", "cuda:0")
    assert "learning_rate" in str(config)


def test_deepfm_of_recbole_learns_from_this_configuration() -> None:
    from recbole.data.dataset import Dataset

    config = build(cli={"use_gpu": False})
    data = Dataset(config)
    data._change_feat_format()
    torch.manual_seed(0)
    model = config.model_class(config, data)
    batch = data.join(data.inter_feat[:512])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] < 1.0
    assert model.predict(batch).shape == (512,)


# --- the command line ----------------------------------------------------------------------------


def test_command_line_values() -> None:
    assert parse_cli(
        [
            "--learning_rate=1e-3",
            "--epochs=5",
            "--use_gpu=False",
            "--mlp_hidden_size=[64,32]",
            "--threshold={'rating': 4}",
            "--train_neg_sample_args=None",
            '--val_interval={"rating": "[0,3);(3,inf)"}',
            "--title_field=a=b",
            "--semantic.input=behaviour",
            "--semantic.n_levels=3",
        ]
    ) == {
        "learning_rate": 0.001,
        "epochs": 5,
        "use_gpu": False,
        "mlp_hidden_size": [64, 32],
        "threshold": {"rating": 4},
        "train_neg_sample_args": None,
        "val_interval": {"rating": "[0,3);(3,inf)"},
        "title_field": "a=b",
        "semantic": {"input": "behaviour", "n_levels": 3},
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["stray"], "expected --key=value, got 'stray'"),
        (["--flag"], "got '--flag'; write --flag=true"),
        (["-x=1"], "expected --key=value, got '-x=1'"),
        (["--=1"], "expected --key=value"),
        (["--a=1", "--a=2"], "--a is given twice, as 1 and 2"),
        (["--a.b=1", "--a.b=2"], "--a.b is given twice"),
        (["--a=1", "--a.b=2"], "--a.b needs a mapping in --a, got 1"),
        (["--a=[1"], r"--a: expected a YAML value, got '\[1'"),
        (["--a=!!python/name:os.system"], "expected a YAML value"),
    ],
)
def test_command_lines_that_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_cli(argv)
    assert "\n" not in str(caught.value)


def test_the_same_key_with_the_same_value_is_fine() -> None:
    assert parse_cli(["--a=1", "--a=1"]) == {"a": 1}
    with pytest.raises(ConfigError, match="given twice"):
        parse_cli(["--a=1", "--a=true"])


@given(
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(st.integers()),
    )
)
def test_every_number_survives_the_command_line(value: object) -> None:
    got = parse_cli([f"--key={value!r}"])["key"]
    assert got == value
    assert type(got) is type(value)
