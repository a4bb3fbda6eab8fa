"""The settings of AKTRec and its variants, resolved and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from recbole_choir.errors import ConfigError
from recbole_choir.model.aktrec.adaptive_embedding import UNSEEN_GATES
from recbole_choir.model.aktrec.cluster_average import MODES as CLUST_MODES
from recbole_choir.model.aktrec.cluster_average import WEIGHTS as CLUST_WEIGHTS
from recbole_choir.model.aktrec.cluster_embedding import MODES as CLUSTER_EMB
from recbole_choir.model.aktrec.cluster_start import INITS as CLUSTER_INIT
from recbole_choir.model.aktrec.view_fusion import FUSIONS
from recbole_choir.settings.model import (
    ConfigLike,
    read,
    read_bool,
    read_choice,
    read_number,
    read_size,
    read_sizes,
)

RANKERS: Final = ("mlp", "mmoe")
LEARNED: Final = "learned"

# Every setting a variant decides. In a YAML or on the command line, null means "as the variant
# says" and any other value wins over the variant.
_PAPER: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "use_individual_emb": True,
        "use_cluster_emb": True,
        "cgae_gate": LEARNED,
        "use_instance_view": True,
        "use_cluster_view": True,
        "hfa_gate": LEARNED,
        "cluster_emb": "per_id",
        "cluster_init": "levels",
        "r_dim": 1,
        "unseen_gate": "gate",
        "use_trans": True,
        "lambda1": 0.01,
        "lambda2": 0.1,
        "trans_temperature": 0.1,
        "detach_negatives": True,
        "use_ortho": True,
        "lambda_ortho": 0.01,
        "clust_mode": "snapshot",
        "clust_weight": "uniform",
        "use_cluster_seq": True,
        "hfa_fusion": "gated_sum",
        "ranker": "mlp",
        "use_content": False,
        "use_codes": False,
        "use_cluster_stats": False,
    }
)
# Beyond the paper; what it gains stands in docs/results.md.
_PLUS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "cluster_init": "centroid",
        "hfa_fusion": "concat",
        "use_content": True,
        "use_cluster_stats": True,
    }
)
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"paper": _PAPER, "plus": {**_PAPER, **_PLUS}}
)


@dataclass(frozen=True)
class AKTSettings:
    """All settings of AKTRec that are not shared with Base.

    The attributes are explained one by one in ``properties/model/AKTRec.yaml``.
    """

    variant: str
    use_individual_emb: bool
    use_cluster_emb: bool
    cgae_gate: float | str
    use_instance_view: bool
    use_cluster_view: bool
    hfa_gate: float | str
    cluster_emb: str
    cluster_init: str
    r_dim: int | str
    unseen_gate: str
    use_trans: bool
    lambda1: float
    lambda2: float
    trans_temperature: float
    detach_negatives: bool
    trans_max_anchors: int
    use_ortho: bool
    lambda_ortho: float
    clust_mode: str
    clust_weight: str
    clust_refresh: int
    clust_keep: float
    use_cluster_seq: bool
    hfa_fusion: str
    ranker: str
    n_experts: int
    use_content: bool
    use_codes: bool
    use_cluster_stats: bool
    gate_hidden: tuple[int, ...]
    fusion_hidden: tuple[int, ...]

    @property
    def needs(self) -> frozenset[str]:
        """What a dataset must provide: nothing, or ``groups`` and ``items``, and ``clusters``."""
        if self.use_cluster_emb or self.use_cluster_view or self.use_cluster_stats:
            return frozenset({"groups", "items", "clusters"})
        if self.use_content or self.use_codes:
            return frozenset({"groups", "items"})
        return frozenset()

    @classmethod
    def from_config(cls, config: ConfigLike) -> AKTSettings:
        """Resolve the settings: the variant's values, then every value that is not null.

        Some settings imply others. ``use_cluster_emb: False`` turns L_trans and L_ortho off;
        ``use_individual_emb: False`` turns L_ortho off and makes ``cluster_emb`` shared unless that
        is given; ``use_instance_view: False`` makes ``clust_mode`` grad unless that is given.
        Asking for a loss that has nothing to act on is an error.

        Args:
            config: The run's configuration.

        Raises:
            ConfigError: For a wrong value or a contradiction.
        """
        variant = read_choice(config, "variant", "paper", tuple(VARIANTS))
        values = dict(VARIANTS[variant])

        def flag(key: str) -> bool:
            return read_bool(config, key, values[key])

        def number(key: str, low: float = 0.0, high: float = float("inf")) -> float:
            return read_number(config, key, values[key], low, high)

        def choice(key: str, choices: tuple[str, ...]) -> str:
            return read_choice(config, key, values[key], choices)

        if not flag("use_cluster_emb"):
            off = {"use_trans": False, "use_ortho": False}
            _imply(config, values, "use_cluster_emb: False", off)
        if not flag("use_individual_emb"):
            _imply(config, values, "use_individual_emb: False", {"use_ortho": False})
            values["cluster_emb"] = "shared"
        if not flag("use_instance_view"):
            # Detached averages would leave everything behind the user's features untrained.
            values["clust_mode"] = "grad"
        for one, other in (
            ("use_individual_emb", "use_cluster_emb"),
            ("use_instance_view", "use_cluster_view"),
        ):
            if not flag(one) and not flag(other):
                raise ConfigError(f"{other}: {one}: False expects True or null, got False")
        return cls(
            variant=variant,
            use_individual_emb=flag("use_individual_emb"),
            use_cluster_emb=flag("use_cluster_emb"),
            cgae_gate=_gate(config, "cgae_gate", values),
            use_instance_view=flag("use_instance_view"),
            use_cluster_view=flag("use_cluster_view"),
            hfa_gate=_gate(config, "hfa_gate", values),
            cluster_emb=choice("cluster_emb", CLUSTER_EMB),
            cluster_init=choice("cluster_init", CLUSTER_INIT),
            r_dim=_r_dim(config, values),
            unseen_gate=choice("unseen_gate", UNSEEN_GATES),
            use_trans=flag("use_trans"),
            lambda1=number("lambda1"),
            lambda2=number("lambda2"),
            trans_temperature=number("trans_temperature", 1e-3),
            detach_negatives=flag("detach_negatives"),
            trans_max_anchors=read_size(config, "trans_max_anchors", 256),
            use_ortho=flag("use_ortho"),
            lambda_ortho=number("lambda_ortho"),
            clust_mode=choice("clust_mode", CLUST_MODES),
            clust_weight=choice("clust_weight", CLUST_WEIGHTS),
            clust_refresh=read_size(config, "clust_refresh", 200),
            clust_keep=read_number(config, "clust_keep", 0.9, 0.0, 1.0),
            use_cluster_seq=flag("use_cluster_seq"),
            hfa_fusion=choice("hfa_fusion", FUSIONS),
            ranker=choice("ranker", RANKERS),
            n_experts=read_size(config, "n_experts", 4),
            use_content=flag("use_content"),
            use_codes=flag("use_codes"),
            use_cluster_stats=flag("use_cluster_stats"),
            gate_hidden=read_sizes(config, "gate_hidden", (16,)),
            fusion_hidden=read_sizes(config, "fusion_hidden", (32, 16)),
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


def _gate(config: ConfigLike, key: str, values: Mapping[str, Any]) -> float | str:
    value = read(config, key)
    value = values[key] if value is None else value
    if value == LEARNED:
        return LEARNED
    if isinstance(value, str):
        raise ConfigError(f"{key}: expected learned or a number in [0, 1], got {value!r}")
    return read_number(config, key, 0.0, 0.0, 1.0)


def _r_dim(config: ConfigLike, values: Mapping[str, Any]) -> int | str:
    value = read(config, "r_dim")
    value = values["r_dim"] if value is None else value
    if value not in (1, "m") or isinstance(value, bool):
        raise ConfigError(f"r_dim: expected 1 or m, got {value!r}")
    return value
