"""Tables over lists and ranges: scenarios that share a program are priced together, and become CSV column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.errors import InputError, Problem

if TYPE_CHECKING:
    from steelyard.estimation.estimate import Estimate, Estimates
    from steelyard.scenario.scenario import Scenario

__all__ = ["Block", "Outcome", "combinations", "csv_columns"]


@dataclass(frozen=True)
class Outcome:
    """One scenario: its inputs, and an estimate or what was wrong with it."""

    inputs: dict[str, Any]
    estimate: Estimate | None
    problems: tuple[Problem, ...] = ()


def combinations(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of values, the last axis fastest."""
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


@dataclass(frozen=True)
class Block:
    """Scenarios of one machine under one choice of formats and engine: every size, and each size at every place."""

    inputs: dict[str, Any]
    """What all of them share, as the user gave it."""
    sizes: Mapping[str, Sequence[int]]
    """Axes of batch and lengths."""
    places: Sequence[tuple[dict[str, Any], Scenario | InputError]]
    """Parallel degrees as given, and the scenario they make (its sizes are not read) or why there is none."""

    @cached_property
    def answers(self) -> list[tuple[Estimates | None, list[tuple[Problem, ...]]]]:
        """Per place the estimates of the sizes that can run, and per size what is wrong."""
        from steelyard.estimation.estimate import estimate_batch

        axes = [np.asarray(values, dtype=np.int64) for values in self.sizes.values()]
        grid = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
        found: list[tuple[Estimates | None, list[tuple[Problem, ...]]]] = []
        for _, scenario in self.places:
            if isinstance(scenario, InputError):
                found.append((None, [scenario.problems] * len(grid[0])))
            else:
                found.append(estimate_batch(scenario.sized(*grid)))
        return found

    def __len__(self) -> int:
        return prod(len(axis) for axis in self.sizes.values()) * len(self.places)

    def outcomes(self) -> Iterator[Outcome]:
        """Every scenario in its order: sizes, and places of a size."""
        done = [0] * len(self.places)
        for i, size in enumerate(combinations(self.sizes)):
            for p, (estimates, problems) in enumerate(self.answers):
                inputs = self._inputs(size, p)
                if problems[i] or estimates is None:
                    yield Outcome(inputs, None, problems[i])
                else:
                    yield Outcome(inputs, estimates.row(done[p]))
                    done[p] += 1

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """CSV columns of all scenarios in the order of :meth:`outcomes`; ``problem`` says what was wrong."""
        places = [self._columns(p, names) for p in range(len(self.places))]
        return {name: list(chain.from_iterable(zip(*(c[name] for c in places), strict=True))) for name in names}

    def _columns(self, place: int, names: Sequence[str]) -> dict[str, list[Any]]:
        from steelyard.report.estimate import columns

        estimates, problems = self.answers[place]
        bad = [i for i, p in enumerate(problems) if p]
        found: dict[str, list[Any]] = {name: [""] * len(problems) for name in names}
        if estimates is not None:
            good = [i for i, p in enumerate(problems) if not p]
            for name, value in columns(estimates).items():
                plain = _plain(value, len(estimates))
                if not bad:
                    found[name] = plain
                    continue
                for i, one in zip(good, plain, strict=True):
                    found[name][i] = one
        sizes = list(combinations(self.sizes)) if bad else []
        for i in bad:
            machine, _, count = str(self.inputs["on"]).partition(":")
            known = self._inputs(sizes[i], place) | {"machine": machine, "count": int(count or 1)}
            for name, value in {**known, "problem": "; ".join(str(p) for p in problems[i])}.items():
                if name in found:
                    found[name][i] = value
        return found

    def _inputs(self, size: Mapping[str, int], place: int) -> dict[str, Any]:
        given = {**self.inputs, **size, **self.places[place][0]}
        return {name: value for name, value in given.items() if value not in (None, "")}


def _plain(value: Any, n: int) -> list[Any]:
    """A figure of ``n`` estimates as plain values; what is not finite is None."""
    if not isinstance(value, np.ndarray):
        return [value] * n
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        return [x if np.isfinite(x) else None for x in value.tolist()]
    found: list[Any] = value.tolist()
    return found


def csv_columns(blocks: Sequence[Block]) -> dict[str, list[Any]]:
    """The columns of a table of several blocks; at least one scenario can run."""
    from steelyard.report.estimate import columns

    first = next(e for block in blocks for e, _ in block.answers if e is not None)
    names = list(columns(first))
    parts = [block.columns(names) for block in blocks]
    return {name: list(chain.from_iterable(part[name] for part in parts)) for name in names}
