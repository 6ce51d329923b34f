"""The help of the verbs: options below headings, and examples that run as they stand."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from steelyard.cli.help import EXAMPLES
from steelyard.cli.main import app, main
from steelyard.scenario.fields import ENGINE_FLAGS, TOPICS, USUAL, VERBS, fields_of
from tests.docs import blocks

#: Examples that take minutes, or go on until they are stopped.
MEASURING = ("calibrate", "serve")


def _help(verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(app, "_console", Console(width=100))
    assert main([verb, "--help"]) == 0
    return capsys.readouterr().out


def _sections(text: str) -> dict[str, list[str]]:
    """By heading the options below it."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            heading = line[:-1]
        elif option := re.match(r"  (--[\w-]+|[A-Z]+)", line):
            found.setdefault(heading, []).append(option[1])
    return found


def test_every_field_is_about_something() -> None:
    for verb in VERBS:
        assert all(f.topic in TOPICS for f in fields_of(verb).values())
    assert {f.topic for f in ENGINE_FLAGS.values()} == {"Engine"}
    assert {name for verb in VERBS for name in fields_of(verb)} >= USUAL


@pytest.mark.parametrize(
    "verb", ["estimate", "fit", "simulate", "plan", "explain", "compare", "study", "calibrate", "report"]
)
def test_options_stand_below_headings(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _help(verb, capsys, monkeypatch)
    found = _sections(text)
    assert '[default: ""]' not in text
    assert not any(option.startswith("--") for option in found.get("Parameters", ()))
    assert max(map(len, found.values())) <= 20
    assert {"--json", "--quiet"} <= {*found["Output"]}


@pytest.mark.parametrize("verb", EXAMPLES)
def test_an_example_can_be_pasted(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_console", Console(width=60))
    if verb != "validate":  # which has an option --help of its own
        assert main([verb, "--help"]) == 0
        lines = capsys.readouterr().out.partition("Example:\n")[2]
        assert shlex.split(lines.replace("\\\n", "")) == shlex.split(EXAMPLES[verb])


def test_what_everyone_uses_comes_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = _sections(_help("simulate", capsys, monkeypatch))
    assert [*found][:2] == ["Arguments", "Most used"]
    assert {"--on", "--rate", "--concurrency", "--isl", "--osl", "--ttft"} <= {*found["Most used"]}
    assert len(found["Most used"]) <= 16
    assert "--max-num-seqs" in found["Engine"] and "--lora" in found["Techniques"] and "--seed" in found["Traffic"]


def _inputs(folder: Path) -> None:
    """The files that examples name."""
    fixed = '[fixed]\nmodel = "llama-3.1-8b"\non = "h100_sxm"\n[grid]\nbatch = [1, 2]\n'
    (folder / "study.toml").write_text(f'name = "my-study"\nkind = "estimate"\n{fixed}')
    cells = ("nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "none")
    rows = [f"|{c}~0|+|{c}~0|{c}~1|+|{c}~0|{c}~1|{c}~2|,{n}e-3" for n, c in enumerate(cells, 3)]
    (folder / "ten.csv").write_text("\n".join(["architecture,seconds", *rows]))
    totals = {"completed": 8, "total_input_tokens": 4096, "total_output_tokens": 256, "request_throughput": 4.0}
    times = {"mean_ttft_ms": 40.0, "mean_tpot_ms": 7.0, "duration": 2.0, "max_concurrency": 4}
    fields = 'base = "eyeriss"\nprecision = "int16"\n[choose]\nmemory.dram.bandwidth_bytes_per_s = ["1GB/s", "2GB/s"]\n'
    (folder / "npu.toml").write_text(fields)
    (folder / "measured.json").write_text(json.dumps({**totals, **times}))


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    _inputs(tmp_path)
    for verb, line in EXAMPLES.items():
        words = shlex.split(line)
        assert words[:2] == ["steelyard", verb.partition("_")[0]]
        if verb in MEASURING or shlex.join(words) in blocks.homes():  # those on a page are run there
            continue
        try:
            code = main(words[1:])
        except SystemExit as end:  # --help of validate
            code = int(end.code or 0)
        found = capsys.readouterr()
        assert code == 0, f"{line}: {found.err}"
        assert found.out.strip(), line
    assert (tmp_path / "plan" / "README.md").is_file()


def test_the_page_of_a_verb_says_all_its_function_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Lists and ranges (1,2,4 or 1-256*2 or 1-10+3) give a table." in _help("estimate", capsys, monkeypatch)
    assert "Exit code 3 when nothing fits" in _help("plan", capsys, monkeypatch)
