"""The programmable logic of an FPGA: what a design may be made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from steelyard.units import Quantity

__all__ = ["Fabric"]


@dataclass(frozen=True, slots=True)
class Fabric:
    """Look-up tables, multipliers and memories of a device."""

    __pydantic_config__ = {"extra": "forbid"}

    luts: Annotated[float, Quantity("1", "look-up tables of six inputs", gt=0)]
    dsps: Annotated[float, Quantity("1", "DSP blocks", ge=0)]
    blocks: Annotated[float, Quantity("1", "block RAMs of 18 Kb", ge=0)]
    usable: Annotated[
        float, Quantity("1", "share of the look-up tables that a design can be routed with", gt=0, le=1)
    ] = 0.7
