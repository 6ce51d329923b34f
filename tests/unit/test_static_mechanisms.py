"""Prompts read otherwise, answers of other lengths, several answers and verifiers: formulas and directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steelyard.errors import InputError
from steelyard.estimation.estimate import Estimate, estimate, estimate_batch
from steelyard.scenario.scenario import Scenario
from steelyard.simulation.api import simulate

A100 = {"model": "llama-3.1-8b", "on": "a100_80g"}


def ask(*techniques: str, **sizes: Any) -> Estimate:
    words = {"batch": 2, "isl": 8192, "osl": 256, **sizes}
    return estimate(**A100, techniques=techniques, **words)


def test_chunks_in_a_cache_are_not_computed() -> None:
    plain, found, repaired = (
        ask(*t) for t in ((), ("chunk-cache:0.9,recompute=0",), ("chunk-cache:0.9,recompute=0.2",))
    )
    assert found.ttft_s < repaired.ttft_s < plain.ttft_s
    assert repaired.ttft_s / plain.ttft_s == pytest.approx(1 - 0.9 * 0.8, rel=0.2)
    assert found.tpot_s == plain.tpot_s and found.memory.total == plain.memory.total
    loaded = 2 * 0.9 * 8192 * 131_072 / 1e9  # bytes of a token, over the rate
    slow = ask("chunk-cache:0.9,recompute=0,rate=1GB/s")
    engine_s = slow.ttft_s - loaded * (1 + 1 / 32)
    assert 0 <= engine_s < 0.05
    assert ask("chunk-cache:0.9,recompute=0,rate=1TB/s").ttft_s == pytest.approx(found.ttft_s, rel=0.02)


def test_another_model_reads_the_prompt() -> None:
    plain, instead = ask(), ask("auxiliary:llama-3.2-1b,instead")
    small = estimate("llama-3.2-1b", "a100_80g", batch=2, isl=8192, osl=256)
    assert small.ttft_s < instead.ttft_s < 0.5 * plain.ttft_s
    assert instead.memory.total - plain.memory.total == pytest.approx(2.5e9, rel=0.1)
    beside, later = ask("auxiliary:latents=64"), ask("auxiliary:latents=64,asynchronous")
    assert beside.ttft_s > later.ttft_s == plain.ttft_s
    assert later.energy_j == pytest.approx(beside.energy_j, rel=1e-3) and later.energy_j > plain.energy_j


def test_streams_are_encoded_again_or_not() -> None:
    new, outputs, everything = (ask(f"streaming-input:64,encodes={x}") for x in ("new", "outputs", "all"))
    assert new.ttft_s < outputs.ttft_s < everything.ttft_s
    assert new.energy_j < outputs.energy_j < everything.energy_j
    assert new.ttft_s < 0.2 * ask().ttft_s
    assert ask("streaming-input:64,delay_s=0.5").ttft_s == pytest.approx(new.ttft_s + 0.5)


def test_answers_have_other_lengths() -> None:
    plain, half = ask(), ask("answer-length:0.5")
    assert half.scenario.osl == 128
    assert half.e2e_s == pytest.approx(ask(osl=128).e2e_s)
    assert half.energy_j < plain.energy_j
    words = {**A100, "rate": "2/s", "requests": 20, "isl": 500, "osl": 100, "seed": 1}
    run = simulate(**words, techniques="answer-length:0.5,more=10")
    assert set(run.trace.osl.tolist()) == {60}


def test_reasoning_in_segments_bounds_the_cache() -> None:
    long, cut = ask(isl=512, osl=32_768), ask("answer-length:segment=1024,summary=128", isl=512, osl=32_768)
    assert cut.memory.total < long.memory.total and cut.largest_batch > 10 * long.largest_batch
    replica = Scenario.of("estimate", **A100).replica
    token = replica.decodes(np.array([2]), np.array([512 + 128 + 512]))
    again = replica.prompts(np.array([2]), np.array([640]))
    assert cut.tpot_s == pytest.approx(1.125 * float(token.time_s[0]) + float(again.time_s[0]) / 1024)


def test_answers_share_their_prompt_and_a_verifier_reads_them() -> None:
    plain, many = ask(), ask("samples:8")
    apart = ask(batch=16)
    assert many.ttft_s == plain.ttft_s and many.tpot_s == pytest.approx(apart.tpot_s)
    assert plain.memory.kv_cache == many.memory.kv_cache
    each = 131_072 * 256  # bytes of an answer's cache
    assert many.memory.total - plain.memory.total == pytest.approx(2 * 7 * each, rel=0.02)
    judged, steps, anew = (ask(f"samples:8,verifier=llama-3.2-1b{x}") for x in ("", ",calls=8", ",calls=8,again"))
    assert many.e2e_s < judged.e2e_s < steps.e2e_s < anew.e2e_s
    assert judged.ttft_s == many.ttft_s and judged.tpot_s == many.tpot_s
    assert judged.interval["e2e_s"][0] < judged.e2e_s < judged.interval["e2e_s"][1]
    assert ask("samples:8,shared").tpot_s > many.tpot_s


def test_a_pass_gives_several_tokens_and_one_entry() -> None:
    plain, merged = ask(osl=4096), ask("macro-tokens:2", osl=4096)
    assert 0.5 * plain.tpot_s < merged.tpot_s < 0.8 * plain.tpot_s
    assert ask("macro-tokens:2,layers=4").tpot_s > ask("macro-tokens:2").tpot_s
    longer = ask("macro-tokens:2", osl=8192).memory.total - merged.memory.total
    assert longer == pytest.approx(0.5 * (ask(osl=8192).memory.total - plain.memory.total), rel=0.01)
    with pytest.raises(InputError, match="both say what a token"):
        ask("macro-tokens:2", "eagle:k=2")


def test_many_scenarios_at_once_answer_as_one_does() -> None:
    sizes = tuple(np.array(x) for x in ([1, 4, 1, 4], [1000, 3000, 3000, 1000], [50, 100, 50, 50]))
    texts = ("samples:4,verifier=self + chunk-cache:0.5", "eagle:k=3", "attention-kernel:unfused", "streaming-input:64")
    for text in texts:
        many, problems = estimate_batch(Scenario.of("estimate", **A100, techniques=text).sized(*sizes))
        assert many is not None and not any(problems)
        for i, (batch, isl, osl) in enumerate(np.stack(sizes, axis=1).tolist()):
            alone = estimate(**A100, techniques=text, batch=batch, isl=isl, osl=osl)
            assert many.row(i).e2e_s == pytest.approx(alone.e2e_s, rel=1e-9), (text, i)
            assert many.row(i).memory.total == pytest.approx(alone.memory.total)
            assert many.row(i).largest_batch == alone.largest_batch


def test_what_cannot_be() -> None:
    for texts, words in (
        (("auxiliary",), "expected instead"),
        (("auxiliary:instead",), "instead needs the model"),
        (("auxiliary:lama-3.2-1b,instead",), "unknown model"),
        (("samples:4,calls=3",), "calls need a verifier"),
        (("answer-length",), "expected a factor"),
        (("streaming-input:encodes=some",), "new, outputs or all"),
        (("eagle:k=3", "answer-length:segment=64"), "both say what a token"),
        (("chunk-cache:0.5", "streaming-input:64"), "one technique of prompt"),
    ):
        with pytest.raises(InputError, match=words):
            ask(*texts)
    with pytest.raises(InputError, match="prices a static batch: simulate cannot use it, estimate does"):
        simulate(**A100, rate="1/s", requests=5, techniques="samples:4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("samples:8,verifier=self", "8 answers of each prompt; self reads each in 1 calls"),
        ("chunk-cache:0.5", "50% of a prompt in cached chunks"),
        ("auxiliary:llama-3.2-1b,instead", "llama-3.2-1b reads the prompt instead of it"),
        ("streaming-input:64", "64 tokens, new encoded at each arrival"),
        ("answer-length:0.5", "0.5 times the tokens"),
        ("macro-tokens:2", "a pass gives 2 tokens"),
    ],
)
def test_an_answer_says_what_was_priced(text: str, words: str) -> None:
    assert any(words in note for note in ask(text).ledger.assumptions)
