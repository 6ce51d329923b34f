"""How long the cache of a request travels between two pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.cost.collective import Fabric, collective_time_s
from steelyard.cost.kv_pool import KvPool
from steelyard.cost.op_models import link_parameters
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.simulation.kernel.state import LINK

__all__ = ["End", "wires_between"]

#: Messages between which the time is taken to be linear: caches of requests are megabytes.
SMALL_BYTES, LARGE_BYTES = 1e6, 256e6


@dataclass(frozen=True, eq=False)
class End:
    """A pool as one end of a wire."""

    cluster: Cluster
    """All devices of the pool."""
    plan: Plan
    """Of one replica."""
    kv: KvPool


def wires_between(ends: Sequence[End]) -> Any:
    """Links between pools, ``[pool, pool]`` of :data:`~steelyard.simulation.kernel.state.LINK`.

    ``time = latency + max(bytes of a sending device / its bandwidth, bytes of a receiving device / its bandwidth)``:
    every shard goes from its device to the other pool's devices at once. Pools of one machine that fit one node
    together use the links inside it, all others the network between nodes. Bandwidth and latency as measured by the
    library's own sends (:mod:`steelyard.cost.collective`).
    """
    wires = np.zeros((len(ends), len(ends)), dtype=LINK)
    first = ends[0].cluster
    total = sum(e.cluster.count for e in ends)
    together = total <= first.per_node and all(e.cluster.machine.name == first.machine.name for e in ends)
    links = [_link(e.cluster, inside=together) for e in ends]
    for a, sender in enumerate(ends):
        for b, receiver in enumerate(ends):
            wire = wires[a, b]
            wire["latency_s"] = max(links[a][0], links[b][0])
            sides = ((sender.kv, links[a][1]), (receiver.kv, links[b][1]))
            wire["token_s"] = max(kv.block_bytes / kv.block_tokens / rate for kv, rate in sides)
            wire["fixed_s"] = max(kv.fixed_bytes / rate for kv, rate in sides)
            shards = sender.plan.replica_devices
            wire["token_bytes"] = sender.kv.block_bytes / sender.kv.block_tokens * shards
            wire["fixed_bytes"] = sender.kv.fixed_bytes * shards
    return wires


def _link(cluster: Cluster, *, inside: bool) -> tuple[float, float]:
    """``(latency in s, bytes/s per device)`` of a send."""
    link = cluster.peer if inside else cluster.inter
    bandwidth = cluster.peer_bandwidth_bytes_per_s if inside else cluster.inter_bandwidth_bytes_per_s
    if link is None or bandwidth <= 0:
        return 0.0, float("inf")
    fabric = Fabric(link.name, bandwidth, link.latency_s, link.switched, link.multicast)
    parameters = link_parameters(cluster, link.kind).parameters
    times = collective_time_s("send", np.array([SMALL_BYTES, LARGE_BYTES]), 2, fabric=fabric, parameters=parameters)
    small, large = (float(t) for t in np.asarray(times, dtype=np.float64))
    rate = min(bandwidth, (LARGE_BYTES - SMALL_BYTES) / max(large - small, 1e-12))
    return max(link.latency_s, small - SMALL_BYTES / rate), rate
