"""Names that are offered while one types, each with what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from steelyard.errors import UnknownName, normalise, suggest

__all__ = ["FIRST", "KINDS", "MAX_NAMES", "names_like"]

#: Kinds that forms ask for first.
FIRST = ("model", "machine", "engine", "format")
#: Most names offered at once.
MAX_NAMES = 50
#: The kind of names that a field takes.
KINDS: Mapping[str, str] = {
    "model": "model",
    "on": "machine",
    "engine": "engine",
    "runtime": "runtime",
    "framework": "framework",
    "optimizer": "optimizer",
    "weights": "format",
    "activations": "format",
    "kv": "format",
    "communication": "format",
    "network": "network",
    "recipe": "recipe",
    "techniques": "technique",
    "policy": "policy",
}
#: Lists of the catalogue that hold the names of a kind, and the columns that say what one is.
_LISTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("models", "pipelines", "nets"), ("title", "type", "family", "source")),
    "machine": (("machines", "systems"), ("title",)),
    "engine": (("engines",), ("title",)),
    "runtime": (("runtimes",), ("title",)),
    "framework": (("frameworks",), ("title",)),
    "optimizer": (("optimizers",), ("title", "source")),
    "format": (("formats",), ("title", "stored_bits")),
    "network": (("networks",), ("title", "source")),
    "recipe": (("recipes",), ("title", "source")),
    "technique": (("techniques",), ("effect", "title")),
    "policy": (("policies",), ("order",)),
}


def _of_list(lists: tuple[str, ...], says: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    from steelyard.report.listing import rows

    for kind in lists:
        for row in rows(kind):
            name = str(next(iter(row.values())))
            words = next((str(row[column]) for column in says if row.get(column)), "")
            size = row.get("parameters")
            if isinstance(size, int | float) and size:
                words = f"{size / 1e9:,.3g} B, {words}" if size >= 1e9 else f"{size / 1e6:,.3g} M, {words}"
            yield name, words.rstrip(", ")


@cache
def _known(kind: str) -> tuple[tuple[str, str, str], ...]:
    """``(name, what it is, both as one searched text)`` of every name of a kind."""
    return tuple((name, words, normalise(f"{name} {words}")) for name, words in _of_list(*_LISTS[kind]))


def names_like(kind: str, text: str = "", most: int = 12) -> list[dict[str, str]]:
    """Names of a kind in which every word of a text occurs, those that begin with it first; else those spelled alike.

    Args:
        kind: a value of :data:`KINDS`, or the name of a field.
        text: what is typed so far; of several separated by commas the last.
        most: at most so many.

    Raises:
        UnknownName: no such kind.
    """
    kind = KINDS.get(kind, kind)
    if kind not in KINDS.values():
        raise UnknownName("kind", kind, sorted(set(KINDS.values())))
    typed = text.rpartition(",")[2].strip()[:200]
    words, key = [w for w in map(normalise, typed.split()) if w], normalise(typed)
    known = _known(kind)
    found = [row for row in known if all(w in row[2] for w in words)]
    found.sort(key=lambda row: (not normalise(row[0]).startswith(key), key not in normalise(row[0]), len(row[0])))
    if not found:
        near = suggest(typed, [name for name, _, _ in known], most, kind=kind)
        found = [row for name in near for row in known if row[0] == name]
    return [{"name": name, "what": what} for name, what, _ in found[: max(0, min(most, MAX_NAMES))]]
