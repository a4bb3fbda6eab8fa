"""Clients killed at random moments, servers that fail, two processes on one store.

What is promised, and what these tests check, request by request in the server's log:

- A key whose profile or final failure was committed is never requested again, by nobody.
- While a process lives, it never requests again what it got a good reply for. So only what was in
  flight at a kill can repeat, and replies whose commit had not ended: at most twice
  ``concurrency`` in all.
- In the end every user has exactly one valid profile or a recorded failure.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path
from threading import RLock
from typing import Any

import pytest
import small_run
from fault_server import FaultServer, by_chance, profile_of
from tqdm import tqdm

import recbole_choir
from recbole_choir.semantic.profiles import asking
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import Failure

pytest.importorskip("openai")

CONCURRENCY = 8
# Hanging and dripping requests are left soon, slow ones of a busy machine are not.
SHORT = {"read_timeout": 1.5, "request_timeout": 5.0}
FAULTS = {
    "429": 0.04,
    "500": 0.04,
    "hang": 0.004,
    "close": 0.02,
    "reset": 0.03,
    "truncate": 0.03,
    "cut": 0.02,
    "garbage": 0.02,
    "drip": 0.004,
    "wrong": 0.05,
}


def client(url: str, path: str, n: int, changes: dict[str, Any]) -> None:
    """The process that is killed."""
    asking._FIRST_WAIT = 0.01
    tqdm.set_lock(RLock())  # its own would be left behind by a kill
    values = {"concurrency": CONCURRENCY, "attempts": 20, "lease_seconds": 30} | SHORT | changes
    small_run.run(url, Path(path), n, **values)


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported: forked from one that has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_profile_faults", "small_run", "openai", "aiohttp"])
    paths = [str(Path(__file__).parent), str(Path(recbole_choir.__file__).parents[1])]
    # pytest names this file "tests.semantic..." from the root, which only "python -m" puts there
    root = str(Path(__file__).parents[4])
    with pytest.MonkeyPatch.context() as patch:
        # it does not learn the path of its parent (Python issue 90876), its children do
        patch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
        patch.setattr(sys, "path", [*sys.path, root])
        forkserver.ensure_running()
        yield context


@pytest.fixture
def start(processes, server, tmp_path):
    started = []

    def one(n: int, **changes: Any):
        arguments = (server.url, str(tmp_path / "p"), n, changes)
        child = processes.Process(target=client, args=arguments)
        child.start()
        started.append(child)
        return child

    yield one
    for child in started:
        child.kill()
        child.join()


@pytest.fixture
def both_at_work(server):
    """Nobody is answered before two processes ask; starting one can take a while."""
    server.hold_until_open = CONCURRENCY + 1
    return {"read_timeout": 60.0, "request_timeout": 60.0}


def committed(path: Path) -> set[bytes]:
    """Keys with a profile or a final failure, read without our own code."""
    if not path.exists():
        return set()
    db = sqlite3.connect(path)
    try:
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return set()
        rows = db.execute("SELECT key FROM profiles UNION SELECT key FROM failures WHERE final")
        return {key for (key,) in rows}
    finally:
        db.close()


@functools.lru_cache(maxsize=1)
def users_by_key(url: str, n: int) -> dict[bytes, str]:
    settings = small_run.settings_for(url)
    generator = small_run.OpenAIGenerator(settings)
    maker = small_run.KeyMaker(generator.model_id, generator.parameters)
    return {maker.key(p): p.user_id for p in small_run.prompts(n)}


def names_of(keys: set[bytes], url: str, n: int) -> set[str]:
    users = users_by_key(url, n)
    return {users[key] for key in keys}


def check_final(path: Path, url: str, n: int) -> int:
    """Everybody has one row, and it is right. Returns the number of failures."""
    with ProfileStore(path) as store:
        keys = users_by_key(url, n)
        found = store.get(list(keys))
        assert len(found) == n
        failures = 0
        for key, result in found.items():
            if isinstance(result, Failure):
                failures += 1
                assert result.reason in ("schema", "unavailable")
            else:
                assert result == f"I: profile of {keys[key]}"
        assert store.count()["profiles"] == n - failures
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)
        both = "SELECT count(*) FROM profiles JOIN failures USING (key)"
        assert store._db.execute(both).fetchone() == (0,)
    return failures


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.001)


@pytest.mark.slow
def test_kills_at_random_moments(start, server, tmp_path):
    """``KILLS`` says how many, ``KILLS_RECORD`` where the counts are written."""
    kills = int(os.environ.get("KILLS", "55"))
    n = 27 * kills + 15
    path = tmp_path / "p"
    server.choose = by_chance(FAULTS, seed=1, delay=0.004)
    rng = random.Random(2)
    for number in range(kills + 1):
        server.run = number
        before = len(server.log)
        done = names_of(committed(path), server.url, n)
        assert len(done) < n, "nothing was left to be killed at"
        child = start(n)
        if number < kills:
            goal = before + rng.randint(1, 40)
            wait_for(lambda goal=goal: len(server.log) >= goal)
            time.sleep(rng.random() * 0.02)
            os.kill(child.pid, signal.SIGKILL)
        child.join(120 if number < kills else 1200)  # the last one does all that is left
        assert child.exitcode == (-signal.SIGKILL if number < kills else 0)
        asked = server.log[before:]
        # nothing that was committed before this run was asked for in it
        assert {r.user for r in asked} & done == set()
        # a good reply that was written in full is the last request of that user in a run
        last = {r.user: r for r in asked}
        repeats = [r for r in asked if r.finished and last[r.user] is not r]
        assert repeats == []
        # good replies that a kill loses
        stored = names_of(committed(path), server.url, n)
        assert len({r.user for r in asked if r.finished} - stored) <= 2 * CONCURRENCY
    failures = check_final(path, server.url, n)
    finished = Counter(r.user for r in server.log if r.finished)
    repeated = sum(finished.values()) - len(finished)
    assert sum(finished.values()) >= n - failures
    counted = {
        "kills": kills,
        "users": n,
        "requests": len(server.log),
        "concurrency": CONCURRENCY,
        "lost": 0,  # check_final: everybody has one row, and it is right
        "stored asked again": 0,  # asserted run by run
        "users with a recorded failure": failures,
        "answered asked again": repeated,
        "answered asked again, a kill": round(repeated / kills, 2),
    }
    print(counted)
    if record := os.environ.get("KILLS_RECORD"):
        Path(record).write_text(json.dumps(counted, indent=2) + "\n")


@pytest.mark.slow
def test_two_processes_ask_for_everything_once(start, server, tmp_path, both_at_work):
    server.choose = by_chance({}, delay=0.003)
    children = [start(800, **both_at_work) for _ in range(2)]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert server.times_asked() == Counter({f"u{i}": 1 for i in range(800)})
    assert check_final(tmp_path / "p", server.url, 800) == 0


@pytest.mark.slow
def test_the_survivor_takes_over_at_once(start, server, tmp_path, both_at_work):
    server.choose = by_chance({"500": 0.05, "reset": 0.05, "wrong": 0.03}, delay=0.005)
    n = 800
    survivor, victim = (start(n, **both_at_work) for _ in range(2))
    wait_for(lambda: server.most_open > CONCURRENCY)
    asked = len(server.log)
    wait_for(lambda: len(server.log) > asked + 50)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    start_of_rest = time.monotonic()
    survivor.join(120)
    assert survivor.exitcode == 0
    assert time.monotonic() - start_of_rest < 25  # less than the 30 s of a silent owner's lease
    check_final(tmp_path / "p", server.url, n)
    finished = Counter(r.user for r in server.log if r.finished)
    assert sum(finished.values()) - len(finished) <= 2 * CONCURRENCY


@pytest.mark.slow
def test_a_process_that_stands_still_is_waited_for_and_then_left(start, server, tmp_path):
    """Stopped, not killed: it lives, so only its silence tells. What it does later harms nobody."""
    server.choose = by_chance({}, delay=0.005)
    n = 300
    sleeper = start(n)
    wait_for(lambda: len(server.log) > 50)
    path = tmp_path / "p"
    assert stopped_between_writes(sleeper.pid, path)
    other = start(n)
    other.join(60)
    assert other.exitcode == 0
    assert check_final_allowing_leases(path, n)
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(60)
    assert sleeper.exitcode == 0
    check_final(path, server.url, n)


def stopped_between_writes(pid: int, path: Path) -> bool:
    """Stop a process and age its heartbeat; in the middle of a write nobody else can write."""
    for _ in range(50):
        os.kill(pid, signal.SIGSTOP)
        db = sqlite3.connect(path, timeout=0.2)
        try:
            with db:
                db.execute("UPDATE owners SET heartbeat = heartbeat - 27")
            return True
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        finally:
            db.close()
    return False


def check_final_allowing_leases(path: Path, n: int) -> bool:
    return len(committed(path)) == n


def test_every_fault_is_survived(server, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "_FIRST_WAIT", 0.01)
    server.choose = by_chance(FAULTS, seed=3)
    outcome = small_run.run(
        server.url, tmp_path / "p", 150, concurrency=CONCURRENCY, attempts=20, **SHORT
    )
    failures = check_final(tmp_path / "p", server.url, 150)
    assert (outcome.done, outcome.failed) == (150 - failures, failures)
    assert failures <= 2
    assert outcome.requests == len(server.log)
    finished = Counter(r.user for r in server.log if r.finished)
    assert set(finished.values()) == {1}


def test_the_log_of_the_server_is_to_be_trusted(tmp_path):
    """The tests above rest on it: who was answered in full, and how often."""
    with FaultServer(by_chance({"wrong": 0.5}, seed=0)) as server:
        outcome = small_run.run(server.url, tmp_path / "p", 40, retries=0)
        good = [r.user for r in server.log if r.finished]
        assert len(good) == len(set(good)) == outcome.done
        assert 5 < outcome.failed < 35
        assert profile_of("u1") == '{"identity": "profile of u1"}'
