"""The techniques of a question to the planner, put on its model, its machines and its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from steelyard.deployment.engine import default_engine
from steelyard.deployment.plan import Plan
from steelyard.errors import Problem, raise_all
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.scenario.scenario import Scenario
from steelyard.techniques._base import Technique, machine_of
from steelyard.workload.catalogue import Model

__all__ = ["changed", "told"]


def changed(
    model: Model, described: Mapping[str, Machine], words: Mapping[str, Any], weights: tuple[str, ...]
) -> tuple[Model, dict[str, Machine], tuple[str, ...]]:
    """Model, machines and formats of the weights with what the techniques of a question change of them.

    Every technique is asked about every machine, and what it makes of one must be what it makes of all.

    Raises:
        InputError: one cannot be used on the model or a machine; it changes what weights take where formats are chosen,
            or otherwise on another machine; it changes what no candidate has.
    """
    techniques = words["techniques"]
    if not techniques:
        return model, dict(described), weights
    machines = {name: machine_of(techniques, machine) for name, machine in described.items()}
    problems: list[Problem] = []
    made: list[Scenario] = []
    stored: dict[str, str] = {}
    for name, machine in machines.items():
        scenario = _scenario(model, machine, words, weights[0] if weights else "")
        problems += [p for technique in techniques for p in technique.applies(scenario) if p not in problems]
        for technique in techniques if not problems else ():
            before, scenario = scenario, technique.scenario(scenario)
            problems += [p for p in _beyond(technique, before, scenario) if p not in problems]
            if scenario.plan.weights != before.plan.weights:
                stored[name] = scenario.plan.weights
                if len(weights) > 1:
                    problems.append(Problem("weights", f"{technique.name} changes what they take: expected one format"))
                elif len({stored.get(other, "") for other in list(machines)[: len(made) + 1]}) > 1:
                    problems.append(Problem(technique.name, f"weights differ on {' and '.join(machines)}: plan on one"))
        made.append(scenario)
    raise_all(problems)
    return made[0].model, machines, tuple(dict.fromkeys(stored.values())) or weights


def told(techniques: Iterable[Technique]) -> Iterator[str]:
    """What an answer says of techniques that are on every candidate: their effect, and what it costs by the papers."""
    for technique in techniques:
        if technique.slot != "speculation":  # is weighed against decoding without
            yield f"every candidate with {technique.told}"


def _scenario(model: Model, machine: Machine, words: Mapping[str, Any], weights: str) -> Scenario:
    """The model on one device of a kind."""
    cluster = cluster_of(machine)
    engine = default_engine(cluster.machine)
    plan = Plan(weights=weights, engine=engine.name).resolved(model.transformer, cluster.machine)
    return Scenario(model, cluster, plan, engine, verb="plan", words=words, techniques=words["techniques"])


def _beyond(technique: Technique, before: Scenario, after: Scenario) -> Iterator[Problem]:
    """What it changes that no candidate has: these have the model, the machine, and the format of the weights."""
    machine = before.cluster.machine
    plan = replace(before.plan, weights=after.plan.weights, activations="").resolved(after.transformer, machine)
    own = replace(after.plan, weights=plan.weights) == plan
    if not own or after.cluster is not before.cluster or after.engine is not before.engine:
        yield Problem(technique.name, "it changes more than the model, the machine and the weights: plan cannot use it")
