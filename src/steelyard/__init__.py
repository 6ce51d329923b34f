"""Steelyard: what running any AI model on any machine will cost, before anyone buys, builds or trains anything."""

from __future__ import annotations

from steelyard._version import __version__

TYPE_CHECKING = False  # as of typing, which the command line would load before an interrupt is heeded
if TYPE_CHECKING:
    from typing import Any

#: Where each public name is defined; imported when it is first used, so that ``import steelyard`` stays quick.
HOMES = {
    "DoesNotFit": "steelyard.errors",
    "InputError": "steelyard.errors",
    "SteelyardError": "steelyard.errors",
    "UnknownName": "steelyard.errors",
    "Answer": "steelyard.search.answer",
    "Estimate": "steelyard.estimation.estimate",
    "Explanation": "steelyard.estimation.explanation",
    "Machine": "steelyard.machine",
    "Scenario": "steelyard.scenario.scenario",
    "Simulation": "steelyard.simulation.result",
    "TrainEstimate": "steelyard.training.estimate",
    "advise": "steelyard.search.advise",
    "compare": "steelyard.report.compare",
    "estimate": "steelyard.estimation.estimate",
    "explain": "steelyard.estimation.explanation",
    "find_machine": "steelyard.machine.catalogue",
    "fit": "steelyard.estimation.places",
    "load_machine": "steelyard.machine",
    "load_model": "steelyard.workload.catalogue",
    "network_env": "steelyard.exploration.learners",
    "plan": "steelyard.search.api",
    "plan_training": "steelyard.search.training",
    "search_network": "steelyard.exploration.networks",
    "search_predictor": "steelyard.exploration.predictors",
    "search_bits": "steelyard.exploration.bits",
    "search_prune": "steelyard.exploration.prune",
    "search_placement": "steelyard.exploration.placement",
    "search_chip": "steelyard.search.chip",
    "search_codesign": "steelyard.exploration.codesign",
    "search_cost": "steelyard.exploration.search_cost",
    "simulate": "steelyard.simulation.api",
    "study": "steelyard.studies.api",
    "train": "steelyard.training.estimate",
}

__all__ = ["__version__", *HOMES]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        from importlib import import_module

        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
