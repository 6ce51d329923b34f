"""What a policy is: one number per request, the smallest waits least.

A policy is a class without arguments. It has

``name``
    what reports call it.
``keys(trace) -> float64[n]``
    a key per request of the trace, in the trace's order. Among the requests that wait at a replica the one with the
    smallest key is admitted first; equal keys go by arrival. Infinity is allowed (last of all), NaN is not. The
    trace is read-only. A policy that looks at ``trace.osl`` knows the lengths of answers, as no real engine does.
``rules`` (optional)
    a mapping of names to functions by which it takes part in the run: see :mod:`steelyard.simulation.kernel.rules` for
    what each gets and returns. Rules look at the running state; ``keys`` still says where requests stand at first.
``state(trace, slo) -> dict`` (optional, with ``rules``)
    what its rules start from: ``memory`` ``[n, up to 4]``, ``shared`` (a float64 array), ``params`` (a tuple); each may
    be left out. ``slo``: limits in s by name, those that were given.
``from_arrival`` (optional, default False)
    True: the key is a time counted from the request's arrival, such as a deadline. It matters where arrivals are not
    known beforehand: closed loops and conversations.

What follows from that, for a policy without rules: it is asked once, before the first step; it decides who is admitted
next and (except first come, first served) who is preempted when blocks run out: the request with the largest key, in
engines that choose the last admitted one. It cannot hold back a request that fits, exceed the engine's limits, or lose
a request. With rules it can also preempt, hold back and shorten prompts; limits still hold and nothing is lost.
The same trace must give the same keys: draw random numbers from a generator with a fixed seed.

The smallest whole policy is a file that imports nothing of ours::

    class ShortestPrompt:
        name = "shortest-prompt"

        def keys(self, trace):
            return trace.isl

``--policy my_policy.py:ShortestPrompt`` runs it; :class:`steelyard.testing.policies.PolicyContract` tests it. A package
announces its policies by entry points of the group ``steelyard.policies``, as the built-in ones are.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from steelyard.errors import InputError, Problem, raise_all
from steelyard.simulation.kernel.rules import MEMORY, RuleSet, checked_rules
from steelyard.traffic.trace import Floats, Trace
from steelyard.users_code import theirs

__all__ = ["Order", "Policy", "take_order"]


@runtime_checkable
class Policy(Protocol):
    """See the module's text."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def keys(self, trace: Trace) -> Any:
        """``[n]`` numbers: smaller is admitted first, equal ones by arrival."""


@dataclass(frozen=True, eq=False)
class Order:
    """What a policy said about a trace."""

    name: str
    keys: Floats
    """``[n]``, no NaN."""
    from_arrival: bool
    builtin: bool
    """One of ours: its name says everything about it."""
    rules: RuleSet | None = None
    """What it does while requests run."""

    @property
    def by_arrival(self) -> bool:
        """First come, first served: the engine's own rule says who gives way."""
        return self.builtin and self.name == "fcfs"


def take_order(policy: Policy, trace: Trace, slo: Mapping[str, float] = MappingProxyType({})) -> Order:
    """Ask a policy for its keys and check them.

    Raises:
        InputError: it fails, its keys are of the wrong length, not numbers or NaN.
    """
    with theirs("the policy's name failed"):
        name = str(policy.name)
    with theirs(f"keys of {name!r} failed"):
        given = policy.keys(_read_only(trace))
    with theirs(f"keys of {name!r}: expected {len(trace)} numbers"):
        keys = np.array(given, dtype=np.float64)
    if keys.shape != (len(trace),):
        shape = " x ".join(map(str, keys.shape)) or "a single number"
        raise InputError(f"keys of {name!r}: expected {len(trace)}, one per request, got {shape}", field="policy")
    bad = np.flatnonzero(np.isnan(keys))
    if bad.size:
        raise InputError(f"keys of {name!r}: {bad.size} are NaN, the first of request {bad[0]}", field="policy")
    with theirs(f"from_arrival of {name!r} failed"):
        from_arrival = bool(getattr(policy, "from_arrival", False))
    builtin = type(policy).__module__.startswith("steelyard.simulation.policies.")
    return Order(name, keys, from_arrival, builtin, _rules_of(policy, name, trace, slo))


def _rules_of(policy: Policy, name: str, trace: Trace, slo: Mapping[str, float]) -> RuleSet | None:
    """The rules of a policy and what they start from; None without any."""
    with theirs(f"rules of {name!r} failed"):
        given = getattr(policy, "rules", None)
        if not given:
            return None
        if not isinstance(given, Mapping):
            raise InputError(f"rules of {name!r}: expected a mapping of names to functions", field="policy")
        functions = checked_rules(dict(given), "policy")
    with theirs(f"state of {name!r} failed"):
        ask = getattr(policy, "state", None)
        start = dict(ask(_read_only(trace), dict(slo))) if ask else {}
        state = RuleSet(functions, start.pop("memory", None), start.pop("shared", None), tuple(start.pop("params", ())))
    problems = [Problem("policy", f"state of {name!r}: unknown entry {entry!r}") for entry in start]
    if state.memory is not None:
        shape = np.shape(state.memory)
        if len(shape) != 2 or shape[0] != len(trace) or shape[1] > MEMORY:
            problems.append(Problem("policy", f"memory of {name!r}: expected [{len(trace)}, up to {MEMORY}]"))
    raise_all(problems)
    return state


def _read_only(trace: Trace) -> Trace:
    """The same trace with arrays that cannot be written to."""
    shown = copy.copy(trace)
    for field in dataclasses.fields(trace):
        value = getattr(trace, field.name)
        if isinstance(value, np.ndarray):
            view = value.view()
            view.flags.writeable = False
            object.__setattr__(shown, field.name, view)
    return shown
