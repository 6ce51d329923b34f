"""``simumax_b200/ops``: kernels of Megatron training timed one by one on B200 and A100 PCIe, forward and backward.

Products in 16 bits (Transformer Engine, cuBLAS) with weight gradients added to a main gradient, grouped products as a
loop of products over streams, causal attention by cuDNN (B200) or FlashAttention-2 (A100). Calls come from Python, so
short ones wait for the host: its times are read off the rows where it binds, which therefore count as fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.site import site_for
from steelyard.cost.train_kernels import GROUP_LAUNCH_S, Pass, attention_time, grouped_time, product_time
from steelyard.errors import SteelyardError
from steelyard.interval import interval80
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_of, read_frame

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.cost.models import KernelTime
    from steelyard.cost.site import Site
    from steelyard.machine.component import Machine

__all__ = ["read"]

_COLUMNS = ("gpu", "op", "pass", "batch_or_groups", "m", "n", "k", "seq_len", "heads", "kv_heads", "qk_dim", "v_dim")
#: Passes by the words of the table.
PASSES: dict[str, Pass] = {
    "forward": "forward",
    "dgrad": "dgrad",
    "wgrad": "wgrad",
    "fwd": "forward",
    "bwd_grad_act": "dgrad",
    "bwd_grad_w": "wgrad",
}
#: s that the host of the B200 rows takes for a call of attention: forward, backward.
HOST_S = {"sdp_fwd": 92e-6, "sdp_bwd": 110e-6}
KINDS = {"matmul": "product", "group_matmul": "grouped", "sdp_fwd": "attention", "sdp_bwd": "attention backward"}
#: Attention kernel by machine.
KERNEL = {"b200_sxm": "cudnn", "a100_pcie": "flash"}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """``ops.csv``."""
    for path in ask.files(folder, "ops.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, _table, path, ask)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, (*_COLUMNS, "out_dtype", "time_s", "raw_key"))
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    for (gpu, op, which), rows in frame.groupby(["gpu", "op", "pass"]):
        machine = machine_of(str(gpu))
        kind = KINDS.get(str(op), str(op))
        about: dict[str, Any] = {
            "metric": "time_s",
            "phase": kind,
            "machine": machine.name if machine else str(gpu),
        }
        for bits, part in _by_gradient(str(op), str(which), rows):
            measured = part["time_s"].to_numpy(float)
            heads = np.where(part["qk_dim"] > 128, "head 192", "head 128")
            family = heads if "attention" in kind else PASSES[str(which)]
            if machine is None:
                why = "machine not in the catalogue"
                yield comparison(ask, path.stem, family=family, measured=measured, why=why, **about)
                continue
            try:
                found, limit, host = _answer(machine, str(op), str(which), bits, part)
            except SteelyardError as error:
                yield comparison(ask, path.stem, family=family, measured=measured, why=str(error), **about)
                continue
            time = np.maximum(np.broadcast_to(found.time_s, measured.shape), host)
            low, high = interval80(time, found.spread)
            yield comparison(
                ask,
                path.stem,
                family=family,
                measured=measured,
                predicted=time,
                low=low,
                high=high,
                roofline=limit,
                split=np.where(_fitted(machine.name, str(op), part) | (host >= time), "fit", "left-out"),
                **about,
            )


def _by_gradient(op: str, which: str, rows: pd.DataFrame) -> Iterator[tuple[float, pd.DataFrame]]:
    """Rows by the bits of the main gradient that a weight gradient is added to."""
    wide = np.ones(len(rows), dtype=bool)
    if op == "matmul" and which == "wgrad":
        wide = (rows["out_dtype"] == "fp32").to_numpy(bool)
    elif op == "group_matmul":
        wide = rows["raw_key"].str.contains("main_grad_dtype=fp32").to_numpy(bool)
    for bits, chosen in ((32.0, wide), (16.0, ~wide)):
        if chosen.any():
            yield bits, rows[chosen]


def _fitted(machine: str, op: str, part: pd.DataFrame) -> Any:
    """Rows that a figure was read off: attention backward at 128; of grouped products those of one model on B200."""
    if op == "sdp_bwd":
        return (part["qk_dim"] == 128).to_numpy(bool)
    if op == "group_matmul" and machine == "b200_sxm":
        return part["k"].isin((1536, 5120)).to_numpy(bool)
    return np.zeros(len(part), dtype=bool)


def _answer(machine: Machine, op: str, which: str, bits: float, part: pd.DataFrame) -> tuple[KernelTime, Any, Any]:
    """Kernel time, data-sheet limit and the host's time of a call, of some rows."""

    def column(name: str) -> Any:
        return part[name].to_numpy(float)

    site = site_for(machine)
    host = np.zeros(len(part))
    if op in HOST_S:
        seq, heads, key, value = (column(x) for x in ("seq_len", "heads", "qk_dim", "v_dim"))
        backward = op == "sdp_bwd"
        found = attention_time(
            column("batch_or_groups"),
            seq,
            seq,
            heads,
            column("kv_heads"),
            key,
            value,
            backward=backward,
            kernel=KERNEL.get(machine.name, "cudnn"),
            site=site,
        )
        pairs = column("batch_or_groups") * heads * seq * (seq + 1) / 2
        ops = pairs * (2 * (3 * key + 2 * value) if backward else 2 * (key + value))
        if machine.name == "b200_sxm":
            host = host + HOST_S[op]
        return found, ops / site.peak_ops_per_s, host
    m, n, k, groups = (column(x) for x in ("m", "n", "k", "batch_or_groups"))
    kind = PASSES[which]
    if op == "matmul":
        m, n, k = {"forward": (m, n, k), "dgrad": (m, k, n), "wgrad": (k, m, n)}[
            kind
        ]  # as the forward product has them
        found = product_time(m, n, k, groups=groups, which=kind, site=site, gradient_bits=bits)
    else:
        host = groups * GROUP_LAUNCH_S
        found = grouped_time(m * groups, n, k, experts=groups, which=kind, site=site, gradient_bits=bits)
    return found, _limit(m, n, k, groups, kind, bits, site), host


def _limit(m: Any, n: Any, k: Any, groups: Any, kind: Pass, bits: float, site: Site) -> Any:
    sixteen = {"forward": m * k + n * k + m * n, "dgrad": m * n + n * k + m * k, "wgrad": m * k + m * n}[kind]
    moved = 2.0 * sixteen + (2.0 * n * k * bits / 8.0 if kind == "wgrad" else 0.0)
    return groups * np.maximum(2.0 * m * n * k / site.peak_ops_per_s, moved / site.dram_bytes_per_s)
