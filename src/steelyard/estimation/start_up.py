"""The memory of one device as its owner checks it: bytes by part, and what the engine's log will say."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steelyard.cost.kv_pages import Printed
from steelyard.cost.kv_pool import engine_prints, left_bytes
from steelyard.cost.memory import kv_bytes, weight_parts
from steelyard.deployment.engine import find_engine
from steelyard.deployment.engine_config import EngineConfig, engine_config
from steelyard.scenario.fields import STATIC_FLAGS

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.scenario.scenario import Scenario

__all__ = ["LogLine", "log_lines", "memory_parts", "start_up"]

#: vLLM's line where weights and the profile run leave nothing for the cache.
NOTHING_LEFT = "Available KV cache memory"
#: How a line begins that says so of an engine with its defaults.
STOPS = "does not start"
#: llama.cpp computes prompts in pieces of so many tokens (``--ubatch-size``).
UBATCH = 512


@dataclass(frozen=True, slots=True)
class LogLine:
    """One figure an engine prints when it starts."""

    name: str
    """In the engine's words."""
    value: float
    unit: str
    """``tokens``, ``B`` or ``x`` (times); empty: a number of what the name says."""
    low: float | None = None
    high: float | None = None
    """80 % interval, where there is one."""

    @property
    def stops(self) -> bool:
        """Whether it says that the engine does not start with its defaults."""
        return self.name.startswith(STOPS)

    def to_dict(self) -> dict[str, Any]:
        """By name."""
        ends = {} if self.low is None else {"interval": [self.low, self.high]}
        return {"name": self.name, "value": self.value, "unit": self.unit, **ends}


def stored_parts(s: Scenario) -> dict[str, float]:
    """Bytes of the weights on the fullest device, by part."""
    return weight_parts(s.transformer, s.plan, s.exact_weight_bytes, s.engine.multiples(s.cluster.machine))


def memory_parts(estimate: Estimate, stored: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Bytes on the fullest device: weights by part, cache, state, the step, what lies beside, and what is left.

    Args:
        estimate: the estimate.
        stored: :func:`stored_parts` of its scenario, where they are known.
    """
    s, m = estimate.scenario, estimate.memory
    machine, engine = s.cluster.machine, s.engine
    weights = dict(stored or stored_parts(s))
    if s.cluster.unlike:
        ratio = float(m.weights) / sum(weights.values())
        weights = {part: size * ratio for part, size in weights.items()}
    graphs = 0.0 if engine.graphs_in_share else engine.graph_bytes
    state = min(float(kv_bytes(s.transformer, s.plan, s.replica_batch, 0)), float(m.kv_cache))
    return {
        "weights": {part: size for part, size in weights.items() if size},
        "kv_cache": m.kv_cache - state,
        "state": state,
        "activations": m.activations,
        "libraries": m.other,
        "headroom": m.headroom,
        "outside_the_share": {
            "graphs": graphs,
            "driver": machine.reserved_bytes,
            "unused": max(0.0, (1 - engine.memory_frac) * machine.usable_bytes - graphs),
        },
    }


def start_up(estimate: Estimate) -> Printed:
    """What the engine finds of memory for its cache when it starts with its defaults."""
    s = estimate.scenario
    weights = float(estimate.memory.weights)
    return engine_prints(s.transformer, s.plan, s.cluster.machine, s.engine, _config(s), weights=weights)


def log_lines(estimate: Estimate) -> list[LogLine]:
    """What the engine will print of its memory; empty where logs are not known, or it cannot start."""
    s = estimate.scenario
    if not s.transformer.causal or s.cluster.unlike:
        return []
    of = s.engine.commands or (find_engine(s.engine.generation_of).commands if s.engine.generation_of else "")
    if of == "llamacpp":
        return _llamacpp(estimate)
    if of not in ("vllm", "sglang", "trtllm"):
        return []
    config, found = _config(s), start_up(estimate)
    if found.memory_bytes <= 0 or not (found.tokens or found.slots):
        if of != "vllm" or not estimate.fits:
            return []
        return [LogLine(NOTHING_LEFT, found.memory_bytes, "B"), *_starts(s, config)]
    names = {"vllm": "GPU KV cache size", "sglang": "max_total_num_tokens", "trtllm": "Max tokens in paged KV cache"}
    size = LogLine(names[of], found.tokens, "tokens", max(0, found.low), found.high)
    sizes = [size] if found.tokens else []  # a model of states alone has none
    if of != "vllm":
        return [*sizes, *_state_lines(of, config, found)]
    lines = [LogLine(NOTHING_LEFT, found.memory_bytes, "B"), *sizes]
    if found.concurrency:
        name = f"Maximum concurrency for {found.for_tokens:,} tokens per request"
        lines.append(LogLine(name, found.concurrency, "x"))
    if found.longest:
        lines.append(LogLine(f"{STOPS} at {found.for_tokens:,} tokens; max_model_len at most", found.longest, "tokens"))
    return lines + _state_lines("vllm", config, found)


def _state_lines(commands: str, config: EngineConfig, found: Printed) -> list[LogLine]:
    """What is said of recurrent states: how many are kept, and that more requests cannot be asked for."""
    if not found.slots:
        return []
    if commands == "sglang":
        running = min(found.sequences, config.max_num_seqs)
        return [
            LogLine("max_mamba_cache_size", found.slots, ""),
            LogLine("max_running_requests", running, ""),
        ]
    if not found.sequences:
        return []
    lines = [LogLine("available Mamba cache blocks", found.slots, "")] if commands == "vllm" else []
    if found.sequences < config.max_num_seqs:
        lines.append(LogLine(_too_many("max_num_seqs", config.max_num_seqs), found.sequences, ""))
    return lines


def _starts(s: Scenario, config: EngineConfig) -> list[LogLine]:
    """The most of a limit with which an engine starts that does not with its defaults; nothing: with none of them.

    Requests at once where sampling takes the memory, else tokens of a step, which in early releases follow the longest
    request.
    """
    step = "max_model_len" if s.engine.whole_prompts >= config.max_num_batched_tokens else "max_num_batched_tokens"

    def short(**changes: Any) -> float:
        fewer = replace(config, **changes)
        machine = s.cluster.machine
        return -left_bytes(s.transformer, s.plan, machine, s.engine, fewer, exact_weights=s.exact_weight_bytes)[0]

    seats, tokens = config.max_num_seqs, config.max_num_batched_tokens
    if good := bisect_right(range(1, seats + 1), 0.0, key=lambda n: short(max_num_seqs=n)):
        return [LogLine(_too_many("max_num_seqs", seats), good, "")]
    if good := bisect_right(range(1, tokens + 1), 0.0, key=lambda n: short(max_num_batched_tokens=n)):
        return [LogLine(_too_many(step, tokens), good, "")]
    return []


def _too_many(name: str, value: int) -> str:
    return f"{STOPS} with {name} {value:,}; at most"


def _config(s: Scenario) -> EngineConfig:
    flags = {name: s.words[name] for name in STATIC_FLAGS if s.words.get(name) is not None}
    return engine_config(s.engine, s.cluster.machine, flags, s.transformer)


def _llamacpp(estimate: Estimate) -> list[LogLine]:
    """Its buffers: the table of the input stays on the host, the cache is made for the whole context at once."""
    s = estimate.scenario
    model, plan = s.transformer, s.plan
    parts = weight_parts(model, plan, s.exact_weight_bytes, s.engine.multiples(s.cluster.machine))
    on_host = parts.get("embedding", 0.0) if parts.get("head") else 0.0
    state = float(kv_bytes(model, plan, s.replica_batch, 0))
    compute = UBATCH * (model.vocab + model.hidden) * 4.0 if model.head else float(estimate.memory.activations)
    lines = [
        LogLine("model buffer size", sum(parts.values()) - on_host, "B"),
        LogLine("KV buffer size", float(estimate.memory.kv_cache) - state, "B"),
        LogLine("compute buffer size", compute, "B"),
    ]
    return lines + ([LogLine("RS buffer size", state, "B")] if state else [])
