"""What the launch files need of a training plan, worked out once, and what each framework's files consist of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.launch.command import Flags, Line, Var, shell_word
from steelyard.scenario.net_training import NetTrainScenario
from steelyard.units import format_quantity as q
from steelyard.workload.transformer import Transformer

if TYPE_CHECKING:
    from steelyard.deployment.train_plan import TrainPlan
    from steelyard.machine.cluster import Cluster
    from steelyard.training.estimate import TrainEstimate

__all__ = ["PORT", "TRIAL_STEPS", "Launched", "TrainJob", "array", "default", "nested"]

#: The port ranks find each other on.
PORT = 29500
#: Steps of a run whose length was not given: enough to compare its speed.
TRIAL_STEPS = 50
#: Steps between checkpoints where no run was asked for (a guess).
_SAVE_EVERY = 500


@dataclass(frozen=True)
class TrainJob:
    """A training plan, ready to be written."""

    found: TrainEstimate

    @property
    def plan(self) -> TrainPlan:
        """Its layout."""
        return self.found.scenario.plan

    @property
    def cluster(self) -> Cluster:
        """Where it runs."""
        return self.found.scenario.cluster

    @property
    def model(self) -> Transformer | None:
        """The language model; None of networks."""
        found = self.found.scenario
        model = found.model.transformer
        return model if isinstance(model, Transformer) and not isinstance(found, NetTrainScenario) else None

    @property
    def repository(self) -> str:
        """Where the model is found on the hub."""
        model = self.found.scenario.model
        return model.entry.id if model.entry else model.name

    @property
    def config(self) -> Mapping[str, Any]:
        """What the model's own file says."""
        model = self.found.scenario.model
        return model.entry.config if model.entry else {}

    @property
    def slug(self) -> str:
        """A name for jobs: small letters, digits and dashes."""
        last = self.repository.rsplit("/", 1)[-1].lower()
        return ("train-" + re.sub(r"[^a-z0-9]+", "-", last).strip("-"))[:50].rstrip("-")

    @property
    def apart(self) -> Cluster | None:
        """Devices that answer beside those that train."""
        return self.found.scenario.apart

    @property
    def devices(self) -> int:
        """That train, and that answer beside them."""
        return self.found.scenario.devices

    @property
    def per_node(self) -> int:
        """Devices of a node."""
        return max(1, min(int(self.cluster.per_node), self.devices))

    @property
    def nodes(self) -> int:
        """Nodes."""
        return math.ceil(self.devices / self.per_node)

    @property
    def vendor(self) -> str:
        """The maker of the devices."""
        return self.cluster.machine.vendor.lower().split()[0]

    @property
    def steps(self) -> int:
        """Of the run (of one training, where it is several), or of a trial where its length was not given."""
        tokens, done = self.found.scenario.tokens, self.found.rewarded
        each = self.found.tokens_per_step if done is None else done.tokens
        return TRIAL_STEPS if tokens is None else math.ceil(tokens / self.found.scenario.words["trainings"] / each)

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        run = self.found.run
        if run is None or not np.isfinite(run.checkpoint_interval_s):
            return _SAVE_EVERY
        step_s = self.found.step_s if self.found.rewarded is None else self.found.rewarded.step_s
        return max(1, round(run.checkpoint_interval_s / step_s))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of every chunk in the order of the model, as the plan splits them (Megatron's count of embedding and
        head as layers)."""
        assert self.model is not None
        total, chunks = self.model.depth, self.plan.pp * self.plan.vp
        each = math.ceil(total / chunks)
        missed = each * chunks - total
        first = missed // 2
        if missed and missed - first <= each and chunks > 1:
            return (each - first, *[each] * (chunks - 2), each - (missed - first))
        ends = [round(total * i / chunks) for i in range(chunks + 1)]
        return tuple(b - a for a, b in pairwise(ends))

    @property
    def even(self) -> bool:
        """Whether every chunk has as many layers."""
        return len(set(self.layers)) == 1

    @property
    def about(self) -> list[str]:
        """The plan in lines, for the first lines of every file."""
        plan, low_high = self.plan, self.found.interval["step_s"]
        low, high = (q(x, "s") for x in low_high)
        rows = "1 sequence" if plan.gbs == 1 else f"{plan.gbs} sequences"
        if (done := self.found.rewarded) is not None:
            low, high = (q(x, "s") for x in done.ends_s)
            beside = "" if self.apart is None else f", {self.apart.count} answer"
            return [
                f"{self.repository}, {plan.task}: {self.cluster.count} of {self.devices} devices train{beside}.",
                f"{done.answers} answers a step; predicted {q(done.step_s, 's')} ({low} to {high}).",
            ]
        return [
            f"{self.repository} on {self.cluster.title}: {plan.shape}; {plan.framework.called}, {plan.precision}.",
            f"{rows} of {plan.seq} tokens a step; predicted {q(self.found.step_s, 's')} ({low} to {high}).",
        ]


@dataclass(frozen=True)
class Launched:
    """The files of one framework."""

    flags: tuple[Flags, ...]
    body: tuple[str, ...]
    """Lines of ``train.sh`` behind its first ones; the last one runs the framework."""
    files: Mapping[str, str] = field(default_factory=dict)
    what: Mapping[str, str] = field(default_factory=dict)
    """What each file is."""
    fill: Mapping[str, str] = field(default_factory=dict)
    """Variables of ``train.sh`` and what they are."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Those it does not start without, and a name for each on a volume."""
    left_out: tuple[str, ...] = ()
    """What of the plan the framework does not do, or its files do not say."""
    image: str = ""


def array(name: str, lines: list[Line]) -> list[str]:
    """An array of bash, a flag a line."""
    return [f"{name}=(", *("    " + " ".join(map(shell_word, line.words)) for line in lines), ")"]


def default(var: Var) -> str:
    """The line of bash that gives a variable its default."""
    return f'[ -n "${{{var.name}:-}}" ] || {var.name}={shell_word(var.default)}'


def nested(flags: Flags, values: Mapping[str, Any]) -> dict[str, Any]:
    """Documented fields by their dotted names as tables in tables; None is left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        flags.option(name, value)
        *path, last = name.split(".")
        table = found
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return found
