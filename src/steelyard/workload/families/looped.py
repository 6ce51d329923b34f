"""Decoders that run some of their layers several times: stored once, computed and cached every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import Layer, Transformer

__all__ = ["dory", "hrm_text"]


def hrm_text(config: Mapping[str, Any]) -> Transformer:
    """HRM-Text: a high stack once after every ``L_cycles`` passes of a low one, ``H_cycles`` times over."""
    f = Fields(config)
    stack = f.size("num_layers_per_stack", maximum=10_000)
    high, low = f.size("H_cycles", maximum=1000), f.size("L_cycles", maximum=1000)
    attention = replace(f.attention(head_dim=128), query_gate=True)
    layer = Layer(stack, attention, f.gated_mlp(), norm_weight=False)
    again = replace(layer, count=stack * (high * (low + 1) - 2), tied=True)
    layers = [replace(layer, count=2 * stack), again] if again.count else [replace(layer, count=2 * stack)]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False), final_norm=False)


def dory(config: Mapping[str, Any]) -> Transformer:
    """Dory: a middle section of windowed layers that runs ``n_recurrent_loops`` times; output gates.

    Its scales per channel (0.1 % of the weights) are not counted.
    """
    f = Fields(config)
    kinds = config.get("layer_types")
    pairs = 2 if isinstance(kinds, list) and "mlp" in kinds else 1
    parts = [
        f.size(f"n_{name}_layers", minimum=name == "recurrent", maximum=10_000) // pairs
        for name in ("input", "recurrent", "output")
    ]
    attention = replace(f.attention(), query_gate=True, window=f.size("sliding_window", default=1024))
    loops = f.size("n_recurrent_loops", maximum=1000)
    layer = Layer(max(1, sum(parts)), attention, f.gated_mlp(), norm_weight=False)
    again = replace(layer, count=(loops - 1) * parts[1], tied=True)
    last = config.get("recurrent_kv_cache_mode") == "last_loop"
    again = replace(again, attention=replace(attention, shared_kv=last)) if last else again
    layers = [layer, again] if again.count else [layer]
    return decoder(f, layers, tied=f.flag("tie_word_embeddings", False), final_norm=False)
