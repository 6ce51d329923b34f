"""Plan files: a deployment, the traffic and the SLOs as TOML (``steelyard.deployment/1``), to be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from steelyard.deployment.deployment import Deployment
from steelyard.deployment.plan import Plan
from steelyard.documents import build, read_document
from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine.component import Machine
from steelyard.machine.loader import machine_dict
from steelyard.units import Quantity

__all__ = ["SCHEMA", "PlanFile", "deployment_dict", "deployment_text", "machines_dict", "read_deployment"]

SCHEMA = "steelyard.deployment/1"
#: Figures that may be expected.
METRICS = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True, slots=True)
class Promise:
    """SLOs as the command line takes them."""

    __pydantic_config__ = {"extra": "forbid"}

    ttft: str = ""
    tpot: str = ""
    e2e: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What the simulation was run with beside the traffic."""

    __pydantic_config__ = {"extra": "forbid"}

    rate_per_s: Annotated[float, Quantity("1/s", "rate the traffic is brought to; 0 = as it is drawn", ge=0)] = 0.0
    requests: Annotated[int, Quantity("1", "requests that were sent", ge=0)] = 0
    seed: Annotated[int, Quantity("1", "fixes everything drawn", ge=0)] = 0
    skew: Annotated[float, Quantity("1", "exponent of the power law of expert popularity", ge=0)] = 0.0


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file holds."""

    __pydantic_config__ = {"extra": "forbid"}

    schema: str
    deployment: Annotated[Deployment, "the model and its pools"]
    traffic: Annotated[Mapping[str, Any], "options of the traffic: rate, isl, osl, trace, peak, requests, seed"] = (
        field(default_factory=dict)
    )
    promise: Annotated[Promise, "the SLOs"] = field(default_factory=Promise)
    simulation: Annotated[Played, "what else the simulation was run with"] = field(default_factory=Played)
    expected: Annotated[
        Mapping[str, Mapping[str, Annotated[float, Quantity("s", "a mean or percentile", ge=0)]]],
        "what came out, to compare with: ttft_s, tpot_s, e2e_s, each with mean, p50, p90, p95, p99",
    ] = field(default_factory=dict)
    machines: Annotated[Mapping[str, Machine], "whole descriptions of the machines, by the names that pools use"] = (
        field(default_factory=dict)
    )


def deployment_dict(deployment: Deployment) -> dict[str, Any]:
    """A deployment as plain values; what has its default is left out."""
    pools = []
    for pool in deployment.pools:
        entry: dict[str, Any] = {"machine": pool.machine}
        if pool.replicas != 1:
            entry["replicas"] = pool.replicas
        if pool.role != "both":
            entry["role"] = pool.role
        plain = Plan()
        plan = {f.name: getattr(pool.plan, f.name) for f in fields(Plan)}
        entry["plan"] = {k: v for k, v in plan.items() if v != getattr(plain, k)}
        if pool.flags:
            entry["flags"] = dict(pool.flags)
        if pool.speculate:
            entry["speculate"] = pool.speculate
        pools.append(entry)
    return {"model": deployment.model, "router": deployment.router, "pools": pools}


def machines_dict(deployment: Deployment) -> dict[str, Any]:
    """The whole descriptions of a deployment's machines by name, for another computer.

    Raises:
        InputError: two different machines have one name.
    """
    found: dict[str, Machine] = {}
    for pool in deployment.pools:
        if found.setdefault(pool.machine, pool.device) != pool.device:
            raise InputError(f"two different machines are called {pool.machine!r}", field="machine")
    return {name: machine_dict(machine) for name, machine in found.items()}


def deployment_text(
    deployment: Deployment,
    *,
    traffic: Mapping[str, Any] | None = None,
    promise: Mapping[str, str] | None = None,
    simulation: Mapping[str, Any] | None = None,
    expected: Mapping[str, Any] | None = None,
) -> str:
    """A plan file as TOML, read back by :func:`read_deployment` to an equal deployment.

    Args:
        deployment: the pools.
        traffic, promise, simulation, expected: what the replay is to be run with and compared to; ``None`` values are
            left out.
    """
    import tomli_w

    document: dict[str, Any] = {"schema": SCHEMA, "deployment": deployment_dict(deployment)}
    for name, table in (("traffic", traffic), ("promise", promise), ("simulation", simulation), ("expected", expected)):
        kept = _without_none(table or {})
        if kept:
            document[name] = kept
    document["machines"] = machines_dict(deployment)
    return tomli_w.dumps(document)


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in table.items() if v is not None}


def read_deployment(path: str | Path) -> PlanFile:
    """Read a plan file: ``.toml``, or a JSON answer of ``steelyard plan`` with its ``replay`` table.

    Raises:
        InputError: unreadable, another schema, or wrong fields, all at once with their paths.
    """
    data = read_document(path)
    name = Path(path).name
    if "replay" in data and str(data.get("schema", "")).startswith("steelyard.plan/"):
        data = data["replay"]
        if not isinstance(data, Mapping):
            raise InputError("this plan holds no deployment: nothing was found to replay", field=name)
    schema = data.get("schema")
    if schema != SCHEMA:
        raise InputError(f"expected the schema {SCHEMA}, got {schema!r}", field=f"{name}.schema")
    found = build(PlanFile, _with_machines(data, name), name)
    _check_expected(found.expected, name)
    whole = tuple(replace(p, replicas=int(p.replicas), plan=_whole(p.plan)) for p in found.deployment.pools)
    return replace(found, deployment=replace(found.deployment, pools=whole))


def _with_machines(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The file's tables, each pool with the description of the machine it names. Raises :class:`InputError`."""
    given = data.get("machines", {})
    if not isinstance(given, Mapping):
        raise InputError(f"expected tables by the names of machines, got {given!r:.80}", field=f"{name}: machines")
    deployment = data.get("deployment")
    pools = deployment.get("pools") if isinstance(deployment, Mapping) else None
    if not isinstance(deployment, Mapping) or not isinstance(pools, list):
        return dict(data)
    described = [
        {**p, "description": given[p["machine"]]}
        if isinstance(p, Mapping) and isinstance(p.get("machine"), str) and p["machine"] in given
        else p
        for p in pools
    ]
    return {**data, "deployment": {**deployment, "pools": described}}


def _check_expected(expected: Mapping[str, Mapping[str, float]], name: str) -> None:
    """Refuse figures that are none. Raises :class:`InputError` with all of them."""
    problems = [
        Problem(f"{name}: expected.{metric}", f"expected one of {', '.join(METRICS)}")
        for metric in expected
        if metric not in METRICS
    ]
    raise_all(problems)


def _whole(plan: Plan) -> Plan:
    """Degrees as whole numbers, whatever the file had."""
    return replace(plan, **{name: int(size) for name, size in plan.degrees.items()})  # type: ignore[arg-type]
