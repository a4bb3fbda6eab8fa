"""From prompts to what this process has to ask: streamed, without duplicates, leased."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

from recbole_choir.errors import ProfileError
from recbole_choir.semantic.profiles.asking import Item
from recbole_choir.semantic.profiles.store import Known, ProfileStore
from recbole_choir.semantic.profiles.types import Failure, KeyMaker, Outcome, Prompt

# Fewer finished prompts than this say nothing about the share of failures.
_ENOUGH = 100


class Ledger:
    """Counts of one run, its progress bar, and the limit on failures.

    Args:
        total: Prompts of the run; None where nobody knows.
        max_failed_share: See :class:`~.settings.ProfileSettings`.
        progress: Show a bar: done, failed, rate, tokens and, where ``total`` is known, time left.
    """

    def __init__(self, total: int | None, max_failed_share: float, progress: bool) -> None:
        self.total = total
        self.max_failed_share = max_failed_share
        self.outcome = Outcome()
        self._weight: dict[bytes, int] = {}
        self._example = ""
        self._bar = tqdm(
            total=total, desc="profiles", unit="user", disable=not progress, dynamic_ncols=True
        )

    def admit(self, key: bytes) -> bool:
        """Count a prompt; whether its key is not open already."""
        self.outcome.prompts += 1
        seen = key in self._weight
        self._weight[key] = self._weight.get(key, 0) + 1
        self.outcome.duplicates += seen
        return not seen

    def is_open(self, key: bytes) -> bool:
        """Whether a key was admitted and is not settled."""
        return key in self._weight

    def settle(self, key: bytes, result: str | Failure | None) -> int:
        """Close a key: None and text are profiles. Returns how many prompts that were."""
        n = self._weight.pop(key, 0)
        if isinstance(result, Failure):
            self.outcome.failed += n
            self.outcome.failures[result.reason] += n
            self._example = f"{result.reason}: {result.detail}" if result.detail else result.reason
        else:
            self.outcome.done += n
        self._bar.update(n)
        return n

    def settle_known(self, known: Known, before: bool) -> None:
        """Close keys that the store knew before they were read, or that others answered since."""
        for key in known.done:
            n = self._settle_unasked(key, None)
            self.outcome.reused += n * before
            self.outcome.elsewhere += n * (not before)
        for key, failure in known.failed.items():
            n = self._settle_unasked(key, failure)
            self.outcome.failed_before += n * before
            self.outcome.elsewhere += n * (not before)

    def settle_left(self) -> None:
        """Count what is open as left: the run has ended."""
        n = sum(self._weight.values())
        self.outcome.left += n
        self.outcome.duplicates -= n - len(self._weight)
        self._weight.clear()

    def _settle_unasked(self, key: bytes, result: Failure | None) -> int:
        n = self.settle(key, result)
        self.outcome.duplicates -= max(0, n - 1)  # duplicates are those of a prompt asked here
        return n

    def show(self, requests: int, tokens: int) -> None:
        """Put the figures next to the bar; tqdm itself decides when to draw."""
        self.outcome.requests = requests
        self._bar.set_postfix_str(
            f"failed {self.outcome.failed}, {requests} requests, {_short(tokens)} tokens",
            refresh=False,
        )

    def check(self, at_end: bool) -> None:
        """Stop where too many prompts have failed.

        At the end the share itself counts. Before, the run stops once the limit is certain to be
        broken: more failures than all prompts together may have, or, among at least 100 finished
        ones, more than chance explains (three standard deviations).

        Raises:
            ProfileError: Too many have failed.
        """
        o = self.outcome
        finished = o.done + o.failed
        if at_end:
            broken = o.failed > self.max_failed_share * finished
        else:
            known = self.total is not None and o.failed > self.max_failed_share * self.total
            doubtful = o.failed - 3 * math.sqrt(o.failed)
            broken = known or (finished >= _ENOUGH and doubtful > self.max_failed_share * finished)
        if broken:
            reasons = ", ".join(f"{name} {n}" for name, n in o.failures.most_common(4))
            raise ProfileError(
                f"profiles: {o.failed} of {finished} users failed ({o.failed / finished:.1%}, "
                f"profile.max_failed_share is {self.max_failed_share:.1%}): {reasons}; the last: "
                f"{' '.join(self._example.split())[:200]}; what is finished is kept"
            )

    def close(self) -> None:
        """Draw the bar for the last time."""
        self._bar.close()


def _short(n: int) -> str:
    """12345678 -> 12.3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f}{unit}"
    return str(n)


#: Runs a function of the store away from the event loop, one at a time.
StoreCall = Callable[..., Awaitable[Any]]

_CHUNK = 512
_CHUNK_SECONDS = 0.02  # replies wait while prompts are being made
_SHORTEST_POLL = 0.2
_LONGEST_POLL = 2.0


class Admission:
    """Reads prompts and yields those that are to be asked here.

    ::

        a chunk of prompts -> keys -> those the store knows are settled, duplicates counted
        the rest           -> leases, a few at a time, so that other processes find work
        leased elsewhere   -> looked at again until answered there, or the other process is dead

    Memory holds one chunk, what is being asked, and what other processes are asking.

    Args:
        prompts: Read once, in order.
        keys: Of this run's model and parameters.
        store: Open.
        call: Runs the store's functions.
        ledger: Counts.
        ahead: Leases taken at once.
        retry_failed: See :class:`~.settings.ProfileSettings`.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt],
        keys: KeyMaker,
        store: ProfileStore,
        call: StoreCall,
        ledger: Ledger,
        ahead: int,
        retry_failed: bool,
    ) -> None:
        self._stream = iter(prompts)
        self._keys = keys
        self._store = store
        self._call = call
        self._ledger = ledger
        self._ahead = ahead
        self._retry_failed = retry_failed
        self._since = time.time()
        self._away: dict[bytes, Prompt] = {}
        self._polled = time.monotonic()
        self.stopped = False
        self.read_all = False

    async def items(self) -> AsyncIterator[Item]:
        """What is to be asked here. After :meth:`stop` the rest is only counted."""
        for chunk in iter(lambda: _chunk(self._stream), []):
            if self.stopped:
                await self._count(chunk)
                continue
            fresh = {}
            for prompt in chunk:
                key = self._keys.key(prompt)
                if self._ledger.admit(key):
                    fresh[key] = prompt
            known = await self._call(
                self._store.known, list(fresh), self._retry_failed, self._since
            )
            self._ledger.settle_known(known, before=True)
            unknown = ((k, p) for k, p in fresh.items() if self._ledger.is_open(k))
            while part := dict(itertools.islice(unknown, self._ahead)):
                for item in await self._claim(part):
                    yield item
            if self._away and time.monotonic() - self._polled > _SHORTEST_POLL:
                for item in await self._poll():
                    yield item
        self.read_all = True
        pause = _SHORTEST_POLL
        while self._away and not self.stopped:
            await asyncio.sleep(pause)
            before = len(self._away)
            for item in await self._poll():
                yield item
            pause = _SHORTEST_POLL if len(self._away) < before else min(2 * pause, _LONGEST_POLL)

    def stop(self) -> None:
        """Ask for no more; from now on :meth:`items` counts what is left."""
        self.stopped = True

    async def _claim(self, part: dict[bytes, Prompt]) -> list[Item]:
        if self.stopped:
            return []
        claim = await self._call(self._store.claim, list(part), self._retry_failed, self._since)
        self._ledger.settle_known(claim.known, before=False)
        self._away.update((key, part[key]) for key in claim.elsewhere)
        return [Item(key, part[key]) for key in claim.mine]

    async def _poll(self) -> list[Item]:
        away, self._away = self._away, {}
        items = await self._claim(away)
        self._polled = time.monotonic()
        return items

    async def _count(self, chunk: list[Prompt]) -> None:
        """Settle what the store knows of a chunk and count the rest as left."""
        keys = [self._keys.key(prompt) for prompt in chunk]
        known = await self._call(
            self._store.known, list(dict.fromkeys(keys)), self._retry_failed, self._since
        )
        outcome = self._ledger.outcome
        for key in keys:
            if key in known.done or key in known.failed:
                self._ledger.admit(key)
            else:
                outcome.prompts += 1
                outcome.left += 1
        self._ledger.settle_known(known, before=True)


def _chunk(stream: Iterator[Prompt]) -> list[Prompt]:
    """The next prompts: at most 512, and no more than can be made in 20 ms."""
    chunk: list[Prompt] = []
    deadline = time.monotonic() + _CHUNK_SECONDS
    for prompt in itertools.islice(stream, _CHUNK):
        chunk.append(prompt)
        if time.monotonic() > deadline:
            break
    return chunk
