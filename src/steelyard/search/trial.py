"""Simulating a candidate: its engines, request by request, at a rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.cost.kv_pool import blocks_for
from steelyard.cost.step_table import scaled
from steelyard.interval import Z80, interval80
from steelyard.scenario.slo import judge, may_miss
from steelyard.search.chance import ALL, chances, holds, quantile
from steelyard.search.options import Floats, PoolOption
from steelyard.search.task import PlanTask
from steelyard.simulation.arrays import Member, Played, play, setup_of_fleet
from steelyard.simulation.capacity import GROWTH, growth, next_rate
from steelyard.simulation.metrics import describe
from steelyard.simulation.result import COMPLETED
from steelyard.simulation.wires import End, wires_between
from steelyard.traffic.trace import Trace

__all__ = ["LEAST_REQUESTS", "METRICS", "RATE_RESOLUTION", "ROUTER", "Outcome", "Player", "PoolsRun", "run_pools"]

METRICS = ("ttft_s", "tpot_s", "e2e_s")
#: Requests of one run at most: engines that take turns are alike, so that some of them stand for all.
MAX_SIMULATED = 4000
#: How much the proportion of two pools may change when they are simulated smaller.
PROPORTION_ERROR = 0.02
#: How closely the largest rate is found, as a share, and the rates tried for it at most.
RATE_RESOLUTION, MAX_RATES = 0.02, 14
#: Requests of users at least (few of them send more each), and of one run at most.
LEAST_REQUESTS, MAX_OF_USERS = 200, 20_000
#: Users at most that are tried, and requests of all of them where each sends several: limits of hours are held by any.
MAX_USERS = 200_000
#: How requests are routed where nothing else is better.
ROUTER = "round-robin"
#: What the kernel calls a run that was given up; the share of the slots or the cache that counts as all.
GIVEN_UP, FULL = 4, 0.97


@dataclass(frozen=True, eq=False)
class PoolsRun:
    """A run of some pools."""

    pools: Sequence[PoolOption]
    counts: Sequence[int]
    """Replicas of each pool that were simulated."""
    members: Sequence[Member]
    trace: Trace
    played: Played

    @property
    def given_up(self) -> bool:
        """Whether it ended because an SLO was missed for certain."""
        return int(self.played.totals["stop"]) == GIVEN_UP

    @property
    def completed(self) -> NDArray[np.bool_]:
        """``[n]`` by request."""
        return np.asarray(self.played.requests["status"] == COMPLETED)

    def values(self) -> dict[str, Floats]:
        """By metric, ``[n]``, s; what a request that did not complete has is no value."""
        q, trace = self.played.requests, self.trace
        decodes = np.where(trace.osl > 1, trace.osl - 1, math.nan)
        return {
            "ttft_s": q["first_at"] - q["arrived_at"],
            "tpot_s": (q["last_at"] - q["first_at"]) / decodes,
            "e2e_s": q["last_at"] - q["arrived_at"],
        }

    @property
    def span_s(self) -> float:
        """From the first arrival to the end."""
        return float(max(self.played.totals["makespan_s"], 1e-30))

    @property
    def watts(self) -> float:
        """Mean power of the devices of all replicas, idle ones included, without hosts, W."""
        total = 0.0
        for pool, count, counted in zip(self.pools, self.counts, self.played.per_pool, strict=True):
            plan = pool.replica.plan
            own = plan.replica_devices
            steps = counted["step_energy_j"] * own / plan.pp
            idle_s = own * max(0.0, count * pool.replica.ranks * self.span_s - counted["busy_s"])
            idle = idle_s * idle_power_w(pool.replica.cluster.machine)
            total += (steps + idle) / self.span_s * pool.count / count
        return total

    @property
    def decode_load(self) -> tuple[float, float]:
        """Mean requests in a step, and mean share of the cache in use, of an engine that decodes."""
        batch, kv_frac = 0.0, 0.0
        for pool, member, counted in zip(self.pools, self.members, self.played.per_pool, strict=True):
            if pool.role != "prefill":
                steps = max(counted["busy_s"] * pool.replica.plan.pp, 1e-30)
                batch, kv_frac = counted["batch_s"] / steps, counted["kv_s"] / steps / member.kv.blocks
        return batch, kv_frac

    @property
    def decode_full(self) -> bool:
        """Whether a decode pool ran out of slots or cache at some time: it may have held prompts up."""
        return any(
            c["kv_max"] >= FULL * m.kv.blocks or c["batch_max"] * m.lanes >= FULL * m.config.max_num_seqs
            for m, c in zip(self.members, self.played.per_pool, strict=True)
            if m.role == "decode"
        )


def run_pools(
    task: PlanTask,
    pools: Sequence[PoolOption],
    trace: Trace,
    *,
    counts: Sequence[int] = (),
    router: str = ROUTER,
    factor: float = 1.0,
    misses: Mapping[str, tuple[float, int]] | None = None,
    stop_after_s: float | None = None,
) -> PoolsRun | None:
    """Simulate pools, request by request.

    Args:
        task: the model and its step tables.
        pools: a pool, or a prefill and a decode pool.
        trace: what is sent.
        counts: replicas of each pool to simulate; empty = all.
        router: how requests find their replica.
        factor: every step takes so many times as long.
        misses: by metric, a limit (s) and how many requests may exceed it; the run ends when more do.
        stop_after_s: when the run ends; None = when every request has been served.

    Returns:
        The run; None when a pool has no room for a cache.
    """
    counts = counts or [p.count for p in pools]
    members, ends, tables = [], [], []
    for pool, count in zip(pools, counts, strict=True):
        r, cached = pool.replica, task.cache.cache(pool, task.model.weight_bytes, task.demand.longest_tokens)
        if cached is None:
            return None
        config, kv = cached
        members.append(
            Member(
                config,
                kv,
                replicas=count * r.ranks,
                lanes=r.engine.lanes(r.plan.pp),
                role=pool.role,
                max_context=task.model.transformer.max_context,
                relays=r.engine.relays_first and pool.role == "prefill",
                ranks=r.plan.dp,
                lockstep=r.plan.shares_experts,
            )
        )
        ends.append(End(replace(r.cluster, count=pool.devices()), r.plan, kv))
        table = task.cache.table(pool, task.demand.longest_tokens).tables
        tables.append(table if factor == 1.0 else scaled(table, factor))
    read = task.passes(pools[0].replica, trace)
    read = None if read is None else read.slower(factor)
    setup = setup_of_fleet(
        members,
        trace,
        wires=wires_between(ends) if len(ends) > 1 else None,
        router=router,
        request_s=pools[0].replica.engine.request_s,
        stop_after_s=stop_after_s,
        log=0,
        promises=misses or {},
        read=read,
    )
    rejected = np.asarray((trace.isl + trace.osl) > min(m.longest for m in members))
    played = play(setup, tables, trace, "fcfs", router, 0, rejected, 0, read=read)
    return PoolsRun(pools, counts, members, trace, played)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a candidate did at a load."""

    rate_per_s: float
    """Requests/s that were sent; of a closed loop those that were answered."""
    meets: bool
    worst: float
    """Largest value over limit among the SLOs; inf when requests were refused or left. Of a run that was given up, what
    was seen until then, above 1."""
    first_failure: str
    """``ttft``, ``tpot``, ``e2e``, ``kv``, ``rate`` or ``power``."""
    values: Mapping[str, float] = field(default_factory=dict)
    """``ttft_s``, ``tpot_s``, ``e2e_s`` at the percentiles of the SLOs (p99 without one)."""
    percentiles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    watts: float = 0.0
    """Devices of all replicas, without hosts and spares, W."""
    batch_mean: float = 0.0
    kv_frac: float = 0.0
    complete: bool = True
    """Simulated to the end; otherwise it was given up when an SLO was missed for certain."""
    decode_full: bool = False
    """The slots or the cache of a decode pool ran out at some time: it may have held prompts up."""
    router: str = ROUTER


class Player:
    """Simulates candidates of one question. Outcomes are kept, so that nothing is simulated twice.

    A run is given up as soon as an SLO is missed for certain, since only its failing counts then: with ``n`` requests
    and the ``q``-th percentile, once more than ``n - 1 - floor(q (n - 1))`` of them missed the limit.
    """

    def __init__(self, task: PlanTask) -> None:
        self.task, self.trace, self.targets = task, task.trace, task.question.targets
        self.users = task.question.concurrency is not None
        self.outcomes: dict[tuple[object, ...], Outcome] = {}
        self.runs = 0

    def spread(self, pools: Sequence[PoolOption]) -> tuple[float, float]:
        """Of the log of a step's time, and the share of the time that is physical: of the pool that is known least."""
        tables = [self.task.cache.table(p, self.task.demand.longest_tokens) for p in pools]
        return max(t.spread for t in tables), min(t.limit_frac for t in tables)

    def ends(self, pools: Sequence[PoolOption], load: float) -> dict[float, Outcome]:
        """The same traffic with every step at the ends of its 80 % interval, by ``z``."""
        spread, limit = self.spread(pools)
        low, high = (float(end) for end in interval80(1.0, spread, at_least=limit))
        found = {math.log(low) / spread: low, Z80: high}
        return {z: self.play(pools, load, factor, whole=True) for z, factor in found.items()}

    def held(self, pools: Sequence[PoolOption], load: float) -> Outcome:
        """What pools do at a load as predicted; it meets the SLOs only with the chance that the question asks for."""
        sure, spread = self.task.question.sure, self.spread(pools)[0]
        z = quantile(sure)
        slow = self.play(pools, load, math.exp(z * spread))
        if not slow.meets:
            return slow
        outcome = self.play(pools, load)
        if not outcome.meets or not any(t.metric == "ttft_s" for t in self.targets):
            return outcome
        runs = {0.0: outcome, z: slow, **self.ends(pools, load)}
        chance = chances(self.targets, {z: run.values for z, run in runs.items()})[ALL]
        if holds(chance, sure):
            return outcome
        return replace(outcome, meets=False, worst=1.0 + sure - chance, first_failure="ttft")

    def play(self, pools: Sequence[PoolOption], load: float, factor: float = 1.0, *, whole: bool = False) -> Outcome:
        """Simulate pools at a load. Traffic with prefixes is routed by prefix, or in turn where that does.

        Args:
            pools: the pools.
            load: of the whole deployment: requests/s, or users who wait for their answers.
            factor: every step takes so many times as long.
            whole: to the end even when an SLO is missed.
        """
        load = math.ceil(load) if self.users else load
        key = (*((p.replica, p.role, p.count, p.budget, p.sequences) for p in pools), load, factor)
        best = self.outcomes.get(key)
        if best is None or (whole and not best.complete):
            best = None
            for router in self._routers(pools):
                if best is None or not best.meets:
                    outcome = self._play(pools, load, factor, whole, router)
                    best = outcome if best is None or outcome.meets or outcome.worst < best.worst else best
            assert best is not None
            self.outcomes[key] = best
        return best

    def _routers(self, pools: Sequence[PoolOption]) -> tuple[str, ...]:
        """Routers that are worth trying, in their order."""
        prefilling = [p for p in pools if p.role != "decode"]
        several = any(p.count * p.replica.ranks > 1 for p in prefilling)
        caching = any(p.replica.config.enable_prefix_caching for p in prefilling)
        if self.users:  # whoever has the fewest gets the next: all replicas have as many
            return ("least-loaded",) if several else (ROUTER,)
        return ("prefix", ROUTER) if self.trace.prefix_hashes is not None and several and caching else (ROUTER,)

    def _play(self, pools: Sequence[PoolOption], load: float, factor: float, whole: bool, router: str) -> Outcome:
        self.runs += 1
        trace, counts = self._used(pools[0], int(load)) if self.users else self._sampled(pools, load)
        misses = {} if whole else self._misses(trace)
        run = run_pools(self.task, pools, trace, counts=counts, router=router, factor=factor, misses=misses)
        if run is None:
            return Outcome(load, meets=False, worst=math.inf, first_failure="kv")
        share = pools[0].count / counts[0]
        return self._outcome(run, share * len(trace) / run.span_s if self.users else load, router)

    def _misses(self, trace: Trace) -> dict[str, tuple[float, int]]:
        """The limit of each SLO and how many requests may miss it."""
        allowed = {}
        for target in self.targets:
            number = int((trace.osl > 1).sum()) if target.metric == "tpot_s" else len(trace)
            if number and not math.isnan(target.percentile):
                allowed[target.metric] = may_miss(target, number)
        return allowed

    def _used(self, pool: PoolOption, users: int) -> tuple[Trace, list[int]]:
        """The requests of so many users, and the replicas that are simulated, with as many users each as all have."""
        asked = self.task.question.concurrency or 1
        each_several = min(math.ceil(len(self.trace) / asked * users), max(MAX_USERS, len(self.trace)))
        number = max(LEAST_REQUESTS, users, each_several)
        count = min(pool.count, max(1, round(pool.count * MAX_OF_USERS / number)))
        share = count / pool.count
        rows = np.arange(max(1, math.ceil(number * share))) % len(self.trace)
        return replace(self.trace.rows(rows), concurrency=max(1, math.ceil(users * share))), [count]

    def _waits(self, run: PoolsRun) -> float:
        """Users of an engine over those it works for at once, by its limit and its cache."""
        pool, kv = run.pools[0], run.members[0].kv
        held = blocks_for(kv, math.ceil(self.task.demand.context_tokens))
        seats = min(pool.sequences, kv.blocks / max(held, 1))
        return run.trace.concurrency / (run.counts[0] * pool.replica.ranks) / seats

    def _sampled(self, pools: Sequence[PoolOption], rate_per_s: float) -> tuple[Trace, list[int]]:
        """The trace at the rate, and the replicas of each pool that are simulated.

        Engines of a pool alone get requests in turn: the first ``k`` of ``n`` see exactly the requests whose number
        modulo ``n`` is below ``k``, whatever the others do. A pair of large pools is simulated as a smaller pair of
        nearly the same proportion, its engines loaded at least as much.
        """
        given = self.task.question.rate_per_s
        trace = self.trace if rate_per_s == given else self.trace.scaled(rate_per_s / given)
        engines = [p.count * p.replica.ranks for p in pools]
        special = trace.closed or trace.prefix_hashes is not None or trace.session is not None
        if special or max(engines) == 1 or len(trace) <= MAX_SIMULATED:
            return trace, [p.count for p in pools]
        if len(pools) > 1:
            return _smaller(trace, pools)
        count = max(1, round(pools[0].count * MAX_SIMULATED / len(trace)))
        if count >= pools[0].count:
            return trace, [pools[0].count]
        keep = np.arange(len(trace)) % engines[0] < count * pools[0].replica.ranks
        shown = None if trace.shown is None else trace.shown[keep]
        kept = Trace(trace.arrived_at[keep], trace.isl[keep], trace.osl[keep], shown=shown, name=trace.name)
        return kept, [count]

    def _outcome(self, run: PoolsRun, rate_per_s: float, router: str) -> Outcome:
        done, given_up = run.completed, run.given_up
        begun = run.played.requests["first_at"] >= 0 if given_up else done
        values = {name: series[begun if name == "ttft_s" else done] for name, series in run.values().items()}
        complete = bool(done.all()) or given_up
        worst, failure = (0.0, "") if complete else (math.inf, "kv")
        verdicts = judge(self.targets, values)
        for verdict in verdicts:
            ratio = verdict.value_s / verdict.target.limit_s
            if ratio > worst:
                worst, failure = ratio, verdict.target.metric.removesuffix("_s")
        at_slo = {v.target.metric: v.value_s for v in verdicts}
        outcome = Outcome(rate_per_s, False, worst, failure, at_slo, decode_full=run.decode_full, router=router)
        if given_up:
            return replace(outcome, worst=max(worst, 1.0 + 1e-9), complete=False)
        if complete and not any(t.metric in ("ttft_s", "e2e_s") for t in self.targets):
            grown = self._waits(run) if self.users else growth(values["ttft_s"], run.trace) / GROWTH
            if grown > max(worst, 1.0):
                outcome = replace(outcome, worst=grown, first_failure="rate")
        shares = {name: {k: v for k, v in describe(x).items() if v is not None} for name, x in values.items()}
        batch, kv_frac = run.decode_load
        return replace(
            outcome,
            meets=complete and outcome.worst <= 1.0,
            values={name: at_slo.get(name, shares[name].get("p99", math.nan)) for name in values},
            percentiles=shares,
            watts=run.watts,
            batch_mean=batch,
            kv_frac=kv_frac,
        )

    def largest_rate(
        self,
        pools: Sequence[PoolOption],
        guess: float,
        known: float = 0.0,
        resolution: float = RATE_RESOLUTION,
        *,
        sure: bool = False,
    ) -> tuple[float, Outcome | None]:
        """The largest load at which every SLO is met, and what happens just above it.

        The load is 0 when even a trickle misses an SLO; the outcome None when none was missed.

        Args:
            pools: the pools.
            guess: where to begin, requests/s or users.
            known: a load they hold.
            resolution: how closely, as a share.
            sure: with the chance that the question asks for; otherwise as predicted.
        """
        play = self.held if sure else self.play
        low, high, step, rate = known, math.inf, 1.12, max(guess, known * 1.03)
        above: Outcome | None = None
        for _ in range(MAX_RATES):
            if self.users:  # whole ones
                rate = max(low + 1, min(math.ceil(rate), high - 1, max(MAX_USERS, known)))
                if rate >= high or low >= MAX_USERS:
                    break
            outcome = play(pools, rate)
            if outcome.meets:
                low = rate
            else:
                high, above = rate, outcome
            if high <= low * (1 + resolution):
                break
            rate, step = next_rate(low, high, step)
        return low, above


def _smaller(trace: Trace, pools: Sequence[PoolOption]) -> tuple[Trace, list[int]]:
    """Pools in nearly the same proportion, as small as the largest run of the same length of time allows."""
    counts = [p.count for p in pools]
    least = min(counts)
    for k in range(max(1, math.ceil(least * MAX_SIMULATED / len(trace))), least):
        sampled = [max(1, round(c * k / least)) for c in counts]
        shares = [s / c for s, c in zip(sampled, counts, strict=True)]
        if max(shares) <= min(shares) * (1 + PROPORTION_ERROR):
            share = max(shares)
            return trace.first(max(1, round(len(trace) * share))).scaled(share), sampled
    return trace, counts
