"""What a technique may change of training (``train MODEL --with NAME``)."""

from __future__ import annotations

from typing import Any, ClassVar

from steelyard.errors import Problem

__all__ = ["OfTraining", "OnTraining"]


class OnTraining:
    """Hooks of :func:`steelyard.scenario.training.read_train_scenario` and of the step's parts."""

    of_training: ClassVar[bool] = False
    """It is of training; other verbs refuse it, as training refuses the others."""

    def training_problems(self, scenario: Any) -> list[Problem]:
        """Why it cannot be used on a training scenario."""
        return []

    def training(self, scenario: Any) -> Any:
        """The scenario with another plan: layout, facts of the framework, how often replicas exchange. Same type in and
        out."""
        return scenario

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """A micro-batch by layers (:class:`steelyard.training.layers.StepParts`) with other times or bytes."""
        return parts


class OfTraining(OnTraining):
    """What techniques of ``train`` alone, of language models, are beside a technique."""

    name: ClassVar[str]
    layer: ClassVar[str] = "training"
    of_training: ClassVar[bool] = True

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if getattr(scenario, "model", None) is None or not getattr(scenario.workload, "depth", 0):
            return [Problem(self.name, "it is of language models")]
        return []
