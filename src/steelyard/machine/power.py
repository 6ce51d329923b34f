"""A limit of a board's power below its rated one, as ``nvidia-smi -pl`` sets it: in a machine's name or beside it."""

from __future__ import annotations

import re
from dataclasses import replace

from steelyard.errors import InputError
from steelyard.machine.component import Machine

__all__ = ["limited", "power_said"]

#: A limit at the end of a name: ``RTX 3090 220W``, ``rtx_3090_220w``.
_SAID = re.compile(r"[\s_(-]+(\d{1,5}(?:\.\d{1,3})?)\s*w(?:atts?)?\)?\s*$", re.IGNORECASE)
#: Boards are sold with up to so many times the rated limit.
MOST_RAISED = 2.0


def power_said(name: str) -> tuple[str, float]:
    """``(name, watts)`` of a name that ends with a limit; 0 = with none."""
    found = _SAID.search(name)
    return (name[: found.start()], float(found[1])) if found else (name, 0.0)


def limited(machine: Machine, watts: float) -> Machine:
    """The device held to so many watts; above the rated power it changes nothing.

    Raises:
        InputError: the rated power is not known, or the limit lies below what the device draws when idle.
    """
    low, high = machine.idle_w or 0.15 * machine.tdp_w, MOST_RAISED * machine.tdp_w
    if not machine.tdp_w:
        raise InputError(f"the rated power of {machine.name} is not known", field="power_limit_w")
    if not low < watts <= high:
        words = f"expected more than {low:g} (idle) and at most {high:g} W for {machine.name} of {machine.tdp_w:g} W"
        raise InputError(f"{words}, got {watts:g} W", field="power_limit_w")
    return replace(machine, power_limit_w=watts, file="")
