"""A study as one self-contained page: best points, Pareto front, what each axis does, and a table one can sort."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steelyard.report.figures.study import colour_axis, effect_figures, front_figures, known, thinned
from steelyard.report.html import Table, rendered, write_html
from steelyard.report.study_text import heading, listing, objective_text, quantity, short, subtitle
from steelyard.studies.findings import Findings, shown_metrics
from steelyard.studies.table import Row

__all__ = ["page", "write_page"]

#: Rows of the table at most; more are thinned evenly, and the page says so.
ROWS = 4000


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
    return rendered(
        "study.html",
        title=study.name,
        about=[x for x in (definition.get("about", ""), subtitle(findings), counts) if x],
        problems=[f"{n:,} without an answer: {p}" for p, n in list(findings.problems.items())[:3]],
        best=list(_best(findings)),
        findings=findings,
        known=", ".join(heading(o.metric) for o in known(findings)),
        fronts=front_figures(findings),
        colour=colour_axis(findings),
        effects=effect_figures(findings),
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


def _all(findings: Findings) -> dict[str, Any]:
    """Every row, for a table that can be sorted and filtered: words, then figures with the number they sort by."""
    kind, axes = findings.study.kind, list(findings.axes)
    metrics = shown_metrics(kind, findings.objectives)
    kept = thinned(findings.rows, ROWS)
    rows = []
    for row in kept:
        values = [row.values.get(name) for name in metrics]
        numbers = ["" if v is None else f"{float(v):.6g}" for v in values]
        words = [quantity(kind, name, v) for name, v in zip(metrics, values, strict=True)]
        rows.append((listing(findings, row, axes, ()), list(zip(numbers, words, strict=True)), _remark(row)))
    note = f" Every {-(-len(findings.rows) // ROWS)}th point is shown." if len(kept) < len(findings.rows) else ""
    return {"axes": list(map(short, axes)), "metrics": list(map(heading, metrics)), "rows": rows, "note": note}


def _remark(row: Row) -> str:
    if not row.answered:
        return row.problem
    if row.values.get("fits") is False:
        return "does not fit"
    if row.values.get("feasible") is False:
        return "nothing meets the SLOs"
    return "misses an SLO" if row.values.get("promises_met") is False else ""
