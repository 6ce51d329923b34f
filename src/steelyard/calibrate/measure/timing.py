"""Timing on a computer other people use too: warm up, interleave, repeat, keep a low quantile, watch the drift.

With one thread the processor time of the thread is read, so being scheduled out costs nothing; with several threads, or
a GPU, the wall clock is. Every round visits every case once, so a slow minute of the machine touches all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Clock", "Timed", "Timer", "interleaved"]

LOW_QUANTILE = 0.2
"""Of the rounds: low enough to leave out disturbed ones, not the luckiest single one."""
SHORT_S = 3e-4
"""Calls shorter than this are repeated inside one reading, at most MAX_CALLS times."""
MAX_CALLS = 64

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of one call, and how far the rounds scattered."""

    time_s: float
    spread: float
    """Log ratio of the median round to the kept quantile."""
    rounds: int
    drift: float = 0.0
    """Log ratio of the fastest reading of the second half of the rounds to that of the first half."""


@dataclass(frozen=True, slots=True)
class Timer:
    """How a device is timed: what to call to be sure all work is done, and the clock to read."""

    clock: Clock
    finish: Callable[[], None]

    @classmethod
    def wall(cls, finish: Callable[[], None] = lambda: None) -> Timer:
        """The wall clock."""
        return cls(time.perf_counter, finish)

    @classmethod
    def thread(cls) -> Timer:
        """Processor time of the calling thread, where the system has it."""
        return cls(time.thread_time if hasattr(time, "thread_time") else time.perf_counter, lambda: None)

    def once(self, call: Callable[[], object], calls: int = 1) -> float:
        """Seconds per call of ``calls`` calls in a row."""
        self.finish()
        start = self.clock()
        for _ in range(calls):
            call()
        self.finish()
        return (self.clock() - start) / calls


def interleaved(
    calls: Sequence[Callable[[], object]],
    timer: Timer,
    *,
    budget_s: float,
    rounds: int = 9,
    least_rounds: int = 3,
    tick: Callable[[int], None] = lambda _: None,
) -> list[Timed]:
    """Time every call over interleaved rounds, until ``rounds`` are done or ``budget_s`` of wall time is spent.

    Args:
        calls: what to time.
        timer: clock of the device.
        budget_s: wall time to stay inside, once ``least_rounds`` are done.
        rounds: most rounds.
        least_rounds: fewest rounds.
        tick: told the number of calls measured, for a progress bar.
    """
    began = time.perf_counter()
    repeats = []
    for call in calls:
        timer.once(call)
        seconds = max(timer.once(call), 1e-7)
        repeats.append(min(MAX_CALLS, max(1, math.ceil(SHORT_S / seconds))))
        tick(1)
    readings: list[list[float]] = [[] for _ in calls]
    for number in range(rounds):
        order = range(len(calls)) if number % 2 == 0 else range(len(calls) - 1, -1, -1)
        for i in order:
            readings[i].append(timer.once(calls[i], repeats[i]))
            tick(1)
        spent = time.perf_counter() - began
        if number + 1 >= least_rounds and spent * (number + 2) / (number + 1) > budget_s:
            break
    return [_summary(r) for r in readings]


def _summary(readings: Sequence[float]) -> Timed:
    low = float(np.quantile(readings, LOW_QUANTILE))
    half = len(readings) // 2
    drift = math.log(max(min(readings[half:]), 1e-12) / max(min(readings[:half]), 1e-12)) if half else 0.0
    return Timed(low, float(math.log(max(float(np.median(readings)), 1e-12) / max(low, 1e-12))), len(readings), drift)
