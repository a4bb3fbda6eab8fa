"""UIE: Base with what memories of similar users and items know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_choir.data import fields
from recbole_choir.model.base_recommender import Features
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.dot_pooling import masked_softmax
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.host_generator import HostGenerator
from recbole_choir.model.layers.mlp import MLP
from recbole_choir.model.layers.target_attention import DotQuery
from recbole_choir.model.settings.uie import UIESettings
from recbole_choir.settings.base import ConfigLike, read

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class CrossAttended(NamedTuple):
    """What it returns.

    Attributes:
        pooled: ``[B, D_v]``; zeros for an empty sequence.
        weights: ``[B, L]``; exactly 0 on padding.
    """

    pooled: torch.Tensor
    weights: torch.Tensor


class CrossAttention(nn.Module):
    """``sum_j softmax_j(<W q, k_j> / sqrt(D)) v_j``.

    One matrix stands for the query's and the key's projections, whose product is all that a score
    sees. That of the values is left to the layer that reads the result: both are linear.

    Args:
        width: D, of query and keys.
        scale: Divide by ``sqrt(D)``.
    """

    def __init__(self, width: int, scale: bool = True) -> None:
        super().__init__()
        self.query = DotQuery(width, scale)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> CrossAttended:
        """Attend.

        Args:
            query: ``[B, D]``.
            keys: ``[B, L, D]``.
            values: ``[B, L, D_v]``.
            mask: bool ``[B, L]``, True on valid slots; padding may stand anywhere.
        """
        # Written [B, 1, D] x [B, D, L]: keys x query is seven times slower on the CPU.
        scores = torch.bmm(self.query(query).unsqueeze(1), keys.transpose(1, 2)).squeeze(1)
        weights = masked_softmax(scores, mask)
        return CrossAttended(torch.bmm(weights.unsqueeze(1), values).squeeze(1), weights)


class Retrieved(NamedTuple):
    """What a vector reads.

    Attributes:
        vector: ``sum_n a_n C_n`` ``[B, d]``; zeros where no similarity is positive.
        centroids: The k most similar ones ``[B, k, d]``.
        mask: bool ``[B, k]``, True where the similarity is positive.
    """

    vector: torch.Tensor
    centroids: torch.Tensor
    mask: torch.Tensor


class CentroidMemory(nn.Module):
    """A memory of N centroids, moved by the vectors that are nearest to them and by no gradient.

    A centroid moves by the rate rho of its gap to the mean of the vectors assigned to it in a step.
    One that got none in an epoch is put onto a vector of the next epoch's first step. The centroids
    and their counts are saved with the weights.

    Args:
        n: N.
        size: Width d.
        rate: rho.
        top_k: Centroids that a vector reads.

    References:
        UIE (arXiv 2405.13238); docs/baselines.md.
    """

    centroids: torch.Tensor
    hits: torch.Tensor
    dead: torch.Tensor

    def __init__(self, n: int, size: int, rate: float, top_k: int) -> None:
        super().__init__()
        self.rate = rate
        self.top_k = min(top_k, n)
        self.register_buffer("centroids", torch.randn(n, size) * size**-0.5)
        self.register_buffer("hits", torch.zeros(n))  # vectors of this epoch
        self.register_buffer("dead", torch.zeros(n, dtype=torch.bool), persistent=False)

    def start_epoch(self) -> None:
        """Mark the centroids that the last epoch gave no vector, and count from zero."""
        self.dead = (self.hits == 0) & (self.hits.sum() > 0)
        self.hits = torch.zeros_like(self.hits)

    def live_share(self) -> float:
        """Share of the centroids with a vector in this epoch."""
        return float((self.hits > 0).float().mean())

    def read(self, vector: torch.Tensor) -> Retrieved:
        """Read for vectors ``[B, d]``; the gradient reaches the vectors, never the centroids."""
        top, at = (vector @ self.centroids.T).topk(self.top_k, dim=1)  # [B, k]
        mask, centroids = top > 0, self.centroids[at]
        weights = masked_softmax(top, mask)
        return Retrieved(torch.bmm(weights.unsqueeze(1), centroids).squeeze(1), centroids, mask)

    @torch.no_grad()
    def follow(self, vectors: torch.Tensor, valid: torch.Tensor) -> None:
        """Take a step.

        Args:
            vectors: ``[M, d]``, in random order.
            valid: bool ``[M]``; the others are not there.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.to(self.centroids.dtype)
            centroids = self._revived(vectors, valid)
            distance = centroids.square().sum(1) - 2.0 * (vectors @ centroids.T)  # [M, N] + const
            assigned = F.one_hot(distance.argmin(1), len(centroids)).to(vectors.dtype)
            assigned = assigned * valid.unsqueeze(1)
            count = assigned.sum(0)  # [N]
            mean = (assigned.T @ vectors) / count.clamp_min(1.0).unsqueeze(1)
            gap = (mean - centroids) * (count > 0).unsqueeze(1)
            # New tensors: the backward pass still needs the old centroids.
            self.centroids = centroids + self.rate * gap
            self.hits = self.hits + count

    def _revived(self, vectors: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The centroids, dead ones each on a valid vector; as they are where there is none."""
        n_valid = valid.sum()
        usable = vectors[(~valid).long().argsort(stable=True)]  # valid ones first
        which = (self.dead.cumsum(0) - 1).clamp_min(0) % n_valid.clamp_min(1)
        revive = self.dead & (n_valid > 0)
        self.dead = self.dead & ~revive
        return torch.where(revive.unsqueeze(1), usable[which], self.centroids)


def activity_types(rows: torch.Tensor, n_types: int) -> torch.Tensor:
    """Cut users into types of equal size by their training rows; equal counts in order of id.

    Args:
        rows: ``[n]`` training rows; ids without any are of type 0, as the least active are.
        n_types: Number of types.

    Returns:
        int64 ``[n]``, 0 for the least active.
    """
    seen = torch.nonzero(rows > 0).squeeze(1)
    order = seen[rows[seen].argsort(stable=True)]
    types = torch.zeros_like(rows, dtype=torch.long)
    types[order] = torch.arange(len(order), device=rows.device) * n_types // max(1, len(order))
    return types


class BalancedSample(nn.Module):
    """Draw the same number of rows of every type, without waiting for the device.

    Args:
        n_types: Number of types.
        per_type: Rows of each; a type with fewer in the batch gives all of them.
        seed: Of the draws.
    """

    def __init__(self, n_types: int, per_type: int, seed: int) -> None:
        super().__init__()
        self.n_types, self.per_type = n_types, per_type
        self.draws = HostGenerator(seed)

    def forward(self, types: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw rows.

        Args:
            types: int64 ``[B]``, below ``n_types``.

        Returns:
            Rows ``[n_types per_type]`` and which of them were drawn, bool of the same shape.
        """
        n, device = len(types), types.device
        shuffled = self.draws.uniform(n, device=device).argsort()
        order = shuffled[types[shuffled].argsort(stable=True)]  # by type, at random within one
        kind = types[order]
        every = torch.arange(self.n_types, device=device)
        first = torch.searchsorted(kind, every)  # [n_types]
        rank = torch.arange(n, device=device) - first[kind]
        size = self.n_types * self.per_type
        # What is too many goes into one slot more, which is cut off.
        slot = torch.where(rank < self.per_type, kind * self.per_type + rank, size)
        row = order.new_zeros(size + 1).scatter_(0, slot, order)
        drawn = torch.zeros(size + 1, dtype=torch.bool, device=device)
        drawn.scatter_(0, slot, torch.ones_like(slot, dtype=torch.bool))
        return row[:-1], drawn[:-1]


class AuxiliaryVectors(NamedTuple):
    """Vectors of the auxiliary towers, each ``[B, d_c]``.

    Attributes:
        profile: ``v``, of the user's id, attributes and activity.
        behaviour: ``v_b``, of the mean of the history.
        item: ``q``, of the candidate.
    """

    profile: torch.Tensor
    behaviour: torch.Tensor
    item: torch.Tensor


class UIE(Base):
    """Base with enhancement vectors from stream clustering of users, behaviour and items.

    Auxiliary towers make vectors ``v``, ``v_b``, ``q`` of detached embeddings; in training they
    move the centroids of three memories. Three vectors join the tower's input::

        UPE   attention of v over its k nearest profile centroids
        UCBE  the same with v_b and behaviour centroids
        UCSE  attention of the candidate over the k item centroids nearest to v, a pseudo sequence

        L = BCE(z) + 0.1 (BCE(<v, q>) + BCE(<v_b, q>))

    Centroids are moved by no gradient, are part of the state, and stand still in evaluation. All
    users are enhanced, not the inactive alone.

    Sourced (arXiv 2405.13238 v6 and v7, abstracts; two summaries): three modules for profile,
    behaviour and sequence; an auxiliary tower that shares embeddings without training them; the
    nearest centroid moved by an update rate; users drawn evenly over types of activity; the top k
    with negative similarities dropped and attention over the rest. Reconstruction: all sizes, the
    auxiliary loss (something must give the vectors a meaning), the form of UCBE and UCSE, what
    becomes of dead centroids, and Base's tower in place of PLE.

    With empty memories (all centroids zero) the model is Base.

    Args:
        config: Settings, see ``properties/model/UIE.yaml``.
        dataset: Has ``model_inputs`` with ``activity``.

    Raises:
        ConfigError: If a setting is wrong, or the dataset has no activity of users.

    References:
        UIE / DUIA (2024, arXiv 2405.13238); ChoirRec Table 1; docs/baselines.md.
    """

    user_type: torch.Tensor

    settings_class: ClassVar[type[UIESettings]] = UIESettings
    settings: UIESettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        activity = self.require_activity(dataset.model_inputs)
        s = self.settings
        self.register_buffer(
            "user_type", activity_types(activity.user_rows, s.uie_types), persistent=False
        )
        size, hidden = s.uie_size, s.uie_hidden
        self.profile_tower = MLP(self.user_width, hidden, size)
        self.behaviour_tower = MLP(self.item_encoder.width, hidden, size)
        self.item_tower = MLP(self.item_encoder.width, hidden, size)
        self.pseudo_attention = CrossAttention(size)
        self.further = FurtherInputs(3 * size, self.widths[0], self.tower_width)
        n, top_k, rate = s.uie_centroids, s.uie_top_k, s.uie_rate
        schema = self.inputs_schema
        # At least 50 users, or items, to a centroid.
        n_user, n_item = (min(n, max(top_k, m // 50)) for m in (schema.n_users, schema.n_items))
        self.profiles = CentroidMemory(n_user, size, rate, top_k)
        self.behaviours = CentroidMemory(n_user, size, rate, top_k)
        self.items = CentroidMemory(n_item, size, rate, top_k)
        self.aux_weight = s.uie_aux_weight
        seed = int(read(config, "seed", 2020))
        self.sample = BalancedSample(s.uie_types, s.uie_rows_per_type, seed)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """What Base needs, and the users' training rows."""
        return super().needs(config) | {"activity"}

    def vectors(self, features: Features) -> AuxiliaryVectors:
        """The auxiliary vectors of a batch; no gradient reaches the features."""
        mean = features.history[:, self.item_encoder.width :]
        return AuxiliaryVectors(
            self.profile_tower(features.user.detach()),
            self.behaviour_tower(mean.detach()),
            self.item_tower(features.item_token.detach()),
        )

    def enhancement(self, vectors: AuxiliaryVectors, has_history: torch.Tensor) -> torch.Tensor:
        """``[g_UPE; g_UCBE; g_UCSE]`` ``[B, 3 d_c]``.

        Args:
            vectors: Of the batch.
            has_history: bool ``[B]``; without, there is no behaviour to compare.
        """
        profile = self.profiles.read(vectors.profile).vector
        behaviour = self.behaviours.read(vectors.behaviour).vector * has_history.unsqueeze(1)
        near = self.items.read(vectors.profile)
        sequence = self.pseudo_attention(vectors.item, near.centroids, near.centroids, near.mask)
        return torch.cat([profile, behaviour, sequence.pooled], dim=-1)

    def outputs(
        self, interaction: Interaction
    ) -> tuple[torch.Tensor, AuxiliaryVectors, ItemTokens]:
        """Logits ``[B]``, auxiliary vectors and item lookups of a batch."""
        items = self.item_tokens(interaction)
        features = self.encode(interaction, items)
        vectors = self.vectors(features)
        has_history = (interaction[fields.HIST_ITEMS] > 0).any(1)
        further = self.further(self.enhancement(vectors, has_history))
        return self.individual(self.h0(interaction, features), further), vectors, items

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        return self.outputs(interaction)[0]

    def auxiliary_loss(self, vectors: AuxiliaryVectors, interaction: Interaction) -> torch.Tensor:
        """``BCE(<v, q>) + BCE(<v_b, q>)``, a scalar."""
        logits = ((v * vectors.item).sum(-1) for v in (vectors.profile, vectors.behaviour))
        profile, behaviour = (self.bce(logit, interaction) for logit in logits)
        return profile + behaviour

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """The loss of a batch, a scalar; in training the memories follow the batch."""
        logit, vectors, items = self.outputs(interaction)
        loss = self.bce(logit, interaction)
        loss = loss + self.aux_weight * self.auxiliary_loss(vectors, interaction)
        if self.training:
            self.follow(interaction, vectors, items)
        return loss

    @torch.no_grad()
    def follow(
        self, interaction: Interaction, vectors: AuxiliaryVectors, items: ItemTokens
    ) -> None:
        """Move the centroids by rows drawn evenly over types of activity."""
        row, drawn = self.sample(self.user_type[interaction[self.USER_ID]])
        history = interaction[fields.HIST_ITEMS][row]  # [M, L]
        self.profiles.follow(vectors.profile[row], drawn)
        self.behaviours.follow(vectors.behaviour[row], drawn & (history > 0).any(1))
        seen = (history > 0) & drawn.unsqueeze(1)
        self.items.follow(self.item_tower(items.lookup(history)).flatten(0, 1), seen.flatten())

    def on_epoch_start(self, epoch: int) -> None:
        """Find the centroids that nothing came near in the last epoch."""
        super().on_epoch_start(epoch)
        for memory in (self.profiles, self.behaviours, self.items):
            memory.start_epoch()

    def epoch_diagnostics(self) -> dict[str, float]:
        """Share of each memory's centroids that followed anything in the epoch."""
        memories = {"profile": self.profiles, "behaviour": self.behaviours, "item": self.items}
        live = {f"live_{name}_centroids": m.live_share() for name, m in memories.items()}
        return {**super().epoch_diagnostics(), **live}
