"""The door from a config to a model: picks the family by ``model_type``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.documents import read_text
from steelyard.errors import InputError, Problem, UnknownName, show
from steelyard.registry import Registry
from steelyard.workload.families._native import outside, published
from steelyard.workload.families._refused import REFUSED
from steelyard.workload.families.decoders import DECODERS
from steelyard.workload.families.encoder import embedder
from steelyard.workload.families.generic import read_generic
from steelyard.workload.families.towers import PARTS, read_towers
from steelyard.workload.protocol import Workload, restated

__all__ = ["FAMILIES", "Family", "described", "language_config", "read_config"]

Family = Callable[[Mapping[str, Any]], Workload]

#: Every model family, built in or plugged in, by ``model_type``.
FAMILIES: Registry[Family] = Registry("model family", "steelyard.model_families", rows=DECODERS)

#: Where multimodal configs keep their language model.
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "vlm_config", "language_model_config")
#: Keys of the outer config that hold for the language model when it does not state them.
_INHERITED = (
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "quantization_config",
    "compression_config",
    "quantization",
    "architectures",
    "transformers_version",
)
#: Types whose family reads the outer config.
_WHOLE = ("gemma4_assistant", "gemma4_unified_assistant", "pp_formulanet")


@cache
def _class_defaults() -> Mapping[str, Mapping[str, Any]]:
    """Values of transformers 5.24's config classes by ``model_type``: nested configs are written without them."""
    table: Mapping[str, Mapping[str, Any]] = json.loads(read_text(Path(__file__).with_name("class_defaults.json")))
    return table


def read_config(config: Mapping[str, Any], *, name: str = "", generic: bool = False) -> Workload:
    """The model a Hugging Face config describes.

    Args:
        config: the content of a ``config.json``. A multimodal one describes towers too.
        name: what to call the model in results.
        generic: read an unknown ``model_type`` as a Llama-like decoder instead of refusing it, with the experts,
            latent attention and windows its keys state; refused when others say it is of another kind.

    Raises:
        UnknownName: no family answers to the ``model_type``; lists the nearest.
        InputError: keys are missing or wrong (all listed at once, with their paths).
    """
    if not isinstance(config, Mapping):
        raise InputError(f"expected a table of fields, got {type(config).__name__}", field="config")
    inner, path, notes = language_config(config)
    model_type = inner.get("model_type")
    for named, where in ((config.get("model_type"), ""), (model_type, path)):
        if isinstance(named, str) and named in REFUSED and named not in FAMILIES.names():
            field = f"{where}.model_type" if where else "model_type"
            raise InputError(f"{named!r} is not read: {REFUSED[named]}", field=field)
    family: Family
    if isinstance(model_type, str) and model_type in FAMILIES.names():
        family = FAMILIES.get(model_type)
    elif generic:
        family = read_generic
        notes += (
            f"model type {show(model_type)} is not known; read as a Llama-like decoder because that was asked for",
        )
    elif isinstance(model_type, str) and model_type:
        hint = "or put its weight files or their index beside the config, which say what it is, or ask with --generic"
        hint += " for it to be read as a Llama-like decoder"
        raise UnknownName("model_type", model_type, FAMILIES.names(), hint=hint)
    else:
        what = "required field is missing" if model_type is None else f"expected a name, got {model_type!r}"
        raise InputError(what, field=f"{path}.model_type" if path else "model_type")
    try:
        model = embedder(family(inner), inner)
    except InputError as error:
        if isinstance(error, UnknownName) or not path:
            raise
        moved = [Problem(f"{path}.{p.field}", p.message) for p in error.problems]
        raise InputError(moved[0].message, field=moved[0].field, problems=moved) from None
    stored = published(inner, model)
    whole = config.get("model_type") in _WHOLE
    towers, said = ((), ()) if whole else read_towers(config, model.hidden, outside(inner))
    if not whole and not towers and not said and (path or any(config.get(k) for k in PARTS)):
        said = (f"only the language model of {config.get('model_type', 'the config')!s} is counted",)
    if towers:
        stored["towers"] = towers
    return restated(
        model,
        name=name or str(config.get("_name_or_path") or "") or model.model_type,
        **{**stored, "notes": (*said, *notes, *model.notes, *stored.get("notes", ()))},
    )


def described(config: Mapping[str, Any], *, refused: bool = True) -> bool:
    """Whether a family reads the type of a config, or (unless ``refused`` is false) it is known why none does."""
    inner = language_config(config)[0]
    named = [x for x in (inner.get("model_type"), config.get("model_type")) if isinstance(x, str)]
    if named and named[0] in FAMILIES.names():
        return True
    return refused and any(x in REFUSED for x in named)


def _by_the_outer_model(config: Mapping[str, Any]) -> bool:
    """Whether the model that holds the language model ties its embeddings, as it does from transformers 5 on."""
    major = str(config.get("transformers_version") or "").partition(".")[0]
    return major.isdecimal() and int(major) >= 5


def language_config(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, tuple[str, ...]]:
    """The language part of a config, where it stood (``""`` = at the top), and remarks on what was not stated."""
    if config.get("model_type") in _WHOLE:
        return config, "", ()
    for key in _NESTED:
        inner = config.get(key)
        if not isinstance(inner, Mapping):
            continue
        if any(isinstance(inner.get(k), Mapping) for k in _NESTED):
            deeper, path, said = language_config({**{k: config[k] for k in _INHERITED if k in config}, **inner})
            return deeper, f"{key}.{path}", said
        merged = {k: config[k] for k in _INHERITED if config.get(k) is not None}
        merged |= {k: v for k, v in inner.items() if v is not None or k not in merged}
        if config.get("tie_word_embeddings") is not None and _by_the_outer_model(config):
            merged["tie_word_embeddings"] = config["tie_word_embeddings"]
        if merged.get("model_type") is None and config.get("model_type") is not None:
            merged["model_type"] = config["model_type"]
        defaults = _class_defaults().get(str(merged.get("model_type")), {})
        filled = {k: v for k, v in defaults.items() if k not in merged}
        notes: tuple[str, ...] = ()
        if filled:
            stated = ", ".join(f"{k} = {v}" for k, v in filled.items())
            notes = (f"not stated in {key}, taken from the class default: {stated}",)
        return {**merged, **filled}, key, notes
    return config, "", ()
