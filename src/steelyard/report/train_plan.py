"""A plan of training: as JSON (``steelyard.train-plan/1``), as rows, and as a report."""

from __future__ import annotations

import json
from dataclasses import replace
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
    "devices_of",
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
        **_answering(row),
    }


def _answering(row: Row) -> dict[str, Any]:
    """Columns of who answers; none where nothing is scored."""
    step, found = row.scenario.rewarded, row.found
    if step is None or found is None or found.rewarded is None:
        return {}
    made = found.rewarded.rollouts
    apart = 0 if step.rollout_on is None else step.rollout_on.count
    told: dict[str, Any] = {"devices": row.devices, "rollout_devices": apart, "stale": step.stale}
    return told | ({} if made is None else {f"rollout_{n}": v for n, v in made.degrees.items()})


def _layout(row: Row) -> str:
    """The layout of those that train, and who answers beside them or before."""
    shape, step, found = row.scenario.plan.shape, row.scenario.rewarded, row.found
    made = None if found is None or found.rewarded is None else found.rewarded.rollouts
    if step is None or made is None:
        return shape
    each = made.cluster.count // made.replicas
    answer = f"{made.replicas} x {each}"
    if step.rollout_on is None:
        return f"{shape}; in turns, answers by {answer}"
    return f"{shape} on {row.scenario.cluster.count}; answers by {answer} beside"


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
        best = next((r for r in answer.rows if r.found is winner), None)
        where = winner.scenario.cluster.title if best is None else devices_of(best)
        layout = winner.scenario.plan.shape if best is None else _layout(best)
        found += [styled(("winner", "bold green"), f"  {where}: {layout}"), *_other_way(answer, best)]
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


def devices_of(row: Row) -> str:
    """The devices of a row, in words."""
    return replace(row.scenario.cluster, count=row.devices).title


def _other_way(answer: TrainAnswer, best: Row | None) -> list[str]:
    """How much longer as many devices take in turns or apart, and what takes it."""
    if best is None or best.found is None or best.found.rewarded is None:
        return []
    machine, turns = best.scenario.cluster.machine.name, best.devices == best.scenario.cluster.count
    others = [
        r
        for r in answer.rows
        if (r.devices, r.scenario.cluster.machine.name) == (best.devices, machine)
        and (r.devices == r.scenario.cluster.count) != turns
    ]
    if not others:
        return []
    other = min(others, key=lambda r: r.step_s)
    done = other.answer.rewarded
    assert done is not None
    if turns:
        waits = f"of those that train {done.idle_frac['train']:.0%} of the time is idle"
        waits += f", of those that answer {done.idle_frac['rollout']:.0%}"
    else:
        waits = f"answers take {done.parts_s['rollout']:.3g} s of its {done.step_s:.3g} s, one after the other"
    kind = "apart" if turns else "in turns"
    longer = f"a step takes {other.step_s / best.step_s:.2f} times as long"
    return [f"  {kind} on as many ({_layout(other)}) {longer}: {waits}"]


#: Heads of :func:`cells`.
HEADS = ("machine", "layout", "micro-batch", "again", "days", "USD", "chance")


def cells(answer: TrainAnswer) -> list[list[str]]:
    """A row per machine and number of devices: its best layout."""
    return [
        [
            f"{r.devices:,} x {r.scenario.cluster.machine.name}",
            _layout(r),
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
    if any(s.rewarded is not None for s in answer.question.scenarios):
        return f"{answer.screened:,} ways weighed, answers played, {answer.seconds:.2f} s of CPU"
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
