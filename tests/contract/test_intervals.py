"""What every interval promises, over random deployments: it holds its prediction and begins at the physical limit."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import steelyard
import steelyard as sy
from steelyard.cost.interval import BORROWED_SPREAD, SYSTEM_SPREAD, Z80, interval80, with_system
from steelyard.cost.step import Replica
from steelyard.cost.step_table import build_step_table
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import InputError
from steelyard.machine.cluster import parse_cluster
from steelyard.workload import Step
from steelyard.workload.catalogue import load_model

MODELS = st.sampled_from(
    ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gemma-3-27b", "gpt-oss-120b", "qwen3-next-80b-a3b", "bert-large"]
)
PLACES = st.sampled_from(
    ["h100_sxm:8", "h200_sxm:16", "h20:8", "l40s:4", "mi300x:8", "a100_sxm:8", "m4_max", "tpu_v5e:8", "rtx_4090:2"]
)
DEGREES = st.fixed_dictionaries(
    {}, optional={"tp": st.sampled_from([1, 2, 4]), "pp": st.sampled_from([1, 2, 4, 8]), "ep": st.sampled_from([1, 2])}
)


@settings(max_examples=60, deadline=None)
@given(
    model=MODELS,
    on=PLACES,
    degrees=DEGREES,
    sizes=st.tuples(st.integers(1, 400), st.integers(1, 6000), st.integers(1, 600)),
    skew=st.sampled_from([0.0, 0.7]),
)
def test_an_interval_holds_its_prediction_and_begins_at_the_limit(
    model: str, on: str, degrees: dict[str, int], sizes: tuple[int, int, int], skew: float
) -> None:
    batch, isl, osl = sizes
    try:
        found = sy.estimate(model, on, batch=batch, isl=isl, osl=osl, skew=skew, **degrees)
    except InputError:
        return
    for name, (low, high) in found.interval.items():
        value = getattr(found, name)
        assert 0 < low <= value <= high
        assert high >= value * np.exp(Z80 * SYSTEM_SPREAD) * (1 - 1e-12), "the system's own spread is part of it"
        if name in found.limit:
            assert found.limit[name] <= low * (1 + 1e-12)
    for phase in ("prefill", "decode"):
        assert sum(found.shares[phase].values()) == pytest.approx(1.0)


@given(st.floats(1e-9, 1e9), st.floats(0, 3), st.floats(0, 1))
def test_the_ends_are_those_of_a_lognormal(value: float, spread: float, share: float) -> None:
    low, high = interval80(value, spread)
    assert low * high == pytest.approx(value**2, rel=1e-9)
    assert np.log(high / low) == pytest.approx(2 * Z80 * spread, abs=1e-9)
    assert interval80(value, spread, at_least=share * value)[0] >= share * value
    assert with_system(spread) >= max(spread, SYSTEM_SPREAD)


def test_a_borrowed_parameter_widens_the_interval() -> None:
    def width(on: str) -> float:
        low, high = sy.estimate("llama-3.1-8b", on, batch=8).interval["tpot_s"]
        return float(np.log(high / low))

    assert list(BORROWED_SPREAD.values()) == sorted(BORROWED_SPREAD.values())
    assert width("h100_sxm") < width("h100_pcie") < width("h20")


@pytest.mark.parametrize("pp", [1, 2])
def test_a_step_table_states_its_spread_and_limit(pp: int) -> None:
    model, engine = load_model("llama-3.1-8b").transformer, find_engine("vllm")
    cluster = parse_cluster("h100_sxm:2")
    replica = Replica(model, Plan(tp=2 // pp, pp=pp).resolved(model), cluster, engine)
    table = build_step_table(replica, engine_config(engine, cluster.machine), max_context=4096)
    step = replica.price(Step.decode(32, 2048))
    assert table.limit_frac == pytest.approx(float(step.limit_s / step.time_s))
    assert table.spread == pytest.approx(float(np.hypot(step.cost.log_spread(), SYSTEM_SPREAD)))


def test_the_width_of_an_interval_is_stated_once() -> None:
    holders = []
    for file in Path(steelyard.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            value: Any = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, float) and 1.28 < value < 1.283:
                holders.append(file.name)
    assert holders == ["interval.py"]
