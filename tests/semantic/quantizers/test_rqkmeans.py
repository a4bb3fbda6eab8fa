"""RQ-KMeans: Eq. 2-3 by hand, reproducibility, degenerate data, files, quality."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from recbole_choir.errors import ConfigError, DataError, TableError
from recbole_choir.semantic.quantizers import rqkmeans
from recbole_choir.semantic.quantizers.kmeans import fit_kmeans, nearest_centroid
from recbole_choir.semantic.quantizers.rqkmeans import RQKMeans


def by_hand() -> RQKMeans:
    """Two levels with centroids set by hand."""
    quantizer = RQKMeans(2, [2, 3])
    quantizer.codebooks = [
        np.array([[0.0, 0.0], [10.0, 10.0]], np.float32),
        np.array([[0.0, 0.0], [1.0, 0.0], [0.0, -2.0]], np.float32),
    ]
    return quantizer


def mixture(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, d)) * 0.9 ** np.arange(d)
    x = centres[rng.integers(60, size=n)] + 0.5 * rng.standard_normal((n, d))
    return x.astype(np.float32)


def digest(quantizer: RQKMeans, x: np.ndarray) -> str:
    data = b"".join(book.tobytes() for book in quantizer.codebooks)
    return hashlib.sha256(data + quantizer.encode(x).tobytes()).hexdigest()


class TestEquations:
    def test_codes_and_residuals_of_eq_2_and_3(self) -> None:
        # (11, 10) is next to (10, 10); what is left, (1, 0), is codeword 1 of level 2
        x = np.array([[11.0, 10.0], [0.2, -1.9], [9.0, 9.0], [4.0, 4.0]], np.float32)
        codes = by_hand().encode(x)
        assert codes.dtype == np.int32
        assert codes.tolist() == [[1, 1], [0, 2], [1, 0], [0, 1]]
        # (9, 9) leaves (-1, -1), at squared distances 2, 5 and 2: the lowest id of equals

    def test_reconstruction_is_the_sum_of_codewords(self) -> None:
        quantizer = by_hand()
        assert quantizer.reconstruct(np.array([[1, 1], [0, 2]])).tolist() == [[11, 10], [0, -2]]
        assert quantizer.reconstruct(np.array([[1], [0]])).tolist() == [[10, 10], [0, 0]]
        x = np.array([[11.0, 11.0], [0.0, -2.0]], np.float32)  # 1 and 0 off
        assert quantizer.reconstruction_error(x) == pytest.approx(0.5)

    def test_greedy_even_where_another_pair_of_codewords_is_nearer(self) -> None:
        # (5.2, 5.2) - (10, 10) + (0, 0) is 46.08 away, while level 1's other codeword with
        # (1, 0) is 44.68 away: Eq. 2 decides level 1 before level 2 is looked at
        x = np.array([[5.2, 5.2]], np.float32)
        assert by_hand().encode(x).tolist() == [[1, 2]]

    def test_ties_go_to_the_lowest_id_in_any_number_of_dimensions(self) -> None:
        for d in (1, 3, 64, 300):
            books = np.stack([np.full(d, v, np.float32) for v in (5.0, 1.0, -1.0, 1.0)])
            x = np.zeros((40, d), np.float32)
            assert nearest_centroid(x, books).tolist() == [1] * 40
            assert nearest_centroid(x[:1], books).tolist() == [1]

    def test_centroids_of_separate_blobs_are_their_means(self) -> None:
        rng = np.random.default_rng(0)
        centres = np.array([[0, 0], [100, 0], [0, 100], [100, 100]], float)
        x = np.repeat(centres, 50, axis=0) + rng.standard_normal((200, 2))
        got = RQKMeans(1, 4).fit(x).codebooks[0]
        means = x.reshape(4, 50, 2).mean(axis=1)
        order = np.lexsort(got.T)
        np.testing.assert_allclose(got[order], means[np.lexsort(means.T)], atol=1e-4)

    def test_residuals_shrink_from_level_to_level(self) -> None:
        x = mixture(3000, 16)
        quantizer = RQKMeans(4, [8, 4, 16, 2]).fit(x)
        codes = quantizer.encode(x)
        left = [float(((x - quantizer.reconstruct(codes[:, :m])) ** 2).sum()) for m in range(1, 5)]
        assert [len(book) for book in quantizer.codebooks] == [8, 4, 16, 2]
        assert all(a > b for a, b in zip([float((x**2).sum()), *left], left, strict=False))

    @settings(max_examples=60, deadline=None)
    @given(
        x=arrays(np.float32, (23, 4), elements=st.integers(-50, 50).map(float)),
        codebook=arrays(np.float32, (5, 4), elements=st.integers(-50, 50).map(float)),
    )
    def test_nearest_is_the_exact_argmin(self, x: np.ndarray, codebook: np.ndarray) -> None:
        distance = ((x[:, None].astype(float) - codebook[None]) ** 2).sum(2)
        assert nearest_centroid(x, codebook).tolist() == distance.argmin(1).tolist()

    @settings(max_examples=40, deadline=None)
    @given(
        x=arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 6)),
                 elements=st.integers(-3, 3).map(float)),
        k=st.integers(1, 12),
    )  # fmt: skip
    def test_any_data(self, x: np.ndarray, k: int) -> None:
        quantizer = RQKMeans(2, k).fit(x)
        codes = quantizer.encode(x)
        n_distinct = len(np.unique(x, axis=0))
        assert len(quantizer.codebooks[0]) == min(k, n_distinct)
        for level, book in enumerate(quantizer.codebooks):
            assert np.isfinite(book).all()
            assert codes[:, level].min() >= 0
            assert codes[:, level].max() < len(book)
        # every codeword of the first level is used by the data it was fitted on
        assert np.unique(codes[:, 0]).tolist() == list(range(len(quantizer.codebooks[0])))
        if k >= n_distinct:
            assert quantizer.reconstruction_error(x) == 0
        # no worse than the best single codeword
        spread = ((x - x.mean(0)) ** 2).sum(1).mean()
        if len(x) == n_distinct:
            assert quantizer.reconstruction_error(x) <= spread * (1 + 1e-5) + 1e-6


class TestReproducible:
    def test_same_seed_same_bits(self) -> None:
        x = mixture(4000, 24)
        first, second = RQKMeans(3, 12, seed=3).fit(x), RQKMeans(3, 12, seed=3).fit(x)
        assert digest(first, x) == digest(second, x)
        assert digest(RQKMeans(3, 12, seed=4).fit(x), x) != digest(first, x)

    def test_fit_leaves_the_input_alone(self) -> None:
        x = mixture(500, 8)
        before = x.copy()
        RQKMeans(2, 5).fit(x).encode(x)
        np.testing.assert_array_equal(x, before)

    def test_same_bits_in_another_process_with_other_threads(self) -> None:
        program = (
            "import sys, faiss; sys.path.insert(0, sys.argv[1])\n"
            "from test_rqkmeans import RQKMeans, digest, mixture\n"
            "x = mixture(1500, 24)\n"
            "for threads in (1, 2, 4):\n"
            "    faiss.omp_set_num_threads(threads)\n"
            "    print(digest(RQKMeans(3, 24, seed=1, n_init=1).fit(x), x))"
        )
        args = [sys.executable, "-c", program, str(Path(__file__).parent)]
        out = subprocess.run(args, capture_output=True, text=True, check=True)
        x = mixture(1500, 24)
        here = digest(RQKMeans(3, 24, seed=1, n_init=1).fit(x), x)
        assert out.stdout.split()[-3:] == [here] * 3

    def test_a_code_does_not_depend_on_the_other_rows(self) -> None:
        x = mixture(2000, 24)
        quantizer = RQKMeans(3, 40).fit(x)
        codes = quantizer.encode(x)
        one_by_one = np.concatenate([quantizer.encode(x[i : i + 1]) for i in range(0, 2000, 37)])
        np.testing.assert_array_equal(codes[::37], one_by_one)
        np.testing.assert_array_equal(codes[::-1], quantizer.encode(x[::-1]))


class TestFewPoints:
    def test_fewer_distinct_points_than_k_lower_k(self, caplog: pytest.LogCaptureFixture) -> None:
        x = np.repeat(np.array([[0.0, 1], [2, 3], [4, 5]]), 10, axis=0)
        with caplog.at_level(logging.INFO, logger=rqkmeans.__name__):
            quantizer = RQKMeans(2, 5).fit(x)
        assert sorted(quantizer.codebooks[0].tolist()) == [[0, 1], [2, 3], [4, 5]]
        assert quantizer.codebooks[1].tolist() == [[0, 0]]  # nothing is left for level 2
        assert quantizer.encode(x)[:, 1].tolist() == [0] * 30
        assert "level 1: need >= 5 points to fit the codebook, got 3" in caplog.text
        assert quantizer.n_clusters == [5, 5]

    def test_or_are_an_error(self) -> None:
        x = np.repeat(np.eye(3), 10, axis=0)
        with pytest.raises(DataError, match=r"need >= 5 points to fit the codebook, got 3"):
            RQKMeans(2, 5, on_few_points="raise").fit(x)
        with pytest.raises(DataError, match="need >= 5 points to fit the codebook, got 0"):
            RQKMeans(2, 5).fit(np.zeros((0, 3)))

    def test_copies_of_a_row_do_not_move_the_codebooks(self) -> None:
        x = mixture(800, 6)
        many = np.concatenate([x, np.repeat(x[:1], 5000, axis=0)])
        with_copies, without = RQKMeans(2, 7).fit(many), RQKMeans(2, 7).fit(x)
        for a, b in zip(with_copies.codebooks, without.codebooks, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_zero_and_minus_zero_are_one_point(self) -> None:
        x = np.array([[0.0, 1.0], [-0.0, 1.0]])
        assert len(RQKMeans(1, 2).fit(x).codebooks[0]) == 1

    def test_every_codeword_is_used(self) -> None:
        # one far heap and a dense one: random starts leave clusters empty
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.normal(0, 1e-3, (3000, 8)), rng.normal(50, 1, (40, 8))])
        codes = RQKMeans(2, 64).fit(x).encode(x)
        assert len(np.unique(codes[:, 0])) == 64
        assert len(np.unique(codes[:, 1])) == 64

    def test_empty_clusters_split_the_worst(self) -> None:
        x = np.concatenate([np.zeros((50, 2)), np.tile([[9.0, 0.0], [11.0, 0.0]], (25, 1))])
        x = x[np.random.default_rng(0).permutation(100)].astype(np.float32)
        got = fit_kmeans(x, 3, np.random.default_rng(0)).centroids
        assert sorted(got.tolist()) == [[0, 0], [9, 0], [11, 0]]


class TestBadInput:
    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_not_finite(self, value: float) -> None:
        x = np.ones((5, 2))
        x[3, 1] = value
        with pytest.raises(DataError, match="nan or inf in 1 of 5 rows"):
            RQKMeans(1, 2).fit(x)
        with pytest.raises(DataError, match="nan or inf in 1 of 5 rows"):
            by_hand().encode(x)

    def test_too_large(self) -> None:
        with pytest.raises(DataError, match="up to 1e\\+15"):
            RQKMeans(1, 2).fit(np.array([[1e20], [1.0]]))

    def test_not_fitted(self) -> None:
        for call in (RQKMeans(1, 2).encode, RQKMeans(1, 2).reconstruct):
            with pytest.raises(DataError, match="call fit or load first"):
                call(np.zeros((1, 1)))

    def test_a_failed_fit_leaves_the_old_codebooks(self) -> None:
        quantizer = RQKMeans(2, [2, 3], on_few_points="raise").fit(mixture(50, 2))
        before = [book.copy() for book in quantizer.codebooks]
        with pytest.raises(DataError):
            quantizer.fit(np.zeros((9, 2)))
        np.testing.assert_array_equal(quantizer.codebooks[0], before[0])

    def test_shapes(self) -> None:
        with pytest.raises(DataError, match="expected 2 columns as fitted, got 3"):
            by_hand().encode(np.zeros((1, 3)))
        with pytest.raises(DataError, match=r"real numbers \[n, D\]"):
            RQKMeans(1, 2).fit(np.zeros(4))
        with pytest.raises(DataError, match=r"codes of level 2: expected 0\.\.2, got 3\.\.3"):
            by_hand().reconstruct(np.array([[0, 3]]))
        with pytest.raises(DataError, match="expected integers"):
            by_hand().reconstruct(np.zeros((1, 2)))
        assert by_hand().encode(np.zeros((0, 2))).shape == (0, 2)

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="expected one number or 3, one per level, got 2"):
            RQKMeans(3, [2, 2])
        with pytest.raises(ConfigError, match="numbers >= 1"):
            RQKMeans(2, [2, 0])
        with pytest.raises(ConfigError, match="n_levels"):
            RQKMeans(0, 2)
        with pytest.raises(ConfigError, match="'shrink' or 'raise'"):
            RQKMeans(1, 2, on_few_points="stop")  # type: ignore[arg-type]
        assert RQKMeans(2, np.int64(4)).n_clusters == [4, 4]


class TestFiles:
    def test_save_and_load_give_the_same_codes(self, tmp_path: Path) -> None:
        x = mixture(700, 9)
        quantizer = RQKMeans(3, [7, 5, 900], seed=5).fit(x)
        quantizer.save(tmp_path / "new" / "codebooks.safetensors")
        loaded = RQKMeans.load(tmp_path / "new" / "codebooks.safetensors")
        assert digest(loaded, x) == digest(quantizer, x)
        assert (loaded.n_levels, loaded.n_clusters, loaded.seed) == (3, [7, 5, 900], 5)
        assert [f.name for f in (tmp_path / "new").iterdir()] == ["codebooks.safetensors"]

    def test_nothing_fitted_is_not_saved(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="call fit"):
            RQKMeans(1, 2).save(tmp_path / "c")
        assert list(tmp_path.iterdir()) == []

    def test_a_killed_save_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "c"
        by_hand().save(path)
        before = path.read_bytes()

        def fail(handle: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            RQKMeans(1, 2).fit(np.eye(2)).save(path)
        assert path.read_bytes() == before
        assert [f.name for f in tmp_path.iterdir()] == ["c"]

    def test_foreign_damaged_and_half_fitted_files_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c"
        with pytest.raises(TableError, match="cannot be read"):
            RQKMeans.load(path)
        by_hand().save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[:-8])
        with pytest.raises(TableError, match="cannot be read"):
            RQKMeans.load(path)
        save_file({"codebook_1": np.zeros((2, 2), np.float32)}, path)
        with pytest.raises(TableError, match=r"expected recbole_choir\.RQKMeans version 1"):
            RQKMeans.load(path)
        path.write_bytes(whole)
        tensors = load_file(path)
        header = {"format": "recbole_choir.RQKMeans", "version": "1"}
        save_file(tensors, path, header)
        with pytest.raises(TableError, match="settings"):
            RQKMeans.load(path)
        header["settings"] = '{"n_levels": 2, "n_clusters": [2, 3]}'
        save_file({"codebook_1": tensors["codebook_1"]}, path, header)
        with pytest.raises(TableError, match="not fully fitted"):
            RQKMeans.load(path)
        save_file({**tensors, "codebook_2": np.full((3, 2), np.nan, np.float32)}, path, header)
        with pytest.raises(TableError, match="codebook_2: expected finite"):
            RQKMeans.load(path)


def faiss_residual_error(x: np.ndarray, n_levels: int, n_bits: int) -> float:
    peer = faiss.ResidualQuantizer(x.shape[1], n_levels, n_bits)
    peer.max_beam_size = 1
    peer.train(x)
    return float(((x - peer.decode(peer.compute_codes(x))) ** 2).sum(1).mean())


def test_error_is_below_chained_faiss_kmeans() -> None:
    x = mixture(12_000, 32)
    residual = x.copy()
    for level in range(3):
        peer = faiss.Kmeans(32, 32, seed=level)
        peer.train(residual)
        residual = residual - peer.centroids[peer.index.search(residual, 1)[1][:, 0]]
    assert RQKMeans(3, 32).fit(x).reconstruction_error(x) < (residual**2).sum(1).mean()


@pytest.mark.slow
@pytest.mark.parametrize("d", [64, 128])
def test_error_is_no_worse_than_faiss_residual_quantizer(d: int) -> None:
    x = mixture(60_000, d)
    ours = RQKMeans(3, 128).fit(x).reconstruction_error(x)
    assert ours <= faiss_residual_error(x, 3, 7)
