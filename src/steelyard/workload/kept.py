"""What each kind of layer keeps of a sequence between steps: what an engine's pages are made for."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.workload.protocol import Workload
from steelyard.workload.shapes import Shapes

__all__ = ["Kept", "kept_by_layers"]


@dataclass(frozen=True, slots=True)
class Kept:
    """Layers that keep the same."""

    layers: int
    elements_per_token: float
    """Of one layer on one device; 0: only the state."""
    window: int = 0
    """Tokens they reach back; 0: all."""
    state_bytes: float = 0.0
    """Of one layer on one device, whatever the length."""


def kept_by_layers(model: Workload, shards: int = 1) -> tuple[Kept, ...]:
    """The kinds of layers that keep something, most common kinds as they come; none where it is no plain cache.

    Args:
        model: any workload; what is no transformer has one kind of layers.
        shards: devices that share the heads.
    """
    if not isinstance(model, Shapes):
        layers = max(1, model.depth)
        per_token = float(model.kv_elements(2, shards) - model.kv_elements(1, shards)) / layers
        state = model.state_bytes / layers / shards
        return (Kept(layers, per_token, model.window, state),) if per_token or state else ()
    found: dict[tuple[float, int, float], int] = {}
    for layer in () if model.embeds else model.layers:
        a = layer.attention
        if a is not None and (a.joint_kv or a.sparse or (layer.skip and layer.skip.absent)):
            return ()
        if a is not None and a.causal and not a.shared_kv:
            key = (float(a.kv_elements_on(shards)), a.window or a.chunk, 0.0)
            found[key] = found.get(key, 0) + layer.count
        if layer.state:
            key = (0.0, 0, sum(n * bits / 8 for n, bits in layer.state) / shards)
            found[key] = found.get(key, 0) + layer.count
    return tuple(Kept(count, *key) for key, count in found.items())
