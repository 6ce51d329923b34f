"""Anchors: one measured run of a user's own server, and what it says of every other question.

The error of a prediction, ``e = log(measured / predicted)``, has parts that questions share: of the engine and how it
is run, of the machine, of the model; the rest is of the shape and the load alone. The errors of a run and of a question
correlate by the shares of the variance that the two have in common, ``r`` in all, and ``n`` runs of one deployment,
which correlate by ``R``, tell

    w = r / (R + (1 - R) / n),   shift = w mean(e),   spread = sqrt(1 - w r) of that without

Shares come from published runs (:data:`SHARES`), where they were left out one by one: ``docs/methods/anchor.md``. Steps
and first tokens are moved apart; of a first token what its steps explain is counted with these.
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
from steelyard.folders import catalogue_folders
from steelyard.machine.component import Machine
from steelyard.units import Quantity

__all__ = ["SHARES", "Anchor", "Run", "anchored", "anchors", "find_anchor", "told"]

#: Shares of the variance of an error that runs have in common when they have the same engine, machine, model.
SHARES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "step": MappingProxyType({"engine": 0.15, "machine": 0.15, "model": 0.35}),
        "first": MappingProxyType({"engine": 0.15, "machine": 0.10, "model": 0.20}),
    }
)
#: No run moves a time by more than this factor: beyond, the question or the log is another than it says.
MOST = 4.0


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

    def shared(self, phase: str, engine: str, machine: str, model: str) -> float:
        """Correlation of its error with that of a question."""
        share = SHARES[phase]
        same = {"engine": self.engine == engine, "machine": self.machine == machine, "model": self.model == model}
        return sum(share[name] for name, alike in same.items() if alike)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Measured runs of one deployment."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    run: tuple[Run, ...]
    title: str = ""
    version: Annotated[str, "of Steelyard, whose predictions they stand beside"] = ""

    def moved(self, engine: Engine, machine: Machine, model: str) -> Moved:
        """How far it moves the times of a question."""
        factor, spread = {}, {}
        for phase in SHARES:
            known = [(r, e) for r in self.run if (e := r.error(phase)) is not None]
            names = (engine.generation_of or engine.name, machine.name, model)
            common = sum(SHARES[phase].values())
            held = max((r.shared(phase, *names) for r, _ in known), default=0.0)
            told = [e for r, e in known if r.shared(phase, *names) == held]
            weight = held / (common + (1.0 - common) / len(told)) if told else 0.0
            shift = weight * sum(told) / len(told) if told else 0.0
            factor[phase] = math.exp(min(max(shift, -math.log(MOST)), math.log(MOST)))
            spread[phase] = math.sqrt(max(1.0 - weight * held, 0.05))
        return Moved(factor["step"], factor["first"], spread["step"], spread["first"])


def anchored(engine: Engine, anchor: Anchor | None, machine: Machine, model: str) -> Engine:
    """The engine with its times as an anchor moves them: kernels and host alike, which are measured as one."""
    if anchor is None:
        return engine
    moved = anchor.moved(engine, machine, model)
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
    for folder in catalogue_folders():
        for path in sorted((folder / "anchors").glob("*.toml")):
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
    if name.lower().endswith((".toml", ".json", ".yaml", ".yml")) or is_file(name):
        return _read(Path(name))
    for known, path in anchors().items():
        if normalise(known) == normalise(name):
            return _read(path)
    hint = "`steelyard calibrate --anchor RUN` makes one; the path of a file works too"
    raise UnknownName("anchor", name, anchors(), hint=hint)


def _read(path: Path) -> Anchor:
    data = {key: value for key, value in read_document(path).items() if key != "schema"}
    anchor = build(Anchor, data, path.name)
    if not anchor.run:
        raise InputError("expected at least one run", field=f"{path.name}: run")
    return anchor
