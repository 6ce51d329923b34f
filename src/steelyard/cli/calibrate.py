"""``steelyard calibrate``: fit a machine from tables, this computer or a few samples, or an engine from its logs."""

from __future__ import annotations

import json as encode
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.calibrate_networks import Networks, calibrate_networks
from steelyard.cli.help import HERE, LOGS, RUNS, TABLES, group, option, switch
from steelyard.cli.options import DEPLOYED, Lengths, options_of, words_of_options
from steelyard.cli.output import say
from steelyard.cli.progress import bar
from steelyard.documents import is_file
from steelyard.errors import InputError, Problem, UnknownName
from steelyard.scenario.fields import GROUPS
from steelyard.scenario.words import Problems

Question: Any = options_of("simulate", tuple(n for n in DEPLOYED if n != "anchor"), required=False)

_Name = Annotated[str, Parameter(help="catalogue machine to calibrate, or with --samples the name of a new one")]
_Files = Annotated[
    str, Parameter(help="with --engine: logs of benchmarks (vllm bench serve, aiperf, guidellm, records)", negative="")
]
_Out = Annotated[
    str, option("folder to write to: with --from MACHINE/OP.toml in it, else a catalogue (default: the user's)")
]
_Json = Annotated[bool, switch("--json", "print JSON")]
_Quiet = Annotated[bool, switch("--quiet", "no progress")]


@Parameter(name="*")
@dataclass(frozen=True)
class Tables:
    """What is fitted to measured tables or to a few samples."""

    from_: Annotated[str, option("folder of measured tables", "--from", topic=TABLES)] = ""
    op: Annotated[str, option("only these: gemm,attention,moe,collective (default: all)", topic=TABLES)] = ""
    samples: Annotated[str, option("CSV of a few measurements: op, latency_s, dtype, sizes", topic=TABLES)] = ""
    like: Annotated[str, option("with --samples: machine to borrow figures from", topic=TABLES)] = ""


@Parameter(name="*")
@dataclass(frozen=True)
class ThisComputer:
    """What is measured here."""

    here: Annotated[bool, switch("--here", "measure this computer", HERE)] = False
    check: Annotated[
        bool, switch("--check", "with --here: predict and run transformer and CNN blocks, no calibration", HERE)
    ] = False
    quick: Annotated[bool, switch("--quick", "with --here: a third of the measurements", HERE)] = False
    name: Annotated[
        str,
        Parameter(name="--name", help="name of the machine written, with --here, or of the anchor", group=group(HERE)),
    ] = "here"
    device: Annotated[str, option("with --here: cpu, gpu, cuda or mps", topic=HERE)] = ""
    threads: Annotated[int, option("with --here: threads (default: cores that are free)", topic=HERE)] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Benchmarks:
    """The benchmarks of an engine, where its logs do not say."""

    model: Annotated[str, option("with --engine: model of the benchmarks", topic=LOGS)] = ""
    rate: Annotated[str, option("with --engine: the load, when no log says it", topic=LOGS)] = ""
    concurrency: Annotated[int | None, option("with --engine: the load, when no log says it", topic=LOGS)] = None


@Parameter(name="*")
@dataclass(frozen=True)
class Anchors(Lengths):  # type: ignore[misc]
    """A run of the user's own server, which moves what is asked with it."""

    anchor: Annotated[str, option("log of a run (as `compare` reads them), or llama-bench's results", topic=RUNS)] = ""
    ttft: Annotated[str, option("instead of a log: mean time to first token, 320ms", topic=RUNS)] = ""
    tpot: Annotated[str, option("mean time per output token, 21ms", topic=RUNS)] = ""
    tokens_per_s: Annotated[
        str, option("or generated tokens per second of all clients, 2400", "--tokens-per-s", topic=RUNS)
    ] = ""

    @property
    def said(self) -> bool:
        """Whether a run is given."""
        return bool(self.anchor or self.ttft or self.tpot or self.tokens_per_s)


Answer = tuple[dict[str, Any], Iterable[str]]
"""The JSON document, and the lines of the text."""


def calibrate(
    machine: _Name = "",
    /,
    *files: _Files,
    tables: Tables = Tables(),
    out: _Out = "",
    computer: ThisComputer = ThisComputer(),
    benchmarks: Benchmarks = Benchmarks(),
    anchors: Anchors = Anchors(),
    networks: Networks = Networks(),  # noqa: B008 - frozen
    question: Question = Question(),  # noqa: B008 - frozen
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Fit parameters from tables (--from), this computer (--here), a few rows (--samples), logs (--engine) or networks.

    `steelyard calibrate --engine vllm FILE... --model MODEL --on MACHINE` replays the load of each log and fits what a
    step and a request cost beside the kernels. `steelyard calibrate --anchor RUN --on MACHINE` makes an anchor of a run
    of your own server, with which `estimate`, `simulate` and `plan` answer other questions (`--anchor NAME`).
    `steelyard calibrate --networks my10.csv --on MACHINE --runtime RUNTIME` scales a runtime to a machine by a few
    measured networks; with `--space nb201` they are architectures of a searched space.
    """
    if anchors.said:
        document, lines = _anchor(
            tuple(f for f in (anchors.anchor, machine, *files) if f), anchors, benchmarks, question, out, computer.name
        )
        say(encode.dumps(document, indent=2, allow_nan=False) if json else "\n".join(lines))
        return
    if networks.said:
        document, lines = calibrate_networks(question.on or machine, networks, out)
        say(encode.dumps(document, indent=2, allow_nan=False) if json else "\n".join(lines))
        return
    modes = [f for f, v in {"--from": tables.from_, "--here": computer.here, "--samples": tables.samples}.items() if v]
    engine = bool(question.engine or question.on or benchmarks.model)
    if engine:
        other = next(iter([*modes, *(f"--{name}" for name in ("op", "like") if getattr(tables, name))]), "")
        if other:
            raise InputError(f"{other} does not go with --engine", field="calibrate")
    elif files:
        raise InputError(f"{files[0]!r} is too much; logs go with --engine", field="calibrate")
    elif len(modes) != 1:
        got = f"got {' and '.join(modes)}" if modes else "got none"
        raise InputError(f"expected one of --from, --here and --samples, {got}", field="calibrate")
    elif not computer.here and not machine:
        raise InputError("MACHINE is required with --from and --samples", field="calibrate")
    needs: dict[str, dict[str, Any]] = {
        "--here": {f"--{name}": getattr(computer, name) for name in ("check", "quick", "device", "threads")},
        "--samples": {"--like": tables.like},
        "--from": {"--op": tables.op},
    }
    for mode, flags in needs.items():
        stray = next((flag for flag, value in flags.items() if value and not engine and mode not in modes), "")
        if stray:
            raise InputError(f"{stray} goes with {mode}", field="calibrate")
    if out and is_file(out):
        raise InputError(f"expected a folder, got the file {out!r}", field="out")
    if engine:
        logs = tuple(f for f in (machine, *files) if f)
        document, lines = _engine(logs, benchmarks, question, out, quiet)
    elif computer.here and machine:
        message = f"--here measures this computer, not {machine!r}; use --name to call it so"
        raise InputError(message, field="machine")
    elif computer.here:
        document, lines = _check(computer, quiet) if computer.check else _here(computer, out, quiet)
    elif tables.samples:
        document, lines = _samples(machine, tables, out)
    else:
        document, lines = _from(machine, tables, out, quiet)
    say(encode.dumps(document, indent=2, allow_nan=False) if json else "\n".join(lines))


def _from(machine: str, asked: Tables, out: str, quiet: bool) -> Answer:
    from steelyard.calibrate import tables
    from steelyard.machine.catalogue import find_machine

    ops = tables.wanted_ops(asked.op)
    target = find_machine(machine)
    with bar(quiet) as told:
        sections = tables.calibrate_from(target, asked.from_, ops=ops, progress=told)
    paths = tables.write_calibration(target.name, sections, out)
    rows = [
        {
            **{name: getattr(s, name) for name in ("op", "section", "title")},
            "fitted_rows": s.rows,
            "held_out": s.held_out.table(),
            "borrowed": s.before.table(),
            **{name: s.provenance[name] for name in ("prior", "source", "split")},
        }
        for s in sections
    ]
    document = {"schema": "steelyard.calibrate/1", "machine": target.name, "files": _names(paths), "sections": rows}
    header = ("section", "fitted", "scored", "mean", "median", "p90", "borrowed mean", "log std")
    cells = [
        (s.title, s.rows, h.rows, h.mean_ape, h.median_ape, h.p90_ape, s.before.mean_ape, f"{h.log_std:.3f}")
        for s in sections
        for h in (s.held_out,)
    ]
    head = f"{target.title}: rows left out of the fit, absolute errors in %"
    return document, [head, _table(header, cells), *_wrote(paths)]


def _here(asked: ThisComputer, out: str, quiet: bool) -> Answer:
    from steelyard.calibrate.here import write_here
    from steelyard.calibrate.measure.session import measure
    from steelyard.calibrate.task import need_scipy
    from steelyard.calibrate.toml_files import check_folder, check_name
    from steelyard.folders import folder_to_write

    check_name(asked.name, "name")
    check_folder(folder_to_write(out))
    if asked.threads < 0:
        raise InputError(f"expected at least 1, got {asked.threads}", field="threads")
    need_scipy()
    with bar(quiet) as told:
        session = measure(quick=asked.quick, threads=asked.threads, device=asked.device, progress=told)
    found, paths = write_here(session, asked.name, out)
    machine = found.machine
    peaks = {fmt: rate for engine in machine.compute for fmt, rate in engine.peak.items()}
    document = {
        "schema": "steelyard.calibrate_here/1",
        "machine": machine.name,
        "title": machine.title,
        **{key: getattr(session, key) for key in ("backend", "device", "threads", "seconds", "noise", "drift")},
        **{key: getattr(session.host, key) for key in ("cores", "load")},
        "peak_ops_per_s": peaks,
        "memory": [
            {key: getattr(m, key) for key in ("name", "capacity_bytes", "bandwidth_bytes_per_s")}
            for m in machine.memory
        ],
        "files": _names(paths),
        "sections": [
            {"op": s.op, "section": s.section, "rows": s.rows, "held_out": s.held_out.table()} for s in found.sections
        ],
    }
    prefix = f"STEELYARD_CATALOGUE={shlex.quote(out)} " if out else ""
    best = ", ".join(f"{f} {v / 1e9:,.0f} GFLOP/s" for f, v in peaks.items())
    levels = ", ".join(f"{m.name} {m.bandwidth_bytes_per_s / 1e9:,.0f} GB/s" for m in machine.memory)
    noise = f"noise {100 * session.noise:.0f} % (median round over kept round), drift {100 * session.drift:+.0f} %"
    cells = [
        (s.section or s.title, s.rows, s.held_out.mean_ape, s.held_out.median_ape, s.held_out.p90_ape)
        for s in found.sections
    ]
    return document, [
        f"{machine.title}: measured with {session.backend} in {session.seconds:.0f} s",
        f"  best reached: {best}; {levels}",
        f"  {noise}",
        *_warnings(session),
        "shapes left out of the fit, absolute errors in %:",
        _table(("section", "rows", "mean", "median", "p90"), cells),
        *_wrote(paths),
        f"use it: {prefix}steelyard estimate MODEL --on {machine.name} --engine torch",
    ]


def _warnings(session: Any) -> Iterator[str]:
    if session.threads < session.host.cores:
        busy = f"  other programs keep this computer busy (load {session.host.load:.1f})"
        yield f"{busy}: {session.threads} of {session.host.cores} cores measured"
    if abs(session.drift) > 0.1 or session.noise > 0.2:
        yield "  the machine was not steady meanwhile; measure again when it is quiet"


def _check(asked: ThisComputer, quiet: bool) -> Answer:
    import numpy as np

    from steelyard.calibrate.here import measured_with
    from steelyard.calibrate.measure.check import check_blocks
    from steelyard.machine.catalogue import find_machine

    name, threads = asked.name, asked.threads
    try:
        target = find_machine(name)
    except UnknownName:
        again = "" if name == "here" else f" --name {name}"
        message = f"{name!r} was never measured; first run `steelyard calibrate --here{again}`"
        raise InputError(message, field="check") from None
    used, formats = measured_with(target)
    with bar(quiet) as told:
        found = check_blocks(target, threads or used, formats, progress=told)
    errors = [100.0 * abs(c.error_frac) for c in found]
    inside = float(np.mean([c.low_s <= c.measured_s <= c.high_s for c in found]))
    document = {
        "schema": "steelyard.calibrate_check/1",
        "machine": target.name,
        "threads": threads or used,
        "median_ape": float(np.median(errors)),
        "mean_ape": float(np.mean(errors)),
        "interval80": inside,
        "rows": [{**asdict(c), "error_frac": c.error_frac} for c in found],
    }
    cells = [
        (c.name, c.number_format, *(f"{1e3 * t:.3g}" for t in (c.predicted_s, c.measured_s)), *errors_of)
        for c in found
        for errors_of in ((f"{100 * c.error_frac:+.1f}", 100 * c.noise),)
    ]
    median, mean = document["median_ape"], document["mean_ape"]
    return document, [
        _table(("block", "format", "predicted ms", "measured ms", "error %", "noise %"), cells),
        f"{len(found)} blocks of sizes not calibrated with: median error {median:.1f} %, mean {mean:.1f} %; "
        f"{100 * inside:.0f} % inside the 80 % interval",
    ]


def _samples(machine: str, asked: Tables, out: str) -> Answer:
    from steelyard.calibrate import samples as few
    from steelyard.calibrate.toml_files import write_files
    from steelyard.folders import folder_to_write
    from steelyard.machine.catalogue import find_machine

    path, like = asked.samples, asked.like
    rows = few.read_samples(path)
    taken_after = find_machine(like) if like else None
    texts: dict[str, str] = {}
    borrow = taken_after.name if taken_after else ""
    try:
        target = find_machine(machine)
        adapted = few.adapt(target, rows, like=borrow)
    except UnknownName as error:
        if error.field != "machine":
            raise
        if taken_after is None:
            message = f"{error.message}; --like MACHINE names one to take the figures of"
            raise InputError(message, field="machine") from None
        given, data = few.named_like(machine, taken_after, like)
        target, adapted = few.adapt_black_box(given, rows, like=borrow)
        texts[f"machines/{machine}.toml"] = few.machine_file(data, target, borrow)
    texts |= {f"calibration/{k}": v for k, v in few.files_of(target.name, adapted, Path(path).name).items()}
    paths = write_files(folder_to_write(out), texts)
    document = {
        "schema": "steelyard.calibrate_samples/1",
        "machine": target.name,
        "files": _names(paths),
        "sections": [
            {
                **{name: getattr(a, name) for name in ("op", "section", "rows", "prior", "kept")},
                "before": a.before.table(),
                "after": a.after.table(),
                "moved": dict(a.moved),
            }
            for a in adapted
        ],
    }
    cells = []
    for a in adapted:
        moved = " ".join(f"{k} {v:.2f}" for k, v in a.moved.items() if abs(v - 1) > 0.02)
        after = a.after.mean_ape if a.rows >= 3 else "-"
        cells.append((a.title, a.rows, a.before.mean_ape, after, a.prior, moved if a.kept else "kept: no help"))
    header = ("section", "rows", "before", "after", "borrowed from", "parameters (fitted / borrowed)")
    head = f"{target.title}: mean absolute error in %; after: each row predicted by a fit that did not see it"
    return document, [head, _table(header, cells), *_wrote(paths)]


def _anchor(
    logs: tuple[str, ...], asked: Anchors, benchmarks: Benchmarks, question: Any, out: str, name: str
) -> Answer:
    from steelyard.calibrate.anchor_runs import Said, anchor_of, write_anchor
    from steelyard.calibrate.toml_files import check_folder, check_name
    from steelyard.folders import folder_to_write
    from steelyard.units import parse_quantity

    check_folder(folder_to_write(out))
    problems = Problems()
    words = {**words_of_options("simulate", question, problems), "model": benchmarks.model}
    units = {"ttft": "s", "tpot": "s", "tokens_per_s": "1"}
    given = {name: getattr(asked, name) for name in units if getattr(asked, name)}
    numbers = {name: problems.read(parse_quantity, text, units[name], name) for name, text in given.items()}
    for unit, number in numbers.items():
        if number is not None and not 0 < number < 1e9:
            problems.add([Problem(unit, f"expected a number above 0, got {getattr(asked, unit)}")])
    sizes = {name: getattr(asked, name) for name in GROUPS["batch"][1:] if getattr(asked, name)}
    if logs and (numbers or sizes):
        problems.add([Problem("anchor", f"a log says its own {', '.join([*numbers, *sizes])}: leave them out")])
    for field, value in {"model": words["model"], "on": question.on}.items() if not logs else ():
        problems.add([] if value else [Problem(field, "required without a log")])
    problems.read(check_name, name, "name")
    problems.done()
    said = Said(*(numbers.get(name) for name in units))
    found = anchor_of({**words, **sizes}, logs, said=said, rate=benchmarks.rate, concurrency=benchmarks.concurrency)
    if name != ThisComputer.name:
        found = replace(found, anchor=replace(found.anchor, name=name))
    path = write_anchor(found, out)
    anchor, moved = found.anchor, found.anchor.moved(found.engine, found.machine.name, found.model)
    apart = {
        "this deployment": moved,
        "another model on it": anchor.moved(found.engine, found.machine.name, ""),
        "another machine": anchor.moved(found.engine, "", found.model),
    }
    cells = [
        (run.load[:40], *(_error(run.error(phase)) for phase in ("step", "first")), *map(_seconds, times))
        for run in anchor.run
        for times in ((run.measured_tpot_s, run.measured_ttft_s),)
    ]
    shifts = [
        (name, f"x{m.step:.3g}", f"x{m.step_spread:.2g}", f"x{m.first:.3g}", f"x{m.first_spread:.2g}")
        for name, m in apart.items()
    ]
    document = {
        "schema": "steelyard.calibrate_anchor/1",
        "anchor": asdict(anchor),
        "moved": {name: asdict(m) for name, m in apart.items()},
        "files": _names([path]),
    }
    return document, [
        f"{anchor.title}: measured over predicted",
        _table(("run", "TPOT off", "TTFT off besides", "TPOT", "TTFT"), cells),
        "what questions with it are moved by",
        _table(("question", "steps", "their spread", "first tokens besides", "their spread"), shifts),
        *_wrote([path]),
        f"use it: steelyard estimate MODEL --on {found.machine.name} --anchor {anchor.name if not out else path}",
    ]


def _error(log: float | None) -> str:
    return "-" if log is None else f"{100 * math.expm1(log):+.1f} %"


def _engine(logs: tuple[str, ...], asked: Benchmarks, question: Any, out: str, quiet: bool) -> Answer:
    needs = {"--engine": question.engine, "--model": asked.model, "--on": question.on, "the logs' files": logs}
    missing = [name for name, given in needs.items() if not given]
    if missing:
        raise InputError(f"fitting an engine needs {' and '.join(missing)}", field="engine")
    from steelyard.calibrate.engine_logs import calibrate_engine, write_engine
    from steelyard.calibrate.toml_files import check_folder
    from steelyard.folders import folder_to_write

    check_folder(folder_to_write(out))
    problems = Problems()
    words = {**words_of_options("simulate", question, problems), "model": asked.model}
    problems.done()
    with bar(quiet) as told:
        found = calibrate_engine(words, logs, rate=asked.rate, concurrency=asked.concurrency, progress=told)
    path = write_engine(found, ", ".join(Path(x).name for x in logs), out)
    rows = [
        {
            "log": s.name,
            **{name: getattr(s, name) for name in ("load", "requests", "left_out")},
            "mean_tpot_error_frac": {"before": _number(s.tpot_before), "after": _number(s.tpot_after)},
            "mean_ttft_error_frac": {"before": _number(s.ttft_before), "after": _number(s.ttft_after)},
        }
        for s in found.logs
    ]
    document = {
        "schema": "steelyard.calibrate_engine/1",
        "engine": found.engine.name,
        "before": dict(found.before),
        "after": dict(found.after),
        "at_zero": list(found.bounds),
        "logs": rows,
        "files": [str(path)],
    }
    header = ("log", "requests", "", "TPOT before", "after", "TTFT before", "after")
    cells = [
        (
            *(s.name, s.requests, "left out" if s.left_out else "fitted"),
            *(_percent(x) for x in (s.tpot_before, s.tpot_after, s.ttft_before, s.ttft_after)),
        )
        for s in found.logs
    ]
    figures = [(k, _seconds(found.before[k]), _seconds(v)) for k, v in found.after.items()]
    alone = "  no log was left out: give three or more to see how far the figures carry"
    return document, [
        f"{found.engine.title}: mean times, simulated over measured, in %",
        _table(header, cells),
        _table(("figure", "before", "fitted to all logs"), figures),
        *([] if any(s.left_out for s in found.logs) else [alone]),
        *(f"  {n} ended at zero: the kernels alone are predicted slower than measured" for n in found.bounds),
        *_wrote([path]),
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    return [str(p) for p in paths]


def _wrote(paths: Sequence[Path]) -> Iterator[str]:
    return (f"wrote {p}" for p in paths)


def _number(value: float) -> float | None:
    return value if value == value else None


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:+.1f}"


def _seconds(value: float) -> str:
    from steelyard.units import format_quantity

    return format_quantity(value, "s")


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    cells = [header, *(tuple(f"{x:.1f}" if isinstance(x, float) else str(x) for x in row) for row in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells)
