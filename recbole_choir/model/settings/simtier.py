"""The settings of SimTier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from recbole_choir.model.settings.base_mm import WithContent
from recbole_choir.settings.base import setting


class SimTierSettings(WithContent):
    """SimTier (Sheng et al., 2024, arXiv 2407.19467) on Base+MM, with which it must be compared.

    Adds to BaseMM: the histogram of similarities. Leaves out: nothing (MAKE is another method).
    """

    simtier_eps: Annotated[float, Field(ge=0.001, le=1)] = setting(
        0.1,
        "width of a tier of cosines: 22 slots",
        "public code of MUSE",
        search={"choices": [0.05, 0.1, 0.2]},
        shown=True,
    )

    @field_validator("simtier_eps")
    @classmethod
    def _parts_of_one(cls, value: float) -> float:
        if abs(round(1.0 / value) * value - 1.0) > 1e-6:
            raise ValueError("1 / a whole number")
        return value

    simtier_log: bool = setting(True, "log(1 + count)", "public code")
    simtier_edges: Literal["uniform", "quantile"] = setting(
        "uniform",
        "uniform: tiers of simtier_eps (paper); quantile: as many tiers of equal counts over "
        "training rows (ours)",
        "paper",
        shown=True,
    )
    simtier_center: bool = setting(
        True,
        "subtract the mean vector of the items seen in training; cosines of text vectors crowd "
        "together otherwise",
    )
