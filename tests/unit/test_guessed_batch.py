"""Speculation in a static batch, and acceptance by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate
from steelyard.scenario.scenario import Scenario
from steelyard.techniques._registry import parse


def ask(*techniques: str, **sizes: Any) -> Estimate:
    words = {"batch": 1, "isl": 1024, "osl": 200, **sizes}
    return estimate("llama-3.1-8b", "a100_80g", techniques=techniques, **words)


def test_a_token_takes_a_verifying_step_over_the_tokens_it_gives() -> None:
    free = ask("ngram:k=3,accept=0.5")
    replica = Scenario.of("estimate", "llama-3.1-8b", "a100_80g").replica
    step = replica.verifies(np.array([1.0]), np.array([1124.0]), 4)
    whole_s = float(step.time_s[0]) + replica.engine.verify_s
    assert free.tpot_s == pytest.approx(whole_s / (1 + 0.5 + 0.25 + 0.125))
    assert free.tpot_s < ask().tpot_s
    drafted, headed = ask("draft:llama-3.2-1b,k=3,accept=0.5"), ask("medusa:heads=3,accept=0.5")
    assert free.tpot_s < headed.tpot_s < drafted.tpot_s
    assert ask("ngram:k=3,accept=0").tpot_s > ask().tpot_s
    assert free.ttft_s == ask().ttft_s and free.e2e_s == pytest.approx(free.ttft_s + 199 * free.tpot_s)


def test_the_guesser_takes_memory() -> None:
    plain, drafted, away = ask(), *(ask(f"draft:llama-3.2-1b{x}") for x in ("", ",on=rtx_4090"))
    assert drafted.memory.total - plain.memory.total == pytest.approx(2.5e9, rel=0.1)
    assert away.memory.total == plain.memory.total
    assert drafted.largest_batch < plain.largest_batch
    assert away.tpot_s != drafted.tpot_s


def test_guessing_stops_to_pay_in_large_batches() -> None:
    gains = [ask(batch=b).tpot_s / ask("tree:width=4,depth=4,by=medusa", batch=b).tpot_s for b in (1, 256)]
    assert gains[0] > 2 > 1 > gains[1]
    chosen = ask("ngram:k=4,accept=0.05,adaptive", batch=256)
    assert chosen.tpot_s <= ask(batch=256).tpot_s < ask("ngram:k=4,accept=0.05", batch=256).tpot_s


def test_acceptance_by_position() -> None:
    curved: Any = parse("medusa:curve=0.8+0.6+0.5")
    assert curved.guesses == 3
    assert curved.expected(3) == pytest.approx(1 + 0.8 + 0.48 + 0.24)
    assert curved.expected(1) == pytest.approx(1.8)
    assert 1 + sum(curved.right**j for j in (1, 2, 3)) == pytest.approx(curved.expected(3))
    assert str(parse(str(curved))) == str(curved)
    flat = ask("medusa:curve=0.5+0.5+0.5").tpot_s
    assert flat == pytest.approx(ask("medusa:heads=3,accept=0.5").tpot_s)
    assert ask("medusa:heads=3,accept=0.5,realign_s=4ms").tpot_s == pytest.approx(flat + 4e-3 / 1.875)
    for text in (
        "tree:curve=x",
        "medusa:curve=0.8+x",
        "medusa:curve=1.2",
        "medusa:curve=0.5,accept=0.5",
        "draft:llama-3.2-1b,on=rtx",
    ):
        with pytest.raises(InputError):
            parse(text)
