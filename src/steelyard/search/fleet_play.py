"""Playing a mixed fleet: every pool on the requests it is dealt, and the promise over all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.kv_pool import longest_request
from steelyard.deployment.deployment import Deployment
from steelyard.scenario.slo import Target
from steelyard.search.fleet_buckets import Buckets, deal, part_of
from steelyard.search.fleet_types import Variety
from steelyard.simulation.run import Options, Prepared, checked, prepare, run
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model

__all__ = ["Outcome", "Player", "percentile_of"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

METRICS = ("ttft_s", "tpot_s", "e2e_s")
#: What a request that was refused or never finished counts as, s.
UNSERVED_S = 1e9
#: Time after the last arrival, as a share of the trace (of four minutes at least), after which answers are given up.
PATIENCE = 0.25
#: How a request finds its replica inside a pool.
ROUTER = "least-loaded"


@dataclass(frozen=True, eq=False)
class PoolRun:
    """What a pool did with its requests."""

    values: Mapping[str, Floats]
    """By metric, ``[rows]``; NaN = the request has none, :data:`UNSERVED_S` = it was not served."""
    watts: float
    """Mean over its makespan, hosts included."""
    tokens: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a fleet did."""

    counts: Integers
    shares: Floats
    values: Mapping[str, Floats]
    """By metric, one per request of the trace."""
    pool: Integers
    """``[n]`` type that served each request."""
    meets: bool
    worst: float
    """Largest of value over limit among the promises."""
    guilty: tuple[int, ...]
    """Types whose own requests break a promise that the fleet breaks."""
    idle: tuple[int, ...]
    """Types whose own requests stay far inside every promise."""
    watts: float

    def percentiles(self) -> dict[str, dict[str, float]]:
        """``ttft_s``, ``tpot_s``, ``e2e_s`` -> ``mean``, ``p50``, ``p90``, ``p95``, ``p99``."""
        found = {}
        for metric in METRICS:
            found[metric] = {"mean": percentile_of(self.values[metric], math.nan)}
            found[metric] |= {f"p{q}": percentile_of(self.values[metric], float(q)) for q in (50, 90, 95, 99)}
        return found


def percentile_of(values: Floats, percentile: float) -> float:
    """A percentile (NaN = the mean) of the requests that have the metric; NaN when none has."""
    known = values[~np.isnan(values)]
    if not known.size:
        return math.nan
    return float(np.mean(known) if math.isnan(percentile) else np.percentile(known, percentile))


class Player:
    """Plays fleets over types of one question. Pools that saw the same requests before are not played again."""

    def __init__(
        self, name: str, model: Model, trace: Trace, buckets: Buckets, targets: Sequence[Target], skew: float, seed: int
    ) -> None:
        self.name, self.model, self.trace, self.buckets, self.targets = name, model, trace, buckets, targets
        end = float(trace.arrived_at[-1])
        self.options = Options(skew=skew, seed=seed, log=0, stop_after_s=end + PATIENCE * max(trace.duration_s, 240.0))
        self.prepared: dict[int, tuple[Variety, Prepared]] = {}
        self.pools: dict[tuple[int, int, bytes], PoolRun] = {}
        self.fleets = 0
        self.wall_s = 0.0

    def play(self, varieties: Sequence[Variety], counts: Integers, shares: Floats) -> Outcome:
        """Deal the trace out to the types and play each.

        Args:
            varieties: types, ``[j]``. counts: replicas of each. shares: ``[groups, j]``.
        """
        started = time.perf_counter()
        self.fleets += 1
        pool = deal(self.buckets.group_of, shares)
        n = len(self.trace)
        values = {m: np.full(n, UNSERVED_S) for m in METRICS}
        watts = 0.0
        for j in np.flatnonzero(counts > 0).tolist():
            rows = pool == j
            if not rows.any():
                watts += varieties[j].idle_w * int(counts[j])
                continue
            done = self._pool(varieties[j], int(counts[j]), rows)
            for metric in METRICS:
                values[metric][rows] = done.values[metric]
            watts += done.watts
        self.wall_s += time.perf_counter() - started
        return self._judged(counts, shares, values, pool, watts)

    def _judged(
        self, counts: Integers, shares: Floats, values: dict[str, Floats], pool: Integers, watts: float
    ) -> Outcome:
        ratios = {t: percentile_of(values[t.metric], t.percentile) / t.limit_s for t in self.targets}
        broken = [t for t, ratio in ratios.items() if ratio > 1.0]
        used = [int(j) for j in np.flatnonzero(counts > 0) if np.any(pool == j)]
        own = {
            j: {t: percentile_of(values[t.metric][pool == j], t.percentile) / t.limit_s for t in self.targets}
            for j in used
        }
        guilty = tuple(j for j in used if any(own[j][t] > 1.0 for t in broken))
        idle = tuple(j for j in used if all(not own[j][t] > 0.8 for t in self.targets))
        known = [r for r in ratios.values() if not math.isnan(r)]
        return Outcome(counts, shares, values, pool, not broken, max(known, default=0.0), guilty, idle, watts)

    def _pool(self, variety: Variety, count: int, rows: NDArray[np.bool_]) -> PoolRun:
        key = (id(variety), count, np.packbits(rows).tobytes())
        if key not in self.pools:
            self.pools[key] = self._played(variety, count, rows)
        return self.pools[key]

    def _played(self, variety: Variety, count: int, rows: NDArray[np.bool_]) -> PoolRun:
        sent = part_of(self.trace, rows)
        assert sent is not None
        first = self._prepared(variety)
        served = first.first
        cluster = replace(served.scenario.cluster, count=count * variety.devices)
        served = replace(served, pool=variety.pool(count), scenario=replace(served.scenario, cluster=cluster))
        order, _ = checked(self.options, ROUTER, sent)
        asked = replace(
            first,
            deployment=Deployment(self.name, (served.pool,), ROUTER),
            served=(served,),
            trace=sent,
            policy=order,
            rejected=np.asarray(sent.isl + sent.osl)
            > longest_request(served.kv, served.config, self.model.transformer.max_context),
        )
        found = run(asked, time.perf_counter(), log=0)
        records = found.records
        done = records.completed
        values = {m: np.where(done, np.asarray(getattr(records, m), dtype=np.float64), UNSERVED_S) for m in METRICS}
        span = max(found.makespan_s, 1e-9)
        watts = (found.energy_j + float(found.totals.get("host_energy_j", 0.0))) / span
        return PoolRun(values, watts, int(sent.osl.sum()))

    def _prepared(self, variety: Variety) -> Prepared:
        known = self.prepared.get(id(variety))
        if known is None:
            deployment = Deployment(self.name, (variety.pool(1),), ROUTER)
            known = variety, prepare(deployment, self.trace, self.options, model=self.model)
            self.prepared[id(variety)] = known
        return known[1]
