"""The reasons of an answer, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steelyard.scenario.slo import Target
from steelyard.search.answer import Candidate, Question
from steelyard.units import format_quantity

__all__ = ["breaking", "reasons", "target_text", "value_text"]

_NAMES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "e2e": "end-to-end time",
    "kv": "the KV cache",
    "power": "the power limit",
    "rate": "the rate that is served",
}


def target_text(target: Target) -> str:
    """``TTFT p99 under 1.00 s``."""
    name = target.metric.removesuffix("_s").upper()
    return f"{name} {target.label} under {format_quantity(target.limit_s, 's')}"


def value_text(candidate: Candidate, question: Question) -> str:
    """The objective's value with its unit."""
    value = candidate.value
    if question.objective == "cost":
        return f"{value:,.2f} USD/h"
    if question.objective == "energy":
        return f"{value:,.0f} W"
    if question.objective == "carbon":
        return f"{value:,.0f} g/h"
    if question.objective == "throughput":
        return f"{value:,.2f} requests/s"
    return format_quantity(value, "s")


def reasons(shown: Sequence[Candidate], question: Question, candidates: int, played: int) -> tuple[str, ...]:
    """Why the first of them won."""
    if not shown:
        return ()
    best = shown[0]
    found = [
        f"best by {question.objective} of {candidates:,} candidates: {value_text(best, question)} for "
        f"{best.devices} {best.machine} ({best.shape})"
    ]
    for target in question.targets:
        value = getattr(best, target.metric)
        share = 1 - value / target.limit_s
        found.append(
            f"{target_text(target)} holds at {format_quantity(value, 's')}, {share:.0%} to spare "
            f"({played} simulated runs)"
        )
    for other in shown[1:]:
        if question.objective == "cost" and other.value < best.value * (1 - 1e-9):
            found.append(
                f"{other.devices} {other.machine} ({other.shape}) would be {1 - other.value / best.value:.1%} cheaper, "
                "too little for a more complicated deployment"
            )
            continue
        if question.objective == "throughput":
            more = best.value / max(other.value, 1e-30) - 1
            words = f"{more:.0%} fewer requests/s"
        else:
            more = other.value / max(best.value, 1e-30) - 1
            words = f"{more:.0%} more" if more > 0.005 else "the same"
        tail = f"; it holds up to {other.max_rate_per_s:,.1f} requests/s" if more <= 0.005 else ""
        found.append(
            f"next best: {other.devices} {other.machine} with {other.engine} ({other.shape}) at "
            f"{value_text(other, question)}, {words}{tail}"
        )
    return tuple(found)


def breaking(best: Candidate, question: Question) -> str:
    """What gives way first as traffic grows."""
    if not math.isfinite(best.max_rate_per_s):
        return ""
    what = _NAMES.get(best.breaks_first, best.breaks_first or "capacity")
    found = f"{what}: it holds up to {best.max_rate_per_s:,.2f} requests/s"
    if question.objective == "throughput":
        return found
    return f"{found}, {best.max_rate_per_s / question.rate_per_s - 1:.0%} above the rate asked for"
