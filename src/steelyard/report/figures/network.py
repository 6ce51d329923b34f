"""Figures of a network: memory, latency, roofline, parts of time and energy; of a searched space its architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.net_cycles import held_over
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import axis, dots, level, limit, line
from steelyard.report.figures.shared import Time, breakdown, distributions, fit_bar, roofline
from steelyard.report.network import kernels_of
from steelyard.units import format_quantity as q
from steelyard.units import power_text

if TYPE_CHECKING:
    from steelyard.estimation.network import NetEstimate
    from steelyard.estimation.space import SpaceEstimate

__all__ = ["network_figures", "space_figures"]

#: Kernels of a roofline at most: those that take longest.
_DOTS = 500
#: Architectures of a space that are drawn at most, evenly by latency.
_DRAWN = 2400


def network_figures(found: NetEstimate) -> list[Figure]:
    """Fit bar, distribution of the latency, roofline, parts of the time and of the energy."""
    rows = kernels_of(found)
    low, high = found.interval["latency_s"]
    latency = Time("latency", found.latency_s, low, high, found.limit_s)
    drawn = [_memory(found), *_held(found), distributions([latency]), _roofs(found, rows), _time(found, rows)]
    return [f for f in (*drawn, _energy(found)) if f is not None]


def _held(found: NetEstimate) -> list[Figure]:
    """Memory in use at every op of a pass, against what there is; where a library plans it."""
    s = found.scenario
    if s.runtime.library is None or len(s.phases) != 1:
        return []
    graph, capacity = s.phases[0].graph, found.capacity_bytes
    sizes = {"batch": s.batch} if "batch" in graph.symbols else {}
    names, held = held_over(graph, sizes, s.runtime, s.precision)
    most, at = float(held.max()), int(held.argmax())
    where = found.scenario.cluster.machine.apart
    words = [f"{name}\n{q(size, 'B')}" for name, size in zip(names, held.tolist(), strict=True)]
    steps = np.repeat(np.arange(len(names) + 1), 2)[1:-1]  # an op lasts from its number to the next
    fill = {"areaStyle": {"opacity": 0.18}, "lineStyle": {"width": 1.5}}
    drawn = line("in use", steps, np.repeat(held, 2) / 1024, words=np.repeat(words, 2).tolist(), **fill)
    drawn |= {"showSymbol": False} | level([limit(y=capacity / 1024, words=f"{q(capacity, 'B')} there are")])
    verdict = "fits" if most <= capacity else f"{q(most - capacity, 'B')} too much"
    says = f"{q(most, 'B')} at op {at + 1} of {len(names)} ({names[at]}): {verdict}."
    option = {
        "height": 280,
        "trigger": "item",
        "xAxis": axis("ops in order", "", max=len(names)),
        "yAxis": axis("in use", "KiB", max=round(1.08 * max(most, capacity) / 1024)),
        "series": [drawn],
    }
    title = f"{where.name.upper() if where else 'Memory'} over a pass"
    return [Figure("held", title, says, option, ("op", "bytes"), tuple(zip(names, held.tolist(), strict=True)))]


def _memory(found: NetEstimate) -> Figure:
    capacity, peak = found.capacity_bytes, found.peak_memory_bytes
    weights = 0.0 if found.storage_capacity_bytes else found.weight_bytes  # elsewhere they lie in flash
    parts = [
        ("weights", weights, "weights"),
        ("activations", found.activation_bytes, "step"),
        ("runtime and driver", peak - weights - found.activation_bytes, "rest"),
        ("free", max(capacity - peak, 0.0), "free"),
    ]
    verdict = "fits" if found.fits else "does not fit"
    says = (
        f"{q(peak, 'B')} of {q(capacity, 'B')}: {verdict}. Weights {q(found.weight_bytes, 'B')}, activations alive "
        f"together {q(found.activation_bytes, 'B')}."
    )
    return fit_bar([p for p in parts if p[1] > 0], capacity, says)


def _roofs(found: NetEstimate, rows: list[dict[str, Any]]) -> Figure | None:
    if not found.prices or found.prices[0].stream is not None:  # engines of an FPGA have no roof in common
        return None
    machine, site = found.scenario.cluster.machine, found.prices[0].site
    total = sum(r["time_s"] * r["repeats"] for r in rows) or 1.0
    ranked = sorted(rows, key=lambda r: -r["time_s"] * r["repeats"])[:_DOTS]
    kernels: dict[str, list[dict[str, Any]]] = {}
    for r in ranked:
        words = f"{r['op']}, {r['class']}"
        row = {**r, "kernel": r["name"] or r["op"], "formula": words, "share": r["time_s"] * r["repeats"] / total}
        row["utilisation"] = r["limit_s"] / r["time_s"] if r["time_s"] else None
        kernels.setdefault(r["phase"], []).append(row)
    peaks = {found.scenario.precision.name: float(np.max(site.peak_ops_per_s))}
    return roofline(kernels, float(machine.root.bandwidth_bytes_per_s), peaks, machine.title)


def _time(found: NetEstimate, rows: list[dict[str, Any]]) -> Figure:
    """Classes of kernels by phase; what a phase takes beyond its kernels is the host's or the exchange's."""
    parts: dict[str, dict[str, float]] = {p.name: {} for p in found.phases}
    for r in rows:
        mine = parts[r["phase"]]
        mine[r["class"]] = mine.get(r["class"], 0.0) + r["time_s"] * r["repeats"]
    for p in found.phases:
        beyond = p.time_s - sum(parts[p.name].values())
        if beyond > 0.005 * p.time_s:
            parts[p.name]["waiting for the host or others"] = beyond
    each = ", ".join(f"{p.name} {q(p.time_s, 's')}" for p in found.phases) if len(found.phases) > 1 else ""
    says = f"{q(found.latency_s, 's')} a pass over the batch{': ' + each if each else ''}, bound by {found.bound}."
    return breakdown(parts, "s", name="time", title="Where the time goes", says=says)


def _energy(found: NetEstimate) -> Figure | None:
    whole, arithmetic = found.energy_j_per_item, found.arithmetic_j_per_item
    if not whole > 0:
        return None
    watts = whole * found.throughput_per_s / found.scenario.cluster.count
    says = f"{q(whole, 'J')} per item, {power_text(watts)} per device; of it arithmetic {q(arithmetic, 'J')}."
    parts = {"an item": {"arithmetic": arithmetic, "memory, host and idle": whole - arithmetic}}
    return breakdown(parts, "J", name="energy", title="Where the energy goes", says=says)


def space_figures(found: SpaceEstimate) -> list[Figure]:
    """Every architecture by its work and its latency."""
    order = np.argsort(found.latency_s)
    kept = order[np.linspace(0, len(order) - 1, min(_DRAWN, len(order))).astype(np.int64)]
    names = found.architectures
    best = int(order[0])
    words = [f"{names[i]}\n{q(found.latency_s[i], 's')}, {q(found.macs[i], 'MAC')}" for i in kept.tolist()]
    says = (
        f"{len(found):,} architectures take {q(float(found.latency_s.min()), 's')} to "
        f"{q(float(found.latency_s.max()), 's')} a pass; the fastest is {names[best]}."
    )
    style = {"color": "--c0", "opacity": 0.5}
    option = {
        "height": 320,
        "trigger": "item",
        "xAxis": axis("multiply-accumulates", "", zero=False),
        "yAxis": axis("latency", "s", zero=False),
        "series": [
            dots("architectures", found.macs[kept], found.latency_s[kept], words=words, symbolSize=5, itemStyle=style)
        ],
    }
    rows = tuple(
        (names[i], float(found.latency_s[i]), float(found.macs[i]), float(found.parameters[i])) for i in kept.tolist()
    )
    heads = ("architecture", "latency, s", "MACs", "parameters")
    return [Figure("space", "Architectures by work and latency", says, option, heads, rows)]
