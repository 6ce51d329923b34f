"""An engine without captured graphs: the host launches every kernel of a step, and memory for graphs is free."""

from __future__ import annotations

import pytest

import steelyard as sy
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import configured
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine

LAUNCHES = "llama-3.1-8b", "h100_sxm"


def test_a_step_takes_as_long_as_its_launches_where_the_device_is_faster() -> None:
    graphs = sy.estimate(*LAUNCHES, batch=1, isl=256, osl=64)
    eager = sy.estimate(*LAUNCHES, batch=1, isl=256, osl=64, enforce_eager=True)
    launched = sum(float(k.kernel.count) for k in eager.decode.cost) * find_engine("vllm").launch_s
    assert eager.tpot_s > 1.5 * graphs.tpot_s
    assert eager.tpot_s == pytest.approx(launched, rel=0.15)


def test_a_large_batch_hides_the_launches() -> None:
    graphs, eager = (sy.estimate(*LAUNCHES, batch=256, isl=1024, osl=64, enforce_eager=on) for on in (False, True))
    assert eager.tpot_s == pytest.approx(graphs.tpot_s, rel=0.05)


def test_a_run_of_one_client_takes_the_time_of_the_estimate() -> None:
    run = sy.simulate(*LAUNCHES, concurrency=1, requests=4, isl=256, osl=64, enforce_eager=True)
    eager = sy.estimate(*LAUNCHES, batch=1, isl=256, osl=64, enforce_eager=True)
    assert run.records.tpot_s.mean() == pytest.approx(eager.tpot_s, rel=0.08)


def test_graphs_leave_their_memory_to_the_cache() -> None:
    engine, machine = find_engine("vllm"), find_machine("h100_sxm")
    assert configured(engine, machine, {"enforce_eager": True}).graph_bytes == 0.0 < engine.graph_bytes
    assert configured(engine, machine, {"enforce_eager": False}) == configured(engine, machine, {})


def test_an_engine_that_captures_no_graphs_refuses_to_be_told_so() -> None:
    with pytest.raises(InputError, match="captures no graphs"):
        sy.estimate(*LAUNCHES, engine="torch", enforce_eager=True)


def test_the_names_of_the_engines_are_taken() -> None:
    flags = {"disable_cuda_graph": True}
    assert not configured(find_engine("sglang"), find_machine("h100_sxm"), flags).graph
    with pytest.raises(InputError, match="unknown flag"):
        configured(find_engine("vllm"), find_machine("h100_sxm"), flags)
