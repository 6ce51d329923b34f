"""A plain-Python twin of the kernel for one vLLM v1 engine: slow, short, and the oracle of the tests.

It keeps requests as objects and lists as lists and shares nothing with the kernel but the price of a step.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ReferenceRun", "reference_run"]

StepTime = Callable[[int, int, int, float, int, float, float], float]


@dataclass(slots=True)
class _Request:
    index: int
    isl: int
    osl: int
    arrived_at: float = 0.0
    order: int = 0
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    take: int = 0
    target: int = 0
    scheduled_at: float = -1.0
    first_at: float = -1.0
    ended_at: float = -1.0
    preemptions: int = 0

    def __lt__(self, other: _Request) -> bool:
        return (self.arrived_at, self.order) < (other.arrived_at, other.order)


@dataclass(slots=True)
class ReferenceRun:
    """What happened: per request, and every event as ``(time, what, request)``."""

    scheduled_at: list[float]
    first_at: list[float]
    ended_at: list[float]
    preemptions: list[int]
    iterations: int
    events: list[tuple[float, str, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Engine:
    blocks: int
    block: int
    max_tokens: int
    max_seqs: int
    events: list[tuple[float, str, int]]
    waiting: list[_Request] = field(default_factory=list)
    running: list[_Request] = field(default_factory=list)

    @property
    def free(self) -> int:
        return self.blocks - sum(r.blocks for r in self.running)

    def need(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def preempt(self, now: float) -> _Request:
        victim = self.running.pop()
        victim.blocks = victim.computed = victim.take = 0
        victim.preemptions += 1
        insort(self.waiting, victim)
        self.events.append((now, "preempt", victim.index))
        return victim

    def schedule(self, now: float) -> bool:
        budget, place, preempted = self.max_tokens, 0, False
        while place < len(self.running) and budget > 0:
            request = self.running[place]
            take = min(max(request.target - request.computed, 1), budget)
            more = self.need(request.computed + take) - request.blocks
            lost = False
            while more > self.free and not lost:
                preempted = True
                lost = self.preempt(now) is request
            if lost:
                break
            request.blocks += max(0, more)
            request.take = take
            budget -= take
            place += 1
        while not preempted and self.waiting and budget > 0 and len(self.running) < self.max_seqs:
            request = self.waiting[0]
            known = request.isl + request.generated
            if self.need(known) > self.free:
                break
            self.waiting.pop(0)
            request.target = known
            request.take = min(known, budget)
            request.blocks = self.need(request.take)
            budget -= request.take
            if request.scheduled_at < 0:
                request.scheduled_at = now
            self.running.append(request)
            self.events.append((now, "admit", request.index))
        return budget < self.max_tokens

    def price(self, step_time: StepTime) -> float:
        decodes = [r for r in self.running if r.take and r.computed >= r.target]
        prompts = [r for r in self.running if r.take and r.computed < r.target]
        new = sum(r.take for r in prompts)
        context = float(sum(r.computed + 1 for r in decodes))
        pairs = 0.0
        for r in prompts:
            pairs += r.take * (r.computed + 0.5 * r.take)
        rows = len(decodes) + len(prompts)
        return step_time(new + len(decodes), rows, len(decodes), context, len(prompts), float(new), pairs)

    def finish(self, now: float) -> list[_Request]:
        done = []
        for request in self.running:
            if not request.take:
                continue
            request.computed += request.take
            request.take = 0
            if request.computed < request.target:
                continue
            request.generated += 1
            if request.first_at < 0:
                request.first_at = now
                self.events.append((now, "first", request.index))
            if request.generated == request.osl:
                request.ended_at = now
                done.append(request)
                self.events.append((now, "end", request.index))
        self.running = [r for r in self.running if r.generated < r.osl]
        return done


def reference_run(
    trace: Any,
    step_time: StepTime,
    *,
    blocks: int,
    block_tokens: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    request_s: float = 0.0,
) -> ReferenceRun:
    """Serve a trace (open loop, or closed at its concurrency) first come, first served.

    Args:
        trace: a :class:`~steelyard.serve.traffic.trace.Trace` without dependencies or prefixes.
        step_time: ``StepTable.time_s``.
        blocks, block_tokens, max_num_batched_tokens, max_num_seqs: the engine's.
        request_s: time from the client to the engine.
    """
    requests = [_Request(i, int(a), int(b)) for i, (a, b) in enumerate(zip(trace.isl, trace.osl, strict=True))]
    delays = trace.delay_s if trace.delay_s is not None else [0.0] * len(requests)
    first = requests[: trace.concurrency] if trace.concurrency else requests
    unsent = requests[trace.concurrency :] if trace.concurrency else []
    coming: list[tuple[float, int, _Request]] = []
    for request in first:
        coming.append((float(trace.arrived_at[request.index]) + request_s, request.index - len(requests), request))
    coming.sort()
    events: list[tuple[float, str, int]] = []
    engine = _Engine(blocks, block_tokens, max_num_batched_tokens, max_num_seqs, events)
    end, iterations, order = float("inf"), 0, 0
    while coming or end < float("inf"):
        now = min(coming[0][0] if coming else float("inf"), end)
        if end == now:
            for _ in engine.finish(now):
                if unsent:
                    request = unsent.pop(0)
                    insort(coming, (now + float(delays[request.index]) + request_s, order, request))
                    order += 1
            end = float("inf")
        while coming and coming[0][0] <= now:
            request = coming.pop(0)[2]
            request.arrived_at, request.order = now, order
            order += 1
            events.append((now, "arrive", request.index))
            insort(engine.waiting, request)
        if end == float("inf") and (engine.running or engine.waiting) and engine.schedule(now):
            end = now + engine.price(step_time)
            iterations += 1
            events.append((now, "step", len(engine.running)))
    return ReferenceRun(
        [r.scheduled_at for r in requests],
        [r.first_at for r in requests],
        [r.ended_at for r in requests],
        [r.preemptions for r in requests],
        iterations,
        events,
    )
