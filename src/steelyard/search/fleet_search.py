"""From types to a fleet that meets the SLOs in the simulator: integer programs, runs, and corrections from the runs.

The loads of the program come from each bucket alone, the requests of a pool are mixed, and arrivals come in waves. So
the program is solved for capacities times a factor, the fleet is simulated, and the largest factor is found that meets
the SLOs; then each type's own factor is corrected by what its pool did, and the program is solved again until it knows
nothing cheaper. Every step is bounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.search.buckets import Buckets
from steelyard.search.fleet_play import FleetOutcome, FleetPlayer
from steelyard.search.fleet_program import GAP, Bound, Program, Solution, balanced, loads, simplest, solve
from steelyard.search.options import Floats, Integers
from steelyard.search.replica_types import ReplicaTypes
from steelyard.search.task import PlanTask
from steelyard.traffic.trace import Trace

__all__ = ["FleetSearch", "busy_rate", "cheapest_mix", "cheapest_of_one_type", "program_of"]

#: The bound on requests that go where they miss an SLO, and its share of the requests that may miss it.
LATE, LATE_SHARE = "late requests", 0.5

#: Windows in which arrivals are counted to find the busy rate, s, and the share of requests in windows below it.
WINDOW_S, BUSY_SHARE = 10.0, 0.9
#: Step of the common factor on capacities, and how often it may be taken in one direction.
STEP, STEPS = 1.2, 10
#: Relative gap at which programs on the way are left: less than one small replica of a large fleet.
CLOSE = 1e-3
#: Times the program is solved again with corrected factors.
ROUNDS = 6
#: Correction of a type's factor: up where its pool stays far inside the SLOs, down where it misses one.
MORE, LESS = 1.1, 0.95
#: Times the screen's count of one type beyond which more replicas are not tried.
MOST_OVER = 6.0
#: Replicas exchanged at once, of the type that leaves or of the one that comes.
EXCHANGED = (1, 2, 3, 5, 8)
#: Passes of exchanging replicas, exchanges simulated in each, and the use of the busiest type above which none is.
PASSES, SWAPS, MOST_USED = 8, 16, 1.4


@dataclass(frozen=True, eq=False)
class FleetSearch:
    """A fleet found over some types."""

    types: ReplicaTypes
    first: Solution
    """The program's answer by the screen's capacities, before anything was simulated."""
    outcome: FleetOutcome | None
    """The cheapest fleet that met every SLO; None when none did."""
    cost: float
    """Of the objective, by the program."""
    closest: FleetOutcome | None
    """The fleet that came nearest, where none did."""
    programs: int
    """Programs solved."""
    program_s: float
    """Wall time of them."""
    use: float = 1.0
    """Load of the busiest type by the screen's capacities over its replicas: true over screened capacity, at least."""


def busy_rate(trace: Trace, rate_per_s: float) -> float:
    """Requests/s in the windows that nine of ten requests do not exceed: what a fleet is sized for before it is played.

    ``rate * max(1, k / mean)`` with ``k`` the 90th percentile, over requests, of the count in their window.
    """
    if trace.duration_s < 4 * WINDOW_S or len(trace) < 100:
        return rate_per_s
    bins = int(trace.duration_s / WINDOW_S)
    counts = np.histogram(trace.arrived_at, bins)[0]
    order = np.sort(counts)
    reached = np.cumsum(order) / order.sum()
    busy = float(order[min(int(np.searchsorted(reached, BUSY_SHARE)), len(order) - 1)])
    return rate_per_s * max(1.0, busy / float(counts.mean()))


def program_of(
    task: PlanTask, types: ReplicaTypes, buckets: Buckets, available: Mapping[str, int], max_types: int | None = None
) -> Program:
    """The program of a question over types.

    Args:
        task: objective, limits, spares, prices; the rate of its demand is to be held.
        types: with capacities.
        buckets: with groups.
        available: devices at most, by machine.
        max_types: pools at most.
    """
    question = task.question
    rate = buckets.share[:, None] * task.demand.rate_per_s
    each = np.where(types.capacity > 0, rate / np.maximum(types.capacity, 1e-30), np.inf)
    watts = np.where(types.capacity > 0, rate * types.joules, np.inf)
    load, moving = (np.zeros((buckets.groups, each.shape[1])) for _ in range(2))
    np.add.at(load, buckets.group, each)
    np.add.at(moving, buckets.group, watts)
    devices = np.array([o.replica.devices for o in types.options], dtype=np.float64)
    rent = types.rent_usd_per_hour(task)
    rent = np.where(np.isnan(rent), 0.0, rent)  # left out before where money matters
    idle_w = np.array([o.replica.idle_w for o in types.options])
    bounds = []
    if question.max_gpus is not None:
        bounds.append(Bound("devices", devices, float(question.max_gpus)))
    if question.budget_usd_per_hour is not None:
        bounds.append(Bound("budget", rent, question.budget_usd_per_hour))
    if question.max_w is not None:
        bounds.append(Bound("watts", idle_w, question.max_w, moving))
    machines = np.array([o.replica.machine for o in types.options])
    for name, most in available.items():
        bounds.append(Bound(f"devices of {name}", devices * (machines == name), float(most)))
    misses = [0.5 if math.isnan(t.percentile) else 1.0 - t.percentile / 100 for t in question.targets]
    if types.late.any() and misses:
        behind = np.zeros_like(load)
        np.add.at(behind, buckets.group, np.where(types.late, buckets.share[:, None], 0.0))
        bounds.append(Bound(LATE, np.zeros(len(devices)), LATE_SHARE * min(misses), behind))
    limits: dict[str, Any] = {"spares": question.spares, "bounds": tuple(bounds), "max_types": max_types}
    if question.objective in ("energy", "carbon"):
        return Program(load, idle_w, moving, **limits)
    return Program(load, devices if question.objective == "devices" else rent, **limits)


def cheapest_mix(
    types: ReplicaTypes,
    program: Program,
    player: FleetPlayer,
    *,
    start: Integers | None = None,
    factor: Floats | None = None,
    time_limit_s: float = 10.0,
) -> FleetSearch:
    """The cheapest fleet over the types that meets every SLO in the simulator.

    Args:
        types: the types.
        program: over them.
        player: simulates fleets.
        start: ``[j]`` replicas of a fleet known to meet the SLOs, to begin from where it is the cheapest known.
        factor: ``[j]`` what is known of true over screened capacity, as a second guess beside equal factors.
        time_limit_s: wall time of one integer program.
    """
    return _Search(types, program, player, time_limit_s).run(start, factor)


def cheapest_of_one_type(types: ReplicaTypes, program: Program, player: FleetPlayer) -> FleetSearch:
    """The cheapest fleet of one type: for every type the fewest replicas that meet the SLOs in the simulator."""
    first = solve(replace(program, max_types=1))
    punctual = replace(program, bounds=tuple(b for b in program.bounds if b.name != LATE))
    return _Search(types, punctual, player).one_type(first)


class _Search:
    """The search over some types, and the best and the nearest fleet so far."""

    def __init__(self, types: ReplicaTypes, program: Program, player: FleetPlayer, time_limit_s: float = 10.0) -> None:
        self.types, self.program, self.player, self.time_limit_s = types, program, player, time_limit_s
        self.factor = np.ones(len(types.options))
        self.best: FleetOutcome | None = None
        self.best_cost = math.inf
        self.closest: FleetOutcome | None = None
        self.programs, self.program_s = 0, 0.0
        self.tried: dict[tuple[bytes, bytes], FleetOutcome] = {}

    def one_type(self, first: Solution) -> FleetSearch:
        """For every type the fewest replicas that meet the SLOs, by bisection from the program's count."""
        for j, need in enumerate(self.program.load.sum(axis=0).tolist()):
            if not math.isfinite(need):
                continue
            low, high = 0, max(1, math.ceil(need))
            while not self._holds(j, high) and high < MOST_OVER * need + 4:
                low, high = high, math.ceil(high * 1.35)
            while low + 1 < high:
                middle = (low + high) // 2 if low else max(1, math.ceil(0.75 * high) - 1)
                if self._holds(j, middle):
                    high = middle
                elif middle > low:
                    low = middle
        self.programs, self.program_s = 1, first.wall_s
        return self._found(first)

    def _holds(self, j: int, count: int) -> bool:
        """Whether so many replicas of one type meet the limits and the SLOs."""
        counts, shares = np.zeros(len(self.types), dtype=np.int64), np.zeros_like(self.program.load)
        counts[j], shares[:, j] = count, 1.0
        return self._allowed(counts, shares) and self._simulate(counts, shares).meets

    def run(self, start: Integers | None, factor: Floats | None) -> FleetSearch:
        first = self._solve(1.0, GAP)
        if first.counts is not None:
            for guess in (self.factor,) if factor is None else (self.factor, factor):
                self.factor = guess.copy()
                self._common()
                self._trim()
                self._learn()
            if start is not None:
                self._play(start, self._scaled())
            self._swap()
        return self._found(first)

    def _found(self, first: Solution) -> FleetSearch:
        use = 1.0 if self.best is None else float(np.max(self._use(self.best)))
        return FleetSearch(
            self.types, first, self.best, self.best_cost, self.closest, self.programs, self.program_s, use
        )

    def _scaled(self, common: float = 1.0) -> Program:
        return replace(self.program, load=self.program.load / (self.factor * common))

    def _solve(self, common: float, gap: float = CLOSE) -> Solution:
        limit = self.time_limit_s if gap == GAP else self.time_limit_s / 4
        solution = solve(self._scaled(common), time_limit_s=limit, gap=gap)
        self.programs += 1
        self.program_s += solution.wall_s
        return solution

    def _play(self, counts: Integers, program: Program) -> FleetOutcome | None:
        """Simulate counts with the load spread as evenly as it can be; None when an item has nowhere to go."""
        spread = balanced(program, counts)
        return None if spread is None else self._simulate(counts, spread[0])

    def _simulate(self, counts: Integers, shares: Floats) -> FleetOutcome:
        key = (counts.tobytes(), np.round(shares, 4).tobytes())
        if key in self.tried:
            return self.tried[key]
        outcome = self.tried[key] = self.player.play(self.types.options, counts, shares)
        if self.closest is None or outcome.worst < self.closest.worst:
            self.closest = outcome
        cost = self.program.cost(counts, shares)
        if outcome.meets and self._allowed(counts, shares) and cost < self.best_cost * (1 - 1e-9):
            self.best, self.best_cost = outcome, cost
        return outcome

    def _allowed(self, counts: Integers, shares: Floats) -> bool:
        return all(b.value(counts, shares, self.program.spares) <= b.limit * (1 + 1e-9) for b in self.program.bounds)

    def _attempt(self, common: float) -> bool | None:
        """Whether the program's fleet meets the SLOs at a common factor; None when there is no fleet."""
        solution = self._solve(common)
        if solution.counts is None:
            return None
        program = self._scaled(common)
        solution = simplest(program, solution, time_limit_s=self.time_limit_s / 4)
        assert solution.counts is not None
        outcome = self._play(solution.counts, program)
        return outcome is not None and outcome.meets

    def _common(self) -> None:
        """Find the largest common factor at which the fleet meets the SLOs."""
        common, holds = 1.0, self._attempt(1.0)
        up = bool(holds)
        for _ in range(STEPS):
            tried = common * STEP if up else common / STEP
            held = self._attempt(tried)
            if held is None or held != up:
                if held and not up:
                    common = tried
                break
            common = tried
        middle = common * math.sqrt(STEP)
        if self._attempt(middle):
            common = middle
        self.factor = self.factor * common

    def _trim(self) -> None:
        """Take replicas away while the SLOs are met, the dearest first."""
        while self.best is not None:
            counts, cost = self.best.counts, self.best_cost
            for j in sorted(np.flatnonzero(counts > 0).tolist(), key=lambda k: -float(self.program.fixed[k])):
                fewer = counts.copy()
                fewer[j] -= 1
                outcome = self._play(fewer, self._scaled()) if fewer.any() else None
                if outcome is not None and outcome.meets:
                    break
            if self.best_cost >= cost:
                return

    def _learn(self) -> None:
        """Correct the factors of the types by what their pools did, and solve the program again."""
        for _ in range(ROUNDS):
            if self.best is None:
                return
            self._raise_factors(self.best)
            solution = self._solve(1.0)
            if solution.counts is None or solution.cost >= self.best_cost * (1 - 1e-6):
                return
            counts = simplest(self._scaled(), solution, time_limit_s=self.time_limit_s / 4).counts
            assert counts is not None
            outcome = self._play(counts, self._scaled())
            if outcome is None:
                return
            if outcome.meets:
                self._trim()
            else:
                self._lower_factors(outcome)

    def _swap(self) -> None:
        """Put cheaper replicas of another type in the place of one while the SLOs are met."""
        for _ in range(PASSES):
            if self.best is None:
                return
            cost = self.best_cost
            for counts in self._swaps(self.best.counts)[:SWAPS]:
                outcome = self._play(counts, self._scaled())
                if outcome is not None and outcome.meets:
                    break
            if self.best_cost >= cost:
                return
            self._trim()

    def _swaps(self, counts: Integers) -> list[Integers]:
        """Fleets with some replicas of a type exchanged for those of another, at just a smaller cost; idlest first."""
        swaps: list[tuple[float, Integers]] = []
        fixed, program = self.program.fixed, self._scaled()
        used = np.flatnonzero(counts > 0).tolist()
        for j, i in itertools.product(used, range(len(fixed))):
            if i == j or not (fixed[i] > 0 and fixed[j] > 0):
                continue
            ratio = float(fixed[i] / fixed[j])
            moves = {(n, math.ceil(n / ratio - 1e-9) - 1) for n in EXCHANGED}
            moves |= {(math.floor(n * ratio + 1e-9) + 1, n) for n in EXCHANGED}
            for less, most in sorted(moves):
                if most < 1 or counts[j] < less:
                    continue
                changed = counts.copy()
                changed[j] -= less
                changed[i] += most
                spread = balanced(program, changed)
                kinds = int((changed > 0).sum())
                if spread is None or (self.program.max_types is not None and kinds > self.program.max_types):
                    continue
                if self.program.cost(changed, spread[0]) < self.best_cost * (1 - 1e-9):
                    swaps.append((spread[1], changed))
        return [c for use, c in sorted(swaps, key=lambda f: f[0]) if use <= MOST_USED]

    def _use(self, outcome: FleetOutcome) -> Floats:
        """Load over replicas of each type, by the screen's own loads."""
        return np.asarray(loads(self.program.load, outcome.shares) / np.maximum(outcome.counts, 1))

    def _raise_factors(self, outcome: FleetOutcome) -> None:
        use = self._use(outcome)
        for j in np.flatnonzero(outcome.counts > 0).tolist():
            more = MORE if j in outcome.idle else 1.0
            self.factor[j] = max(self.factor[j], use[j] * more)

    def _lower_factors(self, outcome: FleetOutcome) -> None:
        use = self._use(outcome)
        for j in outcome.guilty:
            self.factor[j] = min(self.factor[j], use[j]) * LESS
