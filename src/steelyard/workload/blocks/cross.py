"""Encoder-decoders: what an encoder reads before the first token, and attention of the decoder over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from steelyard.workload.blocks.core import core_ops
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import Attention, Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["cross_ops", "decoder_step", "image_keys", "source_tokens", "stem_ops"]


def source_tokens(model: Shapes, step: Step) -> Array:
    """Tokens of one sequence that the encoder reads: the model's own number, or the prompt."""
    assert model.source is not None
    return np.asarray(model.source.tokens or step.new, dtype=np.float64)


def decoder_step(model: Shapes, step: Step) -> Step:
    """What the decoder does in a step: where the encoder reads the prompt, it begins with one token.

    Its context then holds source and answer together, whose caches have the same width.
    """
    if model.source is None or model.source.tokens or not step.first:
        return step
    return Step(step.batch, 1, step.context, step.logits)


def stem_ops(model: Shapes, step: Step) -> Iterator[Op]:
    """The convolutions or patches before the encoder's layers, each as the product it is, and its position table."""
    source = model.source
    assert source is not None
    for i, (tokens, inner, outer) in enumerate(source.stem):
        sizes: dict[str, Size] = {"t": np.asarray(step.batch, dtype=np.float64) * tokens, "i": inner, "o": outer}
        w = OpWriter("stem", 1, sizes, "encoder")
        yield w.product(f"conv{i}", "t i, i o -> t o")
        yield w.bias(f"conv{i}_bias", "o")


def image_keys(model: Shapes, layer: Layer, prefix: str) -> Iterator[Op]:
    """Keys and values of an image's tokens: the pass that reads the image computes them."""
    a = layer.cross
    assert a is not None
    sizes: dict[str, Size] = {"t": 1.0, "d": model.hidden, "g": a.kv_heads, "c": a.head_dim}
    yield OpWriter(prefix, layer.count, sizes).product("image_kv", "t d, d p c -> t p c", derived={"p": (("g", 2),)})


def _over_images(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Queries of the step's tokens over the keys and values of images that each sequence keeps."""
    a = layer.cross
    assert a is not None
    sizes: dict[str, Size] = {"t": step.tokens, "d": model.hidden, "h": a.heads, "g": a.kv_heads, "c": a.head_dim}
    w = OpWriter(prefix, layer.count, sizes)
    yield w.product("cross_q", "t d, d h c -> t h c")
    yield from core_ops(
        f"{prefix}.cross",
        Step(step.batch, step.new, max(1, model.image_tokens)),
        layer.count,
        replace(a, causal=False),
        kv_heads=a.kv_heads,
        queries=a.heads // a.kv_heads,
        key_dim=a.head_dim,
        value_dim=a.values,
    )
    yield w.product("cross_out", "t h c, h c d -> t d")


def cross_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Queries of the step's tokens over keys and values of the source, which the first step computes.

    Where the encoder reads the prompt, the self-attention's context counts the source's tokens too (the widths are the
    same), so that here only the projections remain.
    """
    a, source = layer.cross, model.source
    assert a is not None
    if source is None:
        yield from _over_images(model, layer, step, prefix)
        return
    here = decoder_step(model, step)
    sizes: dict[str, Size] = {"t": here.tokens, "d": model.hidden, "h": a.heads, "g": a.kv_heads, "c": a.head_dim}
    w = OpWriter(prefix, layer.count, sizes)
    if not source.merged:
        yield w.product("cross_q", "t d, d h c -> t h c")
        if a.q_bias:
            yield w.bias("cross_q_bias", "h c")
    if step.first:
        read = np.asarray(step.batch, dtype=np.float64) * source_tokens(model, step)
        seen = OpWriter(prefix, layer.count, {**sizes, "t": read, "d": source.width or source.encoder.hidden})
        both = {"p": (("g", 2),)}
        keys = seen.product("cross_kv", "t d, d p c -> t p c", derived=both)
        yield replace(keys, tied=("w_cross_kv",)) if source.merged else keys
        if a.kv_bias:
            yield seen.bias("cross_kv_bias", "p c", derived={"p": (("g", 1 + int(a.k_bias)),)})
        yield seen.op(
            "cross_write",
            "t p c -> t p c",
            ("kv", "cache"),
            ("activation", "kv"),
            apply="copy",
            reduce="none",
            derived=both,
        )
    if source.tokens:
        over = Step(step.batch, here.new, source.tokens)
        yield from core_ops(
            f"{prefix}.cross",
            over,
            layer.count,
            Attention(a.heads, a.kv_heads, a.head_dim, causal=False),
            kv_heads=a.kv_heads,
            queries=a.heads // a.kv_heads,
            key_dim=a.head_dim,
            value_dim=a.values,
        )
    if source.merged:
        return
    yield w.product("cross_out", "t h c, h c d -> t d")
    if a.out_bias:
        yield w.bias("cross_out_bias", "d")
