"""Tables of kernel times as NVIDIA's aiconfigurator collector writes them, each read once, to columns in SI units.

Files are ``<machine>__gemm__<software>.parquet``, likewise ``context_attention``, ``generation_attention`` and ``moe``,
and ``comm_*.parquet``; latencies are in ms. Kernels run in a captured graph that repeats one
call, except block-scaled fp8 products, which are eager and carry a host floor of 50 to 300 us. The column ``fitted``
says which rows a calibration may see: whole (n, k) pairs of products, whole head configurations of attention.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.measurements.reader import read_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ATTENTION_KERNELS",
    "GEMM_BITS",
    "MOE_BITS",
    "attention_rows",
    "collective_rows",
    "collective_rows_of",
    "configuration_hash",
    "even_size",
    "gemm_rows",
    "library_of",
    "moe_rows",
    "repeated_once",
]

#: Columns of a table of attention kernels.
_ATTENTION = "kernel_source batch_size isl num_heads num_key_value_heads head_dim kv_cache_dtype"

GEMM_BITS: Final[Mapping[str, tuple[float, float, float]]] = {
    "bf16": (16.0, 16.0, 16.0),
    "fp8": (8.0, 8.0, 16.0),
    "fp8_block": (8.0, 8.0, 16.0),
    "nvfp4": (4.5, 4.5, 16.0),
    "int8_wo": (8.0, 16.0, 16.0),
    "int4_wo": (4.25, 16.0, 16.0),
}
"""(weight, activation, output) bits of each format of the product tables, scales of block formats included."""
PAIRS_FITTED: Final = 1.0 / 3.0
"""Share of the (n, k) pairs a product fit sees."""
CONFIGURATIONS_FITTED: Final = 500
"""Of a thousand head configurations, how many an attention fit sees."""
ATTENTION_KERNELS: Final[Mapping[str, str]] = {
    "vllm_flash_attn": "fa2",
    "vllm_flash_attn_fa2": "fa2",
    "vllm_flash_attn_fa3": "fa3",
    "vllm_flash_attn_fa4": "fa4_large_head",
    "vllm_flashinfer_fidecode": "flashinfer",
    "vllm_flashinfer_fiprefill": "flashinfer",
    "vllm_flashinfer_trtllmdecode": "trtllm",
    "vllm_flashinfer_trtllmprefill": "trtllm",
    "vllm_triton_attn": "triton",
    "FLASH_ATTN_MLA": "fa3_mla",
    "FLASHMLA": "flash_mla",
    "FLASHINFER_MLA": "trtllm_mla",
    "TRITON_MLA": "triton_mla",
    "vllm_triton_mla": "triton_mla_0_14",
}
"""Kernels as the tables name them, to names of ``catalogue/kernels/attention.toml``."""
MOE_BITS: Final[Mapping[str, tuple[float, float]]] = {
    "bfloat16": (16.0, 16.0),
    "fp8": (8.0, 8.0),
    "fp8_block": (8.0, 8.0),
    "nvfp4": (4.5, 4.5),
    "w4a16_mxfp4": (4.25, 16.0),
    "w4a8_mxfp4_mxfp8": (4.25, 8.25),
    "int4_wo": (4.125, 16.0),
}
"""Weight and activation bits with their block scales (NVFP4 8 bits per 16, MXFP4 8 per 32, int4 16 per 128)."""
MOE_BACKENDS: Final = (
    ("oaitriton", "mxfp4_triton"),
    ("marlin", "marlin"),
    ("trtllmmxfp4", "trtllm"),
    ("trtllm", "trtllm"),
    ("cutlass", "cutlass"),
    ("triton", "triton"),
    ("fusedmoe", "triton"),
)
"""What the name of a grouped-GEMM kernel contains, to its family; ``triton`` where nothing fits."""
NOT_GATED: Final = frozenset({(2688, 1856, 6, 128), (2048, 5120, 22, 512), (1024, 2688, 22, 512)})
"""(hidden, inter, topk, experts) of squared-ReLU models; measured with two matrices since vLLM 0.24's collector."""
SKEWED_BATCHES: Final = 5.0
"""Batches of other routing the collector repeats for a skewed spread of tokens; an even spread repeats one."""
OPERATIONS: Final[Mapping[str, str]] = {
    "all_gather": "all_gather",
    "all_reduce": "all_reduce",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send",
    "send_recv": "send",
}
ELEMENT_BYTES: Final[Mapping[str, float]] = {"half": 2.0, "bfloat16": 2.0, "int8": 1.0, "float": 4.0}
SMALLEST_BYTES, LARGEST_BYTES = 1024.0, 2.0**30
"""Messages a calibration looks at."""
OTHER_HOST: Final[Mapping[str, tuple[str, ...]]] = {"l40s": ("0.5.12",)}
"""Versions measured on another server (peers behind PCIe switches, ten times the bandwidth): not this fabric."""


def gemm_rows(path: Path) -> pd.DataFrame:
    """Products: format, kernel, m, n, k, time_s, fitted."""
    raw = read_frame(path, ["gemm_dtype", "kernel_source", "m", "n", "k", "latency"])
    raw = raw[raw["latency"] > 0].reset_index(drop=True)
    rows = raw[["m", "n", "k"]].astype(float)
    rows = rows.assign(
        format=raw["gemm_dtype"].astype(str).replace({"bfloat16": "bf16", "float16": "bf16"}),
        kernel=raw["kernel_source"].astype(str),
        time_s=raw["latency"].astype(float) * 1e-3,
        fitted=False,
    )
    for index in rows.groupby("format").indices.values():
        pairs, inverse = np.unique(rows[["n", "k"]].to_numpy()[index].T, axis=1, return_inverse=True)
        chosen = np.asarray(np.random.default_rng(0).random(pairs.shape[1]) < PAIRS_FITTED)
        rows.loc[index, "fitted"] = chosen[np.ravel(inverse)]
    return rows


def attention_rows(path: Path) -> pd.DataFrame:
    """Attention calls: phase, kernel, batch, new_tokens, context, heads, kv_heads, head_dim, window, kv_bits, time_s.

    The write of the new keys and values is included; the cache is not rotated, so a small one is hot. Rows of one new
    token are decodes, whatever their table.
    """
    columns = _ATTENTION.split()
    raw = read_frame(path, (*columns, "step", "latency"), optional=("window_size", "device"))
    raw = raw[raw["latency"] > 0].reset_index(drop=True)
    numbers = {
        "batch": raw["batch_size"],
        "new_tokens": raw["isl"],
        "context": raw["isl"] + raw["step"],
        "heads": raw["num_heads"],
        "kv_heads": raw["num_key_value_heads"],
        "head_dim": raw["head_dim"],
        "window": raw["window_size"].fillna(0),
    }
    rows = _frame({name: values.astype(float) for name, values in numbers.items()})
    rows = rows.assign(
        kernel=[
            "xe2" if "Intel" in str(device) else ATTENTION_KERNELS.get(str(k), "generic")
            for k, device in zip(raw["kernel_source"], raw["device"], strict=True)
        ],
        kv_bits=np.where(raw["kv_cache_dtype"].astype(str).str.contains("8"), 8.0, 16.0),
        phase=np.where(raw["isl"] > 1, "prefill", "decode"),
        time_s=raw["latency"].astype(float) * 1e-3,
    )
    return rows.assign(fitted=configuration_hash(rows) < CONFIGURATIONS_FITTED)


def configuration_hash(rows: pd.DataFrame) -> NDArray[np.int64]:
    """A number in 0..999 per (heads, kv_heads, head_dim, window, kv_bits): one configuration goes to one side."""
    keys = rows[["heads", "kv_heads", "head_dim", "window", "kv_bits"]].to_numpy().astype(np.int64)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    codes = [zlib.crc32("-".join(map(str, row)).encode()) % 1000 for row in unique.tolist()]
    return np.asarray(codes, dtype=np.int64)[inverse.ravel()]


def repeated_once(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with repeated measurements of one call replaced by their median."""
    keys = [c for c in rows.columns if c != "time_s"]
    return rows.groupby(keys, as_index=False)["time_s"].median()


def moe_rows(path: Path) -> pd.DataFrame:
    """Routed experts of one layer on the busiest device: kernel, dtype, sizes, shards, routing, time_s.

    ``balanced`` spreads tokens evenly (not at random); ``power_law_a`` draws expert popularity from p(x) ~ x^-a and
    rounds each expert's rows, so that with more rows than experts nearly all are hit (``even``, the sense of
    ``cost.moe.expert_loads``).
    """
    columns = ("kernel_source", "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts")
    raw = read_frame(path, (*columns, "moe_tp_size", "moe_ep_size", "distribution", "latency"))
    raw = raw[raw["latency"] > 0].reset_index(drop=True)
    spread = raw["distribution"].astype(str)
    balanced = spread == "balanced"
    older = "0.14" in path.stem
    shapes = list(zip(raw["hidden_size"], raw["inter_size"], raw["topk"], raw["num_experts"], strict=True))
    backends = raw["kernel_source"].astype(str).map(_backend)
    return _frame(
        {
            "kernel": backends + "_" + raw["moe_dtype"].astype(str),
            "dtype": raw["moe_dtype"].astype(str),
            "tokens": raw["num_tokens"].astype(float),
            "hidden": raw["hidden_size"].astype(float),
            "intermediate": raw["inter_size"] / raw["moe_tp_size"].astype(float),
            "topk": raw["topk"].astype(float),
            "experts": raw["num_experts"].astype(float),
            "local_experts": raw["num_experts"] / raw["moe_ep_size"].astype(float),
            "routing_exponent": spread.str.extract(r"([\d.]+)$")[0].astype(float).where(~balanced, 0.0).fillna(0.0),
            "repeated_batches": np.where(balanced, 1.0, SKEWED_BATCHES),
            "even": balanced | (raw["num_tokens"] * raw["topk"] > raw["num_experts"]),
            "gated": [older or shape not in NOT_GATED for shape in shapes],
            "shape": ["x".join(str(x) for x in shape) for shape in shapes],
            "time_s": raw["latency"].astype(float) * 1e-3,
        }
    )


def _backend(kernel_source: str) -> str:
    name = kernel_source.lower().replace("_", "")
    return next((backend for pattern, backend in MOE_BACKENDS if pattern in name), "triton")


def collective_rows(path: Path) -> pd.DataFrame:
    """Collectives: machine, library, version, eager, operation, message_bytes (the full tensor), devices, time_s."""
    columns = ("system", "table", "op_name", "num_gpus", "message_size", "latency")
    texts = ("kernel_source", "version", "nccl_dtype", "allreduce_dtype")
    raw = read_frame(path, columns, optional=texts)
    text = {c: raw[c].astype(object).where(raw[c].notna(), "").astype(str) for c in texts}
    dtype = text["nccl_dtype"].where(text["nccl_dtype"] != "", text["allreduce_dtype"])
    named = zip(text["kernel_source"], raw["table"].astype(str), text["version"], strict=True)
    return _frame(
        {
            "machine": raw["system"].astype(str),
            "library": [library_of(*names) for names in named],
            "version": text["version"],
            "eager": text["kernel_source"].str.contains("eager"),
            "operation": raw["op_name"].astype(str).map(OPERATIONS),
            "message_bytes": raw["message_size"].astype(float) * dtype.map(ELEMENT_BYTES).astype(float),
            "devices": raw["num_gpus"].astype(int),
            "time_s": raw["latency"].astype(float) * 1e-3,
        }
    )


def library_of(kernel: str, table: str, version: str) -> str:
    """The row of ``collective.LIBRARIES``: the vendor's library by its table, a serving library's own by its name."""
    for vendor in ("oneccl", "rccl", "nccl"):
        if table.startswith(vendor):
            return vendor
    named = next((n for n in ("vllm", "sglang", "trtllm") if n in kernel.lower()), "nccl")
    if named == "vllm" and version.startswith(("0.14", "0.11", "0.12", "0.13")):
        return "vllm_0.14"
    if named == "sglang" and version in ("0.5.6", "0.5.6.post2", "0.5.8", "0.5.9", "0.5.10"):
        return "sglang_0.5.10"
    return named


def collective_rows_of(rows: pd.DataFrame, machine: str) -> pd.DataFrame:
    """The rows a calibration of one machine reads: inside a node of eight, captured, 1 KiB to 1 GiB, each once."""
    keep = (rows["machine"] == machine) & ~rows["eager"] & rows["operation"].notna() & (rows["time_s"] > 0)
    keep &= (rows["message_bytes"] >= SMALLEST_BYTES) & (rows["message_bytes"] <= LARGEST_BYTES)
    keep &= (rows["devices"] <= 8) & ~rows["version"].isin(OTHER_HOST.get(machine, ()))
    found = rows[keep].drop_duplicates(ignore_index=True)
    return found.assign(fitted=even_size(found))


def even_size(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """The fitted half: messages whose log2 is even."""
    return np.asarray(np.round(np.log2(rows["message_bytes"].to_numpy(float))).astype(int) % 2 == 0)


def _frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(dict(columns))
