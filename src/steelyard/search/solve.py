"""From a question to the answer: screen, finals, fronts, reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from steelyard.machine.catalogue import account
from steelyard.provenance import Ledger
from steelyard.search.answer import Answer
from steelyard.search.candidate_view import simulated_candidate
from steelyard.search.describe import breaking, reasons
from steelyard.search.finalists import RUNNERS_UP, Finals, play_finals
from steelyard.search.front import cost_front, speed_front
from steelyard.search.group import Screen, screen
from steelyard.search.relaxations import infeasible
from steelyard.search.task import PlanTask
from steelyard.search.trial import Player

__all__ = ["solve"]

#: Stays of a request that the simulated traffic should last, below which the answer says that it did not.
STAYS = 3


def solve(task: PlanTask, ledger: Ledger, *, remedies: bool = True, progress: Callable[[str], object] = str) -> Answer:
    """Answer a question.

    Args:
        task: the question.
        ledger: takes up assumptions and sources.
        remedies: when nothing fits, look for the nearest changes that would.
        progress: is called with what is being done.
    """
    cpu, question = time.process_time(), task.question
    progress("weighing every candidate")
    screened = screen(task)
    progress(f"{screened.candidates:,} candidates weighed, playing the best")
    began = time.perf_counter()
    player = Player(task)
    finals = play_finals(screened.tables, task, player, progress=progress)
    shown = []
    for k, finalist in enumerate(finals.finalists[: 1 + RUNNERS_UP]):
        largest, failure = finalist.largest_rate_per_s, ""
        if k == 0:
            progress("finding what the winner holds")
            guess = finalist.row.capacity_per_s if math.isnan(largest) else largest
            largest, above = player.largest_rate(finalist.row.pools, guess, question.required_load)
            failure = above.first_failure if above is not None else ""
        shown.append(simulated_candidate(task, player, finalist, largest, failure, interval=k == 0))
    stages_s = {**screened.stages_s, "finalists": time.perf_counter() - began}
    _account(ledger, task, screened, finals)
    if shown and not question.concurrency and task.trace.duration_s < STAYS * shown[0].e2e_s:
        ledger.assume(
            f"the played traffic lasts {task.trace.duration_s:,.0f} s, less than {STAYS} stays of a request; more "
            "requests would show the steady state"
        )
    answer = Answer(
        question=question,
        candidates=screened.candidates,
        screened_per_s=screened.candidates / max(screened.cpu_s, 1e-9),
        simulated=player.runs,
        cpu_s=0.0,
        winner=shown[0] if shown else None,
        front=speed_front(task, screened.groups),
        cost_front=cost_front(task, screened.tables),
        runners_up=tuple(shown[1:]),
        infeasible=None,
        ledger=ledger,
        why=reasons(shown, question, screened.candidates, player.runs),
        breaks_first=breaking(shown[0], question) if shown else "",
        stages_s=stages_s,
    )
    if not shown and remedies:
        progress("nothing fits; looking for the nearest changes that would")
        explained, runs = infeasible(task, screened, finals, player)
        answer = replace(answer, infeasible=explained, simulated=player.runs + runs)
    return replace(answer, cpu_s=time.process_time() - cpu)


def _account(ledger: Ledger, task: PlanTask, screened: Screen, finals: Finals) -> None:
    """Assumptions of the plan."""
    for machine in {g.machine.name: g.machine for g in screened.groups}.values():
        account(machine, ledger)
    for note in (*screened.notes, *task.trace.notes):
        ledger.assume(note)
    if finals.exhausted:
        ledger.assume("the runs of the simulator were used up before the order of the candidates was certain")
    if task.question.spares:
        ledger.assume(f"{task.question.spares} replicas of each pool may fail with the SLOs still met")
