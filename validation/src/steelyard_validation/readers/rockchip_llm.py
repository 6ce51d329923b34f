"""``rockchip_npu/rknn_llm_benchmark.csv``: language models on Rockchip NPUs (rkllm), batch 1.

Weights, head included, are 8 bit (activations 8 bit) or 4 bit (activations 16 bit); the cache is 16 bit. A prompt of
128 tokens is one step; generation starts behind it.
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

__all__ = ["decode_rate", "first_token", "place", "questions", "read"]

MODELS = {
    "Qwen2 0.5B": "qwen2-0.5b",
    "Qwen2.5 1.5B": "qwen2.5-1.5b",
    "TinyLLAMA 1.1B": "tinyllama",
    "InternLM2 1.8B": "internlm2-1.8b",
    "Gemma2 2B": "gemma-2-2b",
    "Phi3 3.8B": "phi-3-mini",
    "ChatGLM3 6B": "THUDM/chatglm3-6b",
    "Qwen3 0.6B": "qwen3-0.6b",
    "Qwen3 1.7B": "qwen3-1.7b",
    "Qwen3 4B": "qwen3-4b",
    "Qwen3.5 4B": "qwen3.5-4b",
    "Qwen3-VL 2B": "qwen3-1.7b",
}
"""Qwen3-VL 2B: its language part is Qwen3 1.7B; the prompt has no picture."""
#: Stored formats: (weights, activations, head) by the table's dtype; ``w4a16`` has one scale per column.
FORMATS = {
    "w8a8": ("int8", "int8", "int8"),
    "w4a16": ("int4", "fp16", "int4"),
    "w4a16_g128": ("int4", "fp16", "int4"),
    "w8a8_g128": ("int8", "int8", "int8"),
}


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Time to first token and decode rate."""
    for path in ask.files(folder, "rknn_llm*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def questions(path: Path) -> pd.DataFrame:
    """The rows with their machine; missing lengths are the tool's defaults."""
    frame = read_frame(path, ["soc", "model", "size", "dtype", "ttft_ms", "decode_tok_s"], ["prompt_len", "new_tokens"])
    frame["machine"] = [machine_name(str(s)) for s in frame["soc"]]
    frame["model"] = frame["model"].astype(str) + " " + frame["size"].astype(str)
    return frame.assign(prompt_len=frame["prompt_len"].fillna(128), new_tokens=frame["new_tokens"].fillna(64))


def place(model: str, machine: str, dtype: str) -> Placed | str:
    """The deployment of a row on the NPU."""
    formats = FORMATS.get(dtype)
    if formats is None:
        return f"unknown precision {dtype!r}"
    weights, activations, head = formats
    found = deploy(
        MODELS.get(model, model), machine, weights=weights, activations=activations, kv="fp16", engine="rkllm"
    )
    return found if isinstance(found, str) else replace(found, head_format=head)


def decode_rate(at: Placed, rows: pd.DataFrame) -> Shown:
    """Tokens per second at the mean context."""
    return at.decode(1.0, (rows["prompt_len"] + rows["new_tokens"] / 2).to_numpy(dtype=np.float64)).rate(1.0)


def first_token(at: Placed, rows: pd.DataFrame) -> Shown:
    """Seconds of the prompt."""
    return at.prefill(1.0, rows["prompt_len"].to_numpy(dtype=np.float64))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    from steelyard_validation.fits.family import split_of

    frame = questions(path)
    split = split_of(frame["machine"], frame["model"])
    chosen = ask.pick(len(frame), path.stem)
    frame, split = frame.iloc[chosen].reset_index(drop=True), split[chosen]
    for metric, phase, column, unit, question in (
        ("tokens_per_s", "decode", "decode_tok_s", 1.0, decode_rate),
        ("ttft_s", "prefill", "ttft_ms", 1e-3, first_token),
    ):
        found = predict(frame, ["model", "machine", "dtype"], place, question)
        yield comparison(
            ask,
            path.stem,
            metric=metric,
            phase=phase,
            machine=frame["machine"],
            family=frame["model"] + " " + frame["dtype"],
            measured=frame[column].to_numpy(dtype=np.float64) * unit,
            predicted=found.predicted,
            low=found.low,
            high=found.high,
            roofline=found.roofline,
            split=split,
            why=found.why,
        )
