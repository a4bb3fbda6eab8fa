"""Pairs of users drawn through items: probabilities by hand, order, size."""

from __future__ import annotations

import numpy as np

from recbole_choir.semantic.inputs.aligned import user_pairs
from recbole_choir.semantic.items.cooccurrence import Pairs


def as_dict(pairs: Pairs) -> dict[tuple[int, int], int]:
    return {(int(a), int(b)): int(n) for a, b, n in zip(*pairs, strict=True)}


def test_pairs_are_drawn_as_often_as_said() -> None:
    # item 0: users 0, 1; item 1: users 0, 1, 2; item 2: user 3 alone; item 3: users 4, 5
    events = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (4, 3)]
    users, items = np.array(events).T
    draws = 200_000
    got = as_dict(user_pairs(users, items, 6, draws, 0))
    assert sum(got.values()) == draws
    a, b = np.log(7 / 3), np.log(7 / 4)  # idf of items of two and of three of the six users
    # five users have weight; users 0 and 1 take item 0 with a / (a + b), user 2 only item 1
    p0 = a / (a + b)
    share = {
        (0, 1): (2 * p0 + 2 * (1 - p0) / 2) / 5,
        (0, 2): ((1 - p0) / 2 + 1 / 2) / 5,
        (1, 2): ((1 - p0) / 2 + 1 / 2) / 5,
        (4, 5): 2 / 5,
    }
    assert set(got) == set(share)
    for pair, expected in share.items():
        assert abs(got[pair] / draws - expected) < 0.004


def test_what_everybody_chose_pairs_nobody() -> None:
    users, items = np.arange(5), np.zeros(5, int)
    assert len(user_pairs(users, items, 5, 100, 0).users) == 0
    assert len(user_pairs(users, np.arange(5), 5, 100, 0).users) == 0
    assert len(user_pairs(users[:0], items[:0], 5, 100, 0).users) == 0


def test_order_and_repetition_of_events_change_nothing() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(50, size=400), rng.integers(30, size=400)
    one = user_pairs(users, items, 50, 1000, 3)
    again = np.concatenate([rng.permutation(400), rng.integers(400, size=100)])
    two = user_pairs(users[again], items[again], 50, 1000, 3)
    assert as_dict(one) == as_dict(two)
    assert as_dict(one) != as_dict(user_pairs(users, items, 50, 1000, 4))
    assert (one.first < one.second).all()
    # every pair shares an item
    mine = [set(items[users == u]) for u in range(50)]
    assert all(mine[a] & mine[b] for a, b in as_dict(one))


def test_an_item_of_many_users_makes_no_square_of_them() -> None:
    n = 200_000  # all pairs would be 2e10
    users = np.concatenate([np.arange(n), np.arange(n)])
    items = np.concatenate([np.zeros(n - 1, int), [1], 2 + np.arange(n) // 2])
    got = user_pairs(users, items, n, 50_000, 0)
    assert 0 < len(got.users) <= 50_000
