"""MELT: Base with a sequence encoder that head users and items teach to complete the tail."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recbole_choir.data import fields
from recbole_choir.data.history import take_newest
from recbole_choir.data.item_contexts import ItemContexts
from recbole_choir.data.rows import RowInputs
from recbole_choir.errors import ConfigError
from recbole_choir.evaluator.segments import bottom_share
from recbole_choir.model.baselines.melt_contexts import ContextDraw, TailRows
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.first_occurrence import distinct
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.host_generator import HostGenerator
from recbole_choir.model.layers.left_aligned import align_left
from recbole_choir.model.layers.mlp import linear
from recbole_choir.model.layers.sequence_transformer import SequenceTransformer, recency
from recbole_choir.model.settings.melt import MELTSettings
from recbole_choir.settings.base import ConfigLike, read

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


def user_weight(count: torch.Tensor, threshold: int, longest: int, progress: float) -> torch.Tensor:
    """``|sin(pi/2 e/E + pi / (2 (L_max - T - 1)) (n - T - 1))|``.

    At first the users with the longest sequences weigh most, at last those nearest to the tail.

    Args:
        count: n of each user, within T + 1 and ``longest``.
        threshold: T, the length up to which a user is tail.
        longest: L_max.
        progress: e / E, epochs done of all epochs.

    Returns:
        Weights in [0, 1], of the shape of ``count``.

    References:
        MELT (official code); docs/baselines.md.
    """
    step = math.pi / (2 * max(1, longest - threshold - 1))
    return torch.sin(math.pi / 2 * progress + step * (count - threshold - 1)).abs()


def item_weight(count: torch.Tensor, threshold: int, progress: float) -> torch.Tensor:
    """``|sin(pi/2 e/E + pi/100 (min(n, T + 50) - T - 1))|``; see :func:`user_weight`."""
    excess = count.clamp_max(threshold + 50) - threshold - 1
    return torch.sin(math.pi / 2 * progress + math.pi / 100 * excess).abs()


def fewest(rows: torch.Tensor, positives: NDArray[np.integer], share: float) -> torch.Tensor:
    """The tail as MELT's code has it: a share of the ids, those with the fewest positives.

    Args:
        rows: int64 ``[n]`` training rows; ids without any are tail, the padding is not.
        positives: Ids of the training rows with label 1.
        share: Of the ids with training rows, 0 to 1; of equal ones the lower ids are tail.

    Returns:
        bool ``[n]``, where ``rows`` is.
    """
    count = np.bincount(positives, minlength=len(rows))
    # 0 is for ids without rows; those without positives come first of the others
    tail = bottom_share(np.where(rows.cpu().numpy() > 0, count + 1, 0), share)
    tail[0] = False
    return torch.from_numpy(tail).to(rows.device)


class HeadSide(nn.Module):
    """Flags and counts of one side, on the model's device.

    Args:
        tail: bool ``[n]``; ids that are not tail but have no training row are neither.
        rows: int64 ``[n]`` training rows.
        positives: Ids of the training rows with label 1.
        lowest, highest: Bounds of the threshold.

    Attributes:
        threshold: T: the most positives that a tail id with training rows has.
    """

    tail: torch.Tensor
    head: torch.Tensor
    count: torch.Tensor

    def __init__(
        self,
        tail: torch.Tensor,
        rows: torch.Tensor,
        positives: NDArray[np.integer],
        lowest: int,
        highest: int | None = None,
    ) -> None:
        super().__init__()
        count = np.bincount(positives, minlength=len(tail)).astype(np.int64)
        kept = {
            "tail": tail,
            "head": (rows > 0) & ~tail,
            "count": torch.from_numpy(count).to(tail.device),
        }
        for name, values in kept.items():  # of the dataset, not of the weights: not saved
            self.register_buffer(name, values, persistent=False)
        threshold = max(lowest, int(count[tail.cpu().numpy()].max(initial=0)))
        self.threshold = threshold if highest is None else min(threshold, max(lowest, highest))

    def excess_count(self, ids: torch.Tensor) -> torch.Tensor:
        """Positives of head ids, at least T + 1."""
        return self.count[ids].clamp_min(self.threshold + 1)


REFRESH_ROWS = 4096  # contexts encoded at once at the start of an epoch


# What becomes of f + W_U f: the encoder's own scale, or the sum as it is
MERGE = {"mean": 0.5, "sum": 1.0}


class MELT(Base):
    """Base and ``f``, a SASRec over the history, with two branches from the head to the tail.

    f is the state of the newest item; ``[s_u; e~_i; s_u * e~_i]`` joins the tower's input::

        L_U  = mean w_u || W_U f(recent R) - f(all) ||^2 / d                 head users
        L_I  = mean w_i || W_I mean_k (f(c_k) + W_U f(c_k)) - e_i ||^2 / d   head items, contexts c
        L    = BCE + lambda_U L_U + lambda_I L_I
        s_u  = (f + W_U f) / 2       tail users, in evaluation alone
        e~_i = W_I mean_c f(c)       tail items, set at the start of an epoch, trained on from there

    Contexts of an item are the histories before training positives on it. In a tail item's mean
    those of the row's own user are left out (:class:`TailRows`). The weights are a curriculum over
    the epochs, from the richest heads to those nearest the tail.

    Sourced (the authors' code, rqlja1107/MELT; abstract of arXiv 2304.08382): branches, losses,
    curriculum, both transfers and their time, two blocks with one head and dropout .5, training on
    from a trained encoder; the mean over d, to which the lambdas of .1 to .4 belong (the paper's
    Algorithm 1 has the sum), and weights that enter once, ``(w * (a - b) ** 2).mean()``.
    Reconstruction: an encoder next to Base's features and BCE for its own loss; T the most
    positives of a tail id; contexts without the item itself and without reversed suffixes, since
    histories here end before the candidate; leaving one user out; e~ for the candidate alone;
    ``L_U`` on rows of head users with more history than T, one a user and batch; budgets a step.
    Three things follow from the tower, which is no dot product. Targets are detached
    (``melt_detach_target``): in the code f alone has to give the scores, here Base's features do as
    well, and f would shrink until L_U is next to nothing. A tail user's s is the mean of f and W_U
    f, their sum in the code (``melt_merge``): a dot product ranks both alike, a tower has learned
    f's scale. No e~ in the first epoch (``melt_transfer_from``), one of 160 in the code and half of
    two here, where W_I has yet to learn.

    With both lambdas 0 it is its backbone, Base with f: the control that tells the branches from
    the encoder.

    Args:
        config: Settings, see ``properties/model/MELT.yaml``; ``epochs`` is E of the curriculum.
        dataset: Has ``model_inputs`` with ``activity``, and ``row_inputs``.

    Raises:
        ConfigError: If a setting is wrong, or the dataset has no tail flags or no head items.

    References:
        MELT (Kim et al., SIGIR 2023, arXiv 2304.08382); ChoirRec Table 1; docs/baselines.md.
    """

    pool: torch.Tensor
    losses: torch.Tensor
    ranges_head: torch.Tensor
    ranges_tail: torch.Tensor

    settings_class: ClassVar[type[MELTSettings]] = MELTSettings
    settings: MELTSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        s, d = self.settings, self.embedding_size
        self.sequence = SequenceTransformer(
            d,
            self.history_length,
            s.melt_blocks,
            s.melt_heads,
            d,
            s.melt_dropout,
            norm_first=True,
            causal=True,
            std=self.embedding_std,
        )
        self.further = FurtherInputs(3 * d, self.widths[0], self.tower_width)
        self.lambda_user = s.melt_lambda_user
        self.lambda_item = s.melt_lambda_item
        self.detach = s.melt_detach_target
        self.transfer_from = s.melt_transfer_from
        self.n_epochs = int(read(config, "epochs", 20))
        self.progress = 0.0  # e / E
        # Steps, L_U, L_I of an epoch
        self.register_buffer("losses", torch.zeros(3, dtype=torch.float64), persistent=False)
        self.has_branches = self.lambda_user > 0 or self.lambda_item > 0
        self.user_transfer = False
        self.tail_rows: TailRows | None = None
        if self.has_branches:
            self._build_branches(config, dataset)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """What Base needs, and the tail flags."""
        return super().needs(config) | {"activity"}

    def _build_branches(self, config: ConfigLike, dataset: Any) -> None:
        activity, d = self.require_activity(dataset.model_inputs), self.embedding_size
        rows: RowInputs = dataset.row_inputs
        s, seed = self.settings, int(read(config, "seed", 2020))
        self.user_map = linear(d, d)  # W_U
        self.user_transfer = s.melt_transfer and self.lambda_user > 0
        self.merge = MERGE[s.melt_merge]
        train = rows.events.take(rows.parts[0])
        bought = train.take(train.label > 0)
        longest = self.history_length
        sides = {
            "user": (activity.user_rows, bought.user),
            "item": (activity.item_rows, bought.item),
        }
        tails = {"user": activity.tail_user, "item": activity.tail_item}
        for side, share in (("user", s.melt_tail_user), ("item", s.melt_tail_item)):
            if share != "evaluation":
                tails[side] = fewest(*sides[side], share)
        self.users = HeadSide(tails["user"], *sides["user"], 2, longest - 2)
        self.users_per_step = s.melt_users_per_step
        self.draws = HostGenerator(seed)
        if self.lambda_item == 0:
            return
        self.item_map = linear(d, d)  # W_I
        self.items = HeadSide(tails["item"], *sides["item"], 1)
        limit = s.melt_contexts
        head = ItemContexts.build(rows, self.items.head.cpu().numpy(), limit, seed)
        if not len(head):
            raise ConfigError(
                "MELT: expected head items with histories before their training positives, got "
                "none (tail_item says who is tail; melt_lambda_item: 0 needs no head items)"
            )
        budget = s.melt_contexts_per_step
        self.draw = ContextDraw(head, min(limit, self.items.threshold), budget, seed)
        self._keep("pool", rows.history.items)
        self._keep("ranges_head", torch.stack([head.start, head.end]))
        if s.melt_transfer:
            tail = ItemContexts.build(rows, self.items.tail.cpu().numpy())
            self._keep("ranges_tail", torch.stack([tail.start, tail.end]))
            self.tail_rows = TailRows(tail, self.inputs_schema.n_users, d)

    def _keep(self, name: str, values: torch.Tensor) -> None:
        """Keep what is the dataset's and not the weights'."""
        self.register_buffer(name, values, persistent=False)

    # --- the encoder -----------------------------------------------------------------------------

    def states(self, history: torch.Tensor) -> torch.Tensor:
        """``f`` ``[B, d]`` of histories ``[B, L]``; the zero vector for an empty one."""
        (items,) = align_left(history)
        mask = items > 0
        return self.sequence.newest(self.item_encoder.id_table(items), mask)

    def context_states(self, ranges: torch.Tensor) -> torch.Tensor:
        """``f`` ``[B, d]`` of contexts, ranges ``[2, B]`` of the pool."""
        return self.states(take_newest(self.pool, ranges[0], ranges[1], self.history_length))

    def outputs(self, interaction: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[B]`` and f of the histories ``[B, d]``."""
        features = self.encode(interaction, self.item_tokens(interaction))
        history, user = interaction[fields.HIST_ITEMS], interaction[self.USER_ID]
        f = self.states(history)
        s = f
        if self.user_transfer and not self.training:
            tail = self.users.tail[user] & (history > 0).any(1)
            completed = f + self.user_map(f)
            s = torch.where(tail.unsqueeze(1), completed * self.merge, f)
        e = features.item_token[:, : self.embedding_size]
        if self.tail_rows is not None:
            e = e + self.tail_rows(user, interaction[self.ITEM_ID]).to(e.dtype)
        further = self.further(torch.cat([s, e, s * e], dim=-1))
        return self.individual(self.h0(interaction, features), further), f

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        return self.outputs(interaction)[0]

    # --- the branches ----------------------------------------------------------------------------

    def user_loss(self, interaction: Interaction, full: torch.Tensor) -> torch.Tensor:
        """``L_U`` of a batch, a scalar, given f of its histories ``[B, d]``."""
        side, (history,) = self.users, align_left(interaction[fields.HIST_ITEMS])
        user, device = interaction[self.USER_ID], history.device
        long_enough = (history > 0).sum(1) > side.threshold
        one = distinct(torch.where(side.head[user] & long_enough, user, 0))  # a row of each user
        drawn = self.draws.uniform(2, len(user), device=device)
        chosen = torch.where(one.first, drawn[0], 2.0).argsort()[: self.users_per_step]
        row, valid = one.order[chosen], one.first[chosen]
        recent = (drawn[1, chosen] * (side.threshold - 1)).long() + 1  # R in 1..T-1
        history = history[row]
        kept = history * (recency(history > 0) < recent.unsqueeze(1))
        target = full[row].detach() if self.detach else full[row]
        gap = (self.user_map(self.states(kept)) - target).square().mean(1)
        count = side.excess_count(user[row]).clamp_max(self.history_length)
        weight = user_weight(count, side.threshold, self.history_length, self.progress)
        return (weight * gap * valid).sum() / valid.sum().clamp_min(1)

    def item_loss(self, interaction: Interaction) -> torch.Tensor:
        """``L_I`` of a batch, a scalar."""
        side, one = self.items, distinct(interaction[self.ITEM_ID])
        drawn = self.draw(one.ids, one.first & side.head[one.ids])
        f = self.context_states(self.ranges_head[:, drawn.context])  # [S, d]
        owner = drawn.owner.to(f.dtype)  # [A, S]
        mean = owner @ (f + self.user_map(f)) / owner.sum(1, keepdim=True).clamp_min(1.0)
        target = self.item_encoder.id_table(drawn.items)
        if self.detach:
            target = target.detach()
        gap = (self.item_map(mean) - target).square().mean(1)
        weight = item_weight(side.excess_count(drawn.items), side.threshold, self.progress)
        return (weight * gap * drawn.complete).sum() / drawn.complete.sum().clamp_min(1)

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """``BCE + lambda_U L_U + lambda_I L_I``, a scalar."""
        logit, f = self.outputs(interaction)
        loss = self.bce(logit, interaction)
        nothing = loss.new_zeros(())
        user = self.user_loss(interaction, f) if self.lambda_user > 0 else nothing
        item = self.item_loss(interaction) if self.lambda_item > 0 else nothing
        with torch.no_grad():
            self.losses += torch.stack([nothing + 1, user, item]).double()
        return loss + self.lambda_user * user + self.lambda_item * item

    # --- from epoch to epoch ---------------------------------------------------------------------

    @torch.no_grad()
    def on_epoch_start(self, epoch: int) -> None:
        """Move the curriculum on and set the tail items' rows, once W_I has been trained."""
        super().on_epoch_start(epoch)
        self.progress = min(1.0, epoch / self.n_epochs)
        self.losses.zero_()
        if self.tail_rows is None or epoch < self.transfer_from:
            return
        training = self.training
        self.eval()
        parts = [self.context_states(r) for r in self.ranges_tail.split(REFRESH_ROWS, dim=1)]
        self.tail_rows.refresh(torch.cat(parts), self.item_map, self.item_encoder.id_table.whole())
        self.train(training)

    def epoch_diagnostics(self) -> dict[str, float]:
        """Mean ``L_U`` and ``L_I`` of the epoch's steps, without their lambdas."""
        figures = super().epoch_diagnostics()
        steps, user, item = self.losses.tolist()
        if not steps or not self.has_branches:
            return figures
        return {**figures, "loss_user_branch": user / steps, "loss_item_branch": item / steps}
