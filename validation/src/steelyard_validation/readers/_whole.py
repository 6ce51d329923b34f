"""Asking Steelyard for steps of whole models, many rows at once, as the readers of whole-model tables need it.

A :class:`Deployment` is a model on devices under a plan and an engine. Its questions are the steps an engine runs
(a prefill, a decode, a mixed step), priced by the same lowering and the same op models as ``estimate``; only the
arithmetic around them (a static batch, a closed loop in closed form) is here; loads played through the simulator are in
``_serve``. Sizes are arrays over rows. Method: ``docs/methods/whole_models.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.cost import Cost
from steelyard.cost.memory import kv_bytes, memory_use, weight_bytes
from steelyard.cost.step import Replica
from steelyard.deployment.engine import Engine, default_engine, find_engine
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import SteelyardError
from steelyard.machine.cluster import Cluster, cluster_of
from steelyard.measurements.reader import Floats, Texts, interval80, machine_of
from steelyard.workload.catalogue import Model, load_model
from steelyard.workload.protocol import Workload
from steelyard.workload.step import Step

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Columns",
    "Deployment",
    "Spans",
    "closed_loop",
    "deploy",
    "eight_bit",
    "known_model",
    "loaded_step",
    "predict",
    "predict_all",
    "static_batch",
    "unbounded_queue",
]

Size = float | int | Floats

#: Log-space spread of what no model of ours explains (software version, clocks, the client), added in quadrature.
SYSTEM_SPREAD = 0.12


@dataclass(frozen=True, eq=False)
class Spans:
    """Durations of steps, arrays over rows: predicted, datasheet limit, log-space spread, energy of all devices."""

    time_s: Floats
    limit_s: Floats
    spread: Floats
    energy_j: Floats

    def __add__(self, other: Spans) -> Spans:
        total = self.time_s + other.time_s
        spread = (self.time_s * self.spread + other.time_s * other.spread) / np.maximum(total, 1e-30)
        return Spans(total, self.limit_s + other.limit_s, spread, self.energy_j + other.energy_j)

    def times(self, count: Size) -> Spans:
        """``count`` of them one after another."""
        n = np.asarray(count, dtype=np.float64)
        return Spans(
            self.time_s * n,
            self.limit_s * n,
            np.broadcast_to(self.spread, np.shape(self.time_s * n)),
            self.energy_j * n,
        )


@dataclass(frozen=True, eq=False)
class Deployment:
    """A model on the devices of one replica (data-parallel copies are other deployments of the same kind)."""

    model: Model
    cluster: Cluster
    plan: Plan
    engine: Engine
    skew: float = 0.0
    eager_layer_s: float = 0.0
    """Host time per layer of an engine that launches every kernel from Python; the slower of host and device counts."""
    head_format: str = ""
    """Format of the output head where the files quantise it too; empty: as usual (16 bit beside integer weights)."""

    @property
    def transformer(self) -> Workload:
        """The model's shapes."""
        return self.model.transformer

    def decode(self, batch: Size, context: Size) -> Spans:
        """One token for each of ``batch`` sequences per replica, whose caches then hold ``context`` tokens."""
        return self._once(lambda b, c: self._steps(Step.decode(b, c), True), batch, context)

    def prefill(self, batch: Size, new: Size, context: Size | None = None) -> Spans:
        """``new`` prompt tokens of each of ``batch`` sequences in one step (``context`` with those cached before)."""
        whole = new if context is None else context
        return self._once(lambda b, n, c: self._steps(Step(b, n, c), False), batch, new, whole)

    def mixed(self, decodes: Size, context: Size, chunk: Size, prompt: Size) -> Spans:
        """A step of ``decodes`` tokens, one per sequence of ``context``, and ``chunk`` tokens of prompts.

        Products see ``decodes + chunk`` tokens; attention is a decode plus a prefill of the chunk, which spans several
        prompts, or is one of several chunks of a prompt and then sees ``(prompt + chunk) / 2`` tokens on average.
        """
        return self._once(self._mixed, decodes, context, chunk, prompt)

    def _mixed(self, decodes: Floats, context: Floats, chunk: Floats, prompt: Floats) -> Spans:
        tokens = decodes + chunk
        rest = self._steps(Step(tokens, 1, 1, logits=np.maximum(1.0, decodes)), True, part=False)
        attend = self._steps(Step.decode(np.maximum(decodes, 1e-9), context), True, part=True)
        each = np.minimum(np.maximum(chunk, 1.0), prompt)
        seen = (prompt + each) / 2  # the mean over the chunks of a long prompt
        extra = self._steps(Step(np.maximum(chunk / each, 1e-9), each, seen), False, part=True)
        return Spans(
            rest.time_s + attend.time_s + np.where(chunk > 0, extra.time_s, 0.0),
            rest.limit_s + attend.limit_s + np.where(chunk > 0, extra.limit_s, 0.0),
            rest.spread,
            rest.energy_j + attend.energy_j + extra.energy_j,
        )

    def tokens_that_fit(self) -> float:
        """Tokens of KV cache a replica has room for beside weights and activations; 0: the weights do not fit."""
        model, plan, engine = self.transformer, self.plan, self.engine
        use = memory_use(
            model,
            plan,
            self.cluster.machine,
            engine,
            1,
            1,
            step_tokens=engine.max_batched_tokens,
            exact_weights=None,
        )
        room = float(use.capacity - use.weights - use.activations - use.other)
        probe = 4096.0
        return max(0.0, room) / max(float(kv_bytes(model, plan, 1, probe, 1)) / probe, 1e-30)

    def sequences_that_fit(self, context: Size) -> Floats:
        """Sequences of ``context`` tokens a replica holds at once: by memory and by the engine's limit."""
        model, plan, engine = self.transformer, self.plan, self.engine
        use = memory_use(model, plan, self.cluster.machine, engine, 1, 1, step_tokens=engine.max_batched_tokens)
        room = float(use.capacity - use.weights - use.activations - use.other)
        each = np.maximum(kv_bytes(model, plan, 1, context, engine.block_tokens), 1e-30)
        return np.asarray(np.minimum(np.floor(max(0.0, room) / each), engine.max_sequences), dtype=np.float64)

    def weight_bytes(self) -> float:
        """Weight bytes of the fullest device."""
        return weight_bytes(self.transformer, self.plan)

    def fits(self, batch: Size, context: Size) -> NDArray[np.bool_]:
        """Whether a static batch of ``batch`` sequences of ``context`` tokens fits a replica."""
        use = memory_use(
            self.transformer, self.plan, self.cluster.machine, self.engine, batch, context, step_tokens=1024
        )
        return np.asarray(use.total <= self.cluster.machine.root.capacity_bytes * MEMORY_ROOM, dtype=np.bool_)

    @property
    def replica(self) -> Replica:
        """What prices its steps."""
        return Replica(
            self.transformer,
            self.plan,
            self.cluster,
            self.engine,
            self.skew,
            self.eager_layer_s,
            self.head_format,
        )

    def _steps(self, step: Step, decode: bool, part: bool | None = None) -> Spans:
        found = self.replica.price(
            step,
            decode=decode,
            absorb=True if decode else None,
            keep=None if part is None else lambda op: op.fuse.endswith(".attention") == part,
        )
        time_s = found.kernels_s if part else found.time_s
        return _spans(found.cost, time_s, self.plan.devices / self.plan.pp)

    def _once(self, ask: Callable[..., Spans], *sizes: Size) -> Spans:
        """Price distinct rows only."""
        columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(s, dtype=np.float64)) for s in sizes))
        distinct, where = np.unique(np.stack(columns), axis=1, return_inverse=True)
        found = ask(*distinct)
        where = where.reshape(columns[0].shape)
        n = distinct.shape[1]
        return Spans(
            *(np.broadcast_to(x, (n,))[where] for x in (found.time_s, found.limit_s, found.spread, found.energy_j))
        )


#: Share of device memory a row that ran may have needed by our count: our buffers are estimates.
MEMORY_ROOM = 1.1


def _spans(cost: Cost, time_s: Any, devices: float) -> Spans:
    time = np.asarray(time_s, dtype=np.float64)
    spread = np.sqrt(np.asarray(cost.log_spread(), dtype=np.float64) ** 2 + SYSTEM_SPREAD**2)
    return Spans(
        time,
        np.asarray(cost.limit_s, dtype=np.float64),
        np.asarray(spread, dtype=np.float64),
        np.asarray(cost.energy_j * devices, dtype=np.float64),
    )


@cache
def known_model(name: str) -> Model | None:
    """The catalogue's model for a name a table uses, without endings for a format or a date; None when unknown."""
    bare = re.sub(r"-(FP8|NVFP4|BF16|AWQ|INT4)$", "", name, flags=re.IGNORECASE)
    for text in (name, bare, re.sub(r"(-(Instruct|Thinking))?-\d{4}$", "", bare)):
        try:
            return load_model(text)
        except SteelyardError:
            continue
    return None


def eight_bit(model: str) -> str:
    """``fp8_block`` where the published 8-bit weights carry a scale per block (DeepSeek, Qwen, GLM), else ``fp8``."""
    found = known_model(model)
    native = found.transformer.native_weights if found else ""
    blocks = native == "fp8_block" or re.match(r"(Qwen|zai-org|MiniMaxAI|deepseek-ai)/", model)
    return "fp8_block" if blocks else "fp8"


def deploy(
    model: str | Model,
    machine: str,
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    weights: str = "",
    activations: str = "",
    kv: str = "",
    engine: str | Engine = "",
) -> Deployment | str:
    """A deployment, or the reason why there is none (unknown machine or model, degrees that do not divide)."""
    device = machine_of(machine)
    if device is None:
        return f"unknown machine {machine!r}"
    found = known_model(model) if isinstance(model, str) else model
    if found is None:
        return f"unknown model {model!r}"
    try:
        plan = Plan(weights, activations, kv, "", tp, pp, dp, ep).resolved(found.transformer.native_weights)
        check_sharding(found.transformer, plan)
        chosen = (find_engine(engine) if engine else default_engine(device)) if isinstance(engine, str) else engine
    except SteelyardError as error:
        return str(error)
    return Deployment(found, cluster_of(device, plan.devices), plan, chosen)


def static_batch(at: Deployment, batch: Size, isl: Size, osl: Size) -> tuple[Spans, Spans, Spans]:
    """``(prefill of the batch, mean decode step, whole generation)`` of a static batch.

    Prompts enter in steps of at most the engine's token budget; the decode step is taken at the mean context
    ``isl + osl / 2``, since its time is linear in it.
    """
    b, i, o = (np.asarray(x, dtype=np.float64) for x in (batch, isl, osl))
    per_step = np.clip(np.floor(at.engine.max_batched_tokens / i), 1.0, b)
    full = np.floor(b / per_step)
    left = b - full * per_step
    first = at.prefill(per_step, i).times(full)
    rest = at.prefill(np.maximum(left, 1.0), i).times((left > 0).astype(np.float64))
    prefill = first + rest
    step = at.decode(b, i + np.maximum(1.0, o / 2))
    return prefill, step, prefill + step.times(np.maximum(o - 1.0, 0.0))


@dataclass(frozen=True, eq=False)
class Loop:
    """Steady state of a closed loop: time between tokens, to the first one, and the batch that runs."""

    tpot: Spans
    ttft_s: Floats
    running: Floats


def loaded_step(at: Deployment, running: Size, isl: Size, osl: Size, others: Size | None = None) -> tuple[Spans, Spans]:
    """``(mean time between tokens, a step that carries prompt tokens)`` with ``running`` sequences in steady state.

    While a sequence generates ``osl`` tokens, each of the ``others`` (default: all running) is replaced once, and its
    prompt of ``isl`` tokens rides along in ``chunks = ceil(isl / budget)`` steps:
    ``tpot = decode + others / osl * chunks * (mixed - decode)``.
    """
    b, i, o = (np.asarray(x, dtype=np.float64) for x in (running, isl, osl))
    r = b if others is None else np.asarray(others, dtype=np.float64)
    budget = np.maximum(1.0, at.engine.max_batched_tokens - b)
    chunks = np.ceil(i / budget)
    decode = at.decode(b, i + o / 2)
    mixed = at.mixed(b, i + o / 2, np.round(i / chunks), i)
    share = r / o * chunks
    extra_s, extra_limit = (
        np.maximum(mixed.time_s - decode.time_s, 0.0),
        np.maximum(mixed.limit_s - decode.limit_s, 0.0),
    )
    tpot = Spans(
        decode.time_s + share * extra_s,
        decode.limit_s + share * extra_limit,
        np.maximum(decode.spread, mixed.spread),
        decode.energy_j + share * np.maximum(mixed.energy_j - decode.energy_j, 0.0),
    )
    return tpot, mixed


def closed_loop(
    at: Deployment, concurrency: Size, isl: Size, osl: Size, requests_per_client: float = 0.0, held_back: Size = 0.0
) -> Loop:
    """Steady state of ``concurrency`` clients per replica that each send the next request when one ends.

    ``running = min(concurrency, sequences that fit)``; time between tokens from :func:`loaded_step`. The time to first
    token is half a step of waiting, the steps of the own prompt, the prompts that happen to be in front (an M/D/1 queue
    with utilisation ``rho = running chunks mixed / (osl tpot)``), and behind a full cache Little's law:
    ``(concurrency - running) osl tpot / running``. A benchmark of ``requests_per_client`` requests per client starts
    with a burst: that share of the mean is the average of all prompts one after another. ``held_back`` clients find no
    room in the engine although the cache has some.
    """
    c, i, o = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (concurrency, isl, osl)))
    running = np.floor(np.maximum(1.0, np.minimum(c - held_back, at.sequences_that_fit(i + o / 2))))
    tpot, mixed = loaded_step(at, running, i, o, running - 1.0)
    chunks = np.ceil(i / np.maximum(1.0, at.engine.max_batched_tokens - running))
    own = mixed.time_s * chunks
    rho = np.minimum(0.9, (running - 1.0) * own / (o * tpot.time_s))
    queue = np.maximum(0.0, c - running) / running * (tpot.time_s * o)
    ttft = 0.5 * tpot.time_s + own * (1.0 + rho / (2.0 * (1.0 - rho))) + queue
    if requests_per_client:
        alone = at.prefill(np.maximum(1.0, np.floor(at.engine.max_batched_tokens / i)), i)
        each = alone.time_s / np.maximum(1.0, np.floor(at.engine.max_batched_tokens / i))
        burst = np.maximum(own, each * (running + 1.0) / 2.0) + queue
        ttft = ttft + (burst - ttft) / requests_per_client
    return Loop(tpot, np.asarray(ttft + at.engine.request_s), running)


@dataclass(frozen=True, eq=False)
class Columns:
    """What a reader answers for a table, one entry per row; NaN where there is no answer, with the reason."""

    predicted: Floats
    low: Floats
    high: Floats
    roofline: Floats
    why: Texts


Asked = tuple[Floats, Floats, Floats]
"""(predicted, datasheet figure, log-space spread) of the rows of a group."""


def predict(
    frame: pd.DataFrame,
    keys: Sequence[str],
    place: Callable[..., Deployment | str],
    ask: Callable[[Deployment, pd.DataFrame], Asked],
) -> Columns:
    """Answer the rows of a table group by group: rows that agree in ``keys`` share a deployment.

    Args:
        frame: the table; only the columns that state the question are looked at by ``place`` and ``ask``.
        keys: columns that choose the deployment, handed to ``place`` in this order.
        place: the deployment of a group, or why there is none.
        ask: the answers of the rows of a group, vectorised.
    """
    return predict_all(frame, keys, place, lambda at, rows: [ask(at, rows)], 1)[0]


def predict_all(
    frame: pd.DataFrame,
    keys: Sequence[str],
    place: Callable[..., Deployment | str],
    ask: Callable[[Deployment, pd.DataFrame], Sequence[Asked]],
    answers: int,
) -> list[Columns]:
    """:func:`predict` for several figures of the same rows at once; a figure may be NaN where there is none."""
    n = len(frame)
    table = np.full((answers, 3, n), np.nan)
    why = np.full(n, "", dtype=object)
    for values, rows in frame.reset_index(drop=True).groupby(list(keys), dropna=False, sort=False).groups.items():
        index = np.asarray(rows)
        try:
            found = place(*(values if isinstance(values, tuple) else (values,)))
            if isinstance(found, str):
                why[index] = found
                continue
            for i, answer in enumerate(ask(found, frame.iloc[index])):
                table[i][:, index] = answer
        except SteelyardError as error:
            why[index] = str(error)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            why[index] = f"{type(error).__name__}: {error}"
    texts = why.astype(np.str_)
    return [Columns(p, *interval80(p, spread), limit, texts) for p, limit, spread in table]


def unbounded_queue(at: Deployment, isl: Size, osl: Size, *, beams: float = 1.0, tpot_s: float = 0.0) -> Asked:
    """Output tokens/s of a replica whose queue never empties, the same at the datasheet's limit, and the spread.

    The batch is what fits, sequences being on average half way through their output: ``rate = running / tpot`` with the
    loaded step of :func:`loaded_step`.

    Args:
        at: the deployment; ``dp`` replicas count.
        isl, osl: mean lengths in tokens.
        beams: sequences one prompt grows into (beam search); all of their tokens count.
        tpot_s: the largest batch that keeps the time between tokens below this; 0: what fits.
    """
    i, o = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (isl, osl)))
    held = i / beams  # the beams of a prompt share its cache
    running = np.floor(at.sequences_that_fit(held + o / 2))
    running = np.where(running >= 1, running, np.nan)
    step, _ = loaded_step(at, np.nan_to_num(running, nan=1.0), held, o, running)
    most = running / step.time_s  # a promise never raises the rate
    for _ in range(BISECTIONS if tpot_s else 0):
        running = np.where(step.time_s > tpot_s, np.maximum(1.0, np.floor(running * tpot_s / step.time_s)), running)
        step, _ = loaded_step(at, np.nan_to_num(running, nan=1.0), held, o, running)
    rate = np.minimum(running / step.time_s, most) * at.plan.dp
    return np.asarray(rate), np.asarray(running * at.plan.dp / step.limit_s), step.spread


#: Steps that shrink a batch to a latency bound; the step time is nearly linear in the batch.
BISECTIONS = 4
