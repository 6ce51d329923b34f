"""Answers of another length: reasoning cut short or drawn out, and reasoning in segments that begin afresh.

Answers have ``factor`` times the tokens (length control and training for it: below 1; attacks: above 1) and ``more``
beside. With ``segment`` an answer is written in parts of so many tokens; each begins with the prompt and a ``summary``
of what came before (InftyThink, arXiv:2503.06692), so that the cache holds one part:

    tokens    L (1 + summary / segment)
    context   prompt + summary + segment / 2 on average, prompt + summary + segment at most
    prompts   one of prompt + summary tokens per segment, beside

What lengths do to the quality of answers is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.memory import kv_bytes
from steelyard.cost.step import StepFigures
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.guessed_batch import one_after_another, times
from steelyard.techniques.refusals import no_answers
from steelyard.techniques.sparsity import noted
from steelyard.traffic.trace import MAX_TOKENS, Trace
from steelyard.units import Quantity

__all__ = ["AnswerLength"]


@dataclass(frozen=True)
class AnswerLength(Technique):
    """See the module's text."""

    name: ClassVar[str] = "answer-length"
    layer: ClassVar[str] = "decoding"
    costs: ClassVar[str] = "accuracy, where the answers that are cut were needed"
    paper: ClassVar[Citation] = Citation(
        "InftyThink: breaking the length limits of long-context reasoning in large language models", "arXiv:2503.06692"
    )
    effect: ClassVar[str] = "answers have more or fewer tokens, or are written in segments that begin afresh"
    slot: ClassVar[str] = "answer-length"
    first: ClassVar[str] = "factor"

    factor: Annotated[float, Quantity("1", "tokens of an answer, relative to what is asked for", gt=0, le=1e4)] = 1.0
    more: Annotated[int, Quantity("1", "tokens beside", ge=0, le=1e7)] = 0
    segment: Annotated[int, Quantity("1", "tokens of a segment; 0 = one answer", ge=0, le=1e7)] = 0
    summary: Annotated[int, Quantity("1", "tokens each segment hands on", ge=0, le=1e7)] = 0

    def problems(self) -> list[Problem]:
        """Nothing to do."""
        if self.factor == 1 and not self.more and not self.segment:
            return [Problem(self.name, "expected a factor, more tokens or a segment, such as answer-length:0.5")]
        if self.summary and not self.segment:
            return [Problem(self.name, "a summary is handed on between segments: give segment too")]
        return []

    def applies(self, scenario: Any) -> list[Problem]:
        """A model that answers nothing; segments while requests run."""
        if found := no_answers(self.name, scenario.transformer):
            return found
        if self.segment and scenario.verb != "estimate":
            return [Problem(self.name, f"segments are priced for a static batch: {scenario.verb} cannot play them")]
        return []

    def scenario(self, scenario: Any) -> Any:
        """What the answer says of it."""
        parts = f", in segments of {self.segment:,} tokens" if self.segment else ""
        more = f" and {self.more:,} more" if self.more else ""
        return noted(scenario, f"answer-length: {self.factor:.4g} times the tokens asked for{more}{parts}")

    @property
    def per_token(self) -> bool:
        """With segments."""
        return self.segment > 0

    def lengths(self, prompt: Any, answer: Any) -> tuple[Any, Any]:
        """The answer's."""
        asked = np.asarray(answer, dtype=np.float64) * self.factor + self.more
        return prompt, np.clip(np.round(asked), 1, MAX_TOKENS).astype(np.int64)

    def trace(self, trace: Trace, seed: int) -> Trace:
        """The answers'."""
        return replace(trace, osl=self.lengths(trace.isl, trace.osl)[1])

    def answering(self, scenario: Any, batch: Any, context: Any, step: StepFigures) -> StepFigures:
        """With segments: a token in a shorter context, its part of the summary and of the prompt read again."""
        if not self.segment:
            return step
        prompt = np.asarray(scenario.prompt, dtype=np.float64) + self.summary
        token = scenario.replica.decodes(batch, np.minimum(context, prompt + self.segment / 2))
        again = scenario.replica.prompts(np.asarray(batch), prompt)
        written = times(token, 1 + self.summary / self.segment)
        return one_after_another([written, times(again, 1 / self.segment)])

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """With segments: less cache."""
        if not self.segment:
            return 0.0
        model, plan = scenario.transformer, scenario.plan
        most = np.minimum(context, np.asarray(scenario.prompt) + self.summary + self.segment)
        return kv_bytes(model, plan, batch, most) - kv_bytes(model, plan, batch, context)
