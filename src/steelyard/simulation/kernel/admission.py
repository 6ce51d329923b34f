"""Admitting waiting requests into an engine's batch, compiled.

The arguments are those of :mod:`steelyard.simulation.kernel.waiting`.
"""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inline, njit_inner, wide
from steelyard.simulation.kernel.lora_slots import adapter_of, find_lora_slot, take_lora_slot
from steelyard.simulation.kernel.lower_tiers import begin_load, load_from_below, swap_in
from steelyard.simulation.kernel.past_future import expect, forget_future, future_peak, plan_future
from steelyard.simulation.kernel.queue import blocks_of, pop, push, share_unit, take_blocks
from steelyard.simulation.kernel.rule_calls import view_of
from steelyard.simulation.kernel.rules import ADMIT_RULE
from steelyard.simulation.kernel.state import PREFILL, State, Tech
from steelyard.simulation.kernel.transfer import start_transfer
from steelyard.simulation.kernel.waiting import cached_units, requeue

__all__ = ["ESTIMATE", "PAST_FUTURE", "admit"]

STEP, PROMPT, WHOLE, ESTIMATE, PAST_FUTURE = range(5)
#: Requests passed over at most while none of their adapters has a place.
PASSED_OVER = 256
#: SGLang: an output is expected to need so many tokens at most (CLIP_MAX_NEW_TOKENS).
EXPECTED_MAX = 4096
#: Prompt tokens of a step that no rule limits.
NO_LIMIT = 1 << 40


@njit_inner
def slot_limit(state: State, cfg: Any, replica: int) -> int:
    """Requests a worker may run: with pipeline stages the stages' batches are kept even."""
    limit = cfg.max_seqs
    stages = cfg.stages
    if stages > 1:
        running = 0
        for k in range(state.replicas[replica].first, state.replicas[replica].first + stages):
            running += state.workers[k].count + state.workers[k].loading
        limit = max(1, min(limit // stages, (running + state.replicas[replica].queued + stages - 1) // stages))
    return int(limit)


@njit_inner
def plan_running(state: State, tech: Tech, worker: int, replica: int) -> None:
    """Past-future admission: what the running requests are expected to hold."""
    apart()
    expect(tech.past, replica)
    forget_future(tech.past, replica)
    own = state.workers[worker]
    for j in range(own.count + own.loading):
        slot = state.slots[worker, j]
        answered = state.requests[slot.request].osl - slot.left
        plan_future(tech.past, replica, max(slot.computed, slot.target), answered, 1.0)


@njit_inline
def admit(state: State, tech: Any, cfg: Any, worker: int, replica: int, now: float, budget: int) -> int:
    """Admit waiting requests in their order while budget, slots and blocks last; the budget left.

    A request whose cache is elsewhere takes its blocks and stands behind the running ones until the cache is here.
    """
    if tech is not None:
        apart()
    place, own = state.replicas[replica], state.workers[worker]
    if place.waiting < 0:
        return budget
    limit = slot_limit(state, cfg, replica)
    admission, pool = cfg.admission, place.pool
    total = state.totals[pool]
    aside, passed, moved_back = -1, 0, 0
    expected = 0.0
    if tech is not None and admission == PAST_FUTURE:
        plan_running(state, tech, worker, replica)
    if admission == ESTIMATE:
        for j in range(own.count + own.loading):
            expected += min(state.slots[worker, j].left, EXPECTED_MAX) * place.ratio
    ahead = cfg.ahead and own.count > 0  # this step was chosen when the one before it began
    while place.waiting >= 0 and budget > 0 and own.count + own.loading < limit:
        i = place.waiting
        request = state.requests[i]
        if ahead and request.first_at < 0 and request.last_at > place.begun:
            break
        elsewhere = False
        remaining = wide(request.remaining)
        longest = wide(request.isl) + wide(request.osl)
        known = longest - remaining
        output = remaining
        hits, idle_hits = 0, 0
        late = now
        moved, loaded, lora = 0, 0, -1
        if tech is not None:
            if tech.has_rule[ADMIT_RULE]:
                said = tech.rules.admit(view_of(state, tech), i, replica, worker, now)
                if said == 0:
                    break
                if said == 2 and moved_back < place.queued:
                    moved_back += 1
                    place.waiting = pop(state.requests, i)
                    place.queued -= 1
                    requeue(state, tech, i, replica, now)
                    continue
            if request.origin >= 0:  # the newest token is not in the cache
                elsewhere = True
                known -= 1
            if cfg.role == PREFILL:
                longest, output = known + 1, 1
            record = tech.records[pool]
            if record.max_loras > 0 and adapter_of(tech, i) >= 0:
                lora = find_lora_slot(tech, record, replica, adapter_of(tech, i))
                if lora < 0:  # no place for its adapter: the next in the queue may have one
                    total.adapter_waits += 1
                    if passed == PASSED_OVER:
                        break
                    passed += 1
                    place.waiting = pop(state.requests, i)
                    request.left_child = aside
                    aside = i
                    continue
            if record.swap and not elsewhere:
                moved = tech.swapped[i]
        if cfg.unit_tokens > 0 and not elsewhere and moved == 0:
            hits, idle_hits = cached_units(state, cfg, i, known, replica)
            if tech is not None and tech.records[pool].tiers > 0:
                given = state.inputs[i]
                most = min(given.unit_count, (known - 1) // cfg.unit_tokens)
                loaded, late = load_from_below(state, tech, cfg, replica, i, given.unit_start, hits, most, now)
        cached = (hits + loaded) * cfg.unit_tokens + moved
        shared = hits * cfg.unit_blocks
        rest = known - cached
        if elsewhere:
            cached, rest = known, 0
        else:
            if cfg.threshold > 0:
                rest = min(rest, cfg.threshold)
            most_now = budget
            if tech is not None:
                most_now = min(most_now, own.prompt_left)
                if most_now <= 0:
                    break
            if rest > most_now:
                if cfg.chunked:
                    rest = most_now
                elif budget < cfg.max_tokens:
                    break  # a whole prompt that does not fit waits; one longer than any step goes alone
        alone = own.count + own.loading == 0
        available = place.free + (place.evictable - idle_hits) * cfg.unit_blocks
        first = blocks_of(cfg, cached + rest) - shared
        wanted = first
        if admission == PROMPT:
            wanted = blocks_of(cfg, known) - shared
        elif admission == WHOLE:
            first = wanted = blocks_of(cfg, longest) - shared
        elif admission == ESTIMATE and not alone:
            need = known - hits * cfg.unit_tokens + min(output, EXPECTED_MAX)
            if need >= available * cfg.block - expected:
                break
        elif admission == PAST_FUTURE and tech is not None:
            plan_future(tech.past, replica, known, request.osl - remaining, 1.0)
            if not alone and future_peak(tech.past, replica) > cfg.blocks * cfg.block:
                plan_future(tech.past, replica, known, request.osl - remaining, -1.0)
                break
        if cfg.stages > 1 and request.preemptions > 0:  # else stages could take turns to evict each other for ever
            wanted = max(wanted, blocks_of(cfg, longest) - shared)
        if wanted + (0 if alone else cfg.watermark) > available:
            break
        place.waiting = pop(state.requests, i)
        place.queued -= 1
        if hits > 0:
            for k in range(hits):
                share_unit(
                    state.replicas, state.units, replica, wide(state.prefix_units[state.inputs[i].unit_start + k])
                )
        if cfg.unit_tokens > 0 and not elsewhere:
            request.held = hits + loaded
        take_blocks(state, tech, cfg, replica, first)
        if tech is not None:
            if loaded > 0:
                start = state.inputs[i].unit_start
                begin_load(state, tech, cfg, replica, start + hits, loaded, now)
                total.loaded_tokens += loaded * cfg.unit_tokens
                for n in range(hits, hits + loaded):
                    state.units[replica, state.prefix_units[start + n]].refs = 1
            if moved > 0:
                late = swap_in(state, tech, replica, i, blocks_of(cfg, moved), now)
            if lora >= 0:
                total.adapter_loads += int(tech.lora_slots[replica, lora].adapter != adapter_of(tech, i))
                late = max(late, take_lora_slot(tech, tech.records[pool], replica, adapter_of(tech, i), lora, now))
        if request.scheduled_at < 0:
            request.scheduled_at = now
            request.cached = cached
            request.replica = replica
        at = own.count
        if elsewhere or late > now:
            at += own.loading
            own.loading += 1
            if not elsewhere:
                total.cached_tokens += cached - moved
        else:
            total.cached_tokens += cached - moved
            for n in range(at + own.loading, at, -1):  # those that are not ready make room, in their order
                state.slots[worker, n] = state.slots[worker, n - 1]
            own.count += 1
        slot = state.slots[worker, at]
        slot.request = i
        slot.computed = cached
        slot.target = known
        slot.left = remaining
        slot.blocks = first + shared
        slot.step_tokens = rest
        slot.token_at = request.last_at
        if tech is not None:
            if elsewhere:
                slot.ready_at = start_transfer(state, tech, cfg, i, replica, worker, known, now)
            elif late > now:  # its cache or adapter is on its way: its first tokens come when it is here
                slot.ready_at = late
                slot.step_tokens = 0
                rest = 0
            if own.prompt_left < NO_LIMIT:
                own.prompt_left -= rest
        expected += rest + min(output, EXPECTED_MAX)
        budget -= rest
    if tech is not None:
        while aside >= 0:
            i = aside
            aside = state.requests[i].left_child
            place.waiting = push(state.requests, place.waiting, i)
    return budget
