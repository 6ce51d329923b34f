"""``mlperf_training``: samples per second of closed submissions, v4.1 and v5.0; language models.

A row states devices, batch and how often gradients were summed, which leaves the product of the degrees that cut a
replica; which of them is not said, so that the fastest that fits is taken, as a planner would. Precision is not said
either: FP8 on devices that have it (guess). Nothing is fitted to these rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import SteelyardError
from steelyard.machine.cluster import parse_cluster
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._train import Words, answered, said, step_time, whole

__all__ = ["candidates", "read", "words"]

#: Benchmarks by model: catalogue name, tokens of a sample, task.
BENCHMARKS: Mapping[str, tuple[str, int, str]] = {
    "llama31_405b": ("llama-3.1-405b", 8192, ""),
    "llama2_70b_lora": ("llama-2-70b", 8192, "lora"),
    "gpt3": ("gpt-3-175b", 2048, ""),
    "bert": ("bert-large-uncased", 256, ""),
}
#: BERT is trained on sequences of at most 512 tokens without their padding; half of it is (guess).
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
#: Degrees tried, sequences of a micro-batch, and what is computed again.
TENSOR, CONTEXT, SEQUENCES = (1, 2, 4, 8), (1, 2, 4), (1, 2, 4)
AGAIN = ("none", "full")
#: Chunks of layers a stage that are tried, and most stages.
CHUNKS, STAGES = (1, 4, 8), 32


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
    return said(
        model=model,
        on=f"{machine}:{devices}",
        gbs=whole(row["gbs"]),
        seq=length,
        precision="fp8" if eight and not tpu else "bf16",
        task=task,
        framework="maxtext" if tpu else "nemo",
    )


def candidates(devices: int, batch: int, sums: int) -> list[dict[str, Any]]:
    """Layouts whose replicas sum the gradients of so many micro-batches, least cut and computed again first."""
    at_once, left = divmod(batch, sums)
    found: list[dict[str, Any]] = []
    for mbs, tp, cp in product(SEQUENCES, TENSOR, CONTEXT):
        replicas = at_once // mbs
        if left or at_once % mbs or not replicas or devices % (replicas * tp * cp):
            continue
        pp = devices // (replicas * tp * cp)
        if pp <= STAGES:
            chunks = CHUNKS if pp > 1 else (1,)
            degrees = {"tp": tp, "pp": pp, "cp": cp, "mbs": mbs}
            found += [{**degrees, "vp": vp, "recompute": again} for vp in chunks for again in AGAIN]
    return found


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Samples per second."""
    for path in ask.files(folder, "v*_results.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _best(row: Mapping[str, Any], answers: dict[str, Any]) -> Any:
    """The answer of the fastest layout that fits, or why there is none."""
    asked = words(row)
    if isinstance(asked, str):
        return asked
    devices = whole(row["nodes"]) * whole(row["accel_per_node"])
    batch, sums = whole(row["gbs"]), whole(row["grad_accum"])
    if row["benchmark"] == "bert":
        each, left = divmod(batch, sums * devices)
        return "a batch that devices do not share evenly" if left else answered({**asked, "mbs": each}, answers)
    tried = candidates(devices, batch, sums)
    found: Any = "no layout that is tried fits" if tried else "gradients summed so often leave no layout that is tried"
    for degrees in tried:
        one = answered({**asked, **said(**degrees)}, answers)
        if isinstance(one, str):
            continue
        if one.fits and (isinstance(found, str) or one.step_s < found.step_s):
            found = one
    return found


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    for benchmark, rows in frame.groupby("benchmark", sort=True):
        figures = np.full((3, len(rows)), np.nan)
        why = np.full(len(rows), "", dtype=object)
        for i, row in enumerate(rows.to_dict("records")):
            try:
                found = _best(row, answers)
            except SteelyardError as error:
                found = str(error)
            if isinstance(found, str):
                why[i] = found
                continue
            time, low, high = step_time(found, {})
            tokens = BENCHMARKS[str(benchmark)][1] if benchmark == "gpt3" else 1
            figures[:, i] = [whole(row["gbs"]) * tokens / x for x in (time, high, low)]
        yield comparison(
            ask,
            path.stem,
            metric="tokens_per_s" if benchmark == "gpt3" else "samples_per_s",
            phase=str(benchmark),
            machine=[machine_name(MACHINES.get(str(a), str(a))) for a in rows["accelerator"]],
            family=rows["benchmark"].astype(str).tolist(),
            measured=rows["throughput_samples_s_median"],
            predicted=figures[0],
            low=figures[1],
            high=figures[2],
            why=why.astype(np.str_),
        )
