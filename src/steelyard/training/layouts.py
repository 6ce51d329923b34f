"""Every legal way to lay a model out over devices, priced at once: the search behind ``train`` and ``plan --train``.

What splits a layer (``tp``, ``cp``, ``ep``, the size of a micro-batch) is priced kernel by kernel, some hundred prices;
stages, chunks, replicas, ZeRO and what is computed again are arithmetic on arrays over all layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from steelyard.cost.energy import static_power_w
from steelyard.deployment.train_plan import TrainPlan, stages_run
from steelyard.machine.cluster import Cluster
from steelyard.training.layers import StepParts, parts_of, taken
from steelyard.training.memory import memory_of
from steelyard.training.step import Layout, step_of
from steelyard.training.traffic import Links
from steelyard.training.work import Sites, work_of
from steelyard.workload.model import Model
from steelyard.workload.step import Step

__all__ = ["Layouts", "Space", "priced_layouts", "space_of"]

#: Most ranks that share the tokens of a sequence, and tokens each keeps at least.
_MOST_CP, _LEAST_TOKENS = 64, 2048
#: Largest micro-batch that is tried.
_MOST_MBS = 64
#: Chunks of a stage that are tried.
_CHUNKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20)
#: Columns of a table of layouts.
COLUMNS = ("tp", "cp", "ep", "etp", "pp", "vp", "dp", "zero", "mbs", "recompute", "count", "shard")


@dataclass(frozen=True, slots=True)
class Space:
    """Values that each choice may have."""

    tp: tuple[int, ...]
    pp: tuple[int, ...]
    vp: tuple[int, ...]
    cp: tuple[int, ...]
    ep: tuple[int, ...]
    zero: tuple[int, ...]
    mbs: tuple[int, ...]
    recompute: tuple[tuple[str, ...], ...]
    counts: tuple[int, ...] = ()
    """Devices; empty: those of the cluster."""
    shard: int = 0
    """Replicas that ZeRO cuts over; 0: all."""


@dataclass(frozen=True, eq=False, slots=True)
class Layouts:
    """Priced layouts, arrays ``[layouts]``."""

    plan: TrainPlan
    """What all have in common."""
    columns: Mapping[str, Any]
    recompute: tuple[tuple[str, ...], ...]
    """What the numbers of the column ``recompute`` mean."""
    step_s: Any
    reserved_bytes: Any
    power_w: Any
    """Of a device, on average."""

    def __len__(self) -> int:
        return len(self.step_s)

    def plan_of(self, i: int) -> TrainPlan:
        """The plan of a layout."""
        row: dict[str, Any] = {name: int(self.columns[name][i]) for name in COLUMNS if name != "count"}
        again = self.recompute[row.pop("recompute")]
        named = "interleaved" if row["vp"] > 1 else "1f1b"
        schedule = self.plan.schedule if self.plan.schedule not in ("1f1b", "interleaved") else named
        return replace(self.plan, **row, recompute=again, schedule=schedule)

    def best(self, capacity_bytes: float, by: Any = None) -> int:
        """The fastest that fits (or the one with the least of ``by``); where none does, the one that needs least."""
        fits = self.reserved_bytes <= capacity_bytes
        if not np.any(fits):
            return int(np.argmin(self.reserved_bytes))
        return int(np.argmin(np.where(fits, self.step_s if by is None else by, np.inf)))


def _powers(most: float) -> list[int]:
    return [2**i for i in range(int(np.log2(max(1.0, most))) + 1)]


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def space_of(model: Model, cluster: Cluster, plan: TrainPlan, given: Iterable[str]) -> Space:
    """What is tried of each choice: what was given, and else what frameworks allow.

    Args:
        model, cluster: what is trained where.
        plan: what was given, and the usual of the rest.
        given: names of fields that were given.
    """
    workload, said = model.transformer, set(given)
    domain = min(cluster.per_node, cluster.count)
    heads = [queries for queries, _ in workload.head_groups] or [1]
    keys = [k for _, k in workload.head_groups if k]
    tensor = [
        d
        for d in _divisors(domain, 72)
        if all(h % d == 0 for h in heads) and all(k % d == 0 or d % k == 0 for k in keys)
    ]
    depth = workload.depth
    stages = [d for d in range(1, min(depth, cluster.count) + 1) if depth % d == 0 or (depth + 2) % d == 0]
    contexts = [d for d in _powers(min(_MOST_CP, cluster.count)) if d == 1 or plan.seq // d >= _LEAST_TOKENS * 2]
    experts = _divisors(workload.experts, cluster.count) if workload.experts else [1]
    again: tuple[tuple[str, ...], ...] = ((), ("core_attn",), ("full",))
    if plan.framework.attention != "unfused" and "recompute" not in said:
        again = ((), ("full",)) if not workload.experts else ((), ("act", "mla_up_proj"), ("full",))

    def chosen(name: str, tried: Sequence[int]) -> tuple[int, ...]:
        return (getattr(plan, name),) if name in said else tuple(tried)

    return Space(
        tp=chosen("tp", tensor),
        pp=chosen("pp", stages if plan.framework.pipeline else [1]),
        vp=chosen("vp", _CHUNKS),
        cp=chosen("cp", contexts),
        ep=chosen("ep", experts),
        zero=(plan.zero,),
        shard=plan.shard if "shard" in said else 0,
        mbs=chosen("mbs", [d for d in _powers(_MOST_MBS) if d <= plan.gbs]),
        recompute=(plan.recompute,) if "recompute" in said else again,
    )


def priced_layouts(
    model: Model, cluster: Cluster, sites: Sites, links: Links, plan: TrainPlan, space: Space, dp: int | None = None
) -> Layouts:
    """Time and memory of every legal layout of a space.

    Args:
        model, cluster, sites, links: what is trained where.
        plan: what all layouts have in common: framework, precision, batch, lengths.
        space: what is tried.
        dp: replicas, where they were given.
    """
    found: list[dict[str, Any]] = []
    sizes = np.array(space.mbs, dtype=np.float64)
    tokens = sizes * plan.seq
    graph = model.transformer.graph(Step.prefill(sizes, float(plan.seq), logits=tokens))
    for tp, cp, ep in product(space.tp, space.cp, space.ep):
        rows = _legal(model, cluster, plan, space, tp, cp, ep, dp)
        if not len(rows["pp"]):
            continue
        split = replace(plan, tp=tp, cp=cp, ep=ep, etp=1 if ep > 1 else (plan.etp if tp == plan.tp else tp))
        works = work_of(graph, split, cluster, sites)
        for i, again in enumerate(space.recompute):
            computed = replace(split, recompute=again)
            parts = parts_of(works, computed, links, model.transformer.hidden, tokens)
            for chunked in (False, True):
                chosen = (rows["vp"] > 1) == chunked
                if np.any(chosen):
                    these = {name: values[chosen] for name, values in rows.items()}
                    found.append(_priced(parts, computed, cluster, sites, links, these, i, chunked))
    if not found:
        empty = np.zeros(0)
        return Layouts(plan, dict.fromkeys(COLUMNS, empty), space.recompute, empty, empty, empty)
    joined = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
    columns = {name: joined[name] for name in COLUMNS}
    return Layouts(plan, columns, space.recompute, joined["step_s"], joined["reserved"], joined["power_w"])


def _legal(
    model: Model, cluster: Cluster, plan: TrainPlan, space: Space, tp: int, cp: int, ep: int, dp: int | None
) -> dict[str, Any]:
    """Stages, chunks, replicas, ZeRO and micro-batches that go with a split of the layers."""
    depth = model.transformer.depth
    counts = space.counts or (cluster.count,)
    axes = np.meshgrid(counts, space.pp, space.vp, space.zero, np.arange(len(space.mbs)), indexing="ij")
    count, pp, vp, zero, size = (a.ravel() for a in axes)
    mbs = np.array(space.mbs)[size]
    whole = count // (tp * cp * pp)
    chunks = pp * vp
    even = (depth % chunks == 0) | ((depth + 2) % chunks == 0)
    legal = (tp * cp * pp * whole == count) & (whole >= 1)
    legal &= np.where(vp > 1, (pp > 1) & even, True) & (chunks <= np.where(vp > 1, depth + 2, depth))
    legal &= plan.gbs % np.maximum(mbs * whole, 1) == 0
    etp = 1 if ep > 1 else tp
    legal &= (tp * cp * whole) % (ep * etp) == 0
    legal &= stages_run(plan.schedule, pp)
    if dp is not None:
        legal &= whole == dp
    if space.shard:
        legal &= whole % space.shard == 0
    micro = plan.gbs // np.maximum(mbs * whole, 1)
    legal &= np.where(vp > 1, micro % pp == 0, True)
    named = {"count": count, "pp": pp, "vp": vp, "zero": zero, "size": size, "dp": whole}
    named["shard"] = np.full_like(whole, space.shard) if space.shard else whole
    return {name: values[legal] for name, values in named.items()}


def _priced(
    parts: StepParts,
    plan: TrainPlan,
    cluster: Cluster,
    sites: Sites,
    links: Links,
    rows: Mapping[str, Any],
    again: int,
    chunked: bool,
) -> dict[str, Any]:
    """Time, memory and power of the layouts of one split."""
    n = len(rows["pp"])
    here = taken(parts, rows["size"])
    mbs = np.round(np.asarray(here.tokens) / plan.seq).astype(np.int64)
    plain = plan.schedule in ("1f1b", "interleaved")
    named = replace(plan, schedule=("interleaved" if chunked else "1f1b") if plain else plan.schedule)
    micro = plan.gbs // (mbs * rows["dp"])
    layout = Layout(rows["pp"], rows["vp"], rows["dp"], rows["zero"], rows["shard"], micro)
    cost = step_of(here, named, links, sites.products, sites.vector, layout)
    last = rows["pp"] - 1
    held = [memory_of(here, named, stage, layout).reserved_bytes for stage in (0 * last, np.minimum(1, last), last)]
    machine = cluster.machine
    static = static_power_w(machine)
    busy = np.minimum(1.0, np.asarray(cost.limit_s) / np.asarray(cost.step_s))
    columns = {
        "tp": np.full(n, plan.tp),
        "cp": np.full(n, plan.cp),
        "ep": np.full(n, plan.ep),
        "etp": np.full(n, plan.etp),
        "recompute": np.full(n, again),
        "mbs": mbs,
        **{name: rows[name] for name in ("pp", "vp", "dp", "zero", "count", "shard")},
    }
    return {
        **columns,
        "step_s": np.broadcast_to(cost.step_s, (n,)),
        "reserved": np.broadcast_to(np.max(np.stack(np.broadcast_arrays(*held)), axis=0), (n,)),
        "power_w": np.broadcast_to(static + (machine.tdp_w - static) * busy, (n,)),
    }
