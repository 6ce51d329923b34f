"""Everything that reads outside data, with good data to damage and the cheapest answer it leads to."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import steelyard as sy
from steelyard.errors import InputError
from tests.fuzz import corpus
from tests.fuzz.judge import Wrong
from tests.fuzz.mutate import PYTHON, read, write

__all__ = ["PARSERS", "Parser"]


@dataclass(frozen=True)
class Parser:
    """One reader of outside data."""

    form: str
    """How its data is damaged: see :func:`tests.fuzz.mutate.mutant`."""
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    share: float = 1.0
    """Of the mutants asked for: less than 1 where one takes long."""
    forked: bool = False
    """Whether each runs in a process of its own: a library in C may take the process down."""


# ---- what accepted data leads to -----------------------------------------------------------------------------------


def _finite(found: Any) -> None:
    """Every figure of an estimate is a number, or null where nothing fits."""
    answer = found.to_dict()
    json.dumps(answer, allow_nan=False)
    if answer["fits"]:
        for name in ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s"):
            if not (answer[name] is not None and math.isfinite(answer[name]) and answer[name] > 0):
                raise Wrong(f"{name} = {answer[name]} though it fits")
        for name in ("ttft_s", "tpot_s"):
            if answer["limit"][name] > answer[name] * (1 + 1e-9):
                raise Wrong(f"{name} = {answer[name]} below the limit {answer['limit'][name]}")
    for name, size in answer["memory_bytes"].items():
        if size is None or (size < 0 and name != "headroom"):
            raise Wrong(f"memory_bytes.{name} = {size}")


def _model(path: Path) -> None:
    model = sy.load_model(path)
    _finite(sy.estimate(model, "h100_sxm", isl=12, osl=4))


def _machine(machine: Any) -> None:
    _finite(sy.estimate("llama-3.2-1b", machine, isl=12, osl=4))


# ---- model files ---------------------------------------------------------------------------------------------------


def _written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _config(content: bytes, folder: Path) -> None:
    _model(_written(folder, "config.json", content))


def _generic(content: bytes, folder: Path) -> None:
    sy.load_model(_written(folder, "config.json", content), generic=True)


_TENSORS = [
    *(["token_embd.weight", [256, 1000], "q4_k"], ["output.weight", [256, 1000], "q6_k"]),
    *(["blk.0.attn_q.weight", [256, 256], "q4_k"], ["blk.0.attn_v.weight", [256, 64], "q6_k"]),
    *(["blk.0.ffn_up.weight", [256, 512], "q4_k"], ["blk.0.attn_norm.weight", [256], "fp32"]),
]
_METADATA = {
    "general.architecture": "llama",
    "general.name": "Small",
    **{f"llama.{k}": v for k, v in (("block_count", 2), ("context_length", 4096), ("embedding_length", 256))},
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": [2, 2],
    "llama.rope.freq_base": 500000.0,
    "tokenizer.ggml.tokens": ["a", "bc", "def"],
}


def _gguf_seeds() -> list[bytes]:
    from steelyard.workload.ingest.gguf_model import _ARCHITECTURES

    found = [{"metadata": _METADATA, "tensors": _TENSORS}]
    for arch in _ARCHITECTURES:
        table = {k.replace("llama.", f"{arch}."): v for k, v in _METADATA.items()}
        more = {
            "expert_count": 8,
            "expert_used_count": 2,
            "expert_feed_forward_length": 128,
            "attention.key_length": 32,
        }
        table |= {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in more.items()}}
        found.append({"metadata": table, "tensors": _TENSORS})
    return [write(x, "json") for x in found]


def _gguf_bytes(spec: Mapping[str, Any]) -> bytes:
    from tests.unit.test_ingest import gguf_header

    head, data = gguf_header(spec["metadata"], [(n, tuple(s), f) for n, s, f in spec["tensors"]])
    return head + bytes(-len(head) % 32 + min(data, 2**20))


def _gguf_tree(content: bytes, folder: Path) -> None:
    try:
        data = _gguf_bytes(json.loads(content))
    except Exception:  # no GGUF file says this
        return
    _gguf(data, folder)


def _gguf(content: bytes, folder: Path) -> None:
    _model(_written(folder, "m.gguf", content))


_HEADER = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [1000, 256], "data_offsets": [0, 512000]},
    "lm_head.weight": {"dtype": "F8_E4M3", "shape": [1000, 256], "data_offsets": [512000, 768000]},
}


def _safetensors_bytes(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(768_000)


def _safetensors_tree(content: bytes, folder: Path) -> None:
    _safetensors(_safetensors_bytes(content), folder)


def _safetensors(content: bytes, folder: Path) -> None:
    _written(folder, "config.json", json.dumps(corpus.CONFIG).encode())
    _model(_written(folder, "model.safetensors", content))


def _index(content: bytes, folder: Path) -> None:
    _written(folder, "config.json", json.dumps(corpus.CONFIG).encode())
    _model(_written(folder, "model.safetensors.index.json", content))


_INDEX = {"metadata": {"total_size": 9}, "weight_map": {"lm_head.weight": "model.safetensors", "a": "b.safetensors"}}

# ---- machines and catalogues ---------------------------------------------------------------------------------------


def _machine_file(content: bytes, folder: Path) -> None:
    _machine(sy.load_machine(_written(folder, "m.toml", content)))


def _machine_json(content: bytes, folder: Path) -> None:
    _machine(str(_written(folder, "m.json", content)))


def _machine_text(content: bytes, folder: Path) -> None:
    _machine(content.decode("utf-8", "replace"))


def _machines_json() -> list[bytes]:
    return [write(read(x, "toml"), "json") for x in corpus.machines()]


@contextmanager
def _catalogue(folder: Path, *, beside_ours: bool) -> Iterator[None]:
    """The catalogue in a folder instead of ours, or before it."""
    from steelyard.folders import catalogue_folders

    folders = (folder, *(catalogue_folders() if beside_ours else ()))
    _forget()
    with ExitStack() as patches:
        for module in _modules():
            if getattr(module, "catalogue_folders", None) is catalogue_folders:
                patches.enter_context(mock.patch.object(module, "catalogue_folders", lambda: folders))
        patches.callback(_forget)
        yield


def _modules() -> list[Any]:
    return [m for name, m in list(sys.modules.items()) if name.startswith("steelyard.") and m is not None]


#: Modules that keep what they read of a catalogue.
_KEEPING = (
    "machine.",
    "deployment.",
    "workload.catalogue",
    "cost.parameters",
    "cost.gemm",
    "cost.attention_kernels",
    "cost.models",
)


def _forget() -> None:
    for module in _modules():
        if module.__name__.removeprefix("steelyard.").startswith(_KEEPING):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _catalogue_of(kind: str, content: bytes, folder: Path) -> None:
    from steelyard.cost.parameters import calibration_table
    from steelyard.deployment import engine
    from steelyard.deployment.formats import find_format
    from steelyard.machine import catalogue, classes
    from steelyard.workload import catalogue as models

    place = folder / "catalogue" / ("calibration/h100_sxm" if kind == "calibration" else kind)
    place.mkdir(parents=True, exist_ok=True)
    name = "gemm" if kind == "calibration" else "h100_sxm"
    _written(place, f"{name}.toml", content)
    with _catalogue(folder / "catalogue", beside_ours=kind in ("machines", "calibration")):
        if kind == "machines":
            catalogue.machine_names()
            _machine("h100_sxm")
        elif kind == "networks":
            catalogue.find_network(next(iter(catalogue.networks()), "nvlink_4"))
        elif kind == "nodes":
            catalogue.find_node(next(iter(catalogue.nodes()), "hgx_h100"))
        elif kind == "prices":
            catalogue.price_of("h100_sxm")
        elif kind == "engines":
            engine.schedulers()
            engine.find_engine("vllm")
        elif kind == "classes":
            classes.kinds(), classes.stacks(), classes.families()
        elif kind == "formats":
            find_format("fp8")
        elif kind == "models":
            for model in models.model_names()[:1]:
                models.load_model(model)
        else:
            calibration_table("h100_sxm", "gemm")
            _machine("h100_sxm")


# ---- traffic and logs ----------------------------------------------------------------------------------------------


def _trace(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.simulation.replay import is_log
    from steelyard.traffic.build import Traffic, traffic

    path = _written(folder, f"t{suffix}", content)
    is_log(str(path))
    sent = traffic(Traffic(trace=str(path), requests=5))
    if not (math.isfinite(float(sent.arrived_at.max())) and sent.isl.min() >= 1 and sent.osl.min() >= 1):
        raise Wrong(f"a trace from {sent.arrived_at.min()} to {sent.arrived_at.max()} s")


def _parquet_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    found = []
    for table in (
        {"arrived_at": [0.0, 1.0], "num_prefill_tokens": [5, 6], "num_decode_tokens": [1, 2]},
        {"timestamp": [0, 9], "input_length": [1000, 3], "output_length": [1, 2], "hash_ids": [[0, 1], [0]]},
    ):
        stream = io.BytesIO()
        parquet.write_table(pyarrow.table(table), stream)
        found.append(stream.getvalue())
    return found


def _log(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.simulation.replay import read_log

    log = read_log(str(_written(folder, f"log{suffix}", content)))
    if not len(log.trace):
        raise Wrong("a log without requests")


def _compared(content: bytes, folder: Path) -> None:
    from steelyard.report import compare

    path = str(_written(folder, "e.json", content))
    found = compare.compare(path, path, None)
    compare.to_dict(found)
    compare.text(found, 100)


@cache
def _estimates() -> list[bytes]:
    found = sy.estimate("llama-3.2-1b", "h100_sxm", batch=2).to_dict()
    return [json.dumps(found).encode()]


def _workflow(content: bytes, folder: Path) -> None:
    import numpy as np

    from steelyard.traffic.sessions import read_workflow, workflows

    name, calls = read_workflow(_written(folder, "w.toml", content))
    workflows(np.arange(3.0), calls, np.random.default_rng(0), name)


def _samples(content: bytes, folder: Path) -> None:
    from steelyard.calibrate.samples import adapt, read_samples
    from steelyard.machine.catalogue import find_machine

    adapt(find_machine("h100_sxm"), read_samples(_written(folder, "s.csv", content))[:20])


# ---- studies, plans, stores ----------------------------------------------------------------------------------------


def _study(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.studies.points import expand_study
    from steelyard.studies.study import read_study

    expand_study(read_study(_written(folder, f"s{suffix}", content)))


@cache
def _plans() -> list[bytes]:
    from steelyard.deployment.plan_file import deployment_text
    from steelyard.scenario.scenario import Scenario

    found = []
    for words in ({}, {"disaggregate": "1P:tp1,1D:tp1", "on": "h100_sxm:2"}):
        given = {"on": "h100_sxm", "rate": "4/s", "requests": 8, "isl": 64, "osl": 4, **words}
        scenario = Scenario.of("simulate", "llama-3.2-1b", **given)
        assert scenario.deployment is not None
        found.append(
            deployment_text(
                scenario.deployment,
                traffic={
                    "rate": 4.0,
                    "isl": "64",
                    "osl": "uniform:2-6",
                    "requests": 8,
                    "seed": 1,
                    "arrivals": "constant",
                },
                promise={"ttft": "p99:1s", "tpot": "p95:50ms"},
                simulation={"rate_per_s": 4.0, "requests": 8, "seed": 1, "skew": 0.0},
                expected={"ttft_s": {"mean": 0.1, "p99": 0.2}},
            ).encode()
        )
    return found


def _plan(content: bytes, folder: Path) -> None:
    from steelyard.deployment.plan_file import read_deployment
    from steelyard.report import plan_replay
    from steelyard.simulation.replay import replay_plan

    asked = read_deployment(_written(folder, "plan.toml", content))
    found = replay_plan(asked)
    json.dumps(plan_replay.to_dict(asked, found), allow_nan=False)
    plan_replay.text(asked, found, 100)


@cache
def _stores() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "s.duckdb"
        sy.study(corpus.STUDIES[0], store=path, executor="serial")
        return [path.read_bytes()]


def _store(content: bytes, folder: Path) -> None:
    from steelyard.studies.store_results import Store

    store = Store(_written(folder, "s.duckdb", content))
    for record in store.studies():
        store.rows(store.study(record.name))


# ---- words ---------------------------------------------------------------------------------------------------------


def _made(tree: Any) -> Any:
    """Words with the Python values that they name."""
    if isinstance(tree, dict):
        if set(tree) == {"$python"} and str(tree["$python"]) in PYTHON:
            return PYTHON[str(tree["$python"])]()
        return {k: _made(v) for k, v in tree.items()}
    return [_made(v) for v in tree] if isinstance(tree, list) else tree


def _words(verb: str, content: bytes, folder: Path) -> None:
    words = _made(json.loads(content))
    if not isinstance(words, dict):
        return
    if verb == "estimate":
        _finite(sy.estimate(**words))
    elif verb == "simulate":
        scenario = sy.Scenario.of("simulate", **words)
        if scenario.trace is not None and len(scenario.trace) <= 64 and int(scenario.trace.osl.max()) <= 64:
            json.dumps(sy.simulate(scenario).to_dict(), allow_nan=False)
    else:
        from steelyard.search.api import read_question

        read_question(words)


def _planned(content: bytes, folder: Path) -> None:
    words = _made(json.loads(content))
    if isinstance(words, dict):
        json.dumps(sy.plan(**words).to_dict(), allow_nan=False)


def _argv(content: bytes, folder: Path) -> None:
    from steelyard.cli.main import main

    tokens = json.loads(content)
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        return
    if "--here" in tokens or any(t.startswith("--out=") or t in ("/dev/null", "--install-completion") for t in tokens):
        return
    _beside(folder)
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code: Any = main(tokens)
            except SystemExit as error:
                code = error.code
    finally:
        os.chdir(before)
    if code not in (0, 2, 3):
        raise Wrong(f"exit code {code}: {err.getvalue()[:300]}")
    if code == 2 and not err.getvalue().strip():
        raise Wrong("exit code 2 and nothing said")
    for line in err.getvalue().splitlines():
        if code == 2 and line.strip():
            raise_if_unclear(line)


def raise_if_unclear(line: str) -> None:
    """Let a line of stderr be judged as the message of an error."""
    from tests.fuzz.judge import _message

    failure = _message(InputError(line))
    if failure is not None or len(line) > 1600 or "\x1b" in line:
        raise Wrong(f"unclear line: {ascii(line)[:300]}")


def _beside(folder: Path) -> None:
    """The files that commands name."""
    if (folder / "study.toml").exists():
        return
    _written(folder, "config.json", json.dumps(corpus.CONFIG).encode())
    _written(folder, "machine.toml", corpus.machines()[0])
    _written(folder, "trace.csv", corpus.TRACES["vidur"])
    _written(folder, "plan.toml", _plans()[0])
    _written(folder, "log.json", json.dumps(corpus.LOGS["vllm"]).encode())
    _written(folder, "study.toml", write(corpus.STUDIES[0], "toml"))
    _written(folder, "store.duckdb", _stores()[0])
    _written(folder, "samples.csv", corpus.SAMPLES[0])


def _json(*trees: Any) -> Callable[[], list[bytes]]:
    return lambda: [write(t, "json") for t in trees]


def _toml(*trees: Any) -> Callable[[], list[bytes]]:
    return lambda: [write(t, "toml") for t in trees]


#: Every parser by name.
PARSERS: dict[str, Parser] = {
    "config": Parser("json", corpus.configs, _config),
    "config_generic": Parser("json", corpus.configs, _generic, 0.5),
    "gguf": Parser("bytes", lambda: [_gguf_bytes(json.loads(x)) for x in _gguf_seeds()], _gguf),
    "gguf_values": Parser("json", _gguf_seeds, _gguf_tree),
    "safetensors": Parser("bytes", lambda: [_safetensors_bytes(write(_HEADER, "json"))], _safetensors),
    "safetensors_header": Parser("json", _json(_HEADER), _safetensors_tree),
    "safetensors_index": Parser("json", _json(_INDEX), _index),
    "machine": Parser("toml", corpus.machines, _machine_file),
    "machine_json": Parser("json", _machines_json, _machine_json, 0.5),
    "machine_text": Parser("toml", corpus.machines, _machine_text, 0.5),
    **{
        f"catalogue_{kind}": Parser("toml", partial(corpus.catalogue, kind), partial(_catalogue_of, kind), share)
        for kind, share in dict.fromkeys(corpus.CATALOGUES, 1.0).items()
    },
    "trace_table": Parser("csv", lambda: list(corpus.TRACES.values()), partial(_trace, ".csv")),
    "trace_lines": Parser(
        "jsonl", lambda: [write(x, "jsonl") for x in corpus.LINES.values()], partial(_trace, ".jsonl")
    ),
    "trace_json": Parser("json", _json(*corpus.LOGS.values()), partial(_trace, ".json")),
    "trace_parquet": Parser("bytes", _parquet_seeds, partial(_trace, ".parquet"), 0.5, forked=True),
    "log_json": Parser("json", _json(*corpus.LOGS.values()), partial(_log, ".json")),
    "log_lines": Parser("jsonl", lambda: [write(corpus.LINES["aiperf"], "jsonl")], partial(_log, ".jsonl")),
    "log_records": Parser("csv", lambda: [corpus.TRACES["records"]], partial(_log, ".csv")),
    "saved_estimate": Parser("json", _estimates, _compared),
    "workflow": Parser("toml", _toml(corpus.WORKFLOW), _workflow),
    "samples": Parser("csv", lambda: list(corpus.SAMPLES), _samples, 0.3),
    "study_toml": Parser("toml", _toml(*corpus.STUDIES), partial(_study, ".toml")),
    "study_json": Parser("json", _json(*corpus.STUDIES), partial(_study, ".json")),
    "study_yaml": Parser("json", _json(*corpus.STUDIES), partial(_study, ".yaml"), 0.2),
    "plan_file": Parser("toml", _plans, _plan, 0.5),
    "store": Parser("bytes", _stores, _store, 0.1, forked=True),
    **{f"words_{verb}": Parser("words", partial(corpus.words, verb), partial(_words, verb)) for verb in corpus.WORDS},
    "planned": Parser("words", partial(corpus.words, "plan"), _planned, 0.02),
    "argv": Parser("words", lambda: [write(t, "words") for t in corpus.ARGV], _argv, 0.5),
}
