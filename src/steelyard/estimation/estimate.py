"""``estimate``: the answer to "what will this model cost on this machine?" for one or many scenarios.

``Workload x Machine x Plan -> Program -> Cost -> Result``, for a static batch: ``batch`` requests of ``isl`` prompt
tokens arrive together at an idle engine and each generates ``osl`` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from steelyard._display import Result
from steelyard.cost.host_memory import notes
from steelyard.cost.memory import tower_notes
from steelyard.cost.money import hourly_price, mean_price
from steelyard.cost.sampling import greedy_note
from steelyard.cost.step import StepPrice
from steelyard.deployment.anchor import find_anchor, told
from steelyard.deployment.engine_choice import instead_of_usual
from steelyard.deployment.engine_host import host_told
from steelyard.deployment.sharding import expert_places
from steelyard.errors import InputError, Problem
from steelyard.estimation.network import NetEstimate, answer_net
from steelyard.estimation.space import SpaceEstimate, answer_space
from steelyard.estimation.static_batch import Figures, encoder_of, prefill_chunks, static_batch
from steelyard.machine.catalogue import account
from steelyard.machine.cluster import asks_again
from steelyard.provenance import Ledger, record_of
from steelyard.scenario.fields import GROUPS, UNSAID, fields_of
from steelyard.scenario.network import NetScenario
from steelyard.scenario.recipes import told as recipe_told
from steelyard.scenario.scenario import Scenario, check
from steelyard.scenario.space import SpaceScenario, read_question
from steelyard.scenario.verbs import verb
from steelyard.workload.protocol import beyond_context, encoder_type, ends_hard
from steelyard.workload.transformer import Step

__all__ = [
    "Estimate",
    "Estimates",
    "Scenario",
    "answer",
    "estimate",
    "estimate_batch",
    "prefill_chunks",
    "provenance",
    "remarks_on_formats",
]


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Result, Figures):
    """The answer for one scenario; every figure is a number. Times in s, energy in J, money in USD, memory in bytes."""

    ledger: Ledger

    @property
    def fits(self) -> bool:
        """Whether weights, cache, activations and buffers fit the device."""
        return bool(self.memory.fits)

    @cached_property
    def prefill(self) -> StepPrice:
        """A step of prompts, kernel by kernel."""
        s = self.scenario
        per_step, _ = prefill_chunks(s.engine, s.replica_batch, s.prompt)
        return s.replica.price(Step.prefill(int(per_step), s.prompt), decode=False)

    @cached_property
    def encodes(self) -> list[StepPrice]:
        """The passes over the images and sounds of a step of prompts, one for each size of them."""
        s = self.scenario
        requests = int(prefill_chunks(s.engine, s.replica_batch, s.prompt)[0])
        return [encoder_of(s).price(i, requests * round(x.shown.count)) for i, x in enumerate(s.seen)]

    @cached_property
    def decode(self) -> StepPrice:
        """A decode step at the mean context, kernel by kernel; of a model that generates nothing its only step."""
        s = self.scenario
        if not s.transformer.causal:
            return self.prefill
        flights = min(s.engine.lanes(s.plan.pp), s.replica_batch)
        return s.replica.price(Step.decode(-(-s.replica_batch // flights), s.mean_context))


@dataclass(frozen=True, eq=False, repr=False)
class Estimates(Figures):
    """The answers for many scenarios that share model, machines, plan and engine; figures are arrays ``[n]``."""

    ledger: Ledger
    """What all of them share."""

    def __len__(self) -> int:
        return len(self.scenario.batch)  # type: ignore[arg-type]

    def row(self, i: int) -> Estimate:
        """One of the answers."""
        values = {f.name: _at(getattr(self, f.name), i) for f in fields(self) if f.name != "ledger"}
        ledger = Ledger(self.ledger.sources, self.assumptions(i), self.ledger.guesses)
        return Estimate(**values, ledger=ledger)

    def assumptions(self, i: int) -> list[str]:
        """What was assumed for one of the answers."""
        return [*self.own_assumptions(i), *self.ledger.assumptions]

    def own_assumptions(self, i: int) -> list[str]:
        """What was assumed for one of the answers alone: a length no one trained for, and defaults, first."""
        s = self.scenario.sized(*(int(x[i]) for x in self.scenario.sizes))
        tokens = s.prompt + s.osl * s.transformer.causal
        beyond = beyond_context(s.transformer, tokens)
        if ends_hard(s.transformer) and tokens == s.transformer.max_context:
            beyond = f"the lengths fill the {tokens:,} positions the model has a table of"
        return [*filter(None, (beyond, _defaults(s), _assumed(*s.sizes, s.seen_tokens)))]


def _at(value: Any, i: int) -> Any:
    """Entry ``i`` of every array of a value."""
    if isinstance(value, np.ndarray):
        return value[i].item()
    if isinstance(value, Mapping):
        return {k: _at(v, i) for k, v in value.items()}
    if type(value) is tuple:
        return tuple(_at(v, i) for v in value)
    if isinstance(value, Scenario):
        return value.sized(*(_at(x, i) for x in value.sizes))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _at(getattr(value, f.name), i) for f in fields(value)})
    return value


@verb("estimate", read=read_question)
def estimate(scenario: Scenario | NetScenario | SpaceScenario) -> Estimate | NetEstimate | SpaceEstimate:
    """What running a model on a machine costs: memory, time, energy, money, with an interval and the reason.

    ``batch`` requests of ``isl`` prompt tokens arrive together at an idle engine and each generates ``osl`` tokens.

    Returns:
        an :class:`Estimate`; check ``fits`` before trusting the times. Of a network that is not served token by token
        (resnet50, an ONNX file, a torch module) a :class:`~steelyard.estimation.network.NetEstimate`, of many
        architectures (``nb201:all``) a :class:`~steelyard.estimation.space.SpaceEstimate`.

    Raises:
        InputError: unknown names, sizes out of range, degrees that do not divide; all problems at once.
    """
    if isinstance(scenario, SpaceScenario):
        return answer_space(scenario)
    return answer_net(scenario) if isinstance(scenario, NetScenario) else answer(scenario)


def answer(scenario: Scenario) -> Estimate:
    """Weigh one scenario. Raises :class:`InputError` for degrees or lengths that cannot be."""
    check(scenario)
    return _weigh(scenario.sized(*(np.array([x], dtype=np.int64) for x in scenario.sizes))).row(0)


def estimate_batch(scenario: Scenario) -> tuple[Estimates | None, list[tuple[Problem, ...]]]:
    """Weigh many scenarios at once.

    Args:
        scenario: its batch, prompt and answer lengths are whole numbers that broadcast to ``[n]``.

    Returns:
        the answers of the scenarios that can run, in their order (None when none can), and for each of the ``n`` what
        is wrong with it (empty: nothing).
    """
    sizes = [np.atleast_1d(np.asarray(x, dtype=np.int64)) for x in scenario.sizes]
    whole = scenario.sized(*np.broadcast_arrays(*sizes))
    problems = _problems(whole)
    good = np.array([not p for p in problems], dtype=np.bool_)
    if not good.any():
        return None, problems
    return _weigh(whole if good.all() else whole.sized(*(x[good] for x in whole.sizes))), problems


def _problems(scenario: Scenario) -> list[tuple[Problem, ...]]:
    """What :func:`check` says of every scenario; degrees are checked once for all of them."""
    model, batch, prompt, answers = scenario.transformer, *scenario.sizes
    found: list[tuple[Problem, ...]] = [()] * len(batch)
    length = scenario.prompt + answers if model.causal else scenario.prompt
    bad = (batch < 1) | (prompt < 1) | (answers < 1)
    bad |= length > (scenario.words.get("max_model_len") or np.inf)
    bad |= scenario.replica_batch > (scenario.words.get("max_num_seqs") or np.inf)
    suspects = np.flatnonzero(bad | (length > (model.max_context if ends_hard(model) else np.inf)))
    try:
        check(scenario.sized(1, 1, 0))
    except InputError:
        suspects = np.arange(len(batch))
    for i in suspects.tolist():
        try:
            check(_at(scenario, i))
        except InputError as error:
            found[i] = tuple(error.problems)
    return found


def _weigh(scenario: Scenario) -> Estimates:
    """Weigh scenarios that were checked."""
    if not scenario.transformer.causal:  # an encoder answers once and generates nothing
        scenario = scenario.sized(*scenario.sizes[:2], np.ones_like(scenario.sizes[2]))
    for technique in scenario.techniques:
        scenario = scenario.sized(scenario.batch, *technique.lengths(scenario.isl, scenario.osl))
    ledger = Ledger()
    places = [(m, scenario.usd_per_hour, ledger, scenario.cluster.system) for m, _ in scenario.cluster.shares]
    price = mean_price([hourly_price(*place) for place in places])
    with np.errstate(all="ignore"):
        figures, sources = static_batch(scenario)
    _account(scenario, sources, ledger)
    return Estimates(scenario=scenario, **figures, price=price, ledger=ledger)


def remarks_on_formats(scenario: Scenario) -> tuple[str, ...]:
    """What to say of formats that are not as published, and of an engine that is not the usual one for them."""
    model, machine, plan = scenario.transformer, scenario.cluster.machine, scenario.plan
    method = scenario.model.method if plan.stores(model.native_weights) else ""
    why = instead_of_usual(scenario.engine, machine, plan.weights, encoder_type(model), method)
    return (*plan.remarks(model, machine), *filter(None, (why,)))


def _account(scenario: Scenario, models: Mapping[str, str], ledger: Ledger) -> None:
    """Write sources, assumptions and guesses that all scenarios share into the ledger."""
    machine, plan, model, engine = scenario.cluster.machine, scenario.plan, scenario.transformer, scenario.engine
    for device in dict.fromkeys((machine.name, *(m.name for m in scenario.cluster.unlike))):
        account(next(m for m, _ in scenario.cluster.shares if m.name == device), ledger)
    for remark in scenario.cluster.remarks:
        ledger.assume(remark)
    if scenario.model.source:
        ledger.cite(model.name, scenario.model.source)
    if recipe := recipe_told(scenario.words):
        ledger.assume(recipe)
    if anchor := find_anchor(scenario.words.get("anchor", "")):
        ledger.assume(told(anchor, engine))
    if said := host_told(engine):
        ledger.assume(said)
    for name in engine.guess:
        ledger.guess(f"engine.{engine.name}.{name}", "not published; a guess until calibrated")
    for name, source in models.items():
        ledger.cite(name, source)
    limit = f"{engine.max_batched_tokens:.0f}"
    ledger.assume(f"engine {engine.dated}: {engine.memory_frac:.0%} of memory, steps of at most {limit} tokens")
    ledger.assume(f"formats: weights {plan.weights}, activations {plan.activations}, KV cache {plan.kv}")
    for remark in remarks_on_formats(scenario):
        ledger.assume(remark)
    for remark in (
        *(greedy_note(engine) if scenario.transformer.causal else ()),
        *notes(plan, engine, scenario.cluster),
    ):
        ledger.assume(remark)
    for technique in scenario.techniques:
        ledger.assume(f"with {technique}: {technique.effect}")
    if plan.offload:
        ledger.guess("offload.link", "share of the link's rate that copies sustain, and the wait at each of them")
    if plan.devices > 1:
        several = f"; {plan.dp} replicas share the requests" if plan.dp > 1 and scenario.words.get("dp") is None else ""
        ledger.assume("parallel: " + ", ".join(f"{name} {size}" for name, size in plan.degrees.items()) + several)
    if model.experts:
        text = "balanced" if not scenario.skew else f"power law with exponent {scenario.skew:g}"
        places = expert_places(model.experts, plan.ep)
        copies = f"; {places} places for {model.experts} experts, the rest copies" if places > model.experts else ""
        ledger.assume(f"expert routing: {text}{copies}")
    for remark in encoder_of(scenario).remarks:
        ledger.assume(remark)
    if not model.causal:
        ledger.assume("an encoder: one answer per request, nothing generated; the step after the first is not used")
    for note in (*tower_notes(model, plan), *model.notes):
        ledger.assume(note)


def _defaults(scenario: Scenario) -> str:
    """What has its default and changes the answer most."""
    usual = [f"{n} {d}" for n in GROUPS["batch"] if (d := fields_of("estimate")[n].default) == getattr(scenario, n)]
    if scenario.words.get("gpu_memory_utilization") is None and scenario.engine.memory_frac < 1:
        usual.append(f"{scenario.engine.memory_frac:.0%} of device memory (--gpu-memory-utilization)")
    return f"defaults: {', '.join(usual)}" if usual else ""


def _assumed(batch: int, prompt: int, answers: int, seen: int) -> str:
    several = "requests, one of each user," if batch > 1 else "request"
    prompts = f"{prompt} text + {seen} image or sound" if seen else str(prompt)
    return f"static batch: {batch} {several} of {prompts} + {answers} tokens reach an idle engine at once"


def provenance(scenario: Scenario) -> dict[str, Any]:
    """What is needed to run the same question again: version, inputs and their hash."""
    model, on = scenario.asked
    inputs: dict[str, Any] = {
        "model": model or scenario.model.asked or scenario.transformer.name,
        "on": on or asks_again(scenario.cluster),
    }
    unnamed = ("model", "on", "techniques", "generic", *(n for n in UNSAID if not scenario.words.get(n)))
    inputs |= {n: scenario.value(n) for n in fields_of("estimate") if n not in unnamed}
    inputs |= {"techniques": [str(t) for t in scenario.techniques]} if scenario.techniques else {}
    return record_of(inputs)
