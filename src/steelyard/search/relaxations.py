"""When nothing fits: why, and the nearest changes under which a plan exists.

The screen says how far a limit or a promise must give way; then the plan is searched for under the change, with the
simulator, like any other. Prices and step tables are those of the question itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from steelyard.machine.catalogue import find_machine
from steelyard.provenance import Ledger
from steelyard.scenario.slo import Target
from steelyard.search.answer import Answer, Candidate, Change, Infeasible, Question
from steelyard.search.candidate_view import candidate_of, choice_candidate
from steelyard.search.demand import Demand
from steelyard.search.finalists import Search, finalists
from steelyard.search.objective import hourly
from steelyard.search.solve import Screen, limits_of, screen
from steelyard.search.trial import Player
from steelyard.traffic.trace import Trace
from steelyard.units import format_quantity
from steelyard.workload.catalogue import Model

__all__ = ["remedied"]

#: Factors by which a promise is loosened, one after the other, until a plan exists.
LOOSER = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
#: Steps of the devices and of a limit beyond what the screen says, where the simulator disagrees.
STEP, STEPS = 1.12, 6
#: Changes offered at most.
OFFERED = 4
#: Runs of the simulator for one change at most.
RUNS = 60


def remedied(model: Model, trace: Trace, demand: Demand) -> Callable[[Search, Screen, Player, Answer], Answer]:
    """The remedy of a question that has no answer."""

    def remedy(finals: Search, weighed: Screen, player: Player, answer: Answer) -> Answer:
        question = answer.question
        changes = _Changes(model, trace, demand, question, player)
        nearest = []
        for change in changes.found():
            nearest.append(change)
            if len(nearest) == OFFERED:
                break
        closest, outcome = None, finals.closest_outcome
        if finals.closest is not None:
            outcome = player.play(finals.closest.parts, question.rate_per_s * (1 + question.headroom_frac), whole=True)
            closest = choice_candidate(
                finals.closest, question, limits_of(question), outcome, math.nan, demand.mean_osl
            )
        elif weighed.blocks:
            block = max(weighed.blocks, key=lambda b: float(b.capacity.max()))
            place = int(block.capacity.argmax())
            closest = choice_candidate(
                block.choice(place, math.nan),
                question,
                limits_of(question),
                None,
                float(block.usd_per_hour[place]),
                demand.mean_osl,
            )
        finals = dataclasses.replace(finals, closest_outcome=outcome)
        infeasible = Infeasible(_reason(question, finals, weighed), tuple(nearest), closest)
        return dataclasses.replace(answer, infeasible=infeasible, simulated=player.played + changes.played)

    return remedy


class _Changes:
    """Changes of one question, each with the plan found under it."""

    def __init__(self, model: Model, trace: Trace, demand: Demand, question: Question, player: Player) -> None:
        self.model, self.trace, self.demand, self.question, self.player = model, trace, demand, question, player
        self.prices = {n: hourly(find_machine(n), question.usd_per_hour, Ledger()) for n in question.machines}
        self.played = 0
        self.need = question.rate_per_s * (1.0 + question.headroom_frac)

    def found(self) -> Iterator[Change]:
        """Nearest first: limits, promises, formats."""
        yield from self._limits()
        every = tuple(range(len(self.question.targets)))
        alone = [change for k in every for change in self._looser((k,))]
        yield from alone
        if not alone and len(every) > 1:
            yield from self._looser(every)
        narrow = {"kv": ("fp8", "FP8 KV cache"), "weights": ("fp8", "FP8 weights")}
        for name, (fmt, words) in narrow.items():
            if fmt not in getattr(self.question, name):
                winner = self._planned(self._changed(**{name: (fmt,)}))
                if winner is not None:
                    yield Change(f"{words}, which may change the answers (--{name} {fmt})", {name: fmt}, winner)

    def _changed(self, **changes: Any) -> tuple[Question, Screen]:
        question = dataclasses.replace(self.question, **changes)
        limits = limits_of(question)
        return question, screen(self.model, question, self.demand, self.prices, limits, self.player.engines)

    def _planned(self, changed: tuple[Question, Screen]) -> Candidate | None:
        question, weighed = changed
        limits = limits_of(question)
        player = Player(
            self.model, self.trace, question.rate_per_s, question.targets, question.skew, self.player.engines
        )
        finals = finalists(weighed.blocks, question, limits, self.need, player, runners=0, runs=RUNS)
        self.played += player.played
        if not finals.found:
            return None
        best = finals.found[0]
        largest = best.choice.capacity if math.isnan(best.capacity) else best.capacity
        largest = max(largest, self.need)
        return candidate_of(best, question, limits, player, self.demand, largest, first=False)

    def _least(self, changed: tuple[Question, Screen], name: str) -> float:
        """The least ``devices``, ``usd_per_hour`` or ``watts`` with which the screen thinks the need may be held."""
        question, weighed = changed
        limits, least = limits_of(question), math.inf
        for block in weighed.blocks:
            good = block.capacity * (1 + block.margin / 2) >= self.need
            good &= limits.keeps(block.devices, block.usd_per_hour, block.watts)
            least = min(least, float(np.asarray(getattr(block, name)[good], dtype=np.float64).min(initial=math.inf)))
        return least

    def _limits(self) -> Iterator[Change]:
        asked = self.question
        if asked.max_gpus is not None:
            least = self._least(self._changed(max_gpus=None), "devices")
            winner, number = None, max(least, asked.max_gpus + 1)
            for _ in range(STEPS if math.isfinite(least) else 0):
                winner = self._planned(self._changed(max_gpus=int(number)))
                if winner is not None:
                    break
                number = max(number + 1, math.ceil(number * STEP))
            if winner is not None:
                more = winner.devices - asked.max_gpus
                words = f"{more} more device{'s' * (more > 1)}: {winner.devices} (--max-gpus {winner.devices})"
                yield Change(words, {"max_gpus": winner.devices}, winner)
        if asked.budget_usd_per_hour is not None:
            winner = self._planned(self._changed(budget_usd_per_hour=None, objective="cost"))
            if winner is not None and winner.usd_per_hour is not None:
                dollars = math.ceil(winner.usd_per_hour * 100) / 100
                words = f"a budget of {dollars:,.2f} USD/h instead of {asked.budget_usd_per_hour:,.2f}"
                yield Change(f"{words} (--budget {dollars}usd/h)", {"budget": dollars}, winner)
        if asked.max_w is not None:
            winner = self._planned(self._changed(max_w=None, objective="energy"))
            if winner is not None:
                kilowatts = math.ceil(winner.watts / 10) / 100
                words = f"power up to {kilowatts:g} kW instead of {asked.max_w / 1000:g} (--max-power {kilowatts:g}kW)"
                yield Change(words, {"max_power": f"{kilowatts:g}kW"}, winner)

    def _looser(self, places: tuple[int, ...]) -> Iterator[Change]:
        """Some promises loosened until the screen has a plan, then until the simulator has one, then less."""

        def loose(factor: float) -> tuple[Target, ...]:
            return tuple(
                Target(t.metric, t.percentile, float(f"{t.limit_s * factor:.2g}")) if k in places else t
                for k, t in enumerate(self.question.targets)
            )

        low, high = 0, len(LOOSER)  # the first that the screen believes in
        while low < high:
            middle = (low + high) // 2
            if math.isfinite(self._least(self._changed(targets=loose(LOOSER[middle])), "devices")):
                high = middle
            else:
                low = middle + 1
        for i in range(low, len(LOOSER)):
            factor = LOOSER[i]
            winner = self._planned(self._changed(targets=loose(factor)))
            if winner is None:
                continue
            nearer = math.sqrt(factor * (LOOSER[i - 1] if i else 1.0))
            if loose(nearer) not in (loose(factor), loose(LOOSER[i - 1] if i else 1.0)):
                closer = self._planned(self._changed(targets=loose(nearer)))
                if closer is not None:
                    factor, winner = nearer, closer
            arguments = {}
            for k in places:
                target = loose(factor)[k]
                text = f"{target.label}:{format_quantity(target.limit_s, 's', 2).replace(' ', '')}"
                arguments[target.metric.removesuffix("_s")] = text
            said = " and ".join(f"{name.upper()}: {text}" for name, text in arguments.items())
            options = " ".join(f"--{name} {text}" for name, text in arguments.items())
            yield Change(f"looser {said} ({options})", arguments, winner)
            return


def _reason(question: Question, finals: Search, weighed: Screen) -> str:
    if not weighed.groups:
        where = ", ".join(question.machines)
        limit = f" within {question.max_gpus} devices" if question.max_gpus else ""
        return "; ".join([f"{question.model} fits no replica on {where}{limit}", *weighed.notes])
    if finals.closest_outcome is not None and finals.closest_outcome.breaks:
        outcome = finals.closest_outcome
        what = {
            "ttft": "TTFT",
            "tpot": "TPOT",
            "e2e": "the end-to-end time",
            "kv": "the KV cache",
            "power": "the power limit",
            "rate": "the rate that is served",
        }[outcome.breaks]
        over = f", {outcome.worst - 1:.0%} over" if math.isfinite(outcome.worst) else ""
        return f"{what} is broken by every deployment within the limits; the nearest misses it{over}"
    most = max((float(b.capacity.max()) for b in weighed.blocks), default=0.0)
    if not weighed.candidates:
        return "no deployment within the limits holds the promises, even at the lightest load"
    return (
        f"no deployment within the limits holds {question.rate_per_s:.3g} requests/s at the promises; "
        f"the most any of them would is about {most:.3g}"
    )
