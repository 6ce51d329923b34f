"""RDNA 4 under serving engines: Triton kernels nobody tuned for it, experts most of all."""

from __future__ import annotations

import pytest

from steelyard import estimate

CARD = "radeon_ai_pro_r9700"


# SGLang on two cards; nothing of the first was fitted
@pytest.mark.parametrize(
    ("model", "tpot_s"), [("Qwen3-Coder-30B-A3B-Instruct", 0.0116), ("Qwen3-VL-32B-Instruct", 0.0314)]
)
def test_answers_of_four_bit_weights_as_measured(model: str, tpot_s: float) -> None:
    found = estimate(model, f"{CARD}:2", tp=2, weights="awq", engine="sglang", isl=32, osl=64)
    assert found.tpot_s == pytest.approx(tpot_s, rel=0.15)


def test_eight_bits_gain_less_than_bytes_say() -> None:
    wide, narrow = (
        estimate("Qwen3-8B", CARD, weights=w, engine="vllm", isl=32, osl=64).tpot_s for w in ("bf16", "fp8")
    )
    assert 0.65 * wide < narrow < wide
    other = [estimate("Qwen3-8B", "rtx_4090", weights=w, engine="vllm", isl=32, osl=64).tpot_s for w in ("bf16", "fp8")]
    assert other[1] < 0.65 * other[0]
