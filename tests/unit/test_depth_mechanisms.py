"""Tokens that skip blocks: formulas and directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate
from steelyard.workload.blocks.skipped import some
from steelyard.workload.shapes import Skip
from steelyard.workload.step import Step


def ask(*techniques: str, **sizes: Any) -> Estimate:
    words = {"batch": 1, "isl": 2048, "osl": 200, **sizes}
    return estimate("llama-3-8b", "a100_80g", techniques=techniques, **words)


def block_s(found: Estimate, block: str) -> float:
    return float(sum(k.time_s for k in found.decode.cost.kernels if k.kernel.block == block))


def test_one_token_skips_in_proportion_and_a_batch_less() -> None:
    for batch in (1, 4):
        plain, skipped = ask(batch=batch), ask("layer-skip:feed_forward=0.5,attention=0", batch=batch)
        runs = 1 - 0.5**batch
        assert block_s(skipped, "mlp") == pytest.approx(runs * block_s(plain, "mlp"), rel=0.03)
        assert block_s(skipped, "attention") == pytest.approx(block_s(plain, "attention"))
    many = ask("layer-skip:feed_forward=0.5,attention=0", batch=512, isl=64)
    union = ask("layer-skip:feed_forward=0.5,attention=0,union", batch=512, isl=64)
    plain = ask(batch=512, isl=64)
    assert block_s(union, "mlp") == block_s(plain, "mlp")
    assert 0.4 < block_s(many, "mlp") / block_s(plain, "mlp") < 0.8


def test_what_skipped_attention_leaves() -> None:
    plain, filled, absent = ask(), ask("layer-skip:0.4"), ask("layer-skip:0.4,cache=absent")
    assert filled.memory.kv_cache == plain.memory.kv_cache
    assert absent.memory.kv_cache == pytest.approx(0.6 * plain.memory.kv_cache)
    assert absent.tpot_s < filled.tpot_s < plain.tpot_s
    assert absent.ttft_s < filled.ttft_s < plain.ttft_s
    assert ask("layer-skip:0.4,answers").ttft_s == plain.ttft_s
    assert absent.memory.weights == plain.memory.weights
    half = ask("layer-skip:0.4,full=0.5")
    assert plain.tpot_s - half.tpot_s == pytest.approx(0.5 * (plain.tpot_s - filled.tpot_s), rel=0.05)
    assert ask("layer-skip:0,gate=1024").tpot_s > plain.tpot_s


def test_tokens_are_conserved() -> None:
    step = Step(np.array([1.0, 8.0]), 1, 100)
    left, runs = some(step, 0.25, Skip())
    assert np.allclose(left.tokens * runs, 0.75 * step.tokens)
    assert np.allclose(runs, 1 - 0.25 ** np.array([1, 8]))
    prompt, runs = some(Step.prefill(2, 1000), 0.25, Skip(answers=True))
    assert float(prompt.tokens) == 2000 and float(runs) == 1.0


def test_early_exit_prices_a_static_batch() -> None:
    plain, exits = ask(), ask("early-exit:ramps=3,p=0.3")
    depth = (1 + 0.7 + 0.49 + 0.343) / 4
    assert exits.tpot_s == pytest.approx(depth * plain.tpot_s, rel=0.1)
    assert exits.ttft_s == pytest.approx(plain.ttft_s)
    alone, regrouped = (ask(f"early-exit:ramps=3,p=0.3{x}", batch=32) for x in ("", ",rebatch"))
    assert regrouped.tpot_s < alone.tpot_s <= ask(batch=32).tpot_s


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="filled or absent"):
        ask("layer-skip:0.3,cache=kept")
    with pytest.raises(InputError, match="no token would leave anything"):
        ask("layer-skip:1,cache=absent")
    with pytest.raises(InputError, match="one technique of depth"):
        ask("layer-skip:0.3", "early-exit:ramps=1")
