"""Configuration keys: each wrong value in one line, all of them at once, before a file is read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import Door, write_dataset

import recbole_choir
from recbole_choir.errors import ConfigError
from recbole_choir.settings import recbole_keys
from recbole_choir.settings.complete import check
from recbole_choir.settings.layers import parse_value

ROOT = Path(recbole_choir.__file__).parents[1]
CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "config_cases.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES, ids=[str(c["keys"]) for c in CASES])
def test_a_wrong_value_is_one_line(run_small: Door, tmp_path: Path, case: dict[str, Any]) -> None:
    write_dataset(tmp_path, inter="never read")
    line = run_small(**case["keys"]).line
    assert case["line"].replace("at most N", f"at most {os.cpu_count()}") in line


#: Keys of RecBole's own models and trees, for which this package has no class.
THEIRS = [
    ("DeepFM", "embedding_size", "0", "expected a number in [1, 65536], got 0"),
    ("DeepFM", "embedding_size", "1000000000000", "expected a number in [1, 65536], got 1000000"),
    ("DeepFM", "mlp_hidden_size", "[128,0]", "expected a number in [1, 65536], got 0"),
    ("DeepFM", "mlp_hidden_size", "[a]", "expected a list of an integer, got 'a' in it"),
    ("DeepFM", "dropout_prob", "1", "expected a number in [0, 1), got 1"),
    ("DeepFM", "dropout_prob", "-0.1", "expected a number in [0, 1), got -0.1"),
    ("DeepFM", "weight_decay", "-1", "expected at least 0, got -1"),
    ("AutoInt", "num_heads", "0", "expected a number in [1, 1024], got 0"),
    ("AutoInt", "n_layers", "-2", "expected a number in [1, 1000], got -2"),
    ("AutoInt", "dropout_probs", "[0.2,0.2,1.5]", "expected a number in [0, 1), got 1.5"),
    ("AFM", "attention_size", "0", "expected a number in [1, 65536], got 0"),
    ("AFM", "reg_weight", "-3", "expected at least 0, got -3"),
    ("DCNV2", "cross_layer_num", "0", "expected a number in [1, 1000], got 0"),
    ("DCNV2", "expert_num", "0", "expected a number in [1, 1024], got 0"),
    ("DCNV2", "low_rank", "0", "expected a number in [1, 65536], got 0"),
    ("xDeepFM", "cin_layer_size", "[0]", "expected a number in [1, 65536], got 0"),
    ("FiGNN", "attn_dropout_prob", "1", "expected a number in [0, 1), got 1"),
    ("FiGNN", "hidden_dropout_prob", ".nan", "expected a number in [0, 1), got nan"),
    ("KD_DAGFM", "teacher", "Foo", "expected one of CrossNet, CIN, got 'Foo'"),
    ("LightGBM", "lgb_num_boost_round", "0", "expected at least 1, got 0"),
    ("LightGBM", "lgb_early_stopping_rounds", "-1", "expected at least 1, got -1"),
    ("XGBoost", "xgb_num_boost_round", "-1", "expected at least 1, got -1"),
    ("XGBoost", "xgb_nthread", "0", "expected at least 1, got 0"),
    ("XGBoost", "xgb_params", "7", "expected a mapping, got 7"),
]


@pytest.mark.parametrize(("model", "key", "value", "message"), THEIRS)
def test_keys_of_recboles_models(
    run_small: Door, tmp_path: Path, model: str, key: str, value: str, message: str
) -> None:
    write_dataset(tmp_path, inter="never read")
    line = run_small(model=model, **{key: value}).line
    assert f"{key}: {message}" in line


def test_all_at_once(run_small: Door, tmp_path: Path) -> None:
    write_dataset(tmp_path, inter="never read")
    line = run_small(
        seed=-1,
        epochs=0,
        nproc=99999,
        clip_grad_norm="{max_norm: -1}",
        load_col__usr="[a]",
        TIME_FIELD="when",
        semantic__n_levels=0,
        resume="/nosuch",
        nosuch=1,
    ).line
    assert "9 settings are wrong: " in line
    named = re.findall(r"(?:wrong: |; )([\w. ]+): ", line)
    assert sorted(named) == [
        "clip_grad_norm.max_norm",
        "epochs",
        "load_col.inter",
        "load_col.usr",
        "nosuch",
        "nproc",
        "recipe embedded.yaml.n_levels",
        "resume",
        "seed",
    ]


def test_a_refusal_comes_at_once_and_starts_no_process(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.yaml"
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    bomb.write_text("\n".join(levels) + "\n")
    program = "import sys; from recbole_choir.cli import main; sys.exit(main(sys.argv[1:]))"
    for words in (["--nproc=99999", "--seed=-1"], ["--config_files=bomb.yaml"]):
        start = os.times().children_user
        done = subprocess.run(
            [sys.executable, "-c", program, "--model=Base", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        # seconds of the processor, so that a busy machine changes nothing
        assert os.times().children_user - start < 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bomb.yaml"]


NUMBERS = st.one_of(
    st.integers(max_value=-1),
    st.floats(max_value=-1e-9, allow_nan=False),
    st.just(float("nan")),
    st.just(float("inf")),
    st.booleans(),
    st.text("abc", min_size=1),
    st.lists(st.integers(max_value=-1), min_size=1, max_size=2),
    st.dictionaries(st.text("ab", min_size=1), st.integers(), max_size=2),
)
POSITIVE = sorted(k for k, r in recbole_keys.RANGES.items() if not r.startswith("(-inf"))


@given(st.sampled_from(POSITIVE), NUMBERS)
@settings(max_examples=40, deadline=None)
def test_no_negative_number_or_other_type_passes_a_range(key: str, value: Any) -> None:
    models = ("DeepFM", "AutoInt", "AFM", "DCNV2", "xDeepFM", "FiGNN", "KD_DAGFM", "LightGBM")
    having = [m for m in (*models, "XGBoost") if key in recbole_keys.defaults(m, "ml-100k")]
    with pytest.raises(ConfigError) as caught:
        check([*having, "DeepFM"][0], "ml-100k", cli={key: value})
    lines = [x for x in caught.value.problems if x.startswith(f"{key}: ")]
    assert len(lines) >= 1
    assert "expected" in lines[0] or "no such" in lines[0] or "does not read" in lines[0]


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    said = ""
    try:
        parse_value(text, "key")
    except ConfigError as error:
        said = str(error)
    assert said == "" or said.startswith("key: expected a YAML value")
    assert "\n" not in said
