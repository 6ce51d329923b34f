"""The study file as a JSON schema, from the same definitions that check it."""

from __future__ import annotations

from typing import Any

from steelyard.scenario.fields import KINDS, REQUIRED, Field, fields_of, study_fields
from steelyard.studies.store_columns import columns_of, number_names
from steelyard.studies.study import MAX_REPEATS, STUDY_FIELDS

__all__ = ["SCHEMA_ID", "study_schema"]

SCHEMA_ID = "steelyard.study-file/1"

#: JSON types of one value.
_VALUE: dict[str, list[str]] = {
    "whole": ["integer", "string"],
    "number": ["number", "string"],
    "name": ["string"],
    "text": ["string", "number"],
    "switch": ["boolean"],
    "any": ["string", "number", "boolean"],
}


def study_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a study file: one alternative per kind of question this installation answers."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Steelyard study",
        "type": "object",
        "required": ["name", "kind"],
        "properties": {
            "name": {"type": "string", "description": STUDY_FIELDS["name"]},
            "kind": {"enum": list(KINDS), "description": STUDY_FIELDS["kind"]},
        },
        "oneOf": [_of_kind(kind) for kind in KINDS],
    }


def _of_kind(kind: str) -> dict[str, Any]:
    one, several = _table(kind, several=False), _table(kind, several=True)
    case = {**one, "properties": {"name": {"type": "string"}, **one["properties"]}, "required": ["name"]}
    objective = {
        "type": "object",
        "properties": {
            "minimise": {"enum": number_names(kind)},
            "maximise": {"enum": number_names(kind)},
            "where": {
                "type": ["string", "array"],
                "items": {"type": "string"},
                "description": "conditions: tpot_s <= 50ms, "
                + ", ".join(c.name for c in columns_of(kind).values() if c.type == "switch"),
            },
            "name": {"type": "string"},
        },
        "oneOf": [{"required": ["minimise"]}, {"required": ["maximise"]}],
        "additionalProperties": False,
    }
    when = {
        "type": "object",
        "properties": {"field": {"type": "string"}, "values": True, "choose": several},
        "required": ["field", "values", "choose"],
        "additionalProperties": False,
    }
    tables = {"fixed": one, "grid": several}
    arrays = {"zip": several, "case": case, "when": when, "exclude": several, "objective": objective}
    found: dict[str, Any] = {"name": True, "kind": {"const": kind}, "about": {"type": "string"}}
    found |= {k: {**v, "description": STUDY_FIELDS[k]} for k, v in tables.items()}
    for name, item in arrays.items():
        found[name] = {"type": ["array", "object"], "items": item, "description": STUDY_FIELDS[name]}
    if "seed" in fields_of(kind):
        found["seeds"] = _field(fields_of(kind)["seed"], several=True) | {"description": STUDY_FIELDS["seeds"]}
        found["repeats"] = {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_REPEATS,
            "description": STUDY_FIELDS["repeats"],
        }
    return {"properties": found, "additionalProperties": False}


def _table(kind: str, *, several: bool) -> dict[str, Any]:
    properties = {name: _field(entry, several=several) for name, entry in study_fields(kind).items()}
    if "flags" in fields_of(kind):
        flag = _field(Field("flag", "any", "flag of the engine, by its own name"), several=several)
        properties["flags"] = {"type": "object", "additionalProperties": flag}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _field(entry: Field, *, several: bool) -> dict[str, Any]:
    kinds = _VALUE[entry.type]
    found: dict[str, Any] = {"type": [*kinds, "array"] if several else kinds, "description": entry.doc}
    if entry.type in ("whole", "number") and entry.least > float("-inf"):
        found["minimum"] = entry.least
    if several:
        found["items"] = {"type": kinds}
    if entry.default not in (None, "", (), REQUIRED):
        found["default"] = entry.default
    return found
