"""Records are strict JSON and name no one's machine."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recbole_choir import record
from recbole_choir.errors import DataError
from recbole_choir.files import write_whole
from recbole_choir.record import file_name, without_machine, write_json


def test_undefined_numbers_are_null(tmp_path: Path) -> None:
    content = {"a": [float("nan"), 1.5], "b": {"c": np.float64("inf")}, "d": (2, None)}
    text = write_json(tmp_path / "r.json", content).read_text()

    def refuse(name: str) -> None:
        raise ValueError(name)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": [None, 1.5], "b": {"c": None}, "d": [2, None]}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"], "no temporary file is left"


def test_absolute_paths_lose_their_folders(tmp_path: Path) -> None:
    config = {"data_path": str(tmp_path / "ml"), "record_dir": "saved/records", "seed": 1}
    assert without_machine(config) == {"data_path": "ml", "record_dir": "saved/records", "seed": 1}


def test_names_become_parts_of_file_names() -> None:
    assert file_name("ChoirRec + group statistics, text_parts") == (
        "ChoirRec_group_statistics_text_parts"
    )


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    one, two = file_name("x" * 400), file_name("x" * 399 + "y")
    assert len(one) == len(two) == 100
    assert one != two
    assert file_name("x" * 100) == "x" * 100


def test_a_record_that_its_folder_does_not_take_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in: the disk of one folder is full."""
    monkeypatch.setattr(record, "write_whole", _full_below(tmp_path / "full"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "full" / "ml-100k-Base-1.json"
    with pytest.raises(DataError) as caught:
        record.keep_record(path, {"test": {"gauc": 0.7}})
    assert str(caught.value) == (
        f"record {path}: cannot be written: No space left on device; it is kept in "
        f"{tmp_path / path.name}"
    )
    assert json.loads((tmp_path / path.name).read_text()) == {"test": {"gauc": 0.7}}


def test_a_record_that_no_folder_takes_is_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "write_whole", _full_below(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError, match="it is kept on standard output"):
        record.keep_record(tmp_path / "r.json", {"test": {"gauc": 0.7}})
    assert json.loads(capsys.readouterr().out) == {"test": {"gauc": 0.7}}


def test_a_record_without_rights_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"r\.json: cannot be written: (Not a dir|File exists)"):
        record.keep_record(tmp_path / "file" / "r.json", {"name": str(tmp_path)})


def _full_below(folder: Path) -> Callable[[Path, str], None]:
    def write(path: Path, text: str) -> None:
        if folder in Path(path).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, text)

    return write
