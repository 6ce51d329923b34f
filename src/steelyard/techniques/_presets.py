"""Published systems as presets: a technique with the parameters that a paper states, written as data.

A preset is a ``[[technique]]`` table of a TOML file in the folder ``techniques`` of a catalogue, the user's own
included. It names a mechanism (a technique that is code) and gives its parameters other defaults, sets fields of the
question, or both; ``--with NAME:parameter=value`` works on it as on any technique.

::

    [[technique]]
    name = "h2o"
    mechanism = "kv-budget"
    effect = "a fixed share of the cache is kept by attention score"
    paper = { title = "H2O: heavy-hitter oracle for efficient generative inference", source = "arXiv:2306.14048" }
    parameters = { budget = 0.2 }
    costs = "under 1 % of accuracy at a fifth of the cache"
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar

from steelyard.documents import build, read_document
from steelyard.errors import InputError, Problem, raise_all, show, suggest
from steelyard.folders import catalogue_files
from steelyard.registry import entry_points
from steelyard.techniques._base import Citation, Technique, unknown

__all__ = ["Preset", "PresetRows", "Settings", "class_of", "presets"]


@dataclass(frozen=True)
class Settings(Technique):
    """A technique that only sets fields of the question: what a preset without a mechanism is made of."""

    name: ClassVar[str] = "settings"
    layer: ClassVar[str] = "serving"
    paper: ClassVar[Citation] = Citation("", "")
    effect: ClassVar[str] = "sets fields of the question"


@dataclass(frozen=True, slots=True)
class Preset:
    """One published system."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    effect: Annotated[str, "what it changes, in one line"]
    paper: Annotated[Citation, "title and source: arXiv number, DOI or address"]
    mechanism: Annotated[str, "the technique it is a preset of; empty: it only sets fields"] = ""
    layer: Annotated[str, "as papers are sorted; empty: the mechanism's"] = ""
    parameters: Annotated[Mapping[str, Any], "parameters of the mechanism that the paper states"] = field(
        default_factory=dict
    )
    words: Annotated[Mapping[str, Any], "fields of the question that it sets"] = field(default_factory=dict)
    flags: Annotated[Mapping[str, Any], "flags of the engine that it sets"] = field(default_factory=dict)
    costs: Annotated[str, "what the paper says it costs: accuracy, retraining, memory"] = ""

    def __post_init__(self) -> None:
        raise_all(list(self._problems()))

    def _problems(self) -> Iterator[Problem]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,59}", self.name):
            yield Problem("name", f"expected lower-case letters, digits and . + -, got {show(self.name)}")
        elif self.name in entry_points("steelyard.techniques"):
            yield Problem("name", f"{self.name} is a technique of its own")
        if self.mechanism and self.mechanism not in (known := sorted(entry_points("steelyard.techniques"))):
            yield Problem("mechanism", unknown("mechanism", self.mechanism, suggest(self.mechanism, known) or known))
        if not self.mechanism and self.parameters:
            yield Problem("parameters", "a preset without a mechanism has none")
        if not (self.mechanism or self.words or self.flags):
            yield Problem("mechanism", "expected a technique, or fields or flags that it sets")


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = {"extra": "forbid"}

    technique: tuple[Preset, ...]


@cache
def presets() -> Mapping[str, Preset]:
    """Every preset of the catalogues by name; of two of one name the one of the catalogue that is searched first.

    Raises:
        InputError: a file cannot be read, or a field is missing, unknown or wrong.
    """
    found: dict[str, Preset] = {}
    for path in catalogue_files("techniques"):
        here = build(_File, read_document(path), path.name).technique
        for preset in here:
            if any(preset is not other and preset.name == other.name for other in here):
                raise InputError(f"{path.name} has two techniques called {preset.name}", field="technique")
            found.setdefault(preset.name, preset)
    return found


class PresetRows(Mapping[str, type[Technique]]):
    """Classes of presets by name; files are read when the first name that is no mechanism is asked for."""

    def __getitem__(self, name: str) -> type[Technique]:
        return class_of(presets()[name])

    def __contains__(self, name: object) -> bool:
        return name not in entry_points("steelyard.techniques") and name in presets()

    def __iter__(self) -> Iterator[str]:
        return iter(presets())

    def __len__(self) -> int:
        return len(presets())


_MADE: dict[str, type[Technique]] = {}


def class_of(preset: Preset) -> type[Technique]:
    """The technique of a preset: its mechanism with other defaults. Raises :class:`InputError`."""
    if preset.name not in _MADE:
        _MADE[preset.name] = _made(preset)
    return _MADE[preset.name]


def _made(preset: Preset) -> type[Technique]:
    base: Any = entry_points("steelyard.techniques")[preset.mechanism].load() if preset.mechanism else Settings
    own: dict[str, Any] = {"__module__": __name__, "__doc__": preset.effect, "__qualname__": preset.name}
    own |= {"name": preset.name, "effect": preset.effect, "paper": preset.paper, "costs": preset.costs}
    own |= {"layer": preset.layer or base.layer, "mechanism": base.mechanism or base.name}
    own["__annotations__"], problems = {}, []
    hints = typing.get_type_hints(base, include_extras=True)
    by_key = {key: p for p in base.parameters() for key in (p.key, p.field)}
    for key, value in preset.parameters.items():
        if key not in by_key:
            problems.append(Problem(f"{preset.name}.parameters", unknown("parameter", key, sorted(by_key))))
            continue
        p = by_key[key]
        value = base._value(p, value, preset.name) if isinstance(value, str) else value
        if isinstance(value, list):
            value = tuple(base.item(x) if isinstance(x, str) else x for x in value)
        if wrong := base._wrong(object.__new__(base), p, value):
            problems.append(Problem(f"{preset.name}.parameters", wrong))
        own["__annotations__"][p.field] = hints[p.field]
        own[p.field] = value
    raise_all(problems)
    own |= {"serving": True} if preset.flags else {}  # flags of the engine are fields of simulate alone
    if preset.words or preset.flags:
        own["words"] = _words(base, preset)
    made: Any = dataclass(frozen=True)(type(preset.name, (base,), own))
    if not any(p.default is MISSING for p in made.parameters()):
        made()  # the stated parameters are ones that the mechanism takes
    return typing.cast(type[Technique], made)


def _words(base: Any, preset: Preset) -> Any:
    def words(self: Technique, verb: str) -> Mapping[str, Any]:
        found = {**base.words(self, verb), **preset.words}
        if preset.flags:
            found["flags"] = {**found.get("flags", {}), **preset.flags}
        return found

    return words
