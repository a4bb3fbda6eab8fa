"""Training of the RQ-VAE: torch-rechub's trainer, with what it lacks around it."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_rechub.models.generative.rqvae import ResidualVectorQuantizer, RQVAEModel
from torch_rechub.trainers.rqvae_trainer import Trainer
from tqdm import tqdm

from recbole_choir.errors import DataError


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


logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
Layers = list[tuple[Float32, Float32]]

#: Steps of an epoch at least: where the vectors are few, batches are smaller than asked for.
LEAST_STEPS: Final = 20
#: No batch is made smaller than this for that.
LEAST_BATCH: Final = 64
#: Steps of an epoch at most: where the vectors are many, the next epoch goes on with the others.
MOST_STEPS: Final = 50
# Vectors at a time; a codeword that none of so many vectors has is dead.
_BLOCK: Final = 65_536


class Settings(NamedTuple):
    """What shapes the training; see :class:`~recbole_choir.settings.recipe.RQVAERecipe`."""

    latent: int
    hidden: Sequence[int]
    beta: float
    epochs: int
    warm_epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int


class Trained(NamedTuple):
    """The weights of the best epoch, and how training went."""

    encoder: Layers  # weight [out, in] and bias [out] of each layer
    decoder: Layers
    codebooks: list[Float32]  # [K_m, latent]
    epochs: int  # with the quantiser
    best_epoch: int
    held_out_error: float  # mean squared error of a component at the best epoch
    dead_codes_reset: int


def train(
    x: Float32,
    held_out: Float32,
    n_levels: int,
    start: Callable[[Float32], list[Float32]],
    settings: Settings,
    device: str = "cpu",
    show_progress: bool = False,
) -> Trained:
    """Train an RQ-VAE.

    ::

        an epoch: 20 to 50 steps, of batch_size vectors at most
    warm_epochs epochs of the autoencoder alone     so that the latent space means something
        codebooks = start(latents of x)                 k-means
        epochs:  torch-rechub's train_one_epoch (Adam)
                 error of the reconstructed held-out vectors; the best epoch is kept
                 codewords that no vector of x has take a random vector's residual
                 patience epochs without a lower error: stop

    The global random state is left as it was. On a CPU one thread is used: the layers are small,
    and the result then does not depend on the number of threads.

    Args:
        x: Vectors to train on [n, D], of variance about 1, in random order.
        held_out: Vectors [v, D] that decide when to stop.
        n_levels: Levels M.
        start: Latents [n, latent] to the first codebooks, one [K_m, latent] per level.
        settings: Sizes and training.
        device: Torch device.
        show_progress: Show a bar of the epochs.

    Raises:
        DataError: The loss is not finite.
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Autoencoder(
            x.shape[1], settings.hidden, settings.latent, settings.beta, n_levels
        ).to(device)
        run = _Run(model, x, held_out, settings, device)
        bar = tqdm(
            total=settings.warm_epochs + settings.epochs,
            desc="rqvae",
            unit="epoch",
            disable=not show_progress,
        )
        with bar:
            run.warm_up(bar)
            model.start(start(run.latents()))
            return run.fit(bar)


class _Run:
    """The state of one training."""

    def __init__(
        self, model: Autoencoder, x: Float32, held_out: Float32, settings: Settings, device: str
    ) -> None:
        self.model = model
        self.settings = settings
        self.device = device
        self.x = torch.from_numpy(x).to(device)
        self.held_out = torch.from_numpy(held_out).to(device)
        self.batches = _Batches(self.x, settings.batch_size, settings.seed)
        self.rng = np.random.default_rng(settings.seed)

    def warm_up(self, bar: tqdm) -> None:
        trainer = self._trainer()
        for epoch in range(self.settings.warm_epochs):
            _train_epoch(trainer, self.batches, f"warm-up epoch {epoch + 1}")
            bar.update()

    def fit(self, bar: tqdm) -> Trained:
        trainer = self._trainer()
        best = Trained([], [], [], 0, 0, math.inf, 0)
        n_reset = 0
        epoch = 0
        for epoch in range(1, self.settings.epochs + 1):
            _train_epoch(trainer, self.batches, f"epoch {epoch}")
            error = self._held_out_error()
            bar.update()
            if error < best.held_out_error:
                best = self._snapshot(epoch, error)
            elif epoch - best.best_epoch >= self.settings.patience:
                break
            if epoch < self.settings.epochs:
                n_reset += self._reset_dead_codes(trainer.optimizer)
        if not best.codebooks:
            raise DataError("rqvae: expected a finite error of the held-out vectors, got none")
        return best._replace(epochs=epoch, dead_codes_reset=n_reset)

    @torch.no_grad()
    def latents(self) -> Float32:
        """Latents of the training vectors [n, latent]."""
        self.model.eval()
        parts = [self.model.encoder(block).cpu() for block in self.x.split(_BLOCK)]
        return torch.cat(parts).numpy()

    def _trainer(self) -> Trainer:
        # Weight decay is torch-rechub's default and would pull codewords to 0.
        adam = {"lr": self.settings.learning_rate, "weight_decay": 0.0}
        return Trainer(self.model, optimizer_params=adam, device=self.device)

    @torch.no_grad()
    def _held_out_error(self) -> float:
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for block in self.held_out.split(_BLOCK):
            total += (self.model(block)[0] - block).double().square().sum()
        return float(total) / self.held_out.numel()

    @torch.no_grad()
    def _reset_dead_codes(self, optimizer: torch.optim.Optimizer) -> int:
        """Give each codeword that no training vector has the residual of a random one."""
        used = self._usage()
        n_reset = 0
        for index, level in enumerate(self.model.rq.vq_layers):
            dead = np.flatnonzero(used[index] == 0)
            if len(dead) == 0:
                continue
            rows = self.rng.choice(len(self.x), size=len(dead), replace=len(dead) > len(self.x))
            drawn = self.model.encoder(self.x[torch.from_numpy(rows).to(self.device)])
            where = torch.from_numpy(dead).to(self.device)
            weight = level.embedding.weight
            weight[where] = self.model.rq.residual_before(drawn, index)
            for value in optimizer.state.get(weight, {}).values():
                if value.shape == weight.shape:  # Adam's moments belong to the old codeword
                    value[where] = 0.0
            n_reset += len(dead)
        return n_reset

    @torch.no_grad()
    def _usage(self) -> list[NDArray[np.int64]]:
        """How many training vectors, 65,536 of them at most, have each codeword: [K_m] a level."""
        self.model.eval()
        sizes = [len(book) for book in self.model.codebooks()]
        counts = [torch.zeros(k, dtype=torch.int64, device=self.device) for k in sizes]
        codes = self.model.get_indices(self.x[:_BLOCK])  # [b, M]; x is in random order
        for level, count in enumerate(counts):
            count += torch.bincount(codes[:, level], minlength=len(count))
        return [count.cpu().numpy() for count in counts]

    def _snapshot(self, epoch: int, error: float) -> Trained:
        codebooks = [_array(book) for book in self.model.codebooks()]
        encoder, decoder = (
            [(_array(one.weight), _array(one.bias)) for one in linear_layers(network)]
            for network in (self.model.encoder, self.model.decoder)
        )
        return Trained(encoder, decoder, codebooks, epoch, epoch, error, 0)


class _Batches:
    """Shuffled batches of nearly equal size, an epoch's share at a time.

    One pass over the vectors may take several epochs; each pass has a new order.
    """

    def __init__(self, x: Tensor, batch_size: int, seed: int) -> None:
        self.x = x
        size = min(batch_size, max(LEAST_BATCH, len(x) // LEAST_STEPS))
        self.n_batches = math.ceil(len(x) / size)
        self.generator = torch.Generator().manual_seed(seed)
        self._left: list[Tensor] = []

    def __len__(self) -> int:
        return min(self.n_batches, MOST_STEPS)

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(len(self)):
            if not self._left:
                order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
                self._left = list(torch.tensor_split(order, self.n_batches))
            yield self.x[self._left.pop()]


def _train_epoch(trainer: Trainer, batches: _Batches, name: str) -> None:
    try:
        # torch-rechub draws a bar for every epoch, whatever is asked for
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_one_epoch(batches)
    except ValueError as error:
        raise DataError(
            f"rqvae: {name}: {' '.join(str(error).split())}; expected a finite loss: "
            "lower rqvae.learning_rate"
        ) from error


def _array(tensor: Tensor) -> Float32:
    return tensor.detach().cpu().numpy().copy()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
