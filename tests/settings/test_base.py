"""One class of settings: types, errors, variants, implications."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_choir.errors import ConfigError
from recbole_choir.settings import catalogue
from recbole_choir.settings.base import Gate, Implied, Settings, Size, Weight, Widths, setting
from recbole_choir.settings.run import RunSettings

CLASSES = [RunSettings, *filter(None, map(catalogue.settings_class, catalogue.own_models()))]


class Tiny(Settings):
    """Made for these tests."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"plain": {}, "big": {"size": 9, "gate": 0.5}}
    )
    follows: ClassVar[frozenset[str]] = frozenset({"inner"})

    variant: Literal["plain", "big"] = setting("plain", "which")
    size: Size = setting(3, "a size")
    gate: Gate = setting("learned", "a gate")
    hidden: Widths = setting((4, 2), "widths")
    weight: Weight | None = setting(1.5, "null is a value")
    outer: bool = setting(True, "a switch")
    inner: bool = setting(True, "follows from outer")

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> Iterator[Implied]:
        if values["outer"] is False:
            yield Implied("outer: False", {"inner": False})

    def contradictions(self) -> Iterator[str]:
        if self.size == 7:
            yield "size: expected another number, got 7"


def test_defaults_variants_and_what_wins() -> None:
    assert Tiny.resolve({}).plain() == {
        "variant": "plain",
        "size": 3,
        "gate": "learned",
        "hidden": [4, 2],
        "weight": 1.5,
        "outer": True,
        "inner": True,
    }
    big = Tiny.resolve({"variant": "big", "gate": None, "hidden": [5]})
    assert (big.size, big.gate, big.hidden) == (9, 0.5, (5,))
    assert Tiny.resolve({"variant": "big", "size": 2}).size == 2


def test_null_is_a_value_where_the_type_has_it() -> None:
    assert Tiny.resolve({"weight": None}).weight is None
    assert Tiny.from_config({"weight": None}).weight is None
    assert Tiny.from_config({}).weight == 1.5
    assert Tiny.resolve({"size": None}).size == 3


def test_a_configuration_has_null_where_another_setting_decides() -> None:
    assert Tiny.defaults() == {
        "variant": "plain",
        "size": None,
        "gate": None,
        "hidden": [4, 2],
        "weight": 1.5,
        "outer": True,
        "inner": None,
    }


def test_what_follows_and_what_contradicts_it() -> None:
    assert Tiny.resolve({"outer": False}).inner is False
    with pytest.raises(ConfigError, match="inner: outer: False expects False or null, got True"):
        Tiny.resolve({"outer": False, "inner": True})
    with pytest.raises(ConfigError, match=r"^size: expected another number, got 7$"):
        Tiny.resolve({"size": 7})


def test_all_that_is_wrong_is_named_in_one_line() -> None:
    wrong = {"size": 0, "gate": 2, "hidden": [1, "x"], "outer": 1, "weight": float("nan")}
    with pytest.raises(ConfigError) as caught:
        Tiny.resolve(wrong)
    assert caught.value.problems == (
        "size: expected a whole number of at least 1, got 0",
        "gate: expected learned or a number in [0, 1], got 2",
        "hidden: expected a list of at least 1 positive widths, got [1, 'x']",
        "weight: expected a number in [0, inf) or null, got nan",
        "outer: expected True or False, got 1",
    )
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("5 settings are wrong: size: ")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_setting_says_what_it_is(cls: type[Settings]) -> None:
    for key, field in cls.model_fields.items():
        more = field.json_schema_extra
        assert field.description, key
        assert isinstance(more, dict)
        assert more["source"], key
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_and_variants_are_valid_and_resolving_again_changes_nothing(
    cls: type[Settings],
) -> None:
    for variant in cls.variants or [None]:
        given = {} if variant is None else {"variant": variant}
        once = cls.from_config({**cls.defaults(), **given})
        assert cls.resolve(once.plain()) == once
        for key, value in cls.variants.get(str(variant), {}).items():
            assert getattr(once, key) == value


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(CLASSES),
    st.data(),
)
def test_whatever_is_given_is_taken_or_refused_in_one_line(
    cls: type[Settings], data: st.DataObject
) -> None:
    values = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.lists(st.integers(-1, 5), max_size=3),
        st.dictionaries(st.text(max_size=2), st.integers()),
    )  # fmt: skip
    chosen = data.draw(st.dictionaries(st.sampled_from(sorted(cls.model_fields)), values))
    said = ""
    try:
        resolved = cls.resolve(chosen)
    except ConfigError as error:
        said = str(error)
    else:
        assert cls.resolve(resolved.plain()) == resolved
    assert "\n" not in said
    assert not said or "expect" in said


def test_a_variant_sets_only_settings() -> None:
    for cls in CLASSES:
        for values in cls.variants.values():
            assert set(values) <= set(cls.model_fields)
        assert cls.follows <= set(cls.model_fields)
        assert set(getattr(cls, "of_run", {})) <= set(RunSettings.model_fields)
