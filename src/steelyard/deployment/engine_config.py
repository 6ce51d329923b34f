"""The flags of a serving engine as it is run: its own defaults, under its own names.

One scheduler core covers the engines; what differs is data (:class:`Rules`). Flags have vLLM's names; SGLang's and
TensorRT-LLM's names are accepted for those engines and mean the same field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from steelyard.deployment.engine import Engine
from steelyard.errors import Problem, UnknownName, normalise, raise_all, suggest
from steelyard.machine.component import Machine

__all__ = ["ADMISSIONS", "RULES", "VICTIMS", "EngineConfig", "Rules", "engine_config"]

#: What must be free before a waiting request is admitted: blocks for the tokens of this step; for the whole prompt;
#: for prompt and answer, kept from then on; for the prompt beside an estimate of what the running ones still need; or
#: for what all will hold at the fullest, by the lengths of past answers.
ADMISSIONS = ("step", "prompt", "whole", "estimate", "past-future")
#: Who gives way when blocks run out: the last admitted; the last by the policy's order; the shortest answer so far.
VICTIMS = ("last", "worst", "shortest_answer")


@dataclass(frozen=True, slots=True)
class Rules:
    """How a scheduler decides, beside its limits."""

    title: str
    mixed: bool
    """Prompts and decodes share a step; otherwise a step is one or the other and prompts go first."""
    chunked: bool
    """A prompt may be cut to fill the token budget."""
    admission: str
    victim: str = "last"
    to_back: bool = False
    """A preempted request goes to the end of the queue, not to its place by the policy's order."""
    static: bool = False
    """A batch is formed when the last one is done, and stays together until its longest answer ends."""
    source: str = ""


#: Schedulers by name.
RULES: Mapping[str, Rules] = {
    "vllm": Rules(
        "vLLM v1: one token budget, running requests first",
        True,
        True,
        "prompt",
        source="vLLM 0.24 v1/core/sched/scheduler.py; scheduler_reserve_full_isl is on by default",
    ),
    "vllm-v0": Rules("vLLM v0: prompts first, whole", False, False, "prompt", source="vLLM 0.5 core/scheduler.py"),
    "sarathi": Rules(
        "Sarathi-Serve: decodes first, prompt chunks in the rest", True, True, "prompt", source="arXiv:2403.02310"
    ),
    "sglang": Rules(
        "SGLang: prompt steps first, chunked, admission by estimate",
        False,
        True,
        "estimate",
        "shortest_answer",
        True,
        source="SGLang 0.5 srt/managers/schedule_policy.py (PrefillAdder) and schedule_batch.py (retract_decode)",
    ),
    "trtllm": Rules(
        "TensorRT-LLM in-flight batching, GUARANTEED_NO_EVICT",
        True,
        False,
        "whole",
        source="TensorRT-LLM 1.0 CapacitySchedulerPolicy, the default",
    ),
    "trtllm-max-utilization": Rules(
        "TensorRT-LLM in-flight batching, MAX_UTILIZATION",
        True,
        False,
        "step",
        source="TensorRT-LLM 1.0 CapacitySchedulerPolicy",
    ),
    "orca": Rules(
        "Orca: iteration-level batching, prompt and answer reserved",
        True,
        False,
        "whole",
        source="Yu et al., OSDI 2022",
    ),
    "tgi": Rules(
        "TGI: prompts first, whole, prompt and answer reserved",
        False,
        False,
        "whole",
        source="text-generation-inference router/src/queue.rs",
    ),
    "splitfuse": Rules(
        "DeepSpeed-FastGen Dynamic SplitFuse: every step filled to the same tokens",
        True,
        True,
        "step",
        source="arXiv:2401.08671",
    ),
    "lightllm": Rules(
        "LightLLM: whole prompts shared with decodes, past-future admission",
        True,
        True,
        "past-future",
        source="arXiv:2507.10150",
    ),
    "static": Rules("static batching", False, False, "whole", static=True),
}

#: The scheduler of each engine of the catalogue.
_SCHEDULER = {
    "vllm": "vllm",
    "vllm_2023": "vllm-v0",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "llamacpp": "vllm",
    "llamacpp_cuda": "vllm",
}

#: Names other engines use for the same flag.
_NAMES: Mapping[str, Mapping[str, str]] = {
    "sglang": {
        "chunked_prefill_size": "max_num_batched_tokens",
        "max_running_requests": "max_num_seqs",
        "mem_fraction_static": "gpu_memory_utilization",
        "page_size": "block_size",
        "context_length": "max_model_len",
    },
    "trtllm": {
        "max_num_tokens": "max_num_batched_tokens",
        "max_batch_size": "max_num_seqs",
        "free_gpu_memory_fraction": "gpu_memory_utilization",
        "tokens_per_block": "block_size",
        "max_seq_len": "max_model_len",
        "enable_block_reuse": "enable_prefix_caching",
    },
}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Every flag a simulation runs with."""

    engine: str
    scheduler: str
    """A name of :data:`RULES`."""
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
    """A name of :data:`ADMISSIONS`."""
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
    cuda_graph_sizes_to: int = 0
    """Steps up to so many tokens are filled up to the next captured size: 1, 2, 4, every 8 to 256, every 16 beyond.

    0, the default: not added, since the engine times fitted to measured steps contain it (0.1-2 % of a dense model's
    step), and since a mixture of experts would be charged for experts that filling tokens, all alike, do not visit. The
    engines': vLLM 0.24 ``min(2 max_num_seqs, 512)``; SGLang 0.5 8 to 512 by memory; TensorRT-LLM 1.0 none.
    """
    batch_wait_timeout_iters: int = 0
    """TensorRT-LLM: steps that prompts wait for more of them while others decode."""
    batch_wait_max_tokens_ratio: float = 0.0
    """TensorRT-LLM: they wait no longer once they fill this share of a step's tokens."""

    @property
    def rules(self) -> Rules:
        """How its scheduler decides."""
        return RULES[self.scheduler]


def engine_config(engine: Engine, machine: Machine, flags: Mapping[str, Any] | None = None) -> EngineConfig:
    """The engine's defaults on a machine, with ``flags`` over them.

    Args:
        engine: catalogue entry.
        machine: some defaults follow the device's memory, as the engines themselves do.
        flags: by vLLM's names or the engine's own; ``scheduler`` names another rule set of :data:`RULES`.

    Raises:
        InputError: unknown flags, values out of range; all problems at once.
    """
    given, problems = _canonical(engine.name, dict(flags or {}))
    scheduler = _scheduler(str(given.pop("scheduler", _SCHEDULER.get(engine.name, "static"))))
    rules = RULES[scheduler]
    tokens, sequences = _limits(engine, machine)
    base = EngineConfig(
        engine=engine.name,
        scheduler=scheduler,
        max_num_batched_tokens=tokens,
        max_num_seqs=sequences,
        block_size=int(engine.block_tokens),
        gpu_memory_utilization=engine.memory_frac,
        enable_chunked_prefill=rules.chunked,
        enable_prefix_caching=engine.name in ("vllm", "sglang", "trtllm"),
        admission=rules.admission,
        watermark=0.01 if scheduler == "vllm-v0" else 0.0,
        async_scheduling=engine.name in ("vllm", "sglang", "trtllm"),
        graph_tokens=int(engine.graph_tokens),
        launch_s=engine.launch_s,
    )
    problems += _check(given, rules)
    raise_all(problems)
    kinds = {f.name: type(getattr(base, f.name)) for f in fields(base)}
    return replace(base, **{name: kinds[name](value) for name, value in given.items()})


def _limits(engine: Engine, machine: Machine) -> tuple[int, int]:
    """``(max_num_batched_tokens, max_num_seqs)`` as the engines choose them by device memory.

    vLLM (EngineArgs, API server): 8192 and 1024 from 70 GiB on except A100, else 2048 and 256. SGLang (ServerArgs):
    chunks of 2048, 4096, 8192, 16384 up to 35, 60, 160 GiB and beyond.
    """
    tokens, sequences = int(engine.max_batched_tokens), int(engine.max_sequences)
    gib = machine.root.capacity_bytes / 2**30
    if engine.name == "vllm" and machine.kind == "gpu" and (gib < 70 or machine.name.startswith("a100")):
        return min(tokens, 2048), min(sequences, 256)
    if engine.name == "sglang":
        return (2048 if gib < 35 else 4096 if gib < 60 else 8192 if gib < 160 else 16384), sequences
    return tokens, sequences


def _scheduler(name: str) -> str:
    for known in RULES:
        if normalise(known) == normalise(name):
            return known
    raise UnknownName("scheduler", name, RULES)


def _canonical(engine: str, flags: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Flags under the names of :class:`EngineConfig`, ``None`` left out; unknown ones as problems."""
    own = _NAMES.get(engine, {})
    known = {f.name for f in fields(EngineConfig)} - {"engine"}
    found: dict[str, Any] = {}
    problems = []
    for written, value in flags.items():
        name = written.replace("-", "_").removeprefix("__")
        name = own.get(name, name)
        if name == "kv_blocks":
            name = "num_gpu_blocks_override"
        if name == "capacity_scheduler_policy" and engine == "trtllm":
            name, value = (
                "scheduler",
                {
                    "guaranteednoevict": "trtllm",
                    "maxutilization": "trtllm-max-utilization",
                    "staticbatch": "static",
                }.get(normalise(str(value)), str(value)),
            )
        if name not in known:
            near = suggest(name, known | set(own))
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(Problem(f"flags.{written}", f"unknown flag of {engine}{hint}"))
        elif value is not None:
            found[name] = value
    return found, problems


def _check(given: Mapping[str, Any], rules: Rules) -> list[Problem]:
    problems = []
    for name in ("max_num_batched_tokens", "max_num_seqs", "block_size"):
        if name in given and not (isinstance(given[name], (int, float)) and given[name] >= 1):
            problems.append(Problem(f"flags.{name}", f"expected at least 1, got {given[name]}"))
    for name in (
        "max_model_len",
        "num_gpu_blocks_override",
        "long_prefill_token_threshold",
        "host_s",
        "host_s_per_sequence",
        "graph_tokens",
        "launch_s",
        "schedule_conservativeness",
        "cuda_graph_sizes_to",
        "batch_wait_timeout_iters",
        "batch_wait_max_tokens_ratio",
    ):
        if name in given and not (isinstance(given[name], (int, float)) and given[name] >= 0):
            problems.append(Problem(f"flags.{name}", f"expected at least 0, got {given[name]}"))
    share = given.get("gpu_memory_utilization", 1.0)
    if not 0 < float(share) <= 1:
        problems.append(Problem("flags.gpu_memory_utilization", f"expected above 0 and at most 1, got {share}"))
    if "watermark" in given and not 0 <= float(given["watermark"]) < 1:
        problems.append(Problem("flags.watermark", f"expected at least 0 and below 1, got {given['watermark']}"))
    if "admission" in given and given["admission"] not in ADMISSIONS:
        words = f"expected one of {', '.join(ADMISSIONS)}, got {given['admission']!r}"
        problems.append(Problem("flags.admission", words))
    if rules.static and given.get("admission", "whole") != "whole":
        problems.append(Problem("flags.admission", "a static batch reserves prompt and answer: only 'whole'"))
    return problems
