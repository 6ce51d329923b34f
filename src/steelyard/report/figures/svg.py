"""Figures as one static SVG file, for places that run no script: READMEs, launch folders, notebooks.

Draws what options of :mod:`steelyard.report.figures.options` hold: lines, dots, bars and marks over axes of numbers,
logarithms and names. Light or dark as the reader's system is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np

from steelyard.report.figures.figure import Figure, asset
from steelyard.report.figures.options import colour
from steelyard.report.figures.scale import Scale, tick_label

__all__ = ["picture", "svg_of"]

#: Room around a plot: left, right, top, bottom, pixels; height of a line of the key and of a title.
LEFT, RIGHT, TOP, BOTTOM, KEY, TITLE = 62, 18, 18, 26, 20, 26
#: Widths of a letter, pixels: of ticks and of keys.
_LETTER = 6.3
_ROOT = '<svg xmlns="http://www.w3.org/2000/svg" class="steelyard"'
#: Letters of a name of a row at most.
_NAME = 34


def picture(figures: Sequence[Figure], *, across: int = 1, width: int = 760) -> str:
    """Figures in one SVG file that needs no page.

    Args:
        figures: what is drawn, in rows of ``across``.
        across: figures beside each other.
        width: of each, pixels.
    """
    drawn = [_drawn(f, width) for f in figures]
    gap, parts, y = 28, [], 0
    for start in range(0, len(drawn), across):
        row = drawn[start : start + across]
        parts += [f'<g transform="translate({i * (width + gap)} {y})">{body}</g>' for i, (body, _) in enumerate(row)]
        y += max(height for _, height in row) + gap
    whole = min(across, max(len(drawn), 1)) * (width + gap) - gap
    tall = max(y - gap, 1)
    head = f'{_ROOT} viewBox="0 0 {whole} {tall}" width="{whole}" height="{tall}">'
    back = f'<rect width="{whole}" height="{tall}" fill="var(--page)"/>'
    return "".join([head, f"<style>{_style()}</style>", back, *parts, "</svg>\n"])


def svg_of(figure: Figure, width: int = 760) -> str:
    """One figure as an ``svg`` element of its own, with the colours inside it."""
    body, height = _drawn(figure, width)
    words = escape(f"{figure.title}. {figure.says}")
    head = f'{_ROOT} viewBox="0 0 {width} {height}" role="img" aria-label="{words}"'
    return f'{head} style="max-width:{width}px;width:100%;height:auto"><style>{_style()}</style>{body}</svg>'


def _style() -> str:
    """The colours of the stylesheet, and how text is set."""
    colours = re.findall(r":root\{[^}]*\}", asset("figures.css").read_text(encoding="utf-8"))[:2]
    light, dark = (c.replace(":root", ".steelyard") for c in colours)
    return (
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
        ".steelyard text{font:12px system-ui,sans-serif;fill:var(--soft)}"
        ".steelyard .title{font-weight:600;font-size:14px;fill:var(--ink)}"
        ".steelyard .name{fill:var(--ink)}"
        ".steelyard .halo{paint-order:stroke;stroke:var(--page);stroke-width:3px}"
    )


def _text(x: float, y: float, words: str, anchor: str = "start", css: str = "", style: str = "") -> str:
    kind = (f' class="{css}"' if css else "") + (f' style="{style}"' if style else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _paint(token: str | None, usual: str) -> str:
    found = token or usual
    return "none" if found == "transparent" else f"var({found})" if found.startswith("--") else found


def _tone(series: dict[str, Any], i: int) -> tuple[str, float]:
    """Colour and opacity of a series."""
    of_line, of_items = series.get("lineStyle", {}), series.get("itemStyle", {})
    look = {**of_items, **of_line} if series["type"] == "line" else {**of_line, **of_items}
    return _paint(look.get("color"), colour(i)), float(look.get("opacity", 1.0))


def _drawn(figure: Figure, width: int) -> tuple[str, int]:
    """The picture as elements, and its height."""
    option = figure.option
    parts = [f'<text class="title" x="8" y="16">{escape(figure.title)}</text>']
    y = TITLE
    for row in wrap(figure.says, int((width - 16) / 6.4)):
        parts.append(_text(8, y + 8, row))
        y += 16
    y += 4
    keys = _keys(option["series"])
    if len(keys) > 1:
        x = 8.0
        for name, paint, opacity in keys:
            wide = len(name) * _LETTER + 34
            if x + wide > width and x > 8:
                x, y = 8.0, y + KEY
            parts.append(
                f'<rect x="{x:.0f}" y="{y + 2}" width="11" height="9" rx="2" fill="{paint}" opacity="{opacity:g}"/>'
            )
            parts.append(f'<text class="name" x="{x + 16:.0f}" y="{y + 11}">{escape(name)}</text>')
            x += wide
        y += KEY
    height = int(option.get("height", 240))
    grids = _list(option.get("grid")) or [{}]
    for title in _list(option.get("title")):
        parts.append(
            f'<text class="name" x="{title.get("left", 8)}" y="{y + title["top"] + 12}">{escape(title["text"])}</text>'
        )
    for i, grid in enumerate(grids):
        parts += _plot(option, i, grid, width, y, height)
    return "".join(parts), y + height


def _keys(series: Sequence[dict[str, Any]]) -> list[tuple[str, str, float]]:
    found: dict[str, tuple[str, str, float]] = {}
    for i, s in enumerate(series):
        if s.get("name") and not s.get("unnamed"):
            paint, opacity = _tone(s, i)
            if paint == "none":
                paint, opacity = "var(--line)", 1.0
            found.setdefault(s["name"], (s["name"], paint, opacity))
    return list(found.values())


def _of(value: Any, which: int) -> dict[str, Any]:
    found: dict[str, Any] = _list(value)[which]
    return found


def _plot(option: dict[str, Any], which: int, grid: dict[str, Any], width: int, y: int, height: int) -> list[str]:
    """One pair of axes with its series."""
    across, up = _of(option["xAxis"], which), _of(option["yAxis"], which)
    series = [(i, s) for i, s in enumerate(option["series"]) if s.get("xAxisIndex", 0) == which]
    names = up.get("data") or (up.get("axisLabel", {}).get("formatter") or {}).get("names")
    marks = [m for _, s in series for m in s.get("markLine", {}).get("data", [])]
    upright = any("xAxis" in m for m in marks)
    left = LEFT if up.get("show", True) else 8
    if names:
        left = int(min(max((len(n) for n in names), default=0), _NAME) * _LETTER) + 18
    top = y + (grid["top"] if "top" in grid else TOP + (14 if upright else 0) + (6 if up.get("name") else 0))
    base = top + grid["height"] if "height" in grid else y + height - BOTTOM - (16 if across.get("name") else 0)
    x_values = [p for _, s in series for p in _values(s, 0, names)]
    sums = _sums([s for _, s in series])
    x_scale = _scale(across, [*sums, *x_values] if names else x_values, marks, "xAxis", left, width - RIGHT)
    ends = (top, base) if up.get("inverse") else (base, top)
    y_values = [p for _, s in series for p in _values(s, 1, names)]
    y_scale = _scale(up, y_values if names else [*sums, *y_values], marks, "yAxis", *ends)
    parts = _axes(across, up, x_scale, y_scale, names, (left, width - RIGHT, top, base), upright)
    stacks: dict[Any, Any] = {}
    for i, s in sorted(series, key=lambda pair: pair[1]["type"] == "scatter"):
        parts += _series(s, _tone(s, i), x_scale, y_scale, stacks, names, base)
    for mark in marks:
        parts.append(_mark(mark, x_scale, y_scale, (left, width - RIGHT, top, base)))
    return parts


def _sums(series: Sequence[dict[str, Any]]) -> list[float]:
    """What stacked bars add up to."""
    found: dict[Any, float] = {}
    for s in series:
        if s["type"] == "bar" and s.get("stack"):
            for i, item in enumerate(s["data"]):
                value = _number(item["value"] if isinstance(item, dict) else item)
                found[s["stack"], i] = found.get((s["stack"], i), 0.0) + (value if math.isfinite(value) else 0.0)
    return list(found.values())


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _values(series: dict[str, Any], at: int, names: Any) -> list[float]:
    """What the axis of a series must hold."""
    found = []
    for i, item in enumerate(series["data"]):
        value = item["value"] if isinstance(item, dict) else item
        if series["type"] == "bar" or not isinstance(value, list):
            pair = (value, i) if names else (i, value)
            found.append(_number(pair[at]))
        else:
            found.append(_number(value[at]))
    return found


def _scale(
    axis: dict[str, Any], values: Sequence[float], marks: Sequence[Any], key: str, start: float, end: float
) -> Scale:
    if axis["type"] == "category":
        count = max(len(axis["data"]), 1)
        return Scale(-0.5, count - 0.5, start, end)
    every = [v for v in values if math.isfinite(v)] + [float(m[key]) for m in marks if key in m]
    log = axis["type"] == "log"
    low, high = axis.get("min"), axis.get("max")
    if low is not None and high is not None:
        return Scale(float(low), float(high), start, end, log)
    made = Scale.over(every, start, end, zero=not axis.get("scale", False), log=log)
    return Scale(made.low if low is None else float(low), made.high if high is None else float(high), start, end, log)


def _axes(
    across: dict[str, Any],
    up: dict[str, Any],
    x: Scale,
    y: Scale,
    names: Any,
    box: tuple[float, float, float, float],
    crowded: bool,
) -> list[str]:
    left, right, top, base = box
    parts: list[str] = []
    ticks: list[tuple[float, str]]
    if across["type"] == "category":
        room = max(int((right - left) / max(len(across["data"]), 1) / _LETTER), 3)
        ticks = [
            (float(i), n if len(n) <= room else n[: room - 1] + "…") for i, n in enumerate(map(str, across["data"]))
        ]
    else:
        unit = across.get("axisLabel", {}).get("formatter", {}).get("unit", "")
        ticks = [(v, tick_label(v, unit)) for v in x.ticks(6)]
    free = -math.inf
    for value, label in ticks:
        at = float(x.at(value))
        if across["type"] != "category":
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{base:.1f}" stroke="var(--line)"/>')
        if at - len(label) * _LETTER / 2 > free and at < right + 4:
            anchor = "end" if at > right - 14 else "middle"
            parts.append(_text(min(at, right + 8), base + 16, label, anchor))
            free = at + len(label) * _LETTER / 2 + 6
    if across.get("name"):
        parts.append(_text((left + right) / 2, base + 34, across["name"], "middle"))
    if names:
        for i, name in enumerate(names):
            short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
            parts.append(_text(left - 8, float(y.at(i)) + 4, short, "end", "name"))
    elif up.get("show", True):
        unit = up.get("axisLabel", {}).get("formatter", {}).get("unit", "")
        for value in y.ticks(5):
            at = float(y.at(value))
            parts.append(f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--line)"/>')
            parts.append(_text(left - 6, at + 4, tick_label(value, unit), "end"))
    if up.get("name"):
        parts.append(_text(8, top - (24 if crowded else 10), up["name"]))
    return parts


def _series(
    s: dict[str, Any], tone: tuple[str, float], x: Scale, y: Scale, stacks: dict[Any, Any], names: Any, base: float
) -> list[str]:
    paint, opacity = tone
    if s["type"] == "bar":
        return _bars(s, tone, x, y, stacks, names)
    px, py = _values(s, 0, names), _values(s, 1, names)
    floor = None
    if s.get("stack") and s["type"] == "line":
        key = s["stack"]
        under = stacks.get(key, np.zeros(len(py)))
        floor = np.asarray(y.at(under))
        py = (np.asarray(py) + under).tolist()
        stacks[key] = np.asarray(py)
    at_x, at_y = np.asarray(x.at(np.asarray(px))), np.asarray(y.at(np.asarray(py)))
    good = np.isfinite(at_x) & np.isfinite(at_y)
    parts: list[str] = []
    labels: list[str] = []
    if s["type"] == "scatter":
        for i in np.flatnonzero(good).tolist():
            item = s["data"][i] if isinstance(s["data"][i], dict) else {}
            size = float(item.get("symbolSize", s.get("symbolSize", 7)))
            own = {**s.get("itemStyle", {}), **item.get("itemStyle", {})}
            fill, border = _paint(own.get("color"), paint), _paint(own.get("borderColor"), "transparent")
            fill = paint if own.get("color") is None else fill
            title = f"<title>{escape(item['words'])}</title>" if item.get("words") else ""
            if size >= 1:
                parts.append(
                    f'<circle cx="{at_x[i]:.1f}" cy="{at_y[i]:.1f}" r="{size / 2:g}" fill="{fill}" stroke="{border}" '
                    f'stroke-width="{own.get("borderWidth", 0):g}" opacity="{own.get("opacity", opacity):g}">'
                    f"{title}</circle>"
                )
            label = item.get("label")
            if label and label.get("show"):
                inside = size < 1
                lift = -4 if inside else size / 2 + 5
                look = "font-size:10px;fill:var(--page)" if inside else ""
                css = "" if inside else "name halo"
                labels.append(_text(at_x[i], at_y[i] - lift, label["formatter"], "middle", css, look))
        return [*parts, *labels]
    pieces, at = [], 0
    while at < len(good):
        end = at
        while end < len(good) and good[end]:
            end += 1
        if end > at:
            pieces.append(list(zip(at_x[at:end].tolist(), at_y[at:end].tolist(), strict=True)))
        at = end + 1
    style = s.get("lineStyle", {})
    if s.get("step") == "end":
        pieces = [
            [q for i, p in enumerate(part) for q in ([(p[0], part[i - 1][1]), p] if i else [p])] for part in pieces
        ]
    if area := s.get("areaStyle"):
        fill = _paint(area.get("color"), "") if area.get("color") else paint
        for part in pieces:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in part)
            below = f"L{part[-1][0]:.1f} {base:.1f}L{part[0][0]:.1f} {base:.1f}"
            if floor is not None and len(pieces) == 1:
                below = "".join(f"L{a:.1f} {b:.1f}" for a, b in zip(at_x[::-1], floor[::-1], strict=True))
            parts.append(f'<path d="M{path}{below}z" fill="{fill}" opacity="{area.get("opacity", 0.2):g}"/>')
    wide = float(style.get("width", 1.8))
    if wide:
        path = "".join("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in part) for part in pieces)
        dashed = ' stroke-dasharray="5 4"' if style.get("type") == "dashed" else ""
        parts.append(
            f'<path d="{path}" fill="none" stroke="{paint}" stroke-width="{wide:g}" opacity="{opacity:g}"{dashed}/>'
        )
    if s.get("showSymbol"):
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{paint}"/>' for part in pieces for a, b in part]
    return parts


def _bars(
    s: dict[str, Any], tone: tuple[str, float], x: Scale, y: Scale, stacks: dict[Any, Any], names: Any
) -> list[str]:
    paint, opacity = tone
    parts = []
    along, place = (x, y) if names else (y, x)
    room = abs(float(place.at(1)) - float(place.at(0)))
    thick = min(float(s.get("barWidth", s.get("barMaxWidth", 0.7 * room))), 0.8 * room)
    for i, item in enumerate(s["data"]):
        value = _number(item["value"] if isinstance(item, dict) else item)
        if not math.isfinite(value):
            continue
        key = (s.get("stack"), i)
        start = stacks.get(key, 0.0) if s.get("stack") else 0.0
        if s.get("stack"):
            stacks[key] = start + value
        a, b = (float(along.at(v)) for v in (start, start + value))
        middle = float(place.at(i))
        own = {**s.get("itemStyle", {}), **(item.get("itemStyle", {}) if isinstance(item, dict) else {})}
        fill = _paint(own.get("color"), "") if own.get("color") else paint
        border = _paint(own.get("borderColor"), "transparent")
        box = (
            (min(a, b), middle - thick / 2, abs(b - a), thick)
            if names
            else (middle - thick / 2, min(a, b), thick, abs(b - a))
        )
        dashed = ' stroke-dasharray="4 3"' if own.get("borderType") == "dashed" else ""
        parts.append(
            f'<rect x="{box[0]:.1f}" y="{box[1]:.1f}" width="{box[2]:.1f}" height="{box[3]:.1f}" fill="{fill}" '
            f'stroke="{border}" opacity="{own.get("opacity", opacity):g}"{dashed}/>'
        )
        label = item.get("label") if isinstance(item, dict) else None
        if label and label.get("show") and names:
            parts.append(
                f'<text class="name" x="{max(a, b) + 6:.1f}" y="{middle + 4:.1f}">{escape(label["formatter"])}</text>'
            )
    return parts


def _mark(mark: dict[str, Any], x: Scale, y: Scale, box: tuple[float, float, float, float]) -> str:
    left, right, top, base = box
    paint = _paint(mark["lineStyle"]["color"], "--bad")
    words, look = mark.get("name", ""), f"fill:{paint};font-size:11px"
    if "xAxis" in mark:
        at = float(x.at(mark["xAxis"]))
        wide = len(words) * _LETTER / 2
        anchor = "start" if at - wide < left - 20 else "end" if at + wide > right + 14 else "middle"
        anchor = {"left": "start", "right": "end"}.get(mark["label"].get("align", ""), anchor)
        place = f'x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{base:.1f}"'
        text = _text(at, top - 4, words, anchor, "", look)
    else:
        at = float(y.at(mark["yAxis"]))
        place = f'x1="{left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"'
        text = _text(right - 4, at - 4, words, "end", "halo", look)
    return f'<line {place} stroke="{paint}" stroke-dasharray="5 4"/>{text}'
