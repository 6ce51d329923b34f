"""Figures of a simulation: times of requests, the engine over time, what runs were short of; and of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import axis, bars, categories, dots, level, limit, line
from steelyard.report.simulation import SHORT_OF
from steelyard.simulation.limits import limits
from steelyard.units import figure
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target
    from steelyard.simulation.result import Simulation

__all__ = ["overlaid", "percentiles_over_time", "rate_figure", "simulation_figures"]

Floats = NDArray[np.float64]

#: Points of a time series and of a distribution, dots of a scatter.
BINS, STEPS, DOTS = 240, 201, 1200
#: Windows of arrivals for percentiles over time at most, and requests in one on average at least.
WINDOWS, IN_WINDOW = 60, 25
#: Times of a request that are drawn, with their titles.
TIMES = (("ttft_s", "Time to first token"), ("tpot_s", "Time per output token"), ("e2e_s", "End to end"))
#: Percentiles that are named.
_NAMED = (50, 90, 95, 99)


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


def simulation_figures(simulation: Simulation, targets: Sequence[Target] | None = None) -> list[Figure]:
    """Distributions of the times, the engine over time, times by arrival, and what it was short of.

    Args:
        simulation: the run.
        targets: its SLOs, drawn as lines; None: those it was asked with.
    """
    slo = _limits(targets) if targets is not None else [(m, "limit", x) for m, x in simulation.slo.items()]
    runs = {"": simulation}
    return [*_distributions(runs, slo), _short_of(simulation), *_over_time(runs), *_by_arrival(simulation, slo)]


def overlaid(runs: Mapping[str, Simulation], targets: Sequence[Target] = ()) -> list[Figure]:
    """Several runs in the same pictures: distributions of the times, and the engine over time.

    Args:
        runs: by name.
        targets: SLOs, drawn as lines.
    """
    return [*_distributions(runs, _limits(targets)), *_over_time(runs)]


#: Metric, words and s of a limit.
_Limit = tuple[str, str, float]


def _limits(targets: Sequence[Target]) -> list[_Limit]:
    return [(t.metric, t.label, t.limit_s) for t in targets]


def rate_figure(rates: Sequence[float], goodput: Sequence[float], limit_per_s: float | None = None) -> Figure:
    """Goodput against the rate that is sent: the line bends where the deployment no longer holds its SLOs.

    Args:
        rates: requests/s sent.
        goodput: requests/s that met every SLO.
        limit_per_s: the largest rate that is held, where it is known.
    """
    at = int(np.argmax(goodput)) if len(goodput) else 0
    most = f"{goodput[at]:,.3g} requests/s of {rates[at]:,.3g} sent" if len(goodput) else "nothing was sent"
    series = [
        line("sent", rates, rates, silent=True, lineStyle={"color": "--soft", "width": 1, "type": "dashed"}),
        line(
            "meets every SLO",
            rates,
            goodput,
            words=[f"{g:,.3g} of {r:,.3g} requests/s" for r, g in zip(rates, goodput, strict=True)],
        ),
    ]
    if limit_per_s is not None:
        series[1] |= level([limit(x=limit_per_s, words=f"held {limit_per_s:,.3g}/s")])
    option = {
        "height": 260,
        "trigger": "item",
        "xAxis": axis("requests/s sent", ""),
        "yAxis": axis("requests/s that meet every SLO", ""),
        "series": series,
    }
    rows = tuple(zip(map(float, rates), map(float, goodput), strict=True))
    says = f"Most goodput: {most}."
    return Figure("goodput", "Goodput against rate", says, option, ("sent, 1/s", "meets every SLO, 1/s"), rows)


def _distributions(runs: Mapping[str, Simulation], targets: Sequence[_Limit]) -> list[Figure]:
    """Share of requests that took at most so long, one figure a time."""
    found = []
    for name, label in TIMES:
        series: list[dict[str, Any]] = []
        rows: list[tuple[Any, ...]] = []
        said = []
        for word, run in runs.items():
            values = np.asarray(getattr(run.records, name), dtype=np.float64)[np.asarray(run.records.completed)]
            values = np.sort(values[np.isfinite(values)])
            if not values.size:
                continue
            shares = np.linspace(0.0, 1.0, min(STEPS, max(values.size, 2)))
            series.append(line(word or "requests", np.quantile(values, shares), shares * 100))
            at = np.percentile(values, _NAMED)
            rows += [(word or "all", f"p{p}", float(v)) for p, v in zip(_NAMED, at, strict=True)]
            rows.append((word or "all", "mean", float(values.mean())))
            said.append(f"{word + ': ' if word else ''}p50 {q(at[0], 's')}, p90 {q(at[1], 's')}, p99 {q(at[3], 's')}")
        if not series:
            continue
        mine = [(label, x) for metric, label, x in targets if metric == name]
        if mine:
            series[0] |= level([limit(x=x, words=f"{word} {q(x, 's')}") for word, x in mine])
        ends = [v for s in series for v, _ in s["data"] if v and v > 0]
        log = bool(ends) and max(ends) / min(ends) > 50
        if log:
            for s in series:
                s["data"] = [p for p in s["data"] if p[0] and p[0] > 0]
        option = {
            "height": 220,
            "xAxis": axis("", "s", log=log, zero=not log),
            "yAxis": axis("requests done within", "%", max=100),
            "series": series,
        }
        found.append(
            Figure(name.removesuffix("_s"), label, "; ".join(said) + ".", option, ("run", "", "s"), tuple(rows))
        )
    return found


def _unit_of_time(span_s: float) -> tuple[float, str]:
    """``(s per unit, unit)`` in which an axis of so many s is read easily."""
    return (3600.0, "h") if span_s > 4 * 3600 else (60.0, "min") if span_s > 1200 else (1.0, "s")


def _over_time(runs: Mapping[str, Simulation]) -> list[Figure]:
    """Requests, their flow, the KV cache, steps and tokens over time."""
    span = max(max(run.makespan_s for run in runs.values()), 1e-9)
    scale, unit = _unit_of_time(span)
    series = {word: run.series(BINS) for word, run in runs.items()}

    def drawn_over(
        name: str, title: str, lines: Mapping[str, str], y_unit: str = "", factor: float = 1.0, **y: Any
    ) -> Figure:
        drawn, columns, heads = [], [], []
        rows: list[tuple[Any, ...]] = []
        for word, found in series.items():
            mine = [np.asarray(found[key], dtype=np.float64) * factor for key in lines]
            named = (word,) if len(series) > 1 else ()
            rows += [(*named, *map(float, row)) for row in zip(found["at_s"] / scale, *mine, strict=True)]
            for key, label in lines.items():
                called = f"{word}, {label}" if word and len(lines) > 1 else word or label
                values = np.asarray(found[key], dtype=np.float64) * factor
                area: dict[str, Any] = {"areaStyle": {"opacity": 0.12}} if len(series) * len(lines) == 1 else {}
                drawn.append(line(called, found["at_s"] / scale, values, **area))
                heads.append(called)
                columns.append(values)
        last = max(float(found["at_s"][-1]) / scale for found in series.values())
        tops = [f"{h} at most {_most(c)}{' ' + y_unit if y_unit else ''}" for h, c in zip(heads, columns, strict=True)]
        option = {
            "height": 200,
            "xAxis": axis(f"time, {unit}", "", max=float(f"{last:.4g}"), ends=False),
            "yAxis": axis("", y_unit, **y),
            "series": drawn,
        }
        named_ = ("run",) if len(series) > 1 else ()
        return Figure(name, title, _sentence(tops), option, (*named_, f"time, {unit}", *lines.values()), tuple(rows))

    made = [drawn_over("requests", "Requests in the engine", {"running": "running", "waiting": "waiting"})]
    made.append(_flow(runs, scale, unit))
    made += [
        drawn_over("kv", "KV cache in use", {"kv_frac": "KV cache"}, "%", 100.0, max=100),
        drawn_over("batch", "Requests worked on in a step", {"batch": "requests"}),
        drawn_over(
            "tokens",
            "Tokens per second",
            {"prefill_tokens_per_s": "prompt tokens/s", "decode_tokens_per_s": "generated tokens/s"},
        ),
    ]
    return made


def _sentence(pieces: Sequence[str]) -> str:
    """Pieces as one sentence."""
    text = ", ".join(pieces)
    return text[:1].upper() + text[1:] + "."


def _most(values: Floats) -> str:
    known = values[np.isfinite(values)]
    return figure(float(known.max())) if known.size else "-"


def _flow(runs: Mapping[str, Simulation], scale: float, unit: str) -> Figure:
    """Requests that arrive and that are done, per second."""
    drawn, rows, said = [], [], []
    for word, run in runs.items():
        first, span, records = float(run.totals.get("first_arrival_s", 0.0)), max(run.makespan_s, 1e-9), run.records
        edges = np.linspace(first, first + span, min(BINS, max(10, len(records) // IN_WINDOW)) + 1)
        middle = (edges[1:] + edges[:-1]) / 2 / scale
        for name, at in (
            ("arriving", np.asarray(records.arrived_at)),
            ("completed", np.asarray(records.finished_at)[np.asarray(records.completed)]),
        ):
            counts = np.histogram(at[np.isfinite(at)], edges)[0] / np.diff(edges)
            called = f"{word}, {name}" if word else name
            drawn.append(line(called, middle, counts))
            rows += [(called, float(t), float(c)) for t, c in zip(middle, counts, strict=True)]
            said.append(f"{called} at most {figure(float(counts.max()))}/s")
    option = {"height": 200, "xAxis": axis(f"time, {unit}", "", ends=False), "yAxis": axis("", ""), "series": drawn}
    heads = ("requests", f"time, {unit}", "1/s")
    return Figure(
        "flow",
        "Requests per second",
        _sentence(said),
        option,
        heads,
        tuple(rows),
    )


def _by_arrival(simulation: Simulation, targets: Sequence[_Limit]) -> list[Figure]:
    """Every time by when its request arrived: dots, and percentiles over windows."""
    records, found = simulation.records, []
    scale, unit = _unit_of_time(max(simulation.makespan_s, 1e-9))
    done = np.flatnonzero(np.asarray(records.completed))
    shown = done[np.linspace(0, len(done) - 1, min(DOTS, len(done))).astype(np.int64)] if done.size else done
    for name, label in TIMES:
        values = np.asarray(getattr(records, name), dtype=np.float64)
        values = np.where(values > 0, values, np.nan)
        arrived = np.asarray(records.arrived_at)
        middle, lines = percentiles_over_time(arrived[done], values[done])
        if not middle.size:
            continue
        good = shown[np.isfinite(values[shown])]
        cloud: dict[str, Any] = {"symbolSize": 3, "silent": True, "itemStyle": {"color": "--soft", "opacity": 0.35}}
        series: list[dict[str, Any]] = [dots("requests", arrived[good] / scale, values[good], **cloud)]
        series += [
            line(word, middle / scale, values_, itemStyle={"color": f"--c{i}"}, lineStyle={"color": f"--c{i}"})
            for i, (word, values_) in enumerate(zip(("p50", "p90", "p99"), lines, strict=True))
        ]
        mine = [(label, x) for metric, label, x in targets if metric == name]
        if mine:
            series[0] |= level([limit(y=x, words=f"{word} {q(x, 's')}") for word, x in mine])
        option = {
            "height": 220,
            "trigger": "axis",
            "xAxis": axis(f"arrival, {unit}", "", ends=False),
            "yAxis": axis("", "s", log=True),
            "series": series,
        }
        worst = np.nanargmax(lines[2])
        when = f"{middle[worst] / scale:,.3g} {unit}"
        says = f"p99 is largest, {q(lines[2][worst], 's')}, for those that arrive around {when}."
        rows = tuple((float(t), *(float(x[i]) for x in lines)) for i, t in enumerate((middle / scale).tolist()))
        heads = (f"arrival, {unit}", "p50, s", "p90, s", "p99, s")
        found.append(Figure(f"{name.removesuffix('_s')}-by-arrival", f"{label}, by arrival", says, option, heads, rows))
    return found


def _short_of(simulation: Simulation) -> Figure:
    """Shares of the time by what the engine was short of, as one bar."""
    shares = limits(simulation)
    tones = {"serving": "--c2", "kv": "--c4", "max_num_seqs": "--c1", "compute": "--c0", "scheduling": "--c3"}
    series, rows, said = [], [], []
    for name, words in SHORT_OF.items():
        share = float(shares.get(name, 0.0))
        if share < 0.0005:
            continue
        style = {"color": tones.get(name, "--line")}
        series.append(
            bars(words, [share * 100], words=[f"{words}: {share:.1%}"], stack="time", barWidth=30, itemStyle=style)
        )
        rows.append((words, share))
        said.append(f"{words} {share:.1%}")
    option = {
        "height": 84,
        "trigger": "item",
        "xAxis": axis("", "%", max=100),
        "yAxis": categories([""]),
        "series": series or [bars("nothing ran", [0.0], stack="time")],
    }
    title = "What requests waited for, share of the time"
    return Figure(
        "waiting", title, "; ".join(said) + "." if said else "Nothing ran.", option, ("", "share"), tuple(rows)
    )
