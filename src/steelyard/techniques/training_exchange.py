"""What replicas of a training tell each other, and how long they wait for it.

``gradient-compression``
    Gradients are sent in ``bits`` of each, of a ``share`` of their elements (with ``index`` bits to say which), or as
    two factors of ``rank`` columns: ``share (bits + index) / bits of a gradient`` of the bytes, of those
    ``2 rank / hidden``. What cannot be added up on the way (``gathered``: signs with scales of their own, chosen
    elements) reaches every replica from all others: ``n / 2`` times as much as a reduction of as many bytes.
    Coding reads and writes ``passes`` times 8 bytes of a parameter.
``local-sgd``
    Replicas take ``every`` steps by themselves and exchange what changed, in ``bits`` of each parameter: the exchange
    is paid once in so many steps. With ``behind`` it travels while the next round computes. States of the outer
    optimizer lie in the host's memory and are not counted.
``stale-gradients``
    The exchange of a step travels behind the work of the next; the step waits only for what is longer than that.
``gradient-coding``
    Every replica computes ``load`` parts of the data (without it ``spared + 1``) so that the ``spared`` slowest need
    not be waited for; times of replicas have an exponential tail of coefficient of variation ``cv``:
    ``(load - 1) (1 - cv) + (slowest of those waited for)`` times a replica's step.
``federated``
    A round of ``every`` local steps ends when the slowest of ``clients`` has sent its weights over its own link:
    compute times the slowest of so many with variation ``cv``, and ``2 W (1 / up + 1 / down)`` a round.
``large-batch``
    Examples to a loss grow with the batch as ``1 + B / critical`` (McCandlish et al.): ``--tokens`` are those of a
    small batch. Steps times the time of a step is then least near the critical batch.
``balanced-attention``
    Attention of packed documents (``--docs``) is shared out over all replicas by its pairs (DistCA): none waits for the
    one with the longest documents. What is sent for it is taken to be hidden behind work.
``robust-aggregation``
    Gradients of all ``n`` replicas are looked at side by side, so that wrong ones do not count: each of ``iterations``
    of least squares reads them all, ``4 n`` bytes of a parameter, and nothing can be added up on the way.
``state-exchange``
    Of scans and linear attention over context-parallel ranks. Without it every rank gathers the states of all, of a
    size that no length changes (LASP-2). ``ring``: a state goes from rank to rank, and each waits for the one before
    (LASP); ``keys``: the keys and values that make it go around as in ring attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.errors import Problem, UnknownName
from steelyard.techniques._base import Citation, Technique
from steelyard.techniques._training import OfTraining
from steelyard.training.stragglers import slowest_factor
from steelyard.units import Quantity

__all__ = [
    "BalancedAttention",
    "Federated",
    "GradientCoding",
    "GradientCompression",
    "LargeBatch",
    "LocalSgd",
    "RobustAggregation",
    "StaleGradients",
    "StateExchange",
]


def _exchanging(scenario: Any, **changes: Any) -> Any:
    exchange = replace(scenario.plan.exchange, **changes)
    return replace(scenario, plan=replace(scenario.plan, exchange=exchange))


def _slower(parts: Any, times: float) -> Any:
    """The parts with every kernel so many times as long."""

    def longer(kind: Any) -> Any:
        return replace(kind.scaled(lambda part: times), again=kind.again * times, wgrad=kind.wgrad * times)

    layers = [longer(kind) for kind in parts.layers]
    return replace(parts, layers=layers, first=longer(parts.first), last=longer(parts.last))


@dataclass(frozen=True)
class GradientCompression(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "gradient-compression"
    effect: ClassVar[str] = "gradients are sent in few bits, in part, or as two thin factors"
    costs: ClassVar[str] = "an error that is kept and added to the next gradient, or accuracy"
    paper: ClassVar[Citation] = Citation(
        "QSGD: communication-efficient SGD via gradient quantization and encoding", "arXiv:1610.02132"
    )
    first: ClassVar[str] = "bits"

    bits: Annotated[float, Quantity("1", "bits of an element that is sent", gt=0, le=32)] = 4.0
    share: Annotated[float, Quantity("1", "of the elements that are sent", gt=0, le=1)] = 1.0
    index: Annotated[float, Quantity("1", "bits that say which element it is", ge=0, le=64)] = 0.0
    rank: Annotated[int, Quantity("1", "columns of the two factors; 0: elements are sent", ge=0, le=65536)] = 0
    gathered: Annotated[bool, "replicas receive those of all others, which cannot be added up on the way"] = False
    passes: Annotated[float, Quantity("1", "times that coding reads and writes the gradients", ge=0, le=100)] = 2.0

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        sent = self.share * (self.bits + self.index) / scenario.plan.framework.gradient_bits
        if self.rank:
            sent *= min(1.0, 2.0 * self.rank / scenario.workload.hidden)
        return _exchanging(scenario, traffic=sent, gathered=self.gathered, bytes=8.0 * self.passes)


@dataclass(frozen=True)
class LocalSgd(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "local-sgd"
    effect: ClassVar[str] = "replicas exchange what changed once in many steps"
    costs: ClassVar[str] = "more steps where many replicas drift apart; outer states of two copies"
    paper: ClassVar[Citation] = Citation(
        "DiLoCo: distributed low-communication training of language models", "arXiv:2311.08105"
    )
    first: ClassVar[str] = "every"

    every: Annotated[int, Quantity("1", "steps of a round", ge=1, le=1_000_000)] = 500
    bits: Annotated[float, Quantity("1", "bits of a parameter that is exchanged", gt=0, le=32)] = 32.0
    behind: Annotated[bool, "the exchange travels while the next round computes"] = False

    def words(self, verb: str) -> dict[str, Any]:
        """See :class:`Technique`."""
        return {"sync_every": self.every}

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        traffic = self.bits / scenario.plan.framework.gradient_bits
        return _exchanging(scenario, traffic=traffic, behind=self.behind)


@dataclass(frozen=True)
class StaleGradients(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "stale-gradients"
    effect: ClassVar[str] = "gradients of a step are exchanged behind the next"
    costs: ClassVar[str] = "gradients one step old"
    paper: ClassVar[Citation] = Citation(
        "Pipe-SGD: a decentralized pipelined SGD framework for distributed deep net training", "arXiv:1811.03619"
    )

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        return _exchanging(scenario, behind=True)


@dataclass(frozen=True)
class GradientCoding(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "gradient-coding"
    effect: ClassVar[str] = "replicas compute parts of others' data, so that the slowest are not waited for"
    costs: ClassVar[str] = "as much more work as the load says"
    paper: ClassVar[Citation] = Citation(
        "Gradient coding: avoiding stragglers in synchronous descent", "arXiv:1612.03301"
    )
    first: ClassVar[str] = "spared"

    spared: Annotated[int, Quantity("1", "replicas that are not waited for", ge=0, le=100_000)] = 1
    cv: Annotated[float, Quantity("1", "coefficient of variation of a replica's time", ge=0, le=1)] = 0.2
    load: Annotated[float, Quantity("1", "parts of the data that each computes; 0: spared + 1", ge=0, le=1e6)] = 0.0

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        given = scenario.words.get("dp")
        if not given or given <= self.spared:
            why = f"of more replicas than the {self.spared} that are spared: give --dp"
            return [*super().training_problems(scenario), Problem(self.name, why)]
        return super().training_problems(scenario)

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""
        waited = float(slowest_factor(plan.dp, self.cv, spared=self.spared, shape="exponential"))
        return _slower(parts, ((self.load or self.spared + 1.0) - 1.0) * (1.0 - self.cv) + waited)


@dataclass(frozen=True)
class Federated(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "federated"
    effect: ClassVar[str] = "clients train by themselves and send their weights over links of their own, round by round"
    costs: ClassVar[str] = "more rounds where their data differ"
    paper: ClassVar[Citation] = Citation(
        "Communication-efficient learning of deep networks from decentralized data", "arXiv:1602.05629"
    )
    first: ClassVar[str] = "clients"

    clients: Annotated[int, Quantity("1", "that take part in a round", ge=1, le=1_000_000)] = 100
    every: Annotated[int, Quantity("1", "steps of a client in a round", ge=1, le=1_000_000)] = 100
    cv: Annotated[float, Quantity("1", "coefficient of variation of clients' times", ge=0, le=10)] = 0.5
    up_bytes_per_s: Annotated[float, Quantity("byte/s", "from a client", gt=0, le=1e12)] = 1.25e6
    down_bytes_per_s: Annotated[float, Quantity("byte/s", "to a client", gt=0, le=1e12)] = 6.25e6
    bits: Annotated[float, Quantity("1", "bits of a weight that is sent", gt=0, le=32)] = 32.0
    keys: ClassVar[dict[str, str]] = {"up": "up_bytes_per_s", "down": "down_bytes_per_s"}

    def words(self, verb: str) -> dict[str, Any]:
        """See :class:`Technique`."""
        return {"sync_every": self.every}

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        moved = scenario.parameters * self.bits / 8
        if scenario.plan.frozen:
            moved *= 0.01
        return _exchanging(scenario, round_s=moved / self.up_bytes_per_s + moved / self.down_bytes_per_s)

    def training_parts(self, parts: Any, plan: Any) -> Any:
        """See :class:`OnTraining`."""
        return _slower(parts, float(slowest_factor(self.clients, self.cv)))


@dataclass(frozen=True)
class LargeBatch(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "large-batch"
    effect: ClassVar[str] = "a run takes more tokens with a larger batch, by its critical batch"
    paper: ClassVar[Citation] = Citation("An empirical model of large-batch training", "arXiv:1812.06162")
    first: ClassVar[str] = "critical"

    critical: Annotated[float, Quantity("1", "tokens of the critical batch", gt=0, le=1e15)] = 2e6

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if scenario.tokens is None:
            return [*super().training_problems(scenario), Problem(self.name, "it is of whole runs: give --tokens")]
        return super().training_problems(scenario)

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        batch = float(scenario.plan.gbs * scenario.plan.seq)
        return replace(scenario, tokens=scenario.tokens * (1.0 + batch / self.critical))


@dataclass(frozen=True)
class BalancedAttention(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "balanced-attention"
    effect: ClassVar[str] = "attention of packed documents is shared out evenly over replicas"
    costs: ClassVar[str] = "queries, keys, values and outputs of what is moved"
    paper: ClassVar[Citation] = Citation(
        "Efficient long-context language model training by core attention disaggregation", "arXiv:2510.18121"
    )

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if getattr(scenario.plan, "packing", None) is None:
            return [*super().training_problems(scenario), Problem(self.name, "it is of packed documents: give --docs")]
        return super().training_problems(scenario)

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        even = replace(scenario.plan.packing, varies=0.0)
        return replace(scenario, plan=replace(scenario.plan, packing=even))


@dataclass(frozen=True)
class RobustAggregation(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "robust-aggregation"
    effect: ClassVar[str] = "gradients of all replicas are weighed against each other before they are added"
    costs: ClassVar[str] = "every replica's gradients travel whole"
    paper: ClassVar[Citation] = Citation(
        "Flag aggregator: scalable distributed training under failures and augmented losses using convex optimization",
        "arXiv:2302.05865",
    )
    first: ClassVar[str] = "iterations"

    iterations: Annotated[int, Quantity("1", "of least squares, each over all gradients", ge=1, le=1000)] = 5

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        return _exchanging(scenario, gathered=True, bytes=4.0 * scenario.plan.dp * (self.iterations + 1))


@dataclass(frozen=True)
class StateExchange(OfTraining, Technique):
    """See the module's text."""

    name: ClassVar[str] = "state-exchange"
    effect: ClassVar[str] = "ranks of a sequence hand states of scans on one by one, or pass keys and values around"
    paper: ClassVar[Citation] = Citation(
        "LASP-2: rethinking sequence parallelism for linear attention and its hybrid", "arXiv:2502.07563"
    )
    first: ClassVar[str] = "kind"

    kind: Annotated[str, "ring or keys"] = "ring"

    def problems(self) -> list[Problem]:
        """An unknown kind."""
        known = ("ring", "keys")
        return [] if self.kind in known else [Problem(self.name, UnknownName("kind", self.kind, known).message)]

    def training_problems(self, scenario: Any) -> list[Problem]:
        """See :class:`OnTraining`."""
        if not scenario.workload.state_bytes:
            return [*super().training_problems(scenario), Problem(self.name, "it is of models with scans")]
        return super().training_problems(scenario)

    def training(self, scenario: Any) -> Any:
        """See :class:`OnTraining`."""
        return replace(scenario, plan=replace(scenario.plan, states=self.kind))
