"""Attention that is wider than its layers: more heads of the same width over the same hidden state.

Every attention of the model has ``factor`` times the heads, and keys and values with them: projections, scores and the
cache grow by it, feed-forwards and the hidden state stay. What a model gains by it is trained.

    weights + (factor - 1) x those of attention        cache x factor

Paper: Phantom of latent (arXiv:2409.14713) makes the hidden state of attention larger for the time of it, with few
weights more; here the weights of the projections grow as well, so that the answer is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.sparsity import with_layers
from steelyard.units import Quantity
from steelyard.workload.shapes import Layer, Shapes

__all__ = ["WideAttention"]


@dataclass(frozen=True)
class WideAttention(Technique):
    """See the module's text."""

    name: ClassVar[str] = "wide-attention"
    layer: ClassVar[str] = "architecture"
    paper: ClassVar[Citation] = Citation("Phantom of latent for large language and vision models", "arXiv:2409.14713")
    effect: ClassVar[str] = "attention has more heads than the hidden state is wide"
    costs: ClassVar[str] = "training; a larger cache"
    first: ClassVar[str] = "factor"

    factor: Annotated[float, Quantity("1", "heads over those of the model", ge=1, le=16)] = 2.0

    def applies(self, scenario: Any) -> list[Problem]:
        """No layers of attention; heads that are no whole number."""
        model = scenario.transformer
        if not isinstance(model, Shapes) or all(layer.attention is None for layer in model.layers):
            return [Problem(self.name, f"{model.name} has no layers of attention")]
        counts = {n for x in model.layers if x.attention for n in (x.attention.heads, x.attention.kv_heads)}
        odd = sorted(n for n in counts if (n * self.factor) % 1)
        return [Problem(self.name, f"expected a whole number of heads: {odd[0]} x {self.factor:g}")] if odd else []

    def scenario(self, scenario: Any) -> Any:
        """The model with more heads."""
        layers = tuple(self._wider(scenario.transformer.layers))
        return with_layers(scenario, layers, f"wide-attention: {self.factor:g} times the heads")

    def _wider(self, layers: tuple[Layer, ...]) -> Iterator[Layer]:
        for layer in layers:
            a = layer.attention
            if a is not None:
                heads, kept = (round(n * self.factor) for n in (a.heads, a.kv_heads))
                layer = replace(layer, attention=replace(a, heads=heads, kv_heads=kept))
            yield layer
