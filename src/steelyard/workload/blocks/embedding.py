"""Token, position and type embeddings at the front; final norm, output head and sampler at the end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.op import Array, Op, Size
from steelyard.workload.shapes import Shapes
from steelyard.workload.step import Step

__all__ = ["embedding_ops", "head_ops", "outer_norm", "table_op"]


def table_op(name: str, rows: int, width: int, tokens: Array, visited: Size | None = None) -> Op:
    """Rows of a table gathered for the tokens; at most every row once unless ``visited`` says how many."""
    return Op(
        name,
        "t, v d -> t d",
        {"t": tokens, "v": rows, "d": width},
        operands=("ids", name, "x"),
        roles=("activation", "table", "activation"),
        map="take",
        reduce="none",
        visited={"v": np.minimum(tokens, rows) if visited is None else visited},
        bits={"ids": 32},
        block="embedding",
    )


def _projection(name: str, tokens: Array, inner: int, outer: int) -> Op:
    return Op(
        name,
        "t i, i d -> t d",
        {"t": tokens, "i": inner, "d": outer},
        operands=("x", name, "y"),
        roles=("activation", "weight", "activation"),
        block="embedding",
    )


def outer_norm(name: str, model: Shapes, tokens: Array) -> Op:
    """A norm over the hidden width outside the layers."""
    weights = (1 if model.norm_weight else 0) + (1 if model.norm_bias else 0)
    return Op(
        name,
        "t d, w d -> t d" if weights else "t d -> t d",
        {"t": tokens, "d": model.hidden, **({"w": weights} if weights else {})},
        operands=("x", "norm", "y") if weights else ("x", "y"),
        roles=("activation", "weight", "activation") if weights else ("activation", "activation"),
        map="norm",
        reduce="none",
        domain={("t", "w"): tokens} if weights else {},
        bits={"norm": 16} if weights else {},
        block="norm",
    )


def embedding_ops(model: Shapes, step: Step) -> Iterator[Op]:
    """Gather the rows of the step's tokens; at most every row once."""
    tokens = step.tokens
    width = model.embedding_dim or model.hidden
    yield table_op("embedding", model.vocab, width, tokens)
    if model.positions:
        seen = np.minimum(np.asarray(step.new, dtype=np.float64), model.positions)
        yield table_op("position_embedding", model.positions, model.hidden, tokens, seen)
    if model.token_types:
        yield table_op("type_embedding", model.token_types, model.hidden, tokens, 1)
    if model.embedding_dim and model.embedding_dim != model.hidden:
        yield _projection("project_in", tokens, model.embedding_dim, model.hidden)
    if model.embedding_norm:
        yield outer_norm("embedding_norm", model, tokens)


def head_ops(model: Shapes, step: Step) -> Iterator[Op]:
    """Final norm, projection to the vocabulary for the rows that need it, sampling."""
    if model.final_norm:
        yield outer_norm("final_norm", model, step.tokens)
    rows = step.logit_rows
    width = model.embedding_dim or model.hidden
    if model.embedding_dim and model.embedding_dim != model.hidden:
        yield _projection("project_out", rows, model.hidden, model.embedding_dim)
    if model.pooler:
        yield Op(
            "pooler",
            "b d, d o -> b o",
            {"b": step.batch, "d": model.hidden, "o": model.hidden},
            operands=("x", "w_pooler", "y"),
            roles=("activation", "weight", "activation"),
            block="head",
        )
        yield Op(
            "pooler_bias",
            "b o, o -> b o",
            {"b": step.batch, "o": model.hidden},
            operands=("x", "bias", "y"),
            roles=("activation", "weight", "activation"),
            map="tanh",
            reduce="none",
            block="head",
        )
    if not model.head:
        return
    if model.head_transform:
        yield from _transform(model, rows)
    sizes: dict[str, Size] = {"t": rows, "d": width, "v": model.vocab}
    yield Op(
        "lm_head",
        "t d, d v -> t v",
        sizes,
        operands=("x", "lm_head", "logits"),
        roles=("activation", "weight", "activation"),
        tied=("lm_head",) if model.tied else (),
        block="head",
    )
    if model.head_bias:
        yield Op(
            "head_bias",
            "t v, v -> t v",
            sizes,
            operands=("x", "bias", "y"),
            roles=("activation", "weight", "activation"),
            map="add",
            reduce="none",
            bits={"bias": 16, "x": 0, "y": 0},
            fuse="head_bias",
            block="head",
        )
    if model.causal:
        yield Op(
            "sampler",
            "t v -> t",
            {"t": rows, "v": model.vocab},
            operands=("logits", "token"),
            map="sample",
            reduce="max",
            bits={"logits": 32, "token": 32},
            block="head",
        )


def _transform(model: Shapes, rows: Array) -> Iterator[Op]:
    """Dense layer, activation and norm of a masked-language head."""
    sizes: dict[str, Size] = {"t": rows, "d": model.hidden, "o": model.hidden}
    yield Op(
        "head_transform",
        "t d, d o -> t o",
        sizes,
        operands=("x", "w_transform", "y"),
        roles=("activation", "weight", "activation"),
        block="head",
    )
    biased = model.norm_bias
    yield Op(
        "head_transform_act",
        "t o, o -> t o" if biased else "t o -> t o",
        sizes,
        operands=("x", "bias", "y") if biased else ("x", "y"),
        roles=("activation", "weight", "activation") if biased else ("activation", "activation"),
        map="gelu",
        reduce="none",
        block="head",
    )
    yield outer_norm("head_norm", model, rows)
