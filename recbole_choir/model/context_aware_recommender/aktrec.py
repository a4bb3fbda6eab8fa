"""AKTRec: asymmetric knowledge transfer between head and tail over semantic clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import torch
from torch import nn

from recbole_choir.data import fields
from recbole_choir.data.cross_statistics import A19_COLUMNS
from recbole_choir.errors import ConfigError
from recbole_choir.model.aktrec.adaptive_embedding import (
    Adaptive,
    AdaptiveEmbedding,
    ClusterBuffers,
    HeadMeans,
)
from recbole_choir.model.aktrec.build import EmbeddingBuilder
from recbole_choir.model.aktrec.cluster_average import ClusterAverage
from recbole_choir.model.aktrec.cluster_view import ClusterView
from recbole_choir.model.aktrec.gate_report import gate_report
from recbole_choir.model.aktrec.transfer import (
    AsymmetricTransfer,
    Transfer,
    TransferMeter,
    soft_orthogonality,
)
from recbole_choir.model.aktrec.view_fusion import Slots, ViewFusion
from recbole_choir.model.base_recommender import ChoirRecommender
from recbole_choir.model.layers.channel import Channel, MixtureOfExperts
from recbole_choir.model.layers.epoch_meter import EpochMeter
from recbole_choir.model.layers.first_occurrence import distinct
from recbole_choir.model.layers.snapshot_tokens import SnapshotItemEncoder, SnapshotTokens
from recbole_choir.model.settings.aktrec import AKTRecSettings
from recbole_choir.settings.base import ConfigLike, read

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_choir.data.schema import ModelInputs


class Outputs(NamedTuple):
    """The outputs of a batch.

    Attributes:
        logit: ``[B]``.
        alpha: Weight ``[B]`` of the cluster view, as the gate gives it; None where it is not
            learned.
        has_cluster: bool ``[B]``, whether any slot has a cluster, so that alpha is used at all;
            None without the cluster view.
        user, item: Embeddings of the rows' users and items, Eq. 6.
    """

    logit: torch.Tensor
    alpha: torch.Tensor | None
    has_cluster: torch.Tensor | None
    user: Adaptive
    item: Adaptive


class Clustered(NamedTuple):
    """The cluster view of a batch.

    Attributes:
        slots: ``H_clust``, zeros where there is no cluster.
        known: bool ``[B]`` a slot: whether the row's user has a cluster, its item has one, and the
            user's cluster has behaviour on items like the candidate.
    """

    slots: Slots
    known: Slots


class AKTRec(ChoirRecommender):
    """Cluster-guided embedding and hierarchical aggregation over semantic clusters.

    In six lines::

        e = r c + (1 - r) d,  r = G1(activity)       of a user, of an item at a snapshot    (Eq. 6)
        H_inst  = [user; item; attention over the history]                               (Eq. 7-8)
        H_clust = [mean of H_u over G(u); mean of H_i over G(i);
                   attention over G(u)'s items with the candidate's first code]             (Eq. 9)
        f = a H_clust + (1 - a) H_inst,  a = G2(activity)      slot by slot                (Eq. 10)
            with a = 0 in a slot that has no cluster
        L = BCE(F(f)) + L_trans + lambda L_ortho                                (Eq. 4-5, 11-12)

    Context fields have no counterpart in the cluster view: they join the fused slots as they are,
    and so do the as-of cluster statistics of ``variant: plus``. With the cluster view off, the
    input of the ranking network is Base's, column by column.

    The target is gated by the activity as of the row. Items of the history and of the cluster
    sequence, and members of clusters, are gated by their activity as of the row's snapshot.

    Args:
        config: Settings, see ``properties/model/AKTRec.yaml``; ``variant`` sets those that are null
            (:class:`recbole_choir.model.settings.aktrec.AKTRecSettings`).
        dataset: Has ``model_inputs``, with what :meth:`needs` says.

    Raises:
        ConfigError: If a setting is wrong, or the dataset lacks what the settings need.

    References:
        AKT-Rec (Yan et al.), 3.2 and Eq. 4-12; Table 2 for the switches; docs/gaps.md.
    """

    settings_class: ClassVar[type[AKTRecSettings]] = AKTRecSettings
    settings: AKTRecSettings
    user_table: AdaptiveEmbedding
    item_encoder: SnapshotItemEncoder

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        s, inputs = self.settings, dataset.model_inputs
        if not s.use_instance_view:
            del self.history_attention  # of the instance view: nothing would train it
        self._build_cluster_view(config, inputs)
        self._build_ranker()
        self.transfer: AsymmetricTransfer | None = None
        if s.use_trans:
            self.transfer = AsymmetricTransfer(
                s.lambda1,
                s.lambda2,
                s.trans_temperature,
                s.detach_negatives,
                s.trans_max_anchors,
                int(read(config, "seed", 0)),
            )
        self.transfer_meter = TransferMeter()
        self.gate_meter = EpochMeter()
        self._stale, self._age = True, 0
        self.register_load_state_dict_post_hook(_mark_stale)

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """The user groups, the item tables and the clusters, as the settings say."""
        return cls.settings_class.from_config(config).needs

    # --- building ------------------------------------------------------------------------------

    def _build_encoders(self, config: ConfigLike, inputs: ModelInputs) -> None:
        s = self.settings
        for name in sorted(s.needs):
            if getattr(inputs, name) is None:
                raise ConfigError(
                    f"AKTRec: variant {s.variant} expects a semantic table with items "
                    f"(semantic_table: auto or a folder), got a dataset without {name}"
                )
        self.sides = nn.ModuleDict()
        if inputs.clusters is not None and "clusters" in s.needs:
            self.sides["user"] = ClusterBuffers(inputs.clusters.users)
            self.sides["item"] = ClusterBuffers(inputs.clusters.items)
        self._builder = EmbeddingBuilder(s, inputs, self.embedding_size, self.embedding_std)
        super()._build_encoders(config, inputs)
        self.user_codes = self._builder.user_codes()
        if self.user_codes is not None:
            self.user_width += self.user_codes.width
        del self._builder  # it holds the dataset's tables

    def _build_user_table(self, config: ConfigLike, inputs: ModelInputs) -> AdaptiveEmbedding:
        return self._builder.users(self._side("user") if self.sides else None)

    def _build_item_encoder(self, config: ConfigLike, inputs: ModelInputs) -> SnapshotItemEncoder:
        return self._builder.items(self._side("item") if self.sides else None)

    @property
    def item_table(self) -> AdaptiveEmbedding:
        """The embedding of the items' ids, as ``user_table`` is that of the users'."""
        return cast(AdaptiveEmbedding, self.item_encoder.identity)

    def _build_cluster_view(self, config: ConfigLike, inputs: ModelInputs) -> None:
        s = self.settings
        self.cluster_view: ClusterView | None = None
        if not s.use_cluster_view or inputs.clusters is None or inputs.items is None:
            return
        self.cluster_view = ClusterView(
            inputs.clusters,
            inputs.items,
            (self.user_width, self.item_width),
            s.clust_mode,
            s.clust_weight,
            s.clust_keep,
            s.use_cluster_seq,
        )
        if s.use_cluster_seq:
            self.cluster_attention = self._build_attention(config)

    def _build_ranker(self) -> None:
        s, schema = self.settings, self.inputs_schema
        # f_cross: the counts of A19; exposures and lifts are statistics of variant plus.
        cross = [
            i
            for i, name in enumerate(schema.cross_stat_names)
            if name in A19_COLUMNS and name.endswith("log_positives")
        ]
        columns = torch.tensor(cross, dtype=torch.long)
        self.register_buffer("cross_columns", columns, persistent=False)
        self.fusion = ViewFusion(
            (self.user_width, self.item_width, 2 * self.item_encoder.width),
            len(schema.user_stat_names) + len(schema.item_stat_names) + len(cross),
            s.hfa_gate,
            s.fusion_hidden,
            s.hfa_fusion,
            s.use_instance_view,
            s.use_cluster_view,
        )
        width = sum(self.fusion.widths) + self.context_width
        if s.use_cluster_stats:
            width += len(schema.cross_stat_names) + len(schema.group_stat_names)
        self.ranker: nn.Module
        if s.ranker == "mmoe":
            self.ranker = MixtureOfExperts(width, self.widths, self.dropout_prob, s.n_experts)
        else:
            self.ranker = Channel(width, self.widths, self.dropout_prob)

    def _side(self, name: str) -> ClusterBuffers:
        """Tables of the users' or of the items' clusters."""
        side = self.sides[name]
        if not isinstance(side, ClusterBuffers):  # never: the dict holds nothing else
            raise TypeError(f"expected ClusterBuffers, got {type(side).__name__}")
        return side

    def _log_exposures(self, name: str) -> int:
        """Column of a side's statistics with the log of the exposures; the first if unnamed."""
        schema = self.inputs_schema
        names = schema.user_stat_names if name == "user" else schema.item_stat_names
        return names.index("log_exposures") if "log_exposures" in names else 0

    # --- what is computed from the weights now and then ------------------------------------------

    def train(self, mode: bool = True) -> AKTRec:
        """Switch between training and evaluation; a switch makes the averages stale."""
        if mode != self.training:
            self._stale = True
        super().train(mode)
        return self

    def on_epoch_start(self, epoch: int) -> None:
        """Start counting; averages are computed again, so that a resumed run has the same ones."""
        super().on_epoch_start(epoch)
        self.transfer_meter.reset()
        self.gate_meter.reset()
        self._stale = True

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute stand-ins of unseen ids and cluster averages from the weights as they are.

        Happens by itself: once in ``clust_refresh`` training steps, at the start of an epoch,
        before an evaluation and after loading. Nothing is read back from the device.
        """
        self._stale, self._age = False, 0
        self.user_table.refresh()
        self.item_encoder.refresh()
        if self.cluster_view is not None:
            self.cluster_view.refresh(self._users_at, self._items_at)

    def training_state(self) -> tuple[Any, ...]:
        """What an evaluation computes again and training reads: averages, means and their age.

        In training they are those of the last refresh; without this a validation in mid-epoch
        would bring the next refresh forward, and the run would end with other weights.
        """
        averages = [m.table for m in self.modules() if isinstance(m, ClusterAverage)]
        means = [m.means for m in self.modules() if isinstance(m, HeadMeans)]
        derived = [*averages, *means]
        return self._stale, self._age, derived, [values.clone() for values in derived]

    @torch.no_grad()
    def restore_training_state(self, state: tuple[Any, ...]) -> None:
        """Put back what :meth:`training_state` gave."""
        self._stale, self._age, derived, copies = state
        for values, kept in zip(derived, copies):
            values.copy_(kept)

    def _users_at(self, snapshot: int) -> torch.Tensor:
        """``H_u`` ``[n_users, .]`` of all users at a snapshot (Eq. 7)."""
        parts = [self.user_table.at(snapshot)]
        if self.user_codes is not None:
            parts.append(self.user_codes.at(snapshot))
        parts += self.user_bank(self.user_features.whole())
        return torch.cat([*parts, self._side("user").stats[snapshot]], dim=-1)

    def _items_at(self, snapshot: int) -> torch.Tensor:
        """``H_i`` ``[n_items, .]`` of all items at a snapshot (Eq. 7)."""
        return torch.cat(
            [self.item_encoder.at(snapshot), self._side("item").stats[snapshot]], dim=-1
        )

    # --- the forward pass ------------------------------------------------------------------------

    def item_tokens(self, interaction: Interaction, extra_lookups: int = 0) -> SnapshotTokens:
        """Prepare item lookups of this batch, each at its row's snapshot."""
        n = extra_lookups
        if self.settings.use_instance_view:
            n += interaction[fields.HIST_ITEMS].numel()
        return self.item_encoder.tokens_at(n, self._snapshot(interaction))

    def _snapshot(self, interaction: Interaction) -> torch.Tensor:
        """Newest snapshot before each row ``[B]``; 0 throughout where no table is read."""
        if not self.settings.needs:
            return torch.zeros_like(interaction[self.ITEM_ID])
        return interaction[fields.SNAPSHOT]

    def instance_view(
        self,
        interaction: Interaction,
        items: SnapshotTokens,
        user_id: torch.Tensor,
        item_token: torch.Tensor,
    ) -> Slots:
        """``H_inst = [H_u; H_i; S_u,i]`` of a batch (Eq. 7-8)."""
        features = self.assemble(interaction, items, user_id, item_token)
        item = torch.cat([features.item_token, features.item_stats], dim=-1)
        return Slots(features.user, item, features.history)

    def clustered_view(
        self, interaction: Interaction, items: SnapshotTokens, item_token: torch.Tensor
    ) -> Clustered | None:
        """``H_clust = [H_G(u); H_G(i); S_G(u),i]`` of a batch (Eq. 9); None without the view.

        Zeros where a row has no snapshot, its user or item no cluster, or the cluster no behaviour.
        """
        if self.cluster_view is None:
            return None
        snapshot, item = self._snapshot(interaction), interaction[self.ITEM_ID]
        of_user = self._side("user").cluster_of(snapshot, interaction[self.USER_ID])
        of_item = self._side("item").cluster_of(snapshot, item)
        user, target = self.cluster_view.averages(of_user, of_item, self._users_at, self._items_at)
        sequence = item_token.new_zeros(len(item), 2 * self.item_encoder.width)
        has_sequence = torch.zeros_like(of_user, dtype=torch.bool)
        if self.cluster_view.sequence is not None:
            ids = self.cluster_view.sequence(of_user, snapshot, item)  # [B, L_c]
            attended = self.cluster_attention(item_token, *items.rows(ids), ids > 0)
            sequence = attended.pooled.flatten(1)
            has_sequence = (ids > 0).any(dim=1)
        known = Slots(of_user > 0, of_item > 0, has_sequence)
        return Clustered(Slots(user, target, sequence), known)

    def activity(self, interaction: Interaction) -> torch.Tensor:
        """``[f_user; f_item; f_cross]`` ``[B, .]`` of Eq. 10."""
        parts = [self.statistics(interaction, n) for n in (fields.USER_STATS, fields.ITEM_STATS)]
        if self.cross_columns.shape[0]:
            cross = self.statistics(interaction, fields.CROSS_STATS)
            parts.append(cross.index_select(1, self.cross_columns))
        return torch.cat(parts, dim=-1)

    def outputs(self, interaction: Interaction) -> Outputs:
        """Run the model on a batch."""
        if self._stale:
            self.refresh()
        s, snapshot = self.settings, self._snapshot(interaction)
        user_id, item_id = interaction[self.USER_ID], interaction[self.ITEM_ID]
        user_stats = self.statistics(interaction, fields.USER_STATS)
        item_stats = self.statistics(interaction, fields.ITEM_STATS)
        user = self.user_table.parts(user_id, snapshot, user_stats)
        item = self.item_table.parts(item_id, snapshot, item_stats)
        token = self.item_encoder.token(item_id, snapshot, item.fused)

        extra = 0
        if self.cluster_view is not None and self.cluster_view.sequence is not None:
            extra = len(item_id) * self.cluster_view.sequence.length
        items = self.item_tokens(interaction, extra)
        instance = None
        if s.use_instance_view:
            own = [user.fused]
            if self.user_codes is not None:
                own.append(self.user_codes(user_id, snapshot))
            instance = self.instance_view(interaction, items, torch.cat(own, dim=-1), token)
        cluster = self.clustered_view(interaction, items, token)
        activity = self.activity(interaction) if self.fusion.gate is not None else None
        slots, known = (None, None) if cluster is None else cluster
        fused, alpha = self.fusion(instance, slots, activity, known)  # Eq. 10
        has_cluster = None if known is None else known.user | known.item | known.sequence

        context = self.encode_context(interaction)
        parts = [fused.user, fused.item, context, fused.sequence]
        if s.use_cluster_stats:
            parts.append(self.statistics(interaction, fields.CROSS_STATS))
            parts.append(self.statistics(interaction, fields.GROUP_STATS))
        return Outputs(self.ranker(torch.cat(parts, dim=-1)), alpha, has_cluster, user, item)

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Logit ``[B]`` of each row."""
        return self.outputs(interaction).logit

    # --- losses ----------------------------------------------------------------------------------

    def transfers(self, interaction: Interaction) -> tuple[Transfer, Transfer] | None:
        """``L_trans`` of the users and of the items of a batch (Eq. 4); None where it is off."""
        user, item = self.user_table.cluster, self.item_table.cluster
        if self.transfer is None or user is None or item is None:
            return None
        users, items = distinct(interaction[self.USER_ID]), distinct(interaction[self.ITEM_ID])
        return (
            self.transfer(users, self._side("user").side, user.at_newest),
            self.transfer(items, self._side("item").side, item.at_newest),
        )

    def orthogonality(self, interaction: Interaction, out: Outputs) -> torch.Tensor | None:
        """``L_ortho`` of the distinct users and items of a batch (Eq. 5); None where it is off."""
        if not self.settings.use_ortho:
            return None
        pairs = []
        for ids, part in (
            (interaction[self.USER_ID], out.user),
            (interaction[self.ITEM_ID], out.item),
        ):
            if part.cluster is not None and part.individual is not None:
                weight = distinct(ids).row_weight(part.fused.dtype)
                pairs.append((part.cluster, part.individual, weight))
        return soft_orthogonality(pairs)

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """``L_main + L_trans + lambda L_ortho`` (Eq. 11-12), a scalar."""
        s = self.settings
        if self._age >= s.clust_refresh:
            self._stale = True
        out = self.outputs(interaction)
        self._age += 1
        loss = self.bce(out.logit, interaction)
        transfers = self.transfers(interaction)
        if transfers is not None:
            loss = loss + transfers[0].loss + transfers[1].loss
        ortho = self.orthogonality(interaction, out)
        if ortho is not None:
            loss = loss + s.lambda_ortho * ortho
        users, items = transfers or (None, None)
        self.transfer_meter.add(users, items, ortho)
        if out.alpha is not None:
            n_buy = interaction[fields.N_BUY]
            self.gate_meter.add_fusion(n_buy, out.alpha.detach(), out.has_cluster)
        if self.cluster_view is not None and self.cluster_view.moving:
            self._observe(interaction)
        return loss

    @torch.no_grad()
    def _observe(self, interaction: Interaction) -> None:
        """Move the averages towards the members in a batch, as they were at the rows' snapshots."""
        view, snapshot = self.cluster_view, self._snapshot(interaction)
        if view is None:
            return
        user_id, item_id = interaction[self.USER_ID], interaction[self.ITEM_ID]
        user, item = self._side("user"), self._side("item")
        parts = [self.user_table(user_id, snapshot)]
        if self.user_codes is not None:
            parts.append(self.user_codes(user_id, snapshot))
        parts += [*self.user_bank(self.user_values(interaction)), user.stats[snapshot, user_id]]
        view.users.observe(user.clusters_of(snapshot, user_id), torch.cat(parts, dim=-1))
        token = self.item_encoder.token(item_id, snapshot)
        features = torch.cat([token, item.stats[snapshot, item_id]], dim=-1)
        view.items.observe(item.clusters_of(snapshot, item_id), features)

    def id_tables(self) -> dict[str, torch.Tensor]:
        """The individual vectors of users and items; see :meth:`ChoirRecommender.id_tables`."""
        sides = {"user": self.user_table, "item": self.item_table}
        return {k: e.individual.weight for k, e in sides.items() if e.individual is not None}

    def epoch_diagnostics(self) -> dict[str, float]:
        """What losses, gates and embeddings did over the epoch so far.

        ``loss_trans``, ``loss_ortho`` per step; ``frac_paired_users`` and ``_items``, of the
        distinct ids of batches; ``mean_alpha_fusion`` and ``mean_alpha_fusion_level_1`` (least
        active) to ``_5``, the weight of the cluster view in the rows that have one; and
        :func:`gate_report` of both sides.
        """
        figures = {**self.transfer_meter.report(), **self.gate_meter.report()}
        if figures:
            figures |= gate_report(self.user_table, "user", self._log_exposures("user"))
            figures |= gate_report(self.item_table, "item", self._log_exposures("item"))
        return {**super().epoch_diagnostics(), **figures}


def _mark_stale(module: nn.Module, _: object) -> None:
    """Loaded weights have other averages."""
    module._stale = True  # type: ignore[assignment]
