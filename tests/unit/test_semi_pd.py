"""Prompts and answers on shares of one device: words, shares, directions, limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.cost.step import Replica
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.errors import DoesNotFit, InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import parse_cluster
from steelyard.simulation.api import simulate
from steelyard.simulation.result import Simulation
from steelyard.techniques.semi_pd import SATURATING_FRAC, SemiPd, bandwidth_fracs, share_of
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import load_model

ISL, OSL = 2000, 200


def load(rate: float, n: int = 300) -> Trace:
    rng = np.random.default_rng(0)
    return Trace(np.cumsum(rng.exponential(1 / rate, n)), rng.integers(ISL // 2, ISL * 3 // 2, n), np.full(n, OSL))


def run(words: str, rate: float = 10.0, on: str = "h100_sxm", model: str = "llama-3.1-8b", n: int = 300) -> Simulation:
    return simulate(model, on, trace=load(rate, n), disaggregate=words, engine="vllm")


def test_words() -> None:
    assert SemiPd.from_flag("semi:0.6", "d") == SemiPd(0.6) == SemiPd.from_flag("Semi-PD: 60%", "d")
    assert SemiPd.from_flag("1P,1D", "d") is None
    for wrong in ("semi", "semi:", "semi:0", "semi:1", "semi:nan", "semi:x", "semi:-0.5"):
        with pytest.raises(InputError, match="share"):
            SemiPd.from_flag(wrong, "d")


def test_a_share_of_a_machine_is_a_smaller_machine() -> None:
    whole = find_machine("h100_sxm")
    part = share_of(whole, 0.25, 0.5)
    assert part.compute[0].units == 0.25 * whole.compute[0].units
    assert part.compute[0].peak["bf16"] == 0.25 * whole.compute[0].peak["bf16"]
    assert part.root.bandwidth_bytes_per_s == 0.5 * whole.root.bandwidth_bytes_per_s
    assert (part.root.capacity_bytes, part.link) == (whole.root.capacity_bytes, whole.link)
    assert part.tdp_w + share_of(whole, 0.75, 0.5).tdp_w == pytest.approx(whole.tdp_w)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_bandwidth_is_shared(share: float) -> None:
    model = load_model("llama-3.1-8b").transformer
    plan, cluster = Plan().resolved(model), parse_cluster("h100_sxm")
    prompts, answers = bandwidth_fracs(
        SemiPd(share), Replica(model, plan, cluster, find_engine("vllm")), chunk=4096, batch=32, context=2000
    )
    assert 0 < prompts <= min(1, share / SATURATING_FRAC)
    assert 0 < answers <= min(1, (1 - share) / SATURATING_FRAC)
    assert prompts <= 0.5 or answers <= 0.95  # not both have all of it


def test_gaps_between_tokens_have_no_tail_at_a_high_load() -> None:
    together, apart = run(""), run("semi:0.6")
    a, b = together.summary(), apart.summary()
    assert b["itl_s"]["p99"] < 0.3 * a["itl_s"]["p99"]
    assert b["tpot_s"]["mean"] < a["tpot_s"]["mean"]
    assert b["ttft_s"]["mean"] > a["ttft_s"]["mean"]  # prompts have 60 % of the arithmetic at any time
    assert b["completed"] == a["completed"] == 300


def test_at_a_low_load_there_is_nothing_to_gain() -> None:
    together, apart = run("", 1.0, n=60), run("semi:0.6", 1.0, n=60)
    assert np.nanmean(apart.records.ttft_s) > np.nanmean(together.records.ttft_s)
    assert np.nanmean(apart.records.e2e_s) > np.nanmean(together.records.e2e_s)


def test_more_for_prompts_is_less_for_answers() -> None:
    runs = [run(f"semi:{share}", 6.0) for share in (0.4, 0.6, 0.8)]
    ttft = [float(np.nanmean(r.records.ttft_s)) for r in runs]
    tpot = [float(np.nanmean(r.records.tpot_s)) for r in runs]
    assert ttft == sorted(ttft, reverse=True)
    assert tpot == sorted(tpot)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_two_halves_are_never_more_than_the_device(share: float) -> None:
    found = run(f"semi:{share}", 100.0)
    machine = find_machine("h100_sxm")
    span, tokens = found.makespan_s, found.totals["prefill_tokens"] + found.totals["decode_tokens"]
    flops = 2.0 * 6.9e9 * tokens  # projections of 32 layers alone
    assert flops / span < machine.compute[0].peak["bf16"]
    streamed = 2.0 * 6.9e9 * found.totals["iterations"]
    assert streamed / span < machine.root.bandwidth_bytes_per_s
    assert found.energy_j <= machine.tdp_w * span * 1.001
    assert found.devices == 1
    assert found.usd == pytest.approx(found.usd_per_hour * span / 3600)
    # all the work of both sides in one step after another is no slower: nothing is computed twice or for free
    together = run("", 100.0)
    assert span > 0.9 * together.makespan_s
    held = found.pools[0].kv.blocks + found.pools[1].kv.blocks
    assert held == together.pool.blocks


def test_nothing_travels_and_tokens_are_conserved() -> None:
    found = run("semi:0.5", 8.0)
    assert found.totals["transfer_bytes"] == 0
    assert found.totals["transfer_s"] == 0
    prompts, answers = found.pools
    assert prompts.totals["prefill_tokens"] == np.sum(found.trace.isl)
    assert answers.totals["decode_tokens"] == np.sum(found.trace.osl - 1)
    assert np.all(found.records.e2e_s > found.records.ttft_s)
    assert [p.compute_frac for p in found.pools] == [0.5, 0.5]
    low, high = found.intervals()["throughput"]["output_tokens_per_s_per_device"]
    assert low * 0.999 <= found.summary()["throughput"]["output_tokens_per_s_per_device"] <= high * 1.001
    again = run("semi:0.5", 8.0)
    assert np.array_equal(again.records.e2e_s, found.records.e2e_s)


def test_several_devices_and_what_is_refused() -> None:
    found = run("semi:0.6", 4.0, "h100_sxm:8", "llama-3.1-70b", 60)
    assert found.devices == 8 and found.records.completed.all()
    with pytest.raises(InputError, match="without failures"):
        simulate("llama-3.1-8b", "h100_sxm", trace=load(4, 20), disaggregate="semi:0.5", mtbf="1h")
    with pytest.raises(InputError, match="one replica"):
        simulate("llama-3.1-8b", "h100_sxm:2", trace=load(4, 20), disaggregate="semi:0.5", tp=1, dp=2)
    with pytest.raises(InputError, match="static"):
        simulate("llama-3.1-8b", "h100_sxm", trace=load(4, 20), disaggregate="semi:0.5", engine="static")
    with pytest.raises(DoesNotFit):
        simulate("llama-3.1-70b", "h100_sxm", trace=load(4, 20), disaggregate="semi:0.5")
    long = replace(load(4, 20), isl=np.full(20, 400))
    few = simulate(
        "llama-3.1-8b", "h100_sxm", trace=long, disaggregate="semi:0.5", flags={"num_gpu_blocks_override": 60}
    )
    assert few.summary()["rejected"] == 20  # 38 blocks each, 30 on either side
