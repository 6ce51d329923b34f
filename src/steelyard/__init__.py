"""Steelyard: what running any AI model on any machine will cost, before anyone buys, builds or trains anything."""

from __future__ import annotations

from typing import Any

from steelyard._version import __version__

#: Where each public name is defined; imported when it is first used, so that ``import steelyard`` stays quick.
_HOMES = {
    "Estimate": "steelyard.estimation.estimate",
    "Machine": "steelyard.machine",
    "Scenario": "steelyard.scenario.scenario",
    "Simulation": "steelyard.simulation.result",
    "estimate": "steelyard.estimation.estimate",
    "find_machine": "steelyard.machine.catalogue",
    "load_machine": "steelyard.machine",
    "load_model": "steelyard.workload.catalogue",
    "plan": "steelyard.search.api",
    "simulate": "steelyard.simulation.api",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
