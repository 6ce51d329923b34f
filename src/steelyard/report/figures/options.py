"""Pieces that options of figures are made of: axes, lines, dots, bars, intervals. Everything else is in figures.js."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "axis",
    "band",
    "bars",
    "categories",
    "colour",
    "dots",
    "far_apart",
    "level",
    "limit",
    "line",
    "named_rows",
    "segments",
    "shape",
]

#: Colours of the stylesheet that tell series apart.
COLOURS = 6
#: Shapes of dots, each of which takes all colours in turn.
_SHAPES = ("circle", "rect", "diamond", "triangle", "roundRect", "arrow")
#: Points of a line at most.
POINTS = 400
#: An axis that may be logarithmic is so when its values are more than this many times apart.
_LOG_FROM = 20.0


def colour(i: int) -> str:
    """Colour ``i`` of the stylesheet; after the last the first again."""
    return f"--c{i % COLOURS}"


def shape(i: int) -> str:
    """Shape of the dots of group ``i``: another one each time the colours begin again."""
    return _SHAPES[i // COLOURS % len(_SHAPES)]


def far_apart(values: Sequence[float]) -> bool:
    """Whether positive values are so far apart that their axis is logarithmic."""
    return min(values) > 0 and max(values) / min(values) > _LOG_FROM


def axis(name: str = "", unit: str = "", *, log: bool = False, zero: bool = True, **more: Any) -> dict[str, Any]:
    """An axis of numbers.

    Args:
        name: what it shows.
        unit: written at its ticks: ``s``, ``B``, ``%``, ... (figures.js has the list), or any word.
        log: logarithmic.
        zero: begins at 0, where it is linear.
        more: of an axis of ECharts: ``min``, ``max``, ...
    """
    kind: dict[str, Any] = {"type": "log"} if log else {"type": "value", "scale": not zero}
    if unit == "%" and more.get("max") == 100 and not log and zero:
        kind["interval"] = 25
    return {**kind, "name": name, "axisLabel": {"formatter": {"unit": unit}}, **more}


def categories(names: Sequence[str], name: str = "", *, down: bool = False, **more: Any) -> dict[str, Any]:
    """An axis of names; ``down``: the first one on top."""
    return {"type": "category", "data": list(names), "name": name, **({"inverse": True} if down else {}), **more}


def named_rows(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """A vertical axis of rows ``0, 1, 2, ...`` with their names, the first on top, on which things may lie between."""
    label = {"formatter": {"names": list(names)}, "customValues": list(range(len(names)))}
    ends = {"min": -0.5, "max": len(names) - 0.5, "inverse": True}
    return {"type": "value", **ends, "splitLine": {"show": False}, "axisLabel": label, **more}


def line(name: str, x: Any, y: Any, *, words: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A line; a value that is not finite breaks it. ``words``: what each point says under the pointer."""
    points = _points(x, y)
    data: list[Any] = points if not words else [{"value": p, "words": w} for p, w in zip(points, words, strict=True)]
    return {"type": "line", "name": name, "data": data, "showSymbol": bool(words), **more}


def dots(name: str, x: Any, y: Any, *, words: Sequence[str] = (), sizes: Any = None, **more: Any) -> dict[str, Any]:
    """Dots, each with its words and its size in pixels."""
    data: list[Any] = [{"value": p} for p in _points(x, y)]
    for i, text in enumerate(words):
        data[i]["words"] = text
    if sizes is not None:
        for item, size in zip(data, np.asarray(sizes, dtype=np.float64).tolist(), strict=True):
            item["symbolSize"] = round(size, 1)
    return {"type": "scatter", "name": name, "data": data, **more}


def bars(name: str, values: Iterable[Any], *, words: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Bars, one per category."""
    found = [None if v is None or not np.isfinite(v) else float(v) for v in values]
    data: list[Any] = [{"value": v, "words": w} for v, w in zip(found, words, strict=True)] if words else list(found)
    return {"type": "bar", "name": name, "data": data, **more}


def segments(name: str, ends: Iterable[Sequence[float]], *, width: float = 3, **more: Any) -> dict[str, Any]:
    """Separate strokes ``(x0, y0, x1, y1)``: intervals, and the passes of a timeline.

    Args:
        name: of all of them.
        ends: of each.
        width: pixels.
        more: of a line of ECharts.
    """
    data: list[list[Any]] = []
    for x0, y0, x1, y1 in ends:
        data += [[x0, y0], [x1, y1], [None, None]]
    style = {"width": width, "cap": "butt", **more.pop("lineStyle", {})}
    return {"type": "line", "name": name, "data": data, "showSymbol": False, "lineStyle": style, **more}


def band(name: str, x: Any, low: Any, high: Any, **more: Any) -> list[dict[str, Any]]:
    """The room between two lines: two series that are stacked."""
    x, low, high = (np.asarray(v, dtype=np.float64) for v in (x, low, high))
    plain: dict[str, Any] = {"silent": True, "lineStyle": {"width": 0}, "stack": f"band {name}", "stackStrategy": "all"}
    area: dict[str, Any] = {"areaStyle": {"opacity": 0.18}, **more}
    return [
        line(f"{name}, lower end", x, low, **plain, unnamed=True),
        line(name, x, high - low, **plain, **area),
    ]


def limit(*, x: float | None = None, y: float | None = None, words: str = "", tone: str = "--bad") -> dict[str, Any]:
    """A dashed line across, with its words at the end: an entry of ``markLine.data``."""
    place = {"xAxis": x} if x is not None else {"yAxis": y}
    return {**place, "name": words, "tone": tone}


def level(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Dashed lines of :func:`limit` of a series."""
    data = [
        {
            **{k: v for k, v in e.items() if k not in ("tone", "align")},
            "lineStyle": {"color": e["tone"]},
            "label": {"formatter": e["name"], "color": e["tone"]} | ({"align": e["align"]} if "align" in e else {}),
        }
        for e in entries
    ]
    return {"markLine": {"data": data, "symbol": "none", "silent": True}}


def _points(x: Any, y: Any) -> list[list[Any]]:
    a, b = (np.asarray(v, dtype=np.float64) for v in (x, y))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return [
            [float(f"{u:.6g}"), float(f"{v:.6g}")] if np.isfinite(u) and np.isfinite(v) else [None, None]
            for u, v in zip(a.tolist(), b.tolist(), strict=True)
        ]
    return [[float(f"{u:.6g}"), float(f"{v:.6g}")] for u, v in zip(a.tolist(), b.tolist(), strict=True)]
