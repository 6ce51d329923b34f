"""``hw/apex_vllm_sglang_8xh100.csv``: runs of vLLM and SGLang on eight H100 that state too little to be asked.

A row has the files of its run and of its trace, its totals and its mean times. It does not state how large the model
named ``llama`` or ``mistral`` is, in which format, which release of the engine ran, or the rate of the requests (the
trace's name has ``025`` or ``05`` and no unit). Of SGLang's rows a time per token is below 1 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, read_frame

__all__ = ["read"]

UNSTATED = "neither the size of the model, the release of the engine nor the rate of the requests is stated"
NO_UNIT = "times per token below 1 ms: their unit is not stated"


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Every run with requests, none answered."""
    for path in ask.files(folder, "apex_vllm_sglang_8xh100.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, ["file", "ttft_s", "tpot_s", "nreq"])
    frame = frame[frame["nreq"] > 0]
    frame = frame.iloc[ask.pick(len(frame), path.stem)]
    runs = frame["file"].astype(str)
    for metric in ("ttft_s", "tpot_s"):
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase="serve",
            machine="h100_sxm",
            family=runs.str.partition("/")[0],
            measured=frame[metric].to_numpy(dtype=np.float64),
            why=np.where(runs.str.startswith("sglang"), NO_UNIT, UNSTATED),
        )
