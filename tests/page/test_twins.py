"""What the page says is what the library says: JSON, CSV, command, Python, forms, names."""

from __future__ import annotations

import json
import re
import shlex
from urllib.parse import quote, urlencode

import pytest

import steelyard as sy
from steelyard.cli.main import main
from steelyard.machine.catalogue import find_machine
from steelyard.page.form import form_of
from steelyard.page.names import names_like
from steelyard.page.question import fields_on, read_question
from steelyard.page.screen import SCREENS, screen, screens
from steelyard.scenario.fields import ALONE, fields_of
from tests.page.server import Server

QUESTIONS = (
    {"model": "llama-3.1-8b", "on": "h100_sxm", "batch": "8"},
    {"model": "deepseek-v3", "on": "h200_sxm:8", "tp": "8", "isl": "2000", "osl": "100", "weights": "fp8"},
    {"model": "resnet50", "on": "a100_sxm", "batch": "32", "precision": "fp16"},
    {"model": "llama-3.1-70b", "on": "h100_sxm", "usd_per_hour": "2.5", "enforce_eager": "true"},
    {"model": "bert-base", "on": "l40s", "isl": "128"},
)


def command_line(words: dict[str, str]) -> list[str]:
    """The words as options of the command."""
    known = fields_on(screen("estimate"))
    line = ["estimate", words["model"]]
    for name, value in words.items():
        if name != "model":
            line += [known[name].switch] if known[name].type == "switch" else [known[name].switch, value]
    return line


@pytest.mark.parametrize("words", QUESTIONS, ids=lambda w: w["model"])
def test_the_twins_are_what_the_command_writes(
    server: Server, words: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    query = urlencode(words)
    assert main([*command_line(words), "--json"]) in (0, 3)
    assert server.ask(f"/api/estimate?{query}").data == json.loads(capsys.readouterr().out)
    main([*command_line(words), "--csv"])
    assert server.ask(f"/api/estimate.csv?{query}").text == capsys.readouterr().out


@pytest.mark.parametrize("words", QUESTIONS, ids=lambda w: w["model"])
def test_command_and_python_ask_the_same(words: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    question = read_question(screen("estimate"), urlencode(words))
    typed = shlex.split(question.command())
    assert typed[0] == "steelyard"
    main([*typed[1:], "--json"])
    document = json.loads(capsys.readouterr().out)
    head, _, call = question.python().partition("\n\n")
    assert head == "import steelyard as sy"
    found = eval(call, {"sy": sy})
    latency = found.e2e_s if hasattr(found, "e2e_s") else found.latency_s
    assert latency == document["latency_s"]


def test_every_problem_is_told_with_its_field(server: Server) -> None:
    found = server.ask("/api/estimate?model=llama-3.1-8b&on=h100_sxmm&batch=x&typo=1")
    assert found.status == 422
    assert set(found.problems) == {"on", "batch", "typo"} or set(found.problems) >= {"batch", "typo"}
    near = server.ask("/api/estimate?model=llama-3.1-8b&on=h100_sxmm").data["problems"][0]
    assert near["field"] == "on" and near["nearest"][0] == "h100_sxm"
    assert server.ask("/api/estimate?on=h100_sxm").problems.keys() == {"model"}
    assert "given twice" in server.ask("/api/estimate?model=a&model=b&on=h100_sxm").problems["model"]


def test_what_does_not_fit_is_an_answer(server: Server) -> None:
    found = server.ask("/api/estimate?model=llama-3.1-70b&on=h100_sxm")
    assert found.status == 200 and found.data["fits"] is False
    page = server.ask("/estimate?model=llama-3.1-70b&on=h100_sxm").text
    assert "Does not fit." in page and "data-change" in page


def test_columns_are_what_they_change_of_the_first() -> None:
    one = screen("estimate")
    asked = read_question(one, "model=llama-3.1-8b&on=h100_sxm&batch=8&2.on=b200_sxm&3.batch=&3.tp=2")
    assert [dict(c) for c in asked.columns] == [
        {"model": ["llama-3.1-8b"], "on": ["h100_sxm"], "batch": ["8"]},
        {"model": ["llama-3.1-8b"], "on": ["b200_sxm"], "batch": ["8"]},
        {"model": ["llama-3.1-8b"], "on": ["h100_sxm"], "tp": ["2"]},
    ]
    assert read_question(one, asked.query).columns == asked.columns
    with pytest.raises(sy.InputError, match="at most 4"):
        read_question(one, "model=a&5.on=b")


def test_forms_have_every_field_once() -> None:
    for one in screens().values():
        if not one.verb:
            continue
        question = read_question(one, "")
        inputs = [i.field.name for group in form_of(question) for i in (*group.shown, *group.folded)]
        assert len(inputs) == len(set(inputs))
        expected = {n for n, f in fields_of(one.verb).items() if f.type != "object" and f.options != ("",)}
        assert expected - set(inputs) <= (set(ALONE) if one.shown else set()), one.name


def test_the_form_follows_the_model() -> None:
    one = screen("estimate")
    network = [i.field.name for g in form_of(read_question(one, "model=resnet50")) for i in (*g.shown, *g.folded)]
    served = [i.field.name for g in form_of(read_question(one, "model=llama-3.1-8b")) for i in (*g.shown, *g.folded)]
    assert "runtime" in network and "isl" not in network
    assert "isl" in served and "runtime" not in served


def test_names_are_offered_with_what_they_are(server: Server) -> None:
    found = server.ask("/api/names?kind=on&q=h100").data["names"]
    assert found[0]["name"].startswith("h100") and any("NVIDIA" in one["what"] for one in found)
    assert names_like("model", "llama 3.1 8b")[0]["name"] == "meta-llama/Llama-3.1-8B"
    assert next(n["name"] for n in names_like("machine", "h100_sxn", 2)) == "h100_sxm"
    assert server.ask("/api/names?kind=nothing").status == 422
    assert server.ask("/api/names?kind=model&limit=-1").status == 422


def test_the_description_has_every_field(server: Server) -> None:
    document = server.ask("/api/openapi.json").data
    assert document["openapi"].startswith("3.1")
    for name in SCREENS:
        said = {p["name"] for p in document["paths"][f"/api/{name}"]["get"]["parameters"]}
        assert said == {*fields_on(screen(name)), *screen(name).parameters}
    batch = next(p for p in document["paths"]["/api/estimate"]["get"]["parameters"] if p["name"] == "batch")
    assert batch["schema"] == {"type": "integer", "minimum": 1, "maximum": 1e9, "default": 1}


def test_lists_and_entries_are_those_of_the_command(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ls", "prices", "--json"])
    assert server.ask("/api/catalogue?kind=prices").data == json.loads(capsys.readouterr().out)
    main(["show", "h100_sxm", "--kind", "machine", "--json"])
    assert server.ask("/api/catalogue?kind=machines&name=h100_sxm").data == json.loads(capsys.readouterr().out)
    assert server.ask("/api/catalogue?kind=machines&nane=h100_sxm").problems.keys() == {"nane"}


def test_each_number_of_a_list_says_where_it_is_from(server: Server) -> None:
    machine = find_machine("h100_sxm_96gb")
    page = server.ask("/catalogue?kind=machines&q=h100_sxm_96gb").text
    assert page.count(f'title="guess: {machine.guess["memory.hbm.capacity_bytes"]}"') == 1
    assert page.count(f'<tr title="{machine.sources["datasheet"]}; ') == 1 and "; released 2023-06" in page
    prices = server.ask("/catalogue?kind=prices&q=RunPod").text
    assert re.search(r'<tr title="RunPod [^"]*, 20\d\d-\d\d"', prices)
    assert re.search(r'<td class="[^"]*guessed" title="guess: RunPod [^"]*, 20\d\d-\d\d"', prices)


def test_a_machine_is_written_and_used(server: Server) -> None:
    query = urlencode(screen("machine").start)
    text = server.ask(f"/files/machine/my_chip.toml?{query}")
    assert text.headers["content-disposition"] == 'attachment; filename="my_chip.toml"'
    kept = server.ask("/drop?name=my_chip.toml", "POST", body=text.body).data
    assert kept["field"] == "on" and kept["what"] == "My chip"
    on = f"/api/estimate?model=llama-3.1-8b&weights=int8&on={kept['name']}"
    found = server.ask(on).data
    expected = sy.estimate("llama-3.1-8b", text.text, weights="int8")
    assert found["tpot_s"] == expected.tpot_s
    inner = "&memory.1.name=sram&memory.1.capacity_bytes=64MiB&memory.1.bandwidth_bytes_per_s=4TB/s"
    wrong = server.ask(f"/api/machine?{query}{inner}&memory.1.inside=drum")
    assert wrong.status == 422 and any("drum" in m for m in wrong.problems.values())
    lacking = server.ask(f"/api/machine?{query}&memory.1.name=sram").problems
    assert set(lacking) == {"memory.1.capacity_bytes", "memory.1.bandwidth_bytes_per_s"}


def test_what_is_dropped_is_read_by_the_readers(server: Server) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "intermediate_size": 5632,
        "vocab_size": 32000,
    }
    kept = server.ask("/drop?name=config.json", "POST", body=json.dumps(config).encode()).data
    assert kept["field"] == "model"
    found = server.ask(f"/api/estimate?model={quote(kept['name'])}&on=h100_sxm").data
    assert found["parameters"]["total"] > 3e8
    again = server.ask("/drop?name=config.json", "POST", body=json.dumps(config).encode()).data
    assert again["name"] == kept["name"]


def test_questions_to_press_are_questions_of_their_screen() -> None:
    offered = [(one, words) for one in screens().values() for _, words in one.examples]
    assert len(offered) > 10
    for one, words in offered:
        assert not set(words) - set(fields_on(one))
        read = read_question(one, list(words.items()))
        assert {n: list(v) for n, v in read.columns[0].items()} == {n: [v] for n, v in words.items()}
        read.words()
    assert all(one.examples and one.brings for one in screens().values() if one.long)


def test_the_pipeline_of_a_step_is_made_when_it_is_asked_for(server: Server) -> None:
    question = "model=llama-3.1-8b&on=h100_sxm:8&gbs=32&tp=2&pp=2"
    found = server.ask(f"/files/train/perfetto.json?{question}")
    assert found.status == 200 and "attachment" in found.headers["content-disposition"]
    passes = [e for e in found.data["traceEvents"] if e.get("cat") == "pass"]
    assert {e["tid"] for e in passes} == {1, 2} and any(e["name"] == "F0" for e in passes)
    assert server.ask(f"/files/train/other.json?{question}").status == 404
    alone = server.ask("/files/train/perfetto.json?model=resnet50&on=h100_sxm:8&gbs=256")
    assert alone.status == 422 and "pipeline" in alone.text
