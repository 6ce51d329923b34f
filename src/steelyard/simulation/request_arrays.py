"""The kernel's arrays of requests: lengths, arrivals, prefixes, what they wait for, keys of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.encode import Passes
from steelyard.simulation.kernel.state import (
    INPUT,
    REQUEST,
)
from steelyard.simulation.policies import Order
from steelyard.traffic.trace import LENGTHS, Trace

__all__ = ["REJECTED", "ROUTERS", "UNFINISHED", "request_arrays"]

#: How a request finds its replica, and what the kernel calls it.
ROUTERS: Mapping[str, int] = {"round-robin": 0, "random": 1, "session": 1, "least-loaded": 2, "prefix": 3}
REJECTED, UNFINISHED = 1, 2


def _units(trace: Trace, unit_tokens: int) -> tuple[Any, Any, int]:
    """Prefix units as small numbers such that equal numbers mean equal whole prefixes: ``(units, offsets, count)``.

    The identity of a unit is a polynomial hash (modulo 2^64) of all hashes of its request up to it. A unit of several
    hashed blocks has the identity of its last one.
    """
    assert trace.prefix_hashes is not None and trace.prefix_offsets is not None
    offsets = np.asarray(trace.prefix_offsets, dtype=np.int64)
    mixed = np.asarray(trace.prefix_hashes).astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    sizes = np.diff(offsets)
    place = np.arange(len(mixed)) - np.repeat(offsets[:-1], sizes)
    powers = np.cumprod(np.full(int(sizes.max(initial=0)) + 1, 0xBF58476D1CE4E5B9, dtype=np.uint64), dtype=np.uint64)
    sums = np.cumsum(mixed * powers[place], dtype=np.uint64)
    base = np.concatenate([np.zeros(1, dtype=np.uint64), sums])[offsets[:-1]]
    chained = sums - np.repeat(base, sizes)
    group = unit_tokens // trace.prefix_block_tokens
    if group > 1:
        chained = chained[place % group == group - 1]
        offsets = np.concatenate([[0], np.cumsum(sizes // group)])
    found, units = np.unique(chained, return_inverse=True)
    return units.astype(np.int32).reshape(-1), offsets, len(found)


def request_arrays(
    trace: Trace,
    entries: int,
    unit_tokens: int,
    policy: Order,
    router: str,
    seed: int,
    rejected: Any,
    read: Passes | None,
    assigned: Any,
) -> tuple[Any, Any, Any, Any, Any, int]:
    """``(requests, inputs, units of prompts, children, order of known arrivals, number of units)``."""
    n = len(trace)
    requests = np.zeros(n, dtype=REQUEST)
    for name in ("arrived_at", *LENGTHS):
        requests[name] = getattr(trace, name)
    requests["remaining"] = trace.osl
    requests["status"] = np.where(rejected, REJECTED, UNFINISHED)
    for name in (
        "scheduled_at",
        "first_at",
        "last_at",
        "left_child",
        "right_child",
        "replica",
        "origin",
        "answered_by",
    ):
        requests[name] = -1
    columns = _columns(trace, entries, policy, router, seed)
    if read is not None:
        columns["encode_s"], columns["host_s"] = read.time_s, np.broadcast_to(read.host_s, n)
        columns["parts"], columns["host_parts"] = np.broadcast_to(read.parts, n), np.broadcast_to(read.host_parts, n)
    if assigned is not None:
        columns["pool"] = assigned
    prefix_units, children, units = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), 0
    if unit_tokens > 0:
        prefix_units, offsets, units = _units(trace, unit_tokens)
        columns["unit_start"], columns["unit_count"] = offsets[:-1], np.diff(offsets)
    order = np.argsort(trace.arrived_at[: trace.concurrency or n], kind="stable")
    if trace.after is not None and trace.after_offsets is not None and not trace.concurrency:
        waits = np.diff(trace.after_offsets)
        sizes = np.bincount(trace.after, minlength=n)
        columns |= {"predecessors": waits, "child_start": np.cumsum(sizes) - sizes, "child_count": sizes}
        children = np.repeat(np.arange(n), waits)[np.argsort(trace.after, kind="stable")].astype(np.int32)
        order = order[waits[order] == 0]
    inputs = np.zeros(n if columns else 1, dtype=INPUT)
    inputs["pool"] = -1
    for name, values in columns.items():
        inputs[name] = values
    return requests, inputs, prefix_units, children, order, units


def _columns(trace: Trace, replicas: int, policy: Order, router: str, seed: int) -> dict[str, NDArray[Any]]:
    """Optional inputs of requests by name; empty when nothing is special."""
    n = len(trace)
    columns: dict[str, NDArray[Any]] = {}
    if np.any(policy.keys):
        columns["base_key"] = policy.keys
    if trace.delay_s is not None and np.any(trace.delay_s > 0):
        columns["delay_s"] = trace.delay_s
    if ROUTERS[router] == 1:
        rng = np.random.default_rng(seed)
        route = rng.integers(0, replicas, n)
        if router == "session" and trace.session is not None:
            names, which = np.unique(trace.session, return_inverse=True)
            sticky = rng.permutation(names.size)[which.reshape(-1)] % replicas
            route = np.where(trace.session >= 0, sticky, route)
        columns["route"] = route
    return columns
