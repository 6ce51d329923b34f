"""What goes wrong as the page and its JSON say it: the field, what was expected, the nearest choice, no internals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.errors import InputError, Problem, SteelyardError

__all__ = ["SCHEMA", "Wrong", "problems_dict", "wrong_of"]

SCHEMA = "steelyard.problems/1"
_NEAR = re.compile(r"did you mean (.*?)\?")
_QUOTED = re.compile(r"'([^']{1,80})'")


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong with a question."""

    field: str
    message: str
    nearest: Sequence[str] = ()
    """Choices that may have been meant, the most likely first."""

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON."""
        return {"field": self.field, "message": self.message, "nearest": list(self.nearest)}


def wrong_of(error: SteelyardError) -> list[Wrong]:
    """Everything an error says is wrong."""
    found = error.problems if isinstance(error, InputError) else (Problem("", str(error)),)
    return [Wrong(p.field, p.message, _nearest(p.message)) for p in found]


def _nearest(message: str) -> list[str]:
    near = _NEAR.search(message)
    return _QUOTED.findall(near[1]) if near else []


def problems_dict(found: Sequence[Wrong]) -> dict[str, Any]:
    """``steelyard.problems/1``."""
    return {"schema": SCHEMA, "problems": [one.to_dict() for one in found]}
