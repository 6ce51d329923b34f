"""README.md of the folder: what each file is, the SLOs, what to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steelyard._version import __version__
from steelyard.errors import printable
from steelyard.launch.command import shell_quoted
from steelyard.launch.kubernetes import SECRET
from steelyard.launch.scripts import needs_router
from steelyard.launch.service import PORT, Service, Unit, not_a_flag

__all__ = ["readme"]

_WHAT = {
    "serve.sh": "one replica as a plain command",
    "router.sh": "the router before the replicas",
    "compose.yaml": "docker-compose for one host: `docker compose up`",
    "kubernetes.yaml": "servers, services, probes and an autoscaler: `kubectl apply -f kubernetes.yaml`",
    "dynamo.yaml": "NVIDIA Dynamo graph: `kubectl apply -f dynamo.yaml` where its operator runs",
    "llm-d-values.yaml": "values for llm-d's model service chart (its first lines say how to install it)",
    "check-vllm.sh": "the load test with `vllm bench serve`",
    "check-aiperf.sh": "the same with `aiperf profile`",
    "check-guidellm.sh": "the same with `guidellm run`",
    "trtllm-disaggregated.yaml": "servers behind `trtllm-serve disaggregated`",
}


def readme(service: Service, files: Sequence[str], more_files: Mapping[str, str], whole: bool) -> str:
    """The text.

    Args:
        service: the deployment.
        files: names of the launch files.
        more_files: further files and what they are.
        whole: everything runs on one node.
    """
    parts = [
        f"# {_text(service.repository)}",
        f"Written by Steelyard {__version__}. Nothing here was measured: these are predictions, and the load test "
        "below checks them.",
        "## Promised",
        *_bullets(
            [f"{_text(service.load.words) or 'traffic: not said'}", *service.slos, *filter(None, [service.odds])]
        ),
        "## Pools",
        *_bullets([_pool(u) for u in service.units]),
        "## Run it",
        *_run(service, files, whole),
        "## Check it",
        "From a machine near the servers, with `TARGET` their address (this sends the traffic of the plan once):",
        f"```sh\nTARGET=http://localhost:{PORT} ./check-vllm.sh\n```",
        *_compared(service),
    ]
    if service.notes:
        parts += ["## By hand", *_bullets([_text(n) for n in service.notes])]
    own = {u.own_file: f"your own machine {_text(u.cluster.machine.name)}, as planned with" for u in service.units}
    rows = [f"| `{name}` | {own.get(name) or _what(name, whole)} |" for name in files]
    rows += [f"| `{name}` | {words} |" for name, words in more_files.items()]
    parts += ["## Files", "| file | what |\n|---|---|\n" + "\n".join(rows)]
    versions = sorted({f"{u.flags.title} {u.flags.version}" for u in service.units})
    parts.append(
        f"Flags are those of {', '.join(versions)}; each file names where they were read. "
        "No file holds a secret: `HF_TOKEN` comes from the environment, or from the secret "
        f"`{SECRET}` of the cluster."
    )
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {x}" for x in lines)]


def _text(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _pool(unit: Unit) -> str:
    p, c = unit.plan, unit.config
    nodes = f" over {unit.nodes} nodes" if unit.nodes > 1 else ""
    machine, whose = unit.cluster.machine, ""
    if unit.own_file:
        source = f", read from `{_text(machine.file)}`" if machine.file else ""
        whose = f", a machine of your own (`./{unit.own_file}`{source})"
    return (
        f"**{unit.name}**: {unit.pool.replicas} x ({unit.devices} x {_text(machine.title)}{whose}{nodes}), "
        f"{unit.flags.title}{', ' + p.shape if p.shape else ''}; weights {p.weights}, KV cache {p.kv}; at most "
        f"{c.max_num_seqs:,} requests and {c.max_num_batched_tokens:,} tokens a step, requests of at most "
        f"{unit.longest_tokens:,} tokens"
    )


def _run(service: Service, files: Sequence[str], whole: bool) -> list[str]:
    found = []
    servers = [f for f in files if f.startswith("serve") and f.endswith(".sh")]
    if whole and "compose.yaml" in files:
        found.append("On one host with all devices:\n\n```sh\nexport HF_TOKEN=...\ndocker compose up\n```")
    plain = "\n".join(f"./{name}" for name in servers)
    after = "\n./router.sh" if needs_router(service) else ""
    found.append(
        "By hand"
        + (", each replica on devices of its own" if service.replicas > 1 else "")
        + f":\n\n```sh\n{plain}{after}\n```"
    )
    if "kubernetes.yaml" in files:
        found.append(
            f'On Kubernetes:\n\n```sh\nkubectl create secret generic {SECRET} --from-literal=HF_TOKEN="$HF_TOKEN"\n'
            "kubectl apply -f kubernetes.yaml\n```"
        )
    return found


def _compared(service: Service) -> list[str]:
    """The command that sets the measurement beside the simulation, for one pool."""
    unit = service.units[0]
    if len(service.units) > 1:
        return []
    p, c = unit.plan, unit.config
    words = ["steelyard", "compare", "measured.json", "--model", not_a_flag(service.deployment.model)]
    machine = f"./{unit.own_file}" if unit.own_file else unit.pool.machine
    words += ["--on", f"{machine}:{unit.devices}" if unit.devices > 1 else machine]
    words += [x for n, size in p.degrees.items() if size > 1 for x in (f"--{n}", str(size))]
    words += ["--weights", p.weights, "--kv", p.kv, "--engine", unit.engine.name]
    words += ["--max-num-seqs", str(c.max_num_seqs), "--max-num-batched-tokens", str(c.max_num_batched_tokens)]
    words += ["--replicas", str(unit.pool.replicas)] if unit.pool.replicas > 1 else []
    line = " ".join(map(shell_quoted, words))
    return [f"The result beside the simulation, request by request:\n\n```sh\n{line}\n```"]


def _what(name: str, whole: bool) -> str:
    if name == "compose.yaml" and not whole:
        return "docker-compose, a profile for each pool: `docker compose --profile POOL up` on each host"
    if name.startswith("serve-"):
        return f"one replica of the pool {name[6:-3]} as a plain command"
    if name.startswith("trtllm-") and name not in _WHAT:
        return "further options of TensorRT-LLM, read by its command"
    return _WHAT[name]
