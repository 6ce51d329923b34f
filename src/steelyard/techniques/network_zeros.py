"""Zeros between layers: what a rectifier leaves of a map, on an array that gates or skips them or packs its memories.

With a share ``keep`` of the values of every map not zero, what a network is given apart, products of an array take what
its fields say (:mod:`steelyard.cost.array_zeros`): zeros that it ``gates`` no energy of arithmetic, those that it
``skips`` no cycle either, but multipliers wait for the slowest; memories that ``packs`` says hold maps without zeros.
Zeros of weights are those of ``network-pruning:weights``.

Papers: Cnvlutin (ISCA 2016): 44 % of the values of six networks are zero; Eyeriss (JSSC 2017): 58 % of AlexNet's, by
layer up to 79 %. Zeros lie with equal chance anywhere; a network without rectifiers has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from steelyard.cost.net_effect import Density, NetEffect
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.units import Quantity

__all__ = ["ActivationZeros"]


@dataclass(frozen=True)
class ActivationZeros(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "activation-zeros"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "Cnvlutin: ineffectual-neuron-free deep neural network computing", "doi:10.1109/ISCA.2016.11"
    )
    effect: ClassVar[str] = "an array gates or skips zeros between layers, or keeps them out of its memories"
    first: ClassVar[str] = "keep"

    keep: Annotated[float, Quantity("1", "share of the values between layers that is not zero", gt=0, le=1)] = 0.5

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`: nothing of the machine heeds zeros of maps."""
        machine = scenario.cluster.machine
        if scenario.runtime.terms != "loops":
            words = f"of arrays whose loops are mapped (--runtime mapper), and {scenario.runtime.name} runs it"
            return [Problem(self.name, words)]
        heeded = any(word in ("inputs", "both") for c in machine.compute for word in (c.gates, c.skips))
        if not heeded and not any({"inputs", "outputs"} & set(m.packs) for m in machine.memory):
            return [Problem(self.name, f"{machine.name} has no array with gates or skips and no memory with packs")]
        return []

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        return NetEffect(density=Density(inputs=self.keep, outputs=self.keep))
