"""A simulation as one self-contained page: totals, time series, histograms; no script, nothing loaded from outside."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import InputError
from steelyard.report.paper import figure
from steelyard.report.svg import Chart, Floats
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steelyard.report.simulation import Ends
    from steelyard.scenario.slo import Target
    from steelyard.simulation.result import Simulation

__all__ = ["BINS", "page", "percentiles_over_time", "write_timeline"]

#: Points of a time series, dots of a scatter, bars of a histogram.
BINS, DOTS, BARS = 240, 1500, 48
#: Windows of arrivals for percentiles over time at most, and requests in one on average at least.
WINDOWS, IN_WINDOW = 60, 25

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6575;--grid:#e2e6ec;--page:#fff;--card:#f5f7fa;
--c0:#1f6fb4;--c1:#c96f12;--c2:#2f7f4f;--c3:#8e4bb0;--bad:#b3261e;--good:#2e7d32}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#a3adbb;--grid:#2c3442;--page:#151a22;--card:#1d2430;
--c0:#6db3f2;--c1:#f0a95b;--c2:#78c997;--c3:#cf9be8;--bad:#ff8a80;--good:#81c784}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:1720px;margin:0 auto;padding:1.5rem clamp(.8rem,2.5vw,2.5rem)}
h1{font-size:1.35rem;line-height:1.25;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
p{margin:.15rem 0;color:var(--soft)}.wide{overflow-x:auto}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,190px),1fr));gap:.6rem;margin:1rem 0 0}
.facts div{background:var(--card);border-radius:6px;padding:.5rem .7rem}
.facts dt{color:var(--soft);font-size:.82rem}.facts dd{margin:0;font-weight:600}
.facts small{display:block;font-weight:400;color:var(--soft);font-size:.82rem;line-height:1.35}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:.6rem 1.6rem}
svg{width:100%;max-width:620px;height:auto;display:block}
table{border-collapse:collapse;margin:.4rem 0;font-variant-numeric:tabular-nums;white-space:nowrap}
td,th{padding:.2rem 1.1rem .2rem 0;text-align:right;vertical-align:top}
td small{display:block;color:var(--soft);font-size:.78rem;line-height:1.2}
td:first-child,th:first-child{text-align:left}th{border-bottom:1px solid var(--grid)}
.bar{display:flex;height:1.1rem;border-radius:4px;overflow:hidden;background:var(--grid);margin:.3rem 0;max-width:900px}
.bar i{display:block}.keys span{margin-right:1rem;white-space:nowrap}
.keys b{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.35em}
.s-serving{background:var(--c2)}.s-kv{background:var(--bad)}.s-max_num_seqs{background:var(--c1)}
.s-compute{background:var(--c0)}.s-scheduling{background:var(--c3)}.s-idle{background:var(--soft);opacity:.35}
text{font-family:inherit}.title{font-size:15px;font-weight:600;fill:var(--ink)}.tick{font-size:12px;fill:var(--soft)}
.halo{paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round;fill:var(--bad)}
.key{font-size:13px}.grid{stroke:var(--grid)}.level{stroke:var(--bad);stroke-dasharray:5 4}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.c0.fill{fill:var(--c0)}.c1.fill{fill:var(--c1)}.c2.fill{fill:var(--c2)}.c3.fill{fill:var(--c3)}.fill{stroke:none}
.line{fill:none;stroke-width:1.7;stroke-linejoin:round}.dots{fill:none;stroke-width:2.6;stroke-linecap:round;opacity:.3}
.bad{color:var(--bad)}.good{color:var(--good)}
@media(max-width:520px){table{font-size:13px}td,th{padding-right:.7rem}.title{font-size:19px}.tick{font-size:16px}.key{font-size:17px}}
"""


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
    try:
        Path(path).write_text(page(simulation, targets, ends), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}", field="html") from error


def page(simulation: Simulation, targets: Sequence[Target] = (), ends: Ends | None = None) -> str:
    """The page as text."""
    from steelyard.report.simulation import placed, to_dict

    s, t = simulation.scenario, simulation.trace
    p, pools = s.plan, simulation.pools
    machines = dict.fromkeys(x.scenario.cluster.machine.name for x in pools)
    count = f" ({simulation.devices} devices)" if simulation.devices > 1 else ""
    title = f"{s.transformer.name} on {' and '.join(machines)}{count}"
    lines = [
        f"{simulation.config.engine}, {simulation.config.rules.title}; policy {simulation.policy}, "
        f"router {simulation.router}; weights {p.weights}, KV cache {p.kv}",
        *(placed(x, pools[-1].role) for x in pools),
        f"traffic: {t.name}; mean {t.isl.mean():,.0f} prompt + {t.osl.mean():,.0f} generated tokens",
    ]
    if simulation.stopped:
        lines.append(f"stopped early: {simulation.stopped}")
    document = to_dict(simulation, targets, ends)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(x)}</p>" for x in lines),
        _facts(simulation, document),
        "<h2>What its users see</h2>",
        _table(document),
        _promises(document),
        "<h2>Where the time went</h2>",
        _shares(document["limited_by"]),
        "<h2>Over time</h2>",
        _charts(_over_time(simulation, targets)),
        "<h2>Distributions</h2>",
        _charts(_histograms(simulation, targets)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _charts(charts: Sequence[Chart]) -> str:
    return '<div class="charts">' + "\n".join(chart.svg() for chart in charts) + "</div>"


def _facts(simulation: Simulation, document: dict[str, Any]) -> str:
    """The figures of the run in a row of cards."""
    rate, kv, cache = document["throughput"], document["kv"], document["prefix_cache"]
    left = [f"{document[x]:,} {x}" for x in ("rejected", "unfinished") if document[x]]
    cards = [
        (
            "completed",
            f"{document['completed']:,} of {document['requests']:,}",
            f"in {q(document['makespan_s'], 's')}" + "".join(f", {x}" for x in left),
        ),
        (
            "throughput",
            f"{figure(rate['requests_per_s'])} requests/s",
            f"{figure(rate['input_tokens_per_s'])} prompt + {figure(rate['output_tokens_per_s'])} generated tokens/s",
        ),
    ]
    if document["slo"]:
        share = f"{rate['goodput_frac']:.1%} of the requests within the limits"
        cards.append(("goodput", f"{figure(rate['goodput_requests_per_s'])} requests/s", share))
    cards += [
        (
            "batch",
            f"{figure(document['batch']['mean'])} requests per step",
            f"at most {document['batch']['max']:,.0f}; at most {document['waiting_max']:,.0f} waiting",
        ),
        (
            "KV cache",
            f"{kv['mean_frac']:.0%} used, {kv['max_frac']:.0%} at most",
            f"{kv['blocks']:,} blocks of {kv['block_tokens']} tokens each; {document['preemptions']:,} preemptions",
        ),
    ]
    if cache["hit_tokens"]:
        cards.append(
            ("prefix cache", f"{cache['hit_frac']:.1%} of prompt tokens found", f"{cache['hit_tokens']:,} tokens")
        )
    watts = document["energy_j"] / max(document["makespan_s"], 1e-12) / simulation.devices
    each = document["energy_j_per_output_token"]
    cards.append(
        (
            "energy",
            q(document["energy_j"], "J"),
            f"{watts:,.0f} W per device" + (f", {q(each, 'J')} per token" if each else ""),
        )
    )
    if document["usd"] is not None:
        million = document["usd_per_million_output_tokens"]
        words = f"{q(million, 'USD')} per million generated tokens" if million is not None else ""
        cards.append(("money", q(document["usd"], "USD"), words))
    made = "".join(
        f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in cards
    )
    return f'<dl class="facts">{made}</dl>'


def _table(document: dict[str, Any]) -> str:
    from steelyard.report.simulation import METRICS, interval, seconds

    head = ("", "mean", "p50", "p90", "p95", "p99")
    between = document["intervals"]
    rows = []
    for name, label in METRICS:
        cells = [f"<td>{escape(label)}</td>"]
        for key in head[1:]:
            value = document[name].get(key)
            span = between[name].get(key) if between else None
            small = f"<small>{escape(interval(*span))}</small>" if span else ""
            cells.append(f"<td>{'-' if value is None else escape(seconds(value))}{small}</td>")
        rows.append("<tr>" + "".join(cells) + "</tr>")
    note = "<p>In small: 80 % intervals, every step at the ends of its own.</p>" if between else ""
    made = "".join(f"<th>{h}</th>" for h in head)
    return f'<div class="wide"><table><tr>{made}</tr>{"".join(rows)}</table></div>{note}'


def _promises(document: dict[str, Any]) -> str:
    from steelyard.report.simulation import interval

    made = ""
    for v in document["verdicts"]:
        word, tone = ("met", "good") if v["met"] else ("missed", "bad")
        span = f" ({interval(*v['interval_s'])})" if v["interval_s"] else ""
        value = "-" if v["value_s"] is None else q(v["value_s"], "s")
        doubt = "" if v["sure"] is not False else "; could be " + ("missed" if v["met"] else "met")
        name = f"{v['metric'].removesuffix('_s').upper()} {v['statistic']}"
        text = f"{name} {value}{span}, promised {q(v['limit_s'], 's')}{doubt}"
        made += f'<p><b class="{tone}">{word}</b> {escape(text)}</p>'
    return made


def _shares(found: dict[str, float]) -> str:
    """Shares of the makespan as one bar."""
    from steelyard.report.simulation import SHORT_OF

    shown = {name: share for name, share in found.items() if share >= 0.001}
    bar = "".join(f'<i class="s-{name}" style="width:{share:.2%}"></i>' for name, share in shown.items())
    keys = "".join(
        f'<span><b class="s-{name}"></b>{escape(SHORT_OF[name])} {share:.1%}</span>' for name, share in shown.items()
    )
    return f'<div class="bar">{bar}</div><p class="keys">{keys}</p>'


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
        chart("KV cache in use", {"": series["kv_frac"] * 100}, y="%", top=100.0),
        chart("requests worked on in steps", {"": series["batch"]}),
        chart(
            "tokens per second",
            {"prompt": series["prefill_tokens_per_s"], "generated": series["decode_tokens_per_s"]},
        ),
    ]
    done = np.flatnonzero(np.asarray(records.completed))
    shown = done[np.linspace(0, len(done) - 1, min(DOTS, len(done))).astype(np.int64)] if done.size else done
    for name, label in (
        ("ttft_s", "time to first token"),
        ("tpot_s", "time per output token"),
        ("e2e_s", "end to end"),
    ):
        made = Chart(f"{label}, by arrival", f"arrival, {unit}", "s", log=True, ends=ends)
        values = np.asarray(getattr(records, name), dtype=np.float64)
        values = np.where(values > 0, values, np.nan)
        middle, lines = percentiles_over_time(records.arrived_at[done], values[done])
        for word, line in zip(("p50", "p90", "p99"), lines, strict=True):
            made.line(word, middle / scale, line)
        made.points("requests", np.asarray(records.arrived_at)[shown] / scale, values[shown])
        for t in targets:
            if t.metric == name:
                made.level(f"{t.label} limit {q(t.limit_s, 's')}", t.limit_s)
        charts.append(made)
    return charts


def _histograms(simulation: Simulation, targets: Sequence[Target]) -> list[Chart]:
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
        note = f"; {over:,} beyond {q(most, 's')} not shown" if over else ""
        chart = Chart(label, f"{label}{note}", ends=(0.0, most), x_unit="s")
        chart.bars("requests", edges, counts)
        for t in targets:
            if t.metric == name:
                chart.mark(f"{t.label} limit", t.limit_s)
        charts.append(chart)
    return charts
