"""Tokens that skip blocks: layers or feed-forwards left out token by token, routers by depth and by width.

Each token of a step of ``T`` skips a block with probability ``s``: the block runs with ``1 - s^T``, and then for
``T (1 - s) / (1 - s^T)`` tokens; with ``union`` for all of them, as a batch does that is not regrouped. A router that
gives a token a share ``w`` of a block's width (neurons, bricks, learners) is ``feed_forward = 1 - w``: of what is not
chosen neither weights nor work count, as long as no other token of the step chooses it.

Skipped attention leaves keys and values nevertheless, computed for free (``cache=filled``), or none: memory and reads
fall with it (``cache=absent``; Mixture-of-Recursions, arXiv:2507.10524, caches by recursion). A share ``full`` of the
layers is skipped by none, as FFN-SkipLLM (arXiv:2404.03865) does of the first and last. ``gate`` is the width of the
router's product per layer. What skipping costs in accuracy is not predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.sparsity import with_layers
from steelyard.units import Quantity
from steelyard.workload.shapes import Beside, Layer, Shapes, Skip

__all__ = ["LayerSkip"]

#: What a token leaves in the cache of attention that it skips.
CACHES = ("filled", "absent")


@dataclass(frozen=True)
class LayerSkip(Technique):
    """See the module's text."""

    name: ClassVar[str] = "layer-skip"
    layer: ClassVar[str] = "decoding"
    costs: ClassVar[str] = "accuracy, and a router to train"
    paper: ClassVar[Citation] = Citation(
        "FFN-SkipLLM: a hidden gem for autoregressive decoding with adaptive feed forward skipping", "arXiv:2404.03865"
    )
    effect: ClassVar[str] = "tokens skip part of the layers, or part of their blocks"
    slot: ClassVar[str] = "depth"
    first: ClassVar[str] = "share"

    share: Annotated[float, Quantity("1", "share of the tokens that skip a block", ge=0, le=1)] = 0.25
    attention: Annotated[float | None, Quantity("1", "of attention alone (default: share)", ge=0, le=1)] = None
    feed_forward: Annotated[float | None, Quantity("1", "of the feed-forward alone (default: share)", ge=0, le=1)] = (
        None
    )
    full: Annotated[float, Quantity("1", "share of the layers that no token skips", ge=0, le=1)] = 0.0
    cache: Annotated[str, "what skipped attention leaves in the cache: filled or absent"] = "filled"
    union: Annotated[bool, "a block runs for all tokens of a step while any needs it"] = False
    answers: Annotated[bool, "tokens of prompts skip nothing"] = False
    gate: Annotated[int, Quantity("1", "outputs of a router per token and layer; 0 = free", ge=0, le=1e6)] = 0

    @property
    def skip(self) -> Skip:
        """What it puts on a layer."""
        attention, fed = (self.share if x is None else x for x in (self.attention, self.feed_forward))
        return Skip(attention, fed, self.union, self.cache == "absent", self.answers)

    def problems(self) -> list[Problem]:
        """An unknown word, nothing left of a cache."""
        if self.cache not in CACHES:
            return [Problem(self.name, f"expected cache as filled or absent, got {self.cache!r:.80}")]
        if self.skip.absent and self.skip.attention == 1 and not self.full:
            return [Problem(self.name, "expected attention below 1 with cache=absent: no token would leave anything")]
        return []

    def applies(self, scenario: Any) -> list[Problem]:
        """No layers; a simulation whose steps mix prompts and answers."""
        model = scenario.transformer
        if not isinstance(model, Shapes):
            return [Problem(self.name, f"{model.name} is no stack of layers")]
        if self.answers and scenario.verb != "estimate":
            words = "steps mix prompts and answers: with answers it is priced by estimate alone"
            return [Problem(self.name, words)]
        return []

    def scenario(self, scenario: Any) -> Any:
        """The model with tokens that skip."""
        skip = self.skip
        note = f"layer-skip: {skip.attention:.3g} of the tokens skip attention, {skip.feed_forward:.3g} feed-forwards"
        layers = (part for layer in scenario.transformer.layers for part in self._split(layer, scenario))
        return with_layers(scenario, tuple(layers), note)

    def _split(self, layer: Layer, scenario: Any) -> Iterator[Layer]:
        """A kind of layers in those that run for all tokens and those that do not."""
        left = round(self.full * layer.count)
        if left:
            yield replace(layer, count=left)
        if left < layer.count:
            router = (Beside("skip_router", scenario.transformer.hidden, self.gate),) if self.gate else ()
            yield replace(layer, count=layer.count - left, skip=self.skip, beside=(*layer.beside, *router))
