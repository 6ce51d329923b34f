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
    "promised",
    "router",
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
        if _by_trtllm(service):
            yield DISAGGREGATED, yaml_text(disaggregated_options(service, _placeholders(service)))
    yield from load_tests(service)


def _script(said: Sequence[str], body: Sequence[str]) -> str:
    return "#!/usr/bin/env bash\n" + comment(*said) + "set -euo pipefail\n\n" + "\n".join(body) + "\n"


def shell_command(made: Command, *, program: Sequence[str] = ()) -> str:
    """A command over several lines, one flag to a line."""
    lines = [Line(tuple(program or made.program)), *made.lines]
    return " \\\n  ".join(" ".join(shell_word(w) for w in line.words) for line in lines)


def server_script(unit: Unit, service: Service) -> str:
    """One replica as plain commands."""
    leader = command(unit, service)
    said = [
        f"One {unit.name} replica of {service.repository} on {unit.devices} x {unit.cluster.machine.title}.",
        f"The plan has {unit.pool.replicas}: run it once for each.",
        leader_said(unit),
        "MODEL names another checkpoint or a local folder. HF_TOKEN is read from the environment by the engine itself.",
    ]
    if unit.nodes > 1:
        said.append(
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
    return _script(said, body)


def leader_said(unit: Unit) -> str:
    """Where the flags come from, for a comment."""
    return f"Flags: {unit.flags.source}."


def _placeholders(service: Service) -> dict[str, list[str]]:
    """A host name for every replica, to be replaced: ``prefill-0``, ``prefill-1``, ..."""
    return {u.name: [f"{u.name}-{i}" for i in range(u.pool.replicas)] for u in service.units}


def _by_trtllm(service: Service) -> bool:
    return service.deployment.disaggregated and service.units[0].flags.name == "trtllm"


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
    if _by_trtllm(service):
        program = (*Flags.of("trtllm").program, "disaggregated")
        return Command(program, (Line(("-c", Var("DISAGGREGATED", DISAGGREGATED))),))
    by_sglang = service.units[0].flags.name == "sglang"
    flags = Flags.of("sglang_router" if by_sglang else "vllm_router")
    f = flags.line
    lines = [f("--host", "0.0.0.0"), f("--port", PORT)]  # noqa: S104
    lines.append(f("--policy", policy))
    if not service.deployment.disaggregated:
        return Command(flags.program, (*lines, f("--worker-urls", both)))
    lines.append(f("--pd-disaggregation") if by_sglang else f("--vllm-pd-disaggregation"))
    for url in prefill:
        lines.append(f("--prefill", [url, str(BOOTSTRAP_PORT)]) if by_sglang else f("--prefill", url))
    return Command(flags.program, (*lines, *(f("--decode", url) for url in decode)))


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
    name = "sglang_router" if service.units[0].flags.name == "sglang" else "vllm_router"
    flags = Flags.of("trtllm" if _by_trtllm(service) else name)
    said = [
        f"Before the replicas: one address for {service.repository}.",
        "Replace the host names by those of your replicas.",
        f"Flags: {flags.source}. To install: pip install {flags.package}",
    ]
    return _script(said, [*shell_defaults(made), f"exec {shell_command(made)}"])


def promised(service: Service) -> list[str]:
    """The promises in words, one each."""
    from steelyard.units import format_quantity as q

    return [f"{t.metric.removesuffix('_s').upper()} {t.label} at most {q(t.limit_s, 's')}" for t in service.targets]


def load_tests(service: Service) -> Iterator[tuple[str, str]]:
    """The commands that would check the promise: vllm bench serve, aiperf, guidellm."""
    said = [
        "Sends the traffic of the plan and counts the requests within the promise (goodput).",
        f"Traffic: {service.load.words or _rate(service.load)}.",
        f"Promised: {'; '.join(promised(service)) or 'nothing'}.",
        "TARGET is the address of the service, MODEL the name or folder the tokenizer is read from.",
    ]
    for name, flags, made in (
        ("check-vllm.sh", Flags.of("vllm_bench"), _vllm_bench(service)),
        ("check-aiperf.sh", Flags.of("aiperf"), _aiperf(service)),
        ("check-guidellm.sh", Flags.of("guidellm"), _guidellm(service)),
    ):
        head = [*said, f"Flags: {flags.source}. To install: pip install {flags.package}"]
        yield name, _script(head, [*shell_defaults(made), f"exec {shell_command(made)}"])


def _rate(load: Load) -> str:
    return f"{load.rate_per_s:g} requests/s, {load.isl:,.0f} prompt and {load.osl:,.0f} generated tokens"


def _target(before: str = "", after: str = "") -> Var:
    return Var("TARGET", f"http://localhost:{PORT}", before, after)


def _spread(load: Load) -> str:
    """Half widths of uniform spreads with the standard deviations of the lengths, as shares of their means."""
    both = [("input", load.isl_std, load.isl), ("output", load.osl_std, load.osl)]
    shares = {name: min(0.95, round(math.sqrt(3) * std / mean, 2)) if mean else 0.0 for name, std, mean in both}
    return json.dumps(shares) if any(shares.values()) else "0.0"


def _vllm_bench(service: Service) -> Command:
    flags, load = Flags.of("vllm_bench"), service.load
    f = flags.line
    lines = [
        f("--backend", "openai"),
        f("--base-url", _target()),
        f("--endpoint", "/v1/completions"),
        f("--model", Var("MODEL", service.repository)),
        f("--dataset-name", "random"),
        f("--random-input-len", max(1, round(load.isl))),
        f("--random-output-len", max(1, round(load.osl))),
        f("--random-range-ratio", _spread(load)),
        f("--ignore-eos"),
        f("--request-rate", load.rate_per_s),
        f("--num-prompts", load.requests),
        f("--num-warmups", 10),
        f("--seed", load.seed),
        f("--percentile-metrics", "ttft,tpot,itl,e2el"),
        f("--metric-percentiles", _percentiles(service)),
    ]
    names = {"ttft_s": "ttft", "tpot_s": "tpot", "e2e_s": "e2el"}
    slo = [f"{names[t.metric]}:{t.limit_s * 1e3:.10g}" for t in service.targets]
    if slo:
        lines.append(f("--goodput", slo))
    lines += [f("--save-result"), f("--save-detailed"), f("--result-filename", "measured.json")]
    return Command(flags.program, tuple(lines))


def _percentiles(service: Service) -> str:
    asked = {t.percentile for t in service.targets if not math.isnan(t.percentile)}
    return ",".join(f"{p:g}" for p in sorted({50.0, 90.0, 95.0, 99.0} | asked))


def _aiperf(service: Service) -> Command:
    flags, load = Flags.of("aiperf"), service.load
    f = flags.line
    lines = [
        f("--model", service.repository),
        f("--tokenizer", Var("MODEL", service.repository)),
        f("--url", _target()),
        f("--endpoint-type", "completions"),
        f("--streaming"),
        f("--isl", max(1, round(load.isl))),
        f("--isl-stddev", round(load.isl_std)),
        f("--osl", max(1, round(load.osl))),
        f("--osl-stddev", round(load.osl_std)),
        f("--extra-inputs", "ignore_eos:true"),
        f("--request-rate", load.rate_per_s),
        f("--arrival-pattern", "poisson"),
        f("--request-count", load.requests),
        f("--warmup-request-count", 10),
        f("--random-seed", load.seed),
    ]
    names = {"ttft_s": "time_to_first_token", "tpot_s": "inter_token_latency", "e2e_s": "request_latency"}
    slo = " ".join(f"{names[t.metric]}:{t.limit_s * 1e3:.10g}" for t in service.targets)
    if slo:
        lines.append(f("--goodput", slo))
    lines.append(f("--output-artifact-dir", "measured"))
    return Command(flags.program, tuple(lines))


def _guidellm(service: Service) -> Command:
    flags, load = Flags.of("guidellm"), service.load
    f = flags.line
    model: Word = Var("MODEL", service.repository, before="kind=huggingface_auto,model=")
    data = f"kind=synthetic_text,prompt_tokens={max(1, round(load.isl))},output_tokens={max(1, round(load.osl))}"
    if load.isl_std >= 1:
        data += f",prompt_tokens_stdev={round(load.isl_std)}"
    if load.osl_std >= 1:
        data += f",output_tokens_stdev={round(load.osl_std)}"
    return Command(
        flags.program,
        (
            f("--backend", _target("kind=openai_http,target=", f",model={service.repository}")),
            f("--profile", f"kind=poisson,rate={load.rate_per_s:.10g}"),
            f("--constraint", f"kind=max_requests,count={load.requests}"),
            f("--tokenizer", model),
            f("--data", data),
            f("--seed", f"kind=static,value={load.seed}"),
            f("--output", "kind=json,path=measured-guidellm.json"),
        ),
    )
