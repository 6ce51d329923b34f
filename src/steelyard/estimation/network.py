"""What a pass of a network costs on a machine: time, throughput, energy, money and memory, with an interval.

``Network x Machine x Runtime -> kernels -> limits x factors -> result``; see :mod:`steelyard.cost.net_price`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from steelyard._display import Result
from steelyard.cost.energy import static_power_w
from steelyard.cost.money import hourly_price
from steelyard.cost.net_cycles import stored_bytes
from steelyard.cost.net_groups import elsewhere
from steelyard.cost.net_memory import alive_bytes, past_index
from steelyard.cost.net_price import UNMEASURED, NetPrice, log_spread, price_net
from steelyard.cost.net_stream import BLOCK_BYTES
from steelyard.errors import InputError
from steelyard.interval import interval80
from steelyard.machine.catalogue import account
from steelyard.machine.cluster import asks_again
from steelyard.provenance import Ledger, record_of
from steelyard.scenario.fields import NETWORK, PRICE, fields_of
from steelyard.scenario.network import NetScenario
from steelyard.workload.pipelines import Phase
from steelyard.workload.tensor_counts import touched

__all__ = ["NetEstimate", "NetPhase", "UnknownOp", "answer_net", "estimates_of"]

#: Gradient and two moments of a parameter that is trained, in 32 bits.
STATE_BYTES = 12.0


@dataclass(frozen=True, slots=True)
class NetPhase:
    """A part of the answer: a graph that runs ``repeats`` times."""

    name: str
    repeats: float
    time_s: float
    """Of all repeats."""
    limit_s: float
    bound: str
    exchange_s: float = 0.0
    """What devices that work on it together gather of each other takes, beside its kernels or not."""


@dataclass(frozen=True, slots=True)
class UnknownOp:
    """An op that the table of ops does not have: priced as traffic."""

    op: str
    count: int
    bytes_frac: float


@dataclass(frozen=True, eq=False, repr=False)
class NetEstimate(Result):
    """The answer for one scenario. Times in s, energy in J, money in USD, memory in bytes."""

    scenario: NetScenario
    prices: tuple[NetPrice, ...]
    """Of each phase, for every scenario priced together; ``column`` is this one."""
    column: int
    latency_s: float
    """Of one pass over the batch."""
    throughput_per_s: float
    """Items per second on all devices, each with passes of its own."""
    energy_j_per_item: float
    arithmetic_j_per_item: float
    """Of it, that of arithmetic operations."""
    usd_per_million_items: float | None
    peak_memory_bytes: float
    activation_bytes: float
    """Of it, activations that are alive together, with what allocators hold beside them."""
    weight_bytes: float
    capacity_bytes: float
    macs: float
    """Multiply-accumulates of one item."""
    activations: float
    """Elements that the products of one item put out, as tables of networks count."""
    parameters: int
    phases: tuple[NetPhase, ...]
    unknown_ops: tuple[UnknownOp, ...]
    interval: Mapping[str, tuple[float, float]]
    limit_s: float
    ledger: Ledger
    storage_capacity_bytes: float = 0.0
    """Of the flash that holds the weights where activations lie in a memory of their own, to which peak and capacity
    belong; 0: one memory holds both."""
    past_index: bool = False
    """Whether a kernel has more elements than its index reaches (:func:`steelyard.cost.net_memory.past_index`)."""

    @property
    def fits(self) -> bool:
        """Whether weights and activations fit the device, every kernel reaches all elements, and an FPGA has enough of
        everything that a given folding takes."""
        stored = not self.storage_capacity_bytes or self.weight_bytes <= self.storage_capacity_bytes
        made = self.peak_memory_bytes <= self.capacity_bytes and stored and not self.past_index
        return made and not self.too_much

    @property
    def too_much(self) -> list[str]:
        """What the engines of an FPGA take more of than it has, in words; products of constants may take less."""
        stream, fabric = self.prices[0].stream, self.scenario.cluster.machine.fabric
        return [] if stream is None or fabric is None or stream.constant else stream.beyond(fabric)

    @property
    def utilisation(self) -> float | None:
        """Share of a chip's multipliers that work, over the pass; None: no loops are mapped onto an array."""
        arrays = [p.array for p in self.prices]
        if any(a is None for a in arrays):
            return None
        made, most = 0.0, 0.0
        for phase, array in zip(self.scenario.phases, arrays, strict=True):
            assert array is not None
            made += phase.repeats * float(array.macs[:, min(self.column, array.macs.shape[1] - 1)].sum())
            most = array.chip.engine.multipliers * array.chip.engine.clock_hz
        return made / (most * self.latency_s)

    @property
    def bound(self) -> str:
        """What takes most of a pass: ``host``, ``compute`` or ``memory``."""
        return max(self.phases, key=lambda p: p.time_s).bound


def answer_net(scenario: NetScenario) -> NetEstimate:
    """Weigh one scenario."""
    return next(estimates_of(replace(scenario, batch=np.array([scenario.batch]))))


def estimates_of(scenario: NetScenario) -> Iterator[NetEstimate]:
    """Weigh the scenarios of every batch at once; ``batch`` is an array ``[scenarios]``."""
    batches = np.atleast_1d(np.asarray(scenario.batch, dtype=np.float64))
    train = bool(scenario.words.get("train"))
    precision, machine = scenario.precision, scenario.cluster.machine
    bits = 0.0 if precision.cast else precision.bits
    prices, peak, weights, macs = [], np.zeros(len(batches)), 0.0, 0.0
    beyond = np.zeros(len(batches), dtype=np.bool_)
    held: set[str] = set()
    for phase in scenario.phases:
        graph, sizes = phase.graph, dict[str, Any](phase.sizes)
        if "batch" in graph.symbols:
            sizes["batch"] = batches * phase.items
        effects = scenario.effects_of(phase)
        folding = scenario.folding
        priced = price_net(graph, sizes, machine, scenario.runtime, precision, scenario.layout, train, effects, folding)
        if priced.stream is None:  # on an FPGA maps pass from engine to engine
            peak = np.maximum(peak, alive_bytes(graph, sizes, scenario.runtime, precision, train))
        beyond = beyond | past_index(graph, sizes, scenario.runtime)
        if graph.name not in held:  # phases of one network share its weights
            kept = prod(effect.weights for effect in effects)
            if priced.stream is not None:
                stored = priced.stream.blocks * BLOCK_BYTES
            elif scenario.runtime.library is None:
                stored = graph.weight_bytes(bits, phase.sizes)
            else:
                stored = stored_bytes(graph, scenario.runtime, precision)
            weights += stored * kept + (graph.parameters * STATE_BYTES if train else 0.0)
        held.add(graph.name)
        done = phase.repeats * phase.devices * prod(effect.macs for effect in effects)
        macs += float(np.max(graph.macs({**sizes, "batch": phase.items}))) * done
        prices.append(priced)
    unknown = tuple(_unknown(scenario))
    for i, batch in enumerate(batches):
        one = replace(scenario, batch=int(batch), words={**scenario.words, "batch": int(batch)})
        yield _estimate(one, prices, i, float(peak[i]), weights, macs, unknown, bool(beyond[i]))


def _activations(phase: Phase) -> float:
    """Elements that the products of one item put out in a phase."""
    sizes = {**phase.sizes, "batch": phase.items} if "batch" in phase.graph.symbols else dict(phase.sizes)
    return float(np.max(phase.graph.activations(sizes))) * phase.repeats * phase.devices


def _estimate(
    scenario: NetScenario,
    prices: Sequence[NetPrice],
    i: int,
    activations: float,
    weights: float,
    macs: float,
    unknown: tuple[UnknownOp, ...],
    beyond: bool,
) -> NetEstimate:
    """The answer of one of the scenarios that were priced."""
    machine, count = scenario.cluster.machine, scenario.cluster.count
    phases = tuple(_phase(scenario, p, priced, i) for p, priced in zip(scenario.phases, prices, strict=True))
    time, limit = sum(p.time_s for p in phases), sum(p.limit_s for p in phases)
    if not time > 0.0:
        raise InputError("it has no op that takes time", field="model")
    reach, ledger = prices[0].reach, Ledger()
    spread = log_spread(reach, machine, any(p.stepped for p in scenario.phases))
    low, high = (float(x) for x in interval80(time, spread, at_least=limit))
    joules, arithmetic = (
        sum(p.repeats * p.devices * float(x[min(i, len(x) - 1)]) for p, x in zip(scenario.phases, each, strict=True))
        for each in ([x.energy_j for x in prices], [x.arithmetic_j for x in prices])
    )
    idle_s = sum(max(0, scenario.together - p.devices) * t.time_s for p, t in zip(scenario.phases, phases, strict=True))
    joules += static_power_w(machine) * idle_s
    passes = count / scenario.together  # beside each other
    rate, energy = scenario.batch * passes / time, joules / scenario.batch
    _account(scenario, prices[0], ledger)
    hourly = hourly_price(machine, scenario.words.get(PRICE), ledger, scenario.cluster.system)
    usd = None if hourly.usd_per_hour is None else hourly.usd_per_hour * count / 3600 / rate * 1e6
    interval = {
        "latency_s": (low, high),
        "throughput_per_s": (scenario.batch * passes / high, scenario.batch * passes / low),
        "energy_j_per_item": (energy * low / time, energy * high / time),
    }
    if usd is not None:
        interval["usd_per_million_items"] = (usd * low / time, usd * high / time)
    return NetEstimate(
        scenario=scenario,
        prices=tuple(prices),
        column=i,
        latency_s=time,
        throughput_per_s=rate,
        energy_j_per_item=energy,
        arithmetic_j_per_item=arithmetic / scenario.batch,
        usd_per_million_items=usd,
        peak_memory_bytes=(0.0 if machine.apart else weights) + activations + machine.reserved_bytes,
        activation_bytes=activations,
        weight_bytes=weights,
        capacity_bytes=(machine.apart or machine.root).capacity_bytes,
        storage_capacity_bytes=machine.root.capacity_bytes if machine.apart else 0.0,
        macs=macs,
        activations=sum(_activations(p) for p in scenario.phases),
        parameters=sum({p.graph.name: p.graph.parameters for p in scenario.phases}.values()),
        phases=phases,
        unknown_ops=unknown,
        interval=interval,
        limit_s=limit,
        ledger=ledger,
        past_index=beyond,
    )


def _phase(scenario: NetScenario, phase: Phase, priced: NetPrice, i: int) -> NetPhase:
    column = min(i, len(priced.time_s) - 1)
    time, limit = float(priced.time_s[column]), float(priced.limit_s[:, column].sum())
    wait = _exchange_s(scenario, phase)
    waiting, hidden = time + wait, max(time, wait)
    time = phase.repeats * (phase.exposed * waiting + (1.0 - phase.exposed) * hidden) + phase.after_s * scenario.batch
    return NetPhase(phase.name, phase.repeats, time, phase.repeats * limit, priced.bound, phase.repeats * wait)


def _exchange_s(scenario: NetScenario, phase: Phase) -> float:
    """Time in which the devices of a phase gather what a run needs of each other."""
    if not phase.exchange_bytes or phase.among < 2:
        return 0.0
    from steelyard.cost.collective import collective_time_s
    from steelyard.cost.op_models import fabrics, link_parameters

    inside, outside = fabrics(scenario.cluster)
    each = collective_time_s(
        phase.collective,
        phase.exchange_bytes * phase.items * scenario.batch / phase.exchanges,
        phase.among,
        fabric=inside,
        parameters=link_parameters(scenario.cluster, inside.kind).parameters,
        inter=outside,
        devices_per_node=scenario.cluster.per_node,
    )
    return float(each) * phase.exchanges


def _account(scenario: NetScenario, priced: NetPrice, ledger: Ledger) -> None:
    """Sources, assumptions and guesses of an answer."""
    machine, runtime, reach = scenario.cluster.machine, scenario.runtime, priced.reach
    account(machine, ledger)
    for phase in scenario.phases:
        if phase.graph.source:
            ledger.cite(phase.graph.name, phase.graph.source)
    if reach.source:
        ledger.cite(f"runtime.{runtime.name}", reach.source)
    ledger.assume(f"runtime {runtime.name}: {runtime.title}, {scenario.precision.name}, {scenario.layout} images")
    if machine.notes and machine.kind == "npu":  # which of its engines the entry is
        ledger.assume(f"{machine.name}: {machine.notes}")
    if scenario.stored:
        ledger.assume(
            f"{scenario.stored} are the element types that the network has itself; --precision asks for others"
        )
    ledger.assume(f"a pass over {scenario.batch} item(s); inputs and outputs lie in device memory")
    stream, fabric = priced.stream, machine.fabric
    if stream is not None and fabric is not None and stream.constant and (more := stream.beyond(fabric)):
        ledger.assume(f"it takes {' and '.join(more)}: only if synthesis leaves products by 0 and powers of two out")
    if priced.array is not None and priced.site.engine.converter_bits:
        from steelyard.cost.array_converters import read_sums, words_of

        engine, precision = priced.site.engine, scenario.precision
        ledger.assume(words_of(read_sums(engine, precision.bits, precision.stored_bits), engine.converter_bits))
    for technique in scenario.techniques:
        ledger.assume(technique.told)
        ledger.cite(technique.name, str(technique.paper))
    if scenario.cluster.count > 1:
        how = f"{scenario.together} on one pass" if scenario.together > 1 else "each runs passes of its own"
        ledger.assume(f"{scenario.cluster.count} devices: {how}")
    if away := sorted({op for phase in scenario.phases for op in elsewhere(phase.graph, runtime)}):
        handed = f"{', '.join(away)} run on the CPU there: the time is a lower bound"
        ledger.guess(f"runtime.{runtime.name}.elsewhere", handed)
    if reach is UNMEASURED:
        ledger.guess(f"runtime.{runtime.name}", UNMEASURED.source)
    elif not reach.measured:
        ledger.guess(f"runtime.{runtime.name}", reach.source)
    elif reach.phased and not any(p.stepped for p in scenario.phases):
        ledger.guess(f"runtime.{runtime.name}", "fitted to pipelines alone, borrowed for this network")
    elif machine.name not in reach.measured:
        ledger.guess(f"runtime.{runtime.name}", f"measured on {', '.join(reach.measured)}, borrowed for {machine.name}")


def _unknown(scenario: NetScenario) -> Iterator[UnknownOp]:
    """Ops that the table does not have, with their share of all bytes touched."""
    total = 0.0
    size_of, count = dict[str, float](), Counter[str]()
    for phase in scenario.phases:
        given = {**phase.graph.symbols, **phase.sizes}
        for node in phase.graph.nodes:
            read, written = touched(phase.graph, node, given)
            size = float(np.sum([*read, *written])) * phase.repeats
            total += size
            if node.kind.group == "unknown":
                name = node.op.removeprefix("unknown:")
                size_of[name] = size_of.get(name, 0.0) + size
                count[name] += 1
    for op, size in sorted(size_of.items(), key=lambda item: -item[1]):
        yield UnknownOp(op, count[op], size / max(total, 1.0))


def provenance_of(scenario: NetScenario) -> dict[str, Any]:
    """What is needed to run the same question again: version, inputs and their hash."""
    words = scenario.words
    model = words["model"] if isinstance(words.get("model"), str) else scenario.name
    inputs: dict[str, Any] = {
        "model": model,
        "on": words["on"] if isinstance(words.get("on"), str) else asks_again(scenario.cluster),
        "batch": scenario.batch,
        "runtime": scenario.runtime.name,
        "precision": scenario.precision.name,
        "layout": scenario.layout,
    }
    known = fields_of("estimate")
    said = {n: words[n] for n in NETWORK if n not in inputs and n != "inputs" and words.get(n) != known[n].default}
    inputs |= {n: " + ".join(map(str, v)) if n == "techniques" else v for n, v in said.items()}
    return record_of(inputs)
