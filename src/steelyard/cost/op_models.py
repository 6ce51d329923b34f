"""The cost models of the kernel kinds: each reads a kernel's features and a site, and answers in seconds.

A cost model is a callable ``(kernel, where) -> Priced``. Ours and a plug-in's enter by the same entry-point group,
``steelyard.cost_models``, under the kind of kernel they price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.cost.collective import Fabric, collective_time_s
from steelyard.cost.gemm import GemmDevice, gemm_time_s
from steelyard.cost.moe import MoeDevice, moe_time_s
from steelyard.cost.parameters import UNMEASURED_SPREAD, Calibrated, calibrated
from steelyard.cost.pim import near_memory_time_s
from steelyard.cost.program import Kernel
from steelyard.cost.site import Site
from steelyard.cost.systolic import systolic_cycles
from steelyard.cost.vector import VectorDevice, vector_time_s
from steelyard.machine.cluster import Cluster
from steelyard.plan.engine import Engine

__all__ = ["Priced", "Where", "attention", "collective", "gather", "gemm", "moe", "vector"]


#: Log-space spread of the closed form of a systolic array: exact for its compute cycles, silent on stalls (guess).
SYSTOLIC_SPREAD = 0.15


@dataclass(frozen=True, slots=True)
class Where:
    """What a cost model may look at beside the kernel."""

    cluster: Cluster
    engine: Engine
    site: Site | None
    """Engine and format; None for communication."""
    skew: float = 0.0
    weights_hot: bool = False
    """Benchmarks that reuse one set of weights find small ones in the cache; serving does not."""


@dataclass(frozen=True, eq=False)
class Priced:
    """Seconds per copy, log-space spread of the model's residuals, and where its parameters came from."""

    time_s: Any
    spread: float
    source: str


def _site(where: Where) -> Site:
    assert where.site is not None
    return where.site


def gemm(kernel: Kernel, where: Where) -> Priced:
    """Dense products; equal shapes are priced once."""
    site, f = _site(where), kernel.features
    if site.engine.dataflow:
        array = site.engine
        cycles = systolic_cycles(f["m"], f["n"], f["k"], array.rows, array.columns, array.dataflow)
        arrays = max(1.0, site.units / max(1.0, array.rows * array.columns))
        return Priced(
            cycles * np.ceil(np.asarray(f["groups"]) / arrays) / array.clock_hz, SYSTOLIC_SPREAD, "closed form"
        )
    if site.near_memory:
        time = near_memory_time_s(
            f["m"],
            f["n"],
            f["k"],
            weight_bits=f["weight_bits"],
            peak_ops_per_s=site.peak_ops_per_s,
            bandwidth_bytes_per_s=site.dram_bytes_per_s,
            groups=f["groups"],
        )
        return Priced(time, UNMEASURED_SPREAD, "default")
    found = calibrated("gemm", site, kernel.weight_format)
    device = GemmDevice(
        site.units,
        site.peak_ops_per_s,
        site.peak16_ops_per_s,
        site.dram_bytes_per_s,
        site.l2_bytes,
        site.l2_bytes_per_s,
        site.copy_engine,
    )

    def price(m: Any, n: Any, k: Any, groups: Any) -> Any:
        return gemm_time_s(
            m,
            n,
            k,
            weight_bits=f["weight_bits"],
            act_bits=f["act_bits"],
            out_bits=16.0,
            device=device,
            parameters=found.parameters,
            facts=found.facts,
            groups=groups,
            weights_hot=where.weights_hot,
        )

    return Priced(_once(price, f["m"], f["n"], f["k"], f["groups"]), found.spread, found.source)


def _once(price: Any, *shape: Any) -> Any:
    """Price distinct shapes only. A decode over thousands of scenarios has a few hundred batch sizes."""
    arrays = [np.asarray(x, dtype=np.float64) for x in shape]
    varying = [i for i, a in enumerate(arrays) if a.ndim and a.size > 1]
    if len(varying) == 1 and arrays[varying[0]].size > 64:
        i = varying[0]
        values, inverse = np.unique(arrays[i].ravel(), return_inverse=True)
        arrays[i] = values
        return np.asarray(price(*arrays))[inverse].reshape(np.shape(shape[i]))
    return price(*arrays)


def attention(kernel: Kernel, where: Where) -> Priced:
    """Fused attention: decode when one new token per sequence, latent (MLA) when the values are the keys."""
    from steelyard.cost import attention_models

    return attention_models.price(kernel, where)


def moe(kernel: Kernel, where: Where) -> Priced:
    """Routed experts of one layer: permute, grouped products, combine."""
    site, f = _site(where), kernel.features
    found = calibrated("moe", site, kernel.weight_format)
    device = MoeDevice(
        int(site.units),
        site.peak_ops_per_s,
        site.peak16_ops_per_s,
        site.dram_bytes_per_s,
        site.l2_bytes,
        site.l2_bytes_per_s,
        site.copy_engine,  # type: ignore[arg-type]
    )
    tokens = np.asarray(f["tokens"], dtype=np.float64)

    def price(count: Any) -> Any:
        return moe_time_s(
            count,
            f["hidden"],
            f["intermediate"],
            f["top_k"],
            f["total_experts"],
            weight_bits=f["weight_bits"],
            act_bits=f["act_bits"],
            gated=bool(f["gated"]),
            skew=where.skew,
            device=device,
            parameters=found.parameters,
            facts=found.facts,
            local_experts=f["experts"],
        )

    return Priced(_once(price, tokens), found.spread, found.source)


def vector(kernel: Kernel, where: Where, *, passes: float = 1.0) -> Priced:
    """Norms, activations, rotary and cache writes; inputs were just written by the kernel before and may be cached."""
    site, t = _site(where), kernel.traffic
    found = calibrated("vector", site, "")
    device = VectorDevice(
        site.dram_bytes_per_s, site.l2_bytes, site.l2_bytes_per_s, site.vector_ops_per_s, int(site.units)
    )
    time = vector_time_s(
        t["read"],
        t["write"],
        kernel.flops,
        device=device,
        parameters=found.parameters,
        passes=passes,
        reused_bytes=t["weight"],
        cold=False,
    )
    return Priced(time, found.spread, found.source)


def gather(kernel: Kernel, where: Where) -> Priced:
    """Rows read from a table: cold reads."""
    site, t = _site(where), kernel.traffic
    found = calibrated("vector", site, "")
    device = VectorDevice(
        site.dram_bytes_per_s, site.l2_bytes, site.l2_bytes_per_s, site.vector_ops_per_s, int(site.units)
    )
    time = vector_time_s(t["read"] + t["weight"], t["write"], 0.0, device=device, parameters=found.parameters)
    return Priced(time, found.spread, found.source)


def collective(kernel: Kernel, where: Where) -> Priced:
    """All-reduce, all-gather, all-to-all, send, inside a node and across nodes."""
    f, cluster = kernel.features, where.cluster
    found: Calibrated = calibrated("collective", cluster.machine, cluster.peer.kind if cluster.peer else "")
    peer = cluster.peer
    fabric = Fabric(
        peer.name if peer else "none",
        max(cluster.peer_bandwidth_bytes_per_s, 1.0),
        0.0,
        peer.switched if peer else False,
        peer.multicast if peer else False,
        "pcie" if peer is None or peer.kind == "other" else peer.kind,
    )
    inter = None
    if cluster.inter is not None and cluster.node_count > 1:
        kind = cluster.inter.kind
        inter = Fabric(
            cluster.inter.name,
            cluster.inter_bandwidth_bytes_per_s,
            cluster.inter.latency_s,
            cluster.inter.switched,
            cluster.inter.multicast,
            "infiniband" if kind == "other" else kind,
        )
    time = collective_time_s(
        f["operation"],
        f["message_bytes"],
        f["devices"],
        fabric=fabric,
        parameters=found.parameters,
        library=where.engine.all_reduce
        if f["operation"] == "all_reduce" and cluster.machine.vendor == "NVIDIA"
        else "nccl",
        inter=inter,
        devices_per_node=cluster.per_node,
    )
    return Priced(time, found.spread, found.source)
