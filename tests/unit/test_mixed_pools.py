"""Pools that lend each other their replicas while one of them has too much to do (Splitwise's mixed pool)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from steelyard.simulation.api import simulate
from steelyard.techniques._registry import parse

LONG: dict[str, Any] = {"requests": 30, "isl": 8000, "osl": 20}


def run(mixed: int, name: str = "distserve", **words: Any) -> Any:
    with_ = f"{name}:2P:tp1,2D:tp1" + (f",mixed={mixed}" if mixed else "")
    return simulate("llama-3.1-8b", "h100_sxm:4", techniques=with_, **words)


def test_prompts_go_to_replicas_for_outputs_where_they_pile_up() -> None:
    """The first token comes sooner; outputs wait for the prompts beside them. A higher threshold lends less."""
    apart, some, much = (run(mixed, rate="20/s", **LONG).to_dict() for mixed in (0, 4, 1))
    assert (
        much["ttft_s"]["mean"] < 0.6 * apart["ttft_s"]["mean"] and much["tpot_s"]["mean"] > 2 * apart["tpot_s"]["mean"]
    )
    assert much["ttft_s"]["mean"] < some["ttft_s"]["mean"] < apart["ttft_s"]["mean"]
    lent = [found["pools"][1]["prefill_tokens"] for found in (apart, some, much)]
    assert lent[0] == 0 < lent[1] < lent[2] < LONG["requests"] * LONG["isl"] / 2
    for found in (some, much):
        assert found["completed"] == 30
        computed = sum(p["prefill_tokens"] for p in found["pools"])
        assert computed == LONG["requests"] * LONG["isl"], "every prompt token once"
        assert sum(p["decode_tokens"] for p in found["pools"]) == LONG["requests"] * (LONG["osl"] - 1)
        assert found["pools"][0]["sent"]["requests"] * LONG["isl"] <= found["pools"][0]["prefill_tokens"]


def test_answers_stay_where_the_prompt_was_while_nobody_has_room() -> None:
    words: dict[str, Any] = {"requests": 30, "isl": 500, "osl": 60, "flags": {"num_gpu_blocks_override": 200}}
    apart, mixed = (run(n, rate="inf", **words).to_dict() for n in (0, 8))
    assert apart["pools"][0]["decode_tokens"] == 0 < mixed["pools"][0]["decode_tokens"]
    assert mixed["e2e_s"]["mean"] < apart["e2e_s"]["mean"] and mixed["completed"] == 30


def test_nothing_is_lent_where_nothing_waits() -> None:
    apart, mixed = (run(n, "splitwise", rate="1/s", **{**LONG, "requests": 10}) for n in (0, 4))
    assert np.array_equal(apart.records.ttft_s, mixed.records.ttft_s)
    assert np.array_equal(apart.records.e2e_s, mixed.records.e2e_s)
    assert parse("splitwise:2P:tp1,2D:tp1").rules() is None
