"""Items of a semantic table: leaks first, then form, reuse, quality and new items."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recbole_choir.data.table.semantic_table import SemanticTable
from recbole_choir.errors import DataError, TableError
from recbole_choir.semantic import (
    assign,
    assign_items,
    build,
    build_prepared,
    load_recipe,
    prepare_frames,
    prepared_key,
    table_key,
)
from recbole_choir.semantic.frames import canonical
from recbole_choir.semantic.frames.fingerprint import fingerprint_frames
from recbole_choir.semantic.frames.frames import ITEM_ID, USER_ID, Frames
from recbole_choir.semantic.groups import users as grouping
from recbole_choir.semantic.items import make_item_input
from recbole_choir.semantic.items.base import ItemVectors
from recbole_choir.semantic.items.source import ItemSource, item_identity, report_of
from recbole_choir.semantic.quantizers import points as distinct_vectors
from recbole_choir.semantic.quantizers.base import load_quantizer
from recbole_choir.semantic.quantizers.points import DistinctVectors
from recbole_choir.semantic.quantizers.rqvae import RQVAE
from recbole_choir.semantic.table import builder
from recbole_choir.semantic.table.writer import read_manifest
from recbole_choir.settings.recipe import ItemRecipe, Recipe
from recbole_choir.table_format import CODEBOOKS, ITEM_CODEBOOKS, ITEM_VECTORS, ITEMS

Frame = pd.DataFrame
DAY = 86_400.0
TIMES = [40 * DAY, 80 * DAY, 120 * DAY]

RQVAE_SIZES = {"latent": 3, "hidden": [8], "epochs": 3, "warm_epochs": 1}
RECIPE: dict[str, Any] = {
    "input": "behaviour", "svd_dim": 4, "n_clusters": 2, "min_members": 4, "snapshot_times": TIMES,
    "rqvae": RQVAE_SIZES,
    "items": {"input": "text", "n_clusters": 3, "n_levels": 2, "min_members": 4},
}  # fmt: skip


class FakeItems:
    """Words of the title, and how often an item was chosen: three facts of known origin.

    Items of the category "hidden" are not valid.
    """

    transforms: ClassVar[list[float]] = []  # times of the frames that were transformed
    fits: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = None
        self._mean = 0.0

    def fit(self, frames: Frames) -> FakeItems:
        type(self).fits.append(frames.time)
        self._mean = float(self._counts(frames).mean())
        self.report = {"hit_rate": {"before": 0.25, "after": 0.5}, "events": len(frames.positives)}
        return self

    def transform(self, frames: Frames) -> ItemVectors:
        type(self).transforms.append(frames.time)
        counts = self._counts(frames)
        number = frames.items[ITEM_ID].str[1:].astype(int).to_numpy()
        x = np.stack([number % 5, number // 5, np.log1p(counts) - self._mean], axis=1)
        valid = ~frames.items["category"].map(lambda c: "hidden" in c).to_numpy(bool)
        return ItemVectors(frames.items[ITEM_ID].to_numpy(object), x.astype(np.float32), valid)

    def _counts(self, frames: Frames) -> np.ndarray:
        index = pd.Index(frames.items[ITEM_ID])
        return np.bincount(
            index.get_indexer(pd.Index(frames.positives[ITEM_ID])), minlength=len(index)
        )


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeItems]:
    FakeItems.transforms, FakeItems.fits = [], []
    monkeypatch.setattr(builder, "make_item_input", lambda recipe, encoder, progress: FakeItems())
    return FakeItems


def make_frames(n_users: int = 40, n_events: int = 500) -> tuple[Frame, Frame, Frame]:
    rng = np.random.default_rng(0)
    user = rng.integers(0, n_users - 2, n_events)
    item = rng.integers(0, 12, n_events) + 12 * (user % 2)
    interactions = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in user],
            "item_id": [f"i{i:02d}" for i in item],
            "timestamp": rng.integers(0, 160, n_events) * DAY,  # some fall on a snapshot's time
            "label": (rng.random(n_events) < 0.7).astype(int),
        }
    )
    users = pd.DataFrame({"user_id": [f"u{u:02d}" for u in range(n_users)], "job": "cook"})
    items = pd.DataFrame(
        {
            "item_id": [f"i{i:02d}" for i in range(30)],
            "title": [f"Thing {i}" for i in range(30)],
            "category": [["hidden"] if i == 29 else ["tools"] for i in range(30)],
        }
    )
    return interactions, users, items


INTERACTIONS, USERS, ITEM_FRAME = make_frames()


def built(out: Path, interactions: Frame = INTERACTIONS, **changes: Any) -> Path:
    recipe = load_recipe(RECIPE, changes)
    return build(interactions, USERS, ITEM_FRAME, recipe, out, show_progress=False)


def items_of(table: Path, snapshot: int | None = None) -> list[dict[str, Any]]:
    """Rows of items.parquet with the vectors themselves."""
    vectors = np.load(table / ITEM_VECTORS)
    rows = pq.read_table(table / ITEMS).to_pylist()
    for row in rows:
        row["vector"] = vectors[row["vector"]].tolist() if row["vector"] >= 0 else None
    return [r for r in rows if snapshot in (None, r["snapshot"])]


class TestNothingLeaks:
    @pytest.mark.parametrize("quantizer", ["rqvae", "rqkmeans"])
    @pytest.mark.parametrize("codebooks", ["once", "per_snapshot"])
    def test_events_at_or_after_a_snapshot_change_nothing_in_it(
        self, tmp_path: Path, quantizer: str, codebooks: str
    ) -> None:
        changes = {"items": {"quantizer": quantizer}, "codebooks": codebooks}
        whole = built(tmp_path / "whole", **changes)
        for index, moment in list(enumerate(TIMES, 1))[:2]:
            assert (INTERACTIONS["timestamp"] == moment).any()
            early = INTERACTIONS[INTERACTIONS["timestamp"] < moment]
            cut = built(tmp_path / f"cut{index}", early, **changes)
            assert items_of(cut, index) == items_of(whole, index)
            assert len(items_of(cut, index)) == len(ITEM_FRAME)

    def test_labels_of_later_rows_change_nothing(self, tmp_path: Path) -> None:
        flipped = INTERACTIONS.copy()
        late = flipped["timestamp"] >= TIMES[1]
        flipped.loc[late, "label"] = 1 - flipped.loc[late, "label"]
        a, b = built(tmp_path / "a"), built(tmp_path / "b", flipped)
        assert items_of(a, 1) == items_of(b, 1)
        assert items_of(a, 2) == items_of(b, 2)
        assert items_of(a, 3) != items_of(b, 3)

    @pytest.mark.parametrize("codebooks", ["once", "per_snapshot"])
    def test_users_learn_from_item_vectors_fitted_no_later_than_themselves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codebooks: str
    ) -> None:
        seen: list[tuple[float, bytes]] = []
        make_input = grouping.make_input

        def spy(recipe: Recipe, *args: Any, item_vectors: Any, **kwargs: Any) -> Any:
            source = make_input(recipe, *args, **kwargs)
            transform = source.transform

            def both(frames: Frames) -> Any:
                seen.append((frames.time, item_vectors(frames).x.tobytes()))
                return transform(frames)

            source.transform = both  # type: ignore[method-assign]
            return source

        monkeypatch.setattr(grouping, "make_input", spy)
        built(tmp_path / "t", codebooks=codebooks)
        assert [time for time, _ in seen] == TIMES
        frames = prepare_frames(INTERACTIONS, USERS, ITEM_FRAME).frames
        for index, (time, x) in enumerate(seen):
            fitted = TIMES[0] if codebooks == "once" else TIMES[index]
            expected = FakeItems().fit(frames.before(fitted)).transform(frames.before(time))
            assert np.where(expected.valid[:, None], expected.x, 0).tobytes() == x


class TestForm:
    def test_files_manifest_and_the_reader_agree(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t")
        rows = pq.read_table(out / ITEMS)
        assert rows.column_names == [
            "snapshot", "item_id", "code_1", "code_2", "group_id", "vector",
        ]  # fmt: skip
        assert [str(rows.schema.field(n).type) for n in ("snapshot", "code_1", "vector")] == [
            "int32"
        ] * 3
        manifest = read_manifest(out)
        assert manifest["item_n_levels"] == 2
        assert manifest["item_n_clusters"] == [3, 3]
        vectors = np.load(out / ITEM_VECTORS)
        assert vectors.dtype == np.float32
        assert manifest["sizes"]["items"] == len(rows) == 3 * 30
        assert manifest["sizes"]["item_vectors"] == len(vectors)
        assert manifest["inputs"]["items"]["rows"] == 30
        assert {ITEMS, ITEM_VECTORS, ITEM_CODEBOOKS, CODEBOOKS} <= set(manifest["files"])
        table = SemanticTable.load(out)
        assert table.items is not None
        assert table.items.n_codes == [3, 3]
        np.testing.assert_array_equal(table.items.vectors, vectors)

    def test_clusters_are_the_deepest_prefixes_with_enough_members(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t")
        levels = set()
        for snapshot in (1, 2, 3):
            rows = items_of(out, snapshot)
            names = [[f"{r['code_1']}", f"{r['code_1']}-{r['code_2']}"] for r in rows]
            for row, (top, full) in zip(rows, names, strict=True):
                if row["item_id"] == "i29":  # nothing is known of it
                    assert (row["code_1"], row["group_id"], row["vector"]) == (-1, None, None)
                    continue
                fits = sum(n[1] == full for n in names) >= 4
                assert row["group_id"] == (full if fits else top)
                levels.add(fits)
        assert levels == {True, False}

    def test_codes_are_those_of_the_saved_quantizer(self, tmp_path: Path) -> None:
        for kind in ("rqvae", "rqkmeans"):
            out = built(tmp_path / kind, items={"quantizer": kind})
            quantizer = load_quantizer(out / ITEM_CODEBOOKS)
            assert isinstance(quantizer, RQVAE) == (kind == "rqvae")
            rows = [r for r in items_of(out) if r["vector"] is not None]
            codes = quantizer.encode(np.array([r["vector"] for r in rows], np.float32))
            assert codes.tolist() == [[r["code_1"], r["code_2"]] for r in rows]

    def test_a_vector_is_stored_once(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t")
        vectors = np.load(out / ITEM_VECTORS)
        assert len(np.unique(vectors, axis=0)) == len(vectors)
        rows = pq.read_table(out / ITEMS).to_pandas()
        assert set(rows["vector"]) == {-1, *range(len(vectors))}
        # items that nobody ever chose keep their vector
        silent = rows[rows["item_id"].isin(["i25", "i28"])].groupby("item_id")["vector"]
        assert silent.nunique().tolist() == [1, 1]
        busy = rows[rows["item_id"] == "i00"]["vector"]
        assert busy.nunique() == 3

    def test_users_may_have_an_rqvae_too(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t", quantizer="rqvae")
        assert isinstance(load_quantizer(out / CODEBOOKS), RQVAE)
        users = pq.read_table(out / "users.parquet").to_pandas()
        assert users["group_id"].notna().any()

    def test_a_recipe_without_items_makes_none(self, tmp_path: Path, fake: type[FakeItems]) -> None:
        out = built(tmp_path / "t", items=None)
        assert not (out / ITEMS).exists()
        assert "item_n_clusters" not in read_manifest(out)
        assert fake.fits == []

    def test_nothing_to_describe_items_by(self, tmp_path: Path) -> None:
        hidden = ITEM_FRAME.assign(category=[["hidden"]] * 30)
        with pytest.raises(DataError, match=r"snapshot 1: expected items .*items\.input text"):
            build(INTERACTIONS, USERS, hidden, RECIPE, tmp_path / "t", show_progress=False)
        assert not (tmp_path / "t").exists()


class TestSameInSameOut:
    def test_shuffled_frames_give_the_same_table(self, tmp_path: Path) -> None:
        a = built(tmp_path / "a" / "t")
        shuffled = [f.sample(frac=1, random_state=5) for f in (INTERACTIONS, USERS, ITEM_FRAME)]
        b = build(*shuffled, RECIPE, tmp_path / "b" / "t", show_progress=False)
        for name in (ITEMS, ITEM_VECTORS, "users.parquet", "quality.json", "quality.txt"):
            assert (a / name).read_bytes() == (b / name).read_bytes(), name
        assert read_manifest(a)["fingerprint"] == read_manifest(b)["fingerprint"]

    def test_a_killed_build_goes_on_where_it_was(
        self, tmp_path: Path, fake: type[FakeItems], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = built(tmp_path / "elsewhere" / "t")
        fake.fits, fake.transforms = [], []
        with monkeypatch.context() as patch:

            def killed(*args: Any, **kwargs: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(builder, "group_users", killed)
            with pytest.raises(KeyboardInterrupt):
                built(tmp_path / "t")
        assert (fake.fits, fake.transforms) == ([TIMES[0]], TIMES)
        with monkeypatch.context() as patch:
            patch.setattr(RQVAE, "fit", lambda self, x: pytest.fail("trained again"))
            out = built(tmp_path / "t")
        assert (fake.fits, fake.transforms) == ([TIMES[0]], TIMES)  # nothing twice
        for name in (ITEMS, ITEM_VECTORS, "users.parquet", "quality.json", "quality.txt"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name

    def test_other_groups_of_users_share_the_item_vectors(
        self, tmp_path: Path, fake: type[FakeItems]
    ) -> None:
        built(tmp_path / "a")
        n = len(fake.transforms)
        other = {"seed": 0, "n_clusters": 3, "items": {"min_members": 2, "quantizer": "rqkmeans"}}
        built(tmp_path / "b", **other)
        assert len(fake.transforms) == n
        built(tmp_path / "c", items={"statistics": False})
        assert len(fake.transforms) == 2 * n

    def test_a_damaged_vector_file_is_made_anew(
        self, tmp_path: Path, fake: type[FakeItems], caplog: pytest.LogCaptureFixture
    ) -> None:
        first = items_of(built(tmp_path / "a"))
        n = len(fake.transforms)
        kept = sorted((tmp_path / ".embeddings" / "items").glob("*.safetensors"))
        assert len(kept) == 3
        damaged = bytearray(kept[0].read_bytes())
        damaged[-3] ^= 1
        kept[0].write_bytes(bytes(damaged))
        assert items_of(built(tmp_path / "b", top_categories=9)) == first
        assert len(fake.transforms) == n + 1
        assert "made again" in caplog.text

    def test_frames_are_prepared_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        describe = canonical.describe_inputs
        monkeypatch.setattr(canonical, "describe_inputs", lambda f: calls.append(1) or describe(f))
        prepared = prepare_frames(INTERACTIONS, USERS, ITEM_FRAME)
        key = prepared_key(prepared, RECIPE)
        out = build_prepared(prepared, RECIPE, tmp_path / "t", show_progress=False)
        assert calls == [1]
        assert read_manifest(out)["key"] == key
        assert table_key(INTERACTIONS, USERS, ITEM_FRAME, RECIPE) == key


class TestItemSource:
    FRAMES = prepare_frames(INTERACTIONS, USERS, ITEM_FRAME).frames

    def source(self, folder: Path | None = None, **identity: Any) -> ItemSource:
        return ItemSource(FakeItems, identity, folder)

    def test_it_must_be_told_what_to_fit_on(self) -> None:
        with pytest.raises(DataError, match="call fit first"):
            self.source().transform(self.FRAMES)

    def test_vectors_of_the_last_moment_are_at_hand(self, fake: type[FakeItems]) -> None:
        source = self.source().fit(self.FRAMES.before(TIMES[0]))
        first = source.transform(self.FRAMES.before(TIMES[1]))
        assert source.transform(self.FRAMES.before(TIMES[1])) is first
        source.fit(self.FRAMES.before(TIMES[0]))  # the same again
        assert source.transform(self.FRAMES.before(TIMES[1])) is first
        source.fit(self.FRAMES.before(TIMES[1]))
        assert source.transform(self.FRAMES.before(TIMES[1])) is not first
        assert fake.fits == TIMES[:2]

    def test_keys_of_what_is_kept(self, tmp_path: Path, fake: type[FakeItems]) -> None:
        def made(source: ItemSource, fitted: float, at: float) -> int:
            fake.transforms = []
            source.fit(self.FRAMES.before(fitted)).transform(self.FRAMES.before(at))
            return len(fake.transforms)

        assert made(self.source(tmp_path, a=1), TIMES[0], TIMES[1]) == 1
        assert made(self.source(tmp_path, a=1), TIMES[0], TIMES[1]) == 0
        assert made(self.source(tmp_path, a=2), TIMES[0], TIMES[1]) == 1
        assert made(self.source(tmp_path, a=1), TIMES[1], TIMES[1]) == 1
        assert made(self.source(tmp_path, a=1), TIMES[0], TIMES[2]) == 1
        assert made(self.source(None, a=1), TIMES[0], TIMES[1]) == 1

    def test_two_that_want_the_same_at_once_make_it_once(
        self, tmp_path: Path, fake: type[FakeItems]
    ) -> None:
        sources = [self.source(tmp_path).fit(self.FRAMES.before(TIMES[0])) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda s: s.transform(self.FRAMES.before(TIMES[1])), sources))
        assert fake.transforms == [TIMES[1]]
        for other in made[1:]:
            np.testing.assert_array_equal(made[0].x, other.x)
        assert len({str(source.report) for source in sources}) == 1

    def test_another_picture_under_the_same_path_is_another_item(
        self, tmp_path: Path, fake: type[FakeItems]
    ) -> None:
        picture = tmp_path / "p.png"
        picture.write_bytes(b"red")
        pictured = ITEM_FRAME.assign(image=[str(picture), *[None] * 29])
        recipe = load_recipe(RECIPE, {"items": {"image_field": "image"}})

        def made() -> tuple[int, str]:
            n = len(fake.transforms)
            frames = prepare_frames(INTERACTIONS, USERS, pictured).frames
            source = ItemSource(FakeItems, {}, tmp_path, "image").fit(frames)
            source.transform(frames)
            return len(fake.transforms) - n, table_key(INTERACTIONS, USERS, pictured, recipe)

        first, again = made(), made()
        assert (first[0], again[0]) == (1, 0)
        assert first[1] == again[1]
        picture.write_bytes(b"blue")
        assert made()[0] == 1
        assert made()[1] != first[1]
        plain = load_recipe(recipe, {"items": {"image_field": None}})
        assert table_key(INTERACTIONS, USERS, pictured, plain) != first[1]

    def test_the_report_comes_with_kept_vectors(self, tmp_path: Path) -> None:
        reports = []
        for _ in range(2):
            source = self.source(tmp_path).fit(self.FRAMES.before(TIMES[0]))
            assert source.report is None
            source.transform(self.FRAMES.before(TIMES[0]))
            reports.append(source.report)
        assert reports[0] == reports[1]
        assert reports[0] is not None
        assert reports[0]["hit_rate"] == {"before": 0.25, "after": 0.5}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda v: v._replace(item_ids=v.item_ids[::-1]), "the 30 items in their order"),
            (lambda v: v._replace(x=v.x[:3]), "the 30 items in their order"),
            (lambda v: v._replace(x=v.x * np.float32(np.nan)), "nan or inf for 30 items"),
        ],
    )
    def test_an_input_that_breaks_its_word(
        self, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
    ) -> None:
        transform = FakeItems.transform
        monkeypatch.setattr(FakeItems, "transform", lambda self, f: change(transform(self, f)))
        with pytest.raises(DataError, match=message):
            self.source().fit(self.FRAMES).transform(self.FRAMES)

    def test_identity_of_vectors(self) -> None:
        base = load_recipe("akt")
        same = [
            {"input": "random"}, {"n_clusters": 9}, {"rqvae": {"latent": 2}}, {"n_snapshots": 2},
            {"items": {"n_clusters": 4}}, {"items": {"quantizer": "rqkmeans"}},
        ]  # fmt: skip
        other = [
            {"items": {"input": "random"}}, {"items": {"alignment": {"dim": 8}}}, {"seed": 1},
            {"truncate_dim": 8}, {"items": {"statistics": False}}, {"svd_dim": 3},
        ]  # fmt: skip
        for change in same:
            assert item_identity(load_recipe(base, change), None) == item_identity(base, None)
        for change in other:
            assert item_identity(load_recipe(base, change), None) != item_identity(base, None)

    def test_reports_are_plain_values(self) -> None:
        @dataclass
        class Figures:
            loss: tuple[float, float] = (1.0, float("nan"))
            hits: Any = 0
            seconds: float = 3.0

        class Source:
            def __init__(self, **values: Any) -> None:
                self.__dict__ |= values

        assert report_of(Source(diagnostics=Figures(hits=np.float32(0.5)))) == {
            "loss": [1.0, None],
            "hits": 0.5,
        }
        assert report_of(Source(report={}, diagnostics=None)) is None
        assert report_of(Source(report={"a": {"b": 1}})) == {"a": {"b": 1}}
        assert report_of(object()) is None


def test_fingerprint_of_frames() -> None:
    frames = prepare_frames(INTERACTIONS, USERS, ITEM_FRAME).frames
    again = prepare_frames(INTERACTIONS.sample(frac=1, random_state=1), USERS, ITEM_FRAME).frames
    assert fingerprint_frames(frames) == fingerprint_frames(again)
    others = [
        frames.before(TIMES[0]),
        Frames(frames.interactions.iloc[1:], frames.users, frames.items),
        Frames(frames.interactions.assign(label=1), frames.users, frames.items),
        Frames(frames.interactions, frames.users.iloc[1:], frames.items),
        Frames(frames.interactions, frames.users, frames.items.assign(title="x")),
    ]
    assert len({fingerprint_frames(f) for f in (frames, *others)}) == 6
    # what an event says, not where the boundary between two ids lies
    a = pd.DataFrame({USER_ID: ["a", "b"], ITEM_ID: ["x", "y"], "timestamp": 0.0, "label": 1})
    b = a.assign(user_id=["b", "a"])
    people, things = pd.DataFrame({USER_ID: ["a", "b"]}), pd.DataFrame({ITEM_ID: ["x", "y"]})
    assert fingerprint_frames(Frames(a, people, things)) != fingerprint_frames(
        Frames(b, people, things)
    )


class TestDistinctVectors:
    @settings(max_examples=50, deadline=None)
    @given(
        blocks=st.lists(
            arrays(np.float32, st.tuples(st.integers(0, 12), st.just(2)),
                   elements=st.integers(-2, 2).map(float)),
            min_size=1, max_size=4,
        ),
        collide=st.booleans(),
    )  # fmt: skip
    def test_as_a_dictionary_does_it(self, blocks: list[np.ndarray], collide: bool) -> None:
        store, rows, seen = DistinctVectors(), [], []
        digests = distinct_vectors.row_digests
        if collide:  # all vectors of one digest: what must never happen still loses nothing
            distinct_vectors.row_digests = lambda x: np.zeros(len(x), np.uint64)
        try:
            for block in blocks:
                rows += store.add(block).tolist()
                seen += (block + 0.0).tolist()
        finally:
            distinct_vectors.row_digests = digests
        stored = store.stored(2).tolist()
        assert [stored[r] for r in rows] == seen
        assert {tuple(s) for s in stored} == {tuple(s) for s in seen}
        if not collide:
            assert stored == [list(s) for s in dict.fromkeys(map(tuple, seen))]

    def test_nothing(self) -> None:
        assert DistinctVectors().stored(3).shape == (0, 3)
        assert DistinctVectors().add(np.zeros((0, 3))).tolist() == []


class TestQuality:
    def test_report_by_a_second_count(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t", quantizer="rqvae")
        report = json.loads((out / "quality.json").read_text())
        assert report["inputs"]["items"]["hit_rate"] == {"before": 0.25, "after": 0.5}
        assert report["inputs"]["users"] is None
        assert report["items"]["vectors"] == len(np.load(out / ITEM_VECTORS))
        for part in report["items"]["snapshots"]:
            rows = [r for r in items_of(out, part["index"]) if r["group_id"] is not None]
            codes = [(r["code_1"], r["code_2"]) for r in rows]
            clusters = {r["group_id"] for r in rows}
            assert part["items"] == 30
            assert part["items_with_cluster"] == len(rows) == 29
            assert part["clusters"] == len(clusters)
            assert sum(part["cluster_sizes"].values()) == len(clusters)
            deep = sum("-" in r["group_id"] for r in rows)
            assert part["items_by_level"] == {"0": 1, "1": 29 - deep, "2": deep}
            used = [[len({c[m] for c in codes}), 3] for m in range(2)]
            assert part["codewords_used"] == used
            assert part["collision_rate"] == sum(codes.count(c) > 1 for c in codes) / 29
        for side, name in (("users", CODEBOOKS), ("items", ITEM_CODEBOOKS)):
            fit = report["codes"][side]
            assert fit["kind"] == "rqvae"
            assert fit.items() >= load_quantizer(out / name).report.items()  # type: ignore[attr-defined]
        first = [r["vector"] for r in items_of(out, 1) if r["vector"] is not None]
        quantizer = load_quantizer(out / ITEM_CODEBOOKS)
        assert report["codes"]["items"]["fitted_on"] == 29
        assert report["codes"]["items"]["reconstruction_error"] == pytest.approx(
            quantizer.reconstruction_error(np.unique(np.array(first, np.float32), axis=0))
        )

    def test_of_k_means_and_as_text(self, tmp_path: Path) -> None:
        out = built(tmp_path / "t", items={"quantizer": "rqkmeans"})
        report = json.loads((out / "quality.json").read_text())
        fit = report["codes"]["items"]
        quantizer = load_quantizer(out / ITEM_CODEBOOKS)
        x = np.array([r["vector"] for r in items_of(out, 1) if r["vector"]], np.float32)
        assert fit["kind"] == "rqkmeans"
        assert fit["codewords"] == [len(book) for book in quantizer.codebooks]
        assert fit["reconstruction_error"] == pytest.approx(quantizer.reconstruction_error(x))
        spread = ((x - x.mean(0)) ** 2).sum(1).mean()
        assert fit["unexplained"] == pytest.approx(fit["reconstruction_error"] / spread, rel=1e-5)
        text = (out / "quality.txt").read_text()
        line = next(row for row in text.splitlines() if row.startswith("items     rqkmeans"))
        assert f"{fit['unexplained']:.1%}" in line
        assert "items' input: hit_rate.after 0.5" in text
        assert "Items, snapshot 3" in text
        assert "items with a cluster 29 of 30" in text


class TestEncoders:
    def test_one_for_both_or_one_of_their_own(self, tmp_path: Path) -> None:
        def encoders(**changes: Any) -> tuple[Any, Any]:
            return builder.make_encoders(load_recipe("akt", changes), tmp_path, "cpu")

        assert encoders(items={"input": "random"}) == (None, None)
        users, of_items = encoders(truncate_dim=8)
        assert users is None
        assert (of_items.model, of_items.truncate_dim) == ("embedded", 8)
        users, of_items = encoders(input="text")
        assert users is of_items
        folder = tmp_path / "model"
        folder.mkdir()
        users, of_items = encoders(input="text", items={"encoder": str(folder)})
        assert (users.model, of_items.model) == ("embedded", str(folder))


class TestAssign:
    def test_items_of_the_table_and_new_ones(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = built(tmp_path / "t", items={"quantizer": "rqkmeans"})
        # i35 is named as i00 .. i04 are, two rows on, and nobody chose it; i30 is hidden
        new = pd.DataFrame(
            {"item_id": ["i35", "i30"], "title": "x", "category": [["tools"], ["hidden"]]}
        )
        given = pd.concat([ITEM_FRAME, new], ignore_index=True)
        bought = pd.DataFrame(
            {"user_id": "u00", "item_id": ["i35"], "timestamp": 1 * DAY, "label": 1}
        )
        got = assign_items(
            table, given, pd.concat([INTERACTIONS, bought]), USERS, time=TIMES[2]
        ).set_index("item_id")
        stored = pq.read_table(table / ITEMS).to_pandas()
        stored = stored[stored["snapshot"] == 3].set_index("item_id")
        columns = ["code_1", "code_2", "group_id"]
        known = stored[columns].fillna("none").astype(str)
        again = got.loc[stored.index, columns].fillna("none").astype(str)
        assert again.to_numpy().tolist() == known.to_numpy().tolist()
        vector = FakeItems()
        frames = prepare_frames(INTERACTIONS, USERS, ITEM_FRAME).frames
        vector.fit(frames.before(TIMES[0]))  # not on the new item's early event
        x = np.array([[35 % 5, 35 // 5, np.log1p(1) - vector._mean]], np.float32)
        code = load_quantizer(table / ITEM_CODEBOOKS).encode(x)[0]
        assert got.loc["i35", ["code_1", "code_2"]].tolist() == code.tolist()
        same = stored[(stored["code_1"] == code[0]) & (stored["code_2"] == code[1])]
        full, top = f"{code[0]}-{code[1]}", f"{code[0]}"
        assert got.loc["i35", "group_id"] == (full if len(same) >= 4 else top)
        assert got.loc["i30", "group_id"] is None
        assert got.loc["i30", "code_1"] == -1

    def test_a_table_without_items(self, tmp_path: Path) -> None:
        table = built(tmp_path / "t", items=None)
        with pytest.raises(TableError, match="expected ids of items, got a table of users alone"):
            assign_items(table, ITEM_FRAME, INTERACTIONS)

    def test_users_with_an_rqvae(self, tmp_path: Path) -> None:
        table = built(tmp_path / "t", quantizer="rqvae")
        got = assign(table, USERS, INTERACTIONS, ITEM_FRAME, time=TIMES[2]).set_index("user_id")
        stored = pq.read_table(table / "users.parquet").to_pandas()
        stored = stored[stored["snapshot"] == 3].set_index("user_id")
        for column in ("code_1", "code_2", "code_3"):
            assert got.loc[stored.index, column].tolist() == stored[column].tolist()

    def test_a_damaged_table(self, tmp_path: Path) -> None:
        table = built(tmp_path / "t")
        (table / ITEMS).write_bytes(b"PAR1")
        with pytest.raises(TableError, match="the table cannot be read"):
            assign_items(table, ITEM_FRAME, INTERACTIONS, USERS)


class TestRealInputs:
    AKT: ClassVar[dict[str, Any]] = {
        **RECIPE, "input": "interest", "quantizer": "rqvae",
        "interest": {"width": 8, "epochs": 1, "length": 5},
        "items": {**RECIPE["items"], "input": "behaviour"},
    }  # fmt: skip

    @pytest.fixture(autouse=True)
    def real(self, fake: type[FakeItems], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(builder, "make_item_input", make_item_input)

    def test_a_whole_table_leaks_nothing_and_assigns_again(self, tmp_path: Path) -> None:
        whole = build(
            INTERACTIONS, USERS, ITEM_FRAME, self.AKT, tmp_path / "a" / "t", show_progress=False
        )
        early = INTERACTIONS[INTERACTIONS["timestamp"] < TIMES[1]]
        cut = build(early, USERS, ITEM_FRAME, self.AKT, tmp_path / "b" / "t", show_progress=False)
        for index in (1, 2):
            assert items_of(cut, index) == items_of(whole, index)
        users = [
            [r for r in pq.read_table(t / "users.parquet").to_pylist() if r["snapshot"] <= 2]
            for t in (whole, cut)
        ]
        assert users[0] == users[1]
        assert len({r["group_id"] for r in users[0]} - {None}) > 1
        report = json.loads((whole / "quality.json").read_text())
        assert report["inputs"]["users"]["epochs"] == 1
        got = assign(whole, USERS, INTERACTIONS, ITEM_FRAME, time=TIMES[2]).set_index("user_id")
        stored = pq.read_table(whole / "users.parquet").to_pandas()
        stored = stored[stored["snapshot"] == 3].set_index("user_id")
        assert got.loc[stored.index, "code_1"].tolist() == stored["code_1"].tolist()

    def test_the_control_has_as_many_codewords(self, tmp_path: Path) -> None:
        changes = {"items": {"input": "random", "n_clusters": None, "n_levels": 1}}
        for name in ("behaviour", "random"):
            changes["items"]["input"] = name
            recipe = load_recipe({**RECIPE, "input": "random"}, changes)
            out = build(
                INTERACTIONS, USERS, ITEM_FRAME, recipe, tmp_path / name, show_progress=False
            )
            assert read_manifest(out)["item_n_clusters"] == [2]  # 30 / 18


def test_item_recipe_of_another_depth_than_users(tmp_path: Path) -> None:
    out = built(tmp_path / "t", items={"n_levels": 1, "n_clusters": [5]})
    assert read_manifest(out)["item_n_clusters"] == [5]
    assert read_manifest(out)["n_clusters"] == [2, 2, 2]
    assert ItemRecipe(n_levels=2, n_clusters=[4, 3]).clusters_for(10) == [4, 3]
