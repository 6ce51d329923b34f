"""Mechanisms of papers as techniques: each moves the right figure in the right direction, by its formula."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.cost.step import Replica
from steelyard.deployment.engine import find_engine
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate
from steelyard.estimation.explanation import explain
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import parse_cluster
from steelyard.techniques.arithmetic import multiply_accumulate_j
from steelyard.techniques.attention_ffn import SumsSent
from steelyard.techniques.collectives import fullest_path
from steelyard.techniques.experts import skew_with_copies
from steelyard.techniques.weight_tiers import popular
from steelyard.workload.catalogue import load_model
from steelyard.workload.step import Step


def priced(*techniques: str, model: str = "llama-3.1-8b", on: str = "h100_sxm", **words: Any) -> Estimate:
    return estimate(model, on, **{"batch": 8, "isl": 1000, "osl": 100, **words}, techniques=techniques)


def test_an_overhead_adds_what_is_stated() -> None:
    plain = priced()
    slower, longer, fuller = (priced(f"overhead:{x}") for x in ("time=0.1", "step=2ms", "memory=20GiB"))
    drawn = priced("overhead:power=0.1")
    own_s = plain.shares["decode"]["overhead"] * plain.tpot_s
    assert slower.tpot_s - own_s == pytest.approx(1.1 * (plain.tpot_s - own_s), rel=0.01)
    assert longer.tpot_s == pytest.approx(plain.tpot_s + 2e-3) and longer.ttft_s == pytest.approx(plain.ttft_s + 2e-3)
    assert fuller.largest_batch < 0.75 * plain.largest_batch and fuller.tpot_s == plain.tpot_s
    assert 1.02 < drawn.energy_j / plain.energy_j <= 1.1 and drawn.tpot_s == plain.tpot_s
    saved = priced("overhead:time=-0.9")
    assert saved.limit["tpot_s"] <= saved.tpot_s < plain.tpot_s
    assert any(x.startswith("with overhead:time=-0.9: stated shares") for x in saved.ledger.assumptions)
    with pytest.raises(InputError, match="expected a share or time"):
        priced("overhead")
    with pytest.raises(InputError, match="memory of less than the"):
        priced("overhead:memory=200GiB")


#: Rate of the link to the host of an A100, B/s.
LINK = find_machine("a100_80g").links("host")[0].bandwidth_bytes_per_s
#: A model whose experts sixty-four devices share.
SHARED: dict[str, Any] = {"model": "deepseek-v3", "on": "h800:64", "dp": 64, "ep": 64, "tp": 1, "batch": 4096}


def test_exchanges_of_tokens_hide_under_the_experts() -> None:
    plain = priced(**SHARED)
    chunked, fused, halves = (priced(f"moe-overlap:{x}", **SHARED) for x in ("4", "4,fused", "2,batches"))
    for found in (chunked, fused, halves):
        assert found.tpot_s <= plain.tpot_s and found.ttft_s < plain.ttft_s
        assert found.memory.total == plain.memory.total
    assert fused.tpot_s < chunked.tpot_s  # weights are read once
    assert halves.ttft_s < chunked.ttft_s  # attention hides some as well
    finer = priced("moe-overlap:64,fused", **SHARED)
    network_s = (plain.tpot_s - finer.tpot_s) / (1 - 1 / 64)  # min(C, A), of which 1 / d shows
    assert fused.tpot_s == pytest.approx(plain.tpot_s - network_s * (1 - 1 / 4), rel=1e-3)
    with pytest.raises(InputError, match="no tokens are exchanged"):
        priced("moe-overlap", model="deepseek-v3", on="h200:8")
    with pytest.raises(InputError, match="has no experts"):
        priced("moe-overlap")


def test_copies_of_experts_level_the_load_and_let_more_devices_share_them() -> None:
    uneven = {**SHARED, "skew": 0.8}
    plain, copied = priced(**uneven), priced("redundant-experts:64", **uneven)
    assert copied.tpot_s < plain.tpot_s and copied.memory.weights > plain.memory.weights
    more = copied.memory.weights - plain.memory.weights
    each = 3 * 7168 * 2048 + 64 * 7168 * 2  # of 58 layers one more expert in fp8, and 64 more rows of the router
    assert more == pytest.approx(58 * each, rel=1e-3)
    assert skew_with_copies(0.0, 256, 64) == 0.0 and skew_with_copies(0.8, 256, 0) == 0.8
    assert 0 < skew_with_copies(0.8, 256, 64) < skew_with_copies(0.8, 256, 8) < 0.8
    wide = {**SHARED, "on": "h800:320", "dp": 320, "ep": 320, "batch": 3200}
    assert priced("redundant-experts:64", **wide).memory.fits


def test_tokens_that_stay_are_not_exchanged() -> None:
    plain, half, once = (
        priced(*x, **SHARED) for x in ((), ("expert-affinity:0.5",), ("expert-affinity:0,exchanges=1",))
    )
    exchanged = plain.shares["prefill"]["network"] * plain.ttft_s
    assert half.ttft_s == pytest.approx(plain.ttft_s - 0.5 * exchanged, rel=0.02)
    assert plain.ttft_s - exchanged < once.ttft_s < plain.ttft_s - 0.4 * exchanged


def test_blocks_of_experts_with_other_shapes() -> None:
    plain, idle, narrow, chain = (
        priced(*x, **SHARED)
        for x in ((), ("moe-block:zero=0.5",), ("moe-block:width=1792",), ("moe-block:chain=2,top_k=4",))
    )
    ratio = (idle.shares["prefill"]["network"] * idle.ttft_s) / (plain.shares["prefill"]["network"] * plain.ttft_s)
    assert ratio == pytest.approx(0.5, abs=0.06)  # tokens that meet no expert cross no link
    ratio = (narrow.shares["prefill"]["network"] * narrow.ttft_s) / (plain.shares["prefill"]["network"] * plain.ttft_s)
    assert ratio == pytest.approx(1792 / 7168, abs=0.02)
    assert narrow.memory.weights < 0.85 * plain.memory.weights  # experts a quarter as large, beside attention and head
    assert chain.memory.weights == pytest.approx(plain.memory.weights, rel=1e-3) and chain.tpot_s > plain.tpot_s
    with pytest.raises(InputError, match="8 of 4 experts cannot be chosen"):
        priced("moe-block:experts=4", **SHARED)


def test_experts_with_places_and_a_dense_mask_that_grows_with_the_square_of_the_tokens() -> None:
    words: dict[str, Any] = {"batch": 256, "isl": 512, "osl": 2, "engine": "torch"}

    def work(batch: int, *techniques: str) -> float:
        found = explain(
            "qwen3-30b-a3b", "a100_sxm:16", **{**words, "batch": batch}, dp=16, ep=16, techniques=techniques
        )
        kernels = found.to_dict()["prefill"]["kernels"]
        return float(sum(k["flops"] for k in kernels if k.get("block") == "moe"))

    tokens, choices, layers, width = 256 / 16 * 512, 8, 48, 2048
    added = work(256, "moe-dispatch:dense") - work(256)
    assert added == pytest.approx(layers * 4 * choices * tokens**2 * width, rel=0.02)  # and the passes over the mask
    half = work(128, "moe-dispatch:dense,capacity=2") - work(128, "moe-dispatch:sorted,capacity=2")
    assert half == pytest.approx(2 * added / 4, rel=0.02)
    assert work(256, "moe-dispatch:sorted") == pytest.approx(work(256), rel=0.02)
    assert work(256, "moe-dispatch:sorted,capacity=2") > 1.9 * work(256, "moe-dispatch:sorted")
    with pytest.raises(InputError, match="did you mean 'dense'"):
        priced("moe-dispatch:densed", **SHARED)


def test_layers_are_streamed_from_the_host_under_what_computes() -> None:
    words: dict[str, Any] = {"model": "llama-3.1-70b", "on": "a100_80g", "isl": 1000}
    plain, whole, half, after = (
        priced(*x, **words)
        for x in ((), ("weight-streaming",), ("weight-streaming:0.5",), ("weight-streaming:overlap=0",))
    )
    layers_bytes = 80 * (8192 * (8192 + 2 * 1024 + 8192) + 3 * 8192 * 28672) * 2
    copy_s = layers_bytes / (0.8 * LINK)
    assert whole.tpot_s == pytest.approx(copy_s, rel=0.05)  # all that computes is hidden
    assert half.tpot_s == pytest.approx(copy_s / 2, rel=0.05)
    assert after.tpot_s == pytest.approx(copy_s + plain.tpot_s, rel=0.01)
    assert after.ttft_s == pytest.approx(copy_s + plain.ttft_s, rel=0.01)
    assert whole.ttft_s == pytest.approx(max(copy_s, plain.ttft_s), rel=0.05)
    assert not plain.memory.fits and whole.memory.fits and whole.memory.host > 0.9 * layers_bytes
    buffers = layers_bytes * 2 / 80
    assert whole.memory.weights == pytest.approx(plain.memory.weights - layers_bytes + buffers, rel=1e-3)
    disk = priced("weight-streaming:disk,rate=7GB/s", **words)
    assert disk.tpot_s == pytest.approx(layers_bytes / 7e9, rel=0.05)
    assert priced("weight-streaming:1", **words).tpot_s == plain.tpot_s
    with pytest.raises(InputError, match="expected rate=7GB/s"):
        priced("weight-streaming:disk", **words)
    board = priced("weight-streaming:disk,rate=1GB/s", model="llama-3.1-8b", on="raspberry_pi_5", batch=1, isl=64)
    assert board.tpot_s == pytest.approx(32 * 218.1e6 * 2 / 1e9, rel=0.05)  # layers of the only memory there is
    with pytest.raises(InputError, match="is the host's"):
        priced("weight-streaming", on="m4_max")


def test_experts_that_are_missed_are_copied_once_a_step() -> None:
    words: dict[str, Any] = {"model": "mixtral-8x7b", "on": "a100_80g", "batch": 1}
    plain, none, half = (priced(*x, **words) for x in ((), ("expert-cache:0",), ("expert-cache:0.5",)))
    each_s = 3 * 4096 * 14336 * 2 / (0.8 * LINK)
    assert none.tpot_s - plain.tpot_s == pytest.approx(32 * 2 * each_s, rel=0.01)
    assert half.tpot_s - plain.tpot_s == pytest.approx(32 * 4 * (1 - (1 - 2 * 0.5 / 4)) * each_s, rel=0.01)
    known = priced("expert-cache:0.5,hit=0.9", **words)
    assert known.tpot_s - plain.tpot_s == pytest.approx(0.2 * 32 * each_s, rel=0.02)
    ahead = priced("expert-cache:0.5,hit=0.9,overlap=1", **words)
    assert plain.tpot_s <= ahead.tpot_s < known.tpot_s
    assert half.memory.weights == pytest.approx(0.5 * (plain.memory.weights + none.memory.weights), rel=0.01)
    assert popular(8, 0.5, 0.0) == 0.5 < popular(8, 0.5, 1.0) < popular(8, 0.5, 2.0) < 1
    skewed = priced("expert-cache:0.5", **words, skew=1.0)
    assert skewed.tpot_s < half.tpot_s


def test_products_that_skip_zeros_or_run_by_bits() -> None:
    words: dict[str, Any] = {"model": "llama-3.1-8b", "on": "a100_sxm", "isl": 4000}
    plain, half, blocks = (
        priced(*x, **words) for x in ((), ("weight-sparsity",), ("weight-sparsity:0.25,index=0,eff=0.5",))
    )
    linear = plain.memory.weights - 2 * 128256 * 4096 * 2  # embedding and head stay
    assert plain.memory.weights - half.memory.weights == pytest.approx(linear * (1 - 0.5 * 18 / 16), rel=0.01)
    assert plain.memory.weights - blocks.memory.weights == pytest.approx(linear * 0.75, rel=0.01)
    assert blocks.tpot_s < half.tpot_s < plain.tpot_s
    assert 0.5 < half.ttft_s / plain.ttft_s < 0.8 and half.ttft_s < blocks.ttft_s * 1.2  # 2x and 2x the rate
    eight, planes, fewer = (
        priced(*x, **words, **more)
        for x, more in (((), {"weights": "int8"}), (("bit-planes:w=4,a=4",), {}), (("bit-planes:w=2,a=4",), {}))
    )
    assert 1.5 < planes.ttft_s / eight.ttft_s < 2.1  # 4992 / 16 = 312 against 624 TOPS
    assert fewer.ttft_s < 0.75 * planes.ttft_s and fewer.memory.weights < planes.memory.weights
    with pytest.raises(InputError, match="has no products of single bits"):
        priced("bit-planes", on="h100_sxm")


def test_lookups_are_bound_by_their_rate_and_by_the_memory() -> None:
    words: dict[str, Any] = {"model": "llama-3.2-3b", "on": "raspberry_pi_5", "batch": 1, "isl": 100}
    two, four, slow = (priced(f"lookup-table:{x}", **words) for x in ("w=2", "w=4", "w=2,lookups=1"))
    assert two.memory.weights < 0.75 * four.memory.weights and two.tpot_s < four.tpot_s < slow.tpot_s
    products = 2 * (3.21e9 - 128256 * 3072)
    assert slow.tpot_s > products / (2 * 4 * 1 * 4 * 2.4e9 / 2)  # four cores of 2.4 GHz, one lookup a clock each


def test_two_formats_of_weights_take_the_time_and_bytes_of_both() -> None:
    words: dict[str, Any] = {"model": "llama-3.1-8b", "on": "a100_sxm"}
    low, high = priced(weights="int4", **words), priced(weights="int8", **words)
    ends = [priced(f"mixed-bits:low=int4,high=int8,share={x}", **words) for x in (0, 1)]
    mixed = priced("mixed-bits:low=int4,high=int8,share=0.25", **words)
    assert ends[0].tpot_s == pytest.approx(low.tpot_s, rel=1e-6)
    assert ends[1].tpot_s == pytest.approx(high.tpot_s, rel=5e-3)
    for name in ("ttft_s", "tpot_s"):
        between = 0.75 * getattr(low, name) + 0.25 * getattr(high, name)
        assert getattr(mixed, name) == pytest.approx(between, rel=5e-3)
    assert mixed.memory.weights == pytest.approx(0.75 * low.memory.weights + 0.25 * high.memory.weights, rel=1e-3)
    with pytest.raises(InputError, match="low narrower than high"):
        priced("mixed-bits:low=int8,high=int4")


def test_energy_of_products_by_what_stands_for_a_multiplication() -> None:
    plain, less, linear, none = (  # of so few tokens that no step draws the rated power
        priced(*x, batch=1, isl=16)
        for x in ((), ("arithmetic",), ("arithmetic:products=linear",), ("arithmetic:none,accumulate=none",))
    )
    assert less.tpot_s == plain.tpot_s and none.energy_j < less.energy_j < linear.energy_j < plain.energy_j
    share = (plain.energy_j - less.energy_j) / (plain.energy_j - none.energy_j)
    assert share == pytest.approx(1 - (0.05 + 0.9) / (1.1 + 0.9))  # 45 nm: a 16-bit integer addition for a product
    assert multiply_accumulate_j("45nm", "int8") == pytest.approx(0.3e-12)
    assert multiply_accumulate_j("7nm", "bf16") == pytest.approx(0.59e-12)
    with pytest.raises(InputError, match="did you mean 'int16_add'"):
        priced("arithmetic:int16_ad")


def test_collectives_wait_less_or_send_less() -> None:
    words: dict[str, Any] = {"model": "llama-3.1-70b", "on": "h100_sxm:8"}
    plain, less, half = (
        priced(*x, **words)
        for x in ((), ("collective-library:latency=0.5",), ("collective-library:latency=0.5,transfer=0.5",))
    )
    sent = plain.shares["decode"]["network"] * plain.tpot_s
    assert plain.tpot_s - half.tpot_s == pytest.approx(0.5 * sent, rel=0.05)
    assert half.tpot_s < less.tpot_s < plain.tpot_s
    gained = [1 - less.tpot_s / plain.tpot_s, 1 - less.ttft_s / plain.ttft_s]
    assert gained[0] > 5 * gained[1] > 0  # short messages wait, long ones do not
    with pytest.raises(InputError, match="talks to no other"):
        priced("collective-library")


def test_the_fullest_path_decides_between_nodes() -> None:
    assert fullest_path(8, 8, "spray") == fullest_path(8, 8, "pinned") == 1.0
    assert fullest_path(8, 12, "pinned") == pytest.approx(16 / 12)
    assert fullest_path(2, 2, "ecmp") == pytest.approx(1.5)  # both on one path half of the time
    assert fullest_path(2, 3, "ecmp") == pytest.approx((3 * 2 + 2 * 6) / 8 / 1.5)
    assert fullest_path(8, 8, "ecmp") > fullest_path(8, 64, "ecmp") > fullest_path(8, 4096, "ecmp") > 1
    words: dict[str, Any] = {"model": "llama-3.1-70b", "on": "h100_sxm:16", "tp": 16}
    plain, ecmp, spray = (priced(*x, **words) for x in ((), ("flow-placement",), ("flow-placement:spray",)))
    assert ecmp.ttft_s > 1.2 * plain.ttft_s and spray.ttft_s == pytest.approx(plain.ttft_s)
    with pytest.raises(InputError, match="all devices stand in one"):
        priced("flow-placement", model="llama-3.1-70b", on="h100_sxm:8")


def test_a_cap_slows_what_multiplies() -> None:
    plain, capped, watts = priced(), priced("power-cap:0.6"), priced("power-cap:watts=420")
    assert capped.ttft_s > 1.1 * plain.ttft_s and capped.tpot_s < 1.1 * plain.tpot_s
    assert (capped.ttft_s, capped.energy_j) == (watts.ttft_s, watts.energy_j)
    assert capped.ttft_s == priced(power_limit_w=420).ttft_s
    with pytest.raises(InputError, match="expected a share below 1"):
        priced("power-cap")


def test_tuned_models_share_blocks_and_run_the_rest_each() -> None:
    words: dict[str, Any] = {"batch": 64}
    plain, one, four, apart = (
        priced(*x, **words) for x in ((), ("tenants:4,share=1",), ("tenants:4,share=0.7",), ("tenants:4,share=0",))
    )
    assert one.tpot_s == plain.tpot_s and one.largest_batch == plain.largest_batch
    assert plain.tpot_s < four.tpot_s < apart.tpot_s and plain.largest_batch > four.largest_batch > apart.largest_batch
    between = 0.7 * plain.tpot_s + 0.3 * apart.tpot_s
    assert four.tpot_s == pytest.approx(between, rel=0.01)
    assert priced("tenants:4,share=0", batch=1).tpot_s == pytest.approx(priced(batch=1).tpot_s, rel=1e-6)


def test_a_request_waits_until_its_model_is_there() -> None:
    plain, waits, stated = (
        priced(*x) for x in ((), ("model-switch:10,resident=2",), ("model-switch:10,hit=0.5,rate=10GB/s",))
    )
    link = find_machine("h100_sxm").links("host")[0].bandwidth_bytes_per_s
    assert waits.ttft_s - plain.ttft_s == pytest.approx(0.8 * plain.memory.weights / (0.8 * link))
    assert stated.ttft_s - plain.ttft_s == pytest.approx(0.5 * plain.memory.weights / 10e9)
    assert waits.tpot_s == plain.tpot_s


def test_units_in_the_memory_do_what_has_little_reuse() -> None:
    words: dict[str, Any] = {"model": "llama-2-7b", "on": "a100_40g", "batch": 1}
    plain, four, sixteen = (priced(*x, **words) for x in ((), ("near-memory:4",), ("near-memory:16",)))
    assert sixteen.tpot_s < four.tpot_s < 0.4 * plain.tpot_s  # weights at the internal bandwidth
    assert four.limit["tpot_s"] > 0.24 * plain.limit["tpot_s"] and four.ttft_s > 0.95 * plain.ttft_s
    many: dict[str, Any] = {"model": "llama-3.1-70b", "on": "h100_sxm:8", "batch": 1024, "isl": 4000}
    plain, near, turns = (
        priced(*x, **many) for x in ((), ("near-memory:4,intensity=8",), ("near-memory:4,intensity=8,interleave",))
    )
    assert turns.tpot_s < 0.95 * near.tpot_s < near.tpot_s < plain.tpot_s
    assert turns.memory.total == plain.memory.total


def test_memory_that_multiplies_beside_a_controller_has_no_launches_and_no_power_of_a_processor() -> None:
    words: dict[str, Any] = {"model": "gpt2-xl", "weights": "fp16", "engine": "torch", "batch": 1, "isl": 128}
    near, gpu = priced(on="gddr6_aim", **words), priced(on="t4", **words)
    weights, banks = 2 * 1.56e9, 4.096e12
    assert 1.0 < near.tpot_s / (weights / banks) < 1.4  # the banks' rate, and commands
    token_j = near.energy_j / 100
    assert weights * 13e-12 < token_j < 1.3 * weights * (13e-12 + 0.75e-12)  # bytes of the banks and multiplications
    assert gpu.tpot_s > 5 * near.tpot_s and gpu.energy_j > 10 * near.energy_j


def test_sums_of_feed_forward_devices_leave_their_node_as_they_are() -> None:
    cluster, model = parse_cluster("h800_sxm:16"), load_model("step3").transformer
    plan = Plan(weights="fp8", kv="fp8").over(16, 16).resolved(model, cluster.machine)
    whole = Replica(model, plan, cluster, find_engine("vllm"))
    before = whole.lower(Step(64, 1, 4000), True)
    sums = [
        [k.features for k in program.kernels if k.kind == "collective" and not k.stage]
        for program in (before, SumsSent(8).lowered(before, whole))
    ]
    assert sums[1] == [{**f, "operation": "reduce_scatter", "devices": 8} for f in sums[0]] != []


def test_layers_of_a_dataflow_chip_are_one_pipeline() -> None:
    words: dict[str, Any] = {"model": "llama-2-7b", "on": "sambanova_sn40l", "batch": 1, "engine": "torch"}
    plain, half, most = (priced(*x, **words) for x in ((), ("dataflow-fusion:0.75",), ("dataflow-fusion:0.9",)))
    layers, bandwidth = 2 * 32 * 202.4e6, 2e12
    cache = 1050 * 2 * 4096 * 32 * 2
    taken = half.tpot_s - most.tpot_s  # at batch 1 weights and caches bind
    assert taken == pytest.approx((layers + cache) / bandwidth * (1 / 0.75 - 1 / 0.9), rel=0.02)
    assert most.tpot_s < plain.tpot_s and most.memory.total == plain.memory.total
    with pytest.raises(InputError, match="launches kernels one by one"):
        priced("dataflow-fusion")


def test_layers_at_the_edge_and_a_link() -> None:
    words: dict[str, Any] = {"batch": 1}
    plain, edge = priced(**words), priced(on="jetson_agx_orin", engine="vllm", **words)
    third, none, early = (
        priced(f"layer-split:{x},latency=5ms,link=1GB/s", **words) for x in ("cut=0.3", "cut=0", "cut=0.3,leave=0.5")
    )
    assert none.tpot_s - plain.tpot_s == pytest.approx(5e-3, rel=0.02)
    sent = 1000 * 4096 * 2 / 1e9
    assert none.ttft_s - plain.ttft_s == pytest.approx(5e-3 + sent, rel=0.05)
    layers = [x.tpot_s * 0.93 for x in (plain, edge)]  # of 8.0 e9 weights 7.0 are in layers, 0.5 in the head
    assert third.tpot_s - none.tpot_s == pytest.approx(0.3 * (layers[1] - layers[0]), rel=0.1)
    assert none.tpot_s < early.tpot_s < third.tpot_s + edge.tpot_s * 0.07  # half go on; each asks the edge's head
    assert early.ttft_s < third.ttft_s
    with pytest.raises(InputError, match="unknown machine"):
        priced("layer-split:no_such_machine")


def test_a_small_model_answers_first() -> None:
    words: dict[str, Any] = {"on": "h100_sxm", "isl": 4000}
    large, small = priced(**words), priced(model="llama-3.2-1b", **words)
    both, routed = (priced(f"cascade:llama-3.2-1b,{x}", **words) for x in ("escalate=1", "route,escalate=0.999"))
    assert both.tpot_s == pytest.approx(large.tpot_s + small.tpot_s, rel=0.05)
    assert routed.tpot_s == pytest.approx(large.tpot_s, rel=0.02)
    assert both.largest_batch < large.largest_batch
    for batch in (1, 64):
        few = [priced(f"cascade:llama-3.2-1b,escalate={x}", batch=batch, on="h100_sxm") for x in (0.1, 0.5)]
        assert few[0].tpot_s < few[1].tpot_s and few[0].ttft_s <= few[1].ttft_s
    one, tenth = (priced(f"cascade:llama-3.2-1b,escalate={x}", batch=1, on="h100_sxm") for x in (1, 0.1))
    assert tenth.tpot_s < 0.4 * one.tpot_s


def test_equal_calls_are_answered_once() -> None:
    from steelyard.simulation.api import simulate

    words: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "inf", "requests": 200, "isl": 2000}
    runs = [simulate(**words, osl=20, seed=1, techniques=x) for x in ((), "merge-calls:0.5")]
    assert [len(run.trace) for run in runs] == [200, 100]
    ends = [float(run.records.e2e_s.max()) for run in runs]
    assert ends[1] == pytest.approx(0.5 * ends[0], rel=0.05)


def test_the_host_attends_to_the_cache_it_holds() -> None:
    words: dict[str, Any] = {"on": "l4", "batch": 64, "isl": 4000}
    plain, apart, turns = (priced(*x, **words) for x in ((), ("host-attention:overlap=0",), ("host-attention",)))
    assert not plain.memory.fits and turns.memory.fits and turns.memory.kv_cache == 0
    assert turns.memory.host == pytest.approx(plain.memory.kv_cache) and turns.ttft_s == plain.ttft_s
    cache_s = plain.memory.kv_cache * 4050 / 4100 / 307.2e9  # eight channels of DDR5-4800
    assert cache_s < turns.tpot_s < apart.tpot_s < turns.tpot_s + cache_s * 3
    both = priced("host-attention", "weight-streaming", **words)
    weights = priced("weight-streaming", **words)
    assert both.tpot_s == pytest.approx(weights.tpot_s, rel=0.05)  # copies of weights hide the host's attention
    assert both.memory.total < 0.3 * weights.memory.total
    from steelyard.simulation.api import simulate

    run = simulate("llama-3.1-8b", "l4", rate="2/s", requests=10, isl=500, osl=20, techniques="host-attention")
    held = find_machine("xeon_8480").usable_bytes / (16 * 2 * 8 * 128 * 2 * 32)
    assert run.pools[0].kv.blocks == pytest.approx(held, rel=1e-3)
    with pytest.raises(InputError, match="attention has one place"):
        priced("host-attention", "near-memory")


def test_attention_devices_take_prompts_from_elsewhere() -> None:
    from steelyard.simulation.api import simulate

    sides = "attention-ffn:2A:1@h100_sxm,1F:2@h100_sxm"
    words: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm:4", "rate": "inf", "requests": 60, "seed": 1}
    own, apart = (simulate(**words, isl=3000, osl=40, techniques=x).summary() for x in (sides, f"{sides},answers"))
    assert apart["ttft_s"]["mean"] < 0.1 * own["ttft_s"]["mean"]
    assert apart["tpot_s"]["mean"] < 0.5 * own["tpot_s"]["mean"]  # no step waits for a prompt
    short = simulate(**words, isl=30, osl=40, techniques=f"{sides},answers").summary()
    assert short["tpot_s"]["mean"] < apart["tpot_s"]["mean"]  # the caches are read
    run = simulate(**words, isl=3000, osl=40, techniques=f"{sides},answers")
    assert [(p.role, p.devices) for p in run.pools] == [("prefill", 0), ("decode", 2), ("feed_forward", 2)]
    assert run.to_dict()["limited_by"]


@pytest.mark.parametrize("text", ["cascade:llama-3.2-1b", "tenants:4", "host-attention", "weight-streaming:0.8"])
def test_steps_of_a_run_take_what_the_estimate_says(text: str) -> None:
    from steelyard.simulation.api import simulate

    run = simulate("llama-3.1-8b", "h100_sxm", concurrency=32, requests=32, isl=500, osl=60, seed=1, techniques=text)
    said = priced(text, batch=32, isl=500, osl=60)
    assert run.summary()["itl_s"]["p50"] == pytest.approx(said.tpot_s, rel=0.02)
