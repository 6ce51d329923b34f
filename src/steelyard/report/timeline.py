"""A simulation as one self-contained page: totals, percentiles, distributions, the engine over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.report import simulation as report
from steelyard.report.figures.simulation import simulation_figures
from steelyard.report.html import rendered, write_html
from steelyard.report.paper import Line
from steelyard.simulation.metrics import intervals
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steelyard.scenario.slo import Target
    from steelyard.simulation.limits import Ends
    from steelyard.simulation.result import Simulation

__all__ = ["page", "write_timeline"]


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
    figures = {f.name: f for f in simulation_figures(simulation, targets)}
    times = [figures[n] for n in ("ttft", "tpot", "e2e") if n in figures]
    by_arrival = [f for n, f in figures.items() if n.endswith("-by-arrival")]
    engine = [figures[n] for n in ("requests", "flow", "kv", "batch", "tokens")]
    sections = {
        "How long requests take": times,
        "Where the time went": [figures["waiting"]],
        "Over time": [*engine, *by_arrival],
    }
    return rendered(
        "simulation.html",
        title=f"{simulation.scenario.transformer.name} on {where}",
        about=[*pools, *about, *stopped],
        facts=[Line("completed", completed), *facts],
        percentiles=_percentiles(document, None if ends is None else intervals(simulation, ends)),
        verdicts=list(report.verdict_lines(simulation, targets, ends)),
        sections=list(sections.items()),
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
