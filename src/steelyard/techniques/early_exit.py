"""Tokens that leave the model before its last layer (CALM, arXiv:2207.07061; Apparate, arXiv:2312.05385).

Ramps cut the layers into equal sections; at each a token that is still there leaves with probability ``p``. A batch
runs on as long as any of its members is in the model, so early exit alone saves little in one; with rebatching (DREX,
arXiv:2512.15705) a section runs for those that are left. Prompts go through all layers. What leaving costs in quality
is not predicted; keys and values of skipped layers are taken to be filled in for free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steelyard.errors import InputError, Problem, raise_all, suggest
from steelyard.simulation.kernel.methods import MOST_RAMPS, read_words

__all__ = ["EarlyExit", "parse_early_exit"]


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """Ramps and who leaves there.

    Args:
        ramps: exits before the last layer.
        exit_frac: probability that a token leaves at a ramp it reaches.
        rebatch: sections run for those that are left only.
        head: a ramp costs the product with the vocabulary (softmax confidence); else it is free (state saturation).
    """

    ramps: int = 1
    exit_frac: float = 0.3
    rebatch: bool = False
    head: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.ramps <= MOST_RAMPS:
            problems.append(Problem("early_exit", f"expected 1 to {MOST_RAMPS} ramps, got {self.ramps}"))
        if not 0 <= self.exit_frac <= 1:
            problems.append(Problem("early_exit", f"expected a probability from 0 to 1, got {self.exit_frac:g}"))
        raise_all(problems)

    @property
    def depth_frac(self) -> float:
        """Mean share of the layers a token of its own runs through."""
        return sum((1 - self.exit_frac) ** j for j in range(self.ramps + 1)) / (self.ramps + 1)

    def record(self, record: Any) -> None:
        """Write it into a record of :data:`~steelyard.simulation.kernel.methods.METHOD`."""
        record["plain"] = 0
        record["ramps"], record["exit_frac"] = self.ramps, self.exit_frac
        record["rebatch"], record["ramp_rows"] = int(self.rebatch), int(self.head)


def parse_early_exit(text: str) -> EarlyExit:
    """Read ``ramps=3,p=0.3``, ``rebatch:ramps=3,p=0.3,head=1``. Raises :class:`InputError`."""
    body = text.strip()
    rebatch = body.lower().startswith("rebatch")
    body = body if ":" in body else f"exit:{body.removeprefix('rebatch').lstrip(',')}"
    kind, given = read_words(body, "early_exit", {"ramps": 1, "p": 0.3, "head": 0})
    if kind not in ("exit", "rebatch"):
        hint = "did you mean 'rebatch'?" if suggest(kind, ["rebatch"]) else "known: rebatch"
        raise InputError(f"unknown word {kind!r}; {hint}", field="early_exit")
    return EarlyExit(int(given.get("ramps", 1)), float(given.get("p", 0.3)), rebatch, bool(given.get("head", 0)))
