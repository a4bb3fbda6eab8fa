"""The table's writer: whole or nothing, one line on failure, fingerprints that mean something."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recbole_choir.errors import TableError
from recbole_choir.semantic.frames.fingerprint import fingerprint_columns
from recbole_choir.semantic.table import writer as table_module
from recbole_choir.semantic.table.writer import (
    ItemContent,
    TableContent,
    is_whole,
    read_manifest,
    write_table,
)
from recbole_choir.table_format import FORMAT_VERSION, GROUPS, MANIFEST, PROFILES, USERS


def content_of(key: str = "k", code: int = 1) -> TableContent:
    users = pd.DataFrame(
        {
            "snapshot": [1, 1],
            "user_id": ["p", "q"],
            "code_1": [code, -1],
            "group_id": [str(code), None],
        }
    )
    groups = pd.DataFrame(
        {
            "snapshot": [1],
            "group_id": [str(code)],
            "level": [1],
            "size": [1],
            "n_events": [2],
            "attr_city": pd.Series([None], dtype=object),
            "attr_age": [np.nan],
            "sequence": [["b", "a"]],
        }
    )
    return TableContent(
        recipe={"input": "random"},
        key=key,
        snapshot_times=[3.0],
        n_clusters=[2],
        user_attributes={"city": "token", "age": "float"},
        users=users,
        groups=groups,
        inputs={},
        profiles=pd.DataFrame({"snapshot": [1], "user_id": ["p"], "text": ["né à Paris"]}),
        embeddings=np.ones((2, 3), np.float32),
        quality={"a": None},
        quality_text="report\n",
    )


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    out = write_table(content_of(), tmp_path / "deep" / "t")
    assert sorted(p.name for p in tmp_path.joinpath("deep").iterdir()) == ["t"]
    users = pq.read_table(out / USERS)
    assert users.column_names == ["snapshot", "user_id", "code_1", "group_id"]
    assert users.to_pydict()["group_id"] == ["1", None]
    assert str(users.schema.field("code_1").type) == "int32"
    groups = pq.read_table(out / GROUPS).to_pydict()
    assert groups["sequence"] == [["b", "a"]]
    assert groups["attr_city"] == [None]
    assert groups["attr_age"] == [None]
    profile = json.loads((out / PROFILES).read_text("utf-8"))
    assert profile == {"snapshot": 1, "user_id": "p", "text": "né à Paris"}
    manifest = read_manifest(out)
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["snapshots"] == [{"index": 1, "time": 3.0}]
    assert manifest["fingerprint"] == content_of().fingerprint()


def test_fingerprint_changes_with_content_alone() -> None:
    assert content_of(key="x").fingerprint() == content_of(key="y").fingerprint()
    assert content_of(code=0).fingerprint() != content_of(code=1).fingerprint()


def test_fingerprint_covers_items_and_leaves_tables_without_them_alone() -> None:
    plain = content_of()
    # of the first release: what has no items keeps its fingerprint
    assert plain.fingerprint() == "38f0632c74e722ef"
    rows = pd.DataFrame(
        {"snapshot": [1], "item_id": ["a"], "code_1": [0], "group_id": ["0"], "vector": [0]}
    )
    one = np.ones((1, 2), np.float32)
    contents = [
        ItemContent(rows, one, [2]),
        ItemContent(rows, 2 * one, [2]),
        ItemContent(rows, one, [3]),
        ItemContent(rows.assign(code_1=1), one, [2]),
    ]
    prints = [plain.fingerprint()]
    for items in contents:
        plain.items = items
        prints.append(plain.fingerprint())
    assert len(set(prints)) == 5


def test_is_whole_tells_key_and_damage(tmp_path: Path) -> None:
    out = write_table(content_of(), tmp_path / "t")
    assert is_whole(out, "k")
    assert not is_whole(out, "other")
    assert not is_whole(tmp_path / "missing", "k")
    (out / USERS).write_bytes(b"cut")
    assert not is_whole(out, "k")
    (out / MANIFEST).write_text("{")
    assert not is_whole(out, "k")
    with pytest.raises(TableError, match="not a readable manifest"):
        read_manifest(out)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")])
def test_failure_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    content = content_of()

    def fail(folder: Path) -> None:
        raise error

    content.write_codebooks = fail
    with pytest.raises(type(error)):
        write_table(content, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_old_table(tmp_path: Path) -> None:
    out = write_table(content_of("old"), tmp_path / "t")
    content = content_of("new")

    def full_disk(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    content.write_codebooks = full_disk
    with pytest.raises(TableError, match="could not be written: No space left on device") as caught:
        write_table(content, out)
    assert "\n" not in str(caught.value)
    assert is_whole(out, "old")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    write_table(content_of("new"), out)
    assert is_whole(out, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_killed_run_leaves_no_table_and_the_next_one_clears_up(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_table import content_of
        from recbole_choir.semantic.table.writer import write_table
        content = content_of()
        content.write_codebooks = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
        write_table(content, {str(tmp_path / "t")!r})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, env=_environment())
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    assert len(list(tmp_path.iterdir())) == 1  # what it had begun, under a hidden name
    write_table(content_of(), tmp_path / "t")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_killed_between_the_renames_puts_the_old_table_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_table(content_of("old"), tmp_path / "t")
    out.rename(table_module._beside(out, "replaced"))
    table_module._sweep(out)
    assert is_whole(out, "old")


def test_a_folder_that_is_no_table_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TableError, match=r"without manifest.json: not replaced"):
        write_table(content_of(), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_fingerprint_columns() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [[1], [2]]})
    base = fingerprint_columns(frame, ["a", "b", "c"])
    assert base == fingerprint_columns(frame.astype({"a": "int32"}), ["a", "b", "c"])
    assert base != fingerprint_columns(frame.fillna({"b": ""}), ["a", "b", "c"])
    assert base != fingerprint_columns(frame.iloc[::-1], ["a", "b", "c"])
    zero = pd.DataFrame({"a": [0.0, float("nan")]})
    assert fingerprint_columns(zero, ["a"]) == fingerprint_columns(-zero, ["a"])


def _environment() -> dict[str, str]:
    root = str(Path(table_module.__file__).parents[3])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}
