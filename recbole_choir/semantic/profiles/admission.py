"""From prompts to what this process has to ask: streamed, without duplicates, leased."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

from recbole_choir.semantic.profiles.asking import Item
from recbole_choir.semantic.profiles.ledger import Ledger
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import KeyMaker, Prompt

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
