"""Catalogue: what is known of machines, models, prices, engines and techniques."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.page.screen import Screen, Shown, Tell

__all__ = ["SCREEN"]


def ask(words: Mapping[str, Any], tell: Tell) -> Shown:
    """The list of one kind."""
    from steelyard.report import listing

    kind = str(words.get("kind", "machines"))
    rows = listing.rows(kind, str(words.get("q", "")))
    return Shown({"schema": "steelyard.list/1", "kind": kind, "rows": rows}, rows, view={"title": kind})


SCREEN = Screen(
    name="catalogue",
    title="Catalogue",
    says="Machines, models, prices, engines and techniques, each number with its source.",
    ask=ask,
    command="ls",
    parameters={"kind": "of what", "q": "text that occurs in the row"},
    start={"kind": "machines"},
)
