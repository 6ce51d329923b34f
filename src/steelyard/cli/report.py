"""``steelyard report``: what a study of a results store says."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from steelyard.cli.help import OUTPUT, RUN, group, option, switch
from steelyard.cli.output import say
from steelyard.cli.study import DEFAULT_STORE
from steelyard.errors import InputError, Problem, raise_all
from steelyard.writing import check_target

if TYPE_CHECKING:
    from steelyard.studies.store_results import Store, StudyRecord
    from steelyard.studies.study import Objective

__all__ = ["report"]


def report(
    study: Annotated[str, Parameter(help="name of a study, or its file; without one the studies are listed")] = "",
    /,
    *,
    store: Annotated[str, Parameter(help="file that keeps the results", group=group(RUN))] = DEFAULT_STORE,
    best: Annotated[int, Parameter(help="points shown per objective", group=group(OUTPUT))] = 5,
    html: Annotated[str, option("write a page of plots and tables")] = "",
    csv: Annotated[str, option("write the study's rows")] = "",
    parquet: Annotated[str, option("write the study's rows")] = "",
    json: Annotated[bool, switch("--json", "print JSON in SI units")] = False,
    quiet: Annotated[bool, switch("--quiet", "no traceback of internal errors")] = False,
) -> None:
    """Show a study of a results store: best points, Pareto front, what each axis does.

    A study that is still being priced is shown as far as it is. The objectives are those of the file when one is given.
    """
    _check(best, html, csv, parquet)
    from steelyard.studies.store_results import Store

    place = Store(store)
    if not study:
        _list(place, json)
        return
    name, objectives = _asked(study)
    record = place.study(name)
    for path in (csv, parquet):
        if path:
            place.export(record, path)
    from steelyard.report.study import to_dict
    from steelyard.studies.findings import findings
    from steelyard.studies.table import table_of

    found = findings(record, table_of(record.kind, place.rows(record)), objectives, best)
    if html:
        from steelyard.report.study_page import write_page

        write_page(found, html, place.sources(record))
    if json:
        say(json_text.dumps(to_dict(found, place.sources(record)), indent=2, allow_nan=False))
        return
    from steelyard.report.study_text import text

    say(lambda columns: text(found, columns))


def _asked(study: str) -> tuple[str, tuple[Objective, ...]]:
    """Name of the study, and the objectives of its file when it is one."""
    if Path(study).suffix.lower() in (".toml", ".yaml", ".yml", ".json"):
        from steelyard.studies.study import read_study

        found = read_study(study, allow_code=True, names=False)  # nothing of it is run
        return found.name, found.objectives
    return study, ()


def _check(best: int, html: str, csv: str, parquet: str) -> None:
    problems = [Problem("best", f"expected at least 1, got {best}")] if best < 1 else []
    for name, path, endings in (
        ("html", html, (".html", ".htm")),
        ("csv", csv, (".csv",)),
        ("parquet", parquet, (".parquet",)),
    ):
        if not path:
            continue
        if Path(path).suffix.lower() not in endings:
            problems.append(Problem(name, f"expected a file that ends in {endings[0]}, got {path!r}"))
        try:
            check_target(path, name)
        except InputError as error:
            problems += error.problems
    raise_all(problems)


def _list(store: Store, as_json: bool) -> None:
    from steelyard.report.paper import columns, render

    found: list[StudyRecord] = store.studies()
    if as_json:
        rows = [{"study": s.name, "kind": s.kind, "points": s.points, "priced": s.priced} for s in found]
        say(json_text.dumps({"schema": "steelyard.studies/1", "studies": rows}, indent=2))
        return
    if not found:
        raise InputError(f"no study in {str(store.path)!r}", field="store")
    cells = [[s.name, s.kind, f"{s.points:,}", f"{s.priced:,}"] for s in found]
    table = columns(["study", "kind", "points", "priced"], cells, ["points", "priced"], ["study"])
    say(lambda width: render([table], width))
