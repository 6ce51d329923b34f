"""The picture of a front: candidates as marks over two axes, the front as a line, the winner named. Inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from steelyard.report.svg import nice_ticks

__all__ = ["PALETTE", "Dot", "front_chart", "key", "standalone"]

#: Size of a picture, and what is left of it for labels: left, right, top, bottom. Pixels.
WIDTH, HEIGHT, MARGINS = 470, 330, (58, 16, 20, 44)
#: Colours and marks; a group has one of each, so that colour is never all.
SHAPES = 6
#: Values further apart than this are drawn on a logarithmic axis.
_APART = 12
#: Style of the marks and words; the variables are those of the page, with what they are where there is none.
PALETTE = """
.tick{font-size:12px;fill:var(--soft)}.axis{font-size:12.5px;fill:var(--ink)}
.name{font-size:13px;font-weight:600;fill:var(--ink);stroke:var(--page);stroke-width:4px;paint-order:stroke}
.grid{stroke:var(--line)}.level{stroke:var(--bad);stroke-dasharray:5 4}.broken{fill:var(--bad);opacity:.07}
.frontline{fill:none;stroke:var(--soft);stroke-width:1.4;opacity:.7}
.mark{stroke:var(--page);stroke-width:1.2}.mark.faint{opacity:.55}.mark.winner{stroke:var(--ink);stroke-width:2}
.g0{fill:var(--g0)}.g1{fill:var(--g1)}.g2{fill:var(--g2)}.g3{fill:var(--g3)}.g4{fill:var(--g4)}.g5{fill:var(--g5)}
"""
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
    across = _Axis.over([d.x for d in known] + ([bound[0]] if bound else []), left, inner[0])
    up = _Axis.over([d.y for d in known], top + inner[1], -inner[1], log=not rising)
    px, py = across.at, up.at
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}" class="front">']
    for value in up.ticks():
        at = py(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + inner[0]}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_words(left - 7, at + 4, "end", label(value)))
    for value in across.ticks():
        parts.append(_words(px(value), top + inner[1] + 17, "middle", label(value)))
    parts.append(_words(left + inner[0] / 2, HEIGHT - 7, "middle", x, "axis"))
    parts.append(_words(left, 12, "start", y, "axis"))
    if bound:
        parts += _bound(px(bound[0]), bound[1], rising)
    line = sorted((d for d in known if d.front), key=lambda d: (d.x, d.y if rising else -d.y))
    if len(line) > 1:
        parts.append(f'<polyline class="frontline" points="{" ".join(f"{px(d.x):.1f},{py(d.y):.1f}" for d in line)}"/>')
    for d in sorted(known, key=lambda d: (d.winner, d.front)):
        parts.append(_mark(groups.index(d.group), px(d.x), py(d.y), d))
    for d in known:
        if d.winner:
            anchor = "end" if px(d.x) > left + 0.7 * inner[0] else "start"
            away = -11 if anchor == "end" else 11
            parts.append(_words(px(d.x) + away, max(py(d.y) - 9, top + 10), anchor, "winner", "name"))
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where a value lies, in pixels from ``start`` over ``length``."""

    low: float
    high: float
    log: bool
    start: float
    length: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, length: float, *, log: bool = False) -> _Axis:
        """From zero to a little beyond the largest; logarithmic when asked for and they are far apart."""
        most, least = max(values, default=1.0), min(values, default=1.0)
        if log and least > 0 and most > _APART * least:
            return cls(math.log10(least / 1.25), math.log10(most * 1.25), True, start, length)
        return cls(0.0, (most if most > 0 else 1.0) * 1.08, False, start, length)

    def at(self, value: float) -> float:
        """Pixels."""
        place = math.log10(value) if self.log else value
        return self.start + (place - self.low) / (self.high - self.low) * self.length

    def ticks(self) -> list[float]:
        """Round values inside."""
        if not self.log:
            return nice_ticks(self.low, self.high, 5)
        steps = [m * 10.0**k for k in range(math.floor(self.low), math.ceil(self.high) + 1) for m in (1, 2, 5)]
        return [x for x in steps if self.low <= math.log10(x) <= self.high]


def _bound(at: float, words: str, rising: bool) -> list[str]:
    left, right, top, bottom = MARGINS
    height, end = HEIGHT - top - bottom, WIDTH - right
    start, width = (left, at - left) if rising else (at, end - at)
    anchor, off = ("start", 4) if at < (left + end) / 2 else ("end", -4)
    return [
        f'<rect class="broken" x="{start:.1f}" y="{top}" width="{max(width, 0):.1f}" height="{height}"/>',
        f'<line class="level" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}"/>',
        _words(at + off, top + height - 6 if rising else top + 12, anchor, words),
    ]


def _words(x: float, y: float, anchor: str, words: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _mark(group: int, x: float, y: float, dot: Dot) -> str:
    """A mark of its group: circle, square, diamond, triangles, bar. The pair of colour and mark repeats after 36."""
    r = _R * (1.7 if dot.winner else 1.0)
    faint = "" if dot.front or dot.winner else " faint"
    css = f'class="mark g{group % SHAPES}{faint}{" winner" if dot.winner else ""}"'
    kind = (group + group // SHAPES) % SHAPES
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


def standalone(charts: Sequence[tuple[str, str]], groups: Sequence[str]) -> str:
    """Pictures side by side in one SVG file that needs no page, light or dark as the reader's system is.

    Args:
        charts: caption and picture of :func:`front_chart`, each.
        groups: the key.
    """
    gap, head = 24, 26
    columns = max(1, len(charts))
    width = columns * WIDTH + (columns - 1) * gap
    per_row = max(1, width // 190)
    rows = -(-len(groups) // per_row)
    height = head + HEIGHT + 14 + 20 * rows
    colours = (
        ("ink", "#1b2330", "#e9edf3"),
        ("soft", "#5d6878", "#a3aebd"),
        ("line", "#dde2e9", "#303947"),
        ("page", "#ffffff", "#131820"),
        ("bad", "#b3261e", "#ff9a90"),
        ("g0", "#1f6fb4", "#6db3f2"),
        ("g1", "#c8660a", "#f2a65a"),
        ("g2", "#2f7d4f", "#74c795"),
        ("g3", "#8a3fb0", "#cf97ea"),
        ("g4", "#a8324a", "#f08a9c"),
        ("g5", "#5b6470", "#b3bcc8"),
    )
    light = "".join(f"--{name}:{a};" for name, a, _ in colours)
    dark = "".join(f"--{name}:{b};" for name, _, b in colours)
    style = f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{PALETTE}"
    style += "text{font-family:system-ui,sans-serif}.caption{font-size:15px;font-weight:600;fill:var(--ink)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<style>{style}</style><rect width="{width}" height="{height}" fill="var(--page)"/>',
    ]
    for i, (caption, chart) in enumerate(charts):
        x = i * (WIDTH + gap)
        parts.append(_words(x + 4, 17, "start", caption, "caption"))
        parts.append(chart.replace("<svg ", f'<svg x="{x}" y="{head}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    for i, group in enumerate(groups):
        x, y = 14 + (i % per_row) * 190, head + HEIGHT + 12 + 20 * (i // per_row)
        parts.append(_mark(i, x, y, Dot(0, 0, group, group, front=True)))
        parts.append(_words(x + 12, y + 4, "start", group))
    return "".join([*parts, "</svg>"]) + "\n"


def key(groups: Sequence[str]) -> str:
    """The key of a picture: mark and name of each group."""
    entries = []
    for i, group in enumerate(groups):
        mark = _mark(i, 8, 8, Dot(0, 0, group, group, front=True))
        entries.append(f'<span><svg viewBox="0 0 16 16" class="keymark">{mark}</svg>{escape(group)}</span>')
    return f'<p class="key">{"".join(entries)}</p>'
