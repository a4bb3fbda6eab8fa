"""One prompt to its end: attempts against a failing server, tries against bad replies."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from recbole_choir.errors import ProfileError
from recbole_choir.semantic.profiles.limits import Budget, PerMinute
from recbole_choir.semantic.profiles.store import Finished
from recbole_choir.semantic.profiles.types import (
    AskAgain,
    Checker,
    Failure,
    Generator,
    Prompt,
    PromptRejected,
    Reply,
    Transient,
)
from recbole_choir.settings.profiles import ProfileSettings

logger = logging.getLogger(__name__)

#: Reasons of failures that are the server's, not the model's: the next run asks again.
UNAVAILABLE = "unavailable"
REJECTED = "rejected"

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0

# A rate limit says nothing about a prompt, unless it hits this one alone again and again: one
# that is larger than a minute's tokens never gets through.
_WAITS_PER_ATTEMPT = 10

# A server that refuses so many of the first prompts refuses them all: a wrong field in the request,
# not prompts that are too long.
_REJECTIONS_AT_START = 20


@dataclass
class Item:
    """A prompt that this process is to ask, and what was tried so far.

    Args:
        tries: Seeds whose reply was judged, or that were given up.
        attempts: Faults of the current try that may be the prompt's.
        waits: Faults of the current try.
        first_attempt: When the current try began.
    """

    key: bytes
    prompt: Prompt
    tries: int = 0
    attempts: int = 0
    waits: int = 0
    first_attempt: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def finished(self, result: str | Failure, final: bool = True) -> Finished:
        """The row for the store."""
        return Finished(
            self.key,
            result,
            max(1, self.tries),
            self.prompt_tokens,
            self.completion_tokens,
            final,
        )

    def judge(self, reply: Reply | Failure, checker: Checker) -> str | Failure:
        """Count a reply and have it checked."""
        self.tries += 1
        if isinstance(reply, Failure):
            return reply
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        result = checker(reply)
        if isinstance(result, str) and not _storable(result):
            return Failure("encoding", "half a surrogate pair is no text")
        return result


@dataclass
class Tally:
    """Counts over all prompts of a run."""

    attempts: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rejections: int = 0


@dataclass
class Asker:
    """Asks one prompt at a time of a generator; many calls share one asker.

    ::

        a try      = one seed: attempts until a reply comes; a bad reply leads to the next try
        an attempt = one request; a transient fault waits and attempts again:
                     Retry-After, where the server gives it, stops everybody for that long;
                     else .5, 1, 2, .. 30 s with jitter

    A fault that may be the prompt's own counts against the prompt while the server answers
    others. Without an answer to anybody for ``patience`` seconds the server is dead.

    Args:
        generator, checker, settings: As in :func:`~.runner.write_profiles`.
    """

    generator: Generator
    checker: Checker
    settings: ProfileSettings
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.requests = PerMinute(self.settings.requests_per_minute, "requests_per_minute")
        self.tokens = PerMinute(self.settings.tokens_per_minute, "tokens_per_minute")
        self.budget = Budget(self.settings.max_requests, self.settings.max_total_tokens)
        self.last_answer: float | None = None
        self._failing_since: float | None = None
        self._paused_until = 0.0
        # jitter spreads the load of several clients: it must differ between them
        self._jitter = random.Random()

    def answered_since(self, moment: float) -> bool:
        """Whether the server has answered anything since then (monotonic seconds)."""
        return self.last_answer is not None and self.last_answer >= moment

    async def ask(self, item: Item, last: Callable[[], bool]) -> Finished | None:
        """Ask until there is a profile or a failure.

        Args:
            item: What to ask.
            last: Whether so little is left to ask that nobody else's answer will show that the
                server is alive; looked at when the prompt is given up.

        Returns:
            The row for the store; None if the server failed so often at this prompt that others
            should come first: then it is alive or dead for all to see.

        Raises:
            BudgetSpent: A cap of the run is reached.
            ProfileError: The server is dead, or refuses everything.
            ConfigError: Nothing can be answered with these settings.
        """
        while True:
            try:
                reply = await self._reply(item, self.settings.seed + item.tries, last)
            except PromptRejected as error:
                return self._rejected(item, str(error))
            except _GivenUp as error:
                if error.verdict:
                    item.tries += 1
                    return item.finished(Failure(UNAVAILABLE, error.detail), final=False)
                await asyncio.sleep(self._backoff(item))
                return None
            result = item.judge(reply, self.checker)
            if isinstance(result, str) or item.tries > self.settings.retries:
                return item.finished(result)
            item.attempts = item.waits = 0

    async def _reply(self, item: Item, seed: int, last: Callable[[], bool]) -> Reply:
        """One try: attempts until something is answered."""
        cost = item.prompt.estimated_tokens + item.prompt.max_tokens
        while True:
            await self._turn(cost)
            now = time.monotonic()
            if item.waits == 0:
                item.first_attempt = now
            spent, sent = 0, True
            try:
                self.tally.attempts += 1
                self.tally.repeated += bool(item.tries or item.waits)
                reply = await self.generator.complete(item.prompt, seed)
                spent = reply.prompt_tokens + reply.completion_tokens or cost
                self.tally.prompt_tokens += reply.prompt_tokens
                self.tally.completion_tokens += reply.completion_tokens
            except AskAgain:
                continue
            except Transient as error:
                # unknown is counted as the most it can be: a cap on cost has to hold
                spent, sent = cost if error.maybe_billed else 0, error.sent
                wait = self._after(error, item, last)
            else:
                self.last_answer = time.monotonic()
                self._failing_since = None
                return reply
            finally:
                self.budget.settle(cost, spent, sent)
            await asyncio.sleep(wait)

    async def _turn(self, cost: int) -> None:
        """Wait until a request may be sent."""
        while (wait := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        await self.budget.reserve(cost)
        try:
            await self.requests.acquire(1)
            await self.tokens.acquire(cost)
        except BaseException:
            self.budget.settle(cost, 0, sent=False)
            raise

    def _after(self, error: Transient, item: Item, last: Callable[[], bool]) -> float:
        """What to do after a fault: seconds to wait before the next attempt.

        Raises:
            _GivenUp: No further attempt now.
            ProfileError: The server is dead.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        patience = self.settings.patience
        if (error.retry_after or 0.0) > patience:
            raise ProfileError(
                f"the server asks to wait {error.retry_after:.0f} s, profile.patience is "
                f"{patience:g} s: stopped, what is finished is kept ({error.detail})"
            )
        if now - self._failing_since >= patience:
            raise ProfileError(
                f"the server has not answered for {now - self._failing_since:.0f} s "
                f"(profile.patience is {patience:g}): stopped, what is finished is kept; last: "
                f"{error.detail}"
            )
        logger.debug("attempt failed: %s", error.detail)
        item.waits += 1
        item.attempts += error.blames_prompt
        waited = item.waits >= _WAITS_PER_ATTEMPT * self.settings.attempts
        if waited or item.attempts >= self.settings.attempts:
            alive = self.answered_since(item.first_attempt)
            at_the_end = self.last_answer is not None and last()
            raise _GivenUp(error.detail, verdict=alive or at_the_end)
        if error.retry_after is not None:
            self._paused_until = max(self._paused_until, now + error.retry_after)
        return max(error.retry_after or 0.0, self._backoff(item))

    def _backoff(self, item: Item) -> float:
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(item.waits - 1, 10))
        return self._jitter.uniform(0.5, 1.0) * longest

    def _rejected(self, item: Item, detail: str) -> Finished:
        self.tally.rejections += 1
        if self.last_answer is None and self.tally.rejections >= _REJECTIONS_AT_START:
            raise ProfileError(
                f"the server refused the first {self.tally.rejections} prompts and answered none: "
                f"stopped; last: {detail}"
            )
        item.tries += 1
        return item.finished(Failure(REJECTED, detail), final=False)


class _GivenUp(Exception):
    """No further attempt now; ``verdict``: the prompt is the cause, as far as can be known."""

    def __init__(self, detail: str, verdict: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.verdict = verdict


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
