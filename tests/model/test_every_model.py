"""What every model of this package must do, whatever it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.integration.registry import known_models, model_class
from recbole_choir.integration.validation_points import undisturbed

B, L = 64, 6

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "Base": {
        "base": {},
        "base-mlp-stats": {"att_type": "mlp", "use_group_stats": True},
        "base-lifts": {"use_lifts": True, "use_own_scores": True},
    },
    "BaseMM": {"base-mm": {}, "base-mm-vectors": {"use_codes": False}},
    "ChoirRec": {
        "paper": {},
        "paper-mlp": {"att_type": "mlp"},
        "released": {"variant": "released"},
        "stats": {"variant": "stats"},
        "soft": {"variant": "soft"},
        "soft-own": {"variant": "soft", "use_own_scores": True},
        "one-tower": {"use_dual_channel": False, "use_group_stats": True},
        "everything": {
            "attr_impute": True,
            "kd_loss": "kl",
            "kd_alpha_mode": "selfnorm",
            "kd_reduction": "sum",
            "aux_bce": 0.3,
        },
        "constant-gates": {"kd_alpha_mode": "detach", "fusion_gate": 0.5},
    },
    "AKTRec": {"akt": {}, "akt-plus": {"variant": "plus"}},
    "POSO": {
        "poso": {},
        "poso-naive": {"poso_mode": "naive", "poso_pc": "user", "use_group_stats": True},
    },
    "SimTier": {"simtier": {}, "simtier-quantile": {"simtier_edges": "quantile"}},
    "SaviorRec": {
        "savior": {},
        "savior-alone": {"use_content": False, "use_codes": False, "savior_mba": False},
        "savior-no-attention": {"savior_attention": False},
    },
    "TailNet": {"tailnet": {}, "tailnet-pure": {"tailnet_pure": True}},
    "UIE": {"uie": {}, "uie-stats": {"use_group_stats": True, "uie_top_k": 3}},
    "ColdTransformer": {
        "cold": {"ct_dropout": 0.0},
        "cold-two-tower": {"ct_dropout": 0.0, "ct_head": "two_tower", "ct_blocks": 2},
        "cold-control": {"ct_dropout": 0.0, "ct_adaptation": False},
    },
    "MELT": {
        "melt": {"melt_dropout": 0.0, "epochs": 4, "melt_transfer_from": 0},
        "melt-backbone": {"melt_dropout": 0.0, "melt_lambda_user": 0, "melt_lambda_item": 0},
        "melt-users": {"melt_dropout": 0.0, "melt_lambda_item": 0, "melt_detach_target": True},
    },
}
VARIANTS = [
    pytest.param(name, settings, id=label)
    for name, variants in SETTINGS.items()
    for label, settings in variants.items()
]
every_model = pytest.mark.parametrize(("name", "settings"), VARIANTS)

# Their scores depend on the order of the history.
SEQUENCE_MODELS = {"ColdTransformer", "MELT", "TailNet"}
HISTORIES = ("hist_items", "labelled_items", "hist_labels")


def make(helpers: Any, name: str, settings: dict[str, Any], **more: Any) -> Any:
    """A model as a run would have it after the start of an epoch."""
    model = helpers.build(model_class(name), **{**settings, **more})
    start_epoch(model, 0)
    return model


def trained(helpers: Any, name: str, settings: dict[str, Any]) -> Any:
    """A model in evaluation that has left its start, where many a part is still asleep."""
    model = make(helpers, name, settings)
    train(model, helpers, range(1))
    return model


def start_epoch(model: Any, epoch: int) -> None:
    if hasattr(model, "on_epoch_start"):
        model.on_epoch_start(epoch)


def rows(batch: Interaction, index: torch.Tensor) -> Interaction:
    return Interaction({k: v[index] for k, v in batch.interaction.items()})


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def state_of(model: Any) -> dict[str, Any]:
    return copy.deepcopy(model.state_dict())


def same_state(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the entries that differ."""
    return [n for n in a if not torch.equal(torch.as_tensor(a[n]), torch.as_tensor(b[n]))]


def train(model: Any, helpers: Any, epochs: range, optimiser: Any = None) -> Any:
    """Two batches an epoch, as a trainer would."""
    optimiser = optimiser or torch.optim.Adagrad(model.parameters(), lr=0.01)
    for epoch in epochs:
        start_epoch(model, epoch)
        model.train()
        for step in range(2):
            optimiser.zero_grad()
            model.calculate_loss(helpers.batch(seed=10 * epoch + step)).backward()
            optimiser.step()
        model.eval()
        model.predict(helpers.batch(seed=99))
    return optimiser


def test_every_registered_model_is_looked_at() -> None:
    ours = {
        name
        for name, kind in known_models().items()
        if kind == "choir" and model_class(name).__module__.startswith("recbole_choir.")
    }
    assert set(SETTINGS) == ours


@every_model
def test_id_tables_are_what_ids_train(helpers, name: str, settings: dict) -> None:
    model = make(helpers, name, settings)
    tables = model.id_tables()
    sizes = {"user": model.inputs_schema.n_users, "item": model.inputs_schema.n_items}
    own = {id(parameter) for parameter in model.parameters()}
    assert set(tables) == ({"item"} if settings.get("tailnet_pure") else {"user", "item"})
    start = {name: table.detach().clone() for name, table in tables.items()}
    train(model, helpers, range(1))
    for side, table in tables.items():
        assert table.shape == (sizes[side], model.embedding_size)
        assert id(table) in own
        assert (table != start[side]).any(1).sum() > 10, "of ids in the batches"


@every_model
def test_a_row_alone_scores_as_in_a_batch(helpers, name: str, settings: dict) -> None:
    # 1e-6: matrix products of another size may add in another order.
    model, batch = trained(helpers, name, settings), helpers.batch()
    together = model.predict(batch)
    alone = torch.cat([model.predict(rows(batch, torch.tensor([i]))) for i in range(B)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


@every_model
def test_padding_is_invisible_wherever_it_stands(helpers, name: str, settings: dict) -> None:
    """Wider histories with the items at other places, in the same order; a wrong hist_len."""
    model, batch = trained(helpers, name, settings), helpers.batch()
    rng = torch.Generator().manual_seed(3)
    place = torch.rand(B, 2 * L, generator=rng).argsort(1)[:, :L].sort(1).values
    moved = {}
    for column in HISTORIES:
        values = batch[column]
        wider = torch.zeros(B, 2 * L, dtype=values.dtype)
        moved[column] = wider.scatter_(1, place, values)
    other = changed(batch, **moved, hist_len=torch.zeros(B, dtype=torch.long))
    torch.testing.assert_close(model(other), model(batch), rtol=0, atol=1e-6)


@every_model
def test_only_sequence_models_know_an_order(helpers, name: str, settings: dict) -> None:
    model, batch = trained(helpers, name, settings), helpers.batch()
    other = changed(batch, **{column: batch[column].flip(1) for column in HISTORIES})
    same = torch.allclose(model(other), model(batch), rtol=0, atol=1e-6)
    assert same == (name not in SEQUENCE_MODELS)


@every_model
def test_empty_histories_and_unknown_ids_are_finite(helpers, name: str, settings: dict) -> None:
    model, batch = make(helpers, name, settings), helpers.batch()
    nothing = torch.zeros(B, dtype=torch.long)
    none = {column: torch.zeros_like(batch[column]) for column in HISTORIES}
    empty = changed(batch, **none, snapshot=nothing, user_id=nothing, item_id=nothing)
    loss = model.calculate_loss(empty)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter_name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.isfinite(p.grad).all(), parameter_name
    assert torch.isfinite(model.eval()(empty)).all()


@every_model
def test_users_and_items_without_training_rows_score(helpers, name: str, settings: dict) -> None:
    model, batch = trained(helpers, name, settings), helpers.batch()
    users = torch.tensor(helpers.unseen.users).repeat(B)[:B]
    items = torch.tensor(helpers.unseen.items).repeat(B)[:B]
    scores = model.predict(changed(batch, user_id=users, item_id=items))
    assert torch.isfinite(scores).all()
    assert scores.unique().numel() > B // 2  # the rows' other inputs still count


@every_model
def test_same_seed_same_bits(helpers, name: str, settings: dict) -> None:
    first, second = (make(helpers, name, settings, dropout_prob=0.2) for _ in range(2))
    for model in (first, second):
        torch.manual_seed(4)
        train(model, helpers, range(2))
    assert same_state(state_of(first), state_of(second)) == []


@every_model
def test_saved_and_loaded_it_scores_the_same(
    helpers, name: str, settings: dict, tmp_path: Any
) -> None:
    model, batch = make(helpers, name, settings), helpers.batch()
    train(model, helpers, range(2))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = helpers.build(model_class(name), seed=5, **settings).eval()
    assert not torch.equal(other.predict(batch), model.predict(batch))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other.predict(batch), model.predict(batch))


@every_model
def test_a_resumed_run_ends_with_the_same_bits(helpers, name: str, settings: dict) -> None:
    whole = make(helpers, name, settings)
    train(whole, helpers, range(3))
    part = make(helpers, name, settings)
    optimiser = train(part, helpers, range(1))
    resumed = helpers.build(model_class(name), seed=5, **settings)
    resumed.load_state_dict(state_of(part))
    again = torch.optim.Adagrad(resumed.parameters(), lr=0.01)
    again.load_state_dict(optimiser.state_dict())
    train(resumed, helpers, range(1, 3), again)
    assert same_state(state_of(whole), state_of(resumed)) == []


@every_model
def test_a_step_on_a_batch_lowers_its_loss(helpers, name: str, settings: dict) -> None:
    model, batch = make(helpers, name, settings), helpers.batch()
    own = {n for n, _ in model.named_parameters()}
    start = {n: v for n, v in state_of(model).items() if n not in own}  # draws and such
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model.calculate_loss(batch)
    before.backward()
    optimiser.step()
    model.load_state_dict({**model.state_dict(), **start})
    assert model.calculate_loss(batch).item() < before.item()


@every_model
def test_every_trainable_parameter_is_used(helpers, name: str, settings: dict) -> None:
    """A parameter without gradient would hang distributed training."""
    model = make(helpers, name, settings)
    model.calculate_loss(helpers.batch()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@every_model
def test_the_label_reaches_no_score(helpers, name: str, settings: dict) -> None:
    model, batch = trained(helpers, name, settings), helpers.batch()
    assert torch.equal(
        model.predict(changed(batch, label=1 - batch["label"])), model.predict(batch)
    )


@every_model
def test_evaluation_changes_nothing(helpers, name: str, settings: dict) -> None:
    model, batch = trained(helpers, name, settings), helpers.batch()
    before, scores = state_of(model), model.predict(batch)
    for seed in range(3):
        model.predict(helpers.batch(seed=seed))
    assert same_state(before, state_of(model)) == []
    assert torch.equal(model.predict(batch), scores)


@every_model
def test_a_validation_in_mid_epoch_changes_no_weight(helpers, name: str, settings: dict) -> None:
    """Averages that a model keeps for some steps must not be computed again by an evaluation."""
    ends = []
    for validated in (False, True):
        model = make(helpers, name, settings, dropout_prob=0.2)
        optimiser = torch.optim.Adagrad(model.parameters(), lr=0.1)
        torch.manual_seed(4)
        model.train()
        for step in range(4):
            optimiser.zero_grad()
            model.calculate_loss(helpers.batch(seed=step)).backward()
            optimiser.step()
            if validated and step < 3:
                with undisturbed(model, torch.device("cpu")), torch.no_grad():
                    model.eval()
                    model.predict(helpers.batch(seed=99))
                    torch.rand(5)
                assert model.training
        ends.append(state_of(model))
    assert same_state(*ends) == []


def test_an_evaluation_of_akt_rec_reads_fresh_averages(helpers: Any) -> None:
    """In mid-epoch as at its end: what is put back afterwards is not what was evaluated with."""
    model, batch = make(helpers, "AKTRec", {}), helpers.batch()
    optimiser = torch.optim.Adagrad(model.parameters(), lr=0.5)
    model.train()
    for step in range(2):
        optimiser.zero_grad()
        model.calculate_loss(helpers.batch(seed=step)).backward()
        optimiser.step()
    table = model.cluster_view.users.table.clone()
    with undisturbed(model, torch.device("cpu")), torch.no_grad():
        model.eval()
        scores = model.predict(batch)
        assert not torch.equal(model.cluster_view.users.table, table)
    assert torch.equal(model.cluster_view.users.table, table)
    assert torch.equal(scores, model.eval().predict(batch).detach())
