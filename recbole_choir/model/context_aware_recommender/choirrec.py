"""ChoirRec: an individual and a group channel that teach and complete each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from recbole_choir.data import fields
from recbole_choir.errors import ConfigError
from recbole_choir.model.base_recommender import ChoirRecommender, Features
from recbole_choir.model.choirrec.distillation import Distilled, GatedDistillation
from recbole_choir.model.choirrec.group_encoder import GroupLookup, embed_group_attributes
from recbole_choir.model.choirrec.group_injection import AsymmetricInjection
from recbole_choir.model.choirrec.prefix_fusion import PrefixFusion
from recbole_choir.model.choirrec.reliability import Reliability, ReliabilityNetwork
from recbole_choir.model.layers.channel import Channel
from recbole_choir.model.layers.epoch_meter import EpochMeter
from recbole_choir.model.layers.field_embedding import ItemTokens
from recbole_choir.model.settings.choirrec import GROUP_TO_INDIVIDUAL, ChoirRecSettings
from recbole_choir.settings.base import ConfigLike

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_choir.data.schema import ModelInputs


class ChannelOutputs(NamedTuple):
    """The outputs of a batch, each ``[B]``.

    Attributes:
        fused: Logit of the prediction, Eq. 10.
        individual, group: Logits of the channels; group is None with a single tower.
        alpha_distill, alpha_fusion: The gates; None where a setting removes them.
    """

    fused: torch.Tensor
    individual: torch.Tensor
    group: torch.Tensor | None
    alpha_distill: torch.Tensor | None
    alpha_fusion: torch.Tensor | None


class ChoirRec(ChoirRecommender):
    """Dual-channel model with semantic group knowledge.

    In five lines::

        h_ind_mid, h_grp_mid = first blocks of [Base's features], [e_G; e_P_G; item; S_G]
        h_fuse  = W2 ReLU(W1 [sg(h_grp_mid); h_ind_mid])     added inside the individual tower
        a_d, a_f = sigmoid heads of a network on the user's activity
        z       = (1 - a_f) z_ind + a_f z_grp
        L       = BCE(z) + lambda mean(g_qual a_d max(0, |s(sg(z_ind)/T) - s(z_grp/T)| - m)^2)

    The individual channel is :class:`Base` under the same parameter names. Both channels share
    the item, attribute and context tables; their attention weights, blocks and towers are their
    own.

    Args:
        config: Settings, see ``properties/model/ChoirRec.yaml``; ``variant`` sets those that are
            null (:class:`recbole_choir.model.settings.choirrec.ChoirRecSettings`).
        dataset: Has ``model_inputs``, with ``groups`` unless every group input is off.

    Raises:
        ConfigError: If a setting is wrong, or a group input is on and the dataset has no groups.

    References:
        ChoirRec (Zhai et al.), 4.3.1, 4.4 and Eq. 4-12; Table 2 for the switches.
    """

    settings_class: ClassVar[type[ChoirRecSettings]] = ChoirRecSettings
    settings: ChoirRecSettings

    def __init__(self, config: ConfigLike, dataset: Any) -> None:
        super().__init__(config, dataset)
        inputs: ModelInputs = dataset.model_inputs
        self.groups = self._build_lookup(inputs)
        group_width = self._build_group_encoders(config)
        self._build_channels(group_width)
        self._build_collaboration(inputs)
        to_individual = self.settings.kd_direction == GROUP_TO_INDIVIDUAL
        self.meter = EpochMeter("individual" if to_individual else "group")

    @classmethod
    def needs(cls, config: ConfigLike) -> frozenset[str]:
        """The group tables, group statistics, lifts and own scores, as the settings say."""
        settings = cls.settings_class.from_config(config)
        needed = set()
        if settings.reads_groups or settings.use_group_stats:
            needed.add("groups")
        if settings.use_group_stats:
            needed.add("group_stats")
        if settings.use_lifts:
            needed |= {"groups", "lifts"}
        if settings.use_own_scores:
            needed |= {"groups", "own_scores"}
        return frozenset(needed)

    def _build_lookup(self, inputs: ModelInputs) -> GroupLookup | None:
        if not self.settings.reads_groups:
            return None
        if inputs.groups is None:
            raise ConfigError(
                f"ChoirRec: variant {self.settings.variant} expects a semantic table "
                "(semantic_table: auto or a folder), got a dataset without one"
            )
        return GroupLookup(inputs.groups, inputs.schema.user_attrs)

    def _build_group_encoders(self, config: ConfigLike) -> int:
        """Build what encodes the group's own inputs; return their width."""
        s, width = self.settings, 0
        if s.use_group_id and self.groups is not None:
            self.prefix_fusion = PrefixFusion(
                self.groups.n_codes,
                s.group_code_size,
                s.group_id_hidden,
                s.group_id_size,
                s.eg_normalize,
                s.eg_scale,
                self.embedding_std,
            )
            width += self.prefix_fusion.width
        if s.use_group_attr and self.groups is not None:
            if not self.groups.fields:
                self.logger.warning("ChoirRec: the semantic table describes no loaded user field")
            width += self.embedding_size * len(self.groups.fields)
        if s.use_group_seq:
            self.group_attention = self._build_attention(config)
            width += 2 * self.item_encoder.width
        if s.use_group_stats:
            width += self.require_group_stats()
        if s.use_lifts:
            width += self.require_soft("lifts")
        if s.use_own_scores:
            width += self.require_soft("own_scores")
        return width

    def _build_channels(self, group_width: int) -> None:
        s = self.settings
        # The group's inputs join the one tower, or open a channel of their own.
        own = 0 if s.use_dual_channel else group_width
        self.individual = Channel(self.h0_width + own, self.widths, self.dropout_prob)
        if not s.use_dual_channel:
            return
        group_in = group_width + self.item_width + self.context_width
        self.group = Channel(group_in, self.widths, self.dropout_prob)
        if s.use_injection:
            self.injection = AsymmetricInjection(
                self.widths[0],
                self.widths[0],
                s.injection_hidden,
                self.widths[1],
                s.inject_stopgrad,
            )

    def _build_collaboration(self, inputs: ModelInputs) -> None:
        s = self.settings
        self.reliability: ReliabilityNetwork | None = None
        self.distillation: GatedDistillation | None = None
        if not s.use_dual_channel:
            return
        distill_head = s.use_kd and s.use_alpha_distill
        fusion_head = s.fusion_gate == "learned"
        lifts = inputs.schema.lift_names if s.use_lifts else ()
        self.mass_column = lifts.index(fields.LIFT_MASS) if fields.LIFT_MASS in lifts else None
        if distill_head or fusion_head:
            self.reliability = ReliabilityNetwork(
                len(inputs.schema.user_stat_names) + (self.mass_column is not None),
                s.reliability_hidden,
                s.reliability_bucket_size,
                s.fusion_bias_init,
                distill_head,
                fusion_head,
                freeze_distill=s.kd_alpha_mode == "detach",
            )
        if s.use_kd:
            self.distillation = GatedDistillation(
                s.kd_loss,
                s.kd_temperature,
                s.kd_margin,
                float(inputs.theta_act) if s.theta_act is None else s.theta_act,
                s.theta_conf,
                s.kd_detach_teacher,
                s.kd_alpha_mode,
                s.use_qual_gate,
                s.kd_reduction,
            )

    def user_values(self, interaction: Interaction) -> list[torch.Tensor]:
        """Attribute values of the users; with ``attr_impute`` the group's where one is missing.

        Missing is id 0, or for several ids all of them. A float field has no such mark: a missing
        value already holds the mean there and stays.

        References:
            ChoirRec 4.3.2; docs/gaps.md C16 (b).
        """
        values = super().user_values(interaction)
        if not self.settings.attr_impute or self.groups is None:
            return values
        group = self.groups.group_of(interaction[fields.SNAPSHOT], interaction[self.USER_ID])
        attributes = self.groups.attributes(group)
        for spec, at, of_group in zip(
            self.groups.fields, self.groups.positions, attributes, strict=True
        ):
            own = values[at]
            if spec.kind == "token":
                values[at] = torch.where(own == 0, of_group, own)
            elif spec.kind == "token_seq":
                missing = (own == 0).all(-1)  # [B]
                first = torch.where(missing, of_group, own[:, 0])
                values[at] = torch.cat([first.unsqueeze(1), own[:, 1:]], dim=1)
        return values

    def group_inputs(
        self, interaction: Interaction, features: Features, items: ItemTokens
    ) -> list[torch.Tensor]:
        """``[e_G; e_P_G; s_G; m_G; group statistics; lifts; own scores]``, those that are on."""
        s, parts = self.settings, []
        if self.groups is not None:
            snapshot, user = interaction[fields.SNAPSHOT], interaction[self.USER_ID]
            if s.use_group_id:
                parts.append(self.groups.embed_codes(self.prefix_fusion, snapshot, user))
            group = self.groups.group_of(snapshot, user)
            if s.use_group_attr:
                parts += embed_group_attributes(
                    self.user_bank, self.groups.positions, self.groups.attributes(group)
                )
            if s.use_group_seq:
                sequence = self.groups.sequence(group, items)
                parts.append(self.group_attention(features.item_token, *sequence).pooled.flatten(1))
        if s.use_group_stats:
            parts.append(self.statistics(interaction, fields.GROUP_STATS))
        if s.use_lifts:
            parts.append(self.statistics(interaction, fields.LIFTS))
        if s.use_own_scores:
            parts.append(self.statistics(interaction, fields.OWN_SCORES))
        return parts

    def reliability_inputs(self, interaction: Interaction) -> torch.Tensor:
        """The user's activity statistics; with lifts, how much lies behind them as well.

        References:
            ChoirRec 4.4.3. The second is ours: who came after the newest snapshot is active, and no
            group knows him.
        """
        activity = self.statistics(interaction, fields.USER_STATS)
        if self.mass_column is None:
            return activity
        mass = self.statistics(interaction, fields.LIFTS)[:, self.mass_column]
        return torch.cat([activity, mass.unsqueeze(1)], dim=1)

    def channels(self, interaction: Interaction) -> ChannelOutputs:
        """Run both channels on a batch."""
        s = self.settings
        extra = 0
        if s.use_group_seq and self.groups is not None:
            rows = min(self.groups.n_groups, interaction[self.ITEM_ID].shape[0])
            extra = rows * self.groups.group_seq.shape[1]
        items = self.item_tokens(interaction, extra)
        features = self.encode(interaction, items)
        group_parts = self.group_inputs(interaction, features, items)
        if not s.use_dual_channel:
            z = self.individual(torch.cat([features.concat(), *group_parts], dim=-1))
            return ChannelOutputs(z, z, None, None, None)

        individual_mid = self.individual.mid(features.concat())
        group_mid = self.group.mid(
            torch.cat(
                [*group_parts, features.item_token, features.item_stats, features.context], dim=-1
            )
        )
        fuse = self.injection(group_mid, individual_mid) if s.use_injection else None  # Eq. 6
        z_individual = self.individual.logit(individual_mid, fuse)
        z_group = self.group.logit(group_mid)

        alpha = Reliability(None, None)
        if self.reliability is not None:
            n_buy = interaction[fields.N_BUY].to(z_group.dtype)
            alpha = self.reliability(self.reliability_inputs(interaction), n_buy)
        gate = alpha.fusion if alpha.fusion is not None else float(s.fusion_gate)
        fused = (1 - gate) * z_individual + gate * z_group  # Eq. 10
        return ChannelOutputs(fused, z_individual, z_group, alpha.distill, alpha.fusion)

    def forward(self, interaction: Interaction) -> torch.Tensor:
        """Fused logit ``[B]`` of each row, whose sigmoid is the prediction (Eq. 1)."""
        return self.channels(interaction).fused

    def distil(self, out: ChannelOutputs, n_buy: torch.Tensor) -> Distilled | None:
        """``L_KD`` (Eq. 7-9) of a batch's outputs and counts ``[B]``; None without distillation."""
        if self.distillation is None or out.group is None:
            return None
        teacher, student = out.individual, out.group
        if self.settings.kd_direction == GROUP_TO_INDIVIDUAL:
            teacher, student = student, teacher
        return self.distillation(teacher, student, n_buy, out.alpha_distill)

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """``BCE(z) + lambda L_KD`` (Eq. 11-12), and the channels' own BCE by their weights."""
        s, out = self.settings, self.channels(interaction)
        loss = self.bce(out.fused, interaction)
        if out.group is None:
            return loss
        n_buy = interaction[fields.N_BUY]
        distilled = self.distil(out, n_buy)
        if distilled is not None:
            loss = loss + s.kd_lambda * distilled.loss
            self.meter.add_distillation(distilled.qualified, distilled.active, out.alpha_distill)
            self._compare_gradients(interaction, out, distilled)
        if s.aux_bce > 0:
            loss = loss + s.aux_bce * self.bce(out.group, interaction)
        if s.aux_bce_individual > 0:
            loss = loss + s.aux_bce_individual * self.bce(out.individual, interaction)
        if out.alpha_fusion is not None:
            self.meter.add_fusion(n_buy, out.alpha_fusion)
        return loss

    @torch.no_grad()
    def _compare_gradients(
        self, interaction: Interaction, out: ChannelOutputs, distilled: Distilled
    ) -> None:
        """Count the gradients of ``lambda L_KD`` and of ``BCE(z)`` where both arrive.

        In closed form, so that no second backward pass is needed. With N rows, y the label, a_f
        alpha_fusion and r = (sigma(z) - y) / N (Eq. 10, 12)::

            dBCE/dz_group = a_f r          dBCE/dz_individual = (1 - a_f) r
            dBCE/da_f     = (z_group - z_individual) r

        A gradient on a gate a is one on its logit by a (1 - a).
        """
        if out.group is None:  # never with a distillation step
            return
        s, fused = self.settings, out.fused.double()
        label = interaction[self.LABEL].to(fused.dtype)
        residual = (torch.sigmoid(fused) - label) / fused.shape[0]
        fusion = out.alpha_fusion
        gate = float(s.fusion_gate) if fusion is None else fusion.double()
        share = 1 - gate if s.kd_direction == GROUP_TO_INDIVIDUAL else gate
        self.meter.add_student_gradients(s.kd_lambda * distilled.student_gradient, share * residual)
        if out.alpha_distill is None or distilled.alpha_gradient is None or fusion is None:
            return
        on_fusion = (out.group.double() - out.individual.double()) * residual * gate * (1 - gate)
        alpha = out.alpha_distill.double()
        on_distill = s.kd_lambda * distilled.alpha_gradient * alpha * (1 - alpha)
        self.meter.add_alpha_gradients(on_distill, on_fusion)

    def on_epoch_start(self, epoch: int) -> None:
        """Start counting the gates and attentions of this epoch."""
        super().on_epoch_start(epoch)
        self.meter.reset()

    def epoch_diagnostics(self) -> dict[str, float]:
        """Gates over the epoch's training rows so far.

        How much distillation weighs next to the BCE of the fused logit, as norms of gradients over
        the rows of the epoch:

        - ``kd_grad_ratio_group``: of ``lambda L_KD`` over that of the BCE, on the logit z_group,
          through which both reach the group channel. With ``kd_direction: group_to_individual`` it
          is ``kd_grad_ratio_individual``, on z_individual, the student there. Losses of a channel's
          own (``aux_bce``) and what a live teacher gets are not in it.
        - ``kd_grad_ratio_alpha``: of ``lambda L_KD`` on the logit of alpha_distill over that of the
          BCE on the logit of alpha_fusion, through which each reaches the reliability network. 0
          with ``kd_alpha_mode: detach``; left out unless both gates are learned.

        A ratio without any gradient of the BCE (``fusion_gate: 0``) is left out.

        ``frac_qualified``, ``frac_margin_active`` (of the qualified), ``mean_alpha_distill``,
        ``mean_alpha_fusion`` and ``mean_alpha_fusion_level_1`` (least active) to ``_5``. The paper
        reports level 1 at about 2.1 times level 5. And what the base class reports of attentions.
        """
        return {**super().epoch_diagnostics(), **self.meter.report()}
