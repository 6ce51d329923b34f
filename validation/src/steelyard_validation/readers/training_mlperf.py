"""``mlperf_training``: samples per second of closed submissions, v4.1 and v5.0; language models.

A row states devices, batch and how often gradients were summed, and not how a replica was cut: degrees are left open,
and the verb chooses the fastest layout that fits. Precision is not said either: FP8 on devices that have it (guess).
Two figures were read off some of these rows (``FITTED``); the others are left out of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.machine.cluster import parse_cluster
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._train import Words, answered, step_time, whole

__all__ = ["read", "words"]

#: Benchmarks by model: catalogue name, tokens of a sample, task. The adapters of its rules lie beside the four products
#: of attention. BERT is trained on sequences of at most 512 tokens
#: without their padding; half of it is (guess).
BENCHMARKS: Mapping[str, tuple[str, int, str]] = {
    "llama31_405b": ("llama-3.1-405b", 8192, ""),
    "llama2_70b_lora": ("llama-2-70b", 8192, "lora"),
    "gpt3": ("gpt-3-175b", 2048, ""),
    "bert": ("bert-large-uncased", 256, ""),
}
#: Benchmarks of long sequences, a micro-batch of one each: batch over accumulation are the replicas.
SINGLE = ("llama2_70b_lora", "llama31_405b")
NOT_ASKED = {
    "dlrm_dcnv2": "tables of embeddings over devices are not trained by the verb",
    "gnn": "graphs are not trained by the verb",
    "rgat": "graphs are not trained by the verb",
    "ssd": "suspect: rates of several nodes below those of one",
    "retinanet": "suspect: rates of several nodes below those of one",
    "stable_diffusion": "its text encoder and decoder ran beforehand; which part of it did is not stated",
}
MACHINES = {
    "NVIDIA H200-SXM5-141GB": "h200_sxm",
    "NVIDIA H100-SXM5-80GB": "h100_sxm",
    "NVIDIA H100 80GB HBM3": "h100_sxm",
    "NVIDIA H200-NVL-141GB": "h200_nvl",
    "NVIDIA Blackwell GPU (B200-SXM-180GB)": "b200_sxm",
    "NVIDIA Blackwell GPU (GB200)": "gb200",
    "AMD Instinct MI300X 192GB HBM3": "mi300x",
    "AMD Instinct MI325X 256GB HBM3e": "mi325x",
    "AMD Instinct MI325X 256GB HBM3E DLC": "mi325x",
    "NVIDIA A100 - PCIe - 80 GB": "a100_pcie",
    "NVIDIA GeForce RTX 4090": "rtx_4090",
    "NVIDIA RTX A5000": "a5000",
    "AMD Radeon RX 7900 XTX": "rx_7900_xtx",
    "TPU-trillium": "tpu_v6e",
    "TPU-v5p": "tpu_v5p",
}
#: Rows the host's time of a step was read off, and what GB200 holds under power.
FITTED = {("bert", "h100_sxm"), ("bert", "h200_sxm"), ("bert", "gb200"), ("llama31_405b", "gb200")}


def words(row: Mapping[str, Any]) -> Words | str:
    """What a row states, without the degrees that cut a replica."""
    benchmark, accelerator = str(row["benchmark"]), str(row["accelerator"])
    if benchmark not in BENCHMARKS:
        return NOT_ASKED.get(benchmark, f"no facts about benchmark {benchmark!r}")
    if accelerator not in MACHINES:
        return f"unknown machine {accelerator!r}"
    model, length, task = BENCHMARKS[benchmark]
    machine = MACHINES[accelerator]
    devices = whole(row["nodes"]) * whole(row["accel_per_node"])
    eight = any("fp8" in unit.peak for unit in parse_cluster(machine).machine.compute)
    tpu = machine.startswith("tpu")
    asked: dict[str, Any] = {
        "model": model,
        "on": f"{machine}:{devices}",
        "gbs": whole(row["gbs"]),
        "seq": length,
        "precision": "fp8" if eight and not tpu else "bf16",
        "framework": "maxtext" if tpu else "nemo",
    }
    if benchmark in SINGLE:
        replicas, left = divmod(whole(row["gbs"]), whole(row["grad_accum"]))
        asked |= {"task": task, "set": "adapted=attention"} if task else {}
        return "a batch that its accumulation does not divide" if left else {**asked, "dp": replicas, "mbs": 1}
    if benchmark != "bert":
        return asked
    each, left = divmod(whole(row["gbs"]), whole(row["grad_accum"]) * devices)
    return "a batch that devices do not share evenly" if left else {**asked, "tp": 1, "pp": 1, "mbs": each}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Samples per second."""
    for path in ask.files(folder, "v*_results.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    for benchmark, rows in frame.groupby("benchmark", sort=True):
        figures = np.full((3, len(rows)), np.nan)
        why = np.full(len(rows), "", dtype=object)
        for i, row in enumerate(rows.to_dict("records")):
            asked = words(row)
            found = asked if isinstance(asked, str) else answered(asked, answers)
            if isinstance(found, str) or not found.fits:
                why[i] = found if isinstance(found, str) else "no layout fits"
                continue
            time, low, high = step_time(found, {})
            tokens = BENCHMARKS[str(benchmark)][1] if benchmark == "gpt3" else 1
            figures[:, i] = [whole(row["gbs"]) * tokens / x for x in (time, high, low)]
        machines = [MACHINES.get(str(a), str(a)) for a in rows["accelerator"]]
        yield comparison(
            ask,
            path.stem,
            metric="tokens_per_s" if benchmark == "gpt3" else "samples_per_s",
            phase=str(benchmark),
            machine=[machine_name(m) for m in machines],
            split=["fit" if (benchmark, m) in FITTED else "left-out" for m in machines],
            family=rows["benchmark"].astype(str).tolist(),
            measured=rows["throughput_samples_s_median"],
            predicted=figures[0],
            low=figures[1],
            high=figures[2],
            why=why.astype(np.str_),
        )
