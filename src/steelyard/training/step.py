"""The time of a training step: micro-batches through the stages of a pipeline, then gradients and the update.

``step = m (f + b) + bubble + sends + exposed data-parallel traffic + update``, with ``f`` and ``b`` the slowest stage's
forward and backward pass of a micro-batch. A :class:`Layout` may be arrays over thousands of layouts, with parts of as
many (:mod:`steelyard.training.layers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from steelyard.cost.site import Site
from steelyard.cost.train_kernels import elementwise_time
from steelyard.deployment.train_plan import TrainPlan
from steelyard.training.layers import LayerKind, StepParts
from steelyard.training.offload import host_rates
from steelyard.training.schedule import bubble_s
from steelyard.training.traffic import Links

__all__ = [
    "BREAKDOWN",
    "Layout",
    "StepCost",
    "end_of_step",
    "ends_on",
    "held_on",
    "layers_on",
    "stages_of",
    "step_of",
]

#: Parts of a step, in words.
BREAKDOWN: Mapping[str, str] = {
    "gemm": "products",
    "attention": "attention",
    "elementwise": "elementwise",
    "head_loss": "head and loss",
    "recompute": "computed again",
    "tp": "tensor-parallel traffic",
    "cp": "context-parallel traffic",
    "ep": "experts' exchange",
    "pp_bubble": "pipeline bubble",
    "pp_send": "sends between stages",
    "dp": "data-parallel traffic",
    "optimizer": "update",
    "host": "waiting for the host",
    "offload": "copies to and from the host",
}
#: Sharpness of the change from device-bound to host-bound layers.
BLEND = 4.0
#: Share of the matrix peak that an optimizer's own products reach (guess).
UPDATE_FRAC = 0.5
#: Host time of a layer's backward pass over that of its forward pass: one engine in C++ walks the graph (guess).
HOST_BACK = 1.0
#: Of a send between stages in the steady state, what no work covers (guess).
SEND_EXPOSED = 0.2


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """How layers, experts and replicas lie over devices; numbers, or arrays over layouts."""

    tp: Any
    cp: Any
    ep: Any
    etp: Any
    pp: Any
    vp: Any
    dp: Any
    zero: Any
    shard: Any
    micro_batches: Any

    @classmethod
    def of(cls, plan: TrainPlan) -> Layout:
        """That of a plan."""
        return cls(**{f.name: getattr(plan, f.name) for f in fields(cls)})

    @property
    def expert_stride(self) -> Any:
        """How far ranks that hold the same experts lie apart."""
        return np.asarray(self.ep) * self.etp

    def ranks(self) -> tuple[Any, Any]:
        """Ranks that hold the same dense weights, and those over which ZeRO cuts them."""
        whole = np.asarray(self.dp) * self.cp
        return whole, np.minimum(whole, np.asarray(self.shard) * self.cp)

    def gathers(self, plan: TrainPlan) -> Any:
        """Whether parameters are gathered layer by layer, and gradients scattered: ZeRO 3 where no stage keeps them."""
        return (np.asarray(self.zero) >= 3) & ~((np.asarray(self.pp) > 1) & plan.framework.stage_whole)

    def expert_ranks(self) -> Any:
        """Ranks that hold the same experts."""
        return np.maximum(1, np.asarray(self.tp) * self.cp * self.dp // self.expert_stride)


@dataclass(frozen=True, eq=False, slots=True)
class StepCost:
    """A step, arrays over scenarios, in s."""

    step_s: Any
    breakdown_s: Mapping[str, Any]
    forward_s: Any
    """Of the slowest stage and micro-batch."""
    backward_s: Any
    weight_s: Any
    """Of the backward pass, gradients of weights."""
    send_s: Any
    flops: Any
    """Operations of a rank in a step, forward and backward, without what is computed again."""
    again_flops: Any
    limit_s: Any


def layers_on(parts: StepParts, pp: Any, vp: Any, stage: Any) -> list[Any]:
    """Layers of every kind on a stage, in order.

    Equal shares where layers divide into chunks. Else chunks are filled up and what is missing is missed by the first
    and the last stage, which have the embedding and the head (Megatron's split that counts both as layers); where that
    leaves a chunk with less than nothing, shares are equal, in parts of a layer.
    """
    if parts.placed is not None:
        return [row[np.asarray(stage, dtype=np.int64)] for row in parts.placed]
    total, stages = sum(kind.count for kind in parts.layers), np.asarray(pp, dtype=np.float64)
    each = np.ceil(total / (stages * vp))
    missed = each * stages * vp - total
    first = missed // 2
    filled = (missed > 0) & (missed - first <= each) & (stages > 1)
    share, before = np.where(filled, each * vp, total / stages), np.where(filled, first, 0.0)
    low, high = (np.clip(x * share - before, 0.0, total) for x in (stage, stage + 1))
    found, at = [], 0.0
    for kind in parts.layers:
        found.append(np.maximum(0.0, np.minimum(high, at + kind.count) - np.maximum(low, at)))
        at += kind.count
    return found


def held_on(parts: StepParts, layout: Layout, stage: Any) -> tuple[Any, Any, Any]:
    """Elements of a rank on a stage: dense weights, experts' weights, those of adapters."""
    rows = layers_on(parts, layout.pp, layout.vp, stage)
    dense: Any = sum((n * k.weights for n, k in zip(rows, parts.layers, strict=True)), 0.0)
    experts: Any = sum((n * k.expert_weights for n, k in zip(rows, parts.layers, strict=True)), 0.0)
    adapters: Any = sum((n * k.adapters for n, k in zip(rows, parts.layers, strict=True)), 0.0)
    return dense + ends_on(parts, layout, stage), experts, adapters


def ends_on(parts: StepParts, layout: Layout, stage: Any) -> Any:
    """Elements of a rank on a stage that are no layer's: embedding and head."""
    at_end = np.equal(stage, np.asarray(layout.pp) - 1)
    return np.where(np.equal(stage, 0), parts.first.weights, 0.0) + np.where(at_end, parts.last.weights, 0.0)


def step_of(
    parts: StepParts, plan: TrainPlan, links: Links, site: Site, vector: Site, layout: Layout | None = None
) -> StepCost:
    """The time of a step.

    Args:
        parts: of a micro-batch.
        plan, links: how and where; of the plan what splits layers, and its schedule.
        site, vector: where products and elementwise work run.
        layout: other layouts than the plan's, arrays.
    """
    layout = layout or Layout.of(plan)
    p, m = np.asarray(layout.pp), np.asarray(layout.micro_batches)
    parts = _with_waits(parts, plan, layout)
    host, gather, copies = _waits(parts, plan, links, layout)
    each, ends = _passes(parts, host, gather, copies)
    stages = [_stage_s(parts, p, layout.vp, i, each, ends) for i in _places(p)]
    both = np.stack(np.broadcast_arrays(*(s[0] + s[1] for s in stages)))
    slowest = np.argmax(both, axis=0)
    f, b, w = (_picked([s[i] for s in stages], slowest) for i in range(3))
    whole = [
        sum(k.count * x[i] for k, x in zip(parts.layers, each, strict=True)) + ends[0][i] + ends[1][i] for i in range(3)
    ]
    mean_f, mean_b, mean_w = (x / p for x in whole)
    bubble = bubble_s(plan.schedule, p, m, layout.vp, mean_f, mean_b - mean_w, mean_w)
    # one micro-batch passes every stage forward and, but for its weights, backward, whatever the schedule
    bubble = np.maximum(bubble, p * (mean_f + mean_b - mean_w) - m * (f + b))
    send = links.collective_s("send", parts.hidden_bytes, 2, np.asarray(layout.tp) * layout.cp * layout.dp)
    sends = np.where(p > 1, 2.0 * (p - 1) * send + 2.0 * m * layout.vp * send * SEND_EXPOSED, 0.0)
    exposed, update = end_of_step(parts, plan, links, site, vector, layout, b)
    if plan.exchange.behind:
        exposed = np.maximum(exposed - m * (f + b), 0.0)
    exposed = exposed + plan.exchange.round_s / plan.sync_every
    step = m * (f + b) + bubble + sends + exposed + update + plan.framework.step_host_s
    at = np.stack(np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in _places(p))))
    told = _breakdown(parts, _picked(list(at), slowest), layout, host, gather, copies)
    told |= {"pp_send": sends, "optimizer": update, "host": told["host"] + plan.framework.step_host_s}
    told["dp"] = told.pop("gathers") + exposed
    told["pp_bubble"] = np.maximum(step - sum(told.values()), 0.0)
    layers = parts.layers
    flops: Any = sum((k.count * k.flops for k in (*layers, parts.first, parts.last)), 0.0)
    again: Any = sum((k.count * k.again_flops for k in layers), 0.0)
    flops, again = m * (2.0 if plan.frozen else 3.0) * flops / p, m * again / p
    return StepCost(
        step,
        {name: told.get(name, 0.0) + 0.0 * step for name in BREAKDOWN},
        f,
        b,
        w,
        send,
        flops,
        again,
        (flops + again) / site.peak_ops_per_s,
    )


def _waits(parts: StepParts, plan: TrainPlan, links: Links, layout: Layout) -> tuple[list[Any], list[Any], list[Any]]:
    """What a layer of each kind waits for its host, its parameters and its copies, forward and backward."""
    return (
        [_host(kind, plan) for kind in parts.layers],
        [_gathered(kind, plan, links, layout) for kind in parts.layers],
        [_copied(kind, plan, links, layout) for kind in parts.layers],
    )


def _passes(parts: StepParts, *waits: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Forward, backward and weights' pass of a layer of each kind with its waits, and of the ends of the model."""
    each = [
        (k.forward_s() + sum(x[0] for x in w), k.backward_s() + sum(x[1] for x in w), k.wgrad)
        for k, w in zip(parts.layers, zip(*waits, strict=True), strict=True)
    ]
    return each, [(x.forward_s(), x.backward_s(), x.wgrad) for x in (parts.first, parts.last)]


def stages_of(parts: StepParts, plan: TrainPlan, links: Links, stages: Any) -> tuple[list[Any], dict[str, Any]]:
    """Forward, backward and weights' pass of a micro-batch on stages, and where a step of theirs goes.

    Args:
        parts: of a micro-batch, with the layers of every stage where they are unlike.
        plan, links: how and where.
        stages: which, an array.
    """
    layout = Layout.of(plan)
    parts = _with_waits(parts, plan, layout)
    waits = _waits(parts, plan, links, layout)
    passes = _stage_s(parts, plan.pp, plan.vp, stages, *_passes(parts, *waits))
    return passes, _breakdown(parts, stages, layout, *waits)


def _with_waits(parts: StepParts, plan: TrainPlan, layout: Layout) -> StepParts:
    """The parts as the replica with the longest documents has them, whose pairs of attention all others wait for."""
    if plan.packing is None:
        return parts
    longer = 1.0 + plan.packing.waits(float(plan.gbs) * plan.seq, layout.dp)

    def waited(part: str) -> Any:
        return longer if part == "attention" else 1.0

    return replace(parts, layers=[kind.scaled(waited) for kind in parts.layers])


def _places(p: Any) -> tuple[Any, ...]:
    """Stages of which one is the slowest, as kinds of layers lie in runs: the ends, those beside them, the middle."""
    last = p - 1
    return (0 * p, np.minimum(1, last), last // 2, np.maximum(last - 1, 0), last)


def _picked(values: Sequence[Any], index: Any) -> Any:
    stacked = np.stack(np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in values), index)[:-1])
    return np.take_along_axis(stacked, np.asarray(index)[None], 0)[0]


def _stage_s(
    parts: StepParts, p: Any, vp: Any, stage: Any, each: Sequence[Sequence[Any]], ends: Sequence[Sequence[Any]]
) -> list[Any]:
    """Forward, backward and weights' pass of a stage for a micro-batch."""
    rows = layers_on(parts, p, vp, stage)
    holds = (np.where(np.equal(stage, 0), 1.0, 0.0), np.where(np.equal(stage, p - 1), 1.0, 0.0))
    found = []
    for i in range(3):
        time: Any = sum((n * x[i] for n, x in zip(rows, each, strict=True)), 0.0)
        found.append(time + holds[0] * ends[0][i] + holds[1] * ends[1][i])
    return found


def _host(kind: LayerKind, plan: TrainPlan) -> tuple[Any, Any]:
    """What a layer waits for its host, forward and backward: kernels are launched ahead unless they are too short."""
    framework = plan.framework
    each = framework.host_moe_s if kind.experts else framework.host_s
    if framework.graph:
        each = framework.graph_host_s if kind.experts else 0.0
    if not each:
        return 0.0, 0.0

    def excess(device: Any, host: float) -> Any:
        device = np.asarray(device, dtype=np.float64)
        return (device**BLEND + host**BLEND) ** (1.0 / BLEND) - device

    return excess(kind.forward_s(), each), excess(kind.backward_s(), each * HOST_BACK)


def _gathered(kind: LayerKind, plan: TrainPlan, links: Links, layout: Layout) -> tuple[Any, Any]:
    """What a layer waits for its parameters under ZeRO 3, forward and backward, beside its work."""
    whole = layout.gathers(plan)
    if not np.any(whole):
        return 0.0, 0.0
    _, cut = layout.ranks()
    gather: Any = 0.0
    scatter: Any = 0.0
    for elements, ranks, stride in (
        (kind.weights, cut, layout.tp),
        (kind.expert_weights, layout.expert_ranks(), layout.expert_stride),
    ):
        message = np.asarray(elements) * 2.0
        gather = gather + links.collective_s("all_gather", message, ranks, stride)
        scatter = scatter + links.collective_s("reduce_scatter", message, ranks, stride)
    back: Any = gather if plan.framework.reshard else 0.0
    if not plan.frozen and plan.optimizer.gradient:
        back = back + scatter * plan.exchange.traffic
    waits = (np.maximum(0.0, gather - kind.forward_s()), np.maximum(0.0, back - kind.backward_s()))
    return np.where(whole, waits[0], 0.0), np.where(whole, waits[1], 0.0)


def _copied(kind: LayerKind, plan: TrainPlan, links: Links, layout: Layout) -> tuple[Any, Any]:
    """What a layer waits for copies from and to the host."""
    if not plan.offload:
        return 0.0, 0.0
    whole = layout.gathers(plan)
    _, cut = layout.ranks()
    parted = np.where(whole, cut, 1), np.where(whole, layout.expert_ranks(), 1)
    return host_rates(links.cluster).layer_waits(kind, plan, *parted)


def end_of_step(
    parts: StepParts,
    plan: TrainPlan,
    links: Links,
    site: Site,
    vector: Site,
    layout: Layout,
    backward_s: Any,
    stages: Sequence[int] = (),
) -> tuple[Any, Any]:
    """What follows the last micro-batch on the fullest stage: gradients reduced, parameters gathered, the update.

    Of ``stages``; of none given, of the ends and the middle.
    """
    exposed: Any = 0.0
    update: Any = 0.0
    whole, cut = layout.ranks()
    zero, routed_ranks = np.asarray(layout.zero), layout.expert_ranks()
    optimizer, width = plan.optimizer, plan.framework.gradient_bits / 8
    for stage in stages or _places(np.asarray(layout.pp))[::2]:
        dense, experts, adapters = held_on(parts, layout, stage)
        trained, routed = (adapters, 0.0 * experts) if plan.frozen else (dense, experts)
        time: Any = 0.0
        gathers = layout.gathers(plan)
        if not np.all(gathers):
            for size, ranks, stride in ((trained, whole, layout.tp), (routed, routed_ranks, layout.expert_stride)):
                gradient = np.asarray(size) * width
                reduced = links.collective_s("all_reduce", gradient, ranks, stride)
                parted = links.collective_s("reduce_scatter", gradient, ranks, stride)
                parted = parted + links.collective_s("all_gather", np.asarray(size) * 2.0, ranks, stride)
                time = time + np.where(zero == 0, reduced, parted)
        if np.any(gathers):
            copies = links.collective_s("all_reduce", trained * 4.0 / cut, whole // cut, layout.tp * cut)
            time = np.where(gathers, copies, time)
        local = trained / np.where(zero > 0, cut, 1) + routed / np.where(zero > 0, routed_ranks, 1)
        passing = optimizer.update_bytes(2.0, width) + plan.exchange.bytes
        spent = elementwise_time(local * passing, site=vector).time_s
        if optimizer.products:
            spent = spent + local * optimizer.products * 2.0 * parts.hidden / (UPDATE_FRAC * site.peak16_ops_per_s)
        sent = plan.exchange.traffic / plan.sync_every if optimizer.gradient else 0.0
        often = sent * np.where(plan.exchange.gathered, whole / 2.0, 1.0)  # an all-reduce passes everything twice
        if plan.away("optimizer"):
            spent = host_rates(links.cluster).update_s(local, plan, backward_s)
        waited = 1.0 if plan.exchange.behind else plan.framework.dp_exposed
        exposed = np.maximum(exposed, time * waited * often)
        update = np.maximum(update, spent)
    return exposed, update


def _breakdown(
    parts: StepParts,
    stage: Any,
    layout: Layout,
    host: Sequence[tuple[Any, Any]],
    gather: Sequence[tuple[Any, Any]],
    copies: Sequence[tuple[Any, Any]],
) -> dict[str, Any]:
    """Where a rank of a stage spends its micro-batches."""
    p, m = np.asarray(layout.pp), np.asarray(layout.micro_batches)
    rows = layers_on(parts, p, layout.vp, stage)
    found: dict[str, Any] = dict.fromkeys((*list(BREAKDOWN)[:8], "host", "gathers", "offload"), 0.0)
    for n, kind, waits, gathers, copied in zip(rows, parts.layers, host, gather, copies, strict=True):
        for way in (kind.forward, kind.backward):
            for part, time in way.items():
                found[part] = found[part] + m * n * time
        found["recompute"] = found["recompute"] + m * n * kind.again
        found["host"] = found["host"] + m * n * (waits[0] + waits[1])
        found["offload"] = found["offload"] + m * n * (copied[0] + copied[1])
        found["gathers"] = found["gathers"] + m * n * (gathers[0] + gathers[1])
    for end, holds in ((parts.first, np.equal(stage, 0)), (parts.last, np.equal(stage, p - 1))):
        found["head_loss"] = found["head_loss"] + m * np.where(holds, end.forward_s() + end.backward_s(), 0.0)
    return found
