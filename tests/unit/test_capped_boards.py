"""GeForce boards: a matrix engine at half rate leaves power for clocks above the rated one, and limits use them."""

from __future__ import annotations

import pytest

from steelyard import estimate
from steelyard.cost.site import site_for
from steelyard.machine.catalogue import find_machine


# a public comparison of two engines on two cards, bf16, nothing of it fitted
@pytest.mark.parametrize(
    ("machine", "isl", "measured_s"),
    [
        ("rtx_4090", 1024, 0.0555),
        ("rtx_4090", 10000, 0.714),
        ("rtx_5070_ti", 1024, 0.0964),
        ("rtx_5070_ti", 10000, 1.19),
    ],
)
def test_prompts_in_bf16_as_measured(machine: str, isl: int, measured_s: float) -> None:
    found = estimate("Qwen3-4B", machine, weights="bf16", isl=isl, osl=16)
    low, high = found.interval["ttft_s"]
    assert found.limit["ttft_s"] < measured_s  # nothing real is faster than the limit
    assert low < measured_s < high


def test_only_capped_boards_run_above_their_rated_clock() -> None:
    for name, above in (("rtx_3090", 1.1), ("rtx_4090", 1.1), ("a6000", 1.0), ("h100_sxm", 1.0), ("h20", 1.0)):
        machine = find_machine(name)
        site, engine = site_for(machine), machine.engines("matrix")[0]
        assert site.clock_hz == pytest.approx(above * engine.clock_hz)
        assert site.peak_ops_per_s == pytest.approx(above * engine.peak["bf16"])
        assert site.capped == (name in ("rtx_3090", "rtx_4090", "h20"))
