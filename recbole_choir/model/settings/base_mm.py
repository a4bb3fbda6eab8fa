"""The settings of BaseMM."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from recbole_choir.model.settings.shared import SharedSettings
from recbole_choir.settings.base import setting


class WithContent(SharedSettings):
    """BaseMM and the baselines that add to it: content vectors and semantic ids of items."""

    #: The recipe of AKTRec: the same ids and vectors.
    of_run: ClassVar[Mapping[str, Any]] = MappingProxyType({"semantic_recipe": "akt"})

    use_content: bool = setting(
        True, "Linear(t_i) of the frozen content vector in every item token", "baselines 0"
    )
    use_codes: bool = setting(
        True,
        "an embedding of the code at each level in every item token and for users",
        "baselines 0",
    )


class BaseMMSettings(WithContent):
    """Base+MM of both papers: Base with content vectors and semantic ids as ordinary features.

    What AKTRec must be compared with (docs/baselines.md, information parity).
    """

    use_cross_stats: bool = setting(
        False, "also the as-of cross statistics that AKTRec's fusion gate reads: a control"
    )
