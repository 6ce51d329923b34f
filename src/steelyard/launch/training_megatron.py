"""Training plans for Megatron-LM (flags of ``pretrain_gpt.py``) and Megatron-Bridge (a script that sets its fields)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from steelyard.launch.command import Flags, Var
from steelyard.launch.documents import comment
from steelyard.launch.training_job import Launched, TrainJob, array, default
from steelyard.workload.transformer import Transformer

__all__ = ["again_left_out", "bridge", "computed_again", "megatron"]

#: Modules that are computed again, by the plan's names.
_MODULES = {
    "core_attn": "core_attn",
    "mla_up_proj": "mla_up_proj",
    "norm": "layernorm",
    "act": "moe_act",
    "mlp": "mlp",
    "moe": "moe",
    "shared_experts": "shared_experts",
}
_SHARDED = {2: "optim_grads", 3: "optim_grads_params"}
_ATTENTION = {"cudnn": "fused", "flash": "flash", "unfused": "unfused", "naive": "unfused"}
_PRECISION: dict[str, dict[str, Any]] = {
    "bf16": {"--bf16": True},
    "fp16": {"--fp16": True},
    "fp32": {},
    "tf32": {},
    "fp8": {"--bf16": True, "--fp8-format": "hybrid", "--fp8-recipe": "tensorwise"},
    "fp8_block": {"--bf16": True, "--fp8-format": "e4m3", "--fp8-recipe": "blockwise"},
    "mxfp8": {"--bf16": True, "--fp8-format": "e4m3", "--fp8-recipe": "mxfp8"},
    "nvfp4": {"--bf16": True, "--fp4-format": "e2m1", "--fp4-recipe": "nvfp4"},
}
_BRIDGE_PRECISION = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "fp8_block": "bf16_with_fp8_subchannel_scaling_mixed",
    "mxfp8": "bf16_with_mxfp8_mixed",
    "nvfp4": "bf16_with_nvfp4_mixed",
}
#: Optimizers by the names of Megatron; its Adam decays weights apart from the gradient (AdamW).
_OPTIMIZER: dict[str, dict[str, Any]] = {
    "adamw": {"--optimizer": "adam"},
    "adamw_bf16": {
        "--optimizer": "adam",
        "--use-precision-aware-optimizer": True,
        "--exp-avg-dtype": "bf16",
        "--exp-avg-sq-dtype": "bf16",
    },
    "sgd": {"--optimizer": "sgd"},
    "muon": {"--optimizer": "muon"},
}


def megatron(job: TrainJob, model: Transformer) -> Launched:
    """``pretrain_gpt.py`` with its flags."""
    flags, plan = Flags.of("training/megatron"), job.plan
    left = [*_shape_left_out(model), *_layout_left_out(job)]
    if plan.framework.dispatcher == "hybridep":
        left.append("hybridep: DeepEP stands in its place")
    if plan.precision not in _PRECISION:
        left.append(f"Megatron-LM computes no products in {plan.precision}; the script runs bf16")
    if plan.optimizer.name not in _OPTIMIZER:
        left.append(f"Megatron-LM has no {plan.optimizer.title}; the script runs its Adam")
    layout = {
        "--tensor-model-parallel-size": plan.tp,
        "--pipeline-model-parallel-size": plan.pp,
        "--context-parallel-size": plan.cp,
        "--cp-comm-type": _shared(job)[0],
        "--hierarchical-context-parallel-sizes": [str(n) for n in _shared(job)[1] or ()] or None,
        "--expert-model-parallel-size": plan.ep if model.experts else None,
        "--expert-tensor-parallel-size": plan.etp if model.experts else None,
        "--num-virtual-stages-per-pipeline-rank": plan.vp if plan.vp > 1 and job.even else None,
        "--pipeline-model-parallel-layout": None if job.even else _stages(job),
        "--sequence-parallel": plan.sequence_parallel,
        **_replicas(job),
        "--tp-comm-overlap": plan.tp > 1 and plan.framework.tp_exposed < 1,
        "--grad-reduce-in-bf16": plan.framework.gradient_bits <= 16,
        "--distributed-timeout-minutes": 60,
    }
    step = {
        "--micro-batch-size": plan.mbs,
        "--global-batch-size": plan.gbs,
        "--seq-length": plan.seq,
        "--train-iters": Var("STEPS"),
        **_PRECISION.get(plan.precision, {"--bf16": True}),
        "--transformer-impl": "transformer_engine",
        "--attention-backend": _ATTENTION.get(plan.framework.attention, "auto"),
        **({} if plan.framework.dropout else {"--attention-dropout": 0.0, "--hidden-dropout": 0.0}),
        **{f"--{n.replace('_', '-')}": v for n, v in computed_again(job).items()},
        **_OPTIMIZER.get(plan.optimizer.name, {"--optimizer": "adam"}),
        **{f"--{n.replace('_', '-')}": v for n, v in (_states_away(job) | _activations_away(job, model)).items()},
        "--lr": Var("LR"),
        "--cuda-graph-impl": "transformer_engine" if plan.framework.graph else None,
        "--cuda-graph-scope": ("attn" if model.experts else "full") if plan.framework.graph else None,
        "--te-rng-tracker": plan.framework.graph,
        "--manual-gc": True,
        "--manual-gc-interval": 100,
        "--log-interval": 1,
        "--log-throughput": True,
        "--eval-interval": 1000,
        "--eval-iters": 0,
    }
    kept = {
        "--save": Var("CHECKPOINTS"),
        "--load": Var("CHECKPOINTS"),
        "--save-interval": job.save_every,
        "--ckpt-format": "fsdp_dtensor" if plan.zero >= 2 else "torch_dist",
        "--async-save": plan.zero < 2,
    }
    real = {
        "--data-path": [Var("DATA")],
        "--split": "99,1,0",
        "--tokenizer-type": "SFTTokenizer" if plan.task == "sft" else "HuggingFaceTokenizer",
        "--tokenizer-model": Var("TOKENIZER"),
    }
    mock = {"--mock-data": True, "--tokenizer-type": "NullTokenizer", "--vocab-size": model.vocab - 1}
    tuned = {"--sft": True, "--finetune": True, "--pretrained-checkpoint": Var("WEIGHTS")}
    settings = [Var("STEPS", str(job.steps)), Var("LR", "3e-4"), Var("TOKENIZER", job.repository)]
    shape = _shape(job, model)
    if "--rotary-base" in shape:
        settings.append(Var("ROTARY_BASE", str(round(float(job.config.get("rope_theta", 10000))))))
    body = [
        "MEGATRON=${MEGATRON:?the folder of Megatron-LM}",
        *map(default, [*settings, Var("CHECKPOINTS", "checkpoints")]),
        *(["WEIGHTS=${WEIGHTS:?the folder of the checkpoint that is tuned}"] if plan.task == "sft" else []),
        *([] if plan.zero >= 2 else ["export CUDA_DEVICE_MAX_CONNECTIONS=1"]),
        *array("model", flags.lines(shape)),
        *array("layout", flags.lines(layout)),
        *array("step", flags.lines(step)),
        *array("checkpoints", flags.lines(kept)),
        *array("data", flags.lines(mock)),
        'if [ -n "${DATA:-}" ]; then',
        *("    " + x for x in array("data", flags.lines(real))),
        "fi",
        *(array("tuned", flags.lines(tuned)) if plan.task == "sft" else ["tuned=()"]),
        'exec "${launch[@]}" "$MEGATRON/pretrain_gpt.py" "${model[@]}" "${layout[@]}" "${step[@]}" '
        '"${checkpoints[@]}" "${data[@]}" ${tuned[@]+"${tuned[@]}"} "$@"',
    ]
    fill = {
        "MEGATRON": "the folder of Megatron-LM",
        "DATA": "prefix of the preprocessed data (`tools/preprocess_data.py`); made-up data without it, for the speed",
        "TOKENIZER": "the model's tokenizer, used with `DATA`",
        "LR": "the learning rate; warm-up, decay and betas are not the plan's: add them behind `./train.sh`",
        "CHECKPOINTS": "folder of checkpoints",
        **({"WEIGHTS": "the checkpoint that is tuned, in Megatron's format"} if plan.task == "sft" else {}),
        **(
            {"ROTARY_BASE": "`rope_theta` of the model's config (no time depends on it)"}
            if "--rotary-base" in shape
            else {}
        ),
    }
    left.append(
        "rotary scaling, epsilon of norms and what a router scores with are as in Megatron: no time depends on it"
    )
    needs = {"MEGATRON": "Megatron-LM", **({"WEIGHTS": "weights"} if plan.task == "sft" else {})}
    image = flags.image.get(job.vendor, "")
    return Launched((flags,), tuple(body), fill=fill, needs=needs, left_out=tuple(left), image=image)


def _shared(job: TrainJob) -> tuple[str | None, list[int] | None]:
    """How context-parallel ranks share attention, and their two levels where heads and a ring do."""
    plan = job.plan
    if plan.cp == 1:
        return None, None
    if plan.around in (1, plan.cp):
        return ("a2a" if plan.around == 1 else "p2p"), None
    return "a2a+p2p", [plan.cp // plan.around, plan.around]


def _states_away(job: TrainJob) -> dict[str, Any]:
    """Settings of states of the optimizer in the host's memory, which updates them."""
    if not job.plan.away("optimizer"):
        return {}
    flags = ("optimizer_cpu_offload", "overlap_cpu_optimizer_d2h_h2d", "use_precision_aware_optimizer")
    return {**dict.fromkeys(flags, True), "optimizer_offload_fraction": 1.0}


def _activations_away(job: TrainJob, model: Transformer) -> dict[str, Any]:
    """Settings of what waits for the backward pass in the host's memory."""
    if not job.plan.away("activations"):
        return {}
    modules = ["attn_norm", "core_attn", "attn_proj", "mlp_norm", *(["expert_fc1", "moe_act"] if model.experts else [])]
    return {"fine_grained_activation_offloading": True, "offload_modules": modules}


def _shape(job: TrainJob, model: Transformer) -> dict[str, Any]:
    """Flags of the model."""
    attention = next((x.attention for x in model.layers if x.attention is not None), None)
    dense = next((x.feed_forward for x in model.layers if x.feed_forward and not x.feed_forward.is_moe), None)
    routed = next((x.feed_forward for x in model.layers if x.feed_forward and x.feed_forward.is_moe), None)
    either = dense or routed
    found: dict[str, Any] = {
        "--num-layers": model.depth,
        "--hidden-size": model.hidden,
        "--ffn-hidden-size": either.intermediate if either else None,
        "--max-position-embeddings": max(model.max_context, job.plan.seq),
        "--normalization": "LayerNorm" if model.norm_bias else "RMSNorm",
        "--untie-embeddings-and-output-weights": not model.tied,
        "--make-vocab-size-divisible-by": 128,
    }
    if either:
        found |= {
            "--swiglu": either.gated and either.activation in ("silu", "swish"),
            "--squared-relu": either.activation == "relu2",
        }
    if attention:
        rotary = attention.rotary_dim and not attention.is_mla
        found |= {
            "--num-attention-heads": attention.heads,
            "--position-embedding-type": "rope" if attention.rotary_dim else "learned_absolute",
            "--rotary-base": Var("ROTARY_BASE") if attention.rotary_dim else None,
            "--rotary-percent": attention.rotary_dim / attention.head_dim if rotary else None,
            "--qk-layernorm": bool(attention.qk_norm),
            "--disable-bias-linear": not (attention.out_bias or (either and either.up_bias)),
            "--add-qkv-bias": attention.q_bias and not attention.out_bias,
        }
        if attention.is_mla:
            found |= {
                "--multi-latent-attention": True,
                "--q-lora-rank": attention.q_rank or None,
                "--kv-lora-rank": attention.kv_rank,
                "--qk-head-dim": attention.nope_dim,
                "--qk-pos-emb-head-dim": attention.rope_dim,
                "--v-head-dim": attention.values,
            }
        else:
            grouped = attention.kv_heads != attention.heads
            found |= {
                "--kv-channels": attention.head_dim,
                "--group-query-attention": grouped,
                "--num-query-groups": attention.kv_heads if grouped else None,
            }
    if routed:
        order = "+".join(
            f"[{int(x.feed_forward is not None and x.feed_forward.is_moe)}]*{x.count}" for x in model.layers
        )
        deep = job.plan.framework.dispatcher in ("deepep", "hybridep")
        found |= {
            "--num-experts": routed.experts,
            "--moe-layer-freq": f"({order})" if dense else None,
            "--moe-ffn-hidden-size": routed.intermediate,
            "--moe-router-topk": routed.top_k,
            "--moe-router-num-groups": job.config.get("n_group") or None,
            "--moe-router-group-topk": job.config.get("topk_group") or None,
            "--moe-router-load-balancing-type": "aux_loss",
            "--moe-shared-expert-intermediate-size": routed.shared_intermediate or None,
            "--moe-grouped-gemm": True,
            "--moe-permute-fusion": True,
            "--moe-token-dispatcher-type": "flex" if deep else job.plan.framework.dispatcher,
            "--moe-enable-deepep": deep,
        }
    return found


def _shape_left_out(model: Transformer) -> Iterator[str]:
    """What of the model flags do not say."""
    if len({(x.attention.heads, x.attention.kv_heads, x.attention.head_dim) for x in model.layers if x.attention}) > 1:
        yield "layers of unlike attention: the flags say the first kind, the others need a layer specification"
    if any(x.mixer is not None or x.attention is None for x in model.layers):
        yield "layers without attention (scans, convolutions): they need Megatron's hybrid models"
    if any(x.attention and (x.attention.window or x.attention.chunk) for x in model.layers):
        yield "attention within a window: add `--window-size` and `--window-attn-skip-freq`"
    for layer in model.layers:
        f = layer.feed_forward
        if f and not (f.gated and f.activation in ("silu", "swish")) and f.activation not in ("gelu", "relu2"):
            yield f"the activation {f.activation}: Megatron's GELU or SwiGLU stands in its place"
            break


def _layout_left_out(job: TrainJob) -> Iterator[str]:
    """What of the layout Megatron does not do."""
    plan = job.plan
    if plan.pp > 1 and plan.schedule not in ("1f1b", "interleaved"):
        yield f"Megatron has no schedule {plan.schedule}: it runs {'interleaved ' if plan.vp > 1 else ''}1F1B"
    yield from again_left_out(job)
    if plan.away("parameters"):
        yield "parameters in the memory of the host: Megatron keeps them on the devices"
    if plan.away("optimizer") == "nvme":
        yield "states on drives: Megatron keeps them in the memory of the host"
    if plan.away("activations"):
        yield "activations in the memory of the host: Megatron moves the inputs of the modules that are named, not all"
    if plan.shard < plan.dp and plan.zero >= 2:
        yield f"shards over {plan.shard} of {plan.dp} replicas: set as instances of the optimizer"


def again_left_out(job: TrainJob) -> Iterator[str]:
    """What of the plan Megatron does not compute again."""
    for name in job.plan.recompute:
        if name not in ("full", *_MODULES):
            yield f"computing {name} again: Megatron knows {', '.join(_MODULES)} (by its own names) and full"
    if "act" in job.plan.recompute and job.model is not None and not job.model.experts:
        yield "computing activations again: Megatron does so for experts only"


def _stages(job: TrainJob) -> str:
    """The layers of every chunk, as ``--pipeline-model-parallel-layout`` reads them."""
    parts = ["t" * n for n in job.layers]
    return "|".join(["E" + parts[0], *parts[1:-1], parts[-1] + "L"])


def _replicas(job: TrainJob) -> dict[str, Any]:
    """Flags of ZeRO."""
    plan, instances = job.plan, job.plan.dp // job.plan.shard
    hidden = plan.dp > 1 and plan.framework.dp_exposed < 1
    return {
        "--use-distributed-optimizer": plan.zero >= 1,
        "--use-megatron-fsdp": plan.zero >= 2,
        "--data-parallel-sharding-strategy": _SHARDED.get(plan.zero),
        "--no-gradient-accumulation-fusion": plan.zero >= 2,
        "--num-distributed-optimizer-instances": instances if plan.zero >= 1 and instances > 1 else None,
        "--overlap-grad-reduce": hidden,
        "--overlap-param-gather": hidden and plan.zero >= 1,
    }


def computed_again(job: TrainJob) -> dict[str, Any]:
    """What is computed again, by the names both share."""
    names = job.plan.recompute
    if "full" in names:
        some = job.plan.recompute_layers
        method = {"recompute_method": "block" if some else "uniform", "recompute_num_layers": some or 1}
        return {"recompute_granularity": "full", **method}
    modules = [_MODULES[n] for n in names if n in _MODULES and not (n == "act" and job.model and not job.model.experts)]
    return {"recompute_granularity": "selective", "recompute_modules": modules} if modules else {}


_BRIDGE = '''\
"""Runs the plan with Megatron-Bridge: a recipe, this model, and the fields below."""

import os

from megatron.bridge import AutoBridge, recipes
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.{mode} import {mode}

MODEL = os.environ.get("MODEL", {repository})
PLAN = {fields}


def put(config, name, value):
    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part)
    if not hasattr(config, last):
        raise AttributeError(f"this version of Megatron-Bridge has no {{name}}")
    setattr(config, last, value)


config = recipes.{recipe}()
config.model = AutoBridge.from_hf_pretrained(MODEL).to_megatron_provider(load_weights=False)
config.tokenizer.tokenizer_model = MODEL
for name, value in PLAN.items():
    put(config, name, value)
config.train.train_iters = int(os.environ.get("STEPS", {steps}))
{given}if os.environ.get("LR"):
    config.optimizer.lr = float(os.environ["LR"])
if os.environ.get("CHECKPOINTS"):
    config.checkpoint.save = config.checkpoint.load = os.environ["CHECKPOINTS"]
{flex}{overlap}
if __name__ == "__main__":
    {mode}(config=config, forward_step_func=forward_step)
'''
_PRETRAIN = """\
if os.environ.get("DATA"):
    config.dataset.blend = [[os.environ["DATA"]], None]
"""
_TUNED = """\
if os.environ.get("DATA"):
    config.dataset.dataset_root = os.environ["DATA"]
config.checkpoint.pretrained_checkpoint = os.environ["WEIGHTS"]
"""
_FLEX = """
from megatron.bridge.training.flex_dispatcher_backend import apply_flex_dispatcher_backend  # noqa: E402

apply_flex_dispatcher_backend(config.model, moe_flex_dispatcher_backend="{}")
"""
_OVERLAP = """
from megatron.bridge.training.comm_overlap import CommOverlapConfig  # noqa: E402

config.comm_overlap = CommOverlapConfig(tp_comm_overlap=True)
"""


def bridge(job: TrainJob, model: Transformer) -> Launched:
    """A script that takes a recipe of Megatron-Bridge and sets the plan's fields."""
    flags, plan = Flags.of("training/bridge"), job.plan
    left = list(_layout_left_out(job))
    if plan.precision not in _BRIDGE_PRECISION:
        left.append(f"Megatron-Bridge has no recipe for {plan.precision}; the script runs bf16_mixed")
    if plan.optimizer.name != "adamw":
        left.append(f"{plan.optimizer.title}: the script keeps the optimizer of the recipe, a distributed Adam")
    if plan.task == "qlora":
        left.append("weights in 4 bits: Megatron-Bridge trains adapters on 16-bit weights")
    deep = plan.framework.dispatcher in ("deepep", "hybridep")
    hidden = plan.dp > 1 and plan.framework.dp_exposed < 1
    values = {
        "model.tensor_model_parallel_size": plan.tp,
        "model.pipeline_model_parallel_size": plan.pp,
        "model.virtual_pipeline_model_parallel_size": plan.vp if plan.vp > 1 and job.even else None,
        "model.pipeline_model_parallel_layout": None if job.even else _stages(job),
        "model.context_parallel_size": plan.cp,
        "model.cp_comm_type": _shared(job)[0],
        "model.hierarchical_context_parallel_sizes": _shared(job)[1],
        **{f"model.{n}": v for n, v in _activations_away(job, model).items()},
        **{f"optimizer.{n}": v for n, v in _states_away(job).items()},
        "model.expert_model_parallel_size": plan.ep,
        "model.expert_tensor_parallel_size": plan.etp if model.experts else None,
        "model.sequence_parallel": plan.sequence_parallel,
        "model.seq_length": plan.seq,
        "model.moe_token_dispatcher_type": (
            ("alltoall" if deep else plan.framework.dispatcher) if model.experts else None
        ),
        **{f"model.{n}": v for n, v in computed_again(job).items()},
        "model.cuda_graph_impl": "transformer_engine" if plan.framework.graph else None,
        "train.global_batch_size": plan.gbs,
        "train.micro_batch_size": plan.mbs,
        "optimizer.use_distributed_optimizer": plan.zero >= 1,
        "ddp.use_distributed_optimizer": plan.zero >= 1,
        "ddp.overlap_grad_reduce": hidden,
        "ddp.overlap_param_gather": hidden and plan.zero >= 1,
        "ddp.use_megatron_fsdp": True if plan.zero >= 2 else None,
        "ddp.data_parallel_sharding_strategy": _SHARDED.get(plan.zero),
        "ddp.num_distributed_optimizer_instances": (
            plan.dp // plan.shard if plan.zero >= 1 and plan.shard < plan.dp else None
        ),
        "dataset.seq_length": plan.seq,
        "logger.log_interval": 1,
        "checkpoint.save_interval": job.save_every,
        "mixed_precision": _BRIDGE_PRECISION.get(plan.precision, "bf16_mixed"),
        "peft.dim": plan.rank if plan.frozen else None,
        "peft.alpha": 2 * plan.rank if plan.frozen else None,
    }
    kept = dict(flags.option(n, v) for n, v in values.items() if v is not None)
    fresh = plan.task == "pretrain"
    recipe = "pretrain" if fresh else "peft" if plan.frozen else "sft"
    script = _BRIDGE.format(
        mode="pretrain" if fresh else "finetune",
        repository=json.dumps(job.repository),
        fields="{\n" + "".join(f"    {json.dumps(n)}: {v!r},\n" for n, v in kept.items()) + "}",
        recipe=f"llama32_1b_{recipe}_config",
        steps=job.steps,
        given=_PRETRAIN if fresh else _TUNED,
        flex=_FLEX.format(plan.framework.dispatcher) if deep and model.experts else "",
        overlap=_OVERLAP if plan.tp > 1 and plan.sequence_parallel and plan.framework.tp_exposed < 1 else "",
    )
    body = [
        *([] if fresh else ["export WEIGHTS=${WEIGHTS:?the folder of the checkpoint that is tuned}"]),
        *([] if plan.zero >= 2 else ["export CUDA_DEVICE_MAX_CONNECTIONS=1"]),
        'exec "${launch[@]}" train.py "$@"',
    ]
    fill = {
        "DATA": "prefix of the preprocessed data (of tuning: a folder of JSONL); made-up data or SQuAD without it",
        "MODEL": f"the model: its name on the hub ({job.repository}) or a folder with its config and tokenizer",
        "LR": "the learning rate; the rest of the optimizer is the recipe's",
        "CHECKPOINTS": "folder of checkpoints",
        **({} if fresh else {"WEIGHTS": "the checkpoint that is tuned, converted by `AutoBridge`"}),
    }
    what = {"train.py": "the plan as fields of Megatron-Bridge's configuration"}
    files = {"train.py": comment(*job.about) + script}
    needs = {} if fresh else {"WEIGHTS": "weights"}
    return Launched((flags,), tuple(body), files, what, fill, needs, tuple(left), flags.image.get(job.vendor, ""))
