"""The network of the RQ-VAE: torch-rechub's, with what would keep it from Eq. 3 put right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_rechub.models.generative.rqvae import ResidualVectorQuantizer, RQVAEModel


class ResidualQuantizer(ResidualVectorQuantizer):  # type: ignore[misc]
    """torch-rechub's levels, each with its own codebook, passing on the plain residual.

    ::

        id_m = argmin_k |r_{m-1} - e_k|^2,   r_m = r_{m-1} - e_{id_m}               (Eq. 3)
        L_q  = mean over m of  |sg(r_{m-1}) - e_{id_m}|^2 + beta |r_{m-1} - sg(e_{id_m})|^2
        out  = x + sg(sum_m e_{id_m} - x)                                   (straight-through)

    torch-rechub subtracts the straight-through output of a level, whose gradient cancels that of
    the residual: the commitment of the levels below the first would never reach the encoder. Here
    the codeword itself is subtracted.

    Args:
        sizes: Codewords K of each level.
        latent: Width of the latent.
        beta: Weight of the commitment loss.
    """

    def __init__(self, sizes: Sequence[int], latent: int, beta: float) -> None:
        # epsilon 0: the nearest codeword. Sinkhorn's balanced assignment would break clusters up,
        # while here ids are meant to be shared (AKT-Rec 3.1.2).
        super().__init__(list(sizes), latent, sk_epsilons=[0.0] * len(sizes), beta=beta)

    def forward(self, x: Tensor, use_sk: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise latents [B, latent]: the quantised ones, the loss, and codes [B, M]."""
        residual = x
        losses, codes = [], []
        for level in self.vq_layers:
            _, loss, code = level(residual, use_sk=False)
            residual = residual - level.get_codebook_entry(code).detach()
            losses.append(loss)
            codes.append(code)
        quantised = x - residual.detach()  # the sum of the codewords, with the gradient of x
        return quantised, torch.stack(losses).mean(), torch.stack(codes, dim=-1)

    def residual_before(self, x: Tensor, level: int) -> Tensor:
        """What the levels before ``level`` (from 0) leave of latents [B, latent]."""
        residual = x
        for earlier in self.vq_layers[:level]:
            code = earlier(residual, use_sk=False)[2]
            residual = residual - earlier.get_codebook_entry(code)
        return residual


class Autoencoder(RQVAEModel):  # type: ignore[misc]
    """torch-rechub's RQ-VAE with an encoder and decoder whose last layer is linear.

    torch-rechub's end in batch normalisation and ReLU: a reconstruction could have no negative
    component, and a code would depend on the batch it was trained in. The losses are those of the
    base class: mean squared error of the reconstruction plus that of the quantiser.

    Args:
        width: Width of the vectors.
        hidden: Hidden widths of the encoder; the decoder mirrors them.
        latent: Width of the latent.
        beta: Weight of the commitment loss.
        n_levels: Levels M; their codebooks come with :meth:`start`.

    Attributes:
        quantise: False until :meth:`start`: the autoencoder alone, to be trained first.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], latent: int, beta: float, n_levels: int
    ) -> None:
        super().__init__(
            in_dim=width,
            num_emb_list=[1] * n_levels,
            e_dim=latent,
            layers=list(hidden),
            beta=beta,
            sk_epsilons=[0.0] * n_levels,
        )
        widths = [width, *hidden, latent]
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.quantise = False

    def start(self, codebooks: Sequence[Any]) -> None:
        """Take these codebooks, arrays [K_m, latent], and quantise from now on."""
        sizes = [len(book) for book in codebooks]
        self.rq = ResidualQuantizer(sizes, self.e_dim, self.beta)
        for level, book in zip(self.rq.vq_layers, codebooks, strict=True):
            level.embedding.weight.data.copy_(torch.as_tensor(book))
        self.rq.to(next(self.encoder.parameters()).device)
        self.quantise = True

    def forward(self, x: Tensor, use_sk: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reconstruction [B, D], loss of the quantiser, and codes [B, M] (None without it)."""
        if not self.quantise:
            out = self.decoder(self.encoder(x))
            return out, out.new_zeros(()), None
        out, loss, codes = super().forward(x, use_sk=False)
        return out, loss, codes

    def codebooks(self) -> list[Tensor]:
        """The codebooks [K_m, latent]."""
        return [level.get_codebook().detach() for level in self.rq.vq_layers]


def linear_layers(network: nn.Sequential) -> list[nn.Linear]:
    """The linear layers of an encoder or decoder; a ReLU lies between any two."""
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
