"""Gated distillation from one channel's logit to the other's."""

from __future__ import annotations

from typing import Final, NamedTuple, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F

from recbole_choir.errors import ConfigError
from recbole_choir.model.settings.choirrec import AlphaMode, Reduction

ALPHA_MODES: Final[tuple[str, ...]] = get_args(AlphaMode)
REDUCTIONS: Final[tuple[str, ...]] = get_args(Reduction)
EPS = 1e-8  # of the self-normalised gates


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
        ChoirRec Table 2, "w/ KL Loss"; docs/gaps.md C26.
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
        ChoirRec 4.4.3, Eq. 8; docs/gaps.md C1.
    """
    confident = (torch.sigmoid(teacher.detach()) - 0.5).abs() > theta_conf
    return ((n_buy >= theta_act) & confident).to(teacher.dtype)


def reduce_gated(
    loss: torch.Tensor,
    gate: torch.Tensor,
    alpha: torch.Tensor | None,
    alpha_mode: str = "literal",
    eps: float = EPS,
    reduction: str = "mean",
) -> torch.Tensor:
    """``L_KD`` of a batch from its per-row losses, with the gates g and a as ``alpha_mode`` says.

    - ``literal``: ``mean(g a L)`` over all N rows, as Eq. 9 stands. Its only gradient on alpha
      shrinks alpha.
    - ``selfnorm``: ``(sum g / N) sum(g a L) / (sum(g a) + eps)``: the same size at constant alpha,
      with no direction that shrinks all alphas.
    - ``detach``: ``literal`` with alpha a constant.

    Eq. 9 is of one row; Eq. 11 adds it to a BCE that is a mean over the batch and does not say how
    the rows of L_KD are reduced.

    - ``mean``: over the N rows, those with g = 0 included, as the BCE.
    - ``sum``: over the N rows: N times ``mean``. With several processes N counts the rows of all of
      them: each multiplies by the number of processes, over which gradients are averaged.

    Without qualified rows it is 0, connected to the graph.

    Args:
        loss: Per-row losses ``[B]``.
        gate: g_qual ``[B]``.
        alpha: alpha_distill ``[B]``; None stands for 1.
        alpha_mode: See above.
        eps: Against division by zero.
        reduction: See above.

    Raises:
        ConfigError: For another mode or reduction.

    References:
        ChoirRec Eq. 9, 11, 12; docs/gaps.md C7, C8.
    """
    if alpha_mode not in ALPHA_MODES:
        raise ConfigError(
            f"kd_alpha_mode: expected one of {', '.join(ALPHA_MODES)}, got {alpha_mode!r}"
        )
    if reduction not in REDUCTIONS:
        raise ConfigError(
            f"kd_reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}"
        )
    if alpha is None:
        return _reduce(gate * loss, reduction)
    if alpha_mode == "selfnorm":
        weight = gate * alpha
        return _reduce(gate, reduction) * (weight * loss).sum() / (weight.sum() + eps)
    if alpha_mode == "detach":
        alpha = alpha.detach()
    return _reduce(gate * alpha * loss, reduction)


def _reduce(rows: torch.Tensor, reduction: str) -> torch.Tensor:
    """Mean of ``[B]``, or the sum over the batch of all processes as each has to hold it."""
    return rows.mean() if reduction == "mean" else rows.sum() * _n_processes()


def _n_processes() -> int:
    """Processes over which gradients are averaged; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Distilled(NamedTuple):
    """Result of a distillation step.

    Attributes:
        loss: ``L_KD``, a scalar.
        qualified: g_qual ``[B]``.
        active: ``[B]``, 1 where a qualified row's gap exceeds the margin.
        student_gradient: ``dL_KD / dz_s`` ``[B]``, z_s the student's logit; float64, no graph.
        alpha_gradient: ``dL_KD / dalpha_distill`` ``[B]``; None where alpha_distill stands for 1,
            zeros where it is a constant.
    """

    loss: torch.Tensor
    qualified: torch.Tensor
    active: torch.Tensor
    student_gradient: torch.Tensor
    alpha_gradient: torch.Tensor | None


class GatedDistillation:
    """``L_KD = g_qual alpha_distill L``, a mean or a sum over the batch.

    Args:
        loss: ``margin`` (Eq. 7) or ``kl``.
        temperature: T. 2 (docs/gaps.md C5).
        margin: m. 0.05 (docs/gaps.md C5-C6).
        theta_act: Purchases that make a user highly active.
        theta_conf: Distance from .5 that makes the teacher confident. 0.1 (docs/gaps.md C5).
        detach_teacher: The teacher learns nothing from the student (docs/gaps.md C4).
        alpha_mode: See :func:`reduce_gated`.
        use_qual_gate: False lets every row through.
        reduction: See :func:`reduce_gated`. ``mean``, the BCE's (docs/gaps.md C8).

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
        reduction: str = "mean",
    ) -> None:
        self.loss = loss
        self.temperature = temperature
        self.margin = margin
        self.theta_act = theta_act
        self.theta_conf = theta_conf
        self.detach_teacher = detach_teacher
        self.alpha_mode = alpha_mode
        self.use_qual_gate = use_qual_gate
        self.reduction = reduction

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
        loss = reduce_gated(rows, gate, alpha, self.alpha_mode, reduction=self.reduction)
        with torch.no_grad():
            active = gate * (probability_gap(teacher, student, self.temperature) > self.margin)
        return Distilled(loss, gate, active, *self._gradients(teacher, student, gate, alpha, rows))

    @torch.no_grad()
    def _gradients(
        self,
        teacher: torch.Tensor,
        student: torch.Tensor,
        gate: torch.Tensor,
        alpha: torch.Tensor | None,
        rows: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gradients of ``L_KD`` on the student's logit and on alpha, in closed form.

        With ``L_i`` the loss of a row, ``A = sum(g a) + eps`` and c = 1/N for the mean, 1 (times
        the processes) for the sum::

            literal, detach   dL_KD/dz_i = c g_i a_i dL_i/dz_i
                              dL_KD/da_i = c g_i L_i, with detach 0
            selfnorm          dL_KD/dz_i = c sum(g) g_i a_i / A dL_i/dz_i
                              dL_KD/da_i = c sum(g) g_i / A (L_i - sum(g a L) / A)
        """
        # float64: the gradients are small, and under mixed precision the logits are half floats
        g, loss = gate.double(), rows.double()
        slope = self._slope(teacher.double(), student.double())
        c = 1 / g.shape[0] if self.reduction == "mean" else float(_n_processes())
        if alpha is None:
            return c * g * slope, None
        a = alpha.double()
        if self.alpha_mode == "selfnorm":
            total = (g * a).sum() + EPS
            on_loss = c * g.sum() / total * g  # per unit of alpha
            on_alpha = on_loss * (loss - (g * a * loss).sum() / total)
            return on_loss * a * slope, on_alpha
        on_alpha = torch.zeros_like(g) if self.alpha_mode == "detach" else c * g * loss
        return c * g * a * slope, on_alpha

    def _slope(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        """``dL / dz_s`` of each row ``[B]``, L the margin loss or the KL divergence.

        With p_t, p_s the probabilities at temperature T and d = p_s - p_t::

            margin    2 max(0, |d| - m) sign(d) p_s (1 - p_s) / T
            kl        d / T
        """
        p = torch.sigmoid(student / self.temperature)
        gap = p - torch.sigmoid(teacher / self.temperature)
        if self.loss == "kl":
            return gap / self.temperature
        over = F.relu(gap.abs() - self.margin) * gap.sign()
        return 2 * over * p * (1 - p) / self.temperature
