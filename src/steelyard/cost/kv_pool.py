"""Blocks of the KV cache, counted as the engines count them at start-up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.cost.memory import activation_bytes, kv_bytes, weight_bytes
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.errors import DoesNotFit
from steelyard.machine.component import Machine
from steelyard.workload.protocol import Workload

__all__ = ["KvPool", "blocks_for", "kv_pool", "longest_request"]

#: Token cap of a cache that grows without end.
NO_CAP = 2**30
#: Longest request where nothing limits it.
NO_LIMIT = 2**40


@dataclass(frozen=True, slots=True)
class KvPool:
    """The cache of one replica.

    A request with ``t`` cached tokens holds ``ceil(min(t, token_cap) / block_tokens) + fixed_blocks`` blocks:
    ``fixed_blocks`` carries what does not grow (recurrent state, the sliding windows of mixed models),
    ``token_cap`` ends growth when every layer has a window.
    """

    blocks: int
    block_tokens: int
    block_bytes: float
    """Bytes of one block on one device."""
    fixed_blocks: int = 0
    token_cap: int = NO_CAP
    overridden: bool = False
    """The number of blocks was given, not computed."""

    @property
    def tokens(self) -> int:
        """Tokens the pool holds."""
        return self.blocks * self.block_tokens


def blocks_for(pool: KvPool, tokens: int) -> int:
    """Blocks of one request with ``tokens`` cached tokens."""
    return -(-min(tokens, pool.token_cap) // pool.block_tokens) + pool.fixed_blocks


def longest_request(pool: KvPool, config: EngineConfig, max_context: int = 0) -> int:
    """Prompt and answer of the longest request an engine accepts, in tokens.

    Args:
        pool, config: its cache and its flags.
        max_context: the model's own limit, 0 = none.
    """
    limit = config.max_model_len or max_context or NO_LIMIT
    held = (pool.blocks - pool.fixed_blocks) * pool.block_tokens
    return limit if pool.token_cap <= held else min(limit, held)


def kv_pool(
    model: Workload,
    plan: Plan,
    machine: Machine,
    engine: Engine,
    config: EngineConfig,
    *,
    exact_weights: float | None = None,
) -> KvPool:
    """The cache that is left beside weights, activations and workspace.

    vLLM: ``memory * utilization - weights - activations of a step of max_num_batched_tokens - workspace``. SGLang:
    ``memory * mem_fraction_static - weights`` (activations and graphs live in the rest). TensorRT-LLM:
    ``(memory - weights - activations - workspace) * free_gpu_memory_fraction``. Whole blocks of all layers of a stage.

    Raises:
        DoesNotFit: not even one block is left.
    """
    block_bytes, fixed_blocks, cap = _shape(model, plan, config.block_size)
    if config.num_gpu_blocks_override:
        return KvPool(config.num_gpu_blocks_override, config.block_size, block_bytes, fixed_blocks, cap, True)
    weights = weight_bytes(model, plan, exact_weights, engine.multiples(machine))
    rows = min(config.max_num_seqs, config.max_num_batched_tokens)
    step_tokens = min(config.max_num_batched_tokens, model.max_context or config.max_num_batched_tokens)
    work = float(activation_bytes(model, plan, step_tokens, rows)) + engine.workspace_bytes
    left = engine.cache_bytes(machine, config.gpu_memory_utilization, weights, work)
    blocks = math.floor(left / block_bytes) if block_bytes > 0 else 0
    if blocks < 1 + fixed_blocks:
        short = (1 + fixed_blocks) * block_bytes - left
        raise DoesNotFit(
            f"{model.name} leaves no memory for the KV cache: {short / 2**30:,.1f} GiB short on each device",
            change="more devices, a narrower number format or a larger gpu_memory_utilization",
        )
    return KvPool(blocks, config.block_size, block_bytes, fixed_blocks, cap)


def _shape(model: Workload, plan: Plan, block_tokens: int) -> tuple[float, int, int]:
    """``(bytes of a block, blocks that do not grow, token cap)``."""
    far = 2**22

    def held(tokens: int) -> float:
        return float(kv_bytes(model, plan, 1, tokens))

    growth = (held(2 * far) - held(far)) / far
    window = model.window
    if growth > 0:
        fixed = held(far) - growth * far
        return growth * block_tokens, math.ceil(fixed / (growth * block_tokens) - 1e-9), NO_CAP
    if window:  # every layer has a window
        state = held(0)
        per_token = (held(window) - state) / window
        return per_token * block_tokens, math.ceil(state / (per_token * block_tokens) - 1e-9), window
    return max(held(0), 1.0), 1, 0
