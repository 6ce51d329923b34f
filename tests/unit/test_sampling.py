"""How tokens are chosen: what drawing them costs, by release, vocabulary and machine."""

from __future__ import annotations

import numpy as np
import pytest

import steelyard as sy
from steelyard.deployment.engine import find_engine
from steelyard.errors import InputError


def step_s(engine: str, sampling: str, *, batch: int = 64, model: str = "qwen3-8b", on: str = "h100_sxm") -> float:
    found = sy.estimate(model, on=on, engine=engine, batch=batch, isl=128, osl=2, sampling=sampling)
    return float(found.tpot_s)


def test_sorting_every_score_takes_as_long_as_it_was_measured_to() -> None:
    """PyTorch's top-p of 128 requests and 151,936 or 262,144 scores on an H200: 2.9 and 4.9 ms (LightLLM, 2026-09)."""
    added = step_s("vllm@0.12", "top-p", batch=128, on="h200_sxm") - step_s(
        "vllm@0.12", "greedy", batch=128, on="h200_sxm"
    )
    assert added == pytest.approx(2.95e-3, rel=0.15)
    wide = [step_s("vllm@0.12", how, batch=128, on="h200_sxm", model="gemma-3-12b") for how in ("greedy", "top-p")]
    assert wide[1] - wide[0] == pytest.approx(4.9e-3, rel=0.15)


def test_releases_with_kernels_of_their_own_draw_almost_for_nothing() -> None:
    """vLLM sorted until 0.15, has a Triton kernel since 0.16 and FlashInfer's by default since."""
    added = {
        e: step_s(e, "top-p") - step_s(e, "greedy") for e in ("vllm@0.11", "vllm@0.14", "vllm@0.18", "vllm", "sglang")
    }
    assert added["vllm@0.11"] == added["vllm@0.14"] > 1.5e-3
    assert max(added[e] for e in ("vllm@0.18", "vllm", "sglang")) < 0.3e-3
    assert 0 < step_s("vllm@0.11", "random") - step_s("vllm@0.11", "greedy") < added["vllm@0.11"] / 10


def test_a_simulated_step_and_its_energy_hold_it_once_per_device() -> None:
    load = {"on": "h100_sxm", "engine": "vllm@0.12", "concurrency": 64, "requests": 128, "isl": 64, "osl": 128}
    greedy, drawn = (sy.simulate("qwen3-8b", sampling=how, **load) for how in ("greedy", "top-p"))
    added = np.mean(drawn.records.tpot_s) - np.mean(greedy.records.tpot_s)
    assert added == pytest.approx(step_s("vllm@0.12", "top-p") - step_s("vllm@0.12", "greedy"), rel=0.1)
    assert drawn.totals["energy_j"] > greedy.totals["energy_j"] * 1.1
    split = [
        sy.estimate("qwen3-8b", on="2xh100_sxm", tp=2, engine="vllm@0.12", batch=64, isl=128, osl=2, sampling=how)
        for how in ("greedy", "top-p")
    ]
    assert split[1].tpot_s - split[0].tpot_s == pytest.approx(added, rel=0.1), "every device sorts all scores"


def test_an_answer_for_greedy_requests_says_so_where_it_matters() -> None:
    def told(engine: str, **words: str) -> bool:
        answers = sy.estimate("qwen3-8b", on="h100_sxm", engine=engine, **words).ledger
        played = sy.simulate("qwen3-8b", on="h100_sxm", engine=engine, rate=5, requests=5, **words).ledger
        found = ["--sampling" in " ".join(x.assumptions) for x in (answers, played)]
        assert found[0] == found[1]
        return found[0]

    assert told("vllm@0.12")
    assert not told("vllm@0.12", sampling="top-p")
    assert not told("vllm")


def test_what_is_not_a_way_to_choose_is_refused() -> None:
    with pytest.raises(InputError, match="greedy, random, top-p"):
        sy.simulate("qwen3-8b", on="h100_sxm", sampling="beam", rate=1)
    with pytest.raises(InputError, match="sampling"):
        sy.estimate("qwen3-8b", on="h100_sxm", sampling=3)


def test_releases_choose_steps_ahead_from_0_14() -> None:
    assert [find_engine(f"vllm@{v}").async_scheduling for v in ("0.11", "0.13", "0.14", "0.15.1", "0.18", "0.24")] == [
        False
    ] * 2 + [True] * 4
