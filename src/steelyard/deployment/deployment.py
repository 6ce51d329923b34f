"""What is deployed: pools of equal replicas, each replica one engine on its devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from steelyard.deployment.plan import Plan
from steelyard.errors import InputError, Problem, raise_all
from steelyard.machine.catalogue import find_machine
from steelyard.machine.component import Machine
from steelyard.units import Quantity

__all__ = ["ROLES", "Deployment", "Pool"]

#: What a pool does with a request: all of it, its encoder, its prompt, or its answer.
ROLES = ("both", "encode", "prefill", "decode")


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal replicas of one engine."""

    __pydantic_config__ = {"extra": "forbid"}

    machine: Annotated[str, "name of the machine in the catalogue, or the path of a machine file; then its own name"]
    plan: Annotated[Plan, "formats, parallel degrees and engine of one replica"] = field(default_factory=Plan)
    replicas: Annotated[int, Quantity("1", "copies", ge=1)] = 1
    role: Annotated[str, "what it does with a request: both, encode, prefill or decode"] = "both"
    flags: Annotated[Mapping[str, Any], "flags of the engine by its own names"] = field(default_factory=dict)
    speculate: Annotated[str, "speculative decoding, such as ngram:k=3; empty = none"] = ""
    description: Annotated[Machine | None, "the machine itself; found by its name when it is not given"] = None

    def __post_init__(self) -> None:
        if self.description is None:
            object.__setattr__(self, "description", find_machine(self.machine))
        object.__setattr__(self, "machine", self.device.name)

    @property
    def device(self) -> Machine:
        """The machine itself."""
        assert self.description is not None
        return self.description

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.replicas * self.plan.devices


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on its pools: one of the role ``both`` or several with different roles or machines."""

    __pydantic_config__ = {"extra": "forbid"}

    model: Annotated[str, "name of the model in the catalogue, or a path"]
    pools: Annotated[tuple[Pool, ...], "at least one"]
    router: Annotated[str, "how a request finds its replica"] = "round-robin"

    def __post_init__(self) -> None:
        problems = [
            Problem(f"pools[{k}].role", f"expected one of {', '.join(ROLES)}, got {pool.role!r}")
            for k, pool in enumerate(self.pools)
            if pool.role not in ROLES
        ]
        if not self.pools:
            problems.append(Problem("pools", "expected at least one"))
        raise_all(problems)
        roles = {pool.role for pool in self.pools}
        if "both" not in roles and not {"prefill", "decode"} <= roles:
            raise InputError("expected a pool of the role both, or of prefill and of decode", field="pools")

    @property
    def devices(self) -> int:
        """Devices of all pools."""
        return sum(pool.devices for pool in self.pools)

    @property
    def disaggregated(self) -> bool:
        """Whether prompts and answers are computed in different pools."""
        return any(pool.role in ("prefill", "decode") for pool in self.pools)
