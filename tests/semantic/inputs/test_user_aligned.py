"""The input ``aligned``: leaks first, then what alignment brings, order, cache, bad input."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs.aligned import AlignedInput
from recbole_choir.semantic.inputs.base import GroupingInput, Vectors, user_ids_of
from recbole_choir.semantic.inputs.text import TextInput
from recbole_choir.semantic.items import alignment
from recbole_choir.settings.recipe import AlignmentRecipe

DIM = 12
SMALL = AlignmentRecipe(dim=4, epochs=2, batch_size=32, learning_rate=5e-3)


class Counts:
    """A stand-in for text: noise of the user's own, and little of what was bought, by kind."""

    def fit(self, frames: Frames) -> GroupingInput:
        return self  # type: ignore[return-value]

    def transform(self, frames: Frames) -> Vectors:
        ids = user_ids_of(frames)
        x = np.stack([np.random.default_rng(int(u[1:])).standard_normal(DIM) for u in ids])
        bought = frames.positives
        kind = bought["item_id"].str[1:].astype(int).to_numpy() % 3
        row = pd.Index(ids).get_indexer(pd.Index(bought["user_id"].to_numpy(object)))
        counts = np.zeros((len(ids), 3))
        np.add.at(counts, (row, kind), 1.0)
        x[:, :3] = 0.25 * counts
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        told = ids != "u99"
        return Vectors(ids, np.where(told[:, None], x, 0).astype(np.float32), told)


def frames_of_tastes(n_users: int = 90, seed: int = 0) -> Frames:
    """Three tastes of thirty users, thirty items each; u99 has no text; u98 did nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for u in range(n_users):
        for _ in range(6):
            item = rng.integers(30) * 3 + (u % 3 if rng.random() < 0.9 else rng.integers(3))
            rows.append((f"u{u:02d}", f"i{item:02d}", float(rng.integers(100)), 1))
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "label"])
    users = [*sorted(set(events["user_id"])), "u98", "u99"]
    items = pd.DataFrame({"item_id": sorted(set(events["item_id"]))})
    return Frames(events, pd.DataFrame({"user_id": users}), items)


def make(**options: Any) -> AlignedInput:
    return AlignedInput(
        [Counts()],  # type: ignore[list-item]
        **{"recipe": SMALL, "show_progress": False, **options},
    )


def purity(x: np.ndarray, kind: np.ndarray) -> float:
    """Share of the ten nearest users who have the same taste."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    score = x @ x.T
    np.fill_diagonal(score, -np.inf)
    nearest = np.argsort(-score, axis=1)[:, :10]
    return float((kind[nearest] == kind[:, None]).mean())


def test_events_at_or_after_the_time_change_nothing() -> None:
    frames = frames_of_tastes()
    later = frames.interactions["timestamp"] >= 80
    changed = frames.interactions.copy()
    changed.loc[later, "item_id"] = "i00"
    got = []
    for interactions in (frames.interactions, changed, frames.interactions[~later]):
        both = Frames(interactions, frames.users, frames.items)
        got.append(make().fit(both.before(60)).transform(both.before(80)))
    for other in got[1:]:
        np.testing.assert_array_equal(got[0].x, other.x)
        np.testing.assert_array_equal(got[0].valid, other.valid)


def test_the_order_of_rows_changes_nothing() -> None:
    frames = frames_of_tastes()
    rng = np.random.default_rng(1)
    shuffled = Frames(
        frames.interactions.iloc[rng.permutation(len(frames.interactions))],
        frames.users.iloc[rng.permutation(len(frames.users))],
        frames.items,
    )
    one = make().fit(frames).transform(frames)
    two = make().fit(shuffled).transform(shuffled)
    row = pd.Index(two.user_ids).get_indexer(pd.Index(one.user_ids))
    np.testing.assert_array_equal(one.x, two.x[row])


def test_who_came_later_is_no_part_of_the_fit() -> None:
    frames = frames_of_tastes()
    before = frames.before(30)
    there = set(before.interactions["user_id"])
    fewer = Frames(
        frames.interactions, frames.users[frames.users["user_id"].isin(there)], frames.items
    )
    assert len(fewer.users) < len(frames.users)
    one = make().fit(before).transform(before)
    two = make().fit(fewer.before(30)).transform(fewer.before(30))
    row = pd.Index(one.user_ids).get_indexer(pd.Index(two.user_ids))
    np.testing.assert_allclose(one.x[row], two.x, atol=1e-6)


def test_alignment_brings_users_of_one_taste_together() -> None:
    frames = frames_of_tastes()
    source = make(recipe=SMALL.model_copy(update={"epochs": 6})).fit(frames)
    got = source.transform(frames)
    plain = Counts().transform(frames)
    kind = np.arange(90) % 3
    assert purity(plain.x[:90], kind) < 0.7
    assert purity(got.x[:90], kind) > 0.9
    before, after = source.report["before"], source.report["after"]
    assert after["hit_rate_30"] > before["hit_rate_30"] + 0.2
    np.testing.assert_allclose(np.linalg.norm(got.x[:91], axis=1), 1.0, atol=1e-5)
    # who did nothing is projected from the text all the same; who has no text is not valid
    assert got.valid.tolist() == [True] * 91 + [False]
    assert (got.x[91] == 0).all()


def test_equal_inputs_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of_tastes()
    one = make(cache_dir=tmp_path).fit(frames)
    assert len(list((tmp_path / "alignment").iterdir())) == 1
    monkeypatch.setattr(alignment.AlignedHead, "_train", None)
    two = make(cache_dir=tmp_path).fit(frames)
    np.testing.assert_array_equal(one.transform(frames).x, two.transform(frames).x)
    assert one.report == two.report
    with pytest.raises(TypeError):  # another seed is another training
        make(cache_dir=tmp_path, seed=1).fit(frames)


def test_without_pairs_it_is_the_text(caplog: pytest.LogCaptureFixture) -> None:
    frames = frames_of_tastes()
    alone = frames.interactions.groupby("item_id").head(1)  # no two users share an item
    with caplog.at_level(logging.WARNING):
        source = make(recipe=SMALL.model_copy(update={"dim": DIM}))
        got = source.fit(Frames(alone, frames.users, frames.items)).transform(frames)
    assert "no two users co-occur" in caplog.text
    assert got.valid[:91].all()
    seen = np.unique(alone["user_id"].to_numpy(object))
    text = Counts().transform(frames)
    here = np.isin(text.user_ids.astype(str), seen.astype(str))
    plain = text.x[here] - Counts().transform(Frames(alone, frames.users, frames.items)).x[
        here
    ].mean(axis=0)
    np.testing.assert_allclose(
        got.x[here] @ got.x[here].T,
        (unit := plain / np.linalg.norm(plain, axis=1, keepdims=True)) @ unit.T,
        atol=2e-3,
    )


def test_parts_stand_side_by_side() -> None:
    frames = frames_of_tastes()

    class Half(Counts):
        def transform(self, frames: Frames) -> Vectors:
            ids, x, valid = super().transform(frames)
            some = valid & (np.arange(len(ids)) % 2 == 0)
            return Vectors(ids, np.where(some[:, None], x, np.float32(0)), some)

    source = AlignedInput([Counts(), Half()], SMALL, show_progress=False)  # type: ignore[list-item]
    x, valid = source._vectors(frames)
    assert x.shape == (92, 2 * DIM)
    np.testing.assert_allclose(np.linalg.norm(x[:4], axis=1), [1.0, 0.5**0.5, 1.0, 0.5**0.5], 1e-5)
    assert valid.tolist() == [True] * 91 + [False]


def test_errors_are_one_line() -> None:
    frames = frames_of_tastes()
    with pytest.raises(DataError, match="expected a fitted input, got none: call fit first"):
        make().transform(frames)
    with pytest.raises(ConfigError, match=r"method 'lora' .* expected aligned_text 'profile'"):
        make(recipe=AlignmentRecipe(method="lora"))


def test_the_encoder_itself_may_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_choir.semantic.inputs import aligned

    asked: list[Any] = []

    class Tuned:
        report: dict[str, Any] = {"epoch": 1}  # noqa: RUF012

        def __init__(self, *given: Any, **options: Any) -> None:
            asked.append(given)

        def fit(self, texts: list[str], pictures: None, pairs: Any) -> Tuned:
            asked.append((texts, len(pairs.first)))
            return self

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([[len(t), 1.0] for t in texts], np.float32) * [[bool(t)] for t in texts]

    class Encoder:
        cache_dir = None

        def encode(self, texts: list[str], show_progress: bool = True) -> np.ndarray:
            return np.array([[float(len(t)), 0.0] for t in texts], np.float32)

    def profiles(frames: Frames) -> pd.Series:
        ids = [u for u in frames.users["user_id"] if u != "u99"][::-1]
        return pd.Series([f"I am {u}" for u in ids], index=ids)

    monkeypatch.setattr(aligned, "AlignedEncoder", Tuned)
    encoder: Any = Encoder()
    recipe = AlignmentRecipe(method="full", dim=2)
    text = TextInput(encoder, profiles, show_progress=False)
    source = AlignedInput([text], recipe, encoder=encoder, show_progress=False)
    frames = frames_of_tastes()
    got = source.fit(frames).transform(frames)
    texts, n_pairs = asked[1]
    assert texts[:2] == ["I am u00", "I am u01"]
    assert texts[90] == ""  # u98 did nothing yet
    assert n_pairs > 100
    assert got.valid.tolist() == [True] * 91 + [False]
    assert source.texts is not None
    assert source.texts[90] == "I am u98"
