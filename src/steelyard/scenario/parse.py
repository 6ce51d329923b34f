"""Words into deployments: one engine on a cluster, or pools for prompts and answers (``1P:tp8,1D:tp8``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.engine import default_engine, find_engine
from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, Problem, raise_all, suggest
from steelyard.machine.catalogue import find_machine
from steelyard.machine.cluster import Cluster, cluster_of, parse_cluster
from steelyard.machine.component import Machine
from steelyard.scenario.scenario import Scenario, check, default_shape
from steelyard.simulation.run import Options, Prepared, checked, prepare
from steelyard.traffic.trace import Trace
from steelyard.workload.catalogue import Model, load_model

__all__ = ["Shape", "cluster_from", "deployment_of", "parse_pools", "plan_of", "read_pools"]

_LETTERS = {"P": "prefill", "D": "decode", "E": "encode", "M": "both"}
_POOL = re.compile(r"^(\d+)\s*([PDEM])(?::([a-z0-9]*))?(?:@(.+))?$", re.IGNORECASE)
_DEGREES = re.compile(r"(tp|pp|dp|ep|cp)(\d+)")


@dataclass(frozen=True, slots=True)
class Shape:
    """Formats, parallel degrees (None = what uses every device) and engine, as a user gives them."""

    weights: str = ""
    activations: str = ""
    kv: str = ""
    communication: str = ""
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int = 1
    cp: int = 1
    engine: str = ""

    def problems(self) -> list[Problem]:
        """Degrees below one."""
        return [
            Problem(name, f"expected at least 1, got {getattr(self, name)}")
            for name in ("tp", "pp", "dp", "ep", "cp")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]

    def plan(self, tp: int, pp: int, dp: int) -> Plan:
        """With the degrees named."""
        return Plan(
            self.weights, self.activations, self.kv, self.communication, tp, pp, dp, self.ep, self.cp, self.engine
        )


def cluster_from(on: str | Cluster | Machine) -> Cluster:
    """The devices meant."""
    return on if isinstance(on, Cluster) else cluster_of(on) if isinstance(on, Machine) else parse_cluster(on)


def deployment_of(
    model: str | Model,
    on: str | Cluster | Machine,
    shape: Shape,
    trace: Trace,
    options: Options,
    *,
    router: str = "round-robin",
    flags: Mapping[str, Any] | None = None,
    replicas: int = 1,
    disaggregate: str = "",
) -> Prepared:
    """Everything from the words of a user, ready to run.

    Args:
        model, on, shape, trace, options, router, flags: the question.
        replicas: copies of what ``on`` describes.
        disaggregate: pools, see :func:`parse_pools`; the devices of ``on`` must be theirs.

    Raises:
        InputError: all problems at once.
        DoesNotFit: weights and one block of cache do not fit.
    """
    problems = shape.problems()
    if replicas < 1:
        problems.append(Problem("replicas", f"expected at least 1, got {replicas}"))
    order, router = checked(options, router, trace, problems)
    loaded = model if isinstance(model, Model) else load_model(model, generic=options.generic)
    name = model if isinstance(model, str) else loaded.transformer.name
    cluster = cluster_from(on)
    given = dict(flags or {})
    if disaggregate:
        pools, clusters = parse_pools(disaggregate, cluster, shape, given, replicas)
    else:
        plan = plan_of(loaded, cluster, shape)
        pools, clusters = (Pool(cluster.machine.name, plan, replicas, "both", given),), (cluster,)
    deployment = Deployment(name, pools, router)
    return prepare(deployment, trace, options, model=loaded, clusters=clusters, order=order)


def plan_of(model: Model, cluster: Cluster, shape: Shape) -> Plan:
    """The plan of one engine on all devices of a cluster.

    Raises:
        InputError: the model does not generate, or the degrees do not use the devices.
    """
    transformer = model.transformer
    if not transformer.causal:
        raise InputError(f"{transformer.name} does not generate: nothing to serve token by token", field="model")
    plan = shape.plan(*default_shape(transformer, cluster, shape.tp, shape.pp, shape.dp, shape.cp))
    if plan.devices != cluster.count:  # said together with what else is wrong with the degrees
        engine = find_engine(plan.engine) if plan.engine else default_engine(cluster.machine)
        check(Scenario(model, cluster, plan.resolved(transformer.native_weights), engine, 1, 1, 1))
    return plan


def parse_pools(
    text: str, cluster: Cluster, shape: Shape, flags: Mapping[str, Any], replicas: int = 1
) -> tuple[tuple[Pool, ...], tuple[Cluster, ...]]:
    """Read ``1P:tp8,1D:tp8``: replicas, role (P prefill, D decode, E encode, M mixed), degrees, machine.

    ``2P:tp4,1D:tp8dp2`` gives each pool its degrees, those of ``shape`` where a pool names none;
    ``1P:tp8@h100_sxm`` a machine of its own.

    Args:
        text: pools, separated by commas.
        cluster: devices for the pools that name no machine; their count must be what the pools use.
        shape: formats and engine of every pool. flags: of its engine.
        replicas: copies of all pools.

    Raises:
        InputError: it cannot be read, or the devices do not add up.
    """
    pools, clusters = [], []
    used = 0
    for count, role, sizes, machine in read_pools(text):
        own = replace(shape, ep=sizes.get("ep", shape.ep), cp=sizes.get("cp", shape.cp))
        plan = own.plan(*(max(1, sizes.get(k, getattr(shape, k) or 1)) for k in ("tp", "pp", "dp")))
        where = cluster_of(find_machine(machine)) if machine else cluster
        pools.append(Pool(where.machine.name, plan, count * replicas, role, flags))
        clusters.append(where)
        used += 0 if machine else plan.devices * count
    if used not in (0, cluster.count):
        raise InputError(f"the pools use {used} devices, but {cluster} has {cluster.count}", field="disaggregate")
    return tuple(pools), tuple(clusters)


def read_pools(text: str) -> list[tuple[int, str, dict[str, int], str]]:
    """The words of :func:`parse_pools`: ``(replicas, role, degrees, machine or "")`` of each pool.

    Raises:
        InputError: every part that cannot be read.
    """
    pools: list[tuple[int, str, dict[str, int], str]] = []
    problems: list[Problem] = []
    for part in (p.strip() for p in text.split(",")):
        found = _POOL.match(part)
        if not found:
            problems.append(Problem("disaggregate", _unreadable(part)))
            continue
        count, letter, degrees, machine = found.groups()
        named = dict(_DEGREES.findall((degrees or "").lower()))
        sizes = {k: int(v) for k, v in named.items()}
        whole = "".join(f"{k}{v}" for k, v in named.items()) == (degrees or "").lower()
        if not whole or int(count) < 1 or 0 in sizes.values():
            words = f"expected degrees such as tp8 or tp4dp2 and one replica at least, got {part!r}"
            problems.append(Problem("disaggregate", words))
            continue
        if machine:
            try:
                find_machine(machine.strip())
            except InputError as error:
                problems += [Problem("disaggregate", p.message) for p in error.problems]
                continue
        pools.append((int(count), _LETTERS[letter.upper()], sizes, (machine or "").strip()))
    raise_all(problems)
    return pools


def _unreadable(part: str) -> str:
    """What is wrong with a part that is no pool."""
    head, colon, rest = part.partition(":")
    if colon and not head[:1].isdigit() and suggest(head, ["semi"]):
        return f"unknown word {head!r}; did you mean 'semi:{rest or 0.6}'?"
    known = "P (prompts), D (answers), E (encoders), M (both)"
    letter = re.match(r"^\d+\s*([a-z])(?:[:@]|$)", part, re.IGNORECASE)
    if letter and letter[1].upper() not in _LETTERS:
        return f"unknown pool {letter[1]!r} in {part!r}; known: {known}"
    return f"expected pools such as 1P:tp8,1D:tp8, 2P:tp4@h100_sxm, 1A:8@h20,1F:8@h800 or semi:0.6, got {part!r}"
