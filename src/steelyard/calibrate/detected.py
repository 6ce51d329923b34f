"""What computer this is, as machines of the catalogue: from /proc, /sys, sysctl and the tools of the drivers, offline.

Nothing is measured. A card or processor that the catalogue knows is taken from it; a processor that it does not know is
described from its cores, clock and memory, with its bandwidth a guess.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.calibrate.measure.host import Host, describe_host
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.machine.loader import machine_from_dict

__all__ = ["Card", "Found", "detect", "host_machine"]

#: Number of seconds a driver's tool may take.
PATIENCE_S = 5.0
#: Makers of display and accelerator cards by PCI vendor.
MAKERS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
#: PCI classes of display controllers and accelerators.
CARDS = ("0x0300", "0x0302", "0x0380", "0x1200")
#: Bandwidth of a processor's memory that nothing tells, B/s, by cores at most (guesses: two channels of DDR4-3200,
#: four, eight).
BANDWIDTHS = ((16, 51.2e9), (32, 102.4e9), (1 << 30, 204.8e9))
#: Operations per core and cycle in fp32 (two 256-bit multiply-adds; a guess).
PER_CYCLE = 32.0

Run = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card or accelerator that was seen."""

    title: str
    """As its driver calls it."""
    memory_bytes: float = 0.0
    """0: not stated."""


@dataclass(frozen=True, eq=False)
class Found:
    """This computer."""

    host: Host
    memory_bytes: float
    """What this process may use: the computer's, or the limit of its container."""
    cards: tuple[Card, ...]
    machines: tuple[tuple[Machine, int], ...]
    """Machines to run on, and how many of each: cards first, then the processor."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """By name, SI units."""
        return {
            "processor": self.host.title,
            "cores": self.host.cores,
            "memory_bytes": self.memory_bytes,
            "cards": [{"title": c.title, "memory_bytes": c.memory_bytes or None} for c in self.cards],
            "machines": [{"name": m.name, "count": n} for m, n in self.machines],
            "notes": [*self.notes],
        }


def detect(root: Path = Path("/"), run: Run | None = None, host: Host | None = None) -> Found:
    """This computer, from what its system says.

    Args:
        root: where /proc and /sys are.
        run: runs a tool and returns what it prints, empty where there is none; None: as a process.
        host: the processor; None: this one.
    """
    run = run or _run
    host = host or describe_host()
    limit = _container_limit(root)
    memory = min(host.memory_bytes, limit) if limit else host.memory_bytes
    cards = tuple(_cards(root, run))
    machines: dict[str, tuple[Machine, int]] = {}
    notes = [f"the container may use {memory / 2**30:,.1f} GiB"] if memory < host.memory_bytes else []
    for card in cards:
        machine = _of_card(card)
        if machine is None:
            notes.append(f"not in the catalogue: {card.title:.60}; describe it in a file and give that to --on")
            continue
        machines[machine.name] = (machine, machines.get(machine.name, (machine, 0))[1] + 1)
    own = host_machine(host, memory)
    if own.file or own.kind != "cpu":
        notes.append(f"processor: {own.title}")
    else:
        notes.append(
            f"{host.title:.60} is not in the catalogue: its speed is a guess; `steelyard calibrate --here` measures it"
        )
    return Found(host, memory, cards, (*machines.values(), (own, 1)), tuple(notes))


def host_machine(host: Host, memory_bytes: float) -> Machine:
    """The processor as a machine: the catalogue's with this computer's memory, or one described from what is known."""
    from dataclasses import replace

    try:
        known = find_machine(host.title)
    except InputError:
        return _described(host, memory_bytes)
    root = known.root
    memory = tuple(replace(m, capacity_bytes=memory_bytes) if m is root else m for m in known.memory)
    reserved = min(known.reserved_bytes, 0.5 * memory_bytes)
    return replace(known, memory=memory, reserved_bytes=reserved)


def _described(host: Host, memory_bytes: float) -> Machine:
    bandwidth = next(rate for cores, rate in BANDWIDTHS if host.cores <= cores)
    fp32 = host.cores * host.clock_hz * PER_CYCLE
    peaks = {"fp32": fp32, "bf16": fp32, "fp16": fp32, "int8": 2 * fp32}
    memory: list[dict[str, Any]] = [
        {"name": "dram", "kind": "dram", "capacity_bytes": memory_bytes, "bandwidth_bytes_per_s": bandwidth}
    ]
    fields = {
        "name": "here",
        "title": f"{host.title}, {host.cores} cores",
        "kind": "cpu",
        "vendor": host.vendor,
        "family": host.family,
        "tdp_w": 8.0 * host.cores,
        "idle_w": 2.4 * host.cores,
        "reserved_bytes": 0.1 * memory_bytes,
        "launch": "cpu",
        "compute": [{"name": "cores", "kind": "vector", "units": host.cores, "clock_hz": host.clock_hz, "peak": peaks}],
        "memory": memory,
    }
    guess = {
        "tdp_w": "8 W per core",
        "reserved_bytes": "operating system",
        "compute.cores.peak": "two 256-bit multiply-adds per core and cycle",
        "memory.dram.bandwidth_bytes_per_s": "channels of DDR4-3200 by number of cores",
    }
    sources = {"detected": f"/proc and /sys of this computer ({host.system})"}
    return machine_from_dict({"sources": sources, "guess": guess, "machine": fields}, "here")


def _container_limit(root: Path) -> float:
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _text(root / name)
        if text.isdecimal() and 0 < int(text) < 2**60:
            return float(text)
    return 0.0


def _cards(root: Path, run: Run) -> list[Card]:
    """Cards by the tools of their drivers; without these by what the kernel lists."""
    found = _nvidia(root, run) + _amd(run)
    if found:
        return found
    return [Card(title) for title in _pci(root, run)]


def _nvidia(root: Path, run: Run) -> list[Card]:
    said = run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"])
    found = []
    for line in said.splitlines():
        name, comma, size = line.rpartition(",")
        if comma and name.strip():
            mib = float(size) if re.fullmatch(r"\s*\d+(\.\d+)?\s*", size) else 0.0
            found.append(Card(name.strip()[:80], mib * 2**20))
    if found:
        return found
    for about in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", _text(about), re.MULTILINE)
        found += [Card(model.group(1).strip()[:80])] if model else []
    return found


def _amd(run: Run) -> list[Card]:
    said = run(["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"])
    try:
        cards = json.loads(said)
    except ValueError:
        return []
    found = []
    for name, card in sorted(cards.items()) if isinstance(cards, dict) else []:
        if str(name).startswith("card") and isinstance(card, dict):
            title = next((str(card[k]) for k in ("Card Series", "Card series", "Card Model") if card.get(k)), "")
            size = next((v for k, v in card.items() if "Total Memory" in str(k)), "0")
            found.append(Card(title[:80] or "AMD card", float(size) if str(size).isdecimal() else 0.0))
    return found


def _pci(root: Path, run: Run) -> list[str]:
    """Names of display controllers and accelerators from lspci; without it maker and number."""
    named = []
    for line in run(["lspci", "-d", "::0300"]).splitlines() + run(["lspci", "-d", "::0302"]).splitlines():
        maker = re.search(r"(NVIDIA|AMD|ATI|Intel)", line)
        inner = re.findall(r"\[([^\]]+)\]", line)
        if maker and inner:
            named.append(f"{'AMD' if maker.group(1) == 'ATI' else maker.group(1)} {inner[-1]}"[:80])
    if named:
        return named
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        maker_of = MAKERS.get(_text(device / "vendor"))
        if maker_of and _text(device / "class")[:6] in CARDS:
            named.append(f"{maker_of} device {_text(device / 'device')}"[:80])
    return named


def _of_card(card: Card) -> Machine | None:
    """The machine of the catalogue that a card is; of several sizes the nearest."""
    names = [f"{card.title} {card.memory_bytes / 1e9:.0f}GB", card.title] if card.memory_bytes else [card.title]
    for name in names:
        try:
            machine = find_machine(name)
        except InputError:
            continue
        if not card.memory_bytes or 0.85 < machine.root.capacity_bytes / card.memory_bytes < 1.15:
            return machine
    return None


def _text(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(65536).strip()
    except OSError:
        return ""


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run([*command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout if done.returncode == 0 else ""
