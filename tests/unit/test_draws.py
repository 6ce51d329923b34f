"""Where the width of a served figure comes from: its steps, the queue, the draw of its requests, a known recipe."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.cost.interval import POWER_SPREAD, SYSTEM_SPREAD, Z80, known_conditions, with_system
from steelyard.simulation.draws import draw_of, draw_of_rate, is_drawn
from steelyard.traffic.build import SHORTEST_ANSWER, Traffic, traffic
from steelyard.traffic.trace import Trace

LOAD: dict[str, Any] = {"isl": 512, "osl": 64}


@cache
def served(**words: Any) -> Any:
    return sy.simulate("llama-3.1-8b", "h100_sxm", **{**LOAD, **words})


def width(run: Any, metric: str, name: str = "mean") -> float:
    low, high = run.intervals()[metric][name]
    return float(high / low)


def test_a_queue_near_saturation_is_less_sure_than_an_idle_server() -> None:
    idle, full = served(rate=1, requests=100), served(rate=68, requests=300)
    assert full.summary()["queue_s"]["mean"] > 10 * idle.summary()["queue_s"]["mean"]
    assert width(full, "ttft_s") > 1.7 * width(idle, "ttft_s")


def test_a_known_recipe_is_surer_than_a_user_who_names_none() -> None:
    words = {"concurrency": 8, "requests": 40, "tp": 1}
    user, known = served(**words), served(**words, recipe="inferencex-2026-02/vllm-hopper")
    for metric, name in (("tpot_s", "mean"), ("throughput", "output_tokens_per_s"), ("ttft_s", "mean")):
        assert width(known, metric, name) < width(user, metric, name)
    assert width(known, "tpot_s") < 1.4 < width(user, "tpot_s")
    load_only = served(rate="inf", requests=40, recipe="mlperf-inference/llama3.1-8b")
    assert load_only.spread == pytest.approx(float(known_conditions(load_only.spread, SYSTEM_SPREAD)))


def test_what_a_recipe_leaves_replaces_the_systems_own_share() -> None:
    assert known_conditions(with_system(0.1), 0.04) == pytest.approx(np.hypot(0.1, 0.04))
    assert known_conditions(with_system(0.1), SYSTEM_SPREAD) == pytest.approx(with_system(0.1))


def test_few_requests_leave_their_rate_open() -> None:
    """A hundred Poisson arrivals come at a rate known to 1 / sqrt(100): steps say nothing about it."""
    run = served(rate=2, requests=100)
    low, high = run.intervals()["throughput"]["requests_per_s"]
    gaps = np.diff(run.trace.arrived_at)
    assert np.log(high / low) > 2 * 1.28 * gaps.std() / gaps.mean() / 10 * 0.99
    assert draw_of_rate(run, "requests_per_s") == pytest.approx(0.128, rel=0.25)


def test_what_was_recorded_is_not_drawn_again() -> None:
    given = Trace(arrived_at=np.arange(50.0), isl=np.full(50, 512), osl=np.full(50, 64))
    assert not is_drawn(given)
    assert is_drawn(traffic(Traffic(rate=1, requests=5))) and is_drawn(traffic(Traffic(concurrency=2)))


def test_a_percentile_is_as_sure_as_the_requests_beside_it() -> None:
    run = served(rate=20, requests=100, osl="lognormal:64")
    down, up = draw_of(run, "e2e_s", "p99")
    values = np.sort(run.records.e2e_s)
    assert up == pytest.approx(np.log(values[-1] / np.quantile(values, 0.99)))
    assert down > draw_of(run, "e2e_s", "p50")[0] > 0
    assert draw_of(run, "ttft_s", "mean")[0] == pytest.approx(
        1.2816 * run.records.ttft_s.std() / run.records.ttft_s.mean() / 10, rel=1e-3
    )


def test_clients_with_equal_requests_do_not_march_in_step() -> None:
    drawn = traffic(Traffic(concurrency=8, isl=512, osl=256))
    assert (drawn.isl == 512).all()
    assert drawn.osl.max() == 256 and drawn.osl.min() == np.ceil(SHORTEST_ANSWER * 256), "never longer than stated"
    assert any("uniform:256-256" in note for note in drawn.notes)
    exact = traffic(Traffic(concurrency=8, isl=512, osl="uniform:256-256"))
    assert (exact.osl == 256).all()
    for alone in (Traffic(concurrency=1, osl=256), Traffic(concurrency=8, requests=8, osl=256), Traffic(rate=1, osl=9)):
        sent = traffic(alone)
        assert len(set(sent.osl.tolist())) == 1 and not sent.notes
    clients = {"concurrency": 64, "requests": 640, "isl": 1024}
    apart, marching = served(**clients, osl=256), served(**clients, osl="uniform:256-256")
    first = [run.summary()["ttft_s"]["p50"] for run in (apart, marching)]
    assert first[0] < 0.75 * first[1]


def test_an_energy_is_as_sure_as_the_power_and_the_time() -> None:
    run = served(rate=1, requests=100)
    low, high = run.intervals()["energy"]["energy_j_per_output_token"]
    assert low < run.summary()["energy_j_per_output_token"] < high
    assert high / low >= np.exp(2 * Z80 * POWER_SPREAD) * 0.999, "steps alone hardly move the power"
