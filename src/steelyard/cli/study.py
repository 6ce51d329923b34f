"""``steelyard study``: price every point of a study file, in parallel, and never twice."""

from __future__ import annotations

import json as json_text
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import RUN, group, option, switch
from steelyard.cli.output import say
from steelyard.errors import InputError, Problem, printable, raise_all, show
from steelyard.writing import check_target, write_text

if TYPE_CHECKING:
    from steelyard.studies.store_results import Store
    from steelyard.studies.sweep import Preview, Progress, Swept

__all__ = ["DEFAULT_STORE", "study"]

#: Where results are kept when nothing is said.
DEFAULT_STORE = "steelyard.duckdb"
#: Time between two lines of progress where there is no terminal, s.
LINE_S = 10.0
#: Points a preview shows.
SHOWN = 20


@Parameter(name="*")
@dataclass(frozen=True)
class Run:
    """How the points are answered."""

    jobs: Annotated[int | None, option("processes at once (default: the computer's cores)", topic=RUN)] = None
    resume: Annotated[bool, switch("--resume", "go on with a study that was begun", RUN)] = False
    retry: Annotated[bool, switch("--retry", "price again what failed; implies --resume", RUN)] = False
    executor: Annotated[str, Parameter(help="process, ray or serial; the answers are the same", group=group(RUN))] = (
        "process"
    )
    store: Annotated[str, Parameter(help="file that keeps the results", group=group(RUN))] = DEFAULT_STORE
    limit: Annotated[int | None, option("price at most so many scenarios now", topic=RUN)] = None


def study(
    file: Annotated[str, Parameter(help="study file: .toml, .yaml or .json")] = "",
    /,
    *,
    run: Run = Run(),
    dry_run: Annotated[bool, switch("--dry-run", "show the points and how long they would take", RUN)] = False,
    no_store: Annotated[bool, switch("--no-store", "keep nothing: answer in memory and print the report", RUN)] = False,
    schema: Annotated[bool, switch("--schema", "print the JSON schema of a study file")] = False,
    json: Annotated[bool, switch("--json", "print JSON")] = False,
    csv: Annotated[str, option("then write the study's rows to this file")] = "",
    parquet: Annotated[str, option("then write the study's rows to this file")] = "",
    quiet: Annotated[bool, switch("--quiet", "no progress, no traceback of internal errors")] = False,
    allow_code: Annotated[
        bool, switch("--allow-code", "let the study name code, a policy as FILE.py:CLASS", RUN)
    ] = False,
) -> None:
    """Price every point of a study file, in parallel, and never twice.

    Results are kept in a DuckDB file. Equal scenarios are priced once, whatever study asks for them. A study that was
    stopped, by Ctrl-C or kill -9, goes on with --resume.
    """
    if schema:
        from steelyard.studies.schema import study_schema

        say(json_text.dumps(study_schema(), indent=2))
        return
    _check(file, run.jobs, run.limit, csv, parquet)
    workers = run.jobs or os.cpu_count() or 1
    if no_store and not dry_run:
        _in_memory(file, run, workers, json, csv, parquet, allow_code)
        return
    from steelyard.studies.store_results import Store
    from steelyard.studies.study import read_study

    asked, place = read_study(file, allow_code=allow_code), Store(run.store)
    if dry_run:
        from steelyard.studies.sweep import preview

        _show(preview(asked, place, workers), json)
        return
    from steelyard.studies.sweep import sweep

    began = time.monotonic()
    try:
        with _progress(quiet) as told:
            given = {f.name: getattr(run, f.name) for f in fields(run) if f.name not in ("jobs", "store")}
            done = sweep(asked, place, jobs=workers, progress=told, **given)
    except KeyboardInterrupt:
        again = shlex.join(["steelyard", "study", file, "--resume", *_elsewhere(run.store)])
        print(printable(f"stopped after {time.monotonic() - began:,.0f} s; go on with: {again}"), file=sys.stderr)
        raise
    for path in (csv, parquet):
        if path:
            place.export(done.study, path)
    say(json_text.dumps(_document(done, run.store), indent=2) if json else _text(done, run.store))
    if done.study.finished:
        _any_answered(place, done)


def _in_memory(file: str, run: Run, workers: int, as_json: bool, csv: str, parquet: str, allow_code: bool) -> None:
    """Answer a study without a store: its rows as CSV, then the report or its JSON."""
    needless = {"resume": run.resume, "retry": run.retry, "limit": run.limit, "parquet": parquet}
    raise_all([Problem(name, "needs a store; leave --no-store out") for name, given in needless.items() if given])
    from steelyard.cli.output import Output, write
    from steelyard.report import study as report
    from steelyard.report import study_text
    from steelyard.report.cells import csv_text
    from steelyard.studies.api import study as answered

    found = answered(file, executor=run.executor, jobs=workers, allow_code=allow_code)
    if csv:
        write_text(csv, csv_text(report.flat_rows(found)), "csv")
    if found.table.answered.any():
        shown = Output(json=as_json)
        write(shown, data=lambda: report.to_dict(found), text=lambda width: study_text.text(found, width))
        return
    _none_answered(list(found.problems))


def _check(study: str, jobs: int | None, limit: int | None, csv: str, parquet: str) -> None:
    from steelyard.studies.executors import MAX_JOBS

    problems = []
    if not study:
        problems.append(Problem("study", "expected a study file; --schema prints what may be in it"))
    if jobs is not None and not 1 <= jobs <= MAX_JOBS:
        problems.append(Problem("jobs", f"expected 1 to {MAX_JOBS:,}, got {show(jobs)}"))
    if limit is not None and limit < 1:
        problems.append(Problem("limit", f"expected at least 1, got {limit}"))
    for name, path in (("csv", csv), ("parquet", parquet)):
        if not path:
            continue
        try:
            check_target(path, name)
        except InputError as error:
            problems += error.problems
        if Path(path).suffix.lower() != f".{name}":
            problems.append(Problem(name, f"expected a file that ends in .{name}, got {path!r}"))
    raise_all(problems)


def _any_answered(store: Store, done: Swept) -> None:
    """Refuse a study in which no point could be asked."""
    rows = store.rows(done.study)
    if rows["status"] and all(s == "refused" for s in rows["status"]):
        _none_answered(list(dict.fromkeys(rows["problem"])))


def _none_answered(reasons: list[str]) -> None:
    words = f"; and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
    raise InputError(f"no point of the study can run: {reasons[0]}{words}", field="study")


def _document(done: Swept, store: str) -> dict[str, Any]:
    return {
        "schema": "steelyard.sweep/1",
        "study": done.study.name,
        "kind": done.study.kind,
        "store": store,
        "points": done.points,
        "scenarios": done.scenarios,
        "reused": done.reused,
        "priced": done.priced,
        "problems": done.problems,
        "left": done.left,
        "finished": done.study.finished,
        "wall_s": done.wall_s,
    }


def _text(done: Swept, store: str) -> str:
    rate = done.priced / done.wall_s if done.wall_s else 0.0
    lines = [f"{done.study.name}: {done.points:,} points, {done.scenarios:,} scenarios"]
    if done.reused:
        lines.append(f"  {done.reused:,} already in the store")
    lines.append(f"  {done.priced:,} priced in {done.wall_s:,.1f} s ({rate:,.0f} per second)")
    if done.problems:
        lines.append(f"  {done.problems:,} of them have no answer; their rows say why")
    if done.left:
        lines.append(f"  {done.left:,} left; go on with --resume")
    see = shlex.join(["steelyard", "report", done.study.name, *_elsewhere(store)])
    lines.append(f"results in {store}; see: {see}")
    return "\n".join(lines)


def _show(found: Preview, as_json: bool) -> None:
    """The points of a study, without pricing them."""
    left = found.scenarios - found.reused
    if as_json:
        document = {
            "schema": "steelyard.sweep-preview/1",
            "points": len(found.points),
            "scenarios": found.scenarios,
            "reused": found.reused,
            "time_s": found.time_s,
            "rows": [{"ordinal": p.ordinal, "hash": p.hash, **p.axes} for p in found.points],
        }
        say(json_text.dumps(document, indent=2))
        return
    for point in found.points[:SHOWN]:
        words = ", ".join(f"{k} {v}" for k, v in point.axes.items())
        say(f"{point.ordinal:>7}  {point.hash}  {words}")
    if len(found.points) > SHOWN:
        say(f"        ... {len(found.points) - SHOWN:,} more")
    words = f"{len(found.points):,} points, {found.scenarios:,} scenarios, {found.reused:,} in the store; "
    say(words + (f"{left:,} to run" if found.time_s is None else f"about {_span(found.time_s)} for the other {left:,}"))


def _elsewhere(store: str) -> list[str]:
    if store == DEFAULT_STORE:
        return []
    return [f"--store={store}"] if store.startswith("-") else ["--store", store]


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield from _bar()
    else:
        yield _lines()


def _lines() -> Callable[[Progress], None]:
    last = [time.monotonic()]

    def told(p: Progress) -> None:
        if time.monotonic() - last[0] >= LINE_S and p.left_s is not None:
            last[0] = time.monotonic()
            words = f"{p.done:,} of {p.total:,}, {p.per_s:,.1f} per second, {_span(p.left_s)} left"
            print(words + (f", {p.problems:,} without an answer" if p.problems else ""), file=sys.stderr, flush=True)

    return told


def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate="")

        def told(p: Progress) -> None:
            words = f"{p.per_s:,.0f}/s" + (f", {p.problems:,} without an answer" if p.problems else "")
            bar.update(task, completed=p.done, total=p.total, rate=words)

        yield told
