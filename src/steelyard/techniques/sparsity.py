"""A pass over the layers of a model: those with full attention attend to part of the earlier tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from steelyard.errors import Problem
from steelyard.workload.protocol import restated
from steelyard.workload.shapes import Layer, Shapes, Sparse

__all__ = ["no_full_attention", "noted", "with_layers", "with_sparse"]


def full_attention(layer: Layer) -> bool:
    """Whether the tokens of a layer attend to all earlier ones."""
    a = layer.attention
    if a is None or not a.causal or a.joint_kv or a.blocks:
        return False
    return not (a.window or a.chunk or a.compress or a.index_heads)


def no_full_attention(name: str, model: Any) -> list[Problem]:
    """Why a technique has nothing to make sparse; empty: it has."""
    if not isinstance(model, Shapes) or not model.causal:
        return [Problem(name, f"{model.name} is no decoder of layers: nothing attends to a cache")]
    if not any(full_attention(layer) for layer in model.layers):
        return [Problem(name, f"no layer of {model.name} attends to the whole context")]
    return []


def noted(scenario: Any, note: str) -> Any:
    """The scenario with a remark among what is assumed."""
    model = scenario.model
    shapes = restated(model.transformer, notes=(*model.transformer.notes, note))
    return replace(scenario, model=replace(model, transformer=shapes))


def with_layers(scenario: Any, layers: tuple[Layer, ...], note: str) -> Any:
    """The scenario with other layers and a remark."""
    model = scenario.model
    shapes = restated(model.transformer, layers=layers, notes=(*model.transformer.notes, note))
    return replace(scenario, model=replace(model, transformer=shapes))


def with_sparse(scenario: Any, changes: Mapping[str, Any], full: float, note: str) -> Any:
    """The scenario whose model has attention to part of the tokens.

    Args:
        scenario: of any verb.
        changes: fields of :class:`~steelyard.workload.shapes.Sparse`.
        full: share of the layers of each kind left as they are.
        note: what the answer says of it.
    """
    found = (part for layer in scenario.transformer.layers for part in _split(layer, changes, full))
    return with_layers(scenario, tuple(found), note)


def _split(layer: Layer, changes: Mapping[str, Any], full: float) -> Iterator[Layer]:
    """A kind of layers in those that are left and those that are not."""
    a, left = layer.attention, round(full * layer.count)
    if a is None or not full_attention(layer) or left == layer.count:
        yield layer
        return
    if left:
        yield replace(layer, count=left)
    made = replace(a.sparse or Sparse(), **changes)
    yield replace(layer, count=layer.count - left, attention=replace(a, sparse=made))
