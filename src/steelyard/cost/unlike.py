"""Devices of several kinds in one replica: layers in proportion to memory, one device after the other.

T = sum over devices of share x T_device, and a hop between each and the next
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.cost.cost import FIGURES, KernelCost
from steelyard.cost.kernel import Elsewhere, Program
from steelyard.cost.memory import MemoryUse
from steelyard.cost.program import lower
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.workload.graph import Graph

__all__ = ["fullest", "joined", "shared_out"]


def shared_out(program: Program, graph: Graph, cluster: Cluster) -> Program:
    """A program whose kernels say what of them runs on the devices after the first.

    The embedding is on the first device, what follows the last layer on the last.
    """
    others = cluster.shares[1:]
    lowered = [{k.name: k for k in lower(graph, program.plan, machine).kernels} for machine, _ in others]
    kernels = []
    for kernel in program.kernels:
        if "." in kernel.name:
            shares = [share for _, share in others]
        else:
            shares = [0.0] * (len(others) - 1) + [0.0 if kernel.stage == "first" else 1.0]
        elsewhere = tuple(
            Elsewhere(share, machine, found[kernel.name])
            for share, (machine, _), found in zip(shares, others, lowered, strict=True)
            if share and kernel.name in found and kernel.kind != "collective"
        )
        kernels.append(replace(kernel, elsewhere=elsewhere))
    return replace(program, kernels=tuple(kernels))


def joined(here: KernelCost, there: Sequence[KernelCost]) -> KernelCost:
    """The price of a kernel over all devices: of the first, and of the others by their shares."""
    parts = here.kernel.elsewhere
    rest = 1.0 - sum(part.share for part in parts)
    shares = [(rest, here), *((part.share, cost) for part, cost in zip(parts, there, strict=True))]
    figures: dict[str, Any] = {n: sum(share * getattr(cost, n) for share, cost in shares) for n in FIGURES}
    spread = max(cost.spread for share, cost in shares if share > 1e-9)
    return replace(here, **figures, spread=spread)


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


def _fuller(a: MemoryUse, b: MemoryUse) -> MemoryUse:
    """Of two devices the one with less to spare, element by element."""
    takes_b = np.asarray(b.headroom) < np.asarray(a.headroom)
    names = ("weights", "kv_cache", "capacity")
    chosen: dict[str, Any] = {n: np.where(takes_b, getattr(b, n), getattr(a, n)) for n in names}
    return replace(a, **chosen)
