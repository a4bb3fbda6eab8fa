"""The form of a profile, and the check that a model's reply is one (paper 4.2.1)."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from recbole_choir.semantic.profiles.types import WHOLE, Failure, Reply

#: Raise it when other replies count as profiles than before, or their text changes.
SCHEMA_VERSION: Final = 1

MIN_SENTENCE: Final = 8
MAX_SENTENCE: Final = 200
MIN_INTEREST: Final = 2
MAX_INTEREST: Final = 60
MAX_INTERESTS: Final = 5

Script = Literal["any", "latin", "cyrillic", "greek", "arabic", "hebrew", "han", "kana", "hangul"]

_SCRIPTS: Final[dict[str, tuple[str, ...]]] = {
    "latin": ("LATIN",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "han": ("CJK",),
    "kana": ("CJK", "HIRAGANA", "KATAKANA"),
    "hangul": ("HANGUL", "CJK"),
}

# A name or a loanword in another script is no other language.
_MAX_FOREIGN: Final = 0.2

# Repetition is told by the share of word trigrams that were there before. Sound profiles of
# SmolLM2 have at most .25; one that is caught in a loop has .4 and more.
_NGRAM: Final = 3
_MAX_REPEATED: Final = 0.35
_MIN_NGRAMS: Final = 10

# In an interest of a few words, a word has no business that often.
_TOO_OFTEN: Final = 3

_REFUSAL: Final = re.compile(
    r"\s*(?:sorry,|i(?:'|\u2019| a)?m sorry|as an ai\b|i apologi[sz]e|unfortunately, i\b"
    r"|i (?:cannot|can(?:'|\u2019)t)|i(?:'|\u2019| a)m (?:unable|not able))",
    re.IGNORECASE,
)

_NO_TEXT: Final = frozenset({"Cc", "Cs", "Co", "Cn"})

_REFUSED: Final = frozenset({"refusal", "content_filter"})

Sentence = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=MIN_SENTENCE, max_length=MAX_SENTENCE),
]
Interest = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=MIN_INTEREST, max_length=MAX_INTEREST),
]


class SemanticProfile(BaseModel):
    """A user's profile in the paper's three dimensions.

    Args:
        core_identity: Who the user is; one sentence.
        key_interests: One to five key interest points, a few words each.
        consumption_philosophy: How the user chooses; one sentence.

    References:
        ChoirRec, section 4.2.1 (synthesis process).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    core_identity: Sentence
    key_interests: list[Interest] = Field(min_length=1, max_length=MAX_INTERESTS)
    consumption_philosophy: Sentence

    def text(self) -> str:
        """The three parts as one text for the encoder.

        Headings are left out: words that stand in every profile pull all embeddings together.
        """
        parts = [self.core_identity, ", ".join(self.key_interests), self.consumption_philosophy]
        return " ".join(" ".join(part.split()).rstrip(".") + "." for part in parts)


def _sentence() -> dict[str, Any]:
    return {"type": "string", "minLength": MIN_SENTENCE, "maxLength": MAX_SENTENCE}


#: The schema as sent to servers: plain, without references, so that all of them understand it.
PROFILE_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "core_identity": _sentence(),
        "key_interests": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_INTERESTS,
            "items": {"type": "string", "minLength": MIN_INTEREST, "maxLength": MAX_INTEREST},
        },
        "consumption_philosophy": _sentence(),
    },
    "required": ["core_identity", "key_interests", "consumption_philosophy"],
    "additionalProperties": False,
}


class ProfileChecker:
    """Decides whether a reply is a profile. Nothing is repaired: it is one, or it is asked again.

    Reasons of a failure: ``length`` (cut off by the limit of tokens, or a text that fills its
    limit of characters and so was cut by the grammar), ``refusal``, ``empty``, ``schema`` (not
    JSON, or not this schema), ``language`` (over a fifth of the letters are of another script) and
    ``repetition`` (an interest given twice, a word three times in one interest, or too many word
    trigrams that were there before). Any
    other finish reason is its own name.

    Args:
        script: Script the profile has to be written in; ``any`` asks for none.
    """

    def __init__(self, script: Script = "latin") -> None:
        self.script = script

    def __call__(self, reply: Reply) -> str | Failure:
        """The final text of the profile, or why the reply is none."""
        if reply.finish_reason in _REFUSED:
            return Failure("refusal", f"finish reason {reply.finish_reason}")
        if reply.finish_reason != WHOLE:
            return Failure(reply.finish_reason or "unknown", "the reply is not whole")
        if not reply.text.strip():
            return Failure("empty")
        if _REFUSAL.match(reply.text):
            return Failure("refusal", _short(reply.text))
        profile = _parse(reply.text)
        if isinstance(profile, Failure):
            return profile
        return self._judge(profile)

    def _judge(self, profile: SemanticProfile) -> str | Failure:
        sentences = (profile.core_identity, profile.consumption_philosophy)
        for sentence in sentences:
            if _REFUSAL.match(sentence):
                return Failure("refusal", _short(sentence))
            if len(sentence) >= MAX_SENTENCE:
                return Failure("length", f"a sentence fills its {MAX_SENTENCE} characters")
        if not all(re.search(r"\w", interest) for interest in profile.key_interests):
            return Failure("empty", "an interest without a word")
        if any(len(interest) >= MAX_INTEREST for interest in profile.key_interests):
            return Failure("length", f"an interest fills its {MAX_INTEREST} characters")
        text = profile.text()
        if any(unicodedata.category(c) in _NO_TEXT for c in text):
            return Failure("schema", "control characters or lone surrogates")
        if not any(c.isalpha() for c in text):
            return Failure("empty", "no letters")
        foreign = foreign_share(text, self.script)
        if foreign > _MAX_FOREIGN:
            return Failure("language", f"{foreign:.0%} of the letters are not {self.script}")
        interests = [" ".join(i.casefold().split()) for i in profile.key_interests]
        if len(set(interests)) < len(interests):
            return Failure("repetition", f"interest '{_short(_twice(interests))}' is given twice")
        for interest in interests:
            word, times = Counter(re.findall(r"\w+", interest)).most_common(1)[0]
            if times >= _TOO_OFTEN:
                return Failure("repetition", f"'{_short(word)}' {times} times in one interest")
        repeated = repeated_share(text)
        if repeated > _MAX_REPEATED:
            return Failure("repetition", f"{repeated:.0%} of the word trigrams are repeated")
        return text


def foreign_share(text: str, script: Script) -> float:
    """Share of the letters that belong to another script; 0 for ``any`` or a text without letters.

    Case and accents do not matter. It is a heuristic: it tells English from Chinese, not from
    French.
    """
    if script == "any":
        return 0.0
    wanted = _SCRIPTS[script]
    letters = [c for c in text if c.isalpha()]
    foreign = sum(not _script_name(c).startswith(wanted) for c in letters)
    return foreign / len(letters) if letters else 0.0


def repeated_share(text: str) -> float:
    """Share of word trigrams that occurred before in the text; 0 for very short texts."""
    words = re.findall(r"\w+", text.casefold())
    grams = [tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)]
    if len(grams) < _MIN_NGRAMS:
        return 0.0
    return 1.0 - len(set(grams)) / len(grams)


def _parse(text: str) -> SemanticProfile | Failure:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Failure("schema", f"not JSON: {_short(str(error))}")
    try:
        return SemanticProfile.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "reply"
        return Failure("schema", f"{where}: {_short(str(first['msg']))}")


@functools.lru_cache(maxsize=4096)
def _script_name(character: str) -> str:
    return unicodedata.name(character, "")


def _twice(values: list[str]) -> str:
    return next(v for i, v in enumerate(values) if v in values[:i])


def _short(text: str, limit: int = 80) -> str:
    return " ".join(text.split())[:limit]
