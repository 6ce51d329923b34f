"""Playing a candidate: its engines, request by request, at a rate; tables of steps are built once per replica."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steelyard.cost.energy import idle_power_w
from steelyard.errors import DoesNotFit
from steelyard.search.candidates import Part
from steelyard.search.space import Replica
from steelyard.serve.arrays import Member, Played, play, setup_of_fleet
from steelyard.serve.engine import EngineConfig
from steelyard.serve.kv import KvPool, kv_pool
from steelyard.serve.metrics import describe
from steelyard.serve.simulation import COMPLETED
from steelyard.serve.slo import Target, judge
from steelyard.serve.step_table import StepTable, build_step_table, scaled
from steelyard.serve.traffic.trace import Trace
from steelyard.serve.wires import End, wires_between
from steelyard.workload.catalogue import Model

__all__ = ["Outcome", "Player"]

#: Requests of one run at most: engines that take turns are alike, so that some of them stand for all.
PLAYED = 4000
#: How much the proportion of two pools may change when they are played smaller.
SKEWED = 0.02
#: How closely the largest rate is found, as a share.
CLOSE = 0.02
#: Rates tried in the search for the largest at most.
TRIES = 14


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a candidate did at a rate."""

    rate_per_s: float
    meets: bool
    worst: float
    """Largest of value over limit among the promises; inf when requests were refused or left over."""
    breaks: str
    values: Mapping[str, float]
    """``ttft_s``, ``tpot_s``, ``e2e_s`` at the promised percentiles (p99 where none is promised)."""
    percentiles: Mapping[str, Mapping[str, float]]
    watts: float
    """Devices of all replicas, without hosts and spares, W."""
    batch_mean: float
    kv_frac: float


class Player:
    """Plays candidates of one question. Outcomes are kept, so that nothing is played twice."""

    def __init__(self, model: Model, trace: Trace, rate_per_s: float, targets: Sequence[Target], skew: float) -> None:
        self.model, self.trace, self.rate_per_s, self.targets, self.skew = model, trace, rate_per_s, targets, skew
        self.longest = int((trace.isl + trace.osl).max())
        self.tables: dict[int, tuple[Replica, int, int, StepTable]] = {}
        self.outcomes: dict[tuple[object, ...], Outcome] = {}

    @property
    def played(self) -> int:
        """Runs so far."""
        return len(self.outcomes)

    def table(self, part: Part) -> StepTable:
        """Step times of a replica, up to the part's limits at least."""
        known = self.tables.get(id(part.replica))
        budget, sequences = part.budget, part.sequences
        if known is not None:
            if known[1] >= budget and known[2] >= sequences:
                return known[3]
            budget, sequences = max(budget, known[1]), max(sequences, known[2])
        r = part.replica
        config = replace(r.config, max_num_batched_tokens=budget, max_num_seqs=sequences)
        table = build_step_table(
            self.model.transformer, r.plan, r.cluster, r.engine, config, max_context=self.longest, skew=self.skew
        )
        self.tables[id(r)] = (r, budget, sequences, table)
        return table

    def play(self, parts: Sequence[Part], rate_per_s: float, factor: float = 1.0) -> Outcome:
        """Play the pools at a request rate.

        Args:
            parts: the pools. rate_per_s: requests/s of the whole deployment.
            factor: every step so many times as long.
        """
        key = (*((id(p.replica), p.role, p.count, p.budget, p.sequences) for p in parts), rate_per_s, factor)
        if key not in self.outcomes:
            self.outcomes[key] = self._play(parts, rate_per_s, factor)
        return self.outcomes[key]

    def _play(self, parts: Sequence[Part], rate_per_s: float, factor: float) -> Outcome:
        trace, shown = self._sent(parts, rate_per_s)
        members, ends, tables = [], [], []
        for part, count in zip(parts, shown, strict=True):
            r = part.replica
            try:
                config, kv = self._cache(part)
            except DoesNotFit:
                return _refused(rate_per_s)
            longest = self.model.transformer.max_context
            members.append(Member(config, kv, count * r.ranks, r.plan.pp, part.role, longest))
            ends.append(End(replace(r.cluster, count=part.count * r.devices), r.plan, kv))
            table = self.table(part).tables
            tables.append(table if factor == 1.0 else scaled(table, factor))
        rejected = (trace.isl + trace.osl) > min(m.longest for m in members)
        setup = setup_of_fleet(
            members, trace, wires=wires_between(ends) if len(ends) > 1 else None,
            request_s=parts[0].replica.engine.request_s, log=0,
        )  # fmt: skip
        played = play(setup, tables, trace, "fcfs", "round-robin", 0, np.asarray(rejected), 0)
        return self._outcome(parts, shown, trace, played, members, rate_per_s)

    def _cache(self, part: Part) -> tuple[EngineConfig, KvPool]:
        r = part.replica
        config = replace(r.config, max_num_batched_tokens=part.budget, max_num_seqs=part.sequences)
        native = r.plan.weights == replace(r.plan, weights="", activations="").resolved(
            self.model.transformer.native_weights
        ).weights  # fmt: skip
        exact = self.model.weight_bytes if native else None
        return config, kv_pool(self.model.transformer, r.plan, r.cluster.machine, r.engine, config, exact_weights=exact)

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
        self, parts: Sequence[Part], shown: Sequence[int], trace: Trace, played: Played, members: Sequence[Member],
        rate_per_s: float,
    ) -> Outcome:  # fmt: skip
        q = played.requests
        done = q["status"] == COMPLETED
        values = {
            "ttft_s": (q["first_at"] - trace.arrived_at)[done],
            "tpot_s": ((q["last_at"] - q["first_at"]) / np.where(trace.osl > 1, trace.osl - 1, math.nan))[done],
            "e2e_s": (q["last_at"] - trace.arrived_at)[done],
        }
        complete = bool(done.all())
        verdicts = judge(self.targets, values)
        worst, breaks = (0.0, "") if complete else (math.inf, "kv")
        for verdict in verdicts:
            ratio = verdict.value_s / verdict.target.limit_s
            if ratio > worst:
                worst, breaks = ratio, verdict.target.metric.removesuffix("_s")
        shares = {name: {k: v for k, v in describe(found).items() if v is not None} for name, found in values.items()}
        promised = {v.target.metric: v.value_s for v in verdicts}
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
        return Outcome(rate_per_s, complete and worst <= 1.0, worst, breaks, at, shares, watts, batch, kv_frac)

    def largest_rate(
        self, parts: Sequence[Part], guess: float, known: float = 0.0, close: float = CLOSE
    ) -> float:
        """The largest rate at which every promise holds, to ``close``; 0 when even a trickle breaks one.

        Args:
            parts: the pools. guess: where to begin. known: a rate they hold. close: as a share.
        """
        low, high, step, rate = known, math.inf, 1.12, max(guess, known * 1.03)
        for _ in range(TRIES):
            if self.play(parts, rate).meets:
                low = rate
            else:
                high = rate
            if high <= low * (1 + close):
                break
            if math.isinf(high):
                rate, step = low * step, step**1.5
            elif low == 0.0:
                rate, step = high / step, step**1.7
            else:
                rate = math.sqrt(low * high)
        return low


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
