"""Simulating a mixed fleet: every pool on the requests it gets, and the SLOs over all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steelyard.search.buckets import Buckets, deal
from steelyard.search.options import Floats, Integers, PoolOption
from steelyard.search.task import PlanTask
from steelyard.search.trial import METRICS, run_pools

__all__ = ["FLEET_ROUTER", "FleetOutcome", "FleetPlayer", "percentile_of"]

#: What a request that was refused or never finished counts as, s.
UNSERVED_S = 1e9
#: Time after the last arrival, as a share of the trace (of four minutes at least), after which a run ends.
PATIENCE = 0.25
#: How a request finds its replica inside a pool.
FLEET_ROUTER = "least-loaded"
#: Value over limit below which a type is far inside every SLO.
IDLE = 0.8


@dataclass(frozen=True, eq=False)
class FleetOutcome:
    """What a fleet did. Types are numbered as in :class:`~steelyard.search.replica_types.ReplicaTypes`."""

    counts: Integers
    """``[j]`` replicas of each type."""
    shares: Floats
    """``[groups, j]`` of the requests of each group."""
    values: Mapping[str, Floats]
    """By metric, one per request of the trace."""
    meets: bool
    worst: float
    """Largest value over limit among the SLOs."""
    guilty: tuple[int, ...]
    """Types whose own requests miss an SLO that the fleet misses."""
    idle: tuple[int, ...]
    """Types whose own requests stay far inside every SLO."""
    watts: float

    def percentiles(self) -> dict[str, dict[str, float]]:
        """``ttft_s``, ``tpot_s``, ``e2e_s`` -> ``mean``, ``p50``, ``p90``, ``p95``, ``p99``."""
        cuts = {"mean": math.nan, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
        return {m: {name: percentile_of(self.values[m], cut) for name, cut in cuts.items()} for m in METRICS}


def percentile_of(values: Floats, percentile: float) -> float:
    """A percentile (NaN = the mean) of the requests that have the metric; NaN when none has."""
    known = values[~np.isnan(values)]
    if not known.size:
        return math.nan
    return float(np.mean(known) if math.isnan(percentile) else np.percentile(known, percentile))


class FleetPlayer:
    """Simulates fleets of one question. Pools that saw the same requests before are not simulated again."""

    def __init__(self, task: PlanTask, buckets: Buckets) -> None:
        self.task, self.trace, self.buckets = task, task.trace, buckets
        end = float(self.trace.arrived_at[-1])
        self.stop_after_s = end + PATIENCE * max(self.trace.duration_s, 240.0)
        self._pools: dict[tuple[PoolOption, int, bytes], tuple[dict[str, Floats], float]] = {}
        self.runs = 0
        self.wall_s = 0.0

    def play(self, options: Sequence[PoolOption], counts: Integers, shares: Floats) -> FleetOutcome:
        """Route the trace to the types and simulate each.

        Args:
            options: the types, ``[j]``.
            counts: ``[j]`` replicas of each.
            shares: ``[groups, j]``.
        """
        started = time.perf_counter()
        self.runs += 1
        pool = deal(self.buckets.group_of, shares)
        values = {m: np.full(len(self.trace), UNSERVED_S) for m in METRICS}
        watts = 0.0
        for j in np.flatnonzero(counts > 0).tolist():
            rows = np.flatnonzero(pool == j)
            if not rows.size:
                watts += options[j].replica.idle_w * int(counts[j])
                continue
            key = (options[j], int(counts[j]), rows.tobytes())
            if key not in self._pools:
                self._pools[key] = self._played(replace(options[j], count=int(counts[j])), rows)
            own, pool_watts = self._pools[key]
            for metric in METRICS:
                values[metric][rows] = own[metric]
            watts += pool_watts
        self.wall_s += time.perf_counter() - started
        return self._judged(counts, shares, values, pool, watts)

    def _played(self, option: PoolOption, rows: Integers) -> tuple[dict[str, Floats], float]:
        """Metrics of each request, and the pool's power with its hosts, W."""
        run = run_pools(self.task, [option], self.trace.rows(rows), router=FLEET_ROUTER, stop_after_s=self.stop_after_s)
        if run is None:
            return {m: np.full(len(rows), UNSERVED_S) for m in METRICS}, 0.0
        values = {m: np.where(run.completed, v, UNSERVED_S) for m, v in run.values().items()}
        return values, run.watts + option.devices() * option.replica.host_w

    def _judged(
        self, counts: Integers, shares: Floats, values: dict[str, Floats], pool: Integers, watts: float
    ) -> FleetOutcome:
        targets = self.task.question.targets

        def ratios(keep: Floats | slice) -> list[float]:
            return [percentile_of(values[t.metric][keep], t.percentile) / t.limit_s for t in targets]

        whole = ratios(slice(None))
        own = {j: ratios(pool == j) for j in np.flatnonzero(counts > 0).tolist() if np.any(pool == j)}
        missed = [k for k, ratio in enumerate(whole) if ratio > 1.0]
        guilty = tuple(j for j, own_ratios in own.items() if any(own_ratios[k] > 1.0 for k in missed))
        idle = tuple(j for j, own_ratios in own.items() if all(not r > IDLE for r in own_ratios))
        worst = max((r for r in whole if not math.isnan(r)), default=0.0)
        return FleetOutcome(counts, shares, values, not missed, worst, guilty, idle, watts)
