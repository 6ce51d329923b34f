"""The processor beside the devices: what an engine does there takes longer on a slower one, and is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

import steelyard as sy
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_host import HOST_TIMES, host_time, on_host
from steelyard.machine.catalogue import find_machine


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm", "torch"])
def test_every_time_of_the_host_is_longer_on_grace_and_once_only(name: str) -> None:
    engine, grace, x86 = find_engine(name), find_machine("gb200"), find_machine("b200_sxm")
    slow = on_host(engine, grace)
    assert host_time(grace) == 1.75 and host_time(x86) == 1.0
    for time in HOST_TIMES:
        if getattr(engine, time):
            assert getattr(slow, time) == pytest.approx(1.75 * getattr(engine, time)), time
    assert slow.launch_s > engine.launch_s
    assert on_host(slow, grace) == slow and on_host(engine, x86) is engine
    assert on_host(slow, x86).step_s == pytest.approx(engine.step_s)
    assert replace(slow, **{n: getattr(engine, n) for n in HOST_TIMES}, host_time=1.0) == engine


def test_estimates_and_runs_on_grace_have_the_slower_host_and_say_so() -> None:
    words = {"batch": 1, "isl": 256, "osl": 64}
    found = sy.estimate("llama-3.1-8b", "gb200", **words)  # type: ignore[arg-type]
    assert found.scenario.engine.host_time == 1.75
    assert any("1.75 times as long" in x for x in found.ledger.assumptions)
    run = sy.simulate("llama-3.1-8b", "gb200", concurrency=1, requests=4, isl=256, osl=64)
    assert run.records.tpot_s.mean() == pytest.approx(found.tpot_s, rel=0.1)
    assert run.records.ttft_s.mean() > 1.75 * find_engine("vllm").request_s
    assert any("1.75 times as long" in x for x in run.ledger.assumptions)
    there = sy.estimate("llama-3.1-8b", "b200_sxm", **words)  # type: ignore[arg-type]
    assert not any("times as long" in x for x in there.ledger.assumptions)
