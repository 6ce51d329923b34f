"""Speculative decoding as a choice of the planner: fewer replicas where it lets each serve more.

The screen knows no acceptance, so the best deployments found without it, and cheaper ones that miss an SLO without it,
are simulated again with it, the number of replicas bisected. One that meets every SLO for less rent becomes the winner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steelyard.cost.interval import Z80
from steelyard.cost.moe import Router
from steelyard.deployment.engine import find_engine
from steelyard.errors import InputError, Problem, raise_all
from steelyard.scenario.slo import judge
from steelyard.search.answer import Answer, Candidate
from steelyard.search.chance import ALL, chances, holds, quantile
from steelyard.search.options import Floats
from steelyard.search.task import PlanTask
from steelyard.search.trial import METRICS
from steelyard.simulation.metrics import describe, ends
from steelyard.simulation.prepared import Options
from steelyard.simulation.result import Simulation, simulate_deployment
from steelyard.techniques._registry import TECHNIQUES, read_flag

__all__ = ["read_ways", "speculated"]


def read_ways(specs: str | Sequence[str], engines: Sequence[str], objective: str) -> tuple[str, ...]:
    """The ways to speculate that may be used: ``draft:llama-3.2-1b,k=4;ngram:k=3``, separated by semicolons.

    Raises:
        InputError: every problem at once.
    """
    parts = specs.split(";") if isinstance(specs, str) else specs
    ways = tuple(dict.fromkeys(p.strip() for p in parts if p.strip()))
    problems: list[Problem] = []
    for way in ways:
        try:
            found = read_flag("speculate", way)
        except InputError as error:
            problems += error.problems
            continue
        if found is None or found.unplanned:
            able = ", ".join(name for name in TECHNIQUES if TECHNIQUES.get(name).in_plan)
            why = "it says nothing" if found is None else found.unplanned
            problems.append(Problem("speculate", f"{way}: {why}; expected one of {able}"))
    if ways and any(find_engine(e).commands != "vllm" for e in engines):
        problems.append(Problem("speculate", "launch files for it are written for vllm only; add engine vllm"))
    if ways and objective != "cost":
        problems.append(Problem("speculate", f"it is weighed by rent, not by {objective}"))
    raise_all(problems)
    return ways


def speculated(answer: Answer, task: PlanTask) -> Answer:
    """The answer with the winner, its runners-up and the front weighed with every allowed way to speculate as well.

    A way that was named among the techniques is on the winner wherever that meets every SLO, though it saves nothing.
    """
    winner, ways = answer.winner, task.question.speculate
    must = any(technique.slot == "speculation" for technique in task.question.techniques)
    if winner is None:
        return answer
    rent = winner.rent_usd_per_hour
    bases: dict[object, Candidate] = {}  # the best candidate of each replica; with it, cheaper ones may meet the SLOs
    for candidate in (winner, *answer.runners_up, *answer.front):
        own = candidate.rent_usd_per_hour
        cheap = own is not None and rent is not None and (must or own <= rent * (1 + 1e-9))
        if candidate.mode == "aggregated" and cheap:
            bases.setdefault((candidate.machine, candidate.deployment.pools[0].plan), candidate)
    better = [c for base in bases.values() for way in ways if (c := _fewest(base, way, task)) is not None]
    best = min(better, key=lambda c: (c.rent_usd_per_hour, c.tpot_s), default=None)
    if best is None and must:
        none = f"with {'; '.join(ways)} as many replicas do not meet every SLO: planned without"
        return replace(answer, why=(none, *answer.why))
    dearest = math.inf if must else (rent or 0.0) * (1 - 1e-9)
    if best is None or rent is None or best.rent_usd_per_hour is None or best.rent_usd_per_hour >= dearest:
        return replace(answer, why=(*answer.why, f"speculative decoding ({'; '.join(ways)}) saves no rent"))
    saved = 1 - best.rent_usd_per_hour / rent
    saving = f"speculative decoding saves {saved:.0%}" if saved > 1e-9 else "speculative decoding saves no rent"
    saving = f"{saving}: {rent:,.2f} USD/h without"
    first = f"{best.shape} at {best.rent_usd_per_hour:,.2f} USD/h meets every SLO when simulated"
    return replace(
        answer,
        winner=best,
        runners_up=(winner, *answer.runners_up),
        certainty={},
        why=(first, saving, *answer.why),
        breaks_first=f"{best.breaks_first}; the largest rate was not searched with speculative decoding",
    )


def _fewest(base: Candidate, way: str, task: PlanTask) -> Candidate | None:
    """The fewest replicas that meet every SLO; None when not even as many as without do."""
    question, pool = task.question, base.deployment.pools[0]
    trace = task.trace.scaled(1.0 + question.headroom_frac) if question.headroom_frac else task.trace

    def simulated(count: int) -> Simulation | None:
        deployment = replace(base.deployment, pools=(replace(pool, replicas=count, speculate=way),))
        others = tuple(t for t in question.techniques if t.slot != "speculation")
        routed = Router(question.skew)
        options = Options("fcfs", question.seed, {}, routed, log=0, seen=question.seen, techniques=others)
        run = simulate_deployment(deployment, trace, options, model=task.model)
        done = run.records.completed
        met = all(v.met for v in judge(question.targets, _values(run)))
        likely = met and holds(_chances(run, task)[ALL], question.sure)
        return run if bool(np.all(done)) and likely else None

    low, high = 0, pool.replicas - question.spares
    best = simulated(high) if high > 0 else None
    if best is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        run = simulated(middle)
        low, high, best = (low, middle, run) if run is not None else (middle, high, best)
    return _candidate(base, way, task, high, best)


def _chances(run: Simulation, task: PlanTask) -> dict[str, float]:
    """The chance of each SLO, from the run with every step as predicted and at the ends of its interval."""
    slow, z = quantile(task.question.sure), {0.0: run}
    low, high = ends(run)
    z |= {-Z80: low, Z80: high}
    if slow and run.replay is not None:
        z[slow] = run.replay(math.exp(slow * run.spread))
    targets = task.question.targets
    found = {at: {v.target.metric: v.value_s for v in judge(targets, _values(r))} for at, r in z.items()}
    return chances(targets, found)


def _values(run: Simulation) -> dict[str, Floats]:
    """By metric, of the requests that completed."""
    return {name: getattr(run.records, name)[run.records.completed] for name in METRICS}


def _candidate(base: Candidate, way: str, task: PlanTask, count: int, run: Simulation) -> Candidate:
    """A candidate with ``count`` replicas that speculate; its power is that without, by device."""
    question, pool = task.question, base.deployment.pools[0]
    assert base.rent_usd_per_hour is not None
    replicas = count + question.spares
    devices = replicas * pool.plan.devices
    rent = base.rent_usd_per_hour * devices / base.devices
    values = _values(run)
    shares = {n: {k: v for k, v in describe(x).items() if v is not None} for n, x in values.items()}
    at = {name: shares[name]["p99"] for name in METRICS}
    at |= {v.target.metric: v.value_s for v in judge(question.targets, values)}
    return replace(
        base,
        deployment=replace(base.deployment, pools=(replace(pool, replicas=replicas, speculate=way),)),
        devices=devices,
        shape=f"{replicas} x {base.shape.partition(' x ')[2]} with {way}",
        rent_usd_per_hour=rent,
        usd_per_million_tokens=rent / (question.rate_per_s * question.output_tokens * 3600) * 1e6,
        watts=base.watts * devices / base.devices,
        ttft_s=at["ttft_s"],
        tpot_s=at["tpot_s"],
        e2e_s=at["e2e_s"],
        percentiles=shares,
        tokens_per_s_per_device=question.required_load * question.output_tokens / devices,
        tokens_per_s_per_user=1.0 / max(shares["tpot_s"]["mean"], 1e-9),
        max_rate_per_s=question.required_load,
        interval={},
        headroom_frac=question.headroom_frac,
        chance=_chances(run, task),
        value=rent,
    )
