"""Steps of an engine, compiled: priced and booked when they begin, applied when they end.

The arguments are those of :mod:`steelyard.simulation.kernel.waiting`.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit_inline, njit_inner, wide
from steelyard.cost.step_eval import FIXED, STATIC_W, step_cost
from steelyard.simulation.kernel.admission import ESTIMATE, PAST_FUTURE
from steelyard.simulation.kernel.arrivals import successors
from steelyard.simulation.kernel.past_future import learn_length
from steelyard.simulation.kernel.pricing import accepted_guesses, price_worker
from steelyard.simulation.kernel.queue import blocks_of, take_blocks
from steelyard.simulation.kernel.routing import hand_over, leaves
from steelyard.simulation.kernel.rule_calls import view_of
from steelyard.simulation.kernel.rules import ACCOUNT_RULE, PRICE_RULE
from steelyard.simulation.kernel.schedule import lower_ratio
from steelyard.simulation.kernel.state import ITL_BINS, ITL_SHORTEST_S, ITL_STEP, PREFILL, RUN_STEPS, State, Tech
from steelyard.simulation.kernel.waiting import cache_prompt, release

__all__ = ["begin_step", "begin_together", "end_step", "run_decodes"]


@njit_inner
def measure(state: State, cfg: Any, worker: int) -> tuple[int, float, int, int, float]:
    """Totals of the chosen step: decodes, their context, prompt chunks, their tokens, pairs of query and key."""
    decodes, chunks, new = 0, 0, 0
    context, pairs = 0.0, 0.0
    static = cfg.static
    for j in range(state.workers[worker].count):
        slot = state.slots[worker, j]
        take = slot.step_tokens
        if slot.computed < slot.target:
            if take > 0:
                chunks += 1
                new += take
                pairs += take * (slot.computed + 0.5 * take)
        elif take > 0 or static:  # a static batch computes its finished rows too
            decodes += 1
            context += slot.computed + 1
    if chunks > 0 and not cfg.mixed:
        decodes, context = 0, 0.0
    return decodes, context, chunks, new, pairs


@njit_inner
def padded(cfg: Any, tokens: int, chunks: int) -> int:
    """Tokens computed: those of the next captured graph, sizes 1, 2, 4, then every 8 to 256, then every 16."""
    limit = cfg.pad if chunks == 0 else cfg.pad_mixed
    if tokens > limit or tokens < 3:
        return tokens
    if tokens <= 4:
        return 4
    step = 8 if tokens <= 256 else 16
    return int(min(limit, (tokens + step - 1) // step * step))


@njit_inner
def next_row(state: State) -> int:
    """Where to keep this step, -1: nowhere. A full log drops every second entry and keeps half as many from then on."""
    run, log = state.run, state.log
    seen = run.steps_seen
    run.steps_seen += 1
    if seen % run.log_stride != 0:
        return -1
    row = run.log_rows
    if row == log.shape[0]:
        row = row // 2
        for k in range(row):
            log[k] = log[2 * k]
        run.log_rows = row
        run.log_stride *= 2
        if seen % run.log_stride != 0:
            return -1
    run.log_rows = row + 1
    return int(row)


@njit_inner
def book_step(
    state: State,
    cfg: Any,
    worker: int,
    begin: float,
    duration: float,
    energy: float,
    decodes: int,
    chunks: int,
    new: int,
) -> None:
    """Count a step and keep it in the log."""
    replica = state.workers[worker].replica
    place = state.replicas[replica]
    used = cfg.blocks - place.free - place.evictable * cfg.unit_blocks
    total = state.totals[place.pool]
    total.iterations += 1
    total.prefill_tokens += new
    total.decode_tokens += decodes
    total.busy_s += duration / cfg.stages
    total.step_energy_j += energy
    total.batch_s += (chunks + decodes) * duration
    total.batch_max = max(total.batch_max, chunks + decodes)
    total.kv_s += used * duration
    total.kv_max = max(total.kv_max, used)
    if chunks > 0:
        total.prefill_steps += 1
    if state.run.log:
        row = next_row(state)
        if row >= 0:
            entry = state.log[row]
            entry.start = begin
            entry.duration = duration
            entry.replica = replica
            entry.batch = chunks + decodes
            entry.prefill = new
            entry.decode = decodes
            entry.blocks = used
            entry.running = state.workers[worker].count
            entry.waiting = place.queued


@njit_inner
def reading_s(state: State, worker: int) -> float:
    """Time for the images and sounds of the requests whose prompts begin in the chosen step."""
    seconds = 0.0
    for j in range(state.workers[worker].count):
        slot = state.slots[worker, j]
        if slot.step_tokens > 0 and slot.computed < slot.target:
            request = state.requests[slot.request]
            if slot.computed == request.cached and request.preemptions == 0:
                seconds += state.inputs[slot.request if state.inputs.shape[0] > 1 else 0].encode_s
    return seconds


@njit_inner
def price(
    state: State,
    tech: Any,
    cfg: Any,
    worker: int,
    tokens: float,
    decodes: int,
    context: float,
    chunks: int,
    new: int,
    pairs: float,
) -> tuple[float, float]:
    """``(time, energy of one device)`` of a step with these totals."""
    if tech is not None:
        apart()
    k = state.replicas[state.workers[worker].replica].pool
    rows = float(max(1, chunks + decodes))
    plain = True
    time, energy = 0.0, 0.0
    if tech is not None and not tech.records[k].plain and decodes + chunks > 0:
        time, energy = price_worker(state, tech, cfg, worker, decodes, context, chunks, new, pairs)
        plain = False
    if plain:
        time, energy = step_cost(
            state.data, state.layout[k], tokens, rows, float(decodes), context, float(chunks), float(new), pairs
        )
    if tech is not None and tech.has_rule[PRICE_RULE]:
        replica = state.workers[worker].replica
        time, energy = tech.rules.price(
            view_of(state, tech), worker, replica, decodes, context, chunks, float(new), pairs, time, energy
        )
    if tech is not None and tech.records[k].swap_waits:
        place = state.replicas[state.workers[worker].replica]
        time += place.stall_s
        place.stall_s = 0.0
    if state.run.reads > 0:
        seconds = reading_s(state, worker)
        if seconds > 0.0:
            energy += seconds * state.run.read_w
            time += max(seconds, state.run.read_s)
    return time, energy


@njit_inner
def begin_step(state: State, tech: Any, cfg: Any, worker: int, now: float) -> None:
    """Price the chosen step and set its end."""
    if tech is not None:
        apart()
    own = state.workers[worker]
    decodes, context, chunks, new, pairs = measure(state, cfg, worker)
    tokens = new + decodes
    if cfg.pad > 0:
        tokens = padded(cfg, tokens, chunks)
    duration, energy = price(state, tech, cfg, worker, float(tokens), decodes, context, chunks, new, pairs)
    begin = now
    end = begin + duration
    if cfg.stages > 1:
        place = state.replicas[own.replica]
        begin = max(now, place.stage_free)
        place.stage_free = begin + duration / cfg.paces
        end = max(begin + duration, place.stage_out + duration / cfg.paces)
        place.stage_out = end
    own.end = end
    own.busy = 1
    state.replicas[own.replica].begun = now
    if tech is not None:
        own.price_s, own.price_j = duration, energy
    state.run.steps += 1
    book_step(state, cfg, worker, begin, duration, energy, decodes, chunks, new)


@njit_inner
def begin_together(state: State, tech: Tech, cfg: Any, first: int, now: float) -> None:
    """Begin the chosen step on all data-parallel ranks of a replica; those with nothing to do go along.

    The kernels of the shared experts see the tokens of all ranks (of the fullest, times the ranks, when all decode:
    captured graphs are filled up to it), attention those of the rank; the slowest rank ends the step for all.
    """
    apart()
    state.run.steps += 1
    ranks = cfg.ranks
    prompts, most, whole = False, 0, 0
    for worker in range(first, first + ranks):
        decodes, _, chunks, new, _ = measure(state, cfg, worker)
        prompts |= chunks > 0
        most = max(most, padded(cfg, decodes + new, chunks))
        whole += decodes + new
    tokens = max(1.0, whole / ranks if prompts else float(most))
    duration = 0.0
    for worker in range(first, first + ranks):
        decodes, context, chunks, new, pairs = measure(state, cfg, worker)
        own = state.workers[worker]
        own.price_s, own.price_j = price(state, tech, cfg, worker, tokens, decodes, context, chunks, new, pairs)
        duration = max(duration, own.price_s)
    k = state.replicas[state.workers[first].replica].pool
    static_w = state.data[state.layout[k, FIXED, 0] + STATIC_W]
    for worker in range(first, first + ranks):
        decodes, _, chunks, new, _ = measure(state, cfg, worker)
        own = state.workers[worker]
        energy = own.price_j + static_w * (duration - own.price_s)
        own.price_s, own.price_j = duration, energy
        own.end = now + duration
        own.busy = 1
        state.replicas[own.replica].begun = now
        book_step(state, cfg, worker, now, duration, energy, decodes, chunks, new)


@njit_inner
def gap_bin(gap: float) -> int:
    """The bin of the histogram for a time between tokens."""
    return min(int(math.log(max(gap, ITL_SHORTEST_S) / ITL_SHORTEST_S) / ITL_STEP), ITL_BINS - 1)


@njit_inner
def deliver(place: Any, now: float, work_s: float) -> float:
    """When the client has the tokens of a step that ends now: its API server works on one thing after another."""
    if work_s <= 0.0:
        return now
    place.sent_at = max(place.sent_at, now) + work_s
    return float(place.sent_at)


@njit_inner
def spoken(state: State, worker: int) -> int:
    """Answers that the step in flight adds to."""
    some = 0
    for j in range(state.workers[worker].count):
        slot = state.slots[worker, j]
        some += wide(slot.step_tokens > 0 and slot.computed + slot.step_tokens >= slot.target)
    return int(some)


@njit_inline
def note_gap(state: State, i: int, gap_s: float) -> None:
    """Keep the longest time between two tokens of a request."""
    if gap_s > state.requests[i].gap_s:
        state.requests[i].gap_s = gap_s


@njit_inner
def run_decodes(state: State, tech: Any, cfg: Any, worker: int, now: float, limit: float) -> float:
    """Play steps in which nothing but decoding can happen, one after another; when the last of them ended.

    Nobody waits, prefills, ends or arrives (before ``limit``), and every block that is needed is there: what is left
    of a step is its price and its place in the counters. The step that ends an output is left to the ordinary way.
    """
    own = state.workers[worker]
    place, count, slots = state.replicas[own.replica], own.count, state.slots
    if place.waiting >= 0 or count == 0 or cfg.stages > 1 or cfg.static or (cfg.mixed and count > cfg.max_tokens):
        return now
    steps, context, prompts = min(RUN_STEPS, state.run.max_iterations - state.run.steps), 0.0, wide(0)
    for j in range(count):
        slot = slots[worker, j]
        prompts += wide(slot.computed < slot.target)
        steps = min(steps, slot.left - 1)
        context += slot.computed + 1
    if steps < 1 or prompts > 0:
        return now
    growth, block, cap = state.growth, cfg.block, cfg.cap
    for n in range(steps):
        growth[n] = 0
    for j in range(count):
        slot = slots[worker, j]
        n = (slot.blocks - cfg.fixed) * block - slot.computed  # the step that needs the next block
        while n < steps and slot.computed + n < cap:
            growth[n] += 1
            n += block
    k = place.pool
    tokens = float(padded(cfg, count, prompts) if cfg.pad > 0 else count)
    done, longest = 0, 0.0
    while done < steps:
        need = growth[done]
        if need > place.free + place.evictable * cfg.unit_blocks:
            break
        time, energy = step_cost(
            state.data, state.layout[k], tokens, float(count), float(count), context, 0.0, 0.0, 0.0
        )
        end = now + time
        if end >= limit:
            break
        if need > 0:
            take_blocks(state, tech, cfg, own.replica, need)
        state.run.steps += 1
        book_step(state, cfg, worker, now, time, energy, count, prompts, prompts)
        out = deliver(place, end, count * cfg.stream_s)
        if done == 0:
            gaps, same = 0.0, 0
            for j in range(count):
                gap = out - slots[worker, j].token_at
                gaps += gap
                note_gap(state, wide(slots[worker, j].request), gap)
                if slots[worker, j].token_at == own.last_end:
                    same += 1
                else:
                    state.itl[gap_bin(gap)] += 1
            if same > 0:
                state.itl[gap_bin(out - own.last_end)] += same
        else:
            gaps = count * (out - own.last_end)
            longest = max(longest, out - own.last_end)
            state.itl[gap_bin(out - own.last_end)] += count
        state.totals[k].itl_sum_s += gaps
        if cfg.admission == ESTIMATE:
            place.ratio = lower_ratio(cfg, place.ratio)
        own.last_end = out
        place.begun = now
        now = end
        context += count
        done += 1
    if done > 0:
        for j in range(count):
            slot = slots[worker, j]
            slot.computed += done
            slot.left -= done
            slot.token_at = own.last_end
            note_gap(state, wide(slot.request), longest)
            slot.blocks = max(slot.blocks, blocks_of(cfg, wide(slot.computed)))
    return now


@njit_inline
def end_step(state: State, tech: Any, cfg: Any, worker: int, now: float) -> None:
    """Apply the step that ends now: tokens come out, outputs end, their successors are set to arrive."""
    if tech is not None:
        apart()
    own, slots, run = state.workers[worker], state.slots, state.run
    replica = own.replica
    place = state.replicas[replica]
    total = state.totals[place.pool]
    previous = own.last_end
    static = cfg.static
    guesses = 0
    if tech is not None and tech.records[place.pool].guess > 0:
        guesses = own.guesses
    same, kept, alive, burst = 0, 0, 0, 0
    gaps, out = 0.0, now
    if cfg.stream_s > 0.0:
        out = deliver(place, now, spoken(state, worker) * cfg.stream_s)
    count = own.count
    for j in range(count):
        slot = slots[worker, j]
        take = slot.step_tokens
        slot.step_tokens = 0
        over = False
        if take > 0:
            i = wide(slot.request)
            prompt = slot.computed < slot.target
            gain = 1
            if (
                tech is not None and guesses > 0 and not prompt
            ):  # right guesses and the token after them come out together
                right = accepted_guesses(tech.records[place.pool], i, slot.left, guesses)
                gain = min(slot.left, 1 + right)
                take = gain
                burst += gain - 1
                total.accepted_tokens += gain - 1
            slot.computed += take
            if tech is not None and tech.has_rule[ACCOUNT_RULE]:
                wrote = gain if slot.computed >= slot.target else 0
                tech.rules.account(view_of(state, tech), i, take if prompt else 0, wrote, now)
            if slot.computed >= slot.target:
                request = state.requests[i]
                if prompt and cfg.unit_tokens > 0:
                    cache_prompt(state, cfg, replica, i)
                slot.left -= gain
                if prompt and request.first_at < 0:
                    request.first_at = out
                    if out - request.arrived_at > run.ttft_s:
                        run.ttft_left -= 1
                    if run.fork_on_first:
                        successors(state, i, out)
                else:
                    gap = out - slot.token_at
                    gaps += gap
                    note_gap(state, i, gap)
                    if slot.token_at == previous:
                        same += 1
                    else:
                        state.itl[gap_bin(gap)] += 1
                slot.token_at = out
                if slot.left == 0:
                    over = True
                    request.remaining = 0
                    request.last_at = out
                    request.status = 0
                    total.completed += 1
                    if out - request.arrived_at > run.e2e_s:
                        run.e2e_left -= 1
                    if request.osl > 1 and out - request.first_at > run.tpot_s * (request.osl - 1):
                        run.tpot_left -= 1
                    place.load -= 1
                    run.in_system -= 1
                    state.totals[0].in_system_s += out - now
                    if not run.fork_on_first:
                        successors(state, i, out)
                    if tech is not None and cfg.admission == PAST_FUTURE:
                        learn_length(tech.past, replica, request.osl)
                    if not static:
                        release(state, tech, cfg, replica, i, wide(slot.blocks))
                elif cfg.role == PREFILL and tech is not None and leaves(state, tech, i, replica, now):
                    hand_over(state, tech, worker, replica, j, now)
                    continue
        if slot.left > 0:
            alive += 1
        if over and not static:
            continue
        if kept != j:
            slots[worker, kept] = slots[worker, j]
        kept += 1
    if same > 0:
        state.itl[gap_bin(out - previous)] += same
    if burst > 0:
        state.itl[gap_bin(0.0)] += burst
        total.decode_tokens += burst
    total.itl_sum_s += gaps
    if static and alive == 0:
        for j in range(kept):
            release(state, tech, cfg, replica, wide(slots[worker, j].request), wide(slots[worker, j].blocks))
        kept = 0
    if kept < count:
        for j in range(own.loading):
            slots[worker, kept + j] = slots[worker, count + j]
    own.count = kept
    own.last_end = out
    own.end = math.inf
    own.busy = 0
