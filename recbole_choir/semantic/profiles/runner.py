"""Writing profiles: from a stream of prompts to a store, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Thread
from types import FrameType
from typing import Any, TypeVar

from recbole_choir.errors import DataError, ProfileError
from recbole_choir.semantic.profiles.admission import Admission, Ledger
from recbole_choir.semantic.profiles.asking import Asker, Item
from recbole_choir.semantic.profiles.limits import Budget, BudgetSpent
from recbole_choir.semantic.profiles.store import Finished, ProfileStore
from recbole_choir.semantic.profiles.types import (
    BatchGenerator,
    Checker,
    Generator,
    KeyMaker,
    Outcome,
    Prompt,
)
from recbole_choir.settings.profiles import ProfileSettings

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_gently(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` in an event loop of its own.

    The first Ctrl-C or SIGTERM cancels it, so that its clean-up runs; then the signal does what it
    would have done. The second one does so at once. Where a loop is running already (a notebook),
    ``main`` runs in a thread.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the clean-up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _in_this_thread(main)
    return _in_a_thread(main)


def _in_this_thread(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    received: list[int] = []
    old: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)
        old.clear()

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def handle(number: int, frame: FrameType | None) -> None:
            received.append(number)
            restore()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)

        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None: set by other than Python; SIG_IGN: started with nohup
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    old[number] = signal.signal(number, handle)
        try:
            return await main()
        finally:
            restore()  # here and not later: asyncio puts back what it finds at its end

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not received:
            raise
    signal.raise_signal(received[0])
    raise KeyboardInterrupt


def _in_a_thread(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def noted() -> T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await main()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="profiles") as threads:
        future = threads.submit(lambda: asyncio.run(noted()))
        try:
            return future.result()
        except KeyboardInterrupt:
            for loop, task in running:
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise


logger = logging.getLogger(__name__)


# Leases are taken for that many times the requests in flight, so that none of these ever waits.
_AHEAD = 2
_FEWEST_AHEAD = 32
_BEATS_PER_LEASE = 5
_GLANCE = 0.2


def write_profiles(
    prompts: Iterable[Prompt],
    generator: Generator | BatchGenerator,
    checker: Checker,
    store: ProfileStore,
    settings: ProfileSettings,
    progress: bool = True,
    total: int | None = None,
) -> Outcome:
    """Have a profile written for every prompt that has none.

    ::

        prompts -> keys -> known to the store? duplicate? being asked by another process?
                -> leased here -> asked (attempts, tries) -> checked -> committed

    A reply is in the store, on the disk, one commit after it came. What is committed is never
    asked for again. A kill loses what was in flight, and replies whose commit had not ended: at
    most twice ``concurrency`` in all. A bad reply is tried again with the next seed and at
    ``retry_temperature``, then recorded as failed; nothing is repaired. No user stops the others.

    Args:
        prompts: Read once and never listed: memory does not grow with their number.
        generator: Who answers. It is closed at the end.
        checker: What a valid reply is.
        store: Open. Read the results with ``store.get(keys)``, keys from
            ``KeyMaker(generator.model_id, generator.parameters)``.
        settings: Limits, retries, budget.
        progress: Show a progress bar.
        total: Number of prompts, if known and ``prompts`` has no length: for the time left, and to
            stop early where too many fail.

    Returns:
        Counts. ``stopped`` says which cap ended the run early, ``left`` how many prompts are still
        to be asked; the next run goes on from there.

    Raises:
        ProfileError: Too many users failed, or the server is dead or refuses to answer.
        ConfigError: Nothing can be answered with these settings.
        DataError: The store cannot be used.
        KeyboardInterrupt: Ctrl-C; SIGTERM ends the process. What has arrived is stored first.
    """
    if total is None and isinstance(prompts, Sized):
        total = len(prompts)
    run = _Run(prompts, generator, checker, store, settings, progress, total)
    return run_gently(run.main)


class _Run:
    """One call of :func:`write_profiles`."""

    def __init__(
        self,
        prompts: Iterable[Prompt],
        generator: Generator | BatchGenerator,
        checker: Checker,
        store: ProfileStore,
        settings: ProfileSettings,
        progress: bool,
        total: int | None,
    ) -> None:
        self.generator = generator
        self.checker = checker
        self.store = store
        self.settings = settings
        self.ledger = Ledger(total, settings.max_failed_share, progress)
        self.keys = KeyMaker(generator.model_id, generator.parameters)
        # SQLite waits for the disk: not in the event loop
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="profile-store")
        if isinstance(generator, BatchGenerator):
            self.width = generator.batch_size
            ahead = generator.batch_size
        else:
            self.width = generator.concurrency or settings.concurrency
            ahead = max(_AHEAD * self.width, _FEWEST_AHEAD)
        self.admission = Admission(
            prompts,
            self.keys,
            store,
            self._stored,
            self.ledger,
            ahead,
            settings.retry_failed,
        )
        self._arrived: list[Finished] = []
        self._uncommitted = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._in_call = False
        self._heart = _Heart(store)

    async def main(self) -> Outcome:
        start = time.monotonic()
        outcome = self.ledger.outcome
        self._heart.start()
        committing = asyncio.create_task(self._commit())
        if isinstance(self.generator, BatchGenerator):
            asking = [asyncio.create_task(self._ask_lists(self.generator))]
        else:
            asking = self._start_asking(self.generator)
        try:
            waiting: set[asyncio.Task[None]] = {*asking, committing}
            while not all(task.done() for task in asking):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            self._end()
            await asyncio.wait([committing])  # awaited by itself it would be cancelled with us
            committing.result()
            self.ledger.settle_left()
            if not outcome.stopped:
                self.ledger.check(at_end=True)
        finally:
            # Also when interrupted: what has arrived is paid for, so it is stored.
            await _cancel(asking)
            self._end()
            await asyncio.wait([committing])
            if (error := committing.exception()) is not None:
                logger.debug("profiles: %s", error)  # raised above, or second to another error
            await self._let_go()
            outcome.seconds = time.monotonic() - start
            self.ledger.close()
            logger.info("profiles: %s", summary(outcome))
        return outcome

    # --- asking one by one ------------------------------------------------------------------------

    def _start_asking(self, generator: Generator) -> list[asyncio.Task[None]]:
        self.asker = Asker(generator, self.checker, self.settings)
        self.queue: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=self.width)
        self.parked: deque[Item] = deque()
        self.drained = False
        self.asked = 0
        workers = [asyncio.create_task(self._work()) for _ in range(self.width)]
        return [asyncio.create_task(self._produce()), *workers]

    async def _produce(self) -> None:
        async for item in self.admission.items():
            await self.queue.put(item)
        await self.queue.put(None)  # stays in the queue, for every worker to see
        self.drained = True

    async def _work(self) -> None:
        while (item := await self._next()) is not None:
            self.asked += 1
            try:
                row = await self.asker.ask(item, last=self._few_left)
            except BudgetSpent as error:
                self._stop(str(error))
                continue
            finally:
                self.asked -= 1
            if row is None:
                self.parked.append(item)
            else:
                await self._take(row)
            self._count(self.asker)

    def _few_left(self) -> bool:
        """Whether no more is left than is asked at once.

        Only then does a server that fails blame the prompts: with more left, it is dead.
        """
        return self._nothing_queued and self.asked + len(self.parked) <= self.width

    @property
    def _nothing_queued(self) -> bool:
        return self.drained and self.queue.qsize() <= 1

    async def _next(self) -> Item | None:
        """The next item; one at which the server failed comes when others show that it lives."""
        while True:
            if self.admission.stopped:
                self.parked.clear()
            elif self.parked and self.asker.answered_since(self.parked[0].first_attempt):
                return self.parked.popleft()
            if self._nothing_queued:
                return self.parked.popleft() if self.parked else None
            if self.parked and self.queue.empty():
                await asyncio.sleep(_GLANCE)
                continue
            item = await self.queue.get()
            if item is None:
                self.queue.put_nowait(None)
            elif not self.admission.stopped:
                return item

    def _stop(self, why: str) -> None:
        """Send no more; read on, to count what is left."""
        if not self.ledger.outcome.stopped:
            self.ledger.outcome.stopped = why
            logger.warning("profiles: %s: stopped, run again to go on", why)
        self.admission.stop()

    def _count(self, asker: Asker) -> None:
        tally, outcome = asker.tally, self.ledger.outcome
        outcome.repeated = tally.repeated
        outcome.prompt_tokens = tally.prompt_tokens
        outcome.completion_tokens = tally.completion_tokens
        self.ledger.show(tally.attempts, tally.prompt_tokens + tally.completion_tokens)

    # --- asking whole lists -----------------------------------------------------------------------

    async def _ask_lists(self, generator: BatchGenerator) -> None:
        budget = Budget(self.settings.max_requests, self.settings.max_total_tokens)
        outcome = self.ledger.outcome
        items = self.admission.items()
        waiting: list[Item] = []
        exhausted = False
        while True:
            # What is to be tried again does not wait for other processes.
            while (
                not exhausted
                and len(waiting) < generator.batch_size
                and not (waiting and self.admission.read_all)
            ):
                item = await anext(items, None)
                exhausted = item is None
                waiting += [item] if item is not None else []
            if not waiting:
                if exhausted:
                    return
                continue
            costs = [i.prompt.estimated_tokens + i.prompt.max_tokens for i in waiting]
            try:
                n = budget.room(costs)
            except BudgetSpent as error:
                self._stop(str(error))
                waiting.clear()
                continue
            batch, waiting = waiting[:n], waiting[n:]
            self._in_call = True
            replies = await _in_daemon_thread(
                lambda batch=batch: generator.complete_many(  # type: ignore[misc]
                    [i.prompt for i in batch], [self.settings.seed + i.tries for i in batch]
                )
            )
            self._in_call = False
            if len(replies) != n:
                raise ProfileError(
                    f"engine '{generator.name}': expected {n} replies, got {len(replies)}"
                )
            budget.requests += n
            outcome.requests += n
            for item, cost, reply in zip(batch, costs[:n], replies, strict=True):
                outcome.repeated += item.tries > 0
                before = item.prompt_tokens + item.completion_tokens
                result = item.judge(reply, self.checker)
                budget.spent += item.prompt_tokens + item.completion_tokens - before or cost
                if isinstance(result, str) or item.tries > self.settings.retries:
                    outcome.prompt_tokens += item.prompt_tokens
                    outcome.completion_tokens += item.completion_tokens
                    await self._take(item.finished(result))
                else:
                    waiting.append(item)
            self.ledger.show(outcome.requests, budget.spent)

    # --- storing ----------------------------------------------------------------------------------

    async def _take(self, row: Finished) -> None:
        """Hand a result to the store; wait only where the disk cannot keep up.

        As many results may wait for the disk as requests are in flight, so a kill loses no more
        than twice that.
        """
        self._arrived.append(row)
        self._uncommitted += 1
        self._news.set()
        self.ledger.check(at_end=False)
        while self._uncommitted > self.width:
            self._room.clear()
            await self._room.wait()

    async def _commit(self) -> None:
        """Commit what has arrived, all of it at once, for as long as something comes."""
        while self._arrived or not self._ended:
            await self._news.wait()
            self._news.clear()
            rows, self._arrived = self._arrived, []
            if rows:
                await self._stored(self.store.commit, rows, self.keys.source)
                self._uncommitted -= len(rows)
                self._room.set()
                for row in rows:
                    self.ledger.settle(row.key, row.result)

    def _end(self) -> None:
        self._ended = True
        self._news.set()

    async def _stored(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    async def _let_go(self) -> None:
        self._heart.stop()
        try:
            await self._stored(self.store.release)
        except DataError as error:  # leases end with the process: no reason to hide another error
            logger.debug("%s", error)
        finally:
            self.thread.shutdown(wait=False)
            if not isinstance(self.generator, BatchGenerator):
                await self.generator.close()
            elif not self._in_call:  # interrupted: its thread works on, a model must not vanish
                self.generator.close()


class _Heart(Thread):
    """Tells other processes that this one lives, also while prompts are being made or a call runs.

    Args:
        store: Whose leases are kept.
    """

    def __init__(self, store: ProfileStore) -> None:
        super().__init__(name="profile-heartbeat", daemon=True)
        self._store = store
        self._stopped = Event()

    def run(self) -> None:
        """Beat a few times per lease, until stopped."""
        while not self._stopped.wait(self._store.lease_seconds / _BEATS_PER_LEASE):
            try:
                self._store.beat()
            except DataError as error:  # others may ask for the same then; nothing else is lost
                logger.warning("%s", error)

    def stop(self) -> None:
        """Wait for the last beat."""
        self._stopped.set()
        self.join()


def summary(outcome: Outcome) -> str:
    """One line of counts."""
    o = outcome
    fresh = o.done + o.failed - o.reused - o.failed_before - o.elsewhere
    rate = fresh / o.seconds if o.seconds > 0 else 0.0
    parts = [
        f"{o.prompts} users: {o.done} done ({o.reused} of them before)",
        f"{o.failed} failed",
        f"{o.requests} requests",
        f"{o.prompt_tokens} + {o.completion_tokens} tokens",
        f"{o.seconds:.1f} s ({rate:.1f} users/s)",
    ]
    if o.duplicates:
        parts.insert(1, f"{o.duplicates} shared another's")
    if o.elsewhere:
        parts.insert(1, f"{o.elsewhere} by other processes")
    if o.left:
        parts.append(f"{o.left} left")
    return ", ".join(parts)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("profiles: %s", error)  # the first of them was raised


class _Caught:
    """Keeps the error of a block for somebody else to raise."""

    error: BaseException | None = None

    def __enter__(self) -> _Caught:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True


async def _in_daemon_thread(function: Callable[[], T]) -> T:
    """Run in a thread that does not hold up the end of the process: a batch can take hours."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    caught = _Caught()
    result: list[T] = []

    def work() -> None:
        with caught:
            result.append(function())
        with suppress(RuntimeError):  # interrupted: the loop is gone
            loop.call_soon_threadsafe(ended.set)

    Thread(target=work, name="profile-batch", daemon=True).start()
    await ended.wait()
    if caught.error is not None:
        raise caught.error
    return result[0]
