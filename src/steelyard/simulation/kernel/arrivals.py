"""Requests on their way to the engines, compiled: known arrivals, successors of others, encoders.

The arguments are those of :mod:`steelyard.simulation.kernel.waiting`. Requests whose arrival became known during
the run are in a heap with the root ``run.pending``.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit_inner, wide
from steelyard.simulation.kernel.queue import push
from steelyard.simulation.kernel.routing import encode, send
from steelyard.simulation.kernel.state import DECODED, ENCODED, ENTRY, HERE, SENT_IN, State

__all__ = ["arrive", "enter", "known_arrival", "next_arrival", "successors", "take_front"]


@njit_inner
def known_arrival(state: State) -> float:
    """When the next of those known beforehand reaches an engine; inf for none."""
    run = state.run
    if run.known == state.order.shape[0]:
        return math.inf
    return float(max(state.requests[state.order[run.known]].arrived_at, run.front_free) + run.request_s)


@njit_inner
def take_front(state: State, request: int, at: float) -> float:
    """Let the front end work on a request that is sent at a time; when it begins."""
    run = state.run
    begin = max(at, run.front_free)
    run.front_free = begin + run.front_s
    return float(begin)


@njit_inner
def next_arrival(state: State) -> float:
    """When the next request arrives: of those known beforehand (``run.known`` have come), or pending; inf for none."""
    soonest = known_arrival(state)
    run = state.run
    if run.pending >= 0:
        soonest = min(soonest, state.requests[run.pending].key)
    return float(soonest)


@njit_inner
def set_arrival(state: State, request: int, at: float) -> None:
    """Put a request into the heap of those to arrive."""
    state.requests[request].key = at
    state.requests[request].seq = state.run.next_seq
    state.run.next_seq += 1
    state.run.pending = push(state.requests, state.run.pending, request)


@njit_inner
def arrive_later(state: State, request: int, now: float) -> None:
    """A request is sent after its delay, and not before its own time."""
    own = state.requests[request]
    delay = state.inputs[request if state.inputs.shape[0] > 1 else 0].delay_s
    own.arrived_at = now + delay if state.run.concurrency > 0 else max(own.arrived_at, now + delay)
    if state.run.front_s > 0.0:  # its turn is known when it is sent: others may be sent before
        own.origin = SENT_IN
        set_arrival(state, request, own.arrived_at)
    else:
        set_arrival(state, request, own.arrived_at + state.run.request_s)


@njit_inner
def enter(state: State, request: int) -> None:
    """A request that waited for others is sent: the front end takes it, and the engines get it after that."""
    own = state.requests[request]
    own.origin = HERE
    set_arrival(state, request, take_front(state, request, own.arrived_at) + state.run.request_s)


@njit_inner
def successors(state: State, request: int, now: float) -> None:
    """Set the arrival of requests that waited for this one to complete (or be rejected)."""
    apart()
    if state.run.concurrency > 0:
        k = state.run.next_request
        if k < state.requests.shape[0]:
            state.run.next_request = k + 1
            arrive_later(state, k, now)
    elif state.children.shape[0] > 0:
        begin = state.inputs[request].child_start
        for c in range(begin, begin + state.inputs[request].child_count):
            child = wide(state.children[c])
            state.inputs[child].predecessors -= 1
            if state.inputs[child].predecessors == 0:
                arrive_later(state, child, now)


@njit_inner
def arrive(state: State, tech: Any, request: int, now: float) -> None:
    """A request reaches the engines: encoded, routed and queued; or it was rejected and its successors go on."""
    apart()
    own = state.requests[request]
    if own.status == 1:
        successors(state, request, now)
        return
    if own.origin == ENCODED:
        own.origin = HERE
    else:
        if own.origin == DECODED:
            own.origin = HERE
        else:
            state.run.in_system += 1
            state.totals[0].in_system_s += now - own.arrived_at - state.run.request_s  # before the API server
            read = state.inputs[request if state.inputs.shape[0] > 1 else 0]
            host_s = read.host_s
            if host_s > 0:
                begin = max(now, state.run.host_free)
                state.run.host_free = begin + host_s * max(1, read.host_parts) / state.run.hosts
                own.origin = DECODED
                set_arrival(state, request, begin + host_s)
                return
        if tech is not None:
            shown = state.inputs[request if state.inputs.shape[0] > 1 else 0]
            if state.run.encoders > 0 and shown.encode_s > 0:
                set_arrival(state, request, encode(state, request, shown.encode_s, max(1, shown.parts), now))
                return
    own.last_at = now
    send(state, tech, request, wide(ENTRY), now)
