"""``sy.simulate``: traffic in words, a serving engine in its own flags, a :class:`Simulation` out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all
from steelyard.scenario.slo import Target, parse_target

if TYPE_CHECKING:
    from steelyard.machine.cluster import Cluster
    from steelyard.machine.component import Machine
    from steelyard.scenario.parse import Shape
    from steelyard.simulation.deployments.semi_pd import SemiPD
    from steelyard.simulation.deployments.split_ffn import SplitFFN
    from steelyard.simulation.policies import Policy
    from steelyard.simulation.result import Simulation
    from steelyard.simulation.run import Options
    from steelyard.simulation.techniques import Extras
    from steelyard.techniques.changes import Autoscale, Changes, Outage
    from steelyard.traffic.lengths import Lengths
    from steelyard.traffic.trace import Trace
    from steelyard.workload.catalogue import Model

__all__ = ["Problems", "branched", "changes_of", "check_words", "extras_of", "serve", "simulate", "targets_of"]


_T = TypeVar("_T")
#: Stands for the machine of ``on`` where a side names none.
HERE = "--on"


class Problems:
    """Reads one thing after another and keeps what is wrong with any of them."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def read(self, reader: Callable[[], _T]) -> _T:
        """What ``reader`` gives; when its input is wrong nothing, and ``done`` will raise."""
        try:
            return reader()
        except InputError as error:
            self.found += error.problems
            return cast(_T, None)

    def done(self) -> None:
        """Raise :class:`InputError` with everything found."""
        raise_all(self.found)


def simulate(
    model: str | Model,
    on: str | Cluster | Machine,
    *,
    trace: str | Path | Trace = "",
    rate: str | float = "",
    concurrency: int | None = None,
    workflow: str | Path = "",
    isl: str | int | Lengths = "",
    osl: str | int | Lengths = "",
    requests: int | None = None,
    duration: str | float = "",
    start: str | float = "",
    arrivals: str = "",
    burst: float | None = None,
    peak: str | float = "",
    turns: str | int | Lengths = "",
    think: str | float = "",
    system: int = 0,
    seed: int = 0,
    weights: str = "",
    activations: str = "",
    kv: str = "",
    communication: str = "",
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int = 1,
    cp: int = 1,
    engine: str = "",
    flags: Mapping[str, Any] | None = None,
    policy: str | type[Policy] | Policy = "fcfs",
    router: str = "round-robin",
    replicas: int = 1,
    disaggregate: str = "",
    transfer_overlap: float = 0.0,
    encode_s: float | None = None,
    mtbf: str | float = "",
    restart: str | float = "",
    outages: str | Sequence[Outage] = "",
    autoscale: str | Autoscale = "",
    migrate: bool = False,
    speculate: str = "",
    lora: str = "",
    kv_tiers: str = "",
    early_exit: str = "",
    finetune: str = "",
    overlap: str = "",
    best_of: int | None = None,
    beam: int | None = None,
    ttft: str = "",
    tpot: str = "",
    e2e: str = "",
    skew: float = 0.0,
    usd_per_hour: float | None = None,
    generic: bool = False,
    stop_after_s: float | None = None,
) -> Simulation:
    """Send traffic through a serving engine and say what its users see.

    Args:
        model, on, weights, activations, kv, communication, tp, pp, dp, ep, cp, skew, usd_per_hour, generic:
            as for :func:`steelyard.estimate`.
        trace: a file, a name (``azure_conv``) or a :class:`~steelyard.traffic.Trace`.
        rate, concurrency, workflow, isl, osl, requests, duration, start, arrivals, burst, peak, turns, think, system:
            the traffic when there is no trace, or what is done to it: see :class:`~steelyard.traffic.Traffic`.
        seed: fixes everything drawn.
        engine: ``vllm``, ``sglang``, ``trtllm``, ... or a scheduler alone: ``static``, ``orca``, ``tgi``, ``sarathi``.
        flags: the engine's own flags, by its own names.
        policy: order of the waiting queue: a name, ``FILE.py:CLASS`` (runs that file) or a class; see
            :mod:`steelyard.simulation.policies._base`.
        router: which replica gets a request.
        replicas: copies of the deployment that ``on`` describes.
        disaggregate: pools for prompts and answers, ``1P:tp8,1D:tp8``, ``2P:tp4,1D:tp8dp2``, a machine of their own
            ``1P:tp8@h100_sxm``, encoders ``1E:tp1``, see :func:`steelyard.scenario.parse.parse_pools`; attention and
            feed-forward devices ``1A:8@h20,1F:8@h800``, see
            :func:`steelyard.simulation.deployments.split_ffn.parse_split`; prompts and
            answers on shares of the same devices ``semi:0.6``, see
            :func:`steelyard.simulation.deployments.semi_pd.parse_semi`.
        transfer_overlap: share of a KV cache that is sent while its prompt is computed.
        encode_s: s of an encoder before each prompt, with a pool ``E``.
        mtbf, restart: mean time between failures of a replica (drawn), ``6h``, and until it serves again, ``3min``.
        outages: given ones, ``10min:0:down,15min:0:up``: time, replica, what.
        autoscale: ``1:8`` replicas of each pool, or ``1:8,target=16,interval=30s,start=2min``; ``replicas`` is then
            what there may be at most.
        migrate: running requests move to the replica with the most room instead of giving way (Llumnix).
        speculate: how tokens are guessed, ``eagle:k=4``, ``draft:llama-3.2-1b,k=4,accept=0.7``, ``ngram``, ``medusa``,
            ``mtp``, ``tree:width=4,depth=4,by=medusa``, any chain ``...,adaptive``; see
            :func:`steelyard.techniques.speculate.parse_speculation`.
        lora: adapters, ``100,zipf=1,rank=16,max_loras=8``; see :func:`steelyard.techniques.adapters.parse_adapters`.
        kv_tiers: levels below the device's cache, ``cpu:200GB,ssd:2TB,swap``; see
            :func:`steelyard.techniques.tiers.parse_tiers`.
        early_exit: ``ramps=3,p=0.3``, ``rebatch:ramps=3,p=0.3``; see
            :func:`steelyard.techniques.early_exit.parse_early_exit`.
        finetune: finetuning in the room of steps shorter than this, ``30ms``; see
            :func:`steelyard.techniques.finetune.parse_finetune`.
        overlap: kernels that run beside each other, ``nanoflow`` or ``tokenweave``.
        best_of: answers drawn for every prompt, which they share; beam: beams of equal length. Rows of the records
            are answers; see :func:`steelyard.traffic.branches.best_of`.
        ttft, tpot, e2e: promises such as ``p99:1s``; goodput counts requests within all the limits.
        stop_after_s: simulated time after which to stop.

    Returns:
        a :class:`~steelyard.simulation.result.Simulation`; the same arguments give the same records.

    Raises:
        InputError: every problem of the arguments at once, or of the trace's rows.
        DoesNotFit: weights and one block of cache do not fit.
    """
    from steelyard.traffic.build import Traffic, traffic
    from steelyard.traffic.trace import Trace

    problems = Problems()
    targets = problems.read(lambda: targets_of(ttft=ttft, tpot=tpot, e2e=e2e))
    changes = problems.read(
        lambda: changes_of(mtbf=mtbf, restart=restart, outages=outages, autoscale=autoscale, migrate=migrate)
    )
    extras = problems.read(
        lambda: extras_of(
            speculate=speculate,
            lora=lora,
            kv_tiers=kv_tiers,
            early_exit=early_exit,
            finetune=finetune,
            overlap=overlap,
        )
    )
    problems.read(lambda: check_words(engine, disaggregate))
    ready = trace if isinstance(trace, Trace) else None
    asked = Traffic(
        "" if isinstance(trace, Trace) else trace,
        rate,
        concurrency,
        workflow,
        isl,
        osl,
        requests,
        duration,
        start,
        arrivals,
        burst,
        peak,
        turns,
        think,
        system,
        seed,
    )
    if ready is not None:
        unused = [f.name for f in dataclasses.fields(asked) if f.name != "seed" and getattr(asked, f.name) != f.default]
        problems.found += [
            Problem(name, "the trace given is sent as it is; change it with its own methods") for name in unused
        ]
    sent = problems.read(lambda: branched(traffic(asked) if ready is None else ready, best_of, beam))
    problems.done()
    return serve(
        model,
        on,
        sent,
        targets,
        weights=weights,
        activations=activations,
        kv=kv,
        communication=communication,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        cp=cp,
        engine=engine,
        flags=flags,
        policy=policy,
        router=router,
        replicas=replicas,
        disaggregate=disaggregate,
        transfer_overlap=transfer_overlap,
        encode_s=encode_s,
        changes=changes,
        extras=extras,
        seed=seed,
        skew=skew,
        usd_per_hour=usd_per_hour,
        generic=generic,
        stop_after_s=stop_after_s,
    )


def extras_of(
    *,
    speculate: str = "",
    lora: str = "",
    kv_tiers: str = "",
    early_exit: str = "",
    finetune: str = "",
    overlap: str = "",
) -> Extras | None:
    """What the engine does beyond scheduling; None when nothing was said. Raises :class:`InputError`."""
    if not (speculate or lora or kv_tiers or early_exit or finetune or overlap):
        return None
    from steelyard.simulation.techniques import read_extras

    return read_extras(
        speculate=speculate, lora=lora, kv_tiers=kv_tiers, early_exit=early_exit, finetune=finetune, overlap=overlap
    )


def branched(trace: Trace, best_of: int | None = None, beam: int | None = None) -> Trace:
    """The trace with several answers or beams for every prompt. Raises :class:`InputError`."""
    if best_of is not None and beam is not None:
        raise InputError("choose one of --best-of and --beam", field="beam")
    width = best_of if best_of is not None else beam
    if width is None:
        return trace
    from steelyard.traffic.branches import best_of as branches

    return branches(trace, width, beam=beam is not None).trace


def targets_of(*, ttft: str = "", tpot: str = "", e2e: str = "") -> tuple[Target, ...]:
    """The promises given, in this order. Raises :class:`InputError` with every problem."""
    problems: list[Problem] = []
    found = []
    for metric, text in (("ttft_s", ttft), ("tpot_s", tpot), ("e2e_s", e2e)):
        if text:
            try:
                found.append(parse_target(text, metric))
            except InputError as error:
                problems += error.problems
    raise_all(problems)
    return tuple(found)


def serve(
    model: str | Model,
    on: str | Cluster | Machine,
    trace: Trace,
    targets: Sequence[Target] = (),
    *,
    weights: str = "",
    activations: str = "",
    kv: str = "",
    communication: str = "",
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int = 1,
    cp: int = 1,
    engine: str = "",
    flags: Mapping[str, Any] | None = None,
    policy: str | type[Policy] | Policy = "fcfs",
    router: str = "round-robin",
    replicas: int = 1,
    disaggregate: str = "",
    transfer_overlap: float = 0.0,
    encode_s: float | None = None,
    watch: Callable[[Any], None] | None = None,
    changes: Changes | None = None,
    extras: Extras | None = None,
    seed: int = 0,
    skew: float = 0.0,
    usd_per_hour: float | None = None,
    generic: bool = False,
    stop_after_s: float | None = None,
) -> Simulation:
    """A trace through an engine, the arguments as for :func:`simulate`."""
    import time

    from steelyard.scenario.parse import Shape, cluster_from, deployment_of
    from steelyard.simulation.run import Options, run
    from steelyard.simulation.techniques import Extras
    from steelyard.techniques.changes import Changes

    started = time.perf_counter()
    name, scheduler = engine_and_scheduler(engine)
    given = dict(flags or {})
    if scheduler:
        given.setdefault("scheduler", scheduler)
    options = Options(
        policy,
        seed,
        {t.metric: t.limit_s for t in targets},
        skew,
        usd_per_hour,
        generic,
        stop_after_s,
        transfer_overlap=transfer_overlap,
        encode_s=encode_s,
        watch=watch,
        changes=changes or Changes(),
        extras=extras or Extras(),
    )
    shape = Shape(weights, activations, kv, communication, tp, pp, dp, ep, cp, name)
    if disaggregate:
        from steelyard.simulation.deployments.semi_pd import parse_semi
        from steelyard.simulation.deployments.split_ffn import parse_split

        semi = parse_semi(disaggregate)
        split = None if semi else parse_split(disaggregate, HERE)
        if semi or split:
            asked = _Special(model, cluster_from(on), shape, trace, options, given, router, replicas, _machine_of(on))
            return asked.divided(semi) if semi else asked.split(split)
    prepared = deployment_of(
        model, on, shape, trace, options, router=router, flags=given, replicas=replicas, disaggregate=disaggregate
    )
    return run(prepared, started)


def changes_of(
    *,
    mtbf: str | float = "",
    restart: str | float = "",
    outages: str | Sequence[Outage] = "",
    autoscale: str | Autoscale = "",
    migrate: bool = False,
) -> Changes:
    """Failures, autoscaling and moving requests from words. Raises :class:`InputError`."""
    from steelyard.techniques.changes import Changes, parse_autoscale, parse_outages
    from steelyard.units import parse_quantity

    problems = Problems()

    def seconds(value: str | float, name: str) -> float:
        return float(parse_quantity(value, "s", name) if isinstance(value, str) else value)

    times = {
        f"{name}_s": problems.read(partial(seconds, value, name))
        for name, value in (("mtbf", mtbf), ("restart", restart))
        if value != ""
    }
    given = problems.read(
        lambda: (parse_outages(outages) if outages else ()) if isinstance(outages, str) else tuple(outages)
    )
    scale = problems.read(
        lambda: (parse_autoscale(autoscale) if autoscale else None) if isinstance(autoscale, str) else autoscale
    )
    problems.done()
    return Changes(**times, outages=given, autoscale=scale, migrate=migrate)


def check_words(engine: str, disaggregate: str) -> None:
    """Refuse an unknown engine and words about pools that cannot be read. Raises :class:`InputError` with every one."""
    from steelyard.scenario.parse import read_pools
    from steelyard.simulation.deployments.semi_pd import parse_semi
    from steelyard.simulation.deployments.split_ffn import parse_split

    problems = Problems()
    problems.read(lambda: engine_and_scheduler(engine))
    if disaggregate:
        problems.read(lambda: parse_semi(disaggregate) or parse_split(disaggregate, HERE) or read_pools(disaggregate))
    problems.done()


def _machine_of(on: str | Cluster | Machine) -> str:
    """The words for one device of what was given: a name, or the path of a file."""
    if not isinstance(on, str):
        return str(getattr(getattr(on, "machine", on), "name", ""))
    name, colon, count = on.rpartition(":")
    return name.strip() if colon and count.strip().isdigit() else on.strip()


@dataclasses.dataclass(frozen=True)
class _Special:
    """A question about one replica whose devices do not all do the same."""

    model: str | Model
    cluster: Cluster
    shape: Shape
    trace: Trace
    options: Options
    flags: Mapping[str, Any]
    router: str
    replicas: int
    machine: str
    """The words for one of its devices."""

    def _refuse(self, **unusable: bool) -> None:
        words = "not together with these devices: leave it out"
        problems = self.shape.problems()
        problems += [Problem(name, words) for name, given in unusable.items() if given]
        raise_all(problems)

    def _loaded(self) -> tuple[Model, str]:
        from steelyard.workload.catalogue import Model, load_model

        if isinstance(self.model, Model):
            return self.model, self.model.transformer.name
        return load_model(self.model, generic=self.options.generic), self.model

    def divided(self, semi: SemiPD) -> Simulation:
        """Prompts and answers on shares of the same devices."""
        from steelyard.scenario.parse import plan_of
        from steelyard.simulation.deployments.semi_pd import simulate_semi

        o = self.options
        self._refuse(
            replicas=self.replicas != 1, transfer_overlap=o.transfer_overlap != 0, encode_s=o.encode_s is not None
        )
        loaded, name = self._loaded()
        return simulate_semi(
            loaded,
            name,
            self.cluster,
            semi,
            self.trace,
            o,
            plan=plan_of(loaded, self.cluster, self.shape),
            flags=self.flags,
            router=self.router,
        )

    def split(self, split: SplitFFN | None) -> Simulation:
        """Attention and feed-forward on devices of their own."""
        from steelyard.simulation.deployments.split_ffn import simulate_split

        assert split is not None
        o, s = self.options, self.shape
        self._refuse(
            tp=s.tp is not None,
            pp=s.pp is not None,
            dp=s.dp is not None,
            ep=s.ep != 1,
            cp=s.cp != 1,
            replicas=self.replicas != 1,
            transfer_overlap=o.transfer_overlap != 0,
            encode_s=o.encode_s is not None,
            changes=o.changes.any,
        )
        used = sum(side.count for side in (split.attention, split.feed_forward) if side.machine == HERE)
        if used not in (0, self.cluster.count):
            words = f"the sides use {used} devices, but {self.cluster} has {self.cluster.count}"
            raise InputError(words, field="disaggregate")
        a, f = (
            dataclasses.replace(side, machine=self.machine) if side.machine == HERE else side
            for side in (split.attention, split.feed_forward)
        )
        there = dataclasses.replace(split, attention=a, feed_forward=f)
        return simulate_split(
            self._loaded()[0], there, self.trace, o, plan=s.plan(1, 1, 1), flags=self.flags, router=self.router
        )


def engine_and_scheduler(name: str) -> tuple[str, str]:
    """``(engine, scheduler)``: an engine of the catalogue with its own scheduler, or a scheduler on the usual engine.

    Raises:
        UnknownName: neither.
    """
    from steelyard.deployment.engine import engines, find_engine, schedulers

    if not name:
        return "", ""
    try:
        return find_engine(name).name, ""
    except UnknownName:
        for scheduler in schedulers():
            if normalise(scheduler) == normalise(name):
                return "", scheduler
    raise UnknownName("engine", name, [*engines(), *schedulers()])
