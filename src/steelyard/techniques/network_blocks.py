"""A block of a network as one kernel: what passes between its layers stays on chip.

A block is what runs one after the other under one name (``layer1.0``, ``stages.2.blocks.5``). Its kernel does the
operations of all its layers, reads the block's input and weights and writes its output:

    t = max over the block: sum of operations / rate, (input + output + weights) / bandwidth, one launch

Tiles of an image see beyond their border: ``again`` of the operations are done twice. Products of a block are priced as
the class of most of its operations. The machine must hold a tile of all its layers on chip; whether it does is not
tested.

Papers: ConvFirst networks with block fusion (On the efficiency of convolutional neural networks, arXiv:2404.03617);
fused-layer CNN accelerators (MICRO 2016).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique, graphs_of
from steelyard.units import Quantity

__all__ = ["BlockFusion"]

#: A block is named by the way to its last number.
_BLOCK = re.compile(r"(?:.*\.)?\d+(?=\.|$)")


def _block(name: str) -> str:
    found = _BLOCK.match(name)
    return found[0] if found else ""


@dataclass(frozen=True)
class BlockFusion(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "block-fusion"
    layer: ClassVar[str] = "kernel"
    paper: ClassVar[Citation] = Citation("On the efficiency of convolutional neural networks", "arXiv:2404.03617")
    effect: ClassVar[str] = "all layers of a block are one kernel, what passes between them stays on chip"
    costs: ClassVar[str] = "a kernel to write for each kind of block; operations at the borders of tiles"
    first: ClassVar[str] = "again"

    again: Annotated[float, Quantity("1", "share of the operations done twice, at borders of tiles", ge=0, le=10)] = 0.1

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: there are blocks, and no gradients that need what is between."""
        if scenario.words.get("train"):
            return [Problem(self.name, "of inference: training keeps what passes between layers")]
        if any(_block(n.name) for graph in graphs_of(scenario) for n in graph.nodes):
            return []
        return [Problem(self.name, f"{scenario.name} has no blocks: names of its layers have no numbers")]

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`Technique`."""
        return NetEffect(kernels=self._fused)

    def _fused(self, k: NetKernels) -> NetKernels:
        """One kernel for what runs one after the other under a block's name."""
        runs = [list(some) for _, some in groupby(range(len(k)), key=lambda i: _block(k.names[i]) or i)]
        products = np.array([c in PRODUCTS or c.startswith("depthwise") for c in k.classes], dtype=np.bool_)
        work = (k.flops * products[:, None]).sum(axis=1)
        main = [max(run, key=lambda i: work[i]) for run in runs]
        twice = np.array([[1.0 + self.again * (len(run) > 1)] for run in runs])

        def each(values: Any) -> Any:
            return np.array([values[run].sum(axis=0) for run in runs])

        return NetKernels(
            tuple(_block(k.names[run[0]]) or k.names[run[0]] for run in runs),
            tuple(k.classes[i] for i in main),
            tuple(k.ops[i] for i in main),
            each(k.flops) * twice,
            each(k.padded) * twice,
            np.array([k.read[run[0]] for run in runs]),
            np.array([k.written[run[-1]] for run in runs]),
            each(k.weights),
            np.array([k.serial[run].max(axis=0) for run in runs]),
        )
