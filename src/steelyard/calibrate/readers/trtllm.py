"""``trtllm_perf_overview``: TensorRT-LLM's published tables.

``static_batch_*``: a fixed batch of equal prompts, output tokens/s per GPU, and the first-token latency of one request.
``throughput_*``: everything queued at the start (:func:`unbounded_queue`). ``online_serving_*``: Poisson arrivals,
mean time to first token and between tokens (:func:`open_loop`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.calibrate.readers._base import Ask, Comparison, Floats, comparison, guarded, machine_name, read_frame
from steelyard.calibrate.readers._whole import (
    Asked,
    Deployment,
    Size,
    deploy,
    open_loop,
    predict,
    static_batch,
    unbounded_queue,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["model_name", "read"]

#: The tables' names of models that the catalogue calls otherwise.
MODELS = {
    "GPT-J 6B": "EleutherAI/gpt-j-6b",
    "Mistral 7B": "mistralai/Mistral-7B-v0.1",
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

    def place(model: str, gpu: str, tp: float, precision: str) -> Deployment | str:
        # the fp8 engines of those releases kept an fp8 cache too
        kv = "fp8" if precision == "fp8" else ""
        return deploy(model_name(model), gpu, tp=int(tp), weights=precision, kv=kv, engine="trtllm_static")

    for part, metric, phase, column, unit, question in (
        (peak, "tokens_per_s_per_device", "serve", "out_tok_s_per_gpu", 1.0, _static_rate),
        (first, "ttft_s", "prefill", "first_token_latency_ms", 1e-3, _first_token),
    ):
        if len(part):
            found = predict(part, keys, place, question)
            yield comparison(
                ask, path.stem, metric=metric, phase=phase, machine=part["gpu"].map(machine_name),
                family=part["model"] + " " + part["precision"], measured=part[column].to_numpy() * unit,
                predicted=found.predicted, low=found.low, high=found.high, roofline=found.roofline, why=found.why,
            )  # fmt: skip


def _sizes(rows: pd.DataFrame, *names: str) -> list[Floats]:
    return [rows[name].to_numpy(dtype=np.float64) for name in names]


def _static_rate(at: Deployment, rows: pd.DataFrame) -> Asked:
    batch, isl, osl = _sizes(rows, "batch_size", "isl", "osl")
    _, _, whole = static_batch(at, batch, isl, osl)
    tokens = batch * osl / at.plan.devices
    return tokens / whole.time_s, tokens / whole.limit_s, whole.spread


def _first_token(at: Deployment, rows: pd.DataFrame) -> Asked:
    batch, isl = _sizes(rows, "batch_size", "isl")
    prefill, _, _ = static_batch(at, batch, isl, 1.0)
    return prefill.time_s, prefill.limit_s, prefill.spread


def _precision(text: Any) -> tuple[str, str]:
    """(weights, KV cache) of a precision as written."""
    name = str(text).lower()
    return {"fp4": ("nvfp4", "fp8"), "nvfp4": ("nvfp4", "fp8"), "fp8": ("fp8", "fp8")}.get(name, (name, ""))


def _offline(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(
        path,
        ["model", "gpu", "tp", "pp", "precision", "isl", "osl", "throughput_tok_s"],
        ["kv_dtype", "num_requests", "ep"],
    )
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)

    def place(model: str, gpu: str, tp: float, pp: float, precision: str, kv: Any) -> Deployment | str:
        weights, cache = _precision(precision)
        stated = str(kv).lower()
        cache = stated if stated in ("fp8", "fp16", "bf16") else cache
        return deploy(
            model_name(model), gpu, tp=_degree(tp), pp=_degree(pp), weights=weights, kv=cache, engine="trtllm"
        )

    found = predict(frame, ["model", "gpu", "tp", "pp", "precision", "kv_dtype"], place, _queue_rate)
    why = np.where((found.why == "") & np.isnan(found.predicted), "the model does not fit these devices", found.why)
    yield comparison(
        ask, path.stem, metric="tokens_per_s", phase="serve", machine=frame["gpu"].map(machine_name),
        family=frame["model"].astype(str) + " " + frame["precision"].astype(str), measured=frame["throughput_tok_s"],
        predicted=found.predicted, low=found.low, high=found.high, roofline=found.roofline, why=why,
    )  # fmt: skip


def _degree(value: float) -> int:
    return 1 if not np.isfinite(value) else int(value)


def _queue_rate(at: Deployment, rows: pd.DataFrame) -> Asked:
    isl, osl = _sizes(rows, "isl", "osl")
    return unbounded_queue(at, isl, osl)


def _online(path: Path, ask: Ask) -> Iterator[Comparison]:
    columns = ["model", "gpu", "tp", "precision", "isl_mean", "osl_mean", "request_rate_qps"]
    frame = read_frame(path, columns, ["mean_ttft_ms", "mean_itl_ms", "output_tput_tok_s"])
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)

    def place(model: str, gpu: str, tp: float, precision: str) -> Deployment | str:
        weights, cache = _precision(precision)
        return deploy(model_name(model), gpu, tp=_degree(tp), weights=weights, kv=cache, engine="trtllm")

    for metric, column, unit, index in (
        ("ttft_s", "mean_ttft_ms", 1e-3, 0),
        ("tpot_s", "mean_itl_ms", 1e-3, 1),
        ("tokens_per_s", "output_tput_tok_s", 1.0, 2),
    ):

        def question(at: Deployment, rows: pd.DataFrame, index: int = index) -> Asked:
            rate, isl, osl = _sizes(rows, "request_rate_qps", "isl_mean", "osl_mean")
            answers: list[Size] = list(open_loop(at, rate, isl, osl))
            spread = np.full(len(rows), ONLINE_SPREAD)
            return np.asarray(answers[index], dtype=np.float64), np.full(len(rows), np.nan), spread

        found = predict(frame, ["model", "gpu", "tp", "precision"], place, question)
        yield comparison(
            ask, path.stem, metric=metric, phase="serve", machine=frame["gpu"].map(machine_name), family=frame["model"],
            measured=frame[column].to_numpy(dtype=np.float64) * unit, predicted=found.predicted, low=found.low,
            high=found.high, why=found.why,
        )  # fmt: skip


#: Log-space spread of a steady-state formula against an open loop of random arrivals (guess).
ONLINE_SPREAD = 0.4
