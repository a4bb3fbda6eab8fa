"""Soft groups in a semantic table: what is written is read, and a damaged part is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_choir.data.table.own_scores import OwnVectors
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.data.table.soft_groups import SoftGroups
from recbole_choir.errors import TableError
from recbole_choir.semantic import build, load_recipe, table_key
from recbole_choir.semantic.frames.canonical import canonical_frames
from recbole_choir.semantic.soft.groups import soft_groups
from recbole_choir.semantic.table.writer import is_whole, read_manifest

DAY = 86_400.0
TIMES = [40 * DAY, 90 * DAY]
RECIPE: dict[str, Any] = {
    "input": "random",
    "n_levels": 1,
    "n_clusters": 2,
    "min_members": 2,
    "snapshot_times": TIMES,
    "soft": {"min_purchases": 3, "svd_dim": 4, "k": 5, "n_prototypes": 3, "own_vectors": True},
}


def make_frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    user, n = rng.integers(0, 14, 400), 400
    interactions = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in user],
            "item_id": [f"i{i:02d}" for i in rng.integers(0, 6, n) + 6 * (user % 2)],
            "timestamp": rng.integers(0, 120, n) * DAY,
            "label": (rng.random(n) < 0.7).astype(int),
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in range(16)],
            "job": ["a" if u % 2 else "b" for u in range(16)],
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"i{i:02d}" for i in range(12)],
            "category": ["x" if i < 6 else "y" for i in range(12)],
        }
    )
    return interactions, users, items


FRAMES = make_frames()
TOKENS = ["[PAD]", *(f"u{u:02d}" for u in reversed(range(16)))]  # another order than the table's
ITEM_TOKENS = ["[PAD]", *(f"i{i:02d}" for i in reversed(range(12)))]


def recipe(**soft: Any) -> dict[str, Any]:
    return {**RECIPE, "soft": {**RECIPE["soft"], **soft}}


@pytest.fixture(scope="module", params=["neighbours", "prototypes", "factors"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def table(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("soft") / kind
    return build(*FRAMES, recipe(kind=kind), out, show_progress=False)


def test_what_is_written_is_read_in_the_datasets_ids(table: Path, kind: str) -> None:
    content = soft_groups(
        canonical_frames(*FRAMES), np.array(TIMES), load_recipe(recipe(kind=kind)),
        show_progress=False,
    )  # fmt: skip
    read = SemanticTable.load(table)
    assert read.soft is not None
    groups = SoftGroups.join(read.soft, read, TOKENS)
    assert groups.kind == kind
    order = np.arange(16, 0, -1)  # internal id of u00, u01, ..
    for got, made in zip(groups.weights, content.weights):
        want = made.toarray()
        part = got.toarray()[order]
        part = part[:, order] if kind == "neighbours" else part
        np.testing.assert_array_equal(part, want.astype(np.float64))
        assert not got[0].nnz  # the padding user has nobody
    (first, second) = OwnVectors.join(read.soft, read, TOKENS, ITEM_TOKENS)
    assert (first.space, second.space) == ("category", "items")
    users, items = content.spaces["items"][1]
    width = users.shape[1]
    np.testing.assert_array_equal(second.users[2][order][:, :width], users)
    np.testing.assert_array_equal(second.items[2][np.arange(12, 0, -1)][:, :width], items)
    assert not second.users[0].any()  # no snapshot, no vector


def test_the_manifest_says_it(table: Path, kind: str) -> None:
    manifest = read_manifest(table)
    assert manifest["soft"]["kind"] == kind
    assert manifest["sizes"]["soft"] == pq.read_metadata(table / "soft.parquet").num_rows
    assert {"soft.parquet", "soft_vectors.parquet"} <= set(manifest["files"])
    assert [s["snapshot"] for s in manifest["statistics"]["soft_groups"]] == [1, 2]
    assert is_whole(table, manifest["key"])
    assert manifest["recipe"]["soft"]["kind"] == kind


def test_weights_are_part_of_the_fingerprint(table: Path, kind: str, tmp_path: Path) -> None:
    mine = read_manifest(table)["fingerprint"]
    again = build(*FRAMES, recipe(kind=kind), tmp_path / "again", show_progress=False)
    assert read_manifest(again)["fingerprint"] == mine
    other = recipe(kind=kind, control="permuted")
    other_table = build(*FRAMES, other, tmp_path / "other", show_progress=False)
    assert read_manifest(other_table)["fingerprint"] != mine


def test_a_recipe_without_soft_groups_keeps_its_table(tmp_path: Path) -> None:
    plain = {k: v for k, v in RECIPE.items() if k != "soft"}
    assert table_key(*FRAMES, plain) == table_key(*FRAMES, {**plain, "soft": None})
    assert table_key(*FRAMES, plain) != table_key(*FRAMES, RECIPE)
    out = build(*FRAMES, plain, tmp_path / "t", show_progress=False)
    assert SemanticTable.load(out).soft is None
    assert "soft" not in read_manifest(out)["sizes"]


Change = Callable[[dict[str, list[Any]]], None]


def _damaged(table: Path, to: Path, change: Change, file: str = "soft.parquet") -> Path:
    to.mkdir()
    for path in table.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    old = pq.read_table(to / file)
    columns = old.to_pydict()
    change(columns)
    plain = {n: pa.array(v, pa.int32() if n == "snapshot" else None) for n, v in columns.items()}
    pq.write_table(pa.table(plain), to / file)
    manifest = read_manifest(to)
    del manifest["seal"]  # as a table of another tool
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def _set(name: str, value: Any) -> Change:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[name][0] = value

    return change


def _repeat(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values[1] = values[0]


def _on_itself(columns: dict[str, list[Any]]) -> None:
    columns["member"][0] = columns["user_id"][0]


def _shorter(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.pop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("weight", 0.0), r"expected weights (above|other than) 0, got 0.0 in 1 rows"),
        (_set("weight", float("nan")), "expected weights (above|other than) 0, got nan"),
        (_set("snapshot", 3), "expected snapshots 1 to 2, got 3"),
        (_repeat, "expected one row a snapshot, user_id and member, got 1 again"),
        (_shorter, r"the manifest says \d+ rows of soft, got \d+"),
        (_set("user_id", None), "expected text in column 'user_id'"),
    ],
)
def test_a_damaged_part_is_refused(
    table: Path, tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        SemanticTable.load(_damaged(table, tmp_path / "t", change))


def test_only_coordinates_may_be_negative(table: Path, kind: str, tmp_path: Path) -> None:
    bad = _damaged(table, tmp_path / "t", _set("weight", -1.0))
    if kind == "factors":
        assert SemanticTable.load(bad).soft is not None
        return
    with pytest.raises(TableError, match=r"expected weights above 0, got -1.0 in 1 rows"):
        SemanticTable.load(bad)


def test_a_user_that_counts_for_itself_is_refused(table: Path, kind: str, tmp_path: Path) -> None:
    bad = _damaged(table, tmp_path / "t", _on_itself)
    if kind == "neighbours":
        with pytest.raises(TableError, match="expected no weight of a user on itself"):
            SemanticTable.load(bad)
        return
    read = SemanticTable.load(bad)
    assert read.soft is not None
    with pytest.raises(TableError, match=rf"expected {kind} 0 to \d+ in column 'member'"):
        SoftGroups.join(read.soft, read, TOKENS)


def test_strangers_are_refused(table: Path, tmp_path: Path) -> None:
    bad = SemanticTable.load(_damaged(table, tmp_path / "t", _set("user_id", "u99")))
    assert bad.soft is not None
    with pytest.raises(TableError, match=r"1 users of soft groups .* such as 'u99'"):
        SoftGroups.join(bad.soft, bad, TOKENS)


def test_manifest_and_file_belong_together(table: Path, tmp_path: Path) -> None:
    copy = _damaged(table, tmp_path / "t", lambda columns: None)
    manifest = json.loads((copy / "manifest.json").read_text())
    for said in (None, {"kind": "hard"}, {"kind": "prototypes"}):
        text = json.dumps({**manifest, "soft": said})
        (copy / "manifest.json").write_text(text)
        with pytest.raises(TableError, match="expected soft with kind neighbours, or prototypes"):
            SemanticTable.load(copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "soft.parquet").unlink()
    with pytest.raises(TableError, match=r"expected a file soft.parquet"):
        SemanticTable.load(copy)


def test_own_scores_want_vectors(tmp_path: Path) -> None:
    out = build(*FRAMES, recipe(own_vectors=False), tmp_path / "t", show_progress=False)
    read = SemanticTable.load(out)
    assert read.soft is not None
    with pytest.raises(TableError, match=r"expected soft_vectors.parquet for own scores"):
        OwnVectors.join(read.soft, read, TOKENS, ITEM_TOKENS)
