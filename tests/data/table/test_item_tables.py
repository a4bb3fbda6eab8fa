"""Items of a semantic table: every mismatch is one line, everything lands at the right id."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recbole_choir.data.table.item_tables import ItemTables
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError
from recbole_choir.table_format import fingerprint_ids

Writer = Callable[..., Path]
TOKENS = np.array(["[PAD]", "i3", "i1", "i2"])


def join(folder: Path, tokens: Any = TOKENS) -> ItemTables:
    return ItemTables.join(SemanticTable.load(folder), tokens)


def test_everything_lands_at_the_datasets_own_ids(write_items: Writer) -> None:
    items = join(write_items())
    # Clusters by snapshot and group id: 1: 0-1, 1; 2: 0-1, 2.
    assert items.item_cluster.tolist() == [[0, 0, 0, 0], [0, 0, 2, 1], [0, 0, 4, 3]]
    assert items.n_clusters == 5
    assert items.item_codes[0].abs().sum() == 0
    assert items.item_codes[1].tolist() == [[0, 0], [0, 0], [2, 1], [1, 2]]
    assert items.item_codes[2].tolist() == [[0, 0], [0, 0], [3, 1], [1, 2]]
    assert items.n_codes == [3, 2]
    assert items.item_vector.tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 1, 2]]
    assert items.vectors.tolist() == [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [0.5, 0.0, -1.0]]
    for tensor in (items.item_cluster, items.item_codes, items.item_vector):
        assert tensor.dtype == torch.int32
    assert items.vectors.dtype == torch.float32


def test_lookups_of_a_batch(write_items: Writer) -> None:
    items = join(write_items())
    snapshot, item = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 3, 2, 1])
    assert items.cluster_of(snapshot, item).tolist() == [0, 1, 4, 0]
    assert items.codes_of(snapshot, item).tolist() == [[0, 0], [1, 2], [3, 1], [0, 0]]
    assert items.vector_of(snapshot, item).tolist()[1:3] == [[0.5, 0.0, -1.0], [1.0, 2.0, 3.0]]
    history = torch.tensor([[2, 3, 0], [0, 0, 0], [1, 2, 3], [0, 0, 0]])
    assert items.codes_of(snapshot[:, None], history).shape == (4, 3, 2)
    assert items.vector_of(snapshot[:, None], history)[2].tolist() == [
        [0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [0.5, 0.0, -1.0],
    ]  # fmt: skip


def test_the_order_of_the_files_rows_does_not_matter(write_items: Writer) -> None:
    one = join(write_items())
    turned = {k: v[::-1] for k, v in ITEMS_AS_WRITTEN.items()}
    two = join(write_items(items=turned))
    for name in ("item_cluster", "item_codes", "item_vector", "vectors"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


ITEMS_AS_WRITTEN = {
    "snapshot": [2, 1, 1, 2, 2],
    "item_id": ["i2", "i1", "i2", "i1", "i3"],
    "code_1": [0, 1, 0, 2, -1],
    "code_2": [1, 0, 1, 0, -1],
    "group_id": ["0-1", "1", "0-1", "2", None],
    "vector": [1, 0, 1, 0, -1],
}


def test_moving_keeps_everything(write_items: Writer) -> None:
    items = join(write_items())
    moved = items.to("cpu")
    assert torch.equal(moved.vectors, items.vectors)
    assert (moved.n_codes, moved.n_clusters) == ([3, 2], 5)
    assert moved.counts == items.counts


def test_items_that_the_table_lacks_are_counted(
    write_items: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "recbole_choir"):
        items = join(write_items(), np.append(TOKENS, ["i8", "i9"]))
    assert items.item_cluster[:, 4:].tolist() == [[0, 0]] * 3
    assert items.counts == {
        "items_without_row": 2, "items_without_cluster": 3, "items_without_vector": 3,
    }  # fmt: skip
    assert "of 5 items 3 have no cluster and 3 no vector in any snapshot (2 are not" in caplog.text


def test_unknown_items_are_errors_with_examples(write_items: Writer) -> None:
    with pytest.raises(
        TableError, match=r"1 items of the table are not among the dataset's 2, such as 'i3'"
    ):
        join(write_items(), np.array(["[PAD]", "i1", "i2"]))


def test_a_table_of_other_items_names_both_sides(write_items: Writer) -> None:
    stamp = {"items": {"rows": 3, "fingerprint": fingerprint_ids(TOKENS[1:])}}
    join(write_items(inputs=stamp))
    with pytest.raises(TableError, match=r"made for 3 items .* the dataset has 4 items") as caught:
        join(write_items(inputs=stamp), np.append(TOKENS, ["i9"]))
    assert "\n" not in str(caught.value)


def test_a_table_without_items_says_which_recipe_makes_them(write_table: Writer) -> None:
    assert SemanticTable.load(write_table()).items is None
    with pytest.raises(TableError, match=r"items.parquet\), found none; .* semantic_recipe: akt"):
        join(write_table())


def test_a_table_without_vectors(write_items: Writer) -> None:
    items = join(write_items(items={"vector": [-1] * 5}, vectors=None))
    assert items.vectors.shape == (1, 0)
    assert items.item_vector.abs().sum() == 0


def test_half_precision_is_read(write_items: Writer) -> None:
    vectors = np.array([[1, 2], [3, 4]], dtype=np.float16)
    items = join(write_items(vectors=vectors))
    assert items.vectors.tolist() == [[0, 0], [1, 2], [3, 4]]
    assert items.vectors.dtype == torch.float32


def test_items_belong_to_the_fingerprint_of_a_table_without_one(write_items: Writer) -> None:
    first = SemanticTable.load(write_items()).fingerprint
    assert SemanticTable.load(write_items()).fingerprint == first
    changed = SemanticTable.load(write_items(items={"code_1": [0, 1, 0, 1, -1]})).fingerprint
    moved = SemanticTable.load(write_items(vectors=np.ones((2, 3), np.float32))).fingerprint
    assert len({first, changed, moved}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_n_clusters": [3]}, "one positive item_n_clusters for each of item_n_levels"),
        ({"item_n_clusters": None}, "one positive item_n_clusters .* got item_n_clusters=None"),
        ({"item_n_clusters": [2, 2]}, "items.parquet: expected code_1 from -1 to 1, got 2 in 1"),
        ({"items": {"code_2": [1, 0, 1, -2, -1]}}, "expected code_2 from -1 to 1, got -2"),
        ({"items": {"code_2": None}}, "items.parquet: expected a column 'code_2'"),
        ({"items": {"vector": None}}, "items.parquet: expected a column 'vector'"),
        ({"items": {"snapshot": [2, 1, 1, 2, 3]}}, "items: expected snapshots 1 to 2, got 3"),
        ({"items": {"snapshot": [2, 0, 1, 2, 2]}}, "items: expected snapshots 1 to 2, got 0"),
        (
            {"items": {"item_id": ["i2", "i1", "i1", "i1", "i3"]}},
            "items: expected one row a snapshot and item_id, got 1 twice, such as 'i1' in snap",
        ),
        ({"items": {"vector": [1, 0, 1, 2, -1]}}, "expected vector from -1 to 1, got 2 in 1 rows"),
        ({"items": {"vector": [1, 0, -2, 0, -1]}}, "expected vector from -1 to 1, got -2 in 1"),
        (
            {"items": {"vector": pa.array([0.5] * 5)}},
            "expected whole numbers in column 'vector', got double",
        ),
        ({"items": {"group_id": [1, 2, 3, 4, 5]}}, "expected text in column 'group_id'"),
        ({"sizes": {"items": 4}}, "the manifest says 4 rows of items, got 5"),
        ({"sizes": {"items": 5, "item_vectors": 3}}, "says 3 rows of item_vectors, got 2"),
        ({"vectors": None}, "expected a file item_vectors.npy, which 4 rows .*, found none"),
        (
            {"vectors": np.array([[1, 2], [np.nan, 1]], np.float32)},
            "expected finite vectors, got 1 with NaN or infinity, such as row 1",
        ),
        ({"vectors": np.array([[1, 2], [3, 4]])}, r"expected float vectors .*, got int64 \[2, 2\]"),
        ({"vectors": np.ones(4, np.float32)}, r"expected float vectors .*, got float32 \[4\]"),
    ],
)
def test_damaged_tables(write_items: Writer, change: dict[str, Any], message: str) -> None:
    folder = write_items(**change)
    with pytest.raises(TableError, match=message) as caught:
        SemanticTable.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["items.parquet", "item_vectors.npy"])
def test_missing_and_torn_files(write_items: Writer, name: str) -> None:
    path = write_items() / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TableError, match="not a readable"):
        SemanticTable.load(path.parent)
    path.unlink()
    with pytest.raises(TableError, match=f"expected a file {name}.*found none"):
        SemanticTable.load(path.parent)


def test_pickled_vectors_are_not_run(write_items: Writer) -> None:
    path = write_items() / "item_vectors.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(TableError, match="not a readable array"):
        SemanticTable.load(path.parent)


def test_vectors_are_stored_once_however_many_items(write_items: Writer) -> None:
    many = np.concatenate([TOKENS, np.array([f"v{i}" for i in range(500)])])
    assert join(write_items(), many).vectors.shape == (3, 3)
