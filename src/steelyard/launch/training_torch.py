"""Training plans for torchtitan (TOML), FSDP by Accelerate (YAML), DeepSpeed (JSON) and the Transformers Trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from steelyard.launch.command import Flags, Var
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.training_job import Launched, TrainJob, array, default, nested
from steelyard.workload.transformer import Transformer

__all__ = ["deepspeed", "fsdp", "torchtitan", "trainer"]

#: Models that torchtitan comes with, by width, layers and vocabulary.
_FLAVORS = {
    (4096, 32, 128256): ("llama3", "8B"),
    (8192, 80, 128256): ("llama3", "70B"),
    (16384, 126, 128256): ("llama3", "405B"),
    (2048, 27, 102400): ("deepseek_v3", "16B"),
    (7168, 61, 129280): ("deepseek_v3", "671B"),
}
_SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "Interleaved1F1B", "zb-v": "ZBVZeroBubble"}
#: Optimizers by the names of the Trainer.
_OPTIM = {
    "adamw": "adamw_torch_fused",
    "adamw8bit": "adamw_bnb_8bit",
    "adafactor": "adafactor",
    "lion": "lion_32bit",
    "sgd": "sgd",
    "sgd_plain": "sgd",
    "galore": "galore_adamw",
}
_DATA = "name of a dataset of the hub, or a JSON or text file of your own (DATA_FILE)"


def torchtitan(job: TrainJob, model: Transformer) -> Launched:
    """``train.toml`` of torchtitan."""
    flags, plan = Flags.of("training/torchtitan"), job.plan
    found = _FLAVORS.get((model.hidden, model.depth, model.vocab))
    left = list(_titan_left_out(job, known=found is not None))
    name, flavor = found or ("FILL_IN", "FILL_IN")
    compiled = plan.framework.name != "torchtitan-eager"
    shards = plan.shard if plan.zero >= 1 else 1
    per_stage = max(job.layers) if plan.pp > 1 else None
    converters = {"fp8": "float8", "fp8_block": "float8", "mxfp8": "mx"}.get(plan.precision)
    eight = {
        "float8.recipe_name": "tensorwise" if plan.precision == "fp8" else "rowwise",
        "float8.enable_fsdp_float8_all_gather": plan.precision == "fp8",
        "float8.precompute_float8_dynamic_scale_for_fsdp": plan.precision == "fp8",
    }
    values = {
        "job.dump_folder": "outputs",
        "job.description": f"{job.repository}: {plan.shape}",
        "metrics.log_freq": 1,
        "model.name": name,
        "model.flavor": flavor,
        "model.converters": [converters] if converters else None,
        "optimizer.name": "AdamW",
        "optimizer.lr": 3e-4,
        "lr_scheduler.warmup_steps": min(200, max(1, job.steps // 5)),
        # under a pipeline the batch of a rank is cut into micro-batches, else gradients are accumulated
        "training.local_batch_size": plan.mbs * (plan.micro_batches if plan.pp > 1 else 1),
        "training.global_batch_size": plan.gbs,
        "training.seq_len": plan.seq,
        "training.steps": job.steps,
        "training.mixed_precision_param": "float32" if plan.precision in ("fp32", "tf32") else "bfloat16",
        "training.compile": compiled,
        "training.enable_cpu_offload": True if plan.away("parameters") else None,
        "parallelism.data_parallel_replicate_degree": plan.dp // shards,
        "parallelism.data_parallel_shard_degree": shards,
        "parallelism.fsdp_reshard_after_forward": _reshard(job),
        "parallelism.tensor_parallel_degree": plan.tp,
        "parallelism.enable_async_tensor_parallel": plan.tp > 1 and plan.framework.tp_exposed < 1 and compiled,
        "parallelism.pipeline_parallel_degree": plan.pp,
        "parallelism.pipeline_parallel_layers_per_stage": per_stage,
        "parallelism.pipeline_parallel_schedule": _SCHEDULES.get(plan.schedule, "1F1B") if plan.pp > 1 else None,
        "parallelism.pipeline_parallel_microbatch_size": plan.mbs if plan.pp > 1 else None,
        "parallelism.context_parallel_degree": plan.cp,
        "parallelism.expert_parallel_degree": plan.ep if model.experts else None,
        "activation_checkpoint.mode": (
            "full" if "full" in plan.recompute else "selective" if plan.recompute else "none"
        ),
        "activation_checkpoint.selective_ac_option": (
            "op" if plan.recompute and "full" not in plan.recompute else None
        ),
        **(eight if converters == "float8" else {}),
        **({"mx.recipe_name": "mxfp8"} if converters == "mx" else {}),
        "checkpoint.enable_checkpoint": job.found.scenario.tokens is not None,
        "checkpoint.interval": job.save_every,
    }
    given = {"--training.dataset": Var("DATASET"), "--training.dataset_path": Var("DATA")}
    more = {"--model.tokenizer_path": Var("TOKENIZER"), "--training.steps": Var("STEPS")}
    body = [
        default(Var("STEPS", str(job.steps))),
        default(Var("DATASET", "c4")),
        "TOKENIZER=${TOKENIZER:?the folder or file of the tokenizer}",
        *array("options", flags.lines({"--job.config_file": "train.toml", **more})),
        "data=()",
        'if [ -n "${DATA:-}" ]; then',
        *("    " + x for x in array("data", flags.lines(given))),
        "fi",
        'exec "${launch[@]}" -m torchtitan.train "${options[@]}" ${data[@]+"${data[@]}"} "$@"',
    ]
    fill = {
        "TOKENIZER": "the tokenizer, as torchtitan's `scripts/download_tokenizer.py` leaves it",
        "DATA": "folder of the data of `DATASET` (c4); torchtitan's few test lines without it, for the speed",
        "`optimizer`, `lr_scheduler` in train.toml": "what the plan says nothing about",
    }
    files = {"train.toml": comment(*job.about) + _toml(nested(flags, values))}
    what = {"train.toml": "the plan as torchtitan's job configuration"}
    needs = {"TOKENIZER": "tokenizer"}
    return Launched((flags,), tuple(body), files, what, fill, needs, tuple(left), flags.image.get(job.vendor, ""))


def _reshard(job: TrainJob) -> str:
    plan = job.plan
    if plan.zero < 3 or not plan.framework.reshard:
        return "never"
    return "default" if plan.pp > 1 else "always"


def _titan_left_out(job: TrainJob, *, known: bool) -> Iterator[str]:
    plan = job.plan
    if not known:
        yield f"torchtitan has no {job.repository} by name: fill in `model.name` and `model.flavor` of train.toml"
    if plan.pp > 1 and plan.schedule not in _SCHEDULES:
        yield f"torchtitan has no schedule {plan.schedule} in this form: train.toml says 1F1B"
    if plan.pp > 1 and not job.even:
        yield f"layers of the chunks {sorted(set(job.layers))}: train.toml gives every chunk {max(job.layers)} at most"
    if plan.zero in (1, 2):
        yield f"ZeRO {plan.zero}: FSDP that keeps parameters after the forward pass, which shards gradients too"
    if plan.around < plan.cp:
        yield f"{plan.cp // plan.around} ranks that exchange heads: torchtitan passes keys and values around"
    yield from _host_left_out(job, ("optimizer", "parameters"), together=True)
    if plan.recompute and "full" not in plan.recompute:
        again = ", ".join(plan.recompute)
        yield f"computing {again} again: torchtitan's own choice of ops stands in its place (every other product)"
    if plan.recompute_layers:
        yield f"computing {plan.recompute_layers} layers of every chunk again: all layers are"
    if plan.etp > 1 and job.model is not None and job.model.experts:
        yield f"tensor parallelism of experts ({plan.etp}): torchtitan cuts experts over expert ranks only"
    if plan.precision in ("fp16", "nvfp4", "mxfp4", "int8"):
        yield f"products in {plan.precision}: train.toml says bfloat16"
    if plan.precision == "fp8_block":
        yield "FP8 by blocks: rows are scaled instead"
    if plan.optimizer.name != "adamw":
        yield f"{plan.optimizer.title}: train.toml says AdamW"


def _toml(tables: dict[str, Any]) -> str:
    """Tables of plain values as TOML."""
    return "".join(
        f"\n[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items())
        for name, table in tables.items()
    )


def fsdp(job: TrainJob, model: Transformer) -> Launched:
    """``accelerate.yaml`` with FSDP2 around the Trainer."""
    flags, plan = Flags.of("training/accelerate"), job.plan
    left = list(_trainer_left_out(job, model, tensor=True, context=True))
    if plan.zero == 1:
        left.append("ZeRO 1: FSDP that keeps parameters after the forward pass, which shards gradients too")
    if plan.around < plan.cp:
        left.append(f"{plan.cp // plan.around} ranks that exchange heads: FSDP2's context parallelism is a ring")
    left += _host_left_out(job, ("optimizer", "parameters"), together=True)
    if plan.precision not in ("bf16", "fp16", "fp32", "tf32"):
        left.append(f"products in {plan.precision}: need `fp8_config` of Accelerate and a backend; the files say bf16")
    full = "full" in plan.recompute
    replicas, times = _ranks(job, tensor=True, context=True)
    shards = plan.shard if replicas == plan.dp else replicas
    values = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP",
        "mixed_precision": {"fp32": "no", "tf32": "no", "fp16": "fp16"}.get(plan.precision, "bf16"),
        "num_machines": job.nodes,
        "num_processes": job.cluster.count,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
        "fsdp_config.fsdp_version": 2,
        "fsdp_config.fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_config.fsdp_reshard_after_forward": plan.zero >= 3 and plan.framework.reshard,
        "fsdp_config.fsdp_activation_checkpointing": full,
        "fsdp_config.fsdp_offload_params": bool(plan.away("parameters")),
        "fsdp_config.fsdp_cpu_ram_efficient_loading": plan.task != "pretrain" and plan.tp == 1,
        "fsdp_config.fsdp_state_dict_type": "SHARDED_STATE_DICT",
    }
    if max(plan.tp, plan.cp) > 1 or shards < replicas:
        values |= {
            "parallelism_config.parallelism_config_dp_replicate_size": replicas // shards,
            "parallelism_config.parallelism_config_dp_shard_size": shards,
            "parallelism_config.parallelism_config_tp_size": plan.tp,
            "parallelism_config.parallelism_config_cp_size": plan.cp,
        }
    options, fill, body = _trainer(job, times, again=False)
    body += _accelerated(flags)
    files = {"accelerate.yaml": yaml_text(nested(flags, values), head=comment(*job.about))}
    what = {"accelerate.yaml": "the plan as Accelerate's configuration of FSDP2"}
    both, image = (flags, options), flags.image.get(job.vendor, "")
    return Launched(both, tuple(body), files, what, fill, _needs(job), tuple(left), image)


def _accelerated(flags: Flags) -> list[str]:
    """Lines of bash that start ``script`` by Accelerate."""
    launch = {
        "--config_file": "accelerate.yaml",
        "--num_machines": Var("NNODES"),
        "--num_processes": Var("PROCESSES"),
        "--machine_rank": Var("NODE_RANK"),
        "--main_process_ip": Var("MASTER_ADDR"),
        "--main_process_port": Var("MASTER_PORT"),
    }
    return [
        "PROCESSES=$((NNODES * GPUS))",
        *array("launch", flags.lines(launch)),
        'exec accelerate launch "${launch[@]}" "${script[@]}" "${options[@]}" "${data[@]}" "$@"',
    ]


def _host_left_out(job: TrainJob, done: Sequence[str], *, together: bool = False) -> Iterator[str]:
    """What of the plan stays on the devices; ``together``: all of ``done`` goes to the host or none."""
    plan = job.plan
    for name in plan.offload:
        what, _, place = name.partition(":")
        if what not in done or (place and together):
            yield f"{what} {'on drives' if place else 'in the memory of the host'}: not in the files"
    some = [what for what in done if plan.away(what)]
    if together and some and len(some) < len(done):
        yield f"{some[0]} alone in the memory of the host: {' and '.join(done)} go there together, or nothing does"


def deepspeed(job: TrainJob, model: Transformer) -> Launched:
    """``deepspeed.json`` for the Trainer; by Accelerate where ranks exchange heads (Ulysses)."""
    flags, plan = Flags.of("training/deepspeed"), job.plan
    heads = plan.cp > 1
    together = plan.zero <= plan.framework.zero_beside_tp
    left = list(_trainer_left_out(job, model, tensor=together, context=heads))
    left += _host_left_out(job, ("optimizer", "parameters"))
    if plan.away("parameters") and plan.zero < 3:
        left.append(f"parameters in the memory of the host: of ZeRO 3 alone, the plan's is {plan.zero}")
    if plan.precision not in ("bf16", "fp16", "fp32", "tf32"):
        left.append(f"products in {plan.precision}: the files say bf16")
    if plan.tp > 1 and together:
        left.append("installing what cuts tensors: DeepSpeed 0.16.4, Transformers 4.50.1 and Accelerate 1.6 or later")
    if plan.around > 1:
        left.append(f"a ring of {plan.around} ranks: DeepSpeed's ranks exchange heads, all {plan.cp} of them (Ulysses)")
    replicas, times = _ranks(job, tensor=together, context=heads)
    secondary = plan.zero == 3 and plan.shard < plan.dp
    if secondary:
        left.append(f"shards over {plan.shard} of {plan.dp} replicas: parameters only (ZeRO++), states over all")
    values = {
        "train_batch_size": plan.mbs * times * replicas,
        "train_micro_batch_size_per_gpu": plan.mbs,
        "gradient_accumulation_steps": times,
        "gradient_clipping": 1.0,
        "steps_per_print": 1,
        "wall_clock_breakdown": False,
        "bf16.enabled": plan.precision not in ("fp16", "fp32", "tf32"),
        "fp16.enabled": plan.precision == "fp16",
        "zero_optimization.stage": plan.zero,
        "zero_optimization.overlap_comm": plan.zero >= 2,
        "zero_optimization.contiguous_gradients": True,
        "zero_optimization.reduce_scatter": True,
        "zero_optimization.zero_hpz_partition_size": plan.shard if secondary else None,
        "tensor_parallel.autotp_size": plan.tp if plan.tp > 1 and together else None,
        **_elsewhere(job),
    }
    options, fill, body = _trainer(job, times, again=True, deepspeed=not heads)
    files = {"deepspeed.json": json.dumps(nested(flags, values), indent=2) + "\n"}
    what = {"deepspeed.json": "the plan as DeepSpeed's configuration"}
    lists, image = (flags, options), options.image.get(job.vendor, "")
    if not heads:
        body += ['exec "${launch[@]}" "${script[@]}" "${options[@]}" "${data[@]}" "$@"']
        return Launched(lists, tuple(body), files, what, fill, _needs(job), tuple(left), image)
    outer = Flags.of("training/accelerate")
    around = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "num_machines": job.nodes,
        "num_processes": job.cluster.count,
        "machine_rank": 0,
        "deepspeed_config.deepspeed_config_file": "deepspeed.json",
        "parallelism_config.parallelism_config_dp_replicate_size": 1,
        "parallelism_config.parallelism_config_dp_shard_size": replicas,
        "parallelism_config.parallelism_config_sp_size": plan.cp,
        "parallelism_config.parallelism_config_sp_backend": "deepspeed",
        "parallelism_config.parallelism_config_sp_seq_length_is_variable": True,
        "parallelism_config.parallelism_config_sp_attn_implementation": "flash_attention_2",
    }
    body += _accelerated(outer)
    files["accelerate.yaml"] = yaml_text(nested(outer, around), head=comment(*job.about))
    what["accelerate.yaml"] = "how many ranks exchange heads, for Accelerate"
    return Launched((*lists, outer), tuple(body), files, what, fill, _needs(job), tuple(left), image)


def _elsewhere(job: TrainJob) -> dict[str, Any]:
    """Fields of what DeepSpeed keeps in the host's memory or on drives."""
    plan, found = job.plan, dict[str, Any]()
    for part, key in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
        place = plan.away(part)
        if place and (part == "optimizer" or plan.zero >= 3):
            found[f"zero_optimization.{key}.device"] = "cpu" if place == "host" else place
            found[f"zero_optimization.{key}.pin_memory"] = True
            found[f"zero_optimization.{key}.nvme_path"] = "/local_nvme" if place == "nvme" else None
    return found


def trainer(job: TrainJob, model: Transformer) -> Launched:
    """The Trainer by itself: a copy of the model on every device."""
    plan = job.plan
    left = list(_trainer_left_out(job, model, tensor=False, context=False))
    left += _host_left_out(job, () if plan.task == "pretrain" else ("activations",))
    if plan.zero:
        left.append(f"ZeRO {plan.zero}: the Trainer by itself keeps all states on every device (--framework fsdp)")
    if plan.precision not in ("bf16", "fp16", "fp32", "tf32"):
        left.append(f"products in {plan.precision}: the script says bf16")
    options, fill, body = _trainer(job, _ranks(job, tensor=False, context=False)[1], again=True)
    body += ['exec "${launch[@]}" "${script[@]}" "${options[@]}" "${data[@]}" "$@"']
    image = options.image.get(job.vendor, "")
    return Launched((options,), tuple(body), fill=fill, needs=_needs(job), left_out=tuple(left), image=image)


def _needs(job: TrainJob) -> dict[str, str]:
    """What the Trainer does not start without, and a name for each on a volume."""
    return {"SCRIPT": "run_clm.py", "DATA_FILE": "train.txt"} if job.plan.task == "pretrain" else {"DATA": "dataset"}


def _ranks(job: TrainJob, *, tensor: bool, context: bool) -> tuple[int, int]:
    """Replicas where only these degrees are in the files, and the micro-batches that each adds up."""
    plan = job.plan
    replicas = max(1, plan.devices // ((plan.tp if tensor else 1) * (plan.cp if context else 1)))
    return replicas, max(1, plan.gbs // (plan.mbs * replicas))


def _trainer_left_out(job: TrainJob, model: Transformer, *, tensor: bool, context: bool) -> Iterator[str]:
    """What the Trainer does not do; ``tensor``, ``context``: what surrounds it cuts these."""
    plan = job.plan
    title = plan.framework.title
    if plan.pp > 1:
        yield f"{title} runs the Trainer, which has no pipeline: the plan's {plan.pp} stages are not in the files"
    if plan.pp > 1 and plan.schedule not in ("1f1b", "gpipe", "interleaved"):
        yield f"nor is its schedule {plan.schedule}"
    if plan.tp > 1 and not tensor:
        yield f"tensor parallelism ({plan.tp}) is not in the files"
    if plan.cp > 1 and not context:
        yield f"context parallelism ({plan.cp}) is not in the files"
    if plan.ep > 1:
        yield f"expert parallelism ({plan.ep}) is not in the files"
    replicas, times = _ranks(job, tensor=tensor, context=context)
    if replicas != plan.dp:
        step = plan.mbs * replicas * times
        yield f"so {replicas} replicas train instead of {plan.dp}, {step} sequences a step of the plan's {plan.gbs}"
    for name in plan.recompute:
        if name != "full":
            yield f"computing {name} again: whole layers are (full) or nothing is; the files say nothing"
    if plan.recompute_layers:
        yield f"computing {plan.recompute_layers} layers of every chunk again: all layers are"
    if plan.optimizer.name not in _OPTIM:
        yield f"the Trainer has no {plan.optimizer.title} by name: the script says adamw_torch_fused"
    if plan.task == "pretrain" and model.depth:
        yield "run_clm.py has no flag for the kernel of attention: it runs the model's default (sdpa)"


def _trainer(
    job: TrainJob, times: int, *, again: bool, deepspeed: bool = False
) -> tuple[Flags, dict[str, str], list[str]]:
    """Arguments of the script, what is to fill in, and lines of bash that set ``script``, ``options`` and ``data``.

    Args:
        job: what is trained.
        times: micro-batches that are added up.
        again: the Trainer itself computes layers again, not what surrounds it.
        deepspeed: it reads ``deepspeed.json``.
    """
    flags, plan = Flags.of("training/trainer"), job.plan
    fresh = plan.task == "pretrain"
    own: dict[str, Any] = {
        "--config_name": Var("MODEL"),
        "--tokenizer_name": Var("MODEL"),
        "--block_size": plan.seq,
        "--do_train": True,
    }
    if not fresh:
        attention = {"flash": "flash_attention_2", "naive": "eager", "unfused": "eager"}
        own = {
            "--model_name_or_path": Var("MODEL"),
            "--max_length": plan.seq,
            "--packing": True,
            "--attn_implementation": attention.get(plan.framework.attention, "sdpa"),
            "--use_peft": plan.frozen,
            "--lora_r": plan.rank if plan.frozen else None,
            "--lora_alpha": 2 * plan.rank if plan.frozen else None,
            "--load_in_4bit": plan.task == "qlora",
        }
    full = again and "full" in plan.recompute
    shared = {
        "--output_dir": Var("CHECKPOINTS"),
        "--per_device_train_batch_size": plan.mbs,
        "--gradient_accumulation_steps": times,
        "--max_steps": Var("STEPS"),
        "--learning_rate": Var("LR"),
        "--bf16": plan.precision not in ("fp16", "fp32", "tf32"),
        "--fp16": plan.precision == "fp16",
        "--tf32": "True" if plan.precision == "tf32" else None,
        "--optim": _OPTIM.get(plan.optimizer.name, "adamw_torch_fused"),
        "--optim_target_modules": ["attn", "mlp"] if plan.optimizer.name == "galore" else None,
        "--gradient_checkpointing": "True" if full else "False",
        "--use_liger_kernel": "True" if plan.loss == "fused" else None,
        "--activation_offloading": "True" if plan.away("activations") and not fresh else None,
        "--logging_steps": 1,
        "--save_steps": job.save_every,
        "--deepspeed": "deepspeed.json" if deepspeed else None,
    }
    script = 'script=("${SCRIPT:?run_clm.py of the examples of Transformers}")'
    if not fresh:
        module = "--module" if plan.framework.name in ("fsdp", "composer") else "-m"
        script = f"script=({module} trl.scripts.sft)"
    body = [
        default(Var("STEPS", str(job.steps))),
        default(Var("LR", "3e-4" if fresh else "2e-5" if not plan.frozen else "2e-4")),
        default(Var("MODEL", job.repository)),
        default(Var("CHECKPOINTS", "checkpoints")),
        script,
        *array("options", flags.lines({**own, **shared})),
        *array("data", flags.lines({"--dataset_name": Var("DATA")})),
    ]
    if fresh:
        body += ['if [ -n "${DATA_FILE:-}" ]; then']
        body += ["    " + x for x in array("data", flags.lines({"--train_file": Var("DATA_FILE")}))]
        body += ["fi"]
    ask = ': "${DATA:=${DATA_FILE:+-}}" "${DATA:?a dataset, or DATA_FILE}"' if fresh else ': "${DATA:?a dataset}"'
    body.insert(0, ask)
    fill = {
        "DATA": _DATA if fresh else "name or folder of a dataset of conversations or prompts",
        "MODEL": f"its name on the hub ({job.repository}) or a folder",
        "LR": "the learning rate; schedules and betas are not the plan's: add them behind `./train.sh`",
        "CHECKPOINTS": "folder of checkpoints",
        **({"SCRIPT": "`examples/pytorch/language-modeling/run_clm.py` of Transformers"} if fresh else {}),
    }
    return flags, fill, body
