"""A pass of another model over the prompt: instead of the model's own, or beside it for entries that it appends.

    instead     T = T_aux(prompt) + T_projection          a small model reads, its keys and values are projected to the
                                                          model's, layer by layer (KV Prediction, arXiv:2410.08391)
    latents=n   T = T_prompt + T_aux(n tokens after it)   a coprocessor of the model's own size appends n entries
                                                          (differentiable cache augmentation, arXiv:2412.17747)

The projection of a layer has the width of the auxiliary model's keys and values on one side and of the model's on the
other. With ``asynchronous`` the pass costs energy and no time. Accuracy is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np

from steelyard.cost.memory import kv_bytes, weight_bytes
from steelyard.cost.step import Replica, StepFigures
from steelyard.errors import Problem
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques.guessed_batch import one_after_another
from steelyard.techniques.guessers import plan_beside
from steelyard.techniques.refusals import refused_by
from steelyard.techniques.sparsity import noted
from steelyard.units import Quantity
from steelyard.workload.catalogue import load_model
from steelyard.workload.shapes import Beside, Layer, Shapes
from steelyard.workload.step import Step
from steelyard.workload.transformer import Transformer, transformer_of

__all__ = ["Auxiliary"]


@dataclass(frozen=True)
class Auxiliary(Technique):
    """See the module's text."""

    name: ClassVar[str] = "auxiliary"
    layer: ClassVar[str] = "kvcache"
    costs: ClassVar[str] = "a second model to train, and its memory"
    paper: ClassVar[Citation] = Citation("KV prediction for improved time to first token", "arXiv:2410.08391")
    effect: ClassVar[str] = "another model reads the prompt, instead of the model or to append entries to its cache"
    batch_only: ClassVar[bool] = True
    slot: ClassVar[str] = "prompt"
    first: ClassVar[str] = "model"

    model: Annotated[str, "the auxiliary model; empty = one like the model itself"] = ""
    instead: Annotated[bool, "the model does not read the prompt: keys and values are projected"] = False
    latents: Annotated[int, Quantity("1", "entries that are appended to the cache", ge=0, le=1e6)] = 0
    asynchronous: Annotated[bool, "nothing waits for the pass"] = False

    def problems(self) -> list[Problem]:
        """Nothing to do, or a model no one knows."""
        if not self.instead and not self.latents:
            return [Problem(self.name, "expected instead, or latents=16 entries to append")]
        if self.instead and not self.model:
            return [Problem(self.name, "instead needs the model that reads: auxiliary:llama-3.2-1b,instead")]
        return refused_by(self.name, lambda: self.reader)

    @cached_property
    def reader(self) -> Transformer | None:
        """The auxiliary model; None: one like the model itself."""
        return transformer_of(load_model(self.model).transformer, "an auxiliary model") if self.model else None

    def applies(self, scenario: Any) -> list[Problem]:
        """A model without a cache."""
        model = scenario.transformer
        if not isinstance(model, Shapes) or not model.causal:
            return [Problem(self.name, f"{model.name} is no decoder of layers")]
        return []

    def scenario(self, scenario: Any) -> Any:
        """What the answer says of it."""
        who = self.model or "one like the model"
        what = "reads the prompt instead of it" if self.instead else f"appends {self.latents:,} entries"
        return noted(scenario, f"auxiliary: {who} {what}")

    def replicas_of(self, scenario: Any) -> tuple[Replica, Replica]:
        """What prices the auxiliary model, and the projection of its cache."""
        base = scenario.replica
        reader = self.reader or scenario.transformer
        plan = plan_beside(reader, scenario.plan)
        aux = Replica(reader, plan, replace(base.cluster, count=plan.tp), base.engine)
        model = scenario.transformer
        sides = (x.kv_elements_per_token / x.depth for x in (reader, model))
        width, outputs = (max(1, round(x)) for x in sides)
        layer = Layer(model.depth, None, None, norms=0, beside=(Beside("kv_projection", width, outputs),))
        maps = Transformer("projection", "", width, 1, (layer,), head=False, final_norm=False)
        return aux, Replica(maps, scenario.plan, base.cluster, replace(base.engine, step_s=0.0))

    def prompting(self, scenario: Any, batch: Any, prompt: Any, step: StepFigures) -> StepFigures:
        """The pass, instead of the prompt's or after it."""
        aux, maps = self.replicas_of(scenario)
        length = np.asarray(prompt, dtype=np.float64)
        parts = []
        if self.instead:
            parts = [aux.prompts(batch, length), maps.steps(Step(batch, length, length))]
        if self.latents:
            parts.append(aux.steps(Step(batch, float(self.latents), length + self.latents)))
        found = one_after_another(parts if self.instead else [step, *parts])
        return replace(step, energy_j=found.energy_j) if self.asynchronous and not self.instead else found

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """Weights of the auxiliary model, and the entries."""
        aux, maps = self.replicas_of(scenario)
        weights = weight_bytes(aux.model, aux.plan)
        weights += weight_bytes(maps.model, maps.plan) if self.instead else 0.0
        if not self.latents:
            return weights
        model, plan = scenario.transformer, scenario.plan
        more = kv_bytes(model, plan, batch, context + self.latents) - kv_bytes(model, plan, batch, context)
        return weights + more
