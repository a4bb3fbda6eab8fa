"""Profile engines: from the facts about a user to a short written profile (paper 4.2.1)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.semantic.profiles import verbalize as v


class ProfileEngine(Protocol):
    """Writes profiles. An engine must give the same text for the same facts.

    Attributes:
        name: Short name; it stands in recipes and manifests.
    """

    name: str

    def write(self, facts: pd.DataFrame) -> list[str]:
        """Write one profile per row of the facts of :func:`~.verbalize.verbalize`.

        Returns:
            Texts in the order of the rows; empty where nothing at all is known of a user.
        """
        ...


class TemplateEngine:
    """Fills the three dimensions of a profile from a template. No language model is involved.

    The wording is short on purpose: words that stand in every profile carry nothing and pull all
    embeddings together. What sets a user apart comes first, then each of the three windows of
    behaviour, always: an empty one says "nothing". A user without a purchase has none. Titles are
    left to engines that know what they mean: here they double the time of encoding and add nothing
    to what groups know.

    References:
        ChoirRec, section 4.2.1 (core identity, key interest points, consumption philosophy).
    """

    name = "template"

    def write(self, facts: pd.DataFrame) -> list[str]:
        """Write one profile per row: identity, interests, philosophy; unknown parts left out."""
        identity = _sentence("Identity", [("", facts[v.ATTRIBUTES])], ", ")
        interests = _sentence(
            "Interests",
            [
                ("especially ", facts[v.DISTINCTIVE]),
                ("lately ", facts[v.RECENT]),
                ("before that ", facts[v.MEDIUM]),
                ("long ago ", facts[v.LONG]),
                ("searches for ", facts[v.QUERIES]),
            ],
            "; ",
        )
        philosophy = _sentence(
            "Philosophy",
            [("", facts[name]) for name in (v.ACTIVITY, v.BREADTH, v.REPEAT, v.PRICE)],
            ", ",
        )
        text = _glue([identity, interests, philosophy], " ")
        return [str(t) for t in text.tolist()]


def make_engine(name: str) -> ProfileEngine:
    """Return the profile engine of that name.

    Raises:
        ConfigError: There is no such engine.
    """
    engines: dict[str, type[ProfileEngine]] = {TemplateEngine.name: TemplateEngine}
    if name not in engines:
        known = ", ".join(sorted(engines))
        raise ConfigError(
            f"profile_engine: expected one of {known}, got '{name}'{nearest(name, engines)}"
        )
    return engines[name]()


def _sentence(head: str, parts: list[tuple[str, pd.Series]], gap: str) -> np.ndarray:
    """``Head: part; part.`` without the parts that are empty; empty if all of them are."""
    pieces = []
    for lead, values in parts:
        text = values.to_numpy(object)
        pieces.append(np.where(text == "", "", lead + text).astype(object))
    body = _glue(pieces, gap)
    return np.where(body == "", "", head + ": " + body + ".").astype(object)


def _glue(pieces: list[np.ndarray], gap: str) -> np.ndarray:
    """Join text arrays elementwise, with ``gap`` between the pieces that are not empty."""
    out = pieces[0]
    for piece in pieces[1:]:
        between = np.where((out != "") & (piece != ""), gap, "").astype(object)
        out = out + between + piece
    return out
