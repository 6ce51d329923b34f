"""Rows of training tables as questions to ``steelyard.train``, and its answers beside what was measured.

A reader turns each row into the words of the verb (:data:`Words`), from the columns that state the question alone.
Rows that ask the same share one answer. What is scored is what the verb shows, its 80 % interval included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import SteelyardError
from steelyard.measurements.reader import Ask, Comparison, comparison, machine_name
from steelyard.training.estimate import train
from steelyard.workload.catalogue import Model, find_model, load_model
from steelyard.workload.families import read_config

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Words",
    "allocated_memory",
    "answered",
    "compared",
    "cut",
    "learned_positions",
    "reserved_memory",
    "said",
    "stated",
    "step_time",
    "token_rate",
    "whole",
]

#: A question: the words of ``steelyard.train``; as text why a row asks none.
Words = Mapping[str, Any]


def whole(value: Any, default: int = 1) -> int:
    """A degree or size of a column; what the row leaves empty is the default."""
    return default if value is None or value != value or value == "" else int(float(value))


def said(**words: Any) -> dict[str, Any]:
    """Words that have a value; degrees that are not given are one, for what is left open would be chosen."""
    degrees = {"tp": 1, "pp": 1}
    return {**degrees, **{name: value for name, value in words.items() if value not in (None, "")}}


def stated(**facts: str) -> str:
    """Facts of the framework as the word ``set`` says them."""
    return ",".join(f"{name}={value}" for name, value in facts.items() if value)


@cache
def cut(name: str, layers: int) -> Model:
    """A catalogue model with so many layers; cut short, the first alone is dense where several were."""
    entry = find_model(name)
    config = {**entry.config, "num_hidden_layers": layers}
    if "first_k_dense_replace" in config and layers < int(entry.config["num_hidden_layers"]):
        config["first_k_dense_replace"] = min(1, int(config["first_k_dense_replace"]))
    return Model(f"{entry.id} of {layers} layers", read_config(config, name=entry.id), "cut in layers")


@cache
def learned_positions(name: str, width: int, layers: int, heads: int, vocabulary: int, length: int) -> Model:
    """A GPT with a table of learned positions as long as its sequences."""
    config = {
        "model_type": "gpt2",
        "n_embd": width,
        "n_head": heads,
        "n_layer": layers,
        "n_positions": length,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    return Model(name, read_config(config, name=name), "the shapes of its table")


@cache
def _known(name: str) -> Model:
    """The catalogue's model, free of the longest context that it states: a training run chooses its own."""
    found = load_model(name)
    shapes: Any = found.transformer
    return replace(found, transformer=replace(shapes, max_context=0)) if hasattr(shapes, "max_context") else found


def answered(words: Words, cached: dict[str, Any] | None = None) -> Any:
    """The answer of ``steelyard.train``, or why there is none."""
    key = repr(sorted(words.items(), key=lambda pair: pair[0]))
    if cached is not None and key in cached:
        return cached[key]
    try:
        model = words["model"]
        found: Any = train(**{**words, "model": _known(model) if isinstance(model, str) else model})
    except SteelyardError as error:
        found = str(error)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
    if cached is not None:
        cached[key] = found
    return found


#: A figure of an answer and its 80 % interval, in the unit of the table's metric.
Figure = Callable[[Any, Words], tuple[float, float, float]]


def step_time(found: Any, words: Words) -> tuple[float, float, float]:
    """Seconds of an optimiser step."""
    low, high = found.interval["step_s"]
    return float(found.step_s), float(low), float(high)


def token_rate(found: Any, words: Words) -> tuple[float, float, float]:
    """Tokens per second and device; the longest step is the lowest rate."""
    time, low, high = step_time(found, words)
    tokens = float(found.tokens_per_s_per_device) * time
    return tokens / time, tokens / high, tokens / low


def compared(
    ask: Ask,
    table: str,
    frame: pd.DataFrame,
    questions: Sequence[Words | str],
    measured: Any,
    *,
    metric: str,
    figure: Figure,
    machine: Sequence[str],
    family: Sequence[str],
    phase: str,
    answers: dict[str, Any],
    split: Any = "all",
) -> Comparison:
    """One figure of every row of a frame, asked and measured."""
    figures = np.full((4, len(frame)), np.nan)
    why = np.full(len(frame), "", dtype=object)
    for i, words in enumerate(questions):
        found = words if isinstance(words, str) else answered(words, answers)
        if isinstance(found, str):
            why[i] = found
        else:
            value, low, high = figure(found, words if not isinstance(words, str) else {})
            faster = found.step_s / found.limit_s
            limit = {"time_s": value / faster, "memory_bytes": np.nan}.get(metric, value * faster)
            figures[:, i] = value, low, high, limit
    return comparison(
        ask,
        table,
        metric=metric,
        phase=phase,
        machine=[machine_name(m) for m in machine],
        family=list(family),
        measured=np.asarray(measured, dtype=np.float64),
        predicted=figures[0],
        low=figures[1],
        high=figures[2],
        roofline=figures[3],
        split=split,
        why=why.astype(np.str_),
    )


def allocated_memory(found: Any, words: Words) -> tuple[float, float, float]:
    """Bytes of tensors on the stage that holds most, at its peak; the interval is as wide as that of what is shown."""
    shown = max(float(stage.reserved_bytes) for stage in found.stages)
    peak = max(float(stage.allocated_bytes) for stage in found.stages)
    low, high = (float(end) / shown for end in found.interval["peak_memory_bytes"])
    return peak, peak * low, peak * high


def reserved_memory(found: Any, words: Words) -> tuple[float, float, float]:
    """Bytes that the allocator holds there, without what lies outside of it."""
    beside = float(found.scenario.plan.outside_bytes)
    low, high = (float(end) - beside for end in found.interval["peak_memory_bytes"])
    return max(float(stage.reserved_bytes) for stage in found.stages) - beside, low, high
