"""What a technique may change of a network that is not served token by token (``estimate resnet50 --with NAME``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from steelyard.cost.net_effect import NetEffect
    from steelyard.errors import Problem

__all__ = ["OnNetworks"]


class OnNetworks:
    """Hooks of :func:`steelyard.scenario.network.read_net_scenario` and :func:`steelyard.cost.net_price.price_net`."""

    of_networks: ClassVar[bool] = False
    """It is of networks and pipelines; a model that is served refuses it, as networks refuse the others."""

    def network_problems(self, scenario: Any) -> list[Problem]:
        """Why it cannot be used on a network."""
        return []

    def network(self, scenario: Any) -> Any:
        """The scenario of a network with other graphs, phases, steps or precision. Same type in and out."""
        return scenario

    def network_effect(self, scenario: Any) -> NetEffect | None:
        """What it changes of the kernels of a pass and of their energy."""
        return None
