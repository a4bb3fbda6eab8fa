"""Gated distillation: Eq. 7-9 and the KL alternative."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_choir.errors import ConfigError
from recbole_choir.model.choirrec.distillation import (
    Distilled,
    GatedDistillation,
    kl_loss,
    margin_loss,
    qualification,
    reduce_gated,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_equation_7_by_hand() -> None:
    teacher = torch.tensor([2 * logit(0.9), 2 * logit(0.5), 2 * logit(0.2)])
    student = torch.tensor([2 * logit(0.6), 2 * logit(0.52), 2 * logit(0.6)])
    out = margin_loss(teacher, student, temperature=2.0, margin=0.05)
    torch.testing.assert_close(out, torch.tensor([0.25**2, 0.0, 0.35**2]))
    without = margin_loss(teacher, student, temperature=2.0, margin=0.0)
    torch.testing.assert_close(without, torch.tensor([0.3**2, 0.02**2, 0.4**2]))


@given(t=st.floats(-30, 30), s=st.floats(-30, 30), m=st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_margin_loss_is_bounded_symmetric_and_its_gradient_small(
    t: float, s: float, m: float
) -> None:
    teacher, student = torch.tensor([t]), torch.tensor([s], requires_grad=True)
    loss = margin_loss(teacher, student, 2.0, m)
    assert 0 <= loss.item() <= (1 - m) ** 2 + 1e-6
    assert loss.item() == pytest.approx(margin_loss(student, teacher, 2.0, m).item(), abs=1e-7)
    loss.sum().backward()
    assert (
        abs(student.grad.item()) <= 0.25
    )  # "extreme disagreements do not trigger large gradients"


def test_kl_by_hand_and_finite_at_the_extremes() -> None:
    p, q = 0.9, 0.6
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    out = kl_loss(torch.tensor([2 * logit(p)]), torch.tensor([2 * logit(q)]), 2.0)
    assert out.item() == pytest.approx(expected, rel=1e-5)
    same = torch.tensor([-3.0, 0.0, 7.0])
    torch.testing.assert_close(kl_loss(same, same, 2.0), torch.zeros(3))
    student = torch.tensor([-500.0, 500.0], requires_grad=True)
    far = kl_loss(torch.tensor([500.0, -500.0]), student, 1.0)
    far.sum().backward()
    assert torch.isfinite(far).all()
    assert torch.isfinite(student.grad).all()


def test_kl_is_bounded_on_the_student_and_not_on_a_live_teacher() -> None:
    teacher = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    student = torch.tensor([-400.0, -4.0, 400.0], dtype=torch.float64, requires_grad=True)
    kl_loss(teacher, student, 2.0).sum().backward()
    p = 1 / (1 + math.exp(2))
    assert student.grad.tolist() == pytest.approx([-0.5 / 2, (p - 0.5) / 2, 0.5 / 2])
    # p_t (1 - p_t) (z_t - z_s) / T^2
    assert teacher.grad.tolist() == pytest.approx([0.25 * 400 / 4, 0.25 * 4 / 4, -0.25 * 400 / 4])


def test_equation_8_by_hand() -> None:
    n_buy = torch.tensor([4.0, 3.0, 9.0, 4.0])
    teacher = torch.tensor([logit(0.61), logit(0.99), logit(0.55), logit(0.3)])
    assert qualification(n_buy, teacher, 4.0, 0.1).tolist() == [1, 0, 0, 1]


LOSS = torch.tensor([1.0, 2.0, 3.0, 4.0])
GATE = torch.tensor([1.0, 0.0, 1.0, 0.0])
ALPHA = torch.tensor([0.5, 0.9, 0.1, 0.9])


def test_equation_9_is_a_mean_over_all_rows() -> None:
    assert reduce_gated(LOSS, GATE, ALPHA).item() == pytest.approx((0.5 * 1 + 0.1 * 3) / 4)
    assert reduce_gated(LOSS, GATE, None).item() == pytest.approx((1 + 3) / 4)


def test_selfnorm_by_hand() -> None:
    out = reduce_gated(LOSS, GATE, ALPHA, "selfnorm")
    assert out.item() == pytest.approx(2 / 4 * (0.5 * 1 + 0.1 * 3) / 0.6)
    constant = reduce_gated(LOSS, GATE, torch.full((4,), 0.3), "selfnorm")
    assert constant.item() == pytest.approx(reduce_gated(LOSS, GATE, None).item())


def test_alpha_gradients_of_the_three_modes() -> None:
    grads = {}
    for mode in ("literal", "selfnorm"):
        alpha = ALPHA.clone().requires_grad_()
        reduce_gated(LOSS, GATE, alpha, mode).backward()
        grads[mode] = alpha.grad
    torch.testing.assert_close(grads["literal"], GATE * LOSS / 4)
    assert grads["literal"].min() >= 0  # only ever shrinks alpha
    # scaling all alphas changes nothing: the gradient is orthogonal to alpha
    assert (grads["selfnorm"] * ALPHA).sum().item() == pytest.approx(0, abs=1e-7)
    assert grads["selfnorm"].abs().sum() > 0
    alpha = ALPHA.clone().requires_grad_()
    assert not reduce_gated(LOSS, GATE, alpha, "detach").requires_grad
    with pytest.raises(ConfigError, match="kd_alpha_mode"):
        reduce_gated(LOSS, GATE, alpha, "other")


def test_a_sum_by_hand() -> None:
    out = reduce_gated(LOSS, GATE, ALPHA, reduction="sum")
    assert out.item() == pytest.approx(0.5 * 1 + 0.1 * 3)
    assert reduce_gated(LOSS, GATE, None, reduction="sum").item() == pytest.approx(1 + 3)
    out = reduce_gated(LOSS, GATE, ALPHA, "selfnorm", reduction="sum")
    assert out.item() == pytest.approx(2 * (0.5 * 1 + 0.1 * 3) / 0.6)
    with pytest.raises(ConfigError, match="kd_reduction: expected one of mean, sum, got 'max'"):
        reduce_gated(LOSS, GATE, ALPHA, reduction="max")


every_reading = pytest.mark.parametrize(
    ("loss", "mode", "with_alpha"),
    [
        (loss, mode, with_alpha)
        for loss in ("margin", "kl")
        for mode, with_alpha in (
            ("literal", True),
            ("selfnorm", True),
            ("detach", True),
            ("literal", False),
        )
    ],
)


def random_step(
    loss: str, mode: str, with_alpha: bool, reduction: str, rows: slice = slice(None)
) -> tuple[Distilled, torch.Tensor, torch.Tensor | None]:
    """A step on 16 rows, some of which qualify and some of which are active; float64."""
    rng = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, 16, generator=rng, dtype=torch.float64)
    n_buy = torch.arange(16.0) % 4
    gate = torch.rand(16, generator=rng, dtype=torch.float64)
    student = logits[1][rows].requires_grad_()
    alpha = gate[rows].requires_grad_() if with_alpha else None
    step = GatedDistillation(
        loss=loss, theta_act=2.0, margin=0.1, alpha_mode=mode, reduction=reduction
    )
    out = step(logits[0][rows], student, n_buy[rows], alpha)
    return out, student, alpha


def gradients(
    out: Distilled, student: torch.Tensor, alpha: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What autograd says of ``L_KD``; None without alpha, zeros where nothing reaches it."""
    inputs = [student] if alpha is None else [student, alpha]
    found = torch.autograd.grad(out.loss, inputs, allow_unused=True)
    if alpha is None:
        return found[0], None
    return found[0], torch.zeros_like(alpha) if found[1] is None else found[1]


@every_reading
def test_a_sum_is_n_times_the_mean_in_value_and_gradient(
    loss: str, mode: str, with_alpha: bool
) -> None:
    mean, total = (random_step(loss, mode, with_alpha, r) for r in ("mean", "sum"))
    assert 0 < total[0].active.sum() < total[0].qualified.sum() < 16
    assert mean[0].loss > 0
    torch.testing.assert_close(total[0].loss, 16 * mean[0].loss)
    one, other = gradients(*mean), gradients(*total)
    assert one[0].abs().max() > 0
    torch.testing.assert_close(other[0], 16 * one[0])
    if with_alpha:
        torch.testing.assert_close(other[1], 16 * one[1])
        assert (one[1].abs().max() > 0) == (mode != "detach")


@every_reading
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_closed_form_gradients_are_those_of_autograd(
    loss: str, mode: str, with_alpha: bool, reduction: str
) -> None:
    step = random_step(loss, mode, with_alpha, reduction)
    student, alpha = gradients(*step)
    torch.testing.assert_close(step[0].student_gradient, student)
    if alpha is None:
        assert step[0].alpha_gradient is None
    else:
        torch.testing.assert_close(step[0].alpha_gradient, alpha)
    assert not step[0].student_gradient.requires_grad


def test_gradients_on_the_student_by_hand() -> None:
    teacher, student = torch.tensor([2 * logit(0.9)] * 2), torch.tensor([2 * logit(0.6)] * 2)
    args = (teacher, student, torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    margin = GatedDistillation(reduction="sum")(*args)  # T = 2, m = .05; the second is inactive
    expected = [0.5 * 2 * 0.25 * -1 * 0.6 * 0.4 / 2, 0.0]
    assert margin.student_gradient.tolist() == pytest.approx(expected)
    assert margin.alpha_gradient.tolist() == pytest.approx([0.25**2, 0.0])
    kl = GatedDistillation("kl", reduction="mean")(*args)
    assert kl.student_gradient.tolist() == pytest.approx([0.5 * -0.3 / 2 / 2, 0.0])


@pytest.mark.parametrize("mode", ["literal", "detach"])
def test_a_sum_over_several_processes_is_one_over_their_rows(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradients(*random_step("margin", mode, True, "sum"))[0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    shares = [random_step("margin", mode, True, "sum", r) for r in (slice(0, 6), slice(6, 16))]
    found = [gradients(*share)[0] for share in shares]
    # what DistributedDataParallel does: average over the processes
    torch.testing.assert_close(torch.cat(found) / 2, whole)
    torch.testing.assert_close(shares[0][0].student_gradient, found[0])


@pytest.mark.parametrize("mode", ["literal", "selfnorm", "detach"])
@pytest.mark.parametrize("loss", ["margin", "kl"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_qualified_is_zero_and_connected(mode: str, loss: str, reduction: str) -> None:
    student = torch.randn(4, requires_grad=True)
    alpha = torch.rand(4, requires_grad=True)
    step = GatedDistillation(loss=loss, theta_act=100.0, alpha_mode=mode, reduction=reduction)
    out = step(torch.randn(4), student, torch.zeros(4), alpha)
    assert out.loss.item() == 0
    out.loss.backward()
    assert torch.equal(student.grad, torch.zeros(4))
    assert alpha.grad is None or torch.equal(alpha.grad, torch.zeros(4))
    assert not out.student_gradient.any()
    assert not out.alpha_gradient.any()


def test_detached_teacher_and_live_teacher() -> None:
    for detach in (True, False):
        teacher = torch.tensor([4.0], requires_grad=True)
        student = torch.tensor([0.0], requires_grad=True)
        step = GatedDistillation(detach_teacher=detach)
        step(teacher, student, torch.tensor([5.0]), None).loss.backward()
        assert student.grad is not None
        assert (teacher.grad is None) == detach


def test_qualified_and_active_rows_are_reported() -> None:
    teacher, student = torch.tensor([4.0, 4.0, 4.0]), torch.tensor([0.0, 3.99, 0.0])
    out = GatedDistillation(theta_act=2.0)(teacher, student, torch.tensor([2.0, 2.0, 1.0]), None)
    assert out.qualified.tolist() == [1, 1, 0]
    assert out.active.tolist() == [1, 0, 0]
    free = GatedDistillation(theta_act=2.0, use_qual_gate=False)
    assert free(teacher, student, torch.zeros(3), None).qualified.tolist() == [1, 1, 1]
