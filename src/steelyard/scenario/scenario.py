"""A scenario: one question with every choice made, and the checks that it can be answered."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cost.step import Replica
from steelyard.deployment.anchor import anchored, find_anchor
from steelyard.deployment.deployment import Deployment, Pool
from steelyard.deployment.engine import Engine, default_engine, find_engine
from steelyard.deployment.engine_choice import check_engine, engine_for
from steelyard.deployment.engine_config import configured, engine_config
from steelyard.deployment.engine_host import on_host
from steelyard.deployment.formats import find_format
from steelyard.deployment.offload import parse_offload
from steelyard.deployment.plan import DEGREES, Plan
from steelyard.deployment.sharding import check_sharding, fill_degrees
from steelyard.errors import InputError, Problem, UnknownName, complete, raise_all
from steelyard.machine.cluster import Cluster, parse_cluster, with_network
from steelyard.machine.component import Machine
from steelyard.machine.host import find_host, usual_host
from steelyard.scenario.devices import read_cluster, takes
from steelyard.scenario.fields import ALONE, GROUPS, STATIC_FLAGS
from steelyard.scenario.load import read_trace, with_load
from steelyard.scenario.parse import engine_and_scheduler, parse_pools, read_pools
from steelyard.scenario.recipes import told
from steelyard.scenario.shown import read_shown, with_shown
from steelyard.scenario.slo import Target, parse_targets
from steelyard.scenario.words import Problems, read_words, respelled
from steelyard.techniques._base import Technique, effects_of, engine_of, machine_of, relabelled
from steelyard.workload.catalogue import Model, load_model
from steelyard.workload.protocol import Workload, encoder_type, ends_hard, not_served, within_positions
from steelyard.workload.reading import Seen, loaded_for

if TYPE_CHECKING:
    from steelyard.traffic.trace import Trace

__all__ = [
    "FORMATS",
    "Scenario",
    "check",
    "check_name",
    "of_networks_alone",
    "place",
    "read_cluster",
    "read_model",
    "read_scenario",
    "read_trace",
]

#: Number formats of a question.
FORMATS = ("weights", "activations", "kv", "communication")


@complete
@dataclass(frozen=True, eq=False, repr=False)
class Scenario:
    """One question, every choice made: model, devices, plan, engine, and a static batch or traffic."""

    model: Model
    cluster: Cluster
    plan: Plan
    """Of one engine, every format named; ``deployment`` has the pools of a simulation."""
    engine: Engine
    batch: int = 1
    isl: int = 1
    osl: int = 1
    skew: float = 0.0
    usd_per_hour: float | None = None
    """Price per device and hour; None = the catalogue's."""
    verb: str = "estimate"
    words: Mapping[str, Any] = field(default_factory=dict)
    """Every field of the verb with its value, as it was given or its default; see :mod:`steelyard.scenario.fields`."""
    deployment: Deployment | None = None
    """Pools and router of a simulation."""
    clusters: tuple[Cluster, ...] = ()
    """The devices of each pool's replicas."""
    trace: Trace | None = None
    """The traffic of a simulation."""
    slo: tuple[Target, ...] = ()
    techniques: tuple[Technique, ...] = ()
    """What is put on it; ``words`` holds the fields that they set."""
    seen: tuple[Seen, ...] = ()
    """Images and sounds of each request, and the towers that read them."""

    def __repr__(self) -> str:
        return f"<Scenario {self.verb} {self.model.name} on {self.cluster}>"

    @classmethod
    @complete
    def of(cls, verb: str, /, *names: Any, **words: Any) -> Scenario:
        """Read a scenario from words.

        Args:
            verb: ``estimate`` or ``simulate``.
            names: model and machine, as names or objects.
            words: the other fields of the verb.

        Raises:
            InputError: every problem at once: unknown and missing fields, wrong types, unknown names, values out of
                bounds.
        """
        if verb not in ("estimate", "simulate"):
            raise InputError(f"expected estimate or simulate, got {verb!r}", field="verb")
        problems = Problems()
        given = {**dict(zip(("model", "on"), names, strict=False)), **words}
        if len(names) > 2:
            problems.add([Problem("", f"expected model and machine, got {len(names)} values without a name")])
        return read_scenario(verb, given, problems)

    @property
    def transformer(self) -> Workload:
        """The model's shapes."""
        return self.model.transformer

    def routed(self, exponent: float) -> Scenario:
        """The scenario with experts chosen by a power law of this exponent."""
        return replace(self, skew=exponent)

    @property
    def replica(self) -> Replica:
        """What prices its steps."""
        effects = effects_of(self.techniques)
        return Replica(self.transformer, self.plan, self.cluster, self.engine, self.skew, effects=effects)

    @property
    def request_s(self) -> float:
        """The engine's own time of a request before its first step, s; with a step over the last tokens of its prompt
        alone, where the engine computes them apart to come back to a state or window. Counted ops serve no request."""
        if self.transformer.model_type == "ops":
            return 0.0
        last, model = self.engine.checkpoint_tokens, self.transformer
        if not last or not model.causal or not (model.state_bytes or getattr(model, "window", 0)):
            return self.engine.request_s
        return self.engine.request_s + float(self.replica.prompts(np.ones(1), np.array([last])).time_s[0])

    @property
    def sizes(self) -> tuple[Any, Any, Any]:
        """Batch, prompt tokens and answer tokens; of many scenarios at once arrays ``[n]``."""
        return self.batch, self.isl, self.osl

    def sized(self, batch: Any, isl: Any, osl: Any) -> Scenario:
        """The same question for another batch and other lengths; arrays ``[n]`` ask for many scenarios at once."""
        sizes = {"batch": batch, "isl": isl, "osl": osl}
        return replace(self, **sizes, words={**self.words, **sizes})

    @property
    def seen_tokens(self) -> int:
        """Tokens of the images and sounds of a request (of a mixture their mean)."""
        return round(sum(s.tokens * s.shown.count for s in self.seen))

    @property
    def prompt(self) -> Any:
        """Tokens of a whole prompt: text, images and sounds."""
        return self.isl + self.seen_tokens

    @property
    def mean_context(self) -> Any:
        """Tokens a sequence's cache holds in the middle of its answer, for a step of mean length."""
        return self.prompt + np.maximum(1, self.osl // 2)

    @property
    def held_tokens(self) -> Any:
        """Tokens of cache that each sequence takes: its own, or its part of a context that is allotted at the start."""
        whole = self.words.get("max_model_len") if self.engine.commands == "llamacpp" else None
        length = self.prompt + self.osl
        return np.maximum(length, -(-whole // self.replica_batch)) if whole else length

    @property
    def exact_weight_bytes(self) -> float | None:
        """Bytes of the real files, unless the plan stores the weights in another format."""
        return self.model.weight_bytes if self.plan.stores(self.transformer.native_weights) else None

    @property
    def replica_batch(self) -> int:
        """Requests one replica holds."""
        return -(-self.batch // self.plan.dp)

    def value(self, name: str) -> Any:
        """The value of a field with every choice made: formats and degrees of the plan, the engine's name."""
        if name in FORMATS or name in DEGREES:
            return getattr(self.plan, name)
        if name == "engine":
            return self.engine.name
        if name == "techniques":
            return " + ".join(map(str, self.techniques))
        return getattr(self, name) if hasattr(self, name) else self.words[name]

    @property
    def asked(self) -> tuple[str, str]:
        """Model and machine as the user named them, so that the question can be asked again; empty for objects."""
        names = (self.words.get("model", ""), self.words.get("on", ""))
        return tuple(name if isinstance(name, str) else "" for name in names)  # type: ignore[return-value]


def of_networks_alone(words: Mapping[str, Any], model: Any) -> list[Problem]:
    """A problem for each word that only networks have, of a model that is served token by token."""
    if not (foreign := [n for n in ALONE if words.get(n) not in (None, "", False)]):
        return []
    from steelyard.workload.nets import is_net
    from steelyard.workload.pipelines import is_pipeline

    name = (model if isinstance(model, str) else getattr(model, "name", "")) or "a model of your own"
    also = isinstance(model, str) and (is_net(f"net:{model}") or is_pipeline(model))
    wider = f"; as a network it is net:{model}" if also else ""
    told = f"only of networks (resnet50, model.onnx), and {name} is served token by token{wider}"
    return [Problem(n, told) for n in foreign]


def read_scenario(verb: str, words: Mapping[str, Any], problems: Problems) -> Scenario:
    """The scenario of an estimate or a simulation from the words given.

    Raises:
        InputError: with ``problems`` and every one found here.
    """
    values = read_words(verb, words, problems)
    problems.add(of_networks_alone(values, values["model"]))
    slo: tuple[Target, ...] = ()
    trace = None
    if verb == "simulate":
        slo = problems.read(parse_targets, values) or ()
        problems.read(engine_and_scheduler, values["engine"])
        if values["disaggregate"]:
            given = None if values["on"] is None else Problems().read(read_cluster, values["on"])  # place() tells why
            problems.read(read_pools, values["disaggregate"], given and given.machine)
        trace = problems.read(read_trace, with_load(values, problems))
    scenario = place(verb, values, problems)
    if verb == "estimate":
        sizes = {name: values[name] for name in GROUPS["batch"]}
        if not scenario.seen and all(isinstance(size, int) for size in sizes.values()):
            named, (_, *names) = respelled(verb, words, Problems()), sizes
            kept = [named.get(name) is not None for name in names]
            found = within_positions(scenario.transformer, [sizes[name] for name in names], kept)
            shorter = {n: size for n, size in zip(names, found, strict=True) if size != sizes[n]}
            return replace(scenario, **{**sizes, **shorter}, words={**scenario.words, **dict.fromkeys(shorter)})
        return replace(scenario, **sizes)
    if why := not_served(scenario.transformer):
        raise InputError(why, field="model")
    if scenario.seen and (values["best_of"] or values["beam"]):
        raise InputError("images and sounds are modelled for one answer per prompt", field=scenario.seen[0].shown.field)
    assert trace is not None
    if values["recipe"]:
        trace = replace(trace, notes=(told(values), *trace.notes))
    return _deployed(replace(scenario, trace=with_shown(trace, scenario.seen, values["seed"]), slo=slo))


def place(verb: str, values: Mapping[str, Any], problems: Problems) -> Scenario:
    """Model, devices, plan and engine: the part of a scenario that does not depend on its load.

    Raises:
        InputError: with ``problems`` and every unknown name or degree that cannot be.
    """
    for name in FORMATS:
        problems.read(check_name, name, values[name])
    scheduler = ""
    engine_name = values["engine"]
    with problems.collect():
        if verb == "estimate":
            check_name("engine", engine_name)
        else:
            engine_name, scheduler = engine_and_scheduler(engine_name)
    cluster = None if values["on"] is None else problems.read(read_cluster, values["on"])
    if cluster is not None and values.get("flags") and "engine" not in [p.field for p in problems.found]:
        problems.read(_flags, values["flags"], engine_name, scheduler, cluster)
    model = None if values["model"] is None else problems.read(read_model, values["model"], values["generic"])
    problems.done()
    assert cluster is not None and model is not None
    cluster = replace(cluster, machine=machine_of(values["techniques"], cluster.machine))
    if not engine_name and not scheduler and not values.get("flags"):
        engine_name = _placing(values, model, cluster.machine)
    engine, values = _engine(engine_name, model, cluster.machine, values)
    if engine.name != default_engine(cluster.machine).name:
        engine_name = engine.name
    static = {name: values[name] for name in STATIC_FLAGS if values.get(name) is not None}
    engine = problems.read(configured, engine, cluster.machine, static, model.transformer) or engine
    engine = on_host(engine, cluster.machine)
    engine = anchored(engine, problems.read(find_anchor, values["anchor"]), cluster.machine, model.transformer.name)
    engine = engine_of(values["techniques"], engine, cluster.machine)
    values = {**values, "offload": problems.read(_offload, values, engine, model.transformer) or ""}
    if values.get("host"):
        problems.read(find_host, values["host"])
    if values.get("network"):
        if cluster.node_count == 1 and not values.get("disaggregate"):
            words = f"joins nodes, and {cluster.count} of {cluster.machine.name} stand in one"
            problems.add([Problem("network", words)])
        cluster = problems.read(with_network, cluster, values["network"]) or cluster
    if values["offload"] and not problems.found:
        cluster = replace(cluster, host=problems.read(_host, values, cluster))
        if cluster.unlike:
            problems.add([Problem("offload", "priced for one kind of device, not for several")])
    seen = problems.read(read_shown, verb, values, model) or ()
    problems.done()
    model = replace(model, transformer=loaded_for(model.transformer, seen))
    given = {f.name: values[f.name] for f in fields(Plan) if values.get(f.name) is not None}
    degrees = fill_degrees(model.transformer, cluster, values, splits_layers=engine.splits_layers)
    plan = Plan(**{**given, **degrees, "engine": engine_name})
    if scheduler:
        values = {**values, "flags": {"scheduler": scheduler, **(values["flags"] or {})}}
    resolved = plan.resolved(model.transformer, cluster.machine)
    scenario = Scenario(
        model,
        cluster,
        resolved,
        engine,
        skew=values["skew"],
        usd_per_hour=values["usd_per_hour"],
        verb=verb,
        words=values,
        techniques=values["techniques"],
        seen=seen,
    )
    raise_all([p for technique in scenario.techniques for p in technique.applies(scenario)])
    for technique in scenario.techniques:
        scenario = technique.scenario(scenario)
    return scenario


def _engine(named: str, model: Model, machine: Machine, values: Mapping[str, Any]) -> tuple[Engine, Mapping[str, Any]]:
    """The engine of a question, and its words with the format that engine has the model in unless asked otherwise.

    Raises:
        InputError: it does not run there, or cannot read or keep a format.
    """
    weights, native = values["weights"] or "", model.transformer.native_weights
    files, kind = "" if weights else model.engine, encoder_type(model.transformer)
    engine = engine_for(machine, named, weights, files, native, encoder=kind, method=model.method)
    if not weights and not files and model.weight_bytes is None:
        weights = engine.converts.get(find_format(native).base, "")
        values = {**values, "weights": weights}
    elif weights and (own := engine.means.get(find_format(weights).name)):
        weights = own
        values = {**values, "weights": weights}
    method, kept = "" if weights else model.method, values["kv"] or ""
    check_engine(engine, machine, weights or native, kept, files, encoder=kind, method=method, named=bool(named))
    return engine, values


def _placing(values: Mapping[str, Any], model: Model, machine: Machine) -> str:
    """llama.cpp, whose way it is to place layers or experts, where no engine is named and it can; else none."""
    with suppress(InputError):
        if parse_offload(values.get("offload") or "").places and model.engine in ("", "llamacpp"):
            native = values["weights"] or model.transformer.native_weights
            check_engine(engine_for(machine, "llamacpp"), machine, native, values["kv"] or "")
            return "llamacpp"
    return ""


def _offload(values: Mapping[str, Any], engine: Engine, model: Workload) -> str:
    """The words about weights in host memory as a plan has them, with what the engine does with these.

    Raises:
        InputError: they cannot be read.
    """
    usual = engine.usual_offload if model.experts else ""
    asked = parse_offload(values.get("offload") or usual).of(model.depth)
    if asked.experts and not model.experts:
        words = f"{model.name} has no experts; layers:N keeps so many layers on the devices"
        raise InputError(words, field="offload")
    if not str(asked):
        return ""
    use = "streamed" if not engine.host_computes else "either" if engine.stream_tokens else "computed"
    return str(replace(asked, use=asked.use or use))


def _host(values: Mapping[str, Any], cluster: Cluster) -> Machine:
    """The processor and memory where weights lie. Raises :class:`InputError`."""
    return find_host(values.get("host") or usual_host(cluster.machine))


def _flags(flags: Mapping[str, Any], engine_name: str, scheduler: str, cluster: Cluster) -> None:
    """Refuse flags that the engine does not have, or values it does not take. Raises :class:`InputError`."""
    engine = find_engine(engine_name) if engine_name else default_engine(cluster.machine)
    engine_config(engine, cluster.machine, {**({"scheduler": scheduler} if scheduler else {}), **flags})


def read_model(model: str | Model, generic: bool) -> Model:
    """The model meant. Raises :class:`InputError`."""
    if isinstance(model, Model):
        return model
    if not model.strip():
        raise InputError("expected a name or a path", field="model")
    try:
        return load_model(model, generic=generic)
    except UnknownName:
        if takes(parse_cluster, model):
            raise InputError(f"{model!r} is a machine; expected a model, which comes first", field="model") from None
        raise
    except InputError as error:
        raise relabelled(error, "file", "model") from None


def check_name(field_name: str, name: str) -> None:
    """Refuse an unknown format or engine under the field's name; empty is known. Raises :class:`InputError`."""
    if not name:
        return
    try:
        find_engine(name) if field_name == "engine" else find_format(name)
    except InputError as error:
        raise InputError(error.message, field=field_name) from None


def _deployed(scenario: Scenario) -> Scenario:
    """A simulation's scenario with its pools. Raises :class:`InputError`."""
    values, cluster = scenario.words, scenario.cluster
    if cluster.unlike and (values["disaggregate"] or scenario.techniques or values["replicas"] > 1):
        words = "devices of several kinds are one replica: no further ones, no pools, no techniques"
        raise InputError(words, field="on")
    model, copies, flags = scenario.model, values["replicas"], dict(values["flags"] or {})
    given = {f.name: values[f.name] for f in fields(Plan) if values.get(f.name) is not None}
    plan = replace(Plan(**given), engine=scenario.plan.engine, offload=scenario.plan.offload)
    if scenario.techniques and plan.resolved(model.transformer, cluster.machine).weights != scenario.plan.weights:
        plan = replace(plan, weights=scenario.plan.weights, activations=scenario.plan.activations)
    copies = max([copies, *(technique.replicas() for technique in scenario.techniques)])
    if values["disaggregate"]:
        if scenario.plan.offload:
            raise InputError("weights in host memory are priced for one pool, without --disaggregate", field="offload")
        pools, clusters = parse_pools(values["disaggregate"], cluster, plan, flags, copies)
        for where in clusters if plan.engine else ():
            check_engine(find_engine(plan.engine), where.machine)
    else:
        plan = Plan(**{**asdict(plan), **scenario.plan.degrees})
        if plan.devices != cluster.count:  # with what else is wrong with the degrees
            check(scenario)
        pool = Pool(cluster.machine.name, plan, copies, "both", flags, description=cluster.machine)
        pools, clusters = (pool,), (cluster,)
    roles, problems = {p.role for p in pools}, []
    if "encode" not in roles:
        words = "encoders need a pool E of their own, such as disaggregate 1E:tp1,1M:tp1"
        said = {"encode_s": values["encode_s"] is not None, "encode_spread": values["encode_spread"] > 1}
        problems += [Problem(name, words) for name, given in said.items() if given]
    if values["transfer_overlap"] and not {"prefill", "decode"} <= roles:
        words = "caches are sent between pools P and D, such as disaggregate 1P:tp1,1D:tp1"
        problems.append(Problem("transfer_overlap", words))
    raise_all(problems)
    name = values["model"] if isinstance(values["model"], str) else model.transformer.name
    return replace(scenario, deployment=Deployment(name, pools, values["router"]), clusters=clusters)


def check(scenario: Scenario) -> None:
    """Refuse what cannot run, all problems at once. Raises :class:`InputError`."""
    problems: list[Problem] = []
    model, plan, cluster = scenario.transformer, scenario.plan, scenario.cluster
    if plan.devices != cluster.count:
        given = f"tp x pp x dp x cp = {plan.tp} x {plan.pp} x {plan.dp} x {plan.cp} = {plan.devices}"
        named = f"; so many are {cluster.machine.name}:{plan.devices}" if cluster.count == 1 else ""
        problems.append(Problem("devices", f"{given} devices, but {cluster} has {cluster.count}{named}"))
    if cluster.unlike and plan.pp != plan.devices:
        problems.append(
            Problem("devices", f"unlike devices share layers: expected pp {cluster.count} and no other degree")
        )
    length, what = scenario.prompt + scenario.osl, "isl + osl"
    if not model.causal:
        length, what = scenario.prompt, "isl"
    if scenario.seen:
        what += f" + {scenario.seen_tokens} of images and sound"
    limit, most = scenario.words.get("max_model_len"), scenario.words.get("max_num_seqs")
    if limit and length > limit:
        problems.append(Problem("isl", f"{what} = {length} tokens exceeds max_model_len, {limit}"))
    if most and scenario.replica_batch > most:
        words = f"{scenario.replica_batch} requests of a replica, but max_num_seqs is {most}: the rest would wait"
        problems.append(Problem("batch", f"{words}, as simulate plays it"))
    if ends_hard(model) and length > model.max_context:
        message = f"{what} = {length} tokens exceeds the model's context of {model.max_context}"
        answer = model.max_context // 4 if model.causal else 0
        shorter = f"isl {model.max_context - answer}" + (f" and osl {answer}" if answer else "")
        problems.append(Problem("isl", f"{message}, where its table of positions ends; {shorter} would do"))
    try:
        check_sharding(model, plan)
    except InputError as error:
        problems += error.problems
    raise_all(problems)
