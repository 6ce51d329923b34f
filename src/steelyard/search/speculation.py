"""Speculative decoding as a choice of the planner: fewer replicas where it lets each hold more.

The screen knows no acceptance, so the best deployments found without it, and cheaper ones that miss the promise without
it, are played again with it, the number of replicas bisected. One that holds every promise for less rent takes the
winner's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steelyard.deployment.deployment import Deployment
from steelyard.errors import InputError, Problem, raise_all
from steelyard.scenario.slo import judge
from steelyard.search.answer import Answer, Candidate
from steelyard.simulation.metrics import describe
from steelyard.simulation.result import Simulation, simulate_deployment
from steelyard.simulation.run import Options
from steelyard.techniques.speculate import parse_speculation
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model

__all__ = ["LAUNCHED", "read_ways", "speculated"]

#: Methods that launch files can be written for: those that need no checkpoint of heads of their own.
LAUNCHED = ("draft", "ngram", "mtp")


def read_ways(words: str | Sequence[str], engines: Sequence[str], objective: str) -> tuple[str, ...]:
    """The ways to guess that may be used: ``draft:llama-3.2-1b,k=4;ngram:k=3``, separated by semicolons.

    Raises:
        InputError: every problem at once.
    """
    parts = words.split(";") if isinstance(words, str) else words
    ways = tuple(dict.fromkeys(p.strip() for p in parts if p.strip()))
    problems: list[Problem] = []
    for way in ways:
        try:
            found = parse_speculation(way)
        except InputError as error:
            problems += error.problems
            continue
        if found.method not in LAUNCHED:
            text = f"{found.method} needs a checkpoint of heads to be launched; expected one of {', '.join(LAUNCHED)}"
            problems.append(Problem("speculate", text))
    if ways and set(engines) - {"vllm"}:
        problems.append(Problem("speculate", "launch files for it are written for vllm only; add engine vllm"))
    if ways and objective != "cost":
        problems.append(Problem("speculate", f"it is weighed by rent, not by {objective}"))
    raise_all(problems)
    return ways


def speculated(answer: Answer, ways: Sequence[str], model: Model, trace: Trace) -> Answer:
    """The answer with the winner and its runners-up weighed with every way to guess as well.

    Args:
        answer: found without. ways: words of ``--speculate``. trace: the traffic at the question's rate.
    """
    if answer.winner is None:
        return answer
    found, usd = [], answer.winner.usd_per_hour
    bases: dict[
        object, Candidate
    ] = {}  # of each replica the first, best candidate; cheaper ones of the front may hold with it what they do not
    for candidate in (answer.winner, *answer.runners_up, *answer.front):
        cheaper = candidate.usd_per_hour is not None and usd is not None and candidate.usd_per_hour <= usd * (1 + 1e-9)
        if candidate.mode == "aggregated" and cheaper:
            bases.setdefault((candidate.machine, candidate.deployment.pools[0].plan), candidate)
    for candidate in bases.values():
        found += [c for way in ways if (c := _fewest(candidate, way, answer, model, trace)) is not None]
    best = min(found, key=lambda c: (c.usd_per_hour, c.tpot_s), default=None)
    if best is None or usd is None or best.usd_per_hour is None or best.usd_per_hour >= usd * (1 - 1e-9):
        text = f"speculative decoding ({'; '.join(ways)}) saves no rent"
        return replace(answer, why=(*answer.why, text))
    text = f"speculative decoding saves {1 - best.usd_per_hour / usd:.0%}: {usd:,.2f} USD/h without"
    return replace(
        answer,
        winner=best,
        runners_up=(answer.winner, *answer.runners_up),
        why=(f"{best.shape} at {best.usd_per_hour:,.2f} USD/h holds every promise when played", text, *answer.why),
        breaks_first=f"{best.breaks_first}; the largest rate was not searched with speculative decoding",
    )


def _fewest(candidate: Candidate, way: str, answer: Answer, model: Model, trace: Trace) -> Candidate | None:
    """The fewest replicas that hold every promise; None when not even as many as without do."""
    question = answer.question
    pool = candidate.deployment.pools[0]
    sent = trace.scaled(1.0 + question.headroom_frac) if question.headroom_frac else trace

    def played(count: int) -> Simulation | None:
        pools = (replace(pool, replicas=count, speculate=way),)
        found = simulate_deployment(
            Deployment(candidate.deployment.model, pools, candidate.deployment.router),
            sent,
            Options("fcfs", question.seed, {}, question.skew, log=0),
            model=model,
        )
        records = found.records
        values = {name: getattr(records, name)[records.completed] for name in ("ttft_s", "tpot_s", "e2e_s")}
        whole = bool(np.all(records.completed))
        return found if whole and all(v.met for v in judge(question.targets, values)) else None

    low, high = 0, pool.replicas - question.spares
    best = played(high) if high > 0 else None
    if best is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        tried = played(middle)
        low, high, best = (low, middle, tried) if tried is not None else (middle, high, best)
    return _shown(candidate, way, answer, high, best)


def _shown(candidate: Candidate, way: str, answer: Answer, count: int, run: Simulation) -> Candidate:
    question, pool = answer.question, candidate.deployment.pools[0]
    assert candidate.usd_per_hour is not None
    replicas = count + question.spares
    devices = replicas * pool.plan.devices
    usd = candidate.usd_per_hour * devices / candidate.devices
    records, done = run.records, run.records.completed
    series = {name: getattr(records, name)[done] for name in ("ttft_s", "tpot_s", "e2e_s")}
    shares = {n: {k: v for k, v in describe(x).items() if v is not None} for n, x in series.items()}
    promised = {v.target.metric: v.value_s for v in judge(question.targets, series)}
    at = {name: promised.get(name, shares[name]["p99"]) for name in series}
    held = question.rate_per_s * (1.0 + question.headroom_frac)
    per_hour = question.rate_per_s * question.osl * 3600
    return replace(
        candidate,
        deployment=replace(candidate.deployment, pools=(replace(pool, replicas=replicas, speculate=way),)),
        devices=devices,
        shape=f"{replicas} x {candidate.shape.partition(' x ')[2]} with {way}",
        usd_per_hour=usd,
        usd_per_million_tokens=usd / per_hour * 1e6,
        watts=candidate.watts * devices / candidate.devices,
        ttft_s=at["ttft_s"],
        tpot_s=at["tpot_s"],
        e2e_s=at["e2e_s"],
        percentiles=shares,
        tokens_per_s_per_device=held * question.osl / devices,
        tokens_per_s_per_user=1.0 / max(shares["tpot_s"]["mean"], 1e-9),
        max_rate_per_s=held,
        interval={},
        headroom_frac=question.headroom_frac,
        value=usd,
    )
