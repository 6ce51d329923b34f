"""Candidates as the answer shows them: deployments with every figure, simulated or by the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steelyard.cost.interval import interval80
from steelyard.deployment.deployment import Deployment
from steelyard.search.answer import Candidate
from steelyard.search.candidates import CandidateRow
from steelyard.search.chance import chances, quantile
from steelyard.search.doubts import doubts
from steelyard.search.finalists import Finalist
from steelyard.search.options import PoolOption, shape_of
from steelyard.search.task import PlanTask
from steelyard.search.trial import METRICS, ROUTER, Outcome, Player
from steelyard.simulation.metrics import first_token_interval

__all__ = ["closest_candidate", "screened_candidate", "simulated_candidate"]


def _facts(
    task: PlanTask,
    row: CandidateRow,
    watts: float,
    rate_per_s: float,
    largest: tuple[float, float],
    router: str = ROUTER,
) -> dict[str, Any]:
    """What a candidate is and costs at a rate, and the largest load it holds, with the requests/s of that."""
    question, pools, plan = task.question, row.pools, row.pools[-1].replica.plan
    single = len(pools) == 1
    most, largest_per_s = largest
    rent = None if math.isnan(row.rent_usd_per_hour) else row.rent_usd_per_hour
    tokens_per_s = rate_per_s * task.demand.mean_output_tokens
    carbon = question.carbon_g_per_kwh
    devices = sum(p.devices(question.spares) for p in pools)
    return {
        "deployment": Deployment(question.model, tuple(p.pool(question.spares) for p in pools), router),
        "machine": "+".join(dict.fromkeys(p.replica.machine for p in pools)),
        "devices": devices,
        "engine": pools[0].replica.engine.name,
        "mode": "aggregated" if single else "disaggregated",
        "shape": shape_of(pools, question.spares),
        "limits": {("" if single else f"{p.role}.") + name: x for p in pools for name, x in p.flags.items()},
        "formats": {name: getattr(plan, name) for name in ("weights", "activations", "kv", "communication")},
        "rent_usd_per_hour": rent,
        "usd_per_million_tokens": None if rent is None else rent / 3600 / tokens_per_s * 1e6,
        "watts": watts,
        "carbon_g_per_hour": None if carbon is None else watts / 1000 * carbon,
        "tokens_per_s": tokens_per_s,
        "tokens_per_s_per_device": largest_per_s * task.demand.mean_output_tokens / devices,
        "max_rate_per_s": largest_per_s,
        "headroom_frac": most / question.load - 1.0,
        "doubts": doubts(pools, devices),
        "max_concurrency": None if question.concurrency is None else int(most),
    }


def simulated_candidate(
    task: PlanTask, player: Player, finalist: Finalist, largest: float, failure: str = "", *, interval: bool
) -> Candidate:
    """A finalist with the figures of its run.

    Args:
        task: the question.
        player: has simulated it.
        finalist: the finalist.
        largest: load it holds; NaN = not known.
        failure: what fails above it, where that is known.
        interval: give the 80 % intervals.
    """
    row, outcome, router = finalist.row, finalist.outcome, finalist.outcome.router
    if task.question.objective == "throughput" and largest > 0:
        outcome = player.play(row.pools, largest)
    most = largest if math.isfinite(largest) else row.capacity_per_s
    users = task.question.concurrency is not None
    if outcome.meets:  # what was simulated is known better than what was screened
        most = max(most, task.question.load if users else outcome.rate_per_s)
    rate = player.play(row.pools, most, whole=True).rate_per_s if users else most
    intervals = _intervals(task, player, row.pools, outcome, rate)
    chance = _chance(task, player, row.pools, outcome, most if math.isfinite(largest) else math.nan)
    return Candidate(
        **_facts(task, row, finalist.watts, outcome.rate_per_s, (most, rate), router),
        ttft_s=outcome.values["ttft_s"],
        tpot_s=outcome.values["tpot_s"],
        e2e_s=outcome.values["e2e_s"],
        percentiles=outcome.percentiles,
        tokens_per_s_per_user=1.0 / max(outcome.percentiles["tpot_s"].get("mean", math.inf), 1e-9),
        interval=intervals if interval else {},
        chance=chance,
        simulated=True,
        meets=outcome.meets,
        breaks_first=failure or row.first_failure,
        batch_mean=outcome.batch_mean,
        kv_frac=outcome.kv_frac,
        value=abs(finalist.value),
    )


def screened_candidate(task: PlanTask, row: CandidateRow, *, meets: bool) -> Candidate:
    """A candidate with the figures of the screen.

    Args:
        task: the question.
        row: the candidate.
        meets: whether it meets every SLO.
    """
    figures, tokens, question = row.figures, task.demand.mean_output_tokens, task.question
    e2e_s = figures["ttft_s"] + max(tokens - 1, 0.0) * figures["tpot_s"]
    per_load = 1.0 if question.concurrency is None else 1.0 / max(e2e_s, 1e-9)  # Little's law
    largest = row.capacity_per_s, row.capacity_per_s * per_load
    return Candidate(
        **_facts(task, row, figures["watts"], question.load * per_load, largest),
        ttft_s=figures["ttft_s"],
        tpot_s=figures["tpot_s"],
        e2e_s=e2e_s,
        percentiles={},
        tokens_per_s_per_user=1.0 / max(figures["tpot_s"], 1e-9),
        interval={},
        simulated=False,
        meets=meets,
        breaks_first=row.first_failure,
    )


def closest_candidate(task: PlanTask, row: CandidateRow, outcome: Outcome | None) -> Candidate:
    """A candidate that missed an SLO when it was simulated, or was never simulated (``outcome`` None)."""
    if outcome is not None:
        latencies: Mapping[str, float] = {k: v for k, v in outcome.values.items() if k in ("ttft_s", "tpot_s")}
        failure = outcome.first_failure or row.first_failure
        row = replace(row, figures={**row.figures, **latencies}, first_failure=failure)
    return screened_candidate(task, row, meets=False)


def _intervals(
    task: PlanTask, player: Player, pools: Sequence[PoolOption], outcome: Outcome, most_per_s: float
) -> dict[str, tuple[float, float]]:
    """80 % intervals around an outcome: the same traffic with every step at the ends of its own interval.

    The largest rate scales with the speed of the steps, a little more than in proportion near its limit.
    """
    spread, limit = player.spread(pools)
    low, high = (float(end) for end in interval80(1.0, spread, at_least=limit))
    ends = player.ends(pools, _load(task, outcome)).values()
    intervals = {}
    for name in METRICS:
        values = [run.values.get(name, math.nan) for run in (*ends, outcome)]
        if all(math.isfinite(x) for x in values):
            intervals[name] = (min(values), max(values))
    if "ttft_s" in intervals:
        first = first_token_interval(outcome.values["ttft_s"], *intervals["ttft_s"], limit)
        intervals["ttft_s"] = float(first[0]), float(first[1])
    if task.question.objective != "throughput":  # there it is the rate that is held with the chance asked for
        intervals["max_rate_per_s"] = (most_per_s / high, most_per_s / low)
    return intervals


def _load(task: PlanTask, outcome: Outcome) -> float:
    """The load of an outcome: requests/s, or users."""
    return outcome.rate_per_s if task.question.concurrency is None else task.question.load


def _chance(
    task: PlanTask, player: Player, pools: Sequence[PoolOption], outcome: Outcome, most: float
) -> dict[str, float]:
    """The chance of each promise and of all; ``most`` is the load the pools hold, NaN where it is not known.

    What they hold falls as steps get slower, so ``most`` times faster than needed is slack; a run that met every SLO
    says that the rate was held in it.
    """
    question, spread = task.question, player.spread(pools)[0]
    load, sure = _load(task, outcome), quantile(question.sure)
    runs = {0.0: outcome, **player.ends(pools, load)}
    if sure not in runs:
        runs[sure] = player.play(pools, load, math.exp(sure * spread), whole=True)
    promised = outcome.rate_per_s if question.objective == "throughput" else question.required_load
    rate_z = math.nan
    if question.concurrency is not None:  # users set the rate themselves; a seat for each does not hang on speed
        rate_z = math.nan if question.targets else math.inf
    elif math.isfinite(most) and most > 0:
        met = [z for z in (0.0, sure) if player.play(pools, promised, math.exp(z * spread)).meets]
        rate_z = max(math.log(most / promised) / spread, *met, -math.inf)
    return chances(question.targets, {z: run.values for z, run in runs.items()}, rate_z)
