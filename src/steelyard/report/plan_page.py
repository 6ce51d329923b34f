"""A plan as one self-contained page: the answer, the SLOs, the fronts, the candidates, the commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.errors import InputError
from steelyard.report import plan as report
from steelyard.report.figures import Figure
from steelyard.report.figures.plan import front_figures, plan_figures
from steelyard.report.figures.svg import picture as svg_picture
from steelyard.report.html import Table, rendered, write_html
from steelyard.report.ways import HEADS, HOURS_PER_MONTH
from steelyard.report.ways import lines as ways_lines
from steelyard.report.ways import rows as ways_rows
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target
    from steelyard.search.answer import Answer, Candidate

__all__ = ["page", "picture", "write_page"]

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def write_page(answer: Answer, path: str | Path) -> None:
    """Write the page, without commands. Raises :class:`InputError` when the file cannot be written."""
    write_html(page(answer), path)


def page(answer: Answer, commands: Mapping[str, str] | None = None) -> str:
    """The page as text.

    Args:
        answer: what it shows.
        commands: scripts by name, to be shown.
    """
    from steelyard._version import __version__
    from steelyard.provenance import content_hash
    from steelyard.report.plain import plain

    w, i = answer.winner, answer.infeasible
    figures = plan_figures(answer)
    shown = w if w is not None else i.closest if i is not None else None
    others = [("winner", w)] if w is not None else []
    others += [(f"{n}.", c) for n, c in enumerate(answer.runners_up, 2)]
    fronts = {"Front of speed and yield": answer.front, "Front of rent and latency": answer.cost_front}
    return rendered(
        "plan.html",
        title=f"{answer.question.model}: {'nothing fits' if w is None else f'{w.devices} devices, {w.shape}'}",
        answer=answer,
        report=report,
        winner=w,
        certainty=report.certainty_lines(answer),
        star=report.star(answer),
        infeasible=i,
        shown=shown,
        statistics=_STATISTICS,
        expected=[] if shown is None else _expected(answer, shown),
        figures=[f for f in figures if f.name != "ways"],
        candidates=Table(("", *report.COLUMNS), [_row(c, name) for name, c in others], 4, w is not None),
        fronts=[
            (f"{name}: {len(x)} candidates", Table((*report.COLUMNS,), [*map(_row, x)], 3))
            for name, x in fronts.items()
            if x
        ],
        money=None if w is None else Table(("", "at the traffic asked for"), _money(w)),
        ways=_ways(answer, [f for f in figures if f.name == "ways"]),
        changes=None if i is None else _changes(answer),
        commands={k: v.removeprefix("#!/usr/bin/env bash\n").rstrip() for k, v in (commands or {}).items()},
        version=__version__,
        stamp=content_hash({"version": __version__, "inputs": plain(dict(answer.inputs))})[:16],
    )


def _row(c: Candidate, *before: str) -> list[str]:
    return [*before, *(cell(c) for cell in report.COLUMNS.values())]


def _expected(answer: Answer, c: Candidate) -> list[dict[str, Any]]:
    """Rows of the table of times, with a bar for each SLO."""
    return [
        {
            "label": label,
            "cells": [*cells, span],
            "targets": [(f"{t.label} {q(t.limit_s, 's')}", good, report.verdict(c, t)) for t, good in targets],
            "meters": [_meter(c, t) for t, _ in targets],
        }
        for label, cells, span, targets in report.expected(answer, c, _STATISTICS)
    ]


def _meter(c: Candidate, target: Target) -> dict[str, Any]:
    """Places on a bar, in per cent: what is expected, the limit, and the ends of the 80 % interval."""
    value, ends = report.met(c, target)[0], c.interval.get(target.metric)
    most = 1.15 * max(target.limit_s, value, ends[1] if ends else 0.0)
    low, high, at, limit = (
        round(100 * min(max(x / most, 0.0), 1.0), 1) for x in (*(ends or (0.0, 0.0)), value, target.limit_s)
    )
    words = f"{report.slo_text(target)}: {q(value, 's')}"
    return {"words": words, "low": low, "width": round(high - low, 1), "at": at, "limit": limit}


def _changes(answer: Answer) -> Table | None:
    assert answer.infeasible is not None
    near = answer.infeasible.nearest
    rows = [
        [c.text, report.machines_text(c.winner), c.winner.shape, c.winner.engine, report.money(c.winner)] for c in near
    ]
    return Table(("change", "machine", "shape", "engine", "money"), rows, 5) if rows else None


def _ways(answer: Answer, figures: list[Figure]) -> dict[str, Any] | None:
    """The API and devices of one's own: a table, a picture, and what follows."""
    if answer.ways is None:
        return None
    return {
        "table": Table(HEADS, ways_rows(answer.ways), 1, True),
        "figures": figures,
        "lines": ways_lines(answer.ways),
    }


def _money(w: Candidate) -> list[list[str]]:
    rows = []
    if w.rent_usd_per_hour is not None:
        month = f"rent per month of {HOURS_PER_MONTH} hours"
        rows += [
            ["rent per hour", q(w.rent_usd_per_hour, "USD")],
            [month, q(w.rent_usd_per_hour * HOURS_PER_MONTH, "USD")],
        ]
    if w.usd_per_million_tokens is not None:
        rows.append(["per million generated tokens", q(w.usd_per_million_tokens, "USD")])
    rows.append(["electricity per hour", f"{w.watts / 1e3:,.2f} kWh"])
    if w.carbon_g_per_hour is not None:
        rows.append(["carbon per hour", f"{w.carbon_g_per_hour / 1e3:,.2f} kg CO2e"])
    if w.tokens_per_s > 0:
        rows.append(["energy per generated token", q(w.watts / w.tokens_per_s, "J")])
    return rows


def picture(answer: Answer) -> str:
    """The fronts as one SVG file of their own. Raises :class:`InputError` when there is none."""
    figures = front_figures(answer)
    if not figures:
        raise InputError("nothing fits: there is no front to draw", field="picture")
    return svg_picture(figures, across=2, width=560)
