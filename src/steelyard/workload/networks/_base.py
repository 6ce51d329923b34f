"""The contract of a network family, and their registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from steelyard.registry import Registry
from steelyard.workload.networks.builder import Builder

__all__ = ["NETWORKS", "NetworkFamily"]


class NetworkFamily(Protocol):
    """A frozen dataclass whose fields are the parameters of a kind of network, all with a usual value."""

    def build(self, net: Builder, size: tuple[int, ...]) -> int | Sequence[int]:
        """Append the network's inputs and layers for a size of input and return the tensors it answers with.

        Parameters that make no network raise :class:`~steelyard.errors.InputError`.
        """


#: Families by name.
NETWORKS: Registry[type[NetworkFamily]] = Registry("network family", "steelyard.networks")
