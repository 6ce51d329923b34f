"""The price of an engine step: the one place where a step is lowered, priced and given its hops between stages.

``estimate``, the step tables of the simulator, the planner's screen, sweeps and validation all ask a :class:`Replica`.
Every figure is elementwise over the steps of a call, so a step's price does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.cost.cost import BOUNDS, Cost, KernelCost, spread_of_sum, with_static_power
from steelyard.cost.effect import Effect
from steelyard.cost.energy import static_power_w
from steelyard.cost.host_memory import hosted
from steelyard.cost.pipeline import boundary, pieces_frac
from steelyard.cost.price import engine_times, price
from steelyard.cost.program import Kernel, Program, lower
from steelyard.cost.unlike import shared_out
from steelyard.deployment.engine import Engine
from steelyard.deployment.formats import Format, find_format
from steelyard.deployment.plan import Plan
from steelyard.machine.classes import stack_named
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.workload.op import Array, Op, Size
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

__all__ = ["Replica", "StepFigures", "StepPrice", "distinct_values", "verifying"]


@dataclass(frozen=True, eq=False)
class StepPrice:
    """The price of a step (or of many: every figure may be an array over steps)."""

    program: Program
    """Kernels of one device."""
    cost: Cost
    """Their price and the engine's own time, without the hops between stages."""
    hop_s: Any
    """Time of the hops between pipeline stages, inside ``time_s``."""
    time_s: Any
    """The whole step: every stage, every hop, the engine's own time."""

    @property
    def limit_s(self) -> Any:
        """The physical limit of the same step; never above ``time_s``."""
        return self.cost.limit_s

    @property
    def energy_j(self) -> Any:
        """Energy of one device of each stage; multiply by the devices of a stage."""
        return self.cost.energy_j


@dataclass(frozen=True, eq=False)
class StepFigures:
    """Sums over the kernels of many steps, one entry per step."""

    time_s: Array
    """The whole step: every stage, every hop, the engine's own time."""
    limit_s: Array
    """The physical limit; never above ``time_s``."""
    energy_j: Array
    """One device of each stage."""
    spread: Array
    """Standard deviation of log(true / predicted)."""
    shares: Mapping[str, Array]
    """Share of the time by what bounds it, see :data:`~steelyard.cost.cost.BOUNDS`; hops count as network."""
    sources: Mapping[str, str]
    """Where the parameters of each cost model come from."""

    def at(self, index: Any) -> StepFigures:
        """The figures of some of the steps, or of each several times."""
        shares = {name: share[index] for name, share in self.shares.items()}
        figures = {name: getattr(self, name)[index] for name in _ARRAYS}
        return StepFigures(**figures, shares=shares, sources=self.sources)

    @property
    def bound(self) -> NDArray[np.str_]:
        """Name of the largest share."""
        largest = np.argmax(np.stack([self.shares[name] for name in BOUNDS]), axis=0)
        return np.asarray(np.asarray(BOUNDS)[largest])


#: Figures of :class:`StepFigures` that are arrays.
_ARRAYS = ("time_s", "limit_s", "energy_j", "spread")


@dataclass(frozen=True, eq=False)
class Replica:
    """What prices a step: a model on the devices of one replica, under a plan and an engine.

    Args:
        model: the workload.
        plan: a resolved plan.
        cluster: the devices and the links between them.
        engine: serving engine.
        skew: exponent of the power law of expert popularity, 0 = balanced; counts wherever there are experts.
        head_format: format of the output head where the files quantise it too; empty = as the plan has it.
        effects: what techniques change of the kernels and their prices, in their order.
    """

    model: Workload
    plan: Plan
    cluster: Cluster
    engine: Engine
    skew: float = 0.0
    head_format: str = ""
    effects: tuple[Effect, ...] = ()

    @property
    def plain(self) -> Replica:
        """The same without effects."""
        return replace(self, effects=())

    def without(self, kind: type[Effect]) -> Replica:
        """The same without the effects of a kind."""
        return replace(self, effects=tuple(x for x in self.effects if not isinstance(x, kind)))

    def price(
        self, step: Step, *, decode: bool = True, absorb: bool | None = None, keep: Callable[[Op], bool] | None = None
    ) -> StepPrice:
        """Price a step of the replica.

        Args:
            step: what is processed, per replica; sizes may be arrays over steps.
            decode: whether the step is a captured graph where the engine uses them for decoding.
            absorb: for latent attention, whether attention reads the latent cache directly; default: when one new
                token per sequence is processed.
            keep: only the ops for which this holds; without: all.
        """
        program = self.lower(step, absorb, keep) if decode else self.in_pieces(step, absorb, keep)
        cost = self.cost(program, decode=decode)
        hop_s = self.hop_s(step.tokens)
        time_s = cost.time_s + hop_s
        return StepPrice(program, cost, hop_s, time_s)

    def prompts(self, batch: Array, new: Array) -> StepFigures:
        """Steps of ``new`` prompt tokens of each of ``batch`` sequences, ``[n]``; equal steps are priced once."""
        distinct, where = distinct_pairs(batch, new)
        single = distinct[1] <= 1  # a prompt of one token is lowered as a decode
        parts = [np.flatnonzero(x) for x in (~single, single) if x.any()]
        found = _joined([self._prompts(*distinct[:, part]) for part in parts])
        place = np.argsort(np.concatenate(parts))
        return found.at(place[where])

    def _prompts(self, batch: Array, new: Array) -> StepFigures:
        found = self.price(Step.prefill(batch, new), decode=False)
        sums = _Sums.of(found.cost.kernels, len(batch))
        return self._figures(sums, found.program, found.hop_s, decode=False)

    def decodes(self, batch: Array, context: Array) -> StepFigures:
        """Steps of one token for each of ``batch`` sequences whose caches then hold ``context`` tokens, ``[n]``.

        Everything but attention depends on the batch alone: it is priced once per distinct batch. Attention is priced
        at every point, in pieces that stay in the processor's cache.
        """
        distinct, where = distinct_values(batch)
        reading = self._reads_context()
        rest = self.lower(Step.decode(distinct, 1.0), keep=lambda op: _part(op) not in reading)
        sums = _Sums.of(self.cost(rest).kernels, len(distinct)).at(where)
        sequence: tuple[Kernel, ...] = ()
        for start in range(0, len(batch), PIECE):
            piece = slice(start, start + PIECE)
            part = self.lower(Step.decode(batch[piece], context[piece]), keep=lambda op: _part(op) in reading)
            sequence = tuple(k for k in part.kernels if k.kind != "collective")
            sums.add(self.cost(replace(part, kernels=sequence)).kernels, piece)
        program = replace(rest, kernels=(*sequence, *rest.kernels))
        return self._figures(sums, program, self.hop_s(distinct), decode=True, where=where)

    def verifies(self, batch: Array, context: Array, queries: int) -> StepFigures:
        """Steps of ``queries`` tokens for each of ``batch`` sequences, all their next tokens looked at, ``[n]``.

        Attention reads a sequence's cache once for them all; ``context`` is the length of the caches then.
        """
        many = np.asarray(batch, dtype=np.float64)
        held = np.maximum(context, queries)
        return self.steps(Step(many, queries, held, many * queries, guesses=queries > 1), queries=queries)

    def steps(self, step: Step, *, queries: int = 0) -> StepFigures:
        """Figures of steps whose sizes are arrays ``[n]``.

        Args:
            step: what is processed.
            queries: tokens of each sequence that a decode verifies at once; 0: the new tokens are of prompts.
        """
        program = self.lower(step, absorb=True) if queries else self.in_pieces(step)
        if queries > 1:
            program = verifying(program, queries)
        sums = _Sums.of(self.cost(program, decode=queries > 0).kernels, len(np.atleast_1d(step.tokens)))
        return self._figures(sums, program, self.hop_s(step.tokens), decode=queries > 0)

    def _reads_context(self) -> frozenset[str]:
        """Parts of a decode step (see :func:`_part`) whose work depends on the context."""
        graph = self.model.graph(Step.decode(np.array([4.0, 4.0]), np.array([2.0, 160.0])), absorb=True)
        return frozenset(_part(op) for op in graph if any(_varies(x) for x in _extents(op)))

    def _figures(
        self, sums: _Sums, program: Program, hop_s: Any, *, decode: bool, where: Any = slice(None)
    ) -> StepFigures:
        """Figures from sums over kernels: with the engine's own time, hops and static power.

        Args:
            sums: over the kernels, ``[n]``.
            program: all kernels, for the engine's own time.
            hop_s: between stages.
            decode: as of :meth:`price`.
            where: entry of the program's and hops' sizes for each of the ``n``.
        """
        machine, n = self.cluster.machine, len(sums.time_s)
        waiting, host, hop = (
            np.asarray(x, dtype=np.float64)[where] if np.ndim(x) else np.full(n, float(x))
            for x in (*self.engine_times(program, decode=decode), hop_s)
        )
        busy = sums.time_s
        overhead = waiting + np.maximum(0.0, host - busy)
        alone = busy + overhead  # without hops
        time = alone + hop
        total = np.maximum(time, 1e-30)
        shares = dict(zip(BOUNDS, sums.bound_s / total, strict=True))
        shares["network"] = shares["network"] + hop / total
        shares["overhead"] = shares["overhead"] + (time - busy - hop) / total
        energy = with_static_power(sums.energy_j, alone, static_power_w(machine), machine.most_w)
        spread = np.asarray(spread_of_sum(sums.weighted_s.values(), overhead, alone))
        return StepFigures(time, sums.limit_s, energy, spread, shares, sums.sources)

    def lower(self, step: Step, absorb: bool | None = None, keep: Callable[[Op], bool] | None = None) -> Program:
        """The kernels of a step on one device. Arguments as of :meth:`price`."""
        if self.engine.whole_logits and step.logits is None:
            step = replace(step, logits=step.tokens)
        shared = np.asarray(step.tokens) * self.plan.dp if self.plan.shares_experts else step.expert_tokens
        graph = self.model.graph(replace(step, expert_tokens=shared).routed(self.skew), absorb=absorb)
        program = lower(graph if keep is None else graph.where(keep), self.plan, self.cluster.machine)
        if self.cluster.unlike:
            program = shared_out(program, graph, self.cluster)
        if self.plan.offload and self.cluster.host is not None:
            program = hosted(program, graph, self.cluster.host, self.model.depth)
        if self.head_format:
            head = find_format(self.head_format)
            program = replace(program, kernels=tuple(_stored(k, head) for k in program.kernels))
        program = replace(program, step=step, absorb=absorb)
        for effect in self.effects:
            program = effect.lowered(program, self)
        return program

    def in_pieces(self, step: Step, absorb: bool | None = None, keep: Callable[[Op], bool] | None = None) -> Program:
        """The kernels of a step of prompts on one device, micro-batch by micro-batch where the engine cuts it.

        Attention over the cache is that of the whole step, which adds up over the pieces.
        """
        whole, rounds = self.lower(step, absorb, keep), self.rounds(step.tokens)
        if np.all(rounds == 1.0):
            return whole
        reading = self._reads_context()
        form = bool(np.all(np.asarray(step.new) <= 1)) if absorb is None else absorb  # however short a piece
        small = replace(step, new=np.asarray(step.new) / rounds, context=np.asarray(step.context) / rounds)
        piece = {k.name: k for k in self.lower(small, form, keep)}

        def cut(kernel: Kernel) -> Kernel:
            if (
                kernel.block in ("head", "norm")
                or kernel.name not in piece
                or any(_part(x) in reading for x in kernel.ops)
            ):
                return kernel
            return replace(piece[kernel.name], count=kernel.count * rounds)

        return replace(whole, kernels=tuple(cut(k) for k in whole))

    def rounds(self, tokens: Size) -> Any:
        """Micro-batches of a step, the last as a part of one; 1 where the engine or the model allows none."""
        most = self.engine.micro_batch_tokens if self.model.causal else 0.0
        return np.maximum(1.0, np.asarray(tokens, dtype=np.float64) / (most or np.inf))

    def cost(self, program: Program, *, decode: bool = True) -> Cost:
        """Price kernels of one device, without hops; as a measured run of the engine moves them.

        Micro-batches of a prompt that follow each other through the stages take less than the stages in a row.
        """
        found, step = price(program, self.cluster, self.engine, decode=decode), self.engine.moved.step
        for effect in self.effects:
            found = effect.priced(found, program, self)
        frac, least = (self.pieces_frac(program.tokens, even=x) for x in (False, True))
        if step == 1.0 and np.all(frac == 1.0):
            return found
        limited = [(k, k.limit_s * least) for k in found.kernels]
        moved = [replace(k, limit_s=x, time_s=np.maximum(k.time_s * frac * step, x)) for k, x in limited]
        waiting, host = self.engine_times(program, decode=decode)
        busy = sum(k.time_s for k in moved)
        return replace(found, kernels=tuple(moved), overhead_s=waiting + np.maximum(0.0, host - busy))

    def engine_times(self, program: Program, *, decode: bool) -> tuple[Any, Any]:
        """See :func:`steelyard.cost.price.engine_times`; the stages' own overlap as their kernels do."""
        frac = self.pieces_frac(program.tokens)
        waiting, host = engine_times(program, self.cluster, self.engine, decode=decode)
        return waiting * frac, host * frac

    def pieces_frac(self, tokens: Size, *, even: bool = False) -> Any:
        """See :func:`steelyard.cost.pipeline.pieces_frac`; ``even``: the least it could be, in equal shares."""
        return pieces_frac(self.engine, self.plan, np.inf if even else self.model.depth, tokens)

    def hop_s(self, tokens: Size) -> Any:
        """Time (s) that the hidden states of ``tokens`` tokens spend between the stages of the pipeline."""
        return boundary(self.model, self.plan, self.cluster, tokens) * (self.plan.pp - 1) * self.pieces_frac(tokens)

    def paces(self, batch: float, context: float) -> float:
        """How many times faster steps follow each other in a pipeline than one passes through it.

        ``sum(T_stage) / max(T_stage)`` of a decode of ``batch`` sequences: the stages, where all devices are alike.
        """
        if not self.cluster.unlike:
            return float(self.plan.pp)
        step = Step.decode(np.array([batch]), np.array([context]))
        alone = replace(self.plan, pp=1)
        stages = [
            share * float(np.sum(replace(self, plan=alone, cluster=cluster_of(machine)).price(step).time_s))
            for machine, share in self.cluster.shares
        ]
        return sum(stages) / max(stages)

    @property
    def launch_s(self) -> float:
        """Host time (s) to launch one kernel that is not part of a captured graph."""
        return stack_named(self.cluster.machine.launch).launch_s


def verifying(program: Program, queries: Any) -> Program:
    """A program of steps with ``queries`` new tokens per sequence whose attention reads the cache once for them all.

    That is what decode kernels do with guessed tokens: they are further rows of the tile of a head or group.
    """
    kernels = tuple(
        replace(k, features={**k.features, "queries": queries}) if k.kind == "attention" else k for k in program
    )
    return replace(program, kernels=kernels)


def _stored(kernel: Kernel, fmt: Format) -> Kernel:
    """A product of the head with its weights in another format."""
    if kernel.block != "head" or kernel.kind != "gemm":
        return kernel
    ratio = fmt.stored_bits / float(kernel.features["weight_bits"])
    traffic = {**kernel.traffic, "weight": kernel.traffic["weight"] * ratio}
    features = {**kernel.features, "weight_bits": fmt.stored_bits}
    return replace(kernel, features=features, traffic=traffic, weight_format=fmt.base)


def _joined(parts: Sequence[StepFigures]) -> StepFigures:
    """Figures of several groups of steps, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    shares = {name: np.concatenate([p.shares[name] for p in parts]) for name in BOUNDS}
    sources = {k: v for p in reversed(parts) for k, v in p.sources.items()}
    figures = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS}
    return StepFigures(**figures, shares=shares, sources=sources)


#: Steps priced in one piece: a few dozen temporaries of this many numbers stay in a second-level cache.
PIECE = 8192


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over kernels, ``[n]`` each."""

    time_s: Array
    limit_s: Array
    energy_j: Array
    bound_s: Array
    """``[4, n]`` time of the kernels by what bounds them."""
    weighted_s: dict[str, Array]
    """Time x spread by cost model."""
    sources: dict[str, str]

    @classmethod
    def of(cls, kernels: Iterable[KernelCost], n: int) -> _Sums:
        """Sums over some kernels of ``n`` steps."""
        found = cls(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((len(BOUNDS), n)), {}, {})
        found.add(kernels, slice(0, n))
        return found

    def add(self, kernels: Iterable[KernelCost], at: slice) -> None:
        """Add kernels of the steps of a slice."""
        for k in kernels:
            self.time_s[at] += k.time_s
            self.limit_s[at] += k.limit_s
            self.energy_j[at] += k.energy_j
            weighted = self.weighted_s.setdefault(k.model, np.zeros_like(self.time_s))
            weighted[at] += k.time_s * k.spread
            self.sources.setdefault(f"{k.model} model", k.source)
            bound = np.asarray(k.bound)
            for i in np.flatnonzero(np.bincount(bound.reshape(-1))).tolist():
                self.bound_s[i, at] += np.where(bound == i, k.time_s, 0.0)

    def at(self, index: Any) -> _Sums:
        """The sums of some of the steps, or of each several times."""
        weighted = {name: x[index] for name, x in self.weighted_s.items()}
        figures = (self.time_s[index], self.limit_s[index], self.energy_j[index], self.bound_s[:, index])
        return _Sums(*figures, weighted, self.sources)


def _part(op: Op) -> str:
    """What an op is priced with: the ops of its fused kernel, or itself."""
    return op.fuse or op.name


def _extents(op: Op) -> list[Any]:
    return [*op.sizes.values(), *op.domain.values(), *op.visited.values()]


def _varies(size: Any) -> bool:
    values = np.asarray(size)
    return values.size > 1 and bool(np.any(values != values.flat[0]))


def distinct_values(values: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
    """``(distinct values in order, place of each value among them)`` of whole numbers ``[n]``."""
    numbers = np.asarray(values, dtype=np.int64)
    span = int(numbers.max(initial=0)) + 1
    if numbers.min(initial=0) < 0 or span > 4 * len(numbers) + 4096:
        found, where = np.unique(numbers, return_inverse=True)
        return found.astype(np.float64), where.reshape(-1)
    present = np.zeros(span, dtype=np.bool_)  # a table of what occurs is faster than sorting
    present[numbers] = True
    return np.flatnonzero(present).astype(np.float64), (np.cumsum(present) - 1)[numbers]


def distinct_pairs(first: ArrayLike, second: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
    """``([2, m] distinct pairs, place of each pair among them)`` of two columns of whole numbers ``[n]``."""
    rows, row_of = distinct_values(first)
    columns, column_of = distinct_values(second)
    keys, where = distinct_values(row_of * len(columns) + column_of)
    row, column = np.divmod(keys.astype(np.int64), max(len(columns), 1))
    return np.stack([rows[row], columns[column]]), where
