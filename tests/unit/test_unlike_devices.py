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
    with pytest.raises(InputError, match="estimate only"):
        steelyard.simulate("qwen3-14b", f"{BIG}+{SMALL}", rate=1, requests=2)
