"""The settings of ChoirRec and its variants, resolved and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from recbole_choir.errors import ConfigError
from recbole_choir.model.choirrec.distillation import ALPHA_MODES, KD_LOSSES, REDUCTIONS
from recbole_choir.settings.model import (
    ConfigLike,
    read,
    read_bool,
    read_choice,
    read_number,
    read_size,
    read_sizes,
)

INDIVIDUAL_TO_GROUP: Final = "individual_to_group"
GROUP_TO_INDIVIDUAL: Final = "group_to_individual"

# Every setting a variant decides. In a YAML or on the command line, null means "as the variant
# says" and any other value wins over the variant.
_PAPER: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "use_llm_emb": True,
        "use_group_id": True,
        "use_group_attr": True,
        "use_group_seq": True,
        "use_group_stats": False,
        "use_lifts": False,
        "use_own_scores": False,
        "group_channel": "full",
        "use_dual_channel": True,
        "use_injection": True,
        "inject_stopgrad": True,
        "use_kd": True,
        "kd_loss": "margin",
        "kd_direction": INDIVIDUAL_TO_GROUP,
        "kd_lambda": 0.005,
        "kd_temperature": 2.0,
        "kd_margin": 0.05,
        "kd_alpha_mode": "literal",
        "kd_reduction": "mean",
        "kd_detach_teacher": True,
        "use_qual_gate": True,
        "use_alpha_distill": True,
        "theta_conf": 0.1,
        "fusion_gate": "learned",
        "fusion_bias_init": -0.5,
        "eg_normalize": True,
        "eg_scale": 1.0,
        "attr_impute": False,
        "aux_bce": 0.0,
        "aux_bce_individual": 0.0,
    }
)
# The authors' demo, as far as a model can follow it (the rest is in how its tables are made:
# sequences of top categories, modes only, random split).
_RELEASED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "kd_direction": GROUP_TO_INDIVIDUAL,
        "kd_temperature": 1.0,
        "kd_margin": 0.0,
        "eg_normalize": False,
    }
)
# Beyond the paper: the group channel sees as-of group statistics alone.
_STATS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "group_channel": "stats",
        "use_group_id": False,
        "use_group_attr": False,
        "use_group_seq": False,
        "use_group_stats": True,
        "use_injection": False,
        "use_kd": False,
        "aux_bce": 0.3,
    }
)
# Soft groups: the group channel sees the lifts of the user's neighbourhood alone. They say so much
# of users who are known that the individual channel would learn little of its own, and nothing for
# those who are not: hence its own loss.
_SOFT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **_STATS,
        "group_channel": "soft",
        "use_group_stats": False,
        "use_lifts": True,
        "aux_bce_individual": 3.0,
    }
)
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "paper": _PAPER,
        "released": {**_PAPER, **_RELEASED},
        "stats": {**_PAPER, **_STATS},
        "soft": {**_PAPER, **_SOFT},
    }
)
# What a lean group channel reads of its groups, and nothing else of them.
_LEAN: Final[Mapping[str, str]] = MappingProxyType(
    {"stats": "use_group_stats", "soft": "use_lifts"}
)
GROUP_CHANNELS: Final = ("full", *_LEAN)


@dataclass(frozen=True)
class ChoirRecSettings:
    """All settings of ChoirRec that are not shared with Base.

    The attributes are explained one by one in ``properties/model/ChoirRec.yaml``.
    """

    variant: str
    use_llm_emb: bool
    use_group_id: bool
    use_group_attr: bool
    use_group_seq: bool
    use_group_stats: bool
    use_lifts: bool
    use_own_scores: bool
    group_channel: str
    use_dual_channel: bool
    use_injection: bool
    inject_stopgrad: bool
    use_kd: bool
    kd_loss: str
    kd_direction: str
    kd_lambda: float
    kd_temperature: float
    kd_margin: float
    kd_alpha_mode: str
    kd_reduction: str
    kd_detach_teacher: bool
    use_qual_gate: bool
    use_alpha_distill: bool
    theta_act: float | None
    theta_conf: float
    fusion_gate: float | Literal["learned"]
    fusion_bias_init: float
    eg_normalize: bool
    eg_scale: float
    attr_impute: bool
    aux_bce: float
    aux_bce_individual: float
    group_code_size: int
    group_id_hidden: int
    group_id_size: int
    injection_hidden: int
    reliability_hidden: tuple[int, ...]
    reliability_bucket_size: int

    @property
    def reads_groups(self) -> bool:
        """Whether the model itself reads the group tables."""
        return self.use_group_id or self.use_group_attr or self.use_group_seq or self.attr_impute

    @classmethod
    def from_config(cls, config: ConfigLike) -> ChoirRecSettings:
        """Resolve the settings: the variant's values, then every value that is not null.

        Two settings imply others. ``group_channel: stats`` turns the group's id, attributes and
        sequence off and its statistics on, ``group_channel: soft`` the lifts of soft groups;
        ``use_dual_channel: False`` turns distillation, injection and the auxiliary losses off.
        Asking for one of these all the same is an error.

        Args:
            config: The run's configuration.

        Raises:
            ConfigError: For a wrong value or a contradiction.
        """
        variant = read_choice(config, "variant", "paper", tuple(VARIANTS))
        values = dict(VARIANTS[variant])
        channel = read_choice(config, "group_channel", values["group_channel"], GROUP_CHANNELS)
        if channel in _LEAN:
            implied = dict.fromkeys(("use_group_id", "use_group_attr", "use_group_seq"), False)
            _imply(config, values, f"group_channel: {channel}", {**implied, _LEAN[channel]: True})
        if not read_bool(config, "use_dual_channel", values["use_dual_channel"]):
            implied = dict.fromkeys(("use_kd", "use_injection"), False)
            losses = {"aux_bce": 0.0, "aux_bce_individual": 0.0}
            _imply(config, values, "use_dual_channel: False", {**implied, **losses})

        def flag(key: str) -> bool:
            return read_bool(config, key, values[key])

        def number(key: str, low: float = 0.0, high: float = float("inf")) -> float:
            return read_number(config, key, values[key], low, high)

        def choice(key: str, choices: tuple[str, ...]) -> str:
            return read_choice(config, key, values[key], choices)

        return cls(
            variant=variant,
            use_llm_emb=flag("use_llm_emb"),
            use_group_id=flag("use_group_id"),
            use_group_attr=flag("use_group_attr"),
            use_group_seq=flag("use_group_seq"),
            use_group_stats=flag("use_group_stats"),
            use_lifts=flag("use_lifts"),
            use_own_scores=flag("use_own_scores"),
            group_channel=choice("group_channel", GROUP_CHANNELS),
            use_dual_channel=flag("use_dual_channel"),
            use_injection=flag("use_injection"),
            inject_stopgrad=flag("inject_stopgrad"),
            use_kd=flag("use_kd"),
            kd_loss=choice("kd_loss", KD_LOSSES),
            kd_direction=choice("kd_direction", (INDIVIDUAL_TO_GROUP, GROUP_TO_INDIVIDUAL)),
            kd_lambda=number("kd_lambda"),
            kd_temperature=number("kd_temperature", 1e-3),
            kd_margin=number("kd_margin", 0.0, 1.0),
            kd_alpha_mode=choice("kd_alpha_mode", ALPHA_MODES),
            kd_reduction=choice("kd_reduction", REDUCTIONS),
            kd_detach_teacher=flag("kd_detach_teacher"),
            use_qual_gate=flag("use_qual_gate"),
            use_alpha_distill=flag("use_alpha_distill"),
            theta_act=_optional_number(config, "theta_act"),
            theta_conf=number("theta_conf", 0.0, 0.5),
            fusion_gate=_fusion_gate(config, values["fusion_gate"]),
            fusion_bias_init=number("fusion_bias_init", float("-inf")),
            eg_normalize=flag("eg_normalize"),
            eg_scale=number("eg_scale"),
            attr_impute=flag("attr_impute"),
            aux_bce=number("aux_bce"),
            aux_bce_individual=number("aux_bce_individual"),
            group_code_size=read_size(config, "group_code_size", 32),
            group_id_hidden=read_size(config, "group_id_hidden", 64),
            group_id_size=read_size(config, "group_id_size", 32),
            injection_hidden=read_size(config, "injection_hidden", 32),
            reliability_hidden=read_sizes(config, "reliability_hidden", (32, 16)),
            reliability_bucket_size=read_size(config, "reliability_bucket_size", 8),
        )


def _imply(
    config: ConfigLike, values: dict[str, Any], cause: str, implied: Mapping[str, Any]
) -> None:
    """Set implied values; refuse an explicit one that contradicts them."""
    for key, value in implied.items():
        asked = read(config, key)
        if asked is not None and asked != value:
            raise ConfigError(f"{key}: {cause} expects {value} or null, got {asked!r}")
        values[key] = value


def _optional_number(config: ConfigLike, key: str) -> float | None:
    if read(config, key) is None:
        return None
    return read_number(config, key, 0.0, 0.0)


def _fusion_gate(config: ConfigLike, default: str) -> float | Literal["learned"]:
    value = read(config, "fusion_gate")
    if (default if value is None else value) == "learned":
        return "learned"
    if isinstance(value, str):
        raise ConfigError(f"fusion_gate: expected learned or a number in [0, 1], got {value!r}")
    return read_number(config, "fusion_gate", 0.0, 0.0, 1.0)
