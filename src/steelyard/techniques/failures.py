"""Replicas that fail by chance or at given times, and serve again after a restart.

A failed replica loses its caches; its requests are computed again elsewhere, or wait until one is up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from steelyard.deployment.dynamics import Dynamics, Outage
from steelyard.errors import InputError, Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.units import Quantity, parse_quantity

__all__ = ["Failures"]

#: Shortest mean time between failures: of requests that take seconds hardly one ends before the next failure.
LEAST_S = 1.0


@dataclass(frozen=True)
class Failures(Technique):
    """When replicas fail."""

    name: ClassVar[str] = "failures"
    layer: ClassVar[str] = "fleet"
    paper: ClassVar[Citation] = Citation("The Llama 3 herd of models (table 5, interruptions)", "arXiv:2407.21783")
    effect: ClassVar[str] = "replicas go down, their requests begin again elsewhere"
    serving: ClassVar[bool] = True
    first: ClassVar[str] = "outages"
    keys: ClassVar[Mapping[str, str]] = {"mtbf": "mtbf_s", "restart": "restart_s"}

    mtbf_s: Annotated[
        float, Quantity("s", "mean time between failures of a replica, drawn exponentially; 0 = none", ge=0, le=1e12)
    ] = 0.0
    restart_s: Annotated[float, Quantity("s", "until a failed replica serves again (a guess)", ge=0, le=1e9)] = 180.0
    outages: Annotated[tuple[Outage, ...], "given ones, TIME:REPLICA:down or :up"] = ()

    @classmethod
    def item(cls, text: str) -> Outage:
        """Read ``10min:0:down``."""
        parts = [part.strip() for part in text.split(":")]
        if len(parts) != 3 or not parts[1].isdecimal() or parts[2] not in ("up", "down"):
            raise InputError(f"expected TIME:REPLICA:down or :up, got {text.strip()!r}", field="outages")
        return Outage(float(parse_quantity(parts[0], "s", "outages")), int(parts[1]), parts[2] == "up")

    def problems(self) -> list[Problem]:
        """Nothing fails; outages that are none."""
        for o in self.outages:
            whole = isinstance(o, Outage) and isinstance(o.replica, int) and isinstance(o.up, bool)
            if not (whole and isinstance(o.at_s, int | float) and 0 <= o.at_s <= 1e12):
                return [Problem("outages", f"expected TIME:REPLICA:down or :up, got {o!s:.80}")]
        if isinstance(self.mtbf_s, int | float) and 0 < self.mtbf_s < LEAST_S:  # no request ends, and it plays on
            return [Problem("mtbf", f"expected 0 (none) or at least {LEAST_S:g} s, got {self.mtbf_s:g}")]
        if self.mtbf_s or self.outages:
            return []
        return [Problem("failures", "expected mtbf (6h) or outages (10min:0:down)")]

    def dynamics(self, dynamics: Dynamics) -> Dynamics:
        """Failures."""
        return replace(dynamics, mtbf_s=self.mtbf_s, restart_s=self.restart_s, outages=self.outages)
