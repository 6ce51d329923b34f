"""Where a model can run: every machine that holds it, how fast, for how much; and what a machine can run.

The fewest devices of a machine that hold weights, one request and its cache are looked for with the weights as
published, and again with narrower ones where those need fewer devices; only what fits is priced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from steelyard._display import Result
from steelyard.cost.money import hourly_price
from steelyard.deployment.engine import default_engine, find_engine
from steelyard.deployment.formats import find_format
from steelyard.errors import InputError, Problem, complete, show
from steelyard.estimation.estimate import Estimate, answer
from steelyard.estimation.infeasibility import memory_of
from steelyard.estimation.start_up import log_lines, start_up
from steelyard.machine.catalogue import find_machine, machine_names, price_of
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.machine.component import Machine
from steelyard.provenance import Ledger
from steelyard.scenario.fields import GROUPS, fields_of
from steelyard.scenario.scenario import Scenario, check_name, read_cluster, read_model
from steelyard.scenario.shown import read_shown
from steelyard.scenario.words import Problems, read_value
from steelyard.techniques._base import Technique
from steelyard.techniques._registry import read_techniques, with_techniques
from steelyard.workload.catalogue import Model, find_model, load_model, model_names

__all__ = ["COUNTS", "SORTS", "Place", "Places", "Wish", "fit", "runs_on"]

#: Numbers of devices that are tried.
COUNTS = (1, 2, 4, 8)
#: Machines that cannot run a model are named one by one up to so many.
SHOWN = 6
#: What places can be sorted by.
SORTS = ("price", "speed", "cost")
#: A model is tried from this share of its nominal weight on: formats differ, and towers may be left out.
SLACK = 0.8
#: Fewest bytes a parameter is stored in that are tried: a little below four bits.
LEAST_BYTES = 0.45
#: Share of the active parameters that a token reads at least: tables are looked up.
READ = 0.6


@dataclass(frozen=True, slots=True)
class Wish:
    """What a place must offer."""

    question: Mapping[str, Any] = field(default_factory=dict)
    """Fields of an estimate: lengths, engine, formats, and the batch, of so many users at once. Weights may be several,
    separated by commas, to be tried in this order; without them: as published, then what the engine is narrowed to."""
    context: int = 0
    """Tokens one request must reach, prompt and answer; 0: those of the lengths."""
    max_usd_per_hour: float | None = None
    """For all devices; places without a known price are left out."""
    min_tokens_per_s: float = 0.0
    """Of one user."""

    def check(self) -> None:
        """Refuse what cannot be. Raises :class:`InputError`, with all problems."""
        problems = Problems()
        known = fields_of("estimate")
        for name, value in self.question.items():
            if name not in known or name in ("model", "on"):
                problems.add([Problem(name, f"not a field of this question; known: {', '.join(sorted(known))}")])
            elif name != "weights":
                problems.read(read_value, known[name], value)
                if known[name].type == "name" and isinstance(value, str):
                    problems.read(check_name, name, value)
        for weights in self.formats:
            problems.read(check_name, "weights", weights)
        problems.add(with_techniques("estimate", self.question, {n: f.default for n, f in known.items()})[1])
        if not _is_number(self.context, int) or self.context < 0 or self.context == 1:
            problems.add([Problem("context", f"expected at least 2 tokens, got {show(self.context)}")])
        for name in ("max_usd_per_hour", "min_tokens_per_s"):
            number = getattr(self, name)
            if number is not None and not (_is_number(number, int | float) and 0 <= number < math.inf):
                problems.add([Problem(name, f"expected a number from 0 on, got {show(number)}")])
        problems.done()

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats of the weights that were given."""
        given = self.question.get("weights") or ()
        return tuple(w.strip() for w in (given.split(",") if isinstance(given, str) else given) if w.strip())

    @property
    def techniques(self) -> tuple[Technique, ...]:
        """Those that are put on every place."""
        return read_techniques({"techniques": self.question.get("techniques") or ()})

    @property
    def engine(self) -> str:
        """The engine that was given; empty: what is usual."""
        return str(self.question.get("engine") or "")


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False)
class Place:
    """One machine, or several of it, that hold a model."""

    estimate: Estimate
    alike: tuple[str, ...] = ()
    """Further models of the same shape: every figure is theirs too."""

    @property
    def figures(self) -> tuple[Any, ...]:
        """What tells one model on a machine from another."""
        e, plan = self.estimate, self.estimate.scenario.plan
        return plan.weights, plan.engine, float(e.memory.total), e.ttft_s, e.tpot_s, e.largest_context, self.states

    @property
    def usd_per_hour(self) -> float | None:
        """Of all devices; None: no price known."""
        price = hourly_price(self.estimate.scenario.cluster.machine, None, Ledger()).usd_per_hour
        return None if price is None else price * self.estimate.scenario.cluster.count

    @property
    def bare(self) -> bool:
        """Whether its price is that of a processor alone, without the board and the memory that holds the model."""
        return self.estimate.scenario.cluster.machine.kind == "cpu" and self.bought

    @property
    def bought(self) -> bool:
        """Whether its price is that of a purchase, because no rental price is known."""
        return price_of(self.estimate.scenario.cluster.machine.name) is None and self.usd_per_hour is not None

    @property
    def tokens_per_s(self) -> float:
        """Of one user, once the first token is there; of a model that generates nothing answers per second."""
        e = self.estimate
        return 1 / float(e.tpot_s if e.scenario.transformer.causal else e.e2e_s)

    @property
    def users(self) -> int:
        """Requests that run at once: there is room for all of them, and the speed is that of each."""
        return int(self.estimate.scenario.batch)

    @property
    def states(self) -> tuple[int, int]:
        """Recurrent states the engine keeps at once, and the requests that may run for them (0: no limit of theirs)."""
        s = self.estimate.scenario
        if not s.transformer.state_bytes or s.cluster.unlike:
            return 0, 0
        found = start_up(self.estimate)
        return found.slots, found.sequences

    @property
    def starts(self) -> bool:
        """Whether the engine starts with its own defaults, as far as its log is known."""
        return not any(line.stops for line in log_lines(self.estimate))

    def row(self) -> dict[str, Any]:
        """One row of the table, SI units."""
        e, s = self.estimate, self.estimate.scenario
        low, high = e.interval["tpot_s" if s.transformer.causal else "e2e_s"]
        usd, states = self.usd_per_hour, self.states
        return {
            "model": s.transformer.name,
            "alike": ", ".join(self.alike),
            "machine": s.cluster.machine.name,
            "count": s.cluster.count,
            **({"users": self.users} if self.users > 1 else {}),
            "weights": s.plan.weights,
            "engine": s.engine.name,
            "memory_bytes": float(e.memory.total),
            "capacity_bytes": float(e.memory.capacity),
            "largest_context": int(e.largest_context),
            "starts_with_defaults": self.starts,
            "state_slots": states[0] or None,
            "state_requests": states[1] or None,
            "ttft_s": e.ttft_s,
            "tpot_s": e.tpot_s,
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_low": 1 / high,
            "tokens_per_s_high": 1 / low,
            "price_usd_per_hour": usd,
            "price_of_purchase": self.bought,
            "price_of_processor_alone": self.bare,
            "usd_per_million_tokens": usd / 3600 / (self.tokens_per_s * self.users) * 1e6 if usd is not None else None,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Places(Result):
    """What was found, in order."""

    about: str
    """The model, or the machine, that was asked for."""
    rows: tuple[Place, ...]
    tried: int
    """Machines, or models, that were looked at."""
    notes: tuple[str, ...] = ()
    models: bool = False
    """Whether the rows are models of one machine, else machines of one model."""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Place]:
        return iter(self.rows)


@complete
def fit(
    model: str | Model,
    on: str | Sequence[str] = "all",
    *,
    wish: Wish | Mapping[str, Any] | None = None,
    sort: str = "price",
) -> Places:
    """Where a model can run, how fast for one user, and for how much.

    Args:
        model: name, path or a loaded model.
        on: machines, ``NAME`` or ``NAME:COUNT`` (so many, not fewer or more), listed or separated by commas; ``all``:
            the catalogue.
        wish: what is asked and what a place must offer, also as a mapping: ``{"weights": "fp8", "context": 32000,
            "max_usd_per_hour": 8}``; without lengths the usual ones, or what the context of the model has room for.
        sort: ``price`` (per hour, the cheapest first), ``speed`` or ``cost`` (per token).

    Raises:
        InputError: unknown names, numbers out of range; all problems at once.
    """
    if not isinstance(sort, str) or sort not in SORTS:
        raise InputError(f"expected one of {', '.join(SORTS)}, got {sort!r:.40}", field="sort")
    wish = wished(wish)
    wish.check()
    loaded = read_model(read_value(fields_of("estimate")["model"], model), False)
    wish = _with_room(loaded, wish)
    listed = on.split(",") if isinstance(on, str) else on
    if not isinstance(listed, Sequence) or not all(isinstance(part, str) for part in listed):
        raise InputError(f"expected names of machines, or all, got {show(on)}", field="on")
    named = [part.strip() for part in listed if part.strip()]
    if not named:
        raise InputError("expected machines, or all", field="on")
    whole = named == ["all"]
    if whole:
        clusters = [(cluster_of(find_machine(name)), False) for name in machine_names()]
    else:
        clusters = [(read_cluster(name), re.search(r":\d+$", name) is not None) for name in named]
    found: list[Place] = []
    refused: dict[str, str] = {}
    for cluster, exact in clusters:
        try:
            found += [Place(e) for e in _fits(loaded, cluster, wish, (cluster.count,) if exact else ())]
        except InputError as error:
            refused[cluster.machine.name] = error.problems[0].message if error.problems else str(error)
    if refused and not whole and len(refused) == len(clusters):
        raise InputError(next(iter(refused.values())), field="on")
    notes = [f"{name}: {why}" for name, why in refused.items()]
    if len(notes) > SHOWN:
        notes = [f"{len(notes)} machines cannot run it: {', '.join([*refused][:SHOWN])} ..."]
    notes = [*(f"with {technique.told}" for technique in wish.techniques), *notes]
    return Places(loaded.name, tuple(_sorted(_wished(found, wish), sort)), len(clusters), tuple(notes))


def wished(given: Wish | Mapping[str, Any] | None) -> Wish:
    """A wish from a mapping of its own fields and of those of the question. Raises :class:`InputError`."""
    if isinstance(given, Wish):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"expected a wish or a mapping of its fields, got {show(given)}", field="wish")
    own = [f.name for f in fields(Wish) if f.name != "question"]
    given = dict(given or {})
    question = {**dict(given.pop("question", {})), **{k: v for k, v in given.items() if k not in own}}
    return Wish(question, **{k: v for k, v in given.items() if k in own})


def _with_room(model: Model, wish: Wish) -> Wish:
    """The wish with lengths the model has room for, where they were not given. Raises :class:`InputError`."""
    longest, causal = model.transformer.max_context, model.transformer.causal
    shown = math.ceil(sum(s.tokens * s.shown.count for s in read_shown("estimate", wish.question, model)))
    prompts, answers = GROUPS["batch"][1:]
    known = fields_of("estimate")
    given = wish.question
    answer_ = given.get(answers) or min(known[answers].default, (longest or math.inf) // 4)
    answer_ = int(answer_) if causal else 0
    room = max(1, longest - answer_ - shown) if longest else math.inf
    prompt = int(given.get(prompts) or min(known[prompts].default, room))
    if longest and (most := max(wish.context, prompt + shown + answer_)) > longest:
        raise InputError(f"{most:,} tokens exceed the context of {model.name}, {longest:,}", field="context")
    return replace(wish, question={**given, prompts: prompt, answers: max(1, answer_)})


def runs_on(machine: Machine | Cluster, wish: Wish, *, top: int = 20, models: Sequence[str] = ()) -> Places:
    """What a machine can run: the largest models of the catalogue first, those with the same figures once.

    Args:
        machine: it, or several of it.
        wish: lengths, formats and the least speed.
        top: most models.
        models: only these; empty: the catalogue.
    """
    wish.check()
    cluster = machine if isinstance(machine, Cluster) else cluster_of(machine)
    names = [*(models or model_names())]
    entries = {name: find_model(name) for name in names}
    room = cluster.machine.usable_bytes * cluster.count
    rate = cluster.machine.root.bandwidth_bytes_per_s * cluster.count
    found: dict[tuple[Any, ...], Place] = {}
    refused = ""
    for name, entry in sorted(entries.items(), key=lambda item: (-item[1].parameters, item[0])):
        if len(found) >= top:
            break
        read = (entry.active_parameters or entry.parameters) * LEAST_BYTES  # by every token
        if entry.parameters * LEAST_BYTES > room or read * READ * wish.min_tokens_per_s > rate:
            continue
        try:
            model = load_model(name)
            own = _with_room(model, wish)
            place = _quick_enough(model, cluster, own) if model.transformer.causal else None
        except InputError as error:  # not on this engine, or not in this format
            refused = refused or str(error)
            continue
        if place is None:
            continue
        same = found.get(place.figures)
        if same is not None:  # the shortest name stands for the others
            place, same = sorted((place, same), key=lambda p: len(_name(p)))
            place = replace(place, alike=(*place.alike, _name(same), *same.alike))
        found[place.figures] = place
    notes = (*(f"with {technique.told}" for technique in wish.techniques), *([refused] * bool(refused and not found)))
    return Places(str(cluster), tuple(found.values()), len(names), notes, models=True)


def _name(place: Place) -> str:
    return place.estimate.scenario.transformer.name


def _quick_enough(model: Model, cluster: Cluster, wish: Wish) -> Place | None:
    """With the first format that fits and is as quick as wished; where the narrowest is not, none is."""

    def priced(weights: str) -> Place | None:
        found = _fits(model, cluster, wish, (cluster.count,), (weights,))
        return next(iter(_wished([Place(e) for e in found], wish)), None)

    *wider, narrowest = _formats(cluster.machine, wish)
    last = priced(narrowest)
    if last is None:
        return None
    return next((place for w in wider if (place := priced(w)) is not None), last)


def _formats(machine: Machine, wish: Wish) -> tuple[str, ...]:
    engine = find_engine(wish.engine) if wish.engine else default_engine(machine)
    return wish.formats or ("", *engine.narrower[1:])


def _fits(
    model: Model, cluster: Cluster, wish: Wish, counts: tuple[int, ...] = (), formats: tuple[str, ...] = ()
) -> Iterator[Estimate]:
    """An estimate for each format that needs fewer devices than the one before, on the fewest that hold it."""
    machine = cluster.machine
    fewest, refused, ran = math.inf, None, False
    for weights in formats or _formats(machine, wish):
        for count in counts or (_counts(machine) if cluster.count == 1 else (cluster.count,)):
            if count >= fewest:
                break
            if not wish.techniques and _nominal(model, weights) > count * machine.usable_bytes:
                continue
            try:
                scenario = _scenario(model, cluster, count, weights, wish)
            except InputError as error:
                refused = error
                continue
            ran = True
            if memory_of(_reaching(scenario, wish.context)).fits:
                fewest = count
                yield answer(scenario)
                break
    if refused is not None and not ran:
        raise refused


def _scenario(model: Model, cluster: Cluster, count: int, weights: str, wish: Wish) -> Scenario:
    on = cluster if count == cluster.count else cluster_of(cluster.machine, count)
    return Scenario.of("estimate", **{**wish.question, "weights": weights, "model": model, "on": on})


def _reaching(scenario: Scenario, context: int) -> Scenario:
    """The scenario with prompts so long that requests end at ``context`` tokens."""
    if not context:
        return scenario
    return scenario.sized(scenario.batch, max(scenario.isl, context - scenario.osl), scenario.osl)


def _counts(machine: Machine) -> tuple[int, ...]:
    """So many devices stand together: those of a node, of cards in a computer four, of sockets two."""
    together = int(machine.devices_per_node)
    if machine.kind == "cpu":
        together = 2 if machine.links("peer") else 1
    elif machine.kind == "gpu":
        together = max(together, 4)
    return tuple(count for count in COUNTS if count <= max(1, together))


def _nominal(model: Model, weights: str) -> float:
    """Fewest bytes the weights can have."""
    if not weights and model.weight_bytes is not None:
        return SLACK * model.weight_bytes
    native = (model.transformer.native_weights, *(f for _, f in model.transformer.native_formats))
    bits = min(find_format(f).stored_bits for f in ((weights,) if weights else native))
    towers = sum(tower.bytes_on() for tower in model.transformer.towers)
    return SLACK * (model.transformer.parameters() * bits / 8 + towers)


def _wished(found: Sequence[Place], wish: Wish) -> list[Place]:
    kept = [place for place in found if place.tokens_per_s >= wish.min_tokens_per_s]
    if wish.max_usd_per_hour is None:
        return kept
    most = wish.max_usd_per_hour
    return [place for place in kept if (usd := place.usd_per_hour) is not None and usd <= most]


def _sorted(found: Sequence[Place], by: str) -> list[Place]:
    def key(place: Place) -> tuple[bool, float, float]:
        usd, speed = place.usd_per_hour, place.tokens_per_s
        hour = float("inf") if usd is None else usd
        first = {"price": hour, "speed": -speed, "cost": hour / speed / place.users}[by]
        return place.bare and by != "speed", first, -speed  # what is no whole machine is not the cheapest one

    return sorted(found, key=key)
