"""Encoders, prompts and outputs on devices of their own (EPD): an image does not stop the steps of text.

The images of a request are shared by ``n = min(spread, encoders, tiles)`` encoders, each of which takes
``ceil(tiles / n) / tiles`` of the time of one (no less than its launches) on what is free first; their hosts share the
decoding of whole images the same way. The prompt begins when the last is done. Tiles are sequences that the tower of
the model reads apart from each other. Without ``spread`` all share, as in the paper; 1 leaves a request to one.
Encoders hold the tower alone, the other pools the language model alone. What comes out of an encoder (a few MB) travels
in no time.
"""

from __future__ import annotations

import re
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
    effect: ClassVar[str] = "encoders have devices of their own and share the images of a request"
    serving: ClassVar[bool] = True
    unplanned: ClassVar[str] = "pools of encoders are not sought"
    slot: ClassVar[str] = "deployment"
    first: ClassVar[str] = "pools"
    keys: ClassVar[Mapping[str, str]] = {"encode": "encode_s"}

    pools: Annotated[tuple[str, ...], "COUNT E, P, D or M:DEGREES[@MACHINE], 1E:tp1, 1P:tp2 and 1D:tp4"]
    encode_s: Annotated[
        float, Quantity("s", "time of the encoder before each prompt; 0 = that of the images shown", ge=0, le=1e9)
    ] = 0.0
    spread: Annotated[int, Quantity("1", "encoders that share one request; 0 = all", ge=0, le=100_000)] = 0

    def problems(self) -> list[Problem]:
        """No encoders."""
        if any("E" in pool.partition(":")[0].upper() for pool in self.pools):
            return []
        return [Problem(self.name, "expected a pool of encoders such as 1E:tp1")]

    def words(self, verb: str) -> Mapping[str, Any]:
        """The pools, the encoder's time and how many share it."""
        encoders = (re.match(r"\s*(\d+)\s*E", pool, re.IGNORECASE) for pool in self.pools)
        all_of_them = min(100_000, sum(int(found[1]) for found in encoders if found))
        given = {"encode_s": self.encode_s} if self.encode_s else {}
        return {"disaggregate": ",".join(self.pools), "encode_spread": self.spread or max(1, all_of_them), **given}
