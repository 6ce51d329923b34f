"""A quantisation config, and what one comes to: what readers of the methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.workload.families._modules import Pattern, Scheme, Stored, pattern

__all__ = ["Config", "Read", "Rules", "each", "integer", "number", "patterns", "wide"]

INTEGERS: Mapping[int, str] = {
    1: "binary",
    2: "int2",
    3: "int3",
    4: "int4",
    5: "int5",
    6: "int6",
    7: "int8_weight_only",
    8: "int8_weight_only",
}
Rules = tuple[tuple[Pattern, Stored], ...]
#: Where configs list the modules they leave alone.
_LEFT = ("modules_to_not_convert", "ignored_layers", "ignore", "skip_modules", "exclude_modules", "exclude")


@dataclass(frozen=True, eq=False)
class Config:
    """A quantisation config: its fields, what is not quantised, and its method's name."""

    quant: Mapping[str, Any]
    plain: Stored
    method: str

    def get(self, *keys: str, default: Any = None) -> Any:
        """The first of the keys that is there and not null."""
        return next((self.quant[k] for k in keys if self.quant.get(k) is not None), default)

    def number(self, *keys: str, default: float | None = None) -> float | None:
        """A positive number (or -1), else the default."""
        return number(self.get(*keys), default)

    def left(self, *keys: str, kind: str = "") -> Rules:
        """Rules for the modules that stay plain, under the names methods have for them and ``keys``."""
        return tuple((p, self.plain) for key in (*_LEFT, *keys) for p in patterns(self.quant.get(key), kind))

    def read(
        self,
        main: Stored | None,
        rules: Rules = (),
        kv: str = "",
        notes: tuple[str, ...] = (),
        parts: Mapping[str, Stored] | None = None,
    ) -> Read | None:
        """What a method comes to: embeddings, head and routers plain unless ``parts`` says otherwise."""
        if main is None:
            return None
        kept = {**dict.fromkeys(("embedding", "head", "router", "norm"), self.plain), **(parts or {})}
        return Read(Scheme(self.plain, main, rules, kept), kv, notes)


@dataclass(frozen=True, eq=False)
class Read:
    """A scheme, the format of the cache that was published with it, and remarks."""

    scheme: Scheme
    kv: str = ""
    notes: tuple[str, ...] = ()


def number(value: Any, default: float | None = None) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= 2**40 or value == -1):
        return default
    return float(value)


def patterns(value: Any, kind: str = "") -> Iterator[Pattern]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        for entry in value:
            if isinstance(entry, str) and entry:
                yield pattern(entry, kind)


def integer(bits: Any, group: Any, shared: float = 16.0, zeros: bool = True) -> Stored | None:
    """Integers of ``bits`` whose groups share scales of ``shared`` bits and, with ``zeros``, a zero point."""
    width = number(bits)
    if width is None or not 1 <= width <= 8 or width != int(width):
        return None
    size = number(group)
    over = (shared + (width if zeros else 0)) / size if size is not None and size > 0 else 0.0
    return Stored(INTEGERS[int(width)], width + over)


def each(entries: Any, read: Callable[[Config], Stored | None], c: Config, kind: str = "") -> Rules:
    """Rules of a table ``module -> its own fields`` (``False`` or no fields: plain)."""
    found: list[tuple[Pattern, Stored]] = []
    if isinstance(entries, Mapping):
        for name, entry in entries.items():
            own = read(Config({**c.quant, **entry}, c.plain, c.method)) if isinstance(entry, Mapping) else c.plain
            if isinstance(entry, Mapping | bool) and isinstance(name, str):
                found.append((pattern(name, kind), own or c.plain))
    return tuple(found)


def wide(bits: float) -> Stored:
    return Stored(INTEGERS[min(8, max(1, round(bits)))] if bits <= 8 else "fp16", bits)
