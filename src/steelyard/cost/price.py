"""The one door: ``price(program, cluster) -> Cost``.

Every kernel's time is ``limit / utilisation`` with a utilisation in (0, 1]: the cost model of its kind gives the
time, and the door refuses to go below the physical limit ``max(FLOPs / peak, bytes / bandwidth)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from steelyard.cost import ggml
from steelyard.cost.collective import collective_limit_s
from steelyard.cost.cost import Cost, KernelCost
from steelyard.cost.cpu import unpacking_s
from steelyard.cost.energy import held_back_s, kernel_energy_j, static_power_w
from steelyard.cost.fused_layers import fused
from steelyard.cost.host_memory import host_part, on_device
from steelyard.cost.kernel import Kernel, Program
from steelyard.cost.models import KernelTime, PricingContext, model_for
from steelyard.cost.op_models import fabrics
from steelyard.cost.place import engines_for, roofline
from steelyard.cost.sampling import drawing, sampling_s
from steelyard.cost.site import site_of
from steelyard.cost.unlike import joined
from steelyard.deployment.engine import Engine, KernelSpeed, default_engine
from steelyard.machine.classes import stack_named
from steelyard.machine.cluster import Cluster

__all__ = ["engine_times", "launched", "price"]


def price(
    program: Program,
    cluster: Cluster,
    engine: Engine | None = None,
    *,
    weights_hot: bool = False,
    burst: bool = False,
    decode: bool = True,
) -> Cost:
    """Price every kernel of a program on one device of a cluster.

    Args:
        program: what :func:`~steelyard.cost.program.lower` made; its sizes may be arrays over scenarios.
        cluster: the devices and the links between them.
        engine: serving engine, for overheads and its choice of libraries; default: the usual one of the machine.
        burst: kernels are timed one at a time (a benchmark), so that clocks stay up.
        weights_hot: weights smaller than the cache stay in it (benchmarks that repeat one kernel).
        decode: whether the step is a captured graph where the engine uses them for decoding.

    Returns:
        the cost per device; times in s, energy in J, arrays over scenarios.

    Raises:
        UnknownName: no cost model prices a kernel of the program.
    """
    engine = engine or default_engine(cluster.machine)
    kernels = tuple(c for k in program.kernels for c in _places(k, program, cluster, engine, weights_hot, burst))
    if engine.fused_layers:
        kernels = fused(kernels, engine.fused_layers)
    waiting, host = engine_times(program, cluster, engine, decode=decode)
    device_s: Any = sum((k.time_s for k in kernels), 0.0)
    stall = np.maximum(0.0, host - device_s)  # eager launches run ahead of the device unless it is faster
    return Cost(kernels, waiting + stall, static_power_w(cluster.machine), cluster.machine.most_w)


def engine_times(program: Program, cluster: Cluster, engine: Engine, *, decode: bool = True) -> tuple[Any, Any]:
    """The engine's own time of a step: what the device waits for, and what the host needs to launch its kernels, s.

    Arguments as of :func:`price`. The second is 0 where the step is a captured graph; the slower of it and the device
    counts.
    """
    per_layer = max(engine.layer_s, 0.0) * _layers(program)
    waiting = per_layer + engine.step_s + engine.step_s_per_sequence * _rows(program, engine)
    launches = (
        0.0
        if engine.fused_layers or (engine.graph and decode)
        else engine.launch_s or stack_named(cluster.machine.launch).launch_s
    )
    host: Any = launches * launched(program.kernels, engine)
    if engine.graph and engine.graph_tokens and np.any(host):
        host = np.where(np.asarray(program.tokens) > engine.graph_tokens, host, 0.0)
    return waiting, host


def launched(kernels: Iterable[Kernel], engine: Engine) -> Any:
    """Launches of kernels outside a captured graph; some are several then, see ``cost.scan`` and ``adds_apart``."""
    apart = _added_apart if engine.adds_apart else lambda kernel: 0
    return sum(np.asarray(k.count) * (k.features.get("launches", 1.0) + apart(k)) for k in kernels)


def _added_apart(kernel: Kernel) -> int:
    """Kernels of an addition that is fused elsewhere: a residual before a layer norm, a bias after partial sums."""
    residual = [op for op in kernel.ops if op.map == "norm" and "residual" in op.operands and np.max(op.size("w")) > 1]
    partial = [op for op in kernel.ops if "d" in op.output.ranks and op.name.endswith(("out", "down"))]
    return len(residual) + (len(partial) if kernel.biased else 0)


def _layers(program: Program) -> Any:
    """Layers passed, those of every micro-batch."""
    return sum({k.name.split(".")[0]: np.asarray(k.count) for k in program.kernels if "." in k.name}.values())


def _rows(program: Program, engine: Engine) -> Any:
    """Tokens that are chosen: rows of the head, where it scores no others."""
    if engine.whole_logits and program.step is not None:
        return program.step.batch
    for kernel in reversed(program.kernels):
        if kernel.block == "head" and kernel.ops:
            return kernel.ops[0].size("t") if "t" in kernel.ops[0].ranks else 0.0
    return 0.0


def _places(
    kernel: Kernel, program: Program, cluster: Cluster, engine: Engine, weights_hot: bool, burst: bool
) -> Iterator[KernelCost]:
    """The price of a kernel where it runs; of one whose weights lie partly in host memory, of both parts."""
    here = _price(kernel, program, cluster, engine, weights_hot, burst)
    if kernel.elsewhere:
        yield joined(
            here,
            [_price(x.kernel, program, Cluster(x.machine), engine, weights_hot, burst) for x in kernel.elsewhere],
        )
        return
    if kernel.hosted is None or cluster.host is None:
        yield here
        return
    there = here
    if kernel.hosted.use != "streamed":
        there = _price(kernel.hosted.kernel, program, Cluster(cluster.host), engine, weights_hot, burst)
    if kernel.hosted.share < 1.0:
        yield on_device(kernel, here)
    yield host_part(kernel, here, there, program, cluster, engine)


def _price(
    kernel: Kernel, program: Program, cluster: Cluster, engine: Engine, weights_hot: bool, burst: bool
) -> KernelCost:
    model = model_for(kernel.kind, cluster.machine)
    count = kernel.count
    if kernel.kind == "collective":
        priced: KernelTime = model(kernel, PricingContext(cluster, engine, None))
        limit = _collective_limit(kernel, cluster)
        time = np.maximum(priced.time_s, limit)
        energy = kernel_energy_j(kernel, cluster)
        return KernelCost(
            kernel,
            time * count,
            limit * count,
            0.0,
            0.0,
            time * count,
            energy * count,
            priced.spread,
            priced.source,
            "collective",
        )
    best: KernelCost | None = None
    for compute_engine in engines_for(kernel, cluster.machine):
        site = site_of(
            cluster.machine,
            compute_engine.name,
            ggml.computed(kernel, compute_engine, engine, cluster.machine),
        )
        compute_s, memory_s = roofline(kernel, site)
        limit = np.maximum(compute_s, memory_s)
        priced = model(kernel, PricingContext(cluster, engine, site, weights_hot, burst))
        own = None if burst or weights_hot else engine.speed(kernel.kind, site.family, kernel.weight_format)
        time = np.maximum(priced.time_s if own is None else _as_run(priced.time_s, compute_s, memory_s, own), limit)
        if cluster.machine.launch == "cpu" and kernel.kind in ("gemm", "moe"):
            time = np.maximum(time, unpacking_s(kernel, cluster.machine))
        if engine.cache_copies and program.step is not None and np.all(np.asarray(program.step.new) <= 1):
            time = time + _copied_s(kernel, program, memory_s, engine)
        time = time + sampling_s(kernel, program.plan, PricingContext(cluster, engine, site))
        time = held_back_s(time, compute_s, memory_s, cluster.machine)
        cost = KernelCost(
            kernel,
            time * count,
            limit * count,
            compute_s * count,
            memory_s * count,
            0.0,
            kernel_energy_j(drawing(kernel, program.plan, engine), cluster, site) * count,
            priced.spread,
            priced.source,
            kernel.kind,
            compute_engine.name,
        )
        best = cost if best is None else _faster(best, cost)
    assert best is not None
    return best


#: Share of the bandwidth that plain copies reach.
COPYING = 0.85


def _copied_s(kernel: Kernel, program: Program, memory_s: Any, engine: Engine) -> Any:
    """Copies of the cache around a decode's attention where it is no pool of blocks, s; 0 for what reads none.

    ``cache_copies`` times what attention reads to append a token; with ``expands_groups`` the ``r`` query heads of a
    group get keys and values of their own first: read once, written ``r`` times, and read by attention ``r - 1`` times
    more.
    """
    if kernel.kind not in ("attention", "index_scores"):
        return 0.0
    moved: Any = engine.cache_copies
    if engine.expands_groups:
        rows = kernel.features.get("heads", kernel.features.get("m"))  # apart, a group's heads are rows of its product
        groups = np.asarray(rows) / np.asarray(kernel.features.get("kv_heads", 1.0))
        moved = moved + np.where(groups > 1.0, 2.0 * groups, 0.0)
    read: Any = sum(kernel.traffic.values())
    return moved * memory_s * kernel.traffic["kv"] / np.maximum(read, 1.0) / COPYING


#: Sharpness of the change from reading-bound to arithmetic-bound.
BLEND = 4.0


def _as_run(time_s: Any, compute_s: Any, memory_s: Any, own: KernelSpeed) -> Any:
    """The time of an engine's own kernel from that of the benchmarked one; see :class:`KernelSpeed`."""
    compute, memory = np.asarray(compute_s) ** BLEND, np.asarray(memory_s) ** BLEND
    multiplying = compute / np.maximum(compute + memory, 1e-300)
    slower = (1.0 - multiplying) / own.stream + multiplying / own.arithmetic
    return np.maximum(time_s - own.saved_s, 0.0) * slower


def _faster(a: KernelCost, b: KernelCost) -> KernelCost:
    """The faster of two places for a kernel; over scenario arrays the one that is faster more often."""
    return b if np.mean(np.asarray(b.time_s) < np.asarray(a.time_s)) > 0.5 else a


def _collective_limit(kernel: Kernel, cluster: Cluster) -> Any:
    inside, outside = fabrics(cluster)
    f = kernel.features
    return collective_limit_s(
        f["operation"],
        f["message_bytes"],
        f["devices"],
        fabric=inside,
        inter=outside,
        devices_per_node=cluster.per_node,
    )
