"""Memory of devices of several kinds in one replica: each holds its share of the layers, the tightest one decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.cost.kv_pool import KvPool, kv_pool, left_bytes
from steelyard.cost.memory import MemoryUse, weight_parts
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.workload.protocol import Workload

__all__ = ["end_bytes", "fullest", "tightest_pool"]


def fullest(use: MemoryUse, ends: float, plan: Plan, depth: int, cluster: Cluster, engine: Engine) -> MemoryUse:
    """Memory of the device with the least to spare, from that of a stage of equal devices.

    Args:
        use: with layers in equal parts.
        ends: of its weights, what lies before or after the layers.
        plan: a resolved plan.
        depth: layers of the model.
        cluster, engine: the devices and what may be used of them.
    """
    if not cluster.unlike:
        return use
    equal = -(-depth // plan.pp) / depth
    found: MemoryUse | None = None
    for machine, share in cluster.shares:
        part = share / equal
        capacity: Any = engine.memory_frac * machine.usable_bytes
        mine = replace(use, weights=(use.weights - ends) * part + ends, kv_cache=use.kv_cache * part, capacity=capacity)
        found = mine if found is None else _fuller(found, mine)
    assert found is not None
    return found


def end_bytes(model: Workload, plan: Plan, cluster: Cluster, engine: Engine, exact: float | None) -> float:
    """Weight bytes before and after the layers on the fullest device; ``exact``: bytes of the real files."""
    parts = weight_parts(model, plan, exact, engine.multiples(cluster.machine))
    return sum(parts.get(name, 0.0) for name in ("embedding", "head"))


def tightest_pool(
    model: Workload,
    plan: Plan,
    cluster: Cluster,
    engine: Engine,
    config: EngineConfig,
    exact_weights: float | None = None,
    longest: int = 0,
) -> KvPool:
    """The cache of a replica of unlike devices: as many blocks as the device has room for that has the fewest.

    Arguments as of :func:`~steelyard.cost.kv_pool.kv_pool`. What a device has left counts by its layers: of one with
    twice the layers a block takes twice the bytes.

    Raises:
        DoesNotFit: not even one block is left on one of them.
    """
    whole = sum(weight_parts(model, plan, exact_weights, engine.multiples(cluster.machine)).values())
    ends, equal = end_bytes(model, plan, cluster, engine, exact_weights), -(-model.depth // plan.pp) / model.depth
    left = []
    for machine, share in cluster.shares:
        part = share / equal
        mine = (whole - ends) * part + ends
        left.append(left_bytes(model, plan, machine, engine, config, weights=mine)[0] / part)
    return kv_pool(
        model, plan, cluster.machine, engine, config, exact_weights=exact_weights, left=min(left), longest=longest
    )


def _fuller(a: MemoryUse, b: MemoryUse) -> MemoryUse:
    """Of two devices the one with less to spare, element by element."""
    takes_b = np.asarray(b.headroom) < np.asarray(a.headroom)
    names = ("weights", "kv_cache", "capacity")
    chosen: dict[str, Any] = {n: np.where(takes_b, getattr(b, n), getattr(a, n)) for n in names}
    return replace(a, **chosen)
