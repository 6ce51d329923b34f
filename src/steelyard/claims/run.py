"""The runner: claims asked of the public verbs, in parallel, each question once, answers kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from steelyard._version import __version__
from steelyard.claims.ask import answer, command, figure, interval
from steelyard.claims.paper import Assumption, Claim, Paper
from steelyard.claims.verdict import SAME, VERDICTS, Number, judge
from steelyard.documents import is_file, is_folder
from steelyard.errors import DoesNotFit, InputError, SteelyardError, show
from steelyard.folders import cache_folder, catalogue_folders

__all__ = ["Found", "Row", "row_of", "run", "run_paper"]

#: How much of the errors of two figures of one machine is the same error, and cancels in their ratio: what a kernel
#: model has wrong it has wrong in both. Of two machines none.
SHARED = 0.75


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one claim."""

    paper: Paper
    claim: Claim
    predicted: Number | None = None
    """In the claim's unit."""
    interval: tuple[float, float] | None = None
    verdict: str = ""
    why: str = ""
    seconds: float = 0.0
    hangs_on: tuple[str, ...] = ()
    """Assumptions with which the verdict is another."""
    moved: bool = False
    """Whether the subject's figure is another than the baseline's."""
    refused: bool = False
    """Whether a verb refused the words of a scenario, or its answer has no such figure."""

    def to_dict(self) -> dict[str, Any]:
        """As in ``steelyard.claims/1``."""
        claim = self.claim
        published = list(claim.published) if isinstance(claim.published, list | tuple) else claim.published
        predicted = list(self.predicted) if isinstance(self.predicted, list | tuple) else self.predicted
        return {
            "id": self.paper.id,
            "n": claim.n,
            "quantity": claim.quantity,
            "unit": claim.unit,
            "direction": claim.direction,
            "checkable": claim.checkable,
            "setting": claim.setting or self.paper.setting,
            "published": published,
            "predicted": predicted,
            "interval": list(self.interval) if self.interval else None,
            "verdict": self.verdict,
            "why": self.why,
            "hangs_on": list(self.hangs_on),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one paper."""

    paper: Paper
    verdict: str
    runs: bool
    """Its technique or scenario changes a priced number."""
    command: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """As in ``steelyard.claims/1``."""
        return {
            "id": self.paper.id,
            "name": self.paper.name,
            "layer": self.paper.layer,
            "verdict": self.verdict,
            "runs": self.runs,
            "command": self.command,
            "why": self.why,
        }


def run(
    chosen: Sequence[Paper], jobs: int = 1, sensitivity: bool = False, fresh: bool = False
) -> Iterator[tuple[Paper, list[Found]]]:
    """Ask the claims of papers, in the order they are done.

    Args:
        chosen: papers.
        jobs: processes.
        sensitivity: look at every verdict with the ends of what the paper leaves open.
        fresh: ask again what was asked before.

    Yields:
        a paper and what became of its claims, those of ``n`` 0 last.
    """
    _state()  # a catalogue that cannot be read is wrong input, not a verdict on a claim
    if jobs <= 1 or len(chosen) <= 1:
        for paper in chosen:
            yield paper, run_paper(paper, sensitivity, fresh)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(min(jobs, len(chosen)), mp_context=get_context("spawn"))
    try:
        waiting = {pool.submit(run_paper, paper, sensitivity, fresh): paper for paper in chosen}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run_paper(paper: Paper, sensitivity: bool = False, fresh: bool = False) -> list[Found]:
    """Ask the claims of one paper."""
    found = []
    for claim in sorted(paper.claim, key=lambda c: c.n or math.inf):
        one = _asked(paper, claim, {}, fresh)
        if sensitivity and one.predicted is not None:
            one = replace(one, hangs_on=tuple(_hangs_on(paper, claim, one.verdict, fresh)))
        found.append(one)
    return found


def _hangs_on(paper: Paper, claim: Claim, verdict: str, fresh: bool) -> Iterator[str]:
    """Assumptions within whose plausible range the verdict is another."""
    for assumption in paper.assume:
        for value in assumption.values:
            other = _asked(paper, claim, _instead(paper, claim, assumption, value), fresh)
            if other.verdict != verdict:
                yield f"{assumption.field}={value}: {other.verdict}"


def _instead(paper: Paper, claim: Claim, assumption: Assumption, value: Any) -> dict[str, Any]:
    names = [n for n in (claim.baseline, claim.subject) if n]
    has = any(assumption.field in paper.scene(n)[1] for n in names)
    return {assumption.field: value} if has and assumption.field not in claim.sweep else {}


def _asked(paper: Paper, claim: Claim, instead: Mapping[str, Any], fresh: bool) -> Found:
    """One claim, with some fields of its scenarios set otherwise where they have them."""
    if not claim.runs:
        stated = claim.verdict or paper.verdict or "planned"
        return Found(paper, claim, verdict=stated, why=claim.why or paper.why)
    begun = time.process_time()
    points = _points(claim.sweep)
    figures: list[tuple[_Figure | None, _Figure]] = []
    try:
        for point in () if claim.over else points:
            baseline = _figure(paper, claim.baseline, claim.figure, point, instead, fresh) if claim.baseline else None
            subject = _figure(paper, claim.subject, claim.figure, point, instead, fresh)
            assert subject is not None
            figures.append((baseline, subject))
        if claim.over:
            predicted, ends = _slopes(paper, claim, instead, fresh)
        else:
            predicted, ends = _number(claim, points, figures)
        if not all(map(math.isfinite, (*(predicted if isinstance(predicted, list | tuple) else (predicted,)), *ends))):
            raise InputError(f"{show(claim.figure)} is beyond every float")
    except (InputError, DoesNotFit) as error:
        seconds = time.process_time() - begun
        wrong = isinstance(error, InputError)
        return Found(paper, claim, verdict="missed", why=f"cannot be asked: {error}", seconds=seconds, refused=wrong)
    moved = any(b is not None and not math.isclose(b.value, s.value, rel_tol=SAME) for b, s in figures)
    moved = moved or claim.form == "exponent"  # a law of its own, whatever stands beside it
    seconds = time.process_time() - begun
    return Found(paper, claim, predicted, ends, judge(claim, predicted), claim.why, seconds, moved=moved)


@dataclass(frozen=True, slots=True)
class _Figure:
    value: float
    low: float
    high: float
    machine: str


def _points(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The fields of each point of a sweep; of none one point that changes nothing."""
    return [dict(zip(sweep, values, strict=True)) for values in zip(*sweep.values(), strict=True)] or [{}]


def _slopes(paper: Paper, claim: Claim, instead: Mapping[str, Any], fresh: bool) -> tuple[Number, tuple[float, float]]:
    """The exponent of a figure over another in each scenario of a claim, the baseline's first."""
    found = []
    for name in (claim.baseline, claim.subject) if claim.baseline else (claim.subject,):
        points = _points(paper.scenario[name].sweep or claim.sweep)
        over, of = (
            [_figure(paper, name, text, point, instead, fresh).value for point in points]
            for text in (claim.over, claim.figure)
        )
        if min(over) == max(over):
            raise InputError(f"{show(claim.over)} is the same at every point: there is no exponent over it")
        found.append(_slope(over, of))
    return (found if claim.baseline else found[0]), (min(found), max(found))


def _figure(
    paper: Paper, name: str, text: str, point: Mapping[str, Any], instead: Mapping[str, Any], fresh: bool
) -> _Figure:
    verb, words = paper.scene(name)
    words = {**words, **{k: v for k, v in instead.items() if k in words}, **point}
    document = _kept(verb, words, fresh)
    value = figure(document, text)
    low, high = interval(document, text)
    return _Figure(value, min(low, value), max(high, value), str(words.get("on", "")).partition(":")[0])


def _number(
    claim: Claim, points: Sequence[Mapping[str, Any]], figures: Sequence[tuple[_Figure | None, _Figure]]
) -> tuple[Number, tuple[float, float]]:
    """The predicted number in the claim's unit, and its interval."""
    if claim.form == "exponent":
        (name,) = claim.sweep
        slope = _slope([float(p[name]) for p in points], [s.value for _, s in figures])
        return slope, (slope, slope)
    if claim.pick == "peaks":
        best = max((s for _, s in figures), key=lambda f: f.value)
        other = max((b for b, _ in figures if b is not None), key=lambda f: f.value, default=None)
        value, low, high = _formed(claim, other, best)
        return value, (low, high)
    one = [_formed(claim, b, s) for b, s in figures]
    values = [value for value, _, _ in one]
    if claim.pick == "each" and claim.sweep:
        return values, (min(low for _, low, _ in one), max(high for _, _, high in one))
    if claim.pick == "mean":
        value = statistics.fmean(values)
        return value, (statistics.fmean(x[1] for x in one), statistics.fmean(x[2] for x in one))
    at = sorted(values)[{"least": 0, "median": (len(values) - 1) // 2}.get(claim.pick, -1)]
    value, low, high = one[values.index(at)]
    return value, (low, high)


def _formed(claim: Claim, baseline: _Figure | None, subject: _Figure) -> tuple[float, float, float]:
    """Number, low and high of one point."""
    factor = claim.factor
    if claim.form == "value" or baseline is None:
        return subject.value / factor, subject.low / factor, subject.high / factor
    if claim.form == "difference":
        shift = subject.value - baseline.value
        spread = math.hypot(subject.high - subject.low, baseline.high - baseline.low) / 2
        return shift / factor, (shift - spread) / factor, (shift + spread) / factor
    if not (baseline.value > 0 and subject.value > 0):
        raise InputError(f"the figures are {baseline.value:g} and {subject.value:g}: they have no ratio")
    ratio = subject.value / baseline.value
    wide = _width(baseline, subject)
    low, high = ratio / wide, ratio * wide
    ends = sorted((_of_ratio(claim, low), _of_ratio(claim, high)))
    return _of_ratio(claim, ratio), ends[0], ends[1]


def _of_ratio(claim: Claim, ratio: float) -> float:
    """The claim's number when its subject's figure is so many times the baseline's."""
    number = {"inverse": 1 / ratio, "reduction": 1 - ratio, "gain": ratio - 1}.get(claim.form, ratio)
    return number / claim.factor


def _width(baseline: _Figure, subject: _Figure) -> float:
    """How far a ratio of two figures may be off: their errors in logs, less what they share."""
    ours, theirs = (math.log(x.high / x.low) / 2 if x.low > 0 else 0.0 for x in (subject, baseline))
    same = SHARED if subject.machine == baseline.machine else 0.0
    return math.exp(math.sqrt(max(ours**2 + theirs**2 - 2 * same * ours * theirs, 0.0)))


def _slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of ``log values`` over ``log sizes``."""
    if min(*values, *sizes) <= 0:
        raise InputError("an exponent needs figures above 0")
    xs, ys = [math.log(x) for x in sizes], [math.log(v) for v in values]
    return float(statistics.linear_regression(xs, ys).slope)


@cache
def _state() -> str:
    """What answers depend on beside the question: the program and the catalogues."""
    digest = hashlib.sha256(__version__.encode())
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    for root in catalogue_folders():
        files += sorted(p for p in root.rglob("*.toml") if p.parent.name != "claims") if root.is_dir() else []
    for path in files:
        if not path.is_file():  # a folder called so, a link to nowhere
            continue
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_ANSWERS: dict[str, dict[str, Any]] = {}


def _kept(verb: str, words: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
    """The answer to a question, from memory or disk when it was asked before."""
    asked = json.dumps([verb, words, _stamps(words)], sort_keys=True, default=str)
    name = hashlib.sha256(f"{_state()}{asked}".encode()).hexdigest()[:32]
    if name in _ANSWERS:
        return _ANSWERS[name]
    folder = cache_folder()
    path = folder and folder / "steelyard" / "claims" / f"{name}.json"
    if path is not None and not fresh:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(kept, dict) and kept:
                return _ANSWERS.setdefault(name, kept)
        except (OSError, ValueError, RecursionError):  # none, or none that this program wrote
            pass
    found = answer(verb, words)
    _ANSWERS[name] = found
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(found, default=str), encoding="utf-8")
            part.replace(path)
        except OSError:  # a root that cannot be written to: asked again next time
            pass
    return found


def _stamps(words: object) -> list[tuple[str, int, int]]:
    """Files of the user that a question names, of folders those in them, as they are now: path, time, bytes."""
    if isinstance(words, Mapping | list | tuple):
        every = words.values() if isinstance(words, Mapping) else words
        return [stamp for one in every for stamp in _stamps(one)]
    parts = {words, *re.split("[:#,=@+]", words)} - {""} if isinstance(words, str) else set()
    found: list[Path] = []
    try:
        for part in map(Path, sorted(parts)):
            found += [part] if is_file(part) else sorted(part.iterdir()) if is_folder(part) else []
        stats = [(str(path.absolute()), path.stat()) for path in found[:1000] if path.exists()]
    except OSError:  # what may not be read answers nothing either
        return []
    return [(path, s.st_mtime_ns, s.st_size) for path, s in stats]


def row_of(paper: Paper, found: Iterable[Found]) -> Row:
    """The row of a paper: the best of its verdicts, whether it runs, and the command of what was asked first."""
    found = list(found)
    verdicts = [f.verdict for f in found] or [paper.verdict or "planned"]
    verdict = min(verdicts, key=VERDICTS.index)
    first = next((f for f in found if f.claim.runs), None)
    text = ""
    if first is not None:
        try:
            text = command(*_first_words(paper, first.claim))
        except SteelyardError as error:
            text = str(error)
    runs = any(f.predicted is not None and f.moved for f in found)
    why = paper.why or next((f.why for f in found if f.verdict == verdict and f.why), "")
    return Row(paper, verdict, runs, text, why)


def _first_words(paper: Paper, claim: Claim) -> tuple[str, dict[str, Any]]:
    verb, words = paper.scene(claim.subject)
    return verb, {**words, **{name: values[-1] for name, values in claim.sweep.items()}}
