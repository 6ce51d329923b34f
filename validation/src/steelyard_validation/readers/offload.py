"""``cpu_offload_ktransformers``: experts of large models in host memory, one user, as KTransformers measured them.

Every row is asked of ``estimate`` with ``--offload`` and ``--host``. A share of experts on the cards is that share of
layers; the rows of Qwen3-Next state neither lengths nor clients and are asked as one user of ShareGPT's mean lengths.
The hosts are two sockets of eight channels of DDR5-4800 where a row does not say one. Not asked: answers with six of
eight experts, experts on the card chosen by how often they are used, and two sockets without a card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import steelyard
from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._whole import eight_bit

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read"]

COLUMNS = ["model", "quant", "machine", "machine_raw", "count", "engine", "isl", "osl", "scenario", "metric", "value"]
#: Means of ShareGPT's prompts and answers, tokens.
SHAREGPT = (220, 200)
ONE_SOCKET, TWO_SOCKETS = "ddr5-4800x8:512GB", "ddr5-4800x16:1024GB"
#: Placements that are a share of layers or of random experts.
EVEN = ("random", "uniform", "front-loading")
RATES = {"output_throughput": "serve", "prefill_throughput": "prefill", "decode_throughput": "decode"}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """The rates."""
    for path in ask.files(folder, "*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path, COLUMNS, ["notes"])
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    figures, why = np.full((4, len(frame)), np.nan), np.full(len(frame), "", dtype=object)
    for i, row in enumerate(frame.itertuples(index=False)):
        try:
            found = _asked(row)
            if isinstance(found, str):
                why[i] = found
            else:
                figures[:, i] = found
        except SteelyardError as error:
            why[i] = str(error)
    phases = frame["metric"].map(RATES).to_numpy()
    for phase in sorted(set(phases)):
        mine = phases == phase
        yield comparison(
            ask,
            path.stem,
            metric="tokens_per_s",
            phase=phase,
            machine=frame["machine"].fillna("rtx_4090").map(machine_name)[mine],
            family=frame["model"].str.rpartition("/")[2][mine],
            measured=frame["value"].to_numpy(dtype=np.float64)[mine],
            predicted=figures[0, mine],
            low=figures[1, mine],
            high=figures[2, mine],
            roofline=figures[3, mine],
            split=np.where(_fitted(frame), "fit", "left-out")[mine],
            why=why[mine].astype(np.str_),
        )


def _fitted(frame: pd.DataFrame) -> Any:
    """DeepSeek-V3 gave the rates of the host, the shortest prompts of Kimi-K2 that of repacking."""
    return frame["model"].str.contains("DeepSeek-V3") | frame["model"].str.contains("Kimi") & (frame["isl"] <= 2048)


def _asked(r: Any) -> Any:
    """``(value, low, high, limit)`` in tokens/s, or why there is none."""
    raw, scenario = str(r.machine_raw), str(r.scenario)
    said = dict(part.split("=", 1) for part in str(r.notes).split(";") if "=" in part)
    words: dict[str, Any] = {"engine": "ktransformers", "host": TWO_SOCKETS}
    isl, osl = (int(x) if np.isfinite(x) else None for x in (r.isl, r.osl))
    devices = int(r.count)
    card = "RTX 4090 48GB" if "48" in str(r.notes) else "rtx_4090"
    if "6 experts" in scenario:
        return "six of eight experts: another model"
    if "RTX" not in raw:
        return "a machine of two sockets is not in the catalogue"
    if "gpu_expert_ratio" in said:
        if said["placement"] not in EVEN:
            return "experts on the card are chosen by how often they are used"
        isl, osl = SHAREGPT
        away = round(48 * (1 - float(said["gpu_expert_ratio"])))
        words |= {"offload": f"experts:{away}"} if away else {}
        if not away:
            words.pop("host")
    elif "Kimi" in r.model:
        words["offload"] = "experts,streamed"
    else:
        words["offload"] = "experts"
        words["host"] = ONE_SOCKET if "single socket" in raw else TWO_SOCKETS
    weights = {"fp8": eight_bit(r.model), "Q4_K_M": "q4_k_m"}.get(r.quant, "")
    model = re.sub(r"-(Instruct-)?FP8$", "", str(r.model))
    answer = steelyard.estimate(
        model, f"{card}:{devices}", tp=devices, weights=weights, isl=isl or 969, osl=osl or 300, **words
    )
    name = {"serve": "e2e_s", "prefill": "ttft_s", "decode": "tpot_s"}[RATES[r.metric]]
    count = {"e2e_s": float(osl or 0), "ttft_s": float(isl or 0), "tpot_s": 1.0}[name]
    low, high = answer.interval[name]
    limit = answer.limit["ttft_s"] + (osl or 1) * answer.limit["tpot_s"] if name == "e2e_s" else answer.limit[name]
    return count / getattr(answer, name), count / high, count / low, count / limit
