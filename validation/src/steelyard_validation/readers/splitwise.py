"""``splitwise_perf_model``: static batches of Llama-2-70B and BLOOM-176B under the vLLM of 2023.

``prompt_time_ms`` is the prefill of the whole batch, ``token_time_ms`` the mean decode step. That engine launched every
kernel from Python, so a step took the longer of device and host; and hosts differ. Rows of the power-capped H100
repeat the decode times of the uncapped one and 1.3 times its prefill times: the latter are no measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steelyard.deployment.engine import find_engine
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._whole import Placed, Shown, deploy, predict, static_batch

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

#: By the time of each sequence of a batch, 0.3 ms on H100: 0.1 turned all of an answer to text at every step.
ENGINE = "vllm@0.1"
#: Time of the same Python work on the host of a node over that on a DGX H100's (Xeon 8480C): EPYC 7002 of a DGX A100
#: has some two thirds of its single-thread speed (PassMark single-thread ratings, about 2.0k and 3.0k).
HOST_SLOWNESS = {"a100_sxm": 1.5}
#: The one condition (at batch 1) that set the engine's time of a launch; its rows are labelled ``fit``.
FITTED = ("llama2-70b", "h100_sxm", 8)

COLUMNS = ["model", "hardware", "isl", "batch_size", "osl", "tensor_parallel", "prompt_time_ms", "token_time_ms"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The static batches of the Splitwise performance model."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def place(model: str, machine: str, tp: int) -> Placed | str:
    """The deployment of a row."""
    slow = HOST_SLOWNESS.get(machine, 1.0)
    engine = find_engine(ENGINE)
    engine = replace(engine, **{name: getattr(engine, name) * slow for name in ("step_s", "request_s", "launch_s")})
    name = {"bloom-176b": "bigscience/bloom", "llama2-70b": "Llama-2-70b"}.get(model, model)
    return deploy(name, machine, tp=int(tp), weights="fp16", engine=engine)


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    capped = frame["hardware"].str.endswith("-pcap").to_numpy()
    frame["machine"] = [machine_name(h.removesuffix("-pcap").replace("-", "_")) for h in frame["hardware"].astype(str)]
    frame["machine"] = frame["machine"].replace({"a100_80gb": "a100_sxm", "h100_80gb": "h100_sxm"})
    fitted = (
        (frame["model"] == FITTED[0]) & (frame["machine"] == FITTED[1]) & (frame["tensor_parallel"] == FITTED[2])
    ) & (frame["batch_size"] == 1)
    keys = ["model", "machine", "tensor_parallel"]
    for metric, phase, column, question in (
        ("time_s", "prefill", "prompt_time_ms", _prefill),
        ("tpot_s", "decode", "token_time_ms", _decode),
    ):
        found = predict(frame, keys, place, question)
        hidden = capped & (phase == "prefill")
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase=phase,
            machine=frame["machine"],
            family=frame["model"],
            measured=frame[column].to_numpy() * 1e-3,
            predicted=np.where(hidden, np.nan, found.predicted),
            low=found.low,
            high=found.high,
            roofline=found.roofline,
            split=np.where(fitted, "fit", "left-out"),
            why=np.where(hidden, "scaled from the uncapped rows by 1.3, not measured", found.why),
        )


def _prefill(at: Placed, rows: pd.DataFrame) -> Shown:
    return static_batch(at, *(rows[name] for name in ("batch_size", "isl", "osl"))).ttft


def _decode(at: Placed, rows: pd.DataFrame) -> Shown:
    return static_batch(at, *(rows[name] for name in ("batch_size", "isl", "osl"))).tpot
