"""Work that costs much is done once, also where several workers want it at the same moment."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from recbole_choir import files as one_at_a_time
from recbole_choir.errors import ConfigError
from recbole_choir.semantic.encoders import encoder as encode
from recbole_choir.semantic.encoders.encoder import Encoder

WAITING = "another process makes some now"


class SlowModel:
    """Takes its time, and counts the texts it is given."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.begun = threading.Event()

    def encode(self, sentences: list[str], **options: Any) -> np.ndarray:
        self.texts += sentences
        self.begun.set()
        time.sleep(0.02)
        return np.array([[len(s), ord(s[0])] for s in sentences], np.float64)


def test_two_encoders_of_the_same_texts_pay_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = SlowModel()
    monkeypatch.setattr(encode, "load_model", lambda name, device: model)
    texts = [f"{k} things" for k in range(12)]

    def run(more: list[str]) -> np.ndarray:
        encoder = Encoder(cache_dir=tmp_path, batch_size=2)
        return encoder.encode(texts + more, show_progress=False)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, [])
        assert model.begun.wait(10)
        second = pool.submit(run, ["another"])
        np.testing.assert_array_equal(first.result(), second.result()[:12])
    assert sorted(model.texts) == sorted([*texts, "another"])
    assert caplog.text.count(WAITING) == 1


def test_who_is_killed_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "make.lock"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from recbole_choir.files import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1]), 'vectors'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert not _free(path)
        other.kill()
    with one_at_a_time.one_at_a_time(path, "vectors"):
        assert not _free(path)
    assert _free(path)


def _free(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True


def test_a_failure_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_at_a_time.one_at_a_time(tmp_path / "l", "x"):
        _ = 1 / 0
    assert _free(tmp_path / "l")


def test_without_locks_the_work_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*a: Any, **k: Any) -> None:
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(one_at_a_time.FileLock, "acquire", refused)
    done = []
    with one_at_a_time.one_at_a_time(tmp_path / "l", "x"):
        done.append(1)
    assert done == [1]
    assert "no locks here" in caplog.text


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    one_at_a_time.write_whole(path, "old")

    def fails() -> None:
        with one_at_a_time.whole_file(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            assert temporary.suffix == ".txt"
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fails()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    with one_at_a_time.whole_file(path, durable=True) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_text() == "new"


def test_a_folder_is_probed_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_at_a_time.probe_folder("record_dir", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^record_dir: .*file cannot be written: File exists"):
        one_at_a_time.probe_folder("record_dir", tmp_path / "file")
    monkeypatch.setattr(one_at_a_time, "LEAST_ROOM", 1 << 60)
    with pytest.raises(ConfigError, match=r"expected 1099511627776 MiB of room, got \d+"):
        one_at_a_time.probe_folder("record_dir", tmp_path)


def test_what_killed_processes_left_is_swept_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "recbole_choir")
    script = (
        "import os, signal, sys\n"
        "from recbole_choir.files import whole_file\n"
        "with whole_file(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "m.pth")])
    (left,) = tmp_path.iterdir()
    assert left.name.endswith("-m.pth")
    others = [tmp_path / "m.pth", tmp_path / ".hidden", tmp_path / ".writing-elsewhere-1-m.pth"]
    for path in others:
        path.write_text("whole")
    with one_at_a_time.whole_file(tmp_path / "n.pth") as mine:
        mine.write_text("at work")
        assert one_at_a_time.sweep(tmp_path) == [left]
        assert mine.exists(), "its process is at work"
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "n.pth"])
    assert "removed 1 unfinished files of killed processes" in caplog.text


def test_a_folder_that_is_probed_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    left = tmp_path / f"{one_at_a_time._UNFINISHED}{process.pid}-m.pth"
    left.write_text("half")
    one_at_a_time.probe_folder("checkpoint_dir", tmp_path)
    assert not left.exists()
