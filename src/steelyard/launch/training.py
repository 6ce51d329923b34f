"""The folder that launches a training plan: the framework's files, Slurm, Kubernetes, what to expect, a README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steelyard._version import __version__
from steelyard.deployment.train_plan import REWARDED
from steelyard.errors import InputError, printable
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.kubernetes import (
    HUB_TOKEN,
    NEEDS_SECRET,
    PRODUCTS,
    RESOURCES,
    SECRET,
    SHARED_MEMORY,
    SHARED_MOUNT,
)
from steelyard.launch.training_check import check_json, check_script
from steelyard.launch.training_job import PORT, TRIAL_STEPS, Launched, TrainJob
from steelyard.launch.training_megatron import bridge, megatron
from steelyard.launch.training_rewarded import verl
from steelyard.launch.training_torch import deepspeed, fsdp, torchtitan, trainer
from steelyard.units import format_quantity as q

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate
    from steelyard.workload.transformer import Transformer

__all__ = ["training_files"]

#: Who writes the files of a framework, by the first part of its name.
_WRITERS: dict[str, Callable[[TrainJob, Transformer], Launched]] = {
    "megatron": megatron,
    "nemo": bridge,
    "bridge": bridge,
    "torchtitan": torchtitan,
    "torchtitan-eager": torchtitan,
    "torchtitan-async-tp": torchtitan,
    "fsdp": fsdp,
    "composer": fsdp,
    "deepspeed": deepspeed,
    "transformers": trainer,
}
#: Where another than the framework that was priced is launched.
_OTHER = {
    "composer": "LLM Foundry of 2023 is priced; what is launched is FSDP2 by Accelerate",
    "nemo": "NeMo 24 is priced; what is launched is Megatron-Bridge, which came after it",
    "megatron@2022": "Megatron-LM of 2022 is priced; the flags are those of today's Megatron-LM",
}
#: Tasks whose step verl runs, whatever framework trains.
_BY_VERL = ("grpo", "ppo")
#: Claim of a volume with data, tokenizer, checkpoints and code, and where pods see it.
_CLAIM, _MOUNT = "training-data", "/data"
_WHAT = {
    "train.sh": "starts the ranks of one node: run it on every node, or by one of the two files below",
    "train.sbatch": "the same on all nodes by Slurm: `sbatch train.sbatch`",
    "kubernetes.yaml": "the same on Kubernetes: `kubectl apply -f kubernetes.yaml`",
    "check.json": "what the first steps should show, with intervals of 80 %",
    "check.py": "compares a log with it: `python3 check.py train.log`",
}


def training_files(found: TrainEstimate, more_files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every file that launches a training plan by name, the README first.

    Where its framework has no files, or not for the task, the README says so and what does run it; ``check.json`` and
    ``check.py`` are there in any case.

    Args:
        found: the plan, weighed.
        more_files: further files of the folder and what they are, for the README.

    Raises:
        InputError: it is no language model.
    """
    if found.kinds:
        raise InputError("no launch files are written for devices of several kinds; name a file", field="out")
    job = TrainJob(found)
    if job.model is None:
        raise InputError(
            "no launch files are written for networks that are no language models; name a file", field="out"
        )
    why = _why_not(job)
    files = {"check.json": check_json(job), "check.py": check_script()}
    if why:
        return {"README.md": _readme(job, None, why, files, more_files or {}), **files}
    writer = verl if job.plan.task in _BY_VERL else _WRITERS[job.plan.framework.name.split("@")[0]]
    launched = writer(job, job.model)
    start = _script(job, launched)
    made = {"train.sh": start, **launched.files, "train.sbatch": _slurm(job, launched)}
    made["kubernetes.yaml"] = _kubernetes(job, launched, {"train.sh": start, **launched.files})
    files = {**made, **files}
    return {"README.md": _readme(job, launched, "", files, more_files or {}), **files}


def _why_not(job: TrainJob) -> str:
    """Why nothing is launched; empty: it is."""
    name, task = job.plan.framework.name.split("@")[0], job.plan.task
    title = job.plan.framework.title
    if task in REWARDED:
        return (
            "" if task in _BY_VERL else f"No launch files are written for {task}: the layout goes into TRL's settings."
        )
    if name not in _WRITERS:
        return f"No launch files are written for {title}: `--framework megatron`, `torchtitan`, `fsdp` have some."
    if name == "megatron" and job.plan.frozen:
        return "Megatron-LM trains no adapters: `--framework bridge`, `fsdp` or `transformers` do."
    if name.startswith("torchtitan") and task != "pretrain":
        return f"torchtitan has no {task}: `--framework bridge`, `fsdp` or `transformers` do."
    return ""


def _script(job: TrainJob, launched: Launched) -> str:
    """``train.sh``."""
    ranks = '--nnodes "$NNODES" --nproc-per-node "$GPUS" --node-rank "$NODE_RANK"'
    head = [
        "set -euo pipefail",
        'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"',
        f"NNODES=${{NNODES:-{job.nodes}}}",
        f"GPUS=${{GPUS:-{job.per_node}}}",
        "NODE_RANK=${NODE_RANK:-0}",
        "MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}",
        f"MASTER_PORT=${{MASTER_PORT:-{PORT}}}",
    ]
    if any("launch[@]" in line or line.startswith("launch=") for line in launched.body):
        head.append(f'launch=(torchrun {ranks} --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")')
    fill = [f"{name}: {words.replace('`', '')}" for name, words in launched.fill.items()]
    sources = [f"Flags of {f.title} {f.version}: {f.source}." for f in launched.flags]
    about = [*job.about, *sources, "Run on every node with NODE_RANK and MASTER_ADDR set. To fill in:", *fill]
    return "#!/usr/bin/env bash\n" + comment(*about) + "\n".join([*head, *launched.body]) + "\n"


def _slurm(job: TrainJob, launched: Launched) -> str:
    """``train.sbatch``."""
    lines = [
        "#!/usr/bin/env bash",
        f"#SBATCH --job-name={job.slug}",
        f"#SBATCH --nodes={job.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={job.per_node}",
        "#SBATCH --exclusive",
        "#SBATCH --output=train.log",
        *comment(*job.about, "Add your partition, account and time limit; the variables of train.sh are passed on.")
        .rstrip("\n")
        .split("\n"),
        "set -euo pipefail",
        'cd -- "${SLURM_SUBMIT_DIR:-.}"',
        'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export MASTER_ADDR",
        "srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec ./train.sh'",
    ]
    return "\n".join(lines) + "\n"


def _kubernetes(job: TrainJob, launched: Launched, files: Mapping[str, str]) -> str:
    """``kubernetes.yaml``: a PyTorchJob of all nodes, a Job where there is one."""
    head = [
        *job.about,
        NEEDS_SECRET,
        f"Needs a volume claim {_CLAIM}, seen in {_MOUNT}: checkpoints go there, and what the variables below name.",
        *(["Needs Kubeflow's training operator (kubeflow.org/v1): the run spans nodes."] if job.nodes > 1 else []),
        "The image is a proposal; it must hold the framework.",
    ]
    labels = {"app.kubernetes.io/name": job.slug, "app.kubernetes.io/created-by": "steelyard"}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{job.slug}-files", "labels": labels},
        "data": dict(files),
    }
    one = {"replicas": 1, "restartPolicy": "OnFailure", "template": _pod(job, launched, labels)}
    if job.nodes == 1:
        pod = _pod(job, launched, labels)
        pod["spec"]["restartPolicy"] = "Never"
        work: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job.slug, "labels": labels},
            "spec": {"backoffLimit": 3, "template": pod},
        }
    else:
        work = {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": job.slug, "labels": labels},
            "spec": {"pytorchReplicaSpecs": {"Master": one, "Worker": {**one, "replicas": job.nodes - 1}}},
        }
    return yaml_text(config, work, head=comment(*head))


def _pod(job: TrainJob, launched: Launched, labels: Mapping[str, str]) -> dict[str, Any]:
    resource = RESOURCES.get(job.vendor)
    several = job.nodes > 1
    env: list[dict[str, Any]] = [
        {"name": "HF_TOKEN", "valueFrom": HUB_TOKEN},
        {"name": "CHECKPOINTS", "value": f"{_MOUNT}/checkpoints"},
        *({"name": name, "value": f"{_MOUNT}/{path}"} for name, path in launched.needs.items()),
    ]
    # the operator sets RANK to the number of the pod, and MASTER_ADDR
    start = "NODE_RANK=$RANK exec bash /job/train.sh" if several else "exec bash /job/train.sh"
    inside: dict[str, Any] = {
        "name": "pytorch",
        "image": launched.image or "FILL_IN",
        "command": ["bash", "-c", start],
        "env": env,
        "volumeMounts": [
            {"name": "job", "mountPath": "/job", "readOnly": True},
            {"name": "data", "mountPath": _MOUNT},
            SHARED_MOUNT,
        ],
    }
    if resource:
        inside["resources"] = {"limits": {resource: job.per_node}}
    spec: dict[str, Any] = {
        "containers": [inside],
        "volumes": [
            {"name": "job", "configMap": {"name": f"{job.slug}-files"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": _CLAIM}},
            SHARED_MEMORY,
        ],
    }
    if job.vendor == "nvidia":
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if product := PRODUCTS.get(job.cluster.machine.name):
        spec["nodeSelector"] = {"nvidia.com/gpu.product": product}
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _readme(
    job: TrainJob,
    launched: Launched | None,
    why: str,
    files: Mapping[str, str],
    more_files: Mapping[str, str],
) -> str:
    """``README.md``."""
    found, plan = job.found, job.plan
    what = "a step" if found.rewarded is None else "an update"
    step, rate, memory = (found.interval[n] for n in ("step_s", "tokens_per_s_per_device", "peak_memory_bytes"))
    parts = [
        f"# Training {_text(job.repository)}",
        f"Written by Steelyard {__version__}. Nothing here was measured: these are predictions, and `check.py` sets "
        "the first steps beside them.",
        "## The plan",
        _bullets(
            [
                f"{_text(job.cluster.title)}: {plan.shape}; {_text(plan.framework.called)}",
                f"{plan.gbs:,} sequences of {plan.seq:,} tokens a step, micro-batches of {plan.mbs}, "
                f"{plan.micro_batches} of them; schedule {plan.schedule}, ZeRO {plan.zero} over {plan.shard}, "
                f"computed again: {plan.again}; {plan.precision}, {plan.optimizer.title}, "
                f"{plan.task}",
                *_rewarded(job),
                f"{what} {q(found.step_s, 's')} ({q(step[0], 's')} to {q(step[1], 's')}), "
                f"{found.tokens_per_s_per_device:,.0f} tokens/s a device ({rate[0]:,.0f} to {rate[1]:,.0f}), "
                f"MFU {found.mfu_frac:.1%}",
                f"the fullest device holds {memory[0] / 2**30:.1f} to {memory[1] / 2**30:.1f} GiB of "
                f"{found.capacity_bytes / 2**30:.1f} (stage {found.peak_stage})",
            ]
        ),
    ]
    if not found.fits:
        parts.append("**It does not fit**: expect it to run out of memory.")
    elif memory[1] > found.capacity_bytes:
        parts.append("It fits by less than the prediction is sure of: watch the memory of the first steps.")
    if launched is None:
        parts += ["## Run it", why]
    else:
        parts += ["## Run it", *_run(job, launched)]
    if launched is not None:
        other = _OTHER.get(plan.framework.name)
        left = [*([other] if other else []), *launched.left_out]
        if left:
            parts += [
                "## What the files do not do",
                "Where this changes the layout, the run differs from the plan above, and from `check.json`.",
                _bullets([_text(x, code=True) for x in left]),
            ]
    parts += [
        "## Check it",
        "After some ten steps, with the log of the last rank (or of all):\n\n```sh\npython3 check.py train.log\n```",
    ]
    named = {**_WHAT, **({} if launched is None else launched.what), **more_files}
    rows = [f"| `{n}` | {named[n]} |" for n in [*files, *more_files] if n in named]
    parts += ["## Files", "| file | what |\n|---|---|\n" + "\n".join(rows)]
    if launched is not None:
        read = "; ".join(f"{f.title} {f.version} ({f.source})" for f in launched.flags)
        parts.append(f"Names of flags and fields were read from {read}. No file holds a secret.")
    return "\n\n".join(parts) + "\n"


def _rewarded(job: TrainJob) -> list[str]:
    """A line of the README about the whole step; none where nothing is scored."""
    done = job.found.rewarded
    if done is None:
        return []
    low, high = done.ends_s
    parts = ", ".join(f"{name} {q(time, 's')}" for name, time in done.parts_s.items() if time)
    return [f"a step of {job.plan.task} {q(done.step_s, 's')} ({q(low, 's')} to {q(high, 's')}): {parts}"]


def _run(job: TrainJob, launched: Launched) -> list[str]:
    trial = job.found.scenario.tokens is None
    length = (
        f"`STEPS` is a trial of {TRIAL_STEPS}; set it to the length of the run."
        if trial
        else f"`STEPS` is {job.steps:,}: the run's {job.found.scenario.tokens:,.0f} tokens."
    )
    rows = [f"| {n if n.startswith('`') else f'`{n}`'} | {words} |" for n, words in launched.fill.items()]
    several = "\n# on every node, numbered from 0:\nNODE_RANK=... MASTER_ADDR=... ./train.sh 2>&1 | tee train.log"
    return [
        "Set first (environment variables of `train.sh`):",
        "| name | what |\n|---|---|\n" + "\n".join(rows),
        length,
        "By hand:\n\n```sh" + (several if job.nodes > 1 else "\n./train.sh 2>&1 | tee train.log") + "\n```",
        "By Slurm, from this folder on a disk that all nodes see:\n\n```sh\nsbatch train.sbatch\n```",
        "On Kubernetes:\n\n```sh\n"
        f'kubectl create secret generic {SECRET} --from-literal=HF_TOKEN="$HF_TOKEN"\n'
        "kubectl apply -f kubernetes.yaml\n```",
    ]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {x}" for x in lines)


def _text(text: str, *, code: bool = False) -> str:
    found = printable(text).replace("|", "\\|").replace("<", "&lt;")
    return found if code else found.replace("`", "'")
