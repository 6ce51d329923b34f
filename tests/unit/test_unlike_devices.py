"""Devices of several kinds in one replica: layers in proportion to memory, times that add, memory of the fullest."""

from __future__ import annotations

import numpy as np
import pytest

import steelyard
from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate
from steelyard.machine.cluster import asks_again, parse_cluster

BIG, SMALL = "rtx_5090", "rtx_5070_ti"


def asked(on: str, **words: object) -> Estimate:
    given = {"weights": "q8_0", "engine": "llamacpp", "isl": 512, "osl": 128, **words}
    return steelyard.estimate("qwen3-14b", on, **given)


def test_a_plus_joins_unlike_devices() -> None:
    cluster = parse_cluster(f"{BIG}+{SMALL}")
    assert (str(cluster), cluster.count, cluster.per_node) == (f"{BIG}+{SMALL}", 2, 2)
    assert asks_again(cluster) == f"{BIG}+{SMALL}"
    (big, share), (small, rest) = cluster.shares
    assert share + rest == pytest.approx(1.0)
    assert share / rest == pytest.approx(big.usable_bytes / small.usable_bytes)
    assert [m.name for m, _ in parse_cluster(f"{BIG}+{SMALL}:2").shares] == [BIG, SMALL, SMALL]
    assert str(parse_cluster(f"{BIG}+{BIG}")) == f"{BIG}:2"
    assert parse_cluster("Intel Xeon Platinum 8480+").machine.name == "xeon_8480"
    for text in (f"{BIG}+m4_max", f"{BIG}+abacus", f"{BIG}+{SMALL}:64", f"{BIG}+{SMALL}:0"):
        with pytest.raises(InputError):
            parse_cluster(text)


def test_times_add_by_the_shares_of_layers() -> None:
    alone, small, both = asked(BIG), asked(SMALL), asked(f"{BIG}+{SMALL}")
    share = both.scenario.cluster.shares[0][1]
    assert (both.scenario.plan.pp, both.scenario.plan.tp) == (2, 1)
    assert alone.tpot_s < both.tpot_s < small.tpot_s
    assert both.tpot_s == pytest.approx(share * alone.tpot_s + (1 - share) * small.tpot_s, rel=0.05)
    assert both.limit["tpot_s"] <= both.tpot_s
    rows = {k.kernel.name: k for estimate in (both,) for k in estimate.decode.cost}
    lone = {k.kernel.name: k for k in small.decode.cost}
    assert float(rows["lm_head"].time_s) == pytest.approx(float(lone["lm_head"].time_s))
    one = both.scenario.replica.decodes(np.array([1.0]), np.array([float(both.scenario.mean_context)]))
    assert one.time_s[0] == pytest.approx(float(both.decode.time_s), rel=1e-6)


def test_every_device_must_hold_its_layers() -> None:
    both = asked(f"{BIG}+{SMALL}")
    assert both.fits
    assert float(both.memory.capacity) == pytest.approx(both.scenario.cluster.shares[1][0].usable_bytes, rel=0.05)
    assert float(both.memory.weights) < 0.45 * float(asked(SMALL).memory.weights)
    assert both.usd_per_hour is not None
    assert not steelyard.estimate("llama-3.1-70b", f"{BIG}+{SMALL}", weights="q8_0", engine="llamacpp").fits
    assert steelyard.estimate("qwen3-32b", f"{BIG}+{SMALL}", weights="q8_0", engine="llamacpp").fits
    assert not steelyard.estimate("qwen3-32b", BIG, weights="q8_0", engine="llamacpp", isl=4096).fits


def test_what_unlike_devices_cannot_do() -> None:
    for words in ({"tp": 2}, {"offload": "layers:3"}):
        with pytest.raises(InputError):
            asked(f"{BIG}+{SMALL}", **words)
    for refused in ({"replicas": 2}, {"disaggregate": "1P:tp1,1D:tp1"}):
        with pytest.raises(InputError, match="no further ones, no pools"):
            steelyard.simulate("qwen3-14b", f"{BIG}+{SMALL}", rate=1, requests=2, **refused)
    for on in (f"{BIG}+{SMALL}", parse_cluster(f"{BIG}+{SMALL}")):
        with pytest.raises(InputError, match="plans are of equal devices"):
            steelyard.plan("qwen3-14b", on, rate="1/s", ttft="p99:2s")


def test_layers_may_be_stated() -> None:
    stated = parse_cluster(f"{BIG}+{SMALL}@32/16")
    assert [share for _, share in stated.shares] == pytest.approx([2 / 3, 1 / 3])
    assert parse_cluster(asks_again(stated)) == stated
    uneven = asked(f"{BIG}+{BIG}@32/8")
    assert uneven.tpot_s == pytest.approx(asked(f"{BIG}:2", pp=2, tp=1).tpot_s, rel=0.03)
    assert float(uneven.memory.weights) > 1.5 * float(asked(f"{BIG}:2", pp=2, tp=1).memory.weights)
    for text, said in (("@1", "each of 2 devices"), ("@0/1", "more than 0 layers"), ("@1/2/3", "got 3")):
        with pytest.raises(InputError, match=said):
            parse_cluster(f"{BIG}+{SMALL}{text}")


def test_a_simulation_agrees_with_the_estimate_and_the_tightest_card_holds_the_cache() -> None:
    def played(on: str, clients: int = 1) -> steelyard.Simulation:
        words = {"isl": 512, "osl": 64, "concurrency": clients, "requests": 8 * clients, "engine": "vllm"}
        return steelyard.simulate("qwen3-8b", on, max_model_len=8192, **words)

    both = played(f"{BIG}+{SMALL}")
    one = steelyard.estimate("qwen3-8b", f"{BIG}+{SMALL}", isl=512, osl=64, engine="vllm")
    assert float(np.mean(both.records.tpot_s)) == pytest.approx(one.tpot_s, rel=0.02)
    assert any(f"{SMALL} 3" in note for note in both.ledger.assumptions)
    assert both.pools[0].price.usd_per_hour == pytest.approx(one.usd_per_hour)
    less = played(f"{BIG}+{SMALL}@1/1")  # half the layers on the small card: less cache
    more = played(f"{BIG}+{SMALL}@3/1")
    assert less.pools[0].kv.blocks < more.pools[0].kv.blocks < both.pools[0].kv.blocks
    # a batch in flight on each card: the pace is that of the slower stage, equal stages go twice as fast
    even, uneven = played(f"{BIG}:2", 16), played(f"{BIG}+{BIG}@7/1", 16)
    assert uneven.makespan_s > 1.3 * even.makespan_s
    told = steelyard.estimate("qwen3-8b", f"{BIG}+{BIG}@7/1", isl=64, osl=64, batch=16, engine="vllm")
    words = {"isl": 64, "osl": 64, "concurrency": 16, "requests": 32, "engine": "vllm", "max_model_len": 4096}
    run = steelyard.simulate("qwen3-8b", f"{BIG}+{BIG}@7/1", **words)
    assert told.tpot_s == pytest.approx(float(np.mean(run.records.tpot_s)), rel=0.03)
