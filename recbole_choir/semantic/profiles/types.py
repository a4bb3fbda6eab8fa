"""What the profile stage passes around: prompts, replies, failures, and who answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

#: Finish reasons of a reply that is whole; everything else was cut off or withheld.
WHOLE = "stop"


@dataclass(frozen=True)
class Prompt:
    """One question to a language model.

    Args:
        user_id: The user it is about. It is no part of the key: users with equal prompts share one
            profile, and the store knows no user ids.
        messages: ``(role, text)`` in order.
        schema: JSON schema of the reply; None asks for free text.
        max_tokens: Longest reply, in tokens.
        schema_version: Raise it when the same schema is checked by other rules.
    """

    user_id: str
    messages: tuple[tuple[str, str], ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 300
    schema_version: int = 1

    @property
    def estimated_tokens(self) -> int:
        """Tokens of the messages, roughly: four bytes of UTF-8 each, and four per message.

        English has about four letters per token, Chinese about one and a half tokens per two
        characters of three bytes: no tokenizer is needed for a limit or an estimate of cost.
        """
        return sum(4 + (len(text.encode("utf-8", "replace")) + 3) // 4 for _, text in self.messages)


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Args:
        text: The answer as it came, never repaired.
        finish_reason: ``stop`` where the model ended by itself; ``length``, ``refusal``,
            ``content_filter`` or whatever else the server says.
        prompt_tokens: Tokens read, 0 where the server does not say.
        completion_tokens: Tokens written, 0 where the server does not say.
    """

    text: str
    finish_reason: str = WHOLE
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """Why there is no profile.

    Args:
        reason: One word to count by: ``length``, ``refusal``, ``empty``, ``schema``, ...
        detail: One line for a person.
    """

    reason: str
    detail: str = ""


#: Returns the final text of a profile, or why the reply is no profile.
Checker = Callable[[Reply], str | Failure]


class Transient(Exception):
    """One attempt failed through no fault of the prompt; it may be made again later.

    Args:
        detail: One line, without secrets.
        retry_after: Seconds the server asks everybody to wait; None if it does not say.
        blames_prompt: Whether this prompt may be the cause (a timeout, an error 500). Not so for
            a refused connection or a rate limit: these are waited out, however often they come.
        sent: Whether the request left this machine; one that did not counts for no cap.
        maybe_billed: Whether the server may have written, and billed, a reply that never came.
    """

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        blames_prompt: bool = True,
        sent: bool = True,
        maybe_billed: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.blames_prompt = blames_prompt
        self.sent = sent
        self.maybe_billed = maybe_billed


class AskAgain(Exception):
    """The generator has changed how it asks (a feature the server lacks): send it once more."""


class PromptRejected(Exception):
    """The server will never answer this prompt (too long, not allowed): no reply was written."""


@runtime_checkable
class Generator(Protocol):
    """Answers one prompt at a time; the runner keeps many in flight.

    Attributes:
        name: Of the engine.
        model_id: What answers. It enters the key of a profile.
        parameters: What else changes a reply (temperature, seed, ...). It enters the key.
        concurrency: Most prompts in flight that make sense here; None leaves it to the settings.
    """

    name: str
    model_id: str
    parameters: Mapping[str, Any]
    concurrency: int | None

    async def complete(self, prompt: Prompt, seed: int) -> Reply:
        """Make exactly one attempt.

        Args:
            prompt: What to ask.
            seed: ``parameters`` hold the seed of the first try; another one means that the first
                reply was bad, so the reply has to differ (greedy decoding would repeat it).

        Raises:
            Transient: This attempt failed; the runner waits and tries again.
            AskAgain: To be sent again at once.
            PromptRejected: This prompt is hopeless.
            ConfigError: Nothing can be answered (wrong key, no such model): the run stops.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and models."""
        ...


@runtime_checkable
class BatchGenerator(Protocol):
    """Answers a whole list in one call, for engines that schedule by themselves.

    Attributes:
        name, model_id, parameters: As in :class:`Generator`.
        batch_size: Prompts per call; a killed run loses at most one call.
    """

    name: str
    model_id: str
    parameters: Mapping[str, Any]
    batch_size: int

    def complete_many(
        self, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Reply | Failure]:
        """One reply or failure per prompt, in order. It blocks; the runner calls it in a thread."""
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


@dataclass
class Outcome:
    """What became of the prompts of one run, counted in prompts unless said otherwise.

    Args:
        prompts: Read from the iterable.
        reused: Already in the store when they were read, as a profile.
        failed_before: Already in the store, as a failure that stands.
        duplicates: Answered by what was asked here for another prompt with the same key.
        elsewhere: Answered by another process while this one ran.
        done: With a valid profile now.
        failed: Without one, with a recorded reason.
        left: Neither, because the run was stopped before it came to them; -1 where it stopped
            without knowing how many prompts there are.
        failures: Reason -> prompts.
        requests: Requests sent, every attempt counted.
        repeated: Requests beyond the first of a prompt.
        prompt_tokens, completion_tokens: As the server counted them.
        stopped: Why the run ended early; empty if it did not.
        seconds: Wall time.
    """

    prompts: int = 0
    reused: int = 0
    failed_before: int = 0
    duplicates: int = 0
    elsewhere: int = 0
    done: int = 0
    failed: int = 0
    left: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stopped: str = ""
    seconds: float = 0.0


class KeyMaker:
    """Keys of prompts: sha256 over messages, model, parameters, schema and its version.

    Args:
        model_id: Of the generator.
        parameters: Of the generator.
    """

    def __init__(self, model_id: str, parameters: Mapping[str, Any]) -> None:
        self.source = canonical_json({"model": model_id, "parameters": dict(parameters)})
        self._schema: tuple[object, bytes] | None = None

    def key(self, prompt: Prompt) -> bytes:
        """32 bytes; equal for prompts that must get the same profile."""
        if self._schema is None or self._schema[0] is not prompt.schema:
            # one schema object serves a whole run: hashing it a million times would be waste
            self._schema = (prompt.schema, canonical_json(prompt.schema).encode())
        head = f"{self.source}\n{prompt.schema_version}\n{prompt.max_tokens}\n".encode()
        digest = hashlib.sha256(head)
        digest.update(self._schema[1] + b"\n")
        digest.update(json.dumps(prompt.messages, separators=(",", ":")).encode())
        return digest.digest()


def canonical_json(value: Any) -> str:
    """Plain values as ASCII JSON that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
