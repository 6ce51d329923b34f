"""Every legal way to lay a model out over devices, weighed at once: the search behind ``train`` and ``plan --train``.

What splits a layer (``tp``, ``cp``, ``ep``, the size of a micro-batch) is priced kernel by kernel, all splits together;
the rest (stages, chunks, replicas, what is computed again, the number of devices) is arithmetic on arrays over all
layouts: first what they hold, then how long those take that fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from steelyard.cost.energy import static_power_w
from steelyard.deployment.train_plan import LOSSES, TrainPlan, batches_run, divisors, stages_run
from steelyard.machine.cluster import Cluster
from steelyard.techniques._base import Technique
from steelyard.training.layers import StepParts, blended, parts_of, table_of, taken
from steelyard.training.memory import StageMemory, memory_of
from steelyard.training.offload import host_rates
from steelyard.training.step import Layout, step_of
from steelyard.training.traffic import Links
from steelyard.training.work import Sites, Work, works_of
from steelyard.workload.model import Model
from steelyard.workload.step import Step

__all__ = ["Layouts", "Space", "nearest_batch", "space_of", "weighed_layouts"]

#: Most ranks that share the tokens of a sequence, and tokens each keeps at least.
_MOST_CP, _LEAST_TOKENS = 64, 2048
#: Largest micro-batch that is tried.
_MOST_MBS = 64
#: Chunks of a stage that are tried.
_CHUNKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20)
#: Layouts weighed in one array, at most.
_AT_ONCE = 50_000
_FULL = ("full",)
#: What a framework may lack.
_DEGREES = frozenset({"tp", "pp", "cp", "ep"})
#: Columns of a table of layouts.
COLUMNS = (
    *("tp", "cp", "ring", "ep", "etp", "pp", "vp", "dp", "zero", "shard", "mbs"),
    *("recompute", "recompute_layers", "loss", "offload", "count"),
)


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
    """Modules; the first is what is tried before all others."""
    some_layers: bool = False
    """Whether layers may be computed again in part."""
    layers: int = 0
    """Of every chunk, those that are computed again, as was said; 0: nothing was."""
    dp: int = 0
    """Replicas; 0: as many as there are devices for."""
    etp: int = 0
    """Tensor-parallel degree of experts; 0: 1 with ``ep``, else ``tp``."""
    counts: tuple[int, ...] = ()
    """Devices; empty: those of the cluster."""
    shard: int = 0
    """Replicas that ZeRO cuts over; 0: all."""
    near: bool = False
    """Whether parameters may be cut within a node alone (HSDP) as well."""
    rings: tuple[str, ...] = ("ring",)
    """How context-parallel ranks share attention; empty: as the plan says."""
    loss: tuple[str, ...] = ("whole",)
    offload: tuple[tuple[str, ...], ...] = ((),)
    """What lies elsewhere; what is behind the first is tried where nothing fits with that."""


@dataclass(frozen=True, eq=False, slots=True)
class Layouts:
    """Layouts that fit, with their times, arrays ``[layouts]``; where none does, the one that needs least."""

    plan: TrainPlan
    """What all have in common."""
    columns: Mapping[str, Any]
    recompute: tuple[tuple[str, ...], ...]
    """What the numbers of the column ``recompute`` mean."""
    offload: tuple[tuple[str, ...], ...]
    """The same of the column ``offload``."""
    step_s: Any
    reserved_bytes: Any
    power_w: Any
    """Of a device, on average."""
    weighed: int
    """Layouts that were looked at."""
    fits: bool

    def __len__(self) -> int:
        return len(self.step_s)

    @property
    def ranked_s(self) -> Any:
        """Times to choose by: what was published as slower than it is answered counts so."""
        return self.step_s * np.where(self.columns["zero"] >= 2, self.plan.framework.zero_doubt, 1.0)

    def plan_of(self, i: int) -> TrainPlan:
        """The plan of a layout."""
        row: dict[str, Any] = {name: int(self.columns[name][i]) for name in COLUMNS if name != "count"}
        again = self.recompute[row.pop("recompute")]
        row |= {"loss": LOSSES[row["loss"]], "offload": self.offload[row["offload"]]}
        named = "interleaved" if row["vp"] > 1 else "1f1b"
        schedule = self.plan.schedule if self.plan.schedule not in ("1f1b", "interleaved") else named
        return replace(self.plan, **row, recompute=again, schedule=schedule)


def _powers(most: float) -> list[int]:
    return [2**i for i in range(int(np.log2(max(1.0, most))) + 1)]


def space_of(model: Model, cluster: Cluster, plan: TrainPlan, given: Iterable[str]) -> Space:
    """What is tried of each choice: what was given, and else what frameworks allow.

    Args:
        model, cluster: what is trained where.
        plan: what was given, and the usual of the rest.
        given: names of fields that were given.
    """
    workload, framework, said = model.transformer, plan.framework, set(given)
    domain = min(cluster.per_node, cluster.count)
    heads = [queries for queries, _ in workload.head_groups] or [1]
    keys = [k for _, k in workload.head_groups if k]
    tensor = [
        d
        for d in divisors(domain, 72)
        if all(h % d == 0 for h in heads) and all(k % d == 0 or d % k == 0 for k in keys)
    ]
    depth = workload.depth
    stages = range(1, min(depth, cluster.count) + 1)
    contexts = [
        d
        for d in _powers(min(_MOST_CP, cluster.count))
        if d == 1 or (plan.seq // d >= _LEAST_TOKENS * 2 and plan.seq % (2 * d) == 0)
    ]
    experts = divisors(workload.experts, cluster.count) if workload.experts else [1]

    def chosen(name: str, tried: Iterable[int]) -> tuple[int, ...]:
        if name in said:
            return (getattr(plan, name),)
        return (1,) if framework.lacks({name: 2}) and name in _DEGREES else tuple(tried)

    chunks = _CHUNKS if "schedule" not in said else _CHUNKS[1:] if plan.schedule == "interleaved" else (1,)
    ways = ((plan.recompute,), False) if "recompute" in said else _ways(model, plan)
    if said_layers := plan.recompute_layers if "recompute" in said else 0:
        ways = ((), _FULL), False
    return Space(
        tp=chosen("tp", tensor),
        pp=chosen("pp", stages),
        vp=chosen("vp", chunks),
        cp=chosen("cp", contexts),
        ep=chosen("ep", experts),
        zero=chosen("zero", dict.fromkeys((framework.zero, *framework.zeros))),
        shard=plan.shard if "shard" in said else 0,
        near="shard" not in said,
        rings=() if "ring" in said else framework.context,
        loss=(plan.loss,) if "loss" in said or not framework.fused_loss else LOSSES,
        offload=(plan.offload,) if "offload" in said else ((), *_elsewhere(plan, cluster)),
        mbs=chosen("mbs", [d for d in _powers(_MOST_MBS) if d <= plan.gbs]),
        recompute=ways[0],
        some_layers=ways[1],
        layers=said_layers,
        dp=plan.dp if "dp" in said else 0,
        etp=plan.etp if "etp" in said else 0,
    )


def _elsewhere(plan: TrainPlan, cluster: Cluster) -> list[tuple[str, ...]]:
    """What the framework may move to a host's memory, where that is another than the devices': states of adapters are
    too few to be worth it."""
    found = [tuple(text.split(",")) for text in plan.framework.offloads if cluster.machine.links("host")]
    return [names for names in found if not (plan.frozen and "optimizer" in names)]


#: What a model must have for a module to be worth computing again.
_OF_EXPERTS = ("act", "moe", "shared_experts")


def _ways(model: Model, plan: TrainPlan) -> tuple[tuple[tuple[str, ...], ...], bool]:
    """What may be computed again, as the framework offers it: nothing, modules (one or two at a time), all; and
    whether some layers alone."""
    offered = plan.framework.recomputes
    modules = [n for n in offered if n not in ("layers", "full")]
    if plan.framework.attention != "unfused":
        modules = [n for n in modules if n != "core_attn"]
    if not model.transformer.experts:
        modules = [n for n in modules if n not in _OF_EXPERTS]
    several = [m for k in (1, 2) for m in combinations(modules, k)]
    return ((), *several, *((_FULL,) if "full" in offered else ())), "layers" in offered


def weighed_layouts(
    model: Model,
    cluster: Cluster,
    sites: Sites,
    links: Links,
    plan: TrainPlan,
    space: Space,
    *,
    most_bytes: float,
    techniques: Sequence[Technique] = (),
) -> Layouts:
    """Memory of every legal layout of a space, and the time of those that fit.

    Args:
        model, cluster, sites, links: what is trained where.
        plan: what all layouts have in common: framework, precision, batch, lengths.
        space: what is tried.
        most_bytes: a device has.
        techniques: what changes the parts of a step.
    """
    sizes = np.array(space.mbs, dtype=np.float64)
    plans, rows = _legal(model, cluster, plan, space)
    if not len(rows["pp"]):
        empty = np.zeros(0)
        columns = dict.fromkeys(COLUMNS, empty)
        return Layouts(plan, columns, space.recompute, space.offload, empty, empty, empty, 0, False)
    graph = model.transformer.graph(Step.prefill(sizes, float(plan.seq), logits=sizes * plan.seq))
    works = works_of(graph, plans, cluster, sites)
    ways = _worth(works[0], space.recompute)
    made = [
        parts_of(w, p, links, model.transformer.hidden, sizes * plan.seq, ways)
        for w, p in zip(works, plans, strict=True)
    ]
    table = table_of(made, len(ways), len(sizes))
    for technique in techniques:
        table = technique.training_parts(table, plan)
    plans = [replace(plan, offload=names) for names in space.offload]
    most_host = host_rates(cluster).capacity_bytes if any(space.offload) else np.inf
    found: list[dict[str, Any]] = []
    weighed = 0
    for i, away in enumerate(plans):
        blocks = [_weighed(some, table, away, ways, space, (most_bytes, most_host)) for some in _blocks(rows)]
        found += [{**block, "offload": np.full(len(block["pp"]), i)} for block in blocks]
        weighed += sum(int(b["weighed"][0]) for b in blocks)
        if i == 0:  # on so many devices as nothing fits with that
            fit = np.concatenate([block["count"][block["fits"]] for block in blocks])
            open_rows = ~np.isin(rows["count"], fit)
            if plan.framework.zero_alone:  # what cuts gradients does not send them to the host
                open_rows &= rows["zero"] < 2
            rows = {name: values[open_rows] for name, values in rows.items()}
    fits = any(block["fits"].any() for block in found)
    rows = {name: np.concatenate([b[name][b["fits"]] if fits else b[name] for b in found]) for name in found[0]}
    if not fits:
        least = [int(np.argmin(rows["reserved"]))]
        rows = {name: values[least] for name, values in rows.items()}
    priced = [
        _priced(some, table, away, cluster, sites, links, ways)
        for i, away in enumerate(plans)
        for some in _blocks({name: values[rows["offload"] == i] for name, values in rows.items()})
    ]
    step_s, power_w = (np.concatenate([p[i] for p in priced]) for i in (0, 1))
    columns = {name: rows[name] for name in COLUMNS}
    return Layouts(plan, columns, ways, space.offload, step_s, rows["reserved"], power_w, weighed, fits)


def _blocks(rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows in blocks of :data:`_AT_ONCE`."""
    for at in range(0, len(rows["pp"]), _AT_ONCE):
        yield {name: values[at : at + _AT_ONCE] for name, values in rows.items()}


def _worth(works: Sequence[Work], ways: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Ways to compute again without those of modules that the model does not have."""
    have = {name for w in works for name in w.again} | {"full", "half"}
    return tuple(way for way in ways if have.issuperset(way)) or tuple(ways)


def _legal(model: Model, cluster: Cluster, plan: TrainPlan, space: Space) -> tuple[list[TrainPlan], dict[str, Any]]:
    """Splits of the layers, and the rows of stages, chunks, replicas, ZeRO and micro-batches that go with each."""
    depth = model.transformer.depth
    counts = space.counts or (cluster.count,)
    some = [pp for pp in space.pp if stages_run(plan.schedule, pp) and any(count % pp == 0 for count in counts)]
    pairs = [(pp, vp) for pp, vp in product(some, space.vp) if _shared_out(depth, pp, vp)]
    if not pairs:
        return [], {"pp": np.zeros(0)}
    near = (False, True) if space.near and 3 in space.zero else (False,)
    axes = np.meshgrid(counts, np.arange(len(pairs)), space.zero, np.arange(len(space.mbs)), near, indexing="ij")
    count, pair, zero, size, inside = (a.ravel() for a in axes)
    pp, vp = np.array(pairs).T[:, pair]
    mbs = np.array(space.mbs)[size]
    plans: list[TrainPlan] = []
    found: list[dict[str, Any]] = []
    splits = [
        (tp, cp, ring, ep, loss)
        for tp, cp in product(space.tp, space.cp)
        for ring in _rings(model, cluster, plan, space, tp, cp)
        for ep, loss in product(space.ep, space.loss)
    ]
    for tp, cp, ring, ep, loss in splits:
        etp = space.etp or (1 if ep > 1 else tp)
        whole = count // (tp * cp * pp)
        legal = (tp * cp * pp * whole == count) & (whole >= 1) & ((tp * cp * whole) % (ep * etp) == 0)
        if space.dp:
            legal &= whole == space.dp
        if space.shard:
            legal &= whole % space.shard == 0
        shard = np.where(inside, max(1, cluster.per_node // (tp * cp)), space.shard or whole)
        legal &= ~inside | ((zero == 3) & (shard > 1) & (shard < whole) & (whole % np.maximum(shard, 1) == 0))
        if plan.framework.zero_alone:
            legal &= (zero < 2) | (pp == 1)
        if tp > 1 and len(space.zero) + len(space.tp) > 2:
            legal &= zero <= plan.framework.zero_beside_tp
        if space.layers:
            legal &= space.layers <= -(-depth // (pp * vp))
        at_once = np.maximum(mbs * whole, 1)
        micro = plan.gbs // at_once
        legal &= (plan.gbs % at_once == 0) & ((vp == 1) | (micro % pp == 0)) & batches_run(plan.schedule, pp, micro)
        if not legal.any():
            continue
        kept = np.flatnonzero(legal)
        one = {"split": np.full(len(kept), len(plans)), "tp": np.full(len(kept), tp), "cp": np.full(len(kept), cp)}
        one |= {"ep": np.full(len(kept), ep), "etp": np.full(len(kept), etp), "mbs": mbs[kept], "size": size[kept]}
        one |= {"pp": pp[kept], "vp": vp[kept], "dp": whole[kept], "zero": zero[kept], "count": count[kept]}
        one |= {"shard": shard[kept], "micro_batches": micro[kept]}
        one |= {"ring": np.full(len(kept), ring), "loss": np.full(len(kept), LOSSES.index(loss))}
        plans.append(replace(plan, tp=tp, cp=cp, ring=ring, ep=ep, etp=etp, loss=loss))
        found.append(one)
    if not found:
        return [], {"pp": np.zeros(0)}
    return plans, {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _rings(model: Model, cluster: Cluster, plan: TrainPlan, space: Space, tp: int, cp: int) -> list[int]:
    """Of so many context-parallel ranks, those that may pass keys and values around (0: all of them)."""
    if not space.rings:
        return [plan.ring] if not plan.ring or cp % plan.ring == 0 else []
    if cp == 1:
        return [0]
    near = max(1, min(cp, cluster.per_node // tp))
    tried = {"ring": 0, "heads": 1, "mixed": cp // near if cp % near == 0 and 1 < near < cp else 0}
    found = dict.fromkeys(tried[name] for name in space.rings)
    queries = [q for q, _ in model.transformer.head_groups]
    return [ring for ring in found if not ring or all(q % (tp * (cp // ring)) == 0 for q in queries)]


def _shared_out(depth: int, pp: int, vp: int) -> bool:
    """Whether layers fill chunks, but for what the first and the last of them leave to embedding and head."""
    chunks = pp * vp
    if vp > 1 and pp == 1:
        return False
    each = -(-depth // chunks)
    missing = each * chunks - depth
    return missing == 0 or (chunks <= depth + 2 and missing - missing // 2 <= each)


def nearest_batch(cluster: Cluster, plan: TrainPlan, space: Space) -> int:
    """The nearest number of sequences of a step that some layout divides; 0: no layout is of so many devices."""
    near: list[int] = []
    for size, pp, vp, tp, cp in product(space.mbs, space.pp, space.vp, space.tp, space.cp):
        whole, rest = divmod(cluster.count, tp * cp * pp)
        if not rest and whole and space.dp in (0, whole) and stages_run(plan.schedule, pp):
            at_once = size * whole * (pp if vp > 1 else 1)
            near.append(max(at_once, round(plan.gbs / at_once) * at_once))
    return min(near, key=lambda n: (abs(n - plan.gbs), n), default=0)


def _layout(rows: Mapping[str, Any]) -> Layout:
    return Layout(**{n: rows[n] for n in ("tp", "cp", "ep", "etp", "pp", "vp", "dp", "zero", "shard", "micro_batches")})


def _named(plan: TrainPlan) -> TrainPlan:
    """The plan with a schedule that stands for one chunk and for several."""
    return replace(plan, schedule="interleaved") if plan.schedule == "1f1b" else plan


def _held(stage: StageMemory, most_host: float) -> Any:
    """What a stage holds; without end where the host has no room for what was moved there."""
    return np.where(np.asarray(stage.host_bytes) > most_host, np.inf, stage.reserved_bytes)


def _reserved(parts: StepParts, plan: TrainPlan, rows: Mapping[str, Any], most_host: float) -> Any:
    """``[stages, layouts]``: of the first and the last stage, and of the first that has all of its layers of a kind."""
    last, layout = rows["pp"] - 1, _layout(rows)
    each = sum(k.count for k in parts.layers) / rows["pp"]
    starts = np.cumsum([kind.count for kind in parts.layers])[:-1]  # of every other kind of layers
    runs = [np.ceil(start / each) + more for start in starts for more in (0, 1)]
    places = [0 * last, *(np.minimum(np.maximum(1, at), last) for at in (1, *runs)), last]
    held = [_held(memory_of(parts, _named(plan), at, layout), most_host) for at in places]
    return np.stack(np.broadcast_arrays(*held, np.zeros(len(last)))[:-1])


def _weighed(
    rows: Mapping[str, Any],
    table: StepParts,
    plan: TrainPlan,
    ways: Sequence[tuple[str, ...]],
    space: Space,
    most: tuple[float, float],
) -> dict[str, Any]:
    """Layouts with what they compute again: those that fit, or if none does all; ``fits`` says which.

    ``most`` are bytes of a device and of its share of the host.
    """
    most_bytes, most_host = most
    if space.layers:
        return _said_layers(rows, table, plan, ways, space.layers, most)
    each = [
        _reserved(taken(table, rows["split"], way, rows["size"]), plan, rows, most_host) for way in range(len(ways))
    ]
    held = np.stack([one.max(axis=0) for one in each])
    fits = held <= most_bytes
    timed = fits.copy()
    if () in ways:  # nothing that fits is made faster by computing more again
        timed &= ~fits[ways.index(())] | (np.array([not way for way in ways])[:, None])
    way, row = np.nonzero(timed if timed.any() else np.ones_like(timed))
    made = {name: values[row] for name, values in rows.items()}
    made |= {
        "recompute": way,
        "recompute_layers": np.zeros_like(way),
        "reserved": held[way, row],
        "fits": fits[way, row],
    }
    looked = fits.size
    if space.some_layers and () in ways and _FULL in ways:
        nothing, full = ways.index(()), ways.index(_FULL)
        between = np.flatnonzero(fits[full] & ~fits[nothing])
        looked += len(between)
        if len(between):
            some = _some_layers(
                {n: v[between] for n, v in rows.items()}, table, plan, nothing, full, (most_bytes, most_host)
            )
            made = {name: np.concatenate([made[name], some[name]]) for name in made}
    return {**made, "weighed": np.full(len(made["pp"]), looked)}


def _said_layers(
    rows: Mapping[str, Any],
    table: StepParts,
    plan: TrainPlan,
    ways: Sequence[tuple[str, ...]],
    layers: int,
    most: tuple[float, float],
) -> dict[str, Any]:
    """Layouts with so many layers of every chunk computed again."""
    less, more = (taken(table, rows["split"], ways.index(way), rows["size"]) for way in ((), _FULL))
    each = sum(k.count for k in table.layers) / (rows["pp"] * rows["vp"])
    held = _reserved(blended(less, more, layers / each), plan, rows, most[1]).max(axis=0)
    whole = np.full(len(held), ways.index(_FULL))
    found = {**rows, "recompute": whole, "recompute_layers": np.full(len(held), layers), "reserved": held}
    return {**found, "fits": held <= most[0], "weighed": np.full(len(held), len(held))}


def _some_layers(
    rows: Mapping[str, Any], table: StepParts, plan: TrainPlan, nothing: int, full: int, most: tuple[float, float]
) -> dict[str, Any]:
    """Layouts that fit with as few layers computed again as it takes."""
    most_bytes, most_host = most
    less, more = (taken(table, rows["split"], way, rows["size"]) for way in (nothing, full))
    each = sum(k.count for k in table.layers) / (rows["pp"] * rows["vp"])
    none, whole = (_reserved(blended(less, more, part), plan, rows, most_host) for part in (0.0, 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(none > most_bytes, (none - most_bytes) / (none - whole), 0.0).max(axis=0)
    layers = np.ceil(share * each * (1.0 - 1e-12))
    some = np.flatnonzero((layers >= 1) & (layers < each))
    rows = {name: values[some] for name, values in rows.items()}
    layers, each = layers[some], each[some]
    less, more = (taken(table, rows["split"], way, rows["size"]) for way in (nothing, full))
    held = _reserved(blended(less, more, layers / each), plan, rows, most_host).max(axis=0)
    found = {**rows, "recompute": np.full(len(some), full), "recompute_layers": layers.astype(np.int64)}
    found |= {"reserved": held, "fits": held <= most_bytes}
    return {name: values[found["fits"]] for name, values in found.items()}


def _priced(
    rows: Mapping[str, Any],
    table: StepParts,
    plan: TrainPlan,
    cluster: Cluster,
    sites: Sites,
    links: Links,
    ways: Sequence[tuple[str, ...]],
) -> tuple[Any, Any]:
    """Seconds of a step and watts of a device of layouts."""
    here = taken(table, rows["split"], rows["recompute"], rows["size"])
    if np.any(rows["recompute_layers"]):
        nothing = taken(table, rows["split"], np.full(len(rows["pp"]), ways.index(())), rows["size"])
        each = sum(k.count for k in table.layers) / (rows["pp"] * rows["vp"])
        part = np.where(rows["recompute_layers"] > 0, rows["recompute_layers"] / each, 1.0)
        here = blended(nothing, here, part)
    cost = step_of(here, _named(plan), links, sites.products, sites.vector, _layout(rows))
    static = static_power_w(cluster.machine)
    step_s = np.broadcast_to(np.asarray(cost.step_s), rows["pp"].shape)
    busy = np.minimum(1.0, np.asarray(cost.limit_s) / step_s)
    return step_s, np.broadcast_to(static + (cluster.machine.tdp_w - static) * busy, step_s.shape)
