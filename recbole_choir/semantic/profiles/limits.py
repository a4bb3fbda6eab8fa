"""How fast and how much may be asked: limits per minute, and a budget per run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.profiles.types import PromptRejected

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_MINUTE = 60.0

# What may go out at once after a pause: a tenth of a second's worth. A larger burst at the start
# would come on top of the steady flow and break the limit in the first minute.
_BURST_SHARE = 1 / 600


class PerMinute:
    """At most so many units in any minute.

    A leaky bucket lets a full bucket through at once and then the steady flow; the flow is set so
    that both together stay within the limit.

    Args:
        limit: Units per minute; None is no limit.
        what: Name of the setting, for errors.
    """

    def __init__(self, limit: int | None, what: str) -> None:
        self.limit = limit
        self.what = what
        self._bucket: AsyncLimiter | None = None
        self._burst = 0.0
        self._turn = asyncio.Lock()
        if limit is not None:
            self._burst = max(1.0, limit * _BURST_SHARE)
            # with a burst of one, requests are evenly spaced and need no allowance
            per_minute = limit - self._burst if self._burst > 1 else float(limit)
            self._bucket = _bucket(self._burst, _MINUTE * self._burst / per_minute)

    async def acquire(self, amount: int) -> None:
        """Wait until that many units may be used.

        Raises:
            PromptRejected: No minute has that many.
        """
        if self._bucket is None or self.limit is None:
            return
        if amount > self.limit:
            raise PromptRejected(
                f"profile.{self.what}: expected at least {amount}, what this prompt and its "
                f"longest reply take, got {self.limit}"
            )
        async with self._turn:  # in order: many small ones would starve a large one
            left = float(amount)
            while left > 0:
                part = min(left, self._burst)
                await self._bucket.acquire(part)
                left -= part


class BudgetSpent(Exception):
    """A cap of the run is reached: nothing more may be sent. The text says which."""


class Budget:
    """Caps on requests and tokens of one run; they hold whatever comes back.

    A request reserves what it can cost at most and pays what it did cost, so that requests in
    flight together never overspend.

    Args:
        max_requests: Requests, every attempt counted; None is no cap.
        max_tokens: Tokens of prompts and replies; None is no cap.
    """

    def __init__(self, max_requests: int | None, max_tokens: int | None) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.requests = 0
        self.spent = 0
        self._reserved = 0
        self._open = 0
        self._settled = asyncio.Event()

    async def reserve(self, tokens: int) -> None:
        """Enter one request that can cost ``tokens``; wait where requests in flight may leave room.

        Raises:
            BudgetSpent: There is no room and none will be made.
        """
        while True:
            room = self.max_requests is None or self.requests < self.max_requests
            if room and (
                self.max_tokens is None or self.spent + self._reserved + tokens <= self.max_tokens
            ):
                break
            if self._open == 0:
                raise BudgetSpent(self._why(tokens))
            self._settled.clear()
            await self._settled.wait()
        self.requests += 1
        self._open += 1
        self._reserved += tokens

    def room(self, costs: Sequence[int]) -> int:
        """How many of these requests, sent together and in this order, stay within the caps.

        Raises:
            BudgetSpent: Not even the first.
        """
        n = len(costs)
        if self.max_requests is not None:
            n = min(n, self.max_requests - self.requests)
        if self.max_tokens is not None:
            left = self.max_tokens - self.spent
            n = min(n, sum(total <= left for total in itertools.accumulate(costs)))
        if n == 0 and costs:
            raise BudgetSpent(self._why(costs[0]))
        return n

    def settle(self, reserved: int, spent: int, sent: bool = True) -> None:
        """Pay for a request that reserved so many tokens; one that was not sent is no request."""
        self._open -= 1
        self.requests -= not sent
        self._reserved -= reserved
        self.spent += spent
        self._settled.set()

    def _why(self, tokens: int) -> str:
        if self.max_requests is not None and self.requests >= self.max_requests:
            return f"profile.max_requests ({self.max_requests}) is reached"
        return (
            f"profile.max_total_tokens ({self.max_tokens}) is reached: {self.spent} used, the next "
            f"request may take {tokens}"
        )


def _bucket(rate: float, period: float) -> AsyncLimiter:
    try:
        from aiolimiter import AsyncLimiter
    except ImportError:
        raise ConfigError(
            "profile.requests_per_minute and tokens_per_minute need the package aiolimiter: "
            "pip install 'recbole-choir[llm]'"
        ) from None
    return AsyncLimiter(rate, period)
