"""Candidates as they are shown: deployments with every figure, simulated or by the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.cost.interval import interval80
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.search.answer import Candidate, Question
from steelyard.search.candidates import Choice, Part
from steelyard.search.demand import Demand
from steelyard.search.finalists import Finalist
from steelyard.search.objective import Limits
from steelyard.search.trial import ROUTER, Outcome, Player

__all__ = ["candidate_of", "choice_candidate", "deployment_of", "screened_candidate"]

_LETTER = {"prefill": "P", "decode": "D", "both": ""}


def deployment_of(parts: Sequence[Part], question: Question, limits: Limits, router: str = ROUTER) -> Deployment:
    """The pools with their flags, spares included."""
    pools = tuple(
        Pool(
            p.replica.cluster.machine.name,
            p.replica.plan,
            p.count + limits.spares,
            p.role,
            p.replica.flags(p.budget, p.sequences),
        )
        for p in parts
    )
    return Deployment(question.model, pools, router)


def _facts(parts: Sequence[Part], question: Question, limits: Limits, router: str = ROUTER) -> dict[str, Any]:
    """What a candidate is, whatever it does."""
    machines = list(dict.fromkeys(p.replica.cluster.machine.name for p in parts))
    engine = parts[0].replica.engine.name
    words = [f"{p.count + limits.spares}{_LETTER[p.role]} {p.replica.shape}" for p in parts]
    alone = len(parts) == 1
    shape = f"{parts[0].count + limits.spares} x {parts[0].replica.shape}" if alone else " + ".join(words)
    found: dict[str, int] = {}
    for p in parts:
        prefix = "" if alone else f"{p.role}."
        found |= {f"{prefix}{k}": v for k, v in p.replica.flags(p.budget, p.sequences).items()}
    plan = parts[-1].replica.plan
    return {
        "deployment": deployment_of(parts, question, limits, router),
        "machine": "+".join(machines),
        "devices": sum((p.count + limits.spares) * p.replica.devices for p in parts),
        "engine": engine,
        "mode": "aggregated" if alone else "disaggregated",
        "shape": shape,
        "limits": found,
        "formats": {
            "weights": plan.weights,
            "activations": plan.activations,
            "kv": plan.kv,
            "communication": plan.communication,
        },
    }


def candidate_of(
    finalist: Finalist,
    question: Question,
    limits: Limits,
    player: Player,
    demand: Demand,
    largest: float,
    breaks: str = "",
    *,
    first: bool,
) -> Candidate:
    """A finalist with its run's figures; intervals for the winner (``first``).

    Args:
        largest: rate it holds. breaks: what gave way above it, where that is known.
    """
    parts, outcome = finalist.choice.parts, finalist.outcome
    facts = _facts(parts, question, limits, outcome.router)
    if question.objective == "throughput" and largest > 0:
        outcome = player.play(parts, largest)
    rate = outcome.rate_per_s
    tokens_per_s = rate * demand.mean_osl
    most = largest if math.isfinite(largest) else finalist.choice.capacity
    if outcome.meets:  # what was played is known better than what was screened
        most = max(most, rate)
    usd = None if math.isnan(finalist.usd_per_hour) else finalist.usd_per_hour
    breaks = breaks or finalist.choice.breaks
    return Candidate(
        **facts,
        usd_per_hour=usd,
        usd_per_million_tokens=None if usd is None else usd / 3600 / tokens_per_s * 1e6,
        watts=finalist.watts,
        ttft_s=outcome.values["ttft_s"],
        tpot_s=outcome.values["tpot_s"],
        e2e_s=outcome.values["e2e_s"],
        percentiles=outcome.percentiles,
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_device=most * demand.mean_osl / facts["devices"],
        tokens_per_s_per_user=1.0 / max(outcome.percentiles["tpot_s"].get("mean", math.inf), 1e-9),
        max_rate_per_s=most,
        interval=_intervals(parts, player, outcome, rate, most) if first else {},
        simulated=True,
        meets=outcome.meets,
        headroom_frac=most / question.rate_per_s - 1.0,
        carbon_g_per_hour=_carbon(finalist.watts, question),
        breaks_first=breaks,
        batch_mean=outcome.batch_mean,
        kv_frac=outcome.kv_frac,
        value=abs(finalist.value),
    )


def screened_candidate(
    parts: Sequence[Part],
    question: Question,
    limits: Limits,
    figures: Mapping[str, float],
    *,
    capacity: float,
    usd_per_hour: float,
    osl: float,
    meets: bool,
    breaks: str,
) -> Candidate:
    """A candidate the screen alone has weighed."""
    facts = _facts(parts, question, limits)
    usd = None if math.isnan(usd_per_hour) else usd_per_hour
    tokens_per_s = question.rate_per_s * osl
    return Candidate(
        **facts,
        usd_per_hour=usd,
        usd_per_million_tokens=None if usd is None else usd / 3600 / tokens_per_s * 1e6,
        watts=figures["watts"],
        ttft_s=figures["ttft_s"],
        tpot_s=figures["tpot_s"],
        e2e_s=figures["ttft_s"] + max(osl - 1, 0.0) * figures["tpot_s"],
        percentiles={},
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_device=figures.get("tokens_per_s_per_device", capacity * osl / facts["devices"]),
        tokens_per_s_per_user=1.0 / max(figures["tpot_s"], 1e-9),
        max_rate_per_s=capacity,
        interval={},
        simulated=False,
        meets=meets,
        headroom_frac=capacity / question.rate_per_s - 1.0,
        carbon_g_per_hour=_carbon(figures["watts"], question),
        breaks_first=breaks,
    )


def choice_candidate(
    choice: Choice, question: Question, limits: Limits, outcome: Outcome | None, usd_per_hour: float, osl: float
) -> Candidate:
    """A choice that was played and failed, or was never played."""
    figures = dict(choice.figures)
    if outcome is not None and outcome.values:
        figures |= {"ttft_s": outcome.values["ttft_s"], "tpot_s": outcome.values["tpot_s"]}
    breaks = outcome.breaks if outcome is not None and outcome.breaks else choice.breaks
    return screened_candidate(
        choice.parts,
        question,
        limits,
        figures,
        capacity=choice.capacity,
        usd_per_hour=usd_per_hour,
        osl=osl,
        meets=False,
        breaks=breaks,
    )


def _carbon(watts: float, question: Question) -> float | None:
    """g/h."""
    return None if question.carbon_g_per_kwh is None else watts / 1000 * question.carbon_g_per_kwh


def _intervals(
    parts: Sequence[Part], player: Player, outcome: Outcome, rate: float, most: float
) -> dict[str, tuple[float, float]]:
    """80 % intervals around an outcome: the same traffic with every step at the ends of its own interval.

    The largest rate scales with the speed of the steps, a little more than in proportion near its limit.
    """
    tables = [player.table(p) for p in parts]
    spread, limit = max(t.spread for t in tables), min(t.limit_frac for t in tables)
    low, high = (float(end) for end in interval80(1.0, spread, at_least=limit))
    ends = [player.play(parts, rate, factor, whole=True) for factor in (low, high)]
    found = {}
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        values = [played.values.get(name, math.nan) for played in (*ends, outcome)]
        if all(math.isfinite(x) for x in values):
            found[name] = (min(values), max(values))
    found["max_rate_per_s"] = (most / high, most / low)
    return found
