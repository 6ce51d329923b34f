"""The reasons of an answer as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steelyard.scenario.slo import Target
from steelyard.search.answer import Candidate, Question
from steelyard.search.chance import ALL, holds
from steelyard.search.doubts import NEVER_MEASURED
from steelyard.units import format_quantity

__all__ = ["FAILURES", "UNITS", "breaking", "chance_text", "load_text", "reasons", "target_text", "value_text"]

#: Devices from which a fleet of one kind is remarked on.
MANY = 256
#: What may fail first: short, and written out.
FAILURES = {
    "ttft": ("TTFT", "time to first token"),
    "tpot": ("TPOT", "time per output token"),
    "e2e": ("the end-to-end time", "end-to-end time"),
    "kv": ("the KV cache", "the KV cache"),
    "power": ("the power limit", "the power limit"),
    "rate": ("the rate", "the rate that is served"),
}
#: Units of the objectives, by name.
UNITS = {
    "cost": "USD/h",
    "energy": "W",
    "carbon": "g/h",
    "throughput": "requests/s",
    "latency": "s",
    "devices": "devices",
}


def chance_text(chance: float) -> str:
    """``71 %``, ``over 99 %``, ``under 1 %``."""
    percent = math.floor(100 * chance + 1e-4)
    return "under 1 %" if percent < 1 else "over 99 %" if percent >= 99 else f"{percent} %"


def load_text(question: Question, load: float) -> str:
    """``5 requests/s``, ``64 users``."""
    return f"{load:,.3g} requests/s" if question.concurrency is None else f"{load:,.0f} users"


def target_text(target: Target) -> str:
    """``TTFT p99 under 1.00 s``."""
    name = target.metric.removesuffix("_s").upper()
    return f"{name} {target.label} under {format_quantity(target.limit_s, 's')}"


def value_text(value: float, objective: str) -> str:
    """A value of the objective with its unit."""
    if objective == "latency":
        return format_quantity(value, "s")
    return f"{value:,.{0 if objective in ('energy', 'carbon') else 2}f} {UNITS[objective]}"


def reasons(shown: Sequence[Candidate], question: Question, candidates: int, runs: int) -> tuple[str, ...]:
    """Why the first of the candidates won, one sentence each."""
    if not shown:
        return ()
    best, objective = shown[0], question.objective
    likely = best.chance.get(ALL, 1.0)
    why = [
        f"no plan was found that holds with {question.sure:.0%}: this is the likeliest, with {chance_text(likely)}"
    ] * (not holds(likely, question.sure))
    why += [
        f"best by {objective} of {candidates:,} candidates: {value_text(best.value, objective)} for "
        f"{best.devices} {best.machine} ({best.shape})"
    ]
    for target in question.targets:
        value, chance = getattr(best, target.metric), best.chance.get(target.metric.removesuffix("_s"))
        sure = "" if chance is None else f", holds with {chance_text(chance)}"
        why.append(f"{target_text(target)}: {format_quantity(value, 's')} expected{sure} ({runs} simulated runs)")
    if not question.targets:
        what = (
            "all users are served at once" if question.concurrency else "it keeps up with the rate, queues stay finite"
        )
        why.append(
            f"no SLO: {what}; {1 / (1 + best.headroom_frac):.0%} of what it holds is used ({runs} simulated runs)"
        )
    why += [x for x in best.doubts if not x.startswith(NEVER_MEASURED)]
    if best.devices > MANY and len(question.machines) == 1:
        why.append(f"{best.devices:,} devices of one kind: --on any compares what larger ones would do")
    for other in shown[1:]:
        if objective == "cost" and other.value < best.value * (1 - 1e-9):
            why.append(
                f"{other.devices} {other.machine} ({other.shape}) would be {1 - other.value / best.value:.1%} cheaper, "
                "too little for a more complicated deployment"
            )
            continue
        if objective == "throughput":
            more = best.value / max(other.value, 1e-30) - 1
            text = f"{more:.0%} fewer requests/s"
        else:
            more = other.value / max(best.value, 1e-30) - 1
            text = f"{more:.0%} more" if more > 0.005 else "the same"
        tail = f"; it holds up to {_held(other, 1)}" if more <= 0.005 else ""
        why.append(
            f"next best: {other.devices} {other.machine} with {other.engine} ({other.shape}) at "
            f"{value_text(other.value, objective)}, {text}{tail}"
        )
    return tuple(why)


def breaking(best: Candidate, question: Question) -> str:
    """What fails first as traffic grows."""
    if not math.isfinite(best.max_rate_per_s):
        return ""
    what = FAILURES[best.breaks_first][1] if best.breaks_first else "capacity"
    text = f"{what}: it holds up to {_held(best, 2)}"
    if question.objective == "throughput":
        return text
    return (
        f"{text}, {best.headroom_frac:.0%} above {'the rate' if question.concurrency is None else 'what was'} asked for"
    )


def _held(candidate: Candidate, digits: int) -> str:
    rate = f"{candidate.max_rate_per_s:,.{digits}f} requests/s"
    if candidate.max_concurrency is None:
        return rate
    return f"{candidate.max_concurrency:,} users ({rate})"
