"""Mixed fleets: the cheapest replicas of several machines that together meet the SLOs (Melange, arXiv:2404.14527).

``plan_fleet``: buckets -> capacities per type -> integer program -> simulated request by request -> repaired. See
docs/methods/fleet.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.scenario.fields import PRICE
from steelyard.search.answer import Question
from steelyard.search.buckets import Buckets, buckets_of, deal
from steelyard.search.demand import demand_of
from steelyard.search.describe import UNITS
from steelyard.search.fleet_play import FLEET_ROUTER, FleetOutcome, FleetPlayer, percentile_of
from steelyard.search.fleet_program import Program, needed, solve, with_spares
from steelyard.search.fleet_search import (
    LATE,
    FleetSearch,
    busy_rate,
    cheapest_mix,
    cheapest_of_one_type,
    program_of,
)
from steelyard.search.options import Floats, Integers
from steelyard.search.replica_types import ReplicaTypes, replica_types
from steelyard.search.task import PlanTask, node_power_w
from steelyard.traffic.trace import Trace

__all__ = ["Fleet", "FleetAnswer", "FleetChange", "FleetInfeasible", "Route", "plan_fleet"]

#: Objectives of a mix; ``devices`` counts them.
OBJECTIVES = ("cost", "energy", "carbon", "devices")
#: Machines whose own fleet costs more than so many times the cheapest one's, by the screen, are not simulated alone.
FAR = 1.5
#: The options by which a limit of the program is raised.
OPTIONS = {"devices": "--max-gpus", "budget": "--budget", "watts": "--max-power"}


@dataclass(frozen=True)
class Route:
    """Where the requests of some lengths go."""

    prompts: tuple[int, int]
    """Shortest and longest prompt seen, tokens."""
    outputs: tuple[int, int]
    """Shortest and longest output seen, tokens."""
    share: float
    """Of all requests."""
    pools: tuple[float, ...]
    """Share of these requests that each pool of the deployment gets; they sum to 1."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """A fleet of one or several machines that was simulated."""

    deployment: Deployment
    """Pools of the role ``both``; replicas include spares."""
    routes: tuple[Route, ...]
    shape: str
    """``25 x l40s tp1 + 2 x h100_sxm tp2``."""
    devices: int
    rent_usd_per_hour: float | None
    """Of all devices; None when a price is not known."""
    usd_per_million_tokens: float | None
    """Per million output tokens."""
    watts: float
    """Mean power of devices and hosts over the trace, spares included, W."""
    percentiles: Mapping[str, Mapping[str, float]]
    slo_values: Mapping[str, float]
    """Value of every metric with an SLO at its percentile, s."""
    meets: bool
    """Every SLO is met by the requests simulated, headroom included, without the spares."""
    value: float
    """Of the objective: USD/h, W, g/h or devices."""
    routing: str
    """What its router knows of a request, see :data:`steelyard.search.buckets.ROUTING`."""

    def assigned(self, trace: Trace) -> Integers:
        """``[n]`` the pool of each request of a trace, as ``simulate_deployment(..., assigned=)`` takes it.

        A request belongs to the route whose lengths are nearest to its own (their logarithms); requests of one route
        are dealt out evenly in time, see :func:`steelyard.search.buckets.deal`.
        """
        far = _beyond(trace.isl, [r.prompts for r in self.routes])
        if self.routing == "size":
            far = far + _beyond(trace.osl, [r.outputs for r in self.routes])
        return deal(np.argmin(far, axis=1), np.array([r.pools for r in self.routes]))

    @property
    def mixed(self) -> bool:
        """Whether more than one machine is used."""
        return len({p.machine for p in self.deployment.pools}) > 1


@dataclass(frozen=True)
class FleetChange:
    """A limit and the least value at which the integer program has a fleet, all other limits kept."""

    text: str
    name: str
    value: float


@dataclass(frozen=True)
class FleetInfeasible:
    """Why no fleet was found."""

    reason: str
    nearest: tuple[FleetChange, ...] = ()


@dataclass(frozen=True, eq=False)
class FleetAnswer:
    """The planner's answer for fleets that may mix machines."""

    question: Question
    winner: Fleet | None
    """The cheapest fleet found that met the SLOs in the simulator, mixed or not."""
    singles: Mapping[str, Fleet | None]
    """By machine: the cheapest fleet of one type of replica on that machine alone, found the same way; None when none
    met the SLOs. Machines far behind by the screen are left out."""
    screened: Mapping[str, float]
    """By machine: the program's optimum for one type on that machine alone; inf when it cannot carry the traffic."""
    infeasible: FleetInfeasible | None
    """None when there is a winner."""
    closest: Fleet | None
    """Where none met the SLOs: the fleet that came nearest."""
    types: int
    """Types of replicas in the program."""
    weighed: int
    """Types before those that are best for nothing were left out."""
    buckets: int
    groups: int
    """Groups of buckets the router can tell apart."""
    program_value: float
    """The program's optimum by the screen's capacities, before anything was simulated."""
    bound: float
    """No fleet of these types does better by the screen's capacities."""
    gap_frac: float
    """``(program_value - bound) / program_value``."""
    programs: int
    program_s: float
    """Wall time of the integer programs, s."""
    played: int
    """Fleets simulated request by request."""
    play_s: float
    wall_s: float
    cpu_s: float
    why: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_single(self) -> Fleet | None:
        """The best fleet of one type."""
        held = [f for f in self.singles.values() if f is not None]
        return min(held, key=lambda f: f.value) if held else None

    @property
    def saving_frac(self) -> float | None:
        """How much less the winner costs than the best fleet of one type; None without one to compare with."""
        single = self.best_single
        if self.winner is None or single is None or single.value <= 0:
            return None
        return 1.0 - self.winner.value / single.value


def plan_fleet(
    task: PlanTask,
    *,
    available: Mapping[str, int] | None = None,
    routing: str = "prompt",
    max_pools: int | None = None,
    shapes: Mapping[str, Sequence[Pool]] | None = None,
    compare: bool = True,
    time_limit_s: float = 10.0,
) -> FleetAnswer:
    """The cheapest fleet that may mix machines and replicas, such that all traffic meets the SLOs.

    Args:
        task: model, traffic (an open loop at the rate to plan for), machines, targets, objective (``cost``, ``energy``,
            ``carbon`` or ``devices``), limits, spares (replicas of each pool that may fail), headroom, prices.
        available: devices at most, by machine.
        routing: what the router knows of a request: ``prompt`` its prompt's length, ``size`` the output's too.
        max_pools: pools at most; None = no limit.
        shapes: replicas to choose from by machine, instead of all legal ones (plan and flags of each pool count).
        compare: plan the best fleet of each machine alone as well and begin from it; the winner is then never worse.
        time_limit_s: wall time of one integer program.

    Returns:
        a :class:`FleetAnswer`; ``winner`` is None exactly when ``infeasible`` says why.

    Raises:
        InputError: highspy is missing; an objective that a mix cannot have; a closed loop; no machine with a price.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    _check(task)
    limits = {find_machine(n).name: k for n, k in (available or {}).items()}
    given, task = task, _with_headroom(task)
    buckets = buckets_of(task.trace, routing)
    types = _priced(replica_types(task, buckets, shapes), task)
    player = FleetPlayer(task, buckets)

    def program_over(keep: Sequence[int], pools: int | None) -> tuple[ReplicaTypes, Program]:
        over = types.only(keep)
        return over, program_of(task, over, buckets, limits, pools)

    def fleet(search: FleetSearch, outcome: FleetOutcome | None) -> Fleet | None:
        return None if outcome is None else _fleet(given, search.types, outcome, buckets)

    machines = list(dict.fromkeys(o.replica.machine for o in types.options)) if compare else []
    own = {name: [j for j, o in enumerate(types.options) if o.replica.machine == name] for name in machines}
    screened = {n: solve(program_over(own[n], 1)[1], time_limit_s=time_limit_s).cost for n in machines}
    searches, singles = [], {}
    start, cheapest, factor = None, math.inf, np.full(len(types), math.nan)
    for name in machines:
        if not screened[name] <= FAR * min(screened.values()):
            continue
        single = cheapest_of_one_type(*program_over(own[name], 1), player)
        searches.append(single)
        singles[name] = fleet(single, single.outcome)
        if single.outcome is None:
            continue
        factor[own[name]] = single.use
        if single.cost < cheapest:
            start, cheapest = np.zeros(len(types), dtype=np.int64), single.cost
            start[own[name]] = single.outcome.counts
    known = factor[~np.isnan(factor)]
    guess = np.where(np.isnan(factor), known.mean(), factor) if known.size else None
    everything, program = program_over(range(len(types)), max_pools)
    mix = cheapest_mix(everything, program, player, start=start, factor=guess, time_limit_s=time_limit_s)
    searches.append(mix)
    fleets = [f for f in (fleet(mix, mix.outcome), *singles.values()) if f is not None]
    winner = min(fleets, key=lambda f: (f.value, f.devices)) if fleets else None
    return FleetAnswer(
        question=given.question,
        winner=winner,
        singles=singles,
        screened=screened,
        infeasible=None if winner else _explained(task, types, program, mix, buckets, time_limit_s),
        closest=None if winner else fleet(mix, mix.closest),
        types=len(types),
        weighed=types.screened,
        buckets=len(buckets),
        groups=buckets.groups,
        program_value=mix.first.cost,
        bound=mix.first.bound,
        gap_frac=mix.first.gap_frac,
        programs=sum(r.programs for r in searches),
        program_s=sum(r.program_s for r in searches),
        played=player.runs,
        play_s=player.wall_s,
        wall_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
        why=_why(winner, singles, screened, given.question),
        inputs={"routing": routing, "available": limits, "max_pools": max_pools, "trace": given.trace.name},
    )


def _beyond(lengths: Any, ranges: Sequence[tuple[int, int]]) -> Floats:
    """``[n, routes]`` how far lengths are outside ranges, in logarithms."""
    x = np.log(np.asarray(lengths, dtype=np.float64))[:, None]
    low, high = np.log(np.array(ranges, dtype=np.float64)).T
    return np.asarray(np.maximum(0.0, np.maximum(low - x, x - high)))


def _check(task: PlanTask) -> None:
    question = task.question
    if question.objective not in OBJECTIVES:
        message = f"a mix is chosen by one of {', '.join(OBJECTIVES)}, not by {question.objective!r}"
        raise InputError(message, field="objective")
    if task.trace.closed:
        raise InputError("a mixed fleet is planned for open traffic: requests that wait for no other", field="trace")
    if question.objective == "carbon" and question.carbon_g_per_kwh is None:
        raise InputError("say the carbon intensity of the electricity: --carbon 400", field="carbon")


def _with_headroom(task: PlanTask) -> PlanTask:
    """The task with the traffic that must be held, its busy rate, and the machines whose full node keeps the rack."""
    question = task.question
    rack_w = math.inf if question.rack_w is None else question.rack_w
    kept = tuple(n for n in question.machines if node_power_w(cluster_of(question.machine(n))) <= rack_w)
    if not kept:
        raise InputError(f"a full node of every machine draws more than {rack_w:,.0f} W", field="rack_power")
    trace = task.trace if question.headroom_frac == 0 else task.trace.scaled(1.0 + question.headroom_frac)
    demand = demand_of(trace, busy_rate(trace, trace.rate_per_s), 1.0)
    return replace(task.asking(machines=kept), trace=trace, demand=demand)


def _priced(types: ReplicaTypes, task: PlanTask) -> ReplicaTypes:
    """Types with a price where money matters."""
    if task.question.objective != "cost" and task.question.budget_usd_per_hour is None:
        return types
    keep = np.flatnonzero(~np.isnan(types.rent_usd_per_hour(task))).tolist()
    if not keep:
        raise InputError("no price is known for any of the machines; give them: --price", field=PRICE)
    return types.only(keep)


def _fleet(task: PlanTask, types: ReplicaTypes, outcome: FleetOutcome, buckets: Buckets) -> Fleet:
    """A fleet with the figures of its run and the spares of the question."""
    question, options = task.question, types.options
    used = np.flatnonzero(outcome.counts > 0).tolist()
    counts = with_spares(outcome.counts, question.spares)
    routes = tuple(
        Route(
            *buckets.ranges(g),
            share=float(buckets.share[buckets.group == g].sum()),
            pools=tuple(float(x) for x in outcome.shares[g][used]),
        )
        for g in range(buckets.groups)
    )
    rents = types.rent_usd_per_hour(task)
    rent: float | None = float(sum(counts[j] * rents[j] for j in used))
    rent = None if rent is None or math.isnan(rent) else rent
    watts = outcome.watts + sum(float(counts[j] - outcome.counts[j]) * options[j].replica.idle_w for j in used)
    devices = sum(int(counts[j]) * options[j].replica.devices for j in used)
    tokens_per_h = float(task.trace.osl.mean()) * task.trace.rate_per_s * 3600
    value = {
        "cost": rent or 0.0,
        "energy": watts,
        "carbon": watts / 1000 * (question.carbon_g_per_kwh or 0.0),
        "devices": float(devices),
    }[question.objective]
    return Fleet(
        deployment=Deployment(
            question.model, tuple(replace(options[j], count=int(counts[j])).pool() for j in used), FLEET_ROUTER
        ),
        routes=routes,
        shape=" + ".join(f"{counts[j]} x {options[j].label}" for j in used),
        devices=devices,
        rent_usd_per_hour=rent,
        usd_per_million_tokens=None if rent is None else rent / tokens_per_h * 1e6,
        watts=watts,
        percentiles=outcome.percentiles(),
        slo_values={t.metric: percentile_of(outcome.values[t.metric], t.percentile) for t in question.targets},
        meets=outcome.meets,
        value=value,
        routing=buckets.routing,
    )


def _explained(
    task: PlanTask,
    types: ReplicaTypes,
    program: Program,
    search: FleetSearch,
    buckets: Buckets,
    time_limit_s: float,
) -> FleetInfeasible:
    """Why there is no fleet: lengths no type can serve, a limit, or an SLO that was missed in the simulator."""
    lost = [i for i, failure in enumerate(types.first_failure) if failure]
    limits = [b for b in program.bounds if b.name != LATE]
    unlimited = len(limits) == len(program.bounds)
    impossible = search.first.counts is None
    if lost and impossible and (unlimited or needed(program, LATE, time_limit_s=time_limit_s) is not None):
        i = max(lost, key=lambda k: float(buckets.share[k]))
        prompt, output = buckets.prompt_range[i], buckets.output_range[i]
        failure = types.first_failure[i]
        what = "has the cache for them" if failure == "kv" else f"holds their {failure.upper()}"
        return FleetInfeasible(
            f"no type of replica {what}: prompts of {prompt[0]:,} to {prompt[1]:,} tokens with answers of "
            f"{output[0]:,} to {output[1]:,} (such requests are {float(buckets.share[lost].sum()):.1%} of the traffic)"
        )
    if impossible:
        nearest = []
        for bound in limits:
            least = needed(program, bound.name, time_limit_s=time_limit_s)
            if least is not None and least > bound.limit:
                option = OPTIONS.get(bound.name, "--available")
                text = f"{bound.name}: {bound.limit:,.6g} -> {least:,.6g} ({option})"
                nearest.append(FleetChange(text, bound.name, least))
        names = ", ".join(b.name for b in limits)
        return FleetInfeasible(f"no fleet carries the traffic within the limits on {names}", tuple(nearest))
    if search.outcome is None and search.closest is not None:
        values = search.closest.values
        found = {t: percentile_of(values[t.metric], t.percentile) for t in task.question.targets}
        worst = ", ".join(
            f"{t.metric.removesuffix('_s').upper()} {t.label} {value:.3g} s > {t.limit_s:.3g} s"
            for t, value in found.items()
            if value > t.limit_s
        )
        within = " within the limits" if limits else ""
        return FleetInfeasible(f"every fleet{within} missed an SLO when simulated; the closest: {worst}")
    return FleetInfeasible("no fleet was found in the time given")


def _why(
    winner: Fleet | None, singles: Mapping[str, Fleet | None], screened: Mapping[str, float], question: Question
) -> tuple[str, ...]:
    if winner is None:
        return ()
    unit = UNITS[question.objective]
    why = [f"{winner.shape}: {winner.value:,.2f} {unit}"]
    held = {n: f for n, f in singles.items() if f is not None}
    if held:
        name = min(held, key=lambda n: held[n].value)
        best = held[name]
        share = 1.0 - winner.value / best.value if best.value > 0 else 0.0
        if winner.value < best.value:
            why.append(f"{share:.1%} below the best fleet of one type, {best.shape} at {best.value:,.2f} {unit}")
        else:
            why.append(f"no mix beats the best fleet of one type, {best.shape}")
    why += [
        f"{n} alone cannot meet the SLO"
        for n, value in screened.items()
        if math.isinf(value) or (n in singles and singles[n] is None)
    ]
    return tuple(why)
