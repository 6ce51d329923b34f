"""The plan of a training run: which machine, how many, laid out how, so that it ends in time and in budget.

Every legal layout on every machine and number of devices is priced at once (:mod:`steelyard.training.layouts`), with
what failures leave of its time in closed form; the best few are then weighed as ``train`` weighs them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from steelyard._display import Result
from steelyard.cost.energy import idle_power_w
from steelyard.cost.money import hourly_price
from steelyard.deployment.failures import DAY_S
from steelyard.deployment.frameworks import find_framework
from steelyard.deployment.optimizers import find_optimizer
from steelyard.deployment.recovery import Recovery, parse_spares
from steelyard.deployment.train_plan import REWARDED
from steelyard.errors import Problem
from steelyard.interval import Z80
from steelyard.machine.cluster import Cluster, Mixed, mixed_cluster, parse_cluster
from steelyard.provenance import Ledger, record_of
from steelyard.scenario.fields import PRICE, fields_of
from steelyard.scenario.network import asks_net
from steelyard.scenario.run_limits import limits_of
from steelyard.scenario.scenario import read_cluster, read_model
from steelyard.scenario.training import TrainScenario, read_train_scenario
from steelyard.scenario.verbs import verb
from steelyard.scenario.words import Problems, read_words
from steelyard.search.chance import read_chance
from steelyard.search.rewarded import MOST_REWARDED, TOKENS, ways
from steelyard.search.why_not import why_not_layout
from steelyard.training.chosen import layouts_of
from steelyard.training.estimate import TrainEstimate, answer_train, checkpoint_bytes_of
from steelyard.training.layouts import Layouts
from steelyard.training.reliability import effective
from steelyard.training.stragglers import slowest_factor

__all__ = ["TrainAnswer", "TrainQuestion", "plan_of_training", "plan_training", "read_train_question", "why_not"]

#: Devices at most where nothing is said.
MOST_DEVICES = 16_384


@dataclass(frozen=True, eq=False)
class TrainQuestion:
    """What is trained, on which machines it may be, and what must hold."""

    scenarios: tuple[TrainScenario, ...]
    """One for each machine and framework, on as many devices as are allowed."""
    objective: str
    by_s: float | None
    budget_usd: float | None
    sure: float
    words: Mapping[str, Any] = field(default_factory=dict)
    tell: Callable[[str], object] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The best layout of a machine on so many devices, as screened."""

    scenario: TrainScenario
    days: float
    usd: float | None
    kwh: float
    step_s: float
    chance: float
    """That it ends in time and in budget."""
    found: TrainEstimate | None = None
    """The answer, where it is there already."""

    @property
    def answer(self) -> TrainEstimate:
        """The answer of ``train``."""
        return self.found or answer_train(self.scenario)

    @property
    def devices(self) -> int:
        """That train, and that answer beside them."""
        return self.scenario.devices


@dataclass(frozen=True, eq=False, repr=False)
class TrainAnswer(Result):
    """The plan: the winner weighed whole, the front of time against money, and how many layouts were looked at."""

    question: TrainQuestion
    winner: TrainEstimate | None
    finalists: tuple[TrainEstimate, ...]
    rows: tuple[Row, ...]
    """Of every machine and number of devices the best layout that fits, fastest last."""
    screened: int
    seconds: float
    reason: str = ""
    """Why nothing was found."""


def read_train_question(words: Mapping[str, Any], problems: Problems | None = None) -> TrainQuestion:
    """The question that words ask. Raises :class:`InputError` with every problem."""
    problems = problems or Problems()
    values = read_words("plan_training", words, problems)
    names = _names(values["on"])
    limits = problems.read(limits_of, values)
    sure = problems.read(read_chance, values["sure"])
    most = values["max_gpus"] or (MOST_REWARDED if values["task"] in REWARDED else MOST_DEVICES)
    own = {
        n: values[n]
        for n in fields_of("train")
        if n in values and n not in ("on", "stale") and values[n] != fields_of("train")[n].default
    }
    problems.read(find_optimizer, values["optimizer"])
    if values["model"] is not None and asks_net({"model": values["model"]}):
        told = "plans are of language models; steelyard train MODEL --on NAME:COUNT weighs a network on your devices"
        problems.add([Problem("model", told)])
    elif values["model"] is not None:
        own["model"] = problems.read(read_model, values["model"], values["generic"])
    found: list[TrainScenario] = []
    for name in names:
        cluster = problems.read(read_cluster, name, mixed_cluster if "+" in str(name) else parse_cluster)
        if cluster is None or own.get("model") is None:
            continue
        if cluster.unlike:
            problems.add([Problem("on", "training on unlike devices of one replica is not priced; name each apart")])
            continue
        mixed = isinstance(cluster, Mixed)
        stated = mixed or (isinstance(name, str) and ":" in name)
        count = cluster.count if stated else max(cluster.count, most // cluster.per_node * cluster.per_node)
        whole = (
            problems.read(read_cluster, f"{cluster.machine.name}:{min(count, most)}")
            if isinstance(name, str) and not mixed
            else cluster
        )
        for framework in [f.strip() for f in str(values["framework"]).split(",")]:
            with problems.collect():
                if framework:
                    find_framework(framework)
                found.append(read_train_scenario({**own, "on": whole or cluster, "framework": framework}))
    problems.done()
    assert sure is not None
    assert limits is not None
    return TrainQuestion(tuple(found), values["objective"], *limits, sure, values, values["tell"])


def _names(on: Any) -> list[Any]:
    if isinstance(on, str):
        return [p.strip() for p in on.split(",") if p.strip()] or [""]
    if isinstance(on, Sequence):
        return list(on)
    return [] if on is None else [on]


@verb("plan_training", read_train_question)
def plan_training(question: TrainQuestion) -> TrainAnswer:
    """Find the best machines, number of devices and layout for a training run.

    Returns:
        a :class:`TrainAnswer`; its ``winner`` is None where nothing fits or ends in time, and ``reason`` says why.

    Raises:
        InputError: every problem of the arguments at once.
    """
    return plan_of_training(question)


def plan_of_training(question: TrainQuestion) -> TrainAnswer:
    """Answer a question that was read."""
    started = time.process_time()
    rows: list[Row] = []
    screened = 0
    for scenario in question.scenarios:
        if question.tell is not None:
            question.tell(f"pricing layouts on {scenario.cluster.machine.name}")
        found, layouts = (_screened if scenario.rewarded is None else _ways)(scenario, question)
        screened += layouts
        rows += found
    rows = sorted((_sure(row, question) for row in rows), key=lambda r: (-r.days, r.usd or 0.0))
    able = [r for r in rows if r.chance >= question.sure]
    ranked = sorted(able, key=lambda r: _score(r, question))
    finalists = tuple(r.answer for r in ranked[:3])
    return TrainAnswer(
        question,
        finalists[0] if finalists else None,
        finalists,
        tuple(rows),
        screened,
        time.process_time() - started,
        "" if finalists else _reason(rows, screened, question),
    )


def _score(row: Row, question: TrainQuestion) -> float:
    if question.objective == "time":
        return row.days
    if question.objective == "energy":
        return row.kwh
    return row.days if row.usd is None else row.usd


def _reason(rows: Sequence[Row], screened: int, question: TrainQuestion) -> str:
    if not screened:
        return "no layout divides the model, the batch and the devices"
    if not rows:
        return "no layout fits the memory of the devices"
    by_days, most_usd = (question.by_s or math.inf) / DAY_S, question.budget_usd or math.inf
    best = max(rows, key=lambda r: (r.chance, -max(r.days / by_days, (r.usd or 0.0) / most_usd)))
    money = "" if best.usd is None else f" and {best.usd:,.0f} USD"
    where = f"{best.scenario.cluster.count} x {best.scenario.cluster.machine.name}"
    return f"the surest, {where}, takes {best.days:,.1f} days{money} and holds with {best.chance:.0%}"


def _counts(cluster: Cluster) -> tuple[int, ...]:
    """Numbers of devices that are tried: whole nodes, doubled, those between, and all."""
    found, count = [], min(cluster.per_node, cluster.count)
    while count < cluster.count:
        found.append(count)
        if count >= 2 * cluster.per_node and count * 3 // 2 < cluster.count:
            found.append(count * 3 // 2)
        count *= 2
    return (*found, cluster.count)


def _screened(scenario: TrainScenario, question: TrainQuestion) -> tuple[list[Row], int]:
    """The best layout on every number of devices of a machine, and how many were priced."""
    plan, cluster, words = scenario.plan, scenario.cluster, scenario.words
    if isinstance(cluster, Mixed):
        return _of_several(scenario, question)
    counts = _counts(cluster)
    margin = plan.framework.memory_margin(question.sure)
    layouts = layouts_of(scenario, counts, margin)
    if not layouts.fits:
        return [], layouts.weighed
    hourly = hourly_price(cluster.machine, words.get(PRICE), Ledger(), cluster.system).usd_per_hour
    table = _runs(scenario, layouts, hourly, question)
    rows = []
    for count in counts:
        here = np.flatnonzero(layouts.columns["count"] == count)
        if not len(here):
            continue
        doubt = layouts.ranked_s[here] / layouts.step_s[here]
        i = int(here[np.argmin(table["days"][here] * doubt)])
        devices = replace(cluster, count=int(count))
        chosen = replace(scenario, cluster=devices, plan=layouts.plan_of(i), open=())
        chosen = replace(chosen, recovery=_recovery(scenario, devices.node_count))
        usd = None if hourly is None else float(table["usd"][i])
        rows.append(
            Row(
                chosen,
                float(table["days"][i]),
                usd,
                float(table["kwh"][i]),
                float(layouts.step_s[i]),
                float(table["chance"][i]),
            )
        )
    return rows, layouts.weighed


def _ways(scenario: TrainScenario, question: TrainQuestion) -> tuple[list[Row], int]:
    """Of a task that learns from scored answers, every way on every number of devices, and how many those were."""
    found = ways(scenario, question.words)
    rows = [Row(w.found.scenario, w.days, w.usd, w.kwh, w.step_s, chance_of(w.found, question), w.found) for w in found]
    return rows, len(rows)


def _of_several(scenario: TrainScenario, question: TrainQuestion) -> tuple[list[Row], int]:
    """The row of devices of several kinds, all of them: as ``train`` lays them out."""
    found = answer_train(scenario if scenario.tokens is not None else replace(scenario, tokens=TOKENS))
    run = found.run
    if not found.fits or run is None:
        return [], 1
    usd = None if run.usd is None else run.usd["p50"]
    sure, own = chance_of(found, question), found if scenario.tokens is not None else None
    return [Row(scenario, run.days["p50"], usd, run.kwh["p50"], found.step_s, sure, own)], 1


def _recovery(scenario: TrainScenario, nodes: int) -> Recovery:
    """What follows a failure of a job on so many nodes: spares that are a share are one of these."""
    spares = parse_spares(scenario.words["spares"], nodes)
    return scenario.recovery if spares is None else replace(scenario.recovery, spares=spares)


def _runs(scenario: TrainScenario, layouts: Layouts, hourly: float | None, question: TrainQuestion) -> dict[str, Any]:
    """Days, money, energy and the chance to hold of every layout; of 1e12 tokens where no length was given.

    The chance is that of the spread of steps alone; where it leaves a doubt, :func:`_sure` draws the run.
    """
    plan, cluster, words = scenario.plan, scenario.cluster, scenario.words
    tokens = scenario.tokens or TOKENS
    steps = np.ceil(tokens / (plan.gbs * plan.seq))
    count = layouts.columns["count"]
    nodes = np.ceil(count / cluster.per_node)
    ettr, slower, waiting = np.ones(len(layouts)), np.ones(len(layouts)), np.zeros(len(layouts))
    size = checkpoint_bytes_of(scenario)
    for n in np.unique(count):
        here = np.flatnonzero(count == n)
        stop = int(np.ceil(n / cluster.per_node))
        if words["jitter"]:
            slower[here] = float(slowest_factor(stop, words["jitter"]))
        recovery = _recovery(scenario, stop)
        waiting[here] = recovery.spares or 0
        if scenario.failures.rates:
            replicas = layouts.columns["dp"][here] if recovery.elastic else np.ones(len(here), dtype=np.int64)
            for copies in np.unique(replicas):
                saved = scenario.checkpoint.checkpoint(size, nodes=stop, writers=int(n))
                sizes = {"nodes": stop, "devices": int(n), "replicas": int(copies)}
                shares = effective(scenario.failures, saved, recovery, **sizes)
                ettr[here[replicas == copies]] = float(shares.ettr_frac)
    days = steps * layouts.step_s * slower / np.maximum(ettr, 1e-9) / DAY_S
    rented = count / nodes * (nodes + waiting)
    idle_w = idle_power_w(cluster.machine) + cluster.host_share_w
    kwh = days * 24.0 * ((layouts.power_w + cluster.host_share_w) * count + idle_w * (rented - count)) / 1e3
    usd = days * 24.0 * rented * (hourly or 0.0) + kwh * float(words["power_price"] or 0.0)
    spread = float(np.hypot(np.log(plan.framework.spread) / Z80, scenario.failures.spread * (1.0 - ettr.min())))
    chance = np.ones(len(layouts))
    for limit, value in ((None if question.by_s is None else question.by_s / DAY_S, days), (question.budget_usd, usd)):
        if limit is not None:
            normal = NormalDist(sigma=spread)
            margins = np.log(limit / np.maximum(value, 1e-12))
            chance = np.minimum(chance, np.array([normal.cdf(float(x)) for x in margins]))
    return {"days": days, "usd": usd, "kwh": kwh, "chance": chance}


#: Chances below which, and above one less which, nothing is left to doubt.
_NO_DOUBT = 1e-3


def _sure(row: Row, question: TrainQuestion) -> Row:
    """The row with the chance that ``train`` answers for it, where the spread of steps alone does not decide."""
    if (question.by_s, question.budget_usd) == (None, None) or not _NO_DOUBT < row.chance < 1.0 - _NO_DOUBT:
        return row
    found = row.answer
    return replace(row, chance=chance_of(found, question), found=found)


def chance_of(found: TrainEstimate, question: TrainQuestion) -> float:
    """The chance that a run ends in time and in budget, as ``train`` says it: the smaller of both."""
    if found.run is None:
        return 1.0
    by = 1.0 if question.by_s is None else found.run.chance_by(question.by_s / DAY_S)
    within = 1.0 if question.budget_usd is None else found.run.chance_within(question.budget_usd)
    return min(by, 1.0 if within is None else within)


def provenance_of(question: TrainQuestion) -> dict[str, Any]:
    """What is needed to run the same question again."""
    known = fields_of("plan_training")
    inputs = {
        n: v for n, v in question.words.items() if v != known[n].default and isinstance(v, str | int | float | bool)
    }
    return record_of(inputs)


def why_not(answer: TrainAnswer, **layout: Any) -> str:
    """Why a layout that a user names is not the plan: it cannot be, does not fit, or what of it takes longer, in words.

    Args:
        answer: the plan.
        layout: words of ``train`` beside those of the question, such as ``tp=4, pp=2``.
    """
    assert answer.winner is not None
    return why_not_layout(answer.winner, layout).reason
