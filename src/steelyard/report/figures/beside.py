"""Figures of two things beside each other: two results, measured and predicted, published and predicted, places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import (
    axis,
    bars,
    categories,
    colour,
    dots,
    far_apart,
    level,
    limit,
    line,
    named_rows,
    segments,
    shape,
)
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.estimation.llama_bench import LlamaBench
    from steelyard.estimation.places import Places
    from steelyard.report.compare import Comparison
    from steelyard.simulation.replay import Replay

__all__ = ["accuracy", "comparison_figures", "llama_bench_figures", "place_figures", "replay_figures", "scoreboard"]

#: Rows of a comparison that are drawn at most.
_ROWS = 40


def comparison_figures(found: Comparison) -> list[Figure]:
    """The ratio of every figure both have, on a logarithmic axis around one."""
    rows = [r for r in found.rows() if isinstance(r["ratio"], float) and r["ratio"] > 0][:_ROWS]
    if not rows:
        return []
    first, second = found.names
    names = [r["field"] for r in rows]
    ratios = [r["ratio"] for r in rows]
    ends = [(min(1.0, x), float(i), max(1.0, x), float(i)) for i, x in enumerate(ratios)]
    words = [
        f"{n}\n{first} {_figure(r['a'])}, {second} {_figure(r['b'])}\n{r['ratio']:.3g} times"
        for n, r in zip(names, rows, strict=True)
    ]
    bar = segments(
        "ratio", ends, width=10, lineStyle={"color": "--c0", "opacity": 0.55}, itemStyle={"color": "--c0"}, silent=True
    )
    tips = dots("ratio", ratios, range(len(ratios)), words=words, symbolSize=10, itemStyle={"color": "--c0"})
    bar |= level([limit(x=1.0, words="equal", tone="--ink")])
    reach = max(*(max(x, 1 / x) for x in ratios), 1.5) * 1.15
    option = {
        "height": 22 * len(names) + 60,
        "trigger": "item",
        "xAxis": axis(
            f"{second} over {first}",
            "x",
            log=True,
            min=float(f"{1 / reach:.3g}"),
            max=float(f"{reach:.3g}"),
            ends=False,
        ),
        "yAxis": named_rows(names),
        "series": [bar, tips],
    }
    most = max(rows, key=lambda r: abs(math.log(r["ratio"])))
    says = (
        f"{second} over {first} in {len(rows)} figures; furthest apart is {most['field']}, {most['ratio']:.3g} times."
    )
    table = tuple((r["field"], r["a"], r["b"], r["ratio"]) for r in rows)
    return [Figure("ratios", f"{second} over {first}", says, option, ("figure", first, second, "ratio"), table)]


def _figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else str(value)


def _measured(
    name: str,
    title: str,
    names: Sequence[str],
    rows: Sequence[tuple[float, float, float, float]],
    unit: str,
    axis_name: str,
) -> Figure:
    """Measured values as crosses, predicted ones as dots with their intervals: a row each.

    Args:
        rows: measured, predicted, low, high of each name.
    """
    ends = [(low, float(i), high, float(i)) for i, (_, _, low, high) in enumerate(rows)]
    write = [q(x, unit) if unit else f"{x:,.4g}" for row in rows for x in row]
    words = [
        f"{n}\nmeasured {write[4 * i]}\npredicted {write[4 * i + 1]} (80 %: {write[4 * i + 2]} to {write[4 * i + 3]})"
        for i, n in enumerate(names)
    ]
    at = [float(i) for i in range(len(rows))]
    span = {"color": "--c0", "opacity": 0.3}
    log = far_apart([x for r in rows for x in r])
    series = [
        segments("80 % interval", ends, width=8, lineStyle=span, itemStyle={"color": "--c0"}, silent=True),
        dots("predicted", [r[1] for r in rows], at, words=words, symbolSize=9, itemStyle={"color": "--c0"}),
        dots(
            "measured",
            [r[0] for r in rows],
            at,
            words=words,
            symbolSize=10,
            symbol="diamond",
            itemStyle={"color": "--c1"},
        ),
    ]
    option = {
        "height": 26 * len(names) + 66,
        "trigger": "item",
        "xAxis": axis(axis_name, unit, log=log, zero=False),
        "yAxis": named_rows(names),
        "series": series,
    }
    inside = sum(r[2] <= r[0] <= r[3] for r in rows)
    errors = sorted(abs(r[1] / r[0] - 1) for r in rows if r[0])
    middle = f"; the median error is {errors[len(errors) // 2]:.1%}" if errors else ""
    says = f"{inside} of {len(rows)} measured values lie inside the 80 % interval{middle}."
    heads = ("", "measured", "predicted", "80 % from", "80 % to")
    return Figure(name, title, says, option, heads, tuple((n, *r) for n, r in zip(names, rows, strict=True)))


def replay_figures(found: Replay) -> list[Figure]:
    """Times, and rates, of a measured run beside its simulation."""
    made = []
    for name, title, times in (
        ("times", "Times, measured and simulated", True),
        ("rates", "Rates, measured and simulated", False),
    ):
        mine = [
            f
            for f in found.figures
            if (f.metric != "throughput") == times and f.measured is not None and f.simulated is not None
        ]
        if not mine:
            continue
        names = [
            f"{f.metric.removesuffix('_s').upper()} {f.statistic}" if times else f.statistic.replace("_per_s", "/s")
            for f in mine
        ]
        rows = [
            (
                float(f.measured or 0.0),
                float(f.simulated or 0.0),
                float(f.low if f.low is not None else f.simulated or 0.0),
                float(f.high if f.high is not None else f.simulated or 0.0),
            )
            for f in mine
        ]
        made.append(_measured(name, title, names, rows, "s" if times else "", ""))
    return made


def llama_bench_figures(found: LlamaBench) -> list[Figure]:
    """Speed of every test, measured and predicted."""
    names = [t.test.name for t in found.rows]
    rows = [(float(t.test.tokens_per_s), float(t.predicted), float(t.low), float(t.high)) for t in found.rows]
    return [_measured("speeds", found.name, names, rows, "", "tokens/s")] if rows else []


def place_figures(found: Places) -> list[Figure]:
    """The speed of every place against its price, or of every model against its memory."""
    rows = [place.row() for place in found]
    across = ("memory_bytes", "memory", "GiB", 2.0**30) if found.models else ("price_usd_per_hour", "USD/h", "", 1.0)
    known = [r for r in rows if r[across[0]] and r["tokens_per_s"]]
    if not known:
        return []
    x = [r[across[0]] / across[3] for r in known]
    y = [float(r["tokens_per_s"]) for r in known]
    names = [r["model"] if found.models else f"{r['count']} x {r['machine']}" for r in known]
    unit = across[2]
    words = [
        f"{n}\n{a:,.3g} {unit or across[1]}, {b:,.3g} tokens/s for one user"
        for n, a, b in zip(names, x, y, strict=True)
    ]
    drawn = dots("places", x, y, words=words, symbolSize=10, itemStyle={"color": "--c0", "opacity": 0.8})
    best_yet = 0.0
    for i in sorted(range(len(x)), key=lambda i: (x[i], -y[i])):  # only those are named that nothing beats on both axes
        if y[i] > best_yet * 1.12:
            best_yet = y[i]
            drawn["data"][i]["label"] = {"show": True, "formatter": names[i], "position": "top", "fontSize": 11}
    option = {
        "height": 380,
        "trigger": "item",
        "xAxis": axis(across[1], unit, log=far_apart(x), zero=False),
        "yAxis": axis("tokens/s for one user", "", log=far_apart(y), zero=False),
        "series": [drawn],
    }
    best = max(range(len(y)), key=lambda i: y[i])
    things = "models" if found.models else "machines"
    says = f"{len(known)} of {found.tried} {things}; the fastest is {names[best]}, {y[best]:,.3g} tokens/s."
    heads = (
        "model" if found.models else "machine",
        f"{across[1]}{', ' + unit if unit else ''}",
        "tokens/s for one user",
    )
    title = f"{found.about}: speed against {'memory' if found.models else 'price'}"
    return [Figure("places", title, says, option, heads, tuple(zip(names, x, y, strict=True)))]


def scoreboard(
    points: Sequence[tuple[str, str, float, float, str]],
    *,
    name: str = "published",
    title: str = "Published against predicted",
    labels: tuple[str, str] = ("published, x", "predicted, x"),
) -> Figure:
    """Published against predicted ratios, on logarithmic axes, with the line on which they are equal.

    Args:
        points: group, words, published, predicted and verdict of each; what is not ``reproduced`` is faint.
        name, title: of the figure.
        labels: of the axes.
    """
    groups = sorted({p[0] for p in points})
    ends = [v for p in points for v in p[2:4]]
    low, high = (min(ends), max(ends)) if ends else (1.0, 10.0)
    tone: dict[str, Any] = {"lineStyle": {"color": "--soft", "width": 1}, "itemStyle": {"color": "--soft"}}
    series: list[dict[str, Any]] = [line("equal", [low, high], [low, high], **tone, silent=True, unnamed=True)]
    for i, group in enumerate(groups):
        mine = [p for p in points if p[0] == group]
        style = {"color": colour(i), "borderColor": "--page", "borderWidth": 1}
        made = dots(
            group,
            [p[2] for p in mine],
            [p[3] for p in mine],
            words=[p[1] for p in mine],
            symbolSize=8,
            itemStyle=style,
            symbol=shape(i),
        )
        for item, p in zip(made["data"], mine, strict=True):
            if p[4] != "reproduced":
                item["itemStyle"] = {**style, "opacity": 0.4}
        series.append(made)
    held = sum(p[4] == "reproduced" for p in points)
    says = (
        f"{len(points):,} numbers of papers; {held:,} are reproduced, the others are faint. On the line both are equal."
    )
    option = {
        "height": 460,
        "trigger": "item",
        "xAxis": axis(labels[0], "", log=True),
        "yAxis": axis(labels[1], "", log=True),
        "series": series,
    }
    rows = tuple((g, words.replace("\n", "; "), a, b, verdict) for g, words, a, b, verdict in points)
    return Figure(name, title, says, option, ("", "what", *labels, "verdict"), rows)


def accuracy(
    groups: Mapping[str, tuple[int, float, float]], *, name: str = "accuracy", title: str = "Accuracy"
) -> Figure:
    """Median and 90th percentile of the absolute error by group, worst median last.

    Args:
        groups: rows, median and 90th percentile (as shares) of each.
        name, title: of the figure.
    """
    ordered = sorted(groups.items(), key=lambda item: item[1][1])
    names = [f"{n} ({count:,})" for n, (count, _, _) in ordered]
    far = [limit_ * 100 for _, (_, _, limit_) in ordered]
    mid = [middle * 100 for _, (_, middle, _) in ordered]
    words = [f"{n}\nmedian {m:.1f} %, 90 % of rows within {f:.1f} %" for n, m, f in zip(names, mid, far, strict=True)]
    series = [
        bars(
            "90 % of rows within",
            far,
            words=words,
            barGap="-100%",
            barMaxWidth=14,
            itemStyle={"color": "--c0", "opacity": 0.3},
        ),
        bars("median error", mid, words=words, barMaxWidth=14, itemStyle={"color": "--c0"}),
    ]
    option = {
        "height": 22 * len(names) + 52,
        "trigger": "item",
        "xAxis": axis("", "%"),
        "yAxis": categories(names, down=True),
        "series": series,
    }
    total = sum(count for count, _, _ in groups.values())
    says = f"{total:,} rows in {len(groups)} groups."
    if ordered:
        (best, (_, low, _)), (worst, (_, high, _)) = ordered[0], ordered[-1]
        says = f"{says[:-1]}; median errors from {low:.1%} ({best}) to {high:.1%} ({worst})."
    rows = tuple((n, count, m, f) for n, (count, m, f) in ordered)
    return Figure(name, title, says, option, ("group", "rows", "median error", "90th percentile"), rows)
