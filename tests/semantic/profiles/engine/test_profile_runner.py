"""The runner: what is asked, how often, in what order, and what stops it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_run import Lists, Scripted, bad_reply, checker, good_reply, prompt, prompts

import recbole_choir
from recbole_choir.errors import ConfigError, DataError, ProfileError
from recbole_choir.semantic.profiles import asking
from recbole_choir.semantic.profiles.estimate import estimate
from recbole_choir.semantic.profiles.limits import Budget, BudgetSpent, PerMinute
from recbole_choir.semantic.profiles.runner import write_profiles
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import (
    AskAgain,
    Failure,
    KeyMaker,
    PromptRejected,
    Reply,
    Transient,
)
from recbole_choir.settings.profiles import ProfileSettings


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(asking, "_FIRST_WAIT", 0.002)
    monkeypatch.setattr(asking, "_LONGEST_WAIT", 0.02)


def settings(**changes) -> ProfileSettings:
    return ProfileSettings(**({"max_failed_share": 1.0, "patience": 10.0} | changes))


def write(store, generator, users, total=None, **changes):
    return write_profiles(
        users, generator, checker, store, settings(**changes), progress=False, total=total
    )


def keys_of(generator, users) -> list[bytes]:
    maker = KeyMaker(generator.model_id, generator.parameters)
    return [maker.key(p) for p in users]


class TestAsking:
    def test_every_user_is_asked_once_and_stored(self, store):
        generator = Scripted()
        outcome = write(store, generator, prompts(50))
        assert sorted(generator.asked) == sorted((f"u{i}", 0) for i in range(50))
        assert (outcome.done, outcome.requests, outcome.repeated) == (50, 50, 0)
        assert (outcome.prompt_tokens, outcome.completion_tokens) == (1000, 500)
        found = store.get(keys_of(generator, prompts(50)))
        assert sorted(found.values()) == sorted(f"I: u{i}" for i in range(50))
        assert generator.closed

    def test_a_second_run_asks_for_what_is_missing(self, store):
        write(store, Scripted(), prompts(30))
        generator = Scripted()
        outcome = write(store, generator, prompts(40))
        assert sorted(u for u, _ in generator.asked) == sorted(f"u{i}" for i in range(30, 40))
        assert (outcome.reused, outcome.done) == (30, 40)

    def test_other_parameters_are_other_profiles_and_the_old_ones_stay(self, store):
        write(store, Scripted(), prompts(5))
        outcome = write(store, Scripted(seed=1), prompts(5))
        assert (outcome.requests, outcome.reused) == (5, 0)
        assert len(store.get(keys_of(Scripted(), prompts(5)))) == 5
        assert store.count()["profiles"] == 10

    def test_users_with_one_prompt_are_asked_for_together(self, store):
        same = [prompt("u0") for _ in range(2000)]
        generator = Scripted()
        outcome = write(store, generator, iter(same))
        assert len(generator.asked) == 1
        assert outcome.done == outcome.prompts == 2000
        assert outcome.duplicates + outcome.reused == 1999

    def test_no_more_in_flight_than_asked_for(self, store):
        generator = Scripted()
        write(store, generator, prompts(60), concurrency=5)
        assert generator.most_open == 5
        generator = Scripted(seed=1, concurrency=2)  # the engine knows better
        write(store, generator, prompts(60), concurrency=5)
        assert generator.most_open == 2

    def test_prompts_are_read_as_they_are_needed(self, store):
        made = 0
        ahead = []

        def stream():
            nonlocal made
            for p in prompts(2500):
                made += 1
                yield p

        def script(user, nth):
            ahead.append(made - len(ahead))
            return good_reply(user)

        generator = Scripted(script)
        generator.asked = _Counted()
        write(store, generator, stream(), concurrency=4)
        assert max(ahead) <= 512 + 8 + 4

    def test_nothing_to_do(self, store):
        outcome = write(store, Scripted(), iter(()))
        assert (outcome.prompts, outcome.requests, outcome.stopped) == (0, 0, "")


class _Counted(list):
    """A log that is not searched: the tests of thousands do not need the number of a request."""

    def __iter__(self):
        return iter(())


class TestBadReplies:
    def test_a_bad_reply_is_tried_with_other_seeds_then_recorded(self, store):
        def script(user, nth):
            return good_reply(user) if user != "u1" else bad_reply(f"reply {nth}")

        generator = Scripted(script)
        outcome = write(store, generator, prompts(3), retries=2, seed=7)
        assert [seed for user, seed in generator.asked if user == "u1"] == [7, 8, 9]
        assert (outcome.done, outcome.failed, dict(outcome.failures)) == (2, 1, {"schema": 1})
        assert outcome.repeated == 2
        found = store.get(keys_of(generator, [prompt("u1")]))
        assert list(found.values()) == [Failure("schema", "got 'reply 2'")]
        assert store.count()["tries"] == 5
        # it stands: the next run does not ask again, unless it is told to
        again = Scripted(script)
        assert write(store, again, prompts(3)).failed_before == 1
        assert again.asked == []
        outcome = write(store, Scripted(), prompts(3), retry_failed=True)
        assert (outcome.done, outcome.requests) == (3, 1)

    def test_the_second_try_may_be_good(self, store):
        generator = Scripted(lambda user, nth: good_reply(user) if nth else bad_reply())
        outcome = write(store, generator, prompts(4))
        assert (outcome.done, outcome.requests, outcome.repeated) == (4, 8, 4)

    def test_half_a_surrogate_pair_is_no_text(self, store):
        generator = Scripted(lambda user, nth: Reply('{"identity": "\\ud83d"}'))
        outcome = write(store, generator, prompts(2))
        assert dict(outcome.failures) == {"encoding": 2}

    def test_a_rejected_prompt_is_not_tried_again_but_asked_by_the_next_run(self, store):
        def script(user, nth):
            return PromptRejected("too long") if user == "u3" else good_reply(user)

        generator = Scripted(script)
        outcome = write(store, generator, prompts(6))
        assert dict(outcome.failures) == {"rejected": 1}
        assert len(generator.asked) == 6
        generator = Scripted()
        assert write(store, generator, prompts(6)).done == 6
        assert [user for user, _ in generator.asked] == ["u3"]

    def test_a_server_that_refuses_all_first_prompts_stops_the_run(self, store):
        generator = Scripted(lambda user, nth: PromptRejected("unknown field 'seed'"))
        with pytest.raises(ProfileError, match=r"refused the first \d+ .*unknown field 'seed'"):
            write(store, generator, prompts(1000))

    def test_too_many_failures_are_an_error_at_the_end(self, store):
        def script(user, nth):
            return bad_reply() if user in ("u1", "u2") else good_reply(user)

        with pytest.raises(ProfileError) as error:
            write(store, Scripted(script), prompts(50), max_failed_share=0.02)
        text = str(error.value)
        assert "2 of 50 users failed (4.0%" in text
        assert "schema 2" in text
        assert "\n" not in text
        assert store.count()["profiles"] == 48
        assert write(store, Scripted(), prompts(50), max_failed_share=0.05).failed_before == 2

    def test_failures_at_the_limit_are_none_too_many(self, store):
        generator = Scripted(lambda u, n: bad_reply() if u == "u1" else good_reply(u))
        assert write(store, generator, prompts(50), max_failed_share=0.02).failed == 1

    def test_a_model_that_cannot_is_found_out_early(self, store):
        generator = Scripted(lambda user, nth: bad_reply())
        with pytest.raises(ProfileError, match="failed"):
            write(store, generator, prompts(100_000), max_failed_share=0.02, retries=0)
        assert 100 <= len(generator.asked) < 2000

    def test_a_known_total_stops_as_soon_as_it_is_certain(self, store):
        async def slow():
            await asyncio.sleep(0.02)
            return bad_reply()

        generator = Scripted(lambda user, nth: slow(), concurrency=1)
        with pytest.raises(ProfileError, match="failed"):
            write(store, generator, list(prompts(60)), max_failed_share=0.02, retries=0)
        assert len(generator.asked) < 10

    def test_what_has_arrived_is_stored_before_the_error(self, store):
        async def slow(user):
            await asyncio.sleep(0.05)
            return ConfigError("no such model")

        generator = Scripted(lambda u, n: slow(u) if u == "u5" else good_reply(u))
        with pytest.raises(ConfigError, match="no such model"):
            write(store, generator, prompts(6), concurrency=6)
        assert store.count()["profiles"] == 5
        assert generator.closed

    def test_an_error_of_the_checker_is_no_bad_reply(self, store):
        def broken(reply):
            raise KeyError("bug")

        with pytest.raises(KeyError):
            write_profiles(prompts(2), Scripted(), broken, store, settings(), progress=False)


class TestFailingServer:
    def test_faults_are_waited_out(self, store):
        generator = Scripted(lambda u, n: Transient("500") if n < 2 else good_reply(u))
        outcome = write(store, generator, prompts(20))
        assert (outcome.done, outcome.requests, outcome.repeated) == (20, 60, 40)
        assert {seed for _, seed in generator.asked} == {0}  # a fault is no bad reply

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_one_prompt_that_breaks_the_server_does_not_stop_the_others(self, store, concurrency):
        def script(user, nth):
            return Transient("500: died") if user == "u0" else good_reply(user)

        generator = Scripted(script)
        outcome = write(store, generator, prompts(30), concurrency=concurrency, attempts=3)
        assert (outcome.done, dict(outcome.failures)) == (29, {"unavailable": 1})
        # three attempts, and with nobody else in flight one more after others were answered
        assert 3 <= sum(user == "u0" for user, _ in generator.asked) <= 4
        generator = Scripted()
        assert write(store, generator, prompts(30)).done == 30  # not final: asked again
        assert [user for user, _ in generator.asked] == ["u0"]

    def test_a_prompt_that_breaks_the_server_at_the_very_end(self, store):
        def script(user, nth):
            return Transient("500: died") if user == "u9" else good_reply(user)

        outcome = write(store, Scripted(script), prompts(10), concurrency=1, attempts=3)
        assert (outcome.done, dict(outcome.failures)) == (9, {"unavailable": 1})

    @pytest.mark.parametrize("blames", [True, False])
    def test_a_dead_server_is_one_error_and_keeps_everything(self, store, blames):
        def script(user, nth):
            alive = int(user[1:]) < 7
            return good_reply(user) if alive else Transient("refused", blames_prompt=blames)

        start = time.monotonic()
        with pytest.raises(ProfileError) as error:
            write(store, Scripted(script), prompts(30), concurrency=3, patience=0.3)
        assert 0.3 <= time.monotonic() - start < 5
        assert "has not answered for" in str(error.value)
        assert "refused" in str(error.value)
        assert store.count()["profiles"] == 7
        outcome = write(store, Scripted(), prompts(30))
        assert (outcome.done, outcome.reused, outcome.failed_before) == (30, 7, 0)

    def test_an_answer_starts_patience_anew(self, store):
        async def after(seconds, outcome):
            await asyncio.sleep(seconds)
            return outcome

        def script(user, nth):
            return after(0.1, good_reply(user)) if nth == 3 else after(0.1, Transient("500"))

        # each user fails for .3 s; together they fail for longer than patience
        outcome = write(store, Scripted(script), prompts(3), concurrency=1, patience=0.7)
        assert outcome.done == 3

    def test_retry_after_stops_everybody(self, store):
        sent = []

        def script(user, nth):
            sent.append(time.monotonic())
            if len(sent) == 4:
                return Transient("429", retry_after=0.4, blames_prompt=False)
            return good_reply(user)

        outcome = write(store, Scripted(script), prompts(40), concurrency=4)
        assert outcome.done == 40
        pauses = [b - a for a, b in itertools.pairwise(sent)]
        # those in flight when it came are the only ones not to wait
        assert max(pauses) >= 0.35
        assert pauses.index(max(pauses)) <= 8

    def test_a_wait_longer_than_patience_is_an_error(self, store):
        generator = Scripted(lambda u, n: Transient("429", retry_after=3600, blames_prompt=False))
        with pytest.raises(ProfileError, match=r"asks to wait 3600 s, profile\.patience is 10 s"):
            write(store, generator, prompts(3))

    def test_a_rate_limit_that_one_prompt_never_passes(self, store):
        def script(user, nth):
            limit = Transient("429: too large", blames_prompt=False)
            return limit if user == "u0" else good_reply(user)

        outcome = write(store, Scripted(script), prompts(400), concurrency=2, attempts=1)
        assert (outcome.done, dict(outcome.failures)) == (399, {"unavailable": 1})

    def test_asked_again_at_once(self, store):
        generator = Scripted(lambda u, n: good_reply(u) if n else AskAgain("json_schema"))
        outcome = write(store, generator, prompts(3))
        assert (outcome.done, outcome.requests) == (3, 6)


class TestBudget:
    def test_a_cap_on_requests_holds_and_the_next_run_goes_on(self, store, caplog):
        generator = Scripted(lambda u, n: good_reply(u) if n else Transient("500"))
        outcome = write(store, generator, prompts(1500), max_requests=101)
        assert len(generator.asked) == 101
        assert "max_requests (101) is reached" in outcome.stopped
        assert outcome.done + outcome.left == outcome.prompts == 1500
        assert outcome.done > 10
        assert "run again to go on" in caplog.text
        done = outcome.done
        outcome = write(store, Scripted(), prompts(1500))
        assert (outcome.done, outcome.reused, outcome.left) == (1500, done, 0)

    def test_a_cap_on_tokens_holds_with_many_in_flight(self, store):
        # a prompt of about 10 tokens and 50 of reply reserves about 65 and pays 30
        generator = Scripted()
        outcome = write(store, generator, prompts(500), max_total_tokens=1000, concurrency=16)
        spent = outcome.prompt_tokens + outcome.completion_tokens
        assert 900 <= spent <= 1000
        assert outcome.done == spent // 30
        assert "max_total_tokens (1000)" in outcome.stopped

    def test_a_reply_that_may_be_billed_counts_in_full(self, store):
        def script(user, nth):
            return Transient("reset", maybe_billed=True) if nth == 0 else good_reply(user)

        outcome = write(store, Scripted(script), prompts(50), max_total_tokens=1000)
        assert outcome.prompt_tokens + outcome.completion_tokens <= 500

    def test_requests_that_were_not_sent_count_for_no_cap(self, store):
        def script(user, nth):
            refused = Transient("refused", blames_prompt=False, sent=False)
            return refused if nth < 5 else good_reply(user)

        outcome = write(store, Scripted(script), prompts(10), max_requests=10)
        assert (outcome.done, outcome.stopped) == (10, "")

    def test_the_share_of_failures_is_not_judged_on_a_part(self, store):
        def script(user, nth):
            return bad_reply() if user == "u0" else good_reply(user)

        outcome = write(
            store, Scripted(script), prompts(100), max_requests=10, max_failed_share=0.02, retries=0
        )
        assert outcome.failed == 1
        assert outcome.left > 80

    def test_waiting_for_room(self):
        async def main():
            budget = Budget(None, 100)
            await budget.reserve(60)
            waiting = asyncio.ensure_future(budget.reserve(60))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            budget.settle(60, 30)
            await waiting
            budget.settle(60, 60)
            with pytest.raises(BudgetSpent, match="90 used, the next request may take 60"):
                await budget.reserve(60)

        asyncio.run(main())


class TestLimits:
    def test_requests_are_spread_over_the_minute(self, store):
        pytest.importorskip("aiolimiter")
        times = []

        def script(user, nth):
            times.append(time.monotonic())
            return good_reply(user)

        write(store, Scripted(script), prompts(9), requests_per_minute=1200)
        assert times[-1] - times[0] >= 0.3  # 20 a second, two at once at the most

    def test_tokens_are_taken_in_pieces_and_in_order(self):
        pytest.importorskip("aiolimiter")

        async def main():
            limit = PerMinute(60_000, "tokens_per_minute")  # 1000 a second, 100 at once
            start = time.monotonic()
            order = []

            async def take(amount):
                await limit.acquire(amount)
                order.append(amount)

            await asyncio.gather(take(300), take(1), take(150))
            assert order == [300, 1, 150]
            assert 0.3 <= time.monotonic() - start < 2
            with pytest.raises(PromptRejected, match=r"tokens_per_minute: expected at least 60001"):
                await limit.acquire(60_001)

        asyncio.run(main())

    def test_a_prompt_that_no_minute_can_take_does_not_stop_the_others(self, store):
        pytest.importorskip("aiolimiter")
        users = [prompt("u0"), prompt("long " * 5000), prompt("u1")]
        outcome = write(store, Scripted(), users, tokens_per_minute=5000)
        assert (outcome.done, dict(outcome.failures)) == (2, {"rejected": 1})

    def test_no_minute_has_more(self):
        for limit in (1, 7, 600, 601, 60_000):
            bucket = PerMinute(limit, "x")._bucket
            first_minute = bucket.max_rate + 60 * bucket.max_rate / bucket.time_period
            assert first_minute <= limit + 1 + 1e-6  # the last one falls on the minute's end


class TestLists:
    def test_whole_lists_are_asked_in_one_call(self, store):
        generator = Lists(batch_size=4)
        outcome = write(store, generator, prompts(10))
        assert [len(call) for call in generator.calls] == [4, 4, 2]
        assert (outcome.done, outcome.requests) == (10, 10)
        assert generator.closed

    def test_bad_replies_come_again_with_the_next_list(self, store):
        def script(user, nth):
            if user == "u1":
                return bad_reply() if nth < 2 else good_reply(user)
            return Failure("length", "cut") if user == "u2" else good_reply(user)

        generator = Lists(script, batch_size=3)
        outcome = write(store, generator, prompts(6), retries=2)
        asked = [pair for call in generator.calls for pair in call]
        assert sorted(seed for user, seed in asked if user == "u1") == [0, 1, 2]
        assert sorted(seed for user, seed in asked if user == "u2") == [0, 1, 2]
        assert (outcome.done, dict(outcome.failures)) == (5, {"length": 1})
        assert outcome.prompt_tokens == 20 * (4 + 3)

    def test_the_budget_cuts_a_list(self, store):
        generator = Lists(batch_size=4)
        outcome = write(store, generator, prompts(20), max_requests=6)
        assert [len(call) for call in generator.calls] == [4, 2]
        assert (outcome.done, outcome.left) == (6, 14)

    def test_another_number_of_replies_is_an_error(self, store):
        generator = Lists(batch_size=4)
        generator.complete_many = lambda prompts, seeds: [good_reply("x")]
        with pytest.raises(ProfileError, match="expected 4 replies, got 1"):
            write(store, generator, prompts(10))

    def test_its_errors_stop_the_run(self, store):
        def script(user, nth):
            raise ConfigError("no GPU")

        with pytest.raises(ConfigError, match="no GPU"):
            write(store, Lists(script), prompts(3))


class TestTwoAtOnce:
    def test_two_runs_on_one_store_share_the_work(self, tmp_path):
        async def slow(user):
            await asyncio.sleep(0.002)
            return good_reply(user)

        generators = [Scripted(lambda u, n: slow(u), concurrency=4) for _ in range(2)]
        outcomes = [None, None]

        def work(n):
            with ProfileStore(tmp_path / "p") as store:
                outcomes[n] = write(store, generators[n], prompts(600))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asked = [user for g in generators for user, _ in g.asked]
        assert sorted(asked) == sorted({f"u{i}" for i in range(600)})
        assert all(g.asked for g in generators)
        assert [o.done for o in outcomes] == [600, 600]

    def test_a_failure_recorded_meanwhile_by_another_stands(self, tmp_path):
        """With ``retry_failed`` each of two runs would otherwise repeat what the other tried."""
        asked = []

        async def fails(user):
            asked.append(user)
            await asyncio.sleep(0.3)
            return bad_reply()

        def work():
            with ProfileStore(tmp_path / "p") as store:
                generator = Scripted(lambda u, n: fails(u), concurrency=2)
                write(store, generator, prompts(2), retries=0, retry_failed=True)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(asked) == ["u0", "u1"]

    def test_leases_hold_while_prompts_take_long_to_make(self, tmp_path):
        started = threading.Event()

        def slow_prompts():
            yield prompt("u0")
            time.sleep(0.03)  # a chunk ends, and is asked for
            yield prompt("u1")
            started.set()
            time.sleep(2.5)  # the event loop stands still, longer than a lease lasts

        async def never(user):
            await asyncio.sleep(2.0)
            return good_reply(user)

        def work():
            with ProfileStore(tmp_path / "p", 1.1) as store:
                write(store, Scripted(lambda u, n: never(u), concurrency=2), slow_prompts())

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        with ProfileStore(tmp_path / "p", 1.1) as store:
            started.wait(10)
            time.sleep(1.8)
            (key,) = keys_of(Scripted(), [prompt("u0")])
            assert store.claim([key]).elsewhere == [key]


@pytest.fixture
def _ctrl_c():
    # started in the background by a shell, a process ignores Ctrl-C: these tests are about one
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.mark.usefixtures("_ctrl_c")
class TestInterruption:
    def test_ctrl_c_stores_what_has_arrived_and_frees_the_rest(self, store):
        async def forever():
            await asyncio.sleep(60)

        def script(user, nth):
            if user == "u7":
                signal.raise_signal(signal.SIGINT)
            return good_reply(user) if int(user[1:]) < 7 else forever()

        old = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            write(store, Scripted(script), prompts(30), concurrency=10)
        assert signal.getsignal(signal.SIGINT) is old
        assert store.count()["profiles"] == 7
        assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)
        assert write(store, Scripted(), prompts(30)).done == 30
        assert signal.getsignal(signal.SIGINT) is old

    def test_sigterm_ends_the_process_after_storing(self, tmp_path):
        program = (
            "import asyncio, sys; sys.path.insert(0, sys.argv[1])\n"
            "from small_run import *\n"
            "async def forever():\n"
            "    print('stuck', flush=True); await asyncio.sleep(60)\n"
            "def script(user, nth):\n"
            "    return forever() if user == 'u5' else good_reply(user)\n"
            "with ProfileStore(sys.argv[2]) as store:\n"
            "    write_profiles(prompts(6), Scripted(script), checker, store, ProfileSettings())\n"
        )
        root = str(Path(recbole_choir.__file__).parents[1])
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "p")],
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout.readline() == b"stuck\n"
        child.terminate()
        _, errors = child.communicate(timeout=20)
        assert child.returncode == -signal.SIGTERM, errors
        with ProfileStore(tmp_path / "p") as store:
            assert store.count()["profiles"] == 5

    def test_a_model_in_use_is_not_closed(self, store):
        release = threading.Event()

        def script(user, nth):
            if user == "u0":
                os.kill(os.getpid(), signal.SIGINT)
                release.wait(10)
            return good_reply(user)

        generator = Lists(script)
        with pytest.raises(KeyboardInterrupt):
            write(store, generator, prompts(4))
        assert not generator.closed
        release.set()

    def test_all_workers_failing_leave_no_stray_errors(self, store, caplog):
        generator = Scripted(lambda u, n: ConfigError(f"no model for {u}"))
        with pytest.raises(ConfigError, match="no model"):
            write(store, generator, prompts(50), concurrency=16)
        gc.collect()
        assert "never retrieved" not in caplog.text

    def test_inside_a_running_loop_as_in_a_notebook(self, store):
        async def notebook():
            return write(store, Scripted(), prompts(5))

        assert asyncio.run(notebook()).done == 5

    def test_a_disk_that_fills_up_is_one_error(self, store):
        def script(user, nth):
            if user == "u20":
                (pages,) = store._db.execute("PRAGMA page_count").fetchone()
                store._db.execute(f"PRAGMA max_page_count = {pages}")
            return Reply('{"identity": "' + "x" * 3000 + '"}')

        with pytest.raises(DataError, match="the disk is full") as error:
            write(store, Scripted(script, concurrency=1), prompts(100))
        assert "\n" not in str(error.value)
        store._db.execute("PRAGMA max_page_count = 1000000")
        kept = store.count()["profiles"]
        assert 1 <= kept < 100
        outcome = write(store, Scripted(), prompts(100))
        assert (outcome.done, outcome.reused) == (100, kept)


class TestDryRun:
    def test_it_counts_what_would_be_asked(self, store):
        generator = Scripted()
        write(store, generator, prompts(3))
        users = [*prompts(5), prompt("u4"), prompt("u4")]
        maker = KeyMaker(generator.model_id, generator.parameters)
        plan = settings(
            price_per_million_prompt_tokens=2.0, price_per_million_completion_tokens=10.0
        )
        result = estimate(iter(users), maker, store, plan)
        assert (result.prompts, result.stored, result.to_ask) == (7, 3, 2)
        # "be short" and "about u3" are 8 bytes, 2 tokens each, and 4 for each message
        assert (result.prompt_tokens, result.completion_tokens) == (2 * 12, 2 * 50)
        assert result.cost == pytest.approx((24 * 2 + 100 * 10) / 1e6)
        assert "7 users: 3 in the store, 2 prompts to ask" in str(result)
        assert estimate(iter(users), maker, store, settings()).cost is None

    def test_tokens_of_a_prompt(self):
        assert prompt("x" * 34).estimated_tokens == 4 + 2 + 4 + 10
        assert prompt("\u4e2d" * 2).estimated_tokens == 4 + 2 + 4 + 3
