"""A simulation as one self-contained page: totals, time series, histograms; no script, nothing loaded from outside."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steelyard.errors import InputError
from steelyard.report.svg import Chart, Floats
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steelyard.serve.simulation import Simulation
    from steelyard.serve.slo import Target

__all__ = ["BINS", "averages", "page", "write_timeline"]

#: Points of a time series, dots of a scatter, bars of a histogram.
BINS, DOTS, BARS = 400, 2500, 60

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#6b7585;--grid:#e2e6ec;--page:#fff;
--c0:#1f6fb4;--c1:#d9822b;--c2:#3a8f5c;--bad:#b3261e;--good:#2e7d32}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#98a2b3;--grid:#2c3442;--page:#151a22;
--c0:#6db3f2;--c1:#f0a95b;--c2:#78c997;--bad:#ff8a80;--good:#81c784}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:920px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;margin:0}p{margin:.2rem 0;color:var(--soft)}svg{width:100%;height:auto;margin:.6rem 0}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .8rem .2rem 0;text-align:right}
td:first-child,th:first-child{text-align:left}th{border-bottom:1px solid var(--grid)}
text{font-family:inherit}.title{font-size:14px;font-weight:600;fill:var(--ink)}.tick{font-size:11px;fill:var(--soft)}
.key{font-size:12px}.grid{stroke:var(--grid)}.level{stroke:var(--bad);stroke-dasharray:5 4}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}
.c0.fill{fill:var(--c0)}.c1.fill{fill:var(--c1)}.c2.fill{fill:var(--c2)}.fill{stroke:none}
.line{fill:none;stroke-width:1.6}.dots{fill:none;stroke-width:3;stroke-linecap:round;opacity:.55}
.bad{color:var(--bad)}.good{color:var(--good)}
"""


def averages(simulation: Simulation, bins: int = BINS) -> dict[str, Floats]:
    """Time averages over equal bins of the makespan, summed over replicas; time without a step counts as zero.

    Exact when every step was kept; when the log was thinned, a kept step stands for those left out behind it.

    Returns:
        ``time_s`` (middle of the bin), ``running``, ``waiting``, ``kv_frac`` (of all blocks), ``prefill_tokens_per_s``
        and ``decode_tokens_per_s``, each ``[bins]``.
    """
    it = simulation.iterations
    first = float(simulation.totals.get("first_arrival_s", 0.0))
    edges = first + np.linspace(0.0, max(simulation.makespan_s, 1e-9), bins + 1)
    start, length = np.asarray(it.start_s, dtype=np.float64), np.asarray(it.duration_s, dtype=np.float64)
    held = length * it.stride
    lanes = max(1, simulation.scenario.plan.pp)  # every lane of a pipeline logs the same queue and cache
    blocks = max(1, simulation.pool.blocks * max(1, simulation.replicas))
    values = {
        "running": np.asarray(it.running, dtype=np.float64),
        "waiting": np.asarray(it.waiting) / lanes,
        "kv_frac": np.asarray(it.kv_blocks) / (blocks * lanes),
        "prefill_tokens_per_s": np.asarray(it.prefill_tokens) / np.maximum(length, 1e-12),
        "decode_tokens_per_s": np.asarray(it.decode_tokens) / np.maximum(length, 1e-12),
    }
    found: dict[str, Floats] = {"time_s": (edges[1:] + edges[:-1]) / 2}
    return found | {name: _average(start, held, value, edges) for name, value in values.items()}


def _average(start: Floats, length: Floats, value: Floats, edges: Floats) -> Floats:
    """Mean over each bin of the sum of ``value`` over all intervals ``[start, start + length)`` that cover a moment."""
    if not start.size:
        return np.zeros(len(edges) - 1)
    time, change = np.concatenate([start, start + length]), np.concatenate([value, -value])
    order = np.argsort(time, kind="stable")
    time, level = time[order], np.cumsum(change[order])
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(time))])
    return np.asarray(np.diff(np.interp(edges, time, area)) / np.diff(edges))


def write_timeline(simulation: Simulation, path: str | Path, targets: Sequence[Target] = ()) -> None:
    """Write the page. Raises :class:`InputError` when the file cannot be written."""
    try:
        Path(path).write_text(page(simulation, targets), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}", field="html") from error


def page(simulation: Simulation, targets: Sequence[Target] = ()) -> str:
    """The page as text."""
    s = simulation.scenario
    title = f"{s.transformer.name} on {s.cluster}"
    lines = [
        f"{simulation.config.engine}, {simulation.config.rules.title}; policy {simulation.policy}",
        f"traffic: {simulation.trace.name}",
    ]
    if simulation.stopped:
        lines.append(f"stopped early: {simulation.stopped}")
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(x)}</p>" for x in lines), _table(simulation, targets)]
    body += [chart.svg() for chart in (*_over_time(simulation, targets), *_histograms(simulation))]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _table(simulation: Simulation, targets: Sequence[Target]) -> str:
    from steelyard.report.simulation import METRICS, verdicts

    document = simulation.summary()
    head = ("", "mean", "p50", "p90", "p95", "p99")
    rows = []
    for name, label in METRICS:
        cells = [document[name].get(k) for k in head[1:]]
        rows.append([label, *("-" if c is None else q(float(c), "s") for c in cells)])
    made = "<table><tr>" + "".join(f"<th>{h}</th>" for h in head) + "</tr>"
    made += "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows) + "</table>"
    for v in verdicts(simulation, targets):
        word, tone = ("met", "good") if v.met else ("missed", "bad")
        name = f"{v.target.metric.removesuffix('_s').upper()} {v.target.label}"
        text = f"{name} {q(v.value_s, 's')}, promised {q(v.target.limit_s, 's')}"
        made += f'<p><b class="{tone}">{word}</b> {escape(text)}</p>'
    return made


def _over_time(simulation: Simulation, targets: Sequence[Target]) -> list[Chart]:
    series = averages(simulation)
    time = series["time_s"]
    running = Chart("requests running", "time, s", "")
    running.line("", time, series["running"])
    waiting = Chart("requests waiting", "time, s", "")
    waiting.line("", time, series["waiting"])
    cache = Chart("KV cache in use", "time, s", "%", top=100.0)
    cache.line("", time, series["kv_frac"] * 100)
    tokens = Chart("tokens per second", "time, s", "")
    tokens.line("prompt", time, series["prefill_tokens_per_s"])
    tokens.line("answer", time, series["decode_tokens_per_s"])
    charts = [running, waiting, cache, tokens]
    records = simulation.records
    done = np.flatnonzero(np.asarray(records.completed))
    shown = done[np.linspace(0, len(done) - 1, min(DOTS, len(done))).astype(np.int64)] if done.size else done
    for name, label in (("ttft_s", "time to first token"), ("tpot_s", "time per output token")):
        chart = Chart(f"{label} by arrival", "arrival, s", "s", log=True)
        values = np.asarray(getattr(records, name), dtype=np.float64)[shown]
        values = np.where(values > 0, values, np.nan)
        chart.points("", np.asarray(records.arrived_at)[shown], values)
        for t in targets:
            if t.metric == name:
                chart.level(f"{t.label} promise", t.limit_s)
        charts.append(chart)
    return charts


def _histograms(simulation: Simulation) -> list[Chart]:
    records = simulation.records
    done = np.asarray(records.completed)
    charts = []
    for name, label in (
        ("ttft_s", "time to first token"),
        ("tpot_s", "time per output token"),
        ("e2e_s", "end to end"),
    ):
        values = np.asarray(getattr(records, name), dtype=np.float64)[done]
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        most = float(np.percentile(values, 99.5)) or float(values.max()) or 1.0
        counts, edges = np.histogram(values, bins=BARS, range=(0.0, most))
        over = int(np.sum(values > most))
        note = f" ({over:,} beyond {q(most, 's')} not shown)" if over else ""
        chart = Chart(f"{label}: requests{note}", "s", "")
        chart.bars("", edges, counts)
        charts.append(chart)
    return charts
