"""The input ``interest``: leaks first, then what it learns, order, resume, cache, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs.interest import InterestInput
from recbole_choir.semantic.interest import training
from recbole_choir.semantic.items.base import ItemVectors
from recbole_choir.settings.recipe import InterestRecipe

DIM = 8
SMALL = InterestRecipe(length=6, width=16, epochs=3, batch_size=16)


def vectors_of(frames: Frames) -> ItemVectors:
    """Vectors by item id alone; item i01 has none."""
    ids = frames.items["item_id"].to_numpy(object)
    x = np.stack([np.random.default_rng(int(i[1:])).standard_normal(DIM) for i in ids])
    return ItemVectors(ids, x.astype(np.float32), ids != "i01")


def random_frames(n_users: int = 40, n: int = 500, seed: int = 0) -> Frames:
    """The last user has no event; the last two no attribute."""
    rng = np.random.default_rng(seed)
    users = [f"u{u:02d}" for u in range(n_users)]
    events = pd.DataFrame(
        {
            "user_id": [users[u] for u in rng.integers(n_users - 2, size=n)],
            "item_id": [f"i{i:02d}" for i in rng.integers(14, size=n)],
            "timestamp": rng.integers(100, size=n).astype(float),
            "label": (rng.random(n) < 0.6).astype(int),
        }
    )
    age = rng.integers(18, 60, size=n_users).astype(float)
    age[-2:] = np.nan
    sex = np.array(["M", "F"], object)[rng.integers(2, size=n_users)]
    sex[-1:] = None
    items = pd.DataFrame(
        [
            {"item_id": f"i{i:02d}", "title": f"t{i}", "category": ["food", f"kind {i % 4}"]}
            for i in range(14)
        ]
    )
    return Frames(events, pd.DataFrame({"user_id": users, "age": age, "sex": sex}), items)


def make(**options: Any) -> InterestInput:
    options = {"settings": SMALL, "show_progress": False, "device": "cpu", **options}
    return InterestInput(vectors_of, **options)


def test_events_at_or_after_the_time_change_nothing() -> None:
    frames = random_frames()
    later = frames.interactions["timestamp"] >= 60
    changed = frames.interactions.copy()
    changed.loc[later, "label"] = 1 - changed.loc[later, "label"]
    changed.loc[later, "item_id"] = "i00"
    without = frames.interactions[~later]
    got = []
    for interactions in (frames.interactions, changed, without):
        both = Frames(interactions, frames.users, frames.items)
        got.append(make().fit(both.before(40)).transform(both.before(60)))
    for other in got[1:]:
        np.testing.assert_array_equal(got[0].x, other.x)
        np.testing.assert_array_equal(got[0].valid, other.valid)
    early = make().fit(frames.before(40))
    assert not np.array_equal(early.transform(frames.before(40)).x, got[0].x)


def test_nothing_after_the_first_snapshot_is_trained_on() -> None:
    frames = random_frames()
    source = make().fit(frames.before(40))
    later = frames.interactions["timestamp"] >= 40
    changed = frames.interactions.copy()
    changed.loc[later, "item_id"] = "i03"
    other = make().fit(Frames(changed, frames.users, frames.items).before(40))
    for name, one in source.engine._network.state_dict().items():  # type: ignore[attr-defined]
        assert (one == other.engine._network.state_dict()[name]).all(), name  # type: ignore[attr-defined]


def test_the_order_of_rows_changes_nothing() -> None:
    frames = random_frames()
    rng = np.random.default_rng(1)
    shuffled = Frames(
        frames.interactions.iloc[rng.permutation(len(frames.interactions))],
        frames.users.iloc[rng.permutation(len(frames.users))],
        frames.items.iloc[rng.permutation(len(frames.items))],
    )
    one = make().fit(frames.before(50)).transform(frames.before(70))
    two = make().fit(shuffled.before(50)).transform(shuffled.before(70))
    row = pd.Index(two.user_ids).get_indexer(pd.Index(one.user_ids))
    np.testing.assert_array_equal(one.x, two.x[row])
    np.testing.assert_array_equal(one.valid, two.valid[row])


def test_who_is_valid() -> None:
    frames = random_frames()
    got = make().fit(frames.before(50)).transform(frames.before(0))
    # without events, attributes alone tell users apart; the last user has none of either
    assert got.valid.tolist() == [True] * (len(frames.users) - 1) + [False]
    assert (got.x[-1] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(got.x[:-1], axis=1), 1.0, atol=1e-5)
    assert len(np.unique(got.x.round(5), axis=0)) > 10
    bare = Frames(frames.interactions, frames.users[["user_id"]], frames.items)
    got = make().fit(bare.before(50)).transform(bare.before(10))
    bought = bare.before(10).positives
    known = set(bought["user_id"][bought["item_id"] != "i01"])
    assert set(got.user_ids[got.valid]) == known


def test_without_a_positive_nobody_is_valid() -> None:
    frames = random_frames()
    source = make().fit(frames.before(0))
    assert not source.transform(frames.before(50)).valid.any()


def structured_frames(seed: int = 0) -> tuple[Frames, Callable[[Frames], ItemVectors]]:
    """Users walk around a ring of six kinds: the next item's kind is the last one's plus one."""
    rng = np.random.default_rng(seed)
    kinds, per_kind, n_users, n_events = 6, 5, 120, 12
    rows = []
    for u in range(n_users):
        start = rng.integers(kinds)
        for t in range(n_events):
            item = (start + t) % kinds * per_kind + rng.integers(per_kind)
            rows.append((f"u{u:03d}", f"i{item:02d}", float(t), 1))
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "label"])
    ids = [f"i{i:02d}" for i in range(kinds * per_kind)]
    items = pd.DataFrame(
        {"item_id": ids, "category": [[f"kind {i // per_kind}"] for i in range(len(ids))]}
    )
    centre = rng.standard_normal((kinds, DIM))
    x = centre[np.arange(len(ids)) // per_kind] + 0.1 * rng.standard_normal((len(ids), DIM))
    table = dict(zip(ids, x.astype(np.float32), strict=True))

    def item_vectors(frames: Frames) -> ItemVectors:
        order = frames.items["item_id"].to_numpy(object)
        return ItemVectors(order, np.stack([table[i] for i in order]), np.ones(len(order), bool))

    users = pd.DataFrame({"user_id": sorted(set(events["user_id"]))})
    return Frames(events, users, items), item_vectors


def test_it_learns_what_comes_next() -> None:
    frames, item_vectors = structured_frames()
    settings = InterestRecipe(length=8, width=32, epochs=12, batch_size=8, learning_rate=3e-3)
    source = InterestInput(item_vectors, settings, show_progress=False, device="cpu").fit(frames)
    said = source.diagnostics
    assert said is not None
    assert said.held_out == 12 * 12
    assert said.targets == 108 * 12
    assert abs(said.before.cosine) < 0.4
    # eleven of twelve events can be told from the one before, the first one cannot
    assert said.after.cosine > 0.8
    assert said.after.category_accuracy > 0.9
    assert said.after.cosine > said.constant.cosine + 0.3
    assert said.after.category_accuracy > said.constant.category_accuracy + 0.5
    # and a user's vector is near those of the kind that would follow
    got = source.transform(frames)
    last = frames.interactions.groupby("user_id")["item_id"].last().to_numpy()
    vectors = item_vectors(frames)
    unit = vectors.x / np.linalg.norm(vectors.x, axis=1, keepdims=True)
    nearest = (got.x @ unit.T).argmax(axis=1) // 5
    following = np.array([(int(i[1:]) // 5 + 1) % 6 for i in last])
    assert (nearest == following).mean() > 0.95


def test_equal_seeds_equal_bits_and_other_random_numbers_are_left_alone() -> None:
    import torch

    frames = random_frames()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one = make().fit(frames).transform(frames)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(99)
    np.testing.assert_array_equal(one.x, make().fit(frames).transform(frames).x)
    assert not np.array_equal(one.x, make(seed=1).fit(frames).transform(frames).x)


def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = random_frames()
    whole = make().fit(frames)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    step, count = training._Run._step, 0

    def dies(self: Any, units: Any) -> None:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        step(self, units)

    monkeypatch.setattr(training._Run, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        make(cache_dir=tmp_path).fit(frames)
    assert len(list(tmp_path.rglob("checkpoint.safetensors"))) == 1
    resumed = make(cache_dir=tmp_path).fit(frames)
    assert count < 20
    np.testing.assert_array_equal(whole.transform(frames).x, resumed.transform(frames).x)
    assert whole.diagnostics is not None
    assert resumed.diagnostics is not None
    assert resumed.diagnostics.after == whole.diagnostics.after
    assert list(tmp_path.rglob("checkpoint.safetensors")) == []
