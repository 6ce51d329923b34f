"""Images: requests served with some (``small_mixed``, ``sglang_cookbook``), and towers alone (``timm_benchmarks``).

A served row is a closed loop that is played through ``simulate`` with the lengths, clients and images that it states:
of the first table one image of a mixture of four sizes, of the second two images of 720 x 1280 beside some 75 tokens of
text (its prompts count both). Rows that do not state the size of their images are not predicted.

The plain vision transformers of timm are the towers of multimodal models (SigLIP So400m is Gemma 3's, CLIP L/14 is
LLaVA's) without projector. They are priced as a tower is, kernel by kernel without a captured graph; compiled rows are
a family apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import steelyard as sy
from steelyard.cost.encode import Encoder
from steelyard.deployment.engine import find_engine
from steelyard.deployment.plan import Plan
from steelyard.errors import SteelyardError
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import cluster_of
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard.workload.reading import Seen, Shown
from steelyard.workload.tower import Read, Tower
from steelyard.workload.transformer import Attention, FeedForward, Layer, Transformer
from steelyard_validation.readers import _whole

if TYPE_CHECKING:
    import pandas as pd

    from steelyard.simulation.result import Simulation

__all__ = ["cookbook", "mixed", "towers"]

#: The mixture of the first table, in its notes: a fifth, three tenths, a fifth and three tenths of the requests.
MIXTURE = "0.2x512x512,0.3x720x1280,0.2x1024x1024,0.3x1080x1920"
#: Requests played of each row at most.
REQUESTS = 400
#: Our figure for each of theirs: metric, part of the summary, statistic, and what one of its unit is.
FIGURES = {
    ("ttft", "mean"): ("ttft_s", "ttft_s", "mean", 1e-3),
    ("ttft", "p50"): ("ttft_median_s", "ttft_s", "p50", 1e-3),
    ("tpot", "mean"): ("tpot_s", "tpot_s", "mean", 1e-3),
    ("output_throughput", "mean"): ("tokens_per_s", "throughput", "output_tokens_per_s", 1.0),
}
#: What states a load.
KEYS = ["model", "machine", "count", "isl", "osl", "concurrency", "scenario"]
COLUMNS = [*KEYS, "metric", "stat", "value"]

Question = Callable[[Mapping[str, Any]], dict[str, Any] | str]


def mixed(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """One image beside text, on one card."""
    yield from _read(folder, ask, "spark_4090_vlm.csv", r"1 images|multimodal", _one)


def cookbook(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Two images and hardly any text, on a node."""
    yield from _read(folder, ask, "serving_low_mid_high.csv", r"loop image", _two)


def _read(folder: Path, ask: Ask, file: str, scenario: str, question: Question) -> Iterator[Comparison]:
    if ask.wants("images"):
        for path in ask.files(folder, file):
            yield from guarded(ask, path, partial(_served, path, ask, scenario, question))


def _one(row: Mapping[str, Any]) -> dict[str, Any] | str:
    if "multimodal" in row["scenario"]:
        return "the size of the images is not stated"
    lengths = {name: f"uniform:0.7-1.3x{row[name]:.0f}" for name in ("isl", "osl")}
    return {"engine": "vllm", "requests": 100, "images": MIXTURE, **lengths}


def _two(row: Mapping[str, Any]) -> dict[str, Any] | str:
    text = max(1, round(row["isl"] - 2 * 880))
    lengths = {"isl": str(text), "osl": f"uniform:1-{2 * row['osl']:.0f}"}
    return {"engine": "sglang", "requests": min(REQUESTS, 10 * int(row["concurrency"])), "images": "2x720p", **lengths}


def _served(path: Path, ask: Ask, scenario: str, question: Question) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS)
    known = np.array([pair in FIGURES for pair in zip(frame["metric"], frame["stat"], strict=True)])
    asked = frame["scenario"].astype(str).str.contains(scenario).to_numpy()
    frame = frame[asked & known].reset_index(drop=True)
    frame = frame.iloc[ask.pick(len(frame), "images")].reset_index(drop=True)
    played = {key: _played(dict(zip(KEYS, key, strict=True)), question) for key in {*_keys(frame)}}
    for (metric, stat), rows in frame.groupby(["metric", "stat"], sort=False):
        name, part, statistic, unit = FIGURES[metric, stat]
        found = [played[key] for key in _keys(rows)]
        figures = np.array([_figure(run, part, statistic) for run in found])
        yield comparison(
            ask,
            "images",
            metric=name,
            phase="serve",
            machine=[machine_name(m) for m in rows["machine"].astype(str)],
            family=rows["model"].str.rpartition("/")[2],
            measured=rows["value"].to_numpy(dtype=np.float64) * unit,
            predicted=figures[:, 0],
            low=figures[:, 1],
            high=figures[:, 2],
            why=[run if isinstance(run, str) else "" for run in found],
        )


def _keys(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The load of every row; what is not stated is None, which is equal to itself."""
    return [tuple(None if x != x else x for x in row) for row in frame[KEYS].itertuples(index=False)]


def _played(row: Mapping[str, Any], question: Question) -> Simulation | str:
    words = question(row)
    if isinstance(words, str):
        return words
    weights = _whole.eight_bit(row["model"]) if row["model"].endswith("-FP8") else ""
    try:
        return sy.simulate(
            row["model"].removesuffix("-FP8"),
            f"{machine_name(str(row['machine']))}:{int(row['count'] or 1)}",
            weights=weights,
            concurrency=int(row["concurrency"]),
            **words,
        )
    except SteelyardError as error:
        return str(error)


def _figure(run: Simulation | str, part: str, statistic: str) -> tuple[float, float, float]:
    """A figure of a run and its interval."""
    if isinstance(run, str):
        return np.nan, np.nan, np.nan
    low, high = run.intervals()[part].get(statistic, (np.nan, np.nan))
    return float(run.summary()[part][statistic]), low, high


#: Width, layers, heads and inner width of the vision transformers that timm names by size.
SIZES = {
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_PLAIN = re.compile(r"vit_(\w+?)_patch(\d+)((?:_clip|_quickgelu|_siglip|_gap|_dinov2)*)(?:_\d+)?")
NOT_PLAIN = "not a plain vision transformer"


def towers(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Passes over batches of images through plain vision transformers."""
    for path in ask.files(folder, "infer_rtx*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_passes, path, ask))


@cache
def _seen(model: str, edge: int) -> Seen | None:
    """An image of so many pixels before a vision transformer; None where timm's is no plain one."""
    found = _PLAIN.fullmatch(model)
    if found is None or found[1] not in SIZES:
        return None
    hidden, depth, heads, inner = SIZES[found[1]]
    patch, more = int(found[2]), found[3]
    positions = (edge // patch) ** 2 + ("siglip" not in more and "gap" not in more)
    attention = Attention(heads, heads, hidden // heads, causal=False, q_bias=True, kv_bias=True, out_bias=True)
    mlp = FeedForward(inner, gated=False, activation="gelu", up_bias=True, down_bias=True)
    encoder = Transformer(model, "vit", hidden, 1, (Layer(depth, attention, mlp, norm_bias=True),), head=False)
    tower = Tower(model, "vision", 1, encoder, stem=((3 * patch**2, hidden),), format="fp16")
    return Seen(Shown(1, (edge, edge)), tower, Read(((1, positions),), 1))


def _passes(path: Path, ask: Ask) -> Iterator[Comparison]:
    names = ["hardware", "precision", "compile", "model", "samples_per_s", "batch_size", "img_size"]
    frame = read_frame(path, names).dropna(subset=names)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    seen = [_seen(m, int(edge)) for m, edge in zip(frame["model"].astype(str), frame["img_size"], strict=True)]
    plain = np.array([s is not None for s in seen]) & (frame["precision"] == "amp").to_numpy()
    figures = np.full((len(frame), 3), np.nan)
    machines = [machine_name(m.lower().replace("-", "_")) for m in frame["hardware"].astype(str)]
    for i in np.flatnonzero(plain):
        one = seen[i]
        assert one is not None
        batch = np.array([float(frame["batch_size"][i])])
        cluster = cluster_of(find_machine(machines[i]))
        step = Encoder((one,), Plan(), cluster, find_engine("torch")).figures(0, batch)
        figures[i] = [x[0] for x in _whole.Shown.time(step.time_s, step.spread, step.limit_s)[:3]]
    yield comparison(
        ask,
        path.stem,
        metric="time_s",
        phase="tower",
        machine=machines,
        family=np.where(plain, "vision transformer, " + frame["compile"].astype(str), "other networks"),
        measured=frame["batch_size"].to_numpy(dtype=np.float64) / frame["samples_per_s"].to_numpy(dtype=np.float64),
        predicted=figures[:, 0],
        low=figures[:, 1],
        high=figures[:, 2],
        why=np.where(plain, "", NOT_PLAIN),
    )
