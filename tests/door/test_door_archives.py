"""Archives, packs and downloads: damaged, cut short, hostile or too large, each in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_dataset import Door, write_dataset

from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.dataset_adapters import download, limits
from recbole_choir.dataset_adapters.download import Download, fetch, unpack
from recbole_choir.dataset_adapters.raw import RawFile, RawFolder
from recbole_choir.errors import DataError, TableError
from recbole_choir.experiments import record_store
from recbole_choir.files import parse_json
from recbole_choir.record import file_name

GOOD = b"a,b\n" + b"1,2\n" * 50
BOMB = bytes(2_000_000)
DEEP = "[" * 100_000


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte in place of 64, so that a bomb of two is one."""
    monkeypatch.setattr(limits, "SMALL", 1 << 20)
    monkeypatch.setattr(limits, "RATIO", 20)


def zipped(content: bytes, *names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in names or ("r.csv",):
            archive.writestr(name, content)
    return out.getvalue()


def tarred(content: bytes, name: str = "r.csv", kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
        info.linkname = "/etc/passwd"
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


RAW: list[tuple[str, str, bytes, str]] = [
    ("gzip bomb", ".gz", gzip.compress(BOMB), "expected at most 1 MiB in a compressed file of"),
    ("xz bomb", ".xz", lzma.compress(BOMB), "expected at most 1 MiB in a compressed file of"),
    ("bz2 bomb", ".bz2", bz2.compress(BOMB), "expected at most 1 MiB in a compressed file of"),
    ("zip bomb", ".zip", zipped(BOMB), "expected at most 1 MiB in a compressed file of"),
    ("gzip cut", ".gz", gzip.compress(GOOD)[:-9], "cannot be read as utf-8 text"),
    ("xz cut", ".xz", lzma.compress(GOOD)[:-9], "cannot be read as utf-8 text"),
    ("bz2 cut", ".bz2", bz2.compress(GOOD)[:-9], "cannot be read as utf-8 text"),
    ("zip cut", ".zip", zipped(GOOD)[:-9], "cannot be read as utf-8 text"),
    ("gzip none", ".gz", b"hello", "cannot be read as utf-8 text: Not a gzipped file"),
    ("xz none", ".xz", b"hello", "cannot be read as utf-8 text"),
    ("bz2 none", ".bz2", b"hello", "cannot be read as utf-8 text"),
    ("zip none", ".zip", b"hello", "cannot be read as utf-8 text: File is not a zip file"),
    ("gzip body", ".gz", gzip.compress(GOOD)[:12] + b"\xff" * 30, "cannot be read as utf-8 text"),
    ("two in a zip", ".zip", zipped(GOOD, "a", "b"), "expected a zip with one file, got 2"),
    ("none in a zip", ".zip", zipped(GOOD, "a/"), "expected a zip with one file, got 0"),
]


@pytest.mark.parametrize(("name", "suffix", "content", "message"), RAW, ids=[r[0] for r in RAW])
def test_a_compressed_file_is_one_line(
    small_limits: None, tmp_path: Path, name: str, suffix: str, content: bytes, message: str
) -> None:
    path = tmp_path / f"r.csv{suffix}"
    path.write_bytes(content)
    raw = RawFile("r.csv", ("a", "b"), header=True)
    folder = RawFolder(tmp_path, (raw,), "nowhere")
    with pytest.raises(DataError) as caught:
        list(folder.chunks("r.csv"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_compressed_file_is_read(small_limits: None, tmp_path: Path) -> None:
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(GOOD))
    raw = RawFile("r.csv", ("a", "b"), header=True)
    (chunk,) = RawFolder(tmp_path, (raw,), "nowhere").chunks("r.csv")
    assert len(chunk) == 50


ARCHIVES: list[tuple[str, bytes, str]] = [
    ("zip bomb", zipped(BOMB), "expected at most 1 MiB in a compressed file of"),
    ("tar bomb", tarred(BOMB), "expected at most 1 MiB in a compressed file of"),
    ("tar bomb beside it", tarred(BOMB, "other"), "expected at most 1 MiB in a compressed file of"),
    ("zip cut", zipped(GOOD)[:-30], "cannot be unpacked"),
    ("tar cut", tarred(GOOD)[:-30], "cannot be unpacked"),
    ("no archive", b"<html>moved</html>", "cannot be unpacked"),
    ("empty", b"", "cannot be unpacked"),
    ("without it", zipped(GOOD, "other.csv"), "expected 'r.csv' in it, found none"),
    ("a link", tarred(b"", kind=tarfile.SYMTYPE), "expected 'r.csv' in it, found none"),
    ("a hard link", tarred(b"", kind=tarfile.LNKTYPE), "expected 'r.csv' in it, found none"),
    ("a device", tarred(b"", kind=tarfile.CHRTYPE), "expected 'r.csv' in it, found none"),
    ("a folder", tarred(b"", kind=tarfile.DIRTYPE), "expected 'r.csv' in it, found none"),
]


@pytest.mark.parametrize(("name", "content", "message"), ARCHIVES, ids=[a[0] for a in ARCHIVES])
def test_an_archive_is_one_line(
    small_limits: None, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    archive, target = tmp_path / "a.bin", tmp_path / "out"
    target.mkdir()
    archive.write_bytes(content)
    with pytest.raises(DataError) as caught:
        unpack(archive, ["r.csv"], target)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["../../r.csv", "/etc/r.csv", "a/../../r.csv"])
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_path_in_an_archive_is_no_path_on_disk(
    tmp_path: Path, make: Callable[..., bytes], name: str
) -> None:
    archive, target = tmp_path / "a.bin", tmp_path / "deep" / "out"
    target.mkdir(parents=True)
    archive.write_bytes(make(GOOD, name))
    assert unpack(archive, ["r.csv"], target) == [target / "r.csv"]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.bin", "r.csv"]


# --- packs of records ----------------------------------------------------------------------------


def packed(text: str) -> bytes:
    return lzma.compress(text.encode())


PACKS: list[tuple[str, bytes, str]] = [
    ("out of the folder", packed('{"file": "../x.json"}\n'), "names of files in its folder, got"),
    ("absolute", packed('{"file": "/x.json"}\n'), "expected names of files in its folder, got"),
    ("a number", packed('{"file": 7}\n'), "expected names of files in its folder, got 7"),
    ("no name", packed('{"a": 7}\n'), "not packed records: 'file'"),
    ("a list", packed("[1]\n"), "not packed records"),
    ("no json", packed("hello\n"), "not packed records"),
    ("deep", packed(DEEP), "not packed records: nested too deeply"),
    ("no xz", b"hello", "not packed records"),
    ("cut", packed('{"file": "a.json"}\n')[:-9], "not packed records: it ends early"),
    ("bomb", packed(" " * 2_000_000), "not packed records: expected at most 1 MiB, got more"),
]


@pytest.mark.parametrize(("name", "content", "message"), PACKS, ids=[p[0] for p in PACKS])
def test_a_pack_is_one_line(
    door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(record_store, "LARGEST_PACK", 1 << 20)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "records.jsonl.xz").write_bytes(content)
    assert message in door("records", "unpack", "in").line
    assert message in door("report", "in", "--out", "page.html").line
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["records.jsonl.xz"]


@pytest.mark.parametrize("content", [DEEP, "{", "", '{"a": }', "\x00", "nul"])
def test_a_record_that_is_no_json_is_one_line(door: Door, tmp_path: Path, content: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.json").write_text(content)
    assert "x.json: not readable JSON" in door("records", "pack", "in").line
    assert "x.json: not readable JSON" in door("report", "in", "--out", "page.html").line


def test_deep_json_is_no_recursion(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    (tmp_path / "manifest.json").write_text(DEEP)
    with pytest.raises(TableError, match=r"manifest\.json: not a readable manifest: nested too"):
        SemanticTable.load(tmp_path)


@pytest.mark.parametrize("content", [DEEP, "{", "[]", "7", '"text"', "\x00"])
def test_a_damaged_manifest_of_an_adapter_counts_as_none(
    run_small: Door, tmp_path: Path, content: str
) -> None:
    folder = write_dataset(tmp_path) / "small"
    (folder / "manifest.json").write_text(content)
    answer = run_small()
    assert answer.code == 0, answer.err


# --- downloads -----------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """A server that says it has more than any disk, or goes on and on."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/said.bin":
            self.send_header("Content-Length", str(1 << 50))
        elif self.path == "/room.bin":
            self.send_header("Content-Length", str(100 << 30))
        self.end_headers()
        if self.path == "/endless.bin":
            try:
                for _ in range(400):
                    self.wfile.write(bytes(1 << 14))
            except OSError:
                return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_download_has_a_size(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"expected at most 262,144 MiB, got 1,073,741,824 MiB"):
        fetch(Download(f"{server}/said.bin"), tmp_path, attempts=1, wait=0)
    free = type("Usage", (), {"free": 5 << 20})()
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: free)  # a nearly full disk
    with pytest.raises(DataError, match=r"expected room for 102,400 MiB in .*, got 5 MiB"):
        fetch(Download(f"{server}/room.bin"), tmp_path, attempts=1, wait=0)
    monkeypatch.setattr(download, "LARGEST", 2 << 20)
    with pytest.raises(DataError, match=r"endless.bin: expected at most 2 MiB, got 2 MiB or more"):
        fetch(Download(f"{server}/endless.bin"), tmp_path, attempts=1, wait=0)
    assert not (tmp_path / "endless.bin").exists()


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["record_dir", "checkpoint_dir"])
@pytest.mark.parametrize("where", ["/proc/nosuch", "/dev/null/x", "taken"])
def test_a_folder_that_cannot_be_written_is_found_before_training(
    run_small: Door, tmp_path: Path, key: str, where: str
) -> None:
    write_dataset(tmp_path, inter="never read")
    (tmp_path / "taken").write_text("a file")
    assert f"{key}: {where} cannot be written: " in run_small(**{key: where}).line


def test_a_full_disk_is_found_before_training(
    run_small: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, inter="never read")
    free = type("Usage", (), {"free": 5 << 20})()
    monkeypatch.setattr("recbole_choir.files.shutil.disk_usage", lambda path: free)
    line = run_small().line
    assert "record_dir: " in line
    assert "expected 32 MiB of room, got 5 MiB" in line


def test_the_folder_of_tables_is_probed_before_one_is_made(run_small: Door, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    keys = {"model": "ChoirRec", "semantic__input": "random", "semantic_dir": "/dev/null/x"}
    line = run_small(**keys, context_fields="[]").line
    assert "semantic_dir: /dev/null/x cannot be written: Not a directory" in line


def test_the_folder_of_a_report_is_probed(door: Door, tmp_path: Path) -> None:
    line = door("report", ".", "--out", "/dev/null/x/page.html").line
    assert "--out: /dev/null/x cannot be written: Not a directory" in line


@pytest.mark.parametrize("name", ["x" * 400, "é" * 400, "a/b/../c", "x y:z*?", "..", " "])
def test_any_name_of_a_run_is_a_file(run_small: Door, tmp_path: Path, name: str) -> None:
    write_dataset(tmp_path)
    answer = run_small(run_name=f"'{name}'", save_predictions=True)
    assert answer.code == 0, answer.err
    (record,) = (tmp_path / "records").glob("*.json")
    assert json.loads(record.read_text())["name"] == name
    assert len(record.name.encode()) < 255
    assert record.with_suffix(".npz").is_file()


def test_long_names_stay_different() -> None:
    one, two = file_name("x" * 400 + "a"), file_name("x" * 400 + "b")
    assert len(one) == len(two) == 100
    assert one != two
