"""Training runs with failures drawn by chance, one interruption after another, compiled.

The same run as in closed form (:mod:`steelyard.training.reliability`): its means agree, and there is a spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.jit import compile_for, njit, njit_inner
from steelyard.deployment.failures import Failures
from steelyard.deployment.recovery import USUAL, Checkpoint, Recovery
from steelyard.errors import InputError
from steelyard.training.reliability import effective, elastic_speed, sources

__all__ = ["Runs", "draw_runs"]

Floats = NDArray[np.float64]
#: Interruptions drawn at most for all runs together, and draws at a time.
MOST: Final = 50_000_000
BATCH: Final = 1_000_000
#: Nodes out at once that a run keeps account of.
OUT: Final = 4096
#: Columns of the result of a run.
WALL, LOST, SAVING, DOWN, WAITING, SILENT, INTERRUPTED = range(7)
#: Places of the state of the run that is being drawn.
DONE, SINCE, RESTART, FOUND_IN, CLEAN, COUNT = range(6)


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs to their end: seconds, one entry a run. Work, lost work, saves, standing and waiting add up to the whole."""

    work_s: float
    wall_s: Floats
    lost_s: Floats
    """Steps done again after interruptions."""
    saving_s: Floats
    down_s: Floats
    waiting_s: Floats
    silent_s: Floats
    """Steps done again after wrong numbers."""
    interruptions: Floats

    @property
    def ettr_frac(self) -> float:
        """Work of all time, over all runs."""
        return float(self.work_s * len(self.wall_s) / self.wall_s.sum())

    @property
    def slower_s(self) -> Floats:
        """Time that an elastic job took longer for having fewer replicas."""
        others = self.lost_s + self.saving_s + self.down_s + self.waiting_s + self.silent_s
        return np.asarray(self.wall_s - self.work_s - others)


def draw_runs(
    failures: Failures,
    checkpoint: Checkpoint,
    recovery: Recovery = USUAL,
    *,
    work_s: float,
    nodes: int,
    devices: int,
    replicas: int = 1,
    runs: int = 200,
    seed: int = 0,
) -> Runs:
    """Draw whole runs.

    Args:
        failures, checkpoint, recovery, nodes, devices, replicas: of :func:`steelyard.training.reliability.effective`.
        work_s: what the run takes when nothing fails and nothing is saved, s.
        runs: how many.
        seed: of the draws.

    Raises:
        InputError: the runs would have more than 50 million interruptions, or never end.
    """
    known = effective(failures, checkpoint, recovery, nodes=nodes, devices=devices, replicas=replicas)
    ettr, interval = float(known.ettr_frac), float(known.interval_s)
    errors_per_s = float(failures.per_s("silent", nodes, devices))
    kinds = sources(failures, recovery, checkpoint, nodes, devices)
    expected = runs * work_s / max(ettr, 1e-12) * (float(known.interruptions_per_s) + errors_per_s)
    if not ettr > 1e-4:
        message = f"the job hardly gets on: {ettr:.2g} of its time ends up in the model"
        raise InputError(f"{message}; fewer failures, more spares or a faster restart", field="failures")
    if not expected < MOST:
        message = f"expected a run with at most {MOST / runs:,.0f} interruptions, this one has {expected / runs:.2g}"
        raise InputError(message, field="failures")
    rates = np.array([float(k.per_s) for k in kinds])
    spares = OUT if recovery.spares is None else recovery.spares
    out = np.arange(OUT + 1)
    speed = (
        np.asarray(elastic_speed(out, nodes, spares, replicas), np.float64)
        if recovery.elastic and recovery.spares is not None
        else np.where(out <= spares, 1.0, 0.0)
    )
    facts = np.array([work_s, interval, checkpoint.stall_s, checkpoint.late_s, errors_per_s, recovery.silent_s])
    table = np.stack(
        [
            np.cumsum(rates),
            [k.detect_s for k in kinds],
            [k.restart_s for k in kinds],
            [float(k.rolls_back) for k in kinds],
            [k.out_s for k in kinds],
        ]
    )
    result = np.zeros((runs, 7))
    state, returns = np.zeros(6), np.zeros(OUT + 1)
    state[FOUND_IN] = -1.0
    rng = np.random.default_rng(seed)
    size = int(min(BATCH, max(1000, 4 * expected + 100)))
    at = 0
    while at < runs:
        arguments = (facts, table, speed, spares, recovery.restart_s, state, returns, result, at)
        drawn = rng.standard_exponential(size), rng.random(size)
        compile_for(_draw, (*arguments, *drawn))
        at = _draw(*arguments, *drawn)
    return Runs(work_s, *result.T)


@njit_inner
def _tick(state: Any, returns: Any, dt: float) -> None:
    """Time passes for the nodes that are out; those whose time is over come back."""
    n = 0
    while n < int(state[COUNT]):
        returns[n] -= dt
        if returns[n] <= 0.0:
            state[COUNT] -= 1.0
            returns[n] = returns[int(state[COUNT])]
        else:
            n += 1


@njit_inner
def _work(facts: Any, since: float, speed: float) -> float:
    """Work of a stretch that has run for ``since``: whole intervals and what has begun."""
    interval, stall = facts[1], facts[2]
    if interval == np.inf:
        return since * speed
    span = interval / speed + stall
    whole = np.floor(since / span)
    return float(whole * interval + min((since - whole * span) * speed, interval))


@njit_inner
def _safe(facts: Any, since: float, late: float, speed: float) -> float:
    """Work of a stretch that the last checkpoint begun ``late`` ago holds."""
    interval, stall = facts[1], facts[2]
    if interval == np.inf or since < late:
        return 0.0
    return float(np.floor((since - late) / (interval / speed + stall)) * interval)


@njit
def _draw(
    facts: Any,
    table: Any,
    speeds: Any,
    spares: int,
    restart_s: float,
    state: Any,
    returns: Any,
    result: Any,
    at: int,
    exponential: Any,
    uniform: Any,
) -> int:
    """Play runs from number ``at`` on until none is left or the draws are used up; which run is next."""
    work_s, interval, stall, late, errors_per_s, silent_s = facts
    kinds = table.shape[1]
    rate = table[0, kinds - 1]
    used = 0
    while at < result.shape[0]:
        if used + 3 > exponential.shape[0]:
            return at
        own = result[at]
        down = int(state[COUNT])
        next_failure = exponential[used] / rate if rate > 0.0 else np.inf
        used += 1
        failed = False
        if state[RESTART] > 0.0:
            dt = min(next_failure, state[RESTART])
            failed = next_failure < state[RESTART]
            own[WALL] += dt
            own[DOWN] += dt
            state[RESTART] = 0.0
            state[SINCE] = 0.0
            _tick(state, returns, dt)
        else:
            speed = speeds[min(down, speeds.shape[0] - 1)]
            left = work_s - state[DONE]
            saves = max(np.ceil(left / interval) - 1.0, 0.0) if interval < np.inf else 0.0
            ends = left / speed + saves * stall - state[SINCE]
            next_error = state[FOUND_IN]
            if state[FOUND_IN] < 0.0:
                next_error = exponential[used] / errors_per_s if errors_per_s > 0.0 else np.inf
                used += 1
            back = np.inf
            if down > spares and speed > 0.0:
                for n in range(down):
                    back = min(back, returns[n])
            dt = max(min(min(ends, next_failure), min(next_error, back)), 0.0)
            since = state[SINCE] + dt
            state[SINCE] = since
            own[WALL] += dt
            if back > dt:
                _tick(state, returns, dt)
            if state[FOUND_IN] >= 0.0:
                state[FOUND_IN] = max(state[FOUND_IN] - dt, 0.0)
            reached = state[DONE] + _work(facts, since, speed)
            if ends <= dt:
                own[SAVING] += since - left / speed
                state[:] = 0.0
                state[FOUND_IN] = -1.0
                at += 1
                continue
            saved = max(since - (reached - state[DONE]) / speed, 0.0)
            failed = next_failure <= dt
            if failed:
                own[SAVING] += saved
            elif back <= dt:  # a node is back: grow again at once, with a checkpoint before
                _tick(state, returns, dt)
                if speeds[int(state[COUNT])] > speed:
                    own[WALL] += stall
                    own[SAVING] += saved + stall
                    state[DONE] = reached
                    state[RESTART] = max(restart_s, 1e-9)
            elif state[FOUND_IN] < 0.0:  # numbers go wrong; the last checkpoint begun before is the last good one
                state[FOUND_IN] = silent_s
                state[CLEAN] = state[DONE] + _safe(facts, since, 0.0, speed)
            else:  # and are found
                own[SAVING] += saved
                own[SILENT] += reached - state[CLEAN]
                state[DONE] = state[CLEAN]
                state[FOUND_IN] = -1.0
                state[RESTART] = max(restart_s, 1e-9)
        if not failed:
            continue
        kind = 0
        while kind < kinds - 1 and uniform[used] * rate >= table[0, kind]:
            kind += 1
        if state[SINCE] > 0.0:
            kept = reached
            if table[3, kind] > 0.0:
                kept = state[DONE] + _safe(facts, state[SINCE], late, speed)
            own[LOST] += reached - kept
            state[DONE] = kept
            state[SINCE] = 0.0
            if state[FOUND_IN] >= 0.0 and kept <= state[CLEAN]:
                state[FOUND_IN] = -1.0  # gone with what was lost
        own[INTERRUPTED] += 1.0
        own[WALL] += table[1, kind]
        own[DOWN] += table[1, kind]
        _tick(state, returns, table[1, kind])
        if table[4, kind] > 0.0 and state[COUNT] < returns.shape[0] - 1:
            returns[int(state[COUNT])] = exponential[used] * table[4, kind]
            state[COUNT] += 1.0
            used += 1
        while speeds[min(int(state[COUNT]), speeds.shape[0] - 1)] <= 0.0:
            soonest = np.inf
            for n in range(int(state[COUNT])):
                soonest = min(soonest, returns[n])
            own[WALL] += soonest
            own[WAITING] += soonest
            _tick(state, returns, soonest)
        state[RESTART] = max(table[2, kind], 1e-9)
    return at
