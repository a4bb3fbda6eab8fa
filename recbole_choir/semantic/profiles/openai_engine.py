"""Any OpenAI-compatible server: vLLM, llama.cpp, Ollama, a cloud."""

from __future__ import annotations

import email.utils
import json
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from recbole_choir.errors import ConfigError, ProfileError
from recbole_choir.files import parse_json
from recbole_choir.semantic.profiles.types import (
    AskAgain,
    Prompt,
    PromptRejected,
    Reply,
    Transient,
)
from recbole_choir.settings.profiles import ProfileSettings

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

#: Ways to ask for a JSON schema, the strictest first.
MODES: Final = ("json_schema", "json_object", "none")

_NO_KEY = "none"  # the client insists on a key, a server of one's own does not
_REJECTED = (400, 413, 422)
_BUSY = (429, 502, 503)  # the server's state, never one prompt's fault
_PASSING = (408, 409, 425)
_NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "ClientConnectorError", "ConnectionTimeoutError"}
)
_DETAIL = 300
_LEAST_KEY = 8  # what is shorter is no secret, and would tear words apart
_MOST_BYTES = 8 << 20  # of a reply, decompressed: a profile has some hundred
_MOST_TOKENS = 1 << 31  # a server that counts more has no count
_REDIRECTS = range(300, 400)


class _Unreadable(Exception):
    """A reply that is not read to its end: too long, or packed more than once."""


class OpenAIGenerator:
    """Asks an OpenAI-compatible server through the official client, one attempt a call.

    The client's own retries are off: the runner counts, spaces and caps every attempt. The reply
    is taken from the body as it came; the client's typed objects would cost as much as all the
    rest of a call. With aiohttp installed (extra ``llm``) the client uses it, for speed.

    The key comes from the environment and goes into the request's header, nowhere else: it is
    taken out of whatever a server says, a profile's text too, before anything is made of it.
    A redirect is never followed: it would carry profiles, and perhaps the key, to somebody else. A
    reply is read up to 8 MiB.

    Args:
        settings: ``model``, ``base_url``, ``api_key_env``, time-outs, sampling.

    Raises:
        ConfigError: The package openai is missing, or a key is needed and not set.
    """

    name = "openai"

    def __init__(self, settings: ProfileSettings) -> None:
        self.settings = settings
        self.model_id = settings.model
        self.parameters: Mapping[str, Any] = {
            **settings.reply_parameters(),
            "structured_output": settings.structured_output,
        }
        self.concurrency: int | None = settings.concurrency
        self._key = _api_key(settings)
        self._client = _client(settings, self._key)
        self._unwrapped = _unwrapped_errors()
        # whole: the client would join a relative one to the base again for every request
        self._url = str(self._client.base_url).rstrip("/") + "/chat/completions"
        mode = settings.structured_output
        self._modes = MODES if mode == "auto" else (mode,)
        self._mode = 0
        self._proven: int | None = None

    async def complete(self, prompt: Prompt, seed: int) -> Reply:
        """Send one request.

        Raises:
            Transient: 408, 409, 425, 429, 5xx, no connection, a time-out, an answer that is none.
            AskAgain: The server does not know this way to ask for a schema; the next one is tried.
            PromptRejected: 400, 413 or 422 (500 where it names ``response_format``) whatever the
                way.
            ConfigError: Any other status 4xx: wrong key, model or address; a redirect.
            ProfileError: The account's quota is used up.
        """
        import openai

        mode = self._mode
        body = self._body(prompt, seed, self._modes[mode])
        settings = self.settings
        try:
            with anyio.fail_after(settings.request_timeout):
                answer = await self._client.post(self._url, cast_to=bytes, body=body)
        except TimeoutError:
            limit = f"{settings.request_timeout:g} s (profile.request_timeout)"
            raise Transient(f"no whole reply in {limit}", maybe_billed=True) from None
        except _Unreadable as error:
            raise Transient(str(error), maybe_billed=True) from None
        except self._unwrapped as error:
            raise Transient(
                self._clean(f"{type(error).__name__}: {error}"), maybe_billed=True
            ) from None
        except openai.APIStatusError as error:
            # the chain holds the request, and its header the key: it ends here
            raise self._refused(error, prompt, mode) from None
        except openai.APIConnectionError as error:
            raise self._lost(error) from None
        reply = _reply(self._without_key(answer))
        if prompt.schema is not None and self._proven is None:
            self._prove(mode)
        return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _body(self, prompt: Prompt, seed: int, mode: str) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": role, "content": text} for role, text in prompt.messages],
            settings.max_tokens_field: prompt.max_tokens,
            "temperature": settings.temperature_for(seed),
            "seed": seed,
        }
        if settings.top_p is not None:
            body["top_p"] = settings.top_p
        if prompt.schema is not None and mode == "json_schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "profile", "strict": True, "schema": prompt.schema},
            }
        elif prompt.schema is not None and mode == "json_object":
            body["response_format"] = {"type": "json_object", "schema": prompt.schema}
        return body | settings.extra_body

    def _prove(self, mode: int) -> None:
        """The server takes this way to ask: stay with it."""
        self._proven = self._mode = mode
        if mode > 0:
            logger.warning(
                "server of '%s': refuses structured output by %s, takes %s",
                *(self.model_id, " and ".join(self._modes[:mode]), self._modes[mode]),
            )

    def _refused(self, error: openai.APIStatusError, prompt: Prompt, mode: int) -> Exception:
        """What an error status means."""
        status = error.status_code
        detail = f"status {status}: {self._clean(_message(error))}"
        # llama-cpp-python's server answers 500 to a response_format that it does not know
        if status in _REJECTED or (status == 500 and "response_format" in detail):
            if prompt.schema is not None and self._proven is None and mode + 1 < len(self._modes):
                self._mode = max(self._mode, mode + 1)
                return AskAgain(detail)
            if self._proven is None:
                self._mode = 0  # every way is refused: it was the prompt
            elif mode != self._proven:
                return AskAgain(detail)
            return PromptRejected(detail)
        if status == 429 and error.code == "insufficient_quota":
            return ProfileError(f"the server's quota is used up ({detail}): what is done is kept")
        if status in _BUSY:
            wait = _retry_after(error.response.headers)
            return Transient(detail, retry_after=wait, blames_prompt=False)
        if status >= 500 or status in _PASSING:
            return Transient(detail, retry_after=_retry_after(error.response.headers))
        if status in _REDIRECTS:
            host = urlsplit(error.response.headers.get("location", "")).hostname or "elsewhere"
            return ConfigError(
                f"profile.base_url: the server redirects (status {status}) to "
                f"{self._clean(host)}, which is not followed: expected the final address"
            )
        if status in (401, 403):
            held = "it is set" if self._key != _NO_KEY else "it is not set"
            return ConfigError(
                f"the server refuses the key in ${self.settings.api_key_env} ({held}): {detail}"
            )
        where = self.settings.base_url or "the default address"
        return ConfigError(
            f"the server at {where} does not answer for model '{self.model_id}': {detail}"
        )

    def _lost(self, error: openai.APIConnectionError) -> Transient:
        """No answer: never connected, or lost on the way, when it may have been billed."""
        names, last = set(), ""
        for cause in _causes(error):
            names.add(type(cause).__name__)
            last = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        # aiohttp's transport calls a lost connection a ConnectTimeout
        sent = not names & _NOT_SENT or bool(names & {"ServerDisconnectedError", "ClientOSError"})
        if names & {"ClientConnectorError", "ConnectError"}:
            sent = False
        detail = self._clean(last) if sent else f"no connection: {self._clean(last)}"
        return Transient(detail, blames_prompt=sent, sent=sent, maybe_billed=sent)

    def _clean(self, text: str) -> str:
        line = " ".join(text.split())
        return (line if self._key == _NO_KEY else line.replace(self._key, "***"))[:_DETAIL]

    def _without_key(self, answer: bytes) -> bytes:
        if len(self._key) < _LEAST_KEY:
            return answer
        # JSON may write the key as it is or escaped
        for form in (self._key, json.dumps(self._key)[1:-1], self._key.replace("/", "\\/")):
            answer = answer.replace(form.encode(), b"***")
        return answer


def _api_key(settings: ProfileSettings) -> str:
    name = settings.api_key_env
    key = os.environ.get(name, "").strip()
    if not key:
        if settings.base_url is None:
            raise ConfigError(f"profile.api_key_env: expected a key in ${name}, which is not set")
        return _NO_KEY
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"profile.api_key_env: expected printable ASCII in ${name}, got others")
    address = urlsplit(settings.base_url or "https:")
    local = address.hostname in ("localhost", "127.0.0.1", "::1")
    if address.scheme == "http" and not local:
        logger.warning("the key in $%s goes to %s unencrypted", name, address.hostname)
    return key


def _client(settings: ProfileSettings, key: str) -> openai.AsyncOpenAI:
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "profile.engine: 'openai' needs the package openai: pip install 'recbole-choir[llm]'"
        ) from None
    for name in ("httpx", "httpx2"):
        # one line per request at level INFO would drown everything else
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    timeout = openai.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None)
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        kind: Any = openai.DefaultAsyncHttpxClient
    else:
        kind = openai.DefaultAioHttpClient
    http = kind(timeout=timeout, follow_redirects=False, event_hooks={"response": [_bounded]})
    return openai.AsyncOpenAI(
        base_url=settings.base_url,
        api_key=key,
        timeout=timeout,
        max_retries=0,
        http_client=http,
        default_headers={"Accept-Encoding": "identity"},
    )


def _unwrapped_errors() -> tuple[type[Exception], ...]:
    """What transports raise past the client: an answer that is no HTTP or cannot be unpacked."""
    import openai

    # httpx in older clients, httpx2 in newer ones
    transport = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.split(".")[0])
    errors: list[type[Exception]] = [transport.HTTPError, transport.InvalidURL, OSError, ValueError]
    with suppress(ImportError):
        import aiohttp

        errors.append(aiohttp.ClientError)
    return tuple(errors)


async def _bounded(response: Any) -> None:
    """Have a reply read up to a limit, counted after decompression, before its body is read."""
    if "," in response.headers.get("content-encoding", ""):
        raise _Unreadable("a reply that is compressed more than once")
    whole = response.aiter_bytes

    async def up_to_limit(*args: Any) -> AsyncIterator[bytes]:
        size = 0
        async for part in whole(*args):
            size += len(part)
            if size > _MOST_BYTES:
                raise _Unreadable(f"a reply of more than {_MOST_BYTES >> 20} MiB")
            yield part

    response.aiter_bytes = up_to_limit


def _reply(answer: bytes) -> Reply:
    """The first choice of a chat completion.

    Raises:
        Transient: It is none: a proxy's page, half a body, an error with status 200.
    """
    try:
        body = parse_json(answer)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError):
        text = None
    if not isinstance(text, str):
        start = " ".join(answer[:80].decode("utf-8", "replace").split())
        raise Transient(f"not a chat completion: {start!r}", maybe_billed=True)
    tokens = _tokens(body.get("usage"))
    if refusal:
        return Reply(str(refusal)[:_DETAIL], "refusal", *tokens)
    return Reply(text, str(choice.get("finish_reason") or "")[:_DETAIL], *tokens)


def _tokens(usage: Any) -> tuple[int, int]:
    """Tokens of prompt and completion; 0 where the server's count is none.

    The text is paid for, whatever stands here.
    """
    counts = usage if isinstance(usage, Mapping) else {}
    given = counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in given) or not all(
        0 <= n < _MOST_TOKENS for n in given
    ):
        return 0, 0
    return int(given[0]), int(given[1])


def _message(error: openai.APIStatusError) -> str:
    """What the server says, without the client's own words around it."""
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return str(body["message"])
    try:
        return json.dumps(body) if isinstance(body, Mapping | list) else str(body or error.message)
    except RecursionError:
        return "an error that is nested too deeply"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                moment = email.utils.parsedate_tz(value)
                seconds = (
                    math.nan if moment is None else email.utils.mktime_tz(moment) - time.time()
                )
            except (ValueError, OverflowError, TypeError, IndexError):  # a date that is none
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it says it came from; what merely happened before would mislead."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
