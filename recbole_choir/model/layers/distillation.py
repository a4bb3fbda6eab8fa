"""Gated distillation from one channel's logit to the other's."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from recbole_choir.errors import ConfigError

ALPHA_MODES = ("literal", "selfnorm", "detach")
KD_LOSSES = ("margin", "kl")


def margin_loss(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float, margin: float
) -> torch.Tensor:
    """``max(0, |sigma(z_t / T) - sigma(z_s / T)| - m)^2`` per row.

    Args:
        teacher, student: Logits ``[B]``.
        temperature: T.
        margin: m; 0 is the paper's "w/o Margin".

    References:
        ChoirRec 4.4.3, Eq. 7.
    """
    return F.relu(probability_gap(teacher, student, temperature) - margin).square()


def probability_gap(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float
) -> torch.Tensor:
    """``|sigma(z_t / T) - sigma(z_s / T)|`` ``[B]``."""
    return (torch.sigmoid(teacher / temperature) - torch.sigmoid(student / temperature)).abs()


def kl_loss(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """``KL(Bern(sigma(z_t / T)) || Bern(sigma(z_s / T)))`` per row, without a factor T^2.

    Args:
        teacher, student: Logits ``[B]``.
        temperature: T.

    References:
        ChoirRec Table 2, "w/ KL Loss"; PAPER_GAPS C26.
    """
    t, s = teacher / temperature, student / temperature
    p = torch.sigmoid(t)
    # log sigma keeps it finite where a probability rounds to 0 or 1.
    return p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))


def qualification(
    n_buy: torch.Tensor, teacher: torch.Tensor, theta_act: float, theta_conf: float
) -> torch.Tensor:
    """``1[n_buy >= theta_act and |sigma(z_t) - .5| > theta_conf]``, a constant for the gradient.

    Args:
        n_buy: ``|S_u^buy|`` ``[B]``.
        teacher: Logits ``[B]``.
        theta_act, theta_conf: Thresholds.

    Returns:
        ``[B]`` of 0 and 1, in the dtype of ``teacher``.

    References:
        ChoirRec 4.4.3, Eq. 8; PAPER_GAPS C1.
    """
    confident = (torch.sigmoid(teacher.detach()) - 0.5).abs() > theta_conf
    return ((n_buy >= theta_act) & confident).to(teacher.dtype)


def reduce_gated(
    loss: torch.Tensor,
    gate: torch.Tensor,
    alpha: torch.Tensor | None,
    alpha_mode: str = "literal",
    eps: float = 1e-8,
) -> torch.Tensor:
    """``L_KD`` of a batch from its per-row losses.

    - ``literal``: ``mean(g a L)`` over all N rows, as Eq. 9 stands. Its only gradient on alpha
      shrinks alpha.
    - ``selfnorm``: ``(sum g / N) sum(g a L) / (sum(g a) + eps)``: the same size at constant alpha,
      with no direction that shrinks all alphas.
    - ``detach``: ``literal`` with alpha a constant.

    Without qualified rows it is 0, connected to the graph.

    Args:
        loss: Per-row losses ``[B]``.
        gate: g_qual ``[B]``.
        alpha: alpha_distill ``[B]``; None stands for 1.
        alpha_mode: See above.
        eps: Against division by zero.

    Raises:
        ConfigError: For another mode.

    References:
        ChoirRec Eq. 9; PAPER_GAPS C7, C8.
    """
    if alpha_mode not in ALPHA_MODES:
        raise ConfigError(
            f"kd_alpha_mode: expected one of {', '.join(ALPHA_MODES)}, got {alpha_mode!r}"
        )
    if alpha is None:
        return (gate * loss).mean()
    if alpha_mode == "selfnorm":
        weight = gate * alpha
        return gate.mean() * (weight * loss).sum() / (weight.sum() + eps)
    if alpha_mode == "detach":
        alpha = alpha.detach()
    return (gate * alpha * loss).mean()


class Distilled(NamedTuple):
    """Result of a distillation step.

    Attributes:
        loss: ``L_KD``, a scalar.
        qualified: g_qual ``[B]``.
        active: ``[B]``, 1 where a qualified row's gap exceeds the margin.
    """

    loss: torch.Tensor
    qualified: torch.Tensor
    active: torch.Tensor


class GatedDistillation:
    """``L_KD = g_qual alpha_distill L``, averaged over the batch.

    Args:
        loss: ``margin`` (Eq. 7) or ``kl``.
        temperature: T. 2 (PAPER_GAPS C5).
        margin: m. 0.05 (PAPER_GAPS C5-C6).
        theta_act: Purchases that make a user highly active.
        theta_conf: Distance from .5 that makes the teacher confident. 0.1 (PAPER_GAPS C5).
        detach_teacher: The teacher learns nothing from the student (PAPER_GAPS C4).
        alpha_mode: See :func:`reduce_gated`.
        use_qual_gate: False lets every row through.

    References:
        ChoirRec 4.4.3, Eq. 7-9.
    """

    def __init__(
        self,
        loss: str = "margin",
        temperature: float = 2.0,
        margin: float = 0.05,
        theta_act: float = 1.0,
        theta_conf: float = 0.1,
        detach_teacher: bool = True,
        alpha_mode: str = "literal",
        use_qual_gate: bool = True,
    ) -> None:
        self.loss = loss
        self.temperature = temperature
        self.margin = margin
        self.theta_act = theta_act
        self.theta_conf = theta_conf
        self.detach_teacher = detach_teacher
        self.alpha_mode = alpha_mode
        self.use_qual_gate = use_qual_gate

    def __call__(
        self,
        teacher: torch.Tensor,
        student: torch.Tensor,
        n_buy: torch.Tensor,
        alpha: torch.Tensor | None,
    ) -> Distilled:
        """Distil logits ``[B]`` of the teacher into those of the student."""
        if self.detach_teacher:
            teacher = teacher.detach()
        if self.use_qual_gate:
            gate = qualification(n_buy, teacher, self.theta_act, self.theta_conf)
        else:
            gate = torch.ones_like(teacher, requires_grad=False)
        if self.loss == "kl":
            rows = kl_loss(teacher, student, self.temperature)
        else:
            rows = margin_loss(teacher, student, self.temperature, self.margin)
        with torch.no_grad():
            active = gate * (probability_gap(teacher, student, self.temperature) > self.margin)
        return Distilled(reduce_gated(rows, gate, alpha, self.alpha_mode), gate, active)
