"""A question about a network that is not served token by token: which, where, how it is run, and how many at once."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.cost.net_effect import NetEffect, shared_items
from steelyard.cost.net_stream import Asked, read_folding
from steelyard.cost.net_terms import net_site
from steelyard.deployment.runtime import (
    PRECISIONS,
    Precision,
    Runtime,
    check_runs,
    check_trains,
    find_runtime,
    precision_named,
    runtimes,
    usual_runtime,
)
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.machine.cluster import Cluster, held_to
from steelyard.scenario.devices import read_cluster
from steelyard.scenario.fields import NETWORK, fields_of
from steelyard.scenario.words import Problems, read_value
from steelyard.techniques._base import Technique
from steelyard.techniques._registry import with_techniques
from steelyard.workload.catalogue import find_model
from steelyard.workload.nets import check_nets, is_net, load_net
from steelyard.workload.pipelines import Phase, by_width, find_pipeline, is_pipeline, over_devices, phases_of
from steelyard.workload.tensor_graph import TensorGraph

__all__ = ["NetScenario", "asks_net", "read_net_scenario", "sets_of", "usual_precision"]


#: A name that is no path, repository or file.
_PLAIN = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True, eq=False)
class NetScenario:
    """One question about a network, every choice made."""

    name: str
    """Of the network or pipeline."""
    phases: tuple[Phase, ...]
    cluster: Cluster
    runtime: Runtime
    precision: Precision
    layout: str
    stored: str = ""
    """Precision of a file's own element types, where that is the one asked with."""
    batch: Any = 1
    """Items of a pass; an array over scenarios."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """Every field with its value, as it was given or its default."""

    def effects_of(self, phase: Phase) -> tuple[NetEffect, ...]:
        """What changes the passes of a phase: techniques, and devices that share the steps of a denoiser."""
        if phase.shared is None:
            return tuple(self.effects)
        items = np.asarray(self.batch) * phase.items
        return (*self.effects, shared_items(phase.shared, items, self.cluster.peer_bandwidth_bytes_per_s))

    def with_batches(self, batches: Any) -> NetScenario:
        """The same question for many batches, an array. Raises :class:`InputError`: the graph has one of its own."""
        if all("batch" not in p.graph.symbols for p in self.phases) and np.any(np.asarray(batches) != 1):
            raise InputError("the graph has one batch only, which is part of it: a pass is the item", field="batch")
        return replace(self, batch=batches)

    @property
    def together(self) -> int:
        """Devices that work on one pass."""
        return max(p.devices for p in self.phases)

    @property
    def folding(self) -> tuple[Asked, ...]:
        """Multipliers of the engines of an FPGA, as they were asked for. Raises :class:`InputError`."""
        return read_folding(str(self.words["folding"])) if self.words.get("folding") else ()

    @property
    def techniques(self) -> tuple[Technique, ...]:
        """What was put on it."""
        return tuple(self.words.get("techniques") or ())

    @property
    def effects(self) -> tuple[NetEffect, ...]:
        """What its techniques change of kernels."""
        return tuple(e for technique in self.techniques if (e := technique.network_effect(self)) is not None)

    def __repr__(self) -> str:
        return f"<NetScenario {self.name} on {self.cluster}>"


def asks_net(words: Mapping[str, Any]) -> bool:
    """Whether the words of an estimate ask about a network: its name, its file, a graph or a torch module."""
    model = words.get("model")
    if isinstance(model, TensorGraph):
        return True
    if not isinstance(model, str | Path):
        return _is_module(model)
    name = str(model)
    if _served(name):
        return False
    if is_net(name) or is_pipeline(name):
        return True
    if _PLAIN.fullmatch(name) and not Path(name).exists():
        check_nets()  # a file of the user's that cannot be read may have the name
    return False


def _served(name: str) -> bool:
    """Whether a name is of the catalogue of models that are served, as ``bert-base``: those come first."""
    try:
        find_model(name)
    except InputError:
        return False
    return True


def _is_pipeline(model: Any) -> bool:
    """Whether a model is the name of a pipeline."""
    return isinstance(model, str) and is_pipeline(model)


def _is_module(model: Any) -> bool:
    """Whether it is a module of torch, which is not imported to know."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _phases(values: Mapping[str, Any], sets: Mapping[str, Any]) -> tuple[Phase, ...]:
    """What runs, in order: one pass of a network, or the phases of a pipeline. Raises :class:`InputError`."""
    model = values["model"]
    if _is_pipeline(model):
        if values["train"]:
            raise InputError("training of pipelines is not priced", field="train")
        return phases_of(model, size=values["size"], steps=values["steps"], sets=sets)
    if values["steps"] is not None:
        raise InputError("only of pipelines, such as sdxl, flux.1-dev or net:whisper-small", field="steps")
    return (Phase("step" if values["train"] else "forward", _graph(values, sets)),)


def _graph(values: Mapping[str, Any], sets: Mapping[str, Any]) -> TensorGraph:
    """The network of a question. Raises :class:`InputError`."""
    model = values["model"]
    if isinstance(model, TensorGraph):
        return model
    if not _is_module(model):
        if values["inputs"] is not None:
            raise InputError("only of a torch module; sizes of a network are --size and --set", field="inputs")
        return load_net(model, size=values["size"] or None, sets=sets)
    from steelyard.workload.ingest.torch_trace import trace_given

    if not values["inputs"]:
        raise InputError("expected the tensors of a forward pass, as inputs=(x,)", field="inputs")
    return trace_given(model, values["inputs"])


def read_net_scenario(words: Mapping[str, Any], problems: Problems) -> NetScenario:
    """The question that words ask.

    Raises:
        InputError: every problem at once: unknown and foreign fields, names, sizes, arithmetic the machine lacks.
    """
    known = fields_of("estimate")
    techniques, words = _techniques(words, problems)
    own = [n for n in NETWORK if n in known]
    values: dict[str, Any] = {}
    for name in words:
        if name not in known:
            problems.add([Problem(name, UnknownName("field", name, own).message)])
        elif name not in own and words[name] not in (None, "", (), known[name].default):
            problems.add([Problem(name, "not a field of a network, which is not served token by token")])
    for name in own:
        entry = known[name]
        values[name] = None if entry.default is ... else entry.default
        if name in words and name not in ("model", "techniques"):
            values[name] = problems.read(read_value, entry, words[name])
    values["techniques"] = techniques
    values["model"] = words.get("model")
    cluster = problems.read(read_cluster, values["on"]) if values["on"] else None
    if cluster is not None and values["power_limit_w"] is not None:
        cluster = problems.read(held_to, cluster, values["power_limit_w"])
    if not values["on"]:
        problems.add([Problem("on", "required field is missing (machine: NAME or NAME:COUNT)")])
    sets = problems.read(sets_of, values["set"]) or {}
    runtime = problems.read(find_runtime, values["runtime"]) if values["runtime"] else None
    precision = problems.read(precision_named, values["precision"]) if values["precision"] else None
    problems.done()
    assert cluster is not None
    in_file = str(values["model"]).lower().endswith(".onnx")
    with problems.collect():
        if "batch" in sets:  # which a file may have elsewhere than first, as any other size
            said = read_value(known["batch"], sets["batch"] if in_file else sets.pop("batch"), "set.batch")
            if values["batch"] not in (known["batch"].default, said):
                raise InputError(f"is {said} here and {values['batch']} as batch; give one", field="set.batch")
            values["batch"] = said
    if cluster.unlike:
        kinds = ",".join(dict.fromkeys(m.name for m, _ in cluster.shares))
        raise InputError(f"a network runs on devices of one kind; ask each on its own, --on {kinds}", field="on")
    batch, phases = values["batch"], problems.read(_phases, values, sets)
    piped = _is_pipeline(values["model"])
    machine = cluster.machine
    if in_file and phases:
        usual = phases[0].graph.symbols.get("batch")
        if usual is None and "batch" in sets:  # an extent of the pass, which is then the item
            batch = known["batch"].default
        elif usual is not None and batch == known["batch"].default:  # the file may call it by another name
            batch = usual
    runtime = runtime or usual_runtime(machine, onnx=in_file)
    check_runs(runtime, machine)
    if values["folding"]:
        problems.read(read_folding, str(values["folding"]))
        if runtime.streaming is None:
            able = ", ".join(r.name for r in runtimes().values() if r.streaming is not None)
            problems.add(
                [Problem("folding", f"only of engines of an FPGA, which {able} make; here runs {runtime.name}")]
            )
    if values["train"]:
        problems.read(check_trains, runtime, machine)
    stored = ""
    if precision is None:
        stored = _stored(phases or (), in_file and runtime.as_stored and not usual_runtime(machine).families)
        precision = usual_precision(cluster, "bf16" if piped else stored or runtime.precision)
    elif problems.read(net_site, machine, precision) is None:
        able = ", ".join(p for p in PRECISIONS if _able(cluster, PRECISIONS[p]))
        raise InputError(f"{machine.name} has no arithmetic for {precision.name}; it has {able}", field="precision")
    problems.add(_sharing_problems(values, cluster.count, any(p.stepped for p in phases or ())))
    problems.done()
    assert phases is not None
    phases = tuple(_shared(p, values) if p.stepped else p for p in phases)
    layout = values["layout"] or runtime.layout
    name = find_pipeline(values["model"]).name if piped else phases[0].graph.name
    stored = stored if stored == precision.name else ""
    found = NetScenario(name, phases, cluster, runtime, precision, layout, stored, batch, values).with_batches(batch)
    raise_all([p for technique in techniques for p in technique.network_problems(found)])
    for technique in sorted(techniques, key=lambda t: t.mechanism or t.name):
        found = technique.network(found)
    return found


def _sharing_problems(values: Mapping[str, Any], count: int, piped: bool) -> list[Problem]:
    """What is wrong with the devices that work on one item."""
    by_width, by_tokens, ring = values["tp"] or 1, values["cp"], values["ring"] or 1
    for name, degree in (("tp", by_width), ("cp", by_tokens)):
        if degree > 1 and not piped:
            return [Problem(name, "only steps of a diffusion pipeline are shared by several devices")]
        if count % degree:
            return [Problem(name, f"expected a divisor of the {count} devices of --on, got {degree}")]
    if by_width > 1 and by_tokens > 1:
        return [Problem("tp", "expected one of --tp and --cp: an item is cut by its width or by its tokens")]
    if by_tokens % ring:
        return [Problem("ring", f"expected a divisor of the {by_tokens} devices that share an item (--cp), got {ring}")]
    return []


def _shared(phase: Phase, values: Mapping[str, Any]) -> Phase:
    """A phase of steps with the devices that work on it."""
    if values["cp"] > 1:
        return over_devices(phase, values["cp"], values["ring"] or 1)
    return by_width(phase, values["tp"]) if (values["tp"] or 1) > 1 else phase


def _techniques(words: Mapping[str, Any], problems: Problems) -> tuple[tuple[Technique, ...], dict[str, Any]]:
    """Techniques of a network, and the words with those that they set."""
    defaults = {name: field.default for name, field in fields_of("estimate").items()}
    merged, found = with_techniques("estimate", words, defaults)
    problems.add(found)
    techniques = merged.pop("techniques", ())
    served = [technique for technique in techniques if not technique.of_networks]
    for technique in served:
        problems.add([Problem(technique.name, "it is of models that are served token by token, not of networks")])
    return techniques, {n: v for n, v in words.items() if n != "techniques"} if served else merged


def _able(cluster: Cluster, precision: Precision) -> bool:
    try:
        net_site(cluster.machine, precision)
    except InputError:
        return False
    return True


def usual_precision(cluster: Cluster, usual: str) -> Precision:
    """The usual precision, or the next one that the machine computes in."""
    wanted = (usual, "fp16", "bf16", "int8", "int16", "fp32")
    return PRECISIONS[next((p for p in wanted if _able(cluster, PRECISIONS[p])), "fp32")]


#: The precision that element types of activations ask for.
_OF_TYPE: Mapping[str, str] = {"i8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp32"}


def _stored(phases: Iterable[Phase], floats: bool) -> str:
    """The precision of most products' activations; of floats only where the runtime keeps them, else empty."""
    read = [(p.graph.tensors, n.inputs[0]) for p in phases for n in p.graph.nodes if n.kind.group == "product"]
    count = Counter(_OF_TYPE.get(tensors[i].dtype, "") for tensors, i in read)
    most = max(count, key=count.__getitem__, default="")
    return most if floats or most == "int8" else ""


def sets_of(text: str) -> dict[str, str]:
    """``batch=1,tokens=128`` as sizes and parameters by name. Raises :class:`InputError`."""
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        name, equals, value = (x.strip() for x in part.partition("="))
        if not equals or not name or not value:
            raise InputError(f"expected NAME=VALUE, such as batch=1, got {show(part)}", field="set")
        if name in found:
            raise InputError(f"{show(name)} is given twice, {show(found[name])} and {show(value)}", field="set")
        found[name] = value
    return found
