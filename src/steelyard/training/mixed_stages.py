"""Pipeline stages on devices of several kinds: the faster ones, and those with more memory, have more of the layers.

All kinds have the same tensor- and context-parallel degrees and as many replicas, so of ``n`` devices a kind has
``n / (tp cp dp)`` stages, in the order in which the kinds are named. Layers are shared out in whole ones so that the
slowest stage is as fast as can be and every stage fits; the pipeline is then played stage by stage
(:func:`steelyard.training.schedule.play`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.train_plan import CHOSEN, SPLITTING, TrainPlan, divisors
from steelyard.errors import InputError
from steelyard.provenance import Ledger
from steelyard.training import estimate as single
from steelyard.training.layers import StepParts
from steelyard.training.layouts import space_of
from steelyard.training.memory import PARTS, StageMemory, memory_of
from steelyard.training.mixed import KindShare, Together, combined, usd_of
from steelyard.training.schedule import play
from steelyard.training.schedule_tables import schedule_table
from steelyard.training.sites import sites_of
from steelyard.training.step import SEND_EXPOSED, Layout, StepCost, end_of_step, layers_on, stages_of
from steelyard.training.traffic import Links
from steelyard.training.work import Sites

if TYPE_CHECKING:
    from steelyard.scenario.mixed_training import MixedTrainScenario
    from steelyard.training.estimate import TrainEstimate

__all__ = ["in_stages", "shared_out"]

#: Passes of a step that are played at most; beyond, the closed form of 1F1B with unlike stages is used.
MOST_PLAYED = 500_000
#: Micro-batches that are tried where no size is given, sequences.
_SIZES = (1, 2, 4)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class _Tried:
    """A layout over all stages."""

    plan: TrainPlan
    kind: NDArray[np.int64]
    """Of every stage."""
    parts: list[StepParts]
    """Of a micro-batch on each kind, with the layers of every stage."""
    passes: Floats
    """``[forward, backward, weights; stages]``, s."""
    memory: list[StageMemory]
    fits: bool
    step_s: float
    """By the closed form."""


def in_stages(scenario: MixedTrainScenario) -> TrainEstimate:
    """The kinds of devices are stages of the same replicas.

    Raises:
        InputError: no degrees divide the devices of all kinds, the batch and the layers.
    """
    kinds, clusters = scenario.of, scenario.cluster.kinds
    links = [Links.of(c) for c in clusters]
    sites = [sites_of(c, scenario.plan.precision) for c in clusters]
    tried: list[_Tried] = []
    for plan in _layouts(scenario):
        parts = [
            single.priced_parts(s.model, plan, s.cluster, site, link)
            for s, site, link in zip(kinds, sites, links, strict=True)
        ]
        tried.append(_tried(scenario, plan, parts, links))
    if not tried:
        counts = " and ".join(f"{c.count} {c.machine.name}" for c in clusters)
        words = f"no degrees divide {counts}, {scenario.plan.gbs} sequences and {scenario.workload.depth} layers"
        raise InputError(f"{words} into stages of equal replicas", field="across")
    best = min(tried, key=lambda t: (not t.fits, t.step_s))
    return _answered(scenario, best, links, sites)


def _layouts(scenario: MixedTrainScenario) -> Iterator[TrainPlan]:
    """Degrees that divide the devices of all kinds."""
    first, clusters, plan = scenario.of[0], scenario.cluster.kinds, scenario.plan
    given = {n: scenario.words[n] for n in (*SPLITTING, "mbs") if scenario.words[n] is not None}
    if plan.vp > 1 and "vp" in scenario.given:
        raise InputError("stages of unlike devices are of one piece: leave vp out", field="vp")
    common, depth = math.gcd(*(c.count for c in clusters)), scenario.workload.depth
    spaces = [space_of(s.model, s.cluster, s.plan, set(s.given)) for s in scenario.of]
    degrees = [d for d in spaces[0].tp if all(d in space.tp for space in spaces)]
    cp = first.plan.cp
    ways: Sequence[tuple[str, ...]] = (first.plan.recompute,)
    if "recompute" not in scenario.given:
        ways = tuple(dict.fromkeys((first.plan.recompute, ("full",))))
    for tp in (given["tp"],) if "tp" in given else degrees:
        for group in divisors(common, common):
            if group % (tp * cp):
                continue
            dp, stages = group // (tp * cp), sum(c.count // group for c in clusters)
            if stages > depth or given.get("pp", stages) != stages:
                continue
            for mbs in (given["mbs"],) if "mbs" in given else _SIZES:
                if plan.gbs % (mbs * dp):
                    continue
                chosen: dict[str, Any] = dict(zip(CHOSEN, (tp, stages, dp, mbs), strict=True))
                for way in ways:
                    yield replace(
                        first.plan,
                        **chosen,
                        gbs=plan.gbs,
                        etp=first.plan.etp if "etp" in scenario.given or first.plan.ep > 1 else tp,
                        shard=dp,
                        schedule="1f1b",
                        recompute=way,
                        recompute_layers=0,
                    )


def _tried(scenario: MixedTrainScenario, plan: TrainPlan, parts: list[StepParts], links: list[Links]) -> _Tried:
    """Layers shared out over the stages of a layout, and what it takes."""
    clusters, every = scenario.cluster.kinds, np.arange(plan.pp)
    group = plan.tp * plan.cp * plan.dp
    kind = np.repeat(np.arange(len(clusters)), [c.count // group for c in clusters])
    depth = round(sum(k.count for k in parts[0].layers))
    capacity = np.array([c.machine.root.capacity_bytes for c in clusters])[kind]

    def on_stages(values: list[Any]) -> Floats:
        return np.stack([np.broadcast_to(np.asarray(v, dtype=np.float64), plan.pp) for v in values])[kind, every]

    def placed(layers: Floats) -> list[StepParts]:
        ends = np.concatenate([[0.0], np.cumsum(layers)])
        starts = np.concatenate([[0.0], np.cumsum([k.count for k in parts[0].layers])])
        rows = [
            np.maximum(0.0, np.minimum(ends[1:], high) - np.maximum(ends[:-1], low)) for low, high in pairwise(starts)
        ]
        return [replace(p, placed=np.stack(rows)) for p in parts]

    def alike(layers: float) -> list[StepParts]:
        rows = np.array([[k.count / depth * layers] * plan.pp for k in parts[0].layers])
        return [replace(p, placed=rows) for p in parts]

    def passes_of(some: list[StepParts]) -> Floats:
        found = [stages_of(p, plan, link, every)[0] for p, link in zip(some, links, strict=True)]
        return np.stack([on_stages([f[i] for f in found]) for i in range(3)])

    def held_by(some: list[StepParts]) -> Floats:
        return on_stages([memory_of(p, plan, every).reserved_bytes for p in some])

    none, one = (passes_of(alike(n)) for n in (0.0, 1.0))
    rest, layer = none[0] + none[1], (one - none)[0] + (one - none)[1]
    least, more = held_by(alike(1.0)), held_by(alike(2.0))
    room = np.floor((capacity - least) / np.maximum(more - least, 1.0)) + 1.0
    layers = shared_out(layer, rest, room, depth)
    chosen = placed(layers)
    passes, memory = passes_of(chosen), [memory_of(p, plan, every) for p in chosen]
    fits = bool(np.all(on_stages([m.reserved_bytes for m in memory]) <= capacity))
    both = passes[0] + passes[1]
    step = float(both.sum() + (plan.micro_batches - 1) * both.max())
    return _Tried(plan, kind, chosen, passes, memory, fits, step)


def shared_out(layer_s: Floats, rest_s: Floats, room: Floats, depth: int) -> Floats:
    """Whole layers of every stage, at least one, so that the slowest stage takes least and none has more than it holds.

    Args:
        layer_s: forward and backward pass of a layer on each stage, s.
        rest_s: what else a stage does in a micro-batch, s.
        room: layers that a stage holds at most; where they are not room for all, they are shared out by speed alone.
        depth: layers of the model, at least as many as stages.
    """
    most = np.maximum(room, 1.0) if np.maximum(room, 1.0).sum() >= depth else np.full(len(room), float(depth))

    def within(time: float) -> Floats:
        return np.clip(np.floor((time - rest_s) / layer_s), 1.0, most)

    low, high = 0.0, float((rest_s + depth * layer_s).max())
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if within(middle).sum() >= depth else (middle, high)
    found = within(high)
    while found.sum() > depth:  # a few at most: those that ended at the same time
        found[np.argmax(np.where(found > 1.0, rest_s + found * layer_s, -1.0))] -= 1.0
    return found


def _answered(scenario: MixedTrainScenario, tried: _Tried, links: list[Links], sites: list[Sites]) -> TrainEstimate:
    """The layout played and told."""
    plan, kind, clusters = tried.plan, tried.kind, scenario.cluster.kinds
    every, m, layout = np.arange(plan.pp), plan.micro_batches, Layout.of(plan)
    group = plan.tp * plan.cp * plan.dp
    f, b, w = tried.passes
    sends = np.array([_send_s(links, tried, i) for i in range(plan.pp - 1)])
    step = tried.step_s
    if plan.pp * m <= MOST_PLAYED:
        step = float(play(schedule_table("1f1b", plan.pp, m), f, b - w, w, sends).step_s)
    flowing = 2.0 * m * float(sends.max(initial=0.0)) * SEND_EXPOSED
    tails = []
    for g, (p, link, site) in enumerate(zip(tried.parts, links, sites, strict=True)):
        mine = [int(i) for i in every[kind == g]]
        tails.append(end_of_step(p, plan, link, site.products, site.vector, layout, float(b[kind == g].max()), mine))
    after, update = (max(single.one(t[i]) for t in tails) for i in (0, 1))
    step += flowing + after + update + plan.framework.step_host_s
    slow = int(np.argmax(f + b))
    told = {
        name: _at(x, slow) for name, x in stages_of(tried.parts[kind[slow]], plan, links[kind[slow]], every)[1].items()
    }
    told["dp"] = told.get("dp", 0.0) + told.pop("gathers") + after
    told |= {"pp_send": flowing, "optimizer": update, "host": told["host"] + plan.framework.step_host_s}
    told["pp_bubble"] = max(step - sum(told.values()), 0.0)
    shares, flops, again, ledgers, limits, spread = [], 0.0, 0.0, [], [0.0], 0.0
    for g, (cluster, p, site) in enumerate(zip(clusters, tried.parts, sites, strict=True)):
        mine = every[kind == g]
        rows = [row[mine].sum() for row in p.placed]
        own = sum(n * single.one(k.flops) for n, k in zip(rows, p.layers, strict=True))
        own += single.one(p.first.flops) * (0 in mine) + single.one(p.last.flops) * (plan.pp - 1 in mine)
        once = m * (2.0 if plan.frozen else 3.0) * own
        more = m * sum(n * single.one(k.again_flops) for n, k in zip(rows, p.layers, strict=True))
        passing = sum(
            n * (single.one(k.forward.get("elementwise", 0.0)) + single.one(k.backward.get("elementwise", 0.0)))
            for n, k in zip(rows, p.layers, strict=True)
        )
        ends = {"elementwise": m * passing / len(mine), "optimizer": update, "host": told["host"]}
        cost = StepCost(step, ends, 0.0, 0.0, 0.0, 0.0, once / len(mine), more / len(mine), 0.0)
        energy = single.energy_of_step(cost, step, cluster, site.products)
        held = tried.memory[g]
        stages = tuple(
            single.StageHeld(
                {name: _at(held.parts[name], i) for name in PARTS},
                _at(held.allocated_bytes, i),
                _at(held.reserved_bytes, i),
                float(sum(_at(x, 0) for x in layers_on(p, plan.pp, 1, i))),
            )
            for i in mine
        )
        busy = m * float((f + b)[mine].max())
        shares.append(KindShare(cluster, plan, busy, float(sum(rows)), stages, energy, usd_of(scenario.of[g])))
        flops, again = flops + once * group, again + more * group
        limits.append((once + more) / len(mine) / site.products.peak_ops_per_s)
        ledger = Ledger()
        left = tuple(n for n in scenario.open if n != "gbs" or g == 0)
        single.account_of(replace(scenario.of[g], plan=plan, open=left), p, links[g], ledger)
        ledgers.append(ledger)
        spread = max(spread, single.spread_of(plan, p, cost, step))
    low, high = single.ends_of(step, spread, max(limits))
    on = ", ".join(
        f"{clusters[g].machine.name} {'/'.join(f'{n:g}' for n in sorted({float(s.layers) for s in share.stages}))}"
        for g, share in enumerate(shares)
    )
    together = Together(
        step_s=step,
        breakdown_s=told,
        ends=(low / step, high / step),
        limit_s=max(limits),
        flops=flops,
        again_flops=again,
        peak_ops_per_s=sum(s.products.peak_ops_per_s * c.count for s, c in zip(sites, clusters, strict=True)),
        ledgers=ledgers,
        said=f"layers of a stage by speed and memory: {on}",
    )
    return combined(scenario, "stages", shares, together)


def _send_s(links: list[Links], tried: _Tried, stage: int) -> float:
    """What a stage hands on to the next, over the slower link of both."""
    plan, here, there = tried.plan, int(tried.kind[stage]), int(tried.kind[stage + 1])
    group = plan.tp * plan.cp * plan.dp
    message = tried.parts[here].hidden_bytes
    if here == there:
        return single.one(links[here].collective_s("send", message, 2, group))
    return max(single.one(links[g].collective_s("send", message, 2, links[g].cluster.per_node)) for g in (here, there))


def _at(values: Any, stage: int) -> float:
    found = np.ravel(np.asarray(values, dtype=np.float64))
    return float(found[stage] if len(found) > 1 else found[0])
