"""A step of reinforcement learning: answers are drawn, scored and learnt from, and the weights go back.

    in turns   step = rollout + switch + scoring + training + weights
    apart      step = max(rollout + weights, scoring + training)      weights of the answers one step old

Rollouts are the step's answers sent through the serving simulator at once, on devices that also train (then what they
hold for training stays where weights and a cache fit beside it, else it waits in the host's memory: ``switch``) or on
devices of their own. Scoring is a forward pass of the model (its probabilities of what it said), of a frozen reference,
of a critic, of a reward model. Training passes over prompts and answers packed into sequences. Weights are gathered
whole and, where others answer, broadcast through one port to each replica's devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.cost.energy import idle_power_w
from steelyard.cost.money import hourly_price
from steelyard.deployment.train_plan import BESIDE, SPLITTING
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.cluster import Cluster
from steelyard.provenance import Ledger
from steelyard.scenario.fields import PRICE
from steelyard.scenario.rewarded import RewardedStep
from steelyard.scenario.training import TrainScenario
from steelyard.simulation.api import read_simulation, run_scenario
from steelyard.simulation.limits import ends_of
from steelyard.simulation.result import Simulation
from steelyard.traffic.branches import best_of
from steelyard.traffic.trace import Trace
from steelyard.training.estimate import TrainEstimate, answer_train, priced_parts, run_of_scenario
from steelyard.training.offload import link_rate
from steelyard.training.sites import sites_of
from steelyard.training.step import step_of
from steelyard.training.traffic import Links
from steelyard.workload.model import Model

__all__ = ["PARTS", "RewardedCost", "Rollouts", "answer_rewarded"]

#: Parts of a step, in words.
PARTS: Mapping[str, str] = {
    "rollout": "answers drawn",
    "switch": "training's memory to the host and back",
    "policy": "probabilities by the model",
    "reference": "probabilities by the reference",
    "critic": "values by the critic",
    "reward": "rewards",
    "train": "training",
    "weights": "weights to those that answer",
}
#: Of a device's memory what an engine may use at most; and of it for the cache at least, where training's states stay.
_USED, _LEAST_CACHE = 0.92, 0.2


@dataclass(frozen=True, eq=False, slots=True)
class Rollouts:
    """What the devices that answer do in a step."""

    cluster: Cluster
    degrees: Mapping[str, int]
    """Of a replica, and replicas."""
    replicas: int
    engine: str
    time_s: float
    ends_s: tuple[float, float]
    half_s: float
    """By when half of the answers are there."""
    input_tokens: float
    output_tokens: float
    idle_frac: float
    """Of the time of answering, in which a replica has nothing to do because others still answer."""
    batch_mean: float
    kv_max_frac: float
    preemptions: int
    energy_j: float
    memory_frac: float
    """Of the device's memory that the engine may use."""
    away_bytes: float
    """Of a device's memory of training that waits in the host's meanwhile."""


@dataclass(frozen=True, eq=False, slots=True)
class RewardedCost:
    """A step that learns from scored answers. Times in s, energy in J, money in USD."""

    step_s: float
    ends_s: tuple[float, float]
    parts_s: Mapping[str, float]
    updates: int
    answers: int
    tokens: float
    """Of prompts and answers, that training passes over once."""
    output_tokens: float
    devices: int
    idle_frac: Mapping[str, float]
    """Of the devices that train and of those that answer, over the step."""
    energy_j: float
    usd: float | None
    rollouts: Rollouts | None

    @property
    def tokens_per_s(self) -> float:
        """Prompts and answers over the step, of all devices."""
        return self.tokens / self.step_s


def answer_rewarded(scenario: TrainScenario, known: dict[Any, Rollouts] | None = None) -> TrainEstimate:
    """Weigh a step that learns from scored answers, and the run where its length is given.

    The update is weighed as any training step; :attr:`TrainEstimate.rewarded` is the whole.

    Args:
        scenario: the question.
        known: answers that were played, of the same step on as many devices; what is played is added.

    Raises:
        InputError, DoesNotFit: as for a training step and a simulation.
    """
    step = scenario.rewarded
    assert step is not None
    found = answer_train(replace(scenario, rewarded=None, tokens=None))
    plan, cluster = found.scenario.plan, found.scenario.cluster
    low, high = (x / found.step_s for x in found.interval["step_s"])
    parts = _scoring(found, step)
    models = 1 + step.critics
    parts["train"] = step.updates * models * found.step_s
    rollouts, apart = None, step.rollout_on
    if step.draws:
        rollouts = _rollouts(found, step, {} if known is None else known)
        parts |= {"rollout": rollouts.time_s, "weights": _weights_s(found, rollouts, apart)}
        parts["switch"] = 2.0 * rollouts.away_bytes / link_rate(cluster)
    times = {name: parts.get(name, 0.0) for name in PARTS}
    answering = times["rollout"] + times["weights"]
    learning = sum(times.values()) - answering
    whole = max(answering, learning) if step.stale else answering + learning
    ends = _ends(times, (low, high), rollouts, step.stale)
    idle = _idle(times, whole, rollouts, apart is not None)
    energy, usd = _spent(found, step, times, whole, rollouts, apart)
    done = RewardedCost(
        step_s=whole,
        ends_s=ends,
        parts_s=times,
        updates=step.updates,
        answers=step.answers.osl.size,
        tokens=step.answers.tokens,
        output_tokens=float(step.answers.osl.sum(dtype=np.float64)),
        devices=scenario.devices,
        idle_frac=idle,
        energy_j=energy,
        usd=usd if found.fits else None,
        rollouts=rollouts,
    )
    _account(found, step, rollouts)
    run = None
    if scenario.tokens is not None and found.fits:
        hourly = None if usd is None else usd / scenario.devices / whole * 3600.0
        counted = replace(scenario, plan=plan, cluster=replace(cluster, count=scenario.devices))
        run = run_of_scenario(counted, (whole, *ends), done.tokens, energy / whole, hourly)
        found.ledger.cite("failures", scenario.failures.source)
    return replace(found, scenario=replace(scenario, plan=plan, open=found.scenario.open), rewarded=done, run=run)


def _scoring(found: TrainEstimate, step: RewardedStep) -> dict[str, float]:
    """Forward passes over all answers: of the model, what is as large as it, and a reward model."""
    assert found.cost is not None
    plan = found.scenario.plan
    updates = step.updates / step.passes  # whose micro-batches hold all answers once
    forward = float(np.ravel(found.cost.forward_s)[0])
    once = updates * (plan.micro_batches + plan.pp - 1) * forward
    parts = {"policy": once if step.draws else 0.0, "reference": once if step.reference else 0.0}
    parts["critic"] = once * step.critics
    if isinstance(step.reward, float):
        return parts | {"reward": step.reward}
    cluster = found.scenario.cluster
    ones: Any = dict.fromkeys((*SPLITTING, *BESIDE, "etp", "mbs"), 1)
    alone = replace(plan, **ones, dp=cluster.count, shard=cluster.count, zero=3, gbs=cluster.count)
    alone = replace(alone, schedule="1f1b", recompute=(), recompute_layers=0)
    sites, links = sites_of(cluster, plan.precision), Links.of(cluster)
    priced = priced_parts(step.reward, alone, cluster, sites, links)
    one = float(np.ravel(step_of(priced, alone, links, sites.products, sites.vector).forward_s)[0])
    return parts | {"reward": one * np.ceil(updates * plan.gbs / cluster.count)}


def _static_bytes(found: TrainEstimate) -> float:
    """That the fullest device holds for training between two steps."""
    held = (sum(s.parts[n] for n in ("weights", "gradients", "optimizer")) for s in found.stages)
    return max(held) + found.scenario.plan.outside_bytes


def _rollouts(found: TrainEstimate, step: RewardedStep, known: dict[Any, Rollouts]) -> Rollouts:
    """The answers drawn, by the tensor-parallel degree that takes least.

    Raises:
        DoesNotFit: weights and a block of cache fit with none.
        InputError: the engine, or the degree that was given, cannot be.
    """
    cluster = step.rollout_on or found.scenario.cluster
    domain = min(cluster.per_node, cluster.count)
    degrees = (
        [step.rollout_tp]
        if step.rollout_tp
        else [d for d in (1, 2, 4, 8, 16) if d <= domain and cluster.count % d == 0]
    )
    best: tuple[float, Rollouts] | None = None
    wrong: InputError | DoesNotFit | None = None
    for degree in degrees:
        try:
            one = _answered(found, step, cluster, degree, known)
        except (InputError, DoesNotFit) as error:
            wrong = error
            continue
        taken = one.time_s + 2.0 * one.away_bytes / link_rate(cluster)
        if best is None or taken < best[0]:
            best = (taken, one)
    if best is None:
        assert wrong is not None
        raise wrong
    return best[1]


def _answered(
    found: TrainEstimate, step: RewardedStep, cluster: Cluster, degree: int, known: dict[Any, Rollouts]
) -> Rollouts:
    """The answers drawn with one degree."""
    model, answers = found.scenario.model, step.answers
    capacity = cluster.machine.root.capacity_bytes
    used, away = _USED, 0.0
    if step.rollout_on is None:
        static = _static_bytes(found)
        room = _USED - static / capacity
        weights = found.scenario.parameters * 2.0 / degree / capacity
        used, away = (room, 0.0) if room >= weights + _LEAST_CACHE else (_USED, static)
    key = (cluster.machine.name, cluster.count, degree, round(used, 4))
    if key in known:
        return replace(known[key], away_bytes=away)
    n, group = answers.osl.shape
    trace = Trace(np.zeros(n), answers.isl, answers.osl[:, 0], name="answers of a step")
    words: dict[str, Any] = {
        "model": model,
        "on": cluster,
        **dict(zip((*SPLITTING, "dp"), (degree, 1, cluster.count // degree), strict=True)),
        "weights": "bf16",
        "engine": step.engine,
        "router": "prefix" if group > 1 else "round-robin",
        "trace": best_of(trace, group, lengths=answers.osl).trace,
        "flags": {
            "gpu_memory_utilization": used,
            "max_model_len": int(answers.lengths.max()) + 1,
            **({"api_server_count": 0} if step.engine.partition("@")[0] in ("vllm", "trtllm") else {}),
        },
        "seed": found.scenario.words["seed"],
    }
    try:
        run = run_scenario(read_simulation(words))
    except InputError as error:
        fields = {"engine": "rollout_engine", "on": "rollout_on"} | dict.fromkeys((*SPLITTING, "dp"), "rollout_tp")
        problem = error.problems[0]
        raise InputError(problem.message, field=fields.get(problem.field, problem.field)) from None
    ends = ends_of(run, True)
    known[key] = _told(run, ends, cluster, step.engine, used, away)
    return known[key]


def _told(
    run: Simulation,
    ends: tuple[Simulation, Simulation] | None,
    cluster: Cluster,
    engine: str,
    used: float,
    away: float,
) -> Rollouts:
    records, done = run.records, run.records.finished_at
    last = np.full(run.replicas, 0.0)
    np.maximum.at(last, records.replica[records.replica >= 0], done[records.replica >= 0])
    spans = [run.makespan_s] if ends is None else [run.makespan_s, *(e.makespan_s for e in ends)]
    return Rollouts(
        cluster=cluster,
        degrees=run.pools[0].scenario.plan.degrees,
        replicas=run.replicas,
        engine=engine,
        time_s=run.makespan_s,
        ends_s=(min(spans), max(spans)),
        half_s=float(np.nanmedian(done)),
        input_tokens=float(records.isl.sum(dtype=np.float64)),
        output_tokens=float(records.osl.sum(dtype=np.float64)),
        idle_frac=float(1.0 - last.mean() / run.makespan_s),
        batch_mean=float(run.totals["batch_mean"]),
        kv_max_frac=float(run.totals["kv_max_frac"]),
        preemptions=int(run.totals["preemptions"]),
        energy_j=run.energy_j + float(sum(p.totals["host_energy_j"] for p in run.pools)),
        memory_frac=used,
        away_bytes=away,
    )


def _weights_s(found: TrainEstimate, rollouts: Rollouts, apart: Cluster | None) -> float:
    """Weights in 16 bits gathered whole on every device that trains, and broadcast through one port to others."""
    plan, cluster = found.scenario.plan, found.scenario.cluster
    whole = found.scenario.parameters * 2.0
    links = Links.of(cluster)
    cut = plan.tp * plan.pp * (plan.dp * plan.cp if plan.zero >= 3 else max(1, plan.ep // (plan.tp or 1)))
    same = cut == rollouts.degrees[SPLITTING[0]] == plan.tp and apart is None
    gathered = 0.0 if same else float(np.ravel(links.collective_s("all_gather", whole, min(cut, cluster.count)))[0])
    if apart is None:
        return gathered
    far = links.outside or Links.of(apart).outside
    rate = far.bandwidth_bytes_per_s if far is not None else links.inside.bandwidth_bytes_per_s
    return gathered + whole / rate


def _ends(
    times: Mapping[str, float], train: tuple[float, float], rollouts: Rollouts | None, stale: int
) -> tuple[float, float]:
    """80 % interval of a step: what is uncertain of answering and of learning is not of the same causes."""
    answering = times["rollout"] + times["weights"]
    learning = sum(times.values()) - answering
    found = []
    for i in (0, 1):
        a = answering if rollouts is None else rollouts.ends_s[i] + times["weights"]
        b = learning * train[i]
        if stale:
            found.append(max(a, b))
        else:
            away = float(np.hypot(a - answering, b - learning))
            found.append(answering + learning + (away if i else -away))
    return found[0], found[1]


def _idle(times: Mapping[str, float], whole: float, rollouts: Rollouts | None, apart: bool) -> dict[str, float]:
    """Shares of a step in which devices have nothing to do."""
    if rollouts is None:
        return {"train": 0.0, "rollout": 0.0}
    waiting = rollouts.time_s * rollouts.idle_frac
    if not apart:
        return {"train": waiting / whole, "rollout": waiting / whole}
    learning = sum(times.values()) - times["rollout"] - times["weights"]
    return {
        "train": max(0.0, 1.0 - (learning + times["weights"]) / whole),
        "rollout": max(0.0, 1.0 - (rollouts.time_s - waiting + times["weights"]) / whole),
    }


def _spent(
    found: TrainEstimate,
    step: RewardedStep,
    times: Mapping[str, float],
    whole: float,
    rollouts: Rollouts | None,
    apart: Cluster | None,
) -> tuple[float, float | None]:
    """Energy and rent of a step."""
    cluster = found.scenario.cluster
    learning = times["policy"] + times["reference"] + times["critic"] + times["train"]
    if isinstance(step.reward, Model):  # a program's time is no work of the devices
        learning += times["reward"]
    energy = found.energy_j / found.step_s * learning
    answered = 0.0 if rollouts is None else rollouts.energy_j
    own = whole - learning - (times["rollout"] if apart is None else 0.0)
    energy += answered + _idle_w(cluster) * max(own, 0.0)
    if apart is not None:
        energy += _idle_w(apart) * max(whole - times["rollout"], 0.0)
    ledger, given = Ledger(), found.scenario.words.get(PRICE)
    usd = 0.0
    for place in (cluster, apart):
        if place is None:
            continue
        hourly = hourly_price(place.machine, given, ledger, place.system).usd_per_hour
        if hourly is None:
            return energy, None
        usd += hourly * place.count * whole / 3600.0
    return energy, usd


def _idle_w(cluster: Cluster) -> float:
    return idle_power_w(cluster.machine) * cluster.count + cluster.hosts_w


def _account(found: TrainEstimate, step: RewardedStep, rollouts: Rollouts | None) -> None:
    """What was assumed of answers and of who draws them."""
    ledger, words = found.ledger, step.answers.words
    said = found.scenario.words
    for name, what in (("prompts", "prompts a step"), ("isl", "tokens of a prompt"), ("osl", "tokens of an answer")):
        if said.get(name) in (None, ""):
            ledger.assume(f"{what}: {words[name]} (--{name})")
    if not step.draws:
        return
    assert rollouts is not None
    if not step.rollout_tp:
        degree = rollouts.degrees[SPLITTING[0]]
        ledger.assume(f"answers by {rollouts.replicas} replicas of tensor-parallel degree {degree} (--rollout-tp)")
    if step.reward == 0.0:
        ledger.assume("rewards by rules, in no time (--reward)")
    if step.rollout_on is None:
        kept = "waits in the host's memory" if rollouts.away_bytes else "stays on the devices"
        ledger.assume(
            f"what training holds {kept} while answers are drawn; the engine takes {rollouts.memory_frac:.0%}"
        )
    ledger.assume("every step draws all its answers before it learns from any; no step waits for tools")
