"""``simumax_b200/steps.csv``: Megatron steps on eight B200, with peak allocated memory, of models cut in layers.

The columns with SimuMax's own predictions are a peer's, not truth, and are not read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.readers._train import Words, allocated_memory, compared, cut, said, step_time, whole

__all__ = ["read", "words"]

MODELS = {
    "llama3-70b": "meta-llama/Meta-Llama-3-70B",
    "llama3-405b": "meta-llama/Llama-3.1-405B",
    "deepseek-v2": "deepseek-ai/DeepSeek-V2",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
}


def words(row: Mapping[str, Any]) -> Words | str:
    """The question of a row: the batch is its micro-batches over all replicas."""
    name = str(row["model"])
    if name not in MODELS:
        return f"no shapes of model {name!r}"
    return said(
        model=cut(MODELS[name], whole(row["layers"])),
        on=f"{row['gpu']}:{whole(row['n_gpus'])}",
        gbs=whole(row["micro_batches"]) * whole(row["mbs"]) * whole(row["dp"]),
        mbs=whole(row["mbs"]),
        seq=whole(row["seq_len"]),
        tp=whole(row["tp"]),
        pp=whole(row["pp"]),
        cp=whole(row["cp"]),
        ep=whole(row["ep"]),
        recompute="none",
        precision=str(row["precision"]),
        framework="megatron",
    )


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Seconds of a step and bytes allocated at its peak."""
    for path in ask.files(folder, "steps.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    asked = [words(row) for row in frame.to_dict("records")]
    for metric, figure, measured, split in (
        ("time_s", step_time, frame["step_time_s"], "fit"),
        ("memory_bytes", allocated_memory, frame["alloc_gib"] * 2.0**30, "all"),
    ):
        yield compared(
            ask,
            path.stem,
            frame,
            asked,
            measured,
            metric=metric,
            figure=figure,
            machine=frame["gpu"].astype(str).tolist(),
            family=frame["model"].astype(str).tolist(),
            phase="train",
            answers=answers,
            split=split,
        )
