"""Soft groups: nothing later enters a snapshot, weights by hand, controls, users unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.frames.canonical import canonical_frames
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs import Vectors
from recbole_choir.semantic.soft.groups import (
    SoftContent,
    attribute_vectors,
    permuted,
    profile_vectors,
    soft_groups,
)
from recbole_choir.semantic.soft.prototypes import memberships, nearest_weights, prototype_vectors
from recbole_choir.semantic.soft.purchases import Purchases, values_of_items
from recbole_choir.semantic.soft.spaces import BehaviourSpace
from recbole_choir.settings.recipe import load_recipe, needs_encoder

DAY = 86_400.0
MOMENTS = np.array([60.0, 100.0]) * DAY
N = 24


def make_frames(until: float = np.inf, n_events: int = 900, seed: int = 0) -> Frames:
    """Users of two tastes; u22 comes late, u23 never."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, N - 2, n_events)
    item = rng.integers(0, 12, n_events) + 12 * (user % 2)
    day = rng.integers(0, 140, n_events)
    user[-20:], day[-20:] = N - 2, 130
    events = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in user],
            "item_id": [f"i{i:02d}" for i in item],
            "timestamp": day * DAY,
            "label": (rng.random(n_events) < 0.7).astype(int),
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in range(N)],
            "job": ["even" if u % 2 == 0 else "odd" for u in range(N)],
            "age": [20.0 + u for u in range(N)],
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"i{i:02d}" for i in range(24)],
            "title": [f"Thing {i}" for i in range(24)],
            "category": [["tools", "garden"] if i < 12 else ["music"] for i in range(24)],
            "maker": [f"m{i // 3}" for i in range(24)],
        }
    )
    return canonical_frames(events[events["timestamp"] < until], users, items)


FRAMES = make_frames()


def recipe(**soft: Any) -> Any:
    defaults = {"spaces": ["items"], "svd_dim": 6, "min_purchases": 5, "k": 6, "n_prototypes": 4}
    return load_recipe({"input": "behaviour", "soft": {**defaults, **soft}})


def made(frames: Frames = FRAMES, moments: Any = MOMENTS, **soft: Any) -> SoftContent:
    return soft_groups(frames, moments, recipe(**soft), show_progress=False)


KINDS = ("neighbours", "prototypes", "factors")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_or_after_a_snapshot_enters_it(kind: str) -> None:
    whole = made(kind=kind, own_vectors=True)
    cut = made(make_frames(until=MOMENTS[0]), MOMENTS[:1], kind=kind, own_vectors=True)
    assert (whole.weights[0] != cut.weights[0]).nnz == 0
    for mine, other in zip(whole.spaces["items"][0], cut.spaces["items"][0]):
        width = other.shape[1]
        np.testing.assert_array_equal(mine[:, :width], other)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_twice_and_whatever_the_order_of_events(kind: str) -> None:
    shuffled = Frames(
        FRAMES.interactions.sample(frac=1.0, random_state=1), FRAMES.users, FRAMES.items
    )
    for a, b in zip(made(kind=kind).weights, made(shuffled, kind=kind).weights):
        np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-5)
    assert made(kind=kind).parts() == made(kind=kind).parts()


def test_labels_of_negatives_and_their_rows_change_nothing() -> None:
    positives = FRAMES.positives
    only = Frames(positives, FRAMES.users, FRAMES.items)
    assert made(only).parts() == made().parts()


def test_neighbours_share_a_taste_and_never_the_user() -> None:
    w = made().weights[-1].toarray()
    assert not w.diagonal().any()
    assert w.max() <= 1.0
    assert ((w > 0).sum(axis=1) <= 6).all()
    same = np.equal.outer(np.arange(N) % 2, np.arange(N) % 2)
    assert w[:22][:, :22][~same[:22, :22]].sum() < 0.01 * w[:22].sum()


def test_prototypes_share_a_taste() -> None:
    content = made(kind="prototypes")
    a = content.weights[-1].toarray()
    np.testing.assert_allclose(a.sum(axis=1), 1.0, atol=1e-6)
    w = a @ a.T
    same = np.equal.outer(np.arange(22) % 2, np.arange(22) % 2)
    assert w[:22, :22][same].mean() > 10 * w[:22, :22][~same].mean()
    assert content.said() == {"kind": "prototypes", "n_prototypes": 4}


def test_factors_are_coordinates_and_their_products_cosines() -> None:
    content = made(kind="factors", cold="none")
    assert content.said() == {"kind": "factors", "n_factors": content.width}
    (users, _), w = made(own_vectors=True).spaces["items"][-1], content.weights[-1].toarray()
    norm = np.linalg.norm(users, axis=1, keepdims=True)
    unit = users / np.where(norm > 0, norm, 1.0)
    np.testing.assert_allclose(w @ w.T, unit @ unit.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(w[:22], axis=1), 1.0, rtol=1e-5)
    same = np.equal.outer(np.arange(22) % 2, np.arange(22) % 2)
    cosine = (w @ w.T)[:22, :22]
    assert cosine[same].mean() > cosine[~same].mean() + 0.3
    # a snapshot that knows less has as many columns
    assert {m.shape[1] for m in content.weights} == {content.width}
    # who has bought nothing stands at the middle of those of its attributes, nearer to the origin
    cold = made(kind="factors").weights[0].toarray()
    assert not content.weights[0].toarray()[22:].any()
    assert (np.linalg.norm(cold[22:], axis=1) > 0).all()
    assert (np.linalg.norm(cold[22:], axis=1) < 1).all()


def test_users_without_purchases_are_like_those_of_the_same_attributes() -> None:
    content = made(cold="attributes")
    first = content.weights[0].toarray()
    assert content.statistics[0]["users_by_cold"] == 2  # u22 comes later, u23 never
    for user in (22, 23):
        assert first[user].any()
        assert not first[:, user].any()  # and nobody's neighbour
        like = np.flatnonzero(first[user] == first[user].max())
        assert set(like) == {22: {20}, 23: {19, 21}}[user]  # of the same job and of nearly its age
    none = made(cold="none").weights[0].toarray()
    assert not none[22:].any()
    np.testing.assert_array_equal(none[:22], first[:22])
    a = made(kind="prototypes").weights[0].toarray()
    np.testing.assert_allclose(a[22:].sum(axis=1), 1.0, atol=1e-6)


def test_weights_by_hand() -> None:
    x = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    w = nearest_weights(x, np.array([0, 1, 3]), np.array([0, 1, 2]), 2, 2.0).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = 0.6**2  # 2 is orthogonal
    expected[1, 2], expected[1, 0] = 0.8**2, 0.6**2
    np.testing.assert_allclose(w, expected, atol=1e-6)  # 3 has no neighbour at a positive cosine
    w = nearest_weights(x, np.array([1]), np.array([0, 1, 2]), 1, 1.0).toarray()
    np.testing.assert_allclose(w[1], [0, 0, 0.8, 0], atol=1e-6)  # the nearest alone
    assert nearest_weights(x, np.array([0]), np.array([], int), 2, 1.0).nnz == 0


def test_memberships_by_hand() -> None:
    x = np.array([[1, 0], [0.6, 0.8]], np.float32)
    a = memberships(x, np.array([0, 1]), np.eye(2, dtype=np.float32), 0.5, 3).toarray()
    expected = np.exp(np.array([[2, 0], [1.2, 1.6]]))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(a[:, :2], expected, rtol=1e-6)
    assert a.shape == (2, 3)
    few = memberships(x, np.array([0]), np.eye(2, dtype=np.float32), 0.1, 2)
    assert few.nnz == 1  # e^-10 is left out
    assert few[0, 0] == 1.0


def test_prototypes_are_of_norm_one_and_not_more_than_users() -> None:
    x = np.eye(6, dtype=np.float32)
    centres = prototype_vectors(x, 60, seed=0)
    assert centres.shape == (3, 6)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, rtol=1e-6)


def test_permutation_keeps_weights_and_moves_users() -> None:
    rng = np.random.default_rng(0)
    w = rng.random((8, 8)) * (rng.random((8, 8)) < 0.6)
    np.fill_diagonal(w, 0)
    w[2] = 0
    ids = np.array([f"u{k}" for k in range(8)], object)
    out = permuted(csr_matrix(w), ids, 0, square=True).toarray()
    assert not out[2].any()
    assert not out.diagonal().any()
    kept = np.ones((8, 8), bool)
    np.fill_diagonal(kept, False)
    users = [k for k in range(8) if k != 2]
    source = [
        j
        for k in users
        for j in users
        # the weights of j, but for what j had on k itself
        if j != k and np.array_equal(w[j][kept[k]], out[k][kept[k]])
    ]
    assert sorted(source) == [0, 1, 3, 4, 5, 6, 7]  # everybody's weights go to one other user
    members = rng.random((8, 3))
    moved = permuted(csr_matrix(members), ids, 0, square=False).toarray()
    assert sorted(map(tuple, moved)) == sorted(map(tuple, members))
    assert not (moved == members).all(axis=1).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("control", ["permuted", "random"])
def test_controls_know_nothing_of_taste(kind: str, control: str) -> None:
    real = made(kind=kind).weights[-1].toarray()
    other = made(kind=kind, control=control, own_vectors=True)
    w = other.weights[-1].toarray()
    assert not np.array_equal(w, real)
    assert set(other.spaces) == {"items"}  # own scores stay what they are
    plain = made(kind=kind, own_vectors=True).spaces["items"][-1][0]
    np.testing.assert_array_equal(other.spaces["items"][-1][0], plain)


def test_own_vectors_rebuild_the_weighted_purchases() -> None:
    purchases = Purchases.of(FRAMES)
    counts = purchases.before(MOMENTS[-1])
    values = values_of_items(FRAMES, "items")
    located = BehaviourSpace("items", values, 24, own=True).locate(
        0.0, counts, np.ones(N, dtype=bool)
    )
    assert located.own is not None
    n = np.bincount(counts.indices, minlength=24)
    x = np.log1p(counts.toarray()) * np.log((1 + 22) / (1 + n))
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    np.testing.assert_allclose(located.own.users @ located.own.items.T, x, atol=1e-4)
    np.testing.assert_allclose(located.x @ located.x.T, x @ x.T, atol=1e-4)


def test_a_field_counts_in_place_of_the_items() -> None:
    values = values_of_items(FRAMES, "category").toarray()
    assert values.shape == (24, 3)
    assert values[0].tolist() == [1, 0, 1]  # garden, music, tools
    assert values[20].tolist() == [0, 1, 0]
    assert made(spaces=["maker", "category"]).statistics[-1]["users"] == N
    with pytest.raises(ConfigError, match=r"expected any of items, .*got 'makr'.*'maker'"):
        made(spaces=["makr"])


def test_attributes_as_weighted_words() -> None:
    users = pd.DataFrame(
        {"user_id": ["a", "b", "c", "d"], "job": ["x", "x", "y", None], "all": ["1"] * 4}
    )
    frames = Frames(FRAMES.interactions.iloc[:0], users, FRAMES.items)
    x = attribute_vectors(frames)
    np.testing.assert_allclose(x @ x.T, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0] * 4])


def test_profiles_without_events_know_attributes_alone() -> None:
    class Source:
        def fit(self, frames: Frames) -> Source:
            assert len(frames.interactions) == 0
            return self

        def transform(self, frames: Frames) -> Any:
            ids = frames.users["user_id"].to_numpy(object)
            x = np.where((frames.users["job"] == "odd").to_numpy()[:, None], [3.0, 1.0], [3.0, 2.0])
            return Vectors(ids, x.astype(np.float32), np.ones(len(ids), bool))

    x = profile_vectors(FRAMES, Source())
    np.testing.assert_allclose(x[:, 1], np.where(np.arange(N) % 2, -1.0, 1.0), atol=1e-6)


def test_nobody_active_is_said(caplog: pytest.LogCaptureFixture) -> None:
    content = made(min_purchases=10_000)
    assert all(w.nnz == 0 for w in content.weights)
    assert "no user has a soft group" in caplog.text


@pytest.mark.parametrize(
    ("soft", "message"),
    [
        ({"kid": "neighbours"}, r"recipe.soft: unknown key 'kid'"),
        ({"kind": "hard"}, "recipe.soft.kind"),
        ({"spaces": []}, "recipe.soft.spaces"),
        ({"spaces": ["items", "items"]}, "recipe.soft.spaces: expected each space once"),
        ({"temperature": 0}, "recipe.soft.temperature"),
    ],
)
def test_bad_settings_are_one_line(soft: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe({"soft": soft})


def test_who_needs_an_encoder() -> None:
    assert not needs_encoder(recipe())
    assert needs_encoder(recipe(spaces=["items", "text_parts"]))
    assert needs_encoder(recipe(cold="profile"))
    assert not needs_encoder(recipe(spaces=["profile"], control="random"))


def test_shipped_recipes() -> None:
    soft, prototypes = load_recipe("soft"), load_recipe("soft_prototypes")
    assert soft.soft is not None
    assert soft.soft == load_recipe({"soft": {}}).soft  # the YAML shows the defaults
    assert prototypes.soft is not None
    assert prototypes.soft.kind == "prototypes"
    factors = load_recipe("soft_factors").soft
    assert factors is not None
    assert (factors.kind, factors.svd_dim, factors.own_vectors) == ("factors", 128, True)
    changed = load_recipe("soft", {"soft": {"k": 50}})
    assert changed.soft is not None
    assert (changed.soft.k, changed.soft.power) == (50, 3.0)
