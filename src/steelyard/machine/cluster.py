"""Several devices of one type: ``h100_sxm:8``, ``b200_sxm:72``, ``dgx_h100``, with the links between them."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace

from steelyard.errors import InputError, UnknownName, show
from steelyard.machine.catalogue import (
    find_machine,
    find_network,
    find_node,
    find_whole,
    is_catalogued,
    machine_called,
)
from steelyard.machine.component import Machine
from steelyard.machine.loader import is_machine_text, machine_text
from steelyard.machine.network import Network, Node, System
from steelyard.machine.power import limited
from steelyard.units import format_quantity, parse_quantity

__all__ = [
    "Cluster",
    "Mixed",
    "are_unlike",
    "asks_again",
    "cluster_of",
    "count_last",
    "held_to",
    "mixed_cluster",
    "parse_cluster",
    "with_network",
]

#: Most devices of a cluster, above every site on the planet.
MAX_DEVICES = 10_000_000
#: Most devices of a replica of several kinds.
MAX_UNLIKE = 64
#: Most kinds of devices that train together.
MAX_KINDS = 4
#: Cards that stand in one host where a machine's file states no node.
HOST_CARDS = 8
#: Sockets that a link of processors joins in one host.
HOST_SOCKETS = 2
#: Used between nodes when neither node nor machine names a network.
_DEFAULT_INTER = "infiniband_ndr"


@dataclass(frozen=True, slots=True)
class Cluster:
    """``count`` equal devices, ``per_node`` to a node, linked by ``peer`` inside a node and ``inter`` between them."""

    machine: Machine
    count: int = 1
    per_node: int = 1
    peer: Network | None = None
    inter: Network | None = None
    inter_bandwidth_bytes_per_s: float = 0.0
    host_w: float = 0.0
    """Power of one node beside its devices."""
    host: Machine | None = None
    """Processor and memory of the host, where weights lie there."""
    unlike: tuple[Machine, ...] = ()
    """The devices after the first, where they are of several kinds."""
    split: tuple[float, ...] = ()
    """Their shares of the layers as stated, the first's too; empty: in proportion to memory."""
    system: str = field(default="", compare=False)
    """The whole system it was asked for as, ``dgx_h100``; empty when devices were named."""

    @property
    def shares(self) -> tuple[tuple[Machine, float], ...]:
        """Every device of a replica of unlike ones, with its share of the layers."""
        every = (self.machine, *self.unlike)
        parts = self.split or tuple(m.usable_bytes for m in every)
        return tuple((m, part / sum(parts)) for m, part in zip(every, parts, strict=True))

    @property
    def title(self) -> str:
        """The devices in words, ``2 x NVIDIA T4``."""
        if self.unlike:
            return " + ".join(machine.title for machine, _ in self.shares)
        return self.machine.title if self.count == 1 else f"{self.count} x {self.machine.title}"

    @property
    def node_count(self) -> int:
        """Nodes needed for ``count`` devices."""
        return math.ceil(self.count / self.per_node)

    @property
    def host_share_w(self) -> float:
        """W of a node's host that one device answers for: of a node of eight an eighth."""
        return self.host_w / self.per_node

    @property
    def hosts_w(self) -> float:
        """W of the hosts, to the devices' share of them."""
        return self.host_share_w * self.count

    @property
    def peer_bandwidth_bytes_per_s(self) -> float:
        """Per device and direction inside a node: the device's own links, else the network's figure."""
        links = self.machine.links("peer")
        spoken = [x for x in (*links, *self.machine.links("host")) if self.peer and x.network == self.peer.name]
        if spoken or links:
            return (spoken or links)[0].bandwidth_bytes_per_s
        if self.peer is not None:
            return self.peer.bandwidth_bytes_per_s
        hosts = self.machine.links("host")
        return hosts[0].bandwidth_bytes_per_s if hosts else 0.0

    @property
    def meaning(self) -> str:
        """What a system's name stands for, ``2 x dgx_h100: 16 x h100_sxm``; empty when devices were named."""
        times, rest = divmod(self.count, find_whole(self.system).devices) if self.system else (0, 0)
        if not times or rest:
            return ""
        called = self.system if times == 1 else f"{times} x {self.system}"
        return f"{called}: {self.count} x {self.machine.name}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was taken for granted of these devices: what a system is, who has which layers, and what joins nodes."""
        joined = split = ""
        if self.unlike:
            parts = ", ".join(f"{m.name} {share:.0%}" for m, share in self.shares)
            how = "as stated" if self.split else "in proportion to memory"
            split = f"layers {how}, one device after the other: {parts}"
        if self.node_count > 1 and self.inter is not None:
            rate = format_quantity(self.inter_bandwidth_bytes_per_s, "B/s")
            joined = (
                f"{self.node_count} nodes joined by {self.inter.title or self.inter.name}, {rate} a device (--network)"
            )
        return tuple(filter(None, (self.meaning, split, joined)))

    @property
    def kinds(self) -> tuple[Cluster, ...]:
        """The devices of each kind, where several kinds are not one replica."""
        return (self,)

    def __str__(self) -> str:
        if self.unlike:
            stated = f"@{'/'.join(f'{part:g}' for part in self.split)}" if self.split else ""
            return "+".join(m.name for m, _ in self.shares) + stated
        return self.machine.name if self.count == 1 else f"{self.machine.name}:{self.count}"


@dataclass(frozen=True, slots=True)
class Mixed(Cluster):
    """Devices of several kinds, each in nodes of its own: ``h100_sxm:64+a100_sxm:64``.

    ``machine`` has the names of all and is else the first.
    """

    of: tuple[Cluster, ...] = ()

    @property
    def kinds(self) -> tuple[Cluster, ...]:
        """The devices of each kind."""
        return self.of

    @property
    def title(self) -> str:
        """The devices in words."""
        return " + ".join(kind.title for kind in self.of)

    @property
    def node_count(self) -> int:
        """Nodes of all kinds."""
        return sum(kind.node_count for kind in self.of)

    @property
    def hosts_w(self) -> float:
        """W of the hosts of all kinds."""
        return sum(kind.hosts_w for kind in self.of)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was taken for granted of the devices of each kind."""
        return tuple(f"{kind}: {text}" for kind in self.of for text in kind.remarks)

    def __str__(self) -> str:
        return "+".join(str(kind) for kind in self.of)


def mixed_cluster(text: str) -> Cluster:
    """Read ``NAME:COUNT+NAME:COUNT``, each kind in nodes of its own; of one kind they are a plain cluster.

    Raises:
        InputError: a part cannot be read, or there are more than four kinds.
    """
    if "+" in text and is_catalogued(text.rpartition(":")[0] or text):  # a name with a plus
        return parse_cluster(text)
    parts = [_alike(part) for part in text.split("+")]
    kinds: dict[str, Cluster] = {}
    for part in parts:
        known = kinds.get(part.machine.name)
        kinds[part.machine.name] = part if known is None else replace(known, count=known.count + part.count, system="")
    if len(kinds) > MAX_KINDS:
        raise InputError(f"expected at most {MAX_KINDS} kinds of devices, got {len(kinds)}", field="machine")
    first, *others = kinds.values()
    if not others:
        return first
    machines = [kind.machine for kind in kinds.values()]
    whole = {f.name: getattr(first, f.name) for f in fields(Cluster)} | {
        "machine": replace(machines[0], name="+".join(kinds), title=" + ".join(m.title for m in machines)),
        "count": sum(kind.count for kind in kinds.values()),
        "system": "",
    }
    return Mixed(**whole, of=tuple(kinds.values()))


def parse_cluster(text: str) -> Cluster:
    """Read ``NAME`` or ``NAME:COUNT`` (``8xNAME`` too); a plus joins unlike cards, ``rtx_5090+rtx_5070_ti``.

    Cards that are joined may have their layers stated, ``rtx_5090+rtx_5070_ti@32/16``. The name of a whole system is
    all its devices: ``dgx_h100``, ``p5.48xlarge``, ``gb200_nvl72``.

    Raises:
        InputError: the count is no positive whole number, or the machine is unknown.
    """
    if not isinstance(text, str):
        raise InputError(f"expected NAME or NAME:COUNT, got {text!r:.80}", field="machine")
    parts = text.split("+") if "+" in text and not is_machine_text(text) else []
    if not parts:
        return _alike(text)
    if not all(part.strip() for part in parts) and not (any(parts) and "+" in _alike(text).machine.title):
        raise InputError(f"expected a machine on both sides of each +, got {text!r:.80}", field="machine")
    try:
        return _alike(text)  # a name with a plus
    except InputError:
        found = _SPLIT.search(text)
        names = text[: found.start()].split("+") if found else parts
        split = tuple(float(x) for x in found[1].split("/")) if found else ()
        return _together([_alike(part) for part in names], split)


#: Layers of cards that are joined, after the last: ``@32/16``.
_SPLIT = re.compile(r"@\s*(\d{1,9}(?:\.\d{1,9})?(?:/\d{1,9}(?:\.\d{1,9})?)*)\s*$")


def _together(parts: list[Cluster], split: tuple[float, ...] = ()) -> Cluster:
    """Devices of several kinds as one replica; ``split``: their layers, as stated. Raises :class:`InputError`."""
    machines = [part.machine for part in parts for _ in range(min(part.count, MAX_UNLIKE + 1))]
    if len(machines) > MAX_UNLIKE:
        raise InputError(f"expected at most {MAX_UNLIKE} devices of several kinds, got more", field="machine")
    if split and (len(split) != len(machines) or not all(split)):
        words = f"expected the layers of each of {len(machines)} devices after the @, such as 32/16, got {len(split)}"
        raise InputError(words if all(split) else "expected more than 0 layers on each device", field="machine")
    if all(machine == machines[0] for machine in machines) and len(set(split)) < 2:
        return cluster_of(machines[0], len(machines))
    hosts = [links[0] for machine in machines if (links := machine.links("host"))]
    if len(hosts) < len(machines):
        names = ", ".join(dict.fromkeys(m.name for m in machines if not m.links("host")))
        raise InputError(f"{names} stands alone; only cards of one computer work together", field="machine")
    slowest = min(hosts, key=lambda link: link.bandwidth_bytes_per_s)
    return replace(
        cluster_of(machines[0], len(machines)),
        per_node=len(machines),
        peer=replace(find_network(slowest.network), bandwidth_bytes_per_s=slowest.bandwidth_bytes_per_s),
        unlike=tuple(machines[1:]),
        split=split,
    )


#: A count before or after a name: ``8xH100``, ``2 x RTX 3090``, ``rtx3090x2``.
_BEFORE = re.compile(r"\s*(\d{1,7})\s*[x\u00d7*]\s*([^:]+?)\s*", re.IGNORECASE)
_AFTER = re.compile(r"\s*([^:]+?)\s*[x\u00d7*]\s*(\d{1,3})\s*", re.IGNORECASE)


def count_last(text: str) -> str:
    """``8xH100`` and ``8 x h100`` as ``NAME:COUNT``; other text as it is."""
    found = None if is_machine_text(text) else _BEFORE.fullmatch(text)
    return f"{found[2]}:{found[1]}" if found else text


def _alike(text: str) -> Cluster:
    """Equal devices: ``NAME`` or ``NAME:COUNT``, or as people and titles say it. Raises :class:`InputError`."""
    text = count_last(text)
    try:
        return _named(text)
    except UnknownName:
        found = _AFTER.fullmatch(text)
        with suppress(UnknownName):  # a name that ends so, of nothing
            if found:
                return _named(f"{found[1]}:{found[2]}")
        raise


def _named(text: str) -> Cluster:
    """Equal devices: ``NAME`` or ``NAME:COUNT``. Raises :class:`InputError`."""
    name, colon, number = (part.strip() for part in text.rpartition(":"))
    if not colon:
        name, number = number, "1"
    elif not re.fullmatch(r"[+-]?\d+", number):  # a colon inside a name, such as a path
        if not number or name.endswith(":"):
            raise InputError(f"expected NAME or NAME:COUNT, got {text!r}", field="machine")
        name, number = text.strip(), "1"
    if not name or name.endswith(":"):
        raise InputError(f"expected NAME or NAME:COUNT, got {text!r}", field="machine")
    if len(number) > len(f"{MAX_DEVICES}") + 1 or int(number) > MAX_DEVICES:
        raise InputError(f"expected at most {MAX_DEVICES:,} devices, got {show(number)}", field="machine")
    count = int(number)
    if count < 1:
        raise InputError(f"expected at least one device, got {count}", field="machine")
    system = None if is_catalogued(name) else _system(name)
    if system is None:
        return cluster_of(machine_called(name), count)
    if system.devices * count > MAX_DEVICES:
        raise InputError(f"expected at most {MAX_DEVICES:,} devices, got {show(text)}", field="machine")
    found = cluster_of(find_machine(system.machine), system.devices * count, system.node)
    return replace(found, system=system.name)


def _system(name: str) -> System | None:
    """The whole system of this name; of a file or a description there is none."""
    try:
        return find_whole(name) if len(name) < 100 and not name.lower().endswith(".toml") else None
    except UnknownName:
        return None


def are_unlike(asked: object) -> bool:
    """Whether devices of several kinds are asked for as one replica, by name or as an object."""
    if isinstance(asked, str) and "+" in asked:
        with suppress(InputError):
            return bool(parse_cluster(asked).unlike)
    return isinstance(asked, Cluster) and bool(asked.unlike)


def held_to(on: str | Cluster | Machine, watts: float) -> Cluster:
    """Devices, by text or as objects, each held to so many watts. Raises :class:`InputError`."""
    found = parse_cluster(on) if isinstance(on, str) else on if isinstance(on, Cluster) else cluster_of(on)
    unlike = tuple(limited(machine, watts) for machine in found.unlike)
    return replace(found, machine=limited(found.machine, watts), unlike=unlike)


def asks_again(cluster: Cluster) -> str:
    """Text that :func:`parse_cluster` reads as these devices: a catalogue name, a path, or the description in TOML."""
    if isinstance(cluster, Mixed):
        return "+".join(asks_again(kind) for kind in cluster.kinds)
    if cluster.unlike:
        return str(cluster)
    machine = cluster.machine
    try:
        known = find_machine(machine.name) == machine
    except InputError:
        known = False
    if known and cluster.system and (system := find_whole(cluster.system)).node not in ("", machine.node):
        return f"{system.name}:{cluster.count // system.devices}"
    text = machine.name if known else machine.file or machine_text(machine)
    return text if cluster.count == 1 else f"{text}:{cluster.count}"


def _per_node(machine: Machine) -> int:
    """Devices of the usual node; where the machine's file states none, as many cards or sockets as a host takes."""
    stated = max(1, int(machine.devices_per_node))
    if stated == 1 and machine.kind == "cpu" and machine.links("peer"):
        return HOST_SOCKETS
    return HOST_CARDS if stated == 1 and machine.kind == "gpu" and machine.links("host") else stated


def cluster_of(machine: Machine, count: int = 1, node_name: str = "") -> Cluster:
    """``count`` devices in their usual nodes (or those called ``node_name``), with the usual networks."""
    name = node_name or machine.node
    node: Node | None = find_node(name) if name else None
    per_node = int(node.devices) if node else _per_node(machine)
    together = min(count, per_node)
    peer_links = [x for x in machine.links("peer") if not 0 < find_network(x.network).joins < together]
    bridged = [x for x in peer_links if find_network(x.network).joins]
    if node is not None and not bridged:
        peer: Network | None = find_network(node.peer)
    elif peer_links:
        peer = find_network(peer_links[0].network)
    else:
        hosts = machine.links("host")
        peer = find_network(hosts[0].network) if hosts else None
    if node is not None and node.network:
        inter: Network | None = find_network(node.network)
        bandwidth = node.network_bandwidth_bytes_per_s
    else:
        nic = machine.links("network")
        inter = find_network(nic[0].network if nic else _DEFAULT_INTER)
        bandwidth = nic[0].bandwidth_bytes_per_s if nic else 0.0
    return Cluster(
        machine,
        count,
        per_node,
        peer,
        inter,
        bandwidth or (inter.bandwidth_bytes_per_s if inter else 0.0),
        node.host_w if node else 0.0,
    )


def with_network(cluster: Cluster, text: str) -> Cluster:
    """Devices whose nodes are joined by another network: ``NAME`` or ``NAME:BANDWIDTH`` of a node, one direction.

    Without a bandwidth every device has a port of the network; through TCP the devices of a node share one.

    Raises:
        InputError: it cannot be read.
    """
    name, colon, said = text.partition(":")
    network = find_network(name.strip())
    ports = 1 if network.kind == "tcp" else cluster.per_node
    whole = parse_quantity(said, "B/s", "network") if colon else network.bandwidth_bytes_per_s * ports
    if not 0 < whole < math.inf:
        raise InputError(f"expected a bandwidth above 0, got {show(said)}", field="network")
    return replace(cluster, inter=network, inter_bandwidth_bytes_per_s=whole / cluster.per_node)
