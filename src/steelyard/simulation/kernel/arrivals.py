"""Requests on their way to the engines, compiled: known arrivals, successors of others, encoders.

The arguments are those of :mod:`steelyard.simulation.kernel.waiting`. ``pending``: root of the heap of requests whose
arrival became known during the run.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import njit_inner
from steelyard.simulation.kernel.queue import push
from steelyard.simulation.kernel.routing import encode, send
from steelyard.simulation.kernel.state import ENCODED, ENTRY, HERE, State

__all__ = ["arrive", "next_arrival", "successors"]


@njit_inner
def next_arrival(state: State, known: int, pending: int) -> float:
    """When the next request arrives: of those known beforehand (``known`` have come), or pending; inf for none."""
    soonest = math.inf
    if known < state.order.shape[0]:
        soonest = state.requests[state.order[known]].arrived_at + state.run.request_s
    if pending >= 0:
        soonest = min(soonest, state.requests[pending].key)
    return float(soonest)


@njit_inner
def set_arrival(state: State, request: int, at: float, pending: int) -> int:
    """Put a request into the heap of those to arrive."""
    state.requests[request].key = at
    state.requests[request].seq = state.run.next_seq
    state.run.next_seq += 1
    return int(push(state.requests, pending, request))


@njit_inner
def arrive_later(state: State, request: int, now: float, pending: int) -> int:
    """A request is sent after its delay, and not before its own time."""
    own = state.requests[request]
    delay = state.inputs[request if state.inputs.shape[0] > 1 else 0].delay_s
    own.arrived_at = now + delay if state.run.concurrency > 0 else max(own.arrived_at, now + delay)
    return set_arrival(state, request, own.arrived_at + state.run.request_s, pending)


@njit_inner
def successors(state: State, request: int, now: float, pending: int) -> int:
    """Set the arrival of requests that waited for this one to complete (or be rejected); the new heap."""
    if state.run.concurrency > 0:
        k = state.run.next_request
        if k < state.requests.shape[0]:
            state.run.next_request = k + 1
            pending = arrive_later(state, k, now, pending)
    elif state.children.shape[0] > 0:
        begin = state.inputs[request].child_start
        for c in range(begin, begin + state.inputs[request].child_count):
            child = state.children[c]
            state.inputs[child].predecessors -= 1
            if state.inputs[child].predecessors == 0:
                pending = arrive_later(state, child, now, pending)
    return pending


@njit_inner
def arrive(state: State, tech: Any, request: int, now: float, pending: int) -> int:
    """A request reaches the engines: encoded, routed and queued; or it was rejected and its successors go on."""
    own = state.requests[request]
    if own.status == 1:
        return int(successors(state, request, now, pending))
    if own.origin == ENCODED:
        own.origin = HERE
    else:
        state.run.in_system += 1
        if tech is not None:
            encode_s = state.inputs[request if state.inputs.shape[0] > 1 else 0].encode_s
            if state.run.encoders > 0 and encode_s > 0:
                return set_arrival(state, request, encode(state, request, encode_s, now), pending)
    send(state, tech, request, ENTRY, now)
    return pending
