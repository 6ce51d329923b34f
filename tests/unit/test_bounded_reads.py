"""Files are read only when they are regular, and no further than their limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import steelyard
from steelyard import documents
from steelyard.documents import parse
from steelyard.errors import InputError
from steelyard.traffic import lengths, logs, mooncake, read_trace, readers, tables
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
    monkeypatch.setattr(readers, "MAX_VALUES", 100)
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


MOONCAKE = '{"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [0]}\n'
PLAIN = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
DATES = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    ("module", "limit", "value", "name", "content", "words"),
    [
        (tables, "MAX_ROWS", 9, "t.csv", PLAIN + "0,1,1\n" * 20, "more than 10 lines"),
        (tables, "MAX_FIELDS", 9, "t.csv", DATES + "2023-11-16 18:15:46.68,3,4\n" * 20, "more than 9 fields"),
        (tables, "MAX_TEXT", 99, "t.csv", DATES + "2023-11-16 18:15:46.68,3,4\n" * 20, "plain table of numbers"),
        (documents, "MAX_LINE", 99, "t.csv", PLAIN + "0,1," + "9" * 300 + "\n", "too long a line"),
        (mooncake, "MAX_JSON_LINES", 9, "t.jsonl", MOONCAKE * 20, "more than 9 lines"),
        (mooncake, "MAX_FIELDS", 9, "t.jsonl", MOONCAKE * 20, "more than 9 hashes"),
        (logs, "MAX_JSON_LINES", 9, "t.jsonl", '{"metadata": {}, "metrics": {}}\n' * 20, "more than 9 lines"),
        (lengths, "MAX_FILE", 9, "t.csv", "isl\n" + "5\n" * 20, "MiB are read"),
    ],
)
def test_traces_are_bounded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    limit: str,
    value: int,
    name: str,
    content: str,
    words: str,
) -> None:
    file = tmp_path / name
    file.write_text(content)

    def read() -> Any:
        return lengths.parse_lengths(f"file:{file}#isl", "isl") if module is lengths else read_trace(str(file))

    if "TIMESTAMP" in content or content == MOONCAKE * 20:
        assert len(read()) == 20
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(InputError, match=words):
        read()


def test_parquet_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed a hundred times, rows and bytes are counted before they are made."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "t.parquet"
    columns = {c: [5] * 9000 for c in PLAIN.strip().split(",")}
    parquet.write_table(pyarrow.table(columns), file)
    assert len(read_trace(str(file))) == 9000
    monkeypatch.setattr(tables, "MAX_TABLE", 100_000)
    with pytest.raises(InputError, match="once unpacked"):
        read_trace(str(file))
    monkeypatch.setattr(tables, "MAX_ROWS", 8999)
    with pytest.raises(InputError, match="more than 8,999 rows"):
        read_trace(str(file))


def test_bad_rows_are_looked_for_no_further_than_a_thousand(tmp_path: Path) -> None:
    for name, content in (("t.csv", PLAIN + "x,y,z\n" * 5000), ("t.jsonl", MOONCAKE + "{}\n" * 5000)):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="many more problems"):
            read_trace(str(tmp_path / name))


def test_a_pipe_in_the_users_catalogue_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.cost import attention_kernels
    from steelyard.folders import catalogue_folders
    from steelyard.studies.points import answered_by

    monkeypatch.setenv("STEELYARD_CATALOGUE", str(tmp_path))
    (tmp_path / "prices").mkdir()
    (tmp_path / "kernels").mkdir()
    os.mkfifo(tmp_path / "prices" / "x.toml")
    (tmp_path / "kernels" / "attention.toml").write_text("facts = 3")
    caches: list[Any] = [catalogue_folders, answered_by, attention_kernels._table]
    for kept in caches:
        kept.cache_clear()
    try:
        with pytest.raises(InputError, match=r"x\.toml' is no regular file"):
            answered_by("estimate")
        with pytest.raises(InputError, match=r"attention\.toml: facts: expected a table of tables"):
            attention_kernels._table()
    finally:
        monkeypatch.undo()
        for kept in caches:
            kept.cache_clear()
