"""A dry run: how many prompts, how many tokens, at what cost, and nothing is sent."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import KeyMaker, Prompt
from recbole_choir.settings.profiles import ProfileSettings

_CHUNK = 500


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Args:
        prompts: One per user.
        stored: Prompts whose profile or final failure the store has.
        to_ask: Distinct prompts among the others.
        prompt_tokens: Of those to ask, at about four bytes a token.
        completion_tokens: At most: ``max_tokens`` for every prompt. Tries after bad replies come
            on top.
        cost: At most, in ``currency``; None without prices in the settings.
    """

    prompts: int
    stored: int
    to_ask: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    currency: str

    def __str__(self) -> str:
        cost = (
            "no prices are set (profile.price_per_million_prompt_tokens)"
            if self.cost is None
            else f"at most {self.cost:.2f} {self.currency}"
        )
        return (
            f"{self.prompts} users: {self.stored} in the store, {self.to_ask} prompts to ask, "
            f"about {self.prompt_tokens} tokens of prompts, at most {self.completion_tokens} of "
            f"replies; {cost}"
        )


def estimate(
    prompts: Iterable[Prompt], keys: KeyMaker, store: ProfileStore, settings: ProfileSettings
) -> Estimate:
    """Count what :func:`~.runner.write_profiles` would ask for.

    Args:
        prompts: Streamed; memory does not grow with their number.
        keys: Of the generator's model and parameters.
        store: Open.
        settings: Prices, ``retry_failed``.
    """
    n = stored = to_ask = prompt_tokens = completion_tokens = 0
    stream = iter(prompts)
    with _Seen() as seen:
        while chunk := list(itertools.islice(stream, _CHUNK)):
            n += len(chunk)
            key_of = [keys.key(prompt) for prompt in chunk]
            by_key = dict(zip(key_of, chunk, strict=True))
            known = store.known(list(by_key), settings.retry_failed)
            settled = known.done | set(known.failed)
            stored += sum(key in settled for key in key_of)
            for key in seen.new([key for key in by_key if key not in settled]):
                to_ask += 1
                prompt_tokens += by_key[key].estimated_tokens
                completion_tokens += by_key[key].max_tokens
    prices = settings.price_per_million_prompt_tokens, settings.price_per_million_completion_tokens
    cost = None
    if prices != (None, None):
        cost = (prompt_tokens * (prices[0] or 0) + completion_tokens * (prices[1] or 0)) / 1e6
    return Estimate(n, stored, to_ask, prompt_tokens, completion_tokens, cost, settings.currency)


class _Seen:
    """Keys seen so far, in a temporary file that SQLite deletes."""

    def __enter__(self) -> _Seen:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def new(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those not seen before; all of them are from now on."""
        marks = ",".join("?" * len(keys))
        rows = self._db.execute(f"SELECT key FROM seen WHERE key IN ({marks})", keys)
        old = {key for (key,) in rows}
        fresh = [key for key in keys if key not in old]
        self._db.executemany("INSERT INTO seen VALUES (?)", ((key,) for key in fresh))
        return fresh
