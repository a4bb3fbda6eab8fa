"""Ranking networks."""

from __future__ import annotations

import torch

from recbole_choir.model.layers.channel import MixtureOfExperts


def test_a_mixture_of_experts_by_hand() -> None:
    model, x = MixtureOfExperts(4, (5, 3, 2), 0.0, 3), torch.randn(6, 4)
    weight = torch.softmax(model.gate(x), dim=1)
    mixed = sum(weight[:, k : k + 1] * model.experts[k](x) for k in range(3))
    logit = model.tower(mixed)[:, 0]
    torch.testing.assert_close(model(x), logit)
    assert model(x).shape == (6,)
    assert model.experts[0][0][0].out_features == 5
    assert model.experts[0][1][0].out_features == 3


def test_one_expert_is_an_mlp() -> None:
    model, x = MixtureOfExperts(4, (5, 3), 0.0, 1), torch.randn(6, 4)
    torch.testing.assert_close(model(x), model.tower(model.experts[0](x))[:, 0])
