"""Choosing tokens under a grammar without looking at the whole vocabulary each time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class GrammarSampler:
    """Draws the tokens of one reply from a model's logits; to be used in a ``with`` block.

    ::

        token ~ softmax(logits / temperature), or the largest logit at temperature 0
        the grammar takes it          -> that is it
        it does not                   -> all that it refuses to -inf; draw once more

    The result has the distribution of a draw from the allowed tokens alone, since with allowed
    mass Z an allowed token gets p + (1 - Z) p / Z = p / Z. Asking a grammar about one token is
    cheap and about a whole vocabulary as dear as the model itself (SmolLM2: 12 ms of 24 a token).

    A repeat penalty lowers the logit of every token with letters in it that is in the reply
    already: a small model at temperature 0 goes round in circles without. Quotes, commas and
    brackets are left alone, since a text has to end; so are the words of the prompt.

    Args:
        vocab: llama.cpp's vocabulary.
        grammar: GBNF; None allows everything.
        spelled: Text of a token.
        temperature: 0 takes the largest logit.
        top_p: Draw from the fewest tokens that hold this much of the mass; 1 is all.
        seed: Of the draws.
        repeat_penalty: Divides positive logits and multiplies negative ones; 1 is none.
    """

    def __init__(
        self,
        vocab: Any,
        grammar: str | None,
        spelled: Callable[[int], str],
        temperature: float,
        top_p: float,
        seed: int,
        repeat_penalty: float = 1.0,
    ) -> None:
        # An optional dependency.
        import llama_cpp

        self._api = llama_cpp
        self._temperature = temperature
        self._top_p = top_p
        self._spelled = spelled
        self._penalty = repeat_penalty
        self._written: list[int] = []  # distinct tokens with letters
        self._rng = np.random.default_rng(seed)
        self._grammar = (
            llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
            if grammar is not None
            else None
        )
        self._data = np.zeros(
            0,
            dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)],
        )

    def __enter__(self) -> GrammarSampler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._grammar is not None:
            self._api.llama_sampler_free(self._grammar)
            self._grammar = None

    def pick(self, logits: NDArray[np.float32]) -> int:
        """The next token, given the logits [vocabulary]; the grammar moves on with it."""
        if self._written:
            logits = logits.copy()
            seen = logits[self._written]
            logits[self._written] = np.where(seen > 0, seen / self._penalty, seen * self._penalty)
        token = self._draw(logits)
        if self._grammar is not None:
            if not np.isfinite(self._allowed(np.array([token]), logits)).any():
                token = self._draw(self._allowed(np.arange(len(logits)), logits))
            self._api.llama_sampler_accept(self._grammar, token)
        self._note(token)
        return token

    def _note(self, token: int) -> None:
        """Remember a token that the repeat penalty is for."""
        if self._penalty == 1 or token in self._written:
            return
        if any(c.isalpha() for c in self._spelled(token)):
            self._written.append(token)

    def _allowed(self, tokens: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[Any]:
        """Logits of those tokens, -inf where the grammar refuses them."""
        if len(self._data) != len(tokens):
            self._data = np.zeros(len(tokens), self._data.dtype)
        self._data["id"] = tokens
        self._data["logit"] = logits[tokens]
        array = self._api.llama_token_data_array(
            data=self._data.ctypes.data_as(self._api.llama_token_data_p),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        self._api.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return self._data["logit"].copy()

    def _draw(self, logits: NDArray[Any]) -> int:
        if self._temperature == 0:
            return int(np.argmax(logits))
        scaled = logits.astype(np.float64) / self._temperature
        weight = np.exp(scaled - scaled.max())
        order = np.argsort(-weight, kind="stable") if self._top_p < 1 else np.arange(len(weight))
        mass = np.cumsum(weight[order])
        last = int(np.searchsorted(mass, self._top_p * mass[-1])) + 1
        mass = mass[:last]
        # inverse of the cumulative mass: a token of weight 0 is never drawn
        return int(order[np.searchsorted(mass, self._rng.random() * mass[-1], side="right")])
