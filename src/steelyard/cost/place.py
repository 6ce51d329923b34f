"""Which engine runs a kernel, and its physical limit there."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.cost.kernel import Kernel
from steelyard.cost.site import Site
from steelyard.machine.component import Compute, Machine

__all__ = ["engines_for", "roofline"]


def engines_for(kernel: Kernel, machine: Machine) -> tuple[Compute, ...]:
    """The engines worth pricing: the one lowering chose, and any that sits nearer to the data (in-memory units).

    An engine attached to an outer memory level reads it without crossing the levels inside, so a product with little
    reuse may run faster there although its peak is lower.
    """
    chosen = machine.engine(kernel.engine)
    depth = len(machine.path(chosen))
    near = [
        c
        for c in machine.compute
        if c.name != chosen.name
        and kernel.compute in c.peak
        and len(machine.path(c)) < depth
        and c.inside == machine.root.name
    ]
    return (chosen, *near)


def roofline(kernel: Kernel, site: Site) -> tuple[Any, Any]:
    """``(FLOPs / peak, compulsory bytes / bandwidth)`` per copy, in s.

    Weights and KV cache come from the root memory through every level on the path, at the slowest of them.
    Activations written by one kernel and read by the next may never leave the cache: only what exceeds its capacity
    is compulsory traffic of the root.
    """
    t = kernel.traffic
    passing = t.get("read", 0.0) + t.get("write", 0.0)
    cold = np.maximum(0.0, np.asarray(passing, dtype=np.float64) - site.l2_bytes)
    weights = t.get("weight", 0.0) if kernel.weights_cold else 0.0
    streamed = np.asarray(weights + t.get("kv", 0.0), dtype=np.float64) + cold
    slowest = min(m.bandwidth_bytes_per_s for m in site.machine.path(site.engine))
    return np.asarray(kernel.flops, dtype=np.float64) / site.peak_ops_per_s, streamed / slowest
