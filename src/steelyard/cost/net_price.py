"""The time, energy and memory of a network's pass on one device: a runtime's factors times the limits of its kernels.

``time = max(sum over kernels and terms of factor x term, kernels x host time) + time of a pass``; see
:mod:`steelyard.cost.net_terms` for the terms. A kernel never beats what its operations take at the peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.energy import (
    DEFAULT_ENERGY_J_PER_OP,
    TRANSPORT_J_PER_BYTE,
    clock_beside,
    held_back_s,
    static_power_w,
)
from steelyard.cost.net_backward import with_backward
from steelyard.cost.net_cycles import check_counted, kernel_cycles
from steelyard.cost.net_effect import Density, NetEffect
from steelyard.cost.net_groups import group_terms, share_of
from steelyard.cost.net_kernels import PRODUCTS, NetKernels
from steelyard.cost.net_lower import lower_net
from steelyard.cost.net_terms import limits, net_site, terms
from steelyard.cost.site import Site
from steelyard.deployment.runtime import Precision, Reach, Runtime, planned_in_groups
from steelyard.errors import InputError
from steelyard.interval import Z80
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.workload.op import Array
from steelyard.workload.tensor_graph import TensorGraph

if TYPE_CHECKING:  # its compiled kernels are for arrays alone
    from steelyard.cost.array_price import ArrayPrice
    from steelyard.cost.net_stream import Asked, Stream
    from steelyard.deployment.library import Streaming

__all__ = [
    "UNMEASURED",
    "NetPrice",
    "by_arithmetic",
    "drawn_frac",
    "energy_j",
    "log_spread",
    "price_net",
    "reach_of",
    "scale_of",
    "weighed",
]

#: What kernels take where a runtime was measured on no machine of the stack: twice their limits.
UNMEASURED = Reach((), {}, spread=3.0, spread_elsewhere=3.0, source="a guess: nothing of the kind was measured")
_GUESS = 2.0
#: Factors within which 80 % of times lie at least where a time is borrowed by another family, or stack (guesses).
OTHER_FAMILY, OTHER_STACK = 1.5, 2.5
#: Share of its rated power a GPU draws while kernels run, whether arithmetic or traffic binds them: the clock rises
#: until the power is used. Read off ML.ENERGY's runs of diffusion, 670 W of 700 on one to eight H100 (a guess
#: elsewhere).
BUSY = 0.96


@dataclass(frozen=True, eq=False)
class NetPrice:
    """One pass; arrays ``[scenarios]``, of kernels ``[kernels, scenarios]``. Times in s, energy in J."""

    kernels: NetKernels
    site: Site
    kernel_s: Array
    kernel_j: Array
    limit_s: Array
    time_s: Array
    host_s: Array
    energy_j: Array
    arithmetic_j: Array
    """Of it, that of arithmetic operations."""
    reach: Reach
    array: ArrayPrice | None = None
    """What multipliers do, where loops are mapped onto an array."""
    stream: Stream | None = None
    """Engines of an FPGA."""

    @property
    def step_s(self) -> float:
        """Time of a pass beside its kernels and its host, s; of the first scenario."""
        return float(self.time_s[0]) - max(float(self.kernel_s[:, 0].sum()), float(self.host_s[0]))

    @property
    def bound(self) -> str:
        """What takes most of the pass: ``host``, ``compute`` or ``memory``."""
        if float(np.mean(self.host_s)) > float(np.mean(self.kernel_s.sum(axis=0))):
            return "host"
        arithmetic = float((self.kernel_s * by_arithmetic(self.kernels, self.site)).sum())
        return "compute" if arithmetic > float(self.kernel_s.sum()) / 2 else "memory"


def by_arithmetic(kernels: NetKernels, site: Site) -> NDArray[np.bool_]:
    """Whether operations bind each kernel and not its bytes, ``[kernels, scenarios]``."""
    return np.asarray(kernels.padded / site.peak_ops_per_s > kernels.bytes / site.dram_bytes_per_s, dtype=np.bool_)


def reach_of(runtime: Runtime, machine: Machine, layout: str, train: bool = False, precision: str = "") -> Reach:
    """What a runtime's kernels reach on a machine; :data:`UNMEASURED` where none of the kind was measured."""
    order = layout or runtime.layout
    return runtime.reach_on(machine.name, machine.family, machine.launch, order, train, precision) or UNMEASURED


def price_net(
    graph: TensorGraph,
    sizes: Mapping[str, Any],
    machine: Machine,
    runtime: Runtime,
    precision: Precision,
    layout: str = "",
    train: bool = False,
    effects: Sequence[NetEffect] = (),
    folding: Sequence[Asked] = (),
) -> NetPrice:
    """Price one pass of a network, or one training step.

    Args:
        graph: the network.
        sizes: values of its symbols, arrays over scenarios.
        machine: the device.
        runtime: what runs it.
        precision: how numbers are kept.
        layout: order of images; default: the runtime's.
        train: forward, backward and the optimizer's update.
        effects: what techniques change of it.
        folding: multipliers of the engines of an FPGA; none: chosen for the device.

    Raises:
        InputError: the machine has no arithmetic for the precision.
    """
    site = net_site(machine, precision)
    reach = reach_of(runtime, machine, layout, train, precision.name)
    kernels = lower_net(graph, sizes, runtime, precision, layout, reach.block)
    for effect in effects:
        kernels = effect.kernels(kernels) if effect.kernels is not None else kernels
    array, stream = None, None
    if runtime.terms == "loops":
        if train:
            raise InputError("loops of forward passes are mapped, not of training steps", field="train")
        from steelyard.cost.array_price import on_array

        shares = zip(*(effect.density for effect in effects), strict=True) if effects else ()
        array = on_array(graph, kernels, sizes, site, precision, Density(*map(prod, shares)))
    if train:
        kernels = with_backward(kernels, graph.parameters)
    if array is not None:
        kernel_s, limit = array.kernel_s, _on_peak(array)
    elif runtime.streaming is not None:
        stream, kernel_s = _on_fabric(graph, kernels, site, precision, sizes, runtime.streaming, folding)
        limit = np.minimum(limits(kernels, site)[0], kernel_s)
    elif runtime.library is not None:
        check_counted(runtime, precision)
        kernel_s = kernel_cycles(graph, kernels, sizes, site, runtime.library) / site.clock_hz
        limit = np.minimum(limits(kernels, site)[0], kernel_s)
    else:
        kernel_s, limit = _times(kernels, site, runtime, reach)
    host = reach.host_s * (len(kernels) + sum(effect.launches for effect in effects)) * np.ones(kernel_s.shape[1])
    busy: Any = kernel_s.sum(axis=0)
    busy = busy + sum((effect.exchange_s(kernels) for effect in effects if effect.exchange_s is not None), 0.0)
    waits: Any = sum((effect.wait_s(kernels) for effect in effects if effect.wait_s is not None), 0.0)
    if runtime.streaming is not None and reach.step_s:
        given = {**graph.symbols, **sizes}
        words = sum(graph.elements(i, given) for i in (*graph.inputs, *graph.outputs))
        waits = waits + runtime.streaming.word * words / site.clock_hz
    time = np.maximum(busy, host) + waits + scale_of(site.machine, reach)[2] * reach.step_s
    passes = prod(effect.passes for effect in effects)
    if passes != 1.0:
        kernels, kernel_s, limit = kernels.times(passes), kernel_s * passes, limit * passes
        time, host = time * passes, host * passes
    arithmetic = _arithmetic_j(kernels, site, effects)
    launch_s = reach.kernel_s * scale_of(site.machine, reach)[2]
    if runtime.library is not None or stream is not None:  # such a chip draws what it draws, whatever it works on
        kernel_j = machine.most_w * kernel_s
        arithmetic = np.minimum(arithmetic, np.maximum(0.0, kernel_j - static_power_w(machine) * kernel_s))
    elif array is None:
        kernel_j = _kernel_j(kernels, site, kernel_s, launch_s, arithmetic)
    else:
        cheaper = prod(effect.energy(kernels) for effect in effects if effect.energy is not None)
        arithmetic = array.arithmetic_j * cheaper
        kernel_j = array.kernel_j - (array.arithmetic_j - arithmetic) + static_power_w(machine) * kernel_s
    busy_s, busy_j = kernel_s.sum(axis=0), kernel_j.sum(axis=0)
    energy = energy_j(busy_j, busy_s, time, machine)
    operations = arithmetic.sum(axis=0) * drawn_frac(busy_j, busy_s, time, machine)
    return NetPrice(kernels, site, kernel_s, kernel_j, limit, time, host, energy, operations, reach, array, stream)


def _on_fabric(
    graph: TensorGraph,
    kernels: NetKernels,
    site: Site,
    precision: Precision,
    sizes: Mapping[str, Any],
    how: Streaming,
    folding: Sequence[Asked],
) -> tuple[Stream, Array]:
    """Engines of a network on an FPGA, and their share of the time of a batch: of the first item, then intervals."""
    from steelyard.cost.net_stream import stream_of

    fabric = site.machine.fabric
    if fabric is None:
        raise InputError(f"{site.machine.name} has no programmable logic that is described", field="fabric")
    stream, where = stream_of(graph, kernels, precision, fabric, how, folding)
    items = np.asarray(sizes.get("batch", 1), dtype=np.float64) * np.ones(kernels.flops.shape[1])
    time = np.zeros(kernels.flops.shape)
    time[where] = (stream.cycles / stream.cycles.sum() * stream.latency)[:, None]
    time[where[int(np.argmax(stream.cycles))]] += (items - 1.0) * stream.interval
    return stream, np.asarray(time / site.clock_hz, dtype=np.float64)


def _on_peak(array: ArrayPrice) -> Array:
    """Least time of each kernel: its multiply-accumulates on all multipliers."""
    return np.asarray(array.macs / (array.chip.engine.multipliers * array.chip.engine.clock_hz), dtype=np.float64)


def weighed(kernels: NetKernels, site: Site, runtime: Runtime, reach: Reach) -> Iterator[tuple[int, Array]]:
    """Every term times its factor and the machine's scale, with which of its shares it belongs to."""
    planned = planned_in_groups(runtime, reach)
    scale = scale_of(site.machine, reach)
    scale = (scale[0] / clock_held(site.machine, reach), *scale[1:])
    for name, values in (group_terms(kernels, site, runtime) if planned else terms(kernels, site)).items():
        usual = 0.0 if planned or name.endswith(".steps") else 1.0 if reach.times else _GUESS
        factor = reach.kernel_s if name == "kernels" else reach.times.get(name, usual)
        yield share_of(name), scale[share_of(name)] * factor * values


def _times(kernels: NetKernels, site: Site, runtime: Runtime, reach: Reach) -> tuple[Array, Array]:
    """Times of kernels, never below what their operations take at the peak, and their limits."""
    total: Any = sum((values for _, values in weighed(kernels, site, runtime, reach)), np.zeros(kernels.flops.shape))
    work, traffic = limits(kernels, site)
    if planned_in_groups(runtime, reach):
        # peaks of such machines are guesses where their makers state none: a scale below one says that it is higher
        product = np.array([c in PRODUCTS for c in kernels.classes], dtype=np.bool_)[:, None]
        least = np.where(product, work, 0.0) * min(1.0, scale_of(site.machine, reach)[0])
        # an op that no compiler is known to plan leaves the chip: its bytes pass memory
        least = np.maximum(least, np.where(kernels.index("other")[:, None], kernels.bytes / site.dram_bytes_per_s, 0.0))
        limit = kernels.flops / site.peak_ops_per_s if runtime.keeps_network else np.maximum(work, traffic)
    else:
        # factors of traffic may be below one: what one kernel leaves in the cache, the next one finds there
        least, limit = work, np.maximum(work, traffic)
    kernel_s = np.maximum(total, least)
    return held_back_s(kernel_s, work, traffic, site.machine), np.minimum(limit, kernel_s)


def log_spread(reach: Reach, machine: Machine, phased: bool = False) -> float:
    """Standard deviation of log(true / predicted).

    Args:
        reach: the factors.
        machine: the device: measured, of a measured family, or another.
        phased: whether it is a pipeline of phases, of which some factors were measured alone.
    """
    if machine.name in reach.measured and (phased or not reach.phased):
        return float(np.log(reach.spread) / Z80)
    spread = reach.spread_elsewhere
    if reach.measured and machine.family not in {find_machine(m).family for m in reach.measured}:
        spread = max(spread, OTHER_FAMILY)
    if reach.stacks and machine.launch not in reach.stacks:
        spread = max(spread, OTHER_STACK)
    return float(np.log(spread) / Z80)


def clock_held(machine: Machine, reach: Reach) -> float:
    """Clock of a GPU in arithmetic over its rated one, where factors come from another board of its family."""
    if machine.kind != "gpu" or machine.name in reach.measured:
        return 1.0
    kin = [m for m in map(find_machine, reach.measured) if m.family == machine.family]
    return max((clock_beside(machine, m) for m in kin), default=1.0)


def scale_of(machine: Machine, reach: Reach) -> tuple[float, float, float]:
    """What a machine's own arithmetic, traffic, and times per kernel and pass are multiplied by."""
    return reach.scale.get(machine.name, (1.0, 1.0, 1.0))


def _arithmetic_j(kernels: NetKernels, site: Site, effects: Sequence[NetEffect]) -> Array:
    """Energy of the operations of each kernel themselves."""
    each: Any = site.engine.energy_j_per_op.get(site.compute, DEFAULT_ENERGY_J_PER_OP)
    for effect in effects:
        each = each * effect.energy(kernels) if effect.energy is not None else each
    return np.asarray(kernels.flops * each, dtype=np.float64)


def _kernel_j(kernels: NetKernels, site: Site, kernel_s: Array, launch_s: float, arithmetic_j: Array) -> Array:
    """Energy while each kernel runs: its operations and bytes, and the power of a device at work.

    A GPU runs into its power limit, however far its kernels stay from the peak: beyond its start, each draws
    :data:`BUSY` of the rated power.
    """
    machine = site.machine
    per_byte = machine.root.energy_j_per_byte + TRANSPORT_J_PER_BYTE
    moving = arithmetic_j + kernels.bytes * per_byte + static_power_w(machine) * kernel_s
    if machine.kind == "gpu" and machine.most_w:
        start_s = np.minimum(launch_s, kernel_s)
        busy = BUSY * machine.most_w * (kernel_s - start_s) + static_power_w(machine) * start_s
        moving = np.maximum(moving, busy)
    return np.asarray(moving, dtype=np.float64)


def energy_j(kernels_j: Array, kernels_s: Array, time_s: Array, machine: Machine) -> Array:
    """Energy of a pass: of its kernels, and the power of a device at work besides; at most its rated power."""
    energy = kernels_j + static_power_w(machine) * np.maximum(0.0, time_s - kernels_s)
    return np.asarray(np.minimum(energy, machine.most_w * time_s) if machine.most_w else energy, dtype=np.float64)


def drawn_frac(kernels_j: Array, kernels_s: Array, time_s: Array, machine: Machine) -> Array:
    """Energy of kernels in :func:`energy_j` over what they would draw: less than 1 where the rated power binds."""
    waiting = static_power_w(machine) * np.maximum(0.0, time_s - kernels_s)
    left = energy_j(kernels_j, kernels_s, time_s, machine) - waiting
    return np.clip(left / np.maximum(kernels_j, 1e-300), 0.0, 1.0)
