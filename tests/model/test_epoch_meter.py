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
