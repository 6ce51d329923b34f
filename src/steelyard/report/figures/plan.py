"""Figures of a plan: the fronts, what certainty costs, the candidates' promises, own devices against an API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.report import plan as report
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import (
    axis,
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
    from steelyard.search.answer import Answer, Candidate
    from steelyard.search.ways import Ways

__all__ = ["candidate_words", "front_figures", "plan_figures", "ways_figure"]

#: Diameter of a candidate and of the winner, pixels.
_DOT, _BEST = 9, 16
#: Points of the line of an API.
_POINTS = 60


def plan_figures(answer: Answer) -> list[Figure]:
    """The fronts, what certainty costs, the winner's times against its SLOs, and ways to pay."""
    found = [*front_figures(answer), _certainty(answer), _promises(answer)]
    if answer.ways is not None:
        found.append(ways_figure(answer.ways))
    return [f for f in found if f is not None]


def front_figures(answer: Answer) -> list[Figure]:
    """Speed for a user against yield of a device, and rent against latency; none where nothing is on a front."""
    w = answer.winner
    others = [*([w] if w is not None else []), *answer.runners_up]
    cost = [c for c in answer.cost_front if c.rent_usd_per_hour is not None]
    priced = [c for c in others if c.rent_usd_per_hour is not None]
    groups = list(dict.fromkeys(_group(c) for c in (*others, *answer.front, *cost)))
    found = []
    if answer.front:
        tpot = [t.limit_s for t in answer.question.targets if t.metric == "tpot_s"]
        marks = [limit(x=1 / min(tpot), words=f"SLO: {q(min(tpot), 's')} a token")] if tpot else []
        axes = axis("tokens/s for one user", ""), axis("tokens/s per device", "")
        found.append(
            _front(
                ("front", "Speed for a user against yield of a device"),
                answer.front,
                others,
                w,
                groups,
                lambda c: (c.tokens_per_s_per_user, _yield(c)),
                axes,
                marks,
            )
        )
    if cost:
        ttft = [t.limit_s for t in answer.question.targets if t.metric == "ttft_s"]
        marks = [limit(x=min(ttft), words=f"SLO: {q(min(ttft), 's')}")] if ttft else []
        rents = [c.rent_usd_per_hour or 0.0 for c in (*cost, *priced)]
        axes = axis("time to first token", "s"), axis("USD per hour", "", log=far_apart(rents))
        found.append(
            _front(
                ("rent", "Rent against latency"),
                cost,
                priced,
                w,
                groups,
                lambda c: (c.ttft_s, c.rent_usd_per_hour or 0.0),
                axes,
                marks,
            )
        )
    return found


def _yield(c: Candidate) -> float:
    """Tokens/s per device at the load at which a user sees the speed beside it."""
    return c.tokens_per_s / c.devices if c.simulated else c.tokens_per_s_per_device


def _group(c: Candidate) -> str:
    return f"{c.machine}, {c.mode}"


def candidate_words(c: Candidate) -> str:
    """What the dot of a candidate says under the pointer."""
    return (
        f"{report.machines_text(c)}: {c.shape}, {c.engine}\n{report.money(c)}\n"
        f"TTFT {q(c.ttft_s, 's')}, TPOT {q(c.tpot_s, 's')}"
    )


def _front(
    named: tuple[str, str],
    front: Sequence[Candidate],
    others: Sequence[Candidate],
    winner: Candidate | None,
    groups: Sequence[str],
    place: Callable[[Candidate], tuple[float, float]],
    axes: tuple[dict[str, Any], dict[str, Any]],
    marks: Sequence[dict[str, Any]],
) -> Figure:
    """Every candidate once as a dot, those on the front full, a line through them, the winner named."""
    placed: dict[str, tuple[Candidate, bool]] = {}
    for k, c in enumerate((*front, *others)):
        placed.setdefault(repr(c.deployment), (c, k < len(front)))
    way = sorted(map(place, front), key=lambda at: (at[0], -at[1]))
    stroke: dict[str, Any] = {"lineStyle": {"color": "--soft", "width": 1.2}, "itemStyle": {"color": "--soft"}}
    drawn = line("front", [x for x, _ in way], [y for _, y in way], **stroke, silent=True, unnamed=True)
    series: list[dict[str, Any]] = [drawn | level(marks)]
    rows = []
    for i, group in enumerate(groups):
        mine = [(c, on) for c, on in placed.values() if _group(c) == group]
        if not mine:
            continue
        best = [winner is not None and c.deployment == winner.deployment for c, _ in mine]
        x, y = zip(*(place(c) for c, _ in mine), strict=True)
        style = {"color": colour(i), "borderColor": "--page", "borderWidth": 1}
        words = [candidate_words(c) for c, _ in mine]
        made = dots(group, x, y, words=words, itemStyle=style, symbol=shape(i))
        for item, (_, on), won in zip(made["data"], mine, best, strict=True):
            item["symbolSize"] = _BEST if won else _DOT
            if won:
                item["label"] = {"show": True, "formatter": "winner", "position": "top", "fontWeight": 600}
                item["itemStyle"] = {**style, "borderColor": "--ink", "borderWidth": 2}
            elif not on:
                item["itemStyle"] = {**style, "opacity": 0.45}
        series.append(made)
        rows += [
            (group, c.shape, c.engine, float(a), float(b), on, won)
            for (c, on), won, a, b in zip(mine, best, x, y, strict=True)
        ]
    names = [a["name"] for a in axes]
    last = max([m["xAxis"] for m in marks], default=0.0)
    if last > max(place(c)[0] for c, _ in placed.values()):
        axes[0]["max"] = float(f"{last * 1.08:.3g}")
    says = f"{sum(on for _, on in placed.values())} candidates that no other beats on both axes, of {len(placed)} shown"
    if winner is not None and repr(winner.deployment) in placed:
        drawn_as = placed[repr(winner.deployment)][0]
        x_, y_ = place(drawn_as)
        says += f"; the winner, {report.machines_text(winner)}, {winner.shape}, "
        says += f"is at {_at(axes[0], x_)} and {_at(axes[1], y_)}"
        if winner.simulated and not drawn_as.simulated:  # as the others of the front
            x_, y_ = place(winner)
            says += f" as screened, and when simulated at {_at(axes[0], x_)} and {_at(axes[1], y_)}"
    option = {"height": 340, "trigger": "item", "xAxis": axes[0], "yAxis": axes[1], "series": series}
    heads = ("machine and mode", "shape", "engine", *names, "on the front", "winner")
    return Figure(*named, says + ".", option, heads, tuple(rows))


def _at(scale: dict[str, Any], value: float) -> str:
    unit = scale["axisLabel"]["formatter"]["unit"]
    return q(value, unit) if unit else f"{value:,.3g} {scale['name']}"


def _certainty(answer: Answer) -> Figure | None:
    """The rent of the cheapest deployment that holds every promise with a chance, over that chance."""
    known = {p: c for p, c in answer.certainty.items() if c is not None and c.rent_usd_per_hour is not None}
    if len(known) < 2:
        return None
    chances, rents = [p * 100 for p in known], [c.rent_usd_per_hour or 0.0 for c in known.values()]
    words = [f"{p:.0%} sure\n{candidate_words(c)}" for p, c in known.items()]
    says = "; ".join(
        f"{p:.0%} sure: {c.rent_usd_per_hour:,.2f} USD/h, {c.shape} on {c.machine}" for p, c in known.items()
    )
    option = {
        "height": 220,
        "trigger": "item",
        "xAxis": axis("chance that every SLO holds", "%", zero=False, max=100),
        "yAxis": axis("USD per hour", ""),
        "series": [line("cheapest", chances, rents, words=words, step="end", itemStyle={"color": "--c0"})],
    }
    rows = tuple((p, c.rent_usd_per_hour, c.machine, c.shape) for p, c in known.items())
    heads = ("chance", "USD per hour", "machine", "shape")
    return Figure("certainty", "What certainty costs", says + ".", option, heads, rows)


def _promises(answer: Answer) -> Figure | None:
    """Times at the percentiles of the SLOs over their limits, with 80 % intervals, of every candidate."""
    targets = answer.question.targets
    shown = [*([answer.winner] if answer.winner is not None else []), *answer.runners_up]
    if not targets or not shown:
        return None
    names = [("winner: " if c is answer.winner else "") + f"{c.shape} {c.machine}" for c in shown]
    names = [n if names.index(n) == i else f"{n}, {i + 1}" for i, n in enumerate(names)]
    series: list[dict[str, Any]] = []
    rows = []
    for k, target in enumerate(targets):
        offset = (k - (len(targets) - 1) / 2) * 0.22
        at, ends, words = [], [], []
        for i, c in enumerate(shown):
            value = report.met(c, target)[0]
            low, high = c.interval.get(target.metric, (value, value))
            at.append((value / target.limit_s * 100, i + offset))
            ends.append((low / target.limit_s * 100, i + offset, high / target.limit_s * 100, i + offset))
            said = f"{target.label} {q(value, 's')} of {q(target.limit_s, 's')}"
            words.append(f"{names[i]}\n{said}\n80 %: {q(low, 's')} to {q(high, 's')}")
            rows.append((names[i], target.label, value, low, high, target.limit_s))
        tone = {"color": colour(k)}
        label = f"{target.label} {q(target.limit_s, 's')}"
        series.append(segments(label, ends, width=5, lineStyle={**tone, "opacity": 0.35}, itemStyle=tone, silent=True))
        x, y = zip(*at, strict=True)
        series.append(dots(label, x, y, words=words, itemStyle=tone, symbolSize=9))
    series[0] |= level([limit(x=100, words="limit")])
    option = {
        "height": 30 * len(shown) + 70,
        "trigger": "item",
        "xAxis": axis("of the limit", "%"),
        "yAxis": named_rows(names),
        "series": series,
    }
    kept = sum(c.meets for c in shown)
    says = f"{kept} of {len(shown)} candidates meet every SLO; bars are 80 % intervals, the line is the limit."
    heads = ("candidate", "SLO", "s", "80 % from", "80 % to", "limit, s")
    return Figure("promises", "Times against their limits", says, option, heads, tuple(rows))


def ways_figure(ways: Ways) -> Figure | None:
    """Cost over the mean rate: the API's line meets those of devices where they begin to pay; None without an API."""
    if ways.request_usd is None:
        return None
    most = max(1.2 * min(ways.break_even_per_s or 0.0, 3 * ways.rate_per_s), 1.5 * ways.rate_per_s)
    rate = np.linspace(0.0, most, _POINTS)
    series = [line("api", rate, rate * ways.request_usd * 3600.0)]
    series += [line(w.name, [0.0, most], [w.usd_per_hour, w.usd_per_hour]) for w in ways.ways if w.name != "api"]
    series[0] |= level([limit(x=ways.rate_per_s, words="asked", tone="--ink")])
    said = ", ".join(f"{w.name} {w.usd_per_hour:,.2f}" for w in ways.ways)
    even = f"; rented it pays from {ways.break_even_per_s:,.3g} requests/s" if ways.break_even_per_s else ""
    option = {
        "height": 280,
        "xAxis": axis("requests/s over all hours", ""),
        "yAxis": axis("USD per hour", ""),
        "series": series,
    }
    rows = tuple((w.name, w.usd_per_hour, w.note) for w in ways.ways)
    says = f"USD per hour at {ways.rate_per_s:,.3g} requests/s: {said}{even}."
    return Figure("ways", "Own or API: cost by the mean rate", says, option, ("way", "USD/h", "how"), rows)
