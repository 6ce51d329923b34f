"""Cost models: what prices a kernel of one kind, everywhere or on some machines. The contract.

A cost model is a function ``(kernel, context) -> KernelTime`` marked with :func:`cost_model`. It

* reads the features and traffic of the kernel and the figures of the site, scalars or arrays over scenarios, and
  answers seconds per copy of the broadcast shape, finite and positive;
* predicts utilisation: it never goes below ``max(FLOPs / peak, bytes / bandwidth)``, and ``cost.price`` takes the limit
  where it does;
* states the log-space spread of its own residuals and where its parameters came from.

It enters by the entry-point group ``steelyard.cost_models``, ours and a plug-in's alike, and may

* **replace** a built-in for the machines or families it names, or everywhere when it names none. The more specific
  wins: a machine before a family before everywhere, and at the same level a plug-in before a built-in. Two plug-ins at
  one level are an error that names both;
* **add a kind**: it brings a :class:`~steelyard.cost.kinds.Kind` of its own.

The smallest one is in ``docs/guide/add-a-cost-model.md``; ``steelyard.testing.cost_models`` is its contract suite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from steelyard.cost.kernel import Kernel
from steelyard.cost.kinds import Kind, Kinds
from steelyard.cost.parameters import calibration_table
from steelyard.cost.site import Site
from steelyard.deployment.engine import Engine
from steelyard.errors import SteelyardError, UnknownName
from steelyard.machine.cluster import Cluster
from steelyard.machine.component import Machine
from steelyard.registry import Registry

__all__ = ["COST_MODELS", "CostModel", "KernelTime", "PricingContext", "cost_model", "kinds", "model_for"]


@dataclass(frozen=True, slots=True)
class PricingContext:
    """What a cost model may look at beside the kernel."""

    cluster: Cluster
    engine: Engine
    at: Site | None
    """Engine and format; None for communication."""
    weights_hot: bool = False
    """Benchmarks that reuse one set of weights find small ones in the cache; serving does not."""
    burst: bool = False
    """Kernels timed one at a time: clocks stay up, unlike in a running model."""

    @property
    def site(self) -> Site:
        """Engine and format of a kernel that computes."""
        assert self.at is not None, "communication has no site"
        return self.at


@dataclass(frozen=True, eq=False, slots=True)
class KernelTime:
    """Seconds per copy, log-space spread of the model's residuals, and where its parameters came from."""

    time_s: Any
    spread: Any
    """A number, or one for each scenario where they run other kernels."""
    source: str


@dataclass(frozen=True, eq=False)
class CostModel:
    """A cost model and where it applies; calling it prices a kernel."""

    kind: Kind
    price: Callable[[Kernel, PricingContext], KernelTime]
    machines: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    table: str = ""
    """A calibration table (``cpu``) of its own that a machine must have."""

    def __call__(self, kernel: Kernel, context: PricingContext) -> KernelTime:
        return self.price(kernel, context)

    def level(self, machine: Machine) -> int:
        """How specific it is: 3 for the machine, 2 for its family, 1 everywhere, 0 where it does not apply."""
        if machine.name in self.machines or (self.table and calibration_table(machine.name, self.table)):
            return 3
        if machine.family in self.families:
            return 2
        return 0 if self.machines or self.families or self.table else 1


def cost_model(
    kind: Kind, *, machines: tuple[str, ...] = (), families: tuple[str, ...] = (), table: str = ""
) -> Callable[[Callable[[Kernel, PricingContext], KernelTime]], CostModel]:
    """Mark a function as the cost model of a kind.

    Args:
        kind: one of :mod:`steelyard.cost.kinds`, or a new one.
        machines, families: names in the catalogue where it applies; none of both: everywhere.
        table: it applies to machines that have this calibration table.
    """
    return lambda price: CostModel(kind, price, machines, families, table)


#: Cost models by name. Several may price one kind.
COST_MODELS: Registry[CostModel] = Registry("cost model", "steelyard.cost_models")


def kinds() -> Kinds:
    """The kinds of all cost models."""
    return _kinds(COST_MODELS.version)


@cache
def _kinds(version: int) -> Kinds:
    return Kinds(model.kind for model in _models(version).values())


@cache
def _models(version: int) -> dict[str, CostModel]:
    found = {name: COST_MODELS.get(name) for name in COST_MODELS}
    for name, model in found.items():
        if not isinstance(model, CostModel):
            raise SteelyardError(f"cost model {name!r} is {model!r}: mark the function with @cost_model(KIND)")
    return found


def model_for(kind: str, machine: Machine) -> CostModel:
    """The most specific cost model of a kind on a machine.

    Raises:
        UnknownName: nothing prices this kind there.
        SteelyardError: two plug-ins are as specific.
    """
    return _model_for(kind, _Key(machine), COST_MODELS.version)


class _Key:
    """A machine as a cache key: what the choice depends on."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.key = machine, (machine.name, machine.family)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.key == other.key


@cache
def _model_for(kind: str, key: _Key, version: int) -> CostModel:
    models = {name: model for name, model in _models(version).items() if model.kind.name == kind}
    ranks = {name: (model.level(key.machine), not COST_MODELS.built_in(name)) for name, model in models.items()}
    applying = {name: rank for name, rank in ranks.items() if rank[0]}
    if not applying:
        raise UnknownName("kind of kernel", kind, kinds().by_name)
    best = max(applying.values())
    names = [name for name, rank in applying.items() if rank == best]
    if len(names) > 1:
        both = " and ".join(f"{name!r} ({COST_MODELS.origin(name)})" for name in names)
        raise SteelyardError(f"cost models {both} price {kind} on {key.machine.name} alike: uninstall one of them")
    return models[names[0]]
