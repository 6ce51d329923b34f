"""Blocks of the KV cache, counted as the engines count them at start-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steelyard.cost.encode import start_up_bytes
from steelyard.cost.kv_pages import Printed, pages_of, printed
from steelyard.cost.memory import kv_bytes, step_bytes, weight_bytes, windowed_bytes
from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.errors import DoesNotFit
from steelyard.machine.component import Machine
from steelyard.workload.protocol import Workload

__all__ = ["KvPool", "blocks_for", "engine_prints", "kv_pool", "left_bytes", "longest_request", "seated"]

#: Token cap of a cache that grows without end.
NO_CAP = 2**30
#: Longest request where nothing limits it.
NO_LIMIT = 2**40
#: 80 % interval of what is left for the cache: what compiling and libraries hold besides differs by so much from start
#: to start and machine to machine, and what a step's tensors take by this share of them.
SPREAD_BYTES = 0.3 * 2**30
SPREAD_FRAC = 0.4


@dataclass(frozen=True, slots=True)
class KvPool:
    """The cache of one replica.

    A request with ``t`` cached tokens holds ``ceil(min(t, token_cap) / block_tokens) + fixed_blocks`` blocks:
    ``fixed_blocks`` carries what does not grow (the sliding windows of mixed models, a recurrent state that takes
    blocks), ``token_cap`` ends growth when every layer has a window. Recurrent states that lie beside the blocks have
    ``slots`` of their own.
    """

    blocks: int
    block_tokens: int
    block_bytes: float
    """Bytes of one block on one device."""
    fixed_blocks: int = 0
    token_cap: int = NO_CAP
    overridden: bool = False
    """The number of blocks was given, not computed."""
    slots: int = 0
    """Recurrent states kept at once on each device; 0: the model has none."""
    slot_bytes: float = 0.0
    """Bytes of a state on one device."""
    sequences: int = NO_LIMIT
    """Requests that may run at once for the states they need: no engine starts with a larger ``max_num_seqs``."""
    apart: bool = False
    """States lie beside the blocks."""

    @property
    def tokens(self) -> int:
        """Tokens the pool holds."""
        return self.blocks * self.block_tokens

    @property
    def fixed_bytes(self) -> float:
        """Bytes of a request on one device that do not grow with its tokens."""
        return self.fixed_blocks * self.block_bytes + (self.slot_bytes if self.apart else 0.0)

    def states(self) -> Mapping[str, Any]:
        """``slots``, ``slot_bytes`` and ``max_num_seqs`` (None: no limit of theirs); empty without states."""
        if not self.slots:
            return {}
        most = self.sequences if self.sequences < NO_LIMIT else None
        return {"slots": self.slots, "slot_bytes": self.slot_bytes, "max_num_seqs": most}


def blocks_for(pool: KvPool, tokens: int) -> int:
    """Blocks of one request with ``tokens`` cached tokens."""
    return -(-min(tokens, pool.token_cap) // pool.block_tokens) + pool.fixed_blocks


def seated(config: EngineConfig, pool: KvPool) -> EngineConfig:
    """The flags with as many requests at once as there are states for."""
    return replace(config, max_num_seqs=min(config.max_num_seqs, max(1, pool.sequences)))


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
    left: float | None = None,
    longest: int = 0,
) -> KvPool:
    """The cache that is left beside weights, activations and workspace.

    vLLM: ``memory * utilization - weights - activations of a step of max_num_batched_tokens - workspace``. SGLang:
    ``memory * mem_fraction_static - weights`` (activations and graphs live in the rest). TensorRT-LLM:
    ``(memory - weights - activations - workspace) * free_gpu_memory_fraction``. Whole blocks of all layers of a stage.

    Recurrent states: vLLM's take blocks, and it does not start with more requests than blocks. SGLang's have a pool of
    their own, ``mamba_full_memory_ratio`` times what the other cache gets, and a running request holds three where
    prefixes are shared. llama.cpp and TensorRT-LLM keep one for each of ``max_num_seqs``; here at most half of what is
    left goes to them.

    Args:
        model, plan, machine, engine, config: what starts.
        exact_weights: bytes of the real weight files.
        left: bytes of a device left for the cache, when they are known already.
        longest: tokens of the longest request; 0 = not known. Layers with a window that none fills grow with every
            token, and hold no window.

    Raises:
        DoesNotFit: not even one block is left.
    """
    block_tokens, block_bytes, fixed_blocks, cap = _shape(model, plan, engine, config, longest)
    apart = bool(engine.states and model.state_bytes and cap)
    if config.num_gpu_blocks_override:
        pool = KvPool(config.num_gpu_blocks_override, block_tokens, block_bytes, fixed_blocks, cap, True)
        if apart:
            pool = replace(pool, slots=config.max_num_seqs, slot_bytes=_state_bytes(model, plan), apart=True)
        return _with_states(pool, model, engine)
    if left is None:
        left = left_bytes(model, plan, machine, engine, config, exact_weights=exact_weights)[0]
    slots, sequences, state = _slots(model, plan, engine, config, left) if apart else (0, NO_LIMIT, 0.0)
    blocks = math.floor((left - slots * state) / block_bytes) if block_bytes > 0 else 0
    if blocks < 1 + fixed_blocks:
        short = (1 + fixed_blocks) * block_bytes + slots * state - left
        raise DoesNotFit(
            f"{model.name} leaves no memory for the KV cache: {short / 2**30:,.1f} GiB short on each device",
            change=_smaller_step(model, plan, machine, engine, config, exact_weights, short),
        )
    pool = KvPool(blocks, block_tokens, block_bytes, fixed_blocks, cap, False, slots, state, sequences, apart)
    return _with_states(pool, model, engine)


def _smaller_step(
    model: Workload,
    plan: Plan,
    machine: Machine,
    engine: Engine,
    config: EngineConfig,
    exact_weights: float | None,
    short: float,
) -> str:
    """What would leave memory for the cache: a smaller step where that alone does."""

    def gains(**changes: int) -> bool:
        one = replace(config, **changes)  # type: ignore[arg-type]
        now, then = (left_bytes(model, plan, machine, engine, c, exact_weights=exact_weights)[0] for c in (config, one))
        return then - now >= short

    if config.max_mamba_cache_size:
        return "a smaller max_mamba_cache_size, more devices or a larger gpu_memory_utilization"
    step = "max_model_len" if engine.whole_prompts >= config.max_num_batched_tokens else "max_num_batched_tokens"
    ways = {"max_num_seqs": gains(max_num_seqs=1), step: gains(max_num_batched_tokens=1)}
    found = [name for name, does in ways.items() if does]
    if found:
        return f"a smaller {' or '.join(found)}, more devices or a larger gpu_memory_utilization"
    return "more devices, a narrower number format or a larger gpu_memory_utilization"


def _with_states(pool: KvPool, model: Workload, engine: Engine) -> KvPool:
    """The pool with the slots of states that take its blocks."""
    if pool.apart or not model.state_bytes:
        return pool
    fixed = max(1, pool.fixed_blocks)
    most = pool.blocks if engine.grouped_pages or not pool.token_cap else NO_LIMIT
    return replace(pool, slots=pool.blocks // fixed, slot_bytes=fixed * pool.block_bytes, sequences=most)


def _slots(model: Workload, plan: Plan, engine: Engine, config: EngineConfig, left: float) -> tuple[int, int, float]:
    """States beside the blocks: ``(kept at once, requests that may run for them, bytes of one on a device)``."""
    state, left = _state_bytes(model, plan), max(0.0, left)
    if engine.states == "ahead":
        slots = max(1, min(config.max_num_seqs, math.floor(left / 2 / state)))
        return slots, slots, state
    ratio = config.mamba_full_memory_ratio or engine.state_share
    copies = int(engine.state_copies) if config.enable_prefix_caching else 1
    slots = config.max_mamba_cache_size or math.floor(left * ratio / (1 + ratio) / state)
    slots = max(copies, slots if config.enable_prefix_caching else min(slots, config.max_num_seqs))
    return slots, slots // copies, state


def _state_bytes(model: Workload, plan: Plan) -> float:
    """Bytes of one recurrent state on the fullest device."""
    return model.state_bytes / plan.tp * -(-model.depth // plan.pp) / model.depth


def left_bytes(
    model: Workload,
    plan: Plan,
    machine: Machine,
    engine: Engine,
    config: EngineConfig,
    *,
    exact_weights: float | None = None,
    weights: float | None = None,
) -> tuple[float, float, float]:
    """Bytes of a device left for the cache: as predicted, and the ends of the 80 % interval. Below 0: it does not fit.

    Args:
        model, plan, machine, engine, config: what starts.
        exact_weights: bytes of the real weight files.
        weights: weight bytes of the fullest device, when they are known already.
    """
    if weights is None:
        weights = weight_bytes(model, plan, exact_weights, engine.multiples(machine))
    rows = min(config.max_num_seqs, config.max_num_batched_tokens)
    step_tokens = min(config.max_num_batched_tokens, model.max_context or config.max_num_batched_tokens)
    step = float(step_bytes(model, plan, step_tokens, rows, engine))
    beside = engine.beside_bytes(machine, plan.tp)
    if engine.profiles_images and model.towers:
        towers, kept = start_up_bytes(model, plan, machine, config.max_num_batched_tokens)
        step = max(step, towers) + kept
    left = engine.cache_bytes(machine, config.gpu_memory_utilization, weights, step + beside, plan.tp)
    spread = math.hypot(SPREAD_BYTES, SPREAD_FRAC * step * engine.working_frac(1.0), 0.01 * weights)
    return left, left - spread, left + min(spread, step + beside)


def engine_prints(
    model: Workload,
    plan: Plan,
    machine: Machine,
    engine: Engine,
    config: EngineConfig,
    *,
    exact_weights: float | None = None,
    weights: float | None = None,
) -> Printed:
    """What the engine's log will say of its cache (arguments as of :func:`left_bytes`)."""
    left = left_bytes(model, plan, machine, engine, config, exact_weights=exact_weights, weights=weights)
    block_tokens, block_bytes, _, cap = _shape(model, plan, engine, config)
    if config.num_gpu_blocks_override:
        left = (config.num_gpu_blocks_override * block_bytes,) * 3
    slots, most, state = 0, NO_LIMIT, 0.0
    if model.state_bytes and block_bytes and left[0] > 0:
        if engine.states and cap:
            slots, most, state = _slots(model, plan, engine, config, left[0])
            left = (left[0] - slots * state, left[1] - slots * state, left[2] - slots * state)
        elif engine.grouped_pages or not cap:
            slots = most = int(left[0] / block_bytes)
    found = printed(model, plan, engine, config, left, block_bytes / block_tokens if cap else 0.0)
    return replace(found, slots=slots, sequences=most if most < NO_LIMIT else 0)


def _shape(
    model: Workload, plan: Plan, engine: Engine, config: EngineConfig, longest: int = 0
) -> tuple[int, float, int, int]:
    """``(tokens of a block, its bytes, blocks that do not grow, token cap)``."""
    far, block_tokens = 2**22, config.block_size

    def held(tokens: int) -> float:
        return float(kv_bytes(model, plan, 1, tokens))

    growth = (held(2 * far) - held(far)) / far
    window = model.window
    if each := windowed_bytes(model, plan, engine):  # windows are no longer a part that does not grow
        state = _state_bytes(model, plan) if model.state_bytes and not engine.states else 0.0
        return block_tokens, each * block_tokens, math.ceil(state / (each * block_tokens) - 1e-9), NO_CAP
    if growth > 0:
        if window and 0 < longest < window and not model.state_bytes:
            return block_tokens, held(longest) / longest * block_tokens, 0, NO_CAP
        fixed = held(far) - growth * far
        pages = pages_of(model, plan, block_tokens) if engine.grouped_pages and model.state_bytes else None
        if pages is not None and pages.block_tokens:  # a state takes a page, and a page of attention is as large
            fixed += pages.states(1, config.mamba_cache_mode) * pages.block_bytes - _state_bytes(model, plan)
            block_tokens = pages.block_tokens
            if config.mamba_cache_mode == "all":  # and so does that at the end of every block
                fixed -= pages.state_groups * pages.block_bytes
                growth += pages.state_groups * pages.block_bytes / block_tokens
        elif engine.states and model.state_bytes:
            fixed -= _state_bytes(model, plan)
        return block_tokens, growth * block_tokens, math.ceil(fixed / (growth * block_tokens) - 1e-9), NO_CAP
    if window:  # every layer has a window
        state = held(0)
        per_token = (held(window) - state) / window
        return block_tokens, per_token * block_tokens, math.ceil(state / (per_token * block_tokens) - 1e-9), window
    return block_tokens, max(held(0), 1.0), 1, 0
