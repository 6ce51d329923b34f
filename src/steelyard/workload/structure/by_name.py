"""A decoder of a type nobody described, from the names of its tensors alone: an index without its files.

The names say which parts there are; sizes come from the usual keys of the config, and the bytes the index states say
whether that is all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from steelyard.errors import InputError
from steelyard.workload.families._base import MAX_LAYERS, Fields
from steelyard.workload.families._native import bits_of, published
from steelyard.workload.families._read import language_config
from steelyard.workload.families.decoders import WIDTH, Decoder
from steelyard.workload.op import part_of
from steelyard.workload.protocol import Workload, restated
from steelyard.workload.step import Step
from steelyard.workload.structure.found import LIMIT, UNKNOWN, Row, Structure
from steelyard.workload.structure.keys import DEPTH
from steelyard.workload.structure.names import Place, place_of, role_of

__all__ = ["read_names"]

#: Roles of modules whose sizes no usual key of a config states.
_STATES = ("A", "conv", "dt", "x", "qkvz")


def read_names(
    names: Iterable[str], total_bytes: int, config: Mapping[str, Any], *, name: str = "", asked: bool = False
) -> tuple[Workload, Structure]:
    """The model that an index and a config describe together.

    Args:
        names: of all tensors.
        total_bytes: of all tensors, as the index states; 0: it does not.
        config: with the sizes.
        name: what to call the model.
        asked: answer whatever share of the bytes is not explained.

    Raises:
        InputError: sizes are missing; the names tell of parts whose sizes stand in the files only; more of the bytes
            than :data:`~steelyard.workload.structure.found.LIMIT` is not explained.
    """
    inner = language_config(config)[0]
    places = [place_of(tensor) for tensor in names]
    layers = _layers(places)
    stated = next((inner[k] for k in DEPTH if isinstance(inner.get(k), int)), 0)
    depth = stated if 0 < stated <= len(layers) else len(layers)
    if not 0 < depth <= MAX_LAYERS:
        raise InputError(f"expected 1 to {MAX_LAYERS:,} layers, the index names {depth:,}", field="model")
    kept = [layers.get(i, set()) for i in range(depth)]
    roles = set().union(*kept)
    held = next((path for path, _, role in sorted(roles) if role in _STATES), "")
    if held:
        message = f"the index names {held} in its layers, whose sizes stand only in the header of a weight file"
        raise InputError(f"{message}; put the first weight file beside it", field="model")
    row, settings = _row(kept, roles, places)
    f = Fields({**inner, **settings, "num_hidden_layers": depth})
    model: Workload = row.read(f)
    stored = published(inner, model)
    model = restated(model, **{k: v for k, v in stored.items() if k != "notes"})
    found = _explained(model, places, total_bytes, depth)
    if found.unknown > LIMIT and not asked:
        message = (
            f"model type {str(inner.get('model_type'))[:40]!r} is not known, and its names and config explain "
            f"{1 - found.unknown:.0%} of the {total_bytes / 1e9:.2f} GB that its index states; --generic answers all "
            "the same, and the header of a weight file says more"
        )
        raise InputError(message, field="model")
    notes = (
        f"model type {str(inner.get('model_type'))[:40]!r} is not known; read from the names of its {len(places):,} "
        f"tensors and the sizes in its config, which explain {1 - found.unknown:.1%} of the bytes its index states",
        *stored.get("notes", ()),
    )
    return restated(model, name=name or model.model_type, notes=(*notes, *model.notes)), found


def _layers(places: Iterable[Place]) -> dict[int, set[tuple[str, str, str]]]:
    """``(path, block, role)`` of what each layer of the longest sequence holds; biases are roles with ``+bias``."""
    stacks: dict[str, dict[int, set[tuple[str, str, str]]]] = {}
    sizes: dict[str, int] = {}
    for place in places:
        if place.kind == "layer" and place.ending != "scale":
            group, role = role_of(place.path)
            role += "+bias" if place.ending == "bias" else ""
            stacks.setdefault(place.stack, {}).setdefault(place.layer, set()).add((place.path, group, role))
            sizes[place.stack] = sizes.get(place.stack, 0) + 1
    return stacks[max(sizes, key=lambda s: sizes[s])] if stacks else {}


def _row(
    layers: list[set[tuple[str, str, str]]], roles: set[tuple[str, str, str]], places: Iterable[Place]
) -> tuple[Decoder, dict[str, Any]]:
    """What the layers are, and the settings that the names imply."""
    held = {(group, role) for _, group, role in roles}
    mixes = {role for group, role in held if group not in ("expert", "shared", "mlp", "router", "norm")}
    routed = [any(group == "expert" for _, group, _ in layer) for layer in layers]
    latent = "kv_a" in mixes
    up = [path for path, group, role in roles if group in ("mlp", "expert", "shared") and role == "up"]
    norms = max(sum(group == "norm" and not role.endswith("+bias") for _, group, role in layer) for layer in layers)
    outside = [place.path.rpartition(".")[2] for place in places if place.kind == "outside"]
    row = Decoder(
        latent=latent,
        bias=bool({"q+bias", "qkv+bias"} & mixes),
        bias_key="",
        out_bias="o+bias" in mixes,
        qk_norm="head" if {"q_norm", "k_norm"} & mixes and not latent else "",
        gate="element" if "gate" in mixes else "",
        sinks="all" if "sinks" in mixes else "",
        gated=any("gate" in path or path.endswith("w3") for path in up),
        moe=any(routed),
        width=(*WIDTH, "intermediate_size"),
        shared_gate=("shared", "gate") in held,
        shared=int(any(group == "shared" for group, _ in held)),
        router_bias=("router", "bias") in held or ("router", "router+bias") in held,
        norms=norms,
        norm_bias=any(group == "norm" and role.endswith("+bias") for group, role in held),
    )
    settings: dict[str, Any] = {
        "tie_word_embeddings": not any(x in ("lm_head", "output", "embed_out") for x in outside)
    }
    if any(routed):
        settings["mlp_layer_types"] = ["sparse" if here else "dense" for here in routed]
    return row, settings


def _explained(model: Workload, places: list[Place], total: int, depth: int) -> Structure:
    """The parts of the model, and the bytes the index states beyond them."""
    sizes: dict[str, float] = {}
    formats = dict(model.native_formats)
    counted = 0.0
    bits_in: dict[str, float] = {}
    for op, _, count in model.graph(Step.prefill(1, 1)).weights():
        part = part_of(op)
        sizes[part] = sizes.get(part, 0.0) + float(count)
        bits_in[part] = 16.0 if part == "norm" else bits_of(formats.get(part, model.native_weights))
        counted += float(count) * bits_in[part] / 8
    tower = sum(place.kind == "tower" for place in places)
    ahead = sum(place.kind == "ahead" or place.layer >= depth for place in places)
    rows = [
        Row(part, 0, round(count), round(count * bits_in[part] / 8), (), "by the config's sizes")
        for part, count in sizes.items()
    ]
    rest = total - counted
    if total and tower + ahead and rest > 0:
        words = "vision or audio tower" if tower >= ahead else "multi-token prediction"
        rows.append(
            Row(words, tower + ahead, round(rest / 2), round(rest), (), "what the index states beyond the rest")
        )
    elif total:
        rows.append(
            Row(UNKNOWN, 0, round(abs(rest) / max(counted, 1.0) * sum(sizes.values())), round(abs(rest)), (), "")
        )
    return Structure(tuple(sorted(rows, key=lambda row: -row.parameters)))
