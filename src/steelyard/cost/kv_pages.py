"""Pages of the KV cache of mixed models, and the lines an engine prints of it at start-up.

vLLM puts the layers of each kind (full attention, a window, a recurrent state) in groups of equal size; a block is one
page of every layer of a group, and all groups draw from one pool. What it prints as the size of the cache divides the
blocks by the groups, so for mixed models it is not what fits: a window holds few of them. Read from the behaviour of
vLLM 0.12; the log lines of 50 servers agree (docs/validation/rtx_consumer_vllm.md).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.deployment.engine import Engine
from steelyard.deployment.engine_config import EngineConfig
from steelyard.deployment.plan import Plan
from steelyard.workload.kept import Kept, kept_by_layers
from steelyard.workload.protocol import Workload

__all__ = ["Pages", "Printed", "pages_of", "printed"]

#: The larger kind makes the group when it has fewer than so many times the layers of the smaller.
NEARLY_EQUAL = 1.25


@dataclass(frozen=True, slots=True)
class Pages:
    """How the layers of one device are grouped."""

    page_bytes: float
    """Of one layer."""
    group_layers: int
    """Layers of a group: a block holds one page of each."""
    groups: tuple[tuple[Kept, int, int], ...]
    """Of each kind: ``(what its layers keep, number of groups, tokens of a block)``; a state: 0 tokens."""

    @property
    def block_bytes(self) -> float:
        """Bytes of one block on one device."""
        return self.page_bytes * self.group_layers

    @property
    def group_count(self) -> int:
        """Groups of all kinds."""
        return sum(count for _, count, _ in self.groups)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block of the kind with the fewest; 0: states only."""
        return min((tokens for _, _, tokens in self.groups if tokens), default=0)

    @property
    def state_groups(self) -> int:
        """Groups of recurrent states: blocks that one state of all layers takes."""
        return sum(count for _, count, tokens in self.groups if not tokens)

    def states(self, tokens: int, mode: str) -> int:
        """Blocks of recurrent states of one request of ``tokens``; ``mode`` says what prefixes keep of them."""
        if mode == "all" and self.block_tokens:
            return self.state_groups * -(-tokens // self.block_tokens)
        return self.state_groups * (1 if mode == "none" else 2)

    def blocks(self, tokens: int, step_tokens: int, mode: str = "none") -> int:
        """Blocks kept ready for one request of ``tokens``; a window also holds what one step may add."""
        total = self.states(tokens, mode)
        for kept, count, block in self.groups:
            if not block:
                continue
            if kept.window:
                total += count * (-(-min(kept.window - 1 + step_tokens, tokens) // block) + 1)
            else:
                total += count * -(-tokens // block)
        return total


def pages_of(model: Workload, plan: Plan, block_tokens: int) -> Pages | None:
    """How vLLM pages the cache of a model; None: the model keeps nothing, or no plain cache.

    Args:
        model: the model.
        plan: its degrees and the format of the cache.
        block_tokens: tokens of a block, where no state needs a larger one.
    """
    kinds = kept_by_layers(model, plan.tp)
    if not kinds:
        return None
    each = plan.format("kv").stored_bits / 8
    per_token = [k.elements_per_token * each / plan.cp for k in kinds]
    widest = max(per_token)
    page = widest * block_tokens
    state = max(k.state_bytes for k in kinds)
    if state > page:  # a page of attention is made as large as one of state, in whole blocks
        page = widest * block_tokens * math.ceil(state / page) if widest else state
    layers = [-(-k.layers // plan.pp) for k in kinds]
    small, large = min(layers), max(layers)
    size = large if large < small * NEARLY_EQUAL else small
    groups = tuple(
        (k, -(-n // size), int(page / bytes_ + 1e-9) if bytes_ else 0)
        for k, n, bytes_ in zip(kinds, layers, per_token, strict=True)
    )
    return Pages(page, size, groups)


@dataclass(frozen=True, slots=True)
class Printed:
    """What an engine says of its cache at start-up."""

    memory_bytes: float
    """Left for the cache on each device."""
    tokens: int
    """The size of the cache it prints."""
    concurrency: float
    """Requests of the longest length that fit; 0: it prints none."""
    for_tokens: int
    """That length."""
    low: int
    high: int
    """80 % interval of ``tokens``."""
    longest: int = 0
    """Where not one request of that length fits, so that the engine does not start: the longest that does."""
    slots: int = 0
    """Recurrent states kept at once; 0: none are."""
    sequences: int = 0
    """Requests that may run at once for the states they need; 0: states are no limit."""

    def to_dict(self) -> Mapping[str, Any]:
        """By name, SI units."""
        return {
            "memory_bytes": self.memory_bytes,
            "tokens": self.tokens,
            "interval": [self.low, self.high],
            "max_concurrency": self.concurrency or None,
            "for_tokens": self.for_tokens or None,
            "longest": self.longest or None,
            **({"state_slots": self.slots, "max_num_seqs": self.sequences or None} if self.slots else {}),
        }


def printed(
    model: Workload,
    plan: Plan,
    engine: Engine,
    config: EngineConfig,
    left: tuple[float, float, float],
    per_token: float,
) -> Printed:
    """The lines of an engine's log.

    Args:
        model, plan, engine, config: what starts.
        left: bytes left for the cache on each device: as predicted, and the ends of its 80 % interval.
        per_token: bytes a token adds on each device.
    """
    pages = pages_of(model, plan, config.block_size) if engine.grouped_pages else None
    longest = config.max_model_len or model.max_context
    step, mode = config.max_num_batched_tokens, config.mamba_cache_mode

    def tokens(memory: float) -> int:
        if pages is None:
            return int(memory / per_token) // config.block_size * config.block_size if per_token else 0
        blocks = int(memory / pages.block_bytes)
        if engine.prints_requests and longest:
            return int(blocks / pages.blocks(longest, step, mode) * longest)
        return blocks // pages.group_count * pages.block_tokens

    found = [tokens(max(0.0, x)) for x in left]
    concurrency, fitting = 0.0, 0
    if pages is not None and longest:
        blocks = int(max(0.0, left[0]) / pages.block_bytes)
        concurrency = blocks / pages.blocks(longest, step, mode)
        if 0 < concurrency < 1:
            fitting = bisect_right(range(longest), blocks, key=lambda tokens: pages.blocks(tokens + 1, step, mode))
    return Printed(left[0], found[0], concurrency, longest if concurrency else 0, found[1], found[2], fitting)
