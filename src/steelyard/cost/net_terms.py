"""The physical limits of a network's kernels on one device: what their times are multiples of.

=====================  =================================================================================
``CLASS.compute``      operations with full tiles / peak of the engine, in s
``CLASS.traffic``      bytes / bandwidth, in s; bytes of a kernel that fit the last-level cache move at its rate
``CLASS.steps``        steps that follow one another, of recurrences and resizes
``kernels``            kernels
=====================  =================================================================================

A time is the sum over terms of a factor (how many times the limit a runtime's kernels of the class take) and the term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.cost.net_kernels import CLASSES, PRODUCTS, NetKernels
from steelyard.cost.site import Site, site_for
from steelyard.deployment.runtime import Precision
from steelyard.machine.component import Machine
from steelyard.workload.op import Array

__all__ = ["least_work", "limits", "net_site", "terms"]

#: Classes with work in proportion to operations beside their traffic, on the vector engine.
_VECTOR = ("wide", "depthwise", "depthwise_large", "pool", "resize", "other")


def net_site(machine: Machine, precision: Precision) -> Site:
    """Where products of a precision run on a machine. Raises :class:`InputError` where it cannot compute in it."""
    return site_for(machine, precision.weights, precision.activations)


def _limits(kernels: NetKernels, site: Site) -> tuple[Array, Array]:
    """Seconds at the peak and at the bandwidths, each ``[kernels, scenarios]``."""
    matrix = np.array([c in PRODUCTS for c in kernels.classes], dtype=np.bool_)[:, None]
    compute = np.where(matrix, kernels.padded / site.peak_ops_per_s, kernels.flops / site.vector_ops_per_s)
    passing = kernels.read + kernels.written
    hot = np.maximum(0.0, 1.0 - passing / max(site.l2_bytes, 1.0)) * passing
    cold = kernels.bytes - hot
    return compute, cold / site.dram_bytes_per_s + hot / site.l2_bytes_per_s


def limits(kernels: NetKernels, site: Site) -> Array:
    """The least time of each kernel in s: the longer of its operations at the peak and its bytes at the bandwidth."""
    return np.maximum(least_work(kernels, site), _limits(kernels, site)[1])


def least_work(kernels: NetKernels, site: Site) -> Array:
    """The operations of each kernel at the peak, in s."""
    compute, _ = _limits(kernels, site)
    return np.asarray(compute * kernels.flops / np.maximum(kernels.padded, 1.0), dtype=np.float64)


def terms(kernels: NetKernels, site: Site) -> Mapping[str, Array]:
    """Every term ``[kernels, scenarios]``; zero where a kernel has none of it."""
    compute, traffic = _limits(kernels, site)
    found: dict[str, Array] = {}
    for name in CLASSES:
        of = kernels.index(name)[:, None]
        if not of.any():
            continue
        found[f"{name}.traffic"] = np.where(of, traffic, 0.0)
        if name in PRODUCTS or name in _VECTOR:
            found[f"{name}.compute"] = np.where(of, compute, 0.0)
    for name in ("recurrent", "resize"):
        if kernels.index(name).any():
            found[f"{name}.steps"] = np.where(kernels.index(name)[:, None], kernels.serial, 0.0)
    found["kernels"] = np.ones_like(traffic)
    return found


def summed(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Terms over all kernels, ``[scenarios]``."""
    return {name: values.sum(axis=0) for name, values in found.items()}
