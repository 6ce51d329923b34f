"""Anchors: a measured run of a user's own server, and what it says of every other question.

The error of a prediction, ``e = log(measured / predicted)``, has a part that all runs of a deployment share (how the
engine is built and run, the machine, the model) and a scatter ``s`` of each shape and load. ``n`` runs are believed as
far as their mean error exceeds the scatter, and less where a question has only a part in common with them (``r``):

    w = r ē² / (ē² + s² / n),   shift = w ē,   spread = sqrt(1 - r c² / (c + (1 - c) / n)) of that without

with the correlation ``c`` of two runs of a deployment. All come from published runs, left out one by one
(``docs/methods/anchor.md``). Steps and first tokens are moved apart; of a first token what its steps explain counts
with these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from steelyard.deployment.engine import Engine, Moved
from steelyard.documents import build, is_file, read_document
from steelyard.errors import InputError, UnknownName, normalise
from steelyard.folders import catalogue_files
from steelyard.machine.component import Machine
from steelyard.units import Quantity

__all__ = ["PHASES", "Anchor", "Run", "anchored", "anchors", "find_anchor", "told"]


@dataclass(frozen=True, slots=True)
class _Phase:
    """What published runs say of the errors of a phase."""

    scatter: float
    """Standard deviation of the error between runs of one deployment."""
    correlation: float
    """Of the errors of two runs of a deployment."""
    most: float
    """No run moves a time by a larger factor: beyond, a queue or the log is another than the question says."""


#: How the name of an anchor's file ends.
DOCUMENTS = (".toml", ".json", ".yaml", ".yml")
PHASES: Mapping[str, _Phase] = MappingProxyType({"step": _Phase(0.12, 0.6, 4.0), "first": _Phase(0.45, 0.4, 2.0)})
#: How much of a run's error a question shares that differs in the model, the machine, both; in the engine: nothing.
OTHER_MODEL, OTHER_MACHINE, BOTH = 0.2, 0.15, 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what ran, and its times, measured and as they were predicted."""

    __pydantic_config__ = {"extra": "forbid"}

    engine: str
    machine: str
    model: str
    load: Annotated[str, "how requests were sent, in words"] = ""
    measured_ttft_s: Annotated[float, Quantity("s", "mean time to first token; 0 = not known", ge=0)] = 0.0
    measured_tpot_s: Annotated[float, Quantity("s", "mean time per output token; 0 = not known", ge=0)] = 0.0
    predicted_ttft_s: Annotated[float, Quantity("s", "with steps as long as measured; 0 = not known", ge=0)] = 0.0
    predicted_tpot_s: Annotated[float, Quantity("s", "time per output token as predicted; 0 = not known", ge=0)] = 0.0

    def error(self, phase: str) -> float | None:
        """``log(measured / predicted)`` of ``step`` or ``first``; None where one is not known."""
        name = {"step": "tpot_s", "first": "ttft_s"}[phase]
        measured, predicted = getattr(self, f"measured_{name}"), getattr(self, f"predicted_{name}")
        return math.log(measured / predicted) if measured > 0 and predicted > 0 else None

    def shared(self, engine: str, machine: str, model: str) -> float:
        """The part of its error that a question shares."""
        if self.engine != engine:
            return 0.0
        alike = self.machine == machine, self.model == model
        return {(True, True): 1.0, (True, False): OTHER_MODEL, (False, True): OTHER_MACHINE, (False, False): BOTH}[
            alike
        ]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Measured runs of one deployment."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    run: tuple[Run, ...]
    title: str = ""
    version: Annotated[str, "of Steelyard, whose predictions they stand beside"] = ""

    def moved(self, engine: Engine, machine: str, model: str) -> Moved:
        """How far it moves the times of a question."""
        names = (engine.generation_of or engine.name, machine, model)
        shared = max(r.shared(*names) for r in self.run)
        near = [r for r in self.run if r.shared(*names) == shared]
        factor, spread = {}, {}
        for phase, known in PHASES.items():
            told = [e for r in near if (e := r.error(phase)) is not None]
            n, mean = len(told), sum(told) / max(len(told), 1)
            believed = shared * mean**2 / (mean**2 + known.scatter**2 / n) if mean else 0.0
            shift = min(max(believed * mean, -math.log(known.most)), math.log(known.most))
            c = known.correlation
            factor[phase] = math.exp(shift)
            spread[phase] = math.sqrt(1.0 - shared * c**2 / (c + (1.0 - c) / n)) if n else 1.0
        return Moved(factor["step"], factor["first"], spread["step"], spread["first"])


def anchored(engine: Engine, anchor: Anchor | None, machine: Machine, model: str) -> Engine:
    """The engine with its times as an anchor moves them: kernels and host alike, which are measured as one."""
    if anchor is None:
        return engine
    moved = anchor.moved(engine, machine.name, model)
    host = ("step_s", "step_s_per_sequence", "layer_s", "launch_s")
    return replace(engine, moved=moved, **{name: getattr(engine, name) * moved.step for name in host})


def told(anchor: Anchor, engine: Engine) -> str:
    """What an anchor did to an engine, in words."""
    m = engine.moved
    return (
        f"anchor {anchor.name}: steps x{m.step:.3g} (their spread x{m.step_spread:.2g}), "
        f"first tokens x{m.first:.3g} besides (x{m.first_spread:.2g})"
    )


@cache
def anchors() -> Mapping[str, Path]:
    """The file of every anchor of the catalogues by name."""
    found: dict[str, Path] = {}
    for path in catalogue_files("anchors"):
        found.setdefault(path.stem, path)
    return MappingProxyType(found)


def find_anchor(name: str) -> Anchor | None:
    """The anchor of this name or file; None for no name.

    Raises:
        UnknownName: there is none.
        InputError: the file cannot be read.
    """
    if not name.strip():
        return None
    if name.lower().endswith(DOCUMENTS) or is_file(name):
        return _read(Path(name))
    for known, path in anchors().items():
        if normalise(known) == normalise(name):
            return _read(path)
    hint = "`steelyard calibrate --anchor RUN` makes one; the path of a file works too"
    raise UnknownName("anchor", name, anchors(), hint=hint)


def _read(path: Path) -> Anchor:
    """An anchor's file; a log, which an anchor is made of, is told apart."""
    kept = path.name.lower().endswith(DOCUMENTS)
    data = {key: value for key, value in read_document(path).items() if key != "schema"} if kept else {}
    if "run" not in data and "name" not in data:
        made = "`steelyard calibrate --anchor FILE --on MACHINE` makes one of a log"
        raise InputError(f"expected an anchor's file ({made})", field=path.name)
    anchor = build(Anchor, data, path.name)
    if not anchor.run:
        raise InputError("expected at least one run", field=f"{path.name}: run")
    return anchor
