"""The event kernel: arrivals and ends of steps in order of (time, priority, sequence), compiled by numba.

At one time steps end first, then requests arrive, then idle engines begin a step. A step is chosen by
:func:`choose_step`, priced by the step table, and applied when it ends. Nothing here is random.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.serve.evaluate import step_cost
from steelyard.serve.jit import njit
from steelyard.serve.queue import drop_unit, pop, push, share_unit, take_blocks
from steelyard.serve.state import ITL_BINS, ITL_SHORTEST_S, ITL_STEP

__all__ = ["run_kernel"]

STEP, PROMPT, WHOLE, ESTIMATE = 0, 1, 2, 3
LAST, WORST, SHORTEST_ANSWER = 0, 1, 2
#: SGLang: an answer is expected to need so many tokens at most (CLIP_MAX_NEW_TOKENS).
EXPECTED_MAX = 4096
#: SGLang: steps over which the new-token ratio falls to its floor, the floor's share, tokens of headroom on a retract.
RATIO_STEPS, RATIO_FLOOR, RETRACT_STEPS = 600.0, 0.14, 20


@njit
def blocks_of(x: Any, tokens: int) -> int:
    """Blocks of a request with so many cached tokens."""
    return (min(tokens, x.cap) + x.block - 1) // x.block + x.fixed


@njit
def enqueue(x: Any, q: Any, p: Any, i: int, r: int, now: float, total: Any) -> None:
    """Put a request into a replica's waiting queue under its policy's key."""
    base = q.base[i] if q.base.shape[0] > 1 else q.base[0]
    q.key[i] = base + x.add_time * now
    p.waiting[r] = push(q, p.waiting[r], i)
    p.queued[r] += 1
    total[13] = max(total[13], p.queued[r])


@njit
def release(x: Any, q: Any, p: Any, r: int, i: int, blocks: int) -> None:
    """Give back a request's blocks: private ones at once, shared prefix units when nobody holds them."""
    if x.unit_tokens > 0:
        held = q.held[i]
        start = q.unit_offsets[i]
        for k in range(held - 1, -1, -1):
            drop_unit(p, r, q.units[start + k])
        q.held[i] = 0
        blocks -= held * x.unit_blocks
    p.free[r] += blocks


@njit
def cache_prompt(x: Any, q: Any, p: Any, r: int, i: int) -> None:
    """A prompt is computed: its full units enter the cache, or the ones already there are shared."""
    start = q.unit_offsets[i]
    full = min(q.unit_offsets[i + 1] - start, q.isl[i] // x.unit_tokens)
    for k in range(q.held[i], full):
        unit = q.units[start + k]
        if p.refs[r, unit] < 0:
            p.refs[r, unit] = 1
        else:  # another request computed the same at the same time: keep one copy
            share_unit(p, r, unit)
            p.free[r] += x.unit_blocks
        q.held[i] = k + 1


@njit
def remove(s: Any, lane: int, j: int) -> None:
    """Close the gap slot ``j`` leaves."""
    n = s.count[lane] - 1
    for k in range(j, n):
        move(s, lane, k + 1, k)
    s.count[lane] = n


@njit
def move(s: Any, lane: int, source: int, target: int) -> None:
    """Copy a slot."""
    s.request[lane, target] = s.request[lane, source]
    s.computed[lane, target] = s.computed[lane, source]
    s.target[lane, target] = s.target[lane, source]
    s.left[lane, target] = s.left[lane, source]
    s.blocks[lane, target] = s.blocks[lane, source]
    s.take[lane, target] = s.take[lane, source]
    s.token_at[lane, target] = s.token_at[lane, source]


@njit
def find_victim(x: Any, q: Any, s: Any, lane: int) -> int:
    """The slot that gives way."""
    n = s.count[lane]
    if x.victim == LAST:
        return n - 1
    best = n - 1
    for j in range(n - 1):
        i, b = s.request[lane, j], s.request[lane, best]
        if x.victim == WORST:
            worse = q.key[i] > q.key[b] or (q.key[i] == q.key[b] and q.seq[i] > q.seq[b])
        else:
            done_i, done_b = q.osl[i] - s.left[lane, j], q.osl[b] - s.left[lane, best]
            worse = done_i < done_b or (done_i == done_b and q.isl[i] > q.isl[b])
        if worse:
            best = j
    return best


@njit
def preempt(x: Any, q: Any, s: Any, p: Any, total: Any, lane: int, r: int, j: int, now: float) -> int:
    """Send a running request back to the queue; its cache is lost. Returns the tokens it had in this step."""
    i = s.request[lane, j]
    taken = s.take[lane, j]
    q.remaining[i] = s.left[lane, j]
    q.last_at[i] = s.token_at[lane, j]
    q.preemptions[i] += 1
    total[1] += 1
    total[4] += s.computed[lane, j]
    release(x, q, p, r, i, s.blocks[lane, j])
    if x.victim == SHORTEST_ANSWER:
        used, whole = 0.0, 0.0
        for k in range(s.count[lane]):
            osl = q.osl[s.request[lane, k]]
            used += osl - s.left[lane, k]
            whole += osl
        p.ratio[r] = min(1.0, (used + RETRACT_STEPS * s.count[lane]) / max(whole, 1.0))
    remove(s, lane, j)
    if x.to_back:
        enqueue(x, q, p, i, r, now, total)
    else:  # the key of its arrival brings it to its place
        p.waiting[r] = push(q, p.waiting[r], i)
        p.queued[r] += 1
        total[13] = max(total[13], p.queued[r])
    return taken


@njit
def work_on_running(
    x: Any, q: Any, s: Any, p: Any, total: Any, lane: int, r: int, now: float, budget: int, prompts: bool, decodes: bool
) -> tuple[int, bool]:
    """Give running requests their tokens, in order; ``(budget left, whether someone was preempted)``."""
    preempted = False
    j = 0
    while j < s.count[lane] and budget > 0:
        rest = s.target[lane, j] - s.computed[lane, j]
        if rest > 0:
            if not prompts:
                j += 1
                continue
            if x.threshold > 0:
                rest = min(rest, x.threshold)
            if rest > budget:
                rest = budget
        else:
            if not decodes or s.left[lane, j] == 0:
                j += 1
                continue
            rest = 1
        need = blocks_of(x, s.computed[lane, j] + rest) - s.blocks[lane, j]
        if need > 0:
            gone = False
            while not take_blocks(x, p, total, r, need):
                v = find_victim(x, q, s, lane)
                budget += preempt(x, q, s, p, total, lane, r, v, now)
                preempted = True
                if v == j:
                    gone = True
                    break
                if v < j:
                    j -= 1
            if gone:
                if x.victim == SHORTEST_ANSWER:
                    continue
                break
            s.blocks[lane, j] += need
        s.take[lane, j] = rest
        budget -= rest
        j += 1
    return budget, preempted


@njit
def expected_tokens(x: Any, q: Any, s: Any, p: Any, lane: int, r: int) -> float:
    """SGLang: tokens the running answers are expected to need still."""
    expected = 0.0
    for j in range(s.count[lane]):
        expected += min(s.left[lane, j], EXPECTED_MAX) * p.ratio[r]
    return expected


@njit
def admit(
    x: Any, q: Any, s: Any, p: Any, total: Any, lane: int, r: int, now: float, budget: int
) -> int:
    """Admit waiting requests in their order while budget, seats and blocks last; the budget left."""
    if p.waiting[r] < 0:
        return budget
    limit = x.max_seqs
    if x.lanes > 1:  # the stages' batches are kept even
        running = 0
        for k in range(x.lanes):
            running += s.count[r * x.lanes + k]
        limit = min(limit // x.lanes, (running + p.queued[r] + x.lanes - 1) // x.lanes)
        limit = max(limit, 1)
    expected = expected_tokens(x, q, s, p, lane, r) if x.admission == ESTIMATE else 0.0
    whole_budget = x.max_tokens
    while p.waiting[r] >= 0 and budget > 0 and s.count[lane] < limit:
        i = p.waiting[r]
        known = q.isl[i] + q.osl[i] - q.remaining[i]
        hits, idle_hits = 0, 0
        if x.unit_tokens > 0:
            start = q.unit_offsets[i]
            most = min(q.unit_offsets[i + 1] - start, (known - 1) // x.unit_tokens)
            while hits < most and p.refs[r, q.units[start + hits]] >= 0:
                if p.refs[r, q.units[start + hits]] == 0:
                    idle_hits += 1
                hits += 1
        cached = hits * x.unit_tokens
        rest = known - cached
        if x.threshold > 0:
            rest = min(rest, x.threshold)
        if rest > budget:
            if x.chunked:
                rest = budget
            elif budget < whole_budget:
                break  # a whole prompt that does not fit waits; one longer than any step goes alone
        alone = s.count[lane] == 0
        available = p.free[r] + (p.evictable[r] - idle_hits) * x.unit_blocks
        now_blocks = blocks_of(x, cached + rest) - hits * x.unit_blocks
        wanted = now_blocks
        if x.admission == PROMPT:
            wanted = blocks_of(x, known) - hits * x.unit_blocks
        elif x.admission == WHOLE:
            wanted = blocks_of(x, q.isl[i] + q.osl[i]) - hits * x.unit_blocks
            now_blocks = wanted
        elif x.admission == ESTIMATE and not alone:
            need = known - cached + min(q.remaining[i], EXPECTED_MAX)
            if need >= available * x.block - expected:
                break
        if wanted + (0 if alone else x.watermark) > available:
            break
        p.waiting[r] = pop(q, p.waiting[r])
        p.queued[r] -= 1
        for k in range(hits):
            share_unit(p, r, q.units[q.unit_offsets[i] + k])
        if x.unit_tokens > 0:
            q.held[i] = hits
        take_blocks(x, p, total, r, now_blocks)
        total[5] += cached
        if q.scheduled_at[i] < 0:
            q.scheduled_at[i] = now
            q.cached[i] = cached
            q.replica[i] = r
        j = s.count[lane]
        s.request[lane, j] = i
        s.computed[lane, j] = cached
        s.target[lane, j] = known
        s.left[lane, j] = q.remaining[i]
        s.blocks[lane, j] = now_blocks + hits * x.unit_blocks
        s.take[lane, j] = rest
        s.token_at[lane, j] = q.last_at[i]
        s.count[lane] = j + 1
        expected += rest + min(q.remaining[i], EXPECTED_MAX)
        budget -= rest
    return budget


@njit
def choose_step(x: Any, q: Any, s: Any, p: Any, total: Any, lane: int, r: int, now: float) -> bool:
    """Decide the tokens of every running request for the next step of a lane; False when there is nothing to do."""
    budget = x.max_tokens
    for j in range(s.count[lane]):
        s.take[lane, j] = 0
    if x.mixed:
        budget, preempted = work_on_running(x, q, s, p, total, lane, r, now, budget, True, True)
        if not preempted:
            budget = admit(x, q, s, p, total, lane, r, now, budget)
        return s.count[lane] > 0 and budget < x.max_tokens
    if s.count[lane] == 0:
        s.forming[lane] = 1
    budget, preempted = work_on_running(x, q, s, p, total, lane, r, now, budget, True, False)
    if not preempted and (not x.static or s.forming[lane]):
        budget = admit(x, q, s, p, total, lane, r, now, budget)
    if budget < x.max_tokens:
        return True
    s.forming[lane] = 0
    budget, preempted = work_on_running(x, q, s, p, total, lane, r, now, max(x.max_tokens, x.max_seqs), False, True)
    if x.admission == ESTIMATE:
        start = min(0.7 * x.conservativeness, 1.0)
        p.ratio[r] = max(p.ratio[r] - start * (1 - RATIO_FLOOR) / RATIO_STEPS, start * RATIO_FLOOR)
    return s.count[lane] > 0 and budget < max(x.max_tokens, x.max_seqs)


@njit
def begin_step(x: Any, t: Any, q: Any, s: Any, p: Any, log: Any, total: Any, lane: int, r: int, now: float) -> None:
    """Price the chosen step and set its end."""
    decodes, context, chunks, new, pairs = 0, 0, 0, 0, 0.0
    for j in range(s.count[lane]):
        take = s.take[lane, j]
        done = s.computed[lane, j]
        if done < s.target[lane, j]:
            if take > 0:
                chunks += 1
                new += take
                pairs += take * (done + 0.5 * take)
        elif take > 0 or x.static:  # a static batch computes its finished rows too
            decodes += 1
            context += done + 1
    if chunks > 0 and not x.mixed:
        decodes, context = 0, 0
    duration, energy = step_cost(t, new + decodes, chunks + decodes, decodes, context, chunks, new, pairs)
    begin = max(now, p.stage_free[r])
    end = begin + duration
    if x.lanes > 1:
        p.stage_free[r] = begin + duration / x.lanes
        end = max(end, p.stage_out[r] + duration / x.lanes)
        p.stage_out[r] = end
    s.end[lane] = end
    used = x.blocks - p.free[r] - p.evictable[r] * x.unit_blocks
    total[0] += 1
    total[2] += new
    total[3] += decodes
    total[7] += duration / x.lanes
    total[8] += energy
    total[9] += (chunks + decodes) * duration
    total[10] = max(total[10], chunks + decodes)
    total[11] += used * duration
    total[12] = max(total[12], used)
    total[18] += chunks > 0
    if x.sharp:
        write_log(s, p, log, lane, r, begin, duration, new, decodes, chunks + decodes, used)


@njit
def write_log(
    s: Any, p: Any, log: Any, lane: int, r: int, begin: float, duration: float, new: int, decodes: int, batch: int,
    used: int,
) -> None:  # fmt: skip
    """Keep the step; a full log drops every second entry and keeps half as many from then on."""
    seen = log.meta[2]
    log.meta[2] = seen + 1
    if seen % log.meta[1] != 0:
        return
    k = log.meta[0]
    if k == log.start.shape[0]:
        half = k // 2
        for m in range(half):
            log.start[m] = log.start[2 * m]
            log.duration[m] = log.duration[2 * m]
            log.replica[m] = log.replica[2 * m]
            log.batch[m] = log.batch[2 * m]
            log.prefill[m] = log.prefill[2 * m]
            log.decode[m] = log.decode[2 * m]
            log.blocks[m] = log.blocks[2 * m]
            log.running[m] = log.running[2 * m]
            log.waiting[m] = log.waiting[2 * m]
        log.meta[0] = half
        log.meta[1] *= 2
        k = half
        if seen % log.meta[1] != 0:
            return
    log.start[k] = begin
    log.duration[k] = duration
    log.replica[k] = r
    log.batch[k] = batch
    log.prefill[k] = new
    log.decode[k] = decodes
    log.blocks[k] = used
    log.running[k] = s.count[lane]
    log.waiting[k] = p.queued[r]
    log.meta[0] = k + 1


@njit
def count_gap(itl: Any, gap: float, times: int) -> None:
    """Put a time between tokens into the histogram."""
    index = int(math.log(max(gap, ITL_SHORTEST_S) / ITL_SHORTEST_S) / ITL_STEP)
    itl[min(index, ITL_BINS - 1)] += times


@njit
def end_step(
    x: Any, q: Any, s: Any, p: Any, total: Any, itl: Any, lane: int, r: int, now: float, pending: int, numbers: Any
) -> int:
    """Apply the step that ends now: tokens come out, answers end, their successors are set to arrive."""
    previous = s.last_end[lane]
    same, kept, alive = 0, 0, 0
    for j in range(s.count[lane]):
        take = s.take[lane, j]
        i = s.request[lane, j]
        over = False
        if take > 0:
            prompt = s.computed[lane, j] < s.target[lane, j]
            s.computed[lane, j] += take
            if s.computed[lane, j] >= s.target[lane, j]:
                if prompt and x.unit_tokens > 0:
                    cache_prompt(x, q, p, r, i)
                s.left[lane, j] -= 1
                if q.first_at[i] < 0:
                    q.first_at[i] = now
                else:
                    gap = now - s.token_at[lane, j]
                    total[15] += gap
                    if s.token_at[lane, j] == previous:
                        same += 1
                    else:
                        count_gap(itl, gap, 1)
                s.token_at[lane, j] = now
                if s.left[lane, j] == 0:
                    over = True
                    q.remaining[i] = 0
                    q.last_at[i] = now
                    q.status[i] = 0
                    total[19] += 1
                    p.load[r] -= 1
                    numbers[2] -= 1
                    pending = successors(x, q, i, now, pending, numbers)
                    if not x.static:
                        release(x, q, p, r, i, s.blocks[lane, j])
        if s.left[lane, j] > 0:
            alive += 1
        if over and not x.static:
            continue
        if kept != j:
            move(s, lane, j, kept)
        kept += 1
    if same > 0:
        count_gap(itl, now - previous, same)
    if x.static and alive == 0:
        for j in range(kept):
            release(x, q, p, r, s.request[lane, j], s.blocks[lane, j])
        kept = 0
    s.count[lane] = kept
    s.last_end[lane] = now
    s.end[lane] = math.inf
    return pending


@njit
def successors(x: Any, q: Any, i: int, now: float, pending: int, numbers: Any) -> int:
    """Requests that were waiting for this one to complete (or be rejected); the heap of those to arrive."""
    if x.concurrency > 0:
        k = numbers[1]
        if k < q.isl.shape[0]:
            numbers[1] = k + 1
            pending = arrive_later(x, q, k, now, pending, numbers)
    elif q.waits.shape[0] > 1:
        for c in range(q.child_offsets[i], q.child_offsets[i + 1]):
            child = q.children[c]
            q.waits[child] -= 1
            if q.waits[child] == 0:
                pending = arrive_later(x, q, child, now, pending, numbers)
    return pending


@njit
def arrive_later(x: Any, q: Any, k: int, now: float, pending: int, numbers: Any) -> int:
    """Request ``k`` is sent after its delay, and not before its own time."""
    delay = q.delay_s[k] if q.delay_s.shape[0] > 1 else q.delay_s[0]
    q.arrived_at[k] = now + delay if x.concurrency > 0 else max(q.arrived_at[k], now + delay)
    q.key[k] = q.arrived_at[k] + x.request_s
    q.seq[k] = numbers[0]
    numbers[0] += 1
    return push(q, pending, k)


@njit
def arrive(x: Any, q: Any, p: Any, total: Any, i: int, now: float, pending: int, numbers: Any) -> int:
    """A request reaches the engines: routed and queued, or it was rejected at the door and its successors go on."""
    if q.status[i] == 1:
        return successors(x, q, i, now, pending, numbers)
    r = 0
    if x.replicas > 1:
        if x.router == 0:
            r = numbers[3] % x.replicas
            numbers[3] += 1
        elif x.router == 1:
            r = q.route[i]
        else:
            for k in range(1, x.replicas):
                if p.load[k] < p.load[r]:
                    r = k
    q.seq[i] = numbers[0]
    numbers[0] += 1
    numbers[2] += 1
    p.load[r] += 1
    enqueue(x, q, p, i, r, now, total)
    return pending


@njit
def run_kernel(x: Any, t: Any, q: Any, s: Any, p: Any, log: Any, itl: Any, total: Any, numbers: Any) -> None:
    """Play all events. ``numbers``: next sequence number, next request of a closed loop, requests in system, round."""
    lanes = x.replicas * x.lanes
    known = 0
    pending = -1
    now = -1.0
    while True:
        coming = math.inf
        if known < q.order.shape[0]:
            coming = q.arrived_at[q.order[known]] + x.request_s
        if pending >= 0 and q.key[pending] < coming:
            coming = q.key[pending]
        soonest = coming
        for lane in range(lanes):
            soonest = min(soonest, s.end[lane])
        if soonest == math.inf:
            break
        if now < 0:
            total[20] = soonest - x.request_s
        else:
            total[14] += numbers[2] * (soonest - now)
        now = soonest
        if now - total[20] > x.max_time_s:
            total[16] = 1
            break
        for lane in range(lanes):
            if s.end[lane] == now:
                pending = end_step(x, q, s, p, total, itl, lane, lane // x.lanes, now, pending, numbers)
        while True:
            at = math.inf
            if known < q.order.shape[0]:
                at = q.arrived_at[q.order[known]] + x.request_s
            if pending >= 0 and q.key[pending] < at:
                at = q.key[pending]
                if at > now:
                    break
                i = pending
                pending = pop(q, pending)
            else:
                if at > now:
                    break
                i = q.order[known]
                known += 1
            pending = arrive(x, q, p, total, i, now, pending, numbers)
        for lane in range(lanes):
            r = lane // x.lanes
            if (
                s.end[lane] == math.inf
                and (s.count[lane] > 0 or p.waiting[r] >= 0)
                and choose_step(x, q, s, p, total, lane, r, now)
            ):
                begin_step(x, t, q, s, p, log, total, lane, r, now)
        if total[0] > x.max_iterations:
            total[16] = 2
            break
    total[6] = max(0.0, now - total[20]) if now >= 0 else 0.0
