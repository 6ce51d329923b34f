"""A plan of training: as JSON (``steelyard.train-plan/1``), as rows, and as a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from steelyard.deployment.failures import DAY_S
from steelyard.report import train
from steelyard.report.paper import columns, render, styled
from steelyard.report.plain import plain
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.search.training import Row, TrainAnswer

__all__ = [
    "HEADS",
    "SCHEMA",
    "cells",
    "effort",
    "files",
    "flat_rows",
    "nearest",
    "parts",
    "report",
    "summary",
    "to_dict",
    "wish",
]

SCHEMA = "steelyard.train-plan/1"


def to_dict(answer: TrainAnswer) -> dict[str, Any]:
    """The answer in the form ``steelyard.train-plan/1``: SI units, nothing that is not finite."""
    from steelyard.search.training import provenance_of

    question = answer.question
    document = {
        "schema": SCHEMA,
        "objective": question.objective,
        "by_s": question.by_s,
        "budget_usd": question.budget_usd,
        "sure_frac": question.sure,
        "winner": None if answer.winner is None else train.to_dict(answer.winner),
        "finalists": [train.flat(f) for f in answer.finalists],
        "candidates": flat_rows(answer),
        "reason": answer.reason or None,
        "layouts": answer.screened,
        "cpu_s": answer.seconds,
        "provenance": provenance_of(question),
    }
    return plain(document)  # type: ignore[no-any-return]


def _flat(row: Row) -> dict[str, Any]:
    s = row.scenario
    return {
        "machine": s.cluster.machine.name,
        "count": s.cluster.count,
        "framework": s.plan.framework.name,
        **{n: v for n, v in s.plan.to_dict().items() if n not in ("recompute", "devices", "gbs", "seq", "task")},
        "recompute": s.plan.again,
        "step_s": row.step_s,
        "days": row.days,
        "usd": row.usd,
        "kwh": row.kwh,
        "chance_frac": row.chance,
    }


def flat_rows(answer: TrainAnswer) -> list[dict[str, Any]]:
    """The best layout of every machine and number of devices."""
    return [plain(_flat(row)) for row in answer.rows]


def summary(answer: TrainAnswer) -> str:
    """One line for a Python prompt."""
    if answer.winner is None:
        return f"<TrainAnswer: no plan, {answer.reason}>"
    s = answer.winner.scenario
    return f"<TrainAnswer: {s.cluster}, {s.plan.shape}: {q(answer.winner.step_s, 's')} a step>"


def report(answer: TrainAnswer, width: int | None = None) -> str:
    """The whole answer as text."""
    return render(parts(answer), width)


def wish(answer: TrainAnswer) -> str:
    """What was asked for, in words."""
    question, limits = answer.question, []
    if question.by_s is not None:
        limits.append(f"within {question.by_s / DAY_S:g} days")
    if question.budget_usd is not None:
        limits.append(f"for at most {question.budget_usd:,.0f} USD")
    text = f"least {question.objective}{', ' if limits else ''}{' and '.join(limits)}"
    return f"{text}, with {question.sure:.0%}" if limits else text


def parts(answer: TrainAnswer) -> list[Any]:
    """The report as renderables."""
    question, winner = answer.question, answer.winner
    found: list[Any] = [styled((wish(answer), "bold"))]
    if winner is None:
        found += [styled(("no plan", "bold red"), f"  {answer.reason}")]
    else:
        found += [styled(("winner", "bold green"), f"  {winner.scenario.cluster.title}: {winner.scenario.plan.shape}")]
        if winner.run is not None and question.by_s is not None:
            found.append(f"  in time with {winner.run.chance_by(question.by_s / DAY_S):.0%}")
        if winner.run is not None and question.budget_usd is not None:
            within = winner.run.chance_within(question.budget_usd)
            found.append("" if within is None else f"  in budget with {within:.0%}")
        found += ["", *train.parts(winner)]
    length = "" if question.scenarios[0].tokens else " (of a trillion tokens)"
    return [
        *found,
        "",
        styled((f"time against money: the best layout of every number of devices{length}", "bold")),
        columns(HEADS, cells(answer), numeric=["micro-batch", "days", "USD", "chance"], fold=["layout"]),
        effort(answer),
    ]


#: Heads of :func:`cells`.
HEADS = ("machine", "layout", "micro-batch", "again", "days", "USD", "chance")


def cells(answer: TrainAnswer) -> list[list[str]]:
    """A row per machine and number of devices: its best layout."""
    return [
        [
            f"{r.scenario.cluster.count:,} x {r.scenario.cluster.machine.name}",
            r.scenario.plan.shape,
            str(r.scenario.plan.mbs),
            r.scenario.plan.again,
            f"{r.days:,.1f}",
            "-" if r.usd is None else f"{r.usd:,.0f}",
            f"{r.chance:.0%}",
        ]
        for r in answer.rows
    ]


def effort(answer: TrainAnswer) -> str:
    """How many layouts were priced, and how fast."""
    speed = answer.screened / max(answer.seconds, 1e-9)
    return f"{answer.screened:,} layouts priced ({speed:,.0f}/s), {answer.seconds:.2f} s of CPU"


def nearest(answer: TrainAnswer) -> str:
    """What would make a plan possible, in words."""
    if not answer.rows:
        return "more or larger devices, --recompute full, --zero 3"
    best = min(answer.rows, key=lambda r: r.days)
    return f"--by {best.days * 1.3:.0f}d, or more devices (--max-gpus)"


def files(answer: TrainAnswer) -> dict[str, str]:
    """The files of a plan: what launches the winner, and the answer."""
    from steelyard.launch.training import training_files

    said = {"train_plan.json": "the whole answer (schema steelyard.train-plan/1)"}
    made = {} if answer.winner is None else training_files(answer.winner, said)
    return {**made, "train_plan.json": json.dumps(to_dict(answer), indent=2) + "\n"}
