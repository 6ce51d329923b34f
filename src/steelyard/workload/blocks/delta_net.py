"""Gated delta net: linear attention with a state per head that decays and is corrected (arXiv:2412.06464)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.op import Op, Size
from steelyard.workload.shapes import Layer, Shapes
from steelyard.workload.step import Step

__all__ = ["delta_net_ops"]


def delta_net_ops(model: Shapes, layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Projections, short convolution, state update in chunks, gated norm, output projection.

    With keys k, values v, queries q, decay a and strength b, per token and head:
    ``S <- a S + b k (v - S^T k)^T`` and ``o = S^T q``, three products of ``key_dim x value_dim``. A step of many tokens
    runs in chunks of m: inside one, ``3 m^2 key_dim + 2 m^2 value_dim`` MACs replace the token-by-token chain, and
    only the chunks run one after another.
    """
    a = layer.linear
    assert a is not None
    tokens, count = step.tokens, layer.count
    sizes: dict[str, Size] = {
        "t": tokens,
        "d": model.hidden,
        "g": a.key_heads,
        "h": a.value_heads,
        "c": a.key_dim,
        "z": a.value_dim,
        "w": a.conv_kernel,
    }
    weighted = ("activation", "weight", "activation")

    def op(name: str, einsum: str, weight: str, fuse: str = "", **derived: tuple[tuple[str, int], ...]) -> Op:
        return Op(
            f"{prefix}.{name}",
            einsum,
            sizes,
            operands=("in", weight, "out"),
            roles=weighted,
            derived=derived,
            count=count,
            fuse=fuse,
            block="attention",
        )

    # queries and keys, values and the gate of the output, two gates per value head
    if a.key_dim == a.value_dim:
        yield op("qkvz", "t d, d p c -> t p c", "w_qkvz", p=(("g", 2), ("h", 2)))
    else:
        yield op("qk", "t d, d p c -> t p c", "w_qk", p=(("g", 2),))
        yield op("vz", "t d, d p z -> t p z", "w_vz", p=(("h", 2),))
    yield op("ba", "t d, d y -> t y", "w_ba", y=(("h", 2),))
    channels = (("g", 2 * a.key_dim), ("h", a.value_dim))
    yield op("conv", "t+w k, k w -> t k", "w_conv", fuse=f"{prefix}.conv", k=channels)
    yield Op(
        f"{prefix}.decay",
        "t y, y -> t y",
        sizes,
        operands=("ba", "decay", "gates"),
        roles=weighted,
        map="exp",
        reduce="none",
        derived={"y": (("h", 2),)},
        bits={"decay": 32},
        count=count,
        fuse=f"{prefix}.conv",
        block="attention",
    )
    yield from _state(layer, step, prefix)
    yield Op(
        f"{prefix}.gated_norm",
        "t h z, z -> t h z",
        sizes,
        operands=("in", "norm", "out"),
        roles=weighted,
        map="norm",
        reduce="none",
        bits={"norm": 16},
        count=count,
        block="attention",
    )
    yield op("out", "t h z, h z d -> t d", "w_out")


def _state(layer: Layer, step: Step, prefix: str) -> Iterator[Op]:
    """Read, correct and write the state, chunk by chunk."""
    a = layer.linear
    assert a is not None
    new = np.asarray(step.new, dtype=np.float64)
    chunks = np.ceil(new / a.chunk)
    inside = new / chunks
    sizes: dict[str, Size] = {
        "b": step.batch,
        "h": a.value_heads,
        "n": chunks,
        "m": inside,
        "j": inside,
        "c": a.key_dim,
        "z": a.value_dim,
        "u": 3 * a.key_dim + 2 * a.value_dim,
    }
    fuse = f"{prefix}.delta"

    def op(name: str, einsum: str, operands: tuple[str, str, str], roles: tuple[str, str, str]) -> Op:
        return Op(
            f"{prefix}.{name}",
            einsum,
            sizes,
            operands=operands,
            roles=roles,
            iterative=("n",),
            count=layer.count,
            fuse=fuse,
            block="attention",
        )

    plain = ("activation", "activation", "activation")
    yield op("delta_inside", "b h n m u, b h n j u -> b h n m j", ("kq", "kv", "inside"), plain)
    yield op(
        "delta_read",
        "b h n m c, b h c z -> b h n m z",
        ("keys", "state", "seen"),
        ("activation", "state", "activation"),
    )
    yield op(
        "delta_write",
        "b h n m c, b h n m z -> b h c z",
        ("keys", "errors", "state"),
        ("activation", "activation", "state"),
    )
    # the state is still on chip when the queries read it
    yield Op(
        f"{prefix}.delta_query",
        "b h n m c, b h c z -> b h n m z",
        sizes,
        operands=("queries", "state", "y"),
        roles=("activation", "state", "activation"),
        bits={"state": 0},
        iterative=("n",),
        count=layer.count,
        fuse=fuse,
        block="attention",
    )
