"""Which facts a run used: every catalogue figure, source and assumption that went into an answer.

A run opens a :class:`Ledger`; whatever it looks up is written there, so the answer can name its sources and be run
again from its own record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard._version import __version__

__all__ = ["Ledger", "content_hash", "provenance_of", "record_of"]


@dataclass(slots=True)
class Ledger:
    """Sources, assumptions and guesses collected while an answer is made; order kept, no repeats."""

    sources: dict[str, str] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    guesses: dict[str, str] = field(default_factory=dict)

    def cite(self, what: str, source: str) -> None:
        """Record where a fact came from."""
        self.sources.setdefault(what, source)

    def assume(self, text: str) -> None:
        """Record a choice made for the user."""
        if text not in self.assumptions:
            self.assumptions.append(text)

    def guess(self, path: str, reason: str) -> None:
        """Record the use of a figure that was never published."""
        self.guesses.setdefault(path, reason)

    def take(self, other: Ledger) -> None:
        """Record all that another one has."""
        for what, source in other.sources.items():
            self.cite(what, source)
        for path, reason in other.guesses.items():
            self.guess(path, reason)
        for text in other.assumptions:
            self.assume(text)


def content_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), first 16 hex digits."""
    import hashlib
    import json

    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_of(inputs: Mapping[str, Any], **files: Any) -> dict[str, Any]:
    """What is needed to run a question again: version, inputs and their hash.

    Args:
        inputs: its words.
        files: what was read of files that words name, for the hash.
    """
    return {
        "version": __version__,
        "inputs": dict(inputs),
        "hash": content_hash({"version": __version__, **inputs, **files}),
    }


def provenance_of(inputs: Mapping[str, Any], **files: Any) -> dict[str, Any]:
    """The record (:func:`record_of`) of what was said: empty words are left out."""
    return record_of({k: v for k, v in inputs.items() if v not in (None, "")}, **files)
