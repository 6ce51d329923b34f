"""Sizes that an ONNX file leaves open: found at its inputs, set by the user, or the batch, which stays open."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steelyard.arithmetic import reckon
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show

__all__ = ["BATCHES", "MOST_EXTENT", "Declared", "Sizes", "open_sizes", "size_of"]

#: Batches at which sizes are reckoned: a straight line through the first two must meet the third.
BATCHES = (2, 3, 5)
#: Largest extent.
MOST_EXTENT = 2**40

#: Names of a batch, ones that exporters make up, and ones that mean something else.
_BATCH = re.compile(
    r"(?i)^(n|b|bs|bsz|bn|.*batch.*|num_?(samples|images)|none|\?|-1|unk_*\d*|dim_?\d*|s\d+|d\d+|dynamic.*)$"
)
_OTHER = re.compile(r"(?i)seq|len|time|frame|token|height|width|num|point|node|edge|step|chan|past|^[chwtl]$")

#: Extents as a file says them: numbers, or text of symbols.
Declared = Mapping[str, Sequence[int | str]]


@dataclass(frozen=True)
class Sizes:
    """The open sizes of a file: those with a value, and those that are the batch."""

    inputs: Declared
    values: Mapping[str, int] = field(default_factory=dict)
    batch: frozenset[str] = frozenset()
    usual: int = 1

    def known(self, batch: int) -> dict[str, int]:
        """The value of every open size at a batch."""
        return {**self.values, **dict.fromkeys(self.batch, batch)}

    def at(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs. Raises :class:`InputError` where one is none."""
        known = self.known(batch)
        return {name: tuple(size_of(d, known, name) for d in shape) for name, shape in self.inputs.items()}


def size_of(said: int | str, known: Mapping[str, int], place: str) -> int:
    """An extent with its symbols set. Raises :class:`InputError`: it is no size, or has a symbol without a value."""
    value: float = said if isinstance(said, int) else known[said] if said in known else reckon(said, known.get)
    if not math.isfinite(value) or not 0 <= value <= MOST_EXTENT or value != math.floor(value):
        raise InputError(f"{show(place)}: expected extents from 0 to 2^40, got {show(said)}")
    return int(value)


def _symbols(said: str) -> list[str]:
    """The names in an extent's text; the whole text where it is no arithmetic, as ``batch size``."""
    try:
        parsed = ast.parse(said.strip(), mode="eval") if len(said) <= 200 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        parsed = None
    if parsed is None:
        return [said]
    called = {id(n.func) for n in ast.walk(parsed) if isinstance(n, ast.Call)}
    found = [n.id for n in ast.walk(parsed) if isinstance(n, ast.Name) and id(n) not in called]
    try:
        reckon(said, dict.fromkeys(found, 6).get)
    except (InputError, OverflowError):
        return [said]
    return list(dict.fromkeys(found))


def _counts(sets: Mapping[str, int | str]) -> dict[str, int]:
    """Values from Python or a command line as numbers."""
    found, wrong = {}, []
    for name, value in sets.items():
        text = str(value)
        if text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= 2**31:
            found[name] = int(text[:12])
        else:
            wrong.append(Problem(f"set.{name}", f"expected a whole number from 1 to 2^31, got {show(value)}"))
    raise_all(wrong)
    return found


def open_sizes(inputs: Declared, sets: Mapping[str, int | str]) -> Sizes:
    """Which sizes of the inputs are open, and what they are.

    A symbol is the batch where it stands only first in inputs and is named so, or by nobody. ``sets`` gives the others
    by name, and the batch, by its own name or as ``batch``, the value that is usual.

    Raises:
        InputError: a size is open or not a count, or a name in ``sets`` is none of the file's.
    """
    places: dict[str, list[tuple[str, int, bool]]] = {}
    for name, shape in inputs.items():
        for axis, said in enumerate(shape):
            for symbol in _symbols(said) if isinstance(said, str) else ():
                places.setdefault(symbol, []).append((name, axis, said == symbol))
    sets = _counts(sets)
    batch = frozenset(s for s, found in places.items() if _is_batch(s, found, inputs))
    for name in sets:
        if name not in places and not (name == "batch" and batch):
            error = UnknownName("size", name, [*places, *(["batch"] if batch else [])])
            none = "" if places else "; every size of this file is fixed"
            raise InputError(error.message + none, field=f"set.{name}")
    named = [sets[s] for s in sorted(batch) if s in sets]
    usual = sets.get("batch", named[0] if named else 1)
    missing = [s for s in places if s not in batch and s not in sets]
    if missing:
        words = "; ".join(f"{s} ({_where(places[s])})" for s in missing[:6])
        flag = ",".join(f"{s}=64" for s in missing[:6])
        flag = flag if re.fullmatch(r"[\w=,]+", flag) else show(flag)
        raise InputError(f"sizes are open: {words}; give each, as --set {flag}", field="set")
    return Sizes(inputs, {s: sets[s] for s in places if s not in batch}, batch, usual)


def _is_batch(symbol: str, places: Sequence[tuple[str, int, bool]], inputs: Declared) -> bool:
    if any(axis for _, axis, _ in places):
        return False
    if _BATCH.fullmatch(symbol):
        return True
    first = [shape[0] for shape in inputs.values() if shape]
    return not _OTHER.search(symbol) and all(s == symbol for s in first)


def _where(places: Sequence[tuple[str, int, bool]]) -> str:
    name, axis, _ = places[0]
    ordinal = ("first", "second", "third", "fourth", "fifth", "sixth")
    return f"the {ordinal[axis] if axis < 6 else f'{axis + 1}th'} of {show(name, 40)}"
