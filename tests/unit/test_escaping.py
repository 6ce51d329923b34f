"""Names of anybody in what is written: shells, Markdown, markup of the terminal, and files that are whole or not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from steelyard.calibrate.toml_files import write_files
from steelyard.cli.main import main
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, SteelyardError
from steelyard.launch import Load, launch_files, service, write_folder
from steelyard.launch.command import Var, shell_word
from steelyard.report.paper import render, styled
from steelyard.writing import WriteError, whole_file, write_text

NASTY = ["--trust-remote-code", "a,b=c", "x`id`$(id)\n```\nrm -rf", 'it\'s "so" \\ $HOME', "\x1b[31m\u202ered", "é"]


def _config(folder: Path, name: str) -> Path:
    folder.mkdir()
    small = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 4, "intermediate_size": 2048}
    config = {"model_type": "llama", "vocab_size": 32000, "torch_dtype": "bfloat16", **small, "_name_or_path": name}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("word", [*NASTY, "a\udcffb"])
def test_a_word_of_bash_is_one_line_and_means_itself(word: str) -> None:
    quoted = shell_word(word)
    assert "\n" not in quoted and quoted.isprintable()
    variable = shell_word(Var("X", before=word, after="="))
    assert variable.isprintable()
    script = f"X=1; printf '%s\\0' {quoted} {variable}"
    said = subprocess.run(["bash", "-c", script], capture_output=True, timeout=20, check=True).stdout
    raw = os.fsencode(word)
    assert said == raw + b"\0" + raw + b"1=\0"


@pytest.mark.parametrize("name", NASTY)
def test_a_path_is_an_argument_in_every_launch_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _config(tmp_path / name, "small")
    made = service(Deployment(name, (Pool("l40s", Plan(engine="vllm")),)), Load(1.0, 100, 10, words=f"of {name}"))
    files = launch_files(made)
    for file in ("serve.sh", "check-vllm.sh", "check-aiperf.sh", "check-guidellm.sh"):
        text = files[file]
        assert all(line.isprintable() for line in text.splitlines()), file
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, timeout=20, check=False)
        assert checked.returncode == 0, checked.stderr
    (tmp_path / "guidellm").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    (tmp_path / "guidellm").chmod(0o755)
    here = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = files["check-guidellm.sh"]
    said = subprocess.run(["bash", "-c", script], capture_output=True, timeout=20, check=True, env=here)
    words = said.stdout.decode().split("\0")
    backend = dict(part.split("=", 1) for part in words[words.index("--backend") + 1].split(","))
    served = yaml.safe_load(files["compose.yaml"])["services"]["server-0"]["command"]
    assert backend["model"] == served[served.index("--served-model-name") + 1].replace("$$", "$")
    assert not made.repository.startswith("-")
    assert ("," in name) == any("comma" in note for note in made.notes)
    lines = files["README.md"].splitlines()
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("```") for line in lines) % 2 == 0
    assert not any(line.startswith("rm -rf") for line in lines)


def test_words_in_brackets_are_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]x[/red] [/] [bold"
    model = str(_config(tmp_path / "m", name))
    for words in (["show", model], ["compare", model, "llama-3.1-8b"], ["estimate", model, "--on", "l40s"]):
        assert main(words) == 0
        assert name in capsys.readouterr().out


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_declined(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in render([styled(("red", "red"))], 80)
    monkeypatch.setenv(variable, value)
    assert render([styled(("red", "red"))], 80) == "red"


def test_a_named_pipe_is_written_to_someone_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, read = tmp_path / "pipe.csv", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "rows", "out")
    reader.join(timeout=20)
    assert read == ["rows"]
    monkeypatch.setattr("steelyard.writing.WAIT_S", 0.1)
    with pytest.raises(InputError, match=r"out: cannot write .*nobody reads this pipe"), whole_file(pipe, "out"):
        raise AssertionError("opening it would wait for ever")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_text(file, "old", "out")
    file.chmod(0o640)
    with pytest.raises(WriteError, match=r"^cannot write .*No space"), whole_file(file, "out") as made:
        made.write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt), whole_file(file, "out") as made:
        made.write_text("half")
        raise KeyboardInterrupt
    assert (file.read_text(), [p.name for p in tmp_path.iterdir()]) == ("old", ["a.json"])
    write_text(file, "new", "out")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    link = tmp_path / "link.json"
    link.symlink_to(file)
    write_text(link, "newer", "out")
    assert link.is_symlink() and file.read_text() == "newer"
    write_text("/dev/null", "gone", "out")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(WriteError, match="cannot write"):
        write_text("/dev/full", "x", "out")


def test_outputs_of_a_run_leave_no_half_file(tmp_path: Path) -> None:
    script = (
        "import resource, sys\nfrom steelyard.cli import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\nrun()"
    )
    out = tmp_path / "a.json"
    out.write_text("old")
    words = ["estimate", "llama-3.1-8b", "--on", "h100_sxm", "--out", str(out)]
    python = [sys.executable, "-B", "-c", script]
    found = subprocess.run([*python, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert "File too large" in found.stderr
    assert (out.read_text(), [p.name for p in tmp_path.iterdir()]) == ("old", ["a.json"])


def _study(folder: Path) -> str:
    file = folder / "s.toml"
    file.write_text('name = "s"\nkind = "estimate"\n[fixed]\nmodel = "llama-3.1-8b"\non = "l40s"\n')
    return str(file)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_a_disk_that_fails_ends_with_1_and_a_place_of_another_user_with_2(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    expected = 2 if code == errno.EACCES else 1
    study = _study(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryDirectory", fails)
    monkeypatch.setattr("tempfile.mkdtemp", fails)
    monkeypatch.setattr("tempfile.mkstemp", fails)
    ask = ["estimate", "llama-3.1-8b", "--on", "l40s", "--out", str(tmp_path / "a.json")]
    for words in (ask, ["study", study, "--no-store", "--csv", str(tmp_path / "a.csv"), "--jobs", "1"]):
        assert main(words) == expected
        said = capsys.readouterr().err
        assert os.strerror(code) in said and said.count("\n") == 1
        assert said.startswith(f"error: {words[words.index('--jobs') - 2 if '--jobs' in words else -2]}: cannot") == (
            code == errno.EACCES
        )
    for door in (
        lambda: write_text(tmp_path / "page.html", "x", "html"),
        lambda: write_folder(tmp_path / "deploy", {"a.sh": "1"}),
        lambda: write_files(tmp_path / "own", {"machines/a.toml": "x"}),
    ):
        with pytest.raises(SteelyardError, match=os.strerror(code)) as error:
            door()
        assert error.value.exit_code == expected
