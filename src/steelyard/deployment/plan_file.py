"""Plan files: a deployment, the traffic and the SLOs as TOML (``steelyard.deployment/1``), to be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from steelyard.deployment.deployment import Deployment
from steelyard.deployment.plan import Plan
from steelyard.documents import build, read_document
from steelyard.errors import InputError

__all__ = ["SCHEMA", "PlanFile", "deployment_dict", "deployment_text", "read_deployment"]

SCHEMA = "steelyard.deployment/1"


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file holds."""

    __pydantic_config__ = {"extra": "forbid"}

    schema: str
    deployment: Annotated[Deployment, "the model and its pools"]
    traffic: Annotated[Mapping[str, Any], "options of the traffic: rate, isl, osl, trace, peak, requests, seed"] = (
        field(default_factory=dict)
    )
    promise: Annotated[Mapping[str, str], "ttft, tpot, e2e, as the command line takes them"] = field(
        default_factory=dict
    )
    simulation: Annotated[Mapping[str, Any], "what else the simulation was run with: seed, skew"] = field(
        default_factory=dict
    )
    expected: Annotated[Mapping[str, Any], "what came out, to compare with"] = field(default_factory=dict)


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
    found = build(PlanFile, data, name)
    whole = tuple(replace(p, replicas=int(p.replicas), plan=_whole(p.plan)) for p in found.deployment.pools)
    return replace(found, deployment=replace(found.deployment, pools=whole))


def _whole(plan: Plan) -> Plan:
    """Degrees as whole numbers, whatever the file had."""
    return replace(plan, **{name: int(size) for name, size in plan.degrees.items()})  # type: ignore[arg-type]
