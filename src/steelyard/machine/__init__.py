"""Machines: trees of components whose actions have a throughput, a latency and an energy."""

from steelyard.machine.component import Action, Compute, Link, Machine, Memory
from steelyard.machine.loader import load_machine, machine_from_dict

__all__ = ["Action", "Compute", "Link", "Machine", "Memory", "load_machine", "machine_from_dict"]
