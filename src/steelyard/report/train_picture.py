"""Pictures of training: the passes of a pipeline as SVG and as a Chrome trace, when runs end, what checkpoints cost.

In a trace every stage is a track of its passes (``F12`` of micro-batch 12 forward, ``B12`` backward for inputs, ``W12``
for weights), and a counter of the micro-batches it holds. Times in the file are us.
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
    yield '{"displayTimeUnit":"ms","traceEvents":['
    for i, event in enumerate(_events(played)):
        yield (",\n" if i else "\n") + json.dumps(event, separators=(",", ":"))
    other = {"tool": "steelyard train", "holds": _left_out(found, count) or "every micro-batch of a step"}
    yield f'\n],"otherData":{json.dumps(other)}}}\n'


def _left_out(found: TrainEstimate, count: int) -> str:
    total = found.scenario.plan.micro_batches
    return "" if count == total else f"{count} of {total} micro-batches"


def _events(played: Played) -> Iterator[dict[str, Any]]:
    table = played.table
    yield {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": f"pipeline, {table.name}"}}
    for s in range(table.stages):
        track = {"pid": 1, "tid": s + 1}
        yield {"ph": "M", **track, "name": "thread_name", "args": {"name": f"stage {s}"}}
        held = 0
        used = np.flatnonzero(table.kind[s] != NONE)
        for k in used.tolist():
            kind, chunk = int(table.kind[s, k]), int(table.chunk[s, k])
            begin, end = float(played.begin_s[s, k]), float(played.end_s[s, k])
            _, letter, _ = PASSES[kind]
            held += (kind == FORWARD) - (kind in (INPUT, BOTH))
            number = int(table.micro_batch[s, k])
            args = {"micro_batch": number, "chunk": chunk, "position": int(table.position[s, chunk])}
            yield {
                "ph": "X",
                **track,
                "cat": "pass",
                "name": f"{letter}{number}",
                "ts": round(begin * 1e6, 3),
                "dur": round((end - begin) * 1e6, 3),
                "args": args,
            }
            counter = {"ph": "C", "pid": 1, "tid": 0, "name": f"held by stage {s}", "ts": round(begin * 1e6, 3)}
            yield counter | {"args": {"passes": held}}


def pictures(found: TrainEstimate) -> str:
    """The figures of a training in one SVG file."""
    from steelyard.report.figures import figures_of
    from steelyard.report.figures.svg import picture

    return picture(figures_of(found), width=1000)


def write_pictures(found: TrainEstimate, path: str | Path) -> None:
    """Write :func:`pictures`. Raises :class:`InputError`: the file cannot be written."""
    write_text(path, pictures(found), "svg")
