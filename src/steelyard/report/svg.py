"""Small charts as inline SVG: lines, points and bars over one pair of axes. No script, no style from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chart", "nice_ticks"]

Floats = NDArray[np.float64]

#: Size of a chart, and what is left of it for labels: left, right, top, bottom. Pixels.
WIDTH, HEIGHT, MARGINS = 860, 220, (64, 28, 30, 34)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass
class Chart:
    """One picture. Add series, then :meth:`svg`.

    Args:
        title: above it.
        x, y: axis titles with units.
        log: a logarithmic vertical axis.
        top: the vertical axis reaches at least this.
    """

    title: str
    x: str
    y: str
    log: bool = False
    top: float = 0.0
    _series: list[tuple[str, str, Floats, Floats]] = field(default_factory=list)
    _levels: list[tuple[str, float]] = field(default_factory=list)

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

        title = f"{self.title}, {self.y}" if self.y else self.title
        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">']
        parts.append(f'<text class="title" x="{left}" y="16">{escape(title)}</text>')
        parts += self._axes(px, py, (x0, x1, y0, y1), inner)
        for i, (kind, name, x, y) in enumerate(self._series):
            parts += _drawn(kind, i, px(x), py(y), top + inner[1])
            at = WIDTH - right - 8 - 130 * (len(self._series) - 1 - i)
            parts.append(f'<text class="key c{i} fill" x="{at}" y="16" text-anchor="end">{escape(name)}</text>')
        for name, value in self._levels:
            height, end = float(py(value)), WIDTH - right
            parts.append(f'<line class="level" x1="{left}" x2="{end}" y1="{height:.1f}" y2="{height:.1f}"/>')
            parts.append(_tick(end - 2, height - 3, "end", name))
        return "".join([*parts, "</svg>"])

    def _ranges(self) -> tuple[float, float, float, float]:
        xs = np.concatenate([x for _, _, x, _ in self._series] or [np.zeros(1)])
        ys = np.concatenate([y for _, _, _, y in self._series] + [np.array([v for _, v in self._levels])])
        xs, ys = xs[np.isfinite(xs)], ys[np.isfinite(ys)]
        x0, x1 = (float(xs.min()), float(xs.max())) if xs.size else (0.0, 1.0)
        x1 = x1 if x1 > x0 else x0 + 1.0
        if self.log:
            ys = ys[ys > 0]
            low, high = (float(ys.min()), float(ys.max())) if ys.size else (0.1, 1.0)
            y0, y1 = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
            return x0, x1, float(y0), float(y1 if y1 > y0 else y0 + 1)
        high = max(float(ys.max()) if ys.size else 1.0, self.top)
        return x0, x1, 0.0, high * 1.05 if high > 0 else 1.0

    def _axes(self, px: Any, py: Any, ends: tuple[float, float, float, float], inner: tuple[int, int]) -> list[str]:
        left, _, top, _ = MARGINS
        x0, x1, y0, y1 = ends
        parts = []
        ticks = [10.0**k for k in range(int(y0), int(y1) + 1)] if self.log else nice_ticks(y0, y1)
        for value in ticks:
            height = float(py(value))
            parts.append(f'<line class="grid" x1="{left}" x2="{left + inner[0]}" y1="{height:.1f}" y2="{height:.1f}"/>')
            parts.append(_tick(left - 6, height + 4, "end", _label(value)))
        base = top + inner[1]
        parts += [_tick(float(px(v)), base + 15, "middle", _label(v)) for v in nice_ticks(x0, x1, 8)]
        parts.append(_tick(left + inner[0], base + 30, "end", self.x))
        return parts


def _tick(x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


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
        if inside.size:
            pieces.append([f"{a:.1f} {b:.1f}" for a, b in zip(x[inside].tolist(), y[inside].tolist(), strict=True)])
    return [f'<path class="c{i} line" d="{"".join("M" + "L".join(p) for p in pieces)}"/>']
