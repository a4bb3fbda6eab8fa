"""UIE: Base with what memories of similar users and items know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from recbole_choir.data import fields
from recbole_choir.model.base_recommender import Features
from recbole_choir.model.context_aware_recommender.base import Base
from recbole_choir.model.layers.balanced_sample import BalancedSample, activity_types
from recbole_choir.model.layers.centroid_memory import CentroidMemory
from recbole_choir.model.layers.cross_attention import CrossAttention
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.layers.further_inputs import FurtherInputs
from recbole_choir.model.layers.mlp import MLP
from recbole_choir.model.settings.uie import UIESettings
from recbole_choir.settings.base import ConfigLike, read

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


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
        UIE / DUIA (2024, arXiv 2405.13238); ChoirRec Table 1; BASELINES 5.
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
