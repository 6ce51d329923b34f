"""A study as one self-contained page: best points, Pareto front, what each axis does, and a table one can sort.

Nothing is loaded from outside; the only script sorts and filters the table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.report.charts import COLOURS, Chart, Mark, key
from steelyard.report.html import Table, rendered, write_html
from steelyard.report.paper import spread
from steelyard.report.study_text import heading, listing, objective_text, quantity, short, subtitle
from steelyard.studies.findings import Findings, shown_metrics
from steelyard.studies.store_columns import columns_of
from steelyard.studies.study import Objective
from steelyard.studies.table import Row

__all__ = ["page", "write_page"]

#: Dots of a scatter and rows of the table at most; more are thinned evenly, and the page says so.
DOTS, ROWS = 4000, 5000
#: Values of an axis drawn at most.
_VALUES = 40


def write_page(findings: Findings, path: str | Path, sources: Mapping[str, Any] | None = None) -> None:
    """Write the page. Raises :class:`InputError` when the file cannot be written."""
    write_html(page(findings, sources), path)


def page(findings: Findings, sources: Mapping[str, Any] | None = None) -> str:
    """The page as text.

    Args:
        found: what the study says.
        sources: what its answers rest on: ``assumptions``, ``sources``, ``guesses``.
    """
    study = findings.study
    definition = study.document.get("study", {})
    left = "" if study.finished else f"; {study.points - study.priced:,} not priced yet"
    counts = f"{study.kind}, {study.points:,} points{left}, {len(findings.answered):,} with an answer"
    colour = _colour_axis(findings)
    return rendered(
        "study.html",
        title=study.name,
        about=[x for x in (definition.get("about", ""), subtitle(findings), counts) if x],
        problems=[f"{n:,} without an answer: {p}" for p, n in list(findings.problems.items())[:3]],
        best=list(_best(findings)),
        findings=findings,
        known=", ".join(heading(o.metric) for o in _known(findings)),
        fronts=list(_fronts(findings, colour)),
        keys=key([str(v) for v in findings.axes[colour]]) if colour else [],
        colour=colour,
        effects=list(_effects(findings)),
        rows=_all(findings),
        definition=json.dumps(definition, indent=2, default=str),
        sources={"assumptions": [], "sources": {}, "guesses": {}, **(sources or {})},
        version=study.version,
    )


def _best(findings: Findings) -> Iterator[tuple[str, Table | None]]:
    axes = list(findings.axes)
    metrics = shown_metrics(findings.study.kind, findings.objectives)
    for objective, best in zip(findings.objectives, findings.best, strict=True):
        title = objective_text(objective)
        wanted = list(dict.fromkeys([objective.metric, *metrics]))[:6]
        heads = [*map(short, axes), *map(heading, wanted)]
        rows = [listing(findings, r, axes, wanted) for r in best]
        yield title[:1].upper() + title[1:], Table(heads, rows, len(axes)) if rows else None


def _known(findings: Findings) -> list[Objective]:
    return [o for o in findings.objectives if any(r.values.get(o.metric) is not None for r in findings.answered)]


def _fronts(findings: Findings, colour: str) -> Iterator[Chart]:
    """A scatter per pair of the first objective and another, coloured by the axis with the fewest values."""
    known, columns = _known(findings), columns_of(findings.study.kind)
    for other in known[1:]:
        pair = (known[0], other)
        marks = [m for r in _thinned(findings.answered, DOTS) if (m := _mark(findings, r, pair, colour)) is not None]
        front = [m for r in findings.front if (m := _mark(findings, r, pair, colour)) is not None]
        if not marks:
            continue
        x_unit, y_unit = ("s" if columns[o.metric].unit == "s" else "" for o in pair)
        chart = Chart(
            f"{other.metric} over {known[0].metric}",
            known[0].metric,
            other.metric,
            x_unit,
            y_unit,
            y_zero=False,
            x_log=None,
            y_log=None,
            size=(860, 420),
        )
        for group in sorted({m.group for m in marks}):
            mine = [m for m in marks if m.group == group]
            chart.dots("", [m.x for m in mine], [m.y for m in mine], group)
        chart.front(_steps(front if len(known) == 2 else _outline(front, pair), known[0].maximise))
        chart.marks(front)
        yield chart


def _steps(front: Sequence[Mark], maximise: bool) -> list[tuple[float, float]]:
    """The line of a front: between two of its points one gets at least the worse of both figures."""
    steps: list[tuple[float, float]] = []
    for mark in sorted(front, key=lambda m: m.x):
        if steps:
            steps.append((steps[-1][0], mark.y) if maximise else (mark.x, steps[-1][1]))
        steps.append((mark.x, mark.y))
    return steps


def _outline(front: Sequence[Mark], pair: tuple[Objective, Objective]) -> list[Mark]:
    """The points of a front of many figures that are also on the front of these two."""
    signs = [-1.0 if o.maximise else 1.0 for o in pair]
    kept: list[Mark] = []
    for mark in sorted(front, key=lambda m: (signs[0] * m.x, signs[1] * m.y)):
        if not kept or signs[1] * mark.y < signs[1] * kept[-1].y:
            kept.append(mark)
    return kept


def _colour_axis(findings: Findings) -> str:
    """The axis points are coloured by: one of few values, machines and cases first."""
    few = [n for n, values in findings.axes.items() if 2 <= len(values) <= COLOURS]
    return next((n for n in ("case", "on", "model", "engine", "policy", "weights", *few) if n in few), "")


def _thinned(rows: Sequence[Row], most: int) -> list[Row]:
    step = max(1, -(-len(rows) // most))
    return list(rows[::step])


def _mark(findings: Findings, row: Row, pair: tuple[Objective, Objective], colour: str) -> Mark | None:
    x, y = (row.values.get(o.metric) for o in pair)
    if x is None or y is None or any(row.values.get(s) is False for s in ("fits", "feasible")):
        return None
    group = findings.axes[colour].index(row.axes[colour]) if colour in row.axes and colour in findings.axes else 0
    words = [f"{n} {v}" for n, v in row.axes.items()]
    words += [
        f"{o.metric} {quantity(findings.study.kind, o.metric, row.values.get(o.metric))}" for o in findings.objectives
    ]
    return Mark(float(x), float(y), group, "\n".join(words), True)


def _effects(findings: Findings) -> Iterator[tuple[str, list[tuple[str, float, str]], list[Chart]]]:
    """Per objective: how much each axis changes it, and the best and median over the values of the axes."""
    for objective in findings.objectives:
        mine = [a for a in findings.sensitivity if a.metric == objective.metric]
        if mine:
            most = max(*(a.ratio for a in mine), 1.05)
            bars = [
                (
                    a.name,
                    round(max(60 * (a.ratio - 1) / (most - 1), 0.3), 1),
                    f"{a.ratio:,.2f}x; best {'default' if a.best == '' else a.best} in {a.best_frac:.0%}",
                )
                for a in mine
            ]
            yield objective.metric, bars, [_by_value(findings, objective, a.name) for a in mine]


def _by_value(findings: Findings, objective: Objective, axis: str) -> Chart:
    """An objective over the values of an axis: the best of all points with that value, and their median."""
    kind, metric, values = findings.study.kind, objective.metric, findings.axes[axis]
    values = list(spread(values, _VALUES))
    names = ["default" if v == "" else str(v) for v in values]
    unit = "s" if columns_of(kind)[metric].unit == "s" else ""
    chart = Chart(f"{heading(metric)} by {axis}", y_unit=unit, y_log=None, categories=names, size=(420, 240))
    for name, series in zip(("best", "median"), _over(findings, objective, axis, values), strict=True):
        labels = [f"{n}: {quantity(kind, metric, v)}" for n, v in zip(names, series, strict=True)]
        chart.line(name, range(len(names)), series, labels)
    return chart


def _over(
    findings: Findings, objective: Objective, axis: str, values: Sequence[Any]
) -> tuple[list[float | None], list[float | None]]:
    """Best and median of an objective at every value of an axis, among the points that meet its constraints."""
    groups: dict[str, list[float]] = {repr(v): [] for v in values}
    for row in findings.answered:
        value = row.values.get(objective.metric)
        good = all(c.holds(row.values.get(c.metric)) for c in objective.where)
        if value is not None and good and repr(row.axes.get(axis)) in groups:
            groups[repr(row.axes[axis])].append(value)
    pick = max if objective.maximise else min
    return (
        [pick(g) if g else None for g in groups.values()],
        [statistics.median(g) if g else None for g in groups.values()],
    )


def _all(findings: Findings) -> dict[str, Any]:
    """Every row, for a table that can be sorted and filtered: words, then figures with the number they sort by."""
    kind, axes = findings.study.kind, list(findings.axes)
    metrics = shown_metrics(kind, findings.objectives)
    kept = _thinned(findings.rows, ROWS)
    rows = []
    for row in kept:
        values = [row.values.get(name) for name in metrics]
        numbers = ["" if v is None else f"{float(v):.6g}" for v in values]
        words = [quantity(kind, name, v) for name, v in zip(metrics, values, strict=True)]
        rows.append((listing(findings, row, axes, ()), list(zip(numbers, words, strict=True)), _remark(row)))
    thinned = f" Every {-(-len(findings.rows) // ROWS)}th point is shown." if len(kept) < len(findings.rows) else ""
    return {"axes": list(map(short, axes)), "metrics": list(map(heading, metrics)), "rows": rows, "note": thinned}


def _remark(row: Row) -> str:
    if not row.answered:
        return row.problem
    if row.values.get("fits") is False:
        return "does not fit"
    if row.values.get("feasible") is False:
        return "nothing meets the SLOs"
    return "misses an SLO" if row.values.get("promises_met") is False else ""
