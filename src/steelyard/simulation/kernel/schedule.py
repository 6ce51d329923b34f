"""Choosing the next step of an engine, compiled: who gets how many tokens, who is preempted.

The arguments are those of :mod:`steelyard.simulation.kernel.waiting`.
"""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inline, njit_inner, wide
from steelyard.simulation.kernel.admission import ESTIMATE, NO_LIMIT, admit
from steelyard.simulation.kernel.lower_tiers import swap_out
from steelyard.simulation.kernel.migrate import leave, move_instead
from steelyard.simulation.kernel.pricing import choose_guesses, queries_for
from steelyard.simulation.kernel.queue import blocks_of, take_blocks
from steelyard.simulation.kernel.rule_calls import view_of
from steelyard.simulation.kernel.rules import GUESS_RULE, PREEMPT_RULE, STEP_RULE, VICTIM_RULE
from steelyard.simulation.kernel.state import State, Tech
from steelyard.simulation.kernel.transfer import admit_loaded, drop_slot
from steelyard.simulation.kernel.waiting import enqueue, release, requeue

__all__ = ["RATIO_FLOOR", "RATIO_STEPS", "choose_step", "lower_ratio"]

LAST, WORST, SHORTEST_OUTPUT = 0, 1, 2
#: SGLang: steps over which the new-token ratio falls to its floor, the floor's share, tokens of headroom on a retract.
RATIO_STEPS, RATIO_FLOOR, RETRACT_STEPS = 600.0, 0.14, 20


@njit_inner
def find_victim(state: State, tech: Any, cfg: Any, worker: int, now: float) -> int:
    """The slot to preempt when blocks have run out."""
    if tech is not None:
        apart()
    requests, slots, count = state.requests, state.slots, state.workers[worker].count
    if tech is not None and tech.has_rule[VICTIM_RULE]:
        chosen = tech.rules.victim(view_of(state, tech), worker, state.workers[worker].replica, now)
        if 0 <= chosen < count:
            return int(chosen)
    best = count - 1
    if cfg.victim == LAST:
        return int(best)
    for j in range(count - 1):
        a, b = slots[worker, j], slots[worker, best]
        own, other = requests[a.request], requests[b.request]
        if cfg.victim == WORST:
            worse = own.key > other.key or (own.key == other.key and own.seq > other.seq)
        else:
            done, best_done = own.osl - a.left, other.osl - b.left
            worse = done < best_done or (done == best_done and own.isl > other.isl)
        if worse:
            best = j
    return int(best)


@njit_inner
def preempt(state: State, tech: Any, cfg: Any, worker: int, replica: int, j: int, now: float) -> int:
    """Send a running request back to the queue; its cache is lost. Returns the tokens it had in this step."""
    if tech is not None:
        apart()
    slots, count = state.slots, state.workers[worker].count
    slot = slots[worker, j]
    request, taken, computed = wide(slot.request), wide(slot.step_tokens), wide(slot.computed)
    own = state.requests[request]
    own.remaining = slot.left
    own.last_at = slot.token_at
    own.preemptions += 1
    total = state.totals[state.replicas[replica].pool]
    total.preemptions += 1
    kept = False
    if tech is not None and tech.records[state.replicas[replica].pool].swap:
        kept = swap_out(state, tech, cfg, replica, request, computed, blocks_of(cfg, computed), now)
    if kept:
        total.swapped_tokens += computed
    else:
        total.dropped_tokens += computed
    release(state, tech, cfg, replica, request, wide(slot.blocks))
    if cfg.victim == SHORTEST_OUTPUT:
        used, whole = 0.0, 0.0
        for n in range(count):
            osl = state.requests[slots[worker, n].request].osl
            used += osl - slots[worker, n].left
            whole += osl
        state.replicas[replica].ratio = min(1.0, (used + RETRACT_STEPS * count) / max(whole, 1.0))
    drop_slot(state, worker, j)
    if cfg.to_back:
        enqueue(state, tech, request, replica, now)
    else:  # the key of its arrival brings it to its place
        requeue(state, tech, request, replica, now)
    return int(taken)


@njit_inline
def work_on_running(
    state: State, tech: Any, cfg: Any, worker: int, replica: int, now: float, budget: int, prompts: bool, decodes: bool
) -> tuple[int, bool]:
    """Give running requests their tokens, in order; ``(budget left, whether someone was preempted)``."""
    if tech is not None:
        apart()
    slots, workers = state.slots, state.workers
    preempted = False
    block, cap, fixed = cfg.block, cfg.cap, cfg.fixed
    each = 1  # tokens of a decode
    if tech is not None and decodes and tech.records[state.replicas[replica].pool].guess > 0:
        each = plan_guesses(state, tech, worker, replica, budget, now)
    j = 0
    while j < workers[worker].count and budget > 0:
        slot = slots[worker, j]
        computed = wide(slot.computed)
        rest = wide(slot.target) - computed
        if rest > 0:
            if not prompts:
                j += 1
                continue
            if cfg.threshold > 0:
                rest = min(rest, cfg.threshold)
            rest = min(rest, budget)
            if tech is not None:
                rest = min(rest, workers[worker].prompt_left)
                if rest == 0:
                    j += 1
                    continue
                if workers[worker].prompt_left < NO_LIMIT:
                    workers[worker].prompt_left -= rest
            ahead = computed + rest
        else:
            if not decodes or slot.left == 0 or each > budget:
                j += 1
                continue
            rest = each
            ahead = computed + min(each, wide(slot.left))
        if min(ahead, cap) > (slot.blocks - fixed) * block:
            need = blocks_of(cfg, ahead) - slot.blocks
            gone, stalled = False, False
            while not take_blocks(state, tech, cfg, replica, need):
                victim = find_victim(state, tech, cfg, worker, now)
                if tech is not None:
                    if cfg.migrate and state.replicas[replica].sending > 0:  # blocks are about to be free
                        stalled = True
                        break
                    if cfg.migrate and workers[worker].count > 1:
                        taken = slots[worker, victim].step_tokens
                        if move_instead(state, tech, cfg, worker, replica, victim, now):
                            budget += taken
                            preempted = True
                            gone = victim == j
                            stalled = not gone
                            if victim < j:
                                j -= 1
                            break
                budget += preempt(state, tech, cfg, worker, replica, victim, now)
                preempted = True
                if victim == j:
                    gone = True
                    break
                if victim < j:
                    j -= 1
            if gone:  # the next one has taken its place
                continue
            if stalled:
                preempted = True
                j += 1
                continue
            slots[worker, j].blocks += need
        slots[worker, j].step_tokens = rest
        budget -= rest
        j += 1
    return budget, preempted


@njit_inner
def hold_back(state: State, cfg: Any, worker: int, replica: int) -> bool:
    """Whether prompts wait for more of them, while others decode (TensorRT-LLM's batch_wait_timeout_iters)."""
    place, count = state.replicas[replica], state.workers[worker].count
    if place.waiting < 0 or count == 0:
        return False
    first = state.requests[place.waiting]
    tokens = count + place.queued * (first.isl + first.osl - first.remaining)  # as if all were like the first
    if tokens >= cfg.wait_tokens or place.waited >= cfg.wait_steps:
        place.waited = 0
        return False
    place.waited += 1
    return True


@njit_inner
def plan_guesses(state: State, tech: Tech, worker: int, replica: int, budget: int, now: float) -> int:
    """Tokens per decode of the next step."""
    apart()
    slots, k = state.slots, state.replicas[replica].pool
    record = tech.records[k]
    count, context = 0, 0.0
    for j in range(state.workers[worker].count):
        if slots[worker, j].computed >= slots[worker, j].target and slots[worker, j].left > 0:
            count += 1
            context += slots[worker, j].computed + 1
    guesses = choose_guesses(record, state.data, state.layout[k], float(count), context, budget)
    if tech.has_rule[GUESS_RULE]:
        most = min(record.most, budget)
        chosen = tech.rules.guess(view_of(state, tech), worker, replica, count, context, most)
        if 0 <= chosen <= most:
            guesses = int(chosen)
    state.workers[worker].guesses = guesses
    return queries_for(record, guesses)


@njit_inner
def apply_rules(state: State, tech: Tech, cfg: Any, worker: int, replica: int, now: float) -> None:
    """Preempt whom a rule preempts, and ask a rule how many prompt tokens the step may have."""
    apart()
    if tech.has_rule[PREEMPT_RULE] and not cfg.static:
        for _ in range(state.workers[worker].count):
            chosen = tech.rules.preempt(view_of(state, tech), worker, replica, now)
            if chosen < 0 or chosen >= state.workers[worker].count:
                break
            preempt(state, tech, cfg, worker, replica, chosen, now)
    state.workers[worker].prompt_left = NO_LIMIT
    if tech.has_rule[STEP_RULE] and state.workers[worker].count > 0:
        state.workers[worker].prompt_left = max(0, tech.rules.step(view_of(state, tech), worker, replica, now))


@njit_inner
def lower_ratio(cfg: Any, ratio: float) -> float:
    """SGLang's new-token ratio after one more step of decodes."""
    start = min(0.7 * cfg.conservativeness, 1.0)
    return float(max(ratio - start * (1 - RATIO_FLOOR) / RATIO_STEPS, start * RATIO_FLOOR))


@njit_inline
def choose_tokens(state: State, tech: Any, cfg: Any, worker: int, replica: int, now: float) -> bool:
    """Decide the tokens of every running request for the next step of a worker; False when there is nothing to do."""
    if tech is not None:
        apart()
    own = state.workers[worker]
    if not cfg.mixed and own.count == 0:
        own.forming = 1
    left, budget = cfg.max_tokens, cfg.max_tokens
    for turn in range(2):  # prompts, with the decodes in engines that mix them; else decodes in a step of their own
        left = budget
        left, preempted = work_on_running(
            state, tech, cfg, worker, replica, now, left, turn == 0, turn == 1 or cfg.mixed == 1
        )
        if turn == 1:
            break
        held = preempted or (cfg.static and own.forming == 0)
        if not held and (cfg.wait_steps == 0 or not hold_back(state, cfg, worker, replica)):
            left = admit(state, tech, cfg, worker, replica, now, left)
        if left < budget or cfg.mixed:
            return bool(left < budget)
        own.forming = 0
        budget = max(budget, cfg.max_seqs)
        if tech is not None:
            record = tech.records[state.replicas[replica].pool]
            if record.guess > 0:
                budget *= queries_for(record, record.most)
    if cfg.admission == ESTIMATE:
        state.replicas[replica].ratio = lower_ratio(cfg, state.replicas[replica].ratio)
    return bool(left < budget)


@njit_inline
def choose_step(state: State, tech: Any, cfg: Any, worker: int, replica: int, now: float) -> bool:
    """The same, after what has come to the worker and what rules want first."""
    if tech is not None:
        if state.workers[worker].loading > 0:
            admit_loaded(state, worker, now)
        if cfg.migrate and state.replicas[replica].leaving >= 0 and state.replicas[replica].leave_at <= now:
            leave(state, tech, cfg, worker, replica, now)
        apply_rules(state, tech, cfg, worker, replica, now)
    some = False
    for _ in range(2):
        some = choose_tokens(state, tech, cfg, worker, replica, now)
        if tech is None or some or state.workers[worker].prompt_left == NO_LIMIT:
            break
        state.workers[worker].prompt_left = NO_LIMIT  # a rule may not stop an engine
    return some
