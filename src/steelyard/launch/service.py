"""What the launch files need of a deployment, worked out once: pools with their engine's settings, names, sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.engine import Engine, default_engine, engines, find_engine
from steelyard.deployment.engine_config import EngineConfig, engine_config
from steelyard.deployment.formats import find_format
from steelyard.deployment.plan import Plan
from steelyard.documents import is_file, is_folder
from steelyard.errors import InputError, Problem, raise_all
from steelyard.launch.command import Flags
from steelyard.machine.catalogue import catalogue_difference, machine_names
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.units import format_quantity as q
from steelyard.workload.catalogue import Model, load_model

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target

__all__ = ["PORT", "Load", "Service", "Unit", "not_a_flag", "service"]

#: The port every server listens on inside its container or host.
PORT = 8000
#: Longest request is rounded up to a multiple of this many tokens, and at least one is added: chat templates, BOS.
_ROUND_TOKENS = 256
#: The folder's other file in TOML, and names no file of Windows has.
_TAKEN = ("plan", "con", "prn", "aux", "nul")


@dataclass(frozen=True, slots=True)
class Load:
    """The traffic a deployment was planned for.

    Args:
        rate_per_s: requests per second; NaN with ``concurrency``.
        prompt_tokens, output_tokens: means of a request.
        longest_tokens: prompt and output of the longest request; 0 = both means.
        prompt_std, output_std: their standard deviations, tokens.
        requests: requests of a load test.
        in_flight: requests being served at once at the planned rate, mean over all replicas; 0 = unknown.
        words: the traffic in words.
        seed: of the arrivals.
        trace: a file the requests came from, when it can be sent again.
        concurrency: clients that wait for their answers; 0 = requests come at the rate.
        shown: most images (``image``) and sounds (``audio``) of a request, whose tokens are part of its prompt.
    """

    rate_per_s: float
    prompt_tokens: float
    output_tokens: float
    longest_tokens: int = 0
    prompt_std: float = 0.0
    output_std: float = 0.0
    requests: int = 1000
    in_flight: float = 0.0
    words: str = ""
    seed: int = 0
    trace: str = ""
    concurrency: int = 0
    shown: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """One pool, ready to be written."""

    name: str
    """``server``, ``prefill``, ``decode``, with the machine behind when several pools share a role."""
    pool: Pool
    plan: Plan
    """Every format named."""
    cluster: Cluster
    engine: Engine
    flags: Flags
    config: EngineConfig
    longest_tokens: int
    in_flight: float
    """Requests in one replica at the planned rate, 0 = unknown."""

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.plan.devices

    @property
    def nodes(self) -> int:
        """Nodes one replica spans."""
        return math.ceil(self.devices / self.per_node)

    @property
    def per_node(self) -> int:
        """Devices of one node of this machine."""
        return max(1, self.cluster.per_node)

    @property
    def node_devices(self) -> int:
        """Devices of a replica on one of its nodes."""
        return math.ceil(self.devices / self.nodes)

    @property
    def accelerator(self) -> str:
        """``nvidia``, ``amd``, ``habana``, ... or ``cpu`` where nothing is to be reserved."""
        machine = self.cluster.machine
        if machine.name.startswith("gaudi"):
            return "habana"
        if machine.kind in ("cpu", "soc", "mcu") or machine.launch in ("cpu", "metal"):
            return "cpu"
        return machine.vendor.lower().split()[0]

    @property
    def own_file(self) -> str:
        """Name of the file beside the others that describes the machine; empty where the catalogue has it."""
        machine = self.cluster.machine
        if machine.name in machine_names() and not catalogue_difference(machine):
            return ""
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", machine.name)[:60].lstrip("-") or "machine"
        return f"{'machine_' if name.lower() in _TAKEN else ''}{name}.toml"

    @property
    def image(self) -> str:
        """The container image, empty when none is published for this accelerator."""
        return self.flags.image.get(self.accelerator, "")

    @property
    def disaggregated(self) -> bool:
        """Whether it does only a part of each request."""
        return self.pool.role in ("prefill", "decode")


@dataclass(frozen=True)
class Service:
    """A deployment with everything its files say."""

    deployment: Deployment
    load: Load
    targets: tuple[Target, ...]
    model: Model
    repository: str
    """Hugging Face repository, or the path that was given."""
    slug: str
    """The model's name as DNS allows it."""
    units: tuple[Unit, ...]
    notes: tuple[str, ...]
    """What has to be done by hand, in words."""
    odds: str = ""
    """How likely the SLOs hold, in words, where a plan says it."""

    @property
    def local(self) -> bool:
        """Whether the model is a path on this computer."""
        return is_file(self.repository) or is_folder(self.repository)

    @property
    def served(self) -> str:
        """The name the servers answer to: the repository; the slug where guidellm would end it at a comma."""
        return self.slug if "," in self.repository else self.repository

    @property
    def slos(self) -> list[str]:
        """The SLOs in words, one each."""
        return [f"{t.metric.removesuffix('_s').upper()} {t.label} at most {q(t.limit_s, 's')}" for t in self.targets]

    @property
    def about(self) -> list[str]:
        """The first lines of every file: the model, the SLOs, and where the engines' flags were read."""
        sources = sorted({f"Flags: {u.flags.source}." for u in self.units})
        return [f"{self.repository}: {'; '.join(self.slos) or 'no SLO'}.", *sources]

    @property
    def by_trtllm(self) -> bool:
        """Whether `trtllm-serve disaggregated` is its router."""
        return self.deployment.disaggregated and self.units[0].flags.name == "trtllm"

    @property
    def volume_gib(self) -> int:
        """Room for the weights on a volume."""
        return math.ceil(1.2 * self.weight_bytes / 2**30) + 10

    @property
    def weight_bytes(self) -> float:
        """Bytes of the published weights."""
        if self.model.weight_bytes is not None:
            return float(self.model.weight_bytes)
        stored = find_format(self.model.transformer.native_weights).stored_bits / 8
        towers = sum(tower.bytes_on() for tower in self.model.transformer.towers)
        return float(self.model.transformer.parameters()) * stored + towers

    @property
    def replicas(self) -> int:
        """Replicas of all pools."""
        return sum(u.pool.replicas for u in self.units)

    def of_role(self, *roles: str) -> tuple[Unit, ...]:
        """The pools that have one of the roles."""
        return tuple(u for u in self.units if u.pool.role in roles)


def service(
    deployment: Deployment,
    load: Load,
    targets: Sequence[Target] = (),
    *,
    model: Model | None = None,
    odds: str = "",
    unlaunched: Sequence[str] = (),
) -> Service:
    """Work out names, engine settings and sizes.

    Args:
        deployment: what is to run.
        load: the traffic it was planned for.
        targets: the SLOs.
        model: loaded already; otherwise looked up by its name.
        odds: how likely the SLOs hold, in words.
        unlaunched: what was planned with and no flag of an engine turns on.

    Raises:
        InputError: unknown names, flags, engines no launch files are written for; all problems at once.
    """
    loaded = load_model(deployment.model) if model is None else model
    problems: list[Problem] = []
    notes = [f"planned with {name}, which no flag turns on: what these files start lacks it" for name in unlaunched]
    units = []
    share = _shares(deployment, load)
    for index in range(len(deployment.pools)):
        try:
            units.append(_unit(deployment, index, loaded, load, share[index]))
        except InputError as error:
            problems += [Problem(f"pools[{index}].{p.field}", p.message) for p in error.problems]
    raise_all(problems)
    repository = _repository(deployment.model, loaded)
    if "," in repository:
        notes.append("guidellm cannot be given a path with a comma: name a link to it in MODEL for check-guidellm.sh")
    for unit in units:
        notes += [note for note in _by_hand(unit, loaded, repository) if note not in notes]
    names = repository, _slug(repository)
    return Service(deployment, load, tuple(targets), loaded, *names, tuple(units), tuple(notes), odds)


def _unit(deployment: Deployment, index: int, model: Model, load: Load, in_flight: float) -> Unit:
    pool = deployment.pools[index]
    cluster = cluster_of(pool.device, pool.plan.devices)
    engine = find_engine(pool.plan.engine) if pool.plan.engine else default_engine(cluster.machine)
    if not engine.commands:
        known = ", ".join(sorted({e.commands for e in engines().values() if e.commands}))
        raise InputError(f"no launch files are written for {engine.title}; for {known}", field="plan.engine")
    config = engine_config(engine, cluster.machine, dict(pool.flags), model.transformer)
    longest = load.longest_tokens or math.ceil(load.prompt_tokens + load.output_tokens)
    room = config.max_model_len or _longest(longest, model)
    plan = pool.plan.resolved(model.transformer, cluster.machine)
    alike = [p for p in deployment.pools if p.role == pool.role]
    base = "server" if pool.role == "both" else pool.role
    name = base if len(alike) == 1 else f"{base}-{_slug(cluster.machine.name)}"
    twins = [p for p in alike if p.machine == pool.machine]
    if len(twins) > 1:
        name += f"-{twins.index(pool) + 1}"
    return Unit(name, pool, plan, cluster, engine, Flags.of(engine.commands), config, room, in_flight)


def _longest(tokens: int, model: Model) -> int:
    """Room for the longest request: the next multiple of 256 above it, at most the model's own context."""
    room = (tokens // _ROUND_TOKENS + 1) * _ROUND_TOKENS
    context = model.entry.context if model.entry is not None else 0
    return min(room, max(context, tokens)) if context else room


def _shares(deployment: Deployment, load: Load) -> list[float]:
    """Requests in flight in one replica of each pool, when the total is known: by devices among equal roles."""
    found = []
    for pool in deployment.pools:
        alike = sum(p.devices for p in deployment.pools if p.role == pool.role)
        found.append(load.in_flight * pool.devices / alike / pool.replicas if load.in_flight else 0.0)
    return found


def _repository(name: str, model: Model) -> str:
    """What the engine is told to load: the path given, the repository named, or the catalogue's."""
    if is_file(name) or is_folder(name):
        return not_a_flag(name)
    if "/" in name:
        return name
    return model.entry.id if model.entry is not None else name


def not_a_flag(name: str) -> str:
    """A path as an argument: ``./--name`` where a program would take it for a flag."""
    return f"./{name}" if name.startswith("-") else name


def _slug(text: str) -> str:
    """A DNS label of at most 40 characters."""
    made = re.sub(r"[^a-z0-9]+", "-", text.rsplit("/", 1)[-1].lower()).strip("-")[:40].strip("-")
    return made if made and made[0].isalpha() else f"m-{made or 'model'}".rstrip("-")


def _by_hand(unit: Unit, model: Model, repository: str) -> list[str]:
    """What no flag can do: a checkpoint in another format, an image nobody publishes."""
    found = []
    native, wanted = find_format(model.transformer.native_weights).name, unit.plan.weights
    if unit.flags.name == "llamacpp":
        found.append(f"llama.cpp reads GGUF: convert or download {repository} as {wanted} and name the file in MODEL")
    elif wanted != native and not _online(unit.flags.name, native, wanted):
        found.append(
            f"the plan has {wanted} weights, {repository} is published in {native}: name a checkpoint in {wanted} "
            "in MODEL (or quantise this one)"
        )
    if not unit.image and unit.accelerator != "cpu":
        found.append(f"no image of {unit.flags.title} is listed for {unit.cluster.machine.vendor}: set IMAGE")
    return found


#: Weight formats an engine makes itself from 16-bit weights while it loads them, with the word it has for it.
_QUANTISES = {
    "vllm": {
        "fp8": "fp8",
        "fp8_block": "fp8_per_block",
        "int8_weight_only": "int8_per_channel_weight_only",
        "nf4": "bitsandbytes",
        "mxfp8": "mxfp8",
    },
    "sglang": {"fp8": "fp8", "nf4": "bitsandbytes", "mxfp8": "mxfp8"},
}


def _online(commands: str, native: str, wanted: str) -> str:
    """The engine's word for making ``wanted`` weights of ``native`` ones as it loads; empty when it cannot."""
    return _QUANTISES.get(commands, {}).get(wanted, "") if native in ("bf16", "fp16", "fp32") else ""


def quantisation(unit: Unit, native: str) -> str:
    """The word of ``--quantization`` this pool needs; empty = the checkpoint says it."""
    return "" if unit.plan.weights == native else _online(unit.flags.name, native, unit.plan.weights)
