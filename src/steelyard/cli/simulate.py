"""``steelyard simulate``: traffic through a serving engine; what its users see, and what it costs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from steelyard.cli.help import option
from steelyard.cli.options import Model, Wrong, options_of, words_of_options
from steelyard.cli.output import Output, write
from steelyard.cli.progress import status
from steelyard.errors import InputError, Problem, raise_all

if TYPE_CHECKING:
    from steelyard.scenario.slo import Target
    from steelyard.simulation.result import Simulation

__all__ = ["simulate"]

Question: Any = options_of("simulate")
_Intervals = Annotated[
    bool | None, option("80 % intervals from two more runs (default: up to two million engine steps)")
]


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What else is written."""

    records: Annotated[str, option("one row per request: .csv, .jsonl or .parquet")] = ""
    perfetto: Annotated[str, option("Chrome trace of steps and requests (.json), for ui.perfetto.dev")] = ""
    html: Annotated[str, option("page of time series and histograms")] = ""
    format: Annotated[
        Literal["steelyard", "vllm"], option("form of the JSON: ours, or that of vllm bench serve (implies --json)")
    ] = "steelyard"

    def check(self) -> None:
        """Refuse files that cannot be, before any work. Raises :class:`InputError` with every problem."""
        from steelyard.report.records import FORMATS, check_path

        problems: list[Problem] = []
        for name, endings in (("records", FORMATS), ("perfetto", ()), ("html", (".html", ".htm"))):
            path = getattr(self, name)
            if path:
                try:
                    check_path(path, endings, name)
                except InputError as error:
                    problems += error.problems
        raise_all(problems)


def simulate(
    model: Model,
    /,
    *,
    question: Question,
    intervals: _Intervals = None,
    files: Files = Files(),
    output: Output = Output(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Send traffic through a serving engine, step by step.

    Exit code 0 also when an SLO is missed: the report and `verdicts` in the JSON say so.
    """
    if files.format == "vllm":
        output = Output(True, output.csv, output.out, output.quiet)
    problems.read(output.check)
    problems.read(files.check)
    from steelyard.simulation.api import read_simulation, run_scenario

    words = words_of_options("simulate", question, problems)
    with status(output.quiet, "reading traffic") as say:
        scenario = read_simulation({**words, "model": model}, problems)
        assert scenario.trace is not None
        say(f"simulating {len(scenario.trace):,} requests", len(scenario.trace))
        found = run_scenario(scenario, say.watch)
    _write(found, scenario.slo, intervals, files, output)


def _write(
    found: Simulation, targets: tuple[Target, ...], intervals: bool | None, files: Files, output: Output
) -> None:
    from steelyard.report import simulation as report
    from steelyard.simulation.limits import ends_of

    ends = None if files.format == "vllm" and not files.html else ends_of(found, intervals)
    if files.records:
        from steelyard.report.records import write_records

        write_records(found, files.records)
    if files.perfetto:
        from steelyard.report.perfetto import write_perfetto

        left = write_perfetto(found, files.perfetto)
        if left and not output.quiet:
            print(f"{files.perfetto} {left}", file=sys.stderr)
    if files.html:
        from steelyard.report.timeline import write_timeline

        write_timeline(found, files.html, targets, ends)

    def document() -> dict[str, Any]:
        if files.format == "vllm":
            from steelyard.report.plain import plain
            from steelyard.report.records import vllm_bench

            return plain(vllm_bench(found))  # type: ignore[no-any-return]
        return report.to_dict(found, targets, ends)

    write(
        output,
        data=document,
        text=lambda columns: report.text(found, columns, targets, ends),
        rows=lambda: [report.flat(found, targets, ends)],
    )
