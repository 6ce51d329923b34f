"""The layers of a model as the kernels one rank runs in training, priced forward and backward.

Everything is read off the ops of the forward pass (:class:`~steelyard.workload.graph.Graph`): products with their
shapes, experts with their rows, attention with its pairs, the bytes of what is elementwise, the tensors that wait for
the backward pass. A split rank that is reduced leaves partial sums, which tensor-parallel ranks add.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, Literal

import numpy as np

from steelyard.cost.models import KernelTime
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.cost.site import Site
from steelyard.cost.train_kernels import attention_time, elementwise_time, grouped_time, product_time
from steelyard.deployment.formats import find_format
from steelyard.deployment.sharding import SPLIT_BY_TP, shard, split_ranks
from steelyard.deployment.train_plan import TrainPlan
from steelyard.machine.cluster import Cluster
from steelyard.training.asked import Asked, asked, found
from steelyard.training.head import FUSED_LOGIT_BYTES, loss_asks, rows_at_once
from steelyard.workload.backward import gradients, saved
from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Op

__all__ = ["PASSES", "Work", "work_of", "works_of"]

#: The passes of a kernel: forward, gradient of what flows, gradient of weights.
PASSES: Final[tuple[Literal["forward", "dgrad", "wgrad"], ...]] = ("forward", "dgrad", "wgrad")


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A kernel of a rank for a micro-batch. Times are of one copy, arrays over scenarios, in s."""

    name: str
    kind: str
    """``gemm``, ``experts``, ``attention``, ``elementwise``, ``permute`` (of routed rows), ``other``."""
    block: str
    count: Any
    """Copies over all layers of the model."""
    stage: str = ""
    """``first`` (embedding), ``last`` (head and loss), empty: layers."""
    forward_s: Any = 0.0
    dgrad_s: Any = 0.0
    wgrad_s: Any = 0.0
    flops: Any = 0.0
    """Of the forward pass."""
    weights: Any = 0.0
    """Elements of weights on the rank, a copy."""
    expert_weights: Any = 0.0
    kept_bytes: Any = 0.0
    """Waiting for the backward pass, of a micro-batch and copy."""
    reduces: bool = False
    """Ends in partial sums of tensor-parallel ranks."""
    exchanges: bool = False
    """Its tokens come from and go back to other expert-parallel ranks."""
    again: tuple[str, ...] = ()
    """Modules it is part of, by which it may be computed again."""
    spread: Any = 0.0
    source: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sites:
    """Where kernels run: products in the plan's precision, products kept in 16 bits, elementwise work."""

    products: Site
    wide: Site
    vector: Site


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A kernel whose times are still to be found."""

    work: Work
    asks: tuple[Asked, ...] = ()
    """Of its passes; empty: it has its times."""
    slower: Any = 1.0
    """Times over those that are asked for."""

    def timed(self, times: Sequence[KernelTime]) -> Work:
        """The kernel with its times."""
        if not times:
            return self.work
        passes = {f"{name}_s": t.time_s * self.slower for name, t in zip(PASSES, times, strict=False)}
        return replace(self.work, **passes, spread=times[0].spread, source=times[0].source)


def work_of(graph: Graph, plan: TrainPlan, cluster: Cluster, sites: Sites) -> tuple[Work, ...]:
    """The kernels of a rank for one micro-batch.

    Args:
        graph: the forward pass of one micro-batch on one model replica; sizes may be arrays over scenarios.
        plan: degrees, formats, framework.
        cluster: the devices.
        sites: where products and elementwise work run.
    """
    return works_of(graph, (plan,), cluster, sites)[0]


def works_of(graph: Graph, plans: Sequence[TrainPlan], cluster: Cluster, sites: Sites) -> list[tuple[Work, ...]]:
    """The same under several plans that differ in the degrees that split a layer: what they share is priced once."""
    groups = [[op for _, op in g] for _, g in groupby(enumerate(graph.ops), key=lambda x: x[1].fuse or x[0])]
    routed = [any("e" in op.ranks for op in group) for group in groups]
    known: dict[tuple[Any, ...], list[Pending]] = {}
    wanted = []
    for plan in plans:
        pending: list[Pending] = []
        for i, group in enumerate(groups):
            key = (i, plan.tp, plan.cp, plan.around > 1, plan.loss, *((plan.ep, plan.etp) if routed[i] else ()))
            if key not in known:
                known[key] = list(_group(group, plan, cluster, sites))
            pending += known[key]
        wanted.append(pending)
    each = {id(one): one for pending in wanted for one in pending}
    prices = iter(found([ask for one in each.values() for ask in one.asks]))
    works = {place: one.timed([next(prices) for _ in one.asks]) for place, one in each.items()}
    return [tuple(works[id(one)] for one in pending) for pending in wanted]


def _group(whole: Sequence[Op], plan: TrainPlan, cluster: Cluster, sites: Sites) -> Iterator[Pending]:
    ops = [shard(op, plan.lowering) for op in whole]
    first = ops[0]
    if first.map in ("sample", "top_k"):
        if first.map == "sample":
            yield _loss(first, plan, sites)
        return
    if any(op.iterative for op in ops) or any(op.windows for op in ops):
        yield Pending(_other(ops, plan, cluster))
    elif any("e" in op.ranks and op.contracts and _weight(op) for op in ops):
        yield from _experts(whole, ops, plan, sites)
    elif any(t.role == "kv" for op in ops for t in op.inputs[1:]):
        yield _attention(ops, plan, sites)
    else:
        for one, op in zip(whole, ops, strict=True):
            if not (op.contracts and _weight(op)):
                yield _elementwise(op, plan, sites)
                continue
            yield _product(one, op, plan, sites)
            if not _stage(op) and _adapted(op, plan):
                yield _adapter(one, op, plan, sites)
            if not _stage(op) and plan.task == "qlora":
                yield _widened(op, plan, sites)


def _weight(op: Op) -> bool:
    return any(t.role == "weight" for t in op.inputs)


def _stage(op: Op) -> str:
    named = {"embedding": "first", "head": "last"}.get(op.block, "")
    return named or ("" if "." in op.name else "last")


def _modules(op: Op) -> tuple[str, ...]:
    """Modules of a model that an op is part of, by the names frameworks have for what is computed again."""
    part = op.name.partition(".")[2]
    found = [op.block.replace("attention", "attn")] if op.block in ("attention", "mlp", "moe", "norm") else []
    if part.startswith("shared_"):
        found.append("shared_experts")
    if part in ("q_up", "k_up", "v_up", "q_norm", "kv_norm", "kv_up"):
        found.append("mla_up_proj")
    if part.endswith("act"):
        found.append("act")
    if part in ("scores", "softmax", "values"):
        found.append("core_attn")
    return tuple(found)


def _kept(ops: Sequence[Op], plan: TrainPlan, width: float = 0.0) -> Array:
    """Bytes that ops keep for the backward pass, per copy; split along tokens where the plan does."""
    total: Any = 0.0
    for one in saved(ops, SPLIT_BY_TP):
        alone = plan.tp if plan.sequence_parallel and not one.split else 1
        total = total + one.elements * (one.bits / 8 or width or plan.wide_bytes) / (alone * plan.cp)
    return np.asarray(total, dtype=np.float64)


def _multiplied(plan: TrainPlan) -> float:
    """Bytes of a value as the gradient of a weight reads it: products in few bits keep what they have converted."""
    return min(plan.wide_bytes, find_format(plan.precision).stored_bits / 8)


def _weights(op: Op) -> Array:
    stored = [
        op.elements(t, visited=False) for t in op.inputs if t.role in ("weight", "table") and t.name not in op.tied
    ]
    return np.asarray(sum(stored, 0.0), dtype=np.float64)


def _product(whole: Op, op: Op, plan: TrainPlan, sites: Sites) -> Pending:
    m, n, k, groups = op.gemm_shape()
    rows = m = np.asarray(m) / plan.cp
    head = op.block in ("head", "embedding") or op.name.endswith("router")
    site = sites.wide if head else sites.products
    slower: Any = 1.0 / plan.framework.products_share.get(site.family, 1.0)
    words: dict[str, Any] = {"precision": "bf16" if head else plan.precision, "site": site}
    words["gradient_bits"] = plan.framework.gradient_bits
    facts = {"m": m, "n": n, "k": k, "tokens": _tokens(op) / plan.cp, "width": _width(op)}
    facts["adapters"] = plan.rank * (n + k) * _adapted(op, plan)
    if plan.loss == "fused" and op.block == "head":
        rows = rows_at_once(m, n, k)
        slower, words = slower * m / rows, {**words, "gradient_bits": 16.0}
        facts["logits"] = rows * n * FUSED_LOGIT_BYTES / plan.framework.logit_bytes
    asks = tuple(asked(_dense, rows, n, k, groups, which=w, **words) for w in PASSES)
    sums = bool(set(op.reduced) & set(split_ranks(whole, plan.lowering)))
    work = Work(
        op.name,
        "gemm",
        op.block,
        op.count,
        _stage(op),
        flops=op.flops() / plan.cp,
        weights=_weights(op),
        kept_bytes=_input_kept(op, plan, head) + _mask(op, plan, sums or plan.tp == 1),
        reduces=sums,
        again=_modules(op),
        facts=facts,
    )
    return Pending(work, asks, slower)


def _input_kept(op: Op, plan: TrainPlan, head: bool) -> Any:
    """What waits for the gradient of a weight: its input. A frozen weight has none; its adapter reads it in 16 bits."""
    if plan.frozen and not head:
        return _kept([op], plan) if _adapted(op, plan) else 0.0
    return _kept([op], plan, 0.0 if head else _multiplied(plan))


def _adapted(op: Op, plan: TrainPlan) -> bool:
    """Whether a product has an adapter; a block's last one makes what is added to the residual."""
    return plan.adapts(op.block, last=op.output.ranks[-1:] == ("d",))


def _adapter(whole: Op, op: Op, plan: TrainPlan, sites: Sites) -> Pending:
    """Two thin products beside a frozen one, which take the time of what they read and write: forward its input, their
    output, and the sum with the product's own (read, written); backward the gradient of the output twice, the input,
    and the sum of the input's gradient (read, written)."""
    m, n, k, _ = op.gemm_shape()
    m = np.asarray(m) / plan.cp
    n = n / (plan.tp if plan.sequence_parallel and set(op.reduced) & set(split_ranks(whole, plan.lowering)) else 1)
    width = plan.wide_bytes * plan.framework.elementwise_passes * m
    asks = tuple(asked(elementwise_time, width * x, site=sites.vector) for x in (k + 3.0 * n, 3.0 * k + 2.0 * n))
    flops = 2.0 * m * plan.rank * (n + k)
    return Pending(Work(f"{op.name}_adapter", "elementwise", op.block, op.count, flops=flops, again=_modules(op)), asks)


def _widened(op: Op, plan: TrainPlan, sites: Sites) -> Pending:
    """Weights in few bits written in 16 before a product reads them, forward and backward."""
    once = asked(elementwise_time, _weights(op) * (find_format("nf4").stored_bits / 8 + 2.0), site=sites.vector)
    return Pending(Work(f"{op.name}.widened", "elementwise", op.block, op.count, again=_modules(op)), (once, once))


def _dense(m: Any, n: Any, k: Any, groups: Any, **words: Any) -> KernelTime:
    return product_time(m, n, k, groups=groups, **words)


def _grouped(rows: Any, n: Any, k: Any, experts: Any, **words: Any) -> KernelTime:
    return grouped_time(rows, n, k, experts=experts, **words)


def _mask(op: Op, plan: TrainPlan, ends: bool) -> Any:
    """The mask of what is dropped of the output of a block, a byte each, where the framework drops."""
    if not plan.framework.dropout or not ends or op.output.ranks[-1:] != ("d",):
        return 0.0
    alone = plan.tp if plan.sequence_parallel else 1
    return _tokens(op) * _width(op) / (plan.cp * alone)


def _tokens(op: Op) -> Array:
    return np.asarray(op.size("t") if "t" in op.ranks else 1.0, dtype=np.float64)


def _width(op: Op) -> Array:
    """Elements of an output per token."""
    return np.asarray(op.elements(op.output) / np.maximum(_tokens(op), 1.0), dtype=np.float64)


def _experts(whole: Sequence[Op], ops: Sequence[Op], plan: TrainPlan, sites: Sites) -> Iterator[Pending]:
    """Grouped products of a rank's experts, with what moves their tokens about."""
    for one, op in zip(whole, ops, strict=True):
        pairs = np.asarray(next(iter(one.domain.values()), 0.0), dtype=np.float64)
        along = plan.tp // plan.etp if plan.sequence_parallel or plan.ep > 1 else 1
        rows = pairs / (plan.cp * max(1, along))
        if not (op.contracts and _weight(op)):
            yield _routed_bytes(op, rows, plan, sites)
            continue
        local = np.asarray(one.size("e"), dtype=np.float64) / plan.ep
        inner = 1.0 / plan.etp
        weight = one.inputs[1]
        n: Any = 1.0
        k: Any = 1.0
        for rank in weight.ranks:
            if rank == "e":
                continue
            size = np.asarray(one.size(rank), dtype=np.float64) * (inner if rank == "f" else 1.0)
            if rank in one.reduced:
                k = k * size
            else:
                n = n * size
        up = "f" not in one.reduced
        if up:
            yield _rearranged(op, rows, k, plan, sites)
        words: dict[str, Any] = {"precision": plan.precision, "site": sites.products}
        words["gradient_bits"] = plan.framework.gradient_bits
        work = Work(
            op.name,
            "experts",
            op.block,
            op.count,
            flops=2.0 * rows * n * k,
            expert_weights=local * n * k,
            kept_bytes=rows * k * _multiplied(plan),
            exchanges=up,
            again=_modules(op),
            facts={
                "rows": rows,
                "tokens": _tokens(one) / (plan.cp * max(1, along)),
                "hidden": k if up else n,
                "top_k": pairs / np.maximum(_tokens(one), 1.0),
                "experts": one.size("e"),
                "local": local,
            },
        )
        yield Pending(work, tuple(asked(_grouped, rows, n, k, local, which=w, **words) for w in PASSES))


#: Times that routed rows are copied in a layer beside their sum: put in order for their experts and brought back. An
#: all-to-all orders them by rank before and by expert after, and back; DeepEP by expert and back; HybridEP as it sends.
COPIES = {"alltoall": 3.0, "allgather": 2.0, "deepep": 2.0, "hybridep": 1.0}


def _rearranged(op: Op, rows: Any, hidden: Any, plan: TrainPlan, sites: Sites) -> Pending:
    """Routed rows put in order for their experts and brought back, each copy read and written; backward alike."""
    framework = plan.framework
    moved = COPIES[framework.dispatcher] * rows * hidden * 2.0 * plan.wide_bytes * framework.routed_passes
    name = f"{op.name.partition('.')[0]}.permute"
    once = asked(elementwise_time, moved, site=sites.vector)
    return Pending(Work(name, "permute", op.block, op.count, again=_modules(op)), (once, once))


def _routed_bytes(op: Op, rows: Any, plan: TrainPlan, sites: Sites) -> Pending:
    """Activations and sums of routed rows: everything through memory once; gathering rows before them likewise."""
    wide: Any = 0.0
    for tensor in op.tensors:
        each: Any = 1.0
        for rank in tensor.ranks:
            if rank not in ("t", "e"):
                size = np.asarray(op.size(rank), dtype=np.float64)
                each = each * size
        wide = wide + each
    moved = rows * wide * plan.wide_bytes * plan.framework.routed_passes
    kept = (
        rows
        * wide
        * plan.wide_bytes
        * (0.0 if op.contracts else np.asarray(op.size("u") / (op.size("u") + 1.0)) if "u" in op.ranks else 0.5)
    )
    return _passing(op, moved, kept, op.flops(), sites)


def _passing(op: Op, moved: Any, kept: Any, flops: Any, sites: Sites) -> Pending:
    """Work that takes its bytes through memory; backward half as much again: the gradient in, what was saved, and the
    gradient out."""
    work = Work(
        op.name,
        "elementwise",
        op.block,
        op.count,
        _stage(op),
        flops=flops,
        weights=_weights(op) if "e" not in op.ranks else 0.0,
        kept_bytes=kept,
        again=_modules(op),
    )
    return Pending(work, tuple(asked(elementwise_time, times * moved, site=sites.vector) for times in (1.0, 1.5)))


def _elementwise(op: Op, plan: TrainPlan, sites: Sites) -> Pending:
    alone = plan.tp if plan.sequence_parallel and not split_ranks(op, plan.lowering) else 1
    bits = dict.fromkeys(("weight", "table", "activation", "kv", "state"), 8.0 * plan.wide_bytes)
    moved = op.bytes(bits) / (plan.cp * alone) * plan.framework.elementwise_passes
    return _passing(op, moved, _kept([op], plan), op.flops() / (plan.cp * alone), sites)


def _loss(op: Op, plan: TrainPlan, sites: Sites) -> Pending:
    """Softmax and cross entropy over the vocabulary, forward and backward."""
    logits = np.asarray(op.size("t"), dtype=np.float64) * op.size("v") / plan.cp
    facts = {} if plan.loss == "fused" else {"logits": logits}
    work = Work("loss", "elementwise", "head", 1, "last", flops=logits * 12.0, facts=facts)
    return Pending(work, loss_asks(logits, plan, sites.vector))


def _attention(ops: Sequence[Op], plan: TrainPlan, sites: Sites) -> Pending:
    """Scores, softmax and values; its share of context-parallel ranks is that of their queries, evenly."""
    parts = [op for op in ops if op.contracts]
    if len(parts) < 2:
        return _elementwise(ops[0], plan, sites)
    scores, values = parts[0], parts[1]
    heads = np.asarray(scores.size("g"), dtype=np.float64) * np.asarray(scores.size("q"), dtype=np.float64)
    words = {
        "causal": "causal" in scores.facts,
        "kernel": plan.framework.attention,
        "precision": "fp32" if plan.wide_bytes > 2.0 else "bf16",
        "site": sites.wide,
    }
    b, s, keys = (np.asarray(scores.size(rank), dtype=np.float64) for rank in "bsl")
    window = np.asarray(scores.facts.get("window", 0), dtype=np.float64)
    alone: Any = 1.0
    fewer: Any = 1.0  # pairs than those of whole sequences
    if plan.packing is not None:  # documents are sequences of their own to attention
        alone = np.maximum(keys / plan.packing.seen, 1.0)
        seen = float(window) or np.inf
        fewer = np.minimum(keys, seen) / np.minimum(keys / alone, seen)
        b, s, keys = b * alone, s / alone, keys / alone
    key, value = scores.size("c"), values.size("z")
    apart = (float(np.max(np.asarray(key))), float(np.max(np.asarray(value))))  # the kernel is chosen by them
    others = plan.cp // plan.around  # ranks that have some of the heads
    shape = (b, s, keys, heads / others, np.maximum(scores.size("g") / others, 1.0), key, value, window)
    words |= {"ring": plan.around, "passes": plan.framework.elementwise_passes, "vector": sites.vector}
    asks = tuple(asked(_fused, *shape, apart=apart, backward=back, **words) for back in (False, True))
    share = plan.framework.cp_attention if plan.around > 1 else 1.0
    kept = _kept(ops, plan)
    if plan.framework.attention == "unfused":
        # scores after the softmax, the mask of the dropout, and what it leaves: 2 + 1 + 2 bytes each
        dense = np.asarray(scores.size("b"), dtype=np.float64) * heads * scores.size("s") * scores.size("l")
        kept = kept + 5.0 * dense / alone / plan.cp
    flops: Any = sum((op.flops() for op in parts), 0.0) / fewer
    width = np.asarray(scores.size("g"), dtype=np.float64) * (scores.size("c") + values.size("z"))
    held = np.asarray(scores.size("b"), dtype=np.float64) * scores.size("l") * width * plan.wide_bytes / plan.cp
    asking = np.asarray(scores.size("b"), dtype=np.float64) * scores.size("s") * heads * (key + value)
    asking = asking * plan.wide_bytes / plan.cp
    work = Work(
        scores.name,
        "attention",
        "attention",
        scores.count,
        flops=flops / plan.cp,
        kept_bytes=kept,
        again=_modules(scores),
        facts={"kv_bytes": held, "query_bytes": asking},
    )
    return Pending(work, asks, share)


#: Bytes that adding a block's part of a result moves: the part in 16 bits, the sum in 32, read and written.
ADDED_BYTES: Final = 10.0


def _fused(*shape: Any, ring: int, passes: float, vector: Site, **words: Any) -> KernelTime:
    """Attention of a rank. In a ring it sees the keys of one rank after another, as many kernels: its own queries with
    its own keys, then all with half of another's (or half with all), which share the pairs of a causal mask evenly;
    each part is added to the sum of those before."""
    B, S, C, H, K, D, V, W = shape
    if ring == 1 or np.any(W):
        whole = attention_time(*shape[:-1], window=W, **words)
        return KernelTime(whole.time_s / ring, whole.spread, whole.source)
    own = attention_time(B, S / ring, C / ring, H, K, D, V, **words)
    halves = 2.0 if words["causal"] else 1.0
    other = attention_time(B, S / ring, C / ring / halves, H, K, D, V, **{**words, "causal": False})
    results = (H * D + K * (D + V)) if words["backward"] else H * V
    added = elementwise_time(B * S * results * ADDED_BYTES * passes, site=vector)
    return KernelTime(own.time_s + (ring - 1.0) * other.time_s + added.time_s, own.spread, own.source)


def _other(ops: Sequence[Op], plan: TrainPlan, cluster: Cluster) -> Work:
    """Scans, convolutions and the like: by their own cost model forward, by what their gradients compute backward."""
    program = lower(Graph("part", tuple(ops)), plan.lowering, cluster.machine)
    priced = [k for k in price(program, cluster).kernels if k.kernel.kind != "collective"]
    count = ops[0].count
    slower = plan.framework.scan_times
    forward: Any = sum((slower * np.asarray(k.time_s) / np.asarray(k.kernel.count) for k in priced), 0.0)
    made = [g for op in ops for g in gradients(op)]
    work: Any = sum((op.flops() for op in ops), 0.0)
    back: Any = sum((g.flops() for g in made), 0.0)
    times = np.maximum(back / np.maximum(work, 1.0), 1.5)
    return Work(
        ops[0].name,
        "other",
        ops[0].block,
        count,
        _stage(ops[0]),
        forward / plan.cp,
        forward * times / plan.cp,
        0.0,
        flops=work / plan.cp,
        weights=sum((_weights(op) for op in ops), 0.0),
        kept_bytes=_kept(ops, plan),
        again=_modules(ops[0]),
        facts=_carried(ops, plan),
        spread=max((float(np.max(k.spread)) for k in priced), default=0.2),
        source="lowered like an engine's step",
    )


def _carried(ops: Sequence[Op], plan: TrainPlan) -> dict[str, Any]:
    """Bytes of the state that a scan hands on, and of a rank's keys and values, which make it."""
    bits = {"weight": 0.0, "table": 0.0, "activation": 0.0, "kv": 0.0, "state": 0.0}
    writes = [op for op in ops if op.tensors[-1].role == "state"] if plan.cp > 1 else []
    state, made = (sum(op.bytes({**bits, r: 8.0 * plan.wide_bytes}) for op in writes) for r in ("state", "activation"))
    return {"state_bytes": state, "carried_bytes": made / plan.cp} if writes else {}
