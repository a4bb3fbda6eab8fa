"""The page: whole, self-contained, safe against what others wrote, and open about its gaps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_choir.cli import main
from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import TableError
from recbole_choir.report import table_plots as of_table
from recbole_choir.report.page import write_report
from recbole_choir.report.records import RecordFolder
from recbole_choir.report.sections import make_section

Write = Callable[..., Path]


def _with_table(study: Path, table: Path) -> None:
    """Let the records name the table that the fixture made."""
    fingerprint = SemanticTable.load(table).fingerprint
    for path in study.glob("*.json"):
        content = json.loads(path.read_text())
        if "ChoirRec" in path.name:
            content["table"] = {"fingerprint": fingerprint}
            path.write_text(json.dumps(content))


def _own_text(page: str) -> str:
    """The page without plotly's own script."""
    start = page.index("<script>")
    return page[:start] + page[page.index("</head>") :]


def test_the_command_writes_page_numbers_and_pictures(
    study: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _with_table(study, table)
    out = tmp_path / "out" / "report.html"
    asked = ["--out", str(out.with_suffix("")), "--semantic", str(table)]
    assert main(["report", str(study), *asked]) == 0
    assert "report.html" in capsys.readouterr().out
    names = sorted(p.name for p in (tmp_path / "out" / "report_files").iterdir())
    plots = ("curves", "gain", "gates", "map", "norms", "sizes")
    assert names == sorted(
        ["d-numbers.csv", *(f"d-{plot}.{kind}" for plot in plots for kind in ("csv", "png"))]
    )
    text = _own_text(out.read_text(encoding="utf-8"))
    for title in ("Gain in test GAUC over Base", "Gates by activity", "Length of user vectors"):
        assert title in text
    for title in ("Training curves", "Map of users", "Group sizes"):
        assert title in text
    plain = re.sub("<[^>]*>", "", text)
    assert "recbole-choir --model=Base --dataset=d --seed=1 --epochs=2" in plain
    assert "python 3.11.7, torch 2.13.0" in text
    assert "Broken: 1 of 1 runs failed: DataError: bad" in text
    assert str(tmp_path) not in text, "no folder of this machine"


def test_the_page_loads_nothing_and_sends_nothing(study: Path, tmp_path: Path) -> None:
    page = write_report(study, tmp_path / "r.html").read_text(encoding="utf-8")
    own = _own_text(page)
    assert page.count("<script>") - own.count("<script>") == 1, "plotly is there once"
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)
    assert "@import" not in own
    assert '"showSendToCloud": false' in own
    assert '"modeBarButtons": [["toImage", ' in own
    assert "sendChartToCloud" not in own
    assert "plotlyServerURL" not in own
    local = re.findall(r"""(?:src|href)="([^"#][^"]*)\"""", own)
    for target in local:
        assert target == "data:," or (tmp_path / target).is_file(), target


def test_numbers_are_those_of_the_records(study: Path, tmp_path: Path) -> None:
    write_report(study, tmp_path / "r.html")
    numbers = pd.read_csv(tmp_path / "r_files" / "d-numbers.csv")
    row = numbers[(numbers["cell"] == "Base") & (numbers["metric"] == "gauc")].set_index("segment")
    assert row.loc["all", "mean"] == pytest.approx(0.61)
    assert row.loc["all", "std"] == pytest.approx(np.std([0.60, 0.62], ddof=1), rel=1e-5)
    assert row.loc["level_3", "mean"] == pytest.approx(0.64)
    assert row.loc["all", "runs"] == 2, "trials are no results"
    assert "Broken" not in set(numbers["cell"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "0.6100 ± 0.0141" in text


def test_every_row_leads_to_its_runs(study: Path, tmp_path: Path) -> None:
    text = _own_text(write_report(study, tmp_path / "r.html").read_text(encoding="utf-8"))
    targets = set(re.findall(r'href="#([^"]+)"', text))
    ids = re.findall(r'id="([^"]+)"', text)
    assert targets <= set(ids)
    assert len(ids) == len(set(ids))


def test_what_a_profile_holds_is_text(study: Path, table: Path, tmp_path: Path) -> None:
    _with_table(study, table)
    page = write_report(study, tmp_path / "r.html", semantic=[table]).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert "alert(1)" in page, "it is shown, not dropped"


def test_names_of_cells_are_text(write: Write, tmp_path: Path) -> None:
    folder = write("Base", 1)
    write("<i>x", 1)
    text = _own_text(write_report(folder, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "<i>x" not in text
    assert "&lt;i&gt;x" in text


def test_gaps_are_named(study: Path) -> None:
    section = make_section(RecordFolder.load(study), "d")
    missing = "\n".join(section.missing)
    assert "no semantic table was given; the runs have read f00d: add --semantic" in missing
    assert "no summary/differences.json in records" in missing
    assert "Broken: 1 of 1 runs failed: DataError: bad" in missing
    assert all("\n" not in line for line in section.missing)


def _summary(study: Path, rows: list[dict[str, object]]) -> None:
    (study / "summary").mkdir()
    (study / "summary" / "differences.json").write_text(json.dumps(rows))


def test_differences_that_exclude_zero_are_set_off(study: Path) -> None:
    row = {"dataset": "d", "against": "Base", "segment": "all", "n_users": 5, "mean": 0.02}
    rows = [
        {**row, "cell": "ChoirRec, text", "low": 0.01, "high": 0.03},
        {**row, "cell": "Averaged", "low": -0.01, "high": 0.05},
        {**row, "cell": "Averaged", "low": -0.01, "high": 0.05, "segment": "level_2"},
    ]
    _summary(study, rows)
    section = make_section(RecordFolder.load(study), "d")
    first, second, *_ = section.other_tables
    assert first.rows["ChoirRec, text − Base"] == ["+0.0200"]
    assert first.below["ChoirRec, text − Base", "all rows"] == "[+0.0100, +0.0300]"
    assert first.strong == {("ChoirRec, text − Base", "all rows")}
    assert (second.title, second.columns) == (
        "Differences in test GAUC: activity levels",
        ["level 2"],
    )


def test_a_difference_over_few_users_has_no_interval_and_is_not_set_off(study: Path) -> None:
    row = {"dataset": "d", "cell": "Averaged", "against": "Base", "segment": "all", "n_users": 1}
    _summary(study, [{**row, "mean": 0.2, "low": None, "high": None}])
    table = make_section(RecordFolder.load(study), "d").other_tables[0]
    assert table.rows["Averaged − Base"] == ["+0.2000"]
    assert table.below["Averaged − Base", "all rows"] == ""
    assert table.strong == frozenset()


def test_gates_have_a_table_each_by_activity(study: Path, write: Write) -> None:
    seen = {"frac_qualified": 0.25, "r_user_level_1": 0.1, "r_user_level_5": 0.3}
    write("AKTRec", 1, history=[{"epoch": 0, "train_loss": 0.5, "diagnostics": seen}])
    gates = make_section(RecordFolder.load(study), "d").other_tables
    assert [(table.title, list(table.columns), dict(table.rows)) for table in gates] == [
        (
            "Gates (last epoch, training rows)",
            ["qualified"],
            {"AKTRec": ["0.250"]},
        ),
        (
            "alpha_fusion, by activity (last epoch, training rows)",
            ["level 1 (least)", "level 2", "level 3", "level 4", "level 5 (most)"],
            {"ChoirRec, text": ["0.450", "0.400", "0.350", "0.300", "0.250"]},
        ),
        (
            "r of users, by activity (last epoch, training rows)",
            ["level 1 (least)", "level 5 (most)"],
            {"AKTRec": ["0.100", "0.300"]},
        ),
    ]


def test_corrected_tests_decide_where_there_are_some(study: Path) -> None:
    row = {"dataset": "d", "against": "Base", "segment": "all", "n_users": 5, "mean": 0.02}
    row |= {"low": 0.01, "high": 0.03, "p": 0.01}
    rows = [
        {**row, "cell": "ChoirRec, text", "p_holm": 0.01, "p_seeds_holm": 0.04},
        {**row, "cell": "Averaged", "p_holm": 0.2, "p_seeds_holm": None},
    ]
    _summary(study, rows)
    section = make_section(RecordFolder.load(study), "d")
    assert section.other_tables[0].strong == {("ChoirRec, text − Base", "all rows")}
    overall = section.tables["gauc"][0]
    # means .63 over .61 and .63 over .61
    assert overall.below["ChoirRec, text", "all rows"] == "+3.28 %*†"
    assert overall.below["Averaged", "all rows"] == "+3.28 %"
    assert ("Base", "all rows") not in overall.below
    assert overall.tags == {"Averaged": "control"}
    assert "Holm" in section.gain_note


def test_asof_segments_have_a_table_where_some_record_knows_them(study: Path, write: Write) -> None:
    title = "Activity before the row"
    section = make_section(RecordFolder.load(study), "d")
    assert title not in [table.title for table in section.tables["gauc"]], "an earlier version"
    path = next(study.glob("d-Base-1-*.json"))
    content = json.loads(path.read_text())
    content["segments"]["asof_5"] = {**content["segments"]["all"], "gauc": 0.81}
    path.write_text(json.dumps(content))
    section = make_section(RecordFolder.load(study), "d")
    table = next(table for table in section.tables["gauc"] if table.title == title)
    assert list(table.columns)[1::5] == ["fifth 1 (least)", "fewer than 5"]
    assert table.rows["Base"][5] == "0.8100"


def test_ablations_and_sweeps_have_a_table_of_their_own(study: Path, write: Write) -> None:
    about = {"kind": "ablation", "row_of": "ChoirRec", "sweep": None}
    write("ChoirRec w/o margin".replace("/", "_"), 1, 0.5, row=about)
    write("Base", 5, 0.9, role="superseded")
    folder = RecordFolder.load(study)
    assert folder.n_left_out == 2
    section = make_section(folder, "d")
    *main, last = section.tables["gauc"]
    assert all("ChoirRec w_o margin" not in table.rows for table in main)
    assert (last.title, list(last.rows)) == (
        "Ablations and sweeps",
        ["Base", "ChoirRec w_o margin"],
    )
    gain = next(plot for plot in section.plots if plot.name == "gain")
    assert "ChoirRec w_o margin" not in gain.series


def test_a_table_that_no_run_has_read_is_refused(
    study: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    assert main(["report", str(study), "--out", str(out), "--semantic", str(table)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected a table that runs in" in error
    assert "(fingerprints: f00d), got" in error
    assert not out.exists()


def test_empty_folder_and_folder_as_page_are_one_line(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for records, out in ((empty, tmp_path / "r.html"), (study, tmp_path)):
        assert main(["report", str(records), "--out", str(out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_map_shows_users_with_a_group_and_is_the_same_again(table: Path) -> None:
    loaded = SemanticTable.load(table)
    users = loaded.users.table.to_pandas()
    plot, notes = of_table.group_map(table, loaded, users)
    assert plot is not None
    assert notes == []
    assert len(plot.frame) == 39
    assert "u0" not in set(plot.frame["user"])
    assert plot.series == ["group 1", "group 0"], "the larger group comes first"
    assert plot.frame.set_index("user").loc["u2", "text"] == "user u2, group 0<br>likes u2"
    again, _ = of_table.group_map(table, loaded, users)
    assert again is not None
    pd.testing.assert_frame_equal(plot.frame, again.frame)


def test_more_users_than_the_map_holds_are_drawn_by_seed(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_table, "MAX_USERS", 20)
    loaded = SemanticTable.load(table)
    plot, _ = of_table.group_map(table, loaded, loaded.users.table.to_pandas())
    assert plot is not None
    assert len(plot.frame) == 20
    assert plot.caption.startswith("20 of 39 users drawn by seed 0")


def test_a_table_without_vectors_or_profiles_says_so(table: Path) -> None:
    (table / "profiles.jsonl").unlink()
    loaded = SemanticTable.load(table)
    plots, notes = of_table.plots_of_table(table, loaded)
    assert [plot.name for plot in plots] == ["map", "sizes"]
    assert notes == ["group map: table holds no profiles; the hover names the group's attributes"]
    assert "20 users: age old" in set(plots[0].frame["text"].str.split("<br>").str[1])
    np.save(table / "embeddings.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(TableError, match=r"expected a vector for each of 40 users, got \(3, 2\)"):
        of_table.plots_of_table(table, loaded)
    (table / "embeddings.npy").unlink()
    plots, notes = of_table.plots_of_table(table, loaded)
    assert [plot.name for plot in plots] == ["sizes"]
    assert notes == ["group map: table holds no embeddings.npy"]
