"""Predictors of a device compared: as JSON (``steelyard.predictors/1``), rows, and a report."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from steelyard.interval import interval80
from steelyard.report.paper import Unbroken, bullets, columns, named, render, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.exploration.predictors import Leaderboard

__all__ = ["SCHEMA", "cells", "flat_rows", "parts", "report", "summary", "to_dict"]

SCHEMA = "steelyard.predictors/1"


def flat_rows(found: Leaderboard) -> list[dict[str, Any]]:
    """A row for each predictor; where networks were asked for, one for each of these."""
    return _predicted(found) or [asdict(s) for s in found.scored]


def _predicted(found: Leaderboard) -> list[dict[str, Any]]:
    """Times of the networks asked for, as the best predictor says, with the ends of the 80 % interval."""
    if not found.predicted:
        return []
    times, spreads = found.predicted[found.best.name]
    low, high = interval80(times, spreads)
    columns = (map(found.space.spell, found.asked.tolist()), times.tolist(), low.tolist(), high.tolist())
    names = ("architecture", "predicted_s", "predicted_s_low", "predicted_s_high")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def to_dict(found: Leaderboard) -> dict[str, Any]:
    """The answer as ``steelyard.predictors/1``."""
    rows = [{"architecture": a, "measured_s": m, "predicted_s": p} for a, m, p in found.rows]
    return plain(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "space": found.space.name,
            "batch": found.batch,
            "networks": found.networks,
            "predictors": [asdict(s) for s in found.scored],
            "predicted": _predicted(found),
            "absent": dict(found.absent),
            "rows": rows,
            "measure_next": list(found.measure_next),
            "provenance": dict(found.provenance),
        }
    )


def summary(found: Leaderboard) -> str:
    """One line for a Python prompt."""
    return f"<Leaderboard of {len(found.scored)} predictors: {found.best.name}, {found.best.median_ape:.1f} %>"


def report(found: Leaderboard, width: int | None = None) -> str:
    """The answer as text."""
    return render(parts(found), width)


def cells(found: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row of every predictor, best first."""
    rows = [[s.name, f"{s.median_ape:.1f} %", f"{s.rank:.3f}", f"{100 * s.inside:.0f} %"] for s in found.scored]
    return ["predictor", "median error", "rank", "inside 80 %"], rows


def parts(found: Leaderboard) -> list[Any]:
    """The report as renderables: predictors, the network furthest off, what to measure next."""
    heads, rows = cells(found)
    worst, measured, predicted = max(found.rows, key=lambda r: abs(r[2] / r[1] - 1.0))
    return [
        styled(f"{found.networks} networks of ", (found.space.title, "bold"), f", batch {found.batch:,}"),
        styled("each predicted from the others"),
        "",
        columns(heads, rows, heads[1:]),
        "",
        Unbroken(f"furthest off: {worst} {q(measured, 's')} (predicted {q(predicted, 's')})"),
        *named("measure next", found.measure_next),
        *bullets("not tried", [f"{name}: {why}" for name, why in found.absent.items()]),
    ]
