"""Options that stand for techniques are read or refused, never ignored; sizes are bounded before anything is made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from steelyard.deployment.dynamics import Autoscale, Outage
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import InputError
from steelyard.machine.catalogue import find_machine
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.words import Problems
from steelyard.simulation.sizes import MOST_BYTES, check_bytes, check_steps
from steelyard.techniques._registry import FLAGS, OPTIONS
from steelyard.techniques.autoscale import Autoscaling
from steelyard.techniques.lora import Lora, draw_adapters
from steelyard.traffic.arrivals import onoff
from steelyard.traffic.branches import best_of
from steelyard.traffic.trace import Trace

GIVEN = ("autoscale", "speculate", "lora", "kv_tiers", "early_exit", "finetune", "overlap", "disaggregate", "migrate")
NONSENSE = (math.nan, math.inf, -1, 10**400, ",", " , ", {}, [1, 2], (1,), b"x", object(), np.zeros(2))


def read(**words: Any) -> Scenario:
    return read_scenario("simulate", {"model": "llama-3.1-8b", "on": "h100_sxm", "rate": "2/s", **words}, Problems())


@pytest.mark.parametrize("option", sorted({*FLAGS, *(o for options in OPTIONS.values() for o in options)}))
def test_an_option_that_says_nothing_is_refused_under_its_name(option: str) -> None:
    for value in NONSENSE:
        with pytest.raises(InputError) as caught:
            read(**{option: value})
        assert {p.field.partition(".")[0] for p in caught.value.problems} == {option}, value
        assert len(str(caught.value)) < 400, value


def test_numbers_and_objects_that_mean_something_are_taken() -> None:
    assert read(lora=100).techniques == read(lora="100").techniques
    assert read(lora=np.int64(100)).techniques == read(lora=Lora(100)).techniques
    assert read(finetune=0.03).techniques == read(finetune="30ms").techniques
    assert read(autoscale=Autoscale(1, 8, 16.0)).techniques == read(autoscale="1:8,target=16").techniques
    assert read(autoscale=Autoscale(1, 8)).techniques == (Autoscaling(1, 8),)
    one = Outage(10.0, 0)
    for outages in ("10s:0:down", one, [one], ["10s:0:down"], (one,)):
        assert read(outages=outages).techniques[0].outages == (one,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words",
    [
        {"autoscale": Lora(4)},
        {"lora": Autoscaling(1, 2)},
        {"autoscale": Autoscale("a", 8)},  # type: ignore[arg-type]
        {"autoscale": Autoscale(1, 8, math.nan)},
        {"outages": [Outage(math.nan, 0)]},
        {"outages": [Outage(1.0, 0.5)]},  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_objects_for_something_else_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(words))}"):
        read(**words)


def test_a_technique_checks_the_types_of_its_parameters() -> None:
    for wrong in (
        {"count": 2.5},
        {"count": "4"},
        {"count": True},
        {"count": 4, "targets": 5},
        {"count": 4, "zipf": None},
    ):
        with pytest.raises(InputError, match="lora"):
            Lora(**wrong)  # type: ignore[arg-type]


TOO_LARGE: list[dict[str, Any]] = [
    *({name: 10**12} for name in ("tp", "dp", "replicas", "requests", "best_of", "beam")),
    {"concurrency": 10**12, "rate": ""},
    {"system": 10**12, "turns": 2},
    {"burst": 1e300},
    {"skew": 1e9},
    {"stop_after_s": 1e300},
    {"lora": "1000000000"},
    {"lora": "100,rank=10000000"},
    {"autoscale": "1:1000000000"},
    {"autoscale": "1:8,interval=1e-9"},
    {"autoscale": "1:8,start=1e300"},
    {"mtbf": "1e300"},
    {"mtbf": "1e-9s"},
    {"mtbf": "10ms"},
    {"restart": "1e300"},
    {"finetune": "30ms,context=10000000000"},
    {"speculate": "tree:width=1000000,depth=4,by=medusa"},
    {"kv_tiers": "cpu:1e300B"},
]


@pytest.mark.parametrize("words", TOO_LARGE, ids=str)
def test_a_size_beyond_its_bound_is_one_line(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected .*(at most|at least (0\.0+)?1|from)") as caught:
        read(**words)
    assert next(iter(words)) in {p.field for p in caught.value.problems}


@pytest.mark.parametrize("value", [10**19, 10**400, math.nan, math.inf, True, "x", 1.5, [], b"1"], ids=repr)
def test_engine_flags_are_numbers_within_bounds(value: Any) -> None:
    engine, machine = find_engine("vllm"), find_machine("h100_sxm")
    for flag in ("max_num_seqs", "max_num_batched_tokens", "block_size", "num_gpu_blocks_override", "max_model_len"):
        with pytest.raises(InputError, match=f"flags.{flag}: expected"):
            engine_config(engine, machine, {flag: value})
    for flag in ("gpu_memory_utilization", "watermark", "host_s"):
        if value != 1.5:
            with pytest.raises(InputError, match=f"flags.{flag}: expected"):
                engine_config(engine, machine, {flag: value})


def test_switches_of_an_engine_are_true_or_false() -> None:
    engine, machine = find_engine("vllm"), find_machine("h100_sxm")
    assert engine_config(engine, machine, {"enable_prefix_caching": 0}).enable_prefix_caching is False
    for value in ("x", "false", 2, math.nan, []):
        with pytest.raises(InputError, match=r"flags.enable_prefix_caching: expected true or false"):
            engine_config(engine, machine, {"enable_prefix_caching": value})


@pytest.mark.parametrize("name", ["budget", "max_power", "rack_power", "headroom"])
def test_limits_of_a_plan_are_bounded(name: str) -> None:
    from steelyard.search.api import plan

    for value in (1e300, "1e300"):
        with pytest.raises(InputError, match=f"{name}: expected at most"):
            plan("llama-3.1-8b", "h100_sxm", rate="1/s", ttft="1s", **{name: value})


def test_work_and_memory_are_reckoned_before_they_are_done() -> None:
    from steelyard.scenario.scenario import read_trace

    def trace(**words: Any) -> Trace:
        return read_trace(read(**words).words)

    with pytest.raises(InputError, match=r"turns: .*requests; at most"):
        trace(turns=10**6)
    with pytest.raises(InputError, match=r"turns: the prompts have .* hashed blocks; at most"):
        trace(turns=10_000, requests=100)
    with pytest.raises(InputError, match=r"best_of: the prompts have .* hashed blocks"):
        best_of(Trace(np.arange(2000.0), np.full(2000, 1024), np.full(2000, 10)), 1000)
    with pytest.raises(InputError, match=r"arrivals: .* phases of on and off"):
        onoff(2.0, 1e-9, 1e-9, 100, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"osl: .* generated tokens; expected at most"):
        check_steps(1e11, 0.0)
    with pytest.raises(
        InputError, match=r"lora: adapters take 2.0 GiB of this computer's memory; expected at most 1 GiB"
    ):
        check_bytes({"requests": ("requests", 5.0), "adapters": ("lora", 2.0 * MOST_BYTES)})
    assert len(draw_adapters(Lora(1000), 10)) == 10
