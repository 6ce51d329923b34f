"""The arrays the kernel works on, and what each of their entries means. Struct of arrays, allocated in one place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ITL_BINS", "ITL_SHORTEST_S", "TOTALS", "Log", "Pools", "Requests", "Setup", "Slots", "itl_edges"]

Array = NDArray[Any]

#: Histogram of times between tokens: logarithmic bins of 0.5 % from 1 us to beyond 1000 s.
ITL_SHORTEST_S, ITL_STEP = 1e-6, 0.005
ITL_BINS = 4400

#: Exact counters, in the order of the kernel's array.
TOTALS = (
    "iterations", "preemptions", "prefill_tokens", "decode_tokens", "dropped_tokens", "cached_tokens", "makespan_s",
    "busy_s", "step_energy_j", "batch_s", "batch_max", "kv_s", "kv_max", "waiting_max", "in_system_s", "itl_sum_s",
    "stop", "evicted_units", "prefill_steps", "completed", "first_arrival_s",
)  # fmt: skip


class Setup(NamedTuple):
    """Limits and rules of a run; see :class:`~steelyard.serve.engine.EngineConfig`."""

    max_tokens: int
    max_seqs: int
    threshold: int
    block: int
    blocks: int
    fixed: int
    cap: int
    mixed: int
    chunked: int
    admission: int
    victim: int
    to_back: int
    static: int
    watermark: int
    replicas: int
    lanes: int
    """Pipeline stages: so many steps are in flight in each replica."""
    router: int
    """0 round-robin, 1 as given by ``Requests.route``, 2 fewest requests."""
    add_time: float
    """1: the order key counts from the time of arrival."""
    concurrency: int
    unit_tokens: int
    """Tokens of one cached prefix unit, 0 = no prefix cache; ``unit_blocks`` blocks hold it."""
    unit_blocks: int
    conservativeness: float
    request_s: float
    max_time_s: float
    max_iterations: int
    sharp: int
    """1: keep every step of the log up to its length; 0: no log."""


class Requests(NamedTuple):
    """One entry per request."""

    isl: Array
    osl: Array
    arrived_at: Array
    """Client time; known beforehand or written when it happens."""
    delay_s: Array
    """Length 1: the same for all."""
    base: Array
    """Order key of the policy; length 1: the same for all."""
    route: Array
    order: Array
    """Requests whose arrival is known beforehand, by time."""
    waits: Array
    """Predecessors still to complete; length 1 without dependencies."""
    child_offsets: Array
    children: Array
    unit_offsets: Array
    units: Array
    """Prefix units, numbered from 0."""
    key: Array
    seq: Array
    left_child: Array
    right_child: Array
    scheduled_at: Array
    first_at: Array
    last_at: Array
    """Time of the newest token."""
    remaining: Array
    """Tokens still to generate."""
    preemptions: Array
    cached: Array
    replica: Array
    status: Array
    held: Array
    """Prefix units it shares now; length 1 without a prefix cache."""


class Slots(NamedTuple):
    """Running requests, ``[lane, slot]`` in order of admission; a replica has one lane per pipeline stage."""

    request: Array
    computed: Array
    target: Array
    """Tokens to compute before the next token comes out: prompt, and what was generated before a preemption."""
    left: Array
    blocks: Array
    take: Array
    """Tokens of the step in flight."""
    token_at: Array
    count: Array
    """``[lane]`` running requests."""
    end: Array
    """``[lane]`` when the step in flight ends; inf when idle."""
    last_end: Array
    forming: Array
    """``[lane]`` static batching: the batch may still grow."""


class Pools(NamedTuple):
    """One entry per replica."""

    free: Array
    waiting: Array
    """Root of the heap of waiting requests, -1 when none."""
    queued: Array
    load: Array
    ratio: Array
    """SGLang's new-token ratio."""
    stage_free: Array
    stage_out: Array
    refs: Array
    """``[replica, unit]``: requests that hold a unit; -1: not cached."""
    older: Array
    newer: Array
    oldest: Array
    newest: Array
    evictable: Array
    """Units nobody holds."""


class Log(NamedTuple):
    """Steps."""

    start: Array
    duration: Array
    replica: Array
    batch: Array
    prefill: Array
    decode: Array
    blocks: Array
    running: Array
    waiting: Array
    meta: Array
    """``[entries, stride, steps seen]``."""


def itl_edges() -> NDArray[np.float64]:
    """Edges of the histogram of times between tokens, ``[ITL_BINS + 1]`` s."""
    return np.asarray(ITL_SHORTEST_S * np.exp(ITL_STEP * np.arange(ITL_BINS + 1)), dtype=np.float64)


def allocate_log(entries: int) -> Log:
    """An empty log of so many steps at most (an even number, 2 at least)."""
    size = max(2, entries + entries % 2)
    floats = [np.zeros(size) for _ in range(2)]
    numbers = [np.zeros(size, dtype=np.int32) for _ in range(7)]
    return Log(*floats, *numbers, np.array([0, 1, 0], dtype=np.int64))


def allocate_slots(lanes: int, sequences: int) -> Slots:
    """Empty slots."""
    numbers = [np.zeros((lanes, sequences), dtype=np.int32) for _ in range(6)]
    return Slots(
        *numbers, np.zeros((lanes, sequences)), np.zeros(lanes, dtype=np.int64), np.full(lanes, np.inf),
        np.full(lanes, -1.0), np.ones(lanes, dtype=np.int64),
    )  # fmt: skip


def allocate_pools(replicas: int, blocks: int, units: int, ratio: float) -> Pools:
    """Empty caches and queues."""
    shape = (replicas, max(1, units))
    return Pools(
        free=np.full(replicas, blocks, dtype=np.int64),
        waiting=np.full(replicas, -1, dtype=np.int64),
        queued=np.zeros(replicas, dtype=np.int64),
        load=np.zeros(replicas, dtype=np.int64),
        ratio=np.full(replicas, ratio),
        stage_free=np.zeros(replicas),
        stage_out=np.zeros(replicas),
        refs=np.full(shape, -1, dtype=np.int32),
        older=np.full(shape, -1, dtype=np.int32),
        newer=np.full(shape, -1, dtype=np.int32),
        oldest=np.full(replicas, -1, dtype=np.int64),
        newest=np.full(replicas, -1, dtype=np.int64),
        evictable=np.zeros(replicas, dtype=np.int64),
    )
