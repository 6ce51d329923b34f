"""Layers in analogue arrays of memory: weights are conductances, a product is one reading of an array.

A layer in arrays moves no weights and computes on no digital engine. Every vector that it multiplies is one pass over
its arrays, all of a layer at once:

    t = vectors x pass_s        energy = multiply-accumulates x pj

with ``pass_s`` from the converters' rate (hundreds of ns to a microsecond) and ``pj`` per multiply-accumulate with the
converters in it (0.01 to 1 pJ published). What stays digital are the ops between, and the last product with ``head``
(a projection that is trained while what is before it is fixed and random).

Papers: resistive memory-based zero-shot liquid state machine (arXiv:2307.00771); energies as in surveys of computing in
memory (Sebastian et al., Nature Nanotechnology 2020). Whether a network fits the arrays is not tested, noise not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.units import Quantity
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import Node, TensorGraph

__all__ = ["AnalogueArrays"]

#: What digital engines have of an operation in an array: next to nothing, so that energy can be counted by it.
_LEFT = 1e-9


@dataclass(frozen=True)
class AnalogueArrays(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "analogue-arrays"
    layer: ClassVar[str] = "device"
    paper: ClassVar[Citation] = Citation(
        "Resistive memory-based zero-shot liquid state machine for multimodal event data learning", "arXiv:2307.00771"
    )
    effect: ClassVar[str] = "products with weights are read out of analogue arrays that hold the weights"
    costs: ClassVar[str] = "noise of devices and converters; weights are written slowly"
    first: ClassVar[str] = "pj"

    pj: Annotated[float, Quantity("1", "energy of a multiply-accumulate with converters, pJ", gt=0, le=1000)] = 0.1
    pass_s: Annotated[float, Quantity("s", "time of one reading of an array", gt=0, le=1)] = 1e-6
    head: Annotated[bool, "the last product stays digital"] = True

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        if scenario.words.get("train"):
            return [Problem(self.name, "of inference: conductances are written beforehand")]
        return []

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        passes = max(sum(_vectors(p.graph, n) for n in self._held(p.graph)) for p in scenario.phases)
        batch = np.asarray(scenario.batch, dtype=np.float64)

        def wait_s(_: NetKernels) -> Array:
            return np.atleast_1d(passes * batch * self.pass_s)

        return NetEffect(kernels=self._emptied, energy=self._energy(scenario), wait_s=wait_s)

    def _held(self, graph: TensorGraph) -> list[Node]:
        products = [n for n in graph.nodes if _weighed(graph, n)]
        return products[:-1] if self.head else products

    def _where(self, k: NetKernels) -> Any:
        """Kernels that are readings of arrays."""
        product = np.array([c in PRODUCTS or c.startswith("depthwise") for c in k.classes], dtype=np.bool_)
        held = product & (k.weights > 0).any(axis=1)
        if self.head and held.any():
            held[np.flatnonzero(held)[-1]] = False
        return held[:, None]

    def _emptied(self, k: NetKernels) -> NetKernels:
        left = np.where(self._where(k), _LEFT, 1.0)
        return replace(k, flops=k.flops * left, padded=k.padded * left, weights=k.weights * left)

    def _energy(self, scenario: Any) -> Any:
        from steelyard.cost.energy import DEFAULT_ENERGY_J_PER_OP
        from steelyard.cost.net_terms import net_site

        site = net_site(scenario.cluster.machine, scenario.precision)
        usual = site.engine.energy_j_per_op.get(site.compute, DEFAULT_ENERGY_J_PER_OP)
        return lambda k: np.where(self._where(k), self.pj * 1e-12 / (2.0 * usual * _LEFT), np.float64(1.0))


def _weighed(graph: TensorGraph, node: Node) -> bool:
    if node.kind.group != "product" or len(node.inputs) < 2:
        return False
    return graph.tensors[graph.storage(node.inputs[1])].role == "weight"


def _vectors(graph: TensorGraph, node: Node) -> float:
    """Vectors that a product multiplies for one item: points of an image, or rows."""
    shape = [float(d) for d in graph.shape(node.outputs[0], {**graph.symbols, "batch": 1})]
    return prod(shape) / (shape[1] if node.op == "conv" else shape[-1])
