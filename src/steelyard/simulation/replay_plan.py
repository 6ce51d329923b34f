"""A plan file played again: the same deployment, traffic and seed give the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from steelyard.cost.moe import Router
from steelyard.deployment.plan_file import PlanFile
from steelyard.errors import InputError, suggest
from steelyard.scenario.fields import GROUPS, fields_of
from steelyard.scenario.shown import read_shown, with_shown
from steelyard.scenario.words import Problems, read_value
from steelyard.simulation.prepared import Options
from steelyard.simulation.result import Simulation, simulate_deployment
from steelyard.traffic.build import Traffic, traffic
from steelyard.workload.catalogue import load_model
from steelyard.workload.reading import loaded_for

__all__ = ["replay_plan"]


def replay_plan(plan: PlanFile) -> Simulation:
    """Play the deployment of a plan file with its traffic and seed: the same file gives the same numbers.

    Raises:
        InputError: the file has no traffic, or the traffic cannot be made.
    """
    if not plan.traffic:
        raise InputError("the plan file has no traffic to replay", field="traffic")
    words = _traffic_of(plan.traffic)
    shown = {name: words.pop(name) for name in GROUPS["shown"] if name in words}
    trace = traffic(Traffic(**words))
    rate = plan.simulation.rate_per_s
    if rate and np.isfinite(trace.rate_per_s) and rate != trace.rate_per_s:
        trace = trace.scaled(rate / trace.rate_per_s)  # the planned rate, not that of the draw
    seed = int(plan.simulation.seed)
    options = Options("fcfs", seed, {}, Router(plan.simulation.skew), log=0)
    if not shown:
        return simulate_deployment(plan.deployment, trace, options)
    model = load_model(plan.deployment.model)
    seen = read_shown("simulate", shown, model)
    model = replace(model, transformer=loaded_for(model.transformer, seen))
    options, trace = replace(options, seen=seen), with_shown(trace, seen, seed)
    return simulate_deployment(plan.deployment, trace, options, model=model)


def _traffic_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The words of the traffic, checked as the command line's are. Raises :class:`InputError` with every problem."""
    known, problems = fields_of("simulate"), Problems()
    names = [*(f.name for f in fields(Traffic)), *GROUPS["shown"]]
    found: dict[str, Any] = {}
    for name, value in given.items():
        with problems.collect():
            if name not in names:
                near = suggest(str(name), names, 1)
                words = "unknown field" + (f"; did you mean {near[0]!r}?" if near else "")
                raise InputError(words, field=f"traffic.{name}")
            found[name] = read_value(known[name], value, f"traffic.{name}")
    problems.done()
    return found
