"""Finalists: candidates in the order of the best they could be, simulated until nothing left could be better.

The screen's capacity may be short of the simulator's by its margin, no more; a candidate whose capacity with the margin
is below the required rate is never simulated. The rest come in the order of the objective (the rent is known exactly,
other objectives with a margin), so that the first one that meets the SLOs is the best, and the search ends when the
next could not beat it. A replica that fails is measured: its largest rate corrects the screen for the same replica at
other counts and limits.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost.energy import idle_power_w
from steelyard.search.candidates import CandidateRow, CandidateTable
from steelyard.search.options import PoolOption, ReplicaOption
from steelyard.search.task import PlanTask, objective_value, request_latency_s
from steelyard.search.trial import RATE_RESOLUTION, Outcome, Player

__all__ = ["RUNNERS_UP", "Finalist", "Finals", "play_finals"]

#: Candidates of a table that are looked at, at most.
MAX_CANDIDATES = 3000
#: Runs of the simulator at most.
MAX_RUNS = 400
#: Runners-up that are simulated besides the winner.
RUNNERS_UP = 2
#: Rents within this share of the lowest are the same: the simpler deployment is preferred.
SAME_RENT = 0.05
#: One pool of equal replicas.
SIMPLEST = (1, 1)
#: Failures of a pool after which it is measured how far the screen is off.
FAILURES_MEASURED = 3
#: How closely a corrected capacity is known: limits and counts change it further.
CORRECTED = 1.08
#: How closely the largest rate of a pool that failed is found.
MEASURED_RESOLUTION = 0.06
#: How far the screen's latency may be above, and its power above, the simulator's.
LATENCY_MARGIN, POWER_MARGIN = 1.15, 1.05


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that meets every SLO in the simulator."""

    row: CandidateRow
    outcome: Outcome
    value: float
    """Of the objective, less is better, from the run."""
    watts: float
    """Hosts and spares included."""
    largest_rate_per_s: float
    """Where it was needed; NaN otherwise."""


@dataclass(frozen=True, eq=False)
class Finals:
    """The finalists, best first, and the nearest miss when there are none."""

    finalists: tuple[Finalist, ...]
    closest: CandidateRow | None
    exhausted: bool
    """The runs were used up before the order was certain."""


def _promising(table: CandidateTable, number: int, task: PlanTask) -> Iterator[tuple[float, float, int, int]]:
    """``(best value it could have, -capacity, number, place)`` of candidates that may hold the rate, best first."""
    question = task.question
    optimistic = table.capacity * (1.0 + table.margin)
    keep = optimistic >= question.required_load
    keep &= question.allows(table.devices, table.rent_usd_per_hour, table.watts / POWER_MARGIN)
    if question.objective == "cost":
        keep &= ~np.isnan(table.rent_usd_per_hour)
    places = np.flatnonzero(keep)
    if not places.size:
        return
    latency = request_latency_s(question, table.ttft_s, table.tpot_s) / LATENCY_MARGIN
    value = objective_value(question, table.rent_usd_per_hour, table.watts / POWER_MARGIN, optimistic, latency)[places]
    if places.size > MAX_CANDIDATES:
        near = np.argpartition(value, MAX_CANDIDATES)[:MAX_CANDIDATES]
        near = np.flatnonzero(value <= value[near].max())  # all equal ones
        places, value = places[near], value[near]
    for i in np.lexsort((places, -table.capacity[places], value)):
        yield float(value[i]), -float(table.capacity[places[i]]), number, int(places[i])


def play_finals(
    tables: Sequence[CandidateTable],
    task: PlanTask,
    player: Player,
    *,
    runners_up: int = RUNNERS_UP,
    max_runs: int = MAX_RUNS,
    progress: Callable[[str], object] = str,
) -> Finals:
    """Simulate candidates until the order of the best is certain.

    Args:
        tables: all candidates.
        task: the question.
        player: simulates them.
        runners_up: candidates to find besides the best.
        max_runs: of the simulator.
        progress: is called with how far it is.
    """
    return _Search(tables, task, player, runners_up, max_runs).run(progress)


class _Search:
    """The search of :func:`play_finals`, and what its runs have shown."""

    def __init__(
        self, tables: Sequence[CandidateTable], task: PlanTask, player: Player, runners_up: int, max_runs: int
    ) -> None:
        self.tables, self.task, self.question, self.player = tables, task, task.question, player
        self.runners_up, self.max_runs = runners_up, max_runs
        self.maximises_rate = task.question.objective == "throughput"
        self.finalists: list[Finalist] = []
        self.evidence = _Evidence(player, task.question.required_load, blames=not self.maximises_rate)

    def run(self, progress: Callable[[str], object]) -> Finals:
        begun, exhausted = self.player.runs, False
        closest: tuple[CandidateRow, Outcome] | None = None
        for value, _, t, place in heapq.merge(*(_promising(x, t, self.task) for t, x in enumerate(self.tables))):
            if self._certain(value):
                break
            if self.player.runs - begun >= self.max_runs:
                exhausted = True
                break
            row = self.tables[t].row(place)
            if not self._wanted(row, value):
                continue
            if self.maximises_rate and len(self.finalists) > self.runners_up:
                # rates are found to RATE_RESOLUTION: what does not hold so much more than the best is no better
                most = max(f.largest_rate_per_s for f in self.finalists)
                self.evidence.required = max(self.question.required_load, (1 + RATE_RESOLUTION) * most)
            if not self.evidence.may_hold(row):
                continue
            progress(f"{self.player.runs - begun} runs simulated")
            result = self._fastest(row) if self.maximises_rate else self._cheapest(row)
            if isinstance(result, Finalist):
                self.finalists.append(result)
                continue
            self.evidence.failed(row, result)
            if closest is None or result.worst < closest[1].worst:
                closest = row, result
        return Finals(tuple(self._ordered()), closest[0] if closest else None, exhausted)

    def _best(self) -> Finalist:
        return min(self.finalists, key=lambda f: f.value)

    def _wanted(self, row: CandidateRow, value: float) -> bool:
        """Whether a candidate is worth simulating: of a new family, and a runner-up, better or simpler."""
        if any(f.row.family == row.family for f in self.finalists):
            return False
        if len(self.finalists) <= self.runners_up or _better(value, self._best().value):
            return True
        return self.question.objective == "cost" and row.complexity < self._best().row.complexity

    def _certain(self, value: float) -> bool:
        """Whether nothing from this value on can change the winner, and there are runners-up enough."""
        if len(self.finalists) <= self.runners_up:
            return False
        best = self._best()
        if self.question.objective == "cost" and best.row.complexity > SIMPLEST:
            return value > best.value * (1 + SAME_RENT)
        return not _better(value, best.value)

    def _ordered(self) -> list[Finalist]:
        """Best first; of those whose rent is nearly the lowest, the simplest is the best."""
        order = sorted(self.finalists, key=lambda f: (f.value, f.outcome.worst))
        if self.question.objective == "cost" and order:
            near = [f for f in order if f.value <= order[0].value * (1 + SAME_RENT)]
            first = min(near, key=lambda f: f.row.complexity)  # the cheapest of the simplest
            order.remove(first)
            order.insert(0, first)
        return order

    def _cheapest(self, row: CandidateRow) -> Finalist | Outcome:
        """A finalist at the requested rate, or what went wrong."""
        outcome = self.player.held(row.pools, self.question.required_load)
        if not outcome.meets:
            return outcome
        fewer = self._fewest(row)
        outcome = self.player.play(fewer.pools, self.question.load)
        return self._finalist(fewer, outcome) if outcome.meets else outcome

    def _fastest(self, row: CandidateRow) -> Finalist | Outcome:
        """A finalist at the largest rate it holds, or what went wrong at the least rate that is of interest."""
        required, known = self.evidence.required, 0.0
        if required > self.question.load:
            outcome = self.player.held(row.pools, required)
            if not outcome.meets:
                return outcome
            known = required
        largest, _ = self.player.largest_rate(row.pools, row.capacity_per_s, known, sure=True)
        outcome = self.player.play(row.pools, max(largest, required))
        return self._finalist(row, outcome) if outcome.meets else outcome

    def _finalist(self, row: CandidateRow, outcome: Outcome) -> Finalist | Outcome:
        """Power and value of a candidate that meets the SLOs; a failure when it needs too much power."""
        spares = self.question.spares
        watts = outcome.watts
        for p in row.pools:
            r = p.replica
            watts += p.devices(spares) * r.host_w + spares * r.devices * idle_power_w(r.cluster.machine)
        if self.question.max_w is not None and watts > self.question.max_w:
            return replace(outcome, meets=False, first_failure="power", worst=watts / self.question.max_w)
        largest = outcome.rate_per_s if self.maximises_rate else math.nan
        latency = request_latency_s(self.question, outcome.values["ttft_s"], outcome.values["tpot_s"])
        value = objective_value(self.question, row.rent_usd_per_hour, watts, largest, latency)
        return Finalist(row, outcome, float(value), watts, largest)

    def _fewest(self, row: CandidateRow) -> CandidateRow:
        """Large counts come in steps: the fewest replicas of the step that hold the required rate, by bisection."""
        pool = row.pools[0]
        if len(row.pools) > 1 or pool.count <= 32 or self.question.objective != "cost":
            return row
        low, high = math.floor(pool.count / 1.06), pool.count
        while high - low > 1:
            middle = (low + high) // 2
            held = self.player.held([replace(pool, count=middle)], self.question.required_load).meets
            low, high = (low, middle) if held else (middle, high)
        fewest, spares = replace(pool, count=high), self.question.spares
        rent = row.rent_usd_per_hour * fewest.devices(spares) / pool.devices(spares)
        return replace(row, pools=(fewest,), rent_usd_per_hour=rent)


def _better(value: float, best: float) -> bool:
    return value < best * (1 - 1e-9 if best > 0 else 1 + 1e-9)


@dataclass(frozen=True, eq=False)
class _Failure:
    """A pool that missed an SLO at the required rate."""

    row: CandidateRow
    pool: PoolOption
    metric: str
    """Which SLO."""

    def implies(self, other: PoolOption) -> bool:
        """Whether a pool of the same replica fails too: as many or fewer with the same limits, or far weaker."""
        pool = self.pool
        if other.capacity_per_s * CORRECTED < pool.capacity_per_s:
            return True
        if other.count > pool.count or other.capacity_per_s > pool.capacity_per_s * (1 + 1e-6):
            return False
        slower = self.metric == "tpot" and other.sequences > pool.sequences  # more requests take no less time per token
        return other.budget == pool.budget and (other.sequences == pool.sequences or slower)


class _Evidence:
    """What runs have shown about pools: which fail at the required rate, and how far the screen is off.

    ``blames``: a pool that failed rules out others like it whatever they are paired with. Not at the largest rate a
    deployment holds: so near the limit the pool it is paired with decides.
    """

    def __init__(self, player: Player, required: float, *, blames: bool) -> None:
        self.player, self.required, self.blames = player, required, blames
        self.factors: dict[tuple[str, ReplicaOption], float] = {}
        self.failures: dict[tuple[str, ReplicaOption], list[_Failure]] = {}
        self.tried: set[tuple[Any, ...]] = set()

    def may_hold(self, row: CandidateRow) -> bool:
        """Whether every pool may hold the required rate. A pool that failed several times is measured first."""
        if row.identity in self.tried:
            return False
        for pool in row.pools:
            name = (pool.role, pool.replica)
            failures = self.failures.get(name, [])
            if self.blames and any(f.implies(pool) for f in failures):
                return False
            if len(failures) >= FAILURES_MEASURED and name not in self.factors:
                self.factors[name] = self._measured(failures[-1])
            factor = 1.0 + pool.margin
            if name in self.factors:
                factor = min(factor, self.factors[name] * CORRECTED * (1 + MEASURED_RESOLUTION))
            if pool.capacity_per_s * factor < self.required:
                return False
        return True

    def _measured(self, failure: _Failure) -> float:
        """What a pool holds over what the screen says; inf when another pool fails first."""
        guess = min(self.required / 1.1, failure.row.capacity_per_s)
        largest, above = self.player.largest_rate(failure.row.pools, guess, resolution=MEASURED_RESOLUTION, sure=True)
        if above is None or _blamed(failure.row, above) is not failure.pool:
            return math.inf
        return max(largest, 1e-9) / failure.pool.capacity_per_s

    def failed(self, row: CandidateRow, outcome: Outcome) -> None:
        """Take up that a candidate missed an SLO."""
        self.tried.add(row.identity)
        pool = _blamed(row, outcome)
        if pool is not None and math.isfinite(outcome.worst):
            self.failures.setdefault((pool.role, pool.replica), []).append(_Failure(row, pool, outcome.first_failure))


def _blamed(row: CandidateRow, outcome: Outcome) -> PoolOption | None:
    """The pool that missed an SLO; None when it cannot be told.

    Times per token are those of the decode pool. Times to first token, and their growth, are those of the prefill pool,
    unless the decode pool was full and may have held prompts up: then it is the weaker by the screen.
    """
    if len(row.pools) == 1:
        return row.pools[0]
    if outcome.first_failure == "tpot":
        return row.pools[-1]
    if outcome.first_failure in ("ttft", "rate") and not outcome.decode_full:
        return row.pools[0]
    least = min(p.capacity_per_s for p in row.pools)
    weak = [p for p in row.pools if p.capacity_per_s <= least * 1.05]
    return weak[0] if len(weak) == 1 else None
