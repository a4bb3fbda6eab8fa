"""The settings of ChoirRec and its variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from recbole_choir.model.settings.shared import SharedSettings
from recbole_choir.settings.base import Gate, Implied, Size, Weight, Widths, setting

AlphaMode = Literal["literal", "selfnorm", "detach"]
Reduction = Literal["mean", "sum"]
INDIVIDUAL_TO_GROUP: Final = "individual_to_group"
GROUP_TO_INDIVIDUAL: Final = "group_to_individual"

# The authors' demo, as far as a model can follow it (the rest is in how its tables are made:
# sequences of top categories, modes only, random split).
_RELEASED: Final[Mapping[str, Any]] = {
    "kd_direction": GROUP_TO_INDIVIDUAL,
    "kd_temperature": 1.0,
    "kd_margin": 0.0,
    "eg_normalize": False,
}
# Beyond the paper: the group channel sees as-of group statistics alone.
_STATS: Final[Mapping[str, Any]] = {
    "group_channel": "stats",
    "use_group_id": False,
    "use_group_attr": False,
    "use_group_seq": False,
    "use_group_stats": True,
    "use_injection": False,
    "use_kd": False,
    "aux_bce": 0.3,
}
# Soft groups: the group channel sees the lifts of the user's neighbourhood alone. They say so much
# of users who are known that the individual channel would learn little of its own, and nothing for
# those who are not: hence its own loss.
_SOFT: Final[Mapping[str, Any]] = {
    **_STATS,
    "group_channel": "soft",
    "use_group_stats": False,
    "use_lifts": True,
    "aux_bce_individual": 3.0,
}
# What a lean group channel reads of its groups, and nothing else of them.
_LEAN: Final[Mapping[str, str]] = {"stats": "use_group_stats", "soft": "use_lifts"}


class ChoirRecSettings(SharedSettings):
    """ChoirRec (Zhai et al.), sections 4.3.1 and 4.4.

    Variants: ``paper``: the paper, with docs/gaps.md where it is silent. ``released``: the authors'
    demo as far as a model can follow it: distils from the group to the individual channel, no
    temperature and no margin, no L2 norm (its group sequence holds items of top categories instead
    of popular items in time order: that is the table's part). ``stats``: the group channel sees the
    as-of group statistics, the item and the context only, with an auxiliary loss; no distillation,
    no injection; beyond the paper, needs group_stats: True. ``soft``: as stats, with the lifts of
    soft groups (semantic_recipe soft or soft_factors) in place of group statistics; beyond the
    paper, docs/soft-groups.md.
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"paper": {}, "released": _RELEASED, "stats": _STATS, "soft": _SOFT}
    )
    #: The paper's training (5.1) as a preset, --training=paper. On public data its ids stay close
    #: to where they started; hundreds of millions of users are another matter.
    of_run: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "training_presets": {
                "paper": {
                    "learner": "adagrad",
                    "learning_rate": 0.01,  # "gradually decays" from 0.01 ...
                    "lr_schedule": "linear",
                    "lr_final": 0.001,  # ... to 0.001
                    "adagrad_initial_accumulator": 0.1,  # TensorFlow's default (C7)
                    "weight_decay": 0.0,  # the paper names none
                    "embedding_decay": 0.0,  # the paper names none
                    "train_batch_size": 1024,
                }
            }
        }
    )

    variant: Literal["paper", "released", "stats", "soft"] = setting(
        "paper", "a set of values for the settings below; any value given wins over it", shown=True
    )

    # Hierarchical semantic group generation (Table 2, first block)
    use_llm_emb: bool = setting(
        True,
        "False: w/o LLM Emb., groups from a trained Base's user vectors; read by the runner, which "
        "builds that table (C28); the model is the same",
        "paper, Table 2",
    )

    # Group-aware hierarchical representation (Table 2, second block)
    use_group_id: bool = setting(True, "the group id vector e_G, Eq. 4-5", "paper 4.3.1")
    use_group_attr: bool = setting(True, "the group's attributes e_P_G", "paper 4.3.2; C16 a")
    use_group_seq: bool = setting(
        True, "attention over the group's sequence S_G", "paper 4.3.3; C18"
    )
    use_group_stats: bool = setting(False, "as-of group statistics; not in the paper")
    use_lifts: bool = setting(False, "lifts of soft groups; not in the paper")
    use_own_scores: bool = setting(
        False,
        "also the user's own as-of SVD scores, which know what neighbours smooth away; not in the "
        "paper; needs a recipe with soft.own_vectors: true",
    )
    group_channel: Literal["full", "stats", "soft"] = setting(
        "full",
        "stats, soft: implies id, attributes and sequence off, and group statistics or lifts on",
    )
    attr_impute: bool = setting(
        False, "also fill users' missing attributes from the group", "C16 b"
    )
    eg_normalize: bool = setting(True, "L2-normalise e_G", "paper 4.3.1")
    eg_scale: Weight = setting(
        1.0, "factor on e_G after the norm: its entries are about .18", "C15"
    )

    # Group-aware multi-granularity module (Table 2, third block)
    use_dual_channel: bool = setting(
        True,
        "False: w/o Dual-Channel, one tower with all inputs; implies no distillation, injection or "
        "auxiliary loss",
        "paper 4.4; C27",
    )
    use_injection: bool = setting(True, "False: w/o Asymmetric Injection, Eq. 6", "paper 4.4.1")
    inject_stopgrad: bool = setting(True, "stop the gradient into the group channel", "C2")
    use_kd: bool = setting(True, "False: w/o Gated Distillation", "paper 4.4.2; C25")
    kd_loss: Literal["margin", "kl"] = setting(
        "margin", "margin: Eq. 7; kl: w/ KL Loss", "paper 4.4.2; C26"
    )
    kd_direction: Literal["individual_to_group", "group_to_individual"] = setting(
        INDIVIDUAL_TO_GROUP, "who teaches; the teacher's logit is the one that must be confident"
    )
    kd_lambda: Weight = setting(
        0.005,
        "weight of L_KD",
        "paper, Fig. 6b",
        search={"low": 0.0005, "high": 0.05, "log": True},
        shown=True,
    )
    kd_temperature: Annotated[float, Field(ge=1e-3)] = setting(2.0, "T of Eq. 7", "C5")
    kd_margin: Annotated[float, Field(ge=0, le=1)] = setting(
        0.05, "m of Eq. 7; 0: w/o Margin", "C5, C6"
    )
    kd_alpha_mode: AlphaMode = setting(
        "literal", "alpha of Eq. 9; literal: as printed", "paper 4.4.2; C7"
    )
    kd_reduction: Reduction = setting(
        "mean",
        "L_KD's rows: their mean, or their sum over the batch, which is N times as much; which of "
        "the two the paper's lambda is for: docs/gaps.md, C8",
        "C8",
    )
    kd_detach_teacher: bool = setting(True, "the teacher learns nothing from the student", "C4")
    use_qual_gate: bool = setting(True, "the hard gate, Eq. 8", "paper 4.4.2")
    use_alpha_distill: bool = setting(
        True, "the soft gate of Eq. 9; both gates off: kd_no_gates", "paper 4.4.2; C25"
    )
    theta_act: Weight | None = setting(
        None,
        "purchases that qualify a user; null: the 80th percentile of the training rows' users",
        "C5",
    )
    theta_conf: Annotated[float, Field(ge=0, le=0.5)] = setting(
        0.1, "|sigma(z) - .5| that qualifies a row", "C5"
    )
    fusion_gate: Gate = setting(
        "learned", "learned: Eq. 10; a number: a constant alpha_fusion", "paper 4.4.3"
    )
    fusion_bias_init: float = setting(-0.5, "alpha_fusion starts at about .38", "C9, C22")
    aux_bce: Weight = setting(0.0, "weight of a BCE on the group logit; not in the paper", "C21")
    aux_bce_individual: Weight = setting(0.0, "the same on the individual logit")

    # Sizes the paper does not give
    group_code_size: Size = setting(32, "d_e of a level's table", "C14")
    group_id_hidden: Size = setting(64, "hidden width of the MLP after the fusion", "C15")
    group_id_size: Size = setting(32, "width of e_G", "C15")
    injection_hidden: Size = setting(
        32, "hidden width of Eq. 6, that of e_G, to keep its cost down"
    )
    reliability_hidden: Widths = setting((32, 16), "the activity tower", "C9")
    reliability_bucket_size: Size = setting(8, "embedding of the bucket of n_buy", "C9")

    @property
    def reads_groups(self) -> bool:
        """Whether the model itself reads the group tables."""
        return self.use_group_id or self.use_group_attr or self.use_group_seq or self.attr_impute

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> Iterator[Implied]:
        """A lean group channel reads one thing of groups; one channel has nothing to distil."""
        channel = values["group_channel"]
        if isinstance(channel, str) and channel in _LEAN:
            off = dict.fromkeys(("use_group_id", "use_group_attr", "use_group_seq"), False)
            yield Implied(f"group_channel: {channel}", {**off, _LEAN[channel]: True})
        if values["use_dual_channel"] is False:
            off = dict.fromkeys(("use_kd", "use_injection"), False)
            none = {"aux_bce": 0.0, "aux_bce_individual": 0.0}
            yield Implied("use_dual_channel: False", {**off, **none})
