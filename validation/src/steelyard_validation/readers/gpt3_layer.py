"""One layer of GPT-3 175B on four A100s, op by op and as a whole (``hw/gpt3_layer_4xA100_prefill_decode_s.csv`` and
the same in ``llmcompass_ops/gpt3_layer_breakdown_a100x4.csv``).

LLMCompass (Zhang et al., ISCA 2024) measured 16-bit PyTorch ops at tensor parallel 4 and batch 8: a prefill of 2048
tokens, and the decode of the 1024th token after it. Ops are kernels of their own; queries, keys and values are three
products. Rows are the ops; the row ``layer`` is their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from steelyard.cost.price import price
from steelyard.cost.program import Kernel, lower
from steelyard.measurements.reader import Ask, Comparison, Floats, comparison, guarded, read_frame
from steelyard.workload.catalogue import Model
from steelyard.workload.families import read_config
from steelyard.workload.transformer import Step
from steelyard_validation.readers._whole import Shown, deploy

__all__ = ["breakdown", "read"]

MACHINE, DEGREE, BATCH, PROMPT, GENERATED = "a100_sxm", 4, 8, 2048, 1024
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 12288,
    "n_head": 96,
    "n_layer": 1,
    "n_positions": 4096,
    "n_ctx": 4096,
    "vocab_size": 50257,
    "activation_function": "gelu",
}
#: Kernel of our program by the table's name of the op.
KERNEL = {
    "Q_K_V": "qkv",
    "Q_mul_K": "scores",
    "A_mul_V": "values",
    "Wo_proj": "out",
    "W1_proj": "up",
    "W2_proj": "down",
    "Softmax": "softmax",
    "LayerNorm_MHA": "norm1",
    "LayerNorm_FFN": "norm2",
    "GeLU": "act",
    "AllReduce_MHA": "out.all_reduce",
    "AllReduce_FFN": "down.all_reduce",
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The table with one column per phase."""
    for path in ask.files(folder, "gpt3_layer_4xA100_prefill_decode_s.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_wide, path, ask))


def breakdown(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The table with one row per phase and op, as two layers: its ops are read with the other ops of that folder."""
    for path in ask.files(folder, "gpt3_layer_breakdown_a100x4.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_long, path, ask))


def _wide(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["op", "prefill_s", "decode_s"])
    for phase in ("prefill", "decode"):
        yield _compare(
            path, ask, phase, frame["op"].astype(str).tolist(), frame[f"{phase}_s"].to_numpy(dtype=np.float64)
        )


def _long(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["phase", "op", "latency_s"])
    for phase, rows in frame.groupby("phase", sort=False):
        ops, measured = rows["op"].astype(str).tolist(), rows["latency_s"].to_numpy(dtype=np.float64)
        yield _compare(path, ask, str(phase), ops, measured, layer_only=True)


def _compare(
    path: Path, ask: Ask, phase: str, ops: list[str], measured: Floats, layer_only: bool = False
) -> Comparison:
    answers = _ops(phase == "decode")
    rows = np.array([answers.get(KERNEL.get(op, ""), (np.nan, np.nan, np.nan)) for op in ops])
    rows = np.vstack([rows, [rows[:, 0].sum(), rows[:, 1].sum(), float(np.average(rows[:, 2], weights=rows[:, 0]))]])
    measured, names = np.append(measured, measured.sum()), [*ops, "layer"]
    if layer_only:
        rows, measured, names = rows[-1:], measured[-1:], names[-1:]
    found = Shown.time(rows[:, 0], rows[:, 2], rows[:, 1])
    return comparison(
        ask,
        path.stem,
        metric="time_s",
        phase=phase,
        machine=MACHINE,
        family=names,
        measured=measured,
        predicted=found.value,
        low=found.low,
        high=found.high,
        roofline=found.limit,
        why="no such op in our layer",
    )


@cache
def _ops(decode: bool) -> dict[str, tuple[float, float, float]]:
    """(time, datasheet limit, spread) of every kernel of the layer, by the end of its name."""
    at = deploy(
        Model("gpt3-175b layer", read_config(CONFIG, name="gpt3-175b layer"), "arXiv:2005.14165"),
        MACHINE,
        tp=DEGREE,
        weights="fp16",
        engine="torch",
    )
    if isinstance(at, str):
        return {}
    step = Step.decode(BATCH, PROMPT + GENERATED) if decode else Step.prefill(BATCH, PROMPT)
    program = lower(at.transformer.graph(step), replace(at.plan, fused=False), at.cluster.machine)
    program = replace(program, kernels=tuple(_separate(k) for k in program.kernels))
    cost = price(program, at.cluster, at.engine, burst=True, decode=False)
    return {
        k.kernel.name.partition(".")[2]: (max(float(k.time_s), _host_s(k.kernel)), float(k.limit_s), k.spread)
        for k in cost.kernels
        if "." in k.kernel.name
    }


#: Host time of one PyTorch op as that study states it for its A100 (``Overhead``), s: launches run ahead of the device
#: unless it is faster.
HOST_S = {"gemm": 21e-6, "softmax": 12e-6, "norm1": 45e-6, "norm2": 45e-6, "act": 45e-6}


def _host_s(kernel: Kernel) -> float:
    return HOST_S.get(kernel.kind, HOST_S.get(kernel.name.rpartition(".")[2], 0.0))


def _separate(kernel: Kernel) -> Kernel:
    """Queries, keys and values as three products; masked scores computed in full; norms without the residual sum."""
    f = kernel.features
    op = kernel.name.rpartition(".")[2]
    if op == "softmax":
        full = kernel.ops[0].elements(kernel.ops[0].output, visited=False) * 2.0
        return replace(kernel, traffic={**kernel.traffic, "read": full, "write": full})
    if op in ("norm1", "norm2"):
        rows = kernel.ops[0].elements(kernel.ops[0].output) * 2.0
        return replace(kernel, traffic={**kernel.traffic, "read": rows, "write": rows})
    if kernel.kind != "gemm":
        return kernel
    if kernel.name.endswith(".qkv"):
        third = {name: np.asarray(value) / 3 for name, value in kernel.traffic.items()}
        part = {**f, "n": np.asarray(f["n"]) / 3}
        return replace(kernel, features=part, count=3 * np.asarray(kernel.count), flops=kernel.flops / 3, traffic=third)
    full = 2.0 * np.asarray(f["m"]) * f["n"] * f["k"] * f["groups"]
    return replace(kernel, flops=np.maximum(kernel.flops, full))
