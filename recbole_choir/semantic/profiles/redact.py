"""Keeping facts on the machine: what is removed before a prompt is written."""

from __future__ import annotations

import functools
import importlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from recbole_choir.errors import ConfigError, nearest

#: Longest value of an attribute, a category, a title or a query in a prompt, in characters.
MAX_VALUE: Final = 60

# Fences, chat templates, JSON and Markdown are made of these: <|im_end|>, </facts>, [INST], ###.
_MARKUP: Final = frozenset('<>{}[]|`\\#*"~^=_')

# Control (Cc), format (Cf: bidirectional marks, zero-width and tag characters), surrogates (Cs),
# private use (Co), unassigned (Cn), line and paragraph separators (Zl, Zp).
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@functools.lru_cache(maxsize=65_536)
def clean(text: str, limit: int = MAX_VALUE) -> str:
    """One line of plain text, safe to stand between the marks of a prompt.

    Compatibility forms are folded first (a full-width ``＜`` is a ``<``). Control, invisible and
    markup characters become blanks, white space is one blank, and what is longer than ``limit`` is
    cut. So a value can close no fence, open no role of a chat, and begin no new line.

    Args:
        text: A value of the dataset.
        limit: Most characters that are kept.
    """
    # Folding can lengthen a text eighteenfold: cut before and after.
    folded = unicodedata.normalize("NFKC", text[: 4 * limit])
    kept = "".join(" " if _is_form(c) else c for c in folded)
    return " ".join(kept.split())[:limit].rstrip()


@functools.lru_cache(maxsize=4096)
def _is_form(character: str) -> bool:
    return character in _MARKUP or unicodedata.category(character) in _INVISIBLE


#: What a prompt may name besides a user's attributes.
BEHAVIOUR_FIELDS: Final = ("category", "title", "query")

#: Gets a user's facts (:meth:`~.facts.FactTable.of`) and returns what may be told of them.
Redactor = Callable[[dict[str, Any]], dict[str, Any]]


def fields_to_leave_out(redact: Sequence[str], attributes: Iterable[str]) -> frozenset[str]:
    """Check the list of fields that must not leave the machine.

    A misspelt field is an error and no warning: it would be told to a stranger.

    Args:
        redact: Names of user attributes, ``category``, ``title`` or ``query``.
        attributes: Names of the user attributes of the dataset.

    Raises:
        ConfigError: There is no such field.
    """
    known = [*attributes, *BEHAVIOUR_FIELDS]
    for name in redact:
        if name not in known:
            raise ConfigError(
                f"profile.redact: expected fields among {', '.join(known)}, got '{name}'"
                f"{nearest(name, known)}"
            )
    return frozenset(redact)


def load_redactor(path: str | None) -> Redactor | None:
    """Import the hook that a recipe names, such as ``my_shop.privacy:redact``.

    Raises:
        ConfigError: It cannot be imported or cannot be called.
    """
    if path is None:
        return None
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"profile.redact_hook: expected 'module:function', got '{path}'")
    try:
        hook = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"profile.redact_hook '{path}': {error}") from None
    if not callable(hook):
        raise ConfigError(f"profile.redact_hook '{path}': expected a function, got {hook!r}")
    redactor: Redactor = hook
    return redactor
