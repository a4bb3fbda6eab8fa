"""Adaptive fusion of the instance view and the cluster view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.model.aktrec.activity_gate import ActivityGate


class Slots(NamedTuple):
    """One view of a batch; both views have the same slots.

    Attributes:
        user, item, sequence: ``[B, .]``.
    """

    user: torch.Tensor
    item: torch.Tensor
    sequence: torch.Tensor


class SlotMaps(nn.Module):
    """A linear map per slot, without bias, that starts as the identity.

    Both views have the same columns to begin with; the maps let them differ in meaning. Without
    bias, a view that knows nothing (zeros) says nothing.

    Args:
        widths: Of the slots.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.eye(w)) for w in widths)

    def forward(self, slots: Slots) -> Slots:
        """Map each slot onto itself."""
        return Slots(*(F.linear(x, w) for x, w in zip(slots, self.weights, strict=True)))


class ViewFusion(nn.Module):
    """``f = alpha H_clust + (1 - alpha) H_inst`` slot by slot, ``alpha = G_2(f_act)``.

    A slot without a cluster has ``H_clust = 0``, which knows nothing; there alpha counts as 0, a
    constant alpha as well, so that the slot is that of the instance view and not a share of it.

    With one view alone, that view; with ``concat``, both side by side and no gate, which the paper
    argues against and public data favours. Neither scales a slot, so nothing is masked: a missing
    cluster is a block of zeros.

    Args:
        widths: Of the slots user, item, sequence.
        n_activity: Number of activity features of the gate.
        gate: ``learned``, or alpha as a constant.
        gate_hidden: Hidden widths of G_2.
        fusion: ``gated_sum`` or ``concat``.
        use_instance, use_cluster: Which views there are.

    References:
        AKT-Rec 3.2.3, Eq. 10; docs/gaps.md A19, A20.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_activity: int,
        gate: float | str = "learned",
        gate_hidden: Sequence[int] = (32, 16),
        fusion: str = "gated_sum",
        use_instance: bool = True,
        use_cluster: bool = True,
    ) -> None:
        super().__init__()
        both = use_instance and use_cluster
        self.concat = both and fusion == "concat"
        mapped = not self.concat
        self.instance = SlotMaps(widths) if use_instance and mapped else None
        self.cluster = SlotMaps(widths) if use_cluster and mapped else None
        self.constant = 0.5 if gate == "learned" else float(gate)
        self.gate: ActivityGate | None = None
        if both and mapped and gate == "learned":
            self.gate = ActivityGate(n_activity, gate_hidden)
        self.widths = tuple(2 * w if self.concat else w for w in widths)

    def forward(
        self,
        instance: Slots | None,
        cluster: Slots | None,
        activity: torch.Tensor | None,
        known: Slots | None = None,
    ) -> tuple[Slots, torch.Tensor | None]:
        """Fuse.

        Args:
            instance, cluster: The views that there are.
            activity: ``[f_user; f_item; f_cross]`` ``[B, n_activity]``; read by a learned gate.
            known: bool ``[B]`` a slot, whether the row has a cluster there; None: everywhere.

        Returns:
            The fused slots, and alpha ``[B]`` where it is learned, as the gate gives it.
        """
        if instance is not None and self.instance is not None:
            instance = self.instance(instance)
        if cluster is not None and self.cluster is not None:
            cluster = self.cluster(cluster)
        if instance is None or cluster is None:
            only = instance if cluster is None else cluster
            if only is None:
                raise TypeError("fusion: there is no view")
            return only, None
        if self.concat:
            pairs = zip(instance, cluster, strict=True)
            return Slots(*(torch.cat(pair, dim=-1) for pair in pairs)), None
        alpha: torch.Tensor | float = self.constant
        if self.gate is not None and activity is not None:
            alpha = self.gate(activity)  # [B, 1]
        fused = []
        for k, (i, c) in enumerate(zip(instance, cluster, strict=True)):
            a = alpha if known is None else _masked(alpha, known[k], c.dtype)
            fused.append(a * c + (1 - a) * i)
        return Slots(*fused), alpha.squeeze(-1) if isinstance(alpha, torch.Tensor) else None


def _masked(alpha: torch.Tensor | float, known: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Alpha ``[B, 1]`` with 0 where ``known`` ``[B]`` is False; no gradient comes from there."""
    known = known.unsqueeze(-1)
    if isinstance(alpha, torch.Tensor):
        return torch.where(known, alpha, 0.0)
    return known.to(dtype) * alpha
