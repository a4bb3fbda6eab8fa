"""Profiles: what they say, what they must not see, and that they stay the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.profiles import verbalize as v
from recbole_choir.semantic.profiles.template_engine import TemplateEngine, make_engine

DAY = 86_400.0
NOW = 1000 * DAY

USERS = pd.DataFrame(
    {
        "user_id": ["u", "w", "x"],
        "age": ["24", None, None],
        "gender": ["M", "F", None],
        "income": [12345.0, np.nan, np.nan],
    }
)
ITEMS = pd.DataFrame(
    {
        "item_id": list("abcde"),
        "title": ["Piano, The", "Heat", None, "Brazil", "Alien"],
        "category": [["Drama"], ["Crime", "Drama"], ["Drama"], ["Sci-Fi"], ["Horror"]],
    }
)


def events_of(*rows: tuple[str, str, float, int]) -> pd.DataFrame:
    """Rows of user, item, days before NOW, label."""
    frame = pd.DataFrame(list(rows), columns=["user_id", "item_id", "age_days", "label"])
    frame["timestamp"] = NOW - frame["age_days"] * DAY
    return frame[["user_id", "item_id", "timestamp", "label"]]


EVENTS = events_of(
    ("u", "a", 100, 1), ("u", "b", 90, 1), ("u", "c", 80, 1), ("u", "e", 50, 0),
    ("u", "d", 20, 1), ("w", "e", 2, 0),
)  # fmt: skip


def facts_of(events: pd.DataFrame, time: float = NOW, **kwargs) -> pd.DataFrame:
    return v.verbalize(Frames(events, USERS, ITEMS, time), **kwargs).set_index("user_id")


def text_of(events: pd.DataFrame, time: float = NOW) -> list[str]:
    return TemplateEngine().write(v.verbalize(Frames(events, USERS, ITEMS, time)))


def test_facts_by_hand() -> None:
    u = facts_of(EVENTS).loc["u"]
    assert u[v.ATTRIBUTES] == "age 24, gender male, income 12000"
    # the newest purchase, 20 days ago, ends the windows: the others are 60 to 80 days older
    assert u[v.RECENT] == "Sci-Fi"
    assert u[v.MEDIUM] == v.NOTHING
    assert u[v.LONG] == "Drama, Crime"  # 3, 1
    assert u[v.TITLES] == "Brazil / Heat / The Piano"  # c has no title
    assert u[v.ACTIVITY] == "occasional"
    assert u[v.REPEAT] == ""


def test_negative_labels_are_no_purchases() -> None:
    w = facts_of(EVENTS).loc["w"]
    assert w[v.ATTRIBUTES] == "gender female"
    assert (w[[v.LONG, v.RECENT, v.TITLES, v.ACTIVITY]] == "").all()


def test_template_reads_as_english_and_leaves_out_what_is_missing() -> None:
    assert text_of(EVENTS) == [
        "Identity: age 24, gender male, income 12000. Interests: lately Sci-Fi; before that "
        "nothing; long ago Drama, Crime. Philosophy: occasional, focused taste.",
        "Identity: gender female.",
        "",
    ]


@pytest.mark.parametrize("end", ["last_event", "snapshot"])
def test_each_purchase_is_in_exactly_one_window(end: v.WindowsEnd) -> None:
    """One item a category, one purchase a distance: every category is named once."""
    days = [0.5, 7, 7.01, 20, 30, 30.01, 400]
    items = pd.DataFrame(
        {"item_id": [f"i{d}" for d in days], "category": [[f"c{d}"] for d in days]}
    )
    events = events_of(("u", "i0.5", 0.25, 1), *[("u", f"i{d}", d, 1) for d in days])
    if end == "last_event":
        events["timestamp"] += (0.25 - 100) * DAY  # the windows move with the newest purchase
        events.loc[1:, "timestamp"] -= 0.25 * DAY
    frames = Frames(events, USERS, items, NOW)
    u = v.verbalize(frames, windows_end=end).set_index("user_id").loc["u"]
    named = [u[name].split(", ") for name in (v.RECENT, v.MEDIUM, v.LONG)]
    assert [sorted(n) for n in named] == [
        ["c0.5", "c7"],
        ["c20", "c30", "c7.01"],
        ["c30.01", "c400"],
    ]


def test_every_text_of_a_buyer_tells_each_window() -> None:
    events = events_of(("u", "a", 3, 1), ("w", "a", 3, 1), ("w", "e", 20, 1), ("w", "d", 90, 1))
    told = [t.split("Interests: ")[1].split(".")[0] for t in text_of(events)[:2]]
    assert told == [
        "lately Drama; before that nothing; long ago nothing",
        "lately Drama; before that Horror; long ago Sci-Fi",
    ]
    frames = Frames(events, USERS, ITEMS, NOW)
    by_snapshot = v.verbalize(frames, windows_days=(1, 2), windows_end="snapshot")
    assert by_snapshot[v.RECENT].tolist() == [v.NOTHING, v.NOTHING, ""]
    assert by_snapshot[v.LONG].tolist() == ["Drama", "Drama, Horror, Sci-Fi", ""]


def test_distinctive_means_more_than_the_catalogue() -> None:
    # Catalogue pairs: Drama 3 of 6, the others 1 of 6 each. Three Horror among four purchases
    # with five pairs: share .75 / (1/6) = 4.5; Drama .25 / .5 = 0.5.
    events = events_of(*[("u", "e", d, 1) for d in (60, 61, 62)], ("u", "a", 63, 1))
    assert facts_of(events).loc["u", v.DISTINCTIVE] == "Horror"
    assert facts_of(events).loc["u", v.REPEAT] == "loyal to the same items"  # 2 of 4 are repeats


def test_events_at_or_after_the_snapshot_change_nothing() -> None:
    later = events_of(("u", "e", 0, 1), ("u", "e", -5, 1), ("x", "d", -1, 1))
    assert text_of(pd.concat([EVENTS, later])) == text_of(EVENTS)


def test_order_of_rows_changes_nothing() -> None:
    shuffled = EVENTS.sample(frac=1, random_state=3)
    assert text_of(shuffled) == text_of(EVENTS)


def test_text_stays_while_nothing_happens() -> None:
    # The purchase of 20 days ago leaves the medium window, and others go on buying.
    busy = events_of(*[("w", "e", -d, 1) for d in range(40)])
    later = text_of(pd.concat([EVENTS, busy]), NOW + 50 * DAY)
    assert later[0] == text_of(EVENTS)[0]
    assert later[1] != text_of(EVENTS)[1]


def test_queries_newest_first_within_the_medium_window() -> None:
    events = EVENTS.assign(query=[None, "old", None, "", "red shoes", "tent"])
    facts = facts_of(pd.concat([events, events.tail(1)]))
    assert facts.loc["u", v.QUERIES] == "red shoes"
    assert facts.loc["w", v.QUERIES] == "tent"
    assert "searches for red shoes" in TemplateEngine().write(facts.reset_index())[0]


def test_price_level_by_terciles_of_the_catalogue() -> None:
    items = ITEMS.assign(price=[1.0, 2.0, 3.0, 4.0, 100.0])
    events = events_of(("u", "a", 5, 1), ("w", "e", 5, 1), ("x", "c", 5, 1))
    facts = v.verbalize(Frames(events, USERS, items, NOW))
    assert facts[v.PRICE].tolist() == ["low prices", "high prices", "medium prices"]


def test_attribute_that_names_single_users_is_no_description() -> None:
    users = pd.DataFrame(
        {
            "user_id": [str(i) for i in range(40)],
            "zip": [f"z{i}" for i in range(40)],
            "job": ["cook", "other"] * 20,
        }
    )
    phrases = v.attribute_phrases(users)
    assert phrases.tolist() == ["job cook", ""] * 20  # "other" says nothing


def test_long_values_are_bounded() -> None:
    users = pd.DataFrame({"user_id": ["u"], **{f"f{i}": ["x" * 500] for i in range(50)}})
    items = ITEMS.assign(title="t" * 500, category=[["c" * 500]] * 5)
    text = TemplateEngine().write(v.verbalize(Frames(EVENTS, users, items, NOW)))[0]
    assert len(text) < 1100


def test_no_items_no_categories_no_events() -> None:
    bare = pd.DataFrame({"item_id": ["a"]})
    facts = v.verbalize(Frames(EVENTS.iloc[:0], USERS, bare, NOW))
    assert TemplateEngine().write(facts)[2] == ""
    assert facts[v.ATTRIBUTES].tolist() == [
        "age 24, gender male, income 12000",
        "gender female",
        "",
    ]


def test_no_events_at_all_but_a_rich_catalogue() -> None:
    items = ITEMS.assign(price=[1.0, 2.0, 3.0, 4.0, 100.0])
    facts = v.verbalize(Frames(EVENTS.iloc[:0].assign(query="x"), USERS, items, NOW))
    assert TemplateEngine().write(facts)[1:] == ["Identity: gender female.", ""]


def test_unknown_engine_names_the_nearest() -> None:
    assert make_engine("template").name == "template"
    with pytest.raises(ConfigError, match="did you mean 'template'"):
        make_engine("templat")
