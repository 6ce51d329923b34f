"""A spiking network: neurons put out spikes over time steps, and a spike adds weights where a value multiplied them.

``steps`` passes, one a time step, of which an item takes the share ``exit`` on average when it may leave early. A
product of a step takes ``rate x MACs`` additions, ``rate`` being spikes per neuron and step; the first layer sees the
image itself (direct encoding) and multiplies. Operands of later products are spikes of one bit. A neuron reads and
writes its potential at every step when there are several. An addition takes ``addition`` of the energy of a
multiply-accumulate: 0.9 pJ of 4.6 pJ at 32 bits in 45 nm (Horowitz, ISSCC 2014), as papers of the field count.

Papers: one timestep is all you need (arXiv:2110.05929); Dynamic Confidence (ICCV 2023). Times are those of a
machine that skips what has no spike; one that does not takes ``rate`` = 1. On an array whose loops are mapped its own
fields say what it gates and skips, and spikes have the bits of values. What training costs in accuracy is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import Density, NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.units import Quantity
from steelyard.workload.op import Array

__all__ = ["Spiking"]

_PRODUCTS = (*PRODUCTS, "depthwise", "depthwise_large")


@dataclass(frozen=True)
class Spiking(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "spiking"
    layer: ClassVar[str] = "architecture"
    effect: ClassVar[str] = "neurons spike over time steps: additions for spikes alone in place of multiply-accumulates"
    paper: ClassVar[Citation] = Citation(
        "One timestep is all you need: training spiking neural networks with ultra low latency", "arXiv:2110.05929"
    )
    first: ClassVar[str] = "steps"

    steps: Annotated[int, Quantity("1", "time steps", ge=1, le=2500)] = 1
    rate: Annotated[float, Quantity("1", "spikes per neuron and step", gt=0, le=1)] = 0.15
    addition: Annotated[float, Quantity("1", "energy of an addition over a multiply-accumulate", gt=0, le=1)] = (
        0.9 / 4.6
    )
    exit: Annotated[float, Quantity("1", "share of the steps after which an item leaves, on average", gt=0, le=1)] = 1.0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        if scenario.words.get("train"):
            return [Problem(self.name, "of inference: training over time steps is not priced")]
        return []

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        bits = scenario.precision.bits
        return NetEffect(
            kernels=lambda kernels: self._step(kernels, bits),
            energy=self._energy,
            passes=self.steps * self.exit,
            density=Density(inputs=self.rate, outputs=self.rate),
        )

    def _step(self, k: NetKernels, bits: float) -> NetKernels:
        """Kernels of one time step."""
        additions = _later_products(k)
        adds = np.where(additions, self.rate, 1.0)
        neurons = np.array([c in ("pointwise", "fused") for c in k.classes], dtype=np.bool_)[:, None]
        potential = np.where(neurons & (self.steps > 1), k.written, 0.0)
        return replace(
            k,
            flops=k.flops * adds,
            padded=k.padded * adds,
            read=k.read * np.where(additions, 1 / bits, 1.0) + potential,
            written=k.written + potential,
        )

    def _energy(self, k: NetKernels) -> Array:
        return np.where(_later_products(k), self.addition, np.float64(1.0))


def _later_products(k: NetKernels) -> Any:
    """Products after the first, which sees the image itself."""
    product = np.array([c in _PRODUCTS for c in k.classes], dtype=np.bool_)
    product[product.argmax()] = False
    return product[:, None]
