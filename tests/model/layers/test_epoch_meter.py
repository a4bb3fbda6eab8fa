"""What ChoirRec reports of its gates at an epoch's end."""

from __future__ import annotations

import pytest
import torch

from recbole_choir.model.layers.epoch_meter import EpochMeter


def test_nothing_counted_reports_nothing() -> None:
    assert EpochMeter().report() == {}


def test_five_equal_levels_by_purchases() -> None:
    meter = EpochMeter()
    n_buy = torch.arange(10.0).repeat(3)
    for rows in n_buy.split(7):  # batches of any size add up
        meter.add_fusion(rows, 1.0 - rows / 10)
    report = meter.report()
    assert report["mean_alpha_fusion"] == pytest.approx(0.55)
    for level, expected in enumerate((0.95, 0.75, 0.55, 0.35, 0.15), start=1):
        assert report[f"mean_alpha_fusion_level_{level}"] == pytest.approx(expected)


def test_rows_that_do_not_count_are_left_out() -> None:
    """The figures are those of the other rows alone, whatever the gates of these."""
    n_buy = torch.arange(10.0).repeat(3)
    alpha = torch.rand(30, generator=torch.Generator().manual_seed(0))
    counted = torch.arange(30) % 4 > 0
    whole, part = EpochMeter(), EpochMeter()
    whole.add_fusion(n_buy, alpha, counted)
    part.add_fusion(n_buy[counted], alpha[counted])
    assert whole.report() == pytest.approx(part.report())
    assert whole.report()["mean_alpha_fusion"] == pytest.approx(alpha[counted].mean().item())
    nobody = EpochMeter()
    nobody.add_fusion(n_buy, alpha, torch.zeros(30, dtype=torch.bool))
    assert nobody.report() == {}


def test_equal_counts_stay_together() -> None:
    meter = EpochMeter()
    meter.add_fusion(torch.tensor([0.0] * 9 + [5000.0]), torch.tensor([0.2] * 9 + [0.8]))
    report = meter.report()
    levels = {k: v for k, v in report.items() if "level" in k}
    assert levels == {
        "mean_alpha_fusion_level_3": pytest.approx(0.2),
        "mean_alpha_fusion_level_5": pytest.approx(0.8),
    }


def test_distillation_fractions_and_reset() -> None:
    meter = EpochMeter()
    alpha = torch.tensor([0.2, 0.4, 0.6, 0.8])
    meter.add_distillation(torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 0, 0]), alpha)
    meter.add_distillation(torch.ones(2), torch.zeros(2), None)
    report = meter.report()
    assert report["frac_qualified"] == pytest.approx(4 / 6)
    assert report["frac_margin_active"] == pytest.approx(1 / 4)
    assert report["mean_alpha_distill"] == pytest.approx((2.0 + 2.0) / 6)
    meter.reset()
    assert meter.report() == {}
    assert meter.state_dict() == {}


@pytest.mark.parametrize("student", ["group", "individual"])
def test_ratios_of_gradients_over_all_batches(student: str) -> None:
    meter = EpochMeter(student)
    meter.add_student_gradients(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0]))
    meter.add_student_gradients(torch.tensor([0.0, 4.0, 0.0]), torch.tensor([2.0, 4.0, 0.0]))
    meter.add_alpha_gradients(torch.tensor([0.0, -1.0]), torch.tensor([-3.0, 4.0]))
    assert meter.report() == pytest.approx(
        {f"kd_grad_ratio_{student}": 5 / 5, "kd_grad_ratio_alpha": 1 / 5}
    )
    meter.reset()
    assert meter.report() == {}


def test_a_ratio_to_no_gradient_is_left_out() -> None:
    meter = EpochMeter()
    meter.add_student_gradients(torch.ones(2), torch.zeros(2))
    meter.add_alpha_gradients(torch.zeros(2), torch.ones(2))
    assert meter.report() == {"kd_grad_ratio_alpha": 0.0}


def test_tiny_gradients_are_counted_in_double_precision() -> None:
    meter = EpochMeter()
    meter.add_student_gradients(torch.full((3,), 1e-25), torch.full((3,), 1e-24))
    assert meter.report() == {"kd_grad_ratio_group": pytest.approx(0.1)}
