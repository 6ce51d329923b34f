"""Plans of steps that learn from scored answers, for verl: the plan as fields of its configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from steelyard.launch.command import Flags, Var, shell_word
from steelyard.launch.training_job import Launched, TrainJob, default
from steelyard.launch.training_megatron import again_left_out, computed_again
from steelyard.workload.model import Model
from steelyard.workload.transformer import Transformer

__all__ = ["verl"]

_ACTOR = "actor_rollout_ref.actor"
#: Frameworks whose layers verl's workers of Megatron run; it runs all others by FSDP.
_MEGATRON = ("megatron", "bridge", "nemo")
#: The entry where answers are drawn beside training, a step ahead.
_APART = "verl.experimental.one_step_off_policy.main_ppo"
#: The port of Ray.
_RAY = 6379


def verl(job: TrainJob, model: Transformer) -> Launched:
    """``train.sh`` for verl: in turns by its usual trainer, apart by the one that is a step behind."""
    flags, plan, found = Flags.of("training/verl"), job.plan, job.found
    step, done = found.scenario.rewarded, found.rewarded
    assert step is not None
    assert done is not None
    assert done.rollouts is not None
    answers, made, cores = step.answers, done.rollouts, plan.framework.name.split("@")[0] in _MEGATRON
    apart = step.rollout_on
    prompts, group = answers.osl.shape
    longest = int(answers.isl.max()), int(answers.osl.max())
    strategy = "megatron" if cores else "fsdp2"
    budget = plan.seq * plan.mbs // plan.cp
    away = made.away_bytes > 0
    program = not isinstance(step.reward, Model) and step.reward > 0.0
    values: dict[str, Any] = {
        "algorithm.adv_estimator": "gae" if step.task == "ppo" else "grpo",
        "algorithm.use_kl_in_reward": False,
        "data.train_files": Var("DATA", after="/train.parquet"),
        "data.val_files": Var("DATA", after="/test.parquet"),
        "data.train_batch_size": prompts,
        "data.max_prompt_length": longest[0],
        "data.max_response_length": longest[1],
        "data.filter_overlong_prompts": True,
        "data.truncation": "error",
        "actor_rollout_ref.model.path": Var("MODEL"),
        "actor_rollout_ref.model.use_remove_padding": True,
        "actor_rollout_ref.model.enable_gradient_checkpointing": None if cores else "full" in plan.recompute,
        "actor_rollout_ref.model.enable_activation_offload": True if plan.away("activations") and not cores else None,
        "actor_rollout_ref.model.use_fused_kernels": True if plan.loss == "fused" else None,
        f"{_ACTOR}.strategy": strategy,
        f"{_ACTOR}.ppo_mini_batch_size": max(1, prompts * step.passes // step.updates),
        f"{_ACTOR}.ppo_epochs": step.passes,
        f"{_ACTOR}.use_dynamic_bsz": True,
        f"{_ACTOR}.ppo_max_token_len_per_gpu": budget,
        f"{_ACTOR}.use_kl_loss": step.reference,
        f"{_ACTOR}.optim.lr": Var("LR"),
        **(_megatron(job, model, away) if cores else _fsdp(job, away)),
        "actor_rollout_ref.rollout.name": "sglang" if made.engine.startswith("sglang") else "vllm",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": made.cluster.count // made.replicas,
        "actor_rollout_ref.rollout.gpu_memory_utilization": math.floor(made.memory_frac * 100) / 100,
        "actor_rollout_ref.rollout.n": group,
        "actor_rollout_ref.rollout.max_model_len": sum(longest),
        **(_critic(job, strategy, budget) if step.critics else {}),
        **_reward(step.reward),
        **_devices(job),
        "trainer.total_training_steps": Var("STEPS"),
        "trainer.save_freq": job.save_every,
        "trainer.test_freq": -1,
        "trainer.val_before_train": False,
        "trainer.logger": ["console"],
        "trainer.default_local_dir": Var("CHECKPOINTS"),
    }
    entry, config = "verl.trainer.main_ppo", "ppo_megatron_trainer" if cores else "ppo_trainer"
    if apart is not None:
        entry, config = _APART, f"one_step_off_{config}"
        values |= {"actor_rollout_ref.hybrid_engine": False, "hydra.searchpath": ["pkg://verl.trainer.config"]}
    named = " ".join((*(["--config-path=config"] if apart is not None else []), f"--config-name={config}"))
    body = [
        "DATA=${DATA:?a folder with train.parquet and test.parquet}",
        *map(default, (Var("MODEL", job.repository), Var("LR", "1e-6"), Var("STEPS", str(job.steps)))),
        default(Var("CHECKPOINTS", "checkpoints")),
        *([default(Var("REWARD_MODEL", step.reward.name))] if isinstance(step.reward, Model) else []),
        *(["REWARD=${REWARD:?a file of Python with compute_score}"] if program else []),
        *_ray(),
        "options=(",
        *("    " + x for x in _overrides(flags, values)),
        ")",
        f'exec python3 -m {entry} {named} "${{options[@]}}" "$@"',
    ]
    fill = {
        "DATA": "folder with `train.parquet` and `test.parquet`, as verl's `examples/data_preprocess` writes them",
        "MODEL": f"its name on the hub ({job.repository}) or a folder",
        "LR": "the learning rate; clipping, KL and the rest of the optimizer are verl's own",
        "CHECKPOINTS": "folder of checkpoints",
        **({"REWARD_MODEL": "the model that scores answers"} if isinstance(step.reward, Model) else {}),
        **({"REWARD": "a file of Python whose `compute_score` scores answers"} if program else {}),
    }
    return Launched(
        (flags,),
        tuple(body),
        fill=fill,
        needs={"DATA": "rl"},
        left_out=tuple(_left_out(job, cores)),
        image=flags.image.get(job.vendor, ""),
    )


def _ray() -> list[str]:
    """Lines of bash that join the nodes, of which the first goes on when all devices are there."""
    count = "ray.cluster_resources().get('GPU', 0)"
    ready = f"import ray; ray.init(address='auto'); raise SystemExit({count} < $((NNODES * GPUS)))"
    return [
        'if [ "$NODE_RANK" != 0 ]; then',
        f'    exec ray start --address="$MASTER_ADDR:{_RAY}" --num-gpus="$GPUS" --block',
        "fi",
        f'ray start --head --port={_RAY} --num-gpus="$GPUS"',
        f'until python3 -c "{ready}"; do sleep 5; done',
    ]


def _overrides(flags: Flags, values: Mapping[str, Any]) -> Iterator[str]:
    """Documented fields as Hydra reads them; ``++`` where the base file may not have one."""
    for name, value in values.items():
        if value is None:
            continue
        key = f"++{name}" if "override_" in name else name
        flags.option(name, value)
        if isinstance(value, Var):
            yield shell_word(Var(value.name, before=f"{key}=", after=value.after))
            continue
        text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
        yield shell_word(f"{key}={text}")


def _fsdp(job: TrainJob, away: bool) -> dict[str, Any]:
    plan = job.plan
    host = bool(plan.away("parameters") and plan.away("optimizer"))
    return {
        f"{_ACTOR}.ulysses_sequence_parallel_size": plan.cp,
        f"{_ACTOR}.fsdp_config.fsdp_size": plan.shard if plan.shard < plan.dp else -1,
        f"{_ACTOR}.fsdp_config.reshard_after_forward": plan.zero >= 3,
        f"{_ACTOR}.fsdp_config.param_offload": away,
        f"{_ACTOR}.fsdp_config.optimizer_offload": away,
        f"{_ACTOR}.fsdp_config.offload_policy": True if host else None,
    }


def _megatron(job: TrainJob, model: Transformer, away: bool) -> dict[str, Any]:
    plan, inside = job.plan, f"{_ACTOR}.megatron"
    found: dict[str, Any] = {
        f"{inside}.tensor_model_parallel_size": plan.tp,
        f"{inside}.pipeline_model_parallel_size": plan.pp,
        f"{inside}.virtual_pipeline_model_parallel_size": plan.vp if plan.vp > 1 else None,
        f"{inside}.context_parallel_size": plan.cp,
        f"{inside}.expert_model_parallel_size": plan.ep if model.experts else None,
        f"{inside}.expert_tensor_parallel_size": plan.etp if model.experts else None,
        f"{inside}.sequence_parallel": plan.sequence_parallel,
        f"{inside}.use_distributed_optimizer": plan.zero >= 1,
        **{f"{inside}.{part}_offload": away for part in ("param", "grad", "optimizer")},
    }
    again = f"{inside}.override_transformer_config"
    return found | {f"{again}.{name}": value for name, value in computed_again(job).items()}


def _critic(job: TrainJob, strategy: str, budget: int) -> dict[str, Any]:
    """The model of values, laid out as the one that is trained."""
    plan = job.plan
    found: dict[str, Any] = {
        "critic.strategy": strategy,
        "critic.model.path": Var("MODEL"),
        "critic.model.use_remove_padding": True,
        "critic.ppo_max_token_len_per_gpu": budget,
        "critic.optim.lr": 1e-5,
    }
    if strategy == "megatron":
        sizes = {"tensor": plan.tp, "pipeline": plan.pp}
        found |= {f"critic.megatron.{name}_model_parallel_size": size for name, size in sizes.items()}
        return found | {"critic.megatron.context_parallel_size": plan.cp}
    again = "full" in plan.recompute
    return found | {
        "critic.model.enable_gradient_checkpointing": again,
        "critic.ulysses_sequence_parallel_size": plan.cp,
    }


def _reward(reward: Model | float) -> dict[str, Any]:
    if isinstance(reward, Model):
        return {"reward_model.enable": True, "reward_model.model.path": Var("REWARD_MODEL")}
    return {"custom_reward_function.path": Var("REWARD")} if reward else {}


def _devices(job: TrainJob) -> dict[str, Any]:
    """Nodes of those that train and, where they are apart, of those that answer."""
    if job.apart is None:
        return {"trainer.nnodes": Var("NNODES"), "trainer.n_gpus_per_node": Var("GPUS")}
    found: dict[str, Any] = {}
    for name, cluster in (("trainer", job.cluster), ("rollout", job.apart)):
        each = min(cluster.count, int(cluster.per_node))
        found |= {f"{name}.nnodes": math.ceil(cluster.count / each), f"{name}.n_gpus_per_node": each}
    return found


def _left_out(job: TrainJob, cores: bool) -> Iterator[str]:
    """What of the plan verl does not do, or its files do not say."""
    plan, step = job.plan, job.found.scenario.rewarded
    assert step is not None
    yield f"{plan.framework.title} is priced; verl runs {'Megatron-core' if cores else 'FSDP2'} by its own workers"
    if not cores:
        for name, degree in (("tensor", plan.tp), ("expert", plan.ep), ("pipeline", plan.pp)):
            if degree > 1:
                yield f"{name} parallelism ({degree}) is not in the files: verl's workers of FSDP have none"
        if plan.around > 1:
            yield f"a ring of {plan.around} ranks: verl's ranks exchange heads (Ulysses)"
    else:
        if plan.around < plan.cp:
            yield f"{plan.cp // plan.around} ranks that exchange heads: verl's Megatron passes keys and values around"
        yield from again_left_out(job)
        if plan.zero >= 2:
            yield f"ZeRO {plan.zero}: verl's Megatron cuts states of the optimizer alone"
    if plan.offload and not (plan.away("parameters") and plan.away("optimizer") and not cores):
        yield f"{', '.join(plan.offload)} in the memory of the host: not in the files"
    if plan.optimizer.name != "adamw":
        yield f"{plan.optimizer.title}: verl runs AdamW"
    if not step.engine.startswith(("vllm", "sglang")):
        yield f"answers by {step.engine}: the files say vLLM"
    if step.rollout_on is not None and not step.stale:
        yield "answers of the same weights on devices of their own: verl's are a step old there"
    if step.rollout_on is not None and step.rollout_on.machine.name != job.cluster.machine.name:
        yield "devices of another kind that answer: nodes of train.sbatch and kubernetes.yaml are of one kind"
