"""``steelyard plan``: the cheapest deployment that holds the promise, with the files to launch it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from steelyard.cli.output import Output, write
from steelyard.errors import DoesNotFit, InputError, Problem, raise_all

if TYPE_CHECKING:
    from steelyard.search.answer import Answer

__all__ = ["plan"]

_Model = Annotated[
    str,
    Parameter(
        help="catalogue name, or path of an HF config, a folder, a safetensors or a GGUF file (not with --replay)",
        show_default=False,
    ),
]


def _option(help: str, *names: str) -> Parameter:  # noqa: A002 - cyclopts' own word
    return Parameter(name=names or None, help=help, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True)
class Wanted:
    """What is served and promised."""

    rate: Annotated[str, _option("requests per second: 10/s, 600/min; with --trace only its lengths are used")] = ""
    isl: Annotated[str, _option("prompt tokens: 4000, uniform:2000-6000, lognormal:600 (default: 1024)")] = ""
    osl: Annotated[str, _option("generated tokens, in the same words (default: 256)")] = ""
    trace: Annotated[str, _option("file or name of recorded traffic, as in simulate")] = ""
    arrivals: Annotated[str, _option("poisson, constant, gamma:cv=3, onoff:on=10s,off=50s (default: poisson)")] = ""
    peak: Annotated[str, _option("multiply the arrival rate, 3x")] = ""
    ttft: Annotated[str, _option("limit of the time to first token: p99:1s, mean:500ms, or 1s (p99)")] = ""
    tpot: Annotated[str, _option("limit of the time per output token: p95:50ms")] = ""
    e2e: Annotated[str, _option("limit from arrival to the last token")] = ""
    requests: Annotated[int | None, _option("requests each finalist is simulated with")] = None
    seed: Annotated[int, Parameter(help="fixes everything drawn")] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Allowed:
    """What may be used, and what is best."""

    on: Annotated[str, Parameter(help="machines: h100_sxm,h200_sxm,mi300x,l40s, or any")] = "any"
    objective: Annotated[
        Literal["cost", "energy", "carbon", "throughput", "latency"], Parameter(help="what the plan is best at")
    ] = "cost"
    budget: Annotated[str, _option("rent of the whole deployment at most: 40usd/h")] = ""
    max_gpus: Annotated[int | None, _option("devices of the whole deployment at most", "--max-gpus")] = None
    max_power: Annotated[str, _option("power of the whole deployment at most: 20kW", "--max-power")] = ""
    rack_power: Annotated[str, _option("power of one node at most: 8kW", "--rack-power")] = ""
    engines: Annotated[
        str, _option("serving engines: vllm,sglang,trtllm, or any (default: the usual one)", "--engines", "--engine")
    ] = ""
    formats: Annotated[str, _option("any = weights and KV cache in any format the machine computes in")] = ""
    weights: Annotated[str, _option("number formats of the weights, a list or any (default: as published)")] = ""
    kv: Annotated[str, _option("number formats of the KV cache, a list or any (default: 16 bit)")] = ""
    mode: Annotated[
        Literal["any", "aggregated", "disaggregated"], Parameter(help="one pool, or prompts and answers apart")
    ] = "any"
    speculate: Annotated[
        str, _option("speculative decoding that may be used: 'draft:llama-3.2-1b,k=4,accept=0.7;ngram:k=3' (vllm)")
    ] = ""
    mix: Annotated[
        bool, Parameter(negative="", show_default=False, help="plan the best fleet of unlike machines as well")
    ] = False
    headroom: Annotated[str, _option("hold this much more than the rate: 20%")] = ""
    spares: Annotated[int, _option("replicas per pool that may fail with the promise still held")] = 0
    price: Annotated[
        str, _option("USD per device and hour, one for all or h100_sxm=2.5,l40s=0.9 (default: newest)")
    ] = ""
    carbon: Annotated[str, _option("carbon intensity of the electricity, g/kWh")] = ""
    skew: Annotated[float, _option("exponent of the power law of expert popularity; 0 = balanced")] = 0.0
    generic: Annotated[
        bool, Parameter(negative="", show_default=False, help="read an unknown model type as a plain decoder")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Written:
    """Form and place of the answer."""

    out: Annotated[
        str, _option("folder for the launch files, plan.json, plan.toml and report.html; a .json or .csv file")
    ] = ""
    force: Annotated[
        bool, Parameter(negative="", show_default=False, help="replace files of the same names in --out")
    ] = False
    html: Annotated[str, _option("page with the answer and its pictures")] = ""
    json: Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="print JSON in SI units")] = (
        False
    )
    csv: Annotated[
        bool, Parameter(name="--csv", negative="", show_default=False, help="print one CSV row per candidate")
    ] = False
    quiet: Annotated[
        bool,
        Parameter(name="--quiet", negative="", show_default=False, help="no progress, no traceback of internal errors"),
    ] = False

    @property
    def folder(self) -> str:
        """The folder of ``--out``, empty when it names a file or nothing."""
        return "" if self.out.lower().endswith((".json", ".csv")) and not Path(self.out).is_dir() else self.out

    @property
    def output(self) -> Output:
        """Where the answer itself goes."""
        return Output(self.json, self.csv, "" if self.folder else self.out, self.quiet)

    def check(self) -> None:
        """Refuse what cannot be written, before any work. Raises :class:`InputError` with every problem."""
        from steelyard.launch.folder import check_folder
        from steelyard.report.records import check_path

        problems: list[Problem] = []

        def tried(check: Any, *arguments: Any, **named: Any) -> None:
            try:
                check(*arguments, **named)
            except InputError as error:
                problems.extend(error.problems)

        tried(self.output.check)
        if self.folder:
            tried(check_folder, self.folder, force=self.force)
        if self.html:
            tried(check_path, self.html, (".html", ".htm"), "html")
        raise_all(problems)


def plan(
    model: _Model = "",
    /,
    *,
    wanted: Wanted = Wanted(),
    allowed: Allowed = Allowed(),
    replay: Annotated[
        str, _option("play a plan.toml or plan.json again and compare the numbers, instead of planning")
    ] = "",
    written: Written = Written(),
) -> None:
    """Find the cheapest deployment that holds the promise, and write the files to launch it.

    Exit code 3 when nothing fits; the nearest changes that would are then named.
    """
    written.check()
    if replay:
        if model or written.out or written.html:
            raise InputError("--replay takes the file alone, and no --out or --html", field="replay")
        _replay(replay, written)
        return
    if not model.strip():
        raise InputError("expected a name or a path", field="model")
    answer = _ask(model, wanted, allowed, written.quiet)
    _write(answer, written)
    if answer.winner is None:
        assert answer.infeasible is not None
        nearest = "; or ".join(c.text for c in answer.infeasible.nearest)
        raise DoesNotFit(f"nothing fits: {answer.infeasible.reason}", change=nearest or "none found")


def _ask(model: str, wanted: Wanted, allowed: Allowed, quiet: bool) -> Answer:
    from steelyard.search.api import advise

    a = allowed
    usd = _prices(a.price)
    with _told(quiet, "planning") as tell:
        return advise(
            model,
            a.on,
            rate=wanted.rate,
            isl=wanted.isl,
            osl=wanted.osl,
            trace=wanted.trace,
            arrivals=wanted.arrivals,
            peak=wanted.peak,
            ttft=wanted.ttft,
            tpot=wanted.tpot,
            e2e=wanted.e2e,
            objective=a.objective,
            max_gpus=a.max_gpus,
            budget=a.budget or None,
            max_power=a.max_power or None,
            rack_power=a.rack_power or None,
            engine=a.engines,
            weights=a.weights,
            kv=a.kv,
            formats=a.formats,
            mode=a.mode,
            headroom=a.headroom or 0.0,
            spares=a.spares,
            usd_per_hour=usd,
            carbon=_carbon(a.carbon),
            skew=a.skew,
            seed=wanted.seed,
            requests=wanted.requests,
            generic=a.generic,
            speculate=a.speculate,
            mix=a.mix,
            tell=tell,
        )


def _prices(text: str) -> float | dict[str, float] | None:
    """``2.5usd/h`` for all, or ``h100_sxm=2.5,l40s=0.9``. Raises :class:`InputError`."""
    from steelyard.units import Quantity

    unit = Quantity("USD/h", "price", ge=0, le=1e6)
    if "=" not in text:
        return unit.parse(text, "price") if text else None
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise InputError(f"expected MACHINE=PRICE,..., got {part!r}", field="price")
        found[name.strip()] = unit.parse(value, "price")
    return found


def _carbon(text: str) -> float | None:
    """``400`` or ``400g/kWh``. Raises :class:`InputError`."""
    if not text:
        return None
    try:
        value = float(text.lower().replace(" ", "").removesuffix("/kwh").removesuffix("g"))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e5:
        raise InputError(f"expected grams per kWh such as 400, got {text!r}", field="carbon")
    return value


def _write(answer: Answer, written: Written) -> None:
    from steelyard.report import plan as report

    if written.folder and answer.winner is not None:
        from steelyard.launch import write_folder
        from steelyard.report.plan_files import plan_files

        write_folder(written.folder, plan_files(answer), force=written.force)
    if written.html:
        from steelyard.report.plan_page import write_page

        write_page(answer, written.html)
    files = written.folder if answer.winner is not None else ""
    write(
        written.output,
        data=lambda: report.to_dict(answer),
        text=lambda columns: report.text(answer, columns, files=files),
        rows=lambda: report.flat_rows(answer),
    )


def _replay(path: str, written: Written) -> None:
    from steelyard.launch import read_deployment
    from steelyard.report import plan_replay as report

    asked = read_deployment(path)
    with _told(written.quiet, "replaying"):
        found = report.replay(asked)
    write(
        written.output,
        data=lambda: report.to_dict(asked, found),
        text=lambda columns: report.text(asked, found, columns),
        rows=lambda: report.rows(asked, found),
    )


@contextmanager
def _told(quiet: bool, words: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal that says what is being done, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console

    with Console(stderr=True).status(words) as status:
        yield lambda words: status.update(words)
