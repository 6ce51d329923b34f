"""How large a simulation may be, asked before its arrays are made."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.errors import InputError
from steelyard.traffic.trace import LENGTHS

__all__ = ["MOST_BYTES", "MOST_STEPS", "check_bytes", "check_steps"]

#: Most bytes of the arrays of one simulation.
MOST_BYTES = 1 << 30
#: Most steps that the answers and prompts of one simulation may need.
MOST_STEPS = 1e10


def check_bytes(parts: Mapping[str, tuple[str, float]]) -> None:
    """Refuse arrays that are too large together, under the field that makes the largest.

    Args:
        parts: what they hold, in words -> (field, bytes).

    Raises:
        InputError: they are larger than :data:`MOST_BYTES`.
    """
    total = sum(size for _, size in parts.values())
    if total > MOST_BYTES:
        words = max(parts, key=lambda name: parts[name][1])
        field, size = parts[words]
        most = f"expected at most {MOST_BYTES / 2**30:g} GiB"
        message = f"{words} take {size / 2**30:,.1f} GiB of this computer's memory; {most}"
        raise InputError(message, field=field)


def check_steps(output_tokens: float, chunks: float) -> None:
    """Refuse traffic whose answers, a token a step, and prompts need too many steps. Raises :class:`InputError`."""
    if output_tokens + chunks > MOST_STEPS:
        field, words = (LENGTHS[1], f"{output_tokens:,.0f} generated tokens")
        if chunks > output_tokens:
            field, words = (LENGTHS[0], f"{chunks:,.0f} steps for prompts")
        raise InputError(f"{words}; expected at most {MOST_STEPS:,.0f} in all: fewer requests, or shorter", field=field)
