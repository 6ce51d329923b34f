"""``llmcompass_ops``: fp16 operators on A100 and MI210, and one GPT-3 layer on four A100 (PyTorch, 2023).

Eager calls: a constant of host time goes before every kernel. Throughput columns count elements: softmax and layer
norm over ``m`` rows of ``n``, GELU over ``m`` elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    machine_name,
    machine_of,
    read_frame,
)
from steelyard_validation.fits.vector_tables import EAGER_OVERHEAD_S, KIND, OPS_PER_ELEMENT
from steelyard_validation.readers import _ops

__all__ = ["read"]

#: Bytes of one fp16 element.
ELEMENT = 2.0
#: Host time of one eager call before its kernel, s, by op and machine (the scripts wrap the ops differently).
#: Source: the smallest rows whose log2 of the elements is even; those are labelled as fitted.
CALL_S = {
    ("gelu", "a100_sxm"): 45e-6,
    ("layernorm", "a100_sxm"): 45e-6,
    ("softmax", "a100_sxm"): 11e-6,
    ("gelu", "mi210"): 19e-6,
    ("layernorm", "mi210"): 35e-6,
    ("softmax", "mi210"): 21e-6,
}
#: GPT-3 175B layer of the breakdown: hidden width, heads; batch, prompt and generated tokens of the test; devices.
HIDDEN, HEADS, BATCH, PROMPT, DEVICES = 12288, 96, 8, 2048, 4
#: Context of the decode step in tokens: the prompt and 1,024 generated ones (assumed; the table does not say).
CONTEXT = PROMPT + 1024


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Operators and the layer."""
    for pattern, reader in (("ops_*.csv", _operators), ("gpt3_layer_*.csv", _layer)):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, reader, path, ask)


def _operators(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ("op", "gpu", "m", "n", "k", "latency_ms", "throughput_gelem_s"))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for (op, gpu), part in frame.groupby(["op", "gpu"]):
        machine = machine_of(str(gpu))
        m, n = part["m"].to_numpy(float), part["n"].fillna(1).to_numpy(float)
        about: dict[str, Any] = {
            "metric": "time_s",
            "phase": str(op),
            "machine": machine_name(str(gpu)),
            "family": "fp16",
        }
        if op == "matmul":
            measured = part["latency_ms"].to_numpy(float) * 1e-3
        else:
            measured = m * n / (part["throughput_gelem_s"].to_numpy(float) * 1e9)
        if machine is None or op not in ("matmul", "softmax", "layernorm", "gelu"):
            yield comparison(ask, path.stem, measured=measured, why="machine or op not known", **about)
            continue
        if op == "matmul":
            answer = _ops.gemm(machine, "fp16", m, n, part["k"].to_numpy(float), hot=True)
        else:
            rows = None if op == "gelu" else m
            kind, size = KIND.get(str(op), "elementwise"), m * n
            operations = size * OPS_PER_ELEMENT.get(str(op), 1.0)
            answer = _ops.vector(machine, kind, size * ELEMENT, size * ELEMENT, operations, rows=rows, hot=True)
        host_s = CALL_S.get((str(op), machine.name), EAGER_OVERHEAD_S)
        even = np.round(np.log2(m * n)).astype(int) % 2 == 0
        split = np.where(even, "fit", "left-out") if (str(op), machine.name) in CALL_S else "all"
        yield comparison(ask, path.stem, measured=measured, split=split, **about, **answer.after(host_s).columns)


def _layer(path: Path, ask: Ask) -> Iterator[Comparison]:
    """Unfused layer, TP 4: products of the attention as batched GEMMs, softmax over the scores."""
    frame = read_frame(path, ("phase", "op", "latency_s"))
    machine = machine_of("a100_sxm")
    if machine is None:
        raise InputError("no machine a100_sxm in the catalogue")
    for phase, part in frame.groupby("phase"):
        new = PROMPT if phase == "prefill" else 1
        context = PROMPT if phase == "prefill" else CONTEXT
        tokens, heads, dim = BATCH * new, HEADS // DEVICES, HIDDEN // HEADS
        local = HIDDEN // DEVICES
        scores = float(BATCH * heads * new * context)
        gemm = {
            "Q_K_V": (tokens, 3 * local, HIDDEN, 1),
            "Q_mul_K": (new, context, dim, BATCH * heads),
            "A_mul_V": (new, dim, context, BATCH * heads),
            "Wo_proj": (tokens, HIDDEN, local, 1),
            "W1_proj": (tokens, 4 * local, HIDDEN, 1),
            "W2_proj": (tokens, HIDDEN, 4 * local, 1),
        }
        vector = {
            "Softmax": ("softmax", scores, BATCH * heads * new),
            "LayerNorm_MHA": ("norm", float(tokens * HIDDEN), tokens),
            "LayerNorm_FFN": ("norm", float(tokens * HIDDEN), tokens),
            "GeLU": ("elementwise", float(tokens * 4 * local), None),
        }
        for op, measured in zip(part["op"], part["latency_s"].to_numpy(float), strict=True):
            why, answer = "", None
            if op in gemm:
                m, n, k, groups = gemm[op]
                answer = _ops.gemm(machine, "fp16", m, n, k, groups=groups, hot=False)
            elif op in vector:
                kind, elements, rows = vector[op]
                answer = _ops.vector(machine, kind, elements * ELEMENT, elements * ELEMENT, elements * 8.0, rows=rows)
                answer = answer.after(CALL_S.get((op.split("_")[0].lower(), machine.name), 0.0))
            elif op.startswith("AllReduce"):
                message = np.array([tokens * HIDDEN * ELEMENT])
                answer = _ops.collective(machine, "nccl", "all_reduce", message, np.array([DEVICES]))
            else:
                why = f"unknown op {op}"
            yield comparison(
                ask,
                path.stem,
                metric="time_s",
                phase=str(phase),
                machine=machine.name,
                family=str(op),
                measured=measured,
                why=why,
                **(answer.columns if answer else {}),
            )
