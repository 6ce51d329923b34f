"""Each measured case as Steelyard ops, lowered like any workload, so a fit sees exactly what pricing sees."""

from __future__ import annotations

from typing import Any

from steelyard.calibrate.measure.plan import Case
from steelyard.cost.program import Kernel, lower
from steelyard.deployment.plan import Plan
from steelyard.machine.component import Machine
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op
from steelyard.workload.transformer import Attention, Layer, Step, Transformer

__all__ = ["conv_op", "kernel_of", "plan_for"]

_CHAIN_MAP = {"gelu": "gelu", "relu": "relu", "softmax": "softmax", "copy": "copy", "rotary": "rotary", "tanh": "tanh"}


def plan_for(number_format: str) -> Plan:
    """Everything in one number format: what eager PyTorch runs."""
    fmt = number_format
    return Plan(weights=fmt, activations=fmt, kv=fmt, communication=fmt, engine="torch").resolved(fmt)


def conv_op(
    name: str, batch: float, c: float, k: float, size: float, kernel: float, stride: float, groups: float = 1
) -> Op:
    """A 2-D convolution with ``size`` x ``size`` outputs as an einsum; ``groups`` > 1 splits the channels."""
    step = f"{int(stride)}*" if stride > 1 else ""
    axes = f"{step}p+r {step}q+s"
    sizes: dict[str, Any] = {
        "n": batch,
        "c": c / groups,
        "k": k / groups,
        "p": size,
        "q": size,
        "r": kernel,
        "s": kernel,
    }
    grouped = groups > 1
    if grouped:
        sizes["g"] = groups
    g = "g " if grouped else ""
    return Op(
        name,
        f"n {g}c {axes}, {g}k c r s -> n {g}k p q",
        sizes,
        operands=("x", "w", "y"),
        roles=("activation", "weight", "activation"),
        block="conv",
    )


def kernel_of(case: Case, machine: Machine) -> Kernel:
    """The lowered kernel of a case on a machine."""
    graph = Graph(case.op, tuple(_ops(case)))
    return lower(graph, plan_for(case.number_format), machine).kernels[-1]


def _ops(case: Case) -> list[Op]:
    s = dict(case.shape)
    if case.op == "conv":
        return [conv_op("conv", s["batch"], s["c"], s["k"], s["size"], s["kernel"], s["stride"])]
    if case.op in ("prefill", "decode"):
        return _attention(s)
    if case.op == "vector":
        return [_chain(case.detail, s["rows"], s["width"])]
    if s["groups"] > 1:
        sizes = {"g": s["groups"], "t": s["m"], "d": s["k"], "f": s["n"]}
        return [Op("product", "g t d, g d f -> g t f", sizes)]
    return [
        Op(
            "product",
            "t d, d f -> t f",
            {"t": s["m"], "d": s["k"], "f": s["n"]},
            operands=("x", "w", "y"),
            roles=("activation", "weight", "activation"),
        )
    ]


def _chain(detail: str, rows: float, width: float) -> Op:
    if detail in ("add_norm", "add_layer_norm"):
        return Op(
            "norm",
            "t d, t d, w d -> t d",
            {"t": rows, "d": width, "w": 2 if detail == "add_layer_norm" else 1},
            operands=("x", "residual", "norm", "y"),
            roles=("activation", "activation", "weight", "activation"),
            map="norm",
            reduce="none",
            domain={("t", "w"): rows},
            bits={"norm": 16, "residual": 32},
        )
    sizes: dict[str, Any] = {"t": rows, "d": width}
    if detail == "silu_mul":
        return Op("act", "t u d -> t d", {**sizes, "u": 2}, map="silu", reduce="mul")
    if detail in ("add", "add_relu"):
        return Op("act", "t d, t d -> t d", sizes, map="add" if detail == "add" else "relu2", reduce="none")
    return Op("act", "t d -> t d", sizes, map=_CHAIN_MAP[detail], reduce="none")


def _attention(s: dict[str, float]) -> list[Op]:
    heads, kv_heads, dim = int(s["heads"]), int(s["kv_heads"]), int(s["head_dim"])
    layer = Layer(1, Attention(heads, kv_heads, dim), None, norms=0)
    model = Transformer(name="attention", model_type="llama", hidden=heads * dim, vocab=1, layers=(layer,))
    graph = model.graph(Step(batch=s["batch"], new=s["new"], context=s["context"]))
    return [op for op in graph if op.fuse.endswith(".attention")]
