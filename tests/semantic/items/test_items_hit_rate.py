"""Hit rates of held-out pairs: by hand, against loops, ties, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_choir.semantic.items.cooccurrence import Pairs
from recbole_choir.semantic.items.hit_rate import (
    before_and_after,
    hit_rates,
    popularity_rates,
    with_popularity,
)


def pairs_of(*ends: tuple[int, int]) -> Pairs:
    a = np.array(ends, np.int64).reshape(-1, 2)
    return Pairs(a[:, 0], a[:, 1], np.ones(len(a), np.int64))


def on_circle(*degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_ranks_by_hand() -> None:
    x = on_circle(0, 10, 30, 70)
    held, known = pairs_of((0, 2)), pairs_of((0, 1))
    got = hit_rates(x, np.ones(4, bool), held, known)
    assert got is not None
    # from 0: 1 is nearer than 2, but known; from 2: 1 is nearer than 0, and not known
    assert got.raw_mean_rank == 2.0
    assert got.mean_rank == 1.5
    assert (got.hit_rate_10, got.raw_hit_rate_30) == (1.0, 1.0)


def test_equal_vectors_rank_as_by_chance() -> None:
    n = 41
    got = hit_rates(np.ones((n, 3), np.float32), np.ones(n, bool), pairs_of((0, 1)), pairs_of())
    assert got is not None
    assert got.mean_rank == 1 + (n - 2) / 2
    assert got.hit_rate_10 == 0.0


def test_items_without_a_vector_take_no_part() -> None:
    x = on_circle(0, 1, 30, 31)
    valid = np.array([True, False, True, True])
    got = hit_rates(x, valid, pairs_of((0, 2), (0, 1)), pairs_of((1, 2)))
    assert got is not None
    assert got.mean_rank == (1 + 2) / 2
    assert hit_rates(x, valid, pairs_of((0, 1)), pairs_of()) is None
    assert hit_rates(x, valid, pairs_of(), pairs_of((0, 2))) is None


def test_against_loops() -> None:
    rng = np.random.default_rng(0)
    n = 60
    x = rng.standard_normal((n, 5)).astype(np.float32)
    x[7] = x[8]  # a tie
    valid = rng.random(n) < 0.9
    ends = np.array([(a, b) for a in range(n) for b in range(a + 1, n)])
    drawn = rng.permutation(len(ends))
    held, known = pairs_of(*ends[drawn[:50]]), pairs_of(*ends[drawn[50:300]])
    partners = {frozenset(p) for p in zip(known.first.tolist(), known.second.tolist(), strict=True)}
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    score = unit @ unit.T
    filtered, raw = [], []
    for a, b in zip(held.first.tolist(), held.second.tolist(), strict=True):
        if not (valid[a] and valid[b]):
            continue
        for i, j in ((a, b), (b, a)):
            others = [k for k in range(n) if valid[k] and k not in (i, j)]
            above = [(score[i, k] > score[i, j]) + 0.5 * (score[i, k] == score[i, j])
                     for k in others]  # fmt: skip
            raw.append(1 + sum(above))
            kept = [v for k, v in zip(others, above, strict=True)
                    if frozenset((i, k)) not in partners]  # fmt: skip
            filtered.append(1 + sum(kept))
    got = hit_rates(x, valid, held, known)
    assert got is not None
    assert got.mean_rank == np.mean(filtered)
    assert got.raw_mean_rank == np.mean(raw)
    assert got.hit_rate_10 == np.mean(np.array(filtered) <= 10)
    assert got.raw_hit_rate_30 == np.mean(np.array(raw) <= 30)


def test_popularity_by_hand() -> None:
    # Training pairs (0, 1) of 5 users, (1, 2) of 2 and (3, 4) of 1: popularity 5, 7, 2, 1, 1.
    known = Pairs(np.array([0, 1, 3]), np.array([1, 2, 4]), np.array([5, 2, 1]))
    got = popularity_rates(np.ones(5, bool), pairs_of((0, 2)), known)
    assert got is not None
    # from 0: 1 (known) is above 2; from 2: 1 (known) and, of the others, none is above 0
    assert (got.raw_mean_rank, got.mean_rank) == (2.0, 1.0)
    got = popularity_rates(np.ones(5, bool), pairs_of((0, 3)), known)
    assert got is not None
    # from 0: 1, 2 above 3 and 4 equal: 1 + 2 + 1/2, without the known 1: 2.5; from 3: 1 is above 0
    assert (got.raw_mean_rank, got.mean_rank) == ((3.5 + 2) / 2, (2.5 + 2) / 2)


def test_popularity_knows_no_held_out_pair_and_no_vector() -> None:
    known = pairs_of((0, 1), (1, 2))
    base = popularity_rates(np.ones(6, bool), pairs_of((0, 2)), known)
    more = Pairs(np.array([0]), np.array([2]), np.array([99]))
    assert popularity_rates(np.ones(6, bool), more, known) == base
    # and is hit_rates of any vectors whose cosines rank alike for every anchor
    assert popularity_rates(np.zeros(6, bool), pairs_of((0, 2)), known) is None


def test_vectors_behind_popularity_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    n = 100
    known = pairs_of(*[(0, k) for k in range(2, 60)])
    held = pairs_of((0, 1), (0, 70))
    far = on_circle(0, 180, *range(1, n - 1))
    rates = hit_rates(far, np.ones(n, bool), held, known)
    popular = popularity_rates(np.ones(n, bool), held, known)
    assert rates is not None
    assert popular is not None
    with caplog.at_level("INFO"):
        report = before_and_after("items", known, held, 1, rates, rates, popular)
    assert report["popularity"] == popular.report()
    assert popular.hit_rate_30 > rates.hit_rate_30
    assert "of popularity alone" in caplog.text


def test_a_kept_report_gets_the_control() -> None:
    known, held = pairs_of((0, 1)), pairs_of((0, 2))
    new = with_popularity({"pairs": 1}, np.ones(4, bool), held, known)
    assert new["popularity"]["mean_rank"] == 1.5
    assert with_popularity(new, np.ones(4, bool), held, known) is new


def test_report() -> None:
    x = on_circle(0, 10, 30, 70)
    train, held = pairs_of((0, 1), (1, 2)), pairs_of((0, 2))
    rates = hit_rates(x, np.ones(4, bool), held, train)
    assert rates is not None
    report = before_and_after("items", train, held, 3, None, None)
    assert (report["pairs"], report["held_out"], report["rows_with_pairs"]) == (2, 1, 3)
    assert report["before"] is None
    report = before_and_after("items", train, held, 3, rates, rates)
    assert report["after"]["mean_rank"] == rates.mean_rank
