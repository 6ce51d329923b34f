"""Readers of measured vector kernels: NeuSight (fp32 PyTorch), LLMCompass (fp16 PyTorch), Vidur (fp16 vLLM of 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

NEUSIGHT_MACHINE: Final = {
    "NVIDIA A100-PCIE-40GB": "a100_pcie_40gb",
    "NVIDIA A100 80GB PCIe": "a100_pcie",
    "NVIDIA L4": "l4",
    "Tesla P100-PCIE-16GB": "p100_pcie",
    "Tesla P4": "p4",
    "Tesla T4": "t4",
    "Tesla V100-PCIE-32GB": "v100_pcie",
    "AMD Instinct MI210": "mi210",
    "AMD Instinct MI100": "mi100",
}
TWO_INPUTS: Final = ("add", "div", "mul", "pow")
KIND: Final = {"ln": "norm", "layernorm": "norm", "softmax": "softmax"}
OPS_PER_ELEMENT: Final = {"pow": 100.0, "powu": 100.0, "gelu": 20.0, "tanh": 20.0}
"""Vector operations per element (guess: pow is a log and an exp in extended precision); others 1."""

EAGER_OVERHEAD_S: Final = 3.0e-5
"""Host time of an eager call in PyTorch, s."""
FIRST_OVERHEAD: Final = {"neusight": 1.5e-5, "vidur": 2e-7}
"""Constants of the sources that are not LLMCompass's, s: where the fit of each begins."""


def read_neusight(data: Path) -> pd.DataFrame:
    """neusight_ops: add..tanh, layernorm, softmax; B rows of H fp32."""
    import pandas as pd

    folder = data / "neusight_ops"
    names = ("test_ops_nvidia", "train_norm_ops_amd", "train_norm_ops_nvidia")
    raw = pd.concat([pd.read_parquet(folder / f"{name}.parquet") for name in names], ignore_index=True)
    raw = raw[~raw["op"].isin(["linear", "bmm"])]
    size = raw["B"].astype(float) * raw["H"].astype(float)
    return pd.DataFrame(
        {
            "source": "neusight",
            "machine": raw["device"].map(NEUSIGHT_MACHINE),
            "op": raw["op"],
            "kind": raw["op"].map(KIND).fillna("elementwise"),
            "rows": raw["B"].astype(float),
            "read_bytes": size * 4.0 * raw["op"].isin(TWO_INPUTS).map({True: 2.0, False: 1.0}),
            "write_bytes": size * 4.0,
            "flops": size * raw["op"].map(OPS_PER_ELEMENT).fillna(1.0),
            "time_s": raw["latency_ms"].astype(float) * 1e-3,
        }
    ).reset_index(drop=True)


def read_llmcompass(data: Path) -> pd.DataFrame:
    """llmcompass_ops: softmax, layernorm, GELU in fp16, eager (10 to 50 us of host time, by op)."""
    import pandas as pd

    raw = pd.read_csv(data / "llmcompass_ops" / "ops_a100_mi210.csv")
    raw = raw[raw["op"].isin(["softmax", "layernorm", "gelu"])]
    size = raw["m"].astype(float) * raw["n"].fillna(1.0).astype(float)
    return pd.DataFrame(
        {
            "source": "llmcompass_" + raw["op"],
            "machine": raw["gpu"].map({"A100": "a100_sxm", "MI210": "mi210"}),
            "op": raw["op"],
            "kind": raw["op"].map(KIND).fillna("elementwise"),
            "rows": raw["m"].astype(float),
            "read_bytes": size * 2.0,
            "write_bytes": size * 2.0,
            "flops": size * raw["op"].map(OPS_PER_ELEMENT).fillna(1.0),
            "time_s": size / (raw["throughput_gelem_s"].astype(float) * 1e9),
        }
    ).reset_index(drop=True)


def read_vidur(data: Path) -> pd.DataFrame:
    """vidur_profiling/mlp_linear: norms, gated activation and residual add (whole microseconds; kernels of 2023)."""
    import pandas as pd

    raw = pd.read_parquet(data / "vidur_profiling" / "mlp_linear.parquet")
    tokens = raw["num_tokens"].astype(float)
    hidden = raw["n_embd"].astype(float)
    inner = raw["n_expanded_embd"].astype(float) / raw["num_tensor_parallel_workers"].astype(float)
    gate = raw["use_gated_mlp"].astype(bool).map({True: 2.0, False: 1.0})
    machine = raw["gpu"].map({"A100": "a100_sxm", "H100": "h100_sxm", "A40": "a40"})
    parts = []
    for op, column, kind, reads, writes in (
        ("norm", "input_layernorm_ms_median", "norm_scalar", hidden, hidden),
        ("activation", "mlp_act_ms_median", "elementwise_scalar", inner * gate, inner),
        ("add", "add_ms_median", "elementwise", 2.0 * hidden, hidden),
    ):
        parts.append(
            pd.DataFrame(
                {
                    "source": "vidur",
                    "machine": machine,
                    "op": op,
                    "kind": kind,
                    "rows": tokens,
                    "read_bytes": tokens * reads * 2.0,
                    "write_bytes": tokens * writes * 2.0,
                    "flops": tokens * reads,
                    "time_s": raw[column].astype(float) * 1e-3,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    return table[table["time_s"] > 0].reset_index(drop=True)


def read_all(data: Path) -> pd.DataFrame:
    """All three sources."""
    import pandas as pd

    return pd.concat([read_neusight(data), read_llmcompass(data), read_vidur(data)], ignore_index=True)
