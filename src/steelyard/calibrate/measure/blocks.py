"""Random-weight transformer and CNN blocks: run in PyTorch, and the same blocks as Steelyard graphs.

Sizes are none of those the calibration measures. A transformer has as many layers as it takes for its weights not to
stay in the last-level cache; a KV cache is written and read as an engine would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard.calibrate.measure.graphs import conv_op
from steelyard.workload.graph import Graph
from steelyard.workload.op import Op
from steelyard.workload.transformer import Attention, FeedForward, Layer, Step, Transformer

__all__ = ["CNNS", "TRANSFORMERS", "Block", "blocks"]


@dataclass(frozen=True, slots=True)
class Block:
    """One block to run and to price."""

    name: str
    number_format: str
    graph: Graph
    make: Callable[[], Callable[[], object]]
    """Builds the weights and returns the call."""


@dataclass(frozen=True, slots=True)
class _Shape:
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    gated: bool


TRANSFORMERS = (
    _Shape(640, 10, 10, 2560, False),
    _Shape(896, 14, 2, 2432, True),
    _Shape(1152, 18, 6, 3456, True),
)
STEPS = (
    ("prefill", 1, 100),
    ("prefill", 1, 288),
    ("prefill", 3, 80),
    ("decode", 1, 700),
    ("decode", 6, 400),
    ("decode", 20, 160),
)
"""(phase, batch, tokens of context)."""
LEAST_WEIGHT_BYTES = 1.0e8
HEAD_DIM = 64
CNNS = (
    ("basic", 1, 80, 80, 44),
    ("basic", 2, 160, 160, 22),
    ("bottleneck", 1, 384, 96, 28),
    ("bottleneck", 3, 640, 160, 14),
    ("plain", 1, 48, 48, 72),
    ("plain", 4, 224, 224, 14),
)
"""(kind, batch, channels, inner channels, height and width)."""


def blocks(number_formats: tuple[str, ...], least_weight_bytes: float = LEAST_WEIGHT_BYTES) -> list[Block]:
    """Every block, in every number format; CNN blocks in the first one only."""
    found = []
    for fmt in number_formats:
        for shape in TRANSFORMERS:
            for phase, batch, context in STEPS:
                found.append(_transformer(shape, phase, batch, context, fmt, least_weight_bytes))
    return found + [_cnn(*cnn, number_formats[0]) for cnn in CNNS]


def _transformer(s: _Shape, phase: str, batch: int, context: int, fmt: str, least_bytes: float) -> Block:
    qkv = (s.heads + 2 * s.kv_heads) * HEAD_DIM
    weights = s.hidden * (qkv + s.heads * HEAD_DIM + (3 if s.gated else 2) * s.intermediate)
    layers = max(2, round(least_bytes / (weights * (4 if fmt == "fp32" else 2))))
    attention = Attention(s.heads, s.kv_heads, HEAD_DIM, rotary_dim=HEAD_DIM if s.gated else 0)
    mlp = FeedForward(s.intermediate, gated=s.gated, activation="silu" if s.gated else "gelu")
    layer = Layer(layers, attention, mlp, norm_bias=not s.gated)
    model = Transformer(name="blocks", model_type="llama", hidden=s.hidden, vocab=1, layers=(layer,))
    new = context if phase == "prefill" else 1
    graph = model.graph(Step(batch=batch, new=new, context=context)).where(lambda op: op.name.startswith("layer"))
    name = (
        f"{phase} d{s.hidden} h{s.heads}/{s.kv_heads} {'gated' if s.gated else 'plain'} batch {batch} context {context}"
    )
    return Block(name, fmt, graph, lambda: _run_transformer(s, layers, batch, new, context, fmt))


def _run_transformer(s: _Shape, layers: int, batch: int, new: int, context: int, fmt: str) -> Callable[[], object]:
    import torch
    import torch.nn.functional as nn

    from steelyard.calibrate.measure.kernels_torch import DTYPES

    dtype = DTYPES[fmt]

    def weight(*shape: int) -> Any:
        return (torch.randn(*shape) / shape[-1] ** 0.5).to(dtype)

    qkv_width = (s.heads + 2 * s.kv_heads) * HEAD_DIM
    up_width = s.intermediate * (2 if s.gated else 1)
    w = [
        (
            weight(qkv_width, s.hidden),
            weight(s.hidden, s.heads * HEAD_DIM),
            weight(up_width, s.hidden),
            weight(s.hidden, s.intermediate),
        )
        for _ in range(layers)
    ]
    caches = [torch.zeros(2, batch, s.kv_heads, context, HEAD_DIM, dtype=dtype) for _ in range(layers)]
    gain, bias = torch.ones(s.hidden, dtype=dtype), torch.zeros(s.hidden, dtype=dtype)
    cos, sin = (torch.randn(1, 1, new, HEAD_DIM).to(dtype) for _ in range(2))
    x0 = torch.randn(batch, new, s.hidden).to(dtype)
    grouped = s.heads != s.kv_heads

    def norm(x: Any) -> Any:
        return nn.rms_norm(x, (s.hidden,), gain, 1e-5) if s.gated else nn.layer_norm(x, (s.hidden,), gain, bias)

    def rotate(x: Any) -> Any:
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat((-high, low), -1) * sin

    def call() -> object:
        with torch.inference_mode():
            h = x0
            for (w_qkv, w_o, w_up, w_down), cache in zip(w, caches, strict=True):
                qkv = nn.linear(norm(h), w_qkv).view(batch, new, -1, HEAD_DIM).transpose(1, 2)
                q, k, v = torch.split(qkv, [s.heads, s.kv_heads, s.kv_heads], 1)
                if s.gated:
                    q, k = rotate(q), rotate(k)
                cache[0, :, :, context - new :] = k
                cache[1, :, :, context - new :] = v
                a = nn.scaled_dot_product_attention(q, cache[0], cache[1], is_causal=new > 1, enable_gqa=grouped)
                h = h + nn.linear(a.transpose(1, 2).reshape(batch, new, -1), w_o)
                up = nn.linear(norm(h), w_up)
                if s.gated:
                    gate, value = up.chunk(2, -1)
                    up = nn.silu(gate) * value
                else:
                    up = nn.gelu(up)
                h = h + nn.linear(up, w_down)
            return h

    return call


def _cnn(kind: str, batch: int, channels: int, inner: int, size: int, fmt: str) -> Block:
    convs = {
        "basic": [(channels, channels, 3), (channels, channels, 3)],
        "bottleneck": [(channels, inner, 1), (inner, inner, 3), (inner, channels, 1)],
        "plain": [(channels, channels, 3)] * 4,
    }[kind]
    ops: list[Op] = []
    for i, (c, k, kernel) in enumerate(convs):
        ops.append(conv_op(f"conv{i}.conv", batch, c, k, size, kernel, 1))
        last = i == len(convs) - 1 and kind != "plain"
        sizes: dict[str, Any] = {"t": batch * size * size, "d": k}
        if last:
            ops.append(Op(f"conv{i}.add", "t d, t d -> t d", sizes, map="relu2", reduce="none"))
        else:
            ops.append(Op(f"conv{i}.relu", "t d -> t d", sizes, map="relu", reduce="none"))
    name = f"{kind} CNN block {channels}/{inner} channels {size}x{size} batch {batch}"
    return Block(name, fmt, Graph(name, tuple(ops)), lambda: _run_cnn(convs, kind, batch, size))


def _run_cnn(convs: list[tuple[int, int, int]], kind: str, batch: int, size: int) -> Callable[[], object]:
    import torch
    import torch.nn.functional as nn

    w = [torch.randn(k, c, kernel, kernel) / (c * kernel * kernel) ** 0.5 for c, k, kernel in convs]
    b = [torch.randn(k) for _, k, _ in convs]
    x0 = torch.randn(batch, convs[0][0], size, size)

    def call() -> object:
        with torch.inference_mode():
            x = x0
            for i, (weight, bias) in enumerate(zip(w, b, strict=True)):
                x = nn.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
                x = nn.relu(x + x0) if i == len(w) - 1 and kind != "plain" else nn.relu(x)
            return x

    return call
