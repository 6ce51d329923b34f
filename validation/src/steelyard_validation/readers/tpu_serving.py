"""``tpu_published/tpu_vllm_serving.csv``: vLLM on TPUs as a closed loop of ``max_conc`` clients, mean latencies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._serve import Load, Service, played_all, shown
from steelyard_validation.readers._whole import Placed, Shown, deploy, predict_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The serving blocks of the recipes."""
    for path in ask.files(folder, "tpu_vllm_serving*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _place(model: str, tpu: str, chips: float) -> Placed | str:
    name = re.sub(r" *\(.*\)$", "", model).replace("Llama-3.x", "Llama-3.1")
    return deploy(name, re.sub(r" *\(.*\)$", "", tpu), tp=int(chips), engine="vllm")


def _answers(at: Placed, rows: pd.DataFrame) -> list[Shown]:
    names = ("max_conc", "successful", "isl_mean", "osl_mean")
    loads = [Load(*sizes) for sizes in rows[list(names)].astype(int).itertuples(index=False)]
    service = Service.of(at, loads)
    runs = played_all(loads, service.closed)
    clients, _, isl, osl = (rows[name].to_numpy(dtype=np.float64) for name in names)
    step, first = at.decode(clients, np.floor(isl + osl / 2)).limit, at.prefill(1.0, isl).limit
    limits = {"tpot_s": step, "ttft_s": first, "tokens_per_s": clients / step}
    return [shown(runs, name, limit) for name, limit in limits.items()]


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    asked = ["tpu", "model", "n_chips", "max_conc", "isl_mean", "osl_mean", "successful"]
    frame = read_frame(path, [*asked, "mean_tpot_ms", "mean_ttft_ms", "output_tput"])
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers = predict_all(frame, ["model", "tpu", "n_chips"], _place, _answers, 3)
    machine = [machine_name(re.sub(r" *\(.*\)$", "", str(t))) for t in frame["tpu"]]
    metrics = (("tpot_s", "mean_tpot_ms", 1e-3), ("ttft_s", "mean_ttft_ms", 1e-3), ("tokens_per_s", "output_tput", 1.0))
    for (metric, column, unit), found in zip(metrics, answers, strict=True):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine=machine,
            family=frame["model"],
            measured=frame[column].to_numpy(dtype=np.float64) * unit,
            **found.columns,
        )
