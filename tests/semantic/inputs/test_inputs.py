"""Grouping inputs: leak tests first, then values by hand, invariances, edge cases, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.inputs import (
    BehaviourInput,
    GroupingInput,
    IdEmbeddingInput,
    RandomInput,
    TextInput,
    TextPartsInput,
    behaviour,
    make_input,
)
from recbole_choir.settings.recipe import Recipe


class Words:
    """An encoder whose vectors are set by hand, or drawn from the text."""

    table: ClassVar[dict[str, list[float]]] = {
        "fish": [1, 0, 0], "meat": [0, 1, 0], "trout": [0, 0, 1], "beef": [0, 3, 4],
    }  # fmt: skip

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str], show_progress: bool = True) -> np.ndarray:
        self.asked.extend(texts)
        rows = [
            [0.0] * 3 if not t else self.table.get(t, [len(t), ord(t[0]) - 90, ord(t[-1]) - 90])
            for t in texts
        ]
        x = np.array(rows, np.float64).reshape(-1, 3)
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0).astype(np.float32)


def frames_of(
    events: list[tuple[str, str, float, int]],
    items: dict[str, dict[str, Any]] | None = None,
    users: list[str] | None = None,
    time: float = float("inf"),
) -> Frames:
    interactions = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp", "label"])
    users = users if users is not None else sorted(set(interactions["user_id"]))
    known = items or {i: {"title": f"title {i}"} for i in sorted(set(interactions["item_id"]))}
    return Frames(
        interactions,
        pd.DataFrame({"user_id": users}),
        pd.DataFrame([{"item_id": i, **fields} for i, fields in known.items()]),
        time,
    )


def random_frames(n_users: int = 30, n_items: int = 14, n: int = 400, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    events = [
        (f"u{u:02d}", f"i{i:02d}", float(t), int(y))
        for u, i, t, y in zip(
            rng.integers(n_users - 1, size=n),
            rng.integers(n_items, size=n),
            rng.integers(100, size=n),
            rng.random(n) < 0.6,
            strict=True,
        )
    ]
    items = {
        f"i{i:02d}": {"title": f"thing {i % 9}", "category": ["food", f"kind {i % 4}"]}
        for i in range(n_items)
    }
    return frames_of(events, items, [f"u{u:02d}" for u in range(n_users)])


def titles_of_purchases(frames: Frames) -> pd.Series:
    return frames.positives.groupby("user_id")["item_id"].agg(lambda ids: " ".join(sorted(ids)))


def all_inputs() -> dict[str, GroupingInput]:
    return {
        "text": TextInput(Words(), titles_of_purchases),  # type: ignore[arg-type]
        "text_parts": TextPartsInput(Words()),  # type: ignore[arg-type]
        "behaviour": BehaviourInput(4),
        "random": RandomInput(5),
    }


NAMES = ["text", "text_parts", "behaviour", "random"]


@pytest.mark.parametrize("name", NAMES)
def test_events_at_or_after_the_time_change_nothing(name: str) -> None:
    frames = random_frames()
    later = frames.interactions["timestamp"] >= 60
    changed = frames.interactions.copy()
    changed.loc[later, "label"] = 1 - changed.loc[later, "label"]
    changed.loc[later, "item_id"] = "i00"
    without = frames.interactions[~later]
    got = []
    for interactions in (frames.interactions, changed, without):
        both = Frames(interactions, frames.users, frames.items)
        source = all_inputs()[name].fit(both.before(40))
        got.append(source.transform(both.before(60)))
    for other in got[1:]:
        np.testing.assert_array_equal(got[0].x, other.x)
        np.testing.assert_array_equal(got[0].valid, other.valid)
    if name != "random":  # and earlier ones do
        early = all_inputs()[name].fit(frames.before(40)).transform(frames.before(40))
        assert not np.array_equal(early.x, got[0].x)


@pytest.mark.parametrize("name", NAMES)
def test_negatives_count_for_nothing(name: str) -> None:
    frames = random_frames()
    positives = Frames(frames.positives, frames.users, frames.items)
    a = all_inputs()[name].fit(frames).transform(frames)
    b = all_inputs()[name].fit(positives).transform(positives)
    np.testing.assert_array_equal(a.x, b.x)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_changes_nothing(name: str) -> None:
    frames = random_frames()
    rng = np.random.default_rng(1)
    interactions, users, items = (
        frame.iloc[rng.permutation(len(frame))]
        for frame in (frames.interactions, frames.users, frames.items)
    )
    shuffled = Frames(interactions, users, items)
    a = all_inputs()[name].fit(frames.before(50)).transform(frames)
    b = all_inputs()[name].fit(shuffled.before(50)).transform(shuffled)
    assert b.user_ids.tolist() == users["user_id"].tolist()
    row = pd.Index(b.user_ids).get_indexer(pd.Index(a.user_ids))
    np.testing.assert_array_equal(a.x, b.x[row])
    np.testing.assert_array_equal(a.valid, b.valid[row])


@pytest.mark.parametrize("name", NAMES)
def test_form(name: str) -> None:
    frames = random_frames()
    got = all_inputs()[name].fit(frames).transform(frames)
    assert got.user_ids.tolist() == frames.users["user_id"].tolist()
    assert got.x.dtype == np.float32
    assert got.x.shape[0] == got.valid.shape[0] == 30
    assert np.isfinite(got.x).all()
    silent = got.user_ids.tolist().index("u29")
    assert bool(got.valid[silent]) == (name == "random")
    assert not got.x[~got.valid].any()
    if name != "random":
        np.testing.assert_allclose(np.linalg.norm(got.x[got.valid], axis=1), 1, rtol=1e-5)


class TestTextParts:
    ITEMS: ClassVar[dict[str, dict[str, Any]]] = {
        "a": {"title": "trout", "category": ["fish"]},
        "b": {"title": "beef", "category": ["meat"]},
        "c": {"title": "beef", "category": ["meat", "fish"]},
        "d": {"title": None, "category": []},
    }
    EVENTS: ClassVar[list[tuple[str, str, float, int]]] = [
        ("u", "a", 1, 1), ("u", "a", 2, 1), ("v", "b", 1, 1), ("v", "a", 1, 0), ("w", "c", 1, 1),
    ]  # fmt: skip

    def fitted(self, **options: Any) -> tuple[TextPartsInput, Frames]:
        frames = frames_of(self.EVENTS, self.ITEMS, ["u", "v", "w", "x"])
        return TextPartsInput(Words(), **options).fit(frames), frames  # type: ignore[arg-type]

    def test_by_hand(self) -> None:
        source, frames = self.fitted()
        got = source.transform(frames)
        # of 3 buyers: fish u, w; trout u; meat v, w; beef v, w
        common, rare = np.log(4 / 3), np.log(4 / 2)
        fish, trout, beef = np.eye(3)[0], np.eye(3)[2], np.array([0, 0.6, 0.8])
        meat = np.eye(3)[1]
        u = (np.log(3) * common * fish + np.log(3) * rare * trout) / (np.log(3) * (common + rare))
        v = (meat + beef) / 2
        w = (meat + fish + beef) / 3
        average = np.stack([u, v, w])
        x = average - average.mean(axis=0)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(got.x[:3], x, atol=1e-6)
        assert got.valid.tolist() == [True, True, True, False]

    def test_each_name_is_encoded_once_and_only_if_bought(self) -> None:
        source, frames = self.fitted()
        source.transform(frames)
        source.transform(frames)
        assert sorted(source.encoder.asked) == ["beef", "fish", "meat", "trout"]  # type: ignore[attr-defined]

    def test_idf_and_centre_stay_those_of_the_fit(self) -> None:
        source, frames = self.fitted()
        later = frames_of(
            [*self.EVENTS, *(("y", "b", 5.0, 1), ("z", "b", 5.0, 1))],
            self.ITEMS,
            ["u", "v", "w", "x", "y", "z"],
        )
        np.testing.assert_array_equal(source.transform(later).x[:4], source.transform(frames).x)
        np.testing.assert_array_equal(source.transform(later).x[4], source.transform(later).x[1])

    def test_a_name_first_bought_later_weighs_most(self) -> None:
        source, _ = self.fitted(fields=["title"])
        items = {**self.ITEMS, "e": {"title": "new", "category": []}}
        later = frames_of(
            [*self.EVENTS, ("x", "e", 5.0, 1), ("x", "b", 5.0, 1)], items, ["u", "v", "w", "x"]
        )
        new = Words().encode(["new"])[0].astype(float)
        beef = np.array([0, 0.6, 0.8])
        idf_new, idf_beef = np.log(4), np.log(4 / 3)
        x = (idf_new * new + idf_beef * beef) / (idf_new + idf_beef)
        trout = np.eye(3)[2]
        x -= (trout + 2 * beef) / 3
        got = source.transform(later).x[3]
        np.testing.assert_allclose(got, x / np.linalg.norm(x), atol=1e-6)

    def test_what_all_users_have_still_makes_a_vector(self) -> None:
        frames = frames_of(
            [("u", "a", 1, 1), ("v", "a", 1, 1), ("v", "b", 1, 1)], self.ITEMS, ["u", "v"]
        )
        got = TextPartsInput(Words(), ["title"]).fit(frames).transform(frames)  # type: ignore[arg-type]
        assert got.valid.tolist() == [True, True]  # trout alone, which weighs 0, for u
        np.testing.assert_allclose(got.x[0], -got.x[1], atol=1e-6)

    def test_nobody_bought_anything(self) -> None:
        frames = frames_of([("u", "a", 1, 0)], self.ITEMS, ["u"])
        got = TextPartsInput(Words()).fit(frames).transform(frames)  # type: ignore[arg-type]
        assert got.valid.tolist() == [False]
        assert got.x.tolist() == [[0, 0, 0]]

    def test_no_such_field(self) -> None:
        with pytest.raises(DataError, match=r"expected one of the columns \['titel'\].*'title'"):
            self.fitted(fields=["titel"])

    def test_not_fitted(self) -> None:
        with pytest.raises(DataError, match="call fit first"):
            TextPartsInput(Words()).transform(random_frames())  # type: ignore[arg-type]


class TestBehaviour:
    def weighted(self, frames: Frames) -> np.ndarray:
        """log1p(count), idf, rows of norm 1, by pandas."""
        counts = frames.positives.groupby(["user_id", "item_id"]).size().unstack(fill_value=0)
        counts = counts.reindex(frames.users["user_id"], fill_value=0)
        n = int((counts.sum(axis=1) > 0).sum())
        x = np.log1p(counts.to_numpy(float)) * np.log((1 + n) / (1 + (counts > 0).sum().to_numpy()))
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)

    @pytest.mark.parametrize("popularity", ["centre", "drop", "keep"])
    def test_equals_a_dense_svd(self, popularity: Any) -> None:
        frames = random_frames()
        x = self.weighted(frames)
        mean = x[:29].mean(axis=0) if popularity == "centre" else 0.0  # u29 bought nothing
        right = np.linalg.svd(x[:29] - mean, full_matrices=False)[2]
        right = right[1:5] if popularity == "drop" else right[:4]
        expected = (x[:29] - mean) @ right.T
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        got = BehaviourInput(4, popularity=popularity).fit(frames).transform(frames)
        # up to the sign of each component
        np.testing.assert_allclose(got.x[:29] @ got.x[:29].T, expected @ expected.T, atol=1e-5)
        assert got.valid.tolist() == [True] * 29 + [False]

    @pytest.mark.parametrize("popularity", ["centre", "drop", "keep"])
    def test_the_sparse_solver_agrees(
        self, popularity: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frames = random_frames()
        dense = BehaviourInput(4, popularity=popularity).fit(frames).transform(frames)
        monkeypatch.setattr(behaviour, "_DENSE", 0)
        sparse = BehaviourInput(4, popularity=popularity).fit(frames).transform(frames)
        np.testing.assert_allclose(sparse.x, dense.x, atol=1e-5)
        again = BehaviourInput(4, popularity=popularity).fit(frames).transform(frames)
        np.testing.assert_array_equal(sparse.x, again.x)

    def test_factors_stay_those_of_the_fit(self) -> None:
        frames = random_frames()
        early = frames.before(50)
        once, again = BehaviourInput(4).fit(early), BehaviourInput(4, refit=True).fit(early)
        stays = ~frames.users["user_id"].isin(
            frames.positives.loc[frames.positives["timestamp"] >= 50, "user_id"]
        )
        moved = once.transform(frames).x, again.transform(frames).x
        before = once.transform(early).x
        np.testing.assert_array_equal(moved[0][stays], before[stays])
        fresh = BehaviourInput(4).fit(frames).transform(frames).x
        np.testing.assert_array_equal(moved[1], fresh)
        assert not np.array_equal(moved[0], fresh)

    def test_unknown_items_are_left_out_and_new_users_folded_in(self) -> None:
        early = frames_of([("u", "a", 1, 1), ("u", "b", 1, 1), ("v", "c", 1, 1), ("w", "b", 1, 1)])
        source = BehaviourInput(2).fit(early)
        later = frames_of(
            [
                ("u", "a", 1, 1), ("u", "b", 1, 1), ("v", "c", 1, 1), ("w", "b", 1, 1),
                ("x", "z", 2, 1), ("y", "z", 2, 1), ("y", "c", 2, 1),
            ]
        )  # fmt: skip
        got = source.transform(later)
        assert got.valid.tolist() == [True, True, True, False, True]
        np.testing.assert_allclose(got.x[4], got.x[1], atol=1e-6)  # y is like v but for z

    def test_two_tastes_that_share_no_item_are_told_apart(self) -> None:
        rng = np.random.default_rng(0)
        events = [
            (f"u{u:02d}", f"i{i + 10 * (u % 2)}", 1.0, 1)
            for u in range(40)
            for i in rng.choice(10, 5, replace=False)
        ]
        got = BehaviourInput(1).fit(frames := frames_of(events)).transform(frames)
        assert len({tuple(row) for row in np.sign(got.x[::2]).tolist()}) == 1
        np.testing.assert_array_equal(np.sign(got.x[::2]), -np.sign(got.x[1::2]))

    @pytest.mark.parametrize(
        "events",
        [
            [("u", "a", 1, 0)],  # no purchase
            [("u", "a", 1, 1)],  # one
            [("u", "a", 1, 1), ("v", "a", 1, 1)],  # all alike
        ],
    )
    def test_nothing_to_tell_users_apart(self, events: list[tuple[str, str, float, int]]) -> None:
        frames = frames_of(events)
        got = BehaviourInput(3).fit(frames).transform(frames)
        assert np.isfinite(got.x).all()
        assert got.valid.tolist() == [event[3] == 1 for event in events]

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="svd_dim"):
            BehaviourInput(0)
        with pytest.raises(ConfigError, match="'centre', 'drop' or 'keep', got 'center'"):
            BehaviourInput(3, popularity="center")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="call fit first"):
            BehaviourInput(3).transform(random_frames())


class TestText:
    def test_texts_and_users_without_one(self) -> None:
        frames = random_frames()
        words = Words()
        profiles = pd.Series({"u03": "meat", "u00": "fish", "u01": "", "u02": None, "zz": "trout"})
        source = TextInput(words, lambda _: profiles)  # type: ignore[arg-type]
        got = source.fit(frames).transform(frames)
        assert source.texts[:5] == ["fish", "", "", "meat", ""]
        assert got.valid.tolist() == [True, False, False, True] + [False] * 26
        assert got.x[3].tolist() == [0, 1, 0]

    def test_two_profiles_of_a_user(self) -> None:
        profiles = pd.Series(["a", "b"], index=["u00", "u00"])
        with pytest.raises(DataError, match="one text a user, got two of 'u00'"):
            TextInput(Words(), lambda _: profiles).transform(random_frames())  # type: ignore[arg-type]


class TestRandom:
    def test_a_user_has_one_vector_for_ever(self) -> None:
        frames = random_frames()
        few = Frames(frames.interactions, frames.users.iloc[5:8], frames.items, 3)
        a, b = RandomInput(8).transform(frames), RandomInput(8).transform(few)
        np.testing.assert_array_equal(a.x[5:8], b.x)
        assert not np.array_equal(a.x, RandomInput(8, seed=1).transform(frames).x)

    def test_normal_and_independent(self) -> None:
        users = [f"{i}" for i in range(20_000)]
        frames = frames_of([("0", "a", 1, 1)], users=users)
        x = RandomInput(4).transform(frames).x.astype(float)
        assert np.abs(x.mean(axis=0)).max() < 0.03
        np.testing.assert_allclose(np.cov(x.T), np.eye(4), atol=0.04)
        next_to = np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]  # ids alike, vectors not
        assert abs(next_to) < 0.03

    def test_the_same_numbers_on_every_machine(self) -> None:
        frames = frames_of([("u", "a", 1, 1)])
        x = RandomInput(2, seed=7).transform(frames).x
        np.testing.assert_allclose(x, EXPECTED_RANDOM, rtol=1e-6)


EXPECTED_RANDOM = [[0.1289355307817459, -0.489908367395401]]


class TestIdEmbedding:
    def test_by_id(self, tmp_path: Path) -> None:
        path = tmp_path / "v.npz"
        np.savez(path, user_ids=np.array(["u02", "u00"]), vectors=np.array([[1.0, 2], [3, 4]]))
        frames = random_frames()
        got = IdEmbeddingInput(path).fit(frames).transform(frames)
        assert got.x[:3].tolist() == [[3, 4], [0, 0], [1, 2]]
        assert got.valid.tolist() == [True, False, True] + [False] * 27

    def test_a_vector_without_an_event_before_the_first_snapshot_is_untrained(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "v.npz"
        np.savez(path, user_ids=np.array(["a", "b", "c"]), vectors=np.eye(3))
        events = [("a", "x", 1.0, 1), ("b", "x", 5.0, 1), ("d", "x", 1.0, 0)]
        frames = frames_of(events, users=list("abcd"))
        source = IdEmbeddingInput(path).fit(frames.before(5.0))  # b's event is at the snapshot
        with caplog.at_level("INFO"):
            got = source.transform(frames.before(9.0))
        assert got.valid.tolist() == [True, False, False, False]
        assert got.x.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
        assert "3 of 4 users have no trained vector" in caplog.text
        assert "1 are not in the file, 2 have no event before the first snapshot" in caplog.text

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"user_ids": np.array(["a"])}, "expected a .npz with user_ids"),
            ({"user_ids": np.array([1]), "vectors": np.ones((1, 2))}, "user_ids: expected text"),
            (
                {"user_ids": np.array(["a"]), "vectors": np.ones((2, 2))},
                r"expected floats \[1, d\]",
            ),
            ({"user_ids": np.array(["a"]), "vectors": np.full((1, 2), np.nan)}, "nan or inf"),
            ({"user_ids": np.array(["a", "a"]), "vectors": np.ones((2, 2))}, "two of 'a'"),
            ({"user_ids": np.array(["a"], object), "vectors": np.ones((1, 2))}, "expected a .npz"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
        path = tmp_path / "v.npz"
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message):
            IdEmbeddingInput(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"expected a \.npz"):
            IdEmbeddingInput(tmp_path / "none.npz")
        (tmp_path / "bad.npz").write_bytes(b"PK\3\4 no zip")
        with pytest.raises(DataError, match=r"expected a \.npz"):
            IdEmbeddingInput(tmp_path / "bad.npz")


class TestMakeInput:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("text", TextInput), ("text_parts", TextPartsInput), ("behaviour", BehaviourInput),
            ("random", RandomInput),
        ],
    )  # fmt: skip
    def test_kinds(self, name: Any, kind: type) -> None:
        source = make_input(Recipe(input=name, svd_dim=7, seed=3), Words())  # type: ignore[arg-type]
        assert isinstance(source, kind)
        if isinstance(source, BehaviourInput):
            assert (source.svd_dim, source.seed) == (7, 3)

    def test_profiles_are_the_engine_s_unless_given(self) -> None:
        frames = random_frames()
        source = make_input(Recipe(), Words())  # type: ignore[arg-type]
        assert isinstance(source, TextInput)
        source.transform(frames)
        assert "kind" in source.texts[0]
        given = make_input(Recipe(), Words(), lambda f: pd.Series({"u00": "fish"}))  # type: ignore[arg-type]
        assert given.transform(frames).x[0].tolist() == [1, 0, 0]

    def test_what_is_missing(self) -> None:
        with pytest.raises(ConfigError, match="input 'text_parts': expected an encoder"):
            make_input(Recipe(input="text_parts"), None)
        with pytest.raises(ConfigError, match="expected id_embedding_path"):
            make_input(Recipe(input="id_embedding"), None)
        unknown = Recipe.model_construct(input="behavior")
        with pytest.raises(ConfigError, match=r"got 'behavior' \(did you mean 'behaviour'\?\)"):
            make_input(unknown, None)


class TestFrames:
    def test_late_rows_are_dropped_and_ids_become_text(self) -> None:
        events = pd.DataFrame(
            {
                "user_id": [1, 2, 1],
                "item_id": [5, 5, 6],
                "timestamp": [1.0, 2, 3],
                "label": [1, 0, 1],
            }
        )
        frames = Frames(
            events, pd.DataFrame({"user_id": [1, 2]}), pd.DataFrame({"item_id": [5, 6]}), 3.0
        )
        assert frames.interactions["user_id"].tolist() == ["1", "2"]
        assert frames.positives["item_id"].tolist() == ["5"]
        assert len(frames.before(2.0).interactions) == 1
        with pytest.raises(DataError, match=r"expected a time <= 3\.0, got 4\.0"):
            frames.before(4.0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda i, u, t: (i.rename(columns={"label": "labels"}), u, t), "'label'.*'labels'"),
            (lambda i, u, t: (i.assign(timestamp=np.nan), u, t), "1 missing"),
            (lambda i, u, t: (i, pd.concat([u, u]), t), "got 'u' twice"),
            (lambda i, u, t: (i, u, t.assign(item_id=None)), "got 1 empty"),
        ],
    )
    def test_bad_frames(self, change: Any, message: str) -> None:
        frames = frames_of([("u", "a", 1, 1)])
        with pytest.raises(DataError, match=message):
            Frames(*change(frames.interactions, frames.users, frames.items))

    def test_no_time(self) -> None:
        frames = frames_of([("u", "a", 1, 1)])
        with pytest.raises(DataError, match="got nan"):
            Frames(frames.interactions, frames.users, frames.items, float("nan"))
