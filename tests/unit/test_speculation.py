"""Speculative decoding: what it is said in, what it costs, what it gains."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import steelyard as sy
from steelyard.cost import step_eval as evaluate
from steelyard.cost.price import price
from steelyard.cost.program import lower
from steelyard.cost.step import Replica
from steelyard.cost.step_table import build_step_table, verifying
from steelyard.deployment import Plan
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import engine_config
from steelyard.errors import InputError
from steelyard.machine.cluster import parse_cluster
from steelyard.simulation.kernel import pricing
from steelyard.simulation.kernel.methods import no_methods
from steelyard.simulation.result import Simulation
from steelyard.techniques._registry import read_flag, read_techniques
from steelyard.techniques.guessers import draft_of, with_draft
from steelyard.techniques.speculation import Eagle, Speculation, length_of, rate_of
from steelyard.traffic.trace import Trace
from steelyard.workload import Step
from steelyard.workload.catalogue import load_model
from tests.serving import from_python, simulate

verify_cost = from_python(evaluate.verify_cost)
accepted_guesses, choose_guesses, price_step = (
    from_python(part) for part in (pricing.accepted_guesses, pricing.choose_guesses, pricing.price_step)
)

CASES = {
    "dense": ("llama-3.1-70b", "h200_sxm:8", "vllm", Plan("fp8", kv="fp8", tp=8)),
    "one device": ("llama-2-7b", "a100_sxm", "vllm", Plan()),
    "windows and experts": ("gpt-oss-120b", "h100_sxm:4", "vllm", Plan(tp=4)),
    "latent attention": ("deepseek-r1", "h200_sxm:8", "sglang", Plan(tp=8)),
}


def parts(case: str) -> tuple[Any, ...]:
    name, on, engine, plan = CASES[case]
    model, cluster, entry = load_model(name).transformer, parse_cluster(on), find_engine(engine)
    return model, plan.resolved(model), cluster, entry, engine_config(entry, cluster.machine)


@pytest.mark.parametrize("case", CASES)
def test_steps_that_verify_agree_with_their_price(case: str) -> None:
    model, plan, cluster, engine, config = parts(case)
    table = build_step_table(Replica(model, plan, cluster, engine), config, max_context=16384, queries=(2, 5))
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(0, np.log(256), 80)).astype(int)
    context = np.exp(rng.uniform(np.log(64), np.log(16384), 80)).astype(int)
    for m in (2, 5):
        graph = model.graph(Step(n.astype(float), m, context.astype(float), (n * m).astype(float)), absorb=True)
        cost = price(verifying(lower(graph, plan, cluster.machine), m), cluster, engine)
        exact = np.asarray(cost.time_s) - engine.step_s_per_sequence * n * (m - 1)
        pairs = zip(n.tolist(), context.tolist(), strict=True)
        found = np.array([verify_cost(*table.tables, 0, a, a, float(a * c), m, 0, 0.0, 0.0)[0] for a, c in pairs])
        error = np.abs(found / exact - 1)
        assert np.median(error) < 0.003
        assert np.percentile(error, 90) < 0.02
        assert np.all(found >= np.asarray(cost.limit_s) * (1 - 1e-9))


def test_verifying_costs_at_least_a_token_and_at_most_as_many_steps() -> None:
    *replica, config = parts("dense")
    table = build_step_table(Replica(*replica), config, max_context=8192, queries=(2, 6))
    for n in (1, 16, 128):
        one = table.time_s(n, n, n, n * 2000.0)
        times = [verify_cost(*table.tables, 0, n, n, n * 2000.0, m, 0, 0.0, 0.0)[0] for m in range(2, 7)]
        assert all(one * 0.97 < t < m * one for m, t in enumerate(times, 2))


def parse(text: str) -> Speculation:
    found = read_flag("speculate", text)
    assert isinstance(found, Speculation)
    return found


@pytest.mark.parametrize(
    ("text", "tokens", "queries"),
    [
        ("draft:llama-3.2-1b,k=4,accept=0.7", 4, (5, 5)),
        ("ngram:k=3,accept=0.3", 3, (4, 4)),
        ("medusa:heads=5", 5, (6, 6)),
        ("tree:width=4,depth=4,by=medusa", 4, (17, 17)),
        ("eagle:k=6,adaptive", 6, (2, 7)),
        ("adaptive:draft:llama-3.2-1b,k=5", 5, (2, 6)),
    ],
)
def test_words(text: str, tokens: int, queries: tuple[int, int]) -> None:
    found = parse(text)
    assert (found.guesses, found.queries) == (tokens, queries)
    assert (found.accept is None) == ("accept" not in text)


@pytest.mark.parametrize(
    "text", ["drft:x", "draft", "ngram:k=0", "eagle:accept=1.5", "eagle:kk=2", "tree:width=2,adaptive", "tree:by=ngram"]
)
def test_bad_words_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_acceptance_is_geometric_and_repeats() -> None:
    z = no_methods()[0]
    parse("ngram:k=4,accept=0.7").record(z, False)
    drawn = np.array([accepted_guesses(z, i, 9, 4) for i in range(20_000)])
    for j in range(5):
        assert np.mean(drawn >= j) == pytest.approx(0.7**j, abs=0.012)
    assert np.array_equal(drawn[:100], [accepted_guesses(z, i, 9, 4) for i in range(100)])
    z["log_accept"] = -math.inf
    assert accepted_guesses(z, 1, 1, 4) == 0
    z["log_accept"] = 0.0
    assert accepted_guesses(z, 1, 1, 4) == 4


def test_the_length_chosen_falls_with_the_batch() -> None:
    model, plan, cluster, engine, config = parts("dense")
    s = parse("eagle:k=8,adaptive")
    draft = draft_of(s.wanted, model, plan)
    table = build_step_table(Replica(model, plan, cluster, engine), config, max_context=8192, queries=s.queries)
    tables = with_draft(table, draft, cluster, engine, config, max_context=8192)
    z = no_methods()[0]
    s.record(z, True)
    chosen = [choose_guesses(z, *tables, n, n * 1500.0, 16) for n in (1, 16, 64, 256, 1024)]
    assert chosen[0] >= 5
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[-1] <= 2
    for n, k in ((1, chosen[0]), (256, chosen[3])):  # no other length makes more expected tokens per second
        rates = [
            s.expected(g) / price_step(z, *tables, g, n, n * 1500.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)[0] for g in range(9)
        ]
        assert int(np.argmax(rates)) == k


def test_a_draft_shares_the_vocabulary() -> None:
    model, plan, *_ = parts("dense")
    with pytest.raises(InputError, match="vocabulary"):
        draft_of(parse("draft:qwen3-0.6b").wanted, model, plan)


def served(clients: int, words: str = "", isl: int = 1000, osl: int = 100) -> Simulation:
    n = max(16, 2 * clients)
    trace = Trace(np.zeros(n), np.full(n, isl), np.full(n, osl)).closed_loop(clients)
    techniques = read_techniques({"speculate": words})
    return simulate("llama-3.1-70b", "h100_sxm:8", trace, tp=8, techniques=techniques)


def rate(simulation: Simulation) -> float:
    return float(simulation.summary()["throughput"]["output_tokens_per_s"])


def test_speculation_gains_alone_and_loses_in_a_crowd_and_adaptive_does_neither_badly() -> None:
    draft = "draft:llama-3.2-1b,k=4,accept=0.7"
    alone, crowd = rate(served(1)), rate(served(256))
    assert 1.5 < rate(served(1, draft)) / alone < 2.773
    assert rate(served(256, draft)) < crowd
    adaptive = "draft:llama-3.2-1b,k=4,accept=0.7,adaptive"
    assert rate(served(1, adaptive)) > 0.95 * max(alone, rate(served(1, draft)))
    assert rate(served(256, adaptive)) > 0.95 * crowd


def test_every_token_comes_out_once_and_guesses_are_counted() -> None:
    simulation = served(8, "eagle:k=4,accept=0.75")
    found = simulation.summary()["extras"]
    assert found["accepted_frac"] == pytest.approx((0.75 + 0.75**2 + 0.75**3 + 0.75**4) / 4, abs=0.03)
    records = simulation.records
    assert records.completed.all()
    assert int(simulation.totals["decode_tokens"]) == int(np.sum(records.osl - 1))
    assert int(simulation.itl_counts.sum()) == int(np.sum(records.osl - 1))  # bursts are gaps of no length
    again = served(8, "eagle:k=4,accept=0.75")
    assert np.array_equal(again.records.e2e_s, records.e2e_s)


def test_a_useless_draft_costs_and_a_perfect_one_is_bounded() -> None:
    base = rate(served(4))
    assert rate(served(4, "draft:llama-3.2-1b,k=4,accept=0")) < base
    assert rate(served(4, "ngram:k=4,accept=1")) < 5 * base


def test_a_draft_takes_memory_from_the_cache() -> None:
    assert served(1, "draft:llama-3.1-8b,k=4").pool.blocks < served(1).pool.blocks
    assert served(1, "ngram:k=4").pool.blocks == served(1).pool.blocks


@pytest.mark.parametrize("length", [1.0, 1.7, 2.29, 4.0])
def test_a_logged_length_stands_for_a_rate(length: float) -> None:
    chain = Eagle(tokens=3, length=length)
    assert chain.expected(3) == pytest.approx(length, abs=1e-6)
    assert length_of(rate_of(length, 3), 3) == pytest.approx(length, abs=1e-6)


def test_what_no_chain_gives_is_refused() -> None:
    with pytest.raises(InputError, match="3 guesses and the token after them give 4 at most"):
        read_techniques({"speculate": "eagle:k=3,length=4.5"})
    with pytest.raises(InputError, match="accept or length, not both"):
        read_techniques({"speculate": "eagle3:k=3,length=2,accept=0.5"})


def test_a_simulation_gives_the_length_it_was_told() -> None:
    load: dict[str, Any] = {"concurrency": 1, "isl": 64, "osl": 200, "requests": 20}
    run = sy.simulate("llama-3.1-8b", "h100_sxm", speculate="eagle3:k=4,length=3.08", **load)
    told = run.to_dict()
    assert told["extras"]["tokens_per_step"] == pytest.approx(3.08, rel=0.03)
    assert "speculation accept" not in str(told)


#: Limits that keep the tables small.
FEW = {"max_num_seqs": 64, "max_num_batched_tokens": 512}


def step_s(words: str, batch: int, **engine: float) -> float:
    """Time of a step that guesses and verifies, of a small model on one device."""
    model, cluster, entry = load_model("llama-3.1-8b").transformer, parse_cluster("h200_sxm"), find_engine("sglang")
    plan, entry, config = Plan().resolved(model), replace(entry, **engine), engine_config(entry, cluster.machine, FEW)
    s, z = parse(words), no_methods()[0]
    table = build_step_table(Replica(model, plan, cluster, entry), config, max_context=1024, queries=s.queries)
    tables = with_draft(table, draft_of(s.wanted, model, plan), cluster, entry, config, max_context=1024)
    s.record(z, s.guesser != "ngram")
    z["verify_s"] = entry.verify_s * s.turns
    return float(price_step(z, *tables, s.guesses, batch, batch * 500.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)[0])


def test_passes_and_acceptance_cost_what_the_engine_says() -> None:
    free = {"guess_s": 0.0, "verify_s": 0.0}
    for words, passes, turns in (("eagle3:k=5", 5, 1), ("dflash:k=7", 1, 1), ("tree:by=eagle3,depth=3,width=2", 3, 2)):
        more = step_s(words, 1, guess_s=1e-3, verify_s=2e-3) - step_s(words, 1, **free)
        assert more == pytest.approx(passes * 1e-3 + turns * 2e-3, rel=1e-6)
    assert step_s("ngram:k=3", 1, guess_s=1e-3, verify_s=2e-3) - step_s("ngram:k=3", 1, **free) == pytest.approx(2e-3)


def test_guessers_differ_by_what_they_read() -> None:
    """EAGLE-3's head scores a quarter of the words; DFlash reads its layers once for all guesses of a step."""
    assert step_s("eagle3:k=5", 1) < step_s("eagle:k=5", 1)
    assert step_s("eagle3:k=5,vocab=0", 1) == pytest.approx(step_s("eagle:k=5", 1), rel=1e-6)
    assert step_s("dflash:k=15,layers=5", 1) < step_s("eagle3:k=15", 1)
    assert step_s("dflash:k=15,layers=5", 64) > step_s("dflash:k=15,layers=1", 64)
    with pytest.raises(InputError, match="eagle3"):
        parse("tree:by=dflash")


def test_steps_of_a_small_model_grow_as_published() -> None:
    """Published steps of an 8 B model with EAGLE-3 heads under SGLang: a third longer at 3 guesses, six tenths at 7."""
    alone = step_s("ngram:k=1", 1, verify_s=0.0)
    assert step_s("eagle3:k=3", 1) / alone == pytest.approx(1.35, abs=0.08)
    assert step_s("eagle3:k=7", 1) / alone == pytest.approx(1.63, abs=0.09)
