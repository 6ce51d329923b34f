"""Caches of chunks of text found at any place of a prompt, not only at its beginning.

Of the tokens of a prompt a share ``hit`` lies in chunks whose keys and values are kept; ``recompute`` of those are
computed nevertheless, to repair what other context would have changed (CacheBlend, arXiv:2405.16444: 15 %; APE,
arXiv:2502.05431: none). The others are computed, all attend to the whole prompt:

    T = max(T_prompt(new = (1 - hit (1 - recompute)) L), T_load) + T_load / layers,   T_load = hit L kv_bytes / rate

the load of a layer runs beside the computing of the one before. ``rate`` 0: the chunks are in the device's memory.
What it costs in accuracy is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.cost import BOUNDS
from steelyard.cost.memory import kv_bytes
from steelyard.cost.step import StepFigures
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import no_cache
from steelyard.techniques.sparsity import noted
from steelyard.units import Quantity
from steelyard.workload.step import Step

__all__ = ["ChunkCache"]


@dataclass(frozen=True)
class ChunkCache(Technique):
    """See the module's text."""

    name: ClassVar[str] = "chunk-cache"
    layer: ClassVar[str] = "kvcache"
    costs: ClassVar[str] = "accuracy, as chunks do not see each other; space to keep them"
    paper: ClassVar[Citation] = Citation(
        "CacheBlend: fast large language model serving for RAG with cached knowledge fusion", "arXiv:2405.16444"
    )
    effect: ClassVar[str] = "chunks of a prompt are found in a cache wherever they stand, few of their tokens computed"
    batch_only: ClassVar[bool] = True
    slot: ClassVar[str] = "prompt"
    first: ClassVar[str] = "hit"

    hit: Annotated[float, Quantity("1", "share of a prompt's tokens in cached chunks", ge=0, le=1)] = 0.8
    recompute: Annotated[float, Quantity("1", "share of those that are computed nevertheless", ge=0, le=1)] = 0.15
    rate: Annotated[
        float, Quantity("B/s", "at which a device reads cached chunks; 0 = they are in its memory", ge=0, le=1e15)
    ] = 0.0

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without a cache."""
        return no_cache(self.name, scenario.transformer)

    def scenario(self, scenario: Any) -> Any:
        """What the answer says of it."""
        words = f"{self.hit:.0%} of a prompt in cached chunks, {self.recompute:.0%} of those computed nevertheless"
        return noted(scenario, f"chunk-cache: {words}")

    def prompting(self, scenario: Any, batch: Any, prompt: Any, step: StepFigures) -> StepFigures:
        """The tokens that are computed, beside the load of the others."""
        length = np.asarray(prompt, dtype=np.float64)
        new = np.maximum(1.0, np.round(length * (1.0 - self.hit * (1.0 - self.recompute))))
        made: StepFigures = scenario.replica.steps(Step(batch, new, length, first=True))
        if not self.rate:
            return made
        loaded = kv_bytes(scenario.transformer, scenario.plan, batch, np.round(length * self.hit)) / self.rate
        time = np.maximum(made.time_s, loaded) + loaded / scenario.transformer.depth
        shares = {name: made.shares[name] * made.time_s / time for name in BOUNDS}
        shares["network"] = shares["network"] + (time - made.time_s) / time
        return replace(made, time_s=time, shares=shares)
