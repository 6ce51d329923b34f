"""What lies between a client and the engine: steps chosen ahead, requests and tokens served one after another."""

from __future__ import annotations

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.step_table import constant_tables
from steelyard.deployment.engine import find_engine
from steelyard.traffic.trace import Trace
from tests.serving import config, run

STEP_S = 0.01
STEPS = constant_tables(STEP_S, 0.0)


def arrivals(*at: float, osl: int = 10) -> Trace:
    return Trace(np.array(at), np.full(len(at), 8), np.full(len(at), osl))


@pytest.mark.parametrize(("ahead", "first"), [(False, 0.04), (True, 0.05)])
def test_a_step_chosen_ahead_leaves_newcomers_to_the_next(ahead: bool, first: float) -> None:
    found = run(arrivals(0.0, 0.025), config(async_scheduling=ahead), tables=STEPS).requests
    assert found["first_at"] == pytest.approx([STEP_S, first])


def test_an_idle_engine_takes_a_request_at_once() -> None:
    found = run(arrivals(0.0, 0.5), config(async_scheduling=True), tables=STEPS).requests
    assert found["first_at"] == pytest.approx([STEP_S, 0.5 + STEP_S])


def test_requests_of_a_burst_go_through_the_server_one_by_one() -> None:
    trace = arrivals(*np.zeros(5), osl=1)
    found = run(trace, config(front_s=0.02), tables=STEPS, request_s=0.004).requests
    assert found["first_at"] == pytest.approx(0.004 + 0.02 * np.arange(5) + STEP_S)
    two = run(trace, config(front_s=0.02, api_server_count=2), tables=STEPS, request_s=0.004).requests
    assert two["first_at"] == pytest.approx(0.004 + 0.01 * np.arange(5) + STEP_S)


def test_tokens_come_later_and_a_server_that_is_too_slow_sets_the_rate() -> None:
    trace = Trace(np.zeros(8), np.full(8, 8), np.full(8, 50))
    early = run(trace, config(stream_s=0.5e-3), tables=STEPS)
    assert early.requests["first_at"] == pytest.approx(STEP_S + 8 * 0.5e-3)
    assert early.totals["makespan_s"] == pytest.approx(50 * STEP_S + 8 * 0.5e-3)
    late = run(trace, config(stream_s=2e-3), tables=STEPS)
    assert late.totals["makespan_s"] == pytest.approx(STEP_S + 8 * 50 * 2e-3)
    assert late.requests["last_at"] == pytest.approx(late.totals["makespan_s"])
    none = run(trace, config(stream_s=2e-3, api_server_count=0), tables=STEPS)
    assert none.totals["makespan_s"] == pytest.approx(50 * STEP_S)


def test_a_client_sends_its_next_request_when_it_has_the_answer() -> None:
    trace = Trace(np.zeros(2), np.full(2, 8), np.full(2, 2), concurrency=1)
    found = run(trace, config(stream_s=3e-3), tables=STEPS).requests
    assert found["arrived_at"] == pytest.approx([0.0, 2 * STEP_S + 3e-3])


def test_one_server_of_vllm_streams_no_more_than_it_can() -> None:
    asked = {"on": "h100_sxm", "engine": "vllm", "concurrency": 512, "requests": 1024, "isl": 16, "osl": 64}
    most = 1.0 / find_engine("vllm").stream_s
    one, four, offline = (
        sy.simulate("Qwen/Qwen3-0.6B", api_server_count=n, **asked).summary()["throughput"]["output_tokens_per_s"]
        for n in (1, 4, 0)
    )
    assert 0.8 * most < one <= most
    assert one < four <= offline * 1.001


def test_the_first_token_of_an_idle_server() -> None:
    """Measured on servers of this release at one request a second: 5 to 13 ms beside the prompt."""
    for name in ("vllm", "vllm@0.12"):
        assert 5e-3 <= find_engine(name).request_s <= 13e-3
