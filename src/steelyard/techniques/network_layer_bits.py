"""Layers of different widths: a share of a network's products in few bits, the rest in more.

A share ``s`` of the products' operations and weights has ``few`` bits in place of the question's own ``b``. A machine
that computes in 4 bits does those at its own rate for them, or at ``rate`` times that of the rest (arrays that split
their multipliers); others gain bytes alone. A multiplier takes energy by the square of its bits, an adder by its bits
(0.2 and 0.03 pJ at 8 bits in 45 nm, Horowitz, ISSCC 2014):

    work = 1 - s + s / rate        weights = 1 - s + s few / b        energy = 1 - s + s (0.2 r^2 + 0.03 r) / 0.23

with ``r = few / b``. Which layers take the few bits is what a search finds: by its measured latency, and by what
accuracy they cost.

Papers: OHQ (on-chip hardware-aware quantization, arXiv:2309.01945), HAWQ-V3 (arXiv:2011.10680).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import Precision
from steelyard.errors import InputError, Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.units import Quantity
from steelyard.workload.op import Array

__all__ = ["LayerBits"]


@dataclass(frozen=True)
class LayerBits(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "layer-bits"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation(
        "On-chip hardware-aware quantization for mixed precision networks", "arXiv:2309.01945"
    )
    effect: ClassVar[str] = "a share of the layers computes in fewer bits than the rest"
    costs: ClassVar[str] = "accuracy, by which layers; a search over them"
    first: ClassVar[str] = "share"

    share: Annotated[float, Quantity("1", "share of the products' work in few bits", ge=0, le=1)] = 0.5
    few: Annotated[float, Quantity("1", "bits of those", ge=1, le=16)] = 4.0
    rate: Annotated[
        float, Quantity("1", "rate in few bits over that of the rest; 0: the machine's own", ge=0, le=64)
    ] = 0.0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`: there are bits to save."""
        bits = scenario.precision.bits
        if scenario.words.get("train"):
            return [Problem(self.name, "of inference: training is in one width")]
        if self.few >= bits:
            return [Problem(self.name, f"expected fewer bits than the {bits:g} of {scenario.precision.name}")]
        return []

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        ratio = self.few / scenario.precision.bits
        work = 1.0 - self.share + self.share / (self.rate or self._rate(scenario))
        bytes_left = 1.0 - self.share + self.share * ratio
        energy = 1.0 - self.share + self.share * (0.2 * ratio**2 + 0.03 * ratio) / 0.23

        def kernels(k: NetKernels) -> NetKernels:
            of = _products(k)
            done, kept = np.where(of, work, 1.0), np.where(of, bytes_left, 1.0)
            return replace(k, flops=k.flops * done, padded=k.padded * done, weights=k.weights * kept)

        def joules(k: NetKernels) -> Array:
            return np.where(_products(k), energy / work, np.float64(1.0))

        return NetEffect(kernels=kernels, energy=joules, weights=bytes_left)

    def _rate(self, scenario: Any) -> float:
        """Rate of the machine in 4 bits over that of the question's precision; 1 where it has none."""
        machine = scenario.cluster.machine
        try:
            narrow = net_site(machine, Precision("int4", "int4", "int4")) if self.few == 4 else None
        except InputError:
            narrow = None
        return max(1.0, narrow.peak_ops_per_s / net_site(machine, scenario.precision).peak_ops_per_s) if narrow else 1.0


def _products(k: NetKernels) -> Any:
    return np.array([c in PRODUCTS or c.startswith("depthwise") for c in k.classes], dtype=np.bool_)[:, None]
