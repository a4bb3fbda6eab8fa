"""What all models of this package have: embeddings, target attention, towers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from recbole_choir.settings.base import Settings, Size, Weight, Widths, setting

AttType = Literal["sigmoid", "cosine", "dot", "mlp", "mlp_sum"]
TowerWidths = Annotated[
    tuple[Size, ...],
    Field(min_length=2),
    BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v),
]


class SharedSettings(Settings):
    """Embeddings, target attention and towers, of every model of this package."""

    #: Defaults of the run's own keys that this model has otherwise than the others.
    of_run: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    embedding_size: Size = setting(
        16,
        "d of every id and attribute (the papers are silent; 16 or 32)",
        "baselines 1",
        shown=True,
    )
    embedding_init_std: Weight = setting(
        0.05, "standard deviation of fresh embeddings: small, so that untrained ids stay near zero"
    )
    mlp_hidden_size: TowerWidths = setting(
        (256, 128, 64),
        "first block (h_mid), then the tower; at least two widths",
        "C24",
        shown=True,
    )
    tower_width_multiplier: Annotated[float, Field(ge=1e-3)] = setting(
        1.0, "scales mlp_hidden_size, for a control of equal cost"
    )
    dropout_prob: Annotated[float, Field(ge=0, le=0.999)] = setting(
        0.1,
        "dropout after every hidden layer",
        "baselines 1",
        shown=True,
    )
    att_type: AttType = setting(
        "sigmoid",
        "target attention: sigmoid (weights without normalisation), cosine (softmax over cosines), "
        "dot (AKT-Rec Eq. 8), mlp and mlp_sum (DIN's activation unit, normalised or summed); "
        "chosen on validation, docs/core.md",
        shown=True,
    )
    att_hidden_size: Widths = setting(
        (80, 40), "hidden widths of att_type mlp and mlp_sum", "baselines 1"
    )
    att_scale: bool = setting(True, "att_type dot divides products by sqrt of the token width")
