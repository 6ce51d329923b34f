"""Readers of measured collectives: aiconfigurator, Vidur and APEX tables, all to one convention.

The convention is `steelyard.cost.collective`'s: full tensor bytes. aiconfigurator counts ELEMENTS of its dtype, Vidur
bytes, APEX KiB; all three already mean the full tensor (checked against the bus bandwidth of the largest rows).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = (
    "source",
    "machine",
    "library",
    "version",
    "eager",
    "operation",
    "message_bytes",
    "devices",
    "devices_per_node",
    "time_s",
)

ELEMENT_BYTES: Final = {"half": 2.0, "bfloat16": 2.0, "int8": 1.0, "float": 4.0}
OPERATION: Final = {
    "all_gather": "all_gather",
    "all_reduce": "all_reduce",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send",
    "send_recv": "send",
}
APEX_MACHINE: Final = {"H100-SXM-80GB": "h100_sxm", "H200-SXM-141GB": "h200_sxm", "V100-PCIE-16GB": "v100_pcie"}


def _aiconfigurator_library(kernel: str, table: str) -> str:
    if table == "nccl_perf":
        return "nccl"
    name = kernel.lower()
    for library in ("vllm", "sglang", "trtllm"):
        if library in name:
            return library
    return "other"


def read_aiconfigurator(data: Path) -> pd.DataFrame:
    """aic_ops/comm_all_systems.parquet; rows repeated under several library versions are kept once."""
    import pandas as pd

    raw = pd.read_parquet(data / "truth" / "aic_ops" / "comm_all_systems.parquet")
    for name in ("kernel_source", "version", "nccl_dtype", "allreduce_dtype"):
        raw[name] = raw[name].astype(object).where(raw[name].notna(), "")
    raw = raw[raw["op_name"].isin(list(OPERATION))]
    dtype = raw["nccl_dtype"].where(raw["nccl_dtype"] != "", raw["allreduce_dtype"])
    table = pd.DataFrame(
        {
            "source": "aiconfigurator",
            "machine": raw["system"],
            "library": [_aiconfigurator_library(k, t) for k, t in zip(raw["kernel_source"], raw["table"], strict=True)],
            "version": raw["version"],
            "eager": raw["kernel_source"].str.contains("eager"),
            "operation": raw["op_name"].map(OPERATION),
            "message_bytes": raw["message_size"].astype(float) * dtype.map(ELEMENT_BYTES).astype(float),
            "devices": raw["num_gpus"].astype(int),
            "devices_per_node": 8,
            "time_s": raw["latency"].astype(float) * 1e-3,
        }
    )
    table["library"] = [library_fact(k, v) for k, v in zip(table["library"], table["version"], strict=True)]
    return table.drop_duplicates(ignore_index=True)


def library_fact(library: str, version: str) -> str:
    """The row of `collective.LIBRARIES` a library version behaves like."""
    if library == "vllm" and version.startswith(("0.14", "0.11", "0.12", "0.13")):
        return "vllm_0.14"
    if library == "sglang" and version in ("0.5.6", "0.5.6.post2", "0.5.8", "0.5.9", "0.5.10"):
        return "sglang_0.5.10"
    return library


def read_apex(data: Path) -> pd.DataFrame:
    """apex_comm/collectives_h100_h200_v100.csv; sizes below 1 KiB are dropped (the file rounds them to 0)."""
    import pandas as pd

    raw = pd.read_csv(data / "truth" / "apex_comm" / "collectives_h100_h200_v100.csv")
    raw = raw[(raw["size(kb)"] > 0) & (raw["num_gpus_per_node"] <= 8)]
    return pd.DataFrame(
        {
            "source": "apex",
            "machine": raw["gpu"].map(APEX_MACHINE),
            "library": "nccl",
            "version": "",
            "eager": False,
            "operation": raw["collective"].map(OPERATION),
            "message_bytes": raw["size(kb)"].astype(float) * 1024.0,
            "devices": raw["num_nodes"] * raw["num_gpus_per_node"].where(raw["collective"] != "sendrecv", 0)
            + 2 * (raw["collective"] == "sendrecv"),
            "devices_per_node": raw["num_gpus_per_node"],
            "time_s": raw["time(us)"].astype(float) * 1e-6,
        }
    ).reset_index(drop=True)


def read_vidur(data: Path) -> pd.DataFrame:
    """vidur_profiling/network.parquet: medians; eager torch.distributed, small sizes include host jitter."""
    import pandas as pd

    raw = pd.read_parquet(data / "truth" / "vidur_profiling" / "network.parquet")
    median = raw["time_stats.all_reduce.median"].fillna(raw["time_stats.send_recv.median"])
    return pd.DataFrame(
        {
            "source": "vidur",
            "machine": raw["fabric"],
            "library": "nccl",
            "version": "",
            "eager": True,
            "operation": raw["op"].map(OPERATION),
            "message_bytes": raw["size"].astype(float),
            "devices": raw["num_workers"].astype(int),
            "devices_per_node": raw["devices_per_node"].astype(int),
            "time_s": median.astype(float) * 1e-3,
        }
    ).reset_index(drop=True)


def read_all(data: Path) -> pd.DataFrame:
    """All three tables, columns COLUMNS."""
    import pandas as pd

    return pd.concat([read_aiconfigurator(data), read_apex(data), read_vidur(data)], ignore_index=True)
