"""Servers of vLLM that owners of cards measured: one and four requests a second, closed loops, bursts.

``workstation_vllm_lowload`` (0.12, drawn gaps, mean lengths of ShareGPT), ``rtx_consumer_vllm`` (0.12, aiperf's
clients) and ``dstack_h100_mi300x`` (0.6, ShareGPT at near-burst rates). Lengths, clients, rates,
formats and flags are the row's; everything else is the default of that release.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard.traffic.build import Traffic
from steelyard_validation.readers._runs import Place, Row, compared
from steelyard_validation.readers._whole import chosen, eight_bit
from steelyard_validation.readers.kv_capacity import FORMATS, OF, OLDER

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

COLUMNS = ["model", "quant", "machine", "count", "engine", "scenario", "metric", "stat", "value", "notes"]
STATED = ["engine_version", "tp", "isl", "osl", "concurrency", "request_rate", "suspect"]
TIMES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2e": "e2e_s"}
#: aiperf's inter-token latency is a mean of each request's answer, (end to end - first token) / (answer - 1).
AIPERF = {**TIMES, "itl": "tpot_s"}
RATES = {"output_throughput": "tokens_per_s", "request_throughput": "requests_per_s"}
LENGTHS = "the row does not state its lengths"
BATCHES = "a static batch or a queue of whole prompts"
ADAPTERS = "adapters: ranks are not stated"
CACHED = "prompts of the run share their beginnings: the time to first token is that of a cache hit"
#: Hits of the prefix cache, %, from which a time to first token is that of another prompt.
HITS = 5.0
FLAGS = ("max_model_len", "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs")


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Every table of the folder that states runs."""
    for pattern, rows in _TABLES.get(folder.name, ()):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, partial(_table, path, ask, rows))


def _table(path: Path, ask: Ask, asked: Callable[[Any, Mapping[str, str]], tuple[Place, Traffic | str]]) -> Any:
    frame = read_frame(path, COLUMNS, STATED)
    yield from compared(list(_rows(frame[frame["suspect"].isna()], asked)), path, ask)


def _rows(frame: pd.DataFrame, asked: Callable[[Any, Mapping[str, str]], tuple[Place, Traffic | str]]) -> Iterator[Row]:
    for r in frame.itertuples(index=False):
        times = AIPERF if asked is _consumer else TIMES
        metric = times.get(r.metric) or RATES.get(r.metric)
        if metric is None:
            continue  # rates of inputs and outputs together, whole runs
        said = dict(re.findall(r"(\w+)=([^;\s]*)", str(r.notes)))
        place, load = asked(r, said)
        value = float(r.value) * (1e-3 if metric in TIMES.values() else 1.0)
        why = load if isinstance(load, str) else ""
        yield Row(place, None if isinstance(load, str) else load, metric, r.stat, value, why)


def _place(r: Any, said: Mapping[str, str]) -> Place:
    weights = FORMATS.get(str(r.quant).lower(), str(r.quant).lower())
    weights = eight_bit(r.model) if weights == "fp8" and "dynamic" not in r.model else weights
    version = str(r.engine_version)
    named = re.search(r"0\.\d+", version)
    flags = {"gpu_memory_utilization": 0.9}
    flags |= {n: float(said[n]) for n in FLAGS if said.get(n, "").replace(".", "").isdigit()}
    cut = {"TRUE": True, "FALSE": False}.get(said.get("chunked_prefill", ""))
    flags |= {} if cut is None else {"enable_chunked_prefill": cut}
    return Place(
        OF.get(r.model, r.model.removesuffix("-FP8")),
        r.machine,
        f"vllm@{named.group() if named else '0.12'}",
        weights,
        "fp8" if "fp8" in said.get("kv_cache_dtype", "") else "",
        tp=int(r.tp) if np.isfinite(r.tp) else int(r.count),
        flags=tuple(flags.items()),
    )


def _known(*values: float) -> bool:
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all()) and min(values) > 0


def _workstation(r: Any, said: Mapping[str, str]) -> tuple[Place, Traffic | str]:
    """Rows of builds with an older attention are a deployment apart: they print another cache and take longer."""
    place = _place(r, said)
    if "offline" in r.scenario or not _known(r.isl, r.osl, r.request_rate):
        return place, LENGTHS
    if said.get("attention", "") in OLDER:
        place = replace(place, note="older attention")
    load = Traffic(rate=float(r.request_rate), requests=int(said["num_prompts"]))
    return place, replace(load, isl=f"lognormal:{r.isl:.0f}", osl=f"lognormal:{r.osl:.0f}")


def _consumer(r: Any, said: Mapping[str, str]) -> tuple[Place, Traffic | str]:
    """aiperf: all clients at once, each with its next request after an answer."""
    place = _place(r, said)
    if "LoRA" in r.scenario:
        return place, ADAPTERS
    if "prefix_hit_pct_end" not in said:
        return place, "the row does not state its flags"
    if float(said["prefix_hit_pct_end"]) > HITS:
        return place, CACHED
    dp = int(float(said.get("dp", "1") or 1))
    if dp > 1 or place.tp != r.count:
        return place, "the row does not state how its devices are divided"
    place = replace(place, flags=(*place.flags, ("sampling", chosen(place.model))))
    osl = float(said.get("osl_mean", r.osl))
    lengths: dict[str, Any] = {"isl": round(float(said.get("isl_mean", r.isl))), "osl": round(osl)}
    return place, Traffic(concurrency=int(r.concurrency), requests=int(said["request_count"]), **lengths)


def _dstack(r: Any, said: Mapping[str, str]) -> tuple[Place, Traffic | str]:
    engine = "vllm@0.6" if r.engine.lower() == "vllm" else r.engine
    place = replace(_place(r, said), engine=engine)
    if not _known(r.isl, r.osl, r.request_rate) or "ShareGPT" not in r.scenario:
        return place, BATCHES
    if place.tp != r.count:
        return place, "two replicas: the row does not state how requests are divided"
    return place, Traffic(
        rate=float(r.request_rate), requests=1000, isl=f"lognormal:{r.isl:.0f}", osl=f"lognormal:{r.osl:.0f}"
    )


_TABLES: Mapping[str, tuple[tuple[str, Callable[[Any, Mapping[str, str]], tuple[Place, Traffic | str]]], ...]] = {
    "workstation_vllm_lowload": (("online*.csv", _workstation),),
    "rtx_consumer_vllm": (("aiperf*.csv", _consumer),),
    "dstack_h100_mi300x": (("*.csv", _dstack),),
}
