"""Running requests that move to another replica of their pool, compiled (Llumnix, arXiv:2406.03243).

The freeness of a replica is the number of steps until its running requests have used its free blocks, those its queue
asks for taken off. Where the least free replica will soon have none and the freest has room, a request moves: its cache
is copied while it goes on, and it stops only for what the copy has not seen yet. A request that would be preempted
for lack of blocks moves at once instead, where another replica has room; who needed its blocks waits for them.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.queue import blocks_of, take_blocks
from steelyard.simulation.kernel.state import State, Tech
from steelyard.simulation.kernel.transfer import drop_slot, start_transfer

__all__ = ["BALANCE_S", "balance", "leave", "move_instead"]

#: A replica with blocks for fewer steps lets a request go, to one with room for so many times more steps.
FEW_STEPS, MUCH_FREER = 64.0, 4.0
#: Time between two looks at the freeness of a pool's replicas (a guess).
BALANCE_S = 0.5


@njit_inner
def freeness(state: State, tech: Tech, cfg: Any, replica: int) -> float:
    """Steps until the running requests have used what is free, below 0 when the queue asks for more than that."""
    replicas, workers = state.replicas, state.workers
    running = 0
    for worker in range(replicas[replica].first, replicas[replica].first + cfg.stages):
        running += workers[worker].count + workers[worker].loading
    free = replicas[replica].free + replicas[replica].evictable * cfg.unit_blocks
    if replicas[replica].waiting >= 0:
        head = state.requests[replicas[replica].waiting]
        free -= replicas[replica].queued * blocks_of(cfg, head.isl + head.osl - head.remaining)
    return float(free * cfg.block / max(running, 1))


@njit_inner
def has_room(state: State, tech: Tech, cfg: Any, replica: int, tokens: int) -> int:
    """A worker of a replica that can take a request of so many tokens and a step more, -1 none."""
    apart()
    replicas, workers = state.replicas, state.workers
    if not replicas[replica].up or replicas[replica].waiting >= 0 or tech.records[replicas[replica].pool].max_loras > 0:
        return -1
    if (
        replicas[replica].free + replicas[replica].evictable * cfg.unit_blocks
        < blocks_of(cfg, tokens + cfg.block) + cfg.watermark
    ):
        return -1
    best = replicas[replica].first
    for worker in range(replicas[replica].first, replicas[replica].first + cfg.stages):
        if workers[worker].count + workers[worker].loading < workers[best].count + workers[best].loading:
            best = worker
    if workers[best].count + workers[best].loading >= max(1, cfg.max_seqs // cfg.stages):
        return -1
    return int(best)


@njit_inner
def freest(state: State, tech: Tech, cfg: Any, replica: int) -> int:
    """The other replica of the pool with the most room, -1 when there is none."""
    apart()
    replicas = state.replicas
    best, most = -1, 0.0
    for k in range(replicas.shape[0]):
        if k != replica and replicas[k].pool == replicas[replica].pool and replicas[k].up:
            free = freeness(state, tech, cfg, k)
            if free > most:
                best, most = k, free
    return int(best)


@njit_inner
def move(
    state: State, tech: Tech, cfg: Any, worker: int, replica: int, j: int, to: int, now: float, copied: int
) -> bool:
    """Take a decoding request to another worker; ``copied`` tokens of its cache are there already."""
    apart()
    requests, slots, workers, replicas = state.requests, state.slots, state.workers, state.replicas
    i = wide(slots[worker, j].request)
    known, left, token_at = slots[worker, j].computed, slots[worker, j].left, slots[worker, j].token_at
    k = workers[to].replica
    if not take_blocks(state, tech, cfg, k, blocks_of(cfg, known)):
        return False
    requests[i].remaining = left
    requests[i].last_at = token_at
    requests[i].origin = replica
    requests[i].kept = slots[worker, j].blocks
    requests[i].answered_by = k
    drop_slot(state, worker, j)
    replicas[replica].load -= 1
    replicas[k].load += 1
    at = workers[to].count + workers[to].loading
    workers[to].loading += 1
    slot = slots[to, at]
    slot.request = i
    slot.computed = known
    slot.target = known
    slot.left = left
    slot.blocks = blocks_of(cfg, known)
    slot.step_tokens = 0
    slot.token_at = token_at
    slot.ready_at = start_transfer(state, tech, cfg, i, k, to, known - copied, now)
    state.totals[replicas[replica].pool].migrations += 1
    if not workers[to].busy:
        workers[to].end = min(workers[to].end, slot.ready_at)
    return True


@njit_inner
def move_instead(state: State, tech: Tech, cfg: Any, worker: int, replica: int, j: int, now: float) -> bool:
    """Move a request that would be preempted, when it decodes and another replica has room for it."""
    apart()
    slot = state.slots[worker, j]
    if slot.computed < slot.target or slot.left == 0:
        return False
    k = freest(state, tech, cfg, replica)
    if k < 0:
        return False
    to = has_room(state, tech, cfg, k, slot.computed)
    return to >= 0 and move(state, tech, cfg, worker, replica, j, to, now, wide(0))


@njit_inner
def balance(state: State, tech: Tech, k: int, now: float) -> None:
    """Begin to copy the newest request of the least free replica of pool ``k`` to the freest, where that helps."""
    apart()
    replicas, workers, slots = state.replicas, state.workers, state.slots
    cfg = state.setups[k]
    worst, least = -1, math.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica].pool == k and replicas[replica].up and replicas[replica].leaving < 0:
            free = freeness(state, tech, cfg, replica)
            if free < least:
                worst, least = replica, free
    if worst < 0 or least >= FEW_STEPS:
        return
    best = freest(state, tech, cfg, worst)
    if best < 0 or freeness(state, tech, cfg, best) < MUCH_FREER * max(least, 1.0):
        return
    for worker in range(replicas[worst].first, replicas[worst].first + cfg.stages):
        for j in range(workers[worker].count - 1, -1, -1):
            slot = slots[worker, j]
            if workers[worker].count > 1 and slot.computed >= slot.target and slot.left > 1:
                if has_room(state, tech, cfg, best, slot.computed) < 0:
                    return
                wire = tech.wires[k, k]
                replicas[worst].leaving = slot.request
                replicas[worst].leave_to = best
                copy_s = wire.fixed_s + min(slot.computed, cfg.cap) * wire.token_s
                replicas[worst].link_free = max(now, replicas[worst].link_free) + copy_s
                replicas[worst].leave_at = replicas[worst].link_free
                replicas[worst].copied = slot.computed
                return


@njit_inner
def leave(state: State, tech: Tech, cfg: Any, worker: int, replica: int, now: float) -> None:
    """The copy of a request that leaves is done: it goes, unless it has ended or lost its place meanwhile."""
    apart()
    replicas = state.replicas
    i = replicas[replica].leaving
    for j in range(state.workers[worker].count):
        if state.slots[worker, j].request == i:
            slot = state.slots[worker, j]
            replicas[replica].leaving = -1
            if slot.computed >= slot.target and slot.left > 0 and slot.computed >= replicas[replica].copied:
                to = has_room(state, tech, cfg, replicas[replica].leave_to, slot.computed)
                if to >= 0:
                    move(state, tech, cfg, worker, replica, j, to, now, replicas[replica].copied)
            return
    for k in range(replicas[replica].first, replicas[replica].first + cfg.stages):  # it may run in another worker
        for j in range(state.workers[k].count):
            if state.slots[k, j].request == i:
                return
    replicas[replica].leaving = -1
