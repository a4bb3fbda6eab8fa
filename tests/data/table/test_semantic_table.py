"""Loading and joining a semantic table: every mismatch is one line that names both sides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recbole_choir.data.table.group_tables import GroupTables, Scale
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError
from recbole_choir.table_format import fingerprint_ids

Writer = Callable[..., Path]
USERS = np.array(["[PAD]", "u3", "u1", "u2"])
ITEMS = np.array(["[PAD]", "i1", "i2", "i3"])
ATTRIBUTES: dict[str, Any] = {"gender": {"[PAD]": 0, "M": 1, "F": 2}, "age": Scale(20.0, 10.0)}


def join(folder: Path, **changes: Any) -> GroupTables:
    arguments = {"user_tokens": USERS, "item_tokens": ITEMS, "attributes": ATTRIBUTES, **changes}
    return GroupTables.join(SemanticTable.load(folder), **arguments)


def test_everything_lands_at_the_datasets_own_ids(write_table: Writer) -> None:
    groups = join(write_table())
    assert groups.user_group.tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 3, 3]]
    assert groups.user_codes[1].tolist() == [[0, 0], [0, 0], [1, 3], [2, 1]]
    assert groups.user_codes[2].tolist() == [[0, 0], [0, 0], [2, 1], [2, 3]]
    assert groups.user_codes[0].abs().sum() == 0
    assert groups.n_codes == [2, 3]
    assert groups.group_attr["gender"].tolist() == [0, 2, 0, 1]
    assert groups.group_attr["age"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert groups.group_seq.tolist() == [[0, 0, 0], [2, 1, 0], [0, 0, 0], [3, 1, 2]]
    assert groups.group_size.tolist() == [0, 7, 3, 9]
    assert (
        groups.user_group.dtype == groups.user_codes.dtype == groups.group_seq.dtype == torch.int32
    )
    assert (groups.n_groups, groups.n_snapshots) == (4, 2)


def test_a_row_reads_the_newest_snapshot_strictly_before_it(write_table: Writer) -> None:
    groups = join(write_table())
    times = np.array([0.0, 10.0, np.nextafter(10.0, 11), 20.0, 20.5])
    assert groups.snapshot_of(times).tolist() == [0, 0, 1, 1, 2]


def test_lookups_of_a_batch(write_table: Writer) -> None:
    groups = join(write_table())
    snapshot, user = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 2, 3, 1])
    assert groups.group_of(snapshot, user).tolist() == [0, 1, 3, 0]
    assert groups.codes_of(snapshot, user).tolist() == [[0, 0], [1, 3], [2, 3], [0, 0]]
    members = groups.membership(2)
    assert members.index.tolist() == [[0], [0], [3], [3]]
    assert members.weight.tolist() == [[1.0]] * 4


def test_moving_keeps_everything(write_table: Writer) -> None:
    groups = join(write_table())
    moved = groups.to("cpu")
    assert torch.equal(moved.user_group, groups.user_group)
    assert moved.fingerprint == groups.fingerprint
    assert list(moved.group_attr) == ["gender", "age"]


def test_users_that_the_table_lacks_have_no_group_and_are_counted(
    write_table: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "recbole_choir"):
        groups = join(write_table(), user_tokens=np.append(USERS, ["u9"]))
    assert groups.user_group[:, 4].tolist() == [0, 0, 0]
    assert groups.counts["users_without_row"] == 1
    assert "2 of 4 users have no group in any snapshot (1 are not in the table)" in caplog.text


def test_attribute_values_outside_the_vocabulary_are_padding_and_counted(
    write_table: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    groups = join(write_table(), attributes={"gender": {"[PAD]": 0, "M": 1}})
    assert groups.group_attr["gender"].tolist() == [0, 0, 0, 1]
    assert groups.counts["unknown_gender"] == 1
    assert "1 of 3 groups have a 'gender' that the dataset lacks" in caplog.text


def test_a_foreign_table_without_stamps_gets_a_fingerprint(write_table: Writer) -> None:
    first = join(write_table()).fingerprint
    assert len(first) == 16
    assert join(write_table()).fingerprint == first
    assert join(write_table(groups={"size": [7, 3, 8]})).fingerprint != first


def test_matching_fingerprints_pass_and_others_name_both_sides(write_table: Writer) -> None:
    stamps = {
        "users": {"rows": 3, "fingerprint": fingerprint_ids(USERS[1:])},
        "items": {"rows": 3, "fingerprint": fingerprint_ids(ITEMS[1:])},
    }
    join(write_table(inputs=stamps))
    with pytest.raises(TableError) as caught:
        join(write_table(inputs=stamps), user_tokens=np.append(USERS, ["u9"]))
    text = str(caught.value)
    want = fingerprint_ids(["u1", "u2", "u3", "u9"])
    assert f"made for 3 users with fingerprint {stamps['users']['fingerprint']}" in text
    assert f"the dataset has 4 users with fingerprint {want}" in text
    assert "\n" not in text


def test_unknown_users_and_items_are_errors_with_examples(write_table: Writer) -> None:
    with pytest.raises(TableError, match=r"1 users of the table are not among .* 2, such as 'u3'"):
        join(write_table(), user_tokens=np.array(["[PAD]", "u1", "u2"]))
    with pytest.raises(TableError, match=r"1 items of group sequences .* such as 'i3'"):
        join(write_table(), item_tokens=np.array(["[PAD]", "i1", "i2"]))


def test_no_user_in_common(write_table: Writer) -> None:
    with pytest.raises(TableError, match=r"no user of the table .* has 'u1', .* the dataset 'a'"):
        join(write_table(), user_tokens=np.array(["[PAD]", "a"]))


def test_a_snapshot_after_the_first_validation_row_is_a_leak(write_table: Writer) -> None:
    join(write_table(), first_validation_time=20.0)
    with pytest.raises(TableError, match=r"last snapshot is of time 20.0, later .* row at 19.5"):
        join(write_table(), first_validation_time=19.5)


def test_an_attribute_of_another_kind(write_table: Writer) -> None:
    with pytest.raises(TableError, match="'age' is token in the dataset, got float"):
        join(write_table(), attributes={"age": {"30": 1}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "expected format_version 1, got 2"),
        ({"snapshots": []}, "expected snapshots numbered from 1"),
        ({"snapshots": None}, "expected snapshots as a list"),
        (
            {"snapshots": [{"index": 1, "time": 20.0}, {"index": 2, "time": 10.0}]},
            "rising times",
        ),
        ({"n_clusters": [2]}, "one positive n_clusters for each of n_levels"),
        ({"n_clusters": [1, 3]}, "expected code_1 from -1 to 0, got 1 in 3 rows"),
        ({"users": {"code_2": [2, 0, -2, 2, -1]}}, "expected code_2 from -1 to 2, got -2"),
        ({"users": {"code_2": None}}, "expected a column 'code_2'"),
        ({"users": {"snapshot": [1, 1, 2, 3, 2]}}, "expected snapshots 1 to 2, got 3 in 1 rows"),
        ({"users": {"user_id": ["u1", "u1", "u1", "u2", "u3"]}}, "got 1 twice, such as 'u1' in"),
        (
            {"users": {"group_id": ["0", "1-0", "1", "7", None]}},
            "1 rows name a group that groups.parquet lacks in that snapshot, such as '7' in snap",
        ),
        (
            {"users": {"group_id": ["1", "1-0", "1", "1", None]}},
            "such as '1' in snapshot 1",
        ),
        ({"groups": {"group_id": ["0", "0", "1"]}}, "got 1 twice, such as '0' in snapshot 1"),
        ({"groups": {"sequence": None}}, "expected a column 'sequence'"),
        (
            {"groups": {"size": pa.array(["7", "3", "9"])}},
            "expected whole numbers in column 'size'",
        ),
        ({"user_attributes": {"gendr": "token"}}, "attr_gendr.*did you mean 'gender'"),
        ({"user_attributes": {"gender": "float"}}, "declared 'float', got a column of type string"),
        ({"sizes": {"users": 4, "groups": 3}}, "the manifest says 4 rows of users, got 5"),
    ],
)
def test_damaged_tables(write_table: Writer, change: dict[str, Any], message: str) -> None:
    folder = write_table(**change)
    with pytest.raises(TableError, match=message) as caught:
        SemanticTable.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "users.parquet", "groups.parquet"])
def test_missing_and_torn_files(write_table: Writer, name: str) -> None:
    folder = write_table()
    path = folder / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TableError, match="not a readable"):
        SemanticTable.load(folder)
    path.unlink()
    with pytest.raises(TableError, match=name):
        SemanticTable.load(folder)
    with pytest.raises(TableError, match="expected a folder"):
        SemanticTable.load(folder / "nowhere")


def test_group_arrays_grow_with_groups_not_with_users(write_table: Writer) -> None:
    many = np.concatenate([USERS, np.array([f"v{i}" for i in range(500)])])
    few, lots = join(write_table()), join(write_table(), user_tokens=many)
    assert lots.group_seq.shape == few.group_seq.shape
    assert lots.group_size.shape == few.group_size.shape
    assert lots.user_group.shape == (3, 504)
