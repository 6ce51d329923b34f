"""The flags of a serving engine as it is run: its own defaults, under its own names.

One scheduler core covers the engines; what differs is data (:class:`~steelyard.deployment.engine.Rules`). Flags have
vLLM's names; an engine's own names are accepted for it and mean the same field.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from steelyard.deployment.engine import ADMISSIONS, UNMOVED, Engine, Moved, Rules, Sampling, engines, schedulers
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, suggest
from steelyard.machine.component import Machine
from steelyard.workload.protocol import Workload

__all__ = ["EngineConfig", "as_run", "configured", "engine_config", "with_room"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Every flag a simulation runs with."""

    engine: str
    scheduler: str
    """A name of :func:`~steelyard.deployment.engine.schedulers`."""
    max_num_batched_tokens: int
    """Tokens of one step at most."""
    max_num_seqs: int
    """Requests running at once at most, per replica."""
    block_size: int
    """Tokens of one cache block."""
    gpu_memory_utilization: float
    max_model_len: int = 0
    """Longest prompt and answer together; 0 = the model's own limit."""
    num_gpu_blocks_override: int = 0
    """Blocks of the cache, per replica; 0 = what fits."""
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    long_prefill_token_threshold: int = 0
    """Longest chunk of one prompt; 0 = no limit."""
    admission: str = "prompt"
    """A name of :data:`~steelyard.deployment.engine.ADMISSIONS`."""
    watermark: float = 0.0
    """Share of the blocks kept free when a request is admitted."""
    schedule_conservativeness: float = 1.0
    """SGLang: scales how much of the running answers is expected to be needed still."""
    async_scheduling: bool = True
    """The host prepares the next step while the device works: a step takes the longer of the two, not the sum."""
    host_s: float = 0.0
    """Host time of a step that can be hidden under the device's; 0 until calibrated."""
    host_s_per_sequence: float = 0.0
    """The same per request of the step."""
    graph_tokens: int = 0
    """Steps with prompts up to so many tokens run as captured graphs."""
    launch_s: float = 0.0
    """Host time per kernel of the other steps with prompts; 0 = the machine's usual."""
    api_server_count: int = 1
    """Processes that take requests and stream answers; 0 = none, as in an offline run."""
    front_s: float = 0.0
    """What one of them does for a request, one after another."""
    stream_s: float = 0.0
    """What one of them does for a token of an answer."""
    cuda_graph_sizes_to: int = 0
    """Steps up to so many tokens are filled up to the next captured size: 1, 2, 4, every 8 to 256, every 16 beyond.

    0, the default: not added, since the engine times fitted to measured steps contain it (0.1-2 % of a dense model's
    step), and since a mixture of experts would be charged for experts that filling tokens, all alike, do not visit. The
    engines': vLLM 0.24 ``min(2 max_num_seqs, 512)``; SGLang 0.5 8 to 512 by memory; TensorRT-LLM 1.0 none.
    """
    mamba_cache_mode: str = "none"
    """vLLM: what the prefix cache keeps of recurrent states. ``none``: prefixes are not shared; ``align``: the state at
    the end of every block, a running request holds two; ``all``: a running request holds those of all its blocks."""
    max_mamba_cache_size: int = 0
    """SGLang: states kept at once; 0 = by the ratio."""
    mamba_full_memory_ratio: float = 0.0
    """SGLang: bytes for states per byte for the other cache; 0 = the engine's."""
    batch_wait_timeout_iters: int = 0
    """TensorRT-LLM: steps that prompts wait for more of them while others decode."""
    batch_wait_max_tokens_ratio: float = 0.0
    """TensorRT-LLM: they wait no longer once they fill this share of a step's tokens."""
    stream_interval: int = 1
    """Tokens that the server gathers before it sends any (``--stream-interval``): a client waits for so many."""
    scheduler_recv_interval: int = 1
    """Steps between two moments at which new prompts are taken in: a prompt waits for half of them. SGLang's
    ``--scheduler-recv-interval``; of TensorRT-LLM the steps for which ranks of attention data parallelism wait."""
    all_reduce: str = ""
    """The library whose all-reduce it uses, where that is not the engine's own."""
    sampling: Sampling = "greedy"
    """How tokens are chosen. Top-p or top-k is what most published models ask for (`generation_config.json`) where a
    request does not say otherwise; benchmarks with random prompts are greedy."""
    enforce_eager: bool = False
    """No captured graphs: the host launches every kernel of every step."""
    moved: Moved = UNMOVED
    """How far an anchor moves its times; no flag."""

    @property
    def rules(self) -> Rules:
        """How its scheduler decides."""
        return schedulers()[self.scheduler]


def engine_config(
    engine: Engine, machine: Machine, flags: Mapping[str, Any] | None = None, model: Workload | None = None
) -> EngineConfig:
    """The engine's defaults on a machine, with ``flags`` over them.

    Args:
        engine: catalogue entry.
        machine: some defaults follow the device's memory, as the engines themselves do.
        flags: by vLLM's names or the engine's own; ``scheduler`` names another one of the catalogue.
        model: what is served: where states are kept in pages, prefixes of a model that has any are not shared.

    Raises:
        InputError: unknown flags, values out of range; all problems at once.
    """
    given, problems = _canonical(engine, dict(flags or {}))
    paged = bool(engine.grouped_pages and model and model.state_bytes)
    own = "scheduler" not in given
    scheduler = _scheduler(str(given.pop("scheduler", engine.scheduler)))
    limits = next((x for x in engine.limits if x.holds(machine)), None)
    tokens = limits.max_batched_tokens if limits else engine.max_batched_tokens
    sequences = (limits and limits.max_sequences) or engine.max_sequences
    longest = given.get("max_model_len") or (model.max_context if model else 0)
    cut = False
    if engine.whole_prompts and isinstance(longest, int | float) and 0 < longest <= _BOUNDS["max_model_len"][1]:
        cut = bool(given.get("enable_chunked_prefill", longest > engine.whole_prompts))
        tokens = WHOLE_PROMPTS if cut else max(WHOLE_PROMPTS, int(longest))
    if own and (cut or given.get("enable_chunked_prefill") is True):
        scheduler = schedulers()[scheduler].cutting or scheduler
    rules = schedulers()[scheduler]
    base = EngineConfig(
        engine=engine.name,
        scheduler=scheduler,
        max_num_batched_tokens=int(tokens),
        max_num_seqs=int(sequences),
        block_size=int(engine.block_tokens),
        gpu_memory_utilization=engine.memory_frac,
        enable_chunked_prefill=rules.chunked or cut,
        enable_prefix_caching=engine.prefix_caching and not paged,
        admission=rules.admission,
        watermark=rules.watermark,
        async_scheduling=engine.async_scheduling,
        graph_tokens=int(engine.graph_tokens),
        launch_s=engine.launch_s,
        sampling=engine.sampling,
        moved=engine.moved,
        front_s=engine.front_s,
        stream_s=engine.stream_s,
    )
    problems += _check(given, base) + _without_use(given, engine)
    raise_all(problems)
    kinds = {f.name: type(getattr(base, f.name)) for f in fields(base)}
    config = replace(base, **{name: kinds[name](value) for name, value in given.items()})
    copies = int(engine.state_copies) if config.enable_prefix_caching else 1
    if 0 < config.max_mamba_cache_size < copies:
        words = f"expected at least {copies}, the states of one request where prefixes are shared"
        raise InputError(f"{words}; got {config.max_mamba_cache_size}", field="flags.max_mamba_cache_size")
    return _states_cached(config, given) if paged else config


def with_room(config: EngineConfig, engine: Engine, flags: Mapping[str, Any], longest: int) -> EngineConfig:
    """The configuration with a budget that holds the longest prompt, beside decodes where they share a step.

    Of engines that cut no prompts. Nobody leaves a default where it does not: prompts then wait until none decodes.

    Args:
        config: as the flags have it. engine: whose.
        flags: what was said; a budget that was is kept.
        longest: tokens of the longest prompt.
    """
    said, _ = _canonical(engine, dict(flags))
    needed = longest + config.max_num_seqs * config.rules.mixed
    if config.enable_chunked_prefill or "max_num_batched_tokens" in said or config.max_num_batched_tokens >= needed:
        return config
    return replace(config, max_num_batched_tokens=needed)


def _states_cached(config: EngineConfig, given: Mapping[str, Any]) -> EngineConfig:
    """Prefixes are shared where states are cached, and the other way round; of both what is said of prefixes stands."""
    shared, mode = config.enable_prefix_caching, config.mamba_cache_mode
    if "enable_prefix_caching" not in given and "mamba_cache_mode" in given:
        shared = mode != "none"
    cached = "align" if mode == "none" else mode
    return replace(config, enable_prefix_caching=shared, mamba_cache_mode=cached if shared else "none")


def _without_use(given: Mapping[str, Any], engine: Engine) -> list[Problem]:
    """Flags that the engine does not have, or that would change nothing."""
    has = {
        "mamba_cache_mode": (engine.grouped_pages, "vllm"),
        "max_mamba_cache_size": (engine.states == "share", "sglang"),
        "mamba_full_memory_ratio": (engine.states == "share", "sglang"),
    }
    found = [
        Problem(f"flags.{name}", f"{engine.title} has no such flag; it is one of {other}")
        for name, (own, other) in has.items()
        if name in given and not own
    ]
    if given.get("enforce_eager") and not engines().get(engine.name, engine).graph:
        words = f"{engine.title} captures no graphs: every kernel is launched from the host as it is"
        found.append(Problem("flags.enforce_eager", words))
    return found


#: Flags that a batch depends on which nothing joins, and what they change of the engine.
_STATIC = {
    "gpu_memory_utilization": "memory_frac",
    "block_size": "block_tokens",
    "max_num_batched_tokens": "max_batched_tokens",
    "max_num_seqs": "max_sequences",
}


def configured(engine: Engine, machine: Machine, flags: Mapping[str, Any], model: Workload | None = None) -> Engine:
    """The engine as flags set its memory and its steps; arguments and errors as of :func:`engine_config`."""
    try:
        config = engine_config(engine, machine, flags, model)
    except InputError as error:
        raise_all([Problem(p.field.removeprefix("flags."), p.message) for p in error.problems])
        raise
    changes: dict[str, Any] = {_STATIC[name]: float(getattr(config, name)) for name in flags if name in _STATIC}
    return replace(as_run(engine, config), **changes)


def as_run(engine: Engine, config: EngineConfig) -> Engine:
    """The engine whose steps the flags ask for: its collectives, how it chooses tokens, its graphs."""
    found = replace(engine, all_reduce=config.all_reduce or engine.all_reduce, sampling=config.sampling)
    return replace(found, graph=False, graph_bytes=0.0) if config.enforce_eager else found


def _scheduler(name: str) -> str:
    for known in schedulers():
        if normalise(known) == normalise(name):
            return known
    raise UnknownName("scheduler", name, schedulers())


def _canonical(engine: Engine, flags: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Flags under the names of :class:`EngineConfig`, ``None`` left out; unknown ones as problems."""
    own = engine.flags
    known = {f.name for f in fields(EngineConfig)} - {"engine", "moved"}
    found: dict[str, Any] = {}
    problems = []
    for written, value in flags.items():
        name = str(written).replace("-", "_").removeprefix("__")
        name = own.get(name, name)
        if name == "kv_blocks":
            name = "num_gpu_blocks_override"
        if name in engine.values:
            value = engine.values[name].get(normalise(str(value)), value)
        if name not in known:
            near = suggest(name, known | set(own), kind="field")
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(Problem(f"flags.{written}", f"unknown flag of {engine.name}{hint}"))
        elif value is not None:
            found[name] = value
    return found, problems


#: Tokens of a step where they follow the longest request: at least, and where longer ones are cut.
WHOLE_PROMPTS = 2048
#: What vLLM keeps of recurrent states for prefixes.
MAMBA_MODES = ("none", "align", "all")
#: How tokens are chosen.
SAMPLING: tuple[str, ...] = get_args(Sampling)
#: Least and most of the numbers; a ``least`` of None: above 0.
_BOUNDS: Mapping[str, tuple[float | None, float]] = {
    "max_num_batched_tokens": (1, 1e9),
    "max_num_seqs": (1, 1e6),
    "block_size": (1, 1e6),
    "max_model_len": (0, 1e9),
    "num_gpu_blocks_override": (0, 1e9),
    "long_prefill_token_threshold": (0, 1e9),
    "gpu_memory_utilization": (None, 1),
    "watermark": (0, 0.999),
    "host_s": (0, 1e6),
    "host_s_per_sequence": (0, 1e6),
    "launch_s": (0, 1e6),
    "api_server_count": (0, 4096),
    "front_s": (0, 1e6),
    "stream_s": (0, 1e6),
    "graph_tokens": (0, 1e9),
    "schedule_conservativeness": (0, 1e6),
    "cuda_graph_sizes_to": (0, 1e9),
    "max_mamba_cache_size": (1, 1e9),
    "mamba_full_memory_ratio": (None, 1e6),
    "batch_wait_timeout_iters": (0, 1e9),
    "batch_wait_max_tokens_ratio": (0, 1e6),
    "stream_interval": (1, 1e6),
    "scheduler_recv_interval": (1, 1e6),
}


def _number(value: Any, kind: type, least: float | None, most: float) -> str:
    """What is wrong with a number of this kind; empty when nothing is."""
    what = "a whole number" if kind is int else "a number"
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or (kind is int and real and -most <= value <= most and value != int(value)):
        return f"expected {what}, got {value!r:.80}"
    if value > 0 if least is None else value >= least:
        return "" if value <= most else f"expected at most {most:,g}, got {value!r:.40}"
    return f"expected {'above 0' if least is None else f'at least {least:g}'}, got {value!r:.40}"


def _check(given: Mapping[str, Any], base: EngineConfig) -> list[Problem]:
    problems = []
    for name, value in given.items():
        kind = type(getattr(base, name))
        wrong = ""
        if name in _BOUNDS:
            wrong = _number(value, kind, *_BOUNDS[name])
        elif kind is bool and not (isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1))):
            wrong = f"expected true or false, got {value!r:.80}"
        if wrong:
            problems.append(Problem(f"flags.{name}", wrong))
    rules, libraries = base.rules, {e.all_reduce for e in engines().values()}
    if "all_reduce" in given and given["all_reduce"] not in libraries:
        words = f"expected one of {', '.join(sorted(libraries))}, got {given['all_reduce']!r:.80}"
        problems.append(Problem("flags.all_reduce", words))
    for name, choices in {"admission": ADMISSIONS, "mamba_cache_mode": MAMBA_MODES, "sampling": SAMPLING}.items():
        if name in given and given[name] not in choices:
            words = f"expected one of {', '.join(choices)}, got {given[name]!r:.80}"
            problems.append(Problem(f"flags.{name}", words))
    if rules.static and given.get("admission", "whole") != "whole":
        problems.append(Problem("flags.admission", "a static batch reserves prompt and answer: only 'whole'"))
    return problems
