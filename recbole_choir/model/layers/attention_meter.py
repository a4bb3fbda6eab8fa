"""Whether an attention attends: entropy and spread of its weights over an epoch."""

from __future__ import annotations

import torch
from torch import nn

#: One training step in so many is looked at: the figures are means over thousands of rows anyway,
#: and an entropy costs a logarithm a slot.
EVERY: int = 16
#: Only rows with more valid slots than this count: the entropy of two slots says little.
MIN_SLOTS: int = 5


class AttentionMeter(nn.Module):
    """Sums over the rows of an epoch with histories longer than five; read once, at its end.

    Nothing waits for the device. Figures: the mean entropy of the normalised weights over its
    maximum ``log n`` (1: a plain mean), and the mean standard deviation of a row's logits over its
    valid slots (0: a plain mean).
    """

    totals: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # rows, sum of entropy ratios, sum of standard deviations
        self.register_buffer("totals", torch.zeros(3, dtype=torch.float64), persistent=False)
        self._step = 0

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.totals.zero_()
        self._step = 0

    @torch.no_grad()
    def add(self, weights: torch.Tensor, mask: torch.Tensor, kind: str = "softmax") -> None:
        """Count a batch, one step in :data:`EVERY`.

        Args:
            weights: ``[B, L]``, 0 on padding.
            mask: bool ``[B, L]``, True on valid slots.
            kind: How weights come from logits: ``softmax``, ``sigmoid``, or ``linear`` where they
                are the logits themselves; of negative weights the size counts for the entropy.
        """
        self._step += 1
        if (self._step - 1) % EVERY:
            return
        w, valid = weights.double(), mask.double()
        n = valid.sum(-1)
        tiny = 1e-30
        share = w.abs() / w.abs().sum(-1, keepdim=True).clamp_min(tiny)
        entropy = -(share * share.clamp_min(tiny).log()).sum(-1) / n.clamp_min(2).log()
        if kind == "linear":
            logit = w
        else:
            logit = w.clamp_min(tiny).log()
            if kind == "sigmoid":
                logit = logit - (1 - w).clamp_min(1e-12).log()
        mean = (logit * valid).sum(-1, keepdim=True) / n.clamp_min(1).unsqueeze(-1)
        spread = (((logit - mean) * valid).square().sum(-1) / n.clamp_min(1)).sqrt()
        counts = (n > MIN_SLOTS).double()
        self.totals += torch.stack(
            [counts.sum(), (entropy * counts).sum(), (spread * counts).sum()]
        )

    def report(self, name: str) -> dict[str, float]:
        """``attention_entropy_<name>`` and ``attention_logit_sd_<name>``; empty without rows."""
        rows, entropy, spread = self.totals.tolist()
        if not rows:
            return {}
        return {
            f"attention_entropy_{name}": entropy / rows,
            f"attention_logit_sd_{name}": spread / rows,
        }


def attention_figures(model: nn.Module) -> dict[str, float]:
    """The figures of every attention of a model, by the name of its attribute."""
    figures: dict[str, float] = {}
    for path, module in model.named_modules():
        if isinstance(module, AttentionMeter):
            owner = path.removesuffix(".meter").replace(".meters.", ".").replace(".", "_")
            figures |= module.report(owner.removesuffix("_attention"))
    return figures


def reset_attention(model: nn.Module) -> None:
    """Start counting from zero in every attention of a model."""
    for module in model.modules():
        if isinstance(module, AttentionMeter):
            module.reset()
