"""Public functions of the verbs: a scenario or words in, signature and documentation derived from the fields."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from steelyard.errors import InputError, Problem
from steelyard.scenario.fields import REQUIRED, Field, fields_of
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.words import Problems

__all__ = ["POSITIONAL", "signature_of", "stub_of", "verb", "words_of"]

_R = TypeVar("_R")
#: Fields that may be given without their name.
POSITIONAL = ("model", "on")


def verb(name: str, read: Callable[[Mapping[str, Any]], Any] | None = None) -> Callable[..., Any]:
    """Make a function of a scenario into a public verb, which takes a scenario, or model and machine and other fields.

    Args:
        name: ``estimate``, ``simulate`` or ``plan``.
        read: makes what the function takes from words; default: a :class:`~steelyard.scenario.scenario.Scenario`.
    """

    def read_words(words: Mapping[str, Any]) -> Any:
        return read(words) if read is not None else read_scenario(name, words, Problems())

    def decorate(function: Callable[[Any], _R]) -> Callable[..., _R]:
        @functools.wraps(function)
        def call(*args: Any, **words: Any) -> _R:
            if len(args) == 1 and not words and isinstance(args[0], Scenario) and args[0].verb == name:
                return function(args[0])
            return function(read_words(words_of(name, args, words)))

        call.__signature__ = signature_of(name, inspect.signature(function).return_annotation)  # type: ignore[attr-defined]
        call.__doc__ = documented(name, function.__doc__ or "")
        return call

    return decorate


def words_of(name: str, args: tuple[Any, ...], words: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a call gives: those of a scenario, of the values without a name, and of the keywords.

    Raises:
        InputError: too many values without a name, or a field given twice.
    """
    given: dict[str, Any] = {}
    if args and isinstance(args[0], Scenario):
        fields = fields_of(name)
        given = {k: v for k, v in args[0].words.items() if k in fields and v != fields[k].default}
        args = args[1:]
    if len(args) > len(POSITIONAL):
        raise InputError(f"expected model and machine, got {len(args)} values without a name", field=name)
    named = dict(zip(POSITIONAL, args, strict=False))
    twice = [n for n in named if n in words]
    if twice:
        raise InputError("given twice", field=twice[0], problems=[Problem(n, "given twice") for n in twice])
    return {**given, **named, **words}


def _ordered(name: str) -> list[Field]:
    fields = fields_of(name)
    return [fields[n] for n in (*POSITIONAL, *(n for n in fields if n not in POSITIONAL))]


def signature_of(name: str, returns: Any = inspect.Signature.empty) -> inspect.Signature:
    """The signature of a verb."""
    parameters = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if f.name in POSITIONAL else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is REQUIRED else f.default,
            annotation=f.python,
        )
        for f in _ordered(name)
    ]
    return inspect.Signature(parameters, return_annotation=returns)


def documented(name: str, text: str) -> str:
    """A docstring with the fields as its arguments, put before its ``Returns:``."""
    lines = ["Args:"]
    for f in _ordered(name):
        lines += textwrap.wrap(f"{f.name}: {f.doc}", 112, initial_indent="    ", subsequent_indent="        ")
    head, mark, rest = inspect.cleandoc(text).partition("Returns:")
    return f"{head.rstrip()}\n\n" + "\n".join(lines) + f"\n\n{mark}{rest}"


#: Where the types of the annotations are.
_TYPES = {
    "Any": "typing",
    "Autoscale": "steelyard.techniques.changes",
    "Callable": "collections.abc",
    "Cluster": "steelyard.machine.cluster",
    "Lengths": "steelyard.traffic.lengths",
    "Mapping": "collections.abc",
    "Model": "steelyard.workload.catalogue",
    "Outage": "steelyard.techniques.changes",
    "Path": "pathlib",
    "Policy": "steelyard.simulation.policies",
    "Sequence": "collections.abc",
    "Trace": "steelyard.traffic.trace",
    "overload": "typing",
}
#: The verbs that take fields: whose, and what they return.
_VERBS = {
    "estimate": ("estimate", "Estimate"),
    "explain": ("estimate", "Explanation"),
    "simulate": ("simulate", "Simulation"),
    "plan": ("plan", "Answer"),
}


def stub_of(homes: Mapping[str, str]) -> str:
    """``steelyard/__init__.pyi``: what editors and type checkers see of the package.

    Args:
        homes: the public names and the modules that define them.
    """
    body = "\n".join(_overloads(name, *found) for name, found in _VERBS.items())
    words = set(re.findall(r"\w+", body))
    known = {n: m for n, m in _TYPES.items() if n in words} | {n: m for n, m in homes.items() if n not in _VERBS}
    imports = sorted(f"from {module} import {name} as {name}" for name, module in known.items())
    head = '"""Written by docs/reference/generate.py from the fields of a question; change those instead."""'
    return "\n".join([head, "", *imports, "", "__version__: str", "HOMES: dict[str, str]", "", body, ""])


def _overloads(name: str, verb_name: str, returns: str) -> str:
    """A verb with its fields, and with a scenario in place of them."""
    ordered = _ordered(verb_name)

    def lines(parameters: list[str]) -> str:
        return "".join(f"    {parameter},\n" for parameter in parameters)

    def written(f: Field) -> str:
        return f"{f.name}: {f.python}" + ("" if f.default is REQUIRED else f" = {f.default!r}")

    first = [written(f) for f in ordered if f.name in POSITIONAL]
    rest = [written(f) for f in ordered if f.name not in POSITIONAL]
    changed = ["scenario: Scenario", "/", "*", *(f"{f.name}: {f.python} = ..." for f in ordered)]
    return (
        f"@overload\ndef {name}(\n{lines([*first, '*', *rest])}) -> {returns}: ...\n"
        f"@overload\ndef {name}(\n{lines(changed)}) -> {returns}: ..."
    )
