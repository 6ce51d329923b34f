"""A measured benchmark beside its simulation: JSON (``steelyard.compare/1``, kind ``replay``), rows and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.provenance import record_of
from steelyard.report.paper import columns, figure, render, styled
from steelyard.report.plain import plain
from steelyard.report.simulation import served_by
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.simulation.replay import Figure, Replay

__all__ = ["cells", "rows", "text", "to_dict"]

_TITLES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "end to end"}
_RATES = {
    "requests_per_s": "requests/s",
    "input_tokens_per_s": "prompt tokens/s",
    "output_tokens_per_s": "generated tokens/s",
}


def _entry(f: Figure) -> dict[str, Any]:
    interval = None if f.low is None or f.high is None else [f.low, f.high]
    first = {name: getattr(f, name) for name in ("measured", "simulated", "error_frac")}
    return {**first, "interval_80": interval, "inside": f.inside}


def to_dict(found: Replay) -> dict[str, Any]:
    """The stable JSON form, SI units."""
    sim, log = found.simulation, found.log
    measures: dict[str, dict[str, Any]] = {}
    for f in found.figures:
        measures.setdefault(f.metric, {})[f.statistic] = _entry(f)
    return plain(  # type: ignore[no-any-return]
        {
            "schema": "steelyard.compare/1",
            "kind": "replay",
            "run": log.recorded.name,
            "format": log.recorded.reader,
            "model": sim.scenario.transformer.name,
            "on": str(sim.scenario.cluster),
            "engine": sim.config.engine,
            "load": log.load,
            "requests": len(log.recorded),
            "completed": int(sim.records.completed.sum()),
            "measured_s": log.duration_s,
            "simulated_s": sim.makespan_s,
            **measures,
            "preemptions": int(sim.totals["preemptions"]),
            "parting": {"where": found.where, "text": found.words, "parts_s": dict(found.parts_s)},
            "notes": [*log.recorded.notes, *log.recorded.rejected],
            "provenance": record_of(sim.inputs),
        }
    )


def rows(found: Replay) -> list[dict[str, Any]]:
    """One row per figure, for CSV."""
    names = ("metric", "statistic", "measured", "simulated", "error_frac", "low", "high", "inside")
    return [{name: getattr(f, name) for name in names} for f in found.figures]


def text(found: Replay, width: int | None = None) -> str:
    """The two side by side, and where they part."""
    return render(parts(found), width)


def cells(found: Replay) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of both."""
    body = []
    last = ""
    for f in found.figures:
        title = _RATES[f.statistic] if f.metric == "throughput" else _TITLES[f.metric]
        if f.measured is None and f.metric != "throughput":
            continue
        shown = [_shown(f, v) for v in (f.measured, f.simulated)]
        error = "-" if f.error_frac is None else f"{f.error_frac:+,.1%}"
        inside = {True: "inside", False: "outside", None: ""}[f.inside]
        interval = "-" if f.low is None else f"{_shown(f, f.low)} - {_shown(f, f.high)}"
        name = title if f.metric == "throughput" else f"{title if title != last else ' ' * len(title)} {f.statistic}"
        last = title
        body.append([name, *shown, error, interval, inside])
    return ["", "measured", "simulated", "error", "80 % interval", " "], body


def parts(found: Replay) -> list[Any]:
    """The report as renderables."""
    sim, log = found.simulation, found.log
    s = sim.scenario
    where = f" on {s.cluster.title}"
    head = styled((log.recorded.name, "bold"), " beside ", (s.transformer.name, "bold"), where)
    names, body = cells(found)
    table = columns(names, body, names[1:5], gap=2)
    load = styled(f"{served_by(sim)}; {len(log.recorded):,} requests; {log.load}")
    notes = [styled(x) for x in (*log.recorded.notes, *log.recorded.rejected)]
    return [head, load, *notes, "", table, "", styled(found.words)]


def _shown(f: Figure, value: float | None) -> str:
    if value is None:
        return "-"
    return figure(value) if f.metric == "throughput" else q(value, "s")
