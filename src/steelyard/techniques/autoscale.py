"""The number of replicas follows the load (Kubernetes' horizontal pod autoscaler): ``ceil(requests / target)``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.deployment.dynamics import Autoscale, Dynamics
from steelyard.errors import InputError
from steelyard.techniques._base import Citation, Parameter, Technique
from steelyard.units import Quantity

__all__ = ["Autoscaling"]


@dataclass(frozen=True)
class Autoscaling(Technique):
    """Limits and speed of the autoscaler; a deployment of fewer replicas than ``most`` may grow to that many."""

    name: ClassVar[str] = "autoscale"
    layer: ClassVar[str] = "fleet"
    paper: ClassVar[Citation] = Citation("Horizontal pod autoscaling", "kubernetes.io, 2024")
    effect: ClassVar[str] = "replicas come and go with the load; rent is paid for those that are up"
    serving: ClassVar[bool] = True
    keys: ClassVar[Mapping[str, str]] = {"interval": "interval_s", "start": "start_s"}

    least: Annotated[int, Quantity("1", "replicas of each pool at least", ge=0, le=10_000)]
    most: Annotated[int, Quantity("1", "replicas of each pool at most", ge=1, le=10_000)]
    target: Annotated[float, Quantity("1", "requests per replica (a guess)", gt=0, le=1e9)] = 32.0
    interval_s: Annotated[float, Quantity("s", "between two looks", ge=0.01, le=1e7)] = 15.0
    start_s: Annotated[float, Quantity("s", "until a new replica serves (a guess)", ge=0, le=1e7)] = 120.0

    @classmethod
    def _positional(cls, part: str, by_key: Mapping[str, Parameter], values: dict[str, Any], label: str) -> None:
        found = re.fullmatch(r"(\d+):(\d+)", part)
        if not found:
            raise InputError(f"expected LEAST:MOST such as 1:8, got {part!r}", field=label)
        values["least"], values["most"] = int(found[1]), int(found[2])

    def replicas(self) -> int:
        """Room for as many replicas as there may be; the first of them serve from the beginning."""
        return self.most

    def dynamics(self, dynamics: Dynamics) -> Dynamics:
        """The autoscaler."""
        scale = Autoscale(self.least, self.most, self.target, self.interval_s, self.start_s)
        return replace(dynamics, autoscale=scale)
