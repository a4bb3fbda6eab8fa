"""What the plots of a report show is what the records say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recbole_choir.report.plot import BASE_COLOUR, COLOURS, Plot, Style, cell_styles
from recbole_choir.report.plotly_figures import figure
from recbole_choir.report.png_figures import write_png
from recbole_choir.report.records import RecordFolder
from recbole_choir.report.run_plots import curves, gains, gates, norms, sweeps
from recbole_choir.report.table_plots import group_sizes

Write = Callable[..., Path]


def test_gains_are_paired_by_seed_with_students_interval(study: Path) -> None:
    plot, notes = gains(RecordFolder.load(study), "d")
    assert plot is not None
    rows = plot.part("", "ChoirRec, text")
    assert rows["x"].tolist() == [1, 2, 3, 4, 5]
    # seed 1 gains .01, seed 2 gains .03: mean .02, standard error .01
    assert rows["y"].tolist() == pytest.approx([0.02] * 5)
    half = stats.t.ppf(0.975, 1) * 0.01
    assert (rows["high"] - rows["y"]).tolist() == pytest.approx([half] * 5)
    assert (rows["y"] - rows["low"]).tolist() == pytest.approx([half] * 5)
    one = plot.part("", "Averaged")
    assert one["y"].tolist() == pytest.approx([0.03] * 5)
    assert one["low"].isna().all(), "one seed has no interval"
    assert any("Broken" in note for note in notes)


def test_gains_take_the_bootstrap_where_the_study_has_all_levels(study: Path) -> None:
    row = {"dataset": "d", "cell": "ChoirRec, text", "against": "Base", "n_users": 9}
    rows = [
        {
            **row,
            "segment": f"level_{k}",
            "mean": k / 10,
            "low": k / 10 - 0.01,
            "high": k / 10 + 0.02,
        }
        for k in range(1, 6)
    ]
    (study / "summary").mkdir()
    (study / "summary" / "differences.json").write_text(json.dumps(rows))
    plot, _ = gains(RecordFolder.load(study), "d")
    assert plot is not None
    shown = plot.part("", "ChoirRec, text")
    assert shown["y"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert shown["high"].tolist() == pytest.approx([0.12, 0.22, 0.32, 0.42, 0.52])
    assert "paired bootstrap over users" in plot.caption
    (study / "summary" / "differences.json").write_text(json.dumps(rows[:4]))
    plot, _ = gains(RecordFolder.load(study), "d")
    assert plot is not None
    assert plot.part("", "ChoirRec, text")["y"].tolist() == pytest.approx([0.02] * 5)


def test_without_a_base_the_plot_says_what_is_missing(write: Write) -> None:
    plot, notes = gains(RecordFolder.load(write("DeepFM", 1)), "d")
    assert plot is None
    assert notes == ["GAUC gain by activity: no cell is the base; name one with --base"]


def test_gates_of_the_last_epoch(study: Path) -> None:
    plot, notes = gates(RecordFolder.load(study), "d")
    assert plot is not None
    assert notes == []
    assert plot.series == ["ChoirRec, text"]
    assert plot.frame["y"].tolist() == pytest.approx([0.45, 0.4, 0.35, 0.3, 0.25])


def test_models_without_gates_are_said_to_have_none(write: Write) -> None:
    plot, notes = gates(RecordFolder.load(write("Base", 1)), "d")
    assert plot is None
    assert "no model of these records has gates" in notes[0]


def test_norms_are_means_over_seeds_and_gaps_are_named(study: Path, write: Write) -> None:
    write("Trees", 1, user_norms=None)
    plot, notes = norms(RecordFolder.load(study), "d")
    assert plot is not None
    assert plot.part("", "Base")["y"].tolist() == [0, 1, 2, 3, 4, 5]
    assert plot.part("", "Base")["low"].tolist() == [-1, 0, 1, 2, 3, 4]
    assert plot.ticks[0.0] == "new"
    assert "Averaged" not in plot.series
    assert notes == ["norms of user vectors: no vector of a user's id in Trees"]


def test_records_of_an_earlier_version_lack_norms(write: Write) -> None:
    folder = write("Base", 1)
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        del content["user_norms"]
        path.write_text(json.dumps(content))
    plot, notes = norms(RecordFolder.load(folder), "d")
    assert plot is None
    assert "not in the records of any of these runs, which an earlier version made" in notes[0]


def test_curves_by_epoch(write: Write) -> None:
    write("Base", 1)
    plot, _ = curves(RecordFolder.load(write("Base", 2)), "d")
    assert plot is not None
    assert plot.panels == [
        "training loss",
        *(f"validation {name}" for name in ("GAUC", "AUC", "LogLoss")),
    ]
    loss = plot.part("training loss", "Base")
    assert loss["x"].tolist() == [1, 2]
    assert loss["y"].tolist() == pytest.approx([0.7, 0.6])
    assert loss["seeds"].tolist() == [2, 2]
    assert plot.log_y == frozenset()


def test_curves_with_several_validations_an_epoch(write: Write) -> None:
    found = [{"epoch": e, "valid": {"gauc": g}} for e, g in ((0.5, 0.6), (1, 0.7), (1.5, 0.65))]
    history = [
        {"epoch": 0, "train_loss": 0.7, "valid": {"gauc": 0.7}, "validations": found[:2]},
        # stopped in mid-epoch
        {
            "epoch": 1,
            "train_loss": 0.6,
            "valid": {"gauc": 0.65},
            "validations": found[2:],
            "steps": 3,
        },
    ]
    plot, _ = curves(RecordFolder.load(write("Base", 1, history=history)), "d")
    assert plot is not None
    assert plot.part("training loss", "Base")["x"].tolist() == [1, 1.5]
    gauc = plot.part("validation GAUC", "Base")
    assert gauc["x"].tolist() == [0.5, 1, 1.5]
    assert gauc["y"].tolist() == pytest.approx([0.6, 0.7, 0.65])
    assert not plot.whole_x


@pytest.mark.parametrize(("loss", "log"), [(11.9, set()), (1200.0, {"training loss"})])
def test_losses_far_apart_are_drawn_by_their_logarithm(
    write: Write, loss: float, log: set[str]
) -> None:
    write("DCNV2", 1, history=[{"epoch": 0, "train_loss": loss, "valid": {"gauc": 0.6}}])
    plot, _ = curves(RecordFolder.load(write("Base", 1)), "d")  # losses .7 and .6
    assert plot is not None
    assert plot.log_y == log
    first, *others = (axis.type for axis in figure(plot).select_yaxes())
    assert (first, set(others)) == ("log" if log else None, {None})


def test_sweeps_by_value_in_the_order_of_numbers(write: Write) -> None:
    folder = write("ChoirRec", 1)
    for value, gauc in (("1", 0.7), ("0.5", 0.6), ("10", 0.65)):
        about = {"kind": "sweep", "row_of": "ChoirRec", "sweep": ["K", value]}
        for seed in (1, 2):
            write(f"ChoirRec, K = {value}", seed, gauc + seed / 100, row=about)
    plots, notes = sweeps(RecordFolder.load(folder), "d")
    (plot,) = plots
    assert (notes, plot.name, plot.panels) == ([], "sweep-K", ["all rows", "low activity"])
    assert list(plot.ticks.values()) == ["0.5", "1", "10"]
    part = plot.part("low activity", "ChoirRec")
    assert part["y"].tolist() == pytest.approx([0.615, 0.715, 0.665])
    assert part["low"].tolist() == pytest.approx([0.61, 0.71, 0.66])


def test_without_a_sweep_the_page_says_so(write: Write) -> None:
    plots, notes = sweeps(RecordFolder.load(write("ChoirRec", 1)), "d")
    assert (plots, len(notes)) == ([], 1)
    assert "--sweep" in notes[0]


def test_sizes_of_groups_by_rank() -> None:
    users = pd.DataFrame(
        {
            "user_id": list("abcdef"),
            "code_1": [0, 0, 0, 1, 1, -1],
            "code_2": [0, 0, 1, 0, 0, -1],
            "group_id": ["0", "0", "0", "1-0", "1-0", None],
        }
    )
    plot, _ = group_sizes(users, 2)
    assert plot is not None
    assert plot.part("", "level 1")["y"].tolist() == [3, 2]
    assert plot.part("", "level 2")["y"].tolist() == [2, 2, 1]
    assert plot.part("", "the groups that users read")["y"].tolist() == [3, 2]
    assert "1 of 6 users have none" in plot.caption


def test_colours_are_the_same_in_all_plots_and_the_base_is_dark() -> None:
    styles = cell_styles(["Base", *map(str, range(30))], "Base")
    assert styles["Base"].colour == BASE_COLOUR
    looks = [(s.colour, s.marker) for s in styles.values()]
    assert len(set(looks)) == len(looks), "no two cells look alike"
    assert styles["0"].colour == COLOURS[0]


def _plot(**changes: object) -> Plot:
    frame = pd.DataFrame(
        {
            "series": ["a", "a", "b"],
            "x": [1, 2, 1],
            "y": [0.1, 0.2, 0.3],
            "low": [0.0, 0.1, np.nan],
            "high": [0.3, 0.3, np.nan],
            "panel": ["p", "p", "q"],
        }
    )
    styles = {"a": Style("#111"), "b": Style("#222", "square")}
    plot = Plot("n", "t", "c", frame, "points", "x", "y", styles)
    return Plot(**{**plot.__dict__, **changes})  # type: ignore[arg-type]


def test_the_page_draws_every_series_once_in_the_legend() -> None:
    drawn = figure(_plot())
    assert [t.name for t in drawn.data if t.showlegend] == ["a", "b"]
    first = drawn.data[0]
    assert list(first.x) == pytest.approx([0.8, 1.8]), "series stand side by side"
    assert list(first.error_y.array) == pytest.approx([0.2, 0.1])
    assert list(first.error_y.arrayminus) == pytest.approx([0.1, 0.1])
    assert drawn.data[1].error_y.array is None


@pytest.mark.parametrize("kind", ["lines", "points", "cloud"])
def test_a_picture_of_every_kind(tmp_path: Path, kind: str) -> None:
    path = write_png(
        _plot(kind=kind, ticks={1.0: "one"}, zero=True, log_y=frozenset({""})), tmp_path / "a.png"
    )
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = write_png(
        _plot(kind=kind, ticks={1.0: "one"}, zero=True, log_y=frozenset({""})), tmp_path / "b.png"
    )
    assert path.read_bytes() == again.read_bytes(), "the same numbers give the same picture"
