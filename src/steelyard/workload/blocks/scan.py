"""What linear attention and state-space models share: a state per head, decayed, written and read token by token.

``S <- decay S + k v^T``, ``o = q^T S``, with ``key_dim x value_dim`` elements of state per head. A step of many tokens
runs in chunks of m: inside a chunk m x m products replace the token-by-token chain, and only the chunks run one after
another (arXiv:2405.21060, 2406.06484).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from steelyard.workload.blocks.writer import OpWriter
from steelyard.workload.op import Op, Size
from steelyard.workload.step import Step

__all__ = ["scan_ops"]


def scan_ops(
    prefix: str,
    step: Step,
    count: int,
    *,
    heads: int,
    key_dim: int,
    value_dim: int,
    chunk: int,
    inside: float,
    corrects: bool = False,
    bits: float = 16,
    label: str = "scan",
) -> Iterator[Op]:
    """Products inside the chunks, then reading and writing the state between them, as one kernel.

    Args:
        prefix, step, count: where it stands, what is processed, how many copies.
        heads, key_dim, value_dim: the state per sequence.
        chunk: tokens worked on at once; 1: token by token, with the state on chip.
        inside: MACs per pair of tokens of a chunk and head.
        corrects: the state is read with the keys before it is written (delta rule), and once more with the queries.
        bits: width of a state element in memory.
        label: what the ops are called.
    """
    new = np.asarray(step.new, dtype=np.float64)
    chunks = np.ceil(new / chunk)
    sizes: dict[str, Size] = {
        "b": step.batch,
        "h": heads,
        "n": chunks,
        "m": new / chunks,
        "j": new / chunks,
        "c": key_dim,
        "z": value_dim,
        "u": inside,
    }
    w = OpWriter(prefix, count, sizes, iterative=("n",))
    width = {} if bits == 16 else {"state": bits}

    def contraction(
        name: str, einsum: str, operands: tuple[str, str, str], state: int, stored: dict[str, float] = width
    ) -> Op:
        roles = tuple("state" if i == state else "activation" for i in range(3))
        return w.op(f"{label}_{name}", einsum, operands, roles, fuse=label, bits=stored)

    if chunk > 1:
        yield contraction("inside", "b h n m u, b h n j u -> b h n m j", ("kq", "kv", "inside"), -1, {})
    read = "b h n m c, b h c z -> b h n m z"
    if corrects:
        yield contraction("read", read, ("keys", "state", "seen"), 1)
    yield contraction("write", "b h n m c, b h n m z -> b h c z", ("keys", "errors", "state"), 2)
    # the state is still on chip when the queries read it
    yield contraction("query", read, ("queries", "state", "y"), 1, {"state": 0} if corrects else width)
