"""Reads every described type once more as if nobody had described it: from the tensors transformers would save.

``python -m tests.transformers_types.structure [TYPE ...]`` (where torch and transformers are installed) prints, for
each type, how far its arithmetic, weights and cache are from those of the family that describes it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from steelyard.errors import SteelyardError
from steelyard.workload import Step
from steelyard.workload.families import language_config, read_config
from steelyard.workload.ingest.safetensors import TensorInfo
from steelyard.workload.structure import read_structure
from tests.transformers_types.count import small, types

#: What is compared: name and the figure of a model.
FIGURES: Mapping[str, Any] = {
    "prefill FLOP": lambda m: float(m.graph(Step.prefill(1, 1024)).flops()),
    "decode FLOP": lambda m: float(m.graph(Step.decode(8, 2048)).flops()),
    "weights": lambda m: float(m.parameters() - m.extra_parameters),
    "KV": lambda m: float(m.kv_elements(5000)),
    "state": lambda m: float(m.state_bytes),
}


def tensors(config: Any, model_class: Any) -> list[TensorInfo]:
    """Names and shapes of what transformers builds from ``config``, tied weights once, in 16 bits."""
    import torch

    with torch.device("meta"):
        model = model_class._from_config(config) if hasattr(model_class, "_from_config") else model_class(config)
    model.tie_weights()
    kept = set(model.state_dict())
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    sizes |= {name: tuple(b.shape) for name, b in model.named_buffers() if name in kept}
    return [TensorInfo(name, shape, "bf16", 2 * math.prod(shape)) for name, shape in sizes.items()]


def hidden_type(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language part of a config under a type nobody knows."""
    inner = dict(language_config(config)[0])
    return {**inner, "model_type": "unknown_x"}


def compared(names: list[str]) -> Iterator[tuple[str, dict[str, float] | str]]:
    """Each type with our figures by structure over those of its family, or why it was not read."""
    for name, model_class in sorted(types().items()):
        if names and name not in names:
            continue
        try:
            config = small(name)
            stated = json.loads(json.dumps(config.to_dict(), default=str))
            family = read_config(stated)
        except Exception:
            continue
        try:
            held = tensors(config, model_class)
        except Exception as error:
            yield name, f"not built: {error}"[:80]
            continue
        try:
            model, found = read_structure(held, hidden_type(stated))
        except SteelyardError as error:
            yield name, str(error)
            continue
        ratios = {"unknown": found.unknown}
        for figure, of in FIGURES.items():
            ours, theirs = of(model), of(family)
            ratios[figure] = ours / theirs - 1 if theirs else (0.0 if not ours else math.inf)
        yield name, ratios


def main(names: list[str]) -> None:
    """Print the table, and the median and worst of each figure."""
    read: dict[str, dict[str, float]] = {}
    refused = 0
    for name, row in compared(names):
        if isinstance(row, str):
            refused += 1
            print(f"{name}: {row}")
            continue
        read[name] = row
        print(name, " ".join(f"{k} {v:+.2%}" for k, v in row.items() if abs(v) > 1e-4) or "the same")
    for figure in FIGURES:
        off = sorted((abs(row[figure]), name) for name, row in read.items())
        if off:
            print(f"{figure}: median {statistics.median(x for x, _ in off):.3%}, worst {off[-1][0]:.2%} ({off[-1][1]})")
    print(f"{len(read)} read, {refused} not")


if __name__ == "__main__":
    main(sys.argv[1:])
