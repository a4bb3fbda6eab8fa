"""Every model that attends over the history sees repeats, learns from them and reports it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from sklearn.metrics import roc_auc_score

from recbole_choir.integration.registry import known_models, model_class
from recbole_choir.model.context_aware_recommender.saviorrec import BidirectionalAttention
from recbole_choir.model.layers.target_attention import TargetAttention, use_plain_attention

ATTENDING: dict[str, dict[str, Any]] = {
    "Base": {},
    "BaseMM": {},
    "POSO": {},
    "SimTier": {},
    "SaviorRec": {},
    "TailNet": {},
    "UIE": {},
    "ChoirRec": {},
    "AKTRec": {},
    "ColdTransformer": {"ct_dropout": 0.0},
    "MELT": {"melt_dropout": 0.0, "epochs": 4},
}
every_attending = pytest.mark.parametrize("name", ATTENDING)


def attentions(model: Any) -> dict[str, torch.nn.Module]:
    kinds = (TargetAttention, BidirectionalAttention)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds)}


def test_the_list_is_whole() -> None:
    """Every model of ours has Base's attention, next to a transformer where it has one."""
    ours = {
        name
        for name, kind in known_models().items()
        if kind == "choir" and model_class(name).__module__.startswith("recbole_choir.")
    }
    assert set(ATTENDING) == ours


@every_attending
def test_all_attentions_have_the_same_default(helpers: Any, name: str) -> None:
    found = attentions(helpers.build(model_class(name), **ATTENDING[name]))
    assert "history_attention" in found
    for path, attention in found.items():
        if isinstance(attention, TargetAttention):
            assert attention.att_type == "sigmoid", path
        else:
            assert (attention.kind, attention.cosine) == ("sigmoid", True), path


@every_attending
def test_an_own_repeat_has_at_least_twice_the_weight_at_the_start(helpers: Any, name: str) -> None:
    """Of the mean weight of other items, in all attentions over the history."""
    model = helpers.build(
        model_class(name), **ATTENDING[name], embedding_size=16, embedding_init_std=0.05
    )
    seen: dict[str, torch.Tensor] = {}
    for path, attention in attentions(model).items():
        if path in ("history_attention", "attention"):
            attention.register_forward_hook(lambda *a, p=path: seen.update({p: a[2].weights}))
    batch = helpers.batch()
    history = batch["hist_items"].clone()
    history[:, 0] = batch["item_id"]
    repeats = history == batch["item_id"].unsqueeze(1)
    known = (batch["item_id"] > 0).unsqueeze(1)
    model.eval()(Interaction({**batch.interaction, "hist_items": history}))
    assert seen
    for path, weights in seen.items():
        w = weights if weights.dim() == 3 else weights.unsqueeze(1)
        for way in range(w.shape[1]):
            own = w[:, way][repeats & known]
            other = w[:, way][~repeats & known & (history > 0)]
            if name in ("BaseMM", "SaviorRec", "SimTier", "AKTRec"):
                # content and attributes of the made-up items overlap: by the mean
                assert own.mean() > 1.5 * other.mean(), (path, way)
            else:
                assert own.mean() > 2 * other.mean(), (path, way)


@every_attending
def test_plain_operations_score_the_same(helpers: Any, name: str) -> None:
    model, batch = helpers.build(model_class(name), **ATTENDING[name]).eval(), helpers.batch()
    fused = model(batch)
    use_plain_attention(model)
    torch.testing.assert_close(model(batch), fused, rtol=1e-5, atol=1e-6)


# --- made-up rows whose label is "the item is in the history" ---------------------------


N_ITEMS, LENGTH = 300, 12


def repeats(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Histories of 6 to 12 items, candidates and labels; half of them positive."""
    rng = np.random.default_rng(seed)
    history = rng.integers(1, N_ITEMS, (n, LENGTH))
    history[np.arange(LENGTH) >= rng.integers(6, LENGTH + 1, n)[:, None]] = 0
    item = rng.integers(1, N_ITEMS, n)
    item = np.where(rng.random(n) < 0.5, history[np.arange(n), rng.integers(0, 6, n)], item)
    label = (history == item[:, None]).any(1)
    return tuple(torch.from_numpy(x.astype(np.int64)) for x in (item, history, label))


def made_up_dataset(helpers: Any) -> SimpleNamespace:
    """Ids alone: 20 users, 300 items, no attributes, no statistics."""
    dataset = helpers.dataset(groups=None)
    schema = dataclasses.replace(
        dataset.model_inputs.schema,
        n_users=20,
        n_items=N_ITEMS,
        user_attrs=(),
        item_attrs=(),
        contexts=(),
        user_stat_names=(),
        item_stat_names=(),
        group_stat_names=(),
        lift_names=(),
        own_score_names=(),
    )
    inputs = dataclasses.replace(
        dataset.model_inputs, schema=schema, user_features={}, item_features={}, history_length=12
    )
    return SimpleNamespace(model_inputs=inputs)


def batch_of(n: int, seed: int) -> Interaction:
    item, history, label = repeats(n, seed)
    return Interaction(
        {
            "user_id": torch.arange(n) % 19 + 1,
            "item_id": item,
            "hist_items": history,
            "label": label.float(),
        }
    )


def learn(helpers: Any, att_type: str, steps: int = 150) -> tuple[float, dict[str, float]]:
    """Test AUC and diagnostics of Base after so many steps of Adam at .01."""
    model = helpers.base(
        dataset=made_up_dataset(helpers),
        att_type=att_type,
        embedding_size=16,
        embedding_init_std=0.05,
        mlp_hidden_size=[32, 16],
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    model.on_epoch_start(0)
    for step in range(steps):
        optimiser.zero_grad()
        model.calculate_loss(batch_of(256, step)).backward()
        optimiser.step()
    figures = model.epoch_diagnostics()
    test = batch_of(4000, 10**6)
    score = model.eval().predict(test).detach().numpy()
    return float(roc_auc_score(test["label"].numpy(), score)), figures


def test_the_default_learns_what_is_in_the_history(helpers: Any) -> None:
    auc, figures = learn(helpers, "sigmoid")
    assert auc > 0.99
    assert figures["attention_entropy_history"] < 0.98
    assert figures["attention_logit_sd_history"] > 0.5


def test_the_literal_dot_product_is_a_mean_and_does_not(helpers: Any) -> None:
    """What the default was before, and what the figures say of it."""
    auc, figures = learn(helpers, "dot", steps=60)
    assert auc < 0.9
    assert figures["attention_entropy_history"] > 0.999
    assert figures["attention_logit_sd_history"] < 0.1


@every_attending
def test_a_trained_model_reports_every_attention(helpers: Any, name: str) -> None:
    """Entropy below .98 of its maximum where histories are longer than five."""
    model = helpers.build(model_class(name), **ATTENDING[name])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    model.on_epoch_start(0)
    model.train()
    for step in range(17):
        batch = helpers.batch(seed=step)
        full = batch["hist_items"].clone()
        rng = torch.Generator().manual_seed(step)
        full[full == 0] = torch.randint(1, 36, (int((full == 0).sum()),), generator=rng).to(full)
        optimiser.zero_grad()
        model.calculate_loss(Interaction({**batch.interaction, "hist_items": full})).backward()
        optimiser.step()
    figures = model.epoch_diagnostics()
    names = {n.removeprefix("attention_entropy_") for n in figures if "attention_entropy" in n}
    expected = {"history"}
    if name == "SaviorRec":
        expected |= {
            f"attention_{n}" for n in ("modal", "modal_to_behaviour", "behaviour_to_modal")
        }
    assert expected <= names
    for attention in expected:
        assert figures[f"attention_entropy_{attention}"] < 0.98, attention
        assert figures[f"attention_logit_sd_{attention}"] > 0.1, attention
