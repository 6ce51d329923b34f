"""Waiting requests and the blocks of running ones, compiled: joining a queue, cached prefixes, giving blocks back.

Arguments that the functions of the kernel share: ``state``, the arrays
(:class:`~steelyard.simulation.kernel.state.State`); ``tech``, None in a plain simulation, else
:class:`~steelyard.simulation.kernel.state.Tech` (what stands under ``if tech is not None`` is no part of the lean
kernel); ``cfg``, the setup of a replica's pool; ``worker``, ``replica`` and ``request``, their numbers; ``now``, the
time in s.
"""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.lora_slots import adapter_of, leave_lora_slot
from steelyard.simulation.kernel.queue import drop_unit, push, share_unit
from steelyard.simulation.kernel.rule_calls import view_of
from steelyard.simulation.kernel.rules import KEY_RULE
from steelyard.simulation.kernel.state import State

__all__ = ["cache_prompt", "cached_units", "enqueue", "release", "requeue"]


@njit_inner
def enqueue(state: State, tech: Any, request: int, replica: int, now: float) -> None:
    """Put a request into a replica's waiting queue under its policy's key."""
    if tech is not None:
        apart()
    base = state.inputs[request if state.inputs.shape[0] > 1 else 0].base_key
    state.requests[request].key = base + state.run.add_time * now
    requeue(state, tech, request, replica, now)


@njit_inner
def requeue(state: State, tech: Any, request: int, replica: int, now: float) -> None:
    """Put a request into the queue under the key it has, or the one a rule gives it."""
    if tech is not None:
        apart()
    if tech is not None and tech.has_rule[KEY_RULE]:
        state.requests[request].key = tech.rules.key(view_of(state, tech), request, replica, now)
    place = state.replicas[replica]
    place.waiting = push(state.requests, place.waiting, request)
    place.queued += 1
    total = state.totals[place.pool]
    total.waiting_max = max(total.waiting_max, place.queued)


@njit_inner
def release(state: State, tech: Any, cfg: Any, replica: int, request: int, blocks: int) -> None:
    """Give back a request's blocks: private ones at once, shared prefix units when nobody holds them."""
    if tech is not None:
        apart()
    if tech is not None:
        k = state.replicas[replica].pool
        if tech.records[k].max_loras > 0 and adapter_of(tech, request) >= 0:
            leave_lora_slot(tech, replica, adapter_of(tech, request), state.totals[k].iterations)
    if cfg.unit_tokens > 0:
        held = state.requests[request].held
        start = state.inputs[request].unit_start
        for k in range(held - 1, -1, -1):
            drop_unit(state.replicas, state.units, replica, wide(state.prefix_units[start + k]))
        state.requests[request].held = 0
        blocks -= held * cfg.unit_blocks
    state.replicas[replica].free += blocks


@njit_inner
def cache_prompt(state: State, cfg: Any, replica: int, request: int) -> None:
    """A prompt is computed: its full units enter the cache, or the ones already there are shared."""
    requests, units = state.requests, state.units
    start = state.inputs[request].unit_start
    full = min(state.inputs[request].unit_count, requests[request].isl // cfg.unit_tokens)
    for k in range(requests[request].held, full):
        unit = wide(state.prefix_units[start + k])
        if units[replica, unit].refs < 0:
            units[replica, unit].refs = 1
        else:  # another request computed the same at the same time: keep one copy
            share_unit(state.replicas, units, replica, unit)
            state.replicas[replica].free += cfg.unit_blocks
        requests[request].held = k + 1


@njit_inner
def cached_units(state: State, cfg: Any, request: int, known: int, replica: int) -> tuple[int, int]:
    """Leading units of a prompt that are cached, and how many of them nobody holds; its last token is computed."""
    given = state.inputs[request]
    most = min(given.unit_count, (known - 1) // cfg.unit_tokens)
    hits, idle = 0, 0
    while hits < most:
        refs = state.units[replica, state.prefix_units[given.unit_start + hits]].refs
        if refs < 0:
            break
        if refs == 0:
            idle += 1
        hits += 1
    return hits, idle
