"""Recipes: the conditions a published benchmark was run under, as data a user can name, list and write.

A recipe is a ``[[recipe]]`` table of a TOML file in the folder ``recipes`` of a catalogue, or of a file of its own. It
sets fields of a question and flags of its engine; what the user says himself wins. A value may be reckoned from the
question: text that begins with ``=`` is arithmetic of ``isl``, ``osl``, ``concurrency`` and the parallel degrees
with ``+ - * / //``, ``min`` and ``max``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from steelyard.arithmetic import reckon
from steelyard.deployment.plan import DEGREES
from steelyard.documents import build, is_file, read_document
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, show
from steelyard.folders import catalogue_files
from steelyard.machine.cluster import Cluster, cluster_of, parse_cluster
from steelyard.machine.component import Machine
from steelyard.scenario.fields import GROUPS, STATIC_FLAGS, VERBS
from steelyard.scenario.fields import field as field_of
from steelyard.units import Quantity
from steelyard.workload.catalogue import Model, load_model

__all__ = ["Case", "Facts", "Recipe", "find_recipe", "recipes", "told", "with_recipe"]

#: Conditions of a case: what a fact must be. Names and switches are compared, numbers lie in a range.
_NAMES, _SWITCHES = ("family", "machine", "weights"), ("experts", "latent")
_NUMBERS = (*DEGREES, *GROUPS["batch"][1:], "concurrency")
#: Lengths of a request where the user names none.
USUAL_LENGTHS = {name: int(field_of("estimate", name).default) for name in GROUPS["batch"][1:]}
_RANGE = re.compile(r"(\d{1,9})?(-)?(\d{1,9})?")
#: Fields that say what runs where, and how many clients there are, which a recipe leaves to the user.
_LEFT = frozenset(
    {"model", "on", "trace", "workflow", "flags", "techniques", "recipe", "anchor", "seed", "concurrency"}
)
#: Fields that say how requests are sent; of a recipe's those count where the user says none.
_SENT = ("trace", "rate", "concurrency", "workflow")


#: What cases of a recipe look at: ``family`` and ``machine``; ``experts`` and ``latent``, whether the model has them;
#: ``weights``, their format; degrees, the nominal lengths of a request and its clients. What is not known is left out.
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What a recipe sets besides, where some conditions hold."""

    __pydantic_config__ = {"extra": "forbid"}

    when: Annotated[
        Mapping[str, Any],
        "family, machine and weights (a name or a list), experts, latent (true or false), tp, dp, isl, osl and "
        "concurrency (a number or a range: 64-255, 8-, -7)",
    ]
    words: Annotated[Mapping[str, Any], "fields of a question"] = field(default_factory=dict)
    flags: Annotated[Mapping[str, Any], "flags of the engine, by the names vLLM has for them or the engine's own"] = (
        field(default_factory=dict)
    )

    def holds(self, facts: Facts) -> bool:
        """Whether every condition does; one on what is not known does not."""
        return all(_is(facts.get(name), wanted) for name, wanted in self.when.items())


@dataclass(frozen=True, slots=True)
class Recipe:
    """The conditions of a published benchmark."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    source: Annotated[str, "where the conditions are published"]
    released: Annotated[str, "year and month"] = ""
    aliases: tuple[str, ...] = ()
    engine: Annotated[str, "serving engine; empty = the user's or the usual one"] = ""
    version: Annotated[str, "releases of the engine that the benchmark ran, for the record"] = ""
    lengths: Annotated[str, "requests are uniform between these shares of the lengths asked for, such as 0.8-1.0"] = ""
    words: Annotated[Mapping[str, Any], "further fields of a question that it sets"] = field(default_factory=dict)
    flags: Annotated[Mapping[str, Any], "flags of the engine, by the names vLLM has for them or the engine's own"] = (
        field(default_factory=dict)
    )
    case: Annotated[tuple[Case, ...], "what it sets besides where conditions hold; later ones win"] = ()
    guess: Annotated[tuple[str, ...], "fields and flags that nobody published"] = ()
    system_spread: Annotated[
        float,
        Quantity("1", "spread of runs under it beside the cost models', from rows no fit saw; 0 = as usual", ge=0),
    ] = 0.0

    def __post_init__(self) -> None:
        raise_all(list(_problems(self)))

    def said(self, facts: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of a question, and flags of its engine, with what is reckoned; what cannot be yet is left out."""
        words = {"engine": self.engine} if self.engine else {}
        words, flags = {**words, **self.words}, dict(self.flags)
        for case in self.case:
            if case.holds(facts):
                words, flags = {**words, **case.words}, {**flags, **case.flags}
        return _reckoned(words, facts), _reckoned(flags, facts)

    def about(self) -> dict[str, Any]:
        """What it sets, for people, a line for each case."""
        found: dict[str, Any] = {
            name: value for name in ("released", "engine", "version", "lengths") if (value := getattr(self, name))
        }
        found |= {"also_called": ", ".join(self.aliases)} if self.aliases else {}
        found |= {**self.words, **{f"flag.{name}": value for name, value in self.flags.items()}}
        for i, case in enumerate(self.case):
            conditions = ", ".join(f"{name} {_spelled(value)}" for name, value in case.when.items())
            values = {**case.words, **{f"flag {name}": value for name, value in case.flags.items()}}
            found[f"case[{i}]"] = f"{conditions}: " + ", ".join(f"{n} {_spelled(v)}" for n, v in values.items())
        return found

    @property
    def shares(self) -> tuple[float, float]:
        """Least and largest share of the lengths asked for."""
        low, _, high = self.lengths.partition("-") if self.lengths else ("1", "", "1")
        return float(low), float(high)


def _spelled(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " or ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _is(fact: Any, wanted: Any) -> bool:
    if fact is None or fact == "":
        return False
    if isinstance(wanted, list | tuple):
        return any(_is(fact, one) for one in wanted)
    if isinstance(fact, int) and not isinstance(fact, bool):
        low, dash, high = _range(wanted)
        return low <= fact <= (high if dash else low)
    return bool(fact == wanted)


def _range(text: Any) -> tuple[float, bool, float]:
    """``(least, whether it is a range, most)``. Raises :class:`InputError`."""
    match = _RANGE.fullmatch(str(text).replace(" ", ""))
    if isinstance(text, bool) or match is None or not (match[1] or match[3]):
        raise InputError(f"expected a number or a range such as 64-255, got {show(text)}")
    return float(match[1] or 0), bool(match[2]), float(match[3] or math.inf)


def _problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong with a recipe, beside the engine's own view of its flags."""
    if not re.fullmatch(r"[\w.@/-]{1,80}", recipe.name):
        yield Problem("name", f"expected letters, digits and . @ / - _, got {show(recipe.name)}")
    if recipe.lengths and not re.fullmatch(r"(0(\.\d+)?|1(\.0+)?)-1(\.0+)?", recipe.lengths):
        yield Problem("lengths", f"expected shares such as 0.8-1.0, got {show(recipe.lengths)}")
    every = {name for verb in VERBS.values() for name in verb} - _LEFT - set(DEGREES)
    for where, words, flags in (
        ("", recipe.words, recipe.flags),
        *((f"case[{i}].", c.words, c.flags) for i, c in enumerate(recipe.case)),
    ):
        for name in words:
            if name not in every:
                yield Problem(f"{where}words.{name}", UnknownName("field", name, sorted(every)).message)
        for kind, found in (("words", words), ("flags", flags)):
            for name, value in found.items():
                if isinstance(value, str) and value.startswith("="):
                    with_problem = _unreadable(value[1:])
                    if with_problem:
                        yield Problem(f"{where}{kind}.{name}", with_problem)
                elif not isinstance(value, str | int | float | bool):
                    yield Problem(f"{where}{kind}.{name}", f"expected a number, text, true or false, got {show(value)}")
    for i, case in enumerate(recipe.case):
        for name, wanted in case.when.items():
            place = f"case[{i}].when.{name}"
            if name not in (*_NAMES, *_SWITCHES, *_NUMBERS):
                yield Problem(place, UnknownName("condition", name, (*_NAMES, *_SWITCHES, *_NUMBERS)).message)
            elif name in _SWITCHES and not isinstance(wanted, bool):
                yield Problem(place, f"expected true or false, got {show(wanted)}")
            elif name in _NUMBERS:
                for one in wanted if isinstance(wanted, list | tuple) else (wanted,):
                    try:
                        _range(one)
                    except InputError as error:
                        yield Problem(place, error.message)


@cache
def _unreadable(text: str) -> str:
    """What is wrong with arithmetic; empty: nothing."""
    try:
        found = reckon(text, dict.fromkeys(_NUMBERS, 7.0).get, ", ".join(_NUMBERS))
        if not math.isfinite(found):
            return "expected a finite number"
    except InputError as error:
        return error.message
    return ""


def _reckoned(values: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The values; of those reckoned from what is not known none."""
    known = {name: float(value) for name in _NUMBERS if (value := facts.get(name)) is not None}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not (isinstance(value, str) and value.startswith("=")):
            found[name] = value
            continue
        with suppress(InputError):
            number = reckon(value[1:], known.get, ", ".join(_NUMBERS))
            if not math.isfinite(number):
                raise InputError("expected a finite number")
            found[name] = int(number) if number == int(number) else number
    return found


@dataclass(frozen=True, slots=True)
class _RecipeFile:
    __pydantic_config__ = {"extra": "forbid"}

    recipe: tuple[Recipe, ...]


def _read(path: Path | str) -> tuple[Recipe, ...]:
    return build(_RecipeFile, read_document(path), Path(path).name).recipe


@cache
def recipes() -> Mapping[str, Recipe]:
    """Every recipe of the catalogues by name; of two of one name the one of the catalogue that is searched first.

    Raises:
        InputError: a file cannot be read, or a field is missing, unknown or wrong.
    """
    found: dict[str, Recipe] = {}
    for path in catalogue_files("recipes"):
        for recipe in _read(path):
            found.setdefault(recipe.name, recipe)
    return found


def find_recipe(name: str) -> Recipe:
    """The recipe of this name or alias, or of a file with one recipe: ``mine.toml``, ``mine.toml#NAME`` of several.

    Raises:
        UnknownName: there is none.
        InputError: the file cannot be read.
    """
    path, _, part = name.partition("#")
    if path.lower().endswith((".toml", ".yaml", ".yml", ".json")) or is_file(path):
        inside = {r.name: r for r in _read(path)}
        if part and part not in inside:
            raise UnknownName("recipe", part, inside)
        if not part and len(inside) != 1:
            words = f"the file holds {len(inside)} recipes; name one: {path}#{next(iter(inside), 'NAME')}"
            raise InputError(words, field="recipe")
        return inside[part] if part else next(iter(inside.values()))
    means = {n: r.name for r in recipes().values() for n in (r.name, *r.aliases)}
    for known, target in means.items():
        if normalise(known) == normalise(name):
            return recipes()[target]
    hint = "`steelyard ls recipes` lists all; the path of a file of your own works too"
    raise UnknownName("recipe", name, means, hint=hint, means=means)


def with_recipe(verb: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a question with those of the recipe it names under them; what the verb does not have is left out.

    Raises:
        InputError: there is no such recipe, or its file cannot be read.
    """
    named = words.get("recipe")
    if not isinstance(named, str) or not named.strip():
        return dict(words)
    recipe = find_recipe(named.strip())
    said, flags = recipe.said(_facts(verb, words))
    own = {name: value for name, value in words.items() if value not in (None, "", ())}
    found: dict[str, Any] = {name: value for name, value in said.items() if name in VERBS[verb]}
    if any(own.get(name) for name in _SENT):
        found.pop("rate", None)
    if not (own.get("concurrency") or own.get("turns")):
        found.pop("think", None)
    if "flags" in VERBS[verb]:
        found["flags"] = {**flags, **(own.get("flags") or {})} or None
    elif verb == "estimate":
        found |= {name: value for name, value in flags.items() if name in STATIC_FLAGS}
    if recipe.lengths and verb != "estimate" and not own.get("trace"):
        for name, usual in USUAL_LENGTHS.items():
            if name not in (found.keys() - own.keys()) and (size := _whole(own.get(name, usual))) is not None:
                own[name] = f"uniform:{recipe.lengths}x{size}"
    return {**words, **found, **{n: v for n, v in own.items() if n != "flags" or n not in found}}


def told(words: Mapping[str, Any]) -> str:
    """What a recipe made of a question, in words; empty without one."""
    if not words.get("recipe"):
        return ""
    recipe = find_recipe(words["recipe"].strip())
    flags = (
        words["flags"] or {} if "flags" in words else {n: words[n] for n in STATIC_FLAGS if words.get(n) is not None}
    )
    said = {name: words[name] for name in recipe.words if words.get(name) not in (None, "")}
    shown = ", ".join(f"{name} {_spelled(value)}" for name, value in {**said, **flags}.items())
    return f"recipe {recipe.name} ({recipe.title}){shown and f': {shown}'}"


def _whole(value: Any) -> int | None:
    """A plain number of tokens, written either way."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _facts(verb: str, words: Mapping[str, Any]) -> Facts:
    """What a question says of what cases look at; whatever else is wrong with it is told elsewhere."""
    model = cluster = None
    with suppress(InputError):
        given = words.get("model")
        model = given if isinstance(given, Model) else load_model(given) if isinstance(given, str) else None
    with suppress(InputError):
        on = words.get("on")
        cluster = on if isinstance(on, Cluster) else cluster_of(on) if isinstance(on, Machine) else None
        cluster = parse_cluster(on) if isinstance(on, str) else cluster
    given = {**USUAL_LENGTHS, **{n: v for n, v in words.items() if v not in (None, "")}}
    found: dict[str, Any] = {name: _whole(given.get(name)) for name in _NUMBERS}
    if verb == "estimate":
        found[_NUMBERS[-1]] = _whole(given.get("batch", 1))
    if cluster is not None:
        found |= {"family": cluster.machine.family, "machine": cluster.machine.name}
        if verb != "plan" and found[DEGREES[0]] is None:
            found[DEGREES[0]] = cluster.count // math.prod(found[name] or 1 for name in DEGREES[1:3])
    if model is not None:
        found |= {"experts": bool(model.transformer.experts), "latent": model.transformer.latent}
    found["weights"] = given.get("weights") or (model.transformer.native_weights if model else "")
    return found
