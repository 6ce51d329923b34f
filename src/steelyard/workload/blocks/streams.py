"""What runs beside attention and feed-forward: residual streams, low-rank residuals, embeddings of each layer.

Gemma 3n keeps several residual streams that are predicted and corrected (AltUp, arXiv:2301.13310), adds a low-rank
branch (LAuReL, arXiv:2411.07501) and mixes an embedding of its own into each layer; DeepSeek-V4 mixes its streams
around every block (hyper-connections, arXiv:2409.19606).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from steelyard.workload.blocks.embedding import table_op
from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["side_ops", "stream_ends", "stream_starts"]


def _linear(w: OpWriter, name: str, width: int, to: int) -> Op:
    return w.product(name, "t i, i o -> t o", {"i": width, "o": to})


def _norm(w: OpWriter, name: str, width: int) -> Op:
    names, roles = ("x", "norm", "y"), ("activation", "weight", "activation")
    more, bits = {"i": width}, {"norm": 16}
    own = replace(w, block="norm")
    return own.op(name, "t i, i -> t i", names, roles, apply="norm", reduce="none", bits=bits, more=more)


def _mixed(w: OpWriter, name: str, streams: int, width: int) -> Op:
    """Every stream read, weighed and written."""
    names, more = ("streams", "weights", "mixed"), {"n": streams, "i": width}
    return w.op(name, "t n i, t n -> t n i", names, (), reduce="none", more=more)


def stream_starts(model: Shapes, step: Step) -> Iterator[Op]:
    """After the token embedding: the further streams, and the embeddings of all layers at once."""
    w, hidden, inputs = OpWriter("", 1, {"t": step.tokens}, "streams"), model.hidden, model.layer_inputs
    if model.streams and model.streams.kind == "altup":
        yield _linear(w, "altup_projections", hidden, (model.streams.count - 1) * hidden)
    if inputs:
        every = model.depth * inputs.width
        yield table_op("layer_embedding", inputs.rows, every, step.tokens)
        yield _linear(w, "layer_inputs", hidden, every)
        yield _norm(replace(w, sizes={"t": step.tokens * model.depth}), "layer_inputs_norm", inputs.width)


def side_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Of one layer."""
    w, hidden, s = OpWriter(prefix, layer.count, {"t": step.tokens}, "streams"), model.hidden, model.streams
    if s and s.kind == "altup":
        yield _norm(w, "altup_norm", hidden)
        yield _linear(w, "altup_router", hidden, s.count)
        yield _linear(w, "altup_predict", s.count, s.count**2 + s.count)
        yield _norm(w, "altup_scale", hidden)
        yield _mixed(replace(w, count=2 * layer.count), "altup_mix", s.count, hidden)
    elif s:
        for part in ("attention", "mlp"):
            yield _linear(w, f"{part}_mixes", s.count * hidden, s.mixes)
            yield _mixed(w, f"{part}_mix", s.count, hidden)
    if model.laurel_rank:
        yield _linear(w, "laurel_left", hidden, model.laurel_rank)
        yield _linear(w, "laurel_right", model.laurel_rank, hidden)
        yield _norm(w, "laurel_norm", hidden)
    if model.layer_inputs:
        yield _linear(w, "layer_gate", hidden, model.layer_inputs.width)
        yield _linear(w, "layer_projection", model.layer_inputs.width, hidden)
        yield _norm(w, "layer_norm", hidden)


def stream_ends(model: Shapes, step: Step) -> Iterator[Op]:
    """Before the final norm: the streams become one."""
    w, s = OpWriter("", 1, {"t": step.tokens}, "streams"), model.streams
    if s and s.kind == "altup":
        yield _linear(w, "altup_unembed", model.hidden, (s.count - 1) * model.hidden)
    elif s:
        yield _linear(w, "stream_weights", s.count * model.hidden, s.count)
        yield _mixed(w, "stream_sum", s.count, model.hidden)
