"""Reader of aiconfigurator's measured MoE layers (vLLM kernels, one device, captured graph).

A row is the device of rank 0 of an expert-parallel group; synthetic routing puts the busiest rank there. `balanced`
spreads tokens evenly (not at random); `power_law_a` draws expert popularity from p(x) ~ x^-a and rounds each expert's
rows, so that with more rows than experts almost every expert is hit ("even" in the sense of `cost.moe.expert_loads`).

Rows marked `odd` are scored but not fitted: matrix rows that are no multiple of 16 bytes (no engine shards so),
DeepSeek-V3's grouped router (which breaks the even spread over ranks), and the older collector's small batches, which
put nearly all rows on one rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

FILES: Final = {
    "a100_sxm": "a100_sxm__moe__vllm_0.14.0.parquet",
    "l40s": "l40s__moe__vllm_0.24.0.parquet",
    "h100_sxm": "h100_sxm__moe__vllm_0.24.0.parquet",
    "h200_sxm": "h200_sxm__moe__vllm_0.24.0.parquet",
    "b200_sxm": "b200_sxm__moe__vllm_0.24.0.parquet",
}
BACKENDS: Final = (
    ("oaitriton", "mxfp4_triton"),
    ("marlin", "marlin"),
    ("trtllm_mxfp4", "trtllm"),
    ("trtllm", "trtllm"),
    ("cutlass", "cutlass"),
    ("triton", "triton"),
    ("fused_moe", "triton"),
)
BITS: Final[dict[str, tuple[float, float]]] = {
    "bfloat16": (16.0, 16.0),
    "fp8": (8.0, 8.0),
    "fp8_block": (8.0, 8.0),
    "nvfp4": (4.5, 4.5),
    "w4a16_mxfp4": (4.25, 16.0),
    "w4a8_mxfp4_mxfp8": (4.25, 8.25),
    "int4_wo": (4.125, 16.0),
}
"""Weight and activation bits with their block scales (NVFP4 8 bits per 16, MXFP4 8 per 32, int4 16 per 128)."""


NOT_GATED: Final = frozenset({(2688, 1856, 6, 128), (2048, 5120, 22, 512), (1024, 2688, 22, 512)})
"""(hidden, inter, topk, experts) of squared-ReLU models; measured with two matrices since vLLM 0.24's collector."""


def backend_of(kernel_source: str) -> str:
    """The kernel family a kernel_source names."""
    name = kernel_source.lower().replace("_", "")
    for pattern, backend in BACKENDS:
        if pattern.replace("_", "") in name:
            return backend
    return "other"


def read(data: Path, machine: str) -> pd.DataFrame:
    """Rows of one machine: kernel, shape, sharding, routing, time_s."""
    import pandas as pd

    raw = pd.read_parquet(data / "truth" / "aic_ops" / FILES[machine])
    source = raw["kernel_source"].astype(str)
    balanced = raw["distribution"] == "balanced"
    skew = raw["distribution"].str.replace("power_law_", "").where(~balanced, "0").astype(float)
    tensor = raw["moe_tp_size"].astype(float)
    group = raw["moe_ep_size"].astype(float)
    shape = (
        raw["hidden_size"].astype(str)
        + "x"
        + raw["inter_size"].astype(str)
        + "k"
        + raw["topk"].astype(str)
        + "e"
        + raw["num_experts"].astype(str)
    )
    weight_bytes = raw["inter_size"] / tensor * raw["moe_dtype"].astype(str).map(BITS).map(lambda b: b[0] // 1) / 8.0
    few = (raw["num_tokens"] * raw["topk"] <= raw["num_experts"]) & (group > 1) & (machine == "a100_sxm")
    grouped = (shape == "7168x2048k8e256") & (group > 1) & raw["moe_dtype"].isin(["fp8_block", "nvfp4"])
    shapes = zip(raw["hidden_size"], raw["inter_size"], raw["topk"], raw["num_experts"], strict=True)
    return pd.DataFrame(
        {
            "machine": machine,
            "kernel": source.map(backend_of) + "_" + raw["moe_dtype"].astype(str),
            "dtype": raw["moe_dtype"].astype(str),
            "tokens": raw["num_tokens"].astype(float),
            "hidden": raw["hidden_size"].astype(float),
            "intermediate": raw["inter_size"].astype(float) / tensor,
            "full_intermediate": raw["inter_size"].astype(float),
            "topk": raw["topk"].astype(float),
            "experts": raw["num_experts"].astype(float),
            "local_experts": raw["num_experts"].astype(float) / group,
            "gated": [machine == "a100_sxm" or shape not in NOT_GATED for shape in shapes],
            "tp": tensor,
            "ep": group,
            "even": balanced | (raw["num_tokens"] * raw["topk"] > raw["num_experts"]),
            "balanced": balanced,
            "skew": skew,
            "shape": shape,
            "odd": few | grouped | ((weight_bytes % 16 > 0) & source.map(backend_of).isin(["triton", "cutlass"])),
            "time_s": raw["latency"].astype(float) * 1e-3,
        }
    )
