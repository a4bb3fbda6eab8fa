"""RQ-VAE: losses, gradients and codes by hand, reproducibility, dead codes, files, the cache."""

from __future__ import annotations

import hashlib
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch_rechub.models.generative.rqvae import ResidualVectorQuantizer

from recbole_choir.errors import ConfigError, DataError, TableError
from recbole_choir.semantic.quantizers import rqvae_training
from recbole_choir.semantic.quantizers.base import fit_quantizer, load_quantizer, make_quantizer
from recbole_choir.semantic.quantizers.rqkmeans import RQKMeans
from recbole_choir.semantic.quantizers.rqvae import RQVAE
from recbole_choir.semantic.quantizers.rqvae_training import (
    Autoencoder,
    ResidualQuantizer,
    Settings,
    train,
)
from recbole_choir.settings.recipe import RQVAERecipe

SMALL: dict[str, Any] = {"latent": 4, "hidden": [16], "epochs": 12, "warm_epochs": 2}


def mixture(n: int, d: int, seed: int = 0, n_centres: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_centres, d))
    return (centres[rng.integers(n_centres, size=n)] + 0.2 * rng.standard_normal((n, d))).astype(
        np.float32
    )


def small(n_levels: int = 2, n_clusters: Any = 4, seed: int = 0, **more: Any) -> RQVAE:
    return RQVAE(n_levels, n_clusters, seed, **{**SMALL, **more})


def digest(quantizer: RQVAE, x: np.ndarray) -> str:
    data = b"".join(book.tobytes() for book in quantizer.codebooks)
    data += quantizer.latents(x).tobytes() + quantizer.encode(x).tobytes()
    return hashlib.sha256(data + quantizer.reconstruct(quantizer.encode(x)).tobytes()).hexdigest()


def by_hand() -> RQVAE:
    """Encoder and decoder that leave points without negative components as they are."""
    quantizer = RQVAE(2, [2, 3], latent=2, hidden=[2])
    same = [(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)) for _ in range(2)]
    quantizer._encoder, quantizer._decoder = same, same
    quantizer._mean, quantizer._scale = np.zeros(2, np.float32), 1.0
    quantizer.codebooks = [
        np.array([[0.0, 0.0], [10.0, 10.0]], np.float32),
        np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], np.float32),
    ]
    return quantizer


class TestNetwork:
    def quantizer(self) -> ResidualQuantizer:
        """One dimension: codewords 0 and 10, then 0 and 1."""
        quantizer = ResidualQuantizer([2, 2], 1, beta=0.25)
        for level, book in zip(quantizer.vq_layers, ([[0.0], [10.0]], [[0.0], [1.0]])):
            level.embedding.weight.data = torch.tensor(book)
        return quantizer

    def test_loss_and_gradients_by_hand(self) -> None:
        quantizer = self.quantizer()
        x = torch.tensor([[11.3]], requires_grad=True)
        out, loss, codes = quantizer(x)
        # 11.3 -> 10 leaves 1.3 -> 1 leaves .3
        assert codes.tolist() == [[1, 1]]
        assert out.item() == pytest.approx(11.0, abs=1e-5)
        assert loss.item() == pytest.approx(1.25 * (1.3**2 + 0.3**2) / 2, rel=1e-5)
        loss.backward()
        first, second = (level.embedding.weight.grad for level in quantizer.vq_layers)
        # the commitment of BOTH levels reaches the encoder: .25 * 2 * (1.3 + .3) / 2
        assert x.grad is not None
        assert x.grad.item() == pytest.approx(0.25 * 2 * (1.3 + 0.3) / 2, rel=1e-4)
        # the codewords feel their own level alone, the others nothing
        np.testing.assert_allclose(first.numpy(), [[0.0], [-1.3]], rtol=1e-4)
        np.testing.assert_allclose(second.numpy(), [[0.0], [-0.3]], rtol=1e-4)

    def test_straight_through(self) -> None:
        quantizer = self.quantizer()
        x = torch.tensor([[11.3], [0.2]], requires_grad=True)
        quantizer(x)[0].square().sum().backward()
        assert x.grad is not None
        # d out/dx = 1: twice the quantised value, 11 and 0
        np.testing.assert_allclose(x.grad.numpy(), [[22.0], [0.0]], atol=1e-4)
        assert quantizer.vq_layers[0].embedding.weight.grad is None

    def test_values_are_those_of_torch_rechub(self) -> None:
        torch.manual_seed(0)
        theirs = ResidualVectorQuantizer([5, 3], 6, sk_epsilons=[0.0, 0.0], beta=0.25)
        ours = ResidualQuantizer([5, 3], 6, beta=0.25)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(40, 6)
        for a, b in zip(ours(x), theirs(x, use_sk=False), strict=True):
            torch.testing.assert_close(a, b)

    def test_the_decoder_reaches_negative_numbers(self) -> None:
        torch.manual_seed(0)
        model = Autoencoder(6, [8], 3, beta=0.25, n_levels=2)
        out, loss, codes = model(torch.randn(200, 6))
        assert (out < 0).any()
        assert loss.item() == 0
        assert codes is None  # not started yet
        model.start([np.zeros((2, 3), np.float32), np.ones((4, 3), np.float32)])
        assert [tuple(book.shape) for book in model.codebooks()] == [(2, 3), (4, 3)]
        assert model(torch.randn(5, 6))[2].shape == (5, 2)

    def test_residual_before_a_level(self) -> None:
        quantizer = self.quantizer()
        x = torch.tensor([[11.3]])
        left = [quantizer.residual_before(x, level).item() for level in range(3)]
        assert left == pytest.approx([11.3, 1.3, 0.3], abs=1e-5)


class TestCodes:
    def test_codes_of_eq_3_and_ties_to_the_lowest_id(self) -> None:
        x = np.array([[11.0, 10.0], [0.2, 1.9], [5.0, 5.0], [0.0, 1.0]], np.float32)
        codes = by_hand().encode(x)
        assert codes.dtype == np.int32
        # (5, 5) is as near to (0, 0) as to (10, 10); then (0, 2) is nearest to (5, 5): 34 to 41.
        # (0, 1) is as near to (0, 0) as to (0, 2).
        assert codes.tolist() == [[1, 1], [0, 2], [0, 2], [0, 0]]

    def test_reconstruction_is_decoded_and_scaled_back(self) -> None:
        quantizer = by_hand()
        assert quantizer.reconstruct(np.array([[1, 1], [0, 2]])).tolist() == [[11, 10], [0, 2]]
        assert quantizer.reconstruct(np.array([[1], [0]])).tolist() == [[10, 10], [0, 0]]
        quantizer._mean, quantizer._scale = np.array([100.0, 200.0], np.float32), 2.0
        assert quantizer.reconstruct(np.array([[1, 1]])).tolist() == [[122, 220]]
        # (122 - 100) / 2 = 11, (218 - 200) / 2 = 9: codes (1, 1); off by 2
        x = np.array([[122.0, 218.0]])
        assert quantizer.encode(x).tolist() == [[1, 1]]
        assert quantizer.reconstruction_error(x) == pytest.approx(4.0)

    def test_codes_out_of_range_and_vectors_of_another_width(self) -> None:
        with pytest.raises(DataError, match=r"codes of level 2: expected 0\.\.2, got 3\.\.3"):
            by_hand().reconstruct(np.array([[0, 3]]))
        with pytest.raises(DataError, match="expected 2 columns as fitted, got 3"):
            by_hand().encode(np.zeros((4, 3)))
        with pytest.raises(DataError, match="nan or inf in 1 of 1 rows"):
            by_hand().encode(np.array([[np.nan, 0.0]]))

    def test_nothing_fitted(self) -> None:
        with pytest.raises(DataError, match="call fit or load first"):
            RQVAE(1, 2).encode(np.eye(2))

    def test_no_rows(self) -> None:
        assert by_hand().encode(np.zeros((0, 2))).shape == (0, 2)
        assert np.isnan(by_hand().reconstruction_error(np.zeros((0, 2))))

    def test_a_code_does_not_depend_on_the_other_rows(self) -> None:
        x = mixture(600, 10)
        quantizer = small(3, 6).fit(x)
        codes = quantizer.encode(x)
        one_by_one = np.concatenate([quantizer.encode(x[i : i + 1]) for i in range(0, 600, 11)])
        np.testing.assert_array_equal(codes[::11], one_by_one)
        np.testing.assert_array_equal(codes[::-1], quantizer.encode(x[::-1]))

    def test_far_away_vectors_have_codes_too(self) -> None:
        quantizer = small().fit(mixture(200, 5))
        codes = quantizer.encode(np.array([[1e14] * 5, [-1e14] * 5]))
        assert ((codes >= 0) & (codes < 4)).all()


class TestFit:
    def test_residuals_shrink_from_level_to_level(self) -> None:
        x = mixture(1500, 8)
        quantizer = small(4, [8, 4, 6, 3]).fit(x)
        assert [len(book) for book in quantizer.codebooks] == [8, 4, 6, 3]
        residual = quantizer.latents(x).astype(np.float64)
        codes = quantizer.encode(x)
        norms = [(residual**2).sum(1).mean()]
        for level, book in enumerate(quantizer.codebooks):
            residual = residual - book[codes[:, level]]
            norms.append((residual**2).sum(1).mean())
        assert all(a >= b for a, b in itertools.pairwise(norms))
        assert norms[-1] < 0.5 * norms[0]

    def test_separate_blobs_get_codes_of_their_own(self) -> None:
        rng = np.random.default_rng(0)
        centres = np.array([[0, 0, 9], [9, 0, 0], [0, 9, 0], [-9, -9, -9]], float)
        x = np.repeat(centres, 60, axis=0) + 0.3 * rng.standard_normal((240, 3))
        quantizer = small(1, 4, epochs=60, learning_rate=0.01).fit(x)
        codes = quantizer.encode(x)[:, 0].reshape(4, 60)
        assert [len(set(row)) for row in codes.tolist()] == [1, 1, 1, 1]
        assert len(set(codes[:, 0].tolist())) == 4
        # a new point belongs to its blob
        assert quantizer.encode(np.array([[8.5, 0.4, 0.2]]))[0, 0] == codes[1, 0]
        assert quantizer.report["unexplained"] < 0.05

    def test_report_is_what_a_second_count_finds(self) -> None:
        x = mixture(400, 6)
        quantizer = small(2, [5, 3]).fit(np.concatenate([x, x[:50]]))
        codes = quantizer.encode(x)
        report = quantizer.report
        text = [str(code) for code in codes.tolist()]
        assert report["collision_rate"] == sum(text.count(t) > 1 for t in text) / 400
        assert report["codewords_used"] == [len(set(codes[:, m])) for m in range(2)]
        assert report["codewords"] == [5, 3]
        assert report["fitted_on"] == 400  # copies count once
        assert report["held_out"] == 40
        assert report["reconstruction_error"] == pytest.approx(quantizer.reconstruction_error(x))
        variance = ((x - x.mean(0)) ** 2).sum(1).mean()
        assert report["unexplained"] == pytest.approx(
            report["reconstruction_error"] / variance, rel=1e-5
        )
        assert 1 <= report["best_epoch"] <= report["epochs"] <= 12

    def test_the_best_epoch_is_kept_and_patience_ends_training(self) -> None:
        x = mixture(500, 6)
        for patience in (1, 3):
            report = small(2, 4, epochs=300, patience=patience, learning_rate=0.02).fit(x).report
            assert report["epochs"] == report["best_epoch"] + patience < 300

    def test_it_learns(self) -> None:
        # on a circle in 8 dimensions, bent by the tanh: a line of codes, not a grid
        angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 1200)
        flat = np.stack([np.cos(angle), np.sin(angle)], 1)
        x = np.tanh(3 * flat @ np.random.default_rng(1).standard_normal((2, 8)))
        short, long = (
            small(1, 8, epochs=e, warm_epochs=0, learning_rate=0.005).fit(x).report["unexplained"]
            for e in (1, 40)
        )
        assert long < 0.6 * short

    def test_copies_of_a_row_change_nothing(self) -> None:
        x = mixture(300, 5)
        many = np.concatenate([x, np.repeat(x[:1], 900, axis=0)])
        assert digest(small().fit(many), x) == digest(small().fit(x), x)

    @settings(max_examples=15, deadline=None)
    @given(
        x=arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 5)),
                 elements=st.integers(-3, 3).map(float)),
        k=st.integers(1, 6),
        shift=st.sampled_from([0.0, 1e4]),
    )  # fmt: skip
    def test_any_data(self, x: np.ndarray, k: int, shift: float) -> None:
        quantizer = RQVAE(2, k, latent=2, hidden=[4], epochs=1, warm_epochs=1).fit(x + shift)
        codes = quantizer.encode(x + shift)
        for level, book in enumerate(quantizer.codebooks):
            assert 1 <= len(book) <= min(k, len(np.unique(x, axis=0)))
            assert np.isfinite(book).all()
            assert codes[:, level].min() >= 0
            assert codes[:, level].max() < len(book)
        assert np.isfinite(quantizer.reconstruct(codes)).all()
        assert np.isfinite(quantizer.report["unexplained"])


class TestReproducible:
    def test_same_seed_same_bits(self) -> None:
        x = mixture(500, 6)
        first, second = small(seed=3).fit(x), small(seed=3).fit(x)
        assert digest(first, x) == digest(second, x)
        assert first.report == second.report
        assert digest(small(seed=4).fit(x), x) != digest(first, x)

    def test_nobody_elses_randomness_or_threads_or_input_change(self) -> None:
        x = mixture(200, 5)
        before = x.copy()
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        expected = torch.rand(3), np.random.random(3), torch.get_num_threads()  # noqa: NPY002
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        small(epochs=2).fit(x)
        assert torch.equal(torch.rand(3), expected[0])
        assert np.array_equal(np.random.random(3), expected[1])  # noqa: NPY002
        assert torch.get_num_threads() == expected[2]
        np.testing.assert_array_equal(x, before)

    def test_no_bar_and_no_line_of_torch_rechub(self, capfd: pytest.CaptureFixture[str]) -> None:
        small(epochs=2).fit(mixture(200, 5))
        out, err = capfd.readouterr()
        assert (out, err) == ("", "")

    def test_same_bits_with_any_number_of_threads(self) -> None:
        x = mixture(300, 6)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            three = digest(small(epochs=3).fit(x), x)
            assert torch.get_num_threads() == 3
            torch.set_num_threads(1)
            assert digest(small(epochs=3).fit(x), x) == three
        finally:
            torch.set_num_threads(before)


class TestEpochs:
    def batches(self, n: int, size: int) -> rqvae_training._Batches:
        return rqvae_training._Batches(torch.arange(float(n))[:, None], size, seed=0)

    def test_few_vectors_make_small_batches_and_one_pass(self) -> None:
        for n, size, steps in ((300, 1024, 5), (2000, 1024, 20), (2000, 50, 40), (3, 1024, 1)):
            batches = self.batches(n, size)
            assert len(batches) == steps
            epoch = [b[:, 0].tolist() for b in batches]
            assert len(epoch) == steps
            assert sorted(v for batch in epoch for v in batch) == list(range(n))
            assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
        assert [b[:, 0].tolist() for b in batches] != epoch or n == 3

    def test_many_vectors_are_gone_through_in_several_epochs(self) -> None:
        batches = self.batches(600, 5)  # 120 batches, 50 an epoch
        seen: list[float] = []
        for _ in range(12):
            assert len(batches) == 50
            seen += [v for b in batches for v in b[:, 0].tolist()]
        assert len(seen) == 12 * 50 * 5
        passes = [seen[i : i + 600] for i in range(0, 3000, 600)]
        assert all(sorted(p) == list(range(600)) for p in passes)
        assert passes[0] != passes[1]  # in a new order each


class TestDeadCodes:
    def run(self, epochs: int) -> tuple[np.ndarray, Any]:
        """The second codeword starts where no vector ever comes."""
        x = mixture(300, 5)

        def start(latents: np.ndarray) -> list[np.ndarray]:
            first = np.stack([latents.mean(0), np.full(latents.shape[1], 1e3, np.float32)])
            return [first, np.zeros((1, latents.shape[1]), np.float32)]

        sizes = Settings(3, [8], 0.25, epochs, 1, 64, 1e-3, epochs, 0)
        return x, train(x[:250], x[250:], 2, start, sizes)

    def test_a_codeword_without_vectors_takes_a_vectors_residual(self) -> None:
        _, trained = self.run(epochs=6)
        assert trained.dead_codes_reset == 1
        assert np.abs(trained.codebooks[0]).max() < 100

    def test_nothing_is_reset_after_the_last_epoch(self) -> None:
        _, trained = self.run(epochs=1)
        assert trained.dead_codes_reset == 0
        np.testing.assert_allclose(trained.codebooks[0][1], 1e3)  # it never moved either

    def test_where_it_goes_and_what_adam_forgets(self) -> None:
        torch.manual_seed(0)
        x = mixture(50, 3)
        model = Autoencoder(3, [4], 2, beta=0.25, n_levels=2)
        model.start([np.zeros((1, 2), np.float32), np.full((3, 2), 500.0, np.float32)])
        weight = model.rq.vq_layers[1].embedding.weight
        weight.data[0] = 0.0
        run = rqvae_training._Run(model, x, x, Settings(2, [4], 0.25, 1, 0, 64, 1e-3, 1, 0), "cpu")
        optimizer = run._trainer().optimizer
        optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": torch.ones(3, 2)}
        assert [u.tolist() for u in run._usage()] == [[50], [50, 0, 0]]
        assert run._reset_dead_codes(optimizer) == 2
        latents = run.latents()  # the first level takes nothing away: residuals are latents
        for row in weight.detach().numpy()[1:]:
            assert np.abs(latents - row).sum(1).min() < 1e-6
        assert weight[0].tolist() == [0.0, 0.0]
        assert optimizer.state[weight]["exp_avg"].tolist() == [[1, 1], [0, 0], [0, 0]]


class TestFewPoints:
    def test_fewer_distinct_points_than_k_lower_k(self, caplog: pytest.LogCaptureFixture) -> None:
        x = np.repeat(np.array([[0.0, 1], [2, 3], [4, 9]]), 10, axis=0)
        with caplog.at_level(logging.INFO):
            quantizer = small(2, 5).fit(x)
        assert [len(book) for book in quantizer.codebooks] == [3, 1]
        assert len(np.unique(quantizer.encode(x)[:, 0])) == 3
        assert "level 1: need >= 5 points to fit the codebook, got 3" in caplog.text
        assert quantizer.n_clusters == [5, 5]
        assert quantizer.report["held_out"] == 0

    def test_or_are_an_error(self) -> None:
        x = np.repeat(np.eye(3), 10, axis=0)
        with pytest.raises(DataError, match=r"need >= 5 points to fit the codebook, got 3"):
            small(2, 5, on_few_points="raise").fit(x)
        with pytest.raises(DataError, match="need >= 4 points to fit the codebook, got 0"):
            small().fit(np.zeros((0, 3)))

    def test_one_point(self) -> None:
        quantizer = small(2, 3).fit(np.full((4, 2), 7.0))
        assert quantizer.encode(np.full((1, 2), 7.0)).tolist() == [[0, 0]]
        assert quantizer.report["unexplained"] == 0.0


class TestMistakes:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_levels": 0}, "n_levels: expected a number >= 1"),
            ({"n_clusters": [2]}, "one number or 2, one per level, got 1"),
            ({"latent": 0}, "rqvae latent: expected a number >= 1, got 0"),
            ({"hidden": [8, 0]}, "rqvae hidden"),
            ({"hidden": []}, "rqvae hidden"),
            ({"learning_rate": 0.0}, "learning_rate > 0"),
            ({"on_few_points": "shrug"}, "'shrink' or 'raise'"),
        ],
    )
    def test_settings(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            RQVAE(**{"n_levels": 2, "n_clusters": 3, **change})

    def test_a_loss_that_is_not_finite_is_one_line(self) -> None:
        quantizer = small(learning_rate=1e18)
        with pytest.raises(DataError, match=r"rqvae: .*lower rqvae\.learning_rate") as caught:
            quantizer.fit(mixture(200, 5))
        assert "\n" not in str(caught.value)
        assert quantizer.codebooks == []  # no half of it


class TestFiles:
    def test_save_and_load_give_the_same_codes(self, tmp_path: Path) -> None:
        x = mixture(300, 6)
        quantizer = small(3, [4, 3, 90], seed=5).fit(x[:200])
        quantizer.save(tmp_path / "new" / "codebooks.safetensors")
        loaded = RQVAE.load(tmp_path / "new" / "codebooks.safetensors")
        assert digest(loaded, x) == digest(quantizer, x)  # x[200:] are new to both
        assert loaded.report == quantizer.report
        assert loaded.settings() == quantizer.settings()
        assert [f.name for f in (tmp_path / "new").iterdir()] == ["codebooks.safetensors"]

    def test_nothing_fitted_is_not_saved(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="call fit"):
            RQVAE(1, 2).save(tmp_path / "c")
        assert list(tmp_path.iterdir()) == []

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "c"
        by_hand().save(path)
        assert RQVAE.load(path).encode(np.array([[11.0, 10.0]])).tolist() == [[1, 1]]
        return path

    def rewritten(self, path: Path, drop: str = "", **changes: Any) -> None:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata())
        del header["digest"]
        tensors = load_file(path)
        for name, value in changes.items():
            (tensors if isinstance(value, np.ndarray) else header)[name] = value
        tensors.pop(drop, None)
        header.pop(drop, None)
        save_file(tensors, path, header)

    def test_cut_short(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(TableError, match="the RQ-VAE cannot be read"):
            RQVAE.load(path)

    def test_one_damaged_byte(self, path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[-5] ^= 1
        path.write_bytes(bytes(whole))
        with pytest.raises(TableError, match="damaged, the digest differs"):
            RQVAE.load(path)

    @pytest.mark.parametrize(
        ("drop", "changes", "message"),
        [
            ("codebook_2", {}, "not fully fitted"),
            ("encoder_1_bias", {}, "not fully fitted"),
            ("mean", {}, "not fully fitted"),
            ("fitted", {}, "not fully fitted"),
            ("", {"fitted": "false"}, "not fully fitted"),
            ("settings", {}, "the settings cannot be read"),
            ("", {"scale": (0.0).hex()}, "a scale above 0"),
            ("", {"format": "other"}, r"expected recbole_choir\.RQVAE version 1"),
            ("", {"decoder_0_weight": np.zeros((3, 2), np.float32)}, r"float32 \[2, 2\]"),
            ("", {"decoder_0_bias": np.full(2, np.nan, np.float32)}, "expected finite"),
            ("", {"codebook_2": np.zeros((4, 2), np.float32)}, r"codebook_2: .*\[1\.\.3, 2\]"),
            ("", {"codebook_1": np.zeros((2, 3), np.float32)}, r"codebook_2: .*\[1\.\.3, 3\]"),
        ],
    )
    def test_half_fitted_and_foreign_files_are_refused(
        self, path: Path, drop: str, changes: dict[str, Any], message: str
    ) -> None:
        self.rewritten(path, drop, **changes)
        with pytest.raises(TableError, match=message) as caught:
            RQVAE.load(path)
        assert "\n" not in str(caught.value)


class TestQuantizer:
    def test_either_kind_is_made_and_read_back(self, tmp_path: Path) -> None:
        x = mixture(200, 5)
        sizes = RQVAERecipe(latent=3, hidden=[8], epochs=2, warm_epochs=1, beta=0.5)
        for kind, expected in (("rqkmeans", RQKMeans), ("rqvae", RQVAE)):
            quantizer = make_quantizer(kind, 2, [3, 4], 7, sizes).fit(x)
            assert isinstance(quantizer, expected)
            quantizer.save(tmp_path / kind)
            loaded = load_quantizer(tmp_path / kind)
            assert isinstance(loaded, expected)
            np.testing.assert_array_equal(loaded.encode(x), quantizer.encode(x))
            assert (loaded.n_levels, loaded.n_clusters, loaded.seed) == (2, [3, 4], 7)
        assert load_quantizer(tmp_path / "rqvae").settings()["beta"] == 0.5
        with pytest.raises(TableError, match="cannot be read"):
            load_quantizer(tmp_path / "none")
        with pytest.raises(ConfigError, match=r"got 'rqvea' \(did you mean 'rqvae'\?\)"):
            make_quantizer("rqvea", 2, 3)

    def test_a_fit_is_not_repeated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        x = mixture(200, 5)
        first = fit_quantizer(small(), x, tmp_path)
        files = list((tmp_path / "quantizers").iterdir())
        assert len(files) == 1
        with monkeypatch.context() as patch:
            patch.setattr(RQVAE, "fit", lambda self, x: pytest.fail("fitted again"))
            again = fit_quantizer(small(), x.copy(), tmp_path)
            assert isinstance(again, RQVAE)
            assert digest(again, x) == digest(first, x)  # type: ignore[arg-type]
            assert again.report == first.report  # type: ignore[attr-defined]
            for other, y in ((small(seed=1), x), (small(beta=0.3), x), (small(), x[1:])):
                with pytest.raises(pytest.fail.Exception, match="fitted again"):
                    fit_quantizer(other, y, tmp_path)
        files[0].write_bytes(files[0].read_bytes()[:-9])
        repaired = fit_quantizer(small(), x, tmp_path)
        assert "fitted again" in caplog.text
        assert digest(repaired, x) == digest(first, x)  # type: ignore[arg-type]
        assert digest(RQVAE.load(files[0]), x) == digest(first, x)  # type: ignore[arg-type]
        # k-means costs seconds and is not kept
        fit_quantizer(RQKMeans(2, 3), x, tmp_path)
        assert list((tmp_path / "quantizers").iterdir()) == files


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trained_on_a_gpu() -> None:
    x = mixture(3000, 16)
    runs = [small(2, 8, device="cuda").fit(x) for _ in range(2)]
    assert digest(runs[0], x) == digest(runs[1], x)
    assert runs[0].report["unexplained"] == pytest.approx(
        small(2, 8).fit(x).report["unexplained"], rel=0.1
    )
