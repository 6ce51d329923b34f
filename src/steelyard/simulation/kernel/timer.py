"""Compiled heap of events set for a time: the earliest first, equal ones in the order they were set."""

from __future__ import annotations

from typing import Any

from steelyard.simulation.kernel.jit import njit_inner
from steelyard.simulation.kernel.state import FULL, TIMER_SEQ, TIMERS

__all__ = ["set_timer", "take_timer"]


@njit_inner
def _before(timers: Any, a: int, b: int) -> bool:
    return bool(timers[a].at < timers[b].at or (timers[a].at == timers[b].at and timers[a].seq < timers[b].seq))


@njit_inner
def set_timer(timers: Any, numbers: Any, at: float, what: int, a: int, b: int) -> None:
    """Add an event; the last entry of the array is spare. A full array ends the run."""
    place, spare = numbers[TIMERS], timers.shape[0] - 1
    if place >= spare:
        numbers[FULL] = 1
        return
    timers[spare].at = at
    timers[spare].what = what
    timers[spare].a = a
    timers[spare].b = b
    timers[spare].seq = numbers[TIMER_SEQ]
    numbers[TIMER_SEQ] += 1
    numbers[TIMERS] = place + 1
    while place > 0 and _before(timers, spare, (place - 1) // 2):
        timers[place] = timers[(place - 1) // 2]
        place = (place - 1) // 2
    timers[place] = timers[spare]


@njit_inner
def take_timer(timers: Any, numbers: Any) -> None:
    """Take the first event away; it stays readable in the spare last entry."""
    spare, size = timers.shape[0] - 1, numbers[TIMERS] - 1
    timers[spare] = timers[0]
    numbers[TIMERS] = size
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _before(timers, child + 1, child):
            child += 1
        if _before(timers, size, child):
            break
        timers[place] = timers[child]
        place = child
    if size > 0:
        timers[place] = timers[size]
