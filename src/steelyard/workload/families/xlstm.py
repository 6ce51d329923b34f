"""xLSTM: the 7B model's matrix memories, and stacks of both kinds of blocks as the xlstm package writes them."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import Any

from steelyard.workload.blocks.linear_attention import LinearAttention
from steelyard.workload.blocks.lstm import MatrixMemory, ScalarMemory
from steelyard.workload.families._base import Fields, decoder
from steelyard.workload.transformer import FeedForward, Layer, Transformer

__all__ = ["share", "xlstm"]

#: Keys only a stack of both kinds of blocks states.
_STACK = ("slstm_at", "mlstm_block", "slstm_block")


def xlstm(config: Mapping[str, Any]) -> Transformer:
    """xLSTM 7B (arXiv:2503.13427), gated MLPs beside matrix memories; a stack where blocks are stated one by one."""
    if any(config.get(key) is not None for key in _STACK):
        return _stack(Fields(config))
    f = Fields(config)
    hidden, heads = f.size("hidden_size", "embedding_dim"), f.size("num_heads")
    keys, values = share(f, "qk_dim_factor", 0.5) * hidden, share(f, "v_dim_factor", 1.0) * hidden
    mixer = LinearAttention(
        heads,
        max(1, round(keys) // heads),
        max(1, round(values) // heads),
        gates=2,
        chunk=f.size("chunk_size", default=64),
    )
    step = f.size("ffn_round_up_to_multiple_of", default=64)
    width = -(-int(share(f, "ffn_proj_factor", 2.667) * hidden) // step) * step
    layer = Layer(f.depth("num_hidden_layers", "num_blocks"), None, FeedForward(width), mixer=mixer)
    return decoder(f, [layer], hidden=hidden, tied=f.flag("tie_word_embeddings", False))


def _stack(f: Fields) -> Transformer:
    """A stack of the xlstm package (arXiv:2405.04517): scalar memories in the blocks of ``slstm_at``, else matrices.

    A block of matrix memory has no feed-forward; one of scalar memory has one unless its ``feedforward`` is null.
    """
    hidden, depth = f.size("embedding_dim", "hidden_size"), f.depth("num_blocks", "num_hidden_layers")
    matrix, scalar = (f.config.get(key) for key in _STACK[1:])
    for key, value in zip(_STACK[1:], (matrix, scalar), strict=True):
        if value is not None and not isinstance(value, Mapping):
            f.problem(key, "expected a table")
    places = list(range(depth)) if matrix is None or f.config.get("slstm_at") == "all" else f.whole_list("slstm_at")
    outside = [i for i in places or () if not 0 <= i < depth]
    if outside:
        f.problem("slstm_at", f"expected blocks from 0 to {depth - 1}, got {outside[0]}")
    layers = [_scalar(f, scalar, hidden) if i in (places or ()) else _matrix(f, matrix, hidden) for i in range(depth)]
    tied = f.flag("tie_weights", f.flag("tie_word_embeddings", False))
    norm = f.flag("add_post_blocks_norm", True)
    context = 0 if f.config.get("context_length") == -1 else f.optional("context_length")
    return decoder(f, layers, hidden=hidden, tied=tied, final_norm=norm, max_context=context)


def _part(value: Any, name: str) -> Mapping[str, Any]:
    """The table of a block, or of its part ``name`` when it states it so."""
    table = value if isinstance(value, Mapping) else {}
    inner = table.get(name)
    return inner if isinstance(inner, Mapping) else table


def _matrix(f: Fields, stated: Any, hidden: int) -> Layer:
    part = Fields(_part(stated, "mlstm"))
    heads, inner = part.size("num_heads", default=4), _rounded(part, 2.0, hidden)
    block, taps = part.size("qkv_proj_blocksize", default=4), part.optional("conv1d_kernel_size", default=4)
    for name, by in (("num_heads", heads), ("qkv_proj_blocksize", block)):
        if inner % by:
            part.problem(name, f"{by} does not divide the inner width {inner}")
    _moved(f, part, "mlstm_block")
    mixer = MatrixMemory(heads, inner, block, taps, bias=f.flag("bias", False))
    return Layer(1, None, None, norms=1, mixer=mixer)


def _scalar(f: Fields, stated: Any, hidden: int) -> Layer:
    part = Fields(_part(stated, "slstm"))
    heads, taps = part.size("num_heads", default=4), part.optional("conv1d_kernel_size", default=4)
    if hidden % heads:
        part.problem("num_heads", f"{heads} does not divide the hidden width {hidden}")
    _moved(f, part, "slstm_block")
    mixer = ScalarMemory(heads, hidden, taps)
    if isinstance(stated, Mapping) and "feedforward" in stated and stated["feedforward"] is None:
        return Layer(1, None, None, norms=1, mixer=mixer)
    outer = Fields(_part(stated, "feedforward") if isinstance(stated, Mapping) and "feedforward" in stated else {})
    act, bias = outer.activation("act_fn", default="gelu"), outer.flag("bias", False)
    mlp = FeedForward(_rounded(outer, 1.3, hidden), activation=act, up_bias=bias, down_bias=bias)
    _moved(f, outer, "slstm_block.feedforward")
    return Layer(1, None, mlp, mixer=mixer)


def _moved(f: Fields, part: Fields, where: str) -> None:
    for problem in part.problems:
        f.problem(f"{where}.{problem.field}", problem.message)


def _rounded(f: Fields, factor: float, hidden: int) -> int:
    """The hidden width times ``proj_factor``, rounded to a multiple, up unless stated otherwise."""
    step = f.size("round_proj_up_to_multiple_of", default=64)
    towards = ceil if f.flag("round_proj_up_dim_up", True) else floor
    return max(step, towards(share(f, "proj_factor", factor) * hidden / step) * step)


def share(f: Fields, name: str, default: float) -> float:
    """A factor above 0."""
    value = f.config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 64:
        f.problem(name, "expected a number above 0")
        return default
    return float(value)
