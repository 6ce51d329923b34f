"""The options ``estimate`` and ``explain`` share, and how lists and ranges become scenarios."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelyard.errors import InputError, Problem, raise_all
from steelyard.scenario.ranges import expand

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate
    from steelyard.machine.cluster import Cluster
    from steelyard.workload.catalogue import Model

__all__ = ["MAX_SCENARIOS", "Outcome", "Question", "answers", "expand", "only"]

#: Most scenarios one command prices.
MAX_SCENARIOS = 100_000


@Parameter(name="*")
@dataclass(frozen=True)
class Question:
    """What to weigh. Numbers may be lists and ranges: ``1,2,4``, ``1-256*2`` (doubling), ``1-10+3``."""

    on: Annotated[str, Parameter(help="machines: NAME[:COUNT], or the path of a machine file; comma-separated")]
    batch: Annotated[str, Parameter(help="requests in flight: a number, a list 1,2,4, a range 1-256*2 or 1-10+3")] = "1"
    isl: Annotated[str, Parameter(help="prompt tokens per request")] = "1024"
    osl: Annotated[str, Parameter(help="generated tokens per request")] = "256"
    weights: Annotated[
        str, Parameter(help="number format of the weights (default: as published)", show_default=False)
    ] = ""
    activations: Annotated[
        str, Parameter(help="number format of activations (default: implied by the weights)", show_default=False)
    ] = ""
    kv: Annotated[str, Parameter(help="number format of the KV cache (default: 16 bit)", show_default=False)] = ""
    communication: Annotated[
        str, Parameter(help="number format of collectives (default: 16 bit)", show_default=False)
    ] = ""
    tp: Annotated[
        str, Parameter(help="tensor-parallel degree (default: what uses every device)", show_default=False)
    ] = ""
    pp: Annotated[str, Parameter(help="pipeline-parallel degree", show_default=False)] = ""
    dp: Annotated[str, Parameter(help="data-parallel degree (replicas)", show_default=False)] = ""
    ep: Annotated[str, Parameter(help="expert-parallel degree")] = "1"
    cp: Annotated[str, Parameter(help="context-parallel degree")] = "1"
    engine: Annotated[
        str,
        Parameter(
            name=("--engine", "--backend"),
            help="serving engine: vllm, sglang, trtllm, llamacpp, torch",
            show_default=False,
        ),
    ] = ""
    skew: Annotated[
        float, Parameter(help="exponent of the power law of expert popularity; 0 = balanced", show_default=False)
    ] = 0.0
    price: Annotated[
        str, Parameter(help="USD per device and hour (default: newest in the catalogue)", show_default=False)
    ] = ""
    generic: Annotated[
        bool, Parameter(negative="", show_default=False, help="read an unknown model type as a plain decoder")
    ] = False


@dataclass(frozen=True)
class Outcome:
    """One scenario: its inputs, and an estimate or what was wrong with it."""

    inputs: dict[str, Any]
    estimate: Estimate | None
    problems: tuple[Problem, ...] = ()


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else [""]


def answers(model: str, question: Question) -> Iterator[Outcome]:
    """Weigh every combination of machines and values.

    Names and numbers that cannot be read are refused before anything is priced, all of them at once; what cannot run
    in one combination only (degrees that do not divide, too long a context) becomes its outcome.

    Raises:
        InputError: with every problem at the door.
    """
    problems: list[Problem] = []

    def tried(read: Any, *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except InputError as error:
            problems.extend(error.problems)
            return None

    numbers: dict[str, Any] = {}
    for name in ("batch", "isl", "osl", "tp", "pp", "dp", "ep", "cp"):
        text = getattr(question, name)
        implied = not text and name in ("tp", "pp", "dp")
        numbers[name] = [None] if implied else tried(expand, text, name)
        for value in numbers[name] or ():
            if value is not None and value < 1:
                problems.append(Problem(name, f"expected at least 1, got {value}"))
    if not 0 <= question.skew < math.inf:
        problems.append(Problem("skew", f"expected a number of at least 0, got {question.skew:g}"))
    usd = tried(_price, question.price)

    from steelyard.deployment.engine import find_engine
    from steelyard.deployment.formats import find_format

    words = {
        name: _words(getattr(question, name)) for name in ("weights", "activations", "kv", "communication", "engine")
    }
    for name, given in words.items():
        for word in given:
            if not word and len(given) > 1:
                problems.append(Problem(name, f"the list {getattr(question, name)!r} has an empty entry"))
            if word:
                tried(_known, find_engine if name == "engine" else find_format, word, name)
    clusters = [tried(_cluster, part.strip()) for part in question.on.split(",") if part.strip()]
    if not clusters:
        problems.append(Problem("on", "expected at least one machine"))

    from steelyard.workload.catalogue import load_model

    loaded = tried(_load, load_model, model, question.generic)
    raise_all(problems)
    axes = {**words, **numbers}
    total = len(clusters) * prod(len(x) for x in axes.values())
    if total > MAX_SCENARIOS:
        raise InputError(f"{total:,} scenarios; at most {MAX_SCENARIOS:,}", field="lists")
    for cluster in clusters:
        for values in product(*axes.values()):
            yield _outcome(loaded, cluster, dict(zip(axes, values, strict=True)), question.skew, usd)


def _known(find: Any, word: str, field: str) -> None:
    try:
        find(word)
    except InputError as error:
        raise InputError(error.message, field=field) from None


def _load(load: Any, model: str, generic: bool) -> Any:
    if not model.strip():
        raise InputError("expected a name or a path", field="model")
    return load(model, generic=generic)


def _cluster(text: str) -> Cluster:
    from steelyard.machine.cluster import parse_cluster

    return parse_cluster(text)


def _price(text: str) -> float | None:
    from steelyard.units import Quantity

    return Quantity("USD/h", "price", ge=0, le=1e6).parse(text, "price") if text else None


def _outcome(model: Model, cluster: Cluster, values: dict[str, Any], skew: float, usd: float | None) -> Outcome:
    from steelyard.estimation.estimate import estimate

    inputs = {"model": model.name, "on": str(cluster), **{k: v for k, v in values.items() if v not in (None, "")}}
    try:
        found = estimate(
            model,
            cluster,
            batch=values["batch"],
            isl=values["isl"],
            osl=values["osl"],
            weights=values["weights"],
            activations=values["activations"],
            kv=values["kv"],
            communication=values["communication"],
            tp=values["tp"],
            pp=values["pp"],
            dp=values["dp"],
            ep=values["ep"],
            cp=values["cp"],
            engine=values["engine"],
            skew=skew,
            usd_per_hour=usd,
        )
    except InputError as error:
        return Outcome(inputs, None, error.problems)
    return Outcome(inputs, found)


def only(outcomes: list[Outcome]) -> Estimate:
    """The estimate of the single scenario asked for. Raises its :class:`InputError`."""
    if len(outcomes) != 1:
        raise InputError(f"one scenario expected, the lists given make {len(outcomes)}", field="lists")
    raise_all(outcomes[0].problems)
    assert outcomes[0].estimate is not None
    return outcomes[0].estimate


#: Every option's name, for docs.
OPTION_NAMES = tuple(f.name for f in fields(Question))
