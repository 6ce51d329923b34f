"""The built-in cost models of the kernel kinds: each reads a kernel's features and a site, and answers in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.cost import ggml
from steelyard.cost.collective import (
    EXCHANGES,
    CollectiveParameters,
    Fabric,
    LinkKind,
    collective_time_s,
    expert_exchange_time_s,
)
from steelyard.cost.devices import gemm_device, moe_device, vector_device
from steelyard.cost.gemm import GemmFacts, GemmParameters, gemm_facts, gemm_time_s, library_facts
from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import COLLECTIVE, GATHER, GEMM, MOE, VECTOR
from steelyard.cost.models import KernelTime, PricingContext, cost_model, model_for
from steelyard.cost.moe import FACTS as MOE_FACTS
from steelyard.cost.moe import MoeParameters, Router, expert_loads, moe_time_s
from steelyard.cost.parameters import UNMEASURED_SPREAD, Calibrated, calibrated
from steelyard.cost.pim import near_memory_time_s
from steelyard.cost.site import Site
from steelyard.cost.sustained import held
from steelyard.cost.systolic import SYSTOLIC, systolic_cycles
from steelyard.cost.vector import VectorDevice, VectorParameters, vector_time_s
from steelyard.machine.classes import family_named, stack_named
from steelyard.machine.cluster import Cluster
from steelyard.machine.network import Network

__all__ = [
    "collective",
    "expert_parameters",
    "fabrics",
    "gather",
    "gemm",
    "moe",
    "product_parameters",
    "vector",
    "vector_site",
]

#: Log-space spread of the closed form of a systolic array: exact for its compute cycles, silent on stalls (guess).
SYSTOLIC_SPREAD = 0.15


#: Section of the GEMM calibration files by weight format; formats that are not here use the 16-bit table.
GEMM_VARIANTS = {
    "fp8": ("fp8", ""),
    "mxfp8": ("fp8_block", "fp8", ""),
    "fp8_block": ("fp8_block", "fp8", ""),
    "nvfp4": ("nvfp4", "fp8", ""),
    "int8": ("int8", "fp8", ""),
}


@cost_model(GEMM)
def gemm(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Dense products; equal shapes are priced once."""
    site, f = context.site, kernel.features
    if site.engine.dataflow in SYSTOLIC and not site.engine.overlaps:
        array = site.engine
        shape = (f["m"], f["n"], f["k"])
        cycles = systolic_cycles(*shape, array.rows, array.columns, array.dataflow, array.units) * f["groups"]
        return KernelTime(cycles / array.clock_hz, SYSTOLIC_SPREAD, "closed form")
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
        return KernelTime(time, UNMEASURED_SPREAD, "default")
    own = ggml.calibration(context.engine, site.machine)
    if own is not None and site.compute in ggml.FORMATS:
        return KernelTime(ggml.product_time_s(kernel, site, own.parameters), own.spread, own.source)
    found, facts = product_parameters(site, kernel.weight_format, f["weight_bits"], f["act_bits"])
    burst = context.burst or context.weights_hot or site.compute == "fp32"
    parameters = found.parameters if burst else held(found.parameters, site, site.machine.tdp_w)
    if context.engine.fused_quantisation:
        facts = replace(facts, quantises_activations=False)
    device = gemm_device(site)

    def price(m: Any, n: Any, k: Any, groups: Any) -> Any:
        return gemm_time_s(
            m,
            n,
            k,
            weight_bits=f["weight_bits"],
            act_bits=f["act_bits"],
            out_bits=f["out_bits"],
            device=device,
            parameters=parameters,
            facts=facts,
            groups=groups,
            weights_hot=context.weights_hot,
        )

    return KernelTime(_once(price, f["m"], f["n"], f["k"], f["groups"]), found.spread, found.source)


def product_parameters(
    site: Site, weight_format: str, weight_bits: float, act_bits: float
) -> tuple[Calibrated, GemmFacts]:
    """The parameters of dense products on a site, and the software that runs them.

    A section names the kernel it was fitted with. Where an 8- or 4-bit product has to borrow the 16-bit parameters it
    still runs the kernel that the family's library has for its format.
    """
    variants: tuple[str, ...] = ("",)
    narrow = site.compute in ("fp8", "int8", "fp4", "fp6") and weight_format in GEMM_VARIANTS
    if narrow:
        variants = GEMM_VARIANTS[weight_format]
    elif site.compute == "fp32":
        variants = ("fp32", "")
    found = calibrated("gemm", GemmParameters, site.machine.name, (site.family,), variants)
    found = found.at_memory(site.machine.root.kind, "dram_frac")
    if found.facts and weight_bits >= 0.75 * act_bits and (found.variant or not narrow):
        return found, gemm_facts(found.facts)
    return found, library_facts(site.family, weight_bits, act_bits)


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


#: Least log-space spread of experts whose parameters are those of another kernel or format (guess: a factor of 1.5).
OTHER_KERNEL_SPREAD = 0.32
#: Section suffix of the MoE calibration files by weight format.
MOE_FORMATS = {
    "fp8": "fp8",
    "int8": "fp8",
    "fp8_block": "fp8_block",
    "mxfp8": "fp8_block",
    "nvfp4": "nvfp4",
    "mxfp4": "w4a16_mxfp4",
}


def expert_kernels(
    site: Site, weight_format: str, weight_bits: float, act_bits: float, own: str = ""
) -> tuple[str, tuple[str, ...]]:
    """The format of the calibration sections, and the kernels to look for, best first.

    ``own``: the engine's own kernel on the site's family; it comes first where the family names none for the format.
    """
    if weight_bits < 0.75 * act_bits and weight_format != "mxfp4":
        return "int4_wo", ("marlin",)
    family = family_named(site.family)
    fmt = MOE_FORMATS.get(weight_format, "bfloat16")
    fmt, listed = family.expert_formats.get(fmt, fmt), family.expert_kernels
    kernels = listed[fmt] if fmt in listed else (*filter(None, (own,)), *listed[""])
    if fmt == "w4a16_mxfp4" and act_bits < 16:
        fmt = "w4a8_mxfp4_mxfp8"
    return fmt, tuple(kernels)


#: Formats of experts by what a kernel does with them, nearest first: where a family has no section of a kernel, its own
#: kernel for the nearest format says more of its machines than the kernel's section on another family.
NEAREST_EXPERTS = {
    "nvfp4": ("fp8_block", "fp8", "bfloat16"),
    "w4a8_mxfp4_mxfp8": ("nvfp4", "fp8_block", "fp8", "bfloat16"),
    "fp8": ("fp8_block", "bfloat16"),
    "fp8_block": ("fp8", "bfloat16"),
    "bfloat16": ("fp8", "fp8_block"),
    "w4a16_mxfp4": ("int4_wo",),
    "int4_wo": ("w4a16_mxfp4",),
}


def expert_parameters(site: Site, kernel: str, fmt: str, *, own: bool = False) -> Calibrated:
    """Parameters of a grouped product on a site: measured there or on its family, of the kernel or the nearest to it;
    then of the kernel on other families.

    Args:
        site: where.
        kernel: a name of ``catalogue/kernels/moe.toml``.
        fmt: a format of the calibration sections.
        own: the engine's own kernel, whose section on other families comes before others' on this family.
    """
    if own:
        found = calibrated("moe", MoeParameters, site.machine.name, (site.family,), (f"{kernel}_{fmt}",))
        if found.source != "default":
            return _no_better_than_products(found, site)
    formats = (fmt, *NEAREST_EXPERTS.get(fmt, ()))
    sections = [f"{k}_{near}" for k in dict.fromkeys((kernel, *MOE_FACTS)) for near in formats]
    for families, last in (((site.family,), ""), ((), "generic")):
        for section in sections:
            found = calibrated("moe", MoeParameters, site.machine.name, families, (section,), last=last)
            if found.source != "default":
                if section != f"{kernel}_{fmt}":
                    found = replace(found, spread=max(found.spread, OTHER_KERNEL_SPREAD))
                return _no_better_than_products(found.at_memory(site.machine.root.kind, "memory_efficiency"), site)
    return Calibrated(MoeParameters(), UNMEASURED_SPREAD, "default")


def moe_kernel(
    site: Site, weight_format: str, weight_bits: float, act_bits: float, own: str = ""
) -> tuple[str, Calibrated]:
    """The grouped-GEMM kernel a site would run and its parameters: the first measured there or on its family."""
    fmt, kernels = expert_kernels(site, weight_format, weight_bits, act_bits, own)
    if own and own == kernels[0]:
        return own, expert_parameters(site, own, fmt, own=True)
    tried = [(name, expert_parameters(site, name, fmt)) for name in kernels]
    own_kernels = [
        (name, found)
        for name, found in tried
        if found.variant == f"{name}_{fmt}" and not found.source.endswith(": generic")
    ]
    measured = own_kernels or [(name, found) for name, found in tried if found.source != "default"] or tried
    return measured[0]


def _no_better_than_products(found: Calibrated, site: Site) -> Calibrated:
    """Experts borrowed from other families reach no larger share of the matrix peak than the family's own products."""
    products = calibrated("gemm", GemmParameters, site.machine.name, (site.family,))
    if not found.source.endswith(": generic") or products.source.endswith(": generic"):
        return found
    share = min(found.parameters.compute_efficiency, products.parameters.compute_frac)
    return replace(found, parameters=replace(found.parameters, compute_efficiency=share))


@cost_model(MOE)
def moe(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Routed experts of one layer: permute, grouped products, combine."""
    site, f = context.site, kernel.features
    blocks = ggml.calibration(context.engine, site.machine)
    if blocks is not None and site.compute == ggml.COMPUTED:
        return KernelTime(ggml.experts_time_s(kernel, site, blocks.parameters), blocks.spread, blocks.source)
    own = context.engine.grouped(site.family, kernel.weight_format)
    name, found = moe_kernel(site, kernel.weight_format, f["weight_bits"], f["act_bits"], own)
    facts, router = MOE_FACTS[name], Router.of(kernel)
    device = moe_device(site)
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
            router=router,
            device=device,
            parameters=found.parameters,
            facts=facts,
            local_experts=f["experts"],
            exchanged=bool(f.get("exchanged", False)),
        )

    time = KernelTime(_once(price, tokens), found.spread, found.source)
    borrowed = found.source.endswith(": generic")
    return _indexed(kernel, context, time) if borrowed and site.stack.indexed_products else time


def _indexed(kernel: Kernel, context: PricingContext, tiled: KernelTime) -> KernelTime:
    """Experts that few rows meet, by the vector kernels of the family's dense products; ``tiled`` where more do."""
    f = kernel.features
    rows, hit, count = expert_loads(f["tokens"], f["top_k"], f["total_experts"], Router.of(kernel), f["experts"])
    groups = np.maximum(np.sum(hit * count, axis=-1), 1.0)
    each = np.maximum(np.sum(rows * count, axis=-1) / groups, 1.0)
    inner = np.asarray(f["intermediate"], dtype=np.float64)
    product = model_for(GEMM.name, context.site.machine)
    shapes = (((2.0 if f["gated"] else 1.0) * inner, f["hidden"]), (f["hidden"], inner))
    both = [
        product(replace(kernel, features={**f, "m": each, "n": n, "k": k, "groups": groups, "out_bits": 16.0}), context)
        for n, k in shapes
    ]
    few = each <= ggml.FEW_ROWS
    time = np.where(few, np.minimum(tiled.time_s, sum(x.time_s for x in both)), tiled.time_s)
    borrowed = max(both[0].spread, OTHER_KERNEL_SPREAD)
    spread = np.where(few, borrowed, tiled.spread) if np.any(few) else tiled.spread
    source = f"{tiled.source}; where few rows meet an expert, {both[0].source}"  # the same whatever else is priced
    return KernelTime(time, spread, source)


def vector_site(context: PricingContext) -> tuple[VectorDevice, Calibrated]:
    """The device a vector kernel meets, and the figures calibrated for it."""
    site = context.site
    found = calibrated("vector", VectorParameters, site.machine.name, (site.family,))
    return vector_device(site), found


@cost_model(VECTOR)
def vector(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Norms, activations, rotary and cache writes; inputs were just written by the kernel before and may be cached."""
    device, found = vector_site(context)
    t = kernel.traffic
    norm = any(op.map == "norm" and "d" in op.ranks for op in kernel.ops)
    time = vector_time_s(
        t["read"] + t["kv"],
        t["write"],
        kernel.flops,
        device=device,
        parameters=found.parameters,
        rows=kernel.features["rows"] if norm else None,
        kind="norm" if norm else "elementwise",
        reused_bytes=t["weight"],
        cold=False,
    )
    return KernelTime(time, found.spread, found.source)


@cost_model(GATHER)
def gather(kernel: Kernel, context: PricingContext) -> KernelTime:
    """Rows read from a table: cold reads."""
    device, found = vector_site(context)
    t = kernel.traffic
    time = vector_time_s(
        t["read"] + t["weight"], t["write"], 0.0, device=device, parameters=found.parameters, kind="gather"
    )
    return KernelTime(time, found.spread, found.source)


def _link_kind(network: Network | None) -> LinkKind:
    return "pcie" if network is None or network.kind == "other" else network.kind


def fabrics(cluster: Cluster) -> tuple[Fabric, Fabric | None]:
    """The links inside a node and, for more than one node, between nodes."""
    peer, inter = cluster.peer, cluster.inter
    inside = Fabric(
        peer.name if peer else "none",
        max(cluster.peer_bandwidth_bytes_per_s, 1.0),
        0.0,
        bool(peer and peer.switched),
        bool(peer and peer.multicast),
        _link_kind(peer),
    )
    if inter is None or cluster.node_count == 1:
        return inside, None
    bandwidth = cluster.inter_bandwidth_bytes_per_s
    outside = Fabric(inter.name, bandwidth, inter.latency_s, inter.switched, inter.multicast, _link_kind(inter))
    return inside, outside


#: Ending of the name of a PCIe network whose devices all sit behind one switch.
ONE_SWITCH = "_switch"


#: Collectives of PCIe devices that cannot read each other's memory.
HOST_PCIE = "pcie_host"


def through_host(cluster: Cluster) -> bool:
    """Whether devices of a node reach each other through host memory only, as GeForce cards on PCIe do."""
    return _link_kind(cluster.peer) == "pcie" and any(not x.peer_access for x in cluster.machine.link)


def link_parameters(cluster: Cluster, kind: str) -> Calibrated:
    """Collective parameters of a cluster's links. Behind one PCIe switch transfers do not share a host's links."""
    machine = cluster.machine
    families = (machine.family, kind) if kind == "nvlink" else (kind, machine.family)
    found = calibrated(
        "collective", CollectiveParameters, machine.name, (HOST_PCIE, *families) if through_host(cluster) else families
    )
    if cluster.peer is not None and cluster.peer.name.endswith(ONE_SWITCH):
        return replace(found, parameters=replace(found.parameters, contention=0.0))
    return found


#: Log-space spread of a collective across nodes, whose network and traffic differ: of 441 rows over 10 GbE.
ACROSS_NODES_SPREAD = 0.25
#: Log-space spread of the expert exchange: its mean error of 7 to 32 % on the rows it was fitted to, as a deviation.
EXCHANGE_SPREAD = 0.2


#: Streaming multiprocessors the normal exchange kernels occupy by default. Source: DeepEP README.
EXCHANGE_UNITS = 24.0


def exchange_time_s(f: Mapping[str, Any], cluster: Cluster) -> Any:
    """Dispatch or combine of routed tokens by DeepEP: the better of its normal and low-latency kernels."""
    inside, outside = fabrics(cluster)
    parameters = EXCHANGES[family_named(cluster.machine.family).expert_exchange]
    times = [
        expert_exchange_time_s(
            f["exchange"],
            f["tokens"],
            f["hidden"],
            f["top_k"],
            f["experts"],
            f["devices"],
            bits=f["bits"],
            fabric=inside,
            parameters=parameters,
            low_latency=low_latency,
            units=f.get("units", EXCHANGE_UNITS),
            inter=outside,
            devices_per_node=cluster.per_node,
        )
        for low_latency in ((f["low_latency"],) if "low_latency" in f else (False, True))
    ]
    return times[0] if len(times) == 1 else np.minimum(*times)


@cost_model(COLLECTIVE)
def collective(kernel: Kernel, context: PricingContext) -> KernelTime:
    """All-reduce, all-gather, all-to-all, send, inside a node and across nodes."""
    f, cluster = kernel.features, context.cluster
    inside, outside = fabrics(cluster)
    stack = stack_named(cluster.machine.launch)
    if "exchange" in f and stack.expert_exchange and inside.switched:
        return KernelTime(exchange_time_s(f, cluster), EXCHANGE_SPREAD, "fitted: DeepEP on Hopper and Blackwell")
    found = link_parameters(cluster, inside.kind)
    since = family_named(cluster.machine.family).all_reduce_since
    own = stack.engine_kernels or "" < since <= context.engine.released
    custom = f["operation"] == "all_reduce" and own and not through_host(cluster)
    time = collective_time_s(
        f["operation"],
        f["message_bytes"],
        f["devices"],
        fabric=inside,
        parameters=found.parameters,
        library=context.engine.all_reduce if custom else "nccl",
        inter=outside,
        devices_per_node=cluster.per_node,
    )
    across = outside is not None and np.any(np.asarray(f["devices"]) > cluster.per_node)
    spread = math.hypot(found.spread, ACROSS_NODES_SPREAD) if across else found.spread
    return KernelTime(time, spread, found.source)
