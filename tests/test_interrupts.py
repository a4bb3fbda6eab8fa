"""Interrupts and kills: of a process that starts others, and of what it has started."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from recbole_choir.processes import Interrupts, interrupts_held, is_alive

#: A test waits this long for what takes an instant on an idle machine.
PATIENCE = 60.0

PARENT = """
    import signal, sys, time
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from recbole_choir.processes import interrupts_held, start_worker

    if __name__ == "__main__":
        pool = ProcessPoolExecutor(1, get_context("spawn"), start_worker)
        with interrupts_held():
            pool.submit(time.sleep, 0).result()
            pool.submit(time.sleep, 600)
        print(*pool._processes, flush=True)
        signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
        while True:
            time.sleep(600)
"""

COUNTING = """
    import time
    from recbole_choir.processes import Interrupts

    with Interrupts.counted("once more ends at once") as interrupts:
        print("ready", flush=True)
        while True:
            time.sleep(0.05)
            if interrupts.seen:
                print("seen", flush=True)
                time.sleep(600)
"""


def script(tmp_path: Path, text: str) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    command = [sys.executable, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_first_interrupt_is_answered_and_the_second_ends(tmp_path: Path) -> None:
    with script(tmp_path, COUNTING) as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert line(process) == "seen"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert error.split("\n")[1] == "once more ends at once"
    assert "stopped: the same command goes on where this one was" in error


def test_a_worker_outlives_interrupts_and_ends_with_its_killed_parent(tmp_path: Path) -> None:
    with script(tmp_path, PARENT) as process:
        worker = psutil.Process(int(line(process)))
        psutil.Process(process.pid).send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGINT)
        assert line(process) == "interrupted"
        assert worker.is_running()
        assert worker.status() != psutil.STATUS_ZOMBIE
        process.kill()
        _, left = psutil.wait_procs([worker], timeout=PATIENCE)
        process.communicate()
    assert left == []


def test_an_interrupt_that_was_held_comes_at_the_end() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("now"))
    try:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            seen.append("held")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["held", "now"]


def test_the_handler_of_before_comes_back() -> None:
    # a shell's background job ignores interrupts, and so may whoever runs this test
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts.counted("first") as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert interrupts.seen
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, outside)


def test_who_is_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not is_alive(process.pid)
    assert not is_alive(2**70)
    assert is_alive(psutil.Process().pid)
