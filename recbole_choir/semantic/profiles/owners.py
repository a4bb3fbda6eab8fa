"""Who is at work on a store, and whether it still lives."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Process:
    """One process, told apart from every other that was or will be.

    Args:
        machine: Host name, and on Linux the namespace of process ids (a container's differs).
        pid: Process id; it is given to other processes later.
        started: When it started, in whatever unit does not move with the clock.
    """

    machine: str
    pid: int
    started: str

    @staticmethod
    def current() -> Process:
        """This process."""
        pid = os.getpid()
        return Process(_machine(), pid, _started(pid) or "")

    def is_gone(self) -> bool | None:
        """Whether it has ended: None where that cannot be known from here."""
        if self.machine != _machine():
            return None
        return _started(self.pid) != self.started


def _machine() -> str:
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


def _started(pid: int) -> str | None:
    """When a running process started; None if there is none, or only its unreaped remains."""
    proc = Path("/proc") / str(pid) / "stat"
    if Path("/proc/self/stat").exists():
        try:
            # the name stands in brackets and may hold anything
            fields = proc.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        state, ticks = fields[0], fields[19]
        return None if state in "ZX" else f"{_boot()} {ticks}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
