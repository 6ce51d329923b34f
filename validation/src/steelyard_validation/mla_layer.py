"""A whole latent-attention layer (DeepSeek-V3's), as the aiconfigurator collector times it: what is around attention.

The collector captures one forward of vLLM's layer in a CUDA graph and repeats it; inputs and weights are constants.
Time is that of the products (down, query up, key-value up or the two absorbed products, output), of attention, and of a
chain of small kernels (norms, rotary embedding, cache write, copies that join rotary and plain parts). Without a
compiler vLLM seems to run norms and rotary embedding as separate elementwise kernels on Hopper and Ada, and as fused
ones on Blackwell (inferred from the times): some 40 small kernels and 85 kB per token, against 12 and none. All of a
small layer's weights stay in the last-level cache between repeats. Method and errors: docs/methods/attention.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.attention_decode import hot_share
from steelyard.cost.devices import attention_device
from steelyard.cost.site import site_for
from steelyard.deployment.formats import find_format
from steelyard.machine.component import Machine
from steelyard_validation.readers import _ops

__all__ = ["CALL_S", "LAYER_SPREAD", "STACKS", "Chain", "chain_of", "chain_s", "layer_rest", "products"]

Floats = NDArray[np.float64]

HIDDEN, QUERY_RANK, LATENT, ROPE, NOPE, VALUE = 7168, 1536, 512, 64, 128, 128
"""DeepSeek-V3: hidden width, query and key-value ranks, rotary, plain and value elements of a head (its config)."""
KERNEL_S: Final = 1.6e-6
"""s of one small kernel inside a graph. Source: vector kernels of H100, A100 (catalogue/calibration/*/vector.toml)."""
DRAM_FRAC, CACHE_FRAC = 0.9, 0.87
"""Of the bandwidths an elementwise kernel sustains. Source: the same fits."""
CHAIN_DEPTH: Final = 9.0
"""Bytes the whole chain moves over those one of its kernels works on: seven elementwise steps of a norm, two of them
in 32 bit."""
ELEMENT: Final = 2.0
"""Bytes of a 16-bit activation."""


GRAPH_START_S: Final = 2.5e-6
"""s: start of a graph that the nvfp4 products of the tables contain, one product per graph where others repeat six. It
is taken out of each of a layer's. Source: layers of the fitted head counts, nvfp4 against bf16."""
LAYER_SPREAD: Final[Mapping[str, float]] = MappingProxyType(
    {"hopper": 0.083, "blackwell": 0.1, "ada": 0.105, "ampere": 0.166}
)
"""Least log-space spread of whole layers by machine family: 10th to 90th percentile of the fitted half over 2.56."""
CALL_S: Final[Mapping[str, float]] = MappingProxyType({"prefill": 2.9e-4, "decode": 3.4e-4})
"""s: host time of one eager attention call (vLLM 0.14, the A100 host), below which those tables measure the host.
Source: fitted with the small kernels to half of the head counts."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The small kernels of a layer in one software stack; facts of the software, fitted to half of the head counts."""

    kernels: float
    """Their number."""
    token_bytes: float
    """Bytes they move per token whatever the heads: norms of query and key-value ranks."""
    head_bytes: float
    """Bytes they move per token and head: rotary embedding, joined keys or queries."""
    head_s: float = 0.0
    """s x unit per token and head: kernels of one thread block per row."""


#: By attention kernel of the tables (decode kernels also serve short prompts), the machine class where it matters.
STACKS: Final[Mapping[str, Chain]] = MappingProxyType(
    {
        "FLASH_ATTN": Chain(38.3, 8.7e4, 3.2e3),
        "FLASH_ATTN_MLA": Chain(28.4, 8.5e4, 2e3, 3.0e-7),
        "FLASHMLA": Chain(39.8, 8.5e4, 2e3, 3.0e-7),
        "FLASH_ATTN ada": Chain(27.1, 5.4e4, 2.9e3),
        "TRITON_MLA": Chain(28.7, 3.2e4, 2e3, 6.2e-7),
        "FLASH_ATTN blackwell": Chain(11.8, 0.0, 9e2),
        "TRTLLM_RAGGED": Chain(11.8, 0.0, 4.2e3),
        "FLASHINFER_MLA": Chain(6.0, 0.0, 2e3, 5.3e-7),
        "vllm_triton_mla prefill": Chain(0.0, 0.0, 4.8e3),
        "vllm_triton_mla decode": Chain(0.0, 0.0, 4e2),  # calls, not layers: no norms, no projections
    }
)


def chain_of(kernel: str, machine: Machine, phase: str) -> Chain:
    """The chain of a row: by its kernel, then by machine family or phase."""
    for key in (f"{kernel} {machine.family}", f"{kernel} {phase}", kernel):
        if key in STACKS:
            return STACKS[key]
    return Chain(0.0, 0.0, 0.0)


def chain_s(chain: Chain, machine: Machine, tokens: Any, heads: Any) -> Floats:
    """Time (s) of the small kernels: kernels KERNEL_S + bytes / bandwidth + tokens heads head_s / units."""
    device = attention_device(site_for(machine))
    count, many = np.asarray(tokens, dtype=np.float64), np.asarray(heads, dtype=np.float64)
    moved = count * (chain.token_bytes + chain.head_bytes * many)
    hot = hot_share(moved / CHAIN_DEPTH, device.l2_bytes, 4.0)
    slow, fast = DRAM_FRAC * device.dram_bytes_per_s, CACHE_FRAC * device.l2_bytes_per_s
    rows = count * many * (chain.head_s / device.units)
    return np.asarray(chain.kernels * KERNEL_S + moved * ((1 - hot) / slow + hot / fast) + rows)


def _fast_memory(machine: Machine) -> Machine:
    """The machine with a main memory as fast as its last-level cache, where the weights of a repeated layer stay."""
    cached = max(attention_device(site_for(machine)).l2_bytes_per_s, machine.root.bandwidth_bytes_per_s)
    memory = tuple(
        replace(m, bandwidth_bytes_per_s=cached) if m.name == machine.root.name else m for m in machine.memory
    )
    return machine.but(memory=memory)


def products(
    machine: Machine, weights: str, tokens: Any, heads: Any, *, absorbed: bool, projections: bool = True
) -> _ops.Answer:
    """The dense products of a layer, weights from the cache as far as the whole layer fits it.

    Args:
        machine: where.
        weights: format of the weights.
        tokens, heads: arrays of one shape.
        absorbed: keys and values stay compressed (decode); else they are expanded per head.
        projections: down, query and output projections too; False: only what an attention call itself does.
    """
    count, many = np.asarray(tokens, dtype=np.float64), np.asarray(heads, dtype=np.float64)
    around = HIDDEN * (QUERY_RANK + LATENT + ROPE) + QUERY_RANK * many * (NOPE + ROPE) + many * VALUE * HIDDEN
    up = many * LATENT * (NOPE + VALUE)
    stored = find_format(weights).stored_bits / 8
    weight_bytes = around * stored * projections + up * (ELEMENT if absorbed else stored)
    row = 2 * HIDDEN + QUERY_RANK + LATENT + ROPE + many * (NOPE + ROPE + 2 * VALUE + (2 * LATENT if absorbed else 0))
    hot = hot_share(weight_bytes + count * row * ELEMENT, attention_device(site_for(machine)).l2_bytes)
    cold = _products(machine, weights, count, many, absorbed, projections)
    if np.all(hot < 1e-3):
        return cold
    warm = _products(_fast_memory(machine), weights, count, many, absorbed, projections)
    return _ops.Answer(
        (1 - hot) * cold.time_s + hot * warm.time_s,
        (1 - hot) * cold.low_s + hot * warm.low_s,
        (1 - hot) * cold.high_s + hot * warm.high_s,
        cold.roofline_s,
        cold.source,
    )


def _products(
    machine: Machine, weights: str, tokens: Floats, heads: Floats, absorbed: bool, projections: bool
) -> _ops.Answer:
    def gemm(fmt: str, n: Any, k: Any, groups: Any = 1) -> _ops.Answer:
        return _ops.gemm(machine, fmt, tokens, n, k, groups=groups, hot=False)

    if absorbed:
        total = gemm("bf16", LATENT, NOPE, heads) + gemm("bf16", VALUE, LATENT, heads)
    else:
        total = gemm(weights, heads * (NOPE + VALUE), LATENT)
    if not projections:
        return total
    total = total + gemm(weights, QUERY_RANK + LATENT + ROPE, HIDDEN)
    total = total + gemm(weights, heads * (NOPE + ROPE), QUERY_RANK) + gemm(weights, HIDDEN, heads * VALUE)
    return total.after((3 if absorbed else 4) * _product_extra_s(machine, weights))


def _product_extra_s(machine: Machine, weights: str) -> float:
    """Seconds of one product in the layer more than in the product tables."""
    if weights == "nvfp4":
        return -GRAPH_START_S
    if weights == "fp8_block" and machine.family == "blackwell":  # a kernel of its own packs the scales for DeepGEMM
        return KERNEL_S
    return 0.0


def layer_rest(
    machine: Machine,
    kernel: str,
    weights: str,
    tokens: Any,
    heads: Any,
    *,
    absorbed: bool,
    phase: str,
    projections: bool = True,
) -> _ops.Answer:
    """Everything of a layer but the attention kernel: products and small kernels.

    Args:
        machine, weights, tokens, heads, absorbed, projections: as `products`.
        kernel: the attention kernel as the tables name it.
        phase: "prefill" or "decode".
    """
    chain = chain_s(chain_of(kernel, machine, phase), machine, tokens, heads)
    dense = products(machine, weights, tokens, heads, absorbed=absorbed, projections=projections)
    return _ops.Answer(dense.time_s + chain, dense.low_s + chain, dense.high_s + chain, dense.roofline_s, dense.source)
