"""Readers of files, with good data to damage and the cheapest answer that accepted data leads to."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import steelyard as sy
from steelyard.errors import UnknownName
from steelyard.workload.ingest.safetensors import TensorInfo
from steelyard.workload.model import Model
from steelyard.workload.structure import read_structure
from tests.fuzz import corpus
from tests.fuzz.judge import Wrong
from tests.fuzz.mutate import read, write

# ---- what accepted data leads to -----------------------------------------------------------------------------------


def finite(found: Any) -> None:
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
    finite(sy.estimate(model, "h100_sxm", isl=12, osl=4))


def _machine(machine: Any) -> None:
    try:
        finite(sy.estimate("llama-3.2-1b", machine, isl=12, osl=4))
    except sy.InputError as error:
        if "cannot compute" not in str(error):
            raise
        found = sy.estimate("mobilenet_v2", machine)  # a chip of integers alone runs networks
        if not 0.0 < found.latency_s < float("inf"):
            raise Wrong(f"latency_s = {found.latency_s}") from error


# ---- model files ---------------------------------------------------------------------------------------------------


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def config(content: bytes, folder: Path) -> None:
    _model(written(folder, "config.json", content))


def generic(content: bytes, folder: Path) -> None:
    sy.load_model(written(folder, "config.json", content), generic=True)


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


def gguf_seeds() -> list[bytes]:
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


def gguf_bytes(spec: Mapping[str, Any]) -> bytes:
    from tests.unit.test_ingest import gguf_header

    head, data = gguf_header(spec["metadata"], [(n, tuple(s), f) for n, s, f in spec["tensors"]])
    return head + bytes(-len(head) % 32 + min(data, 2**20))


def gguf_tree(content: bytes, folder: Path) -> None:
    try:
        data = gguf_bytes(json.loads(content))
    except Exception:  # no GGUF file says this
        return
    gguf(data, folder)


def gguf(content: bytes, folder: Path) -> None:
    _model(written(folder, "m.gguf", content))


HEADER = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [1000, 256], "data_offsets": [0, 512000]},
    "lm_head.weight": {"dtype": "F8_E4M3", "shape": [1000, 256], "data_offsets": [512000, 768000]},
}


def safetensors_bytes(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(768_000)


def safetensors_tree(content: bytes, folder: Path) -> None:
    safetensors(safetensors_bytes(content), folder)


def safetensors(content: bytes, folder: Path) -> None:
    written(folder, "config.json", json.dumps(corpus.CONFIG).encode())
    _model(written(folder, "model.safetensors", content))


def index(content: bytes, folder: Path) -> None:
    written(folder, "config.json", json.dumps(corpus.CONFIG).encode())
    _model(written(folder, "model.safetensors.index.json", content))


INDEX = {"metadata": {"total_size": 9}, "weight_map": {"lm_head.weight": "model.safetensors", "a": "b.safetensors"}}

#: Tensors of a model nobody described, with what its config says.
TENSORS = {
    "config": {"num_experts_per_tok": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64},
    "shapes": {
        "model.embed_tokens.weight": [1000, 256],
        "model.norm.weight": [256],
        **{
            f"model.layers.{i}.{name}": shape
            for i in range(2)
            for name, shape in {
                "input_layernorm.weight": [256],
                "self_attn.q_proj.weight": [512, 256],
                "self_attn.k_proj.weight": [128, 256],
                "self_attn.v_proj.weight": [128, 256],
                "self_attn.o_proj.weight": [256, 512],
                "self_attn.q_norm.weight": [64],
                "mlp.gate.weight": [8, 256],
                "mlp.experts.gate_up_proj": [8, 512, 256],
                "mlp.experts.down_proj": [8, 256, 256],
                "mixer.A_log": [8],
            }.items()
        },
    },
}


def tensors(content: bytes, folder: Path) -> None:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return
    shapes, config = (tree.get(key) for key in ("shapes", "config")) if isinstance(tree, dict) else ({}, {})
    found = [
        TensorInfo(name, tuple(shape), "bf16", 2)
        for name, shape in (shapes.items() if isinstance(shapes, dict) else ())
        if isinstance(shape, list) and all(type(x) is int and x >= 0 for x in shape)
    ]
    model, structure = read_structure(found, config if isinstance(config, dict) else {}, asked=True)
    structure.lines()
    finite(sy.estimate(Model("tensors", model, "", structure=structure), "h100_sxm", isl=12, osl=4))


# ---- machines and catalogues ---------------------------------------------------------------------------------------


#: A space of chips.
CHIPS = {
    "base": "eyeriss",
    "precision": "int16",
    "choose": {"compute.array.rows": [6, 12], "compute.array.dataflow": ["row_stationary", "flexible"]},
    "when": [
        {"field": "compute.array.rows", "values": [12], "choose": {"memory.dram.bandwidth_bytes_per_s": ["1GB/s", 2e9]}}
    ],
}


def chip_space(data: bytes, folder: Path) -> None:
    """The file of a space: its points, and a machine of the last one."""
    from steelyard.search.chip_space import read_space

    path = folder / "space.toml"
    path.write_bytes(data)
    found = read_space(path)
    if len(found) < 1000:
        found.machine(found.codes[-1])


#: A space of networks.
NETS = {
    "family": "mobile",
    "config": {"stem": 16, "head": 320, "act": "relu"},
    "choose": {"size": [64, 96]},
    "stage": [
        {
            "row": "mb {channels} k{kernel} s2 x{expand} n{depth}",
            "each": ["kernel"],
            "choose": {"channels": {"from": 16, "to": 24, "step": 8}, "kernel": [3, 5], "expand": [2], "depth": [1, 2]},
        },
        {"row": "{kind} 32 k{kernel} r{reduce}", "choose": {"kind": ["mb", "fused"], "kernel": [3, 5]}},
    ],
    "when": [{"field": "stage2.kernel", "values": [5], "choose": {"stage2.reduce": [4]}}],
}
#: Networks on other devices, and what layers lose.
DEVICES = b"architecture,a,b\n" + b"".join(
    f"{i % 9}-{i // 9}-8-3-7-4-8-8-7-4-1-4-7-3-2-7-3-2-4-2-4-5,0.{i + 1},0.0{i + 1}\n".encode() for i in range(12)
)
LOSSES = b"layer,bits,loss\nconv,w4a8,0.1\nconv,8,0.01\nfc,8,0\n"


def net_space(data: bytes, folder: Path) -> None:
    """The file of a space: its points, and the network of the last one."""
    from steelyard.workload.nets import load_net
    from steelyard.workload.networks.space_file import read_space

    path = folder / "space.toml"
    path.write_bytes(data)
    found = read_space(path)
    if found.size < 2000 and len(found.features) < 500:
        code = found.all()[-1].tolist()
        assert found.read(found.spell(code)) == tuple(code)
        load_net(f"{path}:{found.spell(code)}")


def known_devices(data: bytes, folder: Path) -> None:
    """A table of other devices."""
    from steelyard.exploration.known_devices import read_devices
    from steelyard.workload.networks.search_space import find_space

    read_devices(written(folder, "devices.csv", data), find_space("fbnet"))


def losses(data: bytes, folder: Path) -> None:
    """A table of losses."""
    from steelyard.exploration.allocation import read_losses

    read_losses(str(written(folder, "losses.csv", data)), ("conv", "fc"), ("bits",))


def machine_file(content: bytes, folder: Path) -> None:
    _machine(sy.load_machine(written(folder, "m.toml", content)))


def machine_json(content: bytes, folder: Path) -> None:
    _machine(str(written(folder, "m.json", content)))


def machine_text(content: bytes, folder: Path) -> None:
    _machine(content.decode("utf-8", "replace"))


def machines_json() -> list[bytes]:
    return [write(read(x, "toml"), "json") for x in corpus.machines()]


@contextmanager
def _catalogue(folder: Path, kinds: tuple[str, ...], *, beside_ours: bool) -> Iterator[None]:
    """The catalogue in a folder instead of ours, or before it."""
    from steelyard.folders import catalogue_folders

    folders = (folder, *(catalogue_folders() if beside_ours else ()))
    _forget(kinds)
    with ExitStack() as patches:
        for name in _modules(len(sys.modules)):
            if getattr(sys.modules[name], "catalogue_folders", None) is catalogue_folders:
                patches.enter_context(mock.patch.object(sys.modules[name], "catalogue_folders", lambda: folders))
        patches.callback(_forget, kinds)
        yield


@cache
def _modules(loaded: int) -> tuple[str, ...]:
    """Names of our modules, while so many of all are loaded."""
    return tuple(name for name, m in sys.modules.items() if name.startswith("steelyard.") and m is not None)


#: Modules that keep what they read of a catalogue: of every kind, of machines and of calibration.
_KEEPING = ("machine.", "deployment.", "workload.catalogue")
_KEEPING_CALIBRATION = ("cost.parameters", "cost.gemm", "cost.attention_kernels", "cost.models")


def _forget(kinds: tuple[str, ...]) -> None:
    for function in _kept(kinds, len(sys.modules)):
        function.cache_clear()


@cache
def _kept(kinds: tuple[str, ...], loaded: int) -> tuple[Any, ...]:
    """Functions that keep their answers in modules of these kinds."""
    found = [sys.modules[n] for n in _modules(loaded) if n.removeprefix("steelyard.").startswith(kinds)]
    return tuple(value for module in found for value in vars(module).values() if hasattr(value, "cache_clear"))


def catalogue_of(kind: str, content: bytes, folder: Path) -> None:
    from steelyard.cost.parameters import calibration_table
    from steelyard.deployment import engine
    from steelyard.deployment.formats import find_format
    from steelyard.machine import catalogue, classes
    from steelyard.workload import catalogue as models

    place = folder / "catalogue" / ("calibration/h100_sxm" if kind == "calibration" else kind)
    place.mkdir(parents=True, exist_ok=True)
    name = "gemm" if kind == "calibration" else "h100_sxm"
    written(place, f"{name}.toml", content)
    kinds = _KEEPING_CALIBRATION if kind == "calibration" else _KEEPING
    with _catalogue(folder / "catalogue", kinds, beside_ours=kind in ("machines", "calibration")):
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


def trace(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.simulation.replay import is_log
    from steelyard.traffic.build import Traffic, traffic

    path = written(folder, f"t{suffix}", content)
    is_log(str(path))
    sent = traffic(Traffic(trace=str(path), requests=5))
    if not (math.isfinite(float(sent.arrived_at.max())) and sent.isl.min() >= 1 and sent.osl.min() >= 1):
        raise Wrong(f"a trace from {sent.arrived_at.min()} to {sent.arrived_at.max()} s")


def parquet_seeds() -> list[bytes]:
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


def log(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.simulation.replay import read_log

    log = read_log(str(written(folder, f"log{suffix}", content)))
    if not len(log.trace):
        raise Wrong("a log without requests")


def llama_bench(suffix: str, content: bytes, folder: Path) -> None:
    from steelyard.estimation.llama_bench import beside
    from steelyard.report import llama_bench as report

    asked = {"model": "llama-3.2-1b"} if suffix == ".md" else {}
    found = beside(str(written(folder, f"bench{suffix}", content)), asked)
    json.dumps(report.to_dict(found), allow_nan=False)
    report.text(found, 80)
    if not len(found):
        raise Wrong("results without rows")


def compared(content: bytes, folder: Path) -> None:
    from steelyard.report import compare

    path = str(written(folder, "e.json", content))
    found = compare.compare(path, path, None)
    compare.to_dict(found)
    compare.text(found, 100)


@cache
def estimates() -> list[bytes]:
    found = sy.estimate("llama-3.2-1b", "h100_sxm", batch=2).to_dict()
    return [json.dumps(found).encode()]


def workflow(content: bytes, folder: Path) -> None:
    import numpy as np

    from steelyard.traffic.sessions import read_workflow, workflows

    name, calls = read_workflow(written(folder, "w.toml", content))
    workflows(np.arange(3.0), calls, np.random.default_rng(0), name)


def recipe(content: bytes, folder: Path) -> None:
    from steelyard.scenario.recipes import find_recipe, recipes

    path, chosen = str(written(folder, "r.toml", content)), None
    for name in recipes():
        with suppress(UnknownName):
            chosen = find_recipe(f"{path}#{name}")
            chosen.said({"isl": 1000, "osl": 100, "concurrency": 8, "experts": True, "tp": 2})
    whole = path if chosen is None else f"{path}#{chosen.name}"
    sy.Scenario.of("simulate", "llama-3.2-1b", "h100_sxm", concurrency=2, requests=4, recipe=whole)


def claims(content: bytes, folder: Path) -> None:
    from steelyard.claims.board import csv_rows
    from steelyard.claims.paper import find_paper
    from steelyard.claims.run import Found

    paper = find_paper(str(written(folder, "c.toml", content)))
    for name in paper.scenario:
        paper.scene(name)
    csv_rows([paper], {paper.id: [Found(paper, claim) for claim in paper.claim]})


def op_list(content: bytes, folder: Path) -> None:
    finite(sy.estimate(written(folder, "o.toml", content), "h100_sxm", isl=1))


def presets(content: bytes, folder: Path) -> None:
    from steelyard.documents import build, read_document
    from steelyard.techniques import _presets

    for preset in build(_presets._File, read_document(written(folder, "t.toml", content))).technique:
        str(_presets._made(preset).about())


def anchor(content: bytes, folder: Path) -> None:
    path = str(written(folder, "a.toml", content))
    finite(sy.estimate("llama-3.2-1b", "h100_sxm", anchor=path))


def samples(content: bytes, folder: Path) -> None:
    from steelyard.calibrate.samples import adapt, read_samples
    from steelyard.machine.catalogue import find_machine

    adapt(find_machine("h100_sxm"), read_samples(written(folder, "s.csv", content))[:20])
