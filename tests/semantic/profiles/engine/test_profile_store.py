"""The store: durable rows, leases between processes, errors that lose nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import recbole_choir
from recbole_choir.errors import DataError
from recbole_choir.semantic.profiles.store import Finished, Process, ProfileStore
from recbole_choir.semantic.profiles.types import Failure, KeyMaker, Prompt


def key(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def good(n: int, text: str | None = None) -> Finished:
    return Finished(key(n), f"text {n}" if text is None else text, 1, 20, 10)


def bad(n: int, final: bool = True, tries: int = 3) -> Finished:
    return Finished(key(n), Failure("schema", "no\nfield"), tries, 60, 30, final)


class TestRows:
    def test_what_is_committed_is_read_after_reopening(self, tmp_path):
        path = tmp_path / "deep" / "profiles.sqlite"
        with ProfileStore(path) as store:
            store.commit([good(1, "Ünïcode \u4e2d\n\0 end"), good(2), bad(3)], "source")
        with ProfileStore(path) as store:
            assert store.get([key(3), key(2), key(1), key(0)]) == {
                key(1): "Ünïcode \u4e2d\n\0 end",
                key(2): "text 2",
                key(3): Failure("schema", "no field"),
            }
            assert store.count() == {
                "profiles": 2,
                "failures": {"schema": 1},
                "tries": 5,
                "prompt_tokens": 100,
                "completion_tokens": 50,
            }

    def test_a_profile_is_never_overwritten(self, store):
        store.commit([good(1, "first")], "a")
        store.commit([good(1, "second")], "b")
        store.commit([bad(1)], "b")
        assert store.get([key(1)]) == {key(1): "first"}
        assert store.count()["failures"] == {}

    def test_a_profile_replaces_a_failure_and_tries_of_failures_add_up(self, store):
        store.commit([bad(1), bad(2)], "a")
        store.commit([bad(2, tries=2)], "a")
        store.commit([good(1)], "a")
        assert store.get([key(1)]) == {key(1): "text 1"}
        rows = store._db.execute("SELECT key, tries, prompt_tokens FROM failures").fetchall()
        assert rows == [(key(2), 5, 120)]

    def test_keys_beyond_one_query(self, store):
        store.commit([good(n) for n in range(1700)], "a")
        assert len(store.get([key(n) for n in range(2000)])) == 1700
        known = store.known([key(n) for n in range(2000)])
        assert known.done == {key(n) for n in range(1700)}
        missing = list(store.missing(key(n) for n in range(1690, 1710)))
        assert missing == [key(n) for n in range(1700, 1710)]

    def test_a_damaged_text_is_absent_and_written_anew(self, store, caplog):
        store.commit([good(1), good(2)], "a")
        store._db.execute(
            "UPDATE profiles SET text = CAST(x'ff00' AS TEXT) WHERE key = ?", [key(1)]
        )
        assert store.get([key(1), key(2)]) == {key(2): "text 2"}
        assert "1 damaged profiles removed" in caplog.text
        assert store.claim([key(1), key(2)]).mine == [key(1)]

    def test_every_commit_waits_for_the_disk(self, store):
        store.claim([key(1)])
        store.beat()
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_the_file_is_its_owners_alone(self, tmp_path):
        path = tmp_path / "p"
        with ProfileStore(path) as store:
            store.commit([good(1)], "s")
            modes = {f.name: f.stat().st_mode & 0o777 for f in tmp_path.iterdir()}
        assert set(modes) == {"p", "p-wal", "p-shm"}
        assert set(modes.values()) == {0o600}
        path.chmod(0o644)  # made by an earlier version
        with ProfileStore(path):
            assert path.stat().st_mode & 0o777 == 0o600

    def test_no_user_id_and_no_prompt_is_stored(self, store):
        prompt = Prompt("user-4711", (("user", "secret facts"),))
        maker = KeyMaker("model", {})
        store.commit([Finished(maker.key(prompt), "text")], maker.source)
        content = b"".join(p.read_bytes() for p in store.path.parent.iterdir())
        assert b"text" in content
        assert b"4711" not in content
        assert b"secret facts" not in content


class TestKeys:
    BASE = Prompt("u", (("system", "a"), ("user", "b")), {"x": 1, "y": 2}, 50)

    def test_users_with_one_prompt_share_a_key(self):
        other = Prompt("v", (("system", "a"), ("user", "b")), {"y": 2, "x": 1}, 50)
        assert KeyMaker("m", {"a": 1, "b": 2}).key(self.BASE) == KeyMaker(
            "m", {"b": 2, "a": 1}
        ).key(other)

    @pytest.mark.parametrize(
        "changed",
        [
            Prompt("u", (("system", "a"), ("user", "c")), {"x": 1, "y": 2}, 50),
            Prompt("u", (("system", "a\nuser\nb"),), {"x": 1, "y": 2}, 50),
            Prompt("u", (("user", "a"), ("system", "b")), {"x": 1, "y": 2}, 50),
            Prompt("u", (("system", "a"), ("user", "b")), {"x": 1, "y": 3}, 50),
            Prompt("u", (("system", "a"), ("user", "b")), None, 50),
            Prompt("u", (("system", "a"), ("user", "b")), {"x": 1, "y": 2}, 51),
            Prompt("u", (("system", "a"), ("user", "b")), {"x": 1, "y": 2}, 50, 2),
        ],
    )
    def test_whatever_changes_a_reply_changes_the_key(self, changed):
        maker = KeyMaker("m", {})
        assert maker.key(changed) != maker.key(self.BASE)
        assert maker.key(self.BASE) != KeyMaker("n", {}).key(self.BASE)
        assert maker.key(self.BASE) != KeyMaker("m", {"seed": 1}).key(self.BASE)


class TestLeases:
    def test_what_another_asks_for_is_elsewhere(self, tmp_path):
        with ProfileStore(tmp_path / "p") as a, ProfileStore(tmp_path / "p") as b:
            assert a.claim([key(1), key(2)]).mine == [key(1), key(2)]
            claim = b.claim([key(2), key(3)])
            assert (claim.mine, claim.elsewhere) == ([key(3)], [key(2)])
            assert a.claim([key(1), key(3)]).mine == [key(1)]
            a.commit([good(1), bad(2)], "a")
            claim = b.claim([key(1), key(2)])
            assert claim.known.done == {key(1)}
            assert claim.known.failed == {key(2): Failure("schema", "no field")}
            assert claim.mine == claim.elsewhere == []

    def test_leases_end_with_release_and_with_closing(self, tmp_path):
        with ProfileStore(tmp_path / "p") as b:
            with ProfileStore(tmp_path / "p") as a:
                a.claim([key(1)])
                a.release()
                assert b.claim([key(1)]).mine == [key(1)]
                a.claim([key(2)])
            assert b.claim([key(2)]).mine == [key(2)]

    def test_failures_that_are_not_final_are_asked_again(self, store):
        start = time.time()
        store.commit([bad(1), bad(2, final=False)], "a")
        keys = [key(1), key(2)]
        assert store.known(keys).failed.keys() == {key(1)}
        assert store.known(keys, retry_failed=True).failed == {}
        assert store.known(keys, retry_failed=True, since=start).failed.keys() == {key(1), key(2)}
        assert store.claim(keys).mine == [key(2)]

    def test_an_owner_that_is_silent_for_too_long_is_dead(self, tmp_path):
        with ProfileStore(tmp_path / "p", 50) as a, ProfileStore(tmp_path / "p", 50) as b:
            a.claim([key(1)])
            # an owner on another machine: nobody here can see whether it lives
            a._db.execute("UPDATE owners SET machine = 'elsewhere'")
            assert b.claim([key(1)]).mine == []
            a._db.execute("UPDATE owners SET heartbeat = heartbeat - 40 WHERE machine != ''")
            assert b.claim([key(1)]).mine == []
            a._db.execute("UPDATE owners SET heartbeat = heartbeat - 20 WHERE machine='elsewhere'")
            assert b.claim([key(1)]).mine == [key(1)]
            # it was not dead after all: what it brings counts once, and it can go on
            a.commit([good(1, "late")], "a")
            b.commit([good(1, "again")], "a")
            assert b.get([key(1)]) == {key(1): "late"}
            assert a.claim([key(2)]).mine == [key(2)]
            assert b.claim([key(2)]).elsewhere == [key(2)]

    def test_leases_of_a_killed_process_are_free_at_once(self, tmp_path):
        program = (
            "import sys, time; from recbole_choir.semantic.profiles.store import ProfileStore\n"
            "with ProfileStore(sys.argv[1]) as store:\n"
            "    store.claim([bytes(32), bytes([1] * 32)])\n"
            "    print('ready', flush=True); time.sleep(60)"
        )
        root = str(Path(recbole_choir.__file__).parents[1])
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "p")],
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
        )
        with ProfileStore(tmp_path / "p") as store:
            assert child.stdout.readline() == b"ready\n"
            assert store.claim([bytes(32)]).elsewhere == [bytes(32)]
            child.send_signal(signal.SIGKILL)
            deadline = time.monotonic() + 10
            # not waited for: it is still there, as a zombie
            while not store.claim([bytes(32)]).mine and time.monotonic() < deadline:
                time.sleep(0.01)
            assert store.claim([bytes(32)]).mine == [bytes(32)]
            child.wait()
            child.stdout.close()
            assert store._db.execute("SELECT count(*) FROM owners").fetchone() == (1,)
            assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (1,)

    def test_a_process_is_told_from_the_next_with_its_number(self):
        me = Process.current()
        assert me.is_gone() is False
        assert Process(me.machine, me.pid, "another start").is_gone() is True
        assert Process("another machine", me.pid, me.started).is_gone() is None
        assert Process(me.machine, 2**22 + 1, me.started).is_gone() is True


class TestErrors:
    def one_line(self, error: pytest.ExceptionInfo[DataError], *parts: str) -> None:
        text = str(error.value)
        assert "\n" not in text
        for part in parts:
            assert part in text

    def test_not_a_database(self, tmp_path):
        path = tmp_path / "p"
        path.write_bytes(b"something else\n" * 100)
        with pytest.raises(DataError) as error, ProfileStore(path):
            pass
        self.one_line(error, str(path), "damaged", "left as it is")
        assert path.read_bytes() == b"something else\n" * 100

    def test_another_sqlite_file(self, tmp_path):
        path = tmp_path / "p"
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE mine (x)")
        db.commit()
        db.close()
        with pytest.raises(DataError) as error, ProfileStore(path):
            pass
        self.one_line(error, "version 1", "another SQLite file")

    def test_a_later_version(self, tmp_path):
        with ProfileStore(tmp_path / "p") as store:
            store._db.execute("PRAGMA user_version = 7")
        with pytest.raises(DataError) as error, ProfileStore(tmp_path / "p"):
            pass
        self.one_line(error, "version 7")

    def test_a_damaged_page_is_an_error_and_stays(self, tmp_path):
        path = tmp_path / "p"
        with ProfileStore(path) as store:
            store.commit([good(n, "x" * 500) for n in range(500)], "a")
        content = bytearray(path.read_bytes())
        for start in range(4096, len(content), 4096):  # all but the first page
            content[start : start + 100] = b"\xff" * 100
        path.write_bytes(content)
        with pytest.raises(DataError) as error, ProfileStore(path) as store:
            store.get([key(n) for n in range(500)])
        self.one_line(error, "damaged", ".recover")
        assert path.read_bytes() == content

    def test_a_full_disk_keeps_what_was_there(self, tmp_path):
        with ProfileStore(tmp_path / "p") as store:
            store.commit([good(1)], "a")
            (pages,) = store._db.execute("PRAGMA page_count").fetchone()
            store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
            with pytest.raises(DataError) as error:
                store.commit([good(n, "x" * 3000) for n in range(2, 20)], "another source")
            self.one_line(error, "disk is full", "safe")
            store._db.execute("PRAGMA max_page_count = 100000")
            assert store.get([key(n) for n in range(20)]) == {key(1): "text 1"}
            # the source's number was rolled back with the rest
            store.commit([good(n) for n in range(2, 20)], "another source")
            query = "SELECT count(*) FROM profiles JOIN sources ON source = sources.id"
            assert store._db.execute(query).fetchone() == (19,)

    def test_read_only(self, tmp_path, monkeypatch):
        path = tmp_path / "p"
        with ProfileStore(path) as store:
            store.commit([good(1)], "a")
        connect = sqlite3.connect
        # permissions do not stop root: SQLite's own way to refuse writes does
        monkeypatch.setattr(
            sqlite3, "connect", lambda p, **kw: connect(f"file:{p}?mode=ro", uri=True, **kw)
        )
        with pytest.raises(DataError) as error, ProfileStore(path) as store:
            store.commit([good(2)], "a")
        self.one_line(error, "read-only", "safe")

    def test_a_folder_that_cannot_be_made_and_a_closed_store(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError) as error, ProfileStore(tmp_path / "file" / "p"):
            pass
        self.one_line(error, "cannot be made")
        with pytest.raises(DataError, match="got closed"):
            ProfileStore(tmp_path / "p").get([key(1)])

    def test_many_open_a_new_file_together(self, tmp_path):
        problems: list[Exception] = []

        def work(n: int) -> None:
            try:
                with ProfileStore(tmp_path / "p") as store:
                    for i in range(20):
                        store.claim([key(100 * n + i)])
                        store.commit([good(100 * n + i)], f"source {n % 2}")
            except DataError as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        with ProfileStore(tmp_path / "p") as store:
            assert store.count()["profiles"] == 120
            assert store._db.execute("SELECT count(*) FROM sources").fetchone() == (2,)
            assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)
