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

from steelyard.deployment.train_plan import TrainPlan
from steelyard.training.layers import StepParts
from steelyard.training.schedule import in_flight
from steelyard.training.step import Layout, ends_on, held_on, layers_on

__all__ = ["PARTS", "StageMemory", "memory_of"]

#: Parts of the memory of a stage.
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
#: Layers whose parameters are whole at once under ZeRO 3: the one that runs and the one that is fetched.
GATHERED_LAYERS = 2.0
#: Formats of products that keep converted copies of weights, along rows and along columns.
_COPIED = ("fp8", "fp8_block", "mxfp8", "nvfp4")


@dataclass(frozen=True, eq=False, slots=True)
class StageMemory:
    """Of one stage, bytes, arrays over scenarios."""

    parts: Mapping[str, Any]
    allocated_bytes: Any
    reserved_bytes: Any
    """With what allocators hold beside it, and what lies outside of them."""
    host_bytes: Any = 0.0
    """In the memory of the host, of what was moved there."""


def memory_of(parts: StepParts, plan: TrainPlan, stage: Any, layout: Layout | None = None) -> StageMemory:
    """The memory of a stage at its fullest.

    Args:
        parts: of a micro-batch.
        plan: what splits layers, formats, framework, optimizer.
        stage: which; an array where the layouts are.
        layout: other layouts than the plan's, arrays.
    """
    layout = layout or Layout.of(plan)
    framework, optimizer = plan.framework, plan.optimizer
    dense, experts, adapters = held_on(parts, layout, stage)
    _, cut = layout.ranks()
    zero, routed_ranks = np.asarray(layout.zero), layout.expert_ranks()
    models = 1.0 + plan.critics
    trained, routed = (adapters, 0.0 * np.asarray(experts)) if plan.frozen else (dense, experts)
    stored = parts.stored_bytes
    alone = plan.frozen or (framework.narrow_weights and not plan.precision.startswith("nvfp4"))
    copies = 2.0 if plan.precision in _COPIED and not alone else 0.0
    kept = framework.gradient_bits / 8 if optimizer.gradient else 0.0
    state = optimizer.state_bytes + optimizer.master_bytes
    gathers = layout.gathers(plan)
    kept_whole = (zero >= 3) & ~gathers
    by_weights, by_gradients, by_state = (
        (np.where(parted, cut, 1), np.where(parted, routed_ranks, 1))
        for parted in (gathers, (zero >= 2) & ~kept_whole, zero >= 1)
    )
    most = _most([k.weights + k.expert_weights for k in parts.layers])
    weights = dense * stored / by_weights[0] + experts * stored / by_weights[1]
    weights = weights + (trained * 2.0 if plan.frozen else copies * (dense / by_weights[0] + experts / by_weights[1]))
    if kept_wide := max(2.0 - stored, 0.0):  # embedding and head are not cut to few bits
        weights = weights + kept_wide * ends_on(parts, layout, stage) / by_weights[0]
    weights = weights * models + 2.0 * plan.references * (dense / by_weights[0] + experts / by_weights[1])
    host: Any = 0.0
    if place := plan.away("parameters"):  # the layer that runs and the one that is fetched
        host = host + weights * (place == "host")
        weights = np.minimum(weights, GATHERED_LAYERS * most * stored / by_weights[0])
    buffers: Any = framework.buffer_bytes
    buffers = buffers + np.where(gathers, most * (GATHERED_LAYERS * stored + (0.0 if plan.frozen else kept)), 0.0)
    buffers = buffers + _most([k.largest for k in parts.layers]) * (0.0 if plan.frozen else kept)
    buffers = buffers + _most([k.widest_bytes for k in parts.layers])
    flight = in_flight(plan.schedule, layout.pp, layout.micro_batches, layout.vp, stage)
    if plan.schedule == "interleaved":  # of stages in one piece 1F1B, as frameworks run it
        one = in_flight("1f1b", layout.pp, layout.micro_batches, 1, stage)
        flight = np.where(np.asarray(layout.vp) > 1, flight, one)
    rows = layers_on(parts, layout.pp, layout.vp, stage)
    layers: Any = sum((n * k.kept_bytes for n, k in zip(rows, parts.layers, strict=True)), 0.0)
    if plan.away("activations"):
        host = host + layers * flight
        layers = np.minimum(layers, GATHERED_LAYERS * _most([k.kept_bytes for k in parts.layers]))
        flight = np.ones(1)
    # the layer that is computed again keeps everything for a moment
    activations = layers * flight + _most([k.again_bytes for k in parts.layers])
    first, last = np.equal(stage, 0), np.equal(stage, np.asarray(layout.pp) - 1)
    activations = activations + np.where(first, parts.first.kept_bytes * flight, 0.0)
    activations = activations + np.where(last, parts.last.kept_bytes, 0.0)
    found = {
        "weights": weights,
        "gradients": models * (trained * kept / by_gradients[0] + routed * kept / by_gradients[1]),
        "optimizer": models * (trained * state / by_state[0] + routed * state / by_state[1]),
        "activations": activations,
        "logits": np.where(last, parts.logits * framework.logit_bytes, 0.0),
        "buffers": buffers,
    }
    if place := plan.away("optimizer"):
        host = host + (found["optimizer"] + found["gradients"]) * (place == "host")
        found |= {"optimizer": 0.0 * found["optimizer"], "gradients": 0.0 * found["gradients"]}
    devices = np.asarray(layout.tp) * layout.pp * layout.cp * layout.dp
    allocated: Any = sum((np.asarray(v, dtype=np.float64) for v in found.values()), np.float64(0.0))
    return StageMemory(found, allocated, allocated * framework.reserved_frac + framework.outside_bytes(devices), host)


def _most(values: list[Any]) -> Any:
    """The largest of several, for each scenario."""
    found: Any = 0.0
    for value in values:
        found = np.maximum(found, value)
    return found
