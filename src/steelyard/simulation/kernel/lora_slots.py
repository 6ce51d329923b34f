"""Adapters in the memory of a replica, compiled: the one unused longest makes room, loads follow each other."""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import njit_inner
from steelyard.simulation.kernel.state import Tech

__all__ = ["adapter_of", "count_adapter", "find_lora_slot", "leave_lora_slot", "take_lora_slot"]


@njit_inner
def adapter_of(tech: Tech, i: int) -> int:
    """The adapter of a request, -1 none."""
    return int(tech.adapter_of[i]) if tech.adapter_of.shape[0] > 1 or i == 0 else -1


@njit_inner
def find_lora_slot(tech: Tech, record: Any, replica: int, adapter: int) -> int:
    """Where an adapter is or could be loaded to, -1 when every place is in use."""
    slot = tech.slot_of[replica, adapter]
    if slot >= 0:
        return int(slot)
    best = -1
    for k in range(record.max_loras):
        place = tech.lora_slots[replica, k]
        if place.users > 0:
            continue
        if place.adapter < 0:
            return k
        if best < 0 or place.used_at < tech.lora_slots[replica, best].used_at:
            best = k
    return best


@njit_inner
def take_lora_slot(tech: Tech, record: Any, replica: int, adapter: int, slot: int, now: float) -> float:
    """A request runs with an adapter; when the adapter is there."""
    place = tech.lora_slots[replica, slot]
    if place.adapter != adapter:
        if place.adapter >= 0:
            tech.slot_of[replica, place.adapter] = -1
        place.adapter = adapter
        tech.slot_of[replica, adapter] = slot
        place.users = 0
        place.stamp = -1
        place.ready_at = max(now, tech.lora_link_free[replica]) + record.lora_load_s
        tech.lora_link_free[replica] = place.ready_at
    place.users += 1
    return float(place.ready_at)


@njit_inner
def leave_lora_slot(tech: Tech, replica: int, adapter: int, now: float) -> None:
    """A request that ran with an adapter ends or is preempted."""
    place = tech.lora_slots[replica, tech.slot_of[replica, adapter]]
    place.users -= 1
    place.used_at = now


@njit_inner
def count_adapter(tech: Tech, replica: int, adapter: int, stamp: int) -> int:
    """1 when a step meets this adapter for the first time."""
    place = tech.lora_slots[replica, tech.slot_of[replica, adapter]]
    if place.stamp == stamp:
        return 0
    place.stamp = stamp
    return 1
