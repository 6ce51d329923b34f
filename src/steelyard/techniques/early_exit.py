"""Tokens that leave the model before its last layer (CALM, arXiv:2207.07061; Apparate, arXiv:2312.05385).

Ramps cut the layers into equal sections; at each a token that is still there leaves with probability ``p``. A batch
runs on as long as any of its members is in the model, so early exit alone saves little in one; with rebatching (DREX,
arXiv:2512.15705) a section runs for those that are left. Prompts go through all layers. What leaving costs in quality
is not predicted; keys and values of skipped layers are taken to be filled in for free. ``simulate`` prices it step by
step; elsewhere the layers of section ``j`` are skipped by ``1 - (1 - p)^j`` of the tokens of an answer, ramps for free.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import InputError, Problem, suggest
from steelyard.simulation.kernel.methods import MOST_RAMPS
from steelyard.techniques._base import Citation, PoolFit, Technique
from steelyard.techniques.sparsity import with_layers
from steelyard.units import Quantity
from steelyard.workload.shapes import Layer, Shapes, Skip

__all__ = ["EarlyExit"]


@dataclass(frozen=True)
class EarlyExit(Technique):
    """Ramps and who leaves there."""

    name: ClassVar[str] = "early-exit"
    layer: ClassVar[str] = "decoding"
    costs: ClassVar[str] = "accuracy, and exits to train"
    paper: ClassVar[Citation] = Citation("Confident adaptive language modeling", "arXiv:2207.07061")
    effect: ClassVar[str] = "output tokens run through part of the layers"
    slot: ClassVar[str] = "depth"
    in_steps: ClassVar[bool] = True
    keys: ClassVar[Mapping[str, str]] = {"p": "exit_frac"}

    ramps: Annotated[int, Quantity("1", "exits before the last layer", ge=1, le=MOST_RAMPS)] = 1
    exit_frac: Annotated[float, Quantity("1", "probability to leave at a ramp that is reached", ge=0, le=1)] = 0.3
    rebatch: Annotated[bool, "sections run for those that are left only"] = False
    head: Annotated[bool, "a ramp costs the product with the vocabulary (softmax confidence); else it is free"] = False

    @classmethod
    def from_flag(cls, text: str, label: str) -> EarlyExit:
        """Read ``ramps=3,p=0.3`` or ``rebatch:ramps=3,p=0.3,head=1``."""
        head, colon, rest = text.strip().partition(":")
        if colon and head.strip().lower() != "rebatch":
            hint = "did you mean 'rebatch'?" if suggest(head, ["rebatch"]) else "known: rebatch"
            raise InputError(f"unknown word {head!r}; {hint}", field=label)
        return cls.read(f"rebatch,{rest}" if colon else text, label)

    @property
    def depth_frac(self) -> float:
        """Mean share of the layers a token of its own runs through: ``sum_j (1 - p)^j / (ramps + 1)``."""
        return sum((1 - self.exit_frac) ** j for j in range(self.ramps + 1)) / (self.ramps + 1)

    def conflict(self, other: Technique) -> str:
        """Verification needs all layers."""
        return "verification needs all layers" if other.slot == "speculation" else ""

    def applies(self, scenario: Any) -> list[Problem]:
        """No layers to leave."""
        model = scenario.transformer
        return [] if isinstance(model, Shapes) else [Problem(self.name, f"{model.name} is no stack of layers")]

    def scenario(self, scenario: Any) -> Any:
        """A static batch: the layers of each section with those that left before."""
        if scenario.verb == "simulate":
            return scenario
        note = f"early exit: a token of an answer runs through {self.depth_frac:.0%} of the layers"
        layers = (part for layer in scenario.transformer.layers for part in self._sections(layer))
        return with_layers(scenario, tuple(layers), note)

    def _sections(self, layer: Layer) -> Iterator[Layer]:
        """A kind of layers by section."""
        ends = [round(layer.count * (j + 1) / (self.ramps + 1)) for j in range(self.ramps + 1)]
        for j, (start, end) in enumerate(itertools.pairwise((0, *ends))):
            left = 1.0 - (1.0 - self.exit_frac) ** j
            if end > start:
                skip = Skip(left, left, not self.rebatch, answers=True) if left else None
                yield replace(layer, count=end - start, skip=skip)

    def fit(self, pool: PoolFit) -> None:
        """Ramps of the model."""
        record = pool.record
        record["plain"] = 0
        record["ramps"], record["exit_frac"] = self.ramps, self.exit_frac
        record["rebatch"], record["ramp_rows"] = int(self.rebatch), int(self.head)
        pool.notes.append(
            "early exit: keys and values of skipped layers are filled in for free; quality is not predicted"
        )

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """How deep a token goes."""
        way = "sections run for those that are left" if self.rebatch else "sections run while any of a batch is left"
        yield "early exit", f"a token of its own runs through {self.depth_frac:.0%} of the layers; {way}"
