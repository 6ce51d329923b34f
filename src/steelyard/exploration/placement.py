"""``search placement``: which device or unit runs each layer of a network, for time or throughput.

A layer is a product with weights and what follows it. On each device it costs as in the whole network there; a tensor
that is read on another device is copied over the link; whenever the run enters a device, what a pass takes there
besides its kernels is spent. For the latency of one item layers run one after the other; in a pipeline every device
works on an item of its own, and the busiest one sets the rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.choices import Group
from steelyard.errors import InputError, Problem, complete, show
from steelyard.exploration.additive import Sum
from steelyard.exploration.allocation import Allocating, Allocation, Measure, allocate, read_limits
from steelyard.exploration.one_network import OneNetwork, one_network
from steelyard.provenance import Ledger, provenance_of
from steelyard.scenario.words import Problems
from steelyard.units import format_quantity, parse_quantity

__all__ = ["search_placement"]

Floats = NDArray[np.float64]
#: Devices at most, and a link that is not stated (a guess: PCI Express 3 with four lanes, and its driver).
MOST_DEVICES = 8
LINK_BYTES_PER_S, LINK_LATENCY_S = 4e9, 20e-6
GOALS: Mapping[str, str] = {
    "latency": "time of one item, layer after layer",
    "throughput": "time of the busiest device of a pipeline, which the items follow each other in",
}


@complete
def search_placement(
    model: Any,
    *,
    on: str | Sequence[str],
    goal: str = "latency",
    link: Any = None,
    link_latency: Any = None,
    energy: Any = None,
    latency: Any = None,
    points: int = 12,
    progress: Callable[[int, int], object] | None = None,
    **words: Any,
) -> Allocation:
    """The device of every layer.

    Args:
        model: the network.
        on: devices, ``NAME`` or ``NAME:COUNT``, each with ``@RUNTIME`` where it is not the usual one; a pipeline goes
            through them in this order.
        goal: ``latency`` or ``throughput`` (a pipeline of contiguous stages).
        link: bandwidth between two devices, B/s.
        link_latency: time before the first byte arrives, s.
        energy: limit of an item, J.
        latency: limit of the time of one item, s.
        points: of the front of the goal and the energy, about.
        progress: is called with programs solved and all.
        words: fields of ``estimate`` that hold on all devices: ``batch``, ``size``, ``precision`` ...

    Raises:
        InputError: a field is wrong.
        DoesNotFit: no placement keeps the limits and fits the memories.
    """
    problems = Problems()
    if goal not in GOALS:
        problems.add([Problem("goal", f"expected {' or '.join(GOALS)}, got {show(str(goal))}")])
    devices = problems.read(_devices, on)
    rate = problems.read(_positive, "link", link, "B/s", LINK_BYTES_PER_S)
    wait = problems.read(_positive, "link_latency", link_latency, "s", LINK_LATENCY_S)
    given = {"energy": energy, "latency": latency}
    limits = read_limits(given, {"energy": "energy_j", "latency": "latency_s"}, problems)
    problems.done()
    assert devices is not None and rate is not None and wait is not None
    said = {k: v for k, v in words.items() if v not in (None, "")}
    networks = [
        problems.read(one_network, model, d.machine, {**said, **({"runtime": d.runtime} if d.runtime else {})})
        for d in devices
    ]
    problems.done()
    known = [n for n in networks if n is not None]
    task = _task(known, [d.name for d in devices], rate, wait, goal == "throughput", link is None)
    inputs = {"model": str(model), "on": on, "goal": goal, "link": link, "link_latency": link_latency, **given}
    inputs |= {"points": points, **said}
    figure = "latency_s" if goal == "latency" else "period_s"
    kept = {**limits, **task.capacities}
    return allocate(task.allocating, figure, "energy_j", kept, points, provenance_of(inputs), progress)


@dataclass(frozen=True, slots=True)
class _Device:
    name: str
    machine: str
    runtime: str


def _devices(on: str | Sequence[str]) -> list[_Device]:
    """Devices in order. Raises :class:`InputError`."""
    found: list[_Device] = []
    for text in on.split(",") if isinstance(on, str) else on:
        match = re.fullmatch(r"([^:@]+)(?:@([\w.-]+))?(?::(\d+))?", str(text).strip())
        if match is None or (match[3] and not 1 <= int(match[3]) <= MOST_DEVICES):
            raise InputError(
                f"expected devices such as rk3588 or jetson_orin_nx@tensorrt:2, {MOST_DEVICES} at most, "
                f"got {show(str(text))}",
                field="on",
            )
        count = int(match[3] or 1)
        label = match[1] + (f"@{match[2]}" if match[2] else "")
        found += [_Device(f"{label}#{i + 1}" if count > 1 else label, match[1], match[2] or "") for i in range(count)]
    if not 2 <= len(found) <= MOST_DEVICES or len({d.name for d in found}) < len(found):
        raise InputError(f"expected two to {MOST_DEVICES} different devices, got {show(str(on))}", field="on")
    return found


def _positive(name: str, value: Any, unit: str, usual: float) -> float:
    found = usual if value in (None, "") else parse_quantity(value, unit, name)
    if not found > 0:
        raise InputError(f"expected a value above 0, got {show(str(value))}", field=name)
    return found


@dataclass(frozen=True, eq=False)
class _Placing:
    allocating: Allocating
    capacities: Mapping[str, float]


def _spans(network: OneNetwork) -> NDArray[np.int64]:
    """The layer of every node: the last product with weights before it; nodes before the first lie with it."""
    place = {id(n): i for i, n in enumerate(network.layers)}
    found, now = np.zeros(len(network.graph.nodes), dtype=np.int64), 0
    for i, node in enumerate(network.graph.nodes):
        now = place.get(id(node), now)
        found[i] = now
    return found


@dataclass(frozen=True, eq=False)
class _Costs:
    """Of every layer on every device ``[layers, devices]``, and of a pass on each ``[devices]``."""

    busy: Floats
    """Time, s."""
    joule: Floats
    """Energy, J."""
    weights: Floats
    """Bytes."""
    step: Floats
    """Time of a pass beside its kernels, s."""
    power: Floats
    """Drawn while nothing else is, W."""


def _costs(networks: Sequence[OneNetwork], spans: NDArray[np.int64]) -> _Costs:
    """What layers cost; they take the time of kernels or of the host, whichever the whole network waits for."""
    layers, n = len(networks[0].layers), len(networks)
    busy, joule, weights = (np.zeros((layers, n)) for _ in range(3))
    step, power = np.zeros(n), np.zeros(n)
    for d, network in enumerate(networks):
        priced = network.price()
        place = {id(node): i for i, node in enumerate(network.graph.nodes)}
        nodes = priced.kernels.nodes
        mine = np.array([spans[place[id(node)]] if id(node) in place else 0 for node in nodes], dtype=np.int64)
        count = np.bincount(mine, minlength=layers)
        kernel = np.bincount(mine, priced.kernel_s[: len(mine), 0], minlength=layers)
        host = float(priced.host_s[0]) / max(len(mine), 1)
        busy[:, d] = kernel if kernel.sum() >= host * count.sum() else host * count
        spent, power[d] = network.energy_of(priced)
        waiting = power[d] * np.maximum(busy[:, d] - kernel, 0.0)
        joule[:, d] = np.bincount(mine, spent[: len(mine)], minlength=layers) + waiting
        step[d] = priced.step_s
        stored = network.scenario.precision.stored_bits / 8
        weights[:, d] = [network.weights(node) * stored for node in network.layers]
    return _Costs(busy, joule, weights, step, power)


def _task(
    networks: Sequence[OneNetwork], devices: Sequence[str], rate: float, wait: float, pipeline: bool, guessed: bool
) -> _Placing:
    first = networks[0]
    if not first.layers:
        raise InputError(f"{first.graph.name} has no layers with weights", field="model")
    layers, n = len(first.layers), len(networks)
    spans = _spans(first)
    costs = _costs(networks, spans)
    busy, joule, weights, step, power = costs.busy, costs.joule, costs.weights, costs.step, costs.power
    edges = _edges(first, spans, layers)
    groups, tables = _groups(layers, n, edges, pipeline)
    entries = sum(len(g) for g in groups)

    apart = 1.0 - np.eye(n)

    def summed(copied: Floats, layer: Floats, start: Floats) -> Sum:
        """``copied``: of a byte from device a to b ``[a, b]``; ``layer``: of each layer; ``start``: of the first."""
        table = np.zeros(entries)
        for group, edge in zip(groups, tables, strict=True):
            view = table[group.offset : group.offset + len(group)]
            if edge is None:
                view += layer[group.places[0]]
                view += start if group.places[0] == 0 else 0.0
            else:
                view += (copied * edge).ravel()
        return Sum(0.0, table)

    def entered(spent: Floats) -> Floats:
        """``spent``: where the run goes from device a to b ``[a, b]``, once for each pair of layers in a row."""
        table = np.zeros(entries)
        for group, edge in zip(groups, tables, strict=True):
            if edge is not None and group.places[1] == group.places[0] + 1:
                table[group.offset : group.offset + len(group)] = spent.ravel()
        return table

    time = summed(apart / rate, busy, step)
    latency = Sum(0.0, time.choices + entered(apart * (wait + step)))
    loads = []
    for d in range(n):
        only = np.zeros((layers, n))
        only[:, d] = busy[:, d]
        start = np.where(np.arange(n) == d, step, 0.0)
        into = np.where(np.arange(n) == d, apart, 0.0)
        load = summed(into / rate, only, start)
        loads.append(Sum(0.0, load.choices + entered(into * (wait + step))))
    nothing = np.zeros((n, n))
    energy = summed(nothing, joule, step * power)
    held = entered(apart * (step * power))
    measures = {
        "latency_s": Measure((latency,)),
        "period_s": Measure(tuple(loads)),
        "energy_j": Measure((Sum(0.0, energy.choices + held),)),
    }
    capacities: dict[str, float] = {}
    for d, (name, network) in enumerate(zip(devices, networks, strict=True)):
        only = np.zeros((layers, n))
        only[:, d] = weights[:, d]
        measures[f"memory_bytes.{name}"] = Measure((summed(nothing, only, np.zeros(n)),))
        capacities[f"memory_bytes.{name}"] = network.scenario.cluster.machine.root.capacity_bytes
    ledger = Ledger()
    for network in networks:
        ledger.take(network.ledger())
    words = f"{format_quantity(rate, 'B/s')}, {format_quantity(wait, 's')}"
    ledger.assume(f"link between devices: {words}{', a guess' if guessed else ''}")
    ledger.assume("a tensor is copied for every layer on another device that reads it; devices that wait draw nothing")
    allocating = Allocating(
        *("placement", first.scenario.name, tuple(devices), first.names),
        choices=tuple(tuple(devices) for _ in range(layers)),
        groups=groups,
        measures=measures,
        spread=max(network.spread for network in networks),
        ledger=ledger,
        goal_title=GOALS["throughput" if pipeline else "latency"],
    )
    return _Placing(allocating, capacities)


def _edges(network: OneNetwork, spans: NDArray[np.int64], layers: int) -> dict[tuple[int, int], float]:
    """Bytes that pass from one layer to a later one, each tensor once a pair; every layer and the next are a pair."""
    graph, sizes = network.graph, {**network.graph.symbols, "batch": float(network.scenario.batch)}
    each = network.scenario.precision.bits / 8
    maker: dict[int, int] = {}
    pairs: dict[tuple[int, int], set[int]] = {(i, i + 1): set() for i in range(layers - 1)}
    for i, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            owner = graph.storage(tensor)
            if owner in maker and maker[owner] != spans[i]:
                pairs.setdefault((maker[owner], int(spans[i])), set()).add(owner)
        for tensor in node.outputs:
            maker[graph.storage(tensor)] = int(spans[i])
    return {p: each * sum(float(graph.elements(t, sizes)) for t in owned) for p, owned in pairs.items()}


def _groups(
    layers: int, n: int, edges: Mapping[tuple[int, int], float], pipeline: bool
) -> tuple[tuple[Group, ...], list[float | None]]:
    """A group for each layer, and for each pair that exchanges tensors; in a pipeline no layer goes back."""
    groups: list[Group] = []
    values: list[float | None] = []
    offset = 0
    for i in range(layers):
        groups.append(Group((i,), (n,), offset))
        values.append(None)
        offset += n
    onward = (np.arange(n)[:, None] <= np.arange(n)[None, :]).ravel()
    for (a, b), amount in edges.items():
        places = (min(a, b), max(a, b))
        groups.append(Group(places, (n, n), offset, onward if pipeline and b == a + 1 else None))
        values.append(amount)
        offset += n * n
    return tuple(groups), values
