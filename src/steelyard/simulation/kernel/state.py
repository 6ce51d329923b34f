"""The arrays the kernel works on, and what each of their fields means. Packed records, allocated in one place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INPUT",
    "ITL_BINS",
    "LARGEST",
    "LINK",
    "LOG",
    "REPLICA",
    "REQUEST",
    "RUN",
    "SETUP",
    "SLOT",
    "TIMER",
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


#: What a pool does with a request, in the order of :data:`steelyard.deployment.deployment.ROLES`.
BOTH, ENCODE, PREFILL, DECODE = range(4)
#: Stages a request is routed to, rows of ``ways``.
ENTRY, OUTPUT, ENCODER = range(3)
#: Values of ``origin``: computed where it runs; its encoder has run; the host is done with its images; it is sent when
#: its time comes, and has not seen the front end.
HERE, ENCODED, DECODED, SENT_IN = -1, -2, -3, -4

#: Limits, rules and counters of a run, one record. ``router``: 0 round-robin, 1 as given, 2 fewest requests, 3 longest
#: cached prefix, then fewest requests. ``entries``, ``outputs``, ``encoders``: replicas of each stage. ``add_time``: 1
#: when the order key counts from arrival. ``log``: whether steps are kept. ``has_events``: replicas fail, are started
#: or send each other requests. ``fork_on_first``: dependants wait for the first token only. ``reads``: the first
#: step of a request takes ``encode_s`` more, all of a step together ``read_s`` at least, with the power ``read_w``.
#: ``hosts`` requests are worked on by the hosts at once before they reach an engine, ``host_s`` each, the next from
#: ``host_free`` on.
#: A request reaches an engine ``request_s`` after the front end begins with it, which works on one at a time for
#: ``front_s`` each and is free from ``front_free``.
#: ``ttft_left`` more requests may take longer than ``ttft_s`` before the run is given up, and so on. Counters:
#: ``next_seq``, the number of the next request that joins a heap; ``next_request`` of a closed loop; ``in_system``
#: requests; ``known``, arrivals of ``order`` that have come; ``pending``, root of the heap of others to come; ``turn``
#: of the round-robin router; ``steps`` begun; ``log_rows`` of the log used, every ``log_stride``-th of ``steps_seen``
#: kept; ``timers`` set, ``timer_seq`` the number of the next, ``timers_full`` when there was no place.
RUN = np.dtype(
    _fields(
        "i8",
        "router",
        "entries",
        "outputs",
        "encoders",
        "concurrency",
        "max_iterations",
        "log",
        "has_events",
        "fork_on_first",
        "reads",
        "ttft_left",
        "tpot_left",
        "e2e_left",
        "next_seq",
        "next_request",
        "in_system",
        "turn",
        "steps",
        "steps_seen",
        "known",
        "pending",
        "log_rows",
        "log_stride",
        "timers",
        "timer_seq",
        "timers_full",
    )
    + _fields("f8", "add_time", "request_s", "front_s", "front_free")
    + _fields("f8", "max_time_s", "ttft_s", "tpot_s", "e2e_s", "read_w", "read_s")
    + _fields("f8", "hosts", "host_free")
)

#: Limits and rules of the engine of a pool; see :class:`~steelyard.deployment.engine_config.EngineConfig`. ``role``:
#: what it does; ``relays``: its first tokens are sent by the replica for answers. ``stages``: pipeline stages, so many
#: steps are in flight in each replica; the slowest takes one of ``paces`` parts of a step. ``unit_tokens``: tokens of
#: one cached prefix unit (0: no prefix cache), held by ``unit_blocks`` blocks. ``overlap``: share of a transfer that
#: may run beside the prompt. ``ranks``: data-parallel ranks of a replica, in ``lockstep`` or each on its own.
#: ``ahead``: a step is chosen while the one before it runs. ``pad``, ``pad_mixed``: tokens up to which steps of
#: decodes and of prompts are filled up to a captured graph. ``wait_steps``, ``wait_tokens``: prompts wait so many
#: steps for so many tokens. ``migrate``: running requests may move. ``scales``: the number of replicas follows the
#: load, from ``least`` to ``most``, ``load_target`` requests each, looked at every ``interval_s``; a new one takes
#: ``start_s``. ``mtbf_s``: mean time between failures of a replica (0: never), ``restart_s``: until it is back.
#: ``stream_s``: of its API server, for a token of an answer.
SETUP = np.dtype(
    _fields(
        "i8",
        "max_tokens",
        "max_seqs",
        "threshold",
        "block",
        "blocks",
        "fixed",
        "cap",
        "mixed",
        "chunked",
        "admission",
        "victim",
        "to_back",
        "static",
        "watermark",
        "replicas",
        "stages",
        "unit_tokens",
        "unit_blocks",
        "role",
        "relays",
        "ranks",
        "lockstep",
        "ahead",
        "pad",
        "pad_mixed",
        "wait_steps",
        "wait_tokens",
        "migrate",
        "scales",
        "least",
        "most",
    )
    + _fields(
        "f8", "conservativeness", "overlap", "paces", "mtbf_s", "restart_s", "load_target", "interval_s", "start_s"
    )
    + _fields("f8", "stream_s")
)

#: Sending the cache of a request from a pool to another: ``latency_s + fixed_s + tokens * token_s``.
LINK = np.dtype(_fields("f8", "latency_s", "fixed_s", "token_s", "fixed_bytes", "token_bytes"))

#: A request. ``key`` and ``seq`` order it in the heap it is in (to arrive, or waiting), linked by ``left_child`` and
#: ``right_child``. ``last_at``: its newest token, before it when it came. ``remaining``: tokens still to generate,
#: when it is not running. ``held``: prefix units it shares now. ``origin``: the replica that keeps its cache while it
#: is elsewhere, in ``kept`` blocks. ``answered_by``: the replica that wrote the output, when not ``replica``.
#: ``gap_s``: the longest time between two of its tokens.
REQUEST = np.dtype(
    _fields("f8", "arrived_at", "key", "scheduled_at", "first_at", "last_at", "gap_s")
    + _fields("i4", "isl", "osl", "remaining", "preemptions", "cached", "seq", "left_child", "right_child", "held")
    + _fields("i4", "kept")
    + _fields("i2", "replica", "status", "origin", "answered_by")
)

#: Optional inputs of a request (one record for all, or one each): key beyond arrival, delay after its predecessor, time
#: in an encoder, of the host before, its place among the replicas, the only pool that may take it (-1: any), its
#: adapter (-1: none); its prefix units, its dependants, predecessors still to complete; encoders and hosts that share
#: its images, each for that time (0: one).
INPUT = np.dtype(
    _fields("f8", "base_key", "delay_s", "encode_s", "host_s")
    + _fields("i4", "route", "pool", "unit_start", "unit_count", "child_start", "child_count", "predecessors")
    + _fields("i4", "parts", "host_parts")
)

#: A running request, ``[worker, slot]`` in order of admission. ``target``: tokens to compute before its next token
#: comes out (prompt, and what was generated before a preemption). ``step_tokens``: tokens of the step in flight.
#: ``ready_at``: when its cache is here; until then it stands behind the running ones and takes part in no step.
SLOT = np.dtype(
    _fields("f8", "token_at", "ready_at")
    + _fields("i4", "request", "computed", "target", "left", "blocks", "step_tokens")
)

#: What plans steps: one per replica and pipeline stage. ``end``: when the step in flight ends; when idle, when a slot
#: gets ready, or inf. ``count``: running requests, ``loading``: those whose cache is on its way. ``forming``: a static
#: batch may still grow. ``guesses``: tokens guessed per decode in this step. ``price_s``, ``price_j``: of its part of
#: a step in lockstep. ``prompt_left``: prompt tokens a rule lets it compute.
WORKER = np.dtype(
    _fields("f8", "end", "last_end", "price_s", "price_j")
    + _fields("i8", "count", "loading", "busy", "forming", "replica", "guesses", "prompt_left")
)

#: A replica of a pool. ``waiting``: root of the heap of waiting requests. ``load``: requests in it. ``first``: its
#: first worker. ``up``: requests may be sent to it. ``longest``: tokens of the longest request it can hold. ``ratio``:
#: SGLang's new-token ratio. ``stage_free``, ``stage_out``: first stage free from, last step out at. ``link_free``: its
#: link is free from. ``weight``: relative speed. ``oldest``, ``newest``, ``evictable``: cached prefix units nobody
#: holds. ``offset``: first worker of its pool. ``turn``: of the round-robin router inside the pool, kept by its first
#: replica. ``starting``: it is about to be up. ``failures``: so far. ``waited``: steps that prompts were held back.
#: ``sending``: caches on their way from it. ``begun``: when its newest step began; ``sent_at``: when the client has
#: its newest tokens. ``leaving``: the request that moves to ``leave_to`` at ``leave_at``, ``copied`` tokens of it
#: before, or -1. ``since``: rented from, -1 when it is not; ``rented``: s before that. ``stall_s``: its next step
#: waits for copies so long.
REPLICA = np.dtype(
    _fields(
        "i8",
        "free",
        "waiting",
        "queued",
        "load",
        "oldest",
        "newest",
        "evictable",
        "pool",
        "first",
        "up",
        "longest",
        "starting",
        "failures",
        "waited",
        "sending",
        "leaving",
        "leave_to",
        "copied",
        "offset",
        "turn",
    )
    + _fields("f8", "ratio", "stage_free", "stage_out", "link_free", "weight", "leave_at", "since", "rented")
    + _fields("f8", "begun", "sent_at", "stall_s")
)

#: What happens at a time, in a heap by time: ``event`` is one of :data:`SENT`, ...
TIMER = np.dtype(_fields("f8", "at") + _fields("i8", "event", "target", "argument", "seq"))
#: Request ``target`` of worker ``argument`` has its cache; replica ``target`` (the first of its ranks) fails, a
#: failure numbered ``argument`` comes back by itself, 0 does not; it is up; pool ``target`` looks whether it needs
#: another number of replicas, or whether requests should move.
SENT, DOWN, UP, SCALE, BALANCE = range(5)
#: Failures of a replica whose times are drawn; later ones repeat them.
DRAWN = 256

#: A prefix unit in a replica. ``refs``: requests that hold it, -1 when it is not cached; links by age among the idle.
UNIT = np.dtype(_fields("i4", "refs", "older", "newer"))

#: A step.
LOG = np.dtype(
    _fields("f8", "start", "duration")
    + _fields("i4", "replica", "batch", "prefill", "decode", "blocks", "running", "waiting", "unused")
)

#: Exact counters of every pool.
TOTALS = (
    "iterations",
    "preemptions",
    "prefill_tokens",
    "decode_tokens",
    "dropped_tokens",
    "cached_tokens",
    "makespan_s",
    "busy_s",
    "step_energy_j",
    "batch_s",
    "batch_max",
    "kv_s",
    "kv_max",
    "waiting_max",
    "in_system_s",
    "itl_sum_s",
    "stop",
    "evicted_units",
    "prefill_steps",
    "completed",
    "first_arrival_s",
    "transfers",
    "transfer_bytes",
    "transfer_s",
    "guessed_tokens",
    "accepted_tokens",
    "trained_tokens",
    "loaded_tokens",
    "swapped_tokens",
    "adapter_loads",
    "adapter_waits",
    "migrations",
    "interrupted",
    "failures",
)
#: Those of which the pools' largest is the run's; all others add up.
LARGEST = ("batch_max", "kv_max", "waiting_max")


#: The counters of a pool as a record, all of them floats.
TOTAL = np.dtype(_fields("f8", *TOTALS))
#: Why a run stopped before its end: values of ``stop``.
TIME_LIMIT, STEP_LIMIT, FAILING, SLO_MISSED = 1, 2, 3, 4


def itl_edges() -> NDArray[np.float64]:
    """Edges of the histogram of times between tokens, ``[ITL_BINS + 1]`` s."""
    return np.asarray(ITL_SHORTEST_S * np.exp(ITL_STEP * np.arange(ITL_BINS + 1)), dtype=np.float64)


def make_log(entries: int) -> NDArray[Any]:
    """An empty log of so many steps at most (an even number, 2 at least)."""
    return np.zeros(max(2, entries + entries % 2), dtype=LOG)


def make_workers(pools: NDArray[Any], setups: NDArray[Any]) -> NDArray[Any]:
    """Idle workers of the replicas, in their order; sets each replica's first worker."""
    stages = setups["stages"][pools["pool"]]
    pools["first"] = np.cumsum(stages) - stages
    workers = np.zeros(int(stages.sum()), dtype=WORKER)
    workers["end"], workers["last_end"], workers["forming"] = np.inf, -1.0, 1
    workers["replica"] = np.repeat(np.arange(len(pools)), stages)
    starts = [int(pools["first"][pools["pool"] == k][:1].sum()) for k in range(len(setups))]
    pools["offset"] = np.asarray(starts)[pools["pool"]]
    return workers


def make_pools(setups: NDArray[Any], longest: list[int], weights: list[float]) -> NDArray[Any]:
    """Empty caches and queues of every replica, pool after pool."""
    which = np.repeat(np.arange(len(setups)), setups["replicas"])
    pools = np.zeros(len(which), dtype=REPLICA)
    pools["pool"], pools["free"], pools["up"] = which, setups["blocks"][which], 1
    pools["ratio"] = np.minimum(0.7 * setups["conservativeness"], 1.0)[which]
    place = np.arange(len(which)) - np.repeat(np.cumsum(setups["replicas"]) - setups["replicas"], setups["replicas"])
    off = (setups["scales"][which] > 0) & (place // setups["ranks"][which] >= setups["least"][which])
    pools["up"][off], pools["since"][off] = 0, -1.0
    pools["longest"], pools["weight"] = np.asarray(longest)[which], np.asarray(weights)[which]
    for name in ("waiting", "oldest", "newest", "leaving"):
        pools[name] = -1
    return pools


def make_ways(pools: NDArray[Any], setups: NDArray[Any]) -> tuple[NDArray[Any], list[int]]:
    """``(ways [stage, place] -> replica, replicas of each stage)``. Without decode pools, mixed ones write outputs."""
    role = setups["role"][pools["pool"]]
    answers = role == DECODE if np.any(role == DECODE) else role == BOTH
    stages = [np.flatnonzero(x) for x in ((role == BOTH) | (role == PREFILL), answers, role == ENCODE)]
    ways = np.zeros((len(stages), max(1, len(pools))), dtype=np.int64)
    for stage, members in enumerate(stages):
        ways[stage, : len(members)] = members
    return ways, [len(members) for members in stages]


def make_units(replicas: int, units: int) -> NDArray[Any]:
    """No unit cached."""
    empty = np.zeros((replicas, max(1, units)), dtype=UNIT)
    empty["refs"] = -1
    return empty


class State(NamedTuple):
    """The arrays of every simulation. A record or array is a member once, whatever it is passed to."""

    run: Any
    """One record of :data:`RUN`."""
    setups: Any
    """``[pool]`` of :data:`SETUP`."""
    ways: Any
    """``[stage, place]`` replicas of each stage."""
    requests: Any
    """``[request]`` of :data:`REQUEST`."""
    inputs: Any
    """``[request or 1]`` of :data:`INPUT`."""
    prefix_units: Any
    """Prefix units, request after request."""
    children: Any
    """Dependants, request after request."""
    slots: Any
    """``[worker, slot]`` of :data:`SLOT`; the last slot of a worker is spare."""
    workers: Any
    """``[worker]`` of :data:`WORKER`."""
    replicas: Any
    """``[replica]`` of :data:`REPLICA`."""
    units: Any
    """``[replica, unit]`` of :data:`UNIT`."""
    totals: Any
    """``[pool]`` of :data:`TOTAL`."""
    data: Any
    """Prices of steps, see :class:`steelyard.cost.step_table.Tables`."""
    layout: Any
    """``[pool, table, 4]``: where they are."""
    order: Any
    """Requests whose arrival is known beforehand, by time."""
    log: Any
    """``[row]`` of :data:`LOG`: steps that were kept."""
    itl: Any
    """``[ITL_BINS]``: histogram of times between tokens."""
    growth: Any
    """``[RUN_STEPS]`` scratch: blocks taken by each step of a run of decodes."""


class Tech(NamedTuple):
    """Arrays of what goes beyond one pool of plain engines; a plain simulation has None instead.

    Records are those of :mod:`steelyard.simulation.kernel.methods`.
    """

    records: Any
    """``[pool]`` of METHOD."""
    wires: Any
    """``[pool, pool]`` of :data:`LINK`: from, to."""
    timers: Any
    """Heap of :data:`TIMER`."""
    draws: Any
    """``[replica or 1, DRAWN]`` exponential draws of mean 1: times between failures."""
    stranded: Any
    """Requests that no replica could take: by stage the roots of their heaps, then how many are in each."""
    adapter_of: Any
    """``[request or 1]``: its adapter, -1 none."""
    lora_slots: Any
    """``[replica, max_loras]`` of SEAT."""
    slot_of: Any
    """``[replica, adapter]``: its slot, -1 none."""
    lora_link_free: Any
    """``[replica]`` s: its link for adapters is free from."""
    tiers: Any
    """``[row]`` of TIER."""
    tier_rows: Any
    """``[replica, level]``: the row; shared levels have one for all."""
    tier_units: Any
    """``[row, unit]`` of :data:`UNIT`: what a level holds."""
    swapped: Any
    """``[request or 1]``: tokens of its cache that were moved to the first level when it was preempted."""
    past: Any
    """``[replica or 1, 4, PAST_BINS]``: see :mod:`steelyard.simulation.kernel.past_future`."""
    rules: Any
    """Addresses of compiled rules, :class:`steelyard.simulation.kernel.rules.Rules`."""
    has_rule: Any
    """``[rule]``: 1 when it is given."""
    memory: Any
    """``[request or 1, MEMORY]``, ``shared``, ``params``: the rules' own numbers."""
    shared: Any
    params: Any


#: Steps of decodes priced at once at most.
RUN_STEPS = 256
