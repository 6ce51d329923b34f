"""Runtimes for prompts and answers in pools of their own: NVIDIA Dynamo graphs and llm-d's model service."""

from __future__ import annotations

from typing import Any

from steelyard.launch.command import Command, Flags, Var, Word, kubernetes_word
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.engines import MODEL, command, options, options_name
from steelyard.launch.kubernetes import (
    NEEDS_SECRET,
    POD_ADDRESS,
    RESOURCES,
    SECRET,
    SHARED_MEMORY,
    SHARED_MOUNT,
    options_volume,
)
from steelyard.launch.service import PORT, Service, Unit

__all__ = ["dynamo", "llm_d", "runs_dynamo", "runs_llm_d"]

#: Version of llm-d's chart the values are written for, and of its routing sidecar.
LLM_D_CHART = "llm-d-modelservice (llm-d-incubation, values.yaml at 024c0f2)"
#: The port vLLM listens on behind llm-d's routing sidecar (routing.proxy.targetPort).
_SIDECAR_PORT = 8200
#: Dynamo's router for each way a request finds its replica.
_MODES = {"round-robin": "round-robin", "random": "random", "prefix": "kv", "session": "kv"}


def runs_dynamo(service: Service) -> bool:
    """Whether a graph can be written: one of its engines on NVIDIA devices everywhere."""
    known = Flags.of("dynamo").image
    return all(u.flags.name in known and u.accelerator == "nvidia" for u in service.units)


def runs_llm_d(service: Service) -> bool:
    """Whether llm-d can run it: vLLM, one pool of prompts and one of answers."""
    roles = sorted(u.pool.role for u in service.units)
    return roles == ["decode", "prefill"] and all(u.flags.name == "vllm" for u in service.units)


def dynamo(service: Service) -> str:
    """``dynamo.yaml``: a DynamoGraphDeployment, with a ConfigMap of engine options where the engine reads a file."""
    flags = Flags.of("dynamo")
    head = comment(
        service.about[0],
        f"Fields and flags: {flags.source}.",
        *service.about[1:],
        NEEDS_SECRET,
    )
    documents: list[dict[str, Any]] = []
    files = {options_name(u): yaml_text(options(u, complete=True)) for u in service.units if u.flags.name == "trtllm"}
    name = f"{service.slug}-dynamo"
    if files:
        documents.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-options"}, "data": files}
        )
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {
            "backendFramework": service.units[0].flags.name,
            "components": [_frontend(service, flags), *(_worker(u, service, flags, name) for u in service.units)],
        },
    }
    return yaml_text(*documents, graph, head=head)


def _frontend(service: Service, flags: Flags) -> dict[str, Any]:
    mode = _MODES.get(service.deployment.router, "round-robin")
    lines = [flags.line("--http-port", PORT), flags.line("--router-mode", mode)]
    inside = {
        "name": "main",
        "image": flags.image[service.units[0].flags.name],
        "command": [*flags.program],
        "args": ["dynamo.frontend", *(str(w) for line in lines for w in line.words)],
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
    }
    return {
        "name": "Frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": {"spec": {"containers": [inside]}},
    }


def _worker(unit: Unit, service: Service, flags: Flags, name: str) -> dict[str, Any]:
    made = _dynamo_command(unit, service, flags)
    inside: dict[str, Any] = {
        "name": "main",
        "image": flags.image[unit.flags.name],
        "command": [*made.program],
        "args": [kubernetes_word(w) for w in made.words],
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "resources": {"limits": {RESOURCES["nvidia"]: str(unit.node_devices)}},
    }
    pod: dict[str, Any] = {"containers": [inside]}
    if unit.flags.name == "trtllm":
        inside["volumeMounts"] = [{"name": "options", "mountPath": "/config", "readOnly": True}]
        pod["volumes"] = [options_volume(f"{name}-options")]
    found: dict[str, Any] = {
        "name": unit.name,
        "type": unit.pool.role if unit.disaggregated else "worker",
        "replicas": unit.pool.replicas,
    }
    if unit.nodes > 1:
        found["multinode"] = {"nodeCount": unit.nodes}
    return {**found, "podTemplate": {"spec": pod}}


#: Set by Dynamo itself: nodes of a replica and the address of the first.
_BY_DYNAMO = (
    "--nnodes",
    "--node-rank",
    "--master-addr",
    "--master-port",
    "--data-parallel-address",
    "--data-parallel-rpc-port",
    "--dist-init-addr",
    "--headless",
    "--enable-metrics",
)


def _dynamo_command(unit: Unit, service: Service, flags: Flags) -> Command:
    """The engine's own flags behind Dynamo's worker; its front end has host, port and name."""
    program = (*flags.program, f"dynamo.{unit.flags.name}")
    mode = [flags.line("--disaggregation-mode", unit.pool.role)] if unit.disaggregated else []
    if unit.flags.name == "trtllm":
        lines = [
            flags.line("--model-path", Var(MODEL, service.repository)),
            flags.line("--served-model-name", service.served),
            flags.line("--extra-engine-args", f"/config/{options_name(unit)}"),
            *mode,
        ]
        return Command(program, tuple(lines))
    made = command(unit, service, served=False)
    kept = [line for line in made.lines if line.words[0] not in (*_BY_DYNAMO, "--disaggregation-mode")]
    return Command(program, (*kept, *mode))


def llm_d(service: Service) -> str:
    """``llm-d-values.yaml``: values of llm-d's model service chart."""
    prefill, decode = (service.of_role(role)[0] for role in ("prefill", "decode"))
    head = comment(
        service.about[0],
        f"Values of {LLM_D_CHART}.",
        f"Flags: {decode.flags.source}.",
        "helm repo add llm-d-modelservice https://llm-d-incubation.github.io/llm-d-modelservice/",
        f"helm install {service.slug} llm-d-modelservice/llm-d-modelservice -f llm-d-values.yaml",
        NEEDS_SECRET,
        "An InferencePool with llm-d's endpoint picker goes before it: see llm-d's gateway recipes.",
    )
    values = {
        "modelArtifacts": {
            "name": service.repository,
            "uri": f"hf://{service.repository}",
            "size": f"{service.volume_gib}Gi",
            "authSecretName": SECRET,
            "labels": {"llm-d.ai/inferenceServing": "true", "llm-d.ai/model": service.slug},
        },
        "multinode": max(prefill.nodes, decode.nodes) > 1,
        "accelerator": {"type": decode.accelerator},
        "routing": {
            "servicePort": PORT,
            "proxy": {"enabled": True, "connector": "nixlv2", "targetPort": _SIDECAR_PORT},
        },
        "decode": _llm_d_pool(decode, service, _SIDECAR_PORT),
        "prefill": _llm_d_pool(prefill, service, PORT),
    }
    return yaml_text(values, head=head)


def _llm_d_pool(unit: Unit, service: Service, port: int) -> dict[str, Any]:
    made = command(unit, service)
    dropped = {"--host", "--served-model-name", "--tensor-parallel-size", "--data-parallel-size", *_BY_DYNAMO}
    args: list[str] = []
    for line in made.lines[1:]:  # the chart puts the model first, and degrees from `parallelism`
        flag = line.words[0]
        if flag in dropped:
            continue
        words: tuple[Word, ...] = ("--port", str(port)) if flag == "--port" else line.words
        args += [kubernetes_word(w) for w in words]
    resource = RESOURCES.get(unit.accelerator, RESOURCES["nvidia"])
    count = {resource: str(unit.node_devices)}
    inside = {
        "name": "vllm",
        "image": unit.image,
        "modelCommand": "vllmServe",
        "args": args,
        "env": [{"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": POD_ADDRESS}],
        "ports": [{"name": "metrics", "containerPort": port, "protocol": "TCP"}],
        "resources": {"limits": count, "requests": count},
        "mountModelVolume": True,
        "volumeMounts": [SHARED_MOUNT],
    }
    dp_local = max(1, unit.plan.dp // unit.nodes)
    return {
        "create": True,
        "replicas": unit.pool.replicas,
        "parallelism": {"tensor": unit.plan.tp, "data": unit.plan.dp, "dataLocal": dp_local, "workers": unit.nodes},
        "containers": [inside],
        "volumes": [SHARED_MEMORY],
    }
