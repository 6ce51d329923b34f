"""The event kernel: arrivals and ends of steps in order of (time, priority, sequence), compiled by numba.

At one time timers come first, then steps end, then requests arrive, then idle engines begin a step. A step is chosen by
:mod:`steelyard.simulation.kernel.schedule`, priced by the step table, and applied when it ends
(:mod:`steelyard.simulation.kernel.steps`). Nothing here is random.

There are two kernels of this one text: the lean one, for which ``tech`` is None and everything under
``if tech is not None`` is left out before numba looks at it, and the full one. Both are compiled once and kept on disk.
"""

from __future__ import annotations

import math
from typing import Any

from steelyard.cost.jit import apart, njit, njit_inline, njit_inner, wide
from steelyard.simulation.kernel.arrivals import arrive, enter, known_arrival, next_arrival, take_front
from steelyard.simulation.kernel.events import begin_events, come_up, fail, scale
from steelyard.simulation.kernel.migrate import BALANCE_S, balance
from steelyard.simulation.kernel.queue import pop
from steelyard.simulation.kernel.routing import arrived_cache
from steelyard.simulation.kernel.schedule import choose_step
from steelyard.simulation.kernel.state import (
    BALANCE,
    DOWN,
    FAILING,
    SCALE,
    SENT,
    SENT_IN,
    SLO_MISSED,
    STEP_LIMIT,
    TIME_LIMIT,
    UP,
    State,
    Tech,
)
from steelyard.simulation.kernel.steps import begin_step, begin_together, end_step, run_decodes
from steelyard.simulation.kernel.timer import set_timer, take_timer
from steelyard.simulation.kernel.transfer import next_ready

__all__ = ["run_kernel"]

#: Failures and restarts without a step between them after which nothing is expected to come any more, and looks
#: without a step after which it is asked whether anything can.
QUIET_MOST, LOOKS = 100_000, 1000


@njit_inner
def dispatch_event(state: State, tech: Tech, event: int, target: int, argument: int, now: float) -> None:
    """Let an event of the deployment happen."""
    apart()
    if event == SENT:
        arrived_cache(state, tech, target, argument, now)
    elif event == DOWN:
        fail(state, tech, target, argument, now)
    elif event == UP:
        come_up(state, tech, target, now)
    elif event == SCALE:
        every = state.setups[target].interval_s
        at = now + every if scale(state, tech, target, now) else next_look(state, tech, now, every)
        set_timer(state, tech, at, wide(SCALE), target, wide(0))
    elif event == BALANCE:
        balance(state, tech, target, now)
        set_timer(state, tech, next_look(state, tech, now, BALANCE_S), wide(BALANCE), target, wide(0))


@njit_inner
def next_look(state: State, tech: Tech, now: float, every: float) -> float:
    """When to look at a pool again that needed nothing: while no request is at a replica, after the next event."""
    apart()
    at = now + every
    for worker in range(state.workers.shape[0]):
        own = state.workers[worker]
        if own.count + own.loading > 0 or state.replicas[own.replica].waiting >= 0:
            return at
    soonest = next_arrival(state)
    for n in range(state.run.timers):
        if not is_look(tech.timers[n].event):
            soonest = min(soonest, tech.timers[n].at)
    if soonest == math.inf or soonest <= at:
        return at
    return float(now + every * math.ceil((soonest - now) / every))


@njit_inner
def is_look(event: int) -> bool:
    """Whether an event only looks whether anything is to be done."""
    return bool(event in (SCALE, BALANCE))


@njit_inner
def is_stuck(state: State, tech: Tech) -> bool:
    """Whether requests wait for ever: none arrives, nothing computes, no cache and no replica is on its way."""
    apart()
    if next_arrival(state) < math.inf:
        return False
    for worker in range(state.workers.shape[0]):
        if state.workers[worker].end < math.inf:
            return False
    coming = 0
    for n in range(state.run.timers):
        coming += tech.timers[n].event in (SENT, UP)
    return coming == 0


@njit_inline
def begin_work(state: State, tech: Any, worker: int, now: float, limit: float) -> None:
    """Let an idle worker begin a step, when it has anything to do. ``limit``: nothing changes before; 0 unknown."""
    own = state.workers[worker]
    place = state.replicas[own.replica]
    if own.count == 0 and place.waiting < 0 and own.loading == 0:
        return
    cfg = state.setups[place.pool]
    if tech is not None and cfg.lockstep:
        first = worker - (worker - place.offset) % cfg.ranks
        some = False
        for n in range(first, first + cfg.ranks):
            if choose_step(state, tech, cfg, n, state.workers[n].replica, now):
                some = True
        if some:
            begin_together(state, tech, cfg, first, now)
        else:
            own.end = next_ready(state, worker)
        return
    if tech is None and now < limit:
        now = run_decodes(state, tech, cfg, worker, now, limit)
    if choose_step(state, tech, cfg, worker, own.replica, now):
        begin_step(state, tech, cfg, worker, now)
    else:
        own.end = math.inf
        if tech is not None:
            own.end = next_ready(state, worker)


@njit
def run_kernel(state: State, tech: Any) -> None:
    """Play all events."""
    run, workers, requests = state.run, state.workers, state.requests
    first = state.totals[0]
    alone = workers.shape[0] == 1 or (run.log == 0 and run.concurrency == 0 and state.children.shape[0] == 0)
    before, quiet, looks = 0, 0, 0
    now = -1.0
    while True:
        soonest = next_arrival(state)
        for worker in range(workers.shape[0]):
            soonest = min(soonest, workers[worker].end)
        if tech is not None and run.timers > 0:
            soonest = min(soonest, tech.timers[0].at)
        if soonest == math.inf:
            break
        if now < 0:
            first.first_arrival_s = soonest - run.request_s
            if tech is not None and run.has_events:
                begin_events(state, tech, soonest)
        else:
            first.in_system_s += run.in_system * (soonest - now)
        now = soonest
        if now - first.first_arrival_s > run.max_time_s:
            first.stop = TIME_LIMIT
            break
        if tech is not None:
            while run.timers > 0 and tech.timers[0].at == now:
                take_timer(state, tech, wide(0))
                timer = tech.timers[tech.timers.shape[0] - 1]
                if is_look(timer.event):
                    looks += 1
                else:
                    quiet += 1
                dispatch_event(state, tech, timer.event, timer.target, timer.argument, now)
        for worker in range(workers.shape[0]):
            if workers[worker].end == now and workers[worker].busy:
                cfg = state.setups[state.replicas[workers[worker].replica].pool]
                end_step(state, tech, cfg, worker, now)
        if min(run.ttft_left, run.tpot_left, run.e2e_left) < 0:
            first.stop = SLO_MISSED
            break
        while next_arrival(state) <= now:
            at = known_arrival(state)
            if run.pending >= 0 and requests[run.pending].key < at:
                request = run.pending
                run.pending = pop(requests, request)
                if requests[request].origin == SENT_IN:
                    enter(state, request)
                    continue
            else:
                request = state.order[run.known]
                run.known += 1
                take_front(state, request, requests[request].arrived_at)
            arrive(state, tech, request, now)
        limit = 0.0
        if alone:
            limit = min(next_arrival(state), first.first_arrival_s + run.max_time_s)
        for worker in range(workers.shape[0]):
            if not workers[worker].busy:
                begin_work(state, tech, worker, now, limit)
        if run.steps > run.max_iterations:
            first.stop = STEP_LIMIT
            break
        if tech is not None and run.has_events:  # events of the deployment never end by themselves
            if run.steps > before:
                quiet, looks = 0, 0
            before = run.steps
            if run.in_system == 0 and run.known == state.order.shape[0] and run.pending < 0:
                break
            stuck = False
            if looks >= LOOKS:
                looks, stuck = 0, is_stuck(state, tech)
            if stuck or quiet > QUIET_MOST or run.timers_full:
                first.stop = FAILING
                break
    if first.stop == 0:  # the last tokens are still on their way
        for n in range(state.replicas.shape[0]):
            now = max(now, state.replicas[n].sent_at)
    first.makespan_s = max(0.0, now - first.first_arrival_s) if now >= 0 else 0.0
