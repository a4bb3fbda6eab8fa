"""The loss of a user's interest vector (Eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def interest_loss(e_hat: Tensor, e_t: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """Eq. 2, one value a sample.

    ::

        L_u = -cos(e_hat, e_t) - sum_c y_c log softmax(logits)_c

    y is 1 for the item's category, 1 / P for each of P categories; without one the second term is
    0, and so it is where there are no classes at all.

    Args:
        e_hat: [Q, d] predicted interest.
        e_t: [Q, d] vectors of the clicked items.
        logits: [Q, C] scores of the categories.
        classes: int64 [Q, P] categories of the clicked items, -1 for padding.

    Returns:
        [Q].

    References:
        AKT-Rec, section 3.1.1, Eq. 2; PAPER_GAPS A11: cross-entropy over all categories, where the
        paper prints that of one; weights 1:1.
    """
    loss = -F.cosine_similarity(e_hat, e_t, dim=-1)  # [Q]
    if logits.shape[-1] == 0 or classes.shape[-1] == 0:
        return loss
    mask = (classes >= 0).to(logits.dtype)  # [Q, P]
    chosen = torch.log_softmax(logits, dim=-1).gather(1, classes.clamp(min=0))  # [Q, P]
    return loss - (chosen * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def category_hits(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Samples whose likeliest category is one of the item's, and samples that have one.

    Args:
        logits: [Q, C].
        classes: int64 [Q, P], -1 for padding.

    Returns:
        Two numbers, as tensors without dimensions.
    """
    if logits.shape[-1] == 0 or classes.shape[-1] == 0:
        zero = logits.new_zeros(())
        return zero, zero
    hit = (classes == logits.argmax(dim=-1, keepdim=True)).any(dim=1)
    return hit.sum(), (classes >= 0).any(dim=1).sum()
