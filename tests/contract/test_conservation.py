"""Nothing is lost and nothing appears: 400 random deployments, each as the public path prepares it.

Engines, policies (a user's too), prefix caches, pools, routers, techniques, failures, autoscaling, adapters, guesses,
lower cache levels, early exit, migration: every request ends exactly once, tokens and blocks add up, time runs forward,
nobody works longer than it is rented, and energy and money are the sum of their parts.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import steelyard.simulation.run as runs
from steelyard.deployment.dynamics import Outage
from steelyard.scenario.scenario import Scenario
from steelyard.simulation.api import options_of, prepare_scenario
from steelyard.simulation.arrays import Played
from steelyard.simulation.policies import ordered
from steelyard.simulation.prepared import Prepared, too_long
from steelyard.simulation.result import Simulation
from steelyard.simulation.techniques import traffic_of
from steelyard.techniques._base import Technique
from steelyard.techniques._registry import check_together
from steelyard.techniques.autoscale import Autoscaling
from steelyard.techniques.failures import Failures
from steelyard.techniques.llumnix import Llumnix
from steelyard.traffic.trace import Trace
from tests.serving import random_trace

DEPLOYMENTS = 400
#: What is asked through the public path; every one is then played with other traffic, caches, fleets and policies.
QUESTIONS: list[dict[str, Any]] = [
    {},
    {"engine": "sglang"},
    {"engine": "trtllm"},
    {"engine": "orca"},
    {"engine": "tgi"},
    {"engine": "sarathi"},
    {"on": "l40s:2", "pp": 2},
    {"disaggregate": "1P:tp1,1D:tp1", "on": "l40s:2"},
    {"disaggregate": "1P:tp1,2D:tp1,1M:tp1", "on": "l40s:4"},
    {"disaggregate": "1E:tp1,1M:tp1", "on": "l40s:2", "encode_s": 0.02},
    {"speculate": "ngram:k=3"},
    {"speculate": "ngram:k=3,adaptive"},
    {"speculate": "tree:width=2,depth=3,by=medusa"},
    {"lora": "20,max_loras=3"},
    {"lora": "20,max_loras=3,base=0.5", "kv_tiers": "cpu:1GB,swap"},
    {"kv_tiers": "cpu:40MB,ssd:1GB"},
    {"kv_tiers": "cpu:1GB,swap"},
    {"early_exit": "ramps=3,p=0.3"},
    {"early_exit": "rebatch:ramps=2,p=0.5", "lora": "5"},
    {"finetune": "30ms"},
    {"overlap": "nanoflow"},
    {"techniques": "past-future"},
    {"disaggregate": "1P:tp1,1D:tp1", "on": "l40s:2", "speculate": "ngram:k=2", "kv_tiers": "cpu:1GB"},
    {"model": "Qwen/Qwen3-30B-A3B", "on": "h200_sxm:2", "tp": 1, "dp": 2, "ep": 2},
]
POLICIES = ("fcfs", "fcfs", "shortest", "priority", "mlfq")


class LongestFirst:
    """A policy of a user's."""

    name = "longest"

    def keys(self, trace: Trace) -> Any:
        return -np.asarray(trace.osl)


@dataclass
class Seen:
    """What the kernel left behind, beside the answer."""

    played: list[Played] = field(default_factory=list)
    methods: list[Any] = field(default_factory=list)


def asked(words: dict[str, Any]) -> Prepared:
    trace = Trace(np.zeros(1), [300], [300])
    given = {"model": "llama-3.2-1b", "on": "l40s", **words}
    scenario = Scenario.of("simulate", given.pop("model"), given.pop("on"), trace=trace, **given)
    return prepare_scenario(scenario, options_of(scenario))


def traffic(rng: np.random.Generator) -> Trace:
    """Up to 40 requests: open, in closed loops, after one another, with shared prefixes, with priorities."""
    n = int(rng.integers(1, 40))
    trace = random_trace(rng, n, longest=int(rng.choice([4, 60, 300])), closed=bool(rng.integers(0, 4) == 0))
    if rng.integers(0, 2):
        counts = np.minimum(trace.isl // 16, 6)
        trace = replace(
            trace,
            prefix_hashes=np.concatenate([rng.integers(0, 3, c) for c in counts] or [np.zeros(0)]).astype(int),
            prefix_offsets=np.concatenate([[0], np.cumsum(counts)]),
            prefix_block_tokens=16,
        )
    if rng.integers(0, 4) == 0 and not trace.concurrency and n > 1:  # each waits for one before it
        parents = np.array([int(rng.integers(0, i)) for i in range(1, n)])
        trace = replace(
            trace, after=parents, after_offsets=np.concatenate([[0, 0], np.arange(1, n)]), delay_s=np.full(n, 0.01)
        )
    return replace(trace, priority=rng.integers(0, 3, n)) if rng.integers(0, 3) == 0 else trace


def changes(rng: np.random.Generator, replicas: list[int], span: float) -> list[Technique]:
    """Failures by chance and at given times (everything comes up again), autoscaling, migration."""
    found: list[Technique] = []
    if rng.integers(0, 3) == 0:
        down = [
            Outage(float(rng.uniform(0, span)), int(rng.integers(0, sum(replicas))), bool(rng.integers(0, 2)))
            for _ in range(int(rng.integers(1, 5)))
        ]
        up = [Outage(2 * span + 1, r, True) for r in range(sum(replicas))]
        mtbf = float(rng.choice([0.0, 2 + span / 3]))
        found.append(Failures(mtbf, float(rng.choice([0.0, 0.1, span / 10])), tuple(down + up)))
    if rng.integers(0, 4) == 0:
        least = int(rng.integers(0, 2))
        target, every, start = float(rng.integers(1, 20)), float(rng.choice([0.05, 0.5])), float(rng.choice([0.0, 0.3]))
        found.append(Autoscaling(least, max(1, max(replicas)), target, every, start))
    if max(replicas) > 1 and rng.integers(0, 3) == 0:
        found.append(Llumnix())
    return found


def varied(question: Prepared, rng: np.random.Generator, user: bool) -> Prepared:
    """The same question with other traffic, caches, limits, copies, router, policy and changes of the fleet."""
    trace = traffic(rng)
    served = []
    copies = int(rng.integers(1, 4))
    for s in question.served:
        caches = (
            bool(rng.integers(0, 2)) if s.config.scheduler not in ("orca", "tgi") else s.config.enable_prefix_caching
        )
        limits = {
            "max_num_seqs": int(rng.integers(2, 50)),
            "max_num_batched_tokens": int(rng.integers(320, 900)),
            "enable_prefix_caching": caches,
        }
        kv = replace(s.kv, blocks=int(rng.integers(1, 1500)) // s.kv.block_tokens + 1)
        if s.pool.role == "encode":
            kv = s.kv
        served.append(
            replace(
                s,
                config=replace(s.config, **limits),
                kv=kv,
                pool=replace(s.pool, replicas=s.pool.replicas * copies),
                weight=float(rng.choice([1.0, 2.5])),
            )
        )
    span = float(np.max(trace.arrived_at)) + 0.1 * len(trace)
    techniques = (*question.options.techniques, *changes(rng, [s.pool.replicas for s in served], span))
    if check_together(techniques):
        techniques = question.options.techniques
    trace = traffic_of(techniques, trace, 0)
    policy: Any = LongestFirst() if user else str(rng.choice(POLICIES))
    if question.policy.rules or (policy == "priority" and trace.priority is None):
        policy = "fcfs"
    router = str(rng.choice(["round-robin", "random", "least-loaded"]))
    order = ordered(policy, trace)
    return replace(
        question,
        deployment=replace(question.deployment, router=router),
        served=tuple(served),
        trace=trace,
        policy=replace(order, rules=question.policy.rules) if question.policy.rules else order,
        rejected=too_long(trace, served),
        options=replace(question.options, techniques=techniques, seed=int(rng.integers(0, 100)), log=256),
    )


@pytest.fixture(scope="module")
def questions() -> list[Prepared]:
    return [asked(words) for words in QUESTIONS]


def check(q: Prepared, found: Simulation, played: Played, methods: Any) -> None:
    """Everything that is conserved in one run."""
    trace, r, total, requests = q.trace, found.records, played.totals, played.requests
    done = requests["status"] == 0
    assert found.stopped == ""
    assert (requests["status"] == np.where(q.rejected, 1, 0)).all()
    assert total["completed"] == done.sum() == r.completed.sum()
    # time
    assert (requests["arrived_at"] <= requests["scheduled_at"])[done].all()
    assert (requests["scheduled_at"] < requests["first_at"])[done].all()
    assert (requests["first_at"] <= requests["last_at"])[done].all()
    assert (r.ttft_s[done] > 0).all() and (r.e2e_s[done] >= r.ttft_s[done]).all()
    inside = (requests["last_at"] - requests["arrived_at"])[done].sum()
    assert total["in_system_s"] == pytest.approx(inside + _at_the_door(q, requests, done), rel=1e-9, abs=1e-9)
    # tokens
    out = trace.osl[done]
    assert played.itl.sum() == (out - 1).sum()
    assert 0 <= total["accepted_tokens"] <= total["guessed_tokens"]
    computed = total["prefill_tokens"] + total["decode_tokens"]
    wanted = (trace.isl[done] + out - 1).sum() + total["dropped_tokens"] - total["cached_tokens"]
    assert computed == wanted
    # blocks, seats, levels
    ranks = np.repeat([s.kv.blocks for s in q.served], [s.ranks for s in q.served])
    unit = math.lcm(trace.prefix_block_tokens, *(s.kv.block_tokens for s in q.served))
    units = np.repeat([unit // s.kv.block_tokens for s in q.served], [s.ranks for s in q.served])
    assert (played.pools["free"] + played.pools["evictable"] * units == ranks).all()
    assert (played.units["refs"] <= 0).all()
    assert not played.pools["load"].any() and not played.pools["queued"].any()
    assert not played.workers["count"].any() and not played.workers["loading"].any()
    assert not requests["kept"].any() and (requests["origin"][done] == -1).all()
    if methods is not None:
        assert not methods.seats["users"].any()
        assert not methods.swapped.any()
        assert (methods.tiers["used"] >= 0).all() and (methods.tiers["used"] <= methods.tiers["capacity"]).all()
    # work, energy, money
    for s, pool, counted in zip(q.served, found.pools, played.per_pool, strict=True):
        assert counted["kv_max"] <= s.kv.blocks and counted["batch_max"] <= s.config.max_num_seqs
        assert counted["busy_s"] <= pool.totals["rented_s"] * (1 + 1e-9) + 1e-9, s.pool.role
        assert pool.totals["rented_s"] <= s.ranks * total["makespan_s"] * (1 + 1e-9) + 1e-9
        idle = s.scenario.cluster.machine.idle_w * (
            pool.totals["device_s"] - s.scenario.plan.replica_devices * counted["busy_s"]
        )
        assert pool.totals["energy_j"] >= max(0.0, idle) * (1 - 1e-9)
        assert math.isfinite(pool.totals["energy_j"]) and math.isfinite(pool.totals["host_energy_j"])
        if pool.usd is not None:
            hours = pool.totals["device_s"] / 3600
            assert pool.usd == pytest.approx(hours * pool.price.usd_per_hour)  # type: ignore[operator]
    for name in ("energy_j", "host_energy_j"):
        assert found.totals[name] == pytest.approx(sum(p.totals[name] for p in found.pools))


def _at_the_door(q: Prepared, requests: Any, done: Any) -> float:
    """Requests are counted from their arrival at the engine, a fixed time after they were sent."""
    return -q.first.scenario.engine.request_s * float(done.sum())


def test_nothing_is_lost_in_hundreds_of_deployments(questions: list[Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    play = runs.play

    def watched(*arguments: Any, methods: Any = None, **more: Any) -> Played:
        def kept(*given: Any) -> Any:
            seen.methods.append(methods(*given))
            return seen.methods[-1]

        seen.played.append(play(*arguments, methods=None if methods is None else kept, **more))
        return seen.played[-1]

    monkeypatch.setattr(runs, "play", watched)
    counts: Counter[str] = Counter()
    names = ("preemptions", "cached_tokens", "failures", "interrupted", "migrations", "transfers", "accepted_tokens")
    names += ("adapter_loads", "loaded_tokens", "swapped_tokens", "trained_tokens")
    for seed in range(DEPLOYMENTS):
        rng = np.random.default_rng([11, seed])
        q = varied(questions[seed % len(questions)], rng, user=seed % 5 == 0)
        seen.methods.clear()
        found = runs.run(q, 0.0)
        played = seen.played.pop()
        words = f"seed {seed}: {QUESTIONS[seed % len(questions)]}, {[str(t) for t in q.options.techniques]}"
        try:
            check(q, found, played, seen.methods[-1] if seen.methods else None)
        except AssertionError as error:
            raise AssertionError(f"{words}\n{error}") from error
        for name in names:
            counts[name] += int(played.totals[name] > 0)
        counts["rejected"] += int(q.rejected.any())
        if seed % 40 == 0:
            json.dumps(found.summary(), allow_nan=False)
    assert all(counts[name] >= 4 for name in (*names, "rejected")), counts


def test_served_times_keep_the_limits_of_an_idle_engine(questions: list[Prepared]) -> None:
    """Alone at an engine, no request is served faster than physics allows a prompt of its length and its tokens."""
    import steelyard as sy

    for k, words in enumerate(QUESTIONS[:6]):
        q = questions[k]
        trace = Trace(np.arange(5) * 100.0, [16, 64, 128, 200, 280], [1, 2, 20, 10, 19])
        found = runs.run(
            replace(q, trace=trace, rejected=too_long(trace, q.served), policy=ordered("fcfs", trace)), 0.0
        )
        for i in range(len(trace)):
            one = sy.estimate("llama-3.2-1b", "l40s", isl=int(trace.isl[i]), osl=int(trace.osl[i]))
            assert found.records.ttft_s[i] >= one.limit["ttft_s"] * (1 - 1e-6), words
            if trace.osl[i] > 1:
                assert found.records.tpot_s[i] >= one.limit["tpot_s"] * (1 - 0.02), words
