"""The backward pass, derived from the forward one: the gradients of an op are ops, and what it saves follows.

For ``C = sum A B`` the gradient of ``A`` is the einsum of the gradient of ``C`` with ``B``, with ranks exchanged, and
that of ``B`` the einsum of ``A`` with the gradient of ``C``: the same points, so as many operations each. Attention,
experts, convolutions and scans are differentiated alike. Any other op reads the gradient of its output beside what it
read, and writes that of its input. Scores that one kernel keeps on chip are computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.workload.graph import Graph
from steelyard.workload.op import Array, Axis, Op, Operand

__all__ = ["Saved", "backward", "gradients", "saved"]

#: Maps that are differentiated without anything of the forward pass: what is added or turned.
_LINEAR = frozenset({"add", "sub", "copy", "none", "rotary", "take"})
#: Bits of a sum of exponentials that is kept per row of scores.
_SUM_BITS = 32.0


def _text(operand: Iterable[Axis]) -> str:
    """An operand's index expressions as they are written in an einsum."""
    return " ".join("+".join(r if c == 1 else f"{c}*{r}" for c, r in axis) for axis in operand)


def gradients(op: Op) -> tuple[Op, ...]:
    """The ops that differentiate an op, one for each input that has a gradient.

    ``facts["of"]`` is the operand and ``facts["which"]`` ``dgrad`` (of what flows) or ``wgrad`` (of a weight).
    """
    if op.map == "sample" or op.map == "top_k":
        return ()
    out = replace(op.output, name=f"d_{op.output.name}", role="activation")
    if op.contracts:
        return tuple(_product(op, out, i) for i in range(2))
    flows = [t for t in op.inputs if t.role in ("activation", "state", "kv") and t.bits != 0]
    weights = [t for t in op.inputs if t.role in ("weight", "table")]
    found = []
    if op.map == "take":
        table = weights[0] if weights else op.inputs[-1]
        einsum = f"{_text(out.index)} -> {_text(out.index)}"
        return (
            _made(op, f"d_{table.name}", einsum, (out.name, f"d_{table.name}"), ("activation",) * 2, "add", "wgrad"),
        )
    alone = op.map in _LINEAR or op.map == "norm"  # what is added before a norm has its gradient too
    for i, tensor in enumerate(flows[:1] if alone else flows):
        kept = () if op.map in _LINEAR else (tensor,)
        reads = (out, *kept, *(weights if i == 0 else ()))
        einsum = f"{', '.join(_text(t.index) for t in reads)} -> {_text(tensor.index)}"
        names = (*(t.name for t in reads), f"d_{tensor.name}")
        roles = (*(t.role for t in reads), "activation")
        found.append(_made(op, f"d_{tensor.name}", einsum, names, roles, op.map, "dgrad"))
    return tuple(found)


def _product(op: Op, out: Operand, i: int) -> Op:
    """The gradient of input ``i`` of a contraction: the other input with the gradient of the output."""
    this, other = op.inputs[i], op.inputs[1 - i]
    pair = (out, other) if i == 0 else (other, out)
    einsum = f"{_text(pair[0].index)}, {_text(pair[1].index)} -> {_text(this.index)}"
    names = (pair[0].name, pair[1].name, f"d_{this.name}")
    weight = this.role in ("weight", "table")
    roles = tuple("activation" if t.role == "kv" else t.role for t in pair)
    made = _made(op, f"d_{this.name}", einsum, names, (*roles, "activation"), "mul", "wgrad" if weight else "dgrad")
    return replace(made, reduce="add")


def _made(
    op: Op, name: str, einsum: str, operands: tuple[str, ...], roles: tuple[str, ...], operator: str, which: str
) -> Op:
    return replace(
        op,
        name=f"{op.name}.{name}",
        einsum=einsum,
        operands=operands,
        roles=roles,
        map=operator,
        reduce="none",
        tied=(),
        bits={n: b for n, b in op.bits.items() if n in operands},
        fuse=f"{op.fuse}.backward" if op.fuse else "",
        facts={**op.facts, "which": which, "of": name.removeprefix("d_")},
    )


def backward(graph: Graph, *, frozen: bool = False) -> Graph:
    """The ops of the backward pass, last op first; scores that were fused away are computed again before theirs.

    Args:
        graph: the forward pass.
        frozen: weights have no gradient (adapters train beside them).
    """

    def derived() -> Iterator[Op]:
        again: set[str] = set()
        for op in reversed(graph.ops):
            scores = _scores_of(graph, op)
            if scores is not None and op.fuse not in again:
                again.add(op.fuse)
                yield replace(scores, name=f"{scores.name}.again", fuse=f"{op.fuse}.backward")
            for one in gradients(op):
                if not (frozen and one.facts["which"] == "wgrad"):
                    yield one

    return replace(graph, ops=tuple(derived()))


def _scores_of(graph: Graph, op: Op) -> Op | None:
    """The scores of the fused attention that an op belongs to."""
    if not op.fuse:
        return None
    return next((o for o in graph.ops if o.fuse == op.fuse and any(t.role == "kv" for t in o.inputs[1:])), None)


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A tensor that the forward pass keeps for the backward pass, per copy."""

    op: str
    """That needs it."""
    name: str
    block: str
    count: Any
    """Copies (layers)."""
    elements: Array
    bits: float
    """Width; 0: that of activations."""
    split: bool
    """Whether tensor parallelism has split it; else sequence parallelism may."""


def saved(ops: Iterable[Op], split: Iterable[str] = ()) -> tuple[Saved, ...]:
    """What the ops of a pass keep: the inputs of products, of norms and of activations, each once.

    Attention that runs as one kernel keeps queries, keys, values and a sum of exponentials per row (its output is kept
    as the input of the product behind it). Of a product's input that several read one copy is kept; what routed experts
    read is kept once per pair of token and expert.

    Args:
        ops: of one device, in order.
        split: ranks that tensor parallelism splits.
    """
    parts = frozenset(split)
    found: list[Saved] = []
    seen: set[tuple[str, str, str]] = set()

    def keep(op: Op, tensor: Operand, elements: Any = None, bits: float = 0.0) -> None:
        ranks = set(tensor.ranks)
        behind = {p for r in ranks for p, _ in op.derived.get(r, ())}
        size = op.elements(tensor) if elements is None else np.asarray(elements, dtype=np.float64)
        found.append(Saved(op.name, tensor.name, op.block, op.count, size, bits, bool((ranks | behind) & parts)))

    for op in ops:
        prefix = op.name.partition(".")[0]
        if op.map in ("sample", "top_k", "take"):
            continue
        attends = any(t.role == "kv" for t in op.inputs[1:]) and "l" in op.ranks
        if attends and op.fuse:
            if op.name.endswith("scores"):
                keep(op, op.inputs[0])
                keep(op, op.inputs[1])
            else:
                if op.inputs[1].bits != 0:
                    keep(op, op.inputs[1])
                rows = op.elements(op.output) / np.asarray(op.size(op.output.index[-1][0][1]))
                found.append(Saved(op.name, "sums", op.block, op.count, np.asarray(rows), _SUM_BITS, True))
        elif op.contracts and any(t.role == "weight" for t in op.inputs):
            flow = op.inputs[0]
            key = (prefix + op.block, flow.name, _text(flow.index) + str(np.ravel(op.elements(flow))[:1]))
            if "e" in op.ranks:
                pairs = np.asarray(next(iter(op.domain.values())), dtype=np.float64)
                wide: Any = 1.0
                for rank in flow.ranks:
                    if rank not in ("t", "e"):
                        wide = wide * np.asarray(op.size(rank), dtype=np.float64)
                keep(op, flow, pairs * wide)
            elif key not in seen:
                seen.add(key)
                keep(op, flow)
        elif op.contracts:
            for tensor in op.inputs:
                keep(op, tensor)
        elif op.map == "softmax" and op.fuse:
            continue
        elif op.map not in _LINEAR:
            keep(op, next(t for t in op.inputs if t.role != "weight"))
    return tuple(found)
