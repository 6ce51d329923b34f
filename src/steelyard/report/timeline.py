"""A simulation as one self-contained page: totals, time series, histograms; no script, nothing loaded from outside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report import simulation as report
from steelyard.report.charts import Chart, Floats
from steelyard.report.html import rendered, write_html
from steelyard.report.paper import Line
from steelyard.simulation.limits import limits
from steelyard.simulation.metrics import intervals
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steelyard.scenario.slo import Target
    from steelyard.simulation.limits import Ends
    from steelyard.simulation.result import Simulation

__all__ = ["BINS", "page", "percentiles_over_time", "write_timeline"]

#: Points of a time series, dots of a scatter, bars of a histogram.
BINS, DOTS, BARS = 240, 1500, 48
#: Windows of arrivals for percentiles over time at most, and requests in one on average at least.
WINDOWS, IN_WINDOW = 60, 25
#: Times of a request that are drawn, with their titles.
_TIMES = (("ttft_s", "time to first token"), ("tpot_s", "time per output token"), ("e2e_s", "end to end"))


def percentiles_over_time(
    at: Floats, values: Floats, percentiles: Sequence[float] = (50, 90, 99)
) -> tuple[Floats, list[Floats]]:
    """Percentiles of the values of requests by when they arrived, in equal windows of time.

    Args:
        at: ``[n]`` arrivals, s.
        values: ``[n]``; NaN = none.
        percentiles: from 0 to 100.

    Returns:
        ``(middles [windows], one [windows] per percentile)``; NaN where nobody arrived.
    """
    at, values = (np.asarray(x, dtype=np.float64) for x in (at, values))
    known = np.isfinite(at) & np.isfinite(values)
    at, values = at[known], values[known]
    if not at.size:
        return np.zeros(0), [np.zeros(0) for _ in percentiles]
    windows = int(np.clip(len(at) // IN_WINDOW, 1, WINDOWS))
    edges = np.linspace(at.min(), max(at.max(), at.min() + 1e-9), windows + 1)
    order = np.argsort(at, kind="stable")
    cuts = np.searchsorted(at[order], edges[1:-1])
    found = [
        np.percentile(part, percentiles) if part.size else np.full(len(percentiles), np.nan)
        for part in np.split(values[order], cuts)
    ]
    return (edges[1:] + edges[:-1]) / 2, [np.array(x) for x in np.transpose(found)]


def write_timeline(
    simulation: Simulation, path: str | Path, targets: Sequence[Target] = (), ends: Ends | None = None
) -> None:
    """Write the page. Raises :class:`InputError` when the file cannot be written."""
    write_html(page(simulation, targets, ends), path)


def page(simulation: Simulation, targets: Sequence[Target] = (), ends: Ends | None = None) -> str:
    """The page as text."""
    document = simulation.summary()
    where, pools, about = report.heading(simulation)
    stopped = [f"stopped early: {simulation.stopped}"] if simulation.stopped else []
    left = "".join(f", {document[x]:,} {x}" for x in ("rejected", "unfinished") if document[x])
    completed = f"{document['completed']:,} of {document['requests']:,}{left} in {q(document['makespan_s'], 's')}"
    facts = [line for line in report.lines(simulation, document, targets) if not line.verdict]
    shares = limits(simulation)
    named = [(i, words, shares.get(name, 0.0)) for i, (name, words) in enumerate(report.SHORT_OF.items())]
    return rendered(
        "simulation.html",
        title=f"{simulation.scenario.transformer.name} on {where}",
        about=[*pools, *about, *stopped],
        facts=[Line("completed", completed), *facts],
        percentiles=_percentiles(document, None if ends is None else intervals(simulation, ends)),
        verdicts=list(report.verdict_lines(simulation, targets, ends)),
        shares=[x for x in named if x[2] >= 0.001],
        over_time=_over_time(simulation, targets),
        distributions=_histograms(simulation, targets),
    )


def _percentiles(document: dict[str, Any], between: dict[str, Any] | None) -> dict[str, Any]:
    """Heads and rows of the table of times, each cell with its interval."""
    heads = ("mean", "p50", "p90", "p95", "p99")
    rows = []
    for name, label in report.METRICS:
        spans = between[name] if between else {}
        values = [document[name].get(key) for key in heads]
        cells = ["-" if value is None else report.seconds(value) for value in values]
        small = [report.interval(*spans[key]) if key in spans else "" for key in heads]
        rows.append((label, list(zip(cells, small, strict=True))))
    return {"heads": ("", *heads), "rows": rows, "intervals": between is not None}


def _unit_of_time(span_s: float) -> tuple[float, str]:
    """``(s per unit, unit)`` in which an axis of so many s is read easily."""
    return (3600.0, "h") if span_s > 4 * 3600 else (60.0, "min") if span_s > 1200 else (1.0, "s")


def _over_time(simulation: Simulation, targets: Sequence[Target]) -> list[Chart]:
    series = simulation.series(BINS)
    first, span = float(simulation.totals.get("first_arrival_s", 0.0)), max(simulation.makespan_s, 1e-9)
    scale, unit = _unit_of_time(span)
    time, ends = series["at_s"] / scale, (0.0 if first < span / 20 else first / scale, (first + span) / scale)
    axis = f"time, {unit}"

    def chart(title: str, lines: dict[str, Floats], **options: Any) -> Chart:
        made = Chart(title, axis, ends=ends, **options)
        for name, values in lines.items():
            made.line(name, time, values)
        return made

    records = simulation.records
    edges = np.linspace(first, first + span, min(BINS, max(10, len(records) // IN_WINDOW)) + 1)
    flow = Chart("requests per second", axis, ends=ends)
    for name, at in (
        ("arriving", records.arrived_at),
        ("completed", records.finished_at[np.asarray(records.completed)]),
    ):
        counts = np.histogram(at[np.isfinite(at)], edges)[0] / np.diff(edges)
        flow.line(name, (edges[1:] + edges[:-1]) / 2 / scale, counts)
    charts = [
        chart("requests in the engine", {"running": series["running"], "waiting": series["waiting"]}),
        flow,
        chart("KV cache in use", {"": series["kv_frac"] * 100}, y_unit="%", top=100.0),
        chart("requests worked on in steps", {"": series["batch"]}),
        chart(
            "tokens per second",
            {"prompt": series["prefill_tokens_per_s"], "generated": series["decode_tokens_per_s"]},
        ),
    ]
    done = np.flatnonzero(np.asarray(records.completed))
    shown = done[np.linspace(0, len(done) - 1, min(DOTS, len(done))).astype(np.int64)] if done.size else done
    for name, label in _TIMES:
        made = Chart(f"{label}, by arrival", f"arrival, {unit}", y_unit="s", y_log=True, ends=ends)
        values = np.asarray(getattr(records, name), dtype=np.float64)
        values = np.where(values > 0, values, np.nan)
        middle, lines = percentiles_over_time(records.arrived_at[done], values[done])
        for word, line in zip(("p50", "p90", "p99"), lines, strict=True):
            made.line(word, middle / scale, line)
        made.dots("requests", np.asarray(records.arrived_at)[shown] / scale, values[shown])
        for t in targets:
            if t.metric == name:
                made.level(f"{t.label} limit {q(t.limit_s, 's')}", t.limit_s)
        charts.append(made)
    return charts


def _histograms(simulation: Simulation, targets: Sequence[Target]) -> list[Chart]:
    records = simulation.records
    done = np.asarray(records.completed)
    charts = []
    for name, label in _TIMES:
        values = np.asarray(getattr(records, name), dtype=np.float64)[done]
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        most = float(np.percentile(values, 99.5)) or float(values.max()) or 1.0
        counts, edges = np.histogram(values, bins=BARS, range=(0.0, most))
        over = int(np.sum(values > most))
        note = f"; {over:,} beyond {q(most, 's')} not shown" if over else ""
        chart = Chart(label, f"{label}{note}", ends=(0.0, most), x_unit="s")
        chart.bars("requests", edges, counts)
        for t in targets:
            if t.metric == name:
                chart.limit(f"{t.label} limit", t.limit_s)
        charts.append(chart)
    return charts
