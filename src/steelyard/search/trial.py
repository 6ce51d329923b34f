"""Playing a candidate: its engines, request by request, at a rate; tables of steps are built once per replica."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import idle_power_w
from steelyard.cost.kv_pool import KvPool, kv_pool
from steelyard.cost.step import Replica as StepPricer
from steelyard.cost.step_table import StepTable, build_step_table, scaled, staged
from steelyard.deployment.engine_config import EngineConfig
from steelyard.errors import DoesNotFit
from steelyard.machine.cluster import cluster_of
from steelyard.scenario.slo import Target, judge
from steelyard.search.candidates import Part
from steelyard.search.prices import StepPrices
from steelyard.simulation.arrays import Member, Played, play, setup_of_fleet
from steelyard.simulation.metrics import describe
from steelyard.simulation.result import COMPLETED
from steelyard.simulation.wires import End, wires_between
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model

__all__ = ["Engines", "Outcome", "Player"]

Floats = NDArray[np.float64]

#: Requests of one run at most: engines that take turns are alike, so that some of them stand for all.
PLAYED = 4000
#: How much the proportion of two pools may change when they are played smaller.
SKEWED = 0.02
#: How closely the largest rate is found, as a share.
CLOSE = 0.02
#: Rates tried in the search for the largest at most.
TRIES = 14
#: Limits for which tables are built at least, so that few are built twice.
BUDGET, SEQUENCES = 8192, 256
#: How requests are dealt out where nothing else is better.
ROUTER = "round-robin"
#: What the kernel calls a run that was given up; the share of the seats or the cache that counts as all.
LOST, FULL = 4, 0.97
#: Growth of the wait for the first token from the first to the last quarter of the requests, as a share of the time in
#: which they arrive, above which the queue grows without end. Only used where no SLO bounds the wait: at 1.07 times the
#: rate that is served, the wait grows by 0.75 (1 - 1 / 1.07) = 0.05 of that time.
GROWTH = 0.05


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a candidate did at a rate."""

    rate_per_s: float
    meets: bool
    worst: float
    """Largest of value over limit among the promises; inf when requests were refused or left over. Of a run that was
    given up, what was seen until then, above 1."""
    breaks: str
    values: Mapping[str, float]
    """``ttft_s``, ``tpot_s``, ``e2e_s`` at the promised percentiles (p99 where none is promised)."""
    percentiles: Mapping[str, Mapping[str, float]]
    watts: float
    """Devices of all replicas, without hosts and spares, W."""
    batch_mean: float
    kv_frac: float
    whole: bool = True
    """Played to the end; otherwise it was given up when a promise was lost for certain."""
    full: bool = False
    """The seats or the cache of a pool for answers ran out at some time: it may have held prompts up."""
    router: str = ROUTER


class Engines:
    """Prices, step tables and caches of the replicas of one model and traffic, whatever is promised: made once."""

    def __init__(self, model: Model, longest: int, skew: float) -> None:
        self.model, self.longest, self.skew = model, longest, skew
        self.prices: dict[Any, StepPrices] = {}
        """Of the screen, for the same traffic."""
        self.tables: dict[Any, StepTable] = {}
        self.bases: dict[Any, tuple[int, int, StepTable]] = {}
        self.caches: dict[Any, tuple[EngineConfig, KvPool] | None] = {}

    def table(self, part: Part) -> StepTable:
        """Step times of a replica, up to the part's limits at least; the stages of pipelines share theirs."""
        r = part.replica
        alone = replace(r.plan, pp=1)
        name = (r.cluster.machine.name, r.engine.name, alone)
        known = self.bases.get(name)
        if known is None or known[0] < part.budget or known[1] < part.sequences:
            budget, sequences = max(part.budget, BUDGET), max(part.sequences, SEQUENCES)
            if known is not None:
                budget, sequences = max(budget, known[0]), max(sequences, known[1])
            config = replace(r.config, max_num_batched_tokens=budget, max_num_seqs=sequences)
            table = build_step_table(
                StepPricer(
                    self.model.transformer,
                    alone,
                    cluster_of(r.cluster.machine, alone.devices),
                    r.engine,
                    self.skew,
                ),
                config,
                max_context=self.longest,
            )
            self.bases[name] = (budget, sequences, table)
            self.tables = {k: t for k, t in self.tables.items() if k[0] != name}
        key = (name, r.plan.pp)
        if key not in self.tables:
            self.tables[key] = staged(
                self.bases[name][2], StepPricer(self.model.transformer, r.plan, r.cluster, r.engine, self.skew)
            )
        return self.tables[key]

    def cache(self, part: Part) -> tuple[EngineConfig, KvPool] | None:
        """Flags and cache of a replica; None when nothing is left for the cache."""
        r = part.replica
        key = (r.cluster.machine.name, r.engine.name, r.plan, part.budget, part.sequences)
        if key not in self.caches:
            config = replace(r.config, max_num_batched_tokens=part.budget, max_num_seqs=part.sequences)
            transformer = self.model.transformer
            native = replace(r.plan, weights="", activations="").resolved(transformer.native_weights).weights
            exact = self.model.weight_bytes if r.plan.weights == native else None
            try:
                pool = kv_pool(transformer, r.plan, r.cluster.machine, r.engine, config, exact_weights=exact)
                self.caches[key] = config, pool
            except DoesNotFit:
                self.caches[key] = None
        return self.caches[key]


class Player:
    """Plays candidates of one question. Outcomes are kept, so that nothing is played twice.

    A run is given up as soon as a promise is lost whatever comes, since only its failing counts then: with ``n``
    requests and the ``q``-th percentile promised, once more than ``n - 1 - floor(q (n - 1))`` of them missed it.
    """

    def __init__(
        self,
        model: Model,
        trace: Trace,
        rate_per_s: float,
        targets: Sequence[Target],
        skew: float,
        engines: Engines | None = None,
        *,
        patient: bool = False,
    ) -> None:
        self.model, self.trace, self.rate_per_s, self.targets = model, trace, rate_per_s, targets
        self.engines = engines or Engines(model, int((trace.isl + trace.osl).max()), skew)
        self.patient = patient
        """Play every run to its end."""
        self.outcomes: dict[tuple[object, ...], Outcome] = {}
        self.played = 0
        """Runs so far."""

    def table(self, part: Part) -> StepTable:
        """Step times of a replica."""
        return self.engines.table(part)

    def play(self, parts: Sequence[Part], rate_per_s: float, factor: float = 1.0, *, whole: bool = False) -> Outcome:
        """Play the pools at a request rate. Traffic with prefixes is routed by prefix, or in turn where that does it.

        Args:
            parts: the pools. rate_per_s: requests/s of the whole deployment.
            factor: every step so many times as long.
            whole: to the end even when a promise is lost.
        """
        key = (*((p.replica, p.role, p.count, p.budget, p.sequences) for p in parts), rate_per_s, factor)
        known = self.outcomes.get(key)
        if known is None or (whole and not known.whole):
            whole = whole or self.patient
            known = self._play(parts, rate_per_s, factor, whole, self.routers(parts)[0])
            for router in self.routers(parts)[1:]:
                other = known if known.meets else self._play(parts, rate_per_s, factor, whole, router)
                known = other if other.meets or other.worst < known.worst else known
            self.outcomes[key] = known
        return known

    def routers(self, parts: Sequence[Part]) -> tuple[str, ...]:
        """Ways to deal requests out that are worth trying, the first first."""
        several = any(p.count * p.replica.ranks > 1 for p in parts if p.role != "decode")
        if self.trace.prefix_hashes is None or not several:
            return (ROUTER,)
        caching = any(p.replica.config.enable_prefix_caching for p in parts if p.role != "decode")
        return ("prefix", ROUTER) if caching else (ROUTER,)

    def _play(self, parts: Sequence[Part], rate_per_s: float, factor: float, whole: bool, router: str) -> Outcome:
        self.played += 1
        trace, shown = self._sent(parts, rate_per_s)
        members, ends, tables = [], [], []
        for part, count in zip(parts, shown, strict=True):
            r, found = part.replica, self.engines.cache(part)
            if found is None:
                return _refused(rate_per_s)
            config, kv = found
            plan, longest = r.plan, self.model.transformer.max_context
            members.append(
                Member(
                    config,
                    kv,
                    count * r.ranks,
                    plan.pp,
                    part.role,
                    longest,
                    ranks=plan.dp,
                    lockstep=plan.shares_experts,
                )
            )
            ends.append(End(replace(r.cluster, count=part.count * r.devices), r.plan, kv))
            table = self.table(part).tables
            tables.append(table if factor == 1.0 else scaled(table, factor))
        rejected = (trace.isl + trace.osl) > min(m.longest for m in members)
        setup = setup_of_fleet(
            members,
            trace,
            wires=wires_between(ends) if len(ends) > 1 else None,
            router=router,
            request_s=parts[0].replica.engine.request_s,
            log=0,
            promises={} if whole else self._promises(trace),
        )
        played = play(setup, tables, trace, "fcfs", router, 0, np.asarray(rejected), 0)
        return self._outcome(parts, shown, trace, played, members, rate_per_s, router)

    def _promises(self, trace: Trace) -> dict[str, tuple[float, int]]:
        """Limits of the promises and how many requests may miss each."""
        found = {}
        for target in self.targets:
            number = int((trace.osl > 1).sum()) if target.metric == "tpot_s" else len(trace)
            if number and not math.isnan(target.percentile):
                kept = math.floor((number - 1) * target.percentile / 100 - 1e-9)
                found[target.metric] = (target.limit_s * (1 + 1e-9), number - 1 - max(kept, 0))
        return found

    def _sent(self, parts: Sequence[Part], rate_per_s: float) -> tuple[Trace, list[int]]:
        """The trace at the rate, and the replicas of each pool that are played.

        Engines of a pool alone are dealt requests in turn: the first ``k`` of ``n`` see exactly the requests whose
        number modulo ``n`` is below ``k``, whatever the others do. A pair of large pools is played as a smaller pair of
        nearly the same proportion, its engines loaded at least as much.
        """
        trace = self.trace if rate_per_s == self.rate_per_s else self.trace.scaled(rate_per_s / self.rate_per_s)
        engines = [p.count * p.replica.ranks for p in parts]
        special = trace.closed or trace.prefix_hashes is not None or trace.session is not None
        if special or max(engines) == 1 or len(trace) <= PLAYED:
            return trace, [p.count for p in parts]
        if len(parts) > 1:
            return _smaller(trace, parts)
        shown = max(1, round(parts[0].count * PLAYED / len(trace)))
        if shown >= parts[0].count:
            return trace, [parts[0].count]
        keep = np.arange(len(trace)) % engines[0] < shown * parts[0].replica.ranks
        return Trace(trace.arrived_at[keep], trace.isl[keep], trace.osl[keep], name=trace.name), [shown]

    def _outcome(
        self,
        parts: Sequence[Part],
        shown: Sequence[int],
        trace: Trace,
        played: Played,
        members: Sequence[Member],
        rate_per_s: float,
        router: str,
    ) -> Outcome:
        q = played.requests
        lost = int(played.totals["stop"]) == LOST
        done = q["status"] == COMPLETED
        begun = q["first_at"] >= 0 if lost else done
        values = {
            "ttft_s": (q["first_at"] - trace.arrived_at)[begun],
            "tpot_s": ((q["last_at"] - q["first_at"]) / np.where(trace.osl > 1, trace.osl - 1, math.nan))[done],
            "e2e_s": (q["last_at"] - trace.arrived_at)[done],
        }
        complete = bool(done.all()) or lost
        verdicts = judge(self.targets, values)
        worst, breaks = (0.0, "") if complete else (math.inf, "kv")
        for verdict in verdicts:
            ratio = verdict.value_s / verdict.target.limit_s
            if ratio > worst:
                worst, breaks = ratio, verdict.target.metric.removesuffix("_s")
        if not lost and complete and not any(t.metric in ("ttft_s", "e2e_s") for t in self.targets):
            over = _growth(q["first_at"] - trace.arrived_at, trace) / GROWTH
            worst, breaks = (over, "rate") if over > max(worst, 1.0) else (worst, breaks)
        promised = {v.target.metric: v.value_s for v in verdicts}
        full = any(
            c["kv_max"] >= FULL * m.kv.blocks or c["batch_max"] * m.lanes >= FULL * m.config.max_num_seqs
            for m, c in zip(members, played.per_pool, strict=True)
            if m.role == "decode"
        )
        if lost:
            worst = max(worst, 1.0 + 1e-9)
            return Outcome(rate_per_s, False, worst, breaks, promised, {}, 0.0, 0.0, 0.0, False, full, router)
        shares = {name: {k: v for k, v in describe(found).items() if v is not None} for name, found in values.items()}
        at = {name: promised.get(name, shares[name].get("p99", math.nan)) for name in values}
        span = max(played.totals["makespan_s"], 1e-30)
        watts, batch, kv_frac = 0.0, 0.0, 0.0
        for part, count, member, counted in zip(parts, shown, members, played.per_pool, strict=True):
            plan, machine = part.replica.plan, part.replica.cluster.machine
            own = plan.replica_devices
            steps = counted["step_energy_j"] * own / plan.pp
            rest = own * max(0.0, count * part.replica.ranks * span - counted["busy_s"]) * idle_power_w(machine)
            watts += (steps + rest) / span * part.count / count
            stepping = max(counted["busy_s"] * plan.pp, 1e-30)
            if part.role != "prefill":
                batch, kv_frac = counted["batch_s"] / stepping, counted["kv_s"] / stepping / member.kv.blocks
        meets = complete and worst <= 1.0
        return Outcome(rate_per_s, meets, worst, breaks, at, shares, watts, batch, kv_frac, full=full, router=router)

    def largest_rate(
        self, parts: Sequence[Part], guess: float, known: float = 0.0, close: float = CLOSE
    ) -> tuple[float, Outcome | None]:
        """The largest rate at which every promise holds, to ``close``, and what happens just above it.

        The rate is 0 when even a trickle breaks a promise; the outcome None when none was broken.

        Args:
            parts: the pools. guess: where to begin. known: a rate they hold. close: as a share.
        """
        low, high, step, rate = known, math.inf, 1.12, max(guess, known * 1.03)
        above: Outcome | None = None
        for _ in range(TRIES):
            outcome = self.play(parts, rate)
            if outcome.meets:
                low = rate
            else:
                high, above = rate, outcome
            if high <= low * (1 + close):
                break
            if math.isinf(high):
                rate, step = low * step, step**1.5
            elif low == 0.0:
                rate, step = high / step, step**1.7
            else:
                rate = math.sqrt(low * high)
        return low, above


def _growth(wait_s: Floats, trace: Trace) -> float:
    """How much longer the last quarter of the requests wait than the first, as a share of the time they arrive in."""
    quarter = len(wait_s) // 4
    if not quarter or trace.duration_s <= 0:
        return 0.0
    return float(wait_s[-quarter:].mean() - wait_s[:quarter].mean()) / trace.duration_s


def _smaller(trace: Trace, parts: Sequence[Part]) -> tuple[Trace, list[int]]:
    """Pools in nearly the same proportion, as small as :data:`PLAYED` requests of the same length of time allow."""
    counts = [p.count for p in parts]
    least = min(counts)
    for k in range(max(1, math.ceil(least * PLAYED / len(trace))), least):
        shown = [max(1, round(c * k / least)) for c in counts]
        shares = [s / c for s, c in zip(shown, counts, strict=True)]
        if max(shares) <= min(shares) * (1 + SKEWED):
            share = max(shares)
            return trace.first(max(1, round(len(trace) * share))).scaled(share), shown
    return trace, counts


def _refused(rate_per_s: float) -> Outcome:
    return Outcome(rate_per_s, False, math.inf, "kv", {}, {}, 0.0, 0.0, 0.0)
