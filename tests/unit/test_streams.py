"""What leaves the process: to closed, full and narrow streams, to terminals and to spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import steelyard
from steelyard.cli.main import app, main
from steelyard.errors import InputError, bounded, printable
from steelyard.machine.loader import load_machine

PROGRAM = (sys.executable, "-c", "from steelyard.cli import run; run()")
ESTIMATE = ("estimate", "llama-3.1-8b", "--on", "h100_sxm")
HOSTILE = "\x1b]0;title\x07\x1b[31mred\n  fits / no \u202egnp\x9b\u200b"


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (">&-", 1, "stdout is closed"),
        (">&- 2>&-", 1, ""),
        (">/dev/full", 1, "No space left"),
        ("<&-", 0, ""),
        ("| head -1; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
@pytest.mark.parametrize("asked", [ESTIMATE, ("--help",)], ids=["estimate", "help"])
def test_a_stream_that_cannot_be_written_ends_with_one_line(
    script: str, code: int, words: str, asked: tuple[str, ...]
) -> None:
    found = _run("bash", "-c", f'"$@" {script}', "x", *PROGRAM, *asked)
    assert found.returncode == code
    assert words in found.stderr
    assert found.stderr.count("\n") <= 1


def test_characters_a_stream_cannot_write_do_not_end_the_run() -> None:
    found = _run(*PROGRAM, *ESTIMATE, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert found.returncode == 0
    assert found.stdout.isascii()


@pytest.mark.parametrize("delay", ["0.03", "0.1", "0.3"])
def test_an_early_interrupt_is_said(delay: str) -> None:
    text = (
        "import os, signal, threading, sys\nimport steelyard.cli as c\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs behind itself\n"
        "threading.Timer(float(sys.argv.pop(1)), os.kill, (os.getpid(), signal.SIGINT)).start()\nc.run()"
    )
    words = ["simulate", *ESTIMATE[1:], "--rate", "20/s", "--requests", "300000"]
    found = _run(sys.executable, "-c", text, delay, *words)
    assert (found.returncode, found.stdout) == (130, "")
    assert found.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in found.stderr


_LOST = """
import os, signal, sys, time, weakref
import steelyard.cli as c
signal.signal(signal.SIGINT, signal.default_int_handler)
class Thing: pass
def lose():
    thing = Thing()
    held = weakref.ref(thing, lambda _: os.kill(os.getpid(), NUMBER))  # an exception raised here is ignored
    del thing
class Finder:
    def find_spec(self, name, *rest):
        if name == WHEN:
            lose()
            time.sleep(0.1)
sys.meta_path.insert(0, Finder())
c.run()
print("it went on")
"""


@pytest.mark.parametrize(
    ("module", "number", "code"),
    [
        ("cyclopts", "SIGINT", 130),
        ("steelyard.estimation.estimate", "SIGINT", 130),
        ("steelyard.report", "SIGTERM", 143),
    ],
)
def test_a_signal_is_not_lost_where_python_ignores_exceptions(module: str, number: str, code: int) -> None:
    text = _LOST.replace("NUMBER", f"signal.{number}").replace("WHEN", repr(module))
    text = text.replace("lose()\nsys", "lose(); time.sleep(0.1)\nsys")
    found = _run(sys.executable, "-c", text, *ESTIMATE)
    assert (found.returncode, found.stdout) == (code, "")
    assert found.stderr == ("interrupted\n" if code == 130 else "")


def test_what_is_loaded_before_an_interrupt_is_heeded_is_small() -> None:
    source = str(Path(steelyard.__file__).parents[1])
    text = f"import sys; sys.path.insert(0, {source!r}); import steelyard.cli; print('typing' in sys.modules)"
    assert _run(sys.executable, "-S", "-E", "-c", text).stdout == "False\n"


def test_every_name_of_a_verb_stands_beside_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = [
        line for line in capsys.readouterr().out.partition("Example:")[0].splitlines() if re.match("  [a-z]", line)
    ]
    assert any(line.startswith("  study, sweep: Price") for line in lines)
    assert all(": " in line for line in lines)


def _config(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    small = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 4, "intermediate_size": 2048}
    config = {"model_type": "llama", "vocab_size": 32000, "torch_dtype": "bfloat16", **small, "_name_or_path": name}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _steering(text: str) -> set[str]:
    return {c for c in text if (c < " " and c != "\n") or c in "\x7f\x9b\u202e\u200b"}


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_names_from_files_do_not_steer_a_terminal(
    tmp_path: Path, form: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    model = _config(tmp_path / "m", HOSTILE)
    assert main(["estimate", str(model), "--on", "h100_sxm", *form]) == 0
    out = capsys.readouterr().out
    assert not _steering(out)
    assert not any(line.strip().startswith("fits / no") for line in out.splitlines())
    assert main(["estimate", str(model), "--on", HOSTILE]) == 2
    assert not _steering(capsys.readouterr().err)


@pytest.mark.parametrize("name", [HOSTILE, "", "x" * 200])
def test_a_machine_cannot_be_called_anything(tmp_path: Path, name: str) -> None:
    import steelyard

    known = Path(steelyard.__file__).parent / "catalogue" / "machines" / "l40s.toml"
    file = tmp_path / "m.toml"
    file.write_text(known.read_text().replace('name = "l40s"', f"name = {json.dumps(name)}", 1))
    with pytest.raises(InputError, match="name"):
        load_machine(file)


def test_cells_are_no_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _config(tmp_path / "m", '=HYPERLINK("http://x","y")')
    assert main(["estimate", str(model), "--on", "h100_sxm", "--csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row["model"].startswith("'=HYPERLINK")
    assert float(row["tpot_s"]) > 0


def test_messages_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("x" * 10_000, "error: " + repr("y" * 10_000), "9" * 400, "z " * 100_000):
        assert len(bounded(text)) <= 1300
    assert printable("a\x1b[31m\nb\u202e") == "a\\x1b[31m b\\u202e"
    assert main(["estimate", "m" * 10_000, "--on", "h" * 10_000]) == 2
    assert len(capsys.readouterr().err) < 2000


@pytest.mark.parametrize("verb", ["estimate", "simulate", "plan", "study", "report", "explain", "ls", "show"])
def test_help_is_wrapped_once_and_ends_with_an_example(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_console", Console(width=80))  # one that an earlier test made keeps the width it had then
    main([verb, "--help"])
    out = capsys.readouterr().out
    assert f"Example: steelyard {verb} " in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    options = [line for line in out.partition("Example:")[0].splitlines() if line.startswith("  ")]
    assert all(line.startswith(("  -", "      ")) or line[2].isupper() for line in options)


@pytest.mark.parametrize("columns", ["0", "20", "garbage", "1000000000", "9" * 40])
def test_any_width_of_a_terminal_will_do(columns: str) -> None:
    found = _run(*PROGRAM, "estimate", "--help", COLUMNS=columns)
    assert found.returncode == 0
    assert 40 <= max(map(len, found.stdout.splitlines())) <= 400


def test_a_run_that_is_terminated_tidies_up(tmp_path: Path) -> None:
    text = (
        "import os, signal, sys, steelyard.writing as w\nfrom steelyard.cli import run\nfrom pathlib import Path\n"
        "real = Path.write_text\n"
        "def slow(*a, **k):\n    real(*a, **k); os.kill(os.getpid(), signal.SIGTERM)\n"
        "Path.write_text = slow\nrun()"
    )
    found = _run(sys.executable, "-c", text, *ESTIMATE, "--out", str(tmp_path / "a.json"))
    assert (found.returncode, found.stderr, [*tmp_path.iterdir()]) == (143, "", [])


def test_kinds_and_policies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in ((["ls"], "policies"), (["ls", "policies"], "mlfq"), (["show", "mlfq"], "policy mlfq")):
        assert main(words) == 0
        assert expected in capsys.readouterr().out
