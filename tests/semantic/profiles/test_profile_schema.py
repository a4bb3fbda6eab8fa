"""What counts as a profile, and the named reason of everything that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from recbole_choir.semantic.profiles.schema import (
    MAX_INTEREST,
    MAX_INTERESTS,
    MAX_SENTENCE,
    PROFILE_SCHEMA,
    ProfileChecker,
    SemanticProfile,
    foreign_share,
    repeated_share,
)
from recbole_choir.semantic.profiles.types import Failure, Reply

GOOD: dict[str, Any] = {
    "core_identity": "A young engineer who lives for science fiction.",
    "key_interests": ["space operas", "board games"],
    "consumption_philosophy": "Buys rarely, reads every review first",
}


def reply(**changes: Any) -> Reply:
    return Reply(json.dumps({**GOOD, **changes}))


def reason(answer: Reply, **options: Any) -> str:
    result = ProfileChecker(**options)(answer)
    assert isinstance(result, Failure), result
    assert "\n" not in result.detail
    return result.reason


def test_a_profile_becomes_one_text_without_headings() -> None:
    assert ProfileChecker()(reply()) == (
        "A young engineer who lives for science fiction. space operas, board games. "
        "Buys rarely, reads every review first."
    )


def test_the_text_depends_on_nothing_but_the_three_parts() -> None:
    shuffled = {key: GOOD[key] for key in reversed(GOOD)}
    spaced = {**GOOD, "core_identity": "A young  engineer\nwho lives for science fiction."}
    assert ProfileChecker()(Reply(json.dumps(shuffled, indent=3))) == ProfileChecker()(reply())
    assert ProfileChecker()(Reply(json.dumps(spaced))) == ProfileChecker()(reply())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Reply(json.dumps(GOOD), "length"), "length"),
        (Reply(json.dumps(GOOD), "content_filter"), "refusal"),
        (Reply(json.dumps(GOOD), "refusal"), "refusal"),
        (Reply(json.dumps(GOOD), "abort"), "abort"),
        (Reply(json.dumps(GOOD), ""), "unknown"),
        (Reply(""), "empty"),
        (Reply(" \n\t"), "empty"),
        (Reply("I'm sorry, but I can't help with that."), "refusal"),
        (Reply("I cannot profile people"), "refusal"),
        (Reply("As an AI I have no opinion"), "refusal"),
        (reply(core_identity="I\u2019m unable to describe this person"), "refusal"),
        (Reply("The user likes tea."), "schema"),
        (Reply("```json\n" + json.dumps(GOOD) + "\n```"), "schema"),  # not repaired
        (Reply("<think>hm</think>" + json.dumps(GOOD)), "schema"),
        (Reply(json.dumps(GOOD)[:-1]), "schema"),
        (Reply(json.dumps(GOOD) + json.dumps(GOOD)), "schema"),
        (Reply(json.dumps([GOOD])), "schema"),
        (Reply("[" * 100_000), "schema"),
        (Reply(json.dumps({k: GOOD[k] for k in list(GOOD)[:2]})), "schema"),
        (reply(extra="x"), "schema"),
        (reply(core_identity=""), "schema"),
        (reply(core_identity=7), "schema"),
        (reply(core_identity=None), "schema"),
        (reply(key_interests=[]), "schema"),
        (reply(key_interests="tea"), "schema"),
        (reply(key_interests=["tea", 3]), "schema"),
        (reply(key_interests=[f"interest {i}" for i in range(MAX_INTERESTS + 1)]), "schema"),
        (reply(core_identity="x" * (MAX_SENTENCE + 1)), "schema"),
        (reply(core_identity="A control \x07 character in it"), "schema"),
        (Reply(json.dumps({**GOOD, "core_identity": "A lone \ud800 surrogate"})), "schema"),
        (reply(core_identity="word " * (MAX_SENTENCE // 5 - 1) + "words"), "length"),
        (reply(key_interests=["tea", "y" * MAX_INTEREST]), "length"),
        (reply(key_interests=["tea", ", .;"]), "empty"),
        (reply(core_identity="\u4e00\u4e2a\u5e74\u8f7b\u7684\u5de5\u7a0b\u5e08\u5f88\u559c\u6b22"
               "\u79d1\u5e7b\u5c0f\u8bf4\u548c\u7535\u5f71"), "language"),
        (reply(key_interests=["Green Tea", "pots", "green  tea"]), "repetition"),
        (reply(key_interests=["tea and tea and tea", "pots"]), "repetition"),
        (reply(core_identity="loves tea and loves tea and loves tea and loves tea and loves tea"),
         "repetition"),
    ],
)  # fmt: skip
def test_reasons(answer: Reply, expected: str) -> None:
    assert reason(answer) == expected


def test_a_profile_just_within_its_limits() -> None:
    sentence = " ".join(f"word{i}" for i in range(40))[: MAX_SENTENCE - 2] + "z"
    interests = [f"{i} {'z' * (MAX_INTEREST - 3)}" for i in range(MAX_INTERESTS)]
    assert (len(sentence), len(interests[0])) == (MAX_SENTENCE - 1, MAX_INTEREST - 1)
    fits = reply(core_identity=sentence, key_interests=interests)
    assert isinstance(ProfileChecker()(fits), str)
    assert reason(reply(core_identity=sentence + "z")) == "length"


class TestLanguage:
    def test_share_of_foreign_letters(self) -> None:
        assert foreign_share("abc", "latin") == 0.0
        assert foreign_share("ab\u0431\u0432", "latin") == 0.5
        assert foreign_share("\u00e9\u00df\u0141", "latin") == 0.0
        assert foreign_share("123 !", "latin") == 0.0
        assert foreign_share("\u7535\u5f71", "han") == 0.0
        assert foreign_share("\u30c6\u30ec\u30d3", "han") == 1.0
        assert foreign_share("\u30c6\u30ec\u30d3\u7535", "kana") == 0.0
        assert foreign_share("\u7535\u5f71", "any") == 0.0

    def test_a_foreign_name_is_no_other_language(self) -> None:
        name = "A fan of \u5bae\u5d0e \u99ff films and of quiet evenings at home"
        assert isinstance(ProfileChecker()(reply(core_identity=name)), str)

    def test_the_script_is_a_setting(self) -> None:
        chinese = {
            "core_identity": "\u70ed\u7231\u79d1\u5e7b\u7684\u5e74\u8f7b\u5de5\u7a0b\u5e08",
            "key_interests": ["\u79d1\u5e7b\u7535\u5f71"],
            "consumption_philosophy": "\u8d2d\u4e70\u524d\u603b\u8981\u4ed4\u7ec6\u6bd4\u8f83",
        }
        assert reason(Reply(json.dumps(chinese))) == "language"
        assert isinstance(ProfileChecker("han")(Reply(json.dumps(chinese))), str)
        assert isinstance(ProfileChecker("any")(Reply(json.dumps(chinese))), str)
        assert reason(reply(), script="han") == "language"


def test_repeated_share_by_hand() -> None:
    assert repeated_share("a b c d e f g h i j k l") == 0.0
    # a b a b a b a b a b a b: 10 trigrams, two different ones
    assert repeated_share("a b " * 6) == pytest.approx(0.8)
    assert repeated_share("so so so so") == 0.0  # too short to tell


def test_the_schema_that_servers_get_says_what_the_checker_checks() -> None:
    validator = Draft202012Validator(dict(PROFILE_SCHEMA))
    validator.validate(GOOD)
    for changes in (
        {"extra": "x"},
        {"core_identity": "x" * (MAX_SENTENCE + 1)},
        {"core_identity": "short"},
        {"key_interests": []},
        {"key_interests": ["abc"] * (MAX_INTERESTS + 1)},
        {"key_interests": ["x" * (MAX_INTEREST + 1)]},
    ):
        value = {**GOOD, **changes}
        assert not validator.is_valid(value)
        assert reason(Reply(json.dumps(value))) == "schema"
    assert list(PROFILE_SCHEMA["properties"]) == list(SemanticProfile.model_fields)


@given(st.text(max_size=200), st.sampled_from(["stop", "length", "tool_calls"]))
def test_no_reply_is_an_exception(text: str, finish: str) -> None:
    result = ProfileChecker()(Reply(text, finish))
    assert isinstance(result, str | Failure)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    )
)
def test_no_json_is_an_exception(value: Any) -> None:
    assert isinstance(ProfileChecker()(Reply(json.dumps(value))), Failure)
    assert isinstance(ProfileChecker()(reply(core_identity=value)), str | Failure)
