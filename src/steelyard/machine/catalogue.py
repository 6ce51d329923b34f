"""Finding machines by any name people use, with their networks, nodes, systems and prices.

Catalogue folders come from the entry-point group ``steelyard.catalogues``: packages that hold ``machines/``,
``networks/``, ``nodes/``, ``systems/`` and ``prices/`` folders of TOML files. Ours is one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.documents import build_file, read_text
from steelyard.errors import InputError, UnknownName, complete, normalise, show
from steelyard.folders import catalogue_files, catalogue_folders
from steelyard.machine.component import Machine
from steelyard.machine.loader import (
    file_source,
    is_machine_text,
    load_catalogued,
    load_machine,
    machine_dict,
    machine_from_text,
)
from steelyard.machine.network import Network, NetworkFile, Node, NodeFile, Price, PriceFile, System, SystemFile
from steelyard.machine.power import limited, power_said
from steelyard.provenance import Ledger
from steelyard.units import format_quantity

__all__ = [
    "account",
    "catalogue_difference",
    "find_machine",
    "find_network",
    "find_node",
    "find_system",
    "find_whole",
    "is_catalogued",
    "machine_called",
    "machine_names",
    "networks",
    "nodes",
    "price_of",
    "prices",
    "systems",
]

_LINE = re.compile(r"^(name|title|aliases)\s*=\s*(.+?)\s*$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


@cache
def _index() -> tuple[Mapping[str, Path], Mapping[str, str], Mapping[str, Path]]:
    """(name -> file), (name -> title), (normalised name or alias -> file), by a scan of the files' first lines."""
    by_name: dict[str, Path] = {}
    titles: dict[str, str] = {}
    by_key: dict[str, Path] = {}
    for path in catalogue_files("machines"):
        by_name.setdefault(path.stem, path)
        by_key.setdefault(normalise(path.stem), path)
    for path in by_name.values():
        head, collecting = "", False
        for line in read_text(path).splitlines():
            if line.startswith("[[machine."):
                break
            match = _LINE.match(line)
            if collecting or (match and match.group(1) == "aliases"):
                head += line
                collecting = not line.rstrip().endswith("]")
            elif match and match.group(1) == "title":
                titles[path.stem] = "".join(_STRING.findall(match.group(2))[:1])
        for alias in (titles.get(path.stem, ""), *_STRING.findall(head)):
            if alias:
                by_key.setdefault(normalise(alias), path)
    return by_name, titles, by_key


def machine_names() -> list[str]:
    """Names of every machine in the catalogues, sorted."""
    return sorted(_index()[0])


def _file_of(name: str) -> Path | None:
    """The file of exactly this name."""
    for folder in catalogue_folders() if re.fullmatch(r"\w{1,99}", name) else ():
        if (path := folder / "machines" / f"{name}.toml").is_file():
            return path
    return None


def is_catalogued(name: str) -> bool:
    """Whether a machine of exactly this name is in the catalogues."""
    return _file_of(name) is not None


@complete
def find_machine(name: str) -> Machine:
    """The machine a user means: catalogue name, alias, marketing name, path of a machine file, or its text in TOML.

    Case, dashes, blanks, vendor words and a trailing memory size are forgiven: ``H100``, ``a100-80g``,
    ``NVIDIA H100 80GB HBM3``, ``rtx4090``. Of a whole system (``dgx_h100``, ``p5.48xlarge``) it is one of the devices.

    Raises:
        UnknownName: with the nearest machines.
        InputError: a file was named and cannot be read.
    """
    if not isinstance(name, str):
        raise InputError(f"expected a name or a path, got {name!r:.80}", field="machine")
    if is_machine_text(name):
        return machine_from_text(name)
    if name.lower().endswith((".toml", ".json", ".yaml", ".yml")):
        return load_machine(name)
    if path := _file_of(name):
        return load_catalogued(path)
    if ":" in name:  # a count that is none
        raise InputError(f"expected NAME or NAME:COUNT, got {show(name)}", field="machine")
    by_name, _, by_key = _index()
    if name in by_name:
        return load_catalogued(by_name[name])
    key = normalise(name)
    for candidate in _spellings(key):
        if candidate in by_key:
            return load_catalogued(by_key[candidate])
    if system := _system_called(name):
        return find_machine(system.machine)
    whole = [n for n in systems() if not n.startswith("gpu_")]  # gpu_8x_h100_sxm5 is near to every spelling of h100
    means = {key: path.stem for key, path in by_key.items()} | {normalise(n): n for n in whole}
    hint = "`steelyard ls machines` lists all; the path of a TOML file of your own works too"
    raise UnknownName("machine", name, [*by_name, *by_key, *whole], hint=hint, means=means)


#: How much memory a name says: ``M4 Pro 24GB``, ``a100-80g``.
_MEMORY = re.compile(r"(?<![\d.])(\d{1,4})\s*g(?:i?b)?(?![a-z0-9])", re.IGNORECASE)
#: A size says the machine's own while the two are this near: 80 GB are 79.6 GiB.
_NEAR = (0.88, 1.13)
#: What is kept for others is a share of memory, not a size, from this share on.
_SHARED = 0.1


def machine_called(name: str) -> Machine:
    """The machine a question means: :func:`find_machine`'s, with as much memory and no more power than the name says.

    Computers and processors are sold with several sizes; so are cards with twice their memory. A card of another size
    is another card, which is not guessed.

    Raises:
        UnknownName: with the nearest machines.
        InputError: a card of another size is known, not this one; a file was named and cannot be read.
    """
    if isinstance(name, str) and not is_machine_text(name) and not _file_of(name):
        bare, watts = power_said(name)
        if watts and normalise(name) not in _index()[2]:
            return limited(machine_called(bare), watts)
    said = _MEMORY.search(name) if isinstance(name, str) and not is_machine_text(name) else None
    if said is None or _file_of(name) or normalise(name) in _index()[2] or name.lower().endswith(".toml"):
        return find_machine(name)
    found = []
    for words in (name, f"{name[: said.start()]} {name[said.end() :]}".strip(" _-()")):
        with suppress(UnknownName):
            found.append(find_machine(words))
    if not found:
        return find_machine(name)
    asked = float(said[1]) * 2**30
    for machine in found:
        if _NEAR[0] < asked / machine.root.capacity_bytes < _NEAR[1]:
            return machine
    machine = found[-1]
    times = asked / machine.root.capacity_bytes
    if machine.kind not in ("soc", "cpu") and not 2 * _NEAR[0] < times < 2 * _NEAR[1]:
        has = format_quantity(machine.root.capacity_bytes, "B")
        words = f"{machine.name} has {has}; one with {said[0].strip()} is not known: describe it in a TOML file"
        raise InputError(words, field="machine")
    memory = tuple(replace(m, capacity_bytes=asked) if m is machine.root else m for m in machine.memory)
    shared = machine.reserved_bytes > _SHARED * machine.root.capacity_bytes
    return replace(machine, memory=memory, reserved_bytes=machine.reserved_bytes * (times if shared else 1.0))


def catalogue_difference(machine: Machine) -> str:
    """One line that says in what a machine differs from the catalogue's of the same name.

    Empty when it is the catalogue's, or the catalogue has none of this name.
    """
    by_name = _index()[0]
    if machine.name not in by_name or machine == (known := find_machine(machine.name)):
        return ""
    here, there = (_flat(machine_dict(m)) for m in (machine, known))
    apart = [k for k in {**here, **there} if here.get(k) != there.get(k)]
    words = [f"{k} {_shown(here.get(k))} instead of {_shown(there.get(k))}" for k in apart[:3]]
    more = f" and {len(apart) - 3} more" if len(apart) > 3 else ""
    source = f" from {machine.file}" if machine.file else ", as given,"
    return f"machine {machine.name!r}{source} differs from the catalogue's: {', '.join(words)}{more}"


def account(machine: Machine, ledger: Ledger) -> None:
    """Write sources and guesses of a machine into a ledger, its file, and how it differs from the catalogue's."""
    for key, text in machine.sources.items():
        ledger.cite(f"{machine.name} {key}", text)
    if machine.file:
        ledger.cite(f"machine {machine.name}", file_source(machine))
    for path, reason in machine.guess.items():
        ledger.guess(f"{machine.name}.{path}", reason)
    if said := catalogue_difference(machine):
        ledger.assume(said)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Plain values by their path; components by their name."""
    if isinstance(value, list) and all(isinstance(v, Mapping) and "name" in v for v in value):
        value = {v["name"]: v for v in value}
    if not isinstance(value, Mapping):
        return {path: value}
    return {k: v for n, item in value.items() for k, v in _flat(item, f"{path}.{n}" if path else str(n)).items()}


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:g}" if isinstance(value, float | int) else f"{value!r:.60}"


def _spellings(key: str) -> Iterator[str]:
    """A normalised name and the same without vendor words, form factors and memory sizes."""
    yield key
    bare = re.sub(r"^(nvidia|amd|intel|google|apple|qualcomm|geforce|instinct|radeon|tesla|cloud)+", "", key)
    bare = re.sub(r"^(geforce|instinct|radeon|tesla)", "", bare)
    yield bare
    yield re.sub(r"^(macbook(air|pro)?|mac(mini|studio|pro)|imac)(1[3-6](inch)?)?", "", bare)
    yield re.sub(r"(hbm\d?e?|gddr\d\w?|lpddr\d\w?)$", "", bare)
    short = re.sub(r"(hbm\d?e?|gddr\d\w?)$", "", bare)
    yield re.sub(r"\d+(gb|g|gib)$", "", short)


@cache
def networks() -> Mapping[str, Network]:
    """Every network by name."""
    found = [n for p in catalogue_files("networks") for n in build_file(NetworkFile, p).network]
    return {n.name: n for n in reversed(found)}


@cache
def nodes() -> Mapping[str, Node]:
    """Every node by name."""
    found = [n for p in catalogue_files("nodes") for n in build_file(NodeFile, p).node]
    return {n.name: n for n in reversed(found)}


@cache
def systems() -> Mapping[str, System]:
    """Every whole system and instance of a cloud, by name."""
    found = [n for p in catalogue_files("systems") for n in build_file(SystemFile, p).system]
    return {n.name: n for n in reversed(found)}


@cache
def _systems_by_key() -> Mapping[str, System]:
    """Systems by normalised name and alias."""
    named = [(n, s) for s in systems().values() for n in (s.name, *s.aliases)]
    return {normalise(name): system for name, system in reversed(named)}


def _system_called(name: str) -> System | None:
    key = normalise(name)
    for spelled in (key, re.sub(r"^(standard|ml|nvidia|aws|gcp|azure|oci|lambda)", "", key)):
        if spelled in _systems_by_key():
            return _systems_by_key()[spelled]
    return None


def find_system(name: str) -> System:
    """The maker's box or rack, or the cloud's instance, called ``name``. Raises :class:`UnknownName`."""
    if found := _system_called(name):
        return found
    raise UnknownName("system", name, systems(), hint="`steelyard ls systems` lists all")


def find_whole(name: str) -> System:
    """The system called ``name``, or the node of the catalogue as one. Raises :class:`UnknownName`."""
    if found := _system_called(name):
        return found
    node = find_node(name)
    return System(node.name, node.machine, node.devices, node.title, node.name, 0.0, node.source, node.aliases)


@cache
def prices() -> tuple[Price, ...]:
    """Every price, newest first."""
    found = [x for path in catalogue_files("prices") for x in build_file(PriceFile, path, _without_class).price]
    return tuple(sorted(found, key=lambda x: x.date, reverse=True))


def _without_class(data: dict[str, Any]) -> dict[str, Any]:
    """A price file with the name that Python can have for the ``class`` of its rows."""
    if not isinstance(rows := data.get("price"), list):
        return data
    known = {"class": "provider_class"}
    return {**data, "price": [{known.get(k, k): v for k, v in r.items()} if isinstance(r, dict) else r for r in rows]}


@cache
def _quick(kind: str, name: str, cls: type[Any], field: str) -> Any:
    """The entry with exactly this name, read from the one file that mentions it; None when there is none."""
    for path in catalogue_files(kind):
        if f'name = "{name}"' in read_text(path):
            for entry in getattr(build_file(cls, path), field):
                if entry.name == name:
                    return entry
    return None


def find_network(name: str) -> Network:
    """The network called ``name``. Raises :class:`UnknownName`."""
    quick: Network | None = _quick("networks", name, NetworkFile, "network")
    if quick is not None:
        return quick
    for network in networks().values():
        if normalise(name) in (normalise(network.name), *(normalise(a) for a in network.aliases)):
            return network
    raise UnknownName("network", name, networks(), hint="`steelyard ls networks` lists all")


def find_node(name: str) -> Node:
    """The node called ``name``. Raises :class:`UnknownName`."""
    quick: Node | None = _quick("nodes", name, NodeFile, "node")
    if quick is not None:
        return quick
    for node in nodes().values():
        if normalise(name) in (normalise(node.name), *(normalise(a) for a in node.aliases)):
            return node
    raise UnknownName("node", name, nodes(), hint="`steelyard ls nodes` lists all")


#: Which class of price is quoted when several are known.
PRICE_ORDER = ("neocloud_on_demand", "hyperscaler_on_demand", "reserved_1y", "marketplace")


def price_of(machine: str, provider_class: str = "") -> Price | None:
    """The newest rental price of a machine, of one provider class or the first of :data:`PRICE_ORDER` that is known.

    Raises:
        InputError: the provider class is unknown.
    """
    found = [p for p in prices() if p.machine == machine]
    classes = sorted({p.provider_class for p in prices()})
    if provider_class:
        if provider_class not in classes:
            raise InputError(str(UnknownName("price class", provider_class, classes)), field="price")
        return next((p for p in found if p.provider_class == provider_class), None)
    for wanted in PRICE_ORDER:
        for price in found:
            if price.provider_class == wanted:
                return price
    return found[0] if found else None
