"""The physical limits of a network's kernels on one device: what their times are multiples of.

=====================  =================================================================================
``CLASS.compute``      operations with full tiles / peak of the engine, in s
``CLASS.traffic``      bytes / bandwidth, in s; bytes of a kernel that fit the last-level cache move at its rate
``recurrent.steps``    steps that follow one another
``resize.steps``       the same, as so many latencies of the last-level cache, in s
``attention.steps``    scores / peak of the vector engine, in s: each is raised by units that are slower than it
``kernels``            kernels
=====================  =================================================================================

A time is the sum over terms of a factor (how many times the limit a runtime's kernels of the class take) and the term.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.net_kernels import CLASSES, PRODUCTS, NetKernels
from steelyard.cost.site import Site, site_for
from steelyard.deployment.runtime import Precision
from steelyard.machine.component import Machine
from steelyard.workload.op import Array

__all__ = ["limits", "moved_s", "net_site", "streamed_s", "terms"]

#: Classes with work in proportion to operations beside their traffic, on the vector engine.
_VECTOR = ("wide", "depthwise", "depthwise_large", "pool", "resize", "other")


def net_site(machine: Machine, precision: Precision) -> Site:
    """Where products of a precision run on a machine. Raises :class:`InputError` where it cannot compute in it."""
    return site_for(machine, precision.weights, precision.activations)


def moved_s(kernels: NetKernels, site: Site) -> Array:
    """Seconds in which activations cross the borders of each kernel: what fits the last-level cache at its rate."""
    passing = kernels.read + kernels.written
    hot = np.maximum(0.0, 1.0 - passing / max(site.l2_bytes, 1.0)) * passing
    return np.asarray((passing - hot) / site.dram_bytes_per_s + hot / site.l2_bytes_per_s, dtype=np.float64)


def streamed_s(kernels: NetKernels, site: Site) -> Array:
    """Seconds in which the weights of each kernel are read from memory."""
    return kernels.weights / site.dram_bytes_per_s


def limits(kernels: NetKernels, site: Site) -> tuple[Array, Array]:
    """The least seconds of each kernel for its operations, at the peak, and for its bytes, at the bandwidths."""
    peak = np.where(_on_matrix(kernels), site.peak_ops_per_s, site.vector_ops_per_s)
    return kernels.flops / peak, moved_s(kernels, site) + streamed_s(kernels, site)


def _on_matrix(kernels: NetKernels) -> NDArray[np.bool_]:
    """Which kernels run on the matrix engine, ``[kernels, 1]``."""
    return np.array([c in PRODUCTS for c in kernels.classes], dtype=np.bool_)[:, None]


def terms(kernels: NetKernels, site: Site) -> Mapping[str, Array]:
    """Every term ``[kernels, scenarios]``; zero where a kernel has none of it."""
    traffic = moved_s(kernels, site) + streamed_s(kernels, site)
    compute = np.where(_on_matrix(kernels), kernels.padded / site.peak_ops_per_s, kernels.flops / site.vector_ops_per_s)
    found: dict[str, Array] = {}
    for name in CLASSES:
        of = kernels.index(name)[:, None]
        if not of.any():
            continue
        found[f"{name}.traffic"] = np.where(of, traffic, 0.0)
        if name in PRODUCTS or name in _VECTOR:
            found[f"{name}.compute"] = np.where(of, compute, 0.0)
        if name in ("recurrent", "resize"):
            each = site.l2_latency_s if name == "resize" else 1.0
            found[f"{name}.steps"] = np.where(of, kernels.serial * each, 0.0)
        if name == "attention":
            found["attention.steps"] = np.where(of, kernels.serial / site.vector_ops_per_s, 0.0)
    found["kernels"] = np.ones_like(traffic)
    return found
