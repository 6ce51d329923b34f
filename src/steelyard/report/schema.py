"""JSON schemas of answers, from the table of their figures."""

from __future__ import annotations

from typing import Any

from steelyard.scenario.answers import figures_of

__all__ = ["OPTIONAL", "SOMETIMES", "estimate_schema", "fields_of_form"]


def fields_of_form(form: str) -> dict[str, tuple[str, str]]:
    """``path -> (type, meaning)`` of every figure of a JSON form, see :mod:`steelyard.scenario.answers`."""
    return {f.path: (f.type, f.doc) for f in figures_of(form)}


#: Figures of a simulation that are there only when the run has what they describe: techniques beyond scheduling,
#: several answers per prompt, a capacity that was looked for, workflows.
OPTIONAL = tuple(
    f.path
    for f in figures_of("simulate")
    if f.path.startswith(("encode_s", "extras.", "groups.", "priorities[]", "capacity", "workflows."))
)


#: Figures of an estimate that are there only where the model has what they describe.
SOMETIMES = ("parameters.towers", "structure")


def estimate_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one estimate."""
    root: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for figure in figures_of("estimate"):
        parent = root
        *outer, name = figure.path.split(".")
        for part in outer:
            parent = parent["properties"].setdefault(part, {"type": "object", "properties": {}, "required": []})
            if part not in root["required"]:
                root["required"].append(part)
        plain = "object" if figure.type.startswith("{}") else figure.type.rstrip("?")
        kind = [plain, "null"] if figure.type.endswith("?") else plain
        parent["properties"][name] = {"type": kind, "description": figure.doc}
        parent["required"] += [] if figure.path in SOMETIMES else [name]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "steelyard.estimate/2", **root}
