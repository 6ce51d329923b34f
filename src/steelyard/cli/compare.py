"""``steelyard compare``: two of a kind side by side, or a measured benchmark beside its simulation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelyard.cli.help import FIRST, group, option
from steelyard.cli.options import DEPLOYED, Lengths, Wrong, options_of, words_of_options
from steelyard.cli.output import Output, Paged, write
from steelyard.cli.progress import status
from steelyard.errors import InputError, Problem
from steelyard.report.entry import Kind
from steelyard.scenario.fields import GROUPS, field
from steelyard.scenario.words import Problems, missing

if TYPE_CHECKING:
    from steelyard.simulation.result import Simulation
    from steelyard.traffic.trace import Trace

_First = Annotated[
    str, Parameter(help="name of a machine or model, a saved estimate (--json --out FILE), or a benchmark's log")
]
_Second = Annotated[str, Parameter(help="what to put beside it; not for a benchmark's log", show_default=False)]
_Kind = Annotated[
    Kind | None, Parameter(name="--kind", help="what the names mean, when they mean several things", group=group(FIRST))
]
_Model = Annotated[
    str,
    Parameter(
        name="--model",
        group=group(FIRST),
        show_default=False,
        help="model of the benchmark, where its log does not say (logs of vllm bench, SGLang, genai-perf, aiperf, "
        "guidellm, LLMPerf, or records of requests)",
    ),
]
#: The heading of the load in the help.
_LOAD = field("simulate", "rate").topic
Question: Any = options_of("simulate", (*DEPLOYED, *GROUPS["shown"]), required=False)


@Parameter(name="*")
@dataclass(frozen=True)
class Load(Lengths):  # type: ignore[misc]
    """The load of a benchmark, where its log does not say."""

    rate: Annotated[str, option("its load, when the log does not say: 4/s", topic=_LOAD)] = ""
    concurrency: Annotated[
        int | None,
        option(
            "its load: so many requests in flight, or in its one batch",
            *("--concurrency", "--users", "--max-concurrency", "--batch", "--batch-size"),
            topic=_LOAD,
        ),
    ] = None
    seed: Annotated[int, Parameter(help=field("simulate", "seed").doc, group=group(_LOAD))] = 0


def compare(
    a: _First,
    b: _Second = "",
    /,
    *,
    kind: _Kind = None,
    model: _Model = "",
    question: Question = Question(),  # noqa: B008 - frozen
    load: Load = Load(),
    output: Output = Output(),  # noqa: B008
    paged: Paged = Paged(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Put two machines, two models or two saved estimates side by side, or a measured benchmark and its prediction.

    The load of a benchmark's log goes through the simulator: the options are those of `simulate`. Results of
    llama-bench (JSON, CSV or its table) stand beside estimates, with the model, machine and formats they name.
    """
    problems.read(output.check)
    problems.read(paged.check)
    from steelyard.traffic.llama_bench import is_llama_bench
    from steelyard.traffic.trace import LENGTHS

    if not b and is_llama_bench(a):
        _llama_bench(a, model, question, load, output, paged, problems)
    elif b and not model and not question.on:
        words = "only for a benchmark's log: two things are compared as they are"
        problems.add([Problem(name, words) for name in ("rate", "concurrency", *LENGTHS) if getattr(load, name)])
        problems.done()
        _pair(a, b, kind, output, paged)
    else:
        _replay(a, b, model, question, load, output, paged, problems)


def _pair(a: str, b: str, kind: Kind | None, output: Output, paged: Paged) -> None:
    from steelyard.report import compare as report

    if kind is None:
        from steelyard.simulation.replay import is_log
        from steelyard.traffic.llama_bench import is_llama_bench

        logs = [x for x in (a, b) if is_llama_bench(x) or is_log(x)]
        if logs:
            raise InputError(
                f"{logs[0]!r} is a benchmark's log: compare it alone, with --model MODEL --on MACHINE", field="compare"
            )
    found = report.compare(a, b, kind)
    paged.write(found)
    write(output, data=lambda: report.to_dict(found), text=lambda columns: report.text(found, columns), rows=found.rows)


def _llama_bench(
    run: str, model: str, question: Any, load: Load, output: Output, paged: Paged, problems: Problems
) -> None:
    """Results of llama-bench, each beside its estimate."""
    from steelyard.estimation.llama_bench import beside
    from steelyard.report import llama_bench as report

    words = words_of_options("simulate", question, problems)
    given = {"model": model, **{name: value for name, value in words.items() if value not in (None, "", ())}}
    given |= {name: value for name in ("rate", "concurrency") if (value := getattr(load, name))}
    found = problems.read(beside, run, {name: value for name, value in given.items() if value})
    problems.done()
    assert found is not None
    paged.write(found)
    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.text(found, columns),
        rows=lambda: report.flat_rows(found),
    )


def _replay(
    run: str, second: str, model: str, question: Any, load: Load, output: Output, paged: Paged, problems: Problems
) -> None:
    if second:
        raise InputError(f"with --model and --on one log is compared; {second!r} is too much", field="compare")
    from steelyard.report import replay as report
    from steelyard.simulation.api import read_simulation, run_scenario
    from steelyard.simulation.replay import read_log, replay, said_by
    from steelyard.traffic.lengths import parse_lengths
    from steelyard.traffic.trace import LENGTHS

    words = {**words_of_options("simulate", question, problems), "model": model, "seed": load.seed}

    def send(trace: Trace) -> Simulation:
        return run_scenario(read_simulation({**words, "trace": trace}))

    with status(output.quiet, "reading the log") as say:
        given = {k: problems.read(parse_lengths, getattr(load, k), k) for k in LENGTHS if getattr(load, k)}
        lengths = {k: v for k, v in given.items() if v is not None}
        read = partial(read_log, run, rate=load.rate, concurrency=load.concurrency, seed=load.seed, lengths=lengths)
        log = problems.read(read)
        if log is not None:
            log, words = said_by(log, words)
        if not model and not question.on:
            message = "needs a second name, or for a benchmark's log --model and --on"
            problems.add([Problem("compare", message)])
        else:
            for name, given in (("model", words["model"]), ("on", question.on)):
                problems.add([] if given else [Problem(name, missing(field("simulate", name)))])
        problems.done()
        assert log is not None
        say(f"simulating {len(log.trace):,} requests")
        found = replay(log, send)
    paged.write(found)
    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.text(found, columns),
        rows=lambda: report.rows(found),
    )
