"""Comparing groupings: the measures by hand, and a whole small comparison."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.__main__ import main
from recbole_choir.semantic.frames.canonical import PreparedFrames, prepare_frames
from recbole_choir.semantic.quality.compare import (
    agreement,
    compare,
    comparison_table,
    concentration,
    parse_candidates,
    stability,
)


def users_of(*rows: tuple[int, str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["snapshot", "user_id", "group_id"])


class TestStability:
    def test_equal_groups_by_other_names(self) -> None:
        first = users_of((1, "a", "0"), (1, "b", "0"), (1, "c", "1"), (1, "d", "1"))
        second = users_of((1, "d", "x"), (1, "c", "x"), (1, "b", "y"), (1, "a", "y"))
        assert stability(first, second) == 1.0

    def test_by_hand_over_two_snapshots(self) -> None:
        first = users_of(*[(s, u, g) for s in (1, 2) for u, g in zip("abcd", "0011")])
        second = users_of(
            *[(1, u, g) for u, g in zip("abcd", "0011")],
            *[(2, u, g) for u, g in zip("abcd", "0101")],
        )
        # crossed pairs of 4: adjusted Rand index -0.5
        assert stability(first, second) == pytest.approx((1.0 - 0.5) / 2)

    def test_users_without_a_group_do_not_count(self) -> None:
        first = users_of((1, "a", "0"), (1, "b", "0"), (1, "c", "1"), (1, "e", None))
        second = users_of((1, "a", "0"), (1, "b", "0"), (1, "c", "1"), (1, "e", "7"))
        assert stability(first, second) == 1.0
        assert stability(first[3:], second) is None


class TestAgreement:
    # users 0, 2: one purchase (low); users 1, 3: three (high)
    USER = np.array([0, 1, 1, 1, 2, 3, 3, 3])

    def test_members_who_like_the_same(self) -> None:
        category = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        groups = np.array([0, 0, 1, 1])
        assert agreement(groups, self.USER, category, 0.5) == pytest.approx(1.0)

    def test_members_who_like_the_opposite(self) -> None:
        category = np.array([1, 0, 0, 0, 0, 1, 1, 1])
        assert agreement(np.array([0, 0, 1, 1]), self.USER, category, 0.5) == pytest.approx(-1.0)

    def test_what_everybody_likes_is_no_agreement(self) -> None:
        category = np.zeros(8, np.int64)
        assert agreement(np.array([0, 0, 1, 1]), self.USER, category, 0.5) == pytest.approx(0.0)

    def test_low_members_who_are_all_alike(self) -> None:
        user = np.array([0, 1, 1, 1, 2, 4, 3, 3, 3])
        category = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
        # low users all like category 0: nothing sets their groups apart, so the cosine is 0
        assert agreement(np.array([0, 0, 1, 1, 1]), user, category, 0.6) == pytest.approx(0.0)

    def test_weighted_by_low_members(self) -> None:
        # groups 0 and 1 agree, with one low member each; group 2 disagrees, with two
        user = np.array([0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6])
        category = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3])
        groups = np.array([0, 0, 1, 1, 2, 2, 2])
        low, high = np.array([1, 1, 2, 0]) / 4, np.array([1, 1, 0, 1]) / 3
        expected = 0.0
        for weight, mine, theirs in ((1, 0, 0), (1, 1, 1), (2, 2, 3)):
            a, b = np.eye(4)[mine] - low, np.eye(4)[theirs] - high
            expected += weight / 4 * (a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
        assert agreement(groups, user, category, 4 / 7) == pytest.approx(expected)

    def test_nothing_to_compare(self) -> None:
        none = np.full(4, -1)
        assert agreement(none, self.USER, np.zeros(8, np.int64)) is None
        alone = np.array([0, -1, 0, -1])  # low members only
        assert agreement(alone, self.USER, np.zeros(8, np.int64), 1.0) is None

    def test_random_groups_are_near_zero(self) -> None:
        rng = np.random.default_rng(0)
        taste = rng.integers(0, 8, 600)
        user = rng.integers(0, 600, 20_000)
        category = np.where(rng.random(20_000) < 0.5, taste[user], rng.integers(0, 8, 20_000))
        by_taste = agreement(taste, user, category)
        by_chance = agreement(rng.permutation(taste), user, category)
        assert by_taste is not None
        assert by_chance is not None
        assert by_taste > 0.95
        assert abs(by_chance) < 0.5


def test_concentration_by_hand() -> None:
    group = np.array([0, 1, -1])
    user = np.array([0, 0, 0, 0, 1, 1, 2])
    category = np.array([0, 0, 0, 1, 2, 3, 3])
    share, population = concentration(group, user, category, 1)
    assert share == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert population == pytest.approx(3 / 6)  # of the members' purchases
    assert concentration(np.array([-1, -1, -1]), user, category, 1) == (None, None)


@pytest.fixture(scope="module")
def shop() -> PreparedFrames:
    """Two tastes that attributes tell: readers buy books, players buy games."""
    rng = np.random.default_rng(1)
    n_users, n = 60, 1500
    taste = np.arange(n_users) % 2
    user = rng.integers(0, n_users, n)
    item = rng.integers(0, 10, n) + 10 * np.where(
        rng.random(n) < 0.9, taste[user], rng.integers(0, 2, n)
    )
    interactions = pd.DataFrame(
        {
            "user_id": [f"u{u:02}" for u in user],
            "item_id": [f"i{i:02}" for i in item],
            "timestamp": np.sort(rng.uniform(0, 1e6, n)),
            "label": (rng.random(n) < np.where(item // 10 == taste[user], 0.7, 0.2)).astype(int),
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [f"u{u:02}" for u in range(n_users)],
            "club": np.where(taste == 0, "readers", "players"),
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"i{i:02}" for i in range(20)],
            "category": [["Books"] if i < 10 else ["Games"] for i in range(20)],
        }
    )
    return prepare_frames(interactions, users, items)


def test_a_comparison_end_to_end(shop: PreparedFrames, tmp_path: Path) -> None:
    overrides = {"n_snapshots": 2, "n_clusters": 2, "n_levels": 1, "min_members": 2}
    candidates = parse_candidates(["taste=behaviour", "chance=random", "bad=behaviour"], overrides)
    candidates["bad"] = candidates["bad"].model_copy(
        update={"input": "id_embedding", "id_embedding_path": str(tmp_path / "none.npz")}
    )
    downstream = {"taste": {"test GAUC": "0.7"}}
    records = compare(
        shop, candidates, tmp_path / "out", downstream=downstream, show_progress=False
    )
    taste, chance, bad = records
    assert taste["measures"]["attributes"] > 0.95
    assert chance["measures"]["attributes"] < 0.75
    assert taste["measures"]["agreement"] > 0.9
    assert taste["measures"]["stability"] > 0.9 > 0.3 > chance["measures"]["stability"]
    assert taste["measures"]["lift"] > chance["measures"]["lift"] + 0.05
    assert taste["measures"]["quarter_share"] > chance["measures"]["quarter_share"]
    assert "none.npz" in bad["error"]
    assert taste["measures"]["lift"] == np.mean([one["lift"] for one in taste["by_seed"]])

    text = (tmp_path / "out" / "comparison.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == ["taste", "chance", "bad"]
    assert rows[2].endswith("| 0.7 |")
    assert rows[3].endswith("| - |")
    assert "failed: " in rows[4]
    stored = json.loads((tmp_path / "out" / "records" / "taste.json").read_text())
    assert stored == taste

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "tables").rglob("*.parquet")}
    again = compare(shop, candidates, tmp_path / "out", show_progress=False)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "tables").rglob("*.parquet")}
    assert before == after  # tables are used again
    assert again[0]["measures"] == taste["measures"]


def test_profiles_are_told_in_the_table() -> None:
    record = {
        "name": "llm",
        "by_seed": [{}, {}],
        "measures": {"groups": 3.0, "lift": 0.52},
        "profiles": {
            "model": "tiny",
            "fallback": 2,
            "failed": {"length": 2},
            "snapshots": [
                {"with_prompt": 10, "new": 10, "changed": 0},
                {"with_prompt": 15, "new": 5, "changed": 3},
            ],
        },
    }
    text = comparison_table([record])
    assert "| llm | 3 | - | - |" in text
    assert "*llm*: tiny; 25 profiles over 2 snapshots, 2 of them the template's" in text
    assert "(length 2). Of 10 users met again at a snapshot, 3 had another prompt" in text


def test_mistakes(shop: PreparedFrames, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'random' twice"):
        parse_candidates(["random", "random"])
    with pytest.raises(ConfigError, match="two different ones"):
        compare(shop, parse_candidates(["random"]), tmp_path, seeds=[1, 1])
    with pytest.raises(ConfigError, match="different names"):
        compare(shop, parse_candidates(["a b=random", "a?b=random"]), tmp_path)


def test_the_command_line(
    shop: PreparedFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.frames.interactions.to_parquet(tmp_path / "i.parquet")
    arguments = [
        *("compare", "--interactions", str(tmp_path / "i.parquet"), "--out", str(tmp_path / "o")),
        *("--recipes", "chance=random", "--set", "n_snapshots=1", "--quiet"),
    ]
    assert main(arguments) == 0
    assert "| chance |" in capsys.readouterr().out
    assert main([*arguments, "--recipes", "randm"]) == 2
    assert "did you mean 'random'" in capsys.readouterr().err
