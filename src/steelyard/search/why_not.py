"""Why a layout that a user names is not the one that was chosen: it cannot be, does not fit, or takes longer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.deployment.train_plan import unoffered
from steelyard.errors import DoesNotFit, InputError
from steelyard.scenario.fields import fields_of
from steelyard.scenario.run_limits import of_a_step
from steelyard.scenario.training import read_train_scenario
from steelyard.training.estimate import TrainEstimate, answer_train

__all__ = ["WhyNot", "why_not_layout"]


@dataclass(frozen=True, eq=False, slots=True)
class WhyNot:
    """A layout beside the one that was chosen."""

    layout: str
    """As it was named."""
    reason: str
    found: TrainEstimate | None
    """Its answer; None where it cannot be."""


def why_not_layout(best: TrainEstimate, layout: Mapping[str, Any]) -> WhyNot:
    """Weigh a layout beside the chosen one: the best there is with what was named, all else as it was asked.

    Args:
        best: the answer with the chosen layout.
        layout: words of ``train`` beside those of the question, such as ``{"tp": 4, "zero": 3}``.
    """
    scenario = best.scenario
    known = fields_of("train")
    words = {n: v for n, v in of_a_step(scenario.words).items() if n in known and n != "why_not"}
    named = {**words, "on": scenario.cluster}
    if scenario.rewarded is None:
        named["gbs"] = scenario.plan.gbs
    elif scenario.rewarded.rollout_on is not None:
        named |= {"rollout_on": scenario.rewarded.rollout_on, "stale": scenario.rewarded.stale}
    said = ", ".join(f"{name} {value}" for name, value in layout.items())
    try:
        other = answer_train(read_train_scenario({**named, **layout}))
    except InputError as error:
        first = error.problems[0]
        return WhyNot(said, f"it cannot be: {first.field}: {first.message}" if first.field else str(error), None)
    except DoesNotFit as error:
        return WhyNot(said, str(error), None)
    plan = other.scenario.plan
    if not other.fits:
        most = other.stages[other.peak_stage]
        short = most.reserved_bytes - other.capacity_bytes
        where = f"{short / 2**30:,.1f} GiB short on stage {other.peak_stage}"
        if short <= 0:
            where = f"the host's memory has no room for {most.host_bytes / 2**30:,.1f} GiB of each device"
        fit = other.would_fit
        change = f"; {fit[0].words} would" if fit else ""
        return WhyNot(said, f"{plan.shape} does not fit: {where}{change}", other)
    missing = "".join(f"; {text}" for text in unoffered(plan))
    if plan.zero >= 2 and plan.framework.zero_doubt > 1.0:
        missing += (
            f"; steps of ZeRO {plan.zero} took {plan.framework.zero_doubt:g} times what is answered where measured"
        )
    return WhyNot(said, _slower(best, other) + missing, other)


def _slower(best: TrainEstimate, other: TrainEstimate) -> str:
    """What of another layout takes longer, in words."""
    plan, ours, theirs = other.scenario.plan, best.step_s, other.step_s
    parts, others = best.breakdown_s, other.breakdown_s
    if best.rewarded is not None and other.rewarded is not None:
        ours, theirs = best.rewarded.step_s, other.rewarded.step_s
        parts, others = best.rewarded.parts_s, other.rewarded.parts_s
    count = other.scenario.cluster.count
    if theirs < 0.995 * ours and count <= best.scenario.cluster.count:
        return f"{plan.spread} takes {theirs / ours:.2f} times as long ({theirs:.3g} s a step)"
    if theirs <= ours * (1.0 + 1e-9):
        if count > best.scenario.cluster.count:
            return f"{plan.spread} on {count} devices takes {theirs:.3g} s a step against {ours:.3g} s, on more devices"
        return f"{plan.spread} is as fast: {theirs:.3g} s a step"
    name = max(parts, key=lambda n: others.get(n, 0.0) - parts[n])
    return (
        f"{plan.spread} takes {theirs / ours:.2f} times as long ({theirs:.3g} s a step); most of it is "
        f"{name}: {others.get(name, 0.0):.3g} s against {parts[name]:.3g} s"
    )
