"""A question about training: which model, where, spread how, by what, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.deployment.failures import NEVER, Failures, typical_failures
from steelyard.deployment.frameworks import Framework, find_framework, frameworks, restated_facts
from steelyard.deployment.optimizers import find_optimizer
from steelyard.deployment.packing import packing_of
from steelyard.deployment.recovery import (
    USUAL,
    CheckpointRule,
    Recovery,
    parse_checkpoint,
    parse_recovery,
    parse_spares,
)
from steelyard.deployment.train_plan import (
    AWAY,
    BESIDE,
    CHOSEN,
    RECOMPUTE,
    SPLITTING,
    TrainPlan,
    degree_problems,
    layout_problems,
)
from steelyard.documents import is_file
from steelyard.errors import InputError, Problem, UnknownName, raise_all, show
from steelyard.machine.cluster import Cluster, Mixed, mixed_cluster, with_network
from steelyard.machine.host import find_host, usual_host
from steelyard.machine.loader import is_machine_text
from steelyard.scenario.fields import fields_of
from steelyard.scenario.network import asks_net, sets_of
from steelyard.scenario.rewarded import RewardedStep, read_rewarded, sequences_of_step
from steelyard.scenario.run_limits import limits_of
from steelyard.scenario.scenario import read_cluster, read_model
from steelyard.scenario.words import Problems, read_value, read_words
from steelyard.units import parse_quantity
from steelyard.workload.model import Model
from steelyard.workload.protocol import Workload

__all__ = [
    "TrainScenario",
    "failures_of",
    "layout_named",
    "length_of",
    "read_train_scenario",
    "recompute_of",
    "sequences_of",
]

#: Fields of a plan that are as they were said.
_AS_SAID = ("precision", "task", "rank", "sync_every")
#: Tokens of a sequence where nothing is said, at most.
_USUAL_SEQ = 4096
#: Micro-batches of a step for every stage, where no global batch is given.
_IN_A_STEP = 4
#: Devices from which on a model is not trained by a user's own script unless said.
_CLUSTER = 8


@dataclass(frozen=True, eq=False)
class TrainScenario:
    """One question about training, every choice made but those left to the search (``open``)."""

    model: Model
    cluster: Cluster
    plan: TrainPlan
    words: Mapping[str, Any] = field(default_factory=dict)
    """Every field with its value, as it was given or its default."""
    open: tuple[str, ...] = ()
    """Choices that were not given: the fastest that fits is looked for."""
    tokens: float | None = None
    """Of the whole run; None: only a step is asked about."""
    failures: Failures = NEVER
    recovery: Recovery = USUAL
    checkpoint: CheckpointRule = field(default_factory=CheckpointRule)
    rewarded: RewardedStep | None = None
    """Of tasks that learn from scored answers."""

    @property
    def parameters(self) -> float:
        """Of what is trained."""
        return float(self.workload.parameters())

    @property
    def workload(self) -> Workload:
        """What is trained."""
        return self.model.transformer

    @property
    def searched(self) -> bool:
        """Whether a layout is looked for: the size of a micro-batch, or a degree that splits the model, is open."""
        return bool({"mbs", *SPLITTING} & set(self.open))

    @property
    def apart(self) -> Cluster | None:
        """Devices that answer beside those that train."""
        return None if self.rewarded is None else self.rewarded.rollout_on

    @property
    def devices(self) -> int:
        """That train, and that answer beside them."""
        return self.cluster.count + (0 if self.apart is None else self.apart.count)

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields that were given, with another value than their default."""
        known = fields_of("train")
        return frozenset(n for n, f in known.items() if self.words.get(n) not in (None, "", f.default))

    def __repr__(self) -> str:
        return f"<TrainScenario {self.model.name} on {self.cluster}: {self.plan.shape}>"


def read_train_scenario(words: Mapping[str, Any], problems: Problems | None = None) -> TrainScenario:
    """The question that words ask.

    Raises:
        InputError: every problem at once: unknown fields, names, degrees that do not divide.
    """
    problems = problems or Problems()
    values = read_words("train", words, problems)
    if asks_net({"model": values["model"]}):
        from steelyard.scenario.net_training import read_net_training

        return read_net_training(values, problems)
    cluster = problems.read(_cluster, values["on"]) if values["on"] is not None else None
    if isinstance(cluster, Mixed):
        from steelyard.scenario.mixed_training import read_mixed_training

        return read_mixed_training(values, cluster, problems)
    for name in ("across", "shares"):
        if values[name] and cluster is not None:
            problems.add([Problem(name, "of devices of several kinds: --on h100_sxm:64+a100_sxm:64")])
    model = problems.read(read_model, values["model"], values["generic"]) if values["model"] is not None else None
    framework = problems.read(_framework, values, cluster)
    optimizer = problems.read(find_optimizer, values["optimizer"])
    recompute = problems.read(recompute_of, values["recompute"], framework)
    seq = values["seq"] or min(_USUAL_SEQ, (model.transformer.max_context if model else 0) or _USUAL_SEQ)
    sequences = problems.read(sequences_of, values["gbs"], seq)
    if values["network"] and cluster is not None:
        cluster = problems.read(with_network, cluster, values["network"])
    if values["host"] and cluster is not None:
        cluster = replace(cluster, host=problems.read(find_host, values["host"]))
    tokens = problems.read(length_of, {**values, "seq": seq})
    problems.read(limits_of, values)
    fails = problems.read(parse_recovery, values["failures"])
    checkpoint = problems.read(parse_checkpoint, values["checkpoint"])
    nodes = cluster.node_count if cluster is not None else 1
    spares = problems.read(parse_spares, values["spares"], nodes)
    rewarded = read_rewarded(values, cluster, sequences, problems)
    offload = problems.read(_offload, values["offload"])
    loss = problems.read(_loss, values["loss"], framework)
    problems.read(layout_named, values["why_not"])
    packing = problems.read(packing_of, values["docs"], seq, values["seed"])
    problems.done()
    assert cluster is not None
    assert fails is not None
    assert checkpoint is not None
    assert model is not None
    assert framework is not None
    assert optimizer is not None
    assert recompute is not None
    assert offload is not None
    if offload:
        usual_host(cluster.machine)
    if cluster.unlike:
        raise InputError("training on unlike devices of one replica is not priced", field="on")
    given = {name: values[name] for name in CHOSEN if values[name] is not None}
    tp, pp = (given.get(name, 1) for name in SPLITTING)
    vp, cp, ep = (values[name] or 1 for name in BESIDE)
    dp = given.get("dp") or max(1, cluster.count // (tp * pp * cp))
    mbs = given.get("mbs", 1)
    gbs = sequences or mbs * dp * (_IN_A_STEP * pp * vp if pp > 1 else 1)
    if rewarded is not None:
        told = {**given, "cp": cp, "seq": words.get("seq")}
        if all(name in given for name in SPLITTING):  # it is laid out, so that replicas are known
            told["dp"] = dp
        gbs, seq = sequences_of_step(rewarded, told, cluster.count)
        packing, sequences = rewarded.answers.packing(), gbs
        tokens = problems.read(rewarded_length, values, rewarded)
        problems.done()
    plan = TrainPlan(
        framework=framework,
        optimizer=optimizer,
        **dict(zip(CHOSEN, (tp, pp, dp, mbs), strict=True)),
        **{name: values[name] for name in _AS_SAID},
        vp=vp,
        cp=cp,
        ep=ep,
        seq=seq,
        etp=values["etp"] or (1 if ep > 1 else tp),
        zero=framework.usual_zero(tp) if values["zero"] is None else values["zero"],
        shard=values["shard"] or dp,
        schedule=values["schedule"] or ("interleaved" if vp > 1 else "1f1b"),
        gbs=gbs,
        recompute=recompute[0],
        recompute_layers=recompute[1],
        loss=loss or "whole",
        packing=packing,
        ring=values["ring"] or int(cp > 1 and bool(framework.context) and "ring" not in framework.context),
        offload=offload,
        references=int(rewarded is not None and rewarded.reference),
        critics=rewarded.critics if rewarded is not None else 0,
    )
    left = tuple(name for name in CHOSEN if name not in given)
    if set(SPLITTING) & set(left):
        left = (*left, *(name for name in BESIDE if values[name] is None))
    if sequences is None:
        left = (*left, "gbs")
    failures, recovery = fails
    failures = failures_of(failures, tokens, values)
    if spares is not None:
        recovery = replace(recovery, spares=spares)
    found = TrainScenario(model, cluster, plan, values, left, tokens, failures, recovery, checkpoint, rewarded)
    found = _with(found)
    plan = found.plan
    if model.transformer.depth:
        wrong = degree_problems(plan, model.transformer)
        if not set(SPLITTING) & set(left):
            wrong = layout_problems(plan, model.transformer, cluster.count)
        raise_all(list(wrong))
    return found


def _cluster(on: Any) -> Cluster:
    """The devices that train. Raises :class:`InputError`: they are several machines to choose from, or none."""
    listed = on.count(",") + 1 if isinstance(on, str) and not is_machine_text(on) and not is_file(on) else 1
    if listed > 1:
        message = f"expected one machine, got {listed}: which of several is the best, steelyard plan --train says"
        raise InputError(message, field="on")
    if isinstance(on, str) and "+" in on and not is_machine_text(on) and not is_file(on):
        return read_cluster(on, mixed_cluster)
    return read_cluster(on)


def _with(scenario: TrainScenario) -> TrainScenario:
    """The scenario with its techniques. Raises :class:`InputError`: one is not of training, or cannot be used here."""
    techniques = scenario.words.get("techniques") or ()
    other = [t for t in techniques if not t.of_training]
    raise_all([Problem(t.name, "it is not of training (steelyard techniques --layer training)") for t in other])
    raise_all([p for t in techniques for p in t.training_problems(scenario)])
    for technique in sorted(techniques, key=lambda t: t.mechanism or t.name):
        scenario = technique.training(scenario)
    return scenario


def failures_of(said: Failures, tokens: float | None, values: Mapping[str, Any]) -> Failures:
    """What fails: as said, and where nothing is, the typical of a run that has a length."""
    return typical_failures() if tokens is not None and not values["failures"] else said


def _framework(values: Mapping[str, Any], cluster: Cluster | None) -> Framework:
    """The framework of a question: named, or the first usual one that has the degrees that were given."""
    return restated_facts(
        find_framework(values["framework"] or usual_frameworks(values, cluster)[0]), sets_of(values["set"])
    )


def usual_frameworks(values: Mapping[str, Any], cluster: Cluster | None) -> tuple[str, ...]:
    """Frameworks of the task and the number of devices, where none is named: the first is usual, the others are for
    what it cannot lay out. Those that lack a degree that was given are left out."""
    adapters = values["task"] in ("lora", "qlora")
    count = cluster.count if cluster is not None else 1
    if cluster is not None and cluster.machine.launch == "tpu":
        names: tuple[str, ...] = ("maxtext",)
    elif count < _CLUSTER or adapters:
        names = ("transformers", *(("fsdp", "bridge" if adapters else "megatron") if count > 1 else ()))
    else:
        names = ("megatron",)
    given = {name: values[name] or 1 for name in (*SPLITTING, "cp", "ep")}
    return tuple(name for name in names if not find_framework(name).lacks(given)) or names


def recompute_of(text: str, framework: Framework | None) -> tuple[tuple[str, ...], int]:
    """What is computed again, by module, and of how many layers of a chunk (0: of all).

    ``selective`` is the core of attention, ``full:3`` three layers of every chunk. Raises :class:`InputError`.
    """
    named, _, some = (text or "").strip().partition(":")
    if named == "full" and some:
        if not some.isdecimal() or not 0 < int(some) < 10_000:
            raise InputError(
                f"expected full:N with a number of layers of every chunk, got {show(text)}", field="recompute"
            )
        return ("full",), int(some)
    names = tuple(p.strip() for p in (text or (framework.recompute if framework else "")).split(",") if p.strip())
    known = {
        "layernorm": "norm",
        "moe_act": "act",
        "mlp_act": "act",
        "core-attn": "core_attn",
        "selective": "core_attn",
    }
    found = tuple(dict.fromkeys(known.get(n, n) for n in names if n != "none"))
    for name in found:
        if name not in RECOMPUTE:
            raise InputError(UnknownName("module", name, RECOMPUTE).message, field="recompute")
    if "none" in names and len(names) > 1:
        raise InputError(f"expected none or modules, got {show(text)}", field="recompute")
    return found, 0


def _offload(text: str) -> tuple[str, ...]:
    """What lies in the host's memory or on its drives. Raises :class:`InputError`."""
    found = tuple(p.strip() for p in (text or "").split(",") if p.strip() and p.strip() != "none")
    for name in found:
        what, _, place = name.partition(":")
        if what not in AWAY:
            raise InputError(UnknownName("part", what, AWAY).message, field="offload")
        if place not in ("", "host", "nvme"):
            raise InputError(f"expected {what} or {what}:nvme, got {show(name)}", field="offload")
        if what == "activations" and place == "nvme":
            raise InputError("activations go to the host's memory: drives are too slow", field="offload")
    if len({n.partition(":")[0] for n in found}) < len(found):
        raise InputError(f"expected every part once, got {show(text)}", field="offload")
    return tuple(n.removesuffix(":host") for n in found)


def _loss(text: str, framework: Framework | None) -> str:
    """How scores become a loss. Raises :class:`InputError`: the framework does not do so."""
    if text == "fused" and framework is not None and not framework.fused_loss:
        others = ", ".join(n for n, f in frameworks().items() if f.fused_loss)
        told = f"{framework.called} has none that is fused; {others} have (or --set fused_loss=true)"
        raise InputError(told, field="loss")
    return text


def layout_named(text: str) -> dict[str, Any]:
    """A layout in words, ``tp=4,recompute=act,norm,zero=3``, by the fields of ``train``. Raises :class:`InputError`."""
    found: dict[str, str] = {}
    for part in (p.strip() for p in (text or "").split(",")):
        name, equals, value = part.partition("=")
        if equals:
            found[name.strip().replace("-", "_")] = value.strip()
        elif part and found:
            found[list(found)[-1]] += f",{part}"
        elif part:
            raise InputError(f"expected NAME=VALUE, such as tp=4,pp=2, got {show(text)}", field="why_not")
    if text.strip() and not found:
        raise InputError(f"expected NAME=VALUE, such as tp=4,pp=2, got {show(text)}", field="why_not")
    known, made = fields_of("train"), dict[str, Any]()
    for name, value in found.items():
        if name not in known or name in ("model", "why_not"):
            hint = "of those of train: tp, pp, cp, zero, mbs, recompute ..."
            raise InputError(UnknownName("field", name, known, hint=hint).message, field="why_not")
        if not value.strip(","):
            raise InputError(f"expected {name}=VALUE, such as tp=4, got {show(text)}", field="why_not")
        made[name] = int(value) if known[name].type == "whole" and value.isdecimal() else value
        try:
            read_value(known[name], made[name])
        except InputError as error:
            raise InputError(f"{name}: {error.problems[0].message}", field="why_not") from None
    return made


def length_of(values: Mapping[str, Any]) -> float | None:
    """Tokens of the run: as said, or epochs over so many sequences. Raises :class:`InputError`."""
    said = {name: values[name] for name in ("tokens", "samples") if values[name] not in (None, "")}
    read = {name: _many(name, value) for name, value in said.items()}
    if "tokens" in read:
        if values["epochs"] is not None or "samples" in read:
            raise InputError("say tokens, or samples and epochs", field="tokens")
        return float(read["tokens"] * values["trainings"])
    if "samples" in read:
        epochs = 1.0 if values["epochs"] is None else values["epochs"]
        return float(read["samples"] * epochs * values["seq"] * values["trainings"])
    if values["epochs"] is not None:
        raise InputError("epochs of how many sequences? give --samples", field="samples")
    return None


def rewarded_length(values: Mapping[str, Any], step: RewardedStep) -> float | None:
    """Tokens of the answers of a run: as said, or of so many prompts (``samples``). Raises :class:`InputError`."""
    found = length_of({**values, "seq": 1})
    if found is None or values["tokens"] not in (None, ""):
        return found
    return found * step.answers.tokens / len(step.answers.isl)


def _many(name: str, value: Any) -> float:
    try:
        found = float(value) if isinstance(value, int | float) else parse_quantity(str(value), "1")
    except InputError:
        found = -1.0
    if not 0 < found < 1e24:
        raise InputError(f"expected a number above 0 and below 1e24, such as 300B, got {show(str(value))}", field=name)
    return found


#: Sequences of a step, at most.
MOST_SEQUENCES = 10**9

#: How far a batch that is said in tokens may move for a number of sequences that more replicas divide.
_NEARLY = 0.05


def _divides_best(value: float) -> int:
    """The whole number within 5 % that has the largest power of two."""
    step = 2 ** int(np.log2(max(value, 1.0)))
    while step > 1 and abs(round(value / step) * step - value) > _NEARLY * value:
        step //= 2
    return max(1, int(round(value / step) * step))


def sequences_of(given: Any, seq: int) -> int | None:
    """Sequences of a step: ``1536``, ``4Mtok`` (then a number that many replicas divide); None where none is given.

    Raises:
        InputError: it is neither.
    """
    if given in (None, ""):
        return None
    text = str(given).strip()
    tokens = text.lower().removesuffix("tokens").removesuffix("tok")
    wrong = InputError(f"expected 1 to {MOST_SEQUENCES:,} sequences, or tokens as 4Mtok, got {show(text)}", field="gbs")
    try:
        value = parse_quantity(text[: len(tokens)].strip(), "1") if tokens != text.lower() else float(text)
    except (InputError, ValueError):
        raise wrong from None
    if tokens != text.lower():
        value = _divides_best(min(value / seq, 2.0 * MOST_SEQUENCES))
    if not 1 <= value <= MOST_SEQUENCES or value != int(value):
        raise wrong
    return int(value)
