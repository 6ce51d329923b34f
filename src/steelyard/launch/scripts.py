"""Plain commands as bash scripts: a server of each pool, the router before them, and the load tests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from steelyard.launch.command import Command, Flags, Line, Var, Word, shell_defaults, shell_word
from steelyard.launch.documents import comment, yaml_text
from steelyard.launch.engines import BOOTSTRAP_PORT, LEADER, NODE_RANK, command
from steelyard.launch.service import PORT, Load, Service, Unit

__all__ = [
    "POLICIES",
    "disaggregated_options",
    "load_tests",
    "needs_router",
    "router",
    "router_image",
    "scripts",
    "server_script",
]

#: The routers' word for each way a request finds its replica.
POLICIES = {
    "round-robin": "round_robin",
    "random": "random",
    "least-loaded": "power_of_two",
    "session": "cache_aware",
    "prefix": "cache_aware",
}
#: File of servers of `trtllm-serve disaggregated`.
DISAGGREGATED = "trtllm-disaggregated.yaml"
#: Runs the routers, which are Python packages; the engines' own images do not carry them.
ROUTER_IMAGE = "python:3.12-slim"


def needs_router(service: Service) -> bool:
    """Whether anything must stand before the servers."""
    return service.replicas > 1


def scripts(service: Service) -> Iterator[tuple[str, str]]:
    """Every script with its name, and the files of options they read."""
    for unit in service.units:
        name = "serve.sh" if unit.name == "server" else f"serve-{unit.name}.sh"
        yield name, server_script(unit, service)
        yield from command(unit, service).files.items()
    if needs_router(service):
        yield "router.sh", _router_script(service)
        if service.by_trtllm:
            yield DISAGGREGATED, yaml_text(disaggregated_options(service, _placeholders(service)))
    yield from load_tests(service)


def _script(head: Sequence[str], body: Sequence[str]) -> str:
    return "#!/usr/bin/env bash\n" + comment(*head) + "set -euo pipefail\n\n" + "\n".join(body) + "\n"


def shell_command(made: Command, *, program: Sequence[str] = ()) -> str:
    """A command over several lines, one flag to a line."""
    lines = [Line(tuple(program or made.program)), *made.lines]
    return " \\\n  ".join(" ".join(shell_word(w) for w in line.words) for line in lines)


def server_script(unit: Unit, service: Service) -> str:
    """One replica as plain commands."""
    leader = command(unit, service)
    head = [
        f"One {unit.name} replica of {service.repository} on {unit.devices} x {unit.cluster.machine.title}.",
        f"The plan has {unit.pool.replicas}: run it once for each.",
        f"Flags: {unit.flags.source}.",
        "MODEL names another checkpoint or a local folder. HF_TOKEN is read from the environment by the engine itself.",
    ]
    if unit.nodes > 1:
        head.append(
            f"A replica spans {unit.nodes} nodes: run it on each with {NODE_RANK}=0..{unit.nodes - 1} and "
            f"{LEADER}=the address of node 0."
        )
    body = []
    if unit.flags.name == "trtllm":
        body += ['cd -- "$(dirname -- "${BASH_SOURCE[0]}")"', ""]
        if unit.nodes > 1:
            body += ["# on a cluster with MPI: srun -N " + str(unit.nodes) + " --mpi=pmix bash " + "serve.sh", ""]
    if unit.nodes > 1 and unit.flags.name != "trtllm":
        body += [f': "${{{LEADER}:?the address of node 0}}" "${{{NODE_RANK}:?0 to {unit.nodes - 1}}}"', ""]
    for name, value in leader.env.items():
        if isinstance(value, Var) and value.name == "HOST_IP":
            body.append("HOST_IP=${HOST_IP:-$(hostname -I | cut -d' ' -f1)}")
        body.append(f"export {name}={shell_word(value)}")
    body += shell_defaults(leader)
    worker = command(unit, service, worker=True)
    if unit.nodes > 1 and worker.lines != leader.lines:
        body += [
            f'if [ "${{{NODE_RANK}}}" -gt 0 ]; then',
            f"exec {shell_command(worker)}",
            "fi",
        ]
    body.append(f"exec {shell_command(leader)}")
    return _script(head, body)


def _placeholders(service: Service) -> dict[str, list[str]]:
    """A host name for every replica, to be replaced: ``prefill-0``, ``prefill-1``, ..."""
    return {u.name: [f"{u.name}-{i}" for i in range(u.pool.replicas)] for u in service.units}


def router(service: Service, hosts: dict[str, list[str]]) -> Command:
    """What spreads requests over the servers.

    Args:
        service: the deployment.
        hosts: by pool, the address of each replica, without the port when it is the usual one.
    """
    urls = {name: [_url(h) for h in found] for name, found in hosts.items()}
    prefill = [u for unit in service.of_role("prefill") for u in urls[unit.name]]
    decode = [u for unit in service.of_role("decode") for u in urls[unit.name]]
    both = [u for unit in service.of_role("both") for u in urls[unit.name]]
    policy = POLICIES[service.deployment.router]
    flags = _router_flags(service)
    if service.by_trtllm:
        return Command((*flags.program, "disaggregated"), (Line(("-c", Var("DISAGGREGATED", DISAGGREGATED))),))
    by_sglang, f = flags.name == "sglang_router", flags.line
    lines = [f("--host", "0.0.0.0"), f("--port", PORT)]  # noqa: S104
    lines.append(f("--policy", policy))
    if not service.deployment.disaggregated:
        return Command(flags.program, (*lines, f("--worker-urls", both)))
    lines.append(f("--pd-disaggregation") if by_sglang else f("--vllm-pd-disaggregation"))
    for url in prefill:
        lines.append(f("--prefill", [url, str(BOOTSTRAP_PORT)]) if by_sglang else f("--prefill", url))
    return Command(flags.program, (*lines, *(f("--decode", url) for url in decode)))


def router_image(service: Service, made: Command) -> tuple[str, list[str], list[Word]]:
    """The router in a container: image, program and arguments; Python packages are installed as it starts."""
    if service.by_trtllm:
        return service.units[0].image, [*made.program], [*made.words]
    words = " ".join(shell_word(w) for w in (*made.program, *made.words))
    return ROUTER_IMAGE, ["sh", "-c"], [f"pip install --quiet {_router_flags(service).package} && exec {words}"]


def _router_flags(service: Service) -> Flags:
    """The list of the flags of the service's router."""
    engine = service.units[0].flags.name
    return Flags.of("trtllm" if service.by_trtllm else "sglang_router" if engine == "sglang" else "vllm_router")


def _url(host: str) -> str:
    return f"http://{host}" if ":" in host else f"http://{host}:{PORT}"


def disaggregated_options(service: Service, hosts: dict[str, list[str]]) -> dict[str, object]:
    """The file of servers of ``trtllm-serve disaggregated``."""

    def servers(role: str) -> dict[str, object]:
        found = [_url(h).removeprefix("http://") for u in service.of_role(role) for h in hosts[u.name]]
        return {"num_instances": len(found), "urls": found}

    return {
        "hostname": "0.0.0.0",  # noqa: S104
        "port": PORT,
        "backend": "pytorch",
        "context_servers": servers("prefill"),
        "generation_servers": servers("decode"),
    }


def _router_script(service: Service) -> str:
    made = router(service, _placeholders(service))
    flags = _router_flags(service)
    head = [
        f"Before the replicas: one address for {service.repository}.",
        "Replace the host names by those of your replicas.",
        f"Flags: {flags.source}. To install: pip install {flags.package}",
    ]
    return _script(head, [*shell_defaults(made), f"exec {shell_command(made)}"])


def load_tests(service: Service) -> Iterator[tuple[str, str]]:
    """The commands that would check the SLOs: vllm bench serve, aiperf, guidellm."""
    head = [
        "Sends the traffic of the plan and counts the requests within the SLOs (goodput).",
        f"Traffic: {service.load.words or _rate(service.load)}.",
        f"Promised: {'; '.join(service.slos) or 'nothing'}.",
        "TARGET is the address of the service, MODEL the name or folder the tokenizer is read from.",
    ]
    if service.load.shown:
        head.insert(2, "It sends text of as many tokens as text and images have: without the work of reading images.")
    for name, flags, made in (
        ("check-vllm.sh", Flags.of("vllm_bench"), _vllm_bench(service)),
        ("check-aiperf.sh", Flags.of("aiperf"), _aiperf(service)),
        ("check-guidellm.sh", Flags.of("guidellm"), _guidellm(service)),
    ):
        install = f"Flags: {flags.source}. To install: pip install {flags.package}"
        yield name, _script([*head, install], [*shell_defaults(made), f"exec {shell_command(made)}"])


def _rate(load: Load) -> str:
    tokens = f"{load.prompt_tokens:,.0f} prompt and {load.output_tokens:,.0f} generated tokens"
    return (
        f"{load.concurrency:,} clients, {tokens}" if load.concurrency else f"{load.rate_per_s:g} requests/s, {tokens}"
    )


def _tokens(mean: float) -> int:
    """A length as the tools take it."""
    return max(1, round(mean))


def _target(before: str = "", after: str = "") -> Var:
    return Var("TARGET", f"http://localhost:{PORT}", before, after)


def _spread(load: Load) -> str:
    """Half widths of uniform spreads with the standard deviations of the lengths, as shares of their means."""
    both = [("input", load.prompt_std, load.prompt_tokens), ("output", load.output_std, load.output_tokens)]
    shares = {name: min(0.95, round(math.sqrt(3) * std / mean, 2)) if mean else 0.0 for name, std, mean in both}
    return json.dumps(shares) if any(shares.values()) else "0.0"


def _goodput(service: Service, *names: str) -> list[str]:
    """The SLOs as limits in ms under the tool's names of TTFT, TPOT and end-to-end time."""
    words = dict(zip(("ttft_s", "tpot_s", "e2e_s"), names, strict=True))
    return [f"{words[t.metric]}:{t.limit_s * 1e3:.10g}" for t in service.targets]


def _vllm_bench(service: Service) -> Command:
    flags, load = Flags.of("vllm_bench"), service.load
    values = {
        "--backend": "openai",
        "--base-url": _target(),
        "--endpoint": "/v1/completions",
        "--model": Var("MODEL", service.repository),
        "--served-model-name": None if service.served == service.repository else service.served,
        "--dataset-name": "random",
        "--random-input-len": _tokens(load.prompt_tokens),
        "--random-output-len": _tokens(load.output_tokens),
        "--random-range-ratio": _spread(load),
        "--ignore-eos": True,
        "--max-concurrency": load.concurrency or None,
        "--request-rate": None if load.concurrency else load.rate_per_s,
        "--num-prompts": load.requests,
        "--num-warmups": 10,
        "--seed": load.seed,
        "--percentile-metrics": "ttft,tpot,itl,e2el",
        "--metric-percentiles": _percentiles(service),
        "--goodput": _goodput(service, "ttft", "tpot", "e2el") or None,
        "--save-result": True,
        "--save-detailed": True,
        "--result-filename": "measured.json",
    }
    return Command(flags.program, tuple(flags.lines(values)))


def _percentiles(service: Service) -> str:
    asked = {t.percentile for t in service.targets if not math.isnan(t.percentile)}
    return ",".join(f"{p:g}" for p in sorted({50.0, 90.0, 95.0, 99.0} | asked))


def _aiperf(service: Service) -> Command:
    flags, load = Flags.of("aiperf"), service.load
    goodput = _goodput(service, "time_to_first_token", "inter_token_latency", "request_latency")
    values = {
        "--model": service.served,
        "--tokenizer": Var("MODEL", service.repository),
        "--url": _target(),
        "--endpoint-type": "completions",
        "--streaming": True,
        "--isl": _tokens(load.prompt_tokens),
        "--isl-stddev": round(load.prompt_std),
        "--osl": _tokens(load.output_tokens),
        "--osl-stddev": round(load.output_std),
        "--extra-inputs": "ignore_eos:true",
        "--concurrency": load.concurrency or None,
        "--request-rate": None if load.concurrency else load.rate_per_s,
        "--arrival-pattern": None if load.concurrency else "poisson",
        "--request-count": load.requests,
        "--warmup-request-count": 10,
        "--random-seed": load.seed,
        "--goodput": " ".join(goodput) or None,
        "--output-artifact-dir": "measured",
    }
    return Command(flags.program, tuple(flags.lines(values)))


def _guidellm(service: Service) -> Command:
    flags, load = Flags.of("guidellm"), service.load
    data = (
        f"kind=synthetic_text,prompt_tokens={_tokens(load.prompt_tokens)},output_tokens={_tokens(load.output_tokens)}"
    )
    if load.prompt_std >= 1:
        data += f",prompt_tokens_stdev={round(load.prompt_std)}"
    if load.output_std >= 1:
        data += f",output_tokens_stdev={round(load.output_std)}"
    values = {
        "--backend": _target("kind=openai_http,target=", f",model={service.served}"),
        "--profile": f"kind=concurrent,streams={load.concurrency}"
        if load.concurrency
        else f"kind=poisson,rate={load.rate_per_s:.10g}",
        "--constraint": f"kind=max_requests,count={load.requests}",
        "--tokenizer": Var("MODEL", service.repository, before="kind=huggingface_auto,model="),
        "--data": data,
        "--seed": f"kind=static,value={load.seed}",
        "--output": "kind=json,path=measured-guidellm.json",
    }
    return Command(flags.program, tuple(flags.lines(values)))
