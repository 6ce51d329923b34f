"""The host of a device: the processor and the memory beside it, in words such as ``ddr4-3200x2``.

``ddr5-5600x2`` is memory of 5600 MT/s on two channels of 64 bits, ``ddr5-4800x8:512GB`` says how much of it; a name of
the catalogue (``ryzen_9_7950x``) is that processor with its memory.
"""

from __future__ import annotations

import re
from dataclasses import replace

from steelyard.errors import InputError, show
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.units import parse_quantity

__all__ = ["find_host", "usual_host"]

_WORDS = re.compile(r"^(lpddr|ddr)([345])x?[-_ ]?(\d{3,5})(?:\s*[x*]\s*(\d{1,2}))?(?::(.+))?$", re.IGNORECASE)
#: Released from then on, a desktop card stands beside DDR5.
_DDR5_SINCE = "2022-09"
#: Cores of a desktop, over those of the processor its figures are taken from (guess).
_DESKTOP_CORES = 0.5


def usual_host(machine: Machine) -> str:
    """Words for the host a device usually has: a server's where it has a usual node, else a desktop's of its year.

    Raises:
        InputError: its memory is the host's own, so that nothing can lie elsewhere.
    """
    links = machine.links("host")
    if not links:
        raise InputError(f"the memory of {machine.name} is the host's; everything lies there already", field="offload")
    if "c2c" in links[0].network:
        return "grace_cpu"
    if machine.node:
        return "xeon_8480"
    return "ddr5-5600x2" if machine.released >= _DDR5_SINCE else "ddr4-3200x2"


def find_host(text: str) -> Machine:
    """The processor and memory that words name.

    Raises:
        InputError: neither memory nor a processor of the catalogue.
    """
    found = _WORDS.match(text.strip())
    if found is None:
        try:
            machine = find_machine(text.strip())
        except InputError as error:
            words = "expected memory such as ddr5-5600x2 or ddr4-3200x8:256GB, or a processor"
            raise InputError(f"{words}: {error.problems[0].message}", field="host") from None
        if machine.kind != "cpu":
            words = f"{machine.name} is no processor; expected one, or memory such as ddr5-5600x2"
            raise InputError(words, field="host")
        return machine
    low, generation, rate, count, size = found.groups()
    channels = int(count or 2)
    if not 1 <= channels <= 64 or not 200 <= int(rate) <= 20000:
        raise InputError(f"expected MT/s and channels such as ddr5-5600x2, got {show(text)}", field="host")
    desktop = channels <= 2
    if desktop:
        base = find_machine("ryzen_9_7950x")
    elif generation == "5":
        base = find_machine("epyc_9654")
    else:
        base = find_machine("i9_10940x" if channels <= 4 else "epyc_7763")
    capacity = parse_quantity(size, "B", "host") if size else base.root.capacity_bytes
    if not base.reserved_bytes < capacity < 1e16:
        raise InputError(f"expected a size such as ddr5-5600x2:96GB, got {show(text)}", field="host")
    kind = f"{low.lower()}{generation}"
    dram = replace(
        base.root, kind=kind, capacity_bytes=capacity, bandwidth_bytes_per_s=int(rate) * 1e6 * 8.0 * channels
    )
    cores = _DESKTOP_CORES if desktop else 1.0
    compute = tuple(
        replace(c, units=max(1.0, c.units * cores), peak={f: p * cores for f, p in c.peak.items()})
        for c in base.compute
    )
    name = f"{kind}-{rate}x{channels}"
    return base.but(
        name=name,
        title=f"{kind.upper()}-{rate}, {channels} channels, {compute[0].units:.0f} cores",
        memory=tuple(dram if m is base.root else m for m in base.memory),
        compute=compute,
        aliases=(),
    )
