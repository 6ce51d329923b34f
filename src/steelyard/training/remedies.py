"""What would make a training fit that does not: changes of what was asked, each answered as ``train`` answers it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steelyard.deployment.train_plan import SPLITTING
from steelyard.errors import InputError
from steelyard.scenario.run_limits import of_a_step
from steelyard.scenario.training import read_train_scenario
from steelyard.training.estimate import TrainEstimate, answer_train

__all__ = ["Remedy", "remedies"]

#: Sequences no shorter than this are proposed, as they are or halved.
_SHORT = 1024
#: Framework that cuts states over devices, where the usual one keeps them whole on each.
_CUTS = "fsdp"


@dataclass(frozen=True, eq=False, slots=True)
class Remedy:
    """A change that fits."""

    words: str
    """As the command line reads it."""
    found: TrainEstimate


def remedies(found: TrainEstimate) -> tuple[Remedy, ...]:
    """Of every kind of change the first that fits, what changes least first: the layout, formats of weights and
    states, lengths, the host's memory, more devices."""
    changes = []
    for kind in _kinds(found):
        for change in kind:
            one = _answered(found, change)
            if one is not None and one.fits:
                changes.append(Remedy(_said(change), one))
                break
    return tuple(changes)


def _answered(found: TrainEstimate, change: dict[str, Any]) -> TrainEstimate | None:
    try:
        return answer_train(read_train_scenario({**of_a_step(found.scenario.words), **change}))
    except InputError:
        return None


def _said(change: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items())


def _kinds(found: TrainEstimate) -> Iterator[list[dict[str, Any]]]:
    """Changes by kind; what was left open was looked through already and is not proposed."""
    scenario, plan = found.scenario, found.scenario.plan
    given, framework, count = scenario.given, plan.framework, scenario.cluster.count
    searched = scenario.searched
    single: list[dict[str, Any]] = []
    if plan.zero < 3 and plan.dp > 1 and 3 in framework.zeros and ("zero" in given or not searched):
        single.append({"zero": 3})
    if framework.fused_loss and plan.loss == "whole" and ("loss" in given or not searched):
        single.append({"loss": "fused"})
    if plan.mbs > 1 and "mbs" in given:
        single.append({"mbs": 1})
    if plan.again != "full" and ("recompute" in given or not searched):
        single.append({"recompute": "full"})
    pairs = [a | b for i, a in enumerate(single) for b in single[i + 1 :]]
    whole = {k: v for one in single for k, v in one.items()}
    least = [*single, *pairs, *([whole] if len(single) > 2 else [])]
    yield least
    best: list[dict[str, Any]] = [{}, whole] if whole else [{}]

    def tried(*changes: dict[str, Any]) -> list[dict[str, Any]]:
        return [change | more for change in changes for more in best]

    if plan.task == "lora":
        yield tried({"task": "qlora"})
    elif not plan.frozen and plan.optimizer.name.startswith("adamw"):
        yield tried({"optimizer": "adamw8bit"}, {"optimizer": "adafactor"})
    if plan.task == "sft":
        yield tried({"task": "lora"}, {"task": "qlora"})
    halves = [plan.seq // 2**i for i in range(1, 20) if plan.seq // 2**i >= _SHORT]
    yield tried(*({"seq": seq} for seq in halves))
    movable = "offload" not in given and bool(scenario.cluster.machine.links("host"))  # else its memory is the host's
    yield tried(*({"offload": text} for text in framework.offloads if movable and not searched))
    if movable and not any("optimizer" in text for text in framework.offloads) and not plan.frozen:
        yield [{"framework": "deepspeed", "offload": text} for text in ("optimizer", "optimizer,parameters")]
    splits = [{name: getattr(plan, name) * n} for name in SPLITTING for n in (2, 4, 8) if name in given]
    yield tried(*splits)
    more = [count * 2**i for i in range(1, 8)]
    name = scenario.cluster.machine.name
    cut: dict[str, Any] = {} if framework.zeros or plan.zero else {"framework": _CUTS}
    if cut and count > 1:
        yield tried(cut)
    if not {"dp", "shard"} & given:
        yield tried(*({"on": f"{name}:{n}", **cut} for n in more))
