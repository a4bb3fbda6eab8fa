"""The settings of POSO."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recbole_choir.model.settings.base import WithGroupStats
from recbole_choir.settings.base import Size, setting


class POSOSettings(WithGroupStats):
    """POSO (Dai et al., 2021, arXiv 2108.04690): gates on the tower that see activity alone.

    Adds to Base: the gates. Leaves out: nothing.
    """

    poso_pc: Literal["both", "user", "item"] = setting(
        "both",
        "the code: as-of activity of the user, of the item, or both",
        "POSO 4.5: views of the user for new users, age of the video for new items",
        shown=True,
    )
    poso_mode: Literal["layers", "naive"] = setting(
        "layers",
        "layers: a gate on every hidden layer, Eq. 11; naive: whole towers mixed, Eq. 6",
        "paper",
        shown=True,
    )
    poso_scale: Annotated[float, Field(ge=1e-6)] | None = setting(
        None,
        "C; null: 2 for layers (the model starts as Base), 2 / poso_towers for naive (it starts as "
        "the mean of the towers)",
        "third-party code; ours for naive",
    )
    poso_hidden: Size = setting(
        32, "hidden width of a gate's network", "third-party code", search={"choices": [16, 32, 64]}
    )
    poso_towers: Size = setting(3, "N of poso_mode naive")

    @property
    def scale(self) -> float:
        """C of a gate, 2 where a gate at its start is to be 1."""
        if self.poso_scale is not None:
            return self.poso_scale
        return 2.0 if self.poso_mode == "layers" else 2.0 / self.poso_towers
