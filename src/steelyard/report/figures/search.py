"""Figures of searches: fronts, how they grew, what every layer has, and predictors beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.exploration.allocation import UNITS
from steelyard.report import allocation as allocations
from steelyard.report import chip as chips
from steelyard.report import codesign as codesigns
from steelyard.report import search_cost as costs
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import (
    axis,
    bars,
    categories,
    colour,
    dots,
    far_apart,
    level,
    limit,
    line,
    named_rows,
    segments,
)
from steelyard.report.paper import figure
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.allocation import Allocation, Point
    from steelyard.exploration.codesign import Codesign
    from steelyard.exploration.networks import NetworkSearch
    from steelyard.exploration.predictors import Leaderboard
    from steelyard.exploration.search_cost import SearchCost
    from steelyard.search.chip import ChipSearch

__all__ = [
    "allocation_figures",
    "chip_figures",
    "codesign_figures",
    "cost_figures",
    "network_figures",
    "predictor_figures",
]

#: Layers that are drawn at most.
_LAYERS = 200


def _tone(i: int) -> dict[str, Any]:
    return {"lineStyle": {"color": colour(i)}, "itemStyle": {"color": colour(i)}}


def network_figures(found: NetworkSearch) -> list[Figure]:
    """The front of score and time, and how the front grew while a solver looked for it."""
    drawn = [_network_front(found)]
    if len(found.history) > 1:
        drawn.append(_history(found.history))
    return drawn


def _network_front(found: NetworkSearch) -> Figure:
    series = []
    for d, device in enumerate(found.devices):
        order = np.argsort(found.latency_s[:, d], kind="stable")
        words = [
            f"{found.architectures[i]}\n{found.score_name} {figure(float(found.score[i]))}, "
            f"{q(float(found.latency_s[i, d]), 's')} on {device}"
            for i in order
        ]
        series.append(line(device, found.latency_s[order, d], found.score[order], words=words, **_tone(d)))
    marks = [
        limit(x=v, words=f"{n.removeprefix('latency_s.')} {q(v, 's')}")
        for n, v in found.limits.items()
        if n.startswith("latency_s.")
    ]
    if marks:
        series[0] |= level(marks)
    times = found.latency_s.ravel().tolist()
    fast = int(np.argmin(found.latency_s[:, 0]))
    says = (
        f"{len(found)} networks on the front, from {figure(float(found.score[fast]))} in "
        f"{q(float(found.latency_s[fast, 0]), 's')} to {figure(float(found.score[0]))} in "
        f"{q(float(found.latency_s[0, 0]), 's')} on {found.devices[0]}"
        f"{', a proxy and no accuracy' if found.proxy else ''}."
    )
    option = {
        "height": 300,
        "trigger": "item",
        "xAxis": axis("latency", "s", log=far_apart(times), zero=False),
        "yAxis": axis(found.score_name, "", zero=False),
        "series": series,
    }
    heads = ("architecture", found.score_name, *(f"{d}, s" for d in found.devices))
    rows = tuple(
        (a, float(s), *map(float, t)) for a, s, t in zip(found.architectures, found.score, found.latency_s, strict=True)
    )
    return Figure("front", "Front of score and time", says, option, heads, rows)


def _history(history: tuple[tuple[int, float], ...]) -> Figure:
    """The volume below the front over the points that were tried."""
    tried, volume = [n for n, _ in history], [100 * v for _, v in history]
    near = next((n for n, v in history if v >= 0.99), tried[-1])
    option = {
        "height": 220,
        "trigger": "axis",
        "xAxis": axis("tried", ""),
        "yAxis": axis("", "%", max=100),
        "series": [line("hypervolume", tried, volume, step="end", **_tone(0))],
    }
    says = f"After {near:,} of {tried[-1]:,} points the front had 99 % of the hypervolume that it ended with."
    return Figure("history", "How the front grew", says, option, ("tried", "hypervolume"), history)


def allocation_figures(found: Allocation) -> list[Figure]:
    """The front beside one choice for all layers, and what every layer has in its first point."""
    return [_allocation_front(found), _layers(found)]


def _said(found: Allocation, p: Point) -> str:
    return ", ".join(
        f"{allocations.NAMES[n]} {allocations.shown(n, p.figures[n])}" for n in allocations.figures_shown(found)
    )


def _allocation_front(found: Allocation) -> Figure:
    x, y = found.axis, found.goal
    names = allocations.NAMES
    front = sorted(found.front, key=lambda p: p.figures[x])
    words = [_said(found, p) for p in front]
    series = [
        line("layer by layer", [p.figures[x] for p in front], [p.figures[y] for p in front], words=words, **_tone(0))
    ]
    if found.alike:
        told = [f"all {n}\n{_said(found, p)}" for n, p in found.alike.items()]
        points = list(found.alike.values())
        shown: dict[str, Any] = {"words": told, "symbolSize": 11, "itemStyle": {"color": colour(1)}}
        series.append(dots("one for all", [p.figures[x] for p in points], [p.figures[y] for p in points], **shown))
    if x in found.limits:
        series[0] |= level([limit(x=found.limits[x], words="limit")])
    option = {
        "height": 300,
        "trigger": "item",
        "xAxis": axis(names[x], UNITS[x].replace("1", ""), zero=False),
        "yAxis": axis(names[y], UNITS[y].replace("1", ""), zero=False),
        "series": series,
    }
    says = f"{len(front)} optima of {names[y]} at limits of {names[x]}; the first has {_said(found, found.best)}."
    heads = ("", *found.task.measures)
    rows = (
        *(("layer by layer", *p.figures.values()) for p in front),
        *((f"all {n}", *p.figures.values()) for n, p in found.alike.items()),
    )
    return Figure("front", f"{names[y].capitalize()} over {names[x]}", says, option, heads, tuple(rows))


def _layers(found: Allocation) -> Figure:
    """A bar for every layer: which of its choices it has, in the order of the choices."""
    best = dict(list(found.best.chosen.items())[:_LAYERS])
    order = list(dict.fromkeys(c for row in found.task.choices for c in row))
    series = [
        bars(
            choice,
            [order.index(choice) + 1 if c == choice else None for c in best.values()],
            words=[f"{n}: {c}" for n, c in best.items()],
            stack="layers",
            itemStyle={"color": colour(i)},
        )
        for i, choice in enumerate(order)
        if choice in best.values()
    ]
    counts = {c: sum(v == c for v in found.best.chosen.values()) for c in order}
    says = f"{', '.join(f'{n} layers {c}' for c, n in counts.items() if n)} in the first point."
    option = {
        "height": 240,
        "trigger": "item",
        "xAxis": categories(list(best), axisLabel={"show": False}),
        "yAxis": categories(["", *order]),
        "series": series,
    }
    title = f"{allocations.WORDS[found.task.kind].capitalize()} of every layer"
    return Figure("layers", title, says, option, ("layer", "has"), tuple(found.best.chosen.items()))


def _sizes(areas: Sequence[float]) -> list[float]:
    """How large the dots of chips are drawn, by their silicon."""
    most = max(areas, default=0.0) or 1.0
    return [6 + 18 * (area / most) ** 0.5 for area in areas]


def chip_figures(found: ChipSearch) -> list[Figure]:
    """Time and energy of the chips of the front, dots as large as their silicon."""
    times, joules = (list(x) for x in zip(*(chips.together(found, p) for p in found.front), strict=True))
    words = [chips.words_of(found, p) for p in found.front]
    points = dots("chips", times, joules, words=words, itemStyle={"color": colour(0), "opacity": 0.7})
    for point, size in zip(points["data"], _sizes([p.area_m2 for p in found.front]), strict=True):
        point["symbolSize"] = size
    least = chips.together(found, found.best["product"])
    option = {
        "height": 320,
        "trigger": "item",
        "xAxis": axis("time", "s", log=far_apart(times), zero=False),
        "yAxis": axis("energy", "J", log=far_apart(joules), zero=False),
        "series": [points],
    }
    says = (
        f"{found.front_size:,} of {found.points:,} chips are on the {chips.front_words(found)}; "
        f"least time x energy has {q(least[0], 's')} and {q(least[1], 'J')}."
    )
    rows = tuple(
        (w.replace("\n", ", "), t, j, p.area_m2, p.power_w)
        for w, t, j, p in zip(words, times, joules, found.front, strict=True)
    )
    heads = ("chip", "time, s", "energy, J", "area, m2", "power, W")
    return [Figure("front", "Chips of the front", says, option, heads, rows)]


def codesign_figures(found: Codesign) -> list[Figure]:
    """Score and time of the pairs of the front by number format, dots as large as the silicon; how a front grew."""
    name, front = codesigns.score_name(found), found.front
    sizes = _sizes([p.chip.area_m2 for p in front])
    times = [chips.together(found, p.chip)[0] for p in front]
    words = [f"{p.architecture}\n{name} {figure(p.score)}, {chips.words_of(found, p.chip)}" for p in front]
    series = []
    for i, form in enumerate(found.space.formats):
        at = [k for k, p in enumerate(front) if p.chip.chosen.get("precision", form) == form]
        told: dict[str, Any] = {"words": [words[k] for k in at], "itemStyle": {"color": colour(i), "opacity": 0.7}}
        series.append(dots(form, [times[k] for k in at], [front[k].score for k in at], **told))
        for point, k in zip(series[-1]["data"], at, strict=True):
            point["symbolSize"] = sizes[k]
    option = {
        "height": 320,
        "trigger": "item",
        "xAxis": axis("time", "s", log=far_apart(times), zero=False),
        "yAxis": axis(name, "", zero=False),
        "series": series,
    }
    best, fast = found.best["score"], min(front, key=lambda p: chips.together(found, p.chip)[0])
    says = (
        f"{found.front_size:,} pairs are on the {chips.front_words(found, 'score')}, from {figure(fast.score)} in "
        f"{q(chips.together(found, fast.chip)[0], 's')} to {figure(best.score)} in "
        f"{q(chips.together(found, best.chip)[0], 's')}."
    )
    heads = ("network and chip", name, "time, s", "energy, J", "area, m2", "power, W")
    rows = tuple(
        (w.replace("\n", ", "), p.score, t, chips.together(found, p.chip)[1], p.chip.area_m2, p.chip.power_w)
        for w, t, p in zip(words, times, front, strict=True)
    )
    drawn = [Figure("front", "Networks on chips", says, option, heads, rows)]
    return [*drawn, _history(found.history)] if len(found.history) > 1 else drawn


def cost_figures(found: SearchCost) -> list[Figure]:
    """Device-days of each way to rate candidates, with what they are spent on."""
    names, spent = [w.name for w in found.ways], [w.device_days["p50"] for w in found.ways]
    words = [f"{w.name}: {costs.days(w)} device-days\n{costs.parts_words(w)}" for w in found.ways]
    ends = [(w.device_days["p10"], i, w.device_days["p90"], i) for i, w in enumerate(found.ways)]
    option = {
        "height": 36 * len(names) + 52,
        "trigger": "item",
        "xAxis": axis("device-days", "", log=far_apart(spent)),
        "yAxis": named_rows(names),
        "series": [
            segments("80 % interval", ends, **_tone(1)),
            dots("device-days", spent, range(len(names)), words=words, itemStyle={"color": colour(0)}),
        ],
    }
    rows = tuple((w.name, *w.device_days.values(), w.about) for w in found.ways)
    heads = ("way", "10 %", "50 %", "90 %", "what is done")
    says = "; ".join(f"{w.name}: {costs.days(w)} device-days" for w in found.ways) + "."
    return [Figure("ways", "What the search costs", says, option, heads, rows)]


def predictor_figures(found: Leaderboard) -> list[Figure]:
    """What was measured beside what the best predictor says of each network from the others, and every predictor."""
    words = [f"{a}\nmeasured {q(m, 's')}, predicted {q(p, 's')}" for a, m, p in found.rows]
    measured, predicted = [m for _, m, _ in found.rows], [p for _, _, p in found.rows]
    low, high = min(measured + predicted), max(measured + predicted)
    same = line("equal", [low, high], [low, high], silent=True, symbol="none")
    same |= {"lineStyle": {"color": "--soft", "type": "dashed"}, "itemStyle": {"color": "--soft"}}
    option = {
        "height": 300,
        "trigger": "item",
        "xAxis": axis("measured", "s", zero=False),
        "yAxis": axis("predicted", "s", zero=False),
        "series": [dots(found.best.name, measured, predicted, words=words, itemStyle={"color": colour(0)}), same],
    }
    says = f"{found.best.name}: {found.best.median_ape:.1f} % in the median, each network predicted from the others."
    first = Figure(
        "predicted", "Predicted and measured", says, option, ("architecture", "measured, s", "predicted, s"), found.rows
    )
    names = [s.name for s in found.scored]
    told = [f"{s.name}: {s.median_ape:.1f} %, rank {s.rank:.2f}" for s in found.scored]
    board = {
        "height": 28 * len(names) + 52,
        "trigger": "item",
        "xAxis": axis("median error", "%"),
        "yAxis": categories(names, down=True),
        "series": [
            bars("median error", [s.median_ape for s in found.scored], words=told, itemStyle={"color": colour(0)})
        ],
    }
    rows = tuple((s.name, s.median_ape, s.rank, s.inside) for s in found.scored)
    heads = ("predictor", "median error, %", "rank", "inside the 80 % interval")
    return [first, Figure("board", "Predictors", "; ".join(told) + ".", board, heads, rows)]
