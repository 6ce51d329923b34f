"""A scenario as a table of measurements had it: what a row of the validation opens in Estimate, Simulate or Train.

A table's settings are said once, with a model and machine of its own; a row of one model, machine or engine puts its
own in their place. Tables of single kernels, and rows of models or machines that no catalogue knows, open nothing.
"""

from __future__ import annotations

from functools import cache
from urllib.parse import parse_qsl, urlencode

from steelyard.errors import normalise

__all__ = ["SETTINGS", "opened"]

_LLAMA_BENCH = "estimate?model=llama-3-8b&on=rtx_4090&engine=llamacpp&weights=q4_k_m&isl=512&osl=128"
_OFFLINE = "simulate?model=llama-3.1-8b&on=h100_sxm&engine=trtllm&weights=fp8&rate=inf&isl=1000&osl=1000&requests=500"
_CLOSED = "simulate?model=llama-3.1-8b&on=h100_sxm&engine=vllm&concurrency=16&isl=1024&osl=1024&requests=160"
_TIMM = "estimate?model=resnet50&on=rtx_3090&batch=256&precision=amp&runtime=eager"
_PRETRAIN = "train?model=llama-3-8b&on=h100_sxm:64&gbs=512&seq=8192"
#: Settings by ``source/table``, or by source for all its tables.
SETTINGS = {
    "argonne_llm_inference_bench": "estimate?model=llama-2-7b&on=a100_sxm_40gb&engine=vllm&batch=16&isl=1024&osl=1024",
    "dgx_spark_arena": _CLOSED.replace("llama-3.1-8b&on=h100_sxm", "gpt-oss-20b&on=dgx_spark"),
    "dgx_spark_llamacpp": _LLAMA_BENCH.replace("llama-3-8b&on=rtx_4090", "gpt-oss-20b&on=dgx_spark").replace(
        "weights=q4_k_m&", ""
    ),
    "diffusion_serving": "estimate?model=flux.1-dev&on=h200_sxm&batch=1",
    "dstack_h100_mi300x": _CLOSED.replace("llama-3.1-8b&on=h100_sxm", "llama-3.1-405b&on=h100_sxm:8&tp=8&weights=fp8"),
    "hailo_npu": "estimate?model=resnet50&on=hailo8&batch=8&runtime=hailo",
    "inferencex_silicon": _CLOSED.replace("llama-3.1-8b&on=h100_sxm", "llama-3.1-70b&on=h100_sxm:8&tp=8&weights=fp8"),
    "llamacpp_consumer": _LLAMA_BENCH,
    "llamacpp_gpu_mac_2024": _LLAMA_BENCH,
    "llmservingsim_vllm_runs": _CLOSED.replace("on=h100_sxm", "on=rtx_4090&weights=fp8"),
    "megatron_bridge_training": _PRETRAIN + "&framework=bridge&precision=fp8",
    "ml_energy_v3/diffusion_energy_latency": "estimate?model=flux.1-dev&on=h100_sxm&batch=1",
    "ml_energy_v3/llm_energy_latency": _CLOSED.replace("isl=1024&osl=1024", "isl=200&osl=500"),
    "mlperf_inference/v4.1_results": "simulate?model=llama-2-70b&on=h100_sxm:8&tp=8&engine=trtllm&weights=fp8&rate=inf"
    "&isl=300&osl=300&requests=500",
    "mlperf_inference/v4.1_results_networks": "estimate?model=resnet50&on=h100_sxm&batch=64&precision=int8",
    "mosaic_mpt_training": "train?model=llama-2-7b&on=a100_sxm:64&gbs=512&seq=2048&framework=composer",
    "nemo_training_h100": "train?model=llama-2-7b&on=h100_sxm:8&gbs=128&seq=4096&framework=nemo&precision=fp8",
    "qualcomm_aihub/latency_snapdragon": "estimate?model=mobilenet_v2&on=snapdragon_8_elite&runtime=tflite",
    "rockchip_npu/rknn_model_zoo_fps": "estimate?model=mobilenet_v2&on=rk3588&runtime=rknn&precision=int8",
    "rocm_vllm_mi300x": "estimate?model=llama-3.1-70b&on=mi300x:8&tp=8&engine=vllm&weights=fp8&batch=16"
    "&isl=2048&osl=128",
    "rtx3090x4_rig": _CLOSED.replace("llama-3.1-8b&on=h100_sxm", "qwen3-4b&on=rtx_3090:4&tp=4"),
    "rtx_consumer_vllm": _CLOSED.replace("llama-3.1-8b&on=h100_sxm", "qwen3-8b&on=rtx_5090"),
    "sglang_cookbook/serving_low_mid_high": _CLOSED.replace(
        "llama-3.1-8b&on=h100_sxm&engine=vllm", "llama-3.1-70b&on=b200_sxm:8&tp=8&engine=sglang"
    ),
    "simumax_b200/steps": "train?model=llama-3-70b&on=b200_sxm:64&gbs=128&seq=4096",
    "strix_halo_llamacpp": _LLAMA_BENCH.replace("on=rtx_4090", "on=strix_halo"),
    "timm_benchmarks/infer_cpu_fp32": _TIMM.replace("rtx_3090", "i9_10940x")
    .replace("amp", "fp32")
    .replace("eager", "compile")
    .replace("256", "1"),
    "timm_benchmarks/infer_rtx3090": _TIMM,
    "timm_benchmarks/infer_rtx4090": _TIMM.replace("rtx_3090", "rtx_4090").replace("eager", "compile"),
    "torchtitan_training": "train?model=llama-3.1-8b&on=h100_sxm_96gb:8&gbs=16&seq=8192&framework=torchtitan",
    "trtllm_perf_overview": _OFFLINE,
    "trtllm_perf_overview_2025_12": _OFFLINE.replace("llama-3.1-8b&on=h100_sxm", "llama-3.3-70b&on=h200_sxm:2&tp=2"),
    "two_gpu_sglang": "estimate?model=qwen3-coder-30b-a3b&on=rtx_3090:2&tp=2&engine=sglang&isl=2048&osl=80",
    "workstation_vllm_lowload/online_qps1_qps4_and_offline": "simulate?model=llama-3.1-8b&on=rtx_5090&engine=vllm"
    "&rate=1/s&isl=220&osl=220&requests=200",
}


def opened(source: str, table: str, machine: str = "*", model: str = "*") -> str:
    """The address of a scenario as a table had it, on this machine or of this model; empty: no screen asks such a one.

    Args:
        source: folder of measurements, and one table of it.
        machine: name in the catalogue; ``*``: that of the settings. Their number of devices stays.
        model: as rows of the validation name it (``attention: Meta-Llama-3-8B q4_k_m``); ``*``: that of the settings.
    """
    from steelyard.deployment.engine import engines
    from steelyard.deployment.formats import formats

    setting = SETTINGS.get(f"{source}/{table}") or SETTINGS.get(source)
    if not setting:
        return ""
    verb, _, query = setting.partition("?")
    words = dict(parse_qsl(query))
    if machine != "*":
        if machine not in _machines():
            return ""
        words["on"] = ":".join([machine, *words["on"].split(":")[1:]])
    if model != "*":
        name, rest = _model(model)
        if not name:
            return ""
        weights, engine = (next((x for x in rest if x in known), "") for known in (formats(), engines()))
        if "weights" in words and weights:
            words["weights"] = weights
        elif _models().get(normalise(words["model"])) != name:
            words.pop("weights", None)  # as its file has them, not as the other model's
        words["model"] = name
        if engine and "engine" in words:
            words["engine"] = engine
    return f"/{verb}?{urlencode(words, safe=':/,')}"


def _model(said: str) -> tuple[str, list[str]]:
    """Name in the catalogues of what a row calls its model, and what else it says of it; empty: none."""
    words = said.rpartition(": ")[2].partition(" (")[0].partition(",")[0].split()
    for end in range(len(words), 0, -1):
        if name := _models().get(normalise(" ".join(words[:end]))):
            return name, [word.lower() for word in words[end:]]
    return "", []


@cache
def _machines() -> frozenset[str]:
    from steelyard.machine.catalogue import machine_names

    return frozenset(machine_names())


@cache
def _models() -> dict[str, str]:
    """Models, networks and pipelines by what they are called."""
    from steelyard.report import listing
    from steelyard.workload.catalogue import find_model, model_names

    found: dict[str, str] = {}
    for kind in ("pipelines", "nets"):
        for row in listing.rows(kind):
            for called in (row["name"], *filter(None, str(row.get("also") or "").split(", "))):
                found.setdefault(normalise(called), row["name"])
    for name in model_names():
        entry = find_model(name)
        for called in (name, name.rpartition("/")[2], *entry.aliases, *entry.same_as):
            found.setdefault(normalise(called), name)
    return found
