"""Kubernetes manifests: servers, services, probes, an autoscaler; LeaderWorkerSets where a replica spans nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from steelyard.launch.command import Command, Var, Word, in_container, kubernetes_word
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.engines import LEADER, MODEL, NODE_RANK, command
from steelyard.launch.scripts import DISAGGREGATED, disaggregated_options, router, router_image
from steelyard.launch.service import PORT, Service, Unit

__all__ = [
    "HUB_TOKEN",
    "NEEDS_SECRET",
    "RESOURCES",
    "SECRET",
    "SHARED_MEMORY",
    "SHARED_MOUNT",
    "kubernetes",
    "options_volume",
]

#: What a pod asks for, by maker of the accelerator. Sources: the device plugins of each maker.
RESOURCES = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "intel": "gpu.intel.com/xe",
    "google": "google.com/tpu",
    "habana": "habana.ai/gaudi",
    "aws": "aws.amazon.com/neuron",
}
#: The secret with the token of the model hub: `kubectl create secret generic hf-token --from-literal=HF_TOKEN=...`.
SECRET = "hf-token"  # noqa: S105 - its name, not its content
NEEDS_SECRET = f"Needs a secret {SECRET} with the key HF_TOKEN where the model asks for one; none is written here."
HUB_TOKEN = {"secretKeyRef": {"name": SECRET, "key": "HF_TOKEN", "optional": True}}
#: The volume of shared memory, and where a pod's own address comes from.
SHARED_MEMORY = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
SHARED_MOUNT = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - a mount in a container
POD_ADDRESS = {"fieldRef": {"fieldPath": "status.podIP"}}
#: Where the files of options are seen in a container.
_OPTIONS_MOUNT = {"name": "options", "mountPath": "/config", "readOnly": True}
#: Variables a LeaderWorkerSet sets in its pods. Source: leaderworkerset.sigs.k8s.io, environment variables.
_LWS = {LEADER: "LWS_LEADER_ADDRESS", NODE_RANK: "LWS_WORKER_INDEX"}
#: Rate at which weights are expected to arrive on a fresh node, B/s, and the shortest start-up granted, s. Guesses.
_LOAD_BYTES_PER_S, _LEAST_START_S = 100e6, 1800
#: The autoscaler may go to this many times the replicas of the plan.
_SCALE = 2
#: Node labels of NVIDIA's GPU feature discovery: the name `nvidia-smi` shows, blanks as dashes.
PRODUCTS = {
    "a100_sxm": "NVIDIA-A100-SXM4-80GB",
    "a100_sxm_40gb": "NVIDIA-A100-SXM4-40GB",
    "a100_pcie": "NVIDIA-A100-80GB-PCIe",
    "h100_sxm": "NVIDIA-H100-80GB-HBM3",
    "h100_pcie": "NVIDIA-H100-PCIe",
    "h200_sxm": "NVIDIA-H200",
    "b200_sxm": "NVIDIA-B200",
    "l4": "NVIDIA-L4",
    "l40s": "NVIDIA-L40S",
    "a10g": "NVIDIA-A10G",
    "t4": "Tesla-T4",
}


def kubernetes(service: Service) -> str:
    """``kubernetes.yaml``."""
    head = [*service.about, NEEDS_SECRET]
    if any(u.nodes > 1 for u in service.units):
        head.append("Needs LeaderWorkerSet (leaderworkerset.x-k8s.io/v1): a replica spans nodes.")
    if any(_scales(u) for u in service.units):
        head.append(
            "The autoscaler reads the requests running per pod from the custom metrics API (Prometheus Adapter)."
        )
    return yaml_text(*_documents(service), head=comment(*head))


def _documents(service: Service) -> Iterator[dict[str, Any]]:
    files = {name: text for u in service.units for name, text in command(u, service).files.items()}
    if service.by_trtllm:
        files[DISAGGREGATED] = yaml_text(disaggregated_options(service, _hosts(service)))
    if files:
        yield _object("v1", "ConfigMap", service, "options", data=files)
    for unit in service.units:
        if unit.nodes == 1:  # a LeaderWorkerSet makes its own
            yield _headless(unit, service)
        yield _workload(unit, service)
        if _scales(unit):
            yield _autoscaler(unit, service)
        if unit.pool.replicas > 1 and unit.nodes == 1:
            budget = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(service, unit.name)}}
            yield _object("policy/v1", "PodDisruptionBudget", service, unit.name, spec=budget)
    if service.deployment.disaggregated:
        yield _router(service)
    yield _service(service)


def _object(api: str, kind: str, service: Service, part: str, **content: Any) -> dict[str, Any]:
    """One document, named for a part of the service."""
    metadata = {"name": f"{service.slug}-{part}", "labels": _labels(service, part)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


def _labels(service: Service, part: str) -> dict[str, str]:
    return {**_selector(service, part), "app.kubernetes.io/created-by": "steelyard"}


def _selector(service: Service, part: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": service.slug, "app.kubernetes.io/component": part}


def _service(service: Service) -> dict[str, Any]:
    """The address of all: it selects every server, or the router."""
    selector = {"app.kubernetes.io/name": service.slug, "steelyard/takes-requests": "yes"}
    if service.deployment.disaggregated:
        selector = _selector(service, "router")
    spec = {"type": "ClusterIP", "selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]}
    metadata = {"name": service.slug, "labels": _labels(service, "service")}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _headless(unit: Unit, service: Service) -> dict[str, Any]:
    """Gives every pod of a set a name of its own."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": _selector(service, unit.name),
        "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
    }
    return _object("v1", "Service", service, unit.name, spec=spec)


def _workload(unit: Unit, service: Service) -> dict[str, Any]:
    if unit.nodes > 1:
        group = {
            "size": unit.nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": _template(unit, service),
            "workerTemplate": _template(unit, service, worker=True),
        }
        spec: dict[str, Any] = {"replicas": unit.pool.replicas, "leaderWorkerTemplate": group}
        return _object("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", service, unit.name, spec=spec)
    spec = {
        "replicas": unit.pool.replicas,
        "selector": {"matchLabels": _selector(service, unit.name)},
        "template": _template(unit, service),
    }
    if unit.disaggregated:
        spec |= {"serviceName": f"{service.slug}-{unit.name}", "podManagementPolicy": "Parallel"}
        return _object("apps/v1", "StatefulSet", service, unit.name, spec=spec)
    spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    return _object("apps/v1", "Deployment", service, unit.name, spec=spec)


def _template(unit: Unit, service: Service, *, worker: bool = False) -> dict[str, Any]:
    labels = _labels(service, f"{unit.name}-worker" if worker else unit.name)
    if not worker and unit.pool.role == "both":
        labels["steelyard/takes-requests"] = "yes"
    made = command(unit, service, worker=worker)
    # weights: an empty folder that fills from the hub as the pod starts
    models = {"name": "models", "emptyDir": {"sizeLimit": f"{service.volume_gib}Gi"}}
    spec: dict[str, Any] = {
        "containers": [_container(unit, service, made, worker)],
        "volumes": [models, SHARED_MEMORY, *([options_volume(f"{service.slug}-options")] if made.files else [])],
        "terminationGracePeriodSeconds": 120,
    }
    if unit.accelerator == "nvidia":
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    product = PRODUCTS.get(unit.cluster.machine.name)
    if product:
        spec["nodeSelector"] = {"nvidia.com/gpu.product": product}
    return {"metadata": {"labels": labels}, "spec": spec}


def options_volume(name: str) -> dict[str, Any]:
    """The volume of the files of options, from the ConfigMap of that name."""
    return {"name": "options", "configMap": {"name": name}}


def _container(unit: Unit, service: Service, made: Command, worker: bool) -> dict[str, Any]:
    """The container of a server; a further node of a replica (``worker``) has no port and no probes."""
    # a further node of a replica knows its rank and its leader from the set
    names = _LWS if unit.nodes > 1 else {}
    env: list[dict[str, Any]] = [{"name": "HF_HOME", "value": "/models"}, {"name": "HF_TOKEN", "valueFrom": HUB_TOKEN}]
    for key, value in made.env.items():
        if isinstance(value, Var) and value.name == "HOST_IP":
            env.append({"name": key, "valueFrom": POD_ADDRESS})
        else:
            env.append({"name": key, "value": kubernetes_word(value, names)})
    return {
        "name": "engine",
        "image": unit.image or "image-of-the-engine:replace",
        "command": [*made.program],
        "args": [kubernetes_word(_inside(w, service), names) for w in made.words],
        "env": env,
        **({} if worker else {"ports": [{"name": "http", "containerPort": PORT}], **_probes(service)}),
        "resources": _resources(unit),
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            SHARED_MOUNT,
            *([_OPTIONS_MOUNT] if made.files else []),
        ],
    }


def _inside(word: Word, service: Service) -> Word:
    """A word as it is inside the pod: options files lie in /config, a local model in the volume."""
    if isinstance(word, Var) and word.name == MODEL and (service.local or word.default.endswith(".gguf")):
        return f"/models/{PurePath(word.default).name}"
    return in_container(word)


def _probes(service: Service) -> dict[str, Any]:
    get = {"httpGet": {"path": "/health", "port": "http"}}
    patience = max(_LEAST_START_S, 3 * service.weight_bytes / _LOAD_BYTES_PER_S)
    return {
        "startupProbe": {**get, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": math.ceil(patience / 10)},
        "readinessProbe": {**get, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**get, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 4},
    }


def _resources(unit: Unit) -> dict[str, Any]:
    name = RESOURCES.get(unit.accelerator)
    if name is None:
        return {"requests": {"cpu": "4", "memory": "16Gi"}}
    count = {name: str(unit.node_devices)}
    return {"limits": count, "requests": count}


def _scales(unit: Unit) -> bool:
    """Whether requests per replica are known, the engine counts them, and the set is one that may grow."""
    return bool(unit.flags.metric) and unit.nodes == 1 and not unit.disaggregated


def _autoscaler(unit: Unit, service: Service) -> dict[str, Any]:
    """Keeps the requests running per replica at what the SLOs were simulated with."""
    wanted = max(1, math.ceil(unit.in_flight)) if unit.in_flight else max(1, unit.config.max_num_seqs // 2)
    pods = {
        "metric": {"name": unit.flags.metric.replace(":", "_")},
        "target": {"type": "AverageValue", "averageValue": str(wanted)},
    }
    spec = {
        "scaleTargetRef": {"kind": "Deployment", "name": f"{service.slug}-{unit.name}", "apiVersion": "apps/v1"},
        "minReplicas": unit.pool.replicas,
        "maxReplicas": _SCALE * unit.pool.replicas,
        "metrics": [{"type": "Pods", "pods": pods}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    }
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", service, unit.name, spec=spec)


def _hosts(service: Service) -> dict[str, list[str]]:
    """The name of every replica inside the cluster."""
    found = {}
    for unit in service.units:
        base = f"{service.slug}-{unit.name}"
        found[unit.name] = [f"{base}-{i}.{base}" for i in range(unit.pool.replicas)]
    return found


def _router(service: Service) -> dict[str, Any]:
    image, program, words = router_image(service, router(service, _hosts(service)))
    inside: dict[str, Any] = {
        "name": "router",
        "image": image,
        "command": program,
        "args": [kubernetes_word(_inside(w, service)) for w in words],
        **({"volumeMounts": [_OPTIONS_MOUNT]} if service.by_trtllm else {}),
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "2", "memory": "2Gi"}},
    }
    pod: dict[str, Any] = {"containers": [inside]}
    if service.by_trtllm:
        pod["volumes"] = [options_volume(f"{service.slug}-options")]
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": _selector(service, "router")},
        "template": {"metadata": {"labels": _labels(service, "router")}, "spec": pod},
    }
    return _object("apps/v1", "Deployment", service, "router", spec=spec)
