"""Which replica does what, compiled: routing to the stages of a deployment and handing over between them."""

from __future__ import annotations

from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.queue import push
from steelyard.simulation.kernel.rule_calls import view_of
from steelyard.simulation.kernel.rules import ROUTE_RULE
from steelyard.simulation.kernel.state import ENCODED, ENCODER, HERE, OUTPUT, State, Tech
from steelyard.simulation.kernel.waiting import cached_units, enqueue, release

__all__ = ["arrived_cache", "encode", "hand_over", "leaves", "send"]

ROUND_ROBIN, GIVEN, LEAST_LOADED, LONGEST_PREFIX = range(4)


@njit_inner
def can_take(state: State, replica: int, tokens: int) -> bool:
    """Whether a replica is up and can hold a request of so many tokens."""
    return bool(state.replicas[replica].up and state.replicas[replica].longest >= tokens)


@njit_inner
def route(state: State, tech: Any, request: int, stage: int) -> int:
    """The replica for a request, -1 when none that could hold it is up."""
    if tech is not None:
        apart()
    run, replicas, requests = state.run, state.replicas, state.requests
    ways = state.ways[stage]
    given = state.inputs[request if state.inputs.shape[0] > 1 else 0]
    head, count, router = 0, run.entries, run.router
    tokens = requests[request].isl + requests[request].osl
    assigned = False
    if stage == OUTPUT:
        count, router = run.outputs, LEAST_LOADED
    elif given.pool >= 0:  # the replicas of its own pool only
        assigned = True
        while head < count and replicas[ways[head]].pool != given.pool:
            head += 1
        count = min(count - head, state.setups[given.pool].replicas)
    if count == 0:
        return -1
    if count == 1:
        return int(ways[head]) if can_take(state, ways[head], tokens) else -1
    if router <= GIVEN:
        begin = given.route if router == GIVEN else replicas[ways[head]].turn if assigned else run.turn
        for k in range(count):
            replica = ways[head + (begin + k) % count]
            if can_take(state, replica, tokens):
                if router == ROUND_ROBIN and assigned:
                    replicas[ways[head]].turn = begin + k + 1
                elif router == ROUND_ROBIN:
                    run.turn = begin + k + 1
                return int(replica)
        return -1
    best, most = -1, 0  # prefix units it could reuse; none counts for the least-loaded router
    for k in range(count):
        replica = ways[head + k]
        if not can_take(state, replica, tokens):
            continue
        hits = 0
        cfg = state.setups[replicas[replica].pool]
        if router == LONGEST_PREFIX and cfg.unit_tokens > 0:
            hits = cached_units(state, cfg, request, wide(requests[request].isl), replica)[0]
        lighter = False
        if best >= 0:
            own, other = replicas[replica], replicas[best]
            lighter = (own.load + 1) * other.weight < (other.load + 1) * own.weight
        if best < 0 or hits > most or (hits == most and lighter):
            best, most = replica, hits
    return int(best)


@njit_inner
def send(state: State, tech: Any, request: int, stage: int, now: float) -> None:
    """Queue a request at a replica of a stage; while none can take it, it waits for one."""
    if tech is not None:
        apart()
    state.requests[request].seq = state.run.next_seq
    state.run.next_seq += 1
    replica = -1
    if tech is not None and tech.has_rule[ROUTE_RULE]:
        replica = int(tech.rules.route(view_of(state, tech), request, stage, now))
        tokens = state.requests[request].isl + state.requests[request].osl
        if not 0 <= replica < state.replicas.shape[0] or not can_take(state, replica, tokens):
            replica = -1
    if replica < 0:
        replica = route(state, tech, request, stage)
    if replica < 0:
        if tech is not None:
            state.requests[request].key = now
            tech.stranded[stage] = push(state.requests, tech.stranded[stage], request)
            tech.stranded[3 + stage] += 1
        return
    state.replicas[replica].load += 1
    enqueue(state, tech, request, replica, now)
    if stage == OUTPUT:
        state.requests[request].answered_by = replica


@njit_inner
def hand_over(state: State, tech: Tech, worker: int, replica: int, j: int, now: float) -> None:
    """A prompt is done in a replica for prompts: its cache stays there until a replica for outputs has it."""
    apart()
    slot = state.slots[worker, j]
    i = wide(slot.request)
    state.requests[i].remaining = slot.left
    state.requests[i].last_at = now
    state.requests[i].origin = replica
    state.requests[i].kept = slot.blocks
    state.replicas[replica].load -= 1
    send(state, tech, i, wide(OUTPUT), now)


@njit_inner
def leaves(state: State, tech: Tech, request: int, replica: int, now: float) -> bool:
    """Whether a replica for prompts hands a request over: unless a rule names that replica for its output too."""
    apart()
    if not tech.has_rule[ROUTE_RULE]:
        return True
    return bool(tech.rules.route(view_of(state, tech), request, OUTPUT, now) != replica)


@njit_inner
def relay_first(state: State, i: int, worker: int, k: int, now: float) -> None:
    """The first token reaches the client when the replica for answers has the cache, and not when it was computed."""
    request, run = state.requests[i], state.run
    if state.slots[worker, k].left != request.osl - 1 or now <= request.first_at:
        return
    late = now - request.arrived_at
    if late > run.ttft_s and request.first_at - request.arrived_at <= run.ttft_s:
        run.ttft_left -= 1
    request.first_at = now
    state.slots[worker, k].token_at = now


@njit_inner
def arrived_cache(state: State, tech: Tech, i: int, worker: int, now: float) -> None:
    """The cache of a request has come to a worker: the sender forgets it."""
    apart()
    slots, workers, requests = state.slots, state.workers, state.requests
    for k in range(workers[worker].count + workers[worker].loading):
        if slots[worker, k].request == i and slots[worker, k].ready_at == now and requests[i].origin >= 0:
            sender = wide(requests[i].origin)
            if state.setups[state.replicas[sender].pool].relays:
                relay_first(state, i, worker, k, now)
            state.replicas[sender].sending -= 1
            release(state, tech, state.setups[state.replicas[sender].pool], sender, i, wide(requests[i].kept))
            requests[i].origin = HERE
            requests[i].kept = 0
            return


@njit_inner
def encode(state: State, request: int, seconds: float, parts: int, now: float) -> float:
    """Give each part of a request to the encoder that is free first; when the last is done."""
    ways, replicas = state.ways[ENCODER], state.replicas
    last = now
    for _ in range(parts):
        e = ways[0]
        for n in range(1, state.run.encoders):
            if replicas[ways[n]].stage_free < replicas[e].stage_free:
                e = ways[n]
        done = max(now, replicas[e].stage_free) + seconds
        replicas[e].stage_free = done
        last = max(last, done)
        k = replicas[e].pool
        state.totals[k].iterations += 1
        state.totals[k].busy_s += seconds
    state.requests[request].origin = ENCODED
    return float(last)
