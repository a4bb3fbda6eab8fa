"""Encoder: order, truncation, cache, resumption; with a counting model and with the real MiniLM."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.encoders import encoder as encode
from recbole_choir.semantic.encoders import text_model
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.encoders.text_model import EMBEDDED, EMBEDDED_SHA256, folder_identity
from recbole_choir.semantic.storage import vector_cache
from recbole_choir.semantic.storage.vector_cache import FILE_NAME, VectorCache

TEXTS = ["tea", "green tea", "a long text about coffee", "tea", "cup", "bread and butter"]


class CountingModel:
    """Embeds a text as (its length, its first letter, 0, 1) and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.fail_at = -1
        self.result: Any = None

    def encode(self, sentences: list[str], **options: Any) -> np.ndarray:
        if len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        self.batches.append(sentences)
        if self.result is not None:
            return self.result
        return np.array([[len(s), ord(s[0]), 0, 1] for s in sentences], np.float64)

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def expected(texts: list[str], dim: int = 4) -> np.ndarray:
    x = np.array([[len(t), ord(t[0]), 0, 1] for t in texts], float)[:, :dim]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CountingModel:
    counting = CountingModel()
    monkeypatch.setattr(encode, "load_model", lambda name, device: counting)
    return counting


class TestBatches:
    def test_vectors_are_in_the_order_of_the_texts(self, model: CountingModel) -> None:
        got = Encoder(batch_size=2).encode(TEXTS, show_progress=False)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected(TEXTS), rtol=1e-6)

    def test_distinct_texts_once_longest_first(self, model: CountingModel) -> None:
        Encoder(batch_size=2).encode(TEXTS, show_progress=False)
        assert model.batches == [
            ["a long text about coffee", "bread and butter"],
            ["green tea", "cup"],
            ["tea"],
        ]

    def test_batches_do_not_depend_on_the_order_of_the_texts(self, model: CountingModel) -> None:
        Encoder(batch_size=2).encode(TEXTS, show_progress=False)
        first, model.batches = model.batches, []
        Encoder(batch_size=2).encode(TEXTS[::-1], show_progress=False)
        assert model.batches == first

    def test_empty_texts_are_zero_and_never_encoded(self, model: CountingModel) -> None:
        got = Encoder().encode(["", "tea", " \n"], show_progress=False)
        np.testing.assert_allclose(got, [[0] * 4, expected(["tea"])[0], [0] * 4], rtol=1e-6)
        assert model.texts == ["tea"]
        assert Encoder().encode([""], show_progress=False).tolist() == [[0] * 4]
        assert Encoder().encode([], show_progress=False).shape == (0, 4)

    def test_a_lone_surrogate_is_encoded(self, model: CountingModel) -> None:
        assert Encoder().encode(["\ud800 tea"], show_progress=False).shape == (1, 4)
        assert model.texts == ["? tea"]

    def test_progress_is_shown_on_request(
        self, model: CountingModel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Encoder().encode(TEXTS, show_progress=False)
        assert capsys.readouterr().err == ""
        Encoder().encode(TEXTS)
        assert "5/5" in capsys.readouterr().err


class TestTruncation:
    def test_truncates_then_normalises(self, model: CountingModel) -> None:
        got = Encoder(truncate_dim=2).encode(TEXTS, show_progress=False)
        np.testing.assert_allclose(got, expected(TEXTS, 2), rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)

    def test_a_prefix_of_zeros_stays_zero(self, model: CountingModel) -> None:
        model.result = np.array([[0.0, 0.0, 3.0]])
        got = Encoder(truncate_dim=2).encode(["x"], show_progress=False)
        assert got.tolist() == [[0, 0]]

    def test_more_than_there_is(self, model: CountingModel) -> None:
        with pytest.raises(ConfigError, match="truncate_dim: expected at most 4"):
            Encoder(truncate_dim=5).encode(TEXTS, show_progress=False)

    def test_cached_vectors_serve_every_truncation(
        self, model: CountingModel, tmp_path: Path
    ) -> None:
        Encoder(truncate_dim=2, cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        model.batches.clear()
        got = Encoder(truncate_dim=3, cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        assert model.batches == []
        np.testing.assert_allclose(got, expected(TEXTS, 3), rtol=1e-6)


class TestCache:
    def test_nothing_is_encoded_twice(self, model: CountingModel, tmp_path: Path) -> None:
        first = Encoder(cache_dir=tmp_path / "new").encode(TEXTS, show_progress=False)
        model.batches.clear()
        again = Encoder(cache_dir=tmp_path / "new").encode(
            [*TEXTS[::-1], "milk"], show_progress=False
        )
        assert model.texts == ["milk"]
        np.testing.assert_array_equal(again[:-1], first[::-1])
        np.testing.assert_allclose(again[-1], expected(["milk"])[0], rtol=1e-6)

    def test_many_texts(self, model: CountingModel, tmp_path: Path) -> None:
        texts = [f"text {i}" for i in range(1700)]  # several queries
        first = Encoder(cache_dir=tmp_path).encode(texts, show_progress=False)
        model.batches.clear()
        again = Encoder(cache_dir=tmp_path).encode(texts, show_progress=False)
        assert model.batches == []
        np.testing.assert_array_equal(first, again)

    def test_a_killed_run_resumes_after_the_last_whole_batch(
        self, model: CountingModel, tmp_path: Path
    ) -> None:
        model.fail_at = 2
        with pytest.raises(KeyboardInterrupt):
            Encoder(cache_dir=tmp_path, batch_size=2).encode(TEXTS, show_progress=False)
        done, model.batches, model.fail_at = model.texts, [], -1
        assert len(done) == 4
        got = Encoder(cache_dir=tmp_path, batch_size=2).encode(TEXTS, show_progress=False)
        assert sorted(model.texts + done) == sorted(set(TEXTS))
        np.testing.assert_allclose(got, expected(TEXTS), rtol=1e-6)

    def test_another_model_is_another_key(self, model: CountingModel, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(name)
        cache = tmp_path / "cache"
        Encoder(str(tmp_path / "a"), cache_dir=cache).encode(["tea"], show_progress=False)
        Encoder(str(tmp_path / "b"), cache_dir=cache).encode(["tea"], show_progress=False)
        shutil.copytree(tmp_path / "a", tmp_path / "c")  # the same files elsewhere
        Encoder(str(tmp_path / "c"), cache_dir=cache).encode(["tea"], show_progress=False)
        assert model.texts == ["tea", "tea"]

    @pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"\xff" * 5000])
    def test_a_damaged_file_is_put_aside(
        self,
        content: bytes,
        model: CountingModel,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / FILE_NAME).write_bytes(content)
        with caplog.at_level(logging.WARNING, logger=vector_cache.__name__):
            got = Encoder(cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        np.testing.assert_allclose(got, expected(TEXTS), rtol=1e-6)
        assert "the embedding cache is damaged" in caplog.text
        assert (tmp_path / (FILE_NAME + ".damaged")).read_bytes() == content
        model.batches.clear()
        Encoder(cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        assert model.batches == []

    def test_damage_in_the_middle_of_a_file(
        self, model: CountingModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        texts = [f"text {i}" for i in range(500)]
        Encoder(cache_dir=tmp_path).encode(texts, show_progress=False)
        path = tmp_path / FILE_NAME
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xaa" * (len(data) - 4096)  # all pages but the first
        path.write_bytes(data)
        model.batches.clear()
        with caplog.at_level(logging.WARNING, logger=vector_cache.__name__):
            got = Encoder(cache_dir=tmp_path).encode(texts, show_progress=False)
        assert len(model.texts) == 500
        assert "damaged" in caplog.text
        np.testing.assert_allclose(got, expected(texts), rtol=1e-6)

    def test_a_damaged_vector_is_made_anew(
        self, model: CountingModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        Encoder(cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        with sqlite3.connect(tmp_path / FILE_NAME) as file:
            (key, blob) = file.execute("SELECT key, vector FROM vectors LIMIT 1").fetchone()
            flipped = blob[:-1] + bytes([blob[-1] ^ 1])
            file.execute("UPDATE vectors SET vector = ? WHERE key = ?", (flipped, key))
        model.batches.clear()
        with caplog.at_level(logging.WARNING, logger=vector_cache.__name__):
            got = Encoder(cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        assert len(model.texts) == 1
        assert "1 damaged vectors" in caplog.text
        np.testing.assert_allclose(got, expected(TEXTS), rtol=1e-6)
        model.batches.clear()
        Encoder(cache_dir=tmp_path).encode(TEXTS, show_progress=False)
        assert model.texts == []

    def test_a_folder_that_cannot_be_made(self, model: CountingModel, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="the embedding cache cannot be used"):
            Encoder(cache_dir=tmp_path / "file").encode(TEXTS, show_progress=False)

    def test_a_closed_cache(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="got closed"):
            VectorCache(tmp_path).get([b"k"])


class TestBadInput:
    def test_the_model_returns_fewer_vectors_than_texts(
        self, model: CountingModel, tmp_path: Path
    ) -> None:
        model.result = np.ones((4, 3))
        with pytest.raises(DataError, match=r"expected 5 vectors, got shape \(4, 3\)"):
            Encoder(cache_dir=tmp_path).encode(TEXTS, show_progress=False)

    def test_the_model_returns_nan(self, model: CountingModel, tmp_path: Path) -> None:
        model.result = np.array([[1.0, np.nan]])
        with pytest.raises(DataError, match="nan or inf for 1 texts, the first of them 'tea'"):
            Encoder(cache_dir=tmp_path).encode(["tea"], show_progress=False)
        model.result = None  # nothing of it was kept
        assert np.isfinite(Encoder(cache_dir=tmp_path).encode(["tea"], show_progress=False)).all()

    def test_not_a_text(self, model: CountingModel) -> None:
        with pytest.raises(DataError, match=r"texts\[1\]: expected a str, got float"):
            Encoder().encode(["tea", float("nan")], show_progress=False)  # type: ignore[list-item]

    def test_settings(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="batch_size: expected a number >= 1, got 0"):
            Encoder(batch_size=0)
        with pytest.raises(ConfigError, match="truncate_dim: expected a number >= 1, got 0"):
            Encoder(truncate_dim=0)
        with pytest.raises(ConfigError, match="a hub name or a folder"):
            Encoder(str(tmp_path / "missing"))
        with pytest.raises(ConfigError, match="the model cannot be loaded"):
            Encoder(str(tmp_path)).encode(["tea"], show_progress=False)


class TestEmbedded:
    def test_a_wrong_checksum_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"other weights")
        monkeypatch.setattr(text_model, "get_model_path", lambda: tmp_path)
        text_model._embedded_folder.cache_clear()
        try:
            with pytest.raises(ConfigError, match=r"sha256 53aa5117\.\.b128d9db, got"):
                Encoder()
        finally:
            text_model._embedded_folder.cache_clear()
        assert EMBEDDED_SHA256.startswith("53aa5117")

    def test_identity_is_that_of_the_files(self, tmp_path: Path) -> None:
        for name, weights in (("a", "1"), ("b", "1"), ("c", "2")):
            (tmp_path / name / "sub").mkdir(parents=True)
            (tmp_path / name / "sub" / "weights").write_text(weights)
        (tmp_path / "b" / "README.md").write_text("changes nothing")
        identity = [folder_identity(tmp_path / name) for name in "abc"]
        assert identity[0] == identity[1]
        assert identity[0] != identity[2]

    def test_real_model(self, tmp_path: Path) -> None:
        before = dict(os.environ)
        encoder = Encoder(EMBEDDED, cache_dir=tmp_path, batch_size=2)
        x = encoder.encode(["black tea", "fishing rod", "green tea", ""], show_progress=False)
        assert x.shape == (4, 384)
        np.testing.assert_allclose(np.linalg.norm(x[:3], axis=1), 1, rtol=1e-5)
        assert not x[3].any()
        similar = x @ x.T
        assert similar[0, 2] > 0.6 > similar[0, 1]
        assert {k: v for k, v in os.environ.items() if k.startswith("HF_")} == {
            k: v for k, v in before.items() if k.startswith("HF_")
        }
        short = Encoder(EMBEDDED, 64, cache_dir=tmp_path).encode(["black tea"], show_progress=False)
        prefix = x[0, :64] / np.linalg.norm(x[0, :64])
        np.testing.assert_allclose(short[0], prefix, atol=1e-6)
