"""``steelyard calibrate``: fit a machine from tables, this computer or a few samples, or an engine from its logs."""

from __future__ import annotations

import json as encode
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from steelyard.cli.simulate import Deployment, Serving
from steelyard.errors import InputError, UnknownName

_Name = Annotated[str, Parameter(help="catalogue machine to calibrate, or with --samples the name of a new one")]
_From = Annotated[str, Parameter(name="--from", help="folder of measured tables", show_default=False)]
_Op = Annotated[
    str, Parameter(help="only these: gemm,attention,moe,collective,vector (default: all)", show_default=False)
]
_Out = Annotated[
    str,
    Parameter(
        help="folder to write to: with --from MACHINE/OP.toml in it, else a catalogue (default: the user's)",
        show_default=False,
    ),
]
_Here = Annotated[bool, Parameter(name="--here", negative="", show_default=False, help="measure this computer")]
_Check = Annotated[
    bool,
    Parameter(
        negative="", show_default=False, help="with --here: predict and run transformer and CNN blocks, no calibration"
    ),
]
_Quick = Annotated[bool, Parameter(negative="", show_default=False, help="with --here: a third of the measurements")]
_As = Annotated[str, Parameter(name="--name", help="with --here: name of the machine written")]
_Device = Annotated[str, Parameter(help="with --here: cpu, gpu, cuda or mps", show_default=False)]
_Threads = Annotated[int, Parameter(help="with --here: threads (default: cores that are free)", show_default=False)]
_Samples = Annotated[str, Parameter(help="CSV of a few measurements: op, latency_s, dtype, sizes", show_default=False)]
_Like = Annotated[str, Parameter(help="with --samples: machine to borrow figures from", show_default=False)]
_Files = Annotated[
    str, Parameter(help="with --engine: logs of benchmarks (vllm bench serve, aiperf, guidellm, records)", negative="")
]
_Model = Annotated[str, Parameter(name="--model", show_default=False, help="with --engine: model of the benchmarks")]
_Rate = Annotated[
    str, Parameter(name="--rate", show_default=False, help="with --engine: the load, when no log says it")
]
_Clients = Annotated[
    int | None,
    Parameter(name="--concurrency", show_default=False, help="with --engine: the load, when no log says it"),
]
_Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="print JSON")]
_Quiet = Annotated[bool, Parameter(name="--quiet", negative="", show_default=False, help="no progress")]


def calibrate(
    machine: _Name = "",
    /,
    *files: _Files,
    from_: _From = "",
    op: _Op = "",
    out: _Out = "",
    here: _Here = False,
    check: _Check = False,
    quick: _Quick = False,
    name: _As = "here",
    device: _Device = "",
    threads: _Threads = 0,
    samples: _Samples = "",
    like: _Like = "",
    model: _Model = "",
    deployment: Deployment | None = None,
    serving: Serving = Serving(),  # noqa: B008 - frozen
    rate: _Rate = "",
    concurrency: _Clients = None,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Fit parameters from tables (--from), this computer (--here), a few rows (--samples) or benchmark logs (--engine).

    `steelyard calibrate --engine vllm FILE... --model MODEL --on MACHINE` replays the load of each log and fits what a
    step and a request cost beside the kernels.
    """
    if serving.engine or deployment is not None or model:
        others = (("--from", from_), ("--here", here), ("--samples", samples), ("--op", op), ("--like", like))
        other = next((flag for flag, given in others if given), "")
        if other:
            raise InputError(f"{other} does not go with --engine", field="calibrate")
        logs = tuple(f for f in (machine, *files) if f)
        document, text = _engine(logs, model, deployment, serving, rate, concurrency, out, quiet)
        print(encode.dumps(document, indent=2, allow_nan=False) if json else text)
        return
    if files:
        raise InputError(f"{files[0]!r} is too much; logs go with --engine", field="calibrate")
    asked = [flag for flag, given in (("--from", from_), ("--here", here), ("--samples", samples)) if given]
    if len(asked) != 1:
        given = f"got {' and '.join(asked)}" if asked else "got none"
        raise InputError(f"expected one of --from, --here and --samples, {given}", field="calibrate")
    if not here:
        stray = [
            f
            for f, given in (("--check", check), ("--quick", quick), ("--device", device), ("--threads", threads))
            if given
        ]
        if stray:
            raise InputError(f"{stray[0]} goes with --here", field="calibrate")
        if not machine:
            raise InputError("MACHINE is required with --from and --samples", field="calibrate")
    if like and not samples:
        raise InputError("--like goes with --samples", field="calibrate")
    if op and not from_:
        raise InputError("--op goes with --from", field="calibrate")
    if out and Path(out).is_file():
        raise InputError(f"expected a folder, got the file {out!r}", field="out")
    if here:
        if machine:
            raise InputError(
                f"--here measures this computer, not {machine!r}; use --name to call it so", field="machine"
            )
        document, text = _check(name, threads, quiet) if check else _here(name, quick, device, threads, out, quiet)
    elif samples:
        document, text = _samples(machine, samples, like, out)
    else:
        document, text = _from(machine, from_, op, out, quiet)
    print(encode.dumps(document, indent=2, allow_nan=False) if json else text)


def _errors(e: Any) -> dict[str, float]:
    return {k: float(v) for k, v in e.table().items()}


def _from(machine: str, data: str, op: str, out: str, quiet: bool) -> tuple[dict[str, Any], str]:
    from steelyard.calibrate import fit
    from steelyard.machine.catalogue import find_machine

    ops = fit.wanted_ops(op)
    target = find_machine(machine)
    with _progress(quiet) as told:
        sections = fit.calibrate_from(target, data, ops=ops, progress=told)
    paths = fit.write_calibration(target.name, sections, out)
    rows = [
        {
            "op": s.op,
            "section": s.section,
            "title": s.title,
            "fitted_rows": s.rows,
            "held_out": _errors(s.held_out),
            "borrowed": _errors(s.before),
            "prior": s.prior,
            "source": s.source,
            "split": s.split,
        }
        for s in sections
    ]
    document = {
        "schema": "steelyard.calibrate/1",
        "machine": target.name,
        "files": [str(p) for p in paths],
        "sections": rows,
    }
    lines = [
        f"{target.title}: rows left out of the fit, absolute errors in %",
        _table(
            ("section", "fitted", "scored", "mean", "median", "p90", "borrowed mean", "log std"),
            [
                (
                    s.title,
                    s.rows,
                    s.held_out.rows,
                    s.held_out.mean_ape,
                    s.held_out.median_ape,
                    s.held_out.p90_ape,
                    s.before.mean_ape,
                    f"{s.held_out.log_std:.3f}",
                )
                for s in sections
            ],
        ),
        *(f"wrote {p}" for p in paths),
    ]
    return document, "\n".join(lines)


def _here(name: str, quick: bool, device: str, threads: int, out: str, quiet: bool) -> tuple[dict[str, Any], str]:
    from steelyard.calibrate.few_shot import need_scipy
    from steelyard.calibrate.here import write_here
    from steelyard.calibrate.measure.session import measure
    from steelyard.calibrate.toml_files import check_folder, check_name
    from steelyard.folders import user_folder

    check_name(name, "name")
    check_folder(Path(out) if out else user_folder())
    if threads < 0:
        raise InputError(f"expected at least 1, got {threads}", field="threads")
    need_scipy()
    with _progress(quiet) as told:
        session = measure(quick=quick, threads=threads, device=device, progress=told)
    found, paths = write_here(session, name, out)
    host = session.host
    document = {
        "schema": "steelyard.calibrate_here/1",
        "machine": found.machine.name,
        "title": found.machine.title,
        "backend": session.backend,
        "device": session.device,
        "threads": session.threads,
        "cores": host.cores,
        "load": host.load,
        "seconds": session.seconds,
        "noise": session.noise,
        "drift": session.drift,
        "peak_ops_per_s": {f: v for c in found.machine.compute for f, v in c.peak.items()},
        "memory": [
            {"name": m.name, "capacity_bytes": m.capacity_bytes, "bandwidth_bytes_per_s": m.bandwidth_bytes_per_s}
            for m in found.machine.memory
        ],
        "files": [str(p) for p in paths],
        "sections": [
            {
                "op": s.op,
                "variant": s.variant,
                "format": s.number_format,
                "rows": s.rows,
                "held_out": _errors(s.held_out),
            }
            for s in found.sections
        ],
    }
    prefix = f"STEELYARD_CATALOGUE={out} " if out else ""
    peaks = ", ".join(f"{f} {v / 1e9:,.0f} GFLOP/s" for c in found.machine.compute for f, v in c.peak.items())
    levels = ", ".join(f"{m.name} {m.bandwidth_bytes_per_s / 1e9:,.0f} GB/s" for m in found.machine.memory)
    lines = [
        f"{found.machine.title}: measured with {session.backend} in {session.seconds:.0f} s",
        f"  best reached: {peaks}; {levels}",
        f"  noise {100 * session.noise:.0f} % (median round over kept round), drift {100 * session.drift:+.0f} %",
        *_warnings(session),
        "shapes left out of the fit, absolute errors in %:",
        _table(
            ("kind", "format", "rows", "mean", "median", "p90"),
            [
                (
                    s.variant,
                    s.number_format or "-",
                    s.rows,
                    s.held_out.mean_ape,
                    s.held_out.median_ape,
                    s.held_out.p90_ape,
                )
                for s in found.sections
            ],
        ),
        *(f"wrote {p}" for p in paths),
        f"use it: {prefix}steelyard estimate MODEL --on {found.machine.name} --engine torch",
    ]
    return document, "\n".join(lines)


def _warnings(session: Any) -> Iterator[str]:
    if session.threads < session.host.cores:
        busy = f"  other programs keep this computer busy (load {session.host.load:.1f})"
        yield f"{busy}: {session.threads} of {session.host.cores} cores measured"
    if abs(session.drift) > 0.1 or session.noise > 0.2:
        yield "  the machine was not steady meanwhile; measure again when it is quiet"


def _check(name: str, threads: int, quiet: bool) -> tuple[dict[str, Any], str]:
    import numpy as np

    from steelyard.calibrate.here import measured_with
    from steelyard.calibrate.measure.check import check_blocks
    from steelyard.machine.catalogue import find_machine

    try:
        target = find_machine(name)
    except UnknownName:
        again = "" if name == "here" else f" --name {name}"
        message = f"{name!r} was never measured; first run `steelyard calibrate --here{again}`"
        raise InputError(message, field="check") from None
    used, formats = measured_with(target)
    with _progress(quiet) as told:
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
        "rows": [
            {
                "name": c.name,
                "format": c.number_format,
                "predicted_s": c.predicted_s,
                "measured_s": c.measured_s,
                "low_s": c.low_s,
                "high_s": c.high_s,
                "error_frac": c.error_frac,
                "noise": c.noise,
            }
            for c in found
        ],
    }
    lines = [
        _table(
            ("block", "format", "predicted ms", "measured ms", "error %", "noise %"),
            [
                (
                    c.name,
                    c.number_format,
                    f"{1e3 * c.predicted_s:.3g}",
                    f"{1e3 * c.measured_s:.3g}",
                    f"{100 * c.error_frac:+.1f}",
                    100 * c.noise,
                )
                for c in found
            ],
        ),
        f"{len(found)} blocks of sizes not calibrated with: median error {np.median(errors):.1f} %, "
        f"mean {np.mean(errors):.1f} %; {100 * inside:.0f} % inside the 80 % interval",
    ]
    return document, "\n".join(lines)


def _samples(machine: str, path: str, like: str, out: str) -> tuple[dict[str, Any], str]:
    from steelyard.calibrate import samples as few
    from steelyard.calibrate.toml_files import write_files
    from steelyard.errors import UnknownName
    from steelyard.folders import user_folder
    from steelyard.machine.catalogue import find_machine

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
            raise InputError(
                f"{error.message}; --like MACHINE names one to take the figures of", field="machine"
            ) from None
        given, data = few.named_like(machine, taken_after, like)
        target, adapted = few.adapt_black_box(given, rows, like=borrow)
        texts[f"machines/{machine}.toml"] = few.machine_file(data, target, borrow)
    texts |= {f"calibration/{k}": v for k, v in few.files_of(target.name, adapted, Path(path).name).items()}
    paths = write_files(Path(out) if out else user_folder(), texts)
    document = {
        "schema": "steelyard.calibrate_samples/1",
        "machine": target.name,
        "files": [str(p) for p in paths],
        "sections": [
            {
                "op": a.op,
                "section": a.section,
                "rows": a.rows,
                "before": _errors(a.before),
                "after": _errors(a.after),
                "prior": a.prior,
                "kept": a.kept,
                "moved": dict(a.moved),
            }
            for a in adapted
        ],
    }
    lines = [
        f"{target.title}: mean absolute error in %; after: each row predicted by a fit that did not see it",
        _table(
            ("section", "rows", "before", "after", "borrowed from", "parameters (fitted / borrowed)"),
            [
                (
                    a.title,
                    a.rows,
                    a.before.mean_ape,
                    a.after.mean_ape if a.rows >= 3 else "-",
                    a.prior,
                    " ".join(f"{k} {v:.2f}" for k, v in a.moved.items() if abs(v - 1) > 0.02)
                    if a.kept
                    else "kept: no help",
                )
                for a in adapted
            ],
        ),
        *(f"wrote {p}" for p in paths),
    ]
    return document, "\n".join(lines)


def _engine(
    logs: tuple[str, ...],
    model: str,
    placed: Deployment | None,
    serving: Serving,
    rate: str,
    concurrency: int | None,
    out: str,
    quiet: bool,
) -> tuple[dict[str, Any], str]:
    missing = [
        n
        for n, given in (
            ("--engine", serving.engine),
            ("--model", model),
            ("--on", placed is not None),
            ("the logs' files", logs),
        )
        if not given
    ]
    if missing or placed is None:
        raise InputError(f"fitting an engine needs {' and '.join(missing)}", field="engine")
    from steelyard.calibrate.engine_logs import calibrate_engine, deployment, write_engine
    from steelyard.calibrate.toml_files import check_folder
    from steelyard.folders import user_folder

    check_folder(Path(out) if out else user_folder())
    at = deployment(
        model,
        placed.on,
        serving.engine,
        weights=placed.weights,
        activations=placed.activations,
        kv=placed.kv,
        communication=placed.communication,
        tp=placed.tp,
        pp=placed.pp,
        dp=placed.dp,
        ep=placed.ep,
        skew=placed.skew,
    )
    with _progress(quiet) as told:
        found = calibrate_engine(at, logs, flags=serving.flags(), rate=rate, concurrency=concurrency, progress=told)
    path = write_engine(found, ", ".join(Path(x).name for x in logs), out)
    rows = [
        {
            "log": s.name,
            "load": s.load,
            "requests": s.requests,
            "left_out": s.left_out,
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
    left_out = any(s.left_out for s in found.logs)
    lines = [
        f"{found.engine.title}: mean times, simulated over measured, in %",
        _table(
            ("log", "requests", "", "TPOT before", "after", "TTFT before", "after"),
            [
                (
                    s.name,
                    s.requests,
                    "left out" if s.left_out else "fitted",
                    *(_percent(x) for x in (s.tpot_before, s.tpot_after, s.ttft_before, s.ttft_after)),
                )
                for s in found.logs
            ],
        ),
        _table(
            ("figure", "before", "fitted to all logs"),
            [(k, _seconds(found.before[k]), _seconds(v)) for k, v in found.after.items()],
        ),
        *([] if left_out else ["  no log was left out: give three or more to see how far the figures carry"]),
        *(f"  {n} ended at zero: the kernels alone are predicted slower than measured" for n in found.bounds),
        f"wrote {path}",
    ]
    return document, "\n".join(lines)


def _number(value: float) -> float | None:
    return value if value == value else None


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:+.1f}"


def _seconds(value: float) -> str:
    from steelyard.units import format_quantity

    return format_quantity(value, "s")


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    cells = [header, *(tuple(f"{x:.1f}" if isinstance(x, float) else str(x) for x in row) for row in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    )
    with bar:
        known: dict[str, Any] = {}
        one = bar.add_task("", total=None)

        def told(what: str, done: int, total: int) -> None:
            known["last"] = what
            bar.update(one, description=what, completed=done, total=max(total, 1))

        yield told
