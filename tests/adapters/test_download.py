"""Downloads from a server on this machine: broken off and resumed, checked, never fetched twice."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from recbole_choir.cli import main
from recbole_choir.dataset_adapters import download_command, get_adapter
from recbole_choir.dataset_adapters.download import Download, fetch, unpack
from recbole_choir.dataset_adapters.movielens import MovieLens1M
from recbole_choir.errors import DataError

BLOCK = 1 << 14  # what has come of a block when a connection breaks is lost
CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server:
    """A file server that can break off, forget ranges and change its file.

    Attributes:
        content: What it serves under every path but ``/missing``.
        tag: Its ETag.
        breaks: Bytes after which the next connections end, one of them each.
        ranges: Whether it understands ranges.
        asked: The Range header of every request.
    """

    def __init__(self) -> None:
        self.content, self.tag, self.ranges = CONTENT, '"one"', True
        self.breaks: list[int] = []
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if request.path == "/missing.zip":
            request.send_error(404, "Not Found")
            return
        start = 0
        if wanted and self.ranges and request.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            request.send_error(416)
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            request.send_header("Content-Range", span)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", self.tag)
        request.end_headers()
        if self.breaks:
            request.wfile.write(body[: self.breaks.pop(0)])
            request.wfile.flush()
            request.connection.close()
            return
        request.wfile.write(body)

    def url(self, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"

    def offer(self, content: bytes | None = None, name: str = "file.bin") -> Download:
        digest = hashlib.sha256(self.content if content is None else content).hexdigest()
        return Download(self.url(name), f"sha256:{digest}")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()
    running.thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    got = fetch(server.offer(), tmp_path / "new" / "folder")
    assert got.read_bytes() == CONTENT
    assert names(got.parent) == ["file.bin"], "nothing else is left"
    assert server.asked == [None]


def test_a_whole_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server.offer(), tmp_path)
    fetch(server.offer(), tmp_path)
    assert len(server.asked) == 1


def test_a_broken_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks = [60 * BLOCK + 5, 30 * BLOCK]
    got = fetch(server.offer(), tmp_path, wait=0)
    assert got.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={60 * BLOCK}-", f"bytes={90 * BLOCK}-"]


def test_a_later_call_goes_on_as_well(server: Server, tmp_path: Path) -> None:
    server.breaks = [75 * BLOCK, 0, 0]
    with pytest.raises(DataError, match=r"broke off after 1,228,800 bytes .* goes on from there"):
        fetch(server.offer(), tmp_path, attempts=2, wait=0)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    server.asked.clear()
    assert fetch(server.offer(), tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={75 * BLOCK}-"]
    assert names(tmp_path) == ["file.bin"]


def test_a_file_that_changed_meanwhile_begins_anew(server: Server, tmp_path: Path) -> None:
    server.breaks = [1_000_000, 0]
    with pytest.raises(DataError):
        fetch(server.offer(), tmp_path, attempts=1, wait=0)
    server.content, server.tag = CONTENT[::-1], '"two"'
    assert fetch(server.offer(), tmp_path).read_bytes() == CONTENT[::-1], "no mixture of both"


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.breaks = False, [1_000_000]
    assert fetch(server.offer(), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "file.bin.part.json").write_text('{"validator": "\\"one\\""}')
    assert fetch(server.offer(), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_wrong_checksum_is_one_line_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected sha256 .*, got .*it was removed") as caught:
        fetch(server.offer(b"other"), tmp_path)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="remove it and fetch again"):
        fetch(server.offer(), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"mine", "a file of the user is not touched"


def test_refusals_are_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.zip: the server says 404 Not Found"):
        fetch(server.offer(name="missing.zip"), tmp_path)
    url = server.url()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(DataError, match="broke off after 0 bytes") as caught:
        fetch(Download(url), tmp_path, attempts=1, wait=0)
    assert "\n" not in str(caught.value)


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"ml-1m/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def test_members_are_found_by_name_and_never_written_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("KuaiRand-Pure/data/x.csv", "../../outside.csv"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"1,2"))
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    unpack(path, ["x.csv", "outside.csv"], folder)
    assert names(folder) == ["outside.csv", "x.csv"]
    assert not (tmp_path / "outside.csv").exists()
    with pytest.raises(DataError, match=r"expected 'y.csv' in it, found none"):
        unpack(path, ["y.csv"], folder)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cannot be unpacked: .*remove it and fetch again"):
        unpack(path, ["x.csv"], folder)


def test_the_command_fetches_unpacks_and_then_has_nothing_to_do(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.content = zipped(
        ratings_dat=b"1::2::3::4\n", users_dat=b"u", movies_dat=b"m", README=CONTENT[:99_999]
    )
    offer = Download(**{**server.offer(name="ml-1m.zip").__dict__, "archive": True})
    monkeypatch.setattr(MovieLens1M, "downloads", (offer,))
    server.breaks = [2 * BLOCK]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    raw = tmp_path / "raw"
    for _ in range(2):
        assert main(["download", "ml-1m", "--raw", str(raw)]) == 0
    assert names(raw / "movielens-1m") == ["movies.dat", "ratings.dat", "users.dat"]
    assert server.asked == [None, f"bytes={2 * BLOCK}-"], "the second time nothing is fetched"
    out = capsys.readouterr().out
    assert "terms: for research" in out
    assert f"--dataset=ml-1m --raw_data_path={raw}" in out


def test_the_command_says_where_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "taobao-ad", "--raw", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "its makers offer no file to programs; get it from https://tianchi" in error
    assert "put raw_sample.csv, ad_feature.csv, user_profile.csv into" in error


def test_every_offer_is_https_with_a_checksum_or_row_counts() -> None:
    for name, adapter in download_command.adapters().items():
        for offer in adapter.downloads:
            assert offer.url.startswith("https://"), name
            assert offer.checksum or all(file.rows for file in adapter.files), name
            assert adapter.terms, name


def test_missing_files_say_how_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"or by recbole-choir download ml-1m"):
        get_adapter("ml-1m").convert(tmp_path, tmp_path / "out")
