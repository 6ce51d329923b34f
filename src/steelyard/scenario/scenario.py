"""A scenario: one question with every choice made, and the checks that it can be answered."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.cost.step import Replica
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine.cluster import Cluster
from steelyard.workload.catalogue import Model
from steelyard.workload.protocol import Workload

__all__ = ["Scenario", "check", "default_shape"]


@dataclass(frozen=True, eq=False)
class Scenario:
    """One question, every choice made: model, cluster, plan, engine, and a static batch."""

    model: Model
    cluster: Cluster
    plan: Plan
    engine: Engine
    batch: int
    isl: int
    osl: int
    skew: float = 0.0
    usd_per_hour: float | None = None
    """Price per device and hour; None = the catalogue's."""
    asked: tuple[str, str] = ("", "")
    """Model and machine as the user named them, so that the question can be asked again."""

    @property
    def transformer(self) -> Workload:
        """The model's shapes."""
        return self.model.transformer

    @property
    def replica(self) -> Replica:
        """What prices its steps."""
        return Replica(self.transformer, self.plan, self.cluster, self.engine, self.skew)

    @property
    def replica_batch(self) -> int:
        """Requests one replica holds."""
        return -(-self.batch // self.plan.dp)


def default_shape(
    model: Workload, cluster: Cluster, tp: int | None, pp: int | None, dp: int | None, cp: int
) -> tuple[int, int, int]:
    """``(tp, pp, dp)`` that use every device: tensor parallel inside a node, pipeline across nodes, unless given."""
    given = (tp or 1) * (pp or 1) * (dp or 1) * cp
    if cluster.count % given and given <= cluster.count:
        return tp or 1, pp or 1, dp or 1
    rest = max(1, cluster.count // given)
    if tp is None:
        limit = min(rest, cluster.per_node)
        heads = [queries for queries, _ in model.head_groups]
        tp = max((d for d in range(1, limit + 1) if rest % d == 0 and all(h % d == 0 for h in heads)), default=1)
        rest //= tp
    if pp is None and dp is None:
        pp, rest = (rest, 1) if rest <= model.depth else (1, rest)
    elif pp is None:
        pp = rest
    return tp, pp or 1, dp or (rest if pp is not None else 1)


def check(scenario: Scenario) -> None:
    """Refuse what cannot run, all problems at once. Raises :class:`InputError`."""
    problems: list[Problem] = []
    model, plan, cluster = scenario.transformer, scenario.plan, scenario.cluster
    if plan.devices != cluster.count:
        given = f"tp x pp x dp x cp = {plan.tp} x {plan.pp} x {plan.dp} x {plan.cp} = {plan.devices}"
        problems.append(Problem("devices", f"{given} devices, but {cluster} has {cluster.count}"))
    length, what = scenario.isl + scenario.osl, "isl + osl"
    if not model.causal:
        length, what = scenario.isl, "isl"
    if model.max_context and length > model.max_context:
        message = f"{what} = {length} tokens exceeds the model's context of {model.max_context}"
        problems.append(Problem("isl", message))
    try:
        check_sharding(model, plan)
    except InputError as error:
        problems += error.problems
    raise_all(problems)
