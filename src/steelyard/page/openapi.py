"""The OpenAPI document of the JSON twins, from the table of fields."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from steelyard._version import __version__
from steelyard.page.names import KINDS, MAX_NAMES
from steelyard.page.question import fields_on
from steelyard.page.screen import Screen, screens
from steelyard.report.schema import estimate_schema
from steelyard.scenario.fields import REQUIRED, Field

__all__ = ["openapi"]

_PROBLEMS = {
    "type": "object",
    "required": ["schema", "problems"],
    "properties": {
        "schema": {"const": "steelyard.problems/1"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message", "nearest"],
                "properties": {
                    "field": {"type": "string", "description": "what is wrong; empty: the whole question"},
                    "message": {"type": "string", "description": "what was expected"},
                    "nearest": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "choices that may have been meant, the most likely first",
                    },
                },
            },
        },
    },
}


@cache
def openapi() -> dict[str, Any]:
    """The document, of OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for one in screens().values():
        parameters = [*(_parameter(f) for f in fields_on(one).values()), *_own(one)]
        paths[f"/api/{one.name}"] = {"get": _operation(one, parameters, "json")}
        paths[f"/api/{one.name}.csv"] = {"get": _operation(one, parameters, "csv")}
    paths["/api/names"] = {
        "get": {
            "operationId": "names",
            "summary": "Names of a kind like what is typed, each with what it is.",
            "parameters": [
                _query("kind", {"type": "string", "enum": sorted({*KINDS, *KINDS.values()})}, "of which kind", True),
                _query("q", {"type": "string"}, "what is typed"),
                _query("limit", {"type": "integer", "minimum": 0, "maximum": MAX_NAMES}, "how many"),
            ],
            "responses": {"200": _content("the names", {"type": "object"}), "422": _wrong()},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Steelyard",
            "version": __version__,
            "description": "What running any AI model on any machine costs. Numbers are in SI units.",
        },
        "paths": paths,
        "components": {"schemas": {"Estimate": estimate_schema(), "Problems": _PROBLEMS}},
    }


def _operation(one: Screen, parameters: list[dict[str, Any]], form: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if form == "csv":
        found = {"description": "rows", "content": {"text/csv": {"schema": {"type": "string"}}}}
    else:
        if one.name == "estimate":
            schema = {"$ref": "#/components/schemas/Estimate"}
        found = _content(f"what `steelyard {one.typed} --json` writes", schema)
    return {
        "operationId": one.name + ("Rows" if form == "csv" else ""),
        "summary": one.says,
        "parameters": parameters,
        "responses": {"200": found, "422": _wrong()},
    }


def _own(one: Screen) -> list[dict[str, Any]]:
    return [_query(name, {"type": "string"}, words) for name, words in one.parameters.items()]


def _parameter(f: Field) -> dict[str, Any]:
    kind = {"whole": "integer", "number": "number", "switch": "boolean"}.get(f.type, "string")
    schema: dict[str, Any] = {"type": kind}
    if f.type == "number" and f.unit != "1":
        schema = {"type": ["number", "string"], "description": f"{f.unit}, or text with a unit"}
    if kind in ("integer", "number"):
        schema |= {k: v for k, v in (("minimum", f.least), ("maximum", f.most)) if math.isfinite(v)}
    if f.choices:
        schema["enum"] = [*f.choices]
    if f.default not in (None, REQUIRED, "", ()):
        schema["default"] = f.default
    if f.several:
        schema = {"type": "array", "items": schema}
    return _query(f.name, schema, f.doc, f.default is REQUIRED)


def _query(name: str, schema: dict[str, Any], words: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": words, "schema": schema}


def _content(words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _wrong() -> dict[str, Any]:
    return _content("everything that is wrong with the question", {"$ref": "#/components/schemas/Problems"})
