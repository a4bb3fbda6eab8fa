"""Items by behaviour, blended with text, and by chance: leaks, values, invariances, edge cases."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.frames.hashing import normal_of
from recbole_choir.semantic.items import (
    BehaviourItems,
    BlendedItems,
    ItemVectors,
    RandomItems,
    item_ids_of,
    make_item_input,
)
from recbole_choir.semantic.items.blend import HALF, positives_of
from recbole_choir.settings.recipe import Recipe

Row = tuple[str, str, float, int]


def frames_of(rows: list[Row], items: list[str] | None = None) -> Frames:
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "label"])
    names = items if items is not None else sorted({row[1] for row in rows})
    users = pd.DataFrame({"user_id": sorted({row[0] for row in rows})})
    return Frames(events, users, pd.DataFrame({"item_id": names}))


def tastes(n_users: int = 60, n_items: int = 40, seed: int = 0) -> Frames:
    """Users of two tastes: even users choose even items, mostly."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for time in range(12):
            item = 2 * int(rng.integers(n_items // 2)) + (user % 2)
            if rng.random() < 0.1:
                item ^= 1
            rows.append((f"u{user:02d}", f"i{item:02d}", float(time + 20 * user), 1))
    return frames_of(rows, [f"i{k:02d}" for k in range(n_items)])


def shuffled(frames: Frames) -> Frames:
    return Frames(
        frames.interactions.sample(frac=1, random_state=0),
        frames.users.sample(frac=1, random_state=1),
        frames.items.sample(frac=1, random_state=2),
        frames.time,
    )


def by_id(vectors: ItemVectors) -> np.ndarray:
    return vectors.x[np.argsort(vectors.item_ids)]


class Text:
    """Content vectors set by hand."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x.astype(np.float32)

    def fit(self, frames: Frames) -> Text:
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        ids = item_ids_of(frames)
        row = np.argsort(np.argsort(ids))
        x = self.x[row]
        return ItemVectors(ids, x, (x != 0).any(axis=1))


class TestBehaviour:
    def test_what_happens_from_the_moment_on_changes_nothing(self) -> None:
        frames = tastes()
        changed = Frames(
            frames.interactions.assign(
                item_id=np.where(
                    frames.interactions["timestamp"] >= 700, "i00", frames.interactions["item_id"]
                )
            ),
            frames.users,
            frames.items,
        )
        first = BehaviourItems(4).fit(frames.before(400)).transform(frames.before(700))
        second = BehaviourItems(4).fit(changed.before(400)).transform(changed.before(700))
        np.testing.assert_array_equal(first.x, second.x)

    def test_in_all_dimensions_it_is_the_centred_cosine(self) -> None:
        frames = tastes(n_users=30, n_items=10)
        got = BehaviourItems(50).fit(frames).transform(frames)
        counts = frames.interactions.groupby(["item_id", "user_id"]).size().unstack(fill_value=0)
        w = np.log1p(counts.to_numpy(float))
        w /= np.linalg.norm(w, axis=0)  # a user's choices weigh together the same
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        w -= w.mean(axis=0)
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        np.testing.assert_allclose(got.x @ got.x.T, w @ w.T, atol=1e-5)

    def test_tastes_are_found_in_few_dimensions(self) -> None:
        frames = tastes()
        x = BehaviourItems(2).fit(frames).transform(frames).x
        similar = x @ x.T
        same = np.equal.outer(np.arange(40) % 2, np.arange(40) % 2)
        assert similar[same].mean() > 0.8
        assert similar[~same].mean() < -0.5

    def test_the_iterative_solver_gives_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from recbole_choir.semantic.items import behaviour

        frames = tastes()
        full = BehaviourItems(4).fit(frames).transform(frames)
        solve = behaviour.centred_svd
        monkeypatch.setattr(behaviour, "centred_svd", lambda *a: solve(*a, dense_cells=0))
        again = BehaviourItems(4).fit(frames).transform(frames)
        np.testing.assert_allclose(again.x, full.x, atol=1e-4)

    def test_new_items_and_users_are_folded_in(self) -> None:
        frames = tastes()
        rows = [tuple(row) for row in frames.interactions.itertuples(index=False)]
        late = [
            (f"w{k}", item, 9000.0 + k, 1)
            for k in range(9)
            for item in ("i00", "i02", "i04", "new")
        ]
        items = [*frames.items["item_id"], "new"]
        more = frames_of([*rows, *late], items)
        source = BehaviourItems(2).fit(frames)
        got = source.transform(more)
        even, odd = got.x[0:40:2].mean(axis=0), got.x[1:40:2].mean(axis=0)
        new = got.x[items.index("new")]
        assert got.valid[items.index("new")]
        assert new @ even > 0.5
        assert new @ odd < -0.4

    def test_order_of_items_users_and_events(self) -> None:
        frames = tastes()
        first = BehaviourItems(4).fit(frames).transform(frames)
        second = BehaviourItems(4).fit(shuffled(frames)).transform(shuffled(frames))
        np.testing.assert_array_equal(by_id(first), by_id(second))

    def test_who_has_no_vector(self, caplog: pytest.LogCaptureFixture) -> None:
        rows: list[Row] = [("u", "a", 1, 1), ("u", "b", 2, 1), ("v", "c", 3, 1), ("v", "d", 4, 0)]
        got = BehaviourItems(2).fit(frames_of(rows)).transform(frames_of(rows, [*"abcde"]))
        assert not got.valid[2:].any()
        assert not got.x[2:].any()
        with caplog.at_level(logging.WARNING):
            none = BehaviourItems(2).fit(frames_of(rows[3:]))
        assert "no user chose two items" in caplog.text
        assert not none.transform(frames_of(rows)).valid.any()

    def test_mistakes(self) -> None:
        with pytest.raises(ConfigError, match="svd_dim: expected a number >= 1, got 0"):
            BehaviourItems(0)
        with pytest.raises(DataError, match="call fit first"):
            BehaviourItems().transform(tastes())


class TestBlend:
    def text(self, frames: Frames) -> Text:
        """A linear image of the behaviour, in more dimensions, so that ridge can find it."""
        x = BehaviourItems(4).fit(frames).transform(frames).x
        rng = np.random.default_rng(1)
        y = x @ rng.standard_normal((x.shape[1], 12)) + 0.05 * rng.standard_normal((len(x), 12))
        return Text(y / np.linalg.norm(y, axis=1, keepdims=True))

    def test_weights_follow_the_number_of_positives(self) -> None:
        frames = tastes()
        text = self.text(frames)
        blend = BlendedItems(BehaviourItems(4), text).fit(frames)
        got = blend.transform(frames)
        svd = BehaviourItems(4).fit(frames).transform(frames).x
        assert blend._map is not None
        image = np.hstack([text.x, np.ones((40, 1))]) @ blend._map
        n = frames.interactions["item_id"].value_counts().reindex(frames.items["item_id"])
        own = (n / (n + 10)).to_numpy()[:, None]
        expected = own * svd + (1 - own) * image
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(got.x, expected, atol=1e-5)
        assert HALF == 10

    def test_an_item_never_chosen_has_the_image_of_its_text(self) -> None:
        frames = tastes()
        text = self.text(frames)
        known = frames.interactions["item_id"] != "i03"
        without = Frames(frames.interactions[known], frames.users, frames.items)
        blend = BlendedItems(BehaviourItems(4), text).fit(without)
        got = blend.transform(without)
        assert got.valid.all()
        assert positives_of(without)[3] == 0
        image = np.append(text.x[3], 1) @ blend._map
        np.testing.assert_allclose(got.x[3], image / np.linalg.norm(image), atol=1e-5)
        # and that is near where its behaviour would have put it: with the odd items
        assert got.x[3] @ got.x[1:40:2].mean(axis=0) > got.x[3] @ got.x[0:40:2].mean(axis=0)

    def test_an_item_without_text_has_its_behaviour(self) -> None:
        frames = tastes()
        text = self.text(frames)
        text.x[5] = 0
        got = BlendedItems(BehaviourItems(4), text).fit(frames).transform(frames)
        svd = BehaviourItems(4).fit(frames).transform(frames)
        np.testing.assert_allclose(got.x[5], svd.x[5], atol=1e-6)

    def test_the_penalty_is_the_one_that_predicts(self) -> None:
        frames = tastes()
        good = BlendedItems(BehaviourItems(4), self.text(frames)).fit(frames)
        assert good.report["penalty"] == 0.1
        assert good.report["held_out_cosine"] > 0.8
        noise = np.random.default_rng(5).standard_normal((40, 30))
        bad = BlendedItems(BehaviourItems(4), Text(noise)).fit(frames)
        assert bad.report["held_out_cosine"] < good.report["held_out_cosine"]

    def test_order_of_items_users_and_events(self) -> None:
        frames = tastes()
        text = self.text(frames)
        first = BlendedItems(BehaviourItems(4), text).fit(frames).transform(frames)
        mixed = shuffled(frames)
        second = BlendedItems(BehaviourItems(4), text).fit(mixed).transform(mixed)
        np.testing.assert_allclose(by_id(first), by_id(second), atol=1e-6)

    def test_nothing_in_common(self, caplog: pytest.LogCaptureFixture) -> None:
        frames = tastes()
        with caplog.at_level(logging.WARNING):
            got = BlendedItems(BehaviourItems(4), Text(np.zeros((40, 3)))).fit(frames)
        assert "no item has both text and behaviour" in caplog.text
        np.testing.assert_allclose(
            got.transform(frames).x, BehaviourItems(4).fit(frames).transform(frames).x, atol=1e-6
        )
        with pytest.raises(DataError, match="call fit first"):
            BlendedItems(BehaviourItems(4), Text(np.zeros((40, 3)))).transform(frames)


class TestRandom:
    def test_by_id_and_seed(self) -> None:
        frames = tastes()
        first = RandomItems(8, seed=1).fit(frames).transform(frames)
        second = RandomItems(8, seed=1).transform(shuffled(frames))
        np.testing.assert_array_equal(by_id(first), by_id(second))
        assert first.valid.all()
        assert not np.array_equal(first.x, RandomItems(8, seed=2).transform(frames).x)

    def test_a_user_and_an_item_of_one_name_differ(self) -> None:
        ids = np.array(["1", "2"], object)
        frames = frames_of([("1", "1", 1, 1), ("1", "2", 1, 1)])
        items = RandomItems(16, seed=0).transform(frames).x
        assert np.abs(items - normal_of(ids, 16, 0)).max() > 0.1

    def test_normal(self) -> None:
        ids = np.array([str(k) for k in range(20_000)], object)
        x = normal_of(ids, 4, 3).astype(float)
        assert np.abs(x.mean(axis=0)).max() < 0.03
        np.testing.assert_allclose(np.cov(x.T), np.eye(4), atol=0.04)
        with pytest.raises(ConfigError, match="expected dim >= 1"):
            RandomItems(0)


class TestMakeItemInput:
    def test_by_name(self) -> None:
        recipe = Recipe(items={"input": "behaviour"}, svd_dim=7, seed=5)
        source = make_item_input(recipe, None)
        assert isinstance(source, BehaviourItems)
        assert (source.dim, source.seed) == (7, 5)
        assert isinstance(make_item_input(Recipe(items={"input": "random"}), None), RandomItems)

    def test_what_is_missing(self) -> None:
        with pytest.raises(ConfigError, match="expected settings of an item input, got none"):
            make_item_input(Recipe(), None)
        for name in ("aligned", "text", "blend"):
            with pytest.raises(ConfigError, match=f"items.input '{name}': expected an encoder"):
                make_item_input(Recipe(items={"input": name}), None)
