"""Every field of a question is described once, and handed on as part of an object."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import steelyard
from steelyard.errors import InputError
from steelyard.scenario.fields import VERBS, fields_of

SRC = Path(steelyard.__file__).parent
#: Names of four fields, under whatever spelling.
NAMES = {
    "tp": {"tp"},
    "isl": {"isl"},
    "skew": {"skew", "expert_skew"},
    "usd_per_hour": {"usd_per_hour", "usd_per_device_hour"},
}
#: Files of the package that may declare or forward each; what a plan file holds is typed there as well, and screens
#: begin with a question. A framework says which degrees it has.
MOST_FILES = 11
WRITTEN = {"deployment/plan_file.py"}
#: Parameters of a public function written by hand at most.
MOST_PARAMETERS = 12
#: Functions over columns take each array by its own name: prices of a kernel, and rows of a measured table.
COLUMNS = {"attention_time", "decode_attention_time_s", "prefill_attention_time_s", "comparison"}
PUBLIC_VERBS = ("compare", "estimate", "explain", "plan", "simulate", "study")


def declared(tree: ast.AST) -> Iterator[str]:
    """Parameters, dataclass fields, dict keys, names in tuples and lists, and keywords passed on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            arguments = node.args
            yield from (x.arg for x in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))
        elif isinstance(node, ast.ClassDef):
            yield from (
                b.target.id for b in node.body if isinstance(b, ast.AnnAssign) and isinstance(b.target, ast.Name)
            )
        elif isinstance(node, ast.Dict):
            yield from (str(k.value).rpartition(".")[2] for k in node.keys if isinstance(k, ast.Constant))
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            yield from (str(e.value) for e in node.elts if isinstance(e, ast.Constant))
        elif isinstance(node, ast.Call):
            yield from (k.arg for k in node.keywords if k.arg)


@cache
def modules() -> dict[str, ast.Module]:
    """Every file of the package, parsed."""
    return {str(f.relative_to(SRC)): ast.parse(f.read_text(encoding="utf-8")) for f in sorted(SRC.rglob("*.py"))}


def test_a_field_is_declared_in_few_files() -> None:
    found = {name: set(declared(tree)) for name, tree in modules().items()}
    for field, spellings in NAMES.items():
        files = [
            name
            for name, words in found.items()
            if words & spellings and name not in WRITTEN and not name.startswith("page/screens/")
        ]
        assert len(files) <= MOST_FILES, f"{field}: {', '.join(files)}"


def test_help_is_typed_once() -> None:
    texts = [f.doc for verb in VERBS for f in fields_of(verb).values() if len(f.doc) > 24]
    strings: dict[str, list[str]] = {}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.setdefault(node.value, []).append(name)
    for text in set(texts):
        assert set(strings.get(text, [])) <= {"scenario/fields.py"}, f"{text!r}: {strings[text]}"


def exported(name: str, tree: ast.Module) -> set[str]:
    """What a package hands out: its ``__all__``; all of the program and of the command line."""
    if name.startswith("cli/"):
        return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    listed = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    return {x.value for x in ast.walk(listed[0]) if isinstance(x, ast.Constant)} if listed else set()


def functions(body: list[ast.stmt], names: set[str] | None) -> Iterator[ast.FunctionDef]:
    """Functions and methods of these names; None = all that are not private."""
    for node in body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not public or (names is not None and node.name not in names):
            continue
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, None)
        elif isinstance(node, ast.FunctionDef):
            yield node


def test_no_function_of_the_public_interface_has_many_parameters() -> None:
    many, seen = set(), 0
    for name, tree in modules().items():
        for function in functions(tree.body, exported(name, tree)):
            arguments, seen = function.args, seen + 1
            if len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) > MOST_PARAMETERS:
                many.add(function.name)
    assert seen > 500
    assert many <= COLUMNS, sorted(many - COLUMNS)


def test_dir_shows_the_interface_only() -> None:
    assert set(dir(steelyard)) == set(steelyard.__all__)
    assert set(PUBLIC_VERBS) <= set(dir(steelyard))
    for name in steelyard.__all__:
        assert getattr(steelyard, name) is not None


def test_no_module_hides_a_verb() -> None:
    for module in pkgutil.walk_packages(steelyard.__path__, "steelyard.", onerror=lambda name: None):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # an extra that is not installed
            assert not (error.name or "").startswith("steelyard."), error
    for verb in PUBLIC_VERBS:
        assert inspect.isfunction(getattr(steelyard, verb)), verb
    found = steelyard.estimate("llama-3.1-8b", "h100_sxm")
    assert found.fits and steelyard.explain(found.scenario).estimate.tpot_s == found.tpot_s
    assert steelyard.compare("h100_sxm", "h200_sxm").kind == "machine"
    table = {
        "name": "batches",
        "kind": "estimate",
        "fixed": {"model": "llama-3.1-8b", "on": "h100_sxm"},
        "grid": {"batch": [1, 2]},
    }
    assert steelyard.study(table).study.points == 2
    load = {"rate": 2.0, "requests": 200, "seed": 3, "ttft": "p99:2s"}
    sent = steelyard.simulate("llama-3.1-8b", "h100_sxm", **load)
    assert sent.records.completed.all()
    asked = steelyard.Scenario.of("simulate", "llama-3.1-8b", "h100_sxm:1", **load)
    best = steelyard.plan(asked).winner
    assert best is not None and best.devices == 1


def test_a_plan_takes_one_count_as_its_most_devices() -> None:
    def question(on: Any, **words: Any) -> Any:
        from steelyard.search.api import read_question

        return read_question(
            {"model": "llama-3.1-8b", "on": on, "rate": "4/s", "ttft": "p99:1s", **words}
        ).task.question

    assert (question("h100_sxm:8").machines, question("h100_sxm:8").max_gpus) == (("h100_sxm",), 8)
    assert question("h100_sxm").max_gpus is None and question("h100_sxm", max_gpus=3).max_gpus == 3
    for on, words in (("h100_sxm:8,l40s", {}), ("h100_sxm:8", {"max_gpus": 4}), ("h100_sxm:0", {})):
        with pytest.raises(InputError, match="on: a count is the most devices of the only machine"):
            question(on, **words)
    with pytest.raises(InputError, match="on: unknown machine 'h10x'"):
        question("h10x:2")
    assert question(steelyard.find_machine("h100_sxm")).machines == ("h100_sxm",)
    with pytest.raises(InputError, match="on: "):
        question(3.5)


def test_a_plan_refuses_a_scenario_it_has_no_fields_for() -> None:
    asked = steelyard.Scenario.of("simulate", "llama-3.1-8b", "h100_sxm", concurrency=8, policy="shortest")
    with pytest.raises(InputError) as caught:
        steelyard.plan(asked, rate="4/s", ttft="p99:1s")
    assert {p.field for p in caught.value.problems} == {"policy"}
    still = steelyard.Scenario.of("estimate", "llama-3.1-8b", "h100_sxm", batch=8)
    with pytest.raises(InputError, match="rate: how many requests per second"):
        steelyard.plan(still, ttft="p99:1s")
    with pytest.raises(InputError, match="verb: expected estimate or simulate, got 'plan'"):
        steelyard.Scenario.of("plan", "llama-3.1-8b", "h100_sxm")


def test_a_scenario_stands_for_its_words() -> None:
    words = {"batch": 8, "isl": 512, "weights": "fp8", "tp": 2}
    scenario = steelyard.Scenario.of("estimate", "llama-3.1-8b", "h100_sxm:2", **words)
    assert steelyard.estimate(scenario).to_dict() == steelyard.estimate("llama-3.1-8b", "h100_sxm:2", **words).to_dict()
    assert steelyard.estimate(scenario, batch=16).scenario.batch == 16
    load = {"rate": 4.0, "requests": 30, "ttft": "p99:1s", "seed": 3}
    sent = steelyard.Scenario.of("simulate", "llama-3.1-8b", "h100_sxm", **load)
    again = steelyard.simulate("llama-3.1-8b", "h100_sxm", **load)
    assert steelyard.simulate(sent).to_dict()["ttft_s"] == again.to_dict()["ttft_s"]


def test_signatures_are_those_of_the_fields() -> None:
    for verb in VERBS:
        parameters = inspect.signature(getattr(steelyard, verb)).parameters
        assert set(parameters) == set(fields_of(verb)), verb
        for name, field in fields_of(verb).items():
            assert f"{name}: " in (getattr(steelyard, verb).__doc__ or ""), (verb, name)
            assert parameters[name].default == (inspect.Parameter.empty if field.default is ... else field.default)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ({"batch": "x"}, ["batch: expected a whole number, got 'x'"]),
        ({"on": 3}, ["on: expected a name, got 3"]),
        ({"bacth": 3}, ["bacth: unknown field; did you mean 'batch'?"]),
        ({"tp": 0, "skew": -1}, ["tp: expected at least 1, got 0", "skew: expected a number of at least 0, got -1"]),
        ({"batch": 1.5, "generic": "yes"}, ["batch: expected a whole number, got 1.5", "generic: expected true or"]),
        ({"weights": "fp9", "engine": "vlm"}, ["weights: unknown format 'fp9'", "engine: unknown engine 'vlm'"]),
        ({"model": None}, ["model: expected a name, got None"]),
        ({"techniques": 5}, ["techniques: expected names, or a list of names and techniques, got 5"]),
    ],
)
def test_wrong_arguments_are_named_all_at_once(words: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        steelyard.estimate(**{"model": "llama-3.1-8b", "on": "h100_sxm", **words})
    assert len(caught.value.problems) == len(messages)
    for problem, message in zip(caught.value.problems, messages, strict=True):
        assert str(problem).startswith(message)


@pytest.mark.parametrize(
    ("function", "given"),
    [(steelyard.find_machine, 5), (steelyard.load_model, 5), (steelyard.study, 5)],
)
def test_a_wrong_type_is_a_clear_error(function: Any, given: Any) -> None:
    with pytest.raises(InputError, match=r"expected a .*, got 5"):
        function(given)


def test_a_study_takes_a_scenario_and_a_grid() -> None:
    scenario = steelyard.Scenario.of("estimate", "llama-3.1-8b", "h100_sxm", isl=2048, kv="fp8")
    found = steelyard.study(scenario, grid={"batch": [1, 8]}).to_pandas()
    assert list(found["batch"]) == [1, 8] and set(found["isl"]) == {2048} and set(found["kv"]) == {"fp8"}
    assert found["tpot_s"][0] == steelyard.estimate(scenario).tpot_s
    with pytest.raises(InputError, match="grid: only with a scenario"):
        steelyard.study({"name": "x"}, grid={"batch": [1]})


def test_compare_takes_estimates_and_scenarios() -> None:
    estimate = steelyard.estimate("llama-3.1-8b", "h100_sxm", batch=2)
    scenario = steelyard.Scenario.of("estimate", "llama-3.1-8b", "h200_sxm", batch=2)
    rows = {row["field"]: row for row in steelyard.compare(estimate, scenario).rows()}
    assert rows["tpot_s"]["a"] == estimate.tpot_s and rows["tpot_s"]["ratio"] < 1
    with pytest.raises(InputError, match="expected a name, an estimate or a scenario, got 6"):
        steelyard.compare(estimate, 6)  # type: ignore[arg-type]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="on: required field is missing"):
        steelyard.estimate("llama-3.1-8b")
    with pytest.raises(InputError, match="rate: how many requests per second"):
        steelyard.plan("llama-3.1-8b", ttft="p99:1s")
