"""Several answers to a prompt, and a verifier that reads them: best of n, beams, trees under a process reward.

``n`` answers are decoded for each prompt, which is read once and whose cache they share. With a ``verifier`` every
answer is read in ``calls`` parts, as it grows (a process reward, one call per step) or at its end (an outcome reward,
one call); prompts are read once and what it has read stays in its cache, unless ``again``:

    T = T_prompt + T_decode(n batch) + sum over calls of T_verifier(n batch sequences, what is new of the answer)

Trees and searches that drop branches early draw fewer tokens: give ``answer-length`` beside it. Workers that share one
cache of what all of them write (Hogwild! inference, arXiv:2504.06261) are ``shared``: each reads what the others wrote.
While requests run, ``--best-of`` and ``--beam`` of ``simulate`` play answers and beams. How right the chosen answer is,
is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.memory import kv_bytes, weight_bytes
from steelyard.cost.step import Replica, StepFigures
from steelyard.deployment.plan import Plan
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.guessed_batch import one_after_another, times
from steelyard.techniques.guessers import plan_beside
from steelyard.techniques.refusals import no_answers, refused_by
from steelyard.techniques.sparsity import noted
from steelyard.units import Quantity
from steelyard.workload.catalogue import load_model
from steelyard.workload.step import Step
from steelyard.workload.transformer import Transformer, transformer_of

__all__ = ["Samples"]

#: The verifier that is as large as the model.
ITSELF = "self"


@dataclass(frozen=True)
class Samples(Technique):
    """See the module's text."""

    name: ClassVar[str] = "samples"
    layer: ClassVar[str] = "decoding"
    paper: ClassVar[Citation] = Citation(
        "Scaling LLM test-time compute optimally can be more effective than scaling model parameters",
        "arXiv:2408.03314",
    )
    effect: ClassVar[str] = "several answers are drawn for each prompt, and a verifier may read them"
    batch_only: ClassVar[bool] = True
    slot: ClassVar[str] = "samples"
    first: ClassVar[str] = "n"

    n: Annotated[int, Quantity("1", "answers of a prompt", ge=1, le=1000)] = 4
    shared: Annotated[bool, "all of them write into one cache and read it"] = False
    verifier: Annotated[str, "model that reads the answers; self = one like the model; empty = none"] = ""
    calls: Annotated[int, Quantity("1", "times it is called for an answer", ge=1, le=100_000)] = 1
    again: Annotated[bool, "it reads everything anew at each call"] = False

    def problems(self) -> list[Problem]:
        """Calls of nobody, a model no one knows."""
        if not self.verifier:
            lone = self.calls > 1 or self.again
            return [Problem(self.name, "calls need a verifier: verifier=self or a model")] if lone else []
        return refused_by(self.name, lambda: self.reader)

    @cached_property
    def reader(self) -> Transformer | None:
        """The verifier; None: one like the model."""
        own = self.verifier in ("", ITSELF)
        return None if own else transformer_of(load_model(self.verifier).transformer, "a verifier")

    def applies(self, scenario: Any) -> list[Problem]:
        """A model that answers nothing."""
        return no_answers(self.name, scenario.transformer)

    def scenario(self, scenario: Any) -> Any:
        """What the answer says of it."""
        many = f"{self.n} answers of each prompt" + (" in one cache" if self.shared else "")
        read = f"; {self.verifier or 'nobody'} reads each in {self.calls} calls" if self.verifier else ""
        return noted(scenario, f"samples: {many}{read}; throughput counts one of them")

    @property
    def per_token(self) -> bool:
        """With one cache."""
        return self.shared

    def samples(self) -> int:
        """Answers of a prompt."""
        return self.n

    def answering(self, scenario: Any, batch: Any, context: Any, step: StepFigures) -> StepFigures:
        """With one cache: what the others wrote is read, too."""
        if not self.shared:
            return step
        written = np.maximum(np.asarray(context) - scenario.prompt, 0)
        found: StepFigures = scenario.replica.decodes(batch, scenario.prompt + self.n * written)
        return found

    def finishing(self, scenario: Any, batch: Any, prompt: Any, answer: Any) -> StepFigures | None:
        """The verifier's calls for all answers."""
        if not self.verifier:
            return None
        base = scenario.replica
        replica = Replica(self._model(scenario), self._plan(scenario), base.cluster, base.engine)
        many, whole, part = (np.asarray(x, dtype=np.float64) for x in (batch, prompt, np.asarray(answer) / self.calls))
        middle = whole + part * (self.calls + 1) / 2  # the mean of what is there at a call
        if self.again:
            return times(_read(replica, many, middle, middle), self.calls)
        parts = [_read(replica, many / self.n, whole, whole), times(_read(replica, many, part, middle), self.calls)]
        return one_after_another(parts)

    def _model(self, scenario: Any) -> Any:
        return self.reader or scenario.transformer

    def _plan(self, scenario: Any) -> Plan:
        if self.reader is None:
            plan: Plan = scenario.plan
            return plan
        return plan_beside(self.reader, scenario.plan)

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """The caches of the other answers, whose prompt is the first one's; the verifier's weights."""
        model, plan = scenario.transformer, scenario.plan
        prompt = np.minimum(scenario.prompt, context)
        each = kv_bytes(model, plan, batch, context) - kv_bytes(model, plan, batch, prompt)
        weights = weight_bytes(self._model(scenario), self._plan(scenario)) if self.verifier else 0.0
        return (self.n - 1) * each + weights


def _read(replica: Replica, batch: Any, new: Any, context: Any) -> StepFigures:
    """So many sequences read, in steps of as many as the engine's budget of tokens takes."""
    most = np.maximum(1.0, np.floor(replica.engine.max_batched_tokens / np.maximum(new, 1.0)))
    together = np.minimum(batch, most)
    step = replica.steps(Step(together, new, context, first=True))
    scaled = {name: getattr(step, name) * batch / together for name in ("time_s", "limit_s", "energy_j")}
    return StepFigures(**scaled, spread=step.spread, shares=step.shares, sources=step.sources)
