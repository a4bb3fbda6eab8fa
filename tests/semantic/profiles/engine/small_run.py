"""Prompts, a checker and settings that are small enough to compute by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_choir.semantic.profiles.openai_engine import OpenAIGenerator
from recbole_choir.semantic.profiles.runner import write_profiles
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import Failure, KeyMaker, Outcome, Prompt, Reply
from recbole_choir.settings.profiles import ProfileSettings

SCHEMA = {
    "type": "object",
    "properties": {"identity": {"type": "string"}},
    "required": ["identity"],
}


def prompt(user: object, schema: dict[str, Any] | None = SCHEMA) -> Prompt:
    return Prompt(str(user), (("system", "be short"), ("user", f"about {user}")), schema, 50)


def prompts(n: int) -> Iterator[Prompt]:
    return (prompt(f"u{i}") for i in range(n))


def checker(reply: Reply) -> str | Failure:
    if reply.finish_reason != "stop":
        return Failure(reply.finish_reason, "not whole")
    try:
        identity = json.loads(reply.text)["identity"]
    except (ValueError, LookupError, TypeError):
        return Failure("schema", f"got {reply.text[:20]!r}")
    return f"I: {identity}"


def settings_for(url: str, **changes: Any) -> ProfileSettings:
    """Settings for a server on loopback, which answers at once even on a busy machine."""
    values = {
        "engine": "openai",
        "model": "m",
        "base_url": url,
        "concurrency": 8,
        "connect_timeout": 2.0,
        "read_timeout": 20.0,
        "request_timeout": 30.0,
        "patience": 20.0,
        "max_failed_share": 1.0,
    }
    return ProfileSettings(**(values | changes))


def run(url: str, path: Path, n: int, **changes: Any) -> Outcome:
    """Write profiles of the users u0 .. u<n-1>; also what the processes of a test run."""
    settings = settings_for(url, **changes)
    with ProfileStore(path, settings.lease_seconds) as store:
        generator = OpenAIGenerator(settings)
        return write_profiles(prompts(n), generator, checker, store, settings, progress=False)


def key_of(user: str, settings: ProfileSettings) -> bytes:
    generator = OpenAIGenerator(settings)
    return KeyMaker(generator.model_id, generator.parameters).key(prompt(user))


class Scripted:
    """A generator in this process. ``script`` maps (user, nth request of it) to what happens."""

    name = "scripted"
    model_id = "scripted-1"

    def __init__(self, script: Any = None, concurrency: int | None = None, seed: int = 0) -> None:
        self.script = script or (lambda user, nth: good_reply(user))
        self.concurrency = concurrency
        self.parameters = {"seed": seed}
        self.asked: list[tuple[str, int]] = []
        self.open = 0
        self.most_open = 0
        self.closed = False

    async def complete(self, prompt: Prompt, seed: int) -> Reply:
        user = prompt.user_id
        nth = sum(name == user for name, _ in self.asked)
        self.asked.append((user, seed))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0)
            outcome = self.script(user, nth)
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
        finally:
            self.open -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        self.closed = True


class Lists:
    """The same for whole lists."""

    name = "lists"
    model_id = "lists-1"

    def __init__(self, script: Any = None, batch_size: int = 4) -> None:
        self.script = script or (lambda user, nth: good_reply(user))
        self.batch_size = batch_size
        self.parameters = {"seed": 0}
        self.calls: list[list[tuple[str, int]]] = []
        self.closed = False

    def complete_many(self, prompts: Any, seeds: Any) -> list[Reply | Failure]:
        before = [name for call in self.calls for name, _ in call]
        self.calls.append([(p.user_id, s) for p, s in zip(prompts, seeds, strict=True)])
        return [self.script(p.user_id, before.count(p.user_id)) for p in prompts]

    def close(self) -> None:
        self.closed = True


def good_reply(user: str) -> Reply:
    return Reply(json.dumps({"identity": user}), "stop", 20, 10)


def bad_reply(text: str = "nonsense") -> Reply:
    return Reply(text, "stop", 20, 10)
