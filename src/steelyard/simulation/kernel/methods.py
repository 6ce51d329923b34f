"""What techniques do in the kernel: their record and their arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from steelyard.simulation.kernel.state import UNIT

__all__ = [
    "METHOD",
    "MOST_RAMPS",
    "PAST_BINS",
    "PAST_OCTAVE",
    "SEAT",
    "TIER",
    "Methods",
    "no_methods",
    "plain_methods",
]

#: Exit ramps at most.
MOST_RAMPS = 16
#: Bins of answers' lengths, per doubling and in all.
PAST_OCTAVE, PAST_BINS = 4, 80


def _fields(kind: str, *names: str) -> list[tuple[str, str]]:
    return [(name, kind) for name in names]


#: One record per pool; all zero: nothing of this is used. ``plain``: 1 when steps are priced as they are. ``seed``: of
#: what is drawn. Speculation: ``guess`` 0 none, 1 one pass of the draft per token, 2 one pass for all, 3 free.
#: ``fewest``, ``most`` tokens guessed per step. ``nodes``: tokens verified beside the last known one, 0: as many as
#: guessed. ``block``: tokens of a sequence that one pass of the draft guesses. ``verify_s``: of a step that verifies,
#: beside its kernels. ``draft_row``: row of the layout where the draft's tables begin, 0 none. ``reads_prompts``: the
#: draft computes prompts too. ``log_accept``: logarithm of the probability that one more guess is right. Early exit:
#: ``ramps``, ``rebatch`` 1 when the rest goes on without those that left, ``exit_frac`` probability to leave at a
#: ramp, ``ramp_rows`` 1 when a ramp costs the head's product. Finetuning beside serving: ``limit_s`` step time up to
#: which its tokens are added (0: none), ``train_work`` forward passes that a token costs, ``train_context`` tokens of
#: one of its sequences. Adapters: ``max_loras`` resident per replica (0: none), ``lora_load_s``, ``lora_step_s`` per
#: step that has any, ``lora_launch_s`` of the host where it is no captured graph, ``lora_each_s`` per distinct one,
#: ``lora_token_s`` per token. Tiers of the cache: ``tiers`` levels below the device, ``swap`` 1 when preempted requests
#: may go there, ``swap_waits`` 1 when steps wait for that, ``swap_copies`` copies of a block (0: one chain of all).
METHOD = np.dtype(
    _fields(
        "i8",
        "plain",
        "seed",
        "guess",
        "fewest",
        "most",
        "nodes",
        "block",
        "draft_row",
        "reads_prompts",
        "ramps",
        "rebatch",
        "ramp_rows",
        "max_loras",
        "tiers",
        "swap",
        "swap_waits",
    )
    + _fields(
        "f8",
        "log_accept",
        "verify_s",
        "exit_frac",
        "limit_s",
        "train_work",
        "train_context",
        "lora_load_s",
        "lora_step_s",
        "lora_launch_s",
        "lora_each_s",
        "lora_token_s",
        "swap_copies",
    )
)

#: A place for an adapter in a replica: which one (-1: none), running requests that need it, when it was last let go,
#: when it is loaded, the step that last counted it.
SEAT = np.dtype(_fields("i8", "adapter", "users", "stamp") + _fields("f8", "used_at", "ready_at"))

#: A level of the cache below the devices of a replica, or of several. ``capacity``, ``used``: blocks. ``oldest``,
#: ``newest``: units by age. Loading takes ``latency_s`` and ``block_s`` per block over a link free from ``link_free``.
TIER = np.dtype(
    _fields("i8", "capacity", "used", "oldest", "newest") + _fields("f8", "latency_s", "block_s", "link_free")
)


class Methods(NamedTuple):
    """Arrays of the kernel for all of this."""

    z: Any
    """``[pool]`` of :data:`METHOD`."""
    data: Any
    """Tables of steps, see :class:`steelyard.cost.step_table.Tables`."""
    layout: Any
    """``[pool, table, 4]``."""
    adapter_of: Any
    """``[request or 1]``: its adapter, -1 none."""
    seats: Any
    """``[replica, max_loras]`` of :data:`SEAT`."""
    seat_of: Any
    """``[replica, adapter]``: its seat, -1 none."""
    seat_free: Any
    """``[replica]`` s: its link for adapters is free from."""
    tiers: Any
    """``[row]`` of :data:`TIER`."""
    tier_rows: Any
    """``[replica, level]``: the row; shared levels have one for all."""
    below: Any
    """``[row, unit]`` of :data:`steelyard.simulation.kernel.state.UNIT`: what a level holds."""
    swapped: Any
    """``[request or 1]``: tokens of its cache that were moved to the first level when it gave way."""
    past: Any
    """``[replica or 1, 4, PAST_BINS]``: see :mod:`steelyard.simulation.kernel.past_future`."""


def no_methods(pools: int = 1) -> Any:
    """Records that use none of it."""
    records = np.zeros(pools, dtype=METHOD)
    records["plain"] = 1
    return records


def plain_methods(tables: Any, replicas: int, pools: int, past: bool = False) -> Methods:
    """Arrays when none of it is used. ``past``: a pool admits by the lengths of past answers."""
    held = np.zeros((1, 1), dtype=UNIT)
    return Methods(
        z=no_methods(pools),
        data=tables.data,
        layout=tables.layout,
        adapter_of=np.full(1, -1, dtype=np.int32),
        seats=np.zeros((replicas, 1), dtype=SEAT),
        seat_of=np.full((replicas, 1), -1, dtype=np.int32),
        seat_free=np.zeros(replicas),
        tiers=np.zeros(1, dtype=TIER),
        tier_rows=np.zeros((replicas, 1), dtype=np.int64),
        below=held,
        swapped=np.zeros(1, dtype=np.int32),
        past=np.zeros((replicas if past else 1, 4, PAST_BINS)),
    )
