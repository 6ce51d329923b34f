"""Weights in host memory: what of a step has them there, and what that costs.

    computed    T = T_host + 2 (message / link + crossing)         one after the other
    streamed    T = weights / link + all weights / repack + T_device, for each micro-batch

``link``: what a copy sustains of the device's link to the host; ``repack``: the rate at which the host lays out anew
what all devices are sent, where its own kernels want another layout than theirs. An engine that computes on the host
streams large steps nevertheless, as llama.cpp does from 32 tokens on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from steelyard.cost.cost import FIGURES, KernelCost
from steelyard.cost.kernel import Hosted, Kernel, Program
from steelyard.cost.program import lower, own_formats, weight_format
from steelyard.deployment.engine import Engine
from steelyard.deployment.offload import EVERY, Offload, parse_offload
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import shard
from steelyard.machine.cluster import Cluster
from steelyard.machine.component import Machine
from steelyard.machine.host import find_host, usual_host
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op

__all__ = ["THERE", "cache_share", "host_part", "host_shares", "hosted", "notes", "on_device"]

#: Of the link's rate, what copies of weights sustain (guess: 0.75 to 0.9 from pinned memory).
LINK_FRAC = 0.8
#: s: a copy between host and device with the wait on either side (guess: 10 to 30 us).
CROSSING_S = 15e-6
#: Ending of the name of a kernel's copies whose weights lie in host memory.
THERE = " in host memory"
#: Spread: servers with many channels read experts at half the rate that desktops do (see the guide).
SPREAD = 0.4


def cache_share(plan: Plan, depth: int) -> float:
    """Share of the cache that lies in host memory: that of layers which are computed there."""
    if not plan.offload:
        return 0.0
    asked = parse_offload(plan.offload)
    if asked.cache:
        return 1.0
    return 0.0 if asked.use == "streamed" else _layer_share(asked, depth)


def _layer_share(asked: Offload, depth: int) -> float:
    return 1.0 - min(max(asked.resident - 1, 0), depth) / max(depth, 1)


def host_shares(graph: Graph, plan: Plan, depth: int) -> Callable[[Op], float]:
    """The share of the copies of an op whose weights lie in host memory.

    Args:
        graph: the ops of a step.
        plan: a resolved plan.
        depth: layers of the model.
    """
    if not plan.offload:
        return lambda op: 0.0
    asked = parse_offload(plan.offload)
    layers = _layer_share(asked, depth)
    sized = _sized_share(graph, plan, asked.size_bytes) if asked.size_bytes else 0.0
    experts = _expert_share(graph, asked.experts)
    head = 1.0 if asked.resident == 0 else 0.0

    def share(op: Op) -> float:
        if "." not in op.name:
            return head if op.block in ("head", "norm") else 0.0
        return max(layers, sized, experts if "e" in op.ranks else 0.0)

    return share


def _expert_share(graph: Graph, first: int) -> float:
    """Of the layers with experts, those among the first so many; dense ones that come first have none."""
    if not first:
        return 0.0
    groups = []
    for _, found in groupby((op for op in graph.ops if "." in op.name), key=lambda op: op.name.split(".")[0]):
        ops = list(found)
        groups.append((float(np.max(np.asarray(ops[0].count))), any("e" in op.ranks for op in ops)))
    sparse = sum(count for count, has in groups if has)
    if not sparse:
        return 0.0
    dense_first = groups[0][0] if not groups[0][1] and all(has for _, has in groups[1:]) else 0.0
    if dense_first or sparse == sum(count for count, _ in groups):
        return min(1.0, max(0.0, first - dense_first) / sparse)
    return min(1.0, first / sum(count for count, _ in groups))


def _sized_share(graph: Graph, plan: Plan, size_bytes: float) -> float:
    """Of the weights of one device's layers, so many bytes."""
    own, total = own_formats(graph, plan), 0.0
    for op in graph:
        if "." not in op.name:
            continue
        bits, local = weight_format(op, plan, own).stored_bits, shard(op, plan)
        for tensor in local.inputs:
            if tensor.role in ("weight", "table"):
                width = tensor.bits if tensor.bits is not None else bits
                total += float(local.elements(tensor, visited=False)) * width / 8 * float(np.asarray(op.count))
    return min(1.0, size_bytes / max(total / plan.pp, 1.0))


def notes(plan: Plan, engine: Engine, cluster: Cluster) -> list[str]:
    """What to say of weights in host memory: which, who computes, and the host; nothing where there are none.

    Args:
        plan: a resolved plan.
        engine: says which steps stream the weights.
        cluster: the devices and their host.
    """
    host = cluster.host
    if not plan.offload or host is None:
        return []
    asked = parse_offload(plan.offload)
    done = {"computed": "computed there", "streamed": "copied to the device at every step"}
    usual = f"computed there, copied to the device for steps of {engine.stream_tokens:.0f} tokens or more"
    named = not cluster.machine.links("host") or host.name != find_host(usual_host(cluster.machine)).name
    rest = "" if named else ", the usual one of such a device (--host names another)"
    return [f"in host memory: {asked.words}; {done.get(asked.use, usual)}", f"host: {host.title}{rest}"]


def hosted(program: Program, graph: Graph, host: Machine, depth: int) -> Program:
    """A program whose kernels say what of them lies in host memory.

    Args:
        program: as lowered for the device.
        graph: what it was lowered from.
        host: the processor beside it.
        depth: layers of the model.
    """
    plan = program.plan
    share = host_shares(graph, plan, depth)
    asked = parse_offload(plan.offload)
    streamed = asked.use == "streamed"
    alone = replace(plan.over(1), offload="")
    there = {kernel.name: kernel for kernel in lower(graph, alone, host).kernels}
    kernels = []
    for kernel in program.kernels:
        decoding = kernel.kind.startswith("attention") and np.all(np.asarray(kernel.features.get("new", 2.0)) <= 1)
        if asked.cache and decoding and kernel.name in there:
            kernels.append(replace(kernel, hosted=Hosted(1.0, there[kernel.name], _crossing(kernel), "computed")))
            continue
        part = max((share(op) for op in kernel.ops), default=0.0)
        stays = streamed and not any(t.role in ("weight", "table") for op in kernel.ops for t in op.inputs)
        if not part or stays or kernel.kind == "collective" or kernel.name not in there:
            kernels.append(kernel)
            continue
        routed = next((op for op in kernel.ops if "e" in op.ranks and {"t", "d"} <= set(op.ranks)), None)
        whole = asked.resident < EVERY and part <= _layer_share(asked, depth)
        message: Any = 0.0
        if routed is not None and not whole:
            message = np.asarray(routed.size("t")) * np.asarray(routed.size("d")) * 4.0
        kernels.append(replace(kernel, hosted=Hosted(part, there[kernel.name], message, asked.use)))
    return replace(program, kernels=tuple(kernels))


def _crossing(kernel: Kernel) -> Any:
    """Bytes of queries on their way to the host, each way: what attention puts out comes back."""
    f = kernel.features
    return np.asarray(f["batch"], dtype=np.float64) * np.asarray(f["new"]) * f["heads"] * f["head_dim"] * 2.0


def host_part(
    kernel: Kernel, here: KernelCost, there: KernelCost, program: Program, at: Cluster, engine: Engine
) -> KernelCost:
    """The price of the copies of a kernel whose weights lie in host memory.

    Args:
        kernel: with what lies there.
        here, there: the price of all its copies on the device, and on the host.
        program: the step.
        at: the devices.
        engine: says which steps stream the weights.
    """
    part = kernel.hosted
    assert part is not None
    count = np.asarray(kernel.count)
    rate = part.rate_bytes_per_s / LINK_FRAC or at.machine.links("host")[0].bandwidth_bytes_per_s
    size = np.asarray(program.tokens, dtype=np.float64)
    fetched = kernel.traffic.get("weight", 0.0) * count * part.fetched_frac
    crossed = 2.0 * np.asarray(part.message_bytes) * count
    waits = 2.0 * CROSSING_S * count if np.any(crossed) else 0.0
    streams: Any = part.use == "streamed"
    if part.use == "either":
        streams = (size >= engine.stream_tokens) if np.any(fetched) and engine.stream_tokens else False
    copying = fetched / (LINK_FRAC * rate)
    if engine.repack_bytes_per_s:
        copying = copying + fetched * program.plan.replica_devices / program.plan.pp / engine.repack_bytes_per_s
    crossing = crossed / (LINK_FRAC * rate) + waits

    def either(device: Any, host: Any) -> Any:
        return np.where(streams, device, host) * part.share

    return KernelCost(
        kernel=replace(kernel, name=f"{kernel.name}{THERE}", count=count * part.share, hosted=None),
        time_s=either(here.time_s + copying, there.time_s + crossing),
        limit_s=either(np.maximum(here.limit_s, fetched / rate), there.limit_s + crossed / rate),
        compute_s=either(here.compute_s, there.compute_s),
        memory_s=either(here.memory_s, there.memory_s),
        network_s=either(copying, crossing),
        energy_j=either(here.energy_j, there.energy_j),
        spread=max(here.spread, there.spread, SPREAD),
        source=f"{there.source}; copies between host and device: guess",
        model=there.model,
        engine=here.engine if part.use == "streamed" else "host",
    )


def on_device(kernel: Kernel, here: KernelCost) -> KernelCost:
    """The price of the copies of a kernel whose weights lie on the device."""
    assert kernel.hosted is not None
    rest = 1.0 - kernel.hosted.share
    figures = {name: getattr(here, name) * rest for name in FIGURES}
    count = np.asarray(kernel.count) * rest
    return replace(here, kernel=replace(kernel, count=count, hosted=None), **figures)
