"""From a question to the answer: screen, finals, fronts, reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from steelyard.machine.catalogue import account
from steelyard.provenance import Ledger
from steelyard.search.answer import Answer, Candidate
from steelyard.search.candidate_view import simulated_candidate
from steelyard.search.chance import ALL, CERTAINTIES, holds, safety
from steelyard.search.describe import breaking, reasons
from steelyard.search.doubts import narrowing
from steelyard.search.finalists import RUNNERS_UP, Finalist, Finals, play_finals
from steelyard.search.front import cost_front, speed_front
from steelyard.search.group import Screen, Space, screen
from steelyard.search.relaxations import infeasible
from steelyard.search.task import PlanTask
from steelyard.search.trial import Outcome, Player

__all__ = ["solve"]

#: Stays of a request that the simulated traffic should last, below which the answer says that it did not.
STAYS = 3
#: Share of the cost from which a measurement that may save it is named for a plan that is sure already.
DEAR = 0.05


def solve(task: PlanTask, ledger: Ledger, *, remedies: bool = True, progress: Callable[[str], object] = str) -> Answer:
    """Answer a question.

    Args:
        task: the question.
        ledger: takes up assumptions and sources.
        remedies: when nothing fits, look for the nearest changes that would; otherwise for what certainty costs.
        progress: is called with what is being done.
    """
    cpu, question = time.process_time(), task.question
    found = _Levels(task, progress)
    screened, finals, player, shown = found.best()
    certainty = found.certainty(shown) if shown and remedies and question.objective == "cost" else {}
    stages_s = {**screened.stages_s, "finalists": found.finals_s}
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
        simulated=found.runs,
        cpu_s=0.0,
        winner=shown[0] if shown else None,
        front=speed_front(task, screened.groups),
        cost_front=cost_front(task, screened.tables),
        runners_up=tuple(shown[1:]),
        infeasible=None,
        ledger=ledger,
        why=reasons(shown, question, screened.candidates, found.runs),
        breaks_first=breaking(shown[0], question) if shown else "",
        stages_s=stages_s,
        certainty=certainty,
        narrowing=_narrowing(player, finals, shown, certainty),
    )
    if not shown and remedies:
        progress("nothing fits; looking for the nearest changes that would")
        explained, runs = infeasible(task, screened, finals, player)
        answer = replace(answer, infeasible=explained, simulated=found.runs + runs)
    return replace(answer, cpu_s=time.process_time() - cpu)


def _narrowing(
    player: Player, finals: Finals, shown: Sequence[Candidate], certainty: Mapping[float, Candidate | None]
) -> str:
    """What to measure for the winner; nothing when it is sure enough and certainty costs nothing."""
    even = certainty.get(CERTAINTIES[0])
    dear = bool(shown) and even is not None and even.value < shown[0].value * (1 - DEAR)
    if not shown or (shown[0].chance[ALL] >= CERTAINTIES[-1] and not dear):
        return ""
    best = next(f for f in finals.finalists if f.row.pools[0].replica.machine in shown[0].machine)
    chance = {k: v for k, v in shown[0].chance.items() if k != ALL}
    first = "ttft" in chance and chance["ttft"] <= min(chance.values())
    said = narrowing(shown[0].machine, player.spread(best.row.pools)[0], first)
    if not dear or even is None:
        return said
    return f"{said}; as fast as predicted, {even.devices} {even.machine} would do"


class _Levels:
    """The search for each chance that is asked for. What was played for one is known to the others."""

    def __init__(self, task: PlanTask, progress: Callable[[str], object]) -> None:
        self.task, self.progress, self.space = task, progress, Space.of(task)
        self.outcomes: dict[tuple[object, ...], Outcome] = {}
        self.runs, self.finals_s = 0, 0.0

    def search(self, sure: float, runners_up: int = RUNNERS_UP) -> tuple[Screen, Finals, Player, list[Candidate]]:
        """The best deployments that hold every promise with a chance."""
        task = self.task.asking(sure=sure)
        self.progress("weighing every candidate")
        screened = screen(task, self.space)
        self.progress(f"{screened.candidates:,} candidates weighed, playing the best")
        began, player = time.perf_counter(), Player(task)
        player.outcomes = self.outcomes
        finals = play_finals(screened.tables, task, player, runners_up=runners_up, progress=self.progress)
        shown = [self._shown(player, f, k == 0) for k, f in enumerate(finals.finalists[: 1 + runners_up])]
        self.finals_s += time.perf_counter() - began
        self.runs += player.runs
        return screened, finals, player, shown

    def _shown(self, player: Player, finalist: Finalist, first: bool) -> Candidate:
        question, largest, failure = player.task.question, finalist.largest_rate_per_s, ""
        if first or not question.targets:
            self.progress("finding what the winner holds")
            slower = 1.0 if question.concurrency else safety(question.sure, player.spread(finalist.row.pools)[0])[0]
            guess = finalist.row.capacity_per_s * slower if math.isnan(largest) else largest  # as predicted
            most = question.objective == "throughput"
            largest, above = player.largest_rate(finalist.row.pools, guess, question.required_load, sure=most)
            failure = above.first_failure if above is not None else ""
        return simulated_candidate(player.task, player, finalist, largest, failure, interval=first)

    def best(self) -> tuple[Screen, Finals, Player, list[Candidate]]:
        """The best deployments with the chance asked for; without any, those of an even chance, the likeliest first."""
        found = self.search(self.task.question.sure)
        if not found[3] and self.task.question.sure > CERTAINTIES[0]:
            found = self.search(CERTAINTIES[0])
            found[3].sort(key=lambda c: -c.chance[ALL])
        return found

    def certainty(self, shown: Sequence[Candidate]) -> dict[float, Candidate | None]:
        """The cheapest deployment for some chances, the one asked for among them, beside the best that were found."""
        question, winner = self.task.question, shown[0]
        asked = {question.sure: winner if holds(winner.chance[ALL], question.sure) else None}
        for chance in CERTAINTIES:
            if chance in asked:
                continue
            below = [c for c in asked.values() if c is not None and holds(c.chance[ALL], chance)]
            if chance > question.sure and (below or asked[question.sure] is None):
                asked[chance] = below[0] if below else None
            elif chance < question.sure and asked[question.sure] is None:
                likely = [c for c in shown if holds(c.chance[ALL], chance)]
                asked[chance] = min(likely, key=lambda c: c.value, default=None)
            else:
                shown = self.search(chance, runners_up=0)[3]
                asked[chance] = shown[0] if shown else None
        return dict(sorted(asked.items()))


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
