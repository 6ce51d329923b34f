"""``deepseek_kernels``: DeepGEMM's published fp8 throughput and DeepEP's published exchange bandwidth, on H800."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.cost.gemm import gemm_facts
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_of, read_frame
from steelyard_validation.readers import _ops

__all__ = ["read"]

MACHINE = "h800_sxm"
#: DeepEP's test: hidden width, experts per token, tokens per device (normal and low-latency kernels).
HIDDEN, TOPK, TOKENS, TOKENS_LOW_LATENCY = 7168, 8, 4096, 128
EXPERTS = 256  # routed experts of DeepSeek-V3
#: Devices on one H800 node.
NODE = 8


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Both tables."""
    for pattern, reader in (("deepgemm_*.csv", _gemm), ("deepep_*.csv", _exchange)):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, reader, path, ask)


def _gemm(path: Path, ask: Ask) -> Iterator[Comparison]:
    """Kernel only: activations already quantised. ``m`` is per group."""
    frame = read_frame(path, ("kind", "groups", "m", "n", "k", "latency_us_derived"))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    from dataclasses import replace

    facts = replace(gemm_facts("deepgemm_fp8_block"), quantises_activations=False)
    machine = machine_of(MACHINE)
    if machine is None:
        raise InputError(f"no machine {MACHINE} in the catalogue")
    m, n, k, groups = (frame[c].to_numpy(float) for c in ("m", "n", "k", "groups"))
    answer = _ops.gemm(machine, "fp8_block", m, n, k, groups=groups, facts=facts, hot=False)
    family = np.where(frame["kind"].str.contains("Grouped"), "fp8_block grouped", "fp8_block")
    yield comparison(
        ask,
        path.stem,
        metric="time_s",
        phase="gemm",
        machine=machine.name,
        family=family,
        measured=frame["latency_us_derived"].to_numpy(float) * 1e-6,
        **answer.columns,
    )


def _exchange(path: Path, ask: Ask) -> Iterator[Comparison]:
    """The time of an exchange where the table states one; its bandwidth alone does not say which bytes were counted."""
    frame = read_frame(path, ("kind", "op", "ep", "bandwidth_gb_s"), optional=("latency_us", "scope"))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    machine = machine_of(MACHINE)
    if machine is None:
        raise InputError(f"no machine {MACHINE} in the catalogue")
    about: dict[str, Any] = {"metric": "time_s", "machine": machine.name}
    for operation, part in frame.groupby("op"):
        timed = part["latency_us"].notna().to_numpy()
        fmt = find_format("fp8" if operation == "dispatch" else "bf16")
        message = np.full(len(part), TOKENS_LOW_LATENCY * TOPK * HIDDEN * fmt.stored_bits / 8)
        devices = part["ep"].to_numpy(float)
        for many in (False, True):
            rows = timed & ((devices > NODE) == many)
            if rows.any():
                exchange = {
                    "exchange": str(operation),
                    "tokens": TOKENS_LOW_LATENCY,
                    "hidden": HIDDEN,
                    "top_k": TOPK,
                    "experts": EXPERTS,
                    "bits": fmt.stored_bits,
                    "low_latency": True,
                }
                answer = _ops.collective(
                    machine, "nccl", "all_to_all", message[rows], devices[rows], per_node=NODE, exchange=exchange
                )
                measured = part["latency_us"].to_numpy(float)[rows] * 1e-6
                phase = f"{operation}{' across nodes' if many else ''}"
                yield comparison(
                    ask, path.stem, phase=phase, family="low latency", measured=measured, **answer.columns, **about
                )
        bandwidth = part["bandwidth_gb_s"].to_numpy(float)[~timed] * 1e9
        if bandwidth.size:
            yield comparison(
                ask,
                path.stem,
                metric="bandwidth_bytes_per_s",
                machine=machine.name,
                phase=str(operation),
                family="normal",
                measured=bandwidth,
                why="only a bandwidth is given, and not which bytes it counts",
            )
