"""Products without multiplications: weights that are powers of two are shifts, binary codes are additions.

A share ``shifted`` of the products with weights multiplies by shifting: a weight is a sign and an exponent of ``bits``,
and a multiply-accumulate becomes a shift and an addition. A share ``added`` of the products of two activations (scores
and sums of attention) has one side in binary codes: an addition remains. Energies of operations are those of 45 nm
(Horowitz, ISSCC 2014): with 32 bits a multiplication takes 3.1 pJ and an addition 0.1 pJ in integers, 3.7 and 0.9 pJ in
floats; a shift of 32 bits 0.024 pJ (You et al., ShiftAddNet, NeurIPS 2020):

    energy = (0.024 + 0.1) / 4.6 of a multiply-accumulate for a shift, 0.1 / 4.6 for an addition

Time: lanes do a shift or an addition where they did a multiply-accumulate; weights take ``bits`` in place of theirs.
Valid for machines and precisions whose products run on lanes (CPUs, GPUs in fp32): matrix engines do not shift.

Papers: ShiftAddViT (NeurIPS 2023), ShiftAddNet (NeurIPS 2020), DeepShift (arXiv:1905.13298).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.net_effect import NetEffect
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.network_passes import NetTechnique
from steelyard.units import Quantity
from steelyard.workload.op import Array

__all__ = ["ShiftAdd"]

_MAC, _SHIFT, _ADD = 4.6, 0.024 + 0.1, 0.1


@dataclass(frozen=True)
class ShiftAdd(NetTechnique):
    """See the module's text."""

    name: ClassVar[str] = "shift-add"
    layer: ClassVar[str] = "architecture"
    paper: ClassVar[Citation] = Citation(
        "ShiftAddViT: mixture of multiplication primitives towards efficient vision transformer", "NeurIPS 2023"
    )
    effect: ClassVar[str] = "weights are powers of two: shifts and additions in place of multiplications"
    costs: ClassVar[str] = "accuracy, and training after it"
    first: ClassVar[str] = "shifted"

    shifted: Annotated[float, Quantity("1", "share of the products with weights that shift", ge=0, le=1)] = 1.0
    added: Annotated[float, Quantity("1", "share of the products of activations that add", ge=0, le=1)] = 1.0
    bits: Annotated[float, Quantity("1", "bits of a weight that is a power of two", ge=1, le=16)] = 5.0

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnNetworks`."""
        if scenario.words.get("train"):
            return [Problem(self.name, "of inference: training multiplies")]
        return []

    def network_effect(self, scenario: Any) -> NetEffect:
        """See :class:`OnNetworks`."""
        stored = min(1.0, self.bits / scenario.precision.bits)
        kept = 1.0 - self.shifted + self.shifted * stored
        return NetEffect(kernels=lambda k: self._shifted(k, kept), energy=self._energy, weights=kept)

    def _shifted(self, k: NetKernels, kept: float) -> NetKernels:
        return replace(k, weights=k.weights * np.where(_products(k)[0], kept, 1.0))

    def _energy(self, k: NetKernels) -> Array:
        weighed, activations = _products(k)
        shifted = 1.0 - self.shifted + self.shifted * _SHIFT / _MAC
        added = 1.0 - self.added + self.added * _ADD / _MAC
        return np.where(weighed, shifted, np.where(activations, added, np.float64(1.0)))


def _products(k: NetKernels) -> tuple[Any, Any]:
    """Products with weights, and those of two activations."""
    product = np.array([c in PRODUCTS or c.startswith("depthwise") for c in k.classes], dtype=np.bool_)[:, None]
    weights = (k.weights > 0).any(axis=1, keepdims=True)
    return product & weights, product & ~weights
