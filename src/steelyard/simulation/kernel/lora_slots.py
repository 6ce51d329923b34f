"""Adapters in the memory of a replica, compiled: the one unused longest makes room, loads follow each other.

``m``: :class:`steelyard.simulation.kernel.methods.Methods`. Imports numba.
"""

from __future__ import annotations

from typing import Any

from steelyard.simulation.kernel.jit import njit_inner

__all__ = ["adapter_of", "count_adapter", "find_seat", "leave_seat", "take_seat"]


@njit_inner
def adapter_of(m: Any, i: int) -> int:
    """The adapter of a request, -1 none."""
    return int(m.adapter_of[i]) if m.adapter_of.shape[0] > 1 or i == 0 else -1


@njit_inner
def find_seat(m: Any, z: Any, r: int, adapter: int) -> int:
    """Where an adapter is or could be loaded to, -1 when every place is in use."""
    seat = m.seat_of[r, adapter]
    if seat >= 0:
        return int(seat)
    best = -1
    for k in range(z.max_loras):
        place = m.seats[r, k]
        if place.users > 0:
            continue
        if place.adapter < 0:
            return k
        if best < 0 or place.used_at < m.seats[r, best].used_at:
            best = k
    return best


@njit_inner
def take_seat(m: Any, z: Any, r: int, adapter: int, seat: int, now: float) -> float:
    """A request runs with an adapter; when the adapter is there."""
    place = m.seats[r, seat]
    if place.adapter != adapter:
        if place.adapter >= 0:
            m.seat_of[r, place.adapter] = -1
        place.adapter = adapter
        m.seat_of[r, adapter] = seat
        place.users = 0
        place.stamp = -1
        place.ready_at = max(now, m.seat_free[r]) + z.lora_load_s
        m.seat_free[r] = place.ready_at
    place.users += 1
    return float(place.ready_at)


@njit_inner
def leave_seat(m: Any, r: int, adapter: int, now: float) -> None:
    """A request that ran with an adapter ends or gives way."""
    place = m.seats[r, m.seat_of[r, adapter]]
    place.users -= 1
    place.used_at = now


@njit_inner
def count_adapter(m: Any, r: int, adapter: int, stamp: int) -> int:
    """1 when a step meets this adapter for the first time."""
    place = m.seats[r, m.seat_of[r, adapter]]
    if place.stamp == stamp:
        return 0
    place.stamp = stamp
    return 1
