"""RQ-VAE: codes of several levels in a latent space learned with them (AKT-Rec 3.1.2)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, DataError, TableError
from recbole_choir.semantic.quantizers.codebooks import (
    check_on_few_points,
    checked_codebooks,
    codebook_name,
    codebook_sizes,
    fit_figures,
)
from recbole_choir.semantic.quantizers.points import as_points, distinct_points, points_of_width
from recbole_choir.semantic.quantizers.quantizer import Quantizer
from recbole_choir.semantic.quantizers.rqkmeans import RQKMeans
from recbole_choir.semantic.storage.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    from recbole_choir.semantic.quantizers.rqvae_training import Trained

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Layers = list[tuple[Float32, Float32]]

FORMAT: Final = "recbole_choir.RQVAE"
_VERSION: Final = 1
_HELD_OUT: Final = 0.1
_MOST_HELD_OUT: Final = 50_000
# Training vectors per codeword below which none are held out: they are needed.
_PER_CODEWORD: Final = 10
_BLOCK: Final = 65_536
# Vectors closer together than this are one point.
_LEAST_SCALE: Final = 1e-30
# A latent farther off is cut: its square would overflow, and its codes stay the same.
_LARGEST: Final = 1e15


class RQVAE(Quantizer):
    """Residual quantization in the latent space of an autoencoder, all of it trained together.

    ::

        z    = (x - mean) / scale                       of the fitted vectors
        r_0  = E(z)
        for each level m:
            id_m = argmin_k |r_{m-1} - e_m,k|^2
            r_m  = r_{m-1} - e_m,id_m                   (Eq. 3)
        x^   = D(sum of the codewords)
        loss = mean (z - D)^2 + mean over m of |sg(r) - e|^2 + beta |r - sg(e)|^2

    Network and trainer are torch-rechub's (:mod:`.rqvae_network`, :mod:`.rqvae_training`), used in
    ``fit`` alone: codes of fitted vectors and of new ones come from the stored weights in float64,
    on the CPU, the lowest id where two codewords are equally near. So a vector has the same code
    wherever it was trained, whatever it came with, and in any number of threads.

    Vectors that are equal count once in ``fit``. The same vectors in the same order, seed and
    library versions give the same bits on one kind of processor.

    Args:
        n_levels: Levels M; the paper uses 3.
        n_clusters: Codewords K at each level: one number for all, or one per level.
        seed: Seed of every random choice.
        latent: Width of the latent. Default 32 (docs/gaps.md A10).
        hidden: Hidden widths of the encoder; the decoder mirrors them.
        beta: Weight of the commitment loss. Default 0.25.
        epochs: Epochs with the quantiser at most. An epoch has 20 to 50 steps: of small data it is
            one pass, of large data a part of one.
        warm_epochs: Epochs of the autoencoder before the codebooks are started by k-means.
            Default 10: started from an untrained encoder's latents, it lost 1 to 6 % more of the
            variance on MovieLens-1M.
        batch_size: Vectors of a step at most; fewer where an epoch would have less than 20 steps.
        learning_rate: Of Adam.
        patience: Epochs without a lower error on held-out vectors after which training stops.
        on_few_points: What to do where there are fewer distinct vectors than K: ``shrink`` lowers K
            and logs it, ``raise`` is an error.
        device: Torch device of the training. None: the CPU, where the bits are the same from run
            to run.
        show_progress: Show a bar of the epochs.

    Attributes:
        codebooks: One float32 array [K_m, latent] per level; empty before ``fit``. K_m is smaller
            than asked where the level had too few distinct vectors.
        report: How training went: ``fitted_on`` and ``held_out`` vectors, ``epochs``,
            ``best_epoch``, ``held_out_unexplained`` (share of the held-out vectors' variance),
            ``dead_codes_reset``, ``codewords`` per level, and the figures of
            :func:`~.codebooks.fit_figures`; empty before ``fit``.

    Raises:
        ConfigError: A number is out of range, or ``n_clusters`` has not one entry per level.

    References:
        AKT-Rec, section 3.1.2, Eq. 3; docs/gaps.md A9, A10.
    """

    def __init__(
        self,
        n_levels: int,
        n_clusters: int | Sequence[int],
        seed: int = 0,
        *,
        latent: int = 32,
        hidden: Sequence[int] = (256, 128),
        beta: float = 0.25,
        epochs: int = 200,
        warm_epochs: int = 10,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        patience: int = 20,
        on_few_points: Literal["shrink", "raise"] = "shrink",
        device: str | None = None,
        show_progress: bool = False,
    ) -> None:
        self.n_levels = n_levels
        self.n_clusters = codebook_sizes(n_levels, n_clusters)
        self.seed = int(seed)
        self.latent = latent
        self.hidden = [int(width) for width in hidden]
        self.beta = float(beta)
        self.epochs = epochs
        self.warm_epochs = warm_epochs
        self.batch_size = batch_size
        self.learning_rate = float(learning_rate)
        self.patience = patience
        self.on_few_points = on_few_points
        self.device = device
        self.show_progress = show_progress
        counts = {"latent": latent, "epochs": epochs, "batch_size": batch_size}
        counts |= {"patience": patience, "hidden": min(self.hidden, default=0)}
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"rqvae {name}: expected a number >= 1, got {value}")
        if warm_epochs < 0 or not self.beta >= 0 or not self.learning_rate > 0:
            raise ConfigError(
                "rqvae: expected warm_epochs >= 0, beta >= 0 and learning_rate > 0, "
                f"got {warm_epochs}, {self.beta}, {self.learning_rate}"
            )
        check_on_few_points(on_few_points)
        self.codebooks: list[Float32] = []
        self.report: dict[str, Any] = {}
        self._encoder: Layers = []
        self._decoder: Layers = []
        self._mean: Float32 = np.zeros(0, np.float32)
        self._scale = 1.0

    def fit(self, x: NDArray[Any]) -> RQVAE:
        """Train encoder, codebooks and decoder.

        Args:
            x: Vectors [n, D], any real type.

        Returns:
            Itself.

        Raises:
            DataError: ``x`` is not [n, D], holds nan or inf, has no rows, or has fewer distinct
                rows than K with ``on_few_points='raise'``; or the loss is not finite.
        """
        rows = distinct_points(as_points(x))  # [n, D]
        if len(rows) == 0:
            raise DataError(f"need >= {self.n_clusters[0]} points to fit the codebook, got 0")
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = float(np.sqrt(np.mean((rows.astype(np.float64) - mean) ** 2)))
        scale = scale if scale > _LEAST_SCALE else 1.0
        standard = ((rows.astype(np.float64) - mean) / scale).astype(np.float32)
        fitted, held_out = self._parts(standard)
        trained = self._train(fitted, held_out)
        # only now: a failed fit leaves no half of it
        self._mean, self._scale = mean, scale
        self._encoder, self._decoder = trained.encoder, trained.decoder
        self.codebooks = trained.codebooks
        n_held_out = len(rows) - len(fitted)
        self.report = self._reported(rows, trained, n_held_out)
        return self

    def _parts(self, x: Float32) -> tuple[Float32, Float32]:
        """Vectors to train on and held-out ones; the same twice where there are few."""
        order = np.random.default_rng(self.seed).permutation(len(x))
        n = min(round(_HELD_OUT * len(x)), _MOST_HELD_OUT)
        if n == 0 or len(x) - n < _PER_CODEWORD * max(self.n_clusters):
            return x[order], x[order]
        return x[order[n:]], x[order[:n]]

    def _train(self, fitted: Float32, held_out: Float32) -> Trained:
        # torch-rechub takes seconds to import, and reading codes does not need it
        from recbole_choir.semantic.quantizers.rqvae_training import Settings, train

        settings = Settings(
            self.latent,
            self.hidden,
            self.beta,
            self.epochs,
            self.warm_epochs,
            self.batch_size,
            self.learning_rate,
            self.patience,
            self.seed,
        )
        device = self.device or "cpu"
        return train(
            fitted, held_out, self.n_levels, self._start, settings, device, self.show_progress
        )

    def _start(self, latents: Float32) -> list[Float32]:
        first = RQKMeans(
            self.n_levels, self.n_clusters, self.seed, on_few_points=self.on_few_points
        )
        return first.fit(latents).codebooks

    def _reported(self, rows: Float32, trained: Trained, n_held_out: int) -> dict[str, Any]:
        codes = self.encode(rows)
        return {
            "fitted_on": len(rows),
            "held_out": n_held_out,
            "epochs": trained.epochs,
            "best_epoch": trained.best_epoch,
            "held_out_unexplained": trained.held_out_error,
            "dead_codes_reset": trained.dead_codes_reset,
            "codewords": [len(book) for book in self.codebooks],
            **fit_figures(rows, codes, self.reconstruct(codes)),
        }

    def latents(self, x: NDArray[Any]) -> Float32:
        """The encoder's output, which the codebooks quantise.

        Args:
            x: Vectors [n, D], fitted ones or new.

        Returns:
            float32 [n, latent].

        Raises:
            DataError: Nothing is fitted, ``x`` has another number of columns than fitted, or it
                holds nan or inf.
        """
        self._fitted()
        points = points_of_width(x, len(self._mean))
        out = np.empty((len(points), self.latent), dtype=np.float32)
        for start in range(0, len(points), _BLOCK):
            block = points[start : start + _BLOCK].astype(np.float64)
            standard = (block - self._mean) / self._scale
            out[start : start + _BLOCK] = _forward(standard, self._encoder)
        return np.clip(out, -_LARGEST, _LARGEST) + np.float32(0.0)

    def _into(self, x: NDArray[Any]) -> Float32:
        return self.latents(x)

    def _out_of(self, x: Float32) -> Float32:
        """What the decoder makes of sums of codewords."""
        out = np.empty((len(x), len(self._mean)), dtype=np.float32)
        for start in range(0, len(x), _BLOCK):
            block = x[start : start + _BLOCK].astype(np.float64)
            out[start : start + _BLOCK] = _forward(block, self._decoder) * self._scale + self._mean
        return out

    def save(self, path: str | Path) -> None:
        """Write weights, codebooks and report as safetensors; whole or not at all.

        Args:
            path: File to write; its folder is made if need be.

        Raises:
            DataError: Nothing is fitted.
        """
        tensors = {codebook_name(m): book for m, book in enumerate(self._fitted())}
        for part, layers in (("encoder", self._encoder), ("decoder", self._decoder)):
            for i, (weight, bias) in enumerate(layers):
                tensors |= {f"{part}_{i}_weight": weight, f"{part}_{i}_bias": bias}
        tensors["mean"] = self._mean
        values = {
            "settings": json.dumps(self.settings(), sort_keys=True),
            "report": json.dumps(self.report),
            "scale": self._scale.hex(),
            "fitted": "true",
        }
        write_tensors(path, FORMAT, _VERSION, tensors, values)

    @classmethod
    def load(cls, path: str | Path) -> RQVAE:
        """Read what ``save`` wrote.

        Args:
            path: The file.

        Raises:
            TableError: There is no such file, it is damaged, something else's, or not fully
                fitted.
        """
        tensors, header = read_tensors(path, FORMAT, _VERSION, "the RQ-VAE")
        try:
            quantizer = cls(**json.loads(header["settings"]))
            report, scale = json.loads(header["report"]), float.fromhex(header["scale"])
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{path}: the settings cannot be read: {error}") from error
        if header.get("fitted") != "true" or "mean" not in tensors:
            raise TableError(f"{path}: expected a fitted RQ-VAE, got one not fully fitted")
        mean = tensors["mean"]
        shapes = quantizer._shapes(mean.shape[-1] if mean.ndim else 0)
        names = [codebook_name(m) for m in range(quantizer.n_levels)]
        _check_shapes({k: v for k, v in tensors.items() if k not in names}, shapes, names, path)
        if any(name not in tensors for name in names):
            raise TableError(f"{path}: expected {names}, got {sorted(tensors)}: not fully fitted")
        books = checked_codebooks(tensors, quantizer.n_clusters, path)
        if books[0].shape[1] != quantizer.latent or not 0 < scale < float("inf"):
            raise TableError(
                f"{path}: expected codewords of width {quantizer.latent} and a scale above 0, "
                f"got {books[0].shape[1]} and {scale}"
            )
        n_layers = len(quantizer.hidden) + 1
        quantizer._encoder, quantizer._decoder = (
            [(tensors[f"{p}_{i}_weight"], tensors[f"{p}_{i}_bias"]) for i in range(n_layers)]
            for p in ("encoder", "decoder")
        )
        quantizer._mean, quantizer._scale = mean, scale
        quantizer.codebooks, quantizer.report = books, report
        return quantizer

    def settings(self) -> dict[str, Any]:
        """What decides about the result of ``fit``, as plain values."""
        names = (
            "n_levels", "n_clusters", "seed", "latent", "hidden", "beta", "epochs", "warm_epochs",
            "batch_size", "learning_rate", "patience", "on_few_points",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of a file but the codebooks, for vectors of that width."""
        widths = [width, *self.hidden, self.latent]
        shapes: dict[str, tuple[int, ...]] = {"mean": (width,)}
        for part, sizes in (("encoder", widths), ("decoder", widths[::-1])):
            for i in range(len(sizes) - 1):
                shapes[f"{part}_{i}_weight"] = (sizes[i + 1], sizes[i])
                shapes[f"{part}_{i}_bias"] = (sizes[i + 1],)
        return shapes


def _forward(x: NDArray[np.float64], layers: Layers) -> NDArray[np.float64]:
    """Linear layers with a ReLU between any two, in float64."""
    for i, (weight, bias) in enumerate(layers):
        if i:
            x = np.maximum(x, 0.0)
        x = x @ weight.T.astype(np.float64) + bias
    return x


def _check_shapes(
    tensors: dict[str, NDArray[Any]],
    shapes: dict[str, tuple[int, ...]],
    codebooks: list[str],
    path: str | Path,
) -> None:
    if sorted(tensors) != sorted(shapes):
        raise TableError(
            f"{path}: expected {sorted([*shapes, *codebooks])}, got {sorted(tensors)} next to the "
            "codebooks: not fully fitted"
        )
    for name, shape in shapes.items():
        got = tensors[name]
        if got.dtype != np.float32 or got.shape != shape or not np.isfinite(got).all():
            raise TableError(
                f"{path}: {name}: expected finite float32 {list(shape)}, "
                f"got {got.dtype} {list(got.shape)}"
            )
