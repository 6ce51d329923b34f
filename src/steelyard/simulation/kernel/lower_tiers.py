"""Levels of the cache below the devices, compiled: units that fall out of one level go to the next, by age.

``m``: :class:`steelyard.simulation.kernel.methods.Methods`. A level keeps what was loaded from it. Writing to a level
is taken to run behind the steps. Imports numba.
"""

from __future__ import annotations

from typing import Any

from steelyard.cost.step_eval import step_cost
from steelyard.simulation.kernel.jit import njit_inner

__all__ = ["begin_load", "keep_below", "load_from_below", "swap_in", "swap_out"]


@njit_inner
def _detach(t: Any, v: Any, row: int, unit: int) -> None:
    older, newer = v[row, unit].older, v[row, unit].newer
    if older >= 0:
        v[row, older].newer = newer
    else:
        t[row].oldest = newer
    if newer >= 0:
        v[row, newer].older = older
    else:
        t[row].newest = older


@njit_inner
def _attach(t: Any, v: Any, row: int, unit: int) -> None:
    newest = t[row].newest
    v[row, unit].older = newest
    v[row, unit].newer = -1
    if newest >= 0:
        v[row, newest].newer = unit
    else:
        t[row].oldest = unit
    t[row].newest = unit


@njit_inner
def _make_room(m: Any, row: int, blocks: int, unit_blocks: int) -> int:
    """Let the oldest units of a level go until so many blocks fit; the first of them, -1 none, -2 it never fits."""
    t, v = m.tiers, m.below
    gone = -1
    while t[row].used + blocks > t[row].capacity:
        unit = t[row].oldest
        if unit < 0:
            return -2
        _detach(t, v, row, unit)
        v[row, unit].refs = -1
        t[row].used -= unit_blocks
        if gone < 0:
            gone = unit
    return int(gone)


@njit_inner
def keep_below(m: Any, z: Any, r: int, unit: int, unit_blocks: int) -> None:
    """A unit leaves the device: the first level takes it, what that lets go falls to the next."""
    t, v = m.tiers, m.below
    for level in range(z.tiers):
        row = m.tier_rows[r, level]
        if v[row, unit].refs >= 0:
            _detach(t, v, row, unit)
            _attach(t, v, row, unit)
            return
        gone = _make_room(m, row, unit_blocks, unit_blocks)
        if gone == -2:
            continue
        v[row, unit].refs = 0
        t[row].used += unit_blocks
        _attach(t, v, row, unit)
        if gone < 0:
            return
        unit = gone


@njit_inner
def _level_of(m: Any, z: Any, r: int, unit: int) -> int:
    for level in range(z.tiers):
        if m.below[m.tier_rows[r, level], unit].refs >= 0:
            return level
    return -1


@njit_inner
def load_from_below(
    m: Any, z: Any, x: Any, k: int, r: int, u: Any, units_of: Any, start: int, hits: int, most: int, now: float
) -> tuple[int, float]:
    """``(units to load, when they are there)`` of a prompt that has ``hits`` of at most ``most`` units on the device.

    They are loaded when that is predicted to be over before computing them would be; else 0. ``k``: the pool.
    """
    found = 0
    while hits + found < most:
        unit = units_of[start + hits + found]
        if u[r, unit].refs >= 0 or _level_of(m, z, r, unit) < 0:
            break
        found += 1
    if found == 0:
        return 0, now
    ready = _when(m, z, x, r, units_of, start + hits, found, now)
    new = float(found * x.unit_tokens)
    pairs = new * (hits * x.unit_tokens + 0.5 * new)
    computed = step_cost(m.data, m.layout[k], new, 1.0, 0.0, 0.0, 1.0, new, pairs)[0]
    if ready - now >= computed:
        return 0, now
    return found, ready


@njit_inner
def _when(m: Any, z: Any, x: Any, r: int, units_of: Any, first: int, count: int, now: float) -> float:
    """When so many units of the levels below are on the device, every link serving one request after another."""
    ready = now
    for level in range(z.tiers):
        own = 0
        for n in range(count):
            if _level_of(m, z, r, units_of[first + n]) == level:
                own += 1
        if own > 0:
            tier = m.tiers[m.tier_rows[r, level]]
            ready = max(ready, max(now, tier.link_free) + tier.latency_s + own * x.unit_blocks * tier.block_s)
    return float(ready)


@njit_inner
def begin_load(m: Any, z: Any, x: Any, r: int, units_of: Any, first: int, count: int, now: float) -> None:
    """Take the links for a load and make its units the newest of their levels."""
    t, v = m.tiers, m.below
    for level in range(z.tiers):
        row = m.tier_rows[r, level]
        own = 0
        for n in range(count):
            unit = units_of[first + n]
            if _level_of(m, z, r, unit) == level:
                own += 1
                _detach(t, v, row, unit)
                _attach(t, v, row, unit)
        if own > 0:
            t[row].link_free = max(now, t[row].link_free) + t[row].latency_s + own * x.unit_blocks * t[row].block_s


@njit_inner
def swap_out(m: Any, z: Any, x: Any, k: int, r: int, i: int, tokens: int, blocks: int, now: float) -> bool:
    """A request gives way: its cache goes to the first level when there is room and loading it back is faster."""
    tier = m.tiers[m.tier_rows[r, 0]]
    load_s = max(0.0, tier.link_free - now) + tier.latency_s + blocks * tier.block_s
    new = float(tokens)
    computed = step_cost(m.data, m.layout[k], new, 1.0, 0.0, 0.0, 1.0, new, 0.5 * new * new)[0]
    if tokens < 1 or load_s >= computed or _make_room(m, m.tier_rows[r, 0], blocks, max(1, x.unit_blocks)) == -2:
        return False
    tier.used += blocks
    m.swapped[i] = tokens
    return True


@njit_inner
def swap_in(m: Any, r: int, i: int, blocks: int, now: float) -> float:
    """A request whose cache was moved is admitted again; when its cache is on the device."""
    tier = m.tiers[m.tier_rows[r, 0]]
    tier.link_free = max(now, tier.link_free) + tier.latency_s + blocks * tier.block_s
    tier.used -= blocks
    m.swapped[i] = 0
    return float(tier.link_free)
