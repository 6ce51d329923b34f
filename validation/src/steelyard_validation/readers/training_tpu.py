"""``tpu_published``: MaxText's trainings on TPUs, by recipe and over growing slices.

Recipes name their models and tokens per step; the length of a sequence is that of the model's usual recipe (guess).
The table over slices names models by size alone: their shapes and batches are guesses (:data:`SHAPES`), which matters
little to operations per second; attention alone is taken as computed again, whole layers where the states of training
fill much of a chip. Parameters are cut inside a slice, over its own links, and gradients summed between slices, over
the cards of their hosts. Names of TPU v5p count cores, two a chip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.machine.cluster import Cluster, parse_cluster
from steelyard.measurements.reader import Ask, Comparison, guarded, read_frame
from steelyard_validation.readers._train import Words, compared, learned_positions, said, step_time, whole

__all__ = ["SHAPES", "chips", "read", "recipe_words", "scaling_words"]

#: Width and layers of a plain decoder of so many parameters (guess: 12 width^2 a layer, heads of 256).
SHAPES: Mapping[str, tuple[int, int]] = {
    "16B": (6144, 36),
    "22B": (6144, 48),
    "32B": (8192, 40),
    "52B": (8192, 64),
    "64B": (8192, 80),
    "128B": (16384, 40),
    "256B": (16384, 80),
    "512B": (24576, 71),
    "1024B": (32768, 80),
    "1160B": (32768, 90),
}
HEAD, VOCABULARY, LENGTH = 256, 32000, 2048
#: Sequences of a chip in a step of the table over slices (guess).
SEQUENCES = 6
#: Bytes of a chip's memory, and the share that states of training fill where whole layers are computed again (guess).
HBM = {"tpu_v4": 32e9, "tpu_v5e": 16e9, "tpu_v5p": 95e9, "tpu_v6e": 32e9}
CROWDED = 0.4
#: Recipes by model: catalogue name, tokens of a sequence.
RECIPES: Mapping[str, tuple[str, int]] = {
    "GPT3-175B": ("gpt-3-175b", 2048),
    "Gemma3-12B": ("gemma-3-12b", 8192),
    "Llama2-70B": ("llama-2-70b", 4096),
    "Llama3.1-405B": ("llama-3.1-405b", 8192),
    "Llama3.1-70B": ("llama-3.1-70b", 8192),
    "Llama3.1-8B": ("llama-3.1-8b", 8192),
    "Mistral-7B": ("mistral-7b-v0.1", 8192),
    "Mixtral-8x22B": ("mixtral-8x22b", 4096),
    "Mixtral-8x7B": ("mixtral-8x7b", 4096),
    "DeepSeek3-671B": ("deepseek-v3", 4096),
    "Llama4-Maverick-17B-128E": ("llama-4-maverick", 8192),
    "Llama4-Scout-17B-16E": ("llama-4-scout", 8192),
}
MACHINES = {"v4": "tpu_v4", "v5e": "tpu_v5e", "v5p": "tpu_v5p", "v6e": "tpu_v6e"}


def chips(topology: str) -> tuple[str, int]:
    """Machine and chips of ``2x v5p-128`` or ``4x-v6e-256``: v4 and v5p count cores, two a chip."""
    found = re.match(r"(?:(\d+)x[ -])?(v\w+)-(\d+)$", topology.strip())
    if found is None or found[2] not in MACHINES:
        return "", 0
    cores = 2 if found[2] in ("v4", "v5p") else 1
    return MACHINES[found[2]], int(found[1] or 1) * int(found[3]) // cores


def slices(topology: str) -> int:
    """Slices of a topology, inside which parameters are cut and between which they are copied."""
    found = re.match(r"(\d+)x[ -]", topology.strip())
    return int(found[1]) if found else 1


def placed(topology: str) -> Cluster:
    """The chips of a topology: a slice is a node, its chips joined by their own links, slices by their hosts' cards."""
    machine, count = chips(topology)
    return replace(parse_cluster(f"{machine}:{count}"), per_node=count // slices(topology))


def scaling_words(row: Mapping[str, Any]) -> Words | str:
    """The question of a row of the table over slices."""
    name = str(row["model"]).split(" ")[0]
    machine, count = chips(str(row["slices_topology"]))
    if name not in SHAPES or not count:
        return f"no shapes of model {name!r}" if name not in SHAPES else "no such topology"
    width, layers = SHAPES[name]
    each = count // slices(str(row["slices_topology"]))
    return said(
        model=learned_positions(name, width, layers, width // HEAD, VOCABULARY, LENGTH),
        on=placed(str(row["slices_topology"])),
        gbs=SEQUENCES * count,
        mbs=SEQUENCES,
        seq=LENGTH,
        zero=3,
        shard=each,
        recompute="full" if 16e9 * whole(name[:-1]) > CROWDED * each * HBM[machine] else "selective",
        precision="bf16",
        framework="maxtext",
    )


def recipe_words(row: Mapping[str, Any]) -> Words | str:
    """The question of a recipe."""
    name = re.sub(r"-max[tT]ext$", "", str(row["model"]), flags=re.IGNORECASE)
    _, count = chips(str(row["topology"]))
    if name not in RECIPES:
        return f"no facts about model {name!r}"
    if not count:
        return "no such topology"
    model, length = RECIPES[name]
    tokens = row["global_tokens_per_step"]
    if tokens != tokens:
        return "no tokens per step"
    batch = whole(tokens) // length
    if str(row["precision"]).startswith("fp8"):
        return "the part has no FP8 unit; what was computed in it is not stated"
    each = max(1, batch // count)
    return said(
        model=model,
        on=placed(str(row["topology"])),
        gbs=batch,
        mbs=each if batch % (each * count) == 0 else 1,
        seq=length,
        tp=count // batch if batch < count else 1,
        zero=3,
        shard=None if batch < count else count // slices(str(row["topology"])),
        recompute="full",
        precision="bf16",
        framework="maxtext",
    )


def _flops(found: Any, words: Words) -> tuple[float, float, float]:
    """The model's operations per second and device."""
    time, low, high = step_time(found, words)
    rate = float(found.model_tflops_per_device) * 1e12
    return rate, rate * time / high, rate * time / low


def read(folder: Path, ask: Ask) -> Iterator[Comparison]:
    """Operations per second over slices, and steps of recipes."""
    for path in ask.files(folder, "maxtext_scaling*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask, scaling_words, "tflops_per_chip", 1e12))
    for path in ask.files(folder, "tpu_training_recipes*.csv"):
        if ask.wants(path.stem):
            yield from guarded(ask, path, partial(_table, path, ask, recipe_words, "step_time_s", 1.0))


def _table(path: Path, ask: Ask, words: Any, column: str, unit: float) -> Iterator[Comparison]:
    frame = read_frame(path)
    frame = frame.iloc[ask.pick(len(frame), path.stem)].reset_index(drop=True)
    rate = column == "tflops_per_chip"
    places = frame["slices_topology" if rate else "topology"].astype(str)
    yield compared(
        ask,
        path.stem,
        frame,
        [words(row) for row in frame.to_dict("records")],
        frame[column] * unit,
        metric="flops_per_s_per_device" if rate else "time_s",
        figure=_flops if rate else step_time,
        machine=[chips(place)[0] or place for place in places],
        family=frame["model"].astype(str).str.replace(" model", "").tolist(),
        phase="train",
        answers={},
    )
