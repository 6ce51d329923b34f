"""The techniques of a question to the planner, put on its model and its machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.deployment.engine import default_engine
from steelyard.deployment.plan import Plan
from steelyard.errors import raise_all
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Machine
from steelyard.scenario.scenario import Scenario
from steelyard.techniques._base import machine_of
from steelyard.workload.catalogue import Model

__all__ = ["changed"]


def changed(
    model: Model, described: Mapping[str, Machine], words: Mapping[str, Any]
) -> tuple[Model, dict[str, Machine]]:
    """Model and machines with what the techniques of a question change of them. Raises :class:`InputError`."""
    techniques = words["techniques"]
    if not techniques:
        return model, dict(described)
    machines = {name: machine_of(techniques, machine) for name, machine in described.items()}
    cluster = cluster_of(next(iter(machines.values())))
    engine = default_engine(cluster.machine)
    plan = Plan(engine=engine.name).resolved(model.transformer, cluster.machine)
    scenario = Scenario(model, cluster, plan, engine, verb="plan", words=words, techniques=techniques)
    raise_all([p for technique in techniques for p in technique.applies(scenario)])
    for technique in techniques:
        scenario = technique.scenario(scenario)
    return scenario.model, machines
