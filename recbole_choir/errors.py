"""Errors a user can act on: one line that says what, where, expected and got."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ChoirError(ValueError):
    """Base of every error this package raises on bad input."""


class ConfigError(ChoirError):
    """A configuration key or value is unknown, of the wrong type or out of range.

    Attributes:
        problems: One line each, where several things are wrong.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)

    @classmethod
    def of(cls, problems: Iterable[str]) -> ConfigError:
        """One error that names all problems, each once, in one line."""
        lines = list(dict.fromkeys(problems))
        head = f"{len(lines)} settings are wrong: " if len(lines) > 1 else ""
        return cls(head + "; ".join(lines), lines)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, tuple[str, ...]]]:
        # A worker process hands it back with all its problems.
        return type(self), (str(self), self.problems)


class DataError(ChoirError):
    """A dataset lacks a column, holds impossible values or cannot be found."""


class TableError(ChoirError):
    """A semantic table is damaged or does not belong to the dataset it is used with."""


class ProfileError(ChoirError):
    """Profiles cannot be written: the server is away or refuses, or too many replies are bad."""


class CheckpointError(ChoirError):
    """A checkpoint is damaged, unsafe to load or belongs to another model."""


class Pruned(ChoirError):
    """A run was stopped by ``callback_fn``: its validation is too weak to go on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, else an empty string.

    Args:
        name: What the user wrote.
        known: The names that would have been accepted.
    """
    by_lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f" (did you mean '{by_lower[match[0]]}'?)" if match else ""
