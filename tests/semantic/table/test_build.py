"""The whole offline half: leak tests first, then determinism, reuse, new users and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recbole_choir.errors import ChoirError, ConfigError, DataError
from recbole_choir.semantic import RQKMeans, assign, build, load_recipe, table_key
from recbole_choir.semantic.__main__ import main
from recbole_choir.semantic.frames.canonical import canonical_frames
from recbole_choir.semantic.frames.snapshots import snapshot_times
from recbole_choir.semantic.groups.users import distinct_rows
from recbole_choir.semantic.table.writer import read_manifest
from recbole_choir.settings.recipe import Recipe
from recbole_choir.table_format import CODEBOOKS, MANIFEST

Frame = pd.DataFrame
DAY = 86_400.0
TIMES = [40 * DAY, 80 * DAY, 120 * DAY]

BEHAVIOUR = {
    "input": "behaviour", "svd_dim": 4, "n_clusters": 2, "min_members": 4, "snapshot_times": TIMES,
}  # fmt: skip
RANDOM = {**BEHAVIOUR, "input": "random"}
TEXT = {**BEHAVIOUR, "input": "text"}


def make_frames(n_users: int = 40, n_events: int = 500) -> tuple[Frame, Frame, Frame]:
    """Users of two tastes; some come late or never."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, n_users - 2, n_events)  # the last two never come
    item = rng.integers(0, 12, n_events) + 12 * (user % 2)
    interactions = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in user],
            "item_id": [f"i{i:02d}" for i in item],
            # whole days, so that many rows share a time and some fall on a snapshot's
            "timestamp": rng.integers(0, 160, n_events) * DAY,
            "label": (rng.random(n_events) < 0.7).astype(int),
        }
    )
    users = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in range(n_users)],
            "job": [("cook", "nurse", None)[u % 3] for u in range(n_users)],
            "age": [20.0 + u if u % 4 else np.nan for u in range(n_users)],
        }
    )
    items = pd.DataFrame(
        {
            "item_id": [f"i{i:02d}" for i in range(24)],
            "title": [f"Thing {i}" for i in range(24)],
            "category": [["tools", "garden"] if i < 12 else ["music"] for i in range(24)],
        }
    )
    return interactions, users, items


INTERACTIONS, USERS, ITEMS = make_frames()


def built(out: Path, interactions: Frame = INTERACTIONS, recipe: Any = None, **kwargs: Any) -> Path:
    recipe = BEHAVIOUR if recipe is None else recipe
    return build(interactions, USERS, ITEMS, recipe, out, show_progress=False, **kwargs)


def snapshot_of(table: Path, index: int) -> dict[str, list[dict[str, Any]]]:
    """Everything a row may read of one snapshot."""
    out = {}
    for name in ("users.parquet", "groups.parquet"):
        rows = pq.read_table(table / name).to_pylist()
        out[name] = [r for r in rows if r["snapshot"] == index]
    return out


class TestNothingLeaks:
    @pytest.mark.parametrize("recipe", [BEHAVIOUR, RANDOM], ids=lambda r: r["input"])
    def test_events_at_or_after_a_snapshot_change_nothing_in_it(
        self, tmp_path: Path, recipe: dict[str, Any]
    ) -> None:
        whole = built(tmp_path / "whole", recipe=recipe)
        for index, moment in enumerate(TIMES, 1):
            assert (INTERACTIONS["timestamp"] == moment).any()
            early = INTERACTIONS[INTERACTIONS["timestamp"] < moment]
            cut = built(tmp_path / f"cut{index}", early, recipe)
            assert snapshot_of(cut, index) == snapshot_of(whole, index)
            assert len(snapshot_of(cut, index)["users.parquet"]) == len(USERS)

    def test_a_rows_own_positive_is_in_no_snapshot_it_may_read(self, tmp_path: Path) -> None:
        whole = built(tmp_path / "whole")
        changed_later = 0
        for number, moment in enumerate((40 * DAY, 41 * DAY, 80 * DAY, 95 * DAY)):
            at = (INTERACTIONS["timestamp"] == moment) & (INTERACTIONS["label"] == 1)
            row = INTERACTIONS.index[at][0]
            without = built(tmp_path / f"w{number}", INTERACTIONS.drop(index=row))
            for index, snapshot in enumerate(TIMES, 1):
                same = snapshot_of(without, index) == snapshot_of(whole, index)
                if snapshot <= moment:
                    assert same, (moment, index)
                changed_later += not same
        assert changed_later > 0  # the row does count once it lies in the past

    def test_labels_of_later_rows_change_nothing(self, tmp_path: Path) -> None:
        flipped = INTERACTIONS.copy()
        late = flipped["timestamp"] >= TIMES[1]
        flipped.loc[late, "label"] = 1 - flipped.loc[late, "label"]
        a, b = built(tmp_path / "a"), built(tmp_path / "b", flipped)
        assert snapshot_of(a, 1) == snapshot_of(b, 1)
        assert snapshot_of(a, 2) == snapshot_of(b, 2)
        assert snapshot_of(a, 3) != snapshot_of(b, 3)


class TestSameInSameOut:
    def test_shuffled_frames_give_the_same_bytes(self, tmp_path: Path) -> None:
        a = built(tmp_path / "a")
        shuffled = [f.sample(frac=1, random_state=5) for f in (INTERACTIONS, USERS, ITEMS)]
        b = build(*shuffled, BEHAVIOUR, tmp_path / "b", show_progress=False)
        names = sorted(p.name for p in a.iterdir())
        assert names == sorted(p.name for p in b.iterdir())
        names.remove(CODEBOOKS)  # its header is in no fixed order
        names.remove(MANIFEST)
        manifests = [read_manifest(folder) for folder in (a, b)]
        for manifest in manifests:
            del manifest["seal"]["files"][CODEBOOKS]
        assert manifests[0] == manifests[1]
        for name in names:
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
        ours, theirs = (RQKMeans.load(t / CODEBOOKS).codebooks for t in (a, b))
        assert all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))

    def test_seed_decides(self, tmp_path: Path) -> None:
        prints = [
            read_manifest(built(tmp_path / str(i), recipe={**RANDOM, "seed": seed}))["fingerprint"]
            for i, seed in enumerate((1, 1, 2))
        ]
        assert prints[0] == prints[1] != prints[2]

    def test_same_content_is_reused_and_other_content_is_not(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        out = built(tmp_path / "t")
        before = (out / "users.parquet").stat().st_mtime_ns
        with caplog.at_level("INFO"):
            built(out)
        assert "reused" in caplog.text
        assert (out / "users.parquet").stat().st_mtime_ns == before
        key = read_manifest(out)["key"]
        assert key == table_key(INTERACTIONS, USERS, ITEMS, BEHAVIOUR)
        built(out, INTERACTIONS.iloc[1:])
        assert (out / "users.parquet").stat().st_mtime_ns != before
        assert read_manifest(out)["key"] != key
        other = USERS.assign(job="baker")
        assert table_key(INTERACTIONS, other, ITEMS, BEHAVIOUR) != key

    def test_a_damaged_table_is_built_again(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t")
        whole = (out / "groups.parquet").read_bytes()
        (out / "groups.parquet").write_bytes(whole[:10])
        built(out)
        assert (out / "groups.parquet").read_bytes() == whole


class TestContent:
    def test_form_of_the_table(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t")
        manifest = read_manifest(out)
        assert manifest["user_attributes"] == {"job": "token", "age": "float"}
        assert manifest["n_clusters"] == [2, 2, 2]
        assert [s["time"] for s in manifest["snapshots"]] == TIMES
        assert manifest["inputs"]["users"]["rows"] == len(USERS)
        users = pq.read_table(out / "users.parquet").to_pandas()
        groups = pq.read_table(out / "groups.parquet").to_pandas().set_index("snapshot")
        assert len(users) == 3 * len(USERS)
        for index in (1, 2, 3):
            here = users[users["snapshot"] == index]
            known = groups.loc[[index]].set_index("group_id")
            read = here[here["group_id"].notna()]
            assert set(read["group_id"]) <= set(known.index)
            # the deepest prefix with at least 4 members, or the first level
            for row in read.to_dict("records"):
                codes = [str(row[f"code_{level}"]) for level in (1, 2, 3)]
                prefixes = ["-".join(codes[:level]) for level in (1, 2, 3)]
                fits = [p for p in prefixes if known.loc[p, "size"] >= 4]
                assert row["group_id"] == (fits[-1] if fits else prefixes[0])
            assert known.loc[known["level"] == 1, "size"].sum() == len(read)
        profiles = out / "profiles.jsonl"
        assert not profiles.exists()
        report = json.loads((out / "quality.json").read_text())
        assert report["lift_gauc"][0]["segment"] == "all"
        assert "snapshot" in (out / "quality.txt").read_text().lower()

    def test_groups_of_behaviour_know_taste_and_random_ones_do_not(self, tmp_path: Path) -> None:
        # Two tastes that share no item: with one level and two codewords, behaviour finds them.
        recipe = {**BEHAVIOUR, "n_levels": 1, "min_members": 1}
        users = pq.read_table(built(tmp_path / "t", recipe=recipe) / "users.parquet").to_pandas()
        last = users[(users["snapshot"] == 3) & users["group_id"].notna()]
        taste = last["user_id"].str[1:].astype(int) % 2
        assert len(last) == len(USERS) - 2
        assert last["group_id"].astype(int).groupby(taste).nunique().tolist() == [1, 1]

    def test_users_without_events_have_no_group_by_behaviour(self, tmp_path: Path) -> None:
        users = pq.read_table(built(tmp_path / "t") / "users.parquet").to_pandas()
        silent = users[users["user_id"].isin(["u38", "u39"])]
        assert silent["group_id"].isna().all()
        assert (silent[["code_1", "code_2", "code_3"]] == -1).all(axis=None)

    def test_users_and_items_named_by_interactions_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        out = build(
            INTERACTIONS, USERS.iloc[:10], ITEMS.iloc[:5], BEHAVIOUR, tmp_path / "t",
            show_progress=False,
        )  # fmt: skip
        assert "users: 28 ids occur in the interactions alone" in caplog.text
        assert read_manifest(out)["inputs"]["users"]["rows"] == 38
        nothing = build(INTERACTIONS, None, None, BEHAVIOUR, tmp_path / "n", show_progress=False)
        assert read_manifest(nothing)["user_attributes"] == {}

    def test_inputs_get_equally_many_codewords(self, tmp_path: Path) -> None:
        # 40 users, two of which behaviour cannot place: (40 / 20)^(1 / 1) = 2
        for name in ("behaviour", "random"):
            recipe = {**BEHAVIOUR, "input": name, "n_clusters": None, "n_levels": 1}
            out = built(tmp_path / name, recipe=recipe)
            assert read_manifest(out)["n_clusters"] == [2]

    def test_a_level_may_be_fixed(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t", recipe={**BEHAVIOUR, "agg_level": 2})
        groups = pq.read_table(out / "users.parquet").to_pandas()["group_id"].dropna()
        assert groups.str.count("-").eq(1).all()


class TestText:
    """With the real encoder on a few dozen short texts."""

    @pytest.fixture(scope="class")
    def table(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return built(tmp_path_factory.mktemp("text") / "t", recipe=TEXT)

    def test_unseen_users_get_a_group_from_their_attributes(self, table: Path) -> None:
        users = pq.read_table(table / "users.parquet").to_pandas()
        first = users[users["snapshot"] == 1].set_index("user_id")
        assert first.loc["u39", "group_id"] is not None  # age 59
        # Of u08 neither attributes nor an early event are known: the only one without a group.
        assert first.index[first["group_id"].isna()].tolist() == ["u08"]

    def test_profiles_are_kept_once_while_they_stay_the_same(self, table: Path) -> None:
        lines = (table / "profiles.jsonl").read_text("utf-8").splitlines()
        profiles = pd.DataFrame([json.loads(line) for line in lines])
        silent = profiles[profiles["user_id"] == "u38"]
        assert silent["text"].tolist() == ["Identity: age 58."]
        assert silent["snapshot"].tolist() == [1]
        busy = profiles[profiles["user_id"] == "u00"]
        assert busy["text"].is_unique
        assert "garden" in busy["text"].iloc[-1]

    def test_leak(self, table: Path, tmp_path: Path) -> None:
        early = INTERACTIONS[INTERACTIONS["timestamp"] < TIMES[1]]
        cut = built(tmp_path / "cut", early, TEXT, cache_dir=table.parent / ".embeddings")
        assert snapshot_of(cut, 2) == snapshot_of(table, 2)

    def test_assign_repeats_the_table_and_places_new_users(self, table: Path) -> None:
        users = pd.concat(
            [USERS, pd.DataFrame({"user_id": ["zz", "zy"], "job": ["cook", None]})],
            ignore_index=True,
        )
        got = assign(table, users, INTERACTIONS, ITEMS, time=TIMES[2]).set_index("user_id")
        stored = pq.read_table(table / "users.parquet").to_pandas()
        stored = stored[stored["snapshot"] == 3].set_index("user_id")
        columns = ["code_1", "code_2", "code_3", "group_id"]
        pd.testing.assert_frame_equal(
            got.loc[stored.index, columns].astype(object), stored[columns].astype(object)
        )
        groups = pq.read_table(table / "groups.parquet").to_pandas()
        existing = set(groups.loc[groups["snapshot"] == 3, "group_id"])
        assert got.loc["zz", "group_id"] in existing
        assert got.loc["zy", "group_id"] is None  # nothing is known of this one
        assert got.loc["zy", "code_1"] == -1


def test_assign_by_behaviour_repeats_the_table(tmp_path: Path) -> None:
    table = built(tmp_path / "t")
    new = pd.DataFrame(
        {"user_id": "zz", "item_id": ["i00", "i01"], "timestamp": 100 * DAY, "label": 1}
    )
    got = assign(table, USERS, pd.concat([INTERACTIONS, new]), ITEMS, time=TIMES[2])
    got = got.set_index("user_id")
    stored = pq.read_table(table / "users.parquet").to_pandas()
    stored = stored[stored["snapshot"] == 3].set_index("user_id")
    assert got.loc[stored.index, "code_1"].tolist() == stored["code_1"].tolist()
    # The new user likes what even users like, and lands among them.
    assert got.loc["zz", "code_1"] == stored.loc["u00", "code_1"]


class TestSnapshotTimes:
    def test_equal_steps_by_hand(self) -> None:
        times = snapshot_times(np.arange(1.0, 11.0), Recipe(n_snapshots=4))
        # Order statistics at 1/4, 1/2, 3/4 of 0..9: positions 2.25, 4.5, 6.75, rounded up.
        assert times.tolist() == [4.0, 6.0, 8.0, np.nextafter(10.0, np.inf)]

    def test_equal_stamps_join_and_empty_snapshots_drop(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        times = snapshot_times(np.full(9, 5.0), Recipe(n_snapshots=4))
        assert times.tolist() == [np.nextafter(5.0, np.inf)]
        assert "1 of 4 snapshots are left" in caplog.text

    def test_explicit(self) -> None:
        recipe = Recipe(snapshot_times=[1.0, 2.0])
        assert snapshot_times(np.arange(9.0), recipe).tolist() == [1.0, 2.0]


class TestRecipe:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"inptu": "text"}, r"unknown key 'inptu' \(did you mean 'input'\?\)"),
            ({"n_clusters": [2, 3]}, r"expected one number per level \(3\), got 2"),
            ({"n_clusters": 0}, "expected numbers of at least 1"),
            ({"agg_level": 4}, r"expected 'backoff' or 1\.\.3, got 4"),
            ({"windows_days": [30, 7]}, "the shorter first"),
            ({"snapshot_times": [2, 1]}, "increasing order"),
            ({"input": "texd"}, "'text'"),
        ],
    )
    def test_mistakes_are_one_line(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            load_recipe(fields)
        assert "\n" not in str(caught.value)

    def test_names_paths_and_overrides(self, tmp_path: Path) -> None:
        assert load_recipe("embedded") == Recipe()
        assert load_recipe("behaviour", {"seed": 3}).seed == 3
        path = tmp_path / "mine.yaml"
        path.write_text("input: random\n")
        assert load_recipe(path).input == "random"
        with pytest.raises(ConfigError, match=r"did you mean 'behaviour'\?"):
            load_recipe("behavior")
        path.write_text("input: [")
        with pytest.raises(ConfigError, match="not YAML"):
            load_recipe(path)
        path.write_text("- text")
        with pytest.raises(ConfigError, match="key: value"):
            load_recipe(path)

    def test_clusters_for_groups_of_twenty(self) -> None:
        sizes = [Recipe().clusters_for(n)[0] for n in (3, 943, 20_000, 100_000, 1_000_000)]
        assert sizes == [2, 4, 10, 17, 37]

    def test_every_field_of_the_default_is_in_the_yaml(self) -> None:
        from recbole_choir.paths import properties_dir

        text = (properties_dir() / "semantic" / "embedded.yaml").read_text()
        assert all(f"\n{field}:" in text for field in Recipe.model_fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, u, t: (i.drop(columns="timestamp"), u, t), "column 'timestamp'"),
        (lambda i, u, t: (i.rename(columns={"label": "lable"}), u, t), "did you mean 'lable'"),
        (lambda i, u, t: (i.assign(user_id=[None, *i.user_id[1:]]), u, t), "1 missing"),
        (lambda i, u, t: (i.assign(timestamp=[np.nan, *i.timestamp[1:]]), u, t), "finite"),
        (lambda i, u, t: (i.assign(timestamp="noon"), u, t), "expected numbers"),
        (lambda i, u, t: (i.assign(label=5), u, t), "expected 0 or 1, got 5"),
        (lambda i, u, t: (i.assign(user_id=1.0), u, t), "whole numbers, got float64"),
        (lambda i, u, t: (i.iloc[:0], u, t), "at least one row"),
        (lambda i, u, t: (i, pd.concat([u, u.tail(1)]), t), "got 'u39' twice"),
        (lambda i, u, t: (i, u, pd.concat([t, t.tail(1)])), "got 'i23' twice"),
        (lambda i, u, t: (i, u, t.drop(columns="item_id")), "items: expected a column 'item_id'"),
    ],
)
def test_bad_frames_are_one_line_errors(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        build(*change(INTERACTIONS, USERS, ITEMS), BEHAVIOUR, tmp_path / "t", show_progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_no_user_to_group_is_an_error(tmp_path: Path) -> None:
    recipe = {**TEXT, "snapshot_times": [0.0, DAY]}
    with pytest.raises(DataError, match="got none before time 0"):
        build(INTERACTIONS, None, ITEMS, recipe, tmp_path / "t", show_progress=False)


def test_whole_number_attributes_stay_whole_when_users_are_added() -> None:
    users = pd.DataFrame({"user_id": [1, 2], "zone": [7, 8]})
    events = pd.DataFrame({"user_id": [1, 3], "item_id": 5, "timestamp": 0, "label": 1})
    frames = canonical_frames(events, users, None)
    assert frames.users["user_id"].tolist() == ["1", "2", "3"]
    assert frames.users["zone"].tolist() == ["7", "8", None]
    assert frames.items["item_id"].tolist() == ["5"]


def test_distinct_rows() -> None:
    x = np.array([[1, 2], [0, 1], [1, 2], [0, 1], [3, 3]], np.float32)
    assert distinct_rows(x).tolist() == [[1, 2], [0, 1], [3, 3]]


class TestCommandLine:
    def test_build(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        INTERACTIONS.to_csv(tmp_path / "i.csv", index=False)
        USERS.to_csv(tmp_path / "u.csv", index=False)
        items = ITEMS.assign(category=ITEMS["category"].map("|".join))
        items.to_csv(tmp_path / "t.csv", index=False)
        arguments = [
            "build", "--interactions", str(tmp_path / "i.csv"), "--users", str(tmp_path / "u.csv"),
            "--items", str(tmp_path / "t.csv"), "--recipe", "behaviour", "--out",
            str(tmp_path / "t"), "--quiet", "--set", "n_clusters=2", "--set", "svd_dim=4",
            "--set", "min_members=4", "--set", f"snapshot_times={TIMES}",
        ]  # fmt: skip
        assert main(arguments) == 0
        assert "random" in capsys.readouterr().out
        same = built(tmp_path / "frames")
        assert read_manifest(tmp_path / "t")["fingerprint"] == read_manifest(same)["fingerprint"]

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--set", "n_snapshot=2"], "did you mean 'n_snapshots'"),
            (["--set", "seed"], "expected KEY=VALUE"),
            ([], "cannot be read as a table"),
        ],
    )
    def test_mistakes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
    ) -> None:
        arguments = ["build", "--interactions", str(tmp_path / "no.csv"), "--out", str(tmp_path)]
        assert main([*arguments, *extra]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(["build", "--help"])
        assert stop.value.code == 0
        assert "--category-separator" in capsys.readouterr().out


def test_names_load_lazily() -> None:
    root = Path(__file__).parents[3]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from recbole_choir.semantic import Recipe, RQKMeans, load_recipe\n"
        "sys.exit('sentence_transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name() -> None:
    import recbole_choir.semantic as semantic

    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = semantic.biuld
    assert all(hasattr(semantic, name) for name in semantic.__all__)
    assert issubclass(DataError, ChoirError)
