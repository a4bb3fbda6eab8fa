"""What the gates of ChoirRec did over an epoch, counted on the device without a sync per step."""

from __future__ import annotations

import torch
from torch import nn

N_COUNTS = 1024  # counts of purchases from 0 to 1022 are kept apart; the last slot is the rest
N_LEVELS = 5


class EpochMeter(nn.Module):
    """Sums over the rows of an epoch; read once, at its end.

    The mean fusion gate is reported for five activity levels: rows sorted by their user's
    purchases before the row and cut into five equal parts, rows of equal counts kept together.

    How much distillation weighs is reported as the norm of its gradient over that of the BCE, each
    over all rows of the epoch: ``sqrt(sum of squares / sum of squares)``.

    Args:
        student: The channel that distillation trains, ``group`` or ``individual``; it names the
            ratio on that channel's logit.
    """

    totals: torch.Tensor
    by_count: torch.Tensor
    squares: torch.Tensor

    def __init__(self, student: str = "group") -> None:
        super().__init__()
        self.student = student
        # rows, qualified, active, sum of alpha_distill, rows with a distillation step
        self.register_buffer("totals", torch.zeros(5, dtype=torch.float64), persistent=False)
        # rows and sum of alpha_fusion by number of purchases
        shape = (N_COUNTS, 2)
        self.register_buffer("by_count", torch.zeros(shape, dtype=torch.float64), persistent=False)
        # squared gradients of distillation and BCE (columns) on the student's logit and on the
        # logits of the reliability heads (rows)
        self.register_buffer("squares", torch.zeros((2, 2), dtype=torch.float64), persistent=False)

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.totals.zero_()
        self.by_count.zero_()
        self.squares.zero_()

    @torch.no_grad()
    def add_distillation(
        self, qualified: torch.Tensor, active: torch.Tensor, alpha: torch.Tensor | None
    ) -> None:
        """Count a batch of gates ``[B]``; ``alpha`` None stands for 1."""
        n = qualified.new_tensor(float(qualified.shape[0])) if alpha is None else alpha.sum()
        sums = torch.stack([qualified.sum(), active.sum(), n])
        self.totals[1:4] += sums
        self.totals[4] += qualified.shape[0]

    @torch.no_grad()
    def add_fusion(
        self, n_buy: torch.Tensor, alpha: torch.Tensor, counted: torch.Tensor | None = None
    ) -> None:
        """Count a batch of fusion gates.

        Args:
            n_buy: Purchases ``[B]`` of the rows' users.
            alpha: The gates ``[B]``.
            counted: bool ``[B]`` rows that count; None: all.
        """
        slot = n_buy.long().clamp_(0, N_COUNTS - 1)
        one = torch.ones_like(alpha) if counted is None else counted.to(alpha.dtype)
        pairs = torch.stack([one, one * alpha], dim=1).to(self.by_count.dtype)
        self.by_count.index_add_(0, slot, pairs)
        self.totals[0] += pairs[:, 0].sum()

    @torch.no_grad()
    def add_student_gradients(self, distillation: torch.Tensor, bce: torch.Tensor) -> None:
        """Count a batch's gradients ``[B]`` on the student's logit."""
        self.squares[0] += self._squares(distillation, bce)

    @torch.no_grad()
    def add_alpha_gradients(self, distillation: torch.Tensor, bce: torch.Tensor) -> None:
        """Count a batch's gradients ``[B]`` on the logits of alpha_distill and alpha_fusion."""
        self.squares[1] += self._squares(distillation, bce)

    def _squares(self, distillation: torch.Tensor, bce: torch.Tensor) -> torch.Tensor:
        pair = torch.stack([distillation.to(self.squares.dtype), bce.to(self.squares.dtype)])
        return pair.square().sum(1)

    def report(self) -> dict[str, float]:
        """Figures of the epoch so far; what has no rows, or no BCE to compare with, is left out."""
        rows, qualified, active, alpha, distilled = self.totals.tolist()
        figures: dict[str, float] = {}
        if distilled:
            figures["frac_qualified"] = qualified / distilled
            figures["mean_alpha_distill"] = alpha / distilled
        if qualified:
            figures["frac_margin_active"] = active / qualified
        names = (f"kd_grad_ratio_{self.student}", "kd_grad_ratio_alpha")
        for name, (distillation, bce) in zip(names, self.squares.tolist(), strict=True):
            if bce > 0:
                figures[name] = (distillation / bce) ** 0.5
        if rows:
            count, gate = self.by_count.cpu().unbind(1)
            figures["mean_alpha_fusion"] = float(gate.sum() / rows)
            # The level of a count is the one that the middle of its rows falls into.
            middle = count.cumsum(0) - count / 2
            level = (middle * N_LEVELS / rows).long().clamp_(0, N_LEVELS - 1)
            level_rows = torch.zeros(N_LEVELS, dtype=count.dtype).index_add_(0, level, count)
            level_gate = torch.zeros(N_LEVELS, dtype=count.dtype).index_add_(0, level, gate)
            for i in range(N_LEVELS):
                if level_rows[i] > 0:
                    figures[f"mean_alpha_fusion_level_{i + 1}"] = float(
                        level_gate[i] / level_rows[i]
                    )
        return figures
