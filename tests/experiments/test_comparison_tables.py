"""Tables, tests and corrections of a comparison, from records whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_choir.evaluator import gauc
from recbole_choir.experiments.compare_command import dry_run, write_tables
from recbole_choir.experiments.runner import run_missing
from recbole_choir.experiments.significance import bootstrap, holm, paired_t
from recbole_choir.experiments.summary import DRAWS, LEVEL, draws_for, gain
from recbole_choir.experiments.tables import comparison, load_records


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, kept increasing.
    np.testing.assert_allclose(holm([0.02, 0.01, 0.04, 0.03]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.6, 0.7]), [0.03, np.nan, 1.0, 1.0])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_and_lies_below_bonferroni(values: list[float]) -> None:
    corrected = holm(values)
    assert (corrected >= np.array(values)).all()
    assert (corrected <= np.minimum(1.0, np.array(values) * len(values)) + 1e-12).all()
    np.testing.assert_array_equal(
        np.argsort(corrected[np.argsort(values, kind="stable")], kind="stable"),
        np.arange(len(values)),
    )


def test_paired_t_by_hand() -> None:
    # Gaps 1 2 3: mean 2, standard error 1/sqrt(3), t = 3.4641 with 2 degrees: p = .0742.
    assert paired_t([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(0.07417990, abs=1e-7)
    assert np.isnan(paired_t([1.0], [0.0]))
    assert paired_t([1.0, 2.0], [1.0, 2.0]) == 1.0


@pytest.mark.parametrize("n_tests", [13, 234, 250, 1000])
def test_the_correction_of_many_tests_cannot_hide_a_sure_difference(n_tests: int) -> None:
    """With a fixed number of draws, 250 pairs and segments left nothing to be found."""
    draws = draws_for(n_tests)
    assert draws >= DRAWS
    sure = bootstrap(np.ones((40, 1)), np.ones(40), n_draws=draws)[0].p
    unsure = [1.0] * (n_tests - 1)
    assert holm([sure, *unsure])[0] <= LEVEL / 5


def test_bootstrap_draws_users_with_equal_chances_and_by_their_weight() -> None:
    """Of two users with weights 1 and 3, the mean is 0, 3/4 or 1 in 1, 2 and 1 of 4 draws."""
    gaps, weight = np.array([[0.0], [1.0]]), np.array([1.0, 3.0])
    found = bootstrap(gaps, weight, n_draws=40_000, confidence=0.49)[0]
    assert (found.mean, found.low, found.high) == (0.75, 0.75, 0.75)
    assert found.p == pytest.approx(0.5, abs=0.02)  # 2 x the quarter at zero
    # Of six users one gains: the mean is k / 6 where he is drawn k times, Binomial(6, 1/6), which
    # is 0 in .335 of the draws, and at most 2 in .938.
    gaps, weight = np.array([[1.0]] + [[0.0]] * 5), np.ones(6)
    ends = [bootstrap(gaps, weight, n_draws=40_000, confidence=c)[0] for c in (0.30, 0.36, 0.90)]
    assert [d.low for d in ends] == [pytest.approx(1 / 6), 0.0, 0.0]
    assert ends[2].high == pytest.approx(3 / 6)
    assert ends[0].p == pytest.approx(0.67, abs=0.02)


def test_few_users_cannot_be_significant() -> None:
    """All n users differ in one direction by a chance of 2^(1-n) where nothing is better.

    One user resampled is that user again: that was an interval without width and the smallest p.
    """
    for n in (1, 2, 5, 6, 9):
        found = bootstrap(np.full((n, 1), 0.2), np.ones(n), n_draws=9999)[0]
        assert (found.mean, found.p, found.n_users) == (pytest.approx(0.2), 2.0 ** (1 - n), n)
        ends = (np.nan, np.nan) if n < 6 else (0.2, 0.2)
        assert (found.low, found.high) == pytest.approx(ends, nan_ok=True)
    assert bootstrap(np.full((40, 1), 0.2), np.ones(40), n_draws=99)[0].p == 0.02


def test_bootstrap_of_many_pairs_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    gaps, weight = rng.normal(0.1, 1, (50, 3)), rng.integers(1, 9, 50).astype(float)
    together = bootstrap(gaps, weight, n_draws=500)
    for column, one in enumerate(together):
        alone = bootstrap(gaps[:, [column]], weight, n_draws=500)[0]
        assert one.mean == pytest.approx(alone.mean)
        assert (one.low, one.high) == pytest.approx((alone.low, alone.high))
        assert one.p == alone.p
    nothing = bootstrap(np.zeros((5, 1)), np.ones(5), n_draws=99)[0]
    assert nothing.p == 1.0
    sure = bootstrap(np.ones((8, 1)), np.ones(8), n_draws=99)[0]
    assert sure.p == pytest.approx(2 / 100), "never below what the draws can tell"


def test_gain_is_that_of_the_papers() -> None:
    assert gain(0.7179, 0.7097) == pytest.approx(1.16, abs=0.005)
    assert gain(0.7768, 0.7732) == pytest.approx(0.47, abs=0.005)
    assert np.isnan(gain(0.5, 0.0))


@pytest.fixture(scope="module")
def compared(fakes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a comparison can have; only looked at."""
    folder = tmp_path_factory.mktemp("compared")
    plan = fakes.plan_of("ChoirRec", trials=2, ablation=["ChoirRec"], sweep=["lambda"])
    state = run_missing(plan, folder, 2, fakes.Fake(folder), show_progress=False)
    write_tables(plan, state, folder, "recbole-choir compare")
    return folder


def rows_under(page: str, title: str) -> list[str]:
    part = page.split(f"### {title}")[1].split("\n### ")[0]
    return [line for line in part.splitlines() if line.startswith("| ")]


def test_asof_segments_have_a_table_where_the_records_know_them(
    compared: Path, fakes: Any, tmp_path: Path
) -> None:
    assert "Activity before the row" not in (compared / "comparison.md").read_text()
    plan = fakes.plan_of("Base", trials=0)
    state = run_missing(plan, tmp_path, 1, fakes.Fake(tmp_path), show_progress=False)
    for seed, path in enumerate(sorted(tmp_path.glob("*.json"))):
        content = json.loads(path.read_text())
        content["segments"]["asof_1"] = {"gauc": 0.5 + seed / 10, "auc": 0.5}
        path.write_text(json.dumps(content))
    write_tables(plan, state, tmp_path, "recbole-choir compare")
    head, _, base, *_ = rows_under((tmp_path / "comparison.md").read_text(), "Activity before")
    assert head == "| model | runs | asof_1 | asof_2 | asof_3 | asof_4 | asof_5 | n_buy_lt_5 |"
    assert base.startswith("| Base | 3 | 0.5000")  # AUC
    numbers = pd.read_csv(tmp_path / "tables" / "ml-100k-asof-gauc.csv", index_col="model")
    assert numbers.loc["Base", "asof_1_mean"] == pytest.approx(0.6)


def test_tables_have_every_row_in_the_papers_shape(compared: Path) -> None:
    page = (compared / "comparison.md").read_text()
    models = ["Base", "two Base seeds averaged", "ChoirRec", "ChoirRec, random groups"]
    overall = rows_under(page, "Overall and low activity")
    names = [line.split(" | ")[0][2:] for line in overall if not line.startswith("| ---")]
    assert names == ["model", *models] * 3, "AUC, GAUC and the gain"
    assert "| model | runs | level_1 | level_2 | level_3 | level_4 | level_5 |" in page
    assert "tail_users | head_users | tail_items | head_items" in page
    assert len(rows_under(page, "Ablation of ChoirRec")) == 2 * (2 + 1 + 9)
    assert [r.split(" | ")[0] for r in rows_under(page, "lambda of ChoirRec")][2:] == [
        f"| {v}" for v in ("0.0005", "0.001", "0.005", "0.01", "0.05")
    ]
    trials = {line.split(" | ")[1] for line in rows_under(page, "Search")[2:]}
    assert trials == {"2"}
    frame = pd.read_csv(compared / "tables" / "ml-100k-overall-gauc.csv", index_col=0)
    assert list(frame.index) == models
    assert (frame["all_count"] == 3).all()


def test_figures_are_those_of_the_records(fakes: Any, compared: Path) -> None:
    page = (compared / "comparison.md").read_text()
    frame = load_records(compared)
    base = frame[(frame["cell"] == "Base") & (frame["role"] == "seed")]
    values = base.loc[base["segment"] == "low", "gauc"].astype(float)
    assert f"{values.mean():.4f} ± {values.std(ddof=1):.4f}" in page
    runs = {
        name: [
            np.load(path.with_suffix(".npz"))["scores"]
            for path in sorted(compared.glob("*.json"))
            for record in [json.loads(path.read_text())]
            if (record["cell"], record["role"]) == (name, "seed")
        ]
        for name in ("Base", "ChoirRec")
    }
    means = {
        n: np.mean([gauc(fakes.LABELS, s, fakes.USERS) for s in scores])
        for n, scores in runs.items()
    }
    tests = json.loads((compared / "summary" / "significance.json").read_text())
    row = next(
        r for r in tests if (r["cell"], r["against"], r["segment"]) == ("ChoirRec", "Base", "all")
    )
    assert row["mean"] == pytest.approx(means["ChoirRec"] - means["Base"])
    assert row["gain"] == pytest.approx(gain(means["ChoirRec"], means["Base"]))
    assert row["p_holm"] >= row["p"]
    assert row["seeds"] == 3
    m = len([r for r in tests if r.get("p") is not None])
    smallest = min(tests, key=lambda r: r["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, m * smallest["p"])), "over all pairs"


def test_pairs_of_averaged_seeds_are_no_independent_seeds(compared: Path) -> None:
    tests = json.loads((compared / "summary" / "significance.json").read_text())
    mean = [r for r in tests if r["cell"] == "two Base seeds averaged"]
    assert len(mean) == 13
    assert {r["p_seeds"] for r in mean} == {None}


@pytest.mark.parametrize(("seeds", "pairs"), [((11,), 0), ((11, 12), 1), ((11, 12, 13), 3)])
def test_two_seeds_are_one_pair(fakes: Any, out: Path, seeds: tuple[int, ...], pairs: int) -> None:
    plan = fakes.plan_of("Base", seeds=seeds, trials=0)
    state = run_missing(plan, out, 1, fakes.Fake(out), show_progress=False)
    text = write_tables(plan, state, out, "").read_text()
    frame = load_records(out)
    assert frame.loc[frame["role"] == "average", "seed"].nunique() == pairs
    shown = pairs or "two finished seeds are needed"
    assert f"| two Base seeds averaged | {shown} |" in text


def test_records_of_an_earlier_choice_do_not_count(fakes: Any, out: Path) -> None:
    for common in ({}, {"epochs": 7}, {}):
        plan = fakes.plan_of("DeepFM", trials=0, common=common)
        state = run_missing(plan, out, 1, fakes.Fake(out), show_progress=False)
        write_tables(plan, state, out, "")
        frame = load_records(out)
        roles = frame[frame["segment"] == "all"].groupby("role").size().to_dict()
        superseded = 0 if not common and "superseded" not in roles else 9
        assert roles.get("superseded", 0) == superseded
        assert comparison(frame, "ml-100k").loc["Base", "runs"] == "3"
        counted = [json.loads(p.read_text()) for p in out.glob("*DeepFM*.json")]
        assert {tuple(r["asked"]) for r in counted if r["role"] == "seed"} == {tuple(common)}


def test_a_cell_on_other_rows_is_said_not_tested(fakes: Any, out: Path) -> None:
    plan = fakes.plan_of("DeepFM", trials=0)
    state = run_missing(plan, out, 1, fakes.Fake(out), show_progress=False)
    for path in out.glob("*DeepFM*.npz"):
        arrays = dict(np.load(path))
        np.savez(path, **{**arrays, "users": arrays["users"][::-1]})
    text = write_tables(plan, state, out, "").read_text()
    assert "| DeepFM − Base | not scored on the same rows |" in text


def test_tables_of_a_comparison_that_has_not_begun(fakes: Any, out: Path) -> None:
    pytest.importorskip("optuna")
    from recbole_choir.experiments.runner import open_progress

    plan = fakes.plan_of("ChoirRec", trials=2)
    text = write_tables(plan, open_progress(plan, out), out, "").read_text()
    assert "| ChoirRec | 0, 3 missing | - | - |" in text


def test_dry_run_counts_and_writes_nothing(fakes: Any, tmp_path: Path) -> None:
    plan = fakes.plan_of("ChoirRec", trials=20, sweep=["lambda"])
    text = dry_run(plan, tmp_path / "no")
    assert "| 1 | ml-100k | Base | 20 | 3 | 23 |" in text
    assert "8 cells, at most 84 runs; seeds 11, 12, 13" in text
    assert not (tmp_path / "no").exists()
    untuned = dry_run(fakes.plan_of("ChoirRec", trials=0), tmp_path / "no")
    assert "| 1 | ml-100k | Base | 0 | 3 | 3 | nothing |" in untuned
