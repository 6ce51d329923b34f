"""Networks, nodes, systems and prices: catalogue data around a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from steelyard.units import Quantity

__all__ = ["Network", "NetworkFile", "Node", "NodeFile", "Price", "PriceFile", "System", "SystemFile"]

_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class Network:
    """A kind of link between devices: NVLink, PCIe, Infinity Fabric, ICI, InfiniBand, Ethernet."""

    __pydantic_config__ = _STRICT

    name: str
    kind: Literal["nvlink", "pcie", "infinity_fabric", "ici", "ethernet", "infiniband", "tcp", "other"]
    bandwidth_bytes_per_s: Annotated[float, Quantity("B/s", "per device, one direction", gt=0)]
    latency_s: Annotated[float, Quantity("s", "one hop, device to device", ge=0)]
    title: str = ""
    switched: Annotated[bool, "every pair of devices can use its full bandwidth at once"] = True
    joins: Annotated[int, Quantity("1", "most devices it joins, as a bridge does; 0 = any number", ge=0)] = 0
    multicast: Annotated[bool, "the switch can reduce and replicate (NVLink SHARP)"] = False
    energy_j_per_byte: Annotated[float, Quantity("J/B", "energy to move one byte across", ge=0)] = 0.0
    source: str = ""
    guess: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """The content of a networks file."""

    __pydantic_config__ = _STRICT

    network: tuple[Network, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Node:
    """Devices that share a chassis (or a rack-scale link domain) and the host around them."""

    __pydantic_config__ = _STRICT

    name: str
    machine: str
    devices: Annotated[int, Quantity("1", "devices in the node", ge=1)]
    peer: Annotated[str, "network between the devices of the node"]
    title: str = ""
    network: Annotated[str, "network between nodes; empty when it stands alone"] = ""
    network_bandwidth_bytes_per_s: Annotated[
        float, Quantity("B/s", "between nodes, per device and direction; 0 = the network's own", ge=0)
    ] = 0.0
    host_w: Annotated[float, Quantity("W", "CPUs, fans, switches and cards of the node", ge=0)] = 0.0
    host_time: Annotated[
        float, Quantity("1", "time of its processor for an engine's work, over an x86 server's", gt=0, le=100)
    ] = 1.0
    source: str = ""
    guess: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True, slots=True)
class NodeFile:
    """The content of a nodes file."""

    __pydantic_config__ = _STRICT

    node: tuple[Node, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class System:
    """A whole system people name: a maker's box or rack, an instance of a cloud."""

    __pydantic_config__ = _STRICT

    name: str
    machine: str
    devices: Annotated[int, Quantity("1", "devices in the system", ge=1)]
    title: str = ""
    node: Annotated[str, "the node they stand in; empty = the machine's usual one"] = ""
    usd_per_hour: Annotated[float, Quantity("USD/h", "the whole system; 0 = not known", ge=0)] = 0.0
    source: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemFile:
    """The content of a systems file."""

    __pydantic_config__ = _STRICT

    system: tuple[System, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Price:
    """What renting one device for an hour cost at a date."""

    __pydantic_config__ = {"extra": "forbid"}

    machine: str
    usd_per_hour: Annotated[float, Quantity("USD/h", "per device", gt=0)]
    date: str
    source: str
    provider_class: str = "neocloud_on_demand"
    guess: bool = False
    notes: str = ""


@dataclass(frozen=True, slots=True)
class PriceFile:
    """The content of a prices file."""

    __pydantic_config__ = _STRICT

    price: tuple[Price, ...] = field(default=())
