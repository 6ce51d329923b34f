"""Figures that several kinds of results have: a bar of memory, distributions of times, a roofline, parts of a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.interval import Z80
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import axis, bars, categories, colour, dots, level, limit, line
from steelyard.units import figure
from steelyard.units import format_quantity as q

__all__ = ["Time", "breakdown", "distributions", "fit_bar", "roofline"]

GIB = 2.0**30
#: Units of a memory's axis, the largest that it has one of.
_SCALES = (("GiB", GIB), ("MiB", 2.0**20), ("KiB", 1024.0))
#: Points of a density, and how many deviations it reaches to either side.
_POINTS, _REACH = 81, 2.8
#: Height of a distribution and of its title, pixels.
_ROW, _ABOVE = 66, 30
#: Parts shown by name at most; the rest is summed.
_PARTS = 12
#: Diameters of the dots of a roofline, pixels: of nothing, and of all of the time.
_SMALL, _LARGE = 6.0, 34.0


@dataclass(frozen=True, slots=True)
class Time:
    """A predicted time: its name, value, 80 % interval and physical limit (None: not known), s or another unit."""

    name: str
    value: float
    low: float
    high: float
    limit: float | None = None
    unit: str = "s"

    @property
    def words(self) -> str:
        """``TTFT 52.1 ms (80 %: 44.0 to 61.2 ms)``."""
        return f"{self.name} {q(self.value, self.unit)} (80 %: {q(self.low, self.unit)} to {q(self.high, self.unit)})"


def fit_bar(parts: Sequence[tuple[str, float, str]], capacity: float, says: str, beyond: float = 0.0) -> Figure:
    """The memory of a device as one bar of its parts against what it has.

    Args:
        parts: name, bytes and group of each, in order; of group ``free`` what is left, of ``outside`` what may not be
            used, of ``weights`` what is shaded as one thing.
        capacity: usable bytes.
        says: the sentence.
        beyond: bytes of the device that may not be used.
    """
    tones = {"weights": "--c0", "cache": "--c1", "state": "--c3", "step": "--c2", "rest": "--c5", "optimizer": "--c4"}
    shaded = [i for i, (_, _, group) in enumerate(parts) if group == "weights"]
    series = []
    whole = max(sum(size for _, size, _ in parts), capacity + beyond)
    unit, scale = next((u for u in _SCALES if whole >= u[1]), _SCALES[-1])
    for i, (name, size, group) in enumerate(parts):
        style: dict[str, Any] = {"color": tones.get(group, "--line")}
        if group == "weights":
            style["opacity"] = round(1.0 - 0.65 * shaded.index(i) / max(len(shaded), 2), 3)
        if group == "free":
            style = {"color": "transparent", "borderColor": "--soft", "borderWidth": 1, "borderType": "dashed"}
        words = f"{name}\n{q(size, 'B')}, {size / capacity:.1%} of what is usable"
        series.append(bars(name, [size / scale], words=[words], stack="device", barWidth=34, itemStyle=style))
    late: dict[str, Any] = {"align": "right"} if capacity > 0.75 * whole else {}
    series[0] |= level([limit(x=capacity / scale, words=f"usable {q(capacity, 'B')}") | late])
    return Figure(
        "memory",
        "Memory of the fullest device",
        says,
        {
            "height": 128,
            "trigger": "item",
            "xAxis": axis("", unit, max=round(whole / scale * 1.001, 3), ends=False),
            "yAxis": categories([""]),
            "series": series,
        },
        ("part", "bytes", "share of the usable memory"),
        tuple((name, float(size), float(size / capacity)) for name, size, _ in parts),
    )


def distributions(times: Sequence[Time], *, name: str = "latency", title: str = "How long it takes") -> Figure:
    """Times as lognormal densities, each on an axis of its own: the 80 % interval shaded, the limit a line."""
    option: dict[str, Any] = {"grid": [], "xAxis": [], "yAxis": [], "series": [], "title": [], "trigger": "item"}
    for i, t in enumerate(times):
        top = 4 + i * (_ROW + _ABOVE + 32)
        spread = np.log(t.high / t.low) / (2 * Z80) if 0 < t.low < t.high else 0.0
        middle = np.log(t.value) if t.value > 0 else 0.0
        z = np.linspace(-_REACH, _REACH, _POINTS)
        x, y = np.exp(middle + z * max(spread, 1e-4)), np.exp(-z * z / 2)
        inside = (x >= t.low * (1 - 1e-9)) & (x <= t.high * (1 + 1e-9))
        ends = [float(x[0]), float(x[-1]), t.low, t.high, *([t.limit] if t.limit else [])]
        room = 0.03 * (max(ends) - min(ends))
        option["grid"].append({"left": 8, "right": 18, "top": top + _ABOVE, "height": _ROW})
        kept: dict[str, Any] = {"gridIndex": i, "splitNumber": 5}
        low, high = max(min(ends) - room, 0.0), max(ends) + room
        option["xAxis"].append(axis("", t.unit, min=float(f"{low:.4g}"), max=float(f"{high:.4g}"), **kept, ends=False))
        option["yAxis"].append({"type": "value", "gridIndex": i, "show": False, "min": 0, "max": 1.05})
        option["title"].append({"text": t.words, "top": top, "left": 8})
        plain: dict[str, Any] = {"xAxisIndex": i, "yAxisIndex": i, "silent": True}
        marks = [limit(x=t.value, words="predicted", tone="--ink")]
        if t.limit:
            early = (t.limit - low) < 0.15 * (high - low)
            marks.append(limit(x=t.limit, words=f"limit {q(t.limit, t.unit)}") | ({"align": "left"} if early else {}))
        tone: dict[str, Any] = {"lineStyle": {"color": "--c0", "width": 1.5}, "itemStyle": {"color": "--c0"}}
        option["series"].append(line(t.name, x, y, **plain, **tone, **level(marks), unnamed=True))
        edge_x = np.concatenate([[t.low], x[inside], [t.high]])
        edge_y = np.interp(edge_x, x, y)
        shade: dict[str, Any] = {"areaStyle": {"color": "--c0", "opacity": 0.22}, "lineStyle": {"width": 0}}
        option["series"].append(line(f"{t.name}, 80 %", edge_x, edge_y, **plain, **shade, unnamed=True))
    option["height"] = len(times) * (_ROW + _ABOVE + 32) - 2
    says = "; ".join(t.words for t in times) + "."
    heads = ("time", "predicted", "80 % from", "80 % to", "physical limit", "unit")
    return Figure(
        name, title, says, option, heads, tuple((t.name, t.value, t.low, t.high, t.limit, t.unit) for t in times)
    )


def roofline(
    kernels: Mapping[str, Sequence[Mapping[str, Any]]], bandwidth: float, peaks: Mapping[str, float], where: str
) -> Figure | None:
    """Every kernel as a dot under the roofs of its device; None where no kernel has arithmetic.

    Args:
        kernels: rows of :func:`steelyard.estimation.explanation.kernels`, by phase.
        bandwidth: of the device's memory, B/s.
        peaks: of its arithmetic, by name, OP/s.
        where: name of the device.
    """
    drawn = {
        phase: [r for r in rows if r.get("flops") and r.get("bytes") and r["time_s"] > 0]
        for phase, rows in kernels.items()
    }
    every = [(phase, r) for phase, rows in drawn.items() for r in rows]
    if not every:
        return None
    x = np.array([r["flops"] / r["bytes"] for _, r in every])
    y = np.array([r["flops"] / r["time_s"] for _, r in every])
    top = max(peaks.values(), default=float(y.max()))
    left, right = 10 ** np.floor(np.log10(x.min())), 10 ** np.ceil(np.log10(max(x.max(), 3 * top / bandwidth)))
    low = 10 ** np.floor(np.log10(min(y.min(), top / 1e4)))
    series: list[dict[str, Any]] = []
    for name, peak in sorted(peaks.items(), key=lambda item: -item[1]):
        ridge = peak / bandwidth
        start = max(left, low / bandwidth)
        roof = line(
            f"{name} {q(peak, 'FLOP/s')}",
            [start, ridge, right],
            [start * bandwidth, peak, peak],
            silent=True,
            lineStyle={"color": "--soft", "width": 1.2},
            itemStyle={"color": "--soft"},
            endLabel={"show": True, "formatter": name, "color": "--soft", "offset": [-4, -9], "align": "right"},
            unnamed=True,
        )
        series.append(roof)
    for i, (phase, rows) in enumerate(drawn.items()):
        if rows:
            sizes = [_SMALL + (_LARGE - _SMALL) * np.sqrt(r["share"]) for r in rows]
            px, py = [r["flops"] / r["bytes"] for r in rows], [r["flops"] / r["time_s"] for r in rows]
            words = [kernel_words(r) for r in rows]
            style = {"color": colour(i), "opacity": 0.72, "borderColor": "--page", "borderWidth": 1}
            series.append(dots(phase, px, py, words=words, sizes=sizes, itemStyle=style))
    first = max(every, key=lambda pair: pair[1]["share"])
    best = first[1]
    digits = 0 if best["share"] >= 0.01 else 1
    says = (
        f"{len(every)} kernels under the roofs of {where}: memory at {q(bandwidth, 'B/s')}, "
        + ", ".join(f"{name} at {q(peak, 'FLOP/s')}" for name, peak in peaks.items())
        + f". The largest share, {best['share']:.{digits}%} of {first[0]}, is {best['kernel']} at "
        f"{q(best['flops'] / best['time_s'], 'FLOP/s')} and {figure(best['flops'] / best['bytes'])} FLOP per byte, "
        f"bound by {best['bound']}. A dot's area is its share of the time; kernels without arithmetic are not drawn."
    )
    heads = ("phase", "kernel", "FLOP per byte", "FLOP/s", "time, s", "share", "bound", "source")
    rows_ = tuple(
        (phase, r["kernel"], a, b, r["time_s"], r["share"], r["bound"], r.get("source") or "")
        for (phase, r), a, b in zip(every, x.tolist(), y.tolist(), strict=True)
    )
    option = {
        "height": 340,
        "trigger": "item",
        "xAxis": axis("FLOP per byte", "", log=True, min=float(left), max=float(right)),
        "yAxis": axis("FLOP/s", "FLOP/s", log=True, min=float(low), max=float(10 ** np.ceil(np.log10(top * 1.3)))),
        "series": series,
    }
    return Figure("roofline", "Kernels under the roofs", says, option, heads, rows_)


def kernel_words(r: Mapping[str, Any]) -> str:
    """What a kernel says under the pointer: work, time, bound, source."""
    lines = [r["kernel"], r.get("formula", "")]
    if r.get("flops"):
        lines.append(f"{q(r['flops'], 'FLOP')}, {q(r['bytes'], 'B')}: {r['flops'] / r['bytes']:,.3g} FLOP per byte")
    used = f", {r['utilisation']:.0%} of its limit" if r.get("utilisation") else ""
    lines.append(f"{q(r['time_s'], 's')}, {r['share']:.1%} of the phase{used}")
    lines.append(f"bound by {r['bound']}" + (f"; {r['source']}" if r.get("source") else ""))
    return "\n".join(x for x in lines if x)


def breakdown(
    parts: Mapping[str, Mapping[str, float]],
    unit: str,
    *,
    name: str,
    title: str,
    says: str,
    tones: Sequence[str] = (),
) -> Figure:
    """What makes up a whole, largest first: a bar per part, in pieces by phase.

    Args:
        parts: by phase, amounts by part.
        unit: of the amounts.
        name, title, says: of the figure.
        tones: colours of the phases, where they are not those of the stylesheet in order.
    """
    sums: dict[str, float] = {}
    for found in parts.values():
        for part, amount in found.items():
            sums[part] = sums.get(part, 0.0) + amount
    ordered = sorted((p for p in sums if sums[p] > 0), key=lambda p: -sums[p])
    shown, rest = ordered[:_PARTS], ordered[_PARTS:]
    names = [*shown, *([f"{len(rest)} others"] if rest else [])]
    whole = sum(sums.values()) or 1.0
    series = []
    for i, (phase, found) in enumerate(parts.items()):
        values = [found.get(p, 0.0) for p in shown] + ([sum(found.get(p, 0.0) for p in rest)] if rest else [])
        words = [
            f"{n}, {phase}\n{q(v, unit)}, {v / whole:.1%} of the whole" for n, v in zip(names, values, strict=True)
        ]
        style = {"color": tones[i] if tones else colour(i)}
        series.append(bars(phase, values, words=words, stack="parts", barMaxWidth=15, itemStyle=style))
    option = {
        "height": 22 * len(names) + 52,
        "trigger": "item",
        "xAxis": axis("", unit),
        "yAxis": categories(names, down=True),
        "series": series,
    }
    heads = ("part", *(f"{phase}, {unit}" for phase in parts), "share")
    rows = tuple((p, *(f.get(p, 0.0) for f in parts.values()), sums[p] / whole) for p in ordered)
    return Figure(name, title, says, option, heads, rows)
