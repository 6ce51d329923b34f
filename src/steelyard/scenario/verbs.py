"""Public functions of the verbs: a scenario or words in, signature and documentation derived from the fields."""

from __future__ import annotations

import functools
import inspect
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
    "Machine": "steelyard.machine.component",
    "Mapping": "collections.abc",
    "Model": "steelyard.workload.catalogue",
    "Outage": "steelyard.techniques.changes",
    "Path": "pathlib",
    "Policy": "steelyard.simulation.policies",
    "Scenario": "steelyard.scenario.scenario",
    "Sequence": "collections.abc",
    "Trace": "steelyard.traffic.trace",
}


def stub_of(returns: Mapping[str, tuple[str, str]], names: Mapping[str, str]) -> str:
    """``steelyard/__init__.pyi``: what editors and type checkers see of the package.

    Args:
        returns: type that each verb returns, and its module.
        names: the other public names and their modules.
    """
    known = {**_TYPES, **dict(returns.values())}
    body = "\n\n".join(_overloads(name, kind) for name, (kind, _) in returns.items())
    used = sorted({n for n in known if f"{n}" in body.replace("[", " ").replace("]", " ").replace(",", " ").split()})
    imports = {f"from {known[n]} import {n} as {n}" for n in used if n not in names}
    imports |= {f"from {module} import {name} as {name}" for name, module in names.items()}
    head = '"""Written by docs/reference/generate.py from the fields of a question; change those instead."""\n\n'
    lines = [head + "from typing import overload", *sorted(imports), "", "__version__: str", body]
    return "\n".join(lines) + "\n"


def _overloads(name: str, returns: str) -> str:
    def default(f: Field) -> str:
        return "" if f.default is REQUIRED else f" = {f.default!r}"

    first = [f"{f.name}: {f.python}{default(f)}" for f in _ordered(name) if f.name in POSITIONAL]
    rest = [f"{f.name}: {f.python}{default(f)}" for f in _ordered(name) if f.name not in POSITIONAL]
    changed = [f"{f.name}: {f.python} = ..." for f in _ordered(name)]
    return (
        f"@overload\ndef {name}(\n    " + ",\n    ".join([*first, "*", *rest]) + f",\n) -> {returns}: ...\n"
        f"@overload\ndef {name}(\n    scenario: Scenario,\n    /,\n    *,\n    "
        + ",\n    ".join(changed)
        + f",\n) -> {returns}: ..."
    )
