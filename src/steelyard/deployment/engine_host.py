"""An engine on the processor of the node its devices stand in: what it does there takes longer on a slower one."""

from __future__ import annotations

from dataclasses import replace

from steelyard.deployment.engine import Engine
from steelyard.machine.catalogue import find_node
from steelyard.machine.classes import stack_named
from steelyard.machine.component import Machine

__all__ = ["HOST_TIMES", "host_told", "on_host"]

#: Times of an engine that a processor takes.
HOST_TIMES = (
    *("step_s", "step_s_per_sequence", "served_step_s", "launch_s", "request_s", "front_s", "stream_s"),
    *("guess_s", "verify_s", "adapter_s"),
)


def host_time(machine: Machine) -> float:
    """Time of the usual node's processor over an x86 server's; 1 where no node is known."""
    return find_node(machine.node).host_time if machine.node else 1.0


def on_host(engine: Engine, machine: Machine) -> Engine:
    """The engine with the times of its host on the machine's usual node; the same again changes nothing.

    ``time = host_time x time on an x86 server``, of all of :data:`HOST_TIMES`. Engines' times were fitted to servers
    with x86 processors.
    """
    ratio = host_time(machine) / engine.host_time
    if ratio == 1.0:
        return engine
    times = {name: getattr(engine, name) * ratio for name in HOST_TIMES}
    if not engine.launch_s:
        times["launch_s"] = stack_named(machine.launch).launch_s * ratio
    return replace(engine, **times, host_time=engine.host_time * ratio)


def host_told(engine: Engine) -> str:
    """What the host did to an engine, in words; empty for an x86 server."""
    if engine.host_time == 1.0:
        return ""
    return f"the node's processor takes {engine.host_time:.3g} times as long for the engine's work as an x86 server's"
