"""Validation: how far predictions were off, by source of measurements; as the pages of validation say it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.errors import UnknownName
from steelyard.page.screen import Screen, Shown, Tell

__all__ = ["SCREEN"]

_FILE = Path(__file__).parents[1] / "accuracy.json"
#: Rows that a picture shows.
_DRAWN = 40


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    found = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(dict(zip(found["heads"], row, strict=True)) for row in found["rows"])


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The rows of a source, or all, whose words hold a text."""
    SCREEN.refuse_unknown(words)
    sources = list(dict.fromkeys(r["source"] for r in _rows()))
    source, text = str(words.get("source", "")), str(words.get("q", "")).lower()
    if source and source not in sources:
        raise UnknownName("source", source, sources)
    rows = [r for r in _rows() if not source or r["source"] == source]
    rows = [r for r in rows if text in f"{r['source']} {r['table']} {r['what']} {r['which']}".lower()]
    figures = _figures(rows)
    document = {"schema": "steelyard.accuracy/1", "source": source, "q": text, "rows": rows}
    return Shown(
        document, rows, figures, {"title": source or "validation", "sources": sources, "q": text, "rows": rows}
    )


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    from steelyard.report.figures.beside import accuracy

    known = [r for r in rows if r["median"] is not None]
    if not known or len(known) > _DRAWN:
        return []
    one = len({r["source"] for r in known}) == 1
    groups: dict[str, tuple[int, float, float]] = {}
    for r in known:
        name = " ".join(x for x in ("" if one else r["source"], r["table"], r["what"], f"({r['which']})") if x)
        groups[name] = (int(r["rows"]), r["median"] / 100, r["p90"] / 100)
    return [accuracy(groups, title="Median error, and within what 90 % of the rows lie").to_dict()]


SCREEN = Screen(
    name="validation",
    title="Validation",
    says="How far predictions were off, by source of measurements.",
    ask=ask,
    parameters={"source": "a source of measurements", "q": "text that its rows must hold"},
)
