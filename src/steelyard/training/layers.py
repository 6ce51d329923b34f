"""A micro-batch by layers: what equal layers take forward and backward, what is computed again, what is exchanged.

Everything is an array over scenarios (micro-batch sizes); the degrees that split a layer are those of one plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from steelyard.deployment.formats import find_format
from steelyard.deployment.train_plan import TrainPlan
from steelyard.machine.classes import Family, family_named
from steelyard.training.traffic import Links
from steelyard.training.work import Work

__all__ = ["LayerKind", "StepParts", "blended", "parts_of", "table_of", "taken", "twice_forward"]

_WAYS = ("forward", "backward")


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
    moved: Any = 0.0
    """Of both passes, what puts routed rows in order and exchanges them, in s: the dispatcher's."""

    def add(self, where: dict[str, Any], part: str, time: Any) -> None:
        """Add to a part."""
        where[part] = where.get(part, 0.0) + time

    def forward_s(self) -> Any:
        """The forward pass of a layer."""
        return sum(self.forward.values(), np.float64(0.0))

    def backward_s(self) -> Any:
        """The backward pass of a layer, with what is computed again."""
        return sum(self.backward.values(), np.float64(0.0)) + self.again

    def scaled(self, factor_of: Callable[[str], Any]) -> LayerKind:
        """The layer with the time of every part, forward and backward, times a factor."""
        ways: Any = {w: {part: time * factor_of(part) for part, time in getattr(self, w).items()} for w in _WAYS}
        return replace(self, **ways)


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
    tokens: Any
    """Of a micro-batch on one model replica."""
    logits: Any
    """Elements of the scores over the vocabulary."""
    spread: float
    sources: tuple[str, ...]
    stored_bytes: float = 2.0
    """Of a weight as it is kept."""
    placed: Any = None
    """``[kinds of layers, stages]``: layers of every kind on every stage; None: as the stages share them equally."""


def parts_of(
    works: Sequence[Work],
    plan: TrainPlan,
    links: Links,
    hidden: int,
    tokens: Any,
    ways: Sequence[tuple[str, ...]] | None = None,
) -> StepParts:
    """Gather kernels by layer, with what ranks exchange within one.

    Args:
        works: kernels of a rank for a micro-batch.
        plan, links: how and where.
        hidden: elements of a token between layers.
        tokens: of a micro-batch on one model replica.
        ways: modules that may be computed again, several choices of them, the first axis of the arrays then; None: the
            plan's.
    """
    if ways is None and plan.recompute_layers:
        nothing, full = (
            parts_of(works, replace(plan, recompute=again, recompute_layers=0), links, hidden, tokens)
            for again in ((), ("full",))
        )
        return blended(nothing, full, plan.recompute_layers * plan.pp * plan.vp / sum(k.count for k in full.layers))
    whole = np.array([["full" in again] for again in ways]) if ways is not None else "full" in plan.recompute
    messages: dict[tuple[str, bytes], tuple[Any, Any]] = {}
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
        part = {"experts": "gemm", "other": "elementwise", "permute": "elementwise"}.get(w.kind, w.kind)
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
        share, kept = _recomputed(w, plan, ways)
        kind.again = kind.again + times * share * w.forward_s
        kind.again_flops = kind.again_flops + times * share * w.flops
        kind.kept_bytes = kind.kept_bytes + times * kept * w.kept_bytes
        kind.again_bytes = kind.again_bytes + times * (1.0 - kept) * w.kept_bytes
        if w.kind in ("gemm", "experts") and not w.stage:
            kind.adapters = kind.adapters + times * w.facts.get("adapters", 0.0)
            kind.widest_bytes = np.maximum(kind.widest_bytes, w.facts.get("m", 0.0) * w.facts.get("n", 0.0) * 2.0)
        kind.largest = np.maximum(kind.largest, w.weights + w.expert_weights / w.facts.get("local", 1.0))
        if w.reduces:
            message = w.facts["tokens"] * w.facts["width"] * 2.0
            key = (w.block if plan.frozen else "", message.tobytes())
            forward, backward = messages[key] = messages.get(key) or links.tensor_s(message, plan, w.block)
            _exchange(kind, "tp", forward, backward, share, plan.framework.tp_exposed * times)
        if w.kind == "permute":
            kind.moved = kind.moved + times * (w.forward_s + w.dgrad_s)
        if w.exchanges:
            kind.experts = True
            once = links.experts_s(w.facts, plan, bits)
            kind.moved = kind.moved + times * 2.0 * plan.framework.ep_exposed * once
            _exchange(kind, "ep", once, once, share, plan.framework.ep_exposed * times)
        if "kv_bytes" in w.facts and plan.cp > 1:
            forward, backward = links.context_s(w.facts["kv_bytes"], plan)
            hidden_part = 1.0 - plan.framework.cp_exposed
            kind.add(kind.forward, "cp", times * np.maximum(0.0, forward - hidden_part * w.forward_s))
            kind.add(kind.backward, "cp", times * np.maximum(0.0, backward - hidden_part * w.dgrad_s))
            if plan.around < plan.cp:
                heads = times * links.heads_s(w.facts["kv_bytes"] + w.facts["query_bytes"], plan)
                kind.add(kind.forward, "cp", heads)
                kind.add(kind.backward, "cp", (1.0 + share) * heads)
        if "state_bytes" in w.facts:
            forward, backward = links.states_s(w.facts, plan)
            hidden_part = 0.0 if plan.states == "ring" else 1.0 - plan.framework.cp_exposed  # the next rank waits
            kind.add(kind.forward, "cp", times * np.maximum(0.0, forward - hidden_part * w.forward_s))
            kind.add(kind.backward, "cp", times * np.maximum(0.0, backward - hidden_part * w.dgrad_s))
        logits = logits + w.facts.get("logits", 0.0)
        variance = (
            variance + (float(np.max(w.spread)) * times * (1 if w.stage else kind.count) * np.max(w.forward_s)) ** 2
        )
    total = sum(float(np.max(k.forward_s())) * k.count for k in (*kinds.values(), *ends.values()))
    stored = rows * hidden * 2.0 / alone
    for kind in kinds.values():
        kind.kept_bytes = np.where(whole, stored, kind.kept_bytes)
    if not plan.optimizer.gradient:
        kinds, ends = ({name: twice_forward(kind) for name, kind in some.items()} for some in (kinds, ends))
    sources = tuple(dict.fromkeys(w.source for w in works if w.source))
    return StepParts(
        list(kinds.values()),
        ends["first"],
        ends["last"],
        hidden,
        stored,
        tokens,
        logits,
        float(np.sqrt(variance)) / max(total, 1e-30),
        sources,
        stored_bytes(plan, family_named(links.cluster.machine.family)),
    )


def stored_bytes(plan: TrainPlan, family: Family) -> float:
    """Bytes of a weight as it is kept.

    Weights may be kept as they are multiplied: once where operands lie as they will, else along rows and along columns,
    as scales of blocks need it too. In 4 bits only frozen ones are.
    """
    if plan.task == "qlora":
        return find_format("nf4").stored_bits / 8
    narrow = ("fp8", "mxfp8", "nvfp4") if plan.frozen else ("fp8", "mxfp8")
    if plan.framework.narrow_weights and plan.precision.startswith(narrow):
        copies = 1.0 if plan.precision == "fp8" and family.any_layout else 2.0
        return min(2.0, copies * find_format(plan.precision).stored_bits / 8)
    return 4.0 if plan.precision in ("fp32", "tf32") else 2.0


def twice_forward(kind: LayerKind) -> LayerKind:
    """Two forward passes with weights moved both ways in place of one each way: nothing waits, nothing is derived."""
    none: Any = dict.fromkeys(("again", "again_flops", "wgrad", "again_bytes"), 0.0)
    kept = 0.0 * np.asarray(kind.kept_bytes)
    flops = kind.flops * 2.0 / 3.0  # of the three passes that a step counts
    return replace(kind, backward=dict(kind.forward), **none, kept_bytes=kept, flops=flops)


def blended(less: StepParts, more: StepParts, part: Any) -> StepParts:
    """Parts of which a share of the layers computes as much again as ``more`` does; the rest is ``less``.

    The moment in which a layer is computed again is that of a whole one, however few are.
    """
    share = np.minimum(part, 1.0)

    def mixed(a: Any, b: Any) -> Any:
        return a + share * (b - a)

    def kind(a: LayerKind, b: LayerKind) -> LayerKind:
        changed = {name: mixed(getattr(a, name), getattr(b, name)) for name in ("again", "again_flops", "kept_bytes")}
        back = {name: mixed(time, b.backward[name]) for name, time in a.backward.items()}
        return replace(a, backward=back, again_bytes=b.again_bytes, **changed)

    return replace(less, layers=[kind(a, b) for a, b in zip(less.layers, more.layers, strict=True)])


def _exchange(kind: LayerKind, part: str, forward: Any, backward: Any, again: Any, exposed: float) -> None:
    """Add an exchange of a layer; where its module is computed again, the forward one is repeated."""
    kind.add(kind.forward, part, exposed * forward)
    kind.add(kind.backward, part, exposed * (backward + again * forward))


def _recomputed(work: Work, plan: TrainPlan, ways: Sequence[tuple[str, ...]] | None) -> tuple[Any, Any]:
    """Of a kernel: the share that is computed again, and the share of what it keeps that still waits."""
    if ways is None:
        return recomputed(work, plan.recompute)
    shares = np.array([recomputed(work, again) for again in ways])
    return shares[:, :1], shares[:, 1:]


def recomputed(work: Work, again: Sequence[str]) -> tuple[float, float]:
    """The same where these modules are computed again."""
    names = set(again)
    if work.stage or not names:
        return 0.0, 1.0
    if "full" in names:
        return 1.0, 0.0
    if names & set(work.again):
        return 1.0, 0.0 if "norm" not in work.again else 1.0
    if "half" in names and work.kind in ("gemm", "elementwise"):
        return 0.5, 0.5
    return 0.0, 1.0


def table_of(parts: Sequence[StepParts], ways: int, sizes: int) -> StepParts:
    """Parts of several splits of the layers as one, arrays ``[splits, ways, sizes]``."""

    def whole(values: Sequence[Any]) -> Any:
        return np.stack([np.broadcast_to(np.asarray(v, dtype=np.float64), (ways, sizes)) for v in values])

    def kind(same: Sequence[LayerKind]) -> LayerKind:
        made = {f.name: whole([getattr(x, f.name) for x in same]) for f in fields(LayerKind) if f.name not in _ONE}
        for way in _WAYS:
            named = dict.fromkeys(name for x in same for name in getattr(x, way))
            made[way] = {name: whole([getattr(x, way).get(name, 0.0) for x in same]) for name in named}
        return replace(same[0], **made)

    first = parts[0]
    return replace(
        first,
        layers=[kind(same) for same in zip(*(p.layers for p in parts), strict=True)],
        first=kind([p.first for p in parts]),
        last=kind([p.last for p in parts]),
        **{name: whole([getattr(p, name) for p in parts]) for name in ("hidden_bytes", "tokens", "logits")},
    )


#: Fields of equal layers that are no arrays of times or sizes.
_ONE = ("name", "count", "experts", *_WAYS)


def taken(parts: StepParts, *index: Any) -> StepParts:
    """The parts at places of a table (:func:`table_of`), arrays over layouts."""

    def at(value: Any) -> Any:
        return value[index] if np.ndim(value) else value  # a technique may set one for all

    def kind(one: LayerKind) -> LayerKind:
        made: dict[str, Any] = {f.name: at(getattr(one, f.name)) for f in fields(one) if f.name not in _ONE}
        made |= {w: {name: at(x) for name, x in getattr(one, w).items()} for w in _WAYS}
        return replace(one, **made)

    return replace(
        parts,
        layers=[kind(x) for x in parts.layers],
        first=kind(parts.first),
        last=kind(parts.last),
        hidden_bytes=parts.hidden_bytes[index],
        tokens=parts.tokens[index],
        logits=parts.logits[index],
    )
