"""What a rank of every stage holds at the moment it holds most.

Weights, gradients, the optimizer's state (cut by ZeRO), activations that wait for their backward pass (of as many
micro-batches as the schedule has in flight), scores over the vocabulary, and what passes: the gradient of the largest
weight with the widest activation, parameters gathered for a layer, buffers. Allocators reserve more than they allocate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.deployment.formats import find_format
from steelyard.deployment.train_plan import TrainPlan
from steelyard.training.schedule import in_flight
from steelyard.training.step import StepParts, adapters_on, ranks_of, weights_on

__all__ = ["PARTS", "StageMemory", "memory_of"]

#: Parts of the memory of a stage.
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
#: Layers whose parameters are whole at once under ZeRO 3: the one that runs and the one that is fetched.
GATHERED_LAYERS = 2.0


@dataclass(frozen=True, eq=False, slots=True)
class StageMemory:
    """Of one stage, bytes, arrays over scenarios."""

    parts: Mapping[str, Any]
    allocated_bytes: Any
    reserved_bytes: Any
    """With what allocators hold beside it, and what lies outside of them."""


def memory_of(parts: StepParts, plan: TrainPlan, stages: tuple[tuple[float, ...], ...]) -> tuple[StageMemory, ...]:
    """The memory of every stage at its fullest.

    Args:
        parts: of a micro-batch.
        plan: degrees, formats, framework, optimizer.
        stages: layers of every kind on each stage.
    """
    flight = in_flight(plan.schedule, plan.pp, plan.micro_batches, plan.vp, np.arange(plan.pp))
    return tuple(_stage(parts, plan, stages, i, float(flight[i])) for i in range(plan.pp))


def _stage(
    parts: StepParts, plan: TrainPlan, stages: tuple[tuple[float, ...], ...], i: int, flight: float
) -> StageMemory:
    framework, optimizer = plan.framework, plan.optimizer
    dense, experts = weights_on(parts, stages, i)
    _, cut = ranks_of(plan)
    trained = adapters_on(parts, stages[i]) if plan.frozen else dense
    routed = np.zeros_like(np.asarray(experts, dtype=np.float64)) if plan.frozen else experts
    stored = _weight_bytes(plan)
    copies = 2.0 if plan.precision in ("fp8", "fp8_block", "mxfp8", "nvfp4") and not plan.frozen else 0.0
    kept = framework.gradient_bits / 8 if optimizer.gradient else 0.0
    state = optimizer.state_bytes + optimizer.master_bytes
    by_weights, by_gradients, by_state = ((cut, plan.expert_dp) if plan.zero >= z else (1, 1) for z in (3, 2, 1))
    layer = max(parts.layers, key=lambda k: float(np.max(k.weights + k.expert_weights)))
    weights = dense * stored / by_weights[0] + experts * stored / by_weights[1]
    weights = weights + (trained * 2.0 if plan.frozen else copies * (dense + experts) / by_weights[0])
    gradients = trained * kept / by_gradients[0] + routed * kept / by_gradients[1]
    held = trained * state / by_state[0] + routed * state / by_state[1]
    buffers: Any = framework.buffer_bytes
    if plan.zero >= 3:
        buffers = buffers + GATHERED_LAYERS * (layer.weights + layer.expert_weights) * stored
        buffers = buffers + (0.0 if plan.frozen else (layer.weights + layer.expert_weights) * kept)
    layers: Any = sum((n * k.kept_bytes for n, k in zip(stages[i], parts.layers, strict=True)), 0.0)
    activations = layers * flight
    if plan.recompute:  # the layer that is computed again keeps everything for a moment
        activations = activations + max((float(np.max(k.again_bytes)) for k in parts.layers), default=0.0)
    largest = np.max([np.max(k.largest) for k in parts.layers]) * kept * (0.0 if plan.frozen else 1.0)
    widest = np.max([np.max(k.widest_bytes) for k in parts.layers])
    buffers = buffers + largest + widest
    logits: Any = 0.0
    if i == plan.pp - 1:
        logits = parts.logits * framework.logit_bytes
    if i == 0:
        activations = activations + parts.first.kept_bytes * flight
    if i == plan.pp - 1:
        activations = activations + parts.last.kept_bytes
    found = dict(zip(PARTS, (weights, gradients, held, activations, logits, buffers), strict=True))
    allocated: Any = sum((np.asarray(v, dtype=np.float64) for v in found.values()), np.float64(0.0))
    return StageMemory(found, allocated, allocated * framework.reserved_frac + framework.context_bytes)


def _weight_bytes(plan: TrainPlan) -> float:
    """Bytes of a weight as it is kept."""
    if plan.task == "qlora":
        return find_format("nf4").stored_bits / 8
    return 4.0 if plan.precision in ("fp32", "tf32") else 2.0
