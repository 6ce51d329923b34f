"""The nearest change of a layout that fits: computing more again, smaller micro-batches, more sharding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from steelyard.deployment.train_plan import SPLITTING, TrainPlan, layout_problems
from steelyard.training.estimate import TrainEstimate, answer_train

__all__ = ["nearest_that_fits"]

#: Sequences no shorter than this are proposed to be halved.
_SHORT = 1024


def _changes(plan: TrainPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes in the order of what they cost, with the words that ask for them."""
    more: dict[str, dict[str, Any]] = (
        {"--recompute full": {"recompute": ("full",), "recompute_layers": 0}} if plan.again != "full" else {}
    )
    smaller: dict[str, dict[str, Any]] = {"--mbs 1": {"mbs": 1}} if plan.mbs > 1 else {}
    cut: dict[str, dict[str, Any]] = {"--zero 3": {"zero": 3}} if plan.zero < 3 and plan.dp > 1 else {}
    yield from {**cut, **smaller, **more}.items()
    for a, b in ((cut, more), (cut, smaller), (smaller, more)):
        for (x, first), (y, second) in ((p, r) for p in a.items() for r in b.items()):
            yield f"{x} {y}", {**first, **second}
    if not plan.frozen and not plan.offload:
        yield "--offload optimizer", {"offload": ("optimizer",)}
        for x, first in (smaller | more).items():
            yield f"--offload optimizer {x}", {"offload": ("optimizer",), **first}
    if plan.task == "lora":
        yield "--task qlora", {"task": "qlora"}
        for x, first in more.items():
            yield f"--task qlora {x}", {"task": "qlora", **first}
    if plan.seq > _SHORT:
        yield f"--seq {plan.seq // 2}", {"seq": plan.seq // 2, **next(iter(more.values()), {})}
    for degree in SPLITTING:
        size = getattr(plan, degree)
        for times in (2, 4, 8):
            if plan.dp % times == 0:
                changed: dict[str, Any] = {degree: size * times, "dp": plan.dp // times, "shard": plan.dp // times}
                yield f"--{degree} {size * times}", changed
                for x, first in more.items():
                    yield f"--{degree} {size * times} {x}", {**changed, **first}


def nearest_that_fits(found: TrainEstimate) -> str:
    """The cheapest of a few changes that fits, as arguments; empty where none does."""
    scenario = found.scenario
    for words, change in _changes(scenario.plan):
        plan = replace(scenario.plan, **change)
        if plan.etp > 1:
            plan = replace(plan, etp=plan.tp)
        if list(layout_problems(plan, scenario.workload, scenario.cluster.count)):
            continue
        if answer_train(replace(scenario, plan=plan, open=())).fits:
            return words
    return ""
