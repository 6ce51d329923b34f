"""Charts as inline SVG: lines, dots, bars and marks over one pair of axes. The stylesheet of the page colours them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.report.html import stylesheet

__all__ = ["COLOURS", "Chart", "Mark", "Scale", "key", "nice_ticks", "standalone", "tick_label"]

Floats = NDArray[np.float64]

#: Colour classes of the stylesheet, ``c0`` to ``c5``, and as many shapes of marks.
COLOURS = 6
#: Size of a chart, and what is left of it for labels: left, right, top, bottom. Pixels.
SIZE, MARGINS = (520, 240), (66, 16, 46, 44)
#: Ticks wanted at least on the vertical axis and on the horizontal one.
TICKS_Y, TICKS_X = 5, 6
#: A scale that may be logarithmic is so when its ends are this many times apart.
LOG_FROM = 20.0
#: Dots up to which they are drawn large.
FEW = 300
#: Radius of a mark, pixels.
RADIUS = 4.5
#: Letters of a label of a category at most.
LETTERS = 18


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


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(
        cls,
        values: Sequence[float] | Floats,
        start: float,
        end: float,
        *,
        zero: bool = False,
        log: bool | None = None,
        room: float = 0.05,
    ) -> Scale:
        """A scale over all finite values with a little room.

        Args:
            values: what must be inside.
            start, end: pixels of the two ends.
            zero: begin at 0 when it is linear and nothing is negative.
            log: logarithmic; None = when the values are far apart.
            room: share of the span left free.
        """
        known = np.asarray(values, dtype=np.float64)
        known = known[np.isfinite(known) & (known > 0)] if log else known[np.isfinite(known)]
        low, high = (float(known.min()), float(known.max())) if known.size else (1.0 if log else 0.0, 1.0)
        if log or (log is None and low > 0 and high / low >= LOG_FROM):
            free = max((high / low) ** 0.04, math.sqrt(math.sqrt(10.0) * low / high))  # at least half a decade
            return cls(low / free, high * free, start, end, True)
        if zero and low >= 0:
            return cls(0.0, high * (1 + room) if high > 0 else 1.0, start, end)
        free = (high - low) * room or abs(high) * 0.1 or 1.0
        return cls(low - free, high + free, start, end)

    def at(self, value: Any) -> Any:
        """Pixels of values, hardly outside the ends; NaN stays."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.log:
                share = np.log(np.asarray(value) / self.low) / math.log(self.high / self.low)
            else:
                share = (np.asarray(value) - self.low) / (self.high - self.low)
        return self.start + np.clip(share, -0.02, 1.02) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values inside."""
        if not self.log:
            return nice_ticks(self.low, self.high, count)
        first, last = math.log10(self.low), math.log10(self.high)
        inner = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
        every = [m * 10.0**k for k in range(math.floor(first), math.ceil(last) + 1) for m in inner]
        return [v for v in every if self.low <= v <= self.high]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that can be read: where, its group (colour and shape), what it says under the pointer."""

    x: float
    y: float
    group: int
    label: str
    front: bool = False
    """Whether the front passes through it; others are faint."""
    best: str = ""
    """A word written beside it, which makes it large."""


@dataclass(frozen=True, slots=True)
class _Series:
    kind: str
    name: str
    colour: int
    x: Floats
    y: Floats
    labels: Sequence[str] = ()


@dataclass
class Chart:
    """One picture. Add series and marks, then :meth:`svg`.

    Args:
        title: above it.
        x: title of the horizontal axis, with its unit.
        y: title of the vertical axis, where no names of lines say it.
        x_unit, y_unit: written at the ticks.
        x_zero, y_zero: the axis begins at 0.
        x_log, y_log: a logarithmic axis; None = when the values are far apart.
        top: the vertical axis reaches at least this.
        ends: the horizontal axis, whatever the series.
        categories: names of the horizontal positions 0, 1, 2, ...
        size: width and height, pixels.
    """

    title: str
    x: str = ""
    y: str = ""
    x_unit: str = ""
    y_unit: str = ""
    x_zero: bool = False
    y_zero: bool = True
    x_log: bool | None = False
    y_log: bool | None = False
    top: float = 0.0
    ends: tuple[float, float] | None = None
    categories: Sequence[str] = ()
    size: tuple[int, int] = SIZE
    _series: list[_Series] = field(default_factory=list)
    _marks: list[Mark] = field(default_factory=list)
    _levels: list[tuple[str, float]] = field(default_factory=list)
    _limits: list[tuple[str, float, str]] = field(default_factory=list)
    _front: Floats | None = None

    def line(self, name: str, x: Any, y: Any, labels: Sequence[str] = ()) -> None:
        """A line; NaN breaks it. ``labels``: every point gets a dot that says so under the pointer."""
        self._add("line", name, None, x, y, labels)

    def dots(self, name: str, x: Any, y: Any, colour: int | None = None) -> None:
        """Faint dots, in the colour of a group or one of their own."""
        self._add("dots", name, colour, x, y)

    def bars(self, name: str, edges: Any, counts: Any) -> None:
        """A histogram: ``[n + 1]`` edges, ``[n]`` counts."""
        self._add("bars", name, None, edges, counts)

    def _add(self, kind: str, name: str, colour: int | None, x: Any, y: Any, labels: Sequence[str] = ()) -> None:
        values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self._series.append(_Series(kind, name, len(self._series) if colour is None else colour, *values, labels))

    def marks(self, marks: Sequence[Mark]) -> None:
        """Marks; those that are not finite are left out."""
        self._marks += [m for m in marks if math.isfinite(m.x) and math.isfinite(m.y)]

    def front(self, points: Sequence[tuple[float, float]]) -> None:
        """A line through the points of a front, in the order given."""
        self._front = np.array(points, dtype=np.float64) if len(points) > 1 else None

    def level(self, name: str, y: float) -> None:
        """A dashed horizontal line."""
        self._levels.append((name, y))

    def limit(self, name: str, x: float, breaks: str = "") -> None:
        """A dashed vertical line; ``breaks``: the side that is shaded, ``left`` or ``right``."""
        self._limits.append((name, x, breaks))

    def __html__(self) -> str:
        return self.svg()

    def svg(self, attributes: str = "") -> str:
        """The picture; ``attributes`` are added to its element."""
        width, height = self.size
        head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.title)}" {attributes}>'
        parts = [head.replace(" >", ">"), _text("title", 4, 16, self.title), *self._axes()]
        for name, value, breaks in self._limits:
            parts += self._limit(name, float(self._x.at(value)), breaks)
        for series in sorted(self._series, key=lambda s: s.kind == "line"):  # lines over dots
            parts += self._drawn(series)
        if self._front is not None:
            points = zip(self._x.at(self._front[:, 0]), self._y.at(self._front[:, 1]), strict=True)
            parts.append(f'<polyline class="frontline" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        placed = [(m, float(self._x.at(m.x)), float(self._y.at(m.y))) for m in self._marks]
        parts += [_mark(m, x, y) for m, x, y in sorted(placed, key=lambda p: (bool(p[0].best), p[0].front))]
        for m, x, y in placed:
            if m.best:
                late = x > 0.7 * width
                away, anchor = (-11, "end") if late else (11, "start")
                parts.append(_text("name", x + away, max(y - 9, MARGINS[2] + 10), m.best, anchor))
        for name, value in self._levels:
            at, end = float(self._y.at(value)), width - MARGINS[1]
            parts.append(f'<line class="level" x1="{MARGINS[0]}" x2="{end}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(_text("halo tick", end - 3, at - 4 if at > MARGINS[2] + 12 else at + 13, name, "end"))
        return "".join([*parts, self._names(), "</svg>"])

    @cached_property
    def _x(self) -> Scale:
        left, right, _, _ = MARGINS
        start, end = left, self.size[0] - right
        if self.categories:
            return Scale(-0.5, len(self.categories) - 0.5, start, end)
        single = [m.x for m in self._marks] + [v for _, v, side in self._limits if side]
        every = [*(s.x for s in self._series), np.array(single, dtype=np.float64)]
        if self.ends or not (self.x_zero or self._marks or self.x_log is None):
            known = np.concatenate(every)
            known = known[np.isfinite(known)]
            low, high = self.ends or ((float(known.min()), float(known.max())) if known.size else (0.0, 1.0))
            return Scale(low, high if high > low else low + 1.0, start, end)
        return Scale.over(np.concatenate(every), start, end, zero=self.x_zero, log=self.x_log)

    @cached_property
    def _y(self) -> Scale:
        _, _, top, bottom = MARGINS
        single = [m.y for m in self._marks] + [v for _, v in self._levels] + ([self.top] if self.top else [])
        every = np.concatenate([*(s.y for s in self._series), np.array(single, dtype=np.float64)])
        return Scale.over(every, self.size[1] - bottom, top, zero=self.y_zero, log=self.y_log)

    def _names(self) -> str:
        """Names of the series in their colours, in one row under the title; else the title of the vertical axis."""
        named = [f'<tspan class="c{s.colour} fill">{escape(s.name)}</tspan>' for s in self._series if s.name]
        if named:
            return f'<text class="key" x="4" y="35">{" &#160; ".join(named)}</text>'
        return _text("tick", 4, 35, self.y) if self.y else ""

    def _axes(self) -> list[str]:
        left, right, _, bottom = MARGINS
        width, base = self.size[0], self.size[1] - bottom
        parts = []
        for value in self._y.ticks(TICKS_Y):
            at = float(self._y.at(value))
            parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(_text("tick", left - 6, at + 4, tick_label(value, self.y_unit), "end"))
        for x, y, label in self._x_labels(base + 18):
            late = x > width - 30
            parts.append(_text("tick", width - 2 if late else x, y, label, "end" if late else "middle"))
        if self.x:
            parts.append(_text("tick", width - right, base + 38, self.x, "end"))
        return parts

    def _x_labels(self, y: float) -> list[tuple[float, float, str]]:
        """Place and words of the labels under the horizontal axis; crowded names of categories in two rows."""
        if not self.categories:
            return [(float(self._x.at(v)), y, tick_label(v, self.x_unit)) for v in self._x.ticks(TICKS_X)]
        room = (self._x.end - self._x.start) / len(self.categories)
        each = max(1, math.ceil(min(max(map(len, self.categories)), LETTERS) * 6.2 / room))
        found = []
        for i in range(0, len(self.categories), each):
            name = self.categories[i]
            name = name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
            found.append((float(self._x.at(i)), y + 14 * (each > 1 and (i // each) % 2), name))
        return found

    def _limit(self, name: str, at: float, breaks: str) -> list[str]:
        _, _, top, bottom = MARGINS
        height = self.size[1] - top - bottom
        parts = []
        if breaks:
            start, end = (self._x.start, at) if breaks == "left" else (at, self._x.end)
            parts.append(
                f'<rect class="broken" x="{start:.1f}" y="{top}" width="{max(end - start, 0):.1f}" height="{height}"/>'
            )
        elif not self._x.start <= at <= self._x.end:
            return []
        late = at > 0.3 * self._x.start + 0.7 * self._x.end
        parts.append(f'<line class="level" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}"/>')
        y = top + height - 6 if breaks == "left" else top + 11
        return [*parts, _text("halo tick", at + (-4 if late else 4), y, name, "end" if late else "start")]

    def _drawn(self, series: _Series) -> list[str]:
        x, y, base = self._x.at(series.x), self._y.at(series.y), self._y.start
        css = f"c{series.colour % COLOURS}"
        if series.kind == "bars":
            rects = [
                f'<rect x="{a:.1f}" y="{h:.1f}" width="{max(b - a - 1, 0.5):.1f}" height="{max(base - h, 0):.1f}"/>'
                for a, b, h in zip(x[:-1].tolist(), x[1:].tolist(), y.tolist(), strict=True)
                if base - h > 0.05
            ]
            return [f'<g class="{css} fill">', *rects, "</g>"]
        good = np.isfinite(x) & np.isfinite(y)
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        if series.kind == "dots":
            few = " few" if len(points) <= FEW else ""
            path = "".join(f"M{a:.1f} {b:.1f}h0" for (a, b), ok in zip(points, good, strict=True) if ok)
            return [f'<path class="{css} dots{few}" d="{path}"/>']
        pieces = []
        for part in np.split(np.arange(len(x)), np.flatnonzero(np.diff(good.astype(int)) == 1) + 1):
            inside = [points[i] for i in part if good[i]]
            if inside:
                pieces.append("L".join(f"{a:.1f} {b:.1f}" for a, b in inside) + ("h1" if len(inside) == 1 else ""))
        parts = [f'<path class="{css} line" d="{"".join("M" + p for p in pieces)}"/>']
        for (a, b), label, ok in zip(points, series.labels, good, strict=bool(series.labels)) if series.labels else ():
            if ok:
                dot = f'<circle class="{css} fill" cx="{a:.1f}" cy="{b:.1f}" r="3">'
                parts.append(f"{dot}<title>{escape(label)}</title></circle>")
        return parts


def _text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


#: Shapes of marks around ``0 0`` with a radius of 1, in the order of the groups.
_SHAPES = (
    "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "M-1-1h2v2h-2z",
    "M0-1.3l1.3 1.3l-1.3 1.3l-1.3-1.3z",
    "M0-1.2l1.2 2.1h-2.4z",
    "M0 1.2l1.2-2.1h-2.4z",
    "M-1.3-.5h2.6v1h-2.6z",
)


def _mark(mark: Mark, x: float, y: float) -> str:
    """A mark of its group. The pair of colour and shape repeats after 36."""
    r = RADIUS * (1.7 if mark.best else 1.0)
    state = " best" if mark.best else "" if mark.front else " faint"
    shape = _SHAPES[(mark.group + mark.group // COLOURS) % COLOURS]
    width = (2.0 if mark.best else 1.2) / r
    place = f'transform="translate({x:.1f} {y:.1f}) scale({r:g})" stroke-width="{width:.2f}"'
    title = f"<title>{escape(mark.label)}</title>" if mark.label else ""
    return f'<path class="mark c{mark.group % COLOURS} fill{state}" {place} d="{shape}">{title}</path>'


def key(groups: Sequence[str]) -> list[tuple[str, str]]:
    """A small picture of the mark of each group, and its name."""
    return [
        (f'<svg viewBox="0 0 16 16">{_mark(Mark(0, 0, i, "", True), 8, 8)}</svg>', group)
        for i, group in enumerate(groups)
    ]


def standalone(charts: Sequence[Chart], groups: Sequence[str]) -> str:
    """Charts side by side in one SVG file that needs no page, light or dark as the reader's system is.

    Args:
        charts: all of one size.
        groups: names of the groups of their marks.
    """
    gap, row, room = 24, 20, 190
    width = len(charts) * (charts[0].size[0] + gap) - gap
    under = charts[0].size[1] + 14
    across = max(1, width // room)
    height = under + row * -(-len(groups) // across)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{stylesheet('colours.css', 'charts.css')}</style>",
        f'<rect width="{width}" height="{height}" class="page"/>',
    ]
    for i, chart in enumerate(charts):
        w, h = chart.size
        parts.append(chart.svg(f'x="{i * (w + gap)}" y="0" width="{w}" height="{h}"'))
    for i, group in enumerate(groups):
        x, y = 14 + (i % across) * room, under + row * (i // across)
        parts += [_mark(Mark(0, 0, i, "", True), x, y), _text("tick", x + 12, y + 4, group)]
    return "".join([*parts, "</svg>"]) + "\n"
