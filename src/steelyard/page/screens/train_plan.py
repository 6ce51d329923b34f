"""The best layout of training: machines, their number and the layout, for a deadline and a budget."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from steelyard.deployment.failures import DAY_S
from steelyard.page.screen import Screen, Shown, Tell, with_addresses
from steelyard.page.trained import again_text, layout_of, sides_of, view_of
from steelyard.report.figures import figures_of
from steelyard.scenario.fields import fields_of
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.search.training import Row, TrainAnswer

__all__ = ["SCREEN"]

HEADS = (
    ("devices", True),
    ("layout", True),
    ("step", False),
    ("days", False),
    ("USD", False),
    ("MWh", False),
    ("chance", False),
    ("why not", True),
)


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The plan of training of one question."""
    import steelyard as sy
    from steelyard.report import train_plan as report
    from steelyard.report.figures.train_plan import row_words

    answer = sy.plan_training(**words, tell=lambda said: tell(said, None))
    w, asked = answer.winner, answer.question
    view: dict[str, Any] = {"title": str(words["model"]), "fits": True, **({} if w is None else view_of(w))}
    view |= {
        "asked": f"Wanted: {report.wish(answer)}.",
        "reason": "" if w is not None else answer.reason,
        "nearest": "" if w is not None else report.nearest(answer),
        "heads": HEADS,
        "rows": _rows(answer, words),
        "length": "" if asked.scenarios[0].tokens else "No length is given: days and money are of a trillion tokens.",
        "effort": f"{answer.screened:,} layouts priced, {answer.seconds:.2f} s of CPU",
    }
    places = {row_words(r): f"/train?{_opened(r, words)}" for r in answer.rows}
    drawn = [with_addresses(f.to_dict(), places) for f in figures_of(answer)]
    files = (
        {} if w is None or w.kinds else {n: t for n, t in report.files(answer).items() if not n.endswith("plan.json")}
    )
    return Shown(report.to_dict(answer), report.flat_rows(answer), drawn, view, files)


def _rows(answer: TrainAnswer, words: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best layout of every machine and number of devices, the winner first, then the fastest."""
    best = None if answer.winner is None else _key(answer.winner.scenario)
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for row in answer.rows:
        s = row.scenario
        cells: list[tuple[str, Any]] = [
            (f"{s.cluster.count:,} x {s.cluster.machine.name}", s.cluster.count),
            (s.plan.shape, None),
            (q(row.step_s, "s"), row.step_s),
            (f"{row.days:,.1f}", row.days),
            ("–", "") if row.usd is None else (f"{row.usd:,.0f}", row.usd),
            (f"{row.kwh / 1e3:,.1f}", row.kwh),
            (f"{row.chance:.0%}", row.chance),
            (_why_not(answer, row), None),
        ]
        won = _key(s) == best
        below = f"micro-batch {s.plan.mbs}, computed again: {again_text(s.plan)}"
        made = {"cells": cells, "below": below, "winner": won, "open": _opened(row, words)}
        found.append(((not won, row.days, row.usd or 0.0, len(found)), made))
    return [made for _, made in sorted(found, key=lambda pair: pair[0])]


def _key(scenario: Any) -> tuple[str, int, str]:
    return scenario.cluster.machine.name, scenario.cluster.count, scenario.plan.framework.name


def _why_not(answer: TrainAnswer, row: Row) -> str:
    """What the best layout on so many devices lacks, against the winner's row."""
    asked = answer.question
    best = None if answer.winner is None else _key(answer.winner.scenario)
    if _key(row.scenario) == best:
        return "the winner"
    said = []
    if asked.by_s is not None and row.days > asked.by_s / DAY_S:
        said.append("too late")
    if asked.budget_usd is not None and row.usd is not None and row.usd > asked.budget_usd:
        said.append("too dear")
    if not said and row.chance < asked.sure:
        said.append(f"holds with {row.chance:.0%}, {asked.sure:.0%} is asked")
    won = next((r for r in answer.rows if _key(r.scenario) == best), None)
    if won is not None:
        pairs = {
            "time": (row.days, won.days, "days"),
            "energy": (row.kwh, won.kwh, "energy"),
            "cost": (row.usd or row.days, won.usd or won.days, "money" if won.usd else "days"),
        }
        own, least, what = pairs[asked.objective]
        if own > least * 1.0005:
            said.append(
                f"{own / least - 1:.1%} more {what}" if own < 3 * least else f"{own / least:.1f} times the {what}"
            )
    return "; ".join(said) or "as good"


def _opened(row: Row, words: Mapping[str, Any]) -> str:
    """The query that weighs a layout in ``train``."""
    s, known = row.scenario, fields_of("train")
    same = {n: v for n, v in words.items() if n in known and n not in ("on", "max_gpus", "framework")}
    named = {"on": str(s.cluster), "framework": s.plan.framework.name}
    return urlencode({**same, **named, "gbs": s.plan.gbs, **layout_of(s.plan, "train")}, doseq=True)


#: What is asked first.
_START = {"model": "llama-3.1-70b", "on": "h100_sxm,b200_sxm", "gbs": "1024", "tokens": "2T", "by": "60d"}

SCREEN = Screen(
    name="train_plan",
    title="The best layout",
    says="The machines, their number and the layout of a training run that ends in time and in budget.",
    ask=ask,
    verb="plan_training",
    command="plan --train",
    function="plan_training",
    usual="model on framework precision gbs seq tokens failures objective by budget max_gpus sure",
    start=_START,
    long=True,
    examples=(
        (
            "2T tokens of a 70B model within 60 days: which GPU, how many, which layout?",
            _START,
        ),
        (
            "The cheapest way to train an 8B model on 1T tokens",
            {
                "model": "llama-3.1-8b",
                "on": "h100_sxm",
                "gbs": "512",
                "tokens": "1T",
                "objective": "cost",
                "max_gpus": "512",
            },
        ),
    ),
    brings=(
        ("front", "days and money against the number of devices"),
        ("table", "the best layout of every number of devices, and why the others are not it"),
        ("bars", "memory of every stage, the pipeline, and what keeps it from the peak"),
        ("files", "the files that launch it"),
    ),
    listed=False,
    under="train",
    template="train.html",
    sides=partial(sides_of, "train_plan"),
)
