"""``simulate`` on real models and machines: what engineers expect to see, and the summary."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import steelyard as sy
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, UnknownName
from steelyard.simulation.result import Simulation
from steelyard.traffic.trace import Trace
from tests.serving import simulate


def poisson(rate: float, n: int = 400, isl: int = 1000, osl: int = 150, **more: Any) -> Trace:
    rng = np.random.default_rng(0)
    lengths = [np.maximum(1, rng.uniform(0.5, 1.5, n) * mean).astype(int) for mean in (isl, osl)]
    return Trace(np.cumsum(rng.exponential(1 / rate, n)), *lengths, **more)


def llama(trace: Trace, **more: Any) -> Simulation:
    return simulate("llama-3.1-8b", "h100_sxm", trace, engine=more.pop("engine", "vllm"), **more)


def test_latency_rises_with_load_and_throughput_saturates() -> None:
    found = [llama(poisson(rate, 600)).summary() for rate in (1, 10, 30, 100, 300)]
    ttft = [s["ttft_s"]["p90"] for s in found]
    tpot = [s["tpot_s"]["mean"] for s in found]
    served = [s["throughput"]["requests_per_s"] for s in found]
    assert ttft[0] < ttft[2] < ttft[4]
    assert tpot[0] < tpot[1] < tpot[3]
    assert served[0] == pytest.approx(1, rel=0.15)
    assert served[4] < 1.3 * served[3]  # beyond the knee


def test_one_request_alone_is_the_estimate() -> None:
    trace = Trace(np.zeros(1), [2000], [100])
    alone = llama(trace).records
    said = sy.estimate("llama-3.1-8b", "h100_sxm", batch=1, isl=2000, osl=100, engine="vllm")
    assert alone.ttft_s[0] == pytest.approx(said.ttft_single_s, rel=0.02)
    assert alone.tpot_s[0] == pytest.approx(said.tpot_s, rel=0.02)


def test_few_blocks_preempt_and_slow_down() -> None:
    trace = poisson(100, 300, isl=200, osl=800)
    roomy, tight = llama(trace), llama(trace, flags={"num_gpu_blocks_override": 1500})
    assert roomy.totals["preemptions"] == 0 < tight.totals["preemptions"]
    assert tight.makespan_s > roomy.makespan_s
    assert tight.totals["kv_max_frac"] > 0.95


def test_whole_prompts_stall_decodes_and_chunks_do_not() -> None:
    """Sarathi-Serve (arXiv:2403.02310): chunks beside decodes cut the tail of the time between tokens."""
    trace = poisson(3, 300, isl=6000, osl=200)
    chunks = llama(trace, flags={"scheduler": "sarathi", "max_num_batched_tokens": 512}).summary()
    whole = llama(trace, flags={"scheduler": "vllm-v0", "max_num_batched_tokens": 8192}).summary()
    assert chunks["itl_s"]["p99"] < 0.5 * whole["itl_s"]["p99"]


def test_in_flight_batching_beats_static_batches() -> None:
    """Orca (OSDI 2022): answers of different lengths waste static batches."""
    rng = np.random.default_rng(0)
    trace = Trace(np.zeros(200), rng.integers(50, 200, 200), rng.integers(1, 500, 200))
    flight = llama(trace, flags={"scheduler": "orca", "max_num_seqs": 32})
    static = llama(trace, flags={"scheduler": "static", "max_num_seqs": 32})
    assert static.makespan_s > 1.3 * flight.makespan_s


def test_shared_prefixes_cut_the_time_to_first_token() -> None:
    n = 200
    trace = poisson(
        5,
        n,
        isl=4000,
        prefix_hashes=np.tile(np.arange(4), n),
        prefix_offsets=np.arange(0, 4 * n + 1, 4),
        prefix_block_tokens=512,
    )
    trace = Trace(
        trace.arrived_at,
        np.maximum(trace.isl, 2100),
        trace.osl,
        prefix_hashes=trace.prefix_hashes,
        prefix_offsets=trace.prefix_offsets,
        prefix_block_tokens=512,
    )
    cached, computed = llama(trace), llama(trace, flags={"enable_prefix_caching": False})
    assert cached.summary()["prefix_cache"]["hit_frac"] > 0.4
    assert cached.summary()["ttft_s"]["mean"] < 0.7 * computed.summary()["ttft_s"]["mean"]


def test_replicas_share_the_load() -> None:
    trace = poisson(60, 400)
    one = simulate("llama-3.1-8b", "h100_sxm", trace).summary()
    four = simulate("llama-3.1-8b", "h100_sxm:4", trace, tp=1, dp=4, router="least-loaded").summary()
    assert four["ttft_s"]["p90"] < one["ttft_s"]["p90"]
    assert four["tpot_s"]["mean"] < one["tpot_s"]["mean"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "vllm_2023", "torch"])
def test_every_engine_serves_everything(engine: str) -> None:
    found = llama(poisson(20, 200), engine=engine)
    assert found.records.completed.all()
    assert found.stopped == ""


def test_summary_is_json_with_the_agreed_names() -> None:
    found = llama(poisson(10, 100), slo={"ttft_s": 0.2, "tpot_s": 0.02})
    said = json.loads(json.dumps(found.summary(), allow_nan=False))
    wanted = {
        "schema",
        "requests",
        "completed",
        "rejected",
        "ttft_s",
        "tpot_s",
        "itl_s",
        "e2e_s",
        "queue_s",
        "throughput",
        "batch",
        "kv",
        "preemptions",
        "energy_j",
        "usd",
        "simulation",
        "provenance",
    }
    assert wanted <= said.keys()
    assert set(said["ttft_s"]) == {"mean", "p50", "p90", "p95", "p99"}
    assert said["schema"] == "steelyard.simulate/1"
    assert said["throughput"]["goodput_requests_per_s"] <= said["throughput"]["requests_per_s"]
    assert said["energy_j"] <= found.scenario.cluster.machine.tdp_w * found.makespan_s * 1.001
    itl, tpot = said["itl_s"]["mean"], found.records.tpot_s * (found.records.osl - 1)
    assert itl == pytest.approx(np.nansum(tpot) / (found.records.osl - 1).sum(), rel=1e-9)
    series = found.series(50)
    assert all(len(v) == 50 for v in series.values())
    total = np.sum(series["decode_tokens_per_s"]) * found.makespan_s / 50
    assert total == pytest.approx(found.totals["decode_tokens"], rel=1e-6)


def test_requests_beyond_the_model_or_the_cache_are_rejected_and_counted() -> None:
    trace = Trace(np.zeros(3), [100, 200_000, 5000], [10, 10, 10])
    said = llama(trace, flags={"num_gpu_blocks_override": 100}).summary()
    assert (said["completed"], said["rejected"], said["unfinished"]) == (1, 2, 0)
    assert llama(trace, flags={"max_model_len": 50}).summary()["rejected"] == 3


def test_provenance_tells_runs_apart() -> None:
    trace = poisson(10, 50)
    first, again = llama(trace).summary()["provenance"], llama(trace).summary()["provenance"]
    other = llama(trace, flags={"max_num_seqs": 7}).summary()["provenance"]
    assert first == again
    assert other["hash"] != first["hash"] != llama(poisson(11, 50)).summary()["provenance"]["hash"]


def test_bad_questions_are_refused() -> None:
    trace = poisson(10, 10)
    with pytest.raises(UnknownName):
        llama(trace, policy="lottery")
    with pytest.raises(InputError, match="unknown router 'magic'"):
        llama(trace, router="magic")
    with pytest.raises(InputError):
        llama(trace, policy="priority")
    with pytest.raises(InputError):
        llama(trace, slo={"ttft": 1.0})
    with pytest.raises(InputError):
        simulate("llama-3.1-8b", "h100_sxm:4", trace, tp=3)
    with pytest.raises(InputError):
        simulate("bert-base-uncased", "h100_sxm", trace)


def test_intervals_hold_the_answer_and_widen_with_load() -> None:
    def width(rate: float) -> float:
        found = llama(poisson(rate, 600))
        low, high = found.intervals()["ttft_s"]["p90"]
        assert low < found.summary()["ttft_s"]["p90"] < high
        return high / low

    assert 1.01 < width(2) < width(90)


def test_scaled_tables_scale_steps() -> None:
    from steelyard.cost.step_table import StepTable, scaled
    from steelyard.simulation.prepared import Options, prepare

    deployment = Deployment("deepseek-r1", (Pool("h200_sxm", Plan(tp=8)),))
    table = prepare(deployment, poisson(1), Options()).table
    twice = StepTable(scaled(table.tables, 2.0), table.max_tokens, table.max_sequences, table.max_context)
    for totals in ((8, 8, 8, 8000.0), (600, 9, 8, 8000.0, 1, 592.0, 592 * 400.0)):
        assert twice.time_s(*totals) == pytest.approx(2 * table.time_s(*totals), rel=1e-9)
