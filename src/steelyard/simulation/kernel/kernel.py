"""The event kernel: arrivals and ends of steps in order of (time, priority, sequence), compiled by numba.

At one time timers come first, then steps end, then requests arrive, then idle engines begin a step. A step is chosen by
:mod:`steelyard.simulation.kernel.schedule`, priced by the step table, and applied when it ends. Nothing here is
random. The names of the arguments are those of :mod:`steelyard.simulation.kernel.schedule`.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.step_eval import FIXED, step_cost
from steelyard.cost.step_table import CONSTANTS
from steelyard.simulation.kernel.events import begin as begin_events
from steelyard.simulation.kernel.events import come_up, fail, scale
from steelyard.simulation.kernel.jit import njit, njit_inline, njit_inner
from steelyard.simulation.kernel.migrate import BALANCE_S, balance
from steelyard.simulation.kernel.pack import reference
from steelyard.simulation.kernel.past_future import learn_length
from steelyard.simulation.kernel.pricing import accepted_guesses, price_lane
from steelyard.simulation.kernel.queue import pop, push
from steelyard.simulation.kernel.routing import arrived_cache, encode, hand_over, send
from steelyard.simulation.kernel.schedule import PAST_FUTURE, cache_prompt, choose_step, release
from steelyard.simulation.kernel.state import (
    ACCEPTED,
    BALANCE,
    DOWN,
    ENCODED,
    ENTRY,
    FULL,
    HERE,
    INSIDE,
    ITL_BINS,
    ITL_SHORTEST_S,
    ITL_STEP,
    NEXT,
    PREFILL,
    SCALE,
    SENT,
    SEQ,
    TIMERS,
    UP,
)
from steelyard.simulation.kernel.timer import set_timer, take_timer
from steelyard.simulation.kernel.transfer import next_ready

__all__ = ["run_kernel"]

#: Events of the fleet without a step between them after which nothing is expected to come any more.
QUIET_MOST = 100_000
#: Place of the power that every device draws in a step, among the constants of a step table.
STATIC_W = CONSTANTS.index("static_w")


@njit_inline
def measure(s: Any, w: Any, x: Any, lane: int) -> tuple[int, float, int, int, float]:
    """Totals of the chosen step: decodes, their context, prompt chunks, their tokens, pairs of query and key."""
    decodes, chunks, new = 0, 0, 0
    context, pairs = 0.0, 0.0
    static = x.static
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
    if chunks > 0 and not x.mixed:
        decodes, context = 0, 0.0
    return decodes, context, chunks, new, pairs


@njit_inner
def padded(x: Any, tokens: int, chunks: int) -> int:
    """Tokens computed: those of the next captured graph, sizes 1, 2, 4, then every 8 to 256, then every 16."""
    limit = x.pad if chunks == 0 else x.pad_mixed
    if tokens > limit or tokens < 3:
        return tokens
    if tokens <= 4:
        return 4
    step = 8 if tokens <= 256 else 16
    return int(min(limit, (tokens + step - 1) // step * step))


@njit_inline
def begin_step(f: Any, x: Any, data: Any, layout: Any, log: Any, meta: Any, lane: int, r: int, now: float) -> None:
    """Price the chosen step and set its end."""
    p = f.p
    decodes, context, chunks, new, pairs = measure(f.s, f.w, x, lane)
    tokens = new + decodes
    if x.pad > 0:
        tokens = padded(x, tokens, chunks)
    k = p[r].pool
    if f.m.z[k].plain:
        duration, energy = step_cost(
            data,
            layout[k],
            float(tokens),
            float(chunks + decodes),
            float(decodes),
            context,
            float(chunks),
            float(new),
            pairs,
        )
    else:
        duration, energy = price_lane(f, x, lane, r, decodes, context, chunks, new, pairs)
    begin = now
    end = begin + duration
    lanes = x.lanes
    if lanes > 1:
        begin = max(now, p[r].stage_free)
        p[r].stage_free = begin + duration / lanes
        end = max(begin + duration, p[r].stage_out + duration / lanes)
        p[r].stage_out = end
    book_step(f, x, log, meta, lane, r, begin, end, duration, energy, decodes, chunks, new)


@njit_inline
def book_step(
    f: Any,
    x: Any,
    log: Any,
    meta: Any,
    lane: int,
    r: int,
    begin: float,
    end: float,
    duration: float,
    energy: float,
    decodes: int,
    chunks: int,
    new: int,
) -> None:
    """Set the end of a step and count it."""
    w, p = f.w, f.p
    w[lane].end = end
    w[lane].busy = 1
    used = x.blocks - p[r].free - p[r].evictable * x.unit_blocks
    total = f.total[p[r].pool]
    total[0] += 1
    total[2] += new
    total[3] += decodes
    total[7] += duration / x.lanes
    total[8] += energy
    total[9] += (chunks + decodes) * duration
    total[10] = max(total[10], chunks + decodes)
    total[11] += used * duration
    total[12] = max(total[12], used)
    if chunks > 0:
        total[18] += 1
    if f.run[0].log:
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


@njit_inner
def price_rank(f: Any, x: Any, data: Any, layout: Any, lane: int, r: int, tokens: float) -> tuple[float, float]:
    """``(time, energy)`` of the chosen step of a rank while the ranks together have so many tokens each."""
    decodes, context, chunks, new, pairs = measure(f.s, f.w, x, lane)
    k = f.p[r].pool
    if not f.m.z[k].plain and decodes + chunks > 0:
        return price_lane(f, x, lane, r, decodes, context, chunks, new, pairs)
    return step_cost(
        data,
        layout[k],
        tokens,
        float(max(1, chunks + decodes)),
        float(decodes),
        context,
        float(chunks),
        float(new),
        pairs,
    )


@njit_inner
def begin_together(f: Any, x: Any, data: Any, layout: Any, log: Any, meta: Any, lane: int, r: int, now: float) -> None:
    """Begin the chosen step on all data-parallel ranks of a replica; those with nothing to do go along.

    The kernels of the shared experts see the tokens of all ranks (of the fullest, times the ranks, when all decode:
    captured graphs are filled up to it), attention those of the rank; the slowest rank ends the step for all.
    """
    p, ranks = f.p, x.ranks
    k = p[r].pool
    prompts, most, whole = False, 0, 0
    for n in range(ranks):
        decodes, _, chunks, new, _ = measure(f.s, f.w, x, lane + n)
        prompts |= chunks > 0
        most = max(most, padded(x, decodes + new, chunks))
        whole += decodes + new
    tokens = max(1.0, whole / ranks if prompts else float(most))
    duration = 0.0
    for n in range(ranks):
        duration = max(duration, price_rank(f, x, data, layout, lane + n, r + n, tokens)[0])
    static_w = data[layout[k, FIXED, 0] + STATIC_W]
    for n in range(ranks):
        decodes, _, chunks, new, _ = measure(f.s, f.w, x, lane + n)
        time, energy = price_rank(f, x, data, layout, lane + n, r + n, tokens)
        energy += static_w * (duration - time)
        book_step(f, x, log, meta, lane + n, r + n, now, now + duration, duration, energy, decodes, chunks, new)


@njit_inner
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


@njit_inner
def count_gap(itl: Any, gap: float, times: int) -> None:
    """Put a time between tokens into the histogram."""
    index = int(math.log(max(gap, ITL_SHORTEST_S) / ITL_SHORTEST_S) / ITL_STEP)
    itl[min(index, ITL_BINS - 1)] += times


@njit_inline
def end_step(f: Any, x: Any, itl: Any, lane: int, r: int, now: float, pending: int) -> int:
    """Apply the step that ends now: tokens come out, answers end, their successors are set to arrive."""
    q, s, w = f.q, f.s, f.w
    previous = w[lane].last_end
    static = x.static
    z = f.m.z[f.p[r].pool]
    guesses = w[lane].guesses if z.guess > 0 else 0
    same, kept, alive, burst = 0, 0, 0, 0
    gaps = 0.0
    count = w[lane].count
    for j in range(count):
        slot = s[lane, j]
        take = slot.take
        slot.take = 0
        over = False
        if take > 0:
            prompt = slot.computed < slot.target
            gain = 1
            if guesses > 0 and not prompt:  # those that were right, and the one after them, come out together
                gain = min(slot.left, 1 + accepted_guesses(z, slot.request, slot.left, guesses))
                take = gain
                burst += gain - 1
                f.total[f.p[r].pool, ACCEPTED] += gain - 1
            slot.computed += take
            if slot.computed >= slot.target:
                i = slot.request
                if prompt and x.unit_tokens > 0:
                    cache_prompt(f, x, r, i)
                slot.left -= gain
                if prompt and q[i].first_at < 0:
                    q[i].first_at = now
                    if now - q[i].arrived_at > f.run[0].ttft_s:
                        f.run[0].ttft_left -= 1
                    if f.run[0].forks:
                        pending = successors(f, i, now, pending)
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
                    f.total[f.p[r].pool, 19] += 1
                    if now - q[i].arrived_at > f.run[0].e2e_s:
                        f.run[0].e2e_left -= 1
                    if q[i].osl > 1 and now - q[i].first_at > f.run[0].tpot_s * (q[i].osl - 1):
                        f.run[0].tpot_left -= 1
                    f.p[r].load -= 1
                    f.numbers[INSIDE] -= 1
                    if not f.run[0].forks:
                        pending = successors(f, i, now, pending)
                    if x.admission == PAST_FUTURE:
                        learn_length(f.m.past, r, q[i].osl)
                    if not static:
                        release(f, x, r, i, slot.blocks)
                elif x.role == PREFILL:
                    hand_over(f, lane, r, j, now)
                    continue
        if slot.left > 0:
            alive += 1
        if over and not static:
            continue
        if kept != j:
            s[lane, kept] = s[lane, j]
        kept += 1
    if same > 0:
        count_gap(itl, now - previous, same)
    if burst > 0:
        count_gap(itl, 0.0, burst)
        f.total[f.p[r].pool, 3] += burst
    f.total[f.p[r].pool, 15] += gaps
    if static and alive == 0:
        for j in range(kept):
            release(f, x, r, s[lane, j].request, s[lane, j].blocks)
        kept = 0
    if kept < count and w[lane].coming > 0:
        for j in range(w[lane].coming):
            s[lane, kept + j] = s[lane, count + j]
    w[lane].count = kept
    w[lane].last_end = now
    w[lane].end = math.inf
    w[lane].busy = 0
    return pending


@njit_inner
def successors(f: Any, i: int, now: float, pending: int) -> int:
    """Requests that were waiting for this one to complete (or be rejected); the heap of those to arrive."""
    if f.run[0].concurrency > 0:
        k = f.numbers[NEXT]
        if k < f.q.shape[0]:
            f.numbers[NEXT] = k + 1
            pending = arrive_later(f, k, now, pending)
    elif f.children.shape[0] > 0:
        links = f.links
        for c in range(links[i, 2], links[i, 2] + links[i, 3]):
            child = f.children[c]
            links[child, 4] -= 1
            if links[child, 4] == 0:
                pending = arrive_later(f, child, now, pending)
    return pending


@njit_inner
def arrive_later(f: Any, k: int, now: float, pending: int) -> int:
    """Request ``k`` is sent after its delay, and not before its own time."""
    q, extra = f.q, f.extra
    delay = extra[k, 1] if extra.shape[0] > 1 else extra[0, 1]
    q[k].arrived_at = now + delay if f.run[0].concurrency > 0 else max(q[k].arrived_at, now + delay)
    return set_arrival(f, k, q[k].arrived_at + f.run[0].request_s, pending)


@njit_inner
def set_arrival(f: Any, k: int, at: float, pending: int) -> int:
    """Put a request into the heap of those to arrive."""
    f.q[k].key = at
    f.q[k].seq = f.numbers[SEQ]
    f.numbers[SEQ] += 1
    return int(push(f.q, pending, k))


@njit_inner
def arrive(f: Any, i: int, now: float, pending: int) -> int:
    """A request reaches the engines: encoded, routed and queued; or it was rejected and its successors go on."""
    q = f.q
    if q[i].status == 1:
        return int(successors(f, i, now, pending))
    if q[i].origin == ENCODED:
        q[i].origin = HERE
    else:
        f.numbers[INSIDE] += 1
        if f.run[0].encoders > 0 and i < f.extra.shape[0] and f.extra[i, 3] > 0:
            return set_arrival(f, i, encode(f, i, f.extra[i, 3], now), pending)
    send(f, i, ENTRY, now)
    return pending


@njit_inner
def happen(f: Any, what: int, a: int, b: int, now: float) -> None:
    """An event of the fleet."""
    if what == SENT:
        arrived_cache(f, a, b, now)
    elif what == DOWN:
        fail(f, a, b, now)
    elif what == UP:
        come_up(f, a, now)
    elif what == SCALE:
        scale(f, a, now)
    elif what == BALANCE:
        balance(f, a, now)
        set_timer(f.timers, f.numbers, now + BALANCE_S, BALANCE, a, 0)


@njit
def run_kernel(fleet: Any, data: Any, layout: Any, order: Any, log: Any, meta: Any, itl: Any) -> None:
    """Play all events. ``order``: requests whose arrival is known beforehand, by time."""
    f: Any = reference(fleet)
    q, w, p, timers, numbers, total = f.q, f.w, f.p, f.timers, f.numbers, f.total
    workers = w.shape[0]
    request_s = f.run[0].request_s
    steps, before, quiet = 0, 0, 0
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
        if numbers[TIMERS] > 0:
            soonest = min(soonest, timers[0].at)
        if soonest == math.inf:
            break
        if now < 0:
            total[0, 20] = soonest - request_s
            if f.run[0].lively:
                begin_events(f, soonest)
        else:
            total[0, 14] += numbers[INSIDE] * (soonest - now)
        now = soonest
        if now - total[0, 20] > f.run[0].max_time_s:
            total[0, 16] = 1
            break
        while numbers[TIMERS] > 0 and timers[0].at == now:
            take_timer(timers, numbers)
            timer = timers[timers.shape[0] - 1]
            happen(f, timer.what, timer.a, timer.b, now)
            quiet += 1
        for lane in range(workers):
            if w[lane].end == now and w[lane].busy:
                r = w[lane].replica
                pending = end_step(f, f.setups[p[r].pool], itl, lane, r, now, pending)
        if min(f.run[0].ttft_left, f.run[0].tpot_left, f.run[0].e2e_left) < 0:
            total[0, 16] = 4
            break
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
            pending = arrive(f, i, now, pending)
        for lane in range(workers):
            if not w[lane].busy:
                r = w[lane].replica
                if w[lane].count > 0 or p[r].waiting >= 0 or w[lane].coming > 0:
                    x = f.setups[p[r].pool]
                    begin, ranks = lane, 1
                    if x.lockstep:
                        ranks = x.ranks
                        begin -= (begin - p[r].offset) % ranks
                        r = w[begin].replica
                    some = False
                    for n in range(ranks):
                        if choose_step(f, x, begin + n, r + n, now):
                            some = True
                    if not some:
                        w[lane].end = next_ready(f.s, w, lane)
                    elif x.lockstep:
                        begin_together(f, x, data, layout, log, meta, begin, r, now)
                        steps += 1
                    else:
                        begin_step(f, x, data, layout, log, meta, lane, r, now)
                        steps += 1
        if steps > f.run[0].max_iterations:
            total[0, 16] = 2
            break
        if f.run[0].lively:  # events of the fleet never end by themselves
            if steps > before:
                quiet = 0
            before = steps
            if numbers[INSIDE] == 0 and known == order.shape[0] and pending < 0:
                break
            if quiet > QUIET_MOST or numbers[FULL]:
                total[0, 16] = 3
                break
    total[0, 6] = max(0.0, now - total[0, 20]) if now >= 0 else 0.0
