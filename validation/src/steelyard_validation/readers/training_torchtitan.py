"""``torchtitan_training``: Llama 3.1 under torchtitan, FSDP to four dimensions, with peak reserved memory.

Under a pipeline torchtitan cuts the local batch into as many micro-batches as there are stages. The kernel of FP8 with
a scale per row, slower than 16 bit in these rows, is its own and not scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.readers._train import Words, compared, reserved_memory, said, token_rate, whole

__all__ = ["read", "words"]

#: torchtitan's configuration of Llama 3 where a table does not say the length.
LENGTH = 8192
MACHINES = {"H100-96GB-HBM2e-2.4TBs-500W": "h100_sxm_96gb", "H200-SXM-141GB": "h200_sxm"}


def words(row: Mapping[str, Any]) -> Words | str:
    """The question of a row."""
    technique, pp, local = str(row["technique"]), whole(row["pp"]), whole(row["local_batch"])
    if "rowwise" in technique:
        return "suspect: FP8 with a scale per row ran slower than 16 bit, a kernel of its own"
    if local % pp:
        return f"a local batch of {local} does not cut into {pp} micro-batches"
    again = str(row["act_ckpt"])
    # by op, torchtitan's selective way: every second product and what is elementwise is computed again
    recompute = "full" if again == "full" else "half"
    plain = "" if "2025" in str(row.get("src")) else "@2024"
    way = "-async-tp" if "AsyncTP" in technique else plain if "compile" in technique else "-eager"
    schedule = "interleaved" if "Interleaved" in technique else "1f1b" if pp > 1 else ""
    return said(
        model=str(row["model"]),
        on=f"{MACHINES[str(row['gpu'])]}:{whole(row['n_gpus'])}",
        gbs=local * whole(row["dp_fsdp"]),
        mbs=max(1, local // pp),
        seq=whole(row["seq_len"], LENGTH),
        tp=whole(row["tp"]),
        pp=pp,
        vp=2 if schedule == "interleaved" else 1,
        cp=whole(row["cp"]),
        zero=3,
        schedule=schedule,
        recompute=recompute,
        precision="fp8" if re.search(r"\bfp8\b", technique) else "bf16",
        framework=f"torchtitan{way}",
    )


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Tokens per second and device, and peak reserved memory."""
    for path in ask.files(folder, "llama3_1_pretrain*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    kept = frame[frame["mem_gib"].notna()]
    for rows, metric, figure, column, unit in (
        (frame, "tokens_per_s_per_device", token_rate, "tps_per_gpu", 1.0),
        (kept, "memory_bytes", reserved_memory, "mem_gib", 2.0**30),
    ):
        for cut, part in rows.groupby((rows["tp"] * rows["pp"] > 1).map({True: "TP, PP", False: "FSDP"}), sort=True):
            yield compared(
                ask,
                path.stem,
                part,
                [words(row) for row in part.to_dict("records")],
                part[column] * unit,
                metric=metric,
                figure=figure,
                machine=part["gpu"].map(MACHINES).tolist(),
                family=part["model"].astype(str).tolist(),
                phase=f"train {cut}",
                answers=answers,
                split="fit",
            )
