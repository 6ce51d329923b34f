"""``mosaic_mpt_training``: GPTs of 125M to 70B under PyTorch FSDP (Composer), 512 to 65,536 tokens, up to 512 GPUs.

Shapes by the models' names; with the table of learned positions as long as the sequences they hold exactly the
parameters that the rows state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.readers._train import Words, compared, learned_positions, said, token_rate, whole

__all__ = ["SHAPES", "read", "words"]

#: Width, layers and heads of llm-foundry's published GPTs.
SHAPES: Mapping[str, tuple[int, int, int]] = {
    "125m": (768, 12, 12),
    "350m": (1024, 24, 16),
    "760m": (1536, 24, 12),
    "1b": (2048, 24, 16),
    "3b": (2560, 32, 20),
    "7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "30b": (7168, 48, 56),
    "70b": (8192, 80, 64),
}
#: Rows of their tables of words.
VOCABULARY = 50368
MACHINES = {"h100_80gb": "h100_sxm", "a100_80gb": "a100_sxm", "a100_40gb": "a100_sxm_40gb"}
#: FSDP's ways of cutting the states of training.
ZERO = {"FULL_SHARD": 3, "SHARD_GRAD_OP": 2}
PRECISION = {"amp_bf16": "bf16", "bf16": "bf16", "amp_fp8": "fp8"}


def words(row: Mapping[str, Any]) -> Words | str:
    """The question of a row."""
    name, length = str(row["model"]), whole(row["seq_len"])
    if name not in SHAPES:
        return f"no shapes of model {name!r}"
    if str(row["act_cpu_offload"]) == "True":
        return "activations are kept on the host"
    return said(
        model=learned_positions(f"mpt-{name}", *SHAPES[name], VOCABULARY, length),
        on=f"{MACHINES[str(row['gpu'])]}:{whole(row['n_gpus'])}",
        gbs=whole(row["global_batch"]),
        mbs=whole(row["micro_batch"]),
        seq=length,
        zero=ZERO[str(row["sharding"])],
        recompute="full" if str(row["act_ckpt"]) == "True" else "none",
        precision=PRECISION[str(row["precision"])],
        framework="composer",
    )


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Tokens per second and device."""
    for path in ask.files(folder, "mpt_training_throughput*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask))


def _table(path: Path, ask: Ask) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    answers: dict[str, Any] = {}
    for precision, rows in frame.groupby(frame["precision"].map(PRECISION), sort=True):
        yield compared(
            ask,
            path.stem,
            rows,
            [words(row) for row in rows.to_dict("records")],
            rows["tok_s_per_gpu"],
            metric="tokens_per_s_per_device",
            figure=token_rate,
            machine=rows["gpu"].map(MACHINES).tolist(),
            family=rows["model"].astype(str).tolist(),
            phase=f"train {precision}",
            answers=answers,
            split="fit",
        )
