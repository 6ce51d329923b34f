"""Rows of runs as questions: what one states of model, devices, engine and load, and every figure of the answer.

Rows that agree in deployment share one step table, rows that agree in load one simulation. A load is what a user says
to ``simulate`` (:class:`~steelyard.traffic.build.Traffic`); one user with fixed lengths is a static batch of
``estimate``; llama-bench's rows are single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.engine_config import configured
from steelyard.errors import SteelyardError
from steelyard.machine.catalogue import find_machine, find_network
from steelyard.machine.cluster import cluster_of
from steelyard.machine.component import Link
from steelyard.machine.power import limited
from steelyard.measurements.reader import Ask, Comparison, Floats, comparison, machine_name
from steelyard.simulation.draws import draw_of, draw_of_rate
from steelyard.simulation.metrics import power_interval
from steelyard.traffic.build import Traffic, traffic
from steelyard.traffic.trace import Trace
from steelyard_validation.blocks import block_of
from steelyard_validation.readers._serve import Played, Service, ranged
from steelyard_validation.readers._whole import Placed, Shown, deploy, known_model, static_batch
from steelyard_validation.readers.llamacpp import rates

if TYPE_CHECKING:
    from pathlib import Path

    from steelyard.simulation.result import Simulation

__all__ = ["Bench", "Place", "Row", "compared"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row ran."""

    model: str
    machine: str
    engine: str
    weights: str = ""
    kv: str = ""
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    flags: tuple[tuple[str, Any], ...] = ()
    peers: str = ""
    """Network between the devices, where it is another than the machine's."""
    staged: bool = False
    """What crosses it goes through the host's memory; else the devices read each other's."""
    power_w: float = 0.0
    """Limit of a board's power where it is another than the machine's."""
    speculate: str = ""
    """How tokens are guessed, as ``--speculate`` says it."""
    static: bool = False
    """Its loads are batches of equal requests without a scheduler, as ``estimate`` answers them."""
    rail: bool = False
    """Its power is that of the rail of the cores, without what the memory draws."""
    note: str = ""
    """What sets its runs apart, behind the name of the family."""

    def placed(self) -> Placed | str:
        """The deployment, or why there is none."""
        found = deploy(
            self.model,
            self.machine,
            tp=self.tp,
            pp=self.pp,
            dp=self.dp,
            ep=self.ep,
            weights=self.weights,
            kv=self.kv,
            engine=self.engine,
        )
        if isinstance(found, str):
            return found
        if dict(self.flags).get("enforce_eager"):
            found = replace(found, engine=configured(found.engine, found.cluster.machine, {"enforce_eager": True}))
        if not (self.peers or self.power_w or self.rail):
            return found
        machine = found.cluster.machine
        if self.peers:
            network = find_network(self.peers)
            kept = tuple(replace(x, peer_access=not self.staged) for x in machine.link if x.role != "peer")
            machine = replace(machine, link=(*kept, Link("peer", network.name, network.bandwidth_bytes_per_s)))
        machine = limited(machine, self.power_w) if self.power_w else machine
        if self.rail:
            levels = tuple(x if x.inside else replace(x, energy_j_per_byte=0.0) for x in machine.memory)
            machine = replace(machine, memory=levels)
        return replace(found, cluster=cluster_of(machine, found.plan.devices))

    @property
    def family(self) -> str:
        """What mixes its tokens, its model and its format."""
        found = known_model(self.model)
        block = block_of(found.transformer) if found else "unknown"
        name = f"{block}: {self.model.rpartition('/')[2]} {self.weights or 'as published'}"
        return f"{name}, {self.note}" if self.note else name


@dataclass(frozen=True, slots=True)
class Bench:
    """One test of llama-bench: ``n`` tokens of each of ``batch`` sequences read or written behind ``depth``."""

    phase: str
    n: int
    depth: int = 0
    ubatch: int = 512
    batch: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure and its question."""

    place: Place
    load: Traffic | Bench | None
    """None: what the row states is not enough, see ``why``."""
    metric: str
    """``ttft_s``, ``tpot_s``, ``itl_s``, ``e2e_s``, ``tokens_per_s``, ``decode_tokens_per_s`` (of one request),
    ``wall_tokens_per_s`` (of one request, its prompt included), ``prompt_tokens_per_s``, ``requests_per_s``,
    ``power_w`` (all devices, mean over the run), ``chip_power_w`` (the same without what they draw when idle)."""
    stat: str
    """``mean``, or a percentile: ``p50``."""
    measured: float
    why: str = ""
    split: str = "all"
    """What the row was to a fit, see :data:`steelyard.measurements.reader.SPLITS`."""
    copies: int = 1
    """Equal replicas that share the load; a rate is that of all."""


#: What a table's page calls a figure, where that is not its own name.
_SHOWN = {
    "decode_tokens_per_s": ("decode", "tokens_per_s"),
    "prompt_tokens_per_s": ("prefill", "tokens_per_s"),
    "wall_tokens_per_s": ("one request", "tokens_per_s"),
    "tokens_per_s": ("serve", "tokens_per_s"),
}
#: Percentiles that are shown under the figure's own name; the others are figures apart.
_MIDDLE = ("mean", "p50")


def compared(rows: Sequence[Row], path: Path, ask: Ask) -> Iterator[Comparison]:
    """Measured and predicted figures of a table's rows, one comparison per figure and phase."""
    loads: dict[Place, set[Traffic]] = {}
    for row in rows:  # of the whole table, so that a sample is answered from the same step tables
        if isinstance(row.load, Traffic) and not _single(row):
            loads.setdefault(row.place, set()).add(row.load)
    rows = [rows[i] for i in ask.pick(len(rows), path.stem)]
    found, why = _answers(rows, loads)
    labels = [_label(row) for row in rows]
    for label in sorted(set(labels)):
        index = np.flatnonzero([x == label for x in labels])
        mine = [rows[i] for i in index]
        yield comparison(
            ask,
            path.stem,
            phase=label[0],
            metric=label[1],
            machine=[machine_name(r.place.machine) for r in mine],
            family=[r.place.family for r in mine],
            measured=[r.measured for r in mine],
            predicted=found[0, index],
            low=found[1, index],
            high=found[2, index],
            roofline=found[3, index],
            split=[r.split for r in mine],
            why=why[index],
        )


def _label(row: Row) -> tuple[str, str]:
    if isinstance(row.load, Bench):
        return row.load.phase, "tokens_per_s"
    phase, metric = _SHOWN.get(row.metric, ("serve", row.metric))
    if phase == "serve" and row.load is not None and _single(row) and not row.place.static:
        phase = "one user"
    return phase, metric if row.stat in _MIDDLE else f"{row.stat}_{metric}"


def _single(row: Row) -> bool:
    """Whether a row is a static batch: one user with fixed lengths and no guesses, or as its place says."""
    load = row.load
    fixed = isinstance(load, Traffic) and not isinstance(load.isl, str) and not isinstance(load.osl, str)
    one = isinstance(load, Traffic) and load.concurrency == 1 and not row.place.speculate
    return fixed and (one or row.place.static)


def _answers(rows: Sequence[Row], loads: Mapping[Place, Set[Traffic]]) -> tuple[Floats, NDArray[np.str_]]:
    """``[4, n]`` figures (value, low, high, limit) of rows, and why one has none; ``loads``: all of each place."""
    found, why = np.full((4, len(rows)), np.nan), np.full(len(rows), "", dtype=object)
    places: dict[Place, list[int]] = {}
    for i, row in enumerate(rows):
        if row.load is None:
            why[i] = row.why
        else:
            places.setdefault(row.place, []).append(i)
    for place, mine in places.items():
        try:
            at = place.placed()
        except SteelyardError as error:
            at = str(error)
        if isinstance(at, str):
            why[mine] = at
            continue
        played = partial(_loads, loads=loads.get(place, set()))
        for kind, answer in ((_is_bench, _bench), (_is_single, _static), (_is_load, played)):
            chosen = [i for i in mine if kind(rows[i])]
            if not chosen:
                continue
            try:
                found[:, chosen] = answer(at, place, [rows[i] for i in chosen])
            except SteelyardError as error:
                why[chosen] = str(error)
    return found, why.astype(np.str_)


def _is_bench(row: Row) -> bool:
    return isinstance(row.load, Bench)


def _is_single(row: Row) -> bool:
    return _single(row)


def _is_load(row: Row) -> bool:
    return not _is_bench(row) and not _is_single(row)


def _bench(at: Placed, place: Place, rows: Sequence[Row]) -> Floats:
    """Single steps, as llama-bench repeats them."""
    import pandas as pd

    loads = [row.load for row in rows if isinstance(row.load, Bench)]
    frame = pd.DataFrame({n: [getattr(x, n) for x in loads] for n in ("phase", "n", "ubatch", "batch")})
    return np.stack(rates(at, frame.assign(context=[x.depth for x in loads])))


def _static(at: Placed, place: Place, rows: Sequence[Row]) -> Floats:
    """Static batches; one user is a batch of one."""
    loads = [row.load for row in rows if isinstance(row.load, Traffic)]
    isl, osl = (np.array([getattr(x, n) for x in loads], dtype=np.float64) for n in ("isl", "osl"))
    batch = np.array([x.concurrency or 1 for x in loads], dtype=np.float64)
    found = static_batch(at, batch, isl, osl)
    figures: Mapping[str, Callable[[], Shown]] = {
        "ttft_s": lambda: found.ttft,
        "tpot_s": lambda: found.tpot,
        "itl_s": lambda: found.tpot,
        "e2e_s": lambda: found.e2e,
        "decode_tokens_per_s": lambda: found.tpot.rate(1.0),
        "tokens_per_s": lambda: found.e2e.rate(batch * osl),
        "wall_tokens_per_s": lambda: found.e2e.rate(osl),
        "requests_per_s": lambda: found.e2e.rate(batch),
        "prompt_tokens_per_s": lambda: found.ttft.rate(isl),
        "power_w": lambda: found.power_w,
    }
    out = np.full((4, len(rows)), np.nan)
    for metric in {row.metric for row in rows}:
        index = [i for i, row in enumerate(rows) if row.metric == metric]
        out[:, index] = np.stack([np.broadcast_to(x, isl.shape) for x in figures[metric]()])[:, index]
    return out


def sent(load: Traffic) -> Trace:
    """The requests of a load. ``vllm bench serve`` stretches drawn gaps so that the last request comes at n / rate."""
    made = traffic(load if load.rate == "" else replace(load, concurrency=None))
    drawn_s = float(made.arrived_at[-1] - made.arrived_at[0])
    return made.scaled(drawn_s * float(load.rate) / len(made)) if load.rate != "" and drawn_s > 0 else made


@dataclass
class _Plays:
    """The simulations of a deployment, each load once."""

    service: Service
    flags: Mapping[str, Any]
    known: dict[Traffic, Played | str] = field(default_factory=dict)

    def of(self, load: Traffic) -> Played | str:
        if load not in self.known:
            try:
                self.known[load] = self.played(load)
            except SteelyardError as error:
                self.known[load] = str(error)
        return self.known[load]

    def played(self, load: Traffic) -> Played:
        """A load. A rate with a most in flight is an open loop where fewer are, else a closed one."""
        if load.rate == "" or load.concurrency is None:
            return self.service.play(sent(load), self.flags)
        opened = replace(load, concurrency=None)
        found = self.service.play(sent(opened), self.flags)
        if found.middle.totals["in_system_mean"] <= load.concurrency:
            return found
        return self.service.play(traffic(replace(load, rate="", arrivals="")), self.flags)


def _loads(at: Placed, place: Place, rows: Sequence[Row], *, loads: Set[Traffic]) -> Floats:
    """Loads with several users, or drawn ones; the step tables cover ``loads``."""
    flags = dict(place.flags)
    plays = _Plays(Service.for_traces(at, [sent(x) for x in loads], flags, place.speculate), flags)
    out = np.full((4, len(rows)), np.nan)
    failed = ""
    for i, row in enumerate(rows):
        assert isinstance(row.load, Traffic)
        played = plays.of(row.load)
        if isinstance(played, str):
            failed = failed or played
            continue
        runs = (played.middle, *played.ends)
        table = np.array([[_figure(run, row) for run in runs]])
        first = np.array([played.middle.limit_frac]) if row.metric == "ttft_s" else None
        draw = np.array([_draw(played.middle, row)])
        out[:, i] = np.stack(ranged(table, np.full(1, np.nan), first_token=first, draw=draw))[:, 0]
        if row.metric.endswith("power_w"):
            out[1:3, i] = power_interval(*out[:3, i])
    if failed and np.isnan(out[0]).all():
        raise SteelyardError(failed)
    return out


def _draw(run: Simulation, row: Row) -> tuple[float, float]:
    """What another draw of the requests leaves open of a figure."""
    if row.metric in ("tokens_per_s", "requests_per_s"):
        return (draw_of_rate(run, row.metric.replace("tokens", "output_tokens")),) * 2
    return draw_of(run, row.metric, row.stat) if row.metric in ("ttft_s", "tpot_s", "e2e_s") else (0.0, 0.0)


def _figure(run: Simulation, row: Row) -> float:
    """One figure of a simulation."""
    records = run.records
    done = records.completed
    if row.metric == "itl_s":
        return float(run.summary()["itl_s"][row.stat])
    if row.metric in ("tokens_per_s", "requests_per_s"):
        count = records.osl[done].sum() if row.metric == "tokens_per_s" else done.sum()
        return float(count) / run.makespan_s * row.copies
    if row.metric in ("decode_tokens_per_s", "wall_tokens_per_s"):
        one = 1.0 / records.tpot_s if row.metric == "decode_tokens_per_s" else records.osl / records.e2e_s
        return float(np.mean(one[done & np.isfinite(one)]))
    if row.metric in ("power_w", "chip_power_w"):
        machine = find_machine(row.place.machine)
        beside = machine.idle_w * row.place.tp * row.place.pp if row.metric == "chip_power_w" else 0.0
        return (run.energy_j / run.makespan_s - beside) * row.copies
    if row.metric == "prompt_tokens_per_s":
        return float(np.mean(records.isl[done] / records.ttft_s[done]))
    values = getattr(records, row.metric)[done]
    values = values[np.isfinite(values)]
    return float(values.mean() if row.stat == "mean" else np.percentile(values, float(row.stat[1:])))
