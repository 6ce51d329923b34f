"""A simulation as a Chrome trace (JSON), for ui.perfetto.dev or chrome://tracing.

Each replica is a process with its steps, and counters for running and waiting requests and cache blocks; each request
is an asynchronous slice with its phases (queued, prompt, answer). Times in the file are us.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.traffic.trace import LENGTHS
from steelyard.writing import whole_file

if TYPE_CHECKING:
    from steelyard.simulation.result import Simulation

__all__ = ["EVENTS", "MAX_REQUESTS", "MAX_STEPS", "perfetto_lines", "write_perfetto"]

#: Most steps and requests in one file (about 100 MB): the viewer stays usable.
MAX_STEPS, MAX_REQUESTS = 200_000, 20_000

#: ``(phase, name, keys of args) -> meaning`` of every event written; a ``request N`` is named ``request`` here.
EVENTS: dict[tuple[str, str, tuple[str, ...]], str] = {
    ("M", "process_name", ("name",)): "a replica, or the requests of a replica",
    ("M", "thread_name", ("name",)): "the track of a replica's steps",
    **{
        ("X", kind, ("requests", "prompt_tokens", "decode_tokens", "kv_blocks")): f"a step with {words}"
        for kind, words in (("prompt", "prompts only"), ("decode", "decodes only"), ("mixed", "both"))
    },
    ("C", "requests", ("running", "waiting")): "counter at the start of a step",
    ("C", "kv blocks", ("used",)): "counter at the start of a step",
    ("b", "request", (*LENGTHS, "preemptions", "ttft_s", "e2e_s")): "a request arrives",
    ("e", "request", ()): "its last token",
    **{
        (phase, name, ()): f"{words} {'begins' if phase == 'b' else 'ends'}"
        for name, words in (("queued", "waiting"), ("prompt", "the prompt's work"), ("answer", "the answer"))
        for phase in "be"
    },
    ("n", "request", LENGTHS): "a request that was rejected or is unfinished",
}

#: Process number of the first replica; its requests are in process ``_REQUESTS + replica``.
_ENGINE, _REQUESTS = 1, 100_001


def write_perfetto(simulation: Simulation, path: str | Path) -> str:
    """Write the trace; returns what was left out, in words, empty when nothing was.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path, "perfetto") as file, file.open("w", encoding="utf-8") as stream:
        stream.writelines(perfetto_lines(simulation))
    left = _left_out(simulation)
    return "" if not left else "holds " + " and ".join(left)


def perfetto_lines(simulation: Simulation) -> Iterator[str]:
    """The trace as the parts of a text, an event a line."""
    yield '{"displayTimeUnit":"ms","traceEvents":['
    for i, event in enumerate(_events(simulation)):
        yield (",\n" if i else "\n") + json.dumps(event, separators=(",", ":"))
    other = {"tool": "steelyard simulate", "holds": _left_out(simulation) or ["every step and request"]}
    yield f'\n],"otherData":{json.dumps(other)}}}\n'


def _left_out(simulation: Simulation) -> list[str]:
    """What the trace does not hold all of, in words."""
    left: list[str] = []
    steps, requests = len(simulation.iterations), len(simulation.records)
    if steps > MAX_STEPS:
        left.append(f"the first {MAX_STEPS:,} of {steps:,} steps")
    if requests > MAX_REQUESTS:
        left.append(f"the first {MAX_REQUESTS:,} of {requests:,} requests")
    if simulation.iterations.stride > 1:
        left.append(f"every {simulation.iterations.stride:,}th step")
    return left


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _events(simulation: Simulation) -> Iterator[dict[str, Any]]:
    yield from _names(simulation)
    yield from _steps(simulation)
    yield from _requests(simulation)


def _names(simulation: Simulation) -> Iterator[dict[str, Any]]:
    model = simulation.scenario.transformer.name
    roles = [pool.role for pool in simulation.pools for _ in range(pool.ranks)]
    for replica, role in enumerate(roles):
        does = "" if role == "both" else f", {role}"
        for pid, name in (
            (_ENGINE, f"replica {replica}{does}: {model}"),
            (_REQUESTS, f"requests of replica {replica}"),
        ):
            yield {"ph": "M", "pid": pid + replica, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": _ENGINE + replica, "tid": 1, "name": "thread_name", "args": {"name": "steps"}}


def _steps(simulation: Simulation) -> Iterator[dict[str, Any]]:
    it = simulation.iterations
    columns = [
        np.asarray(getattr(it, name))[:MAX_STEPS].tolist()
        for name in ("start_s", "duration_s", "replica", "batch", "prefill_tokens", "decode_tokens", "kv_blocks")
    ]
    running, waiting = (np.asarray(getattr(it, name))[:MAX_STEPS].tolist() for name in ("running", "waiting"))
    for i, (start, length, replica, batch, prefill, decode, blocks) in enumerate(zip(*columns, strict=True)):
        kind = "mixed" if prefill and decode else "prompt" if prefill else "decode"
        pid = _ENGINE + max(0, int(replica))
        yield {
            "ph": "X",
            "pid": pid,
            "tid": 1,
            "cat": "step",
            "name": kind,
            "ts": _us(start),
            "dur": _us(length),
            "args": {"requests": batch, "prompt_tokens": prefill, "decode_tokens": decode, "kv_blocks": blocks},
        }
        counts = {"running": running[i], "waiting": waiting[i]}
        yield {"ph": "C", "pid": pid, "name": "requests", "ts": _us(start), "args": counts}
        yield {"ph": "C", "pid": pid, "name": "kv blocks", "ts": _us(start), "args": {"used": blocks}}


def _requests(simulation: Simulation) -> Iterator[dict[str, Any]]:
    records = simulation.records
    names = ("arrived_at", *LENGTHS, "queued_s", "ttft_s", "e2e_s", "preemptions", "replica", "status")
    columns = [np.asarray(getattr(records, name))[:MAX_REQUESTS].tolist() for name in names]
    for i, (at, isl, osl, queued, ttft, e2e, preemptions, replica, status) in enumerate(zip(*columns, strict=True)):
        pid, end = _REQUESTS + max(0, int(replica)), at + e2e
        if not np.isfinite(at):  # a closed loop that was stopped before this request was sent
            continue
        lengths = dict(zip(LENGTHS, (isl, osl), strict=True))
        common = {"pid": pid, "tid": 0, "cat": "request", "id": i}
        if status != 0 or not np.isfinite(end):
            name = f"request {i}: {'rejected' if status == 1 else 'unfinished'}"
            yield {**common, "ph": "n", "name": name, "ts": _us(at), "args": lengths}
            continue
        args = {**lengths, "preemptions": preemptions, "ttft_s": ttft, "e2e_s": e2e}
        yield {**common, "ph": "b", "name": f"request {i}", "ts": _us(at), "args": args}
        edges = [at, at + queued, at + ttft, end]
        for name, first, last in zip(("queued", "prompt", "answer"), edges[:-1], edges[1:], strict=True):
            if last > first:
                yield {**common, "ph": "b", "name": name, "ts": _us(first)}
                yield {**common, "ph": "e", "name": name, "ts": _us(last)}
        yield {**common, "ph": "e", "name": f"request {i}", "ts": _us(end)}
