"""Compiled heap of events set for a time: the earliest first, equal ones in the order they were set."""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.state import State, Tech

__all__ = ["drop_timer", "set_timer", "take_timer"]


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
def take_timer(state: State, tech: Tech, place: int) -> None:
    """Take an event away, the first at place 0; it stays readable in the spare last entry."""
    apart()
    timers = tech.timers
    spare, size = timers.shape[0] - 1, state.run.timers - 1
    timers[spare] = timers[place]
    state.run.timers = size
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
    while place > 0 and place < size and _before(timers, size, (place - 1) // 2):
        timers[place] = timers[(place - 1) // 2]
        place = (place - 1) // 2
    if place < size:
        timers[place] = timers[size]


@njit_inner
def drop_timer(state: State, tech: Tech, event: int, target: int) -> None:
    """Take an event away that was set while the run went on (its argument is above 0), if there is one."""
    timers = tech.timers
    for place in range(state.run.timers):
        if timers[place].event == event and timers[place].target == target and timers[place].argument > 0:
            take_timer(state, tech, wide(place))
            return
