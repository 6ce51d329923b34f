"""Where experts lie and what their block computes (EPLB; ExFlow, arXiv:2401.08383; MoE++; Chain-of-Experts; BigMac).

``redundant-experts``: ``r`` further copies, of whichever expert is then the busiest per copy, so that ``E + r`` experts
divide by the expert-parallel degree and the busiest holds less:

    skew' :  busiest(skew', E + r) = max_i(share_i / copies_i) / mean,  share_i ~ i^-skew

``expert-affinity``: of the pairs of token and expert a share ``local`` needs no other device, as experts that follow
each other are placed together and tokens are sent ahead to where they are predicted to go:

    bytes of an exchange -> bytes (1 - local);   ``exchanges = 1``: tokens stay where they were sent to, with copies of
    their context there, so that nothing is combined across devices

``moe-block``: the block with other shapes, on any model with experts. A share ``zero`` of the choices falls on experts
that compute nothing and cross no link; experts work at width ``width`` between two projections, which is what crosses;
``chain`` passes one after another, each with its own routing, share one set of experts; ``experts``, ``top_k`` and
``intermediate`` replace the model's, ``plain`` takes the gate of its experts away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.effect import Effect
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.step import Replica
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.moe_overlap import exchanges, no_exchange
from steelyard.units import Quantity
from steelyard.workload.shapes import FeedForward, Layer

__all__ = ["ExpertAffinity", "MoeBlock", "RedundantExperts", "skew_with_copies"]

#: Steps of the bisection of an exponent.
BISECTIONS = 50


@lru_cache(maxsize=256)
def skew_with_copies(exponent: float, experts: int, copies: int) -> float:
    """The exponent at which ``experts + copies`` experts are as unequal as ``experts`` with the busiest ones copied.

    Args:
        exponent: of the power law of popularity, 0 = balanced.
        experts: in the layer.
        copies: each goes to the expert that is the busiest per copy.
    """
    if exponent <= 0 or not copies:
        return max(exponent, 0.0)
    share = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    share /= share.sum()
    held = np.ones(experts)
    for _ in range(copies):
        held[np.argmax(share / held)] += 1
    slots = experts + copies
    wanted = float((share / held).max()) * slots
    low, high = 0.0, exponent
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        weights = np.arange(1, slots + 1, dtype=np.float64) ** -middle
        low, high = (middle, high) if weights[0] / weights.mean() < wanted else (low, middle)
    return low


def with_experts(scenario: Any, change: Any) -> Any:
    """The scenario with every block of experts of its model changed: ``change(layer) -> layers``."""
    model = scenario.model.transformer
    layers: list[Layer] = []
    for layer in model.layers:
        layers += change(layer) if layer.feed_forward and layer.feed_forward.is_moe else (layer,)
    changed = replace(model, layers=tuple(layers))
    return replace(scenario, model=replace(scenario.model, transformer=changed))


def without_experts(name: str, scenario: Any) -> list[Problem]:
    """That a model has no experts."""
    model = scenario.transformer
    shaped = model.experts and hasattr(model, "layers")
    return [] if shaped else [Problem(name, f"{model.name} has no experts")]


@dataclass(frozen=True)
class RedundantExperts(Technique):
    """Copies of the busiest experts."""

    name: ClassVar[str] = "redundant-experts"
    layer: ClassVar[str] = "moe"
    paper: ClassVar[Citation] = Citation("DeepSeek-V3 technical report (section 3.4)", "arXiv:2412.19437")
    effect: ClassVar[str] = "the busiest experts are there several times; more devices may share them"
    costs: ClassVar[str] = "memory for the copies"
    first: ClassVar[str] = "copies"

    copies: Annotated[int, Quantity("1", "experts added to each layer as copies of the busiest", ge=1, le=65536)]

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without experts."""
        return without_experts(self.name, scenario)

    def scenario(self, scenario: Any) -> Any:
        """More experts, less skew."""

        def copied(layer: Layer) -> tuple[Layer, ...]:
            assert layer.feed_forward is not None
            more = layer.feed_forward.experts + self.copies
            return (replace(layer, feed_forward=replace(layer.feed_forward, experts=more)),)

        exponent = skew_with_copies(scenario.skew, scenario.transformer.experts, self.copies)
        return with_experts(scenario, copied).routed(exponent)


@dataclass(frozen=True)
class Local(Effect):
    """Exchanges of fewer tokens."""

    local: float
    once: bool

    def lowered(self, program: Program, replica: Replica) -> Program:
        """Dispatch and combine with the bytes that cross devices."""
        kernels = (k for k in program.kernels if not (self.once and k.features.get("exchange") == "combine"))
        return replace(program, kernels=tuple(self._less(k) if exchanges(k) else k for k in kernels))

    def _less(self, kernel: Kernel) -> Kernel:
        left, features = 1.0 - self.local, dict(kernel.features)
        for name in ("message_bytes", "hidden"):
            features[name] = np.asarray(features[name], dtype=np.float64) * left
        return replace(kernel, features=features)


@dataclass(frozen=True)
class ExpertAffinity(Technique):
    """Experts placed by how often they follow each other."""

    name: ClassVar[str] = "expert-affinity"
    layer: ClassVar[str] = "moe"
    paper: ClassVar[Citation] = Citation(
        "Exploiting inter-layer expert affinity for accelerating mixture-of-experts model inference", "arXiv:2401.08383"
    )
    effect: ClassVar[str] = "a share of the tokens finds its experts on its own device"
    costs: ClassVar[str] = (
        "placement for the traffic it was measured on; with one exchange a copy of the context on every device"
    )
    first: ClassVar[str] = "local"

    local: Annotated[float, Quantity("1", "share of pairs of token and expert that stay on a device", ge=0, le=0.99)]
    exchanges: Annotated[int, Quantity("1", "all-to-alls per layer: 2, or 1 where tokens stay there", ge=1, le=2)] = 2

    def applies(self, scenario: Any) -> list[Problem]:
        """Nothing is exchanged."""
        return no_exchange(self.name, scenario)

    @property
    def step_effect(self) -> Local:
        """Smaller exchanges."""
        return Local(self.local, self.exchanges == 1)


@dataclass(frozen=True)
class MoeBlock(Technique):
    """Another block of experts in every layer that has one."""

    name: ClassVar[str] = "moe-block"
    layer: ClassVar[str] = "moe"
    paper: ClassVar[Citation] = Citation(
        "MoE++: accelerating mixture-of-experts methods with zero-computation experts", "arXiv:2410.07348"
    )
    effect: ClassVar[str] = "experts that compute nothing, work at another width, or run one after another"
    costs: ClassVar[str] = "a model trained so"
    keys: ClassVar[Mapping[str, str]] = {"zero": "zero_frac"}

    zero_frac: Annotated[float, Quantity("1", "share of choices for experts that compute nothing", ge=0, le=0.95)] = 0.0
    width: Annotated[int, Quantity("1", "width experts read and write; 0 = as it is", ge=0, le=1_000_000)] = 0
    chain: Annotated[int, Quantity("1", "passes through the experts of a layer, one after another", ge=1, le=64)] = 1
    experts: Annotated[int, Quantity("1", "experts of a layer; 0 = as many as it has", ge=0, le=1_000_000)] = 0
    top_k: Annotated[int, Quantity("1", "experts of a token in a pass; 0 = as many as it has", ge=0, le=100_000)] = 0
    intermediate: Annotated[int, Quantity("1", "inner width of an expert; 0 = as it is", ge=0, le=1_000_000)] = 0
    plain: Annotated[bool, "experts of two matrices, without a gate"] = False

    def problems(self) -> list[Problem]:
        """Nothing is changed."""
        changed = any(getattr(self, p.field) != p.default for p in self.parameters())
        return [] if changed else [Problem(self.name, "expected a change, such as zero=0.3, width=512 or chain=2")]

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without experts, or a choice of more than there are."""
        problems = without_experts(self.name, scenario)
        for layer in () if problems else scenario.transformer.layers:
            f = layer.feed_forward
            if f is not None and f.is_moe and (self.top_k or f.top_k) > (self.experts or f.experts):
                message = f"{self.top_k or f.top_k} of {self.experts or f.experts} experts cannot be chosen"
                return [Problem(self.name, message)]
        return problems

    def scenario(self, scenario: Any) -> Any:
        """The model with other blocks."""

        def chained(layer: Layer) -> tuple[Layer, ...]:
            assert layer.feed_forward is not None
            first = replace(layer, feed_forward=self.block(layer.feed_forward))
            again = replace(first, attention=None, mixer=None, cross=None, beside=(), norms=1, tied=True)
            return (first, *(again for _ in range(self.chain - 1)))

        return with_experts(scenario, chained)

    def block(self, f: FeedForward) -> FeedForward:
        """A block changed."""
        experts = self.experts or f.experts
        idle = round(experts * self.zero_frac / (1.0 - self.zero_frac)) if self.zero_frac else f.idle_experts
        return replace(
            f,
            experts=experts,
            idle_experts=idle,
            top_k=self.top_k or f.top_k,
            intermediate=self.intermediate or f.intermediate,
            expert_hidden=self.width or f.expert_hidden,
            gated=f.gated and not self.plain,
        )
