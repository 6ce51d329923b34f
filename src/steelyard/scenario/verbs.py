"""Public functions of the verbs: a scenario or words in, signature and documentation derived from the fields."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from steelyard.errors import InputError, Problem, raise_all
from steelyard.scenario.fields import GROUPS, REQUIRED, Field, fields_of
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.words import Problems, with_flags
from steelyard.techniques._registry import without_words

__all__ = ["POSITIONAL", "ordered", "signature_of", "verb", "words_of"]

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
        InputError: too many values without a name, a field given twice, or a scenario of another verb that says more.
    """
    given: dict[str, Any] = {}
    if args and isinstance(args[0], Scenario):
        fields, asked = fields_of(name), fields_of(args[0].verb)
        own = without_words(args[0].verb, args[0].words)
        own = with_flags(name, {k: v for k, v in own.items() if not _same(v, asked[k].default)})
        given = {k: v for k, v in own.items() if k in fields and not _same(v, fields[k].default)}
        if name != args[0].verb:
            _refuse_lost(name, args[0].verb, own)
        args = args[1:]
    if len(args) > len(POSITIONAL):
        raise InputError(f"expected model and machine, got {len(args)} values without a name", field=name)
    named = dict(zip(POSITIONAL, args, strict=False))
    twice = [n for n in named if n in words]
    if twice:
        raise InputError("given twice", field=twice[0], problems=[Problem(n, "given twice") for n in twice])
    return {**given, **named, **words}


def _same(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, type(default)) and bool(value == default))


def _refuse_lost(name: str, verb: str, own: Mapping[str, Any]) -> None:
    """Refuse a scenario of another verb that says what this one has no fields for. Raises :class:`InputError`.

    What the planner chooses itself is left out of a plan, and the batch of an estimate out of a simulation.
    """
    left_out = GROUPS["chosen"] if name == "plan" else ("batch",)
    lost = [n for n in own if n not in fields_of(name) and n not in left_out]
    raise_all([Problem(n, f"{name} does not take this field of a scenario of {verb}") for n in lost])


def ordered(name: str) -> list[Field]:
    """The fields of a verb, those first that may be given without their name."""
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
        for f in ordered(name)
    ]
    return inspect.Signature(parameters, return_annotation=returns)


def documented(name: str, text: str) -> str:
    """A docstring with the fields as its arguments, put before its ``Returns:``."""
    lines = ["Args:"]
    for f in ordered(name):
        lines += textwrap.wrap(f"{f.name}: {f.doc}", 112, initial_indent="    ", subsequent_indent="        ")
    head, mark, rest = inspect.cleandoc(text).partition("Returns:")
    return f"{head.rstrip()}\n\n" + "\n".join(lines) + f"\n\n{mark}{rest}"
