"""Networks with fewer weights: channels taken out, single weights, or some of every few.

With a share ``d`` of the weights kept:

``channels``: outputs and inputs of every layer but the first and last are fewer by ``sqrt(d)``, so dense products of
all shapes shrink: operations and weights by ``d``, activations by ``sqrt(d)`` (slimming, arXiv:1708.06519).

``weights``: single weights anywhere (deep compression, arXiv:1510.00149): bytes of weights fall to
``d (b + index) / b``; operations fall only on a machine that skips zeros (``skips``), or on an array by its own fields
(:mod:`steelyard.cost.array_zeros`).

``pattern``: ``n`` of every ``m`` (2 of 4, arXiv:2104.08378): tensor cores of NVIDIA from Ampere on do twice the rate,
so products at ``n/m`` = 1/2 take half the operations there; other patterns and machines gain bytes alone. ``m``
weights need ``n log2(m)`` bits beside.

Depthwise layers keep their weights but for channels. What a network loses in accuracy is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2, sqrt
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import Density, NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.errors import Problem, UnknownName
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.units import Quantity

__all__ = ["NetworkPruning"]

_KINDS = ("channels", "weights", "pattern")
#: Generations of CUDA devices without products of 2 of 4.
_DENSE = ("maxwell", "pascal", "volta", "turing")


@dataclass(frozen=True)
class NetworkPruning(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "network-pruning"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation(
        "Deep compression: compressing deep neural networks with pruning, trained quantization and Huffman coding",
        "arXiv:1510.00149",
    )
    effect: ClassVar[str] = "a share of the channels or weights of a network is taken out"
    costs: ClassVar[str] = "accuracy as more is taken, and training after it"
    first: ClassVar[str] = "kind"

    kind: Annotated[str, "channels, weights or pattern"] = "channels"
    keep: Annotated[float, Quantity("1", "share of the weights that is kept; of a pattern n/m", gt=0, le=1)] = 0.5
    m: Annotated[int, Quantity("1", "of a pattern: weights in a row of which n are kept", ge=2, le=64)] = 4
    index: Annotated[float, Quantity("1", "bits beside each single weight that say where it is", ge=0, le=64)] = 4.0
    skips: Annotated[bool, "the machine computes nothing for zeros"] = False

    def problems(self) -> list[Problem]:
        """See :class:`Technique`."""
        if self.kind not in _KINDS:
            return [Problem(self.name, UnknownName("kind", self.kind, _KINDS).message)]
        if self.kind == "pattern" and abs(self.keep * self.m - round(self.keep * self.m)) > 1e-6:
            return [
                Problem(self.name, f"expected a whole number of every {self.m} weights, got {self.keep * self.m:g}")
            ]
        return []

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        if scenario.words.get("train"):
            return [Problem(self.name, "of inference: training keeps all weights")]
        if self.kind == "channels" and scenario.runtime.terms == "loops":
            words = (
                "loops are mapped onto an array of the network as it is: give one of fewer channels, or kind weights"
            )
            return [Problem(self.name, words)]
        return []

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        machine = scenario.cluster.machine
        doubles = machine.launch == "cuda" and machine.family not in _DENSE
        bits = scenario.precision.bits
        beside = {"weights": self.index, "pattern": log2(self.m)}.get(self.kind, 0.0)
        stored = min(1.0, self.keep * (bits + beside) / bits)
        done = self.keep if self.kind == "channels" or self.skips else 1.0
        if self.kind == "pattern" and doubles and self.keep == 0.5:
            done = 0.5
        density = Density() if self.kind == "channels" else Density(weights=self.keep)
        return NetEffect(kernels=lambda k: self._pruned(k, stored, done), macs=done, weights=stored, density=density)

    def _pruned(self, k: NetKernels, stored: float, done: float) -> NetKernels:
        products = np.array([c in PRODUCTS or c == "wide" for c in k.classes], dtype=np.bool_)[:, None]
        if self.kind == "channels":
            return self._slimmed(k, products)
        work = np.where(products, done, 1.0)
        return replace(
            k, flops=k.flops * work, padded=k.padded * work, weights=k.weights * np.where(products, stored, 1.0)
        )

    def _slimmed(self, k: NetKernels, products: Any) -> NetKernels:
        """Every side of a product is shorter, but for the image and the answer."""
        side = sqrt(self.keep)
        of = np.flatnonzero((k.weights > 0).any(axis=1) & products[:, 0])
        ends = {int(of[0]), int(of[-1])} if len(of) else set()
        first = min(ends, default=0)
        single = np.array([[side if i in ends else self.keep] for i in range(len(k))])
        work = np.where(products & (k.weights > 0), single, side)
        read = np.array([[1.0 if i == first else side] for i in range(len(k))])
        return replace(
            k,
            flops=k.flops * work,
            padded=k.padded * work,
            read=k.read * read,
            written=k.written * side,
            weights=k.weights * np.where(products, single, side),
        )
