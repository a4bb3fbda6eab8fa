"""The key own_data: files of a user's own become a dataset that models read, by one YAML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.errors import DataError
from recbole_choir.integration.config import ChoirConfig
from recbole_choir.integration.dataset import create_dataset

MAPPING = """
own_data:
  interactions:
    files: clicks.csv
    user: who
    item: what
    time: when
    label: bought
    context: [device]
    query: asked
  items:
    files: items.csv
    id: what
    attributes: [maker]
    text: [name]
    category: {column: path, separator: ">"}
user_attr_fields: []
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        f"u{rng.integers(6)},i{rng.integers(5)},{t},{rng.integers(2)},d{t % 2},red shoes\n"
        for t in range(120)
    ]
    (tmp_path / "clicks.csv").write_text("who,what,when,bought,device,asked\n" + "".join(rows))
    items = "".join(f"i{k},Item {k},m{k % 2},a>b{k}\n" for k in range(5))
    (tmp_path / "items.csv").write_text("what,name,maker,path\n" + items)
    (tmp_path / "mine.yaml").write_text(MAPPING)
    return tmp_path


def config_of(folder: Path, model: str = "Base", **values: object) -> ChoirConfig:
    return ChoirConfig(
        model=model,
        dataset="mine",
        config_file_list=[folder / "mine.yaml"],
        config_dict={"raw_data_path": str(folder), "data_path": str(folder / "data"), **values},
    )


@pytest.mark.parametrize("model", ["Base", "FM"])
def test_a_mapping_makes_a_dataset(folder: Path, model: str) -> None:
    config = config_of(folder, model)
    assert ensure_atomic_files(config) == folder / "data" / "mine"
    dataset = create_dataset(config)
    dataset.build()
    schema = dataset.model_inputs.schema
    assert [(f.name, f.kind) for f in schema.item_attrs] == [("maker", "token")]
    assert [(f.name, f.kind) for f in schema.contexts] == [
        ("device", "token"),
        ("asked", "token_seq"),
    ]
    assert dataset.split_sizes() == {"train": 96, "valid": 12, "test": 12}
    items = dataset.semantic_frames()[2].set_index("item_id")
    assert items.loc["i3", "title"] == "Item 3"
    assert items.loc["i3", "category"] == ["a", "b3"]


def test_other_keys_of_the_yaml_and_the_command_line_win(folder: Path) -> None:
    config = config_of(folder, context_fields=["device"], item_attr_fields=["path", "maker"])
    assert config["context_fields"] == ["device"]
    assert config["item_attr_fields"] == ["path", "maker"]
    assert config["category_field"] == "path"


def test_messages_reach_the_user(folder: Path) -> None:
    (folder / "mine.yaml").write_text(MAPPING.replace("item: what", "itm: what"))
    with pytest.raises(DataError, match=r"own_data.interactions: no key 'itm'"):
        config_of(folder)
    (folder / "mine.yaml").write_text(MAPPING.replace("clicks.csv", "click.csv"))
    with pytest.raises(DataError, match=r"no file 'click.csv'"):
        ensure_atomic_files(config_of(folder))


def test_without_a_mapping_the_name_stays_unknown(folder: Path) -> None:
    (folder / "mine.yaml").write_text("epochs: 1\n")
    with pytest.raises(ValueError, match=r"no dataset named 'mine'"):
        config_of(folder)
