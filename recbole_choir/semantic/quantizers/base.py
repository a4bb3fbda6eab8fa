"""The quantisers behind one interface, and a fitted one kept between runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from recbole_choir.errors import ConfigError, DataError, TableError, nearest
from recbole_choir.semantic.quantizers import rqvae
from recbole_choir.semantic.quantizers.codebooks import fit_figures
from recbole_choir.semantic.quantizers.points import as_points
from recbole_choir.semantic.quantizers.quantizer import Quantizer
from recbole_choir.semantic.quantizers.rqkmeans import RQKMeans
from recbole_choir.semantic.quantizers.rqvae import RQVAE
from recbole_choir.semantic.storage.tensor_file import kind_of
from recbole_choir.settings.recipe import RQVAERecipe

logger = logging.getLogger(__name__)

QuantizerKind = Literal["rqkmeans", "rqvae"]

#: Raise it when the same settings and vectors give another RQ-VAE than before.
_ALGORITHM: Final = 1
_MEASURED: Final = 100_000
_KINDS: Final = ("rqkmeans", "rqvae")


def make_quantizer(
    kind: str,
    n_levels: int,
    n_clusters: int | Sequence[int],
    seed: int = 0,
    settings: RQVAERecipe | None = None,
    *,
    device: str | None = None,
    show_progress: bool = False,
) -> Quantizer:
    """A quantiser, not fitted yet.

    Args:
        kind: ``rqkmeans`` or ``rqvae``.
        n_levels: Levels M.
        n_clusters: Codewords at each level: one number for all, or one per level.
        seed: Seed of every random choice.
        settings: Sizes and training of an RQ-VAE; its defaults if None.
        device: Torch device an RQ-VAE is trained on; the CPU if None.
        show_progress: Show a bar of an RQ-VAE's epochs.

    Raises:
        ConfigError: There is no such kind, or a number is out of range.
    """
    if kind == "rqkmeans":
        return RQKMeans(n_levels, n_clusters, seed)
    if kind == "rqvae":
        sizes = (settings or RQVAERecipe()).model_dump()
        return RQVAE(
            n_levels, n_clusters, seed, device=device, show_progress=show_progress, **sizes
        )
    raise ConfigError(
        f"quantizer: expected one of {', '.join(_KINDS)}, got '{kind}'{nearest(kind, _KINDS)}"
    )


def load_quantizer(path: str | Path) -> Quantizer:
    """Read a quantiser of either kind.

    Raises:
        TableError: There is no such file, it is damaged, something else's, or not fully fitted.
    """
    if kind_of(path, "the codebooks") == rqvae.FORMAT:
        return RQVAE.load(path)
    return RQKMeans.load(path)


def fit_quantizer(
    quantizer: Quantizer, x: NDArray[np.float32], cache_dir: str | Path | None = None
) -> Quantizer:
    """Fit a quantiser, or take the one that was fitted on the same vectors with the same settings.

    Only an RQ-VAE is kept: its training is what a killed run would have to do again.

    Args:
        quantizer: Not fitted.
        x: Vectors [n, D].
        cache_dir: Folder with what was fitted before; nothing is kept if None.

    Returns:
        A fitted quantiser, not always the one given.

    Raises:
        DataError: The vectors cannot be fitted, or the folder cannot be written.
    """
    if cache_dir is None or not isinstance(quantizer, RQVAE):
        return quantizer.fit(x)
    points = as_points(x)
    path = Path(cache_dir) / "quantizers" / f"{_key(quantizer, points)}.safetensors"
    if path.is_file():
        try:
            found = RQVAE.load(path)
        except TableError as error:
            logger.warning("%s: fitted again", error)
        else:
            logger.info("rqvae: fitted before on the same %d vectors, reused", len(points))
            return found
    quantizer.fit(points)
    try:
        quantizer.save(path)
    except OSError as error:
        raise DataError(f"{path}: the RQ-VAE cannot be kept: {error.strerror or error}") from error
    return quantizer


def quantizer_report(quantizer: Quantizer, x: NDArray[np.float32]) -> dict[str, Any]:
    """How well a quantiser stands for the vectors it was fitted on, as plain values.

    Args:
        quantizer: Fitted.
        x: The distinct vectors [n, D] it was fitted on. Of more than 100,000, evenly spaced ones
            are measured.

    Returns:
        ``kind``, ``fitted_on``, ``codewords`` per level, the figures of
        :func:`~.codebooks.fit_figures`, and for an RQ-VAE how its training went.
    """
    if isinstance(quantizer, RQVAE):
        return {"kind": "rqvae", **quantizer.report}
    points = as_points(x)[:: 1 + len(x) // (_MEASURED + 1)]
    codes = quantizer.encode(points)
    return {
        "kind": "rqkmeans",
        "fitted_on": len(x),
        "codewords": [len(book) for book in quantizer.codebooks],
        **fit_figures(points, codes, quantizer.reconstruct(codes)),
    }


def _key(quantizer: RQVAE, points: NDArray[np.float32]) -> str:
    made_by = {name: metadata.version(name) for name in ("torch", "torch-rechub")}
    made_by["device"] = quantizer.device or "cpu"  # another device, other bits
    parts = {"settings": quantizer.settings(), "algorithm": _ALGORITHM, "made_by": made_by}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(f"{points.shape}".encode())
    digest.update(points.tobytes())
    return digest.hexdigest()[:32]
