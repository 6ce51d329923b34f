"""Choosing the next step of an engine, compiled: who gets how many tokens, who is admitted, who gives way.

Arguments shared by all functions: ``f`` the fleet (see :class:`steelyard.serve.state.Fleet`), ``x`` the setup of the
replica's pool, ``lane`` a worker and ``r`` its replica, ``now`` the time.
"""

from __future__ import annotations

from typing import Any

from steelyard.serve.jit import njit, njit_inline
from steelyard.serve.queue import drop_unit, pop, push, share_unit, take_blocks
from steelyard.serve.state import PREFILL
from steelyard.serve.transfer import start_transfer, welcome

__all__ = ["cache_prompt", "cached_units", "choose_step", "enqueue", "release"]

STEP, PROMPT, WHOLE, ESTIMATE = 0, 1, 2, 3
LAST, WORST, SHORTEST_ANSWER = 0, 1, 2
#: SGLang: an answer is expected to need so many tokens at most (CLIP_MAX_NEW_TOKENS).
EXPECTED_MAX = 4096
#: SGLang: steps over which the new-token ratio falls to its floor, the floor's share, tokens of headroom on a retract.
RATIO_STEPS, RATIO_FLOOR, RETRACT_STEPS = 600.0, 0.14, 20


@njit
def blocks_of(x: Any, tokens: int) -> int:
    """Blocks of a request with so many cached tokens."""
    return int((min(tokens, x.cap) + x.block - 1) // x.block + x.fixed)


@njit
def enqueue(f: Any, i: int, r: int, now: float) -> None:
    """Put a request into a replica's waiting queue under its policy's key."""
    base = f.extra[i, 0] if f.extra.shape[0] > 1 else f.extra[0, 0]
    f.q[i].key = base + f.run[0].add_time * now
    requeue(f, i, r)


@njit
def requeue(f: Any, i: int, r: int) -> None:
    """Put a request into the queue under the key it has."""
    p = f.p
    p[r].waiting = push(f.q, p[r].waiting, i)
    p[r].queued += 1
    k = p[r].pool
    f.total[k, 13] = max(f.total[k, 13], p[r].queued)


@njit
def release(f: Any, x: Any, r: int, i: int, blocks: int) -> None:
    """Give back a request's blocks: private ones at once, shared prefix units when nobody holds them."""
    if x.unit_tokens > 0:
        held = f.q[i].held
        start = f.links[i, 0]
        for k in range(held - 1, -1, -1):
            drop_unit(f.p, f.u, r, f.units_of[start + k])
        f.q[i].held = 0
        blocks -= held * x.unit_blocks
    f.p[r].free += blocks


@njit
def cache_prompt(f: Any, x: Any, r: int, i: int) -> None:
    """A prompt is computed: its full units enter the cache, or the ones already there are shared."""
    q, u = f.q, f.u
    start = f.links[i, 0]
    full = min(f.links[i, 1], q[i].isl // x.unit_tokens)
    for k in range(q[i].held, full):
        unit = f.units_of[start + k]
        if u[r, unit].refs < 0:
            u[r, unit].refs = 1
        else:  # another request computed the same at the same time: keep one copy
            share_unit(f.p, u, r, unit)
            f.p[r].free += x.unit_blocks
        q[i].held = k + 1


@njit
def find_victim(f: Any, x: Any, lane: int) -> int:
    """The slot that gives way."""
    q, s, count = f.q, f.s, f.w[lane].count
    best = count - 1
    if x.victim == LAST:
        return int(best)
    for j in range(count - 1):
        i, b = s[lane, j].request, s[lane, best].request
        if x.victim == WORST:
            worse = q[i].key > q[b].key or (q[i].key == q[b].key and q[i].seq > q[b].seq)
        else:
            done_i, done_b = q[i].osl - s[lane, j].left, q[b].osl - s[lane, best].left
            worse = done_i < done_b or (done_i == done_b and q[i].isl > q[b].isl)
        if worse:
            best = j
    return int(best)


@njit
def preempt(f: Any, x: Any, lane: int, r: int, j: int, now: float) -> int:
    """Send a running request back to the queue; its cache is lost. Returns the tokens it had in this step."""
    q, s, w = f.q, f.s, f.w
    i = s[lane, j].request
    taken = s[lane, j].take
    q[i].remaining = s[lane, j].left
    q[i].last_at = s[lane, j].token_at
    q[i].preemptions += 1
    k = f.p[r].pool
    f.total[k, 1] += 1
    f.total[k, 4] += s[lane, j].computed
    release(f, x, r, i, s[lane, j].blocks)
    if x.victim == SHORTEST_ANSWER:
        used, whole = 0.0, 0.0
        for n in range(w[lane].count):
            osl = q[s[lane, n].request].osl
            used += osl - s[lane, n].left
            whole += osl
        f.p[r].ratio = min(1.0, (used + RETRACT_STEPS * w[lane].count) / max(whole, 1.0))
    drop_slot(s, w, lane, j)
    if x.to_back:
        enqueue(f, i, r, now)
    else:  # the key of its arrival brings it to its place
        requeue(f, i, r)
    return int(taken)


@njit
def drop_slot(s: Any, w: Any, lane: int, j: int) -> None:
    """Close the gap that a running request leaves."""
    for n in range(j, w[lane].count + w[lane].coming - 1):
        s[lane, n] = s[lane, n + 1]
    w[lane].count -= 1


@njit_inline
def work_on_running(
    f: Any, x: Any, lane: int, r: int, now: float, budget: int, prompts: bool, decodes: bool
) -> tuple[int, bool]:
    """Give running requests their tokens, in order; ``(budget left, whether someone was preempted)``."""
    s, w = f.s, f.w
    preempted = False
    block, cap, fixed = x.block, x.cap, x.fixed
    j = 0
    while j < w[lane].count and budget > 0:
        slot = s[lane, j]
        rest = slot.target - slot.computed
        if rest > 0:
            if not prompts:
                j += 1
                continue
            if x.threshold > 0:
                rest = min(rest, x.threshold)
            rest = min(rest, budget)
        else:
            if not decodes or slot.left == 0:
                j += 1
                continue
            rest = 1
        if min(slot.computed + rest, cap) > (slot.blocks - fixed) * block:
            need = blocks_of(x, slot.computed + rest) - slot.blocks
            gone = False
            while not take_blocks(f, x, r, need):
                v = find_victim(f, x, lane)
                budget += preempt(f, x, lane, r, v, now)
                preempted = True
                if v == j:
                    gone = True
                    break
                if v < j:
                    j -= 1
            if gone:  # the next one has taken its place
                continue
            s[lane, j].blocks += need
        s[lane, j].take = rest
        budget -= rest
        j += 1
    return budget, preempted


@njit
def cached_units(f: Any, x: Any, i: int, known: int, r: int) -> tuple[int, int]:
    """Leading units of a prompt that are cached, and how many of them nobody holds; its last token is computed."""
    u, units_of = f.u, f.units_of
    start = f.links[i, 0]
    most = min(f.links[i, 1], (known - 1) // x.unit_tokens)
    hits, idle = 0, 0
    while hits < most and u[r, units_of[start + hits]].refs >= 0:
        if u[r, units_of[start + hits]].refs == 0:
            idle += 1
        hits += 1
    return hits, idle


@njit
def seats(f: Any, x: Any, r: int) -> int:
    """Requests a lane may run: with pipeline stages the lanes' batches are kept even."""
    limit = x.max_seqs
    lanes = x.lanes
    if lanes > 1:
        running = 0
        for k in range(f.p[r].first, f.p[r].first + lanes):
            running += f.w[k].count + f.w[k].coming
        limit = max(1, min(limit // lanes, (running + f.p[r].queued + lanes - 1) // lanes))
    return int(limit)


@njit_inline
def admit(f: Any, x: Any, lane: int, r: int, now: float, budget: int) -> int:
    """Admit waiting requests in their order while budget, seats and blocks last; the budget left.

    A request whose cache is elsewhere takes its blocks and stands behind the running ones until the cache is here.
    """
    q, s, w, p = f.q, f.s, f.w, f.p
    if p[r].waiting < 0:
        return budget
    limit = seats(f, x, r)
    admission = x.admission
    expected = 0.0
    if admission == ESTIMATE:
        for j in range(w[lane].count + w[lane].coming):
            expected += min(s[lane, j].left, EXPECTED_MAX) * p[r].ratio
    while p[r].waiting >= 0 and budget > 0 and w[lane].count + w[lane].coming < limit:
        i = p[r].waiting
        elsewhere = q[i].origin >= 0
        remaining = q[i].remaining
        known = q[i].isl + q[i].osl - remaining - int(elsewhere)  # the newest token is not in the cache
        longest = q[i].isl + q[i].osl
        answer = remaining
        if x.role == PREFILL:
            longest, answer = known + 1, 1
        hits, idle_hits = 0, 0
        if x.unit_tokens > 0 and not elsewhere:
            hits, idle_hits = cached_units(f, x, i, known, r)
        cached = hits * x.unit_tokens
        shared = hits * x.unit_blocks
        rest = known - cached
        if elsewhere:
            cached, rest = known, 0
        else:
            if x.threshold > 0:
                rest = min(rest, x.threshold)
            if rest > budget:
                if x.chunked:
                    rest = budget
                elif budget < x.max_tokens:
                    break  # a whole prompt that does not fit waits; one longer than any step goes alone
        alone = w[lane].count + w[lane].coming == 0
        available = p[r].free + (p[r].evictable - idle_hits) * x.unit_blocks
        first = blocks_of(x, cached + rest) - shared
        wanted = first
        if admission == PROMPT:
            wanted = blocks_of(x, known) - shared
        elif admission == WHOLE:
            first = wanted = blocks_of(x, longest) - shared
        elif admission == ESTIMATE and not alone:
            need = known - hits * x.unit_tokens + min(answer, EXPECTED_MAX)
            if need >= available * x.block - expected:
                break
        if x.lanes > 1 and q[i].preemptions > 0:  # else lanes could take turns to evict each other for ever
            wanted = max(wanted, blocks_of(x, longest) - shared)
        if wanted + (0 if alone else x.watermark) > available:
            break
        p[r].waiting = pop(q, i)
        p[r].queued -= 1
        if hits > 0:
            for k in range(hits):
                share_unit(p, f.u, r, f.units_of[f.links[i, 0] + k])
        if x.unit_tokens > 0 and not elsewhere:
            q[i].held = hits
        take_blocks(f, x, r, first)
        if q[i].scheduled_at < 0:
            q[i].scheduled_at = now
            q[i].cached = cached
            q[i].replica = r
        at = w[lane].count
        if elsewhere:
            at += w[lane].coming
            w[lane].coming += 1
        else:
            f.total[p[r].pool, 5] += cached
            if w[lane].coming > 0:  # the first of those that are not ready makes room
                s[lane, at + w[lane].coming] = s[lane, at]
            w[lane].count += 1
        slot = s[lane, at]
        slot.request = i
        slot.computed = cached
        slot.target = known
        slot.left = remaining
        slot.blocks = first + shared
        slot.take = rest
        slot.token_at = q[i].last_at
        if elsewhere:
            slot.ready_at = start_transfer(f, x, i, r, lane, known, now)
        expected += rest + min(answer, EXPECTED_MAX)
        budget -= rest
    return budget


@njit_inline
def choose_step(f: Any, x: Any, lane: int, r: int, now: float) -> bool:
    """Decide the tokens of every running request for the next step of a lane; False when there is nothing to do."""
    w = f.w
    if w[lane].coming > 0:
        welcome(f.s, w, lane, now)
    budget = x.max_tokens
    if not x.mixed and w[lane].count == 0:
        w[lane].forming = 1
    left, preempted = work_on_running(f, x, lane, r, now, budget, True, x.mixed == 1)
    if not preempted and (not x.static or w[lane].forming == 1):
        left = admit(f, x, lane, r, now, left)
    if left < budget or x.mixed:
        return bool(left < budget)
    w[lane].forming = 0
    budget = max(budget, x.max_seqs)
    left, preempted = work_on_running(f, x, lane, r, now, budget, False, True)
    if x.admission == ESTIMATE:
        start = min(0.7 * x.conservativeness, 1.0)
        f.p[r].ratio = max(f.p[r].ratio - start * (1 - RATIO_FLOOR) / RATIO_STEPS, start * RATIO_FLOOR)
    return bool(left < budget)
