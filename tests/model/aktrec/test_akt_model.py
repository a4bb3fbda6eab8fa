"""AKTRec as a whole: its input slot by slot, its losses, its switches and its averages."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from recbole_choir.errors import ConfigError
from recbole_choir.model.aktrec.gate_report import level_means
from recbole_choir.model.context_aware_recommender.aktrec import AKTRec

TABLES_OFF = {"use_cluster_emb": False, "use_cluster_view": False}


def stir(model: AKTRec) -> AKTRec:
    """Give the zero-initialised gates something to say."""
    torch.manual_seed(7)
    for name, p in model.named_parameters():
        if ".gate." in name:
            torch.nn.init.normal_(p)
    return model


def changed(batch: Any, **columns: torch.Tensor) -> Any:
    return type(batch)({**batch.interaction, **columns})


def attended(helpers: Any, target: torch.Tensor, keys: torch.Tensor, ids: torch.Tensor) -> Any:
    """Weighted sum by the default attention at its start, and masked mean."""
    valid = ids > 0
    weights = helpers.default_weights(keys, target, valid)
    mean = (keys * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
    return torch.cat([(weights.unsqueeze(-1) * keys).sum(1), mean], dim=1)


def slots(model: AKTRec, helpers: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Both views of a batch, from the tables alone."""
    inputs = helpers.akt_dataset().model_inputs
    user, item, s = batch["user_id"], batch["item_id"], batch["snapshot"]
    clusters, encoder = inputs.clusters, model.item_encoder

    def e(embedding: Any, ids: torch.Tensor, activity: torch.Tensor) -> torch.Tensor:
        return embedding.parts(ids, s, activity).fused

    def attributes(ids: torch.Tensor) -> torch.Tensor:
        return torch.cat(encoder.attributes(encoder.features(ids)), dim=-1)

    people = torch.cat(model.user_bank(model.user_features.whole()), dim=-1)
    e_u = e(model.user_table, user, batch["user_stats"])
    e_i = e(encoder.identity, item, batch["item_stats"])
    token = torch.cat([e_i, attributes(item)], dim=1)
    history = batch["hist_items"]
    keys = encoder.token(history, s.unsqueeze(1).expand_as(history))

    def average(rows: torch.Tensor, side: Any, at: Any) -> torch.Tensor:
        out = []
        for row in rows:
            found = (side.cluster == row).nonzero()
            snapshot = int(found[0, 0])
            ids = found[found[:, 0] == snapshot, 1]
            out.append(at(snapshot)[ids].mean(0) if row else torch.zeros(at(1).shape[1]))
        return torch.stack(out)

    def users_at(t: int) -> torch.Tensor:
        return torch.cat([model.user_table.at(t), people, clusters.users.stats[t]], dim=1)

    def items_at(t: int) -> torch.Tensor:
        ids = torch.arange(40)
        return torch.cat([encoder.identity.at(t), attributes(ids), clusters.items.stats[t]], dim=1)

    of_user, of_item = clusters.users.cluster[s, user], clusters.items.cluster[s, item]
    sequence = clusters.behaviour.gather(of_user, inputs.items.item_codes[s, item, 0])
    sequence_keys = encoder.token(sequence, s.unsqueeze(1).expand_as(sequence))
    both = (model.history_attention, model.cluster_attention)
    projected = [token @ attention.query.weight.T for attention in both]
    return {
        "user": torch.cat([e_u, people[user], batch["user_stats"]], dim=1),
        "item": torch.cat([token, batch["item_stats"]], dim=1),
        "sequence": attended(helpers, projected[0], keys, history),
        "cluster user": average(of_user, clusters.users, users_at),
        "cluster item": average(of_item, clusters.items, items_at),
        "cluster sequence": attended(helpers, projected[1], sequence_keys, sequence),
    }


def has_cluster(helpers: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Whether a row has a cluster, slot by slot, from the tables alone: ``[B]``."""
    inputs = helpers.akt_dataset().model_inputs
    user, item, s = batch["user_id"], batch["item_id"], batch["snapshot"]
    of_user = inputs.clusters.users.cluster[s, user]
    top = inputs.items.item_codes[s, item, 0]
    return {
        "user": of_user > 0,
        "item": inputs.clusters.items.cluster[s, item] > 0,
        "sequence": inputs.clusters.behaviour.length_of(of_user, top) > 0,
    }


def test_the_input_is_that_of_the_equations(helpers: Any) -> None:
    """Eq. 6 to 10 with the paper's settings, written out from the tables.

    Where a slot has no cluster there is no alpha: the slot is the instance's.
    """
    model, batch = stir(helpers.akt()), helpers.batch()
    model.refresh()
    views = slots(model, helpers, batch)
    activity = torch.cat(
        [batch["user_stats"], batch["item_stats"], batch["cross_stats"][:, [1, 4, 5, 6]]], dim=1
    )
    alpha = model.fusion.gate(activity)
    assert alpha.std() > 0.01
    fused, known = {}, has_cluster(helpers, batch)
    for k, name in enumerate(("user", "item", "sequence")):
        own = views[name] @ model.fusion.instance.weights[k].T
        cluster = views[f"cluster {name}"] @ model.fusion.cluster.weights[k].T
        a = alpha * known[name].unsqueeze(1)
        fused[name] = a * cluster + (1 - a) * own
        assert 5 < known[name].sum() < 60
    context = model.encode_context(batch)
    f = torch.cat([fused["user"], fused["item"], context, fused["sequence"]], dim=1)
    torch.testing.assert_close(model(batch), model.ranker(f), rtol=1e-4, atol=1e-5)
    out = model.outputs(batch)
    torch.testing.assert_close(out.alpha, alpha[:, 0])


def test_plus_is_the_concatenation_with_content_and_statistics(helpers: Any) -> None:
    model, batch = stir(helpers.akt(variant="plus")), helpers.batch()
    dataset = helpers.akt_dataset()
    items, d = dataset.model_inputs.items, 4
    assert model.item_encoder.width == 4 * d + d
    token = model.item_encoder.token(batch["item_id"], batch["snapshot"])
    vectors = items.vectors[items.item_vector[batch["snapshot"], batch["item_id"]].long()]
    content = model.item_encoder.parts[0]
    torch.testing.assert_close(token[:, -d:], vectors @ content.weight.T)
    width = 2 * (model.user_width + model.item_width + 2 * model.item_encoder.width)
    first = model.ranker.first[0]
    assert first.in_features == width + model.context_width + 7 + 6  # cross and group statistics
    assert model.fusion.gate is None
    before = model(batch)
    for column in ("cross_stats", "group_stats"):
        other = changed(batch, **{column: batch[column] + 1})
        assert ((model(other) - before).abs() > 0).float().mean() > 0.9, column


def test_without_tables_it_is_base(helpers: Any) -> None:
    """e = d and alpha = 0 leave Base's input, column by column."""
    model, base, batch = helpers.akt(**TABLES_OFF), helpers.base(), helpers.batch()
    names = {
        "user_table.weight": "user_table.individual.weight",
        "item_encoder.id_table.weight": "item_encoder.identity.individual.weight",
    }
    theirs = base.state_dict()
    mine = model.state_dict()
    mine |= {names.get(n, n.replace("individual.", "ranker.", 1)): v for n, v in theirs.items()}
    assert mine.keys() == model.state_dict().keys()
    model.load_state_dict(mine)
    assert torch.equal(model(batch), base(batch))
    plain = {k: v for k, v in batch.interaction.items() if k not in ("snapshot", "cross_stats")}
    assert torch.equal(model(type(batch)(plain)), base(batch))  # no table, no snapshots


@pytest.mark.parametrize(
    ("constant", "ablation"),
    [
        ({"cgae_gate": 1.0}, {"use_individual_emb": False, "cluster_emb": "per_id"}),
        ({"cgae_gate": 0.0}, {"use_cluster_emb": False}),
        ({"hfa_gate": 1.0, "clust_mode": "grad"}, {"use_instance_view": False}),
        ({"hfa_gate": 0.0}, {"use_cluster_view": False}),
    ],
    ids=["r=1", "r=0", "alpha=1", "alpha=0"],
)
def test_a_constant_gate_is_the_ablation_bit_for_bit(
    helpers: Any, constant: dict[str, Any], ablation: dict[str, Any]
) -> None:
    """Scores, and gradients of the main loss on all that both have."""
    batch = helpers.batch()
    if "use_instance_view" in ablation:
        # Where there is no cluster, alpha is 0 whatever the gate gives: the ablation has nothing.
        batch = helpers.batch(400)
        slots = has_cluster(helpers, batch)
        batch = batch[slots["user"] & slots["item"] & slots["sequence"]]
        assert len(batch) > 50
    one = helpers.akt(**constant)
    two = helpers.akt(seed=3, **ablation)
    state = one.state_dict()
    two.load_state_dict({n: state.get(n, v) for n, v in two.state_dict().items()})
    shared = [n for n, _ in two.named_parameters()]
    assert {n.split(".")[0] for n in shared} >= {"user_table", "item_encoder", "ranker"}
    losses = [model.bce(model(batch), batch) for model in (one, two)]
    assert torch.equal(one(batch), two(batch))
    for loss in losses:
        loss.backward()
    grads = dict(one.named_parameters())
    for name, p in two.named_parameters():
        if p.grad is not None:
            assert torch.equal(grads[name].grad, p.grad), name
    one.eval()
    two.eval()
    seen = ~torch.isin(batch["user_id"], torch.tensor(helpers.unseen.users))
    seen &= ~torch.isin(batch["item_id"], torch.tensor(helpers.unseen.items))
    assert torch.equal(one.predict(batch)[seen], two.predict(batch)[seen])


NO_CLUSTER_VIEW = {"use_cluster_view": False}


def stir_gently(model: AKTRec) -> AKTRec:
    """Gates that speak without being near 0 or 1, and so have gradients everywhere."""
    with torch.no_grad():
        for name, p in stir(model).named_parameters():
            if ".gate." in name:
                p.mul_(0.2)
    return model


def without_clusters(model: AKTRec, helpers: Any) -> AKTRec:
    """The ablation w/o cluster-level feature with the same weights."""
    other = helpers.akt(seed=5, **NO_CLUSTER_VIEW)
    other.load_state_dict({n: model.state_dict()[n] for n in other.state_dict()})
    return other


@pytest.mark.parametrize(
    "settings", [{}, {"hfa_gate": 0.5}, {"use_cluster_seq": False}, {"clust_mode": "grad"}]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_row_without_any_cluster_is_the_instance_view_alone(
    helpers: Any, settings: dict[str, Any], training: bool
) -> None:
    """Bit for bit the ablation w/o cluster-level feature; and alpha learns nothing there."""
    model, batch = stir_gently(helpers.akt(**settings)), helpers.batch()
    other = without_clusters(model, helpers)
    slots = has_cluster(helpers, batch)
    slots["sequence"] &= settings.get("use_cluster_seq", True)
    none = ~(slots["user"] | slots["item"] | slots["sequence"])
    assert 10 < none.sum() < 50
    assert (batch["snapshot"][none] > 0).any()  # not for want of a snapshot alone
    assert torch.equal(model.outputs(batch).has_cluster, ~none)
    model.train(training)
    other.train(training)
    one, two = model(batch), other(batch)
    assert torch.equal(one[none], two[none])
    assert (one[~none] != two[~none]).all()

    one[none].sum().backward()
    cluster_side = [
        p for n, p in model.named_parameters() if n.startswith(("fusion.gate", "fusion.cluster"))
    ]
    assert cluster_side
    for p in cluster_side:
        assert p.grad is None or not p.grad.any()
    model.zero_grad()
    model(batch)[~none].sum().backward()
    assert all(p.grad.any() for p in model.fusion.cluster.weights[:2])
    if model.fusion.gate is not None:
        assert all(p.grad.any() for p in model.fusion.gate.parameters())


@pytest.mark.parametrize("slot", ["user", "item", "sequence"])
def test_alpha_is_masked_slot_by_slot(helpers: Any, slot: str) -> None:
    """Only the slots without a cluster are those of the instance view."""
    model, batch = stir_gently(helpers.akt()), helpers.batch()
    seen: list[Any] = []
    model.fusion.register_forward_hook(lambda module, args, out: seen.append((args, out[0])))
    model(batch)
    (instance, cluster, activity, _), fused = seen[0]
    known = has_cluster(helpers, batch)[slot]
    own = getattr(model.fusion.instance(instance), slot)
    theirs = getattr(model.fusion.cluster(cluster), slot)
    alpha = model.fusion.gate(activity)
    got = getattr(fused, slot)
    assert torch.equal(got[~known], own[~known])
    torch.testing.assert_close(got[known], (alpha * theirs + (1 - alpha) * own)[known])
    with torch.no_grad():
        gap = (got - (alpha * theirs + (1 - alpha) * own))[~known].abs().amax(1)
    if slot != "sequence":
        assert gap.min() > 1e-4  # an unmasked alpha shrinks every such row


def test_concatenated_views_have_zeros_where_there_is_no_cluster(helpers: Any) -> None:
    """No alpha, so nothing of the instance view is scaled: only the cluster's block is empty."""
    model, batch = helpers.akt(hfa_fusion="concat"), helpers.batch()
    seen: list[Any] = []
    model.fusion.register_forward_hook(lambda module, args, out: seen.append((args, out[0])))
    model(batch)
    (instance, *_), fused = seen[0]
    for name, known in has_cluster(helpers, batch).items():
        own = getattr(instance, name)
        first, second = getattr(fused, name).split(own.shape[1], dim=1)
        assert torch.equal(first, own)
        assert not second[~known].any()
        assert second[known].any(1).all()


def test_gates_at_one_half_are_what_training_starts_from(helpers: Any) -> None:
    batch = helpers.batch()
    learned, half = helpers.akt(), helpers.akt(seed=3, cgae_gate=0.5, hfa_gate=0.5)
    state = learned.state_dict()
    half.load_state_dict({n: state[n] for n in half.state_dict()})
    torch.testing.assert_close(learned(batch), half(batch))
    assert not any(".gate." in n for n, _ in half.named_parameters())


def test_the_loss_is_the_sum_of_its_parts(helpers: Any) -> None:
    model, batch = stir(helpers.akt(lambda_ortho=0.3)), helpers.batch()
    state = {k: v.clone() for k, v in model.transfer.state_dict().items()}
    out = model.outputs(batch)
    users, items = model.transfers(batch)
    assert users.loss.item() > 0
    assert items.loss.item() > 0
    ortho = model.orthogonality(batch, out)
    model.transfer.load_state_dict(state)  # the same draws again
    expected = model.bce(out.logit, batch) + users.loss + items.loss + 0.3 * ortho
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_orthogonality_counts_each_target_once(helpers: Any) -> None:
    model, batch = helpers.akt(), helpers.batch()
    values = []
    for embedding, column, unseen in (
        (model.user_table, "user_id", helpers.unseen.users),
        (model.item_encoder.identity, "item_id", helpers.unseen.items),
    ):
        ids = batch[column].unique()
        ids = ids[ids > 0]
        c, d = embedding.cluster.own.weight[ids], embedding.individual.weight[ids]
        d = d * ~torch.isin(ids, torch.tensor(unseen)).unsqueeze(1)  # d := 0 without training rows
        values.append(torch.cosine_similarity(c, d, dim=1).square())
    expected = torch.cat(values).mean()
    got = model.orthogonality(batch, model.outputs(batch))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def rows_of(side: Any, tail: bool) -> torch.Tensor:
    return (side.tail == tail) & (torch.arange(len(side.tail)) > 0)


@pytest.mark.parametrize(("weights", "untouched"), [((0.0, 5.0), False), ((5.0, 0.0), True)])
def test_transfer_reaches_one_class_alone(
    helpers: Any, weights: tuple[float, float], untouched: bool
) -> None:
    """lambda1 = 0: not one bit of gradient on a head's c; lambda2 = 0: none on a tail's."""
    model, batch = helpers.akt(lambda1=weights[0], lambda2=weights[1]), helpers.batch()
    clusters = helpers.akt_dataset().model_inputs.clusters
    for _ in range(3):
        model.zero_grad()
        users, items = model.transfers(batch)
        (users.loss + items.loss).backward()
        for embedding, side in (
            (model.user_table, clusters.users),
            (model.item_encoder.identity, clusters.items),
        ):
            grad = embedding.cluster.own.weight.grad
            still = grad[rows_of(side, untouched)]
            assert torch.equal(still, torch.zeros_like(still))
            assert grad[rows_of(side, not untouched)].abs().sum() > 0


def test_transfer_reaches_cluster_embeddings_alone(helpers: Any) -> None:
    model, batch = helpers.akt(), helpers.batch()
    users, items = model.transfers(batch)
    (users.loss + items.loss).backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {
        "user_table.cluster.own.weight",
        "item_encoder.identity.cluster.own.weight",
    }


def test_the_history_trains_c_d_and_the_gate(helpers: Any) -> None:
    model, batch = stir(helpers.akt(use_cluster_view=False)), helpers.batch()
    history = batch["hist_items"]
    history = torch.where(history >= min(helpers.unseen.items), 0, history)
    batch = changed(batch, item_id=torch.zeros(64, dtype=torch.long), hist_items=history)
    model.bce(model(batch), batch).backward()
    identity = model.item_encoder.identity
    used = torch.zeros(40, dtype=torch.bool)
    used[history] = True
    used[0] = False
    assert used.sum() > 20
    for table in (identity.cluster.own, identity.individual):
        assert table.weight.grad[used].abs().sum(1).min() > 0
        assert table.weight.grad[~used].abs().sum() == 0
    assert identity.gate.mlp[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", ["snapshot", "ema", "grad"])
def test_averages_carry_a_gradient_in_mode_grad_alone(helpers: Any, mode: str) -> None:
    model, batch = helpers.akt(clust_mode=mode, use_cluster_seq=False), helpers.batch()
    view, _ = model.clustered_view(batch, model.item_tokens(batch), torch.zeros(64, 16))
    assert view.user.requires_grad == (mode == "grad")
    assert view.item.requires_grad == (mode == "grad")
    model.refresh()
    others = helpers.akt(clust_mode="snapshot", use_cluster_seq=False)
    others.load_state_dict({n: model.state_dict()[n] for n in others.state_dict()})
    others.refresh()
    view, _ = model.clustered_view(batch, model.item_tokens(batch), torch.zeros(64, 16))
    exact, _ = others.clustered_view(batch, others.item_tokens(batch), torch.zeros(64, 16))
    torch.testing.assert_close(view.user, exact.user)
    torch.testing.assert_close(view.item, exact.item)


def test_no_snapshot_and_no_cluster_are_zeros(helpers: Any) -> None:
    model, batch = helpers.akt(), helpers.batch()
    model.refresh()
    side = helpers.akt_dataset().model_inputs.clusters.users
    view, known = model.clustered_view(batch, model.item_tokens(batch, 10_000), torch.randn(64, 16))
    none = side.cluster[batch["snapshot"], batch["user_id"]] == 0
    assert none[batch["snapshot"] == 0].all()
    assert none[batch["snapshot"] > 0].any()
    assert not none.all()
    assert view.user[none].abs().max() == 0
    assert view.sequence[none].abs().max() == 0
    assert view.user[~none].abs().sum(1).min() > 0
    for name, expected in has_cluster(helpers, batch).items():
        assert torch.equal(getattr(known, name), expected), name
        assert not getattr(view, name)[~expected].any(), name


def test_averages_are_renewed_every_so_many_steps(helpers: Any) -> None:
    model, batch = helpers.akt(clust_refresh=3), helpers.batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    tables = []
    for _ in range(7):
        optimiser.zero_grad()
        model.calculate_loss(batch).backward()
        optimiser.step()
        tables.append(model.cluster_view.users.table.clone())
    same = [torch.equal(a, b) for a, b in pairwise(tables)]
    assert same == [True, True, False, True, True, False]


def test_averages_are_renewed_before_evaluation_and_after_loading(helpers: Any) -> None:
    model, batch = helpers.akt(), helpers.batch()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model.calculate_loss(batch).backward()
    optimiser.step()
    in_training = model.cluster_view.users.table.clone()
    model.eval()
    scores = model.predict(batch)
    fresh = model.cluster_view.users.table.clone()
    assert not torch.equal(fresh, in_training)
    model.refresh()
    assert torch.equal(model.cluster_view.users.table, fresh)
    other = helpers.akt(seed=4).eval()
    other.predict(batch)  # not stale any more, and wrong after loading
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.predict(batch), scores)
    model.train()
    model.on_epoch_start(1)
    model.calculate_loss(batch)
    assert torch.equal(model.cluster_view.users.table, fresh)  # the same weights


def test_a_moving_average_observes_the_members_at_the_rows_snapshots(helpers: Any) -> None:
    """Not as of the row: another row of the snapshot may lie before it."""
    model, batch = helpers.akt(clust_mode="ema", clust_keep=0.0), helpers.batch()
    model.calculate_loss(batch)
    clusters = helpers.akt_dataset().model_inputs.clusters
    rows = clusters.items.cluster[batch["snapshot"], batch["item_id"]].long()
    features = torch.stack(
        [model._items_at(int(s))[i] for s, i in zip(batch["snapshot"], batch["item_id"])]
    )
    for row in rows.unique():
        if row > 0:
            expected = features[rows == row].mean(0)
            torch.testing.assert_close(model.cluster_view.items.table[row], expected)


@pytest.mark.parametrize("unseen_gate", [None, "gate", "one"])
def test_an_unseen_item_is_its_clusters_head_mean_for_the_model(
    helpers: Any, unseen_gate: str | None
) -> None:
    """Weighted by the gate's r, the default, or by 1."""
    model, batch = stir(helpers.akt(unseen_gate=unseen_gate)).eval(), helpers.batch()
    model.predict(batch)
    side = helpers.akt_dataset().model_inputs.clusters.items
    c = model.item_encoder.identity.cluster.own.weight
    for item in helpers.unseen.items:
        home = int(side.home[item])
        members = (side.home == home) & side.seen
        heads = members & ~side.tail
        if home == 0 or not members.any():
            expected = c[item]
        else:
            expected = c[heads if heads.any() else members].mean(0)
        ids = torch.tensor([item])
        activity = torch.randn(1, 4)
        part = model.item_encoder.identity.parts(ids, ids * 0 + 2, activity)
        r = 1.0 if unseen_gate == "one" else model.item_encoder.identity.gate(activity)[0]
        torch.testing.assert_close(part.fused[0], r * expected)
    assert any(side.home[i] > 0 for i in helpers.unseen.items)


def test_what_an_untrained_d_holds_does_not_matter(helpers: Any) -> None:
    model, batch = helpers.akt().eval(), helpers.batch()
    unseen = torch.tensor(helpers.unseen.items)
    batch = changed(batch, item_id=unseen.repeat(16))
    before = model.predict(batch)
    with torch.no_grad():
        model.item_encoder.identity.individual.weight[unseen] += 10
    model.train()
    model.eval()
    assert torch.equal(model.predict(batch), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"cluster_emb": "shared", "cluster_init": "centroid"},
        {"cluster_emb": "shared_plus_delta", "r_dim": "m"},
        {"use_individual_emb": False},
        {"use_instance_view": False},
        {"use_cluster_seq": False, "clust_weight": "logfreq"},
        {"clust_mode": "ema", "ranker": "mmoe", "use_codes": True, "cluster_init": "random"},
        {"clust_mode": "grad", "detach_negatives": False, "use_content": True},
        {"variant": "plus", "att_type": "mlp", "hfa_fusion": "gated_sum"},
        TABLES_OFF,
    ],
    ids=lambda s: "-".join(f"{v}" for v in s.values()),
)
def test_every_setting_trains(helpers: Any, settings: dict[str, Any]) -> None:
    model, batch = helpers.akt(**settings), helpers.batch()
    loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
    torch.optim.Adagrad(model.parameters(), lr=0.1).step()
    scores = model.eval().predict(batch)
    assert torch.isfinite(scores).all()
    order = torch.randperm(64)
    shuffled = type(batch)({k: v[order] for k, v in batch.interaction.items()})
    torch.testing.assert_close(model.predict(shuffled), scores[order], rtol=0, atol=1e-6)


def one_of(helpers: Any, **change: Any) -> Any:
    """A dataset whose item clusters are changed."""
    dataset = helpers.akt_dataset()
    for name, value in change.items():
        for side in (dataset.model_inputs.clusters.users, dataset.model_inputs.clusters.items):
            setattr(side, name, value(getattr(side, name)))
    return dataset


@pytest.mark.parametrize(
    "change",
    [
        {"partner_end": torch.zeros_like, "partner_start": torch.zeros_like},
        {"seen": torch.zeros_like},
        {"cluster": torch.zeros_like, "home": torch.zeros_like},
        {"tail": torch.ones_like},
    ],
    ids=["nobody has a partner", "nobody was seen", "nobody has a cluster", "no head"],
)
def test_degenerate_clusters_are_finite(helpers: Any, change: dict[str, Any]) -> None:
    model, batch = helpers.akt(dataset=one_of(helpers, **change)), helpers.batch()
    loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert torch.isfinite(model.eval().predict(batch)).all()
    assert all(np.isfinite(v) for v in model.epoch_diagnostics().values())


def test_clusters_of_one(helpers: Any) -> None:
    """Every id alone in its cluster: its average is itself."""
    dataset = helpers.akt_dataset()
    inputs = dataset.model_inputs
    for side, n in ((inputs.clusters.users, 30), (inputs.clusters.items, 40)):
        rows = torch.arange(1, n).repeat(3, 1) + torch.tensor([[-n], [0], [n]])
        side.cluster = torch.cat([torch.zeros(3, 1), rows.clamp_min(0)], dim=1).int()
        side.cluster[0] = 0
        side.belongs = side.cluster.unsqueeze(-1)
        side.home = side.cluster[2].long()
        side.n_clusters = 2 * n
    inputs.clusters.behaviour.offsets = torch.zeros(2 * 30 * 3 + 1, dtype=torch.long)
    model, batch = helpers.akt(dataset=dataset), helpers.batch()
    assert torch.isfinite(model.calculate_loss(batch))
    row = int(inputs.clusters.items.cluster[2, 5])
    torch.testing.assert_close(model.cluster_view.items.table[row], model._items_at(2)[5])


def test_diagnostics_of_an_epoch(helpers: Any) -> None:
    model, batch = stir(helpers.akt()), helpers.batch()
    assert model.epoch_diagnostics() == {}
    model.on_epoch_start(0)
    model.calculate_loss(batch)
    figures = model.epoch_diagnostics()
    clusters = helpers.akt_dataset().model_inputs.clusters
    for name, column in (("users", "user_id"), ("items", "item_id")):
        ids = batch[column].unique()
        ids = ids[ids > 0]
        side = getattr(clusters, name)
        paired = (side.partner_end > side.partner_start)[ids]
        assert figures[f"frac_paired_{name}"] == pytest.approx(paired.float().mean().item())
    out = model.outputs(batch)
    assert figures["loss_ortho"] == pytest.approx(model.orthogonality(batch, out).item())
    assert figures["loss_trans"] > 0
    some = torch.stack(list(has_cluster(helpers, batch).values())).any(0)
    assert 0 < some.sum() < 64
    assert figures["mean_alpha_fusion"] == pytest.approx(out.alpha[some].mean().item())
    assert abs(figures["mean_alpha_fusion"] - out.alpha.mean().item()) > 1e-3

    side, embedding = clusters.items, model.item_encoder.identity
    seen = side.seen
    r = embedding.gate(side.stats[-1])[seen, 0].detach()
    activity = side.stats[-1, seen, 0]
    assert figures["r_item_spearman"] == pytest.approx(spearmanr(r, activity).statistic)
    order = activity.argsort()
    lowest = r[order[: len(order) // 5]].mean().item()
    assert figures["r_item_level_1"] == pytest.approx(lowest, rel=1e-5)
    head = embedding.cluster.own.weight[seen & ~side.tail].norm(dim=1).mean().item()
    assert figures["norm_cluster_item_head"] == pytest.approx(head, rel=1e-5)
    tail = model.user_table.individual.weight[clusters.users.seen & clusters.users.tail]
    assert figures["norm_individual_user_tail"] == pytest.approx(
        tail.norm(dim=1).mean().item(), rel=1e-5
    )
    model.on_epoch_start(1)
    assert model.epoch_diagnostics() == {}


def test_what_is_off_is_not_reported(helpers: Any) -> None:
    model = helpers.akt(**TABLES_OFF)
    model.calculate_loss(helpers.batch())
    assert {n for n in model.epoch_diagnostics() if "attention" not in n} == set()
    model = helpers.akt(cgae_gate=0.5, hfa_gate=0.5, use_ortho=False)
    model.calculate_loss(helpers.batch())
    names = set(model.epoch_diagnostics())
    assert not any(n.startswith(("r_", "mean_alpha", "loss_ortho")) for n in names)
    assert {"loss_trans", "norm_cluster_user_head", "norm_individual_item_tail"} <= names


def scores_after_training(helpers: Any, vectors: Any, settings: dict[str, Any]) -> torch.Tensor:
    """Scores after three steps, with ``vectors(v)`` in place of the content vectors."""
    dataset = helpers.akt_dataset()
    items = dataset.model_inputs.items
    items.vectors = torch.cat([items.vectors[:1], vectors(items.vectors[1:])])
    model = helpers.akt(dataset=dataset, **settings)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        optimiser.zero_grad()
        model.calculate_loss(helpers.batch(seed=seed)).backward()
        optimiser.step()
    return model.eval().predict(helpers.batch(seed=9))


OTHER_VECTORS = {
    "permuted": lambda v: v[torch.randperm(len(v), generator=torch.Generator().manual_seed(0))],
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize("other", list(OTHER_VECTORS))
@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        # 3.2 of the paper reads ids: content has done its work when Eq. 3 made them.
        ({}, False),
        ({"use_codes": True}, False),
        ({"cluster_emb": "shared"}, False),
        ({"cluster_init": "random"}, False),
        ({"variant": "plus", "use_content": False, "cluster_init": "levels"}, False),
        ({"cluster_init": "centroid", "use_cluster_emb": False}, False),  # nothing to start
        ({"variant": "plus"}, True),
        ({"use_content": True}, True),
        ({**TABLES_OFF, "use_content": True}, True),
        ({"cluster_init": "centroid"}, True),
        ({"cluster_init": "centroid", "cluster_emb": "shared"}, True),
        ({"cluster_init": "centroid", "cluster_emb": "shared_plus_delta"}, True),
    ],
)
def test_content_vectors_are_read_by_content_and_centroids_alone(
    helpers: Any, settings: dict[str, Any], reads: bool, other: str
) -> None:
    """Other vectors with the same ids: bit-identical scores where nothing reads them."""
    scores = scores_after_training(helpers, lambda v: v, settings)
    changed_scores = scores_after_training(helpers, OTHER_VECTORS[other], settings)
    if reads:
        assert (scores - changed_scores).abs().max() > 1e-4
    else:
        assert torch.equal(scores, changed_scores)


def test_levels_of_activity() -> None:
    value = np.arange(10.0)
    assert level_means(value, value) == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert level_means(value, -value) == [8.5, 6.5, 4.5, 2.5, 0.5]
    assert level_means(value, np.zeros(10)) == [None, None, 4.5, None, None]  # ties stay together
    assert level_means(np.ones(1), np.ones(1)) == [None, None, 1.0, None, None]


def test_prediction_counts_and_draws_nothing(helpers: Any) -> None:
    model = helpers.akt()
    state = model.transfer.get_extra_state()
    model.eval().predict(helpers.batch())
    assert model.epoch_diagnostics() == {}
    assert torch.equal(model.transfer.get_extra_state(), state)


def test_what_is_missing_is_one_clear_line(helpers: Any) -> None:
    for name in ("clusters", "groups", "items"):
        dataset = helpers.akt_dataset()
        setattr(dataset.model_inputs, name, None)
        with pytest.raises(ConfigError, match=rf"AKTRec: variant paper expects.*without {name}"):
            helpers.akt(dataset=dataset)
        assert torch.isfinite(helpers.akt(dataset=dataset, **TABLES_OFF)(helpers.batch())).all()


def test_a_step_needs_no_value_on_the_host(helpers: Any, monkeypatch: Any) -> None:
    """As tests/end_to_end/test_device.py: torch's meta device has shapes and no values."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    for settings in ({}, {"variant": "plus"}, {"clust_mode": "ema"}, {"cluster_emb": "shared"}):
        model = helpers.akt(clust_refresh=1, **settings).to("meta")
        batch = helpers.batch()
        batch = type(batch)({k: v.to("meta") for k, v in batch.interaction.items()})
        optimiser = torch.optim.Adagrad(model.parameters(), initial_accumulator_value=0.1)
        for _ in range(2):
            loss = model.calculate_loss(batch)
            loss.backward()
            optimiser.step()
        assert loss.device.type == "meta"
        assert model.eval().predict(batch).shape == (64,)


@pytest.mark.parametrize(
    "settings",
    [
        {"clust_mode": "ema", "ranker": "mmoe", "clust_weight": "logfreq", "trans_max_anchors": 5},
        {"clust_mode": "grad", "cluster_emb": "shared_plus_delta", "r_dim": "m"},
    ],
    ids=["ema", "grad"],
)
def test_a_resumed_run_ends_with_the_same_bits(helpers: Any, settings: dict[str, Any]) -> None:
    def run(model: AKTRec, optimiser: Any, epochs: range) -> None:
        for epoch in epochs:
            model.on_epoch_start(epoch)
            model.train()
            for step in range(3):
                optimiser.zero_grad()
                model.calculate_loss(helpers.batch(seed=10 * epoch + step)).backward()
                optimiser.step()
            model.eval()
            model.predict(helpers.batch(seed=99))

    def made(seed: int) -> tuple[AKTRec, Any]:
        model = helpers.akt(seed=seed, clust_refresh=2, **settings)
        return model, torch.optim.Adagrad(model.parameters(), lr=0.05)

    whole, part, resumed = made(0), made(0), made(5)
    run(*whole, range(2))
    run(*part, range(1))
    for old, new in zip(part, resumed, strict=True):
        new.load_state_dict(old.state_dict())
    run(*resumed, range(1, 2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            whole[0].state_dict().values(), resumed[0].state_dict().values(), strict=True
        )
    )


@pytest.mark.parametrize("settings", [{}, {"variant": "plus", "use_codes": True}])
def test_a_newer_snapshot_is_not_read(helpers: Any, settings: dict[str, Any]) -> None:
    """With the same weights, tables of snapshot 2 reach rows of snapshot 2 alone."""
    batch = helpers.batch()
    model = stir(helpers.akt(**settings)).eval()
    before = model.predict(batch)
    dataset = helpers.akt_dataset()
    inputs = dataset.model_inputs
    inputs.items.vectors[41:] += 1  # rows of snapshot 2
    inputs.items.item_codes[2, 1:] = 1
    inputs.groups.user_codes[2, 1:] = 1
    clusters = inputs.clusters
    for side in (clusters.users, clusters.items):
        side.stats[2] += 1
        moved = side.cluster[2] > 0
        side.cluster[2, moved] = side.cluster[2, moved].flip(0)
    lists = clusters.behaviour
    of_snapshot_2 = lists.offsets[5 * (lists.n_top + 1)]  # user clusters 5 to 8
    lists.items[of_snapshot_2:-1] = 3
    other = helpers.akt(dataset=dataset, **settings)
    other.load_state_dict(model.state_dict())
    after = other.eval().predict(batch)
    # ids without training rows stand for their cluster of the newest snapshot, by definition
    seen = clusters.users.seen[batch["user_id"]] & clusters.items.seen[batch["item_id"]]
    seen |= (batch["user_id"] == 0) | (batch["item_id"] == 0)
    history = batch["hist_items"]
    seen &= (clusters.items.seen[history] | (history == 0)).all(1)
    newest = batch["snapshot"] == 2
    assert (seen & ~newest).sum() > 10
    assert torch.equal(after[seen & ~newest], before[seen & ~newest])
    assert (after[newest] != before[newest]).float().mean() > 0.9
