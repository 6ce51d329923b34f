"""``search prune``: how many channels of every layer of a network are kept, within limits of time, energy, memory.

Layers whose outputs are added keep the same channels (:mod:`steelyard.workload.channels`). A kernel costs by the
channels that it takes and makes: sums of tables over one to three groups of channels, priced together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.choices import Group
from steelyard.cost.energy import static_power_w
from steelyard.errors import InputError, UnknownName, check_whole, complete, show
from steelyard.exploration.additive import Sum
from steelyard.exploration.allocation import (
    Allocating,
    Allocation,
    Measure,
    allocate,
    axis_of,
    read_limits,
    read_losses,
)
from steelyard.exploration.one_network import OneNetwork, named, one_network
from steelyard.provenance import provenance_of
from steelyard.scenario.words import Problems
from steelyard.workload import tensor_counts
from steelyard.workload.channels import ChannelGroup, with_open_channels

__all__ = ["PROXIES", "search_prune"]

Floats = NDArray[np.float64]
#: Losses without any data: formulas, no accuracy.
PROXIES: Mapping[str, str] = {
    "width": "sum over layers of -ln of the share of channels that is kept",
}
#: Combinations of one table at most, and sizes that are priced at once.
MOST_COMBINATIONS, _AT_ONCE = 4096, 2048
_FIGURES = {"latency": "latency_s", "energy": "energy_j", "macs": "macs", "parameters": "parameters"}


@complete
def search_prune(
    model: Any,
    *,
    on: str,
    keep: str | float | Sequence[float] = "1,0.75,0.5,0.25",
    step: int = 8,
    sensitivity: str = "width",
    latency: Any = None,
    energy: Any = None,
    macs: Any = None,
    parameters: Any = None,
    front: str = "",
    points: int = 12,
    progress: Callable[[int, int], object] | None = None,
    **words: Any,
) -> Allocation:
    """Channels of every layer that lose least within limits.

    Args:
        model: the network.
        on: the machine.
        keep: shares of its channels that a layer may keep, a list or separated by commas.
        step: channels are kept in multiples of it.
        sensitivity: ``width`` (a formula, no accuracy), or a CSV with the columns ``layer``, ``keep`` and ``loss``; a
            layer that it names takes only the shares that it has there.
        latency: limit of a pass, s.
        energy: limit of a pass, J.
        macs: limit of the multiply-accumulates of a pass.
        parameters: limit of their number.
        front: figure over which the front is found; empty: the first limited.
        points: of the front, about.
        progress: is called with programs solved and all.
        words: fields of ``estimate``: ``batch``, ``runtime``, ``size`` ...

    Raises:
        InputError: a field is wrong; nothing of the network can be left out.
        DoesNotFit: no choice keeps the limits.
    """
    problems = Problems()
    shares = problems.read(_shares, keep)
    problems.read(check_whole, step, "step", 1, 1024, "channels")
    given = {"latency": latency, "energy": energy, "macs": macs, "parameters": parameters}
    limits = read_limits(given, _FIGURES, problems)
    axis = axis_of(front, limits, _FIGURES, problems)
    problems.done()
    assert shares is not None
    said = {k: v for k, v in words.items() if v not in (None, "")}
    network = one_network(model, on, said)
    task = _task(network, shares, step, sensitivity)
    inputs = {"model": str(model), "on": on, "keep": keep, "step": step, "sensitivity": sensitivity}
    inputs |= {**given, "front": front, "points": points, **said}
    return allocate(task, "loss", axis, limits, points, provenance_of(inputs), progress)


def _shares(keep: str | float | Sequence[float]) -> list[float]:
    """Shares, largest first. Raises :class:`InputError`."""
    found = []
    for text in str(keep).split(",") if isinstance(keep, str | float | int) else keep:
        try:
            value = float(text)
        except (TypeError, ValueError):
            value = math.nan
        if not 0 < value <= 1:
            raise InputError(
                f"expected shares above 0 and up to 1, such as 1,0.75,0.5, got {show(str(text))}", field="keep"
            )
        found.append(value)
    if len(set(found)) < len(found) or not found or len(found) > 20:
        raise InputError("expected one to 20 different shares", field="keep")
    return sorted(found, reverse=True)


@dataclass(frozen=True, eq=False)
class _Open:
    """A network whose channels are open: of every group the numbers that may be kept."""

    network: OneNetwork
    groups: list[ChannelGroup]
    names: tuple[str, ...]
    counts: list[list[int]]
    shares: list[list[float]]


def _task(network: OneNetwork, shares: Sequence[float], step: int, sensitivity: str) -> Allocating:
    graph, groups = with_open_channels(network.graph)
    if not groups:
        raise InputError(f"{network.graph.name} has no layer whose channels can be left out", field="model")
    if network.scenario.runtime.terms == "loops":
        raise InputError("channels of layers that are mapped onto arrays are not searched", field="on")
    network = replace(network, graph=graph)
    counts: list[list[int]] = []
    kept: list[list[float]] = []
    for group in groups:
        numbers: dict[int, float] = {}
        for share in shares:
            n = (
                max(1, min(group.channels, round(group.channels * share / step) * step))
                if share < 1
                else group.channels
            )
            numbers.setdefault(max(n, min(step, group.channels)), share)
        counts.append(list(numbers))
        kept.append(list(numbers.values()))
    names = named([g.makers[0].name or g.makers[0].op for g in groups])
    losses, counts, kept, title = _losses(names, groups, counts, kept, sensitivity)
    task = _tables(_Open(network, groups, names, counts, kept), losses)
    ledger = network.ledger()
    ledger.assume(f"{len(groups)} groups of layers that keep the same channels, named for their first layer")
    if sensitivity in PROXIES:
        ledger.assume(f"{sensitivity} is a proxy, {title}: it is no accuracy")
    scenario = network.scenario
    return Allocating(
        *("prune", scenario.name, (scenario.cluster.machine.name,), names),
        choices=tuple(tuple(f"{s:g}" for s in row) for row in kept),
        groups=task[0],
        measures=task[1],
        spread=network.spread,
        ledger=ledger,
        goal_title=title,
        proxy=sensitivity in PROXIES,
    )


def _losses(
    names: Sequence[str],
    groups: Sequence[ChannelGroup],
    counts: list[list[int]],
    kept: list[list[float]],
    sensitivity: str,
) -> tuple[list[list[float]], list[list[int]], list[list[float]], str]:
    """The loss of every choice, and the choices that the user's table leaves."""
    if sensitivity in PROXIES:
        pairs = zip(groups, counts, strict=True)
        return (
            [[-len(g.makers) * math.log(n / g.channels) for n in row] for g, row in pairs],
            counts,
            kept,
            PROXIES[sensitivity],
        )
    if not sensitivity.lower().endswith((".csv", ".txt")):
        known = UnknownName("proxy", sensitivity, PROXIES, hint="or a CSV of layer,keep,loss")
        raise InputError(known.message, field="sensitivity")
    found = read_losses(sensitivity, names, ("keep",))
    losses: list[list[float]] = []
    for i, name in enumerate(names):
        if name not in found:
            losses.append([0.0] * len(kept[i]))
            continue
        rows = {_number(text, name): value for (text,), value in found[name].items()}
        if len(rows) < len(found[name]):
            raise InputError(f"{name} has a share twice", field="sensitivity")
        able = [k for k, share in enumerate(kept[i]) if share in rows]
        if not able:
            said = f"{name} has none of the shares {', '.join(f'{s:g}' for s in kept[i])} there"
            raise InputError(said, field="sensitivity")
        losses.append([rows[kept[i][k]] for k in able])
        counts[i], kept[i] = [counts[i][k] for k in able], [kept[i][k] for k in able]
    return losses, counts, kept, f"the table {sensitivity}"


def _number(text: str, layer: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= 1:
        raise InputError(f"{layer}: expected a share above 0 and up to 1, got {show(text)}", field="sensitivity")
    return found


def _priced(network: OneNetwork, sizes: Mapping[str, Floats]) -> dict[str, Floats]:
    """Figures of kernels, of nodes and of weights for arrays of sizes, ``[.., scenarios]``."""
    graph, n = network.graph, len(next(iter(sizes.values())))
    parts: list[dict[str, Floats]] = []
    for at in range(0, n, _AT_ONCE):
        some = {k: v[at : at + _AT_ONCE] for k, v in sizes.items()}
        m = len(next(iter(some.values())))
        given = {**graph.symbols, "batch": float(network.scenario.batch), **some}
        priced = network.price({**some, "batch": np.full(m, float(network.scenario.batch))})
        spread = partial(np.broadcast_to, shape=(m,))
        owned = [i for i, t in enumerate(graph.tensors) if t.role == "weight" and t.of < 0]
        parts.append(
            {
                "kernel_s": np.broadcast_to(priced.kernel_s, (len(priced.kernels), m)),
                "kernel_j": np.broadcast_to(priced.kernel_j, (len(priced.kernels), m)),
                "macs": np.array([spread(tensor_counts.macs(graph, node, given)) for node in graph.nodes]),
                "parameters": np.array([spread(graph.elements(i, given)) for i in owned]),
            }
        )
    return {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}


def _tables(task: _Open, losses: list[list[float]]) -> tuple[tuple[Group, ...], dict[str, Measure]]:
    """Groups of places whose kernels cost together, and all figures as sums over them."""
    network, symbols = task.network, [g.symbol for g in task.groups]
    usual = {s: np.full(len(symbols) + 1, float(g.channels)) for s, g in zip(symbols, task.groups, strict=True)}
    for i, (symbol, group) in enumerate(zip(symbols, task.groups, strict=True)):
        usual[symbol][i + 1] = max(1.0, group.channels / 2)
    probe = _priced(network, usual)
    sets: dict[tuple[int, ...], int] = {(i,): i for i in range(len(symbols))}
    belongs: dict[str, NDArray[np.int64]] = {}
    for name, values in probe.items():
        changed = np.abs(values[:, 1:] - values[:, :1]) > 1e-12 * np.abs(values[:, :1])
        rows = [tuple(np.flatnonzero(row).tolist()) for row in changed]
        belongs[name] = np.array([sets.setdefault(r, len(sets)) if r else -1 for r in rows], dtype=np.int64)
    groups: list[Group] = []
    columns: dict[str, list[Floats]] = {s: [] for s in symbols}
    offset = 0
    for places in sets:
        sizes = tuple(len(task.counts[p]) for p in places)
        if math.prod(sizes) > MOST_COMBINATIONS:
            said = (
                f"a kernel depends on {len(places)} groups of layers, {math.prod(sizes):,} combinations; fewer shares"
            )
            raise InputError(said, field="keep")
        groups.append(Group(places, sizes, offset))
        offset += math.prod(sizes)
        combos = np.array(list(product(*(task.counts[p] for p in places))), dtype=np.float64)
        for i, (symbol, group) in enumerate(zip(symbols, task.groups, strict=True)):
            given = combos[:, places.index(i)] if i in places else np.full(len(combos), float(group.channels))
            columns[symbol].append(given)
    found = _priced(network, {s: np.concatenate(parts) for s, parts in columns.items()})
    sums = {}
    for name, values in found.items():
        table = np.zeros(offset)
        for k, own in enumerate(groups):
            at = slice(own.offset, own.offset + len(own))
            table[at] = values[belongs[name] == k, at].sum(axis=0)
        sums[name] = Sum(float(values[belongs[name] < 0, 0].sum()), table)
    priced = network.price()
    drawn, power = network.drawn_frac(priced), static_power_w(network.scenario.cluster.machine)
    lost = np.zeros(offset)
    for k, row in enumerate(losses):
        lost[groups[k].offset : groups[k].offset + len(groups[k])] = row
    stored = network.scenario.precision.stored_bits / 8
    kernel, weights, joule = sums["kernel_s"], sums["parameters"], sums["kernel_j"]
    host, step = float(priced.host_s[0]), priced.step_s
    working = Sum(drawn * joule.shared + power * step, drawn * joule.choices)
    waiting = Sum(working.shared + power * (host - kernel.shared), working.choices - power * kernel.choices)
    return tuple(groups), {
        "loss": Measure((Sum(0.0, lost),)),
        "latency_s": Measure((Sum(kernel.shared + step, kernel.choices), Sum(host + step, np.zeros(offset)))),
        "energy_j": Measure((working, waiting)),
        "memory_bytes": Measure((Sum(stored * weights.shared, stored * weights.choices),)),
        "macs": Measure((sums["macs"],)),
        "parameters": Measure((weights,)),
    }
