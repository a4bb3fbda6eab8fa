"""Running a coroutine to its end from ordinary code, with Ctrl-C and SIGTERM taken gently."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_gently(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` in an event loop of its own.

    The first Ctrl-C or SIGTERM cancels it, so that its clean-up runs; then the signal does what it
    would have done. The second one does so at once. Where a loop is running already (a notebook),
    ``main`` runs in a thread.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the clean-up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _in_this_thread(main)
    return _in_a_thread(main)


def _in_this_thread(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    received: list[int] = []
    old: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)
        old.clear()

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def handle(number: int, frame: FrameType | None) -> None:
            received.append(number)
            restore()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)

        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None: set by other than Python; SIG_IGN: started with nohup
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    old[number] = signal.signal(number, handle)
        try:
            return await main()
        finally:
            restore()  # here and not later: asyncio puts back what it finds at its end

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not received:
            raise
    signal.raise_signal(received[0])
    raise KeyboardInterrupt


def _in_a_thread(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def noted() -> T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await main()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="profiles") as threads:
        future = threads.submit(lambda: asyncio.run(noted()))
        try:
            return future.result()
        except KeyboardInterrupt:
            for loop, task in running:
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise
