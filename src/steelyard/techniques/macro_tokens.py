"""Several tokens from one pass of the model: a small decoder writes them out, and they leave one cache entry.

A pass gives ``tokens`` m tokens on average: a decoder of ``layers`` of the model's layers writes them one by one from
its last hidden state, an embedder merges them into one entry (HAMburger, arXiv:2505.20438):

    T_token = (T_pass + m T_micro) / m        cache of an answer of L tokens: L / m entries

The head, which scores the vocabulary, is part of the decoder's passes and not of the model's.
Nothing is verified: what the merged passes cost in accuracy is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.memory import kv_bytes
from steelyard.cost.step import Replica, StepFigures
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.guessed_batch import one_after_another, times
from steelyard.techniques.guessers import Draft, Wanted, draft_of
from steelyard.techniques.sparsity import noted
from steelyard.units import Quantity
from steelyard.workload.protocol import restated
from steelyard.workload.shapes import Shapes

__all__ = ["MacroTokens"]


@dataclass(frozen=True)
class MacroTokens(Technique):
    """See the module's text."""

    name: ClassVar[str] = "macro-tokens"
    layer: ClassVar[str] = "decoding"
    costs: ClassVar[str] = "a model trained for several tokens at once"
    paper: ClassVar[Citation] = Citation("HAMburger: accelerating LLM inference via token smashing", "arXiv:2505.20438")
    effect: ClassVar[str] = "a pass of the model gives several tokens, which leave one entry in the cache"
    batch_only: ClassVar[bool] = True
    slot: ClassVar[str] = "macro-tokens"
    first: ClassVar[str] = "tokens"

    tokens: Annotated[float, Quantity("1", "tokens of a pass on average", ge=1, le=1000)] = 2.0
    layers: Annotated[int, Quantity("1", "layers of the decoder that writes them", ge=1, le=1000)] = 1

    @property
    def per_token(self) -> bool:
        """A pass gives several."""
        return True

    def applies(self, scenario: Any) -> list[Problem]:
        """A model that does not decode."""
        model = scenario.transformer
        fine = isinstance(model, Shapes) and model.causal
        return [] if fine else [Problem(self.name, f"{model.name} does not decode token by token")]

    def scenario(self, scenario: Any) -> Any:
        """What the answer says of it."""
        return noted(scenario, f"macro-tokens: a pass gives {self.tokens:.4g} tokens, which leave one entry")

    def micro(self, scenario: Any) -> Draft:
        """The decoder that writes tokens out."""
        found = draft_of(Wanted("eagle", 1, layers=self.layers), scenario.transformer, scenario.plan)
        assert found is not None
        return found

    def answering(self, scenario: Any, batch: Any, context: Any, step: StepFigures) -> StepFigures:
        """A pass with fewer entries, and its tokens written out."""
        base, micro = scenario.replica, self.micro(scenario)
        written = np.maximum(np.asarray(context) - scenario.prompt, 0) / self.tokens
        headless = replace(base, model=restated(base.model, head=False))
        whole = headless.decodes(batch, np.round(scenario.prompt + written))
        engine = replace(base.engine, step_s=base.engine.guess_s, step_s_per_sequence=0.0)
        small = Replica(micro.model, micro.plan, base.cluster, engine)
        each = small.verifies(np.asarray(batch), np.full(np.shape(context), self.tokens), 1)
        return one_after_another([whole, times(each, self.tokens)], self.tokens)

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """Weights of the decoder, less cache of answers."""
        model, plan = scenario.transformer, scenario.plan
        prompt = np.minimum(scenario.prompt, context)
        merged = prompt + np.ceil((np.asarray(context) - prompt) / self.tokens)
        less = kv_bytes(model, plan, batch, merged) - kv_bytes(model, plan, batch, context)
        return self.micro(scenario).weight_bytes + less
