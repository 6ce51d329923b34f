"""Results of ``llama-bench``: JSON, JSON lines, CSV or the table it prints (llama.cpp, tools/llama-bench).

A row is a prompt of so many tokens (``pp512``), so many generated ones (``tg128``) or both, after a context of
``n_depth`` tokens, at batch 1, in tokens per second. JSON and CSV name the file of the model, the processor and the
graphics cards; the table only the kind of the model, and devices in the lines before it.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelyard.documents import read_text
from steelyard.errors import InputError, show
from steelyard.traffic.readers import find_file, parsed, real_number
from steelyard.traffic.trace import MAX_TOKENS

__all__ = ["Bench", "Test", "is_llama_bench", "read_llama_bench"]

#: Largest file, bytes, and most rows in it.
MAX_BYTES, MAX_TESTS = 16 * 2**20, 2_000
_HEAD_BYTES = 2**20
_TEST = re.compile(r"^(?:pp ?(?P<pp>\d+))?\+?(?:tg ?(?P<tg>\d+))?(?: *@ *d(?P<depth>\d+))?$")
#: Lines before the results that name a device, with the name in brackets.
_DEVICES = re.compile(
    r"^(?:\s*Device \d+: (?P<cuda>[^,\n]+),|ggml_vulkan: \d+ = (?P<vulkan>[^(|\n]+)"
    r"|.*GPU name:\s+(?P<metal>Apple [^\n]+))",
    re.MULTILINE,
)
#: Columns of the table by the names JSON has.
_COLUMNS = {"model": "model_type", "backend": "backends", "ngl": "n_gpu_layers", "t/s": "avg_ts", "test": "test"}


@dataclass(frozen=True, slots=True)
class Test:
    """One row: a prompt, generated tokens or both, after a context of ``depth`` tokens."""

    prompt: int
    generated: int
    depth: int
    tokens_per_s: float
    deviation: float | None
    """Standard deviation over the repetitions."""

    @property
    def name(self) -> str:
        """As the tool prints it: ``pp512``, ``tg128 @ d4096``."""
        parts = [f"pp{self.prompt}"] if self.prompt else []
        parts += [f"tg{self.generated}"] if self.generated else []
        return "+".join(parts) + (f" @ d{self.depth}" if self.depth else "")


@dataclass(frozen=True, slots=True)
class Bench:
    """Rows that follow each other and share model, devices and settings."""

    tests: tuple[Test, ...]
    file: str
    """Of the model; empty = the result does not say."""
    kind: str
    """Of the model: ``llama 8B Q4_K - Medium``."""
    devices: tuple[str, ...]
    """What it ran on, as the tool calls it; empty = not said."""
    layers: int | None
    """Layers on the devices; None = all."""
    host_experts: int
    """Layers whose experts stayed in host memory."""
    cache: str
    """Format of the keys in the cache, as the tool calls it."""
    build: str


def is_llama_bench(source: str) -> bool:
    """Whether a file looks like results of llama-bench. Never raises."""
    try:
        path = find_file(source)[0]
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except (InputError, OSError):
        return False
    return bool(_form(head))


def _form(text: str) -> str:
    """``json``, ``csv`` or ``table``; empty for anything else."""
    if '"avg_ts"' in text and '"n_gen"' in text:
        return "json"
    lines = text.splitlines()
    if any(line.startswith("build_commit,") and ",avg_ts" in line for line in lines):
        return "csv"
    heads = (_cells(line) for line in lines if line.lstrip().startswith("|"))
    return "table" if any({"model", "test", "t/s"} <= set(head) for head in heads) else ""


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_llama_bench(source: str) -> list[Bench]:
    """The results in a file, in groups that share model, devices and settings.

    Raises:
        InputError: no such file, no rows, or rows that are none.
    """
    path = find_file(source)[0]
    text = read_text(path, MAX_BYTES, "run")
    read = {"json": _json_rows, "csv": _csv_rows, "table": _table_rows}.get(_form(text))
    if read is None:
        raise InputError(f"{path.name}: expected results of llama-bench in JSON, CSV or as a table", field="run")
    rows = read(path, text)
    if not rows:
        raise InputError(f"{path.name} has no rows", field="run")
    if len(rows) > MAX_TESTS:
        raise InputError(f"{path.name} has {len(rows):,} rows; at most {MAX_TESTS:,} are read", field="run")
    seen = tuple(next(x for x in match.groups() if x).strip() for match in _DEVICES.finditer(text))
    groups: list[Bench] = []
    for number, row in enumerate(rows, 1):
        test, shared = _test(row, f"{path.name}: row {number}"), _bench(row, seen)
        if groups and replace(groups[-1], tests=()) == shared:
            groups[-1] = replace(shared, tests=(*groups[-1].tests, test))
        else:
            groups.append(replace(shared, tests=(test,)))
    return groups


def _json_rows(path: Path, text: str) -> list[Mapping[str, Any]]:
    """Objects of a list, or one per line; lines that are no JSON (what the tool prints before) are left out."""
    begins = re.search(r"\A\s*\[|^\[\s*$", text, re.MULTILINE)
    if begins:
        found = parsed(path, lambda: json.JSONDecoder().raw_decode(text, text.index("[", begins.start()))[0])
    else:
        lines = [line for line in text.splitlines() if line.lstrip().startswith("{")]
        found = parsed(path, lambda: [json.loads(line) for line in lines])
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise InputError(f"{path.name}: expected a list of results", field="run")
    return found


def _csv_rows(path: Path, text: str) -> list[Mapping[str, Any]]:
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("build_commit,"))
    return [row for row in csv.DictReader(lines[begin:]) if row.get("avg_ts")]


def _table_rows(path: Path, text: str) -> list[Mapping[str, Any]]:
    head: list[str] = []
    found: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            continue
        cells = _cells(line)
        if {"model", "test", "t/s"} <= set(cells):
            head = [_COLUMNS.get(cell, cell) for cell in cells]
        elif head and len(cells) == len(head) and not re.fullmatch(r"[-: |]+", "".join(cells)):
            row = dict(zip(head, cells, strict=True))
            speed, _, deviation = row["avg_ts"].partition("±")
            found.append({**row, "avg_ts": speed.strip(), "stddev_ts": deviation.strip() or None})
    return found


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return float("nan")
    return real_number(value)


def _test(row: Mapping[str, Any], where: str) -> Test:
    """Raises :class:`InputError` for a row without tokens or a speed."""
    speed = _number(row.get("avg_ts"))
    if "test" in row:
        match = _TEST.match(str(row["test"]).strip())
        sizes = [int(match[k] or 0) if len(match[k] or "") < 12 else -1 for k in ("pp", "tg", "depth")] if match else []
    else:
        numbers = [_number(row.get(k, 0)) for k in ("n_prompt", "n_gen", "n_depth")]
        sizes = [int(x) if x == x and abs(x) < 1e12 else -1 for x in numbers]
    if not sizes or min(sizes) < 0 or not 0 < sizes[0] + sizes[1] <= MAX_TOKENS or sizes[2] > MAX_TOKENS:
        raise InputError(
            f"{where}: expected a test such as pp512 or tg128, got {show(row.get('test', sizes))}", field="run"
        )
    if not 0 < speed < 1e12:
        raise InputError(f"{where}: expected tokens per second, got {show(row.get('avg_ts'))}", field="run")
    deviation = _number(row.get("stddev_ts"))
    return Test(sizes[0], sizes[1], sizes[2], speed, deviation if deviation == deviation else None)


def _bench(row: Mapping[str, Any], seen: tuple[str, ...]) -> Bench:
    """What a row shares with others; ``seen`` are devices named before the rows."""

    def word(name: str) -> str:
        return str(row.get(name) or "").strip()

    layers, experts = _number(row.get("n_gpu_layers")), _number(row.get("n_cpu_moe"))
    backends = word("backends").lower()
    host = layers == 0 or (
        backends and all(x.strip() in ("cpu", "blas", "rpc", "accelerate") for x in backends.split(","))
    )
    cards = tuple(x.strip() for x in word("gpu_info").split(",") if x.strip()) or seen
    devices = (word("cpu_info"),) if host and word("cpu_info") else () if host else cards
    return Bench(
        (),
        word("model_filename"),
        word("model_type"),
        devices,
        int(layers) if 0 < layers < 1e6 and not host else None,
        int(experts) if 0 < experts < 1e6 else 0,
        word("type_k").lower(),
        word("build_commit"),
    )
