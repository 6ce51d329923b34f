"""What a technique is: one published idea in one file, put on any scenario by ``--with NAME[:param=value,...]``.

A technique is a frozen dataclass that inherits :class:`Technique`. Its fields are its parameters, each annotated with
unit, meaning and bounds (``Annotated[int, Quantity("tokens", "guesses per step", ge=1)]``). Its class attributes say
who it is: ``name``, ``layer``, ``paper``, ``effect``. It overrides what it needs of:

``applies(scenario) -> problems``
    Why it cannot be used on a scenario (``model``, ``transformer``, ``cluster``, ``plan``, ``engine``); empty: it can.
``conflict(other) -> reason``
    Why it cannot be used together with another technique; empty when it can. Two of the same ``slot`` never can.
``words(verb) -> fields``
    Fields of the question that it sets: ``{"kv": "fp8"}``, ``{"flags": {"max_num_batched_tokens": 512}}``. Every verb
    reads them like a user's own; a user who sets the same field otherwise is told so. Formats, degrees, engine flags,
    pools and traffic are all said this way.
``scenario(scenario) -> scenario``
    What no field can say: another model (a pass over its layers). Same type in and out. ``plan`` takes up the model.
``machine(machine) -> machine``, ``engine(engine, machine) -> engine``
    The device and the engine with other figures, on every verb.
``step_effect``
    What it changes of the kernels of a step and of their prices (:class:`steelyard.cost.effect.Effect`), on every verb.

Of networks (``of_networks = True``): the hooks of :class:`steelyard.techniques._networks.OnNetworks`; of training
(``of_training = True``): those of :class:`steelyard.techniques._training.OnTraining`.

What acts while requests run (``serving = True``: nothing else changes, and ``estimate`` refuses it):

``trace(trace, seed) -> trace``
    Columns of the traffic that it needs (adapters drawn by popularity).
``queries``, ``overlap``
    What the step tables must hold: tokens per decode, kernels beside each other.
``fit(pool)``
    Changes a :class:`PoolFit` in place: prices, the kernel's record, device memory taken, notes, sources, guesses.
``arrays(methods, ends, trace, units) -> methods``
    The kernel's arrays with its own in them (:class:`steelyard.simulation.kernel.methods.Methods`).
``rules() -> rules``
    Compiled rules, a :class:`steelyard.simulation.kernel.rules.RuleSet`; None without.
``dynamics(dynamics) -> dynamics``
    Replicas that fail, come and go; requests that move.
``play(scenario, options) -> simulation``
    A deployment that is not pools of equal replicas plays itself (``plays = True``).
``report(counts) -> rows``
    ``(heading, text)`` of the report, from the counters of a run.

The same scenario and parameters give the same bytes; a technique draws random numbers only from the seed it is given.
The order in which techniques are named does not matter. Built-in techniques and those of other packages enter by the
same entry points, group ``steelyard.techniques``; :class:`steelyard.testing.techniques.TechniqueContract` tests one.
"""

from __future__ import annotations

import math
import numbers
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from steelyard.deployment.dynamics import Dynamics
from steelyard.errors import InputError, Problem, raise_all, suggest
from steelyard.techniques._batch import InBatch
from steelyard.techniques._networks import OnNetworks
from steelyard.techniques._training import OnTraining
from steelyard.units import Quantity, parse_quantity

if TYPE_CHECKING:
    from steelyard.cost.effect import Effect
    from steelyard.cost.kv_pool import KvPool
    from steelyard.cost.step import Replica
    from steelyard.cost.step_table import StepTable
    from steelyard.deployment.engine import Engine
    from steelyard.deployment.engine_config import EngineConfig
    from steelyard.deployment.plan import Plan
    from steelyard.machine.cluster import Cluster
    from steelyard.machine.component import Machine
    from steelyard.traffic.trace import Trace

__all__ = [
    "Citation",
    "Parameter",
    "PoolEnd",
    "PoolFit",
    "Technique",
    "effects_of",
    "engine_of",
    "machine_of",
    "relabelled",
    "unknown",
]


_KINDS: Mapping[Any, str] = {str: "text", bool: "true or false", tuple: "a tuple"}


@dataclass(frozen=True, slots=True)
class Citation:
    """Where an idea was published."""

    title: str
    source: str
    """``arXiv:2311.03285``, a DOI or an address."""

    def __str__(self) -> str:
        return f"{self.title}, {self.source}"


class Parameter(NamedTuple):
    """A parameter of a technique as a user sees it."""

    key: str
    field: str
    type: Any
    unit: str
    doc: str
    default: Any
    """``MISSING`` when it must be given."""

    def __str__(self) -> str:
        return self.key


class PoolEnd(NamedTuple):
    """A pool as the kernel's arrays need it: plan and cache are those of one replica."""

    cluster: Cluster
    plan: Plan
    kv: KvPool
    replicas: int


@dataclass
class PoolFit:
    """A pool while techniques are fitted to it, one after another."""

    replica: Replica
    """Prices its steps without techniques."""
    config: EngineConfig
    kv: KvPool
    table: StepTable
    record: Any
    """Of :data:`steelyard.simulation.kernel.methods.METHOD`."""
    max_context: int
    trace: Trace | None = None
    device_bytes: float = 0.0
    """Taken from the cache of each device: drafts, resident adapters."""
    token_bytes: float = 0.0
    """More per cached token and device."""
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    guesses: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Technique(InBatch, OnNetworks, OnTraining):
    """See the module's text."""

    name: ClassVar[str]
    layer: ClassVar[str]
    """``serving``, ``kvcache``, ``decoding``, ``format``, ``parallel``, ``kernel``, ``adapters``, ``fleet``."""
    paper: ClassVar[Citation]
    effect: ClassVar[str]
    """What it changes, in one line."""
    costs: ClassVar[str] = ""
    """What its paper says it costs: accuracy, retraining, memory."""
    mechanism: ClassVar[str] = ""
    """Of a preset: the technique it is one of. A scenario has one technique of a mechanism."""
    serving: ClassVar[bool] = False
    in_plan: ClassVar[bool] = False
    """Of what acts while requests run: ``plan`` takes it up as well."""
    unplanned: ClassVar[str] = ""
    """Why no plan is sought with it; empty: ``plan`` puts it on every candidate."""
    in_steps: ClassVar[bool] = False
    """It takes part in the engine's steps; the summary of a run counts what it did there."""
    plays: ClassVar[bool] = False
    slot: ClassVar[str] = ""
    """Of the techniques of one slot a scenario has one."""
    refuses: ClassVar[tuple[str, ...]] = ()
    """Fields of the question that cannot be given beside it."""
    first: ClassVar[str] = ""
    """The field that a value without a key is for."""
    keys: ClassVar[Mapping[str, str]] = {}
    """Shorter names of fields."""
    roles: ClassVar[tuple[str, ...]] = ("both", "prefill", "decode")
    """Pools that ``fit`` is called for."""

    def __post_init__(self) -> None:
        found = ((p, self._wrong(p, getattr(self, p.field))) for p in self.parameters())
        raise_all([Problem(self.name, words) for _, words in found if words] or self.problems())

    def _wrong(self, p: Parameter, value: Any) -> str:
        """What is wrong with the value of a parameter: another type, out of bounds; empty when nothing is."""
        if value is p.default or (value is None and p.default is None):
            return ""
        quantity = _quantity(typing.cast(Any, type(self)), p.field)
        if quantity is None:
            kind = typing.get_origin(p.type) or p.type
            right = not isinstance(kind, type) or isinstance(value, kind)
            return "" if right else f"expected {_KINDS.get(kind, 'a value')} for {p.key}, got {value!r:.80}"
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        whole = p.type is int
        try:
            if not real or (whole and math.isfinite(value) and value != int(value)):
                raise InputError(f"expected a {'whole ' * whole}number in {quantity.unit}, got {value!r:.80}")
            quantity.check(parse_quantity(value if isinstance(value, int) else float(value), quantity.unit))
        except InputError as error:
            words = f"expected {p.key} as a {'whole ' * whole}number,"
            found = re.sub(r"expected a (whole |finite )?number( in 1)?,", words, error.message)
            return found.replace("expected a number", f"expected {p.key}").replace(" ,", ",")
        except OverflowError:
            return f"expected {p.key} in {quantity.unit}, got one beyond every float"
        return ""

    def problems(self) -> list[Problem]:
        """What is wrong with the parameters beyond their bounds."""
        return []

    # what it changes

    @property
    def told(self) -> str:
        """What it does, and what that costs by its paper."""
        return f"{self}: {self.effect}" + (f"; it costs, by its paper: {self.costs}" if self.costs else "")

    @classmethod
    def verbs(cls) -> tuple[str, ...]:
        """The verbs that answer with it; nothing else says so."""
        if cls.of_training:
            return ("train",)
        if cls.batch_only or cls.of_networks:
            return ("estimate",)
        planned = not cls.unplanned and (cls.in_plan or not cls.serving)
        return ("estimate",) * (cls.in_batch or not cls.serving) + ("simulate",) + ("plan",) * planned

    @classmethod
    def refusal(cls, verb: str) -> str:
        """Why a verb does not answer with it; empty: it does."""
        if verb in cls.verbs():
            return ""
        why = "it prices a static batch" if cls.batch_only else "it acts while requests run"
        why = "it is of networks, which are not served" if cls.of_networks else why
        why = "it is not of training" if verb == "train" else why
        why = "it is of training" if cls.of_training else why
        why = cls.unplanned if cls.unplanned and verb == "plan" else why
        able = " and ".join(cls.verbs())
        return f"{why}: {verb} cannot use it, {able} {'do' if len(cls.verbs()) > 1 else 'does'}"

    def applies(self, scenario: Any) -> list[Problem]:
        """Why it cannot be used on a scenario."""
        return []

    def conflict(self, other: Technique) -> str:
        """Why it cannot be used together with another technique."""
        return ""

    def words(self, verb: str) -> Mapping[str, Any]:
        """Fields of a verb that it sets."""
        return {}

    def scenario(self, scenario: Any) -> Any:
        """The scenario with what no field can say."""
        return scenario

    # while requests run

    @property
    def in_kernel(self) -> bool:
        """Whether it takes part in steps: it fits pools or has arrays of its own."""
        return type(self).fit is not Technique.fit or type(self).arrays is not Technique.arrays

    @property
    def queries(self) -> tuple[int, int]:
        """Fewest (above 1) and most tokens per decode that steps may have; ``(1, 1)``: one."""
        return (1, 1)

    @property
    def overlap(self) -> str:
        """A name of :data:`steelyard.cost.step_table.OVERLAPS`."""
        return ""

    def trace(self, trace: Trace, seed: int) -> Trace:
        """The traffic with the columns it needs."""
        return trace

    def fit(self, pool: PoolFit) -> None:
        """Put it on a pool. Raises :class:`InputError` or :class:`DoesNotFit`."""

    def arrays(self, methods: Any, ends: Sequence[PoolEnd], trace: Trace, units: int) -> Any:
        """The kernel's arrays with its own."""
        return methods

    def rules(self) -> Any:
        """Its compiled rules."""
        return None

    def replicas(self) -> int:
        """Copies of the deployment it needs at least; 1 = as many as are given."""
        return 1

    def dynamics(self, dynamics: Dynamics) -> Dynamics:
        """What changes while the deployment serves."""
        return dynamics

    def play(self, scenario: Any, options: Any) -> Any:
        """The simulation of a deployment that plays itself."""
        raise NotImplementedError(self.name)

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Rows of the report, from the summary of a run."""
        return ()

    # on every verb

    @property
    def step_effect(self) -> Effect | None:
        """What it changes of the kernels of a step and their prices."""
        return None

    def machine(self, machine: Machine) -> Machine:
        """The device with what the technique changes of it."""
        return machine

    def engine(self, engine: Engine, machine: Machine) -> Engine:
        """The engine, on a machine, with what the technique changes of it."""
        return engine

    # text

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """Its parameters in order."""
        return _parameters(typing.cast(Any, cls))

    @classmethod
    def about(cls) -> dict[str, str]:
        """What it is, for people: effect, layer, verbs, what it excludes, every parameter."""
        found = {"effect": cls.effect, "layer": cls.layer, "verbs": ", ".join(cls.verbs())}
        if cls.mechanism not in ("", "settings"):
            found["mechanism"] = cls.mechanism
        if cls.costs:
            found["costs"] = cls.costs
        if cls.slot:
            found["slot"] = f"{cls.slot}: a scenario has one technique of it"
        for p in cls.parameters():
            unit = f" [{p.unit}]" if p.unit not in ("", "1") else ""
            default = "required" if p.default is MISSING else f"default {p.default}"
            empty = p.default is None or p.default == "" or p.default == ()
            found[f"param.{p.key}"] = f"{p.doc}{unit}" + ("" if empty else f"; {default}")
        return found

    @classmethod
    def read(cls, body: str, label: str = "") -> Self:
        """Read ``value,key=value,switch``: what stands behind the name.

        Args:
            body: text. label: what to call it in errors; default its name.

        Raises:
            InputError: every problem at once.
        """
        label = label or cls.name
        by_key = {name: p for p in cls.parameters() for name in (p.field, p.key)}
        by_key |= {key: by_key[name] for key, name in cls.keys.items()}
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for part in (p.strip() for p in body.split(",") if p.strip()):
            key, equals, value = (x.strip() for x in part.partition("="))
            try:
                if equals and key not in by_key:
                    raise InputError(unknown("key", key, [p.key for p in cls.parameters()]), field=label)
                if equals and by_key[key].field in values:
                    raise InputError(f"{by_key[key].key} is given twice", field=label)
                if equals:
                    values[by_key[key].field] = cls._value(by_key[key], value, label)
                elif key in by_key and by_key[key].type is bool:
                    values[by_key[key].field] = True
                else:
                    cls._positional(part, by_key, values, label)
            except InputError as error:
                problems += error.problems
        missing = [p for p in cls.parameters() if p.default is MISSING and p.field not in values]
        if not problems:
            problems += [Problem(label, f"expected {p.key}: {p.doc}") for p in missing]
        raise_all(problems)
        try:
            return cls(**values)
        except InputError as error:
            raise relabelled(error, cls.name, label) from None

    @classmethod
    def _positional(cls, part: str, by_key: Mapping[str, Parameter], values: dict[str, Any], label: str) -> None:
        p = by_key.get(cls.first)
        if p is None:
            switches = [q.key for q in by_key.values() if q.type is bool]
            raise InputError(unknown("word", part, switches or ["key=value"]), field=label)
        several = typing.get_origin(p.type) is tuple
        if p.field in values and not several:
            raise InputError(f"expected key=value, got {part!r}", field=label)
        value = cls._value(p, part, label)
        values[p.field] = (*values.get(p.field, ()), *value) if several else value

    @classmethod
    def _value(cls, p: Parameter, text: str, label: str) -> Any:
        if typing.get_origin(p.type) is tuple:
            return tuple(cls.item(part) for part in re.split("[,+]", text) if part.strip())
        if p.type is str:
            return text
        if p.type is bool:
            if text.lower() not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
                raise InputError(f"expected true or false for {p.key}, got {text!r}", field=label)
            return text.lower() in ("1", "true", "yes", "on")
        if p.unit != "1":
            return parse_quantity(text, p.unit, label)
        whole = p.type is int
        try:
            number = parse_quantity(text, "1", label)
        except InputError:
            number = math.nan
        if not math.isfinite(number) or (whole and number != int(number)):
            kind = "a whole number" if whole else "a number"
            raise InputError(f"expected {kind} for {p.key}, got {text!r}", field=label)
        return int(number) if whole else number

    @classmethod
    def item(cls, text: str) -> Any:
        """One entry of a parameter that is a list."""
        return text

    @classmethod
    def from_flag(cls, text: str, label: str) -> Technique | None:
        """Read the text of the option that stands for it; None when the text is about something else."""
        return cls.read(text, label)

    def __str__(self) -> str:
        parts = []
        for p in self.parameters():
            value = getattr(self, p.field)
            if p.default is not MISSING and value == p.default:
                continue
            if isinstance(value, tuple):
                parts += [str(x) for x in value]
            elif isinstance(value, bool) and value:
                parts.append(p.key)
            elif self.first in (p.key, p.field):
                parts.insert(0, str(value))
            else:
                parts.append(f"{p.key}={value}")
        return f"{self.name}:{','.join(parts)}" if parts else self.name


def effects_of(techniques: Sequence[Technique]) -> tuple[Effect, ...]:
    """What techniques change of the kernels of a step, in their order."""
    return tuple(found for technique in techniques if (found := technique.step_effect) is not None)


def machine_of(techniques: Sequence[Technique], machine: Machine) -> Machine:
    """A device with what techniques change of it."""
    for technique in techniques:
        machine = technique.machine(machine)
    return machine


def engine_of(techniques: Sequence[Technique], engine: Engine, machine: Machine) -> Engine:
    """An engine with what techniques change of it."""
    for technique in techniques:
        engine = technique.engine(engine, machine)
    return engine


@cache
def _parameters(cls: Any) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    short = {field_name: key for key, field_name in cls.keys.items()}
    found = []
    for f in fields(cls):
        hint, *more = typing.get_args(hints[f.name]) if hasattr(hints[f.name], "__metadata__") else (hints[f.name],)
        about = more[0] if more else ""
        if isinstance(hint, types.UnionType):  # X | None
            hint = next(x for x in typing.get_args(hint) if x is not type(None))
        unit, doc = (about.unit, about.doc) if isinstance(about, Quantity) else ("", str(about))
        default = f.default if f.default_factory is MISSING else f.default_factory()
        found.append(Parameter(short.get(f.name, f.name), f.name, hint, unit, doc, default))
    return tuple(found)


@cache
def _quantity(cls: Any, name: str) -> Quantity | None:
    hint = typing.get_type_hints(cls, include_extras=True)[name]
    return next((x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Quantity)), None)


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """``unknown WHAT 'name'``, with the nearest known name or all of them."""
    near = suggest(name, known, 1)
    return f"unknown {what} {name!r}" + (
        f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"
    )


def relabelled(error: InputError, name: str, label: str) -> InputError:
    """The same error under the name of the option that was used."""
    problems = [
        Problem(label + p.field.removeprefix(name) if p.field.startswith(name) else p.field, p.message)
        for p in error.problems
    ]
    return InputError(problems[0].message, field=problems[0].field, problems=problems)
