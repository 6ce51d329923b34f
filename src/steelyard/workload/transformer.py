"""The normal form every language model is read into, and the graph it becomes for one step.

A model family reads a config into a :class:`Transformer`, the largest of the workloads
(:mod:`steelyard.workload.protocol`); :meth:`Transformer.graph` writes the ops of one engine
step (:class:`Step`): a prefill, a decode, or anything between.

Rank names, shared with the sharding rules of the plan: ``t`` tokens of the step, ``b`` sequences, ``s`` new tokens per
sequence, ``l`` tokens attended to, ``d`` hidden, ``h`` query heads, ``g`` key-value heads, ``q`` query heads per
key-value head, ``c`` head width, ``f`` feed-forward width, ``e`` experts, ``v`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.errors import InputError
from steelyard.workload.blocks.attention import attention_ops, mla_ops
from steelyard.workload.blocks.beside import beside_ops
from steelyard.workload.blocks.compressed import compressed_ops
from steelyard.workload.blocks.core import attended
from steelyard.workload.blocks.cross import cross_ops, decoder_step, image_keys, source_tokens, stem_ops
from steelyard.workload.blocks.embedding import embedding_ops, head_ops, outer_norm, table_op
from steelyard.workload.blocks.feed_forward import expert_ops, mlp_ops
from steelyard.workload.blocks.norm import norm_op
from steelyard.workload.blocks.skipped import often, some
from steelyard.workload.blocks.sparse import held
from steelyard.workload.blocks.streams import side_ops, stream_ends, stream_starts
from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import (
    Attention,
    Beside,
    BlockChoice,
    FeedForward,
    Layer,
    LayerInputs,
    Mixer,
    Shapes,
    Skip,
    Source,
    Sparse,
    Streams,
)
from steelyard.workload.step import Step

__all__ = [
    "Attention",
    "Beside",
    "BlockChoice",
    "FeedForward",
    "Layer",
    "LayerInputs",
    "Mixer",
    "Skip",
    "Source",
    "Sparse",
    "Step",
    "Streams",
    "Transformer",
    "layer_ops",
    "transformer_of",
]


class Transformer(Shapes):
    """A language model or encoder: its shapes, and what follows from them."""

    @property
    def encodes(self) -> bool:
        """Whether an encoder reads a source before the first token."""
        return self.source is not None

    @property
    def latent(self) -> bool:
        """Whether its cache is a compressed latent, so that its graph has two forms."""
        return any(x.attention is not None and x.attention.is_mla for x in self.layers)

    @property
    def window(self) -> int:
        """The longest reach of its windowed or chunked layers in tokens; 0: none has a limit."""
        return max((_reach(x.attention) for x in self.layers if x.attention), default=0)

    @property
    def head_groups(self) -> tuple[tuple[int, int], ...]:
        """``(query heads, key-value heads)`` of every kind of attention; 0 key-value heads: one latent for all."""
        found = (x.attention for x in self.layers if x.attention)
        return tuple(sorted({(a.heads, 0 if a.is_mla or a.joint_kv else a.kv_heads) for a in found}))

    def kv_elements(self, context: Size, shards: int = 1) -> Array:
        """Cache elements of one sequence on one of the ``shards`` devices that split the heads.

        ``sum over layers of width * min(context, window)``; heads are replicated when there are fewer than devices, a
        latent cache is not split.
        """
        total: Any = 0.0
        for layer in () if self.embeds else self.layers:
            a = layer.attention
            if a is None or not a.causal or a.shared_kv:
                continue
            width = a.kv_elements_on(shards)
            if a.joint_kv:
                entries = np.asarray(context, dtype=np.float64) / a.compress if a.compress else 0.0
                width = a.head_dim
                total = total + layer.count * (a.head_dim + a.index_dim) * entries
            tokens = held(a.sparse, context) if a.sparse else attended(context, a.window, a.chunk)
            written = 1.0 - layer.skip.attention if layer.skip and layer.skip.absent else 1.0
            total = total + layer.count * width * tokens * written
        if self.source is not None and self.source.tokens:  # the encoder's keys and values stay
            cross = ((x.count, x.cross) for x in self.layers if x.cross is not None)
            total = total + self.source.tokens * sum(count * a.kv_elements_on(shards) for count, a in cross)
        if self.image_tokens:
            crossing = ((x.count, x.cross) for x in self.image_layers if x.cross is not None)
            total = total + self.image_tokens * sum(count * a.kv_elements_on(shards) for count, a in crossing)
        return np.asarray(total, dtype=np.float64)

    def widest_elements(self, shards: int = 1) -> float:
        """Elements per token of the widest tensor between two kernels of a layer, on one of ``shards`` devices.

        The larger of queries, keys and values together and the (gated) feed-forward before and after its activation; of
        experts that of all pairs of a token with an expert, which also hold an output each.
        """
        widest = 0.0
        for layer in self.layers:
            a, f = layer.attention, layer.feed_forward
            if a is not None:
                widest = max(widest, (a.heads * (a.head_dim + a.values) + 2 * a.kv_heads * a.head_dim) / shards)
            if f is not None:
                copies = 3 if f.gated else 2
                inner = copies * (f.shared_intermediate + (0 if f.is_moe else f.intermediate)) / shards
                if f.is_moe:  # the output of every pair replaces what entered the activation, before they are summed
                    pair = max((copies - 1) * f.intermediate / shards, f.expert_hidden or self.hidden)
                    inner += f.top_k * (pair + f.intermediate / shards)
                widest = max(widest, inner)
        return widest

    @property
    def kv_elements_per_token(self) -> int:
        """Cache elements one more token adds while it is inside every window."""
        return (
            0
            if self.embeds
            else sum(
                x.count * x.attention.kv_elements_per_token for x in self.layers if x.attention and x.attention.causal
            )
        )

    @property
    def state_bytes(self) -> float:
        """Bytes of recurrent state one sequence holds whatever its length; 0 for most models."""
        kept = ((x.count, part) for x in self.layers for part in x.state)
        return sum(count * elements * bits / 8 for count, (elements, bits) in kept)

    def parameters(self) -> int:
        """Parameters of the language path, from the graph's weights, plus ``extra_parameters``."""
        return round(float(self.graph(Step.prefill(1, 1)).weight_elements())) + self.extra_parameters

    def active_parameters(self, embedding: bool = True) -> int:
        """Parameters that one token multiplies with: experts count ``top_k`` of them.

        Args:
            embedding: count the embedding tables too (publishers differ); a tied head is counted either way.
        """
        total = 0.0 if embedding or self.tied else -float(self.vocab * (self.embedding_dim or self.hidden))
        for op, name, elements in self.graph(Step.prefill(1, 1)).weights():
            routed = op.block == "moe" and "e" in op.ranks and name.startswith("expert")
            total += float(elements) * (_share(op) if routed else 1.0)
        return round(total)

    def graph(self, step: Step, absorb: bool | None = None) -> Graph:
        """The ops of one step.

        Args:
            step: what is processed.
            absorb: for latent attention, whether projections are folded so that attention reads the latent cache
                directly (decode); default: when one new token per sequence is processed.
        """
        ops = list(_source_ops(self, step)) if self.source is not None and step.first else []
        own = decoder_step(self, step)
        ops += [*embedding_ops(self, own), *stream_starts(self, own)]
        absorbed = bool(np.max(np.asarray(step.new)) <= 1) if absorb is None else absorb
        for i, layer in enumerate(self.layers):
            made = layer_ops(self, layer, step, f"layer{i}", absorbed)
            ops += (_tied(op) for op in made) if layer.tied else made
            ops += side_ops(self, layer, own, f"layer{i}")
        images = [op for i, x in enumerate(self.image_layers) for op in _image_ops(self, x, own, f"image_layer{i}")]
        seen = [op for op in images if self.image_tokens and not op.name.endswith("image_kv")]
        ops += [*seen, *stream_ends(self, own), *head_ops(self, own)]
        facts = {
            "model_type": self.model_type,
            "native_weights": self.native_weights,
            "native_formats": self.native_formats,
        }
        return Graph(self.name, tuple(ops), facts, tuple(op for op in images if op not in seen))


def transformer_of(workload: object, need: str) -> Transformer:
    """The workload as the transformer that something takes apart.

    Args:
        workload: any workload.
        need: what needs it, as the error names it.

    Raises:
        InputError: it is of another kind.
    """
    if not isinstance(workload, Transformer):
        raise InputError(f"{need} needs a transformer; this is a {type(workload).__name__}", field="model")
    return workload


def _reach(a: Attention) -> int:
    """Tokens back that a layer keeps at most; 0: all."""
    if a.sparse and a.sparse.drops and a.sparse.tokens:
        return math.ceil(max(a.sparse.tokens / a.sparse.share, a.sparse.near))
    return a.window or a.chunk


def _share(op: Op) -> float:
    """Share of the experts one token visits: routed pairs over tokens times experts."""
    pairs = next(iter(op.domain.values()))
    return float(np.asarray(pairs) / (np.asarray(op.size("t")) * np.asarray(op.size("e"))))


def _tied(op: Op) -> Op:
    """The op with weights that are stored elsewhere."""
    return replace(op, tied=tuple(x.name for x in op.inputs if x.role == "weight"))


def _image_ops(model: Transformer, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """A layer that attends to images, with the keys and values that are computed when these are read."""
    yield from layer_ops(model, layer, step, prefix, False)
    yield from image_keys(model, layer, prefix)


def _source_ops(model: Transformer, step: Step) -> Iterator[Op]:
    """The encoder over the whole source of every sequence."""
    source = model.source
    assert source is not None
    encoder, tokens = source.encoder, source_tokens(model, step)
    reads = Step(step.batch, tokens, tokens)
    if source.embedded:
        table = table_op("source_embedding", encoder.vocab, encoder.hidden, reads.tokens)
        yield table if source.own_table else replace(table, tied=("source_embedding",))
    yield from stem_ops(model, step)
    if encoder.positions:
        yield table_op("source_positions", encoder.positions, encoder.hidden, reads.tokens)
    if encoder.embedding_norm:
        yield outer_norm("source_norm", encoder, reads.tokens)
    for i, layer in enumerate(encoder.layers):
        yield from layer_ops(encoder, layer, reads, f"encoder{i}", False)
    if encoder.final_norm:
        yield outer_norm("encoder_norm", encoder, reads.tokens)


def layer_ops(model: Shapes, layer: Layer, step: Step, prefix: str, absorb: bool) -> Iterator[Op]:
    """The ops of ``layer.count`` equal layers; names begin with ``prefix``."""
    if (skip := layer.skip) is None:
        yield from _mixing(model, layer, step, prefix, absorb)
        yield from _feeding(model, layer, step, prefix)
        return
    seen, runs = some(step, skip.attention, skip)
    yield from often(_mixing(model, layer, seen, prefix, absorb), runs)
    fed, runs = some(step, skip.feed_forward, skip)
    yield from often(_feeding(model, layer, fed, prefix), runs)


def _mixing(model: Shapes, layer: Layer, step: Step, prefix: str, absorb: bool) -> Iterator[Op]:
    """What mixes the tokens of a layer: norm, attention, a state, what an encoder read."""
    attention = layer.attention
    whole, step = step, decoder_step(model, step)
    if layer.norms >= 1:
        yield norm_op(model, layer, step, f"{prefix}.norm1", residual=True)
    if attention is not None:
        if attention.is_mla:
            yield from mla_ops(model, layer, step, prefix, absorb)
        elif attention.joint_kv:
            yield from compressed_ops(model, layer, step, prefix)
        else:
            yield from attention_ops(model, layer, step, prefix)
    if layer.mixer is not None:
        yield from layer.mixer.ops(model, layer, step, prefix if attention is None else f"{prefix}.mixer")
    if layer.cross is not None:
        yield from cross_ops(model, layer, whole, prefix)
    yield from beside_ops(layer, step, prefix)


def _feeding(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """What works on each token of a layer alone: norms and the feed-forward."""
    feed_forward, step = layer.feed_forward, decoder_step(model, step)
    if layer.norms >= 2:
        yield norm_op(model, layer, step, f"{prefix}.norm2", residual=True)
    for i in range(2, layer.norms):
        yield norm_op(model, layer, step, f"{prefix}.norm{i + 1}", residual=False)
    if feed_forward is not None:
        make = expert_ops if feed_forward.is_moe else mlp_ops
        yield from make(model, layer, step, prefix)
