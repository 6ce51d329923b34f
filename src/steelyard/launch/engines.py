"""One replica of a pool as the command of its engine, with exactly the limits it was planned with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.cost.kv_pool import NO_CAP, kv_pool
from steelyard.deployment.formats import find_format
from steelyard.launch.command import Command, Line, Var, Word
from steelyard.launch.documents import yaml_text
from steelyard.launch.service import PORT, Service, Unit, quantisation
from steelyard.techniques._registry import read_flag
from steelyard.workload.catalogue import find_model

__all__ = ["BOOTSTRAP_PORT", "LEADER", "MODEL", "NODE_RANK", "OPTIONS", "command", "options"]

#: Set where it runs: what is loaded (of llama.cpp the encoders of images and sound as well), which node of the replica
#: this is, and the address of its first node.
MODEL, TOWERS, NODE_RANK, LEADER = "MODEL", "MMPROJ", "NODE_RANK", "LEADER"
#: Ports nodes of one replica find each other on, and prefill and decode replicas do.
MASTER_PORT, RPC_PORT, INIT_PORT, BOOTSTRAP_PORT, NIXL_PORT = 29501, 13345, 20000, 8998, 5600
#: The file of extra options of TensorRT-LLM, beside the script and in the container.
OPTIONS = "trtllm-options.yaml"
#: Share of what weights leave free that TensorRT-LLM gives to the cache (its default).
_TRTLLM_FREE_FRAC = 0.9
#: Tokens of a micro-batch of llama.cpp (its default).
_UBATCH = 512
#: Servers listen on every address of their host or container.
_LISTEN: dict[str, Any] = {"--host": "0.0.0.0", "--port": PORT}  # noqa: S104


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


def _several(degree: int) -> int | None:
    """A degree of parallelism that has to be said: one above 1."""
    return degree if degree > 1 else None


def _model(service: Service) -> Var:
    return Var(MODEL, service.repository)


def _vllm(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    c, p = unit.config, unit.plan
    env: dict[str, Word] = {}
    transfer = None
    if unit.disaggregated:
        role = "kv_producer" if unit.pool.role == "prefill" else "kv_consumer"
        transfer = {"kv_connector": "NixlConnector", "kv_role": role}
        env = {"VLLM_NIXL_SIDE_CHANNEL_HOST": Var("HOST_IP"), "VLLM_NIXL_SIDE_CHANNEL_PORT": str(NIXL_PORT)}
    flags = {
        **({"--served-model-name": service.served, **_LISTEN} if served else {}),
        "--tensor-parallel-size": p.tp,
        "--pipeline-parallel-size": _several(p.pp),
        "--data-parallel-size": _several(p.dp),
        "--prefill-context-parallel-size": _several(p.cp),
        "--enable-expert-parallel": p.ep > 1,
        "--quantization": quantisation(unit, service.model.transformer.native_weights) or None,
        "--kv-cache-dtype": _kv(unit, {"fp8": "fp8", "bf16": "auto", "fp16": "auto", "nvfp4": "nvfp4"}),
        "--max-model-len": unit.longest_tokens,
        "--max-num-seqs": c.max_num_seqs,
        "--max-num-batched-tokens": c.max_num_batched_tokens,
        "--gpu-memory-utilization": c.gpu_memory_utilization,
        "--block-size": c.block_size,
        "--enable-prefix-caching": c.enable_prefix_caching,
        "--enable-chunked-prefill": c.enable_chunked_prefill,
        "--async-scheduling": c.async_scheduling,
        "--enforce-eager": c.enforce_eager,
        "--api-server-count": _several(c.api_server_count) if served else None,
        "--num-gpu-blocks-override": c.num_gpu_blocks_override or None,
        "--long-prefill-token-threshold": c.long_prefill_token_threshold or None,
        "--watermark": c.watermark or None,
        "--speculative-config": _speculative(unit) if unit.pool.speculate else None,
        "--kv-transfer-config": transfer,
        "--limit-mm-per-prompt": service.load.shown or None,
    }
    if unit.nodes > 1:
        flags |= {"--nnodes": unit.nodes, "--node-rank": Var(NODE_RANK)}
        flags |= {"--master-addr": Var(LEADER), "--master-port": MASTER_PORT}
        if p.dp > 1:
            flags |= {"--data-parallel-address": Var(LEADER), "--data-parallel-rpc-port": RPC_PORT}
        flags["--headless"] = worker
    model = Line((_model(service),) if served else ("--model", _model(service)))
    return Command(unit.flags.program, (model, *unit.flags.lines(flags)), env)


def _speculative(unit: Unit) -> dict[str, object]:
    """``--speculative-config``: the draft by its repository, n-grams of the prompt, or the model's own heads."""
    found: Any = read_flag("speculate", unit.pool.speculate)
    options: dict[str, object] = {"num_speculative_tokens": found.guesses}
    if found.name == "draft":
        return {"model": find_model(found.model).id, **options}
    more = {"prompt_lookup_max": found.guesses} if found.name == "ngram" else {}
    return {"method": found.name, **options, **more}


def _sglang(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    c, p = unit.config, unit.plan
    kv = {"fp8": "fp8_e4m3", "bf16": "auto", "fp16": "auto", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}
    flags = {
        "--model-path": _model(service),
        "--served-model-name": service.served,
        **(_LISTEN if served else {}),
        # its tensor-parallel group holds the ranks of attention data and context parallelism
        "--tp-size": p.tp * p.dp * p.cp,
        "--pp-size": _several(p.pp),
        "--ep-size": _several(p.ep),
        "--attn-dp-size": _several(p.dp),
        "--attn-cp-size": _several(p.cp),
        "--quantization": quantisation(unit, service.model.transformer.native_weights) or None,
        "--kv-cache-dtype": _kv(unit, kv),
        "--context-length": unit.longest_tokens,
        "--max-running-requests": c.max_num_seqs,
        "--chunked-prefill-size": c.max_num_batched_tokens if c.enable_chunked_prefill else -1,
        "--max-prefill-tokens": c.max_num_batched_tokens,
        "--mem-fraction-static": c.gpu_memory_utilization,
        "--page-size": c.block_size,
        "--schedule-conservativeness": c.schedule_conservativeness,
        "--enable-metrics": True,
        "--max-total-tokens": (c.num_gpu_blocks_override or 0) * c.block_size or None,
        "--disable-radix-cache": not c.enable_prefix_caching,
        "--disable-overlap-schedule": not c.async_scheduling,
        "--disable-cuda-graph": c.enforce_eager,
        "--limit-mm-data-per-request": service.load.shown or None,
    }
    if unit.disaggregated:
        flags |= {"--disaggregation-mode": unit.pool.role, "--disaggregation-transfer-backend": "nixl"}
        flags["--disaggregation-bootstrap-port"] = BOOTSTRAP_PORT
    if unit.nodes > 1:
        flags |= {"--nnodes": unit.nodes, "--node-rank": Var(NODE_RANK)}
        flags["--dist-init-addr"] = Var(LEADER, after=f":{INIT_PORT}")
    return Command(unit.flags.program, tuple(unit.flags.lines(flags)))


def _trtllm(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    c, p = unit.config, unit.plan
    name = options_name(unit)
    flags = {
        **_LISTEN,
        "--backend": "pytorch",
        "--tp_size": p.tp * p.dp,  # attention data parallelism reuses the tensor-parallel ranks
        "--pp_size": _several(p.pp),
        "--ep_size": _several(p.ep),
        "--cp_size": _several(p.cp),
        "--gpus_per_node": unit.node_devices if unit.nodes > 1 else None,
        "--max_batch_size": c.max_num_seqs,
        "--max_num_tokens": c.max_num_batched_tokens,
        "--max_seq_len": unit.longest_tokens,
        "--kv_cache_free_gpu_memory_fraction": _free_frac(unit),
        "--extra_llm_api_options": Var("OPTIONS", name),
    }
    # over several nodes by MPI: one process per device, `trtllm-llmapi-launch` makes the first one the server
    program = ("trtllm-llmapi-launch",) * (unit.nodes > 1) + unit.flags.program
    lines = (Line((_model(service),)), *unit.flags.lines(flags))
    return Command(program, lines, files={name: yaml_text(options(unit))})


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
        "scheduler_config.capacity_scheduler_policy": (
            "MAX_UTILIZATION" if c.scheduler.endswith("max-utilization") else "GUARANTEED_NO_EVICT"
        ),
    }
    if not c.enforce_eager:
        flat |= {"cuda_graph_config.enable_padding": True, "cuda_graph_config.max_batch_size": c.max_num_seqs}
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


#: What llama.cpp calls the formats of the KV cache.
_LLAMACPP_KV = {
    "bf16": "bf16",
    "fp16": "f16",
    "fp32": "f32",
    "q8_0": "q8_0",
    "q4_0": "q4_0",
    "fp8": "q8_0",
    "int8": "q8_0",
    "int4": "q4_0",
}


def _llamacpp(unit: Unit, service: Service, worker: bool, served: bool) -> Command:
    c, kv = unit.config, _kv(unit, _LLAMACPP_KV)
    wanted, held = c.max_num_seqs * unit.longest_tokens, _cache_tokens(unit, service)
    flags = {
        "--model": _gguf(unit, service),
        "--mmproj": Var(TOWERS, f"{service.slug}-mmproj.gguf") if service.load.shown else None,
        "--alias": service.served,
        **_LISTEN,
        "--parallel": c.max_num_seqs,
        "--ctx-size": min(wanted, held),
        "--kv-unified": wanted > held,  # one cache that all slots share, as it was planned; else each has its own part
        "--batch-size": c.max_num_batched_tokens,
        "--ubatch-size": min(_UBATCH, c.max_num_batched_tokens),
        "--gpu-layers": "0" if unit.cluster.machine.launch == "cpu" else "all",
        "--cache-type-k": kv,
        "--cache-type-v": kv,
        "--flash-attn": "auto",
        "--metrics": True,
        "--split-mode": ("layer" if unit.plan.pp > 1 else "row") if unit.devices > 1 else None,
    }
    return Command(unit.flags.program, tuple(unit.flags.lines(flags)))


def _cache_tokens(unit: Unit, service: Service) -> int:
    """Tokens the cache of a replica holds, as the plan counts them. Raises :class:`DoesNotFit`."""
    model, machine = service.model, unit.cluster.machine
    exact = model.weight_bytes if unit.plan.stores(model.transformer.native_weights) else None
    pool = kv_pool(model.transformer, unit.plan, machine, unit.engine, unit.config, exact_weights=exact)
    room = pool.blocks - unit.config.max_num_seqs * pool.fixed_blocks
    return NO_CAP if pool.token_cap < NO_CAP else max(unit.longest_tokens, room * pool.block_tokens)


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
