"""``ml_energy_v3/diffusion_energy_latency.csv`` and ``diffusion_serving``: pictures and videos by diffusion pipelines.

Rows are answered by the public verb: model, batch, size, steps and frames are stated. Several GPUs share the tokens of
an item (``cp``); factors were fitted to one, exchanges to several, and the power of a busy device to all: errors with
pipelines left out are those of ``fits.pipelines`` and the methods of networks. Energy is that of the devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate, answer_net, estimates_of
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, read_frame
from steelyard.scenario.network import read_net_scenario
from steelyard.scenario.words import Problems
from steelyard.workload.pipelines import is_pipeline

__all__ = ["COLUMNS", "ml_energy", "serving", "words_of"]

#: What rows of other engines run as: compiled kernels where they say so.
_COMPILED = re.compile(r"sglang|compile|OneFlow|Stable Fast|TensorRT", re.IGNORECASE)


def ml_energy(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Latency of a batch and energy of an item on H100."""
    for path in ask.files(folder, "diffusion_energy_latency*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_energy_table, path, ask))


def serving(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Seconds for a picture on several engines."""
    for path in ask.files(folder, "image_video*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_serving_table, path, ask))


def words_of(row: Any) -> dict[str, Any] | str:
    """The question of a row of ML.ENERGY's table, or why there is none."""
    if not is_pipeline(str(row.model)):
        return "no such pipeline in the catalogue"
    video = np.isfinite(row.num_frames)
    height, width = (row.video_height, row.video_width) if video else (row.image_height, row.image_width)
    devices = int(row.num_gpus)
    words: dict[str, Any] = {"model": str(row.model), "on": f"h100_sxm:{devices}", "batch": int(row.batch_size)}
    words |= {"cp": devices, "ring": int(row.par_ring_degree)}
    words |= {"steps": int(row.inference_steps), "size": f"{int(height)}x{int(width)}", "runtime": "eager"}
    return words | ({"set": f"frames={int(row.num_frames)}"} if video else {})


def _answered(words: dict[str, Any] | str) -> NetEstimate | str:
    if isinstance(words, str):
        return words
    try:
        return answer_net(read_net_scenario(words, Problems()))
    except InputError as error:
        return str(error)[:80]


def _together(asked: Sequence[dict[str, Any] | str]) -> list[NetEstimate | str]:
    """Answers of questions, those that differ in their batch alone at once."""
    found: list[NetEstimate | str] = [q if isinstance(q, str) else "" for q in asked]
    groups: dict[str, list[int]] = {}
    for i, q in enumerate(asked):
        if not isinstance(q, str):
            groups.setdefault(str({**q, "batch": 0}), []).append(i)
    for members in groups.values():
        words = asked[members[0]]
        assert isinstance(words, dict)
        batches = np.array([int(asked[i]["batch"]) for i in members])  # type: ignore[index]
        try:
            made: Sequence[NetEstimate | str] = list(
                estimates_of(read_net_scenario({**words, "batch": 1}, Problems()).with_batches(batches))
            )
        except InputError as error:
            made = [str(error)[:80]] * len(members)
        for i, one in zip(members, made, strict=True):
            found[i] = one
    return found


def _columns(found: Sequence[NetEstimate | str], figure: str) -> dict[str, Any]:
    """A figure of the answers with its interval, and why there is none."""
    rows = [(np.nan,) * 3 if isinstance(f, str) else (getattr(f, figure), *f.interval[figure]) for f in found]
    predicted, low, high = np.array(rows).reshape(-1, 3).T
    why = [f if isinstance(f, str) else "" for f in found]
    return {"predicted": predicted, "low": low, "high": high, "why": why}


_SIZES = ["image_height", "image_width", "video_height", "video_width", "num_frames"]
_ENERGIES = ["energy_per_image_joules", "energy_per_video_joules"]
#: What a row of ML.ENERGY's table states.
COLUMNS = [
    "model",
    "num_gpus",
    "par_ring_degree",
    "batch_size",
    "inference_steps",
    "batch_latency_s",
    *_SIZES,
    *_ENERGIES,
]


def _energy_table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS)
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    found = _together([words_of(row) for row in frame.itertuples()])
    joules = np.where(np.isfinite(frame[_ENERGIES[0]]), frame[_ENERGIES[0]], frame[_ENERGIES[1]])
    for metric, ours, measured in (
        ("time_s", "latency_s", frame["batch_latency_s"].to_numpy(dtype=np.float64)),
        ("energy_j", "energy_j_per_item", joules.astype(np.float64)),
    ):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="diffusion",
            machine="h100_sxm",
            family=[
                f"{str(m).rpartition('/')[2]}, {int(n)} GPU"
                for m, n in zip(frame["model"], frame["num_gpus"], strict=True)
            ],
            measured=measured,
            split="fit",
            **_columns(found, ours),
        )


_NAMES = {"SD1.5 (End-to-end) Benchmarks": "sd-1.5", "SDXL (End-to-end) Benchmarks": "sdxl"}
#: Degrees that commands of engines state.
_DEGREES = {
    "tp": re.compile(r"(?:--tp-size|--tensor-parallel-size|--tp_size)[ =](\d+)"),
    "cp": re.compile(r"--ulysses-degree[ =](\d+)"),
}


def _serving_words(row: Any) -> dict[str, Any] | str:
    """The question of a row of one item at a time, or why there is none."""
    model, notes, devices = _NAMES.get(str(row.model), str(row.model)), str(row.notes), int(row.count)
    if not is_pipeline(model):
        return "no such pipeline in the catalogue"
    if row.stat == "mean under load":
        return "two users wait for each other, and how many requests they sent is not stated"
    if "offload" in notes.partition("profile=")[2].partition(";")[0]:
        return "weights in host memory are not priced for pipelines"
    steps = re.search(r"steps=(\d+)", notes) or re.search(r"(\d+) steps", str(row.scenario))
    size = re.search(r"w=(\d+);h=(\d+)", notes)
    words: dict[str, Any] = {"model": model, "batch": 1}
    words |= {"runtime": "compile" if _COMPILED.search(f"{row.engine} {notes}") else "eager"}
    words |= {"steps": int(steps[1])} if steps else {}
    words |= {"size": f"{size[2]}x{size[1]}"} if size else {}
    if "--enable-cfg-parallel " in notes.replace("--enable-cfg-parallel false", ""):
        # each device runs one of the two passes of guidance, and they exchange a latent picture a step
        return words | {"on": str(row.machine), "techniques": "guidance:0"}
    if "true_cfg=None" in notes and model.startswith("Qwen"):
        words |= {"techniques": "guidance:0"}
    words |= {"on": f"{row.machine}:{devices}"}
    words |= {
        name: int(found[1]) for name, how in _DEGREES.items() if (found := how.search(notes)) and int(found[1]) > 1
    }
    if devices > 1 and not ("tp" in words or "cp" in words):
        return "how its devices share an item is not stated"
    return words


def _serving_table(path: Path, ask: Ask) -> Iterator[Comparison]:
    names = ["model", "machine", "count", "engine", "scenario", "metric", "stat", "value", "notes"]
    every = read_frame(path, names)
    for metric, ours, theirs in (
        ("time_s", "latency_s", "e2e_latency"),
        ("requests_per_s", "throughput_per_s", "request_throughput"),
    ):
        frame = every[every["metric"] == theirs]
        if frame.empty:
            continue
        frame = frame.iloc[ask.pick(len(frame), path.stem)]
        found = [_answered(_serving_words(row)) for row in frame.itertuples()]
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="diffusion",
            machine=frame["machine"].astype(str),
            family=[str(m).rpartition("/")[2] for m in frame["model"]],
            measured=frame["value"].to_numpy(dtype=np.float64),
            **_columns(found, ours),
        )
