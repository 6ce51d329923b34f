"""A plain-Python twin of the simulator's rules, slow and short: the oracle of the kernel's tests.

It keeps requests as objects, queues and caches as lists and dictionaries, and shares nothing with the kernel but the
price of a step. It is written from the rules of ``docs/methods/serving.md``, for vLLM v1 engines in any number of
pools and replicas, every router, the prefix cache, and pools for prompts and answers.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ReferencePool", "ReferenceRun", "Wire", "reference_run"]

StepTime = Callable[[int, int, int, float, int, float, float], float]
#: What a prefix unit is: all hashes from the beginning of the prompt to its end.
Unit = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReferencePool:
    """Equal replicas of one engine. ``overlap``: share of a cache that is sent while its prompt is computed.

    ``ahead``: a step is chosen while the one before it runs.
    """

    step_time: StepTime
    blocks: int
    block_tokens: int
    max_num_batched_tokens: int
    max_num_seqs: int
    replicas: int = 1
    role: str = "both"
    prefix_caching: bool = True
    weight: float = 1.0
    overlap: float = 0.0
    ahead: bool = False
    stream_s: float = 0.0
    """Time of the API server for a token of an answer."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Sending the cache of ``t`` tokens takes ``t * token_s`` of the sender's link, and ``latency_s`` more."""

    latency_s: float = 0.0
    token_s: float = 0.0


@dataclass(slots=True)
class _Request:
    index: int
    isl: int
    osl: int
    units: list[Unit] = field(default_factory=list)
    queued_at: float = 0.0
    came_at: float = 0.0
    order: int = 0
    generated: int = 0
    computed: int = 0
    target: int = 0
    take: int = 0
    private: int = 0
    """Blocks of its own."""
    held: list[Unit] = field(default_factory=list)
    """Cached units it holds, shared with others."""
    ready_at: float = -1.0
    """When its cache is here; -1 = it never was elsewhere."""
    keeper: _Replica | None = None
    """Who keeps its cache, while that is not where it waits or runs."""
    kept: tuple[int, list[Unit]] = (0, [])
    prompt_ended_at: float = 0.0
    scheduled_at: float = -1.0
    first_at: float = -1.0
    ended_at: float = -1.0
    cached: int = 0
    preemptions: int = 0
    replica: int = -1
    answered_by: int = -1

    def __lt__(self, other: _Request) -> bool:
        return (self.queued_at, self.order) < (other.queued_at, other.order)


@dataclass(slots=True)
class ReferenceRun:
    """What happened: per request, and every event as ``(time, what, request)``."""

    scheduled_at: list[float]
    first_at: list[float]
    ended_at: list[float]
    preemptions: list[int]
    cached: list[int]
    replica: list[int]
    answered_by: list[int]
    iterations: int
    events: list[tuple[float, str, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Replica:
    number: int
    pool: ReferencePool
    unit_tokens: int
    events: list[tuple[float, str, int]]
    waiting: list[_Request] = field(default_factory=list)
    running: list[_Request] = field(default_factory=list)
    coming: list[_Request] = field(default_factory=list)
    holders: dict[Unit, int] = field(default_factory=dict)
    """Cached units and how many requests hold each."""
    idle: list[Unit] = field(default_factory=list)
    """Cached units nobody holds, the one let go longest ago first."""
    lent: int = 0
    """Private blocks of requests that have left and are still being fetched."""
    load: int = 0
    link_free: float = 0.0
    ends_at: float = math.inf
    begun_at: float = 0.0
    sent_at: float = 0.0

    # blocks

    @property
    def unit_blocks(self) -> int:
        return self.unit_tokens // self.pool.block_tokens

    @property
    def free(self) -> int:
        private = sum(r.private for r in self.running) + sum(r.private for r in self.coming) + self.lent
        return self.pool.blocks - private - len(self.holders) * self.unit_blocks

    def need(self, tokens: int) -> int:
        return -(-tokens // self.pool.block_tokens)

    def make_room(self, blocks: int) -> bool:
        """Evict by age until so many are free; nothing when that cannot be."""
        if self.free + len(self.idle) * self.unit_blocks < blocks:
            return False
        while self.free < blocks:
            del self.holders[self.idle.pop(0)]
        return True

    def hold(self, unit: Unit) -> None:
        if self.holders[unit] == 0:
            self.idle.remove(unit)
        self.holders[unit] += 1

    def let_go(self, units: list[Unit]) -> None:
        """Deepest first, so that a prefix outlives what follows it."""
        for unit in reversed(units):
            self.holders[unit] -= 1
            if self.holders[unit] == 0:
                self.idle.append(unit)

    def found(self, request: _Request, known: int) -> list[Unit]:
        """Leading units of its prompt that are cached; the last token known is always computed."""
        hits: list[Unit] = []
        if self.unit_tokens:
            for unit in request.units[: (known - 1) // self.unit_tokens]:
                if unit not in self.holders:
                    break
                hits.append(unit)
        return hits

    def remember(self, request: _Request) -> None:
        """A prompt is computed: its full units become shared ones."""
        if not self.unit_tokens:
            return
        for unit in request.units[len(request.held) : request.isl // self.unit_tokens]:
            request.private -= self.unit_blocks
            if unit in self.holders:
                self.hold(unit)
            else:
                self.holders[unit] = 1
            request.held.append(unit)

    # steps

    def preempt(self, now: float) -> _Request:
        victim = self.running.pop()
        self.let_go(victim.held)
        victim.private = victim.computed = victim.take = 0
        victim.held = []
        victim.preemptions += 1
        insort(self.waiting, victim)
        self.events.append((now, "preempt", victim.index))
        return victim

    def schedule(self, now: float, fetch: Callable[[_Request, _Replica, int, float], float]) -> bool:
        """Give tokens to running requests, then admit waiting ones; False when there is nothing to compute."""
        ready = [r for r in self.coming if r.ready_at <= now]
        self.coming = [r for r in self.coming if r.ready_at > now]
        self.running += ready
        budget, place, preempted = self.pool.max_num_batched_tokens, 0, False
        while place < len(self.running) and budget > 0:
            request = self.running[place]
            take = min(max(request.target - request.computed, 1), budget)
            have = request.private + len(request.held) * self.unit_blocks
            more = max(0, self.need(request.computed + take) - have)
            lost = False
            while not self.make_room(more) and not lost:
                preempted = True
                lost = self.preempt(now) is request
            if lost:
                break
            request.private += more
            request.take = take
            budget -= take
            place += 1
        ahead = self.pool.ahead and bool(self.running)
        while not preempted and self.waiting and budget > 0:
            if len(self.running) + len(self.coming) >= self.pool.max_num_seqs:
                break
            if ahead and self.waiting[0].first_at < 0 and self.waiting[0].came_at > self.begun_at:
                break  # this step was chosen when the one before it began
            taken = self.admit(self.waiting[0], now, budget, fetch)
            if taken is None:
                break
            budget -= taken
        return budget < self.pool.max_num_batched_tokens

    def admit(
        self, request: _Request, now: float, budget: int, fetch: Callable[[_Request, _Replica, int, float], float]
    ) -> int | None:
        """Let a request in when all it knows so far has blocks; the tokens it gets, None when it must wait."""
        elsewhere = request.keeper is not None
        known = request.isl + request.generated - (1 if elsewhere else 0)  # the newest token is not in the cache
        hits = [] if elsewhere else self.found(request, known)
        wanted = self.need(known) - len(hits) * self.unit_blocks
        unused = sum(self.holders[unit] == 0 for unit in hits)
        if wanted > self.free + (len(self.idle) - unused) * self.unit_blocks:
            return None
        self.waiting.pop(0)
        for unit in hits:
            self.hold(unit)
        request.target = known
        request.computed = known if elsewhere else len(hits) * self.unit_tokens
        request.take = 0 if elsewhere else min(known - request.computed, budget)
        own = self.need(request.computed + request.take) - len(hits) * self.unit_blocks
        assert self.make_room(own)
        request.private, request.held = own, hits
        if request.scheduled_at < 0:
            request.scheduled_at, request.cached, request.replica = now, request.computed, self.number
        if elsewhere:
            request.ready_at = fetch(request, self, known, now)
            self.coming.append(request)
        else:
            self.running.append(request)
        self.events.append((now, "admit", request.index))
        return request.take

    def price(self) -> float:
        decodes = [r for r in self.running if r.take and r.computed >= r.target]
        prompts = [r for r in self.running if r.take and r.computed < r.target]
        new = sum(r.take for r in prompts)
        context = float(sum(r.computed + 1 for r in decodes))
        pairs = 0.0
        for r in prompts:
            pairs += r.take * (r.computed + 0.5 * r.take)
        rows = len(decodes) + len(prompts)
        return self.pool.step_time(new + len(decodes), rows, len(decodes), context, len(prompts), float(new), pairs)

    def finish(self, now: float) -> list[_Request]:
        """Who leaves with this step: answers that end, and prompts that go on elsewhere."""
        leaving: list[_Request] = []
        spoken = sum(bool(r.take) and r.computed + r.take >= r.target for r in self.running)
        out = now
        if spoken and self.pool.stream_s:
            out = self.sent_at = max(self.sent_at, now) + spoken * self.pool.stream_s
        for request in self.running:
            if not request.take:
                continue
            was_prompt = request.computed < request.target
            request.computed += request.take
            request.take = 0
            if request.computed < request.target:
                continue
            if was_prompt:
                self.remember(request)
            request.generated += 1
            if request.first_at < 0:
                request.first_at = out
                self.events.append((now, "first", request.index))
            if request.generated == request.osl:
                request.ended_at = out
                self.events.append((now, "end", request.index))
                self.let_go(request.held)
                request.private, request.held = 0, []
            elif self.pool.role != "prefill":
                continue
            leaving.append(request)
        gone = {r.index for r in leaving}
        self.running = [r for r in self.running if r.index not in gone]
        return leaving


@dataclass(slots=True)
class _Fleet:
    replicas: list[_Replica]
    pool_of: list[int]
    router: str
    routes: Sequence[int]
    wires: Mapping[tuple[int, int], Wire]
    turn: int = 0
    order: int = 0

    def stage(self, answers: bool) -> list[_Replica]:
        """Who takes requests that come, or answers whose prompt is done."""
        if not answers:
            return [r for r in self.replicas if r.pool.role in ("both", "prefill")]
        writers = [r for r in self.replicas if r.pool.role == "decode"]
        return writers or [r for r in self.replicas if r.pool.role == "both"]

    def route(self, request: _Request, answers: bool) -> _Replica:
        members = self.stage(answers)
        fits = [r.need(request.isl + request.osl) <= r.pool.blocks for r in members]
        router = "least-loaded" if answers else self.router
        if len(members) == 1:
            return members[0]
        if router in ("round-robin", "random", "session"):
            begin = self.turn if router == "round-robin" else self.routes[request.index]
            place = next(k for k in range(begin, begin + len(members)) if fits[k % len(members)])
            self.turn = place + 1 if router == "round-robin" else self.turn
            return members[place % len(members)]

        def rank(replica: _Replica) -> tuple[float, float]:
            reuse = len(replica.found(request, request.isl)) if router == "prefix" else 0
            return -reuse, (replica.load + 1) / replica.pool.weight

        return min((r for r, fit in zip(members, fits, strict=True) if fit), key=rank)

    def send(self, request: _Request, answers: bool, now: float) -> None:
        request.order = self.order
        self.order += 1
        replica = self.route(request, answers)
        replica.load += 1
        request.queued_at = now
        if answers:
            request.answered_by = replica.number
        insort(replica.waiting, request)

    def hand_over(self, request: _Request, sender: _Replica, now: float) -> None:
        """The cache stays with the sender until a replica for answers has fetched it."""
        request.keeper, request.kept = sender, (request.private, request.held)
        sender.lent += request.private
        request.private, request.held = 0, []
        request.prompt_ended_at = now
        self.send(request, True, now)

    def fetch(self, request: _Request, receiver: _Replica, tokens: int, now: float) -> float:
        """One cache at a time leaves a replica; when this one has come."""
        sender = request.keeper
        assert sender is not None
        wire = self.wires.get((self.pool_of[sender.number], self.pool_of[receiver.number]), Wire())
        whole = tokens * wire.token_s
        overlap = sender.pool.overlap
        begin = now if overlap == 0 else request.prompt_ended_at - overlap * whole
        sender.link_free = max(sender.link_free, begin) + whole
        return max(now, sender.link_free) + wire.latency_s

    def came(self, now: float) -> None:
        """Caches that have come are forgotten by their senders."""
        for replica in self.replicas:
            for request in replica.coming:
                if request.ready_at == now and request.keeper is not None:
                    request.keeper.lent -= request.kept[0]
                    request.keeper.let_go(request.kept[1])
                    request.keeper = None


def _units(trace: Any, unit_tokens: int) -> list[list[Unit]]:
    """Prefix units of every request: a unit of several hashed blocks is whole when its last block is there."""
    if trace.prefix_hashes is None:
        return [[] for _ in range(len(trace))]
    group = unit_tokens // trace.prefix_block_tokens
    found = []
    for begin, end in zip(trace.prefix_offsets[:-1], trace.prefix_offsets[1:], strict=True):
        hashes = tuple(int(x) for x in trace.prefix_hashes[begin:end])
        found.append([hashes[: (k + 1) * group] for k in range(len(hashes) // group)])
    return found


def reference_run(
    trace: Any,
    pools: Sequence[ReferencePool],
    *,
    router: str = "round-robin",
    routes: Sequence[int] = (),
    wires: Mapping[tuple[int, int], Wire] | None = None,
    request_s: float = 0.0,
    front_s: float = 0.0,
) -> ReferenceRun:
    """Serve a trace (open loop, or closed at its concurrency), every replica first come, first served.

    At one time caches come first, then steps end, then requests arrive, then idle replicas begin a step, each in the
    order of the replicas.

    Args:
        trace: a :class:`~steelyard.traffic.trace.Trace` without dependencies.
        pools: engines by role; replicas are numbered pool after pool.
        router: how a request finds its replica; answers go to the least loaded one.
        routes: place of each request among the replicas that take requests, for ``random`` and ``session``.
        wires: by ``(sending pool, receiving pool)``; none = caches come at once.
        request_s: time from the client to the engine.
        front_s: of it, what the API server does for one request after another.
    """
    n = len(trace)
    unit = math.lcm(trace.prefix_block_tokens or 1, *(p.block_tokens for p in pools))
    units = _units(trace, unit)
    requests = [_Request(i, int(trace.isl[i]), int(trace.osl[i]), units[i]) for i in range(n)]
    events: list[tuple[float, str, int]] = []
    cached = trace.prefix_hashes is not None
    owners = [k for k, pool in enumerate(pools) for _ in range(pool.replicas)]
    replicas = [
        _Replica(number, pools[k], unit if cached and pools[k].prefix_caching else 0, events)
        for number, k in enumerate(owners)
    ]
    fleet = _Fleet(replicas, owners, router, routes, wires or {})
    delays = trace.delay_s if trace.delay_s is not None else [0.0] * n
    first = requests[: trace.concurrency] if trace.concurrency else requests
    unsent = requests[trace.concurrency :] if trace.concurrency else []
    known = sorted((float(trace.arrived_at[r.index]), r.index) for r in first)
    coming: list[tuple[float, int, _Request]] = []
    front_free, at_door = 0.0, set[int]()
    iterations = 0
    while True:
        sent = [r.ready_at for replica in replicas for r in replica.coming if r.keeper is not None]
        waking = [r.ready_at for x in replicas if x.ends_at == math.inf for r in x.coming]
        now = min([coming[0][0]] if coming else [math.inf])
        now = min([now, *(max(at, front_free) + request_s for at, _ in known[:1])])
        now = min([now, *sent, *waking, *(x.ends_at for x in replicas)])
        if now == math.inf:
            break
        fleet.came(now)
        for replica in replicas:
            if replica.ends_at == now:
                replica.ends_at = math.inf
                for request in replica.finish(now):
                    replica.load -= 1
                    if request.ended_at < 0:
                        fleet.hand_over(request, replica, now)
                    elif unsent:
                        follower = unsent.pop(0)
                        sent_at = request.ended_at + float(delays[follower.index])
                        if front_s > 0:
                            at_door.add(follower.index)
                        insort(coming, (sent_at if front_s > 0 else sent_at + request_s, fleet.order, follower))
                        fleet.order += 1
        while True:
            reached = max(known[0][0], front_free) + request_s if known else math.inf
            if coming and coming[0][0] < reached and coming[0][0] <= now:
                at, _, request = coming.pop(0)
                if request.index in at_door:  # it is sent now: the API server takes it after those before it
                    at_door.remove(request.index)
                    begin, front_free = max(at, front_free), max(at, front_free) + front_s
                    insort(coming, (begin + request_s, fleet.order, request))
                    fleet.order += 1
                    continue
            elif reached <= now:
                at, place = known.pop(0)
                request, front_free = requests[place], max(at, front_free) + front_s
            else:
                break
            request.came_at = now
            events.append((now, "arrive", request.index))
            fleet.send(request, False, now)
        for replica in replicas:
            if replica.ends_at == math.inf and replica.schedule(now, fleet.fetch):
                replica.begun_at = now
                replica.ends_at = now + replica.price()
                iterations += 1
                events.append((now, "step", len(replica.running)))
    return ReferenceRun(
        [r.scheduled_at for r in requests],
        [r.first_at for r in requests],
        [r.ended_at for r in requests],
        [r.preemptions for r in requests],
        [r.cached for r in requests],
        [r.replica for r in requests],
        [r.answered_by for r in requests],
        iterations,
        events,
    )
