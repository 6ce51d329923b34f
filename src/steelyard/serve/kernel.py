"""The event kernel: arrivals and ends of steps in order of (time, priority, sequence), compiled by numba.

At one time steps end first, then requests arrive, then idle engines begin a step. A step is chosen by
:mod:`steelyard.serve.schedule`, priced by the step table, and applied when it ends. Nothing here is random. The names
of the arguments are those of :mod:`steelyard.serve.schedule`; ``numbers`` holds the next sequence number, the next
request of a closed loop, the requests in the system and the turn of the round-robin router.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.serve.evaluate import step_cost
from steelyard.serve.jit import njit
from steelyard.serve.queue import pop, push
from steelyard.serve.schedule import cache_prompt, cached_units, choose_step, enqueue, release
from steelyard.serve.state import ITL_BINS, ITL_SHORTEST_S, ITL_STEP

__all__ = ["run_kernel"]


@njit
def begin_step(
    x: Any, data: Any, layout: Any, s: Any, w: Any, p: Any, log: Any, meta: Any, total: Any, lane: int, r: int,
    now: float,
) -> None:  # fmt: skip
    """Price the chosen step and set its end."""
    decodes, chunks, new = 0, 0, 0
    context, pairs = 0.0, 0.0
    static = x[0].static
    for j in range(w[lane].count):
        slot = s[lane, j]
        take = slot.take
        if slot.computed < slot.target:
            if take > 0:
                chunks += 1
                new += take
                pairs += take * (slot.computed + 0.5 * take)
        elif take > 0 or static:  # a static batch computes its finished rows too
            decodes += 1
            context += slot.computed + 1
    if chunks > 0 and not x[0].mixed:
        decodes, context = 0, 0.0
    duration, energy = step_cost(
        data, layout, float(new + decodes), float(chunks + decodes), float(decodes), context, float(chunks), float(new),
        pairs,
    )  # fmt: skip
    begin = now
    end = begin + duration
    lanes = x[0].lanes
    if lanes > 1:
        begin = max(now, p[r].stage_free)
        p[r].stage_free = begin + duration / lanes
        end = max(begin + duration, p[r].stage_out + duration / lanes)
        p[r].stage_out = end
    w[lane].end = end
    used = x[0].blocks - p[r].free - p[r].evictable * x[0].unit_blocks
    total[0] += 1
    total[2] += new
    total[3] += decodes
    total[7] += duration / lanes
    total[8] += energy
    total[9] += (chunks + decodes) * duration
    total[10] = max(total[10], chunks + decodes)
    total[11] += used * duration
    total[12] = max(total[12], used)
    if chunks > 0:
        total[18] += 1
    if x[0].log:
        row = next_row(log, meta)
        if row >= 0:
            entry = log[row]
            entry.start = begin
            entry.duration = duration
            entry.replica = r
            entry.batch = chunks + decodes
            entry.prefill = new
            entry.decode = decodes
            entry.blocks = used
            entry.running = w[lane].count
            entry.waiting = p[r].queued


@njit
def next_row(log: Any, meta: Any) -> int:
    """Where to keep this step, -1: nowhere. A full log drops every second entry and keeps half as many from then on.

    ``meta``: entries, stride, steps seen.
    """
    seen = meta[2]
    meta[2] = seen + 1
    if seen % meta[1] != 0:
        return -1
    row = meta[0]
    if row == log.shape[0]:
        row = row // 2
        for k in range(row):
            log[k] = log[2 * k]
        meta[0] = row
        meta[1] *= 2
        if seen % meta[1] != 0:
            return -1
    meta[0] = row + 1
    return int(row)


@njit
def count_gap(itl: Any, gap: float, times: int) -> None:
    """Put a time between tokens into the histogram."""
    index = int(math.log(max(gap, ITL_SHORTEST_S) / ITL_SHORTEST_S) / ITL_STEP)
    itl[min(index, ITL_BINS - 1)] += times


@njit
def end_step(
    x: Any, q: Any, s: Any, w: Any, p: Any, u: Any, extra: Any, links: Any, units_of: Any, children: Any, total: Any,
    itl: Any, lane: int, r: int, now: float, pending: int, numbers: Any,
) -> int:  # fmt: skip
    """Apply the step that ends now: tokens come out, answers end, their successors are set to arrive."""
    previous = w[lane].last_end
    static = x[0].static
    same, kept, alive = 0, 0, 0
    gaps = 0.0
    for j in range(w[lane].count):
        slot = s[lane, j]
        take = slot.take
        slot.take = 0
        over = False
        if take > 0:
            prompt = slot.computed < slot.target
            slot.computed += take
            if slot.computed >= slot.target:
                i = slot.request
                if prompt and x[0].unit_tokens > 0:
                    cache_prompt(x, q, p, u, links, units_of, r, i)
                slot.left -= 1
                if prompt and q[i].first_at < 0:
                    q[i].first_at = now
                else:
                    gap = now - slot.token_at
                    gaps += gap
                    if slot.token_at == previous:
                        same += 1
                    else:
                        count_gap(itl, gap, 1)
                slot.token_at = now
                if slot.left == 0:
                    over = True
                    q[i].remaining = 0
                    q[i].last_at = now
                    q[i].status = 0
                    total[19] += 1
                    p[r].load -= 1
                    numbers[2] -= 1
                    pending = successors(x, q, extra, links, children, i, now, pending, numbers)
                    if not static:
                        release(x, q, p, u, links, units_of, r, i, slot.blocks)
        if slot.left > 0:
            alive += 1
        if over and not static:
            continue
        if kept != j:
            s[lane, kept] = s[lane, j]
        kept += 1
    if same > 0:
        count_gap(itl, now - previous, same)
    total[15] += gaps
    if static and alive == 0:
        for j in range(kept):
            release(x, q, p, u, links, units_of, r, s[lane, j].request, s[lane, j].blocks)
        kept = 0
    w[lane].count = kept
    w[lane].last_end = now
    w[lane].end = math.inf
    return pending


@njit
def successors(
    x: Any, q: Any, extra: Any, links: Any, children: Any, i: int, now: float, pending: int, numbers: Any
) -> int:
    """Requests that were waiting for this one to complete (or be rejected); the heap of those to arrive."""
    if x[0].concurrency > 0:
        k = numbers[1]
        if k < q.shape[0]:
            numbers[1] = k + 1
            pending = arrive_later(x, q, extra, k, now, pending, numbers)
    elif children.shape[0] > 0:
        for c in range(links[i, 2], links[i, 2] + links[i, 3]):
            child = children[c]
            links[child, 4] -= 1
            if links[child, 4] == 0:
                pending = arrive_later(x, q, extra, child, now, pending, numbers)
    return pending


@njit
def arrive_later(x: Any, q: Any, extra: Any, k: int, now: float, pending: int, numbers: Any) -> int:
    """Request ``k`` is sent after its delay, and not before its own time."""
    delay = extra[k, 1] if extra.shape[0] > 1 else extra[0, 1]
    q[k].arrived_at = now + delay if x[0].concurrency > 0 else max(q[k].arrived_at, now + delay)
    q[k].key = q[k].arrived_at + x[0].request_s
    q[k].seq = numbers[0]
    numbers[0] += 1
    return int(push(q, pending, k))


@njit
def arrive(
    x: Any, q: Any, p: Any, u: Any, extra: Any, links: Any, units_of: Any, children: Any, total: Any, i: int,
    now: float, pending: int, numbers: Any,
) -> int:  # fmt: skip
    """A request reaches the engines: routed and queued, or it was rejected at the door and its successors go on."""
    if q[i].status == 1:
        return int(successors(x, q, extra, links, children, i, now, pending, numbers))
    r = 0
    if x[0].replicas > 1:
        if x[0].router == 0:
            r = numbers[3] % x[0].replicas
            numbers[3] += 1
        elif x[0].router == 1:
            r = int(extra[i, 2])
        else:
            most = 0  # prefix units it could reuse; none counts for the least-loaded router
            for k in range(x[0].replicas):
                hits = 0
                if x[0].router == 3 and x[0].unit_tokens > 0:
                    hits = cached_units(x, u, links, units_of, i, q[i].isl, k)[0]
                if hits > most or (hits == most and p[k].load < p[r].load):
                    r = k
                    most = hits
    q[i].seq = numbers[0]
    numbers[0] += 1
    numbers[2] += 1
    p[r].load += 1
    enqueue(x, q, p, extra, total, i, r, now)
    return pending


@njit
def run_kernel(
    x: Any, data: Any, layout: Any, q: Any, order: Any, extra: Any, links: Any, units_of: Any, children: Any, s: Any,
    w: Any, p: Any, u: Any, log: Any, meta: Any, itl: Any, total: Any, numbers: Any,
) -> None:  # fmt: skip
    """Play all events. ``order``: requests whose arrival is known beforehand, by time."""
    workers = w.shape[0]
    lanes = x[0].lanes
    request_s = x[0].request_s
    known = 0
    pending = -1
    now = -1.0
    while True:
        coming = math.inf
        if known < order.shape[0]:
            coming = q[order[known]].arrived_at + request_s
        if pending >= 0:
            coming = min(coming, q[pending].key)
        soonest = coming
        for lane in range(workers):
            soonest = min(soonest, w[lane].end)
        if soonest == math.inf:
            break
        if now < 0:
            total[20] = soonest - request_s
        else:
            total[14] += numbers[2] * (soonest - now)
        now = soonest
        if now - total[20] > x[0].max_time_s:
            total[16] = 1
            break
        for lane in range(workers):
            if w[lane].end == now:
                pending = end_step(
                    x, q, s, w, p, u, extra, links, units_of, children, total, itl, lane, lane // lanes, now, pending,
                    numbers,
                )  # fmt: skip
        while True:
            at = math.inf
            if known < order.shape[0]:
                at = q[order[known]].arrived_at + request_s
            if pending >= 0 and q[pending].key < at:
                if q[pending].key > now:
                    break
                i = pending
                pending = pop(q, pending)
            else:
                if at > now:
                    break
                i = order[known]
                known += 1
            pending = arrive(x, q, p, u, extra, links, units_of, children, total, i, now, pending, numbers)
        for lane in range(workers):
            if w[lane].end == math.inf:
                r = lane // lanes
                if (w[lane].count > 0 or p[r].waiting >= 0) and choose_step(
                    x, q, s, w, p, u, extra, links, units_of, total, lane, r, now
                ):
                    begin_step(x, data, layout, s, w, p, log, meta, total, lane, r, now)
        if total[0] > x[0].max_iterations:
            total[16] = 2
            break
    total[6] = max(0.0, now - total[20]) if now >= 0 else 0.0
