"""The techniques of a question: found by name, read from text and options, checked against each other.

``NAME[:value,key=value,switch]`` names one; several are a list, or joined by `` + ``. Options such as ``--speculate``
stand for the same techniques (:data:`FLAGS`, :data:`OPTIONS`): there is one way from either to the objects.
"""

from __future__ import annotations

import numbers
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from steelyard.deployment.dynamics import Autoscale
from steelyard.errors import InputError, Problem, UnknownName, raise_all
from steelyard.registry import Registry
from steelyard.techniques._base import Parameter, Technique, relabelled, unknown
from steelyard.techniques._presets import PresetRows

__all__ = [
    "FLAGS",
    "OPTIONS",
    "TECHNIQUES",
    "check_together",
    "find_technique",
    "parse",
    "read_flag",
    "read_options",
    "read_techniques",
    "with_techniques",
    "without_words",
]

#: Every technique by name: those that are code, and presets of them.
TECHNIQUES: Registry[type[Technique]] = Registry("technique", "steelyard.techniques", rows=PresetRows())

#: Options that stand for techniques, in the order in which they are applied, and what one may mean: names (the first
#: that reads its text), or ``*slot`` (its text begins with the name of a technique of that slot).
FLAGS: Mapping[str, tuple[str, ...]] = {
    "disaggregate": ("semi-pd", "attention-ffn"),
    "autoscale": ("autoscale",),
    "migrate": ("llumnix",),
    "speculate": ("*speculation",),
    "lora": ("lora",),
    "kv_tiers": ("kv-tiers",),
    "early_exit": ("early-exit",),
    "finetune": ("finetune",),
    "overlap": ("*overlap",),
}
#: Techniques with an option per parameter, applied before those of :data:`FLAGS`.
OPTIONS: Mapping[str, tuple[str, ...]] = {"failures": ("mtbf", "restart", "outages")}


def parse(text: str, label: str = "with") -> Technique:
    """Read ``NAME[:value,key=value,switch]``.

    Raises:
        InputError: an unknown name, with the nearest ones; every problem of its parameters.
    """
    name, _, body = text.strip().partition(":")
    try:
        cls = TECHNIQUES.get(name.strip())
    except UnknownName as error:
        raise InputError(error.message, field=label) from None
    _refuse_commas(body, cls.name)
    return cls.read(body)


def _refuse_commas(text: str, label: str) -> None:
    """Refuse text of nothing but commas. Raises :class:`InputError`."""
    if text.strip() and not text.strip(" ,"):
        raise InputError(f"expected values between the commas, got {text!r:.80}", field=label)


def find_technique(name: str) -> type[Technique]:
    """The class of a technique. Raises :class:`UnknownName`."""
    return TECHNIQUES.get(name)


def read_flag(flag: str, text: str) -> Technique | None:
    """The technique that an option stands for; None when its text is about something else.

    Raises:
        InputError: it cannot be read.
    """
    _refuse_commas(text, flag)
    for name in FLAGS[flag]:
        choices = [TECHNIQUES.get(n) for n in (TECHNIQUES if name.startswith("*") else (name,))]
        choices = [cls for cls in choices if name == f"*{cls.slot}" or name == cls.name]
        for cls in choices:
            if (made := cls.from_flag(text, flag)) is not None:
                return made
        if name.startswith("*"):
            kind, head = "method" if flag == "speculate" else flag, text.partition(":")[0].strip()
            raise InputError(unknown(kind, head, [cls.name for cls in choices]), field=flag)
    return None


def read_options(name: str, parts: Mapping[str, Any]) -> Technique:
    """A technique from the options that are its parameters, as text or values.

    Raises:
        InputError: every problem at once, under the options' names.
    """
    cls = TECHNIQUES.get(name)
    by_key = {p.key: p for p in cls.parameters()}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for option, value in parts.items():
        p = by_key[option]
        try:
            values[p.field] = _value(cls, p, value, option)
        except InputError as error:
            problems += error.problems
    raise_all(problems)
    try:
        return cls(**values)
    except InputError as error:
        raise relabelled(error, name, next(iter(parts))) from None


def _value(cls: type[Technique], p: Parameter, value: Any, option: str) -> Any:
    """The value of a parameter from an option: text is read, also in a list; a number is taken as it is."""
    if isinstance(value, str):
        return cls._value(p, value, option)
    if typing.get_origin(p.type) is not tuple:
        return value
    items = value if isinstance(value, list | tuple) else (value,)
    return tuple(item for one in items for item in (_value(cls, p, one, option) if isinstance(one, str) else (one,)))


def read_techniques(words: Mapping[str, Any]) -> tuple[Technique, ...]:
    """The techniques of a question: those of the field ``techniques`` and of the options that stand for one.

    Args:
        words: fields of the question; the others are not looked at.

    Returns:
        in an order that does not depend on the user's.

    Raises:
        InputError: every problem at once: unknown names, parameters, two that cannot be together.
    """
    found, _, problems = _found(words)
    raise_all(problems)
    return found


def _is_given(value: Any) -> bool:
    """Whether an option says anything: not None, and no empty text or tuple."""
    return value is not None and not (isinstance(value, str | tuple) and not value)


def _found(words: Mapping[str, Any]) -> tuple[tuple[Technique, ...], list[str], list[Problem]]:
    """Techniques, the options that were read as such, problems."""
    items: list[tuple[Sequence[str], Any, tuple[Any, ...]]] = []
    for name, options in OPTIONS.items():
        parts = {option: words[option] for option in options if _is_given(words.get(option))}
        if parts:
            items.append((options, read_options, (name, parts)))
    for flag in FLAGS:
        value = words.get(flag)
        if isinstance(value, Technique | Autoscale):
            items.append(((flag,), _object_of, (flag, value)))
        elif value is True or (isinstance(value, str) and value.strip()):
            items.append(((flag,), read_flag, (flag, "" if value is True else value)))
        elif isinstance(value, numbers.Real) and not isinstance(value, bool) and flag != "migrate":
            items.append(((flag,), read_flag, (flag, str(value))))
    given = words.get("techniques", ())
    given = () if given is None else given
    for one in given if isinstance(given, list | tuple) else (given,):
        if isinstance(one, Technique):
            items.append(((), _same, (one,)))
        elif not isinstance(one, str):
            items.append((("techniques",), _no_technique, (one,)))
        else:
            items += [((), parse, (part,)) for part in re.split(r"\s\+\s", one) if part.strip()]
    found: list[Technique] = []
    read: list[str] = []
    problems: list[Problem] = []
    for stood_for, reader, arguments in items:
        try:
            made = reader(*arguments)
        except InputError as error:
            problems += error.problems
            read += stood_for
            continue
        if made is not None:
            found.append(made)
            read += stood_for
    return tuple(sorted(found, key=_rank)), read, problems or check_together(found)


def _same(technique: Technique) -> Technique:
    return technique


def _object_of(flag: str, given: Technique | Autoscale) -> Technique:
    """The technique that an object given for an option stands for. Raises :class:`InputError`."""
    if isinstance(given, Autoscale) and flag == "autoscale":
        return TECHNIQUES.get(flag)(**{f.name: getattr(given, f.name) for f in fields(given)})
    names = FLAGS[flag]
    if isinstance(given, Technique) and (given.name in names or f"*{given.slot}" in names):
        return given
    known = " or ".join(n.replace("*", "one of ") for n in names)
    raise InputError(f"expected {known}, got {given!s:.80}", field=flag)


def _no_technique(given: object) -> Technique:
    message = f"expected names, or a list of names and techniques, got {given!r:.80}"
    raise InputError(message, field="techniques")


def _rank(technique: Technique) -> tuple[int, str]:
    names = (technique.mechanism or technique.name, f"*{technique.slot}")
    places = [*((name,) for name in OPTIONS), *FLAGS.values()]
    return next((i for i, means in enumerate(places) if set(means) & set(names)), len(places)), technique.name


def check_together(techniques: Sequence[Technique]) -> list[Problem]:
    """Why techniques cannot be used together, one problem per pair."""
    problems = []
    for i, one in enumerate(techniques):
        for other in techniques[i + 1 :]:
            if why := _conflict(one, other):
                problems.append(Problem(one.name, f"not together with {other.name}: {why}"))
    return problems


def _conflict(one: Technique, other: Technique) -> str:
    if one.name == other.name:
        return "give it once"
    if one.slot and one.slot == other.slot:
        return f"a scenario has one technique of {one.slot}"
    mechanism = one.mechanism or one.name
    if mechanism == (other.mechanism or other.name) and mechanism != "settings":
        return f"both are {mechanism}"
    if why := one.conflict(other) or other.conflict(one):
        return why
    if one.per_token and other.per_token:
        return "both say what a token of an answer takes"
    mine, theirs = one.words("simulate"), other.words("simulate")
    both = sorted(k for k in mine.keys() & theirs.keys() if k != "flags" and mine[k] != theirs[k])
    flags = mine.get("flags", {}), theirs.get("flags", {})
    both += sorted(k for k in flags[0].keys() & flags[1].keys() if flags[0][k] != flags[1][k])
    return f"both set {', '.join(both)}" if both else ""


def with_techniques(
    verb: str, words: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of a question with those that its techniques set.

    Args:
        verb: that takes them.
        words: what the user gave.
        defaults: of the fields of the verb.

    Returns:
        the fields, ``techniques`` holding the techniques and none of the options that stand for one; every problem.
    """
    techniques, read, problems = _found({n: v for n, v in words.items() if verb == "simulate" or n == "techniques"})
    merged = {name: value for name, value in words.items() if name not in read}
    if techniques or "techniques" in merged:
        merged["techniques"] = techniques
    for technique in techniques:
        if why := technique.refusal(verb):
            problems.append(Problem(technique.name, why))
            continue
        chosen = technique.words(verb)
        unusable = [n for n in technique.refuses if merged.get(n) not in (None, "", defaults.get(n))]
        problems += [Problem(name, f"not together with {technique.name}: leave it out") for name in unusable]
        for name, value in chosen.items():
            own = merged.get(name)
            if name not in defaults:
                problems.append(Problem(technique.name, f"it sets {name}, which {verb} does not have"))
            elif isinstance(value, Mapping):
                own = own or {}
                problems += [_otherwise(technique, k, v, own[k]) for k, v in value.items() if own.get(k, v) != v]
                merged[name] = {**own, **value}
            elif own not in (None, "", value, defaults[name]):
                problems.append(_otherwise(technique, name, value, own))
            else:
                merged[name] = value
    return merged, problems


def _otherwise(technique: Technique, name: str, value: Any, own: Any) -> Problem:
    return Problem(name, f"{technique.name} sets it to {value}, not {own}: leave one of them out")


def without_words(verb: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :func:`with_techniques` without those that techniques set, so that they can be read again."""
    rest = dict(words)
    for technique in rest.get("techniques") or ():
        for name, value in technique.words(verb).items() if isinstance(technique, Technique) else ():
            if isinstance(value, Mapping):
                rest[name] = {k: v for k, v in (rest.get(name) or {}).items() if k not in value} or None
            else:
                rest.pop(name, None)
    return rest
