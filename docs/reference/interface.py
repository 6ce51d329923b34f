"""``python.md``: what the package offers by name, from the objects and their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import steelyard
from steelyard.scenario.fields import VERBS

HEAD = """# From Python

What `import steelyard` offers. All numbers are SI. Verbs take the [fields of a question](fields.md) by name, or a
`Scenario` and changes to it; a wrong word raises one `InputError` that lists all problems. How to use them together:
[the guide](../guide/python.md).
"""


def python() -> str:
    """The page."""
    things = {name: getattr(steelyard, name) for name in steelyard.HOMES}
    verbs = {name: thing for name, thing in things.items() if inspect.isfunction(thing)}
    parts = [HEAD, "## Functions", ""]
    parts += [line for name, thing in verbs.items() for line in _function(name, thing)]
    parts += ["## Types", ""]
    parts += [line for name, thing in things.items() if name not in verbs for line in _class(name, thing)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _function(name: str, thing: Any) -> Iterator[str]:
    words, sections = _sections(inspect.getdoc(thing) or "")
    yield from (f"### `{name}`", "", words, "")
    if name in VERBS:
        yield from (f"Its arguments are [its fields](fields.md#{name}).", "")
    elif "Args" in sections:
        yield from ("| argument | meaning |", "|---|---|")
        for argument, text in _entries(sections["Args"]):
            yield f"| `{argument}` | {text.replace('|', '/')} |"
        yield ""
    if "Returns" in sections:
        yield from (f"Returns {_flat(sections['Returns'])}", "")
    for error, text in _entries(sections.get("Raises", "")):
        yield from (f"- `{error}`: {text}",)
    yield ""


def _class(name: str, thing: Any) -> Iterator[str]:
    words, _ = _sections(inspect.getdoc(thing) or "")
    yield from (f"### `{name}`", "", words, "")
    if dataclasses.is_dataclass(thing):
        names = [f.name for f in dataclasses.fields(thing) if not f.name.startswith("_")]
        yield from ("Fields: " + ", ".join(f"`{n}`" for n in names) + ".", "")
    own = [n for n in dir(thing) if not n.startswith("_") and not issubclass(thing, Exception)]
    members = [(n, inspect.getattr_static(thing, n)) for n in own]
    rows = [(n, m) for n, m in members if isinstance(m, property | classmethod | staticmethod) or inspect.isfunction(m)]
    if rows:
        yield from ("| member | meaning |", "|---|---|")
        for member, found in rows:
            shown = member if isinstance(found, property) else f"{member}()"
            yield f"| `{shown}` | {_first(inspect.getdoc(getattr(thing, member)) or '')} |"
    yield ""


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the sections of a docstring, and the sections by name."""
    parts = re.split(r"^(Args|Returns|Raises|Source|Example):\s*$", text, flags=re.MULTILINE)
    return _code(parts[0].strip()), {parts[i]: parts[i + 1] for i in range(1, len(parts), 2)}


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """``name: meaning`` with its continued lines."""
    found = re.findall(r"^ {4}(\*{0,2}\w[\w, ]*): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    yield from ((name, _flat(meaning)) for name, meaning in found)


def _flat(text: str) -> str:
    return _code(" ".join(text.split()))


def _first(text: str) -> str:
    return _flat(text.split("\n\n")[0]).replace("|", "/")


def _code(text: str) -> str:
    """Roles and double backquotes as code."""
    return re.sub(r"``([^`]+)``", r"`\1`", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text))
