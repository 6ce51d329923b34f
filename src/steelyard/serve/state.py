"""The arrays the kernel works on, and what each of their fields means. Packed records, allocated in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXTRA",
    "ITL_BINS",
    "LINKS",
    "LOG",
    "POOL",
    "REQUEST",
    "SETUP",
    "SLOT",
    "TOTALS",
    "UNIT",
    "WORKER",
    "itl_edges",
]

#: Histogram of times between tokens: logarithmic bins of 0.5 % from 1 us to beyond 1000 s.
ITL_SHORTEST_S, ITL_STEP = 1e-6, 0.005
ITL_BINS = 4400


def _fields(kind: str, *names: str) -> list[tuple[str, str]]:
    return [(name, kind) for name in names]


#: Limits and rules of a run, one record; see :class:`~steelyard.serve.engine.EngineConfig`.
#: ``lanes``: pipeline stages, so many steps are in flight in each replica. ``router``: 0 round-robin, 1 as given, 2
#: fewest requests, 3 longest cached prefix, then fewest requests. ``add_time``: 1 when the order key counts from
#: arrival. ``unit_tokens``: tokens of one cached prefix unit (0: no prefix cache), held by ``unit_blocks`` blocks.
#: ``log``: whether steps are kept.
SETUP = np.dtype(
    _fields(
        "i8", "max_tokens", "max_seqs", "threshold", "block", "blocks", "fixed", "cap", "mixed", "chunked", "admission",
        "victim", "to_back", "static", "watermark", "replicas", "lanes", "router", "concurrency", "unit_tokens",
        "unit_blocks", "max_iterations", "log",
    )
    + _fields("f8", "add_time", "conservativeness", "request_s", "max_time_s")
)  # fmt: skip

#: A request. ``key`` and ``seq`` order it in the heap it is in (to arrive, or waiting), linked by ``left_child`` and
#: ``right_child``. ``last_at``: its newest token. ``remaining``: tokens still to generate, when it is not running.
#: ``held``: prefix units it shares now.
REQUEST = np.dtype(
    _fields("f8", "arrived_at", "key", "scheduled_at", "first_at", "last_at")
    + _fields("i4", "isl", "osl", "remaining", "preemptions", "cached", "seq", "left_child", "right_child", "held")
    + _fields("i2", "replica", "status")
)

#: Columns of the array of optional facts of a request (one row for all, or one each).
EXTRA = ("base", "delay_s", "route")
#: Columns of the array of optional links: prefix units, dependants, predecessors still to complete.
LINKS = ("unit_start", "unit_count", "child_start", "child_count", "waits")

#: A running request, ``[worker, slot]`` in order of admission. ``target``: tokens to compute before its next token
#: comes out (prompt, and what was generated before a preemption). ``take``: tokens of the step in flight.
SLOT = np.dtype(_fields("f8", "token_at") + _fields("i4", "request", "computed", "target", "left", "blocks", "take"))

#: What plans steps: one per replica and pipeline stage. ``end``: when the step in flight ends, inf when idle.
#: ``forming``: a static batch may still grow.
WORKER = np.dtype(_fields("f8", "end", "last_end") + _fields("i8", "count", "forming"))

#: A replica. ``waiting``: root of the heap of waiting requests. ``load``: requests in it. ``ratio``: SGLang's new-token
#: ratio. ``stage_free``, ``stage_out``: first stage free from, last step out at. ``oldest``, ``newest``, ``evictable``:
#: cached prefix units nobody holds.
POOL = np.dtype(
    _fields("i8", "free", "waiting", "queued", "load", "oldest", "newest", "evictable")
    + _fields("f8", "ratio", "stage_free", "stage_out")
)

#: A prefix unit in a replica. ``refs``: requests that hold it, -1 when it is not cached; links by age among the idle.
UNIT = np.dtype(_fields("i4", "refs", "older", "newer"))

#: A step.
LOG = np.dtype(
    _fields("f8", "start", "duration")
    + _fields("i4", "replica", "batch", "prefill", "decode", "blocks", "running", "waiting", "unused")
)

#: Exact counters, in the order of the kernel's array.
TOTALS = (
    "iterations", "preemptions", "prefill_tokens", "decode_tokens", "dropped_tokens", "cached_tokens", "makespan_s",
    "busy_s", "step_energy_j", "batch_s", "batch_max", "kv_s", "kv_max", "waiting_max", "in_system_s", "itl_sum_s",
    "stop", "evicted_units", "prefill_steps", "completed", "first_arrival_s",
)  # fmt: skip


def itl_edges() -> NDArray[np.float64]:
    """Edges of the histogram of times between tokens, ``[ITL_BINS + 1]`` s."""
    return np.asarray(ITL_SHORTEST_S * np.exp(ITL_STEP * np.arange(ITL_BINS + 1)), dtype=np.float64)


def make_log(entries: int) -> NDArray[Any]:
    """An empty log of so many steps at most (an even number, 2 at least)."""
    return np.zeros(max(2, entries + entries % 2), dtype=LOG)


def make_workers(count: int) -> NDArray[Any]:
    """Idle workers."""
    workers = np.zeros(count, dtype=WORKER)
    workers["end"], workers["last_end"], workers["forming"] = np.inf, -1.0, 1
    return workers


def make_pools(replicas: int, blocks: int, ratio: float) -> NDArray[Any]:
    """Empty caches and queues."""
    pools = np.zeros(replicas, dtype=POOL)
    pools["free"], pools["ratio"] = blocks, ratio
    for name in ("waiting", "oldest", "newest"):
        pools[name] = -1
    return pools


def make_units(replicas: int, units: int) -> NDArray[Any]:
    """No unit cached."""
    empty = np.zeros((replicas, max(1, units)), dtype=UNIT)
    empty["refs"] = -1
    return empty
