"""Processes that start others: what becomes of them when somebody interrupts or kills."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType
from typing import Final, NoReturn

#: What a shell says of a command that an interrupt has ended.
INTERRUPTED: Final = 130


def is_alive(pid: int) -> bool:
    """Whether a process of that number is at work on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def end_with_parent() -> None:
    """End this process when the one that started it is gone, killed ones included.

    For the start of a worker: one that nobody waits for would go on together with the next start of
    the same study, or wait for its first run for ever. The operating system closes a pipe whose
    other end the parent holds, however that ends.
    """
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def start_worker() -> None:
    """What a worker of a study begins with: it ends with its parent, and with nothing else.

    A terminal sends an interrupt to every process. The parent decides: a run that is at work may
    go on to its end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Start processes in the block which no interrupt reaches before :func:`start_worker` does.

    A signal that comes meanwhile is delivered to this process at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not POSIX
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupts:
    """Count interrupts for a while: the first is a wish, the second ends the process at once.

    Attributes:
        seen: Whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False

    @classmethod
    @contextmanager
    def counted(cls, first: str) -> Iterator[Interrupts]:
        """Count them in the block; in a thread that gets no signals, nothing is counted.

        Args:
            first: What the first one is answered with, on standard error.
        """
        count = cls()
        if threading.current_thread() is not threading.main_thread():
            yield count
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if count.seen:
                stop_at_once()
            count.seen = True
            os.write(2, f"\n{first}\n".encode())  # print might be at work in the frame below

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield count
        finally:
            signal.signal(signal.SIGINT, before)


def stop_at_once() -> NoReturn:
    """Say what is next and end at once; what this process has started ends with it."""
    sys.stdout.flush()
    os.write(2, b"\nstopped: the same command goes on where this one was\n")
    os._exit(INTERRUPTED)
