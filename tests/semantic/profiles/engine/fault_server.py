"""An OpenAI-compatible server on loopback that fails on purpose and keeps a log.

It runs in a thread of the test. What it does with a request is chosen by a function, so that a
test can script every answer, or by probabilities.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

HTML = b"<html><body>502 upstream</body></html>"


@dataclass
class Request:
    """What came in.

    Args:
        user: Last word of the last message.
        nth: How many requests for this user came before, in this server's life.
    """

    user: str
    nth: int
    body: dict[str, Any]
    headers: dict[str, str]
    run: int
    time: float
    finished: bool = False  # a good reply was written to the socket, all of it


@dataclass
class Action:
    """What to do with a request.

    Args:
        kind: ``ok``, ``status``, ``hang``, ``close`` (without a word), ``reset`` (in the middle of
            the body), ``truncate`` (connection closed before the announced length), ``cut`` (half
            the JSON, its length right), ``garbage`` (a page of HTML), ``drip`` (a byte at a time),
            ``wrong`` (not the schema), ``text`` (``text`` as the reply).
        delay: Seconds before the answer.
    """

    kind: str = "ok"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    text: str = ""
    finish_reason: str = "stop"
    delay: float = 0.0


Choose = Callable[[Request], Action]


def profile_of(user: str) -> str:
    """The good reply for a user."""
    return json.dumps({"identity": f"profile of {user}"})


def error_body(message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code}}).encode()


def by_chance(shares: Mapping[str, float], seed: int = 0, delay: float = 0.0) -> Choose:
    """Each fault with its probability, otherwise a good answer."""
    rng = random.Random(seed)
    names, weights = list(shares), list(shares.values())
    names.append("ok")
    weights.append(1.0 - sum(weights))

    def choose(request: Request) -> Action:
        kind = rng.choices(names, weights)[0]
        if kind == "429":
            wait = {"Retry-After": "0.05"}
            return Action("status", status=429, headers=wait, body=error_body("slow down"))
        if kind == "500":
            return Action("status", status=500, body=error_body("internal"))
        return Action(kind, delay=delay)

    return choose


class FaultServer:
    """``with FaultServer() as server: server.url``."""

    def __init__(self, choose: Choose | None = None) -> None:
        self.choose: Choose = choose or (lambda request: Action())
        self.log: list[Request] = []
        self.run = 0
        self.open = 0
        self.most_open = 0
        self.hold_until_open = 0  # answer nobody before so many requests were open at once
        self._count: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FaultServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def times_asked(self) -> Counter[str]:
        return Counter(request.user for request in self.log)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()

    def received(self, head: bytes, content: bytes) -> Request:
        lines = head.decode("latin-1").split("\r\n")[1:]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        body = json.loads(content)
        user = body["messages"][-1]["content"].split()[-1]
        request = Request(user, self._count[user], body, headers, self.run, time.monotonic())
        self._count[user] += 1
        self.log.append(request)
        return request


class _Connection(asyncio.Protocol):
    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.buffer = b""
        self.answering: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        place = head.lower().find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        request = self.server.received(head, rest[:length])
        task = asyncio.ensure_future(self.answer(request, self.server.choose(request)))
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)

    async def answer(self, request: Request, action: Action) -> None:
        server = self.server
        server.open += 1
        server.most_open = max(server.most_open, server.open)
        try:
            await self._answer(request, action)
        finally:
            server.open -= 1

    async def _answer(self, request: Request, action: Action) -> None:
        while self.server.most_open < self.server.hold_until_open:
            await asyncio.sleep(0.002)
        if action.delay:
            await asyncio.sleep(action.delay)
        kind, write = action.kind, self.transport.write
        if kind == "hang":
            await asyncio.sleep(3600)
        elif kind == "status":
            write(_http(action.body, action.status, action.headers))
        elif kind == "garbage":
            write(_http(HTML, content_type="text/html"))
        elif kind == "cut":
            body = _completion(request, profile_of(request.user))
            write(_http(body[: len(body) // 2]))
        elif kind == "close":
            self.transport.close()
        elif kind in ("reset", "truncate"):
            whole = _http(_completion(request, profile_of(request.user)))
            write(whole[: len(whole) - 60])
            await asyncio.sleep(0.01)
            if kind == "reset":
                self.transport.abort()
            else:
                self.transport.close()
        elif kind == "drip":
            for byte in _http(_completion(request, profile_of(request.user))):
                if self.transport.is_closing():
                    return
                write(bytes([byte]))
                await asyncio.sleep(0.05)
        elif kind == "wrong":
            write(_http(_completion(request, '{"name": "no such field"}')))
        elif kind == "text":
            write(_http(_completion(request, action.text, action.finish_reason)))
        else:
            write(_http(_completion(request, profile_of(request.user))))
            request.finished = not self.transport.is_closing()


def _completion(request: Request, text: str, finish_reason: str = "stop") -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": request.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
        }
    ).encode()


def _http(
    body: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}\r\n".encode() + body
