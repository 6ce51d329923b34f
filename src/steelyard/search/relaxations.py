"""When nothing fits: why, and the nearest changes under which a plan exists.

The screen says how far a limit or an SLO must be relaxed; then the plan is searched for under the change, with the
simulator, like any other. Prices and step tables are those of the question itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from steelyard.scenario.slo import Target
from steelyard.search.answer import Candidate, Change, Infeasible
from steelyard.search.candidate_view import closest_candidate, simulated_candidate
from steelyard.search.describe import FAILURES, load_text
from steelyard.search.finalists import Finals, play_finals
from steelyard.search.group import Screen, screen
from steelyard.search.task import PlanTask
from steelyard.search.trial import Outcome, Player
from steelyard.units import format_quantity

__all__ = ["infeasible"]

#: Factors by which an SLO is relaxed, one after the other, until a plan exists.
LOOSER = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
#: Factor between numbers of devices beyond what the screen says, and how many are tried.
STEP, STEPS = 1.12, 6
#: Changes offered at most.
MAX_CHANGES = 4
#: Runs of the simulator for one change at most.
MAX_RUNS = 60


def infeasible(task: PlanTask, screened: Screen, finals: Finals, player: Player) -> tuple[Infeasible, int]:
    """Why a question has no answer and the nearest changes with one; and the simulator runs that took.

    Args:
        task: the question.
        screened: all candidates.
        finals: those that were simulated.
        player: has simulated them.
    """
    relaxations = _Relaxations(task)
    changes = tuple(itertools.islice(relaxations.changes(), MAX_CHANGES))
    closest, outcome = None, None
    if finals.closest is not None:
        outcome = player.play(finals.closest.pools, task.question.required_load, whole=True)
        closest = closest_candidate(task, finals.closest, outcome)
    elif screened.tables:
        allowed = [task.question.allows(t.devices, t.rent_usd_per_hour, t.watts) for t in screened.tables]
        holds = [
            np.where(ok if ok.any() else True, t.capacity, 0.0) for ok, t in zip(allowed, screened.tables, strict=True)
        ]
        k = max(range(len(holds)), key=lambda i: (bool(allowed[i].any()), float(holds[i].max())))
        closest = closest_candidate(task, screened.tables[k].row(int(holds[k].argmax())), None)
    return Infeasible(_reason(task, screened, outcome), changes, closest), relaxations.runs


class _Relaxations:
    """Changes of one question, each with the plan found under it."""

    def __init__(self, task: PlanTask) -> None:
        self.task, self.question = task, task.question
        self.runs = 0

    def changes(self) -> Iterator[Change]:
        """Nearest first: limits, SLOs, formats."""
        yield from self._devices()
        yield from self._budgets()
        every = tuple(range(len(self.question.targets)))
        single = [change for k in every for change in self._looser((k,))]
        yield from single
        if not single and len(every) > 1:
            yield from self._looser(every)
        for name, text in (("kv", "FP8 KV cache"), ("weights", "FP8 weights")):
            if "fp8" not in getattr(self.question, name):
                winner = self._planned(self.task.asking(**{name: ("fp8",)}))
                if winner is not None:
                    yield Change(f"{text}, which may change the answers (--{name} fp8)", {name: "fp8"}, winner)

    def _planned(self, task: PlanTask) -> Candidate | None:
        """The best deployment of a changed question."""
        player = Player(task)
        finals = play_finals(screen(task).tables, task, player, runners_up=0, max_runs=MAX_RUNS)
        self.runs += player.runs
        if not finals.finalists:
            return None
        best = finals.finalists[0]
        rate = best.row.capacity_per_s if math.isnan(best.largest_rate_per_s) else best.largest_rate_per_s
        return simulated_candidate(task, player, best, max(rate, task.question.required_load), interval=False)

    def _least_devices(self, task: PlanTask) -> float:
        """The least devices with which the screen thinks the rate may be held; inf when none are enough."""
        least = math.inf
        for table in screen(task).tables:
            enough = table.capacity * (1 + table.margin / 2) >= task.question.required_load
            enough &= task.question.allows(table.devices, table.rent_usd_per_hour, table.watts)
            least = min(least, float(np.asarray(table.devices[enough], dtype=np.float64).min(initial=math.inf)))
        return least

    def _devices(self) -> Iterator[Change]:
        given = self.question.max_gpus
        if given is None:
            return
        least = self._least_devices(self.task.asking(max_gpus=None))
        number = max(least, given + 1)
        for _ in range(STEPS if math.isfinite(least) else 0):
            winner = self._planned(self.task.asking(max_gpus=int(number)))
            if winner is not None:
                more = winner.devices - given
                text = f"{more} more device{'s' * (more > 1)}: {winner.devices} (--max-gpus {winner.devices})"
                yield Change(text, {"max_gpus": winner.devices}, winner)
                return
            number = max(number + 1, math.ceil(number * STEP))

    def _budgets(self) -> Iterator[Change]:
        """More money or power than the limit."""
        budget, power = self.question.budget_usd_per_hour, self.question.max_w
        if budget is not None:
            winner = self._planned(self.task.asking(budget_usd_per_hour=None, objective="cost"))
            if winner is not None and winner.rent_usd_per_hour is not None:
                usd = math.ceil(winner.rent_usd_per_hour * 100) / 100
                text = f"a budget of {usd:,.2f} USD/h instead of {budget:,.2f} (--budget {usd}usd/h)"
                yield Change(text, {"budget": usd}, winner)
        if power is not None:
            winner = self._planned(self.task.asking(max_w=None, objective="energy"))
            if winner is not None:
                kw = f"{math.ceil(winner.watts / 10) / 100:g}"
                text = f"power up to {kw} kW instead of {power / 1000:g} (--max-power {kw}kW)"
                yield Change(text, {"max_power": f"{kw}kW"}, winner)

    def _looser(self, places: tuple[int, ...]) -> Iterator[Change]:
        """Some SLOs relaxed until the screen has a plan, then until the simulator has one, then a little less."""

        def relaxed(factor: float) -> tuple[Target, ...]:
            return tuple(
                Target(t.metric, t.percentile, float(f"{t.limit_s * factor:.2g}")) if k in places else t
                for k, t in enumerate(self.question.targets)
            )

        low, high = 0, len(LOOSER)  # the first that the screen believes in
        while low < high:
            middle = (low + high) // 2
            if math.isfinite(self._least_devices(self.task.asking(targets=relaxed(LOOSER[middle])))):
                high = middle
            else:
                low = middle + 1
        for i in range(low, len(LOOSER)):
            factor, before = LOOSER[i], LOOSER[i - 1] if i else 1.0
            winner = self._planned(self.task.asking(targets=relaxed(factor)))
            if winner is None:
                continue
            nearer = math.sqrt(factor * before)
            if relaxed(nearer) not in (relaxed(factor), relaxed(before)):
                closer = self._planned(self.task.asking(targets=relaxed(nearer)))
                if closer is not None:
                    factor, winner = nearer, closer
            arguments = {}
            for target in (relaxed(factor)[k] for k in places):
                limit = format_quantity(target.limit_s, "s", 2).replace(" ", "")
                arguments[target.metric.removesuffix("_s")] = f"{target.label}:{limit}"
            slos = " and ".join(f"{name.upper()}: {text}" for name, text in arguments.items())
            options = " ".join(f"--{name} {text}" for name, text in arguments.items())
            yield Change(f"looser {slos} ({options})", arguments, winner)
            return


def _reason(task: PlanTask, screened: Screen, outcome: Outcome | None) -> str:
    question = task.question
    if not screened.groups:
        limit = f" within {question.max_gpus} devices" if question.max_gpus else ""
        first = f"{question.model} fits no replica on {', '.join(question.machines)}{limit}"
        return "; ".join([first, *screened.notes])
    if outcome is not None and outcome.meets:
        return f"no deployment within the limits holds every SLO with {question.sure:.0%}, though the nearest may"
    if outcome is not None and outcome.first_failure:
        over = f", {outcome.worst - 1:.0%} over" if math.isfinite(outcome.worst) else ""
        what = FAILURES[outcome.first_failure][0]
        return f"{what} is broken by every deployment within the limits; the nearest misses it{over}"
    if not screened.candidates:
        return "; ".join(["no deployment within the limits meets the SLOs, even at the lightest load", *screened.notes])
    most = max(float(t.capacity.max()) for t in screened.tables)
    return (
        f"no deployment within the limits holds {load_text(question, question.load)} within the SLOs; "
        f"the most any of them would is about {most:.3g}"
    )
