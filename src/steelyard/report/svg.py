"""Small charts as inline SVG: lines, points and bars over one pair of axes. No script, no style from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chart", "nice_ticks", "tick_label"]

Floats = NDArray[np.float64]

#: Size of a chart, and what is left of it for labels: left, right, top, bottom. Pixels.
WIDTH, HEIGHT, MARGINS = 520, 240, (66, 14, 46, 44)
#: Ticks wanted at least on the vertical axis and on the horizontal one.
TICKS_Y, TICKS_X = 5, 6


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, unit: str = "") -> str:
    """A round number for an axis: ``20k``, ``0.5``; with ``s`` ``20 ms``, with ``%`` ``50 %``."""
    if value == 0:
        return f"0 {unit}".rstrip()
    if unit == "s" and abs(value) < 1:
        factor, prefix = (1e3, "m") if abs(value) >= 0.9995e-3 else (1e6, "µ")
        return f"{float(f'{value * factor:.3g}'):g} {prefix}s"
    if abs(value) >= 10_000:
        factor, prefix = (1e-6, "M") if abs(value) >= 1e6 else (1e-3, "k")
        return f"{float(f'{value * factor:.3g}'):g}{prefix} {unit}".rstrip()
    return f"{float(f'{value:.4g}'):,g} {unit}".rstrip()


def log_ticks(y0: float, y1: float) -> list[float]:
    """Powers of ten between two exponents; with 2 and 5 between when they span two decades at most."""
    inner = (1.0, 2.0, 5.0) if y1 - y0 <= 2 else (1.0,)
    every = [m * 10.0**k for k in range(math.floor(y0), math.ceil(y1) + 1) for m in inner]
    return [v for v in every if y0 - 1e-9 <= math.log10(v) <= y1 + 1e-9]


@dataclass
class Chart:
    """One picture. Add series, then :meth:`svg`.

    Args:
        title: above it.
        x: title of the horizontal axis, with its unit.
        y: unit of the vertical axis, written at its ticks.
        log: a logarithmic vertical axis.
        top: the vertical axis reaches at least this.
        ends: the horizontal axis, whatever the series; None = as far as they reach.
        x_unit: unit written at the ticks of the horizontal axis.
    """

    title: str
    x: str
    y: str = ""
    log: bool = False
    top: float = 0.0
    ends: tuple[float, float] | None = None
    x_unit: str = ""
    _series: list[tuple[str, str, Floats, Floats]] = field(default_factory=list)
    _levels: list[tuple[str, float]] = field(default_factory=list)
    _marks: list[tuple[str, float]] = field(default_factory=list)

    def line(self, name: str, x: Any, y: Any) -> None:
        """A line; NaN breaks it."""
        self._series.append(("line", name, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)))

    def points(self, name: str, x: Any, y: Any) -> None:
        """Dots."""
        self._series.append(("points", name, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)))

    def bars(self, name: str, edges: Any, counts: Any) -> None:
        """A histogram: ``[n + 1]`` edges, ``[n]`` counts."""
        self._series.append(("bars", name, np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.float64)))

    def level(self, name: str, y: float) -> None:
        """A dashed horizontal line."""
        self._levels.append((name, y))

    def mark(self, name: str, x: float) -> None:
        """A dashed vertical line."""
        self._marks.append((name, x))

    def svg(self) -> str:
        """The picture. Series are coloured by the classes ``c0``, ``c1``, ... of the page."""
        left, right, top, bottom = MARGINS
        inner = (WIDTH - left - right, HEIGHT - top - bottom)
        x0, x1, y0, y1 = self._ranges()

        def px(x: Any) -> Any:
            return left + (np.asarray(x) - x0) / (x1 - x0) * inner[0]

        def py(y: Any) -> Any:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (np.log10(y) - y0) / (y1 - y0) if self.log else (np.asarray(y) - y0) / (y1 - y0)
            return top + (1 - np.clip(share, -0.02, 1.02)) * inner[1]

        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">']
        parts.append(f'<text class="title" x="4" y="16">{escape(self.title)}</text>')
        parts += self._axes(px, py, (x0, x1, y0, y1), inner)
        behind = sorted(enumerate(self._series), key=lambda item: item[1][0] == "line")  # lines over dots
        for i, (kind, _, x, y) in behind:
            parts += _drawn(kind, i, px(x), py(y), top + inner[1])
        end = WIDTH - right
        for name, value in self._levels:
            height = float(py(value))
            parts.append(f'<line class="level" x1="{left}" x2="{end}" y1="{height:.1f}" y2="{height:.1f}"/>')
            parts.append(_words("halo tick", end - 3, height - 4 if height > top + 12 else height + 13, "end", name))
        for name, value in self._marks:
            if x0 <= value <= x1:
                at, late = float(px(value)), value > 0.7 * x1 + 0.3 * x0
                parts.append(f'<line class="level" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + inner[1]}"/>')
                parts.append(_words("halo tick", at + (-4 if late else 4), top + 11, "end" if late else "start", name))
        return "".join([*parts, self._keys(), "</svg>"])

    def _keys(self) -> str:
        """Names of the series in their colours, in one row under the title."""
        named = [f'<tspan class="c{i} fill">{escape(s[1])}</tspan>' for i, s in enumerate(self._series) if s[1]]
        return f'<text class="key" x="4" y="35">{" &#160; ".join(named)}</text>' if named else ""

    def _ranges(self) -> tuple[float, float, float, float]:
        xs = np.concatenate([x for _, _, x, _ in self._series] or [np.zeros(1)])
        ys = np.concatenate([y for _, _, _, y in self._series] + [np.array([v for _, v in self._levels])])
        xs, ys = xs[np.isfinite(xs)], ys[np.isfinite(ys)]
        x0, x1 = self.ends or ((float(xs.min()), float(xs.max())) if xs.size else (0.0, 1.0))
        x1 = x1 if x1 > x0 else x0 + 1.0
        if self.log:
            ys = ys[ys > 0]
            low, high = (float(ys.min()), float(ys.max())) if ys.size else (0.1, 1.0)
            y0, y1 = math.log10(low), math.log10(high)
            middle, half = (y0 + y1) / 2, max((y1 - y0) / 2 * 1.06, 0.25)
            return x0, x1, middle - half, middle + half
        high = max(float(ys.max()) if ys.size else 1.0, self.top)
        return x0, x1, 0.0, high * 1.05 if high > 0 else 1.0

    def _axes(self, px: Any, py: Any, ends: tuple[float, float, float, float], inner: tuple[int, int]) -> list[str]:
        left, _, top, _ = MARGINS
        x0, x1, y0, y1 = ends
        parts = []
        for value in log_ticks(y0, y1) if self.log else nice_ticks(y0, y1, TICKS_Y):
            height = float(py(value))
            parts.append(f'<line class="grid" x1="{left}" x2="{left + inner[0]}" y1="{height:.1f}" y2="{height:.1f}"/>')
            parts.append(_words("tick", left - 6, height + 4, "end", tick_label(value, self.y)))
        base = top + inner[1]
        for value in nice_ticks(x0, x1, TICKS_X):
            at, last = float(px(value)), float(px(value)) > WIDTH - 30
            parts.append(
                _words(
                    "tick",
                    WIDTH - 2 if last else at,
                    base + 19,
                    "end" if last else "middle",
                    tick_label(value, self.x_unit),
                )
            )
        parts.append(_words("tick", left + inner[0], base + 38, "end", self.x))
        return parts


def _words(kind: str, x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _drawn(kind: str, i: int, x: Any, y: Any, base: float) -> list[str]:
    if kind == "bars":
        rects = [
            f'<rect x="{a:.1f}" y="{h:.1f}" width="{max(b - a - 1, 0.5):.1f}" height="{max(base - h, 0):.1f}"/>'
            for a, b, h in zip(x[:-1].tolist(), x[1:].tolist(), y.tolist(), strict=True)
            if base - h > 0.05
        ]
        return [f'<g class="c{i} fill">', *rects, "</g>"]
    good = np.isfinite(x) & np.isfinite(y)
    if kind == "points":
        dots = [f"M{a:.1f} {b:.1f}h0" for a, b in zip(x[good].tolist(), y[good].tolist(), strict=True)]
        return [f'<path class="c{i} dots" d="{"".join(dots)}"/>']
    breaks = np.flatnonzero(np.diff(good.astype(int)) == 1) + 1
    pieces: list[Sequence[str]] = []
    for part in np.split(np.arange(len(x)), breaks):
        inside = part[good[part]]
        if inside.size == 1:
            pieces.append([f"{float(x[inside[0]]):.1f} {float(y[inside[0]]):.1f}h1"])
        elif inside.size:
            pieces.append([f"{a:.1f} {b:.1f}" for a, b in zip(x[inside].tolist(), y[inside].tolist(), strict=True)])
    return [f'<path class="c{i} line" d="{"".join("M" + "L".join(p) for p in pieces)}"/>']
