"""Tables that were changed since they were made, or belong to other rows: one line each."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import START, Answer, Door, rows, text_of, write_dataset

from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError
from recbole_choir.table_seal import (
    RowsStamp,
    check_interactions,
    contents_digest,
    make_seal,
    sealed_interactions,
    stamp_rows,
)

Change = Callable[[Path], None]
DAY = 86_400.0
TIMES = [START + 60.0 * 96, START + 60.0 * 150]
_ROWS = rows()


def stamps(cells: list[list[str]], times: list[float] = TIMES) -> list[RowsStamp]:
    """Stamps of rows as they stand in ``.inter``."""
    users, items = (sorted({row[k] for row in cells}) for k in (0, 1))
    return stamp_rows(
        users,
        items,
        np.array([users.index(row[0]) for row in cells]),
        np.array([items.index(row[1]) for row in cells]),
        np.array([float(row[3]) for row in cells]),
        np.array([float(row[2]) for row in cells]),
        times,
    )


def write_small_table(folder: Path, seal: bool = True) -> Path:
    """Groups of users and items, content vectors and soft groups for the dataset ``small``."""
    folder.mkdir(parents=True)
    users = [f"u{k}" for k in range(12)]
    items = [f"i{k}" for k in range(13)]
    int32 = pa.int32()

    def twice(ids: list[str], codes: int, column: str) -> dict[str, Any]:
        n = len(ids)
        code = [(k * 7 + s) % codes for s in (0, 1) for k in range(n)]
        return {
            "snapshot": pa.array([1] * n + [2] * n, int32),
            column: ids * 2,
            "code_1": pa.array(code, int32),
            "group_id": [str(c) for c in code],
        }

    pq.write_table(pa.table(twice(users, 3, "user_id")), folder / "users.parquet")
    groups = {
        "snapshot": pa.array([1, 1, 1, 2, 2, 2], int32),
        "group_id": ["0", "1", "2"] * 2,
        "level": pa.array([1] * 6, int32),
        "size": pa.array([4, 3, 5, 2, 4, 6], int32),
        "n_events": pa.array([11, 12, 13, 21, 22, 23], int32),
        "attr_city": ["c0", "c1", "c2", "c2", "c1", None],
        "attr_age": pa.array([20.0, 21.5, 22.0, None, 23.0, 24.0]),
        "sequence": [["i1", "i2"], ["i3"], [], ["i1"], ["i2", "i5"], ["i7"]],
    }
    pq.write_table(pa.table(groups), folder / "groups.parquet")
    things = twice(items, 2, "item_id")
    things["vector"] = pa.array([*range(13), *range(12), -1], int32)
    pq.write_table(pa.table(things), folder / "items.parquet")
    vectors = np.random.default_rng(0).normal(size=(13, 4)).astype(np.float32)
    np.save(folder / "item_vectors.npy", vectors)
    soft = {
        "snapshot": pa.array([1, 1, 2, 2, 2], int32),
        "user_id": ["u1", "u2", "u1", "u3", "u4"],
        "member": ["u2", "u5", "u7", "u1", "u6"],
        "weight": [0.5, 0.25, 1.0, 0.75, 0.125],
    }
    pq.write_table(pa.table(soft), folder / "soft.parquet")
    own = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0), pa.float32()), 2)
    spaces = {
        "snapshot": pa.array([1, 1, 2, 2], int32),
        "space": ["behaviour"] * 4,
        "side": ["user", "item"] * 2,
        "id": ["u1", "i1"] * 2,
        "vector": own,
    }
    pq.write_table(pa.table(spaces), folder / "soft_vectors.parquet")
    (folder / "quality.json").write_text("{}\n")
    manifest: dict[str, Any] = {
        "format_version": 1,
        "snapshots": [{"index": i, "time": t} for i, t in enumerate(TIMES, 1)],
        "n_levels": 1,
        "n_clusters": [3],
        "item_n_levels": 1,
        "item_n_clusters": [2],
        "user_attributes": {"city": "token", "age": "float"},
        "soft": {"kind": "neighbours"},
        "fingerprint": "0123456789abcdef",
        "inputs": {"users": {"rows": 12}},
    }
    if seal:
        manifest["seal"] = make_seal(folder, manifest, stamps(_ROWS))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_table(tmp_path_factory.mktemp("sealed") / "table")


@pytest.fixture
def table(sealed: Path, tmp_path: Path) -> Path:
    """A copy of the sealed table, to be changed."""
    return Path(shutil.copytree(sealed, tmp_path / "table"))


# --- ways to change a table ------------------------------------------------------------------


def turned(file: str, *columns: str) -> Change:
    """The values of columns move by one row: ids or contents permuted."""

    def change(folder: Path) -> None:
        old = pq.read_table(folder / file)
        order = pa.array([*range(1, old.num_rows), 0])
        for name in columns:
            at = old.column_names.index(name)
            moved = old.column(name).take(order)
            old = old.set_column(at, old.field(name), moved)
        pq.write_table(old, folder / file)

    return change


def put(file: str, column: str, value: Any) -> Change:
    """One value of a column is another."""

    def change(folder: Path) -> None:
        old = pq.read_table(folder / file)
        at = old.column_names.index(column)
        values = [value, *old.column(column).to_pylist()[1:]]
        pq.write_table(
            old.set_column(at, old.field(column), pa.array(values, old.field(column).type)),
            folder / file,
        )

    return change


def remade(file: str, make: Callable[[pa.Table], pa.Table], **options: Any) -> Change:
    def change(folder: Path) -> None:
        pq.write_table(make(pq.read_table(folder / file)), folder / file, **options)

    return change


def manifest(*path: str | int, value: Any) -> Change:
    """An entry of the manifest is another; a function takes the old one."""

    def change(folder: Path) -> None:
        whole = json.loads((folder / "manifest.json").read_text())
        at = whole
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value(at.get(path[-1])) if callable(value) else value
        (folder / "manifest.json").write_text(json.dumps(whole))

    return change


def vectors(make: Callable[[Any], Any]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "item_vectors.npy"
        np.save(path, make(np.load(path)))

    return change


def content(file: str, text: bytes | None) -> Change:
    """Other bytes; None: the file is gone."""

    def change(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        if text is not None:
            (folder / file).write_bytes(text)

    return change


def cut(file: str) -> Change:
    def change(folder: Path) -> None:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: len(whole) // 2])

    return change


def folder_in_place_of(file: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


def moved(days: float) -> Change:
    """All snapshot times, by days."""
    return manifest(
        "snapshots", value=lambda old: [{**one, "time": one["time"] + days * DAY} for one in old]
    )


OTHERS = "(the rows of its ids are others); make the table again"
SAME = "(the same rows in other bytes); make the table again"
UNREADABLE = ", and it cannot be read; make the table again"
MANIFEST = "manifest.json: changed since the table was sealed: expected sha256 "

CHANGES: dict[str, tuple[Change, str, str]] = {
    "users permuted": (turned("users.parquet", "user_id"), "users.parquet", OTHERS),
    "users' groups permuted": (turned("users.parquet", "group_id"), "users.parquet", OTHERS),
    "users' codes permuted": (turned("users.parquet", "code_1"), "users.parquet", OTHERS),
    "users' snapshots permuted": (turned("users.parquet", "snapshot"), "users.parquet", OTHERS),
    "one user renamed": (put("users.parquet", "user_id", "u99"), "users.parquet", OTHERS),
    "one user without a group": (put("users.parquet", "group_id", None), "users.parquet", OTHERS),
    "a user fewer": (
        remade("users.parquet", lambda t: t.slice(1)),
        "users.parquet",
        OTHERS,
    ),
    "a user twice": (
        remade("users.parquet", lambda t: pa.concat_tables([t, t.slice(0, 1)])),
        "users.parquet",
        OTHERS,
    ),
    "a column fewer": (
        remade("groups.parquet", lambda t: t.drop_columns(["n_events"])),
        "groups.parquet",
        OTHERS,
    ),
    "a column more": (
        remade("groups.parquet", lambda t: t.append_column("attr_x", t["size"])),
        "groups.parquet",
        OTHERS,
    ),
    "groups permuted": (turned("groups.parquet", "group_id"), "groups.parquet", OTHERS),
    "sizes permuted": (turned("groups.parquet", "size"), "groups.parquet", OTHERS),
    "counts permuted": (turned("groups.parquet", "n_events"), "groups.parquet", OTHERS),
    "levels": (put("groups.parquet", "level", 2), "groups.parquet", OTHERS),
    "attributes permuted": (turned("groups.parquet", "attr_city"), "groups.parquet", OTHERS),
    "numbers permuted": (turned("groups.parquet", "attr_age"), "groups.parquet", OTHERS),
    "sequences permuted": (turned("groups.parquet", "sequence"), "groups.parquet", OTHERS),
    "a sequence longer": (
        put("groups.parquet", "sequence", ["i1", "i2", "i3"]),
        "groups.parquet",
        OTHERS,
    ),
    "items permuted": (turned("items.parquet", "item_id"), "items.parquet", OTHERS),
    "items' clusters permuted": (turned("items.parquet", "group_id"), "items.parquet", OTHERS),
    "items' codes permuted": (turned("items.parquet", "code_1"), "items.parquet", OTHERS),
    "items' vectors permuted": (turned("items.parquet", "vector"), "items.parquet", OTHERS),
    "vectors permuted": (
        vectors(lambda v: v[np.r_[1 : len(v), 0]]),
        "item_vectors.npy",
        OTHERS,
    ),
    "vectors zero": (vectors(np.zeros_like), "item_vectors.npy", OTHERS),
    "one value of a vector": (
        vectors(lambda v: np.where(np.arange(4) == 2, v + 1e-6, v)),
        "item_vectors.npy",
        OTHERS,
    ),
    "a vector fewer": (vectors(lambda v: v[:-1]), "item_vectors.npy", OTHERS),
    "vectors in double precision": (
        vectors(lambda v: v.astype(np.float64)),
        "item_vectors.npy",
        SAME,
    ),
    "weights permuted": (turned("soft.parquet", "weight"), "soft.parquet", OTHERS),
    "members permuted": (turned("soft.parquet", "member"), "soft.parquet", OTHERS),
    "soft users permuted": (turned("soft.parquet", "user_id"), "soft.parquet", OTHERS),
    "own vectors permuted": (
        turned("soft_vectors.parquet", "vector"),
        "soft_vectors.parquet",
        OTHERS,
    ),
    "sides permuted": (turned("soft_vectors.parquet", "side"), "soft_vectors.parquet", OTHERS),
    "rows in another order": (
        remade("users.parquet", lambda t: t.take(pa.array(range(t.num_rows)[::-1]))),
        "users.parquet",
        SAME,
    ),
    "another compression": (
        remade("users.parquet", lambda t: t, compression="gzip"),
        "users.parquet",
        SAME,
    ),
    "wider numbers": (
        remade(
            "groups.parquet",
            lambda t: t.set_column(3, "size", t["size"].cast(pa.int64())),
        ),
        "groups.parquet",
        SAME,
    ),
    "a dictionary of ids": (
        remade(
            "items.parquet",
            lambda t: t.set_column(1, "item_id", t["item_id"].dictionary_encode()),
        ),
        "items.parquet",
        SAME,
    ),
    "half a file": (cut("users.parquet"), "users.parquet", UNREADABLE),
    "half an array": (cut("item_vectors.npy"), "item_vectors.npy", UNREADABLE),
    "an empty file": (content("groups.parquet", b""), "groups.parquet", UNREADABLE),
    "a text": (content("items.parquet", b"item_id,code\n"), "items.parquet", UNREADABLE),
    "times a month back": (moved(-23), MANIFEST, "make the table again"),
    "times a day on": (moved(1), MANIFEST, "make the table again"),
    "one time": (
        manifest("snapshots", 0, "time", value=TIMES[0] - 60),
        MANIFEST,
        "make the table again",
    ),
    "codewords": (manifest("n_clusters", value=[4]), MANIFEST, "if you changed it yourself"),
    "kinds of attributes": (
        manifest("user_attributes", value={"city": "token"}),
        MANIFEST,
        "recbole-choir tables seal --again",
    ),
    "the fingerprint": (manifest("fingerprint", value="f" * 16), MANIFEST, "got "),
    "stamps of ids": (manifest("inputs", value={}), MANIFEST, "got "),
    "an entry more": (manifest("note", value="mine"), MANIFEST, "got "),
    "a file fewer": (
        content("item_vectors.npy", None),
        "expected a file item_vectors.npy, which is in its seal",
        "found none",
    ),
    "a folder in place of a file": (
        folder_in_place_of("soft.parquet"),
        "expected a file soft.parquet",
        "found none",
    ),
    "another seal's version": (
        manifest("seal", "version", value=2),
        "expected a seal of version 1",
        "got version 2",
    ),
    "a text as a seal": (manifest("seal", value="yes"), "expected a seal of version 1", "None"),
    "a list as a seal": (manifest("seal", value=[1]), "expected a seal of version 1", "None"),
    "a seal without files": (
        manifest("seal", "files", value=None),
        "with the sha256 of each file",
        "got files None",
    ),
    "a seal of files elsewhere": (
        manifest("seal", "files", value={"../../etc/passwd": "0"}),
        "with the sha256 of each file",
        "got files",
    ),
    "a digest of the seal": (
        manifest("seal", "files", "users.parquet", value="0" * 64),
        "users.parquet: changed since the table was sealed: expected sha256 0000000000000000",
        SAME,
    ),
    "interactions that are a text": (
        manifest("seal", "interactions", value="many"),
        "expected rows and fingerprint of the interactions of 2 snapshots in the seal",
        "got many",
    ),
    "interactions of one snapshot": (
        manifest("seal", "interactions", value=lambda old: old[:1]),
        "of the interactions of 2 snapshots",
        "got [{",
    ),
    "interactions without rows": (
        manifest("seal", "interactions", value=[{"fingerprint": "a"}] * 2),
        "of the interactions of 2 snapshots",
        "got [{",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_table_is_refused_in_one_line(table: Path, name: str) -> None:
    change, what, line = CHANGES[name]
    change(table)
    with pytest.raises(TableError) as caught:
        SemanticTable.load(table)
    text = str(caught.value)
    assert what in text
    assert line in text
    assert str(table) in text
    assert "\n" not in text


def test_a_file_that_was_not_there_is_refused(tmp_path: Path, sealed: Path) -> None:
    table = write_small_table(tmp_path / "t", seal=False)
    soft = (table / "soft.parquet").read_bytes()
    for name in ("soft.parquet", "soft_vectors.parquet"):
        (table / name).unlink()
    plain = json.loads((table / "manifest.json").read_text())
    del plain["soft"]
    plain["seal"] = make_seal(table, plain, None)
    (table / "manifest.json").write_text(json.dumps(plain))
    assert SemanticTable.load(table).soft is None
    (table / "soft.parquet").write_bytes(soft)
    with pytest.raises(TableError, match=r"expected no soft.parquet, as when it was sealed, got"):
        SemanticTable.load(table)


def test_as_it_was_sealed_it_is_read_with_what_it_was_made_from(table: Path) -> None:
    loaded = SemanticTable.load(table)
    assert [stamp.rows for stamp in loaded.made_from or ()] == [96, 150]
    assert loaded.items is not None
    assert loaded.soft is not None


def test_a_file_that_no_run_reads_is_compared_by_the_command_alone(table: Path, door: Door) -> None:
    (table / "quality.json").write_text("{ }\n")
    SemanticTable.load(table)
    assert "quality.json: changed since the table was sealed" in door("tables", "check", table).line


def test_a_table_without_a_seal_is_read_with_a_line_that_says_how_to_seal_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_small_table(tmp_path / "my table", seal=False)
    with caplog.at_level(logging.WARNING, "recbole_choir"):
        assert SemanticTable.load(table).made_from is None
    assert "no seal, so a change of its contents goes unseen" in caplog.text
    assert f"recbole-choir tables seal '{table}' makes one" in caplog.text


# --- the rows that a table was made from -----------------------------------------------------


def other_rows(change: Callable[[list[list[str]]], None]) -> list[list[str]]:
    cells = [list(row) for row in _ROWS]
    change(cells)
    return cells


def set_cell(row: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    def change(cells: list[list[str]]) -> None:
        cells[row][column] = value

    return change


def swap(column: int, a: str, b: str) -> Callable[[list[list[str]]], None]:
    """Everything of one id is the other's."""

    def change(cells: list[list[str]]) -> None:
        for row in cells:
            row[column] = {a: b, b: a}.get(row[column], row[column])

    return change


def flipped(cells: list[list[str]]) -> None:
    cells[20][2] = str(1 - int(cells[20][2]))


ROWS: dict[str, tuple[Callable[[list[list[str]]], None], int | None]] = {
    "users swapped": (swap(0, "u1", "u2"), 1),
    "items swapped": (swap(1, "i3", "i4"), 1),
    "a user renamed": (swap(0, "u1", "nobody"), 1),
    "one row of another user": (set_cell(20, 0, "u5"), 1),
    "one row of another item": (set_cell(20, 1, "i12"), 1),
    "a label": (flipped, 1),
    "a time": (set_cell(20, 3, str(START + 60 * 20 + 1)), 1),
    "a row fewer": (lambda cells: cells.pop(20), 1),
    "a row more": (lambda cells: cells.append(list(cells[20])), 1),
    "a row between the snapshots": (set_cell(120, 0, "u5"), 2),
    "a row moved before the last snapshot": (set_cell(200, 3, str(START + 60 * 100)), 2),
    "a row at the last snapshot": (set_cell(150, 0, "u5"), None),
    "a later row": (set_cell(220, 0, "u5"), None),
    "another order": (lambda cells: cells.reverse(), None),
    "contexts": (set_cell(20, 4, "p99"), None),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_before_a_snapshot_are_those_the_table_was_made_from(name: str) -> None:
    change, snapshot = ROWS[name]
    here, then = stamps(other_rows(change)), stamps(_ROWS)
    if snapshot is None:
        check_interactions(Path("t"), TIMES, then, here)
        return
    with pytest.raises(TableError) as caught:
        check_interactions(Path("t"), TIMES, then, here)
    at = snapshot - 1
    assert (
        f"t: snapshot {snapshot} was made from {then[at].rows} interactions with fingerprint "
        f"{then[at].fingerprint[:16]}, but before its time {TIMES[at]:.10g} the dataset has "
        f"{here[at].rows} with fingerprint {here[at].fingerprint[:16]}: the times"
    ) in str(caught.value)


def test_a_stamp_is_that_of_the_rows_strictly_before_the_moment() -> None:
    whole = stamps(_ROWS, [START, START + 60 * 10, START + 60 * 1000.0])
    assert [stamp.rows for stamp in whole] == [0, 10, 240]
    assert whole[1] == stamps(_ROWS[:10], [np.inf])[0]
    assert len({stamp.fingerprint for stamp in whole}) == 3


def test_contents_are_told_by_id_and_not_by_place(table: Path) -> None:
    path = table / "groups.parquet"
    first = contents_digest(path)
    remade("groups.parquet", lambda t: t.take(pa.array([5, 0, 3, 1, 4, 2])))(table)
    assert contents_digest(path) == first
    turned("groups.parquet", "size")(table)
    assert contents_digest(path) != first


# --- the command -----------------------------------------------------------------------------


def test_the_command_seals_checks_and_seals_again(tmp_path: Path, door: Door) -> None:
    table = write_small_table(tmp_path / "t", seal=False)
    answer = door("tables", "check", table)
    assert (answer.code, "without a seal" in answer.out) == (1, True)
    answer = door("tables", "seal", table)
    assert answer.code == 0
    assert "interactions: not sealed; --dataset NAME seals them too" in answer.out
    answer = door("tables", "check", table)
    assert (answer.code, "7 files are as they were sealed" in answer.out) == (0, True)
    turned("users.parquet", "group_id")(table)
    assert OTHERS in door("tables", "seal", table).line
    assert door("tables", "seal", "--again", table).code == 0
    assert door("tables", "check", table).code == 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: None, "semantic table: expected a folder, found none at"),
        (lambda folder: folder.mkdir(), "expected a semantic table, found no manifest.json in it"),
        (
            lambda folder: (folder.mkdir(), (folder / "manifest.json").write_text("{")),
            "not a readable manifest",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "manifest.json").write_text("[]")),
            "expected format_version 1, got None",
        ),
        (
            lambda folder: (
                write_small_table(folder, seal=False),
                (folder / "users.parquet").unlink(),
            ),
            "expected a file users.parquet, found none",
        ),
    ],
    ids=["nothing", "empty", "half", "list", "no users"],
)
@pytest.mark.parametrize("command", ["check", "seal"])
def test_what_is_no_table_is_neither_checked_nor_sealed(
    make: Change, line: str, command: str, tmp_path: Path, door: Door
) -> None:
    make(tmp_path / "t")
    assert line in door("tables", command, tmp_path / "t").line


def on_small(run_small: Door, table: Path, **keys: object) -> Answer:
    """A run that reads groups and stops at the table if it does not fit."""
    return run_small(
        **{"model": "ChoirRec", "semantic_table": table, "context_fields": None, **keys}
    )


@pytest.mark.parametrize(
    "change", [swap(0, "u1", "u2"), swap(1, "i3", "i4"), flipped], ids=["users", "items", "label"]
)
def test_a_run_on_other_rows_than_the_tables_is_refused(
    change: Callable[[list[list[str]]], None], table: Path, tmp_path: Path, run_small: Door
) -> None:
    write_dataset(tmp_path, text_of(other_rows(change)))
    line = on_small(run_small, table).line
    assert "snapshot 1 was made from 96 interactions with fingerprint" in line
    assert "the dataset has 96 with fingerprint" in line


def test_a_run_with_moved_times_is_refused_also_where_they_were_sealed_again(
    table: Path, tmp_path: Path, run_small: Door, door: Door
) -> None:
    write_dataset(tmp_path)
    manifest("snapshots", 0, "time", value=TIMES[0] - 600)(table)
    assert MANIFEST in on_small(run_small, table).line
    assert door("tables", "seal", "--again", table).code == 0
    line = on_small(run_small, table).line
    assert "snapshot 1 was made from 96 interactions" in line
    assert "the dataset has 86 with" in line


def test_a_run_reads_the_table_of_its_rows_and_a_seal_takes_them_in(
    tmp_path: Path, run_small: Door, door: Door
) -> None:
    data = write_dataset(tmp_path)
    table = write_small_table(tmp_path / "t", seal=False)
    columns = [
        "--load_col.inter=[user_id,item_id,label,timestamp]",
        "--load_col.user=[user_id,age,city]",
        "--load_col.item=[item_id,category]",
        "--numeric_attr_fields=[age]",
    ]
    dataset = ["--dataset=small", f"--data_path={data}", *columns]
    answer = door("tables", "seal", table, *dataset)
    assert answer.code == 0, answer.err
    assert "interactions before each snapshot: 96, 150" in answer.out
    content = json.loads((table / "manifest.json").read_text())
    assert sealed_interactions(table, content) == stamps(_ROWS)
    answer = door("tables", "check", table, *dataset)
    assert (answer.code, "(those of the dataset)" in answer.out) == (0, True)
    assert on_small(run_small, table, numeric_attr_fields="[age]").code == 0
