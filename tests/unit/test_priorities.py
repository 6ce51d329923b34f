"""Requests of several priorities: drawn, served by them, preempted for each other, and swapped to the host or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.classes import stack_named
from steelyard.simulation.api import simulate
from steelyard.techniques._registry import parse

#: A cache of few blocks and few seats, so that requests give way.
WORDS: dict[str, Any] = {
    "engine": "vllm@0.6",
    "requests": 80,
    "rate": "8/s",
    "isl": 400,
    "osl": 100,
    "priorities": "0.25,0.75",
    "flags": {"num_gpu_blocks_override": 300, "max_num_seqs": 8},
}


def run(policy: str, *techniques: str, **words: Any) -> Any:
    return simulate("llama-3.1-8b", "a10", policy=policy, techniques=techniques, **{**WORDS, **words})


def test_a_higher_priority_takes_the_place_of_a_lower() -> None:
    plain, ordered, preempting = (run(p).to_dict() for p in ("fcfs", "priority", "priority-preempt"))
    first = [found["priorities"][0]["ttft_s"]["mean"] for found in (plain, ordered, preempting)]
    assert first[2] < first[1] / 2 and first[1] < first[0] / 2
    own, other = preempting["priorities"]
    assert own["requests"] + other["requests"] == 80 and own["requests"] == pytest.approx(20, abs=12)
    assert own["preemptions"] == 0 < other["preemptions"] == preempting["preemptions"]
    assert preempting["completed"] == 80


def test_priorities_are_drawn_by_the_seed_and_change_nothing_else() -> None:
    one, again, other = run("fcfs"), run("fcfs", priorities="0.25, 0.75"), run("fcfs", priorities="0.5,0.5")
    assert np.array_equal(one.trace.priority, again.trace.priority)
    assert np.array_equal(one.records.ttft_s, other.records.ttft_s)
    assert not np.array_equal(one.trace.priority, other.trace.priority)
    assert "priorities" not in run("fcfs", priorities="").to_dict()


@pytest.mark.parametrize("shares", ["0.2,0.9", "a", "-0.5,1.5", "0.5;0.5"])
def test_shares_that_are_none(shares: str) -> None:
    with pytest.raises(InputError, match="priorities"):
        run("priority", priorities=shares)


def test_priorities_that_nobody_gave() -> None:
    with pytest.raises(InputError, match=r"policy: the requests have no priorities: .*--priorities 0.2,0.8"):
        run("priority-preempt", priorities="")


def test_many_small_copies_take_longer_than_a_long_one_and_steps_wait_for_them() -> None:
    """32 layers, keys and values: 64 copies of a block, none of them sooner than the host can issue the next."""
    chain, small = (run("priority-preempt", t) for t in ("kv-tiers:cpu:8GB,swap", "kv-tiers:cpu:8GB,swap,piecewise"))
    kept = [found.to_dict()["extras"]["swapped_tokens"] for found in (chain, small)]
    assert kept[0] > 0 and kept[1] > 0
    launch_s = stack_named(find_machine("a10").launch).launch_s
    copied = 2 * small.to_dict()["extras"]["swapped_tokens"] / 16  # out and in, blocks of 16 tokens
    steps = [float(found.iterations.duration_s.sum()) for found in (chain, small)]
    assert steps[1] - steps[0] == pytest.approx(copied * 64 * launch_s, rel=0.3)


def test_pieces_are_those_of_swapping_to_the_host() -> None:
    for text in ("kv-tiers:cpu:8GB,piecewise", "kv-tiers:cpu:8GB,ssd:1TB,swap,piecewise"):
        with pytest.raises(InputError, match="piecewise copies are those of swapping"):
            parse(text)
    assert parse("vllm-swap").piecewise  # type: ignore[attr-defined]
