"""Figures of a study: Pareto fronts, how much each axis changes an objective, and its values over each axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import COLOURS, axis, bars, categories, colour, dots, far_apart, line
from steelyard.report.paper import spread
from steelyard.report.study_text import heading, quantity
from steelyard.studies.findings import Findings
from steelyard.studies.store_columns import columns_of
from steelyard.studies.study import Objective
from steelyard.studies.table import Row

__all__ = ["colour_axis", "effect_figures", "front_figures", "known", "outline", "study_figures", "thinned"]

#: Dots of a scatter at most; more are thinned evenly.
DOTS = 3000
#: Values of an axis drawn at most.
_VALUES = 40


def study_figures(findings: Findings) -> list[Figure]:
    """Fronts, then what each axis does."""
    return [*front_figures(findings), *effect_figures(findings)]


def known(findings: Findings) -> list[Objective]:
    """The objectives of which any point has a value."""
    return [o for o in findings.objectives if any(r.values.get(o.metric) is not None for r in findings.answered)]


def colour_axis(findings: Findings) -> str:
    """The axis points are coloured by: one of few values, machines and cases first."""
    few = [n for n, values in findings.axes.items() if 2 <= len(values) <= COLOURS]
    return next((n for n in ("case", "on", "model", "engine", "policy", "weights", *few) if n in few), "")


def thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """Every so many-th row, at most ``most``."""
    step = max(1, -(-len(rows) // most))
    return list(rows[::step])


def front_figures(findings: Findings) -> list[Figure]:
    """A scatter per pair of the first objective and another, coloured by the axis with the fewest values."""
    asked, found = known(findings), []
    by = colour_axis(findings)
    groups = [str(v) for v in findings.axes[by]] if by else ["points"]
    for other in asked[1:]:
        pair = (asked[0], other)
        every = [p for r in thinned(findings.answered, DOTS) if (p := _point(findings, r, pair, by)) is not None]
        front = [p for r in findings.front if (p := _point(findings, r, pair, by)) is not None]
        if every:
            found.append(_scatter(findings, pair, every, front, groups, len(asked) == 2))
    return found


_Point = tuple[float, float, int, str]


def _scatter(
    findings: Findings,
    pair: tuple[Objective, Objective],
    every: list[_Point],
    front: list[_Point],
    groups: list[str],
    two: bool,
) -> Figure:
    columns = columns_of(findings.study.kind)
    series: list[dict[str, Any]] = []
    for i, group in enumerate(groups):
        tone = colour(i)
        mine = [p for p in every if p[2] == i]
        best = [p for p in front if p[2] == i]
        if mine:
            style: dict[str, Any] = {"color": tone, "opacity": 0.5}
            series.append(dots(group, *_xy(mine), silent=True, symbolSize=6, itemStyle=style))
        if best:
            style = {"color": tone, "borderColor": "--page", "borderWidth": 1}
            series.append(dots(group, *_xy(best), words=[p[3] for p in best], symbolSize=9, itemStyle=style))
    way = _steps(front if two else outline(front, pair), pair[0].maximise)
    if len(way) > 1:
        stroke: dict[str, Any] = {"lineStyle": {"color": "--soft", "width": 1.2}, "itemStyle": {"color": "--soft"}}
        series.insert(0, line("front", [x for x, _ in way], [y for _, y in way], **stroke, silent=True, unnamed=True))
    axes = []
    for j, objective in enumerate(pair):
        values = [(p[0], p[1])[j] for p in (*every, *front)]
        unit = "s" if columns[objective.metric].unit == "s" else ""
        axes.append(axis(heading(objective.metric), unit, log=far_apart(values), zero=False))
    first, second = (heading(o.metric) for o in pair)
    says = f"{len(front):,} points that no other beats in every figure, of {len(findings.answered):,} with an answer"
    if front:
        pick = max if pair[0].maximise else min
        best_point = pick(front, key=lambda p: p[0])
        says += ": the best " + best_point[3].replace("\n", ", ")
    option = {"height": 400, "trigger": "item", "xAxis": axes[0], "yAxis": axes[1], "series": series}
    rows = tuple((groups[p[2]], p[0], p[1], p[3].replace("\n", "; ")) for p in sorted(front))
    name = f"front-{pair[0].metric}-{pair[1].metric}".replace("_", "-").replace(".", "-")
    return Figure(name, f"{second} over {first}", says + ".", option, ("", first, second, "point"), rows)


def _xy(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _steps(front: Sequence[_Point], maximise: bool) -> list[tuple[float, float]]:
    """The line of a front: between two of its points one gets at least the worse of both figures."""
    steps: list[tuple[float, float]] = []
    for point in sorted(front):
        if steps:
            steps.append((steps[-1][0], point[1]) if maximise else (point[0], steps[-1][1]))
        steps.append((point[0], point[1]))
    return steps


def outline(front: Sequence[_Point], pair: tuple[Objective, Objective]) -> list[_Point]:
    """The points of a front of many figures that are also on the front of these two."""
    signs = [-1.0 if o.maximise else 1.0 for o in pair]
    kept: list[_Point] = []
    for point in sorted(front, key=lambda p: (signs[0] * p[0], signs[1] * p[1])):
        if not kept or signs[1] * point[1] < signs[1] * kept[-1][1]:
            kept.append(point)
    return kept


def _point(findings: Findings, row: Row, pair: tuple[Objective, Objective], by: str) -> _Point | None:
    x, y = (row.values.get(o.metric) for o in pair)
    if x is None or y is None or any(row.values.get(s) is False for s in ("fits", "feasible")):
        return None
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    group = findings.axes[by].index(row.axes[by]) if by in row.axes and by in findings.axes else 0
    words = [f"{n} {v}" for n, v in row.axes.items()]
    words += [
        f"{o.metric} {quantity(findings.study.kind, o.metric, row.values.get(o.metric))}" for o in findings.objectives
    ]
    return float(x), float(y), group, "\n".join(words)


def effect_figures(findings: Findings) -> list[Figure]:
    """Per objective: how much each axis changes it, and the best and median over the values of the axes."""
    found: list[Figure] = []
    for objective in findings.objectives:
        mine = [a for a in findings.sensitivity if a.metric == objective.metric]
        if mine:
            found.append(_ratios(objective, mine))
            found += [_by_value(findings, objective, a.name) for a in mine]
    return found


def _ratios(objective: Objective, effects: Sequence[Any]) -> Figure:
    """Worst over best value of each axis, all else equal."""
    names = [a.name for a in effects]
    remarks = [f"{a.ratio:,.2f}x; best {_value(a.best)} in {a.best_frac:.0%}" for a in effects]
    drawn = bars(
        "worst over best", [a.ratio for a in effects], words=[f"{n}\n{r}" for n, r in zip(names, remarks, strict=True)]
    )
    for item, remark in zip(drawn["data"], remarks, strict=True):
        item["label"] = {"show": True, "position": "right", "formatter": remark}
    drawn |= {"barMaxWidth": 15, "itemStyle": {"color": "--c0"}}
    most = max(a.ratio for a in effects)
    option = {
        "height": 26 * len(names) + 48,
        "trigger": "item",
        "xAxis": axis("", "x", min=0, max=round(most * 1.7, 2), ends=False),
        "yAxis": categories(names, down=True),
        "series": [drawn],
    }
    first = effects[0]
    says = f"All else equal (median), the worst value of an axis over the best: {first.name} {first.ratio:,.2f}x most."
    rows = tuple((a.name, float(a.ratio), str(_value(a.best)), float(a.best_frac)) for a in effects)
    name = f"effects-{objective.metric}".replace("_", "-").replace(".", "-")
    heads = ("axis", "worst over best", "best value", "share of points where it is best")
    return Figure(name, f"What each axis does to {heading(objective.metric)}", says, option, heads, rows)


def _value(value: Any) -> str:
    return "default" if value == "" else str(value)


def _by_value(findings: Findings, objective: Objective, name: str) -> Figure:
    """An objective over the values of an axis: the best of all points with that value, and their median."""
    kind, metric = findings.study.kind, objective.metric
    values = list(spread(findings.axes[name], _VALUES))
    names = [_value(v) for v in values]
    unit = "s" if columns_of(kind)[metric].unit == "s" else ""
    best, median = _over(findings, objective, name, values)
    series = []
    for label, figures in (("best", best), ("median", median)):
        words = [f"{n}\n{label} {quantity(kind, metric, v)}" for n, v in zip(names, figures, strict=True)]
        data = [{"value": v, "words": w} for v, w in zip(figures, words, strict=True)]
        series.append({"type": "line", "name": label, "data": data, "showSymbol": True})
    there = [v for v in (*best, *median) if v is not None]
    log = bool(there) and far_apart(there)
    pick = (max if objective.maximise else min)(
        [i for i, v in enumerate(best) if v is not None], key=lambda i: best[i] or 0, default=None
    )
    says = "No point has a value." if pick is None else f"Best at {names[pick]}: {quantity(kind, metric, best[pick])}."
    option = {
        "height": 220,
        "trigger": "item",
        "xAxis": categories(names, name),
        "yAxis": axis("", unit, log=log),
        "series": series,
    }
    rows = tuple(zip(names, best, median, strict=True))
    called = f"by-{name}-{metric}".replace("_", "-").replace(".", "-")
    return Figure(called, f"{heading(metric)} by {name}", says, option, (name, "best", "median"), rows)


def _over(
    findings: Findings, objective: Objective, name: str, values: Sequence[Any]
) -> tuple[list[float | None], list[float | None]]:
    """Best and median of an objective at every value of an axis, among the points that meet its constraints."""
    groups: dict[str, list[float]] = {repr(v): [] for v in values}
    for row in findings.answered:
        value = row.values.get(objective.metric)
        good = all(c.holds(row.values.get(c.metric)) for c in objective.where)
        if value is not None and good and repr(row.axes.get(name)) in groups:
            groups[repr(row.axes[name])].append(value)
    pick = max if objective.maximise else min
    return (
        [pick(g) if g else None for g in groups.values()],
        [statistics.median(g) if g else None for g in groups.values()],
    )
