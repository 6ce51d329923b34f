"""Asking Steelyard about whole models, many rows at once, as the readers of whole-model tables need it.

A :class:`Placed` is a scenario (a model on the devices of one replica, under a plan and an engine); static batches are
answered by ``estimate_batch``, single steps by the replica that prices every verb's steps, served loads by ``_serve``.
What is scored is what the verbs show, their 80 % interval included. Method: ``docs/methods/whole_models.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steelyard.cost.interval import interval80, with_system
from steelyard.cost.step import Replica
from steelyard.deployment.engine import Engine, default_engine, find_engine
from steelyard.deployment.engine_host import on_host
from steelyard.deployment.plan import Plan
from steelyard.deployment.sharding import check_sharding
from steelyard.errors import SteelyardError
from steelyard.estimation.estimate import estimate_batch
from steelyard.machine.cluster import cluster_of
from steelyard.measurements.reader import Floats, Texts, machine_of
from steelyard.scenario.scenario import Scenario
from steelyard.workload.catalogue import Model, load_model
from steelyard.workload.step import Step

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Columns",
    "Placed",
    "Shown",
    "StaticBatch",
    "chosen",
    "deploy",
    "eight_bit",
    "known_model",
    "predict",
    "predict_all",
    "sizes",
    "static_batch",
]

Size = float | int | Floats


class Shown(NamedTuple):
    """A figure of some rows as a verb shows it: the prediction, its 80 % interval, and the physical limit."""

    value: Any
    low: Any
    high: Any
    limit: Any

    @classmethod
    def time(cls, time_s: Any, spread: Any, limit_s: Any) -> Shown:
        """A time with the one interval, from the spread of its cost models."""
        low, high = interval80(time_s, with_system(spread), at_least=limit_s)
        return cls(time_s, low, high, limit_s)

    @classmethod
    def of(cls, found: Any, name: str) -> Shown:
        """A time of an estimate."""
        low, high = found.interval[name]
        return cls(getattr(found, name), low, high, found.limit[name])

    def times(self, count: Size) -> Shown:
        """So many of them, one after another."""
        return Shown(*(np.asarray(x * count, dtype=np.float64) for x in self))

    def rate(self, count: Size) -> Shown:
        """``count`` of something per time; the longest time is the lowest rate."""
        ends = (self.value, self.high, self.low, self.limit)
        with np.errstate(divide="ignore", invalid="ignore"):
            return Shown(*(np.asarray(count / x, dtype=np.float64) for x in ends))


@dataclass(frozen=True, eq=False)
class Placed(Scenario):
    """A model on the devices of one replica, with a condition of foreign software no verb has a word for."""

    head_format: str = ""
    """Format of the output head where the files quantise it too; empty: as usual (16 bit beside integer weights)."""

    @property
    def replica(self) -> Replica:
        """What prices its steps."""
        own = Replica(self.transformer, self.plan, self.cluster, self.engine, self.skew)
        return replace(own, head_format=self.head_format)

    def decode(self, batch: Size, context: Size) -> Shown:
        """One token for each of ``batch`` sequences, whose caches then hold ``context`` tokens."""
        found = self.replica.decodes(*sizes(batch, context))
        return Shown.time(found.time_s, found.spread, found.limit_s)

    def prefill(self, batch: Size, new: Size, context: Size | None = None) -> Shown:
        """``new`` prompt tokens of each of ``batch`` sequences in one step (``context`` with those cached before)."""
        b, n, c = sizes(batch, new, new if context is None else context)
        found = self.replica.price(Step(b, n, c), decode=False)
        figures = (found.time_s, found.cost.log_spread(), found.limit_s)
        return Shown.time(*(np.broadcast_to(np.asarray(x, dtype=np.float64), b.shape) for x in figures))


def sizes(*given: Any) -> list[Floats]:
    """Sizes as arrays of one length."""
    return list(np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in given)))


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


#: Models whose `generation_config.json` names neither top-p nor top-k, by a part of their name.
UNFILTERED = ("gpt-oss",)


def chosen(model: str) -> str:
    """How a server chooses tokens of requests that say nothing of it: as the model's `generation_config.json` says."""
    return "random" if any(x in model for x in UNFILTERED) else "top-p"


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
) -> Placed | str:
    """A deployment, or the reason why there is none (unknown machine or model, degrees that do not divide).

    Benchmarks run past the context a model states (an engine's flag allows it), so that no length is refused here.
    """
    device = machine_of(machine)
    if device is None:
        return f"unknown machine {machine!r}"
    found = known_model(model) if isinstance(model, str) else model
    if found is None:
        return f"unknown model {model!r}"
    try:
        chosen = (find_engine(engine) if engine else default_engine(device)) if isinstance(engine, str) else engine
        plan = Plan(weights, activations, kv, "", tp, pp, dp, ep, engine=chosen.name)
        plan = plan.resolved(found.transformer, device)
        check_sharding(found.transformer, plan)
    except SteelyardError as error:
        return str(error)
    shapes: Any = found.transformer
    unbounded = replace(found, transformer=replace(shapes, max_context=0))
    return Placed(unbounded, cluster_of(device, plan.devices), plan, on_host(chosen, device), 1, 1, 1)


class StaticBatch(NamedTuple):
    """What ``estimate`` shows of static batches."""

    ttft: Shown
    tpot: Shown
    e2e: Shown
    power_w: Shown
    """All devices, mean over the batch; the answer shows no interval of it."""


def static_batch(at: Placed, batch: Size, isl: Size, osl: Size) -> StaticBatch:
    """Estimates of static batches. Raises :class:`SteelyardError` for what cannot be, NaN where a row alone cannot."""
    columns = [np.nan_to_num(x, nan=0.0).astype(np.int64) for x in sizes(batch, isl, osl)]
    found, problems = estimate_batch(at.sized(*columns))
    good = np.array([not p for p in problems], dtype=np.bool_)
    if found is None:
        raise SteelyardError("; ".join(str(p) for p in problems[0]))

    def whole(shown: Shown) -> Shown:
        out = np.full((4, good.size), np.nan)
        out[:, good] = shown
        return Shown(*out)

    limit = found.limit["ttft_s"] + (columns[2][good] - 1) * found.limit["tpot_s"]
    e2e = Shown(found.e2e_s, *found.interval["e2e_s"], limit)
    unknown = np.full(np.shape(found.e2e_s), np.nan)
    power = Shown(np.asarray(found.energy_j) / found.e2e_s, unknown, unknown, unknown)
    return StaticBatch(whole(Shown.of(found, "ttft_s")), whole(Shown.of(found, "tpot_s")), whole(e2e), whole(power))


@dataclass(frozen=True, eq=False)
class Columns:
    """What a reader answers for a table, one entry per row; NaN where there is no answer, with the reason."""

    predicted: Floats
    low: Floats
    high: Floats
    roofline: Floats
    why: Texts

    @property
    def columns(self) -> dict[str, Any]:
        """Keyword arguments of ``comparison``."""
        return {name: getattr(self, name) for name in ("predicted", "low", "high", "roofline", "why")}


def predict(
    frame: pd.DataFrame,
    keys: Sequence[str],
    place: Callable[..., Placed | str],
    ask: Callable[[Placed, pd.DataFrame], Shown],
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
    place: Callable[..., Placed | str],
    ask: Callable[[Placed, pd.DataFrame], Sequence[Shown]],
    answers: int,
) -> list[Columns]:
    """:func:`predict` for several figures of the same rows at once; a figure may be NaN where there is none."""
    n = len(frame)
    table = np.full((answers, 4, n), np.nan)
    why = np.full(n, "", dtype=object)
    for values, rows in frame.reset_index(drop=True).groupby(list(keys), dropna=False, sort=False).groups.items():
        index = np.asarray(rows)
        try:
            found = place(*(values if isinstance(values, tuple) else (values,)))
            if isinstance(found, str):
                why[index] = found
                continue
            for i, answer in enumerate(ask(found, frame.iloc[index])):
                for k, figure in enumerate(answer):
                    table[i, k, index] = figure
        except SteelyardError as error:
            why[index] = str(error)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            why[index] = f"{type(error).__name__}: {error}"
    texts = why.astype(np.str_)
    return [Columns(value, low, high, limit, texts) for value, low, high, limit in table]
