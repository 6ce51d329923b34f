"""Steps of training a network that do more, or compute in other numbers.

``adversarial-step``
    A step looks for the change of its images that hurts most before it learns from them. The search is a forward and a
    backward pass of its own down to the images; the step proper, with the update, follows it: one after the other on
    the same devices they take two steps' time (the search has no update of its own; that it is counted makes it longer
    by the share of an update in a step, a few hundredths). With ``stale`` the search uses the weights of an earlier
    step and runs on further devices at the same time: the step takes as long as without. What exchanges between devices
    take is not priced, nor the devices of the concurrent search.
``fixed-point-training``
    Products are of integers of ``bits`` that share an exponent, added up in 32 bits: ``rate`` times as fast as in
    32-bit floating point where an instruction takes so many more of them at once (VNNI adds two products of 16 bits to
    a sum of 32), from operands of ``bits / 32`` of the bytes. What a product reads is converted first: read once as it
    is and written in few bits. Spills of sums that would overflow are not priced.

Papers: Concurrent adversarial learning for large-batch training (ICLR 2022); mixed precision training of convolutional
neural networks using integer operations (arXiv:1802.00930).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, with_phases
from steelyard.units import Quantity

__all__ = ["AdversarialStep", "FixedPointTraining"]


@dataclass(frozen=True)
class AdversarialStep(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "adversarial-step"
    layer: ClassVar[str] = "training"
    effect: ClassVar[str] = (
        "a step of training looks for the worst change of its images first: a further pass both ways"
    )
    paper: ClassVar[Citation] = Citation("Concurrent adversarial learning for large-batch training", "ICLR 2022")

    stale: Annotated[bool, "with the weights of an earlier step, on further devices at the same time"] = False

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        return [] if scenario.words.get("train") else [Problem(self.name, "of training steps: give --train")]

    def network(self, scenario: Any) -> Any:
        """See :class:`OnNetworks`."""
        if self.stale:
            return scenario
        return with_phases(scenario, lambda p: replace(p, repeats=2 * p.repeats))


@dataclass(frozen=True)
class FixedPointTraining(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "fixed-point-training"
    layer: ClassVar[str] = "format"
    effect: ClassVar[str] = "products of a step of training are of 16-bit integers that share an exponent"
    costs: ClassVar[str] = "conversions; ranges are watched"
    paper: ClassVar[Citation] = Citation(
        "Mixed precision training of convolutional neural networks using integer operations", "arXiv:1802.00930"
    )
    first: ClassVar[str] = "rate"

    rate: Annotated[float, Quantity("1", "of products over that of 32-bit floating point", gt=0, le=64)] = 2.0
    bits: Annotated[float, Quantity("1", "of an operand", ge=1, le=32)] = 16.0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        found = [] if scenario.words.get("train") else [Problem(self.name, "of training steps: give --train")]
        if scenario.precision.bits != 32:
            found.append(Problem(self.name, f"in place of 32-bit floating point, got {scenario.precision.name}"))
        return found

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        share = self.bits / 32.0

        def kernels(k: NetKernels) -> NetKernels:
            of = np.array([c in PRODUCTS or c.startswith("depthwise") for c in k.classes], dtype=np.bool_)[:, None]
            converted = np.where(of, k.read + k.weights, 0.0).sum(axis=0)
            work, moved = np.where(of, 1.0 / self.rate, 1.0), np.where(of, share, 1.0)
            k = replace(k, flops=k.flops * work, padded=k.padded * work, read=k.read * moved, weights=k.weights * moved)
            return k.more([("elementwise", converted, converted * share)])

        return NetEffect(kernels=kernels)
