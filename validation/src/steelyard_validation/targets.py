"""What accuracy is aimed at for measured serving loads, beside what a run of ``validate`` reaches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from steelyard_validation.readers import inferencex_lines as lines
from steelyard_validation.readers.inferencex import AS_USER, LEFT_OUT_AS_USER, LINES_TABLE

if TYPE_CHECKING:
    from steelyard_validation.validate import Accuracy

__all__ = ["SHORT", "TARGETS", "Reached", "Target", "reached"]


@dataclass(frozen=True, slots=True)
class Target:
    """An aim: the median and, where given, the 90th percentile of the absolute error, %."""

    source: str
    table: str
    words: str
    metric: str
    median: float = math.nan
    p90: float = math.nan
    family: str = "*"
    phase: str = "serve"


@dataclass(frozen=True, slots=True)
class Reached:
    """A target and the row that answers it; None where this run did not read it."""

    target: Target
    row: Accuracy | None

    @property
    def met(self) -> bool | None:
        """Whether median and 90th percentile are within the target; None without a target or a row."""
        t, r = self.target, self.row
        if r is None or (math.isnan(t.median) and math.isnan(t.p90)) or not r.covered:
            return None
        return not (r.median_ape > t.median or r.p90_ape > t.p90)


_SILICON = "inferencex_silicon"
#: Line: median and p90 of TPOT, TTFT and throughput.
_LINES: Final = {
    lines.SAME: ((4, 10), (7, 20), (4, 10)),
    lines.MACHINE: ((7, 18), (15, 35), (7, math.nan)),
    lines.DENSE: ((8, 20), (20, 60), (8, math.nan)),
    lines.EXPERTS: ((7, 18), (15, 40), (8, math.nan)),
    lines.NOTHING_FITTED: ((12, 25), (22, 45), (12, math.nan)),
    LEFT_OUT_AS_USER: ((7, math.nan), (20, math.nan), (math.nan, math.nan)),
    **dict.fromkeys(
        (
            "shipped figures, left out",
            "apart: cache full",
            "apart: suspected speculative decoding",
            "apart: inconsistent",
        ),
        ((math.nan, math.nan),) * 3,
    ),
}
_METRICS = ("tpot_s", "ttft_s", "tokens_per_s_per_device")

TARGETS: Final[tuple[Target, ...]] = (
    *(
        Target(_SILICON, LINES_TABLE, name, metric, float(aims[0]), float(aims[1]), name)
        for name, all_aims in _LINES.items()
        for metric, aims in zip(_METRICS, all_aims, strict=True)
    ),
    Target("trtllm_perf_overview", "throughput_v0.17_v0.21_v1.0", "offline throughput", "tokens_per_s", 8.0),
    Target("llmservingsim_vllm_runs", "requests", "mean end to end", "mean_e2e_s", 5.0),
    Target("llmservingsim_vllm_runs", "requests", "p99 end to end", "p99_e2e_s", 12.0),
    Target("llmservingsim_vllm_runs", "requests", "time to first token, per request", "ttft_s", 12.0),
    Target("splitwise_perf_model", "splitwise_a100_h100", "decode step", "tpot_s", 10.0, phase="decode"),
    Target("splitwise_perf_model", "splitwise_a100_h100", "prompts", "time_s", 10.0, phase="prefill"),
)

#: The lines of the README's table: what it says, then source, table, phase and metric of the totals it quotes.
SHORT = (
    ("matrix products, 5 GPUs, all formats", "aic_ops", "gemm", "gemm", "time_s"),
    ("attention decode, 5 GPUs", "aic_ops", "generation_attention", "decode", "time_s"),
    ("attention prefill, 5 GPUs", "aic_ops", "context_attention", "prefill", "time_s"),
    ("expert layers", "aic_ops", "moe", "moe", "time_s"),
    ("all-reduce in a node, 5 GPUs", "aic_ops", "comm", "all_reduce", "time_s"),
    ("all-reduce across nodes", "apex_comm", "collectives_h100_h200_v100", "all_reduce across nodes", "time_s"),
    ("products, FP8, a GPU never fitted (H800)", "deepseek_kernels", "deepgemm_h800_fp8", "gemm", "time_s"),
    ("attention decode, GPUs never fitted (H800, H20)", "infersim_ops", "ops_h20_h800", "decode", "time_s"),
    ("whole models, fp32, 8 GPUs, forward pass", "neusight_ops", "e2e_model_latency", "prefill", "time_s"),
    (
        "static batches, Llama 2 and BLOOM, decode step",
        "splitwise_perf_model",
        "splitwise_a100_h100",
        "decode",
        "tpot_s",
    ),
    ("static batches, prefill", "splitwise_perf_model", "splitwise_a100_h100", "prefill", "time_s"),
    ("llama.cpp on 25 Apple chips, decode", "llamacpp_consumer", "apple_silicon_4167", "decode", "tokens_per_s"),
    ("language models on phone NPUs, decode", "qualcomm_aihub", "llm_on_snapdragon", "decode", "tokens_per_s"),
    ("served models, asked as a user does, time per token", "inferencex_silicon", "agg_ttft_tpot", AS_USER, "tpot_s"),
    (
        "served models, asked as a user does, time to first token",
        "inferencex_silicon",
        "agg_ttft_tpot",
        AS_USER,
        "ttft_s",
    ),
    ("energy per token of served models", "ml_energy_v3", "llm_energy_latency", "serve", "energy_j"),
    ("image networks, eager PyTorch, RTX 4090", "timm_benchmarks", "infer_rtx4090", "infer eager nchw", "time_s"),
    ("image networks, compiled, RTX 4090", "timm_benchmarks", "infer_rtx4090", "infer dynamo nchw", "time_s"),
    ("image networks, eager PyTorch, RTX 3090", "timm_benchmarks", "infer_rtx3090", "infer eager nhwc", "time_s"),
    ("pictures by diffusion, other engines", "diffusion_serving", "image_video", "diffusion", "time_s"),
    ("image networks on Snapdragon NPUs, 8 bits (QNN)", "qualcomm_aihub", "latency_snapdragon", "qnn w8a8", "time_s"),
    ("image networks on Hailo NPUs", "hailo_npu", "hailo_model_zoo_fps", "batch 1", "time_s"),
    ("training, Llama 3.1 405B, MLPerf", "mlperf_training", "v4.1_v5.0_results", "llama31_405b", "samples_per_s"),
    (
        "training, Llama 2 70B with LoRA, MLPerf",
        "mlperf_training",
        "v4.1_v5.0_results",
        "llama2_70b_lora",
        "samples_per_s",
    ),
    ("training, BERT, MLPerf", "mlperf_training", "v4.1_v5.0_results", "bert", "samples_per_s"),
    (
        "training, models with experts, NVIDIA, recipe not told",
        "megatron_bridge_training",
        "pretrain_sft_lora",
        "experts, by its columns alone",
        "tokens_per_s_per_device",
    ),
    ("training, whole models, fp32", "neusight_ops", "e2e_model_latency", "train", "time_s"),
    ("memory of a training step, B200", "simumax_b200", "steps", "train", "memory_bytes"),
)


def reached(rows: Iterable[Accuracy], source: str) -> list[Reached]:
    """The targets of a source, each with its row: left-out rows where the source has some, over all machines."""
    found: dict[tuple[str, str, str, str], Accuracy] = {}
    for row in rows:
        if row.source == source and row.machine == "*":
            key = (row.table, row.family, row.phase, row.metric)
            if key not in found or row.split == "left-out":
                found[key] = row
    mine = [t for t in TARGETS if t.source == source]
    return [Reached(t, found.get((t.table, t.family, t.phase, t.metric))) for t in mine]
