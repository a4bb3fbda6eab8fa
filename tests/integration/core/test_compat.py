"""RecBole on today's stack: each test fails when its remedy is taken away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset
from recbole.utils import FeatureType

import recbole_choir
from recbole_choir.integration import ChoirConfig, compat


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, "--epochs=77", "stray"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tiny(tiny_values: dict, **changes: object) -> Dataset:
    return Dataset(ChoirConfig("DeepFM", "tiny", config_dict={**tiny_values, **changes}))


def of(feat: pd.DataFrame, dataset: Dataset, field: str, token: str) -> pd.Series:
    return feat[feat[field] == dataset.field2token_id[field][token]].iloc[0]


def test_row_1_a_run_imports_neither_ray_nor_recbole_quick_start() -> None:
    code = """
import sys
import recbole_choir, recbole.trainer
from recbole_choir.integration import ChoirConfig
from recbole.data.dataset import Dataset
config = ChoirConfig("DeepFM", "ml-100k", cli={"use_gpu": False})
data = Dataset(config)
data._change_feat_format()
model = config.model_class(config, data)
loss = model.calculate_loss(data.join(data.inter_feat[:256]))
loss.backward()
print(float(loss) > 0, [m for m in sys.modules if m.split(".")[0] == "ray"],
      "recbole.quick_start" in sys.modules)
"""
    assert run_python(code).splitlines()[-1] == "True [] False"


def test_row_2_recboles_own_config_works_and_numpy_stays_as_it_was() -> None:
    code = """
import sys
import numpy as np
names = ("bool", "int", "float", "complex", "object", "str", "long", "unicode", "float_")
# hasattr warns about np.bool and the like on numpy 1.26
import warnings; warnings.simplefilter("ignore")
before = [hasattr(np, n) for n in names]
import recbole_choir
from recbole.config import Config
sys.argv = ["run.py"]
config = Config(model="FFM", dataset="ml-100k")
print(config["model"], before == [hasattr(np, n) for n in names])
"""
    assert run_python(code).splitlines()[-1] == "FFM True"


def test_row_2_recboles_modules_see_the_aliases() -> None:
    from recbole.data import interaction
    from recbole.model import abstract_recommender

    assert interaction.np.float is np.float64
    assert abstract_recommender.np.long is np.int64
    assert interaction.np.ndarray is np.ndarray
    batch = interaction.Interaction({"x": np.array([0.5, 1.5])})
    assert batch["x"].tolist() == [0.5, 1.5]


def test_rows_4_and_5_sequences_keep_their_rows(tiny_values: dict) -> None:
    dataset = tiny(tiny_values, normalize_all=True)
    tokens = dataset.field2id_token["tags"]
    first, second = (of(dataset.item_feat, dataset, "item_id", i) for i in ("i1", "i2"))
    assert [tokens[t] for t in first["tags"]] == ["a", "b"]
    assert list(second["tags"]) == []
    # min-max over 0, 10, 5
    assert list(first["vec"]) == [0.0, 1.0]
    assert list(second["vec"]) == [0.5]


def test_row_4_discretized_sequences(tiny_values: dict) -> None:
    dataset = tiny(
        tiny_values,
        numerical_features=["vec"],
        discretization={"vec": {"method": "ED", "bucket": 2}},
    )
    first, second = (of(dataset.item_feat, dataset, "item_id", i) for i in ("i1", "i2"))
    # buckets of width 5 over [0, 10]: floor((x - 0) * 2 / 10 + 1)
    assert [list(map(float, part)) for part in first["vec"]] == [[1.0, 1.0], [1.0, 2.0]]
    assert [list(map(float, part)) for part in second["vec"]] == [[1.0], [1.0]]


def test_row_4_numerical_sequences_without_buckets(tiny_values: dict) -> None:
    dataset = tiny(tiny_values, numerical_features=["vec"])
    first = of(dataset.item_feat, dataset, "item_id", "i1")
    assert [len(part) for part in first["vec"]] == [2, 2]


def test_row_4_knowledge_graph_ids() -> None:
    feat = pd.DataFrame({"e": [np.array([1, 2]), np.array([2])]})
    stub = SimpleNamespace(
        field2id_token={},
        field2token_id={},
        field2feats=lambda field: [feat],
        field2type={"e": FeatureType.TOKEN_SEQ},
    )
    KnowledgeBasedDataset._reset_ent_remapID(stub, "e", np.array([0, 20, 10]), None, None)
    assert [list(x) for x in feat["e"]] == [[20, 10], [10]]


def test_row_4_sequence_lengths_of_benchmark_files() -> None:
    feat = pd.DataFrame({"item_id": [1, 2], "item_id_list": [np.array([1, 2, 3]), np.array([1])]})
    stub = SimpleNamespace(
        config={"LIST_SUFFIX": "_list"},
        inter_feat=feat,
        item_list_length_field="item_length",
        item_id_list_field="item_id_list",
        set_field_property=lambda *args: None,
    )
    SequentialDataset._benchmark_presets(stub)
    assert feat["item_length"].tolist() == [3, 1]


def test_row_6_missing_tokens_become_padding(tiny_values: dict) -> None:
    dataset = tiny(tiny_values)
    u1 = of(dataset.user_feat, dataset, "user_id", "u1")
    u3 = of(dataset.user_feat, dataset, "user_id", "u3")
    assert u3["age"] == 0
    assert dataset.field2id_token["age"][int(u1["age"])] == "young"
    dataset._change_feat_format()
    assert dataset.user_feat["age"].tolist() == [0, 1, 2, 0]


def test_row_7_missing_floats_become_the_mean(tiny_values: dict) -> None:
    dataset = tiny(tiny_values)
    assert dataset.user_feat["height"].tolist()[1:] == [160.0, 180.0, 170.0]
    # The missing rating is the mean, 4, and so a positive; unremedied it is NaN and labelled 0.
    assert dataset.inter_feat["label"].tolist() == [1, 1, 0, 1, 1]


def test_row_7_normalisation_stays_finite(tiny_values: dict) -> None:
    dataset = tiny(tiny_values, normalize_all=True)
    assert dataset.user_feat["height"].tolist()[1:] == [0.0, 1.0, 0.5]


def test_row_8_adjacency_of_lightgcn() -> None:
    from recbole.model.general_recommender.lightgcn import LightGCN

    stub = SimpleNamespace(
        n_users=2, n_items=2, interaction_matrix=sp.coo_matrix(np.array([[1.0, 0], [1.0, 1.0]]))
    )
    dense = LightGCN.get_norm_adj_mat(stub).to_dense()
    # 1 / sqrt(deg(u) deg(i)); degrees: u0 1, u1 2, i0 2, i1 1
    half = torch.tensor([[2**-0.5, 0.0], [0.5, 2**-0.5]])
    expected = torch.zeros(4, 4)
    expected[:2, 2:], expected[2:, :2] = half, half.T
    torch.testing.assert_close(dense, expected, atol=1e-6, rtol=0)


def test_apply_twice_changes_nothing() -> None:
    before = (Dataset._fill_nan, Dataset._remap, sp.dok_matrix._update)
    compat.apply()
    assert before == (Dataset._fill_nan, Dataset._remap, sp.dok_matrix._update)


def test_rewritten_methods_report_recboles_own_lines() -> None:
    code = Dataset._fill_nan.__code__
    assert code.co_filename.endswith("dataset.py")
    lines = Path(code.co_filename).read_text().splitlines()
    assert "def _fill_nan" in lines[code.co_firstlineno - 1]


def test_another_recbole_is_refused() -> None:
    with pytest.raises(ImportError, match=r"expected 3 pandas idioms, found 0.*1\.2\.1"):
        compat._rewritten(run_python, 3)


def test_the_parts_without_recbole_import_without_it() -> None:
    code = """
import importlib.machinery, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "recbole":
            raise ModuleNotFoundError(name, name="recbole")
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name == "recbole" else find(name, package))
sys.meta_path.insert(0, Hide())
import recbole_choir.errors, recbole_choir.semantic.frames.frames, recbole_choir.dataset_adapters
try:
    import recbole_choir.integration
except ImportError as error:
    print(error)
"""
    message = run_python(code).splitlines()[-1]
    assert "pip install --no-deps recbole==1.2.1" in message


def test_everything_but_the_trees_works_without_their_libraries() -> None:
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightgbm", "xgboost"):
            raise ModuleNotFoundError(name, name=name)
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name in ("lightgbm", "xgboost") else find(name, package))
sys.meta_path.insert(0, Hide())
from recbole_choir.errors import ConfigError
from recbole_choir.integration import get_trainer, ChoirConfig, known_models
assert {"ChoirRec", "DeepFM", "LightGBM"} <= set(known_models())
print(get_trainer(ChoirConfig(model="ChoirRec", dataset="ml-100k")).__name__)
try:
    ChoirConfig(model="LightGBM", dataset="ml-100k")
except ConfigError as error:
    print(error)
"""
    trainer, message = run_python(code).splitlines()[-2:]
    assert trainer == "ChoirTrainer"
    assert "got no lightgbm and no xgboost: pip install 'recbole-choir[trees]'" in message


def test_dataset_adapters_are_part_of_the_package() -> None:
    import importlib

    module = importlib.import_module("recbole_choir.dataset_adapters")
    assert module.__name__ == "recbole_choir.dataset_adapters"
    assert recbole_choir.__version__


def test_import_leaves_anomaly_detection_off() -> None:
    """RecBole's SINE turns it on for the whole process, which slows every backward pass."""
    code = "import torch, recbole_choir; raise SystemExit(int(torch.is_anomaly_enabled()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
