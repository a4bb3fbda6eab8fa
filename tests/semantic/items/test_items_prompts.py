"""What is told about an item: leak tests first, levels by hand, texts to the letter."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import DataError
from recbole_choir.semantic.frames.canonical import canonical_frames
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items.levels import PRIOR, WORDS, StatisticLevels
from recbole_choir.semantic.items.prompts import MAX_FIELD, MAX_TITLE, ItemPrompts


def frames_of(
    shown: dict[str, tuple[int, int]], items: pd.DataFrame | None = None, **columns: Any
) -> Frames:
    """Items with so many events, so many of them positive; times 0, 1, ..."""
    names = [name for name, (n, _) in shown.items() for _ in range(n)]
    labels = [int(k < hits) for n, hits in shown.values() for k in range(n)]
    events = pd.DataFrame(
        {
            "user_id": [f"u{k}" for k in range(len(names))],
            "item_id": names,
            "timestamp": np.arange(len(names), dtype=np.float64),
            "label": labels,
            **columns,
        }
    )
    if items is None:
        items = pd.DataFrame({"item_id": list(shown)})
    return Frames(events, pd.DataFrame({"user_id": events["user_id"].unique()}), items)


# five items of each kind: quintiles fall between the kinds
GROWING = {f"{kind}{k}": (2 ** (kind + 1), 0) for kind in range(5) for k in range(5)}


def random_frames(seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    n, names = 3000, [f"i{k:02d}" for k in range(60)]
    weight = rng.pareto(1.0, len(names)) + 0.1
    item = rng.choice(len(names), n, p=weight / weight.sum())
    events = pd.DataFrame(
        {
            "user_id": [f"u{k}" for k in rng.integers(0, 50, n)],
            "item_id": np.array(names, object)[item],
            "timestamp": rng.permutation(n).astype(np.float64),
            "label": (rng.random(n) < 0.2 + 0.6 * (item % 7) / 6).astype(int),
        }
    )
    items = pd.DataFrame({"item_id": names, "title": [f"Title {k}" for k in range(60)]})
    return Frames(events, pd.DataFrame({"user_id": events["user_id"].unique()}), items)


class TestLeak:
    def test_labels_and_events_from_the_moment_on_change_no_text(self) -> None:
        frames = random_frames()
        later = frames.interactions["timestamp"] >= 1500
        changed = frames.interactions.assign(
            label=np.where(later, 1 - frames.interactions["label"], frames.interactions["label"]),
            item_id=np.where(later, "i00", frames.interactions["item_id"]),
        )
        other = Frames(changed, frames.users, frames.items)
        first = ItemPrompts().fit(frames.before(1000)).write(frames.before(1500))
        second = ItemPrompts().fit(other.before(1000)).write(other.before(1500))
        assert first.texts == second.texts


class TestLevels:
    def test_quintiles_of_popularity(self) -> None:
        frames = frames_of(GROWING)
        words = StatisticLevels().fit(frames).words(frames)
        assert list(words.columns) == ["popularity"]  # every rate is 0: it says nothing
        assert words["popularity"].tolist() == [WORDS[kind] for kind in range(5) for _ in range(5)]

    def test_rates_are_shrunk_towards_that_of_all(self) -> None:
        # 100 of 200 events are positive; shrunk rates by hand: (k + 10) / (n + 20)
        shown = {"a": (1, 1), "b": (99, 49), "c": (50, 50), "d": (50, 0)}
        frames = frames_of(shown)
        levels = StatisticLevels().fit(frames)
        values = levels._values(frames)["positive rate"]
        np.testing.assert_allclose(values, [11 / 21, 59 / 119, 60 / 70, 10 / 70], rtol=1e-12)
        assert PRIOR == 20
        assert levels.words(frames)["positive rate"].tolist() == [
            "high", "low", "very high", "very low",
        ]  # fmt: skip

    def test_an_item_without_events_has_no_level(self) -> None:
        frames = frames_of(GROWING)
        more = Frames(
            frames.interactions,
            frames.users,
            pd.DataFrame({"item_id": ["nobody", *GROWING, "neither"]}),
        )
        words = StatisticLevels().fit(frames).words(more)
        assert words["popularity"].isna().tolist() == [True, *[False] * 25, True]

    def test_growing_totals_change_no_level(self) -> None:
        frames = frames_of(GROWING)
        doubled = {name: (2 * n, 0) for name, (n, _) in GROWING.items()}
        levels = StatisticLevels().fit(frames)
        pd.testing.assert_frame_equal(levels.words(frames), levels.words(frames_of(doubled)))

    def test_a_level_is_kept_until_a_whole_level_beyond_its_edge(self) -> None:
        levels = StatisticLevels().fit(frames_of(GROWING))
        total = sum(n for n, _ in GROWING.values())

        def word(n: int, name: str) -> str:
            shown = dict(GROWING)
            shown[name] = (n, 0)
            shown["rest"] = (total - sum(k for k, _ in shown.values()) + 1000, 0)
            frames = frames_of({k: v for k, v in shown.items() if v[0] > 0})
            words = levels.words(frames)
            return words["popularity"][frames.items["item_id"].tolist().index(name)]

        # shares shrink as the total grows from 310 to 1310: 20 events here are 5 there
        assert word(20, "10") == "low"  # was 4 of 310, "low"
        assert word(34, "10") == "low"  # "medium" to a new item, not far enough for this one
        assert word(34, "new") == "medium"
        assert word(300, "10") == "very high"

    def test_further_outcomes_are_rates(self) -> None:
        shown = {"a": (30, 15), "b": (30, 15)}
        frames = frames_of(shown, add_to_cart=[1] * 30 + [0] * 30, note=["x"] * 60)
        words = StatisticLevels().fit(frames).words(frames)
        assert list(words.columns) == ["add to cart rate"]
        assert words["add to cart rate"].tolist() == ["very high", "very low"]
        kept = canonical_frames(frames.interactions, None, None).interactions
        assert "add_to_cart" in kept.columns
        assert "note" not in kept.columns

    def test_order_of_rows(self) -> None:
        frames = random_frames()
        shuffled = Frames(
            frames.interactions.sample(frac=1, random_state=0),
            frames.users,
            frames.items.sample(frac=1, random_state=1),
        )
        first = ItemPrompts().fit(frames).write(frames)
        second = ItemPrompts().fit(shuffled).write(shuffled)
        by_id = dict(zip(shuffled.items["item_id"], second.texts, strict=True))
        assert [by_id[i] for i in frames.items["item_id"]] == first.texts

    def test_fit_comes_first(self) -> None:
        with pytest.raises(DataError, match="call fit first"):
            StatisticLevels().words(random_frames())


def items_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "brand_name": ["Acme\t Corp", None, "unknown", None],
            "category": [["Kitchen", "Tea pots"], [], ["Toys"], None],
            "title": ["Pot, The (1993)", "Bare...", None, None],
            "price": [3.5, np.nan, 2.0, 1.0],
            "year": ["1993", "1994", None, None],
        }
    )


class TestTexts:
    def write(self, **settings: Any) -> Any:
        shown = {"a": (10, 9), "b": (10, 1), "c": (40, 20)}
        frames = frames_of(shown, items_frame())
        return ItemPrompts(**settings).fit(frames).write(frames)

    def test_to_the_letter(self) -> None:
        got = self.write()
        assert got.texts == [
            "The Pot (1993). Category: Kitchen, Tea pots. Popularity: medium. "
            "Positive rate: very high. Brand name: Acme Corp. Year: 1993.",
            "Bare. Popularity: medium. Positive rate: very low. Year: 1994.",
            "Category: Toys. Popularity: very high. Positive rate: medium.",
            "",
        ]
        assert got.valid.tolist() == [True, True, True, False]
        assert got.pictures is None

    def test_without_statistics(self) -> None:
        assert self.write(statistics=False).texts[1] == "Bare. Year: 1994."

    def test_chosen_fields_in_their_order(self) -> None:
        got = self.write(fields=["price", "brand_name", "title"], statistics=False)
        assert got.texts == [
            "The Pot (1993). Price: 3.5. Brand name: Acme Corp.", "Bare.", "Price: 2.", "Price: 1.",
        ]  # fmt: skip

    def test_new_items_are_called_new(self) -> None:
        frames = frames_of({"a": (10, 9), "b": (10, 1)}, items_frame())
        got = ItemPrompts(fields=["title", "category"]).fit(frames).write(frames)
        assert got.texts[2] == "Category: Toys. New item."

    def test_an_unknown_field(self) -> None:
        with pytest.raises(DataError, match=r"'brand'.*did you mean 'brand_name'"):
            self.write(fields=["brand"])
        with pytest.raises(DataError, match="expected a column 'image'"):
            self.write(image_field="image")

    def test_pictures(self) -> None:
        items = items_frame().assign(image=[" p.png ", None, "", "q.png"])
        frames = frames_of({"a": (2, 1)}, items)
        got = ItemPrompts(statistics=False, image_field="image").fit(frames).write(frames)
        assert got.pictures == ["p.png", "", "", "q.png"]
        assert got.valid.tolist() == [True, True, True, True]  # the picture says what d is
        assert "p.png" not in got.texts[0]

    def test_control_characters_and_overlong_values(self) -> None:
        items = pd.DataFrame(
            {
                "item_id": ["a", "b"],
                "title": ["x\x00y\u200b z\u202e\n" + "w" * 5000, "  "],
                "text": ["v" * 5000, "\ufeff"],
            }
        )
        got = ItemPrompts(statistics=False).fit(frames_of({"a": (1, 1)}, items))
        texts = got.write(frames_of({"a": (1, 1)}, items)).texts
        assert texts[0].startswith("x y z ww")
        assert len(texts[0]) == MAX_TITLE + MAX_FIELD + len(". Text: .")
        assert texts[1] == ""

    def test_changes_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        frames = random_frames()
        prompts = ItemPrompts().fit(frames.before(1000))
        first = prompts.write(frames.before(1000)).texts
        with caplog.at_level(logging.INFO):
            second = prompts.write(frames.before(3000)).texts
        changed = sum(a != b for a, b in zip(first, second, strict=True))
        assert f"{changed} of 60 changed" in caplog.text
        assert 0 < changed < 30  # of 60 levels of few events each

    def test_no_text_at_all(self) -> None:
        frames = frames_of({"a": (3, 1), "b": (1, 1)})
        got = ItemPrompts().fit(frames).write(frames)
        assert got.texts == ["", ""]
        assert not got.valid.any()
