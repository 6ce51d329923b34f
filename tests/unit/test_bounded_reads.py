"""Files are read only when they are regular, and no further than their limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import steelyard
from steelyard.documents import parse
from steelyard.errors import InputError
from steelyard.traffic import logs, read_trace
from steelyard.workload.catalogue import load_model


@pytest.mark.parametrize("name", ["m.gguf", "m.json", "m.toml", "m.yaml", "m.safetensors"])
def test_a_pipe_is_no_model(tmp_path: Path, name: str) -> None:
    """Opening a pipe that nobody writes would wait for ever."""
    os.mkfifo(tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"regular file|not a folder|config.json"):
        load_model(tmp_path / name)


def test_a_device_is_no_file(tmp_path: Path) -> None:
    for name in ("m.json", "m.gguf", "m.toml"):
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(InputError, match="regular file"):
            load_model(tmp_path / name)
    with pytest.raises(InputError, match="regular file"):
        steelyard.estimate("llama-3.1-8b", on=str(tmp_path / "m.toml"))


def test_values_of_a_log_are_counted_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_VALUES", 100)
    file = tmp_path / "t.json"
    file.write_text('{"benchmarks": [' + ",".join(["{}"] * 200) + "]}")
    with pytest.raises(InputError, match="more than 100 values"):
        read_trace(str(file))


@pytest.mark.parametrize("text", [".".join(["a"] * 3000) + " = 1", "x = { " + ".".join(["a"] * 3000) + " = 1 }"])
def test_dotted_keys_are_bounded(text: str) -> None:
    """The parser of TOML takes the square of their length in time and memory."""
    with pytest.raises(InputError, match="deep"):
        parse(text, "TOML")
    assert parse("x = [" + ", ".join(["1.5"] * 500) + "]", "TOML")["x"][0] == 1.5
