"""Mixed fleets: the cheapest replicas of several machines that together hold a promise (Melange, arXiv:2404.14527).

``plan_fleet``: buckets -> capacities per type -> integer program -> played request by request -> repaired. See
docs/methods/fleet.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.provenance import Ledger
from steelyard.search.answer import Question
from steelyard.search.demand import demand_of
from steelyard.search.fleet_buckets import Buckets, buckets_of, deal
from steelyard.search.fleet_play import ROUTER, Outcome, Player, percentile_of
from steelyard.search.fleet_program import Program, Solution, needed, solve, with_spares
from steelyard.search.fleet_search import LATE, Settled, alone, busy_rate, program_of, settle
from steelyard.search.fleet_types import Types, types_of
from steelyard.search.objective import node_power_w
from steelyard.search.screen import promise_of
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model, load_model

__all__ = ["Fleet", "FleetAnswer", "FleetChange", "FleetInfeasible", "Route", "plan_fleet"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Objectives of a mix; ``devices`` counts them.
OBJECTIVES = ("cost", "energy", "carbon", "devices")
#: Machines whose own fleet costs more than so many times the cheapest one's, by the screen, are not played alone.
FAR = 1.5
#: The options by which a limit of the program is raised.
OPTIONS = {"devices": "--max-gpus", "usd_per_hour": "--budget", "watts": "--max-power"}


@dataclass(frozen=True)
class Route:
    """Where the requests of some lengths go."""

    prompts: tuple[int, int]
    """Shortest and longest prompt seen, tokens."""
    answers: tuple[int, int]
    """Shortest and longest answer seen, tokens."""
    share: float
    """Of all requests."""
    pools: tuple[float, ...]
    """Share of these requests that each pool of the deployment gets; they sum to 1."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """A fleet of one or several machines that was played."""

    deployment: Deployment
    """Pools of the role ``both``; replicas include spares."""
    routes: tuple[Route, ...]
    shape: str
    """In words: ``25 x l40s tp1 + 2 x h100_sxm tp2``."""
    devices: int
    usd_per_hour: float | None
    """None when a price is not known."""
    usd_per_million_tokens: float | None
    """Per million output tokens."""
    watts: float
    """Mean power of devices and hosts over the trace, spares included, W."""
    percentiles: Mapping[str, Mapping[str, float]]
    promised: Mapping[str, float]
    """Value of every promised metric at its percentile, s."""
    meets: bool
    """Every promise holds for the requests played, headroom included, without the spares."""
    value: float
    """Of the objective: USD/h, W, g/h or devices."""
    routing: str
    """What its router knows of a request, see :data:`steelyard.search.fleet_buckets.ROUTING`."""

    def assigned(self, trace: Trace) -> Integers:
        """``[n]`` the pool of each request of a trace, as ``simulate_deployment(..., assigned=)`` takes it.

        A request belongs to the route whose lengths are nearest to its own (their logarithms); requests of one route
        are dealt out evenly in time, see :func:`steelyard.search.fleet_buckets.deal`.
        """
        far = _beyond(trace.isl, [r.prompts for r in self.routes])
        if self.routing == "size":
            far = far + _beyond(trace.osl, [r.answers for r in self.routes])
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
    """The cheapest fleet found that held the promise when played, mixed or not."""
    singles: Mapping[str, Fleet | None]
    """By machine: the cheapest fleet of one type of replica on that machine alone, found and played the same way; None
    when none held the promise. Machines far behind by the screen are left out."""
    screened: Mapping[str, float]
    """By machine: the program's optimum for one type on that machine alone; inf when it cannot carry the traffic."""
    infeasible: FleetInfeasible | None
    """None when there is a winner."""
    closest: Fleet | None
    """Where none held: the fleet that came nearest to the promise."""
    types: int
    """Types of replicas in the program."""
    weighed: int
    """Types before those that are best for nothing were left out."""
    buckets: int
    groups: int
    """Groups of buckets the router can tell apart."""
    program_value: float
    """The program's optimum by the screen's capacities, before anything was played."""
    bound: float
    """No fleet of these types does better by the screen's capacities."""
    gap_frac: float
    """``(program_value - bound) / program_value``."""
    programs: int
    program_s: float
    """Wall time of the integer programs, s."""
    played: int
    """Fleets played request by request."""
    play_s: float
    wall_s: float
    cpu_s: float
    ledger: Ledger
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
    question: Question,
    trace: Trace,
    *,
    model: Model | None = None,
    available: Mapping[str, int] | None = None,
    routing: str = "prompt",
    max_pools: int | None = None,
    shapes: Mapping[str, Sequence[Pool]] | None = None,
    compare: bool = True,
    time_limit_s: float = 10.0,
    generic: bool = False,
) -> FleetAnswer:
    """The cheapest fleet that may mix machines and replicas, such that all traffic keeps the promise.

    Args:
        question: model, machines, targets, objective (``cost``, ``energy``, ``carbon`` or ``devices``), limits, spares
            (replicas of each pool that may fail), headroom, prices. Its rate and lengths are those of the trace.
        trace: arrivals and lengths at the rate to plan for; an open loop.
        model: the model, loaded; None = by the question's name.
        available: devices at most, by machine.
        routing: what the router knows of a request: ``prompt`` its prompt's length, ``size`` the answer's too.
        max_pools: pools at most; None = no limit.
        shapes: replicas to choose from by machine, instead of all legal ones (plan and flags of each pool count).
        compare: plan the best fleet of each machine alone as well and begin from it; the winner is then never worse.
        time_limit_s: wall time of one integer program.
        generic: accept models by shape alone.

    Returns:
        a :class:`FleetAnswer`; ``winner`` is None exactly when ``infeasible`` says why.

    Raises:
        InputError: scipy is missing; an objective that a mix cannot have; a closed loop; no machine with a price.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    question, ledger = _checked(question, trace), Ledger()
    loaded = model if model is not None else load_model(question.model, generic=generic)
    question = replace(question, machines=_affordable(question))
    sent = trace if question.headroom_frac == 0 else trace.scaled(1.0 + question.headroom_frac)
    buckets = buckets_of(sent, routing)
    rate = busy_rate(sent, sent.rate_per_s)
    promise = promise_of(question.targets)
    types = _priced(types_of(question, loaded, buckets, demand_of(sent, rate, 1.0), promise, ledger, shapes), question)
    player = Player(question.model, loaded, sent, buckets, question.targets, question.skew, question.seed)
    limits = {find_machine(n).name: k for n, k in (available or {}).items()}

    def program_over(keep: Sequence[int], pools: int | None) -> tuple[Types, Program]:
        over = types.only(keep)
        return over, program_of(question, over, buckets, rate, available=limits, max_types=pools)

    def fleet(run: Settled) -> Fleet | None:
        return None if run.outcome is None else _fleet(question, run, run.outcome, buckets, trace)

    machines = list(dict.fromkeys(v.machine for v in types.varieties)) if compare else []
    own = {name: [j for j, v in enumerate(types.varieties) if v.machine == name] for name in machines}
    screened = {n: solve(program_over(own[n], 1)[1], time_limit_s=time_limit_s).cost for n in machines}
    runs, singles = [], {}
    start, cheapest, factor = None, math.inf, np.full(len(types.varieties), math.nan)
    for name in machines:
        if not screened[name] <= FAR * min(screened.values()):
            continue
        run = alone(*program_over(own[name], 1), player)
        runs.append(run)
        singles[name] = fleet(run)
        if run.outcome is None:
            continue
        factor[own[name]] = run.use
        if run.cost < cheapest:
            start, cheapest = np.zeros(len(types.varieties), dtype=np.int64), run.cost
            start[own[name]] = run.outcome.counts
    known = factor[~np.isnan(factor)]
    guess = np.where(np.isnan(factor), known.mean(), factor) if known.size else None
    everything, program = program_over(range(len(types.varieties)), max_pools)
    together = settle(everything, program, player, start=start, factor=guess, time_limit_s=time_limit_s)
    runs.append(together)
    candidates = [f for f in (fleet(together), *singles.values()) if f is not None]
    winner = min(candidates, key=lambda f: (f.value, f.devices)) if candidates else None
    infeasible = None if winner else _explained(question, types, program, together, buckets, time_limit_s)
    closest = None
    if winner is None and together.closest is not None:
        closest = _fleet(question, together, together.closest, buckets, trace)
    first = together.first
    return FleetAnswer(
        question,
        winner,
        singles,
        screened,
        infeasible,
        closest,
        len(types.varieties),
        types.weighed,
        len(buckets),
        buckets.groups,
        first.cost,
        first.bound,
        first.gap_frac,
        sum(r.programs for r in runs),
        sum(r.program_s for r in runs),
        player.fleets,
        player.wall_s,
        time.perf_counter() - wall,
        time.process_time() - cpu,
        ledger,
        _why(winner, singles, screened, question),
        {"routing": routing, "available": limits, "max_pools": max_pools, "trace": trace.name},
    )


def _beyond(lengths: Any, ranges: Sequence[tuple[int, int]]) -> Floats:
    """``[n, routes]`` how far lengths are outside ranges, in logarithms."""
    x = np.log(np.asarray(lengths, dtype=np.float64))[:, None]
    low, high = np.log(np.array(ranges, dtype=np.float64)).T
    return np.asarray(np.maximum(0.0, np.maximum(low - x, x - high)))


def _checked(question: Question, trace: Trace) -> Question:
    if question.objective not in OBJECTIVES:
        words = f"a mix is chosen by one of {', '.join(OBJECTIVES)}, not by {question.objective!r}"
        raise InputError(words, field="objective")
    if trace.closed:
        raise InputError("a mixed fleet is planned for open traffic: requests that wait for no other", field="trace")
    if question.objective == "carbon" and question.carbon_g_per_kwh is None:
        raise InputError("say the carbon intensity of the electricity: --carbon 400", field="carbon")
    machines = tuple(dict.fromkeys(find_machine(n).name for n in question.machines))
    return replace(question, machines=machines)


def _affordable(question: Question) -> tuple[str, ...]:
    """Machines whose full node keeps the rack's power."""
    kept = tuple(
        n
        for n in question.machines
        if question.rack_w is None or node_power_w(cluster_of(find_machine(n))) <= question.rack_w
    )
    if not kept:
        raise InputError(f"a full node of every machine draws more than {question.rack_w:,.0f} W", field="rack_power")
    return kept


def _priced(types: Types, question: Question) -> Types:
    """Types with a price where money matters."""
    if question.objective != "cost" and question.budget_usd_per_hour is None:
        known = [0.0 if math.isnan(v.usd_per_hour) else v.usd_per_hour for v in types.varieties]
        if all(not math.isnan(v.usd_per_hour) for v in types.varieties):
            return types
        varieties = tuple(replace(v, usd_per_hour=u) for v, u in zip(types.varieties, known, strict=True))
        return replace(types, varieties=varieties)
    keep = [j for j, v in enumerate(types.varieties) if not math.isnan(v.usd_per_hour)]
    if not keep:
        raise InputError("no price is known for any of the machines; give them: --usd-per-hour", field="usd_per_hour")
    return types.only(keep)


def _fleet(question: Question, settled: Settled, outcome: Outcome, buckets: Buckets, trace: Trace) -> Fleet:
    varieties = settled.types.varieties
    used = np.flatnonzero(outcome.counts > 0).tolist()
    counts = with_spares(outcome.counts, question.spares)
    pools = tuple(varieties[j].pool(int(counts[j])) for j in used)
    routes = tuple(
        Route(
            buckets.prompts(g),
            buckets.answers(g),
            float(buckets.share[buckets.group == g].sum()),
            tuple(float(x) for x in outcome.shares[g][used]),
        )
        for g in range(buckets.groups)
    )
    usd = sum(float(counts[j]) * varieties[j].devices * varieties[j].usd_per_hour for j in used)
    priced = question.objective == "cost" or usd > 0
    spare_w = sum((counts[j] - outcome.counts[j]) * varieties[j].idle_w for j in used)
    watts = outcome.watts + float(spare_w)
    devices = int(sum(int(counts[j]) * varieties[j].devices for j in used))
    tokens_per_s = float(trace.osl.mean()) * trace.rate_per_s
    value = {
        "cost": usd,
        "energy": watts,
        "carbon": watts / 1000 * (question.carbon_g_per_kwh or 0.0),
        "devices": float(devices),
    }[question.objective]
    return Fleet(
        Deployment(question.model, pools, ROUTER),
        routes,
        " + ".join(f"{counts[j]} x {varieties[j].label}" for j in used),
        devices,
        usd if priced else None,
        usd / (tokens_per_s * 3600) * 1e6 if priced else None,
        watts,
        outcome.percentiles(),
        {t.metric: percentile_of(outcome.values[t.metric], t.percentile) for t in question.targets},
        outcome.meets,
        value,
        buckets.routing,
    )


def _explained(
    question: Question, types: Types, program: Program, settled: Settled, buckets: Buckets, time_limit_s: float
) -> FleetInfeasible:
    """Why there is no fleet: lengths no type can serve, a limit, or a promise that broke when played."""
    lost = [i for i, b in enumerate(types.breaks) if b]
    limits = [b for b in program.bounds if b.name != LATE]
    bounded = len(limits) < len(program.bounds)
    if (
        lost
        and settled.first.counts is None
        and (not bounded or needed(program, LATE, time_limit_s=time_limit_s) is not None)
    ):
        i = max(lost, key=lambda k: float(buckets.share[k]))
        prompt, answer = buckets.isl_range[i], buckets.osl_range[i]
        what = {"kv": "has the cache for them"}.get(types.breaks[i], f"holds their {types.breaks[i].upper()}")
        share = float(buckets.share[lost].sum())
        return FleetInfeasible(
            f"no type of replica {what}: prompts of {prompt[0]:,} to {prompt[1]:,} tokens with answers of "
            f"{answer[0]:,} to {answer[1]:,} (such requests are {share:.1%} of the traffic)"
        )
    first: Solution = settled.first
    if first.counts is None:
        nearest = []
        for bound in limits:
            least = needed(program, bound.name, time_limit_s=time_limit_s)
            if least is not None and least > bound.limit:
                option = OPTIONS.get(bound.name, "--available")
                nearest.append(
                    FleetChange(f"{bound.name}: {bound.limit:,.6g} -> {least:,.6g} ({option})", bound.name, least)
                )
        names = ", ".join(b.name for b in limits)
        return FleetInfeasible(f"no fleet carries the traffic within the limits on {names}", tuple(nearest))
    if settled.outcome is None and settled.closest is not None:
        met = [t for t in question.targets if percentile_of(settled.closest.values[t.metric], t.percentile) > t.limit_s]
        worst = ", ".join(
            f"{t.metric.removesuffix('_s').upper()} {t.label} "
            f"{percentile_of(settled.closest.values[t.metric], t.percentile):.3g} s > {t.limit_s:.3g} s"
            for t in met
        )
        within = " within the limits" if limits else ""
        return FleetInfeasible(f"every fleet{within} broke a promise when played; the closest: {worst}")
    return FleetInfeasible("no fleet was found in the time given")


def _why(
    winner: Fleet | None, singles: Mapping[str, Fleet | None], screened: Mapping[str, float], question: Question
) -> tuple[str, ...]:
    if winner is None:
        return ()
    unit = {"cost": "USD/h", "energy": "W", "carbon": "g/h", "devices": "devices"}[question.objective]
    said = [f"{winner.shape}: {winner.value:,.2f} {unit}"]
    held = {n: f for n, f in singles.items() if f is not None}
    if held:
        name = min(held, key=lambda n: held[n].value)
        best = held[name]
        share = 1.0 - winner.value / best.value if best.value > 0 else 0.0
        if winner.value < best.value:
            said.append(f"{share:.1%} below the best fleet of one type, {best.shape} at {best.value:,.2f} {unit}")
        else:
            said.append(f"no mix beats the best fleet of one type, {best.shape}")
    said += [
        f"{n} alone cannot hold the promise"
        for n, value in screened.items()
        if math.isinf(value) or (n in singles and singles[n] is None)
    ]
    return tuple(said)
