"""A prompt that arrives in chunks while the answer is written: what is encoded again on each arrival.

    encodes=new       the chunk                                      (group positions, arXiv:2505.16983)
    encodes=outputs   the chunk and the answer so far
    encodes=all       everything so far

After ``j`` of ``m = prompt / chunk`` arrivals the answer has ``j / m`` of its tokens. Time to first token is that of
the last arrival and ``delay_s`` (look-ahead, emission); energy is that of all arrivals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.step import StepFigures
from steelyard.deployment.engine import Engine
from steelyard.errors import Problem
from steelyard.machine.component import Machine
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.refusals import no_answers
from steelyard.techniques.sparsity import noted
from steelyard.units import Quantity
from steelyard.workload.op import Array
from steelyard.workload.step import Step

__all__ = ["StreamingInput"]

ENCODES = ("new", "outputs", "all")
#: Arrivals that are priced; the energy of the others is that between them.
PRICED = 16


@dataclass(frozen=True)
class StreamingInput(Technique):
    """See the module's text."""

    name: ClassVar[str] = "streaming-input"
    layer: ClassVar[str] = "kvcache"
    paper: ClassVar[Citation] = Citation(
        "LLM as effective streaming processor: bridging streaming-batch mismatches with group position encoding",
        "arXiv:2505.16983",
    )
    effect: ClassVar[str] = "the prompt comes in chunks, and part of what came before is encoded again with each"
    batch_only: ClassVar[bool] = True
    slot: ClassVar[str] = "prompt"
    first: ClassVar[str] = "chunk"

    chunk: Annotated[int, Quantity("1", "tokens of an arrival", ge=1, le=1e8)] = 64
    encodes: Annotated[str, "what is encoded on an arrival: new, outputs or all"] = "new"
    delay_s: Annotated[float, Quantity("s", "wait before a token is given out, beside computing", ge=0, le=1e4)] = 0.0

    def problems(self) -> list[Problem]:
        """An unknown policy."""
        known = self.encodes in ENCODES
        return (
            [] if known else [Problem(self.name, f"expected encodes as new, outputs or all, got {self.encodes!r:.80}")]
        )

    def applies(self, scenario: Any) -> list[Problem]:
        """A model that answers nothing."""
        return no_answers(self.name, scenario.transformer)

    def scenario(self, scenario: Any) -> Any:
        """What the answer says of it."""
        words = f"prompts come in {self.chunk:,} tokens, {self.encodes} encoded at each arrival"
        return noted(scenario, f"streaming-input: {words}; TTFT is that of the last, energy of all")

    def prompting(self, scenario: Any, batch: Any, prompt: Any, step: StepFigures) -> StepFigures:
        """The last arrival; energy of all."""
        length = np.asarray(prompt, dtype=np.float64)
        arrivals = np.maximum(1.0, np.ceil(length / self.chunk))
        answer = np.broadcast_to(np.asarray(scenario.osl), length.shape) if np.ndim(scenario.osl) == 0 else None
        written = np.tile(scenario.osl, len(length) // len(scenario.osl)) if answer is None else answer
        last = self._arrival(scenario, batch, length, written, arrivals, arrivals)
        at = np.linspace(0.0, 1.0, PRICED)
        each = [self._arrival(scenario, batch, length, written, arrivals, 1 + x * (arrivals - 1)) for x in at]
        energy = arrivals * np.mean([figures.energy_j for figures in each], axis=0)
        return replace(last, energy_j=energy)

    def engine(self, engine: Engine, machine: Machine) -> Engine:
        """With the wait before each answer."""
        return replace(engine, request_s=engine.request_s + self.delay_s)

    def _arrival(
        self, scenario: Any, batch: Any, length: Array, answer: Array, arrivals: Array, j: Array
    ) -> StepFigures:
        """The step of arrival ``j``."""
        come, written = np.minimum(length, j * self.chunk), answer * j / arrivals
        new = {"new": 0.0 * come, "outputs": written, "all": come + written}[self.encodes]
        fresh = np.minimum(self.chunk, length)
        new = new if self.encodes == "all" else new + fresh
        context = come + written
        found: StepFigures = scenario.replica.steps(Step(batch, np.maximum(1.0, np.minimum(new, context)), context))
        return found
