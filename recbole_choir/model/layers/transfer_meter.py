"""What the auxiliary losses of AKT-Rec did over an epoch, counted without a sync per step."""

from __future__ import annotations

import torch
from torch import nn

from recbole_choir.model.aktrec.transfer import Transfer


class TransferMeter(nn.Module):
    """Sums over the steps of an epoch; read once, at its end."""

    totals: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # steps, L_trans, L_ortho, then ids and paired ids of users and of items
        zeros = torch.zeros(7, dtype=torch.float64)
        self.register_buffer("totals", zeros, persistent=False)

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.totals.zero_()

    @torch.no_grad()
    def add(
        self, users: Transfer | None, items: Transfer | None, ortho: torch.Tensor | None
    ) -> None:
        """Count a step; what a setting switched off is None."""
        none = self.totals.new_zeros(())
        row = [self.totals.new_ones(()), none, none if ortho is None else ortho]
        for part in (users, items):
            if part is not None:
                row[1] = row[1] + part.loss
            row += [none, none] if part is None else [part.n_ids, part.n_paired]
        self.totals += torch.stack([value.to(self.totals.dtype) for value in row])

    def report(self) -> dict[str, float]:
        """Mean losses per step and shares of ids with a partner; what was off is left out.

        ``loss_trans`` has its lambda1 and lambda2 in it, ``loss_ortho`` not its lambda (Eq. 12).
        """
        steps, trans, ortho, *pairs = self.totals.tolist()
        figures: dict[str, float] = {}
        if steps and (pairs[0] or pairs[2]):
            figures["loss_trans"] = trans / steps
        if steps and ortho:
            figures["loss_ortho"] = ortho / steps
        for name, ids, paired in (("users", *pairs[:2]), ("items", *pairs[2:])):
            if ids:
                figures[f"frac_paired_{name}"] = paired / ids
        return figures
