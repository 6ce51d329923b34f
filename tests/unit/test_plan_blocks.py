"""Experts with scales per block that tensor parallelism would cut inside a block: said, with what keeps them whole."""

from __future__ import annotations

import pytest

import steelyard as sy


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"tp": 8}, True),  # 1536 / 8 = 192
        ({"tp": 4}, False),  # 384
        ({"tp": 8, "ep": 8}, False),
        ({"tp": 8, "ep": 2}, False),  # 1536 / 4
        ({"tp": 8, "weights": "bf16"}, False),
    ],
)
def test_cut_blocks_are_said_with_the_degree_that_keeps_experts_whole(words: dict[str, object], said: bool) -> None:
    given = {"weights": "fp8_block", **words}
    found = sy.estimate("qwen3-235b-a22b", "h200_sxm:8", **given)  # type: ignore[arg-type]
    told = [x for x in found.ledger.assumptions if "blocks of 128" in x]
    assert bool(told) == said
    assert all("192" not in x and "1,536 columns over 8 devices" in x and "--ep 8" in x for x in told)
