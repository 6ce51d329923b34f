"""Lengths of prompts and answers: a small grammar, sampled reproducibly.

2000                        always 2,000
uniform:2000-6000           every whole number of the range equally likely
uniform:0.8-1.0x4000        the same from 0.8 to 1.0 times 4,000 (InferenceX, vLLM's random range ratio)
lognormal:600               mean 600, sigma of the logarithm 0.85
lognormal:600,sigma=1.2     another sigma; lognormal:600,max=8192 redraws nothing, it cuts at 8,192
normal:600,sd=100           cut at 1
file:lengths.csv#isl        drawn from a column of a file, with replacement
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steelyard.documents import open_lines
from steelyard.errors import InputError, suggest
from steelyard.traffic.trace import MAX_TOKENS, Integers

__all__ = ["SIGMA", "Lengths", "parse_lengths"]

#: Default sigma of ``log(length)``. Measured on the 19,366 requests of the public Azure conversation trace of 2023:
#: 0.99 for prompts, 0.86 for answers (and 0.85 for the answers of its code trace).
SIGMA = 0.85

#: Largest file of lengths, bytes.
MAX_FILE = 256 * 2**20

_KINDS = ("constant", "uniform", "lognormal", "normal", "file")
_RANGE = re.compile(r"^([0-9_.eEkK]+)\s*-\s*([0-9_.eEkK]+?)(?:\s*x\s*([0-9_.eEkK]+))?$")


@dataclass(frozen=True, eq=False)
class Lengths:
    """A distribution of whole numbers of tokens, at least 1.

    Args:
        kind: ``constant``, ``uniform``, ``lognormal``, ``normal`` or ``file``.
        mean: mean before rounding and cutting, tokens.
        spread: sigma of the logarithm (lognormal) or standard deviation in tokens (normal).
        low, high: both ends of a uniform range, included.
        most: longer draws are cut to this.
        values: what ``file`` draws from.
        text: what the user wrote.
    """

    kind: str
    mean: float = 0.0
    spread: float = 0.0
    low: int = 1
    high: int = MAX_TOKENS
    most: int = MAX_TOKENS
    values: Integers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    text: str = ""

    def __str__(self) -> str:
        return self.text or self.kind

    def draw(self, n: int, rng: np.random.Generator) -> Integers:
        """``n`` lengths, ``[n]`` tokens."""
        if self.kind == "constant":
            found = np.full(n, self.mean)
        elif self.kind == "uniform":
            found = rng.integers(self.low, self.high, n, endpoint=True).astype(np.float64)
        elif self.kind == "lognormal":  # mean of exp(N(mu, s)) is exp(mu + s^2 / 2)
            found = rng.lognormal(math.log(self.mean) - self.spread**2 / 2, self.spread, n)
        elif self.kind == "normal":
            found = rng.normal(self.mean, self.spread, n)
        else:
            found = rng.choice(self.values, n).astype(np.float64)
        return np.asarray(np.clip(np.rint(found), 1, self.most), dtype=np.int64)


def parse_lengths(text: str | int | Lengths, name: str = "lengths") -> Lengths:
    """Read a length specification (see the module's text).

    Raises:
        InputError: with what was expected; ``name`` is the field (``isl``).
    """
    if isinstance(text, Lengths):
        return text
    words = str(text).strip()
    kind, colon, rest = words.partition(":")
    if not colon:
        return Lengths("constant", mean=_tokens(words, words, name), text=words)
    kind = kind.strip().lower()
    if kind not in _KINDS:
        near = suggest(kind, _KINDS, 1)
        raise InputError(
            f"unknown distribution {kind!r} in {words!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_KINDS)}"),
            field=name,
        )
    if kind == "file":
        return Lengths("file", values=_column(rest.strip(), name), text=words)
    first, *more = [part.strip() for part in rest.split(",")]
    options = _options(more, {"lognormal": "sigma", "normal": "sd"}.get(kind, ""), words, name)
    most = int(_tokens(options["max"], words, name)) if "max" in options else MAX_TOKENS
    if kind == "uniform":
        low, high = _ends(first, words, name)
        return Lengths("uniform", mean=(low + high) / 2, low=low, high=high, most=most, text=words)
    mean = _tokens(first, words, name)
    spread = 0.0
    if kind == "lognormal":
        spread = _number(options.get("sigma", str(SIGMA)), words, name)
        if not 0 <= spread <= 5:
            raise InputError(f"expected a sigma from 0 to 5, got {spread:g} in {words!r}", field=name)
    elif kind == "normal":
        if "sd" not in options:
            raise InputError(f"expected normal:MEAN,sd=TOKENS, got {words!r}", field=name)
        spread = _number(options["sd"], words, name)
        if spread < 0:
            raise InputError(f"expected a standard deviation of at least 0, got {spread:g} in {words!r}", field=name)
    return Lengths(kind, mean=mean, spread=spread, most=most, text=words)


def _options(parts: list[str], second: str, words: str, name: str) -> dict[str, str]:
    """``key=value`` parts; the second value of lognormal and normal may go without its key."""
    known = [x for x in (second, "max") if x]
    found: dict[str, str] = {}
    for part in parts:
        key, equals, value = (x.strip() for x in part.partition("="))
        if not equals and second and not found:
            key, value = second, part
        if key not in known:
            raise InputError(f"unknown option {part!r} in {words!r}; known: {', '.join(known)}", field=name)
        found[key] = value
    return found


def _ends(text: str, words: str, name: str) -> tuple[int, int]:
    match = _RANGE.match(text)
    if match is None:
        raise InputError(f"expected uniform:LOW-HIGH or uniform:0.8-1.0xTOKENS, got {words!r}", field=name)
    low, high = (_number(match.group(i), words, name) for i in (1, 2))
    if match.group(3):
        whole = _tokens(match.group(3), words, name)
        if not 0 <= low <= high:
            raise InputError(f"the range {words!r} is empty", field=name)
        low, high = float(math.ceil(low * whole - 1e-9)), float(math.floor(high * whole + 1e-9))
    if high < low or low < 1 or low != int(low) or high != int(high) or high > MAX_TOKENS:
        raise InputError(f"expected whole numbers with 1 <= low <= high, got {words!r}", field=name)
    return int(low), int(high)


def _number(text: str, words: str, name: str) -> float:
    from steelyard.units import parse_quantity

    try:
        value = parse_quantity(text, "1", name)
    except InputError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"expected tokens (2000) or a distribution ({', '.join(k + ':...' for k in _KINDS[1:])}), got {words!r}",
            field=name,
        )
    return value


def _tokens(text: str, words: str, name: str) -> float:
    value = _number(text, words, name)
    if value < 1 or value > MAX_TOKENS or value != int(value):
        raise InputError(f"expected a whole number from 1 to {MAX_TOKENS:,}, got {words!r}", field=name)
    return value


def _column(spec: str, name: str) -> Integers:
    """Whole numbers from ``FILE`` or ``FILE#COLUMN``; without a column, a trace's own prompt or answer lengths."""
    path, _, column = spec.partition("#")
    if not column:
        from steelyard.traffic.readers import read_recorded

        recorded = read_recorded(path)
        return recorded.osl if name == "osl" else recorded.isl
    from steelyard.traffic.readers import MAX_ROWS

    file = Path(path)
    try:
        with open_lines(file, MAX_ROWS + 1, MAX_FILE, name) as stream:
            rows = csv.reader(stream)
            head = next(rows, [])
            if column not in head:
                near = suggest(column, head, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{file.name} has no column {column!r}{hint}", field=name)
            at = head.index(column)
            texts = [row[at] if at < len(row) else "" for row in rows if row]
    except UnicodeDecodeError:
        raise InputError(f"{file.name} is not a text file (UTF-8 expected)", field=name) from None
    except csv.Error as error:
        raise InputError(f"{file.name}: {error}", field=name) from None
    if not texts:
        raise InputError(f"{file.name} has no rows", field=name)
    try:
        values = np.array(texts, dtype=np.float64)
        bad = np.flatnonzero(~((values >= 1) & (values <= MAX_TOKENS) & (values == np.floor(values))))
    except (TypeError, ValueError):
        bad = np.array([i for i, t in enumerate(texts) if not re.fullmatch(r"\s*\d+(\.0*)?\s*", t or "")])
        values = np.empty(0)
    if bad.size:
        row = int(bad[0])
        raise InputError(
            f"{file.name}: line {row + 2}: expected a whole number of at least 1, got {texts[row]!r}", field=name
        )
    return np.asarray(values, dtype=np.int64)
