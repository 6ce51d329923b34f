"""Levels of the cache below the devices, compiled: units that fall out of one level go to the next, by age.

A level keeps what was loaded from it. Writing to a level
is taken to run behind the steps.
"""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.cost.step_eval import step_cost
from steelyard.simulation.kernel.rule_calls import view_of
from steelyard.simulation.kernel.rules import TIER_RULE
from steelyard.simulation.kernel.state import State, Tech

__all__ = ["begin_load", "keep_below", "load_from_below", "swap_in", "swap_out"]


@njit_inner
def _detach(tiers: Any, held: Any, row: int, unit: int) -> None:
    older, newer = held[row, unit].older, held[row, unit].newer
    if older >= 0:
        held[row, older].newer = newer
    else:
        tiers[row].oldest = newer
    if newer >= 0:
        held[row, newer].older = older
    else:
        tiers[row].newest = older


@njit_inner
def _attach(tiers: Any, held: Any, row: int, unit: int) -> None:
    newest = tiers[row].newest
    held[row, unit].older = newest
    held[row, unit].newer = -1
    if newest >= 0:
        held[row, newest].newer = unit
    else:
        tiers[row].oldest = unit
    tiers[row].newest = unit


@njit_inner
def _make_room(tech: Tech, row: int, blocks: int, unit_blocks: int) -> int:
    """Let the oldest units of a level go until so many blocks fit; the first of them, -1 none, -2 it never fits."""
    tiers, held = tech.tiers, tech.tier_units
    gone = -1
    while tiers[row].used + blocks > tiers[row].capacity:
        unit = tiers[row].oldest
        if unit < 0:
            return -2
        _detach(tiers, held, row, unit)
        held[row, unit].refs = -1
        tiers[row].used -= unit_blocks
        if gone < 0:
            gone = unit
    return int(gone)


@njit_inner
def keep_below(tech: Tech, record: Any, replica: int, unit: int, unit_blocks: int) -> None:
    """A unit leaves the device: the first level takes it, what that lets go falls to the next."""
    apart()
    tiers, held = tech.tiers, tech.tier_units
    for level in range(record.tiers):
        row = tech.tier_rows[replica, level]
        if held[row, unit].refs >= 0:
            _detach(tiers, held, row, unit)
            _attach(tiers, held, row, unit)
            return
        gone = _make_room(tech, row, unit_blocks, unit_blocks)
        if gone == -2:
            continue
        held[row, unit].refs = 0
        tiers[row].used += unit_blocks
        _attach(tiers, held, row, unit)
        if gone < 0:
            return
        unit = gone


@njit_inner
def _level_of(tech: Tech, record: Any, replica: int, unit: int) -> int:
    for level in range(record.tiers):
        if tech.tier_units[tech.tier_rows[replica, level], unit].refs >= 0:
            return level
    return -1


@njit_inner
def load_from_below(
    state: State, tech: Tech, cfg: Any, replica: int, request: int, start: int, hits: int, most: int, now: float
) -> tuple[int, float]:
    """``(units to load, when they are there)`` of a prompt that has ``hits`` of at most ``most`` units on the device.

    They are loaded when that is predicted to be over before computing them would be; else 0.
    """
    apart()
    record = tech.records[state.replicas[replica].pool]
    found = 0
    while hits + found < most:
        unit = wide(state.prefix_units[start + hits + found])
        if state.units[replica, unit].refs >= 0 or _level_of(tech, record, replica, unit) < 0:
            break
        found += 1
    if found == 0:
        return 0, now
    ready = _when(state, tech, cfg, replica, start + hits, found, now)
    new = float(found * cfg.unit_tokens)
    pairs = new * (hits * cfg.unit_tokens + 0.5 * new)
    computed = step_cost(state.data, state.layout[state.replicas[replica].pool], new, 1.0, 0.0, 0.0, 1.0, new, pairs)[0]
    load = int(ready - now < computed)
    if tech.has_rule[TIER_RULE]:
        load = tech.rules.tier(view_of(state, tech), request, replica, int(new), ready - now, computed)
    if load == 0:
        return 0, now
    return found, ready


@njit_inner
def _when(state: State, tech: Tech, cfg: Any, replica: int, first: int, count: int, now: float) -> float:
    """When so many units of the levels below are on the device, every link serving one request after another."""
    record = tech.records[state.replicas[replica].pool]
    ready = now
    for level in range(record.tiers):
        own = 0
        for n in range(count):
            if _level_of(tech, record, replica, state.prefix_units[first + n]) == level:
                own += 1
        if own > 0:
            tier = tech.tiers[tech.tier_rows[replica, level]]
            ready = max(ready, max(now, tier.link_free) + tier.latency_s + own * cfg.unit_blocks * tier.block_s)
    return float(ready)


@njit_inner
def begin_load(state: State, tech: Tech, cfg: Any, replica: int, first: int, count: int, now: float) -> None:
    """Take the links for a load and make its units the newest of their levels."""
    apart()
    tiers, held = tech.tiers, tech.tier_units
    record = tech.records[state.replicas[replica].pool]
    for level in range(record.tiers):
        row = tech.tier_rows[replica, level]
        own = 0
        for n in range(count):
            unit = wide(state.prefix_units[first + n])
            if _level_of(tech, record, replica, unit) == level:
                own += 1
                _detach(tiers, held, row, unit)
                _attach(tiers, held, row, unit)
        if own > 0:
            tier = tiers[row]
            tier.link_free = max(now, tier.link_free) + tier.latency_s + own * cfg.unit_blocks * tier.block_s


@njit_inner
def swap_out(
    state: State, tech: Tech, cfg: Any, replica: int, request: int, tokens: int, blocks: int, now: float
) -> bool:
    """A request is preempted: its cache goes to the first level when there is room and loading it back is faster.

    Where steps wait for the copies it goes wherever there is room.
    """
    apart()
    tier = tech.tiers[tech.tier_rows[replica, 0]]
    waits = tech.records[state.replicas[replica].pool].swap_waits
    load_s = max(0.0, tier.link_free - now) + tier.latency_s + blocks * tier.block_s
    new = float(tokens)
    layout = state.layout[state.replicas[replica].pool]
    computed = step_cost(state.data, layout, new, 1.0, 0.0, 0.0, 1.0, new, 0.5 * new * new)[0]
    if tokens < 1 or (load_s >= computed and not waits):
        return False
    if _make_room(tech, tech.tier_rows[replica, 0], blocks, max(1, cfg.unit_blocks)) == -2:
        return False
    tier.used += blocks
    tech.swapped[request] = tokens
    if waits:
        state.replicas[replica].stall_s += tier.latency_s + blocks * tier.block_s
    return True


@njit_inner
def swap_in(state: State, tech: Tech, replica: int, request: int, blocks: int, now: float) -> float:
    """A request whose cache was moved is admitted again; when its cache is on the device."""
    tier = tech.tiers[tech.tier_rows[replica, 0]]
    seconds = tier.latency_s + blocks * tier.block_s
    tier.used -= blocks
    tech.swapped[request] = 0
    if tech.records[state.replicas[replica].pool].swap_waits:
        state.replicas[replica].stall_s += seconds
        return now
    tier.link_free = max(now, tier.link_free) + seconds
    return float(tier.link_free)
