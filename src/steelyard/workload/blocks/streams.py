"""What runs beside attention and feed-forward: residual streams, low-rank residuals, embeddings of each layer.

Gemma 3n keeps several residual streams that are predicted and corrected (AltUp, arXiv:2301.13310), adds a low-rank
branch (LAuReL, arXiv:2411.07501) and mixes an embedding of its own into each layer; DeepSeek-V4 mixes its streams
around every block (hyper-connections, arXiv:2409.19606).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["side_ops", "stream_ends", "stream_starts"]

_WEIGHTED = ("activation", "weight", "activation")


def _linear(name: str, width: int, to: int, tokens: Size, count: int = 1, block: str = "streams") -> Op:
    short = name.rpartition(".")[2]
    sizes: dict[str, Size] = {"t": tokens, "i": width, "o": to}
    return Op(name, "t i, i o -> t o", sizes, ("x", f"w_{short}", "y"), _WEIGHTED, count=count, block=block)


def _norm(name: str, width: int, tokens: Size, count: int = 1) -> Op:
    return Op(
        name,
        "t i, i -> t i",
        {"t": tokens, "i": width},
        operands=("x", "norm", "y"),
        roles=_WEIGHTED,
        map="norm",
        reduce="none",
        bits={"norm": 16},
        count=count,
        block="norm",
    )


def _mixed(name: str, streams: int, width: int, tokens: Size, count: int) -> Op:
    """Every stream read, weighed and written."""
    return Op(
        name,
        "t n i, t n -> t n i",
        {"t": tokens, "n": streams, "i": width},
        operands=("streams", "weights", "mixed"),
        map="mul",
        reduce="none",
        count=count,
        block="streams",
    )


def stream_starts(model: Shapes, step: Step) -> Iterator[Op]:
    """After the token embedding: the further streams, and the embeddings of all layers at once."""
    tokens: Array = step.tokens
    if model.streams and model.streams.kind == "altup":
        yield _linear("altup_projections", model.hidden, (model.streams.count - 1) * model.hidden, tokens)
    if model.layer_inputs:
        every = model.depth * model.layer_inputs.width
        yield Op(
            "layer_embedding",
            "t, v i -> t i",
            {"t": tokens, "v": model.layer_inputs.rows, "i": every},
            operands=("ids", "layer_embedding", "x"),
            roles=("activation", "table", "activation"),
            map="take",
            reduce="none",
            visited={"v": np.minimum(tokens, model.layer_inputs.rows)},
            bits={"ids": 32},
            block="embedding",
        )
        yield _linear("layer_inputs", model.hidden, every, tokens)
        yield _norm("layer_inputs_norm", model.layer_inputs.width, tokens * model.depth)


def side_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Of one layer."""
    tokens, count, hidden = step.tokens, layer.count, model.hidden
    s = model.streams
    if s and s.kind == "altup":
        yield _norm(f"{prefix}.altup_norm", hidden, tokens, count)
        yield _linear(f"{prefix}.altup_router", hidden, s.count, tokens, count)
        yield _linear(f"{prefix}.altup_predict", s.count, s.count**2 + s.count, tokens, count)
        yield _norm(f"{prefix}.altup_scale", hidden, tokens, count)
        yield _mixed(f"{prefix}.altup_mix", s.count, hidden, tokens, 2 * count)
    elif s:
        for part in ("attention", "mlp"):
            yield _linear(f"{prefix}.{part}_mixes", s.count * hidden, s.mixes, tokens, count)
            yield _mixed(f"{prefix}.{part}_mix", s.count, hidden, tokens, count)
    if model.laurel_rank:
        yield _linear(f"{prefix}.laurel_left", hidden, model.laurel_rank, tokens, count)
        yield _linear(f"{prefix}.laurel_right", model.laurel_rank, hidden, tokens, count)
        yield _norm(f"{prefix}.laurel_norm", hidden, tokens, count)
    if model.layer_inputs:
        yield _linear(f"{prefix}.layer_gate", hidden, model.layer_inputs.width, tokens, count)
        yield _linear(f"{prefix}.layer_projection", model.layer_inputs.width, hidden, tokens, count)
        yield _norm(f"{prefix}.layer_norm", hidden, tokens, count)


def stream_ends(model: Shapes, step: Step) -> Iterator[Op]:
    """Before the final norm: the streams become one."""
    s = model.streams
    if s and s.kind == "altup":
        yield _linear("altup_unembed", model.hidden, (s.count - 1) * model.hidden, step.tokens)
    elif s:
        yield _linear("stream_weights", s.count * model.hidden, s.count, step.tokens)
        yield _mixed("stream_sum", s.count, model.hidden, step.tokens, 1)
