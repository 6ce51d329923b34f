"""``qualcomm_aihub/llm_on_snapdragon.csv``: language models on the Hexagon NPU, tokens/s and times to first token.

Weights are 4 bit, the head too; activations 16 bit, the cache 8 bit. The graphs are compiled for fixed shapes: every
step attends over the whole context length, and a prompt runs in chunks of 128 tokens, each at that cost. The shortest
time to first token is one chunk, the longest a full context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steelyard.measurements.reader import Ask, Comparison, comparison, guarded, machine_name, read_frame
from steelyard_validation.readers._whole import Placed, Shown, deploy, predict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["decode_rate", "first_chunk", "place", "questions", "read"]

MODELS = {
    "baichuan2_7b": "baichuan2-7b",
    "falcon_v3_7b_instruct": "falcon3-7b",
    "ibm_granite_v3_1_8b_instruct": "granite-3.1-8b",
    "llama_v2_7b_chat": "llama-2-7b",
    "llama_v3_1_8b_instruct": "llama-3.1-8b",
    "llama_v3_1_sea_lion_3_5_8b_r": "llama-3.1-8b",
    "llama_v3_2_1b_instruct": "llama-3.2-1b",
    "llama_v3_2_3b_instruct": "llama-3.2-3b",
    "llama_v3_8b_instruct": "llama-3.1-8b",
    "llama_v3_elyza_jp_8b": "llama-3.1-8b",
    "llama_v3_taide_8b_chat": "llama-3.1-8b",
    "mistral_7b_instruct_v0_3": "mistral-7b-v0.3",
    "phi_3_5_mini_instruct": "phi-3.5-mini",
    "qwen2_5_1_5b_instruct": "qwen2.5-1.5b",
    "qwen2_5_7b_instruct": "qwen2.5-7b",
    "qwen2_7b_instruct": "qwen2-7b",
}
#: Tokens of a prompt chunk of Qualcomm's exported graphs.
CHUNK = 128
#: Stored formats: (weights, head, cache) by the table's precision.
FORMATS = {
    "w4a16": ("int4_g32", "int4_g32", "int8"),
    "w4": ("int4_g32", "int8", "fp16"),
    "w8a16": ("int8_weight_only", "int8", "int8"),
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Decode rate, and the time to first token of one chunk and of a full context."""
    for path in ask.files(folder, "llm_on_snapdragon*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def questions(path: Path) -> pd.DataFrame:
    """The rows with their machine."""
    frame = read_frame(
        path, ["model", "precision", "device", "context_length", "ttft_min_ms", "ttft_max_ms", "decode_tok_s"]
    )
    frame["machine"] = [machine_name(str(d)) for d in frame["device"]]
    return frame


def place(model: str, machine: str, precision: str) -> Placed | str:
    """The deployment of a row on the NPU."""
    formats = FORMATS.get(precision)
    if formats is None:
        return f"unknown precision {precision!r}"
    weights, head, kv = formats
    found = deploy(MODELS.get(model, model), machine, weights=weights, activations="fp16", kv=kv, engine="qnn")
    return found if isinstance(found, str) else replace(found, head_format=head)


def decode_rate(at: Placed, rows: pd.DataFrame) -> Shown:
    """Tokens per second, attending over the compiled context."""
    return at.decode(1.0, rows["context_length"].to_numpy(dtype=np.float64)).rate(1.0)


def first_chunk(at: Placed, rows: pd.DataFrame) -> Shown:
    """Seconds of one prompt chunk over the compiled context."""
    return at.prefill(1.0, float(CHUNK), rows["context_length"].to_numpy(dtype=np.float64))


def _full(at: Placed, rows: pd.DataFrame) -> Shown:
    return first_chunk(at, rows).times(np.ceil(rows["context_length"].to_numpy(dtype=np.float64) / CHUNK))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    from steelyard_validation.fits.family import split_of

    frame = questions(path)
    split = split_of(frame["machine"], frame["model"])
    chosen = ask.pick(len(frame), path.stem)
    frame, split = frame.iloc[chosen].reset_index(drop=True), split[chosen]
    for metric, phase, column, unit, question in (
        ("tokens_per_s", "decode", "decode_tok_s", 1.0, decode_rate),
        ("ttft_s", "prefill", "ttft_min_ms", 1e-3, first_chunk),
        ("ttft_full_s", "prefill", "ttft_max_ms", 1e-3, _full),
    ):
        found = predict(frame, ["model", "machine", "precision"], place, question)
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase=phase,
            machine=frame["machine"],
            family=frame["model"] + " " + frame["precision"],
            measured=frame[column].to_numpy(dtype=np.float64) * unit,
            predicted=found.predicted,
            low=found.low,
            high=found.high,
            roofline=found.roofline,
            split=split,
            why=found.why,
        )
