"""A limit of the power: the clock falls, memory keeps its own where it can, and the limit is all that is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard import InputError, estimate, plan, simulate
from steelyard.cost.energy import clock_at, clock_beside
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import parse_cluster

MODEL = "llama-3.1-8b"


def test_a_geforce_slows_down_whatever_it_does() -> None:
    """Mistral 7B in bf16 at 220 W writes 35 tokens/s, where an RTX 3090 at its rated 350 W writes 46 (vLLM)."""
    free = estimate(MODEL, "rtx_3090", isl=4096, osl=64)
    held = estimate(MODEL, "rtx_3090", isl=4096, osl=64, power_limit_w=220)
    tight = estimate(MODEL, "rtx_3090", isl=4096, osl=64, power_limit_w=150)
    assert free.ttft_s * 1.05 < held.ttft_s < free.ttft_s * 1.4 < tight.ttft_s
    assert 1.2 < held.tpot_s / free.tpot_s < 1.35
    assert held.limit == free.limit
    assert 180 < held.energy_j / held.e2e_s <= 220 < tight.energy_j / tight.e2e_s * 1.5
    servers = [estimate(MODEL, "h100_sxm", isl=4096, osl=64, power_limit_w=watts) for watts in (None, 500)]
    assert servers[1].ttft_s > 1.05 * servers[0].ttft_s  # which multiply at the limit and read below it
    assert servers[1].tpot_s == pytest.approx(servers[0].tpot_s, rel=0.03)
    assert estimate(MODEL, "rtx_3090", isl=4096, osl=64, power_limit_w=400).ttft_s == free.ttft_s
    assert any("power_limit_w" in line for line in held.to_dict()["assumptions"])


def test_a_name_and_a_field_say_the_same() -> None:
    asked = estimate(MODEL, "rtx_3090:2", isl=512, power_limit_w=220)
    for name in ("RTX 3090 220W:2", "rtx_3090_220w:2", "2x rtx 3090 220 watts"):
        assert estimate(MODEL, name, isl=512).ttft_s == asked.ttft_s
    joined = estimate(MODEL, "rtx_5090+rtx_5070_ti", isl=512, power_limit_w=200)
    assert joined.ttft_s > estimate(MODEL, "rtx_5090+rtx_5070_ti", isl=512).ttft_s
    assert parse_cluster("dgx_h100").count == 8
    whole = estimate(MODEL, "dgx_h100", isl=512, power_limit_w=400)
    assert whole.scenario.cluster.count == 8 and whole.scenario.cluster.machine.power_limit_w == 400


def test_every_verb_takes_it_and_asks_again() -> None:
    run = simulate(MODEL, "rtx_3090", rate=1, isl=500, osl=20, requests=10, power_limit_w=150)
    free = simulate(MODEL, "rtx_3090", rate=1, isl=500, osl=20, requests=10)
    assert run.summary()["ttft_s"]["mean"] > free.summary()["ttft_s"]["mean"]
    found = plan(MODEL, on="rtx_3090", rate=1, isl=500, osl=20, ttft="p95:2s", power_limit_w=150)
    assert found.winner is not None
    assert "power_limit_w" in str(found.to_dict()["replay"])


@pytest.mark.parametrize(
    ("machine", "watts", "words"),
    [("rtx_3090", 20, "more than 22"), ("rtx_3090", 5000, "at most 700 W"), ("rtx_309x", 220, "unknown machine")],
)
def test_what_cannot_be_is_refused(machine: str, watts: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        estimate(MODEL, machine, power_limit_w=watts)


def test_any_machine_cannot_be_held() -> None:
    with pytest.raises(InputError, match="name the machines"):
        plan(MODEL, on="any", rate=1, isl=100, osl=10, power_limit_w=200)


def test_power_goes_with_the_clock_and_the_square_of_its_voltage() -> None:
    clocks = clock_at(np.array([0.0, 0.3, 0.6, 1.0]))
    assert clocks[-1] == 1.0 and np.all(np.diff(clocks) > 0)
    assert clocks[1:3] == pytest.approx([0.52, 0.77], abs=0.03)
    assert find_machine("rtx_3090").most_w == 350


def test_networks_slow_down_where_arithmetic_binds_them() -> None:
    free, held = (estimate("sdxl", "h100_sxm", power_limit_w=watts) for watts in (None, 400))
    assert 1.1 * free.latency_s < held.latency_s < 1.5 * free.latency_s
    assert held.energy_j_per_item < free.energy_j_per_item
    assert free.limit_s == held.limit_s
    with pytest.raises(InputError, match="at most 700 W") as told:
        estimate("resnet50", "rtx_3090", power_limit_w=9999)
    assert [p.field for p in told.value.problems] == ["power_limit_w"]


def test_a_board_of_little_power_runs_its_units_slower_than_one_that_was_measured() -> None:
    """BERT of MLPerf: an L4 reaches 0.88 of what its peak says beside an L40S, an H100 PCIe 0.84 beside an SXM."""
    l4, l40s, pcie, sxm = map(find_machine, ("l4", "l40s", "h100_pcie", "h100_sxm"))
    assert clock_beside(l4, l40s) == pytest.approx(0.85, abs=0.05)
    assert clock_beside(pcie, sxm) == pytest.approx(0.84, abs=0.05)
    assert clock_beside(sxm, pcie) == clock_beside(sxm, sxm) == clock_beside(sxm, find_machine("epyc_9654")) == 1.0
