"""Prompts of the language model: attributes, then chosen items, then the interest token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_choir.data.asof import asof_sum
from recbole_choir.semantic.frames.categories import CATEGORY, category_pairs, has_categories
from recbole_choir.semantic.frames.frames import ITEM_ID, LABEL, TIMESTAMP, TITLE, Frames
from recbole_choir.semantic.interest.data import InterestData, items_frame
from recbole_choir.semantic.interest.history import Histories, Ints, ranges, row_of
from recbole_choir.semantic.profiles.redact import clean
from recbole_choir.semantic.profiles.verbalize import attribute_phrases

#: Exposures before the event at which the next word begins. They do not depend on the data, so an
#: event keeps its words at all snapshots.
SHOWN_EDGES: Final = (1, 10, 100, 1000)
SHOWN_WORDS: Final = ("new", "rarely shown", "known", "popular", "very popular")

#: The item's positive rate over that of all items, shrunk by ``PRIOR`` exposures.
RATE_EDGES: Final = (0.5, 0.8, 1.25, 2.0)
RATE_WORDS: Final = ("hardly liked", "less liked", "", "more liked", "much liked")
PRIOR: Final = 20.0


def event_levels(
    frames: Frames, histories: Histories, item_ids: NDArray[np.object_]
) -> NDArray[np.int64]:
    """Level of exposure and of positive rate of each event's item, strictly before the event.

    ::

        n, p    exposures and positives of the item before the event; r the rate of all items
        rate    ((p + m r) / (n + m)) / r

    What is said of an event is what could be known when it happened: neither its own label nor
    anything later is in it, and a later snapshot says the same.

    Args:
        frames: All interactions, positives and others.
        histories: The events described.
        item_ids: object [I] ids of the rows that events name.

    Returns:
        int64 [E, 2]: entries of ``SHOWN_WORDS`` and of ``RATE_WORDS``.

    References:
        AKT-Rec, section 3.1.1 (statistics in discrete levels).
    """
    rows = frames.interactions
    item = row_of(item_ids, rows[ITEM_ID].to_numpy(dtype=object))
    time = rows[TIMESTAMP].to_numpy(dtype=np.float64)
    positive = (rows[LABEL].to_numpy(dtype=np.float64) > 0).astype(np.float64)
    weight = np.stack([np.ones(len(rows)), positive], axis=1)  # [N, 2]
    known = item >= 0
    own = asof_sum(item[known], time[known], histories.item, histories.time, weight[known])
    zero = np.zeros(len(histories.item), np.int64)
    everyone = asof_sum(np.zeros(len(rows), np.int64), time, zero, histories.time, weight)
    base = (everyone[:, 1] + 1.0) / (everyone[:, 0] + 2.0)
    rate = (own[:, 1] + PRIOR * base) / (own[:, 0] + PRIOR) / base
    return np.stack(
        [
            np.searchsorted(SHOWN_EDGES, own[:, 0], side="right"),
            np.searchsorted(RATE_EDGES, rate, side="right"),
        ],
        axis=1,
    ).astype(np.int64)


#: The token whose last hidden state becomes the user's vector.
INTEREST: Final = "[INTEREST]"
INTRODUCTION: Final = "What a person chose, oldest first, and will choose next.\n"
_CLOSING: Final = "Next:"
MAX_CATEGORIES: Final = 5
#: Longest description of a person, in characters: it must leave room for events.
MAX_PERSON: Final = 400

#: Texts to token ids, one list each.
Tokenize = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Prompts:
    """Tokens of all people and events, each made once and put together per prompt.

    ::

        introduction, person | event, event, .. | "Next:" [INTEREST]

    Where a prompt would be too long, its oldest events are left out; what stands before and after
    them stays, the interest token always.

    Args:
        heads: int32, tokens before the events, user after user.
        head_at: int64 [U + 1], where each user's begin.
        events: int32, tokens of the events of the pool, one after the other.
        event_at: int64 [E + 1], where each event's begin.
        tail: int32, tokens after the events; the last one is the interest token.
        has_attributes: bool [U], users about which the head says something.
    """

    heads: NDArray[np.int32]
    head_at: Ints
    events: NDArray[np.int32]
    event_at: Ints
    tail: NDArray[np.int32]
    has_attributes: NDArray[np.bool_]

    def first_event(self, user: Ints, begin: Ints, end: Ints, max_tokens: int) -> Ints:
        """First of the events ``begin .. end - 1`` that fits: int64 [B], ``end`` if none does."""
        room = max_tokens - len(self.tail) - np.diff(self.head_at)[user]
        start = np.searchsorted(self.event_at, self.event_at[end] - np.maximum(room, 0))
        return np.clip(start, begin, end)

    def build(
        self, user: Ints, begin: Ints, end: Ints, max_tokens: int
    ) -> tuple[NDArray[np.int64], Ints]:
        """Prompts of events ``begin .. end - 1`` of some users.

        Args:
            user, begin, end: int64 [B].
            max_tokens: Longest prompt.

        Returns:
            Token ids int64 [B, T], padded with 0 at the end, and the length of each [B].
        """
        begin = self.first_event(user, begin, end, max_tokens)
        # a head that leaves no room for the tail is cut
        most = max_tokens - len(self.tail)
        head_end = np.minimum(self.head_at[user + 1], self.head_at[user] + most)
        head, head_row = ranges(self.head_at[user], head_end)
        body, body_row = ranges(self.event_at[begin], self.event_at[end])
        n_head = head_end - self.head_at[user]
        n_body = self.event_at[end] - self.event_at[begin]
        length = n_head + n_body + len(self.tail)
        out = np.zeros((len(user), int(length.max(initial=0))), np.int64)
        out[head_row, _within(n_head)] = self.heads[head]
        out[body_row, n_head[body_row] + _within(n_body)] = self.events[body]
        place = (length - len(self.tail))[:, None] + np.arange(len(self.tail))
        out[np.arange(len(user))[:, None], place] = self.tail
        return out, length


def make_prompts(data: InterestData, tokenize: Tokenize, interest_token: int) -> Prompts:
    """Write and tokenize what prompts are made of.

    Text of the dataset is data: cleaned of control characters and of anything a special token or a
    chat template could be made of, and cut to a length. Equal lines are tokenized once.

    Args:
        data: Histories, items and attributes.
        tokenize: Without special tokens.
        interest_token: Id of ``[INTEREST]``.
    """
    phrases = [clean(text, MAX_PERSON) for text in attribute_phrases(data.users)]
    people = [INTRODUCTION + (f"Person: {text}.\n" if text else "") for text in phrases]
    heads, head_at = _tokens(people, np.arange(len(people)), tokenize)

    lines, line_of = event_lines(data)
    events, event_at = _tokens(lines, line_of, tokenize)
    tail = np.asarray([*tokenize([_CLOSING])[0], interest_token], np.int32)
    known = np.asarray([text != "" for text in phrases], bool)
    return Prompts(heads, head_at, events, event_at, tail, known)


def event_lines(data: InterestData) -> tuple[list[str], Ints]:
    """Distinct lines of the events, and which line each event has: int64 [E].

    A line names the item's categories (its title where items have none), how often it had been
    shown and how well liked it was when it was chosen.
    """
    histories = data.histories
    names = np.asarray(item_names(data), dtype=object)
    number, distinct = pd.factorize(names, sort=True)  # many items share their categories
    levels = event_levels(data.frames, histories, data.item_ids)
    parts = (number[histories.item], levels[:, 0], levels[:, 1])
    key = (
        np.ravel_multi_index(parts, (max(len(distinct), 1), len(SHOWN_WORDS), len(RATE_WORDS)))
        if len(histories.item)
        else np.zeros(0, np.int64)
    )
    found, line_of = np.unique(key, return_inverse=True)
    name, shown, rate = np.unravel_index(
        found, (max(len(distinct), 1), len(SHOWN_WORDS), len(RATE_WORDS))
    )
    lines = []
    for n, s, r in zip(name, shown, rate, strict=True):
        words = ", ".join(filter(None, (SHOWN_WORDS[s], RATE_WORDS[r])))
        lines.append(f"- {distinct[n]} ({words})\n")
    return lines, np.asarray(line_of, np.int64).reshape(-1)


def item_names(data: InterestData) -> list[str]:
    """What a line calls each item: its categories, else its title, else just "an item"."""
    items = items_frame(data)
    out = np.full(len(items), "an item", object)
    pairs = category_pairs(items)
    if has_categories(pairs):
        row = row_of(data.item_ids, pairs[ITEM_ID].to_numpy(object))
        text = pairs[CATEGORY].map(clean)
        kept = (row >= 0) & (text != "").to_numpy(bool)
        grouped = text[kept].groupby(row[kept])
        joined = grouped.agg(lambda names: ", ".join(names.iloc[:MAX_CATEGORIES]))
        out[joined.index.to_numpy()] = joined.to_numpy(object)
    elif TITLE in items.columns:
        titles = items[TITLE].fillna("").astype(str).map(clean).to_numpy(object)
        out = np.where(titles != "", titles, out)
    return [str(name) for name in out]


def _tokens(texts: Sequence[str], of: Ints, tokenize: Tokenize) -> tuple[NDArray[np.int32], Ints]:
    """Tokens of ``texts[of]`` one after the other, and where each begins: [len(of) + 1]."""
    distinct, number = np.unique(np.asarray(texts, object), return_inverse=True)
    ids = tokenize([str(text) for text in distinct])
    size = np.asarray([len(one) for one in ids], np.int64)
    flat = np.asarray([token for one in ids for token in one], np.int32)
    at = np.append(0, np.cumsum(size)).astype(np.int64)
    which = number.reshape(-1)[of] if len(of) else np.zeros(0, np.int64)
    place, _ = ranges(at[which], at[which + 1])
    return flat[place], np.append(0, np.cumsum(size[which])).astype(np.int64)


def _within(sizes: Ints) -> Ints:
    """0 .. size - 1 for each size, one after the other."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
