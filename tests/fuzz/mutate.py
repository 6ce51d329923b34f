"""Damage to data: bytes, text, and the values of a tree; the same generator gives the same damage."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import tomli_w

__all__ = ["ODD", "PYTHON", "mutant", "read", "smaller", "write"]

#: What only a program can give, by the word that stands for it in a case.
PYTHON: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"x",
    "object": object,
    "set": lambda: {1},
    "lambda": lambda: lambda x: x,
    "class": lambda: dict,
    "array": lambda: __import__("numpy").arange(3),
    "empty array": lambda: __import__("numpy").zeros((0, 2)),
    "numpy": lambda: __import__("numpy").int64(2),
    "numpy nan": lambda: __import__("numpy").float32("nan"),
    "numpy bool": lambda: __import__("numpy").bool_(True),
    "numpy text": lambda: __import__("numpy").str_("x"),
    "complex": lambda: 1j,
    "fraction": lambda: __import__("fractions").Fraction(1, 3),
    "decimal": lambda: __import__("decimal").Decimal("NaN"),
    "path": lambda: __import__("pathlib").Path("nowhere"),
    "iterator": lambda: iter([1]),
    "exception": lambda: ValueError("x"),
}
#: Values in place of others.
ODD: tuple[Any, ...] = (
    *(math.nan, math.inf, -math.inf, -1, 0, 1, 2, 3, 7, -0.0, 0.5, 1.5, 1e308, 5e-324, 1e-9, -1e9),
    *(255, 1000, 4095, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**18, 10**30, 10**310, -(10**310)),
    *("", " ", "x", "0", "1", "-1", "nan", "inf", "1e999", "1e-999", "0x10", "1_000", "١٢", "9" * 400, "true", "none"),
    *(
        "x" * 100,
        "x" * 5000,
        "a/" * 2000,
        "\x1b[31mred\x1b]0;t\x07",
        "a\nb",
        "a\rb",
        "a\tb",
        "\u202eabc",
        "\ufeff",
        "\x00",
        "é",
    ),
    *(
        "=1+1",
        "-x",
        "--help",
        "../x",
        "/",
        ".",
        "~",
        "~nobody/x",
        "/dev/null",
        "/etc",
        "$HOME",
        "`id`",
        "'",
        '"',
        "\\",
        "%s",
        "{0}",
    ),
    *(
        "<script>",
        "1,2,4",
        "1-256*2",
        "1-10+3",
        "1-1000000000000",
        "a,b",
        ",",
        ",,",
        ":",
        "=",
        "a=b",
        "a:b=c",
        "x.py:P",
        "1,",
        ";",
    ),
    *(
        "10s",
        "10/s",
        "1e30GB",
        "-5ms",
        "0s",
        "5 parsecs",
        "p99:1s",
        "p101:1s",
        "any",
        "2P:tp4",
        "uniform:9-1",
        "lognormal:0",
    ),
    *(None, True, False, [], {}, [[]], [{}], {"a": 1}, {"": None}, [1, "a", None], [0] * 300, {"a": {"b": {"c": []}}}),
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_-:=,./@#[]{}\"'\\ \n\t\x00\x7f\x9bé\u202e"


def mutant(rng: random.Random, seed: bytes, form: str, others: list[bytes]) -> bytes:
    """A damaged copy of ``seed``.

    Args:
        rng: decides everything.
        seed: good data.
        form: ``json``, ``jsonl``, ``toml``, ``csv``, ``words`` (JSON in which Python values have names) or ``bytes``.
        others: the other seeds of the parser, to splice with.
    """
    found = seed
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        plain = form in ("json", "jsonl", "toml", "csv") and rng.random() < 0.3
        if form == "bytes" or plain:
            found = _bytes(rng, found, rng.choice(others))
            continue
        try:
            tree = read(found, form)
        except (ValueError, RecursionError):
            found = _bytes(rng, found, rng.choice(others))
            continue
        for _ in range(rng.choice((1, 1, 2))):
            tree = _tree(rng, tree, form, others)
        found = write(tree, form) or found
    return found


def read(content: bytes, form: str) -> Any:
    """The tree of a content. Raises :class:`ValueError`."""
    text = content.decode("utf-8", "surrogatepass")
    if form == "toml":
        return tomllib.loads(text)
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if form == "csv":
        try:
            return list(csv.reader(io.StringIO(text)))
        except csv.Error as error:
            raise ValueError from error
    return json.loads(text)


def write(tree: Any, form: str) -> bytes:
    """The content of a tree; empty when the form cannot hold it."""
    try:
        if form == "toml":
            return tomli_w.dumps(_without_none(tree)).encode("utf-8", "replace")
        if form == "csv":
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows(
                [str(x) for x in row] if isinstance(row, list) else [str(row)] for row in tree
            )
            return buffer.getvalue().encode("utf-8", "replace")
        if form == "jsonl":
            return "".join(json.dumps(row) + "\n" for row in tree).encode()
        return json.dumps(tree).encode()
    except (TypeError, ValueError, AttributeError, RecursionError, csv.Error):
        return b""


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_none(v) for k, v in tree.items() if v is not None}
    return [_without_none(v) for v in tree if v is not None] if isinstance(tree, list) else tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every ``(container, key)`` of a tree."""
    found, stack = [], [tree]
    while stack:
        here = stack.pop()
        items = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, value in list(items):
            found.append((here, key))
            if isinstance(value, dict | list):
                stack.append(value)
    return found


def _tree(rng: random.Random, tree: Any, form: str, others: list[bytes]) -> Any:
    places = _places(tree)
    if not places or rng.random() < 0.01:
        return _odd(rng, form)
    holder, key = rng.choice(places)
    value = holder[key]
    what = rng.random()
    if what < 0.45:
        holder[key] = _odd(rng, form)
    elif what < 0.65 and isinstance(value, str):
        holder[key] = _text(rng, value)
    elif what < 0.65 and isinstance(value, int | float) and not isinstance(value, bool):
        factor = rng.choice((-1, 0.5, 2, 10, 1000, 1e12, 1e-6, 1e300))
        try:
            holder[key] = str(value) if rng.random() < 0.2 else type(value)(value * factor)
        except (OverflowError, ValueError):
            holder[key] = 10**400
    elif what < 0.75:
        del holder[key]
    elif what < 0.82:
        other, name = rng.choice(places)
        if key in range(len(holder)) if isinstance(holder, list) else key in holder:
            holder[key] = _copy(
                other[name] if name in (other if isinstance(other, dict) else range(len(other))) else value
            )
    elif what < 0.9 and isinstance(holder, dict):
        name = _text(rng, str(key)) if rng.random() < 0.7 else str(rng.choice(ODD))[:200]
        holder[name] = holder.pop(key) if rng.random() < 0.6 else _copy(value)
    elif what < 0.93 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), _copy(value))
    elif what < 0.96:
        for _ in range(rng.choice((1, 3, 150))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        holder[key] = value
    else:
        try:
            donor = read(rng.choice(others), form)
        except ValueError:
            return tree
        theirs = _places(donor)
        if theirs:
            other, name = rng.choice(theirs)
            if isinstance(holder, dict):
                holder[str(name)] = _copy(other[name])
            else:
                holder[key] = _copy(other[name])
    return tree


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _odd(rng: random.Random, form: str) -> Any:
    if form == "words" and rng.random() < 0.2:
        return {"$python": rng.choice(sorted(PYTHON))}
    if rng.random() < 0.1:
        return _text(rng, "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(12))))
    return _copy(rng.choice(ODD)) if rng.random() < 0.9 else rng.choice((rng.random(), rng.randrange(-5, 70)))


def _text(rng: random.Random, text: str) -> str:
    """A typo or two."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        what = rng.randrange(7)
        if what == 0:
            text = text[:at] + rng.choice(_LETTERS) + text[at:]
        elif what == 1:
            text = text[:at] + text[at + 1 :]
        elif what == 2:
            text = text[:at] + rng.choice(_LETTERS) + text[at + 1 :]
        elif what == 3:
            text = text[: at - 1] + text[at : at + 1] + text[at - 1 : at] + text[at + 1 :] if at else text.upper()
        elif what == 4:
            odd = rng.choice(ODD)
            text = text[:at] + (odd if isinstance(odd, str) else str(odd)[:40]) + text[at:]
        elif what == 5:
            text = text[:at]
        else:
            end = rng.randrange(at, len(text) + 1)
            text = text[:end] + text[at:end] + text[end:]
    return text[:20_000]


def _bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
        what = rng.randrange(8)
        if what == 0:
            data = data[:at] + bytes(x ^ (1 << rng.randrange(8)) for x in data[at:end]) + data[end:]
        elif what == 1:
            data = data[:at]
        elif what == 2:
            data = data[:end] + data[at:end] * rng.choice((1, 2, 50)) + data[end:]
        elif what == 3:
            data = data[:at] + rng.randbytes(end - at) + data[at:]
        elif what == 4:
            data = data[:at] + data[end:]
        elif what == 5:
            whole = rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 255)).to_bytes(8, "little")
            data = data[:at] + whole[: rng.choice((1, 2, 4, 8))] + data[at + 8 :]
        elif what == 6:
            start = rng.randrange(len(other) + 1)
            data = data[:at] + other[start : start + rng.choice((4, 32, 256))] + data[at:]
        else:
            word = rng.choice(("nan", "1e999", "null", "[", "{", "}", '"', "\n", ",", "\x00", "\ufeff", "-", "9" * 400))
            data = data[:at] + word.encode() + data[at:]
    return data[: 2**20]


def smaller(content: bytes, form: str) -> Iterator[bytes]:
    """Smaller contents that may fail the same way: parts of the tree, or of the bytes, left out."""
    try:
        if form == "bytes":
            raise ValueError
        tree = read(content, form)
        if write(tree, form) != content:
            yield write(tree, form)
        for i in range(len(_places(tree))):
            copy = read(content, form)
            holder, key = _places(copy)[i]
            del holder[key]
            yield write(copy, form)
    except (ValueError, RecursionError):
        step = len(content) // 2
        while step:
            for at in range(0, len(content), step):
                yield content[:at] + content[at + step :]
            step //= 2
