"""``ml_energy_v3/diffusion_energy_latency.csv`` and ``diffusion_serving``: pictures and videos by diffusion pipelines.

Rows are answered by the public verb: model, batch, size, steps and frames are stated. Several GPUs share the tokens of
an item (``cp``); the factors were fitted to one. Energy is that of the devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.estimation.network import NetEstimate, answer_net
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
    found = [_answered(words_of(row)) for row in frame.itertuples()]
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
            split=np.where((frame["num_gpus"] == 1) & (metric == "time_s"), "fit", "left-out"),
            **_columns(found, ours),
        )


_NAMES = {"SD1.5 (End-to-end) Benchmarks": "sd-1.5", "SDXL (End-to-end) Benchmarks": "sdxl"}


def _serving_words(row: Any) -> dict[str, Any] | str:
    model = _NAMES.get(str(row.model), str(row.model))
    if not is_pipeline(model):
        return "no such pipeline in the catalogue"
    if row.metric != "e2e_latency" or int(row.count) > 1 or row.stat == "mean under load":
        return "one item over several devices, or a queue, is not priced"
    steps = re.search(r"steps=(\d+)", str(row.notes)) or re.search(r"(\d+) steps", str(row.scenario))
    words: dict[str, Any] = {"model": model, "on": str(row.machine), "batch": 1}
    words |= {"runtime": "compile" if _COMPILED.search(f"{row.engine} {row.notes}") else "eager"}
    return words | ({"steps": int(steps[1])} if steps else {})


def _serving_table(path: Path, ask: Ask) -> Iterator[Comparison]:
    names = ["model", "machine", "count", "engine", "scenario", "metric", "stat", "value", "notes"]
    frame = read_frame(path, names)
    frame = frame[frame["metric"] == "e2e_latency"]
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    found = [_answered(_serving_words(row)) for row in frame.itertuples()]
    yield comparison(
        ask,
        path.stem,
        metric="time_s",
        phase="diffusion",
        machine=frame["machine"].astype(str),
        family=[str(m).rpartition("/")[2] for m in frame["model"]],
        measured=frame["value"].to_numpy(dtype=np.float64),
        **_columns(found, "latency_s"),
    )
