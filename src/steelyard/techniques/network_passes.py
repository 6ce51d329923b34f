"""What techniques of networks share: they refuse models that are served, and change phases or graphs of a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from steelyard.errors import Problem
from steelyard.techniques._base import Technique
from steelyard.workload.pipelines import Phase
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["NetTechnique", "graphs_of", "with_graphs", "with_phases"]


@dataclass(frozen=True)
class NetTechnique(Technique):
    """A technique of networks that are not served token by token."""

    of_networks: ClassVar[bool] = True

    def applies(self, scenario: Any) -> list[Problem]:
        """See :class:`Technique`: a model that is served has none of it."""
        words = f"it is of networks (steelyard ls nets), and {scenario.transformer.name} is served token by token"
        return [Problem(self.name, words)]


def graphs_of(scenario: Any) -> Iterator[TensorGraph]:
    """The graphs of a question about a network or a pipeline, phase by phase."""
    yield from (phase.graph for phase in scenario.phases)


def with_phases(scenario: Any, change: Callable[[Phase], Phase]) -> Any:
    """The question with every phase changed."""
    return replace(scenario, phases=tuple(map(change, scenario.phases)))


def with_graphs(scenario: Any, change: Callable[[TensorGraph], TensorGraph]) -> Any:
    """The question with every graph changed."""
    return with_phases(scenario, lambda p: replace(p, graph=change(p.graph)))
