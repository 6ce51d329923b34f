"""The techniques of a scenario put on its pools, one after another; the kernel's arrays with theirs in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from steelyard.cost.kv_pool import KvPool
from steelyard.cost.step import Replica
from steelyard.cost.step_table import Tables, build_step_table
from steelyard.deployment.dynamics import Dynamics
from steelyard.deployment.engine_config import EngineConfig
from steelyard.errors import DoesNotFit
from steelyard.simulation.kernel.methods import Methods, no_methods, plain_methods
from steelyard.techniques._base import PoolEnd, PoolFit, Technique
from steelyard.traffic.trace import Trace

__all__ = ["dynamics_of", "fit", "kernel_arrays", "traffic_of"]


def traffic_of(techniques: Sequence[Technique], trace: Trace, seed: int) -> Trace:
    """The trace with the columns that techniques need."""
    for technique in techniques:
        trace = technique.trace(trace, seed)
    return trace


def dynamics_of(techniques: Sequence[Technique]) -> Dynamics:
    """What changes while the deployment serves."""
    found = Dynamics()
    for technique in techniques:
        found = technique.dynamics(found)
    return found


def fit(
    techniques: Sequence[Technique],
    role: str,
    replica: Replica,
    config: EngineConfig,
    kv: KvPool,
    *,
    max_context: int,
    seed: int,
    trace: Trace,
) -> PoolFit:
    """Price the steps of a pool with the techniques that act in its role.

    Args:
        techniques: of the scenario.
        role: of the pool.
        replica: what prices its steps.
        config: its engine's flags.
        kv: the cache without techniques: drafts and resident adapters take their memory from it.
        max_context: longest request, tokens.
        seed: of the draws.
        trace: the traffic.

    Raises:
        InputError: a draft or adapter the model cannot have. DoesNotFit: they leave no memory for the cache.
    """
    acting = [t for t in techniques if role in t.roles]
    several = [t.queries for t in acting if t.queries != (1, 1)]
    table = build_step_table(
        replica,
        config,
        max_context=max_context,
        queries=several[0] if several else (1, 1),
        overlap=next((t.overlap for t in acting if t.overlap), ""),
    )
    record = no_methods()[0]
    record["seed"] = seed
    pool = PoolFit(replica, config, kv, table, record, max_context, trace, sources=dict(table.sources))
    for technique in acting:
        technique.fit(pool)
    pool.table = replace(pool.table, sources=pool.sources)
    pool.kv = smaller(kv, pool.device_bytes, pool.token_bytes)
    return pool


def smaller(kv: KvPool, device_bytes: float, token_bytes: float) -> KvPool:
    """The cache when ``device_bytes`` of a device go elsewhere and every token takes ``token_bytes`` more.

    Raises:
        DoesNotFit: no block is left.
    """
    if kv.overridden or (device_bytes == 0 and token_bytes == 0):
        return kv
    each = kv.block_bytes + token_bytes * kv.block_tokens
    free = kv.blocks * kv.block_bytes - device_bytes
    blocks = math.floor(free / each)
    if blocks < 1 + kv.fixed_blocks:
        short = (1 + kv.fixed_blocks) * each - free
        raise DoesNotFit(
            f"draft or adapters leave no memory for the KV cache: {short / 2**30:,.1f} GiB short on each device",
            change="a smaller draft, fewer resident adapters, more devices",
        )
    return replace(kv, blocks=blocks)


def kernel_arrays(
    techniques: Sequence[Technique],
    fits: Sequence[PoolFit | None],
    ends: Sequence[PoolEnd],
    tables: Tables,
    trace: Trace,
    units: int,
) -> Methods:
    """The kernel's arrays.

    Args:
        techniques: of the scenario.
        fits: of every pool; None for encoders.
        ends: the pools, their replicas all ranks.
        tables: data, and the layout ``[pool, table, 4]``.
        trace: the traffic.
        units: prefix units.
    """
    methods = plain_methods(tables, sum(e.replicas for e in ends), len(ends))
    for record, found in zip(methods.z, fits, strict=True):
        if found is not None:
            for name in record.dtype.names:
                record[name] = found.record[name]
    for technique in techniques:
        methods = technique.arrays(methods, ends, trace, units)
    return methods
