"""A search: a solver asked and told until a budget, a rule or the space ends it; kept on disk, resumed without loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.documents import open_lines
from steelyard.errors import InputError, show
from steelyard.exploration.solver import SOLVERS, Codes, Floats
from steelyard.pareto import front_of
from steelyard.provenance import content_hash
from steelyard.writing import check_target, not_written

__all__ = ["BATCH", "Explored", "Figures", "explore", "front_kept", "hypervolume"]

#: Points asked for at once, and of a stored search read at most, with its bytes.
BATCH, MOST, MOST_BYTES = 64, 5_000_000, 2**34
#: Batches without a new point on the front after which a search ends by itself.
PATIENCE = 40
SCHEMA = "steelyard.search_log/1"


@dataclass(frozen=True, eq=False)
class Figures:
    """What points cost: ``values`` ``[n, m]``, small is good, infinite: no answer; ``broken`` ``[n]``, 0: fine."""

    values: Floats
    broken: Floats


Price = Callable[[Codes], Figures]
Told = tuple[Codes, Floats, Floats]
"""Points, their figures, and by how much they break limits."""


@dataclass(frozen=True, eq=False)
class Explored:
    """Every point that was tried with all effort, in that order."""

    codes: Codes
    values: Floats
    broken: Floats
    history: tuple[tuple[int, float], ...]
    """Points tried, and the hypervolume of the front by then (relative to the last)."""
    ended: str
    """Why: ``budget``, ``every point``, ``no progress``."""
    asked: int
    """Points that were asked for, those scored with a part of the effort among them."""

    @property
    def front(self) -> NDArray[np.intp]:
        """Places of the points on the front that keep all limits."""
        return front_kept(self.values, self.broken)


def front_kept(values: Floats, broken: Floats) -> NDArray[np.intp]:
    """Places of the points that keep all limits and that no other such point beats in every figure."""
    kept = np.flatnonzero((broken <= 0) & np.isfinite(values).all(axis=1))
    return kept[front_of(values[kept])] if len(kept) else kept


def hypervolume(values: Floats, reference: Floats) -> float:
    """Volume between points and a reference that they beat, by slices of the last figure.

    Args:
        values: ``[n, m]``, small is good.
        reference: ``[m]``; points that do not beat it in every figure add nothing.
    """
    inside = values[(values < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    front = inside[front_of(inside)]
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    if front.shape[1] == 2:
        ends = np.minimum.accumulate(np.concatenate([[reference[1]], front[:, 1]]))  # by the first figure
        return float(np.sum((reference[0] - front[:, 0]) * (ends[:-1] - ends[1:])))
    order = np.argsort(front[:, -1], kind="stable")
    edges = np.append(front[order, -1], reference[-1])
    return float(
        sum(
            (edges[i + 1] - edges[i]) * hypervolume(front[order[: i + 1], :-1], reference[:-1])
            for i in range(len(order))
            if edges[i + 1] > edges[i]
        )
    )


def explore(
    price: Price,
    sizes: Sequence[int],
    objectives: int,
    *,
    solver: str = "evolution",
    budget: int = 2000,
    seed: int = 0,
    batch: int = BATCH,
    patience: int = PATIENCE,
    log: str = "",
    question: Any = None,
    progress: Callable[[int, int], object] | None = None,
    partly: Callable[[Codes, float], Figures] | None = None,
) -> Explored:
    """Search.

    Args:
        price: what points cost.
        sizes: how many values each place has.
        objectives: how many figures.
        solver: its name.
        budget: points at most.
        seed: of the solver.
        batch: points asked for at once.
        patience: batches without progress after which it ends.
        log: a file that keeps every batch as it ends; one that is there is gone on from.
        question: what the log must have been of, as JSON.
        progress: is called with points tried and the budget.
        partly: what points cost with a share of the effort, for solvers that ask so (``effort``); None: with all of it.

    Raises:
        InputError: no such solver; the log is of another search or no log.
    """
    made = SOLVERS.get(solver)(sizes, objectives, seed)
    head = {
        "schema": SCHEMA,
        "question": content_hash(question),
        "solver": solver,
        "seed": seed,
        "batch": batch,
        "places": len(sizes),
        "objectives": objectives,
    }
    logged, end = _log_of(log, head) if log else ([], 0)
    told = iter(logged)
    kept: list[Told] = []
    seen: set[bytes] = set()
    total, tried, still, ended = float(np.prod(np.array(sizes, dtype=float))), 0, 0, "budget"
    best = np.zeros((0, objectives))
    writer = None
    try:
        while tried < budget:
            codes = np.ascontiguousarray(made.ask(min(batch, budget - tried)), dtype=np.int64)
            if not len(codes):
                ended = "every point"
                break
            found = next(told, None)
            if found is not None and not np.array_equal(found[0], codes):
                raise InputError(
                    f"{Path(log).name} was written by another version of the search; name a new file", field="log"
                )
            effort = 1.0 if partly is None else float(getattr(made, "effort", 1.0))
            if found is None:
                figures = price(codes) if partly is None or effort == 1 else partly(codes, effort)
                found = (codes, figures.values, figures.broken)
                if log:
                    writer = writer or _writer(log, head, end)
                    _append(writer, _line(found), log)
            made.tell(*found)
            tried += len(codes)
            if progress is not None:
                progress(tried, budget)
            if effort < 1:
                continue
            kept.append(found)
            seen.update(row.tobytes() for row in codes)
            before = len(best)
            fine = found[1][(found[2] <= 0) & np.isfinite(found[1]).all(axis=1)]
            both = np.concatenate([best, fine])
            front = front_of(both) if len(both) else np.zeros(0, dtype=np.intp)
            still = 0 if (front >= before).any() else still + 1
            best = both[front]
            if len(seen) >= total:
                ended = "every point"
                break
            if still >= patience:
                ended = "no progress"
                break
    finally:
        if writer is not None:
            writer.close()
    kept = kept or [(np.zeros((0, len(sizes)), dtype=np.int64), np.zeros((0, objectives)), np.zeros(0))]
    codes, values, broken = (np.concatenate([part[i] for part in kept]) for i in range(3))
    return Explored(codes.astype(np.int64), values, broken, tuple(_history(kept)), ended, tried)


def _history(kept: Sequence[Told]) -> Iterator[tuple[int, float]]:
    """Points tried and hypervolume, at about forty places."""
    fine = [v[(b <= 0) & np.isfinite(v).all(axis=1)] for _, v, b in kept]
    every = np.concatenate(fine) if fine else np.zeros((0, 1))
    if not len(every):
        return
    low, high = every.min(axis=0), every.max(axis=0)
    reference = high + 0.1 * np.maximum(high - low, 1e-12 * np.abs(high) + 1e-300)
    front = np.zeros((0, every.shape[1]))
    step, volumes, tried = max(1, len(kept) // 40), [], 0
    for i, ((codes, _, _), values) in enumerate(zip(kept, fine, strict=True)):
        tried += len(codes)
        both = np.concatenate([front, values])
        front = both[front_of(both)] if len(both) else both
        if i % step == 0 or i == len(kept) - 1:
            volumes.append((tried, hypervolume(front, reference)))
    last = volumes[-1][1] or 1.0
    yield from ((n, volume / last) for n, volume in volumes)


def _line(found: Told) -> str:
    values = [[None if not np.isfinite(v) else v for v in row] for row in found[1].tolist()]
    return json.dumps([found[0].tolist(), values, found[2].tolist()]) + "\n"


def _append(writer: Any, line: str, log: str) -> None:
    """Write a batch. Raises :class:`WriteError`, :class:`InputError`: the disk does not take it."""
    try:
        writer.write(line)
        writer.flush()
    except OSError as error:
        raise not_written(log, error, "log") from None


def _writer(log: str, head: dict[str, Any], end: int) -> Any:
    """The log opened behind its ``end`` whole bytes; what a killed search half wrote is cut off.

    Raises:
        InputError: it cannot be written, or another search writes it.
    """
    check_target(log, "log")
    try:
        file = Path(log).open("r+" if end else "a+", encoding="utf-8")  # noqa: SIM115 - closed by the search
    except OSError as error:
        raise not_written(log, error, "log") from None
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"another search writes {show(Path(log).name)}; name another file", field="log") from None
    except (ImportError, OSError):  # a system or a file system without locks
        pass
    file.truncate(end)
    file.seek(end)
    if not end:
        file.write(json.dumps(head) + "\n")
    return file


def _log_of(log: str, head: dict[str, Any]) -> tuple[list[Told], int]:
    """The batches of a log, and the bytes of them with the head. Raises :class:`InputError`: of another search."""
    path, found, end = Path(log), [], 0
    if not path.exists():
        return [], 0
    with open_lines(log, MOST, MOST_BYTES, field="log", errors="replace") as lines:
        for number, line in enumerate(lines):
            try:
                data = json.loads(line)
            except ValueError:
                data = None
            if number == 0:
                if data is None and json.dumps(head).startswith(line):
                    break  # killed before the head was whole
                _check_head(path.name, data, head)
            elif (told := _told_of(data, head)) is None:
                break
            else:
                found.append(told)
            if not line.endswith("\n"):  # the last line of a search that was killed
                found = found[: max(0, number - 1)]
                break
            end += len(line.encode())
    return found, end


def _told_of(data: Any, head: dict[str, Any]) -> Told | None:
    """A batch of a log; None: it is none."""
    try:
        codes, values, broken = data
        told = (
            np.array(codes, dtype=np.int64).reshape(len(codes), head["places"]),
            np.array([[np.inf if v is None else v for v in row] for row in values], dtype=np.float64),
            np.array(broken, dtype=np.float64),
        )
    except (ValueError, TypeError, OverflowError):
        return None
    whole = told[1].shape == (len(told[0]), head["objectives"]) and told[2].shape == (len(told[0]),)
    return told if whole else None


def _check_head(name: str, data: Any, head: dict[str, Any]) -> None:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{show(name)} is not the log of a search", field="log")
    wrong = [key for key in head if data.get(key) != head[key]]
    if wrong:
        raise InputError(f"{show(name)} is the log of another search: its {wrong[0]} differs", field="log")
