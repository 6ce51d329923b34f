"""Answers of the planner made by hand, for tests of what is written from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.provenance import Ledger
from steelyard.scenario.slo import parse_target
from steelyard.search.answer import Answer, Candidate, Change, Infeasible, Question

__all__ = ["answer", "candidate", "infeasible", "question"]

TARGETS = (parse_target("p99:1s", "ttft_s"), parse_target("p95:50ms", "tpot_s"))


def question(**changes: Any) -> Question:
    """Ten requests a second for a 70B model."""
    made = Question(
        "llama-3.1-70b",
        ("h100_sxm", "h200_sxm", "mi300x", "l40s"),
        TARGETS,
        10.0,
        4000,
        500,
        traffic={"rate": "10/s", "isl": 4000, "osl": 500, "requests": 400, "seed": 0},
        requests=400,
        inputs={"model": "llama-3.1-70b", "on": "any", "rate": "10/s"},
    )
    return replace(made, **changes)


def candidate(
    machine: str = "h100_sxm",
    replicas: int = 3,
    tp: int = 4,
    *,
    engine: str = "vllm",
    user: float = 45.0,
    device: float = 520.0,
    usd: float | None = 24.0,
    ttft: float = 0.62,
    pools: tuple[Pool, ...] = (),
    mode: str = "aggregated",
    simulated: bool = True,
) -> Candidate:
    """One candidate with figures that go together well enough."""
    flags = {"max_num_seqs": 128, "max_num_batched_tokens": 4096}
    pools = pools or (Pool(machine, Plan(weights="fp8", kv="fp8", tp=tp, engine=engine), replicas, "both", flags),)
    deployment = Deployment("llama-3.1-70b", pools)
    tpot = 1 / user
    spread: Mapping[str, Mapping[str, float]] = {
        "ttft_s": {"mean": ttft / 2, "p50": ttft / 2.2, "p90": ttft / 1.3, "p95": ttft / 1.2, "p99": ttft},
        "tpot_s": {"mean": tpot, "p50": tpot, "p90": tpot * 1.2, "p95": tpot * 1.3, "p99": tpot * 1.5},
        "e2e_s": {"mean": 500 * tpot, "p50": 499 * tpot, "p90": 560 * tpot, "p95": 600 * tpot, "p99": 700 * tpot},
    }
    return Candidate(
        deployment=deployment,
        machine="+".join(dict.fromkeys(p.machine for p in pools)),
        devices=deployment.devices,
        engine=engine,
        mode=mode,
        shape=f"{replicas} x tp{tp}" if len(pools) == 1 else "2P tp2 + 1D tp4",
        limits=flags,
        formats={"weights": "fp8", "activations": "fp8", "kv": "fp8", "communication": "bf16"},
        rent_usd_per_hour=usd,
        usd_per_million_tokens=None if usd is None else usd / 3600 / 5000 * 1e6,
        watts=6100.0,
        ttft_s=ttft,
        tpot_s=tpot * 1.3,
        e2e_s=700 * tpot,
        percentiles=spread if simulated else {},
        tokens_per_s=5000.0,
        tokens_per_s_per_device=device,
        tokens_per_s_per_user=user,
        max_rate_per_s=12.6,
        chance={"ttft": 0.93, "tpot": 0.85, "rate": 0.9, "all": 0.81},
        interval={"ttft_s": (0.8 * ttft, 1.3 * ttft), "tpot_s": (tpot, 1.6 * tpot), "max_rate_per_s": (11.0, 14.0)},
        simulated=simulated,
        meets=True,
        headroom_frac=0.26,
        carbon_g_per_hour=2300.0,
        breaks_first="tpot",
        batch_mean=38.0,
        kv_frac=0.4,
    )


def answer(**changes: Any) -> Answer:
    """A plan with fronts and runners-up."""
    apart = (
        Pool("h200_sxm", Plan(weights="fp8", tp=2, engine="vllm"), 2, "prefill"),
        Pool("h200_sxm", Plan(weights="fp8", tp=4, engine="vllm"), 1, "decode"),
    )
    winner = candidate()
    other = candidate("mi300x", 3, 2, user=38.0, device=610.0, usd=26.5, ttft=0.71)
    front = (
        candidate("h200_sxm", 1, 8, user=120.0, device=90.0, usd=33.0, ttft=0.2),
        candidate("h200_sxm", pools=apart, mode="disaggregated", user=70.0, device=400.0, usd=31.0, ttft=0.4),
        winner,
        candidate("l40s", 12, 4, user=14.0, device=780.0, usd=48.0, ttft=2.4),
    )
    ledger = Ledger()
    ledger.assume("requests arrive at random (Poisson)")
    ledger.cite("price h100_sxm", "median of on-demand prices, 2026")
    ledger.guess("idle_w", "nvidia-smi at idle")
    made = Answer(
        question=question(),
        candidates=214_312,
        screened_per_s=640_000.0,
        simulated=14,
        cpu_s=1.7,
        winner=winner,
        front=front,
        cost_front=(winner, front[1], front[0]),
        runners_up=(other, candidate("h100_sxm", 2, 8, engine="sglang", user=80.0, device=300.0, usd=32.0)),
        infeasible=None,
        ledger=ledger,
        why=("It rents for 9 % less than the next best.", "fp8 weights halve what a decode step reads."),
        breaks_first="TPOT at 12.6 requests/s: the decode batch outgrows the memory bandwidth",
        stages_s={"screen": 0.3},
    )
    return replace(made, **changes)


def infeasible(**changes: Any) -> Answer:
    """A question that nothing answers."""
    change = Change("looser TPOT: p95 under 62 ms (--tpot p95:62ms)", {"tpot": "p95:62ms"}, candidate())
    why_not = Infeasible(
        "TPOT p95 of 50 ms is out of reach of l40s", (change,), replace(candidate("l40s", user=16.0), chance={})
    )
    return answer(
        winner=None, front=(), cost_front=(), runners_up=(), why=(), breaks_first="", infeasible=why_not, **changes
    )
