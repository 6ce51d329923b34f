"""Training on devices of several kinds: replicas of each kind share a step, or stages of each kind share the layers.

``step = max over kinds (step of its share) + gradients between kinds``: every kind trains replicas of its own, laid out
as is best for it, adds up gradients among them, and exchanges the sums with the other kinds. Sequences are dealt out so
that the last kind is done soonest. Stages: :mod:`steelyard.training.mixed_stages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.money import hourly_price
from steelyard.deployment.train_plan import TrainPlan
from steelyard.errors import InputError
from steelyard.machine.cluster import Cluster
from steelyard.provenance import Ledger
from steelyard.scenario.fields import PRICE
from steelyard.scenario.training import TrainScenario
from steelyard.training import estimate as single
from steelyard.training.chosen import usual_layouts
from steelyard.training.sites import sites_of
from steelyard.training.step import Layout, step_of
from steelyard.training.traffic import Links

if TYPE_CHECKING:
    from steelyard.scenario.mixed_training import MixedTrainScenario
    from steelyard.training.estimate import StageHeld, TrainEstimate

__all__ = ["KindShare", "Together", "answer_mixed", "combined", "dealt", "usd_of"]

#: Times that layouts are chosen anew for the shares that they make.
ROUNDS = 3
#: Micro-batches by which the exact deal may differ from the proportional one, by the number of kinds.
_NEAR = {2: 64, 3: 16, 4: 6}

Times = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class KindShare:
    """What the devices of one kind do in a step."""

    cluster: Cluster
    plan: TrainPlan
    """Of its replicas, with the sequences it takes; of stages the plan of all."""
    busy_s: float
    """Its own work; until the step ends it waits."""
    layers: float
    """Of the model that it holds."""
    stages: tuple[StageHeld, ...]
    """What its stages hold."""
    energy_j: float
    rent_usd_per_hour: float | None
    """Of all of its devices; None without a price."""

    @property
    def capacity_bytes(self) -> float:
        """Of a device."""
        return self.cluster.machine.root.capacity_bytes

    @property
    def fullest(self) -> float:
        """Share of the memory that its fullest stage holds."""
        return max(s.reserved_bytes for s in self.stages) / self.capacity_bytes


def answer_mixed(scenario: MixedTrainScenario) -> TrainEstimate:
    """Weigh a training on devices of several kinds; of replicas and stages the faster that fits where it is open.

    Raises:
        InputError: sequences cannot be dealt to the replicas, or no layers to the stages.
    """
    from steelyard.training.mixed_stages import in_stages

    ways: list[Callable[[MixedTrainScenario], TrainEstimate]] = []
    if scenario.across != "stages":
        ways.append(in_replicas)
    if scenario.across != "replicas" and scenario.shares is None:
        ways.append(in_stages)
    found, errors = [], []
    for way in ways:
        try:
            found.append(way(scenario))
        except InputError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    best = min(found, key=lambda f: (not f.fits, f.step_s))
    if len(found) > 1:
        other = next(f for f in found if f is not best)
        how = f"would take {other.step_s / best.step_s:.2f} times as long" if other.fits else "does not fit"
        best.ledger.assume(f"the faster that fits: {best.across}; {other.across} {how} (--across)")
    return best


def in_replicas(scenario: MixedTrainScenario) -> TrainEstimate:
    """Every kind trains replicas of its own on its share of the sequences."""
    gbs, kinds = scenario.plan.gbs, scenario.of
    shares = list(scenario.shares or _first_shares(scenario))
    plans = [_laid_out(s, share) for s, share in zip(kinds, shares, strict=True)]
    if scenario.shares is None:
        for _ in range(ROUNDS):
            units = [p.mbs * p.dp * (p.pp if p.vp > 1 else 1) for p in plans]
            times = [_times(s, p, unit) for s, p, unit in zip(kinds, plans, units, strict=True)]
            found = [n * unit for n, unit in zip(dealt(times, units, gbs), units, strict=True)]
            same = found == shares
            shares = found
            if same or not kinds[0].searched:
                break
            plans = [_laid_out(s, share) for s, share in zip(kinds, shares, strict=True)]
    for s, p, share in zip(kinds, plans, shares, strict=True):
        if share % (p.mbs * p.dp):
            near = max(1, round(share / (p.mbs * p.dp))) * p.mbs * p.dp
            words = f"{share} sequences of {s.cluster} are no multiple of mbs {p.mbs} x dp {p.dp}; nearest is {near}"
            raise InputError(words, field="shares" if scenario.shares else "gbs")
    each = [
        single.answer_train(replace(s, plan=replace(p, gbs=share), open=()))
        for s, p, share in zip(kinds, plans, shares, strict=True)
    ]
    waits = _between_s(scenario, each)
    slowest = max(each, key=lambda e: e.step_s)
    step = slowest.step_s + waits
    parts = []
    for e in each:
        assert e.cost is not None
        s = e.scenario
        energy = single.energy_of_step(e.cost, step, s.cluster, sites_of(s.cluster, s.plan.precision).products)
        parts.append(KindShare(s.cluster, s.plan, e.step_s, float(s.workload.depth), e.stages, energy, usd_of(s)))
    told = dict(slowest.breakdown_s)
    told["dp"] += waits
    together = Together(
        step_s=step,
        breakdown_s=told,
        ends=tuple(x / slowest.step_s for x in slowest.interval["step_s"]),  # type: ignore[arg-type]
        limit_s=max(e.limit_s for e in each),
        flops=sum(e.flops for e in each),
        again_flops=sum(e.again_flops for e in each),
        peak_ops_per_s=sum(e.peak_ops_per_s for e in each),
        ledgers=[e.ledger for e in each],
        host_bytes=min(e.host_capacity_bytes for e in each),
        said=f"gradients go between kinds once a step: {waits * 1e3:.3g} ms that nothing hides",
    )
    return combined(scenario, "replicas", parts, together)


def _first_shares(scenario: MixedTrainScenario) -> list[int]:
    """Sequences in proportion to peaks, in numbers that the devices of each kind divide where they can."""
    gbs, counts = scenario.plan.gbs, [k.count for k in scenario.cluster.kinds]
    if gbs < len(counts):
        raise InputError(f"{gbs} sequences for {len(counts)} kinds of devices; at least one each", field="gbs")
    grain = math.gcd(gbs, *counts)
    while gbs // grain < len(counts):
        grain = max(g for g in range(1, grain) if gbs % g == 0)
    peaks = np.array(
        [sites_of(k, scenario.plan.precision).products.peak_ops_per_s * k.count for k in scenario.cluster.kinds]
    )
    wanted = np.maximum(1, np.round(peaks / peaks.sum() * (gbs // grain))).astype(int)
    wanted[int(np.argmax(wanted))] += gbs // grain - int(wanted.sum())
    return [int(x) * grain for x in wanted]


def _laid_out(s: TrainScenario, share: int) -> TrainPlan:
    """The layout of the replicas of a kind for its share: as given, or the fastest that fits."""
    one = replace(s, plan=replace(s.plan, gbs=share))
    if not s.searched:
        return one.plan
    found = usual_layouts(one)
    return found.plan_of(int(np.argmin(found.step_s)))


def _times(s: TrainScenario, plan: TrainPlan, unit: int) -> Times:
    """Seconds of a step of a kind for numbers of micro-batches, of chunks in groups of stages."""
    sites, links = sites_of(s.cluster, plan.precision), Links.of(s.cluster)
    parts = single.priced_parts(s.model, plan, s.cluster, sites, links)
    each = unit // (plan.mbs * plan.dp)

    def step_s(number: NDArray[np.float64]) -> NDArray[np.float64]:
        layout = replace(Layout.of(plan), micro_batches=np.asarray(number) * each)
        found = step_of(parts, plan, links, sites.products, sites.vector, layout).step_s
        return np.broadcast_to(np.asarray(found, dtype=np.float64), np.shape(number))

    return step_s


def dealt(times: Sequence[Times], units: Sequence[int], total: int) -> list[int]:
    """How many units each of several takes, so that the last is done soonest.

    A step is a straight line in them but for its beginning: the real-valued deal follows, and around it all whole ones
    are tried.

    Args:
        times: seconds of each for numbers of units.
        units: sequences of a unit of each.
        total: sequences that are dealt.

    Raises:
        InputError: no whole numbers of units are so many sequences.
    """
    size, many = np.asarray(units, dtype=np.float64), len(units)
    grain, least = math.gcd(*units), int(size.sum())
    if total % grain or total < least:
        near = max(math.ceil(least / grain), round(total / grain)) * grain
        words = f"{total} sequences are not dealt to replicas that take {' and '.join(map(str, units))} at once"
        raise InputError(f"{words}; nearest is {near}", field="gbs")
    ends = [f(np.array([32.0, 64.0])) for f in times]
    rise = np.array([(e[1] - e[0]) / 32.0 for e in ends])
    start = np.array([e[0] for e in ends]) - 32.0 * rise
    done = (total + float((size * start / rise).sum())) / float((size / rise).sum())
    middle = np.clip(np.floor((done - start) / rise), 1, total // size)
    reach = max(_NEAR[many], 2 * int(size[-1]) // grain if many == 2 else 0)
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    axes = np.meshgrid(*(m + steps for m in middle[:-1]), indexing="ij")
    rows = [a.ravel() for a in axes]
    rest = total - sum(r * u for r, u in zip(rows, size, strict=False))
    legal = (np.fmod(rest, size[-1]) == 0) & (rest > 0) & np.all([r >= 1 for r in rows], axis=0)
    if not legal.any():
        near = max(least, round(total / (grain * least)) * grain * least)
        words = f"{total} sequences are not dealt to replicas that take {' and '.join(map(str, units))} at once"
        raise InputError(f"{words}; {near} are", field="gbs")
    rows = [r[legal] for r in (*rows, rest / size[-1])]
    last = np.max([f(r) for f, r in zip(times, rows, strict=True)], axis=0)
    best = int(np.argmin(last))
    return [int(r[best]) for r in rows]


def _between_s(scenario: MixedTrainScenario, each: Sequence[TrainEstimate]) -> float:
    """Sums of gradients, of which every device of a kind holds a part, added up among the kinds."""
    plan = scenario.plan
    if not plan.optimizer.gradient:
        return 0.0
    elements = scenario.parameters * (0.01 if plan.frozen else 1.0)
    whole = elements * plan.framework.gradient_bits / 8
    times = []
    for e in each:
        cluster, p = e.scenario.cluster, e.scenario.plan
        held = cluster.count if p.zero else cluster.count // p.dp
        times.append(
            float(Links.of(cluster).collective_s("all_reduce", whole / held, len(each), max(1, cluster.per_node)))
        )
    return max(times) * plan.framework.dp_exposed


def usd_of(s: TrainScenario) -> float | None:
    """Rent of the devices of a kind, USD/h; None where no price is known."""
    each = hourly_price(s.cluster.machine, s.words.get(PRICE), Ledger(), s.cluster.system).usd_per_hour
    return None if each is None else each * s.cluster.count


@dataclass(frozen=True, eq=False)
class Together:
    """A step of all kinds."""

    step_s: float
    breakdown_s: Mapping[str, float]
    """Of the kind that is waited for, or of the slowest stage."""
    ends: tuple[float, float]
    """Of the interval of the step, over the step."""
    limit_s: float
    flops: float
    again_flops: float
    peak_ops_per_s: float
    ledgers: Sequence[Ledger]
    """What each kind's answer rests on."""
    said: str
    """What else is to be told."""
    host_bytes: float = math.inf
    """Memory of a host for each device."""


def combined(scenario: MixedTrainScenario, across: str, parts: Sequence[KindShare], all_of: Together) -> TrainEstimate:
    """The answer of all kinds together.

    Args:
        scenario: the question.
        across: ``replicas`` or ``stages``.
        parts: what each kind does.
        all_of: what they do together.
    """
    from steelyard.training.estimate import TrainEstimate

    ledger = Ledger()
    for one in all_of.ledgers:
        ledger.take(one)
    ledger.assume(all_of.said)
    rents = [p.rent_usd_per_hour for p in parts]
    count = scenario.cluster.count
    usd = None if None in rents else sum(rent or 0.0 for rent in rents)
    note = ", ".join(
        f"{p.cluster.machine.name} {p.rent_usd_per_hour / p.cluster.count:.2f} USD/h"
        for p in parts
        if p.rent_usd_per_hour is not None
    )
    energy = sum(p.energy_j for p in parts)
    fullest = max(parts, key=lambda p: p.fullest)
    tokens = float(scenario.plan.gbs * scenario.plan.seq)
    step = all_of.step_s
    low, high = step * all_of.ends[0], step * all_of.ends[1]
    hourly = None if usd is None else usd / count
    found = TrainEstimate(
        scenario=scenario,
        step_s=step,
        breakdown_s=dict(all_of.breakdown_s),
        tokens_per_step=tokens,
        flops=all_of.flops,
        again_flops=all_of.again_flops,
        peak_ops_per_s=all_of.peak_ops_per_s,
        stages=fullest.stages,
        capacity_bytes=fullest.capacity_bytes,
        energy_j=energy,
        usd_per_device_hour=hourly,
        price_note=note,
        interval={
            "step_s": (low, high),
            "tokens_per_s": (tokens / high, tokens / low),
            "tokens_per_s_per_device": (tokens / high / count, tokens / low / count),
            "energy_j_per_token": (energy * low / step / tokens, energy * high / step / tokens),
            "peak_memory_bytes": single.memory_interval(fullest.stages, scenario.plan),
        },
        limit_s=all_of.limit_s,
        cost=None,
        ledger=ledger,
        host_capacity_bytes=all_of.host_bytes,
        across=across,
        kinds=tuple(parts),
    )
    return single.with_run(found)
