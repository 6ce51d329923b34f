"""Figures of a plan of training: time against money, days over the number of devices, and the winner's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.deployment.failures import DAY_S
from steelyard.report.figures.figure import Figure
from steelyard.report.figures.options import axis, colour, dots, far_apart, level, limit, line
from steelyard.report.figures.train import train_figures

if TYPE_CHECKING:
    from steelyard.search.training import TrainAnswer

__all__ = ["plan_figures", "row_words"]


def plan_figures(answer: TrainAnswer) -> list[Figure]:
    """Days against money of the best layouts, money over the number of devices, and the winner's own figures."""
    found = [_front(answer), _counts(answer)]
    if answer.winner is not None:
        found += train_figures(answer.winner)
    return [f for f in found if f is not None]


def _machines(answer: TrainAnswer) -> list[str]:
    return list(dict.fromkeys(r.scenario.cluster.machine.name for r in answer.rows))


def row_words(row: Any) -> str:
    """What the dot of a number of devices says under the pointer."""
    s = row.scenario
    money = "" if row.usd is None else f", {row.usd:,.0f} USD"
    took = f"{row.days:,.1f} days{money}, sure {row.chance:.0%}"
    return f"{s.cluster.count:,} x {s.cluster.machine.name}\n{s.plan.shape}\n{took}"


def _front(answer: TrainAnswer) -> Figure | None:
    """Every machine and number of devices by the days and the money its best layout takes."""
    rows = [r for r in answer.rows if r.usd is not None]
    if not rows:
        return None
    series = []
    for i, machine in enumerate(_machines(answer)):
        mine = sorted((r for r in rows if r.scenario.cluster.machine.name == machine), key=lambda r: r.days)
        if mine:
            x, y = [r.days for r in mine], [r.usd or 0.0 for r in mine]
            tone = {"color": colour(i)}
            series.append(
                line(
                    machine,
                    x,
                    y,
                    words=[row_words(r) for r in mine],
                    lineStyle={**tone, "opacity": 0.5},
                    itemStyle=tone,
                )
            )
    marks = []
    if answer.question.by_s is not None:
        marks.append(limit(x=answer.question.by_s / DAY_S, words=f"by {answer.question.by_s / DAY_S:g} d"))
    if answer.question.budget_usd is not None:
        marks.append(limit(y=answer.question.budget_usd, words="budget"))
    w = answer.winner
    says = f"{len(rows)} numbers of devices, each with its best layout"
    if w is not None and w.run is not None and w.run.usd is not None:
        days, usd = w.run.days["p50"], w.run.usd["p50"]
        best = dots(
            "winner",
            [days],
            [usd],
            symbolSize=15,
            itemStyle={"color": "transparent", "borderColor": "--ink", "borderWidth": 2},
        )
        best["data"][0]["words"] = f"winner: {w.scenario.cluster}\n{w.scenario.plan.shape}"
        series.append(best)
        says += f"; the winner, {w.scenario.cluster}, takes {days:,.1f} days and {usd:,.0f} USD"
    if marks:
        series[0] |= level(marks)
    option = {
        "height": 300,
        "trigger": "item",
        "xAxis": axis("days", "", log=far_apart([r.days for r in rows])),
        "yAxis": axis("USD", "", zero=False),
        "series": series,
    }
    heads = ("machine", "devices", "layout", "days", "USD", "chance")
    table = tuple(
        (r.scenario.cluster.machine.name, r.scenario.cluster.count, r.scenario.plan.shape, r.days, r.usd, r.chance)
        for r in answer.rows
    )
    return Figure("front", "Time against money", says + ".", option, heads, table)


def _counts(answer: TrainAnswer) -> Figure | None:
    """Days over the number of devices, with the line of a perfect speed-up."""
    if len(answer.rows) < 2:
        return None
    series = []
    for i, machine in enumerate(_machines(answer)):
        mine = sorted(
            (r for r in answer.rows if r.scenario.cluster.machine.name == machine),
            key=lambda r: r.scenario.cluster.count,
        )
        x, y = [r.scenario.cluster.count for r in mine], [r.days for r in mine]
        tone = {"color": colour(i)}
        series.append(line(machine, x, y, words=[row_words(r) for r in mine], lineStyle=tone, itemStyle=tone))
    least = min(answer.rows, key=lambda r: r.scenario.cluster.count)
    most = max(r.scenario.cluster.count for r in answer.rows)
    first = least.scenario.cluster.count
    style = {"color": "--soft", "width": 1, "type": "dashed"}
    perfect = line("perfect speed-up", [first, most], [least.days, least.days * first / most], silent=True)
    series.append(perfect | {"lineStyle": style, "itemStyle": {"color": "--soft"}})
    if answer.question.by_s is not None:
        series[0] |= level([limit(y=answer.question.by_s / DAY_S, words=f"by {answer.question.by_s / DAY_S:g} d")])
    fastest = min(answer.rows, key=lambda r: r.days)
    says = (
        f"From {first:,} devices ({least.days:,.1f} days) to {most:,}; the fastest is "
        f"{fastest.scenario.cluster.count:,} x {fastest.scenario.cluster.machine.name}, {fastest.days:,.1f} days."
    )
    option = {
        "height": 280,
        "trigger": "item",
        "xAxis": axis("devices", "", log=True),
        "yAxis": axis("days", "", log=True),
        "series": series,
    }
    heads = ("machine", "devices", "days", "USD")
    rows = tuple((r.scenario.cluster.machine.name, r.scenario.cluster.count, r.days, r.usd) for r in answer.rows)
    return Figure("devices", "Days over the number of devices", says, option, heads, rows)
