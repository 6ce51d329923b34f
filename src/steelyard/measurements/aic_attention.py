"""Reader of the aic_ops attention and MLA tables (NVIDIA aiconfigurator collector, vLLM kernels; latency column in ms).

Tables `<machine>__context_attention__*.parquet` and `<machine>__generation_attention__*.parquet` time one attention
call inside a CUDA graph,
the write of the new keys and values into the paged cache included; the cache is not rotated between repeats, so a small
one is hot.
In `mla_vllm.parquet` the `*_module` tables time a whole MLA layer (projections and attention); the others the attention
call.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KERNELS", "AttentionRows", "attention_machines", "read_attention", "read_mla_generation"]

Array = NDArray[np.float64]

#: Share of the configurations an attention fit sees, in thousandths.
FITTED_THOUSANDTHS = 500

#: kernel_source of the tables -> name in catalogue/kernels/attention.toml
KERNELS = {
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


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRows:
    """Measured attention calls as columns of equal length; times in seconds."""

    kernel: NDArray[np.str_]
    batch: Array
    new_tokens: Array
    context: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    window: Array
    kv_bits: Array
    time_s: Array
    base_s: Array
    """MLA layers: predicted time of everything around attention; 0 elsewhere."""
    base_context: Array
    """Context `base_s` was measured at; 0 where it is a prediction."""

    def __len__(self) -> int:
        return int(self.time_s.size)

    def take(self, chosen: NDArray[Any]) -> AttentionRows:
        """The rows a mask or an index selects."""
        return AttentionRows(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def configuration_hash(self) -> NDArray[np.int64]:
        """A number in 0..999 per (heads, kv_heads, head_dim, window, kv_bits): rows of one configuration stay together
        in a split."""
        keys = np.stack([self.heads, self.kv_heads, self.head_dim, self.window, self.kv_bits], axis=1).astype(np.int64)
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        codes = [zlib.crc32("-".join(map(str, row)).encode()) % 1000 for row in unique.tolist()]
        return np.asarray(codes, dtype=np.int64)[inverse.ravel()]


def _rows(frame: Any) -> AttentionRows:
    n = len(frame)

    def column(name: str, default: float = 0.0) -> Array:
        return np.asarray(frame[name], dtype=np.float64) if name in frame else np.full(n, default)

    return AttentionRows(
        kernel=np.asarray([KERNELS[k] for k in frame["kernel_source"]], dtype=np.str_),
        batch=column("batch_size"),
        new_tokens=column("isl", 1.0),
        context=column("context"),
        heads=column("num_heads"),
        kv_heads=column("num_key_value_heads", 1.0),
        head_dim=column("head_dim"),
        window=column("window_size"),
        kv_bits=np.where(np.asarray(frame["kv_cache_dtype"]) == "fp8", 8.0, 16.0),
        time_s=column("latency") * 1e-3,
        base_s=column("base") * 1e-3,
        base_context=column("base_context"),
    )


def attention_machines(folder: str | Path) -> list[str]:
    """Machines with both attention tables in `folder` (`.../aic_ops`)."""
    found = {p.name.split("__")[0] for p in Path(folder).glob("*__generation_attention__*.parquet")}
    return sorted(found)


def read_attention(folder: str | Path, machine: str, phase: str) -> AttentionRows:
    """Rows of one machine; repeated measurements of one call are replaced by their median.

    Args:
        folder: the `aic_ops` folder.
        machine: file prefix, for example "h100_sxm".
        phase: "decode" (generation tables: context = isl + step) or "prefill" (context tables without the isl = 1 rows,
        which
            run decode kernels; context = isl + step).

    Raises:
        FileNotFoundError: no table for that machine and phase.
    """
    import pandas as pd

    table = {"decode": "generation_attention", "prefill": "context_attention"}[phase]
    paths = sorted(Path(folder).glob(f"{machine}__{table}__*.parquet"))
    if not paths:
        raise FileNotFoundError(f"no {table} table for {machine} in {folder}")
    frame = pd.concat([pd.read_parquet(p) for p in paths], ignore_index=True)
    if "window_size" not in frame:
        frame["window_size"] = 0
    frame["context"] = frame["isl"] + frame["step"]
    if phase == "prefill":
        frame = frame[frame["isl"] > 1]
    keys = [
        "kernel_source",
        "batch_size",
        "isl",
        "context",
        "num_heads",
        "num_key_value_heads",
        "head_dim",
        "window_size",
        "kv_cache_dtype",
    ]
    return _rows(frame.groupby(keys, as_index=False)["latency"].median())


def latent_fitted(heads: Any, cache: str) -> NDArray[np.bool_]:
    """Which rows of the MLA tables the fit sees: whole (heads, cache format) pairs, by the hash of a configuration."""
    count = np.asarray(heads, dtype=np.float64)
    zero, bits = np.zeros(count.size), np.full(count.size, 8.0 if "8" in cache else 16.0)
    rows = AttentionRows(np.full(count.size, ""), zero, zero, zero, count, zero + 1, zero, zero, bits, zero, zero, zero)
    return np.asarray(rows.configuration_hash() < FITTED_THOUSANDTHS)


def read_mla_generation(folder: str | Path, machine: str) -> tuple[AttentionRows, NDArray[np.str_]]:
    """MLA decode rows of one machine, and the kernel of each as the table names it.

    Rows of whole layers with 16-bit weights (others are for scoring), context = step; calls, context = isl + step.
    `base_s` is left 0: what a layer does around attention (`steelyard_validation.mla_layer`).
    """
    import pandas as pd

    frame = pd.read_parquet(Path(folder) / "mla_vllm.parquet")
    frame = frame[(frame["system"] == machine) & frame["table"].str.contains("generation")].copy()
    module = frame["table"].str.contains("module")
    frame = frame[~module | (frame["gemm_type"].astype(str) == "bfloat16")]
    frame["context"] = frame["step"] + (~module).astype(int)
    for name in ("kernel_source", "kv_cache_dtype"):
        frame[name] = frame[name].astype(str)
    keys = ["kernel_source", "kv_cache_dtype", "num_heads", "batch_size"]
    frame = frame.groupby([*keys, "context"], as_index=False)["latency"].median()
    return _rows(frame), np.asarray(frame["kernel_source"], dtype=np.str_)
