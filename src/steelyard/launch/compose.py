"""docker-compose: the replicas that fit one node, and the router before them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steelyard.launch.command import Var, compose_word, in_container
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.engines import LEADER, NODE_RANK, command
from steelyard.launch.scripts import DISAGGREGATED, disaggregated_options, needs_router, router, router_image
from steelyard.launch.service import PORT, Service, Unit

__all__ = ["compose", "one_node"]

#: Where a local model is seen inside a container.
MOUNT = "/model"


def one_node(service: Service) -> bool:
    """Whether every replica fits one node together."""
    machines = {u.cluster.machine.name for u in service.units}
    return len(machines) == 1 and service.deployment.devices <= service.units[0].per_node


def compose(service: Service) -> str:
    """``compose.yaml``. Pools that do not fit one node together become profiles, one to be started on each host."""
    whole = one_node(service)
    services: dict[str, Any] = {}
    hosts: dict[str, list[str]] = {}
    first = 0
    for unit in service.units:
        count = unit.pool.replicas if whole else min(unit.pool.replicas, max(1, unit.per_node // unit.node_devices))
        first = first if whole else 0
        names = [f"{unit.name}-{i}" for i in range(count)]
        hosts[unit.name] = names
        for name in names:
            services[name] = _server(
                unit, service, list(range(first, first + unit.node_devices)), name if whole else ""
            )
            services[name] |= {} if whole else {"profiles": [unit.name], "ports": [f"{PORT + first}:{PORT}"]}
            first += unit.node_devices
    configs = {
        name: {"content": content.replace("$", "$$")}
        for unit in service.units
        for name, content in command(unit, service).files.items()
    }
    if whole and needs_router(service):
        services["router"] = _router(service, hosts, configs)
    elif whole:
        services[next(iter(services))]["ports"] = [f"{PORT}:{PORT}"]
    document: dict[str, Any] = {"name": service.slug, "services": services}
    document["volumes"] = {"models": {}}
    if configs:
        document["configs"] = configs
    return yaml_text(document, head=comment(*_said(service, whole)))


def _said(service: Service, whole: bool) -> list[str]:
    head = [
        *service.about,
        "HF_TOKEN is passed on from the environment of `docker compose up`; it is not written here.",
    ]
    if not whole:
        head.append(
            "The plan needs several nodes. On each run `docker compose --profile POOL up`; "
            + "; ".join(f"{u.name}: {u.pool.replicas} replicas in all" for u in service.units)
            + ". router.sh goes before them."
        )
    if any(u.nodes > 1 for u in service.units):
        head.append(f"A replica spans nodes: set {NODE_RANK} and {LEADER} on each.")
    return head


def _server(unit: Unit, service: Service, devices: list[int], host: str) -> dict[str, Any]:
    made = command(unit, service)
    found: dict[str, Any] = {"image": f"${{IMAGE:-{unit.image}}}" if unit.image else "${IMAGE:?an image}"}
    found["entrypoint"] = [*made.program]
    found["command"] = [compose_word(in_container(w)) for w in made.words]
    found["environment"] = {"HF_TOKEN": None, "HF_HOME": "/models"}
    found["environment"] |= {k: compose_word(v) for k, v in made.env.items() if not isinstance(v, Var)}
    if "VLLM_NIXL_SIDE_CHANNEL_HOST" in made.env:
        found["environment"]["VLLM_NIXL_SIDE_CHANNEL_HOST"] = host or "${HOST_IP:?the address of this host}"
    found["volumes"] = ["models:/models"]
    if service.local:
        found["volumes"].append(
            {
                "type": "bind",
                "source": str(Path(service.repository).resolve()).replace("$", "$$"),
                "target": MOUNT,
                "read_only": True,
            }
        )
    if unit.nodes > 1:
        found["network_mode"] = "host"
    found |= {"ipc": "host", "shm_size": "16gb", "restart": "unless-stopped"}
    if made.files:
        found["configs"] = _configs(made.files)
    found["healthcheck"] = _health(unit)
    if unit.accelerator == "nvidia":
        reserved = {"driver": "nvidia", "device_ids": [str(i) for i in devices], "capabilities": ["gpu"]}
        found["deploy"] = {"resources": {"reservations": {"devices": [reserved]}}}
    elif unit.accelerator == "amd":
        found |= {
            "devices": ["/dev/kfd", "/dev/dri"],
            "group_add": ["video"],
            "security_opt": ["seccomp=unconfined"],
        }
        found["environment"]["ROCR_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return found


def _health(unit: Unit) -> dict[str, Any]:
    url = f"http://localhost:{PORT}/health"
    python = ["CMD", "python3", "-c", f"import urllib.request as u; u.urlopen('{url}', timeout=5)"]
    probe = ["CMD", "curl", "-fsS", url] if unit.flags.name == "llamacpp" else python
    return {"test": probe, "interval": "10s", "timeout": "10s", "retries": 6, "start_period": "30m"}


def _router(service: Service, hosts: dict[str, list[str]], configs: dict[str, Any]) -> dict[str, Any]:
    image, program, words = router_image(service, router(service, hosts))
    found: dict[str, Any] = {
        "image": image,
        "entrypoint": program,
        "command": [compose_word(in_container(w)) for w in words],
    }
    if service.by_trtllm:
        configs[DISAGGREGATED] = {"content": yaml_text(disaggregated_options(service, hosts))}
        found["configs"] = _configs([DISAGGREGATED])
    ready = {name: {"condition": "service_healthy"} for names in hosts.values() for name in names}
    return {**found, "ports": [f"{PORT}:{PORT}"], "depends_on": ready, "restart": "unless-stopped"}


def _configs(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"source": name, "target": f"/config/{name}"} for name in names]
