"""Kubernetes manifests: servers, services, probes, an autoscaler; LeaderWorkerSets where a replica spans nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from steelyard.launch.command import Command, Var, Word, kubernetes_word
from steelyard.launch.compose import ROUTER_IMAGE, _installed
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.engines import LEADER, MODEL, NODE_RANK, command
from steelyard.launch.scripts import DISAGGREGATED, disaggregated_options, promised, router
from steelyard.launch.service import PORT, Service, Unit

__all__ = ["RESOURCES", "container", "kubernetes", "volumes"]

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
#: Variables a LeaderWorkerSet sets in its pods. Source: leaderworkerset.sigs.k8s.io, environment variables.
_LWS = {LEADER: "LWS_LEADER_ADDRESS", NODE_RANK: "LWS_WORKER_INDEX"}
#: Rate at which weights are expected to arrive on a fresh node, B/s, and the shortest start-up granted, s. Guesses.
_LOAD_BYTES_PER_S, _LEAST_START_S = 100e6, 1800
#: The autoscaler may go to this many times the replicas of the plan.
_SCALE = 2


def kubernetes(service: Service) -> str:
    """``kubernetes.yaml``."""
    said = [
        f"{service.repository}: {'; '.join(promised(service)) or 'no promise'}.",
        *sorted({f"Flags: {u.flags.source}." for u in service.units}),
        f"Needs a secret {SECRET} with the key HF_TOKEN where the model asks for one; none is written here.",
    ]
    if any(u.nodes > 1 for u in service.units):
        said.append("Needs LeaderWorkerSet (leaderworkerset.x-k8s.io/v1): a replica spans nodes.")
    if any(_scales(u) for u in service.units):
        said.append(
            "The autoscaler reads the requests running per pod from the custom metrics API (Prometheus Adapter)."
        )
    return yaml_text(*_documents(service), head=comment(*said))


def _documents(service: Service) -> Iterator[dict[str, Any]]:
    files = {name: text for u in service.units for name, text in command(u, service).files.items()}
    if service.deployment.disaggregated and service.units[0].flags.name == "trtllm":
        files[DISAGGREGATED] = yaml_text(disaggregated_options(service, _hosts(service)))
    if files:
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(service, "options"), "data": files}
    for unit in service.units:
        if unit.nodes == 1:  # a LeaderWorkerSet makes its own
            yield _headless(unit, service)
        yield _workload(unit, service)
        if _scales(unit):
            yield _autoscaler(unit, service)
        if unit.pool.replicas > 1 and unit.nodes == 1:
            yield _budget(unit, service)
    if service.deployment.disaggregated:
        yield _router(service)
    yield _service(service)


def _meta(service: Service, part: str) -> dict[str, Any]:
    return {"name": f"{service.slug}-{part}", "labels": _labels(service, part)}


def _labels(service: Service, part: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": service.slug,
        "app.kubernetes.io/component": part,
        "app.kubernetes.io/created-by": "steelyard",
    }


def _selector(service: Service, part: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": service.slug, "app.kubernetes.io/component": part}


def _public(service: Service) -> dict[str, str]:
    """Selects what takes requests: every server, or the router."""
    if service.deployment.disaggregated:
        return _selector(service, "router")
    return {"app.kubernetes.io/name": service.slug, "steelyard/takes-requests": "yes"}


def _service(service: Service) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": PORT}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.slug, "labels": _labels(service, "service")},
        "spec": {"type": "ClusterIP", "selector": _public(service), "ports": ports},
    }


def _headless(unit: Unit, service: Service) -> dict[str, Any]:
    """Gives every pod of a set a name of its own."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(service, unit.name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": _selector(service, unit.name),
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
        },
    }


def _workload(unit: Unit, service: Service) -> dict[str, Any]:
    if unit.nodes > 1:
        return _leader_worker_set(unit, service)
    spec: dict[str, Any] = {
        "replicas": unit.pool.replicas,
        "selector": {"matchLabels": _selector(service, unit.name)},
        "template": _template(unit, service),
    }
    if unit.disaggregated:
        spec |= {"serviceName": f"{service.slug}-{unit.name}", "podManagementPolicy": "Parallel"}
        return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": _meta(service, unit.name), "spec": spec}
    spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _meta(service, unit.name), "spec": spec}


def _leader_worker_set(unit: Unit, service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _meta(service, unit.name),
        "spec": {
            "replicas": unit.pool.replicas,
            "leaderWorkerTemplate": {
                "size": unit.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _template(unit, service),
                "workerTemplate": _template(unit, service, worker=True),
            },
        },
    }


def _template(unit: Unit, service: Service, *, worker: bool = False) -> dict[str, Any]:
    labels = _labels(service, f"{unit.name}-worker" if worker else unit.name)
    if not worker and unit.pool.role == "both":
        labels["steelyard/takes-requests"] = "yes"
    spec: dict[str, Any] = {
        "containers": [container(unit, service, command(unit, service, worker=worker), worker=worker)],
        "volumes": volumes(unit, service),
        "terminationGracePeriodSeconds": 120,
    }
    if unit.accelerator == "nvidia":
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    product = PRODUCTS.get(unit.cluster.machine.name)
    if product:
        spec["nodeSelector"] = {"nvidia.com/gpu.product": product}
    return {"metadata": {"labels": labels}, "spec": spec}


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


def container(
    unit: Unit, service: Service, made: Command, *, worker: bool = False, image: str = "", name: str = "engine"
) -> dict[str, Any]:
    """The container of a server.

    Args:
        unit, service: what it belongs to.
        made: its command.
        worker: without a port and probes of its own.
        image: instead of the engine's own.
        name: of the container.
    """
    # a further node of a replica knows its rank and its leader from the set
    names = {**_LWS} if unit.nodes > 1 else {}
    env: list[dict[str, Any]] = [
        {"name": "HF_HOME", "value": "/models"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "HF_TOKEN", "optional": True}}},
    ]
    for key, value in made.env.items():
        if isinstance(value, Var) and value.name == "HOST_IP":
            env.append({"name": key, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        else:
            env.append({"name": key, "value": kubernetes_word(value, names)})
    found: dict[str, Any] = {
        "name": name,
        "image": image or unit.image or "image-of-the-engine:replace",
        "command": [*made.program],
        "args": [kubernetes_word(_inside(w, service), names) for w in made.words],
        "env": env,
    }
    if not worker:
        found["ports"] = [{"name": "http", "containerPort": PORT}]
        found |= _probes(service)
    found["resources"] = _resources(unit)
    found["volumeMounts"] = [{"name": "models", "mountPath": "/models"}, {"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108
    if made.files:
        found["volumeMounts"].append({"name": "options", "mountPath": "/config", "readOnly": True})
    return found


def _inside(word: Word, service: Service) -> Word:
    """A word as it is inside the pod: options files lie in /config, a local model in the volume."""
    if isinstance(word, Var) and word.name in ("OPTIONS", "DISAGGREGATED"):
        return f"/config/{word.default}"
    if isinstance(word, Var) and word.name == MODEL and (service.local or word.default.endswith(".gguf")):
        from pathlib import PurePath

        return f"/models/{PurePath(word.default).name}"
    return word


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
    count = str(unit.node_devices)
    return {"limits": {name: count}, "requests": {name: count}}


def volumes(unit: Unit, service: Service) -> list[dict[str, Any]]:
    """Weights (an empty folder that fills from the hub as the pod starts), shared memory, options."""
    size = math.ceil(1.2 * service.weight_bytes / 2**30) + 10
    found: list[dict[str, Any]] = [
        {"name": "models", "emptyDir": {"sizeLimit": f"{size}Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
    ]
    if command(unit, service).files:
        found.append({"name": "options", "configMap": {"name": f"{service.slug}-options"}})
    return found


def _scales(unit: Unit) -> bool:
    """Whether requests per replica are known, the engine counts them, and the set is one that may grow."""
    return bool(unit.flags.metric) and unit.nodes == 1 and not unit.disaggregated


def _autoscaler(unit: Unit, service: Service) -> dict[str, Any]:
    """Keeps the requests running per replica at what the promise was simulated with."""
    wanted = max(1, math.ceil(unit.in_flight)) if unit.in_flight else max(1, unit.config.max_num_seqs // 2)
    target = {"kind": "Deployment", "name": f"{service.slug}-{unit.name}", "apiVersion": "apps/v1"}
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": unit.flags.metric.replace(":", "_")},
            "target": {"type": "AverageValue", "averageValue": str(wanted)},
        },
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _meta(service, unit.name),
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": unit.pool.replicas,
            "maxReplicas": _SCALE * unit.pool.replicas,
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
        },
    }


def _budget(unit: Unit, service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(service, unit.name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(service, unit.name)}},
    }


def _hosts(service: Service) -> dict[str, list[str]]:
    """The name of every replica inside the cluster."""
    found = {}
    for unit in service.units:
        base = f"{service.slug}-{unit.name}"
        found[unit.name] = [f"{base}-{i}.{base}" for i in range(unit.pool.replicas)]
    return found


def _router(service: Service) -> dict[str, Any]:
    made = router(service, _hosts(service))
    ready: Mapping[str, Any] = {"tcpSocket": {"port": "http"}, "periodSeconds": 5}
    inside: dict[str, Any] = {"name": "router"}
    pod: dict[str, Any] = {"containers": [inside]}
    if made.program[0] == "trtllm-serve":
        inside |= {
            "image": service.units[0].image,
            "command": [*made.program],
            "args": [kubernetes_word(_inside(w, service)) for w in made.words],
            "volumeMounts": [{"name": "options", "mountPath": "/config", "readOnly": True}],
        }
        pod["volumes"] = [{"name": "options", "configMap": {"name": f"{service.slug}-options"}}]
    else:
        inside |= {"image": ROUTER_IMAGE, "command": ["sh", "-c"], "args": [kubernetes_word(_installed(made))]}
    inside |= {
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": ready,
        "resources": {"requests": {"cpu": "2", "memory": "2Gi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(service, "router"),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _selector(service, "router")},
            "template": {"metadata": {"labels": _labels(service, "router")}, "spec": pod},
        },
    }
