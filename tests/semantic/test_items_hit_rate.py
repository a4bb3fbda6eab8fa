"""Hit rates of held-out pairs: by hand, against loops, ties, and what is left out."""

from __future__ import annotations

import numpy as np

from recbole_choir.semantic.items.cooccurrence import Pairs
from recbole_choir.semantic.items.hit_rate import before_and_after, hit_rates


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
