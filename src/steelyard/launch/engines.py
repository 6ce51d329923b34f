"""One replica of a pool as the command of its engine, with exactly the limits it was planned with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steelyard.deployment.formats import find_format
from steelyard.launch.command import Command, Line, Var, Word
from steelyard.launch.documents import yaml_text
from steelyard.launch.service import PORT, Service, Unit, quantisation
from steelyard.techniques.speculate import parse_speculation
from steelyard.workload.catalogue import find_model

__all__ = ["BOOTSTRAP_PORT", "LEADER", "MODEL", "NODE_RANK", "OPTIONS", "command", "options"]

#: Set where it runs: what is loaded, which node of the replica this is, and the address of its first node.
MODEL, NODE_RANK, LEADER = "MODEL", "NODE_RANK", "LEADER"
#: Ports nodes of one replica find each other on, and prefill and decode replicas do.
MASTER_PORT, RPC_PORT, INIT_PORT, BOOTSTRAP_PORT, NIXL_PORT = 29501, 13345, 20000, 8998, 5600
#: The file of extra options of TensorRT-LLM, beside the script and in the container.
OPTIONS = "trtllm-options.yaml"
#: Share of what weights leave free that TensorRT-LLM gives to the cache (its default).
_TRTLLM_FREE_FRAC = 0.9
#: Tokens of a micro-batch of llama.cpp (its default).
_UBATCH = 512


def command(unit: Unit, service: Service, *, worker: bool = False, served: bool = True) -> Command:
    """The command of one replica, or of one further node of it.

    Args:
        unit: the pool.
        service: what it belongs to.
        worker: for the second and later nodes of a replica that spans several.
        served: with host, port and public name; without for runtimes that have a front end of their own.
    """
    made = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm, "llamacpp": _llamacpp}[unit.flags.name]
    return made(unit, service, worker, served)


def _model(service: Service) -> Var:
    return Var(MODEL, service.repository)


def _vllm(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    f, c, p = unit.flags.line, unit.config, unit.plan
    lines = [Line((_model(service),))] if served else [Line(("--model", _model(service)))]
    if served:
        lines += [f("--served-model-name", service.repository), f("--host", "0.0.0.0"), f("--port", PORT)]  # noqa: S104
    lines += [f("--tensor-parallel-size", p.tp)]
    for flag, degree in (("pipeline", p.pp), ("data", p.dp), ("prefill-context", p.cp)):
        if degree > 1:
            lines.append(f(f"--{flag}-parallel-size", degree))
    if p.ep > 1:
        lines.append(f("--enable-expert-parallel"))
    word = quantisation(unit, service.model.transformer.native_weights)
    if word:
        lines.append(f("--quantization", word))
    lines += [
        f("--kv-cache-dtype", _kv(unit, {"fp8": "fp8", "bf16": "auto", "fp16": "auto", "nvfp4": "nvfp4"})),
        f("--max-model-len", unit.longest_tokens),
        f("--max-num-seqs", c.max_num_seqs),
        f("--max-num-batched-tokens", c.max_num_batched_tokens),
        f("--gpu-memory-utilization", c.gpu_memory_utilization),
        f("--block-size", c.block_size),
        f("--enable-prefix-caching", c.enable_prefix_caching),
        f("--enable-chunked-prefill", c.enable_chunked_prefill),
        f("--async-scheduling", c.async_scheduling),
    ]
    if c.num_gpu_blocks_override:
        lines.append(f("--num-gpu-blocks-override", c.num_gpu_blocks_override))
    if c.long_prefill_token_threshold:
        lines.append(f("--long-prefill-token-threshold", c.long_prefill_token_threshold))
    if c.watermark:
        lines.append(f("--watermark", c.watermark))
    if unit.pool.speculate:
        lines.append(f("--speculative-config", _speculative(unit)))
    env: dict[str, Word] = {}
    if unit.disaggregated:
        role = "kv_producer" if unit.pool.role == "prefill" else "kv_consumer"
        lines.append(f("--kv-transfer-config", {"kv_connector": "NixlConnector", "kv_role": role}))
        env = {"VLLM_NIXL_SIDE_CHANNEL_HOST": Var("HOST_IP"), "VLLM_NIXL_SIDE_CHANNEL_PORT": str(NIXL_PORT)}
    if unit.nodes > 1:
        lines += [f("--nnodes", unit.nodes), f("--node-rank", Var(NODE_RANK))]
        lines += [f("--master-addr", Var(LEADER)), f("--master-port", MASTER_PORT)]
        if p.dp > 1:
            lines += [f("--data-parallel-address", Var(LEADER)), f("--data-parallel-rpc-port", RPC_PORT)]
        if worker:
            lines.append(f("--headless"))
    return Command(unit.flags.program, tuple(lines), env)


def _speculative(unit: Unit) -> dict[str, object]:
    """``--speculative-config``: the draft by its repository, n-grams of the prompt, or the model's own heads."""
    found = parse_speculation(unit.pool.speculate)
    said: dict[str, object] = {"num_speculative_tokens": found.tokens}
    if found.method == "draft":
        return {"model": find_model(found.draft).id, **said}
    more = {"prompt_lookup_max": found.tokens} if found.method == "ngram" else {}
    return {"method": found.method, **said, **more}


def _sglang(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    f, c, p = unit.flags.line, unit.config, unit.plan
    lines = [f("--model-path", _model(service)), f("--served-model-name", service.repository)]
    if served:
        lines += [f("--host", "0.0.0.0"), f("--port", PORT)]  # noqa: S104
    # its tensor-parallel group holds the ranks of attention data and context parallelism
    lines.append(f("--tp-size", p.tp * p.dp * p.cp))
    for flag, degree in (("--pp-size", p.pp), ("--ep-size", p.ep), ("--attn-dp-size", p.dp), ("--attn-cp-size", p.cp)):
        if degree > 1:
            lines.append(f(flag, degree))
    word = quantisation(unit, service.model.transformer.native_weights)
    if word:
        lines.append(f("--quantization", word))
    kv = {"fp8": "fp8_e4m3", "bf16": "auto", "fp16": "auto", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}
    lines += [
        f("--kv-cache-dtype", _kv(unit, kv)),
        f("--context-length", unit.longest_tokens),
        f("--max-running-requests", c.max_num_seqs),
        f("--chunked-prefill-size", c.max_num_batched_tokens if c.enable_chunked_prefill else -1),
        f("--max-prefill-tokens", c.max_num_batched_tokens),
        f("--mem-fraction-static", c.gpu_memory_utilization),
        f("--page-size", c.block_size),
        f("--schedule-conservativeness", c.schedule_conservativeness),
        f("--enable-metrics"),
    ]
    if c.num_gpu_blocks_override:
        lines.append(f("--max-total-tokens", c.num_gpu_blocks_override * c.block_size))
    if not c.enable_prefix_caching:
        lines.append(f("--disable-radix-cache"))
    if not c.async_scheduling:
        lines.append(f("--disable-overlap-schedule"))
    if unit.disaggregated:
        lines += [
            f("--disaggregation-mode", unit.pool.role),
            f("--disaggregation-transfer-backend", "nixl"),
            f("--disaggregation-bootstrap-port", BOOTSTRAP_PORT),
        ]
    if unit.nodes > 1:
        lines += [f("--nnodes", unit.nodes), f("--node-rank", Var(NODE_RANK))]
        lines.append(f("--dist-init-addr", Var(LEADER, after=f":{INIT_PORT}")))
    return Command(unit.flags.program, tuple(lines))


def _trtllm(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    f, c, p = unit.flags.line, unit.config, unit.plan
    name = options_name(unit)
    lines = [
        Line((_model(service),)),
        f("--host", "0.0.0.0"),  # noqa: S104
        f("--port", PORT),
        f("--backend", "pytorch"),
        f("--tp_size", p.tp * p.dp),  # attention data parallelism reuses the tensor-parallel ranks
    ]
    for flag, degree in (("--pp_size", p.pp), ("--ep_size", p.ep), ("--cp_size", p.cp)):
        if degree > 1:
            lines.append(f(flag, degree))
    if unit.nodes > 1:
        lines.append(f("--gpus_per_node", unit.node_devices))
    lines += [
        f("--max_batch_size", c.max_num_seqs),
        f("--max_num_tokens", c.max_num_batched_tokens),
        f("--max_seq_len", unit.longest_tokens),
        f("--kv_cache_free_gpu_memory_fraction", _free_frac(unit)),
        f("--extra_llm_api_options", Var("OPTIONS", name)),
    ]
    program = unit.flags.program
    if unit.nodes > 1:  # started by MPI: one process per device, `trtllm-llmapi-launch` makes the first one the server
        program = ("trtllm-llmapi-launch", *program)
    return Command(program, tuple(lines), files={name: yaml_text(options(unit))})


def options_name(unit: Unit) -> str:
    """The name of a pool's file of extra options."""
    return OPTIONS if unit.name == "server" else OPTIONS.replace("trtllm", f"trtllm-{unit.name}")


def _free_frac(unit: Unit) -> float:
    """``free_gpu_memory_fraction``: of what the weights leave. Given, it is kept; else the engine's default."""
    given = {k.replace("-", "_"): v for k, v in unit.pool.flags.items()}
    value = given.get("free_gpu_memory_fraction", given.get("gpu_memory_utilization"))
    return float(value) if value is not None else _TRTLLM_FREE_FRAC


def options(unit: Unit, *, complete: bool = False) -> Mapping[str, Any]:
    """The extra options of TensorRT-LLM as nested tables.

    Args:
        unit: the pool.
        complete: with degrees and limits too, where the command line does not carry them.
    """
    c, p = unit.config, unit.plan
    flat: dict[str, Any] = {
        "enable_chunked_prefill": c.enable_chunked_prefill,
        "enable_attention_dp": p.dp > 1,
        "kv_cache_config.free_gpu_memory_fraction": _free_frac(unit),
        "kv_cache_config.dtype": _kv(unit, {"fp8": "fp8", "bf16": "auto", "fp16": "auto", "nvfp4": "nvfp4"}),
        "kv_cache_config.enable_block_reuse": c.enable_prefix_caching,
        "kv_cache_config.tokens_per_block": c.block_size,
        "cuda_graph_config.enable_padding": True,
        "cuda_graph_config.max_batch_size": c.max_num_seqs,
        "scheduler_config.capacity_scheduler_policy": (
            "MAX_UTILIZATION" if c.scheduler.endswith("max-utilization") else "GUARANTEED_NO_EVICT"
        ),
    }
    if c.num_gpu_blocks_override:
        flat["kv_cache_config.max_tokens"] = c.num_gpu_blocks_override * c.block_size
    if unit.disaggregated:
        flat["disable_overlap_scheduler"] = unit.pool.role == "prefill"
        flat["cache_transceiver_config.backend"] = "DEFAULT"
        flat["cache_transceiver_config.max_tokens_in_buffer"] = unit.longest_tokens
    if complete:
        flat |= {
            "backend": "pytorch",
            "tensor_parallel_size": p.tp * p.dp,
            "pipeline_parallel_size": p.pp,
            "context_parallel_size": p.cp,
            "moe_expert_parallel_size": p.ep,
            "max_batch_size": c.max_num_seqs,
            "max_num_tokens": c.max_num_batched_tokens,
            "max_seq_len": unit.longest_tokens,
        }
    made: dict[str, Any] = {}
    for name, value in flat.items():
        unit.flags.option(name, value)
        place = made
        *outer, last = name.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return made


def _llamacpp(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    f, c = unit.flags.line, unit.config
    slots = max(1, min(c.max_num_seqs, math.ceil(1.5 * unit.in_flight) if unit.in_flight else c.max_num_seqs))
    kv = _kv(
        unit,
        {
            "bf16": "bf16",
            "fp16": "f16",
            "fp32": "f32",
            "q8_0": "q8_0",
            "q4_0": "q4_0",
            "fp8": "q8_0",
            "int8": "q8_0",
            "int4": "q4_0",
        },
    )
    lines = [
        f("--model", _gguf(unit, service)),
        f("--alias", service.repository),
        f("--host", "0.0.0.0"),  # noqa: S104
        f("--port", PORT),
        f("--parallel", slots),
        f("--ctx-size", slots * unit.longest_tokens),
        f("--batch-size", c.max_num_batched_tokens),
        f("--ubatch-size", min(_UBATCH, c.max_num_batched_tokens)),
        f("--gpu-layers", "0" if unit.cluster.machine.launch == "cpu" else "all"),
        f("--cache-type-k", kv),
        f("--cache-type-v", kv),
        f("--flash-attn", "auto"),
        f("--metrics"),
    ]
    if unit.devices > 1:
        lines.append(f("--split-mode", "layer" if unit.plan.pp > 1 else "row"))
    return Command(unit.flags.program, tuple(lines))


def _gguf(unit: Unit, service: Service) -> Var:
    if service.repository.lower().endswith(".gguf"):
        return Var(MODEL, service.repository)
    return Var(MODEL, f"{service.slug}-{unit.plan.weights}.gguf")


def _kv(unit: Unit, words: Mapping[str, str]) -> str:
    """The engine's word for the format of the cache. Raises :class:`InputError` when it has none."""
    from steelyard.errors import InputError

    name = find_format(unit.plan.kv).name
    if name not in words:
        raise InputError(f"{unit.flags.title} has no {name} KV cache; it has {', '.join(words)}", field="plan.kv")
    return words[name]
