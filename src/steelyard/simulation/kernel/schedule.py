"""Choosing the next step of an engine, compiled: who gets how many tokens, who is admitted, who gives way.

Arguments shared by all functions: ``f`` the fleet (see :class:`steelyard.simulation.kernel.state.Fleet`), ``x`` the
setup of the replica's pool, ``lane`` a worker and ``r`` its replica, ``now`` the time.
"""

from __future__ import annotations

from typing import Any

from steelyard.simulation.kernel.jit import njit_inline, njit_inner
from steelyard.simulation.kernel.lora_slots import adapter_of, find_seat, leave_seat, take_seat
from steelyard.simulation.kernel.lower_tiers import begin_load, load_from_below, swap_in, swap_out
from steelyard.simulation.kernel.migrate import leave, move_instead
from steelyard.simulation.kernel.past_future import expect, forget_future, future_peak, plan_future
from steelyard.simulation.kernel.pricing import choose_guesses, queries_for
from steelyard.simulation.kernel.queue import blocks_of, drop_unit, pop, push, share_unit, take_blocks
from steelyard.simulation.kernel.state import LOADED, LOADS, PREFILL, SWAPPED
from steelyard.simulation.kernel.transfer import drop_slot, start_transfer, welcome

__all__ = ["cache_prompt", "cached_units", "choose_step", "enqueue", "release"]

STEP, PROMPT, WHOLE, ESTIMATE, PAST_FUTURE = range(5)
#: Requests passed over at most while none of their adapters has a place.
PASSED_OVER = 256
LAST, WORST, SHORTEST_ANSWER = 0, 1, 2
#: SGLang: an answer is expected to need so many tokens at most (CLIP_MAX_NEW_TOKENS).
EXPECTED_MAX = 4096
#: SGLang: steps over which the new-token ratio falls to its floor, the floor's share, tokens of headroom on a retract.
RATIO_STEPS, RATIO_FLOOR, RETRACT_STEPS = 600.0, 0.14, 20


@njit_inner
def enqueue(f: Any, i: int, r: int, now: float) -> None:
    """Put a request into a replica's waiting queue under its policy's key."""
    base = f.extra[i, 0] if f.extra.shape[0] > 1 else f.extra[0, 0]
    f.q[i].key = base + f.run[0].add_time * now
    requeue(f, i, r)


@njit_inner
def requeue(f: Any, i: int, r: int) -> None:
    """Put a request into the queue under the key it has."""
    p = f.p
    p[r].waiting = push(f.q, p[r].waiting, i)
    p[r].queued += 1
    k = p[r].pool
    f.total[k, 13] = max(f.total[k, 13], p[r].queued)


@njit_inner
def release(f: Any, x: Any, r: int, i: int, blocks: int) -> None:
    """Give back a request's blocks: private ones at once, shared prefix units when nobody holds them."""
    if f.m.z[f.p[r].pool].max_loras > 0 and adapter_of(f.m, i) >= 0:
        leave_seat(f.m, r, adapter_of(f.m, i), f.total[f.p[r].pool, 0])
    if x.unit_tokens > 0:
        held = f.q[i].held
        start = f.links[i, 0]
        for k in range(held - 1, -1, -1):
            drop_unit(f.p, f.u, r, f.units_of[start + k])
        f.q[i].held = 0
        blocks -= held * x.unit_blocks
    f.p[r].free += blocks


@njit_inner
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


@njit_inner
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


@njit_inner
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
    kept = False
    if f.m.z[k].swap:
        kept = swap_out(f.m, f.m.z[k], x, k, r, i, s[lane, j].computed, blocks_of(x, s[lane, j].computed), now)
    f.total[k, SWAPPED if kept else 4] += s[lane, j].computed
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


@njit_inline
def work_on_running(
    f: Any, x: Any, lane: int, r: int, now: float, budget: int, prompts: bool, decodes: bool
) -> tuple[int, bool]:
    """Give running requests their tokens, in order; ``(budget left, whether someone was preempted)``."""
    s, w = f.s, f.w
    preempted = False
    block, cap, fixed = x.block, x.cap, x.fixed
    each = 1  # tokens of a decode
    if decodes and f.m.z[f.p[r].pool].guess > 0:
        each = plan_guesses(f, x, lane, r, budget)
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
            ahead = slot.computed + rest
        else:
            if not decodes or slot.left == 0 or each > budget:
                j += 1
                continue
            rest = each
            ahead = slot.computed + min(each, slot.left)
        if min(ahead, cap) > (slot.blocks - fixed) * block:
            need = blocks_of(x, ahead) - slot.blocks
            gone, stalled = False, False
            while not take_blocks(f, x, r, need):
                if x.migrate and f.p[r].sending > 0:  # blocks are about to be free
                    stalled = True
                    break
                v = find_victim(f, x, lane)
                if x.migrate and w[lane].count > 1:
                    taken = s[lane, v].take
                    if move_instead(f, x, lane, r, v, now):
                        budget += taken
                        preempted = True
                        gone = v == j
                        stalled = not gone
                        if v < j:
                            j -= 1
                        break
                budget += preempt(f, x, lane, r, v, now)
                preempted = True
                if v == j:
                    gone = True
                    break
                if v < j:
                    j -= 1
            if gone:  # the next one has taken its place
                continue
            if stalled:
                preempted = True
                j += 1
                continue
            s[lane, j].blocks += need
        s[lane, j].take = rest
        budget -= rest
        j += 1
    return budget, preempted


@njit_inner
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


@njit_inner
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
    pool = p[r].pool
    z = f.m.z[pool]
    aside, passed = -1, 0
    expected = 0.0
    if admission == PAST_FUTURE:
        expect(f.m.past, r)
        forget_future(f.m.past, r)
        for j in range(w[lane].count + w[lane].coming):
            slot = s[lane, j]
            plan_future(f.m.past, r, max(slot.computed, slot.target), q[slot.request].osl - slot.left, 1.0)
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
        late = now
        moved, loaded, seat = 0, 0, -1
        if z.max_loras > 0 and adapter_of(f.m, i) >= 0:
            seat = find_seat(f.m, z, r, adapter_of(f.m, i))
            if seat < 0:  # no place for its adapter: the next in the queue may have one
                if passed == PASSED_OVER:
                    break
                passed += 1
                p[r].waiting = pop(q, i)
                q[i].left_child = aside
                aside = i
                continue
        if z.swap and not elsewhere:
            moved = f.m.swapped[i]
        if x.unit_tokens > 0 and not elsewhere and moved == 0:
            hits, idle_hits = cached_units(f, x, i, known, r)
            if z.tiers > 0:
                most = min(f.links[i, 1], (known - 1) // x.unit_tokens)
                loaded, late = load_from_below(f.m, z, x, pool, r, f.u, f.units_of, f.links[i, 0], hits, most, now)
        cached = (hits + loaded) * x.unit_tokens + moved
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
        elif admission == PAST_FUTURE:
            plan_future(f.m.past, r, known, q[i].osl - remaining, 1.0)
            if not alone and future_peak(f.m.past, r) > x.blocks * x.block:
                plan_future(f.m.past, r, known, q[i].osl - remaining, -1.0)
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
            q[i].held = hits + loaded
        take_blocks(f, x, r, first)
        if loaded > 0:
            begin_load(f.m, z, x, r, f.units_of, f.links[i, 0] + hits, loaded, now)
            f.total[pool, LOADED] += loaded * x.unit_tokens
            for n in range(hits, hits + loaded):
                f.u[r, f.units_of[f.links[i, 0] + n]].refs = 1
        if moved > 0:
            late = swap_in(f.m, r, i, blocks_of(x, moved), now)
        if seat >= 0:
            f.total[pool, LOADS] += int(f.m.seats[r, seat].adapter != adapter_of(f.m, i))
            late = max(late, take_seat(f.m, z, r, adapter_of(f.m, i), seat, now))
        if q[i].scheduled_at < 0:
            q[i].scheduled_at = now
            q[i].cached = cached
            q[i].replica = r
        at = w[lane].count
        if elsewhere or late > now:
            at += w[lane].coming
            w[lane].coming += 1
            if not elsewhere:
                f.total[pool, 5] += cached - moved
        else:
            f.total[pool, 5] += cached - moved
            for n in range(at + w[lane].coming, at, -1):  # those that are not ready make room, in their order
                s[lane, n] = s[lane, n - 1]
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
        elif late > now:  # its cache or adapter is on its way: its first tokens come when it is here
            slot.ready_at = late
            slot.take = 0
            rest = 0
        expected += rest + min(answer, EXPECTED_MAX)
        budget -= rest
    while aside >= 0:
        i = aside
        aside = q[i].left_child
        p[r].waiting = push(q, p[r].waiting, i)
    return budget


@njit_inner
def hold_back(f: Any, x: Any, lane: int, r: int) -> bool:
    """Whether prompts wait for more of them, while others decode (TensorRT-LLM's batch_wait_timeout_iters)."""
    p, q = f.p, f.q
    if p[r].waiting < 0 or f.w[lane].count == 0:
        return False
    i = p[r].waiting
    tokens = f.w[lane].count + p[r].queued * (q[i].isl + q[i].osl - q[i].remaining)  # as if all were like the first
    if tokens >= x.wait_tokens or p[r].waited >= x.wait_steps:
        p[r].waited = 0
        return False
    p[r].waited += 1
    return True


@njit_inner
def plan_guesses(f: Any, x: Any, lane: int, r: int, budget: int) -> int:
    """Tokens per decode of the next step."""
    s, w, z = f.s, f.w, f.m.z[f.p[r].pool]
    count, context = 0, 0.0
    for j in range(w[lane].count):
        if s[lane, j].computed >= s[lane, j].target and s[lane, j].left > 0:
            count += 1
            context += s[lane, j].computed + 1
    guesses = choose_guesses(z, f.m.data, f.m.layout[f.p[r].pool], float(count), context, budget)
    w[lane].guesses = guesses
    return queries_for(z, guesses)


@njit_inline
def choose_step(f: Any, x: Any, lane: int, r: int, now: float) -> bool:
    """Decide the tokens of every running request for the next step of a lane; False when there is nothing to do."""
    w = f.w
    if w[lane].coming > 0:
        welcome(f.s, w, lane, now)
    if x.migrate and f.p[r].leaving >= 0 and f.p[r].leave_at <= now:
        leave(f, x, lane, r, now)
    budget = x.max_tokens
    if not x.mixed and w[lane].count == 0:
        w[lane].forming = 1
    left, preempted = work_on_running(f, x, lane, r, now, budget, True, x.mixed == 1)
    if not preempted and (not x.static or w[lane].forming == 1) and (x.wait_steps == 0 or not hold_back(f, x, lane, r)):
        left = admit(f, x, lane, r, now, left)
    if left < budget or x.mixed:
        return bool(left < budget)
    w[lane].forming = 0
    budget = max(budget, x.max_seqs)
    z = f.m.z[f.p[r].pool]
    if z.guess > 0:
        budget *= queries_for(z, z.most)
    left, preempted = work_on_running(f, x, lane, r, now, budget, False, True)
    if x.admission == ESTIMATE:
        start = min(0.7 * x.conservativeness, 1.0)
        f.p[r].ratio = max(f.p[r].ratio - start * (1 - RATIO_FLOOR) / RATIO_STEPS, start * RATIO_FLOOR)
    return bool(left < budget)
