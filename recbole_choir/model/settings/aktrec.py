"""The settings of AKTRec and its variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from recbole_choir.model.settings.shared import SharedSettings
from recbole_choir.settings.base import Gate, Implied, Share, Size, Weight, Widths, setting

ClusterInit = Literal["levels", "centroid", "random"]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("one of 1, m")  # True equals 1
    return value


class AKTRecSettings(SharedSettings):
    """AKT-Rec (Yan et al.), section 3.2; what the paper leaves open: docs/gaps.md, A1 to A24.

    Variants: ``paper``: the paper, with docs/gaps.md where it is silent. ``plus``: the aligned
    content vector in every item token, cluster embeddings started from centroids of content
    vectors, the as-of cluster statistics as inputs, the cluster view concatenated; beyond the
    paper: better than it on public data, not than its random control (docs/results.md).
    """

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {},
            "plus": {
                "cluster_init": "centroid",
                "hfa_fusion": "concat",
                "use_content": True,
                "use_cluster_stats": True,
            },
        }
    )
    follows: ClassVar[frozenset[str]] = frozenset(
        {"use_trans", "use_ortho", "cluster_emb", "clust_mode"}
    )
    #: Ids and vectors of items, users by interest (3.1); properties/semantic/akt.yaml.
    of_run: ClassVar[Mapping[str, Any]] = MappingProxyType({"semantic_recipe": "akt"})

    variant: Literal["paper", "plus"] = setting(
        "paper", "a set of values for the settings below; any value given wins over it", shown=True
    )

    # The rows of Table 2
    use_individual_emb: bool = setting(
        True,
        "False: w/o individual emb.: e = c, shared by the cluster, no L_ortho; with cluster_emb "
        "per_id as well, e = c of the id's own",
        "paper, Table 2",
    )
    use_cluster_emb: bool = setting(
        True, "False: w/o cluster emb.: e = d, no L_trans, no L_ortho", "paper, Table 2"
    )
    cgae_gate: Gate = setting(
        "learned",
        "learned: r by activity, Eq. 6; a number: a constant r; 0.5: w/o CGAE gate",
        "paper 3.2.1",
    )
    use_instance_view: bool = setting(
        True,
        "False: w/o instance-level feature: alpha = 1, zeros where there is no cluster; then "
        "clust_mode is grad unless it is given, or nothing would train the users' features",
        "paper, Table 2",
    )
    use_cluster_view: bool = setting(
        True, "False: w/o cluster-level feature: alpha = 0", "paper, Table 2"
    )
    hfa_gate: Gate = setting(
        "learned",
        "learned: alpha by activity, Eq. 10; a number: a constant; 0.5: w/o HFA gate. Either way "
        "alpha is 0 in the slots of a row that have no cluster",
        "paper 3.2.3",
    )

    # Cluster-guided adaptive embedding (3.2.1)
    cluster_emb: Literal["per_id", "shared", "shared_plus_delta"] = setting(
        "per_id",
        "c of an id: its own, started at its cluster's; shared by the cluster; or shared plus a "
        "delta; per_id is the only one in which Eq. 4 has a direction",
        "A1",
    )
    cluster_init: ClusterInit = setting(
        "levels",
        "c starts from: random vectors of its codes, summed; its cluster's mean content vector, "
        "projected; or random",
        "A1",
    )
    r_dim: Annotated[Literal[1, "m"], BeforeValidator(_no_bool)] = setting(
        1, "gates an id: 1, or m for one a dimension", "A8"
    )
    unseen_gate: Literal["gate", "one"] = setting(
        "gate",
        "r of an id without a training row: gate: by its activity, as for any id; one: r = 1, "
        "which puts a barely trained c at full weight",
        "A2",
    )
    use_trans: bool = setting(True, "the transfer loss, Eq. 4", "paper 3.2.1")
    lambda1: Weight = setting(
        0.01, "weight of head anchors in Eq. 4 (paper: lambda1 < lambda2)", "A6"
    )
    lambda2: Weight = setting(
        0.1,
        "weight of tail anchors in Eq. 4",
        "A6",
        search={"choices": [0.03, 0.1, 0.3, 1.0]},
        shown=True,
    )
    trans_temperature: Annotated[float, Field(ge=1e-3)] = setting(0.1, "tau of Eq. 4", "A3")
    detach_negatives: bool = setting(
        True, "False: negatives of Eq. 4 get a gradient, tails then move heads", "A5"
    )
    use_ortho: bool = setting(True, "the orthogonality loss, Eq. 5", "paper 3.2.1")
    lambda_ortho: Weight = setting(
        0.01,
        "lambda of Eq. 12",
        "A6",
        search={"low": 0.001, "high": 0.1, "log": True},
        shown=True,
    )

    # Hierarchical feature aggregation and fusion (3.2.2, 3.2.3)
    clust_mode: Literal["snapshot", "grad", "ema"] = setting(
        "snapshot",
        "averages of Eq. 9: exact and constant, renewed now and then; grad: at every step with its "
        "gradient; ema: moved by the batches' members",
        "A15",
    )
    clust_weight: Literal["uniform", "logfreq"] = setting(
        "uniform", "members of a cluster count alike, or by log exposures", "A16"
    )
    use_cluster_seq: bool = setting(
        True, "attention over the cluster's behaviour on items like the candidate", "A17"
    )
    hfa_fusion: Literal["gated_sum", "concat"] = setting(
        "gated_sum",
        "gated_sum: Eq. 10; concat: both views, no gate; zeros for the cluster view where there is "
        "no cluster",
        "paper 3.2.3; A20",
    )
    ranker: Literal["mlp", "mmoe"] = setting(
        "mlp", "the ranking network F: mlp, or a mixture of experts"
    )

    # What items and rows know of semantics, clusters apart
    use_content: bool = setting(
        False,
        "Linear(t_i) of the content vector in every item token; without this and cluster_init "
        "centroid no content vector is read, as in the paper",
    )
    use_codes: bool = setting(
        False, "an embedding of the code at each level in every item token and for users"
    )
    use_cluster_stats: bool = setting(
        False,
        "as-of statistics of user and item clusters as inputs, and the group statistics where "
        "there are some (group_stats: True); not in the paper",
    )

    # Sizes the paper does not give
    gate_hidden: Widths = setting((16,), "hidden widths of G_1, Eq. 6")
    fusion_hidden: Widths = setting((32, 16), "hidden widths of G_2, Eq. 10")
    trans_max_anchors: Size = setting(
        256,
        "ids a side and batch in Eq. 4, drawn from those with a partner; the cost grows with the "
        "square: 0.1, 0.3, 0.8 of a step of Base for 256, 512, 1024",
    )
    clust_refresh: Size = setting(
        200, "R: training steps between two computations of clust_mode snapshot", "A15"
    )
    clust_keep: Share = setting(0.9, "share of the old average that clust_mode ema keeps at a step")
    n_experts: Size = setting(4, "experts of ranker mmoe")

    @property
    def needs(self) -> frozenset[str]:
        """What a dataset must provide: nothing, or ``groups`` and ``items``, and ``clusters``."""
        if self.use_cluster_emb or self.use_cluster_view or self.use_cluster_stats:
            return frozenset({"groups", "items", "clusters"})
        if self.use_content or self.use_codes:
            return frozenset({"groups", "items"})
        return frozenset()

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> Iterator[Implied]:
        """What the rows of Table 2 take away with them."""
        if values["use_cluster_emb"] is False:
            yield Implied("use_cluster_emb: False", {"use_trans": False, "use_ortho": False})
        if values["use_individual_emb"] is False:
            cause = "use_individual_emb: False"
            yield Implied(cause, {"use_ortho": False})
            yield Implied(cause, {"cluster_emb": "shared"}, firm=False)
        if values["use_instance_view"] is False:
            # Detached averages would leave everything behind the user's features untrained.
            yield Implied("use_instance_view: False", {"clust_mode": "grad"}, firm=False)

    def contradictions(self) -> Iterator[str]:
        """One of two embeddings, and one of two views, must be left."""
        for one, other in (
            ("use_individual_emb", "use_cluster_emb"),
            ("use_instance_view", "use_cluster_view"),
        ):
            if not getattr(self, one) and not getattr(self, other):
                yield f"{other}: {one}: False expects True or null, got False"
