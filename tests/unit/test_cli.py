"""The command line: exit codes, one clear line per problem, and the forms of an answer."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.cli.main import main
from steelyard.cli.options import MAX_SCENARIOS, expand
from steelyard.errors import InputError

EIGHT = ["--on", "h100_sxm:8", "--isl", "256", "--osl", "16"]
ONE = ["--on", "h100_sxm", "--isl", "256", "--osl", "16"]


def _run(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, list[str]]:
    code = main(list(tokens))
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def _refused(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    """The one line on stderr of a command that must exit 2 and print nothing."""
    code, out, err = _run(capsys, *tokens)
    assert (code, out, len(err)) == (2, "", 1), (code, out, err)
    assert err[0].startswith("error: ")
    assert "Traceback" not in err[0]
    return err[0]


# Lists and ranges


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("32", [32]),
        ("1,2,4", [1, 2, 4]),
        ("1-256*2", [1, 2, 4, 8, 16, 32, 64, 128, 256]),
        ("1-10+3", [1, 4, 7, 10]),
        ("3-5", [3, 4, 5]),
        ("1,8-32*2", [1, 8, 16, 32]),
        ("5-100*10", [5, 50]),
        ("1_000", [1000]),
        ("-4", [-4]),
    ],
)
def test_lists_and_ranges(text: str, values: list[int]) -> None:
    assert expand(text, "batch") == values


@pytest.mark.parametrize(
    "text", ["", "x", "1-", "1.5", "8-1", "1-8*1", "1-8+0", "0-8*2", "1-8/2", "1,,2", "1-1000000", "1-9e9"]
)
def test_bad_lists_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"batch"):
        expand(text, "batch")


def test_a_list_may_have_the_largest_size_but_not_more() -> None:
    assert len(expand(f"1-{MAX_SCENARIOS}", "isl")) == MAX_SCENARIOS
    with pytest.raises(InputError, match="100,000"):
        expand(f"1-{MAX_SCENARIOS + 1}", "isl")


def test_too_many_scenarios_are_refused_before_any_is_priced(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1,000,000 scenarios" in _refused(
        capsys, "estimate", "llama-3.1-8b", "--on", "h100", "--batch", "1-1000", "--isl", "1-1000"
    )


# Bad input: exit 2, one line


def test_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    line = _refused(capsys, "estimate", "lama-3.1-8b", *ONE)
    assert "unknown model 'lama-3.1-8b'" in line
    assert "llama-3.1-8b" in line


def test_unknown_machine(capsys: pytest.CaptureFixture[str]) -> None:
    line = _refused(capsys, "estimate", "llama-3.1-8b", "--on", "h100x")
    assert "unknown machine 'h100x'" in line
    assert "did you mean 'h100" in line


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--batch", "-1", "batch: expected at least 1, got -1"),
        ("--batch", "0", "batch: expected at least 1, got 0"),
        ("--isl", "0", "isl: expected at least 1"),
        ("--osl", "-5", "osl: expected at least 1"),
        ("--tp", "0", "tp: expected at least 1"),
        ("--batch", "many", "batch: expected a whole number"),
        ("--weights", "fp9", "weights: unknown format 'fp9'; did you mean"),
        ("--kv", "q", "kv: unknown format 'q'"),
        ("--engine", "vlm", "engine: unknown engine 'vlm'; did you mean 'vllm'"),
        ("--price", "cheap", "price: expected a number in USD/h"),
        ("--price", "-1", "price: expected a number of at least 0"),
        ("--skew", "-1", "skew: expected a number of at least 0"),
        ("--skew", "much", "--skew"),
        ("--skew", "inf", "skew: expected"),
        ("--batch", "", "batch: needs a value"),
        ("--price", "1e400", "price: expected a number of at most"),
        ("--weights", "int4,,fp8", "empty entry"),
        ("--ep", "2", "no experts"),
        ("--max-model-len", "1000", "isl + osl = 1280 tokens exceeds max_model_len, 1000"),
        ("--max-num-seqs", "0", "max-num-seqs: expected at least 1, got 0"),
        ("--pp", "64", "64"),
    ],
)
def test_bad_values(capsys: pytest.CaptureFixture[str], option: str, value: str, words: str) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-8b", "--on", "h100_sxm", option, value)
    assert (code, out) == (2, "")
    assert any(words in line for line in err), err
    assert all(line.startswith("error: ") for line in err)


def test_tp_that_does_not_divide_heads(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-70b", "--on", "h100_sxm:3", "--tp", "3")
    assert (code, out) == (2, "")
    assert any("tp: 3 does not divide the 64 attention heads; nearest is" in line for line in err)


def test_ep_that_does_not_divide_experts(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = ["estimate", "mixtral-8x7b", "--on", "h100_sxm:12", "--tp", "4", "--pp", "1", "--dp", "3", "--ep", "3"]
    code, out, err = _run(capsys, *tokens)
    assert (code, out) == (2, "")
    assert any("ep: 3 does not divide the 8 experts" in line for line in err)


def test_data_parallel_ranks_hold_copies_of_experts(capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek's own service: 256 experts in 288 places on 144 devices, two on each."""
    tokens = [
        "estimate",
        "deepseek-v3",
        "--on",
        "h800_sxm:144",
        "--dp",
        "144",
        "--ep",
        "144",
        "--batch",
        "144",
        "--json",
    ]
    code, out, _ = _run(capsys, *tokens)
    assert code == 0
    assert "288 places for 256 experts" in out
    one_expert = 3 * 7168 * 2048  # bytes in fp8; a shared one beside the two
    held = json.loads(out)["memory_parts_bytes"]["weights"]["experts"]
    assert held == pytest.approx(58 * 3 * one_expert, rel=0.05)


def test_every_problem_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capsys, "estimate", "lama", "--on", "h1000", "--batch", "x", "--weights", "fp9")
    assert code == 2
    assert len(err) == 4


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["estimate", "--on", "h100"], "MODEL: required field is missing"),
        (["estimate", "llama-3.1-8b"], "--on: required field is missing"),
        (["estimate", "llama-3.1-8b", "--on"], "--on: needs a value"),
        (["estimate", "llama-3.1-8b", "--on", "h100", "--bach", "3"], "--bach: unknown option; did you mean --batch?"),
        (["estimat"], "did you mean 'estimate'"),
        (["ls", "cars"], "expected one of models, machines"),
        (["ls", "models", "é"], "no models match"),
        (["show", ""], "expected a name or a path"),
        (["estimate", "", "--on", "h100"], "expected a name or a path"),
        (["ls", "machines", "zzzzqq"], "no machines match"),
        (["show", "zzzzqq"], "unknown name 'zzzzqq'"),
        (["compare", "h100", "llama-3.1-8b"], "compare two of one kind"),
        (["estimate", "llama-3.1-8b", "--on", "h100", "--json", "--csv"], "choose one of --json and --csv"),
        (["estimate", "llama-3.1-8b", "--on", ","], "at least one machine"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--batch", "1,2"], "expected one value"),
    ],
)
def test_bad_commands(capsys: pytest.CaptureFixture[str], tokens: list[str], words: str) -> None:
    assert words in _refused(capsys, *tokens)


def test_an_answer_in_a_folder_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = tmp_path / "none" / "x.json"
    assert "no folder" in _refused(capsys, "estimate", "llama-3.1-8b", "--on", "h100", "--out", str(place))


def _gguf_truncated(folder: Path) -> Path:
    path = folder / "cut.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 5, 40) + b"\x10")
    return path


def _yaml_bomb() -> str:
    lines = ['a0: &a0 ["lol","lol","lol","lol","lol","lol","lol","lol","lol"]']
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(lines)


def test_malformed_json_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": ')
    assert "malformed JSON" in _refused(capsys, "estimate", str(path), *ONE)


def test_json_that_is_no_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[1, 2]")
    assert "expected" in _refused(capsys, "estimate", str(path), *ONE)


def test_deeply_nested_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[" * 200_000)
    assert "malformed JSON" in _refused(capsys, "estimate", str(path), *ONE)


def test_json_of_a_gigabyte(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**30)  # sparse
    assert "1,024 MiB" in _refused(capsys, "estimate", str(path), *ONE)


def test_truncated_gguf(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "cut.gguf" in _refused(capsys, "estimate", str(_gguf_truncated(tmp_path)), *ONE)


def test_empty_gguf(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    path.write_bytes(b"")
    assert "none.gguf" in _refused(capsys, "estimate", str(path), *ONE)


def test_folder_without_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path) in _refused(capsys, "estimate", str(tmp_path), *ONE)


def test_path_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no-such" in _refused(capsys, "estimate", str(tmp_path / "no-such.json"), *ONE)


def test_machine_file_that_is_a_yaml_bomb(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(_yaml_bomb())
    assert "aliases are not accepted" in _refused(capsys, "estimate", "llama-3.1-8b", "--on", str(path))


def test_machine_path_that_is_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.mkdir()
    assert "got the folder" in _refused(capsys, "estimate", "llama-3.1-8b", "--on", str(path))


def test_machine_file_with_wrong_fields_tells_them_all(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text('name = "mine"\ntitel = "Mine"\ntdp_w = -1\n')
    code, out, err = _run(capsys, "estimate", "llama-3.1-8b", "--on", str(path))
    assert (code, out) == (2, "")
    assert any("titel" in line and "did you mean 'title'" in line for line in err)
    assert any("tdp_w" in line for line in err)
    assert any("compute" in line and "missing" in line for line in err)


# Answers


def test_report_of_one_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--batch", "4")
    assert (code, err) == (0, [])
    for words in (
        "fits",
        "weights",
        "KV cache",
        "largest batch",
        "TTFT",
        "TPOT",
        "end to end",
        "80% interval",
        "limit",
    ):
        assert words in out
    for words in ("tokens/s", "per device", "per user", "J per token", "USD per million tokens", "assumed", "sources"):
        assert words in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "\x1b" not in out


def test_json_of_one_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--json")
    assert (code, err) == (0, [])
    document = json.loads(out)
    assert document["schema"] == "steelyard.estimate/2"
    assert document["fits"] is True
    assert document["parameters"]["total"] == 8_030_261_248


def test_same_command_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    first = _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--json")
    assert first == _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--json")


def test_provenance_runs_again_to_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    import steelyard as sy

    _, out, _ = _run(
        capsys, "estimate", "mixtral-8x7b", *EIGHT, "--batch", "8", "--ep", "8", "--weights", "fp8", "--json"
    )
    document = json.loads(out)
    again = sy.estimate(**document["provenance"]["inputs"]).to_dict()
    assert again == document
    _, out, _ = _run(capsys, "estimate", "qwen3:8b", "--on", "rtx_4090", "--json")  # a name that says more
    document = json.loads(out)
    assert sy.estimate(**document["provenance"]["inputs"]).to_dict() == document


def test_names_forgive(capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for model, machine in (
        ("meta-llama/Llama-3.1-8B", "h100_sxm"),
        ("LLAMA 3.1 8b", "NVIDIA H100 80GB HBM3"),
        ("llama3.1-8b", "H100"),
    ):
        code, out, _ = _run(capsys, "estimate", model, "--on", machine, "--isl", "64", "--osl", "4", "--json")
        assert code == 0
        answers.append(json.loads(out)["tpot_s"])
    assert len(set(answers)) == 1


def test_backend_is_another_name_of_engine(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--backend", "sglang", "--json")
    assert json.loads(out)["engine"] == "sglang"


def test_price_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--price", "3.6", "--json")
    document = json.loads(out)
    expected = 3.6 * document["e2e_s"] / 3600 / 16 * 1e6
    assert document["usd_per_million_tokens"] == pytest.approx(expected)


def test_local_config_and_machine_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1024,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "My chip"\nkind = "gpu"\nvendor = "me"\nfamily = "mine"\n'
        '[[compute]]\nname = "mac"\nkind = "matrix"\nunits = 4\npeak = { bf16 = "10TFLOPS" }\n'
        '[[memory]]\nname = "dram"\ncapacity_bytes = "8GiB"\nbandwidth_bytes_per_s = "100GB/s"\n'
    )
    arguments = [
        str(tmp_path / "config.json"),
        "--on",
        str(tmp_path / "mine.toml"),
        "--isl",
        "128",
        "--osl",
        "8",
        "--json",
    ]
    code, out, err = _run(capsys, "estimate", *arguments)
    assert (code, err) == (0, [])
    document = json.loads(out)
    assert document["machine"]["name"] == "mine"
    assert document["tpot_s"] >= document["parameters"]["total"] * 2 * 0.8 / 100e9


# Tables


def test_table_of_a_range(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-8b", "--on", "h100,l40s", "--batch", "1-4*2", "--osl", "8")
    assert (code, err) == (0, [])
    rows = [line for line in out.splitlines() if line.startswith(("h100_sxm", "l40s"))]
    assert len(rows) == 6


def test_json_of_several_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(
        capsys, "estimate", "llama-3.1-8b", "--on", "h100", "--weights", "bf16,fp8", "--isl", "64,128", "--json"
    )
    document = json.loads(out)
    assert (code, document["schema"]) == (0, "steelyard.estimates/1")
    assert [(r["plan"]["weights"], r["isl"]) for r in document["rows"]] == [
        ("bf16", 64),
        ("bf16", 128),
        ("fp8", 64),
        ("fp8", 128),
    ]


def test_csv_has_one_row_per_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "estimate", "llama-3.1-8b", "--on", "h100:2", "--tp", "3,2", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [r["problem"] == "" for r in rows] == [False, True]
    assert "devices" in rows[0]["problem"]
    assert float(rows[1]["ttft_s"]) > 0


def test_a_scenario_that_cannot_run_or_fit_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-70b", "--on", "h100:8,h100:3,t4", "--osl", "8")
    assert (code, err) == (0, [])
    assert "does not fit" in out
    code, out, _ = _run(capsys, "estimate", "llama-3.1-70b", "--on", "h100:8", "--tp", "8,3", "--osl", "8")
    assert code == 0
    assert "error [1]" in out
    assert "[1] cannot run: " in out
    assert "3 does not divide the 64 attention heads" in " ".join(out.split())


def test_exit_codes_of_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-70b", "--on", "t4,l4", "--osl", "8")
    assert code == 3
    assert "does not fit" in out
    assert len(err) == 1
    code, out, err = _run(capsys, "estimate", "llama-3.1-70b", "--on", "h100:3", "--tp", "3,6", "--osl", "8")
    assert (code, out) == (2, "")


# Does not fit


def test_does_not_fit_is_exit_3_with_the_nearest_change(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "estimate", "llama-3.1-70b", "--on", "h100_sxm:1")
    assert code == 3
    assert "does not fit" in out
    assert len(err) == 1
    assert err[0].startswith("does not fit: needs ")
    assert "nearest change that fits: weights in fp8" in err[0] or "nearest change that fits: weights in int4" in err[0]


def test_does_not_fit_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "estimate", "llama-3.1-70b", "--on", "h100_sxm", "--json")
    document = json.loads(out)
    assert (code, document["fits"]) == (3, False)
    changed = {**document["provenance"]["inputs"], **document["remedy"]["arguments"]}
    if "weights" in document["remedy"]["arguments"]:
        changed["activations"] = ""
    import steelyard as sy

    assert sy.estimate(**changed).fits


# Other verbs


@pytest.mark.parametrize("kind", ["models", "machines", "formats", "engines", "networks", "nodes", "prices"])
def test_ls(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, out, err = _run(capsys, "ls", kind)
    assert (code, err) == (0, [])
    code, listed, _ = _run(capsys, "ls", kind, "--json")
    rows = json.loads(listed)["rows"]
    assert len(rows) >= 1
    assert len(out.splitlines()) >= len(rows) + 2


def test_ls_filter_forgives(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "ls", "machines", "RTX-4090", "--json")
    assert "rtx_4090" in [r["name"] for r in json.loads(out)["rows"]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("H100", "machine"),
        ("llama-3.1-8b", "model"),
        ("mxfp4", "format"),
        ("sglang", "engine"),
        ("nvlink4", "network"),
        ("hgx_h100", "node"),
    ],
)
def test_show_finds_whatever_it_is(capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    code, out, _ = _run(capsys, "show", name)
    assert code == 0
    assert out.startswith(kind)
    code, out, _ = _run(capsys, "show", name, "--json")
    assert json.loads(out)["kind"] == kind


def test_show_marks_guesses(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "show", "h100_sxm")
    line = next(line for line in out.splitlines() if "memory.hbm.latency_s" in line)
    assert line.rstrip().endswith("guess")
    assert "sources" in out


def test_show_says_which_when_a_name_means_several_things(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.report import entry

    loaders = {**entry._LOADERS, "network": entry._LOADERS["machine"]}
    monkeypatch.setattr(entry, "_LOADERS", loaders)
    line = _refused(capsys, "show", "h100_sxm")
    assert "'h100_sxm' names a machine and a network; say --kind machine or --kind network" in line


def test_compare_machines_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "compare", "h100", "a100", "--json")
    rows = {r["field"]: r for r in json.loads(out)["rows"]}
    assert code == 0
    assert rows["memory.bandwidth_bytes_per_s"]["ratio"] < 1
    code, out, _ = _run(capsys, "compare", "llama-3.1-8b", "llama-3.1-70b")
    assert code == 0
    assert "parameters" in out


def test_compare_saved_estimates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, batch in zip(files, ("1", "8"), strict=True):
        assert _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--batch", batch, "--out", str(file))[0] == 0
    code, out, _ = _run(capsys, "compare", str(files[0]), str(files[1]), "--json")
    rows = {r["field"]: r for r in json.loads(out)["rows"]}
    assert code == 0
    assert rows["batch"]["ratio"] == 8
    assert rows["tokens_per_s"]["ratio"] > 1


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "explain", "llama-3.1-8b", *ONE)
    assert (code, err) == (0, [])
    for words in ("Prefill step", "Decode step", "m n k =", "FLOP/B", "util", "Memory", "Energy", "bound"):
        assert words in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_out_writes_the_form_of_the_ending(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a.json", "a.csv", "a.txt"):
        code, out, _ = _run(capsys, "estimate", "llama-3.1-8b", *ONE, "--out", str(tmp_path / name))
        assert (code, out) == (0, "")
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == "steelyard.estimate/2"
    assert (tmp_path / "a.csv").read_text().startswith("model,machine,")
    assert "\x1b" not in (tmp_path / "a.txt").read_text()


def test_internal_errors_keep_their_traceback_unless_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.report import listing

    def broken(kind: str, filter_text: str = "") -> list[dict[str, object]]:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(listing, "rows", broken)
    with pytest.raises(RuntimeError):
        main(["ls", "models"])
    code, _, err = _run(capsys, "ls", "models", "--quiet")
    assert (code, err) == (1, ["internal error: RuntimeError: a bug of ours"])


# As a program


def _program(*tokens: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steelyard.cli.main", *tokens], capture_output=True, text=True, check=False
    )


def test_program_help_names_every_verb() -> None:
    done = _program("--help")
    assert done.returncode == 0
    for verb in ("estimate", "explain", "ls", "show", "compare", "version"):
        assert verb in done.stdout


def test_program_exit_codes_reach_the_shell() -> None:
    done = _program("estimate", "llama-3.1-8b", "--on", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_help_and_an_estimate_import_nothing_heavy() -> None:
    code = "import sys; from steelyard.cli.main import main\ntry:\n  main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'numpy', 'pydantic', 'yaml', 'numba', 'pandas'} & set(sys.modules)\n"
    code += "main(['estimate', 'llama-3.1-8b', '--on', 'h100_sxm'])\n"  # good data of the catalogue is built without it
    code += "heavy |= {'pydantic', 'yaml', 'numba', 'pandas', 'scipy'} & set(sys.modules)\n"
    code += "sys.exit(repr(heavy) if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["simulate", "llama-3.1-8b", "--on", "l40s", "--trace", "/dev/zero"],
            "--trace: '/dev/zero' is no regular file",
        ),
        (["simulate", "llama-3.1-8b", "--on", "l40s", "--trace", "{tmp}/pipe"], "is no regular file"),
        (["compare", "{tmp}/pipe", "--model", "llama-3.1-8b", "--on", "l40s"], "is no regular file"),
        (["compare", "/dev/null", "--model", "llama-3.1-8b", "--on", "l40s"], "is no regular file"),
        (
            ["calibrate", "/dev/zero", "--engine", "vllm", "--model", "llama-3.1-8b", "--on", "l40s"],
            "is no regular file",
        ),
        (
            ["simulate", "llama-3.1-8b", "--on", "l40s", "--rate", "2/s", "--policy", "{tmp}/pipe.py:X"],
            "is no regular file",
        ),
        (["simulate", "llama-3.1-8b", "--on", "l40s", "--rate", "-1/s"], "--rate: expected"),
        (["plan", "llama-3.1-8b", "--on", "l40s", "--ttft", "1s", "--rate", "-1/s"], "--rate: expected"),
    ],
)
def test_misleading_lines(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.py")
    assert main([word.replace("{tmp}", str(tmp_path)) for word in words]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_the_users_catalogue_is_there_or_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from steelyard.folders import catalogue_folders

    ask = ["estimate", "llama-3.1-8b", "--on", "l40s"]
    for named, code, says in (
        ("/dev/null", 2, "error: STEELYARD_CATALOGUE: expected a folder, got '/dev/null'"),
        (str(tmp_path / "none"), 0, f"note: STEELYARD_CATALOGUE: no folder '{tmp_path / 'none'}'"),
        (str(tmp_path), 0, ""),
    ):
        monkeypatch.setenv("STEELYARD_CATALOGUE", named)
        catalogue_folders.cache_clear()
        assert main(ask) == code
        said = capsys.readouterr().err
        assert said.startswith(says) and said.count("\n") == bool(says)
    monkeypatch.undo()
    catalogue_folders.cache_clear()


def test_a_hint_names_files_that_begin_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.cli.study import _elsewhere

    (tmp_path / "s.toml").write_text('name = "s"\nkind = "estimate"\n[fixed]\nmodel = "llama-3.1-8b"\non = "l40s"\n')
    monkeypatch.chdir(tmp_path)
    for store in ("-ab.duckdb", "--x.duckdb", "a b.duckdb"):
        words = shlex.split(shlex.join(_elsewhere(store)))
        assert main(["study", "s.toml", "--jobs", "1", "--quiet", *words]) == 0
        assert main(["report", "s", *words]) == 0
        assert Path(store).is_file()


def test_hints_are_commands_whatever_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names with blanks, files with quotes and dollars: what is printed to go on with, runs."""
    from steelyard.studies import sweep

    name, store, file = "x y. - z", "a b;$HOME.duckdb", "my study's.toml"
    monkeypatch.chdir(tmp_path)
    Path(file).write_text(f'name = "{name}"\nkind = "estimate"\n[fixed]\nmodel = "llama-3.1-8b"\non = "l40s"\n')
    asked = ["study", file, "--jobs", "1", "--store", store]

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "sweep", stopped)
        assert main(asked) == 130
    hint = capsys.readouterr().err.partition("go on with: ")[2].splitlines()[0]
    words = shlex.split(hint)
    assert words == ["steelyard", "study", file, "--resume", "--store", store]
    assert main([*words[1:], "--jobs", "1"]) == 0
    hint = capsys.readouterr().out.partition("see: ")[2].splitlines()[0]
    words = shlex.split(hint)
    assert words == ["steelyard", "report", name, "--store", store]
    assert main(words[1:]) == 0
    assert name in capsys.readouterr().out
    found = subprocess.run(["bash", "-c", f'set -- {hint}; echo $#; echo "$3"'], capture_output=True, text=True)
    assert found.stdout == f"5\n{name}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_search_lists_what_can_be_searched_for(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", flag]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {what}: " in told for what in ("network", "predictor", "chip"))
    assert "estimate" not in told


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--set", "foo=1", "known: attention, "),
        ("--gbs", "1e22", "1 to 1,000,000,000 sequences"),
        ("--tokens", "1e300", "below 1e24"),
    ],
)
def test_refusals_of_train_say_what_can_be_given(
    option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "llama-3.1-8b", "--on", "h100_sxm:8", option, value]) == 2
    assert expected in capsys.readouterr().err
