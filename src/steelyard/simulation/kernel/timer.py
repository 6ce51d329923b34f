"""Compiled heap of events set for a time: the earliest first, equal ones in the order they were set."""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inner
from steelyard.simulation.kernel.state import State, Tech

__all__ = ["set_timer", "take_timer"]


@njit_inner
def _before(timers: Any, a: int, b: int) -> bool:
    return bool(timers[a].at < timers[b].at or (timers[a].at == timers[b].at and timers[a].seq < timers[b].seq))


@njit_inner
def set_timer(state: State, tech: Tech, at: float, event: int, target: int, argument: int) -> None:
    """Add an event; the last entry of the array is spare. A full array ends the run."""
    apart()
    timers = tech.timers
    place, spare = state.run.timers, timers.shape[0] - 1
    if place >= spare:
        state.run.timers_full = 1
        return
    timers[spare].at = at
    timers[spare].event = event
    timers[spare].target = target
    timers[spare].argument = argument
    timers[spare].seq = state.run.timer_seq
    state.run.timer_seq += 1
    state.run.timers = place + 1
    while place > 0 and _before(timers, spare, (place - 1) // 2):
        timers[place] = timers[(place - 1) // 2]
        place = (place - 1) // 2
    timers[place] = timers[spare]


@njit_inner
def take_timer(state: State, tech: Tech) -> None:
    """Take the first event away; it stays readable in the spare last entry."""
    apart()
    timers = tech.timers
    spare, size = timers.shape[0] - 1, state.run.timers - 1
    timers[spare] = timers[0]
    state.run.timers = size
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
