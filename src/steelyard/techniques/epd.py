"""Encoders, prompts and outputs on devices of their own (EPD): an image does not stop the steps of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity

__all__ = ["Epd"]


@dataclass(frozen=True)
class Epd(Technique):
    """The pools and the time of the encoder."""

    name: ClassVar[str] = "epd"
    layer: ClassVar[str] = "parallel"
    paper: ClassVar[Citation] = Citation(
        "Efficiently serving large multimodal models using EPD disaggregation", "arXiv:2501.05460"
    )
    effect: ClassVar[str] = "encoders have devices of their own and work on one request at a time"
    serving: ClassVar[bool] = True
    slot: ClassVar[str] = "deployment"
    first: ClassVar[str] = "pools"
    keys: ClassVar[Mapping[str, str]] = {"encode": "encode_s"}

    pools: Annotated[tuple[str, ...], "COUNT E, P, D or M:DEGREES[@MACHINE], 1E:tp1, 1P:tp2 and 1D:tp4"]
    encode_s: Annotated[
        float, Quantity("s", "time of the encoder before each prompt; 0 = that of the images shown", ge=0, le=1e9)
    ] = 0.0

    def problems(self) -> list[Problem]:
        """No encoders."""
        if any("E" in pool.partition(":")[0].upper() for pool in self.pools):
            return []
        return [Problem(self.name, "expected a pool of encoders such as 1E:tp1")]

    def words(self, verb: str) -> Mapping[str, Any]:
        """The pools and the encoder's time."""
        return {"disaggregate": ",".join(self.pools)} | ({"encode_s": self.encode_s} if self.encode_s else {})
