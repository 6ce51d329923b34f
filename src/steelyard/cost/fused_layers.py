"""Layers that run as one pipeline through on-chip memory: a dataflow compiler's whole decoder blocks.

    T_layer = max( (weights + cache) / (sustained bandwidth),  FLOP / (sustained peak),  messages / links )

What kernels hand to each other stays on the chip, nothing is launched in between, and exchanges with other devices
stream along with the products. What a layer takes beside that, filling, draining and the way of the first bytes between
devices, is the engine's ``layer_s``.
Used by engines that run so (``fused_layers``) and by ``dataflow-fusion``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from steelyard.cost.cost import KernelCost
from steelyard.cost.effect import at_time

__all__ = ["fused"]


def fused(kernels: Iterable[KernelCost], sustained: float) -> tuple[KernelCost, ...]:
    """Kernels with their part of the time of the pipeline they are in; those outside of the layers as they were.

    Args:
        kernels: of a step, or of what is priced of it together.
        sustained: share of the bandwidth and of the peak that the pipeline keeps up.
    """
    found = list(kernels)
    groups: dict[str, list[int]] = {}
    for i, k in enumerate(found):
        if k.kernel.in_layers:
            groups.setdefault(k.kernel.name.split(".")[0], []).append(i)
    for members in groups.values():
        needs = [_needs(found[i], sustained) for i in members]
        total = np.maximum.reduce(np.broadcast_arrays(*(sum(n[j] for n in needs) for j in range(3))))
        each = [np.maximum(np.maximum(n[0], n[1]), n[2]) for n in needs]
        whole = np.maximum(sum(each), 1e-30)
        for i, own in zip(members, each, strict=True):
            found[i] = at_time(found[i], total * own / whole)
    return tuple(found)


def _needs(k: KernelCost, sustained: float) -> tuple[Any, Any, Any]:
    """Seconds of memory, of arithmetic and of links that a kernel takes of its pipeline."""
    if k.kernel.kind == "collective":
        return np.zeros(()), np.zeros(()), np.asarray(k.limit_s)
    traffic = k.kernel.traffic
    kept = np.asarray(traffic.get("weight", 0.0) + traffic.get("kv", 0.0))
    share = kept / np.maximum(sum(traffic.values()), 1e-30)
    return np.asarray(k.memory_s) * share / sustained, np.asarray(k.compute_s) / sustained, np.zeros(())
