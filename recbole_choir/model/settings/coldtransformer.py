"""The settings of ColdTransformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from recbole_choir.model.settings.base import WithGroupStats
from recbole_choir.settings.base import Size, setting


class ColdTransformerSettings(WithGroupStats):
    """Cold-Transformer (Li et al., SIGIR 2022): user embeddings adapted by labelled behaviour.

    Adds to Base: the user's last labelled exposures (positives only where negatives are sampled),
    EA, LE. Leaves out: nothing; with ct_head two_tower the attention over the history. EA and all
    sizes of the paper could not be read.
    """

    #: Its sequence: all labelled events before the row, the last history_length of them.
    of_run: ClassVar[Mapping[str, Any]] = MappingProxyType({"labelled_history": True})

    ct_head: Literal["base", "two_tower"] = setting(
        "base", "base: Base's tower; two_tower: user and item decoupled (paper)", shown=True
    )
    ct_adaptation: bool = setting(
        True,
        "EA; False: c is one more input of Base, a control with the same data",
        "paper",
        shown=True,
    )
    ct_size: Size = setting(16, "d, of tokens and of c; the embedding size, as all sizes here")
    ct_blocks: Size = setting(1, "Transformer blocks")
    ct_heads: Size = setting(2, "heads")
    ct_dropout: Annotated[float, Field(ge=0, le=0.999)] = setting(
        0.1, "dropout within the Transformer", search={"low": 0.0, "high": 0.5, "step": 0.1}
    )

    def contradictions(self) -> Iterator[str]:
        """Heads divide the width; two towers have no place for what joins user and item."""
        if self.ct_size % self.ct_heads:
            yield f"ct_size: expected a multiple of ct_heads ({self.ct_heads}), got {self.ct_size}"
        if self.use_group_stats and self.ct_head == "two_tower":
            yield (
                "use_group_stats: expected False with ct_head: two_tower (they join user and item)"
            )
