"""Choosing the next step of an engine, compiled: who gets how many tokens, who is admitted, who gives way.

Arguments shared by all functions (see :mod:`steelyard.serve.state`): ``x`` setup, ``q`` requests, ``s`` slots, ``w``
workers, ``p`` replicas, ``u`` prefix units, ``links`` and ``units_of`` which units a prompt has, ``total`` counters.
"""

from __future__ import annotations

from typing import Any

from steelyard.serve.jit import njit
from steelyard.serve.queue import drop_unit, pop, push, share_unit, take_blocks

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
    return int((min(tokens, x[0].cap) + x[0].block - 1) // x[0].block + x[0].fixed)


@njit
def enqueue(x: Any, q: Any, p: Any, extra: Any, total: Any, i: int, r: int, now: float) -> None:
    """Put a request into a replica's waiting queue under its policy's key."""
    base = extra[i, 0] if extra.shape[0] > 1 else extra[0, 0]
    q[i].key = base + x[0].add_time * now
    requeue(q, p, total, i, r)


@njit
def requeue(q: Any, p: Any, total: Any, i: int, r: int) -> None:
    """Put a request into the queue under the key it has."""
    p[r].waiting = push(q, p[r].waiting, i)
    p[r].queued += 1
    total[13] = max(total[13], p[r].queued)


@njit
def release(x: Any, q: Any, p: Any, u: Any, links: Any, units_of: Any, r: int, i: int, blocks: int) -> None:
    """Give back a request's blocks: private ones at once, shared prefix units when nobody holds them."""
    if x[0].unit_tokens > 0:
        held = q[i].held
        start = links[i, 0]
        for k in range(held - 1, -1, -1):
            drop_unit(p, u, r, units_of[start + k])
        q[i].held = 0
        blocks -= held * x[0].unit_blocks
    p[r].free += blocks


@njit
def cache_prompt(x: Any, q: Any, p: Any, u: Any, links: Any, units_of: Any, r: int, i: int) -> None:
    """A prompt is computed: its full units enter the cache, or the ones already there are shared."""
    start = links[i, 0]
    full = min(links[i, 1], q[i].isl // x[0].unit_tokens)
    for k in range(q[i].held, full):
        unit = units_of[start + k]
        if u[r, unit].refs < 0:
            u[r, unit].refs = 1
        else:  # another request computed the same at the same time: keep one copy
            share_unit(p, u, r, unit)
            p[r].free += x[0].unit_blocks
        q[i].held = k + 1


@njit
def find_victim(x: Any, q: Any, s: Any, w: Any, lane: int) -> int:
    """The slot that gives way."""
    best = w[lane].count - 1
    if x[0].victim == LAST:
        return int(best)
    for j in range(w[lane].count - 1):
        i, b = s[lane, j].request, s[lane, best].request
        if x[0].victim == WORST:
            worse = q[i].key > q[b].key or (q[i].key == q[b].key and q[i].seq > q[b].seq)
        else:
            done_i, done_b = q[i].osl - s[lane, j].left, q[b].osl - s[lane, best].left
            worse = done_i < done_b or (done_i == done_b and q[i].isl > q[b].isl)
        if worse:
            best = j
    return int(best)


@njit
def preempt(
    x: Any, q: Any, s: Any, w: Any, p: Any, u: Any, extra: Any, links: Any, units_of: Any, total: Any, lane: int,
    r: int, j: int, now: float,
) -> int:  # fmt: skip
    """Send a running request back to the queue; its cache is lost. Returns the tokens it had in this step."""
    i = s[lane, j].request
    taken = s[lane, j].take
    q[i].remaining = s[lane, j].left
    q[i].last_at = s[lane, j].token_at
    q[i].preemptions += 1
    total[1] += 1
    total[4] += s[lane, j].computed
    release(x, q, p, u, links, units_of, r, i, s[lane, j].blocks)
    if x[0].victim == SHORTEST_ANSWER:
        used, whole = 0.0, 0.0
        for k in range(w[lane].count):
            osl = q[s[lane, k].request].osl
            used += osl - s[lane, k].left
            whole += osl
        p[r].ratio = min(1.0, (used + RETRACT_STEPS * w[lane].count) / max(whole, 1.0))
    for k in range(j, w[lane].count - 1):
        s[lane, k] = s[lane, k + 1]
    w[lane].count -= 1
    if x[0].to_back:
        enqueue(x, q, p, extra, total, i, r, now)
    else:  # the key of its arrival brings it to its place
        requeue(q, p, total, i, r)
    return int(taken)


@njit
def work_on_running(
    x: Any, q: Any, s: Any, w: Any, p: Any, u: Any, extra: Any, links: Any, units_of: Any, total: Any, lane: int,
    r: int, now: float, budget: int, prompts: bool, decodes: bool,
) -> tuple[int, bool]:  # fmt: skip
    """Give running requests their tokens, in order; ``(budget left, whether someone was preempted)``."""
    preempted = False
    block, cap, fixed = x[0].block, x[0].cap, x[0].fixed
    j = 0
    while j < w[lane].count and budget > 0:
        slot = s[lane, j]
        rest = slot.target - slot.computed
        if rest > 0:
            if not prompts:
                j += 1
                continue
            if x[0].threshold > 0:
                rest = min(rest, x[0].threshold)
            rest = min(rest, budget)
        else:
            if not decodes or slot.left == 0:
                j += 1
                continue
            rest = 1
        if min(slot.computed + rest, cap) > (slot.blocks - fixed) * block:
            need = blocks_of(x, slot.computed + rest) - slot.blocks
            gone = False
            while not take_blocks(x, p, u, total, r, need):
                v = find_victim(x, q, s, w, lane)
                budget += preempt(x, q, s, w, p, u, extra, links, units_of, total, lane, r, v, now)
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
def cached_units(x: Any, u: Any, links: Any, units_of: Any, i: int, known: int, r: int) -> tuple[int, int]:
    """Leading units of a prompt that are cached, and how many of them nobody holds; its last token is computed."""
    start = links[i, 0]
    most = min(links[i, 1], (known - 1) // x[0].unit_tokens)
    hits, idle = 0, 0
    while hits < most and u[r, units_of[start + hits]].refs >= 0:
        if u[r, units_of[start + hits]].refs == 0:
            idle += 1
        hits += 1
    return hits, idle


@njit
def seats(x: Any, w: Any, p: Any, r: int) -> int:
    """Requests a lane may run: with pipeline stages the lanes' batches are kept even."""
    limit = x[0].max_seqs
    lanes = x[0].lanes
    if lanes > 1:
        running = 0
        for k in range(lanes):
            running += w[r * lanes + k].count
        limit = max(1, min(limit // lanes, (running + p[r].queued + lanes - 1) // lanes))
    return int(limit)


@njit
def admit(
    x: Any, q: Any, s: Any, w: Any, p: Any, u: Any, links: Any, units_of: Any, total: Any, lane: int, r: int,
    now: float, budget: int,
) -> int:  # fmt: skip
    """Admit waiting requests in their order while budget, seats and blocks last; the budget left."""
    if p[r].waiting < 0:
        return budget
    limit = seats(x, w, p, r)
    admission = x[0].admission
    expected = 0.0
    if admission == ESTIMATE:
        for j in range(w[lane].count):
            expected += min(s[lane, j].left, EXPECTED_MAX) * p[r].ratio
    while p[r].waiting >= 0 and budget > 0 and w[lane].count < limit:
        i = p[r].waiting
        remaining = q[i].remaining
        known = q[i].isl + q[i].osl - remaining
        hits, idle_hits = 0, 0
        if x[0].unit_tokens > 0:
            hits, idle_hits = cached_units(x, u, links, units_of, i, known, r)
        cached = hits * x[0].unit_tokens
        shared = hits * x[0].unit_blocks
        rest = known - cached
        if x[0].threshold > 0:
            rest = min(rest, x[0].threshold)
        if rest > budget:
            if x[0].chunked:
                rest = budget
            elif budget < x[0].max_tokens:
                break  # a whole prompt that does not fit waits; one longer than any step goes alone
        alone = w[lane].count == 0
        available = p[r].free + (p[r].evictable - idle_hits) * x[0].unit_blocks
        first = blocks_of(x, cached + rest) - shared
        wanted = first
        if admission == PROMPT:
            wanted = blocks_of(x, known) - shared
        elif admission == WHOLE:
            first = wanted = blocks_of(x, q[i].isl + q[i].osl) - shared
        elif admission == ESTIMATE and not alone:
            need = known - cached + min(remaining, EXPECTED_MAX)
            if need >= available * x[0].block - expected:
                break
        if x[0].lanes > 1 and q[i].preemptions > 0:  # else lanes could take turns to evict each other for ever
            wanted = max(wanted, blocks_of(x, q[i].isl + q[i].osl) - shared)
        if wanted + (0 if alone else x[0].watermark) > available:
            break
        p[r].waiting = pop(q, i)
        p[r].queued -= 1
        if x[0].unit_tokens > 0:
            for k in range(hits):
                share_unit(p, u, r, units_of[links[i, 0] + k])
            q[i].held = hits
        take_blocks(x, p, u, total, r, first)
        total[5] += cached
        if q[i].scheduled_at < 0:
            q[i].scheduled_at = now
            q[i].cached = cached
            q[i].replica = r
        slot = s[lane, w[lane].count]
        slot.request = i
        slot.computed = cached
        slot.target = known
        slot.left = remaining
        slot.blocks = first + shared
        slot.take = rest
        slot.token_at = q[i].last_at
        w[lane].count += 1
        expected += rest + min(remaining, EXPECTED_MAX)
        budget -= rest
    return budget


@njit
def choose_step(
    x: Any, q: Any, s: Any, w: Any, p: Any, u: Any, extra: Any, links: Any, units_of: Any, total: Any, lane: int,
    r: int, now: float,
) -> bool:  # fmt: skip
    """Decide the tokens of every running request for the next step of a lane; False when there is nothing to do."""
    budget = x[0].max_tokens
    if not x[0].mixed and w[lane].count == 0:
        w[lane].forming = 1
    left, preempted = work_on_running(
        x, q, s, w, p, u, extra, links, units_of, total, lane, r, now, budget, True, x[0].mixed == 1
    )
    if not preempted and (not x[0].static or w[lane].forming == 1):
        left = admit(x, q, s, w, p, u, links, units_of, total, lane, r, now, left)
    if left < budget or x[0].mixed:
        return bool(left < budget)
    w[lane].forming = 0
    budget = max(budget, x[0].max_seqs)
    left, preempted = work_on_running(
        x, q, s, w, p, u, extra, links, units_of, total, lane, r, now, budget, False, True
    )
    if x[0].admission == ESTIMATE:
        start = min(0.7 * x[0].conservativeness, 1.0)
        p[r].ratio = max(p[r].ratio - start * (1 - RATIO_FLOOR) / RATIO_STEPS, start * RATIO_FLOOR)
    return bool(left < budget)
