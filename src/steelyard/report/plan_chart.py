"""The picture of a front: candidates as marks over two axes, the front as a line, the winner named. Inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from steelyard.report.svg import nice_ticks

__all__ = ["Dot", "front_chart"]

#: Size of a picture, and what is left of it for labels: left, right, top, bottom. Pixels.
WIDTH, HEIGHT, MARGINS = 470, 330, (58, 16, 20, 44)
#: Colours of the page, and marks that go with them so that colour is never all.
SHAPES = 6
#: Radius of a mark, pixels.
_R = 4.5


@dataclass(frozen=True, slots=True)
class Dot:
    """One candidate: place, group (colour and shape), words shown on it, and whether the front passes through it."""

    x: float
    y: float
    group: str
    words: str
    front: bool = False
    winner: bool = False


def front_chart(
    name: str,
    dots: Sequence[Dot],
    x: str,
    y: str,
    groups: Sequence[str],
    *,
    rising: bool,
    bound: tuple[float, str] | None = None,
    label: Callable[[float], str] = "{:,.4g}".format,
) -> str:
    """The picture.

    Args:
        name: what it shows, for those who cannot see it.
        dots: candidates; those that are not finite are left out.
        x, y: titles of the axes with units.
        groups: every group in the order of its colours.
        rising: larger is better on both axes; otherwise smaller is.
        bound: a promise on the horizontal axis, with its words; what breaks it is shaded.
        label: writes a tick.
    """
    known = [d for d in dots if math.isfinite(d.x) and math.isfinite(d.y)]
    left, right, top, bottom = MARGINS
    inner = WIDTH - left - right, HEIGHT - top - bottom
    xs = [d.x for d in known] + ([bound[0]] if bound else [])
    x0, x1 = _range(xs)
    y0, y1 = _range([d.y for d in known])

    def px(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * inner[0]

    def py(value: float) -> float:
        return top + (1 - (value - y0) / (y1 - y0)) * inner[1]

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}" class="front">']
    for value in nice_ticks(y0, y1, 5):
        at = py(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + inner[0]}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_words(left - 7, at + 4, "end", label(value)))
    for value in nice_ticks(x0, x1, 5):
        parts.append(_words(px(value), top + inner[1] + 17, "middle", label(value)))
    parts.append(_words(left + inner[0] / 2, HEIGHT - 7, "middle", x, "axis"))
    parts.append(_words(left, 12, "start", y, "axis"))
    if bound:
        parts += _bound(px(bound[0]), bound[1], rising)
    line = sorted((d for d in known if d.front), key=lambda d: (d.x, d.y if rising else -d.y))
    if len(line) > 1:
        parts.append(f'<polyline class="frontline" points="{" ".join(f"{px(d.x):.1f},{py(d.y):.1f}" for d in line)}"/>')
    for d in sorted(known, key=lambda d: (d.winner, d.front)):
        kind = groups.index(d.group) % SHAPES
        parts.append(_mark(kind, px(d.x), py(d.y), d))
    for d in known:
        if d.winner:
            anchor = "end" if px(d.x) > left + 0.7 * inner[0] else "start"
            away = -11 if anchor == "end" else 11
            parts.append(_words(px(d.x) + away, max(py(d.y) - 9, top + 10), anchor, "winner", "name"))
    return "".join([*parts, "</svg>"])


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From zero to a little beyond the largest."""
    most = max(values, default=1.0)
    return 0.0, (most if most > 0 else 1.0) * 1.08


def _bound(at: float, words: str, rising: bool) -> list[str]:
    left, right, top, bottom = MARGINS
    height, end = HEIGHT - top - bottom, WIDTH - right
    start, width = (left, at - left) if rising else (at, end - at)
    anchor, off = ("start", 4) if at < (left + end) / 2 else ("end", -4)
    return [
        f'<rect class="broken" x="{start:.1f}" y="{top}" width="{max(width, 0):.1f}" height="{height}"/>',
        f'<line class="level" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}"/>',
        _words(at + off, top + height - 6, anchor, words),
    ]


def _words(x: float, y: float, anchor: str, words: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _mark(kind: int, x: float, y: float, dot: Dot) -> str:
    """A mark of its group: circle, square, diamond, triangle, cross, ring."""
    r = _R * (1.7 if dot.winner else 1.0)
    faint = "" if dot.front or dot.winner else " faint"
    css = f'class="mark g{kind}{faint}{" winner" if dot.winner else ""}"'
    if kind == 0:
        body = f'<circle {css} cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}">'
        return f"{body}<title>{escape(dot.words)}</title></circle>"
    paths = {
        1: f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z",
        2: f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {1.3 * r:.1f}l{-1.3 * r:.1f} {1.3 * r:.1f}"
        f"l{-1.3 * r:.1f} {-1.3 * r:.1f}z",
        3: f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z",
        4: f"M{x:.1f} {y + 1.2 * r:.1f}l{1.2 * r:.1f} {-2.1 * r:.1f}h{-2.4 * r:.1f}z",
        5: f"M{x - 1.3 * r:.1f} {y - r / 2:.1f}h{2.6 * r:.1f}v{r:.1f}h{-2.6 * r:.1f}z",
    }
    return f'<path {css} d="{paths[kind]}"><title>{escape(dot.words)}</title></path>'


def key(groups: Sequence[str]) -> str:
    """The key of a picture: mark and name of each group."""
    entries = []
    for i, group in enumerate(groups):
        mark = _mark(i % SHAPES, 8, 8, Dot(0, 0, group, group, front=True))
        entries.append(f'<span><svg viewBox="0 0 16 16" class="keymark">{mark}</svg>{escape(group)}</span>')
    return f'<p class="key">{"".join(entries)}</p>'
