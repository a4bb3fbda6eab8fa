"""The settings of MELT."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from recbole_choir.model.settings.base import WithGroupStats
from recbole_choir.settings.base import Share, Size, Weight, setting

_LAMBDA: Mapping[str, Any] = MappingProxyType({"low": 0.1, "high": 0.4, "step": 0.1})


class MELTSettings(WithGroupStats):
    """MELT (Kim et al., SIGIR 2023, arXiv 2304.08382; code rqlja1107/MELT).

    Base and a sequence encoder that head users and items teach to complete the tail. Adds to Base:
    a SASRec over the history, who is head and tail, the histories before training positives. Leaves
    out: nothing. Its backbone, the control, is both lambdas 0.
    """

    #: The backbone is trained first, with the run's own settings, and MELT goes on from it (code).
    #: That is twice the epochs: a control needs the same (it has, as long as it is MELT with both
    #: lambdas 0), and where the budget must be Base's, set this to null.
    of_run: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"warm_start": {"model": "MELT", "melt_lambda_user": 0.0, "melt_lambda_item": 0.0}}
    )

    melt_lambda_user: Weight = setting(
        0.2, "weight of the user branch", "code: 0.1 to 0.4 by dataset", search=_LAMBDA, shown=True
    )
    melt_lambda_item: Weight = setting(
        0.2, "weight of the item branch", "code: 0.1 to 0.4 by dataset", search=_LAMBDA, shown=True
    )
    melt_tail_user: Share | Literal["evaluation"] = setting(
        0.5,
        "share of users that are tail; evaluation: those of the evaluation",
        "code: .8 on Amazon, .5 elsewhere",
        shown=True,
    )
    melt_tail_item: Share | Literal["evaluation"] = setting(
        0.48,
        "share of items that are tail; evaluation: those of the evaluation",
        "code: .78 on Amazon, .48 elsewhere",
        shown=True,
    )
    melt_transfer: bool = setting(
        True, "what the branches learned completes tail users and items", "paper"
    )
    melt_transfer_from: Annotated[int, Field(ge=0)] = setting(
        1, "first epoch, counted from 0, with e~ of tail items (code: 0 of 160 to 200)"
    )
    melt_merge: Literal["mean", "sum"] = setting(
        "mean",
        "s of tail users: mean, or sum (code) of f and W_U f; a dot product ranks both alike",
    )
    melt_detach_target: bool = setting(
        True,
        "no gradient into f(all) and e_i (code: False); otherwise f shrinks to please L_U",
    )
    melt_blocks: Size = setting(2, "Transformer blocks; its width is embedding_size", "code")
    melt_heads: Size = setting(1, "heads", "code")
    melt_dropout: Annotated[float, Field(ge=0, le=0.999)] = setting(
        0.5, "dropout within the Transformer", "code"
    )
    melt_contexts: Size = setting(
        50, "contexts kept of a head item, drawn at random; tail items keep all"
    )
    melt_contexts_per_step: Size = setting(256, "contexts of head items encoded at a step")
    melt_users_per_step: Size = setting(128, "head users whose recent history is encoded at a step")
