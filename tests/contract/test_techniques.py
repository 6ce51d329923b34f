"""Every built-in technique holds the contract; any two of them compose or say why not."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

from steelyard.errors import InputError
from steelyard.estimation.estimate import estimate
from steelyard.search.api import Planning, plan, read_question
from steelyard.simulation.api import simulate
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques._presets import Preset, _made
from steelyard.techniques._registry import TECHNIQUES, check_together, parse, read_techniques
from steelyard.testing.techniques import SCENARIO, TechniqueContract, figures, play_together
from tests.guides import python_blocks

#: Text of every built-in technique.
TEXTS: dict[str, tuple[str, ...]] = {
    "arithmetic": ("arithmetic", "arithmetic:none,accumulate=int32_add,process=7nm,products=linear"),
    "answer-length": ("answer-length:0.5",),
    "attention-ffn": ("attention-ffn:1A:1@h100_sxm,1F:1@h100_sxm",),
    "attention-kernel": ("attention-kernel:fa1", "attention-kernel:unfused,passes=1"),
    "autoscale": ("autoscale:1:2,target=4,interval=1s,start=2s",),
    "bit-planes": ("bit-planes:w=4,a=8",),
    "cascade": ("cascade:llama-3.2-1b", "cascade:llama-3.2-1b,route,escalate=0.5"),
    "collective-library": ("collective-library:latency=0.5", "collective-library:latency=1,transfer=0.7"),
    "auxiliary": ("auxiliary:llama-3.2-1b,instead", "auxiliary:latents=16"),
    "chunk-cache": ("chunk-cache:0.8,rate=20GB/s",),
    "clock": ("clock:10", "clock:4,caches=2"),
    "cores": ("cores:3", "cores:2,lines=24"),
    "dataflow-fusion": ("dataflow-fusion:0.9",),
    "distserve": ("distserve:1P:tp1,1D:tp1",),
    "draft": ("draft:llama-3.2-1b,k=3,accept=0.6",),
    "dflash": ("dflash:k=7",),
    "eagle": ("eagle:k=4", "eagle:k=6,accept=0.8,adaptive"),
    "eagle3": ("eagle3:k=3,length=2.5",),
    "early-exit": ("early-exit:ramps=3,p=0.4,rebatch",),
    "epd": ("epd:1E:tp1,1M:tp1,encode=50ms",),
    "expert-affinity": ("expert-affinity:0.5", "expert-affinity:local=0.3,exchanges=1"),
    "expert-cache": ("expert-cache:0.5", "expert-cache:0.25,hit=0.9,overlap=0.8"),
    "failures": ("failures:mtbf=3s,restart=1s", "failures:500ms:0:down,3s:0:up"),
    "finetune": ("finetune:40ms,context=512",),
    "flow-placement": ("flow-placement", "flow-placement:ecmp,paths=16,flows=16,split=4"),
    "fp8-kv": ("fp8-kv",),
    "host-attention": ("host-attention", "host-attention:overlap=0"),
    "int4-weights": ("int4-weights",),
    "kv-budget": ("kv-budget:0.3,rest=kept,index=0.05", "kv-budget:tokens=256"),
    "kv-tiers": ("kv-tiers:cpu:20GB,ssd:1TB,swap", "kv-tiers:pool:1TB@25GB/s/4"),
    "wide-attention": ("wide-attention", "wide-attention:1.5"),
    "layer-skip": ("layer-skip:0.3,cache=absent,gate=2", "layer-skip:feed_forward=0.3,attention=0,union"),
    "layer-split": ("layer-split:cut=0.3,leave=0.4", "layer-split:raspberry_pi_5,cut=0.1,link=1GB/s"),
    "llumnix": ("llumnix",),
    "lora": ("lora:20,zipf=1,rank=16,max_loras=4,base=0.1",),
    "lookup-table": ("lookup-table:w=2,lookups=64",),
    "macro-tokens": ("macro-tokens:2",),
    "medusa": ("medusa:heads=3",),
    "merge-calls": ("merge-calls:0.4",),
    "mixed-bits": ("mixed-bits:low=int4,high=int8,share=0.3",),
    "model-switch": ("model-switch:10,resident=2", "model-switch:150,hit=0.5,rate=100GB/s"),
    "moe-block": ("moe-block:zero=0.3", "moe-block:width=512", "moe-block:chain=2,top_k=4"),
    "moe-dispatch": ("moe-dispatch:dense,capacity=2",),
    "moe-overlap": ("moe-overlap:degree=8,fused", "moe-overlap:degree=2,batches"),
    "mixed-kv": ("mixed-kv:2,high=4,salient=0.6,probes=0.1", "mixed-kv:4"),
    "mtp": ("mtp:k=1",),
    "nanoflow": ("nanoflow",),
    "near-memory": ("near-memory:8,intensity=4", "near-memory:interleave"),
    "ngram": ("ngram:k=2,accept=0.5",),
    "overhead": ("overhead:time=0.2,power=0.1,pcie=0.3", "overhead:step=1ms"),
    "past-future": ("past-future",),
    "power-cap": ("power-cap:0.5", "power-cap:watts=400"),
    "redundant-experts": ("redundant-experts:8",),
    "remote-attention": ("remote-attention:4",),
    "samples": ("samples:4,verifier=llama-3.2-1b,calls=5", "samples:4,shared"),
    "sarathi-serve": ("sarathi-serve:chunk=256", "sarathi-serve"),
    "semi-pd": ("semi-pd:0.6",),
    "sparse-prefill": ("sparse-prefill:0.2,full=0.5",),
    "splitwise": ("splitwise:1P:tp1,1D:tp1",),
    "tenants": ("tenants:4", "tenants:3,share=0.2"),
    "streaming-input": ("streaming-input:64,encodes=outputs",),
    "tokenweave": ("tokenweave",),
    "tree": ("tree:width=2,depth=3,by=medusa",),
    "weight-sparsity": ("weight-sparsity", "weight-sparsity:0.2,index=0,eff=0.4"),
    "weight-streaming": ("weight-streaming:0.8,overlap=0.5", "weight-streaming:disk,rate=7GB/s,needed=0.3"),
}
_ONE = {k: v for k, v in SCENARIO.items() if k not in ("replicas",)}
_POOLS = {**_ONE, "on": "h100_sxm:2"}
_LARGE = {**SCENARIO, "model": "llama-3.1-70b", "on": "h100_sxm:8", "rate": "40/s", "isl": 3000, "flags": {}}
#: Experts that four devices share, each with its own requests.
_SHARED: dict[str, Any] = {"model": "qwen3-30b-a3b", "on": "h100_sxm:4", "dp": 4, "ep": 4, "tp": 1}
_EXPERTS = {**_ONE, **_SHARED, "skew": 0.5, "rate": "100/s", "flags": {}}
OF_EXPERTS = ("expert-affinity", "moe-block", "moe-dispatch", "moe-overlap", "redundant-experts")
#: Scenarios of those that need another one.
WORDS: dict[str, dict[str, Any]] = {
    "attention-ffn": _ONE,
    "distserve": _POOLS,
    "epd": _POOLS,
    "splitwise": _POOLS,
    "semi-pd": _ONE,
    "nanoflow": _LARGE,
    "tokenweave": _LARGE,
    "past-future": {**SCENARIO, "rate": "100/s", "osl": "uniform:100-400"},
    "llumnix": {**SCENARIO, "rate": "100/s", "osl": "uniform:100-400"},
}
#: A static batch, and what is else in it for techniques that need it.
BATCH: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm", "batch": 8, "isl": 500, "osl": 50}
STATIC: dict[str, dict[str, Any]] = {name: {**_SHARED, "skew": 0.5, "batch": 64} for name in OF_EXPERTS}
STATIC["bit-planes"] = {"on": "a100_sxm"}
WORDS["bit-planes"] = {**SCENARIO, "on": "a100_sxm"}
STATIC["collective-library"] = {"on": "h100_sxm:2"}
WORDS["collective-library"] = {**SCENARIO, "on": "h100_sxm:2"}
STATIC["flow-placement"] = {"on": "h100_sxm:16", "tp": 16}
WORDS["flow-placement"] = {**_ONE, "on": "h100_sxm:16", "tp": 16, "flags": {}}
WORDS["host-attention"] = {**SCENARIO, "flags": {}, "isl": 3000}
STATIC["cores"] = {"model": "llama-3.2-1b", "on": "raspberry_pi_5", "batch": 2}
STATIC["clock"] = STATIC["cores"]
WORDS["cores"] = {**SCENARIO, "model": "llama-3.2-1b", "on": "raspberry_pi_5", "requests": 6, "flags": {}}
WORDS["clock"] = WORDS["cores"]
STATIC["dataflow-fusion"] = {"on": "aws_trainium2:4"}
WORDS["dataflow-fusion"] = {**SCENARIO, "on": "aws_trainium2:4"}
STATIC["expert-cache"] = {"model": "qwen3-30b-a3b"}
WORDS["expert-cache"] = {**_ONE, "model": "qwen3-30b-a3b", "flags": {}}
WORDS |= dict.fromkeys(OF_EXPERTS, _EXPERTS)


def test_every_built_in_technique_is_here() -> None:
    # the others: test_network_techniques.py, test_training_techniques.py
    served = (n for n in TECHNIQUES if not TECHNIQUES.get(n).of_networks and not TECHNIQUES.get(n).of_training)
    assert set(TEXTS) == {n for n in served if TECHNIQUES.built_in(n) and not TECHNIQUES.get(n).mechanism}


def test_a_preset_is_its_mechanism_with_what_the_paper_states() -> None:
    presets = [cls for cls in map(TECHNIQUES.get, TECHNIQUES) if cls.mechanism]
    assert len(presets) > 0
    for cls in presets:
        if not any(p.default is MISSING for p in cls.parameters()):
            assert (str(parse(cls.name)), type(parse(cls.name))) == (cls.name, cls)
        assert cls.effect and cls.paper.title, cls.name
    one = parse("fastgen:chunk=1024")
    assert (one.name, one.words("simulate")["flags"]["max_num_batched_tokens"]) == ("fastgen", 1024)
    assert figures(SCENARIO, ("fastgen:chunk=256",)) == figures(SCENARIO, ("sarathi-serve:chunk=256",))
    with pytest.raises(InputError, match="a scenario has one technique of scheduler"):
        read_techniques({"techniques": ("fastgen", "sarathi-serve")})


@pytest.mark.parametrize("given", [-1, float("nan"), True, [0.1, 0.2], {"a": 1}, "half"])
def test_parameters_of_a_preset_are_checked_as_a_users(given: Any) -> None:
    preset = Preset("mine", "e", Citation("t", "s"), mechanism="kv-budget", parameters={"budget": given})
    with pytest.raises(InputError, match="budget"):
        _made(preset)


def test_a_list_in_a_file_is_a_parameter_of_several_values() -> None:
    preset = Preset("mine", "e", Citation("t", "s"), mechanism="kv-tiers", parameters={"levels": ["cpu:64GB"]})
    made: Any = _made(preset)()
    assert made.levels == parse("kv-tiers:cpu:64GB").levels  # type: ignore[attr-defined]


def _suite(technique: str) -> type[TechniqueContract]:
    body = {"name": technique, "texts": TEXTS[technique], "words": WORDS.get(technique, SCENARIO)}
    return type(f"Test_{technique.replace('-', '_')}", (TechniqueContract,), body)


for _name in TEXTS:
    globals()[f"Test_{_name.replace('-', '_')}"] = _suite(_name)


POOLED = ("distserve", "epd", "splitwise")
DEPLOYMENTS = ("attention-ffn", "semi-pd", *POOLED)
GUESSING = ("dflash", "draft", "eagle", "eagle3", "medusa", "mtp", "ngram", "tree")
DYNAMIC = ("autoscale", "failures", "llumnix")
STEPPING = (*GUESSING, "early-exit", "finetune", "kv-tiers", "lora", "nanoflow", "tokenweave")
#: Any of the left is refused beside any other of the right, and why.
APART: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (DEPLOYMENTS, DEPLOYMENTS, "a scenario has one technique of deployment"),
    (GUESSING, GUESSING, "a scenario has one technique of speculation"),
    (("sarathi-serve",), ("past-future",), "a scenario has one technique of scheduler"),
    (("nanoflow",), ("tokenweave",), "a scenario has one technique of overlap"),
    (("fp8-kv",), ("mixed-kv",), "both set kv"),
    (("early-exit",), GUESSING, "verification needs all layers"),
    (("attention-ffn",), (*STEPPING, *DYNAMIC), "attention and feed-forward apart are simulated without it"),
    (("semi-pd",), DYNAMIC, "shares of a device are simulated without failures, autoscaling or migration"),
    (("llumnix",), POOLED, "expected at least 2 replicas in one, got 1"),
)


def _is_pass(name: str) -> bool:
    """Whether a technique changes model, device, engine or kernels alone, on every verb."""
    cls = TECHNIQUES.get(name)
    return not cls.serving and (cls.words is Technique.words or name == "mixed-bits")


PASSES = tuple(filter(_is_pass, TEXTS))


def taken(one: str, other: str, names: Sequence[str]) -> bool:
    """Whether this pair is asked: one in three, or all with STEELYARD_ALL_ROWS=1."""
    return os.environ.get("STEELYARD_ALL_ROWS") == "1" or (names.index(one) + names.index(other)) % 3 == 0


@pytest.mark.parametrize("one", PASSES)
def test_what_changes_prices_alone_composes_with_everything_or_says_why_not(one: str) -> None:
    """Two of them price a batch, whichever is named first; beside what acts while requests run the two are read."""
    technique = parse(TEXTS[one][0])
    for other in TEXTS:
        beside = parse(TEXTS[other][0])
        pair = (technique, beside)
        reasons = [{p.message.partition(": ")[2] for p in check_together(x)} for x in (pair, pair[::-1])]
        assert reasons[0] == reasons[1] or one == other
        if reasons[0] or other not in PASSES or other <= one or not taken(one, other, PASSES):
            continue
        ordered = read_techniques({"techniques": pair})
        assert ordered == read_techniques({"techniques": pair[::-1]})
        words = {**BATCH, **STATIC.get(one, {}), **STATIC.get(other, {})}
        try:
            found = estimate(**words, techniques=pair)
        except InputError as error:
            assert one in str(error) or other in str(error), error
            continue
        assert 0 < found.limit["tpot_s"] <= found.tpot_s * (1 + 1e-9) and found.energy_j > 0


@pytest.mark.parametrize("one", [name for name in TEXTS if name not in PASSES])
def test_any_two_compose_or_say_why_not(one: str) -> None:
    """Runs of a pair answer every token, but for the pairs that are known to be apart: those name the reason.

    Of the other pairs one in three is played.
    """
    names = [name for name in TEXTS if name not in PASSES]
    for other in names[names.index(one) + 1 :]:
        pair = {one, other}
        words = _POOLS if pair & set(POOLED) else _ONE if pair & set(DEPLOYMENTS) else SCENARIO
        reasons = [why for a, b, why in APART if (one in a and other in b) or (one in b and other in a)]
        if not reasons and not taken(one, other, names):
            continue
        refused = play_together(TEXTS[one][0], TEXTS[other][0], words)
        if reasons:
            assert any(why in refused for why in reasons), f"{one} with {other}: {refused or 'not refused'}"
        else:
            assert not refused, f"{one} with {other}: {refused}"


def test_migration_needs_a_second_replica() -> None:
    with pytest.raises(InputError, match="at least 2 replicas in one, got 1") as error:
        simulate(**_ONE, techniques="llumnix")
    assert error.value.field == "migrate"
    with pytest.raises(InputError, match="at least 2 replicas in one, got 1"):
        simulate(**_ONE, migrate=True)


def test_a_static_batch_refuses_what_acts_while_requests_run() -> None:
    words: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm"}
    with pytest.raises(InputError) as error:
        estimate(**words, techniques=("finetune:40ms", "fp8-kv"))
    (problem,) = error.value.problems
    assert str(problem) == "finetune: it acts while requests run: estimate cannot use it, simulate does"


def planned(name: str, text: str, **words: Any) -> Planning:
    own = STATIC.get(name, {})
    asked = {"model": own.get("model", "llama-3.1-8b"), "on": own.get("on", "h100_sxm").partition(":")[0]}
    load = {"rate": "1/s", "isl": 500, "osl": 50, "ttft": "p99:5s", "requests": 100, "usd_per_hour": 2.0}
    return read_question({**asked, **load, "techniques": text, **words})


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_plan_takes_it_up_or_is_not_among_its_verbs(name: str) -> None:
    """It is on what candidates are made of and the answer says so with what it costs, or one reason refuses it."""
    technique = parse(TEXTS[name][0])
    if "plan" not in technique.verbs():
        with pytest.raises(InputError) as error:
            planned(name, TEXTS[name][0])
        (problem,) = error.value.problems
        assert problem.message == technique.refusal("plan") and "plan cannot use it" in problem.message
        return
    found, plain = planned(name, str(technique)), planned(name, "")
    said = [note for note in found.ledger.assumptions if note.startswith(f"every candidate with {technique}: ")]
    if technique.slot == "speculation":
        assert found.task.question.speculate == (str(technique),)
        return
    assert said and technique.effect in said[0] and technique.costs in said[0]
    mine, theirs = found.task.question, plain.task.question
    taken = (
        (mine.weights, mine.kv, mine.output_tokens) != (theirs.weights, theirs.kv, theirs.output_tokens)
        or found.task.model.transformer != plain.task.model.transformer
        or mine.descriptions != theirs.descriptions
        or technique.step_effect is not None
        or type(technique).engine is not Technique.engine
    )
    assert taken, "no candidate has it"


def test_a_plan_with_a_technique_is_that_of_candidates_that_have_it() -> None:
    words: dict[str, Any] = {"rate": "20/s", "isl": 500, "osl": 50, "ttft": "p99:5s", "requests": 100}
    tight = words | {"tpot": "p95:20ms", "mode": "aggregated"}
    plain = plan("llama-3.1-8b", "h100_sxm", **tight).winner
    assert plain is not None
    tpots = [
        winner.tpot_s
        for text in ("weight-sparsity", "overhead:step=1ms")
        if (winner := plan("llama-3.1-8b", "h100_sxm", **tight, techniques=text).winner) is not None
    ]
    assert tpots[0] < 0.9 * plain.tpot_s < plain.tpot_s + 5e-4 < tpots[1]
    long = plan("llama-3.1-8b", "h100_sxm", **words, techniques="answer-length:2").winner
    assert long is not None and long.tokens_per_s == pytest.approx(2 * plain.tokens_per_s)
    useless = plan("llama-3.1-8b", "h100_sxm", **tight, techniques="ngram:k=3,accept=0").winner
    assert useless is not None and useless.deployment.pools[0].speculate == "ngram:k=3,accept=0.0"
    with pytest.raises(InputError, match="bit-planes: h100_sxm has no products of single bits"):
        plan("llama-3.1-8b", "a100_sxm,h100_sxm", **words, techniques="bit-planes")
    with pytest.raises(InputError, match="weights: weight-sparsity changes what they take"):
        plan("llama-3.1-8b", "h100_sxm", **words, techniques="weight-sparsity", weights="bf16,fp8")


def test_order_does_not_matter() -> None:
    pair = ("fp8-kv", "sarathi-serve:chunk=256", "ngram:k=2")
    assert figures(SCENARIO, pair) == figures(SCENARIO, pair[::-1])
    assert read_techniques({"techniques": pair}) == read_techniques({"techniques": pair[::-1]})


@pytest.mark.parametrize(
    ("option", "text", "same"),
    [
        ("speculate", "adaptive:eagle:k=4", "eagle:k=4,adaptive"),
        ("speculate", "tree:width=4,depth=4,by=medusa", "tree:width=4,depth=4,by=medusa"),
        (
            "lora",
            "100,zipf=1,rank=16,targets=attention,max_loras=8,base=0.2",
            "lora:100,targets=attention,base=0.2,max_loras=8",
        ),
        ("kv_tiers", "cpu:200GB,swap", "kv-tiers:cpu:200GB,swap"),
        ("early_exit", "rebatch:ramps=3,p=0.2", "early-exit:rebatch,ramps=3,p=0.2"),
        ("finetune", "30ms,context=2048", "finetune:30ms,context=2048"),
        ("overlap", "nanoflow", "nanoflow"),
        ("migrate", True, "llumnix"),
        ("autoscale", "1:8,target=16", "autoscale:1:8,target=16"),
        ("mtbf", "6h", "failures:mtbf=6h"),
        ("disaggregate", "semi:60%", "semi-pd:0.6"),
        ("disaggregate", "1A:8@h20,1F:8@h800", "attention-ffn:1A:8@h20,1F:8@h800"),
    ],
)
def test_options_stand_for_techniques(option: str, text: Any, same: str) -> None:
    assert read_techniques({option: text}) == (parse(same),)


def test_every_problem_at_once_under_the_name_that_was_used() -> None:
    with pytest.raises(InputError) as error:
        read_techniques({"techniques": ("sarathi-serv", "fp8-kv:x=1", "lora:0"), "speculate": "eagle:k=99"})
    told = {p.field: p.message for p in error.value.problems}
    assert "did you mean 'sarathi-serve'" in told["with"]
    assert "unknown key 'x'" in told["fp8-kv"]
    assert told["lora"] == "expected adapters of at least 1, got 0"
    assert told["speculate"] == "expected k of at most 16, got 99"


@pytest.mark.parametrize(
    ("techniques", "said"),
    [
        (["sarathi-serve:chunk=512,chunk=256"], "sarathi-serve: chunk is given twice"),
        (["h2o:0.3,budget=0.4"], "h2o: budget is given twice"),
        (["h2o:" + "x=1," * 500], "h2o: unknown key 'x'; known: budget, "),
        (["fp8-kv"] * 50, "fp8-kv: not together with fp8-kv: give it once"),
    ],
)
def test_what_is_wrong_many_times_is_said_once(techniques: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_techniques({"techniques": techniques})
    assert len(caught.value.problems) == 1 and str(caught.value).startswith(said)


def test_what_a_technique_sets_is_not_set_twice() -> None:
    with pytest.raises(InputError, match="fp8-kv sets it to fp8, not int8"):
        simulate(**SCENARIO, kv="int8", techniques="fp8-kv")
    with pytest.raises(InputError, match="one technique of scheduler"):
        read_techniques({"techniques": ("sarathi-serve", "past-future")})
    same = simulate(**SCENARIO, kv="fp8", techniques="fp8-kv")
    assert same.scenario.plan.kv == "fp8"


def test_a_scenario_asked_again_keeps_or_drops_its_techniques() -> None:
    from steelyard.scenario.scenario import Scenario

    scenario = Scenario.of("simulate", **SCENARIO, techniques="fp8-kv + sarathi-serve:chunk=256")
    assert [str(t) for t in scenario.techniques] == ["fp8-kv", "sarathi-serve:256"]
    again = simulate(scenario, seed=2)
    assert again.scenario.plan.kv == "fp8" and again.config.max_num_batched_tokens == 256
    plain = simulate(scenario, techniques=())
    assert plain.scenario.plan.kv == "bf16" and plain.config.max_num_batched_tokens > 256


def test_chunks_shorten_the_gaps_between_tokens() -> None:
    words = {**SCENARIO, "isl": 3000, "rate": "8/s", "flags": {}}
    base, chunked = figures(words), figures(words, ("sarathi-serve:chunk=256",))
    assert chunked["itl_s"]["p99"] < 0.6 * base["itl_s"]["p99"]
    assert chunked["ttft_s"]["mean"] > base["ttft_s"]["mean"]


def test_formats_take_memory_and_time() -> None:
    words: dict[str, Any] = {"model": "llama-3.1-8b", "on": "h100_sxm", "batch": 64, "isl": 4000, "osl": 200}
    plain = estimate(**words)
    kv, four = (estimate(**words, techniques=t) for t in ("fp8-kv", "int4-weights"))
    assert kv.memory.kv_cache == pytest.approx(0.5 * plain.memory.kv_cache)
    assert four.memory.weights < 0.4 * plain.memory.weights
    assert kv.tpot_s < plain.tpot_s and four.tpot_s < plain.tpot_s


def test_the_guide_is_true(tmp_path: Path) -> None:
    """The techniques of the guide, as written there, hold the contract and change what they say."""
    text = "\n".join(python_blocks("add-a-technique"))
    lines = [line for line in text.splitlines() if not line.startswith("TECHNIQUES.add(")]
    path = tmp_path / "guide_techniques.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("guide_techniques", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guide_techniques"] = module
    spec.loader.exec_module(module)
    with TECHNIQUES.during("small-blocks", module.SmallBlocks), TECHNIQUES.during("gentle", module.GentlePrompts):
        suite = module.TestSmallBlocks()
        for test in (name for name in dir(suite) if name.startswith("test_")):
            getattr(suite, test)()
        with pytest.raises(InputError, match="did you mean 'tokens'"):
            parse("small-blocks:token=4")
        words = {**SCENARIO, "isl": 3000, "rate": "8/s", "flags": {}}
        base, gentle = figures(words), figures(words, (module.GentlePrompts(tokens=64),))
        assert gentle["itl_s"]["p99"] < 0.8 * base["itl_s"]["p99"]
