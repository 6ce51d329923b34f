"""Which replica does what, compiled: routing to the stages of a deployment and handing over between them.

``f``: the fleet, see :class:`steelyard.simulation.kernel.state.Fleet`.
"""

from __future__ import annotations

from typing import Any

from steelyard.simulation.kernel.jit import njit_inner
from steelyard.simulation.kernel.queue import push
from steelyard.simulation.kernel.schedule import cached_units, enqueue, release
from steelyard.simulation.kernel.state import ANSWER, ENCODED, ENCODER, HERE, SEQ, STRANDED, TURN

__all__ = ["arrived_cache", "encode", "hand_over", "send"]

ROUND_ROBIN, GIVEN, LEAST, LONGEST_PREFIX = range(4)


@njit_inner
def route(f: Any, i: int, stage: int) -> int:
    """The replica for a request, -1 when none that could hold it is up."""
    run, p, q, numbers = f.run, f.p, f.q, f.numbers
    ways = f.ways[stage]
    head, count, router = 0, run[0].entries, run[0].router
    tokens = q[i].isl + q[i].osl
    assigned = False
    if stage == ANSWER:
        count, router = run[0].answers, LEAST
    elif i < f.extra.shape[0] and f.extra[i, 4] >= 0:  # the replicas of its own pool only
        assigned = True
        while head < count and p[ways[head]].pool != int(f.extra[i, 4]):
            head += 1
        count = min(count - head, f.setups[int(f.extra[i, 4])].replicas)
    if count == 0:
        return -1
    if count == 1:
        r = ways[head]
        return int(r) if p[r].up and p[r].longest >= tokens else -1
    if router <= GIVEN:
        begin = int(f.extra[i, 2]) if router == GIVEN else p[ways[head]].turn if assigned else numbers[TURN]
        for k in range(count):
            r = ways[head + (begin + k) % count]
            if p[r].up and p[r].longest >= tokens:
                if router == ROUND_ROBIN and assigned:
                    p[ways[head]].turn = begin + k + 1
                elif router == ROUND_ROBIN:
                    numbers[TURN] = begin + k + 1
                return int(r)
        return -1
    best, most = -1, 0  # prefix units it could reuse; none counts for the least-loaded router
    for k in range(count):
        r = ways[head + k]
        if not p[r].up or p[r].longest < tokens:
            continue
        hits = 0
        x = f.setups[p[r].pool]
        if router == LONGEST_PREFIX and x.unit_tokens > 0:
            hits = cached_units(f, x, i, q[i].isl, r)[0]
        lighter = best >= 0 and (p[r].load + 1) * p[best].weight < (p[best].load + 1) * p[r].weight
        if best < 0 or hits > most or (hits == most and lighter):
            best, most = r, hits
    return int(best)


@njit_inner
def send(f: Any, i: int, stage: int, now: float) -> None:
    """Queue a request at a replica of a stage; while none can take it, it waits for one."""
    f.q[i].seq = f.numbers[SEQ]
    f.numbers[SEQ] += 1
    r = route(f, i, stage)
    if r < 0:
        f.q[i].key = now
        f.numbers[STRANDED + stage] = push(f.q, f.numbers[STRANDED + stage], i)
        return
    f.p[r].load += 1
    enqueue(f, i, r, now)
    if stage == ANSWER:
        f.q[i].answered_by = r


@njit_inner
def hand_over(f: Any, lane: int, r: int, j: int, now: float) -> None:
    """A prompt is done in a replica for prompts: its cache stays there until a replica for answers has it."""
    slot = f.s[lane, j]
    i = slot.request
    f.q[i].remaining = slot.left
    f.q[i].last_at = now
    f.q[i].origin = r
    f.q[i].kept = slot.blocks
    f.p[r].load -= 1
    send(f, i, ANSWER, now)


@njit_inner
def arrived_cache(f: Any, i: int, lane: int, now: float) -> None:
    """The cache of a request has come to a worker: the sender forgets it."""
    s, w, q = f.s, f.w, f.q
    for k in range(w[lane].count + w[lane].coming):
        if s[lane, k].request == i and s[lane, k].ready_at == now and q[i].origin >= 0:
            sender = q[i].origin
            f.p[sender].sending -= 1
            release(f, f.setups[f.p[sender].pool], sender, i, q[i].kept)
            q[i].origin = HERE
            q[i].kept = 0
            return


@njit_inner
def encode(f: Any, i: int, seconds: float, now: float) -> float:
    """Give a request to the encoder that is free first; when its encoding is done."""
    ways, p = f.ways[ENCODER], f.p
    e = ways[0]
    for k in range(1, f.run[0].encoders):
        if p[ways[k]].stage_free < p[e].stage_free:
            e = ways[k]
    done = max(now, p[e].stage_free) + seconds
    p[e].stage_free = done
    k = p[e].pool
    f.total[k, 0] += 1
    f.total[k, 7] += seconds
    f.q[i].origin = ENCODED
    return float(done)
