"""Values of fields from what a user gives: text, Python objects, lists of a study file, options of the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from steelyard.documents import is_file
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, show, suggest
from steelyard.machine.cluster import held_to
from steelyard.machine.loader import is_machine_text
from steelyard.scenario.fields import (
    ENGINE_FLAGS,
    GROUPS,
    REQUIRED,
    VERBS,
    Field,
    engine_flags,
    field,
    fields_of,
)
from steelyard.scenario.ranges import MAX_VALUES, expand, spread_hint
from steelyard.scenario.recipes import with_recipe
from steelyard.scenario.spellings import OFFLOADING, offloading, spellings
from steelyard.spoken import NO_FIELD
from steelyard.techniques._registry import with_techniques
from steelyard.units import parse_quantity

__all__ = [
    "Problems",
    "flags_of",
    "foreign",
    "is_auto",
    "missing",
    "read_value",
    "read_words",
    "unknown",
    "values_of",
    "with_flags",
]

_T = TypeVar("_T")
_EXPECTED = {
    "whole": "a whole number",
    "number": "a number",
    "name": "a name",
    "text": "text",
    "switch": "true or false",
    "object": "an object",
}
_SEVERAL = {
    "whole": "a whole number, a list (1,2,4) or a range (1-256*2, 1-10+3)",
    "number": "a number or a list of numbers",
    "name": "a name, or names separated by commas",
    "text": "text or a number",
    "switch": "true or false",
    "any": "a number, text, true or false",
}


class Problems:
    """Reads one thing after another and keeps what is wrong with any of them; one problem per field."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, problems: Sequence[Problem]) -> None:
        """Keep these, but for fields that have a problem already."""
        known = {p.field for p in self.found if p.field}
        self.found += [p for p in problems if p.field not in known]

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep the problems that the block raises."""
        try:
            yield
        except InputError as error:
            self.add(error.problems)

    def read(self, reader: Callable[..., _T], *arguments: Any) -> _T | None:
        """What ``reader`` gives; None when its input is wrong, and :meth:`done` will raise."""
        with self.collect():
            return reader(*arguments)
        return None

    def done(self) -> None:
        """Raise :class:`InputError` with everything found."""
        raise_all(self.found)


def read_words(verb: str, words: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Every field of a verb: the value given, checked, or the default.

    Args:
        verb: ``estimate``, ``simulate`` or ``plan``.
        words: what was given, by field.
        problems: unknown and missing fields, wrong types and values out of bounds are added here; such a field gets its
            default.
    """
    fields = fields_of(verb)
    many = {name: value for name, value in words.items() if _is_array(value)}  # no technique is one
    words = with_flags(verb, respelled(verb, {n: value for n, value in words.items() if n not in many}, problems))
    words = problems.read(with_recipe, verb, words) or words
    if "offload" in fields:
        words = with_offload(words, problems)
    words, found = with_techniques(verb, words, {name: f.default for name, f in fields.items()})
    words = {**words, **many}
    problems.add([Problem("techniques" if p.field == "with" else p.field, p.message) for p in found])
    for name in [name for name in words if name not in fields]:
        message, near = unknown(verb, str(name))
        problems.add([Problem(str(name), message)])
        if near in fields and near not in words:  # what was meant is read as well
            words = {**words, near: words[name]}
    values = {}
    for name, entry in fields.items():
        values[name] = None if entry.default is REQUIRED else entry.default
        if name not in words:
            if entry.default is REQUIRED:
                problems.add([Problem(name, missing(entry))])
            continue
        with problems.collect():
            values[name] = (
                (words[name] or ()) if name == "techniques" and name not in many else read_value(entry, words[name])
            )
    if values.get("power_limit_w") is not None:
        values["on"] = problems.read(_held, verb, values["on"], values["power_limit_w"]) or values["on"]
    return values


def _held(verb: str, on: Any, watts: float) -> Any:
    """The devices a question names, held to a power; a name that is none is told where it is read."""
    if on == "any":
        raise InputError("name the machines that are held to a power, not any", field="power_limit_w")
    places = on
    if isinstance(on, str):
        places = on.split(",") if verb == "plan" and not is_machine_text(on) else [on]
    elif not isinstance(on, list | tuple):
        places = [on]
    found = []
    for place in places:
        try:
            found.append(held_to(place.strip() if isinstance(place, str) else place, watts))
        except InputError as error:
            if any(p.field == "power_limit_w" for p in error.problems):
                raise
            return None
    return found[0] if len(found) == 1 else tuple(found)


def respelled(verb: str, words: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """The words under our names: ``tensor_parallel_size`` is ``tp``, ``users`` of an estimate its batch."""
    known, found = spellings(verb), dict[str, Any]()
    for name, value in words.items():
        ours = known.get(name.replace("-", "_"), name) if isinstance(name, str) and len(name) > 3 else name
        if ours in found:
            problems.add([Problem(name, f"the same as {ours}, which is given as well")])
        found.setdefault(ours, value)
    return found


def with_flags(verb: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The words with engine flags where a verb has them: fields of an estimate, ``flags`` elsewhere."""
    loose = [name for name in words if name in engine_flags(verb) and name not in VERBS[verb]]
    found = {name: value for name, value in words.items() if name not in loose}
    if loose:
        own = {name: words[name] for name in loose if words[name] not in (None, "")}
        if isinstance(flags := words.get("flags"), Mapping | None):  # else it is refused where it is read
            found["flags"] = {**own, **(flags or {})} or None
    elif verb == "estimate" and isinstance(flags := words.get("flags"), Mapping | None):
        found = {**{n: v for n, v in found.items() if n != "flags"}, **(flags or {})}
    return found


def with_offload(words: Mapping[str, Any], problems: Problems) -> Mapping[str, Any]:
    """The words with what engines call the placing of weights (``n_cpu_moe``, ``ngl``) under our field."""
    spelled = {name: key for name in words if (key := str(name).lstrip("-").replace("-", "_")) in OFFLOADING}
    if not spelled:
        return words
    said = [str(words["offload"])] if words.get("offload") else []
    said += [text for name, key in spelled.items() if (text := problems.read(offloading, key, words[name]))]
    said.sort(key=lambda text: text.startswith("tensors:"))
    return {**{n: v for n, v in words.items() if n not in spelled}, "offload": ",".join(said)}


def foreign(words: Collection[str], known: Collection[str]) -> list[Problem]:
    """A problem for each word that is none of the question's."""
    expected = f"expected a word of the question: {', '.join(known)}"
    return [Problem(name, expected) for name in sorted(set(words) - set(known))]


def missing(asked: Field) -> str:
    """What to say of a field that has to be given."""
    return f"required field is missing ({asked.doc})"


def unknown(kind: str, name: str, own: Collection[str] = (), *, verb: str = "", typed: bool = False) -> tuple[str, str]:
    """``(message, nearest field)`` for a field that a verb does not have; the nearest may be empty.

    Args:
        kind: of the question: ``estimate``, ``simulate`` or ``plan``.
        name: what was written.
        own: what could have been; default: the fields.
        verb: the verb of the command line; default: ``kind``.
        typed: on the command line, where fields are options.
    """
    every = {f: field(v, f) for v in VERBS for f in VERBS[v]} | ENGINE_FLAGS
    verb, fields = verb or kind, fields_of(kind)
    own = own or [*fields, *engine_flags(kind)]
    spelled = {w.lstrip("-"): n for n, f in every.items() for w in (n, *f.options) if w}

    def shown(near: str) -> str:
        if not typed:
            return repr(near)
        if near == "model":
            return "MODEL, the word without an option"
        return every[near].switch if near in every else "--" + near.replace("_", "-")

    what, key = "option" if typed else "field", normalise(name)
    exact = [n for w, n in spelled.items() if normalise(w) == key]
    if not exact and key in NO_FIELD:
        return f"unknown {what}; {NO_FIELD[key]}", ""
    options = [w for w, n in spelled.items() if n in own]
    named, anywhere = (suggest(name, among, 1, kind="field") for among in (own, every))
    tries = (exact, named, suggest(name, options, 1), anywhere)
    near = next((spelled.get(found[0], found[0]) for found in tries if found), "")
    if near in own:
        return f"unknown {what}; did you mean {_where(near, kind, typed) or shown(near)}?", near
    if not near:
        return f"unknown {what}; see `steelyard {verb} --help`", ""
    others = [
        v
        for v in VERBS
        if (v != "plan_training" and near in VERBS[v]) or (near in ENGINE_FLAGS and "flags" in VERBS[v])
    ]
    takes = "take" if len(others) > 1 else "takes"
    return f"unknown {what} of {verb}; {_listed(others)} {takes} {shown(near)}", ""


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _where(near: str, kind: str, typed: bool) -> str:
    """Where an engine's flag goes in Python; empty for a field."""
    return f"flags={{{near!r}: ...}}" if near in ENGINE_FLAGS and not typed and near not in VERBS[kind] else ""


def read_value(field: Field, value: Any, name: str = "") -> Any:
    """One value of a field.

    Args:
        field: its description.
        value: what was given; None and the default are always taken.
        name: in the error; default: the field's.

    Raises:
        InputError: of another type, or out of bounds.
    """
    name = name or field.name
    if value is None and field.default is None:
        return None
    value = _spoken(field, value)
    if isinstance(value, str) and value == "" == field.default:
        return value
    if field.also and not isinstance(value, str) and _is_one_of(value, field.also):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if field.several and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if isinstance(value, list | tuple | range) or _is_array(value):
        raise InputError(_too_many(field, value), field=name)
    hint = spread_hint(value) if field.type == "whole" and name in GROUPS["batch"][1:] else ""
    wrong = InputError(f"expected {_EXPECTED[field.type]}, got {_described(value)}{hint}", field=name)
    plain = isinstance(value, str | int | float) or type(value).__module__ == "numpy"
    if field.type == "switch":
        if not isinstance(value, bool):
            raise wrong
        return value
    if isinstance(value, bool) or not plain or field.type == "object":
        raise wrong
    if field.type in ("name", "text"):
        if field.type == "name" and not isinstance(value, str):
            raise wrong
        text = value if isinstance(value, str) else str(value)
        return (text,) if field.several else _chosen(field, text, name) if field.choices else text
    return _number(field, value, name, wrong)


def _spoken(field: Field, value: Any) -> Any:
    """What a value is written as: no end as the text ``inf``, which JSON has; ``auto`` of engines as our default."""
    if field.type == "text" and isinstance(value, float) and math.isinf(value):
        return f"{value:g}"
    return field.default if is_auto(field, value) else value


def is_auto(field: Field, value: object) -> bool:
    """Whether a value is the ``auto`` of engines, where ours is to say nothing."""
    plain = field.type in ("name", "whole", "number") and field.default in ("", None)
    return plain and isinstance(value, str) and normalise(value) == "auto"


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and bool(getattr(value, "ndim", 0))


def _too_many(field: Field, value: Any) -> str:
    return f"expected {_EXPECTED[field.type]}, got {len(value)} values; steelyard.study takes several"


def _described(value: Any) -> str:
    """A value in a message; an object of no short form by its type."""
    text = show(value)
    return text if len(text) < 80 else f"an object of type {type(value).__name__}"


def _chosen(field: Field, text: str, name: str) -> str:
    """One of the choices of a field, or several separated by commas where it takes a list."""
    parts = [p.strip() for p in text.split(",")] if "Sequence" in field.also else [text]
    found = []
    for part in parts:
        same = [choice for choice in field.choices if normalise(choice) == normalise(part)]
        if not same:
            raise InputError(UnknownName(field.name, part, field.choices).message, field=name)
        found += same
    return ",".join(found)


def _is_one_of(value: Any, annotation: str) -> bool:
    """Whether a value is of one of the classes that ``annotation`` names; compares names, so nothing is imported."""
    names = {part.partition("[")[0].strip() for part in annotation.split("|")}
    if names & {cls.__name__ for cls in type(value).__mro__} and not isinstance(value, bool):
        return True
    if "float" in names and isinstance(value, int) and not isinstance(value, bool):
        return True
    if "Sequence[str]" in annotation and isinstance(value, list | tuple):
        return all(isinstance(part, str) for part in value)
    kinds = {"Sequence": list | tuple, "Mapping": Mapping, "type": type}
    if any(isinstance(value, kind) for word, kind in kinds.items() if word in names):
        return True
    return "Callable" in names and callable(value)


def _number(field: Field, value: Any, name: str, wrong: InputError) -> int | float:
    if field.type == "whole":
        try:
            found = int(value) if isinstance(value, str) else value
        except ValueError:
            raise wrong from None
        if not _finite(found) or found != int(found):
            raise wrong
        return int(_bounded(field, int(found), name))
    if not isinstance(value, str) and isinstance(value, int) and not _finite(value):
        raise wrong
    try:
        found = parse_quantity(value, field.unit, name) if isinstance(value, str) else float(value)
    except TypeError:  # dates of numpy
        raise wrong from None
    return float(_bounded(field, found, name))


def _finite(value: float) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):  # NaT of numpy counts as a whole number
        return False


def _bounded(field: Field, value: float, name: str) -> float:
    low, high = field.least, min(field.most, 2**63 - 1) if field.type == "whole" else field.most
    if low <= value <= high and math.isfinite(value):
        return value
    what, unit = ("a number of " if field.type == "number" else ""), "" if field.unit == "1" else f" {field.unit}"
    bound = f"at least {low:g}" if not value > high else f"at most {high:g}"
    raise InputError(f"expected {what}{bound}{unit}, got {value:g}", field=name)


def values_of(field: Field, given: Any, path: str) -> list[Any]:
    """The values a study gives a field: one, a list, or text that stands for several.

    Raises:
        InputError: with the path.
    """
    items = given if isinstance(given, list) else [given]
    if not items:
        raise InputError("the list is empty", field=path)
    found: list[Any] = []
    for i, item in enumerate(items):
        if len(found) > MAX_VALUES:
            raise InputError(f"at most {MAX_VALUES:,} values", field=path)
        found += _items(field, item, f"{path}[{i}]" if isinstance(given, list) else path)
    if len({repr(v) for v in found}) < len(found):
        raise InputError("the same value stands there twice", field=path)
    return found


def _items(field: Field, item: Any, path: str) -> list[Any]:
    wrong = InputError(f"expected {_SEVERAL[field.type]}, got {show(item)}", field=path)
    if field.type == "text":
        item = _spoken(field, item)
    if isinstance(item, float) and not _finite(item):
        raise wrong
    if field.type == "any":
        if not isinstance(item, str | int | float):
            raise wrong
        return list(expand(item, path)) if isinstance(item, str) and item[:1].isdecimal() else [item]
    if isinstance(item, bool) != (field.type == "switch") or not isinstance(item, str | int | float):
        raise wrong
    if field.type in ("switch", "text"):
        return [item]
    if field.type == "name":
        if not isinstance(item, str):
            raise wrong
        whole = is_machine_text(item) or is_file(item) or is_file(item.rpartition(":")[0])  # a comma may be in a path
        names = [item] if whole else [w.strip() for w in item.split(",")]
        if not all(names):
            raise InputError(f"the list {show(item)} has an empty entry", field=path)
        return ["" if is_auto(field, name) else name for name in names]
    return [_bounded(field, v, path) for v in _numbers(field, item, path, wrong)]


def _numbers(field: Field, item: Any, path: str, wrong: InputError) -> list[Any]:
    if field.type == "whole":
        if isinstance(item, str):
            return list(expand(item, path))
        if not _finite(item) or item != int(item):
            raise wrong
        return [int(item)]
    if not isinstance(item, str):
        return [float(item)]
    try:
        return [float(part) for part in item.split(",")]
    except ValueError:
        return [float(v) for v in expand(item, path)]


def flags_of(given: Mapping[str, Any], others: Sequence[str] = ()) -> dict[str, Any]:
    """Engine flags from the command line: those with an option of their own, then ``NAME=VALUE``.

    Raises:
        InputError: every one that is no number where one is expected.
    """
    problems, found = Problems(), {}
    for name, flag in ENGINE_FLAGS.items():
        value = given.get(name)
        if value is None or value == "" or is_auto(flag, value):
            continue
        with problems.collect():
            found[name] = _flag(flag, value)
    for item in others:
        name, equals, text = item.partition("=")
        if not equals or not name:
            problems.add([Problem("flag", f"expected NAME=VALUE, got {item!r}")])
        else:
            found[name.strip().lstrip("-")] = _plain(text)
    problems.done()
    return found


def _flag(flag: Field, value: Any) -> Any:
    if flag.type not in ("whole", "number"):
        return value
    number = parse_quantity(value, "1", flag.option)
    if flag.type == "whole" and number != int(number):
        raise InputError(f"expected a whole number, got {value}", field=flag.option)
    number = _bounded(flag, number, flag.option)
    return int(number) if flag.type == "whole" else number


def _plain(text: str) -> Any:
    """``true`` and ``off`` as a switch, a number where it is one, else the text."""
    word = text.strip().lower()
    if word in ("true", "yes", "on", "false", "no", "off"):
        return word in ("true", "yes", "on")
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
