"""Weights and activations of a network in few bits.

Weights of products take ``w`` bits, but for a share ``kept`` that stays in 16; products run in the arithmetic of the
wider of ``w`` and ``a`` bits that matrix engines have (int8 for 8 and fewer, fp16 for 16 activations), and what lies
between products stays in 16 bits:

    bytes of weights = n (w (1 - kept) + 16 kept) / 8        t = max(2 m n k / rate(a), bytes / bandwidth)

ViDiT-Q (arXiv:2406.02540) takes 8 or 4 bits for weights and 8 for activations of diffusion transformers, EfficientDM
(arXiv:2310.03270) 4 and 4. Scales of groups are left out. Of a pipeline the denoiser's weights are kept in few bits;
products of text encoder and decoder, a few hundredths of its time, are priced in the same arithmetic. In 4 bits kernels
still read as many bytes of weights as in 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import Precision
from steelyard.errors import Problem
from steelyard.techniques._base import Citation
from steelyard.techniques.diffusion_steps import DENOISERS
from steelyard.techniques.network_passes import NetTechnique, with_phases
from steelyard.techniques.refusals import refused_by
from steelyard.units import Quantity
from steelyard.workload.pipelines import Phase
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["LowBit", "narrowed"]

_KEPT = {16: "f16", 8: "i8", 4: "i4", 2: "i2"}


def narrowed(graph: TensorGraph, dtype: str, kept: float) -> TensorGraph:
    """The graph with the weights of its products in a type, but for the first share of their elements."""
    chosen = dict.fromkeys(
        i for n in graph.nodes if n.kind.group == "product" for i in n.inputs[1:2] if graph.tensors[i].role == "weight"
    )
    wide, tensors = kept * sum(float(graph.elements(i, {})) for i in chosen), list(graph.tensors)
    for i in chosen:
        wide -= float(graph.elements(i, {}))
        if wide < 0:
            tensors[i] = replace(tensors[i], dtype=dtype)
    return replace(graph, tensors=tuple(tensors))


@dataclass(frozen=True)
class LowBit(NetTechnique):
    """A network whose products are of few bits."""

    name: ClassVar[str] = "low-bit"
    layer: ClassVar[str] = "format"
    paper: ClassVar[Citation] = Citation(
        "ViDiT-Q: efficient and accurate quantization of diffusion transformers for image and video generation",
        "arXiv:2406.02540",
    )
    effect: ClassVar[str] = "weights are kept and products computed in few bits; the rest stays in 16"
    costs: ClassVar[str] = "accuracy, calibration, and kernels that quantise activations"
    first: ClassVar[str] = "w"
    refuses: ClassVar[tuple[str, ...]] = ("precision",)

    w: Annotated[int, Quantity("1", "bits of weights: 16, 8, 4 or 2", ge=2, le=16)] = 8
    a: Annotated[int, Quantity("1", "bits of activations in products: 16, 8 or 4", ge=4, le=16)] = 8
    kept: Annotated[float, Quantity("1", "share of weights that stays in 16 bits", ge=0, le=1)] = 0.0

    def problems(self) -> list[Problem]:
        """See :class:`Technique`."""
        wrong = [("w", self.w)] * (self.w not in _KEPT) + [("a", self.a)] * (self.a not in (16, 8, 4))
        return [Problem(self.name, f"expected 16, 8 or 4 bits for {name}, got {bits}") for name, bits in wrong]

    @property
    def precision(self) -> Precision:
        """Arithmetic of products, and 16 bits between them."""
        arithmetic = "fp16" if self.a == 16 else "int8"
        weights = "fp16" if self.w == 16 else "int8"
        return Precision(f"w{self.w}a{self.a}", weights, arithmetic, between=16.0)

    def network_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: the machine has the arithmetic."""
        return refused_by(self.name, lambda: net_site(scenario.cluster.machine, self.precision))

    def network(self, scenario: Any) -> Any:
        """See :class:`Technique`: other arithmetic, and weights in few bits."""
        names = {p.name for p in scenario.phases}.intersection(DENOISERS)

        def narrow(p: Phase) -> Phase:
            return replace(p, graph=narrowed(p.graph, _KEPT[self.w], self.kept)) if not names or p.name in names else p

        return with_phases(replace(scenario, precision=self.precision), narrow)
