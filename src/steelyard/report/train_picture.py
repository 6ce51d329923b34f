"""Pictures of training: the passes of a pipeline as SVG and as a Chrome trace, when runs end, what checkpoints cost.

In a trace every stage is two tracks, a stream each: its passes (``F12`` of micro-batch 12 forward, ``B12`` backward for
inputs, ``W12`` for weights) and what it sends to the next stage; behind the last pass what of the exchange of gradients
is not hidden, and the update. A counter has the micro-batches it holds. Times in the file are us.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steelyard.errors import InputError
from steelyard.training.schedule import Played, play, schedule_table
from steelyard.training.schedule_tables import BOTH, FORWARD, INPUT, NONE, WEIGHT
from steelyard.writing import whole_file, write_text

if TYPE_CHECKING:
    from steelyard.training.estimate import TrainEstimate

__all__ = ["PASSES", "SHOWN", "pictures", "played_step", "trace_lines", "write_pictures", "write_trace"]

#: Slots of a picture and of a trace at most: beyond, fewer micro-batches show the same pattern.
SHOWN, TRACED = 6_000, 200_000
#: Colour, letter and words of a pass.
PASSES: Final = {
    FORWARD: (0, "F", "forward"),
    INPUT: (1, "B", "backward, inputs"),
    WEIGHT: (2, "W", "backward, weights"),
    BOTH: (3, "B", "backward"),
}


def played_step(found: TrainEstimate, most: int = TRACED) -> tuple[Played, int]:
    """The pipeline of a step played, and how many micro-batches: fewer where there would be more than ``most`` slots.

    Every stage takes as long as the slowest.

    Raises:
        InputError: a network that is copied to every device has no pipeline, or devices are of several kinds.
    """
    cost, plan = found.cost, found.scenario.plan
    if cost is None:
        several = "stages of several kinds of devices are not drawn"
        message = several if found.kinds else "a network is copied to every device: there is no pipeline"
        raise InputError(message, field="perfetto")
    forward, backward, weight, send = (
        float(np.ravel(x)[0]) for x in (cost.forward_s, cost.backward_s, cost.weight_s, cost.send_s)
    )
    slots = plan.pp * plan.vp * 3
    count = plan.micro_batches
    if count * slots > most:
        count = max(2 * plan.pp, most // slots // (2 * plan.pp) * 2 * plan.pp)
    table = schedule_table(plan.schedule, plan.pp, count, plan.vp)
    return play(table, forward, max(backward - weight, 0.0), weight, send), count


def write_trace(found: TrainEstimate, path: str | Path) -> str:
    """Write the step as a Chrome trace; returns what was left out, in words, empty when nothing was.

    Raises:
        InputError: there is no pipeline, or the file cannot be written.
    """
    step = played_step(found)
    with whole_file(path, "perfetto") as file, file.open("w", encoding="utf-8") as stream:
        stream.writelines(trace_lines(found, step))
    left = _left_out(found, step[1])
    return f"holds {left}" if left else ""


def trace_lines(found: TrainEstimate, step: tuple[Played, int] | None = None) -> Iterator[str]:
    """The step as the parts of a text, an event a line; ``step``: as :func:`played_step` has it.

    Raises:
        InputError: there is no pipeline.
    """
    played, count = step or played_step(found)
    send_s = float(np.ravel(found.cost.send_s)[0]) if found.cost is not None else 0.0
    after = (found.breakdown_s["dp"], found.breakdown_s["optimizer"])
    yield '{"displayTimeUnit":"ms","traceEvents":['
    for i, event in enumerate(_events(played, send_s, after)):
        yield (",\n" if i else "\n") + json.dumps(event, separators=(",", ":"))
    other = {"tool": "steelyard train", "holds": _left_out(found, count) or "every micro-batch of a step"}
    yield f'\n],"otherData":{json.dumps(other)}}}\n'


def _left_out(found: TrainEstimate, count: int) -> str:
    total = found.scenario.plan.micro_batches
    return "" if count == total else f"{count} of {total} micro-batches"


def _events(played: Played, send_s: float, after: tuple[float, float]) -> Iterator[dict[str, Any]]:
    table = played.table
    yield {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": f"pipeline, {table.name}"}}
    at, ways = table.position, table.way
    for s in range(table.stages):
        track, stream = {"pid": 1, "tid": s + 1}, {"pid": 1, "tid": table.stages + s + 1}
        for order, (one, name) in enumerate(((track, f"stage {s}"), (stream, f"stage {s}, traffic"))):
            yield {"ph": "M", **one, "name": "thread_name", "args": {"name": name}}
            yield {"ph": "M", **one, "name": "thread_sort_index", "args": {"sort_index": 2 * s + order}}
        held = 0
        used = np.flatnonzero(table.kind[s] != NONE)
        for k in used.tolist():
            kind, chunk = int(table.kind[s, k]), int(table.chunk[s, k])
            begin, end = float(played.begin_s[s, k]), float(played.end_s[s, k])
            _, letter, _ = PASSES[kind]
            held += (kind == FORWARD) - (kind in (INPUT, BOTH))
            number, position = int(table.micro_batch[s, k]), int(at[s, chunk])
            args = {"micro_batch": number, "chunk": chunk, "position": position}
            yield _slice(track, "pass", f"{letter}{number}", begin, end - begin) | {"args": args}
            counter = {"ph": "C", "pid": 1, "tid": 0, "name": f"held by stage {s}", "ts": round(begin * 1e6, 3)}
            yield counter | {"args": {"passes": held}}
            towards = position + (1 if kind == FORWARD else -1)
            if kind == WEIGHT or send_s <= 0.0 or not 0 <= towards < table.positions:
                continue
            to = int(table.place[ways[s, chunk], towards]) // table.chunks
            if to != s:
                yield _slice(stream, "send", f"{letter}{number} to stage {to}", end, send_s)
        last, (exchange_s, update_s) = float(np.nanmax(played.end_s[s])), after
        if exchange_s > 0.0:
            yield _slice(stream, "exchange", "gradients and parameters, not hidden", last, exchange_s)
        if update_s > 0.0:
            yield _slice(track, "update", "update", last + exchange_s, update_s)


def _slice(track: dict[str, int], category: str, name: str, begin_s: float, long_s: float) -> dict[str, Any]:
    times = {"ts": round(begin_s * 1e6, 3), "dur": round(long_s * 1e6, 3)}
    return {"ph": "X", **track, "cat": category, "name": name, **times}


def pictures(found: TrainEstimate) -> str:
    """The figures of a training in one SVG file."""
    from steelyard.report.figures import figures_of
    from steelyard.report.figures.svg import picture

    return picture(figures_of(found), width=1000)


def write_pictures(found: TrainEstimate, path: str | Path) -> None:
    """Write :func:`pictures`. Raises :class:`InputError`: the file cannot be written."""
    write_text(path, pictures(found), "svg")
