"""A question about training a network that is no language model: images, sounds, whatever a graph takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steelyard.deployment.frameworks import find_framework
from steelyard.deployment.optimizers import find_optimizer
from steelyard.deployment.recovery import parse_checkpoint, parse_recovery, parse_spares
from steelyard.deployment.train_plan import OF_MODELS, TrainPlan, divisors
from steelyard.errors import InputError, Problem
from steelyard.scenario.fields import PRICE, fields_of
from steelyard.scenario.network import NetScenario, read_net_scenario, sets_of
from steelyard.scenario.run_limits import limits_of
from steelyard.scenario.training import TrainScenario, failures_of, length_of, sequences_of
from steelyard.scenario.words import Problems
from steelyard.techniques._base import relabelled
from steelyard.workload.fixed import FixedGraph
from steelyard.workload.model import Model
from steelyard.workload.op import Op

__all__ = ["IMAGENET", "NetTrainScenario", "read_net_training"]

#: Images of the training set of ImageNet-1k. Source: Russakovsky et al., IJCV 2015.
IMAGENET = 1_281_167
#: Formats of products as runtimes of networks call them: weights stay in 32 bits and are cast.
_PRECISIONS = {"bf16": "amp-bf16", "fp16": "amp", "fp32": "fp32", "tf32": "tf32"}
#: Stands for the ops of a network, whose graph is one of tensors.
_NOTHING = Op("network", "t -> t", {"t": 1}, map="copy", reduce="none")


@dataclass(frozen=True, eq=False)
class NetTrainScenario(TrainScenario):
    """Training a network: every device has a copy of it, and a part of the batch."""

    net: NetScenario | None = None

    @property
    def parameters(self) -> float:
        """Of the network."""
        return float(sum(p.graph.parameters for p in self.net.phases)) if self.net else 0.0


def read_net_training(values: Mapping[str, Any], problems: Problems) -> NetTrainScenario:
    """The question that words ask.

    Args:
        values: every field of ``train`` with its value.
        problems: found so far.

    Raises:
        InputError: every problem at once.
    """
    for name in OF_MODELS:
        if values[name] not in (None, "", fields_of("train")[name].default):
            problems.add([Problem(name, "is for language models: a network is copied to every device (gbs, mbs)")])
    if values["precision"] not in _PRECISIONS:
        known = ", ".join(_PRECISIONS)
        why = "no runtime here has backward kernels in fewer bits"
        problems.add([Problem("precision", f"networks are trained in {known}, got {values['precision']}: {why}")])
    if values["techniques"]:
        problems.add([Problem("techniques", "of language models in training; of networks ask estimate with train")])
    framework = problems.read(find_framework, values["framework"] or "transformers")
    optimizer = problems.read(find_optimizer, values["optimizer"])
    sequences = problems.read(sequences_of, values["gbs"], 1)
    sets = problems.read(sets_of, values["set"]) or {}
    fails = problems.read(parse_recovery, values["failures"])
    checkpoint = problems.read(parse_checkpoint, values["checkpoint"])
    samples = IMAGENET if values["epochs"] is not None and values["samples"] in (None, "") else values["samples"]
    length = problems.read(length_of, {**values, "samples": samples, "seq": 1})
    problems.read(limits_of, values)
    problems.done()
    assert framework is not None
    assert optimizer is not None
    assert fails is not None
    assert checkpoint is not None
    words: dict[str, Any] = {"model": values["model"], "on": values["on"], "train": True}
    words |= {"precision": _PRECISIONS[values["precision"]], PRICE: values[PRICE]}
    words |= {n: sets.pop(n) for n in ("runtime", "layout", "size") if n in sets}
    if sets:
        words["set"] = ",".join(f"{n}={v}" for n, v in sets.items())
    try:
        net = read_net_scenario({n: v for n, v in words.items() if v is not None}, problems)
    except InputError as error:
        raise relabelled(error, "train", "on") from None
    cluster, batch = net.cluster, sequences or net.cluster.count * (values["mbs"] or 64)
    if batch % cluster.count:
        near = max(1, round(batch / cluster.count)) * cluster.count
        raise InputError(f"{batch} is no multiple of the {cluster.count} devices; nearest is {near}", field="gbs")
    each = batch // cluster.count
    mbs = values["mbs"] or each
    if each % mbs:
        near = divisors(each, mbs)[-1]
        raise InputError(f"{mbs} does not divide the {each} of a device; nearest is {near}", field="mbs")
    plan = TrainPlan(
        framework=framework,
        optimizer=optimizer,
        precision=values["precision"],
        dp=cluster.count,
        zero=values["zero"] or 0,
        shard=cluster.count,
        mbs=mbs,
        gbs=batch,
        seq=1,
    )
    failures, recovery = fails
    spares = parse_spares(values["spares"], cluster.node_count)
    if spares is not None:
        recovery = replace(recovery, spares=spares)
    model = Model(net.name, FixedGraph(net.name, (_NOTHING,)), net.phases[0].graph.source)
    left = (*(() if sequences else ("gbs",)), *(() if values["mbs"] else ("mbs",)))
    chosen = failures_of(failures, length, values)
    return NetTrainScenario(model, cluster, plan, values, left, length, chosen, recovery, checkpoint, net=net)
