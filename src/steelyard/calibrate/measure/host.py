"""What computer this is: cores, clock, caches, memory, from /proc and /sys on Linux and sysctl on macOS. Reads only."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cache", "Host", "describe_host", "linux_host", "macos_host"]

DEFAULT_CLOCK_HZ = 2.0e9
"""Clock of a host that states none (a guess; times are measured, the clock only scales launch cycles)."""
DEFAULT_MEMORY_BYTES = 8 * 2.0**30
"""Memory of a host that states none (a guess)."""
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
_ARM_MAKERS = {
    "0x41": "Arm",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x50": "APM",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0xc0": "Ampere",
}
"""MIDR implementer codes. Source: Arm Architecture Reference Manual, MIDR_EL1."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One level of data cache, all copies together."""

    level: int
    capacity_bytes: float
    copies: int


@dataclass(frozen=True, slots=True)
class Host:
    """A computer as its operating system describes it."""

    title: str
    vendor: str
    family: str
    """``x86`` or ``arm_cpu``: whose parameters it borrows where nothing is measured."""
    system: str
    cores: int
    """Cores this process may use; hardware threads of one core count once."""
    clock_hz: float
    memory_bytes: float
    caches: tuple[Cache, ...]
    """Data caches, innermost first."""
    load: float = 0.0
    """Processes that wanted to run over the last minute, before we started."""

    @property
    def last_level_bytes(self) -> float:
        """Capacity of the outermost cache; 1 MiB per core where it is not stated (a guess)."""
        return self.caches[-1].capacity_bytes if self.caches else 2.0**20 * self.cores


def describe_host() -> Host:
    """This computer."""
    if platform.system() == "Darwin":
        return macos_host(_sysctl, platform.machine(), _load())
    return linux_host(Path("/"), platform.machine(), _available(), _load())


def _available() -> set[int] | None:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _family(machine: str) -> str:
    return "arm_cpu" if machine.lower().startswith(("arm", "aarch")) else "x86"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return ""


def _cpu_list(text: str) -> set[int]:
    """The numbers of a kernel list: ``0-2,5`` -> {0, 1, 2, 5}."""
    found: set[int] = set()
    for part in text.replace("\n", "").split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return found


def linux_host(root: Path, machine: str, available: set[int] | None = None, load: float = 0.0) -> Host:
    """A Linux computer described by the ``/proc`` and ``/sys`` below ``root``.

    Args:
        root: ``/``, or a copy for tests.
        machine: ``uname -m``.
        available: processors the process may use; None = all.
        load: load average over the last minute.
    """
    blocks = [
        {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in block.splitlines())}
        for block in _text(root / "proc/cpuinfo").split("\n\n")
        if block.strip()
    ]
    processors = {int(b["processor"]): b for b in blocks if b.get("processor", "").isdecimal()}
    usable = set(processors) & available if available and processors else set(processors) or {0}
    cpus = root / "sys/devices/system/cpu"
    cores = {_core(cpus, n, processors.get(n, {})) for n in usable}
    count = max(1, len(cores))
    quota = _quota(root)
    if quota:
        count = max(1, min(count, round(quota)))
    first = processors.get(min(usable), {})
    title = first.get("model name") or _text(root / "sys/firmware/devicetree/base/model") or first.get("Hardware", "")
    vendor = first.get("vendor_id") or _ARM_MAKERS.get(first.get("CPU implementer", ""), "")
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"))
    return Host(
        title=title or f"{machine} computer",
        vendor={"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}.get(vendor, vendor or "unknown"),
        family=_family(machine),
        system=f"Linux {machine}",
        cores=count,
        clock_hz=_clock(cpus, first),
        memory_bytes=float(memory.group(1)) * 1024 if memory else DEFAULT_MEMORY_BYTES,
        caches=_caches(cpus, usable),
        load=load,
    )


def _core(cpus: Path, number: int, block: Mapping[str, str]) -> tuple[str, str]:
    package = block.get("physical id") or _text(cpus / f"cpu{number}/topology/physical_package_id")
    core = block.get("core id") or _text(cpus / f"cpu{number}/topology/core_id")
    return (package, core) if core else ("", f"cpu{number}")


def _clock(cpus: Path, block: Mapping[str, str]) -> float:
    fastest = _text(cpus / "cpu0/cpufreq/cpuinfo_max_freq")
    if fastest.isdecimal():
        return float(fastest) * 1e3
    try:
        return float(block.get("cpu MHz", "")) * 1e6
    except ValueError:
        return DEFAULT_CLOCK_HZ


def _quota(root: Path) -> float:
    """Processors a container may use (cgroup 2), 0 when unlimited."""
    limit, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    return float(limit) / float(period) if limit.isdecimal() and period.isdecimal() and float(period) > 0 else 0.0


def _caches(cpus: Path, usable: set[int]) -> tuple[Cache, ...]:
    """Data and unified caches that serve the usable processors; copies are told apart by whom they serve."""
    copies: dict[int, dict[frozenset[int], float]] = {}
    for number in sorted(usable):
        for index in sorted((cpus / f"cpu{number}/cache").glob("index*")):
            level, size = _text(index / "level"), re.match(r"(\d+)([KMG]?)", _text(index / "size"))
            if not level.isdecimal() or size is None or _text(index / "type") == "Instruction":
                continue
            served = frozenset(_cpu_list(_text(index / "shared_cpu_list")) or {number})
            copies.setdefault(int(level), {})[served] = float(size.group(1)) * _UNITS[size.group(2)]
    return tuple(Cache(level, sum(found.values()), len(found)) for level, found in sorted(copies.items()))


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def macos_host(read: Callable[[str], str], machine: str, load: float = 0.0) -> Host:
    """A Mac described by ``sysctl -n``; on Apple silicon the performance cores and their caches count.

    Args:
        read: answers a sysctl name with its text, empty when unknown.
        machine: ``uname -m``.
        load: load average over the last minute.
    """

    def number(*names: str) -> float:
        return next((float(read(n)) for n in names if read(n).isdecimal()), 0.0)

    cores = int(number("hw.perflevel0.physicalcpu", "hw.physicalcpu", "hw.ncpu") or 1)
    caches = []
    for level, names in (
        (1, ("hw.perflevel0.l1dcachesize", "hw.l1dcachesize")),
        (2, ("hw.perflevel0.l2cachesize", "hw.l2cachesize")),
        (3, ("hw.l3cachesize",)),
    ):
        size = number(*names)
        sharing = int(number("hw.perflevel0.cpusperl2") or (cores if machine == "arm64" else 1)) if level == 2 else 1
        copies = 1 if level == 3 else max(1, -(-cores // max(sharing, 1)))
        if size:
            caches.append(Cache(level, size * copies, copies))
    title = read("machdep.cpu.brand_string") or f"{machine} Mac"
    return Host(
        title=title,
        vendor="Apple" if machine == "arm64" else "Intel",
        family=_family(machine),
        system=f"macOS {machine}",
        cores=cores,
        clock_hz=number("hw.cpufrequency_max", "hw.cpufrequency")
        or (3.2e9 if machine == "arm64" else DEFAULT_CLOCK_HZ),
        memory_bytes=number("hw.memsize") or DEFAULT_MEMORY_BYTES,
        caches=tuple(caches),
        load=load,
    )
