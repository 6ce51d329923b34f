"""The price of towers at work: what images and sounds cost before the prompts that they are part of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from steelyard.cost.cost import spread_of_sum
from steelyard.cost.energy import static_power_w
from steelyard.cost.memory import activation_bytes, towers_loaded
from steelyard.cost.price import engine_times
from steelyard.cost.step import Replica, StepFigures, StepPrice
from steelyard.deployment.engine import Engine
from steelyard.deployment.plan import Plan
from steelyard.machine.cluster import Cluster
from steelyard.machine.component import Machine
from steelyard.workload.op import Array, Size
from steelyard.workload.protocol import Workload
from steelyard.workload.reading import Reading, Seen, Shown
from steelyard.workload.step import Step
from steelyard.workload.tower import Native, Sound, Tower

__all__ = ["HOST_SPREAD", "Encoder", "Passes", "start_up_bytes", "tower_plan"]

#: Spread of the log of the host's time for an image: an 80 % interval from a half to twice as long.
HOST_SPREAD = 0.54
#: Side of an image in pixels that is larger than what any tower keeps; length of a sound where nothing limits it.
SIDE, SOUND_S = 16_384, 30.0


def tower_plan(tower: Tower, plan: Plan, machine: Machine, *, fused: bool = True) -> Plan:
    """How a tower runs beside its language model: on the devices of the first stage, in its own format.

    It is split over those of tensor parallelism where engines split it and its heads divide; else each does all of it.
    """
    heads = tower.encoder.heads if tower.encoder is not None else 0
    devices = plan.tp if tower.sharded and heads and heads % plan.tp == 0 else 1
    own = Plan(weights=tower.format, engine=plan.engine, fused=plan.fused and fused)
    return own.over(devices).resolved(tower.format, machine)


@dataclass(frozen=True, eq=False)
class Passes:
    """What the images and sounds of some requests take."""

    time_s: Array
    """``[n]`` of the kernels for each request; requests of a step share a pass."""
    power_w: float = 0.0
    """Mean of one device meanwhile."""
    launches_s: float = 0.0
    """The least that a step with some takes more: the host launches the kernels that read them."""
    host_s: Array | float = 0.0
    """``[n]`` of the host before, while the device goes on."""
    host_workers: float = 1.0
    """Requests that the host of a replica works on at once."""
    parts: Array | int = 1
    """``[n]`` encoders that share the images of a request; ``time_s`` is that of the largest share."""
    host_parts: Array | int = 1
    """``[n]`` hosts that share them; ``host_s`` is that of the largest share."""

    def slower(self, factor: float) -> Passes:
        """With a device so many times as slow; of the host three times as little is known."""
        host_s = self.host_s * factor**3
        return replace(self, time_s=self.time_s * factor, launches_s=self.launches_s * factor, host_s=host_s)

    def shared(self, encoders: int, images: Array, pieces: Array) -> Passes:
        """Of encoders that share each request, so many at most, and nearly evenly.

        Args:
            encoders: at most, for one request.
            images: ``[n]`` of each request, which its hosts share.
            pieces: ``[n]`` tiles of them, each of which a tower reads by itself, which its encoders share.
        """
        parts, hosts = (np.maximum(1.0, np.minimum(encoders, whole)) for whole in (pieces, images))
        time_s, host_s = (
            took * np.ceil(whole / by) / np.maximum(whole, 1)
            for took, whole, by in ((self.time_s, pieces, parts), (self.host_s, images, hosts))
        )
        return replace(self, time_s=time_s, host_s=host_s, parts=parts, host_parts=hosts)

    @property
    def alone_s(self) -> Array:
        """``[n]`` of requests that are read one after another."""
        return np.where(self.time_s > 0, np.maximum(self.time_s, self.launches_s), 0.0)


@dataclass(frozen=True, eq=False)
class Encoder:
    """What reads the images and sounds of requests, on the devices of one replica.

    What one tower reads for the prompts of a step is one pass before it, launched kernel by kernel: it takes the sum of
    its kernels over all images, and as long as its launches at least.
    """

    seen: tuple[Seen, ...]
    plan: Plan
    """Of the language model."""
    cluster: Cluster
    engine: Engine
    _priced: dict[tuple[int, float], tuple[float, float]] = field(default_factory=dict)

    def _plan(self, seen: Seen) -> Plan:
        return tower_plan(seen.tower, self.plan, self.cluster.machine, fused=self.engine.fused_towers)

    def _replica(self, seen: Seen, *, launched: bool = True) -> Replica:
        """What prices a pass over images of one size: the engine's step and its graphs are those of the prompts."""
        cluster = replace(self.cluster, unlike=(), count=1) if self.cluster.unlike else self.cluster
        alone = replace(self.engine, graph=not launched, graph_tokens=np.inf, step_s=0.0, step_s_per_sequence=0.0)
        return Replica(Reading.of(seen), self._plan(seen), cluster, alone)

    @cached_property
    def launches_s(self) -> float:
        """Host time to launch the kernels of a pass of every tower: no step with images takes less."""
        least: dict[str, float] = {}
        for s in self.seen:
            replica = self._replica(s)
            program = replica.lower(Step.prefill(1, max(2, s.positions)))
            _, host = engine_times(program, replica.cluster, replica.engine, decode=False)
            least[s.tower.name] = max(least.get(s.tower.name, 0.0), float(host))
        return sum(least.values())

    def price(self, number: int, images: int) -> StepPrice:
        """A pass over so many images of the size ``seen[number]``, kernel by kernel."""
        seen = self.seen[number]
        return self._replica(seen).price(Step.prefill(images, max(2, seen.positions)), decode=False)

    def figures(self, number: int, images: Array, *, launched: bool = True) -> StepFigures:
        """Passes over ``images`` (``[n]`` whole numbers) of the size ``seen[number]``; none takes no time.

        ``launched``: the device waits for the launches where it is faster.
        """
        seen, count = self.seen[number], np.asarray(images, dtype=np.int64)
        positions = np.full(len(count), max(2, seen.positions))
        found = self._replica(seen, launched=launched).prompts(np.maximum(count, 1), positions)
        some = (count > 0).astype(np.float64)
        return replace(found, time_s=found.time_s * some, limit_s=found.limit_s * some, energy_j=found.energy_j * some)

    def requests(self, batch: Array) -> StepFigures:
        """A pass over all that ``batch`` (``[n]``) requests show, which is a whole number of each."""
        alone = len(self.seen) == 1
        parts = [self.figures(i, batch * round(s.shown.count), launched=alone) for i, s in enumerate(self.seen)]
        return parts[0] if alone else _together(parts, self.launches_s, static_power_w(self.cluster.machine))

    def passes(self, shown: Iterable[Array]) -> Passes:
        """What requests take that show so many of each size, ``[n]`` for one size after another."""
        seconds, joules, host_s = np.zeros(()), np.zeros(()), np.zeros(())
        for i, each in enumerate(shown):
            host_s = host_s + each * self.host_each_s(self.seen[i])
            counts, which = np.unique(each, return_inverse=True)
            if new := [count for count in counts.tolist() if (i, count) not in self._priced]:
                found = self.figures(i, np.array(new), launched=False)
                times = zip(found.time_s.tolist(), found.energy_j.tolist(), strict=True)
                self._priced.update(zip(((i, count) for count in new), times, strict=True))
            known = np.array([self._priced[i, count] for count in counts.tolist()])[which.reshape(-1)]
            seconds, joules = seconds + known[:, 0], joules + known[:, 1]
        power_w = float(joules.sum() / max(seconds.sum(), 1e-30))
        return Passes(seconds, power_w, self.launches_s, host_s, self.engine.image_workers)

    def host_each_s(self, seen: Seen) -> float:
        """Time of the host for one image: decoding, resizing, normalising and carrying it to the engine."""
        pixels = seen.shown.size[0] * seen.shown.size[-1] if seen.shown.kind == "vision" else 0.0
        return pixels / 1e6 * self.engine.image_s_per_megapixel

    def host_s(self, batch: Array, device_s: Array) -> Array:
        """How much later prompts are done for the host's work on the images of ``batch`` requests that come at once.

        The device begins with the first; where the host is slower it waits for the last, ``device_s`` being for all.
        """
        one = sum(s.shown.count * self.host_each_s(s) for s in self.seen)
        rounds = np.maximum(1.0, batch / self.engine.image_workers)
        return np.maximum(one, one * rounds - device_s * (1 - 1 / batch))

    @property
    def remarks(self) -> list[str]:
        """What is assumed, in words."""
        found = []
        for s in self.seen:
            own = self._plan(s)
            where = "" if self.plan.tp == 1 else ", whole on each device"
            where = f", split over {own.tp} devices" if own.tp > 1 else where
            what = f"{s.positions:,} positions of the {s.tower.name} ({own.weights}{where})"
            again = "read anew in every request, before the step of its prompt"
            beside = " beside the prompt, which layers of cross-attention keep" if s.read.beside else ""
            found.append(f"{s.shown.words}: {what} become {s.read.handed:,} tokens each{beside}; {again}")
        host = sum(s.shown.count * self.host_each_s(s) for s in self.seen)
        if host:
            workers = f", {self.engine.image_workers:g} at once" if self.engine.image_workers > 1 else ""
            found.append(
                f"images are decoded, resized and copied by the host in {host * 1e3:,.0f} ms{workers}: a guess"
            )
        return found

    def flops(self) -> float:
        """Operations for all that one request shows."""
        each = ((s.shown.count, Reading.of(s).graph(Step(1, 1, 1))) for s in self.seen)
        return sum(count * float(graph.flops()) for count, graph in each)

    def activation_bytes(self, batch: Size) -> Array:
        """Working set of the largest pass over what ``batch`` requests show, and all that comes out of them."""
        kept = sum(s.read.handed * s.shown.count for s in self.seen) * batch
        widest = np.zeros(np.shape(batch))
        for s in self.seen:
            own = self._plan(s)
            positions = s.positions * s.shown.count * batch
            widest = np.maximum(widest, activation_bytes(Reading.of(s), own, positions, 0.0))
        out = max((outer for s in self.seen for _, _, outer in s.tower.projector), default=0)
        return np.asarray(widest + kept * out * 2.0)


def start_up_bytes(model: Workload, plan: Plan, machine: Machine, budget: int) -> tuple[float, float]:
    """What an engine's start takes that runs the towers on their largest images: working set, and what comes out.

    As vLLM: of what takes most tokens (images, or sounds of half a minute) as many as a step of ``budget`` tokens
    holds, one at least. Nothing where towers are not loaded, or what they compute is not described.
    """
    largest = max(
        (seen for tower in towers_loaded(model, plan) if (seen := _largest(tower)) is not None),
        key=lambda seen: seen.read.handed,
        default=None,
    )
    if largest is None or largest.read.handed < 1:
        return 0.0, 0.0
    items = max(1, budget // largest.read.handed)
    own = tower_plan(largest.tower, plan, machine)
    working = float(activation_bytes(Reading.of(largest), own, items * largest.positions, 0.0))
    out = max((outer for _, _, outer in largest.tower.projector), default=0)
    return working, items * largest.read.handed * out * 2.0


def _largest(tower: Tower) -> Seen | None:
    """The largest image of a tower, or the longest sound; None: not described, or without a limit."""
    rule = tower.rule
    if tower.encoder is None or rule is None:
        return None
    if isinstance(rule, Sound):
        length = rule.longest_s or SOUND_S
        return Seen(Shown(1, (length,)), tower, rule.read_s(length))
    if isinstance(rule, Native) and not (rule.max_pixels or rule.max_edge > 0):
        return None
    return Seen(Shown(1, (SIDE, SIDE)), tower, rule.read(SIDE, SIDE))


def _together(parts: Sequence[StepFigures], launches_s: float, static_w: float) -> StepFigures:
    """Passes as one: their kernels one after another, waiting for the launches where these take longer."""
    busy = sum((p.time_s for p in parts), np.zeros(()))
    total = np.maximum(busy, launches_s)
    whole = np.maximum(total, 1e-30)
    shares = {name: sum(p.shares[name] * p.time_s for p in parts) / whole for name in parts[0].shares}
    shares["overhead"] = shares["overhead"] + (total - busy) / whole
    return StepFigures(
        time_s=total,
        limit_s=sum((p.limit_s for p in parts), np.zeros(())),
        energy_j=sum((p.energy_j for p in parts), np.zeros(())) + static_w * (total - busy),
        spread=spread_of_sum([sum(p.spread * p.time_s for p in parts)], total - busy, total),
        shares=shares,
        sources={k: v for p in reversed(parts) for k, v in p.sources.items()},
    )
