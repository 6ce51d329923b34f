"""Claim files: a paper, the scenarios that stand for its baseline and its subject, and the numbers it claims.

A file ``claims/S014.toml`` of a catalogue, the user's own included, holds one paper. Scenarios are words of a verb, as
a user would say them; ``like`` takes those of another and changes some. A claim compares a figure of two of them.

::

    id = "S014"
    name = "Sarathi-Serve"
    title = "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve"
    layer = "serving"
    setting = "artifact"

    [scenario.vllm]
    verb = "simulate"
    words = { model = "mistral-7b", on = "a100_sxm", rate = "2/s", requests = 500, engine = "vllm@0.2.7" }

    [scenario.sarathi]
    like = "vllm"
    words = { techniques = ["sarathi-serve:chunk=512"] }

    [[claim]]
    n = 1
    quantity = "serving capacity"
    unit = "x"
    direction = "up"
    published = 2.6
    figure = "throughput.requests_per_s"
    baseline = "vllm"
    subject = "sarathi"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from steelyard.documents import build, is_file, read_document
from steelyard.errors import InputError, Problem, UnknownName, normalise, raise_all, show
from steelyard.folders import catalogue_files
from steelyard.units import Quantity

__all__ = [
    "ASKED",
    "FORMS",
    "PICKS",
    "SETTINGS",
    "Assumption",
    "Claim",
    "Paper",
    "Scene",
    "broken_papers",
    "find_paper",
    "is_claim_file",
    "papers",
]

#: Verbs that a scenario may ask.
ASKED = ("estimate", "explain", "simulate", "plan", "fit", "train", "search_network")
#: What becomes of the figures: subject over baseline, the other way round, 1 less subject over baseline, subject over
#: baseline less 1, their difference, the subject alone, the slope of the subject in the logs of a sweep.
FORMS = ("ratio", "inverse", "reduction", "gain", "difference", "value", "exponent")
#: Which point of a sweep counts: the largest ("up to"), the smallest, the middle, the mean, a list of all, or of each
#: scenario the point where its own figure is largest (two systems, each at its own best load).
PICKS = ("best", "least", "median", "mean", "each", "peaks")
#: Where a scenario is from: published with the paper's code, said in its abstract, or chosen as usual for the field.
SETTINGS = ("artifact", "abstract", "representative")
#: Verdicts that a file may state itself.
STATED = ("", "assumed", "context", "planned")
_DIRECTIONS, _CHECKABLE = ("up", "down", "none"), ("yes", "partly", "no")
#: Most scenarios of a paper and values of a sweep, and the largest number.
_MOST_SCENES, _MOST_VALUES, _LARGEST = 100, 100, 1e30
#: What one unit of a claim is in the unit of the figure.
UNITS: Mapping[str, float] = {
    "x": 1.0,
    "%": 0.01,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "days": 86400.0,
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "W": 1.0,
    "GFLOP": 1e9,
    "TFLOPS": 1e12,
    "M": 1e6,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Words of a verb."""

    __pydantic_config__ = {"extra": "forbid"}

    verb: Annotated[str, "estimate, explain, simulate, plan, fit, train or search_network"] = ""
    like: Annotated[str, "the scenario whose verb and words it takes over"] = ""
    words: Annotated[Mapping[str, Any], "fields of the question; an empty text takes one away"] = field(
        default_factory=dict
    )
    sweep: Annotated[
        Mapping[str, tuple[Any, ...]], "what an exponent over a figure is taken from: fields and values"
    ] = field(default_factory=dict)
    about: Annotated[str, "why these words"] = ""


@dataclass(frozen=True, slots=True)
class Assumption:
    """A value the paper does not state, and what else it might be: the verdict is looked at with each."""

    __pydantic_config__ = {"extra": "forbid"}

    field: Annotated[str, "the field of the question, the same in all scenarios that have it"]
    values: Annotated[tuple[Any, ...], "the ends of what is plausible"]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """One number of a paper. A row of a paper without numbers is one with ``published`` left out and ``n`` 0."""

    __pydantic_config__ = {"extra": "forbid"}

    n: Annotated[int, "which of the paper's numbers; 0: none of its own"]
    quantity: str
    of: Annotated[str, "what the paper compares, on what machine and work, in its words"] = ""
    unit: Annotated[str, "x, % or the quantity's own"] = "x"
    direction: Annotated[str, "up, down or none: where the paper moves the quantity"] = "up"
    checkable: Annotated[str, "yes, partly or no: whether the paper states what is needed"] = "partly"
    published: Annotated[Any, "a number, a range or a list; left out: not known here"] = None
    held_back: Annotated[bool, "the number is known to whoever checks, and not here"] = False
    exact: Annotated[bool, "a count or an exponent that needs no calibration"] = False
    bound: Annotated[str, "least or most: the paper says only that it is at least, at most this"] = ""
    figure: Annotated[str, "path in the JSON answer, or arithmetic of such paths"] = ""
    baseline: Annotated[str, "name of a scenario"] = ""
    subject: Annotated[str, "name of a scenario"] = ""
    form: Annotated[str, "how the figures become the number"] = "ratio"
    sweep: Annotated[Mapping[str, tuple[Any, ...]], "a field of the question and its values, in both scenarios"] = (
        field(default_factory=dict)
    )
    over: Annotated[str, "of an exponent: the figure over which it is taken; empty: the one field of the sweep"] = ""
    pick: Annotated[str, "which point of the sweep counts"] = "best"
    scale: Annotated[float, Quantity("1", "figure in one unit of the claim, where the unit does not say", ge=0)] = 0.0
    setting: Annotated[str, "where the scenarios are from; empty: as the paper's"] = ""
    verdict: Annotated[str, "assumed, context or planned where nothing is to be judged"] = ""
    why: Annotated[str, "what explains the verdict"] = ""

    @property
    def runs(self) -> bool:
        """Whether there is anything to ask."""
        return bool(self.figure and self.subject)

    @property
    def factor(self) -> float:
        """What a predicted figure is divided by to be in the claim's unit."""
        if self.scale:
            return self.scale
        return UNITS.get(self.unit.split(" ")[0], 1.0)


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper and its claims."""

    __pydantic_config__ = {"extra": "forbid"}

    id: str
    name: str
    title: str
    layer: str
    claim: Annotated[tuple[Claim, ...], "its numbers"] = ()
    scenario: Annotated[Mapping[str, Scene], "scenarios by name"] = field(default_factory=dict)
    assume: Annotated[tuple[Assumption, ...], "what the paper leaves open"] = ()
    techniques: Annotated[tuple[str, ...], "names of `steelyard techniques` that stand for it"] = ()
    source: Annotated[str, "arXiv number, DOI or address"] = ""
    setting: str = "representative"
    verdict: Annotated[str, "context or planned where nothing of the paper runs"] = ""
    why: str = ""
    coincidences: Annotated[
        tuple[float, ...], "numbers of scenarios that equal a claimed one and have nothing to do with it"
    ] = ()

    def __post_init__(self) -> None:
        raise_all(list(_problems(self)))

    @property
    def runs(self) -> bool:
        """Whether any of it can be asked."""
        return any(claim.runs for claim in self.claim)

    def scene(self, name: str) -> tuple[str, dict[str, Any]]:
        """Verb and words of a scenario, those it is like included."""
        scene = self.scenario[name]
        verb, words = self.scene(scene.like) if scene.like else ("", {})
        words = {**words, **scene.words}
        return scene.verb or verb, {k: v for k, v in words.items() if v != ""}


def _problems(paper: Paper) -> Iterator[Problem]:
    """What is wrong with a paper, beside the words of its scenarios."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,39}", paper.id):
        yield Problem("id", f"expected letters, digits and . _ -, got {show(paper.id)}")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", paper.layer):  # a page of the scoreboard is called so
        yield Problem("layer", f"expected lower-case letters, digits and -, got {show(paper.layer)}")
    if len(paper.scenario) > _MOST_SCENES:
        yield Problem("scenario", f"expected at most {_MOST_SCENES}, got {len(paper.scenario):,}")
        return
    if paper.setting not in SETTINGS:
        yield Problem("setting", UnknownName("setting", paper.setting, SETTINGS).message)
    if paper.verdict not in ("", "context", "planned"):
        yield Problem("verdict", UnknownName("verdict", paper.verdict, ("context", "planned")).message)
    for name, scene in paper.scenario.items():
        yield from _of_scene(paper, name, scene)
    said = {word for scene in paper.scenario.values() for word in scene.words}
    for i, assumption in enumerate(paper.assume):
        if assumption.field not in said:
            yield Problem(f"assume[{i}].field", UnknownName("field", assumption.field, sorted(said)).message)
        if not 1 <= len(assumption.values) <= _MOST_VALUES:
            yield Problem(f"assume[{i}].values", f"expected 1 to {_MOST_VALUES}, got {len(assumption.values):,}")
    seen: set[int] = set()
    for i, claim in enumerate(paper.claim):
        if claim.n in seen:
            yield Problem(f"claim[{i}].n", f"claim {claim.n} is there twice")
        seen.add(claim.n)
        if not 0 <= claim.n <= 99:
            yield Problem(f"claim[{i}].n", f"expected 0 to 99, got {claim.n}")
        yield from _of_claim(paper, f"claim[{i}]", claim)


def _of_scene(paper: Paper, name: str, scene: Scene) -> Iterator[Problem]:
    place = f"scenario.{name}"
    if scene.verb and scene.verb not in ASKED:
        yield Problem(f"{place}.verb", UnknownName("verb", scene.verb, ASKED).message)
    for word, kind, expected in (("flags", Mapping, "a table"), ("techniques", str | list | tuple, "a name or a list")):
        if (given := scene.words.get(word, "")) != "" and not isinstance(given, kind):
            yield Problem(f"{place}.words.{word}", f"expected {expected}, got {show(given)}")
    chain, at = [name], scene.like
    while at:
        if at not in paper.scenario:
            yield Problem(f"{place}.like", UnknownName("scenario", at, paper.scenario).message)
            return
        if at in chain:
            yield Problem(f"{place}.like", f"{' is like '.join([*chain, at])}: a circle")
            return
        chain.append(at)
        at = paper.scenario[at].like
    if not any(paper.scenario[n].verb for n in chain):
        yield Problem(f"{place}.verb", f"expected one of {', '.join(ASKED)}")


def _of_claim(paper: Paper, place: str, claim: Claim) -> Iterator[Problem]:
    for name, value, known in (
        ("direction", claim.direction, _DIRECTIONS),
        ("checkable", claim.checkable, _CHECKABLE),
        ("form", claim.form, FORMS),
        ("pick", claim.pick, PICKS),
        ("setting", claim.setting, ("", *SETTINGS)),
        ("verdict", claim.verdict, STATED),
        ("bound", claim.bound, ("", "least", "most")),
    ):
        if value not in known:
            yield Problem(f"{place}.{name}", UnknownName(name, value, [k for k in known if k]).message)
    published = claim.published if isinstance(claim.published, list | tuple) else (claim.published,)
    if not published or not all(p is None or _is_number(p) for p in published):
        yield Problem(f"{place}.published", f"expected a number, a range or a list, got {show(claim.published)}")
    for name in ("baseline", "subject"):
        if (scene := getattr(claim, name)) and scene not in paper.scenario:
            yield Problem(f"{place}.{name}", UnknownName("scenario", scene, paper.scenario).message)
    if bool(claim.figure) != bool(claim.subject):
        yield Problem(f"{place}.subject", "a figure and the scenario it is of belong together")
    if claim.runs and claim.form not in ("value", "exponent") and not claim.baseline:
        yield Problem(f"{place}.baseline", f"the form {claim.form} needs one")
    if claim.form == "exponent" and claim.runs and len(claim.sweep) != 1 and not claim.over:
        yield Problem(f"{place}.sweep", "an exponent needs the field that grows and its values")
    if len({len(values) for values in claim.sweep.values()}) > 1:
        yield Problem(f"{place}.sweep", "fields that change together have as many values")
    for name, values in claim.sweep.items():
        if not 1 <= len(values) <= _MOST_VALUES:
            yield Problem(f"{place}.sweep.{show(name)}", f"expected 1 to {_MOST_VALUES} values, got {len(values):,}")
        elif (
            claim.form == "exponent" and not claim.over and not (all(map(_is_number, values)) and len(set(values)) > 1)
        ):
            yield Problem(f"{place}.sweep.{show(name)}", "an exponent needs two different numbers at least")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _read(path: Path | str) -> Paper:
    return build(Paper, read_document(path), Path(path).name)


@cache
def _every() -> tuple[Mapping[str, Paper], tuple[str, ...]]:
    found: dict[str, Paper] = {}
    broken: list[str] = []
    for path in catalogue_files("claims"):
        try:
            paper = _read(path)
            if paper.id != path.stem:
                raise InputError(f"{path.name} holds {paper.id}: a file is called as its paper", field="id")
        except InputError as error:
            broken.append(str(error))
            continue
        found.setdefault(paper.id, paper)
    return dict(sorted(found.items())), tuple(broken)


def papers() -> Mapping[str, Paper]:
    """Every paper of the catalogues by id; of two of one id the one of the catalogue that is searched first.

    A file that cannot be read is left out; see :func:`broken_papers`.
    """
    return _every()[0]


def broken_papers() -> tuple[str, ...]:
    """What is wrong with files of the catalogues that cannot be read, a line for each."""
    return _every()[1]


def is_claim_file(name: str) -> bool:
    """Whether a name is that of a file, and not of a paper of the catalogues."""
    return name.lower().endswith((".toml", ".yaml", ".yml", ".json")) or is_file(name)


def find_paper(name: str) -> Paper:
    """The paper of this id or name, or of a file.

    Raises:
        UnknownName: there is none.
        InputError: the file cannot be read.
    """
    if is_claim_file(name):
        return _read(name)
    if short := re.fullmatch(r"[sS]0*(\d{1,3})", name):  # S14
        name = f"S{int(short[1]):03d}"
    means = {n: p.id for p in papers().values() for n in (p.id, p.name)}
    for known, target in means.items():
        if normalise(known) == normalise(name):
            return papers()[target]
    raise UnknownName("paper", name, means, hint="`steelyard claims` lists all", means=means)
