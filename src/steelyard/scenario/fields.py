"""The fields of a question, one definition for study files, their schema and their validation.

Which fields a kind of question has, and their defaults, come from the signature of the function that answers it; this
table adds what a value may be and its meaning.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from steelyard.errors import InputError
from steelyard.scenario.ranges import expand

__all__ = ["KINDS", "Field", "fields_of", "function_of", "values_of"]

#: Kinds of question.
KINDS = ("estimate", "simulate", "plan")

#: Prefix of engine flags, which have the engine's own names.
FLAGS = "flags."


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a question.

    ``type``: ``whole`` and ``number`` (lists and ranges in llama-bench words), ``name`` (text split at commas),
    ``text`` (taken as it is; several only as a list), ``switch``, ``any`` (an engine's flag).
    """

    name: str
    type: str
    doc: str
    least: float = -math.inf
    default: Any = None


#: ``name: (type, least, meaning)``.
_FIELDS: dict[str, tuple[str, float, str]] = {
    "model": ("name", 0, "catalogue name, or path of an HF config, a folder, a safetensors or a GGUF file"),
    "on": ("name", 0, "machine: NAME[:COUNT], or the path of a machine file"),
    "batch": ("whole", 1, "requests in flight"),
    "isl": ("whole", 1, "prompt tokens per request"),
    "osl": ("whole", 1, "generated tokens per request"),
    "weights": ("name", 0, "number format of the weights"),
    "activations": ("name", 0, "number format of activations"),
    "kv": ("name", 0, "number format of the KV cache"),
    "communication": ("name", 0, "number format of collectives"),
    "tp": ("whole", 1, "tensor-parallel degree"),
    "pp": ("whole", 1, "pipeline-parallel degree"),
    "dp": ("whole", 1, "data-parallel degree"),
    "ep": ("whole", 1, "expert-parallel degree"),
    "cp": ("whole", 1, "context-parallel degree"),
    "engine": ("name", 0, "serving engine"),
    "skew": ("number", 0, "exponent of the power law of expert popularity; 0 = balanced"),
    "usd_per_hour": ("number", 0, "price per device and hour"),
    "generic": ("switch", 0, "read an unknown model type as a plain decoder"),
    "trace": ("text", 0, "trace file, or the name of one"),
    "rate": ("text", 0, "requests per second"),
    "concurrency": ("whole", 1, "clients of a closed loop"),
    "workflow": ("text", 0, "file of calls that wait for each other"),
    "requests": ("whole", 1, "how many requests"),
    "duration": ("text", 0, "how long requests arrive"),
    "start": ("text", 0, "leave out the beginning of a trace"),
    "arrivals": ("text", 0, "shape of the arrivals"),
    "burst": ("number", 0, "coefficient of variation of the gaps between arrivals"),
    "peak": ("text", 0, "factor on the arrival rate"),
    "turns": ("text", 0, "conversations of so many turns"),
    "think": ("text", 0, "time between an answer and the next request"),
    "system": ("whole", 0, "tokens of a system prompt that all conversations share"),
    "seed": ("whole", 0, "fixes everything drawn"),
    "policy": ("name", 0, "order of the waiting queue"),
    "router": ("name", 0, "which replica gets a request"),
    "replicas": ("whole", 1, "copies of the deployment"),
    "ttft": ("text", 0, "promise: limit of the time to first token, p99:1s"),
    "tpot": ("text", 0, "promise: limit of the time per output token, p95:50ms"),
    "e2e": ("text", 0, "promise: limit from arrival to the last token"),
    "stop_after_s": ("number", 0, "simulated time after which to stop, s"),
    "disaggregate": ("text", 0, "pools for prompts and answers: 1P:tp8,1D:tp8"),
    "transfer_overlap": ("number", 0, "share of a KV cache sent while its prompt is computed"),
    "encode_s": ("number", 0, "time of an encoder before each prompt, s"),
    "mtbf": ("text", 0, "mean time between failures of a replica, 6h"),
    "restart": ("text", 0, "time of a restart after a failure, 3min"),
    "outages": ("text", 0, "failures at given times: 10min:0:down,15min:0:up"),
    "autoscale": ("text", 0, "replicas by load: 1:8,target=16,interval=30s,start=2min"),
    "migrate": ("switch", 0, "running requests may move to a freer replica"),
    "speculate": ("text", 0, "speculative decoding: draft:llama-3.2-1b,k=4,accept=0.7"),
    "lora": ("text", 0, "adapters: 100,zipf=1,rank=16"),
    "kv_tiers": ("text", 0, "levels below the device's cache: cpu:200GB,ssd:2TB"),
    "early_exit": ("text", 0, "layers left out: ramps=3,p=0.3"),
    "finetune": ("text", 0, "finetuning beside serving, within a time per step: 30ms"),
    "overlap": ("name", 0, "kernels that run under each other: nanoflow, tokenweave"),
    "best_of": ("whole", 1, "answers per request that share the prompt"),
    "beam": ("whole", 1, "beams per request that share the prompt"),
    "objective": ("name", 0, "what the plan is best at: cost, energy, carbon, throughput, latency"),
    "max_gpus": ("whole", 1, "devices of the deployment at most"),
    "mix": ("switch", 0, "plan the best fleet of unlike machines as well"),
    "budget": ("text", 0, "rent of the deployment at most, 40usd/h"),
    "max_power": ("text", 0, "power of the deployment at most, 20kW"),
    "rack_power": ("text", 0, "power of one node at most"),
    "formats": ("text", 0, "number formats that may be used"),
    "mode": ("text", 0, "any, aggregated or disaggregated"),
    "headroom": ("text", 0, "spare capacity, 20%"),
    "remedies": ("switch", 0, "look for the nearest change when nothing fits"),
    "spares": ("whole", 0, "replicas per pool that may fail"),
    "carbon": ("number", 0, "carbon intensity of the electricity, g/kWh"),
}

#: Fields that are text in some kinds: lengths where traffic is drawn, lists of what a planner may use.
_AS_TEXT = {
    "estimate": (),
    "simulate": ("isl", "osl"),
    "plan": ("isl", "osl", "on", "engine", "weights", "kv"),
}

#: Not fields of a study: what only a program can give, or how much is kept.
_NOT_ASKED = {
    "estimate": (),
    "simulate": ("flags", "log", "stop_after_iterations", "watch"),
    "plan": ("tell",),
}


def function_of(kind: str) -> Callable[..., Any]:
    """The function that answers questions of a kind.

    Raises:
        InputError: no such kind, or this installation cannot answer it.
    """
    if kind == "estimate":
        from steelyard.estimation.estimate import estimate

        return estimate
    if kind == "simulate":
        from steelyard.simulation.api import simulate

        return simulate
    from importlib import import_module

    try:
        return import_module("steelyard.search.api").advise  # type: ignore[no-any-return]
    except ImportError as error:
        raise InputError(f"plans cannot be made here: {error}", field="kind") from error


@cache
def fields_of(kind: str) -> dict[str, Field]:
    """The fields of a kind of question by name, in the order of its function."""
    found = {}
    for name, parameter in inspect.signature(function_of(kind)).parameters.items():
        if name in _NOT_ASKED[kind] or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        type_, least, doc = _FIELDS.get(name, ("text", 0.0, "see the function's documentation"))
        if name in _AS_TEXT[kind]:
            type_ = "text"
        empty = parameter.default is inspect.Parameter.empty
        found[name] = Field(name, type_, doc, least, None if empty else parameter.default)
    return found


def takes_flags(kind: str) -> bool:
    """Whether questions of a kind take an engine's own flags."""
    return "flags" in inspect.signature(function_of(kind)).parameters


def required_of(kind: str) -> list[str]:
    """Fields without a default."""
    parameters = inspect.signature(function_of(kind)).parameters
    return [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n in fields_of(kind)]


def values_of(field: Field, given: Any, path: str) -> list[Any]:
    """The values a study gives a field: one, a list, or words that stand for several.

    Raises:
        InputError: with the path.
    """
    items = given if isinstance(given, list) else [given]
    if not items:
        raise InputError("the list is empty", field=path)
    found: list[Any] = []
    for i, item in enumerate(items):
        found += _item(field, item, f"{path}[{i}]" if isinstance(given, list) else path)
    if len({repr(v) for v in found}) < len(found):
        raise InputError("the same value stands there twice", field=path)
    return found


def _item(field: Field, item: Any, path: str) -> list[Any]:
    wrong = InputError(f"expected {_WORDS[field.type]}, got {item!r}", field=path)
    if field.type == "switch":
        if not isinstance(item, bool):
            raise wrong
        return [item]
    if field.type == "any":
        if isinstance(item, dict | list):
            raise wrong
        return list(expand(item, path)) if isinstance(item, str) and item[:1].isdigit() else [item]
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise wrong
    if field.type == "text":
        return [item]
    if field.type == "name":
        if not isinstance(item, str):
            raise wrong
        words = [w.strip() for w in item.split(",")]
        if not all(words):
            raise InputError(f"the list {item!r} has an empty entry", field=path)
        return list(words)
    return [_bounded(field, v, path) for v in _numbers(field, item, path, wrong)]


def _numbers(field: Field, item: Any, path: str, wrong: InputError) -> list[Any]:
    if field.type == "whole":
        if isinstance(item, str):
            return list(expand(item, path))
        if item != int(item):
            raise wrong
        return [int(item)]
    if not isinstance(item, str):
        return [float(item)]
    try:
        return [float(part) for part in item.split(",")]
    except ValueError:
        return [float(v) for v in expand(item, path)]


def _bounded(field: Field, value: Any, path: str) -> Any:
    if not (math.isfinite(value) and value >= field.least):
        raise InputError(f"expected at least {field.least:g}, got {value:g}", field=path)
    return value


_WORDS = {
    "whole": "a whole number, a list (1,2,4) or a range (1-256*2, 1-10+3)",
    "number": "a number or a list of numbers",
    "name": "a name, or names separated by commas",
    "text": "text or a number",
    "switch": "true or false",
    "any": "a number, text, true or false",
}
