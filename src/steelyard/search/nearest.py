"""When nothing fits: why, and the nearest changes under which a plan exists, each planned again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from steelyard.search.answer import Answer, Change, Infeasible, Question
from steelyard.search.demand import Demand
from steelyard.search.finalists import Search
from steelyard.search.objective import Limits
from steelyard.search.shown import choice_candidate
from steelyard.search.solve import Screen, solve
from steelyard.search.trial import Player
from steelyard.serve.slo import Target
from steelyard.serve.traffic.trace import Trace
from steelyard.units import format_quantity
from steelyard.workload.catalogue import Model

__all__ = ["remedied"]

#: Factors by which a promise is loosened, one after the other, until a plan exists.
LOOSER = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
#: Devices, and rents, tried beyond the limit, as factors.
MORE = (1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
#: Halvings of the last step.
CLOSER = 2
#: Changes offered at most.
OFFERED = 4


def remedied(model: Model, trace: Trace, demand: Demand) -> Callable[[Search, Screen, Player, Answer], Answer]:
    """The remedy of a question that has no answer."""

    def remedy(finals: Search, weighed: Screen, player: Player, answer: Answer) -> Answer:
        question = answer.question
        nearest = []
        for text, arguments, changed in _changes(model, trace, demand, question):
            nearest.append(Change(text, arguments, changed))
            if len(nearest) == OFFERED:
                break
        closest = None
        if finals.closest is not None:
            limits = Limits(question.max_gpus, question.budget_usd_per_hour, question.max_w, question.spares)
            closest = choice_candidate(
                finals.closest, question, limits, finals.closest_outcome, math.nan, demand.mean_osl
            )
        if closest is None and weighed.blocks:
            block = max(weighed.blocks, key=lambda b: float(b.capacity.max()))
            choice = block.choice(int(block.capacity.argmax()), math.nan)
            limits = Limits(question.max_gpus, question.budget_usd_per_hour, question.max_w, question.spares)
            usd = float(block.usd_per_hour[int(block.capacity.argmax())])
            closest = choice_candidate(choice, question, limits, None, usd, demand.mean_osl)
        infeasible = Infeasible(_reason(question, finals, weighed), tuple(nearest), closest)
        return dataclasses.replace(answer, infeasible=infeasible)

    return remedy


def _reason(question: Question, finals: Search, weighed: Screen) -> str:
    if not weighed.groups:
        where = ", ".join(question.machines)
        limit = f" within {question.max_gpus} devices" if question.max_gpus else ""
        return "; ".join([f"{question.model} fits no replica on {where}{limit}", *weighed.notes])
    if finals.closest_outcome is not None and finals.closest_outcome.breaks:
        outcome = finals.closest_outcome
        what = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "the end-to-end time", "kv": "the KV cache",
                "power": "the power limit"}[outcome.breaks]  # fmt: skip
        over = f", {outcome.worst - 1:.0%} over" if math.isfinite(outcome.worst) else ""
        return f"{what} is broken by every deployment within the limits; the nearest misses it{over}"
    most = max((float(b.capacity.max()) for b in weighed.blocks), default=0.0)
    if not weighed.candidates:
        return "no deployment within the limits holds the promises, even at the lightest load"
    return (
        f"no deployment within the limits holds {question.rate_per_s:.3g} requests/s at the promises; "
        f"the most any of them would is about {most:.3g}"
    )


def _changes(
    model: Model, trace: Trace, demand: Demand, question: Question
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Changes in words, their arguments and the plan found, nearest first."""

    def planned(**changes: Any) -> Any:
        return solve(model, dataclasses.replace(question, **changes), trace, demand, {}).winner

    if question.max_gpus is not None:
        for factor in MORE:
            number = max(question.max_gpus + 1, math.ceil(question.max_gpus * factor))
            if number == question.max_gpus + 1 and factor > MORE[0]:
                continue
            winner = planned(max_gpus=number)
            if winner is not None:
                more = winner.devices - question.max_gpus
                if more > 0:
                    plural = "s" if more > 1 else ""
                    words = f"{more} more device{plural}: {winner.devices} (--max-gpus {winner.devices})"
                    yield words, {"max_gpus": winner.devices}, winner
                break
    if question.budget_usd_per_hour is not None:
        for factor in MORE:
            winner = planned(budget_usd_per_hour=question.budget_usd_per_hour * factor)
            if winner is not None and winner.usd_per_hour is not None:
                dollars = math.ceil(winner.usd_per_hour * 100) / 100
                yield (f"a budget of {dollars:,.2f} USD/h instead of {question.budget_usd_per_hour:,.2f} "
                       f"(--budget {dollars}usd/h)", {"budget": dollars}, winner)  # fmt: skip
                break
    yield from _looser(question, planned)
    narrow = {"kv": ("fp8", "FP8 KV cache"), "weights": ("fp8", "FP8 weights")}
    for name, (fmt, words) in narrow.items():
        if fmt not in getattr(question, name):
            winner = planned(**{name: (fmt,)})
            if winner is not None:
                yield f"{words}, which may change the answers (--{name} {fmt})", {name: fmt}, winner


def _looser(question: Question, planned: Callable[..., Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    for k, target in enumerate(question.targets):
        before = target.limit_s
        for factor in LOOSER:
            loose = Target(target.metric, target.percentile, float(f"{target.limit_s * factor:.2g}"))
            targets = (*question.targets[:k], loose, *question.targets[k + 1 :])
            winner = planned(targets=targets)
            if winner is not None:
                for _ in range(CLOSER):  # between the last that failed and this one
                    middle = math.sqrt(before * loose.limit_s)
                    nearer = Target(target.metric, target.percentile, float(f"{middle:.2g}"))
                    found = planned(targets=(*question.targets[:k], nearer, *question.targets[k + 1 :]))
                    if found is None:
                        before = middle
                    else:
                        loose, winner = nearer, found
                name = target.metric.removesuffix("_s")
                limit = format_quantity(loose.limit_s, "s", 2).replace(" ", "")
                text = f"{target.label}:{limit}"
                yield f"looser {name.upper()}: {text} (--{name} {text})", {name: text}, winner
                break
            before = loose.limit_s
