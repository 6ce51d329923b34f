"""Finetuning in the room that serving leaves (FlexLLM, arXiv:2402.18789).

Every step is filled with tokens of finetuning sequences as long as it stays within a time and within the token budget.
Only adapters are trained, so a token costs a forward pass and the backward pass of the activations, the work of two
forward passes; gradients of the frozen weights are not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steelyard.errors import InputError, Problem, raise_all
from steelyard.simulation.kernel.methods import read_words
from steelyard.units import parse_quantity

__all__ = ["WORK", "Finetune", "parse_finetune"]

#: Forward passes of work per finetuning token with frozen weights.
WORK = 2.0


@dataclass(frozen=True, slots=True)
class Finetune:
    """Finetuning beside serving.

    Args:
        limit_s: step time up to which tokens are added (the promise for the time between tokens).
        context: tokens of one training sequence.
    """

    limit_s: float
    context: int = 1024

    def __post_init__(self) -> None:
        problems = []
        if not self.limit_s > 0:
            problems.append(Problem("finetune", f"expected a step time above 0, got {self.limit_s:g} s"))
        if self.context < 1:
            problems.append(Problem("finetune", f"expected sequences of at least 1 token, got {self.context}"))
        raise_all(problems)

    def record(self, record: Any) -> None:
        """Write it into a record of :data:`~steelyard.simulation.kernel.methods.METHOD`."""
        record["plain"] = 0
        record["limit_s"], record["train_work"], record["train_context"] = self.limit_s, WORK, self.context


def parse_finetune(text: str) -> Finetune:
    """Read ``50ms`` or ``finetune:50ms,context=2048``. Raises :class:`InputError`."""
    body = text.strip() if ":" in text else f"finetune:{text.strip()}"
    kind, given = read_words(body, "finetune", {"context": 1024, "limit": ""})
    if kind != "finetune":
        raise InputError(f"expected a step time such as 50ms, got {text.strip()!r}", field="finetune")
    limit = given.get("", given.get("limit"))
    if limit is None:
        raise InputError("expected the step time to stay within, such as 50ms", field="finetune")
    return Finetune(parse_quantity(limit, "s", "finetune"), int(given.get("context", 1024)))
