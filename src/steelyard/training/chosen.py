"""The layout that is chosen where a question leaves it open: the fastest with memory to spare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from steelyard.deployment.train_plan import BESIDE, CHOSEN, SPLITTING
from steelyard.errors import InputError
from steelyard.scenario.fields import fields_of
from steelyard.scenario.training import TrainScenario, read_train_scenario, usual_frameworks
from steelyard.training.layouts import Layouts, Space, nearest_batch, space_of, weighed_layouts
from steelyard.training.sites import sites_of
from steelyard.training.traffic import Links

__all__ = ["laid_out", "layouts_of", "usual_layouts"]


def laid_out(scenario: TrainScenario) -> TrainScenario:
    """The scenario with its layout: the fastest that fits.

    Where no framework was named and the usual one of so few devices fits none, the next that fits one is taken.

    Raises:
        InputError: no layout is legal.
    """
    found = usual_layouts(scenario)
    if not found.fits and not scenario.words.get("framework"):
        for other in _others(scenario):
            more = usual_layouts(other)
            if more.fits:
                found, scenario = more, other
                break
    return replace(scenario, plan=found.plan_of(int(np.argmin(found.ranked_s))))


def _others(scenario: TrainScenario) -> Iterator[TrainScenario]:
    """The question with other frameworks, as if none were named."""
    words = scenario.words
    for name in usual_frameworks(words, scenario.cluster):
        if name == scenario.plan.framework.name:
            continue
        try:
            other = read_train_scenario({**words, "framework": name})
        except InputError:
            continue  # it has not what was asked
        yield replace(other, cluster=scenario.cluster, words=words)


def usual_layouts(scenario: TrainScenario) -> Layouts:
    """Layouts with the memory to spare of ``plan --train``; where none has, all that fit."""
    sure = float(fields_of("plan_training")["sure"].default)
    margin = scenario.plan.framework.memory_margin(sure)
    found = layouts_of(scenario, margin=margin)
    return found if found.fits else layouts_of(scenario)


def layouts_of(scenario: TrainScenario, counts: Sequence[int] = (), margin: float = 1.0) -> Layouts:
    """Every layout of what a question leaves open.

    Args:
        scenario: the question.
        counts: numbers of devices; empty: those of its cluster.
        margin: memory that is needed over what is predicted.

    Raises:
        InputError: no layout is legal.
    """
    plan, cluster = scenario.plan, scenario.cluster
    space = replace(_space(scenario), counts=tuple(counts))
    found = weighed_layouts(
        scenario.model,
        cluster,
        sites_of(cluster, plan.precision),
        Links.of(cluster),
        plan,
        space,
        most_bytes=cluster.machine.root.capacity_bytes / margin,
        techniques=scenario.words.get("techniques") or (),
    )
    if not len(found) and not counts:
        raise _no_layout(scenario, space)
    return found


def _space(scenario: TrainScenario) -> Space:
    """What is tried: where tp and pp are given, the degrees beside them are."""
    said = set(scenario.given)
    if not set(SPLITTING) & set(scenario.open):
        said |= {*SPLITTING, *BESIDE, "zero", "shard", "ring", "offload"}
    return space_of(scenario.model, scenario.cluster, scenario.plan, said)


def _no_layout(scenario: TrainScenario, space: Space) -> InputError:
    """Why no layout is legal: the batch, and which would do, or the degrees that were given."""
    plan, cluster, name = scenario.plan, scenario.cluster, scenario.model.name
    near = nearest_batch(cluster, plan, space)
    if near and near != plan.gbs:
        message = f"no layout of {name} on {cluster.count} devices divides {plan.gbs} sequences; nearest is {near}"
        return InputError(message, field="gbs")
    given = [n for n in (*CHOSEN, *BESIDE, "etp", "shard", "schedule") if n in scenario.given]
    said = ", ".join(f"{n} {getattr(plan, n)}" for n in given) or "every degree open"
    message = f"no layout of {name} ({scenario.workload.depth} layers) on {cluster.count} devices with {said}"
    return InputError(message, field=given[0] if given else "on")
