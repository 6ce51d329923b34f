"""Add your machine: the fields of a machine file as a form, which writes the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine import Machine
from steelyard.machine.classes import kinds
from steelyard.machine.component import Compute, Link, Memory
from steelyard.machine.loader import machine_from_dict, machine_text
from steelyard.page.screen import Screen, Shown, Tell
from steelyard.page.screens.catalogue import roofs
from steelyard.report.entry import Entry, to_dict
from steelyard.scenario.fields import REQUIRED
from steelyard.scenario.fields import Field as Described
from steelyard.units import Quantity

__all__ = ["SCREEN"]

#: Components of a form: how many of each may be filled in, and the words of its heading.
_PARTS: Mapping[str, tuple[type[Any], int, str]] = MappingProxyType(
    {"compute": (Compute, 2, "Compute"), "memory": (Memory, 3, "Memory"), "link": (Link, 2, "Link")}
)
#: Fields of the machine that are filled on reading, or that a form of one machine does not ask.
_NOT_ASKED = ("compute", "memory", "link", "aliases", "file", "sources", "guess")
_SOURCE = "source"


@cache
def described() -> Mapping[str, Described]:
    """The fields of the form by name (``memory.0.capacity_bytes``), from the dataclasses of the machine file."""
    found = dict(_of(Machine, "", "Device"))
    found[_SOURCE] = Described(
        _SOURCE, "text", "where the figures are from: a datasheet, a page with its date", "", topic="Device"
    )
    for name, (cls, most, heading) in _PARTS.items():
        for i in range(most):
            found |= _of(cls, f"{name}.{i}.", heading if i == 0 else f"{heading} {i + 1}")
    return found


def _of(cls: type[Any], prefix: str, topic: str) -> Iterator[tuple[str, Described]]:
    hints = get_type_hints(cls, include_extras=True)
    for one in fields(cls):
        if one.name in _NOT_ASKED and not prefix:
            continue
        hint = hints[one.name]
        notes = [n for h in (hint, *get_args(hint)) for n in getattr(h, "__metadata__", ())]
        quantity = next((n for n in notes if isinstance(n, Quantity)), None)
        doc = next((n for n in notes if isinstance(n, str)), quantity.doc if quantity else one.name.replace("_", " "))
        table = _is_table(hint)
        doc += "; FORMAT=VALUE, separated by commas: bf16=256TFLOPS,int8=512TOPS" if table else ""
        unit = quantity.unit if quantity and not table else "1"
        name = prefix + one.name
        yield (
            name,
            Described(name, "text", doc, _default(one, prefix), unit=unit, topic=topic, choices=_choices(hint, name)),
        )


def _is_table(hint: Any) -> bool:
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    origin = get_origin(plain)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _choices(hint: Any, name: str) -> tuple[str, ...]:
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if get_origin(plain) is Literal:
        return tuple(x for x in get_args(plain) if x)
    return tuple(kinds()) if name == "kind" else ()


def _default(one: Field[Any], prefix: str) -> Any:
    if one.default is MISSING and one.default_factory is MISSING:
        return "" if prefix else REQUIRED
    return "" if one.default in (MISSING, "", 0, ()) else str(one.default).lower()


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The machine that the form describes, checked as its file would be, and the file."""
    known = described()
    problems = [Problem(n, "no field of a machine file") for n in words if n not in known]
    data: dict[str, Any] = {}
    parts: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in _PARTS}
    for name, text in words.items():
        if name not in known or name == _SOURCE:
            continue
        hint, _, rest = name.partition(".")
        if not rest:
            data[name] = text
            continue
        number, _, own = rest.partition(".")
        value: Any = text
        if _is_table(get_type_hints(_PARTS[hint][0], include_extras=True)[own]):
            value, wrong = _pairs(text)
            problems += [Problem(name, words) for words in wrong]
        elif text.lower() in ("true", "false"):
            value = text.lower() == "true"
        parts[hint].setdefault(int(number), {})[own] = value
    raise_all(problems)
    given = {name: [of[i] for i in sorted(of)] for name, of in parts.items() if of}
    source = words.get(_SOURCE)
    try:
        machine = machine_from_dict({**data, **given, **({"sources": {"own": source}} if source else {})}, "")
    except InputError as error:
        numbers = {name: sorted(of) for name, of in parts.items()}
        moved = [Problem(_named(p.field, numbers), p.message) for p in error.problems]
        raise InputError(moved[0].message, field=moved[0].field, problems=moved) from None
    document = to_dict(Entry("machine", machine.name, machine))
    file = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', machine.name)[:60]}.toml"
    text = machine_text(machine)
    view = {"title": machine.title, "file": file, "text": text}
    return Shown(document, [], [roofs([machine]).to_dict()], view, {file: text})


def _pairs(text: str) -> tuple[dict[str, str], list[str]]:
    """``bf16=256TFLOPS,int8=512TOPS`` by format, and what is wrong with it."""
    found, wrong = dict[str, str](), []
    for part in text.split(","):
        name, equals, value = (x.strip() for x in part.partition("="))
        if equals and name and value:
            found[name] = value
        else:
            wrong.append(f"expected FORMAT=VALUE, such as bf16=256TFLOPS, got {part.strip()!r:.80}")
    return found, wrong


def _named(path: str, numbers: Mapping[str, list[int]]) -> str:
    """The field of the form for a path of the file: ``compute[0].peak.bf16`` is ``compute.0.peak``."""
    path = path.removeprefix("machine.").strip(".")
    if found := re.match(r"(\w+)\[(\d+)\]\.(\w+)", path):
        place = numbers.get(found[1], [])
        i = int(found[2])
        return f"{found[1]}.{place[i] if i < len(place) else i}.{found[3]}"
    head = path.partition(".")[0]
    return {"compute": "compute.0.name", "memory": "memory.0.name", "link": "link.0.name"}.get(head, head)


SCREEN = Screen(
    name="machine",
    title="Add your machine",
    says="The fields of a machine file as a form, which writes the file.",
    ask=ask,
    fields=described,
    listed=False,
    usual="name title kind vendor family tdp_w launch source compute.0.name compute.0.kind compute.0.units "
    "compute.0.peak memory.0.name memory.0.capacity_bytes memory.0.bandwidth_bytes_per_s",
    start={
        "name": "my_chip",
        "title": "My chip",
        "kind": "npu",
        "vendor": "me",
        "family": "my_family",
        "tdp_w": "60",
        "launch": "npu",
        "compute.0.name": "array",
        "compute.0.kind": "matrix",
        "compute.0.units": "16",
        "compute.0.peak": "bf16=256TFLOPS,int8=512TOPS",
        "memory.0.name": "dram",
        "memory.0.capacity_bytes": "64GiB",
        "memory.0.bandwidth_bytes_per_s": "400GB/s",
    },
)
