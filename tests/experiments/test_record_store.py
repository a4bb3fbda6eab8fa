"""Records are the same whether each is a file or all are packed into one."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import DataError
from recbole_choir.experiments.record_store import (
    PACK,
    folders_with_records,
    pack,
    read_record,
    read_records,
)
from recbole_choir.experiments.records_command import main
from recbole_choir.files import whole_file
from recbole_choir.record import write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["file", "content", "a"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=15,
)
NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=8).map(
    lambda name: f"r{name}.json"
)


def write(folder: Path, found: dict[str, Any]) -> Path:
    for name, content in found.items():
        write_json(folder / name, content)
    return folder


@contextmanager
def new_folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def texts(found: dict[str, Any]) -> dict[str, str]:
    """Contents as text: ``1 == 1.0 == True`` tells too little."""
    return {name: json.dumps(content, sort_keys=True) for name, content in found.items()}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@settings(deadline=None)  # a busy machine is no fault
@given(st.dictionaries(NAMES, VALUES, max_size=5), VALUES)
def test_packed_and_unpacked_again_are_the_same(found: dict[str, Any], summary: Any) -> None:
    with new_folder() as folder:
        write(folder, {**found, "summary/differences.json": summary})
        plain, before = read_records(folder), files(folder)
        assert list(plain) == sorted(found)
        main(["pack", str(folder)])
        assert list(files(folder)) == [PACK]
        assert texts(read_records(folder)) == texts(plain)
        assert texts(read_records(folder / PACK)) == texts(plain), "the packed file alone"
        assert texts({n: read_record(folder / n) for n in plain}) == texts(plain)
        main(["unpack", str(folder)])
        assert files(folder) == before


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=3))
def test_bytes_follow_from_the_records_and_not_from_when_they_were_packed(
    parts: list[dict[str, Any]],
) -> None:
    whole = {name: content for part in reversed(parts) for name, content in part.items()}
    with new_folder() as together, new_folder() as later:
        write(together, whole)
        main(["pack", str(together)])
        seen: set[str] = set()
        for part in parts:
            new = {name: content for name, content in part.items() if name not in seen}
            seen.update(new)
            main(["pack", str(write(later, new))])
        assert files(later) == files(together)


def test_a_packed_file_is_a_frame(tmp_path: Path) -> None:
    runs = {f"{seed}.json": {"cell": "Base", "seed": seed, "test": {"auc": 0.5}} for seed in (1, 2)}
    main(["pack", str(write(tmp_path, runs))])
    frame = pd.read_json(tmp_path / PACK, lines=True)
    assert frame["file"].tolist() == ["1.json", "2.json"]
    assert frame["seed"].tolist() == [1, 2]
    assert frame["test"].tolist() == [{"auc": 0.5}] * 2


def test_new_records_are_added_and_the_same_ones_are_no_conflict(tmp_path: Path) -> None:
    main(["pack", str(write(tmp_path, {"a.json": {"x": 1}}))])
    write(tmp_path, {"a.json": {"x": 1}, "b.json": {"x": 2}})
    assert list(read_records(tmp_path)) == ["a.json", "b.json"], "half of them packed"
    main(["pack", str(tmp_path)])
    assert read_records(tmp_path) == {"a.json": {"x": 1}, "b.json": {"x": 2}}
    assert list(files(tmp_path)) == [PACK]


def test_another_content_under_a_packed_name_is_an_error_in_one_line(tmp_path: Path) -> None:
    main(["pack", str(write(tmp_path, {"a.json": {"x": 1}}))])
    write(tmp_path, {"a.json": {"x": 2}, "b.json": {}})
    before = files(tmp_path)
    for command in ("pack", "unpack"):
        with pytest.raises(DataError, match=r"a\.json: expected what is packed") as error:
            main([command, str(tmp_path)])
        assert "\n" not in str(error.value)
        assert files(tmp_path) == before, "nothing is moved"
    assert read_record(tmp_path / "a.json") == {"x": 2}, "a file of its own wins"
    main(["pack", "--replace", str(tmp_path)])
    assert read_records(tmp_path) == {"a.json": {"x": 2}, "b.json": {}}


def test_a_newer_summary_takes_the_place_of_the_packed_one(tmp_path: Path) -> None:
    for rows in ([1], [1, 2]):
        main(["pack", str(write(tmp_path, {"summary/differences.json": rows}))])
    assert read_record(tmp_path / "summary" / "differences.json") == [1, 2]


def test_folders_share_the_pack_of_the_one_above(tmp_path: Path) -> None:
    small = {"one/a.json": {"x": 1}, "one/summary/s.json": [1], "two/a.json": {"x": 2}}
    write(tmp_path, small)
    write(tmp_path / "large", {"a.json": {"x": 3}})
    (tmp_path / "none").mkdir()
    main(["pack", str(tmp_path / "large")])
    main(["pack", str(tmp_path)])
    assert list(files(tmp_path)) == [f"large/{PACK}", PACK]
    assert [f.name for f in folders_with_records(tmp_path)] == ["large", "one", "two"]
    assert read_records(tmp_path) == {}
    for number, name in enumerate(("one", "two", "large"), 1):
        assert read_records(tmp_path / name) == {"a.json": {"x": number}}
    assert read_record(tmp_path / "one" / "summary" / "s.json") == [1]
    write(tmp_path / "one", {"b.json": {"x": 4}})
    main(["pack", str(tmp_path / "one")])
    assert read_records(tmp_path / "one") == {"a.json": {"x": 1}, "b.json": {"x": 4}}


def test_runs_that_are_not_over_are_not_packed(tmp_path: Path) -> None:
    main(["pack", str(write(tmp_path, {"runs/a.json": {}, "b.json": {}}))])
    assert list(files(tmp_path)) == [PACK, "runs/a.json"]


def test_nothing_to_pack_or_to_unpack_and_damage_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder, found none"):
        main(["pack", str(tmp_path / "none")])
    with pytest.raises(DataError, match="expected packed records"):
        main(["unpack", str(tmp_path)])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not readable JSON"):
        main(["pack", str(tmp_path)])
    (tmp_path / PACK).write_bytes(b"no")
    with pytest.raises(DataError, match="not packed records"):
        read_records(tmp_path)


def test_a_record_that_is_being_written_is_none_yet(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"model": "Base"})
    with whole_file(tmp_path / "b.json") as half:
        half.write_text('{"model": ')
        assert list(read_records(tmp_path)) == ["a.json"]
        assert pack(tmp_path)[1] == 1
        assert half.exists()
        half.write_text('{"model": "POSO"}')
    assert list(read_records(tmp_path)) == ["a.json", "b.json"]
