"""The load of a simulation: what its words about traffic make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from steelyard.errors import InputError, Problem
from steelyard.scenario.words import Problems
from steelyard.techniques._base import relabelled

if TYPE_CHECKING:
    from steelyard.traffic.trace import Trace

__all__ = ["read_trace", "with_load"]

#: What says that something is sent.
_SOURCES = ("trace", "rate", "concurrency", "workflow")


def with_load(values: Mapping[str, Any], problems: Problems) -> Mapping[str, Any]:
    """The values, with some rate where what was said of the load cannot be read, or where a rate is looked for."""
    said = any(p.field in _SOURCES for p in problems.found)
    none = not any(values[name] not in ("", None) for name in _SOURCES)
    looked_for = values["capacity"] and all(values[name] in ("", None) for name in ("trace", "rate", "concurrency"))
    return {**values, "rate": "1/s"} if looked_for or (said and none) else values


def read_trace(values: Mapping[str, Any]) -> Trace:
    """The traffic of a simulation: a trace given, or what the words about traffic make.

    Raises:
        InputError: every problem of the words at once; what a file has wrong.
    """
    from steelyard.traffic.build import Traffic, traffic
    from steelyard.traffic.trace import Trace

    problems = Problems()
    load = {f.name: values[f.name] for f in fields(Traffic)}
    given = load["trace"]
    if isinstance(given, Trace):
        words = "the trace given is sent as it is; change it with its own methods"
        unused = [f.name for f in fields(Traffic) if f.name not in ("seed", "trace") and load[f.name] != f.default]
        problems.add([Problem(name, words) for name in unused])
    trace = given if isinstance(given, Trace) else None
    if trace is None:
        with problems.collect():
            try:
                trace = traffic(Traffic(**load))
            except InputError as error:
                raise relabelled(error, "file", "workflow") from None
    if values["best_of"] is not None and values["beam"] is not None:
        problems.add([Problem("beam", "choose one of --best-of and --beam")])
    problems.done()
    assert isinstance(trace, Trace)
    width = values["best_of"] or values["beam"]
    if width is None:
        return trace
    from steelyard.traffic.branches import best_of

    return best_of(trace, width, beam=values["beam"] is not None).trace
