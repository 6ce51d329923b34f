"""Preemption under pressure on the KV cache.

**Paper**: Kwon et al., *Efficient Memory Management for LLM Serving with PagedAttention*, SOSP 2023, sections 4.5 and
7.3: when blocks run out the sequence admitted last gives its blocks back and is recomputed later; reserving the whole
answer beforehand (Orca) never evicts and runs fewer requests at once (section 6.2).

**Here**: Llama-3.1-8B on one H100 at 12 requests/s, vLLM, with fewer and fewer blocks. Enough blocks: nobody is
preempted and fewer blocks change nothing at all. Too few: preemptions, tokens computed twice, and the tail of the
end-to-end time suffers before throughput does. An engine that reserves the answers never preempts; its requests wait
instead.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.simulation.api import simulate
from steelyard.simulation.result import Simulation

BLOCKS = (16_000, 8_000, 4_000, 3_000)


def _run(blocks: int, **flags: str) -> Simulation:
    return simulate(
        "llama-3.1-8b",
        "h100_sxm",
        rate="12/s",
        isl="lognormal:1024",
        osl="lognormal:256",
        requests=1500,
        seed=3,
        flags={"num_gpu_blocks_override": blocks, **flags},
    )


@pytest.fixture(scope="module")
def runs() -> dict[int, Simulation]:
    """Runs by number of blocks."""
    return {blocks: _run(blocks) for blocks in BLOCKS}


def test_blocks_nobody_needs_change_nothing(runs: dict[int, Simulation]) -> None:
    assert runs[8_000].totals["preemptions"] == 0
    assert runs[8_000].totals["kv_max_frac"] < 0.9
    np.testing.assert_array_equal(runs[8_000].records.e2e_s, runs[16_000].records.e2e_s)


def test_fewer_blocks_preempt_more_and_lengthen_the_tail(runs: dict[int, Simulation]) -> None:
    found = [runs[b].summary() for b in BLOCKS[1:]]
    preemptions = [x["preemptions"] for x in found]
    assert 0 == preemptions[0] < preemptions[1] < preemptions[2] > 100
    assert runs[3_000].totals["dropped_tokens"] > 3 * runs[4_000].totals["dropped_tokens"] / 2 > 0
    tails = [x["e2e_s"]["p99"] for x in found]
    assert tails[0] * 1.05 < tails[1] < tails[2] > 1.15 * tails[0]
    assert found[1]["e2e_s"]["p50"] < 1.15 * found[0]["e2e_s"]["p50"]  # the tail suffers first
    assert found[1]["itl_s"]["p99"] > 1.05 * found[0]["itl_s"]["p99"]
    assert found[2]["throughput"]["requests_per_s"] > 0.95 * found[0]["throughput"]["requests_per_s"]


def test_those_preempted_pay(runs: dict[int, Simulation]) -> None:
    full, scarce = runs[16_000].records, runs[3_000].records
    hit, many = scarce.preemptions > 0, scarce.osl > 1
    slower = scarce.tpot_s / full.tpot_s
    assert np.mean(slower[hit & many]) > 1.05 * np.mean(slower[~hit & many])


def test_reserving_the_answer_waits_instead(runs: dict[int, Simulation]) -> None:
    safe = _run(3_000, admission="whole")
    assert safe.totals["preemptions"] == 0
    assert np.mean(safe.records.queued_s) > np.mean(runs[3_000].records.queued_s)
    assert safe.totals["batch_mean"] < runs[3_000].totals["batch_mean"]
