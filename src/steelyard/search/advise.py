"""Which published techniques would help here: every one that applies, and pairs of those that help, on one scenario.

A technique is tried with the parameters its paper states. Those that need a parameter nobody stated (the pools of a
disaggregated deployment, the size of a level of the cache) are not tried, and said so; those that a scenario refuses
say why. Pairs are of the best few. Gains are ratios of the same figure of two runs of one trace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from itertools import combinations
from typing import Any

from steelyard._display import Result
from steelyard.errors import DoesNotFit, InputError, Problem, UnknownName, raise_all
from steelyard.scenario.answers import at_path
from steelyard.scenario.verbs import verb
from steelyard.techniques._registry import TECHNIQUES, parse

__all__ = ["OBJECTIVES", "Advice", "Objective", "Tried", "advise", "advise_words", "costs_of"]

#: Singles of which pairs are made, and the least gain that is one.
_PAIRED, _LEAST = 6, 1.01
#: The figure that is the share of requests that keep every promise, and where nearly all do: no technique adds any.
_KEPT, _ALL = "kept", 0.99


@dataclass(frozen=True, slots=True)
class Objective:
    """A figure of the summary that is wanted large or small."""

    path: str
    more: bool
    words: str


OBJECTIVES: Mapping[str, Objective] = {
    "capacity": Objective("capacity_rps", True, "largest rate per second at which every promise holds"),
    "goodput": Objective("throughput.goodput_requests_per_s", True, "requests/s that keep every promise"),
    "throughput": Objective("throughput.output_tokens_per_s", True, "output tokens/s"),
    "ttft": Objective("ttft_s.mean", False, "mean time to first token"),
    "tpot": Objective("tpot_s.mean", False, "mean time per output token"),
    "e2e": Objective("e2e_s.mean", False, "mean time of a request"),
    "cost": Objective("usd_per_million_output_tokens", False, "USD per million output tokens"),
    "energy": Objective("energy_j_per_output_token", False, "J per output token"),
}


@dataclass(frozen=True, slots=True)
class Tried:
    """Techniques tried together."""

    names: tuple[str, ...]
    gain: float = math.nan
    """How many times better the objective is; 1: no change."""
    interval: tuple[float, float] | None = None
    """80 %, from both runs played at the ends of their own errors together."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Every objective, and ``kept``: the share of requests that keep every promise."""
    refused: str = ""
    costs: tuple[str, ...] = ()
    """What their papers say they cost."""

    def to_dict(self) -> dict[str, Any]:
        """As in ``steelyard.advise/1``."""
        found = {"techniques": list(self.names), "gain": self.gain if math.isfinite(self.gain) else None}
        ends = {"interval": list(self.interval) if self.interval else None}
        return {**found, **ends, "figures": _known(self.figures), "refused": self.refused, "costs": list(self.costs)}


@dataclass(frozen=True, eq=False, repr=False)
class Advice(Result):
    """What was tried on a scenario, best first."""

    objective: str
    base: Mapping[str, float]
    """The figures without any of them."""
    ranked: tuple[Tried, ...]
    refused: tuple[Tried, ...]
    asked: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """``steelyard.advise/1``."""
        return {
            "schema": "steelyard.advise/1",
            "objective": self.objective,
            "base": _known(self.base),
            "ranked": [t.to_dict() for t in self.ranked],
            "refused": [t.to_dict() for t in self.refused],
            "asked": {k: v for k, v in self.asked.items() if isinstance(v, str | int | float | bool | list | dict)},
        }


Ends = tuple[dict[str, float], dict[str, float], dict[str, float]]
"""Figures, and those of the runs at both ends of the errors."""


@verb("simulate", dict)
def advise(words: dict[str, Any]) -> Advice:
    """Try every published technique that applies, and pairs of those that help, on one scenario.

    Returns:
        an :class:`Advice`, ranked by the capacity where one is asked for, by the requests that keep their promises
        where some do not, by the output tokens per second of a closed loop, else by the mean time of a request.

    Raises:
        InputError: the scenario itself is wrong.
        DoesNotFit: it does not fit without any technique.
    """
    return advise_words(words)


def advise_words(
    words: Mapping[str, Any],
    objective: str = "",
    *,
    only: Sequence[str] = (),
    pairs: bool = True,
    jobs: int = 1,
    watch: Callable[[int, int], None] | None = None,
) -> Advice:
    """As :func:`advise`, with more to choose.

    Args:
        words: fields of ``simulate``; techniques among them are kept in every run.
        objective: a name of :data:`OBJECTIVES`; empty: see :func:`advise`.
        only: techniques to try, as texts, ``A + B`` together; empty: all.
        pairs: whether the best are tried two by two.
        jobs: processes.
        watch: called with the runs done and to do.

    Raises:
        InputError: the scenario, the objective or a name is wrong.
        DoesNotFit: as for :func:`advise`.
    """
    if objective and objective not in OBJECTIVES:
        raise UnknownName("objective", objective, OBJECTIVES)
    chosen = objective or _usual(words)
    texts = _named(only) or [(name,) for name in _texts()]
    base = _play(words, ())
    if isinstance(base, str):
        raise InputError(base)
    if not objective and chosen == "goodput" and base[0][_KEPT] >= _ALL:
        chosen = "e2e"
    if not math.isfinite(base[0][chosen]):
        raise InputError(f"the scenario has no {OBJECTIVES[chosen].words}", field="objective")
    singles = _tried(words, texts, base, chosen, jobs, watch)
    alone = (t for t in singles if len(t.names) == 1 and not t.refused and t.gain >= _LEAST)
    helpful = sorted(alone, key=lambda t: _order(t, chosen))
    twos = list(combinations(_best_of_each(helpful), 2)) if pairs else []
    found = [*singles, *(t for t in _tried(words, twos, base, chosen, jobs, watch) if not t.refused)]
    ranked = sorted((t for t in found if not t.refused), key=lambda t: _order(t, chosen))
    return Advice(chosen, base[0], tuple(ranked), tuple(t for t in found if t.refused), dict(words))


def _named(only: Sequence[str]) -> list[tuple[str, ...]]:
    """The combinations of ``only``, each once. Raises :class:`InputError`: every name and parameter that is wrong."""
    found = dict.fromkeys(tuple(part.strip() for part in re.split(r"\s\+\s", text)) for text in only)
    problems: list[Problem] = []
    for name in (name for names in found for name in names):
        try:
            parse(name, "only")
        except InputError as error:
            problems += error.problems
    raise_all(problems)
    return list(found)


def _order(tried: Tried, objective: str) -> tuple[Any, ...]:
    """Best first; where nothing came of the scenario itself every gain is without end, and the figure decides."""
    value = tried.figures.get(objective, math.nan)
    figure = math.inf if math.isnan(value) else -value if OBJECTIVES[objective].more else value
    return -tried.gain, figure, len(tried.names), tried.names


def _known(figures: Mapping[str, float]) -> dict[str, float]:
    """Those that the scenario has."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _usual(words: Mapping[str, Any]) -> str:
    if words.get("capacity"):
        return "capacity"
    if any(words.get(name) for name in ("ttft", "tpot", "e2e")):
        return "goodput"
    return "throughput" if words.get("concurrency") or str(words.get("rate", "")) == "inf" else "e2e"


def _texts() -> list[str]:
    """Every technique that states all it needs."""
    every = ((name, TECHNIQUES.get(name).parameters()) for name in TECHNIQUES)
    return [name for name, parameters in every if not any(p.default is MISSING for p in parameters)]


def _best_of_each(helpful: Sequence[Tried]) -> list[str]:
    """The best few of which no two are of one slot or mechanism, which could not be together."""
    found: dict[str, str] = {}
    for tried in helpful:
        cls = TECHNIQUES.get(tried.names[0].partition(":")[0])
        found.setdefault(cls.slot or cls.mechanism or cls.name, tried.names[0])
    return [*found.values()][:_PAIRED]


def _tried(
    words: Mapping[str, Any],
    names: Sequence[tuple[str, ...]],
    base: Ends,
    objective: str,
    jobs: int,
    watch: Callable[[int, int], None] | None,
) -> list[Tried]:
    found = []
    for i, (some, played) in enumerate(zip(names, _played(words, names, jobs), strict=True), 1):
        found.append(_judged(some, played, base, objective))
        if watch is not None:
            watch(i, len(names))
    return found


def _played(words: Mapping[str, Any], names: Sequence[tuple[str, ...]], jobs: int) -> Any:
    if jobs <= 1 or len(names) < 8:
        yield from (_play(words, some) for some in names)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_play, [words] * len(names), names, chunksize=4)


def _play(words: Mapping[str, Any], names: tuple[str, ...]) -> Ends | str:
    """The objectives of a run with techniques more, or why it is refused. Raises only for the plain scenario."""
    from steelyard.simulation.api import read_simulation, run_scenario
    from steelyard.simulation.limits import ends_of

    own = words.get("techniques") or ()
    own = (own,) if isinstance(own, str) else tuple(own)
    try:
        scenario = read_simulation({**words, "techniques": (*own, *names)})
        run = run_scenario(scenario)
        ends = ends_of(run) or (run, run)
        figures = [_figures(one.summary()) for one in (run, *ends)]
        if run.capacity is not None:
            for end, rate in zip((figures[-1], figures[1]), run.capacity.interval_rps, strict=True):
                end["capacity"] = rate
    except (InputError, DoesNotFit) as error:
        if not names:
            raise
        return " ".join(str(error).split())
    return figures[0], figures[1], figures[-1]


def _figures(summary: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, objective in OBJECTIVES.items():
        value = at_path(summary, objective.path)
        found[name] = float(value) if isinstance(value, int | float) else math.nan
    found[_KEPT] = float(summary["throughput"].get("goodput_frac", math.nan))
    return found


def _judged(names: tuple[str, ...], played: Ends | str, base: Ends, objective: str) -> Tried:
    if isinstance(played, str):
        return Tried(names, refused=played)
    gains = [_gain(ours[objective], theirs[objective], objective) for ours, theirs in zip(played, base, strict=True)]
    costs = tuple(words for _, words in costs_of(names))
    ends = (min(gains), max(gains)) if all(map(math.isfinite, gains)) else None
    return Tried(names, gains[0], ends, played[0], costs=costs)


def costs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """What the papers of some techniques say they cost, by technique; those that say nothing are left out."""
    named = (text.partition(":")[0] for text in names)
    return [(name, words) for name in named if (words := TECHNIQUES.get(name).costs)]


def _gain(ours: float, theirs: float, objective: str) -> float:
    better, than = (ours, theirs) if OBJECTIVES[objective].more else (theirs, ours)
    return better / than if than > 0 else math.inf if better > 0 else 1.0
