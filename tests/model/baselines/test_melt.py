"""MELT: what the head teaches, when it reaches the tail, and what it must not know."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_choir.data.activity import Activity
from recbole_choir.data.item_contexts import ItemContexts
from recbole_choir.data.rows import RowInputs
from recbole_choir.data.statistics import Events
from recbole_choir.errors import ConfigError
from recbole_choir.model.baselines.melt_contexts import ContextDraw, TailRows
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.context_aware_recommender.melt import (
    MELT,
    HeadSide,
    fewest,
    item_weight,
    user_weight,
)


def melt(helpers: Any, **settings: Any) -> MELT:
    tails = dict.fromkeys(("melt_tail_user", "melt_tail_item"), "evaluation")
    return helpers.build(
        MELT, **{"melt_dropout": 0.0, "epochs": 4, "melt_transfer_from": 0, **tails, **settings}
    )


def changed(batch: Interaction, **columns: torch.Tensor) -> Interaction:
    return Interaction({**batch.interaction, **columns})


def parts_of_logit(model: MELT, batch: Interaction) -> tuple[torch.Tensor, ...]:
    """``s_u`` and ``e~_i`` as they enter the tower."""
    seen: list[torch.Tensor] = []
    hook = model.further.register_forward_hook(lambda *a: seen.append(a[1][0].detach()))
    model(batch)
    hook.remove()
    s, e, product = seen[0].chunk(3, dim=1)
    assert torch.equal(product, s * e)
    return s, e


def rows_of(*rows: tuple[int, int, int], n_train: int | None = None) -> RowInputs:
    """Rows (user, item, label), a second apart; those from ``n_train`` on are held out."""
    user, item, label = np.array(rows).T
    n = len(rows)
    cut = n if n_train is None else n_train
    events = Events(user, item, np.arange(n, dtype=float), label.astype(np.float32))
    return RowInputs.build(events, [np.arange(cut), np.arange(cut, n), np.arange(0)])


ROWS = (
    (1, 5, 1), (2, 5, 1), (1, 6, 1), (2, 6, 0),
    (1, 7, 1), (2, 7, 1), (3, 7, 1), (1, 7, 1), (2, 7, 1),
)  # fmt: skip


# --- contexts ---------------------------------------------------------------------------


def test_contexts_are_histories_before_training_positives() -> None:
    rows = rows_of(*ROWS, n_train=8)
    contexts = ItemContexts.build(rows, np.ones(8, dtype=bool))
    found = [
        (i, u, rows.history.items[s:e].tolist())
        for i, u, s, e in zip(
            contexts.item.tolist(), contexts.user.tolist(), contexts.start, contexts.end
        )
    ]
    # Not the empty histories before (1, 5), (2, 5), (3, 7), not the negative, not the held-out row.
    assert found == [(6, 1, [5]), (7, 1, [5, 6]), (7, 1, [5, 6, 7]), (7, 2, [5])]
    assert contexts.first.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 4]


def test_contexts_of_chosen_items_are_subsampled_by_a_seed() -> None:
    rows = rows_of(*[(u, 1, 1) for u in range(1, 21)], *[(u, 2, 1) for u in range(1, 21)])
    chosen = np.array([False, False, True])
    every = ItemContexts.build(rows, chosen)
    assert len(every) == 20
    some = ItemContexts.build(rows, chosen, limit=6, seed=1)
    assert len(set(some.user.tolist())) == len(some) == 6
    assert some.user.tolist() != sorted(some.user.tolist()), "in random order"
    assert torch.equal(ItemContexts.build(rows, chosen, limit=6, seed=1).user, some.user)
    assert not torch.equal(ItemContexts.build(rows, chosen, limit=6, seed=2).user, some.user)
    assert len(ItemContexts.build(rows, ~chosen)) == 0


def test_draws_are_distinct_contexts_within_the_budget() -> None:
    first = torch.tensor([0, 0, 3, 10, 10, 30])
    contexts = SimpleNamespace(first=first)
    draw = ContextDraw(contexts, most=5, budget=12, seed=0)
    items = torch.tensor([1, 2, 3, 4, 0])
    valid = torch.tensor([True, True, True, True, False])
    sizes: dict[int, set[int]] = {1: set(), 2: set(), 4: set()}
    for _ in range(200):
        drawn = draw(items, valid)
        for owner, item, complete in zip(drawn.owner, drawn.items.tolist(), drawn.complete):
            mine = drawn.context[owner > 0]
            if complete:
                sizes[item].add(len(mine))
                assert mine.unique().numel() == len(mine)
                assert ((mine >= first[item]) & (mine < first[item + 1])).all()
            elif item in (0, 3):
                assert len(mine) == 0, "invalid, or without contexts"
        assert drawn.owner.sum(0).max() <= 1
    assert sizes == {1: {1, 2, 3}, 2: {1, 2, 3, 4, 5}, 4: {1, 2, 3, 4, 5}}


# --- tail rows --------------------------------------------------------------------------


def tail_rows(rows: RowInputs, n_items: int = 8) -> tuple[TailRows, torch.Tensor, torch.nn.Linear]:
    contexts = ItemContexts.build(rows, np.ones(n_items, dtype=bool))
    torch.manual_seed(0)
    vectors, layer = torch.randn(len(contexts), 3), torch.nn.Linear(3, 3)
    table = TailRows(contexts, 10, 3)
    table.refresh(vectors, layer, own_rows(n_items))
    return table, vectors, layer


def own_rows(n_items: int = 8) -> torch.Tensor:
    """Rows of the items when the epoch began."""
    return torch.arange(3.0 * n_items).view(n_items, 3)


def test_a_tail_row_is_the_mapped_mean_of_the_contexts_of_others() -> None:
    table, f, layer = tail_rows(rows_of(*ROWS, n_train=8))  # contexts of 6: 1; of 7: 1, 1, 2
    user, item = torch.tensor([1, 2, 3, 1, 2, 3, 1]), torch.tensor([7, 7, 7, 6, 6, 6, 5])
    shift = table(user, item)
    for at, others in ((0, f[3:4]), (1, f[1:3]), (2, f[1:4]), (4, f[:1]), (5, f[:1])):
        torch.testing.assert_close(shift[at] + own_rows()[item[at]], layer(others.mean(0)))
    for at in (3, 6):  # chosen by the row's own user alone; by nobody
        assert not shift[at].any()


def test_before_the_first_refresh_no_row_is_known() -> None:
    contexts = ItemContexts.build(rows_of(*ROWS), np.ones(8, dtype=bool))
    assert not TailRows(contexts, 10, 3)(torch.tensor([9]), torch.tensor([7])).any()
    empty = ItemContexts.build(rows_of(*ROWS), np.zeros(8, dtype=bool))
    table = TailRows(empty, 10, 3)
    table.refresh(torch.zeros(0, 3), torch.nn.Linear(3, 3), own_rows())
    assert not table(torch.tensor([9]), torch.tensor([7])).any()


def test_a_label_reaches_no_input_of_its_own_row() -> None:
    """The leak: one's own context would mark the positives of items with few others."""

    def inputs(label: int) -> list[float]:
        rows = rows_of(*(r if k != 4 else (1, 7, label) for k, r in enumerate(ROWS)), n_train=8)
        contexts = ItemContexts.build(rows, np.ones(8, dtype=bool))
        # f must not depend on what else is in the batch: a function of the history alone
        f = torch.stack(
            [
                torch.sin(rows.history.items[s:e].double().sum() * torch.tensor([1.0, 2.0, 3.0]))
                for s, e in zip(contexts.start, contexts.end)
            ]
        ).float()
        torch.manual_seed(0)
        table = TailRows(contexts, 10, 3)
        table.refresh(f, torch.nn.Linear(3, 3), own_rows())
        return table(torch.tensor([1]), torch.tensor([7]))[0].tolist()

    assert inputs(1) == inputs(0)
    assert any(inputs(1))


def test_rows_are_state() -> None:
    rows = rows_of(*ROWS, n_train=8)
    table, _, _ = tail_rows(rows)
    other = TailRows(ItemContexts.build(rows, np.ones(8, dtype=bool)), 10, 3)
    other.load_state_dict(table.state_dict())
    user, item = torch.tensor([3, 2]), torch.tensor([7, 6])
    assert torch.equal(other(user, item), table(user, item))
    assert set(table.state_dict()) == {"pair_sum", "item_sum", "start", "bias", "filled"}


# --- curriculum -------------------------------------------------------------------------


def test_weights_begin_with_the_richest_and_end_at_the_border() -> None:
    n = torch.arange(5, 51)
    early, late = user_weight(n, 4, 50, 0.0), user_weight(n, 4, 50, 1.0)
    torch.testing.assert_close(early[[0, -1]], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(late[[0, -1]], torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    assert (early.diff() > 0).all()
    assert (late.diff() < 0).all()
    items = torch.tensor([11, 60, 1000])
    torch.testing.assert_close(item_weight(items, 10, 0.0)[0], torch.tensor(0.0))
    expected = math.sin(math.pi / 100 * 49)
    torch.testing.assert_close(item_weight(items, 10, 0.0)[1:], torch.full((2,), expected))
    torch.testing.assert_close(item_weight(items, 10, 1.0)[0], torch.tensor(1.0))


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.75, 1.0])
def test_weights_lie_between_0_and_1(progress: float) -> None:
    n = torch.arange(5, 400)
    for weight in (user_weight(n[n <= 50], 4, 50, progress), item_weight(n, 4, progress)):
        assert weight.min() >= 0
        assert weight.max() <= 1


def test_progress_moves_by_epoch(helpers) -> None:
    model = melt(helpers)
    seen = []
    for epoch in range(4):
        model.on_epoch_start(epoch)
        model.calculate_loss(helpers.batch())
        seen.append(model.progress)
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_head_and_threshold() -> None:
    tail = torch.tensor([False, True, True, False, False, True])
    rows = torch.tensor([0, 3, 9, 20, 0, 0])
    side = HeadSide(tail, rows, np.array([1] * 2 + [2] * 7 + [3] * 15), lowest=2)
    assert side.head.tolist() == [False, False, False, True, False, False], "no rows, no head"
    assert side.threshold == 7
    assert side.excess_count(torch.tensor([3, 1])).tolist() == [15, 8]
    assert HeadSide(tail, rows, np.array([1]), lowest=2).threshold == 2
    assert HeadSide(tail, rows, np.array([2] * 9), lowest=2, highest=4).threshold == 4


def test_a_share_of_those_with_training_rows_is_tail_and_all_without() -> None:
    rows = torch.tensor([0, 3, 9, 20, 0, 4])
    bought = np.array([1] * 2 + [2] * 7 + [3] * 15 + [5] * 2)
    # by positives: 1 and 5 (two each, the lower id first), 2, 3; 4 has no row
    assert fewest(rows, bought, 0.25).tolist() == [False, True, False, False, True, False]
    assert fewest(rows, bought, 0.5).tolist() == [False, True, False, False, True, True]
    assert fewest(rows, bought, 0.0).tolist() == [False, False, False, False, True, False]
    assert fewest(rows, bought, 1.0).tolist() == [False, True, True, True, True, True]


def test_shares_of_its_own_replace_the_evaluations_tail(helpers) -> None:
    model = melt(helpers, melt_tail_user=0.5, melt_tail_item=0.25)
    plain = melt(helpers)
    for side, share in ((model.users, 0.5), (model.items, 0.25)):
        seen = side.head.sum() / (side.head.sum() + (side.tail & (side.count > 0)).sum())
        assert abs(1 - share - seen.item()) < 0.15
    assert not torch.equal(model.items.tail, plain.items.tail)
    with pytest.raises(ConfigError, match="melt_tail_item"):
        melt(helpers, melt_tail_item=1.5)


# --- the branches -----------------------------------------------------------------------


def test_switched_off_it_is_the_backbone_and_without_encoder_base(helpers) -> None:
    off = melt(helpers, melt_lambda_user=0, melt_lambda_item=0)
    on, base, batch = melt(helpers), helpers.build(Base), helpers.batch()
    for name, value in off.state_dict().items():
        assert torch.equal(on.state_dict()[name], value), name
    assert torch.equal(on.train()(batch), off(batch)), "no transfer before an epoch has begun"
    torch.testing.assert_close(off.calculate_loss(batch), off.bce(off(batch), batch))
    still = melt(helpers, melt_transfer=False)
    still.on_epoch_start(0)
    assert torch.equal(still.eval()(batch), off.eval()(batch))
    with torch.no_grad():
        off.further.weight.zero_()
    assert torch.equal(off(batch), base(batch))


def test_encoder_is_the_newest_state_of_the_history(helpers) -> None:
    model, batch = melt(helpers), helpers.batch()
    f = model.states(batch["hist_items"])
    for row in (0, 4, 9):
        items = batch["hist_items"][row][batch["hist_items"][row] > 0].unsqueeze(0)
        tokens = model.item_encoder.id_table(items)
        states = model.sequence(tokens, torch.ones_like(items, dtype=torch.bool))
        torch.testing.assert_close(f[row], states[0, -1])
    assert torch.equal(f[2], torch.zeros(4)), "an empty history"


def head_users_batch(helpers: Any, model: MELT) -> Interaction:
    """Rows of head users with full histories, a user a row."""
    heads = torch.nonzero(model.users.head).squeeze(1)
    batch = helpers.batch(n=len(heads))
    history = torch.randint(1, 40, (len(heads), 6), generator=torch.Generator().manual_seed(0))
    return changed(batch, user_id=heads, hist_items=history)


def test_user_loss_by_hand(helpers) -> None:
    model = melt(helpers)
    batch = head_users_batch(helpers, model)
    model.on_epoch_start(1)
    side = model.users
    assert side.threshold == 4, "L - 2 at most"
    n = len(batch)
    model.draws.uniform = lambda *shape, device: torch.full(shape, 0.5)  # R = 2
    full = model.states(batch["hist_items"])
    recent = model.states(batch["hist_items"][:, -2:])
    gap = (model.user_map(recent) - full).square().mean(1)
    count = side.count[batch["user_id"]].clamp(5, 6)
    weight = (math.pi / 2 * 0.25 + math.pi / 2 * (count - 5.0)).sin().abs()
    expected = (weight * gap).sum() / n
    torch.testing.assert_close(model.user_loss(batch, full), expected)


class Twice(torch.nn.Module):
    """A layer's output with every column repeated."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(x)] * 2, dim=-1)


def say(layer: torch.nn.Linear, *values: float) -> None:
    """Let a layer answer the same whatever it is given."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(values))


def test_losses_are_means_over_d_and_weights_enter_once(helpers) -> None:
    """Gaps of 1, 2, 3 and 4: 30 / 4; the code's ``(w * (a - b) ** 2).mean()``."""
    model, batch = melt(helpers), helpers.batch()
    heads = head_users_batch(helpers, model)
    say(model.user_map, 1.0, 2.0, 3.0, 4.0)
    model.on_epoch_start(1)  # of 4; T = 4, L_max = 6: a user with 5 weighs sin(pi / 8), others cos
    least = model.users.count[heads["user_id"]] <= 5
    weight = torch.where(least, math.sin(math.pi / 8), math.cos(math.pi / 8)).mean()
    loss = model.user_loss(heads, torch.zeros(len(heads), 4))
    torch.testing.assert_close(loss, 7.5 * weight)

    say(model.item_map, 1.0, 2.0, 3.0, 4.0)
    torch.nn.init.zeros_(model.item_encoder.id_table.weight)
    model.progress = 0.5
    t = model.items.threshold
    ids = torch.unique(batch["item_id"])
    count = model.items.count[ids[model.items.head[ids]]].clamp(t + 1, t + 50)
    weight = (math.pi / 4 + math.pi / 100 * (count - t - 1)).sin().abs().mean()
    torch.testing.assert_close(model.item_loss(batch), 7.5 * weight)


def test_repeating_every_column_leaves_the_losses(helpers) -> None:
    """A lambda means the same at every embedding size."""
    model, batch = melt(helpers), helpers.batch()
    heads = head_users_batch(helpers, model)
    model.on_epoch_start(1)
    full = model.states(heads["hist_items"])
    model.draws.uniform = lambda *shape, device: torch.full(shape, 0.5)
    state = model.draw.draws.generator.get_state()
    once = [model.user_loss(heads, full), model.item_loss(batch)]
    model.draw.draws.generator.set_state(state)
    table, plain_map = model.item_encoder.id_table, model.user_map
    model.user_map = Twice(plain_map)
    twice = [model.user_loss(heads, torch.cat([full, full], dim=1))]
    model.user_map, model.item_map = plain_map, Twice(model.item_map)
    states = model.context_states

    def of_the_plain_table(ranges: torch.Tensor) -> torch.Tensor:
        model.item_encoder.id_table = table
        found = states(ranges)
        model.item_encoder.id_table = Twice(table)
        return found

    model.context_states = of_the_plain_table  # type: ignore[method-assign]
    twice.append(model.item_loss(batch))
    torch.testing.assert_close(twice, once)
    assert min(once) > 0


def test_recent_parts_are_shorter_than_the_threshold_and_of_every_length(helpers) -> None:
    model = melt(helpers)
    batch = head_users_batch(helpers, model)
    full = model.states(batch["hist_items"])
    lengths: set[int] = set()
    states = model.states

    def spy(history: torch.Tensor) -> torch.Tensor:
        lengths.update((history > 0).sum(1).tolist())
        return states(history)

    model.states = spy  # type: ignore[method-assign]
    for _ in range(20):
        model.user_loss(batch, full)
    assert lengths == {1, 2, 3}


def test_branches_learn_from_the_head_alone(helpers) -> None:
    model, batch = melt(helpers), helpers.batch()
    tail_user = torch.nonzero(model.users.tail)[0].expand(64)
    tail_item = torch.nonzero(model.items.tail)[0].expand(64)
    f = model.states(batch["hist_items"])
    assert model.user_loss(changed(batch, user_id=tail_user), f) == 0
    assert model.item_loss(changed(batch, item_id=tail_item)) == 0
    short = batch["hist_items"].clone()
    short[:, 4:] = 0
    assert model.user_loss(changed(batch, hist_items=short), f) == 0, "nothing left to complete"
    assert model.user_loss(head_users_batch(helpers, model), f) > 0
    model.on_epoch_start(1)
    assert model.item_loss(batch) > 0


def test_item_loss_by_hand_reaches_both_maps(helpers) -> None:
    model, batch = melt(helpers), helpers.batch()
    model.on_epoch_start(2)
    state = model.draw.draws.generator.get_state()
    loss = model.item_loss(batch)
    model.draw.draws.generator.set_state(state)
    one = torch.unique(batch["item_id"])
    ids = batch["item_id"].sort().values
    first = torch.ones(64, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    drawn = model.draw(ids, first & model.items.head[ids])
    expected, n = torch.zeros(()), 0
    for a, item in enumerate(drawn.items.tolist()):
        if not drawn.complete[a]:
            continue
        contexts = drawn.context[drawn.owner[a] > 0]
        f = model.context_states(model.ranges_head[:, contexts])
        mean = (f + model.user_map(f)).mean(0)
        gap = (model.item_map(mean) - model.item_encoder.id_table.weight[item]).square().mean()
        count, t = model.items.count[item], model.items.threshold
        weight = math.sin(
            math.pi / 4 + math.pi / 100 * (min(max(int(count), t + 1), t + 50) - t - 1)
        )
        expected, n = expected + abs(weight) * gap, n + 1
        assert model.items.head[item]
    assert n == int(model.items.head[one].sum())
    torch.testing.assert_close(loss, expected / n)
    loss.backward()
    for layer in (model.user_map, model.item_map):
        assert layer.weight.grad.abs().sum() > 0


def test_a_detached_item_target_gets_no_gradient_and_contexts_do(helpers) -> None:
    grads, batch = [], helpers.batch()
    for detach in (True, False):
        model = melt(helpers, melt_detach_target=detach)
        model.on_epoch_start(2)
        model.item_loss(batch).backward()
        grads.append(model.item_encoder.id_table.weight.grad)
    assert grads[0].abs().sum() > 0, "of the contexts"
    drawn = torch.unique(batch["item_id"])
    targets = drawn[model.items.head[drawn]].tolist()
    assert (grads[0] != grads[1]).any(1).nonzero().flatten().tolist() == targets


def test_targets_are_detached_when_asked(helpers) -> None:
    def reached(**settings: bool) -> bool:
        model = melt(helpers, **settings)
        batch = head_users_batch(helpers, model)
        full = model.states(batch["hist_items"]).detach().requires_grad_()
        model.user_loss(batch, full).backward()
        return full.grad is not None

    assert reached(melt_detach_target=False)
    assert not reached(melt_detach_target=True)
    assert not reached()


def test_total_loss_is_weighted(helpers) -> None:
    model, batch = melt(helpers, melt_lambda_user=0.3, melt_lambda_item=0.4), helpers.batch()
    model.on_epoch_start(1)
    saved = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("_extra_state")}
    logit, f = model.outputs(batch)
    expected = model.bce(logit, batch) + 0.3 * model.user_loss(batch, f)
    expected = expected + 0.4 * model.item_loss(batch)
    model.load_state_dict(saved, strict=False)
    torch.testing.assert_close(model.calculate_loss(batch), expected)
    figures = model.epoch_diagnostics()
    assert {n for n in figures if n.startswith("loss")} == {"loss_user_branch", "loss_item_branch"}
    assert figures["loss_item_branch"] > 0


# --- the transfers ----------------------------------------------------------------------


def test_tail_users_are_completed_in_evaluation_alone(helpers) -> None:
    model, batch = melt(helpers), helpers.batch()
    f = model.states(batch["hist_items"])
    s, _ = parts_of_logit(model.train(), batch)
    torch.testing.assert_close(s, f)
    s, _ = parts_of_logit(model.eval(), batch)
    tail = model.users.tail[batch["user_id"]] & (batch["hist_items"] > 0).any(1)
    torch.testing.assert_close(s[tail], ((f + model.user_map(f)) / 2)[tail])
    assert torch.equal(s[~tail], f[~tail]), "head users as they are"
    assert 5 < tail.sum() < 60
    summed, _ = parts_of_logit(melt(helpers, melt_merge="sum").eval(), batch)
    torch.testing.assert_close(summed[tail], (f + model.user_map(f))[tail])
    assert torch.equal(summed[~tail], f[~tail])


def test_tail_items_are_set_at_the_start_of_every_epoch_and_trained_on(helpers) -> None:
    model, batch = melt(helpers), helpers.batch()

    def own() -> torch.Tensor:
        return model.item_encoder.id_table(batch["item_id"]).detach()

    assert torch.equal(parts_of_logit(model, batch)[1], own()), "before training"
    shifts: list[torch.Tensor] = []
    for epoch in range(2):
        model.on_epoch_start(epoch)
        before, (_, e) = own(), parts_of_logit(model, batch)
        model.calculate_loss(batch).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * (p.grad if p.grad is not None else 0)
        _, later = parts_of_logit(model, batch)
        torch.testing.assert_close(later - e, own() - before)  # by the row's own training alone
        assert (later != e).any(1)[batch["item_id"] > 0].all()
        shifts.append(e - before)
    set_rows = shifts[0].any(1)
    assert 5 < set_rows.sum() < len(set_rows)
    assert (shifts[0] != shifts[1])[set_rows].any(1).all(), "set again"


def test_tail_items_wait_until_their_map_has_been_trained(helpers) -> None:
    model, batch = melt(helpers, melt_transfer_from=1), helpers.batch()
    own = model.item_encoder.id_table(batch["item_id"])
    model.on_epoch_start(0)
    assert torch.equal(parts_of_logit(model, batch)[1], own)
    model.on_epoch_start(1)
    assert not torch.equal(parts_of_logit(model, batch)[1], own)
    with pytest.raises(ConfigError, match="melt_merge"):
        melt(helpers, melt_merge="max")


def test_only_tail_items_that_others_chose_are_set(helpers) -> None:
    dataset = helpers.dataset()
    model, batch = melt(helpers, dataset=dataset), helpers.batch(n=200)
    model.on_epoch_start(0)
    own = model.item_encoder.id_table(batch["item_id"]).detach()
    _, e = parts_of_logit(model, batch)
    rows = dataset.row_inputs
    expected = []
    for user, item in zip(batch["user_id"].tolist(), batch["item_id"].tolist()):
        at = [
            k for k in rows.parts[0]
            if rows.events.item[k] == item and rows.events.label[k] > 0
            and rows.events.user[k] != user
            and rows.columns["hist_end"][k] > rows.columns["hist_start"][k]
        ]  # fmt: skip
        tail = bool(dataset.model_inputs.activity.tail_item[item])
        expected.append(bool(at) and tail)
        if bool(at) and tail:
            contexts = [
                rows.history.items[rows.columns["hist_start"][k] : rows.columns["hist_end"][k]][-6:]
                for k in at
            ]
            f = torch.stack([model.states(c.unsqueeze(0))[0] for c in contexts])
            row = len(expected) - 1
            torch.testing.assert_close(e[row], model.item_map(f.mean(0)), atol=1e-5, rtol=1e-4)
    assert (e != own).any(1).tolist() == expected
    assert 5 < sum(expected) < 150


def test_rows_of_the_transfer_carry_no_gradient(helpers) -> None:
    model, batch = melt(helpers), helpers.batch()
    model.on_epoch_start(0)
    model(batch).sum().backward()
    assert model.item_map.weight.grad is None


def test_no_held_out_row_is_read(helpers) -> None:
    """Other validation and test rows: the same contexts, thresholds and counts."""

    def built(flip: bool) -> MELT:
        dataset = helpers.dataset()
        rows = dataset.row_inputs
        if flip:
            rows.events.label[400:] = 1 - rows.events.label[400:]
            rows.events.item[400:] = rows.events.item[400:][::-1].copy()
        return melt(helpers, dataset=dataset)

    a, b = built(False), built(True)
    buffers = dict(b.named_buffers())
    for name, value in a.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert (a.users.threshold, a.items.threshold) == (b.users.threshold, b.items.threshold)


def test_a_dataset_without_head_items_is_refused(helpers) -> None:
    dataset = helpers.dataset()
    activity: Activity = dataset.model_inputs.activity
    activity.tail_item[1:] = True
    with pytest.raises(ConfigError, match="MELT: expected head items"):
        melt(helpers, dataset=dataset)
    melt(helpers, dataset=dataset, melt_lambda_item=0)
    dataset.model_inputs.activity = None
    with pytest.raises(ConfigError, match="MELT: expected a dataset with activity"):
        melt(helpers, dataset=dataset)
    assert MELT.needs({}) == {"activity"}
