"""``trtllm_perf_overview``: TensorRT-LLM's published tables.

``static_batch_*``: a fixed batch of equal prompts, output tokens/s per GPU, and the first-token latency of one request.
``throughput_*``: everything queued at the start, played through the simulator. ``online_serving_*``: Poisson arrivals,
mean time to first token and between tokens, played through the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.op_models import ONE_SWITCH
from steelyard.deployment.engine import find_engine
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard.scenario.recipes import find_recipe
from steelyard.traffic.trace import Trace
from steelyard_validation.readers._serve import Load, Service, offline, played_all, shown
from steelyard_validation.readers._whole import (
    Placed,
    Shown,
    deploy,
    predict,
    predict_all,
    static_batch,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["model_name", "read"]

#: The tables' names of models that the catalogue calls otherwise.
MODELS = {
    "GPT-J 6B": "EleutherAI/gpt-j-6b",
    "Mistral 7B": "mistralai/Mistral-7B-v0.3",  # engines keep the whole context unless told a window
    "LLaMA 7B": "Llama-2-7b",
    "LLaMA 70B": "Llama-2-70b",
    "Falcon 180B": "tiiuae/falcon-180B",
    "Mixtral 8x7B": "mistralai/Mixtral-8x7B-v0.1",
    "Mixtral 8x22B": "mixtral-8x22b",
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Every table of TensorRT-LLM's performance pages."""
    for pattern, table in (("static_batch*.csv", _static), ("throughput*.csv", _offline), ("online*.csv", _online)):
        for path in ask.files(folder, pattern):
            if ask.wants(path.stem):
                yield from guarded(ask, path, partial(table, path, ask))


def _placed(model: str, gpu: str, **stated: Any) -> Placed | str:
    """The deployment of a row. NVIDIA's servers of PCIe cards have switches: peers do not share a host's links."""
    found = deploy(model_name(model), gpu, **stated)
    if isinstance(found, str) or found.cluster.peer is None or found.cluster.peer.kind != "pcie":
        return found
    peer = replace(found.cluster.peer, name=found.cluster.peer.name + ONE_SWITCH)
    return replace(found, cluster=replace(found.cluster, peer=peer))


def model_name(name: str) -> str:
    """The catalogue's name of a model as the tables write it (``LLaMA v3.1 8B``, ``Qwen3 30B A3B``)."""
    text = MODELS.get(name, name)
    text = text.replace("LLaMA v", "Llama-").replace("Llama v", "Llama-")
    return text if "/" in text else text.replace(" ", "-")


def _static(path: Path, ask: Ask) -> Iterator[Comparison]:
    columns = ["version", "kind", "model", "gpu", "precision", "batch_size", "tp", "isl", "osl"]
    frame = read_frame(path, [*columns, "out_tok_s_per_gpu", "first_token_latency_ms"])
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    keys = ["model", "gpu", "tp", "precision"]
    peak = frame[frame["kind"] == "peak_throughput"].reset_index(drop=True)
    first = frame[frame["kind"] == "first_token_latency"].reset_index(drop=True)

    def place(model: str, gpu: str, tp: float, precision: str) -> Placed | str:
        # the fp8 engines of those releases kept an fp8 cache too
        kv = "fp8" if precision == "fp8" else ""
        return _placed(model, gpu, tp=int(tp), weights=precision, kv=kv, engine="trtllm_static")

    for part, metric, phase, column, unit, question in (
        (peak, "tokens_per_s_per_device", "serve", "out_tok_s_per_gpu", 1.0, _static_rate),
        (first, "ttft_s", "prefill", "first_token_latency_ms", 1e-3, _first_token),
    ):
        if len(part):
            found = predict(part, keys, place, question)
            yield comparison(
                ask,
                path.stem,
                metric=metric,
                phase=phase,
                machine=part["gpu"].map(machine_name),
                family=part["model"] + " " + part["precision"],
                measured=part[column].to_numpy() * unit,
                **found.columns,
            )


def _static_rate(at: Placed, rows: pd.DataFrame) -> Shown:
    batch, osl = (rows[name].to_numpy(dtype=np.float64) for name in ("batch_size", "osl"))
    return static_batch(at, batch, rows["isl"], osl).e2e.rate(batch * osl / at.plan.devices)


def _first_token(at: Placed, rows: pd.DataFrame) -> Shown:
    return static_batch(at, rows["batch_size"], rows["isl"], 1.0).ttft


def _precision(text: Any) -> tuple[str, str]:
    """(weights, KV cache) of a precision as written."""
    name = str(text).lower()
    return {"fp4": ("nvfp4", "fp8"), "nvfp4": ("nvfp4", "fp8"), "fp8": ("fp8", "fp8")}.get(name, (name, ""))


def _offline(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(
        path,
        ["model", "gpu", "tp", "pp", "precision", "isl", "osl", "throughput_tok_s"],
        ["kv_dtype", "num_requests", "ep", "backend"],
    )
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)

    def place(model: str, gpu: str, tp: float, pp: float, precision: str, kv: Any, backend: Any) -> Placed | str:
        weights, cache = _precision(precision)
        stated = str(kv).lower()
        cache = stated if stated in ("fp8", "fp16", "bf16") else cache
        engine = find_engine("trtllm")
        if "pytorch" not in str(backend).lower() and isinstance(backend, str):
            engine = replace(engine, launch_s=COMPILED_LAUNCH_S)
        return _placed(model, gpu, tp=_degree(tp), pp=_degree(pp), weights=weights, kv=cache, engine=engine)

    found = predict(frame, ["model", "gpu", "tp", "pp", "precision", "kv_dtype", "backend"], place, _queue_rate)
    why = np.where((found.why == "") & np.isnan(found.predicted), "the model does not fit these devices", found.why)
    yield comparison(
        ask,
        path.stem,
        metric="tokens_per_s",
        phase="serve",
        machine=frame["gpu"].map(machine_name),
        family=frame["model"].astype(str) + " " + frame["precision"].astype(str),
        measured=frame["throughput_tok_s"],
        predicted=found.predicted,
        low=found.low,
        high=found.high,
        roofline=found.roofline,
        why=why,
    )


def _degree(value: float) -> int:
    return 1 if not np.isfinite(value) else int(value)


def _queue_rate(at: Placed, rows: pd.DataFrame) -> Shown:
    """Output tokens/s of all requests queued at the start, played to the last token."""
    return offline(at, [_queued(row) for row in rows.to_dict("records")])


def _queued(row: Mapping[Any, Any]) -> Load:
    stated, isl, osl = float(row["num_requests"]), int(row["isl"]), int(row["osl"])
    words, flags = find_recipe("trtllm-overview/offline").said({"isl": isl, "osl": osl})
    requests = int(words["requests"]) if not np.isfinite(stated) else int(stated)
    return Load(requests, requests, isl, osl, flags=tuple(flags.items()))


#: Host time per kernel of a compiled engine, which a C++ runtime launches, s (CUDA's launch rate).
COMPILED_LAUNCH_S = 5e-6


def _online(path: Path, ask: Ask) -> Iterator[Comparison]:
    columns = ["model", "gpu", "tp", "precision", "isl_mean", "osl_mean", "request_rate_qps"]
    frame = read_frame(path, columns, ["mean_ttft_ms", "mean_itl_ms", "output_tput_tok_s"])
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)

    def place(model: str, gpu: str, tp: float, precision: str) -> Placed | str:
        weights, cache = _precision(precision)
        return _placed(model, gpu, tp=_degree(tp), weights=weights, kv=cache, engine="trtllm@0.14")

    found = predict_all(frame, ["model", "gpu", "tp", "precision"], place, _arrivals, 3)
    for (metric, column, unit), answer in zip(
        (("ttft_s", "mean_ttft_ms", 1e-3), ("tpot_s", "mean_itl_ms", 1e-3), ("tokens_per_s", "output_tput_tok_s", 1.0)),
        found,
        strict=True,
    ):
        why = np.where((answer.why == "") & np.isnan(answer.predicted), "lengths or rate not stated", answer.why)
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine=frame["gpu"].map(machine_name),
            family=frame["model"],
            measured=frame[column].to_numpy(dtype=np.float64) * unit,
            predicted=answer.predicted,
            low=answer.low,
            high=answer.high,
            roofline=answer.roofline,
            why=why,
        )


def _arrivals(at: Placed, rows: pd.DataFrame) -> list[Shown]:
    """``(first token, between tokens, output tokens/s)``: Poisson arrivals of conversations, played."""
    known = [k for k, row in enumerate(rows.to_dict("records")) if _known(row)]
    table = np.full((3, 4, len(rows)), np.nan)
    if known:
        traces = [_trace(row) for row in rows.iloc[known].to_dict("records")]
        longest = max(traces, key=lambda t: int((t.isl + t.osl).max()))
        service = Service.for_traces(at, [longest], {})
        runs = played_all(traces, lambda trace: service.play(trace, {}))
        isl, osl = (np.asarray([getattr(t, n).mean() for t in traces]) for n in ("isl", "osl"))
        running = np.maximum(1.0, np.floor(np.nan_to_num([run[0].running for run in runs], nan=1.0)))
        limits = at.prefill(1.0, np.floor(isl)).limit, at.decode(running, np.floor(isl + osl / 2)).limit, np.nan
        for i, (name, limit) in enumerate(zip(("ttft_s", "tpot_s", "tokens_per_s"), limits, strict=True)):
            table[i][:, known] = Shown(*np.broadcast_arrays(*shown(runs, name, limit)))
    return [Shown(*figures) for figures in table]


def _known(row: Mapping[Any, Any]) -> bool:
    return all(row[name] > 0 for name in ("isl_mean", "osl_mean", "request_rate_qps"))


def _trace(row: Mapping[Any, Any]) -> Trace:
    """Conversations: lengths lognormal around their means, arrivals Poisson (all at once at an infinite rate)."""
    rng = np.random.default_rng(SEED)
    rate = float(row["request_rate_qps"])
    gaps = rng.exponential(1.0, REQUESTS)
    arrived = np.cumsum(gaps) / rate if np.isfinite(rate) else np.zeros(REQUESTS)

    def lengths(mean: float) -> Any:
        drawn = rng.lognormal(-(LENGTH_SPREAD**2) / 2, LENGTH_SPREAD, REQUESTS)
        drawn = np.clip(drawn, 0.0, LONGEST)
        return np.maximum(1, np.round(mean * drawn / drawn.mean())).astype(np.int64)

    return Trace(
        arrived_at=arrived - arrived[0],
        isl=lengths(row["isl_mean"]),
        osl=lengths(row["osl_mean"]),
        name="online",
        origin={"rate": rate},
    )


#: Requests of a run, and the seed of their arrivals and lengths.
REQUESTS, SEED = 1000, 20
#: Log-space spread of ShareGPT-like lengths, and the longest over the mean (conversations are cut at 1024 tokens).
LENGTH_SPREAD, LONGEST = 1.0, 5.0
