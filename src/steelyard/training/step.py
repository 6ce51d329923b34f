"""The time of a training step: micro-batches through the stages of a pipeline, then gradients and the update.

``step = m (f + b) + bubble + sends + exposed data-parallel traffic + update``, with ``f`` and ``b`` the slowest stage's
forward and backward pass of a micro-batch. Everything is an array over scenarios (micro-batch sizes, lengths); degrees
are those of one plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.cost.site import Site
from steelyard.cost.train_kernels import elementwise_time
from steelyard.deployment.train_plan import TrainPlan
from steelyard.training.schedule import bubble_s
from steelyard.training.traffic import Links
from steelyard.training.work import Work

__all__ = [
    "BREAKDOWN",
    "LayerKind",
    "StepCost",
    "StepParts",
    "adapters_on",
    "parts_of",
    "ranks_of",
    "step_of",
    "weights_on",
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
}
#: Sharpness of the change from device-bound to host-bound layers.
BLEND = 4.0
#: Share of the matrix peak that an optimizer's own products reach (guess).
UPDATE_FRAC = 0.5
#: Host time of a layer's backward pass over that of its forward pass: one engine in C++ walks the graph (guess).
HOST_BACK = 1.0


@dataclass(eq=False, slots=True)
class LayerKind:
    """Equal layers: what one of them takes for a micro-batch, in s."""

    name: str
    count: float
    experts: bool = False
    forward: dict[str, Any] = field(default_factory=dict)
    """By part: gemm, attention, elementwise, tp, cp, ep."""
    backward: dict[str, Any] = field(default_factory=dict)
    again: Any = 0.0
    """Computed again in the backward pass."""
    again_flops: Any = 0.0
    wgrad: Any = 0.0
    """Of the backward pass, the gradients of weights."""
    weights: Any = 0.0
    expert_weights: Any = 0.0
    adapters: Any = 0.0
    """Elements that adapters of all its products would have."""
    kept_bytes: Any = 0.0
    """Waiting for the backward pass."""
    again_bytes: Any = 0.0
    """Kept for a moment while the layer is computed again."""
    widest_bytes: Any = 0.0
    """Of the widest tensor between two kernels."""
    largest: Any = 0.0
    """Elements of the largest weight."""
    flops: Any = 0.0

    def add(self, where: dict[str, Any], part: str, time: Any) -> None:
        """Add to a part."""
        where[part] = where.get(part, 0.0) + time

    def forward_s(self) -> Any:
        """The forward pass of a layer."""
        return sum(self.forward.values(), np.float64(0.0))

    def backward_s(self) -> Any:
        """The backward pass of a layer, with what is computed again."""
        return sum(self.backward.values(), np.float64(0.0)) + self.again


@dataclass(eq=False, slots=True)
class StepParts:
    """What a micro-batch takes, before it is put on stages."""

    layers: list[LayerKind]
    first: LayerKind
    last: LayerKind
    hidden: int
    """Elements of a token between layers."""
    hidden_bytes: Any
    """What a stage hands on, of one micro-batch."""
    logits: Any
    """Elements of the scores over the vocabulary."""
    spread: float
    sources: tuple[str, ...]


def parts_of(works: Sequence[Work], plan: TrainPlan, links: Links, hidden: int, tokens: Any) -> StepParts:
    """Gather kernels by layer, with what ranks exchange within one.

    Args:
        works: kernels of a rank for a micro-batch.
        plan, links: how and where.
        hidden: elements of a token between layers.
        tokens: of a micro-batch on one model replica.
    """
    kinds: dict[str, LayerKind] = {}
    ends = {"first": LayerKind("first", 1), "last": LayerKind("last", 1)}
    bits = 8.25 if plan.precision.startswith(("fp8", "mxfp8")) else 16.0
    rows = np.asarray(tokens, dtype=np.float64) / plan.cp
    alone = plan.tp if plan.sequence_parallel else 1
    logits: Any = 0.0
    variance: Any = 0.0
    for w in works:
        count = float(np.max(np.asarray(w.count)))
        kind = (
            ends[w.stage]
            if w.stage
            else kinds.setdefault(w.name.partition(".")[0], LayerKind(w.name.partition(".")[0], count))
        )
        part = {"experts": "gemm", "other": "elementwise"}.get(w.kind, w.kind)
        times = 1.0 if w.stage else count / kind.count  # blocks that repeat inside a layer
        if w.stage:
            times, part = count, "head_loss"
        wgrad = 0.0 if plan.frozen else w.wgrad_s
        kind.add(kind.forward, part, times * w.forward_s)
        kind.add(kind.backward, part, times * (w.dgrad_s + wgrad))
        kind.wgrad = kind.wgrad + times * wgrad
        kind.weights = kind.weights + times * w.weights
        kind.expert_weights = kind.expert_weights + times * w.expert_weights
        kind.flops = kind.flops + times * w.flops
        share, kept = recomputed(w, plan)
        kind.again = kind.again + times * share * w.forward_s
        kind.again_flops = kind.again_flops + times * share * w.flops
        kind.kept_bytes = kind.kept_bytes + times * kept * w.kept_bytes
        kind.again_bytes = kind.again_bytes + times * (1.0 - kept) * w.kept_bytes
        if w.kind in ("gemm", "experts") and not w.stage:
            kind.adapters = kind.adapters + times * plan.rank * (w.facts.get("n", 0.0) + w.facts.get("k", 0.0))
            kind.widest_bytes = np.maximum(kind.widest_bytes, w.facts.get("m", 0.0) * w.facts.get("n", 0.0) * 2.0)
        kind.largest = np.maximum(kind.largest, w.weights + w.expert_weights)
        if w.reduces:
            message = w.facts["tokens"] * w.facts["width"] * 2.0
            forward, backward = links.tensor_s(message, plan)
            _exchange(kind, "tp", forward, backward, share, plan.framework.tp_exposed * times)
        if w.exchanges:
            kind.experts = True
            once = links.experts_s(w.facts, plan, bits)
            _exchange(kind, "ep", once, once, share, plan.framework.ep_exposed * times)
        if "kv_bytes" in w.facts and plan.cp > 1:
            forward, backward = links.context_s(w.facts["kv_bytes"], plan)
            hidden_part = 1.0 - plan.framework.cp_exposed
            kind.add(kind.forward, "cp", times * np.maximum(0.0, forward - hidden_part * w.forward_s))
            kind.add(kind.backward, "cp", times * np.maximum(0.0, backward - hidden_part * w.dgrad_s))
        logits = logits + w.facts.get("logits", 0.0)
        variance = (
            variance + (float(np.max(w.spread)) * times * (1 if w.stage else kind.count) * np.max(w.forward_s)) ** 2
        )
    total = sum(float(np.max(k.forward_s())) * k.count for k in (*kinds.values(), *ends.values()))
    stored = rows * hidden * 2.0 / alone
    if "full" in plan.recompute:
        for kind in kinds.values():
            kind.kept_bytes = stored
    sources = tuple(dict.fromkeys(w.source for w in works if w.source))
    return StepParts(
        list(kinds.values()),
        ends["first"],
        ends["last"],
        hidden,
        stored,
        logits,
        float(np.sqrt(variance)) / max(total, 1e-30),
        sources,
    )


def _exchange(kind: LayerKind, part: str, forward: Any, backward: Any, again: float, exposed: float) -> None:
    """Add an exchange of a layer; where its module is computed again, the forward one is repeated."""
    kind.add(kind.forward, part, exposed * forward)
    kind.add(kind.backward, part, exposed * (backward + again * forward))


def recomputed(work: Work, plan: TrainPlan) -> tuple[float, float]:
    """Of a kernel: the share that is computed again, and the share of what it keeps that still waits."""
    names = set(plan.recompute)
    if work.stage or not names:
        return 0.0, 1.0
    if "full" in names:
        return 1.0, 0.0
    if names & set(work.again):
        return 1.0, 0.0 if "norm" not in work.again else 1.0
    if "half" in names and work.kind in ("gemm", "elementwise"):
        return 0.5, 0.5
    return 0.0, 1.0


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
    stages: tuple[tuple[float, ...], ...]
    """Layers of every kind on each stage."""
    flops: Any
    """Operations of a rank in a step, forward and backward, without what is computed again."""
    again_flops: Any
    limit_s: Any


def layers_on(parts: StepParts, pp: int) -> tuple[tuple[float, ...], ...]:
    """Layers of every kind on each stage, in order, in equal shares; in parts of a layer where they do not divide."""
    total = sum(kind.count for kind in parts.layers)
    share = total / pp
    edges = [kind.count for kind in parts.layers]
    found = []
    for stage in range(pp):
        low, high, at = stage * share, (stage + 1) * share, 0.0
        row = []
        for count in edges:
            row.append(max(0.0, min(high, at + count) - max(low, at)))
            at += count
        found.append(tuple(row))
    return tuple(found)


def step_of(parts: StepParts, plan: TrainPlan, links: Links, site: Site, vector: Site) -> StepCost:
    """The time of a step.

    Args:
        parts: of a micro-batch.
        plan, links: how and where.
        site, vector: where products and elementwise work run.
    """
    p, m = plan.pp, plan.micro_batches
    stages = layers_on(parts, p)
    host = [_host(kind, plan) for kind in parts.layers]
    gather = [_gathered(kind, plan, links) for kind in parts.layers]
    fronts, backs, weights = [], [], []
    for i, row in enumerate(stages):
        forward: Any = sum(
            (n * (k.forward_s() + h[0] + g[0]) for n, k, h, g in zip(row, parts.layers, host, gather, strict=True)), 0.0
        )
        backward: Any = sum(
            (n * (k.backward_s() + h[1] + g[1]) for n, k, h, g in zip(row, parts.layers, host, gather, strict=True)),
            0.0,
        )
        wgrad: Any = sum((n * k.wgrad for n, k in zip(row, parts.layers, strict=True)), 0.0)
        for end in ([parts.first] if i == 0 else []) + ([parts.last] if i == p - 1 else []):
            forward, backward, wgrad = forward + end.forward_s(), backward + end.backward_s(), wgrad + end.wgrad
        fronts.append(forward)
        backs.append(backward)
        weights.append(wgrad)
    both = np.array([np.broadcast_to(f + b, np.shape(f + b)) for f, b in zip(fronts, backs, strict=True)])
    slowest = np.argmax(both, axis=0)
    f, b, w = (np.take_along_axis(np.array(x), slowest[None], 0)[0] for x in (fronts, backs, weights))
    send = links.stage_s(parts.hidden_bytes, plan)
    mean_f, mean_b, mean_w = (np.mean(np.array(x), axis=0) for x in (fronts, backs, weights))
    bubble = bubble_s(plan.schedule, p, m, plan.vp, mean_f, mean_b - mean_w, mean_w)
    sends = 2.0 * (p - 1) * send + (2.0 * m * plan.vp * send * SEND_EXPOSED if p > 1 else 0.0)
    exposed, update = _end(parts, plan, links, site, vector, stages)
    step = m * (f + b) + bubble + sends + exposed + update
    parts_s = _breakdown(parts, plan, stages, slowest, host, gather, m)
    parts_s |= {"pp_send": sends, "optimizer": update}
    parts_s["dp"] = parts_s.pop("gathers") + exposed
    parts_s["pp_bubble"] = np.maximum(step - sum(v for k, v in parts_s.items() if k != "pp_bubble"), 0.0)
    flops: Any = sum((kind.count * kind.flops for kind in (*parts.layers, parts.first, parts.last)), 0.0)
    again: Any = sum((kind.count * kind.again_flops for kind in parts.layers), 0.0)
    passes = 2.0 if plan.frozen else 3.0
    flops, again = m * passes * flops / p, m * again / p
    return StepCost(
        step,
        {name: parts_s.get(name, 0.0) + 0.0 * step for name in BREAKDOWN},
        f,
        b,
        w,
        send,
        stages,
        flops,
        again,
        (flops + again) / site.peak_ops_per_s,
    )


#: Of a send between stages in the steady state, what no work covers.
SEND_EXPOSED = 0.2


def _host(kind: LayerKind, plan: TrainPlan) -> tuple[Any, Any]:
    """What a layer waits for its host, forward and backward: kernels are launched ahead unless they are too short."""
    framework = plan.framework
    graph = framework.graph or (kind.experts and framework.graph_host_s and framework.graph)
    each = framework.graph_host_s if graph else framework.host_moe_s if kind.experts else framework.host_s
    if not each:
        return 0.0, 0.0

    def excess(device: Any, host: float) -> Any:
        device = np.asarray(device, dtype=np.float64)
        return (device**BLEND + host**BLEND) ** (1.0 / BLEND) - device

    return excess(kind.forward_s(), each), excess(kind.backward_s(), each * HOST_BACK)


def ranks_of(plan: TrainPlan) -> tuple[int, int]:
    """Ranks that hold the same dense weights, and those over which ZeRO cuts them."""
    return plan.dp * plan.cp, min(plan.dp * plan.cp, plan.shard * plan.cp)


def _gathered(kind: LayerKind, plan: TrainPlan, links: Links) -> tuple[Any, Any]:
    """What a layer waits for its parameters under ZeRO 3, forward and backward, beside its work."""
    if plan.zero < 3:
        return 0.0, 0.0
    _, cut = ranks_of(plan)
    message = np.asarray(kind.weights) * 2.0
    gather = links.collective_s("all_gather", message, cut, plan.tp)
    scatter = links.collective_s("reduce_scatter", message, cut, plan.tp)
    experts = np.asarray(kind.expert_weights) * 2.0
    gather = gather + links.collective_s("all_gather", experts, plan.expert_dp, plan.ep * plan.etp)
    scatter = scatter + links.collective_s("reduce_scatter", experts, plan.expert_dp, plan.ep * plan.etp)
    if plan.frozen:
        scatter = 0.0 * scatter
    back = (gather if plan.framework.reshard else 0.0 * gather) + scatter
    return np.maximum(0.0, gather - kind.forward_s()), np.maximum(0.0, back - kind.backward_s())


def weights_on(parts: StepParts, stages: Sequence[Sequence[float]], i: int) -> tuple[Any, Any]:
    """Elements of weights of a stage on a rank: dense and experts."""
    dense: Any = sum((n * k.weights for n, k in zip(stages[i], parts.layers, strict=True)), 0.0)
    experts: Any = sum((n * k.expert_weights for n, k in zip(stages[i], parts.layers, strict=True)), 0.0)
    for end in ([parts.first] if i == 0 else []) + ([parts.last] if i == len(stages) - 1 else []):
        dense = dense + end.weights
    return dense, experts


def _end(
    parts: StepParts, plan: TrainPlan, links: Links, site: Site, vector: Site, stages: Sequence[Sequence[float]]
) -> tuple[Any, Any]:
    """What follows the last micro-batch on the fullest stage: gradients reduced, parameters gathered, the update."""
    exposed: Any = 0.0
    update: Any = 0.0
    whole, cut = ranks_of(plan)
    optimizer = plan.optimizer
    for i in range(len(stages)):
        dense, experts = weights_on(parts, stages, i)
        trained = adapters_on(parts, stages[i]) if plan.frozen else dense
        routed = 0.0 * experts if plan.frozen else experts
        if plan.zero == 3:
            time = links.collective_s("all_reduce", trained * 4.0 / cut, whole // cut, plan.tp * cut)
        else:
            time = 0.0
            for size, ranks, stride in ((trained, whole, plan.tp), (routed, plan.expert_dp, plan.ep * plan.etp)):
                gradient = np.asarray(size) * plan.framework.gradient_bits / 8
                if plan.zero == 0:
                    time = time + links.collective_s("all_reduce", gradient, ranks, stride)
                else:
                    time = time + links.collective_s("reduce_scatter", gradient, ranks, stride)
                    time = time + links.collective_s("all_gather", np.asarray(size) * 2.0, ranks, stride)
        share = (cut if plan.zero else 1), (plan.expert_dp if plan.zero else 1)
        local = trained / share[0] + routed / share[1]
        moved = local * optimizer.update_bytes(2.0, plan.framework.gradient_bits / 8)
        spent = elementwise_time(moved, site=vector).time_s
        if optimizer.products:
            spent = spent + local * optimizer.products * 2.0 * parts.hidden / (UPDATE_FRAC * site.peak16_ops_per_s)
        exposed = np.maximum(exposed, time * plan.framework.dp_exposed)
        update = np.maximum(update, spent)
    return exposed, update


def adapters_on(parts: StepParts, row: Sequence[float]) -> Any:
    """Trained elements of adapters on a stage: ``rank (in + out)`` of every product."""
    return sum((n * k.adapters for n, k in zip(row, parts.layers, strict=True)), 0.0)


def _breakdown(
    parts: StepParts,
    plan: TrainPlan,
    stages: Sequence[Sequence[float]],
    slowest: Any,
    host: Sequence[tuple[Any, Any]],
    gather: Sequence[tuple[Any, Any]],
    m: int,
) -> dict[str, Any]:
    """Where a rank of the slowest stage spends its micro-batches; the mean over scenarios' slowest stages."""
    i = int(np.max(slowest))
    found: dict[str, Any] = dict.fromkeys((*list(BREAKDOWN)[:8], "host", "gathers"), 0.0)
    for n, kind, waits, gathers in zip(stages[i], parts.layers, host, gather, strict=True):
        for way in (kind.forward, kind.backward):
            for part, time in way.items():
                found[part] = found[part] + m * n * time
        found["recompute"] = found["recompute"] + m * n * kind.again
        found["host"] = found["host"] + m * n * (waits[0] + waits[1])
        found["gathers"] = found["gathers"] + m * n * (gathers[0] + gathers[1])
    for end in ([parts.first] if i == 0 else []) + ([parts.last] if i == len(stages) - 1 else []):
        for way in (end.forward, end.backward):
            for time in way.values():
                found["head_loss"] = found["head_loss"] + m * time
    return found
