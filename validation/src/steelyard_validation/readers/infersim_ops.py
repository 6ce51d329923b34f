"""``infersim_ops``: kernel times on H20 and H800 (DeepGEMM, FlashAttention-3, FlashMLA, sparse attention).

``shape_file`` states the heads: ``heads-kv_heads-head_dim`` of plain attention, ``heads-latent-rope`` of latent decode,
``heads-nope-rope`` of latent prefill. Kernel times, activations already quantised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.gemm import gemm_facts
from steelyard.errors import InputError, SteelyardError
from steelyard.interval import interval80
from steelyard.measurements.reader import (
    Ask,
    Comparison,
    comparison,
    guarded,
    machine_name,
    machine_of,
    read_frame,
)
from steelyard.workload.blocks.scan import scan_ops
from steelyard.workload.step import Step
from steelyard_validation.readers import _ops
from steelyard_validation.readers._whole import deploy

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.machine.component import Machine

__all__ = ["read"]

_OPTIONAL = (
    "phase",
    "dtype",
    "kv_dtype",
    "batch_size",
    "kv_len",
    "latency_us",
    "seq_len",
    "m",
    "k",
    "n",
    "num_local_experts",
    "topk",
    "hidden_size",
    "intermediate_size",
    "tokens_per_expert",
    "up_proj_us",
    "down_proj_us",
    "gdn_update",
    "kkt",
    "tril",
    "wu",
    "chunk_gdn",
    "chunk_o",
    "batchsize",
    "next_n",
    "s_q",
    "s_kv",
)


#: A Triton kernel launched from Python, as these rows' smallest steps show.
HOST_S = 70e-6


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``ops_*.csv``."""
    for path in ask.files(folder, "ops_*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, _table, path, ask)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ("op", "gpu", "shape_file"), optional=_OPTIONAL)
    # rows of 64 heads that repeat those of 32 to the digit say nothing of their own
    again = frame.drop(columns="shape_file").duplicated() & (frame["op"] == "gdn")
    frame = frame[~again].reset_index(drop=True)
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for (op, phase, gpu, shape, cache), part in frame.groupby(
        ["op", "phase", "gpu", "shape_file", "kv_dtype"], dropna=False
    ):
        machine = machine_of(str(gpu))
        kind = str(phase) if isinstance(phase, str) else str(op)
        for family, rows, measured, answer, why in _ask(machine, str(op), kind, str(shape), str(cache), part):
            yield comparison(
                ask,
                path.stem,
                metric="time_s",
                phase=kind,
                machine=machine_name(str(gpu)),
                family=family,
                measured=measured,
                # calibration/h20/scan.toml; factors of cost/indexer.py
                split="fit" if family in ("gated delta net", "sparse") else "all",
                why=why,
                **(answer.columns if answer else {}),
            )
            del rows


_Found = tuple[str, int, Any, _ops.Answer | None, str]


def _ask(machine: Machine | None, op: str, phase: str, shape: str, cache: str, part: pd.DataFrame) -> Iterator[_Found]:
    """(family, rows, measured seconds, answer or None, reason) of one kind of rows."""

    def column(name: str) -> Any:
        return part[name].to_numpy(float)

    if machine is None:
        yield op, len(part), column("latency_us") * 1e-6, None, "machine not in the catalogue"
        return
    try:
        if op == "gemm":
            answer = _ops.gemm(
                machine, "fp8_block", column("m"), column("n"), column("k"), facts=_kernel_only(), hot=False
            )
            yield "fp8_block", len(part), column("latency_us") * 1e-6, answer, ""
        elif op == "grouped_gemm":
            yield from _grouped(machine, part, column)
        elif op == "mha" and phase == "decode":
            heads, kv_heads, dim = (float(x) for x in shape.split("-"))
            bits = 8.0 if "8" in cache else 16.0
            answer = _ops.decode(
                machine, "fa3", column("batch_size"), column("kv_len"), heads, kv_heads, dim, kv_bits=bits, hot=False
            )
            yield "mha", len(part), column("latency_us") * 1e-6, answer, ""
        elif op == "mha":
            heads, kv_heads, dim = (float(x) for x in shape.split("-"))
            answer = _ops.prefill(machine, "fa3", 1.0, column("seq_len"), 0.0, heads, kv_heads, dim)
            yield "mha", len(part), column("latency_us") * 1e-6, answer, ""
        elif op == "mla" and phase == "decode":
            heads = float(shape.split("-")[0])
            bits = 8.0 if "8" in cache else 16.0
            answer = _ops.mla_decode(
                machine, "flash_mla", column("batch_size"), column("kv_len"), heads, kv_bits=bits, hot=False
            )
            yield "mla", len(part), column("latency_us") * 1e-6, answer, ""
        elif op == "mla":
            heads = float(shape.split("-")[0])
            answer = _ops.mla_prefill(machine, "fa3", 1.0, column("seq_len"), 0.0, heads)
            yield "mla", len(part), column("latency_us") * 1e-6, answer, ""
        elif op == "dsa":
            yield "sparse", len(part), column("latency_us") * 1e-6, _sparse(machine, phase, shape, column), ""
        elif op == "gdn":
            yield from _delta(machine, phase, shape, column)
        else:
            yield op, len(part), column("latency_us") * 1e-6, None, f"{op}: no model of this kernel yet"
    except SteelyardError as error:
        yield op, len(part), column("latency_us") * 1e-6, None, str(error)


def _sparse(machine: Machine, phase: str, shape: str, column: Any) -> _ops.Answer:
    """Attention over 2048 picked tokens (``attn-...``) or the scores it is picked by (``logits-...``), whole."""
    at = deploy("DeepSeek-V3.2", machine.name, weights="fp8_block", kv="fp8", engine="sglang")
    if isinstance(at, str):
        raise InputError(at)
    batch, new, keys = 1.0, column("s_q"), column("s_kv")
    if phase == "decode":
        picked = shape.startswith("attn")
        batch, new = (column("batch_size"), 1.0) if picked else (column("batchsize"), column("next_n"))
        keys = column("kv_len") if picked else keys
    part = "layer1.attention" if shape.startswith("attn") else "layer1.index_scores"
    step = Step(batch, new, np.maximum(keys, new))
    found = at.replica.price(step, keep=lambda op: part in (op.name, op.fuse))
    (kernel,) = found.cost.kernels
    copies = np.max(np.asarray(kernel.kernel.count))
    times = (np.broadcast_to(x / copies, keys.shape) for x in (kernel.time_s, kernel.limit_s))
    time_s, limit_s = times
    return _ops.Answer(time_s, *interval80(time_s, kernel.spread), limit_s, kernel.source)


def _delta(machine: Machine, phase: str, shape: str, column: Any) -> Iterator[_Found]:
    """Gated delta nets, ``taps-key_heads-key_dim-value_heads-value_dim``: the state update, without its convolution.

    The states of these rows are 32 bits wide. A step of few sequences waits for the host that launches it.
    """
    _, _, key_dim, heads, value_dim = (int(x) for x in shape.split("-"))
    if phase == "decode":
        step = Step.decode(column("batchsize"), 1)
        measured = column("gdn_update")
    else:
        step = Step.prefill(1, column("seq_len"))
        measured = sum(column(name) for name in ("kkt", "tril", "wu", "chunk_gdn", "chunk_o"))
    inside = 3 * key_dim + 2 * value_dim
    ops = list(
        scan_ops(
            "gdn",
            step,
            1,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            chunk=64,
            inside=inside,
            corrects=True,
            bits=32,
        )
    )
    moved = 2 * 4.0 * np.asarray(step.batch) * heads * key_dim * value_dim
    moved = moved + 2.0 * step.tokens * heads * (2 * key_dim + 2 * value_dim)
    answer = _ops.scan(machine, ops, moved)
    launched = {n: np.maximum(getattr(answer, n), HOST_S) for n in ("time_s", "low_s", "high_s")}
    yield "gated delta net", len(measured), measured * 1e-6, replace(answer, **launched), ""


def _kernel_only() -> Any:
    return replace(gemm_facts("deepgemm_fp8_block"), quantises_activations=False)


def _grouped(machine: Machine, part: pd.DataFrame, column: Any) -> Iterator[_Found]:
    """Both grouped products of local experts with equal loads: ``groups`` products of ``tokens_per_expert`` rows."""
    local, rows = column("num_local_experts"), column("tokens_per_expert")
    hidden, inter = column("hidden_size"), column("intermediate_size")
    for name, n, k in (("up_proj", 2 * inter, hidden), ("down_proj", hidden, inter)):
        answer = _ops.gemm(machine, "fp8_block", rows, n, k, groups=local, facts=_kernel_only(), hot=False)
        yield f"grouped_gemm {name}", len(part), column(f"{name}_us") * 1e-6, answer, ""
