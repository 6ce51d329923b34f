"""Results of ``llama-bench`` beside estimates: each row is one question of llama.cpp.

The tool (llama.cpp, tools/llama-bench) writes JSON, JSON lines, CSV or a Markdown table. A row is a prompt of so many
tokens (``pp512``), so many generated ones (``tg128``) or both, after a context of ``n_depth`` tokens, at batch 1, in
tokens per second. JSON and CSV name the file of the model, the processor and the graphics cards; the table only the
kind of the model. Nothing of a server is in these times: no wait for a request is priced.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steelyard._display import Result
from steelyard.documents import is_file, read_text
from steelyard.errors import InputError, UnknownName, show, suggest
from steelyard.estimation.estimate import Estimate, answer
from steelyard.machine.catalogue import find_machine, machine_names
from steelyard.scenario.fields import fields_of
from steelyard.scenario.scenario import Scenario, check_name, read_model
from steelyard.traffic.readers import find_file, parsed, real_number
from steelyard.traffic.trace import LENGTHS, MAX_TOKENS
from steelyard.workload.catalogue import Model

__all__ = ["Bench", "LlamaBench", "Test", "Tested", "beside", "is_llama_bench", "read_llama_bench"]

#: Largest file, bytes, and most rows in it.
MAX_BYTES, MAX_TESTS = 16 * 2**20, 2_000
_HEAD_BYTES = 2**20
_TEST = re.compile(r"^(?:pp ?(?P<pp>\d+))?\+?(?:tg ?(?P<tg>\d+))?(?: *@ *d(?P<depth>\d+))?$")
#: Endings of the kind of a model that name its quantisation: ``Q4_K - Medium``, ``IQ2_XXS - 2.0625 bpw``, ``F16``.
_QUANT = re.compile(
    r"\b((?:I?|T)Q\d\w*|BF16|F16|F32|MXFP4)(?: MoE)?(?: - (Small|Medium|Large)| - [\d.]+ bpw.*)?$", re.I
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
#: Lines before the results that name a device, with the name in brackets.
_DEVICES = re.compile(
    r"^(?:\s*Device \d+: (?P<cuda>[^,\n]+),|ggml_vulkan: \d+ = (?P<vulkan>[^(|\n]+)"
    r"|.*GPU name:\s+(?P<metal>Apple [^\n]+))",
    re.MULTILINE,
)
#: Columns of the table by the names JSON has.
_COLUMNS = {"model": "model_type", "backend": "backends", "ngl": "n_gpu_layers", "t/s": "avg_ts", "test": "test"}
_CACHE = {"f16": "", "f32": "fp32", "bf16": "bf16"}


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


@dataclass(frozen=True, slots=True)
class Tested:
    """A row beside its estimate."""

    test: Test
    predicted: float
    """Tokens/s."""
    low: float
    high: float
    estimate: Estimate

    @property
    def error_frac(self) -> float:
        """``predicted / measured - 1``."""
        return self.predicted / self.test.tokens_per_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the 80 % interval."""
        return self.low <= self.test.tokens_per_s <= self.high


@dataclass(frozen=True, eq=False, repr=False)
class LlamaBench(Result):
    """Every row of a file beside its estimate."""

    name: str
    rows: tuple[Tested, ...]
    taken: tuple[str, ...]
    """What the file itself said of the question, in words."""

    def __len__(self) -> int:
        return len(self.rows)


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


def beside(source: str, words: Mapping[str, Any]) -> LlamaBench:
    """Every row of a file of llama-bench beside its estimate.

    Args:
        source: the file.
        words: the question as far as it is given: fields of an estimate. What is not is what the file says: the model
            by the name of its file, the machine by the names of its devices, formats, and what stayed in host memory.

    Raises:
        InputError: the file cannot be read, or model or machine are neither given nor said by it in words that are
            known; all problems at once where possible.
        DoesNotFit: never; a row that does not fit is priced as if it did.
    """
    known = fields_of("estimate")
    lost = [name for name in words if name not in known]
    if lost:
        raise InputError("not for results of llama-bench, which has no traffic", field=lost[0])
    rows: list[Tested] = []
    taken: dict[str, None] = {}
    for bench in read_llama_bench(source):
        asked, said = _question(bench, words)
        taken.update(dict.fromkeys(said))
        rows += [_priced(test, asked) for test in bench.tests]
    return LlamaBench(find_file(source)[2], tuple(rows), tuple(taken))


def _question(bench: Bench, words: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that all rows of a group share, and what the file said of them."""
    asked: dict[str, Any] = {"engine": "llamacpp", **{k: v for k, v in words.items() if v not in (None, "")}}
    said: list[str] = []
    given = asked.get("model")
    model = read_model(given, bool(asked.get("generic"))) if given else _model(bench)
    if not given:
        said.append(f"model {model.name}")
    quant = _quant(bench)
    own = model.engine == "llamacpp"  # a GGUF file, or a name that says its format
    if quant and not asked.get("weights") and not own:
        asked["weights"] = quant
        said.append(f"weights {quant}")
    asked["model"] = model
    if not asked.get("on"):
        asked["on"] = _machines(bench)
        said.append(f"machine {asked['on']}")
    cache = _CACHE.get(bench.cache, bench.cache)
    if cache and not asked.get("kv"):
        check_name("kv", cache)
        asked["kv"] = cache
        said.append(f"KV cache {cache}")
    placed = []
    if bench.layers is not None and bench.layers < model.transformer.depth:
        placed.append(f"layers:{bench.layers}")
    if bench.host_experts:
        placed.append(f"experts:{bench.host_experts}")
    if placed and not asked.get("offload"):
        asked["offload"] = ",".join(placed)
        said.append(f"in host memory {asked['offload']}")
    return asked, said


def _model(bench: Bench) -> Model:
    """The model that a result names: its file, when it is here, else the name of the file."""
    if bench.file and is_file(bench.file):
        return read_model(bench.file, False)
    stem = _SPLIT.sub("", re.split(r"[/\\]", bench.file)[-1].removesuffix(".gguf"))
    if stem:
        try:
            return read_model(stem, False)
        except UnknownName:
            pass
    what = show(stem or bench.kind or "nothing")
    raise InputError(f"the result says {what} of its model; give the model it was", field="model")


def _quant(bench: Bench) -> str:
    """The format of the weights by the kind of the model: ``q4_k_m``; empty = not known."""
    found = _QUANT.search(bench.kind)
    if found is None:
        return ""
    name = found[1].lower() + (f"_{found[2][0].lower()}" if found[2] else "")
    name = {"f16": "fp16", "f32": "fp32", "mxfp4": "mxfp4_moe"}.get(name, name)
    for tried in (name, name.rpartition("_")[0]):
        try:
            check_name("weights", tried)
        except InputError:
            continue
        return tried
    return ""


def _machines(bench: Bench) -> str:
    """The devices of a result by the names of the catalogue: ``rtx_4090:2``. Raises :class:`InputError`."""
    names = [_machine(device) for device in bench.devices]
    if not names:
        raise InputError("the result does not say what it ran on; give the machine", field="on")
    if len(set(names)) > 1:
        return "+".join(names)
    return names[0] if len(names) == 1 else f"{names[0]}:{len(names)}"


def _machine(device: str) -> str:
    """The machine that a driver calls so: ``AMD Radeon RX 7900 XTX (RADV NAVI31)``. Raises :class:`InputError`."""
    text = re.sub(r"\((?:R|TM|r|tm)\)| \d+-Core Processor| CPU(?: @.*)?$| Processor$", "", device).strip()
    driver = re.search(r"\((?:\w+ )?(\w+)\)$", text)  # Mesa's name of the chip
    plain = re.sub(r" *\([^()]*\)$", "", text)
    tried = [text, plain, re.sub(r" w/ .*| Graphics$", "", plain), *([driver[1]] if driver else [])]
    for name in tried:
        with suppress(InputError):
            return find_machine(name).name
    near = suggest(text, machine_names(), 3, kind="machine")
    words = f"; did you mean {', '.join(near)}?" if near else ""
    raise InputError(f"the result says {show(device)}, which is no machine I know; give it{words}", field="on")


def _priced(test: Test, asked: Mapping[str, Any]) -> Tested:
    """A row beside its estimate: prompts without the wait for a request, answers after the context given."""

    def at(prompt: int, generated: int) -> Estimate:
        sizes = dict(zip(LENGTHS, (max(1, prompt), max(1, generated)), strict=True))
        return answer(Scenario.of("estimate", **{**asked, **sizes}))

    found = at(test.depth + test.prompt, test.generated)
    seconds = low = high = 0.0
    if test.prompt:
        before = at(test.depth, 1).ttft_s if test.depth else found.scenario.engine.request_s
        seconds = found.ttft_s - before
        low, high = (seconds * end / found.ttft_s for end in found.interval["ttft_s"])
    if test.generated:
        seconds += test.generated * found.tpot_s
        low, high = (x + test.generated * end for x, end in zip((low, high), found.interval["tpot_s"], strict=True))
    tokens = test.prompt + test.generated
    return Tested(test, tokens / seconds, tokens / high, tokens / low, found)
