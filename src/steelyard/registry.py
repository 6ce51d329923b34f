"""Extension points, opened by the same entry points for the built-ins and for plug-ins.

A package adds a catalogue, a model family, a cost model, a policy, a technique or a reader of tables by declaring an
entry point in the group of that kind; nothing is found by scanning classes or imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any, Generic, TypeVar, cast

from steelyard.errors import SteelyardError, UnknownName, normalise

__all__ = ["Registry", "entry_points"]

T = TypeVar("T")


@cache
def _installed() -> Any:
    """Every entry point of the environment: the metadata of all packages is read once per process."""
    return metadata.entry_points()


@cache
def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """Entry points of a group by name. A plug-in's entry may not take the name of a built-in."""
    found: dict[str, metadata.EntryPoint] = {}
    for point in sorted(_installed().select(group=group), key=lambda p: (p.name, p.value)):
        known = found.get(point.name)
        if known is not None and known.value != point.value:
            raise SteelyardError(f"two packages define {group} {point.name!r}: {known.value} and {point.value}")
        found[point.name] = point
    return found


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Named things of one kind.

    Args:
        kind: what a user calls them, in errors (``"model family"``).
        group: the entry-point group (``"steelyard.model_families"``).
        rows: built-in things of this kind that are rows of one table instead of objects of their own.
    """

    kind: str
    group: str
    rows: Mapping[str, T] = field(default_factory=dict)
    _own: dict[str, T] = field(default_factory=dict)
    _changes: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted({*entry_points(self.group), *self.rows, *self._own})

    def get(self, name: str) -> T:
        """The thing called ``name`` (case and punctuation are forgiven).

        Raises:
            UnknownName: with the nearest known names.
        """
        if name in self._own:
            return self._own[name]
        if name in self.rows:
            return self.rows[name]
        points = entry_points(self.group)
        if name in points:
            return cast(T, self._load(points[name]))
        key = normalise(name)
        for known in self.names():
            if normalise(known) == key:
                return self.get(known)
        raise UnknownName(self.kind, name, self.names())

    def add(self, name: str, thing: T) -> None:
        """Register something for this process only (notebooks, tests). A packaged plug-in uses an entry point.

        Raises:
            SteelyardError: the name is taken.
        """
        if name in self._own or name in self.rows or name in entry_points(self.group):
            raise SteelyardError(f"{self.kind} {name!r} already exists")
        self._own[name] = thing
        self._changes.append(name)

    @contextmanager
    def during(self, name: str, thing: T) -> Iterator[None]:
        """Register something while a block runs."""
        self.add(name, thing)
        try:
            yield
        finally:
            del self._own[name]
            self._changes.append(name)

    @property
    def version(self) -> int:
        """Grows with every registration, so that what is derived from the names can be cached."""
        return len(self._changes)

    def origin(self, name: str) -> str:
        """Where a name comes from: ``package.module:object``, or ``this process``."""
        if name in self.rows:
            row = self.rows[name]
            return f"{(row if isinstance(row, type) else type(row)).__module__}:{name}"
        return "this process" if name in self._own else entry_points(self.group)[name].value

    def built_in(self, name: str) -> bool:
        """Whether it is one of ours."""
        return self.origin(name).startswith("steelyard.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self, point: metadata.EntryPoint) -> Any:
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise SteelyardError(f"the {self.kind} {point.name!r} ({point.value}) does not load: {error}") from error
