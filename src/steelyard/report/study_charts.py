"""Charts of a study as inline SVG: points between two figures with their front, a figure over an axis, bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from steelyard.report.svg import nice_ticks, tick_label

__all__ = ["COLOURS", "Dot", "Scale", "by_value", "effects", "scatter"]

#: Colour classes of the page: ``c0`` to ``c5``.
COLOURS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 46, 40
#: A scale is logarithmic when its ends are so many times apart.
_LOG_FROM = 20.0
#: Dots from which a scatter draws them small and faint.
_MANY = 300


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter: where, the colour of its group, and what it says under the pointer."""

    x: float
    y: float
    group: int
    words: str


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @staticmethod
    def over(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> Scale:
        """A scale over all values with a little room; ``zero``: from 0 when it is linear."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if low > 0 and high / low >= _LOG_FROM:
            room = (high / low) ** 0.04
            return Scale(low / room, high * room, start, end, True)
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        return Scale(0.0 if zero and low >= 0 else low - room, high + room, start, end)

    def at(self, value: float) -> float:
        """Pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values inside."""
        if not self.log:
            return nice_ticks(self.low, self.high, count)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
        every = [m * 10.0**k for k in range(first, last + 1) for m in steps]
        return [v for v in every if self.low <= v <= self.high]


@dataclass
class _Picture:
    """Parts of one SVG."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, kind: str = "tick", anchor: str = "start") -> None:
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        if points:
            self.parts.append(f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')

    def dot(self, x: float, y: float, kind: str, words: str = "", r: float = 3.0) -> None:
        tip = f"<title>{escape(words)}</title>" if words else ""
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}">{tip}</circle>')

    def keys(self, names: Sequence[tuple[str, str]]) -> None:
        """Names in their colours under the title."""
        if names:
            spans = " &#160; ".join(f'<tspan class="{kind}">{escape(name)}</tspan>' for name, kind in names)
            self.parts.append(f'<text class="key" x="4" y="35">{spans}</text>')

    def svg(self) -> str:
        head = f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}">'
        return f'{head}<text class="title" x="4" y="16">{escape(self.title)}</text>{"".join(self.parts)}</svg>'


def _unit(unit: str) -> str:
    return unit if unit == "s" else ""


def scatter(
    title: str,
    x: tuple[str, str],
    y: tuple[str, str],
    dots: Sequence[Dot],
    front: Sequence[Dot],
    groups: Sequence[str],
    *,
    maximise: tuple[bool, bool] = (False, False),
) -> str:
    """Points between two figures; the front as steps in front of them.

    Args:
        title: above it.
        x, y: title and unit of each axis.
        dots: all points. front: those on the front.
        groups: names of the colours.
        maximise: which of the two figures is better large: says how the steps of the front run.
    """
    p = _Picture(860, 420, title)
    xs = Scale.over([d.x for d in (*dots, *front)], _LEFT, p.width - _RIGHT)
    ys = Scale.over([d.y for d in (*dots, *front)], p.height - _BOTTOM, _TOP)
    _frame(p, xs, ys, x, y)
    tone, size = ("faint", 2.2) if len(dots) > _MANY else ("soft", 3.5)
    for dot in dots:
        p.dot(xs.at(dot.x), ys.at(dot.y), f"c{dot.group % COLOURS} fill {tone}", r=size)
    ordered = sorted(front, key=lambda d: d.x)
    steps: list[tuple[float, float]] = []
    for dot in ordered:
        at = (xs.at(dot.x), ys.at(dot.y))
        if steps:  # between two points of the front one gets at least the worse of both figures
            before = steps[-1]
            steps.append((before[0], at[1]) if maximise[0] else (at[0], before[1]))
        steps.append(at)
    p.path(steps, "front")
    for dot in ordered:
        p.dot(xs.at(dot.x), ys.at(dot.y), f"c{dot.group % COLOURS} fill ring", dot.words, 4.5)
    p.keys([(name, f"c{i % COLOURS} fill") for i, name in enumerate(groups)])
    return p.svg()


def _frame(p: _Picture, xs: Scale, ys: Scale, x: tuple[str, str], y: tuple[str, str]) -> None:
    _height(p, ys, y)
    base = p.height - _BOTTOM
    for value in xs.ticks(7):
        p.line(xs.at(value), _TOP, xs.at(value), base)
        p.text(xs.at(value), base + 16, tick_label(value, _unit(x[1])), anchor="middle")
    p.text(p.width - _RIGHT, base + 33, x[0], anchor="end")


def _height(p: _Picture, ys: Scale, y: tuple[str, str]) -> None:
    for value in ys.ticks(5):
        p.line(_LEFT, ys.at(value), p.width - _RIGHT, ys.at(value))
        p.text(_LEFT - 6, ys.at(value) + 4, tick_label(value, _unit(y[1])), anchor="end")
    if y[0]:
        p.text(p.width - _RIGHT, 16, y[0], anchor="end")


def by_value(
    title: str,
    unit: str,
    values: Sequence[str],
    best: Sequence[float | None],
    middle: Sequence[float | None],
    words: Callable[[float], str],
) -> str:
    """A figure over the values of an axis: the best of all points with that value, and their median.

    The values stand at equal distances, as they were listed.
    """
    p = _Picture(420, 240, title)
    known = [v for v in (*best, *middle) if v is not None]
    ys = Scale.over(known, p.height - _BOTTOM, _TOP, zero=True)
    _height(p, ys, ("", unit))
    base, n = p.height - _BOTTOM, len(values)
    wide = (p.width - _RIGHT - _LEFT) / n

    def at(i: int) -> float:
        return _LEFT + (i + 0.5) * wide

    longest = max(len(v) for v in values)
    each = max(1, math.ceil(min(longest, 18) * 6.2 / wide))
    for i in range(0, n, each):
        shown = values[i] if len(values[i]) <= 18 else values[i][:17] + "…"
        p.text(at(i), base + (16 if each == 1 or (i // each) % 2 == 0 else 30), shown, anchor="middle")
    for series, kind in ((middle, "c1"), (best, "c0")):
        p.path([(at(i), ys.at(v)) for i, v in enumerate(series) if v is not None], f"{kind} line")
        for i, v in enumerate(series):
            if v is not None:
                p.dot(at(i), ys.at(v), f"{kind} fill", f"{values[i]}: {words(v)}")
    p.keys([("best", "c0 fill"), ("median", "c1 fill")])
    return p.svg()


def effects(title: str, bars: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars of ratios from 1 on, each with a remark; logarithmic when they are far apart.

    Args:
        title: above it.
        bars: name, ratio of at least 1, remark.
    """
    p = _Picture(860, 40 + 26 * len(bars), title)
    left = 20 + 7.2 * max(len(name) for name, _, _ in bars)
    most = max(max(ratio for _, ratio, _ in bars), 1.05)
    log = most > 10

    def at(ratio: float) -> float:
        share = math.log(ratio) / math.log(most) if log else (ratio - 1) / (most - 1)
        return left + max(share, 0.003) * (p.width - left - 300)

    for i, (name, ratio, remark) in enumerate(bars):
        y = 34 + 26 * i
        p.text(left - 8, y + 13, name, "label", "end")
        p.parts.append(f'<rect class="c0 fill" x="{left:.1f}" y="{y}" width="{at(ratio) - left:.1f}" height="18"/>')
        p.text(at(ratio) + 6, y + 13, remark, "label")
    return p.svg()
