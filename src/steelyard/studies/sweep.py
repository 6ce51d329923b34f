"""A sweep: expand a study, price what the store does not have yet, commit in batches."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from steelyard._version import __version__
from steelyard.errors import InputError
from steelyard.provenance import content_hash
from steelyard.studies.answers import OK, Priced, chunks_of, price_chunk
from steelyard.studies.executors import execute
from steelyard.studies.points import Point, expand_study
from steelyard.studies.store_columns import columns_of
from steelyard.studies.store_results import Store, StudyRecord
from steelyard.studies.study import Study

__all__ = ["Preview", "Progress", "Swept", "document_of", "preview", "sweep"]

#: Time between two commits, s; longer where they would take more than a tenth of a core.
COMMIT_S, COMMIT_SHARE = 1.0, 0.1
#: Chunks of estimates and trainings up to which processes would take longer to start than the work.
FEW_CHUNKS = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is."""

    done: int
    """Distinct scenarios priced in this run."""
    total: int
    """Distinct scenarios this run has to price."""
    problems: int
    """Those of them without an answer."""
    elapsed_s: float

    @property
    def per_s(self) -> float:
        """Scenarios per second."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Time left at this rate, s; None before the first answer."""
        return (self.total - self.done) / self.per_s if self.done else None


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did."""

    study: StudyRecord
    points: int
    scenarios: int
    """Distinct among the points."""
    reused: int
    """Scenarios the store had already."""
    priced: int
    problems: int
    wall_s: float

    @property
    def left(self) -> int:
        """Scenarios without an answer."""
        return self.scenarios - self.reused - self.priced


@dataclass(frozen=True, slots=True)
class Preview:
    """What a sweep would do."""

    points: list[Point]
    scenarios: int
    reused: int
    time_s: float | None
    """Estimated from pricing the first chunk that is missing; 0 when nothing is, None where that would simulate."""


def _missing(store: Store, study: Study, points: Sequence[Point]) -> tuple[int, list[Point]]:
    """How many distinct scenarios there are, and the points whose scenario has no answer."""
    hashes = list(dict.fromkeys(p.hash for p in points))
    known = store.known(study.kind, hashes)
    return len(hashes), [p for p in points if p.hash not in known]


def preview(study: Study, store: Store, jobs: int = 1) -> Preview:
    """The points of a study, and how long those without an answer would take. Writes nothing."""
    points = expand_study(study)
    scenarios, missing = _missing(store, study, points)
    chunks = chunks_of(study.kind, study.folder, missing)
    time_s: float | None = 0.0
    if chunks and study.kind != "estimate":
        time_s = None  # nothing is simulated, and no policy's code is run, to find out
    elif chunks:
        price_chunk(chunks[0])  # fills caches
        time_s = price_chunk(chunks[0]).took_s * len(chunks) / max(1, jobs)
    return Preview(points, scenarios, scenarios - len({p.hash for p in missing}), time_s)


def sweep(
    study: Study,
    store: Store,
    *,
    executor: str = "process",
    jobs: int = 1,
    resume: bool = False,
    retry: bool = False,
    limit: int | None = None,
    commit_every_s: float = COMMIT_S,
    progress: Callable[[Progress], None] | None = None,
) -> Swept:
    """Price every point of a study that the store has no answer for.

    Args:
        study: what to price.
        store: where answers are kept.
        executor: ``process``, ``ray`` or ``serial``; the answers are the same.
        jobs: processes at once.
        resume: go on with a study that was begun.
        retry: price again what failed by no fault of the question (implies ``resume``).
        limit: distinct scenarios priced at most; the study stays unfinished.
        commit_every_s: time between commits, s, however long a point takes.
        progress: told after every chunk.

    Returns:
        what was done; on KeyboardInterrupt what is priced by then is committed first.

    Raises:
        InputError: problems of the study, or it was begun before and ``resume`` is not given.
        StoreBusy: another sweep writes the store.
    """
    started = time.monotonic()
    points = expand_study(study)
    with store.writing():
        _refuse_again(store, study, points, resume or retry)
        store.begin(study.name, study.kind, document_of(study), _columns(points), __version__)
        if retry:
            store.forget_failed(study.kind, study.name)
        scenarios, missing = _missing(store, study, points)
        reused = scenarios - len({p.hash for p in missing})
        if limit is not None:
            wanted = set(list(dict.fromkeys(p.hash for p in missing))[:limit])
            missing = [p for p in missing if p.hash in wanted]
        chunks = chunks_of(study.kind, study.folder, missing)
        if executor == "process" and study.kind in ("estimate", "train") and len(chunks) <= FEW_CHUNKS:
            executor = "serial"
        asked = {p.hash: p for p in missing}
        committer = _Committer(store, study.kind, asked, commit_every_s)
        total, done, problems = len(asked), 0, 0
        began = time.monotonic()
        with committer, closing(execute(executor, chunks, jobs)) as results:
            for _, priced in results:
                committer.add(priced)
                done += len(priced)
                problems += sum(s != OK for s in priced.statuses)
                if progress:
                    progress(Progress(done, total, problems, time.monotonic() - began))
    return Swept(store.study(study.name), len(points), scenarios, reused, done, problems, time.monotonic() - started)


def _refuse_again(store: Store, study: Study, points: Sequence[Point], resume: bool) -> None:
    """A study that was begun and is not finished is only gone on with when that is asked for."""
    known = {s.name: s for s in store.studies()}
    found = known.get(study.name)
    if found is None or resume:
        return
    if found.kind != study.kind:
        raise InputError(f"another study in {store.path} has this name and is of kind {found.kind}", field="name")
    if found.priced and found.priced < found.points:
        raise InputError(
            f"{study.name!r} was begun: {found.priced:,} of {found.points:,} points are priced; go on with --resume",
            field="study",
        )


def document_of(study: Study) -> dict[str, Any]:
    """A study as the store keeps it: the file, its axes and objectives."""
    return {
        "study": dict(study.document),
        "axes": study.axes,
        "objectives": [
            {"metric": o.metric, "maximise": o.maximise, "name": o.name}
            | {"where": [[c.metric, c.relation, c.value] for c in o.where]}
            for o in study.objectives
        ],
    }


def _columns(points: Sequence[Point]) -> dict[str, list[Any]]:
    return {
        "ordinal": [p.ordinal for p in points],
        "case": [p.case for p in points],
        "repeat": [p.repeat or 0 for p in points],
        "axes": [json.dumps(p.axes, separators=(",", ":")) for p in points],
        "hash": [p.hash for p in points],
    }


class _Committer:
    """Collects answers and writes them in batches, by a thread of its own: answers do not wait for the next one."""

    def __init__(self, store: Store, kind: str, asked: dict[str, Point], every_s: float) -> None:
        self.store, self.kind, self.asked, self.every_s = store, kind, asked, every_s
        self.batch = Priced(kind)
        self.guard = threading.Condition()
        self.ended = False
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="commits", daemon=True)

    def __enter__(self) -> _Committer:
        self.thread.start()
        return self

    def __exit__(self, *failed: object) -> None:
        """Commit the rest, also after an interrupt. Raises what kept an earlier batch from being committed."""
        with self.guard:
            self.ended = True
            self.guard.notify()
        self.thread.join()
        if self.failure is not None:
            raise self.failure
        self._commit(self.batch)

    def add(self, priced: Priced) -> None:
        """Have answers committed soon. Raises what kept earlier ones from being committed."""
        with self.guard:
            if self.failure is not None:
                raise self.failure
            self.batch.add(priced)

    def _run(self) -> None:
        wait_s = self.every_s
        while True:
            with self.guard:
                if self.guard.wait_for(lambda: self.ended, wait_s):
                    return
                batch, self.batch = self.batch, Priced(self.kind)
            started, cpu_s = time.monotonic(), time.thread_time()
            try:
                self._commit(batch)
            except Exception as error:
                with self.guard:
                    self.failure = error
                return
            every_s = max(self.every_s, (time.thread_time() - cpu_s) / COMMIT_SHARE)
            wait_s = max(0.0, started + every_s - time.monotonic())

    def _commit(self, batch: Priced) -> None:
        if not len(batch):
            return
        rows = [self.asked[h].inputs for h in batch.hashes]
        columns: dict[str, Any] = {
            c.name: [r.get(c.name) for r in rows] for c in columns_of(self.kind).values() if c.asked
        }
        ids = {text: content_hash(text) for text in set(batch.sources)}
        columns |= batch.columns | {"status": batch.statuses, "problem": batch.problems, "more": batch.more}
        columns["sources"] = [ids[text] for text in batch.sources]
        self.store.commit(self.kind, batch.hashes, columns, {i: t for t, i in ids.items()}, __version__)
