"""Every field of every verb, answered wrongly: messages name the field, what was expected and the nearest choice."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.errors import InputError, suggest
from steelyard.machine.catalogue import find_machine
from steelyard.scenario.fields import ENGINE_FLAGS, REQUIRED, VERBS, fields_of
from steelyard.scenario.scenario import Scenario, read_scenario
from steelyard.scenario.training import read_train_scenario
from steelyard.scenario.words import Problems
from steelyard.search.api import read_question
from steelyard.search.training import read_train_question
from steelyard.simulation.api import read_simulation
from steelyard.spoken import _TABLES, meant

MODEL, ON = "llama-3.1-8b", "h100_sxm"
#: A question of each verb that can be answered.
RIGHT: Mapping[str, Mapping[str, Any]] = {
    "estimate": {"model": MODEL, "on": ON},
    "simulate": {"model": MODEL, "on": ON, "rate": "4/s", "requests": 10},
    "plan": {"model": MODEL, "on": ON, "rate": "4/s", "ttft": "1s"},
    "train": {"model": MODEL, "on": f"{ON}:8", "gbs": "64"},
    "plan_training": {"model": MODEL, "on": ON, "gbs": "64", "tokens": "1B"},
}
READ: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "estimate": lambda words: read_scenario("estimate", words, Problems()),
    "simulate": read_simulation,
    "plan": read_question,
    "train": read_train_scenario,
    "plan_training": read_train_question,
}
EVERY = [(verb, name) for verb in VERBS for name in fields_of(verb)]
#: How a verb is typed.
TYPED = {"plan_training": "plan --train"}
#: Objects that no field takes.
OBJECTS = (b"x", object(), {1}, 1j, [[1]], np.arange(3), "z" * 10_000)
#: Fields that stand for techniques, whose own parser reads them.
BY_TECHNIQUE = ("outages",)


def problems(verb: str, words: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong by field; nothing else may be raised."""
    try:
        READ[verb](words)
    except InputError as error:
        return {p.field: p.message for p in error.problems}
    return {}


def said(line: str) -> dict[str, str]:
    """What a command line says is wrong, by option; its exit code is 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line.split())
    assert code == 2 and not out.getvalue(), (line, code, err.getvalue())
    found = {}
    for told in err.getvalue().splitlines():
        assert told.startswith("error: "), told
        name, _, message = told.removeprefix("error: ").partition(": ")
        found[name] = message
    return found


@pytest.mark.parametrize(("verb", "name"), EVERY)
def test_a_wrong_type_names_the_field(verb: str, name: str) -> None:
    field = fields_of(verb)[name]
    for value in OBJECTS:
        if name in BY_TECHNIQUE or (name == "tell" and callable(value)):
            continue
        found = problems(verb, {**RIGHT[verb], name: value})
        assert any(re.split(r"[.\[]", f)[0] == name for f in found), (
            value if value is not OBJECTS[-1] else "long",
            found,
        )
        for message in found.values():
            assert len(message) < 500 and " at 0x" not in message
    if field.default is REQUIRED:
        assert name in problems(verb, {**RIGHT[verb], name: None})
    if field.type in ("whole", "number"):
        assert "expected" in problems(verb, {**RIGHT[verb], name: "zz9"})[name]
        for value in (True, float("nan"), float("inf")):
            assert "expected" in problems(verb, {**RIGHT[verb], name: value})[name]


@pytest.mark.parametrize(("verb", "name"), EVERY)
def test_a_typo_of_its_name_tells_the_name(verb: str, name: str) -> None:
    if len(name) < 4:
        return
    typo = name[:2] + name[3] + name[2] + name[4:] if name[2] != name[3] else name + "x"
    words = {**RIGHT[verb], typo: RIGHT[verb].get(name, fields_of(verb)[name].default)}
    words.pop(name, None)
    found = problems(verb, words)
    assert f"did you mean {name!r}" in found[typo], found
    assert name not in found, "what was meant is read, so it is not missing"


@pytest.mark.parametrize("verb", VERBS)
def test_every_missing_answer_is_asked_for_at_once(verb: str) -> None:
    found = problems(verb, {})
    required = {n for n, f in fields_of(verb).items() if f.default is REQUIRED}
    load = {"estimate": set(), "simulate": {"rate"}, "plan": {"rate"}, "train": set(), "plan_training": set()}[verb]
    assert set(found) == required | load
    line = said(TYPED.get(verb, verb))
    assert set(line) == {fields_of(verb)[n].switch for n in required | load}


@pytest.mark.parametrize("verb", VERBS)
def test_every_wrong_field_is_listed(verb: str) -> None:
    wrong = {n: f for n, f in fields_of(verb).items() if f.type in ("whole", "number") and n not in ("flags",)}
    name, value = ("optimizer", "adanw") if "train" in verb else ("weights", "fp9")
    found = problems(verb, {**RIGHT[verb], **dict.fromkeys(wrong, "zz9"), name: value, "on": "h100_smx", "foo": 1})
    assert set(found) >= {*wrong, name, "on", "foo"}
    options = {n: f.switch for n, f in wrong.items() if f.options != ("",)}
    line = f"{TYPED.get(verb, verb)} llama-3.1-8c --on h100_smx --{name} {value} --foo 1 " + " ".join(
        f"{o} zz9" for o in options.values()
    )
    told = said(line)
    assert set(told) >= {*options.values(), "MODEL", "--on", f"--{name}", "--foo"}
    assert "did you mean 'llama-3.1-8b'" in told["MODEL"]
    assert "did you mean 'h100_sxm'" in told["--on"]


@pytest.mark.parametrize(
    ("verb", "words", "meaning"),
    [
        ("estimate", "--quantize fp8", "--weights?"),
        ("estimate", "--num-gpus 2", "--tp?"),
        ("estimate", "--gpu h100", "--on?"),
        ("estimate", "--prompt-len 10", "--isl?"),
        ("estimate", "--prompt-tokens 10", "--isl?"),
        ("estimate", "--qps 4", "simulate and plan take --rate"),
        ("estimate", "--enable-prefix-caching", "simulate takes --enable-prefix-caching"),
        ("simulate", "--qps 4", "--rate?"),
        ("simulate", "--req-rate 4", "--rate?"),
        ("simulate", "--num-clients 4", "--concurrency?"),
        ("plan", "-ngl 99", "estimate and simulate take it; a plan keeps every layer on the devices"),
        ("simulate", "--gpu-memory-utilisation 0.9", "--gpu-memory-utilization?"),
        ("plan", "--slo 1s", "--ttft?"),
        ("plan", "--tp 2", "estimate, simulate and train take --tp"),
        ("compare", "--tpp 2", "--tp?"),
    ],
)
def test_options_of_others_are_known_by_meaning(verb: str, words: str, meaning: str) -> None:
    told = said(f"{verb} {MODEL} {words}")
    assert told[words.split()[0]].endswith(meaning), told


def test_a_word_too_many_may_be_the_machine() -> None:
    assert said(f"estimate {MODEL} {ON}") == {f"'{ON}' is one word too many; did you mean --on {ON}?": ""}
    assert set(said(f"estimate {MODEL} --on {ON} --tp 2 --tp 4 --pp x")) == {"--tp", "--pp"}
    assert said(f"estimate {MODEL} --on")["--on"].startswith("needs a value: machine")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("p5.42xlarge", ["p5.4xlarge"]),
        ("g5.3xlarge", ["g5.xlarge"]),
        ("a3-higpu-8g", ["a3-highgpu-8g"]),
        ("MI300", ["mi300x", "mi300a"]),
        ("h100x", ["h100_sxm", "h100_nvl"]),
        ("4090 ti", ["rtx_4090"]),
        ("hopper", ["h100_sxm"]),
        ("zzqq", []),
    ],
)
def test_machines_of_clouds_and_people(name: str, near: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        find_machine(name)
    found = re.findall(r"'([^']+)'", refused.value.message.partition("mean")[2].partition("(")[0])
    assert found[: len(near)] == near and (near or not found)


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [
        ("router", "rr", "round-robin"),
        ("router", "least_conections", "least-loaded"),
        ("policy", "fifo", "fcfs"),
        ("policy", "fcsf", "fcfs"),
        ("engine", "lmstudio", "llamacpp"),
        ("engine", "tensorrt", "trtllm"),
        ("weights", "flaot16", "fp16"),
        ("techniques", "fp8", "fp8-kv"),
        ("model", "llama3", "llama-3-8b"),
        ("on", MODEL, "is a model"),
        ("model", ON, "is a machine"),
    ],
)
def test_values_are_known_by_meaning_and_spelling(field: str, value: str, near: str) -> None:
    assert near in problems("simulate", {**RIGHT["simulate"], field: value})[field]


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [
        ("duration", "5 minutes", "min"),
        ("mtbf", "3 hours", "h"),
        ("ttft", "p99:3 secs", "s"),
        ("e2e", "1 millis", "ms"),
    ],
)
def test_units_are_known_by_meaning(field: str, value: str, near: str) -> None:
    words = {**RIGHT["simulate"], field: value, "flags": {"max_num_sqs": 3, 3: 3}}
    found = problems("simulate", words)
    assert f"unknown unit {value.split()[1]!r}; did you mean {near!r}?" in found[field]
    assert "did you mean 'max_num_seqs'?" in found["flags.max_num_sqs"] and "flags.3" in found


@pytest.mark.parametrize(("value", "near"), [("cheapest", "cost"), ("speed", "latency"), ("costs", "cost")])
def test_objectives(value: str, near: str) -> None:
    assert problems("plan", {**RIGHT["plan"], "objective": value})["objective"].endswith(f"did you mean {near!r}?")


def test_a_scenario_of_another_verb_says_what_is_lost() -> None:
    sent = Scenario.of("simulate", MODEL, ON, rate="4/s", requests=10, ttft="1s")
    with pytest.raises(InputError) as refused:
        sy.estimate(sent)
    assert {p.field for p in refused.value.problems} == {"rate", "requests", "ttft"}
    assert "estimate does not take this field of a scenario of simulate" in str(refused.value)
    wrong: list[tuple[Any, ...]] = [(sy.estimate(MODEL, ON),), (MODEL, sent), (1, 2, 3), (None, None), ({}, [])]
    for given in wrong:
        with pytest.raises(InputError):
            sy.estimate(*given)


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("ls gpus", "kind", "did you mean 'machines'?"),
        ("ls h100", "kind", "did you mean `steelyard ls machines h100`?"),
        ("ls machines llama-3.1-8b", "machine", "steelyard ls models llama-3.1-8b knows it"),
        ("show h100_sx", "name", "'h100_sxm (machine)'"),
        ("show fcsf", "name", "'fcfs (policy)'"),
        ("show x --kind machin", "--kind", "did you mean 'machine'?"),
        ("bench x", "unknown verb 'bench'; did you mean 'simulate'? (`steelyard --help` lists all)", ""),
        ("study x --jobs k --dryrun", "--dryrun", "did you mean --dry-run?"),
    ],
)
def test_other_verbs_suggest_across_kinds(line: str, name: str, words: str) -> None:
    assert words in said(line)[name]


def test_what_others_call_things_leads_to_what_there_is() -> None:
    every = {name for verb in VERBS for name in fields_of(verb)} | {*ENGINE_FLAGS, "out", "json"}
    for line in _TABLES["field"].strip().splitlines():
        if " | " in line:
            assert line.partition(" | ")[0] in every
    for line in _TABLES["machine"].strip().splitlines():
        find_machine(line.partition(" | ")[0].partition(":")[0])
    for method, ours in (("aqlm", "int2"), ("eetq", "int8_weight_only"), ("hqq", "int4_g64")):
        assert f"did you mean '{ours}'?" in said(f"estimate {MODEL} --on {ON} --weights {method}")["--weights"]
    with pytest.raises(InputError, match="did you mean 'machine'"):
        sy.compare(ON, "h200_sxm", kind="machin")  # type: ignore[arg-type]
    assert meant("machine", "trillium") == "tpu_v6e" and not meant("field", "zz")
    assert suggest("fp9", ["fp8", "bf16"]) == ["fp8"] and suggest("zz", ["fp8"]) == []


def test_a_wrong_word_leaves_the_width_of_help_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    said(f"estimate {MODEL} --on {ON} --bacth 3")
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["estimate", "--help"]) == 0
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_spellings_of_engines_are_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = "--tensor-parallel-size 1 --pipeline-parallel-size 1 --quantization fp8 --kv-cache-dtype fp8"
    for words in (f"{theirs} --input-len 100 --output-len 8", "--tp 1 --pp 1 --weights fp8 --kv fp8 --isl 100 --osl 8"):
        assert main(f"estimate {MODEL} --on {ON} {words}".split()) == 0
    out = capsys.readouterr().out
    assert len(out) > 200 and out[: len(out) // 2] == out[len(out) // 2 :]
    every = {o for verb in VERBS for f in fields_of(verb).values() for o in f.options}
    assert {"--request-rate", "--num-prompts", "--max-concurrency", "--users", "--data-parallel-size"} <= every
    assert "--request-rate" in said(f"simulate {MODEL} --on {ON} --request-rate x")
