"""Random numbers of a training step that a resumed run goes on with."""

from __future__ import annotations

import torch
from torch import nn


class HostGenerator(nn.Module):
    """A generator of its own on the host: the same numbers on every device.

    Its state is saved with the weights.

    Args:
        seed: Of the draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> torch.Tensor:
        """State of the generator, for the checkpoint."""
        return self.generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Restore the state of the generator."""
        self.generator.set_state(state.cpu())

    def uniform(self, *shape: int, device: torch.device) -> torch.Tensor:
        """Numbers in [0, 1), float64 of a shape, on a device."""
        drawn = torch.rand(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(device, non_blocking=True)
