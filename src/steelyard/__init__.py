"""Steelyard: what running any AI model on any machine will cost, before anyone buys, builds or trains anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard._version import __version__

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate, estimate
    from steelyard.machine import Machine, load_machine
    from steelyard.machine.catalogue import find_machine
    from steelyard.search.api import advise
    from steelyard.simulation.api import simulate
    from steelyard.workload.catalogue import load_model

__all__ = [
    "Estimate",
    "Machine",
    "__version__",
    "advise",
    "estimate",
    "find_machine",
    "load_machine",
    "load_model",
    "simulate",
]

_WHERE = {
    "estimate": "steelyard.estimation.estimate",
    "simulate": "steelyard.simulation.api",
    "advise": "steelyard.search.api",
    "Estimate": "steelyard.estimation.estimate",
    "Machine": "steelyard.machine",
    "load_machine": "steelyard.machine",
    "find_machine": "steelyard.machine.catalogue",
    "load_model": "steelyard.workload.catalogue",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that ``import steelyard`` stays quick."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
