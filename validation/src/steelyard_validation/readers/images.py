"""Served requests with images: ``small_mixed/spark_4090_vlm.csv``, and the image rows of ``sglang_cookbook``.

Each row is a closed loop that is played through ``simulate`` with the lengths, clients and images that it states: of
the first table none or one image of a mixture of four sizes, of the second two images of 720 x 1280 beside some 75
tokens of text (its prompts count both). Rows that do not state the size of their images are not predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import steelyard as sy
from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard.simulation.result import Simulation

__all__ = ["cookbook", "read"]

#: The mixture of the first table, in its notes: a fifth, three tenths, a fifth and three tenths of the requests.
MIXTURE = "0.2x512x512,0.3x720x1280,0.2x1024x1024,0.3x1080x1920"
#: Requests played of each row; as many as were sent, at most so many.
REQUESTS = 100
#: Our figure and statistic for each of theirs, and the seconds of its unit.
FIGURES = {
    ("ttft", "mean"): ("ttft_s", 1e-3),
    ("ttft", "p50"): ("ttft_p50_s", 1e-3),
    ("tpot", "mean"): ("tpot_s", 1e-3),
    ("output_throughput", "mean"): ("tokens_per_s", 1.0),
}
#: What states a load.
KEYS = ["model", "machine", "count", "isl", "osl", "concurrency", "scenario"]
COLUMNS = [*KEYS, "metric", "stat", "value"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Requests with none and with one image."""
    for path in ask.files(folder, "spark_4090_vlm.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask, path.stem, _mixed))


def cookbook(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The rows of SGLang's cookbook with images."""
    for path in ask.files(folder, "serving_low_mid_high.csv"):
        if ask.wants("images"):
            yield from guarded(ask, path, partial(_table, path, ask, "images", _pairs))


def _mixed(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """The question of a row of the first table, or why it has none."""
    if "images per request" not in row["scenario"]:
        return "text of unknown length, or images of unknown size"
    images = MIXTURE if ", 1 images" in row["scenario"] else ""
    lengths = {name: f"uniform:{0.7 * row[name]:.0f}-{1.3 * row[name]:.0f}" for name in ("isl", "osl")}
    return {"engine": "vllm", "requests": REQUESTS, "images": images, **lengths}


def _pairs(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """The question of a row of the second table."""
    text = round(row["isl"] - 2 * 880)
    lengths = {"isl": str(max(1, text)), "osl": f"uniform:1-{2 * row['osl']:.0f}"}
    requests = max(10, min(400, 10 * int(row["concurrency"])))
    return {"engine": "sglang", "requests": requests, "images": "2x720x1280", **lengths}


def _table(path: Path, ask: Ask, table: str, question: Any) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS)
    scenario = frame["scenario"].astype(str)
    if table == "images":
        frame = frame[scenario.str.contains("image")]
    else:
        frame = frame[frame["metric"].isin([m for m, _ in FIGURES]) | ~scenario.str.contains("images per request")]
    frame = frame.reset_index(drop=True)
    frame = frame.iloc[ask.pick(len(frame), table)].reset_index(drop=True)
    played: dict[tuple[Any, ...], Any] = {}
    found = []
    for row in frame.to_dict("records"):
        key = tuple(str(row[k]) for k in KEYS)
        if key not in played:
            played[key] = _played(row, question(row))
        found.append(_figure(played[key], row["metric"], row["stat"]))
    for name in dict.fromkeys(n for n, _, _ in (f[:3] for f in found) if n):
        at = [i for i, f in enumerate(found) if f[0] == name]
        rows = frame.iloc[at]
        shown = rows["scenario"].str.contains("1 images|closed loop image")
        yield comparison(
            ask,
            table,
            metric=name,
            phase="serve",
            machine=[machine_name(m) for m in rows["machine"].astype(str)],
            family=rows["model"].str.rpartition("/")[2] + np.where(shown, ", images", ""),
            measured=rows["value"].to_numpy(dtype=np.float64) * np.array([found[i][1] for i in at]),
            predicted=np.array([found[i][2][0] for i in at]),
            low=np.array([found[i][2][1] for i in at]),
            high=np.array([found[i][2][2] for i in at]),
            why=[found[i][3] for i in at],
        )


def _played(row: Mapping[str, Any], words: dict[str, Any] | str) -> Simulation | str:
    if isinstance(words, str):
        return words
    count = int(row["count"]) if np.isfinite(row["count"]) else 1
    try:
        return sy.simulate(
            row["model"], f"{machine_name(str(row['machine']))}:{count}", concurrency=int(row["concurrency"]), **words
        )
    except SteelyardError as error:
        return str(error)


_NONE = (np.nan, np.nan, np.nan)


def _figure(played: Simulation | str, metric: str, stat: str) -> tuple[str, float, tuple[float, float, float], str]:
    """Our metric, the factor of the measured value, the prediction with its interval, and why there is none."""
    name, factor = FIGURES.get((metric, stat), (f"{metric}_{stat}", 1.0))
    if isinstance(played, str):
        return name, factor, _NONE, played
    if (metric, stat) not in FIGURES:
        return name, factor, _NONE, "not compared"
    document, between = played.summary(), played.intervals()
    if name == "tokens_per_s":
        figure, at, statistic = document["throughput"], between["throughput"], "output_tokens_per_s"
    else:
        key = "ttft_s" if metric == "ttft" else "tpot_s"
        figure, at, statistic = document[key], between[key], stat
    low, high = at.get(statistic, (np.nan, np.nan))
    return name, factor, (float(figure[statistic]), float(low), float(high)), ""
